//! Stale UDP flows of the real kernel, in a network namespace of the test's own. Needs root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::Command,
    time::Duration,
};

use netlink::{
    conntrack,
    nft::{Family, Socket},
};
use proxy::{
    flows::{Flows, forget},
    model::{Endpoint, Pods, PortModel, PortName, Proto, ServiceModel, Targets},
    nftables::{Layout, Programmed, Role, plan, plan_all},
};

const CLUSTER_IP: &str = "10.96.0.10";
const NODE: &str = "192.0.2.1";
const LAYOUT: Layout = Layout {
    family: Family::Ip,
    pods: Pods { range: None, masquerade_all: false },
    role: Role::Translate,
    drop_invalid: true,
};

fn dns(endpoints: &[u8]) -> ServiceModel {
    let endpoints: BTreeSet<Endpoint> =
        endpoints.iter().map(|last| Endpoint { ip: endpoint_ip(*last), port: 5353 }).collect();
    let targets = Targets { local_only: false, endpoints: endpoints.clone(), elsewhere: false };
    let port = PortModel {
        name: PortName { namespace: "kube-system".into(), service: "dns".into(), port: "dns".into() },
        proto: Proto::Udp,
        port: 53,
        cluster_ip: CLUSTER_IP.parse().unwrap(),
        external_ips: BTreeSet::new(),
        balancer_ips: BTreeSet::new(),
        source_ranges: BTreeSet::new(),
        node_port: Some(30053),
        affinity: None,
        internal: targets.clone(),
        external: targets,
        cluster: endpoints.clone(),
        serving: endpoints,
    };
    ServiceModel { created: 0, ports: vec![port], health: None }
}

fn endpoint_ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 0, last).into()
}

fn run(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

fn endpoint(last: u8) -> UdpSocket {
    let socket = UdpSocket::bind((endpoint_ip(last), 5353)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Where the connections to a port lead.
fn leads_of(port: u16) -> Vec<IpAddr> {
    let mut socket = conntrack::Socket::open().unwrap();
    let entries = socket.entries(false, |entry| entry.original.destination_port == port).unwrap();
    entries.iter().map(|entry| entry.reply.source).collect()
}

/// The planner and the kernel's rules together, as the proxy's loop has them.
struct Proxy {
    socket: Socket,
    programmed: Programmed<u8>,
    flows: Flows<u8>,
}

impl Proxy {
    async fn start() -> Self {
        let mut proxy = Self {
            socket: Socket::open().unwrap(),
            programmed: Programmed::default(),
            flows: Flows::default(),
        };
        let first = plan_all([(&1, &ServiceModel::default())], LAYOUT);
        proxy.socket.commit(&first.transaction).await.unwrap();
        proxy.programmed.accept(first);
        proxy
    }

    /// Writes rules, then reconciles flows if that is due; how many were forgotten.
    async fn change(&mut self, model: &ServiceModel) -> Option<usize> {
        let plan = plan(&self.programmed, [(&1, model)], LAYOUT);
        self.socket.commit(&plan.transaction).await.unwrap();
        self.programmed.accept(plan);
        self.flows.change(&1, model);
        if !self.flows.is_due() {
            return None;
        }
        let leads = self.flows.look();
        let forgotten = tokio::task::spawn_blocking(move || forget(&leads)).await.unwrap().unwrap();
        Some(forgotten)
    }
}

async fn a_client_that_never_pauses() {
    let (first, second) = (endpoint(1), endpoint(2));
    let client = UdpSocket::bind("192.0.2.1:4000").unwrap();
    let ask = |server: &UdpSocket, to: (&str, u16)| {
        client.send_to(b"?", to).unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        server.send_to(b"!", from).unwrap();
        client.recv_from(&mut [0; 8]).unwrap();
    };
    let mut proxy = Proxy::start().await;
    // Nobody knows the Service yet: the flow goes out as it is, and would for ever.
    client.send_to(b"?", (CLUSTER_IP, 53)).unwrap();
    // A stranger's flow to the same port.
    client.send_to(b"?", ("198.51.100.7", 53)).unwrap();
    assert_eq!(leads_of(53).len(), 2);
    assert_eq!(proxy.change(&dns(&[1])).await, Some(1));
    ask(&first, (CLUSTER_IP, 53));
    ask(&first, (NODE, 30053));

    // One more endpoint is no reason to look, and moves nobody.
    assert_eq!(proxy.change(&dns(&[1, 2])).await, None);
    ask(&first, (CLUSTER_IP, 53));
    assert_eq!(proxy.change(&dns(&[2])).await, Some(2));
    ask(&second, (CLUSTER_IP, 53));
    ask(&second, (NODE, 30053));

    assert_eq!(proxy.change(&dns(&[])).await, Some(2), "no endpoint is left, and no flow");
    assert!(leads_of(30053).is_empty());
    assert_eq!(leads_of(53), ["198.51.100.7".parse::<IpAddr>().unwrap()], "the stranger's flow stays");
}

#[test]
fn udp_flows_follow_their_service() {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
        run("ip link set lo up
             ip link add eth0 type veth peer name outside
             ip link set eth0 up; ip link set outside up
             ip addr add 192.0.2.1/24 dev eth0
             ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 dev eth0
             ip route add default via 192.0.2.254
             ip route add local 10.244.0.0/24 dev lo");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(a_client_that_never_pauses());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
