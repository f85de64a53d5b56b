//! The recent changes of one resource, for watches that start in the past.
#![deny(clippy::disallowed_methods)]

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::entry::Entry;

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: u64,
    /// The new state; `None` for a delete.
    pub new: Option<Arc<Entry>>,
    /// The state before; `None` for a create.
    pub old: Option<Arc<Entry>>,
    /// The DELETED event's object and line (the old state under the delete's revision), made once.
    pub(super) deleted: Option<(Bytes, Bytes)>,
}

/// Bounded by count and by bytes.
#[derive(Debug)]
pub(super) struct Ring {
    changes: VecDeque<Change>,
    bytes: usize,
    max_changes: usize,
    max_bytes: usize,
    /// Every change after this revision is in the ring.
    complete_after: u64,
}

/// The wanted revision is older than what the ring remembers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooOld {
    pub(super) complete_after: u64,
}

impl Ring {
    pub(super) fn new(complete_after: u64, max_changes: usize, max_bytes: usize) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, max_changes, max_bytes, complete_after }
    }

    pub(super) fn push(&mut self, change: Change) {
        self.bytes += size(&change);
        self.changes.push_back(change);
        while self.changes.len() > self.max_changes || (self.bytes > self.max_bytes && self.changes.len() > 1)
        {
            self.forget_oldest();
        }
    }

    /// A revision's changes go together: half of a transaction cannot be replayed.
    fn forget_oldest(&mut self) {
        let Some(revision) = self.changes.front().map(|change| change.revision) else { return };
        while self.changes.front().is_some_and(|change| change.revision == revision) {
            if let Some(change) = self.changes.pop_front() {
                self.bytes -= size(&change);
            }
        }
        self.complete_after = revision;
    }

    /// The changes after a revision, oldest first.
    pub(super) fn after(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, TooOld> {
        if revision < self.complete_after {
            return Err(TooOld { complete_after: self.complete_after });
        }
        let start = self.changes.partition_point(|change| change.revision <= revision);
        Ok(self.changes.range(start..))
    }
}

fn size(change: &Change) -> usize {
    let new = change.new.as_ref().map_or(0, |entry| entry.line.len());
    let deleted = change.deleted.as_ref().map_or(0, |(_, line)| line.len());
    new + deleted + 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, bytes: usize) -> Change {
        Change { revision, new: None, old: None, deleted: Some((Bytes::new(), Bytes::from(vec![0; bytes]))) }
    }

    fn after(ring: &Ring, revision: u64) -> Result<Vec<u64>, u64> {
        ring.after(revision).map(|it| it.map(|c| c.revision).collect()).map_err(|e| e.complete_after)
    }

    #[test]
    fn it_yields_what_came_after_and_refuses_what_it_forgot() {
        let mut ring = Ring::new(10, 3, usize::MAX);
        assert_eq!(after(&ring, 10), Ok(vec![]));
        assert_eq!(after(&ring, 9), Err(10));
        for revision in [11, 13, 14, 20] {
            ring.push(change(revision, 0));
        }
        assert_eq!(after(&ring, 13), Ok(vec![14, 20]));
        assert_eq!(after(&ring, 11), Ok(vec![13, 14, 20]));
        assert_eq!(after(&ring, 10), Err(11));
        assert_eq!(after(&ring, 99), Ok(vec![]));
    }

    #[test]
    fn changes_of_one_revision_are_forgotten_together() {
        let mut ring = Ring::new(0, 3, usize::MAX);
        for revision in [1, 1, 1, 2] {
            ring.push(change(revision, 0));
        }
        assert_eq!(after(&ring, 0), Err(1));
        assert_eq!(after(&ring, 1), Ok(vec![2]));
    }

    #[test]
    fn it_is_bounded_by_bytes_but_keeps_the_last() {
        let mut ring = Ring::new(0, 100, 1000);
        ring.push(change(1, 600));
        ring.push(change(2, 600));
        assert_eq!(after(&ring, 1), Ok(vec![2]));
        ring.push(change(3, 5000));
        assert_eq!(after(&ring, 2), Ok(vec![3]));
    }
}
