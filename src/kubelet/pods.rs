//! What identifies a pod, and small facts about it that many parts ask for.

use std::{borrow::Cow, fmt, sync::Arc};

use k8s_openapi::api::core::v1::{Container, ContainerStatus, EphemeralContainer, Pod};

/// `metadata.uid`: one life of a pod. A static pod's is the hash of its file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(Arc<str>);

impl PodUid {
    pub fn of(pod: &Pod) -> PodUid {
        PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PodUid {
    fn from(uid: &str) -> PodUid {
        PodUid(Arc::from(uid))
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Namespace and name: what people call a pod. Successive pods may share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl PodName {
    pub fn of(pod: &Pod) -> PodName {
        PodName {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Init containers, then main containers.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().chain(containers(pod))
}

pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

/// Those that were added while the pod was there, for somebody to look into it (KEP-277): what a container is, but for
/// what they may not have.
pub fn ephemeral_containers(pod: &Pod) -> impl Iterator<Item = Container> {
    ephemeral(pod).iter().map(|added| Container {
        name: added.name.clone(),
        image: added.image.clone(),
        image_pull_policy: added.image_pull_policy.clone(),
        command: added.command.clone(),
        args: added.args.clone(),
        working_dir: added.working_dir.clone(),
        env: added.env.clone(),
        env_from: added.env_from.clone(),
        volume_mounts: added.volume_mounts.clone(),
        volume_devices: added.volume_devices.clone(),
        security_context: added.security_context.clone(),
        stdin: added.stdin,
        stdin_once: added.stdin_once,
        tty: added.tty,
        termination_message_path: added.termination_message_path.clone(),
        termination_message_policy: added.termination_message_policy.clone(),
        ..Container::default()
    })
}

fn ephemeral(pod: &Pod) -> &[EphemeralContainer] {
    pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default()
}

pub fn is_ephemeral(pod: &Pod, name: &str) -> bool {
    ephemeral(pod).iter().any(|added| added.name == name)
}

/// The container whose processes the ephemeral container `name` sees.
pub fn target_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let added = ephemeral(pod).iter().find(|added| added.name == name)?;
    added.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// The container of this name, of any sort.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let lasting = all_containers(pod).find(|it| it.name == name).map(Cow::Borrowed);
    lasting.or_else(|| ephemeral_containers(pod).find(|it| it.name == name).map(Cow::Owned))
}

/// The API has shown an instance of it, whatever became of that.
pub fn was_made(status: &ContainerStatus) -> bool {
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().is_some_and(|state| state.terminated.is_some())
    };
    let has_id = status.container_id.as_deref().is_some_and(|id| !id.is_empty());
    has_id || ended(&status.state) || ended(&status.last_state)
}

/// An init container that stays: `restartPolicy: Always` (a sidecar).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// `spec.terminationGracePeriodSeconds`, or the shorter one of a delete that has come.
pub fn grace_seconds(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_timestamp
        .as_ref()
        .and(pod.metadata.deletion_grace_period_seconds)
        .or_else(|| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds))
        .unwrap_or(30)
}

/// Where a static pod or its mirror came from (upstream's annotation keys).
pub mod annotations {
    pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
    pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
    pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
    pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
}

/// Came from a file of this node, not from the API.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, annotations::CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// The API's image of a static pod; nothing runs because of it.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, annotations::CONFIG_MIRROR).is_some()
}

pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Changes when a running container must be replaced: of its spec, only the image may change. The same number as
/// upstream's, so that either agent keeps the containers that the other made.
pub fn container_hash(container: &Container) -> u64 {
    // FNV-1a over the text of the byte slice of the JSON of the two fields, as Go's %#v prints it.
    let image = container.image.as_deref().unwrap_or_default();
    let json = serde_json::json!({ "image": image, "name": container.name }).to_string();
    let mut text = String::from("([]uint8)[");
    for (at, byte) in json.bytes().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        text.push_str(&byte.to_string());
    }
    text.push(']');
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_hash_is_upstreams() {
        let container =
            Container { name: "web".into(), image: Some("busybox:1".into()), ..Container::default() };
        assert_eq!(container_hash(&container), 0x2afe_472c);
    }
}
