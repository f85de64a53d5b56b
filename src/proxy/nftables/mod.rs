//! Services as nf_tables rules, in a table of our own in each address family.
//!
//! `base.rs` is what all Services share, `render.rs` what one Service adds, `plan.rs` the difference to what the
//! kernel has; all pure. A change costs the Services that changed.

mod base;
mod claims;
mod names;
mod plan;
mod render;

pub use claims::Shadowed;
pub use names::TABLE;
pub use plan::{Plan, Programmed, Retired, plan, plan_all, plan_deletions};
pub use render::PodRange;
