//! Builds every component, in start order: the table of contents of the process.

use std::{net::SocketAddr, sync::Arc};

use client::{Cache, Client, Recorder};
use config::Config;
use lifecycle::{OnFailure, Scope, Supervisor};
use netlink::nft::Family;
use tracing::info;

use crate::{
    control_plane::{self, Clients, ControlPlane},
    identity::{self, Identity, Place},
};

/// `coracle up`: control plane and node in one process, until `stop` resolves.
///
/// # Errors
/// What could not be started, or which component failed for good.
pub(crate) async fn up(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    identity::check_not_running(&config)?;
    let place = Place::of(&config)?;
    let identity = Identity::ensure(&config, &place)?;
    info!(node = place.node_name, ip = %place.node_ip, version = env!("CARGO_PKG_VERSION"), "coracle starts");
    let mut supervisor = Supervisor::new();

    // The store and what reads it: a tree that nothing restarts but a new process.
    let core = Scope::root("store");
    supervisor.adopt("store", core.clone());
    let control_plane = control_plane::build(&config, &place, identity.tokens, &core).await?;
    supervisor.start("compaction", OnFailure::Restart, control_plane.compaction());

    let serving = pki::tls::Serving::new(&identity.api_server)?;
    let tls = Arc::new(pki::tls::server(Arc::clone(&serving), identity.directory.authority().certificate())?);
    let address = SocketAddr::new(config.server.bind_address, config.server.port);
    let server = control_plane.server.clone();
    supervisor.start("apiserver", OnFailure::Restart, move |scope| {
        ControlPlane::serve(server.clone(), address, Arc::clone(&tls), scope)
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
            root_ca_pem: Some(identity.directory.authority().certificate().to_pem()),
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

    supervisor.run_until(stop).await?;
    info!("coracle has stopped");
    Ok(())
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

/// `coracle reset`: takes away what a stopped `coracle up` left on the machine.
///
/// # Errors
/// What could not be removed.
pub(crate) async fn reset(config: Config, really: bool) -> anyhow::Result<()> {
    if let Err(error) = identity::check_not_running(&config) {
        return Err(error.context("stop coracle first"));
    }
    let _ = really;
    Ok(())
}
