//! Tables for pod status.

use serde_json::{Value, json};

use super::*;
use crate::{
    pods::container_hash,
    runtime::{ContainerState, Exit, ObservedContainer, Sandbox},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: Value) -> Pod {
    let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 1}, "spec": spec});
    serde_json::from_value(pod).unwrap()
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

fn container(name: &str, attempt: u32, state: ContainerState) -> ObservedContainer {
    let spec = k8s_openapi::api::core::v1::Container { name: name.into(), ..Default::default() };
    ObservedContainer {
        id: format!("{name}{attempt}").as_str().into(),
        sandbox: "s".into(),
        name: name.into(),
        attempt,
        hash: Some(container_hash(&spec)),
        created_at: at(1),
        state,
        image: "i".into(),
        image_id: "sha256:i".into(),
        log_path: Default::default(),
    }
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: at(2) }
}

fn exited(code: i32) -> ContainerState {
    let reason = if code == 0 { "Completed" } else { "Error" };
    ContainerState::Exited(Exit {
        code,
        reason: reason.into(),
        message: String::new(),
        started_at: Some(at(2)),
        finished_at: at(3),
    })
}

fn observed(containers: Vec<ObservedContainer>) -> PodObservation {
    let sandbox = Sandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: at(1),
        ips: vec![[10, 0, 0, 7].into()],
        host_network: false,
    };
    let mut observed = PodObservation { sandboxes: vec![sandbox], containers };
    observed.sort();
    observed
}

struct Case {
    pod: Pod,
    observed: PodObservation,
    waiting: BTreeMap<String, Waiting>,
    previous: Option<PodStatus>,
    ending: bool,
    shutdown: bool,
    now: i64,
}

impl Case {
    fn new(pod: Pod, containers: Vec<ObservedContainer>) -> Case {
        Case {
            pod,
            observed: observed(containers),
            waiting: BTreeMap::new(),
            previous: None,
            ending: false,
            shutdown: false,
            now: 10,
        }
    }

    fn generate(&self) -> Generated {
        generate(&Inputs {
            pod: &self.pod,
            previous: self.previous.as_ref(),
            observed: &self.observed,
            readings: &[],
            waiting: &self.waiting,
            failed: None,
            ending: self.ending,
            shutdown: self.shutdown,
            host_ips: &["192.168.0.1".parse().unwrap()],
            runtime_name: "containerd",
            now: at(self.now),
        })
    }

    fn phase(&self) -> String {
        self.generate().status.phase.unwrap()
    }
}

#[test]
fn a_running_pod_is_shown_as_upstream_shows_it() {
    let status =
        Case::new(one("Always"), vec![container("c", 1, running()), container("c", 0, exited(1))]).generate();
    insta::assert_json_snapshot!(status.status);
}

#[test]
fn last_words_that_were_shown_stay_when_their_file_is_gone() {
    let said = |message: &str, attempt: u32| {
        let ContainerState::Exited(exit) = exited(7) else { unreachable!() };
        container("c", attempt, ContainerState::Exited(Exit { message: message.into(), ..exit }))
    };
    let message = |status: &PodStatus| {
        let container = status.container_statuses.clone().unwrap().remove(0);
        container.state.unwrap().terminated.unwrap().message
    };
    let mut case = Case::new(one("Never"), vec![said("so long", 0)]);
    case.previous = Some(case.generate().status);
    case.observed = observed(vec![said("", 0)]);
    assert_eq!(message(&case.generate().status).as_deref(), Some("so long"));
    case.observed = observed(vec![said("", 1)]);
    assert_eq!(message(&case.generate().status), None, "another instance");
}

#[test]
fn a_new_pod_waits_for_its_init_containers() {
    let pod = pod(
        json!({"initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "c", "image": "i"}]}),
    );
    let status = Case::new(pod, vec![container("i", 0, running())]).generate().status;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    let initialized = status.conditions.unwrap().into_iter().find(|it| it.type_ == "Initialized").unwrap();
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
}

#[test]
fn the_phase_follows_the_containers_and_the_policy() {
    for (policy, states, expected) in [
        ("Always", vec![exited(0)], "Running"),
        ("OnFailure", vec![exited(0)], "Succeeded"),
        ("OnFailure", vec![exited(1)], "Running"),
        ("Never", vec![exited(0)], "Succeeded"),
        ("Never", vec![exited(1)], "Failed"),
        ("Never", vec![running()], "Running"),
        ("Never", vec![ContainerState::Created], "Pending"),
        ("Never", vec![], "Pending"),
    ] {
        let containers = states.iter().map(|state| container("c", 0, state.clone())).collect();
        assert_eq!(Case::new(one(policy), containers).phase(), expected, "{policy} {states:?}");
    }
}

#[test]
fn a_restart_counts_once_it_has_started() {
    for (state, count) in [(ContainerState::Created, 1), (running(), 2), (exited(0), 2)] {
        let containers = vec![container("c", 2, state.clone()), container("c", 1, exited(3))];
        let status = Case::new(one("Always"), containers).generate().status;
        assert_eq!(status.container_statuses.unwrap()[0].restart_count, count, "{state:?}");
    }
    let first = Case::new(one("Always"), vec![container("c", 0, ContainerState::Created)]);
    assert_eq!(first.generate().status.container_statuses.unwrap()[0].restart_count, 0);
}

#[test]
fn a_crash_loop_waits_with_its_last_end_beside_it() {
    let mut case = Case::new(one("Always"), vec![container("c", 2, exited(3))]);
    let why = Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() };
    case.waiting.insert("c".into(), why);
    let status = case.generate().status;
    let shown = status.container_statuses.unwrap().remove(0);
    assert_eq!(shown.state.unwrap().waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(shown.last_state.unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!((status.phase.as_deref(), shown.restart_count), (Some("Running"), 2));
}

/// What the API has, to an agent that has just started.
fn after_a_restart(mut case: Case) -> Case {
    case.pod.status = Some(case.generate().status);
    case.waiting.clear();
    case.previous = None;
    case
}

fn shown(case: &Case) -> ContainerStatus {
    case.generate().status.container_statuses.unwrap().remove(0)
}

#[test]
fn a_restart_of_the_agent_changes_nothing_in_what_a_waiting_pod_is_shown_to_wait_for() {
    for (reason, containers) in [
        ("ImagePullBackOff", vec![]),
        ("CreateContainerConfigError", vec![]),
        ("CrashLoopBackOff", vec![container("c", 2, exited(3))]),
        ("ErrImagePull", vec![container("c", 0, exited(1))]),
    ] {
        let mut case = Case::new(one("Always"), containers);
        case.waiting.insert("c".into(), Waiting { reason: reason.into(), message: "why".into() });
        let before = case.generate().status;
        let mut case = after_a_restart(case);
        for pass in ["first", "second"] {
            let after = case.generate().status;
            assert_eq!(after, before, "{reason}, {pass} pass");
            case.previous = Some(after);
        }
    }
}

#[test]
fn what_was_shown_ends_with_the_next_instance_and_with_a_reason_of_the_agents_own() {
    let mut case = Case::new(one("Always"), vec![container("c", 2, exited(3))]);
    case.waiting.insert("c".into(), Waiting { reason: "CrashLoopBackOff".into(), message: "why".into() });
    let mut case = after_a_restart(case);
    case.observed = observed(vec![container("c", 3, exited(4)), container("c", 2, exited(3))]);
    assert_eq!(shown(&case).state.unwrap().terminated.unwrap().exit_code, 4);
    case.waiting.insert("c".into(), Waiting { reason: "ErrImagePull".into(), message: String::new() });
    assert_eq!(shown(&case).state.unwrap().waiting.unwrap().reason.as_deref(), Some("ErrImagePull"));
}

#[test]
fn a_container_stays_ready_and_started_until_its_probes_have_measured_again() {
    let probe = json!({"tcpSocket": {"port": 80}});
    let spec = json!({"containers": [
        {"name": "c", "image": "i", "readinessProbe": probe, "startupProbe": probe}
    ]});
    for good in [true, false] {
        let mut case = Case::new(pod(spec.clone()), vec![container("c", 0, running())]);
        let mut status = case.generate().status;
        let of_c = &mut status.container_statuses.as_mut().unwrap()[0];
        (of_c.ready, of_c.started) = (good, Some(good));
        case.pod.status = Some(status);
        let shown = shown(&case);
        assert_eq!((shown.ready, shown.started), (good, Some(good)), "nothing is measured yet");
    }
}

#[test]
fn a_terminal_phase_is_shown_only_when_nothing_runs_and_never_left() {
    let mut pod = one("Never");
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
    let mut case = Case::new(pod, vec![container("c", 0, running())]);
    let first = case.generate();
    assert_eq!((first.status.phase.as_deref(), first.next), (Some("Running"), Some(at(15))));
    case.previous = Some(first.status);
    case.now = 15;
    let late = case.generate();
    assert!(late.completed);
    assert_eq!(late.status.phase.as_deref(), Some("Running"), "its container still runs");
    case.previous = Some(late.status);
    case.observed = observed(vec![container("c", 0, exited(0))]);
    let ended = case.generate().status;
    assert_eq!((ended.phase.as_deref(), ended.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    case.previous = Some(ended);
    case.observed = observed(vec![container("c", 0, running())]);
    assert_eq!(case.phase(), "Failed");
}

#[test]
fn a_pod_that_was_ended_before_it_ran_has_failed() {
    let mut case = Case::new(one("Always"), vec![]);
    case.ending = true;
    assert_eq!(case.phase(), "Failed");
}

#[test]
fn what_was_removed_from_the_runtime_is_shown_as_it_was() {
    let mut case = Case::new(one("Never"), vec![container("c", 0, exited(7))]);
    case.previous = Some(case.generate().status);
    case.observed = PodObservation::default();
    let status = case.generate().status;
    assert_eq!(status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap().exit_code, 7);
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.7"));
}

#[test]
fn a_container_that_cannot_be_found_is_told_of_and_counted() {
    let mut case = Case::new(one("Always"), vec![container("c", 0, running())]);
    case.previous = Some(case.generate().status);
    case.observed = PodObservation::default();
    let shown = case.generate().status.container_statuses.unwrap().remove(0);
    let last = shown.last_state.unwrap().terminated.unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref(), shown.restart_count),
        (137, Some("ContainerStatusUnknown"), 1)
    );
}

#[test]
fn a_pod_that_ends_with_the_machine_has_failed_once_nothing_of_it_runs() {
    for policy in ["Always", "Never"] {
        let mut case = Case::new(one(policy), vec![container("c", 0, running())]);
        case.shutdown = true;
        let told = |status: &PodStatus, kind: &str| {
            let found = status.conditions.iter().flatten().find(|it| it.type_ == kind).cloned();
            found.map(|it| (it.status, it.reason))
        };
        let by_kubelet = || Some("TerminationByKubelet".to_string());
        let Generated { status, completed, .. } = case.generate();
        assert!(completed);
        assert_eq!(
            (status.phase.as_deref(), status.reason),
            (Some("Pending"), None),
            "as it was shown before"
        );
        assert_eq!(
            told(&PodStatus { conditions: status.conditions.clone(), ..PodStatus::default() }, "Ready"),
            Some(("False".into(), by_kubelet()))
        );
        let shown = PodStatus { conditions: status.conditions, ..PodStatus::default() };
        assert_eq!(told(&shown, "DisruptionTarget"), None);
        // Between two runs, and one that was begun may come yet.
        let mut case = Case::new(one(policy), vec![container("c", 0, exited(1))]);
        case.shutdown = true;
        assert_eq!(case.phase(), "Pending");
        // It takes the signal well.
        let mut case = Case::new(one(policy), vec![container("c", 0, exited(0))]);
        (case.shutdown, case.ending) = (true, true);
        case.observed.sandboxes.clear();
        let status = case.generate().status;
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Terminated")));
        assert_eq!(told(&status, "DisruptionTarget"), Some(("True".into(), by_kubelet())));
        assert_eq!(
            status.container_statuses.as_ref().unwrap()[0]
                .state
                .as_ref()
                .unwrap()
                .terminated
                .as_ref()
                .unwrap()
                .exit_code,
            0
        );
        // The agent of the next boot, which only knows what the API shows.
        let mut again = Case::new(one(policy), Vec::new());
        again.observed.sandboxes.clear();
        again.pod.status = Some(status.clone());
        again.now = 1000;
        let later = again.generate();
        assert_eq!(later.status.conditions, status.conditions);
        assert_eq!(
            (later.status.phase, later.status.reason, later.status.message),
            (status.phase, status.reason, status.message)
        );
    }
}

#[test]
fn a_pod_that_was_done_before_the_machine_goes_down_keeps_its_end() {
    let mut case = Case::new(one("Never"), vec![container("c", 0, exited(0))]);
    case.pod.status = Some(PodStatus { phase: Some("Succeeded".into()), ..PodStatus::default() });
    case.shutdown = true;
    let status = case.generate().status;
    assert_eq!((status.phase.as_deref(), status.reason), (Some("Succeeded"), None));
}

#[test]
fn ephemeral_containers_are_shown_and_say_nothing_of_the_pod() {
    let mut pod = one("Always");
    let added = json!([{"name": "e", "image": "i"}, {"name": "late", "image": "i"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
    let case = Case::new(pod, vec![container("c", 0, running()), container("e", 0, exited(1))]);
    let status = case.generate().status;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let shown = status.ephemeral_container_statuses.unwrap();
    let [ended, late] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!((ended.name.as_str(), ended.ready, ended.started), ("e", false, None));
    assert_eq!(ended.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    let waiting = late.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    assert_eq!(status.container_statuses.as_ref().unwrap().len(), 1);

    // One that ran, and that the runtime does not have any more, has ended for good.
    let mut case = Case::new(case.pod, vec![container("c", 0, running()), container("e", 0, running())]);
    case.previous = Some(case.generate().status);
    case.observed = observed(vec![container("c", 0, running())]);
    let lost = case.generate().status.ephemeral_container_statuses.unwrap().remove(0);
    let ended = lost.state.unwrap().terminated.unwrap();
    assert_eq!((ended.reason.as_deref(), lost.restart_count), (Some("ContainerStatusUnknown"), 0));
}
