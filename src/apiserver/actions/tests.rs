//! What binding and eviction decide.

use serde_json::json;

use super::binding::assign;
use super::eviction::{State, disrupted, spend, unprotected};

#[test]
fn a_waiting_pod_is_bound_and_says_so() {
    let mut pod = json!({"metadata": {"name": "web"}, "spec": {}, "status": {"phase": "Pending", "nominatedNodeName": "x"}});
    let binding = json!({"metadata": {"name": "web", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}});
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    assign(&mut pod, &binding, now).unwrap();
    insta::assert_json_snapshot!(pod);
}

#[test]
fn a_pod_is_bound_once() {
    let binding = json!({"target": {"name": "n2"}});
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for (pod, why) in [
        (
            json!({"metadata": {"name": "web"}, "spec": {"nodeName": "n1"}}),
            "Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to node \"n1\"",
        ),
        (
            json!({"metadata": {"name": "web", "deletionTimestamp": "x"}, "spec": {}}),
            "Operation cannot be fulfilled on pods/binding \"web\": pod web is being deleted, cannot be assigned to a host",
        ),
        (
            json!({"metadata": {"name": "web"}, "spec": {"schedulingGates": [{"name": "g"}]}}),
            "Operation cannot be fulfilled on pods/binding \"web\": pod web has non-empty .spec.schedulingGates",
        ),
    ] {
        assert_eq!(assign(&mut pod.clone(), &binding, now).unwrap_err().message, why);
    }
}

#[test]
fn a_budget_is_spent_until_nothing_is_left() {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut budget = json!({"metadata": {"name": "b", "generation": 1}, "status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2}});
    spend(&mut budget, "web", now).unwrap();
    assert_eq!(budget["status"]["disruptedPods"]["web"], "2026-01-01T00:00:00Z");
    let condition = &budget["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("InsufficientPods")));
    budget["status"]["currentHealthy"] = 2.into();
    let refused = spend(&mut budget, "web2", now).unwrap_err();
    assert_eq!(refused.code.as_u16(), 429);
    assert_eq!(refused.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let causes = refused.details.unwrap().causes;
    assert_eq!(causes[0].message, "The disruption budget b needs 2 healthy pods and has 2 currently");
    assert_eq!(causes[0].reason, "DisruptionBudget");
}

#[test]
fn a_budget_that_was_not_looked_at_yet_refuses() {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut budget = json!({"metadata": {"name": "b", "generation": 2}, "status": {"observedGeneration": 1}});
    assert_eq!(spend(&mut budget, "web", now).unwrap_err().retry_after_secs, Some(10));
}

#[test]
fn a_pod_is_free_to_go_before_and_after_it_runs() {
    let pod = |phase: &str| json!({"metadata": {}, "status": {"phase": phase}});
    let mut going = pod("Pending");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for (pod, state) in [
        (pod("Pending"), Some(State::Waits)),
        (pod("Succeeded"), Some(State::Ends)),
        (pod("Failed"), Some(State::Ends)),
        (going, Some(State::Ends)),
        (pod("Running"), None),
        (pod("Unknown"), None),
    ] {
        assert_eq!(unprotected(&pod), state, "{pod}");
    }
}

#[test]
fn a_pod_says_since_when_it_was_to_go() {
    let (now, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
    let mut pod = json!({"metadata": {}});
    for at in [now, later] {
        disrupted(&mut pod, at.parse().unwrap());
        assert_eq!(pod["status"]["conditions"][0]["lastTransitionTime"], now);
    }
    pod["status"]["conditions"][0]["status"] = json!("False");
    disrupted(&mut pod, later.parse().unwrap());
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert_eq!((conditions.len(), &conditions[0]["lastTransitionTime"]), (1, &json!(later)));
}
