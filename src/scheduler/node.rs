//! A node as the scheduler sees it: what it has, what is taken of it, and by whom.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{
    constants::resource::PODS,
    pods::{HostPort, read_list},
};
use client::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{
    amounts::Amounts,
    pod::{LabelMap, PodInfo},
};

/// What the Node object says. Heartbeats and conditions are not among it: they come as taints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub labels: LabelMap,
    /// Without the moments they were added.
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub pod_slots: i64,
    /// Bytes by every name of an image.
    pub images: BTreeMap<String, i64>,
}

impl NodeFacts {
    pub fn of(node: &Node) -> NodeFacts {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.map(|status| read_list(&status.allocatable)).unwrap_or_default();
        let mut images = BTreeMap::new();
        for image in status.iter().flat_map(|status| status.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                images.insert(name.clone(), image.size_bytes.unwrap_or_default());
            }
        }
        NodeFacts {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(timeless).collect(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            pod_slots: allocatable.get(PODS).map(|slots| slots.value()).unwrap_or_default(),
            allocatable: Amounts::of(&allocatable),
            images,
        }
    }

    /// Images only make a node more welcome; everything else decides whether it will do.
    pub fn differs_beyond_images(&self, other: &NodeFacts) -> bool {
        NodeFacts { images: BTreeMap::new(), ..self.clone() }
            != NodeFacts { images: BTreeMap::new(), ..other.clone() }
    }
}

fn timeless(taint: &Taint) -> Taint {
    Taint { time_added: None, ..taint.clone() }
}

/// One node and the pods on it, bound or assumed.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: Arc<str>,
    pub facts: NodeFacts,
    /// Sum over `pods`.
    pub requested: Amounts,
    /// Sum over `pods` of what scores count.
    pub scored: (i64, i64),
    pub pods: BTreeMap<ObjectKey, Arc<PodInfo>>,
    /// Of all pods. A port that two pods of the API claim (one of them past its filter) is there once.
    pub host_ports: BTreeMap<HostPort, u32>,
    /// The pods that keep others away.
    pub repelling: BTreeSet<ObjectKey>,
}

impl NodeInfo {
    pub fn new(name: Arc<str>, facts: NodeFacts) -> NodeInfo {
        NodeInfo { name, facts, ..NodeInfo::default() }
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        for port in &pod.host_ports {
            *self.host_ports.entry(port.clone()).or_default() += 1;
        }
        if !pod.anti_affinity.is_empty() {
            self.repelling.insert(pod.key.clone());
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.requests);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        for port in &pod.host_ports {
            if let Some(count) = self.host_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.host_ports.remove(port);
                }
            }
        }
        self.repelling.remove(key);
        Some(pod)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.facts.labels.get(key).map(String::as_str)
    }
}
