//! Which of the ranges that other nodes claim are believed.
//!
//! A Node says itself, or lets somebody say, where its pods are. A range that is believed draws this machine's packets,
//! so one that cannot be right (the internet, a machine of the cluster, another node's pods) is refused and named.
#![deny(clippy::disallowed_methods)]

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::plan::{Local, Peer};

/// A range that nothing is sent to, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) node: String,
    pub(crate) range: IpNet,
    pub(crate) because: Because,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// It is not in the cluster's ranges of its family.
    Outside,
    /// This node's own pods are there.
    Own,
    /// A node's address is in it.
    HasNode(IpAddr),
    /// An older node has it, or a part of it.
    OfAnother(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of node {}: ", self.range, self.node)?;
        match &self.because {
            Because::Outside => f.write_str("outside the cluster's range for pods (network.podCIDR)"),
            Because::Own => f.write_str("overlaps the range of this node"),
            Because::HasNode(address) => write!(f, "the address {address} of a node is in it"),
            Because::OfAnother(node) => write!(f, "overlaps the range of node {node}"),
        }
    }
}

/// The ranges to send to, each with the peer that has it. Of two that overlap the first peer's counts.
pub(super) fn believed<'a>(local: &Local, peers: &'a [Peer]) -> (Vec<(&'a Peer, IpNet)>, Vec<Refused>) {
    let mut believed: Vec<(&Peer, IpNet)> = Vec::new();
    let mut refused = Vec::new();
    for peer in peers {
        for range in &peer.pod_cidrs {
            match doubt(local, peers, &believed, *range) {
                None => believed.push((peer, *range)),
                Some(because) => refused.push(Refused { node: peer.name.clone(), range: *range, because }),
            }
        }
    }
    (believed, refused)
}

fn doubt(local: &Local, peers: &[Peer], believed: &[(&Peer, IpNet)], range: IpNet) -> Option<Because> {
    let same_family = |net: &&IpNet| net.addr().is_ipv4() == range.addr().is_ipv4();
    let mut cluster = local.cluster_cidrs.iter().filter(same_family).peekable();
    if cluster.peek().is_some() && !cluster.any(|net| net.contains(&range)) {
        return Some(Because::Outside);
    }
    if local.pod_cidrs.iter().any(|own| overlap(*own, range)) {
        return Some(Because::Own);
    }
    let mut nodes = local.addresses.iter().chain(peers.iter().flat_map(|peer| &peer.addresses));
    if let Some(address) = nodes.find(|address| range.contains(*address)) {
        return Some(Because::HasNode(*address));
    }
    let other = believed.iter().find(|(_, net)| overlap(*net, range));
    other.map(|(peer, _)| Because::OfAnother(peer.name.clone()))
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn peer(name: &str, address: &str, ranges: &[&str]) -> Peer {
        Peer {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: ranges.iter().map(|text| net(text)).collect(),
        }
    }

    fn local() -> Local {
        Local {
            addresses: vec!["10.1.200.1".parse().unwrap()],
            pod_cidrs: vec![net("10.1.0.0/24")],
            cluster_cidrs: vec![net("10.1.0.0/16")],
            ..Local::default()
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused_by_name() {
        let peers = [
            peer("a", "192.0.2.2", &["10.1.2.0/24", "fd00:1:2::/64"]),
            peer(
                "b",
                "192.0.2.3",
                &["0.0.0.0/0", "10.1.0.0/25", "10.1.2.128/25", "10.1.200.0/24", "10.1.3.0/24"],
            ),
        ];
        let (believed, refused) = believed(&local(), &peers);
        let ranges: Vec<String> = believed.iter().map(|(peer, net)| format!("{} {net}", peer.name)).collect();
        // No range of the cluster is known for the other family: nothing to measure by.
        assert_eq!(ranges, ["a 10.1.2.0/24", "a fd00:1:2::/64", "b 10.1.3.0/24"]);
        let words: Vec<String> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "0.0.0.0/0 of node b: outside the cluster's range for pods (network.podCIDR)",
                "10.1.0.0/25 of node b: overlaps the range of this node",
                "10.1.2.128/25 of node b: overlaps the range of node a",
                "10.1.200.0/24 of node b: the address 10.1.200.1 of a node is in it",
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn whatever_is_claimed_no_two_ranges_overlap_and_none_has_a_node(
            claims in prop::collection::vec((any::<[u8; 2]>(), 0_u8..=32), 0..12)
        ) {
            let peers: Vec<Peer> = claims.iter().enumerate().map(|(index, ([third, fourth], length))| {
                let range = format!("10.1.{third}.{fourth}/{length}");
                peer(&index.to_string(), &format!("192.0.2.{index}"), &[&net(&range).trunc().to_string()])
            }).collect();
            let (believed, refused) = believed(&local(), &peers);
            prop_assert_eq!(believed.len() + refused.len(), peers.len());
            for (index, (_, net)) in believed.iter().enumerate() {
                prop_assert!(local().cluster_cidrs[0].contains(net));
                prop_assert!(!net.contains(&local().addresses[0]));
                prop_assert!(believed[index + 1..].iter().all(|(_, other)| !overlap(*net, *other)));
            }
        }
    }
}
