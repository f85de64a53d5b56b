//! The container runtime: CRI v1 over a unix socket, behind the trait [`Runtime`].
//!
//! ```text
//!   worker ──SandboxRequest, ContainerRequest──▶ convert.rs (pure) ──CRI──▶ cri.rs ──▶ containerd, CRI-O
//!   worker ◀──PodObservation── read.rs (pure) ◀──CRI── cri.rs
//! ```
//!
//! Invariants:
//! - CRI types stop in this folder: `model.rs` is what the rest of the agent knows.
//! - An error is never an absence: a pod is empty only if the runtime said so.
//! - What must survive a restart of the agent is in labels and annotations (`labels.rs`).

pub mod convert;
mod cri;
mod events;
mod expand;
#[cfg(test)]
pub(crate) mod fake;
mod labels;
mod model;
mod port;
mod read;
mod security;
mod termination_message;

pub use cri::CriRuntime;
pub use expand::expand;
pub use model::*;
pub use port::{Operation, Runtime, RuntimeError};
pub(crate) use security::shown as shown_pod;
pub use security::{MASKED_PATHS, SecurityDefaults};
