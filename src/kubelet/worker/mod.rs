//! Runs pods: one task per pod.
//!
//! ```text
//!   sources ──Arc<Pod>──▶ pool ──▶ one worker per UID ─┬─ observe the runtime
//!   runtime events, probes, volumes ──wake──▶          ├─ status (pure) ──▶ publisher
//!                                                      ├─ state (pure), plan (pure)
//!                                                      └─ apply, kill: one job at a time, dropped when its state is over
//! ```
//!
//! Invariants:
//! - One task acts on a pod; a slow pod harms only itself.
//! - Every pass starts from a fresh observation; nothing is remembered but back-offs and reasons to show.
//! - A pod's API object goes only after its containers, volumes and cgroup.

pub mod admit;
pub mod apply;
pub mod backoff;
mod bells;
pub mod dns;
mod garbage;
pub mod hooks;
pub mod hosts;
pub mod kill;
pub mod plan;
mod pool;
pub mod ports;
#[cfg(test)]
mod simulation;
pub mod state;
mod task;
mod tools;

pub use bells::Bells;
pub use pool::{Desired, Pool};
pub use tools::{NodeFacts, StatusSink, Tools};
