//! Where a pod is in its life, and finding its containers.
#![deny(clippy::disallowed_methods)]

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::{conditions, constants::annotation};

pub fn is_ready(pod: &Pod) -> bool {
    conditions::is_true(pod_conditions(pod), "Ready")
}

/// Since when it is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = conditions::get(pod_conditions(pod), "Ready").filter(|c| c.status == conditions::TRUE)?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Ready for at least this long.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    let wait = SignedDuration::from_secs(i64::from(min_ready_seconds));
    is_ready(pod)
        && (min_ready_seconds == 0
            || ready_since(pod).is_some_and(|since| since.as_duration() + wait <= now.as_duration()))
}

/// Succeeded or failed: its containers will not run again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Asked to go.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts towards its controller's replicas.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

/// Has a node.
pub fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

/// The API's image of a pod that a node runs from a file.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.iter().flatten().any(|(key, _)| key == annotation::CONFIG_MIRROR)
}

/// Runs from a file or a URL of its node, not from the API.
pub fn is_static(pod: &Pod) -> bool {
    let source = |(key, value): (&String, &String)| key == annotation::CONFIG_SOURCE && value != "api";
    pod.metadata.annotations.iter().flatten().any(source)
}

/// Init containers, then containers. Ephemeral ones are of another type.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    containers(pod).find(|container| container.name == name)
}

/// Of a container of any sort.
pub fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub port: i32,
    pub protocol: String,
    /// `0.0.0.0` is every address of the node.
    pub ip: String,
}

impl HostPort {
    /// Whether the two cannot be on one node.
    pub fn conflicts_with(&self, other: &HostPort) -> bool {
        let everywhere = |port: &HostPort| port.ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || everywhere(self) || everywhere(other))
    }
}

/// The host ports of containers and sidecars, which are there as long as the pod is.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let or = |text: &Option<String>, default: &str| {
        text.as_deref().filter(|text| !text.is_empty()).unwrap_or(default).to_string()
    };
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| super::is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                protocol: or(&port.protocol, "TCP"),
                ip: or(&port.host_ip, "0.0.0.0"),
            })
        })
        .collect()
}

fn pod_conditions(pod: &Pod) -> Option<&[k8s_openapi::api::core::v1::PodCondition]> {
    pod.status.as_ref().and_then(|status| status.conditions.as_deref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_is_available_once_it_was_ready_long_enough() {
        let ready = pod(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}));
        let now = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(is_available(&ready, 0, now("2024-01-01T00:00:00Z")));
        assert!(!is_available(&ready, 10, now("2024-01-01T00:00:09Z")));
        assert!(is_available(&ready, 10, now("2024-01-01T00:00:10Z")));
        assert!(!is_available(&pod(json!({})), 0, now("2024-01-01T00:00:10Z")));
    }

    #[test]
    fn finished_and_leaving_pods_are_not_active() {
        assert!(is_active(&pod(json!({"status": {"phase": "Pending"}}))));
        assert!(is_terminal(&pod(json!({"status": {"phase": "Failed"}}))));
        assert!(!is_active(&pod(json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}))));
        assert!(!is_bound(&pod(json!({"spec": {"containers": [], "nodeName": ""}}))));
    }

    #[test]
    fn containers_are_found_by_name() {
        let pod = pod(json!({
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]},
            "status": {"ephemeralContainerStatuses":
                [{"name": "e", "image": "", "imageID": "", "ready": true, "restartCount": 0}]},
        }));
        assert_eq!(containers(&pod).map(|c| c.name.as_str()).collect::<Vec<_>>(), ["i", "a"]);
        assert!(container(&pod, "i").is_some() && container(&pod, "x").is_none());
        assert!(container_status(&pod, "e").is_some());
    }

    #[test]
    fn host_ports_conflict_on_the_same_or_on_every_address() {
        let ports = |ip: &str, port: u16| {
            host_ports(&pod(json!({"spec": {"containers": [
                {"name": "a", "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip}, {"containerPort": 2}]}]}})))
        };
        let [all] = ports("", 80).try_into().unwrap();
        let [one] = ports("10.0.0.1", 80).try_into().unwrap();
        let [two] = ports("10.0.0.2", 80).try_into().unwrap();
        let [other] = ports("", 81).try_into().unwrap();
        assert!(all.conflicts_with(&one) && one.conflicts_with(&all) && one.conflicts_with(&one));
        assert!(!one.conflicts_with(&two) && !all.conflicts_with(&other));
    }
}
