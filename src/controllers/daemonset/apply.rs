//! Carries out what was decided: revisions, pods, the status.

use api::{constants::label::CONTROLLER_REVISION_HASH, references::object_reference};
use client::{ErrorKind, EventType, ObjectKey, kind_of};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus},
    core::v1::Pod,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    failures::Failures,
    history::{self, Current, Untidy},
    placement::new_pod,
    plan::{Plan, Why},
    status,
};
use crate::{
    error::{During, PassError},
    pod_hands::{For, PodHands},
};

pub(super) struct Hands {
    pub(super) pods: PodHands,
    pub(super) failures: Failures,
}

impl Hands {
    pub(super) fn revisions(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.pods.client.clone(), namespace)
    }

    pub(super) fn sets(&self, namespace: &str) -> Api<DaemonSet> {
        Api::namespaced(self.pods.client.clone(), namespace)
    }

    /// Pods first: one whose revision is gone would count as old.
    pub(super) async fn tidy(&self, key: &ObjectKey, untidy: &Untidy) -> Result<(), PassError> {
        for revision in &untidy.revisions {
            self.write(key, revision).await?;
        }
        for (pod, hash) in &untidy.pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let labels = json!({CONTROLLER_REVISION_HASH: hash});
            let patch = Patch::Merge(json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}}));
            let pods = self.pods.pods(key.namespace());
            match pods.patch(name, &PatchParams::default(), &patch).await {
                Err(error) if kind_of(&error) == ErrorKind::NotFound => {}
                answer => drop(answer.during("label pod", name)?),
            }
        }
        for duplicate in &untidy.duplicates {
            self.remove(key, duplicate).await?;
        }
        Ok(())
    }

    /// Sees to it that the current revision is there. Its hash.
    pub(super) async fn settle(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        current: Current,
    ) -> Result<String, PassError> {
        let hash = |revision: &ControllerRevision| history::hash(revision).unwrap_or_default().to_string();
        match current {
            Current::Known(hash) => Ok(hash),
            Current::Promoted(revision) => {
                self.write(key, &revision).await?;
                Ok(hash(&revision))
            }
            Current::Missing(revision) => Ok(hash(&self.create(key, set, *revision).await?)),
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        revision: ControllerRevision,
    ) -> Result<ControllerRevision, PassError> {
        let (revisions, name) = (self.revisions(key.namespace()), revision.metadata.name.as_deref());
        let name = name.unwrap_or_default();
        match revisions.create(&PostParams::default(), &revision).await {
            Err(error) if kind_of(&error) == ErrorKind::AlreadyExists => {}
            answer => return answer.during("create controller revision", name),
        }
        let there = revisions.get(name).await.during("read controller revision", name)?;
        if history::is_same(set, &there) {
            return Ok(there);
        }
        // Another template has this hash: the count makes another name at the next try, unless it has risen already.
        let mut fresh = self.sets(key.namespace()).get(&key.name).await.during("read daemon set", key)?;
        let count = |set: &DaemonSet| set.status.as_ref().and_then(|status| status.collision_count);
        if count(&fresh) == count(set) {
            let risen = count(set).unwrap_or(0) + 1;
            fresh.status.get_or_insert_default().collision_count = Some(risen);
            let sets = self.sets(key.namespace());
            let written = sets.replace_status(&key.name, &PostParams::default(), &fresh).await;
            written.during("write status of daemon set", key)?;
        }
        Err(PassError::HashCollision { what: name.to_string() })
    }

    async fn write(&self, key: &ObjectKey, revision: &ControllerRevision) -> Result<(), PassError> {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let written = self.revisions(key.namespace()).replace(name, &PostParams::default(), revision).await;
        written.map(drop).during("write controller revision", name)
    }

    pub(super) async fn remove(
        &self,
        key: &ObjectKey,
        revision: &ControllerRevision,
    ) -> Result<(), PassError> {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let only = Preconditions { uid: revision.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().preconditions(only);
        match self.revisions(key.namespace()).delete(name, &params).await {
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            answer => answer.map(drop).during("delete controller revision", name),
        }
    }

    /// Creates and deletes pods. That some cannot be created keeps no other from going: its going may be what makes room.
    pub(super) async fn manage(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        plan: &Plan,
    ) -> Result<(), kube::Error> {
        let about = object_reference::<DaemonSet>(&set.metadata);
        let who = For { key, about: &about };
        let new: Vec<Pod> = plan.create.iter().map(|node| new_pod(set, hash, node)).collect();
        let created = self.pods.create_all(who, &new).await;
        for removal in &plan.delete {
            let name = removal.pod.metadata.name.as_deref().unwrap_or_default();
            let found = |phase: &str, then: &str| {
                format!(
                    "Found {phase} daemon pod {}/{name} on node {}, will try to {then} it",
                    key.namespace(),
                    removal.node
                )
            };
            match removal.why {
                Why::Failed => {
                    self.failures.note(key, set, &removal.node, Instant::now());
                    let note = found("failed", "kill");
                    self.pods.recorder.event(&about, EventType::Warning, "FailedDaemonPod", "", note);
                }
                Why::Succeeded => {
                    let note = found("succeeded", "delete");
                    self.pods.recorder.event(&about, EventType::Normal, "SucceededDaemonPod", "", note);
                }
                Why::Excess | Why::Outdated => {}
            }
        }
        let going: Vec<_> = plan.delete.iter().map(|removal| removal.pod.clone()).collect();
        let deleted = self.pods.delete_all(who, &going).await;
        created.and(deleted)
    }

    /// Writes the status, unless it is there already.
    pub(super) async fn publish(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        next: DaemonSetStatus,
    ) -> Result<(), PassError> {
        if set.status.as_ref().is_some_and(|known| status::same(known, &next)) {
            return Ok(());
        }
        let written = DaemonSet { status: Some(next), ..set.clone() };
        match self.sets(key.namespace()).replace_status(&key.name, &PostParams::default(), &written).await {
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            answer => answer.map(drop).during("write status of daemon set", key),
        }
    }
}
