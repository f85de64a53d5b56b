//! Decides what of the cluster's state belongs on the screen, and what of it is unhealthy.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    events::newest_warning,
    words::{age, count},
};

/// A pod that is not Ready for this long is worth a word.
const PATIENCE_SECS: i64 = 30;

/// Everything asked, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub version: String,
    pub nodes: Vec<v1::Node>,
    pub pods: Vec<v1::Pod>,
    pub services: Vec<v1::Service>,
    pub slices: Vec<EndpointSlice>,
    pub deployments: Vec<Deployment>,
    /// Events of type Warning, about anything.
    pub warnings: Vec<v1::Event>,
}

/// The screen, as values. Rows are cells in the order of their headings in `render.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub version: String,
    pub nodes: Vec<Vec<String>>,
    pub pods: Vec<Vec<String>>,
    pub services: Vec<Vec<String>>,
    /// Names of nodes that are not Ready.
    pub not_ready_nodes: Vec<String>,
    /// One sentence for each thing that is wrong; empty when nothing is.
    pub unhealthy: Vec<String>,
}

impl Report {
    #[must_use]
    pub fn all_nodes_ready(&self) -> bool {
        !self.nodes.is_empty() && self.not_ready_nodes.is_empty()
    }

    /// What is still missing, for a progress line.
    #[must_use]
    pub fn waiting_for(&self) -> String {
        if self.nodes.is_empty() {
            return "the node to register".to_string();
        }
        format!("node {} to be Ready", self.not_ready_nodes.join(", "))
    }
}

#[must_use]
pub fn report(observed: &Observed, now: Timestamp) -> Report {
    let mut unhealthy = Vec::new();
    unhealthy.extend(observed.nodes.iter().filter_map(node_trouble));
    unhealthy.extend(observed.deployments.iter().filter_map(deployment_trouble));
    unhealthy.extend(observed.pods.iter().filter_map(|pod| pod_trouble(pod, &observed.warnings, now)));
    unhealthy.extend(observed.services.iter().filter_map(|s| service_trouble(s, observed)));
    Report {
        version: observed.version.clone(),
        nodes: observed.nodes.iter().map(|node| node_row(node, observed, now)).collect(),
        pods: observed.pods.iter().map(|pod| pod_row(pod, now)).collect(),
        services: observed.services.iter().map(|service| service_row(service, observed)).collect(),
        not_ready_nodes: observed.nodes.iter().filter(|n| !is_ready(n)).map(|n| name(&n.metadata)).collect(),
        unhealthy,
    }
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

fn full_name(metadata: &ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), name(metadata))
}

fn created_age(metadata: &ObjectMeta, now: Timestamp) -> String {
    metadata.creation_timestamp.as_ref().map_or_else(|| "?".to_string(), |time| age(time.0, now))
}

fn node_condition<'a>(node: &'a v1::Node, kind: &str) -> Option<&'a v1::NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn is_ready(node: &v1::Node) -> bool {
    node_condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

fn node_row(node: &v1::Node, observed: &Observed, now: Timestamp) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let address =
        status.addresses.iter().flatten().find(|a| a.type_ == "InternalIP").map(|a| a.address.clone());
    let runtime = status.node_info.as_ref().map(|info| info.container_runtime_version.clone());
    let capacity = |what: &str| {
        status
            .allocatable
            .as_ref()
            .and_then(|all| all.get(what))
            .map_or_else(|| "?".to_string(), |q| q.0.clone())
    };
    let pods = observed.pods.iter().filter(|pod| spec(pod).node_name == node.metadata.name).count();
    vec![
        name(&node.metadata),
        if is_ready(node) { "Ready".to_string() } else { "NotReady".to_string() },
        address.unwrap_or_default(),
        format!("{pods} of {}", capacity("pods")),
        capacity("cpu"),
        capacity("memory"),
        runtime.unwrap_or_default(),
        created_age(&node.metadata, now),
    ]
}

fn spec(pod: &v1::Pod) -> v1::PodSpec {
    pod.spec.clone().unwrap_or_default()
}

fn statuses(pod: &v1::Pod) -> impl Iterator<Item = &v1::ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    let main = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(main)
}

fn phase(pod: &v1::Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// The reason and message for which a container waits, if it is not just being started.
fn stuck(pod: &v1::Pod) -> Option<(&v1::ContainerStatus, &v1::ContainerStateWaiting)> {
    statuses(pod).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        (!matches!(reason, "ContainerCreating" | "PodInitializing")).then_some((status, waiting))
    })
}

fn pod_row(pod: &v1::Pod, now: Timestamp) -> Vec<String> {
    let main = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let state = match (&pod.metadata.deletion_timestamp, stuck(pod)) {
        (Some(_), _) => "Terminating",
        (None, Some((_, waiting))) => waiting.reason.as_deref().unwrap_or("Waiting"),
        (None, None) => phase(pod),
    };
    vec![
        full_name(&pod.metadata),
        format!("{}/{}", main.iter().filter(|c| c.ready).count(), spec(pod).containers.len()),
        state.to_string(),
        main.iter().map(|c| c.restart_count).sum::<i32>().to_string(),
        pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default(),
        spec(pod).node_name.unwrap_or_default(),
        created_age(&pod.metadata, now),
    ]
}

/// Ready endpoints of a Service over all its slices.
fn ready_endpoints(service: &v1::Service, observed: &Observed) -> usize {
    let label = |slice: &EndpointSlice| {
        slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name").cloned())
    };
    observed
        .slices
        .iter()
        .filter(|slice| {
            slice.metadata.namespace == service.metadata.namespace && label(slice) == service.metadata.name
        })
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|c| c.ready != Some(false)))
        .count()
}

fn service_row(service: &v1::Service, observed: &Observed) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.iter().flatten().map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port {
            Some(node_port) if node_port != 0 => format!("{}:{node_port}/{protocol}", port.port),
            _ => format!("{}/{protocol}", port.port),
        }
    });
    vec![
        full_name(&service.metadata),
        spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_string()),
        spec.cluster_ip.clone().or(spec.external_name.clone()).unwrap_or_default(),
        ports.collect::<Vec<_>>().join(","),
        count(ready_endpoints(service, observed), "endpoint"),
    ]
}

fn node_trouble(node: &v1::Node) -> Option<String> {
    let name = name(&node.metadata);
    let ready = node_condition(node, "Ready");
    if let Some(condition) = ready.filter(|c| c.status != "True") {
        let why = condition.message.as_deref().or(condition.reason.as_deref()).unwrap_or("no reason given");
        return Some(format!("node {name} is not Ready: {why}"));
    }
    if ready.is_none() {
        return Some(format!("node {name} has not told its state yet"));
    }
    let pressure = ["MemoryPressure", "DiskPressure", "PIDPressure"]
        .into_iter()
        .find(|kind| node_condition(node, kind).is_some_and(|c| c.status == "True"))?;
    Some(format!(
        "node {name} is under {pressure}: it takes no new pods that do not tolerate that; free some (`coracle doctor` says where)"
    ))
}

fn deployment_trouble(deployment: &Deployment) -> Option<String> {
    let condition = deployment.status.as_ref()?.conditions.as_ref()?.iter().find(|c| {
        (c.type_ == "Progressing" && c.status == "False")
            || (c.type_ == "ReplicaFailure" && c.status == "True")
    })?;
    let why = condition.message.as_deref().unwrap_or_default();
    Some(format!("deployment {} does not progress: {why}", full_name(&deployment.metadata)))
}

fn pod_trouble(pod: &v1::Pod, warnings: &[v1::Event], now: Timestamp) -> Option<String> {
    let name = full_name(&pod.metadata);
    let hint = format!(
        "(coracle why pod/{} -n {})",
        self::name(&pod.metadata),
        pod.metadata.namespace.as_deref().unwrap_or_default()
    );
    if let Some((container, waiting)) = stuck(pod) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
        return Some(format!("pod {name}: container {} waits, {reason}{message} {hint}", container.name));
    }
    let condition = |kind: &str| {
        pod.status.as_ref().and_then(|s| s.conditions.as_ref())?.iter().find(|c| c.type_ == kind).cloned()
    };
    if let Some(unplaced) = condition("PodScheduled").filter(|c| c.status == "False") {
        return Some(format!("pod {name} has no node: {} {hint}", unplaced.message.unwrap_or_default()));
    }
    if phase(pod) == "Failed" {
        let status = pod.status.clone().unwrap_or_default();
        let why =
            status.message.or(status.reason).unwrap_or_else(|| "a container ended with an error".to_string());
        return Some(format!("pod {name} failed: {why} {hint}"));
    }
    if phase(pod) == "Pending"
        && let Some(placed) = condition("PodScheduled").and_then(|placed| placed.last_transition_time)
        && now.as_second() - placed.0.as_second() > PATIENCE_SECS
    {
        let why =
            newest_warning(warnings.iter().filter(|event| event.involved_object.uid == pod.metadata.uid));
        let why = why.unwrap_or("nothing says why");
        return Some(format!("pod {name} has not started for {}: {why} {hint}", age(placed.0, now)));
    }
    let unready = condition("Ready").filter(|c| c.status == "False" && phase(pod) == "Running")?;
    let since = unready.last_transition_time.as_ref()?.0;
    let long =
        now.as_second() - since.as_second() > PATIENCE_SECS && pod.metadata.deletion_timestamp.is_none();
    long.then(|| {
        format!(
            "pod {name} is not ready for {}: {} {hint}",
            age(since, now),
            unready.message.unwrap_or_default()
        )
    })
}

fn service_trouble(service: &v1::Service, observed: &Observed) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    (selects && ready_endpoints(service, observed) == 0).then(|| {
        format!(
            "service {} has no ready endpoint: connections to it are refused",
            full_name(&service.metadata)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().unwrap()
    }

    fn ready_node() -> v1::Node {
        object(serde_json::json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "2", "pods": "110"}}}))
    }

    #[test]
    fn nothing_is_unhealthy_in_a_quiet_cluster() {
        let observed = Observed { nodes: vec![ready_node()], ..Observed::default() };
        let report = report(&observed, now());
        assert!(report.all_nodes_ready());
        assert_eq!(report.unhealthy, Vec::<String>::new());
    }

    #[test]
    fn no_node_is_not_ready() {
        assert!(!report(&Observed::default(), now()).all_nodes_ready());
    }

    #[test]
    fn an_image_that_does_not_come_is_told_with_its_reason() {
        let pod = object(
            serde_json::json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Pending", "containerStatuses": [{"name": "c", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}}}]}}),
        );
        let observed = Observed { nodes: vec![ready_node()], pods: vec![pod], ..Observed::default() };
        assert_eq!(
            report(&observed, now()).unhealthy,
            [
                "pod d/p: container c waits, ImagePullBackOff: Back-off pulling image \"x\" (coracle why pod/p -n d)"
            ]
        );
    }

    #[test]
    fn a_pod_that_waits_for_a_volume_is_told_with_its_newest_warning() {
        let pod = object(
            serde_json::json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}]}}),
        );
        let warning = |uid: &str, time: &str, message: &str| {
            object(
                serde_json::json!({"metadata": {}, "involvedObject": {"uid": uid}, "type": "Warning", "lastTimestamp": time, "message": message}),
            )
        };
        let warnings = vec![
            warning("u", "2026-01-01T00:04:00Z", "secret \"s\" not found"),
            warning("u", "2026-01-01T00:02:00Z", "older"),
            warning("other", "2026-01-01T00:04:30Z", "not about it"),
        ];
        let observed =
            Observed { nodes: vec![ready_node()], pods: vec![pod], warnings, ..Observed::default() };
        assert_eq!(
            report(&observed, now()).unhealthy,
            ["pod d/p has not started for 4m: secret \"s\" not found (coracle why pod/p -n d)"]
        );
    }

    #[test]
    fn a_service_that_selects_nobody_ready_is_told() {
        let service = object(
            serde_json::json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"selector": {"a": "b"}}}),
        );
        let observed = Observed { nodes: vec![ready_node()], services: vec![service], ..Observed::default() };
        assert_eq!(
            report(&observed, now()).unhealthy,
            ["service d/s has no ready endpoint: connections to it are refused"]
        );
    }
}
