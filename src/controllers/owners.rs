//! Wakes the owners of what changed: Deployments for ReplicaSets, ReplicaSets for pods.

use std::{collections::BTreeMap, sync::Arc};

use api::{references::controller_of, selector::Selector};
use client::{ObjectKey, Store, WorkQueue};
use k8s_openapi::{
    Metadata, Resource,
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use lifecycle::Scope;

use crate::work::{self, itself};

/// A kind whose objects select what they own.
pub(crate) trait Owner: Resource + Metadata<Ty = ObjectMeta> + Send + Sync + 'static {
    fn selector(&self) -> Option<&LabelSelector>;
}

impl Owner for Deployment {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }
}

impl Owner for ReplicaSet {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }
}

/// Queues the owners that changed themselves, and those whom a change of something `owned` concerns.
pub(crate) fn feed<O, C>(scope: &Scope, queue: &WorkQueue<ObjectKey>, owners: &Store<O>, owned: &Store<C>)
where
    O: Owner,
    C: Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    work::feed(scope, queue, owners.changes(), itself);
    let changed = owned.changes_by(|_, object: &C| vec![concerned::<O>(object.metadata())]);
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
    Nobody,
}

fn concerned<O: Owner>(object: &ObjectMeta) -> Concerned {
    let namespace = object.namespace.clone().unwrap_or_default();
    match controller_of(object) {
        Some(owner) if owner.kind == O::KIND => {
            Concerned::Owner(ObjectKey::namespaced(&namespace, &owner.name))
        }
        Some(_) => Concerned::Nobody,
        None => Concerned::Adopters { namespace, labels: object.labels.clone().unwrap_or_default() },
    }
}

fn keys<O: Owner>(concerned: Concerned, list_in: impl FnOnce(&str) -> Vec<Arc<O>>) -> Vec<ObjectKey> {
    match concerned {
        Concerned::Owner(key) => vec![key],
        Concerned::Nobody => Vec::new(),
        Concerned::Adopters { namespace, labels } => {
            let matching = |owner: &&Arc<O>| {
                let selector = owner.selector().map(|selector| Selector::of_object(Some(selector)));
                matches!(selector, Some(Ok(selector)) if selector.matches(&labels))
            };
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
            let keys = keys(concerned::<ReplicaSet>(&meta(owner)), |_| sets());
            keys.into_iter().map(|key| key.name.to_string()).collect()
        };
        assert_eq!(woken(Some("ReplicaSet")), ["o"]);
        assert_eq!(woken(Some("StatefulSet")), Vec::<String>::new());
        assert_eq!(woken(None), ["a", "c"]);
    }
}
