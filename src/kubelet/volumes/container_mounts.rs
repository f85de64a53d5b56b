//! What of its pod's volumes a container sees, and where.
#![deny(clippy::disallowed_methods)]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::{
    plan::{self, Shape},
    sub_path::{self, SubPath},
};
use crate::{
    runtime::expand,
    worker::ports::{HostMount, Propagation},
};

/// Upstream's sentences.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MountError {
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoVolume { volume: String, container: String },
    #[error("cannot find volume \"{volume}\" to pass into container \"{container}\"")]
    NoDevice { volume: String, container: String },
    #[error("missing value for {0}")]
    Variable(String),
    #[error("{0}")]
    SubPath(String),
    #[error(
        "failed to resolve recursive read-only mode: volume \"{volume}\" requested recursive read-only mode, but {why}"
    )]
    Recursive { volume: String, why: String },
    #[error("invalid MountPropagation mode: \"{0}\"")]
    Propagation(String),
}

/// In the order of the spec. A mount of a part of a volume gets its host path when that part has been prepared.
pub(super) fn plan(
    pod: &Pod,
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    env: &[(String, String)],
    pod_dir: &Path,
) -> Result<Vec<(HostMount, Option<SubPath>)>, MountError> {
    if let Some(device) = container.volume_devices.iter().flatten().next() {
        let (volume, container) = (device.name.clone(), container.name.clone());
        return Err(MountError::NoDevice { volume, container });
    }
    let mut planned = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let missing =
            || MountError::NoVolume { volume: mount.name.clone(), container: container.name.clone() };
        let volume_dir = volumes.get(&mount.name).ok_or_else(missing)?;
        let managed = Managed::of(pod, &mount.name);
        let part = part(mount, env)?.map(|path| SubPath {
            volume: mount.name.clone(),
            volume_dir: volume_dir.clone(),
            path,
            target: pod_dir
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&container.name)
                .join(index.to_string()),
        });
        let container_path = match mount.mount_path.strip_prefix('/') {
            Some(_) => mount.mount_path.clone(),
            None => format!("/{}", mount.mount_path),
        };
        let host_mount = HostMount {
            container_path,
            host_path: volume_dir.clone(),
            read_only: mount.read_only.unwrap_or(false) || managed == Managed::ReadOnly,
            recursive_read_only: recursive(mount)?,
            propagation: propagation(mount)?,
            selinux_relabel: managed != Managed::No,
        };
        planned.push((host_mount, part));
    }
    Ok(planned)
}

/// Whose the volume's content is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Managed {
    /// The host's.
    No,
    /// The pod's.
    Writable,
    /// The API's.
    ReadOnly,
}

impl Managed {
    fn of(pod: &Pod, name: &str) -> Managed {
        let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        match volumes.find(|volume| volume.name == name).map(plan::shape) {
            Some(Ok(Shape::Empty(_))) => Managed::Writable,
            Some(Ok(Shape::Files { .. })) => Managed::ReadOnly,
            Some(Ok(Shape::Host { .. }) | Err(_)) | None => Managed::No,
        }
    }
}

fn part(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<PathBuf>, MountError> {
    let text = match mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        Some(expression) => expanded(expression, env)?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if text.is_empty() {
        return Ok(None);
    }
    sub_path::check(&text).map_err(MountError::SubPath)?;
    Ok(Some(PathBuf::from(text)))
}

fn expanded(expression: &str, env: &[(String, String)]) -> Result<String, MountError> {
    let missing = RefCell::new(None);
    let value = |name: &str| {
        let found = env.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_string());
        }
        found
    };
    let text = expand(expression, &value);
    match missing.into_inner() {
        Some(name) => Err(MountError::Variable(name)),
        None => Ok(text),
    }
}

/// No runtime that this node speaks to so far has said that it can do this.
fn recursive(mount: &VolumeMount) -> Result<bool, MountError> {
    let refuse = |why: String| Err(MountError::Recursive { volume: mount.name.clone(), why });
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("" | "Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    if mount.read_only != Some(true) {
        return refuse("it is not read-only".into());
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|it| *it != "None") {
        return refuse(format!("it is not compatible with propagation \"{propagation}\""));
    }
    match mode {
        "IfPossible" => Ok(false),
        _ => refuse("it is not supported by the runtime".into()),
    }
}

fn propagation(mount: &VolumeMount) -> Result<Propagation, MountError> {
    match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => Ok(Propagation::Private),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => Ok(Propagation::Bidirectional),
        Some(other) => Err(MountError::Propagation(other.into())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(mount: Value) -> Result<(HostMount, Option<SubPath>), String> {
        let mut mount = mount;
        if mount["name"].is_null() {
            mount["name"] = json!("v");
        }
        mount["mountPath"] = json!("data");
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [mount]}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "cm", "configMap": {"name": "x"}}, {"name": "h", "hostPath": {"path": "/h"}}],
        }}))
        .unwrap();
        let volumes = ["v", "cm", "h"].map(|name| (name.to_string(), PathBuf::from(format!("/host/{name}"))));
        let container = crate::pods::containers(&pod)[0].clone();
        let env = [("A".to_string(), "x/y".to_string())];
        let planned = plan(&pod, &container, &volumes.into(), &env, Path::new("/pod"));
        planned.map(|mut planned| planned.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_comes_from_the_api_is_read_only() {
        for (name, read_only, relabel) in [("v", false, true), ("cm", true, true), ("h", false, false)] {
            let (mount, part) = run(json!({"name": name})).unwrap();
            assert_eq!((mount.read_only, mount.selinux_relabel, part.is_none()), (read_only, relabel, true));
            assert_eq!(mount.container_path, "/data");
            assert_eq!(mount.host_path, PathBuf::from(format!("/host/{name}")));
        }
        assert!(run(json!({"readOnly": true})).unwrap().0.read_only);
        let (mount, _) = run(json!({"mountPropagation": "Bidirectional"})).unwrap();
        assert_eq!(mount.propagation, Propagation::Bidirectional);
    }

    #[test]
    fn a_part_of_a_volume_may_be_named_by_variables() {
        let (_, part) = run(json!({"subPathExpr": "logs/$(A)"})).unwrap();
        let part = part.unwrap();
        assert_eq!(part.path, PathBuf::from("logs/x/y"));
        assert_eq!(part.target, PathBuf::from("/pod/volume-subpaths/v/c/0"));
    }

    #[test]
    fn what_cannot_be_mounted_is_told_in_upstreams_words() {
        let recursive = "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but ";
        for (mount, expected) in [
            (
                json!({"name": "none"}),
                "cannot find volume \"none\" to mount into container \"c\"".to_string(),
            ),
            (json!({"subPathExpr": "$(B)"}), "missing value for B".into()),
            (json!({"subPath": "/a"}), "error SubPath `/a` must not be an absolute path".into()),
            (json!({"recursiveReadOnly": "Enabled"}), format!("{recursive}it is not read-only")),
            (
                json!({"recursiveReadOnly": "Enabled", "readOnly": true}),
                format!("{recursive}it is not supported by the runtime"),
            ),
        ] {
            assert_eq!(run(mount).unwrap_err(), expected);
        }
        let possible = run(json!({"recursiveReadOnly": "IfPossible", "readOnly": true}));
        assert!(!possible.unwrap().0.recursive_read_only);
    }
}
