//! The objects of one resource as last seen.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    changes::{Changes, Subscriber},
    index::{Index, Indexer},
};
use crate::ObjectKey;

/// A read-only view of one resource. Cheap to clone; all clones see the same content.
pub struct Store<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    content: RwLock<Content<T>>,
    synced: watch::Sender<bool>,
    /// The newest resourceVersion that the content includes.
    seen: AtomicU64,
}

struct Content<T> {
    objects: BTreeMap<ObjectKey, Entry<T>>,
    indexers: Vec<Box<dyn Indexer<T>>>,
    subscribers: Vec<Box<dyn Subscriber<T>>>,
}

struct Entry<T> {
    /// UID and resourceVersion: what tells whether a relist brought anything new.
    version: Version,
    object: Arc<T>,
}

/// Identifies one state of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
}

/// One object as it arrived.
pub(super) struct Arrived<T> {
    pub(super) key: ObjectKey,
    pub(super) version: Version,
    pub(super) object: T,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("objects", &self.shared.content.read().objects.len())
            .field("synced", &self.synced())
            .finish()
    }
}

impl<T> Store<T> {
    /// True once a complete list has been seen. Before that, "not there" means "not known".
    #[must_use]
    pub fn synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Whether the content includes what was written at `resource_version`, an answer of the API to a
    /// write of this resource. Whoever decides by the cache waits for its own writes to show first.
    ///
    /// Resource versions of one resource are ordered numbers (KEP-5504); one that is no number is never
    /// waited for.
    #[must_use]
    pub fn has_seen(&self, resource_version: &str) -> bool {
        resource_version.parse().is_ok_and(|version: u64| version <= self.shared.seen.load(Ordering::Acquire))
            || resource_version.parse::<u64>().is_err()
    }

    pub(super) fn saw(&self, resource_version: &str) {
        if let Ok(version) = resource_version.parse() {
            self.shared.seen.fetch_max(version, Ordering::AcqRel);
        }
    }

    /// Resolves when the store is synced. Never, if the API never answers: select with a deadline
    /// or the scope's end.
    pub async fn wait_synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in this store, so the channel cannot close under us.
        drop(synced.wait_for(|synced| *synced).await);
    }

    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.shared.content.read().objects.get(key).map(|entry| Arc::clone(&entry.object))
    }

    /// All objects, ordered by key.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<T>> {
        self.shared.content.read().objects.values().map(|entry| Arc::clone(&entry.object)).collect()
    }

    /// All keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.shared.content.read().objects.keys().cloned().collect()
    }

    /// The objects of one namespace, at the cost of their number.
    #[must_use]
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = ObjectKey::namespaced(namespace, "");
        let content = self.shared.content.read();
        content
            .objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.namespace.as_deref() == Some(namespace))
            .map(|(_, entry)| Arc::clone(&entry.object))
            .collect()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.content.read().objects.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Send + Sync + 'static> Store<T> {
    /// The keys of objects that were added, changed or removed, beginning with all that are there now.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.changes_by(|key, _| vec![key.clone()])
    }

    /// As [`Store::changes`], in terms of something that an object names: its owner, its node, the
    /// Services that select it. `names` is asked about an object's state before and after each change,
    /// so that what lost the object is told as well as what won it.
    #[must_use]
    pub fn changes_by<U, F>(&self, names: F) -> Changes<U>
    where
        U: Eq + Hash + Send + 'static,
        F: Fn(&ObjectKey, &T) -> Vec<U> + Send + Sync + 'static,
    {
        let mut content = self.shared.content.write();
        let (changes, mut subscriber) = Changes::subscribe(names);
        for (key, entry) in &content.objects {
            subscriber.changed(key, None, Some(&entry.object));
        }
        content.subscribers.push(Box::new(subscriber));
        changes
    }

    /// A lookup of objects by something that they name, kept in step with the store for as long as
    /// the store lives. Make it once, at start.
    #[must_use]
    pub fn index<U, F>(&self, names: F) -> Index<U, T>
    where
        U: Eq + Hash + Send + Sync + 'static,
        F: Fn(&ObjectKey, &T) -> Vec<U> + Send + Sync + 'static,
    {
        let mut content = self.shared.content.write();
        let (index, mut indexer) = Index::build(names);
        for (key, entry) in &content.objects {
            indexer.changed(key, None, Some(&entry.object));
        }
        content.indexers.push(Box::new(indexer));
        index
    }

    pub(super) fn new() -> Self {
        let content = Content { objects: BTreeMap::new(), indexers: Vec::new(), subscribers: Vec::new() };
        Self {
            shared: Arc::new(Shared {
                content: RwLock::new(content),
                synced: watch::Sender::new(false),
                seen: AtomicU64::new(0),
            }),
        }
    }

    /// Takes a whole list as the truth: what is not in it is gone, what is the same is not touched.
    /// `keep` names objects that are there but could not be read: they stay as they were.
    pub(super) fn replace(&self, listed: Vec<Arrived<T>>, keep: &[ObjectKey]) {
        let mut content = self.shared.content.write();
        let mut gone: HashMap<ObjectKey, ()> = content.objects.keys().map(|key| (key.clone(), ())).collect();
        for key in keep {
            gone.remove(key);
        }
        for arrived in listed {
            gone.remove(&arrived.key);
            let same = content.objects.get(&arrived.key).is_some_and(|entry| {
                entry.version == arrived.version && arrived.version.resource_version.is_some()
            });
            if !same {
                content.put(arrived);
            }
        }
        for key in gone.into_keys() {
            content.remove(&key);
        }
        drop(content);
        self.shared.synced.send_replace(true);
    }

    pub(super) fn apply(&self, arrived: Arrived<T>) {
        self.shared.content.write().put(arrived);
    }

    pub(super) fn remove(&self, key: &ObjectKey) {
        self.shared.content.write().remove(key);
    }
}

impl<T> Content<T> {
    fn put(&mut self, arrived: Arrived<T>) {
        let Arrived { key, version, object } = arrived;
        let object = Arc::new(object);
        let entry = Entry { version, object: Arc::clone(&object) };
        let old = self.objects.insert(key.clone(), entry);
        self.tell(&key, old.as_ref().map(|entry| &entry.object), Some(&object));
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(old) = self.objects.remove(key) {
            self.tell(key, Some(&old.object), None);
        }
    }

    /// Indexes first: whoever a mark wakes must find them right.
    fn tell(&mut self, key: &ObjectKey, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        for indexer in &mut self.indexers {
            indexer.changed(key, old, new);
        }
        self.subscribers.retain_mut(|subscriber| subscriber.changed(key, old, new));
    }
}
