//! The keys in memory: live values, and where in the log the older versions are. Pure.
//!
//! Memory follows the live set: a version that is not the newest is 16 bytes here and its value is on disk.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, mem};

use bytes::Bytes;

use crate::{Event, KeyRange, KeyValue, LeaseId, Revision};

/// A row of the log: the revision, and the place among that revision's changes in the low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RowId(pub(super) i64);

impl RowId {
    const CHANGE_BITS: u32 = 20;
    /// How many changes fit into one revision.
    pub(super) const MAX_CHANGES: usize = 1 << Self::CHANGE_BITS;

    pub(super) fn new(revision: Revision, change: usize) -> Self {
        let change = i64::try_from(change).unwrap_or(i64::MAX);
        debug_assert!(change < 1 << Self::CHANGE_BITS);
        Self((revision.0 << Self::CHANGE_BITS) | change)
    }

    pub(super) fn revision(self) -> Revision {
        Revision(self.0 >> Self::CHANGE_BITS)
    }
}

/// One change of one key, as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: RowId,
    pub(super) key: Bytes,
    pub(super) create_revision: Revision,
    pub(super) version: i64,
    pub(super) lease: Option<LeaseId>,
    /// `None` is a tombstone: the key was deleted.
    pub(super) value: Option<Bytes>,
}

impl Row {
    pub(super) fn into_kv(self) -> Option<KeyValue> {
        Some(KeyValue {
            value: self.value?,
            mod_revision: self.id.revision(),
            key: self.key,
            create_revision: self.create_revision,
            version: self.version,
            lease: self.lease,
        })
    }
}

/// A version that is in memory, or the row of the log that has it.
#[derive(Clone, Debug)]
pub(super) enum Located {
    Memory(KeyValue),
    Disk(RowId),
}

/// A change in history, to be read.
#[derive(Debug)]
pub(super) struct PastEvent {
    pub(super) revision: Revision,
    pub(super) key: Bytes,
    /// `None`: this change deleted the key.
    pub(super) kv: Option<Located>,
    pub(super) prev: Option<Located>,
}

#[derive(Debug)]
pub(super) struct Index {
    entries: BTreeMap<Bytes, Entry>,
    current: Revision,
    compacted: Revision,
    size: Size,
}

/// What the index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Keys that exist.
    pub live_keys: usize,
    /// Their keys' and values' bytes.
    pub live_bytes: usize,
    /// Older versions and tombstones that the log still has.
    pub past_versions: usize,
}

#[derive(Debug)]
struct Entry {
    head: Head,
    /// Oldest first.
    past: Vec<Past>,
}

#[derive(Debug)]
struct Head {
    id: RowId,
    create_revision: Revision,
    version: i64,
    lease: Option<LeaseId>,
    value: Option<Bytes>,
}

#[derive(Clone, Copy, Debug)]
struct Past {
    id: RowId,
    deleted: bool,
}

impl Index {
    pub(super) fn new(compacted: Revision) -> Self {
        Self {
            entries: BTreeMap::new(),
            current: compacted.max(Revision::FIRST),
            compacted,
            size: Size::default(),
        }
    }

    pub(super) fn current(&self) -> Revision {
        self.current
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        let (key, entry) = self.entries.get_key_value(key)?;
        entry.head.kv(key)
    }

    /// The keys in `range` that exist now.
    pub(super) fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = KeyValue> + 'a {
        self.within(range).filter_map(|(key, entry)| entry.head.kv(key))
    }

    pub(super) fn count(&self, range: &KeyRange) -> usize {
        self.within(range).filter(|(_, entry)| entry.head.value.is_some()).count()
    }

    /// The keys in `range` that existed at `revision`.
    pub(super) fn range_at<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: Revision,
    ) -> impl Iterator<Item = Located> + 'a {
        self.within(range).filter_map(move |(key, entry)| entry.before(key, revision.next()))
    }

    /// What happened in `range` from `from` on, oldest first: whole revisions, about `limit` events. Also the
    /// last revision that the answer covers.
    pub(super) fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        limit: usize,
    ) -> (Vec<PastEvent>, Revision) {
        let mut found: Vec<(RowId, &Bytes)> = self
            .within(range)
            .flat_map(|(key, entry)| entry.ids_from(from).map(move |id| (id, key)))
            .collect();
        found.sort_unstable();
        let mut through = self.current;
        if let Some((last, _)) = found.get(limit) {
            let cut = last.revision();
            let whole = found.partition_point(|(id, _)| id.revision() < cut);
            // A revision that is larger than the limit by itself is taken whole.
            let end = if whole > 0 { cut } else { cut.next() };
            found.truncate(found.partition_point(|(id, _)| id.revision() < end));
            through = Revision(end.0 - 1);
        }
        let events = found.into_iter().filter_map(|(id, key)| self.past_event(id, key)).collect();
        (events, through)
    }

    fn past_event(&self, id: RowId, key: &Bytes) -> Option<PastEvent> {
        let entry = self.entries.get(key)?;
        let revision = id.revision();
        Some(PastEvent {
            revision,
            key: key.clone(),
            kv: entry.before(key, revision.next()),
            prev: entry.before(key, revision),
        })
    }

    /// Takes a row that is durable now, the newest of its key. Answers the change as watchers see it.
    pub(super) fn apply(&mut self, row: Row) -> Event {
        self.current = self.current.max(row.id.revision());
        let prev = self.get(&row.key);
        if let Some(kv) = &prev {
            self.size.live_keys -= 1;
            self.size.live_bytes -= kv.key.len() + kv.value.len();
        }
        if let Some(value) = &row.value {
            self.size.live_keys += 1;
            self.size.live_bytes += row.key.len() + value.len();
        } else {
            self.size.past_versions += 1; // the tombstone itself
        }
        let head = Head {
            id: row.id,
            create_revision: row.create_revision,
            version: row.version,
            lease: row.lease,
            value: row.value.clone(),
        };
        // The first key that was seen stays the map's own, so that its bytes are not held twice.
        if let Some(entry) = self.entries.get_mut(&row.key) {
            let old = mem::replace(&mut entry.head, head);
            self.size.past_versions += usize::from(old.value.is_some()); // a tombstone was counted already
            entry.past.push(Past { id: old.id, deleted: old.value.is_none() });
        } else {
            self.entries.insert(row.key.clone(), Entry { head, past: Vec::new() });
        }
        match row.value {
            Some(_) => {
                Event::Put { kv: row.into_kv().unwrap_or_else(|| unreachable!("the row has a value")), prev }
            }
            None => Event::Delete { key: row.key, prev },
        }
    }

    /// Forgets what reads at `revision` and later do not need; answers the rows that the log can drop.
    ///
    /// A tombstone of `revision` itself stays, so that a watch from the compact revision sees it (etcd 3.5.16+).
    pub(super) fn compact(&mut self, revision: Revision) -> Vec<RowId> {
        self.compacted = revision;
        let mut dropped = Vec::new();
        let size = &mut self.size;
        self.entries.retain(|_, entry| {
            let before = dropped.len();
            let alive = entry.compact(revision, &mut dropped);
            size.past_versions -= dropped.len() - before;
            alive
        });
        dropped
    }

    fn within<'a>(&'a self, range: &KeyRange) -> impl Iterator<Item = (&'a Bytes, &'a Entry)> + use<'a> {
        range.bounds().map(|bounds| self.entries.range::<[u8], _>(bounds)).into_iter().flatten()
    }
}

impl Head {
    fn kv(&self, key: &Bytes) -> Option<KeyValue> {
        Some(KeyValue {
            key: key.clone(),
            value: self.value.clone()?,
            create_revision: self.create_revision,
            mod_revision: self.id.revision(),
            version: self.version,
            lease: self.lease,
        })
    }
}

impl Entry {
    /// The newest version older than `revision`, unless the key did not exist then.
    fn before(&self, key: &Bytes, revision: Revision) -> Option<Located> {
        if self.head.id.revision() < revision {
            return self.head.kv(key).map(Located::Memory);
        }
        let newer = self.past.partition_point(|past| past.id.revision() < revision);
        let past = self.past.get(newer.checked_sub(1)?)?;
        (!past.deleted).then_some(Located::Disk(past.id))
    }

    fn ids_from(&self, revision: Revision) -> impl Iterator<Item = RowId> + '_ {
        let first = self.past.partition_point(|past| past.id.revision() < revision);
        let head = Some(self.head.id).filter(|id| id.revision() >= revision);
        self.past[first..].iter().map(|past| past.id).chain(head)
    }

    /// Answers whether anything is left.
    fn compact(&mut self, revision: Revision, dropped: &mut Vec<RowId>) -> bool {
        let mut not_newer = self.past.partition_point(|past| past.id.revision() <= revision);
        if self.head.id.revision() <= revision {
            // Everything in `past` is superseded at `revision`.
            dropped.extend(self.past.drain(..).map(|past| past.id));
            let gone = self.head.value.is_none() && self.head.id.revision() < revision;
            if gone {
                dropped.push(self.head.id);
            }
            return !gone;
        }
        // The newest version at `revision` is in `past`: it stays unless it is an older tombstone.
        if not_newer > 0 {
            let newest = self.past[not_newer - 1];
            if !newest.deleted || newest.id.revision() == revision {
                not_newer -= 1;
            }
        }
        dropped.extend(self.past.drain(..not_newer).map(|past| past.id));
        if self.past.capacity() > 4 * self.past.len() {
            self.past.shrink_to_fit();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(revision: i64, key: &'static str, value: Option<&'static str>) -> Row {
        Row {
            id: RowId::new(Revision(revision), 0),
            key: key.into(),
            create_revision: Revision(revision),
            version: 1,
            lease: None,
            value: value.map(Bytes::from),
        }
    }

    fn index(rows: &[(i64, &'static str, Option<&'static str>)]) -> Index {
        let mut index = Index::new(Revision::ZERO);
        for (revision, key, value) in rows {
            index.apply(row(*revision, key, *value));
        }
        index
    }

    fn dropped(index: &mut Index, revision: i64) -> Vec<i64> {
        let mut gone: Vec<i64> = index.compact(Revision(revision)).iter().map(|id| id.revision().0).collect();
        gone.sort_unstable();
        gone
    }

    #[test]
    fn compaction_keeps_the_newest_version_at_its_revision_and_all_later_ones() {
        let mut index =
            index(&[(2, "a", Some("1")), (3, "a", Some("2")), (5, "a", Some("3")), (6, "a", Some("4"))]);
        assert_eq!(dropped(&mut index, 4), [2]);
        assert_eq!(dropped(&mut index, 5), [3]);
        assert_eq!(dropped(&mut index, 6), [5]);
        assert_eq!(index.size(), Size { live_keys: 1, live_bytes: 2, past_versions: 0 });
    }

    #[test]
    fn a_tombstone_goes_once_it_is_older_than_the_compact_revision() {
        let mut index = index(&[(2, "a", Some("1")), (3, "a", None), (4, "b", Some("1"))]);
        assert_eq!(index.size().past_versions, 2);
        assert_eq!(dropped(&mut index, 3), [2]);
        assert_eq!(dropped(&mut index, 4), [3]);
        assert_eq!(index.size(), Size { live_keys: 1, live_bytes: 2, past_versions: 0 });
    }

    #[test]
    fn a_tombstone_between_two_lives_goes_too() {
        let mut index = index(&[(2, "a", Some("1")), (3, "a", None), (5, "a", Some("2"))]);
        assert_eq!(dropped(&mut index, 4), [2, 3]);
    }

    #[test]
    fn history_never_cuts_a_revision_in_two() {
        let mut index = Index::new(Revision::ZERO);
        for (change, key) in ["a", "b", "c"].into_iter().enumerate() {
            index.apply(Row { id: RowId::new(Revision(2), change), ..row(2, key, Some("1")) });
        }
        index.apply(row(3, "a", Some("2")));
        let revisions = |limit| {
            let (events, through) = index.history(&KeyRange::all(), Revision(2), limit);
            (events.iter().map(|event| event.revision.0).collect::<Vec<_>>(), through.0)
        };
        assert_eq!(revisions(1), (vec![2, 2, 2], 2));
        assert_eq!(revisions(3), (vec![2, 2, 2], 2));
        assert_eq!(revisions(4), (vec![2, 2, 2, 3], 3));
    }
}
