//! What a pod may know of itself: fieldRef and resourceFieldRef, in variables and in volumes.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, net::IpAddr};

use api::{pods::Resources, quantity::Quantity};
use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use crate::pods;

/// Upstream's sentences.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownwardError {
    #[error("unsupported pod version: {0}")]
    Version(String),
    #[error("field label not supported: {0}")]
    Label(String),
    #[error("field label does not support subscript: {0}")]
    Subscript(String),
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("container {0} not found")]
    Container(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("failed to find node object, expected a node")]
    Node,
}

/// What is known of the pod's place beside its object.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<IpAddr>,
    /// The pod's, in the order of the node's families.
    pub pod_ips: Vec<IpAddr>,
    /// What pods may use of the node; `None` while the node is not known.
    pub allocatable: Option<Resources>,
}

/// A variable's value. Volumes offer less: see [`object_field`].
pub fn field(selector: &ObjectFieldSelector, pod: &Pod, place: &Place) -> Result<String, DownwardError> {
    let path = selector.field_path.as_str();
    match selector.api_version.as_deref() {
        None | Some("" | "v1") => {}
        Some(other) => return Err(DownwardError::Version(other.into())),
    }
    let spec = pod.spec.as_ref();
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    Ok(match path {
        "spec.nodeName" | "spec.host" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => place.host_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.hostIPs" => joined(&place.host_ips),
        "status.podIP" => in_node_order(place).first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => joined(&in_node_order(place)),
        "spec.restartPolicy" | "spec.schedulerName" | "status.phase" => {
            return Err(DownwardError::Path(path.into()));
        }
        _ => return object_field(path, pod),
    })
}

/// What a file of a downwardAPI volume may show, and a variable too.
pub fn object_field(path: &str, pod: &Pod) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    if let Some((field, key)) = subscript(path) {
        let map = match field {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(DownwardError::Subscript(path.into())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        _ if path.ends_with("']") => return Err(DownwardError::Subscript(path.into())),
        _ => return Err(DownwardError::Label(path.into())),
    })
}

/// The pod's addresses with the family first that is the node's primary one.
fn in_node_order(place: &Place) -> Vec<IpAddr> {
    let mut ips = place.pod_ips.clone();
    if let Some(primary) = place.host_ips.first() {
        ips.sort_by_key(|ip| ip.is_ipv4() != primary.is_ipv4());
    }
    ips
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `metadata.labels['a/b']` is field `metadata.labels` and key `a/b`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, key) = path.strip_suffix("']")?.split_once("['")?;
    (!field.is_empty()).then_some((field, key))
}

/// `key="value"` per line, quoted as Go does.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", api::quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// In units of the divisor, rounded up. A container without a limit may use what the pod may, or else the node has.
pub fn resource(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    own: Option<&Container>,
    allocatable: Option<&Resources>,
) -> Result<String, DownwardError> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match name {
        Some(name) => pods::all_containers(pod).find(|it| it.name == name),
        None => own,
    };
    let container =
        container.ok_or_else(|| DownwardError::Container(name.unwrap_or_default().to_string()))?;
    let unsupported = || DownwardError::Resource(selector.resource.clone());
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let known = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    if !known && !resource.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let amount = match list {
        "requests" => resources.and_then(|it| api::pods::read_list(&it.requests).get(resource).copied()),
        "limits" => {
            let limit = resources.and_then(|it| api::pods::read_list(&it.limits).get(resource).copied());
            match limit.filter(|limit| !limit.is_zero()) {
                None if known => default_limit(pod, resource, allocatable.ok_or(DownwardError::Node)?),
                limit => limit,
            }
        }
        _ => return Err(unsupported()),
    };
    let amount = amount.unwrap_or(Quantity::ZERO);
    let divisor = selector.divisor.as_ref().and_then(|text| Quantity::try_from(text).ok());
    let divisor = divisor.filter(|it| !it.is_zero()).unwrap_or(Quantity::new(1, Default::default()));
    let (amount, divisor) = match resource {
        "cpu" => (amount.milli_value(), divisor.milli_value()),
        _ => (amount.value(), divisor.value()),
    };
    let (amount, divisor) = (i128::from(amount), i128::from(divisor.max(1)));
    Ok(((amount + divisor - 1) / divisor).to_string())
}

fn default_limit(pod: &Pod, resource: &str, allocatable: &Resources) -> Option<Quantity> {
    let node = allocatable.get(resource).copied()?;
    let resources = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let of_pod = resources.and_then(|it| api::pods::read_list(&it.limits).get(resource).copied());
    Some(of_pod.filter(|limit| !limit.is_zero()).unwrap_or(node))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "a\"b", "b": "2"}, "annotations": {"x/y": "z\n"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [
                {"name": "a", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"memory": "1000"}}},
                {"name": "b"},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_of_the_pod_and_its_place() {
        let place = Place {
            host_ips: vec!["fd00::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            pod_ips: vec!["10.1.0.2".parse().unwrap(), "fd01::2".parse().unwrap()],
            allocatable: None,
        };
        for (path, expected) in [
            ("metadata.name", "web"),
            ("metadata.labels", "app=\"a\\\"b\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['x/y']", "z\n"),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.hostIP", "fd00::1"),
            ("status.hostIPs", "fd00::1,10.0.0.1"),
            ("status.podIP", "fd01::2"),
            ("status.podIPs", "fd01::2,10.1.0.2"),
        ] {
            let selector = ObjectFieldSelector { api_version: None, field_path: path.into() };
            assert_eq!(field(&selector, &pod(), &place).as_deref(), Ok(expected), "{path}");
        }
        let refused = |path: &str| {
            let selector = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() };
            field(&selector, &pod(), &place).unwrap_err().to_string()
        };
        assert_eq!(refused("spec.x"), "field label not supported: spec.x");
        assert_eq!(refused("spec.x['a']"), "field label does not support subscript: spec.x['a']");
        assert_eq!(refused("status.phase"), "unsupported fieldPath: status.phase");
    }

    #[test]
    fn resources_are_divided_and_rounded_up_and_missing_limits_are_the_nodes() {
        let allocatable = Resources::from([
            ("cpu".into(), "3900m".parse().unwrap()),
            ("memory".into(), "1Gi".parse().unwrap()),
        ]);
        for (container, resource_name, divisor, expected) in [
            ("a", "limits.cpu", "", "2"),
            ("a", "limits.cpu", "1m", "1500"),
            ("a", "limits.memory", "1Mi", "64"),
            ("a", "requests.memory", "1Ki", "1"),
            ("a", "requests.cpu", "1m", "0"),
            ("b", "limits.cpu", "1", "4"),
            ("b", "limits.memory", "1", "1073741824"),
            ("b", "limits.hugepages-2Mi", "1", "0"),
        ] {
            let selector: ResourceFieldSelector = serde_json::from_value(
                json!({"containerName": container, "resource": resource_name, "divisor": divisor}),
            )
            .unwrap();
            let value = resource(&selector, &pod(), None, Some(&allocatable));
            assert_eq!(value.as_deref(), Ok(expected), "{container} {resource_name} {divisor}");
        }
        let ask = |container: &str, resource_name: &str| {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"containerName": container, "resource": resource_name}))
                    .unwrap();
            resource(&selector, &pod(), None, None).unwrap_err().to_string()
        };
        assert_eq!(ask("x", "limits.cpu"), "container x not found");
        assert_eq!(ask("a", "limits.gpu"), "unsupported container resource : limits.gpu");
        assert_eq!(ask("b", "limits.cpu"), "failed to find node object, expected a node");
    }
}
