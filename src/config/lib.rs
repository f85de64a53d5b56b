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
mod node_agent;
mod read;
mod section;
mod tree;
pub mod upstream;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

pub use forms::own_label_mistake;

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
    /// Where it was told to `kubelet` or `kube-proxy` by upstream's flags and files.
    pub upstream: Option<Upstream>,
}

/// What whoever called upstream's program is to be told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// `kubelet` or `kube-proxy`.
    pub program: &'static str,
    /// Flags, without dashes, whose place the configuration file takes.
    pub ignored_flags: Vec<&'static str>,
    /// Fields that were set to what upstream does by default, and this does not yet.
    pub not_done: Vec<&'static str>,
}

/// This machine as a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The node's name; the host name where absent.
    pub name: Option<String>,
    /// The node's address; where absent, the one that routes to the API server, or to the outside where that is here.
    pub ip: Option<IpAddr>,
    /// Labels that the node registers with, besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with.
    pub taints: Vec<Taint>,
    /// Whether the node makes its own Node object where there is none.
    pub register: bool,
    /// By what `coracle node` reaches the API server; where absent, what `coracle join` wrote.
    pub kubeconfig: Option<PathBuf>,
    /// By what the first certificate is asked for while `kubeconfig` holds none that can be used.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where the certificates are that the node asked for; where absent, `pki` in the state directory.
    pub certificate_dir: Option<PathBuf>,
    /// How long the certificates that the node asks for should live; where absent, as long as the signer gives.
    pub certificate_life: Option<Duration>,
}

/// A mark that keeps pods off a node, or takes them from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: TaintEffect,
}

/// What a [`Taint`] does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl TaintEffect {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
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
    /// Whether nodes on one link send pods' packets to each other without the tunnel.
    pub direct_routes: bool,
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
    /// Nobody here: the container runtime runs what somebody else has put into its folder, as beside upstream's kubelet.
    Runtime,
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
    pub address: IpAddr,
    pub port: u16,
    /// Where everybody on this machine may ask whether the node agent is alive; nowhere where absent.
    pub healthz: Option<SocketAddr>,
    pub max_pods: u32,
    pub cluster_dns: Vec<IpAddr>,
    /// Empty: no domain is searched.
    pub cluster_domain: String,
    /// What pods' resolv.conf is made from; where absent, pods that want the node's resolvers get none.
    pub resolv_conf: Option<PathBuf>,
    /// Who signs the certificates of those who call; where absent, the cluster's authority.
    pub client_authority: Option<PathBuf>,
    pub serving: Serving,
    /// Whether the node's client certificate is renewed while it is in use.
    pub renews_client_certificate: bool,
    pub status_update: Duration,
    pub status_report: Duration,
    pub lease: Duration,
    /// Images pulled at once.
    pub parallel_image_pulls: usize,
    /// The longest wait before a container that fails is started again.
    pub longest_restart_delay: Duration,
    /// Whether containers that say nothing get the runtime's seccomp profile.
    pub seccomp_default: bool,
    /// Whether a machine with swap is refused.
    pub refuses_swap: bool,
    /// Whether a machine with cgroup v1 is refused.
    pub refuses_cgroup_v1: bool,
    /// What the kernel is told of how dear this process is, from -1000 to 1000; nothing where absent.
    pub oom_score_adj: Option<i16>,
    /// How long a shutdown of the machine is held up while pods end.
    pub shutdown: Shutdown,
}

/// How long pods have to end when the machine shuts down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// All of them together, and of that those that are critical to the cluster, which end last; a third where absent. The
    /// shutdown is not held up where `total` is nothing.
    ByClass {
        total: Duration,
        critical: Option<Duration>,
    },
    ByPriority(Vec<ShutdownPeriod>),
}

/// The time of those pods whose priority is at least this one, and below that of the next period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPeriod {
    pub priority: i32,
    pub length: Duration,
}

impl Shutdown {
    /// The time of critical pods, in the simple form.
    #[must_use]
    pub fn critical(total: Duration, critical: Option<Duration>) -> Duration {
        critical.unwrap_or(Duration::from_secs(total.as_secs() / 3))
    }
}

/// What the node agent's own server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// A certificate that the cluster signs by request.
    Requested,
    /// One that nobody vouches for.
    SelfSigned,
    /// What these files hold; read again when they change.
    Files { certificate: PathBuf, key: PathBuf },
}

/// How Services are made reachable from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub mode: ProxyMode,
    /// The kernel's name of how IPVS chooses an endpoint, such as `rr`; for [`ProxyMode::Ipvs`] only.
    pub ipvs_scheduler: &'static str,
    /// Pods' own connections to cluster IPs are masqueraded too.
    pub masquerade_all: bool,
    /// Where pods are, if that is not `network.podCIDR`: what they send to cluster IPs keeps its source.
    pub pod_ranges: Option<Vec<IpNet>>,
    /// Where everybody may ask whether the proxy is alive; nowhere where absent.
    pub healthz: Option<SocketAddr>,
    /// As [`Kubelet::oom_score_adj`], for a proxy that is alone in its process.
    pub oom_score_adj: Option<i16>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            mode: ProxyMode::Nftables,
            ipvs_scheduler: "rr",
            masquerade_all: false,
            pod_ranges: None,
            healthz: None,
            oom_score_adj: None,
        }
    }
}

/// Who owns the cgroup tree: nobody but who makes a group, or systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    Cgroupfs,
    Systemd,
}

/// How the kernel is told of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    Nftables,
    Iptables,
    Ipvs,
}

/// The cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Where it listens on the node's address. The Service at which pods find it has port 53.
    pub port: u16,
    /// Besides the cluster's own pods and nodes, for whom names that are not the cluster's are asked for.
    pub clients: Vec<IpNet>,
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

impl Default for Kubelet {
    fn default() -> Self {
        Self {
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            static_pod_path: None,
            cgroup_root: "/".into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            healthz: None,
            max_pods: 110,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: Some("/etc/resolv.conf".into()),
            client_authority: None,
            serving: Serving::Requested,
            renews_client_certificate: true,
            status_update: Duration::from_secs(10),
            status_report: Duration::from_secs(300),
            lease: Duration::from_secs(40),
            parallel_image_pulls: 8,
            longest_restart_delay: Duration::from_secs(300),
            seccomp_default: false,
            refuses_swap: false,
            refuses_cgroup_v1: false,
            oom_score_adj: None,
            shutdown: Shutdown::ByClass { total: Duration::from_secs(30), critical: None },
        }
    }
}

impl Config {
    /// What whoever wrote this configuration calls a setting: upstream's flag, or the field of ours.
    pub fn called<'a>(&self, flag: &'a str, field: &'a str) -> &'a str {
        if self.upstream.is_some() { flag } else { field }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/coracle".into(),
            run_dir: "/run/coracle".into(),
            node: Node {
                name: None,
                ip: None,
                labels: BTreeMap::new(),
                taints: Vec::new(),
                register: true,
                kubeconfig: None,
                bootstrap_kubeconfig: None,
                certificate_dir: None,
                certificate_life: None,
            },
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
                direct_routes: true,
                vxlan: (107, 4789),
            },
            runtime: Runtime { endpoint: "unix:///run/containerd/containerd.sock".into() },
            kubelet: Kubelet::default(),
            proxy: Proxy::default(),
            dns: Dns { port: 10053, clients: Vec::new() },
            components: Components {
                kubelet: true,
                proxy: true,
                scheduler: true,
                controllers: true,
                dns: true,
            },
            logging: Logging { level: "info".into(), format: LogFormat::Text },
            upstream: None,
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
    /// From 1; 0 for what was not said in a file.
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
            match line {
                0 => write!(f, "{newline}{field}{colon}{text}")?,
                _ => write!(f, "{newline}{}:{line}: {field}{colon}{text}", self.file)?,
            }
        }
        Ok(())
    }
}
