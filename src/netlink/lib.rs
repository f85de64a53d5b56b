//! What proxy and network need from the kernel, over netlink: no process is started.
//!
//! - [`nft`]: nf_tables transactions as values, rendered as text (for people and tests) or as messages (for the kernel).
//! - [`route`]: links, addresses, routes, neighbours and queueing of one network namespace, on a blocking socket.
//! - [`conntrack`]: the kernel's connections, listed and forgotten.
//! - [`ipvs`]: virtual servers and the real ones behind them, listed and changed.
//! - [`namespace`]: network namespaces as files, entered on a thread of their own.

pub mod conntrack;
mod generic;
pub mod ipvs;
pub mod namespace;
pub mod nft;
mod request;
pub mod route;
mod wire;

pub use request::RequestError;
