//! Carries out a plan: claims, creations, deletions.

use api::references::object_reference;
use client::ObjectKey;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

use super::{plan::Plan, replicated::Replicated};
use crate::pod_hands::{self, For, PodHands};

/// Creates and deletes pods for `set`, the view of an `R`. The error is the first of several, which are likely the same.
pub(super) async fn manage<R: Replicated>(
    hands: &PodHands,
    key: &ObjectKey,
    set: &ReplicaSet,
    plan: &Plan,
) -> Result<(), kube::Error> {
    let about = object_reference::<R>(&set.metadata);
    let who = For { key, about: &about };
    hands.create_all(who, &vec![new_pod::<R>(set); plan.create]).await?;
    hands.delete_all(who, &plan.delete).await
}

fn new_pod<R: Replicated>(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    pod_hands::new_pod::<R>(&set.metadata, template)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ReplicationController;
    use serde_json::json;

    use super::*;

    /// Of the pod that is made: its generateName; apiVersion, kind and UID of its owner; its labels.
    fn made<R: Replicated>(of: &R) -> serde_json::Value {
        let pod = new_pod::<R>(&of.as_set());
        let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
        json!([pod.metadata.generate_name, owner.api_version, owner.kind, owner.uid, pod.metadata.labels])
    }

    #[test]
    fn a_pod_names_its_owner_in_the_words_of_the_owners_kind() {
        let meta = json!({"name": "web", "namespace": "d", "uid": "u"});
        let template = json!({"metadata": {"labels": {"app": "web"}}});
        let set: ReplicaSet =
            serde_json::from_value(json!({"metadata": meta, "spec": {"selector": {}, "template": template}}))
                .unwrap();
        let labels = json!({"app": "web"});
        assert_eq!(made(&set), json!(["web-", "apps/v1", "ReplicaSet", "u", labels]));
        let controller: ReplicationController =
            serde_json::from_value(json!({"metadata": meta, "spec": {"template": template}})).unwrap();
        assert_eq!(made(&controller), json!(["web-", "v1", "ReplicationController", "u", labels]));
    }
}
