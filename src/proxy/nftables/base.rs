//! The part of the table that every Service shares.
//!
//! ```text
//!   prerouting, output ──▶ services ──vmap service-ips────────▶ service-… ──▶ endpoint-… ──▶ dnat
//!                                   └─vmap service-nodeports──▶ external-… ──▶ service-… or local-…
//!   input, forward, output ──vmap no-endpoint-…──▶ refuse | discard
//!   postrouting ──▶ masquerade what was marked
//! ```
#![deny(clippy::disallowed_methods)]

use ipnet::IpNet;
use netlink::nft::{
    Chain, Change, DataType, Family, HookKind, HookPoint, Key, Reject, Rule, Set, SetKind, Statement,
    Verdict, ct_state,
};

use super::names::{
    DISCARD, MARK, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, REFUSE, SERVICE_IPS, SERVICE_NODE_PORTS, SERVICES,
};

/// Bit 14, the one that kube-proxy marks with too, so that other software that knows it leaves it alone.
pub(super) const MASQUERADE_BIT: u32 = 0x4000;

const PREROUTING: &str = "nat-prerouting";
const OUTPUT: &str = "nat-output";
const POSTROUTING: &str = "nat-postrouting";
/// Before the filters of others (0), so that a Service without endpoints is refused whatever they accept.
const FILTER_PRIORITY: i32 = -110;
const FILTERS: [(&str, HookPoint); 3] = [
    ("filter-input", HookPoint::Input),
    ("filter-forward", HookPoint::Forward),
    ("filter-output", HookPoint::Output),
];

/// Empties the table, if there is one, and makes what every Service shares.
pub(super) fn base(family: Family) -> Vec<Change> {
    // The first makes the second possible where there is no table yet.
    let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
    changes.extend(chains().into_iter().map(Change::AddChain));
    changes.extend(maps().into_iter().map(Change::AddSet));
    changes.extend(rules(family).into_iter().map(Change::AddRule));
    changes
}

fn chains() -> Vec<Chain> {
    let mut chains = vec![
        Chain::hooked(PREROUTING, HookKind::Nat, HookPoint::Prerouting, -100),
        Chain::hooked(OUTPUT, HookKind::Nat, HookPoint::Output, -100),
        Chain::hooked(POSTROUTING, HookKind::Nat, HookPoint::Postrouting, 100),
    ];
    chains.extend([SERVICES, MARK, REFUSE, DISCARD].map(Chain::plain));
    chains.extend(FILTERS.map(|(name, point)| Chain::hooked(name, HookKind::Filter, point, FILTER_PRIORITY)));
    chains
}

fn maps() -> Vec<Set> {
    let map = |name: &str, key: &[DataType]| Set {
        name: name.to_string(),
        key: key.to_vec(),
        kind: SetKind::VerdictMap,
        timeout: None,
        intervals: false,
    };
    let (ip, port) =
        ([DataType::Address, DataType::Proto, DataType::Port], [DataType::Proto, DataType::Port]);
    vec![
        map(SERVICE_IPS, &ip),
        map(SERVICE_NODE_PORTS, &port),
        map(NO_ENDPOINT_IPS, &ip),
        map(NO_ENDPOINT_NODE_PORTS, &port),
    ]
}

fn rules(family: Family) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new(PREROUTING, [Statement::jump(SERVICES)]),
        Rule::new(OUTPUT, [Statement::jump(SERVICES)]),
        Rule::new(SERVICES, [by_address(SERVICE_IPS)]),
        Rule::new(SERVICES, by_node_port(family, SERVICE_NODE_PORTS)),
        Rule::new(MARK, [Statement::SetMark { keep: !MASQUERADE_BIT, flip: MASQUERADE_BIT }]),
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
    ];
    for (chain, _) in FILTERS {
        let fresh = Statement::CtState(ct_state::NEW);
        rules.push(Rule::new(chain, [fresh.clone(), by_address(NO_ENDPOINT_IPS)]));
        let node_port = by_node_port(family, NO_ENDPOINT_NODE_PORTS);
        rules.push(Rule::new(chain, std::iter::once(fresh).chain(node_port)));
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
