//! Validation of resource requests and limits.

use std::collections::BTreeSet;

use api::quantity::Quantity;

use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::{Findings, NOT_NEGATIVE};
use api::names;

/// Unqualified names that a container may ask for.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const KNOWN: [&str; 14] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "secrets",
    "storage",
];

/// `claims` are the pod's resource claims; `None` where claims mean nothing.
pub(super) fn requirements(at: &At<'_>, claims: Option<&BTreeSet<&str>>, found: &mut Findings) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    for (name, entry) in limits.entries() {
        resource_name(name, &entry, found);
        quantity(name, &entry, found);
    }
    for (name, entry) in requests.entries() {
        resource_name(name, &entry, found);
        quantity(name, &entry, found);
        let Ok(request) = parse(&entry) else { continue };
        let limit = limits.key(name);
        match parse(&limit) {
            Ok(limit_value) if request != limit_value && !overcommits(name) => {
                let detail = format!("must be equal to {name} limit of {}", limit.text());
                found.invalid_value(&requests, entry.value().clone(), &detail);
            }
            Ok(limit_value) if request > limit_value => {
                let detail = format!("must be less than or equal to {name} limit of {}", shown(&limit));
                found.invalid_value(&requests, shown(&entry), &detail);
            }
            Err(()) if !limit.present() && !overcommits(name) => {
                found.required(&limits, "Limit must be set for non overcommitable resources");
            }
            Ok(_) | Err(()) => {}
        }
    }
    let all: Vec<&str> = limits.entries().chain(requests.entries()).map(|(name, _)| name).collect();
    let huge = all.iter().any(|name| name.starts_with("hugepages-"));
    if huge && !all.iter().any(|name| matches!(*name, "cpu" | "memory")) {
        found.forbidden(at, "HugePages require cpu or memory");
    }
    if let Some(claims) = claims {
        used_claims(&at.get("claims"), claims, found);
    }
}

fn used_claims(list: &At<'_>, claims: &BTreeSet<&str>, found: &mut Findings) {
    for claim in list.items() {
        let name = claim.get("name").text();
        if name.is_empty() {
            found.required(&claim, "");
        } else if !claims.contains(name) {
            let at = At::named(claim.path(), claim.get("name").value());
            found.not_found(&at);
        }
    }
}

/// A quantity is written as a text or as a number.
pub(super) fn parse(at: &At<'_>) -> Result<Quantity, ()> {
    if at.present() { Quantity::of_value(at.value()).map_err(|_error| ()) } else { Err(()) }
}

fn shown(at: &At<'_>) -> String {
    match at.value().as_str() {
        Some(text) => text.to_owned(),
        None => at.value().to_string(),
    }
}

fn quantity(name: &str, at: &At<'_>, found: &mut Findings) {
    let Ok(value) = parse(at) else { return };
    if value.is_negative() {
        found.invalid_value(at, shown(at), NOT_NEGATIVE);
    }
    let whole = !STANDARD.contains(&name) && !name.starts_with("hugepages-");
    if whole && !value.is_integer() {
        found.invalid_value(at, shown(at), "must be an integer");
    }
}

/// CPU, memory and the like may be promised more often than they exist; what is counted may not.
fn overcommits(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    native && !name.starts_with("hugepages-")
}

fn resource_name(name: &str, at: &At<'_>, found: &mut Findings) {
    let complaints = names::qualified_name(name);
    if !complaints.is_empty() {
        for complaint in complaints {
            found.invalid_value(at, name, &complaint);
        }
        return;
    }
    let huge = name.starts_with("hugepages-");
    if !name.contains('/') {
        if !KNOWN.contains(&name) && !huge {
            found.invalid_value(at, name, "must be a standard resource type or fully qualified");
        }
        if !STANDARD.contains(&name) && !huge {
            found.invalid_value(at, name, "must be a standard resource for containers");
        }
    } else if !name.contains("kubernetes.io/") {
        let quota_name = format!("requests.{name}");
        if name.starts_with("requests.") || !names::qualified_name(&quota_name).is_empty() {
            found.invalid_value(at, name, "doesn't follow extended resource name standard");
        }
    }
}
