//! Asks the API about owners, deletes, and drops references and finalizers.

use api::constants::finalizer::{FOREGROUND, ORPHAN};
use client::{Client, ErrorKind, ObjectKey, kind_of};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use serde_json::json;
use tracing::info;

use super::graph::{Graph, Place, Vertex};
use crate::{
    error::{During, PassError},
    resources::ResourceType,
};

pub(super) struct Hands {
    pub(super) client: Client,
    pub(super) graph: Graph,
}

impl Hands {
    fn api(&self, resource: &ResourceType, namespace: &str) -> Api<DynamicObject> {
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource.resource)
        } else {
            Api::all_with(self.client.clone(), &resource.resource)
        }
    }

    /// Whether the API has no object of this owner's UID. A kind that nobody serves is unknown, not absent.
    pub(super) async fn is_absent(
        &self,
        owner: &OwnerReference,
        kind: &ResourceType,
        dependent: &ObjectKey,
    ) -> Result<bool, PassError> {
        let api = self.api(kind, dependent.namespace());
        let found = api.get_metadata_opt(&owner.name).await.during("read owner", &owner.name)?;
        Ok(found.is_none_or(|found| found.metadata.uid.as_deref() != Some(&owner.uid)))
    }

    pub(super) async fn delete(
        &self,
        place: &Place,
        vertex: &Vertex,
        policy: PropagationPolicy,
    ) -> Result<(), PassError> {
        let Some(part) = self.graph.part(&place.resource) else { return Ok(()) };
        let params = DeleteParams {
            propagation_policy: Some(policy.clone()),
            preconditions: Some(Preconditions { uid: Some(vertex.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api(&part.resource, place.key.namespace()).delete(&place.key.name, &params).await {
            Ok(_) => {
                info!(object = %place, ?policy, "garbage collected");
                Ok(())
            }
            // Gone, or another object of its name.
            Err(error) if matches!(kind_of(&error), ErrorKind::NotFound | ErrorKind::Conflict) => Ok(()),
            Err(error) => Err(error).during("delete", place),
        }
    }

    pub(super) async fn drop_references(
        &self,
        place: &Place,
        uid: &str,
        owners: &[String],
    ) -> Result<(), PassError> {
        self.rewrite(place, uid, |meta| {
            let references = meta.owner_references.clone().unwrap_or_default();
            let kept: Vec<&OwnerReference> =
                references.iter().filter(|reference| !owners.contains(&reference.uid)).collect();
            (kept.len() != references.len()).then(|| json!({"ownerReferences": kept}))
        })
        .await
    }

    /// Lets every dependent go, then the owner.
    pub(super) async fn orphan_dependents(&self, place: &Place, vertex: &Vertex) -> Result<(), PassError> {
        for (dependent, known) in self.graph.dependents(&vertex.uid) {
            self.drop_references(&dependent, &known.uid, std::slice::from_ref(&vertex.uid)).await?;
        }
        self.drop_finalizer(place, &vertex.uid, ORPHAN).await
    }

    pub(super) async fn finish_foreground(&self, place: &Place, vertex: &Vertex) -> Result<(), PassError> {
        self.drop_finalizer(place, &vertex.uid, FOREGROUND).await
    }

    async fn drop_finalizer(&self, place: &Place, uid: &str, finalizer: &str) -> Result<(), PassError> {
        self.rewrite(place, uid, |meta| {
            let finalizers = meta.finalizers.clone().unwrap_or_default();
            let kept: Vec<&String> = finalizers.iter().filter(|name| *name != finalizer).collect();
            (kept.len() != finalizers.len()).then(|| json!({"finalizers": kept}))
        })
        .await
    }

    /// Patches the metadata of the object of this UID as it is now. A list is replaced as a whole, so the
    /// version must be the one that was read.
    async fn rewrite(
        &self,
        place: &Place,
        uid: &str,
        change: impl Fn(&ObjectMeta) -> Option<serde_json::Value>,
    ) -> Result<(), PassError> {
        let Some(part) = self.graph.part(&place.resource) else { return Ok(()) };
        let api = self.api(&part.resource, place.key.namespace());
        let Some(found) = api.get_metadata_opt(&place.key.name).await.during("read", place)? else {
            return Ok(());
        };
        let meta = found.metadata;
        let Some(mut metadata) = Some(&meta).filter(|meta| meta.uid.as_deref() == Some(uid)).and_then(change)
        else {
            return Ok(());
        };
        metadata["uid"] = json!(uid);
        metadata["resourceVersion"] = json!(meta.resource_version);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        match api.patch(&place.key.name, &PatchParams::default(), &patch).await {
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            patched => patched.map(drop).during("patch", place),
        }
    }
}
