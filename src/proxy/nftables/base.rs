//! The part of the table that every Service shares.
//!
//! ```text
//!   prerouting, output ──▶ services ──vmap service-ips────────▶ service-… or local-… ──▶ endpoint-… ──▶ dnat
//!                                   └─vmap service-nodeports──▶ external-… ──▶ service-… or local-…
//!   input, forward, output ──vmap no-endpoint-…──▶ refuse | discard
//!   postrouting ──▶ masquerade what was marked
//! ```
//!
//! Beside IPVS, `services` only marks, and `input` also judges what IPVS would take but must not, and what comes to an address
//! of a Service without being for one of its ports: such an address is on the dummy link there. One that is the node's by itself
//! too is left alone.
#![deny(clippy::disallowed_methods)]

use ipnet::IpNet;
use netlink::nft::{
    Chain, Change, Data, DataType, Family, HookKind, HookPoint, Key, Proto, Reject, Rule, Set, SetKind,
    Statement, Verdict, ct_state,
};

use super::names::{
    DISCARD, HAIRPINS, INSIDERS, MARK, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, REFUSE, SERVICE_ADDRESSES,
    SERVICE_IPS, SERVICE_NODE_PORTS, SERVICES, STRANGERS,
};
use super::render::{Layout, Role, strangers};

/// Bit 14, the one that kube-proxy marks with too, so that other software that knows it leaves it alone.
pub(crate) const MASQUERADE_BIT: u32 = 0x4000;

const PREROUTING: &str = "nat-prerouting";
const OUTPUT: &str = "nat-output";
const POSTROUTING: &str = "nat-postrouting";
const MARK_PREROUTING: &str = "mark-prerouting";
const MARK_OUTPUT: &str = "mark-output";
/// Before the filters of others (0), so that a Service without endpoints is refused whatever they accept. Where the table
/// translates, behind the translation of this host's own packets (−100): what was translated is not what nobody translates.
/// Where IPVS does, before it takes this host's own packets (−98).
fn filter_priority(role: Role) -> i32 {
    match role {
        Role::Translate => -90,
        Role::BesideIpvs => -110,
    }
}

/// Where `nft(8)` has `mangle`.
const MARK_PRIORITY: i32 = -150;
const FILTERS: [(&str, HookPoint); 3] = [
    ("filter-input", HookPoint::Input),
    ("filter-forward", HookPoint::Forward),
    ("filter-output", HookPoint::Output),
];

/// Empties the table, if there is one, and makes what every Service shares.
pub(super) fn base(layout: Layout) -> Vec<Change> {
    // The first makes the second possible where there is no table yet.
    let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
    changes.extend(chains(layout.role).into_iter().map(Change::AddChain));
    changes.extend(sets(layout.role).into_iter().map(Change::AddSet));
    changes.extend(rules(layout).into_iter().map(Change::AddRule));
    changes
}

/// The chains through which packets come to `services`.
fn entries(role: Role) -> [Chain; 2] {
    match role {
        Role::Translate => [
            Chain::hooked(PREROUTING, HookKind::Nat, HookPoint::Prerouting, -100),
            Chain::hooked(OUTPUT, HookKind::Nat, HookPoint::Output, -100),
        ],
        Role::BesideIpvs => [
            Chain::hooked(MARK_PREROUTING, HookKind::Filter, HookPoint::Prerouting, MARK_PRIORITY),
            Chain::hooked(MARK_OUTPUT, HookKind::Filter, HookPoint::Output, MARK_PRIORITY),
        ],
    }
}

fn chains(role: Role) -> Vec<Chain> {
    let mut chains = entries(role).to_vec();
    chains.push(Chain::hooked(POSTROUTING, HookKind::Nat, HookPoint::Postrouting, 100));
    chains.extend([SERVICES, MARK, REFUSE, DISCARD].map(Chain::plain));
    if role == Role::BesideIpvs {
        chains.extend([STRANGERS, INSIDERS].map(Chain::plain));
    }
    let priority = filter_priority(role);
    chains.extend(FILTERS.map(|(name, point)| Chain::hooked(name, HookKind::Filter, point, priority)));
    chains
}

fn sets(role: Role) -> Vec<Set> {
    let set = |name: &str, key: &[DataType], kind| Set {
        name: name.to_string(),
        key: key.to_vec(),
        kind,
        timeout: None,
        intervals: false,
    };
    let map = |name, key: &[DataType]| set(name, key, SetKind::VerdictMap);
    let (ip, port) =
        ([DataType::Address, DataType::Proto, DataType::Port], [DataType::Proto, DataType::Port]);
    let mut sets = vec![
        map(SERVICE_IPS, &ip),
        map(SERVICE_NODE_PORTS, &port),
        map(NO_ENDPOINT_IPS, &ip),
        map(NO_ENDPOINT_NODE_PORTS, &port),
    ];
    if role == Role::BesideIpvs {
        sets.push(set(SERVICE_ADDRESSES, &[DataType::Address], SetKind::Set));
        sets.push(set(HAIRPINS, &[DataType::Address, DataType::Address], SetKind::Set));
    }
    sets
}

fn rules(layout: Layout) -> Vec<Rule> {
    let (family, role) = (layout.family, layout.role);
    let mut rules: Vec<Rule> =
        entries(role).iter().map(|entry| Rule::new(&entry.name, [Statement::jump(SERVICES)])).collect();
    rules.extend([
        Rule::new(SERVICES, [by_address(SERVICE_IPS)]),
        Rule::new(SERVICES, by_node_port(family, SERVICE_NODE_PORTS)),
        Rule::new(MARK, [Statement::SetMark { keep: !MASQUERADE_BIT, flip: MASQUERADE_BIT }]),
    ]);
    if role == Role::BesideIpvs {
        // Which endpoint it will be is not known where the others are marked.
        let pairs =
            Statement::InSet { keys: vec![Key::Saddr, Key::Daddr], set: HAIRPINS.into(), negate: false };
        rules.push(Rule::new(POSTROUTING, [pairs, Statement::jump(MARK)]));
    }
    rules.extend([
        Rule::new(
            POSTROUTING,
            [
                Statement::MarkMasked { mask: MASQUERADE_BIT, value: MASQUERADE_BIT, negate: false },
                // Unmarked again, so that a packet that comes back here (a tunnel's) is not taken for marked.
                Statement::SetMark { keep: !MASQUERADE_BIT, flip: 0 },
                Statement::Masquerade { fully_random: true },
            ],
        ),
        Rule::new(REFUSE, [Statement::Reject(Reject::PortUnreachable)]),
        Rule::new(DISCARD, [Statement::Do(Verdict::Drop)]),
    ]);
    if layout.drop_invalid {
        // They would pass untranslated, an endpoint's answer with the endpoint's own address, which its client resets.
        let (forward, _) = FILTERS[1];
        let invalid = Statement::CtState(ct_state::INVALID);
        rules.push(Rule::new(forward, [invalid, Statement::Do(Verdict::Drop)]));
    }
    for (chain, _) in FILTERS {
        let fresh = Statement::CtState(ct_state::NEW);
        rules.push(Rule::new(chain, [fresh.clone(), by_address(NO_ENDPOINT_IPS)]));
        let node_port = by_node_port(family, NO_ENDPOINT_NODE_PORTS);
        rules.push(Rule::new(chain, std::iter::once(fresh).chain(node_port)));
    }
    if role == Role::BesideIpvs {
        rules.extend(beside_ipvs(layout));
    }
    rules
}

fn beside_ipvs(layout: Layout) -> Vec<Rule> {
    let fresh = Statement::CtState(ct_state::NEW);
    let back = Statement::Do(Verdict::Return);
    // Where it is not known who is a stranger, this host is one: it has the Service's address, and asks with it.
    let host = || {
        let from = Statement::InSet { keys: vec![Key::Saddr], set: SERVICE_ADDRESSES.into(), negate: false };
        vec![from, Statement::jump(MARK)]
    };
    let mut rules = vec![Rule::new(STRANGERS, strangers(None, layout.pods).unwrap_or_else(host))];
    if let Some(net) = layout.pods.range {
        let pod = Statement::InNet { key: Key::Saddr, net, negate: false };
        rules.push(Rule::new(INSIDERS, [pod, back.clone()]));
    }
    rules.push(Rule::new(INSIDERS, [Statement::SaddrIsLocal, back]));
    rules.push(Rule::new(INSIDERS, [Statement::goto(DISCARD)]));
    let (input, _) = FILTERS[0];
    // What is for a Service's port ends here, and what remains is for no port that the Service has.
    rules.push(Rule::new(input, [fresh.clone(), by_address(SERVICE_IPS)]));
    for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
        rules.push(Rule::new(
            input,
            [
                fresh.clone(),
                Statement::InSet { keys: vec![Key::Daddr], set: SERVICE_ADDRESSES.into(), negate: false },
                Statement::is(Key::L4Proto, Data::Proto(proto)),
                Statement::goto(REFUSE),
            ],
        ));
    }
    rules
}

fn by_address(map: &str) -> Statement {
    Statement::Vmap { keys: vec![Key::Daddr, Key::L4Proto, Key::Dport], map: map.to_string() }
}

/// A node port is open on every address of the host but loopback's.
fn by_node_port(family: Family, map: &str) -> Vec<Statement> {
    let mut statements = vec![Statement::DaddrIsLocal];
    let loopback = match family {
        Family::Ip => IpNet::new_assert([127, 0, 0, 0].into(), 8),
        Family::Ip6 => IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
    };
    statements.push(Statement::InNet { key: Key::Daddr, net: loopback, negate: true });
    statements.push(Statement::Vmap { keys: vec![Key::L4Proto, Key::Dport], map: map.to_string() });
    statements
}
