//! The kernel's table of connections: listed, and forgotten one by one.
//!
//! For UDP above all: packets of a flow that was sent to an endpoint keep going there until its entry is gone.
//!
//! Source: the kernel's `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::{fmt, net::IpAddr};

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_DUMP, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    namespace::Namespace,
    request::{RequestError, Requests, or_absent},
};

/// Zones keep entries with the same addresses apart.
const CTA_ZONE: u16 = 18;

/// One direction of a connection. Ports are 0 for protocols without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its IANA number.
    pub protocol: u8,
    /// As its first packet was sent: to the Service.
    pub original: Flow,
    /// As answers come: from the endpoint.
    pub reply: Flow,
    tuple: Vec<Tuple>,
    zone: Option<Vec<u8>>,
}

/// A conntrack socket of one network namespace. It blocks: use it on a worker.
pub struct Socket {
    requests: Requests,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("conntrack::Socket").finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, RequestError> {
        Requests::open(NETLINK_NETFILTER).map(|requests| Self { requests })
    }

    /// Opens a socket in another network namespace; this thread stays where it is.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn open_in(namespace: &Namespace) -> Result<Self, RequestError> {
        namespace.enter(Self::open)?
    }

    /// All connections of a family that `keep` wants.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn entries(&mut self, v6: bool, keep: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, RequestError> {
        let request = message(v6, ConntrackMessage::Get(Vec::new()));
        let answers = self.requests.ask(request, NLM_F_DUMP, "list connections")?;
        Ok(answers.into_iter().filter_map(read).filter(keep).collect())
    }

    /// Forgets a connection. False if it was gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, RequestError> {
        let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(entry.tuple.clone())];
        if let Some(zone) = &entry.zone {
            attributes.push(ConntrackAttribute::Other(DefaultNla::new(CTA_ZONE, zone.clone())));
        }
        let request = message(entry.original.source.is_ipv6(), ConntrackMessage::Delete(attributes));
        let Flow { source, destination, .. } = entry.original;
        let operation = format!("forget the connection from {source} to {destination}");
        or_absent(self.requests.ask(request, NLM_F_ACK, &operation).map(drop))
    }
}

fn message(v6: bool, message: ConntrackMessage) -> NetfilterMessage {
    let family = if v6 { NetfilterProtoFamily::IPv6 } else { NetfilterProtoFamily::IPv4 };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn read(message: NetfilterMessage) -> Option<Entry> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    let (mut original, mut reply, mut zone) = (None, None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = Some(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = Some(tuple),
            ConntrackAttribute::Other(other) if other.kind() == CTA_ZONE => {
                let mut value = vec![0; other.value_len()];
                other.emit_value(&mut value);
                zone = Some(value);
            }
            _ => {}
        }
    }
    let tuple = original?;
    let (protocol, original) = flow(&tuple)?;
    let (_, reply) = flow(&reply?)?;
    Some(Entry { protocol, original, reply, tuple, zone })
}

fn flow(tuple: &[Tuple]) -> Option<(u8, Flow)> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (0, 0);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = Some(number_of(*number)),
                        ProtoTuple::SourcePort(port) => source_port = *port,
                        ProtoTuple::DestinationPort(port) => destination_port = *port,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let flow = Flow { source: source?, destination: destination?, source_port, destination_port };
    Some((protocol?, flow))
}

fn number_of(protocol: Protocol) -> u8 {
    u8::from(protocol)
}
