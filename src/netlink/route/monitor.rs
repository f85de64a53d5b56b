//! Hears what becomes of links, addresses and our routes, whoever did it.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressMessage, AddressScope},
    link::{LinkAttribute, LinkMessage},
    route::RouteAttribute,
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

use super::routes::PROTOCOL;
use crate::request::RequestError;

/// `RTNLGRP_*` of links, addresses and routes of both families.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
const HEADER: usize = 16;

/// Tells when a way to another host may have changed. Lives on the runtime that it was opened in, and hears the namespace
/// of that thread.
pub struct Monitor {
    socket: TokioSocket,
    /// Links that lead to no other host.
    ignored: fn(&str) -> bool,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("route::Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open(ignored: fn(&str) -> bool) -> Result<Self, RequestError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(RequestError::Open)?;
        let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, groups)).map_err(RequestError::Open)?;
        Ok(Self { socket, ignored })
    }

    /// Resolves when an address came or went, a link (but for those that are ignored) came, went, or went up or down, or a
    /// route of ours over a gateway went; or when so much happened that we may have missed it.
    ///
    /// # Errors
    /// When the socket broke.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            match self.socket.recv_from_full().await {
                Ok((bytes, _)) if !matters(&bytes, self.ignored) => {}
                Ok(_) => break,
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => break,
                Err(error) => return Err(error),
            }
        }
        // A change comes as several messages; they are one reason to look.
        while self.socket.socket_ref().recv_from_full().is_ok() {}
        Ok(())
    }
}

/// Whether a datagram of the kernel tells of something that may matter. One that does not parse may.
fn matters(datagram: &[u8], ignored: fn(&str) -> bool) -> bool {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else { return true };
        let length = (message.header.length as usize).next_multiple_of(4).clamp(HEADER, rest.len());
        rest = &rest[length..];
        if let NetlinkPayload::InnerMessage(inner) = message.payload
            && event_matters(&inner, ignored)
        {
            return true;
        }
    }
    false
}

fn event_matters(event: &RouteNetlinkMessage, ignored: fn(&str) -> bool) -> bool {
    match event {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            !name_of(link).is_some_and(ignored)
        }
        // Every interface of a pod has such an address of its own.
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            !is_link_local(address)
        }
        RouteNetlinkMessage::DelRoute(route) => {
            let by_gateway = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_));
            route.header.protocol == PROTOCOL && route.attributes.iter().any(by_gateway)
        }
        _ => false,
    }
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn is_link_local(address: &AddressMessage) -> bool {
    address.header.scope == AddressScope::Link
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _matters: bool = matters(&bytes, |_| false);
        }
    }
}
