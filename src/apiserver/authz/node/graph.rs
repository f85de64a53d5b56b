//! Which objects belong to which node, through the pods that are bound to it.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use api::constants::annotation;
use rustc_hash::FxHashMap;
use serde_json::Value;

/// What a pod refers to, in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
    /// A claim for devices.
    DeviceClaim,
}

type Name = (String, String);

/// Bound pods and what they refer to, counted by node.
#[derive(Debug, Default)]
pub struct Graph {
    pods: FxHashMap<Name, BoundPod>,
    /// For each object, by namespace and name: how many pods of each node refer to it.
    holders: FxHashMap<(Kind, Name), FxHashMap<String, u32>>,
}

#[derive(Debug, PartialEq, Eq)]
struct BoundPod {
    node: String,
    refers_to: BTreeSet<(Kind, String)>,
}

impl Graph {
    /// A pod as it is now. Forgets it while it is not bound.
    pub fn put(&mut self, namespace: &str, name: &str, pod: &Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let bound = BoundPod::read(pod);
        if self.pods.get(&key) == bound.as_ref() {
            return; // most changes of a pod are of its status
        }
        self.remove(namespace, name);
        let Some(bound) = bound else { return };
        for (kind, object) in &bound.refers_to {
            let object = (*kind, (namespace.to_owned(), object.clone()));
            *self.holders.entry(object).or_default().entry(bound.node.clone()).or_default() += 1;
        }
        self.pods.insert(key, bound);
    }

    pub fn remove(&mut self, namespace: &str, name: &str) {
        let Some(bound) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        for (kind, object) in bound.refers_to {
            let object = (kind, (namespace.to_owned(), object));
            let Some(nodes) = self.holders.get_mut(&object) else { continue };
            if let Some(count) = nodes.get_mut(&bound.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&bound.node);
                }
            }
            if nodes.is_empty() {
                self.holders.remove(&object);
            }
        }
    }

    /// Whether a pod of the node refers to the object.
    pub fn refers(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let object = (kind, (namespace.to_owned(), name.to_owned()));
        self.holders.get(&object).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Whether the pod is bound to the node.
    pub fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.pods.get(&(namespace.to_owned(), pod.to_owned())).is_some_and(|bound| bound.node == node)
    }
}

impl BoundPod {
    fn read(pod: &Value) -> Option<BoundPod> {
        let node = text(pod, "/spec/nodeName").filter(|node| !node.is_empty())?.to_owned();
        let mut refers_to = BTreeSet::new();
        // A node makes its mirror pods itself: it must not be able to give itself access by one.
        let annotations = pod.pointer("/metadata/annotations");
        if annotations.is_none_or(|map| map.get(annotation::CONFIG_MIRROR).is_none()) {
            let add: Add<'_> = &mut |kind, name: Option<&str>| {
                if let Some(name) = name.filter(|name| !name.is_empty()) {
                    refers_to.insert((kind, name.to_owned()));
                }
            };
            read_spec(pod, add);
            read_device_claims(pod, add);
        }
        Some(BoundPod { node, refers_to })
    }
}

type Add<'a> = &'a mut dyn FnMut(Kind, Option<&str>);

fn read_spec(pod: &Value, add: Add<'_>) {
    add(Kind::ServiceAccount, text(pod, "/spec/serviceAccountName"));
    for reference in items(pod, "/spec/imagePullSecrets") {
        add(Kind::Secret, text(reference, "/name"));
    }
    for list in ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"] {
        for container in items(pod, list) {
            read_container(container, add);
        }
    }
    let pod_name = text(pod, "/metadata/name").unwrap_or_default();
    for volume in items(pod, "/spec/volumes") {
        read_volume(volume, pod_name, add);
    }
}

/// Claims by name, those that were made for the pod from a template, and the one for extended resources.
fn read_device_claims(pod: &Value, add: Add<'_>) {
    for claims in ["/spec/resourceClaims", "/status/resourceClaimStatuses"] {
        for claim in items(pod, claims) {
            add(Kind::DeviceClaim, text(claim, "/resourceClaimName"));
        }
    }
    add(Kind::DeviceClaim, text(pod, "/status/extendedResourceClaimStatus/resourceClaimName"));
}

fn read_container(container: &Value, add: Add<'_>) {
    for source in items(container, "/envFrom") {
        add(Kind::Secret, text(source, "/secretRef/name"));
        add(Kind::ConfigMap, text(source, "/configMapRef/name"));
    }
    for variable in items(container, "/env") {
        add(Kind::Secret, text(variable, "/valueFrom/secretKeyRef/name"));
        add(Kind::ConfigMap, text(variable, "/valueFrom/configMapKeyRef/name"));
    }
}

/// Where each kind of volume names a secret.
const VOLUME_SECRETS: &[&str] = &[
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/flexVolume/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/iscsi/secretRef/name",
    "/storageos/secretRef/name",
    "/csi/nodePublishSecretRef/name",
];

fn read_volume(volume: &Value, pod_name: &str, add: Add<'_>) {
    for pointer in VOLUME_SECRETS {
        add(Kind::Secret, text(volume, pointer));
    }
    add(Kind::ConfigMap, text(volume, "/configMap/name"));
    for source in items(volume, "/projected/sources") {
        add(Kind::Secret, text(source, "/secret/name"));
        add(Kind::ConfigMap, text(source, "/configMap/name"));
    }
    add(Kind::Claim, text(volume, "/persistentVolumeClaim/claimName"));
    if volume.get("ephemeral").is_some_and(Value::is_object) {
        let name = text(volume, "/name").unwrap_or_default();
        add(Kind::Claim, Some(&format!("{pod_name}-{name}"))); // the name that its controller gives the claim
    }
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, secret: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "volumes": [
            {"name": "v", "secret": {"secretName": secret}}
        ]}})
    }

    #[test]
    fn every_reference_of_a_pod_is_found() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "nodeName": "n1", "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "s1"}}, {"configMapRef": {"name": "c1"}}]}],
            "containers": [{"env": [
                {"valueFrom": {"secretKeyRef": {"name": "s2"}}}, {"valueFrom": {"configMapKeyRef": {"name": "c2"}}},
            ]}],
            "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "s3"}}]}],
            "volumes": [
                {"secret": {"secretName": "s4"}}, {"configMap": {"name": "c3"}},
                {"projected": {"sources": [{"secret": {"name": "s5"}}, {"configMap": {"name": "c4"}}]}},
                {"csi": {"nodePublishSecretRef": {"name": "s6"}}},
                {"persistentVolumeClaim": {"claimName": "claim"}}, {"name": "scratch", "ephemeral": {}},
            ],
            "resourceClaims": [{"name": "a", "resourceClaimName": "d1"}, {"name": "b", "resourceClaimTemplateName": "t"}],
        }, "status": {
            "resourceClaimStatuses": [{"name": "b", "resourceClaimName": "d2"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "d3"},
        }});
        let mut graph = Graph::default();
        graph.put("ns", "p", &pod);
        let refers = |kind, name| graph.refers("n1", kind, "ns", name);
        for secret in ["pull", "s1", "s2", "s3", "s4", "s5", "s6"] {
            assert!(refers(Kind::Secret, secret), "{secret}");
        }
        for map in ["c1", "c2", "c3", "c4"] {
            assert!(refers(Kind::ConfigMap, map), "{map}");
        }
        for claim in ["d1", "d2", "d3"] {
            assert!(refers(Kind::DeviceClaim, claim), "{claim}");
        }
        assert!(refers(Kind::ServiceAccount, "sa"));
        assert!(refers(Kind::Claim, "claim") && refers(Kind::Claim, "p-scratch"));
        assert!(!graph.refers("n2", Kind::Secret, "ns", "s1"));
        assert!(!graph.refers("n1", Kind::Secret, "other", "s1"));
    }

    #[test]
    fn an_object_stays_reachable_while_one_pod_of_the_node_refers_to_it() {
        let mut graph = Graph::default();
        graph.put("ns", "a", &pod("n1", "s"));
        graph.put("ns", "b", &pod("n1", "s"));
        graph.remove("ns", "a");
        assert!(graph.refers("n1", Kind::Secret, "ns", "s"));
        graph.remove("ns", "b");
        assert!(!graph.refers("n1", Kind::Secret, "ns", "s"));
        assert!(graph.holders.is_empty() && graph.pods.is_empty());
    }

    #[test]
    fn a_successor_of_the_same_name_on_another_node_takes_the_access_along() {
        let mut graph = Graph::default();
        graph.put("ns", "p", &pod("n1", "s"));
        graph.put("ns", "p", &pod("n2", "s"));
        assert!(!graph.refers("n1", Kind::Secret, "ns", "s") && graph.refers("n2", Kind::Secret, "ns", "s"));
        assert!(!graph.runs("n1", "ns", "p") && graph.runs("n2", "ns", "p"));
    }

    #[test]
    fn a_mirror_pod_gives_nothing_but_itself() {
        let mut mirror = pod("n1", "s");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        let mut graph = Graph::default();
        graph.put("ns", "p", &mirror);
        assert!(graph.runs("n1", "ns", "p"));
        assert!(!graph.refers("n1", Kind::Secret, "ns", "s"));
    }

    #[test]
    fn a_pod_that_is_not_bound_gives_nothing() {
        let mut graph = Graph::default();
        graph.put("ns", "p", &pod("", "s"));
        assert!(graph.pods.is_empty());
    }
}
