//! `DoNotSchedule` constraints of topology spread: no domain may be more than `maxSkew` ahead of the emptiest.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

use api::{node_affinity, taints};

use crate::{
    cluster::Cluster,
    diagnosis::{Reason, Rejection},
    node::NodeInfo,
    pod::{PodInfo, SpreadConstraint},
};

/// Matching pods by domain, for each constraint of the pod.
#[derive(Debug)]
pub(crate) struct Spread<'a> {
    constraints: Vec<Counted<'a>>,
}

#[derive(Debug)]
struct Counted<'a> {
    constraint: &'a SpreadConstraint,
    by_domain: HashMap<&'a str, i64>,
    /// In the emptiest domain; zero while there are too few domains.
    least: i64,
    /// One if the newcomer counts itself.
    own: i64,
}

impl<'a> Spread<'a> {
    pub(crate) fn count(cluster: &'a Cluster, pod: &'a PodInfo) -> Spread<'a> {
        let mut counted: Vec<Counted<'_>> =
            pod.spread.iter().map(|constraint| Counted::new(constraint, pod)).collect();
        if counted.is_empty() {
            return Spread { constraints: counted };
        }
        for node in cluster.nodes() {
            // A node without all of the labels is in no domain of any constraint.
            if !pod.spread.iter().all(|constraint| node.label(&constraint.topology_key).is_some()) {
                continue;
            }
            for counted in counted.iter_mut().filter(|counted| includes(counted.constraint, pod, node)) {
                if let Some(domain) = node.label(&counted.constraint.topology_key) {
                    *counted.by_domain.entry(domain).or_default() += matching(counted.constraint, pod, node);
                }
            }
        }
        for counted in &mut counted {
            let enough = counted.by_domain.len() >= counted.constraint.min_domains;
            counted.least =
                if enough { counted.by_domain.values().copied().min().unwrap_or_default() } else { 0 };
        }
        Spread { constraints: counted }
    }

    pub(crate) fn fits(&self, node: &NodeInfo) -> Result<(), Rejection> {
        for Counted { constraint, by_domain, least, own } in &self.constraints {
            let Some(domain) = node.label(&constraint.topology_key) else {
                return Err(Rejection::for_good(Reason::SpreadLabelMissing));
            };
            let there = by_domain.get(domain).copied().unwrap_or_default();
            if there + own - least > constraint.max_skew {
                return Err(Rejection::for_now(Reason::Spread));
            }
        }
        Ok(())
    }
}

impl<'a> Counted<'a> {
    fn new(constraint: &'a SpreadConstraint, pod: &PodInfo) -> Counted<'a> {
        let own = i64::from(constraint.selector.matches(&pod.pod.metadata.labels));
        Counted { constraint, by_domain: HashMap::new(), least: 0, own }
    }
}

/// Whether the node takes part at all.
fn includes(constraint: &SpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let wanted = || node_affinity::required_matches(&pod.pod, &node.name, &node.facts.labels);
    let open =
        || taints::first_untolerated(&node.facts.taints, pod.tolerations(), taints::keeps_off).is_none();
    (!constraint.honors_affinity || wanted()) && (!constraint.honors_taints || open())
}

/// Pods of the newcomer's namespace that the constraint selects. Leaving ones make room already.
fn matching(constraint: &SpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> i64 {
    if constraint.selector.is_everything() {
        return 0;
    }
    let counts = |there: &&std::sync::Arc<PodInfo>| {
        !there.terminating
            && there.key.namespace == pod.key.namespace
            && constraint.selector.matches(&there.pod.metadata.labels)
    };
    node.pods.values().filter(counts).count() as i64
}
