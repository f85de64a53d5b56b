//! The loop: wait for the node's addresses, make the network, offer it to the runtime, and look again when
//! nodes change.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use client::{ObjectKey, Store};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use lifecycle::{Backoff, Chain, Scope, WorkError, Workers};
use netlink::{nft, route};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    builtin::{self, Settings},
    cni::CniError,
    config::{Config, ProviderConfig},
    folder::Folder,
    host::{self, HostError, Ledger},
    offer::{self, Offer, OfferError},
    plugin,
    provider::{Provider, ProviderError, Saved},
    routes::{self, Local, Outcome, Refused, StepError},
    server::{self, ServerError},
};

/// The safety net under the events.
const INTERVAL: Duration = Duration::from_secs(30);
/// What fails for minutes is not mended by haste.
const RETRY: Backoff = Backoff::doubling(Duration::from_secs(2), INTERVAL);
const BLOCKING_DEADLINE: Duration = Duration::from_secs(60);
/// Requests of the runtime, and this loop.
const WORKERS: usize = 16;

/// Why there is no network, or not the whole of it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("the configured network")]
    Provider(#[from] ProviderError),
    #[error("the socket for coracle-cni")]
    Server(#[from] ServerError),
    #[error("the host's settings")]
    Host(#[from] HostError),
    #[error("the pods that are there")]
    Reconcile(#[source] CniError),
    #[error("the rules of the pod network")]
    Rules(#[source] CniError),
    #[error("hear changes of the rules")]
    Monitor(#[source] nft::CommitError),
    #[error("the runtime's CNI folders")]
    Offer(#[from] OfferError),
    #[error("find this process's binary")]
    Binary(#[source] std::io::Error),
    #[error("routes to other nodes")]
    Routes(#[source] netlink::RequestError),
    #[error("a way to another node")]
    Way(#[source] StepError),
    #[error("a step of the network")]
    Work(#[from] WorkError),
}

/// The nodes as the network sees them. They may be two: a node may always watch itself, but the others only where the
/// cluster allows it.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Holds this node.
    pub own: Store<Node>,
    /// Holds the others.
    pub all: Store<Node>,
}

/// Runs the network of this node until the scope ends.
///
/// # Errors
/// When the configuration cannot work: a chain that does not parse, a socket that is taken.
pub async fn run(config: Config, nodes: Nodes, scope: Scope) -> Result<(), NetworkError> {
    // Once: after an upgrade in place, this process's own binary has no name any more.
    let plugin = match &config.plugin_binary {
        Some(binary) => binary.clone(),
        None => plugin_beside(std::env::current_exe().map_err(NetworkError::Binary)?),
    };
    let config = Arc::new(config);
    let workers = Workers::new(WORKERS);
    // Pods of the time before can be torn down at once, with what was saved then.
    let saved = initial(&config)?;
    let provider = Provider::open(&saved, &config.state_dir)?;
    let (offered, provider) = watch::channel(Arc::new(provider));
    let listener = server::listen(&config.socket())?;
    scope.spawn("cni server", server::serve(listener, provider, workers.clone(), scope.clone()));

    let mut rules = match config.provider {
        ProviderConfig::BuiltIn => Some(nft::Monitor::of_all(builtin::TABLE).map_err(NetworkError::Monitor)?),
        ProviderConfig::Chain(_) => None,
    };
    let mut ways = match config.provider {
        ProviderConfig::BuiltIn => {
            Some(route::Monitor::open(builtin::is_host_interface).map_err(NetworkError::Routes)?)
        }
        ProviderConfig::Chain(_) => None,
    };
    // Another network that is put beside ours, or taken away.
    let mut folder = Folder::new(config.cni_conf_dir.clone());
    let (mut own_changes, mut changes) = (nodes.own.changes(), nodes.all.changes());
    let settings = if let Saved::BuiltIn(settings) = saved { settings } else { Settings::default() };
    let mut network = Network {
        config,
        plugin,
        workers,
        offered,
        pod_cidrs: settings.pod_cidrs,
        made: None,
        seen: None,
        unreachable: Vec::new(),
        refused: Vec::new(),
        addresses: Vec::new(),
        tunnel_mtu: settings.tunnel_mtu,
    };
    let mut failures = Failures::default();
    loop {
        let outcome = network.pass(&nodes).await;
        let patience = failures.count(outcome.as_ref().err());
        // Every arm means the same: look again.
        tokio::select! {
            () = scope.cancelled() => return Ok(()),
            _ = own_changes.next() => {}
            _ = changes.next() => {}
            () = touched(&mut rules) => {}
            () = cut(&mut ways) => {}
            // A write of ours that failed is heard there too, and would be tried again without a pause.
            () = folder.changed(), if outcome.is_ok() => {}
            () = tokio::time::sleep(patience) => {}
        }
    }
}

/// Passes that failed in a row.
#[derive(Default)]
struct Failures {
    count: u32,
    /// What the log has of the last one.
    told: String,
}

impl Failures {
    /// How long to wait. A failure is told once, until another follows it.
    fn count(&mut self, failure: Option<&NetworkError>) -> Duration {
        let Some(error) = failure else {
            if std::mem::take(&mut self.count) > 0 {
                info!("network: whole again");
            }
            self.told.clear();
            return INTERVAL;
        };
        self.count += 1;
        let (words, retry) = (Chain(error).to_string(), RETRY.delay(self.count));
        let error = error as &dyn std::error::Error;
        if words == self.told {
            debug!(error, failures = self.count, retry_s = retry.as_secs(), "network: pass failed again");
        } else {
            warn!(error, retry_s = retry.as_secs(), "network: pass failed");
            self.told = words;
        }
        retry
    }
}

/// The small binary of the plugin alone, where it was installed beside this process's own, which starts three times as fast.
fn plugin_beside(own: PathBuf) -> PathBuf {
    let small = own.with_file_name(plugin::NAME);
    if small.is_file() { small } else { own }
}

/// Resolves when our table was changed. After a failure only the look now and then is left.
async fn touched(rules: &mut Option<nft::Monitor>) {
    if let Some(monitor) = rules {
        match monitor.foreign_change().await {
            Ok(()) => return,
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "network: changes of the rules are not heard"
                );
                *rules = None;
            }
        }
    }
    std::future::pending().await
}

/// Resolves when a way to another node may be cut. After a failure only the look now and then is left.
async fn cut(ways: &mut Option<route::Monitor>) {
    if let Some(monitor) = ways {
        match monitor.changed().await {
            Ok(()) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "network: changes of links and routes are not heard");
                *ways = None;
            }
        }
    }
    std::future::pending().await
}

/// The network before the node is known: as it was, without addresses to give.
fn initial(config: &Config) -> Result<Saved, NetworkError> {
    match &config.provider {
        ProviderConfig::Chain(list) => {
            Ok(Saved::Chain { list: list.clone(), plugin_dirs: config.cni_plugin_dirs.clone() })
        }
        ProviderConfig::BuiltIn => match Saved::load(&config.state_dir)? {
            Some(saved @ Saved::BuiltIn(_)) => Ok(saved),
            _ => Ok(Saved::BuiltIn(Settings::default())),
        },
    }
}

struct Network {
    config: Arc<Config>,
    /// What the runtime starts.
    plugin: PathBuf,
    workers: Workers,
    offered: watch::Sender<Arc<Provider>>,
    /// The node's, as last known: also before the API answers, as after a reboot without it.
    pod_cidrs: Vec<IpNet>,
    /// The network that was made, once it was.
    made: Option<Saved>,
    /// What the runtime saw at the last look.
    seen: Option<Offer>,
    /// Pods of nodes that nothing leads to.
    unreachable: Vec<IpNet>,
    /// Ranges of other nodes that are not believed.
    refused: Vec<Refused>,
    /// Where other nodes find this one, as its Node last said.
    addresses: Vec<IpAddr>,
    /// What fits the tunnel, while a node is behind it.
    tunnel_mtu: Option<u32>,
}

impl Network {
    async fn pass(&mut self, nodes: &Nodes) -> Result<(), NetworkError> {
        if self.wanted(&nodes.own).is_none() {
            return Ok(());
        }
        // The tunnel first: pods' MTU depends on it. Where it fails, pods get a network nevertheless.
        let ways = self.sync_ways(nodes).await;
        let Some(wanted) = self.wanted(&nodes.own) else { return Ok(()) };
        if self.made.as_ref() != Some(&wanted) {
            self.make(wanted).await?;
        } else {
            self.mend().await?;
        }
        self.offer().await?;
        ways
    }

    /// Ways to the pods of other nodes.
    async fn sync_ways(&mut self, nodes: &Nodes) -> Result<(), NetworkError> {
        // Before the list is whole, a missing node is an unknown one.
        if !nodes.all.synced() || self.config.provider != ProviderConfig::BuiltIn {
            return Ok(());
        }
        let node = nodes.own.get(&ObjectKey::cluster(&self.config.node_name));
        let known = node.map(|node| routes::internal_addresses(&node)).unwrap_or_default();
        if !known.is_empty() {
            self.addresses = known;
        }
        let peers = routes::peers(&nodes.all.list(), &self.config.node_name);
        // Not known yet where this node is: what leads to others stays as it is.
        if self.addresses.is_empty() && !peers.is_empty() {
            return Ok(());
        }
        let local = Local {
            addresses: self.addresses.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            cluster_cidrs: self.config.cluster_cidr.clone(),
            direct_routes: self.config.direct_routes,
            tunnel: self.config.tunnel,
        };
        let Outcome { plan, failed } =
            self.work(move || routes::sync(&local, &peers)).await?.map_err(NetworkError::Routes)?;
        if !plan.steps.is_empty() {
            info!(steps = plan.steps.len(), failed = failed.len(), "network: ways to other nodes changed");
        }
        if plan.unreachable != self.unreachable {
            if !plan.unreachable.is_empty() {
                warn!(ranges = ?plan.unreachable, "network: no address family is shared with the nodes of these pods");
            }
            self.unreachable = plan.unreachable;
        }
        if plan.refused != self.refused {
            for refused in &plan.refused {
                warn!("network: no route to {refused}");
            }
            self.refused = plan.refused;
        }
        self.tunnel_mtu = plan.tunnel_mtu;
        failed.into_iter().next().map_or(Ok(()), |error| Err(NetworkError::Way(error)))
    }

    /// The network as it should be; `None` before the node has addresses. A node that has none any more
    /// keeps those that it had: its pods do.
    fn wanted(&mut self, nodes: &Store<Node>) -> Option<Saved> {
        if let ProviderConfig::Chain(list) = &self.config.provider {
            return Some(Saved::Chain {
                list: list.clone(),
                plugin_dirs: self.config.cni_plugin_dirs.clone(),
            });
        }
        let node = nodes.get(&ObjectKey::cluster(&self.config.node_name));
        let known = node.map(|node| one_of_each_family(&routes::pod_cidrs(&node)));
        if let Some(pod_cidrs) = known.filter(|cidrs| !cidrs.is_empty()) {
            self.pod_cidrs = pod_cidrs;
        }
        if self.pod_cidrs.is_empty() {
            return None;
        }
        Some(Saved::BuiltIn(Settings {
            pod_cidrs: self.pod_cidrs.clone(),
            cluster_cidrs: self.config.cluster_cidr.clone(),
            mtu: self.config.mtu,
            tunnel_mtu: self.tunnel_mtu,
        }))
    }

    async fn make(&mut self, wanted: Saved) -> Result<(), NetworkError> {
        let config = Arc::clone(&self.config);
        let saved = wanted.clone();
        let provider = self.work(move || make(&config, &saved)).await??;
        info!(network = ?wanted, "network: made");
        self.offered.send_replace(Arc::new(provider));
        self.made = Some(wanted);
        Ok(())
    }

    /// Rules that somebody else took away come back.
    async fn mend(&self) -> Result<(), NetworkError> {
        let provider = Arc::clone(&self.offered.borrow());
        let mend = move || match &*provider {
            Provider::BuiltIn(network) => network.mend().map_err(NetworkError::Rules),
            Provider::Chain(_) => Ok(false),
        };
        if self.work(mend).await?? {
            info!("network: somebody else changed our table; written anew");
        }
        Ok(())
    }

    async fn offer(&mut self) -> Result<(), NetworkError> {
        let (config, plugin) = (Arc::clone(&self.config), self.plugin.clone());
        let capabilities = self.offered.borrow().capabilities();
        let offer = self
            .work(move || -> Result<Offer, NetworkError> {
                let conflist = offer::conflist(&config.socket(), &config.state_dir, &capabilities);
                Ok(offer::offer(&config.cni_conf_dir, &config.cni_bin_dir, &plugin, &conflist)?)
            })
            .await??;
        if self.seen.as_ref() != Some(&offer) {
            match &offer {
                Offer::Ours => info!("network: offered to the runtime"),
                Offer::Foreign(file) => {
                    info!(file, "network: stepping aside for a network whose file sorts earlier");
                }
            }
            self.seen = Some(offer);
        }
        Ok(())
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        self.workers.run("network", BLOCKING_DEADLINE, work).await
    }
}

/// Everything that must be there before the first ADD.
fn make(config: &Config, wanted: &Saved) -> Result<Provider, NetworkError> {
    let provider = Provider::open(wanted, &config.state_dir)?;
    // Saved first: a plugin process must know how to take away whatever is made after this.
    wanted.save(&config.state_dir)?;
    if let Provider::BuiltIn(network) = &provider {
        let settings = network.settings();
        let families = (settings.pod_cidr(true).is_some(), settings.pod_cidr(false).is_some());
        host::forward(&Ledger::new(&config.state_dir), families.0, families.1)?;
        let swept = network.reconcile().map_err(NetworkError::Reconcile)?;
        if !swept.attachments.is_empty() || !swept.interfaces.is_empty() {
            let (attachments, interfaces) = (swept.attachments.len(), swept.interfaces.len());
            info!(attachments, interfaces, "network: leftovers removed");
        }
    }
    Ok(provider)
}

fn one_of_each_family(cidrs: &[IpNet]) -> Vec<IpNet> {
    let first = |v4: bool| cidrs.iter().position(|net| net.addr().is_ipv4() == v4);
    // In the order given: the first is the pod's primary address.
    let mut indices: Vec<usize> = [first(true), first(false)].into_iter().flatten().collect();
    indices.sort_unstable();
    indices.into_iter().map(|index| cidrs[index]).collect()
}
