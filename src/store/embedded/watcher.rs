//! One watcher: a place in history that moves forward when its consumer asks, never faster.
//!
//! The writer only marks a watcher as having something to read, and wakes it; the watcher reads the ring, or what has
//! left the ring through the index from the log. So there is no queue to overflow, and a slow consumer costs nothing.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    index::{Located, PastEvent},
    shared::Shared,
};
use crate::{Event, KeyRange, Progress, Revision, StoreError, Watch, WatchBatch};

/// How many batches, or past events, are taken at a time.
const STEP: usize = 256;

/// What the writer and a watcher share.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) range: KeyRange,
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// The first revision that may concern the watcher and that it has not taken.
    from: Option<Revision>,
    progress: bool,
}

impl Slot {
    pub(super) fn new(range: KeyRange, from: Option<Revision>) -> Self {
        let pending = Mutex::new(Pending { from, progress: false });
        Self { range, pending, wake: Notify::new() }
    }

    /// By the writer, while it holds the state: `revision` or later touches the range.
    pub(super) fn mark(&self, revision: Revision) {
        self.pending.lock().from.get_or_insert(revision);
        self.wake.notify_one();
    }

    fn request_progress(&self) {
        self.pending.lock().progress = true;
        self.wake.notify_one();
    }
}

/// What the watcher found when it looked.
enum Look {
    Ring(Vec<WatchBatch>),
    Log(Vec<PastEvent>),
    Progress(Revision),
    Nothing,
}

struct Watcher {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    /// The first revision that has not been taken.
    next: Revision,
    ready: VecDeque<WatchBatch>,
    ended: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.state.write().forget(&self.slot);
    }
}

/// Registers a watcher; refused when `from` is compacted.
pub(super) fn open(
    shared: &Arc<Shared>,
    range: KeyRange,
    from: Option<Revision>,
) -> Result<Watch, StoreError> {
    let (slot, next) = shared.state.write().register(range, from)?;
    let requested = Arc::downgrade(&slot);
    let progress = Progress::new(move || {
        if let Some(slot) = requested.upgrade() {
            slot.request_progress();
        }
    });
    let watcher = Watcher { shared: Arc::clone(shared), slot, next, ready: VecDeque::new(), ended: false };
    let batches = stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.step().await?;
        Some((item, watcher))
    });
    Ok(Watch::new(batches.boxed(), progress))
}

impl Watcher {
    async fn step(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(batch));
            }
            match self.look() {
                Ok(Look::Ring(batches)) => self.ready.extend(batches),
                Ok(Look::Log(events)) => match self.read(events).await {
                    Ok(batches) => self.ready.extend(batches),
                    Err(error) => return self.end(error),
                },
                Ok(Look::Progress(revision)) => {
                    return Some(Ok(WatchBatch { revision, events: Vec::new() }));
                }
                Ok(Look::Nothing) => {
                    if !self.wait().await {
                        return self.end(StoreError::Stopped);
                    }
                }
                Err(error) => return self.end(error),
            }
        }
    }

    /// Answers whether the store is still running.
    async fn wait(&self) -> bool {
        tokio::select! {
            () = self.slot.wake.notified() => true,
            () = self.shared.stopped.cancelled() => false,
        }
    }

    fn end(&mut self, error: StoreError) -> Option<Result<WatchBatch, StoreError>> {
        self.ended = true;
        Some(Err(error))
    }

    fn look(&mut self) -> Result<Look, StoreError> {
        let state = self.shared.state.read();
        let current = state.index.current();
        // Taken while the state is held, so that the writer cannot add a revision in between.
        let mut pending = self.slot.pending.lock();
        let from = pending.from.take().map(|from| from.max(self.next));
        let Some(from) = from.filter(|from| *from <= current) else {
            self.next = self.next.max(current.next());
            let wanted = std::mem::take(&mut pending.progress);
            return Ok(if wanted { Look::Progress(current) } else { Look::Nothing });
        };
        let compact_revision = state.index.compacted();
        if from < compact_revision {
            return Err(StoreError::Compacted { requested: from, compact_revision });
        }
        if state.ring.covers(from) {
            let (batches, all) = state.ring.batches(&self.slot.range, from, STEP);
            let last = batches.last().map(|batch| batch.revision);
            self.next = if all { current.next() } else { last.unwrap_or(from).next() };
            pending.from = (!all).then_some(self.next);
            return Ok(Look::Ring(batches));
        }
        let (events, through) = state.index.history(&self.slot.range, from, STEP);
        self.next = through.next();
        pending.from = (through < current).then_some(self.next);
        Ok(Look::Log(events))
    }

    async fn read(&self, events: Vec<PastEvent>) -> Result<Vec<WatchBatch>, StoreError> {
        let Some(oldest) = events.first().map(|event| event.revision) else { return Ok(Vec::new()) };
        let located: Vec<&Located> =
            events.iter().flat_map(|event| [&event.kv, &event.prev]).flatten().collect();
        let mut found = self.shared.fetch(located).await?.into_iter();
        let compact_revision = self.shared.state.read().index.compacted();
        if oldest < compact_revision {
            return Err(StoreError::Compacted { requested: oldest, compact_revision });
        }
        let mut batches: Vec<WatchBatch> = Vec::new();
        for PastEvent { revision, key, kv, prev } in events {
            let kv = kv.map(|_| found.next().flatten());
            let prev = prev.and_then(|_| found.next().flatten());
            let event = match kv {
                None => Event::Delete { key, prev },
                Some(Some(kv)) => Event::Put { kv, prev },
                Some(None) => return Err(self.shared.missing(revision)),
            };
            match batches.last_mut() {
                Some(last) if last.revision == revision => last.events.push(event),
                _ => batches.push(WatchBatch { revision, events: vec![event] }),
            }
        }
        Ok(batches)
    }
}
