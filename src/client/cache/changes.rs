//! What to look at again: a set of names, coalesced while nobody looks.

use std::{
    collections::HashSet,
    fmt,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ObjectKey;

/// One reader's set of names to look at again. It holds each name once however often it changed, so
/// it cannot overflow and a slow reader sees the latest state only.
pub struct Changes<U = ObjectKey> {
    dirty: Arc<Dirty<U>>,
}

struct Dirty<U> {
    names: Mutex<HashSet<U>>,
    marked: Notify,
}

impl<U> fmt::Debug for Changes<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("waiting", &self.dirty.names.lock().len()).finish()
    }
}

impl<U: Eq + Hash> Changes<U> {
    /// Waits until something is marked and takes all of it. Cancel safe.
    pub async fn next(&mut self) -> HashSet<U> {
        loop {
            let marked = self.dirty.marked.notified();
            let names = std::mem::take(&mut *self.dirty.names.lock());
            if !names.is_empty() {
                return names;
            }
            marked.await;
        }
    }

    /// What is marked now, perhaps nothing.
    pub fn take(&mut self) -> HashSet<U> {
        std::mem::take(&mut *self.dirty.names.lock())
    }
}

/// The store's side of a [`Changes`].
pub(super) trait Subscriber<T>: Send + Sync {
    /// False when the reader is gone.
    fn changed(&mut self, key: &ObjectKey, old: Option<&Arc<T>>, new: Option<&Arc<T>>) -> bool;
}

struct Marker<U, F> {
    dirty: Weak<Dirty<U>>,
    names: F,
}

impl<U> Changes<U>
where
    U: Eq + Hash + Send + 'static,
{
    pub(super) fn subscribe<T, F>(names: F) -> (Self, impl Subscriber<T> + 'static)
    where
        F: Fn(&ObjectKey, &T) -> Vec<U> + Send + Sync + 'static,
    {
        let dirty = Arc::new(Dirty { names: Mutex::default(), marked: Notify::new() });
        let marker = Marker { dirty: Arc::downgrade(&dirty), names };
        (Self { dirty }, marker)
    }
}

impl<T, U, F> Subscriber<T> for Marker<U, F>
where
    U: Eq + Hash + Send,
    F: Fn(&ObjectKey, &T) -> Vec<U> + Send + Sync,
{
    fn changed(&mut self, key: &ObjectKey, old: Option<&Arc<T>>, new: Option<&Arc<T>>) -> bool {
        let Some(dirty) = self.dirty.upgrade() else { return false };
        let mut names = dirty.names.lock();
        for object in [old, new].into_iter().flatten() {
            names.extend((self.names)(key, object));
        }
        let wake = !names.is_empty();
        drop(names);
        if wake {
            dirty.marked.notify_one();
        }
        true
    }
}
