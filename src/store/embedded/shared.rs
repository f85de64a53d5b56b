//! What the writer, the reads and the watchers share: the index, the recent revisions and who watches.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    index::{Index, Located, Row, RowId},
    leases::Leases,
    reader::Job,
    ring::Ring,
    watcher::Slot,
};
use crate::{Event, KeyRange, KeyValue, Revision, StoreError};

#[derive(Debug)]
pub(super) struct Shared {
    /// Only the writer thread changes the index and the ring, and only to what is durable.
    pub(super) state: RwLock<State>,
    pub(super) stopped: CancellationToken,
    pub(super) reader: mpsc::Sender<Job>,
    pub(super) file: PathBuf,
    /// The last write was refused by the disk. Set by the writer.
    pub(super) refusing: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) index: Index,
    pub(super) ring: Ring,
    slots: Vec<Arc<Slot>>,
}

impl State {
    pub(super) fn new(index: Index, ring_bytes: usize) -> Self {
        Self { index, ring: Ring::new(ring_bytes), slots: Vec::new() }
    }

    /// Makes durable rows visible, to reads and watchers in one step.
    pub(super) fn publish(&mut self, rows: Vec<Row>, leases: &mut Leases) {
        let Some(first) = rows.first().map(|row| row.id.revision()) else { return };
        let touched: BTreeSet<Bytes> = rows.iter().map(|row| row.key.clone()).collect();
        let mut revision = first;
        let mut events: Vec<Event> = Vec::new();
        for row in rows {
            if row.id.revision() != revision {
                self.ring.push(revision, std::mem::take(&mut events));
                revision = row.id.revision();
            }
            let event = self.index.apply(row);
            leases.follow(&event);
            events.push(event);
        }
        self.ring.push(revision, events);
        for slot in &self.slots {
            let hit = slot.range.bounds().and_then(|bounds| touched.range::<[u8], _>(bounds).next());
            if hit.is_some() {
                slot.mark(first);
            }
        }
    }

    /// Answers the watcher's slot and its first revision.
    pub(super) fn register(
        &mut self,
        range: KeyRange,
        from: Option<Revision>,
    ) -> Result<(Arc<Slot>, Revision), StoreError> {
        let current = self.index.current();
        let compact_revision = self.index.compacted();
        let next = from.unwrap_or(current.next());
        if next < compact_revision {
            return Err(StoreError::Compacted { requested: next, compact_revision });
        }
        let slot = Arc::new(Slot::new(range, Some(next).filter(|next| *next <= current)));
        self.slots.push(Arc::clone(&slot));
        Ok((slot, next))
    }

    pub(super) fn forget(&mut self, slot: &Arc<Slot>) {
        self.slots.retain(|other| !Arc::ptr_eq(other, slot));
    }

    pub(super) fn watchers(&self) -> usize {
        self.slots.len()
    }
}

impl Shared {
    /// Reads the versions that are not in memory. `None` stands for one that the log no longer has.
    pub(super) async fn fetch(&self, located: Vec<&Located>) -> Result<Vec<Option<KeyValue>>, StoreError> {
        let ids: Vec<RowId> = located
            .iter()
            .filter_map(|one| if let Located::Disk(id) = one { Some(*id) } else { None })
            .collect();
        let mut rows = if ids.is_empty() {
            Vec::new().into_iter()
        } else {
            let (reply, answer) = oneshot::channel();
            self.reader.send(Job::Rows { ids, reply }).await.map_err(|_| StoreError::Stopped)?;
            answer.await.map_err(|_| StoreError::Stopped)??.into_iter()
        };
        let found = located.into_iter().map(|one| match one {
            Located::Memory(kv) => Some(kv.clone()),
            Located::Disk(_) => rows.next().flatten().and_then(Row::into_kv),
        });
        Ok(found.collect())
    }

    pub(super) fn missing(&self, revision: Revision) -> StoreError {
        StoreError::Missing { file: self.file.clone(), revision }
    }
}
