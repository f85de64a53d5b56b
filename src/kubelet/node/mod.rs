//! The Node object: registered, kept true, and proven alive by a Lease.
//!
//! ```text
//!   runtime (health, version, images), /proc, /sys ──observe──▶ Observed ─┐
//!                                                                         ├─ object (pure) ─▶ Node ─ task ─▶ API
//!   KubeletConfig ────────────────────────────────────────────────────────┘
//!                                      workers read it  ◀── NodeFacts (watch) ◀── task
//! ```
//!
//! Invariants:
//! - A change is published at once; without one, every five minutes. The Lease is renewed beside it, by its own task.
//! - Conditions and labels of others are left alone.

mod lease;
mod object;
mod observe;
mod task;

pub use lease::run as run_lease;
pub use object::VERSION;
pub use task::{Host, run as run_status};
