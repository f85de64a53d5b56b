//! The chains, sets and map elements of one Service.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use netlink::nft::{Data, DataType, Family, Key, Set, SetKind, Statement, Verdict};

use super::claims::{Claim, ClaimKey, Standing};
use super::names::{
    DISCARD, MARK, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, REFUSE, SERVICE_IPS, SERVICE_NODE_PORTS,
    affinity_set, endpoint_chain, external_chain, internal_chain, local_chain,
};
use crate::model::{Endpoint, PortModel, ServiceModel, Targets};

/// What one Service puts into the table of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    /// Rules by chain, each a list of statements.
    pub(super) chains: BTreeMap<String, Vec<Vec<Statement>>>,
    pub(super) sets: BTreeMap<String, Set>,
    /// Elements of the shared maps that it wants.
    pub(super) claims: BTreeMap<ClaimKey, Claim>,
    /// Decides between claims.
    pub(super) created: i64,
}

/// Where pods are: connections to cluster IPs from elsewhere are masqueraded, so that answers come back through us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRange(pub Option<IpNet>);

pub(super) fn render(service: &ServiceModel, family: Family, pods: PodRange) -> Rendered {
    let mut rendered = Rendered { created: service.created, ..Rendered::default() };
    let ipv6 = matches!(family, Family::Ip6);
    for port in service.ports.iter().filter(|port| port.cluster_ip.is_ipv6() == ipv6) {
        rendered.cluster_ip(port, pods);
        rendered.external(port);
        rendered.endpoints(port);
    }
    rendered
}

fn key(ip: IpAddr, port: &PortModel) -> Vec<Data> {
    vec![Data::Address(ip), Data::Proto(port.proto), Data::Port(port.port)]
}

/// What becomes of traffic that has no endpoint to go to.
fn without_endpoints(targets: &Targets) -> Verdict {
    Verdict::Goto(if targets.elsewhere { DISCARD } else { REFUSE }.to_string())
}

impl Rendered {
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty() && self.claims.is_empty()
    }

    /// Of two claims of one Service to one key the stronger counts, then the first.
    fn claim(&mut self, key: ClaimKey, claim: Claim) {
        if self.claims.get(&key).is_none_or(|other| claim.standing < other.standing) {
            self.claims.insert(key, claim);
        }
    }

    fn cluster_ip(&mut self, port: &PortModel, pods: PodRange) {
        let key = key(port.cluster_ip, port);
        if port.internal.endpoints.is_empty() {
            let verdict = without_endpoints(&port.internal);
            self.claim(key, Claim { standing: Standing::Cluster, map: NO_ENDPOINT_IPS, verdict });
            return;
        }
        let chain = internal_chain(port);
        let verdict = Verdict::Goto(chain.clone());
        self.claim(key, Claim { standing: Standing::Cluster, map: SERVICE_IPS, verdict });
        let mut rules = Vec::new();
        if let Some(net) = pods.0.filter(|net| net.addr().is_ipv6() == port.cluster_ip.is_ipv6()) {
            rules.push(vec![
                Statement::is(Key::Daddr, Data::Address(port.cluster_ip)),
                Statement::InNet { key: Key::Saddr, net, negate: true },
                Statement::jump(MARK),
            ]);
        }
        rules.extend(balance(port, &port.internal.endpoints));
        self.chains.insert(chain, rules);
    }

    fn external(&mut self, port: &PortModel) {
        if port.external_ips.is_empty() && port.node_port.is_none() {
            return;
        }
        let node_port = port.node_port.map(|number| vec![Data::Proto(port.proto), Data::Port(number)]);
        let empty = port.external.endpoints.is_empty();
        let verdict =
            if empty { without_endpoints(&port.external) } else { Verdict::Goto(external_chain(port)) };
        let (ips, ports) =
            if empty { (NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS) } else { (SERVICE_IPS, SERVICE_NODE_PORTS) };
        for ip in &port.external_ips {
            let claim = Claim { standing: Standing::Outside, map: ips, verdict: verdict.clone() };
            self.claim(key(*ip, port), claim);
        }
        if let Some(node_port) = node_port {
            self.claim(node_port, Claim { standing: Standing::Outside, map: ports, verdict });
        }
        if empty {
            return;
        }
        let rules = if port.external.local_only {
            let local = local_chain(port);
            self.chains.insert(local.clone(), balance(port, &port.external.endpoints));
            vec![vec![Statement::goto(local)]]
        } else {
            // Whoever asked must get the answer from this node, whichever node has the endpoint.
            let mut rules = vec![vec![Statement::jump(MARK)]];
            if port.internal.endpoints == port.external.endpoints {
                rules.push(vec![Statement::goto(internal_chain(port))]);
            } else {
                rules.extend(balance(port, &port.external.endpoints));
            }
            rules
        };
        self.chains.insert(external_chain(port), rules);
    }

    fn endpoints(&mut self, port: &PortModel) {
        let all: BTreeSet<&Endpoint> = port.internal.endpoints.union(&port.external.endpoints).collect();
        for endpoint in all {
            let mut rules = vec![vec![
                // A pod that reaches itself through its Service must see another address than its own (hairpin).
                Statement::is(Key::Saddr, Data::Address(endpoint.ip)),
                Statement::jump(MARK),
            ]];
            if let Some(timeout) = port.affinity {
                let set = affinity_set(port, endpoint, timeout);
                rules.push(vec![Statement::Update { set: set.clone(), keys: vec![Key::Saddr] }]);
                self.sets.insert(set.clone(), affinity(set, timeout));
            }
            rules.push(vec![
                Statement::is(Key::L4Proto, Data::Proto(port.proto)),
                Statement::Dnat { address: endpoint.ip, port: endpoint.port },
            ]);
            self.chains.insert(endpoint_chain(port, endpoint), rules);
        }
    }
}

fn affinity(name: String, timeout: Duration) -> Set {
    Set { name, key: vec![DataType::Address], kind: SetKind::Set, timeout: Some(timeout), intervals: false }
}

/// First where a client was sent lately, then anywhere.
fn balance(port: &PortModel, endpoints: &BTreeSet<Endpoint>) -> Vec<Vec<Statement>> {
    let mut rules = Vec::new();
    if let Some(timeout) = port.affinity {
        for endpoint in endpoints {
            rules.push(vec![
                Statement::InSet {
                    keys: vec![Key::Saddr],
                    set: affinity_set(port, endpoint, timeout),
                    negate: false,
                },
                Statement::goto(endpoint_chain(port, endpoint)),
            ]);
        }
    }
    let verdicts: Vec<Verdict> = endpoints.iter().map(|e| Verdict::Goto(endpoint_chain(port, e))).collect();
    match <[Verdict; 1]>::try_from(verdicts) {
        Ok([only]) => rules.push(vec![Statement::Do(only)]),
        Err(verdicts) => rules.push(vec![Statement::RandomVerdict(verdicts)]),
    }
    rules
}
