//! The Container Network Interface, spec 1.1: what a runtime says to a plugin, and an engine that runs a
//! chain of plugins.
//!
//! ```text
//!   conflist ──list (pure)──▶ NetworkList ─┐
//!   runtime's request ──▶ Attachment ──────┼──merge (pure)──▶ stdin ──Exec──▶ plugin ──▶ result
//!   results on disk ──▶ prevResult ────────┘                                   │
//!                              ▲───────────────convert (pure)◀─────────────────┘
//! ```
//!
//! - `list.rs` reads configuration lists; every mistake names the file.
//! - `merge.rs` makes what a plugin reads on stdin.
//! - `convert.rs` turns results from and to the versions of the spec.
//! - `exec.rs` starts plugins; `cache.rs` keeps results; `chain/` puts them in the spec's order.
//!
//! Source: <https://github.com/containernetworking/cni/blob/main/SPEC.md>.

mod cache;
mod chain;
mod convert;
mod error;
mod exec;
mod list;
mod merge;
mod model;
mod version;

pub use cache::{Cache, CacheError};
pub use chain::Chain;
pub use convert::{from_json, to_json};
pub use error::{CniError, Code};
pub use exec::{Exec, Invocation, Processes};
pub use list::{ListError, NetworkList, Plugin};
pub use merge::{gc_config, plugin_config};
pub use model::{Attachment, AttachmentId, Command, Dns, Interface, Ip, NetworkResult, Route};
pub use version::Version;
