//! The phase of a pod: a fold over the states of its containers.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::{pods, worker::plan::should_restart};

pub fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// A container's state, reduced to what the phase asks for.
enum Seen {
    Running {
        started: bool,
    },
    /// Ended now, or waiting to start again: the exit code of its last run.
    Ended(i32),
    Waiting,
    Unknown,
}

#[derive(Default)]
struct Counts {
    init_pending: u32,
    sidecars_pending: u32,
    running: u32,
    waiting: u32,
    ended: u32,
    ended_for_good: u32,
    succeeded: u32,
    unknown: u32,
}

/// `statuses` are those of init and main containers. `ended`: the containers will not be started again, whatever the
/// restart policy says. `initialized`: a main container has run.
pub(super) fn phase(pod: &Pod, statuses: &[ContainerStatus], ended: bool, initialized: bool) -> &'static str {
    let mut counts = Counts::default();
    for container in pods::init_containers(pod) {
        let seen = seen(statuses, container);
        if pods::is_sidecar(container) {
            count_sidecar(&mut counts, &seen);
            continue;
        }
        match seen {
            Seen::Ended(0) => {}
            Seen::Ended(code) if !restartable(pod, container, code) => return "Failed",
            Seen::Ended(_) => {}
            Seen::Running { .. } | Seen::Waiting | Seen::Unknown => counts.init_pending += 1,
        }
    }
    for container in pods::containers(pod) {
        match seen(statuses, container) {
            Seen::Running { .. } => counts.running += 1,
            Seen::Waiting => counts.waiting += 1,
            Seen::Unknown => counts.unknown += 1,
            Seen::Ended(code) => {
                counts.ended += 1;
                counts.succeeded += u32::from(code == 0);
                counts.ended_for_good += u32::from(!restartable(pod, container, code));
            }
        }
    }
    fold(&counts, ended && !pods::is_static(pod), initialized)
}

fn fold(counts: &Counts, ended: bool, initialized: bool) -> &'static str {
    let pending =
        counts.init_pending > 0 || (counts.sidecars_pending > 0 && !initialized) || counts.waiting > 0;
    if pending {
        return "Pending";
    }
    if counts.unknown > 0 {
        return "Pending";
    }
    if counts.running > 0 {
        return "Running";
    }
    if counts.ended == 0 {
        return "Pending";
    }
    let result = if counts.ended == counts.succeeded { "Succeeded" } else { "Failed" };
    if ended || counts.ended == counts.ended_for_good { result } else { "Running" }
}

fn count_sidecar(counts: &mut Counts, seen: &Seen) {
    match seen {
        Seen::Running { started } => {
            counts.sidecars_pending += u32::from(!started);
            counts.running += 1;
        }
        Seen::Ended(_) => {}
        Seen::Waiting => {
            counts.sidecars_pending += 1;
            counts.waiting += 1;
        }
        Seen::Unknown => {
            counts.sidecars_pending += 1;
            counts.unknown += 1;
        }
    }
}

fn seen(statuses: &[ContainerStatus], container: &Container) -> Seen {
    let Some(status) = statuses.iter().find(|status| status.name == container.name) else {
        return Seen::Unknown;
    };
    let Some(state) = &status.state else { return Seen::Unknown };
    if state.running.is_some() {
        return Seen::Running { started: status.started == Some(true) };
    }
    if let Some(terminated) = &state.terminated {
        return Seen::Ended(terminated.exit_code);
    }
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    match (last, &state.waiting) {
        (Some(last), _) => Seen::Ended(last.exit_code),
        (None, Some(_)) => Seen::Waiting,
        (None, None) => Seen::Unknown,
    }
}

/// By policy alone: that the pod is being deleted does not make its containers' end final.
fn restartable(pod: &Pod, container: &Container, code: i32) -> bool {
    if pod.metadata.deletion_timestamp.is_none() {
        return should_restart(pod, container, Some(code));
    }
    let mut alive = pod.clone();
    alive.metadata.deletion_timestamp = None;
    should_restart(&alive, container, Some(code))
}
