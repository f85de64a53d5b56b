//! What Services should do, free of how the kernel does it.
//!
//! One [`ServiceModel`] per Service, made from the Service and its EndpointSlices alone, so that a change
//! to one of them costs that one. The modes (`nftables`, `iptables`, `ipvs`) turn it into what the kernel takes;
//! where a connection goes, and what becomes of one that has nowhere to go, is decided here for all of them ([`Door`]).

mod build;
mod door;
mod endpoints;

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
pub use netlink::nft::Proto;

pub use crate::health::Answer;
pub use build::build;
pub use door::{Door, Entrance, Otherwise, Pool, Via, Way};

/// Where this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name: endpoints on it are local.
    pub node: String,
    /// `topology.kubernetes.io/zone`, as far as it is known.
    pub zone: Option<String>,
    /// Its own addresses, as far as they are known.
    pub addresses: BTreeSet<IpAddr>,
}

/// Where pods are in one address family, and so whose connections to cluster IPs are masqueraded, that answers come back
/// through this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    pub range: Option<IpNet>,
    /// Pods' own connections too.
    pub masquerade_all: bool,
}

/// Whose connections to cluster IPs are masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    Everybody,
    NotIn(IpNet),
}

impl Pods {
    /// Of several ranges the one of a family.
    #[must_use]
    pub fn of(ranges: &[IpNet], ipv6: bool, masquerade_all: bool) -> Self {
        Self { range: ranges.iter().find(|net| net.addr().is_ipv6() == ipv6).copied(), masquerade_all }
    }

    /// Nobody, where it is not known where pods are.
    #[must_use]
    pub fn strangers(self) -> Option<Strangers> {
        if self.masquerade_all { Some(Strangers::Everybody) } else { self.range.map(Strangers::NotIn) }
    }
}

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
    /// Where a load balancer asks whether this node has endpoints (`healthCheckNodePort`), and what it is told.
    pub health: Option<(u16, Answer)>,
}

impl ServiceModel {
    /// The ports of one address family.
    pub fn ports_of(&self, ipv6: bool) -> impl Iterator<Item = &PortModel> {
        self.ports.iter().filter(move |port| port.is_ipv6() == ipv6)
    }
}

/// One port in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortModel {
    pub name: PortName,
    pub proto: Proto,
    pub port: u16,
    pub cluster_ip: IpAddr,
    /// `externalIPs`: addresses from outside that lead here.
    pub external_ips: BTreeSet<IpAddr>,
    /// Addresses of the load balancer, whose packets come as they were sent to it.
    pub balancer_ips: BTreeSet<IpAddr>,
    /// Who may come by a load balancer's address (`loadBalancerSourceRanges`), this node in whichever way it does; everybody where
    /// it is empty.
    pub source_ranges: BTreeSet<IpNet>,
    pub node_port: Option<u16>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<Duration>,
    /// Where connections to the cluster IP go.
    pub internal: Targets,
    /// Where connections from outside go.
    pub external: Targets,
    /// Endpoints of the whole cluster that take traffic from this node, whatever the policies say: all, or those that the hints of
    /// `trafficDistribution` keep near.
    pub cluster: BTreeSet<Endpoint>,
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

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&std::net::SocketAddr::new(self.ip, self.port), f)
    }
}
