//! Whose log is read. No IO.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::{
    pods,
    runtime::{ContainerState, ObservedContainer, PodObservation},
};

pub(super) fn has_container(pod: &Pod, name: &str) -> bool {
    pods::container(pod, name).is_some()
}

/// The instance that runs or ran last; with `previous`, the one that ended before what the pod shows now.
pub(super) fn choose<'a>(
    pod: &Pod,
    observation: &'a PodObservation,
    name: &str,
    previous: bool,
) -> Result<&'a ObservedContainer, String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut instances = observation
        .containers
        .iter()
        .filter(|container| container.name == name && container.state != ContainerState::Created);
    let waiting = waiting(pod, name);
    let latest = instances.next();
    if previous {
        // While a container waits to be started again, the instance that ended last is the previous one.
        let between = waiting.is_some() && latest.is_some_and(|latest| !latest.is_running());
        let chosen = if between { latest } else { instances.next() };
        return chosen
            .ok_or_else(|| format!("previous terminated container {name:?} in pod {pod_name:?} not found"));
    }
    latest.ok_or_else(|| match waiting.as_deref() {
        Some("ErrImagePull") => {
            format!("container {name:?} in pod {pod_name:?} is waiting to start: image can't be pulled")
        }
        Some("ImagePullBackOff") => format!(
            "container {name:?} in pod {pod_name:?} is waiting to start: trying and failing to pull image"
        ),
        Some(reason) => format!("container {name:?} in pod {pod_name:?} is waiting to start: {reason}"),
        None => format!("container {name:?} in pod {pod_name:?} is not available"),
    })
}

/// The reason for which the pod's status shows a container as waiting.
fn waiting(pod: &Pod, name: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    let found: &ContainerStatus = all.find(|container| container.name == name)?;
    found.state.as_ref()?.waiting.as_ref()?.reason.clone()
}
