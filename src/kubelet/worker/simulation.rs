//! The pod worker against a runtime that delays, fails and forgets, on paused time, for many seeds.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod, PodStatus};
use lifecycle::Scope;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use super::{
    backoff::Backoff,
    plan::{Inputs, compute_pod_actions},
    ports::{PodResources, PrepareError, PreparedContainer, PreparedPod, Probed, Probes, Reading},
    *,
};
use crate::{
    clock::Clock,
    config::KubeletConfig,
    events::{EventSink, EventType},
    images::{self, Images, NoCredentials},
    notice,
    pods::PodUid,
    runtime::{
        ContainerState, Runtime,
        fake::{FakeRuntime, Temper},
    },
    runtime_class::{RuntimeClassError, RuntimeClasses},
    shutdown::{self, Going},
    status::Outbox,
};

const SEEDS: u64 = 150;

/// Fails as often as the runtime; remembers what is there.
#[derive(Default)]
struct FlakyResources {
    there: Mutex<BTreeMap<PodUid, u32>>,
    calls: Mutex<u64>,
}

impl FlakyResources {
    fn fails(&self) -> bool {
        let mut calls = self.calls.lock();
        *calls += 1;
        calls.is_multiple_of(7)
    }
}

impl PodResources for FlakyResources {
    async fn prepare(&self, pod: &Arc<Pod>) -> Result<PreparedPod, PrepareError> {
        *self.there.lock().entry(PodUid::of(pod)).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
        if self.fails() {
            return Err(PrepareError::Volume { volume: "v".into(), message: "simulated".into() });
        }
        Ok(PreparedPod::default())
    }

    async fn container(
        &self,
        _: &Arc<Pod>,
        _: &Container,
        _: &PreparedPod,
        _: &[IpAddr],
    ) -> Result<PreparedContainer, PrepareError> {
        if self.fails() {
            return Err(PrepareError::Config { message: "configmap \"x\" not found".into() });
        }
        Ok(PreparedContainer::default())
    }

    async fn teardown(&self, uid: &PodUid) -> Result<(), PrepareError> {
        if self.fails() {
            return Err(PrepareError::TimedOut { operation: "unmount" });
        }
        self.there.lock().remove(uid);
        Ok(())
    }

    async fn leftovers(&self) -> Vec<PodUid> {
        self.there.lock().keys().cloned().collect()
    }
}

struct NoProbes;

impl Probes for NoProbes {
    fn update(&self, _: &Arc<Pod>, _: &[Probed], _: bool) {}
    fn readings(&self, _: &PodUid) -> Vec<Reading> {
        Vec::new()
    }
    fn forget(&self, _: &PodUid) {}
}

/// Panics as often as it is told to.
struct PanickingProbes(Mutex<u32>);

impl Probes for PanickingProbes {
    fn update(&self, _: &Arc<Pod>, running: &[Probed], _: bool) {
        let mut left = self.0.lock();
        if !running.is_empty() && *left > 0 {
            *left -= 1;
            drop(left);
            panic!("simulated");
        }
    }
    fn readings(&self, _: &PodUid) -> Vec<Reading> {
        Vec::new()
    }
    fn forget(&self, _: &PodUid) {}
}

struct Silence;

impl EventSink for Silence {
    fn event(&self, _: &ObjectReference, _: EventType, _: &'static str, _: String) {}
}

/// Reasons and messages, with the times at which they were told.
#[derive(Default)]
struct Told(Mutex<Vec<(Instant, &'static str, String)>>);

impl EventSink for Told {
    fn event(&self, _: &ObjectReference, _: EventType, reason: &'static str, message: String) {
        self.0.lock().push((Instant::now(), reason, message));
    }
}

/// There is the class `safe`.
struct OneClass;

impl RuntimeClasses for OneClass {
    fn handler<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<String, RuntimeClassError>> {
        let found = match class {
            "safe" => Ok("runsc".into()),
            _ => Err(RuntimeClassError::NotFound { name: class.into() }),
        };
        Box::pin(std::future::ready(found))
    }
}

/// The newest status of each pod, and what was asked to be deleted.
#[derive(Default)]
struct Statuses {
    latest: Mutex<BTreeMap<PodUid, PodStatus>>,
    deleted: Mutex<Vec<PodUid>>,
    broken: Mutex<Vec<String>>,
}

impl StatusSink for Statuses {
    fn publish(&self, pod: &Arc<Pod>, status: &PodStatus) {
        let uid = PodUid::of(pod);
        let before = self.latest.lock().insert(uid.clone(), status.clone());
        let terminal = |status: &PodStatus| crate::status::is_terminal(status.phase.as_deref());
        if before.is_some_and(|before| terminal(&before) && before.phase != status.phase) {
            self.broken.lock().push(format!("{uid}: left a terminal phase"));
        }
        let runs =
            status.container_statuses.iter().flatten().any(|it| it.state.as_ref().unwrap().running.is_some());
        if terminal(status) && runs {
            self.broken.lock().push(format!("{uid}: terminal while a container runs"));
        }
    }

    fn delete(&self, pod: &Arc<Pod>) {
        self.deleted.lock().push(PodUid::of(pod));
    }

    fn forget(&self, _: &PodUid) {}
}

struct World {
    scope: Scope,
    runtime: Arc<FakeRuntime>,
    resources: Arc<FlakyResources>,
    statuses: Arc<Statuses>,
    pool: Pool<FakeRuntime, FlakyResources>,
    bells: Bells,
    tools: Arc<Tools<FakeRuntime, FlakyResources>>,
    clock: Clock,
    logs: tempfile::TempDir,
    _facts: watch::Sender<NodeFacts>,
}

impl World {
    fn new(temper: Temper) -> World {
        let clock = Clock::following_tokio(Timestamp::from_second(1_000_000).unwrap());
        let runtime = Arc::new(FakeRuntime::new(temper, clock.clone()));
        Self::around(runtime, clock)
    }

    /// An agent that knows nothing, over what the runtime has.
    fn around(runtime: Arc<FakeRuntime>, clock: Clock) -> World {
        World::with(runtime, clock, Arc::new(NoProbes), Arc::new(Silence))
    }

    fn with(
        runtime: Arc<FakeRuntime>,
        clock: Clock,
        probes: Arc<dyn Probes>,
        events: Arc<dyn EventSink>,
    ) -> World {
        let scope = Scope::root("simulation");
        let bells = Bells::default();
        let logs = tempfile::tempdir().unwrap();
        let mut config = KubeletConfig::new("n");
        config.pod_logs_dir = logs.path().join("logs");
        config.root_dir = logs.path().join("root");
        config.shutdown.periods =
            shutdown::Period::by_class(Duration::from_secs(30), Duration::from_secs(10));
        let facts = NodeFacts {
            addresses: vec![[10, 0, 0, 9].into()],
            memory_bytes: 1 << 30,
            ..NodeFacts::default()
        };
        let (facts_out, facts) = watch::channel(facts);
        let (resources, statuses) = (Arc::new(FlakyResources::default()), Arc::new(Statuses::default()));
        let parts = images::Parts {
            runtime: runtime.clone(),
            credentials: Arc::new(NoCredentials),
            events: Arc::new(Silence),
            clock: clock.clone(),
            waker: bells.waker(),
            parallel: 2,
        };
        let tools = Arc::new(Tools {
            runtime: runtime.clone(),
            resources: resources.clone(),
            probes,
            images: Images::new(parts, &scope),
            runtime_classes: Arc::new(OneClass),
            statuses: statuses.clone(),
            events,
            config: Arc::new(config),
            node: facts,
            going: Going::default(),
            clock: clock.clone(),
            bells: bells.clone(),
        });
        let pool = Pool::new(tools.clone(), bells.clone(), &scope);
        let listed = watch::Sender::default();
        let (noticed, noticing) = (runtime.clone(), bells.clone());
        let token = scope.token();
        scope.spawn("notice", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = notice::run(noticed, noticing, listed, Duration::from_secs(60)) => {}
            }
        });
        World { scope, runtime, resources, statuses, pool, bells, tools, clock, logs, _facts: facts_out }
    }

    /// The agent dies; its runtime lives on under a new one.
    async fn restart(self) -> World {
        assert!(self.scope.close(Duration::from_secs(600)).await, "the agent ends");
        drop((self.bells, self.logs));
        let resources = self.resources;
        let mut world = World::around(self.runtime, self.clock);
        world.statuses.latest.lock().clone_from(&self.statuses.latest.lock());
        *world.resources.there.lock() = resources.there.lock().clone();
        world.statuses.broken.lock().extend(self.statuses.broken.lock().iter().cloned());
        world._facts.send_modify(|_| {});
        world.statuses = world.statuses.clone();
        world
    }

    async fn until(&self, what: &str, within: Duration, mut is: impl FnMut(&World) -> bool) {
        let deadline = Instant::now() + within;
        while !is(self) {
            assert!(
                Instant::now() < deadline,
                "never: {what}; broken: {:?}; deleted: {:?}; left: {:#?}",
                self.runtime.broken(),
                self.statuses.deleted.lock(),
                self.statuses.latest.lock()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn check(&self) {
        assert_eq!(self.runtime.broken(), Vec::<String>::new());
        assert_eq!(*self.statuses.broken.lock(), Vec::<String>::new());
    }
}

fn pod(uid: &str, spec: serde_json::Value) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": spec});
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// An always, an on-failure with init containers and a sidecar, and a run-once pod.
fn pods() -> Vec<Arc<Pod>> {
    let container =
        |name: &str| json!({"name": name, "image": "busybox:1", "imagePullPolicy": "IfNotPresent"});
    vec![
        pod(
            "always",
            json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 5,
            "containers": [container("a"), {"name": "b", "image": "other:1", "imagePullPolicy": "Always"}]}),
        ),
        pod(
            "init",
            json!({"restartPolicy": "OnFailure", "initContainers": [container("i1"),
            {"name": "side", "image": "busybox:1", "restartPolicy": "Always"}, container("i2")],
            "containers": [container("c")]}),
        ),
        pod(
            "never",
            json!({"restartPolicy": "Never", "containers": [container("once1"), container("once2")]}),
        ),
    ]
}

fn desired(pods: &[Arc<Pod>]) -> Desired {
    Desired { pods: pods.iter().map(|pod| (PodUid::of(pod), pod.clone())).collect(), synced: true }
}

fn node() -> Node {
    let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "3"});
    serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}}))
        .unwrap()
}

fn deleted(pod: &Arc<Pod>, grace: i64) -> Arc<Pod> {
    let mut pod = (**pod).clone();
    let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
    pod.metadata.deletion_timestamp = Some(at);
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    Arc::new(pod)
}

fn temper(seed: u64) -> Temper {
    Temper {
        seed,
        longest_delay_ms: [0, 20, 400][usize::try_from(seed % 3).unwrap()],
        fail_percent: seed % 5 * 8,
        forget_percent: seed % 4 * 10,
        longest_life_ms: [0, 3_000, 60_000][usize::try_from(seed / 3 % 3).unwrap()],
    }
}

fn run<F: Future<Output = ()>>(seeds: u64, one: impl Fn(u64) -> F) {
    for seed in 0..seeds {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(one(seed))));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}: {:?}", temper(seed));
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn whatever_the_runtime_does_no_container_runs_twice_and_every_pod_ends() {
    run(SEEDS, |seed| async move {
        let mut world = World::new(temper(seed));
        let pods = pods();
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_millis(1 + seed * 997 % 90_000)).await;
        world.check();
        if seed % 2 == 0 {
            world = world.restart().await;
            world.pool.desire(&desired(&pods), Some(&node()));
            tokio::time::sleep(Duration::from_millis(seed * 131 % 5_000)).await;
        }
        let ending: Vec<Arc<Pod>> = pods.iter().map(|pod| deleted(pod, 30)).collect();
        world.pool.desire(&desired(&ending), Some(&node()));
        tokio::time::sleep(Duration::from_millis(seed * 313 % 4_000)).await;
        let sooner: Vec<Arc<Pod>> = pods.iter().map(|pod| deleted(pod, 1)).collect();
        world.pool.desire(&desired(&sooner), Some(&node()));
        world.runtime.calm_down();
        world
            .until("every pod is deleted", Duration::from_secs(600), |world| {
                let deleted = world.statuses.deleted.lock();
                pods.iter().all(|pod| deleted.contains(&PodUid::of(pod)))
            })
            .await;
        assert!(world.resources.there.lock().is_empty(), "deleted before volumes and cgroups were gone");
        world.pool.desire(&desired(&[]), Some(&node()));
        world
            .until("nothing is left", Duration::from_secs(600), |world| {
                world.pool.is_empty() && world.runtime.is_empty()
            })
            .await;
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn once_the_runtime_behaves_every_pod_is_as_it_should_and_the_plan_is_empty() {
    run(SEEDS, |seed| async move {
        let world = World::new(temper(seed));
        let pods = pods();
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_millis(1 + seed * 709 % 60_000)).await;
        world.runtime.calm_down();
        // Longer than the longest back-off.
        tokio::time::sleep(Duration::from_secs(400)).await;
        world.check();
        let phase = |uid: &str| world.statuses.latest.lock()[&PodUid::from(uid)].phase.clone().unwrap();
        assert_eq!(
            phase("always"),
            "Running",
            "{:#?}",
            world.statuses.latest.lock()[&PodUid::from("always")]
        );
        for pod in &pods {
            let uid = PodUid::of(pod);
            let observed = world.runtime.observe(&uid).await.unwrap();
            if crate::status::is_terminal(Some(&phase(uid.as_str()))) {
                assert!(!observed.has_life(), "{uid}");
                continue;
            }
            let backoff = Backoff::default();
            let now = world.clock.now();
            let refused = BTreeMap::new();
            let observed = &observed;
            let inputs = Inputs { pod, observed, readings: &[], backoff: &backoff, refused: &refused, now };
            let actions = compute_pod_actions(&inputs);
            let waits =
                observed.containers.iter().any(|it| !matches!(it.state, ContainerState::Running { .. }));
            assert!(actions.is_empty(), "{uid} (waits: {waits}): {actions:?} {observed:#?}");
        }
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn a_restart_of_the_agent_starts_nothing() {
    run(40, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let mut world = World::new(calm);
        let pods = vec![pods().swap_remove(0)];
        let uid = PodUid::of(&pods[0]);
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = world.runtime.observe(&uid).await.unwrap();
        assert_eq!(before.running().count(), 2);
        for _ in 0..3 {
            world = world.restart().await;
            world.pool.desire(&desired(&pods), Some(&node()));
            tokio::time::sleep(Duration::from_secs(90)).await;
        }
        assert_eq!(world.runtime.observe(&uid).await.unwrap(), before);
        assert_eq!((world.runtime.starts(&uid, "a"), world.runtime.starts(&uid, "b")), (1, 1));
        world.check();
    });
}

#[test]
fn a_container_whose_image_cannot_be_had_keeps_no_other_from_being_restarted() {
    run(3, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let world = World::new(calm);
        let pod = pod(
            "mixed",
            json!({"restartPolicy": "Always", "containers": [
                {"name": "a", "image": "busybox:1"}, {"name": "b", "image": "No Image"}]}),
        );
        let uid = PodUid::of(&pod);
        world.pool.desire(&desired(&[pod]), Some(&node()));
        let wait = Duration::from_secs(10);
        world.until("a runs", wait, |world| world.runtime.starts(&uid, "a") == 1).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.runtime.crash(&uid, "a");
        world.until("a runs again", wait, |world| world.runtime.starts(&uid, "a") == 2).await;
        let status = world.statuses.latest.lock()[&uid].clone();
        let b = status.container_statuses.unwrap().into_iter().find(|it| it.name == "b").unwrap();
        assert_eq!(b.state.unwrap().waiting.unwrap().reason.as_deref(), Some("InvalidImageName"));
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn a_worker_that_panics_is_told_of_and_begins_again_later_each_time() {
    run(1, |seed| async move {
        let clock = Clock::following_tokio(Timestamp::from_second(1_000_000).unwrap());
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let runtime = Arc::new(FakeRuntime::new(calm, clock.clone()));
        let told = Arc::new(Told::default());
        let world = World::with(runtime, clock, Arc::new(PanickingProbes(Mutex::new(3))), told.clone());
        let pod = pod("p", json!({"containers": [{"name": "a", "image": "busybox:1"}]}));
        let uid = PodUid::of(&pod);
        world.pool.desire(&desired(&[pod]), Some(&node()));
        let runs = |world: &World| {
            world.statuses.latest.lock().get(&uid).is_some_and(|it| it.phase.as_deref() == Some("Running"))
        };
        world.until("the pod runs", Duration::from_secs(60), runs).await;
        let told: Vec<_> = told.0.lock().iter().filter(|it| it.1 == "FailedSync").cloned().collect();
        let waits: Vec<u64> = told.windows(2).map(|two| (two[1].0 - two[0].0).as_secs()).collect();
        assert_eq!(waits, [1, 2], "{told:?}");
        assert!(!told[0].2.contains("simulated"), "{told:?}");
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn a_pod_runs_under_the_handler_of_its_class_or_not_at_all() {
    run(1, |seed| async move {
        let clock = Clock::following_tokio(Timestamp::from_second(1_000_000).unwrap());
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let runtime = Arc::new(FakeRuntime::new(calm, clock.clone()));
        let told = Arc::new(Told::default());
        let world = World::with(runtime, clock, Arc::new(NoProbes), told.clone());
        let of_class = |name: &str, class: Option<&str>| {
            let containers = json!([{"name": "a", "image": "busybox:1"}]);
            pod(name, json!({"runtimeClassName": class, "containers": containers}))
        };
        let pods = [of_class("plain", None), of_class("boxed", Some("safe")), of_class("lost", Some("none"))];
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let handlers = |name: &str| world.runtime.handlers(&PodUid::from(name));
        assert_eq!(handlers("plain"), [""]);
        assert_eq!(handlers("boxed"), ["runsc"]);
        assert_eq!(handlers("lost"), Vec::<String>::new());
        let message = "Failed to create pod sandbox: runtimeclass.node.k8s.io \"none\" not found";
        let told = told.0.lock().clone();
        let of_sandboxes = || told.iter().filter(|it| it.1 == "FailedCreatePodSandBox");
        assert!(of_sandboxes().count() > 1, "tried again: the class may come");
        assert!(of_sandboxes().all(|it| it.2 == message), "{told:?}");
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn a_pod_that_restarts_for_ever_is_remembered_by_what_is_left_of_it() {
    run(1, |seed| async move {
        let restless = Temper { fail_percent: 0, forget_percent: 0, longest_life_ms: 3_000, ..temper(seed) };
        let world = World::new(restless);
        let pod = pod("p", json!({"containers": [{"name": "a", "image": "busybox:1"}]}));
        let uid = PodUid::of(&pod);
        world.pool.desire(&desired(&[pod]), Some(&node()));
        let hour = Duration::from_secs(3600);
        world.until("it was restarted often", hour, |world| world.runtime.starts(&uid, "a") > 8).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let observed = world.runtime.observe(&uid).await.unwrap();
        let left = observed.containers.len() + observed.sandboxes.len();
        assert_eq!(world.bells.owned(&uid), left, "{observed:#?}");
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

impl World {
    /// What a shutdown does once logind has told of it.
    fn shutdown(&self) -> shutdown::Parts<FakeRuntime, FlakyResources> {
        shutdown::Parts { tools: self.tools.clone(), pool: self.pool.clone(), outbox: None }
    }

    fn condition(&self, uid: &str, kind: &str) -> Option<(String, Option<String>)> {
        let statuses = self.statuses.latest.lock();
        let conditions = statuses[&PodUid::from(uid)].conditions.clone().unwrap_or_default();
        conditions.into_iter().find(|it| it.type_ == kind).map(|it| (it.status, it.reason))
    }

    fn is_ready(&self, uid: &str) -> bool {
        self.condition(uid, "Ready").is_some_and(|(status, _)| status == "True")
    }

    fn phase_and_reason(&self, uid: &str) -> (Option<String>, Option<String>) {
        let statuses = self.statuses.latest.lock();
        let status = &statuses[&PodUid::from(uid)];
        (status.phase.clone(), status.reason.clone())
    }
}

#[test]
fn a_machine_that_goes_down_ends_every_pod_in_time_and_none_of_them_runs_again() {
    run(SEEDS / 2, |seed| async move {
        let mut world = World::new(temper(seed));
        let mut pods = pods();
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_millis(1 + seed * 997 % 90_000)).await;
        world.tools.going.announce(true);
        let began = Instant::now();
        world.shutdown().go_down(Duration::MAX).await;
        assert!(began.elapsed() <= Duration::from_secs(35), "{:?}", began.elapsed());
        world.runtime.calm_down();
        world
            .until("every pod has ended", Duration::from_secs(600), |world| world.pool.alive().is_empty())
            .await;
        // What was done by itself is put away too.
        tokio::time::sleep(Duration::from_secs(60)).await;
        for pod in &mut pods {
            let uid = PodUid::of(pod);
            assert!(!world.runtime.observe(&uid).await.unwrap().has_life(), "{uid}");
            let (phase, reason) = world.phase_and_reason(uid.as_str());
            let by_itself = uid.as_str() != "always" && reason.is_none();
            let ended = phase.as_deref() == Some("Failed") && reason.as_deref() == Some("Terminated");
            assert!(by_itself || ended, "{uid}: {phase:?} {reason:?}");
            Arc::make_mut(pod).status = world.statuses.latest.lock().get(&uid).cloned();
        }
        let starts = |world: &World| -> u32 {
            let of = |pod: &Arc<Pod>| {
                crate::pods::all_containers(pod)
                    .map(|it| world.runtime.starts(&PodUid::of(pod), &it.name))
                    .sum::<u32>()
            };
            pods.iter().map(of).sum()
        };
        let before = starts(&world);
        // The machine is there again.
        world = world.restart().await;
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_secs(400)).await;
        assert_eq!(starts(&world), before);
        for pod in &pods {
            let shown = world.statuses.latest.lock()[&PodUid::of(pod)].clone();
            let told = pod.status.as_ref().unwrap();
            assert_eq!(
                (&shown.phase, &shown.reason, &shown.message),
                (&told.phase, &told.reason, &told.message)
            );
            assert_eq!(shown.conditions, told.conditions);
        }
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn an_api_that_does_not_answer_holds_no_shutdown_up_for_long() {
    run(1, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let world = World::new(calm);
        let spec =
            json!({"terminationGracePeriodSeconds": 2, "containers": [{"name": "a", "image": "busybox:1"}]});
        let pod = pod("p", spec);
        let uid = PodUid::of(&pod);
        world.pool.desire(&desired(&[pod]), Some(&node()));
        world.until("it runs", Duration::from_secs(60), |world| world.runtime.starts(&uid, "a") == 1).await;
        world.tools.going.announce(true);
        // Nobody tells it of the node.
        let going_down = shutdown::Parts { outbox: Some(Outbox::default()), ..world.shutdown() };
        let began = Instant::now();
        going_down.go_down(Duration::MAX).await;
        assert!(world.pool.alive().is_empty());
        assert!((5..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

/// A pod whose hook takes four seconds.
fn of_priority(uid: &str, priority: i32) -> Arc<Pod> {
    let sleep = json!({"preStop": {"sleep": {"seconds": 4}}});
    let containers = json!([{"name": "a", "image": "busybox:1", "lifecycle": sleep}]);
    pod(uid, json!({"priority": priority, "terminationGracePeriodSeconds": 6, "containers": containers}))
}

fn from_file(uid: &str) -> Arc<Pod> {
    let mut pod = (*of_priority(uid, shutdown::CRITICAL + 1000)).clone();
    let source = [("kubernetes.io/config.source".to_string(), "file".to_string())];
    pod.metadata.annotations = Some(source.into());
    Arc::new(pod)
}

fn failed(reason: &str) -> (Option<String>, Option<String>) {
    (Some("Failed".to_string()), Some(reason.to_string()))
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_shutdown_ends_critical_pods_last_each_with_its_hook() {
    run(1, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, longest_delay_ms: 0, ..temper(seed) };
        let world = World::new(calm);
        let names = ["web", "dns", "static"];
        let pods = [of_priority("web", 0), of_priority("dns", shutdown::CRITICAL), from_file("static")];
        world.pool.desire(&desired(&pods), Some(&node()));
        world
            .until("all are ready", MINUTE, |world| {
                let told = |uid: &&str| world.statuses.latest.lock().contains_key(&PodUid::from(*uid));
                names.iter().all(|uid| told(uid) && world.is_ready(uid))
            })
            .await;
        world.tools.going.announce(true);
        let began = Instant::now();
        let going_down = world.shutdown();
        let watching = async {
            let lives = |world: &World, uid: &str| world.pool.is_alive(&PodUid::from(uid));
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(lives(&world, "web") && !world.is_ready("web"), "nothing is sent to it any more");
            assert!(world.is_ready("dns") && world.is_ready("static"), "it is not their turn");
            world.until("web has ended", MINUTE, |world| !lives(world, "web")).await;
            assert!(lives(&world, "dns") && lives(&world, "static"), "others have time of their own");
        };
        tokio::join!(going_down.go_down(Duration::MAX), watching);
        assert!(world.pool.alive().is_empty());
        let took = began.elapsed().as_secs();
        assert!((8..13).contains(&took), "hooks run, and nobody waits for the rest of a period: {took} s");
        for uid in names {
            assert_eq!(world.phase_and_reason(uid), failed("Terminated"));
            let why = ("True".to_string(), Some("TerminationByKubelet".to_string()));
            assert_eq!(world.condition(uid, "DisruptionTarget"), Some(why));
        }
        world.check();
        assert!(world.scope.close(MINUTE).await);
    });
}

#[test]
fn a_machine_that_goes_down_takes_no_pods_and_one_that_stays_takes_them_again() {
    run(1, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let world = World::new(calm);
        let runs = |world: &World, uid: &str| world.runtime.starts(&PodUid::from(uid), "a");
        let mut pods = vec![of_priority("web", 0), from_file("static")];
        world.pool.desire(&desired(&pods), Some(&node()));
        world.until("both run", MINUTE, |world| runs(world, "web") + runs(world, "static") == 2).await;
        world.tools.going.announce(true);
        pods.extend([of_priority("late", 0), from_file("second")]);
        world.pool.desire(&desired(&pods), Some(&node()));
        world.shutdown().go_down(Duration::MAX).await;
        assert_eq!(world.phase_and_reason("late"), failed("NodeShutdown"));
        assert!(!world.pool.has(&PodUid::from("second")), "static pods wait");
        world.tools.going.announce(false);
        world.bells.look_all();
        let gone = |world: &World| !world.pool.has(&PodUid::from("static"));
        world.until("the static pod's worker is over", MINUTE, gone).await;
        pods.push(of_priority("later", 0));
        world.pool.desire(&desired(&pods), Some(&node()));
        let again = |world: &World| {
            runs(world, "static") == 2 && runs(world, "second") == 1 && runs(world, "later") == 1
        };
        world.until("static pods run again, and pods are taken", MINUTE, again).await;
        let running = |world: &World| world.phase_and_reason("static").0.as_deref() == Some("Running");
        world.until("and it is told", MINUTE, running).await;
        // Others are replaced by whoever made them.
        assert_eq!((runs(&world, "web"), runs(&world, "late")), (1, 0));
        assert!(world.scope.close(MINUTE).await);
    });
}

fn of_age(uid: &str, second: i64, spec: serde_json::Value) -> Arc<Pod> {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let mut pod = (*pod(uid, spec)).clone();
    pod.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
    Arc::new(pod)
}

#[test]
fn pods_that_are_too_many_fail_and_those_that_run_already_stay() {
    run(1, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let mut world = World::new(calm);
        let container = || json!({"containers": [{"name": "a", "image": "busybox:1"}]});
        let mut pods: Vec<Arc<Pod>> =
            (0..4).map(|n| of_age(&format!("p{}", 4 - n), n, container())).collect();
        world.pool.desire(&desired(&pods), None);
        assert!(world.pool.is_empty(), "nobody knows whether they fit");
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let status = |world: &World, uid: &str| world.statuses.latest.lock()[&PodUid::from(uid)].clone();
        for uid in ["p4", "p3", "p2"] {
            assert_eq!(status(&world, uid).phase.as_deref(), Some("Running"), "the eldest come first");
        }
        let last = status(&world, "p1");
        assert_eq!((last.phase.as_deref(), last.reason.as_deref()), (Some("Failed"), Some("OutOfpods")));
        let message =
            "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        assert_eq!((last.message.as_deref(), last.container_statuses), (Some(message), None));
        assert!(world.runtime.handlers(&PodUid::from("p1")).is_empty());
        // A new agent over what runs, with what the API shows by now, and one pod more.
        for pod in &mut pods {
            let shown = status(&world, PodUid::of(pod).as_str());
            Arc::make_mut(pod).status = Some(shown);
        }
        pods.push(of_age("p0", 100, container()));
        world = world.restart().await;
        let mut smaller = node();
        let few = serde_json::from_value(json!({"pods": "2"})).unwrap();
        smaller.status.as_mut().unwrap().allocatable = Some(few);
        world.pool.desire(&desired(&pods), Some(&smaller));
        tokio::time::sleep(Duration::from_secs(30)).await;
        for uid in ["p4", "p3", "p2"] {
            assert_eq!(status(&world, uid).phase.as_deref(), Some("Running"));
            assert_eq!(world.runtime.starts(&PodUid::from(uid), "a"), 1);
        }
        assert_eq!(status(&world, "p0").reason.as_deref(), Some("OutOfpods"));
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn room_that_a_pod_has_left_is_given_to_the_next() {
    run(1, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let world = World::new(calm);
        let port = |uid: &str| {
            let ports = json!([{"containerPort": 80, "hostPort": 80}]);
            pod(
                uid,
                json!({"terminationGracePeriodSeconds": 1,
                "containers": [{"name": "a", "image": "busybox:1", "ports": ports}]}),
            )
        };
        let first = port("first");
        world.pool.desire(&desired(std::slice::from_ref(&first)), Some(&node()));
        tokio::time::sleep(Duration::from_secs(10)).await;
        let ending = deleted(&first, 1);
        world.pool.desire(&desired(std::slice::from_ref(&ending)), Some(&node()));
        let gone = |world: &World| world.statuses.deleted.lock().contains(&PodUid::from("first"));
        world.until("the first is gone", Duration::from_secs(60), gone).await;
        world.pool.desire(&desired(&[ending, port("second")]), Some(&node()));
        world
            .until("the second runs", Duration::from_secs(60), |world| {
                world.runtime.starts(&PodUid::from("second"), "a") == 1
            })
            .await;
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn labels_of_the_node_may_come_a_moment_after_the_pod() {
    run(1, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let world = World::new(calm);
        let containers = json!([{"name": "a", "image": "busybox:1"}]);
        let of_disk =
            |disk: &str| pod(disk, json!({"nodeSelector": {"disk": disk}, "containers": containers}));
        let pods = desired(&[of_disk("ssd"), of_disk("tape")]);
        let again = world.pool.desire(&pods, Some(&node())).unwrap();
        let mut labelled = node();
        labelled.metadata.labels = Some(BTreeMap::from([("disk".to_string(), "ssd".to_string())]));
        tokio::time::sleep_until(again).await;
        assert_eq!(world.pool.desire(&pods, Some(&labelled)), None);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.runtime.starts(&PodUid::from("ssd"), "a"), 1);
        let failed = world.statuses.latest.lock()[&PodUid::from("tape")].clone();
        assert_eq!(failed.reason.as_deref(), Some("NodeAffinity"));
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn a_pod_that_runs_is_not_refused_though_the_api_never_heard_of_it() {
    run(1, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let mut world = World::new(calm);
        let pods = [pod("p", json!({"containers": [{"name": "a", "image": "busybox:1"}]}))];
        world.pool.desire(&desired(&pods), Some(&node()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        world = world.restart().await;
        world.statuses.latest.lock().clear();
        let mut full = node();
        let none = serde_json::from_value(json!({"pods": "0"})).unwrap();
        full.status.as_mut().unwrap().allocatable = Some(none);
        world.pool.desire(&desired(&pods), Some(&full));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let uid = PodUid::from("p");
        assert_eq!(world.statuses.latest.lock()[&uid].phase.as_deref(), Some("Running"));
        assert_eq!(world.runtime.starts(&uid, "a"), 1);
        world.check();
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}

#[test]
fn a_container_added_for_debugging_runs_once_beside_the_others() {
    run(3, |seed| async move {
        let calm = Temper { fail_percent: 0, longest_life_ms: 0, ..temper(seed) };
        let world = World::new(calm);
        let mut pod = pod(
            "web",
            json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "busybox:1"}]}),
        );
        let uid = PodUid::of(&pod);
        let wait = Duration::from_secs(10);
        world.pool.desire(&desired(&[pod.clone()]), Some(&node()));
        world.until("a runs", wait, |world| world.runtime.starts(&uid, "a") == 1).await;
        let added = json!([{"name": "debug", "image": "busybox:1", "targetContainerName": "a"}]);
        let spec = Arc::make_mut(&mut pod).spec.as_mut().unwrap();
        spec.ephemeral_containers = serde_json::from_value(added).unwrap();
        world.pool.desire(&desired(&[pod]), Some(&node()));
        world.until("debug runs", wait, |world| world.runtime.starts(&uid, "debug") == 1).await;
        world.runtime.crash(&uid, "debug");
        let ended = |world: &World| {
            let status = world.statuses.latest.lock()[&uid].clone();
            let shown = status.ephemeral_container_statuses.unwrap_or_default();
            shown.iter().any(|it| it.state.as_ref().is_some_and(|state| state.terminated.is_some()))
        };
        world.until("its end is shown", wait, ended).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!((world.runtime.starts(&uid, "a"), world.runtime.starts(&uid, "debug")), (1, 1));
        assert!(world.scope.close(Duration::from_secs(60)).await);
    });
}
