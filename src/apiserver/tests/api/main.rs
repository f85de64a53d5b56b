//! The API's semantics, over HTTP, against a server over an embedded store.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod daemon_sets;
mod debugging;
mod evictions;
mod host;
mod lists;
mod nodes;
mod replication_controllers;
mod rows;
mod sockets;
mod upstream_kinds;
mod watches;
mod writes;
