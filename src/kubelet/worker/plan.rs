//! Decides what one pod needs next: which sandbox, which containers are started, killed, left alone.
//!
//! Upstream's `computePodActions`, with back-off among its inputs. A container belongs to the sandbox it was made in:
//! what an init container did in an earlier sandbox does not count for the present one.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    backoff::{self, Backoff, Wait},
    ports::{FailedProbe, Reading},
};
use crate::{
    pods::{self, container_hash, is_sidecar},
    runtime::{ContainerId, ContainerState, ObservedContainer, PodObservation, SandboxId},
};

/// All that the plan is made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub observed: &'a PodObservation,
    pub readings: &'a [Reading],
    pub backoff: &'a Backoff,
    /// Containers that could not be started when it was tried last, and until when it is not tried again.
    pub refused: &'a BTreeMap<String, Timestamp>,
    pub now: Timestamp,
}

/// What to do, in this order: kill the pod or single containers, make a sandbox, start containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodActions {
    /// Every container and every sandbox goes: the sandbox is broken, or nothing is left to run.
    pub kill_pod: bool,
    /// The attempt of the sandbox to make.
    pub create_sandbox: Option<u32>,
    pub kill: Vec<Kill>,
    /// In the order of the spec. An init container that fails to start ends the list.
    pub start: Vec<Start>,
    /// What would be started but for a wait of its own.
    pub held: Vec<Held>,
}

impl PodActions {
    /// Nothing to do now; `held` only waits.
    pub fn is_empty(&self) -> bool {
        !self.kill_pod && self.create_sandbox.is_none() && self.kill.is_empty() && self.start.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    pub id: ContainerId,
    pub name: String,
    pub reason: KillReason,
    /// For the event.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    Probe(FailedProbe, Option<i64>),
    SpecChanged,
    Unknown,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub name: String,
    pub init: bool,
    pub attempt: u32,
    /// Made by an earlier pass (or agent) and not started yet: start this one.
    pub adopt: Option<ContainerId>,
    /// When the instance before this one ended: counts for the back-off.
    pub after: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub name: String,
    pub by: HeldBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    CrashLoop(Wait),
    /// The last try failed, or waits for an image: until then.
    Refusal(Timestamp),
}

impl Held {
    pub fn until(&self) -> Timestamp {
        match self.by {
            HeldBy::CrashLoop(wait) => wait.until,
            HeldBy::Refusal(until) => until,
        }
    }
}

pub fn compute_pod_actions(inputs: &Inputs<'_>) -> PodActions {
    let pod = inputs.pod;
    let (changed, attempt) = sandbox_changed(pod, inputs.observed);
    if changed {
        return replace_sandbox(inputs, attempt);
    }
    let mut plan = Planner {
        inputs,
        sandbox: inputs.observed.sandboxes.first().map(|it| &it.id),
        actions: PodActions::default(),
    };
    if plan.init_containers() && !plan.actions.kill_pod {
        plan.main_containers();
    }
    if !plan.actions.kill_pod {
        plan.ephemeral_containers();
    }
    plan.actions
}

/// Whether the pod needs a new sandbox, and the attempt of it (or of the present one).
fn sandbox_changed(pod: &Pod, observed: &PodObservation) -> (bool, u32) {
    let Some(newest) = observed.sandboxes.first() else { return (true, 0) };
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let host_network = pods::is_host_network(pod);
    let broken = ready > 1
        || !newest.ready
        || newest.host_network != host_network
        || (!host_network && newest.ips.is_empty());
    if broken { (true, newest.attempt + 1) } else { (false, newest.attempt) }
}

fn replace_sandbox(inputs: &Inputs<'_>, attempt: u32) -> PodActions {
    let Inputs { pod, observed, .. } = *inputs;
    let mut actions = PodActions { kill_pod: observed.has_life(), ..PodActions::default() };
    // It ran, its sandbox is gone, and nothing of it may run twice.
    if !pod_restarts_on_failure(pod) && attempt != 0 && !observed.containers.is_empty() {
        return actions;
    }
    let to_start: Vec<&Container> = pods::containers(pod)
        .iter()
        .filter(|container| !has_done_its_work(pod, container, observed))
        .collect();
    let initialized =
        pods::containers(pod).iter().any(|container| observed.latest(&container.name).is_some());
    if to_start.is_empty() && initialized {
        return actions;
    }
    actions.create_sandbox = Some(attempt);
    let first = match pods::init_containers(pod).first() {
        Some(init) => vec![(init, true)],
        None => to_start.into_iter().map(|container| (container, false)).collect(),
    };
    for (container, init) in first {
        // What is still alive goes with its sandbox, before anything is started in the new one.
        push_start(inputs, &mut actions, container, init, None);
    }
    actions
}

struct Planner<'a> {
    inputs: &'a Inputs<'a>,
    sandbox: Option<&'a SandboxId>,
    actions: PodActions,
}

impl<'a> Planner<'a> {
    /// The newest instance of `name` in the present sandbox.
    fn current(&self, name: &str) -> Option<&'a ObservedContainer> {
        self.inputs.observed.latest(name).filter(|container| Some(&container.sandbox) == self.sandbox)
    }

    /// True once the main containers may start.
    fn init_containers(&mut self) -> bool {
        let pod = self.inputs.pod;
        let init = pods::init_containers(pod);
        if init.is_empty() {
            return true;
        }
        let initialized =
            pods::containers(pod).iter().any(|container| self.current(&container.name).is_some());
        if initialized {
            // Those that ended may have been removed since: only sidecars matter now.
            for container in init.iter().filter(|container| is_sidecar(container)) {
                self.sidecar(container);
            }
            return true;
        }
        let Some(furthest) = init.iter().rposition(|container| self.current(&container.name).is_some())
        else {
            push_start(self.inputs, &mut self.actions, &init[0], true, None);
            return false;
        };
        for container in init[..furthest].iter().filter(|container| is_sidecar(container)) {
            self.sidecar(container);
        }
        let container = &init[furthest];
        let done =
            if is_sidecar(container) { self.sidecar(container) } else { self.init_container(container) };
        match init.get(furthest + 1) {
            _ if !done => false,
            None => true,
            Some(next) => {
                push_start(self.inputs, &mut self.actions, next, true, None);
                false
            }
        }
    }

    /// An init container that runs to its end. True when it has succeeded.
    fn init_container(&mut self, container: &Container) -> bool {
        let Some(current) = self.current(&container.name) else { return false };
        match &current.state {
            ContainerState::Created => {
                push_start(self.inputs, &mut self.actions, container, true, Some(current))
            }
            ContainerState::Running { .. } => {}
            ContainerState::Exited(exit) if exit.code == 0 => return true,
            ContainerState::Exited(exit) if should_restart(self.inputs.pod, container, Some(exit.code)) => {
                push_start(self.inputs, &mut self.actions, container, true, None);
            }
            ContainerState::Unknown if pod_restarts_on_failure(self.inputs.pod) => {
                self.kill_unknown(current, "Init container");
                push_start(self.inputs, &mut self.actions, container, true, None);
            }
            ContainerState::Exited(_) | ContainerState::Unknown => {
                self.actions = PodActions { kill_pod: true, ..PodActions::default() };
            }
        }
        false
    }

    /// An init container that stays. True when it has started, so that the next may.
    fn sidecar(&mut self, container: &Container) -> bool {
        let inputs = self.inputs;
        let Some(current) = self.current(&container.name) else {
            push_start(inputs, &mut self.actions, container, true, None);
            return false;
        };
        match &current.state {
            ContainerState::Created => push_start(inputs, &mut self.actions, container, true, Some(current)),
            ContainerState::Exited(_) => push_start(inputs, &mut self.actions, container, true, None),
            ContainerState::Unknown => {
                self.kill_unknown(current, "Init container");
                push_start(inputs, &mut self.actions, container, true, None);
            }
            ContainerState::Running { .. } => {
                if let Some((reason, why)) = self.unfit(container, current) {
                    let message = format!("Init container {} {why}", container.name);
                    self.kill(current, reason, message);
                    push_start(inputs, &mut self.actions, container, true, None);
                    return false;
                }
                return container.startup_probe.is_none()
                    || reading(inputs.readings, current)
                        .is_some_and(|reading| reading.started == Some(true));
            }
        }
        false
    }

    fn main_containers(&mut self) {
        let inputs = self.inputs;
        let mut kept = false;
        for container in pods::containers(inputs.pod) {
            let latest = inputs.observed.latest(&container.name);
            match latest.map(|latest| (latest, &latest.state)) {
                Some((current, ContainerState::Running { .. })) => {
                    let Some((reason, why)) = self.unfit(container, current) else {
                        kept = true;
                        continue;
                    };
                    let restart =
                        reason == KillReason::SpecChanged || restarts_when_killed(inputs.pod, container);
                    let again = if restart { ", will be restarted" } else { "" };
                    self.kill(current, reason, format!("Container {} {why}{again}", container.name));
                    if restart {
                        push_start(inputs, &mut self.actions, container, false, None);
                    }
                }
                Some((current, ContainerState::Created)) => {
                    push_start(inputs, &mut self.actions, container, false, Some(current));
                }
                Some((current, ContainerState::Unknown)) => {
                    // It may well run: never two of them.
                    self.kill_unknown(current, "Container");
                    push_start(inputs, &mut self.actions, container, false, None);
                }
                Some((_, ContainerState::Exited(exit)))
                    if !should_restart(inputs.pod, container, Some(exit.code)) => {}
                Some((_, ContainerState::Exited(_))) | None => {
                    push_start(inputs, &mut self.actions, container, false, None);
                }
            }
        }
        if !kept && self.actions.start.is_empty() && self.actions.held.is_empty() {
            // Sidecars do not keep a pod alive.
            let kill_pod = inputs.observed.has_life();
            self.actions = PodActions { kill_pod, ..PodActions::default() };
        }
    }

    /// Each is started once and never again, also while the others get no further: that may be what somebody wants to
    /// look into. They keep no pod alive.
    fn ephemeral_containers(&mut self) {
        let mut added = PodActions::default();
        for container in pods::ephemeral_containers(self.inputs.pod) {
            let adopt = match self.inputs.observed.latest(&container.name) {
                Some(latest) if latest.state != ContainerState::Created => continue,
                Some(made) => Some(made).filter(|made| Some(&made.sandbox) == self.sandbox),
                None if self.was_made(&container.name) => continue,
                None => None,
            };
            push_start(self.inputs, &mut added, &container, false, adopt);
        }
        added.start.append(&mut self.actions.start);
        self.actions.start = added.start;
        self.actions.held.append(&mut added.held);
    }

    /// The API remembers what the runtime may have removed.
    fn was_made(&self, name: &str) -> bool {
        let shown = self.inputs.pod.status.as_ref().and_then(|it| it.ephemeral_container_statuses.as_deref());
        shown.unwrap_or_default().iter().any(|status| status.name == name && pods::was_made(status))
    }

    /// Why a running container must go.
    fn unfit(
        &self,
        container: &Container,
        current: &ObservedContainer,
    ) -> Option<(KillReason, &'static str)> {
        if current.hash.is_some_and(|hash| hash != container_hash(container)) {
            return Some((KillReason::SpecChanged, "definition changed"));
        }
        let failed = reading(self.inputs.readings, current)?.failed.as_ref()?;
        let why = match failed.kind {
            FailedProbe::Liveness => "failed liveness probe",
            FailedProbe::Startup => "failed startup probe",
        };
        Some((KillReason::Probe(failed.kind, failed.grace_seconds), why))
    }

    fn kill(&mut self, current: &ObservedContainer, reason: KillReason, message: String) {
        let (id, name) = (current.id.clone(), current.name.clone());
        self.actions.kill.push(Kill { id, name, reason, message });
    }

    fn kill_unknown(&mut self, current: &ObservedContainer, what: &str) {
        let message = format!("{what} is in \"unknown\" state, try killing it before restart");
        self.kill(current, KillReason::Unknown, message);
    }
}

/// Plans a start, or holds it back. `adopt` is an instance that is made but was never started.
fn push_start(
    inputs: &Inputs<'_>,
    actions: &mut PodActions,
    container: &Container,
    init: bool,
    adopt: Option<&ObservedContainer>,
) {
    let name = &container.name;
    let after =
        inputs.observed.containers.iter().filter(|it| it.name == *name).find_map(|it| match &it.state {
            ContainerState::Exited(exit) => Some(exit.finished_at),
            _ => None,
        });
    let hash = container_hash(container);
    let key = backoff::of_container(name, hash);
    let crash_loop = after.and_then(|ended| inputs.backoff.check(&key, ended, inputs.now));
    let refused = inputs.refused.get(name).filter(|until| **until > inputs.now);
    let by = crash_loop.map(HeldBy::CrashLoop).or(refused.copied().map(HeldBy::Refusal));
    if let Some(by) = by {
        actions.held.push(Held { name: name.clone(), by });
        return;
    }
    let adopt = adopt.filter(|made| made.hash == Some(hash));
    let attempt = match adopt {
        Some(made) => made.attempt,
        None => next_attempt(inputs, name),
    };
    let adopt = adopt.map(|made| made.id.clone());
    actions.start.push(Start { name: name.clone(), init, attempt, adopt, after });
}

/// One more than the runtime or the API remembers.
fn next_attempt(inputs: &Inputs<'_>, name: &str) -> u32 {
    let observed = inputs.observed.latest(name).map(|latest| latest.attempt + 1);
    let status = inputs.pod.status.as_ref();
    let shown = status
        .into_iter()
        .flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        })
        .find(|shown| shown.name == name && shown.container_id.as_deref().is_some_and(|id| !id.is_empty()))
        .and_then(|shown| u32::try_from(shown.restart_count).ok()?.checked_add(1));
    observed.max(shown).unwrap_or(0)
}

fn reading<'a>(readings: &'a [Reading], current: &ObservedContainer) -> Option<&'a Reading> {
    readings.iter().find(|reading| reading.id == current.id)
}

/// Its restart policy says that a container that ended with success stays so.
fn has_done_its_work(pod: &Pod, container: &Container, observed: &PodObservation) -> bool {
    let succeeded = observed
        .latest(&container.name)
        .is_some_and(|latest| matches!(&latest.state, ContainerState::Exited(exit) if exit.code == 0));
    succeeded && policy(pod, container) == "OnFailure"
}

/// Is a container that ended (or never ran: `None`) to be started?
pub fn should_restart(pod: &Pod, container: &Container, exit_code: Option<i32>) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(code) = exit_code else { return true };
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|value| *value == code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match policy(pod, container) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

fn restarts_when_killed(pod: &Pod, container: &Container) -> bool {
    policy(pod, container) != "Never"
}

fn pod_restarts_on_failure(pod: &Pod) -> bool {
    pods::restart_policy(pod) != "Never"
}

fn policy<'a>(pod: &'a Pod, container: &'a Container) -> &'a str {
    container.restart_policy.as_deref().unwrap_or_else(|| pods::restart_policy(pod))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
