//! The kinds that ask for so many pods of a template: what the one code for them needs to know of each.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{
            ReplicationController, ReplicationControllerCondition, ReplicationControllerSpec,
            ReplicationControllerStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde::Serialize;

use crate::{names, owners::Owner};

pub(super) trait Replicated:
    Owner + kube::Resource<Scope = NamespaceResourceScope> + client::Object + Serialize
{
    /// Whose identity writes, and whose name its events bear.
    const CONTROLLER: &'static str;
    /// What errors call it.
    const NOUN: &'static str;

    /// The ReplicaSet that asks for the same; its metadata are the object's own.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;

    /// What of a status this kind has a place for.
    fn shown(status: ReplicaSetStatus) -> ReplicaSetStatus;

    /// The object as it is to be written.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = names::REPLICA_SET;
    const NOUN: &'static str = "replica set";

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn shown(status: ReplicaSetStatus) -> ReplicaSetStatus {
        status
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = names::REPLICATION;
    const NOUN: &'static str = "replication controller";

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: self.spec.as_ref().map(as_set_spec),
            status: self.status.as_ref().map(as_set_status),
        })
    }

    /// Pods that are going are not counted.
    fn shown(status: ReplicaSetStatus) -> ReplicaSetStatus {
        ReplicaSetStatus { terminating_replicas: None, ..status }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(own_status(status)), ..self.clone() }
    }
}

fn as_set_spec(spec: &ReplicationControllerSpec) -> ReplicaSetSpec {
    ReplicaSetSpec {
        replicas: spec.replicas,
        min_ready_seconds: spec.min_ready_seconds,
        selector: LabelSelector { match_labels: spec.selector.clone(), match_expressions: None },
        template: spec.template.clone(),
    }
}

fn as_set_status(status: &ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |condition: &ReplicationControllerCondition| ReplicaSetCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        last_transition_time: condition.last_transition_time.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    };
    ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        terminating_replicas: None,
        observed_generation: status.observed_generation,
        conditions: status.conditions.as_ref().map(|all| all.iter().map(condition).collect()),
    }
}

fn own_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let condition = |condition: ReplicaSetCondition| ReplicationControllerCondition {
        type_: condition.type_,
        status: condition.status,
        last_transition_time: condition.last_transition_time,
        reason: condition.reason,
        message: condition.message,
    };
    ReplicationControllerStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn controller() -> Value {
        json!({
            "apiVersion": "v1", "kind": "ReplicationController",
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 3, "resourceVersion": "7"},
            "spec": {
                "replicas": 2, "minReadySeconds": 5, "selector": {"app": "web"},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}},
            },
            "status": {
                "replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 1, "availableReplicas": 1,
                "observedGeneration": 2,
                "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                    "message": "quota", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        })
    }

    fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
        serde_json::from_value(object.clone()).unwrap()
    }

    #[test]
    fn a_replication_controller_is_seen_as_the_replica_set_that_asks_for_the_same() {
        let of: ReplicationController = read(&controller());
        let mut expected = controller();
        expected["apiVersion"] = json!("apps/v1");
        expected["kind"] = json!("ReplicaSet");
        expected["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
        assert_eq!(*of.as_set(), read::<ReplicaSet>(&expected));
    }

    #[test]
    fn what_a_replication_controller_does_not_say_its_view_does_not_say_either() {
        let bare: ReplicationController = read(&json!({"metadata": {"name": "x"}, "spec": {}}));
        let view = bare.as_set().into_owned();
        let spec = view.spec.unwrap();
        assert_eq!((spec.replicas, spec.template, view.status), (None, None, None));
        assert_eq!(ReplicationController::default().as_set().spec, None);
    }

    #[test]
    fn a_status_comes_back_but_for_what_this_kind_has_no_place_for() {
        let before: ReplicationController = read(&controller());
        let seen = before.as_set().into_owned().status.unwrap();
        let counted = ReplicaSetStatus { terminating_replicas: Some(1), ..seen.clone() };
        assert_eq!(ReplicationController::shown(counted.clone()), seen);
        assert_eq!(before.with_status(counted.clone()), before);
        assert_eq!(ReplicaSet::shown(counted.clone()), counted);
        assert_eq!(ReplicaSet::default().with_status(counted.clone()).status, Some(counted));
    }
}
