//! The status of one pod, as a function of all that is known of it.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    Waiting,
    conditions::{self, Facts},
    containers,
    phase::{self, is_terminal},
};
use crate::{pods, runtime::PodObservation, shutdown, worker::ports::Reading};

#[derive(Debug)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    /// The status made by the pass before this one; the API's counts where there is none.
    pub previous: Option<&'a PodStatus>,
    pub observed: &'a PodObservation,
    pub readings: &'a [Reading],
    /// Why containers are not started, by name.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// The pod was refused, or ran into a limit of the node's: Failed, with this reason.
    pub failed: Option<&'a Waiting>,
    /// Nothing will be started any more.
    pub ending: bool,
    /// The pod ends since the machine goes down: Failed, however its containers take it.
    pub shutdown: bool,
    pub host_ips: &'a [IpAddr],
    /// `containerd`, for ids.
    pub runtime_name: &'a str,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    pub status: PodStatus,
    /// The pod is done, whatever of it still runs: `status` may hold the phase back until nothing does.
    pub completed: bool,
    /// When the status changes by itself: the active deadline.
    pub next: Option<Timestamp>,
}

pub fn generate(inputs: &Inputs<'_>) -> Generated {
    let pod = inputs.pod;
    let empty = PodStatus::default();
    let shown = inputs.previous.or(pod.status.as_ref()).unwrap_or(&empty);
    let mut init =
        containers::init_statuses(inputs, shown.init_container_statuses.as_deref().unwrap_or_default());
    let mut main = containers::main_statuses(inputs, shown.container_statuses.as_deref().unwrap_or_default());
    let mut ephemeral = containers::ephemeral_statuses(
        inputs,
        shown.ephemeral_container_statuses.as_deref().unwrap_or_default(),
    );
    if inputs.failed.is_some() && inputs.observed.containers.is_empty() {
        // A pod that was refused has no containers, not even ones that wait.
        init.clear();
        main.clear();
        ephemeral.clear();
    }
    let start_time = shown.start_time.clone().unwrap_or(Time(inputs.now));
    let deadline = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.active_deadline_seconds)
        .and_then(|seconds| start_time.0.checked_add(SignedDuration::from_secs(seconds)).ok());
    let all: Vec<ContainerStatus> = init.iter().chain(&main).cloned().collect();
    let verdict = judge(inputs, shown, &all, deadline);
    let conditions = conditions::conditions(&Facts {
        pod,
        phase: &verdict.phase,
        init: &init,
        main: &main,
        has_sandbox: has_sandbox(inputs),
        shutdown: inputs.shutdown.then_some(verdict.held_back),
        shown: &merged_conditions(pod, shown),
        now: Time(inputs.now),
    });
    let ips = pod_ips(inputs, shown);
    let status = PodStatus {
        phase: Some(verdict.phase),
        reason: verdict.reason,
        message: verdict.message,
        conditions: Some(conditions),
        observed_generation: pod.metadata.generation,
        host_ip: inputs.host_ips.first().map(ToString::to_string),
        host_ips: some(inputs.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: some(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(api::pods::qos_class(pod).as_str().to_string()),
        start_time: Some(start_time),
        init_container_statuses: some(init),
        container_statuses: some(main),
        ephemeral_container_statuses: some(ephemeral),
        ..PodStatus::default()
    };
    Generated { status, completed: verdict.completed, next: deadline.filter(|_| !verdict.completed) }
}

struct Verdict {
    phase: String,
    reason: Option<String>,
    message: Option<String>,
    completed: bool,
    /// It is completed, and not shown as that while something of it runs.
    held_back: bool,
}

fn judge(
    inputs: &Inputs<'_>,
    shown: &PodStatus,
    containers: &[ContainerStatus],
    deadline: Option<Timestamp>,
) -> Verdict {
    let pod = inputs.pod;
    let initialized = pods::containers(pod).iter().any(|it| inputs.observed.latest(&it.name).is_some());
    let mut phase = phase::phase(pod, containers, inputs.ending, initialized);
    let (mut reason, mut message) = (None, None);
    if let Some(failed) = inputs.failed {
        phase = "Failed";
        (reason, message) = (Some(failed.reason.clone()), Some(failed.message.clone()));
    } else if deadline.is_some_and(|deadline| deadline <= inputs.now) {
        // However its containers end from here on.
        phase = "Failed";
        reason = Some("DeadlineExceeded".into());
        message = Some("Pod was active on the node longer than the specified deadline".into());
    }
    // A terminal phase is never left.
    let of_api = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let last = [shown.phase.as_deref(), of_api].into_iter().flatten().find(|it| is_terminal(Some(it)));
    if inputs.shutdown && last.is_none() && reason.is_none() {
        // Also where they exit with 0: that they do at this signal says nothing of their work.
        phase = "Failed";
        (reason, message) = (Some(shutdown::TERMINATED.into()), Some(shutdown::TERMINATED_MESSAGE.into()));
    }
    if inputs.ending && !is_terminal(Some(phase)) && !pods::is_static(pod) {
        // It was ended before its containers could say how they fared.
        phase = "Failed";
    }
    phase = last.unwrap_or(phase);
    let completed = is_terminal(Some(phase));
    // Whoever sees a terminal phase may reuse what the pod held: not before its last container is gone.
    let alive = inputs.observed.running().next().is_some();
    let ends = inputs.shutdown && !inputs.ending;
    let held_back = completed && (alive || ends) && !is_terminal(shown.phase.as_deref());
    if held_back {
        phase = shown.phase.as_deref().unwrap_or("Pending");
        (reason, message) = (None, None);
    }
    if shown.phase.as_deref() == Some(phase) {
        reason = reason.or_else(|| shown.reason.clone());
        message = message.or_else(|| shown.message.clone());
    }
    Verdict { phase: phase.to_string(), reason, message, completed, held_back }
}

fn has_sandbox(inputs: &Inputs<'_>) -> bool {
    let host_network = pods::is_host_network(inputs.pod);
    let mut ready = inputs.observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
    let newest_is_ready = inputs.observed.sandboxes.first().is_some_and(|newest| newest.ready);
    newest_is_ready
        && ready.next().is_some_and(|sandbox| host_network || !sandbox.ips.is_empty())
        && ready.next().is_none()
}

/// Conditions of others come from the API, ours from the pass before.
fn merged_conditions(pod: &Pod, shown: &PodStatus) -> Vec<PodCondition> {
    let of_api = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ours = |it: &PodCondition| conditions::is_ours(&it.type_, it.reason.as_deref());
    let others = of_api.filter(|condition| !is_ours(condition));
    let ours = shown.conditions.iter().flatten().filter(|condition| is_ours(condition));
    others.chain(ours).cloned().collect()
}

/// Those of the sandbox; the node's on its own network; the last known once the pod has ended.
fn pod_ips(inputs: &Inputs<'_>, shown: &PodStatus) -> Vec<String> {
    if pods::is_host_network(inputs.pod) {
        return inputs.host_ips.iter().map(ToString::to_string).collect();
    }
    let ready = inputs.observed.sandboxes.first().filter(|sandbox| sandbox.ready);
    match ready {
        Some(sandbox) => sandbox.ips.iter().map(ToString::to_string).collect(),
        None => shown.pod_ips.iter().flatten().map(|shown| shown.ip.clone()).collect(),
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
