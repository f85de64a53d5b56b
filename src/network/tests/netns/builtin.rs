//! The built-in network.

use network::cni::{Attachment, Code, NetworkResult};
use serde_json::{Value, json};

use crate::support::{Host, Place, attachment};

/// Adds a pod; the place it is in and its addresses.
fn pod(host: &Host, name: &str, capabilities: Value) -> (Place, String, String) {
    let place = Place::new();
    let attachment = attachment(name, place.path(), capabilities);
    let result = host.with(move |network| network.add(&attachment)).unwrap();
    let [v4, v6] = [0, 1].map(|index: usize| result.ips[index].address.addr().to_string());
    (place, v4, v6)
}

fn add(host: &Host, attachment: &Attachment) -> NetworkResult {
    let attachment = attachment.clone();
    host.with(move |network| network.add(&attachment)).unwrap()
}

fn del(host: &Host, name: &str) {
    let id = attachment(name, String::new(), Value::Null).id;
    host.with(move |network| network.del(&id)).unwrap();
}

fn our_links(host: &Host) -> usize {
    host.place.ip("-o link").lines().filter(|line| line.contains(": cor")).count()
}

#[test]
fn pods_and_the_host_reach_each_other_in_both_families() {
    let host = Host::new();
    let (a, a4, a6) = pod(&host, "a", Value::Null);
    let (b, b4, b6) = pod(&host, "b", Value::Null);
    let port = b.serve("[::]", 0);
    assert_eq!(a.call(&b4, port).unwrap().to_string(), format!("::ffff:{a4}"));
    assert_eq!(a.call(&b6, port).unwrap().to_string(), a6);
    assert!(host.place.call(&b4, port).is_ok());
    assert!(host.place.call(&b6, port).is_ok());
    let on_host = host.place.serve("0.0.0.0", 0);
    assert_eq!(a.call("192.0.2.1", on_host).unwrap().to_string(), a4);
    assert!(a.ip("link show eth0").contains("mtu 1400"));
    assert!(a.ip("link show lo").contains("UP"));
}

#[test]
fn the_outside_sees_the_host_when_a_pod_calls() {
    let host = Host::new();
    host.with(|network| network.reconcile()).unwrap();
    let (a, ..) = pod(&host, "a", Value::Null);
    let port = host.outside.serve("0.0.0.0", 0);
    assert_eq!(a.call("192.0.2.2", port).unwrap().to_string(), "192.0.2.1");
}

#[test]
fn who_is_cut_off_is_reached_by_nobody_and_a_crash_then_leaves_nothing() {
    let host = Host::new();
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let (a, a4, _) = pod(&host, "a", ports);
    host.with(|network| network.reconcile()).unwrap();
    a.serve("0.0.0.0", 80);
    assert!(host.place.call(&a4, 80).is_ok() && host.outside.call("192.0.2.1", 8080).is_ok());
    let id = attachment("a", String::new(), Value::Null).id;
    let (cut, checked) = (id.clone(), id.clone());
    // What would clear the rest away never comes.
    assert!(host.with(move |network| network.cut_off(&cut)).unwrap().is_some());
    assert!(host.place.call(&a4, 80).is_err() && host.outside.call("192.0.2.1", 8080).is_err());
    assert_eq!(host.with(move |network| network.check(&checked)).unwrap_err().code, Code::UNKNOWN_CONTAINER);
    let (_b, b4, _) = pod(&host, "b", Value::Null);
    assert_ne!(a4, b4);
    assert_eq!(our_links(&host), 2);
    let swept = host.with(|network| network.reconcile()).unwrap();
    assert_eq!(swept.attachments, [id]);
    assert_eq!(our_links(&host), 1);
}

#[test]
fn an_address_just_freed_rests_also_when_nobody_else_has_one() {
    let host = Host::new();
    let (_a, a4, a6) = pod(&host, "a", Value::Null);
    del(&host, "a");
    let (_b, b4, b6) = pod(&host, "b", Value::Null);
    assert_ne!((a4, a6), (b4, b6));
}

#[test]
fn adding_again_gives_the_same_result_and_deleting_again_succeeds() {
    let host = Host::new();
    let place = Place::new();
    let attachment = attachment("a", place.path(), Value::Null);
    let first = add(&host, &attachment);
    assert_eq!(add(&host, &attachment), first);
    assert_eq!(our_links(&host), 1);
    let id = attachment.id.clone();
    host.with(move |network| network.check(&id)).unwrap();
    del(&host, "a");
    del(&host, "a");
    assert_eq!(our_links(&host), 0);
    assert!(!host.place.ip("route").contains("10.77"));
    assert!(!place.ip("-o link").contains("eth0"));
    let id = attachment.id;
    assert_eq!(host.with(move |network| network.check(&id)).unwrap_err().code, Code::UNKNOWN_CONTAINER);
}

#[test]
fn a_freed_address_is_not_given_to_the_next_pod() {
    let host = Host::new();
    let (_a, a4, _) = pod(&host, "a", Value::Null);
    let (_b, b4, _) = pod(&host, "b", Value::Null);
    del(&host, "a");
    let (_c, c4, _) = pod(&host, "c", Value::Null);
    assert_eq!((a4.as_str(), b4.as_str(), c4.as_str()), ("10.77.0.2", "10.77.0.3", "10.77.0.4"));
}

#[test]
fn host_ports_are_reached_from_outside_from_the_host_and_from_the_pod_itself() {
    let host = Host::new();
    host.with(|network| network.reconcile()).unwrap();
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let (a, a4, _) = pod(&host, "a", ports);
    let (b, b4, _) = pod(&host, "b", Value::Null);
    a.serve("0.0.0.0", 80);
    assert_eq!(host.outside.call("192.0.2.1", 8080).unwrap().to_string(), "192.0.2.2");
    assert_eq!(b.call("192.0.2.1", 8080).unwrap().to_string(), b4);
    assert!(host.place.call("192.0.2.1", 8080).is_ok(), "from the host by its address");
    assert!(host.place.call("127.0.0.1", 8080).is_ok(), "from the host by its loopback");
    assert!(a.call("192.0.2.1", 8080).is_ok(), "from the pod itself");
    assert!(a.call(&a4, 80).is_ok());
    del(&host, "a");
    assert!(host.outside.call("192.0.2.1", 8080).is_err());
    let table = host.place.shell("nft", &["list", "table", "ip", "coracle-network"]);
    assert!(!table.contains("8080"), "{table}");
}

#[test]
fn a_pod_cannot_reach_the_loopback_of_the_host_through_its_host_port() {
    let host = Host::new();
    host.with(|network| network.reconcile()).unwrap();
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}]});
    let (a, ..) = pod(&host, "a", ports);
    let secret = host.place.serve("127.0.0.2", 0);
    // The pod is root in its namespace: it routes loopback addresses out.
    a.run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
    a.ip("route del local 127.0.0.0/8 dev lo table local");
    a.ip("route add 127.0.0.0/8 via 169.254.1.1 dev eth0 onlink src 10.77.0.2");
    assert!(a.call("127.0.0.2", secret).is_err());
    // It is the rule that keeps it out, and nothing else.
    host.place.shell("nft", &["flush", "chain", "ip", "coracle-network", "input"]);
    assert!(a.call("127.0.0.2", secret).is_ok());
}

#[test]
fn a_broken_table_is_mended_by_the_next_host_port() {
    let host = Host::new();
    host.with(|network| network.reconcile()).unwrap();
    host.place.shell("nft", &["flush", "ruleset"]);
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}]});
    let (a, ..) = pod(&host, "a", ports);
    a.serve("0.0.0.0", 80);
    assert!(host.outside.call("192.0.2.1", 8080).is_ok());
}

#[test]
fn a_crash_between_allocating_and_wiring_is_healed_by_the_next_add() {
    let host = Host::new();
    let place = Place::new();
    // The namespace is not there yet: the address is recorded, the wire is not made.
    let broken = attachment("a", "/run/netns/not-there".into(), Value::Null);
    assert!(host.with(move |network| network.add(&broken)).is_err());
    let result = add(&host, &attachment("a", place.path(), Value::Null));
    assert_eq!(result.ips[0].address.to_string(), "10.77.0.2/32");
    assert!(host.place.call("10.77.0.2", 1).unwrap_err().kind() == std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn leftovers_of_containers_that_are_gone_are_collected() {
    let host = Host::new();
    let (a, ..) = pod(&host, "a", Value::Null);
    let (_b, b4, _) = pod(&host, "b", Value::Null);
    host.place.ip("link add cor0123456789ab type veth peer name other");
    host.place.ip("link add corporate type veth peer name other2");
    drop(a);
    let swept = host.with(|network| network.reconcile()).unwrap();
    assert_eq!(swept.attachments.len(), 1);
    assert_eq!(swept.attachments[0].container_id, "a");
    assert_eq!(swept.interfaces, ["cor0123456789ab"]);
    assert!(host.place.ip("-o link").contains("corporate"));
    assert!(host.place.ip("route").contains(&b4));
    assert_eq!(host.with(|network| network.reconcile()).unwrap(), network::builtin::Swept::default());
}

#[test]
fn gc_removes_what_is_not_valid() {
    let host = Host::new();
    let (_a, ..) = pod(&host, "a", Value::Null);
    let (_b, ..) = pod(&host, "b", Value::Null);
    let valid = attachment("b", String::new(), Value::Null).id;
    let swept = host.with(move |network| network.gc(&[valid])).unwrap();
    assert_eq!(swept.attachments.len(), 1);
    assert_eq!(our_links(&host), 1);
}

#[test]
fn bandwidth_becomes_a_token_bucket_on_either_end() {
    let host = Host::new();
    let limits = json!({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000,
                                      "egressRate": 16_000_000, "egressBurst": 800_000}});
    let (a, ..) = pod(&host, "a", limits);
    let inside = a.shell("tc", &["qdisc", "show", "dev", "eth0"]);
    assert!(inside.contains("tbf") && inside.contains("rate 16Mbit"), "{inside}");
    let outside = host.place.shell("tc", &["qdisc", "show"]);
    assert!(outside.contains("tbf") && outside.contains("rate 8Mbit"), "{outside}");
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    let host = Host::new();
    let attachment = attachment("a", host.place.path(), Value::Null);
    let error = host.with(move |network| network.add(&attachment)).unwrap_err();
    assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
}
