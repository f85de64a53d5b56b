//! Rollouts against ReplicaSets that live: pods start, become ready, break, in any order.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus},
        core::v1::Container,
    },
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};
use proptest::prelude::*;
use serde_json::json;

use super::{
    plan::{Observed, Plan, Step, plan},
    revisions::revision,
    scale::replicas,
    status,
};

/// A Deployment and its ReplicaSets, as the API and the ReplicaSet controller would keep them.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    clock: i64,
    events: Vec<String>,
}

impl World {
    fn new(replicas: i32, surge: i32, unavailable: i32, strategy: &str) -> Self {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas,
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": strategy},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}},
            }
        }))
        .unwrap();
        if strategy == "RollingUpdate" {
            let strategy = deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap();
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_surge = Some(IntOrString::Int(surge));
            rolling.max_unavailable = Some(IntOrString::Int(unavailable));
        }
        Self { deployment, sets: Vec::new(), clock: 1000, events: Vec::new() }
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        let template = spec.template.spec.as_mut().unwrap();
        template.containers =
            vec![Container { name: "c".into(), image: Some(image.into()), ..Container::default() }];
        self.changed();
    }

    fn scale(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
        self.changed();
    }

    fn pause(&mut self, paused: bool) {
        self.deployment.spec.as_mut().unwrap().paused = Some(paused);
        self.changed();
    }

    fn changed(&mut self) {
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn plan(&self) -> Plan {
        let sets: Vec<Arc<ReplicaSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        let running: HashSet<String> = self
            .sets
            .iter()
            .filter(|set| set.status.as_ref().is_some_and(|status| status.replicas > 0))
            .filter_map(|set| set.metadata.uid.clone())
            .collect();
        let observed = Observed { deployment: &self.deployment, sets: &sets, running: &running };
        plan(&observed, Timestamp::from_second(self.clock).unwrap())
    }

    /// One pass. True if anything was written.
    fn pass(&mut self) -> bool {
        self.clock += 1;
        let plan = self.plan();
        let quiet = plan.steps.is_empty()
            && plan.revision.is_none()
            && self.deployment.status.as_ref().is_some_and(|known| status::same(known, &plan.status));
        for step in plan.steps {
            match step {
                Step::Create { mut set, event } => {
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.generation = Some(1);
                    set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(self.clock).unwrap()));
                    assert!(!self.sets.iter().any(|old| old.metadata.name == set.metadata.name));
                    self.sets.push(*set);
                    self.events.extend(event);
                }
                Step::Write { set, event } => {
                    let old = self.sets.iter_mut().find(|old| old.metadata.name == set.metadata.name);
                    *old.unwrap() = *set;
                    self.events.extend(event);
                }
                Step::Delete { name, .. } => {
                    self.sets.retain(|set| set.metadata.name.as_deref() != Some(&name));
                }
            }
        }
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert("deployment.kubernetes.io/revision".into(), revision);
        }
        self.deployment.status = Some(plan.status);
        !quiet
    }

    /// Lets `ready` more pods of a ReplicaSet become available; what is too much is gone, broken ones first.
    fn live(&mut self, index: usize, ready: i32) {
        let Some(set) = self.sets.get_mut(index) else { return };
        let size = replicas(set);
        let status = set.status.get_or_insert_with(ReplicaSetStatus::default);
        let available = (status.available_replicas.unwrap_or(0) + ready).clamp(0, size);
        status.replicas = size;
        status.ready_replicas = Some(available);
        status.available_replicas = Some(available);
        status.observed_generation = set.metadata.generation;
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let moved = self.pass();
            for index in 0..self.sets.len() {
                self.live(index, i32::MAX / 2);
            }
            if !moved && !self.pass() {
                return;
            }
        }
        panic!("does not settle: {:?}", self.events);
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(replicas).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(super::scale::available).sum()
    }

    /// Image and revision of each set that has pods.
    fn active(&self) -> Vec<(String, i64)> {
        let image = |set: &ReplicaSet| {
            let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
            template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
        };
        let active = self.sets.iter().filter(|set| replicas(set) > 0);
        active.map(|set| (image(set), revision(&set.metadata))).collect()
    }

    fn reason(&self, type_: &str) -> String {
        let status = self.deployment.status.as_ref().unwrap();
        status::get(status, type_).and_then(|condition| condition.reason.clone()).unwrap_or_default()
    }
}

#[test]
fn a_rollout_and_its_undo_number_their_revisions() {
    let mut world = World::new(3, 1, 0, "RollingUpdate");
    world.settle();
    assert_eq!(world.active(), [("v1".into(), 1)]);
    assert_eq!(
        world.events,
        [format!("Scaled up replica set {} from 0 to 3", world.sets[0].metadata.name.as_ref().unwrap())]
    );
    world.image("v2");
    world.settle();
    assert_eq!(world.active(), [("v2".into(), 2)]);
    // `kubectl rollout undo` writes the old template.
    world.image("v1");
    world.settle();
    assert_eq!(world.active(), [("v1".into(), 3)]);
    let annotations = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
    assert_eq!(world.reason("Available"), "MinimumReplicasAvailable");
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut world = World::new(2, 1, 0, "RollingUpdate");
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.image(image);
        world.settle();
    }
    assert_eq!(world.sets.iter().map(|set| revision(&set.metadata)).collect::<Vec<_>>(), [3, 4, 5]);
}

#[test]
fn recreate_starts_nothing_before_the_last_old_pod_is_gone() {
    let mut world = World::new(3, 0, 0, "Recreate");
    world.settle();
    world.image("v2");
    world.pass();
    world.pass();
    assert_eq!((world.total(), world.sets.len()), (0, 1));
    world.live(0, 0);
    world.pass();
    assert_eq!(world.active(), [("v2".into(), 2)]);
    world.settle();
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(3, 1, 1, "RollingUpdate");
    world.settle();
    world.pause(true);
    world.image("v2");
    world.scale(5);
    world.settle();
    assert_eq!((world.active(), world.total()), (vec![("v1".into(), 1)], 5));
    assert_eq!(world.reason("Progressing"), "DeploymentPaused");
    world.pause(false);
    world.settle();
    assert_eq!((world.active(), world.total()), (vec![("v2".into(), 2)], 5));
}

#[test]
fn a_rollout_without_progress_fails_after_its_deadline_and_recovers() {
    let mut world = World::new(2, 1, 0, "RollingUpdate");
    world.settle();
    world.image("broken");
    for _ in 0..3 {
        world.pass();
        (0..world.sets.len()).for_each(|index| world.live(index, 0));
    }
    let wait = world.plan().again_after.unwrap();
    assert!((595..=601).contains(&wait.as_secs()), "{wait:?}");
    world.clock += i64::try_from(wait.as_secs()).unwrap();
    world.pass();
    assert_eq!(world.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(world.available(), 2);
    world.image("fixed");
    world.settle();
    assert_eq!(world.active(), [("fixed".into(), 3)]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_bounds_hold_and_the_rollout_ends(
        (replicas, surge, unavailable) in (1..12_i32, 0..4_i32, 0..4_i32),
        steps in prop::collection::vec((0..8_u8, 0..4_usize, 0..4_i32), 0..60),
    ) {
        prop_assume!(surge + unavailable > 0);
        let mut world = World::new(replicas, surge, unavailable, "RollingUpdate");
        world.settle();
        let mut version = 1;
        let (mut most, mut least) = (replicas + surge, replicas - unavailable);
        for (what, index, ready) in steps {
            match what {
                0 => { version += 1; world.image(&format!("v{version}")); }
                1 => { version = (version - 1).max(1); world.image(&format!("v{version}")); }
                2..=4 => { world.live(index, ready); }
                _ => {
                    let before = world.available();
                    world.pass();
                    prop_assert!(world.total() <= most, "{} > {most}", world.total());
                    let after = world.available();
                    prop_assert!(after >= before.min(least), "{before} -> {after}");
                }
            }
        }
        world.scale(replicas + 3);
        world.settle();
        most = replicas + 3;
        least = most;
        prop_assert_eq!((world.total(), world.available()), (most, least));
        prop_assert_eq!(world.active().len(), 1);
        prop_assert_eq!(world.active()[0].0.clone(), format!("v{version}"));
    }
}
