//! Labels and label selectors inside of objects. The metadata of the objects themselves is checked for all
//! kinds alike, not here.

use std::collections::HashSet;

use api::names;

use super::at::At;
use super::findings::Findings;

/// A map of labels, e.g. a node selector.
pub fn labels(at: &At<'_>, found: &mut Findings) {
    for (key, value) in at.entries() {
        for complaint in names::qualified_name(key) {
            found.invalid_value(at, key, &complaint);
        }
        for complaint in names::label_value(value.text()) {
            found.invalid_value(at, value.text(), &complaint);
        }
    }
}

/// `metav1.LabelSelector`.
pub fn label_selector(at: &At<'_>, found: &mut Findings) {
    labels(&at.get("matchLabels"), found);
    for requirement in at.get("matchExpressions").items() {
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
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => found.invalid_value(&operator, other, "not a valid selector operator"),
        }
        found.complaints(&key, names::qualified_name(key.text()));
        for value in values.items() {
            found.complaints(&value, names::label_value(value.text()));
        }
    }
}

/// `metav1.Condition`s, each type once.
pub fn conditions(at: &At<'_>, found: &mut Findings) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    let mut seen = HashSet::new();
    for condition in at.items() {
        let field = |name: &str| condition.get(name);
        if !seen.insert(field("type").text()) {
            found.duplicate(&field("type"));
        }
        found.complaints(&field("type"), names::qualified_name(field("type").text()));
        if !STATUSES.contains(&field("status").text()) {
            found.not_supported(&field("status"), &STATUSES);
        }
        found.not_negative(&field("observedGeneration"));
        if field("lastTransitionTime").is_empty() {
            found.required(&field("lastTransitionTime"), "");
        }
        let reason = field("reason");
        if reason.is_empty() {
            found.required(&reason, "");
        } else {
            found.complaints(&reason, condition_reason(reason.text()));
        }
        for (at, max) in [(reason, 1024), (field("message"), 32 * 1024)] {
            if at.text().len() > max {
                found.too_long(&at, max);
            }
        }
    }
}

fn condition_reason(reason: &str) -> Vec<String> {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    let ends_well = !reason.ends_with([',', ':']);
    if reason.starts_with(|c: char| c.is_ascii_alphabetic()) && reason.chars().all(inside) && ends_well {
        return Vec::new();
    }
    let message = "a condition reason must start with alphabetic character, optionally followed by a string of \
                   alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![names::regex_error(message, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)]
}

/// Whether a selector matches labels. An empty selector matches everything.
pub fn selects(selector: &At<'_>, labels: &At<'_>) -> bool {
    let label = |key: &str| labels.value().get(key).and_then(serde_json::Value::as_str);
    let exact = selector.get("matchLabels").entries().all(|(key, value)| label(key) == Some(value.text()));
    exact
        && selector.get("matchExpressions").items().all(|requirement| {
            let found = label(requirement.get("key").text());
            let among = || requirement.get("values").items().any(|value| Some(value.text()) == found);
            match requirement.get("operator").text() {
                "In" => found.is_some() && among(),
                "NotIn" => !among(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
