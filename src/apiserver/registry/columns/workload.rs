//! Deployments, ReplicaSets, PodDisruptionBudgets.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::{age, containers, integer, name, number, selector, text, wide};
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
    let mut columns = vec![
        name(),
        integer("Desired", "The number of desired pods.", |object, _| {
            number(object, "/spec/replicas").into()
        }),
        integer("Current", "The number of pods.", |object, _| number(object, "/status/replicas").into()),
        integer("Ready", "The number of pods that are ready.", |object, _| {
            number(object, "/status/readyReplicas").into()
        }),
        age(),
    ];
    columns.extend(template());
    columns
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
