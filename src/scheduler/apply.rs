//! Writes what was decided: bindings, conditions, events.

use api::{conditions, references};
use client::{Client, ErrorKind, EventType, Recorder, kind_of};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tracing::{debug, warn};

use crate::pod::PodInfo;

const POD_SCHEDULED: &str = "PodScheduled";
/// What an event's note may hold.
const NOTE_LIMIT: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("bind pod {pod} to node {node}")]
    Bind {
        pod: String,
        node: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    /// The pod is gone, or is bound already: there is nothing left to decide.
    pub(crate) fn is_settled(&self) -> bool {
        let ApplyError::Bind { source, .. } = self;
        matches!(kind_of(source), ErrorKind::NotFound | ErrorKind::Conflict)
    }
}

/// The writer of one scheduler.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
}

impl Writer {
    /// Puts the pod on the node, if it is still the pod that was planned.
    pub(crate) async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), ApplyError> {
        let (namespace, name) = (pod.key.namespace(), &*pod.key.name);
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let written: Result<kube::core::Status, _> =
            api.create_subresource("binding", name, &PostParams::default(), &binding).await;
        written.map_err(|source| ApplyError::Bind {
            pod: pod.key.to_string(),
            node: node.into(),
            source: Box::new(source),
        })?;
        let note = format!("Successfully assigned {} to {node}", pod.key);
        self.event(pod, EventType::Normal, "Scheduled", "Binding", &note);
        Ok(())
    }

    pub(crate) fn failed(&self, pod: &PodInfo, message: &str) {
        self.event(pod, EventType::Warning, "FailedScheduling", "Scheduling", message);
    }

    /// Says in the pod's status why it waits.
    pub(crate) async fn explain(&self, pod: &PodInfo, condition: &PodCondition) {
        // Strategic, by the condition's type: the node's own conditions are not ours to write.
        let patch =
            Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.key.namespace());
        match api.patch_status(&pod.key.name, &PatchParams::default(), &patch).await {
            Ok(_) => debug!(pod = %pod.key, uid = %pod.uid, "pod condition written"),
            Err(error) if matches!(kind_of(&error), ErrorKind::NotFound | ErrorKind::Conflict) => {}
            Err(error) => {
                warn!(pod = %pod.key, error = &error as &dyn std::error::Error, "pod condition not written");
            }
        }
    }

    fn event(&self, pod: &PodInfo, kind: EventType, reason: &str, action: &str, note: &str) {
        let about = references::object_reference::<Pod>(&pod.pod.metadata);
        self.recorder.event(&about, kind, reason, action, truncated(note));
    }
}

/// The condition to write, unless the pod's status says the same.
pub(crate) fn explanation(
    pod: &PodInfo,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<PodCondition> {
    let status = pod.pod.status.as_ref();
    let old = conditions::get(status.and_then(|s| s.conditions.as_deref()), POD_SCHEDULED);
    let since =
        old.filter(|old| old.status == conditions::FALSE).and_then(|old| old.last_transition_time.clone());
    let condition = PodCondition {
        type_: POD_SCHEDULED.into(),
        status: conditions::FALSE.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        observed_generation: pod.pod.metadata.generation,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        last_probe_time: None,
    };
    let same = |old: &PodCondition| {
        conditions::Condition::says_the_same(old, &condition)
            && old.observed_generation == condition.observed_generation
    };
    (!old.is_some_and(same)).then_some(condition)
}

fn truncated(note: &str) -> String {
    if note.len() <= NOTE_LIMIT {
        return note.into();
    }
    let suffix = " ...";
    let mut end = NOTE_LIMIT - suffix.len();
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &note[..end])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_condition_is_written_once_and_keeps_its_moment() {
        let pod = |conditions: &[&PodCondition]| {
            let pod =
                json!({"metadata": {"name": "a", "generation": 1}, "status": {"conditions": conditions}});
            PodInfo::of(&Arc::new(serde_json::from_value(pod).unwrap()))
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = explanation(&pod(&[]), "Unschedulable", "no", at(1)).unwrap();
        assert_eq!(first.last_transition_time, Some(Time(at(1))));
        assert_eq!(explanation(&pod(&[&first]), "Unschedulable", "no", at(2)), None);
        let second = explanation(&pod(&[&first]), "Unschedulable", "still no", at(2)).unwrap();
        assert_eq!(second.last_transition_time, Some(Time(at(1))));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(truncated("short"), "short");
        let cut = truncated(&"é".repeat(600));
        assert!(cut.len() <= NOTE_LIMIT && cut.ends_with("é ..."));
    }
}
