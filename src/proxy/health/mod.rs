//! What a load balancer asks to know which nodes have endpoints: one small HTTP server for each `healthCheckNodePort`.
//!
//! `plan.rs` says which ports answer what; `serve.rs` listens on them; `writes.rs` is whether rules lead to these endpoints at all.

mod plan;
mod serve;
mod writes;

pub use plan::{Answer, Plan, plan};
pub(crate) use serve::Checks;
pub use writes::Health;
