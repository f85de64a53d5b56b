//! The table `coracle-network`: host ports, and the masquerade of what leaves the cluster.
//!
//! ```text
//!   prerouting, output (dstnat + 1: Services first)
//!     fib daddr type local  dnat to  addr . proto . port map @host-ports-at
//!     fib daddr type local  dnat to         proto . port map @host-ports
//!   input
//!     ct status dnat accept
//!     iifname != "lo" daddr 127.0.0.0/8 drop      nobody reaches the host's loopback through route_localnet
//!   postrouting (srcnat)
//!     saddr . daddr @hairpin masquerade            a pod that calls its own host port
//!     saddr 127.0.0.0/8 oifname != "lo" masquerade the host that calls one by its loopback
//!     saddr <pod range> daddr <cluster range> return
//!     saddr <pod range> daddr <multicast> return
//!     saddr <pod range> masquerade
//! ```
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netlink::nft::{
    Chain, Change, Data, DataType, Element, Family, HookKind, HookPoint, Key, Proto, Rule, Set, SetKind,
    Statement, TableName, Transaction, Verdict,
};

use super::model::{HostPort, Protocol, Record, Settings};

pub(crate) const TABLE: &str = "coracle-network";
const PORTS: &str = "host-ports";
const PORTS_AT: &str = "host-ports-at";
const HAIRPIN: &str = "hairpin";
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

fn table(family: Family) -> TableName {
    TableName { family, name: TABLE.to_string() }
}

/// The whole table, in place of the one that may be there.
pub(super) fn whole(settings: &Settings, records: &[Record], family: Family) -> Transaction {
    let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
    changes.extend(sets());
    changes.extend(chains().into_iter().map(Change::AddChain));
    changes.extend(rules(settings, family).into_iter().map(Change::AddRule));
    changes.extend(elements(records, family));
    Transaction { table: table(family), changes }
}

/// Host ports anew, all else as it is. Refused where there is no table.
pub(super) fn host_ports(records: &[Record], family: Family) -> Transaction {
    let flush = [PORTS, PORTS_AT, HAIRPIN].map(|set| Change::FlushSet(set.to_string()));
    let changes = flush.into_iter().chain(elements(records, family)).collect();
    Transaction { table: table(family), changes }
}

/// No table.
pub(super) fn removal(family: Family) -> Transaction {
    Transaction { table: table(family), changes: vec![Change::AddTable, Change::DeleteTable] }
}

fn sets() -> [Change; 3] {
    let set = |name: &str, key: &[DataType], kind| {
        Change::AddSet(Set {
            name: name.to_string(),
            key: key.to_vec(),
            kind,
            timeout: None,
            intervals: false,
        })
    };
    let destination = || SetKind::Map(vec![DataType::Address, DataType::Port]);
    [
        set(PORTS, &[DataType::Proto, DataType::Port], destination()),
        set(PORTS_AT, &[DataType::Address, DataType::Proto, DataType::Port], destination()),
        set(HAIRPIN, &[DataType::Address, DataType::Address], SetKind::Set),
    ]
}

fn chains() -> [Chain; 4] {
    [
        // After the Services' own: their addresses win, as in upstream's order of rules.
        Chain::hooked("prerouting", HookKind::Nat, HookPoint::Prerouting, DSTNAT + 1),
        Chain::hooked("output", HookKind::Nat, HookPoint::Output, DSTNAT + 1),
        Chain::hooked("input", HookKind::Filter, HookPoint::Input, 0),
        Chain::hooked("postrouting", HookKind::Nat, HookPoint::Postrouting, SRCNAT),
    ]
}

fn rules(settings: &Settings, family: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    for chain in ["prerouting", "output"] {
        let at = Statement::DnatMap {
            keys: vec![Key::Daddr, Key::L4Proto, Key::Dport],
            map: PORTS_AT.to_string(),
        };
        let any = Statement::DnatMap { keys: vec![Key::L4Proto, Key::Dport], map: PORTS.to_string() };
        rules.push(Rule::new(chain, [Statement::DaddrIsLocal, at]));
        rules.push(Rule::new(chain, [Statement::DaddrIsLocal, any]));
    }
    let masquerade = || Statement::Masquerade { fully_random: false };
    let within = |key, net| Statement::InNet { key, net, negate: false };
    let hairpin =
        Statement::InSet { keys: vec![Key::Saddr, Key::Daddr], set: HAIRPIN.to_string(), negate: false };
    rules.push(Rule::new("postrouting", [hairpin, masquerade()]));
    if family == Family::Ip {
        let loopback = IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8);
        let elsewhere = |key| Statement::Interface { key, name: "lo".to_string(), negate: true };
        rules.push(Rule::new("input", [Statement::CtStatusDnat, Statement::Do(Verdict::Accept)]));
        rules.push(Rule::new(
            "input",
            [elsewhere(Key::InputInterface), within(Key::Daddr, loopback), Statement::Do(Verdict::Drop)],
        ));
        rules.push(Rule::new(
            "postrouting",
            [within(Key::Saddr, loopback), elsewhere(Key::OutputInterface), masquerade()],
        ));
    }
    let Some(pods) = settings.pod_cidr(family == Family::Ip) else { return rules };
    let multicast = match family {
        Family::Ip => IpNet::new_assert(IpAddr::from([224, 0, 0, 0]), 4),
        Family::Ip6 => IpNet::new_assert(IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8),
    };
    let same_family = |net: &&IpNet| net.addr().is_ipv4() == (family == Family::Ip);
    let inside: BTreeSet<IpNet> =
        settings.cluster_cidrs.iter().filter(same_family).copied().chain([pods]).collect();
    for net in inside.into_iter().chain([multicast]) {
        let stays = [within(Key::Saddr, pods), within(Key::Daddr, net), Statement::Do(Verdict::Return)];
        rules.push(Rule::new("postrouting", stays));
    }
    rules.push(Rule::new("postrouting", [within(Key::Saddr, pods), masquerade()]));
    rules
}

/// The elements for all host ports. Where two pods claim one port (the old one is still being torn down),
/// the newer has it.
fn elements(records: &[Record], family: Family) -> Vec<Change> {
    let mut ports: BTreeMap<Vec<Data>, Element> = BTreeMap::new();
    let mut at: BTreeMap<Vec<Data>, Element> = BTreeMap::new();
    let mut hairpin = BTreeSet::new();
    let same_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::Ip);
    for record in records {
        let Some(pod) = record.addresses.iter().copied().find(same_family) else { continue };
        for port in &record.host_ports {
            if !port.host_ip.as_ref().is_none_or(same_family) {
                continue;
            }
            let key = key(port);
            let value = [Data::Address(pod), Data::Port(port.container_port)];
            let into = if port.host_ip.is_some() { &mut at } else { &mut ports };
            into.insert(key.clone(), Element::mapping(key, value));
            hairpin.insert(pod);
        }
    }
    let add = |set: &str, elements: Vec<Element>| Change::AddElements { set: set.to_string(), elements };
    let pairs =
        hairpin.into_iter().map(|pod| Element::member([Data::Address(pod), Data::Address(pod)])).collect();
    [
        add(PORTS, ports.into_values().collect()),
        add(PORTS_AT, at.into_values().collect()),
        add(HAIRPIN, pairs),
    ]
    .into_iter()
    .filter(|change| !matches!(change, Change::AddElements { elements, .. } if elements.is_empty()))
    .collect()
}

fn key(port: &HostPort) -> Vec<Data> {
    let proto = match port.protocol {
        Protocol::Tcp => Proto::Tcp,
        Protocol::Udp => Proto::Udp,
        Protocol::Sctp => Proto::Sctp,
    };
    port.host_ip
        .map(Data::Address)
        .into_iter()
        .chain([Data::Proto(proto), Data::Port(port.host_port)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::AttachmentId;

    fn record(sequence: u64, address: &str, host_port: u16) -> Record {
        Record {
            id: AttachmentId { container_id: format!("c{sequence}"), ifname: "eth0".into() },
            netns: "/run/netns/x".into(),
            addresses: vec![address.parse().unwrap()],
            host_ports: vec![HostPort {
                host_ip: None,
                host_port,
                container_port: 80,
                protocol: Protocol::Tcp,
            }],
            bandwidth: super::super::model::Bandwidth::default(),
            sequence,
            leaving: false,
        }
    }

    fn settings() -> Settings {
        Settings {
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
            cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            mtu: None,
            tunnel_mtu: None,
        }
    }

    #[test]
    fn the_whole_table_reads_as_the_picture_says() {
        insta::assert_snapshot!(whole(&settings(), &[record(1, "10.1.0.2", 8080)], Family::Ip).render());
    }

    #[test]
    fn of_two_pods_that_claim_one_port_the_newer_has_it() {
        let text =
            host_ports(&[record(1, "10.1.0.2", 8080), record(2, "10.1.0.3", 8080)], Family::Ip).render();
        assert!(text.contains("tcp . 8080 : 10.1.0.3 . 80"), "{text}");
        assert!(!text.contains("tcp . 8080 : 10.1.0.2"), "{text}");
    }

    #[test]
    fn a_family_without_pods_gets_no_elements() {
        let transaction = host_ports(&[record(1, "10.1.0.2", 8080)], Family::Ip6);
        assert!(transaction.changes.iter().all(|change| matches!(change, Change::FlushSet(_))));
    }
}
