//! The chains, sets and map elements of one Service.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use netlink::nft::{Data, DataType, Family, Key, Set, SetKind, Statement, Verdict};

use super::names::{
    DISCARD, INSIDERS, MARK, REFUSE, STRANGERS, affinity_set, endpoint_chain, external_chain, pool_chain,
    sources_chain,
};
use crate::{
    claims,
    model::{
        Door, Endpoint, Entrance, Otherwise, Pods, Pool, PortModel, Proto, ServiceModel, Strangers, Via, Way,
    },
};

/// What only one Service puts into the table of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Rules by chain, each a list of statements.
    pub(super) chains: BTreeMap<String, Vec<Vec<Statement>>>,
    pub(super) sets: BTreeMap<String, Set>,
    /// Endpoints that may reach themselves through IPVS.
    pub(super) hairpins: BTreeSet<IpAddr>,
}

/// What an entrance does in the shared maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elements {
    /// Where its packets are translated, or marked for who translates them.
    pub(super) services: Option<Verdict>,
    /// Where packets are judged that nobody translated.
    pub(super) no_endpoints: Option<Verdict>,
}

pub(super) type Wish = claims::Wish<Own, Elements>;

/// What the table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It translates.
    Translate,
    /// IPVS translates; the table masquerades, refuses and discards.
    BesideIpvs,
}

/// The table of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub family: Family,
    pub pods: Pods,
    pub role: Role,
    /// Whether packets that conntrack takes for no connection's are not forwarded.
    pub drop_invalid: bool,
}

impl Layout {
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        matches!(self.family, Family::Ip6)
    }
}

pub(super) fn render(service: &ServiceModel, layout: Layout) -> Wish {
    let mut wish = Wish::new(service.created);
    for port in service.ports_of(layout.is_ipv6()) {
        for (entrance, via) in port.entrances() {
            let door = port.door(via);
            let elements = match layout.role {
                Role::Translate => translated(port, door),
                Role::BesideIpvs => marked(port, door, via),
            };
            wish.claim(entrance, via, elements);
        }
        match layout.role {
            Role::Translate => wish.own.translate(port, layout.pods),
            Role::BesideIpvs => wish.own.filter(port),
        }
    }
    if let (Role::BesideIpvs, Some((port, _))) = (layout.role, &service.health) {
        // Also at an address of a Service, where a load balancer may ask.
        let entrance = Entrance::NodePort { ipv6: layout.is_ipv6(), proto: Proto::Tcp, port: *port };
        let pass = Elements { services: None, no_endpoints: Some(Verdict::Return) };
        wish.claim(entrance, Via::NodePort, pass);
    }
    wish
}

fn end(otherwise: Otherwise) -> Verdict {
    Verdict::Goto(if otherwise == Otherwise::Discard { DISCARD } else { REFUSE }.to_string())
}

fn translated(port: &PortModel, door: Door) -> Elements {
    let chain = |way| match way {
        Way::Internal => pool_chain(port, port.internal.pool()),
        Way::External => external_chain(port),
        Way::Filtered => sources_chain(port),
    };
    Elements {
        services: door.way.map(|way| Verdict::Goto(chain(way))),
        no_endpoints: door.otherwise.map(end),
    }
}

/// IPVS takes every packet that gets as far as it: what it shall not take is judged before.
fn marked(port: &PortModel, door: Door, via: Via) -> Elements {
    let goto = |chain: &str| Some(Verdict::Goto(chain.to_string()));
    let targets = port.targets(via);
    let services = match (door.way, targets.local_only) {
        (None, _) => None,
        (Some(Way::Internal), _) => goto(STRANGERS),
        // Only this cluster comes here.
        (Some(_), true) if targets.endpoints.is_empty() => goto(STRANGERS),
        // Endpoints of this node answer through it anyhow, and see who asked.
        (Some(_), true) => Some(Verdict::Return),
        (Some(_), false) => goto(MARK),
    };
    let no_endpoints = match door {
        Door { way: Some(Way::Filtered), .. } => Some(Verdict::Goto(sources_chain(port))),
        Door { way: Some(_), otherwise: Some(_) } => goto(INSIDERS),
        Door { otherwise, .. } => otherwise.map(end),
    };
    Elements { services, no_endpoints }
}

fn allowed(port: &PortModel) -> impl Iterator<Item = Statement> {
    let ranges = port.source_ranges.iter().filter(|net| net.addr().is_ipv6() == port.is_ipv6());
    ranges.map(|net| Statement::InNet { key: Key::Saddr, net: *net, negate: false })
}

fn is_filtered(port: &PortModel) -> bool {
    port.balancer_ips.first().is_some() && port.door(Via::LoadBalancer).way == Some(Way::Filtered)
}

impl Own {
    /// Before IPVS: clients of the ranges go on to it, others nowhere.
    fn filter(&mut self, port: &PortModel) {
        self.hairpins.extend(port.pools().into_iter().flat_map(|(_, endpoints)| endpoints).map(|e| e.ip));
        if is_filtered(port) {
            // Where none of a local policy's endpoints is here, IPVS has those of others for this cluster alone.
            let outside = !port.external.local_only || !port.external.endpoints.is_empty();
            let take = if outside { Statement::Do(Verdict::Return) } else { Statement::goto(INSIDERS) };
            let mut rules: Vec<_> = allowed(port).map(|from| vec![from, take.clone()]).collect();
            rules.push(vec![Statement::goto(DISCARD)]);
            self.chains.insert(sources_chain(port), rules);
        }
    }

    fn translate(&mut self, port: &PortModel, pods: Pods) {
        let mut reached = BTreeSet::new();
        for (pool, endpoints) in port.pools() {
            let mut rules = Vec::new();
            if port.internal.pool() == pool {
                rules.extend(strangers(Some(port.cluster_ip), pods));
            }
            rules.extend(balance(port, endpoints));
            self.chains.insert(pool_chain(port, pool), rules);
            reached.extend(endpoints);
        }
        if port.is_external() && port.door(Via::NodePort).way.is_some() {
            self.chains.insert(external_chain(port), external(port, pods));
        }
        if is_filtered(port) {
            let rules = allowed(port).map(|from| vec![from, Statement::goto(external_chain(port))]).collect();
            self.chains.insert(sources_chain(port), rules);
        }
        for endpoint in reached {
            self.endpoint(port, endpoint);
        }
    }

    fn endpoint(&mut self, port: &PortModel, endpoint: &Endpoint) {
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

/// Marks whose answers must come back through this node; of a cluster IP or of any address.
pub(super) fn strangers(to: Option<IpAddr>, pods: Pods) -> Option<Vec<Statement>> {
    let from = match pods.strangers()? {
        Strangers::Everybody => None,
        Strangers::NotIn(net) => Some(Statement::InNet { key: Key::Saddr, net, negate: true }),
    };
    let to = to.map(|ip| Statement::is(Key::Daddr, Data::Address(ip)));
    Some(to.into_iter().chain(from).chain([Statement::jump(MARK)]).collect())
}

fn external(port: &PortModel, pods: Pods) -> Vec<Vec<Statement>> {
    let anywhere = || Statement::goto(pool_chain(port, Pool::Cluster));
    if !port.external.local_only {
        // Whoever asked must get the answer from this node, whichever node has the endpoint.
        return vec![vec![Statement::jump(MARK)], vec![anywhere()]];
    }
    let mut rules = Vec::new();
    if port.pool(Pool::Cluster).is_some() {
        // This cluster is not outside: its pods and this node reach every endpoint.
        rules.extend(
            pods.range.map(|net| vec![Statement::InNet { key: Key::Saddr, net, negate: false }, anywhere()]),
        );
        rules.push(vec![Statement::SaddrIsLocal, Statement::jump(MARK)]);
        rules.push(vec![Statement::SaddrIsLocal, anywhere()]);
    }
    if port.pool(Pool::Local).is_some() {
        rules.push(vec![Statement::goto(pool_chain(port, Pool::Local))]);
    }
    rules
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
