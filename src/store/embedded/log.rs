//! The log of revisions in SQLite: every statement that the store runs.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::{
    file::{OpenError, damaged},
    index::{Index, Row, RowId},
    stage::Staged,
};
use crate::{LeaseId, Revision, StoreError, WriteFailure};

const COMPACTED: &str = "compacted";
const LAST_LEASE: &str = "last_lease";

/// What a store's file says when it is opened.
pub(super) struct Loaded {
    pub(super) index: Index,
    pub(super) leases: Vec<(LeaseId, Duration)>,
    pub(super) last_lease: LeaseId,
    /// Rows that compaction has not got to deleting before the last stop.
    pub(super) garbage: Vec<RowId>,
}

/// Reads everything once. This also walks every page of the log, and so finds a damaged file now rather than later.
pub(super) fn load(connection: &Connection, file: &Path) -> Result<Loaded, OpenError> {
    read_all(connection).map_err(|source| damaged(file, source)).and_then(|loaded| {
        let reason = "it holds a revision before the first";
        if loaded.index.current() < Revision::FIRST {
            return Err(OpenError::Damaged { file: file.to_path_buf(), reason: reason.into(), source: None });
        }
        Ok(loaded)
    })
}

fn read_all(connection: &Connection) -> rusqlite::Result<Loaded> {
    let compacted = Revision(meta(connection, COMPACTED)?);
    let mut index = Index::new(compacted);
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM log ORDER BY id"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        index.apply(decode(row)?);
    }
    let garbage = if compacted > Revision::ZERO { index.compact(compacted) } else { Vec::new() };
    let mut statement = connection.prepare("SELECT id, ttl_ms FROM lease")?;
    let leases = statement
        .query_map([], |row| {
            let ttl_ms: i64 = row.get(1)?;
            Ok((LeaseId(row.get(0)?), Duration::from_millis(ttl_ms.unsigned_abs())))
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Loaded { index, leases, last_lease: LeaseId(meta(connection, LAST_LEASE)?), garbage })
}

const COLUMNS: &str = "id, key, created, version, lease, value";

fn decode(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let lease: i64 = row.get(4)?;
    Ok(Row {
        id: RowId(row.get(0)?),
        key: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
        create_revision: Revision(row.get(2)?),
        version: row.get(3)?,
        lease: (lease != 0).then_some(LeaseId(lease)),
        value: row.get_ref(5)?.as_blob_or_null()?.map(Bytes::copy_from_slice),
    })
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn set_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
    connection.prepare_cached(sql)?.execute(params![name, value]).map(drop)
}

/// The row of one version; `None` when compaction has deleted it.
pub(super) fn read_row(connection: &Connection, id: RowId) -> rusqlite::Result<Option<Row>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM log WHERE id = ?1"))?;
    statement.query_row([id.0], decode).optional()
}

/// The last revision that the file holds.
pub(super) fn last_revision(connection: &Connection) -> rusqlite::Result<Option<Revision>> {
    let mut statement = connection.prepare_cached("SELECT max(id) FROM log")?;
    statement.query_row([], |row| row.get::<_, Option<i64>>(0)).map(|id| id.map(|id| RowId(id).revision()))
}

/// Makes a batch durable: when this answers `Ok`, it is on the disk.
pub(super) fn commit(connection: &mut Connection, staged: &Staged) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut insert =
            tx.prepare_cached(&format!("INSERT INTO log ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"))?;
        for row in &staged.rows {
            let lease = row.lease.map_or(0, |lease| lease.0);
            let value = row.value.as_deref();
            insert.execute(params![
                row.id.0,
                &row.key[..],
                row.create_revision.0,
                row.version,
                lease,
                value
            ])?;
        }
    }
    for id in &staged.revoked {
        tx.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([id.0])?;
    }
    for (id, ttl) in &staged.granted {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        tx.prepare_cached("INSERT OR REPLACE INTO lease (id, ttl_ms) VALUES (?1, ?2)")?
            .execute([id.0, ttl_ms])?;
    }
    if let Some(last) = staged.last_lease {
        set_meta(&tx, LAST_LEASE, last.0)?;
    }
    tx.commit()
}

/// Promises durably that nobody will read before `revision` any more. The rows go afterwards, bit by bit.
pub(super) fn mark_compacted(connection: &Connection, revision: Revision) -> rusqlite::Result<()> {
    set_meta(connection, COMPACTED, revision.0)
}

/// Deletes rows and gives a part of the free pages back to the file system. Answers whether there are more to give.
pub(super) fn delete(connection: &mut Connection, ids: &[RowId]) -> rusqlite::Result<bool> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut delete = tx.prepare_cached("DELETE FROM log WHERE id = ?1")?;
        for id in ids {
            delete.execute([id.0])?;
        }
    }
    // Free pages up to a quarter of the file are kept: the next writes need them again.
    let pages: i64 = tx.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let free: i64 = tx.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let slack = free > pages / 4 && pages > SMALL_PAGES;
    if slack {
        let mut vacuum = tx.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
    }
    tx.commit()?;
    Ok(slack)
}

/// Not worth shrinking: 1 MB.
const SMALL_PAGES: i64 = 256;
const VACUUM_PAGES: u32 = 512;

/// Limits the file's size; the database refuses to grow beyond.
pub(super) fn set_quota(connection: &Connection, quota_bytes: u64) -> rusqlite::Result<()> {
    let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = i64::try_from(quota_bytes).unwrap_or(i64::MAX) / page_bytes.max(1);
    let sql = format!("PRAGMA max_page_count = {}", pages.max(1));
    connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(drop)
}

pub(super) fn write_error(file: &Path, quota_bytes: Option<u64>, source: rusqlite::Error) -> StoreError {
    let failure = match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => WriteFailure::Full { quota_bytes },
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => WriteFailure::Io,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => WriteFailure::ReadOnly,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => WriteFailure::Corrupt,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => WriteFailure::Busy,
        _ => WriteFailure::Unexpected,
    };
    StoreError::Write { file: file.to_path_buf(), failure, source: Arc::new(source) }
}
