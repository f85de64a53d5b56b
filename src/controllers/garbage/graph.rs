//! Who owns whom, over all resources.

use std::{
    collections::{HashMap, HashSet},
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

    /// Whether `first` goes only after the object of this UID, by way of any number of others.
    pub(super) fn waits_for(&self, first: &Arc<Vertex>, uid: &str) -> bool {
        waits_for(first, uid, |owner| self.dependents(owner).into_iter().map(|(_, vertex)| vertex).collect())
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

fn waits_for(first: &Arc<Vertex>, uid: &str, dependents: impl Fn(&str) -> Vec<Arc<Vertex>>) -> bool {
    let (mut seen, mut left) = (HashSet::from([first.uid.clone()]), vec![Arc::clone(first)]);
    while let Some(vertex) = left.pop() {
        if !vertex.waits() {
            continue;
        }
        for dependent in dependents(&vertex.uid).into_iter().filter(|it| it.blocks(&vertex.uid)) {
            if dependent.uid == uid {
                return true;
            }
            if seen.insert(dependent.uid.clone()) {
                left.push(dependent);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One that holds up the end of `owner`, and perhaps is deleted in the foreground itself.
    fn vertex(uid: &str, owner: &str, waits: bool) -> Arc<Vertex> {
        let mut meta = json!({
            "name": uid, "uid": uid,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod", "name": owner, "uid": owner, "blockOwnerDeletion": true,
            }],
        });
        if waits {
            meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            meta["finalizers"] = json!([FOREGROUND]);
        }
        Arc::new(Vertex::of(serde_json::from_value(meta).unwrap()))
    }

    #[test]
    fn in_a_circle_of_those_that_wait_each_waits_for_itself() {
        let found = |all: &[Arc<Vertex>], first: usize, uid: &str| {
            let of = |owner: &str| {
                let owned = |it: &&Arc<Vertex>| it.owners.iter().any(|reference| reference.uid == owner);
                all.iter().filter(owned).cloned().collect()
            };
            waits_for(&all[first], uid, of)
        };
        let circle = [vertex("a", "c", true), vertex("b", "a", true), vertex("c", "b", true)];
        assert!((0..3).all(|first| found(&circle, first, &circle[first].uid)));
        assert!(found(&circle, 1, "a"), "by way of c");
        let open = [vertex("a", "c", true), vertex("b", "a", true), vertex("c", "b", false)];
        assert!(!found(&open, 1, "a"), "c does not wait for a");
        let chain = [vertex("a", "top", true), vertex("b", "a", true), vertex("c", "b", true)];
        assert!(!found(&chain, 1, "a"));
        assert!(found(&chain, 0, "c"));
    }
}
