//! What Services should do, free of how the kernel does it.
//!
//! One [`ServiceModel`] per Service, made from the Service and its EndpointSlices alone, so that a change
//! to one of them costs that one. Renderers (`nftables`, later `iptables` and `ipvs`) turn it into rules.

mod build;
mod endpoints;

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

pub use netlink::nft::Proto;

pub use build::build;

/// One port of one Service, as rules name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub namespace: String,
    pub service: String,
    /// Empty for the only, unnamed port.
    pub port: String,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A Service as rules need it; empty when there is nothing to program (headless, ExternalName, deleted).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceModel {
    /// When the Service was created, in seconds since 1970: of two that claim one address, the older has it.
    pub created: i64,
    pub ports: Vec<PortModel>,
}

/// One port in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortModel {
    pub name: PortName,
    pub proto: Proto,
    pub port: u16,
    pub cluster_ip: IpAddr,
    /// Addresses from outside that lead here: `externalIPs` and those of the load balancer.
    pub external_ips: BTreeSet<IpAddr>,
    pub node_port: Option<u16>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<Duration>,
    /// Where connections to the cluster IP go.
    pub internal: Targets,
    /// Where connections from outside go.
    pub external: Targets,
    /// Every endpoint that still answers, whether it takes new connections or not.
    pub serving: BTreeSet<Endpoint>,
}

/// Where one kind of traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Only to endpoints of this node (`…TrafficPolicy: Local`), whose clients keep their address.
    pub local_only: bool,
    pub endpoints: BTreeSet<Endpoint>,
    /// There are endpoints, but none that this policy allows: packets are dropped rather than refused,
    /// so that the sender tries another node.
    pub elsewhere: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
}
