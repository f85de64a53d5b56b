//! The reader thread: old versions from the log, and snapshots, on a connection of its own.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, OpenFlags, backup::Backup, backup::StepResult};
use tokio::sync::{mpsc, oneshot};

use super::{
    index::{Row, RowId},
    log,
};
use crate::{Revision, StoreError};

#[derive(Debug)]
pub(super) enum Job {
    /// Answers in the order of `ids`; `None` for a row that is gone.
    Rows {
        ids: Vec<RowId>,
        reply: oneshot::Sender<Result<Vec<Option<Row>>, StoreError>>,
    },
    Snapshot {
        path: PathBuf,
        reply: oneshot::Sender<Result<Revision, StoreError>>,
    },
    /// Finish what is queued, close the file.
    Stop,
}

/// Runs until `Stop`.
pub(super) fn run(connection: &Connection, file: &Path, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.blocking_recv() {
        // Whoever asked may have stopped waiting: then nobody wants the answer.
        match job {
            Job::Rows { ids, reply } => drop(reply.send(rows(connection, file, &ids))),
            Job::Snapshot { path, reply } => drop(reply.send(snapshot(connection, file, &path))),
            Job::Stop => jobs.close(),
        }
    }
}

fn rows(connection: &Connection, file: &Path, ids: &[RowId]) -> Result<Vec<Option<Row>>, StoreError> {
    let read = || -> rusqlite::Result<_> {
        let tx = connection.unchecked_transaction()?; // one read transaction: one moment of the file
        let rows = ids.iter().map(|id| log::read_row(&tx, *id)).collect::<rusqlite::Result<Vec<_>>>()?;
        tx.finish()?;
        Ok(rows)
    };
    read().map_err(|source| StoreError::Read { file: file.to_path_buf(), source: Arc::new(source) })
}

fn snapshot(connection: &Connection, file: &Path, path: &Path) -> Result<Revision, StoreError> {
    let failed = |source| StoreError::Snapshot { path: path.to_path_buf(), source: Arc::new(source) };
    if path.exists() {
        return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
    let copied = copy(connection, &partial)
        .map_err(|source| StoreError::SnapshotCopy {
            file: file.to_path_buf(),
            path: path.to_path_buf(),
            source: Arc::new(source),
        })
        .and_then(|revision| {
            File::open(&partial).and_then(|copy| copy.sync_all()).map_err(failed)?;
            fs::rename(&partial, path).map_err(failed)?;
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
            Ok(revision)
        });
    if copied.is_err() {
        drop(fs::remove_file(&partial)); // ours; the error that counts is the first
    }
    copied
}

fn copy(connection: &Connection, to: &Path) -> rusqlite::Result<Revision> {
    let mut target = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    {
        let backup = Backup::new(connection, &mut target)?;
        // All pages in one step: one read transaction, which does not hold up the writer.
        while !matches!(backup.step(-1)?, StepResult::Done) {
            std::thread::yield_now();
        }
    }
    // The copy is a single file, without a write-ahead log beside it.
    target.pragma_update(None, "journal_mode", "DELETE")?;
    let revision = log::last_revision(&target)?.unwrap_or(Revision::FIRST);
    target.close().map_err(|(_, error)| error)?;
    Ok(revision)
}
