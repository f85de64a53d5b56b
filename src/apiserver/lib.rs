//! The Kubernetes API: one path for all resources.
//!
//! ```text
//!   request ─▶ request.rs ─▶ authn/ ─▶ authz/ ─▶ handlers/ ─▶ admission/ ─▶ registry/strategy ─▶ store
//!                                                   │                                             │ watch
//!                                                   └── reads ◀── cache/ (bytes encoded once) ◀───┘
//! ```
//!
//! - `chain.rs` shows the whole path in one screen; `serve.rs` is the socket.
//! - `registry/` says what resources there are; nothing else knows kinds by name.
//! - Objects are JSON values on the way in, and bytes on the way out.

pub mod actions;
pub mod admission;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod cache;
mod chain;
pub mod connect;
pub mod discovery;
pub mod encode;
pub mod handlers;
mod health;
mod impersonate;
mod limits;
mod metrics;
pub mod openapi;
pub mod registry;
pub mod request;
pub mod reviews;
mod serve;
mod server;
pub mod status;
pub mod transaction;
pub mod user;

pub use cache::{Cache, CacheError};
pub use server::{Components, Config, InMemory, Pages, Server, Version};
