//! Labels and annotations on sandboxes and containers, as upstream writes them: what survives a restart of the agent,
//! and what other tools (crictl, log collectors, upstream's kubelet) read.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pods::{PodName, PodUid};

pub(super) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(super) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(super) const CONTAINER_NAME: &str = "io.kubernetes.container.name";

const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

pub(super) type Map = BTreeMap<String, String>;

pub(super) fn of_sandbox(pod: &Pod) -> Map {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    labels
}

pub(super) fn of_container(pod: &Pod, container: &Container) -> Map {
    let mut labels = Map::from_iter(identity(pod));
    labels.insert(CONTAINER_NAME.into(), container.name.clone());
    labels
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    let PodName { namespace, name } = PodName::of(pod);
    [
        (POD_NAME.into(), name),
        (POD_NAMESPACE.into(), namespace),
        (POD_UID.into(), PodUid::of(pod).as_str().into()),
    ]
}

pub(super) fn annotations_of_container(pod: &Pod, container: &Container, hash: u64, attempt: u32) -> Map {
    let mut map = Map::new();
    map.insert(HASH.into(), format!("{hash:x}"));
    map.insert(RESTART_COUNT.into(), attempt.to_string());
    map.insert(MESSAGE_PATH.into(), container.termination_message_path.clone().unwrap_or_default());
    map.insert(MESSAGE_POLICY.into(), container.termination_message_policy.clone().unwrap_or_default());
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        map.insert(DELETION_GRACE.into(), grace.to_string());
    }
    if let Some(grace) = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds) {
        map.insert(TERMINATION_GRACE.into(), grace.to_string());
    }
    let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(json) = pre_stop.and_then(|hook| serde_json::to_string(hook).ok()) {
        map.insert(PRE_STOP.into(), json);
    }
    if let Some(json) = container.ports.as_ref().and_then(|ports| serde_json::to_string(ports).ok()) {
        map.insert(PORTS.into(), json);
    }
    map
}

/// What a container's annotations say of how it was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) hash: Option<u64>,
    pub(super) attempt: Option<u32>,
    pub(super) message_path: Option<String>,
    pub(super) message_falls_back_to_logs: bool,
}

pub(super) fn read(annotations: &Map) -> Made {
    Made {
        hash: annotations.get(HASH).and_then(|hash| u64::from_str_radix(hash, 16).ok()),
        attempt: annotations.get(RESTART_COUNT).and_then(|count| count.parse().ok()),
        message_path: annotations.get(MESSAGE_PATH).filter(|path| !path.is_empty()).cloned(),
        message_falls_back_to_logs: annotations
            .get(MESSAGE_POLICY)
            .is_some_and(|policy| policy == "FallbackToLogsOnError"),
    }
}

/// The pod that labels name; `None` for what no kubelet made.
pub(super) fn pod_of(labels: &Map) -> Option<(PodUid, PodName)> {
    let uid = labels.get(POD_UID)?;
    let name = PodName {
        namespace: labels.get(POD_NAMESPACE).cloned().unwrap_or_default(),
        name: labels.get(POD_NAME).cloned().unwrap_or_default(),
    };
    Some((PodUid::from(uid.as_str()), name))
}
