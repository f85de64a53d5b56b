//! The chains that all Services share, and how packets come to them.
//!
//! ```text
//!   nat:     PREROUTING, OUTPUT ──▶ KUBE-SERVICES ──▶ KUBE-SVC-… or KUBE-SVL-… ──▶ KUBE-SEP-… ──▶ DNAT
//!                                        └──▶ KUBE-NODEPORTS ──▶ KUBE-EXT-… ──▶ KUBE-SVC-… or KUBE-SVL-…
//!            POSTROUTING ──▶ KUBE-POSTROUTING: masquerades what KUBE-MARK-MASQ marked
//!   filter:  what comes untranslated ──▶ KUBE-SERVICES, KUBE-EXTERNAL-SERVICES, KUBE-PROXY-FIREWALL ──▶ REJECT or DROP
//! ```
#![deny(clippy::disallowed_methods)]

use super::{
    names::{
        CANARY, EXTERNAL_SERVICES, FORWARD, MARK_MASQ, NODE_PORTS, POSTROUTING, PROXY_FIREWALL, SERVICES,
    },
    plan::Layout,
    render::loopback,
    rules::Table,
};
use crate::nftables::MASQUERADE_BIT;

/// A rule in a chain of the kernel's that leads to one of ours.
pub(super) struct Jump {
    pub(super) table: Table,
    pub(super) from: &'static str,
    pub(super) rule: String,
}

/// Chains by table.
pub(super) fn chains(table: Table) -> &'static [&'static str] {
    match table {
        Table::Mangle => &[CANARY],
        Table::Filter => &[CANARY, NODE_PORTS, SERVICES, EXTERNAL_SERVICES, FORWARD, PROXY_FIREWALL],
        Table::Nat => &[CANARY, NODE_PORTS, SERVICES, POSTROUTING, MARK_MASQ],
    }
}

/// In the order in which packets should meet them.
pub(super) fn jumps() -> Vec<Jump> {
    let jump = |table, from, fresh: bool, why: &str, to: &str| {
        let fresh = if fresh { "-m conntrack --ctstate NEW " } else { "" };
        Jump { table, from, rule: format!("{fresh}-m comment --comment \"{why}\" -j {to}") }
    };
    let filter = |from, why, to| jump(Table::Filter, from, true, why, to);
    let mut jumps = vec![
        jump(Table::Nat, "PREROUTING", false, "kubernetes service portals", SERVICES),
        jump(Table::Nat, "OUTPUT", false, "kubernetes service portals", SERVICES),
        jump(Table::Nat, "POSTROUTING", false, "kubernetes postrouting rules", POSTROUTING),
    ];
    for from in ["INPUT", "FORWARD", "OUTPUT"] {
        jumps.push(filter(from, "kubernetes load balancer firewall", PROXY_FIREWALL));
    }
    // That from OUTPUT is none of kube-proxy's: without it, this host's own packets to an address without endpoints would leave it.
    for from in ["INPUT", "FORWARD", "OUTPUT"] {
        jumps.push(filter(from, "kubernetes externally-visible service portals", EXTERNAL_SERVICES));
    }
    jumps.push(jump(Table::Filter, "INPUT", false, "kubernetes health check service ports", NODE_PORTS));
    for from in ["FORWARD", "OUTPUT"] {
        jumps.push(filter(from, "kubernetes service portals", SERVICES));
    }
    jumps.push(jump(Table::Filter, "FORWARD", false, "kubernetes forwarding rules", FORWARD));
    jumps
}

/// What the shared chains hold without any Service: table, chain, rule.
pub(super) fn rules(layout: Layout) -> Vec<(Table, &'static str, String)> {
    let loopback = loopback(layout.ipv6);
    let bit = format!("{MASQUERADE_BIT:#x}");
    // They would pass untranslated, an endpoint's answer with the endpoint's own address, which its client resets.
    let invalid = (Table::Filter, FORWARD, "-m conntrack --ctstate INVALID -j DROP".to_string());
    let others = [
        (
            Table::Filter,
            FORWARD,
            format!("-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {bit}/{bit} -j ACCEPT"),
        ),
        (
            Table::Filter,
            FORWARD,
            "-m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".into(),
        ),
        (
            Table::Nat,
            SERVICES,
            format!("-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" ! -d {loopback} -m addrtype --dst-type LOCAL -j {NODE_PORTS}"),
        ),
        (Table::Nat, MARK_MASQ, format!("-j MARK --or-mark {bit}")),
        (Table::Nat, POSTROUTING, format!("-m mark ! --mark {bit}/{bit} -j RETURN")),
        // Unmarked again, so that a packet that comes back here (a tunnel's) is not taken for marked.
        (Table::Nat, POSTROUTING, format!("-j MARK --xor-mark {bit}")),
        (
            Table::Nat,
            POSTROUTING,
            "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully".into(),
        ),
    ];
    layout.drop_invalid.then_some(invalid).into_iter().chain(others).collect()
}
