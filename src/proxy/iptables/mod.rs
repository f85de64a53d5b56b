//! Services as iptables rules, in chains by kube-proxy's names.
//!
//! `base.rs` is what all Services share, `render.rs` what one Service adds, `plan.rs` the difference to what the kernel has, as
//! text; all pure. `command.rs` starts the programs, `apply.rs` puts both together.
//!
//! - A change is one `iptables-restore --noflush` for each family, of the chains and rules that change: what Services share is
//!   never written whole again.
//! - Chains are ours by name, whoever made them: what another proxy left in them is replaced.
//! - Rules that somebody else took away are seen by the kernel's notifications where it is nf_tables that holds them, else by
//!   an audit of the numbers of rules.

mod apply;
mod base;
mod command;
mod names;
mod plan;
mod render;
mod rules;

pub use apply::{Iptables, remove_chains};
pub use command::{Flavour, IptablesError};
pub use plan::{Layout, Plan, Programmed, plan, plan_all, plan_removal};
pub use rules::{Restore, Saved, Table};
