//! The whole way of a pod: the runtime's call of `coracle-cni`, the socket, the agent, the kernel.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::Node;
use lifecycle::Scope;
use network::{
    Config, ProviderConfig,
    cni::{Cache, Chain, CniError, Code, NetworkList, Processes},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use crate::support::{Host, Place, attachment};

const DEADLINE: Duration = Duration::from_secs(20);

/// The API's nodes: a list, and a watch that says what changed since.
#[derive(Clone, Default)]
pub(crate) struct Nodes {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    items: Vec<Value>,
    watchers: Vec<mpsc::Sender<Bytes>>,
}

impl Nodes {
    fn set(&self, node: &Value) {
        let mut shared = self.shared.lock().unwrap();
        shared.items = vec![node.clone()];
        let event = Bytes::from(format!("{}\n", json!({"type": "MODIFIED", "object": node})));
        shared.watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
    }

    /// Takes the place of what was there; nodes that are not named are gone.
    pub(crate) fn replace(&self, nodes: &[Value]) {
        let mut shared = self.shared.lock().unwrap();
        let name = |node: &Value| node["metadata"]["name"].clone();
        let gone = shared.items.iter().filter(|old| !nodes.iter().any(|new| name(new) == name(old)));
        let mut events: Vec<Value> = gone.map(|node| json!({"type": "DELETED", "object": node})).collect();
        events.extend(nodes.iter().map(|node| json!({"type": "MODIFIED", "object": node})));
        shared.items = nodes.to_vec();
        for event in events {
            let event = Bytes::from(format!("{event}\n"));
            shared.watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
        }
    }

    fn answer(&self, watch: bool) -> http::Response<UnsyncBoxBody<Bytes, Infallible>> {
        let mut shared = self.shared.lock().unwrap();
        let body = if watch {
            let (events, stream) = mpsc::channel(64);
            shared.watchers.push(events);
            StreamBody::new(ReceiverStream::new(stream).map(|bytes| Ok(http_body::Frame::data(bytes))))
                .boxed_unsync()
        } else {
            let list = json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "1"},
                              "items": shared.items});
            Full::new(Bytes::from(list.to_string())).boxed_unsync()
        };
        http::Response::builder().header("content-type", "application/json").body(body).unwrap()
    }
}

fn node(version: u32, pod_cidr: Option<&str>) -> Value {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "spec": {},
                          "metadata": {"name": "n1", "uid": "u1", "resourceVersion": version.to_string()}});
    if let Some(cidr) = pod_cidr {
        node["spec"] = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
    }
    node
}

/// An agent on a host, and the runtime's folders.
pub(crate) struct Agent {
    scope: Scope,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub(crate) fn config(host: &Host) -> Config {
    let root = host.state.path();
    Config {
        node_name: "n1".into(),
        state_dir: root.join("state"),
        run_dir: root.join("run"),
        provider: ProviderConfig::BuiltIn,
        cni_conf_dir: root.join("net.d"),
        cni_bin_dir: root.join("bin"),
        cni_plugin_dirs: vec!["/usr/lib/cni".into()],
        cluster_cidr: vec!["10.77.0.0/16".parse().unwrap()],
        mtu: None,
        direct_routes: true,
        tunnel: network::Tunnel::default(),
        plugin_binary: Some(env!("CARGO_BIN_EXE_coracle-cni").into()),
    }
}

impl Agent {
    pub(crate) fn start(host: &Host, config: Config, nodes: &Nodes) -> Self {
        let scope = Scope::root("network");
        let beside = host.place.beside();
        let (nodes, own) = (nodes.clone(), scope.clone());
        let thread = std::thread::Builder::new()
            .spawn(move || {
                beside.run(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let service = tower::service_fn(move |request: http::Request<_>| {
                            let watch = request.uri().query().is_some_and(|query| query.contains("watch="));
                            let answer = nodes.answer(watch);
                            async move { Ok::<_, Infallible>(answer) }
                        });
                        let client = client::from_service(service);
                        let store = client::Cache::new(client, &own).store::<Node>();
                        network::run(config, network::Nodes { own: store.clone(), all: store }, own.clone())
                            .await
                            .unwrap();
                        assert!(own.close(DEADLINE).await);
                    });
                });
            })
            .unwrap();
        Self { scope, thread: Some(thread) }
    }

    pub(crate) fn stop(&mut self) {
        self.scope.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.scope.cancel();
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

pub(crate) fn wait(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn conflist(host: &Host) -> PathBuf {
    host.state.path().join("net.d/99-coracle.conflist")
}

/// What a runtime does: the conflist of its folder, the plugins of its other folder.
pub(crate) fn runtime<T: Send + 'static>(
    host: &Host,
    list: &Path,
    work: impl AsyncFnOnce(Chain<Processes>) -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    let list = NetworkList::load(list).unwrap();
    let exec = Processes { dirs: vec![host.state.path().join("bin")], deadline: DEADLINE };
    let chain = Chain::new(list, Cache::new(host.state.path().join("runtime-cache")), exec);
    host.place.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(chain))
    })
}

#[test]
fn rules_that_somebody_takes_away_come_back_by_themselves() {
    let host = Host::new();
    let nodes = Nodes::default();
    nodes.set(&node(2, Some("10.77.5.0/24")));
    let _agent = Agent::start(&host, config(&host), &nodes);
    let list = conflist(&host);
    wait("the network is offered", || list.exists());
    let place = Place::new();
    let ports = json!({"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp"}]});
    let attachment = attachment("a", place.path(), ports);
    runtime(&host, &list, async move |chain| chain.add(&attachment).await).unwrap();
    let nft = |words: &str| host.place.shell("nft", &words.split(' ').collect::<Vec<_>>());
    let rules = || nft("-s list ruleset");
    let before = rules();
    assert!(before.contains("8080"), "{before}");
    for broken in [
        "flush ruleset",
        "flush chain ip coracle-network postrouting",
        "flush set ip coracle-network hairpin",
    ] {
        nft(broken);
        wait(broken, || rules() == before);
    }
}

#[test]
fn the_runtime_gets_a_network_with_the_nodes_addresses_and_can_always_tear_a_pod_down() {
    let host = Host::new();
    let nodes = Nodes::default();
    nodes.set(&node(2, None));
    let mut agent = Agent::start(&host, config(&host), &nodes);
    let socket = host.state.path().join("run/cni.sock");
    wait("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert!(!conflist(&host).exists(), "no network is offered before there are addresses");

    nodes.set(&node(3, Some("10.77.5.0/24")));
    wait("the network is offered", || conflist(&host).exists());
    let list = conflist(&host);
    let pod = Place::new();
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let wanted = attachment("a", pod.path(), ports);
    let added = wanted.clone();
    let result = runtime(&host, &list, async move |chain| chain.add(&added).await).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.77.5.2/32");
    pod.serve("0.0.0.0", 80);
    assert!(host.outside.call("192.0.2.1", 8080).is_ok());
    let checked = wanted.clone();
    runtime(&host, &list, async move |chain| chain.check(&checked).await).unwrap();

    // What DEL leaves for later does not harm an ADD that follows at once.
    let again = wanted.clone();
    runtime(&host, &list, async move |chain| {
        for _ in 0..10 {
            chain.del(&again).await?;
            chain.add(&again).await?;
            chain.check(&again).await?;
        }
        Ok(())
    })
    .unwrap();

    agent.stop();
    let (late, place) = (attachment("b", pod.path(), Value::Null), pod.path());
    let error = runtime(&host, &list, async move |chain| chain.add(&late).await).unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER, "{error}");
    assert!(host.outside.call("192.0.2.1", 8080).is_ok(), "pods live on without the agent");
    let gone = wanted.clone();
    runtime(&host, &list, async move |chain| chain.del(&gone).await).unwrap();
    assert!(host.outside.call("192.0.2.1", 8080).is_err());
    assert!(!host.place.ip("-o link").contains(": cor"));

    let _agent = Agent::start(&host, config(&host), &nodes);
    let again = attachment("c", place, Value::Null);
    wait("the agent is back", || {
        let again = again.clone();
        runtime(&host, &list, async move |chain| chain.add(&again).await).is_ok()
    });
}

#[test]
fn the_plugin_speaks_1_1_by_itself_and_for_the_agent() {
    let host = Host::new();
    let nodes = Nodes::default();
    nodes.set(&node(2, Some("10.77.5.0/24")));
    let mut agent = Agent::start(&host, config(&host), &nodes);
    wait("the network is offered", || conflist(&host).exists());
    let text = std::fs::read_to_string(conflist(&host)).unwrap().replace("1.0.0", "1.1.0");
    let newer = host.state.path().join("newer.conflist");
    std::fs::write(&newer, text).unwrap();
    runtime(&host, &newer, async |chain| chain.status().await).unwrap();
    let pod = Place::new();
    let wanted = attachment("a", pod.path(), Value::Null);
    let result = runtime(&host, &newer, async move |chain| chain.add(&wanted).await).unwrap();
    assert_eq!(result.interfaces[1].mtu, 1400);
    runtime(&host, &newer, async |chain| chain.gc(&[]).await).unwrap();
    assert!(!pod.ip("-o link").contains("eth0"));
    agent.stop();
    let error = runtime(&host, &newer, async |chain| chain.status().await).unwrap_err();
    assert_eq!(error.code, Code::NOT_AVAILABLE);
    let versions = std::process::Command::new(env!("CARGO_BIN_EXE_coracle-cni"))
        .env("CNI_COMMAND", "VERSION")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let versions: Value = serde_json::from_slice(&versions.stdout).unwrap();
    assert_eq!(versions["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn called_as_loopback_the_plugin_sets_lo_up() {
    let host = Host::new();
    std::fs::create_dir(host.state.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coracle-cni"), host.state.path().join("bin/loopback"))
        .unwrap();
    let list = host.state.path().join("lo.conflist");
    std::fs::write(&list, r#"{"cniVersion":"0.3.1","name":"lo","plugins":[{"type":"loopback"}]}"#).unwrap();
    let pod = Place::new();
    let wanted = attachment("a", pod.path(), Value::Null);
    let result = runtime(&host, &list, async move |chain| chain.add(&wanted).await).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "127.0.0.1/8");
    assert!(pod.ip("link show lo").contains("LOOPBACK,UP"));
}

#[test]
fn a_chain_of_plugins_is_offered_through_the_agent() {
    let host = Host::new();
    let chain = host.state.path().join("bridged.conflist");
    let text = json!({"cniVersion": "0.4.0", "name": "bridged", "plugins": [
        {"type": "bridge", "bridge": "br0", "isGateway": true,
         "ipam": {"type": "host-local", "dataDir": host.state.path().join("leases"),
                  "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]});
    std::fs::write(&chain, text.to_string()).unwrap();
    let config = Config { provider: ProviderConfig::Chain(chain), ..config(&host) };
    let mut agent = Agent::start(&host, config, &Nodes::default());
    wait("the network is offered", || conflist(&host).exists());
    let list = conflist(&host);
    let pod = Place::new();
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let wanted = attachment("a", pod.path(), ports);
    let added = wanted.clone();
    let result = runtime(&host, &list, async move |chain| chain.add(&added).await).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.88.0.2/24");
    pod.serve("0.0.0.0", 80);
    assert!(host.place.call("192.0.2.1", 8080).is_ok());
    agent.stop();
    runtime(&host, &list, async move |chain| chain.del(&wanted).await).unwrap();
    assert!(!pod.ip("-o link").contains("eth0"));
}

#[test]
fn after_a_reboot_the_network_is_made_before_the_api_answers() {
    let host = Host::new();
    let nodes = Nodes::default();
    nodes.set(&node(2, Some("10.77.5.0/24")));
    let mut agent = Agent::start(&host, config(&host), &nodes);
    wait("the network is offered", || conflist(&host).exists());
    agent.stop();
    host.place.shell("nft", &["flush", "ruleset"]);
    host.place.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());

    let _agent = Agent::start(&host, config(&host), &Nodes::default());
    wait("the table is back", || host.place.shell("nft", &["list", "tables"]).contains("coracle-network"));
    assert_eq!(host.place.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()), "1\n");
    let (pod, list) = (Place::new(), conflist(&host));
    let wanted = attachment("a", pod.path(), Value::Null);
    let result = runtime(&host, &list, async move |chain| chain.add(&wanted).await).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.77.5.2/32");
}

#[test]
fn the_agent_steps_aside_for_a_network_that_sorts_earlier() {
    let host = Host::new();
    let nodes = Nodes::default();
    nodes.set(&node(2, Some("10.77.5.0/24")));
    let _agent = Agent::start(&host, config(&host), &nodes);
    wait("the network is offered", || conflist(&host).exists());
    std::fs::write(host.state.path().join("net.d/10-calico.conflist"), "{}").unwrap();
    nodes.set(&node(3, Some("10.77.5.0/24")));
    wait("the network is taken back", || !conflist(&host).exists());
}

#[test]
fn reset_leaves_nothing_and_the_host_as_it_was() {
    let host = Host::new();
    let forwarding = || host.place.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    host.place.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());
    let nodes = Nodes::default();
    nodes.set(&node(2, Some("10.77.5.0/24")));
    let mut agent = Agent::start(&host, config(&host), &nodes);
    wait("the network is offered", || conflist(&host).exists());
    assert_eq!(forwarding(), "1\n");
    let pod = Place::new();
    let wanted = attachment("a", pod.path(), Value::Null);
    let list = conflist(&host);
    runtime(&host, &list, async move |chain| chain.add(&wanted).await).unwrap();
    agent.stop();

    let reset = || {
        let config = config(&host);
        host.place.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(network::reset(&config))
        })
    };
    let report = reset();
    assert_eq!(report.failed, Vec::<String>::new());
    for part in
        ["99-coracle.conflist", "bin/coracle-cni", "attachment of container a", "table ip", "ip_forward"]
    {
        assert!(report.removed.iter().any(|line| line.contains(part)), "{part}: {:?}", report.removed);
    }
    assert_eq!(forwarding(), "0\n");
    assert!(!host.place.ip("-o link").contains(": cor"));
    assert_eq!(host.place.shell("nft", &["list", "tables"]), "");
    assert_eq!(reset(), network::Report::default());
}
