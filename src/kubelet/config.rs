//! What the node agent is told: read once by whoever wires the process, never here.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Taint;
use tracing::{info, warn};

use crate::{
    runtime::{CriRuntime, SecurityDefaults},
    shutdown,
    worker::backoff::Limits,
};

#[derive(Clone, Debug)]
pub struct KubeletConfig {
    pub node_name: String,
    /// Shown as Hostname address and label.
    pub hostname: String,
    /// Shown as InternalIP, one of each family at most, the first one primary. Empty: the source address of the
    /// route to `api_server`.
    pub node_ips: Vec<IpAddr>,
    /// To find the node's address by.
    pub api_server: Option<std::net::SocketAddr>,
    /// `/var/lib/kubelet`: volumes and files of pods.
    pub root_dir: PathBuf,
    /// `/var/log/pods`. Directories of unknown pods in it are removed: never shared between agents.
    pub pod_logs_dir: PathBuf,
    pub runtime_endpoint: String,
    /// The cgroup that all pods live under, `/` for the root (upstream's `cgroupRoot`).
    pub cgroup_root: String,
    pub cgroup_driver: CgroupDriver,
    pub static_pod_path: Option<PathBuf>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// `None` disables host lookups in pods.
    pub resolv_conf: Option<PathBuf>,
    pub max_pods: u32,
    /// Pulls at once; more wait for their turn.
    pub max_parallel_image_pulls: usize,
    pub seccomp_default: bool,
    pub crash_loop: Limits,
    /// Create the Node object if it is not there.
    pub register_node: bool,
    pub node_labels: BTreeMap<String, String>,
    pub register_with_taints: Vec<Taint>,
    pub server_address: IpAddr,
    pub server_port: u16,
    /// Look at the node every so often; publish at once what changed.
    pub node_status_update: Duration,
    /// Publish at least every so often.
    pub node_status_report: Duration,
    pub lease_duration: Duration,
    /// The safety net under the runtime's events.
    pub relist: Duration,
    /// What the node keeps for itself, subtracted from capacity.
    pub reserved: BTreeMap<String, String>,
    /// How pods end when the machine goes down.
    pub shutdown: shutdown::Settings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    #[default]
    Cgroupfs,
    Systemd,
}

impl KubeletConfig {
    /// Upstream's defaults for a node of this name.
    pub fn new(node_name: &str) -> KubeletConfig {
        KubeletConfig {
            node_name: node_name.into(),
            hostname: node_name.into(),
            node_ips: Vec::new(),
            api_server: None,
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            cgroup_root: "/".into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            static_pod_path: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: Some("/etc/resolv.conf".into()),
            max_pods: 110,
            max_parallel_image_pulls: 8,
            seccomp_default: false,
            crash_loop: Limits::default(),
            register_node: true,
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            server_address: IpAddr::from([0, 0, 0, 0]),
            server_port: 10250,
            node_status_update: Duration::from_secs(10),
            node_status_report: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            relist: Duration::from_secs(120),
            // Upstream's default hard eviction threshold counts as reserved.
            reserved: BTreeMap::from([("memory".into(), "100Mi".into())]),
            shutdown: shutdown::Settings::default(),
        }
    }

    /// These settings with the cgroup driver that the runtime uses, if it tells: two that differ would fight over the limits.
    /// A runtime that does not answer is waited for; after `deadline` the configured driver holds.
    pub async fn with_runtimes_driver(mut self, deadline: Duration) -> KubeletConfig {
        let asked = async {
            loop {
                let error = match CriRuntime::new(&self.runtime_endpoint, SecurityDefaults::default()) {
                    Ok(runtime) => match runtime.cgroup_driver().await {
                        Ok(driver) => return driver,
                        Err(error) => error,
                    },
                    Err(error) => error,
                };
                info!(error = &error as &dyn std::error::Error, "waiting for the container runtime");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        match tokio::time::timeout(deadline, asked).await {
            Ok(Some(driver)) if driver != self.cgroup_driver => {
                warn!(configured = ?self.cgroup_driver, used = ?driver, "the container runtime's cgroup driver is used");
                self.cgroup_driver = driver;
            }
            Ok(_) => {}
            Err(_) => {
                warn!(used = ?self.cgroup_driver, "the container runtime does not tell its cgroup driver")
            }
        }
        self
    }

    /// Where everything of one pod stands on the host.
    pub fn pod_dir(&self, uid: &crate::pods::PodUid) -> PathBuf {
        self.root_dir.join("pods").join(uid.as_str())
    }

    /// `NAMESPACE_NAME_UID` below the log directory, as log collectors expect it.
    pub fn pod_log_dir(&self, name: &crate::pods::PodName, uid: &crate::pods::PodUid) -> PathBuf {
        self.pod_logs_dir.join(format!("{}_{}_{uid}", name.namespace, name.name))
    }
}
