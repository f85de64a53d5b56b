//! Required affinity and anti-affinity between pods.
//!
//! A term speaks of domains: all nodes with the same value of a label. Counted once per plan, then asked for each node.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

use crate::{
    cluster::Cluster,
    diagnosis::{Reason, Rejection},
    node::NodeInfo,
    pod::{AffinityTerm, LabelMap, PodInfo},
};

/// A label and its value: a domain of nodes.
type Domain<'a> = (&'a str, &'a str);

/// What the pods that are there mean for the one that comes.
#[derive(Debug, Default)]
pub(crate) struct InterPod<'a> {
    /// Domains with pods that the newcomer wants to be near (all of its terms match them).
    near: HashMap<Domain<'a>, usize>,
    /// Domains with pods that the newcomer keeps away from.
    far: HashMap<Domain<'a>, usize>,
    /// Domains whose pods keep the newcomer away.
    repelled: HashMap<Domain<'a>, usize>,
    /// Nobody is there to be near to, and the newcomer would do itself: it is the first of its kind.
    may_be_first: bool,
}

impl<'a> InterPod<'a> {
    pub(crate) fn count(cluster: &'a Cluster, pod: &'a PodInfo) -> InterPod<'a> {
        let mut counts = InterPod::default();
        if cluster.has_repelling_pods() {
            let own = cluster.namespace_labels(pod.key.namespace());
            for node in cluster.nodes() {
                for term in
                    node.repelling.iter().filter_map(|key| node.pods.get(key)).flat_map(|p| &p.anti_affinity)
                {
                    if term.matches(pod, own) {
                        mark(&mut counts.repelled, node, term);
                    }
                }
            }
        }
        if !pod.affinity.is_empty() || !pod.anti_affinity.is_empty() {
            counts.count_wishes(cluster, pod);
        }
        let matches_itself = pod.affinity.iter().all(|t| t.matches(pod, labels_of(cluster, pod)));
        counts.may_be_first = counts.near.is_empty() && matches_itself;
        counts
    }

    fn count_wishes(&mut self, cluster: &'a Cluster, pod: &'a PodInfo) {
        for node in cluster.nodes() {
            for there in node.pods.values() {
                let labels = labels_of(cluster, there);
                if !pod.affinity.is_empty() && pod.affinity.iter().all(|term| term.matches(there, labels)) {
                    pod.affinity.iter().for_each(|term| mark(&mut self.near, node, term));
                }
                for term in pod.anti_affinity.iter().filter(|term| term.matches(there, labels)) {
                    mark(&mut self.far, node, term);
                }
            }
        }
    }

    pub(crate) fn fits(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let mut all_near = true;
        for term in &pod.affinity {
            // All topology labels have to be there, also for the first of its kind.
            let Some(value) = node.label(&term.topology_key) else {
                return Err(Rejection::for_good(Reason::Affinity));
            };
            all_near &= self.near.contains_key(&(term.topology_key.as_str(), value));
        }
        if !all_near && !self.may_be_first {
            return Err(Rejection::for_good(Reason::Affinity));
        }
        let in_domain = |term: &AffinityTerm| {
            let value = node.label(&term.topology_key);
            value.is_some_and(|value| self.far.contains_key(&(term.topology_key.as_str(), value)))
        };
        if pod.anti_affinity.iter().any(in_domain) {
            return Err(Rejection::for_now(Reason::AntiAffinity));
        }
        let repelled =
            |(key, value): (&String, &String)| self.repelled.contains_key(&(key.as_str(), value.as_str()));
        if !self.repelled.is_empty() && node.facts.labels.iter().any(repelled) {
            return Err(Rejection::for_now(Reason::ExistingAntiAffinity));
        }
        Ok(())
    }
}

fn mark<'a>(counts: &mut HashMap<Domain<'a>, usize>, node: &'a NodeInfo, term: &'a AffinityTerm) {
    if let Some(value) = node.label(&term.topology_key) {
        *counts.entry((&term.topology_key, value)).or_default() += 1;
    }
}

fn labels_of<'a>(cluster: &'a Cluster, pod: &PodInfo) -> Option<&'a LabelMap> {
    cluster.namespace_labels(pod.key.namespace())
}
