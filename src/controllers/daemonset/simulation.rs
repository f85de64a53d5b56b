//! DaemonSets on nodes that live: pods are bound, become ready, break and end, nodes are tainted, in any order.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::pods::{is_available, is_terminating};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetStatus},
        core::v1::{Node, Pod, PodCondition, PodStatus, Taint},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    placement::{Placement, Verdict, new_pod, target},
    plan::{Observed, Plan, Why, plan},
    rolling::Patience,
    status,
    survey::{Survey, is_updated, survey},
};

/// A DaemonSet at one revision, the nodes, and the pods as the API would keep them.
struct World {
    set: DaemonSet,
    hash: String,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    waits: HashMap<String, Duration>,
    clock: i64,
    made: usize,
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

impl World {
    fn new(nodes: usize, strategy: Value) -> Self {
        let set = json!({
            "metadata": {"name": "agent", "namespace": "ns", "uid": "u", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "updateStrategy": strategy,
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}}},
        });
        let node = |number| Node {
            metadata: ObjectMeta { name: Some(format!("n{number}")), ..ObjectMeta::default() },
            ..Node::default()
        };
        Self {
            set: serde_json::from_value(set).unwrap(),
            hash: "v1".into(),
            nodes: (0..nodes).map(node).collect(),
            pods: Vec::new(),
            waits: HashMap::new(),
            clock: 1000,
            made: 0,
        }
    }

    /// One that has a ready pod on each node.
    fn settled(nodes: usize, strategy: Value) -> Self {
        let mut world = Self::new(nodes, strategy);
        world.settle();
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.clock).unwrap()
    }

    fn patience(&self) -> Patience {
        Patience { min_ready_seconds: 0, now: self.now() }
    }

    fn survey(&self) -> Survey {
        let nodes: Vec<Arc<Node>> = self.nodes.iter().cloned().map(Arc::new).collect();
        let pods: Vec<Arc<Pod>> = self.pods.iter().cloned().map(Arc::new).collect();
        survey(&Placement::of(&self.set), &nodes, &pods)
    }

    fn plan(&self) -> Plan {
        let (survey, patience) = (self.survey(), self.patience());
        plan(Observed { set: &self.set, hash: &self.hash, survey, waits: &self.waits, patience })
    }

    fn status(&self) -> DaemonSetStatus {
        status::status(&self.set, &self.survey(), &self.hash, self.patience(), true)
    }

    /// Desired, current, ready, updated, astray.
    fn counts(&self) -> [i32; 5] {
        let status = self.status();
        let updated = status.updated_number_scheduled.unwrap();
        assert_eq!(
            status.number_unavailable,
            Some(status.desired_number_scheduled - status.number_available.unwrap())
        );
        [
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_ready,
            updated,
            status.number_misscheduled,
        ]
    }

    fn pass(&mut self) -> Plan {
        self.clock += 1;
        let plan = self.plan();
        for node in &plan.create {
            let mut pod = new_pod(&self.set, &self.hash, node);
            self.made += 1;
            pod.metadata.name = Some(format!("p{}", self.made));
            pod.metadata.creation_timestamp = Some(Time(self.now()));
            self.pods.push(pod);
        }
        let now = Time(self.now());
        for removal in &plan.delete {
            let pod =
                self.pods.iter_mut().find(|pod| pod.metadata.name == removal.pod.metadata.name).unwrap();
            assert!(!is_terminating(pod), "asked twice");
            pod.metadata.deletion_timestamp = Some(now.clone());
        }
        plan
    }

    /// The scheduler and the node have done their part for this pod.
    fn live(&mut self, index: usize, phase: &str, ready: bool) {
        let since = Some(Time(self.now()));
        let Some(pod) = self.pods.get_mut(index) else { return };
        let node = target(pod).map(String::from);
        pod.spec.as_mut().unwrap().node_name = node;
        let ready = PodCondition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            last_transition_time: since,
            ..PodCondition::default()
        };
        pod.status = Some(PodStatus {
            phase: Some(phase.into()),
            conditions: Some(vec![ready]),
            ..PodStatus::default()
        });
    }

    fn live_all(&mut self) {
        for index in 0..self.pods.len() {
            if !is_available(&self.pods[index], 0, self.now()) {
                self.live(index, "Running", true);
            }
        }
    }

    /// What was asked to go is gone.
    fn finish(&mut self) {
        self.pods.retain(|pod| !is_terminating(pod));
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            self.finish();
            self.live_all();
            let plan = self.pass();
            if plan.create.is_empty() && plan.delete.is_empty() {
                return;
            }
        }
        panic!("does not settle: {:?}", self.counts());
    }

    fn taint(&mut self, node: usize, effect: Option<&str>) {
        let taint = |effect: &str| Taint { key: "k".into(), effect: effect.into(), ..Taint::default() };
        let taints = effect.map(|effect| vec![taint(effect)]);
        self.nodes[node].spec.get_or_insert_default().taints = taints;
    }

    fn names(&self) -> Vec<String> {
        self.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
    }

    /// Nodes for a pod that have one which serves.
    fn served(&self) -> usize {
        let now = self.now();
        let serves = |pods: &[Arc<Pod>]| pods.iter().any(|pod| is_available(pod, 0, now));
        let survey = self.survey();
        let meant = survey.values().filter(|place| place.verdict == Some(Verdict::Runs));
        meant.filter(|place| serves(&place.alive)).count()
    }

    /// Nodes on which a new pod that does not serve yet stands beside an old one that does.
    fn beside(&self) -> usize {
        let (now, survey) = (self.now(), self.survey());
        let is = |pod: &Pod, new: bool, serves: bool| {
            is_updated(pod, &self.hash) == new && is_available(pod, 0, now) == serves
        };
        let both = survey.values().filter(|place| {
            place.alive.iter().any(|pod| is(pod, true, false))
                && place.alive.iter().any(|pod| is(pod, false, true))
        });
        both.count()
    }
}

#[test]
fn every_node_gets_one_pod_and_a_new_node_one_more() {
    let mut world = World::new(3, rolling(0, 1));
    let plan = world.pass();
    assert_eq!((plan.create, plan.delete.len()), (vec!["n0".into(), "n1".into(), "n2".into()], 0));
    assert_eq!(world.counts(), [3, 3, 0, 3, 0]);
    world.live_all();
    assert_eq!(world.counts(), [3, 3, 3, 3, 0]);
    let name = Some("n9".to_string());
    world.nodes.push(Node { metadata: ObjectMeta { name, ..ObjectMeta::default() }, ..Node::default() });
    assert_eq!(world.pass().create, ["n9"]);
}

#[test]
fn a_taint_keeps_new_pods_off_and_one_that_evicts_takes_what_is_there() {
    let mut world = World::settled(3, rolling(0, 1));
    world.taint(1, Some("NoSchedule"));
    let plan = world.pass();
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    assert_eq!(world.counts(), [2, 2, 2, 2, 1]);
    world.taint(1, Some("NoExecute"));
    let plan = world.pass();
    assert_eq!((plan.delete.len(), &*plan.delete[0].node, plan.delete[0].why), (1, "n1", Why::Excess));
    world.finish();
    assert_eq!(world.counts(), [2, 2, 2, 2, 0]);
    world.taint(1, None);
    assert_eq!(world.pass().create, ["n1"]);
}

#[test]
fn a_pod_that_ended_is_replaced_but_not_before_its_nodes_wait_is_over() {
    for strategy in [rolling(0, 1), rolling(1, 0), json!({"type": "OnDelete"})] {
        let mut world = World::settled(2, strategy);
        world.live(0, "Failed", false);
        world.waits.insert("n0".into(), Duration::from_secs(4));
        let plan = world.pass();
        assert_eq!((plan.create.len(), plan.delete.len()), (0, 0));
        assert_eq!(plan.again_after, Some(Duration::from_secs(4)));
        world.waits.clear();
        let plan = world.pass();
        assert_eq!((plan.delete.len(), plan.delete[0].why), (1, Why::Failed));
        world.settle();
        world.live(0, "Succeeded", false);
        assert_eq!(world.pass().delete[0].why, Why::Succeeded);
        world.settle();
        assert_eq!(world.counts(), [2, 2, 2, 2, 0]);
    }
}

#[test]
fn of_two_pods_on_a_node_the_ready_one_stays_and_then_the_older() {
    let mut world = World::settled(1, rolling(0, 1));
    let mut twin = world.pods[0].clone();
    twin.metadata.name = Some("older".into());
    twin.metadata.creation_timestamp = Some(Time(Timestamp::from_second(1).unwrap()));
    world.pods.push(twin);
    assert_eq!(world.plan().delete[0].pod.metadata.name.as_deref(), Some("p1"));
    world.live(1, "Running", false);
    assert_eq!(world.plan().delete[0].pod.metadata.name.as_deref(), Some("older"));
    let mut unbound = new_pod(&world.set, "v1", "n0");
    unbound.metadata.name = Some("unbound".into());
    unbound.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    world.pods[1] = unbound;
    assert_eq!(world.plan().delete[0].pod.metadata.name.as_deref(), Some("unbound"));
}

#[test]
fn what_waits_for_a_node_that_is_gone_goes_and_what_ran_there_is_left_to_others() {
    let mut world = World::new(2, rolling(0, 1));
    world.pass();
    world.live(0, "Running", true);
    world.nodes.clear();
    let plan = world.pass();
    assert_eq!((plan.delete.len(), &*plan.delete[0].node), (1, "n1"));
    assert_eq!(world.counts(), [0, 0, 0, 0, 0]);
}

#[test]
fn a_pod_on_its_way_out_holds_its_place_until_it_ended() {
    let mut world = World::settled(1, rolling(0, 1));
    world.pods[0].metadata.deletion_timestamp = Some(Time(world.now()));
    assert!(world.plan().create.is_empty());
    world.live(0, "Failed", false);
    assert_eq!(world.plan().create, ["n0"]);
}

#[test]
fn an_update_takes_as_many_at_a_time_as_may_be_missing() {
    let mut world = World::settled(5, rolling(0, 2));
    world.hash = "v2".into();
    for round in [2, 2, 1] {
        let plan = world.pass();
        assert_eq!((plan.delete.len(), plan.create.len()), (round, 0));
        assert!(plan.delete.iter().all(|removal| removal.why == Why::Outdated));
        assert!(world.pass().delete.is_empty(), "not before they are back");
        world.finish();
        assert_eq!(world.pass().create.len(), round);
        assert!(world.pass().delete.is_empty(), "not before they serve");
        world.live_all();
    }
    assert_eq!(world.counts(), [5, 5, 5, 5, 0]);
}

#[test]
fn a_surge_brings_the_new_pod_before_the_old_one_goes() {
    let mut world = World::settled(3, rolling(1, 0));
    world.hash = "v2".into();
    for _ in 0..3 {
        let plan = world.pass();
        assert_eq!((plan.create.len(), plan.delete.len(), world.served()), (1, 0, 3));
        world.live_all();
        let plan = world.pass();
        assert_eq!(plan.delete.len(), 1);
        // The next one begins beside it.
        let next = plan.create.len();
        world.finish();
        world.pods.truncate(world.pods.len() - next);
    }
    assert_eq!(world.counts(), [3, 3, 3, 3, 0]);
}

#[test]
fn on_delete_nothing_goes_by_itself() {
    let mut world = World::settled(2, json!({"type": "OnDelete"}));
    world.hash = "v2".into();
    let plan = world.pass();
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    world.pods.remove(0);
    world.settle();
    assert_eq!(world.counts(), [2, 2, 2, 1, 0]);
}

#[test]
fn an_update_that_is_taken_back_restarts_only_what_it_reached() {
    let mut world = World::settled(4, rolling(0, 1));
    let before = world.names();
    world.hash = "broken".into();
    world.pass();
    world.finish();
    world.pass();
    world.live(3, "Running", false);
    world.hash = "v1".into();
    world.settle();
    assert_eq!(world.counts(), [4, 4, 4, 4, 0]);
    assert_eq!(world.names()[..3], before[1..], "the others are as they were");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_bounds_hold_and_the_update_ends(
        (nodes, surge, most) in (1..9_usize, any::<bool>(), 1..4_i32),
        events in prop::collection::vec((0..12_u8, 0..16_usize, any::<bool>()), 0..80),
    ) {
        let strategy = if surge { rolling(most, 0) } else { rolling(0, most) };
        let mut world = World::settled(nodes, strategy);
        let most = usize::try_from(most).unwrap();
        let (at_once, per_node) = if surge { (most, 2) } else { (0, 1) };
        for (what, index, flag) in events {
            match what {
                0 => world.hash = format!("v{}", index % 3),
                1 => world.finish(),
                2 | 3 => world.live(index % world.pods.len().max(1), "Running", flag),
                4 => world.live(index % world.pods.len().max(1), "Failed", false),
                5 => {
                    let effect = [None, Some("NoSchedule"), Some("NoExecute"), None][index % 4];
                    world.taint(index % nodes, effect);
                }
                _ => {
                    let (served, beside) = (world.served(), world.beside());
                    let desired = usize::try_from(world.counts()[0]).unwrap();
                    world.pass();
                    let least = if surge { served } else { served.min(desired.saturating_sub(most)) };
                    prop_assert!(world.served() >= least, "{served} -> {}", world.served());
                    prop_assert!(world.beside() <= beside.max(at_once));
                    for place in world.survey().values() {
                        prop_assert!(place.alive.len() <= per_node);
                    }
                    let again = world.plan();
                    let reasons: Vec<_> = again.delete.iter().map(|gone| (&gone.node, gone.why)).collect();
                    prop_assert!(again.create.is_empty() && reasons.is_empty(), "{:?} {reasons:?}", again.create);
                }
            }
        }
        (0..nodes).for_each(|node| world.taint(node, None));
        world.settle();
        let all = i32::try_from(nodes).unwrap();
        prop_assert_eq!(world.counts(), [all, all, all, all, 0]);
    }
}
