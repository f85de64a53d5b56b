//! What a load balancer asks to know which nodes have endpoints: one small HTTP server for each `healthCheckNodePort`.
//!
//! `plan.rs` says which ports answer what; `serve.rs` listens on them.

mod plan;
mod serve;

pub use plan::{Answer, Plan, plan};
pub(crate) use serve::Checks;
