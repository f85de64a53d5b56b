//! Writes: one object, and what it claims of shared pools, in one transaction of the store.
//!
//! ```text
//!   change(old) ─▶ new ─▶ claims(new) − claims(old) ─▶ choose values ─▶ txn { compare all, put all } ─▶ cache
//!        ▲                                                   ▲                 │ somebody was first
//!        └──────────── the object changed ───────────────────┴── a value ◀─────┘
//! ```
//!
//! Invariants:
//! - A claimed value is held by at most one object: its key exists exactly while the object that holds it does.
//! - An answered write is in the watch cache: whoever reads afterwards sees it.

mod pools;
mod write;

pub use pools::{Pools, PoolsConfig};
pub use write::{Change, Outcome, Stored, Writer};
