//! Images of containers: pull policies, one pull for all who want the same, back-off of pulls that fail.
//!
//! ```text
//!   worker ── ensure ──▶ present? ─ policy ─▶ Present
//!                            └──▶ one flight per image ──▶ result kept for each who asked ──▶ the pod is woken
//! ```
//!
//! Invariants:
//! - A worker never waits for a pull: it is told `Pulling`, and woken.
//! - Two pods that want one image with the same credentials share one pull.

mod name;
mod puller;
mod secrets;

pub use name::default_policy as default_pull_policy;
pub use puller::{Credentials, Ensured, Images, NoCredentials, Parts};
pub use secrets::PullSecrets;
