//! The embedded engine: one SQLite file, one writer thread, reads from memory.
//!
//! | file | holds |
//! | --- | --- |
//! | `file.rs` | the directory, its lock, creating and opening the database, and every reason not to |
//! | `log.rs` | the SQL |
//! | `index.rs` | the keys in memory (pure) |
//! | `leases.rs` | which lease holds what until when (pure) |
//! | `stage.rs` | what a batch of requests does to index and leases (pure) |
//! | `ring.rs` | the last revisions, for watchers (pure) |
//! | `shared.rs` | index, ring and watchers behind one lock |
//! | `writer.rs`, `reader.rs` | the two threads |
//! | `watcher.rs` | one watch |
//! | `clock.rs` | the task that wakes the writer for leases, and stops it |
//!
//! A write is staged over the index, written and synced, and only then put into the index, the ring and the answers.
//! So memory never holds what the disk refused, and a refusal changes nothing: the next write just tries again.

mod clock;
mod file;
mod index;
mod leases;
mod log;
mod reader;
mod ring;
mod shared;
mod stage;
mod watcher;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use lifecycle::Scope;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

pub use file::OpenError;
pub use index::Size;

use self::{
    file::StoreDir,
    index::Located,
    leases::Leases,
    reader::Job,
    shared::{Shared, State},
    writer::{Command, Health, Reply, Writer},
};
use crate::{
    Answer, Content, KeyRange, LeaseId, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn,
    TxnResponse, Watch,
};

/// What an embedded store is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's own directory: `store.db` and its companions. Made if need be, with mode 0700.
    pub dir: PathBuf,
    /// The file may not grow beyond this (etcd's `--quota-backend-bytes`); no limit without.
    pub quota_bytes: Option<u64>,
    /// A larger transaction is refused (etcd's `--max-request-bytes`).
    pub max_request_bytes: usize,
    /// How much recent history is kept in memory for watchers.
    pub ring_bytes: usize,
}

impl Options {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            quota_bytes: None,
            max_request_bytes: 3 * 512 * 1024, // etcd's default: 1.5 MiB
            ring_bytes: 4 << 20,
        }
    }
}

/// A store in a file of this machine. Cheap to clone; its threads end with the scope that it was opened in.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    max_request_bytes: usize,
}

/// How many requests may wait for the writer; more wait to be queued.
const QUEUE: usize = 256;

impl EmbeddedStore {
    /// Opens the store, or makes an empty one. Blocks while it reads the file (some 100 MB a second). Needs a tokio
    /// runtime: the lease clock is a task of `scope`.
    ///
    /// # Errors
    /// See [`OpenError`]: each names the file, the reason and the mend. Nothing is deleted or repaired.
    pub fn open(options: &Options, scope: &Scope) -> Result<Self, OpenError> {
        let started = Instant::now();
        let dir = StoreDir::acquire(&options.dir)?;
        let file = dir.database();
        let connection = dir.open()?;
        let loaded = log::load(&connection, &file)?;
        let set_up = |source| OpenError::SetUp { file: file.clone(), source };
        if let Some(quota_bytes) = options.quota_bytes {
            log::set_quota(&connection, quota_bytes).map_err(set_up)?;
        }
        file::sound(&connection).map_err(set_up)?;
        let history = file::open_reader(&file).map_err(set_up)?;

        let mut leases = Leases::default();
        for (id, ttl) in loaded.leases {
            leases.grant(id, ttl, Instant::now()); // its whole time again, as etcd does: nobody could renew it
        }
        for kv in loaded.index.range(&KeyRange::all()).filter(|kv| kv.lease.is_some()) {
            leases.follow(&crate::Event::Put { kv, prev: None });
        }
        let (deadline, deadlines) = watch::channel(leases.next_deadline());
        let (commands, queue) = mpsc::channel(QUEUE);
        let (jobs, job_queue) = mpsc::channel(QUEUE);
        let (ended, reader_ended) = oneshot::channel();
        info!(
            file = %file.display(),
            revision = loaded.index.current().0,
            keys = loaded.index.size().live_keys,
            elapsed_ms = started.elapsed().as_millis(),
            "store opened"
        );
        let shared = Arc::new(Shared {
            state: RwLock::new(State::new(loaded.index, options.ring_bytes)),
            stopped: scope.token(),
            reader: jobs,
            file: file.clone(),
            refusing: AtomicBool::new(false),
        });
        let writer = Writer {
            connection,
            shared: Arc::clone(&shared),
            leases,
            last_lease: loaded.last_lease,
            garbage: loaded.garbage.into(),
            deadline,
            quota_bytes: options.quota_bytes,
            health: Health::Writing,
            slack: false,
            stalled: false,
            reader_ended: Some(reader_ended),
            _dir: dir,
        };
        scope.spawn_thread("store-writer", move |_| writer.run(queue)).map_err(OpenError::Thread)?;
        let reader = move |_| {
            let _ended = ended; // drops last: locals go in reverse
            let history = history;
            reader::run(&history, &file, job_queue);
        };
        scope.spawn_thread("store-reader", reader).map_err(OpenError::Thread)?;
        scope.spawn("store-clock", clock::run(commands.downgrade(), deadlines, scope.token()));
        Ok(Self { commands, shared, max_request_bytes: options.max_request_bytes })
    }

    /// What memory holds now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.shared.state.read();
        Stats {
            size: state.index.size(),
            revision: state.index.current(),
            compacted: state.index.compacted(),
            watchers: state.watchers(),
            writable: !self.shared.refusing.load(Ordering::Relaxed),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command + Send) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    fn range_now(&self, request: &RangeRequest) -> RangeResponse {
        let state = self.shared.state.read();
        let (index, revision) = (&state.index, state.index.current());
        if request.content == Content::CountOnly {
            return RangeResponse {
                revision,
                kvs: Vec::new(),
                more: false,
                count: index.count(&request.range),
            };
        }
        let Some(limit) = request.limit else {
            return stage::answer(request, revision, index.range(&request.range).collect());
        };
        let kvs = index.range(&request.range).take(limit).collect();
        let count = index.count(&request.range); // without touching the values beyond the limit
        RangeResponse { more: count > limit, count, ..stage::answer(request, revision, kvs) }
    }

    async fn range_at(&self, request: &RangeRequest, at: Revision) -> Result<RangeResponse, StoreError> {
        let (located, count, revision) = {
            let state = self.shared.state.read();
            let (index, current) = (&state.index, state.index.current());
            readable(at, current, index.compacted())?;
            let mut located: Vec<Located> = index.range_at(&request.range, at).collect();
            let count = located.len();
            let wanted = if request.content == Content::CountOnly { Some(0) } else { request.limit };
            located.truncate(wanted.unwrap_or(usize::MAX));
            (located, count, current)
        };
        let wanted = located.len();
        let kvs: Vec<_> = self.shared.fetch(located.iter().collect()).await?.into_iter().flatten().collect();
        if kvs.len() < wanted {
            let state = self.shared.state.read();
            readable(at, state.index.current(), state.index.compacted())?; // compacted meanwhile
            return Err(self.shared.missing(at));
        }
        let more = request.content != Content::CountOnly && count > wanted;
        Ok(RangeResponse { more, count, ..stage::answer(request, revision, kvs) })
    }
}

/// What an embedded store holds in memory, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub size: Size,
    pub revision: Revision,
    pub compacted: Revision,
    pub watchers: usize,
    /// The disk took the last write.
    pub writable: bool,
}

fn readable(requested: Revision, current: Revision, compact_revision: Revision) -> Result<(), StoreError> {
    if requested > current {
        return Err(StoreError::FutureRevision { requested, current });
    }
    if requested < compact_revision {
        return Err(StoreError::Compacted { requested, compact_revision });
    }
    Ok(())
}

impl Store for EmbeddedStore {
    fn current_revision(&self) -> Answer<'_, Revision> {
        async { Ok(self.shared.state.read().index.current()) }.boxed()
    }

    fn range(&self, request: RangeRequest) -> Answer<'_, RangeResponse> {
        async move {
            match request.revision {
                None => Ok(self.range_now(&request)),
                Some(at) => self.range_at(&request, at).await,
            }
        }
        .boxed()
    }

    fn txn(&self, txn: Txn) -> Answer<'_, TxnResponse> {
        async move {
            txn.check()?;
            let (size_bytes, limit_bytes) = (txn.size_bytes(), self.max_request_bytes);
            if size_bytes > limit_bytes {
                return Err(StoreError::TooLarge { size_bytes, limit_bytes });
            }
            self.ask(|reply| Command::Txn(txn, reply)).await
        }
        .boxed()
    }

    fn watch(&self, range: KeyRange, from: Option<Revision>) -> Answer<'_, Watch> {
        async move { watcher::open(&self.shared, range, from) }.boxed()
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        self.ask(move |reply| Command::Compact(revision, reply)).boxed()
    }

    fn grant(&self, id: Option<LeaseId>, ttl: Duration) -> Answer<'_, LeaseId> {
        self.ask(move |reply| Command::Grant(id, ttl, reply)).boxed()
    }

    fn revoke(&self, id: LeaseId) -> Answer<'_, ()> {
        self.ask(move |reply| Command::Revoke(id, reply)).boxed()
    }

    fn keep_alive(&self, id: LeaseId) -> Answer<'_, Duration> {
        self.ask(move |reply| Command::KeepAlive(id, reply)).boxed()
    }

    fn snapshot_to<'a>(&'a self, path: &'a Path) -> Answer<'a, Revision> {
        async move {
            let (reply, answer) = oneshot::channel();
            let job = Job::Snapshot { path: path.to_path_buf(), reply };
            self.shared.reader.send(job).await.map_err(|_| StoreError::Stopped)?;
            answer.await.map_err(|_| StoreError::Stopped)?
        }
        .boxed()
    }
}
