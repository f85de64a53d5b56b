//! Whether a pod can be on a node, as far as that node alone tells. In upstream's order: the first filter that a node
//! fails is the one that is reported.
#![deny(clippy::disallowed_methods)]

use api::{constants::taint, node_affinity, taints};
use k8s_openapi::api::core::v1::Taint;

use crate::{
    diagnosis::{Reason, Rejection},
    node::NodeInfo,
    pod::PodInfo,
};

/// All filters that look at one node.
pub(crate) fn fits(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if pod.pinned.as_ref().is_some_and(|names| !names.contains(&*node.name)) {
        return Err(Rejection::for_good(Reason::NotNamed));
    }
    if node.facts.unschedulable && !tolerates_unschedulable(pod) {
        return Err(Rejection::for_good(Reason::Unschedulable));
    }
    if pod.node_name().is_some_and(|name| name != &*node.name) {
        return Err(Rejection::for_good(Reason::NodeName));
    }
    if taints::first_untolerated(&node.facts.taints, pod.tolerations(), taints::keeps_off).is_some() {
        return Err(Rejection::for_good(Reason::Taint));
    }
    if !node_affinity::required_matches(&pod.pod, &node.name, &node.facts.labels) {
        return Err(Rejection::for_good(Reason::NodeAffinity));
    }
    if pod.host_ports.iter().any(|port| node.host_ports.keys().any(|taken| taken.conflicts_with(port))) {
        return Err(Rejection::for_now(Reason::Ports));
    }
    has_room(pod, node)
}

/// Cordoning also taints the node, but the taint comes a moment later.
fn tolerates_unschedulable(pod: &PodInfo) -> bool {
    let cordon = Taint {
        key: taint::UNSCHEDULABLE.into(),
        effect: taint::NO_SCHEDULE.into(),
        value: None,
        time_added: None,
    };
    taints::is_tolerated(&cordon, pod.tolerations())
}

/// All that is short is told at once. What the node would not have even when empty, no eviction can give.
fn has_room(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut reasons = Vec::new();
    let mut resolvable = true;
    if node.pods.len() as i64 + 1 > node.facts.pod_slots {
        reasons.push(Reason::TooManyPods);
    }
    let (has, taken, wants) = (&node.facts.allocatable, &node.requested, &pod.requests);
    let mut check = |name: &str, has: i64, taken: i64, wants: i64| {
        if wants > 0 && wants > has.saturating_sub(taken) {
            reasons.push(Reason::Insufficient(name.to_string().into()));
            resolvable &= wants <= has;
        }
    };
    check("cpu", has.milli_cpu, taken.milli_cpu, wants.milli_cpu);
    check("memory", has.memory_bytes, taken.memory_bytes, wants.memory_bytes);
    check(
        "ephemeral-storage",
        has.ephemeral_storage_bytes,
        taken.ephemeral_storage_bytes,
        wants.ephemeral_storage_bytes,
    );
    for (name, wants) in &wants.other {
        check(name, has.other(name), taken.other(name), *wants);
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, resolvable }) }
}
