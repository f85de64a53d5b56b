//! The socket that links, addresses and routes are asked about on.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    namespace::Namespace,
    request::{RequestError, Requests},
};

/// A route socket of one network namespace. One question at a time.
pub struct Socket {
    requests: Requests,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("route::Socket").finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, RequestError> {
        Requests::open(NETLINK_ROUTE).map(|requests| Self { requests })
    }

    /// Opens a socket in another network namespace; this thread stays where it is.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn open_in(namespace: &Namespace) -> Result<Self, RequestError> {
        namespace.enter(Self::open)?
    }

    /// Asks for a change: `flags` beyond request and acknowledgement.
    pub(super) fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<(), RequestError> {
        self.requests.ask(message, NLM_F_ACK | flags, operation).map(drop)
    }

    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, RequestError> {
        self.requests.ask(message, NLM_F_DUMP, operation)
    }

    /// Asks for one object.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, RequestError> {
        self.requests.ask(message, NLM_F_ACK, operation)
    }
}
