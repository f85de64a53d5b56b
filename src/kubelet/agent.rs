//! Puts the parts of the node agent together: the table of contents of the kubelet.

use std::{net::IpAddr, sync::Arc};

use client::{Selector, Store};
use k8s_openapi::api::core::v1::{Node, Pod};
use lifecycle::Scope;
use tokio::{sync::watch, time::Instant};

use crate::{
    clock::Clock,
    config::KubeletConfig,
    events::EventSink,
    images::{self, Credentials, Images},
    node, notice,
    runtime::{CriRuntime, Runtime, RuntimeError, SecurityDefaults},
    runtime_class::{ApiRuntimeClasses, NoRuntimeClasses, RuntimeClasses},
    shutdown::{self, Going},
    sources::{self, merge},
    status::{self, Outbox},
    task::Agent,
    worker::{
        Bells, NodeFacts, Pool, StatusSink, Tools,
        ports::{PodResources, Probes, Waker},
    },
};

/// The API that this node belongs to. Without it, only static pods run.
#[derive(Clone)]
pub struct Cluster {
    pub client: kube::Client,
    /// The pods bound to this node.
    pub pods: Store<Pod>,
    /// This node's own object.
    pub node: Store<Node>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// Watches what concerns `node_name`, and nothing else.
    pub fn watch(client: &kube::Client, node_name: &str, scope: &Scope) -> Cluster {
        let pods = client::reflect(client, Selector::fields(format!("spec.nodeName={node_name}")), scope);
        let node = client::reflect(client, Selector::fields(format!("metadata.name={node_name}")), scope);
        Cluster { client: client.clone(), pods, node }
    }

    pub(crate) fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.node.get(&client::ObjectKey::cluster(name))
    }
}

/// What volumes, environment, cgroups and probes are made from.
#[derive(Clone)]
pub struct Seeds {
    pub config: Arc<KubeletConfig>,
    pub runtime: Arc<CriRuntime>,
    pub cluster: Option<Cluster>,
    pub events: Arc<dyn EventSink>,
    /// Asks for a pass over a pod.
    pub waker: Waker,
    pub facts: watch::Receiver<NodeFacts>,
    /// What was last told of each pod's status.
    pub outbox: Outbox,
    /// When the agent's loop last turned.
    pub turns: watch::Receiver<Option<Instant>>,
    pub scope: Scope,
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seeds")
    }
}

/// Why the agent cannot start. What fails later is tried again for ever.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("container runtime endpoint {endpoint}")]
    Endpoint {
        endpoint: String,
        #[source]
        source: RuntimeError,
    },
    #[error("prepare {path}")]
    Directory {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// The whole agent with the parts that `plant` makes: registers the node, renews its Lease, runs its pods, until
/// `scope` is cancelled. Without a `client`, it runs static pods only.
///
/// # Errors
/// When the configuration names what cannot be used.
pub async fn run_with<P: PodResources>(
    config: KubeletConfig,
    client: Option<kube::Client>,
    events: Arc<dyn EventSink>,
    scope: &Scope,
    plant: impl FnOnce(&Seeds) -> (Arc<P>, Arc<dyn Probes>),
) -> Result<(), KubeletError> {
    for path in [&config.root_dir, &config.pod_logs_dir] {
        let made = tokio::fs::create_dir_all(path).await;
        made.map_err(|source| KubeletError::Directory { path: path.display().to_string(), source })?;
    }
    let runtime = Arc::new(container_runtime(&config)?);
    let config = Arc::new(config);
    let cluster = client.as_ref().map(|client| Cluster::watch(client, &config.node_name, scope));
    let (facts_out, facts) =
        watch::channel(NodeFacts { runtime_name: "containerd".into(), ..NodeFacts::default() });
    let (mut first_look, going) = (facts.clone(), Going::default());
    let host = node::Host {
        config: config.clone(),
        runtime: runtime.clone(),
        events: events.clone(),
        cluster: cluster.as_ref().map(|cluster| (cluster.client.clone(), cluster.node.clone())),
        facts: facts_out,
        going: going.clone(),
    };
    owned(scope, "node status", node::run_status(host));
    if let Some(cluster) = &cluster {
        owned(
            scope,
            "node lease",
            node::run_lease(cluster.client.clone(), config.clone(), cluster.node.clone()),
        );
    }
    // Pods are told of the node's addresses, memory and runtime: looked at before the first pod is.
    tokio::select! {
        () = scope.cancelled() => return Ok(()),
        _ = first_look.wait_for(|facts| facts.memory_bytes > 0) => {}
    }
    let (bells, outbox) = (Bells::default(), Outbox::default());
    let seeds = Seeds {
        config: config.clone(),
        runtime: runtime.clone(),
        cluster: cluster.clone(),
        events: events.clone(),
        waker: bells.waker(),
        facts: facts.clone(),
        outbox: outbox.clone(),
        turns: bells.turns(),
        scope: scope.clone(),
    };
    let (resources, probes) = plant(&seeds);
    let credentials: Arc<dyn Credentials> = match client {
        Some(client) => Arc::new(images::PullSecrets(client)),
        None => Arc::new(images::NoCredentials),
    };
    let parts = Parts {
        config,
        runtime,
        resources,
        probes,
        credentials,
        events,
        cluster,
        bells,
        outbox,
        facts,
        going,
    };
    run_pods(parts, scope).await;
    Ok(())
}

fn container_runtime(config: &KubeletConfig) -> Result<CriRuntime, KubeletError> {
    let security = SecurityDefaults {
        seccomp_root: config.root_dir.join("seccomp").display().to_string(),
        seccomp_default: config.seccomp_default,
        ..SecurityDefaults::default()
    };
    let endpoint = config.runtime_endpoint.clone();
    CriRuntime::new(&endpoint, security).map_err(|source| KubeletError::Endpoint { endpoint, source })
}

/// What the pods of a node are run with.
pub struct Parts<R, P> {
    pub config: Arc<KubeletConfig>,
    pub runtime: Arc<R>,
    pub resources: Arc<P>,
    pub probes: Arc<dyn Probes>,
    pub credentials: Arc<dyn Credentials>,
    pub events: Arc<dyn EventSink>,
    pub cluster: Option<Cluster>,
    /// Shared with what was made before: probes and volumes wake pods through it.
    pub bells: Bells,
    pub outbox: Outbox,
    pub facts: watch::Receiver<NodeFacts>,
    /// Shared with the node's status.
    pub going: Going,
}

impl<R, P> std::fmt::Debug for Parts<R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

/// Runs the node's pods until `scope` is cancelled. Containers run on when it ends.
pub async fn run_pods<R: Runtime, P: PodResources>(parts: Parts<R, P>, scope: &Scope) {
    let Parts {
        config,
        runtime,
        resources,
        probes,
        credentials,
        events,
        cluster,
        bells,
        outbox,
        facts,
        going,
    } = parts;
    let clock = Clock::system();
    let images = Images::new(
        images::Parts {
            runtime: runtime.clone(),
            credentials,
            events: events.clone(),
            clock: clock.clone(),
            waker: bells.waker(),
            parallel: config.max_parallel_image_pulls,
        },
        scope,
    );
    let tools = Arc::new(Tools {
        runtime: runtime.clone(),
        resources: resources.clone(),
        probes,
        images,
        runtime_classes: runtime_classes(cluster.as_ref()),
        statuses: Arc::new(outbox.clone()) as Arc<dyn StatusSink>,
        events,
        config: config.clone(),
        node: facts.clone(),
        going: going.clone(),
        clock,
        bells: bells.clone(),
    });
    let pool = Pool::new(tools.clone(), bells.clone(), scope);
    let listed = watch::Sender::new(None);
    let noticed = listed.subscribe();
    owned(scope, "notice", notice::run(runtime, bells.clone(), listed, config.relist));
    let static_pods = watch_static_pods(&config, scope);
    if let Some(cluster) = &cluster {
        let publish = status::publish(cluster.client.clone(), outbox.clone(), cluster.pods.clone());
        owned(scope, "pod status", publish);
    }
    let goes_down =
        shutdown::Parts { tools, pool: pool.clone(), outbox: cluster.as_ref().map(|_| outbox.clone()) };
    owned(scope, "shutdown of the machine", shutdown::run(goes_down));
    let mirrors = keep_mirrors(cluster.as_ref(), &config.node_name, scope);
    let agent = Agent {
        node_name: config.node_name.clone(),
        cluster,
        pool,
        resources,
        outbox,
        bells,
        mirrors,
        scope: scope.child("leftovers"),
        ending: Arc::default(),
    };
    tokio::select! {
        () = scope.cancelled() => {}
        () = agent.run(static_pods, noticed, facts, going.changes()) => {}
    }
}

fn runtime_classes(cluster: Option<&Cluster>) -> Arc<dyn RuntimeClasses> {
    match cluster {
        Some(cluster) => Arc::new(ApiRuntimeClasses::new(cluster.client.clone())),
        None => Arc::new(NoRuntimeClasses),
    }
}

/// What its files say of this node's pods, by a task of its own.
fn watch_static_pods(config: &KubeletConfig, scope: &Scope) -> watch::Receiver<Option<Vec<Arc<Pod>>>> {
    let files = watch::Sender::new(None);
    let static_pods = files.subscribe();
    match config.static_pod_path.clone() {
        Some(dir) => {
            let node_name = config.node_name.clone();
            owned(scope, "static pods", async move { sources::watch_files(&dir, &node_name, files).await });
        }
        None => {
            files.send_replace(Some(Vec::new()));
        }
    }
    static_pods
}

/// What is sent there is made of the API's mirrors, by a task of its own.
fn keep_mirrors(
    cluster: Option<&Cluster>,
    node_name: &str,
    scope: &Scope,
) -> watch::Sender<merge::MirrorPlan> {
    let mirrors = watch::Sender::new(merge::MirrorPlan::default());
    if let Some(cluster) = cluster.cloned() {
        let (client, plans, node_name) = (cluster.client.clone(), mirrors.subscribe(), node_name.to_string());
        let keep = sources::keep_mirrors(client, move || cluster.node(&node_name), plans);
        owned(scope, "mirror pods", keep);
    }
    mirrors
}

/// Spawns work that has no end of its own.
fn owned(scope: &Scope, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let token = scope.token();
    scope.spawn(name, async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = work => {}
        }
    });
}

/// The node's address: what the kernel would send from to reach `server`.
pub fn address_towards(server: std::net::SocketAddr) -> std::io::Result<IpAddr> {
    let any: std::net::SocketAddr =
        if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = std::net::UdpSocket::bind(any)?;
    // Connecting a datagram socket sends nothing: it only asks for the route.
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
