//! Which ways lead to the pods of other nodes.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use netlink::route::{Mac, Route, Vxlan};

use super::{
    apply::StepError,
    names::{Underlay, tunnel_mac},
    ranges::{self, Refused},
};

/// What all nodes of a cluster must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub vni: u32,
    /// UDP.
    pub port: u16,
}

impl Default for Tunnel {
    /// IANA's port: what captures decode, firewalls know and network cards help with. Linux's own 8472 is older than
    /// the RFC; flannel and Cilium use it, Calico uses 4789. Beside one of those the identifier tells the devices apart
    /// (flannel has 1, Calico 4096, Cilium 2).
    fn default() -> Self {
        Self { vni: 107, port: 4789 }
    }
}

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Local {
    /// As its Node says, which is where other nodes send to.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Where pods of all nodes are.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Whether a link carries packets of pods to its other nodes: not in clouds that look at who sends what.
    pub(crate) direct_routes: bool,
    pub(crate) tunnel: Tunnel,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
}

/// This host.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// Its addresses, each with the prefix of its link and the link's index.
    pub(super) addresses: Vec<(u32, IpNet)>,
    /// The links that deliver whatever is sent to a neighbour. A WireGuard drops what none of its peers is known to have.
    pub(super) shared_links: BTreeSet<u32>,
    /// The routes that are ours.
    pub(super) routes: Vec<Route>,
    pub(super) mtus: BTreeMap<u32, u32>,
    /// Of the link that the default route leads to.
    pub(super) default_mtu: Option<u32>,
    pub(super) devices: BTreeMap<Underlay, Device>,
}

/// A device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// `None` where something else took the name.
    pub(super) vxlan: Option<Vxlan>,
    /// Whether a packet may come in by it although its answer would leave by another link.
    pub(super) loose: bool,
    pub(super) neighbours: BTreeMap<IpAddr, Mac>,
    pub(super) forwardings: BTreeSet<(Mac, IpAddr)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the other node's own address, on a shared link.
    Link(IpAddr),
    /// Through the tunnel, to an address that the neighbour entry is for.
    Tunnel(Underlay, IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    RemoveRoute(Route),
    RemoveDevice(Underlay),
    MakeDevice { underlay: Underlay, mac: Mac, mtu: u32, vxlan: Vxlan },
    Loosen(Underlay),
    OnDevice(Underlay, DeviceStep),
    SetRoute(IpNet, Way),
}

/// A change of a device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceStep {
    SetMtu(u32),
    SetAddress(IpNet),
    RemoveAddress(IpNet),
    SetForwarding(Mac, IpAddr),
    RemoveForwarding(Mac, IpAddr),
    SetNeighbour(IpAddr, Mac),
    RemoveNeighbour(IpAddr),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order in which they are taken.
    pub(crate) steps: Vec<Step>,
    /// Pods on nodes that neither a link nor an address family is shared with.
    pub(crate) unreachable: Vec<IpNet>,
    /// Ranges that nodes claim and that nothing is sent to.
    pub(crate) refused: Vec<Refused>,
    /// The largest packet that fits the tunnel, where a node is behind it.
    pub(crate) tunnel_mtu: Option<u32>,
}

/// What was planned, and which steps were not carried out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    pub(crate) failed: Vec<StepError>,
}

/// All nodes but this one, oldest first.
pub(crate) fn peers(nodes: &[Arc<Node>], own_name: &str) -> Vec<Peer> {
    let other = |node: &&Arc<Node>| node.metadata.name.as_deref() != Some(own_name);
    let mut nodes: Vec<_> = nodes.iter().filter(other).collect();
    nodes.sort_by_key(|node| (node.metadata.creation_timestamp.clone(), node.metadata.name.clone()));
    let peer = |node: &Arc<Node>| Peer {
        name: node.metadata.name.clone().unwrap_or_default(),
        addresses: internal_addresses(node),
        pod_cidrs: pod_cidrs(node),
    };
    nodes.into_iter().map(peer).collect()
}

pub(crate) fn internal_addresses(node: &Node) -> Vec<IpAddr> {
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

pub(super) fn plan(local: &Local, peers: &[Peer], observed: &Observed) -> Plan {
    let mut wanted = Wanted::default();
    let (believed, refused) = ranges::believed(local, peers);
    for (peer, net) in believed {
        wanted.add(local, peer, net, observed);
    }
    let mut plan = Plan { unreachable: std::mem::take(&mut wanted.unreachable), refused, ..Plan::default() };
    let mut kept = BTreeSet::new();
    let mut tunnels = Vec::new();
    for underlay in Underlay::ALL {
        let there = observed.devices.get(&underlay);
        let Some(table) = wanted.tables.get(&underlay) else {
            tunnels.extend(there.map(|_| Step::RemoveDevice(underlay)));
            continue;
        };
        let Some(own) = own_address(local, underlay) else { continue };
        let end = End::of(local, underlay, own, observed);
        plan.tunnel_mtu = Some(plan.tunnel_mtu.unwrap_or(end.mtu).min(end.mtu));
        if there.is_some_and(|there| end.is(there)) {
            kept.insert(underlay);
        }
        tunnels.extend(end.steps(table, local, observed));
    }
    let (remove, set) = route_steps(&wanted.ways, observed, &kept);
    // Ways over links first: they are made even where the kernel has no tunnels.
    let (over_links, through): (Vec<_>, Vec<_>) =
        set.into_iter().partition(|step| matches!(step, Step::SetRoute(_, Way::Link(_))));
    plan.steps = [remove, over_links, tunnels, through].concat();
    plan
}

/// What should be, before looking at what is.
#[derive(Default)]
struct Wanted {
    ways: BTreeMap<IpNet, Way>,
    tables: BTreeMap<Underlay, Table>,
    unreachable: Vec<IpNet>,
}

#[derive(Default)]
struct Table {
    neighbours: BTreeMap<IpAddr, Mac>,
    forwardings: BTreeSet<(Mac, IpAddr)>,
}

impl Table {
    fn changes(&self, kept: Option<&Device>) -> Vec<DeviceStep> {
        let (neighbours, forwardings) =
            kept.map_or_else(Default::default, |kept| (kept.neighbours.clone(), kept.forwardings.clone()));
        let stale = forwardings.difference(&self.forwardings);
        let mut changes: Vec<_> =
            stale.map(|(mac, node)| DeviceStep::RemoveForwarding(*mac, *node)).collect();
        let fresh = self.forwardings.difference(&forwardings);
        changes.extend(fresh.map(|(mac, node)| DeviceStep::SetForwarding(*mac, *node)));
        let gone = neighbours.keys().filter(|ip| !self.neighbours.contains_key(ip));
        changes.extend(gone.map(|ip| DeviceStep::RemoveNeighbour(*ip)));
        let other = self.neighbours.iter().filter(|(ip, mac)| neighbours.get(ip) != Some(mac));
        changes.extend(other.map(|(ip, mac)| DeviceStep::SetNeighbour(*ip, *mac)));
        changes
    }
}

impl Wanted {
    fn add(&mut self, local: &Local, peer: &Peer, net: IpNet, observed: &Observed) {
        if local.direct_routes
            && let Some(gateway) = gateway(peer, net, observed)
        {
            self.ways.insert(net, Way::Link(gateway));
            return;
        }
        let Some((underlay, node)) = tunnel_to(local, peer) else {
            self.unreachable.push(net);
            return;
        };
        let (mac, gateway) = (tunnel_mac(node), net.network());
        let table = self.tables.entry(underlay).or_default();
        table.neighbours.insert(gateway, mac);
        table.forwardings.insert((mac, node));
        self.ways.insert(net, Way::Tunnel(underlay, gateway));
    }
}

/// The peer's address of the range's family on a link that is shared with it.
fn gateway(peer: &Peer, net: IpNet, observed: &Observed) -> Option<IpAddr> {
    let shared = observed.addresses.iter().filter(|(link, _)| observed.shared_links.contains(link));
    let on_link =
        |address: &IpAddr| shared.clone().any(|(_, own)| own.contains(address) && own.addr() != *address);
    peer.addresses.iter().copied().filter(|ip| ip.is_ipv4() == net.addr().is_ipv4()).find(on_link)
}

/// By which family a peer's tunnel end is reached, and at which address.
fn tunnel_to(local: &Local, peer: &Peer) -> Option<(Underlay, IpAddr)> {
    Underlay::ALL.into_iter().find_map(|underlay| {
        let own = own_address(local, underlay)?;
        // A Node that claims our own address is what an earlier name of this machine left.
        let node = peer.addresses.iter().copied().find(|ip| underlay.has(ip)).filter(|ip| *ip != own)?;
        Some((underlay, node))
    })
}

fn own_address(local: &Local, underlay: Underlay) -> Option<IpAddr> {
    local.addresses.iter().copied().find(|ip| underlay.has(ip))
}

/// This node's end of the tunnel.
struct End {
    underlay: Underlay,
    mac: Mac,
    mtu: u32,
    vxlan: Vxlan,
}

impl End {
    fn of(local: &Local, underlay: Underlay, own: IpAddr, observed: &Observed) -> Self {
        let link = observed.addresses.iter().find(|(_, net)| net.addr() == own).map(|(index, _)| index);
        // Behind address translation no link has the address that others know.
        let bound = match underlay {
            _ if link.is_some() => own,
            Underlay::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Underlay::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mtu = link.and_then(|index| observed.mtus.get(index).copied()).or(observed.default_mtu);
        let mtu = mtu.unwrap_or(crate::builtin::DEFAULT_MTU);
        Self {
            underlay,
            mac: tunnel_mac(own),
            mtu: mtu.saturating_sub(underlay.overhead_bytes()).max(576),
            vxlan: Vxlan { vni: local.tunnel.vni, port: local.tunnel.port, local: bound },
        }
    }

    /// Whether a device is this one; otherwise it is made anew.
    fn is(&self, there: &Device) -> bool {
        // The kernel does not tell an unspecified address, nor thereby its family; the name does.
        let same = |vxlan: Vxlan| {
            let bound = self.vxlan.local;
            let unbound = bound.is_unspecified() && vxlan.local.is_unspecified();
            (vxlan.vni, vxlan.port) == (self.vxlan.vni, self.vxlan.port) && (vxlan.local == bound || unbound)
        };
        there.up && there.mac == Some(self.mac) && there.vxlan.is_some_and(same)
    }

    fn steps(&self, table: &Table, local: &Local, observed: &Observed) -> Vec<Step> {
        let underlay = self.underlay;
        let there = observed.devices.get(&underlay);
        let kept = there.filter(|there| self.is(there));
        let mut steps = Vec::new();
        if kept.is_none() {
            steps.extend(there.map(|_| Step::RemoveDevice(underlay)));
            let (mac, mtu, vxlan) = (self.mac, self.mtu, self.vxlan);
            steps.push(Step::MakeDevice { underlay, mac, mtu, vxlan });
        }
        if !kept.is_some_and(|kept| kept.loose) {
            steps.push(Step::Loosen(underlay));
        }
        let mtu = kept.filter(|kept| kept.mtu != self.mtu).map(|_| DeviceStep::SetMtu(self.mtu));
        let changes = mtu.into_iter().chain(self.addresses(local, kept, observed)).chain(table.changes(kept));
        steps.extend(changes.map(|change| Step::OnDevice(underlay, change)));
        steps
    }

    /// The device has the first address of each of this node's ranges, which no pod gets: what the host itself sends
    /// through the tunnel has a source whose answers come back through it, where a reverse path filter lets them in.
    fn addresses(&self, local: &Local, kept: Option<&Device>, observed: &Observed) -> Vec<DeviceStep> {
        let wanted: BTreeSet<IpNet> = local.pod_cidrs.iter().map(|net| IpNet::from(net.network())).collect();
        let link_local = |net: &IpNet| matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        let there: BTreeSet<IpNet> = observed
            .addresses
            .iter()
            .filter(|(index, net)| kept.is_some_and(|kept| kept.index == *index) && !link_local(net))
            .map(|(_, net)| *net)
            .collect();
        let stale = there.difference(&wanted).map(|net| DeviceStep::RemoveAddress(*net));
        let fresh = wanted.difference(&there).map(|net| DeviceStep::SetAddress(*net));
        stale.chain(fresh).collect()
    }
}

/// Which routes are removed, and which are set; those on devices that are not kept go with them.
fn route_steps(
    ways: &BTreeMap<IpNet, Way>,
    observed: &Observed,
    kept: &BTreeSet<Underlay>,
) -> (Vec<Step>, Vec<Step>) {
    let mut missing = ways.clone();
    let mut remove = Vec::new();
    let device = |underlay: Underlay| observed.devices.get(&underlay).map(|device| device.index);
    let tunnels: Vec<u32> = Underlay::ALL.into_iter().filter_map(device).collect();
    let is = |route: &Route, way: Way| match way {
        Way::Link(gateway) => {
            route.gateway == Some(gateway) && route.interface.is_none_or(|index| !tunnels.contains(&index))
        }
        Way::Tunnel(underlay, gateway) => {
            kept.contains(&underlay) && route.gateway == Some(gateway) && route.interface == device(underlay)
        }
    };
    // Routes without a gateway are those of this node's own pods.
    for route in observed.routes.iter().filter(|route| route.gateway.is_some()) {
        match route.destination.and_then(|net| Some((net, *missing.get(&net)?))) {
            Some((net, way)) if is(route, way) => drop(missing.remove(&net)),
            _ => remove.push(Step::RemoveRoute(route.clone())),
        }
    }
    (remove, missing.into_iter().map(|(net, way)| Step::SetRoute(net, way)).collect())
}
