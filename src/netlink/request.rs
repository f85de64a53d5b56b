//! One question to the kernel and its answers, on a blocking netlink socket.

use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::SocketAddr;
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

use crate::namespace::NamespaceError;

/// The kernel answers at once, unless somebody else holds the RTNL lock.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// A list that changed while it was read may lack what was there all the time: it is read again this often.
pub(crate) const DUMP_TRIES: usize = 8;
/// Where the sequence number stands in a message.
const SEQUENCE: std::ops::Range<usize> = 8..12;

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    #[error("enter the namespace of a netlink socket")]
    Namespace(#[from] NamespaceError),
    #[error("talk to the kernel to {operation}")]
    Transport {
        operation: String,
        #[source]
        source: io::Error,
    },
    #[error("{operation}: the kernel's answer does not parse")]
    Answer {
        operation: String,
        #[source]
        source: netlink_packet_core::DecodeError,
    },
    #[error("{operation}: somebody else's is there")]
    Taken { operation: String },
    #[error("{operation}: what is listed changed again and again meanwhile")]
    Interrupted { operation: String },
    #[error("{operation}: the kernel refused")]
    Refused {
        operation: String,
        #[source]
        source: io::Error,
    },
}

impl RequestError {
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The object of the request is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        // ESRCH is how routes say it, ENODEV links, EADDRNOTAVAIL addresses.
        matches!(
            self.errno(),
            Some(
                nix::libc::ENOENT
                    | nix::libc::ESRCH
                    | nix::libc::ENODEV
                    | nix::libc::ENXIO
                    | nix::libc::EADDRNOTAVAIL
            )
        )
    }

    /// The kernel knows no such kind of object.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.errno() == Some(nix::libc::EOPNOTSUPP)
    }

    #[must_use]
    pub fn is_present(&self) -> bool {
        self.errno() == Some(nix::libc::EEXIST)
    }
}

/// A netlink socket of one network namespace. One question at a time.
pub(crate) struct Requests {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Requests {
    /// Opens a socket in this thread's network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Self, RequestError> {
        let mut socket = netlink_sys::Socket::new(protocol).map_err(RequestError::Open)?;
        socket.bind_auto().map_err(RequestError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(RequestError::Open)?;
        let deadline = TimeVal::new(i64::try_from(ANSWER_DEADLINE.as_secs()).unwrap_or(10), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &deadline)
            .map_err(|errno| RequestError::Open(errno.into()))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, with `flags` beyond that it is a question, and gives all answers. A list is whole, or an error.
    pub(crate) fn ask<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        message: M,
        flags: u16,
        operation: &str,
    ) -> Result<Vec<M>, RequestError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        for _ in 0..DUMP_TRIES {
            if let Some(answers) = self.ask_once(&mut bytes, operation)? {
                return Ok(answers);
            }
        }
        Err(RequestError::Interrupted { operation: operation.to_string() })
    }

    /// `None` where the list changed while it was read.
    fn ask_once<M: NetlinkDeserializable>(
        &mut self,
        request: &mut [u8],
        operation: &str,
    ) -> Result<Option<Vec<M>>, RequestError> {
        let transport = |source| RequestError::Transport { operation: operation.to_string(), source };
        self.sequence = self.sequence.wrapping_add(1);
        request[SEQUENCE].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(request, 0).map_err(transport)?;

        let (mut answers, mut interrupted) = (Vec::new(), false);
        let whole = |answers, interrupted: bool| Ok((!interrupted).then_some(answers));
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(transport)?;
            let mut rest = datagram.as_slice();
            while rest.len() >= 16 {
                let answer = NetlinkMessage::<M>::deserialize(rest)
                    .map_err(|source| RequestError::Answer { operation: operation.to_string(), source })?;
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(16, rest.len());
                rest = &rest[length..];
                // The answers to a question that was given up are passed over.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return whole(answers, interrupted),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => whole(answers, interrupted),
                            Some(_) => Err(RequestError::Refused {
                                operation: operation.to_string(),
                                source: error.to_io(),
                            }),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Takes "it is there already" for success.
pub(crate) fn or_present(result: Result<(), RequestError>) -> Result<(), RequestError> {
    match result {
        Err(error) if error.is_present() => Ok(()),
        other => other,
    }
}

/// Takes "it is not there" for success; true if it was.
pub(crate) fn or_absent(result: Result<(), RequestError>) -> Result<bool, RequestError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}
