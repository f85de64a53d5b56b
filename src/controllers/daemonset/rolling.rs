//! A rolling update: which old pods go, and which nodes get a new pod beside the old one.
//!
//! Upstream's rules. Without a surge old pods go and their nodes get new ones in a later pass; with one the new pod comes
//! first, and the old one goes once the new one is available.
#![deny(clippy::disallowed_methods)]

use std::sync::Arc;

use api::{
    int_or_string::{Rounding, scaled},
    pods,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, RollingUpdateDaemonSet},
        core::v1::Pod,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    placement::Verdict,
    survey::{Place, Survey, is_updated},
};

/// How a DaemonSet replaces its pods.
#[derive(Clone, Debug)]
pub(super) enum Strategy {
    /// When somebody deletes them.
    OnDelete,
    Rolling(RollingUpdateDaemonSet),
}

/// What bounds an update, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) surge: usize,
    pub(super) unavailable: usize,
}

impl Strategy {
    pub(super) fn of(set: &DaemonSet) -> Self {
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        match strategy.and_then(|strategy| strategy.type_.as_deref()) {
            Some("OnDelete") => Self::OnDelete,
            _ => Self::Rolling(strategy.and_then(|s| s.rolling_update.clone()).unwrap_or_default()),
        }
    }

    /// Whether a node may have a second pod for a time.
    pub(super) fn surges(&self) -> bool {
        match self {
            Self::OnDelete => false,
            Self::Rolling(rolling) => share(rolling.max_surge.as_ref(), 1) > 0,
        }
    }
}

impl Bounds {
    fn of(rolling: &RollingUpdateDaemonSet, desired: usize) -> Self {
        let surge = share(rolling.max_surge.as_ref(), desired);
        let unavailable = share(rolling.max_unavailable.as_ref(), desired);
        // Both nothing: nothing could ever move.
        Self { surge, unavailable: if surge == 0 { unavailable.max(1) } else { unavailable } }
    }
}

/// Percentages are rounded up, both. Validation has seen to it that it is a number or a percentage.
fn share(value: Option<&IntOrString>, desired: usize) -> usize {
    let desired = i32::try_from(desired).unwrap_or(i32::MAX);
    let scaled = value.and_then(|value| scaled(value, desired, Rounding::Up).ok());
    scaled.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// When a pod can be counted on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) min_ready_seconds: i32,
    pub(super) now: Timestamp,
}

impl Patience {
    pub(super) fn is_available(self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready_seconds, self.now)
    }
}

#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) delete: Vec<(String, Arc<Pod>)>,
    /// Names of nodes.
    pub(super) create: Vec<String>,
}

/// The next step towards pods that all are of the revision of this hash.
pub(super) fn step(
    survey: &Survey,
    rolling: &RollingUpdateDaemonSet,
    hash: &str,
    patience: Patience,
) -> Step {
    let desired = survey.values().filter(|place| place.verdict == Some(Verdict::Runs)).count();
    let bounds = Bounds::of(rolling, desired);
    if bounds.surge == 0 {
        replace(survey, bounds.unavailable, hash, patience)
    } else {
        surge(survey, bounds.surge, desired, hash, patience)
    }
}

/// The pods on a node that stay, if there is at most one of each sort.
enum There<'a> {
    Nothing,
    Old(&'a Arc<Pod>),
    New(&'a Arc<Pod>),
    Both { old: &'a Arc<Pod>, new: &'a Arc<Pod> },
    TooMany,
}

fn there<'a>(place: &'a Place, hash: &str) -> There<'a> {
    let (mut old, mut new) = (None, None);
    for pod in &place.alive {
        let slot = if is_updated(pod, hash) { &mut new } else { &mut old };
        if slot.replace(pod).is_some() {
            return There::TooMany;
        }
    }
    match (old, new) {
        (None, None) => There::Nothing,
        (Some(old), None) => There::Old(old),
        (None, Some(new)) => There::New(new),
        (Some(old), Some(new)) => There::Both { old, new },
    }
}

/// Old pods that serve nobody go at once; of the others as many as may be missing.
fn replace(survey: &Survey, may_be_missing: usize, hash: &str, patience: Patience) -> Step {
    let (mut step, mut candidates, mut missing) = (Step::default(), Vec::new(), 0);
    let concerned =
        survey.iter().filter(|(_, place)| place.verdict == Some(Verdict::Runs) || !place.pods.is_empty());
    for (node, place) in concerned {
        match there(place, hash) {
            There::New(new) if patience.is_available(new) => {}
            There::Old(old) if patience.is_available(old) => candidates.push((node.clone(), Arc::clone(old))),
            There::Old(old) => {
                step.delete.push((node.clone(), Arc::clone(old)));
                missing += 1;
            }
            There::New(_) | There::Nothing | There::Both { .. } | There::TooMany => missing += 1,
        }
    }
    step.delete.extend(candidates.into_iter().take(may_be_missing.saturating_sub(missing)));
    step
}

/// New pods come beside old ones: at once where the old one serves nobody, elsewhere as many as the surge allows.
fn surge(survey: &Survey, most: usize, desired: usize, hash: &str, patience: Patience) -> Step {
    let mut step = Step::default();
    let (mut beside, mut leaving) = (Vec::new(), Vec::new());
    let (mut surging, mut available) = (0, 0);
    for (node, place) in survey.iter().filter(|(_, place)| !place.pods.is_empty()) {
        let there = there(place, hash);
        let counts = match &there {
            There::Old(pod) | There::New(pod) | There::Both { old: pod, .. } => patience.is_available(pod),
            There::Nothing | There::TooMany => false,
        };
        available += usize::from(counts);
        let named = |pod: &Arc<Pod>| (node.clone(), Arc::clone(pod));
        match there {
            There::TooMany => surging += 1,
            There::Nothing | There::New(_) => {}
            There::Both { old, new } if patience.is_available(new) => step.delete.push(named(old)),
            There::Both { .. } => surging += 1,
            There::Old(old) => match place.verdict {
                // Its node is gone, and it goes with it.
                None => {}
                Some(Verdict::Runs) if counts => beside.push(node.clone()),
                Some(Verdict::Runs) => {
                    step.create.push(node.clone());
                    // Of two that are not ready only the new one is kept.
                    if !pods::is_ready(old) {
                        step.delete.push(named(old));
                    }
                }
                Some(_) if counts => leaving.push(named(old)),
                Some(_) => step.delete.push(named(old)),
            },
        }
    }
    // Who surges expects that nothing is ever missing: what has to leave its node waits until others stand in.
    step.delete.extend(leaving.into_iter().take(available.saturating_sub(desired)));
    step.create.extend(beside.into_iter().take(most.saturating_sub(surging)));
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_numbers_or_shares_rounded_up_and_let_something_move() {
        let number = |number| Some(IntOrString::Int(number));
        let percent = |text: &str| Some(IntOrString::String(text.into()));
        for (max_surge, max_unavailable, desired, expected) in [
            (number(0), number(1), 5, (0, 1)),
            (number(0), percent("25%"), 5, (0, 2)),
            (percent("10%"), number(0), 5, (1, 0)),
            (number(2), number(0), 5, (2, 0)),
            (None, None, 5, (0, 1)),
            (number(0), number(0), 5, (0, 1)),
            (percent("0%"), percent("100%"), 7, (0, 7)),
        ] {
            let bounds = Bounds::of(&RollingUpdateDaemonSet { max_surge, max_unavailable }, desired);
            assert_eq!((bounds.surge, bounds.unavailable), expected);
        }
    }

    #[test]
    fn a_share_of_the_nodes_allows_a_second_pod_and_on_delete_never_does() {
        let set = |strategy: serde_json::Value| -> DaemonSet {
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {
                "selector": {}, "template": {}, "updateStrategy": strategy}}))
            .unwrap()
        };
        for (strategy, surges) in [
            (serde_json::json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "1%"}}), true),
            (serde_json::json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0}}), false),
            (serde_json::json!({"type": "RollingUpdate"}), false),
            (serde_json::json!({"type": "OnDelete", "rollingUpdate": {"maxSurge": 1}}), false),
        ] {
            assert_eq!(Strategy::of(&set(strategy.clone())).surges(), surges, "{strategy}");
        }
    }
}
