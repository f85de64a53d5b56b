//! A chain of upstream's plugins (`bridge`, `host-local`, `portmap`), run as the spec says.

use std::{path::Path, time::Duration};

use network::cni::{Attachment, Cache, Chain, CniError, NetworkList, NetworkResult, Processes};
use serde_json::{Value, json};

use crate::support::{Host, Place, attachment};

/// A chain whose state is all in `state`.
pub(crate) fn bridge(state: &Path) -> Chain<Processes> {
    let text = json!({"cniVersion": "1.0.0", "name": "bridged", "plugins": [
        {"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": state.join("host-local"),
                  "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    let list = NetworkList::parse(&text.to_string(), Path::new("bridged.conflist")).unwrap();
    let exec = Processes { dirs: vec!["/usr/lib/cni".into()], deadline: Duration::from_secs(30) };
    Chain::new(list, Cache::new(state.join("results")), exec)
}

/// Runs a piece of async work on the host, with the chain.
fn on<T: Send + 'static>(
    host: &Host,
    work: impl AsyncFnOnce(Chain<Processes>) -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    run(host, bridge, work)
}

/// The same with a chain that `made` makes.
fn run<T: Send + 'static>(
    host: &Host,
    made: fn(&Path) -> Chain<Processes>,
    work: impl AsyncFnOnce(Chain<Processes>) -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    let state = host.state.path().to_path_buf();
    host.place.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(made(&state)))
    })
}

fn add(host: &Host, attachment: &Attachment) -> NetworkResult {
    let attachment = attachment.clone();
    on(host, async move |chain| chain.add(&attachment).await).unwrap()
}

#[test]
fn pods_of_a_chain_are_reached_by_address_and_host_port_until_they_are_deleted() {
    let host = Host::new();
    let (a, b) = (Place::new(), Place::new());
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let first = attachment("a", a.path(), ports);
    let result = add(&host, &first);
    let address = result.ips[0].address.addr().to_string();
    let second = attachment("b", b.path(), Value::Null);
    add(&host, &second);
    a.serve("0.0.0.0", 80);
    assert!(b.call(&address, 80).is_ok());
    assert!(host.outside.call("192.0.2.1", 8080).is_ok());
    // Not of the first: portmap 1.1.1 cannot check a mapping of one family.
    on(&host, async move |chain| chain.check(&second).await).unwrap();

    // As a runtime does after a restart: without capabilities.
    let bare = attachment("a", a.path(), Value::Null);
    on(&host, async move |chain| chain.del(&bare).await).unwrap();
    assert!(host.outside.call("192.0.2.1", 8080).is_err());
    assert!(!a.ip("-o link").contains("eth0"));
    let gone = first.clone();
    on(&host, async move |chain| chain.check(&gone).await).unwrap_err();
    on(&host, async move |chain| chain.del(&first).await).unwrap();
}

#[test]
fn gc_of_a_chain_detaches_what_is_not_valid() {
    let host = Host::new();
    let (a, b) = (Place::new(), Place::new());
    add(&host, &attachment("a", a.path(), Value::Null));
    add(&host, &attachment("b", b.path(), Value::Null));
    let valid = attachment("b", String::new(), Value::Null).id;
    on(&host, async move |chain| chain.gc(&[valid]).await).unwrap();
    assert!(!a.ip("-o link").contains("eth0"));
    assert!(b.ip("-o link").contains("eth0"));
    let leases = std::fs::read_dir(host.state.path().join("host-local/bridged")).unwrap();
    let leased =
        leases.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count();
    assert_eq!(leased, 1);
}

/// Every sort of plugin that people chain: a point-to-point link, an address, limits, a firewall, sysctls, host ports.
fn long(state: &Path) -> Chain<Processes> {
    let text = json!({"cniVersion": "1.0.0", "name": "long", "plugins": [
        {"type": "ptp", "ipMasq": false, "mtu": 1300,
         "ipam": {"type": "host-local", "dataDir": state.join("host-local"),
                  "ranges": [[{"subnet": "10.89.0.0/24"}], [{"subnet": "fd00:89::/64"}]],
                  "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "firewall", "backend": "iptables"},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "777"}, "dataDir": state.join("tuning")},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    let list = NetworkList::parse(&text.to_string(), Path::new("long.conflist")).unwrap();
    let exec = Processes { dirs: vec!["/usr/lib/cni".into()], deadline: Duration::from_secs(30) };
    Chain::new(list, Cache::new(state.join("results")), exec)
}

#[test]
fn a_long_chain_of_plugins_does_all_that_it_says_and_takes_it_away() {
    let host = Host::new();
    let pod = Place::new();
    let before = host.place.ip("-o link");
    let capabilities = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000},
    });
    let attachment = attachment("long", pod.path(), capabilities);
    let asked = attachment.clone();
    let result = run(&host, long, async move |chain| chain.add(&asked).await).unwrap();
    assert_eq!(result.ips.len(), 2, "both families");
    let address = result.ips[0].address.addr().to_string();
    pod.serve("0.0.0.0", 80);
    assert!(host.place.call(&address, 80).is_ok());
    assert!(host.outside.call("192.0.2.1", 8080).is_ok());
    assert!(pod.ip("-o link show eth0").contains("mtu 1300"));
    let somaxconn = pod.run(|| std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap());
    assert_eq!(somaxconn.trim(), "777");
    assert!(host.place.shell("tc", &["qdisc"]).contains("tbf"));
    assert!(host.place.shell("iptables-save", &[]).contains(&address));
    let gone = attachment.clone();
    run(&host, long, async move |chain| chain.del(&attachment).await).unwrap();
    assert_eq!(host.place.ip("-o link"), before);
    assert!(!host.place.shell("iptables-save", &[]).contains(&address));
    assert!(host.outside.call("192.0.2.1", 8080).is_err());
    run(&host, long, async move |chain| chain.del(&gone).await).unwrap();
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    let host = Host::new();
    let error = on(&host, async |chain| {
        let list = r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"no-such-plugin"}]}"#;
        let list = NetworkList::parse(list, Path::new("x")).unwrap();
        drop(chain);
        let exec = Processes { dirs: vec!["/usr/lib/cni".into()], deadline: Duration::from_secs(1) };
        let chain = Chain::new(list, Cache::new("/nonexistent".into()), exec);
        chain.add(&attachment("a", "/x".into(), Value::Null)).await
    })
    .unwrap_err();
    assert_eq!(error.msg, "failed to find plugin \"no-such-plugin\" in path [/usr/lib/cni]");
}
