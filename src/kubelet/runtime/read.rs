//! What the CRI answers, in the node's own words.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use jiff::Timestamp;
use proto::cri;

use super::{
    labels::{self, Made},
    model::{
        CoarseState, Condition, ContainerState, Exit, Image, ImageUser, ObservedContainer, RuntimeHealth,
        Sandbox,
    },
};
use crate::config::CgroupDriver;

pub(super) fn sandbox(status: &cri::PodSandboxStatus) -> Sandbox {
    let network = status.network.as_ref();
    let ips = network
        .iter()
        .flat_map(|network| {
            std::iter::once(network.ip.as_str())
                .chain(network.additional_ips.iter().map(|more| more.ip.as_str()))
        })
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .collect();
    let host_network = status
        .linux
        .as_ref()
        .and_then(|linux| linux.namespaces.as_ref()?.options.as_ref())
        .is_some_and(|options| options.network() == cri::NamespaceMode::Node);
    Sandbox {
        id: status.id.as_str().into(),
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: status.state() == cri::PodSandboxState::SandboxReady,
        created_at: time(status.created_at),
        ips,
        host_network,
    }
}

/// `message` is the termination message, read from its file or its log by the caller.
pub(super) fn container(
    status: &cri::ContainerStatus,
    sandbox: &str,
    message: Option<String>,
) -> ObservedContainer {
    let metadata = status.metadata.clone().unwrap_or_default();
    let made: Made = labels::read(&status.annotations);
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => ContainerState::Created,
        cri::ContainerState::ContainerRunning => {
            ContainerState::Running { started_at: time(status.started_at) }
        }
        cri::ContainerState::ContainerExited => ContainerState::Exited(Exit {
            code: status.exit_code,
            reason: status.reason.clone(),
            message: message.unwrap_or_else(|| status.message.clone()),
            started_at: (status.started_at != 0).then(|| time(status.started_at)),
            finished_at: time(status.finished_at),
        }),
        cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    ObservedContainer {
        id: status.id.as_str().into(),
        sandbox: sandbox.into(),
        name: metadata.name,
        attempt: made.attempt.unwrap_or(metadata.attempt),
        hash: made.hash,
        created_at: time(status.created_at),
        state,
        image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
        image_id: if status.image_ref.is_empty() {
            status.image_id.clone()
        } else {
            status.image_ref.clone()
        },
        log_path: status.log_path.clone().into(),
    }
}

pub(super) fn coarse(state: i32) -> CoarseState {
    match cri::ContainerState::try_from(state) {
        Ok(cri::ContainerState::ContainerCreated) => CoarseState::Created,
        Ok(cri::ContainerState::ContainerRunning) => CoarseState::Running,
        Ok(cri::ContainerState::ContainerExited) => CoarseState::Exited,
        _ => CoarseState::Unknown,
    }
}

pub(super) fn image(image: cri::Image) -> Image {
    let user = match (image.uid, image.username) {
        (Some(uid), _) => ImageUser::Uid(uid.value),
        (None, name) if name.is_empty() => ImageUser::Unset,
        (None, name) => ImageUser::Name(name),
    };
    Image {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        user,
        pinned: image.pinned,
    }
}

pub(super) fn health(status: &cri::RuntimeStatus) -> RuntimeHealth {
    let condition = |kind: &str| {
        status.conditions.iter().find(|condition| condition.r#type == kind).map_or_else(
            Condition::default,
            |condition| Condition {
                ok: condition.status,
                reason: condition.reason.clone(),
                message: condition.message.clone(),
            },
        )
    };
    RuntimeHealth { runtime: condition("RuntimeReady"), network: condition("NetworkReady") }
}

/// Which driver containerd's own configuration sets, from the JSON that its verbose status carries. Releases before 2.0 tell it
/// nowhere else.
pub(super) fn cgroup_driver(config: &str) -> Option<CgroupDriver> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let containerd = config.get("containerd")?;
    let runtime = containerd.get("defaultRuntimeName").and_then(|it| it.as_str()).unwrap_or("runc");
    let options = containerd.get("runtimes")?.get(runtime)?.get("options");
    let systemd = options.and_then(|it| it.get("SystemdCgroup")).and_then(serde_json::Value::as_bool);
    Some(if systemd == Some(true) { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs })
}

/// The CRI's times are nanoseconds since 1970.
fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_driver_is_that_of_the_runtime_that_pods_run_on() {
        let status = |options: &str| {
            format!(
                r#"{{"containerd": {{"defaultRuntimeName": "runc", "runtimes": {{"runc": {{"options": {options}}},
                "other": {{"options": {{"SystemdCgroup": true}}}}}}}}}}"#
            )
        };
        assert_eq!(cgroup_driver(&status(r#"{"SystemdCgroup": true}"#)), Some(CgroupDriver::Systemd));
        assert_eq!(cgroup_driver(&status(r#"{"SystemdCgroup": false}"#)), Some(CgroupDriver::Cgroupfs));
        assert_eq!(cgroup_driver(&status("null")), Some(CgroupDriver::Cgroupfs), "its default");
        for of_another_runtime in ["", "{}", "[1]", r#"{"containerd": 1}"#] {
            assert_eq!(cgroup_driver(of_another_runtime), None);
        }
    }
}
