//! nf_tables: one [`Transaction`] changes one table, all of it or nothing.
//!
//! ```text
//!   Transaction ──render (pure)──▶ text for `nft -f`, golden files, people
//!        │
//!        └──encode (pure)──▶ messages ──Socket::commit──▶ kernel ──▶ Ok, or which change was refused and why
//!
//!   kernel ──Monitor──▶ "somebody else changed your table"
//! ```
//!
//! The vocabulary ([`Statement`], [`Key`]) is what rules for Services and pods need, in nft's own terms;
//! each has one text and one encoding, and a test loads the text and the messages and compares what the kernel lists.
//!
//! Sources: the kernel's `include/uapi/linux/netfilter/nf_tables.h`, nft(8).

mod encode;
mod model;
mod render;
mod socket;

pub use model::{
    Chain, Change, Data, DataType, Element, Family, Hook, HookKind, HookPoint, Key, Proto, Reject, Rule, Set,
    SetKind, Statement, TableName, Transaction, Value, Verdict, ct_state,
};
pub use socket::{CommitError, Monitor, Socket, TableState};
