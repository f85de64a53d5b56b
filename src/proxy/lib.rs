//! Makes Services reachable from this node: what kube-proxy does, at the cost of the change.
//!
//! ```text
//!   Services, EndpointSlices ──observe──▶ models of what changed ──▶ Rules (a mode) ──plan (pure)──▶ apply ──▶ kernel
//!                                                                      ▲
//!         somebody else changed our rules ──(notification, slow audit)──▶ everything anew
//! ```
//!
//! - `model/` is what Services should do; `claims.rs` which of two Services has an address that both want.
//! - `nftables/`, `iptables/` and `ipvs/` are how the kernel does it, each with a pure `plan.rs` and an `apply.rs` that
//!   is its [`Rules`]; `flows/` what UDP flows it must forget; `health/` what load balancers are told.
//! - `task.rs` is the loop, which knows no mode; `apply.rs` what it needs of one; `cleanup.rs` what is left of another.
//!
//! Invariants:
//! - We own the table `coracle-proxy` as a whole, chains by the names that kube-proxy gives its own, and in the mode ipvs
//!   the link `kube-ipvs0` with the virtual servers of its addresses and of node ports: nobody else's rules are touched.
//! - Nothing is programmed before Services and EndpointSlices were both listed once: an unknown is not an absence.
//! - A transaction is made as a whole or not at all; after a refusal all is written anew.
//! - What another mode left goes only after this one serves.

mod apply;
mod claims;
mod cleanup;
pub mod flows;
pub mod health;
pub mod iptables;
pub mod ipvs;
pub mod model;
pub mod nftables;
mod observe;
mod task;

pub use apply::{Config, Heard, Key, Mode, ProxyError, Rules, WriteError, Written};
pub use claims::Shadowed;
pub use cleanup::{after_switch_to, cleanup};
pub use health::Health;
pub use task::run;
