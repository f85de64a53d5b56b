//! How a machine becomes a node of a cluster, ours or upstream's, and stays one.
//!
//! ```text
//!   token, CA hash ──discover──▶ cluster-info ──trust.rs (pure)──▶ the authority ──TLS──▶ Discovered
//!                                                                                            │ enroll
//!   <state>/node.kubeconfig ◀──files.rs── certificate ◀──request.rs── signing request ◀──────┘
//!             │
//!             └──▶ rotation.rs: a new certificate between 70 and 90 % of its life, without dropping a watch
//! ```
//!
//! - `address.rs` reads where the server is; `facts.rs` what the cluster says of its address ranges and DNS.
//! - `cluster_info.rs` reads what the cluster says to strangers.
//! - `trust.rs` holds every reason not to go on, with its mend.
//! - `bootstrap.rs` is upstream's way, from one kubeconfig to another: for a node agent that is called as `kubelet`.
//! - [`tokens`] is the other end: what the person at the control plane types.
//! - `pending.rs` keeps the key of a request until it has its certificate.
//! - `access.rs` asks whether the node may read what its parts need, and says in plain words what is missing.
//!
//! Invariants:
//! - Nothing that an unknown server says is believed before the token has signed it and the authority's key is the one
//!   that was meant.
//! - A machine has joined or it has not: the kubeconfig makes a member. It is written last and taken away first, and what
//!   was there before a failure is there after it.
//! - At most one signing request for the same waits for its approval at a time, also across restarts: its key is kept, and
//!   the same key asks by the same name.

mod access;
mod address;
mod bootstrap;
mod cluster_info;
mod discovery;
mod enroll;
mod facts;
#[cfg(test)]
mod fake;
mod files;
mod pending;
mod request;
mod rotation;
pub mod tokens;
mod trust;

pub use access::{Lacking, watch_access};
pub use address::{AddressError, ServerAddress};
pub use bootstrap::{Bootstrap, BootstrapError, Outcome, bootstrap};
pub use discovery::{DiscoverError, Discovered, discover};
pub use enroll::{EnrollError, enroll};
pub use facts::ClusterFacts;
pub use files::{FilesError, Member, Paths, adopt, keep_address, kept_address};
pub use pending::Pending;
pub use request::{Ask, RequestError, obtain};
pub use rotation::{ClientRotation, Expired, Recovery, ServingRotation, rotate_client, rotate_serving};
pub use trust::{Clock, Distrust, is_alive};
