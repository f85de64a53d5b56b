//! The node agent's part of the process: from the configuration to the kubelet's and the network's own settings.

use std::{net::IpAddr, sync::Arc, time::Duration};

use client::{Client, Recorder, Store};
use config::{Config, NetworkProvider, ProxyMode};
use k8s_openapi::api::core::v1::Service;
use kubelet::{
    KubeletConfig,
    agent::{self, Seeds},
    probes::Prober,
    server,
    volumes::{self, NodeResources},
    worker::ports::Probes,
};
use lifecycle::{BoxError, Scope};
use netlink::nft::Family;
use network::ProviderConfig;
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
        resolv_conf: Some(kubelet.resolv_conf.clone()),
        max_pods: kubelet.max_pods,
        node_labels: config.node.labels.clone(),
        server_address: IpAddr::from([0, 0, 0, 0]),
        server_port: kubelet.port,
        ..KubeletConfig::new(&place.name)
    }
}

/// What the network is told.
pub(crate) fn network_config(config: &Config, place: &NodePlace) -> network::Config {
    let network = &config.network;
    network::Config {
        node_name: place.name.clone(),
        state_dir: config.state_dir.clone(),
        run_dir: config.run_dir.clone(),
        provider: match &network.provider {
            NetworkProvider::BuiltIn => ProviderConfig::BuiltIn,
            NetworkProvider::Chain(conflist) => ProviderConfig::Chain(conflist.clone()),
        },
        cni_conf_dir: network.cni_conf_dir.clone(),
        cni_bin_dir: network.cni_bin_dir.clone(),
        cni_plugin_dirs: network.cni_plugin_dirs.clone(),
        cluster_cidr: vec![network.pod_cidr],
        mtu: network.mtu,
        tunnel: network::Tunnel { vni: network.vxlan.0, port: network.vxlan.1 },
        plugin_binary: None,
    }
}

/// What the proxy is told.
pub(crate) fn proxy_config(config: &Config, place: &NodePlace) -> proxy::Config {
    proxy::Config {
        mode: match config.proxy.mode {
            ProxyMode::Nftables => proxy::Mode::Nftables,
            ProxyMode::Iptables => proxy::Mode::Iptables,
            ProxyMode::Ipvs => proxy::Mode::Ipvs,
        },
        node_name: place.name.clone(),
        pod_ranges: vec![config.network.pod_cidr],
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
}

/// Runs the node agent: registers the node, runs its pods, serves logs and exec, until `scope` is cancelled.
pub(crate) async fn run_kubelet(agent: Agent, scope: Scope) -> Result<(), BoxError> {
    let Agent { settings, client, services, tls } = agent;
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
        if let Some(cluster) = &seeds.cluster {
            let host = server::NodeHost { runtime: seeds.runtime.clone(), pods: cluster.pods.clone() };
            within.clone().spawn("kubelet server", serve(serving, Arc::new(host), reviewer, within));
        }
        (resources, probes)
    };
    Ok(agent::run_with(settings, Some(client), Arc::new(recorder), &scope, plant).await?)
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
