//! Decides the status of a budget.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    conditions,
    int_or_string::{NotAPercentage, Rounding, scaled},
    pods,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};

/// How long after its eviction a pod must have been asked to go; after that it counts again.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// What a budget is computed from.
pub(super) struct Observed<'a> {
    pub(super) budget: &'a PodDisruptionBudget,
    /// All that it selects.
    pub(super) pods: &'a [Arc<Pod>],
    /// How many pods their owners want; not used unless the budget [`needs_scale`].
    pub(super) scale: i32,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    /// Evicted, but nobody asked them to go in time.
    pub(super) not_deleted: Vec<Arc<Pod>>,
    /// When the next entry of disruptedPods ends.
    pub(super) again: Option<Duration>,
}

/// Whether the budget counts what is wanted instead of what is there.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// # Errors
/// When the budget's number is none.
pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Result<Plan, NotAPercentage> {
    let Observed { budget, pods, scale } = observed;
    let (expected, desired) = match &budget.spec {
        Some(spec) => bounds(spec, number(pods.len()), *scale)?,
        None => (0, 0),
    };
    let noted = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());

    let mut disrupted = BTreeMap::new();
    let (mut not_deleted, mut again) = (Vec::new(), None::<SignedDuration>);
    let mut healthy = 0;
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match noted.and_then(|noted| noted.get(name)) {
            Some(since) if now.duration_since(since.0) < DELETION_TIMEOUT => {
                let left = DELETION_TIMEOUT - now.duration_since(since.0);
                again = Some(again.map_or(left, |again| again.min(left)));
                disrupted.insert(name.to_string(), since.clone());
                continue;
            }
            Some(_) => not_deleted.push(Arc::clone(pod)),
            None => {}
        }
        healthy += i32::from(pods::is_ready(pod));
    }
    // While nothing is expected nothing is allowed: the first pods may come before this is computed again.
    let allowed = if expected > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };

    let mut status = PodDisruptionBudgetStatus {
        conditions: budget.status.as_ref().and_then(|status| status.conditions.clone()),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    let (verdict, reason) = if allowed > 0 {
        (conditions::TRUE, "SufficientPods")
    } else {
        (conditions::FALSE, "InsufficientPods")
    };
    say(&mut status, verdict, reason, "", now);
    let again = again.map(|left| Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1));
    Ok(Plan { status, not_deleted, again })
}

/// The status while nothing can be computed: as it was, but that nothing may be evicted.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    message: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    say(&mut status, conditions::FALSE, "SyncFailed", message, now);
    status
}

/// Whether two statuses say the same: the API leaves what is empty out.
pub(super) fn same(a: &PodDisruptionBudgetStatus, b: &PodDisruptionBudgetStatus) -> bool {
    let plain = |status: &PodDisruptionBudgetStatus| PodDisruptionBudgetStatus {
        conditions: Some(status.conditions.clone().unwrap_or_default()),
        disrupted_pods: Some(status.disrupted_pods.clone().unwrap_or_default()),
        observed_generation: Some(status.observed_generation.unwrap_or(0)),
        current_healthy: Some(status.current_healthy.unwrap_or(0)),
        desired_healthy: Some(status.desired_healthy.unwrap_or(0)),
        disruptions_allowed: Some(status.disruptions_allowed.unwrap_or(0)),
        expected_pods: Some(status.expected_pods.unwrap_or(0)),
    };
    plain(a) == plain(b)
}

fn say(status: &mut PodDisruptionBudgetStatus, verdict: &str, reason: &str, message: &str, now: Timestamp) {
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.into(),
        status: verdict.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: status.observed_generation,
    };
    conditions::set(&mut status.conditions, condition, now);
}

/// How many there should be and how many must stay. A share counts whole pods, in both fields the larger number.
/// A budget that bounds nothing expects nothing, and so allows nothing.
fn bounds(spec: &PodDisruptionBudgetSpec, pods: i32, scale: i32) -> Result<(i32, i32), NotAPercentage> {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => {
            let unavailable = scaled(unavailable, scale, Rounding::Up)?;
            Ok((scale, scale.saturating_sub(unavailable).max(0)))
        }
        (None, Some(IntOrString::Int(available))) => Ok((pods, *available)),
        (None, Some(share)) => Ok((scale, scaled(share, scale, Rounding::Up)?)),
        (None, None) => Ok((0, 0)),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let whole = json!({"metadata": {"name": "b", "namespace": "d", "generation": 3}, "spec": spec,
            "status": status});
        serde_json::from_value(whole).unwrap()
    }

    fn unseen() -> Value {
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    }

    fn noted(pods: Value) -> Value {
        let mut status = unseen();
        status["disruptedPods"] = pods;
        status
    }

    fn pod(name: usize, ready: bool, going: bool) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": format!("p{name}")}, "status": {"conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        if going {
            pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn ready(count: usize) -> Vec<Arc<Pod>> {
        (0..count).map(|name| pod(name, true, false)).collect()
    }

    fn make(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], scale: i32) -> Plan {
        plan(&Observed { budget, pods, scale }, at(NOW)).unwrap()
    }

    /// Expected, desired, healthy, allowed.
    fn counts(status: &PodDisruptionBudgetStatus) -> (i32, i32, i32, i32) {
        let counts = [
            status.expected_pods,
            status.desired_healthy,
            status.current_healthy,
            status.disruptions_allowed,
        ];
        let [expected, desired, healthy, allowed] = counts.map(Option::unwrap);
        (expected, desired, healthy, allowed)
    }

    #[test]
    fn a_budget_counts_pods_by_number_and_owners_by_share() {
        for (spec, pods, scale, expected) in [
            (json!({"minAvailable": 2}), 3, 0, (3, 2, 3, 1)),
            (json!({"minAvailable": 5}), 3, 0, (3, 5, 3, 0)),
            (json!({"minAvailable": 0}), 3, 0, (3, 0, 3, 3)),
            (json!({"minAvailable": "50%"}), 3, 5, (5, 3, 3, 0)),
            (json!({"minAvailable": "50%"}), 5, 5, (5, 3, 5, 2)),
            (json!({"maxUnavailable": 1}), 3, 3, (3, 2, 3, 1)),
            (json!({"maxUnavailable": 9}), 3, 3, (3, 0, 3, 3)),
            (json!({"maxUnavailable": "30%"}), 10, 10, (10, 7, 10, 3)),
            (json!({"maxUnavailable": "1%"}), 3, 3, (3, 2, 3, 1)),
            (json!({"maxUnavailable": 0}), 3, 3, (3, 3, 3, 0)),
            // Nobody owns these pods: no share of them can be taken.
            (json!({"maxUnavailable": 1}), 3, 0, (0, 0, 3, 0)),
            (json!({"minAvailable": 0}), 0, 0, (0, 0, 0, 0)),
            (json!({}), 3, 0, (0, 0, 3, 0)),
        ] {
            let status = make(&budget(spec.clone(), unseen()), &ready(pods), scale).status;
            assert_eq!(counts(&status), expected, "{spec}");
            assert_eq!(status.observed_generation, Some(3));
            let condition = &status.conditions.unwrap()[0];
            let verdict =
                if expected.3 > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), verdict);
            assert_eq!(condition.observed_generation, Some(3));
        }
    }

    #[test]
    fn a_pod_that_is_not_ready_or_goes_is_not_healthy() {
        let pods = [pod(0, true, false), pod(1, false, false), pod(2, true, true)];
        assert_eq!(
            counts(&make(&budget(json!({"minAvailable": 0}), unseen()), &pods, 0).status),
            (3, 0, 1, 1)
        );
    }

    #[test]
    fn an_evicted_pod_does_not_count_until_its_time_is_up() {
        let since = |second: i64| json!(api::time::seconds(at(second)));
        let status = noted(json!({
            "p0": since(NOW - 10), "p1": since(NOW - 119), "p2": since(NOW - 120),
            "p3": since(NOW), "gone": since(NOW)}));
        let mut pods = ready(3);
        pods.push(pod(3, true, true));
        let plan = make(&budget(json!({"minAvailable": 1}), status), &pods, 0);
        let left: Vec<_> = plan.status.disrupted_pods.as_ref().unwrap().keys().map(String::as_str).collect();
        assert_eq!(left, ["p0", "p1"], "what goes, is gone or was forgotten is not kept");
        assert_eq!(plan.not_deleted.len(), 1);
        assert_eq!(plan.not_deleted[0].metadata.name.as_deref(), Some("p2"));
        assert_eq!(plan.status.current_healthy, Some(1));
        assert_eq!(plan.again, Some(Duration::from_millis(1_001)));
    }

    #[test]
    fn a_failure_allows_nothing_and_says_why() {
        let mut seen = budget(json!({"minAvailable": 1}), unseen());
        seen.status = Some(make(&seen, &ready(2), 0).status);
        let status = failed(&seen, "nobody knows", at(NOW + 1));
        assert_eq!(counts(&status), (2, 1, 2, 0));
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", "nobody knows"));
        assert_eq!(condition.last_transition_time.0, at(NOW + 1));
        seen.status = Some(status.clone());
        assert!(same(&failed(&seen, "nobody knows", at(NOW + 9)), &status), "said once");
    }

    #[test]
    fn what_is_no_number_is_a_failure() {
        let budget = budget(json!({"maxUnavailable": "many"}), unseen());
        assert!(plan(&Observed { budget: &budget, pods: &[], scale: 1 }, at(NOW)).is_err());
    }

    fn bound() -> impl Strategy<Value = Value> {
        let one = prop_oneof![
            (0..30_i32).prop_map(|n| json!(n)),
            (0..=100_i32).prop_map(|n| json!(format!("{n}%")))
        ];
        (any::<bool>(), one).prop_map(|(min, value)| {
            if min { json!({"minAvailable": value}) } else { json!({"maxUnavailable": value}) }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is evicted as allowed leaves as many healthy as there must be; and a status once written is left.
        #[test]
        fn no_eviction_that_is_allowed_leaves_too_few(
            spec in bound(),
            pods in prop::collection::vec((any::<bool>(), any::<bool>()), 0..20),
            scale in 0..20_i32,
            since in prop::collection::vec(0..300_i64, 0..20),
        ) {
            let pods = pods.iter().enumerate().map(|(name, (ready, going))| pod(name, *ready, *going));
            let pods: Vec<_> = pods.collect();
            let noted_pods: serde_json::Map<String, Value> = since.iter().enumerate()
                .map(|(name, ago)| (format!("p{name}"), json!(api::time::seconds(at(NOW - ago))))).collect();
            let mut budget = budget(spec, noted(Value::Object(noted_pods)));
            let first = make(&budget, &pods, scale);
            let status = &first.status;
            let (_, desired, healthy, allowed) = counts(status);
            prop_assert!(allowed == 0 || (allowed > 0 && healthy - allowed >= desired));
            prop_assert_eq!(first.again.is_some(), status.disrupted_pods.is_some());
            budget.status = Some(status.clone());
            let second = make(&budget, &pods, scale);
            prop_assert!(same(&second.status, status));
            prop_assert!(second.not_deleted.is_empty());
        }
    }
}
