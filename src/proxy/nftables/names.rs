//! What our objects are called: short, unique, and readable in `nft list ruleset`.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::model::{Endpoint, PortModel, Proto};

/// Ours as a whole, one in each address family.
pub const TABLE: &str = "coracle-proxy";

pub(super) const SERVICES: &str = "services";
pub(super) const MARK: &str = "mark-for-masquerade";
pub(super) const REFUSE: &str = "refuse";
pub(super) const DISCARD: &str = "discard";
pub(super) const SERVICE_IPS: &str = "service-ips";
pub(super) const SERVICE_NODE_PORTS: &str = "service-nodeports";
pub(super) const NO_ENDPOINT_IPS: &str = "no-endpoint-services";
pub(super) const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";

/// nft takes names of up to 128 bytes in all its versions; a namespace and a name alone can fill that.
const READABLE: usize = 96;

fn proto(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Sctp => "sctp",
    }
}

/// `KIND-HASH-namespace/name/tcp/port`: the hash tells apart what the cut or the spelling would not.
fn name(kind: &str, port: &PortModel, rest: &str) -> String {
    let readable = format!(
        "{}/{}/{}/{}{rest}",
        port.name.namespace,
        port.name.service,
        proto(port.proto),
        port.name.port
    );
    let hash = Sha256::digest(readable.as_bytes());
    // Names start with a letter and hold letters, digits, `/`, `-`, `_` and `.` (nft's scanner).
    let readable: String = readable.chars().map(|c| if c == ':' { '.' } else { c }).take(READABLE).collect();
    format!("{kind}-{:02x}{:02x}{:02x}{:02x}-{readable}", hash[0], hash[1], hash[2], hash[3])
}

pub(super) fn internal_chain(port: &PortModel) -> String {
    name("service", port, "")
}

pub(super) fn external_chain(port: &PortModel) -> String {
    name("external", port, "")
}

/// For `externalTrafficPolicy: Local`, whose endpoints are others than the internal ones.
pub(super) fn local_chain(port: &PortModel) -> String {
    name("local", port, "")
}

pub(super) fn endpoint_chain(port: &PortModel, endpoint: &Endpoint) -> String {
    name("endpoint", port, &format!("__{}/{}", endpoint.ip, endpoint.port))
}

/// The timeout is a part of the name: a set's cannot be changed, so another one takes its place.
pub(super) fn affinity_set(port: &PortModel, endpoint: &Endpoint, timeout: Duration) -> String {
    name("affinity", port, &format!("__{}/{}__{}", endpoint.ip, endpoint.port, timeout.as_secs()))
}
