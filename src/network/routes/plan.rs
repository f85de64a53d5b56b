//! Which routes lead to the pods of other nodes.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use netlink::route::Route;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
}

/// This host.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// Its addresses, each with the prefix of its link.
    pub(super) addresses: Vec<IpNet>,
    /// The routes that are ours.
    pub(super) routes: Vec<Route>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) set: Vec<Route>,
    pub(crate) remove: Vec<Route>,
    /// Pods on nodes that no link is shared with.
    pub(crate) unreachable: Vec<IpNet>,
}

/// All nodes but this one.
pub(crate) fn peers(nodes: &[Arc<Node>], own_name: &str) -> Vec<Peer> {
    let other = |node: &&Arc<Node>| node.metadata.name.as_deref() != Some(own_name);
    nodes
        .iter()
        .filter(other)
        .map(|node| Peer { addresses: internal_addresses(node), pod_cidrs: pod_cidrs(node) })
        .collect()
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// `spec.podCIDRs`, or `spec.podCIDR` where an older server wrote only that.
pub(crate) fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let several = spec.pod_cidrs.as_ref().filter(|cidrs| !cidrs.is_empty());
    let all: Vec<&String> =
        several.map_or_else(|| spec.pod_cidr.iter().collect(), |cidrs| cidrs.iter().collect());
    all.into_iter().filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

pub(super) fn plan(peers: &[Peer], observed: &Observed) -> Plan {
    let mut wanted: BTreeMap<IpNet, IpAddr> = BTreeMap::new();
    let mut plan = Plan::default();
    for peer in peers {
        for net in &peer.pod_cidrs {
            match gateway(peer, *net, &observed.addresses) {
                Some(gateway) => drop(wanted.insert(*net, gateway)),
                None => plan.unreachable.push(*net),
            }
        }
    }
    // Routes without a gateway are those of this node's own pods.
    for route in observed.routes.iter().filter(|route| route.gateway.is_some()) {
        let right = route.destination.is_some_and(|net| wanted.get(&net).copied() == route.gateway);
        if right {
            route.destination.map(|net| wanted.remove(&net));
        } else {
            plan.remove.push(route.clone());
        }
    }
    plan.set = wanted.into_iter().map(|(net, gateway)| Route::via(net, gateway)).collect();
    plan
}

/// The peer's address of the range's family on a link of ours.
fn gateway(peer: &Peer, net: IpNet, own: &[IpNet]) -> Option<IpAddr> {
    let on_link = |address: &IpAddr| own.iter().any(|own| own.contains(address) && own.addr() != *address);
    peer.addresses.iter().copied().filter(|ip| ip.is_ipv4() == net.addr().is_ipv4()).find(on_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, net: &str) -> Peer {
        Peer { addresses: vec![address.parse().unwrap()], pod_cidrs: vec![net.parse().unwrap()] }
    }

    fn observed(routes: Vec<Route>) -> Observed {
        Observed { addresses: vec!["192.0.2.1/24".parse().unwrap()], routes }
    }

    fn route(net: &str, gateway: &str) -> Route {
        Route { interface: Some(7), ..Route::via(net.parse().unwrap(), gateway.parse().unwrap()) }
    }

    #[test]
    fn a_node_on_the_same_link_is_routed_to_and_one_elsewhere_is_named() {
        let peers = [peer("192.0.2.2", "10.1.2.0/24"), peer("203.0.113.9", "10.1.3.0/24")];
        let got = plan(&peers, &observed(vec![]));
        assert_eq!(got.set, [Route::via("10.1.2.0/24".parse().unwrap(), "192.0.2.2".parse().unwrap())]);
        assert_eq!(got.unreachable, ["10.1.3.0/24".parse().unwrap()]);
    }

    #[test]
    fn routes_of_nodes_that_are_gone_or_moved_are_removed_and_those_of_own_pods_stay() {
        let own_pod = Route::direct("10.1.0.2/32".parse().unwrap(), 3);
        let there = vec![route("10.1.2.0/24", "192.0.2.2"), route("10.1.9.0/24", "192.0.2.9"), own_pod];
        let got = plan(&[peer("192.0.2.3", "10.1.2.0/24")], &observed(there.clone()));
        assert_eq!(got.remove, there[..2]);
        assert_eq!(got.set.len(), 1);
    }

    #[test]
    fn planning_again_after_the_plan_was_carried_out_changes_nothing() {
        let peers = [peer("192.0.2.2", "10.1.2.0/24")];
        let got = plan(&peers, &observed(vec![route("10.1.2.0/24", "192.0.2.2")]));
        assert_eq!(got, Plan::default());
    }
}
