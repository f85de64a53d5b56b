//! Runs pods on this node.
//!
//! ```text
//!   sources/ (API watch, static pods) ──merge (pure)──▶ Desired ──▶ worker/pool ──▶ one worker per pod
//!   runtime/ (CRI) ──events──▶ notice ──look again──▶        │         │ plan, state (pure) ─▶ apply, kill
//!   probes/, volumes/ ──wake──▶                              │         ▼
//!                                                     status/ generate (pure) ──▶ publish ──PATCH──▶ API
//!   shutdown/ (logind) ── the machine goes down ──▶ node/, worker/pool
//!   node/ ── registers, heartbeats, tells what the node has ─────────────────────────────────────▶ API
//! ```
//!
//! [`agent`] puts the parts together; `task` is its loop. Invariants are with each part; these hold for all:
//! - A restart of the agent changes nothing in its pods: what must survive is in the runtime, the API, or a file.
//! - An unknown is not an absence: nothing ends because a list failed or a source has not told all it has.

pub mod agent;
pub mod cgroups;
pub mod clock;
pub mod config;
mod dbus;
pub mod env;
pub mod events;
pub mod images;
pub mod node;
mod notice;
pub mod pods;
pub mod probes;
pub mod reset;
mod resources;
pub mod runtime;
pub mod runtime_class;
pub mod server;
pub mod shutdown;
pub mod sources;
pub mod status;
mod task;
pub mod volumes;
pub mod worker;

pub use config::{CgroupDriver, KubeletConfig};
