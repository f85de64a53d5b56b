//! Discovery in one document (`apidiscovery.k8s.io`, KEP-3352).
#![deny(clippy::disallowed_methods)]

use serde_json::{Value, json};

use super::groups::{Group, Item, Version, kind_of};

/// The core group alone (`/api`), or all others (`/apis`).
pub(super) fn document(groups: &[Group<'_>], core: bool, version: &str) -> Value {
    let wanted = groups.iter().filter(|group| group.name.is_empty() == core);
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": wanted.map(group).collect::<Value>(),
    })
}

fn group(group: &Group<'_>) -> Value {
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": group.versions.iter().map(version).collect::<Value>()})
}

fn version(version: &Version<'_>) -> Value {
    let resources: Value = version.items.iter().map(|item| resource(item, version)).collect();
    json!({"version": version.version, "freshness": "Current", "resources": resources})
}

fn resource(item: &Item<'_>, version: &Version<'_>) -> Value {
    let scope = if item.is_namespaced() { "Namespaced" } else { "Cluster" };
    let mut resource = json!({
        "resource": item.plural(), "singularResource": item.singular(), "scope": scope, "verbs": item.verbs(),
        "responseKind": kind((version.group, version.version, item.kind()), version),
    });
    for (key, names) in [("shortNames", item.short_names()), ("categories", item.categories())] {
        if !names.is_empty() {
            resource[key] = names.into();
        }
    }
    let subresources: Vec<Value> = item
        .subresources()
        .into_iter()
        .map(|sub| {
            let kind = kind(kind_of(sub, item, version), version);
            json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs.names()})
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

/// Group and version are told only where they are others than the document's.
fn kind((group, version, kind): (&str, &str, &str), within: &Version<'_>) -> Value {
    if (group, version) == (within.group, within.version) {
        json!({"group": "", "version": "", "kind": kind})
    } else {
        json!({"group": group, "version": version, "kind": kind})
    }
}
