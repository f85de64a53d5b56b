//! What our objects are called: short, unique, and readable in `nft list ruleset`.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::model::{Endpoint, Pool, PortModel};

/// Ours as a whole, one in each address family.
pub const TABLE: &str = "coracle-proxy";
/// kube-proxy's in its mode nftables.
pub(super) const UPSTREAMS_TABLE: &str = "kube-proxy";

pub(super) const SERVICES: &str = "services";
pub(super) const MARK: &str = "mark-for-masquerade";
pub(super) const REFUSE: &str = "refuse";
pub(super) const DISCARD: &str = "discard";
pub(super) const SERVICE_IPS: &str = "service-ips";
pub(super) const SERVICE_NODE_PORTS: &str = "service-nodeports";
pub(super) const NO_ENDPOINT_IPS: &str = "no-endpoint-services";
pub(super) const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";

// Beside IPVS only.
pub(super) const STRANGERS: &str = "mark-strangers";
pub(super) const INSIDERS: &str = "insiders-only";
/// Addresses of Services that the node has for their sake alone.
pub(super) const SERVICE_ADDRESSES: &str = "service-addresses";
/// Each endpoint's address, twice.
pub(super) const HAIRPINS: &str = "hairpins";

/// nft takes names of up to 128 bytes in all its versions; a namespace and a name alone can fill that.
const READABLE: usize = 96;

/// `KIND-HASH-namespace/name/tcp/port`: the hash tells apart what the cut or the spelling would not.
fn name(kind: &str, port: &PortModel, rest: &str) -> String {
    let readable = format!(
        "{}/{}/{}/{}{rest}",
        port.name.namespace,
        port.name.service,
        port.proto.name(),
        port.name.port
    );
    let hash = Sha256::digest(readable.as_bytes());
    // Names start with a letter and hold letters, digits, `/`, `-`, `_` and `.` (nft's scanner).
    let readable: String = readable.chars().map(|c| if c == ':' { '.' } else { c }).take(READABLE).collect();
    format!("{kind}-{:02x}{:02x}{:02x}{:02x}-{readable}", hash[0], hash[1], hash[2], hash[3])
}

pub(super) fn pool_chain(port: &PortModel, pool: Pool) -> String {
    let kind = match pool {
        Pool::Cluster => "service",
        Pool::Local => "local",
    };
    name(kind, port, "")
}

pub(super) fn external_chain(port: &PortModel) -> String {
    name("external", port, "")
}

/// For `loadBalancerSourceRanges`.
pub(super) fn sources_chain(port: &PortModel) -> String {
    name("sources", port, "")
}

pub(super) fn endpoint_chain(port: &PortModel, endpoint: &Endpoint) -> String {
    name("endpoint", port, &format!("__{}/{}", endpoint.ip, endpoint.port))
}

/// The timeout is a part of the name: a set's cannot be changed, so another one takes its place.
pub(super) fn affinity_set(port: &PortModel, endpoint: &Endpoint, timeout: Duration) -> String {
    name("affinity", port, &format!("__{}/{}__{}", endpoint.ip, endpoint.port, timeout.as_secs()))
}
