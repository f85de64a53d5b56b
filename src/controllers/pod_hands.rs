//! Makes, takes over and removes pods for a controller, and tells of it in events.

use std::sync::Arc;

use api::references::controller_reference;
use client::{Client, ErrorKind, EventType, ObjectKey, Recorder, kind_of};
use futures_util::future::join_all;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ObjectReference, Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{
    error::{PassError, message},
    ledger::Ledger,
    owners::Owner,
    ownership,
};

pub(crate) struct PodHands {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) ledger: Ledger<ObjectKey>,
}

/// For whom pods are made and removed.
#[derive(Clone, Copy)]
pub(crate) struct For<'a> {
    pub(crate) key: &'a ObjectKey,
    /// What events are about.
    pub(crate) about: &'a ObjectReference,
}

impl PodHands {
    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// `owner` is the object of kind `K` that takes pods or lets them go; `noun` is what errors call it.
    pub(crate) async fn claim<K>(
        &self,
        owner: &ObjectMeta,
        noun: &str,
        adopt: &[Arc<Pod>],
        release: &[Arc<Pod>],
    ) -> Result<(), PassError>
    where
        K: Owner + kube::Resource<Scope = NamespaceResourceScope> + client::Object,
    {
        let namespace = owner.namespace.as_deref().unwrap_or_default();
        let pods = self.pods(namespace);
        if !adopt.is_empty() {
            let owners: Api<K> = Api::namespaced(self.client.clone(), namespace);
            ownership::check_alive(&owners, owner, noun).await?;
        }
        let reference = controller_reference::<K>(owner);
        for pod in adopt {
            ownership::adopt(&pods, &pod.metadata, &reference).await?;
        }
        for pod in release {
            ownership::release(&pods, &pod.metadata, &reference.uid).await?;
        }
        Ok(())
    }

    /// Creates pods in batches that double with each success: a template that is refused is refused once, not a
    /// hundred times. The error is the first of several, which are likely the same.
    pub(crate) async fn create_all(&self, who: For<'_>, pods: &[Pod]) -> Result<(), kube::Error> {
        let (mut left, mut batch) = (pods, 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let results = join_all(now.iter().map(|pod| self.create(who, pod))).await;
            results.into_iter().collect::<Result<(), _>>()?;
            (left, batch) = (later, batch * 2);
        }
        Ok(())
    }

    async fn create(&self, who: For<'_>, pod: &Pod) -> Result<(), kube::Error> {
        match self.pods(who.key.namespace()).create(&PostParams::default(), pod).await {
            Ok(pod) => {
                self.ledger.wrote(who.key, &pod.metadata);
                let note = format!("Created pod: {}", pod.metadata.name.unwrap_or_default());
                self.recorder.event(who.about, EventType::Normal, "SuccessfulCreate", "", note);
                Ok(())
            }
            // Everything in the namespace is going: there is nothing to do and nothing to tell.
            Err(error) if kind_of(&error) == ErrorKind::NamespaceTerminating => Ok(()),
            Err(error) => {
                let note = format!("Error creating: {}", message(&error));
                self.recorder.event(who.about, EventType::Warning, "FailedCreate", "", note);
                Err(error)
            }
        }
    }

    /// Deletes all, whatever becomes of each. The error is the first of several.
    pub(crate) async fn delete_all(&self, who: For<'_>, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let deletions = join_all(pods.iter().map(|pod| self.delete(who, pod))).await;
        deletions.into_iter().collect()
    }

    async fn delete(&self, who: For<'_>, pod: &Pod) -> Result<(), kube::Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.clone();
        let only = Preconditions { uid: uid.clone(), resource_version: None };
        let params = DeleteParams::default().preconditions(only);
        match self.pods(who.key.namespace()).delete(name, &params).await {
            Ok(_) => {
                self.ledger.deleted(who.key, uid.as_deref().unwrap_or_default());
                let note = format!("Deleted pod: {name}");
                self.recorder.event(who.about, EventType::Normal, "SuccessfulDelete", "", note);
                Ok(())
            }
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            Err(error) => {
                let note = format!("Error deleting: {}", message(&error));
                self.recorder.event(who.about, EventType::Warning, "FailedDelete", "", note);
                Err(error)
            }
        }
    }
}

/// A pod of `template` that an object of kind `K` controls.
pub(crate) fn new_pod<K: k8s_openapi::Resource>(owner: &ObjectMeta, template: PodTemplateSpec) -> Pod {
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name.as_deref().unwrap_or_default())),
            namespace: owner.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference::<K>(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
