//! Services as nf_tables rules, in a table of our own in each address family.
//!
//! `base.rs` is what all Services share, `render.rs` what one Service adds, `plan.rs` the difference to what the
//! kernel has; all pure. A change costs the Services that changed. `apply.rs` talks to the kernel.
//!
//! The same table, in another [`Role`], stands beside IPVS.

mod apply;
mod base;
mod names;
mod plan;
mod render;

pub use apply::{Nftables, remove_tables, remove_upstreams_tables};
pub(crate) use base::MASQUERADE_BIT;
pub use names::TABLE;
pub use plan::{Plan, Programmed, Retired, plan, plan_all, plan_all_on, plan_deletions};
pub use render::{Layout, Role};
