//! The chains of one Service, and its rules in the chains that all share.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use super::{
    names::{
        EXTERNAL_SERVICES, MARK_MASQ, NODE_PORTS, PROXY_FIREWALL, SERVICES, endpoint_chain, external_chain,
        firewall_chain, pool_chain,
    },
    rules::{SharedRule, Table},
};
use crate::{
    claims,
    model::{Endpoint, Entrance, Otherwise, Pods, Pool, PortModel, Proto, ServiceModel, Strangers, Via, Way},
};

/// Rules by chain of the table nat.
pub(super) type Own = BTreeMap<String, Vec<String>>;
pub(super) type Wish = claims::Wish<Own, Vec<SharedRule>>;

/// Loopback's addresses, where no node port is.
pub(super) fn loopback(ipv6: bool) -> &'static str {
    if ipv6 { "::1/128" } else { "127.0.0.0/8" }
}

pub(super) fn render(service: &ServiceModel, ipv6: bool, pods: Pods) -> Wish {
    let mut wish = Wish::new(service.created);
    for port in service.ports_of(ipv6) {
        for (entrance, via) in port.entrances() {
            wish.claim(entrance, via, shared(port, entrance, via));
        }
        chains(&mut wish.own, port, pods);
    }
    if let Some((port, answer)) = &service.health {
        let entrance = Entrance::NodePort { ipv6, proto: Proto::Tcp, port: *port };
        let why = comment(format!("{}/{} health check node port", answer.namespace, answer.service));
        // Whatever the host's own filter says.
        let rule = format!("{why} {} -j ACCEPT", to_port(entrance));
        let accept = SharedRule { table: Table::Filter, chain: NODE_PORTS, rule };
        wish.claim(entrance, Via::NodePort, vec![accept]);
    }
    wish
}

fn comment(text: impl std::fmt::Display) -> String {
    format!("-m comment --comment \"{text}\"")
}

/// `-p tcp -m tcp --dport 80`.
fn to_port(entrance: Entrance) -> String {
    let (proto, port) = match entrance {
        Entrance::Address(_, proto, port) | Entrance::NodePort { proto, port, .. } => (proto.name(), port),
    };
    format!("-p {proto} -m {proto} --dport {port}")
}

fn shared(port: &PortModel, entrance: Entrance, via: Via) -> Vec<SharedRule> {
    let door = port.door(via);
    let name = &port.name;
    let mut rules = Vec::new();
    let what = match via {
        Via::ClusterIp => format!("{name} cluster IP"),
        Via::ExternalIp => format!("{name} external IP"),
        Via::LoadBalancer => format!("{name} loadbalancer IP"),
        Via::NodePort => name.to_string(),
    };
    if let Some(way) = door.way {
        let chain = match way {
            Way::Internal => pool_chain(port, port.internal.pool()),
            Way::External => external_chain(port),
            Way::Filtered => firewall_chain(port),
        };
        let (shared, address) = match entrance {
            Entrance::Address(ip, ..) => (SERVICES, format!(" -d {ip}")),
            Entrance::NodePort { .. } => (NODE_PORTS, String::new()),
        };
        let rule = format!("{}{address} {} -j {chain}", comment(what), to_port(entrance));
        rules.push(SharedRule { table: Table::Nat, chain: shared, rule });
    }
    if let Some(otherwise) = door.otherwise {
        let (chain, why) = match (door.way, otherwise) {
            (Some(Way::Filtered), _) => {
                (PROXY_FIREWALL, format!("{name} traffic not accepted by {}", firewall_chain(port)))
            }
            (_, Otherwise::Discard) => (external_or_not(via), format!("{name} has no local endpoints")),
            (_, Otherwise::Refuse) => (external_or_not(via), format!("{name} has no endpoints")),
        };
        let address = match entrance {
            Entrance::Address(ip, ..) => format!("-d {ip}"),
            Entrance::NodePort { ipv6, .. } => {
                format!("! -d {} -m addrtype --dst-type LOCAL", loopback(ipv6))
            }
        };
        let verdict = if otherwise == Otherwise::Discard { "DROP" } else { "REJECT" };
        let rule = format!("{} {address} {} -j {verdict}", comment(why), to_port(entrance));
        rules.push(SharedRule { table: Table::Filter, chain, rule });
    }
    rules
}

fn external_or_not(via: Via) -> &'static str {
    if via == Via::ClusterIp { SERVICES } else { EXTERNAL_SERVICES }
}

fn chains(own: &mut Own, port: &PortModel, pods: Pods) {
    let mut reached = BTreeSet::new();
    for (pool, endpoints) in port.pools() {
        let mut rules = Vec::new();
        if let Some(strangers) = pods.strangers().filter(|_| port.internal.pool() == pool) {
            let (ip, proto, number) = (port.cluster_ip, port.proto.name(), port.port);
            let why = comment(format!("{} cluster IP", port.name));
            let from = match strangers {
                Strangers::Everybody => String::new(),
                Strangers::NotIn(net) => format!(" ! -s {net}"),
            };
            rules.push(format!("{why} -d {ip} -p {proto} -m {proto} --dport {number}{from} -j {MARK_MASQ}"));
        }
        rules.extend(balance(port, endpoints));
        own.insert(pool_chain(port, pool), rules);
        reached.extend(endpoints);
    }
    if port.is_external() && port.door(Via::NodePort).way.is_some() {
        own.insert(external_chain(port), external(port, pods));
    }
    if !port.balancer_ips.is_empty() && port.door(Via::LoadBalancer).way == Some(Way::Filtered) {
        let ranges = port.source_ranges.iter().filter(|net| net.addr().is_ipv6() == port.is_ipv6());
        let why = comment(format!("{} loadbalancer IP", port.name));
        let rules = ranges.map(|net| format!("{why} -s {net} -j {}", external_chain(port))).collect();
        own.insert(firewall_chain(port), rules);
    }
    for endpoint in reached {
        own.insert(endpoint_chain(port, endpoint), to_endpoint(port, endpoint));
    }
}

fn external(port: &PortModel, pods: Pods) -> Vec<String> {
    let name = &port.name;
    let anywhere = pool_chain(port, Pool::Cluster);
    if !port.external.local_only {
        // Whoever asked must get the answer from this node, whichever node has the endpoint.
        let why = comment(format!("masquerade traffic for {name} external destinations"));
        return vec![format!("{why} -j {MARK_MASQ}"), format!("-j {anywhere}")];
    }
    let mut rules = Vec::new();
    if port.pool(Pool::Cluster).is_some() {
        // This cluster is not outside: its pods and this node reach every endpoint.
        if let Some(net) = pods.range {
            let why = comment(format!("pod traffic for {name} external destinations"));
            rules.push(format!("{why} -s {net} -j {anywhere}"));
        }
        for (what, chain) in [("masquerade", MARK_MASQ), ("route", &anywhere)] {
            let why = comment(format!("{what} LOCAL traffic for {name} external destinations"));
            rules.push(format!("{why} -m addrtype --src-type LOCAL -j {chain}"));
        }
    }
    if port.pool(Pool::Local).is_some() {
        rules.push(format!("-j {}", pool_chain(port, Pool::Local)));
    }
    rules
}

/// First where a client was sent lately, then anywhere.
fn balance(port: &PortModel, endpoints: &BTreeSet<Endpoint>) -> Vec<String> {
    let to = |endpoint: &Endpoint| {
        (comment(format!("{} -> {endpoint}", port.name)), endpoint_chain(port, endpoint))
    };
    let mut rules = Vec::new();
    if let Some(timeout) = port.affinity {
        for endpoint in endpoints {
            let (why, chain) = to(endpoint);
            let seconds = timeout.as_secs();
            rules.push(format!(
                "{why} -m recent --name {chain} --rcheck --seconds {seconds} --reap -j {chain}"
            ));
        }
    }
    let count = endpoints.len();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let (why, chain) = to(endpoint);
        // The first takes its share of all, the next of what the first left, the last what is left.
        let share = match count - index {
            1 => String::new(),
            left => format!(" -m statistic --mode random --probability {}", one_in(left)),
        };
        rules.push(format!("{why}{share} -j {chain}"));
    }
    rules
}

/// `1 / count` with ten digits.
fn one_in(count: usize) -> String {
    format!("0.{:010}", 10_000_000_000 / count.max(2))
}

fn to_endpoint(port: &PortModel, endpoint: &Endpoint) -> Vec<String> {
    let (why, proto) = (comment(&port.name), port.proto.name());
    let remember = port
        .affinity
        .map_or_else(String::new, |_| format!(" -m recent --name {} --set", endpoint_chain(port, endpoint)));
    vec![
        // A pod that reaches itself through its Service must see another address than its own (hairpin).
        format!("{why} -s {} -j {MARK_MASQ}", endpoint.ip),
        format!("{why}{remember} -p {proto} -m {proto} -j DNAT --to-destination {endpoint}"),
    ]
}
