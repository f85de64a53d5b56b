//! The process's shared read cache: one reflector for each resource and selector.
//!
//! ```text
//!   list + watch ──reflector──▶ Store ──▶ Index   (kept in step under the store's lock)
//!                                 └─────▶ Changes (marked after the store and its indexes are right)
//! ```

mod changes;
mod events;
mod index;
mod reflector;
mod store;

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ApiResource;
use lifecycle::Scope;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

pub use changes::Changes;
pub use index::Index;
pub use store::Store;

use crate::Client;
use reflector::{Target, Wire};

/// A typed resource that can be cached: every `k8s_openapi` kind.
pub trait Object:
    kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static
{
}

/// Which objects of a resource to watch; all of them by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// A label selector, in its query form.
    pub labels: Option<String>,
    /// A field selector, as `spec.nodeName=n1`.
    pub fields: Option<String>,
}

impl Selector {
    #[must_use]
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }

    #[must_use]
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..Self::default() }
    }

    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }
}

type Stores = HashMap<(TypeId, Selector), Box<dyn Any + Send>>;

/// The shared stores of one process. A reflector starts when its store is first asked for,
/// and runs until the scope that the cache was made with is cancelled.
#[derive(Clone)]
pub struct Cache {
    client: Client,
    scope: Scope,
    stores: Arc<Mutex<Stores>>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("stores", &self.stores.lock().len()).finish_non_exhaustive()
    }
}

impl Cache {
    #[must_use]
    pub fn new(client: Client, scope: &Scope) -> Self {
        Self { client, scope: scope.child("cache"), stores: Arc::default() }
    }

    /// The store of all objects of `K`.
    #[must_use]
    pub fn store<K: Object>(&self) -> Store<K> {
        self.store_with(Selector::default())
    }

    /// The store of the objects of `K` that `selector` matches; the same selector gives the same store.
    #[must_use]
    pub fn store_with<K: Object>(&self, selector: Selector) -> Store<K> {
        let mut stores = self.stores.lock();
        let entry = stores
            .entry((TypeId::of::<K>(), selector.clone()))
            .or_insert_with(|| Box::new(reflect::<K>(&self.client, selector.clone(), &self.scope)));
        match entry.downcast_ref::<Store<K>>() {
            Some(store) => store.clone(),
            // The entry is keyed by K's type id, so this arm only keeps the code total.
            None => reflect::<K>(&self.client, selector, &self.scope),
        }
    }
}

/// Starts a reflector of its own, for objects that are only watched for a while: it ends with `scope`.
/// Prefer [`Cache::store`] for anything that others watch too.
#[must_use]
pub fn reflect<K: Object>(client: &Client, selector: Selector, scope: &Scope) -> Store<K> {
    let path = K::url_path(&(), selector.namespace.as_deref());
    let target = Target { path, resource: K::plural(&()).into_owned(), metadata_only: false, selector };
    start(client, target, scope, |object: K| object)
}

/// What is left of an object in a metadata-only store.
#[derive(Clone, Debug, serde::Deserialize)]
struct MetaObject {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// A value made from an object's metadata.
pub trait Kept: Send + Sync + 'static {}
impl<T: Send + Sync + 'static> Kept for T {}

/// Starts a reflector of any resource that fetches metadata only and keeps `keep` of it.
#[must_use]
pub fn reflect_metadata<T: Kept>(
    client: &Client,
    resource: &ApiResource,
    scope: &Scope,
    keep: fn(ObjectMeta) -> T,
) -> Store<T> {
    let path = if resource.group.is_empty() {
        format!("/api/{}/{}", resource.version, resource.plural)
    } else {
        format!("/apis/{}/{}/{}", resource.group, resource.version, resource.plural)
    };
    let target = Target {
        path,
        resource: resource.plural.clone(),
        metadata_only: true,
        selector: Selector::default(),
    };
    start(client, target, scope, move |object: MetaObject| keep(object.metadata))
}

fn start<W: Wire, T: Kept>(
    client: &Client,
    target: Target,
    scope: &Scope,
    keep: impl Fn(W) -> T + Send + Sync + 'static,
) -> Store<T> {
    let store = Store::new();
    let (client, writer, token) = (client.clone(), store.clone(), scope.token());
    scope.spawn("reflector", async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = reflector::run(&client, &target, &keep, &writer) => {}
        }
    });
    store
}

#[cfg(test)]
mod tests;
