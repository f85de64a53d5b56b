//! The store's directory and file: made whole or not at all, opened only when it is certainly ours.
//!
//! Nothing here deletes or repairs a store. What cannot be opened is named, with the reason and the mend, and left.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

/// "Crcl", in SQLite's `application_id`: tells our file from anybody else's.
const APPLICATION_ID: i32 = 0x4372_636c;
/// In SQLite's `user_version`. Raised when an older Coracle could no longer read the file.
const FORMAT: i32 = 1;

const HEADER_BYTES: usize = 100;
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Values come last, so that reading the rest of a row never walks its overflow pages.
const SCHEMA: &str = "
    CREATE TABLE log (
        id      INTEGER PRIMARY KEY, -- revision << 20 | place in the revision
        key     BLOB NOT NULL,
        created INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease   INTEGER NOT NULL,    -- 0: none
        value   BLOB                 -- NULL: deleted
    ) STRICT;
    CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the store's directory {}: check its owner, its mode and its file system", dir.display())]
    Directory {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the store {} is in use by another process ({holder}): stop that one first", file.display())]
    Locked { file: PathBuf, holder: String },
    #[error("cannot create the store {}", file.display())]
    Create {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot set up the store {}", file.display())]
    SetUp {
        file: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error(
        "the file system of the store {} has no write-ahead logging (SQLite says {mode}): use a local one", file.display()
    )]
    NoWal { file: PathBuf, mode: String },
    #[error("cannot read the store {}: check the disk, and the file's owner and mode", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is not a Coracle store ({found}): move it away, or name another directory", file.display()
    )]
    Foreign { file: PathBuf, found: &'static str },
    #[error(
        "the store {} has format {found}, and this Coracle reads up to {supported}: run the newer version that wrote it, or restore a snapshot of before the upgrade",
        file.display()
    )]
    NewerFormat { file: PathBuf, found: i32, supported: i32 },
    #[error(
        "the store {} is damaged ({reason}): restore a snapshot in its place; the file is left as it is",
        file.display()
    )]
    Damaged {
        file: PathBuf,
        reason: String,
        #[source]
        source: Option<rusqlite::Error>,
    },
    #[error("cannot start the store's threads")]
    Thread(#[source] io::Error),
}

/// The directory, ours alone for as long as this lives.
#[derive(Debug)]
pub(super) struct StoreDir {
    dir: PathBuf,
    /// Locked with flock(2) while open. Not the database itself: closing any descriptor of a file drops all of
    /// the process's POSIX locks on it, which are what SQLite uses.
    _lock: File,
}

impl StoreDir {
    /// Makes the directory if need be (0700) and locks it.
    pub(super) fn acquire(dir: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory { dir: dir.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(unusable)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(dir.join("store.lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let holder = match lock.read_to_string(&mut pid) {
                    Ok(_) if !pid.trim().is_empty() => format!("pid {}", pid.trim()),
                    _ => "pid unknown".to_string(),
                };
                return Err(OpenError::Locked { file: dir.join(DATABASE), holder });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        // For the message above only; the lock itself is what counts.
        lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(unusable)?;
        Ok(Self { dir: dir.to_path_buf(), _lock: lock })
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// Opens the database for its one writer, making it first if there is none.
    pub(super) fn open(&self) -> Result<Connection, OpenError> {
        let file = self.database();
        if fs::symlink_metadata(&file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.create(&file)?;
        }
        check_header(&file)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))
            .map_err(|source| OpenError::Unreadable { file: file.clone(), source })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || -> rusqlite::Result<(Connection, String)> {
            let connection = Connection::open_with_flags(&file, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // Until it is known to be sound, closing it must not move the write-ahead log into it.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -2048)?; // KiB
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
            Ok((connection, mode))
        };
        match open().map_err(|source| damaged(&file, source))? {
            (connection, mode) if mode == "wal" => Ok(connection),
            (_, mode) => Err(OpenError::NoWal { file, mode }), // some network and FUSE file systems
        }
    }

    /// Makes an empty store under another name and renames it, so that a half-made one is never taken for a store.
    fn create(&self, file: &Path) -> Result<(), OpenError> {
        let wal = self.dir.join("store.db-wal");
        if wal.exists() {
            let reason = format!("{} is there without it", wal.display());
            return Err(OpenError::Damaged { file: file.to_path_buf(), reason, source: None });
        }
        let unmade = |source| OpenError::Create { file: file.to_path_buf(), source };
        let new = self.dir.join("store.db.new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unmade(error)),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(unmade)?;
        let set_up = || -> rusqlite::Result<()> {
            let connection = Connection::open_with_flags(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.pragma_update(None, "user_version", FORMAT)?;
            connection.execute_batch(SCHEMA)?;
            connection.close().map_err(|(_, error)| error)
        };
        set_up().map_err(|source| OpenError::SetUp { file: file.to_path_buf(), source })?;
        File::open(&new).and_then(|made| made.sync_all()).map_err(unmade)?;
        fs::rename(&new, file).map_err(unmade)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(unmade)
    }
}

const DATABASE: &str = "store.db";
/// For somebody who looks at the file with sqlite3: our own connections never wait for each other.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// The write-ahead log is cut back to this after a burst.
const WAL_KEPT_BYTES: i64 = 8 << 20;

/// The content was read and is sound: closing may tidy up.
pub(super) fn sound(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
}

/// A second connection, for old versions and snapshots.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(connection)
}

/// Looks at the file before SQLite does: SQLite would initialise an empty file, and ignore its write-ahead log.
fn check_header(file: &Path) -> Result<(), OpenError> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    File::open(file)
        .and_then(|open| open.take(HEADER_BYTES as u64).read_to_end(&mut header))
        .map_err(|source| OpenError::Unreadable { file: file.to_path_buf(), source })?;
    let number = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, i32::from_be_bytes)
    };
    let file = file.to_path_buf();
    if header.is_empty() {
        return Err(OpenError::Damaged { file, reason: "it is empty".into(), source: None });
    }
    if !header.starts_with(MAGIC) {
        return Err(OpenError::Foreign { file, found: "not an SQLite file" });
    }
    if header.len() < HEADER_BYTES {
        return Err(OpenError::Damaged { file, reason: "it is cut off in its header".into(), source: None });
    }
    if number(68) != APPLICATION_ID {
        return Err(OpenError::Foreign { file, found: "an SQLite file of another application" });
    }
    match number(60) {
        FORMAT => Ok(()),
        found if found > FORMAT => Err(OpenError::NewerFormat { file, found, supported: FORMAT }),
        found => Err(OpenError::Damaged { file, reason: format!("unknown format {found}"), source: None }),
    }
}

pub(super) fn damaged(file: &Path, source: rusqlite::Error) -> OpenError {
    let reason = match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => "its pages are inconsistent",
        Some(rusqlite::ErrorCode::NotADatabase) => "its header is inconsistent",
        Some(rusqlite::ErrorCode::SystemIoFailure) => "the disk cannot read it",
        _ => "SQLite cannot read it",
    };
    OpenError::Damaged { file: file.to_path_buf(), reason: reason.into(), source: Some(source) }
}
