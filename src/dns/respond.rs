//! From a message to its reply: what is ours is answered at once, what is not is asked for.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    ProtoError,
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
};
use lifecycle::Scope;
use tracing::debug;

use crate::{
    clients::{Client, Clients},
    forward::{ForwardError, Forwarder, LONGEST_SECONDS},
    observe::Objects,
    wire::{self, MAX_UDP_BYTES, PLAIN_BYTES, Question, Reply},
    zone::{Answer, End, Zone},
};

/// By what way a message came, which limits what goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

pub(crate) struct Responder {
    pub(crate) zone: Zone,
    pub(crate) objects: Objects,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) clients: Clients,
}

/// What becomes of a message.
pub(crate) enum Step {
    Reply(Vec<u8>),
    /// No question: nothing is said.
    Drop,
    /// The rest is somebody else's to know.
    Ask(Box<Pending>),
}

/// A question whose answer waits for an upstream resolver.
pub(crate) struct Pending {
    request: Request,
    /// What is known already: the aliases that led there.
    answers: Vec<Record>,
    target: Name,
}

/// A question and how it was asked.
struct Request {
    asked: Message,
    limit: u16,
    client: Client,
}

impl Responder {
    /// Answers at once what can be.
    pub(crate) fn begin(&self, bytes: &[u8], transport: Transport, peer: IpAddr) -> Step {
        let request = match Request::read(bytes, transport, self.clients.of(peer)) {
            Ok(Some(request)) => request,
            Ok(None) => return Step::Drop,
            Err(reply) => return Step::Reply(reply),
        };
        let (name, kind) = request.question();
        if let Some(code) = request.refusal() {
            return Step::Reply(request.code(code));
        }
        if kind == RecordType::HINFO && self.forwarder.came_back(name) {
            return Step::Reply(request.code(ResponseCode::Refused));
        }
        if !self.zone.is_ours(name) {
            if request.client != Client::Known {
                return Step::Reply(request.not_asked_for());
            }
            let target = name.clone();
            return Step::Ask(Box::new(Pending { request, answers: Vec::new(), target }));
        }
        // An unknown is not an absence.
        if !self.objects.synced() {
            return Step::Reply(request.code(ResponseCode::ServFail));
        }
        let answer = self.zone.answer(&self.objects, name, kind);
        match answer.end {
            End::Elsewhere(target) if self.zone.contains(&target) => {
                // Aliases that end nowhere.
                Step::Reply(request.code(ResponseCode::ServFail))
            }
            // The alias is the cluster's own word, and all that others get of it. No alias led to an address that is nobody's
            // here.
            End::Elsewhere(_) if request.client != Client::Known && !answer.answers.is_empty() => {
                Step::Reply(self.reply(&request, answer))
            }
            End::Elsewhere(_) if request.client != Client::Known => Step::Reply(request.not_asked_for()),
            End::Elsewhere(target) => {
                Step::Ask(Box::new(Pending { request, answers: answer.answers, target }))
            }
            _ => Step::Reply(self.reply(&request, answer)),
        }
    }

    fn reply(&self, request: &Request, answer: Answer) -> Vec<u8> {
        let mut message = request.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        message.answers = answer.answers;
        message.additionals = answer.additionals;
        // Whoever takes the first address shall not always take the same one. The number is the client's, and random.
        let kind = request.question().1;
        if matches!(kind, RecordType::A | RecordType::AAAA)
            && message.answers.iter().all(|record| record.record_type() == kind)
            && !message.answers.is_empty()
        {
            let turn = usize::from(message.metadata.id) % message.answers.len();
            message.answers.rotate_left(turn);
        }
        match answer.end {
            End::Complete | End::Elsewhere(_) => {}
            End::NoData { apex } => message.authorities.push(self.zone.start(apex)),
            End::NoSuchName { apex } => {
                message.metadata.response_code = ResponseCode::NXDomain;
                message.authorities.push(self.zone.start(apex));
            }
        }
        request.encode(message)
    }

    /// Answers what an upstream resolver knows.
    pub(crate) async fn finish(&self, pending: Pending, scope: &Scope) -> Vec<u8> {
        let Pending { request, answers, target } = pending;
        match self.ask(&request, answers, &target, scope).await {
            Ok(reply) => reply,
            Err(error) => {
                debug!(name = %target, error = &error as &dyn std::error::Error, "a name could not be asked for");
                // As CoreDNS: too many at once are refused.
                let busy = matches!(error, ReplyError::Forward(ForwardError::Busy));
                request.code(if busy { ResponseCode::Refused } else { ResponseCode::ServFail })
            }
        }
    }

    async fn ask(
        &self,
        request: &Request,
        answers: Vec<Record>,
        target: &Name,
        scope: &Scope,
    ) -> Result<Vec<u8>, ReplyError> {
        let metadata = &request.asked.metadata;
        let question = Question {
            name: target,
            kind: request.question().1,
            // An alias is followed whether or not the client asked for recursion: it is half of the answer.
            recursion_desired: metadata.recursion_desired || !answers.is_empty(),
            checking_disabled: metadata.checking_disabled,
            dnssec_ok: request.asked.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        };
        let mut query = question.to_bytes(self.forwarder.number())?;
        let (reply, age) = self.forwarder.ask(&query, scope).await?;
        query[..2].copy_from_slice(&metadata.id.to_be_bytes());
        let bytes = reply.to(&query, age, LONGEST_SECONDS);
        if answers.is_empty() {
            return Ok(Reply::cut(bytes, request.limit));
        }
        let rest = Message::from_vec(&bytes).map_err(|_| ReplyError::Unreadable)?;
        let mut message = request.response(rest.metadata.response_code);
        message.answers = answers;
        message.answers.extend(rest.answers);
        message.authorities = rest.authorities;
        Ok(request.encode(message))
    }
}

#[derive(Debug, thiserror::Error)]
enum ReplyError {
    #[error("the question cannot be written")]
    Write(#[from] ProtoError),
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error("the reply cannot be read")]
    Unreadable,
}

impl Request {
    /// What others get of names outside the cluster. As resolvers do; whoever is not known yet asks again.
    fn not_asked_for(&self) -> Vec<u8> {
        self.code(if self.client == Client::Stranger {
            ResponseCode::Refused
        } else {
            ResponseCode::ServFail
        })
    }

    /// None for what is no question; `Err` is the reply to what cannot be read.
    fn read(bytes: &[u8], transport: Transport, client: Client) -> Result<Option<Self>, Vec<u8>> {
        let Some(header) = bytes.get(..wire::HEADER) else { return Ok(None) };
        // A reply to a reply could go on for ever.
        if header[2] & 0x80 != 0 {
            return Ok(None);
        }
        let id = u16::from_be_bytes([header[0], header[1]]);
        let code = |op_code, code| {
            let message = Message::error_msg(id, op_code, code);
            message.to_vec().unwrap_or_default()
        };
        let op_code = OpCode::from_u8((header[2] & 0x78) >> 3);
        if op_code != OpCode::Query {
            return Err(code(op_code, ResponseCode::NotImp));
        }
        match Message::from_vec(bytes) {
            Ok(asked) if asked.queries.len() == 1 => {
                let limit = match (transport, &asked.edns) {
                    (Transport::Tcp, _) => u16::MAX,
                    (Transport::Udp, None) => PLAIN_BYTES,
                    (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_BYTES, MAX_UDP_BYTES),
                };
                Ok(Some(Self { asked, limit, client }))
            }
            Ok(_) | Err(_) => Err(code(OpCode::Query, ResponseCode::FormErr)),
        }
    }

    fn question(&self) -> (&Name, RecordType) {
        let query = &self.asked.queries[0];
        (query.name(), query.query_type())
    }

    /// Why the question is not even looked at.
    fn refusal(&self) -> Option<ResponseCode> {
        let query = &self.asked.queries[0];
        if self.asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Some(ResponseCode::BADVERS);
        }
        let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        (query.query_class() != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
    }

    fn response(&self, code: ResponseCode) -> Message {
        let asked = &self.asked.metadata;
        let mut message = Message::new(asked.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.recursion_available = self.client == Client::Known;
        message.metadata.checking_disabled = asked.checking_disabled;
        message.metadata.response_code = code;
        message.queries.clone_from(&self.asked.queries);
        message.edns = self.asked.edns.as_ref().map(|edns| wire::edns(edns.flags().dnssec_ok));
        message
    }

    fn code(&self, code: ResponseCode) -> Vec<u8> {
        self.encode(self.response(code))
    }

    /// Empty, which is not sent, where not even the question can be written.
    fn encode(&self, mut message: Message) -> Vec<u8> {
        wire::encode(&mut message, self.limit).unwrap_or_default()
    }
}
