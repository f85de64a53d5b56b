//! Startup, liveness and readiness of containers.
//!
//! ```text
//!   what runs ──update──▶ Prober ──▶ one task per probe of an instance: wait, check, record
//!                           │                                  │        state (pure): thresholds
//!   readings ◀──────────────┴──────────────────────────────────┴─ changed ──▶ the pod's worker is woken
//! ```
//!
//! Invariants:
//! - Results belong to one container instance; a new one starts from nothing, and after a restart of the agent an old
//!   one starts from what the API shows.
//! - A probe that could not be made says nothing: only a check that was carried out counts.
//! - A check leaves no socket behind in TIME_WAIT.

mod check;
mod dial;
mod grpc;
mod http;
pub mod spec;
pub mod state;
mod task;

pub use check::{Checker, Checks, Verdict};
pub(crate) use http::Tls;
pub use task::Prober;
