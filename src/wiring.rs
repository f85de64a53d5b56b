//! Builds every component, in start order: the table of contents of the process.
//!
//! ```text
//!   coracle server ── start_server: store, API server, read cache, controllers, scheduler, DNS, certificates
//!   coracle node   ── connection ─▶ start_node: proxy, network, kubelet
//!   coracle up     ── start_server ── memory ─▶ start_node
//!   kubelet        ── health, bootstrap ─▶ as coracle node, without proxy and network
//!   kube-proxy     ── connection ─▶ proxy
//! ```

use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
};

use anyhow::Context as _;
use client::{Cache, Client, Kubeconfig, Reconnect, Recorder, Selector, Store};
use config::{Config, NetworkProvider};
use join::{ClientRotation, ServingRotation};
use k8s_openapi::api::core::v1::Node;
use lifecycle::{OnFailure, Scope, Supervisor};
use network::Nodes;
use pki::{Directory, Profile, tls::Serving};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tracing::info;

use crate::{
    certificates::{self, By, Shown},
    control_plane::{self, Clients, ControlPlane, Credentials},
    health,
    identity::{self, AdminKubeconfig, Identity, NodePlace, Place},
    membership::{self, Membership},
    node,
    renewals::{self, ClientRenewal, Renewals, ServingRenewal},
    service_manager,
};

/// `coracle up`: control plane and node in one process, until `stop` resolves.
///
/// # Errors
/// What could not be started, or which component failed for good.
pub(crate) async fn up(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    node::check(&config)?;
    let (mut supervisor, mut stop) = (Supervisor::new(), pin!(stop));
    let Some(server) = unless(stop.as_mut(), start_server(&config, &mut supervisor)).await else {
        return run(supervisor, "stopped while starting", async {}).await;
    };
    let server = server?;
    let node = server.place.node.clone();
    let node_name = node.name.clone();
    let profile = identity::kubelet_serving_profile(&node);
    let (serving, renewed) = match node::brought(&config.kubelet.serving)? {
        Some(serving) => (serving, false),
        None => (Serving::new(&server.directory.ensure(&profile, jiff::Timestamp::now())?)?, true),
    };
    let authority = server.directory.authority().certificate();
    let cluster = Cluster {
        client: server.clients.node(&node.name),
        own: (runs_network(&config) || config.components.proxy).then(|| server.reads.store()),
        all: runs_network(&config).then(|| server.reads.store()),
        reads: server.reads,
        tls: Arc::new(pki::tls::server(Arc::clone(&serving), authority)?),
        place: node,
    };
    let turns = start_kubelet_health(&config, &mut supervisor);
    start_node(&config, cluster, turns, &mut supervisor);
    if renewed {
        let shown = vec![Shown { profile, by: By::Process(serving) }];
        start_renewals(&mut supervisor, "node certificates", Arc::clone(&server.directory), shown);
    } else if let config::Serving::Files { certificate, key } = config.kubelet.serving.clone() {
        start_rereading(certificate, key, serving, &mut supervisor);
    }
    run(supervisor, &format!("control plane and node {node_name}"), stop).await
}

/// `coracle server`: the control plane alone.
///
/// # Errors
/// As [`up`].
pub(crate) async fn server(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (mut supervisor, mut stop) = (Supervisor::new(), pin!(stop));
    match unless(stop.as_mut(), start_server(&config, &mut supervisor)).await {
        Some(started) => drop(started?),
        None => return run(supervisor, "stopped while starting", async {}).await,
    }
    run(supervisor, "control plane", stop).await
}

/// What `work` gives; `None` when told to stop first: a disk that refuses holds no stop up.
async fn unless<T>(stop: Pin<&mut impl Future<Output = ()>>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop => None,
    }
}

/// `coracle node`: the node agent alone, against an API server somewhere else.
///
/// # Errors
/// That this machine has not joined a cluster, or as [`up`].
pub(crate) async fn node(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    node::check(&config)?;
    let (mut supervisor, mut stop) = (Supervisor::new(), pin!(stop));
    // Before there is a certificate: as upstream's, which `kubeadm join` asks while it waits for one.
    let turns = start_kubelet_health(&config, &mut supervisor);
    if !membership::bootstrap(&config, stop.as_mut()).await? {
        return run(supervisor, "stopped while starting", async {}).await;
    }
    let Some(member) = unless(stop.as_mut(), Membership::open(&config)).await else {
        return run(supervisor, "stopped while starting", async {}).await;
    };
    let member = member?;
    let place = member.place.clone();
    info!(
        node = place.name, ip = %place.ip, server = %member.endpoint.server, version = env!("CARGO_PKG_VERSION"),
        "coracle node starts"
    );
    // One connection for everything: watches, writes, reviews.
    let connection = Scope::root("connection");
    supervisor.adopt("connection", connection.clone());
    let (client, reconnect) = client::connect(member.endpoint.clone(), &connection)?;
    let reads = Scope::root("read cache");
    supervisor.adopt("read cache", reads.clone());
    // A node may always watch itself, but the others only where the cluster allows it.
    let own = (runs_network(&config) || config.components.proxy)
        .then(|| client::reflect(&client, Selector::fields(format!("metadata.name={}", place.name)), &reads));
    let reads = Cache::new(client.clone(), &reads);
    let serving = match node::brought(&config.kubelet.serving)? {
        Some(serving) => serving,
        None => Serving::new(&member.serving()?)?,
    };
    let cluster = Cluster {
        client: client.clone(),
        own,
        all: runs_network(&config).then(|| reads.store()),
        reads,
        tls: Arc::new(pki::tls::server_trusting(Arc::clone(&serving), &member.authorities)?),
        place,
    };
    start_node(&config, cluster, turns, &mut supervisor);
    start_rotation(&config, &member, (client, reconnect), serving, &mut supervisor);
    run(supervisor, &format!("node {} of the cluster at {}", member.place.name, member.endpoint.server), stop)
        .await
}

/// `kube-proxy`: the rules of Services alone, against an API server somewhere else.
///
/// # Errors
/// That the kubeconfig cannot be used, or as [`up`].
pub(crate) async fn proxy(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let file = config.node.kubeconfig.as_ref().context("no kubeconfig is configured (node.kubeconfig)")?;
    let endpoint = Kubeconfig::load(file)?.endpoint(None)?;
    let (name, server) = (identity::node_name(&config)?, endpoint.server.clone());
    info!(node = name, %server, version = env!("CARGO_PKG_VERSION"), "the proxy starts");
    let mut supervisor = Supervisor::new();
    let connection = Scope::root("connection");
    supervisor.adopt("connection", connection.clone());
    let (client, _reconnect) = client::connect(endpoint, &connection)?;
    let reads = Scope::root("read cache");
    supervisor.adopt("read cache", reads.clone());
    node::set_oom_score(&config);
    let settings = node::proxy_config(&config, &name);
    let node = client::reflect::<Node>(&client, Selector::fields(format!("metadata.name={name}")), &reads);
    let writes = start_proxy(&mut supervisor, settings, Cache::new(client, &reads), node.clone());
    if let Some(address) = config.proxy.healthz {
        let of = health::Of::Proxy { node, name: name.clone(), writes };
        start_health(&mut supervisor, "proxy health", address, of);
    }
    run(supervisor, &format!("proxy of node {name} for the cluster at {server}"), stop).await
}

/// Until `stop` resolves; `status` is what the service manager shows of us meanwhile.
async fn run(mut supervisor: Supervisor, status: &str, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let stop = service_manager::attend(&mut supervisor, status, stop);
    supervisor.run_until(stop).await?;
    info!("coracle has stopped");
    Ok(())
}

/// A control plane that runs.
struct RunningServer {
    place: Place,
    directory: Arc<Directory>,
    clients: Clients,
    /// One read cache for all controllers, the scheduler, DNS, and the node in the same process.
    reads: Cache,
}

async fn start_server(config: &Config, supervisor: &mut Supervisor) -> anyhow::Result<RunningServer> {
    // Before anything else is touched: two processes on one state would be told apart by this.
    let listener = TcpListener::from_std(identity::listen(config)?)?;
    let place = Place::of(config)?;
    identity::check_not_joined(config)?;
    // The store and what reads it: a tree that nothing restarts but a new process. Opened first: who has its lock
    // may write into the state directory.
    let core = Scope::root("store");
    supervisor.adopt("store", core.clone());
    let store = control_plane::open_store(config, &core)?;
    let identity = Identity::ensure(config, &place)?;
    info!(node = place.node.name, ip = %place.node.ip, version = env!("CARGO_PKG_VERSION"), "coracle starts");

    let authority = identity.directory.authority().certificate();
    let calling = Serving::new(&identity.kubelet_client)?;
    let credentials = Credentials {
        tokens: identity.tokens,
        kubelets: pki::tls::renewable_client(authority, Arc::clone(&calling))?,
        authority_pem: authority.to_pem(),
    };
    let control_plane = control_plane::build(config, &place, credentials, store, &core).await?;
    supervisor.start("compaction", OnFailure::Restart, control_plane.compaction());

    let serving = Serving::new(&identity.api_server)?;
    let tls = Arc::new(pki::tls::server(Arc::clone(&serving), authority)?);
    let address = identity::api_address(config);
    let (server, mut first) = (control_plane.server.clone(), Some(listener));
    supervisor.start("apiserver", OnFailure::Restart, move |scope| {
        ControlPlane::serve(server.clone(), first.take(), address, Arc::clone(&tls), scope)
    });

    let clients = control_plane.clients();
    let reads = Scope::root("read cache");
    supervisor.adopt("read cache", reads.clone());
    let reads = Cache::new(clients.user("system:kube-controller-manager", &[]), &reads);
    if config.components.controllers {
        let settings = controllers::Config {
            cluster_cidrs: vec![config.network.pod_cidr.to_string()],
            signer: Some(Arc::clone(&identity.signer)),
            root_ca_pem: Some(authority.to_pem()),
            ..controllers::Config::default()
        };
        start_controllers(supervisor, settings, clients.clone(), reads.clone());
    }
    if config.components.scheduler {
        start_scheduler(supervisor, clients.user("system:kube-scheduler", &[]), reads.clone());
    }
    if let Some(cluster_ip) = config.dns_service_ip().filter(|_| config.components.dns) {
        let settings = dns::Config {
            domain: config.kubelet.cluster_domain.clone(),
            listen: (place.node.ip, config.dns.port).into(),
            ranges: vec![config.network.pod_cidr, config.network.service_cidr],
            clients: config.dns.clients.clone(),
            resolv_conf: config.kubelet.resolv_conf.clone().unwrap_or_else(|| "/etc/resolv.conf".into()),
            cluster_ip,
        };
        start_dns(supervisor, settings, clients.user("system:coracle:dns", &[]), reads.clone());
    }
    let shown = vec![
        Shown { profile: identity::api_server_profile(config, &place), by: By::Process(serving) },
        Shown { profile: Profile::ApiServerKubeletClient, by: By::Process(calling) },
        Shown { profile: Profile::Admin, by: By::Kubeconfig(AdminKubeconfig::of(config, &place)) },
    ];
    start_renewals(supervisor, "certificates", Arc::clone(&identity.directory), shown);
    Ok(RunningServer { place, directory: identity.directory, clients, reads })
}

/// The cluster as a node reaches it, through memory or over a connection.
struct Cluster {
    place: NodePlace,
    /// As the node.
    client: Client,
    /// Services and EndpointSlices.
    reads: Cache,
    /// This node, for those who need it.
    own: Option<Store<Node>>,
    /// All nodes, for those who need them.
    all: Option<Store<Node>>,
    /// How the kubelet's own server shows itself, and whom it knows.
    tls: Arc<rustls::ServerConfig>,
}

/// Whether this process makes pods' networks.
fn runs_network(config: &Config) -> bool {
    config.components.kubelet && config.network.provider != NetworkProvider::Runtime
}

fn start_node(
    config: &Config,
    cluster: Cluster,
    turns: watch::Sender<Option<Instant>>,
    supervisor: &mut Supervisor,
) {
    let Cluster { place, client, reads, own, all, tls } = cluster;
    node::set_oom_score(config);
    if let (true, Some(node)) = (config.components.proxy, own.clone()) {
        let settings = node::proxy_config(config, &place.name);
        let writes = start_proxy(supervisor, settings, reads.clone(), node.clone());
        if let Some(address) = config.proxy.healthz {
            let of = health::Of::Proxy { node, name: place.name.clone(), writes };
            start_health(supervisor, "proxy health", address, of);
        }
    }
    if config.components.kubelet {
        // The network first: the kubelet ends no pod that the network could not take down.
        if let (Some(own), Some(all)) = (own, all) {
            let nodes = Nodes { own, all };
            let settings = node::network_config(config, &place);
            supervisor.start("network", OnFailure::Restart, move |scope| {
                node::run_network(settings.clone(), nodes.clone(), scope)
            });
        }
        let settings = node::kubelet_config(config, &place);
        let agent = node::Agent { settings, client, services: reads.store(), tls, turns };
        supervisor.start("kubelet", OnFailure::Restart, move |scope| node::run_kubelet(agent.clone(), scope));
    }
}

/// Certificates that this process signs for itself.
fn start_renewals(
    supervisor: &mut Supervisor,
    name: &'static str,
    directory: Arc<Directory>,
    shown: Vec<Shown>,
) {
    supervisor.start(name, OnFailure::Restart, move |scope| {
        certificates::renew(Arc::clone(&directory), shown.clone(), scope)
    });
}

/// Certificates that this node asks its cluster for.
fn start_rotation(
    config: &Config,
    member: &Membership,
    (client, reconnect): (Client, Reconnect),
    serving: Arc<Serving>,
    supervisor: &mut Supervisor,
) {
    let node_name = member.place.name.clone();
    let seconds = membership::life_seconds(config);
    if config.components.proxy || runs_network(config) {
        start_access(client.clone(), supervisor);
    }
    let Renewals { client: own, serving: shown } = renewals::plan(config, member.client_file.as_deref());
    match own {
        ClientRenewal::Asked { file, recovery } => {
            let on_failure = ClientRenewal::on_failure(&recovery);
            let rotation = ClientRotation {
                node_name: node_name.clone(),
                file,
                client: client.clone(),
                reconnect,
                expiration_seconds: seconds,
                recovery,
            };
            supervisor.start("client certificate", on_failure, move |scope| {
                let rotation = rotation.clone();
                async move { Ok(join::rotate_client(rotation, scope).await?) }
            });
        }
        ClientRenewal::SwitchedOff => {
            info!("the client certificate is not renewed: rotateCertificates is false");
        }
        ClientRenewal::Others => {
            info!("the kubeconfig holds its certificate or token itself: whoever wrote it renews it");
        }
    }
    match shown {
        ServingRenewal::Asked => {
            let file = member.serving_file.clone();
            let rotation = ServingRotation { node_name, file, client, serving, expiration_seconds: seconds };
            supervisor.start("serving certificate", OnFailure::Restart, move |scope| {
                let rotation = rotation.clone();
                async move {
                    join::rotate_serving(rotation, scope).await;
                    Ok(())
                }
            });
        }
        ServingRenewal::Reread { certificate, key } => start_rereading(certificate, key, serving, supervisor),
        ServingRenewal::Never => {}
    }
}

/// Tells what proxy and network may not read.
fn start_access(client: Client, supervisor: &mut Supervisor) {
    supervisor.start("access", OnFailure::Restart, move |scope| {
        let client = client.clone();
        async move {
            join::watch_access(client, scope).await;
            Ok(())
        }
    });
}

/// A serving certificate that somebody else renews.
fn start_rereading(certificate: PathBuf, key: PathBuf, serving: Arc<Serving>, supervisor: &mut Supervisor) {
    supervisor.start("serving certificate", OnFailure::Restart, move |scope| {
        certificates::reread(certificate.clone(), key.clone(), Arc::clone(&serving), scope)
    });
}

/// Who is returned is told when the node agent's loop turns.
fn start_kubelet_health(config: &Config, supervisor: &mut Supervisor) -> watch::Sender<Option<Instant>> {
    let (turns, heard) = watch::channel(None);
    if let Some(address) = config.kubelet.healthz.filter(|_| config.components.kubelet) {
        start_health(supervisor, "kubelet health", address, health::Of::Kubelet { turns: heard });
    }
    turns
}

fn start_health(supervisor: &mut Supervisor, name: &'static str, address: SocketAddr, of: health::Of) {
    supervisor.start(name, OnFailure::Restart, move |scope| health::serve(address, of.clone(), scope));
}

fn start_controllers(
    supervisor: &mut Supervisor,
    settings: controllers::Config,
    clients: Clients,
    cache: Cache,
) {
    supervisor.start("controllers", OnFailure::Restart, move |scope| {
        let (settings, clients, cache) = (settings.clone(), clients.clone(), cache.clone());
        async move { Ok(controllers::run(settings, &clients, &cache, scope).await?) }
    });
}

fn start_scheduler(supervisor: &mut Supervisor, client: Client, cache: Cache) {
    supervisor.start("scheduler", OnFailure::Restart, move |scope| {
        let (client, cache) = (client.clone(), cache.clone());
        async move {
            let recorder = Recorder::new(client.clone(), "default-scheduler", None, &scope);
            Ok(scheduler::run(scheduler::Config::default(), client, &cache, recorder, scope).await?)
        }
    });
}

fn start_dns(supervisor: &mut Supervisor, settings: dns::Config, client: Client, cache: Cache) {
    supervisor.start("dns", OnFailure::Restart, move |scope| {
        let (settings, client, cache) = (settings.clone(), client.clone(), cache.clone());
        async move { Ok(dns::run(settings, client, &cache, scope).await?) }
    });
}

/// How its writes go is heard by who is returned.
fn start_proxy(
    supervisor: &mut Supervisor,
    settings: proxy::Config,
    cache: Cache,
    own: Store<Node>,
) -> watch::Receiver<proxy::Health> {
    let (health, heard) = watch::channel(proxy::Health::default());
    supervisor.start("proxy", OnFailure::Restart, move |scope| {
        let (settings, cache, own, health) = (settings.clone(), cache.clone(), own.clone(), health.clone());
        async move { Ok(proxy::run(settings, &cache, own, health, scope).await?) }
    });
    heard
}
