//! The same traffic in each mode that this kernel has.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use netlink::nft::Family;
use proxy::{
    Heard, Mode, Rules,
    iptables::{Flavour, Iptables, remove_chains},
    ipvs::Ipvs,
    model::ServiceModel,
    nftables::{Nftables, Role, remove_tables},
};

use crate::{
    bed::{Bed, NODE, ask, config, on_a_node, reaches, run},
    models::{local_targets, service, targets, with},
};

/// Runs cases in one mode, each a test with these attributes.
macro_rules! in_mode {
    ($mode:ident: $rules:expr, $attributes:tt, $($case:ident,)*) => {
        mod $mode {
            use super::*;

            $(case! { $rules, $attributes, $case })*
        }
    };
}

macro_rules! case {
    ($rules:expr, [$($attributes:tt)*], $case:ident) => {
        $($attributes)*
        #[test]
        fn $case() {
            on_a_node(async |bed| super::$case(bed, $rules.await).await);
        }
    };
}

/// What every mode does alike, and more.
macro_rules! common {
    ($mode:ident: $rules:expr, $attributes:tt, $($more:ident,)*) => {
        in_mode! {
            $mode: $rules, $attributes,
            connections_reach_every_endpoint_and_only_those,
            what_has_no_endpoints_is_refused_and_comes_back,
            a_client_stays_with_its_endpoint,
            a_local_policy_from_outside_keeps_to_this_node_and_the_clients_address,
            a_local_policy_inside_keeps_to_this_node,
            a_pod_reaches_itself_through_its_service,
            a_load_balancer_lets_in_its_source_ranges_alone,
            a_node_port_is_not_loopbacks,
            $($more,)*
        }
    };
}

common! {
    nftables: nftables(), [],
    a_client_stays_with_its_endpoint_by_whatever_entrance,
    this_cluster_is_not_outside,
    rules_that_somebody_flushes_come_back,
}
common! {
    iptables_nft: iptables(Flavour::Nft), [],
    a_client_stays_with_its_endpoint_by_whatever_entrance,
    this_cluster_is_not_outside,
    rules_that_somebody_flushes_come_back,
}
common! {
    iptables_legacy: iptables(Flavour::Legacy), [],
    a_client_stays_with_its_endpoint_by_whatever_entrance,
    this_cluster_is_not_outside,
    rules_that_somebody_flushes_come_back,
}
common! {
    ipvs: ipvs(), [#[ignore = "the kernel needs the modules ip_vs and dummy: tests/vm/run.sh ipvs_traffic"]],
    a_pool_of_this_node_is_taken_before_others,
    servers_and_addresses_that_somebody_removes_come_back,
    an_endpoint_that_goes_keeps_its_connections,
    what_is_for_no_port_of_a_service_is_refused,
    the_nodes_own_address_stays_the_nodes,
}

async fn nftables() -> Nftables<u8> {
    Nftables::open(&config(), Role::Translate).unwrap()
}

async fn ipvs() -> Ipvs<u8> {
    Ipvs::open(&proxy::Config { mode: Mode::Ipvs, ..config() }).await.unwrap()
}

async fn iptables(flavour: Flavour) -> Iptables<u8> {
    let config = proxy::Config { mode: Mode::Iptables, ..config() };
    Iptables::open_in(&config, Some(flavour)).await.unwrap()
}

async fn write(rules: &mut impl Rules<u8>, changed: impl IntoIterator<Item = (u8, ServiceModel)>) {
    rules.write(&changed.into_iter().collect::<Vec<_>>()).await.unwrap();
}

fn refused(result: std::io::Result<crate::bed::Answer>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn dropped(result: std::io::Result<crate::bed::Answer>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
}

async fn connections_reach_every_endpoint_and_only_those(bed: Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, service(1, &[1, 2, 3]))]).await.unwrap();
    let all = BTreeSet::from([1, 2, 3]);
    for (address, port) in [("10.96.0.1", 80), (NODE, 30001)] {
        assert_eq!(reaches(address, port), all, "the node, {address}");
        assert_eq!(bed.pods[0].reaches(address, port), all, "a pod, {address}");
        assert_eq!(bed.outside.reaches(address, port), all, "outside, {address}");
    }
    // A pod's own address is seen by another.
    write(&mut rules, [(1, service(1, &[2]))]).await;
    assert_eq!(reaches("10.96.0.1", 80), BTreeSet::from([2]));
    assert_eq!(bed.pods[0].ask("10.96.0.1", 80).unwrap().client.to_string(), "10.244.0.1");
    // Of many changes at once, each counts.
    write(&mut rules, [(1, service(1, &[3])), (2, service(2, &[1])), (3, service(3, &[]))]).await;
    assert_eq!(reaches("10.96.0.1", 80), BTreeSet::from([3]));
    assert_eq!(bed.outside.reaches(NODE, 30002), BTreeSet::from([1]));
    assert!(rules.audit().await.unwrap());
}

async fn what_has_no_endpoints_is_refused_and_comes_back(bed: Bed, mut rules: impl Rules<u8>) {
    let outer = |endpoints: &[u8]| {
        with(service(1, endpoints), |port| {
            port.external_ips.insert("192.0.2.9".parse().unwrap());
        })
    };
    rules.write_all(&[(1, outer(&[]))]).await.unwrap();
    let entrances = [("10.96.0.1", 80), (NODE, 30001), ("192.0.2.9", 80)];
    for round in 0..2 {
        for (address, port) in entrances {
            refused(ask(address, port));
            refused(bed.pods[0].ask(address, port));
            refused(bed.outside.ask(address, port));
        }
        write(&mut rules, [(1, outer(&[1]))]).await;
        for (address, port) in entrances {
            assert_eq!(bed.outside.reaches(address, port), BTreeSet::from([1]), "{address} {round}");
        }
        write(&mut rules, [(1, outer(&[]))]).await;
    }
    assert!(rules.audit().await.unwrap());
}

async fn a_client_stays_with_its_endpoint(bed: Bed, mut rules: impl Rules<u8>) {
    let sticky =
        |endpoints: &[u8]| with(service(1, endpoints), |port| port.affinity = Some(Duration::from_secs(60)));
    rules.write_all(&[(1, sticky(&[1, 2, 3]))]).await.unwrap();
    let first = bed.outside.reaches("10.96.0.1", 80);
    assert_eq!(first.len(), 1);
    let others: Vec<u8> = (1..=3).filter(|number| !first.contains(number)).collect();
    write(&mut rules, [(1, sticky(&others))]).await;
    let second = bed.outside.reaches("10.96.0.1", 80);
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);
}

async fn a_client_stays_with_its_endpoint_by_whatever_entrance(bed: Bed, mut rules: impl Rules<u8>) {
    let sticky = with(service(1, &[1, 2, 3]), |port| port.affinity = Some(Duration::from_secs(60)));
    rules.write_all(&[(1, sticky)]).await.unwrap();
    let first = bed.outside.reaches(NODE, 30001);
    assert_eq!(first.len(), 1);
    assert_eq!(bed.outside.reaches("10.96.0.1", 80), first);
}

/// External traffic to these endpoints of the node, of all.
fn local(here: &[u8], all: &[u8]) -> ServiceModel {
    with(service(1, all), |port| {
        port.external = local_targets(here, all);
        port.external_ips.insert("192.0.2.9".parse().unwrap());
    })
}

async fn a_local_policy_from_outside_keeps_to_this_node_and_the_clients_address(
    bed: Bed,
    mut rules: impl Rules<u8>,
) {
    rules.write_all(&[(1, local(&[1, 2], &[1, 2, 3]))]).await.unwrap();
    for (address, port) in [(NODE, 30001), ("192.0.2.9", 80)] {
        assert_eq!(bed.outside.reaches(address, port), BTreeSet::from([1, 2]));
        let client = bed.outside.ask(address, port).unwrap().client;
        assert_eq!(client.to_string(), "192.0.2.254", "nobody stands between");
    }
    // Inside, the policy of outside says nothing.
    assert_eq!(bed.outside.reaches("10.96.0.1", 80), BTreeSet::from([1, 2, 3]));

    write(&mut rules, [(1, local(&[], &[3]))]).await;
    dropped(bed.outside.ask(NODE, 30001));
    dropped(bed.outside.ask("192.0.2.9", 80));
    for (address, port) in [(NODE, 30001), ("192.0.2.9", 80)] {
        assert_eq!(bed.pods[0].reaches(address, port), BTreeSet::from([3]), "{address}");
        assert_eq!(reaches(address, port), BTreeSet::from([3]), "{address}");
    }
    assert!(rules.audit().await.unwrap());
}

async fn this_cluster_is_not_outside(bed: Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, local(&[1, 2], &[1, 2, 3]))]).await.unwrap();
    for (address, port) in [(NODE, 30001), ("192.0.2.9", 80)] {
        assert_eq!(bed.pods[0].reaches(address, port), BTreeSet::from([1, 2, 3]));
        assert_eq!(reaches(address, port), BTreeSet::from([1, 2, 3]));
    }
}

/// Of IPVS, which has one set of real servers for whoever comes by an address.
async fn a_pool_of_this_node_is_taken_before_others(bed: Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, local(&[1, 2], &[1, 2, 3]))]).await.unwrap();
    assert_eq!(bed.pods[0].reaches(NODE, 30001), BTreeSet::from([1, 2]));
    assert_eq!(reaches(NODE, 30001), BTreeSet::from([1, 2]));
}

async fn servers_and_addresses_that_somebody_removes_come_back(bed: Bed, mut rules: impl Rules<u8>) {
    let services = [(1, service(1, &[1])), (2, service(2, &[]))];
    rules.write_all(&services).await.unwrap();
    assert!(rules.audit().await.unwrap());
    run("ip link del kube-ipvs0");
    assert!(!rules.audit().await.unwrap());
    rules.write_all(&services).await.unwrap();
    assert!(rules.audit().await.unwrap());
    let server = netlink::ipvs::VirtualServer {
        address: [10, 96, 0, 1].into(),
        proto: proxy::model::Proto::Tcp,
        port: 80,
    };
    let mut socket = netlink::ipvs::Socket::open().unwrap();
    assert!(socket.remove_server(&server).unwrap());
    // Somebody else's, on an address and a port that are not ours.
    let other = netlink::ipvs::VirtualServer { address: [192, 0, 2, 77].into(), ..server };
    let choice = netlink::ipvs::Choice { scheduler: "rr".into(), persistence: None };
    socket.add_server(&other, &choice).unwrap();
    assert!(!rules.audit().await.unwrap());
    rules.write_all(&services).await.unwrap();
    assert!(rules.audit().await.unwrap());
    assert_eq!(bed.outside.reaches("10.96.0.1", 80), BTreeSet::from([1]));
    write(&mut rules, [(2, ServiceModel::default())]).await;
    assert!(rules.audit().await.unwrap());
    run("! ip addr show dev kube-ipvs0 | grep -q 10.96.0.2/");
    assert!(proxy::cleanup((30000, 32767)).await.is_empty());
    run("! ip link show dev kube-ipvs0 2>/dev/null");
    let left = socket.servers().unwrap();
    assert_eq!(left, [(other, choice)]);
}

async fn an_endpoint_that_goes_keeps_its_connections(bed: Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, service(1, &[1]))]).await.unwrap();
    // Its connections are remembered for a while after their end.
    assert_eq!(bed.outside.reaches("10.96.0.1", 80), BTreeSet::from([1]));
    write(&mut rules, [(1, service(1, &[2]))]).await;
    assert_eq!(bed.outside.reaches("10.96.0.1", 80), BTreeSet::from([2]));
    assert!(rules.tidy_after().is_some(), "it is looked at again");
    rules.tidy().await.unwrap();
    assert!(rules.audit().await.unwrap());
}

async fn what_is_for_no_port_of_a_service_is_refused(bed: Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, service(1, &[1]))]).await.unwrap();
    // On every address of the node, and so on the Service's too.
    let _own = std::net::TcpListener::bind(("0.0.0.0", 81)).unwrap();
    refused(bed.outside.ask("10.96.0.1", 81));
    refused(bed.pods[0].ask("10.96.0.1", 81));
    bed.outside.run(|| std::net::TcpStream::connect((NODE, 81)).unwrap());
}

async fn the_nodes_own_address_stays_the_nodes(bed: Bed, mut rules: impl Rules<u8>) {
    let own = |number| with(service(number, &[1]), |port| port.external_ips = [NODE.parse().unwrap()].into());
    let _own = std::net::TcpListener::bind(("0.0.0.0", 81)).unwrap();
    rules.write_all(&[(1, own(1))]).await.unwrap();
    bed.outside.run(|| std::net::TcpStream::connect((NODE, 81)).unwrap());
    assert_eq!(bed.outside.reaches(NODE, 80), BTreeSet::from([1]));
    assert!(rules.audit().await.unwrap());
    write(&mut rules, [(1, ServiceModel::default())]).await;
    write(&mut rules, [(2, own(2))]).await;
    bed.outside.run(|| std::net::TcpStream::connect((NODE, 81)).unwrap());
    assert_eq!(bed.outside.reaches(NODE, 80), BTreeSet::from([1]));
}

async fn a_local_policy_inside_keeps_to_this_node(bed: Bed, mut rules: impl Rules<u8>) {
    let local = |here: &[u8]| with(service(1, &[1, 3]), |port| port.internal = local_targets(here, &[1, 3]));
    rules.write_all(&[(1, local(&[1]))]).await.unwrap();
    assert_eq!(bed.pods[1].reaches("10.96.0.1", 80), BTreeSet::from([1]));
    assert_eq!(bed.outside.reaches(NODE, 30001), BTreeSet::from([1, 3]));
    write(&mut rules, [(1, local(&[]))]).await;
    dropped(bed.pods[1].ask("10.96.0.1", 80));
}

async fn a_pod_reaches_itself_through_its_service(bed: Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, service(1, &[1]))]).await.unwrap();
    let answer = bed.pods[0].ask("10.96.0.1", 80).unwrap();
    assert_eq!(answer.endpoint, 1);
    assert_ne!(answer.client.to_string(), "10.244.0.1");
}

async fn a_load_balancer_lets_in_its_source_ranges_alone(bed: Bed, mut rules: impl Rules<u8>) {
    let balanced = |range: &str| {
        let range = range.parse().unwrap();
        with(service(1, &[1]), |port| {
            port.balancer_ips.insert("192.0.2.10".parse().unwrap());
            port.source_ranges.insert(range);
        })
    };
    rules.write_all(&[(1, balanced("192.0.2.254/32"))]).await.unwrap();
    assert_eq!(bed.outside.reaches("192.0.2.10", 80), BTreeSet::from([1]));
    dropped(bed.pods[1].ask("192.0.2.10", 80));
    write(&mut rules, [(1, balanced("10.244.0.2/32"))]).await;
    assert_eq!(bed.pods[1].reaches("192.0.2.10", 80), BTreeSet::from([1]));
    dropped(bed.outside.ask("192.0.2.10", 80));
    // Other entrances have no ranges.
    assert_eq!(bed.outside.reaches(NODE, 30001), BTreeSet::from([1]));
    assert!(rules.audit().await.unwrap());
}

async fn a_node_port_is_not_loopbacks(_bed: Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, service(1, &[1])), (2, service(2, &[]))]).await.unwrap();
    let _own = std::net::TcpListener::bind(("127.0.0.1", 30002)).unwrap();
    refused(ask("127.0.0.1", 30001));
    std::net::TcpStream::connect(("127.0.0.1", 30002)).expect("what listens there is reached");
}

async fn rules_that_somebody_flushes_come_back(bed: Bed, mut rules: impl Rules<u8>) {
    run("nft add table ip stranger
         nft add chain ip stranger c");
    let services = [(1, service(1, &[1])), (2, with(service(2, &[]), |port| port.external = targets(&[])))];
    rules.write_all(&services).await.unwrap();
    assert!(rules.audit().await.unwrap());
    run("for f in nft legacy; do
           iptables-$f -w -t nat -N STRANGER; iptables-$f -w -t nat -A STRANGER -j RETURN
         done");
    assert!(rules.audit().await.unwrap(), "what others add is theirs");
    // Our own changes are no alarm.
    write(&mut rules, [(1, service(1, &[2])), (3, service(3, &[1]))]).await;
    write(&mut rules, [(3, ServiceModel::default())]).await;
    let silence = tokio::time::timeout(Duration::from_millis(300), rules.heard()).await;
    assert!(silence.is_err(), "heard {silence:?}");
    run("for f in nft legacy; do for t in nat filter; do
           iptables-$f -w -t $t -F; iptables-$f -w -t $t -X; iptables-$f -w -t $t -N STRANGER
         done; done
         nft delete table ip coracle-proxy 2>/dev/null || true");
    if rules.audit_every() >= Duration::from_secs(60) {
        let heard = tokio::time::timeout(Duration::from_secs(5), rules.heard()).await.unwrap().unwrap();
        assert!(matches!(heard, Heard::Broken | Heard::Perhaps));
    }
    assert!(!rules.audit().await.unwrap());
    assert!(bed.outside.ask("10.96.0.1", 80).is_err());
    rules.write_all(&services).await.unwrap();
    assert!(rules.audit().await.unwrap());
    assert_eq!(bed.outside.reaches("10.96.0.1", 80), BTreeSet::from([1]));
    refused(bed.outside.ask(NODE, 30002));
    let (tables, chains) = (remove_tables().await.unwrap(), remove_chains().await.unwrap());
    assert!(tables != chains, "one mode had rules: {tables}, {chains}");
    run("nft list chain ip stranger c >/dev/null
         for f in nft legacy; do iptables-$f -w -t nat -n -L STRANGER >/dev/null; done
         ! nft list ruleset | grep -E 'KUBE|coracle-proxy'
         ! iptables-legacy-save | grep KUBE");
}

#[test]
fn a_kernel_without_ipvs_is_told_with_what_helps() {
    on_a_node(async |_| match Ipvs::<u8>::open(&config()).await {
        Ok(_) => {}
        Err(error) => {
            let text = lifecycle::Chain(&error).to_string();
            assert!(text.contains("module ip_vs is not loaded") && text.contains("modprobe ip_vs"), "{text}");
            assert!(text.contains("another proxy.mode"), "{text}");
        }
    });
}

/// Both families; what is asked for is on this node itself.
async fn ipv6_is_served(mut rules: impl Rules<u8>) {
    let (service_ip, endpoint) =
        ("fd00:96::1", proxy::model::Endpoint { ip: "fd00:244::9".parse().unwrap(), port: 8080 });
    run("ip addr add fd00:244::9/128 dev lo nodad
         ip -6 route add default dev lo");
    let listener = std::net::TcpListener::bind((endpoint.ip, endpoint.port)).unwrap();
    std::thread::spawn(move || {
        use std::io::Write as _;
        listener.incoming().for_each(|stream| drop(stream.unwrap().write_all(b"9 ::1")));
    });
    let dual = |endpoints: &[proxy::model::Endpoint]| {
        let mut model = service(1, &[1]);
        let mut port = model.ports[0].clone();
        port.cluster_ip = service_ip.parse().unwrap();
        port.cluster = endpoints.iter().copied().collect();
        port.internal.endpoints = port.cluster.clone();
        port.external.endpoints = port.cluster.clone();
        model.ports.push(port);
        model
    };
    rules.write_all(&[(1, dual(&[endpoint]))]).await.unwrap();
    assert_eq!(ask(service_ip, 80).unwrap().endpoint, 9);
    assert_eq!(reaches("10.96.0.1", 80), BTreeSet::from([1]));
    assert!(rules.audit().await.unwrap());
    write(&mut rules, [(1, dual(&[]))]).await;
    refused(ask(service_ip, 80));
    assert_eq!(reaches("10.96.0.1", 80), BTreeSet::from([1]));
    write(&mut rules, [(1, ServiceModel::default())]).await;
    assert!(rules.audit().await.unwrap());
}

fn dual(mode: Mode) -> proxy::Config {
    proxy::Config { mode, families: vec![Family::Ip, Family::Ip6], ..config() }
}

#[test]
fn ipv6_is_served_by_nftables() {
    on_a_node(async |_bed| {
        ipv6_is_served(Nftables::open(&dual(Mode::Nftables), Role::Translate).unwrap()).await
    });
}

#[test]
fn ipv6_is_served_by_iptables() {
    on_a_node(async |_bed| {
        let rules = Iptables::open_in(&dual(Mode::Iptables), Some(Flavour::Nft)).await;
        ipv6_is_served(rules.unwrap()).await;
    });
}

#[test]
#[ignore = "the kernel needs the modules ip_vs and dummy: tests/vm/run.sh ipvs_traffic"]
fn ipv6_is_served_by_ipvs() {
    on_a_node(async |_bed| ipv6_is_served(Ipvs::open(&dual(Mode::Ipvs)).await.unwrap()).await);
}

#[test]
#[ignore = "the kernel needs the modules ip_vs and dummy: tests/vm/run.sh ipvs_traffic"]
fn this_host_reaches_another_node_by_ipvs_without_a_range_of_pods() {
    on_a_node(async |_bed| {
        let config = proxy::Config { mode: Mode::Ipvs, pod_ranges: Vec::new(), ..config() };
        let mut rules = Ipvs::open(&config).await.unwrap();
        rules.write_all(&[(1, service(1, &[3]))]).await.unwrap();
        assert_eq!(ask("10.96.0.1", 80).unwrap().client.to_string(), NODE);
    });
}

async fn a_pods_connection_is_masqueraded(bed: &Bed, mut rules: impl Rules<u8>) {
    rules.write_all(&[(1, service(1, &[2]))]).await.unwrap();
    assert_ne!(bed.pods[0].ask("10.96.0.1", 80).unwrap().client.to_string(), "10.244.0.1");
}

#[test]
fn pods_are_masqueraded_too_where_all_are_to_be() {
    on_a_node(async |bed| {
        let config = proxy::Config { masquerade_all: true, ..config() };
        a_pods_connection_is_masqueraded(&bed, Nftables::open(&config, Role::Translate).unwrap()).await;
        remove_tables().await.unwrap();
        let rules = Iptables::open_in(&config, Some(Flavour::Nft)).await.unwrap();
        a_pods_connection_is_masqueraded(&bed, rules).await;
    });
}

#[test]
fn what_kube_proxy_left_of_its_other_modes_goes() {
    on_a_node(async |_bed| {
        let leave = || {
            run("nft add table ip kube-proxy; nft add table ip6 kube-proxy; nft add chain ip kube-proxy services
                 nft add table ip stranger
                 iptables-nft -w -N KUBE-IPVS-FILTER; iptables-nft -w -A INPUT -j KUBE-IPVS-FILTER
                 iptables-nft -w -N KUBE-NODE-PORT; iptables-nft -w -A KUBE-IPVS-FILTER -j KUBE-NODE-PORT
                 iptables-nft -w -N KUBE-FIREWALL; iptables-nft -w -A INPUT -j KUBE-FIREWALL");
        };
        let gone = || {
            run("! nft list ruleset | grep -E 'kube-proxy|KUBE-IPVS-FILTER|KUBE-NODE-PORT'
                 nft list ruleset | grep -q 'jump KUBE-FIREWALL'
                 nft list table ip stranger >/dev/null
                 iptables-nft -w -F INPUT; iptables-nft -w -X KUBE-FIREWALL");
        };
        leave();
        let mut rules = nftables().await;
        rules.write_all(&[(1, service(1, &[1]))]).await.unwrap();
        assert!(proxy::after_switch_to(Mode::Nftables, (30000, 32767)).await);
        gone();
        assert!(rules.audit().await.unwrap());
        leave();
        assert!(proxy::cleanup((30000, 32767)).await.is_empty());
        gone();
    });
}

/// Writes the same in one mode after the other, as starts with another configuration do.
async fn switch(bed: &Bed, mode: Mode) {
    let services = [(1, service(1, &[1, 2])), (2, service(2, &[]))];
    match mode {
        Mode::Nftables => drop(nftables().await.write_all(&services).await.unwrap()),
        Mode::Iptables => drop(iptables(Flavour::Nft).await.write_all(&services).await.unwrap()),
        Mode::Ipvs => drop(ipvs().await.write_all(&services).await.unwrap()),
    }
    // Before what was there is taken away, and after.
    for clean in [false, true] {
        if clean {
            assert!(proxy::after_switch_to(mode, (30000, 32767)).await);
        }
        assert_eq!(bed.outside.reaches("10.96.0.1", 80), BTreeSet::from([1, 2]), "{mode}, {clean}");
        assert_eq!(bed.pods[0].reaches(NODE, 30001), BTreeSet::from([1, 2]), "{mode}, {clean}");
        refused(bed.outside.ask("10.96.0.2", 80));
    }
    let found = [
        ("nft list table ip coracle-proxy", mode != Mode::Iptables),
        ("iptables-nft-save -t nat | grep KUBE-SERVICES", mode == Mode::Iptables),
        ("ip link show kube-ipvs0", mode == Mode::Ipvs),
    ];
    for (command, there) in found {
        run(&format!("{} {command} >/dev/null 2>&1", if there { "" } else { "!" }));
    }
}

#[test]
fn a_switch_of_mode_has_no_gap_and_leaves_nothing() {
    on_a_node(async |bed| {
        switch(&bed, Mode::Nftables).await;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let asked = bed.pods[1].start(move || {
            let mut asked = 0;
            while !until.load(Ordering::Relaxed) {
                ask("10.96.0.1", 80).expect("served at any moment");
                asked += 1;
            }
            asked
        });
        for mode in [Mode::Iptables, Mode::Nftables, Mode::Iptables] {
            switch(&bed, mode).await;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(asked.recv().expect("a gap") > 0);
    });
}

#[test]
#[ignore = "the kernel needs the modules ip_vs and dummy: tests/vm/run.sh ipvs_traffic"]
fn a_switch_to_ipvs_and_from_it_serves_at_once_and_leaves_nothing() {
    on_a_node(async |bed| {
        use Mode::{Iptables, Ipvs, Nftables};
        for mode in [Nftables, Ipvs, Iptables, Ipvs, Nftables] {
            switch(&bed, mode).await;
        }
    });
}
