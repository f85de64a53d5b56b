//! How every component meets the API: one connection, one read cache, and the small protocols on top.
//!
//! ```text
//!   transport ──▶ Client ──▶ cache: reflectors ──▶ Store (read) ──▶ Changes (what to look at again)
//!                   │                                                  │
//!                   ├──▶ Recorder (Events)                             ▼
//!                   ├──▶ LeaseHolder, Elector                       WorkQueue (when to look, how often to retry)
//!                   └──▶ patch: status writes, conflict loops
//! ```
//!
//! Invariants:
//! - A [`Store`] never loses an object because a list failed: its content changes by whole lists and
//!   by watch events only, and it says whether it has ever had content ([`Store::synced`]).
//! - [`Changes`] holds names, not decisions: it says "look again", coalesces, and never overflows.
//! - Nothing here logs a token, a key or the content of a Secret.

mod cache;
mod events;
mod key;
mod kubeconfig;
mod lease;
mod patch;
mod queue;
mod transport;

pub use cache::{Cache, Changes, Index, Kept, Object, Selector, Store, reflect, reflect_metadata};
pub use events::{EventType, Recorder};
pub use key::ObjectKey;
pub use kubeconfig::{Kubeconfig, KubeconfigError};
pub use lease::{Elector, LeaseError, LeaseHolder, LeaseName};
pub use patch::{ErrorKind, kind_of, patch_status, update_on_conflict};
pub use queue::{Claim, WorkQueue};
pub use transport::{ConnectError, Credentials, Endpoint, Pem, Reconnect, Secret, connect, from_service};

/// A handle to an API server; cheap to clone.
pub type Client = kube::Client;
