//! Tables for the planner: a pod, what runs of it, and what comes next.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    runtime::{Exit, Sandbox},
    worker::ports::ProbeFailure,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn simple(policy: &str, names: &[&str]) -> Pod {
    let containers: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
    pod(json!({"restartPolicy": policy, "containers": containers}))
}

/// Two init containers around a sidecar, one main container.
fn with_init(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "initContainers": [
        {"name": "i1", "image": "i"}, {"name": "side", "image": "i", "restartPolicy": "Always"}, {"name": "i2", "image": "i"}
    ], "containers": [{"name": "c", "image": "i"}]}))
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}").as_str().into(),
        attempt,
        ready,
        created_at: at(0),
        ips: vec![[10, 0, 0, 1].into()],
        host_network: false,
    }
}

/// `name` in `sandbox`: `r`unning, `c`reated, `u`nknown, or an exit code.
fn container(name: &str, sandbox: u32, attempt: u32, state: &str) -> ObservedContainer {
    let spec = Container { name: name.into(), image: Some("i".into()), ..Container::default() };
    let exited = |code| Exit {
        code,
        reason: String::new(),
        message: String::new(),
        started_at: Some(at(5)),
        finished_at: at(10),
    };
    ObservedContainer {
        id: format!("{name}-{attempt}").as_str().into(),
        sandbox: format!("s{sandbox}").as_str().into(),
        name: name.into(),
        attempt,
        hash: Some(container_hash(&spec)),
        created_at: at(i64::from(attempt)),
        state: match state {
            "r" => ContainerState::Running { started_at: at(5) },
            "c" => ContainerState::Created,
            "u" => ContainerState::Unknown,
            code => ContainerState::Exited(exited(code.parse().unwrap())),
        },
        image: "i".into(),
        image_id: "i".into(),
        log_path: Default::default(),
    }
}

fn observed(sandboxes: Vec<Sandbox>, containers: Vec<ObservedContainer>) -> PodObservation {
    let mut observed = PodObservation { sandboxes, containers };
    observed.sort();
    observed
}

/// The plan in words: `sandbox 1`, `kill c-0`, `start c#1`, `adopt c-0`, `hold c`, `kill pod`.
fn words(actions: &PodActions) -> Vec<String> {
    let mut words = Vec::new();
    if actions.kill_pod {
        words.push("kill pod".to_string());
    }
    words.extend(actions.kill.iter().map(|kill| format!("kill {}", kill.id)));
    words.extend(actions.create_sandbox.map(|attempt| format!("sandbox {attempt}")));
    words.extend(actions.start.iter().map(|start| match &start.adopt {
        Some(id) => format!("adopt {id}"),
        None => format!("start {}#{}", start.name, start.attempt),
    }));
    words.extend(actions.held.iter().map(|held| format!("hold {}", held.name)));
    words
}

#[track_caller]
fn check_with(
    pod: &Pod,
    observed: &PodObservation,
    readings: &[Reading],
    backoff: &Backoff,
    expected: &[&str],
) {
    let refused = BTreeMap::new();
    let inputs = Inputs { pod, observed, readings, backoff, refused: &refused, now: at(11) };
    let actions = compute_pod_actions(&inputs);
    assert_eq!(words(&actions), expected);
}

#[track_caller]
fn check(pod: &Pod, sandboxes: Vec<Sandbox>, containers: Vec<ObservedContainer>, expected: &[&str]) {
    check_with(pod, &observed(sandboxes, containers), &[], &Backoff::default(), expected);
}

fn ready() -> Vec<Sandbox> {
    vec![sandbox(0, true)]
}

#[test]
fn a_new_pod_gets_a_sandbox_and_all_its_containers() {
    check(&simple("Always", &["a", "b"]), vec![], vec![], &["sandbox 0", "start a#0", "start b#0"]);
    check(&with_init("Always"), vec![], vec![], &["sandbox 0", "start i1#0"]);
}

#[test]
fn what_runs_is_left_alone() {
    check(&simple("Always", &["a"]), ready(), vec![container("a", 0, 0, "r")], &[]);
}

#[test]
fn the_restart_policy_decides_what_starts_again() {
    for (policy, state, expected) in [
        ("Always", "0", vec!["start a#1"]),
        ("Always", "1", vec!["start a#1"]),
        ("OnFailure", "1", vec!["start a#1"]),
        ("OnFailure", "0", vec!["kill pod"]),
        ("Never", "1", vec!["kill pod"]),
        ("Always", "c", vec!["adopt a-0"]),
        ("Always", "u", vec!["kill a-0", "start a#1"]),
    ] {
        check(&simple(policy, &["a"]), ready(), vec![container("a", 0, 0, state)], &expected);
    }
    let one_left = vec![container("a", 0, 0, "0"), container("b", 0, 0, "r")];
    check(&simple("OnFailure", &["a", "b"]), ready(), one_left, &[]);
}

#[test]
fn a_containers_own_rules_win_over_the_pods_policy() {
    let pod = pod(
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}),
    );
    check(&pod, ready(), vec![container("a", 0, 0, "42")], &["start a#1"]);
    check(&pod, ready(), vec![container("a", 0, 0, "1")], &["kill pod"]);
}

#[test]
fn a_container_that_keeps_ending_waits_its_turn() {
    let mut backoff = Backoff::default();
    let mut pod = simple("Always", &["a", "b"]);
    let key = |pod: &Pod| backoff::of_container("a", container_hash(&pods::containers(pod)[0]));
    backoff.started(&key(&pod), at(10), at(10));
    let observed = observed(ready(), vec![container("a", 0, 3, "1"), container("b", 0, 0, "r")]);
    check_with(&pod, &observed, &[], &backoff, &["hold a"]);
    pod.spec.as_mut().unwrap().containers[0].image = Some("another".into());
    check_with(&pod, &observed, &[], &backoff, &["start a#4"]);
}

#[test]
fn init_containers_run_one_after_the_other_with_sidecars_among_them() {
    let pod = with_init("Always");
    let (i1, side) = (container("i1", 0, 0, "0"), container("side", 0, 0, "r"));
    check(&pod, ready(), vec![container("i1", 0, 0, "r")], &[]);
    check(&pod, ready(), vec![i1.clone()], &["start side#0"]);
    check(&pod, ready(), vec![i1.clone(), side.clone()], &["start i2#0"]);
    check(&pod, ready(), vec![i1.clone(), side.clone(), container("i2", 0, 0, "1")], &["start i2#1"]);
    check(&pod, ready(), vec![i1.clone(), side.clone(), container("i2", 0, 0, "0")], &["start c#0"]);
    let all = vec![i1, container("side", 0, 0, "1"), container("i2", 0, 0, "0"), container("c", 0, 0, "r")];
    check(&pod, ready(), all, &["start side#1"]);
    let swept = vec![side, container("c", 0, 0, "r")];
    check(&pod, ready(), swept, &[]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_is_never_restarted() {
    let pod = with_init("Never");
    check(&pod, ready(), vec![container("i1", 0, 0, "1")], &["kill pod"]);
}

#[test]
fn sidecars_do_not_keep_a_pod_alive() {
    let containers =
        vec![container("side", 0, 0, "r"), container("i2", 0, 0, "0"), container("c", 0, 0, "0")];
    check(&with_init("OnFailure"), ready(), containers, &["kill pod"]);
}

#[test]
fn an_ephemeral_container_starts_once_and_whatever_the_others_do() {
    let mut pod = with_init("Always");
    let added = json!([{"name": "debug", "image": "i", "targetContainerName": "c"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
    check(&pod, vec![], vec![], &["sandbox 0", "start i1#0"]);
    check(&pod, ready(), vec![container("i1", 0, 0, "r")], &["start debug#0"]);
    let failing = vec![container("i1", 0, 0, "1")];
    check(&pod, ready(), failing, &["start debug#0", "start i1#1"]);
    let running = |state| {
        vec![container("side", 0, 0, "r"), container("c", 0, 0, "r"), container("debug", 0, 0, state)]
    };
    for state in ["r", "0", "1", "u"] {
        check(&pod, ready(), running(state), &[]);
    }
    check(&pod, ready(), running("c"), &["adopt debug-0"]);
    pod.status = serde_json::from_value(json!({"ephemeralContainerStatuses": [{
        "name": "debug", "ready": false, "restartCount": 0, "image": "", "imageID": "", "containerID": "containerd://gone"
    }]}))
    .unwrap();
    check(&pod, ready(), vec![container("side", 0, 0, "r"), container("c", 0, 0, "r")], &[]);
}

#[test]
fn an_ephemeral_container_keeps_no_pod_alive() {
    let mut pod = simple("Never", &["a"]);
    let added = json!([{"name": "debug", "image": "i"}, {"name": "late", "image": "i"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
    check(&pod, ready(), vec![container("a", 0, 0, "0"), container("debug", 0, 0, "r")], &["kill pod"]);
}

#[test]
fn a_lost_sandbox_is_made_anew_and_initialized_anew() {
    let gone = vec![sandbox(0, false)];
    check(
        &simple("Always", &["a"]),
        gone.clone(),
        vec![container("a", 0, 0, "137")],
        &["sandbox 1", "start a#1"],
    );
    let ended = vec![container("i1", 0, 0, "0"), container("c", 0, 0, "137")];
    check(&with_init("Always"), gone.clone(), ended.clone(), &["sandbox 1", "start i1#1"]);
    let again = vec![sandbox(1, true), sandbox(0, false)];
    let mut half = ended;
    half.push(container("i1", 1, 1, "0"));
    check(&with_init("Always"), again, half, &["start side#0"]);
    check(&simple("Never", &["a"]), gone.clone(), vec![container("a", 0, 0, "0")], &[]);
    check(&simple("OnFailure", &["a"]), gone, vec![container("a", 0, 0, "0")], &[]);
}

#[test]
fn two_ready_sandboxes_or_one_without_an_address_are_replaced() {
    let two = vec![sandbox(1, true), sandbox(0, true)];
    check(&simple("Always", &["a"]), two, vec![], &["kill pod", "sandbox 2", "start a#0"]);
    let bare = Sandbox { ips: vec![], ..sandbox(0, true) };
    check(&simple("Always", &["a"]), vec![bare], vec![], &["kill pod", "sandbox 1", "start a#0"]);
}

#[test]
fn failed_probes_and_changed_images_replace_a_container() {
    let failed = |id: &str| Reading {
        id: id.into(),
        started: Some(true),
        ready: None,
        failed: Some(ProbeFailure { kind: FailedProbe::Liveness, grace_seconds: Some(3) }),
    };
    let observed_a = observed(ready(), vec![container("a", 0, 0, "r"), container("b", 0, 0, "r")]);
    let none = Backoff::default();
    check_with(
        &simple("Always", &["a", "b"]),
        &observed_a,
        &[failed("a-0")],
        &none,
        &["kill a-0", "start a#1"],
    );
    check_with(&simple("Never", &["a", "b"]), &observed_a, &[failed("a-0")], &none, &["kill a-0"]);
    check_with(&simple("Always", &["a", "b"]), &observed_a, &[failed("a-9")], &none, &[]);
    let mut changed = simple("Never", &["a", "b"]);
    changed.spec.as_mut().unwrap().containers[0].image = Some("new".into());
    check_with(&changed, &observed_a, &[], &none, &["kill a-0", "start a#1"]);
}

#[test]
fn the_restart_count_goes_on_from_what_the_api_remembers() {
    let mut pod = simple("Always", &["a"]);
    pod.status = serde_json::from_value(json!({"containerStatuses": [{
        "name": "a", "ready": false, "restartCount": 4, "image": "", "imageID": "", "containerID": "containerd://gone"
    }]}))
    .unwrap();
    check(&pod, ready(), vec![], &["start a#5"]);
}

#[test]
fn a_container_that_cannot_start_yet_holds_back_only_itself() {
    let refused = BTreeMap::from([("b".to_string(), at(300))]);
    let pod = simple("Always", &["a", "b"]);
    let plan = |sandboxes, containers, now| {
        let observed = observed(sandboxes, containers);
        let backoff = Backoff::default();
        let inputs = Inputs {
            pod: &pod,
            observed: &observed,
            readings: &[],
            backoff: &backoff,
            refused: &refused,
            now,
        };
        words(&compute_pod_actions(&inputs))
    };
    let ended = || vec![container("a", 0, 0, "1")];
    assert_eq!(plan(ready(), ended(), at(11)), ["start a#1", "hold b"]);
    let broken = vec![sandbox(0, false)];
    assert_eq!(plan(broken, ended(), at(11)), ["sandbox 1", "start a#1", "hold b"]);
    assert_eq!(plan(ready(), vec![container("a", 0, 0, "r")], at(11)), ["hold b"]);
    assert_eq!(plan(ready(), vec![container("a", 0, 0, "r")], at(300)), ["start b#0"]);
}
