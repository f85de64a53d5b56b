//! Roles and bindings.

use api::names;
use serde_json::Value;

use super::at::At;
use super::fill::{each, fill, within};
use super::findings::Findings;
use super::rules::Rules;
use crate::registry::NameRule;

const GROUP: &str = "rbac.authorization.k8s.io";

pub const ROLES: Rules = Rules {
    validate: |role, found| rules(role, true, found),
    name_rule: NameRule::PathSegment,
    creates_on_update: true,
    ..Rules::NONE
};

pub const CLUSTER_ROLES: Rules = Rules {
    validate: |role, found| {
        rules(role, false, found);
        let aggregation = role.get("aggregationRule");
        let selectors = aggregation.get("clusterRoleSelectors");
        if aggregation.present() && selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            found.required(&selectors, detail);
        }
        for selector in selectors.items() {
            super::meta::label_selector(&selector, found);
        }
    },
    ..ROLES
};

pub const ROLE_BINDINGS: Rules = Rules {
    defaults,
    validate: |binding, found| bindings(binding, &["Role", "ClusterRole"], found),
    validate_update: |new, old, found| {
        let (now, then) = (new.get("roleRef"), old.get("roleRef"));
        if now.value() != then.value() {
            found.invalid(&now, "cannot change roleRef");
        }
    },
    ..ROLES
};

pub const CLUSTER_ROLE_BINDINGS: Rules =
    Rules { validate: |binding, found| bindings(binding, &["ClusterRole"], found), ..ROLE_BINDINGS };

fn defaults(binding: &mut Value) {
    within(binding, "roleRef", |reference| fill(reference, "apiGroup", GROUP));
    each(binding, "subjects", |subject| {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            fill(subject, "apiGroup", GROUP);
        }
    });
}

fn rules(role: &At<'_>, namespaced: bool, found: &mut Findings) {
    for rule in role.get("rules").items() {
        let [verbs, groups, resources, urls] =
            ["verbs", "apiGroups", "resources", "nonResourceURLs"].map(|name| rule.get(name));
        if verbs.is_empty() {
            found.required(&verbs, "verbs must contain at least one value");
        }
        if !urls.is_empty() {
            if namespaced {
                found.invalid(&urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.get("resourceNames").is_empty() {
                found.invalid(&urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if groups.is_empty() {
            found.required(&groups, "resource rules must supply at least one api group");
        }
        if resources.is_empty() {
            found.required(&resources, "resource rules must supply at least one resource");
        }
    }
}

fn bindings(binding: &At<'_>, kinds: &[&str], found: &mut Findings) {
    let reference = binding.get("roleRef");
    let [group, kind, name] = ["apiGroup", "kind", "name"].map(|name| reference.get(name));
    if group.text() != GROUP {
        found.not_supported(&group, &[GROUP]);
    }
    if !kinds.contains(&kind.text()) {
        found.not_supported(&At::named(kind.path(), &kind.text().into()), kinds);
    }
    if name.is_empty() {
        found.required(&name, "");
    } else {
        found.complaints(&name, names::path_segment_name(name.text()));
    }
    let in_cluster = kinds.len() == 1;
    for subject in binding.get("subjects").items() {
        one_subject(&subject, in_cluster, found);
    }
}

fn one_subject(subject: &At<'_>, in_cluster: bool, found: &mut Findings) {
    let [group, kind, name] = ["apiGroup", "kind", "name"].map(|name| subject.get(name));
    if name.is_empty() {
        found.required(&name, "");
    }
    match kind.text() {
        "ServiceAccount" => {
            if !name.is_empty() {
                found.complaints(&name, names::dns1123_subdomain(name.text()));
            }
            if !group.is_empty() {
                found.not_supported(&group, &[""]);
            }
            if in_cluster && subject.get("namespace").is_empty() {
                found.required(&subject.get("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                found.not_supported(&group, &[GROUP]);
            }
        }
        _ => found.not_supported(&kind, &["ServiceAccount", "User", "Group"]),
    }
}
