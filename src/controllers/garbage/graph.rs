//! Who owns whom, over all resources.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use api::constants::finalizer::{FOREGROUND, ORPHAN};
use client::{Index, ObjectKey, Store};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::resources::ResourceType;

/// What the graph keeps of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vertex {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    /// Has the finalizer that waits for blocking dependents.
    pub(super) foreground: bool,
    /// Has the finalizer that lets dependents go.
    pub(super) orphan: bool,
}

impl Vertex {
    pub(super) fn of(meta: ObjectMeta) -> Self {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Self {
            key: ObjectKey::of(&meta),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
            deleting: meta.deletion_timestamp.is_some(),
            uid: meta.uid.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
        }
    }

    /// It goes when its dependents are gone.
    pub(super) fn waits(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Whether it holds up the end of its owner.
    pub(super) fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// One object anywhere: `deployments.apps default/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) resource: Arc<str>,
    pub(super) key: ObjectKey,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource, self.key)
    }
}

/// What a vertex can be found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum By {
    Uid(String),
    Owner(String),
}

/// One resource's part of the graph.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) resource: ResourceType,
    pub(super) store: Store<Vertex>,
    found: Index<By, Vertex>,
}

impl Part {
    pub(super) fn new(resource: ResourceType, store: Store<Vertex>) -> Self {
        let found = store.index(|_, vertex: &Vertex| {
            let owners = vertex.owners.iter().map(|owner| By::Owner(owner.uid.clone()));
            std::iter::once(By::Uid(vertex.uid.clone())).chain(owners).collect()
        });
        Self { resource, store, found }
    }
}

/// All parts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    parts: Arc<RwLock<HashMap<Arc<str>, Part>>>,
}

impl Graph {
    pub(super) fn insert(&self, name: Arc<str>, part: Part) {
        self.parts.write().unwrap_or_else(PoisonError::into_inner).insert(name, part);
    }

    pub(super) fn remove(&self, name: &str) {
        self.parts.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Whether every monitored resource has been seen whole.
    pub(super) fn synced(&self) -> bool {
        let parts = self.read();
        !parts.is_empty() && parts.values().all(|part| part.store.synced())
    }

    pub(super) fn part(&self, name: &str) -> Option<Part> {
        self.read().get(name).cloned()
    }

    pub(super) fn get(&self, place: &Place) -> Option<Arc<Vertex>> {
        self.read().get(&place.resource)?.store.get(&place.key)
    }

    pub(super) fn by_uid(&self, uid: &str) -> Option<(Place, Arc<Vertex>)> {
        self.find(&By::Uid(uid.to_string())).into_iter().next()
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<(Place, Arc<Vertex>)> {
        self.find(&By::Owner(uid.to_string()))
    }

    fn find(&self, by: &By) -> Vec<(Place, Arc<Vertex>)> {
        let parts = self.read();
        let mut found = Vec::new();
        for (name, part) in &*parts {
            for vertex in part.found.get(by) {
                let place = Place { resource: Arc::clone(name), key: vertex.key.clone() };
                found.push((place, vertex));
            }
        }
        found
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Arc<str>, Part>> {
        self.parts.read().unwrap_or_else(PoisonError::into_inner)
    }
}
