//! Messages as bytes: what an upstream resolver's reply is worth, and how a reply becomes another client's.
//!
//! Replies are passed on as they came, whatever records they hold: only the number of the question, the letters' case
//! of its name, and the times to live are written anew.
#![deny(clippy::disallowed_methods)]

use hickory_proto::{
    ProtoError,
    op::{Edns, Message},
    rr::{Name, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};

/// What UDP carries without EDNS.
pub(crate) const PLAIN_BYTES: u16 = 512;
/// What crosses any network without fragments (the "DNS flag day" of 2020); what we say that we take, too.
pub(crate) const MAX_UDP_BYTES: u16 = 1232;

pub(crate) const HEADER: usize = 12;
const TRUNCATED: u8 = 0x02;
const TYPE_SOA: u16 = 6;
const TYPE_OPT: u16 = 41;

/// A reply that fits its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// Where the times to live are.
    ttls: Vec<u16>,
    /// How long it may be kept, in seconds; none where it must not be.
    pub(crate) ttl: Option<u32>,
    /// Where the question ends.
    question_end: usize,
}

/// Why a message is no reply to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("the message ends too early")]
    Short,
    #[error("a name in the message cannot be read")]
    Name,
    #[error("the message answers another question")]
    Other,
}

impl Reply {
    /// # Errors
    /// When `bytes` are no reply to `query`.
    pub(crate) fn read(query: &[u8], bytes: Vec<u8>) -> Result<Self, Unfit> {
        let (asked, reply) = (Cursor(query), Cursor(&bytes));
        let end = question_end(asked)?;
        let same = reply.u16(0)? == asked.u16(0)?
            && reply.u8(2)? & 0xf8 == 0x80
            && reply.u16(4)? == 1
            && reply.slice(HEADER, end)?.eq_ignore_ascii_case(asked.slice(HEADER, end)?);
        if !same {
            return Err(Unfit::Other);
        }
        let (mut at, mut ttls, mut least, mut start) = (end, Vec::new(), u32::MAX, None);
        let counts = [reply.u16(6)?, reply.u16(8)?, reply.u16(10)?];
        for (section, count) in counts.into_iter().enumerate() {
            for _ in 0..count {
                at = reply.skip_name(at)?;
                let (kind, ttl) = (reply.u16(at)?, reply.u32(at + 4)?);
                let data = at + 10;
                let next = data + usize::from(reply.u16(at + 8)?);
                reply.slice(data, next)?;
                if kind != TYPE_OPT {
                    ttls.push(u16::try_from(at + 4).map_err(|_| Unfit::Short)?);
                    least = least.min(ttl);
                }
                if kind == TYPE_SOA && section == 1 && next - data >= 4 {
                    // The last field of the data: how long an absence may be believed (RFC 2308).
                    start = Some(ttl.min(reply.u32(next - 4)?));
                }
                at = next;
            }
        }
        let positive = reply.u8(3)? & 0x0f == 0 && counts[0] > 0;
        let negative = [0, 3].contains(&(reply.u8(3)? & 0x0f)) && counts[0] == 0;
        let truncated = reply.u8(2)? & TRUNCATED != 0;
        let ttl =
            if positive { Some(least) } else { start.filter(|_| negative).map(|start| start.min(least)) };
        let ttl = ttl.filter(|ttl| *ttl > 0 && !truncated);
        Ok(Self { ttls, ttl, question_end: end, bytes })
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.bytes[2] & TRUNCATED != 0
    }

    /// Whether the resolver itself could not, or would not, answer: another one may.
    pub(crate) fn is_failure(&self) -> bool {
        ![0, 3].contains(&(self.bytes[3] & 0x0f))
    }

    /// How much memory it takes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + self.ttls.len() * 2
    }

    /// This reply as the one to `query`, which asks the same, `age` seconds after it came. Times to live are at most
    /// `longest`.
    pub(crate) fn to(&self, query: &[u8], age: u32, longest: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&query[..2]);
        if let Some(question) = query.get(HEADER..self.question_end) {
            bytes[HEADER..self.question_end].copy_from_slice(question);
        }
        for at in self.ttls.iter().map(|at| usize::from(*at)) {
            let ttl = u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let left = ttl.min(longest).saturating_sub(age);
            bytes[at..at + 4].copy_from_slice(&left.to_be_bytes());
        }
        bytes
    }

    /// What is sent where the reply has no room: the question, and that there is more by TCP.
    pub(crate) fn cut(mut bytes: Vec<u8>, limit: u16) -> Vec<u8> {
        if bytes.len() > usize::from(limit)
            && let Ok(end) = question_end(Cursor(&bytes))
        {
            bytes.truncate(end);
            bytes[2] |= TRUNCATED;
            bytes[6..HEADER].fill(0);
        }
        bytes
    }
}

/// Where the name of a message's first question ends.
pub(crate) fn name_end(message: &[u8]) -> Option<usize> {
    Cursor(message).skip_name(HEADER).ok().filter(|end| *end <= message.len())
}

/// Where the one question of a message ends.
fn question_end(message: Cursor<'_>) -> Result<usize, Unfit> {
    let end = message.skip_name(HEADER)? + 4;
    message.slice(HEADER, end).map(|_| end)
}

/// Reads within bounds.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn slice(self, from: usize, to: usize) -> Result<&'a [u8], Unfit> {
        self.0.get(from..to).ok_or(Unfit::Short)
    }

    fn u8(self, at: usize) -> Result<u8, Unfit> {
        self.0.get(at).copied().ok_or(Unfit::Short)
    }

    fn u16(self, at: usize) -> Result<u16, Unfit> {
        Ok(u16::from_be_bytes([self.u8(at)?, self.u8(at + 1)?]))
    }

    fn u32(self, at: usize) -> Result<u32, Unfit> {
        Ok(u32::from(self.u16(at)?) << 16 | u32::from(self.u16(at + 2)?))
    }

    /// Where the name at `at` ends. What its pointer points at is not looked at.
    fn skip_name(self, mut at: usize) -> Result<usize, Unfit> {
        loop {
            match self.u8(at)? {
                0 => return Ok(at + 1),
                length @ 1..=63 => at += 1 + usize::from(length),
                192.. => return Ok(at + 2),
                _ => return Err(Unfit::Name),
            }
        }
    }
}

/// A question to an upstream resolver.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) name: &'a Name,
    pub(crate) kind: RecordType,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    /// None where the client has no EDNS, else whether it wants signatures.
    pub(crate) dnssec_ok: Option<bool>,
}

impl Question<'_> {
    /// # Errors
    /// Never seen: a name that came from a message fits into one.
    pub(crate) fn to_bytes(&self, id: u16) -> Result<Vec<u8>, ProtoError> {
        use hickory_proto::op::{MessageType, OpCode, Query};
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(Query::query(self.name.clone(), self.kind));
        if let Some(dnssec_ok) = self.dnssec_ok {
            message.set_edns(edns(dnssec_ok));
        }
        message.to_vec()
    }
}

pub(crate) fn edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES).set_dnssec_ok(dnssec_ok);
    edns
}

/// A message in at most `limit` bytes. What is beside the answer goes first; if the answer itself has no room, as much
/// as fits is left and the message says that it is cut.
///
/// # Errors
/// When not even the question fits.
pub(crate) fn encode(message: &mut Message, limit: u16) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = try_encode(message)?;
    if fits(&bytes, limit) {
        return Ok(bytes);
    }
    message.additionals.clear();
    bytes = try_encode(message)?;
    if fits(&bytes, limit) {
        return Ok(bytes);
    }
    message.authorities.clear();
    // The largest beginning of the answer that fits, found by halves.
    let all = std::mem::take(&mut message.answers);
    let (mut least, mut most) = (0, all.len());
    while least < most {
        let middle = (least + most).div_ceil(2);
        message.answers = all[..middle].to_vec();
        if fits(&try_encode(message)?, limit) {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    message.answers = all[..least].to_vec();
    message.metadata.truncation = true;
    try_encode(message)
}

fn try_encode(message: &Message) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = Vec::with_capacity(512);
    message.emit(&mut BinEncoder::new(&mut bytes))?;
    Ok(bytes)
}

/// The encoder itself cuts what is larger than any message can be, and says so in the header.
fn fits(bytes: &[u8], limit: u16) -> bool {
    bytes.get(2).is_some_and(|flags| flags & TRUNCATED == 0) && bytes.len() <= usize::from(limit)
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{MessageType, ResponseCode},
        rr::{
            RData, Record,
            rdata::{A, SOA},
        },
    };
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question(name: &Name, id: u16) -> Vec<u8> {
        let question = Question {
            name,
            kind: RecordType::A,
            recursion_desired: true,
            checking_disabled: false,
            dnssec_ok: Some(false),
        };
        question.to_bytes(id).unwrap()
    }

    fn reply(query: &[u8], answers: usize, code: ResponseCode, start: Option<(u32, u32)>) -> Vec<u8> {
        let mut message = Message::from_vec(query).unwrap();
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code = code;
        let owner = message.queries[0].name().clone();
        for n in 0..answers {
            let data = RData::A(A::new(192, 0, 2, u8::try_from(n % 250).unwrap()));
            message.add_answer(Record::from_rdata(owner.clone(), 300 + u32::try_from(n).unwrap(), data));
        }
        if let Some((ttl, minimum)) = start {
            let soa = SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, minimum);
            message.add_authority(Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
        }
        message.to_vec().unwrap()
    }

    #[test]
    fn a_reply_is_kept_as_long_as_its_shortest_record_or_its_absence() {
        let query = question(&name("www.example.com."), 7);
        let ttl =
            |answers, code, start| Reply::read(&query, reply(&query, answers, code, start)).unwrap().ttl;
        assert_eq!(ttl(2, ResponseCode::NoError, None), Some(300));
        assert_eq!(ttl(0, ResponseCode::NXDomain, Some((900, 60))), Some(60));
        assert_eq!(ttl(0, ResponseCode::NoError, Some((20, 60))), Some(20));
        assert_eq!(ttl(0, ResponseCode::NXDomain, None), None);
        assert_eq!(ttl(0, ResponseCode::ServFail, Some((900, 60))), None);
    }

    #[test]
    fn what_does_not_answer_the_question_is_no_reply() {
        let (query, other) = (question(&name("www.example.com."), 7), question(&name("www.example.org."), 7));
        let good = reply(&query, 1, ResponseCode::NoError, None);
        assert_eq!(Reply::read(&other, good.clone()), Err(Unfit::Other));
        assert_eq!(Reply::read(&question(&name("www.example.com."), 8), good.clone()), Err(Unfit::Other));
        assert_eq!(Reply::read(&query, query.clone()), Err(Unfit::Other), "a question is no reply");
        for end in 0..good.len() {
            assert!(Reply::read(&query, good[..end].to_vec()).is_err(), "{end}");
        }
    }

    #[test]
    fn a_reply_is_passed_on_with_the_askers_number_and_case_and_with_less_time() {
        let query = question(&name("www.example.com."), 7);
        let kept = Reply::read(&query, reply(&query, 1, ResponseCode::NoError, None)).unwrap();
        let again = question(&name("WWW.Example.com."), 99);
        let passed = Message::from_vec(&kept.to(&again, 10, 30)).unwrap();
        assert_eq!(passed.metadata.id, 99);
        assert!(passed.queries[0].name().eq_case(&name("WWW.Example.com.")));
        assert_eq!(passed.answers[0].ttl, 20);
        let cut = Message::from_vec(&Reply::cut(kept.to(&again, 10, 30), 40)).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
    }

    #[test]
    fn a_large_answer_is_cut_to_size_and_says_so() {
        let query = question(&name("www.example.com."), 7);
        let mut message = Message::from_vec(&reply(&query, 200, ResponseCode::NoError, None)).unwrap();
        for limit in [PLAIN_BYTES, MAX_UDP_BYTES] {
            let bytes = encode(&mut message.clone(), limit).unwrap();
            let cut = Message::from_vec(&bytes).unwrap();
            assert!(bytes.len() <= usize::from(limit) && bytes.len() > usize::from(limit) - 32);
            assert!(cut.metadata.truncation && cut.edns.is_some() && !cut.answers.is_empty());
        }
        let whole = Message::from_vec(&encode(&mut message, u16::MAX).unwrap()).unwrap();
        assert!(!whole.metadata.truncation && whole.answers.len() == 200);
        for _ in 0..5000 {
            message.answers.push(message.answers[0].clone());
        }
        let whole = Message::from_vec(&encode(&mut message, u16::MAX).unwrap()).unwrap();
        assert!(whole.metadata.truncation, "what no message can hold");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_within_bounds(
            query in proptest::collection::vec(any::<u8>(), 0..64),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(reply) = Reply::read(&query, bytes) {
                reply.to(&query, 1, 30);
            }
        }

        #[test]
        fn a_reply_with_any_byte_changed_is_read_or_refused(at in 0_usize..200, with in any::<u8>()) {
            let query = question(&name("www.example.com."), 7);
            let mut bytes = reply(&query, 3, ResponseCode::NoError, Some((9, 9)));
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(reply) = Reply::read(&query, bytes) {
                prop_assert_eq!(Reply::cut(reply.to(&query, 1, 30), 40).len() <= 200, true);
            }
        }
    }
}
