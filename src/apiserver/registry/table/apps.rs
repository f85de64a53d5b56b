//! apps, discovery, coordination, policy and scheduling.

use super::acting::subresource;
use super::rules;
use crate::registry::columns::{config, network, workload};
use crate::registry::strategy::{daemon_set, endpoints, revision, small, workload as workloads};
use crate::registry::{How, Resource, ScalePaths, Subresource, Verbs};

pub(super) fn rows() -> Vec<Resource> {
    let revisions = rules(revision::CONTROLLER_REVISIONS);
    vec![
        Resource::namespaced("apps", "v1", "Deployment", "deployments", rules(workloads::DEPLOYMENTS))
            .short(&["deploy"])
            .in_categories(&["all"])
            .with_columns(workload::deployments())
            .with_status()
            .with_subresource(scale()),
        Resource::namespaced("apps", "v1", "ReplicaSet", "replicasets", rules(workloads::REPLICA_SETS))
            .short(&["rs"])
            .in_categories(&["all"])
            .with_columns(workload::replica_sets())
            .selectable("status.replicas", "0")
            .with_status()
            .with_subresource(scale()),
        Resource::namespaced("apps", "v1", "DaemonSet", "daemonsets", rules(daemon_set::DAEMON_SETS))
            .short(&["ds"])
            .in_categories(&["all"])
            .with_columns(workload::daemon_sets())
            .with_status(),
        Resource::namespaced("apps", "v1", "ControllerRevision", "controllerrevisions", revisions)
            .with_columns(workload::controller_revisions()),
        Resource::namespaced(
            "discovery.k8s.io",
            "v1",
            "EndpointSlice",
            "endpointslices",
            rules(endpoints::ENDPOINT_SLICES),
        )
        .with_columns(network::endpoint_slices()),
        Resource::namespaced("coordination.k8s.io", "v1", "Lease", "leases", rules(small::LEASES))
            .with_columns(config::leases()),
        Resource::namespaced(
            "policy",
            "v1",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            rules(small::POD_DISRUPTION_BUDGETS),
        )
        .short(&["pdb"])
        .with_columns(workload::disruption_budgets())
        .with_status(),
        Resource::cluster(
            "scheduling.k8s.io",
            "v1",
            "PriorityClass",
            "priorityclasses",
            rules(small::PRIORITY_CLASSES),
        )
        .short(&["pc"])
        .with_columns(config::priority_classes()),
    ]
}

pub(super) fn scale() -> Subresource {
    let paths = ScalePaths {
        replicas: "/spec/replicas".into(),
        status_replicas: "/status/replicas".into(),
        selector: "/spec/selector".into(),
    };
    subresource("scale", Verbs::GET_UPDATE_PATCH, ("autoscaling", "v1", "Scale"), How::Scale(paths))
}
