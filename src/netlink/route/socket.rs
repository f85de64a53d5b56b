//! One question and its answers.

use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

use crate::namespace::{Namespace, NamespaceError};

/// The kernel answers at once, unless somebody else holds the RTNL lock.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("open a route socket")]
    Open(#[source] io::Error),
    #[error("enter the namespace of a route socket")]
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
    #[error("{operation}: the kernel refused")]
    Refused {
        operation: String,
        #[source]
        source: io::Error,
    },
}

impl RouteError {
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

    #[must_use]
    pub fn is_present(&self) -> bool {
        self.errno() == Some(nix::libc::EEXIST)
    }
}

/// A route socket of one network namespace. One question at a time.
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("route::Socket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, RouteError> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(RouteError::Open)?;
        socket.bind_auto().map_err(RouteError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(RouteError::Open)?;
        let deadline = TimeVal::new(i64::try_from(ANSWER_DEADLINE.as_secs()).unwrap_or(10), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &deadline)
            .map_err(|errno| RouteError::Open(errno.into()))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Opens a socket in another network namespace; this thread stays where it is.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn open_in(namespace: &Namespace) -> Result<Self, RouteError> {
        namespace.enter(Self::open)?
    }

    /// Asks for a change: `flags` beyond request and acknowledgement.
    pub(super) fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<(), RouteError> {
        self.ask(message, NLM_F_ACK | flags, operation).map(drop)
    }

    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, RouteError> {
        self.ask(message, NLM_F_DUMP, operation)
    }

    /// Asks for one object.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, RouteError> {
        self.ask(message, NLM_F_ACK, operation)
    }

    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, RouteError> {
        let transport = |source| RouteError::Transport { operation: operation.to_string(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(transport)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(transport)?;
            let mut rest = datagram.as_slice();
            while rest.len() >= 16 {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|source| RouteError::Answer { operation: operation.to_string(), source })?;
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(16, rest.len());
                rest = &rest[length..];
                // The answers to a question that was given up are passed over.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(_) => Err(RouteError::Refused {
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
pub(super) fn or_present(result: Result<(), RouteError>) -> Result<(), RouteError> {
    match result {
        Err(error) if error.is_present() => Ok(()),
        other => other,
    }
}

/// Takes "it is not there" for success; true if it was.
pub(super) fn or_absent(result: Result<(), RouteError>) -> Result<bool, RouteError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}
