//! The node agent's part of the process: from the configuration to the kubelet's and the network's own settings.

use std::net::IpAddr;

use config::{Config, NetworkProvider};
use kubelet::KubeletConfig;

use crate::identity::Place;

/// What the kubelet is told.
pub(crate) fn kubelet_config(config: &Config, place: &Place) -> KubeletConfig {
    let kubelet = &config.kubelet;
    KubeletConfig {
        node_ips: vec![place.node_ip],
        root_dir: kubelet.root_dir.clone(),
        pod_logs_dir: kubelet.pod_logs_dir.clone(),
        runtime_endpoint: config.runtime.endpoint.clone(),
        cgroup_root: kubelet.cgroup_root.clone(),
        static_pod_path: kubelet.static_pod_path.clone(),
        cluster_dns: kubelet.cluster_dns.clone(),
        cluster_domain: kubelet.cluster_domain.clone(),
        resolv_conf: Some(kubelet.resolv_conf.clone()),
        max_pods: kubelet.max_pods,
        node_labels: config.node.labels.clone(),
        server_address: IpAddr::from([0, 0, 0, 0]),
        server_port: kubelet.port,
        ..KubeletConfig::new(&place.node_name)
    }
}
