//! Where a DaemonSet's pods belong, and the pod for one node.
//!
//! The scheduler binds the pods, but it is not asked here: a node that it would refuse for want of room still gets its
//! pod, which waits there. What counts is what the template demands of a node, and the node's taints.
#![deny(clippy::disallowed_methods)]

use api::{
    constants::{label::CONTROLLER_REVISION_HASH, taint},
    node_affinity, taints,
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
        PodTemplateSpec, Toleration,
    },
};

use crate::pod_hands;

/// What a node means to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A pod belongs there.
    Runs,
    /// No new pod; one that is there may stay.
    Stays,
    /// A pod that is there has to go.
    Leaves,
}

/// What a DaemonSet asks of nodes.
pub(super) struct Placement {
    /// The template as a pod, with the tolerations of all daemons.
    pod: Pod,
}

impl Placement {
    pub(super) fn of(set: &DaemonSet) -> Self {
        Self { pod: Pod { spec: template(set).spec, ..Pod::default() } }
    }

    pub(super) fn verdict(&self, node: &Node) -> Verdict {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let spec = self.pod.spec.as_ref();
        let elsewhere = spec.and_then(|spec| spec.node_name.as_deref()).is_some_and(|wanted| {
            // Empty is the same as none.
            !wanted.is_empty() && wanted != name
        });
        if elsewhere || !node_affinity::required_matches(&self.pod, name, &node.metadata.labels) {
            return Verdict::Leaves;
        }
        let tainted = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let tolerations = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        if taints::first_untolerated(tainted, tolerations, taints::evicts).is_some() {
            Verdict::Leaves
        } else if taints::first_untolerated(tainted, tolerations, taints::keeps_off).is_some() {
            Verdict::Stays
        } else {
            Verdict::Runs
        }
    }
}

/// The pod of `set` for the node of this name, at the revision of this hash.
pub(super) fn new_pod(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let mut template = template(set);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(CONTROLLER_REVISION_HASH.into(), hash.into());
    pin(template.spec.get_or_insert_default(), node);
    pod_hands::new_pod::<DaemonSet>(&set.metadata, template)
}

/// The node that a pod is on, or is made for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    match node_affinity::pinned_names(required)?.as_slice() {
        [node] => Some(node),
        _ => None,
    }
}

fn template(set: &DaemonSet) -> PodTemplateSpec {
    let mut template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    tolerate(template.spec.get_or_insert_default());
    template
}

/// What is wrong with a node is no reason for a daemon to leave it or to keep off: a daemon may be what mends it.
fn tolerate(spec: &mut PodSpec) {
    let network =
        spec.host_network.unwrap_or(false).then_some((taint::NETWORK_UNAVAILABLE, taint::NO_SCHEDULE));
    let always = [
        (taint::NOT_READY, taint::NO_EXECUTE),
        (taint::UNREACHABLE, taint::NO_EXECUTE),
        (taint::DISK_PRESSURE, taint::NO_SCHEDULE),
        (taint::MEMORY_PRESSURE, taint::NO_SCHEDULE),
        (taint::PID_PRESSURE, taint::NO_SCHEDULE),
        (taint::UNSCHEDULABLE, taint::NO_SCHEDULE),
    ];
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in always.into_iter().chain(network) {
        let forever = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        // One that is there for a time only becomes one for ever.
        let same =
            |old: &&mut Toleration| Toleration { toleration_seconds: None, ..(**old).clone() } == forever;
        match tolerations.iter_mut().find(same) {
            Some(old) => *old = forever,
            None => tolerations.push(forever),
        }
    }
}

/// Leaves the scheduler one node to choose. The template's own demands are met there already; what it prefers stays.
fn pin(spec: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![by_name]), ..NodeSelectorTerm::default() };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(spec: Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "agent", "namespace": "ns", "uid": "u"},
            "spec": {"selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": spec}},
        }))
        .unwrap()
    }

    fn node(taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints},
        }))
        .unwrap()
    }

    fn required(operator: &str, value: &str) -> Value {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": operator, "values": [value]}]}]}}})
    }

    #[test]
    fn what_the_template_demands_and_the_nodes_taints_decide() {
        let none = json!([]);
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let tolerant = json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]);
        for (spec, taints, expected) in [
            (json!({}), none.clone(), Verdict::Runs),
            (json!({"nodeName": "n1"}), none.clone(), Verdict::Runs),
            (json!({"nodeName": "n2"}), none.clone(), Verdict::Leaves),
            (json!({"nodeName": ""}), none.clone(), Verdict::Runs),
            (json!({"nodeSelector": {"disk": "ssd"}}), none.clone(), Verdict::Runs),
            (json!({"nodeSelector": {"disk": "hdd"}}), none.clone(), Verdict::Leaves),
            (json!({"affinity": required("In", "ssd")}), none.clone(), Verdict::Runs),
            (json!({"affinity": required("NotIn", "ssd")}), none, Verdict::Leaves),
            (json!({}), taint("k", "NoSchedule"), Verdict::Stays),
            (json!({}), taint("k", "PreferNoSchedule"), Verdict::Runs),
            (json!({}), taint("k", "NoExecute"), Verdict::Leaves),
            (json!({"tolerations": tolerant}), taint("k", "NoExecute"), Verdict::Runs),
            (json!({"tolerations": tolerant}), taint("k", "NoSchedule"), Verdict::Stays),
            (json!({"nodeSelector": {"disk": "hdd"}}), taint("k", "NoSchedule"), Verdict::Leaves),
        ] {
            let verdict = Placement::of(&set(spec.clone())).verdict(&node(taints.clone()));
            assert_eq!(verdict, expected, "{spec} {taints}");
        }
    }

    #[test]
    fn a_node_in_trouble_keeps_its_daemons() {
        for (key, effect, host_network, expected) in [
            (taint::NOT_READY, "NoExecute", false, Verdict::Runs),
            (taint::UNREACHABLE, "NoExecute", false, Verdict::Runs),
            (taint::DISK_PRESSURE, "NoSchedule", false, Verdict::Runs),
            (taint::MEMORY_PRESSURE, "NoSchedule", false, Verdict::Runs),
            (taint::PID_PRESSURE, "NoSchedule", false, Verdict::Runs),
            (taint::UNSCHEDULABLE, "NoSchedule", false, Verdict::Runs),
            (taint::NETWORK_UNAVAILABLE, "NoSchedule", false, Verdict::Stays),
            (taint::NETWORK_UNAVAILABLE, "NoSchedule", true, Verdict::Runs),
            (taint::NOT_READY, "NoSchedule", false, Verdict::Stays),
            (taint::OUT_OF_SERVICE, "NoExecute", true, Verdict::Leaves),
        ] {
            let set = set(json!({"hostNetwork": host_network}));
            let tainted = node(json!([{"key": key, "effect": effect}]));
            assert_eq!(Placement::of(&set).verdict(&tainted), expected, "{key} {effect} {host_network}");
        }
    }

    #[test]
    fn a_pod_is_made_for_one_node_and_says_of_which_revision_it_is() {
        let preferred =
            json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}}]);
        let mut affinity = required("In", "ssd");
        affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = preferred.clone();
        let short = json!([{"key": taint::NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9}]);
        let pod = new_pod(&set(json!({"affinity": affinity, "tolerations": short})), "abc", "n7");
        let made = serde_json::to_value(&pod).unwrap();
        assert_eq!(made["metadata"]["generateName"], "agent-");
        assert_eq!(made["metadata"]["labels"], json!({"app": "a", "controller-revision-hash": "abc"}));
        let owner = &made["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["controller"]), (&json!("DaemonSet"), &json!(true)));
        let pinned = &made["spec"]["affinity"]["nodeAffinity"];
        assert_eq!(
            pinned["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n7"]}]}])
        );
        assert_eq!(pinned["preferredDuringSchedulingIgnoredDuringExecution"], preferred);
        let tolerations = made["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 6);
        assert!(tolerations.iter().all(|toleration| toleration["tolerationSeconds"].is_null()));
        assert_eq!(target(&pod), Some("n7"));
        assert!(pod.spec.as_ref().unwrap().node_name.is_none(), "the scheduler binds it");
        let bound = Pod {
            spec: Some(PodSpec { node_name: Some("n8".into()), ..pod.spec.unwrap() }),
            ..Pod::default()
        };
        assert_eq!(target(&bound), Some("n8"));
        assert_eq!(target(&Pod::default()), None);
    }
}
