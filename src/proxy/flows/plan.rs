//! When to look for stale flows, and which flows are stale.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink::conntrack::Flow;

use crate::model::{Endpoint, Entrance, PortModel, Proto, ServiceModel};

/// Where the flows of each entrance may lead; nowhere, for a Service without endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leads(BTreeMap<Entrance, BTreeSet<Endpoint>>);

impl Leads {
    fn of(model: &ServiceModel) -> Self {
        let mut leads = Self::default();
        for port in model.ports.iter().filter(|port| port.proto == Proto::Udp) {
            for (entrance, _) in port.entrances() {
                leads.0.entry(entrance).or_default().extend(flows_may_stay_at(port));
            }
        }
        leads
    }

    #[must_use]
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.0.keys().any(|entrance| entrance.is_ipv6() == ipv6)
    }

    /// Whether a UDP flow came to one of our Services and leads to none of its endpoints. `local` are this node's addresses.
    #[must_use]
    pub fn is_stale(&self, original: &Flow, reply: &Flow, local: &BTreeSet<IpAddr>) -> bool {
        let Flow { destination, destination_port: port, .. } = *original;
        let by_address = self.0.get(&Entrance::Address(destination, Proto::Udp, port));
        // The same port of a stranger's address is none of our business, nor is loopback's, where no node port is.
        let is_node = local.contains(&destination) && !destination.is_loopback();
        let node_port = Entrance::NodePort { ipv6: destination.is_ipv6(), proto: Proto::Udp, port };
        let by_node_port = || self.0.get(&node_port);
        let endpoints = by_address.or_else(|| is_node.then(by_node_port).flatten());
        // Who answers is where the first packet was sent, translated or not.
        let answers = Endpoint { ip: reply.source, port: reply.source_port };
        endpoints.is_some_and(|endpoints| !endpoints.contains(&answers))
    }
}

/// Also endpoints that take no new traffic but still answer, as upstream has it: a flow drains while its pod terminates.
fn flows_may_stay_at(port: &PortModel) -> impl Iterator<Item = Endpoint> {
    let pools = [&port.internal, &port.external].map(|targets| &targets.endpoints);
    port.serving.iter().chain(&port.cluster).chain(pools.into_iter().flatten()).copied()
}

/// What flows of each Service may lead to, and whether some may have become stale since they were looked at.
#[derive(Clone, Debug)]
pub struct Flows<K> {
    /// Only Services with UDP ports.
    services: BTreeMap<K, Leads>,
    /// Entrances that Services had since flows were looked at last, and have no more.
    closed: BTreeSet<Entrance>,
    due: bool,
}

impl<K> Default for Flows<K> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), closed: BTreeSet::new(), due: false }
    }
}

impl<K: Ord + Clone> Flows<K> {
    /// The rules of a Service are in the kernel. A Service that is gone has the empty model.
    pub fn change(&mut self, key: &K, model: &ServiceModel) {
        let after = Leads::of(model);
        let before = self.services.remove(key).unwrap_or_default();
        self.due |= before.0.iter().any(|(entrance, had)| match after.0.get(entrance) {
            // Flows may have begun while there were no endpoints, or lead to one that went.
            Some(has) => !had.is_subset(has) || (had.is_empty() && !has.is_empty()),
            None => true,
        });
        self.due |= after.0.keys().any(|entrance| !before.0.contains_key(entrance));
        self.closed.extend(before.0.into_keys().filter(|entrance| !after.0.contains_key(entrance)));
        if !after.0.is_empty() {
            self.services.insert(key.clone(), after);
        }
    }

    /// These are all Services.
    pub fn change_all<'a>(&mut self, services: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>)
    where
        K: 'a,
    {
        let services: BTreeMap<&K, &ServiceModel> = services.into_iter().collect();
        let gone: Vec<K> = self.services.keys().filter(|key| !services.contains_key(key)).cloned().collect();
        for key in &gone {
            self.change(key, &ServiceModel::default());
        }
        for (key, model) in services {
            self.change(key, model);
        }
    }

    /// Whether a flow may have become stale.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// What flows are held against. An address that several Services claim may lead to the endpoints of each.
    #[must_use]
    pub fn leads(&self) -> Leads {
        let mut all = Leads::default();
        for entrance in &self.closed {
            all.0.entry(*entrance).or_default();
        }
        for (entrance, endpoints) in self.services.values().flat_map(|leads| &leads.0) {
            all.0.entry(*entrance).or_default().extend(endpoints);
        }
        all
    }

    /// Flows are held against these now; what changes from here on is for the next look.
    pub fn look(&mut self) -> Leads {
        let leads = self.leads();
        self.closed.clear();
        self.due = false;
        leads
    }

    /// That look failed: it is due again.
    pub fn look_again(&mut self, leads: Leads) {
        self.closed.extend(leads.0.into_keys());
        self.due = true;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{PortName, Targets};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn dns(endpoints: &[u8]) -> ServiceModel {
        let endpoints: BTreeSet<Endpoint> =
            endpoints.iter().map(|last| Endpoint { ip: [10, 244, 0, *last].into(), port: 5353 }).collect();
        let targets = Targets { local_only: false, endpoints: endpoints.clone(), elsewhere: false };
        let port = PortModel {
            name: PortName { namespace: "n".into(), service: "dns".into(), port: "dns".into() },
            proto: Proto::Udp,
            port: 53,
            cluster_ip: ip("10.96.0.10"),
            external_ips: BTreeSet::from([ip("192.0.2.9")]),
            balancer_ips: BTreeSet::new(),
            source_ranges: BTreeSet::new(),
            node_port: Some(30053),
            affinity: Some(Duration::from_secs(1)),
            internal: targets.clone(),
            external: targets,
            cluster: endpoints.clone(),
            serving: endpoints,
        };
        ServiceModel { created: 0, ports: vec![port], health: None }
    }

    /// Whether a flow to `to` that is answered by `by` is stale, on a node with the address 192.0.2.1.
    fn is_stale(leads: &Leads, to: (&str, u16), by: (&str, u16)) -> bool {
        let client = ip("10.244.0.99");
        let flow = |source, source_port, destination, destination_port| Flow {
            source,
            destination,
            source_port,
            destination_port,
        };
        let original = flow(client, 4000, ip(to.0), to.1);
        let reply = flow(ip(by.0), by.1, client, 4000);
        leads.is_stale(&original, &reply, &BTreeSet::from([ip("192.0.2.1"), ip("127.0.0.1")]))
    }

    #[test]
    fn flows_to_an_endpoint_that_is_gone_are_stale_at_every_entrance() {
        let mut flows = Flows::default();
        flows.change(&1, &dns(&[1, 2]));
        flows.look();
        flows.change(&1, &dns(&[2]));
        assert!(flows.is_due());
        let leads = flows.leads();
        for to in [("10.96.0.10", 53), ("192.0.2.9", 53), ("192.0.2.1", 30053)] {
            assert!(is_stale(&leads, to, ("10.244.0.1", 5353)), "{to:?}");
            assert!(is_stale(&leads, to, to), "{to:?} before there were rules");
            assert!(!is_stale(&leads, to, ("10.244.0.2", 5353)), "{to:?}");
        }
    }

    #[test]
    fn a_service_without_endpoints_or_one_that_is_gone_keeps_no_flow() {
        for model in [dns(&[]), ServiceModel::default()] {
            let mut flows = Flows::default();
            flows.change(&1, &dns(&[1]));
            flows.look();
            flows.change(&1, &model);
            assert!(flows.is_due());
            assert!(is_stale(&flows.leads(), ("10.96.0.10", 53), ("10.244.0.1", 5353)));
            assert!(is_stale(&flows.leads(), ("192.0.2.1", 30053), ("10.244.0.1", 5353)));
        }
    }

    #[test]
    fn a_look_that_failed_is_due_again_with_what_it_was_for_and_what_came_meanwhile() {
        let mut flows = Flows::default();
        flows.change(&1, &dns(&[1]));
        flows.look();
        flows.change(&1, &ServiceModel::default());
        let leads = flows.look();
        assert!(!flows.is_due());
        flows.change(&2, &ServiceModel::default());
        flows.look_again(leads);
        assert!(flows.is_due());
        assert!(is_stale(&flows.leads(), ("10.96.0.10", 53), ("10.244.0.1", 5353)));
    }

    #[test]
    fn flows_of_others_are_never_stale() {
        let mut flows = Flows::default();
        flows.change(&1, &dns(&[]));
        for to in [("10.96.0.10", 54), ("10.96.0.11", 53), ("198.51.100.1", 30053), ("127.0.0.1", 30053)] {
            assert!(!is_stale(&flows.leads(), to, to), "{to:?}");
        }
    }

    #[test]
    fn one_more_endpoint_and_changes_of_tcp_are_no_reason_to_look() {
        let mut flows = Flows::default();
        flows.change(&1, &dns(&[1]));
        flows.look();
        flows.change(&1, &dns(&[1, 2]));
        let mut tcp = dns(&[1]);
        tcp.ports[0].proto = Proto::Tcp;
        flows.change(&2, &tcp);
        flows.change(&2, &ServiceModel::default());
        assert!(!flows.is_due());
    }

    #[test]
    fn an_endpoint_that_still_serves_keeps_its_flows() {
        let mut flows = Flows::default();
        let mut model = dns(&[1, 2]);
        flows.change(&1, &model);
        flows.look();
        let remaining = dns(&[2]).ports.remove(0).internal;
        model.ports[0].internal = remaining.clone();
        model.ports[0].external = remaining.clone();
        model.ports[0].cluster = remaining.endpoints;
        flows.change(&1, &model);
        assert!(!flows.is_due());
        assert!(!is_stale(&flows.leads(), ("10.96.0.10", 53), ("10.244.0.1", 5353)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However Services change: if it is not due, no flow that was right when it was looked at last is stale.
        #[test]
        fn no_flow_becomes_stale_unseen(
            steps in prop::collection::vec((0u8..2, prop::option::of(prop::collection::vec(1u8..5, 0..4))), 1..20),
        ) {
            let mut flows = Flows::default();
            let mut settled = flows.leads();
            for (key, endpoints) in steps {
                flows.change(&key, &endpoints.map(|last| dns(&last)).unwrap_or_default());
                let leads = flows.leads();
                if flows.is_due() {
                    flows.look();
                } else {
                    for last in 1u8..5 {
                        let by = (format!("10.244.0.{last}"), 5353);
                        let by = (by.0.as_str(), by.1);
                        let was = is_stale(&settled, ("10.96.0.10", 53), by);
                        prop_assert!(was || !is_stale(&leads, ("10.96.0.10", 53), by));
                    }
                }
                settled = flows.leads();
            }
        }
    }
}
