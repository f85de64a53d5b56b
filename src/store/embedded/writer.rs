//! The writer thread: drains the queue into one durable transaction, then answers, then takes what came meanwhile.
//!
//! Group commit: while one batch waits for the disk the next one collects, so the more clients, the more writes
//! for each fsync, without a delay for a single one.

use std::{
    collections::VecDeque,
    error::Error,
    mem,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::{
    file::StoreDir,
    index::RowId,
    leases::Leases,
    log,
    reader::Job,
    shared::Shared,
    stage::{Stage, Staged},
};
use crate::{LeaseId, Revision, StoreError, Txn, TxnResponse};

/// How many commands share one transaction at most.
const BATCH: usize = 256;
/// How many old rows go in one transaction, between two batches.
const SWEEP: usize = 512;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

#[derive(Debug)]
pub(super) enum Command {
    Txn(Txn, Reply<TxnResponse>),
    Grant(Option<LeaseId>, Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<Duration>),
    Revoke(LeaseId, Reply<()>),
    /// Ends the leases whose time is up.
    Expire(Reply<()>),
    Compact(Revision, Reply<()>),
    /// Finish what is queued, close the file.
    Stop,
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) leases: Leases,
    pub(super) last_lease: LeaseId,
    /// Rows that nobody can read any more.
    pub(super) garbage: VecDeque<RowId>,
    /// The file has many free pages to give back.
    pub(super) slack: bool,
    /// The disk refused to delete garbage: not before the next batch again.
    pub(super) stalled: bool,
    pub(super) deadline: watch::Sender<Option<Instant>>,
    pub(super) quota_bytes: Option<u64>,
    pub(super) health: Health,
    /// Resolves when the reader thread has closed its connection.
    pub(super) reader_ended: Option<oneshot::Receiver<()>>,
    /// Unlocks when the connection is closed: fields drop in order.
    pub(super) _dir: StoreDir,
}

/// Ends the reader thread before the writer's connection closes, also in a panic: the last connection to close is the
/// one that brings the write-ahead log into the database, and the reader's cannot write.
struct ReaderFirst {
    shared: Arc<Shared>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Drop for ReaderFirst {
    fn drop(&mut self) {
        drop(self.shared.reader.blocking_send(Job::Stop));
        if let Some(ended) = self.ended.take() {
            drop(ended.blocking_recv());
        }
    }
}

/// What the last write to the disk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Writing,
    /// The disk refused; memory and disk are known to agree.
    Refused,
    /// The disk refused, and whether it took the batch after all could not be read.
    InDoubt,
}

/// Says to one caller what came of its command, once the disk has spoken.
type Settle = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Writer {
    /// Runs until every sender is gone, or `Stop`.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let _reader = ReaderFirst { shared: Arc::clone(&self.shared), ended: self.reader_ended.take() };
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            if self.stalled || (self.garbage.is_empty() && !self.slack) {
                if queue.blocking_recv_many(&mut batch, BATCH) == 0 {
                    break;
                }
            } else {
                while batch.len() < BATCH
                    && let Ok(command) = queue.try_recv()
                {
                    batch.push(command);
                }
            }
            if batch.iter().any(|command| matches!(command, Command::Stop)) {
                queue.close(); // what is queued already is still done
                self.garbage.clear(); // found again at the next start
                self.slack = false;
            }
            if !batch.is_empty() {
                self.batch(mem::take(&mut batch));
                self.stalled = false;
            }
            self.sweep();
        }
        info!(revision = self.shared.state.read().index.current().0, "store closed");
    }

    fn batch(&mut self, commands: Vec<Command>) {
        let (staged, settles, compactions) = self.stage(commands);
        let committed = if staged.needs_disk() { self.commit(&staged) } else { Ok(()) };
        if committed.is_ok() {
            self.publish(staged);
        }
        for settle in settles {
            settle(committed.clone());
        }
        for (revision, reply) in compactions {
            drop(reply.send(self.compact(revision)));
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "three lists of one batch, taken apart at once by the only caller"
    )]
    fn stage(&self, commands: Vec<Command>) -> (Staged, Vec<Settle>, Vec<(Revision, Reply<()>)>) {
        let state = self.shared.state.read();
        let mut stage = Stage::new(&state.index, &self.leases);
        let mut settles = Vec::with_capacity(commands.len());
        let mut compactions = Vec::new();
        for command in commands {
            settles.push(match command {
                Command::Txn(txn, reply) => settle(stage.txn(txn), reply),
                Command::Grant(id, ttl, reply) => settle(stage.grant(id, ttl, self.last_lease), reply),
                Command::KeepAlive(id, reply) => settle(stage.keep_alive(id), reply),
                Command::Revoke(id, reply) => settle(stage.revoke(id), reply),
                Command::Expire(reply) => settle(stage.expire(Instant::now()), reply),
                Command::Compact(revision, reply) => {
                    compactions.push((revision, reply));
                    continue;
                }
                Command::Stop => continue,
            });
        }
        (stage.finish(), settles, compactions)
    }

    fn publish(&mut self, staged: Staged) {
        let now = Instant::now();
        for id in staged.renewed {
            self.leases.renew(id, now);
        }
        for (id, ttl) in staged.granted {
            self.leases.grant(id, ttl, now);
        }
        self.last_lease = staged.last_lease.unwrap_or(self.last_lease);
        self.shared.state.write().publish(staged.rows, &mut self.leases);
        for id in staged.revoked {
            self.leases.revoke(id);
        }
        let next = self.leases.next_deadline();
        self.deadline.send_if_modified(|deadline| mem::replace(deadline, next) != next);
    }

    fn commit(&mut self, staged: &Staged) -> Result<(), StoreError> {
        if self.health == Health::InDoubt {
            self.agree()?;
        }
        let result = log::commit(&mut self.connection, staged);
        self.settle_health(result)
    }

    /// After a refusal: the disk must hold exactly what memory holds.
    fn settle_health(&mut self, result: rusqlite::Result<()>) -> Result<(), StoreError> {
        match result {
            Ok(()) => {
                if mem::replace(&mut self.health, Health::Writing) != Health::Writing {
                    self.shared.refusing.store(false, Ordering::Relaxed);
                    info!(file = %self.shared.file.display(), "store: writes succeed again");
                }
                Ok(())
            }
            Err(source) => {
                let refused = log::write_error(&self.shared.file, self.quota_bytes, source);
                if self.health == Health::Writing {
                    error!(error = &refused as &dyn Error, "store: the disk refused a write");
                }
                self.health = Health::InDoubt;
                self.shared.refusing.store(true, Ordering::Relaxed);
                if let Err(error) = self.agree() {
                    warn!(error = &error as &dyn Error, "store: cannot read back after a refused write");
                }
                Err(refused)
            }
        }
    }

    /// Reads back the last revision of the file.
    ///
    /// # Panics
    /// When the disk kept a batch that it had refused: memory is behind the log, and only a fresh start mends that.
    fn agree(&mut self) -> Result<(), StoreError> {
        let on_disk = log::last_revision(&self.connection)
            .map_err(|source| log::write_error(&self.shared.file, self.quota_bytes, source))?
            .unwrap_or(Revision::FIRST);
        let in_memory = self.shared.state.read().index.current();
        assert_eq!(
            on_disk, in_memory,
            "the disk has another last revision than memory after a refused write"
        );
        self.health = Health::Refused;
        Ok(())
    }

    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        let (current, compact_revision) = {
            let state = self.shared.state.read();
            (state.index.current(), state.index.compacted())
        };
        if revision <= compact_revision {
            return Err(StoreError::Compacted { requested: revision, compact_revision });
        }
        if revision > current {
            return Err(StoreError::FutureRevision { requested: revision, current });
        }
        let marked = log::mark_compacted(&self.connection, revision);
        self.settle_health(marked)?;
        let dropped = self.shared.state.write().index.compact(revision);
        info!(revision = revision.0, versions = dropped.len(), "store compacted");
        self.garbage.extend(dropped);
        Ok(())
    }

    /// Deletes a few of the rows that compaction left behind.
    fn sweep(&mut self) {
        let some = self.garbage.len().min(SWEEP);
        if self.stalled || (some == 0 && !self.slack) {
            return;
        }
        let ids: Vec<RowId> = self.garbage.drain(..some).collect();
        match log::delete(&mut self.connection, &ids) {
            Ok(slack) => self.slack = slack,
            Err(source) => {
                let error = log::write_error(&self.shared.file, self.quota_bytes, source);
                warn!(error = &error as &dyn Error, "store: cannot delete compacted revisions");
                self.garbage.extend(ids);
                self.stalled = true;
            }
        }
    }
}

fn settle<T: Send + 'static>(result: Result<T, StoreError>, reply: Reply<T>) -> Settle {
    // A caller that has stopped waiting is not an error: the write happened all the same.
    Box::new(move |committed| drop(reply.send(result.and_then(|answer| committed.map(|()| answer)))))
}
