//! Deployments, ReplicaSets and their kin, PodDisruptionBudgets.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::{NONE, age, containers, integer, labels, list, name, number, selector, string, text, wide};
use crate::registry::Column;

pub(in crate::registry) fn deployments() -> Vec<Column> {
    let mut columns = vec![
        name(),
        text("Ready", "Number of the pod with ready state", |object, _| {
            let (ready, wanted) = (number(object, "/status/readyReplicas"), number(object, "/spec/replicas"));
            format!("{ready}/{wanted}").into()
        }),
        text("Up-to-date", "Pods that have the desired template.", |object, _| {
            number(object, "/status/updatedReplicas").into()
        }),
        text("Available", "Pods that have been ready for at least minReadySeconds.", |object, _| {
            number(object, "/status/availableReplicas").into()
        }),
        age(),
    ];
    columns.extend(template());
    columns
}

pub(in crate::registry) fn replica_sets() -> Vec<Column> {
    let mut columns = replicas();
    columns.extend(template());
    columns
}

/// As those of ReplicaSets, but for the selector, which is a map here.
pub(in crate::registry) fn replication_controllers() -> Vec<Column> {
    let mut columns = replicas();
    let [containers, images, _] = template();
    let selector = text("Selector", "Which pods are counted.", |object, _| labels(object, "/spec/selector"));
    columns.extend([containers, images, wide(selector)]);
    columns
}

fn replicas() -> Vec<Column> {
    vec![
        name(),
        integer("Desired", "The number of desired pods.", |object, _| {
            number(object, "/spec/replicas").into()
        }),
        integer("Current", "The number of pods.", |object, _| number(object, "/status/replicas").into()),
        integer("Ready", "The number of pods that are ready.", |object, _| {
            number(object, "/status/readyReplicas").into()
        }),
        age(),
    ]
}

pub(in crate::registry) fn stateful_sets() -> Vec<Column> {
    let ready = text("Ready", "Number of the pod with ready state", |object, _| {
        let (ready, wanted) = (number(object, "/status/readyReplicas"), number(object, "/spec/replicas"));
        format!("{ready}/{wanted}").into()
    });
    let [containers, images, _] = template();
    vec![name(), ready, age(), containers, images]
}

pub(in crate::registry) fn daemon_sets() -> Vec<Column> {
    let mut columns = vec![
        name(),
        integer("Desired", "On how many nodes a pod should run.", |object, _| {
            number(object, "/status/desiredNumberScheduled").into()
        }),
        integer("Current", "On how many of these nodes one runs.", |object, _| {
            number(object, "/status/currentNumberScheduled").into()
        }),
        integer("Ready", "On how many of these nodes one is ready.", |object, _| {
            number(object, "/status/numberReady").into()
        }),
        integer("Up-to-date", "On how many of these nodes it is of the present template.", |object, _| {
            number(object, "/status/updatedNumberScheduled").into()
        }),
        integer("Available", "On how many of these nodes it has been ready for long enough.", |object, _| {
            number(object, "/status/numberAvailable").into()
        }),
        text("Node Selector", "Which nodes should run a pod.", |object, _| {
            labels(object, "/spec/template/spec/nodeSelector")
        }),
        age(),
    ];
    columns.extend(template());
    columns
}

pub(in crate::registry) fn controller_revisions() -> Vec<Column> {
    let controller = text("Controller", "Controller of the object", |object, _| {
        let owner =
            list(object, "/metadata/ownerReferences").iter().find(|owner| owner["controller"] == true);
        let Some(owner) = owner else { return NONE.into() };
        let kind = string(owner, "/kind").to_lowercase();
        let name = string(owner, "/name");
        match string(owner, "/apiVersion").split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{name}").into(),
            None => format!("{kind}/{name}").into(),
        }
    });
    let revision =
        text("Revision", "Which one after which it is.", |object, _| number(object, "/revision").into());
    vec![name(), controller, revision, age()]
}

fn template() -> [Column; 3] {
    [
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            containers(object, "/spec/template/spec/containers", "name")
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            containers(object, "/spec/template/spec/containers", "image")
        })),
        wide(text("Selector", "Which pods are counted.", |object, _| selector(object, "/spec/selector"))),
    ]
}

pub(in crate::registry) fn disruption_budgets() -> Vec<Column> {
    fn bound(object: &Value, field: &str) -> Value {
        match &object["spec"][field] {
            Value::String(percent) => percent.as_str().into(),
            Value::Number(count) => count.to_string().into(),
            _ => "N/A".into(),
        }
    }
    vec![
        name(),
        text("Min Available", "The minimum number of pods that must be available.", |object, _| {
            bound(object, "minAvailable")
        }),
        text("Max Unavailable", "The maximum number of pods that may be unavailable.", |object, _| {
            bound(object, "maxUnavailable")
        }),
        integer(
            "Allowed Disruptions",
            "Calculated number of pods that may be disrupted at this time.",
            |object, _| number(object, "/status/disruptionsAllowed").into(),
        ),
        age(),
    ]
}
