//! The conditions of a pod that the kubelet owns.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{pods, shutdown};

/// Of several writers: whoever ends a pod says why.
const DISRUPTION_TARGET: &str = "DisruptionTarget";
const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Whether a condition is one that is written here.
pub(super) fn is_ours(kind: &str, reason: Option<&str>) -> bool {
    OWNED.contains(&kind) || (kind == DISRUPTION_TARGET && reason == Some(shutdown::BY_KUBELET))
}

pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) phase: &'a str,
    pub(super) init: &'a [ContainerStatus],
    pub(super) main: &'a [ContainerStatus],
    pub(super) has_sandbox: bool,
    /// The pod ends with the machine; whether something of it still runs.
    pub(super) shutdown: Option<bool>,
    /// What is shown now: a condition that keeps its status keeps its time, and those of others stay.
    pub(super) shown: &'a [PodCondition],
    pub(super) now: Time,
}

struct Verdict {
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Verdict {
        Verdict { ok: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Verdict {
        Verdict { ok: false, reason: Some(reason), message }
    }
}

pub(super) fn conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    // As upstream, not before the phase says so too.
    let disrupted = facts.shutdown == Some(false);
    let stays = |kind: &str| !(OWNED.contains(&kind) || (disrupted && kind == DISRUPTION_TARGET));
    let mut conditions: Vec<PodCondition> =
        facts.shown.iter().filter(|shown| stays(&shown.type_)).cloned().collect();
    if disrupted {
        let message = Some(shutdown::TERMINATED_MESSAGE.into());
        let verdict = Verdict { reason: Some(shutdown::BY_KUBELET), message, ..Verdict::yes() };
        conditions.push(facts.condition(DISRUPTION_TARGET, verdict));
    }
    let sandbox = Verdict { ok: facts.has_sandbox, reason: None, message: None };
    conditions.push(facts.condition("PodReadyToStartContainers", sandbox));
    conditions.push(facts.condition("Initialized", initialized(facts)));
    let ready = ready(facts, &conditions);
    conditions.push(facts.condition("Ready", ready));
    conditions.push(facts.condition("ContainersReady", containers_ready(facts)));
    conditions.push(facts.condition("PodScheduled", Verdict::yes()));
    conditions
}

impl Facts<'_> {
    fn condition(&self, kind: &str, verdict: Verdict) -> PodCondition {
        let status = if verdict.ok { "True" } else { "False" };
        let shown = self.shown.iter().find(|shown| shown.type_ == kind && shown.status == status);
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            reason: verdict.reason.map(Into::into),
            message: verdict.message,
            observed_generation: self.pod.metadata.generation,
            last_transition_time: Some(
                shown
                    .and_then(|shown| shown.last_transition_time.clone())
                    .unwrap_or_else(|| self.now.clone()),
            ),
            ..PodCondition::default()
        }
    }
}

fn initialized(facts: &Facts<'_>) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pods::init_containers(facts.pod) {
        let Some(status) = facts.init.iter().find(|status| status.name == container.name) else {
            unknown.push(container.name.as_str());
            continue;
        };
        let done = if pods::is_sidecar(container) { status.started == Some(true) } else { status.ready };
        if !done {
            incomplete.push(container.name.as_str());
        }
    }
    if facts.phase == "Succeeded" && unknown.is_empty() {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::yes() };
    }
    if facts.main.iter().any(has_started) {
        return Verdict::yes();
    }
    match listed(&[("unknown", &unknown), ("incomplete", &incomplete)]) {
        Some(message) => Verdict::no("ContainersNotInitialized", Some(message)),
        None => Verdict::yes(),
    }
}

fn has_started(status: &ContainerStatus) -> bool {
    let running =
        status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    running || status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
}

fn containers_ready(facts: &Facts<'_>) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars =
        pods::init_containers(facts.pod).iter().filter(|it| pods::is_sidecar(it)).map(|it| (it, facts.init));
    let main = pods::containers(facts.pod).iter().map(|it| (it, facts.main));
    for (container, statuses) in sidecars.chain(main) {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if facts.phase == "Failed" {
        return Verdict::no("PodFailed", None);
    }
    if facts.phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", None);
    }
    match listed(&[("unknown", &unknown), ("unready", &unready)]) {
        Some(message) => Verdict::no("ContainersNotReady", Some(message)),
        None => Verdict::yes(),
    }
}

fn ready(facts: &Facts<'_>, conditions: &[PodCondition]) -> Verdict {
    let containers = containers_ready(facts);
    if !containers.ok {
        return containers;
    }
    if facts.shutdown.is_some() {
        // Nothing is sent to it any more, as to a pod that is deleted.
        return Verdict::no(shutdown::BY_KUBELET, Some(shutdown::TERMINATED_MESSAGE.into()));
    }
    let gates = facts.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let unmet: Vec<String> = gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *kind) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist."))
                }
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ReadinessGatesNotReady", Some(unmet.join(", ")))
    }
}

/// `containers with unready status: [a b]`, joined by commas; `None` when all lists are empty.
fn listed(lists: &[(&str, &[&str])]) -> Option<String> {
    let parts: Vec<String> = lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("containers with {what} status: [{}]", names.join(" ")))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
