//! The kinds that only upstream's controllers act on. While ours run in their place these are not served, so that
//! nobody is promised a StatefulSet that never comes; see [`UpstreamKinds`].

use super::apps::scale;
use super::{UpstreamKinds, rules};
use crate::registry::columns::{batch, config, device, volume as volumes, workload};
use crate::registry::strategy::{device as devices, job, stateful_set, volume};
use crate::registry::{Field, Resource};

const STORAGE: &str = "storage.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const NOBODY_ACTS: &str = "nobody would act on what is written here, as long as the cluster's controllers are \
    Coracle's (components.controllers)";

pub(super) fn rows(kinds: UpstreamKinds) -> Vec<Resource> {
    let all = || workload_rows().into_iter().chain(volume_rows()).chain(device_rows());
    match kinds {
        UpstreamKinds::Absent => Vec::new(),
        UpstreamKinds::ReadOnly => all().map(|row| row.read_only(NOBODY_ACTS)).collect(),
        UpstreamKinds::Served => all().collect(),
    }
}

fn workload_rows() -> Vec<Resource> {
    let mut jobs = Resource::namespaced("batch", "v1", "Job", "jobs", rules(job::JOBS));
    // The label is older than the field.
    jobs.fields.push(Field::new("status.successful", "/status/succeeded", "0"));
    vec![
        Resource::namespaced("apps", "v1", "StatefulSet", "statefulsets", rules(stateful_set::STATEFUL_SETS))
            .short(&["sts"])
            .in_categories(&["all"])
            .with_columns(workload::stateful_sets())
            .with_status()
            .with_subresource(scale()),
        jobs.in_categories(&["all"]).with_columns(batch::jobs()).with_status(),
        Resource::namespaced("batch", "v1", "CronJob", "cronjobs", rules(job::CRON_JOBS))
            .short(&["cj"])
            .in_categories(&["all"])
            .with_columns(batch::cron_jobs())
            .with_status(),
    ]
}

fn volume_rows() -> Vec<Resource> {
    let claims = rules(volume::PERSISTENT_VOLUME_CLAIMS);
    let capacities = rules(volume::CSI_STORAGE_CAPACITIES);
    let attachments = rules(volume::VOLUME_ATTACHMENTS);
    vec![
        by_old_name(Resource::cluster(
            "",
            "v1",
            "PersistentVolume",
            "persistentvolumes",
            rules(volume::PERSISTENT_VOLUMES),
        ))
        .short(&["pv"])
        .with_columns(volumes::persistent_volumes())
        .with_status(),
        by_old_name(Resource::namespaced(
            "",
            "v1",
            "PersistentVolumeClaim",
            "persistentvolumeclaims",
            claims,
        ))
        .short(&["pvc"])
        .with_columns(volumes::persistent_volume_claims())
        .with_status(),
        Resource::cluster(STORAGE, "v1", "VolumeAttachment", "volumeattachments", attachments)
            .with_columns(volumes::volume_attachments())
            .with_status(),
        Resource::namespaced(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities", capacities)
            .with_columns(volumes::csi_storage_capacities()),
    ]
}

fn device_rows() -> Vec<Resource> {
    let claims = rules(devices::RESOURCE_CLAIMS);
    let templates = rules(devices::RESOURCE_CLAIM_TEMPLATES);
    vec![
        Resource::cluster(DEVICES, "v1", "DeviceClass", "deviceclasses", rules(devices::DEVICE_CLASSES))
            .with_columns(config::plain()),
        Resource::namespaced(DEVICES, "v1", "ResourceClaim", "resourceclaims", claims)
            .with_columns(device::resource_claims())
            .with_status(),
        Resource::namespaced(DEVICES, "v1", "ResourceClaimTemplate", "resourceclaimtemplates", templates)
            .with_columns(config::plain()),
        Resource::cluster(DEVICES, "v1", "ResourceSlice", "resourceslices", rules(devices::RESOURCE_SLICES))
            .with_columns(device::resource_slices())
            .selectable("spec.nodeName", "")
            .selectable("spec.driver", ""),
    ]
}

/// Upstream lets these be selected by `name` as well, as it always has.
fn by_old_name(mut row: Resource) -> Resource {
    row.fields.push(Field::new("name", "/metadata/name", ""));
    row
}
