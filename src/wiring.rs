//! Builds every component, in start order: the table of contents of the process.

use std::sync::Arc;

use client::{Cache, Client, Recorder};
use config::Config;
use lifecycle::{OnFailure, Scope, Supervisor};
use netlink::nft::Family;
use pki::{Directory, Profile, tls::Serving};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    certificates::{self, Shown},
    control_plane::{self, Clients, ControlPlane},
    identity::{self, Identity, Place},
    node,
};

/// `coracle up`: control plane and node in one process, until `stop` resolves.
///
/// # Errors
/// What could not be started, or which component failed for good.
pub(crate) async fn up(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    // Before anything else is touched: two processes on one state would be told apart by this.
    let listener = TcpListener::from_std(identity::listen(&config)?)?;
    let place = Place::of(&config)?;
    let identity = Identity::ensure(&config, &place)?;
    info!(node = place.node_name, ip = %place.node_ip, version = env!("CARGO_PKG_VERSION"), "coracle starts");
    let mut supervisor = Supervisor::new();

    // The store and what reads it: a tree that nothing restarts but a new process.
    let core = Scope::root("store");
    supervisor.adopt("store", core.clone());
    let authority = identity.directory.authority().certificate();
    let calling = Serving::new(&identity.kubelet_client)?;
    let kubelets = pki::tls::renewable_client(authority, Arc::clone(&calling))?;
    let control_plane = control_plane::build(&config, &place, identity.tokens, kubelets, &core).await?;
    supervisor.start("compaction", OnFailure::Restart, control_plane.compaction());

    let serving = Serving::new(&identity.api_server)?;
    let kubelet_serving = Serving::new(&identity.kubelet_serving)?;
    let tls = Arc::new(pki::tls::server(Arc::clone(&serving), authority)?);
    let address = identity::api_address(&config);
    let (server, mut first) = (control_plane.server.clone(), Some(listener));
    supervisor.start("apiserver", OnFailure::Restart, move |scope| {
        ControlPlane::serve(server.clone(), first.take(), address, Arc::clone(&tls), scope)
    });

    // One read cache for all controllers, the scheduler and the proxy; each writes as itself.
    let clients = control_plane.clients();
    let reads = Scope::root("read cache");
    supervisor.adopt("read cache", reads.clone());
    let cache = Cache::new(clients.user("system:kube-controller-manager", &[]), &reads);
    if config.components.controllers {
        let settings = controllers::Config {
            cluster_cidrs: vec![config.network.pod_cidr.to_string()],
            signer: Some(Arc::clone(&identity.signer)),
            root_ca_pem: Some(authority.to_pem()),
            ..controllers::Config::default()
        };
        start_controllers(&mut supervisor, settings, clients.clone(), cache.clone());
    }
    if config.components.scheduler {
        start_scheduler(&mut supervisor, clients.user("system:kube-scheduler", &[]), cache.clone());
    }
    if config.components.proxy {
        let settings = proxy::Config {
            node_name: place.node_name.clone(),
            pod_ranges: vec![config.network.pod_cidr],
            families: vec![Family::Ip],
        };
        start_proxy(&mut supervisor, settings, cache.clone());
    }

    if config.components.kubelet {
        // The network first: the kubelet ends no pod that the network could not take down.
        let (settings, client) = (node::network_config(&config, &place), clients.node(&place.node_name));
        supervisor.start("network", OnFailure::Restart, move |scope| {
            node::run_network(settings.clone(), client.clone(), scope)
        });
        let agent = node::Agent {
            settings: node::kubelet_config(&config, &place),
            client: clients.node(&place.node_name),
            services: cache.store(),
            tls: Arc::new(pki::tls::server(Arc::clone(&kubelet_serving), authority)?),
        };
        supervisor.start("kubelet", OnFailure::Restart, move |scope| node::run_kubelet(agent.clone(), scope));
    }

    let shown = vec![
        Shown { profile: identity::api_server_profile(&config, &place), serving },
        Shown { profile: identity::kubelet_serving_profile(&place), serving: kubelet_serving },
        Shown { profile: Profile::ApiServerKubeletClient, serving: calling },
    ];
    start_renewals(&mut supervisor, Arc::clone(&identity.directory), shown);
    tell_service_manager();
    supervisor.run_until(stop).await?;
    info!("coracle has stopped");
    Ok(())
}

/// Says READY=1 to systemd, if it started us. Whether it heard makes no difference here.
fn tell_service_manager() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(error = &error as &dyn std::error::Error, "the service manager was not told that we are ready");
    }
}

fn start_renewals(supervisor: &mut Supervisor, directory: Arc<Directory>, shown: Vec<Shown>) {
    supervisor.start("certificates", OnFailure::Restart, move |scope| {
        certificates::renew(Arc::clone(&directory), shown.clone(), scope)
    });
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

fn start_proxy(supervisor: &mut Supervisor, settings: proxy::Config, cache: Cache) {
    supervisor.start("proxy", OnFailure::Restart, move |scope| {
        let (settings, cache) = (settings.clone(), cache.clone());
        async move { Ok(proxy::run(settings, proxy::NetfilterKernel::open()?, &cache, scope).await?) }
    });
}
