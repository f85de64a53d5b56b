//! One file of the static pod directory as a pod of this node.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Toleration};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::{images::default_pull_policy, pods::annotations};

#[derive(Debug, thiserror::Error)]
pub enum StaticPodError {
    #[error("not a pod manifest")]
    Parse(#[source] serde_saphyr::Error),
    #[error("kind is {kind}, not Pod")]
    Kind { kind: String },
    #[error("the pod has no {field}")]
    Missing { field: &'static str },
}

/// The parser would draw the lines around a mistake, and a manifest may hold a secret in a container's environment.
fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, StaticPodError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(StaticPodError::Parse)
}

/// `text` is YAML or JSON. The pod is named after the file's pod and the node, and has the defaults that the API
/// server would give it.
pub fn parse(text: &str, node_name: &str) -> Result<Pod, StaticPodError> {
    let value: serde_json::Value = yaml(text)?;
    let kind = value.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default();
    if kind != "Pod" {
        return Err(StaticPodError::Kind { kind: kind.into() });
    }
    let mut pod: Pod = yaml(text)?;
    let Some(name) = pod.metadata.name.clone().filter(|name| !name.is_empty()) else {
        return Err(StaticPodError::Missing { field: "name" });
    };
    if pod.spec.as_ref().is_none_or(|spec| spec.containers.is_empty()) {
        return Err(StaticPodError::Missing { field: "containers" });
    }
    pod.metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.resource_version = None;
    pod.metadata.deletion_timestamp = None;
    pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
    let uid = pod.metadata.uid.take().filter(|uid| !uid.is_empty()).unwrap_or_else(|| hash(text, node_name));
    let marks = BTreeMap::from([
        (annotations::CONFIG_HASH.to_string(), uid.clone()),
        (annotations::CONFIG_SOURCE.to_string(), "file".to_string()),
    ]);
    pod.metadata.annotations.get_or_insert_default().extend(marks);
    pod.metadata.uid = Some(uid);
    default_spec(&mut pod, node_name);
    Ok(pod)
}

/// 32 hexadecimal digits, as upstream's.
fn hash(text: &str, node_name: &str) -> String {
    let digest = Sha256::new().chain_update(node_name).chain_update([0]).chain_update(text).finalize();
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn default_spec(pod: &mut Pod, node_name: &str) {
    let Some(spec) = &mut pod.spec else { return };
    spec.node_name = Some(node_name.into());
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    spec.enable_service_links.get_or_insert(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    // A static pod belongs to its node: nothing evicts it.
    tolerations.push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        default_container(container);
    }
}

fn default_container(container: &mut Container) {
    let image = container.image.clone().unwrap_or_default();
    container.image_pull_policy.get_or_insert_with(|| default_pull_policy(&image).into());
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
    container.termination_message_policy.get_or_insert_with(|| "File".into());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
    }
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
    {
        let Some(probe) = probe else { continue };
        probe.timeout_seconds.get_or_insert(1);
        probe.period_seconds.get_or_insert(10);
        probe.success_threshold.get_or_insert(1);
        probe.failure_threshold.get_or_insert(3);
    }
    // A limit alone is also the request.
    if let Some(resources) = &mut container.resources
        && let Some(limits) = resources.limits.clone()
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::{self, PodUid};

    const FILE: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: c, image: busybox}\n";

    #[test]
    fn a_file_becomes_a_pod_of_the_node_with_defaults() {
        let pod = parse(FILE, "Node-1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-node-1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        assert!(pods::is_static(&pod) && !pods::is_mirror(&pod));
        let container = &pods::containers(&pod)[0];
        assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(pod.spec.unwrap().restart_policy.as_deref(), Some("Always"));
    }

    #[test]
    fn another_content_or_node_is_another_pod() {
        let uid = |text: &str, node: &str| PodUid::of(&parse(text, node).unwrap());
        assert_eq!(uid(FILE, "a"), uid(FILE, "a"));
        assert_ne!(uid(FILE, "a"), uid(FILE, "b"));
        assert_ne!(uid(FILE, "a"), uid(&FILE.replace("busybox", "busybox:1"), "a"));
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        for text in
            ["", "kind: List", "kind: Pod", "kind: Pod\nmetadata: {name: x}\nspec: {containers: []}", "{"]
        {
            assert!(parse(text, "n").is_err(), "{text}");
        }
    }
}
