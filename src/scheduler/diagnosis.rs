//! Why a pod cannot be placed, in the words that `kubectl describe pod` shows.
#![deny(clippy::disallowed_methods)]

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

/// Why one node will not do. The words are those of upstream's filters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    Unschedulable,
    NodeName,
    Taint,
    NodeAffinity,
    /// The pod's affinity names other nodes.
    NotNamed,
    Ports,
    TooManyPods,
    Insufficient(Cow<'static, str>),
    SpreadLabelMissing,
    Spread,
    Affinity,
    AntiAffinity,
    ExistingAntiAffinity,
}

impl Reason {
    /// Whether pods on other nodes have a say in it.
    pub fn is_topological(&self) -> bool {
        matches!(
            self,
            Reason::Spread | Reason::Affinity | Reason::AntiAffinity | Reason::ExistingAntiAffinity
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Unschedulable => "node(s) were unschedulable",
            Reason::NodeName => "node(s) didn't match the requested node name",
            Reason::Taint => "node(s) had untolerated taint(s)",
            Reason::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Reason::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Reason::Ports => "node(s) didn't have free ports for the requested pod ports",
            Reason::TooManyPods => "Too many pods",
            Reason::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Reason::SpreadLabelMissing => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Reason::Spread => "node(s) didn't match pod topology spread constraints",
            Reason::Affinity => "node(s) didn't match pod affinity rules",
            Reason::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Reason::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }
}

/// What the first filter that a node failed had against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reasons: Vec<Reason>,
    /// Whether fewer pods on the node could help.
    pub resolvable: bool,
}

impl Rejection {
    pub fn for_good(reason: Reason) -> Rejection {
        Rejection { reasons: vec![reason], resolvable: false }
    }

    pub fn for_now(reason: Reason) -> Rejection {
        Rejection { reasons: vec![reason], resolvable: true }
    }
}

/// Whether less important pods could make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// The pod's `preemptionPolicy` is `Never`.
    NotEligible,
    /// On none of the nodes where room is what is missing is a pod less important.
    NoVictims,
    /// Some are. This scheduler does not evict them.
    NotOffered,
}

/// Why a pod stays pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unschedulable {
    NoNodes,
    /// The pod asks for what this scheduler does not know.
    Refused {
        nodes: usize,
        why: String,
    },
    Rejected(Diagnosis),
}

/// Every node, each once, and what is against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    pub rejections: BTreeMap<Arc<str>, Rejection>,
    pub preemption: Preemption,
}

impl Unschedulable {
    /// Whether a change of pods on other nodes could change the answer.
    pub fn is_topological(&self) -> bool {
        match self {
            Unschedulable::NoNodes | Unschedulable::Refused { .. } => false,
            Unschedulable::Rejected(diagnosis) => {
                diagnosis.rejections.values().flat_map(|r| &r.reasons).any(Reason::is_topological)
            }
        }
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unschedulable::NoNodes => f.write_str("no nodes available to schedule pods"),
            Unschedulable::Refused { nodes, why } => write!(f, "0/{nodes} nodes are available: {why}."),
            Unschedulable::Rejected(diagnosis) => diagnosis.fmt(f),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = self.rejections.values().flat_map(|rejection| &rejection.reasons);
        let nodes = self.rejections.len();
        write!(f, "0/{nodes} nodes are available: {}. preemption: ", histogram(reasons))?;
        match self.preemption {
            Preemption::NotEligible => f.write_str("not eligible due to preemptionPolicy=Never."),
            Preemption::NotOffered => {
                f.write_str("this scheduler does not evict pods of lower priority yet.")
            }
            Preemption::NoVictims => {
                let helpful = |rejection: &Rejection| {
                    if rejection.resolvable {
                        "No preemption victims found for incoming pod"
                    } else {
                        "Preemption is not helpful for scheduling"
                    }
                };
                write!(
                    f,
                    "0/{nodes} nodes are available: {}.",
                    histogram(self.rejections.values().map(helpful))
                )
            }
        }
    }
}

/// `2 this, 3 that`, in the order of the text: upstream sorts what it prints.
fn histogram(reasons: impl Iterator<Item = impl fmt::Display>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.to_string()).or_default() += 1;
    }
    let mut lines: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    lines.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rejections: Vec<Rejection>, preemption: Preemption, expected: &str) {
        let rejections =
            rejections.into_iter().enumerate().map(|(i, r)| (Arc::from(format!("n{i}")), r)).collect();
        let diagnosis = Unschedulable::Rejected(Diagnosis { rejections, preemption });
        assert_eq!(diagnosis.to_string(), expected);
    }

    #[test]
    fn the_message_counts_nodes_by_reason() {
        check(
            vec![Rejection::for_now(Reason::Insufficient("cpu".into()))],
            Preemption::NoVictims,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
             victims found for incoming pod.",
        );
        check(
            vec![
                Rejection {
                    reasons: vec![Reason::Insufficient("cpu".into()), Reason::Insufficient("memory".into())],
                    resolvable: true,
                },
                Rejection::for_now(Reason::Insufficient("cpu".into())),
                Rejection::for_good(Reason::Taint),
            ],
            Preemption::NoVictims,
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims \
             found for incoming pod.",
        );
        check(
            vec![Rejection::for_good(Reason::NodeAffinity)],
            Preemption::NotEligible,
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: not eligible \
             due to preemptionPolicy=Never.",
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert_eq!(Unschedulable::NoNodes.to_string(), "no nodes available to schedule pods");
        let refused = Unschedulable::Refused { nodes: 2, why: "not yet".into() };
        assert_eq!(refused.to_string(), "0/2 nodes are available: not yet.");
    }
}
