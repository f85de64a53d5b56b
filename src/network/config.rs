//! What the network needs to be told.

use std::path::PathBuf;

use ipnet::IpNet;

pub use crate::routes::Tunnel;

/// Which network pods get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderConfig {
    BuiltIn,
    /// A network configuration list, whose plugins are in [`Config::cni_plugin_dirs`].
    Chain(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// `network/` in it is ours.
    pub state_dir: PathBuf,
    /// The socket `cni.sock` is in it.
    pub run_dir: PathBuf,
    pub provider: ProviderConfig,
    /// Where the runtime looks for networks (`/etc/cni/net.d`).
    pub cni_conf_dir: PathBuf,
    /// Where the runtime looks for plugins (`/opt/cni/bin`).
    pub cni_bin_dir: PathBuf,
    /// Where the plugins of a chain are.
    pub cni_plugin_dirs: Vec<PathBuf>,
    /// Where the pods of all nodes are; traffic to there keeps its source.
    pub cluster_cidr: Vec<IpNet>,
    /// Of pods' interfaces; otherwise as the interface that the default route leads to.
    pub mtu: Option<u32>,
    /// Whether nodes on one link send pods' packets to each other without the tunnel.
    pub direct_routes: bool,
    /// To nodes that no link is shared with.
    pub tunnel: Tunnel,
    /// What `coracle-cni` in the runtime's plugin folder leads to; otherwise this process's own binary.
    pub plugin_binary: Option<PathBuf>,
}

impl Config {
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }
}
