//! What the scheduler believes: nodes, the pods on them, and the pods that it has just put on them.
//!
//! Kept by change from the API's content, plus one thing that the API does not show yet: a pod that was decided on is
//! *assumed* to be on its node until the API says so, the binding fails, or the assumption expires.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use client::ObjectKey;
use k8s_openapi::api::core::v1::{Namespace, Node};
use tokio::time::Instant;

use crate::{
    node::{NodeFacts, NodeInfo},
    pod::{LabelMap, PodInfo},
};

#[derive(Debug, Default)]
pub struct Cluster {
    /// Ordered by name, so that every plan sees the same order.
    nodes: BTreeMap<Arc<str>, NodeInfo>,
    /// Pods on nodes that are not there (yet): a list of pods may arrive before that of nodes.
    stray: HashMap<Arc<str>, BTreeMap<ObjectKey, Arc<PodInfo>>>,
    placed: HashMap<ObjectKey, Placement>,
    /// Those of `placed` that are assumed, and until when: for good while the binding is being written.
    assumed: HashMap<ObjectKey, Option<Instant>>,
    namespaces: BTreeMap<String, LabelMap>,
    /// How many nodes have an image of this name.
    image_nodes: HashMap<String, usize>,
    repelling_nodes: usize,
}

#[derive(Clone, Debug)]
struct Placement {
    uid: String,
    node: Arc<str>,
}

/// A pod that was taken from its node.
#[derive(Clone, Debug)]
pub struct Removed {
    pub pod: Arc<PodInfo>,
    pub node: Arc<str>,
}

impl Cluster {
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    pub fn namespace_labels(&self, name: &str) -> Option<&LabelMap> {
        self.namespaces.get(name)
    }

    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.image_nodes.get(name).copied().unwrap_or_default()
    }

    /// Whether any placed pod keeps others away: most clusters have none, and the question costs a scan.
    pub fn has_repelling_pods(&self) -> bool {
        self.repelling_nodes > 0
    }

    /// Answers whether anything changed that decides where pods go.
    pub fn set_node(&mut self, name: &str, node: &Node) -> bool {
        let facts = NodeFacts::of(node);
        if self.nodes.get(name).is_some_and(|known| known.facts == facts) {
            return false;
        }
        let name: Arc<str> = name.into();
        let known = self.take_node(&name);
        let relevant = known.as_ref().is_none_or(|known| known.facts.differs_beyond_images(&facts));
        let mut info = known.unwrap_or_else(|| NodeInfo::new(Arc::clone(&name), NodeFacts::default()));
        for image in facts.images.keys() {
            *self.image_nodes.entry(image.clone()).or_default() += 1;
        }
        info.facts = facts;
        for pod in self.stray.remove(&name).into_iter().flat_map(BTreeMap::into_values) {
            info.add(pod);
        }
        self.repelling_nodes += usize::from(!info.repelling.is_empty());
        self.nodes.insert(name, info);
        relevant
    }

    /// Its pods are remembered: they are still bound to it, should it come back.
    pub fn remove_node(&mut self, name: &str) -> bool {
        let name: Arc<str> = name.into();
        let Some(info) = self.take_node(&name) else { return false };
        if !info.pods.is_empty() {
            self.stray.insert(name, info.pods);
        }
        true
    }

    /// Answers whether the labels changed.
    pub fn set_namespace(&mut self, name: &str, namespace: Option<&Namespace>) -> bool {
        match namespace {
            Some(namespace) => {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                self.namespaces.insert(name.to_string(), labels.clone()) != Some(labels)
            }
            None => self.namespaces.remove(name).is_some(),
        }
    }

    /// The API says that the pod is on this node.
    pub fn bind(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node);
    }

    /// We decided so; the API will say so once the binding is written.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        let key = pod.key.clone();
        self.put(pod, node);
        self.assumed.insert(key, None);
    }

    /// The binding is written: the API has to show it by then.
    pub fn expect_by(&mut self, key: &ObjectKey, uid: &str, until: Instant) {
        if self.is_assumed(key, uid) {
            self.assumed.insert(key.clone(), Some(until));
        }
    }

    /// What was there, and where.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Removed> {
        let Placement { node, .. } = self.placed.remove(key)?;
        self.assumed.remove(key);
        let pod = match self.nodes.get_mut(&node) {
            Some(info) => {
                let repelled = !info.repelling.is_empty();
                let pod = info.remove(key);
                self.repelling_nodes -= usize::from(repelled && info.repelling.is_empty());
                pod
            }
            None => self.stray.get_mut(&node).and_then(|stray| stray.remove(key)),
        };
        Some(Removed { pod: pod?, node })
    }

    /// Takes an assumption back. Not what the API said, nor what was assumed of the pod's namesake.
    pub fn forget(&mut self, key: &ObjectKey, uid: &str) -> Option<Removed> {
        if self.is_assumed(key, uid) { self.remove(key) } else { None }
    }

    pub fn is_assumed(&self, key: &ObjectKey, uid: &str) -> bool {
        self.assumed.contains_key(key) && self.placed.get(key).is_some_and(|placement| placement.uid == uid)
    }

    /// What is known of a placed pod, whoever placed it.
    pub fn placed(&self, key: &ObjectKey) -> Option<&Arc<PodInfo>> {
        let node = &self.placed.get(key)?.node;
        match self.nodes.get(node) {
            Some(info) => info.pods.get(key),
            None => self.stray.get(node)?.get(key),
        }
    }

    /// Assumptions that the API should have confirmed by now.
    pub fn expired(&self, now: Instant) -> Vec<ObjectKey> {
        let late = |until: &Option<Instant>| until.is_some_and(|until| until <= now);
        self.assumed.iter().filter(|(_, until)| late(until)).map(|(key, _)| key.clone()).collect()
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.assumed.values().flatten().min().copied()
    }

    fn put(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.key);
        let node: Arc<str> =
            self.nodes.get_key_value(node).map_or_else(|| node.into(), |(name, _)| Arc::clone(name));
        let placement = Placement { uid: pod.uid.clone(), node: Arc::clone(&node) };
        self.placed.insert(pod.key.clone(), placement);
        match self.nodes.get_mut(&node) {
            Some(info) => {
                let repelled = !info.repelling.is_empty();
                info.add(pod);
                self.repelling_nodes += usize::from(!repelled && !info.repelling.is_empty());
            }
            None => {
                self.stray.entry(node).or_default().insert(pod.key.clone(), pod);
            }
        }
    }

    fn take_node(&mut self, name: &Arc<str>) -> Option<NodeInfo> {
        let info = self.nodes.remove(name)?;
        self.repelling_nodes -= usize::from(!info.repelling.is_empty());
        for image in info.facts.images.keys() {
            if let Some(count) = self.image_nodes.get_mut(image) {
                *count -= 1;
            }
        }
        self.image_nodes.retain(|_, count| *count > 0);
        Some(info)
    }
}
