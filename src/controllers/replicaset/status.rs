//! What the API shows of a ReplicaSet.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use api::{conditions, pods, selector::Selector};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::plan::{Plan, wanted};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The status after a pass in which managing pods failed with `failure`, if it did.
pub(super) fn status(
    replica_set: &ReplicaSet,
    plan: &Plan,
    failure: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = replica_set.spec.as_ref();
    let labels = spec.and_then(|spec| spec.template.as_ref()).and_then(|template| template.metadata.as_ref());
    let template = Selector::of_set(labels.iter().flat_map(|meta| meta.labels.iter().flatten()));
    let min_ready = min_ready_seconds(replica_set);
    let count = |counts: &dyn Fn(&Pod) -> bool| number(plan.active.iter().filter(|pod| counts(pod)).count());

    let mut status = replica_set.status.clone().unwrap_or_default();
    status.replicas = number(plan.active.len());
    status.fully_labeled_replicas = Some(count(&|pod| template.matches(&pod.metadata.labels)));
    status.ready_replicas = Some(count(&pods::is_ready));
    status.available_replicas = Some(count(&|pod| pods::is_available(pod, min_ready, now)));
    status.terminating_replicas = Some(number(plan.terminating.len()));
    status.observed_generation = replica_set.metadata.generation;
    match failure {
        Some(message) => {
            // One that is there stays as it is, as upstream: its time tells since when.
            if conditions::get(status.conditions.as_deref(), REPLICA_FAILURE).is_none() {
                let few = number(plan.active.len()) < wanted(replica_set);
                let condition = ReplicaSetCondition {
                    type_: REPLICA_FAILURE.into(),
                    status: conditions::TRUE.into(),
                    last_transition_time: Some(Time(now)),
                    reason: Some(if few { "FailedCreate" } else { "FailedDelete" }.into()),
                    message: Some(message.into()),
                };
                status.conditions.get_or_insert_default().push(condition);
            }
        }
        None => drop(conditions::remove(&mut status.conditions, REPLICA_FAILURE)),
    }
    status.conditions = status.conditions.filter(|conditions| !conditions.is_empty());
    status
}

/// Whether two statuses say the same: the API leaves zeros out.
pub(super) fn same(a: &ReplicaSetStatus, b: &ReplicaSetStatus) -> bool {
    let counts = |status: &ReplicaSetStatus| {
        (
            status.replicas,
            status.fully_labeled_replicas.unwrap_or(0),
            status.ready_replicas.unwrap_or(0),
            status.available_replicas.unwrap_or(0),
            status.terminating_replicas.unwrap_or(0),
            status.observed_generation.unwrap_or(0),
            status.conditions.clone().unwrap_or_default(),
        )
    };
    counts(a) == counts(b)
}

/// How long until the next ready pod has been ready for `minReadySeconds`.
pub(super) fn next_availability(replica_set: &ReplicaSet, plan: &Plan, now: Timestamp) -> Option<Duration> {
    let min_ready = min_ready_seconds(replica_set);
    let waiting = plan.active.iter().filter(|pod| !pods::is_available(pod, min_ready, now));
    let left = waiting.filter_map(|pod| pods::ready_since(pod)).map(|since| {
        let ready_for = now.duration_since(since);
        jiff::SignedDuration::from_secs(i64::from(min_ready)) - ready_for
    });
    left.min().map(|left| Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1))
}

fn min_ready_seconds(replica_set: &ReplicaSet) -> i32 {
    replica_set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::{
        apps::v1::ReplicaSetSpec,
        core::v1::{PodCondition, PodStatus},
    };

    use super::*;

    fn ready_pod(since: i64) -> Arc<Pod> {
        let ready = PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(Timestamp::from_second(since).unwrap())),
            ..PodCondition::default()
        };
        let status = PodStatus { conditions: Some(vec![ready]), ..PodStatus::default() };
        Arc::new(Pod { status: Some(status), ..Pod::default() })
    }

    #[test]
    fn a_pod_is_available_after_its_minimum_time_and_the_wait_is_told() {
        let spec = ReplicaSetSpec { min_ready_seconds: Some(30), ..ReplicaSetSpec::default() };
        let set = ReplicaSet { spec: Some(spec), ..ReplicaSet::default() };
        let plan = Plan { active: vec![ready_pod(100), ready_pod(120)], ..Plan::default() };
        let now = Timestamp::from_second(130).unwrap();
        let status = status(&set, &plan, None, now);
        assert_eq!((status.ready_replicas, status.available_replicas), (Some(2), Some(1)));
        assert_eq!(next_availability(&set, &plan, now).unwrap().as_secs(), 20);
    }

    #[test]
    fn a_failure_is_told_and_forgotten() {
        let mut set = ReplicaSet { spec: Some(ReplicaSetSpec::default()), ..ReplicaSet::default() };
        let now = Timestamp::UNIX_EPOCH;
        set.status = Some(status(&set, &Plan::default(), Some("quota"), now));
        let failure = &set.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
        assert_eq!(failure.reason.as_deref(), Some("FailedCreate"));
        assert_eq!(status(&set, &Plan::default(), None, now).conditions, None);
    }
}
