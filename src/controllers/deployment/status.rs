//! What the API shows of a Deployment: counts, availability, progress.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::scale::{Bounds, replicas};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub(super) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(super) fn get<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Upstream's rule for Deployments: the same status and reason is no news, whatever the message says.
pub(super) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(old) = get(status, &condition.type_) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

/// Seconds without progress after which a rollout has failed, if it is watched.
pub(super) fn deadline(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| i64::from(seconds))
}

/// Time while paused does not count against the deadline: marks the begin and the end of a pause.
pub(super) fn mark_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = get(status, PROGRESSING).and_then(|condition| condition.reason.clone());
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let (reason, message) = match (reason.as_deref(), paused) {
        (Some(TIMED_OUT | PAUSED), true) | (Some(TIMED_OUT), false) => return,
        (_, true) => (PAUSED, "Deployment is paused"),
        (Some(PAUSED), false) => ("DeploymentResumed", "Deployment is resumed"),
        (_, false) => return,
    };
    set(status, condition(PROGRESSING, "Unknown", reason, message.into(), now));
}

/// The ReplicaSets after a plan.
pub(super) struct Sets<'a> {
    pub(super) all: Vec<&'a ReplicaSet>,
    pub(super) new: Option<&'a ReplicaSet>,
}

/// Counts and availability.
pub(super) fn counts(
    deployment: &Deployment,
    known: &DeploymentStatus,
    sets: &Sets<'_>,
    bounds: &Bounds,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| sets.all.iter().map(|set| count(set)).sum::<i32>();
    let of = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let available = sum(&|set| of(set).available_replicas.unwrap_or(0));
    let total = sum(&replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(&|set| of(set).replicas)),
        updated_replicas: Some(sets.new.map_or(0, |set| of(set).replicas)),
        ready_replicas: Some(sum(&|set| of(set).ready_replicas.unwrap_or(0))),
        available_replicas: Some(available),
        unavailable_replicas: Some((total - available).max(0)),
        terminating_replicas: Some(sum(&|set| of(set).terminating_replicas.unwrap_or(0))),
        collision_count: known.collision_count,
        conditions: known.conditions.clone(),
    };
    let (value, reason, message) = if available >= bounds.least_available() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition(AVAILABLE, value, reason, message.into(), now));
    status
}

/// Whether everything runs as the spec says.
pub(super) fn complete(deployment: &Deployment, status: &DeploymentStatus, bounds: &Bounds) -> bool {
    let desired = Some(bounds.desired);
    let zero = |count: Option<i32>| Some(count.unwrap_or(0));
    zero(status.updated_replicas) == desired
        && zero(status.replicas) == desired
        && zero(status.available_replicas) == desired
        && status.observed_generation >= deployment.metadata.generation
}

/// Adds to `status` what a rollout shows beyond counts: progress, or its lack, and failures of ReplicaSets.
pub(super) fn progress(
    deployment: &Deployment,
    known: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &Sets<'_>,
    bounds: &Bounds,
    now: Timestamp,
) {
    let current = get(known, PROGRESSING).cloned();
    let done = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|current| current.reason.as_deref() == Some(NEW_AVAILABLE));
    match deadline(deployment) {
        None => remove(status, PROGRESSING),
        Some(_) if done => {}
        Some(seconds) => {
            let subject = match sets.new {
                Some(set) => format!("ReplicaSet {:?}", set.metadata.name.as_deref().unwrap_or_default()),
                None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
            };
            if complete(deployment, status, bounds) {
                let message = format!("{subject} has successfully progressed.");
                set(status, condition(PROGRESSING, "True", NEW_AVAILABLE, message, now));
            } else if moved(deployment.status.as_ref(), status) {
                let message = format!("{subject} is progressing.");
                let mut next = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
                if let Some(current) = current.filter(|current| current.status == "True") {
                    next.last_transition_time = current.last_transition_time;
                }
                // Replaced even when the reason is the same: the update time is the progress.
                remove(status, PROGRESSING);
                set(status, next);
            } else if timed_out(status, seconds, now) {
                let message = format!("{subject} has timed out progressing.");
                set(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
            }
        }
    }
    let failure = sets.new.into_iter().chain(sets.all.iter().copied()).find_map(failure);
    match failure {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
}

fn moved(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let old = old.cloned().unwrap_or_default();
    let n = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(&old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(status: &DeploymentStatus, seconds: i64, now: Timestamp) -> bool {
    let Some(current) = get(status, PROGRESSING) else { return false };
    match current.reason.as_deref() {
        Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => current
            .last_update_time
            .as_ref()
            .is_some_and(|since| now.duration_since(since.0) > SignedDuration::from_secs(seconds)),
    }
}

fn failure(set: &ReplicaSet) -> Option<DeploymentCondition> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)?;
    Some(DeploymentCondition {
        type_: failure.type_.clone(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_update_time: failure.last_transition_time.clone(),
        last_transition_time: failure.last_transition_time.clone(),
    })
}

/// When to look whether the deadline has passed.
pub(super) fn next_check(
    deployment: &Deployment,
    status: &DeploymentStatus,
    bounds: &Bounds,
    now: Timestamp,
) -> Option<Duration> {
    let seconds = deadline(deployment)?;
    let current = get(status, PROGRESSING)?;
    if complete(deployment, status, bounds) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let left =
        SignedDuration::from_secs(seconds + 1) - now.duration_since(current.last_update_time.as_ref()?.0);
    Some(Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1)))
}

/// Whether two statuses say the same: the API leaves zeros out.
pub(super) fn same(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let counts = |status: &DeploymentStatus| {
        (
            status.observed_generation.unwrap_or(0),
            n(status.replicas),
            n(status.updated_replicas),
            n(status.ready_replicas),
            n(status.available_replicas),
            n(status.unavailable_replicas),
            n(status.terminating_replicas),
            status.collision_count,
        )
    };
    counts(a) == counts(b)
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}
