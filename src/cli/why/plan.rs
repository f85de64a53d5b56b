//! Tells a pod's story from its conditions, container states and events.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Node, Pod};

use crate::{
    events::{self, newest_warning},
    words::age,
};

/// A pod with what is known around it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub pod: Pod,
    /// The node that it is bound to, if that exists.
    pub node: Option<Node>,
    pub events: Vec<Event>,
}

/// What to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// The answer in one sentence.
    pub headline: String,
    /// How things stand, one sentence for each part that matters.
    pub now: Vec<String>,
    /// Age and words of each event, oldest first.
    pub past: Vec<(String, String)>,
    /// What a person can do about it, where that is known.
    pub mend: Option<String>,
}

#[must_use]
pub fn tell(observed: &Observed, now: Timestamp) -> Story {
    let pod = &observed.pod;
    Story {
        headline: headline(observed, now),
        now: conditions(pod, now).into_iter().chain(containers(pod, now)).collect(),
        past: past(&observed.events, now),
        mend: mend(observed),
    }
}

fn full_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or("default"),
        metadata.name.as_deref().unwrap_or_default()
    )
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn statuses(pod: &Pod) -> Vec<&ContainerStatus> {
    let Some(status) = &pod.status else { return Vec::new() };
    status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .collect()
}

/// The first container that waits for more than its ordinary start.
fn stuck(pod: &Pod) -> Option<(&ContainerStatus, &str, Option<&str>)> {
    statuses(pod).into_iter().find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        (!matches!(reason, "ContainerCreating" | "PodInitializing")).then_some((
            status,
            reason,
            waiting.message.as_deref(),
        ))
    })
}

fn node_is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn headline(observed: &Observed, now: Timestamp) -> String {
    let pod = &observed.pod;
    let name = full_name(pod);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        let waits = pod.metadata.finalizers.iter().flatten().next();
        return match waits {
            Some(finalizer) => {
                format!("Pod {name} is being deleted and waits for the finalizer {finalizer}.")
            }
            None => format!("Pod {name} is being deleted; its containers have until {} to end.", deleted.0),
        };
    }
    if let Some(gone) = node.filter(|_| observed.node.is_none()) {
        return format!("Pod {name} is bound to node {gone}, which does not exist (any more).");
    }
    if let Some(node) = observed.node.as_ref().filter(|node| !node_is_ready(node)) {
        let node = node.metadata.name.as_deref().unwrap_or_default();
        return format!("Pod {name} is on node {node}, which is not Ready.");
    }
    if let Some((status, reason, _)) = stuck(pod) {
        return format!("Pod {name} is {}: container {} waits with {reason}.", phase(pod), status.name);
    }
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|c| c.status == "False") {
        return format!(
            "Pod {name} has no node yet: {}",
            scheduled.message.as_deref().unwrap_or("the scheduler has not said why")
        );
    }
    match (phase(pod), node) {
        ("Succeeded", _) => format!("Pod {name} has done its work: every container ended well."),
        ("Failed", _) => format!("Pod {name} has failed: {}", failure(pod)),
        (_, None) => format!("Pod {name} waits for a scheduler to choose its node."),
        ("Running", Some(node)) => match condition(pod, "Ready") {
            Some(ready) if ready.status == "True" => {
                let since = ready
                    .last_transition_time
                    .as_ref()
                    .map(|t| format!(" for {}", age(t.0, now)))
                    .unwrap_or_default();
                format!("Pod {name} runs on node {node} and has been ready{since}.")
            }
            Some(ready) => format!(
                "Pod {name} runs on node {node} but is not ready: {}",
                ready.message.as_deref().unwrap_or_default()
            ),
            None => format!("Pod {name} runs on node {node}; its readiness is not known yet."),
        },
        (phase, Some(node)) => match newest_warning(observed.events.iter()) {
            Some(warning) => format!("Pod {name} is {phase} on node {node} and has not started: {warning}"),
            None => format!("Pod {name} is {phase} on node {node}: its containers are being started."),
        },
    }
}

fn failure(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    status
        .message
        .or(status.reason)
        .unwrap_or_else(|| "a container ended with an error and is not started again.".to_string())
}

/// The conditions that do not hold; those that hold need no words.
fn conditions(pod: &Pod, now: Timestamp) -> Vec<String> {
    let all = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    all.iter()
        .filter(|condition| condition.status != "True")
        .map(|condition| {
            let since = condition
                .last_transition_time
                .as_ref()
                .map(|t| format!(" for {}", age(t.0, now)))
                .unwrap_or_default();
            let why =
                condition.message.as_deref().or(condition.reason.as_deref()).unwrap_or("no reason given");
            format!("{} is {}{since}: {why}", condition.type_, condition.status)
        })
        .collect()
}

fn containers(pod: &Pod, now: Timestamp) -> Vec<String> {
    statuses(pod)
        .into_iter()
        .map(|status| {
            let restarts = match status.restart_count {
                0 => String::new(),
                1 => "; restarted once".to_string(),
                n => format!("; restarted {n} times"),
            };
            let last = status
                .last_state
                .as_ref()
                .and_then(|state| ended(state, now))
                .map(|t| format!("; before that it {t}"));
            let state = status.state.as_ref().map_or_else(
                || "has not been started".to_string(),
                |state| describe(state, status.ready, now),
            );
            format!("container {} {state}{restarts}{}", status.name, last.unwrap_or_default())
        })
        .collect()
}

fn describe(state: &ContainerState, ready: bool, now: Timestamp) -> String {
    if let Some(running) = &state.running {
        let since =
            running.started_at.as_ref().map(|t| format!(" for {}", age(t.0, now))).unwrap_or_default();
        return format!("runs{since} and is {}", if ready { "ready" } else { "not ready" });
    }
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
        return format!("waits, {}{message}", waiting.reason.as_deref().unwrap_or("without a reason"));
    }
    ended(state, now).unwrap_or_else(|| "is in no known state".to_string())
}

fn ended(state: &ContainerState, now: Timestamp) -> Option<String> {
    let ended = state.terminated.as_ref()?;
    let when = ended.finished_at.as_ref().map(|t| format!(" {} ago", age(t.0, now))).unwrap_or_default();
    let how = match (ended.reason.as_deref(), ended.exit_code) {
        (Some("OOMKilled"), _) => "was killed for using more memory than its limit".to_string(),
        (_, 0) => "ended well".to_string(),
        (_, 137) => "was killed (exit code 137)".to_string(),
        (_, 143) => "was asked to end and did (exit code 143)".to_string(),
        (_, code) => format!("ended with exit code {code}"),
    };
    let message = ended.message.as_deref().map(|m| format!(", saying: {}", m.trim())).unwrap_or_default();
    Some(format!("{how}{when}{message}"))
}

fn past(events: &[Event], now: Timestamp) -> Vec<(String, String)> {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| events::time(event));
    events
        .into_iter()
        .map(|event| {
            let count = event.series.as_ref().and_then(|s| s.count).or(event.count).unwrap_or(1);
            let times = if count > 1 { format!(" ({count} times)") } else { String::new() };
            let when = events::time(event).map_or_else(|| "?".to_string(), |time| age(time, now));
            let what = format!(
                "{}: {}{times}",
                event.reason.as_deref().unwrap_or("-"),
                event.message.as_deref().unwrap_or_default()
            );
            (when, what)
        })
        .collect()
}

/// What a person can do, for the causes that we know.
fn mend(observed: &Observed) -> Option<String> {
    let pod = &observed.pod;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let text = match stuck(pod) {
        Some((status, "ErrImagePull" | "ImagePullBackOff", _)) => format!(
            "The image \"{}\" could not be pulled. Check its name and tag, and that this node reaches its registry \
             (or load it: ctr -n k8s.io images import FILE, with -a SOCKET where the runtime's is another than containerd's own). The pull is tried again by itself.",
            status.image
        ),
        Some((status, "InvalidImageName", _)) => format!("\"{}\" is not the name of an image; correct it in the pod's spec.", status.image),
        Some((_, "ErrImageNeverPull", _)) => {
            "imagePullPolicy is Never and the image is not on this node: load it, or choose IfNotPresent.".to_string()
        }
        Some((status, "CrashLoopBackOff", _)) => format!(
            "The container ends soon after each start, so starting it again waits longer each time. Its last words: kubectl logs {name} -n {namespace} -c {} --previous",
            status.name
        ),
        Some((status, "CreateContainerConfigError", Some(message))) if message.contains("non-root") || message.contains("runAsNonRoot") => format!(
            "The image \"{}\" does not run as another user than root, as runAsNonRoot demands: set securityContext.runAsUser to another user's number, or use an image that has one.",
            status.image
        ),
        Some((_, "CreateContainerConfigError", Some(message))) if is_missing(message) => {
            "Something that the container's configuration names (a ConfigMap, a Secret, a key of one) is missing: make it, and the container starts by itself.".to_string()
        }
        _ => return None,
    };
    Some(text)
}

/// Whether a configuration error tells of an object, or a key of one, that is not there.
fn is_missing(message: &str) -> bool {
    message.contains("not found") || message.contains("couldn't find")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(status: serde_json::Value, events: serde_json::Value) -> Observed {
        let pod = serde_json::json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"nodeName": "a", "containers": [{"name": "c"}]}, "status": status});
        let node = serde_json::json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        Observed {
            pod: serde_json::from_value(pod).unwrap(),
            node: Some(serde_json::from_value(node).unwrap()),
            events: serde_json::from_value(events).unwrap(),
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().unwrap()
    }

    #[test]
    fn an_image_that_does_not_come_is_told_with_its_events_in_order_and_a_mend() {
        let status = serde_json::json!({"phase": "Pending", "containerStatuses": [{"name": "c", "image": "nope:1", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}}]});
        let event = |reason: &str, time: &str| serde_json::json!({"metadata": {"name": reason}, "involvedObject": {}, "reason": reason, "message": "m", "lastTimestamp": time});
        let events = serde_json::json!([
            event("Failed", "2026-01-01T00:04:00Z"),
            event("Pulling", "2026-01-01T00:03:00Z")
        ]);
        let story = tell(&observed(status, events), now());
        assert_eq!(story.headline, "Pod shop/web is Pending: container c waits with ImagePullBackOff.");
        assert_eq!(
            story.past,
            [("2m".to_string(), "Pulling: m".to_string()), ("60s".to_string(), "Failed: m".to_string())]
        );
        assert!(story.mend.unwrap().contains("\"nope:1\" could not be pulled"));
    }

    #[test]
    fn a_ready_pod_needs_no_mend() {
        let status = serde_json::json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:04:00Z"}]});
        let story = tell(&observed(status, serde_json::json!([])), now());
        assert_eq!(story.headline, "Pod shop/web runs on node a and has been ready for 60s.");
        assert_eq!(story.mend, None);
    }

    #[test]
    fn a_container_killed_for_memory_is_told_so() {
        let status = serde_json::json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "x", "imageID": "", "ready": false, "restartCount": 2,
            "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
        let story = tell(&observed(status, serde_json::json!([])), now());
        assert_eq!(
            story.now,
            [
                "container c runs and is not ready; restarted 2 times; before that it was killed for using more memory than its limit"
            ]
        );
    }
}
