//! CNI runtime, the built-in pod network, node routes.
//!
//! ```text
//!   runtime ──▶ coracle-cni (thin client) ──socket──▶ agent ──▶ provider ─┬─▶ built-in network ──▶ netlink
//!                    │                                                     └─▶ chain of plugins ──▶ processes
//!                    └── agent down: DEL by the same provider, in its own process
//! ```
//!
//! - [`cni`] is the spec: messages, versions, an engine for plugin chains.
//! - [`builtin`] is the network made in this process.
//! - `provider.rs` is one of the two, as it is kept on disk for plugin processes.
//! - [`plugin`] is what the runtime starts; `server.rs` is what it talks to, in the words of `protocol.rs`.
//! - `task.rs` waits for the node's addresses, then offers the network to the runtime (`offer.rs`), and again when others write there (`folder.rs`).
//! - `routes/` leads to the pods of other nodes; `host.rs` changes sysctls and remembers what they were.
//! - `turns.rs` lets the commands of one attachment follow each other; `files.rs` writes files whole; `config.rs` is what all are told.
//! - [`reset`] takes all of it away again.
//!
//! Invariants:
//! - One writer of addresses: the agent. A plugin process only ever frees.
//! - The runtime sees no network before ADD can succeed.
//! - What is changed on the host is written down first, with what it was.

pub mod builtin;
pub mod cni;
mod config;
mod files;
mod folder;
mod host;
mod offer;
pub mod plugin;
mod protocol;
mod provider;
mod reset;
mod routes;
mod server;
mod task;
mod turns;

pub use config::{Config, ProviderConfig, Tunnel};
pub use reset::{Report, reset};
pub use routes::{StepError, TUNNEL_LINKS};
pub use task::{NetworkError, Nodes, run};
