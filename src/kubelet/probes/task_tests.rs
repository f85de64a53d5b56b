//! Probes on paused time, with checks that find what the test says.

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};

use super::*;
use crate::probes::spec::Check;

const SECOND: Duration = Duration::from_secs(1);

/// Finds what is scripted for the kind of check, and notes when it was asked.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Scripted>>);

#[derive(Default)]
struct Scripted {
    /// By the command's first word.
    found: HashMap<String, Verdict>,
    asked: Vec<(String, u64)>,
    began: Option<Instant>,
}

impl Script {
    fn finds(&self, word: &str, verdict: Verdict) {
        self.0.lock().found.insert(word.into(), verdict);
    }

    /// The seconds at which it was asked since the last call.
    fn asked(&self, word: &str) -> Vec<u64> {
        let mut script = self.0.lock();
        let (own, others) = std::mem::take(&mut script.asked).into_iter().partition(|(it, _)| it == word);
        script.asked = others;
        let own: Vec<(String, u64)> = own;
        own.into_iter().map(|(_, at)| at).collect()
    }
}

impl Checker for Script {
    async fn check(&self, _: &Target, check: &Check, _: Duration) -> Verdict {
        let Check::Exec(command) = check else { panic!("only commands are scripted") };
        let mut script = self.0.lock();
        let began = *script.began.get_or_insert_with(Instant::now);
        script.asked.push((command[0].clone(), began.elapsed().as_secs()));
        script.found.get(&command[0]).cloned().unwrap_or(Verdict::Success)
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl EventSink for Heard {
    fn event(&self, about: &ObjectReference, _: EventType, reason: &'static str, message: String) {
        assert_eq!(about.field_path.as_deref(), Some("spec.containers{c}"));
        self.0.lock().push(format!("{reason}: {message}"));
    }
}

struct Stage {
    prober: Arc<Prober<Script>>,
    script: Script,
    events: Arc<Heard>,
    woken: Arc<Mutex<u32>>,
    clock: Clock,
    pod: Arc<Pod>,
    scope: Scope,
}

impl Stage {
    fn new(probes: Value) -> Stage {
        let (script, events, woken) =
            (Script::default(), Arc::<Heard>::default(), Arc::<Mutex<u32>>::default());
        script.0.lock().began = Some(Instant::now());
        let clock = Clock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap());
        let count = woken.clone();
        let waker = Waker::new(move |_| *count.lock() += 1);
        let scope = Scope::root("test");
        let mut container = probes;
        container["name"] = json!("c");
        let pod = json!({"metadata": {"uid": "u", "name": "p"}, "spec": {"containers": [container]}});
        Stage {
            prober: Prober::new(script.clone(), events.clone(), waker, clock.clone(), &scope),
            script,
            events,
            woken,
            clock,
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            scope,
        }
    }

    fn runs(&self, id: &str) -> Probed {
        Probed {
            name: "c".into(),
            id: ContainerId::from(id),
            started_at: self.clock.now(),
            pod_ip: None,
            was_ready: false,
            was_started: false,
        }
    }

    fn update(&self, running: &[Probed], terminating: bool) {
        self.prober.update(&self.pod, running, terminating);
    }

    fn reading(&self) -> (Option<bool>, Option<bool>, Option<FailedProbe>) {
        let reading = self.prober.readings(&PodUid::from("u")).remove(0);
        (reading.started, reading.ready, reading.failed.map(|failed| failed.kind))
    }
}

fn probe(word: &str, more: Value) -> Value {
    let mut probe = json!({"exec": {"command": [word]}, "periodSeconds": 5});
    for (key, value) in more.as_object().unwrap() {
        probe[key] = value.clone();
    }
    probe
}

/// Lets timers that are due run.
async fn pass(seconds: u64) {
    for _ in 0..seconds * 10 {
        tokio::time::sleep(SECOND / 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_thresholds_and_wakes_the_pod_when_it_changes() {
    let stage = Stage::new(
        json!({"readinessProbe": probe("ready", json!({"initialDelaySeconds": 3, "failureThreshold": 2}))}),
    );
    stage.update(&[stage.runs("1")], false);
    pass(2).await;
    assert_eq!(stage.script.asked("ready"), Vec::<u64>::new());
    assert_eq!(stage.reading(), (Some(true), None, None));
    pass(7).await;
    assert_eq!(stage.script.asked("ready"), [3, 8]);
    assert_eq!((stage.reading(), *stage.woken.lock()), ((Some(true), Some(true), None), 1));
    stage.script.finds("ready", Verdict::Failure("HTTP probe failed with statuscode: 500".into()));
    pass(5).await;
    assert_eq!((stage.reading().1, *stage.woken.lock()), (Some(true), 1));
    pass(5).await;
    assert_eq!((stage.reading().1, *stage.woken.lock()), (Some(false), 2));
    let expected = "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500";
    assert_eq!(*stage.events.0.lock(), [expected, expected]);
}

#[tokio::test(start_paused = true)]
async fn others_wait_until_the_container_has_started_and_then_begin_at_once() {
    let stage = Stage::new(json!({
        "startupProbe": probe("start", json!({"failureThreshold": 10})),
        "livenessProbe": probe("live", json!({})), "readinessProbe": probe("ready", json!({})),
    }));
    stage.script.finds("start", Verdict::Failure(String::new()));
    stage.update(&[stage.runs("1")], false);
    pass(12).await;
    assert_eq!(stage.reading(), (None, None, None));
    assert_eq!(stage.script.asked("start"), [0, 5, 10]);
    assert_eq!((stage.script.asked("live"), stage.script.asked("ready")), (vec![], vec![]));
    stage.script.finds("start", Verdict::Success);
    pass(10).await;
    assert_eq!(stage.reading(), (Some(true), Some(true), None));
    assert_eq!(stage.script.asked("start"), [15]);
    assert_eq!((stage.script.asked("live"), stage.script.asked("ready")), (vec![15, 20], vec![15, 20]));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_fails_is_not_probed_again_and_its_successor_starts_from_nothing() {
    let live = probe("live", json!({"failureThreshold": 2, "terminationGracePeriodSeconds": 7}));
    let stage = Stage::new(json!({"livenessProbe": live}));
    stage.script.finds("live", Verdict::Failure("no".into()));
    stage.update(&[stage.runs("1")], false);
    pass(20).await;
    assert_eq!(stage.script.asked("live"), [0, 5]);
    let failed = stage.prober.readings(&PodUid::from("u")).remove(0).failed.unwrap();
    assert_eq!((failed.kind, failed.grace_seconds), (FailedProbe::Liveness, Some(7)));
    stage.script.finds("live", Verdict::Success);
    stage.update(&[stage.runs("2")], false);
    pass(1).await;
    assert_eq!(stage.reading(), (Some(true), Some(true), None));
    assert_eq!(stage.script.asked("live"), [20]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_flips_nothing_and_spreads_the_probes() {
    let stage = Stage::new(json!({
        "startupProbe": probe("start", json!({})), "readinessProbe": probe("ready", json!({"failureThreshold": 2})),
    }));
    stage.script.finds("ready", Verdict::Failure(String::new()));
    let started_at = stage.clock.now() - jiff::SignedDuration::from_hours(1);
    let old = Probed { was_ready: true, was_started: true, started_at, ..stage.runs("1") };
    stage.update(std::slice::from_ref(&old), false);
    assert_eq!(stage.reading(), (Some(true), Some(true), None));
    pass(5).await;
    assert_eq!(stage.script.asked("ready").len(), 1, "within its first period");
    assert_eq!(stage.reading().1, Some(true), "one failure is not enough");
    pass(6).await;
    assert_eq!(stage.reading().1, Some(false));
    assert_eq!(stage.script.asked("start"), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_is_probed_for_readiness_only() {
    let stage = Stage::new(json!({
        "livenessProbe": probe("live", json!({"failureThreshold": 1})), "readinessProbe": probe("ready", json!({})),
    }));
    stage.update(&[stage.runs("1")], false);
    pass(1).await;
    stage.update(&[stage.runs("1")], true);
    stage.script.finds("live", Verdict::Failure(String::new()));
    stage.script.finds("ready", Verdict::Failure(String::new()));
    pass(20).await;
    assert_eq!(stage.script.asked("live"), [0]);
    assert_eq!(stage.reading(), (Some(true), Some(false), None));
    stage.update(&[], true);
    assert_eq!(stage.prober.readings(&PodUid::from("u")), []);
    stage.script.asked("ready");
    pass(20).await;
    assert_eq!(stage.script.asked("ready"), Vec::<u64>::new());
    assert!(stage.scope.close(SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_checked_counts_for_nothing() {
    let stage = Stage::new(json!({"livenessProbe": probe("live", json!({"failureThreshold": 1}))}));
    stage.script.finds("live", Verdict::Unknown("no runtime".into()));
    stage.update(&[stage.runs("1")], false);
    pass(4).await;
    assert_eq!(stage.script.asked("live"), [0, 0, 0]);
    assert_eq!(stage.reading().2, None);
    let expected = "Unhealthy: Liveness probe errored and resulted in unknown state: no runtime";
    assert_eq!(*stage.events.0.lock(), [expected]);
}
