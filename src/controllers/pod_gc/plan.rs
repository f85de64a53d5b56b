//! Which pods to remove.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use api::{
    constants::taint::OUT_OF_SERVICE,
    pods::{is_bound, is_ready, is_terminal, is_terminating},
};
use k8s_openapi::api::core::v1::{Node, Pod};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Finished,
    /// Its node is gone.
    Orphaned,
    Unscheduled,
    /// Its node is declared out of service and will not confirm.
    OutOfService,
}

pub(super) struct Observed<'a> {
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) nodes: &'a [Arc<Node>],
    /// Nodes that are surely gone.
    pub(super) gone: &'a HashSet<String>,
    pub(super) threshold: usize,
}

pub(super) fn plan(observed: &Observed<'_>) -> Vec<(Arc<Pod>, Why)> {
    let out_of_service: HashSet<&str> = observed
        .nodes
        .iter()
        .filter(|node| {
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
        })
        .filter_map(|node| node.metadata.name.as_deref())
        .collect();
    let mut removed: Vec<(Arc<Pod>, Why)> = Vec::new();
    for pod in observed.pods {
        let node = node_of(pod);
        let why = match () {
            () if node.is_some_and(|node| observed.gone.contains(node)) => Why::Orphaned,
            () if is_terminating(pod) && !is_bound(pod) => Why::Unscheduled,
            () if is_terminating(pod)
                && !is_ready(pod)
                && node.is_some_and(|node| out_of_service.contains(node)) =>
            {
                Why::OutOfService
            }
            () => continue,
        };
        removed.push((Arc::clone(pod), why));
    }
    let mut finished: Vec<&Arc<Pod>> =
        observed.pods.iter().filter(|pod| is_terminal(pod) && !is_terminating(pod)).collect();
    if observed.threshold > 0 && finished.len() > observed.threshold {
        finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let excess = finished.len() - observed.threshold;
        removed.extend(finished.into_iter().take(excess).map(|pod| (Arc::clone(pod), Why::Finished)));
    }
    removed
}

/// Nodes that pods name and that are not there.
pub(super) fn missing(pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> BTreeSet<String> {
    let known: HashSet<&str> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    let named = pods.iter().filter_map(|pod| node_of(pod));
    named.filter(|name| !known.contains(name)).map(ToString::to_string).collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, going: bool, second: u8) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase},
        });
        if going {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn node(name: &str, taint: Option<&str>) -> Arc<Node> {
        let taints: Vec<_> = taint.iter().map(|key| json!({"key": key, "effect": "NoExecute"})).collect();
        let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn each_abandoned_pod_is_named_with_its_reason() {
        let pods = [
            pod("runs", "n1", "Running", false, 0),
            pod("orphan", "gone", "Running", false, 0),
            pod("quarantined", "maybe", "Running", false, 0),
            pod("homeless", "", "Pending", true, 0),
            pod("waiting", "", "Pending", false, 0),
            pod("lost", "dead", "Running", true, 0),
            pod("old", "n1", "Failed", false, 1),
            pod("new", "n1", "Succeeded", false, 2),
        ];
        let nodes = [node("n1", None), node("dead", Some(OUT_OF_SERVICE))];
        let gone = HashSet::from(["gone".to_string()]);
        let removed = plan(&Observed { pods: &pods, nodes: &nodes, gone: &gone, threshold: 1 });
        let removed: Vec<_> =
            removed.iter().map(|(pod, why)| (pod.metadata.name.as_deref().unwrap(), *why)).collect();
        assert_eq!(
            removed,
            [
                ("orphan", Why::Orphaned),
                ("homeless", Why::Unscheduled),
                ("lost", Why::OutOfService),
                ("old", Why::Finished)
            ]
        );
        assert_eq!(missing(&pods, &nodes).into_iter().collect::<Vec<_>>(), ["gone", "maybe"]);
    }
}
