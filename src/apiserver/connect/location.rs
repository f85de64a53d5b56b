//! Where a connection goes: which container, which node, which address. No IO.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use crate::status::ApiError;

const KUBELET_PORT: u16 = 10250;

/// Where a node's kubelet listens, or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The container that is asked for, or the only one.
pub(super) fn container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let name = text(pod, "/metadata/name");
    let all: Vec<&str> = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"]
        .into_iter()
        .flat_map(|list| names(pod, list))
        .collect();
    if !asked.is_empty() {
        if all.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    let mut regular = names(pod, "/spec/containers");
    match (regular.next(), regular.next()) {
        (Some(only), None) => Ok(only.to_owned()),
        (None, _) => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
        (Some(_), Some(_)) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

fn names<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    let containers = pod.pointer(list).and_then(Value::as_array).into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str())
}

/// The node that a pod was given to.
pub(super) fn node_of(pod: &Value) -> Option<&str> {
    Some(text(pod, "/spec/nodeName")).filter(|name| !name.is_empty())
}

/// The same, where it has to have one.
pub(super) fn node(pod: &Value) -> Result<&str, ApiError> {
    node_of(pod).ok_or_else(|| {
        ApiError::bad_request(format!("pod {} does not have a host assigned", text(pod, "/metadata/name")))
    })
}

/// The address in upstream's default order of preference for a cluster whose node names need not resolve.
pub(super) fn endpoint(node: &Value) -> Option<Endpoint> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array)?;
    let host = ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"]
        .into_iter()
        .find_map(|kind| addresses.iter().find(|address| address["type"] == kind))?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    Some(Endpoint { host: host["address"].as_str()?.to_owned(), port: port.unwrap_or(KUBELET_PORT) })
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A path with a query, whose values are escaped.
pub(super) fn with_query(path: &str, pairs: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (at, (key, value)) in pairs.iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        out.push_str(key);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}
