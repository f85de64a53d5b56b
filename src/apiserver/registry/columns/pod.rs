//! Pods: the one word that sums up a pod's state is made of its phase, its conditions and its containers.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use serde_json::Value;

use super::age::since;
use super::{NONE, age, containers, labels, list, name, number, or_none, string, text, wide};
use crate::registry::Column;

pub(in crate::registry) fn pods() -> Vec<Column> {
    vec![
        name(),
        text("Ready", "The aggregate readiness state of this pod for accepting traffic.", |pod, _| {
            let summary = summary(pod);
            format!("{}/{}", summary.ready, summary.total).into()
        }),
        text("Status", "The aggregate status of the containers in this pod.", |pod, _| {
            summary(pod).reason.into()
        }),
        text(
            "Restarts",
            "How often the containers of this pod have been restarted, and when last.",
            restarts,
        ),
        age(),
        wide(text("IP", "The first address of the pod.", |pod, _| {
            or_none(string(pod, "/status/podIPs/0/ip"))
        })),
        wide(text("Node", "The node that the pod is scheduled to.", |pod, _| {
            or_none(string(pod, "/spec/nodeName"))
        })),
        wide(text("Nominated Node", "The node on which room is being made for the pod.", |pod, _| {
            or_none(string(pod, "/status/nominatedNodeName"))
        })),
        wide(text("Readiness Gates", "How many of the pod's readiness gates are met.", gates)),
    ]
}

pub(in crate::registry) fn pod_templates() -> Vec<Column> {
    vec![
        name(),
        text("Containers", "Names of each container in the template.", |object, _| {
            containers(object, "/template/spec/containers", "name")
        }),
        text("Images", "Images referenced by each container in the template.", |object, _| {
            containers(object, "/template/spec/containers", "image")
        }),
        text("Pod Labels", "The labels for the pod template.", |object, _| {
            labels(object, "/template/metadata/labels")
        }),
    ]
}

#[derive(Debug, Default)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

/// How often containers were restarted, and when last (RFC 3339 texts compare as times).
#[derive(Clone, Debug, Default)]
struct Restarts {
    count: i64,
    last: Option<String>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += number(container, "/restartCount");
        let finished = string(container, "/lastState/terminated/finishedAt");
        if !finished.is_empty() && self.last.as_deref().is_none_or(|last| last < finished) {
            self.last = Some(finished.to_owned());
        }
    }
}

fn restarts(pod: &Value, now: Timestamp) -> Value {
    let restarts = summary(pod).restarts;
    match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, since(&last.into(), now)).into()
        }
        _ => restarts.count.to_string().into(),
    }
}

fn is_sidecar(pod: &Value, container: &str) -> bool {
    let mut inits = list(pod, "/spec/initContainers").iter();
    inits.any(|init| init["name"] == container && init["restartPolicy"] == "Always")
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    list(pod, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn summary(pod: &Value) -> Summary {
    let phase = string(pod, "/status/phase");
    let told = string(pod, "/status/reason");
    let mut summary = Summary {
        reason: if told.is_empty() { phase } else { told }.to_owned(),
        total: list(pod, "/spec/containers").len(),
        ..Summary::default()
    };
    let gated = list(pod, "/status/conditions")
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
    if gated {
        "SchedulingGated".clone_into(&mut summary.reason);
    }
    summary.total +=
        list(pod, "/spec/initContainers").iter().filter(|init| init["restartPolicy"] == "Always").count();

    let initializing = add_init_containers(pod, &mut summary);
    if !initializing || has_condition(pod, "Initialized") {
        add_containers(pod, &mut summary);
    }

    let leaving = pod["metadata"]["deletionTimestamp"].is_string();
    if leaving && told == "NodeLost" {
        "Unknown".clone_into(&mut summary.reason);
    } else if leaving && !matches!(phase, "Failed" | "Succeeded") {
        "Terminating".clone_into(&mut summary.reason);
    }
    summary
}

/// Whether the pod is still at its init containers. Leaves in `restarts` what counts for that case; the sidecars'
/// share is counted again in [`add_containers`].
fn add_init_containers(pod: &Value, summary: &mut Summary) -> bool {
    let total = list(pod, "/spec/initContainers").len();
    for (i, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        summary.restarts.add(container);
        let terminated = container.pointer("/state/terminated").filter(|state| !state.is_null());
        let sidecar = is_sidecar(pod, string(container, "/name"));
        if terminated.is_some_and(|state| number(state, "/exitCode") == 0) {
            continue;
        }
        if sidecar && container["started"] == true {
            if container["ready"] == true {
                summary.ready += 1;
            }
            continue;
        }
        let waiting = string(container, "/state/waiting/reason");
        summary.reason = match terminated {
            Some(state) => format!("Init:{}", ended(state)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{total}"),
        };
        return true;
    }
    false
}

/// How a container ended, in a word.
fn ended(state: &Value) -> String {
    let (reason, signal) = (string(state, "/reason"), number(state, "/signal"));
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", number(state, "/exitCode"))
    }
}

fn add_containers(pod: &Value, summary: &mut Summary) {
    let mut restarts = Restarts::default();
    for container in list(pod, "/status/initContainerStatuses") {
        if is_sidecar(pod, string(container, "/name")) {
            restarts.add(container);
        }
    }
    let mut running = false;
    let mut error = String::new();
    for container in list(pod, "/status/containerStatuses").iter().rev() {
        restarts.add(container);
        let waiting = string(container, "/state/waiting/reason");
        let terminated = container.pointer("/state/terminated").filter(|state| !state.is_null());
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if let Some(state) = terminated {
            summary.reason = ended(state);
            if number(state, "/exitCode") != 0 {
                error.clone_from(&summary.reason);
            }
        } else if container["ready"] == true && container.pointer("/state/running").is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    summary.restarts = restarts;
    // A pod of which something still runs is not completed.
    if summary.reason == "Completed" {
        if running && has_condition(pod, "Ready") {
            "Running".clone_into(&mut summary.reason);
        } else if !error.is_empty() {
            summary.reason = error;
        } else if running {
            "NotReady".clone_into(&mut summary.reason);
        }
    }
}

fn gates(pod: &Value, _now: Timestamp) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.into();
    }
    let met = gates.iter().filter(|gate| has_condition(pod, string(gate, "/conditionType"))).count();
    format!("{met}/{}", gates.len()).into()
}
