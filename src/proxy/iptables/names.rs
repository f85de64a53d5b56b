//! What chains are called: as kube-proxy calls them, so that people and other programs know them.
#![deny(clippy::disallowed_methods)]

use sha2::{Digest, Sha256};

use crate::model::{Endpoint, Pool, PortModel};

pub(super) const CANARY: &str = "KUBE-PROXY-CANARY";
pub(super) const SERVICES: &str = "KUBE-SERVICES";
pub(super) const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub(super) const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";
pub(super) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub(super) const FORWARD: &str = "KUBE-FORWARD";
pub(super) const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";

/// Those that only kube-proxy's mode ipvs has: what it left is taken away too.
const OF_IPVS: [&str; 5] = [
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
];
/// Without `KUBE-FIREWALL`, which a kubelet makes too and keeps.
const SHARED: [&str; 8] =
    [CANARY, SERVICES, EXTERNAL_SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, FORWARD, PROXY_FIREWALL];
const OF_ONE: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

/// Whether a chain is a Service proxy's. A kubelet has chains by other names.
pub(super) fn is_ours(chain: &str) -> bool {
    SHARED.contains(&chain)
        || OF_IPVS.contains(&chain)
        || OF_ONE.iter().any(|prefix| chain.starts_with(prefix))
}

/// Whether a chain shows that a Service proxy has rules. `KUBE-MARK-MASQ` is used by other software too, and stays for it.
pub(super) fn is_proof(chain: &str) -> bool {
    is_ours(chain) && chain != MARK_MASQ
}

pub(super) fn pool_chain(port: &PortModel, pool: Pool) -> String {
    let prefix = match pool {
        Pool::Cluster => "KUBE-SVC-",
        Pool::Local => "KUBE-SVL-",
    };
    chain(prefix, port, "")
}

pub(super) fn external_chain(port: &PortModel) -> String {
    chain("KUBE-EXT-", port, "")
}

/// For `loadBalancerSourceRanges`.
pub(super) fn firewall_chain(port: &PortModel) -> String {
    chain("KUBE-FW-", port, "")
}

pub(super) fn endpoint_chain(port: &PortModel, endpoint: &Endpoint) -> String {
    chain("KUBE-SEP-", port, &endpoint.to_string())
}

/// A chain's name has less than 29 bytes: what tells it apart is hashed.
fn chain(prefix: &str, port: &PortModel, rest: &str) -> String {
    let hash = Sha256::digest(format!("{}{}{rest}", port.name, port.proto.name()).as_bytes());
    format!("{prefix}{}", base32(&hash[..10]))
}

/// RFC 4648, of whole groups of 5 bytes.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        (0..8).rev().map(move |at| char::from(ALPHABET[(bits >> (at * 5) & 31) as usize]))
    };
    bytes.chunks(5).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{PortName, Proto, Targets};

    #[test]
    fn names_are_kube_proxys() {
        let targets = Targets { local_only: false, endpoints: BTreeSet::new(), elsewhere: false };
        let port = PortModel {
            name: PortName { namespace: "ns1".into(), service: "svc1".into(), port: "p80".into() },
            proto: Proto::Tcp,
            port: 80,
            cluster_ip: [172, 30, 0, 41].into(),
            external_ips: BTreeSet::new(),
            balancer_ips: BTreeSet::new(),
            source_ranges: BTreeSet::new(),
            node_port: None,
            affinity: None,
            internal: targets.clone(),
            external: targets,
            cluster: BTreeSet::new(),
            serving: BTreeSet::new(),
        };
        // As rules of kube-proxy have them.
        assert_eq!(pool_chain(&port, Pool::Cluster), "KUBE-SVC-XPGD46QRK7WJZT7O");
        let endpoint = Endpoint { ip: [10, 180, 0, 1].into(), port: 80 };
        assert_eq!(endpoint_chain(&port, &endpoint), "KUBE-SEP-SXIVWICOYRO3J4NJ");
        assert_eq!(base32(b"foobarbazq"), "MZXW6YTBOJRGC6TR");
        assert!(is_ours(&external_chain(&port)) && is_ours(SERVICES) && is_ours("KUBE-NODE-PORT"));
        assert!(!is_ours("KUBE-KUBELET-CANARY") && !is_ours("KUBE-FIREWALL") && !is_ours("INPUT"));
    }
}
