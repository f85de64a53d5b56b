//! Reads the kernel's connections and forgets the stale ones.

use std::{collections::BTreeSet, net::IpAddr};

use lifecycle::WorkError;
use netlink::{RequestError, conntrack, nft::Proto, route};

use super::Leads;

#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    #[error("list this node's addresses")]
    Addresses(#[source] RequestError),
    #[error("reconcile UDP flows with Services")]
    Conntrack(#[source] RequestError),
    #[error(transparent)]
    Worker(#[from] WorkError),
}

/// Forgets every stale UDP flow of this thread's network namespace and says how many there were. It blocks.
///
/// # Errors
/// When the kernel cannot be asked; what was forgotten until then stays forgotten.
pub fn forget(leads: &Leads) -> Result<usize, FlowsError> {
    let local = route::Socket::open().and_then(|mut socket| socket.addresses(None));
    let local: BTreeSet<IpAddr> =
        local.map_err(FlowsError::Addresses)?.into_iter().map(|net| net.addr()).collect();
    let mut socket = conntrack::Socket::open().map_err(FlowsError::Conntrack)?;
    let mut forgotten = 0;
    for ipv6 in [false, true].into_iter().filter(|ipv6| leads.has_family(*ipv6)) {
        let is_stale = |entry: &conntrack::Entry| {
            entry.protocol == Proto::Udp as u8 && leads.is_stale(&entry.original, &entry.reply, &local)
        };
        for entry in socket.entries(ipv6, is_stale).map_err(FlowsError::Conntrack)? {
            forgotten += usize::from(socket.delete(&entry).map_err(FlowsError::Conntrack)?);
        }
    }
    Ok(forgotten)
}
