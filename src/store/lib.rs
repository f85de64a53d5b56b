//! The store: what the API server remembers, with etcd's semantics behind one trait.
//!
//! ```text
//!  apiserver ──txn──▶ writer thread ──one SQLite transaction per batch (fsync)──▶ store.db (log of revisions)
//!      │                   │ after the commit                                        ▲
//!      │                   ▼                                                         │ old values only
//!      ├──range──▶ index in memory (live values) ◀──────────── reader thread ────────┘
//!      └──watch──▶ ring of recent revisions, else the log through the index
//! ```
//!
//! The semantics are those of etcd's v3 API (<https://etcd.io/docs/v3.6/learning/api/>), so that [`embedded`] and an etcd
//! cluster are interchangeable; `contract/` is the suite that holds every engine to them:
//!
//! - An empty store is at revision 1. Each transaction that changes something is exactly one new revision; a
//!   transaction that changes nothing (a failed compare with no writes, a delete of an absent key) is none.
//! - A key has a `create_revision`, a `mod_revision`, and a `version` that starts at 1 and ends with the key.
//! - An absent key compares as version, create and mod revision 0; a value compare with it never holds.
//! - A transaction may not touch one key twice ([`StoreError::DuplicateKey`]).
//! - A range reads at one revision, the current one or an older one down to the compact revision.
//! - A watch yields one [`WatchBatch`] per revision that touched its range, in order, each once, from the past into the
//!   future, with previous values. A batch without events is progress: everything up to its revision has been seen.
//! - Compaction at revision R forgets what R and later reads do not need; older reads and watches get
//!   [`StoreError::Compacted`].
//! - A lease that ends deletes its keys, as one revision. Leases survive a restart with their whole time to live.
//!
//! Invariants of every engine:
//! - An answered write is durable. A write answered with an error is not in memory either.
//! - A revision that was read or watched never goes away again.
//! - A slow watcher costs nobody else anything: it reads history later, or ends with `Compacted`.

mod compactor;
pub mod embedded;
mod error;
mod kv;
mod request;
mod watch;

#[cfg(test)]
mod contract;

use std::{path::Path, time::Duration};

use futures_util::future::BoxFuture;

pub use compactor::{Compactor, KEPT};
pub use embedded::EmbeddedStore;
pub use error::{StoreError, WriteFailure};
pub use kv::{KeyRange, KeyValue, LeaseId, Revision};
pub use request::{
    Compare, Content, Op, OpResponse, Operator, Put, RangeRequest, RangeResponse, Target, Txn, TxnResponse,
};
pub use watch::{Event, Progress, Watch, WatchBatch};

/// The answer to a call of the store.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// One store, whichever engine is behind it. Shared as `Arc<dyn Store>`.
pub trait Store: Send + Sync {
    /// The revision of the last durable write. A range, or a watcher's progress, that is at least here includes it.
    fn current_revision(&self) -> Answer<'_, Revision>;

    /// Reads keys in byte order.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::FutureRevision`] for a revision that cannot be read.
    fn range(&self, request: RangeRequest) -> Answer<'_, RangeResponse>;

    /// Compares, then does one of two lists of operations, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Write`] when the disk refuses: the transaction did not happen, reads go on.
    fn txn(&self, txn: Txn) -> Answer<'_, TxnResponse>;

    /// Watches a range from a revision on, that one included; `None` is from the next revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that history is gone, here or later as the watch's last item.
    fn watch(&self, range: KeyRange, from: Option<Revision>) -> Answer<'_, Watch>;

    /// Forgets history older than `revision`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that was done already, [`StoreError::FutureRevision`] beyond the current one.
    fn compact(&self, revision: Revision) -> Answer<'_, ()>;

    /// Makes a lease; the store chooses the id when none is given.
    fn grant(&self, id: Option<LeaseId>, ttl: Duration) -> Answer<'_, LeaseId>;

    /// Ends a lease now, deleting its keys.
    fn revoke(&self, id: LeaseId) -> Answer<'_, ()>;

    /// Starts the lease's time anew; answers its time to live.
    fn keep_alive(&self, id: LeaseId) -> Answer<'_, Duration>;

    /// Writes a consistent copy of the whole store to a new file while the store goes on; answers its revision.
    ///
    /// # Errors
    /// When the file exists already or cannot be written; what was half written is removed.
    fn snapshot_to<'a>(&'a self, path: &'a Path) -> Answer<'a, Revision>;
}
