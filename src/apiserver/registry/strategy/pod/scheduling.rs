//! Validation of where a pod may run: node selectors, affinity, tolerations, spreading, gates.

use std::collections::BTreeSet;

use api::names;

use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::{Findings, POSITIVE};
use crate::registry::strategy::meta;

const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn all(spec: &At<'_>, found: &mut Findings) {
    meta::labels(&spec.get("nodeSelector"), found);
    affinity(&spec.get("affinity"), found);
    gates(&spec.get("schedulingGates"), found);
    spread(&spec.get("topologySpreadConstraints"), found);
    tolerations(&spec.get("tolerations"), found);
}

pub(super) fn tolerations(list: &At<'_>, found: &mut Findings) {
    for toleration in list.items() {
        let [key, operator, value, effect] =
            ["key", "operator", "value", "effect"].map(|name| toleration.get(name));
        if !key.is_empty() {
            found.complaints(&key, names::qualified_name(key.text()));
        } else if operator.text() != "Exists" {
            found.invalid_value(
                &operator,
                operator.text(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").present() && effect.text() != "NoExecute" {
            found.invalid_value(
                &effect,
                effect.text(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator.text() {
            "" | "Equal" => {
                let complaints = names::label_value(value.text());
                if !complaints.is_empty() {
                    found.invalid_value(&operator, value.text(), &complaints.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    found.invalid_value(&operator, value.text(), detail);
                }
            }
            "Lt" | "Gt" => {
                if value.text().parse::<i64>().is_err() {
                    found.invalid(&value, "must be a valid decimal integer in canonical form");
                }
            }
            _ => found.not_supported(&operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            found.one_of(&effect, &TAINT_EFFECTS);
        }
    }
}

/// An update may add tolerations and change how long one holds, no more.
pub(super) fn only_added_tolerations(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let bare = |toleration: &At<'_>| {
        let mut value = toleration.value().clone();
        crate::registry::strategy::fill::remove(&mut value, "tolerationSeconds");
        value
    };
    let kept: Vec<_> = new.items().map(|toleration| bare(&toleration)).collect();
    if old.items().any(|toleration| !kept.contains(&bare(&toleration))) {
        return found.forbidden(new, "existing toleration can not be modified except its tolerationSeconds");
    }
    tolerations(new, found);
}

fn gates(list: &At<'_>, found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for gate in list.items() {
        let name = gate.get("name");
        found.complaints(&At::named(gate.path(), name.value()), names::qualified_name(name.text()));
        if !seen.insert(name.text()) {
            found.duplicate_value(&gate, name.text());
        }
    }
}

fn affinity(at: &At<'_>, found: &mut Findings) {
    let node = at.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.present() {
        node_selector(&required, found);
    }
    for term in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&term, found);
        node_selector_term(&term.get("preference"), found);
    }
    for pods in ["podAffinity", "podAntiAffinity"].map(|name| at.get(name)) {
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term, found);
        }
        for term in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&term, found);
            pod_term(&term.get("podAffinityTerm"), found);
        }
    }
}

fn weight(term: &At<'_>, found: &mut Findings) {
    let weight = term.get("weight");
    if !(1..=100).contains(&weight.int().unwrap_or_default()) {
        found.invalid_value(&weight, weight.int().unwrap_or_default(), "must be in the range 1-100");
    }
}

fn pod_term(term: &At<'_>, found: &mut Findings) {
    for selector in ["labelSelector", "namespaceSelector"] {
        meta::label_selector(&term.get(selector), found);
    }
    for namespace in term.get("namespaces").items() {
        found.complaints(&namespace, names::dns1123_label(namespace.text()));
    }
    let key = term.get("topologyKey");
    if key.is_empty() {
        found.required(&key, "can not be empty");
    }
    for complaint in names::qualified_name(key.text()) {
        found.invalid_value(&key, key.text(), &complaint);
    }
}

pub(super) fn node_selector(at: &At<'_>, found: &mut Findings) {
    let terms = at.get("nodeSelectorTerms");
    if terms.is_empty() {
        return found.required(&terms, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_selector_term(&term, found);
    }
}

fn node_selector_term(term: &At<'_>, found: &mut Findings) {
    for requirement in term.get("matchExpressions").items() {
        let (key, operator, values) =
            (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                found.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                found
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                found.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => found.invalid_value(&operator, other, "not a valid selector operator"),
        }
        found.complaints(&key, names::qualified_name(key.text()));
    }
    for requirement in term.get("matchFields").items() {
        let (key, operator, values) =
            (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.len() != 1 => {
                let detail =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                found.required(&values, detail);
            }
            "In" | "NotIn" => {}
            other => found.invalid_value(&operator, other, "not a valid selector operator"),
        }
        if key.text() != "metadata.name" {
            found.invalid(&key, "not a valid field selector key");
        }
    }
}

fn spread(list: &At<'_>, found: &mut Findings) {
    for (i, constraint) in list.items().enumerate() {
        let (skew, key, action) =
            (constraint.get("maxSkew"), constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if skew.int().unwrap_or_default() <= 0 {
            found.invalid_value(&skew, skew.int().unwrap_or_default(), POSITIVE);
        }
        if key.is_empty() {
            found.required(&key, "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action.text()) {
            found.not_supported(
                &At::named(action.path(), &action.text().into()),
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        let same = |other: &At<'_>| {
            (other.get("topologyKey").text(), other.get("whenUnsatisfiable").text())
                == (key.text(), action.text())
        };
        if list.items().skip(i + 1).any(|other| same(&other)) {
            let pair = format!("{{{}, {}}}", key.text(), action.text());
            found.duplicate_value(&constraint.get("{topologyKey, whenUnsatisfiable}"), pair);
        }
        let domains = constraint.get("minDomains");
        if let Some(count) = domains.int() {
            if count <= 0 {
                found.invalid(&domains, POSITIVE);
            }
            if action.text() != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.text()
                );
                found.invalid(&domains, &detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            found.one_of_if_any(&constraint.get(policy), &["Honor", "Ignore"]);
        }
        meta::label_selector(&constraint.get("labelSelector"), found);
    }
}
