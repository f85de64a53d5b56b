//! The statuses of a pod's containers.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState as ShownState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::generate::Inputs;
use crate::{
    pods,
    runtime::{ContainerState, Exit, ObservedContainer},
    worker::{plan::should_restart, ports::Reading},
};

const CONTAINER_CREATING: &str = "ContainerCreating";
const POD_INITIALIZING: &str = "PodInitializing";

/// Of init containers, in the order of the spec.
pub(super) fn init_statuses(inputs: &Inputs<'_>, shown: &[ContainerStatus]) -> Vec<ContainerStatus> {
    let make = |container: &Container| {
        let mut status = status(inputs, container, shown);
        if !pods::is_sidecar(container) {
            let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            status.ready = ended.is_some_and(|ended| ended.exit_code == 0);
        }
        status
    };
    pods::init_containers(inputs.pod).iter().map(make).collect()
}

/// Of main containers, by name.
pub(super) fn main_statuses(inputs: &Inputs<'_>, shown: &[ContainerStatus]) -> Vec<ContainerStatus> {
    let mut statuses: Vec<ContainerStatus> =
        pods::containers(inputs.pod).iter().map(|container| status(inputs, container, shown)).collect();
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

/// Of ephemeral containers, in the order of the spec. Nothing says of them that they are ready.
pub(super) fn ephemeral_statuses(inputs: &Inputs<'_>, shown: &[ContainerStatus]) -> Vec<ContainerStatus> {
    pods::ephemeral_containers(inputs.pod)
        .map(|container| {
            let mut status =
                ContainerStatus { ready: false, started: None, ..status(inputs, &container, shown) };
            let gone = shown.iter().any(|shown| shown.name == container.name && pods::was_made(shown))
                && inputs.observed.latest(&container.name).is_none();
            if let Some(lost) = status.last_state.take_if(|_| gone) {
                // It is not started again.
                (status.state, status.restart_count) = (Some(lost), 0);
            }
            status
        })
        .collect()
}

fn status(inputs: &Inputs<'_>, container: &Container, shown: &[ContainerStatus]) -> ContainerStatus {
    let shown = shown.iter().find(|status| status.name == container.name);
    let mut instances = inputs.observed.containers.iter().filter(|it| it.name == container.name);
    let mut status = match instances.next() {
        Some(latest) => observed(inputs, container, latest, shown),
        None => unseen(inputs, container, shown),
    };
    let before = instances.find_map(|it| match &it.state {
        ContainerState::Exited(exit) => Some(terminated(inputs, it, exit, shown)),
        _ => None,
    });
    if let Some(before) = before {
        status.last_state = Some(ShownState { terminated: Some(before), ..ShownState::default() });
    } else if status.last_state.is_none() {
        status.last_state = shown.and_then(|shown| shown.last_state.clone());
    }
    explain_waiting(inputs, container, shown, &mut status);
    status.volume_mounts = volume_mounts(container);
    status.resources.clone_from(&container.resources);
    status.allocated_resources =
        container.resources.as_ref().and_then(|resources| resources.requests.clone());
    status
}

fn observed(
    inputs: &Inputs<'_>,
    container: &Container,
    latest: &ObservedContainer,
    shown: Option<&ContainerStatus>,
) -> ContainerStatus {
    let id = shown_id(inputs, latest);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        restart_count: restarts(latest),
        image: latest.image.clone(),
        image_id: latest.image_id.clone(),
        container_id: Some(id.clone()),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let state = match &latest.state {
        ContainerState::Running { started_at } => {
            let reading = inputs.readings.iter().find(|reading| reading.id == latest.id);
            let same = shown.filter(|shown| is_of(shown, Some(&id)));
            status.started = Some(started(container, reading, same));
            status.ready = status.started == Some(true) && ready(container, reading, same);
            let running = ContainerStateRunning { started_at: Some(Time(*started_at)) };
            ShownState { running: Some(running), ..ShownState::default() }
        }
        ContainerState::Exited(exit) => {
            let terminated = terminated(inputs, latest, exit, shown);
            ShownState { terminated: Some(terminated), ..ShownState::default() }
        }
        ContainerState::Created | ContainerState::Unknown => {
            ShownState { waiting: Some(not_yet(inputs)), ..ShownState::default() }
        }
    };
    status.state = Some(state);
    status
}

/// One that was made and has not started is no restart yet: whoever sees the count grow looks for when it started.
fn restarts(latest: &ObservedContainer) -> i32 {
    let started = match latest.state {
        ContainerState::Created => latest.attempt.saturating_sub(1),
        ContainerState::Running { .. } | ContainerState::Exited(_) | ContainerState::Unknown => {
            latest.attempt
        }
    };
    i32::try_from(started).unwrap_or(i32::MAX)
}

/// Of a container that has not started.
fn not_yet(inputs: &Inputs<'_>) -> ContainerStateWaiting {
    let reason =
        if pods::init_containers(inputs.pod).is_empty() { CONTAINER_CREATING } else { POD_INITIALIZING };
    ContainerStateWaiting { reason: Some(reason.into()), message: None }
}

/// Nothing of it is in the runtime: it never ran, or it was removed, or it was lost.
fn unseen(inputs: &Inputs<'_>, container: &Container, shown: Option<&ContainerStatus>) -> ContainerStatus {
    let state_of = |shown: &ContainerStatus| shown.state.clone().unwrap_or_default();
    if let Some(shown) = shown.filter(|shown| state_of(shown).terminated.is_some()) {
        return shown.clone();
    }
    let waiting = not_yet(inputs);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(ShownState { waiting: Some(waiting), ..ShownState::default() }),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let Some(shown) = shown else { return status };
    status.restart_count = shown.restart_count;
    status.last_state.clone_from(&shown.last_state);
    if state_of(shown).running.is_some() {
        // It ran, and nobody can say how it ended.
        let lost = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running".into(),
            ),
            ..ContainerStateTerminated::default()
        };
        status.last_state = Some(ShownState { terminated: Some(lost), ..ShownState::default() });
        if inputs.pod.metadata.deletion_timestamp.is_none() {
            status.restart_count += 1;
        }
    }
    status
}

/// Why the last try failed. An agent that has just started knows no reasons of its own: what was shown of the same
/// instance stays until something else is known, since a pull or a crash loop that goes on is not a creation.
fn reason_to_wait(
    inputs: &Inputs<'_>,
    container: &Container,
    shown: Option<&ContainerStatus>,
    status: &ContainerStatus,
) -> Option<ContainerStateWaiting> {
    if let Some(why) = inputs.waiting.get(&container.name) {
        let message = (!why.message.is_empty()).then(|| why.message.clone());
        return Some(ContainerStateWaiting { reason: Some(why.reason.clone()), message });
    }
    let shown = shown.filter(|shown| is_of(shown, status.container_id.as_deref()))?;
    let waiting = shown.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !reason.is_empty())?;
    (![CONTAINER_CREATING, POD_INITIALIZING].contains(&reason)).then(|| waiting.clone())
}

/// A container that should run and does not: the reason why the last try failed, with what ended it before.
fn explain_waiting(
    inputs: &Inputs<'_>,
    container: &Container,
    shown: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    let Some(waiting) = reason_to_wait(inputs, container, shown, status) else { return };
    let state = status.state.take().unwrap_or_default();
    let exit = state.terminated.as_ref().map(|terminated| terminated.exit_code);
    let sidecar = pods::is_sidecar(container);
    if state.running.is_some() || !(sidecar || should_restart(inputs.pod, container, exit)) {
        status.state = Some(state);
        return;
    }
    if state.terminated.is_some() {
        status.last_state = Some(ShownState { terminated: state.terminated, ..ShownState::default() });
    }
    status.state = Some(ShownState { waiting: Some(waiting), ..ShownState::default() });
}

fn started(container: &Container, reading: Option<&Reading>, same: Option<&ContainerStatus>) -> bool {
    if container.startup_probe.is_none() {
        return true;
    }
    let measured = reading.and_then(|reading| reading.started);
    measured.unwrap_or_else(|| same.is_some_and(|shown| shown.started == Some(true)))
}

fn ready(container: &Container, reading: Option<&Reading>, same: Option<&ContainerStatus>) -> bool {
    if container.readiness_probe.is_none() {
        return true;
    }
    // Not measured yet, which is so after a restart of the agent: what is shown stays.
    reading.and_then(|reading| reading.ready).unwrap_or_else(|| same.is_some_and(|shown| shown.ready))
}

fn terminated(
    inputs: &Inputs<'_>,
    container: &ObservedContainer,
    exit: &Exit,
    shown: Option<&ContainerStatus>,
) -> ContainerStateTerminated {
    let id = shown_id(inputs, container);
    let message = Some(exit.message.clone()).filter(|message| !message.is_empty());
    ContainerStateTerminated {
        exit_code: exit.code,
        reason: Some(exit.reason.clone()).filter(|reason| !reason.is_empty()),
        // Last words that were shown once stay, also when their file went with the pod's directory.
        message: message.or_else(|| shown.and_then(|shown| shown_end(shown, &id)?.message.clone())),
        started_at: exit.started_at.map(Time),
        finished_at: Some(Time(exit.finished_at)),
        container_id: Some(id),
        signal: None,
    }
}

/// The end of this instance, as it was shown.
fn shown_end<'a>(shown: &'a ContainerStatus, id: &str) -> Option<&'a ContainerStateTerminated> {
    let states = [shown.state.as_ref(), shown.last_state.as_ref()];
    let mut ends = states.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
    ends.find(|end| same_id(end.container_id.as_deref(), Some(id)))
}

/// Whether it was shown of this instance.
fn is_of(shown: &ContainerStatus, id: Option<&str>) -> bool {
    same_id(shown.container_id.as_deref(), id)
}

/// The runtime's name is left out: an agent that has just started has to learn it.
fn same_id(one: Option<&str>, other: Option<&str>) -> bool {
    let bare = |id: &str| id.rsplit("://").next().unwrap_or_default().to_owned();
    one.map(bare) == other.map(bare)
}

/// `containerd://…`
fn shown_id(inputs: &Inputs<'_>, container: &ObservedContainer) -> String {
    format!("{}://{}", inputs.runtime_name, container.id)
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let shown = mounts.iter().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled".into()),
        ..VolumeMountStatus::default()
    });
    Some(shown.collect())
}
