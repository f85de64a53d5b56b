//! Which pods go first when there are too many: upstream's order.
//!
//! Not scheduled, then not running, then not ready, then cheap to delete, then crowded on a node, then
//! ready for a shorter time (in powers of two, so that the choice among similar ages is spread), then
//! restarted more often, then younger.
#![deny(clippy::disallowed_methods)]

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use api::{constants::annotation::POD_DELETION_COST, pods};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

/// The `count` pods of `pods` that go first.
pub(super) fn first_to_go(
    pods: &[Arc<Pod>],
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count == 0 {
        return Vec::new();
    }
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *crowd.entry(node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<&Arc<Pod>> = pods.iter().collect();
    ranked.sort_by(|a, b| order(a, b, &crowd, now));
    ranked.into_iter().take(count).cloned().collect()
}

fn order(a: &Pod, b: &Pod, crowd: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let crowded = |pod| crowd.get(node(pod)).copied().unwrap_or(0);
    pods::is_bound(a)
        .cmp(&pods::is_bound(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowded(b).cmp(&crowded(a)))
        .then_with(|| younger(a, b, pods::ready_since(a), pods::ready_since(b), now))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger(a, b, created(a), created(b), now))
}

/// The younger first, by the order of magnitude of the age; equals by UID.
fn younger(a: &Pod, b: &Pod, at: Option<Timestamp>, bt: Option<Timestamp>, now: Timestamp) -> Ordering {
    match (at, bt) {
        (Some(at), Some(bt)) if at != bt => {
            magnitude(at, now).cmp(&magnitude(bt, now)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
        }
        _ => Ordering::Equal,
    }
}

fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    let age = now.as_nanosecond().saturating_sub(since.as_nanosecond());
    u128::try_from(age).ok().and_then(u128::checked_ilog2).map_or(0, |log| log + 1)
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn phase(pod: &Pod) -> u8 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    }
}

fn cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(POD_DELETION_COST))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

/// The most restarts of any container.
fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let all = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    all.map(|container| container.restart_count).max().unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    };

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn pod(name: &str, node: &str, phase: &str, ready: Option<i64>) -> Pod {
        let condition = ready.map(|since| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(at(since))),
            ..PodCondition::default()
        });
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(name.into()),
                creation_timestamp: Some(Time(at(0))),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: Some(node.to_string()).filter(|node| !node.is_empty()),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: Some(phase.into()),
                conditions: condition.map(|condition| vec![condition]),
                ..PodStatus::default()
            }),
        }
    }

    #[test]
    fn pods_go_in_upstreams_order() {
        let cheap = {
            let mut pod = pod("cheap", "n1", "Running", Some(0));
            pod.metadata.annotations = Some([(POD_DELETION_COST.to_string(), "-5".to_string())].into());
            pod
        };
        let restarted = {
            let mut pod = pod("restarted", "n3", "Running", Some(0));
            let container = ContainerStatus { restart_count: 7, ..ContainerStatus::default() };
            pod.status.as_mut().unwrap().container_statuses = Some(vec![container]);
            pod
        };
        // Each goes before all that follow it.
        let expected = [
            pod("unbound", "", "Pending", None),
            pod("pending", "n1", "Pending", None),
            pod("unready", "n1", "Running", None),
            cheap,
            pod("crowded", "n1", "Running", Some(0)),
            pod("fresh", "n2", "Running", Some(999)),
            restarted,
            pod("steady", "n2", "Running", Some(0)),
        ];
        let expected: Vec<Arc<Pod>> = expected.into_iter().map(Arc::new).collect();
        let mut shuffled = expected.clone();
        shuffled.reverse();
        // n1 holds four of the related pods; n2 and n3 two each.
        let mut related = expected.clone();
        related.push(Arc::new(pod("neighbour", "n3", "Running", Some(0))));
        let order = first_to_go(&shuffled, &related, shuffled.len(), at(1000));
        let names =
            |pods: &[Arc<Pod>]| pods.iter().filter_map(|p| p.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&order), names(&expected));
    }
}
