//! A pod that was told that it would be disrupted, but that nobody asked to go: the condition is taken back.

use std::{sync::Arc, time::Duration};

use api::{conditions, pods, references::object_reference};
use client::{Client, ErrorKind, ObjectKey, Store, kind_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tracing::info;

use crate::{
    error::{During, PassError},
    work::{Next, Reconciler},
};

const TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// The kubelet takes the time it needs, and keeps its word.
const BY_KUBELET: &str = "TerminationByKubelet";

pub(super) struct Stale {
    pub(super) client: Client,
    pub(super) pods: Store<Pod>,
}

/// The condition of a pod that runs on as if nothing had been said; pure.
fn said(pod: &Pod) -> Option<&PodCondition> {
    if pods::is_terminating(pod) || pods::is_terminal(pod) {
        return None;
    }
    let said = conditions::get(pod.status.as_ref()?.conditions.as_deref(), DISRUPTION_TARGET)?;
    (said.status == conditions::TRUE && said.reason.as_deref() != Some(BY_KUBELET)).then_some(said)
}

/// For the queue: whether `pod` has to be looked at, now or later.
pub(super) fn concerns(pod: &Pod) -> bool {
    said(pod).is_some()
}

/// How long the condition may still stand; none: there is nothing to take back.
fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let since = said(pod)?.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(Duration::try_from(TIMEOUT - now.duration_since(since)).unwrap_or_default())
}

impl Reconciler for Stale {
    type Key = ObjectKey;
    const NAME: &'static str = "stale-disruption-controller";

    async fn ready(&self) {
        self.pods.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.pods.get(key).map(|pod| object_reference::<Pod>(&pod.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let now = Timestamp::now();
        let Some(pod) = self.pods.get(key) else { return Ok(Next::OnChange) };
        match left(&pod, now) {
            None => Ok(Next::OnChange),
            Some(left) if left.is_zero() => self.take_back(key, &pod, now).await,
            Some(left) => Ok(Next::After(left + Duration::from_millis(1))),
        }
    }
}

impl Stale {
    /// At the version that was looked at: who evicts it at this moment wins.
    async fn take_back(&self, key: &ObjectKey, pod: &Arc<Pod>, now: Timestamp) -> Result<Next, PassError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
            "status": {"conditions": [{
                "type": DISRUPTION_TARGET,
                "status": conditions::FALSE,
                "reason": null,
                "message": null,
                "observedGeneration": pod.metadata.generation,
                "lastTransitionTime": api::time::seconds(now),
            }]},
        });
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(Next::OnChange),
            patched => {
                patched.map(drop).during("take back the disruption of", key)?;
                info!(pod = %key, "pod was not disrupted as it was told");
                Ok(Next::OnChange)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(condition: serde_json::Value, phase: &str, going: bool) -> Pod {
        let mut pod =
            json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": [condition]}});
        if going {
            pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_condition_stands_for_two_minutes_unless_the_pod_goes() {
        let said = |status: &str, reason: &str| {
            json!({"type": "DisruptionTarget", "status": status, "reason": reason,
                "lastTransitionTime": "1970-01-01T00:00:10Z"})
        };
        let evicted = said("True", "EvictionByEvictionAPI");
        let two_minutes = Some(Duration::from_secs(120));
        for (pod, second, expected) in [
            (pod(evicted.clone(), "Running", false), 10, two_minutes),
            (pod(evicted.clone(), "Running", false), 100, Some(Duration::from_secs(30))),
            (pod(evicted.clone(), "Running", false), 500, Some(Duration::ZERO)),
            (pod(evicted.clone(), "Running", true), 500, None),
            (pod(evicted, "Failed", false), 500, None),
            (pod(said("True", "TerminationByKubelet"), "Running", false), 500, None),
            (pod(said("False", ""), "Running", false), 500, None),
        ] {
            assert_eq!(left(&pod, Timestamp::from_second(second).unwrap()), expected, "{pod:?} at {second}");
        }
    }
}
