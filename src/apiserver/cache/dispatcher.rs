//! Follows the store and keeps every resource's cache level with it.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use lifecycle::Scope;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use store::{Event, KeyRange, Progress, RangeRequest, Revision, Store, StoreError, WatchBatch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    resource::{Loaded, ResourceCache, Start, StoreChange},
    selection::Selection,
    watcher::Watcher,
};
use crate::{
    admission::{Changed, Changes, Reader},
    registry::{Registry, Resource},
    status::{ApiError, GroupResource},
};

/// Everything that the API stores is below this.
pub(crate) const ROOT: &str = "/registry/";
const PAGE: usize = 1000;
/// How long a read waits for the cache to be level with the store, or with a revision that it names (upstream's
/// `blockTimeout`).
const CATCH_UP: Duration = Duration::from_secs(3);
const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// The caches of all resources.
pub struct Cache {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    /// By the prefix of their keys.
    resources: RwLock<BTreeMap<String, Arc<ResourceCache>>>,
    progress: watch::Sender<u64>,
    store_progress: Mutex<Option<Progress>>,
}

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("load {prefix} from the store")]
    Load {
        prefix: String,
        #[source]
        source: StoreError,
    },
    #[error("read the store's revision")]
    Revision(#[source] StoreError),
    #[error("watch the store")]
    Watch(#[source] StoreError),
    #[error("the store ended the watch")]
    Ended,
}

impl Cache {
    /// Loads every resource of the registry and starts to follow the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        scope: &Scope,
    ) -> Result<Arc<Self>, CacheError> {
        let cache = Arc::new(Self {
            store,
            registry,
            resources: RwLock::default(),
            progress: watch::Sender::new(0),
            store_progress: Mutex::new(None),
        });
        let revision = cache.load().await?;
        let follower = cache.clone();
        let token = scope.clone();
        scope.spawn("watch-cache", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = follower.follow_forever(revision) => {}
            }
        });
        Ok(cache)
    }

    async fn load(&self) -> Result<u64, CacheError> {
        let revision = self.store.current_revision().await.map_err(CacheError::Revision)?;
        for row in &self.registry.rows().stored {
            let loaded = self.load_resource(row, revision).await?;
            let at = number(revision);
            let known = self.resources.read().get(&row.prefix()).cloned();
            match known {
                Some(cache) => cache.reload(loaded, at),
                None => {
                    let cache = Arc::new(ResourceCache::new(row.clone(), loaded, at));
                    self.resources.write().insert(row.prefix(), cache);
                }
            }
        }
        self.progress.send_replace(number(revision));
        Ok(number(revision))
    }

    async fn load_resource(&self, row: &Resource, revision: Revision) -> Result<Vec<Loaded>, CacheError> {
        let prefix = row.prefix();
        let KeyRange::Span { mut start, end } = KeyRange::prefix(prefix.clone()) else {
            return Ok(Vec::new());
        };
        let mut loaded = Vec::new();
        loop {
            let range = KeyRange::Span { start: start.clone(), end: end.clone() };
            let request = RangeRequest::new(range).at(revision).limit(PAGE);
            let page = self.store.range(request).await;
            let page = page.map_err(|source| CacheError::Load { prefix: prefix.clone(), source })?;
            let Some(last) = page.kvs.last().map(|kv| kv.key.clone()) else { return Ok(loaded) };
            for kv in page.kvs {
                if let Ok(key) = str::from_utf8(&kv.key) {
                    loaded.push(Loaded {
                        key: key.into(),
                        stored: kv.value,
                        revision: number(kv.mod_revision),
                    });
                }
            }
            if !page.more {
                return Ok(loaded);
            }
            start = [&last[..], &[0]].concat().into();
        }
    }

    async fn follow_forever(&self, mut from: u64) {
        loop {
            let ended = self.follow(from).await;
            if let Err(error) = &ended {
                warn!(
                    error = error as &dyn std::error::Error,
                    "watch cache: the store's watch ended, reloading"
                );
            }
            loop {
                tokio::time::sleep(RELOAD_PAUSE).await;
                match self.load().await {
                    Ok(revision) => {
                        info!(revision, "watch cache: reloaded");
                        from = revision;
                        break;
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "watch cache: reload failed");
                    }
                }
            }
        }
    }

    async fn follow(&self, after: u64) -> Result<(), CacheError> {
        let from = Revision(i64::try_from(after).unwrap_or(i64::MAX)).next();
        let watch = self.store.watch(KeyRange::prefix(ROOT), Some(from)).await;
        let mut watch = watch.map_err(CacheError::Watch)?;
        *self.store_progress.lock() = Some(watch.progress());
        while let Some(batch) = watch.next().await {
            self.apply(batch.map_err(CacheError::Watch)?);
        }
        Err(CacheError::Ended)
    }

    /// One revision: all its changes, then the progress.
    fn apply(&self, batch: WatchBatch) {
        let revision = number(batch.revision);
        let mut by_resource: Vec<(Arc<ResourceCache>, Vec<StoreChange>)> = Vec::new();
        for event in batch.events {
            let Ok(key) = str::from_utf8(event.key()) else { continue };
            let key: Arc<str> = key.into();
            let Some(resource) = self.resource_of(&key) else { continue };
            let value = match event {
                Event::Put { kv, .. } => Some(kv.value),
                Event::Delete { .. } => None,
            };
            let change = StoreChange { key, value };
            match by_resource.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &resource)) {
                Some((_, changes)) => changes.push(change),
                None => by_resource.push((resource, vec![change])),
            }
        }
        for (resource, changes) in by_resource {
            resource.apply(revision, changes);
        }
        self.progress.send_replace(revision);
    }

    fn resource_of(&self, key: &str) -> Option<Arc<ResourceCache>> {
        // The longest prefix is the one just before the key: `/registry/core/pods/` for `/registry/core/pods/a/b`.
        let resources = self.resources.read();
        let (prefix, cache) =
            resources.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        key.starts_with(prefix.as_str()).then(|| cache.clone())
    }

    pub fn resource(&self, row: &Resource) -> Option<Arc<ResourceCache>> {
        self.resources.read().get(&row.prefix()).cloned()
    }

    pub fn resources(&self) -> Vec<Arc<ResourceCache>> {
        self.resources.read().values().cloned().collect()
    }

    fn named(&self, what: &GroupResource) -> Option<Arc<ResourceCache>> {
        let row = self.registry.rows().stored(what)?.clone();
        self.resource(&row)
    }

    /// The revision up to which everything has been applied.
    pub fn progress(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Asks the store to tell how far the cache is, for bookmarks of idle watches.
    pub fn request_progress(&self) {
        if let Some(progress) = self.store_progress.lock().as_ref() {
            progress.request();
        }
    }

    /// Waits until the cache is level with what the store holds now.
    ///
    /// # Errors
    /// When the store does not answer, or the cache cannot catch up in time.
    pub async fn caught_up(&self) -> Result<u64, ApiError> {
        let current = self.store.current_revision().await.map_err(|error| {
            warn!(error = &error as &dyn std::error::Error, "store: no revision");
            ApiError::internal(error)
        })?;
        self.wait_for(number(current)).await
    }

    /// Waits until everything up to a revision has been applied; answers the progress.
    ///
    /// # Errors
    /// 504 in upstream's words when it does not come in time.
    pub async fn wait_for(&self, revision: u64) -> Result<u64, ApiError> {
        if self.progress() >= revision {
            return Ok(self.progress());
        }
        self.request_progress();
        let mut progress = self.progress.subscribe();
        let reached = tokio::time::timeout(CATCH_UP, progress.wait_for(|at| *at >= revision)).await;
        match reached {
            Ok(Ok(at)) => Ok(*at),
            _ => Err(too_large(revision, self.progress())),
        }
    }

    /// Starts a watch of a resource. Should its reader stand still, it is `broken_off`.
    ///
    /// # Errors
    /// 410 when it would start before what is remembered.
    pub fn watch(
        &self,
        resource: &ResourceCache,
        selection: Selection,
        start: Start,
        broken_off: Option<CancellationToken>,
    ) -> Result<Watcher, ApiError> {
        resource.watch(selection, start, self.progress(), broken_off).map_err(|too_old| {
            let Start::After(revision) = start else {
                return ApiError::internal("a watch that starts now cannot be too old");
            };
            let message = format!("too old resource version: {revision} ({})", too_old.complete_after);
            ApiError::expired(message)
        })
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

fn too_large(revision: u64, current: u64) -> ApiError {
    ApiError::timeout(&format!("Too large resource version: {revision}, current: {current}"), 1).with_cause(
        "ResourceVersionTooLarge",
        "Too large resource version",
        "",
    )
}

pub(crate) fn number(revision: Revision) -> u64 {
    u64::try_from(revision.0).unwrap_or(0)
}

impl Reader for Cache {
    fn get(&self, what: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let entry = self.named(what)?.get(namespace, name)?;
        entry.value().ok().map(Arc::new)
    }

    fn list(&self, what: &GroupResource, namespace: &str) -> Vec<Arc<Value>> {
        let Some(resource) = self.named(what) else { return Vec::new() };
        let selection = Selection::in_namespace(namespace);
        let entries = resource.list(&selection, None, 0).entries;
        entries.iter().filter_map(|entry| entry.value().ok().map(Arc::new)).collect()
    }

    fn changed(&self, what: &GroupResource) -> u64 {
        self.named(what).map_or(0, |resource| resource.changed())
    }

    fn changes_after(&self, what: &GroupResource, revision: u64) -> Option<Changes> {
        let (revision, changes) = self.named(what)?.changes_after(revision)?;
        let objects = changes.into_iter().filter_map(|change| {
            let header = &change.new.as_ref().or(change.old.as_ref())?.header;
            let (namespace, name) = (header.namespace.to_string(), header.name.to_string());
            let object = change.new.as_ref().and_then(|entry| entry.value().ok()).map(Arc::new);
            Some(Changed { namespace, name, object })
        });
        Some(Changes { revision, objects: objects.collect() })
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("progress", &self.progress()).finish_non_exhaustive()
    }
}
