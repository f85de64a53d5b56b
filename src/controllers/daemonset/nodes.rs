//! Which change of a node concerns which DaemonSets.
//!
//! A node's status changes often and never matters here. Of its labels and taints those changes matter that change what
//! the node means to a DaemonSet.

use std::{collections::HashMap, sync::Arc};

use client::ObjectKey;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Taint},
};

use super::placement::Placement;

/// The nodes as they were when we last looked.
#[derive(Debug, Default)]
pub(super) struct Seen {
    nodes: HashMap<ObjectKey, Arc<Node>>,
}

impl Seen {
    /// Those of `sets` to which this node means something else than before; it comes and goes too.
    pub(super) fn concerned(
        &mut self,
        key: &ObjectKey,
        now: Option<Arc<Node>>,
        sets: impl FnOnce() -> Vec<Arc<DaemonSet>>,
    ) -> Vec<ObjectKey> {
        let before = match &now {
            Some(node) => self.nodes.insert(key.clone(), Arc::clone(node)),
            None => self.nodes.remove(key),
        };
        match (&before, &now) {
            (None, None) => return Vec::new(),
            (Some(before), Some(now)) if is_alike(before, now) => return Vec::new(),
            _ => {}
        }
        let means_another = |set: &Arc<DaemonSet>| {
            let placement = Placement::of(set);
            let verdict = |node: &Option<Arc<Node>>| node.as_ref().map(|node| placement.verdict(node));
            verdict(&before) != verdict(&now)
        };
        let concerned = sets().into_iter().filter(means_another);
        concerned.map(|set| ObjectKey::of(&set.metadata)).collect()
    }
}

fn is_alike(a: &Node, b: &Node) -> bool {
    a.metadata.labels == b.metadata.labels && taints(a) == taints(b)
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_what_changes_a_nodes_meaning_wakes_and_only_those_to_whom_it_does() {
        let set = |name: &str, spec: Value| -> Arc<DaemonSet> {
            let template = json!({"spec": spec});
            let set = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"selector": {}, "template": template}});
            Arc::new(serde_json::from_value(set).unwrap())
        };
        let sets =
            || vec![set("everywhere", json!({})), set("fast", json!({"nodeSelector": {"disk": "ssd"}}))];
        let node = |meta: Value, spec: Value, status: Value| -> Option<Arc<Node>> {
            let node = json!({"metadata": {"name": "n1", "labels": meta}, "spec": spec, "status": status});
            Some(Arc::new(serde_json::from_value(node).unwrap()))
        };
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let cordoned = json!({"unschedulable": true,
            "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
        let mut seen = Seen::default();
        for (now, woken) in [
            (node(json!({}), json!({}), json!({})), &["everywhere", "fast"][..]),
            (node(json!({}), json!({}), ready), &[]),
            (node(json!({"other": "x"}), json!({}), json!({})), &[]),
            (node(json!({"disk": "ssd"}), json!({}), json!({})), &["fast"]),
            (node(json!({"disk": "ssd"}), cordoned, json!({})), &[]),
            (node(json!({"disk": "ssd"}), tainted.clone(), json!({})), &["everywhere", "fast"]),
            (node(json!({}), tainted, json!({})), &["fast"]),
            (None, &["everywhere", "fast"]),
            (None, &[]),
        ] {
            let keys = seen.concerned(&ObjectKey::cluster("n1"), now, sets);
            assert_eq!(keys.iter().map(|key| &*key.name).collect::<Vec<_>>(), woken);
        }
    }
}
