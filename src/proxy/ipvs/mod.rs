//! Services as virtual servers of IPVS.
//!
//! ```text
//!   model ──render──▶ entrance → endpoints ──plan (with the kernel's servers)──▶ changes of virtual and real servers
//!     └──▶ `nftables/` beside IPVS: masquerades, refuses, discards: what IPVS does not do
//!   addresses of Services ──▶ the dummy link `kube-ipvs0`: only what is for this host comes to IPVS
//! ```
//!
//! `plan.rs` is pure; `kernel.rs` asks and changes the kernel on a thread that may block, `apply.rs` puts them together with
//! the table of nf_tables.
//!
//! Invariants:
//! - Ours are the virtual servers of addresses on `kube-ipvs0`, and those of this node's other addresses with ports of the
//!   range of node ports. Others', of a load balancer on the same host for example, are left alone.
//! - A real server that takes no more traffic is asked for no new connection, and removed when its last one ended.

mod apply;
mod kernel;
mod plan;

use std::fmt;

pub use apply::{Ipvs, remove_servers};
pub use kernel::IpvsError;
pub use plan::{Change, Found, Plan, Server, plan};

/// The dummy link, by kube-proxy's name for its own.
pub const LINK: &str = "kube-ipvs0";

/// How IPVS chooses an endpoint (ipvsadm(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduler {
    #[default]
    RoundRobin,
    WeightedRoundRobin,
    LeastConnection,
    WeightedLeastConnection,
    LocalityBasedLeastConnection,
    LocalityBasedLeastConnectionWithReplication,
    SourceHashing,
    DestinationHashing,
    ShortestExpectedDelay,
    NeverQueue,
    MaglevHashing,
}

impl Scheduler {
    pub const ALL: [Self; 11] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnection,
        Self::WeightedLeastConnection,
        Self::LocalityBasedLeastConnection,
        Self::LocalityBasedLeastConnectionWithReplication,
        Self::SourceHashing,
        Self::DestinationHashing,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
        Self::MaglevHashing,
    ];

    /// The kernel's name for it; its module is called `ip_vs_` and this.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnection => "lc",
            Self::WeightedLeastConnection => "wlc",
            Self::LocalityBasedLeastConnection => "lblc",
            Self::LocalityBasedLeastConnectionWithReplication => "lblcr",
            Self::SourceHashing => "sh",
            Self::DestinationHashing => "dh",
            Self::ShortestExpectedDelay => "sed",
            Self::NeverQueue => "nq",
            Self::MaglevHashing => "mh",
        }
    }

    /// By the kernel's name for it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheduler| scheduler.name() == name)
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
