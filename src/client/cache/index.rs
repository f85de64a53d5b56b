//! A second way to find the objects of a store.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::Arc,
};

use parking_lot::RwLock;

use crate::ObjectKey;

type Buckets<U, T> = HashMap<U, BTreeMap<ObjectKey, Arc<T>>>;

/// The objects of a store by something that they name. Cheap to clone.
pub struct Index<U, T> {
    buckets: Arc<RwLock<Buckets<U, T>>>,
}

impl<U, T> Clone for Index<U, T> {
    fn clone(&self) -> Self {
        Self { buckets: Arc::clone(&self.buckets) }
    }
}

impl<U, T> fmt::Debug for Index<U, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("names", &self.buckets.read().len()).finish()
    }
}

impl<U: Eq + Hash, T> Index<U, T> {
    /// The objects that name `name`, ordered by key.
    #[must_use]
    pub fn get<Q>(&self, name: &Q) -> Vec<Arc<T>>
    where
        U: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.buckets.read().get(name).map(|bucket| bucket.values().cloned().collect()).unwrap_or_default()
    }
}

/// The store's side of an [`Index`].
pub(super) trait Indexer<T>: Send + Sync {
    fn changed(&mut self, key: &ObjectKey, old: Option<&Arc<T>>, new: Option<&Arc<T>>);
}

struct Filler<U, T, F> {
    buckets: Arc<RwLock<Buckets<U, T>>>,
    names: F,
}

impl<U, T> Index<U, T>
where
    U: Eq + Hash + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    pub(super) fn build<F>(names: F) -> (Self, impl Indexer<T> + 'static)
    where
        F: Fn(&ObjectKey, &T) -> Vec<U> + Send + Sync + 'static,
    {
        let buckets = Arc::new(RwLock::new(HashMap::new()));
        (Self { buckets: Arc::clone(&buckets) }, Filler { buckets, names })
    }
}

impl<U, T, F> Indexer<T> for Filler<U, T, F>
where
    U: Eq + Hash + Send + Sync,
    T: Send + Sync,
    F: Fn(&ObjectKey, &T) -> Vec<U> + Send + Sync,
{
    fn changed(&mut self, key: &ObjectKey, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        let mut buckets = self.buckets.write();
        if let Some(old) = old {
            for name in (self.names)(key, old) {
                if let Some(bucket) = buckets.get_mut(&name) {
                    bucket.remove(key);
                    if bucket.is_empty() {
                        buckets.remove(&name);
                    }
                }
            }
        }
        if let Some(new) = new {
            for name in (self.names)(key, new) {
                buckets.entry(name).or_default().insert(key.clone(), Arc::clone(new));
            }
        }
    }
}
