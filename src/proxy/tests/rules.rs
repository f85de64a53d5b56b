//! Rules for Services: what they are (golden), that a change leads to what writing anew would (simulated table),
//! and that packets go where they should (real kernel, in a network namespace of its own; needs root).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use netlink::nft::{Family, Socket};
use proptest::prelude::*;
use proxy::{
    model::{Endpoint, PortModel, PortName, Proto, ServiceModel, Targets},
    nftables::{PodRange, Programmed, plan, plan_all, plan_deletions},
};
use table::Table;

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, last))
}

fn endpoints(last: &[u8]) -> BTreeSet<Endpoint> {
    last.iter().map(|last| Endpoint { ip: ip(*last), port: 8080 }).collect()
}

fn targets(last: &[u8]) -> Targets {
    Targets { local_only: false, endpoints: endpoints(last), elsewhere: false }
}

fn service(number: u8, endpoints: &[u8]) -> ServiceModel {
    ServiceModel {
        created: i64::from(number),
        ports: vec![PortModel {
            name: PortName {
                namespace: "shop".into(),
                service: format!("web-{number}"),
                port: "http".into(),
            },
            proto: Proto::Tcp,
            port: 80,
            cluster_ip: IpAddr::V4(Ipv4Addr::new(10, 96, 0, number)),
            external_ips: BTreeSet::new(),
            node_port: Some(30000 + u16::from(number)),
            affinity: None,
            internal: targets(endpoints),
            external: targets(endpoints),
            serving: BTreeSet::new(),
        }],
    }
}

fn pods() -> PodRange {
    PodRange(Some("10.244.0.0/16".parse().unwrap()))
}

#[test]
fn one_service_of_each_sort_renders_as_written_down() {
    let mut sticky = service(2, &[3, 4]);
    sticky.ports[0].affinity = Some(Duration::from_secs(10_800));
    sticky.ports[0].node_port = None;
    let mut local = service(3, &[5, 6]);
    local.ports[0].external = Targets { local_only: true, ..targets(&[5]) };
    local.ports[0].external_ips.insert("192.0.2.9".parse().unwrap());
    let services =
        BTreeMap::from([("a", service(1, &[1, 2])), ("b", sticky), ("c", local), ("d", service(4, &[]))]);
    let plan = plan_all(&services, Family::Ip, pods());
    insta::assert_snapshot!(plan.transaction.render());
}

/// A service that may have anything.
fn any_service() -> impl Strategy<Value = ServiceModel> {
    (
        prop::collection::btree_set(1u8..6, 0..4),
        any::<bool>(),
        prop::option::of(prop_oneof![Just(10u64), Just(20)]),
        any::<bool>(),
        prop::option::of(1u8..4),
        0i64..3,
    )
        .prop_map(|(last, local, affinity, node_port, external, created)| {
            let last: Vec<u8> = last.into_iter().collect();
            let mut model = service(0, &last);
            let port = &mut model.ports[0];
            port.affinity = affinity.map(Duration::from_secs);
            if local {
                let here: Vec<u8> = last.iter().copied().filter(|last| last % 2 == 0).collect();
                let elsewhere = here.is_empty() && !last.is_empty();
                port.external = Targets { local_only: true, elsewhere, ..targets(&here) };
            }
            if !node_port {
                port.node_port = None;
            }
            port.external_ips =
                external.into_iter().map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))).collect();
            if external == Some(3) {
                port.external_ips.insert(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)));
            }
            model.created = created;
            model
        })
}

/// Gives a model the name and cluster IP of the service of a number. Its external IPs, one of which is the cluster IP
/// of another, and its node port may be those of others too.
fn numbered(number: u8, mut model: ServiceModel) -> ServiceModel {
    for port in &mut model.ports {
        port.name.service = format!("web-{number}");
        port.cluster_ip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, number));
        port.node_port = port.node_port.map(|_| 30000 + u16::from(number % 3));
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// However Services change, and whenever tidying comes, the table is what writing it anew would make,
    /// no transaction is one that the kernel would refuse, and planning again after apply is empty.
    #[test]
    fn changes_lead_to_what_writing_anew_makes(
        steps in prop::collection::vec((0u8..4, prop::option::of(any_service()), any::<bool>()), 1..30),
    ) {
        let mut table = Table::default();
        let mut programmed = Programmed::<u8>::default();
        let mut services = BTreeMap::new();
        let first = plan_all(&services, Family::Ip, pods());
        table.commit(&first.transaction).unwrap();
        programmed.accept(first);
        for (number, service, tidy) in steps {
            let model = numbered(number, service.unwrap_or_default());
            services.insert(number, model.clone());
            let planned = plan(&programmed, [(&number, &model)], Family::Ip, pods());
            table.commit(&planned.transaction).map_err(TestCaseError::fail)?;
            programmed.accept(planned);
            let again = plan(&programmed, [(&number, &model)], Family::Ip, pods());
            prop_assert!(again.shadowed.is_empty());
            prop_assert!(again.is_empty(), "planned again: {}", again.transaction.render());
            if tidy {
                table.commit(&plan_deletions(&programmed, Family::Ip)).map_err(TestCaseError::fail)?;
                programmed.accept_deletions();
            }
        }
        table.commit(&plan_deletions(&programmed, Family::Ip)).map_err(TestCaseError::fail)?;
        let mut fresh = Table::default();
        let all = plan_all(&services, Family::Ip, pods());
        fresh.commit(&all.transaction).map_err(TestCaseError::fail)?;
        prop_assert_eq!(table, fresh);
        let counts = programmed.element_counts();
        programmed.accept(all);
        prop_assert_eq!(counts, programmed.element_counts());
    }
}

#[test]
fn the_older_service_has_an_address_and_the_younger_takes_over() {
    let shared = |number: u8, created: i64| {
        let mut model = service(number, &[number]);
        model.created = created;
        model.ports[0].node_port = None;
        model.ports[0].external_ips.insert("192.0.2.9".parse().unwrap());
        model
    };
    let (older, younger) = (shared(2, 10), shared(1, 20));
    let (mut table, mut programmed) = (Table::default(), Programmed::default());
    let first = plan_all([(&1, &younger)], Family::Ip, pods());
    table.commit(&first.transaction).unwrap();
    programmed.accept(first);
    let mut step = |model: &ServiceModel| {
        let plan = plan(&programmed, [(&2, model)], Family::Ip, pods());
        table.commit(&plan.transaction).unwrap();
        let (text, shadowed) = (plan.transaction.render(), plan.shadowed.clone());
        programmed.accept(plan);
        (text, shadowed)
    };
    let has = |text: &str, number: u8| {
        text.lines().any(|line| {
            line.starts_with("add element")
                && line.contains("192.0.2.9 . tcp . 80 : goto external-")
                && line.contains(&format!("shop/web-{number}/tcp/http"))
        })
    };
    let (text, shadowed) = step(&older);
    assert!(has(&text, 2), "{text}");
    let lost: Vec<_> = shadowed.iter().map(|s| (s.what.as_str(), s.loser, s.winner)).collect();
    assert_eq!(lost, [("192.0.2.9:80/Tcp", 1, 2)]);
    let (text, shadowed) = step(&ServiceModel::default());
    assert!(has(&text, 1) && shadowed.is_empty(), "{text}");
    // A cluster IP is its Service's, however old the one is that claims it from outside.
    let mut thief = shared(3, 0);
    thief.ports[0].external_ips = BTreeSet::from([younger.ports[0].cluster_ip]);
    let (text, shadowed) = step(&thief);
    assert!(!text.contains("10.96.0.1 . tcp"), "{text}");
    assert_eq!((shadowed[0].loser, shadowed[0].winner), (2, 1));
}

/// Runs a test on a thread in a fresh network namespace, which ends with the thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
        // A way out, though nobody is there: a connection that no rule catches must look like one on a real host.
        for command in [
            "ip link set lo up",
            "ip link add eth0 type veth peer name outside",
            "ip link set eth0 up",
            "ip link set outside up",
            "ip addr add 192.0.2.1/24 dev eth0",
            "ip route add default via 192.0.2.254",
            "ip route add local 10.244.0.0/24 dev lo",
        ] {
            assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Serves its own address to each connection, until the namespace goes.
fn serve(last: u8) {
    let listener = TcpListener::bind((ip(last), 8080)).unwrap();
    // Ends with the test's process; it holds nothing but its socket.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream.unwrap().write_all(&[last]));
        }
    });
}

/// Which endpoint answers, if one does.
fn ask(address: &str, port: u16) -> std::io::Result<u8> {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[test]
fn connections_reach_every_endpoint_and_only_those() {
    in_namespace(async || {
        for last in 1..=3 {
            serve(last);
        }
        let mut socket = Socket::open().unwrap();
        let mut programmed = Programmed::default();
        let services = BTreeMap::from([(1, service(1, &[1, 2])), (2, service(2, &[]))]);
        let first = plan_all(&services, Family::Ip, pods());
        socket.commit(&first.transaction).await.unwrap();
        programmed.accept(first);
        let seen = |address: &str, port: u16| -> BTreeSet<u8> {
            (0..40).map(|_| ask(address, port).unwrap()).collect()
        };
        assert_eq!(seen("10.96.0.1", 80), BTreeSet::from([1, 2]));
        assert_eq!(seen("192.0.2.1", 30001), BTreeSet::from([1, 2]));
        // No endpoint: refused at once, not left hanging.
        assert_eq!(ask("10.96.0.2", 80).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(ask("192.0.2.1", 30002).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

        let moved = service(1, &[3]);
        let change = plan(&programmed, [(&1, &moved)], Family::Ip, pods());
        socket.commit(&change.transaction).await.unwrap();
        programmed.accept(change);
        assert_eq!(seen("10.96.0.1", 80), BTreeSet::from([3]));
        socket.commit(&plan_deletions(&programmed, Family::Ip)).await.unwrap();

        let mut sticky = service(1, &[1, 2, 3]);
        sticky.ports[0].affinity = Some(Duration::from_secs(60));
        let change = plan(&programmed, [(&1, &sticky)], Family::Ip, pods());
        socket.commit(&change.transaction).await.unwrap();
        assert_eq!(seen("10.96.0.1", 80).len(), 1, "a client stays with its endpoint");
    });
}

#[test]
fn the_kernel_has_the_rules_that_we_count() {
    in_namespace(async || {
        let mut socket = Socket::open().unwrap();
        let mut programmed = Programmed::default();
        let services: BTreeMap<u8, ServiceModel> = (0..50).map(|n| (n, service(n, &[1, 2]))).collect();
        let all = plan_all(&services, Family::Ip, pods());
        let table = all.transaction.table.clone();
        socket.commit(&all.transaction).await.unwrap();
        programmed.accept(all);
        let state = socket.state(&table).await.unwrap().unwrap();
        for (chain, count) in programmed.rule_counts() {
            assert_eq!(state.chains.get(chain), Some(&count), "{chain}");
        }
        for (map, count) in programmed.element_counts() {
            assert_eq!(state.sets.get(map), Some(&count), "{map}");
        }
    });
}
