//! Writes ReplicaSets as planned, and the Deployment's status and revision.

use api::references::object_reference;
use client::{Client, ErrorKind, EventType, Recorder, kind_of};
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};

use api::constants::annotation::DEPLOYMENT_REVISION;

use super::{
    plan::{Plan, Step},
    status::{self, PROGRESSING},
};
use crate::{
    error::{During, PassError, message},
    template,
};

pub(super) struct Hands {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
}

impl Hands {
    pub(super) fn sets(&self, meta: &ObjectMeta) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default())
    }

    pub(super) fn deployments(&self, meta: &ObjectMeta) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default())
    }

    pub(super) async fn apply(&self, deployment: &Deployment, plan: Plan) -> Result<(), PassError> {
        for step in plan.steps {
            self.step(deployment, step).await?;
        }
        self.publish(deployment, plan.status, plan.revision).await
    }

    async fn step(&self, deployment: &Deployment, step: Step) -> Result<(), PassError> {
        let sets = self.sets(&deployment.metadata);
        match step {
            Step::Create { set, event } => self.create(deployment, &set, event).await,
            Step::Write { set, event } => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                sets.replace(name, &PostParams::default(), &set).await.during("write replica set", name)?;
                self.tell(deployment, event);
                Ok(())
            }
            Step::Delete { name, uid } => {
                let only = Preconditions { uid: Some(uid), resource_version: None };
                let params = DeleteParams::background().preconditions(only);
                match sets.delete(&name, &params).await {
                    Ok(_) => Ok(()),
                    Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(error).during("delete replica set", name),
                }
            }
        }
    }

    async fn create(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        event: Option<String>,
    ) -> Result<(), PassError> {
        let sets = self.sets(&deployment.metadata);
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let error = match sets.create(&PostParams::default(), set).await {
            Ok(_) => {
                self.tell(deployment, event);
                return Ok(());
            }
            Err(error) => error,
        };
        let mut next = deployment.status.clone().unwrap_or_default();
        match kind_of(&error) {
            ErrorKind::AlreadyExists => {
                let there = sets.get(name).await.during("read replica set", name)?;
                if is_ours(deployment, set, &there) {
                    return Ok(());
                }
                // Another template has this hash: the count makes another name at the next try.
                next.collision_count = Some(next.collision_count.unwrap_or(0) + 1);
                self.publish(deployment, next, None).await?;
                return Err(PassError::HashCollision { what: name.to_string() });
            }
            ErrorKind::NamespaceTerminating => return Ok(()),
            _ => {}
        }
        let note = format!("Failed to create new replica set {name:?}: {}", message(&error));
        let about = object_reference::<Deployment>(&deployment.metadata);
        self.recorder.event(&about, EventType::Warning, "ReplicaSetCreateError", "", note.as_str());
        if status::deadline(deployment).is_some() {
            let failed =
                status::condition(PROGRESSING, "False", "ReplicaSetCreateError", note, Timestamp::now());
            status::set(&mut next, failed);
            self.publish(deployment, next, None).await?;
        }
        Err(error).during("create replica set", name)
    }

    /// Status and revision go in one write of the status, as upstream's.
    pub(super) async fn publish(
        &self,
        deployment: &Deployment,
        next: DeploymentStatus,
        revision: Option<String>,
    ) -> Result<(), PassError> {
        let known = deployment.status.clone().unwrap_or_default();
        if revision.is_none() && status::same(&known, &next) {
            return Ok(());
        }
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let api = self.deployments(&deployment.metadata);
        let mut written = deployment.clone();
        written.status = Some(next);
        if let Some(revision) = &revision {
            let annotations = written.metadata.annotations.get_or_insert_default();
            annotations.insert(DEPLOYMENT_REVISION.into(), revision.clone());
        }
        let params = PostParams::default();
        match api.replace_status(name, &params, &written).await {
            Ok(_) => Ok(()),
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).during("write status of deployment", name),
        }
    }

    fn tell(&self, deployment: &Deployment, event: Option<String>) {
        if let Some(note) = event {
            let about = object_reference::<Deployment>(&deployment.metadata);
            self.recorder.event(&about, EventType::Normal, "ScalingReplicaSet", "", note);
        }
    }
}

/// Whether `there` is what an earlier pass of ours made.
fn is_ours(deployment: &Deployment, wanted: &ReplicaSet, there: &ReplicaSet) -> bool {
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    let template =
        |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    api::references::is_controlled_by(&there.metadata, uid)
        && template::same(&template(wanted), &template(there))
}
