//! Namespaces, ConfigMaps, Secrets, ServiceAccounts, Leases, PriorityClasses, RuntimeClasses.
#![deny(clippy::disallowed_methods)]

use super::{age, boolean, integer, name, number, size, string, text, wide};
use crate::registry::Column;

/// Name and Age.
pub(in crate::registry) fn plain() -> Vec<Column> {
    vec![name(), age()]
}

pub(in crate::registry) fn namespaces() -> Vec<Column> {
    let status =
        text("Status", "The status of the namespace", |object, _| string(object, "/status/phase").into());
    vec![name(), status, age()]
}

pub(in crate::registry) fn config_maps() -> Vec<Column> {
    let data = text("Data", "How many entries there are.", |object, _| {
        (size(object, "/data") + size(object, "/binaryData")).into()
    });
    vec![name(), data, age()]
}

pub(in crate::registry) fn secrets() -> Vec<Column> {
    vec![
        name(),
        text("Type", "What the data is for.", |object, _| string(object, "/type").into()),
        text("Data", "How many entries there are.", |object, _| size(object, "/data").into()),
        age(),
    ]
}

pub(in crate::registry) fn leases() -> Vec<Column> {
    let holder =
        text("Holder", "Who holds the lease.", |object, _| string(object, "/spec/holderIdentity").into());
    vec![name(), holder, age()]
}

pub(in crate::registry) fn priority_classes() -> Vec<Column> {
    vec![
        name(),
        integer("Value", "The priority of pods of this class.", |object, _| number(object, "/value").into()),
        boolean("Global-Default", "Whether pods without a class are of this one.", |object, _| {
            object["globalDefault"].as_bool().unwrap_or_default().into()
        }),
        age(),
        wide(text("PreemptionPolicy", "Whether such pods make room for themselves.", |object, _| {
            string(object, "/preemptionPolicy").into()
        })),
    ]
}
