//! Decides how many pods to create or which to delete.
#![deny(clippy::disallowed_methods)]

use std::sync::Arc;

use api::{pods, selector::Selector};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

use super::ranking;
use crate::ownership::{Claim, claim};

/// At most this many pods are made or removed in one pass, as upstream.
const BURST: usize = 500;

/// What is known about one ReplicaSet, or about what is seen as one.
pub(super) struct Observed<'a> {
    pub(super) replica_set: &'a ReplicaSet,
    pub(super) selector: &'a Selector,
    /// Pods that it controls, and pods of its namespace that nobody controls.
    pub(super) pods: &'a [Arc<Pod>],
    /// Pods of all of its kind with the same owner: a node that holds many of them loses one first.
    pub(super) related: &'a [Arc<Pod>],
    /// False while the cache lacks something that we wrote.
    pub(super) settled: bool,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) adopt: Vec<Arc<Pod>>,
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) create: usize,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Ours and neither finished nor going; with those to be adopted.
    pub(super) active: Vec<Arc<Pod>>,
    /// Ours and going.
    pub(super) terminating: Vec<Arc<Pod>>,
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let owner = &observed.replica_set.metadata;
    let mut plan = Plan::default();
    for pod in observed.pods {
        let claim = claim(owner, observed.selector, &pod.metadata);
        if pods::is_active(pod) {
            match claim {
                Claim::Ours => plan.active.push(Arc::clone(pod)),
                Claim::Adopt => {
                    plan.adopt.push(Arc::clone(pod));
                    plan.active.push(Arc::clone(pod));
                }
                Claim::Release => plan.release.push(Arc::clone(pod)),
                Claim::Ignore => {}
            }
        } else if claim == Claim::Ours && pods::is_terminating(pod) && !pods::is_terminal(pod) {
            plan.terminating.push(Arc::clone(pod));
        }
    }
    if owner.deletion_timestamp.is_some() || !observed.settled {
        return plan;
    }
    let wanted = usize::try_from(wanted(observed.replica_set)).unwrap_or(0);
    if plan.active.len() < wanted {
        plan.create = (wanted - plan.active.len()).min(BURST);
    } else {
        let excess = (plan.active.len() - wanted).min(BURST);
        plan.delete = ranking::first_to_go(&plan.active, observed.related, excess, now);
    }
    plan
}

/// `spec.replicas`, which the API server defaults to 1.
pub(super) fn wanted(replica_set: &ReplicaSet) -> i32 {
    replica_set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::{
        api::{apps::v1::ReplicaSetSpec, core::v1::PodStatus},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    };
    use proptest::prelude::*;

    use super::*;

    fn replica_set(replicas: i32) -> ReplicaSet {
        ReplicaSet {
            metadata: ObjectMeta { uid: Some("rs".into()), ..ObjectMeta::default() },
            spec: Some(ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() }),
            status: None,
        }
    }

    fn pod(name: usize, label: &str, controller: Option<&str>, phase: &str, going: bool) -> Arc<Pod> {
        let reference = |uid: &str| OwnerReference {
            uid: uid.into(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(format!("p{name}")),
                uid: Some(format!("p{name}")),
                labels: Some(BTreeMap::from([("app".into(), label.into())])),
                owner_references: controller.map(|uid| vec![reference(uid)]),
                deletion_timestamp: going.then_some(Time(Timestamp::UNIX_EPOCH)),
                ..ObjectMeta::default()
            },
            status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
            spec: None,
        })
    }

    fn make(replicas: i32, pods: &[Arc<Pod>], settled: bool) -> Plan {
        let selector = Selector::of_set(&BTreeMap::from([("app".into(), "web".into())]));
        let replica_set = replica_set(replicas);
        let observed =
            Observed { replica_set: &replica_set, selector: &selector, pods, related: pods, settled };
        plan(&observed, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn finished_and_going_pods_are_replaced() {
        let pods = [
            pod(0, "web", Some("rs"), "Running", false),
            pod(1, "web", Some("rs"), "Failed", false),
            pod(2, "web", Some("rs"), "Running", true),
        ];
        let plan = make(3, &pods, true);
        assert_eq!((plan.create, plan.active.len(), plan.terminating.len()), (2, 1, 1));
    }

    #[test]
    fn an_orphan_that_matches_counts_and_a_stranger_does_not() {
        let pods = [
            pod(0, "web", None, "Running", false),
            pod(1, "web", Some("other"), "Running", false),
            pod(2, "db", Some("rs"), "Running", false),
        ];
        let plan = make(2, &pods, true);
        assert_eq!((plan.adopt.len(), plan.release.len(), plan.create), (1, 1, 1));
    }

    #[test]
    fn nothing_is_made_while_the_cache_lacks_what_we_wrote() {
        assert_eq!(make(3, &[], false).create, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn planning_again_after_apply_is_empty(
            replicas in 0..20_i32,
            pods in prop::collection::vec((any::<bool>(), 0..3_u8, 0..4_u8, any::<bool>()), 0..20),
        ) {
            let pods: Vec<Arc<Pod>> = pods.iter().enumerate().map(|(name, (matching, owner, phase, going))| {
                let owner = [None, Some("rs"), Some("other")][usize::from(*owner)];
                let phase = ["Pending", "Running", "Failed", "Succeeded"][usize::from(*phase)];
                pod(name, if *matching { "web" } else { "db" }, owner, phase, *going)
            }).collect();
            let first = make(replicas, &pods, true);
            let gone = |list: &[Arc<Pod>], pod: &Arc<Pod>| list.iter().any(|other| Arc::ptr_eq(other, pod));
            let mut after: Vec<Arc<Pod>> = Vec::new();
            for (index, old) in pods.iter().enumerate() {
                if gone(&first.delete, old) || gone(&first.release, old) { continue }
                if gone(&first.adopt, old) {
                    after.push(pod(index, "web", Some("rs"), "Running", false));
                } else {
                    after.push(Arc::clone(old));
                }
            }
            after.extend((0..first.create).map(|n| pod(100 + n, "web", Some("rs"), "Pending", false)));
            let second = make(replicas, &after, true);
            prop_assert_eq!(second.create, 0);
            prop_assert!(second.adopt.is_empty() && second.release.is_empty() && second.delete.is_empty());
            prop_assert_eq!(i32::try_from(second.active.len()).unwrap(), replicas);
        }
    }
}
