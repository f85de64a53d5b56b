//! What a container's processes find in their environment.
//!
//! ```text
//!   services ──▶ service_links ─┐
//!   ConfigMaps, Secrets ────────┼─▶ resolve (pure) ──▶ name, value, in the order that they are set
//!   the pod ──▶ downward ───────┘
//! ```
//!
//! Everything here is a function of its arguments; who asks has looked up what [`references`] names.

pub mod downward;
pub mod references;
mod resolve;
mod service_links;

pub use references::{ObjectKind, Reference};
pub use resolve::{EnvError, Inputs, Objects, environment};
pub use service_links::service_links;
