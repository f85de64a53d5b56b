//! What is planned, on a host that remembers what was carried out.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netlink::route::{Mac, Route};
use proptest::prelude::*;

use super::{
    names::{Underlay, tunnel_mac},
    plan::{Device, DeviceStep, Local, Observed, Peer, Plan, Step, Tunnel, Way, plan},
};

const UPLINK: u32 = 2;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn peer(address: &str, range: &str) -> Peer {
    Peer { name: address.into(), addresses: vec![ip(address)], pod_cidrs: vec![net(range)] }
}

fn local() -> Local {
    Local {
        addresses: vec![ip("192.0.2.1")],
        pod_cidrs: vec![net("10.1.0.0/24")],
        cluster_cidrs: vec![net("10.1.0.0/16")],
        direct_routes: true,
        tunnel: Tunnel::default(),
    }
}

/// A host on 192.0.2.0/24 and 2001:db8::/64.
fn host(routes: Vec<Route>) -> Observed {
    Observed {
        addresses: vec![(UPLINK, net("192.0.2.1/24")), (UPLINK, net("2001:db8::1/64"))],
        shared_links: [UPLINK].into(),
        routes,
        mtus: [(UPLINK, 1400)].into(),
        default_mtu: Some(1500),
        devices: BTreeMap::new(),
    }
}

fn route(range: &str, gateway: &str) -> Route {
    Route { interface: Some(UPLINK), ..Route::via(net(range), ip(gateway)) }
}

/// What a kernel does with the steps.
fn carry_out(host: &mut Observed, steps: &[Step]) {
    for step in steps {
        match step.clone() {
            Step::RemoveRoute(route) => host.routes.retain(|there| *there != route),
            Step::RemoveDevice(underlay) => {
                let device = host.devices.remove(&underlay).unwrap();
                host.routes.retain(|route| route.interface != Some(device.index));
                host.addresses.retain(|(index, _)| *index != device.index);
            }
            Step::MakeDevice { underlay, mac, mtu, vxlan } => {
                let index = 100 + u32::from(underlay == Underlay::V6);
                let device = Device {
                    index,
                    mac: Some(mac),
                    mtu,
                    up: true,
                    vxlan: Some(vxlan),
                    loose: false,
                    neighbours: BTreeMap::new(),
                    forwardings: [].into(),
                };
                assert_eq!(host.devices.insert(underlay, device), None);
            }
            Step::Loosen(underlay) => host.devices.get_mut(&underlay).unwrap().loose = true,
            Step::OnDevice(underlay, step) => change(host, underlay, step),
            Step::SetRoute(net, way) => {
                let route = match way {
                    Way::Link(gateway) => Route { interface: Some(UPLINK), ..Route::via(net, gateway) },
                    Way::Tunnel(underlay, gateway) => {
                        let interface = Some(host.devices[&underlay].index);
                        Route { interface, onlink: true, ..Route::via(net, gateway) }
                    }
                };
                host.routes.retain(|there| there.destination != Some(net));
                host.routes.push(route);
            }
        }
    }
}

fn change(host: &mut Observed, underlay: Underlay, step: DeviceStep) {
    let device = host.devices.get_mut(&underlay).unwrap();
    match step {
        DeviceStep::SetMtu(mtu) => device.mtu = mtu,
        DeviceStep::SetAddress(net) => host.addresses.push((device.index, net)),
        DeviceStep::RemoveAddress(net) => host.addresses.retain(|there| *there != (device.index, net)),
        DeviceStep::SetForwarding(mac, node) => drop(device.forwardings.insert((mac, node))),
        DeviceStep::RemoveForwarding(mac, node) => assert!(device.forwardings.remove(&(mac, node))),
        DeviceStep::SetNeighbour(ip, mac) => drop(device.neighbours.insert(ip, mac)),
        DeviceStep::RemoveNeighbour(ip) => drop(device.neighbours.remove(&ip).unwrap()),
    }
}

fn made(local: &Local, peers: &[Peer]) -> (Observed, Plan) {
    let mut host = host(vec![]);
    let first = plan(local, peers, &host);
    carry_out(&mut host, &first.steps);
    (host, first)
}

#[test]
fn a_node_on_the_same_link_is_routed_to_and_one_elsewhere_gets_the_tunnel() {
    let peers = [peer("192.0.2.2", "10.1.2.0/24"), peer("203.0.113.9", "10.1.3.0/24")];
    let (host, first) = made(&local(), &peers);
    assert_eq!(first.steps[0], Step::SetRoute(net("10.1.2.0/24"), Way::Link(ip("192.0.2.2"))));
    let device = &host.devices[&Underlay::V4];
    let mac = Mac([0x02, 0xc0, 203, 0, 113, 9]);
    assert_eq!(device.neighbours, [(ip("10.1.3.0"), mac)].into());
    assert_eq!(device.forwardings, [(mac, ip("203.0.113.9"))].into());
    assert!(host.addresses.contains(&(device.index, net("10.1.0.0/32"))));
    let last = host.routes.last().unwrap();
    assert_eq!((last.gateway, last.interface), (Some(ip("10.1.3.0")), Some(device.index)));
    assert_eq!(first.unreachable, []);
}

#[test]
fn what_a_link_does_not_carry_goes_through_the_tunnel() {
    let peers = [peer("192.0.2.2", "10.1.2.0/24")];
    let tunnel = [Step::SetRoute(net("10.1.2.0/24"), Way::Tunnel(Underlay::V4, ip("10.1.2.0")))];
    let without_neighbours = Observed { shared_links: [].into(), ..host(vec![]) };
    assert!(plan(&local(), &peers, &without_neighbours).steps.ends_with(&tunnel));
    let forbidden = Local { direct_routes: false, ..local() };
    assert!(plan(&forbidden, &peers, &host(vec![])).steps.ends_with(&tunnel));
}

#[test]
fn the_mtu_is_that_of_the_link_with_the_nodes_address_less_what_the_tunnel_adds() {
    let (_, flat) = made(&local(), &[peer("192.0.2.2", "10.1.2.0/24")]);
    assert_eq!(flat.tunnel_mtu, None);
    let far = [peer("203.0.113.9", "10.1.3.0/24")];
    let (mut host, first) = made(&local(), &far);
    assert_eq!(first.tunnel_mtu, Some(1350));
    host.mtus.insert(UPLINK, 9000);
    assert_eq!(plan(&local(), &far, &host).steps, [Step::OnDevice(Underlay::V4, DeviceStep::SetMtu(8950))]);
    let six = Local { addresses: vec![ip("2001:db8::1")], ..local() };
    let (_, first) = made(&six, &[peer("2001:db8:9::9", "10.1.3.0/24")]);
    assert_eq!(first.tunnel_mtu, Some(1330));
}

#[test]
fn pods_of_a_family_that_the_nodes_have_no_link_in_go_through_the_tunnel_of_the_other() {
    let peers = [peer("192.0.2.2", "fd00:1:2::/64")];
    let (host, _) = made(&local(), &peers);
    assert_eq!(host.routes[0].destination, Some(net("fd00:1:2::/64")));
    assert_eq!(host.routes[0].interface, Some(host.devices[&Underlay::V4].index));
}

#[test]
fn nodes_without_a_family_in_common_are_named() {
    let (_, first) = made(&local(), &[peer("2001:db8:9::9", "10.1.3.0/24")]);
    assert_eq!(first.unreachable, [net("10.1.3.0/24")]);
    assert_eq!(first.steps, []);
}

#[test]
fn routes_of_nodes_that_are_gone_or_moved_are_removed_and_those_of_own_pods_stay() {
    let own_pod = Route::direct(net("10.1.0.2/32"), 3);
    let there = vec![route("10.1.2.0/24", "192.0.2.2"), route("10.1.9.0/24", "192.0.2.9"), own_pod];
    let got = plan(&local(), &[peer("192.0.2.3", "10.1.2.0/24")], &host(there.clone()));
    let removed = there[..2].iter().cloned().map(Step::RemoveRoute);
    let set = Step::SetRoute(net("10.1.2.0/24"), Way::Link(ip("192.0.2.3")));
    assert_eq!(got.steps, removed.chain([set]).collect::<Vec<_>>());
}

#[test]
fn the_device_goes_with_the_last_node_behind_it_and_is_made_anew_for_a_new_address_of_its_own() {
    let far = [peer("203.0.113.9", "10.1.3.0/24")];
    let (mut host, _) = made(&local(), &far);
    let moved = Local { addresses: vec![ip("192.0.2.7")], ..local() };
    host.addresses[0].1 = net("192.0.2.7/24");
    let steps = plan(&moved, &far, &host).steps;
    carry_out(&mut host, &steps);
    let device = &host.devices[&Underlay::V4];
    assert_eq!(device.mac, Some(tunnel_mac(ip("192.0.2.7"))));
    assert_eq!(host.routes.len(), 1);
    let steps = plan(&moved, &[], &host).steps;
    carry_out(&mut host, &steps);
    assert!(host.devices.is_empty() && host.routes.is_empty());
}

#[test]
fn a_node_that_claims_the_internet_draws_no_packets_and_is_named() {
    let thief = [peer("203.0.113.9", "0.0.0.0/0"), peer("192.0.2.2", "10.1.2.0/24")];
    let (host, first) = made(&local(), &thief);
    assert_eq!(first.refused.len(), 1);
    assert_eq!(first.refused[0].range, net("0.0.0.0/0"));
    assert_eq!(host.routes.len(), 1);
    assert_eq!(plan(&local(), &thief, &host).steps, []);
}

#[test]
fn a_node_that_claims_this_nodes_address_gets_no_tunnel() {
    let (_, first) = made(&local(), &[peer("192.0.2.1", "10.1.3.0/24")]);
    assert_eq!(first.unreachable, [net("10.1.3.0/24")]);
}

#[test]
fn macs_of_tunnel_ends_are_local_unicast_and_differ_by_node() {
    let macs = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(|text| tunnel_mac(ip(text)));
    for (index, mac) in macs.iter().enumerate() {
        assert_eq!(mac.0[0] & 3, 2, "{mac}");
        assert!(!macs[index + 1..].contains(mac), "{mac}");
    }
}

fn some_peers() -> impl Strategy<Value = Vec<Peer>> {
    let address = prop_oneof![
        (2_u8..9).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        (2_u8..9).prop_map(|last| IpAddr::from([203, 0, 113, last])),
        (2_u16..9).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
        (2_u16..9).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, 0, last])),
    ];
    let one = (prop::collection::vec(address, 0..3), any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let with_ranges = |(index, (addresses, v4, v6)): (usize, (Vec<IpAddr>, bool, bool))| {
            let v4 = v4.then(|| net(&format!("10.1.{}.0/24", index + 1)));
            let v6 = v6.then(|| net(&format!("fd00:1:{:x}::/64", index + 1)));
            Peer { name: index.to_string(), addresses, pod_cidrs: v4.into_iter().chain(v6).collect() }
        };
        all.into_iter().enumerate().map(with_ranges).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn planning_again_after_the_plan_was_carried_out_changes_nothing(
        before in some_peers(), after in some_peers(), dual in any::<bool>()
    ) {
        let mut local = local();
        if dual {
            local.addresses.push(ip("2001:db8::1"));
            local.pod_cidrs.push(net("fd00:1::/64"));
        }
        let mut host = host(vec![]);
        for peers in [before, after] {
            let first = plan(&local, &peers, &host);
            carry_out(&mut host, &first.steps);
            prop_assert_eq!(plan(&local, &peers, &host).steps, vec![]);
            let ways = peers.iter().map(|peer| peer.pod_cidrs.len()).sum::<usize>();
            prop_assert_eq!(host.routes.len() + first.unreachable.len(), ways);
        }
    }
}
