//! What each volume of a pod is, and where it stands.
#![deny(clippy::disallowed_methods)]

use std::{
    borrow::Cow,
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, SecurityContext, Volume};

use crate::pods;

/// What this node can make of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A directory of the pod's own.
    Empty(Medium),
    /// A place of the host's.
    Host { path: PathBuf, check: HostCheck },
    /// Files that come from the API, on disk or (what is secret) in memory.
    Files { kind: FilesKind, in_memory: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    Disk,
    Memory {
        size_limit: Option<i64>,
    },
    /// `None`: the size of page that the pod asks for elsewhere.
    HugePages {
        page_bytes: Option<i64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesKind {
    ConfigMap,
    Secret,
    DownwardApi,
    Projected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCheck {
    None,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("volume type {0} is not supported yet")]
    Unsupported(&'static str),
    #[error("unknown storage medium \"{0}\"")]
    Medium(String),
    #[error("{0} is an invalid volume type")]
    HostPathType(String),
    #[error("medium {0}: hugePages storage requested, but there is no resource request for huge pages")]
    NoHugePages(&'static str),
}

pub fn shape(volume: &Volume) -> Result<Shape, PlanError> {
    if let Some(empty) = &volume.empty_dir {
        let limit = empty.size_limit.as_ref().and_then(|text| Quantity::try_from(text).ok());
        let size_limit = limit.map(|limit| limit.value()).filter(|bytes| *bytes > 0);
        return Ok(Shape::Empty(medium(empty.medium.as_deref().unwrap_or_default(), size_limit)?));
    }
    if let Some(host) = &volume.host_path {
        return Ok(Shape::Host { path: PathBuf::from(&host.path), check: host_check(host)? });
    }
    let files = |kind, in_memory| Ok(Shape::Files { kind, in_memory });
    if volume.config_map.is_some() {
        return files(FilesKind::ConfigMap, false);
    }
    if volume.secret.is_some() {
        return files(FilesKind::Secret, true);
    }
    if volume.downward_api.is_some() {
        return files(FilesKind::DownwardApi, false);
    }
    if volume.projected.is_some() {
        return files(FilesKind::Projected, true);
    }
    Err(PlanError::Unsupported(unsupported(volume)))
}

fn medium(name: &str, size_limit: Option<i64>) -> Result<Medium, PlanError> {
    match name {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory { size_limit }),
        "HugePages" => Ok(Medium::HugePages { page_bytes: None }),
        _ => {
            let size = name.strip_prefix("HugePages-").and_then(|size| size.parse::<Quantity>().ok());
            let page_bytes = Some(size.ok_or_else(|| PlanError::Medium(name.into()))?.value());
            Ok(Medium::HugePages { page_bytes })
        }
    }
}

fn host_check(host: &HostPathVolumeSource) -> Result<HostCheck, PlanError> {
    Ok(match host.type_.as_deref().unwrap_or_default() {
        "" => HostCheck::None,
        "DirectoryOrCreate" => HostCheck::DirectoryOrCreate,
        "Directory" => HostCheck::Directory,
        "FileOrCreate" => HostCheck::FileOrCreate,
        "File" => HostCheck::File,
        "Socket" => HostCheck::Socket,
        "CharDevice" => HostCheck::CharDevice,
        "BlockDevice" => HostCheck::BlockDevice,
        other => return Err(PlanError::HostPathType(other.into())),
    })
}

fn unsupported(volume: &Volume) -> &'static str {
    let kinds = [
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("csi", volume.csi.is_some()),
        ("image", volume.image.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
    ];
    kinds.into_iter().find(|(_, present)| *present).map_or("(none)", |(name, _)| name)
}

/// Where a volume of the pod's own stands: upstream's layout, which other software looks into.
pub fn directory(pod_dir: &Path, shape: &Shape, name: &str) -> PathBuf {
    let plugin = match shape {
        Shape::Host { path, .. } => return path.clone(),
        Shape::Empty(_) => "empty-dir",
        Shape::Files { kind: FilesKind::ConfigMap, .. } => "configmap",
        Shape::Files { kind: FilesKind::Secret, .. } => "secret",
        Shape::Files { kind: FilesKind::DownwardApi, .. } => "downward-api",
        Shape::Files { kind: FilesKind::Projected, .. } => "projected",
    };
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// Says that an emptyDir was made once: its content and owners are the pod's from then on.
pub fn ready_file(pod_dir: &Path, name: &str) -> PathBuf {
    pod_dir.join("plugins/kubernetes.io~empty-dir").join(name).join("ready")
}

/// A volume in memory is as large as the pod's memory at most: its pages are charged to it.
pub fn tmpfs_bytes(pod: &Pod, size_limit: Option<i64>, node_memory: Option<i64>) -> Option<i64> {
    let all_limited = pods::all_containers(pod).all(|container| {
        let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key("memory"))
    });
    let own = api::pods::limits(pod).get("memory").map(Quantity::value).filter(|_| all_limited);
    [size_limit, own.filter(|bytes| *bytes > 0), node_memory].into_iter().flatten().min()
}

/// Where containers mount other volumes inside this one, relative to it: a volume that is read-only to the runtime must
/// have these places already.
pub fn nested(pod: &Pod, volume: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let lasting = pods::all_containers(pod).map(Cow::Borrowed);
    for container in lasting.chain(pods::ephemeral_containers(pod).map(Cow::Owned)) {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let whole = |sub: &Option<String>| sub.as_deref().unwrap_or_default().is_empty();
        for own in
            mounts.iter().filter(|it| it.name == volume && whole(&it.sub_path) && whole(&it.sub_path_expr))
        {
            for other in mounts.iter().filter(|it| it.name != volume) {
                let inside =
                    Path::new(&other.mount_path).strip_prefix(&own.mount_path).unwrap_or(Path::new(""));
                // What begins with two dots is the volume's own.
                let normal = inside.components().all(|part| matches!(part, Component::Normal(_)));
                if normal && !inside.as_os_str().is_empty() && !inside.to_string_lossy().starts_with("..") {
                    found.insert(inside.into());
                }
            }
        }
    }
    found
}

/// The page size of a hugetlbfs for the pod.
pub fn page_bytes(pod: &Pod, page_bytes: Option<i64>) -> Result<i64, PlanError> {
    if let Some(bytes) = page_bytes {
        return Ok(bytes);
    }
    let requests = api::pods::requests(pod);
    let mut sizes =
        requests.keys().filter_map(|name| name.strip_prefix("hugepages-")?.parse::<Quantity>().ok());
    sizes.next().map(|size| size.value()).ok_or(PlanError::NoHugePages("HugePages"))
}

pub fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// The user that all containers run as, if it is one and known.
pub fn fs_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.run_as_user);
    let own = |context: Option<&SecurityContext>| context.and_then(|it| it.run_as_user).or(of_pod);
    let mut users = pods::all_containers(pod).map(|container| own(container.security_context.as_ref()));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(source: Value) -> Volume {
        let mut source = source;
        source["name"] = json!("v");
        serde_json::from_value(source).unwrap()
    }

    #[test]
    fn every_volume_has_a_place_or_a_clear_refusal() {
        let at = |source: Value| {
            let shape = shape(&volume(source)).map_err(|error| error.to_string())?;
            Ok::<_, String>(directory(Path::new("/p"), &shape, "v").display().to_string())
        };
        for (source, expected) in [
            (json!({"emptyDir": {}}), Ok("/p/volumes/kubernetes.io~empty-dir/v")),
            (json!({"configMap": {"name": "c"}}), Ok("/p/volumes/kubernetes.io~configmap/v")),
            (json!({"secret": {"secretName": "c"}}), Ok("/p/volumes/kubernetes.io~secret/v")),
            (json!({"projected": {"sources": []}}), Ok("/p/volumes/kubernetes.io~projected/v")),
            (json!({"downwardAPI": {}}), Ok("/p/volumes/kubernetes.io~downward-api/v")),
            (json!({"hostPath": {"path": "/etc"}}), Ok("/etc")),
            (json!({"hostPath": {"path": "/etc", "type": "X"}}), Err("X is an invalid volume type")),
            (json!({"emptyDir": {"medium": "Tape"}}), Err("unknown storage medium \"Tape\"")),
            (json!({"nfs": {"server": "s", "path": "/"}}), Err("volume type nfs is not supported yet")),
            (
                json!({"persistentVolumeClaim": {"claimName": "c"}}),
                Err("volume type persistentVolumeClaim is not supported yet"),
            ),
        ] {
            assert_eq!(at(source), expected.map(String::from).map_err(String::from));
        }
    }

    #[test]
    fn a_volume_in_memory_is_no_larger_than_the_pod() {
        let pod = |limit: Value| -> Pod {
            let limits = json!({"limits": limit});
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": limits}]}}),
            )
            .unwrap()
        };
        let limited = pod(json!({"memory": "64Mi"}));
        assert_eq!(tmpfs_bytes(&limited, None, Some(1 << 30)), Some(64 << 20));
        assert_eq!(tmpfs_bytes(&limited, Some(1 << 20), Some(1 << 30)), Some(1 << 20));
        assert_eq!(tmpfs_bytes(&pod(json!({})), None, Some(1 << 30)), Some(1 << 30));
        assert_eq!(tmpfs_bytes(&pod(json!({})), None, None), None);
    }

    #[test]
    fn files_belong_to_the_user_that_all_containers_share() {
        let pod = |of_pod: Value, users: [Value; 2]| -> Pod {
            let containers = users.map(|user| json!({"name": "c", "securityContext": {"runAsUser": user}}));
            serde_json::from_value(json!({"metadata": {}, "spec": {"securityContext": {"runAsUser": of_pod}, "containers": containers}}))
                .unwrap()
        };
        assert_eq!(fs_user(&pod(json!(7), [json!(null), json!(7)])), Some(7));
        assert_eq!(fs_user(&pod(json!(7), [json!(null), json!(8)])), None);
        assert_eq!(fs_user(&pod(json!(null), [json!(null), json!(8)])), None);
    }
}
