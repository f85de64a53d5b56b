//! The difference between the virtual servers that there are and those that there should be.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use netlink::ipvs::{Choice, VirtualServer};

use super::Scheduler;
use crate::{
    claims,
    model::{Endpoint, Entrance, Proto, ServiceModel},
};

/// Where an entrance leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How long a client stays with its endpoint.
    pub persistence: Option<Duration>,
    pub endpoints: BTreeSet<Endpoint>,
}

pub(super) type Wish = claims::Wish<(), Server>;

/// A virtual server that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub choice: Choice,
    pub reals: BTreeMap<Endpoint, Real>,
}

/// A real server that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    pub weight: u32,
    pub connections: u32,
}

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    AddServer(VirtualServer, Choice),
    SetServer(VirtualServer, Choice),
    /// With its real servers.
    RemoveServer(VirtualServer),
    AddReal(VirtualServer, Endpoint),
    SetReal(VirtualServer, Endpoint, u32),
    RemoveReal(VirtualServer, Endpoint),
}

/// What is to be asked, and what is left to do later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub changes: Vec<Change>,
    /// Virtual servers with real ones that take no new connections and have old ones.
    pub draining: BTreeSet<VirtualServer>,
}

/// All endpoints take the same share.
const WEIGHT: u32 = 1;

/// What a Service wants in these families, of which IPv6 is `true`.
pub(super) fn render(service: &ServiceModel, families: &[bool]) -> Wish {
    let mut wish = Wish::new(service.created);
    for port in families.iter().flat_map(|ipv6| service.ports_of(*ipv6)) {
        for (entrance, via) in port.entrances() {
            let (targets, nowhere) = (port.targets(via), BTreeSet::new());
            let endpoints = match port.door(via).way {
                // The server keeps connections that have not ended yet; the table of nf_tables refuses new ones.
                None => &nowhere,
                // Without an endpoint here, a local policy holds for outside alone, and that table sees to it.
                Some(_) if targets.endpoints.is_empty() => &port.cluster,
                Some(_) => &targets.endpoints,
            };
            let server = Server { persistence: port.affinity, endpoints: endpoints.clone() };
            wish.claim(entrance, via, server);
        }
    }
    wish
}

/// The virtual servers of an entrance: of a node port, one for each of the node's addresses.
pub(super) fn servers_of(entrance: Entrance, node: &BTreeSet<IpAddr>) -> Vec<VirtualServer> {
    let server = |address, port| VirtualServer { address, proto: entrance.proto(), port };
    match entrance {
        Entrance::Address(ip, _, port) => vec![server(ip, port)],
        Entrance::NodePort { ipv6, port, .. } => {
            node.iter().filter(|ip| ip.is_ipv6() == ipv6).map(|ip| server(*ip, port)).collect()
        }
    }
}

/// Leads from what was found to what is desired. `found` holds nothing that is not ours.
#[must_use]
pub fn plan(
    desired: &BTreeMap<VirtualServer, Server>,
    found: &BTreeMap<VirtualServer, Found>,
    scheduler: Scheduler,
) -> Plan {
    let mut plan = Plan::default();
    for server in found.keys().filter(|server| !desired.contains_key(server)) {
        plan.changes.push(Change::RemoveServer(*server));
    }
    for (server, wanted) in desired {
        let choice = Choice { scheduler: scheduler.name().to_string(), persistence: wanted.persistence };
        let nothing = BTreeMap::new();
        let reals = match found.get(server) {
            None => {
                plan.changes.push(Change::AddServer(*server, choice));
                &nothing
            }
            Some(found) => {
                if found.choice != choice {
                    plan.changes.push(Change::SetServer(*server, choice));
                }
                &found.reals
            }
        };
        plan.reals(server, &wanted.endpoints, reals);
    }
    plan
}

impl Plan {
    fn reals(
        &mut self,
        server: &VirtualServer,
        wanted: &BTreeSet<Endpoint>,
        found: &BTreeMap<Endpoint, Real>,
    ) {
        // Those that come first, so that there is always one to go to.
        for endpoint in wanted {
            match found.get(endpoint) {
                None => self.changes.push(Change::AddReal(*server, *endpoint)),
                Some(real) if real.weight != WEIGHT => {
                    self.changes.push(Change::SetReal(*server, *endpoint, WEIGHT));
                }
                Some(_) => {}
            }
        }
        for (endpoint, real) in found.iter().filter(|(endpoint, _)| !wanted.contains(endpoint)) {
            // UDP has no end to wait for: its flows go where there is somebody.
            if server.proto == Proto::Udp || real.connections == 0 {
                self.changes.push(Change::RemoveReal(*server, *endpoint));
                continue;
            }
            if real.weight != 0 {
                self.changes.push(Change::SetReal(*server, *endpoint, 0));
            }
            self.draining.insert(*server);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{PortModel, PortName, Targets};

    /// The kernel's servers, changed as it would change them.
    fn apply(servers: &mut BTreeMap<VirtualServer, Found>, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            let missing = || format!("{change:?}: there is none");
            match change {
                Change::AddServer(server, choice) => {
                    let found = Found { choice: choice.clone(), reals: BTreeMap::new() };
                    if servers.insert(*server, found).is_some() {
                        return Err(format!("{change:?}: it is there"));
                    }
                }
                Change::SetServer(server, choice) => {
                    servers.get_mut(server).ok_or_else(missing)?.choice = choice.clone();
                }
                Change::RemoveServer(server) => drop(servers.remove(server).ok_or_else(missing)?),
                Change::AddReal(server, endpoint) => {
                    let real = Real { weight: WEIGHT, connections: 0 };
                    let reals = &mut servers.get_mut(server).ok_or_else(missing)?.reals;
                    if reals.insert(*endpoint, real).is_some() {
                        return Err(format!("{change:?}: it is there"));
                    }
                }
                Change::SetReal(server, endpoint, weight) => {
                    let reals = &mut servers.get_mut(server).ok_or_else(missing)?.reals;
                    reals.get_mut(endpoint).ok_or_else(missing)?.weight = *weight;
                }
                Change::RemoveReal(server, endpoint) => {
                    let reals = &mut servers.get_mut(server).ok_or_else(missing)?.reals;
                    let removed = reals.remove(endpoint).ok_or_else(missing)?;
                    if server.proto != Proto::Udp && removed.connections > 0 {
                        return Err(format!("{change:?}: it has connections"));
                    }
                }
            }
        }
        Ok(())
    }

    fn any_server() -> impl Strategy<Value = VirtualServer> {
        let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp)];
        (1u8..4, proto).prop_map(|(last, proto)| VirtualServer {
            address: [10, 96, 0, last].into(),
            proto,
            port: 80,
        })
    }

    fn endpoint(last: u8) -> Endpoint {
        Endpoint { ip: [10, 244, 0, last].into(), port: 8080 }
    }

    fn any_desired() -> impl Strategy<Value = BTreeMap<VirtualServer, Server>> {
        let persistence = prop::option::of(Just(Duration::from_secs(60)));
        let server =
            (persistence, prop::collection::btree_set(1u8..5, 0..4)).prop_map(|(persistence, last)| Server {
                persistence,
                endpoints: last.into_iter().map(endpoint).collect(),
            });
        prop::collection::btree_map(any_server(), server, 0..4)
    }

    #[test]
    fn an_endpoint_that_goes_keeps_its_connections_to_their_end() {
        let server = VirtualServer { address: [10, 96, 0, 1].into(), proto: Proto::Tcp, port: 80 };
        let choice = Choice { scheduler: "rr".into(), persistence: None };
        let found = |weight, connections| {
            let reals = [
                (endpoint(1), Real { weight, connections }),
                (endpoint(2), Real { weight: 1, connections: 5 }),
            ];
            BTreeMap::from([(server, Found { choice: choice.clone(), reals: reals.into() })])
        };
        let desired = Server { persistence: None, endpoints: [endpoint(2)].into() };
        let desired = BTreeMap::from([(server, desired)]);
        let step = |weight, connections| plan(&desired, &found(weight, connections), Scheduler::RoundRobin);
        let first = step(1, 3);
        assert_eq!(first.changes, [Change::SetReal(server, endpoint(1), 0)]);
        assert_eq!(first.draining, [server].into());
        assert_eq!(step(0, 3), Plan { changes: Vec::new(), draining: [server].into() });
        let last = step(0, 0);
        assert_eq!(last.changes, [Change::RemoveReal(server, endpoint(1))]);
        assert!(last.draining.is_empty());
        // It comes back before that.
        let both = Server { persistence: None, endpoints: [endpoint(1), endpoint(2)].into() };
        let back = plan(&BTreeMap::from([(server, both)]), &found(0, 3), Scheduler::RoundRobin);
        assert_eq!(back.changes, [Change::SetReal(server, endpoint(1), 1)]);
    }

    #[test]
    fn the_last_endpoint_that_goes_keeps_its_connections_too() {
        let port = Entrance::Address([10, 96, 0, 1].into(), Proto::Tcp, 80);
        let entrances = |endpoints: &[u8]| {
            let targets = Targets {
                local_only: false,
                endpoints: endpoints.iter().copied().map(endpoint).collect(),
                elsewhere: false,
            };
            let port = PortModel {
                name: PortName { namespace: "n".into(), service: "s".into(), port: String::new() },
                proto: Proto::Tcp,
                port: 80,
                cluster_ip: [10, 96, 0, 1].into(),
                external_ips: BTreeSet::new(),
                balancer_ips: BTreeSet::new(),
                source_ranges: BTreeSet::new(),
                node_port: None,
                affinity: None,
                cluster: targets.endpoints.clone(),
                serving: targets.endpoints.clone(),
                internal: targets.clone(),
                external: targets,
            };
            let model = ServiceModel { ports: vec![port], ..ServiceModel::default() };
            let mut held = claims::Held::default();
            held.accept(BTreeMap::from([(1, render(&model, &[false]))]));
            held.winners().map(|(entrance, server)| (*entrance, server.clone())).collect::<BTreeMap<_, _>>()
        };
        let desired = |endpoints: &[u8]| {
            let server = entrances(endpoints).remove(&port).expect("a server, also without endpoints");
            BTreeMap::from([(servers_of(port, &BTreeSet::new())[0], server)])
        };
        let mut kernel = BTreeMap::new();
        let first = plan(&desired(&[1]), &kernel, Scheduler::RoundRobin);
        apply(&mut kernel, &first.changes).unwrap();
        kernel.values_mut().flat_map(|found| found.reals.values_mut()).for_each(|real| real.connections = 1);
        let gone = plan(&desired(&[]), &kernel, Scheduler::RoundRobin);
        let server = *kernel.keys().next().unwrap();
        assert_eq!(gone.changes, [Change::SetReal(server, endpoint(1), 0)]);
        assert_eq!(gone.draining, [server].into());
    }

    #[test]
    fn a_node_port_is_on_every_address_of_its_family() {
        let node: BTreeSet<IpAddr> =
            ["192.0.2.1", "198.51.100.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
        let entrance = Entrance::NodePort { ipv6: false, proto: Proto::Tcp, port: 30080 };
        let servers = servers_of(entrance, &node);
        assert_eq!(
            servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["tcp 192.0.2.1:30080", "tcp 198.51.100.1:30080"]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever there was, no request is one that the kernel would refuse, connections are kept, and planning again after
        /// apply is empty.
        #[test]
        fn changes_lead_to_what_is_desired(
            steps in prop::collection::vec((any_desired(), 0u32..3), 1..10),
            scheduler in prop_oneof![Just(Scheduler::RoundRobin), Just(Scheduler::LeastConnection)],
        ) {
            let mut kernel = BTreeMap::new();
            for (desired, connections) in steps {
                let made = plan(&desired, &kernel, scheduler);
                apply(&mut kernel, &made.changes).map_err(TestCaseError::fail)?;
                prop_assert!(plan(&desired, &kernel, scheduler).changes.is_empty());
                prop_assert_eq!(kernel.keys().collect::<Vec<_>>(), desired.keys().collect::<Vec<_>>());
                for (server, found) in &kernel {
                    let taking: BTreeSet<Endpoint> = found.reals.iter().filter(|(_, r)| r.weight > 0).map(|(e, _)| *e).collect();
                    prop_assert_eq!(&taking, &desired[server].endpoints);
                    prop_assert_eq!(made.draining.contains(server), taking.len() < found.reals.len());
                }
                kernel.values_mut().flat_map(|found| found.reals.values_mut()).for_each(|real| real.connections = connections);
            }
        }
    }
}
