//! Discovery as it was first: a document for the groups, and one for each group and version (`meta/v1`).
#![deny(clippy::disallowed_methods)]

use serde_json::{Value, json};

use super::groups::{Group, Item, Version, kind_of, name};

/// `/api`
pub(super) fn api_versions(groups: &[Group<'_>], address: &str) -> Value {
    let core = groups.iter().filter(|group| group.name.is_empty());
    let versions: Vec<&str> =
        core.flat_map(|group| group.versions.iter().map(|version| version.version)).collect();
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`
pub(super) fn group_list(groups: &[Group<'_>]) -> Value {
    let named = groups.iter().filter(|group| !group.name.is_empty());
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named.map(summary).collect::<Value>()})
}

/// `/apis/<group>`
pub(super) fn group(group: &Group<'_>) -> Value {
    let mut document = summary(group);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    document
}

fn summary(group: &Group<'_>) -> Value {
    let version = |version: &Version<'_>| json!({"groupVersion": version.name(), "version": version.version});
    json!({
        "name": group.name,
        "versions": group.versions.iter().map(version).collect::<Value>(),
        "preferredVersion": group.versions.first().map(version),
    })
}

/// `/api/v1`, `/apis/<group>/<version>`
pub(super) fn resource_list(version: &Version<'_>) -> Value {
    let resources: Vec<Value> = version.items.iter().flat_map(|item| resources(item, version)).collect();
    let mut list = json!({"kind": "APIResourceList", "groupVersion": version.name(), "resources": resources});
    if !version.group.is_empty() {
        list["apiVersion"] = "v1".into(); // upstream leaves it out for the core group
    }
    list
}

/// A resource, and its subresources.
fn resources(item: &Item<'_>, version: &Version<'_>) -> Vec<Value> {
    let mut own = json!({
        "name": item.plural(), "singularName": item.singular(), "namespaced": item.is_namespaced(),
        "kind": item.kind(), "verbs": item.verbs(),
    });
    for (key, names) in [("shortNames", item.short_names()), ("categories", item.categories())] {
        if !names.is_empty() {
            own[key] = names.into();
        }
    }
    if let Some(hash) = item.storage_version_hash() {
        own["storageVersionHash"] = hash.into();
    }
    let mut found = vec![own];
    found.extend(item.subresources().into_iter().map(|sub| {
        let (group, kind_version, kind) = kind_of(sub, item, version);
        let mut resource = json!({
            "name": format!("{}/{}", item.plural(), sub.name), "singularName": "",
            "namespaced": item.is_namespaced(), "kind": kind, "verbs": sub.verbs.names(),
        });
        if name(group, kind_version) != version.name() {
            resource["group"] = group.into();
            resource["version"] = kind_version.into();
        }
        resource
    }));
    found
}
