//! What we wrote and the cache does not show yet.
//!
//! Upstream counts expected events per object; a lost one is noticed after five minutes. Here a pass that
//! created something notes the resource version of the API's answer, and the next pass over the same key
//! waits until the cache includes that version. A pod that was made and removed before the cache saw it is
//! covered: the cache moves past its version all the same. Deletions are noted by UID: what we deleted
//! counts as gone until the cache shows that it is going. After a restart the ledger is empty, and the
//! cache begins with a list that includes all earlier writes.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use client::Store;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Mutex;

#[derive(Debug)]
pub(crate) struct Ledger<K> {
    entries: Mutex<HashMap<K, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    created: Option<String>,
    deleted: HashSet<String>,
}

impl<K> Default for Ledger<K> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Ledger<K> {
    /// Something was created or updated for `key`; `answer` is the API's.
    pub(crate) fn wrote(&self, key: &K, answer: &ObjectMeta) {
        let Some(version) = &answer.resource_version else { return };
        let newer = |old: &String| number(old) >= number(version);
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_default();
        if !entry.created.as_ref().is_some_and(newer) {
            entry.created = Some(version.clone());
        }
    }

    /// Something was deleted for `key`.
    pub(crate) fn deleted(&self, key: &K, uid: &str) {
        self.lock().entry(key.clone()).or_default().deleted.insert(uid.to_string());
    }

    /// Whether the cache includes all that was written for `key`. `still_there` says whether the cache
    /// shows an object of this UID that nobody has deleted.
    pub(crate) fn settled<T>(&self, key: &K, store: &Store<T>, still_there: impl Fn(&str) -> bool) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return true };
        if entry.created.as_ref().is_some_and(|version| store.has_seen(version)) {
            entry.created = None;
        }
        entry.deleted.retain(|uid| still_there(uid));
        let settled = entry.created.is_none() && entry.deleted.is_empty();
        if settled {
            entries.remove(key);
        }
        settled
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Entry>> {
        // A poisoned ledger is still a right one: no method leaves an entry half-written.
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}
