//! The registry's rows by group and version, in the order in which clients prefer them.
#![deny(clippy::disallowed_methods)]

use std::{cmp::Reverse, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::registry::{Resource, Rows, Scope, Subresource, Virtual};

pub(crate) struct Group<'r> {
    pub(crate) name: &'r str,
    /// The preferred one first.
    pub(crate) versions: Vec<Version<'r>>,
}

pub(crate) struct Version<'r> {
    pub(crate) group: &'r str,
    pub(crate) version: &'r str,
    /// By name.
    pub(crate) items: Vec<Item<'r>>,
}

/// A resource, stored or only answered.
pub(crate) enum Item<'r> {
    Stored(&'r Resource),
    Virtual(&'r Virtual),
}

/// Groups in upstream's order of priority; others (of custom resources) follow by name.
const ORDER: [&str; 23] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

pub(crate) fn of(rows: &Rows) -> Vec<Group<'_>> {
    let mut items: BTreeMap<(&str, &str), Vec<Item<'_>>> = BTreeMap::new();
    for row in &rows.stored {
        for served in &row.served {
            items.entry((&served.group, &served.version)).or_default().push(Item::Stored(row));
        }
    }
    for row in &rows.virtuals {
        items.entry((&row.group, &row.version)).or_default().push(Item::Virtual(row));
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for ((group, version), mut items) in items {
        items.sort_by_key(Item::plural);
        let version = Version { group, version, items };
        match groups.last_mut() {
            Some(last) if last.name == group => last.versions.push(version),
            _ => groups.push(Group { name: group, versions: vec![version] }),
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|version| Reverse(rank(version.version)));
    }
    // Stable: groups without a place stay in the order of their names.
    groups.sort_by_key(|group| ORDER.iter().position(|known| *known == group.name).unwrap_or(ORDER.len()));
    groups
}

pub(crate) fn group<'g, 'r>(groups: &'g [Group<'r>], name: &str) -> Option<&'g Group<'r>> {
    groups.iter().find(|group| group.name == name && !name.is_empty())
}

pub(crate) fn version<'g, 'r>(
    groups: &'g [Group<'r>],
    group: &str,
    version: &str,
) -> Option<&'g Version<'r>> {
    let group = groups.iter().find(|known| known.name == group)?;
    group.versions.iter().find(|known| known.version == version)
}

/// How a version is preferred: v2 over v1 over v1beta2 over v1alpha1.
fn rank(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let rest = version.trim_start_matches('v');
    if let Some((major, minor)) = rest.split_once("beta") {
        (1, number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (0, number(major), number(minor))
    } else {
        (2, number(rest), 0)
    }
}

impl Version<'_> {
    /// `v1`, `apps/v1`
    pub(crate) fn name(&self) -> String {
        name(self.group, self.version)
    }
}

pub(crate) fn name(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

impl<'r> Item<'r> {
    pub(crate) fn plural(&self) -> &'r str {
        match self {
            Self::Stored(row) => &row.plural,
            Self::Virtual(row) => &row.plural,
        }
    }

    pub(crate) fn singular(&self) -> &'r str {
        match self {
            Self::Stored(row) => &row.singular,
            Self::Virtual(row) => &row.singular,
        }
    }

    pub(crate) fn kind(&self) -> &'r str {
        match self {
            Self::Stored(row) => &row.kind,
            Self::Virtual(row) => &row.kind,
        }
    }

    pub(crate) fn is_namespaced(&self) -> bool {
        match self {
            Self::Stored(row) => row.scope == Scope::Namespaced,
            Self::Virtual(row) => row.scope == Scope::Namespaced,
        }
    }

    pub(crate) fn verbs(&self) -> Vec<&'static str> {
        match self {
            Self::Stored(row) => row.verbs.names(),
            Self::Virtual(_) => vec!["create"],
        }
    }

    pub(crate) fn short_names(&self) -> Vec<&'r str> {
        match self {
            Self::Stored(row) => row.short_names.iter().map(AsRef::as_ref).collect(),
            Self::Virtual(_) => Vec::new(),
        }
    }

    pub(crate) fn categories(&self) -> Vec<&'r str> {
        match self {
            Self::Stored(row) => row.categories.iter().map(AsRef::as_ref).collect(),
            Self::Virtual(_) => Vec::new(),
        }
    }

    /// By name.
    pub(crate) fn subresources(&self) -> Vec<&'r Subresource> {
        let mut found: Vec<_> = match self {
            Self::Stored(row) => row.subresources.iter().collect(),
            Self::Virtual(_) => Vec::new(),
        };
        found.sort_by_key(|sub| sub.name.as_ref());
        found
    }

    /// Tells clients whether two resources are the same objects in the store.
    pub(crate) fn storage_version_hash(&self) -> Option<String> {
        let Self::Stored(row) = self else { return None };
        let storage = row.storage();
        let digest = Sha256::digest(format!("{}/{}/{}", storage.group, storage.version, row.kind));
        Some(STANDARD.encode(&digest[..8]))
    }
}

/// The kind that a subresource takes and answers, as (group, version, kind).
pub(crate) fn kind_of<'r>(
    sub: &'r Subresource,
    item: &Item<'r>,
    within: &Version<'r>,
) -> (&'r str, &'r str, &'r str) {
    match (sub.kind.0.as_ref(), sub.kind.1.as_ref(), sub.kind.2.as_ref()) {
        (_, _, "") => (within.group, within.version, item.kind()),
        named => named,
    }
}
