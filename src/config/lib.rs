//! `CoracleConfiguration`: what `/etc/coracle/config.yaml` says, parsed strictly.
//!
//! A wrong file gives every mistake at once, each with its line and what would be right;
//! no field is optional to understand: what is not known is a mistake, never ignored.
//!
//! ```
//! let config = config::Config::parse("config.yaml", "kind: CoracleConfiguration\nnode: {name: a}\n");
//! assert_eq!(config.unwrap().node.name.as_deref(), Some("a"));
//! let wrong = config::Config::parse("config.yaml", "kind: CoracleConfiguration\nserver: {prot: 6443}\n");
//! assert!(wrong.unwrap_err().to_string().contains("config.yaml:2: server.prot: unknown field"));
//! ```

mod forms;
mod read;
mod section;
mod tree;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

/// The whole configuration, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Certificates, the store, what must survive a restart.
    pub state_dir: PathBuf,
    /// Sockets and pid files.
    pub run_dir: PathBuf,
    pub node: Node,
    pub server: Server,
    pub network: Network,
    pub runtime: Runtime,
    pub kubelet: Kubelet,
    pub proxy: Proxy,
    pub dns: Dns,
    pub components: Components,
    pub logging: Logging,
}

/// This machine as a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// The node's name; the host name where absent.
    pub name: Option<String>,
    /// The node's address; where absent, the one that routes to the API server, or to the outside where that is here.
    pub ip: Option<IpAddr>,
    /// Labels that the node registers with, besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// By what `coracle node` reaches the API server; where absent, what `coracle join` wrote.
    pub kubeconfig: Option<PathBuf>,
    /// How long the certificates that the node asks for should live; where absent, as long as the signer gives.
    pub certificate_life: Option<Duration>,
}

/// The API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub bind_address: IpAddr,
    pub port: u16,
    /// What the `kubernetes` Service points at; the node's address where absent.
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses in the serving certificate.
    pub extra_sans: Vec<String>,
}

/// Addresses of pods and Services, and how pods get theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    /// First and last port that Services of type NodePort take, both included.
    pub node_ports: (u16, u16),
    pub provider: NetworkProvider,
    /// Where the container runtime looks for CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// Where the container runtime looks for CNI plugins; `coracle-cni` is placed there.
    pub cni_bin_dir: PathBuf,
    /// Where the plugins of a third-party chain are.
    pub cni_plugin_dirs: Vec<PathBuf>,
    /// The largest packet of a pod's interface; found from the uplink where absent.
    pub mtu: Option<u32>,
    /// Identifier and UDP port of the tunnel between nodes on different links: the same on every node.
    pub vxlan: (u32, u16),
}

/// Who sets up a pod's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkProvider {
    /// The network in the agent.
    BuiltIn,
    /// A chain of plugins, from this conflist.
    Chain(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The CRI socket, as `unix:///run/containerd/containerd.sock`.
    pub endpoint: String,
}

impl Runtime {
    /// The path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        Path::new(self.endpoint.strip_prefix("unix://").unwrap_or(&self.endpoint))
    }
}

/// What `KubeletConfiguration` calls by the same names.
#[derive(Clone, Debug, PartialEq)]
pub struct Kubelet {
    pub root_dir: PathBuf,
    pub pod_logs_dir: PathBuf,
    pub static_pod_path: Option<PathBuf>,
    /// The cgroup under which pods live, from the root of the hierarchy.
    pub cgroup_root: String,
    /// Who makes pods' cgroups, where the runtime does not tell.
    pub cgroup_driver: CgroupDriver,
    pub port: u16,
    pub max_pods: u32,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub resolv_conf: PathBuf,
}

/// Who owns the cgroup tree: nobody but who makes a group, or systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    Cgroupfs,
    Systemd,
}

/// How Services are made reachable from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub mode: ProxyMode,
    /// The kernel's name of how IPVS chooses an endpoint, such as `rr`; for [`ProxyMode::Ipvs`] only.
    pub ipvs_scheduler: &'static str,
    /// Pods' own connections to cluster IPs are masqueraded too.
    pub masquerade_all: bool,
}

/// How the kernel is told of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    Nftables,
    Iptables,
    Ipvs,
}

/// The cluster's DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Where it listens on the node's address. The Service at which pods find it has port 53.
    pub port: u16,
}

/// Which parts run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Components {
    pub kubelet: bool,
    pub proxy: bool,
    pub scheduler: bool,
    pub controllers: bool,
    pub dns: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,kubelet=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/coracle".into(),
            run_dir: "/run/coracle".into(),
            node: Node::default(),
            server: Server {
                bind_address: IpAddr::from([0, 0, 0, 0]),
                port: 6443,
                advertise_address: None,
                extra_sans: Vec::new(),
            },
            network: Network {
                pod_cidr: IpNet::new_assert(IpAddr::from([10, 244, 0, 0]), 16),
                service_cidr: IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 16),
                node_ports: (30000, 32767),
                provider: NetworkProvider::BuiltIn,
                cni_conf_dir: "/etc/cni/net.d".into(),
                cni_bin_dir: "/opt/cni/bin".into(),
                cni_plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
                mtu: None,
                vxlan: (107, 4789),
            },
            runtime: Runtime { endpoint: "unix:///run/containerd/containerd.sock".into() },
            kubelet: Kubelet {
                root_dir: "/var/lib/kubelet".into(),
                pod_logs_dir: "/var/log/pods".into(),
                static_pod_path: None,
                cgroup_root: "/".into(),
                cgroup_driver: CgroupDriver::Cgroupfs,
                port: 10250,
                max_pods: 110,
                cluster_dns: Vec::new(),
                cluster_domain: "cluster.local".into(),
                resolv_conf: "/etc/resolv.conf".into(),
            },
            proxy: Proxy { mode: ProxyMode::Nftables, ipvs_scheduler: "rr", masquerade_all: false },
            dns: Dns { port: 10053 },
            components: Components {
                kubelet: true,
                proxy: true,
                scheduler: true,
                controllers: true,
                dns: true,
            },
            logging: Logging { level: "info".into(), format: LogFormat::Text },
        }
    }
}

impl Config {
    /// Where the administrator's kubeconfig is kept.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.state_dir.join("admin.kubeconfig")
    }

    /// The address of the cluster's DNS Service: by convention the tenth of the Service range. None where the range is
    /// smaller.
    #[must_use]
    pub fn dns_service_ip(&self) -> Option<IpAddr> {
        let range = self.network.service_cidr;
        let address = match range.network() {
            IpAddr::V4(first) => IpAddr::from(u32::from(first).checked_add(10)?.to_be_bytes()),
            IpAddr::V6(first) => IpAddr::from(u128::from(first).checked_add(10)?.to_be_bytes()),
        };
        range.contains(&address).then_some(address)
    }

    /// What pods' resolv.conf names: what is configured, else the DNS of this process.
    #[must_use]
    pub fn cluster_dns(&self) -> Vec<IpAddr> {
        match self.kubelet.cluster_dns.as_slice() {
            [] if self.components.dns => self.dns_service_ip().into_iter().collect(),
            configured => configured.to_vec(),
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read, or holds mistakes: all of them, in the order of their lines.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::default().load_over(path)
    }

    /// Parses the text of a configuration; `file` only names it in messages.
    ///
    /// # Errors
    /// All mistakes, in the order of their lines.
    pub fn parse(file: &str, text: &str) -> Result<Self, Mistakes> {
        Self::default().with(file, text)
    }

    /// This configuration with what a file says put over it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_over(&self, path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { file: file.clone(), source })?;
        self.with(&file, &text).map_err(ConfigError::Mistakes)
    }

    fn with(&self, file: &str, text: &str) -> Result<Self, Mistakes> {
        read::config(text, self).map_err(|mistakes| Mistakes { file: file.to_string(), mistakes })
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {file}")]
    Read {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Mistakes(Mistakes),
}

/// Everything that is wrong with one file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    pub file: String,
    pub mistakes: Vec<Mistake>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: u64,
    /// The field, such as `network.podCIDR`; empty for the document itself.
    pub field: String,
    pub text: String,
}

impl Mistake {
    fn new(line: u64, field: String, text: String) -> Self {
        Self { line, field, text }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { line, field, text }) in self.mistakes.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            let colon = if field.is_empty() { "" } else { ": " };
            write!(f, "{newline}{}:{line}: {field}{colon}{text}", self.file)?;
        }
        Ok(())
    }
}
