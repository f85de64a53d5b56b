//! Storage and runtime classes.

use super::rules;
use crate::registry::Resource;
use crate::registry::columns::{config, storage};
use crate::registry::strategy::small;

const STORAGE: &str = "storage.k8s.io";

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::cluster(STORAGE, "v1", "StorageClass", "storageclasses", rules(small::STORAGE_CLASSES))
            .short(&["sc"])
            .with_columns(storage::storage_classes()),
        Resource::cluster(STORAGE, "v1", "CSIDriver", "csidrivers", rules(small::CSI_DRIVERS))
            .with_columns(storage::csi_drivers()),
        Resource::cluster(STORAGE, "v1", "CSINode", "csinodes", rules(small::CSI_NODES))
            .with_columns(storage::csi_nodes()),
        Resource::cluster(
            "node.k8s.io",
            "v1",
            "RuntimeClass",
            "runtimeclasses",
            rules(small::RUNTIME_CLASSES),
        )
        .with_columns(config::plain()),
    ]
}
