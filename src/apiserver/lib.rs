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

pub mod admission;
pub mod authn;
pub mod authz;
pub mod body;
pub mod connect;
pub mod discovery;
pub mod openapi;
pub mod registry;
pub mod request;
pub mod status;
pub mod user;
