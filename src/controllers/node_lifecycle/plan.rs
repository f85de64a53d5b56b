//! What a node's conditions and taints should be.
#![deny(clippy::disallowed_methods)]

use api::{
    conditions,
    constants::taint::{
        DISK_PRESSURE, MEMORY_PRESSURE, NETWORK_UNAVAILABLE, NO_EXECUTE, NO_SCHEDULE, NOT_READY,
        PID_PRESSURE, UNREACHABLE, UNSCHEDULABLE,
    },
    taints,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// What is known besides the node itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed<'a> {
    pub(super) node: &'a Node,
    /// No sign of life for the grace period.
    pub(super) silent: bool,
    /// No node of the cluster is ready.
    pub(super) all_down: bool,
    /// It is this node's turn to be tainted for eviction.
    pub(super) may_evict: bool,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Conditions that change.
    pub(super) conditions: Vec<NodeCondition>,
    /// All taints, if they change.
    pub(super) taints: Option<Vec<Taint>>,
    /// The taints wait for the node's turn.
    pub(super) wants_turn: bool,
    /// A taint for eviction is new: the turn is taken.
    pub(super) takes_turn: bool,
    /// Its pods serve nobody.
    pub(super) pods_not_ready: bool,
}

const WATCHED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let status = observed.node.status.as_ref();
    let mut current = status.and_then(|status| status.conditions.clone());
    if observed.silent {
        for type_ in WATCHED {
            let next = unknown(conditions::get(current.as_deref(), type_), type_, now);
            if let Some(next) = next {
                conditions::set(&mut current, next.clone(), now);
                plan.conditions.push(next);
            }
        }
    }
    let ready =
        conditions::get(current.as_deref(), "Ready").map_or(conditions::UNKNOWN, |ready| &ready.status);
    plan.pods_not_ready = ready != conditions::TRUE;
    let old = observed.node.spec.as_ref().and_then(|spec| spec.taints.clone());
    let mut next = old.clone();
    keep_off(observed.node, current.as_deref(), ready, &mut next, now);
    evict(observed, ready, &mut next, &mut plan, now);
    if next.clone().unwrap_or_default() != old.unwrap_or_default() {
        plan.taints = Some(next.unwrap_or_default());
    }
    plan
}

/// The condition of a silent node; none if it says so already.
fn unknown(old: Option<&NodeCondition>, type_: &str, now: Timestamp) -> Option<NodeCondition> {
    let (reason, message) = match old {
        Some(old) if old.status == conditions::UNKNOWN => return None,
        Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
    };
    Some(NodeCondition {
        type_: type_.into(),
        status: conditions::UNKNOWN.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: old.map_or(Some(Time(now)), |old| old.last_heartbeat_time.clone()),
        last_transition_time: Some(Time(now)),
    })
}

/// NoSchedule taints say what conditions say.
fn keep_off(
    node: &Node,
    current: Option<&[NodeCondition]>,
    ready: &str,
    taints: &mut Option<Vec<Taint>>,
    now: Timestamp,
) {
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let wanted = [
        (NOT_READY, ready == conditions::FALSE),
        (UNREACHABLE, ready == conditions::UNKNOWN),
        (MEMORY_PRESSURE, conditions::is_true(current, "MemoryPressure")),
        (DISK_PRESSURE, conditions::is_true(current, "DiskPressure")),
        (PID_PRESSURE, conditions::is_true(current, "PIDPressure")),
        (NETWORK_UNAVAILABLE, conditions::is_true(current, "NetworkUnavailable")),
        (UNSCHEDULABLE, unschedulable),
    ];
    for (key, wanted) in wanted {
        if wanted {
            add(taints, key, NO_SCHEDULE, now);
        } else {
            taints::remove(taints, key, NO_SCHEDULE);
        }
    }
}

/// NoExecute taints make pods leave; only one node at a time gets them.
fn evict(
    observed: &Observed<'_>,
    ready: &str,
    taints: &mut Option<Vec<Taint>>,
    plan: &mut Plan,
    now: Timestamp,
) {
    let wanted = match ready {
        conditions::TRUE => None,
        conditions::FALSE => Some((NOT_READY, UNREACHABLE)),
        _ => Some((UNREACHABLE, NOT_READY)),
    };
    let Some((wanted, other)) = wanted.filter(|_| !observed.all_down) else {
        for key in [NOT_READY, UNREACHABLE] {
            taints::remove(taints, key, NO_EXECUTE);
        }
        return;
    };
    let has = |key: &str| taints.iter().flatten().any(|taint| taint.key == key && taint.effect == NO_EXECUTE);
    if has(wanted) {
        return;
    }
    // From one to the other, its pods are leaving already.
    if has(other) || observed.may_evict {
        plan.takes_turn = !has(other);
        taints::remove(taints, other, NO_EXECUTE);
        add(taints, wanted, NO_EXECUTE, now);
    } else {
        plan.wants_turn = true;
    }
}

fn add(taints: &mut Option<Vec<Taint>>, key: &str, effect: &str, now: Timestamp) {
    let there = taints.iter().flatten().any(|taint| taint.key == key && taint.effect == effect);
    if !there {
        let taint =
            Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(Time(now)) };
        taints.get_or_insert_default().push(taint);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        let taints: Vec<_> =
            taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn make(node: &Node, silent: bool, all_down: bool, may_evict: bool) -> Plan {
        plan(&Observed { node, silent, all_down, may_evict }, Timestamp::UNIX_EPOCH)
    }

    fn taints(plan: &Plan) -> Vec<(String, String)> {
        plan.taints.iter().flatten().map(|taint| (taint.key.clone(), taint.effect.clone())).collect()
    }

    #[test]
    fn a_silent_node_is_unknown_unreachable_and_evicted_in_its_turn() {
        let plan = make(&node("True", &[]), true, false, true);
        assert_eq!(plan.conditions.len(), 4);
        assert_eq!(plan.conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        let expected = [(UNREACHABLE.into(), NO_SCHEDULE.into()), (UNREACHABLE.into(), NO_EXECUTE.into())];
        assert_eq!(taints(&plan), expected);
        assert!(plan.pods_not_ready && plan.takes_turn);

        let waits = make(&node("True", &[]), true, false, false);
        assert_eq!(taints(&waits), expected[..1]);
        assert!(waits.wants_turn);
    }

    #[test]
    fn while_no_node_is_ready_nobody_is_evicted() {
        let plan = make(&node("False", &[(NOT_READY, NO_EXECUTE)]), false, true, true);
        assert_eq!(taints(&plan), [(NOT_READY.to_string(), NO_SCHEDULE.to_string())]);
    }

    #[test]
    fn a_node_that_is_back_keeps_only_foreign_taints() {
        let held = [(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE), ("gpu", NO_EXECUTE)];
        let plan = make(&node("True", &held), false, false, true);
        assert_eq!(taints(&plan), [("gpu".to_string(), NO_EXECUTE.to_string())]);
        assert!(!plan.pods_not_ready);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn planning_again_after_apply_is_empty(
            ready in prop::sample::select(vec!["True", "False", "Unknown"]),
            held in prop::collection::btree_set((prop::sample::select(vec![NOT_READY, UNREACHABLE, DISK_PRESSURE, "gpu"]),
                prop::sample::select(vec![NO_SCHEDULE, NO_EXECUTE])), 0..5),
            silent: bool, all_down: bool,
        ) {
            let held: Vec<_> = held.into_iter().collect();
            let mut node = node(ready, &held);
            let first = make(&node, silent, all_down, true);
            let conditions = &mut node.status.as_mut().unwrap().conditions;
            for condition in first.conditions {
                conditions::set(conditions, condition, Timestamp::UNIX_EPOCH);
            }
            if first.taints.is_some() {
                node.spec.as_mut().unwrap().taints = first.taints;
            }
            let second = make(&node, silent, all_down, true);
            prop_assert!(second.conditions.is_empty() && second.taints.is_none(), "{second:?}");
        }
    }
}
