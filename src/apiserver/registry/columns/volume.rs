//! PersistentVolumes, their claims and attachments, and what storage is left.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::{age, boolean, list, name, string, text, wide};
use crate::registry::Column;

const UNSET: &str = "<unset>";

pub(in crate::registry) fn persistent_volumes() -> Vec<Column> {
    vec![
        name(),
        text("Capacity", "How big the volume is.", |object, _| size(object, "/spec/capacity")),
        text("Access Modes", "In which ways it can be mounted.", |object, _| {
            modes(object, "/spec/accessModes")
        }),
        text("Reclaim Policy", "What becomes of it when its claim goes.", |object, _| {
            string(object, "/spec/persistentVolumeReclaimPolicy").into()
        }),
        text("Status", "Whether it is available, bound or released.", |object, _| phase(object)),
        text("Claim", "The claim that has it.", |object, _| {
            let claim = &object["spec"]["claimRef"];
            if claim.is_null() {
                return "".into();
            }
            format!("{}/{}", string(claim, "/namespace"), string(claim, "/name")).into()
        }),
        text("StorageClass", "StorageClass of the pv", |object, _| class(object)),
        text("VolumeAttributesClass", "VolumeAttributesClass of the pv", |object, _| {
            or_unset(object, "volumeAttributesClassName")
        }),
        text("Reason", "Why it has failed.", |object, _| string(object, "/status/reason").into()),
        age(),
        wide(text("VolumeMode", "File system or block device.", |object, _| or_unset(object, "volumeMode"))),
    ]
}

pub(in crate::registry) fn persistent_volume_claims() -> Vec<Column> {
    vec![
        name(),
        text("Status", "Whether it is pending, bound or lost.", |object, _| phase(object)),
        text("Volume", "The volume that it has.", |object, _| string(object, "/spec/volumeName").into()),
        text("Capacity", "How big that volume is.", |object, _| {
            bound(object).map_or_else(|| "".into(), |object| size(object, "/status/capacity"))
        }),
        text("Access Modes", "In which ways it can be mounted.", |object, _| {
            bound(object).map_or_else(|| "".into(), |object| modes(object, "/status/accessModes"))
        }),
        text("StorageClass", "StorageClass of the pvc", |object, _| class(object)),
        text("VolumeAttributesClass", "VolumeAttributesClass of the pvc", |object, _| {
            or_unset(object, "volumeAttributesClassName")
        }),
        age(),
        wide(text("VolumeMode", "File system or block device.", |object, _| or_unset(object, "volumeMode"))),
    ]
}

pub(in crate::registry) fn volume_attachments() -> Vec<Column> {
    let attacher =
        text("Attacher", "The driver that attaches it.", |object, _| string(object, "/spec/attacher").into());
    vec![
        name(),
        Column { format: "name".into(), ..attacher },
        text("PV", "The volume.", |object, _| string(object, "/spec/source/persistentVolumeName").into()),
        text("Node", "The node to which it is attached.", |object, _| {
            string(object, "/spec/nodeName").into()
        }),
        boolean("Attached", "Whether it is attached.", |object, _| {
            object["status"]["attached"].as_bool().unwrap_or_default().into()
        }),
        age(),
    ]
}

pub(in crate::registry) fn csi_storage_capacities() -> Vec<Column> {
    vec![
        name(),
        text("StorageClassName", "For volumes of which class.", |object, _| {
            string(object, "/storageClassName").into()
        }),
        text("Capacity", "How much is left.", |object, _| {
            object["capacity"].as_str().unwrap_or(UNSET).into()
        }),
    ]
}

/// A claim that has a volume.
fn bound(object: &Value) -> Option<&Value> {
    (!string(object, "/spec/volumeName").is_empty()).then_some(object)
}

fn phase(object: &Value) -> Value {
    let going = !string(object, "/metadata/deletionTimestamp").is_empty();
    if going { "Terminating".into() } else { string(object, "/status/phase").into() }
}

fn size(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(|sizes| sizes["storage"].as_str()).unwrap_or("0").into()
}

/// Each mode once, in the order in which they came to be.
fn modes(object: &Value, pointer: &str) -> Value {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = list(object, pointer);
    let short: Vec<&str> = SHORT
        .iter()
        .filter(|(mode, _)| modes.iter().any(|own| own == mode))
        .map(|(_, short)| *short)
        .collect();
    short.join(",").into()
}

/// The annotation is from before there was the field, and comes first.
fn class(object: &Value) -> Value {
    let annotation = &object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    annotation.as_str().unwrap_or_else(|| string(object, "/spec/storageClassName")).into()
}

fn or_unset(object: &Value, field: &str) -> Value {
    object["spec"][field].as_str().unwrap_or(UNSET).into()
}
