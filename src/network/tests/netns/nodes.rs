//! Pods of three nodes: two on one link, the third behind a router that knows of no pods.

use std::{
    cell::{Cell, RefCell},
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use network::Config;
use serde_json::{Value, json};

use crate::{
    agent::{Agent, Nodes, config, conflist, runtime, wait},
    support::{Host, Place, attachment},
};

/// More than fits any socket buffer, so that full-size packets are sent.
const BYTES: usize = 8 << 20;

struct Cluster {
    router: Place,
    a: Host,
    b: Host,
    c: Host,
    nodes: Nodes,
    version: u32,
}

impl Cluster {
    /// Hosts with strict reverse path filters, whose links carry 1400 bytes.
    fn new() -> Self {
        let router = Place::new();
        let [a, b, c] = [0, 1, 2].map(|_| Host {
            place: Place::new(),
            outside: Place::new(),
            state: tempfile::tempdir().unwrap(),
        });
        router.ip("link add near type bridge");
        router.ip("link set near up");
        for (name, host) in [("to-a", &a), ("to-b", &b), ("to-c", &c)] {
            let tid = host.place.path().split('/').nth(4).unwrap().to_string();
            router.ip(&format!("link add {name} mtu 1400 type veth peer name up0 netns {tid}"));
            router.ip(&format!("link set {name} up"));
            host.place.ip("link set lo up");
            host.place.ip("link set up0 mtu 1400 up");
            host.place.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap());
        }
        for near in ["to-a", "to-b"] {
            router.ip(&format!("link set {near} master near"));
        }
        router.ip("addr add 192.0.2.254/24 dev near");
        router.ip("addr add 203.0.113.254/24 dev to-c");
        router.ip("addr add 2001:db8:1::254/64 dev near nodad");
        router.ip("addr add 2001:db8:2::254/64 dev to-c nodad");
        router.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        for (host, net, six, last) in [
            (&a, "192.0.2", "2001:db8:1:", 1),
            (&b, "192.0.2", "2001:db8:1:", 2),
            (&c, "203.0.113", "2001:db8:2:", 3),
        ] {
            host.place.ip(&format!("addr add {net}.{last}/24 dev up0"));
            host.place.ip(&format!("route add default via {net}.254"));
            host.place.ip(&format!("addr add {six}:{last}/64 dev up0 nodad"));
            host.place.ip(&format!("-6 route add default via {six}:254"));
        }
        Self { router, a, b, c, nodes: Nodes::default(), version: 1 }
    }

    /// Nodes by number, with their addresses.
    fn publish(&mut self, nodes: &[(u8, &str)]) {
        self.version += 1;
        let version = self.version.to_string();
        let node = |(number, addresses): &(u8, &str)| {
            let ranges = [format!("10.77.{number}.0/24"), format!("fd00:77:{number}::/64")];
            let address = |address: &str| json!({"type": "InternalIP", "address": address});
            let addresses: Vec<Value> = addresses.split(',').map(address).collect();
            json!({"apiVersion": "v1", "kind": "Node", "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
                   "metadata": {"name": format!("n{number}"), "uid": format!("u{number}"), "resourceVersion": version},
                   "status": {"addresses": addresses}})
        };
        self.nodes.replace(&nodes.iter().map(node).collect::<Vec<_>>());
    }

    fn start(&self, host: &Host, number: u8) -> Agent {
        let cluster_cidr = vec!["10.77.0.0/16".parse().unwrap(), "fd00:77::/32".parse().unwrap()];
        let config = Config { node_name: format!("n{number}"), cluster_cidr, ..config(host) };
        let agent = Agent::start(host, config, &self.nodes);
        wait("the network is offered", || conflist(host).exists());
        agent
    }
}

struct Pod {
    place: Place,
    v4: String,
    v6: String,
}

fn pod(host: &Host, name: &str) -> Pod {
    let place = Place::new();
    let wanted = attachment(name, place.path(), Value::Null);
    let result = runtime(host, &conflist(host), async move |chain| chain.add(&wanted).await).unwrap();
    let [v4, v6] = [0, 1].map(|index: usize| result.ips[index].address.addr().to_string());
    Pod { place, v4, v6 }
}

/// Sends a lot from one pod to an address of another; who the sender was, seen from there.
fn send(from: &Place, to: &Place, address: &str) -> String {
    let listener = to.run(|| TcpListener::bind("[::]:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let sink = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), BYTES);
        stream.write_all(b"got it").unwrap();
        peer.ip().to_canonical().to_string()
    });
    let address = address.parse().unwrap();
    from.run(move || {
        let target = std::net::SocketAddr::new(address, port);
        let mut stream = std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&vec![7; BYTES]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "got it");
    });
    sink.join().unwrap()
}

/// Both ways, in both families, and nothing is translated.
fn talk(one: &Pod, other: &Pod) {
    assert_eq!(send(&one.place, &other.place, &other.v4), one.v4);
    assert_eq!(send(&other.place, &one.place, &one.v4), other.v4);
    assert_eq!(send(&one.place, &other.place, &other.v6), one.v6);
    assert_eq!(send(&other.place, &one.place, &one.v6), other.v6);
}

fn fragments(place: &Place) -> String {
    let text = place.run(|| std::fs::read_to_string("/proc/net/snmp").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "FragCreates").unwrap();
    values.split(' ').nth(at).unwrap().to_string()
}

fn has_tunnel(host: &Host) -> bool {
    host.place.ip("-o link").contains("coracle-vxlan")
}

const ALL: [(u8, &str); 3] =
    [(1, "192.0.2.1,2001:db8:1::1"), (2, "192.0.2.2,2001:db8:1::2"), (3, "203.0.113.3,2001:db8:2::3")];

#[test]
fn pods_reach_each_other_over_a_link_and_through_the_tunnel_with_full_size_packets() {
    let mut cluster = Cluster::new();
    cluster.publish(&ALL);
    let agents = [(&cluster.a, 1), (&cluster.b, 2), (&cluster.c, 3)].map(|(host, n)| cluster.start(host, n));
    for host in [&cluster.a, &cluster.b, &cluster.c] {
        wait("a tunnel", || has_tunnel(host));
    }
    let (a, b, c) = (pod(&cluster.a, "a"), pod(&cluster.b, "b"), pod(&cluster.c, "c"));
    assert!(a.place.ip("link show eth0").contains("mtu 1350"));
    talk(&a, &b);
    talk(&a, &c);
    talk(&b, &c);
    for place in [&cluster.a.place, &cluster.c.place, &cluster.router] {
        assert_eq!(fragments(place), "0", "what leaves the tunnel fits the link");
    }
    let routes = cluster.a.place.ip("route");
    assert!(routes.contains("10.77.2.0/24 via 192.0.2.2 dev up0"), "{routes}");
    assert!(routes.contains("10.77.3.0/24 via 10.77.3.0 dev coracle-vxlan"), "{routes}");
    // The host itself, whose answers a strict filter would drop if they came back by another link.
    assert_eq!(send(&cluster.a.place, &c.place, &c.v4), "10.77.1.0");
    assert_eq!(send(&c.place, &cluster.a.place, "192.0.2.1"), "203.0.113.3", "outside the cluster's ranges");
    drop(agents);
}

#[test]
fn a_node_that_joins_moves_and_goes_is_followed_and_older_pods_find_the_smaller_packet_size() {
    let mut cluster = Cluster::new();
    cluster.publish(&ALL[..2]);
    let _a = cluster.start(&cluster.a, 1);
    let old = pod(&cluster.a, "old");
    assert!(old.place.ip("link show eth0").contains("mtu 1400"));
    assert!(!has_tunnel(&cluster.a), "no node needs it");

    cluster.publish(&ALL);
    let _c = cluster.start(&cluster.c, 3);
    wait("tunnels", || has_tunnel(&cluster.a) && has_tunnel(&cluster.c));
    let far = pod(&cluster.c, "far");
    let (tries, fitting) = (Cell::new(0), RefCell::new(None));
    wait("pods whose packets fit the tunnel", || {
        tries.set(tries.get() + 1);
        let new = pod(&cluster.a, &format!("new{}", tries.get()));
        let fits = new.place.ip("link show eth0").contains("mtu 1350");
        fitting.replace(Some(new));
        fits
    });
    let new = fitting.into_inner().unwrap();
    talk(&old, &far);

    cluster.c.place.ip("addr add 203.0.113.7/24 dev up0");
    cluster.c.place.ip("addr del 203.0.113.3/24 dev up0");
    // Where secondary addresses go with the first.
    cluster.c.place.ip("addr replace 203.0.113.7/24 dev up0");
    cluster.c.place.ip("route replace default via 203.0.113.254");
    cluster.publish(&[ALL[0], ALL[1], (3, "203.0.113.7,2001:db8:2::3")]);
    let there = || cluster.a.place.shell("bridge", &["fdb", "show", "dev", "coracle-vxlan"]);
    wait("the new address", || there().contains("203.0.113.7"));
    assert!(!there().contains("203.0.113.3"));
    // Among all links, since it is made anew: between two looks it may be gone.
    let moved = |link: &str| link.contains("coracle-vxlan") && link.contains("local 203.0.113.7");
    wait("its own end", || cluster.c.place.ip("-d -o link").lines().any(moved));
    wait("its way back", || cluster.c.place.ip("route").contains("10.77.1.0/24 via 10.77.1.0"));
    talk(&new, &far);

    cluster.publish(&ALL[..2]);
    wait("the tunnel goes with the last node behind it", || !has_tunnel(&cluster.a));
    assert!(!cluster.a.place.ip("route").contains("10.77.3.0"));
}

#[test]
fn nodes_of_ipv6_alone_have_a_tunnel_of_ipv6_and_reset_removes_it() {
    let mut cluster = Cluster::new();
    cluster.publish(&[(1, "2001:db8:1::1"), (3, "2001:db8:2::3")]);
    let (mut a, _c) = (cluster.start(&cluster.a, 1), cluster.start(&cluster.c, 3));
    for host in [&cluster.a, &cluster.c] {
        wait("a tunnel", || host.place.ip("-o link").contains("coracle-vxlan6"));
    }
    let (one, other) = (pod(&cluster.a, "a"), pod(&cluster.c, "c"));
    assert!(one.place.ip("link show eth0").contains("mtu 1330"));
    talk(&one, &other);
    a.stop();
    let config = Config { node_name: "n1".into(), ..config(&cluster.a) };
    let report = cluster.a.place.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(network::reset(&config))
    });
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(report.removed.contains(&"interface coracle-vxlan6".to_string()), "{:?}", report.removed);
    assert!(!has_tunnel(&cluster.a));
}
