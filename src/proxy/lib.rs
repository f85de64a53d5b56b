//! Makes Services reachable from this node: what kube-proxy does, at the cost of the change.
//!
//! ```text
//!   Services, EndpointSlices ──observe──▶ models of what changed ──plan (pure)──▶ Transaction ──apply──▶ kernel
//!                                                                                     ▲
//!         somebody else changed our table ──(notification, slow audit)──▶ everything anew
//! ```
//!
//! - `model/` is what Services should do; `nftables/` how the kernel does it; `flows/` what UDP flows it must forget.
//! - `task.rs` is the loop; `apply.rs` talks to the kernel and owns what it needs from it ([`Kernel`]).
//!
//! Invariants:
//! - We own the table `coracle-proxy` as a whole, and nothing else: other people's rules are never touched.
//! - Nothing is programmed before Services and EndpointSlices were both listed once: an unknown is not an absence.
//! - A transaction is made as a whole or not at all; after a refusal the whole table is written anew.

mod apply;
pub mod flows;
pub mod model;
pub mod nftables;
mod observe;
mod task;

pub use apply::{Kernel, NetfilterKernel, ProxyError, cleanup};
pub use task::{Config, run};
