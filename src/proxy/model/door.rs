//! By what a connection comes to a Service, where it goes then, and what becomes of it if it goes nowhere.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, fmt, net::IpAddr};

use super::{Endpoint, PortModel, Proto, Targets};

/// By what a connection comes to a Service. One of them is one Service's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entrance {
    /// The cluster IP, an external IP or one of the load balancer.
    Address(IpAddr, Proto, u16),
    /// A port of every address of this node.
    NodePort { ipv6: bool, proto: Proto, port: u16 },
}

impl Entrance {
    #[must_use]
    pub fn proto(&self) -> Proto {
        match self {
            Self::Address(_, proto, _) | Self::NodePort { proto, .. } => *proto,
        }
    }

    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Address(ip, ..) => ip.is_ipv6(),
            Self::NodePort { ipv6, .. } => *ipv6,
        }
    }
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip, proto, port) => {
                write!(f, "{}/{proto:?}", std::net::SocketAddr::new(*ip, *port))
            }
            Self::NodePort { proto, port, .. } => write!(f, "node port {port}/{proto:?}"),
        }
    }
}

/// What sort of entrance it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
}

/// The endpoints that one policy leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// Those of all nodes.
    Cluster,
    /// Those of this node.
    Local,
}

/// What is in force for connections of an entrance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
    /// The same, for clients of the allowed ranges only.
    Filtered,
}

/// What becomes of a connection that goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Otherwise {
    /// Refused at once: there is nobody to answer.
    Refuse,
    /// Dropped, so that the sender tries another node, or learns nothing.
    Discard,
}

/// What an entrance leads to. With both, connections that the way does not take (of this node's policy, of clients
/// that are not allowed) meet the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    pub way: Option<Way>,
    pub otherwise: Option<Otherwise>,
}

impl PortModel {
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.cluster_ip.is_ipv6()
    }

    /// Every entrance, the strongest claim first.
    #[must_use]
    pub fn entrances(&self) -> Vec<(Entrance, Via)> {
        let address = |via| move |ip: &IpAddr| (Entrance::Address(*ip, self.proto, self.port), via);
        let mut entrances = vec![address(Via::ClusterIp)(&self.cluster_ip)];
        // An address of both sorts has the ranges of the load balancer.
        entrances.extend(self.balancer_ips.iter().map(address(Via::LoadBalancer)));
        entrances.extend(self.external_ips.iter().map(address(Via::ExternalIp)));
        let node_port = |port| Entrance::NodePort { ipv6: self.is_ipv6(), proto: self.proto, port };
        entrances.extend(self.node_port.map(|port| (node_port(port), Via::NodePort)));
        entrances
    }

    #[must_use]
    pub fn is_external(&self) -> bool {
        !self.external_ips.is_empty() || !self.balancer_ips.is_empty() || self.node_port.is_some()
    }

    /// The policy of an entrance.
    #[must_use]
    pub fn targets(&self, via: Via) -> &Targets {
        if via == Via::ClusterIp { &self.internal } else { &self.external }
    }

    #[must_use]
    pub fn door(&self, via: Via) -> Door {
        let targets = self.targets(via);
        let refused = if targets.elsewhere { Otherwise::Discard } else { Otherwise::Refuse };
        let otherwise = targets.endpoints.is_empty().then_some(refused);
        // Pods and this node itself are not held to a local policy from outside: they are not from outside.
        let reaches = !targets.endpoints.is_empty() || (via != Via::ClusterIp && !self.cluster.is_empty());
        match via {
            _ if !reaches => Door { way: None, otherwise },
            Via::ClusterIp => Door { way: Some(Way::Internal), otherwise },
            Via::LoadBalancer if !self.source_ranges.is_empty() => {
                Door { way: Some(Way::Filtered), otherwise: Some(Otherwise::Discard) }
            }
            _ => Door { way: Some(Way::External), otherwise },
        }
    }

    /// The pool of endpoints of a policy.
    #[must_use]
    pub fn pool(&self, pool: Pool) -> Option<&BTreeSet<Endpoint>> {
        let local = || [&self.internal, &self.external].into_iter().find(|targets| targets.local_only);
        let endpoints = match pool {
            Pool::Cluster => &self.cluster,
            Pool::Local => &local()?.endpoints,
        };
        (!endpoints.is_empty()).then_some(endpoints)
    }

    /// Which pools some entrance leads to.
    #[must_use]
    pub fn pools(&self) -> Vec<(Pool, &BTreeSet<Endpoint>)> {
        let used = |pool| match pool {
            Pool::Cluster => !self.internal.local_only || self.is_external(),
            Pool::Local => self.internal.local_only || (self.external.local_only && self.is_external()),
        };
        [Pool::Cluster, Pool::Local]
            .into_iter()
            .filter(|pool| used(*pool))
            .filter_map(|pool| Some((pool, self.pool(pool)?)))
            .collect()
    }
}

impl Targets {
    #[must_use]
    pub fn pool(&self) -> Pool {
        if self.local_only { Pool::Local } else { Pool::Cluster }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PortName;

    fn endpoints(last: &[u8]) -> BTreeSet<Endpoint> {
        last.iter().map(|last| Endpoint { ip: [10, 244, 0, *last].into(), port: 80 }).collect()
    }

    fn port(all: &[u8], here: &[u8]) -> PortModel {
        let external = Targets {
            local_only: true,
            endpoints: endpoints(here),
            elsewhere: here.is_empty() && !all.is_empty(),
        };
        PortModel {
            name: PortName { namespace: "n".into(), service: "s".into(), port: String::new() },
            proto: Proto::Tcp,
            port: 80,
            cluster_ip: [10, 96, 0, 1].into(),
            external_ips: [[192, 0, 2, 8].into()].into(),
            balancer_ips: [[192, 0, 2, 9].into()].into(),
            source_ranges: BTreeSet::new(),
            node_port: Some(30080),
            affinity: None,
            internal: Targets { local_only: false, endpoints: endpoints(all), elsewhere: false },
            external,
            cluster: endpoints(all),
            serving: endpoints(all),
        }
    }

    #[test]
    fn what_has_no_endpoint_at_all_is_refused_by_every_entrance() {
        let port = port(&[], &[]);
        for (entrance, via) in port.entrances() {
            assert_eq!(port.door(via), Door { way: None, otherwise: Some(Otherwise::Refuse) }, "{entrance}");
        }
        assert!(port.pools().is_empty());
    }

    #[test]
    fn a_local_policy_without_endpoints_here_still_serves_this_cluster_and_drops_the_rest() {
        let port = port(&[1], &[]);
        let door = Door { way: Some(Way::External), otherwise: Some(Otherwise::Discard) };
        assert_eq!(port.door(Via::NodePort), door);
        assert_eq!(port.door(Via::ClusterIp), Door { way: Some(Way::Internal), otherwise: None });
        assert_eq!(port.pools().iter().map(|(pool, _)| *pool).collect::<Vec<_>>(), [Pool::Cluster]);
    }

    #[test]
    fn source_ranges_bind_the_load_balancers_address_alone() {
        let mut port = port(&[1], &[1]);
        port.source_ranges.insert("203.0.113.0/24".parse().unwrap());
        let door = Door { way: Some(Way::Filtered), otherwise: Some(Otherwise::Discard) };
        assert_eq!(port.door(Via::LoadBalancer), door);
        assert_eq!(port.door(Via::ExternalIp), Door { way: Some(Way::External), otherwise: None });
    }
}
