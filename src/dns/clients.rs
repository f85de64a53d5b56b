//! For whom names that are not the cluster's are asked of upstream resolvers: its pods, its nodes and this machine, and whom
//! the configuration names. Whoever else reaches the port would have an open resolver, to hide behind or to fill a victim's
//! line with.

use std::{
    collections::HashSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use client::{Cache, Index, Store};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

/// This machine's addresses are read again for a stranger, but not more often than this.
const READ_AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// One of the cluster's.
    Known,
    Stranger,
    /// It may be a node: they have not been listed yet.
    Unknown,
}

/// Who may have other names asked for.
pub(crate) struct Clients {
    ranges: Vec<IpNet>,
    nodes: Store<Node>,
    /// Kept by the read cache, as nodes come and go. A masqueraded packet of a pod comes from its node.
    nodes_at: Index<IpAddr, Node>,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    read: Option<Instant>,
    addresses: HashSet<IpAddr>,
}

impl Clients {
    /// `ranges` are the pods' and those that the configuration adds.
    pub(crate) fn new(ranges: Vec<IpNet>, cache: &Cache) -> Self {
        let nodes: Store<Node> = cache.store();
        Self { nodes_at: nodes.index(|_, node| addresses(node)), nodes, ranges, own: Mutex::default() }
    }

    pub(crate) fn of(&self, peer: IpAddr) -> Client {
        let ip = peer.to_canonical();
        let is_known = ip.is_loopback()
            || self.ranges.iter().any(|range| range.contains(&ip))
            || !self.nodes_at.get(&ip).is_empty()
            || self.own.lock().has(ip, Instant::now());
        match is_known {
            true => Client::Known,
            false if self.nodes.synced() => Client::Stranger,
            false => Client::Unknown,
        }
    }
}

impl Own {
    fn has(&mut self, ip: IpAddr, now: Instant) -> bool {
        if self.addresses.contains(&ip) {
            return true;
        }
        if self.read.is_some_and(|read| now.saturating_duration_since(read) < READ_AGAIN) {
            return false;
        }
        self.read = Some(now);
        // What cannot be read now is as it was.
        if let Ok(found) = nix::ifaddrs::getifaddrs() {
            self.addresses = found.filter_map(|interface| ip_of(&interface.address?)).collect();
        }
        self.addresses.contains(&ip)
    }
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    // A node may show one address twice, under two types.
    let unique: HashSet<IpAddr> = addresses.filter_map(|address| address.address.parse().ok()).collect();
    unique.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_addresses_are_known_and_not_read_for_each_stranger() {
        let (mut own, now) = (Own::default(), Instant::now());
        assert!(own.has([127, 0, 0, 1].into(), now));
        assert!(!own.has([203, 0, 113, 9].into(), now));
        // A sign that it was not read again.
        own.addresses.clear();
        assert!(!own.has([127, 0, 0, 1].into(), now + READ_AGAIN / 2));
        assert!(own.has([127, 0, 0, 1].into(), now + READ_AGAIN), "an address may have come");
    }
}
