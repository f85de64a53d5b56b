//! Where a pod goes: every node that will do, and the best of them.
//!
//! ```text
//!   Cluster, PodInfo ──▶ filters (each node) ──▶ scores (nodes that will do) ──▶ the best
//!                              └── none left ──▶ Unschedulable: each node once, and why
//! ```
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    affinity::InterPod,
    cluster::Cluster,
    diagnosis::{Diagnosis, Preemption, Rejection, Unschedulable},
    filter,
    node::NodeInfo,
    pod::PodInfo,
    score::scores,
    spread::Spread,
};

/// The node for `pod`. The same cluster and pod give the same node: of equal scores, the node with fewer pods wins, then
/// the first by name.
pub fn plan(cluster: &Cluster, pod: &PodInfo) -> Result<Arc<str>, Unschedulable> {
    if let Some(why) = &pod.refused {
        return Err(Unschedulable::Refused { nodes: cluster.nodes().len(), why: why.clone() });
    }
    if cluster.nodes().len() == 0 {
        return Err(Unschedulable::NoNodes);
    }
    let (spread, others) = (Spread::count(cluster, pod), InterPod::count(cluster, pod));
    let fits = |node: &NodeInfo| {
        filter::fits(pod, node)?;
        spread.fits(node)?;
        others.fits(pod, node)
    };
    // A daemon's pod names its node. Only when that one will not do, every node is asked why.
    if let Some(names) = &pod.pinned {
        let named = names.iter().filter_map(|name| cluster.node(name));
        let named: Vec<&NodeInfo> = named.filter(|node| fits(node).is_ok()).collect();
        if let Some(node) = best(cluster, pod, &named) {
            return Ok(node);
        }
    }
    let mut feasible = Vec::new();
    let mut rejections = BTreeMap::new();
    for node in cluster.nodes() {
        match fits(node) {
            Ok(()) => feasible.push(node),
            Err(rejection) => {
                rejections.insert(Arc::clone(&node.name), rejection);
            }
        }
    }
    best(cluster, pod, &feasible).ok_or_else(|| {
        let preemption = preemption(cluster, pod, &rejections);
        Unschedulable::Rejected(Diagnosis { rejections, preemption })
    })
}

/// Whether the change of this node may have made room for a pod that was rejected: a cheap question, asked of every
/// waiting pod at every change.
pub(crate) fn may_fit(cluster: &Cluster, pod: &PodInfo, node: &str) -> bool {
    cluster.node(node).is_some_and(|node| filter::fits(pod, node).is_ok())
}

fn best(cluster: &Cluster, pod: &PodInfo, feasible: &[&NodeInfo]) -> Option<Arc<str>> {
    if let [only] = feasible {
        return Some(Arc::clone(&only.name));
    }
    let scores = scores(cluster, pod, feasible);
    // The first of the greatest: `max_by_key` would take the last.
    let ranked = feasible.iter().zip(scores).rev();
    let (node, _) = ranked.max_by_key(|(node, score)| (*score, -(node.pods.len() as i64)))?;
    Some(Arc::clone(&node.name))
}

fn preemption(cluster: &Cluster, pod: &PodInfo, rejections: &BTreeMap<Arc<str>, Rejection>) -> Preemption {
    if !pod.preempts() {
        return Preemption::NotEligible;
    }
    let resolvable = rejections.iter().filter(|(_, rejection)| rejection.resolvable);
    let mut pods = resolvable.filter_map(|(name, _)| cluster.node(name)).flat_map(|node| node.pods.values());
    if pods.any(|there| there.priority < pod.priority) {
        Preemption::NotOffered
    } else {
        Preemption::NoVictims
    }
}
