//! Works out what a batch of requests does, in order, each seeing the ones before it, without doing it. Pure.
//!
//! The index is what is durable; the stage lies over it. When the disk refuses the batch, the stage is dropped
//! and nothing has happened.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    index::{Index, Row, RowId},
    leases::Leases,
};
use crate::{
    Content, KeyRange, KeyValue, LeaseId, Op, OpResponse, Put, RangeRequest, RangeResponse, Revision,
    StoreError, Txn, TxnResponse,
};

pub(super) struct Stage<'a> {
    index: &'a Index,
    leases: &'a Leases,
    /// Of the last staged write.
    revision: Revision,
    /// Keys that the batch has changed so far; `None` is deleted.
    changed: BTreeMap<Bytes, Option<KeyValue>>,
    staged: Staged,
}

/// What a batch changes, for the disk and then for memory.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) rows: Vec<Row>,
    pub(super) granted: BTreeMap<LeaseId, Duration>,
    pub(super) revoked: BTreeSet<LeaseId>,
    pub(super) renewed: BTreeSet<LeaseId>,
    /// The highest id that was ever chosen, so that none is chosen twice.
    pub(super) last_lease: Option<LeaseId>,
}

impl Staged {
    pub(super) fn needs_disk(&self) -> bool {
        !(self.rows.is_empty() && self.granted.is_empty() && self.revoked.is_empty())
    }
}

impl<'a> Stage<'a> {
    pub(super) fn new(index: &'a Index, leases: &'a Leases) -> Self {
        Self { index, leases, revision: index.current(), changed: BTreeMap::new(), staged: Staged::default() }
    }

    pub(super) fn finish(self) -> Staged {
        self.staged
    }

    pub(super) fn txn(&mut self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let succeeded = txn.compares.iter().all(|compare| compare.holds(self.get(&compare.key).as_ref()));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        self.check(&ops)?;
        let mut writing = Writing { revision: self.revision.next(), changes: 0 };
        let mut responses: Vec<OpResponse> = ops.into_iter().map(|op| self.op(op, &mut writing)).collect();
        if writing.changes > 0 {
            self.revision = writing.revision;
        }
        for response in &mut responses {
            if let OpResponse::Get(range) = response {
                range.revision = self.revision;
            }
        }
        Ok(TxnResponse { succeeded, revision: self.revision, responses })
    }

    pub(super) fn grant(
        &mut self,
        id: Option<LeaseId>,
        ttl: Duration,
        last: LeaseId,
    ) -> Result<LeaseId, StoreError> {
        let id = match id {
            Some(id) if self.ttl(id).is_some() => return Err(StoreError::LeaseExists(id)),
            Some(id) => id,
            None => {
                let mut free = self.staged.last_lease.unwrap_or(last).0 + 1;
                while self.ttl(LeaseId(free)).is_some() {
                    free += 1;
                }
                self.staged.last_lease = Some(LeaseId(free));
                LeaseId(free)
            }
        };
        self.staged.revoked.remove(&id);
        self.staged.granted.insert(id, ttl);
        Ok(id)
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Result<Duration, StoreError> {
        let ttl = self.ttl(id).ok_or(StoreError::LeaseNotFound(id))?;
        self.staged.renewed.insert(id);
        Ok(ttl)
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        self.ttl(id).ok_or(StoreError::LeaseNotFound(id))?;
        let mut keys: BTreeSet<Bytes> =
            self.leases.keys(id).filter(|key| !self.changed.contains_key(*key)).cloned().collect();
        let staged = self.changed.values().flatten().filter(|kv| kv.lease == Some(id));
        keys.extend(staged.map(|kv| kv.key.clone()));
        let mut writing = Writing { revision: self.revision.next(), changes: 0 };
        for key in keys {
            self.delete(&KeyRange::Key(key), &mut writing);
        }
        if writing.changes > 0 {
            self.revision = writing.revision;
        }
        self.staged.granted.remove(&id);
        self.staged.revoked.insert(id);
        Ok(())
    }

    /// Ends the leases that are due, each at a revision of its own.
    pub(super) fn expire(&mut self, now: Instant) -> Result<(), StoreError> {
        let leases = self.leases;
        for id in leases.due(now) {
            if self.staged.renewed.contains(&id) || self.staged.revoked.contains(&id) {
                continue;
            }
            self.revoke(id)?;
        }
        Ok(())
    }

    /// What would fail halfway is found before anything is staged.
    fn check(&self, ops: &[Op]) -> Result<(), StoreError> {
        let mut changes = 0;
        for op in ops {
            match op {
                Op::Put(Put { lease: Some(id), .. }) if self.ttl(*id).is_none() => {
                    return Err(StoreError::LeaseNotFound(*id));
                }
                Op::Put(_) => changes += 1,
                Op::Delete(KeyRange::Key(_)) => changes += 1,
                Op::Delete(range) => changes += self.index.count(range) + self.changed.len(),
                Op::Get(_) => {}
            }
        }
        if changes > RowId::MAX_CHANGES {
            return Err(StoreError::TooManyChanges { changes, limit: RowId::MAX_CHANGES });
        }
        Ok(())
    }

    fn op(&mut self, op: Op, writing: &mut Writing) -> OpResponse {
        match op {
            Op::Get(request) => OpResponse::Get(answer(&request, self.revision, self.range(&request.range))),
            Op::Put(put) => OpResponse::Put { prev: self.put(put, writing) },
            Op::Delete(range) => OpResponse::Delete { prev: self.delete(&range, writing) },
        }
    }

    fn put(&mut self, put: Put, writing: &mut Writing) -> Option<KeyValue> {
        let prev = self.get(&put.key);
        let kv = KeyValue {
            create_revision: prev.as_ref().map_or(writing.revision, |kv| kv.create_revision),
            mod_revision: writing.revision,
            version: prev.as_ref().map_or(0, |kv| kv.version) + 1,
            key: put.key,
            value: put.value,
            lease: put.lease,
        };
        self.staged.rows.push(Row {
            id: writing.next_row(),
            key: kv.key.clone(),
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            value: Some(kv.value.clone()),
        });
        self.changed.insert(kv.key.clone(), Some(kv));
        prev
    }

    fn delete(&mut self, range: &KeyRange, writing: &mut Writing) -> Vec<KeyValue> {
        let prev = self.range(range);
        for kv in &prev {
            self.staged.rows.push(Row {
                id: writing.next_row(),
                key: kv.key.clone(),
                create_revision: Revision::ZERO,
                version: 0,
                lease: None,
                value: None,
            });
            self.changed.insert(kv.key.clone(), None);
        }
        prev
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        match self.changed.get(key) {
            Some(staged) => staged.clone(),
            None => self.index.get(key),
        }
    }

    fn range(&self, range: &KeyRange) -> Vec<KeyValue> {
        if let KeyRange::Key(key) = range {
            return self.get(key).into_iter().collect();
        }
        let Some(bounds) = range.bounds() else { return Vec::new() };
        let mut found: Vec<KeyValue> =
            self.index.range(range).filter(|kv| !self.changed.contains_key(&kv.key)).collect();
        found.extend(self.changed.range::<[u8], _>(bounds).filter_map(|(_, kv)| kv.clone()));
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    fn ttl(&self, id: LeaseId) -> Option<Duration> {
        if self.staged.revoked.contains(&id) {
            return None;
        }
        self.staged.granted.get(&id).copied().or_else(|| self.leases.ttl(id))
    }
}

struct Writing {
    revision: Revision,
    changes: usize,
}

impl Writing {
    fn next_row(&mut self) -> RowId {
        let id = RowId::new(self.revision, self.changes);
        self.changes += 1;
        id
    }
}

/// Cuts what a range found to what was asked for.
pub(super) fn answer(request: &RangeRequest, revision: Revision, mut kvs: Vec<KeyValue>) -> RangeResponse {
    let count = kvs.len();
    if request.content == Content::CountOnly {
        return RangeResponse { revision, kvs: Vec::new(), more: false, count };
    }
    kvs.truncate(request.limit.unwrap_or(usize::MAX));
    if request.content == Content::KeysOnly {
        for kv in &mut kvs {
            kv.value = Bytes::new();
        }
    }
    RangeResponse { revision, more: kvs.len() < count, kvs, count }
}
