//! Objects that every cluster has: made when the server starts, and put right if somebody broke them.
//!
//! ```text
//!   namespaces, priority classes, roles and bindings, the `kubernetes` Service ─▶ Wanted ─▶ ensure ─▶ store
//!   what a joining machine reads (introduction.rs)                            ─▶
//! ```

mod ensure;
mod introduction;
mod objects;

pub use ensure::{Ensured, Wanted, ensure};
pub use introduction::{Introduction, introduction};
pub use objects::{Endpoint, Place, all, endpoint, namespaces, policy, priority_classes};

#[cfg(test)]
mod tests;
