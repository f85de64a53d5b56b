//! What a store cannot do, and what mends it.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{LeaseId, Revision};

/// Cloneable: one failed commit answers everybody whose write was in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("revision {requested} has been compacted; the oldest that can be read is {compact_revision}")]
    Compacted { requested: Revision, compact_revision: Revision },
    #[error("revision {requested} is in the future; the store is at {current}")]
    FutureRevision { requested: Revision, current: Revision },
    #[error("the key is empty")]
    EmptyKey,
    #[error("key {key:?} is written twice in one transaction")]
    DuplicateKey { key: Bytes },
    #[error("the request of {size_bytes} bytes is larger than the limit of {limit_bytes} bytes")]
    TooLarge { size_bytes: usize, limit_bytes: usize },
    #[error("one transaction would change {changes} keys; the limit is {limit}: delete in smaller ranges")]
    TooManyChanges { changes: usize, limit: usize },
    #[error("lease {0} does not exist; it may have expired")]
    LeaseNotFound(LeaseId),
    #[error("lease {0} exists already")]
    LeaseExists(LeaseId),
    #[error("cannot write {}: {failure}; the store is read-only until a write succeeds", file.display())]
    Write {
        file: PathBuf,
        failure: WriteFailure,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("cannot read {}: {mend}", file.display(), mend = READ_MEND)]
    Read {
        file: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("{} lacks a row of revision {revision} or before: {mend}", file.display(), mend = READ_MEND)]
    Missing { file: PathBuf, revision: Revision },
    #[error("cannot write the snapshot {}", path.display())]
    Snapshot {
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("cannot copy {} to the snapshot {}", file.display(), path.display())]
    SnapshotCopy {
        file: PathBuf,
        path: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("the store is stopped")]
    Stopped,
}

const READ_MEND: &str =
    "check the disk (dmesg, smartctl); if the file is damaged, stop and restore a snapshot in its place";

impl StoreError {
    /// Whether the same request may succeed later without anybody changing it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Read { .. } | Self::Stopped)
    }
}

/// Why the disk refused a write, with what mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFailure {
    /// The file system, or the store's own quota, is full.
    Full {
        quota_bytes: Option<u64>,
    },
    /// The device or file system failed.
    Io,
    /// The file or its file system is read-only, or not ours to write.
    ReadOnly,
    /// The file's content is damaged.
    Corrupt,
    /// Another process holds the file's lock for longer than we wait.
    Busy,
    Unexpected,
}

impl fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { quota_bytes: None } => {
                f.write_str("the disk is full (free space on its file system)")
            }
            Self::Full { quota_bytes: Some(quota) } => write!(
                f,
                "the disk, or the store's quota of {quota} bytes, is full (free space, or raise the quota)"
            ),
            Self::Io => {
                f.write_str("the disk failed (see dmesg; replace the disk or remount its file system)")
            }
            Self::ReadOnly => f.write_str(
                "it is read-only (remount its file system read-write and check the file's owner and mode)",
            ),
            Self::Corrupt => f.write_str("its content is damaged (stop and restore a snapshot in its place)"),
            Self::Busy => {
                f.write_str("another process locks it (close what else has it open, such as sqlite3)")
            }
            Self::Unexpected => f.write_str("SQLite refused"),
        }
    }
}
