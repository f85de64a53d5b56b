//! Who is who in a cluster: the certificate authority, the certificates it issues, signing requests, and
//! service-account tokens.
//!
//! ```text
//!   <state>/pki ──▶ Directory ──▶ Authority ──issue(Profile)──▶ Issued (certificate + key)
//!                      │              └──────sign(Request)────▶ certificate     (CSR signers)
//!                      └────────▶ TokenKeys ──sign / verify──▶ JSON Web Tokens  (service accounts)
//! ```
//!
//! - `plan.rs` decides whether a stored certificate is kept or issued again. No I/O, no clock.
//! - `directory.rs` reads and writes the files, and is the only place that does.
//! - `csr.rs`, `bootstrap.rs` and `token.rs` read bytes that strangers send.
//!
//! Invariants:
//! - A private key is written with mode 0600 from its first byte, and never shown by `Debug` or an error.
//! - A file is complete or absent: it is written beside its place, synced, and renamed.
//! - A certificate never outlives the authority that signed it.

mod authority;
mod bootstrap;
mod certificate;
pub mod claims;
mod csr;
mod der;
mod directory;
mod key;
pub mod kubeconfig;
mod plan;
mod profile;
pub mod tls;
mod token;
mod usages;

pub use authority::{Authority, IssueError, Issued, PairError, SigningPolicy};
pub use bootstrap::{BootstrapError, BootstrapToken, KeyHash};
pub use certificate::{Certificate, CertificateError};
pub use csr::{Kind, Refusal, Request, RequestError, life, recognize, signers};
pub use directory::{Directory, DirectoryError, write_atomically};
pub use key::{Key, KeyError};
pub use plan::{Decision, Reason, renewal_time, rotation_time};
pub use profile::{Names, Profile};
pub use token::{TokenError, TokenKeys, unverified_issuer};
pub use usages::{UnknownUsage, Usages};
