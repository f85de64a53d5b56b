//! The cache of one resource.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::{
    entry::Entry,
    ring::{Change, Ring, TooOld},
    selection::Selection,
    watcher::{self, Delivered, Sender, Watcher},
};
use crate::registry::Resource;

const RING_CHANGES: usize = 4096;
const RING_BYTES: usize = 8 << 20;

/// All objects of one resource, its recent changes, and its watchers.
pub struct ResourceCache {
    pub row: Arc<Resource>,
    prefix: String,
    state: RwLock<State>,
}

struct State {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: Ring,
    watchers: Vec<Sender>,
    /// The revision of the last change.
    changed: u64,
}

/// What a list saw.
#[derive(Debug)]
pub struct Snapshot {
    pub entries: Vec<Arc<Entry>>,
    /// At least this revision is included whole, as far as this resource goes.
    pub changed: u64,
    /// How many more objects there were beyond the limit. Meaningful without selectors.
    pub remaining: usize,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With an ADDED event for each object there is.
    Initial,
    /// With what comes from now on.
    Now,
    /// With what came after a revision.
    After(u64),
}

/// One key's change in one revision, as the store told it.
pub(super) struct StoreChange {
    pub(super) key: Arc<str>,
    pub(super) value: Option<Bytes>,
}

/// One key as the store holds it.
pub(super) struct Loaded {
    pub(super) key: Arc<str>,
    pub(super) stored: Bytes,
    pub(super) revision: u64,
}

impl State {
    fn new(row: &Resource, loaded: Vec<Loaded>, revision: u64) -> Self {
        let mut entries = BTreeMap::new();
        for Loaded { key, stored, revision } in loaded {
            let entry = Entry::new(row, key.clone(), stored, revision, watcher::line_start(true));
            entries.insert(key, Arc::new(entry));
        }
        let changed = entries.values().map(|entry| entry.revision).max().unwrap_or(0);
        let ring = Ring::new(revision, RING_CHANGES, RING_BYTES);
        Self { entries, ring, watchers: Vec::new(), changed }
    }
}

impl ResourceCache {
    /// As loaded at `revision`.
    pub(super) fn new(row: Arc<Resource>, loaded: Vec<Loaded>, revision: u64) -> Self {
        let state = RwLock::new(State::new(&row, loaded, revision));
        Self { prefix: row.prefix(), state, row }
    }

    /// Starts again from what was loaded: watchers are ended, history is forgotten.
    pub(super) fn reload(&self, loaded: Vec<Loaded>, revision: u64) {
        let mut state = State::new(&self.row, loaded, revision);
        state.changed = revision; // what was deleted meanwhile left no trace: every follower looks again
        *self.state.write() = state;
    }

    /// Applies one revision's changes and hands them to the watchers; ends those that cannot keep up.
    pub(super) fn apply(&self, revision: u64, changes: Vec<StoreChange>) {
        let mut state = self.state.write();
        for change in changes {
            let old = state.entries.get(&change.key).cloned();
            let new = change.value.map(|stored| {
                let line_start = watcher::line_start(old.is_none());
                Arc::new(Entry::new(&self.row, change.key.clone(), stored, revision, line_start))
            });
            match &new {
                Some(entry) => drop(state.entries.insert(change.key, entry.clone())),
                None => drop(state.entries.remove(&change.key)),
            }
            if new.is_none() && old.is_none() {
                continue;
            }
            let deleted = match (&new, &old) {
                (None, Some(old)) => Some(old.deleted_at(revision)),
                _ => None,
            };
            let change = Change { revision, new, old, deleted };
            state.watchers.retain_mut(|watcher| watcher.send(&change));
            state.ring.push(change);
        }
        state.changed = revision;
    }

    /// One object. `namespace` is empty for cluster-scoped resources.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.state.read().entries.get(self.row.key(namespace, name).as_str()).cloned()
    }

    /// The revision of the last change.
    pub fn changed(&self) -> u64 {
        self.state.read().changed
    }

    /// Each object that changed after a revision, as it was in its last change, and the revision up to which that is
    /// all. `None`: it is no longer remembered.
    pub(super) fn changes_after(&self, revision: u64) -> Option<(u64, Vec<Change>)> {
        let state = self.state.read();
        let mut last: BTreeMap<Arc<str>, Change> = BTreeMap::new();
        for change in state.ring.after(revision).ok()? {
            if let Some(entry) = change.new.as_ref().or(change.old.as_ref()) {
                last.insert(entry.key.clone(), change.clone());
            }
        }
        Some((state.changed, last.into_values().collect()))
    }

    pub fn len(&self) -> usize {
        self.state.read().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn watcher_count(&self) -> usize {
        self.state.read().watchers.len()
    }

    /// The selected objects in the order of their keys, from `start` (a whole key) on, at most `limit` (0: all).
    pub fn list(&self, selection: &Selection, start: Option<&str>, limit: usize) -> Snapshot {
        let range = self.range_prefix(selection);
        let from = start.filter(|start| *start > range.as_str()).unwrap_or(&range);
        let state = self.state.read();
        let mut entries = Vec::new();
        let mut candidates = state
            .entries
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&range))
            .filter(|(_, entry)| selection.matches(&entry.header));
        for (_, entry) in candidates.by_ref() {
            entries.push(entry.clone());
            if entries.len() == limit {
                break;
            }
        }
        let remaining = if limit == 0 { 0 } else { candidates.count() };
        Snapshot { entries, changed: state.changed, remaining }
    }

    /// What all keys of a selection begin with.
    pub(crate) fn range_prefix(&self, selection: &Selection) -> String {
        if self.row.is_namespaced() && !selection.namespace.is_empty() {
            format!("{}{}/", self.prefix, selection.namespace)
        } else {
            self.prefix.clone()
        }
    }

    /// Starts a watch: what it begins with and its queue, without a gap between them. One that does not read is
    /// `broken_off`.
    pub(super) fn watch(
        &self,
        selection: Selection,
        start: Start,
        progress: u64,
        broken_off: Option<CancellationToken>,
    ) -> Result<Watcher, TooOld> {
        let mut state = self.state.write();
        let current = progress.max(state.changed);
        let (initial, after) = match start {
            Start::Now => (Vec::new(), current),
            Start::Initial => {
                let selected = state.entries.values().filter(|entry| selection.matches(&entry.header));
                (selected.map(|entry| Delivered::initial(entry)).collect(), current)
            }
            Start::After(revision) => {
                let missed = state.ring.after(revision)?;
                let initial = missed.filter_map(|change| Delivered::of(change, &selection)).collect();
                (initial, revision)
            }
        };
        // A start in the future: what comes before it is not wanted.
        let skip = if let Start::After(revision) = start { revision } else { 0 };
        let (sender, watcher) = watcher::watch((initial, after), (selection, skip), broken_off);
        state.watchers.push(sender);
        Ok(watcher)
    }
}

impl std::fmt::Debug for ResourceCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResourceCache").field("row", &self.row).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Plain;

    fn change(key: &str, revision: Option<u64>) -> StoreChange {
        let name = key.rsplit('/').next().unwrap_or_default();
        let object = serde_json::json!({"metadata": {"namespace": "ns", "name": name, "uid": revision}});
        StoreChange { key: key.into(), value: revision.map(|_| Bytes::from(object.to_string())) }
    }

    fn followed(cache: &ResourceCache, revision: u64) -> Option<(u64, Vec<String>)> {
        let (to, changes) = cache.changes_after(revision)?;
        let name = |change: &Change| match (&change.new, &change.old) {
            (Some(new), _) => format!("+{}", new.header.name),
            (None, Some(old)) => format!("-{}", old.header.name),
            (None, None) => String::new(),
        };
        Some((to, changes.iter().map(name).collect()))
    }

    #[test]
    fn a_follower_is_told_each_changed_object_once_as_it_is_now() {
        let row = Arc::new(Resource::namespaced("", "v1", "Pod", "pods", Arc::new(Plain)));
        let cache = ResourceCache::new(row, Vec::new(), 10);
        cache.apply(11, vec![change("/registry/core/pods/ns/a", Some(1))]);
        cache.apply(12, vec![change("/registry/core/pods/ns/b", Some(1))]);
        cache.apply(13, vec![change("/registry/core/pods/ns/a", Some(2))]);
        cache.apply(14, vec![change("/registry/core/pods/ns/b", None)]);
        assert_eq!(followed(&cache, 10), Some((14, vec!["+a".into(), "-b".into()])));
        assert_eq!(followed(&cache, 13), Some((14, vec!["-b".into()])));
        assert_eq!(followed(&cache, 14), Some((14, vec![])));
        assert_eq!(followed(&cache, 9), None);
    }

    #[test]
    fn after_a_reload_every_follower_looks_again() {
        let row = Arc::new(Resource::namespaced("", "v1", "Pod", "pods", Arc::new(Plain)));
        let cache = ResourceCache::new(row, Vec::new(), 10);
        cache.apply(11, vec![change("/registry/core/pods/ns/a", Some(1))]);
        cache.reload(Vec::new(), 20);
        assert_eq!(cache.changed(), 20);
        assert_eq!(followed(&cache, 11), None);
    }
}
