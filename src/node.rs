//! The node agent's part of the process: from the configuration to the kubelet's and the network's own settings.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use client::{Client, Recorder, Store};
use config::{Config, ConfigError, Mistake, Mistakes, NetworkProvider, ProxyMode, Serving, Shutdown};
use k8s_openapi::api::core::v1::{Service, Taint};
use kubelet::{
    KubeletConfig,
    agent::{self, Seeds},
    probes::Prober,
    server,
    shutdown::{self, Period},
    volumes::{self, NodeResources},
    worker::{backoff::Limits, ports::Probes},
};
use lifecycle::{BoxError, Scope};
use netlink::nft::Family;
use network::{ProviderConfig, cni::NetworkList};
use tokio::{sync::watch, time::Instant};
use tracing::warn;

use crate::identity::NodePlace;

/// A container runtime that is being started with us has answered by then.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(60);

/// What the kubelet is told.
pub(crate) fn kubelet_config(config: &Config, place: &NodePlace) -> KubeletConfig {
    let kubelet = &config.kubelet;
    KubeletConfig {
        node_ips: vec![place.ip],
        root_dir: kubelet.root_dir.clone(),
        pod_logs_dir: kubelet.pod_logs_dir.clone(),
        runtime_endpoint: config.runtime.endpoint.clone(),
        cgroup_root: kubelet.cgroup_root.clone(),
        cgroup_driver: match kubelet.cgroup_driver {
            config::CgroupDriver::Cgroupfs => kubelet::CgroupDriver::Cgroupfs,
            config::CgroupDriver::Systemd => kubelet::CgroupDriver::Systemd,
        },
        static_pod_path: kubelet.static_pod_path.clone(),
        cluster_dns: config.cluster_dns(),
        cluster_domain: kubelet.cluster_domain.clone(),
        resolv_conf: kubelet.resolv_conf.clone(),
        max_pods: kubelet.max_pods,
        max_parallel_image_pulls: kubelet.parallel_image_pulls,
        seccomp_default: kubelet.seccomp_default,
        crash_loop: Limits {
            first: Limits::default().first.min(kubelet.longest_restart_delay),
            longest: kubelet.longest_restart_delay,
        },
        register_node: config.node.register,
        node_labels: config.node.labels.clone(),
        register_with_taints: config.node.taints.iter().map(taint).collect(),
        server_address: kubelet.address,
        server_port: kubelet.port,
        node_status_update: kubelet.status_update,
        node_status_report: kubelet.status_report,
        lease_duration: kubelet.lease,
        shutdown: shutdown::Settings { periods: periods(&kubelet.shutdown), ..shutdown::Settings::default() },
        ..KubeletConfig::new(&place.name)
    }
}

/// How long pods of each priority have when the machine shuts down.
fn periods(shutdown: &Shutdown) -> Vec<Period> {
    match shutdown {
        Shutdown::ByClass { total, critical } => {
            Period::by_class(*total, Shutdown::critical(*total, *critical))
        }
        Shutdown::ByPriority(periods) => {
            periods.iter().map(|it| Period { priority: it.priority, length: it.length }).collect()
        }
    }
}

/// What would be refused again and again, told by the log alone, is refused at the start.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    // The configuration's own file is judged where it is read; upstream's flags come another way.
    let field = config.called("--node-labels", "node.labels");
    let refused = config.node.labels.keys().filter_map(|label| config::own_label_mistake(label));
    let mistakes: Vec<Mistake> =
        refused.map(|text| Mistake { line: 0, field: field.to_string(), text }).collect();
    if !mistakes.is_empty() {
        return Err(ConfigError::Mistakes(Mistakes { file: String::new(), mistakes }).into());
    }
    if let NetworkProvider::Chain(file) = &config.network.provider {
        NetworkList::load(file).with_context(|| {
            format!(
                "network.chain: {} is not a list of CNI plugins (cni/bridge.conflist is one to start from)",
                file.display()
            )
        })?;
    }
    check_machine(config)
}

fn taint(taint: &config::Taint) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
        effect: taint.effect.as_str().to_string(),
        time_added: None,
    }
}

/// Whether the machine is one that the configuration refuses.
///
/// # Errors
/// What the machine has.
fn check_machine(config: &Config) -> anyhow::Result<()> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if config.kubelet.refuses_swap && has_swap(&swaps) {
        bail!(
            "this machine has swap, and the configuration refuses that (failSwapOn); `swapoff -a`, or set it to false: pods get \
             no swap anyway"
        );
    }
    if config.kubelet.refuses_cgroup_v1 && !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        bail!(
            "this machine has cgroup v1, and the configuration refuses that (failCgroupV1); boot with \
             systemd.unified_cgroup_hierarchy=1, or set it to false"
        );
    }
    Ok(())
}

/// The kernel's list has a headline. Compressed memory (zram) counts as swap; tmpfs does not stand there.
fn has_swap(swaps: &str) -> bool {
    swaps.lines().skip(1).any(|line| !line.trim().is_empty())
}

/// Tells the kernel how dear this process is.
pub(crate) fn set_oom_score(config: &Config) {
    let score =
        if config.components.kubelet { config.kubelet.oom_score_adj } else { config.proxy.oom_score_adj };
    let Some(score) = score else { return };
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        warn!(
            score,
            error = &error as &dyn std::error::Error,
            "cannot tell the kernel how dear this process is"
        );
    }
}

/// What the node's server shows, from the files that somebody brought.
///
/// # Errors
/// When they cannot be used.
pub(crate) fn brought(serving: &Serving) -> anyhow::Result<Option<Arc<pki::tls::Serving>>> {
    let Serving::Files { certificate, key } = serving else { return Ok(None) };
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let shown = pki::tls::Serving::from_pem(&read(certificate)?, &read(key)?)
        .with_context(|| format!("show {} by {}", certificate.display(), key.display()))?;
    Ok(Some(shown))
}

/// What the network is told. Nothing of it runs where the network is the runtime's.
pub(crate) fn network_config(config: &Config, place: &NodePlace) -> network::Config {
    let network = &config.network;
    network::Config {
        node_name: place.name.clone(),
        state_dir: config.state_dir.clone(),
        run_dir: config.run_dir.clone(),
        provider: match &network.provider {
            NetworkProvider::BuiltIn | NetworkProvider::Runtime => ProviderConfig::BuiltIn,
            NetworkProvider::Chain(conflist) => ProviderConfig::Chain(conflist.clone()),
        },
        cni_conf_dir: network.cni_conf_dir.clone(),
        cni_bin_dir: network.cni_bin_dir.clone(),
        cni_plugin_dirs: network.cni_plugin_dirs.clone(),
        cluster_cidr: vec![network.pod_cidr],
        mtu: network.mtu,
        direct_routes: network.direct_routes,
        tunnel: network::Tunnel { vni: network.vxlan.0, port: network.vxlan.1 },
        plugin_binary: None,
    }
}

/// What the proxy is told.
pub(crate) fn proxy_config(config: &Config, node_name: &str) -> proxy::Config {
    proxy::Config {
        mode: match config.proxy.mode {
            ProxyMode::Nftables => proxy::Mode::Nftables,
            ProxyMode::Iptables => proxy::Mode::Iptables,
            ProxyMode::Ipvs => proxy::Mode::Ipvs,
        },
        node_name: node_name.to_string(),
        pod_ranges: config.proxy.pod_ranges.clone().unwrap_or_else(|| vec![config.network.pod_cidr]),
        families: vec![Family::Ip],
        node_ports: config.network.node_ports,
        masquerade_all: config.proxy.masquerade_all,
        scheduler: proxy::ipvs::Scheduler::named(config.proxy.ipvs_scheduler).unwrap_or_default(),
    }
}

/// What the node agent is made from.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) settings: KubeletConfig,
    pub(crate) client: Client,
    /// Whose names go into pods' environments: those of the process's shared read cache.
    pub(crate) services: Store<Service>,
    /// How the kubelet's own server shows itself.
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// Hears when its loop last turned; at first, when it was to begin.
    pub(crate) turns: watch::Sender<Option<Instant>>,
}

/// Runs the node agent: registers the node, runs its pods, serves logs and exec, until `scope` is cancelled.
pub(crate) async fn run_kubelet(agent: Agent, scope: Scope) -> Result<(), BoxError> {
    let Agent { settings, client, services, tls, turns } = agent;
    turns.send_if_modified(|turn| turn.replace(turn.unwrap_or_else(Instant::now)).is_none());
    let settings = settings.with_runtimes_driver(RUNTIME_DEADLINE).await;
    let recorder = Recorder::new(client.clone(), "kubelet", Some(&settings.node_name), &scope);
    let serving = server::Config {
        node_name: settings.node_name.clone(),
        address: (settings.server_address, settings.server_port).into(),
        tls,
    };
    let (reviewer, within) = (Arc::new(server::ApiReviewer(client.clone())), scope.clone());
    let plant = move |seeds: &Seeds| {
        let resources = NodeResources::new(volumes::Parts::of(seeds, Some(services)), &seeds.scope);
        let probes: Arc<dyn Probes> = Prober::of(seeds);
        within.spawn("kubelet turns", follow(seeds.turns.clone(), turns, within.clone()));
        if let Some(cluster) = &seeds.cluster {
            let host = server::NodeHost { runtime: seeds.runtime.clone(), pods: cluster.pods.clone() };
            within.clone().spawn("kubelet server", serve(serving, Arc::new(host), reviewer, within));
        }
        (resources, probes)
    };
    Ok(agent::run_with(settings, Some(client), Arc::new(recorder), &scope, plant).await?)
}

/// Tells each turn, until `scope` is cancelled.
async fn follow(
    mut turns: watch::Receiver<Option<Instant>>,
    told: watch::Sender<Option<Instant>>,
    scope: Scope,
) {
    loop {
        if let Some(turn) = *turns.borrow_and_update() {
            told.send_replace(Some(turn));
        }
        tokio::select! {
            () = scope.cancelled() => return,
            changed = turns.changed() => if changed.is_err() { return },
        }
    }
}

/// The port may be taken for a moment by the process before us.
async fn serve(
    config: server::Config,
    host: Arc<server::NodeHost>,
    reviewer: Arc<server::ApiReviewer>,
    scope: Scope,
) {
    while let Err(error) = server::run(config.clone(), host.clone(), reviewer.clone(), &scope).await {
        warn!(error = &error as &dyn std::error::Error, "the kubelet's server cannot listen; trying again");
        tokio::select! {
            () = scope.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Runs the pod network until `scope` is cancelled.
pub(crate) async fn run_network(
    config: network::Config,
    nodes: network::Nodes,
    scope: Scope,
) -> Result<(), BoxError> {
    Ok(network::run(config, nodes, scope).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_known_by_the_kernels_list() {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!has_swap("") && !has_swap(head));
        assert!(has_swap(&format!("{head}/dev/sda2  partition  1048572  0  -2\n")));
    }

    #[test]
    fn what_upstreams_flags_say_reaches_the_node_agent() {
        let line = "--kubeconfig=/k --register-with-taints=a=b:NoExecute --register-node=false --address=127.0.0.1 \
                    --node-status-update-frequency=4s --serialize-image-pulls --seccomp-default --resolv-conf= --port=7";
        let arguments: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        let asked = config::upstream::kubelet(&arguments, |_| Ok(String::new())).unwrap();
        let config::upstream::Asked::Run(config) = asked else { panic!("{asked:?}") };
        let place = NodePlace { name: "n".into(), ip: [192, 0, 2, 1].into() };
        let told = kubelet_config(&config, &place);
        let taint = &told.register_with_taints[0];
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("a", Some("b"), "NoExecute")
        );
        assert!(!told.register_node && told.seccomp_default && told.resolv_conf.is_none());
        assert_eq!((told.server_address.to_string().as_str(), told.server_port), ("127.0.0.1", 7));
        assert_eq!((told.node_status_update, told.max_parallel_image_pulls), (Duration::from_secs(4), 1));
        assert!(told.cluster_domain.is_empty() && told.cluster_dns.is_empty());
        assert_eq!(told.shutdown.periods, []);
        let (own, seconds) = (kubelet_config(&Config::default(), &place), Duration::from_secs);
        assert_eq!(own.shutdown.periods, Period::by_class(seconds(30), seconds(10)));
    }

    #[test]
    fn every_scheduler_of_ipvs_can_be_configured_and_no_other() {
        for scheduler in proxy::ipvs::Scheduler::ALL {
            let arguments = ["--kubeconfig=/k".to_string(), format!("--ipvs-scheduler={scheduler}")];
            let asked = config::upstream::kube_proxy(&arguments, |_| Ok(String::new())).unwrap();
            let config::upstream::Asked::Run(config) = asked else { panic!("{asked:?}") };
            assert_eq!(proxy_config(&config, "n").scheduler, scheduler);
        }
        let arguments = ["--kubeconfig=/k", "--ipvs-scheduler=fo"].map(str::to_string);
        assert!(config::upstream::kube_proxy(&arguments, |_| Ok(String::new())).is_err());
    }
}
