//! Pods leave nodes with NoExecute taints when their tolerations run out.

use std::{sync::Arc, time::Duration};

use api::{pods, references::object_reference, taints};
use client::{Client, ErrorKind, EventType, ObjectKey, Recorder, Store, kind_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tracing::info;

use crate::{
    error::{During, PassError},
    work::{Next, Reconciler},
};

pub(super) struct Evictions {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
    pub(super) pods: Store<Pod>,
    pub(super) nodes: Store<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    Until(Timestamp),
    No,
}

/// How long `pod` may stay beside `taints`; pure. Each taint must be tolerated; the shortest toleration of
/// those that are used counts, from the moment the last taint came (or the pod, if later).
fn stay(pod: &Pod, taints: &[Taint], now: Timestamp) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let evicting: Vec<&Taint> = taints.iter().filter(|taint| taints::evicts(taint)).collect();
    if evicting.is_empty() {
        return Stay::Forever;
    }
    if evicting.iter().any(|taint| !taints::is_tolerated(taint, tolerations)) {
        return Stay::No;
    }
    let used = tolerations
        .iter()
        .filter(|toleration| evicting.iter().any(|taint| taints::tolerates(toleration, taint)));
    let Some(shortest) = used.filter_map(|toleration| toleration.toleration_seconds).min() else {
        return Stay::Forever;
    };
    let came = evicting.iter().filter_map(|taint| taint.time_added.as_ref().map(|time| time.0)).max();
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let since = came.max(created).unwrap_or(now);
    let until = since.checked_add(SignedDuration::from_secs(shortest.max(0))).unwrap_or(Timestamp::MAX);
    if until <= now { Stay::No } else { Stay::Until(until) }
}

impl Reconciler for Evictions {
    type Key = ObjectKey;
    const NAME: &'static str = "taint-eviction-controller";

    async fn ready(&self) {
        self.pods.wait_synced().await;
        self.nodes.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.pods.get(key).map(|pod| object_reference::<Pod>(&pod.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(pod) = self.pods.get(key).filter(|pod| pods::is_active(pod)) else {
            return Ok(Next::OnChange);
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let Some(node) = self.nodes.get(&ObjectKey::cluster(node)) else { return Ok(Next::OnChange) };
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let now = Timestamp::now();
        match stay(&pod, taints, now) {
            Stay::Forever => Ok(Next::OnChange),
            Stay::Until(until) => {
                let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                Ok(Next::After(left + Duration::from_millis(1)))
            }
            Stay::No => {
                self.evict(key, &pod).await?;
                Ok(Next::OnChange)
            }
        }
    }
}

impl Evictions {
    async fn evict(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Result<(), PassError> {
        let about = object_reference::<Pod>(&pod.metadata);
        let note = format!("Marking for deletion Pod {key}");
        self.recorder.event(&about, EventType::Normal, "TaintManagerEviction", "", note);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let patch = json!({"status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": api::time::seconds(Timestamp::now()),
        }]}});
        let params = PatchParams::default();
        match api.patch_status(&key.name, &params, &Patch::Strategic(patch)).await {
            Err(error) if kind_of(&error) == ErrorKind::NotFound => return Ok(()),
            patched => patched.map(drop).during("mark for disruption", key)?,
        }
        let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match api.delete(&key.name, &DeleteParams::default().preconditions(only)).await {
            Err(error) if !matches!(kind_of(&error), ErrorKind::NotFound | ErrorKind::Conflict) => {
                Err(error).during("evict", key)
            }
            _ => {
                info!(pod = %key, "pod evicted by a taint of its node");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(tolerations: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"containers": [], "tolerations": tolerations},
        }))
        .unwrap()
    }

    fn taint(key: &str, effect: &str, at: i64) -> Taint {
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(second(at));
        Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(time) }
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_pod_stays_as_long_as_its_shortest_toleration() {
        let five_minutes =
            json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        let forever = json!([{"operator": "Exists"}]);
        let one = [taint("a", "NoExecute", 100)];
        let two = [taint("a", "NoExecute", 100), taint("b", "NoExecute", 100)];
        let soft = [taint("a", "NoSchedule", 100)];
        let cases = [
            (json!([]), &soft[..], 100, Stay::Forever),
            (json!([]), &one[..], 100, Stay::No),
            (five_minutes.clone(), &one[..], 150, Stay::Until(second(400))),
            (five_minutes.clone(), &one[..], 400, Stay::No),
            (five_minutes, &two[..], 150, Stay::No),
            (forever, &two[..], 9999, Stay::Forever),
        ];
        for (tolerations, taints, now, expected) in cases {
            assert_eq!(stay(&pod(tolerations.clone()), taints, second(now)), expected, "{tolerations}");
        }
    }
}
