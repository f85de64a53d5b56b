//! Labels and label selectors inside of objects. The metadata of the objects themselves is checked for all
//! kinds alike, not here.

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
