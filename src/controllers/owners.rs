//! Wakes the owners of what changed: Deployments for ReplicaSets; DaemonSets, ReplicaSets and ReplicationControllers for
//! pods.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    references::controller_of,
    selector::{Selector, SelectorObjectError},
};
use client::{ObjectKey, Store, WorkQueue};
use k8s_openapi::{
    Metadata, Resource,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet},
        core::v1::ReplicationController,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use lifecycle::Scope;

use crate::work::{self, itself};

/// A kind whose objects select what they own.
pub(crate) trait Owner: Resource + Metadata<Ty = ObjectMeta> + Send + Sync + 'static {
    fn selector(&self) -> Result<Selector, SelectorObjectError>;
}

impl Owner for Deployment {
    fn selector(&self) -> Result<Selector, SelectorObjectError> {
        Selector::of_object(self.spec.as_ref().map(|spec| &spec.selector))
    }
}

impl Owner for ReplicaSet {
    fn selector(&self) -> Result<Selector, SelectorObjectError> {
        Selector::of_object(self.spec.as_ref().map(|spec| &spec.selector))
    }
}

impl Owner for DaemonSet {
    fn selector(&self) -> Result<Selector, SelectorObjectError> {
        Selector::of_object(self.spec.as_ref().map(|spec| &spec.selector))
    }
}

impl Owner for ReplicationController {
    /// A plain map. One without labels selects nothing: the API server lets none be stored, and every pod of a
    /// namespace is nothing to take by a mistake.
    fn selector(&self) -> Result<Selector, SelectorObjectError> {
        match self.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
            Some(labels) if !labels.is_empty() => Ok(Selector::of_set(labels)),
            _ => Selector::of_object(None),
        }
    }
}

/// Queues the owners that changed themselves, and those whom a change of something `owned` concerns.
pub(crate) fn feed<O, C>(scope: &Scope, queue: &WorkQueue<ObjectKey>, owners: &Store<O>, owned: &Store<C>)
where
    O: Owner,
    C: Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    work::feed(scope, queue, owners.changes(), itself);
    feed_dependents(scope, queue, owners, owned);
}

/// Queues the owners whom a change of something else `owned` concerns.
pub(crate) fn feed_dependents<O, C>(
    scope: &Scope,
    queue: &WorkQueue<ObjectKey>,
    owners: &Store<O>,
    owned: &Store<C>,
) where
    O: Owner,
    C: Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    let changed =
        owned.changes_by(|_, object: &C| concerned::<O>(object.metadata()).into_iter().collect::<Vec<_>>());
    let owners = owners.clone();
    work::feed(scope, queue, changed, move |whom| keys(whom, |namespace| owners.list_in(namespace)));
}

/// Whom a change of an object concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Concerned {
    Owner(ObjectKey),
    /// Anybody whose selector matches.
    Adopters {
        namespace: String,
        labels: BTreeMap<String, String>,
    },
}

/// None: nobody of this kind.
fn concerned<O: Owner>(object: &ObjectMeta) -> Option<Concerned> {
    let namespace = object.namespace.clone().unwrap_or_default();
    match controller_of(object) {
        Some(owner) if owner.kind == O::KIND => {
            Some(Concerned::Owner(ObjectKey::namespaced(&namespace, &owner.name)))
        }
        Some(_) => None,
        None => Some(Concerned::Adopters { namespace, labels: object.labels.clone().unwrap_or_default() }),
    }
}

fn keys<O: Owner>(concerned: Concerned, list_in: impl FnOnce(&str) -> Vec<Arc<O>>) -> Vec<ObjectKey> {
    match concerned {
        Concerned::Owner(key) => vec![key],
        Concerned::Adopters { namespace, labels } => {
            let matching = |owner: &&Arc<O>| owner.selector().is_ok_and(|selector| selector.matches(&labels));
            let all = list_in(&namespace);
            all.iter().filter(matching).map(|owner| ObjectKey::of(owner.metadata())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(owner: Option<&str>) -> ObjectMeta {
        let mut meta = json!({"name": "x", "namespace": "d", "labels": {"app": "web"}});
        if let Some(kind) = owner {
            meta["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}]);
        }
        serde_json::from_value(meta).unwrap()
    }

    fn set(name: &str, label: &str) -> Arc<ReplicaSet> {
        let set = json!({
            "metadata": {"name": name, "namespace": "d"},
            "spec": {"selector": {"matchLabels": {"app": label}}},
        });
        Arc::new(serde_json::from_value(set).unwrap())
    }

    #[test]
    fn a_change_concerns_the_owner_or_of_an_orphan_those_who_select_it() {
        let sets = || vec![set("a", "web"), set("b", "db"), set("c", "web")];
        let woken = |owner: Option<&str>| -> Vec<String> {
            let concerned = concerned::<ReplicaSet>(&meta(owner)).into_iter();
            concerned.flat_map(|whom| keys(whom, |_| sets())).map(|key| key.name.to_string()).collect()
        };
        assert_eq!(woken(Some("ReplicaSet")), ["o"]);
        assert_eq!(woken(Some("StatefulSet")), Vec::<String>::new());
        assert_eq!(woken(None), ["a", "c"]);
    }

    #[test]
    fn a_replication_controller_selects_by_a_map_and_without_one_nothing() {
        let labels = meta(None).labels;
        for (spec, selects) in [
            (json!({"selector": {"app": "web"}}), true),
            (json!({"selector": {"app": "web", "tier": "front"}}), false),
            (json!({"selector": {}}), false),
            (json!({}), false),
        ] {
            let controller: ReplicationController = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(controller.selector().unwrap().matches(&labels), selects, "{spec}");
        }
    }
}
