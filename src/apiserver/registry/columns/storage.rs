//! StorageClasses, CSIDrivers, CSINodes.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::{age, boolean, integer, list, name, or_none, size, string, text};
use crate::registry::Column;

pub(in crate::registry) fn storage_classes() -> Vec<Column> {
    let mut named = name();
    named.cell = crate::registry::Cell::Of(|object, _| {
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|key| object["metadata"]["annotations"][*key] == "true");
        let name = string(object, "/metadata/name");
        if default { format!("{name} (default)").into() } else { name.into() }
    });
    vec![
        named,
        text("Provisioner", "Who makes the volumes.", |object, _| string(object, "/provisioner").into()),
        text("ReclaimPolicy", "What becomes of a volume when its claim goes.", |object, _| {
            or(string(object, "/reclaimPolicy"), "Delete")
        }),
        text("VolumeBindingMode", "When a claim is bound.", |object, _| {
            or(string(object, "/volumeBindingMode"), "Immediate")
        }),
        text("AllowVolumeExpansion", "Whether volumes can grow.", |object, _| {
            object["allowVolumeExpansion"].as_bool().unwrap_or_default().into()
        }),
        age(),
    ]
}

fn or(text: &str, default: &str) -> Value {
    if text.is_empty() { default.into() } else { text.into() }
}

pub(in crate::registry) fn csi_nodes() -> Vec<Column> {
    let drivers = integer("Drivers", "The number of CSI drivers registered on the node", |object, _| {
        size(object, "/spec/drivers").into()
    });
    vec![name(), drivers, age()]
}

pub(in crate::registry) fn csi_drivers() -> Vec<Column> {
    fn flag(object: &Value, field: &str, default: bool) -> Value {
        object["spec"][field].as_bool().unwrap_or(default).into()
    }
    vec![
        name(),
        boolean("AttachRequired", "Whether volumes are attached first.", |object, _| {
            flag(object, "attachRequired", true)
        }),
        boolean("PodInfoOnMount", "Whether the driver is told of the pod.", |object, _| {
            flag(object, "podInfoOnMount", false)
        }),
        boolean("StorageCapacity", "Whether the driver tells its capacity.", |object, _| {
            flag(object, "storageCapacity", false)
        }),
        text("TokenRequests", "For which audiences the driver wants tokens.", |object, _| {
            if object["spec"]["tokenRequests"].is_null() {
                return "<unset>".into();
            }
            let audiences: Vec<&str> = list(object, "/spec/tokenRequests")
                .iter()
                .map(|request| string(request, "/audience"))
                .collect();
            audiences.join(",").into()
        }),
        boolean("RequiresRepublish", "Whether mounted volumes are published again.", |object, _| {
            flag(object, "requiresRepublish", false)
        }),
        text("Modes", "The kinds of volumes.", |object, _| {
            let modes: Vec<&str> =
                list(object, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
            or_none(&modes.join(","))
        }),
        age(),
    ]
}
