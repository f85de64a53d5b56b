//! Who owns which task, and how everything stops.
//!
//! ```text
//!   Supervisor ── starts ──▶ component ── owns ──▶ Scope ── spawns ──▶ tasks, threads, child scopes
//!       │                        ▲                    │
//!       │                        └── restarted after ─┘  a panic of any unguarded task of its tree
//!       └── stops components in the reverse of their start order
//! ```
//!
//! Invariants:
//! - Every task belongs to a [`Scope`]; nothing outside this crate calls `tokio::spawn`.
//! - Cancelling a scope cancels its children; closing it waits for all of them, up to a deadline.
//! - A panic in a guarded task harms that task alone; in an unguarded one it restarts the component.
//! - Work that may hang in the kernel runs on [`Workers`]: bounded, and abandoned when its deadline passes.

mod backoff;
mod chain;
mod scope;
mod supervisor;
mod workers;

pub use backoff::Backoff;
pub use chain::Chain;
pub use scope::{Guarded, Panicked, Scope, catch_panic};
pub use supervisor::{BoxError, Failed, OnFailure, Supervisor};
pub use workers::{WorkError, Workers};
