//! Decides which nodes get a pod and which pods go.
#![deny(clippy::disallowed_methods)]

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::pods::{is_bound, is_ready, is_terminal};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};

use super::{
    placement::Verdict,
    rolling::{self, Patience, Strategy},
    survey::{Place, Survey, is_updated},
};

/// At most this many pods are made, and as many removed, in one pass, as upstream: images are pulled for each.
const BURST: usize = 250;

pub(super) struct Observed<'a> {
    pub(super) set: &'a DaemonSet,
    /// Of the revision that pods should be of.
    pub(super) hash: &'a str,
    pub(super) survey: Survey,
    /// Nodes on which a failed pod is not replaced yet, and for how long.
    pub(super) waits: &'a HashMap<String, Duration>,
    pub(super) patience: Patience,
}

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It failed: its node gets another.
    Failed,
    /// It ended well, which a daemon never should.
    Succeeded,
    /// Its node is not for it, or has a better one.
    Excess,
    /// Another of the current revision takes its place.
    Outdated,
}

#[derive(Clone, Debug)]
pub(super) struct Removal {
    pub(super) pod: Arc<Pod>,
    pub(super) node: String,
    pub(super) why: Why,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Names of nodes.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Removal>,
    /// When a failed pod's wait is over.
    pub(super) again_after: Option<Duration>,
}

pub(super) fn plan(observed: Observed<'_>) -> Plan {
    let Observed { set, hash, mut survey, waits, patience } = observed;
    let strategy = Strategy::of(set);
    let mut plan = Plan::default();
    for (node, place) in &mut survey {
        let keeper =
            Keeper { node, hash, surges: strategy.surges(), wait: waits.get(node).copied(), patience };
        keeper.see_to(place, &mut plan);
    }
    // The update sees each node as it is after what has just been decided.
    if let Strategy::Rolling(rolling) = &strategy {
        let step = rolling::step(&survey, rolling, hash, patience);
        let outdated = |(node, pod)| Removal { pod, node, why: Why::Outdated };
        plan.delete.extend(step.delete.into_iter().map(outdated));
        plan.create.extend(step.create);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// Sees to it that a node has the pods it should have, of whichever revision.
struct Keeper<'a> {
    node: &'a str,
    hash: &'a str,
    surges: bool,
    /// A pod that failed here is not replaced before.
    wait: Option<Duration>,
    patience: Patience,
}

impl Keeper<'_> {
    fn see_to(&self, place: &mut Place, plan: &mut Plan) {
        let excess = |pod: &Arc<Pod>| (Arc::clone(pod), Why::Excess);
        let removed: Vec<(Arc<Pod>, Why)> = match place.verdict {
            // What is bound there goes with its node; nobody else would remove what waits for it.
            None => place.alive.iter().filter(|pod| !is_bound(pod)).map(excess).collect(),
            Some(Verdict::Leaves) => place.alive.iter().map(excess).collect(),
            Some(Verdict::Runs) if place.pods.is_empty() => {
                plan.create.push(self.node.to_string());
                Vec::new()
            }
            Some(verdict) => self.keep_one(verdict, place, plan),
        };
        let is_gone = |pod: &Arc<Pod>| removed.iter().any(|(gone, _)| Arc::ptr_eq(gone, pod));
        place.alive.retain(|pod| !is_gone(pod));
        place.pods.retain(|pod| !(is_terminal(pod) && is_gone(pod)));
        let removal = |(pod, why)| Removal { pod, node: self.node.to_string(), why };
        plan.delete.extend(removed.into_iter().map(removal));
    }

    /// What goes of the pods on a node that may have one.
    fn keep_one(&self, verdict: Verdict, place: &Place, plan: &mut Plan) -> Vec<(Arc<Pod>, Why)> {
        let (mut removed, mut running) = (Vec::new(), Vec::new());
        let mut waiting = false;
        for pod in &place.alive {
            match (phase(pod), self.wait) {
                // The node may refuse the next one too: without a pause that would be a loop.
                ("Failed", Some(wait)) => {
                    waiting = true;
                    plan.again_after = Some(plan.again_after.map_or(wait, |other| other.min(wait)));
                }
                ("Failed", None) => removed.push((Arc::clone(pod), Why::Failed)),
                ("Succeeded", _) => removed.push((Arc::clone(pod), Why::Succeeded)),
                _ => running.push(pod),
            }
        }
        // Of several the oldest that is ready stays. Upstream keeps the oldest, also where only the others serve.
        running.sort_by_key(|pod| !is_ready(pod));
        // Beside one that surges another may be on its way out; else the place has to be free, or become so at once by
        // what has ended.
        let free = running.is_empty() && !waiting && (self.surges || removed.len() == place.pods.len());
        if free && verdict == Verdict::Runs {
            plan.create.push(self.node.to_string());
        } else if self.surges {
            removed.extend(self.one_of_each(&running));
        } else {
            removed.extend(running.into_iter().skip(1).map(|pod| (Arc::clone(pod), Why::Excess)));
        }
        removed
    }

    /// One pod of the current revision and one of another are kept together as long as the other one still serves and
    /// the current one does not.
    fn one_of_each(&self, running: &[&Arc<Pod>]) -> Vec<(Arc<Pod>, Why)> {
        let (mut removed, mut new, mut old) = (Vec::new(), None, None);
        for pod in running {
            let slot = if is_updated(pod, self.hash) { &mut new } else { &mut old };
            match slot {
                None => *slot = Some(*pod),
                Some(_) => removed.push((Arc::clone(pod), Why::Excess)),
            }
        }
        if let (Some(new), Some(old)) = (new, old)
            && (!is_ready(old) || self.patience.is_available(new))
        {
            removed.push((Arc::clone(old), Why::Outdated));
        }
        removed
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
