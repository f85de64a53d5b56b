//! What the loop needs from a mode, whichever it is.

use std::{fmt, io, time::Duration};

use ipnet::IpNet;
use netlink::nft::{CommitError, Family};

use crate::{
    claims::Shadowed,
    iptables::IptablesError,
    ipvs::{IpvsError, Scheduler},
    model::ServiceModel,
};

/// How the kernel is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A table of our own, over netlink.
    #[default]
    Nftables,
    /// Chains by upstream's names, through `iptables-restore`.
    Iptables,
    /// Virtual servers over netlink, on a dummy interface.
    Ipvs,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Ipvs];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
        })
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    /// This node's name: endpoints on it are local.
    pub node_name: String,
    /// The address ranges of all pods, at most one in each family.
    pub pod_ranges: Vec<IpNet>,
    pub families: Vec<Family>,
    /// First and last port of Services of type NodePort.
    pub node_ports: (u16, u16),
    /// Also pods' own connections to cluster IPs are masqueraded.
    pub masquerade_all: bool,
    /// How IPVS chooses an endpoint.
    pub scheduler: Scheduler,
}

/// By what Services are told apart.
pub trait Key: Ord + Clone + fmt::Debug + Send + Sync {}
impl<K: Ord + Clone + fmt::Debug + Send + Sync> Key for K {}

/// The rules of all Services in the kernel, in one mode.
pub trait Rules<K>: Send {
    /// Makes the rules of these Services, and of no others, whatever there was.
    fn write_all(
        &mut self,
        services: &[(K, ServiceModel)],
    ) -> impl Future<Output = Result<Written<K>, WriteError>> + Send;

    /// Makes what changed Services need. One that is gone has the empty model. After an error everything is to be written.
    fn write(
        &mut self,
        changed: &[(K, ServiceModel)],
    ) -> impl Future<Output = Result<Written<K>, WriteError>> + Send;

    /// Resolves when somebody else changed what may be ours.
    fn heard(&mut self) -> impl Future<Output = io::Result<Heard>> + Send;

    /// Whether the kernel has what it was given.
    fn audit(&mut self) -> impl Future<Output = Result<bool, WriteError>> + Send;

    /// How long foreign changes may stay unseen that are not heard of.
    fn audit_every(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// When to audit after a write, where what others do meanwhile is not heard of.
    fn audit_after_write(&self) -> Option<Duration> {
        None
    }

    /// How long after a change something is to be taken away that nothing should use any more; `None` where nothing is left.
    fn tidy_after(&self) -> Option<Duration>;

    /// Takes it away, as far as it can be.
    fn tidy(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// What was heard of the kernel's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Ours are not what we made them.
    Broken,
    /// They may not be: an audit tells.
    Perhaps,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<K> {
    /// How much was changed, in what the mode counts in; nothing where nothing had to be.
    pub changes: usize,
    /// Claims that lose now and did not before, or lost to another.
    pub shadowed: Vec<Shadowed<K>>,
}

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self { changes: 0, shadowed: Vec::new() }
    }
}

impl<K> Written<K> {
    /// Together with what was done to another family.
    pub fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.shadowed.extend(other.shadowed);
    }
}

/// Why rules were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Nftables(#[from] CommitError),
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    #[error(transparent)]
    Ipvs(#[from] IpvsError),
}

impl WriteError {
    /// Whether the kernel is not in the state that we believe it to be in: writing all anew mends that.
    #[must_use]
    pub fn is_out_of_step(&self) -> bool {
        match self {
            Self::Nftables(error) => error.is_out_of_step(),
            Self::Iptables(error) => error.is_out_of_step(),
            Self::Ipvs(error) => error.is_out_of_step(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("open nf_tables")]
    Nftables(#[source] CommitError),
    #[error("program Services in mode iptables")]
    Iptables(#[source] IptablesError),
    #[error("program Services in mode ipvs")]
    Ipvs(#[source] IpvsError),
    #[error("hear changes of the kernel's rules")]
    Monitor(#[source] io::Error),
    #[error("remove the rules of mode {mode}")]
    Cleanup {
        mode: Mode,
        #[source]
        source: WriteError,
    },
}
