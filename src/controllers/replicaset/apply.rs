//! Carries out a plan: claims, creations with a slow start, deletions.

use std::sync::Arc;

use api::references::{controller_reference, object_reference};
use client::{Client, ErrorKind, EventType, ObjectKey, Recorder, kind_of};
use futures_util::future::join_all;
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::{plan::Plan, replicated::Replicated};
use crate::{
    error::{During, PassError, message},
    ledger::Ledger,
    ownership,
};

pub(super) struct Hands {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
    pub(super) ledger: Ledger<ObjectKey>,
}

impl Hands {
    /// `set` is the view of an `R`, as in all that follows.
    pub(super) async fn claim<R: Replicated>(&self, set: &ReplicaSet, plan: &Plan) -> Result<(), PassError> {
        let meta = &set.metadata;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace(meta));
        if !plan.adopt.is_empty() {
            self.check_alive::<R>(meta).await?;
        }
        let owner = controller_reference::<R>(meta);
        for pod in &plan.adopt {
            ownership::adopt(&pods, &pod.metadata, &owner).await?;
        }
        for pod in &plan.release {
            ownership::release(&pods, &pod.metadata, &owner.uid).await?;
        }
        Ok(())
    }

    /// The cache may not show yet that the owner is going; what it adopted then would be lost.
    async fn check_alive<R: Replicated>(&self, meta: &ObjectMeta) -> Result<(), PassError> {
        let api: Api<R> = Api::namespaced(self.client.clone(), namespace(meta));
        let name = meta.name.as_deref().unwrap_or_default();
        let fresh = api.get(name).await.during("read", name)?;
        let fresh = fresh.metadata();
        if fresh.uid != meta.uid || fresh.deletion_timestamp.is_some() {
            return Err(PassError::Replaced { what: format!("{} {name}", R::NOUN) });
        }
        Ok(())
    }

    /// Creates and deletes pods. The error is the first of several, which are likely the same.
    pub(super) async fn manage<R: Replicated>(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        plan: &Plan,
    ) -> Result<(), kube::Error> {
        let (mut left, mut batch) = (plan.create, 1);
        while left > 0 {
            let now = batch.min(left);
            let results = join_all((0..now).map(|_| self.create::<R>(key, set))).await;
            results.into_iter().collect::<Result<(), _>>()?;
            left -= now;
            batch *= 2;
        }
        let deletions = join_all(plan.delete.iter().map(|pod| self.delete::<R>(key, set, pod))).await;
        deletions.into_iter().collect()
    }

    async fn create<R: Replicated>(&self, key: &ObjectKey, set: &ReplicaSet) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&set.metadata));
        let about = object_reference::<R>(&set.metadata);
        match api.create(&PostParams::default(), &new_pod::<R>(set)).await {
            Ok(pod) => {
                self.ledger.wrote(key, &pod.metadata);
                let name = pod.metadata.name.unwrap_or_default();
                let note = format!("Created pod: {name}");
                self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", "", note);
                Ok(())
            }
            // Everything in the namespace is going: there is nothing to do and nothing to tell.
            Err(error) if kind_of(&error) == ErrorKind::NamespaceTerminating => Ok(()),
            Err(error) => {
                let note = format!("Error creating: {}", message(&error));
                self.recorder.event(&about, EventType::Warning, "FailedCreate", "", note);
                Err(error)
            }
        }
    }

    async fn delete<R: Replicated>(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        pod: &Arc<Pod>,
    ) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&set.metadata));
        let about = object_reference::<R>(&set.metadata);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.clone();
        let params =
            DeleteParams::default().preconditions(Preconditions { uid: uid.clone(), resource_version: None });
        match api.delete(name, &params).await {
            Ok(_) => {
                self.ledger.deleted(key, uid.as_deref().unwrap_or_default());
                let note = format!("Deleted pod: {name}");
                self.recorder.event(&about, EventType::Normal, "SuccessfulDelete", "", note);
                Ok(())
            }
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            Err(error) => {
                let note = format!("Error deleting: {}", message(&error));
                self.recorder.event(&about, EventType::Warning, "FailedDelete", "", note);
                Err(error)
            }
        }
    }
}

fn new_pod<R: Replicated>(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference::<R>(&set.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

pub(super) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
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
