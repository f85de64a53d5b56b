//! Events about pods and the node, with upstream's reasons.

use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod};

pub use client::EventType;

use crate::pods;

pub const CREATED: &str = "Created";
pub const STARTED: &str = "Started";
pub const FAILED: &str = "Failed";
pub const KILLING: &str = "Killing";
pub const BACK_OFF: &str = "BackOff";
pub const PULLING: &str = "Pulling";
pub const PULLED: &str = "Pulled";
pub const INSPECT_FAILED: &str = "InspectFailed";
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
pub const SANDBOX_CHANGED: &str = "SandboxChanged";
pub const FAILED_CREATE_SANDBOX: &str = "FailedCreatePodSandBox";
pub const FAILED_KILL_POD: &str = "FailedKillPod";
pub const FAILED_MOUNT: &str = "FailedMount";
pub const FAILED_POST_START: &str = "FailedPostStartHook";
pub const FAILED_PRE_STOP: &str = "FailedPreStopHook";
pub const UNHEALTHY: &str = "Unhealthy";
pub const NETWORK_NOT_READY: &str = "NetworkNotReady";
pub const MISSING_CLUSTER_DNS: &str = "MissingClusterDNS";
pub const FAILED_SYNC: &str = "FailedSync";
pub const FAILED_VALIDATION: &str = "FailedValidation";
pub const STARTING: &str = "Starting";
pub const NODE_READY: &str = "NodeReady";
pub const NODE_NOT_READY: &str = "NodeNotReady";
pub const REBOOTED: &str = "Rebooted";
pub const NODE_SHUTDOWN: &str = "NodeShutdown";

/// Reasons are few: that of a resource which is not one of these names none.
pub fn of_refusal(reason: &str) -> &'static str {
    const KNOWN: [&str; 11] = [
        NODE_SHUTDOWN,
        "OutOfcpu",
        "OutOfmemory",
        "OutOfephemeral-storage",
        "OutOfpods",
        "NodeAffinity",
        "NodeName",
        "NodePorts",
        "TaintToleration",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "PodOSNotSupported",
    ];
    KNOWN.iter().find(|known| **known == reason).copied().unwrap_or("OutOfResource")
}

/// Where events go. Never blocks.
pub trait EventSink: Send + Sync + 'static {
    fn event(&self, about: &ObjectReference, kind: EventType, reason: &'static str, message: String);
}

impl EventSink for client::Recorder {
    fn event(&self, about: &ObjectReference, kind: EventType, reason: &'static str, message: String) {
        client::Recorder::event(self, about, kind, reason, "", message);
    }
}

/// Standalone: no API to write to.
#[derive(Debug)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn event(&self, about: &ObjectReference, kind: EventType, reason: &'static str, message: String) {
        let pod = about.name.as_deref().unwrap_or_default();
        tracing::info!(pod, kind = kind.as_str(), reason, message, "event");
    }
}

pub fn of_pod(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A reference to one container: `spec.containers{web}`.
pub fn of_container(pod: &Pod, container: &Container) -> ObjectReference {
    let list = if pods::init_containers(pod).iter().any(|init| init.name == container.name) {
        "initContainers"
    } else if pods::is_ephemeral(pod, &container.name) {
        "ephemeralContainers"
    } else {
        "containers"
    };
    ObjectReference { field_path: Some(format!("spec.{list}{{{}}}", container.name)), ..of_pod(pod) }
}

/// Upstream refers to the node by name also where a UID belongs.
pub fn of_node(node: &Node) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: node.metadata.name.clone(),
        uid: node.metadata.name.clone(),
        ..ObjectReference::default()
    }
}
