//! Which nodes a pod asks for: `nodeSelector`, and the terms of `affinity.nodeAffinity`.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PreferredSchedulingTerm,
};

use crate::selector::Labels;

/// Whether the pod's hard demands (`nodeSelector` and required node affinity) are met by a node of this name and labels.
pub fn required_matches(pod: &Pod, name: &str, labels: &(impl Labels + ?Sized)) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| labels.label(key) == Some(value.as_str()));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector_matches(selector, name, labels))
}

/// Any of the terms. None matches nothing.
pub fn selector_matches(selector: &NodeSelector, name: &str, labels: &(impl Labels + ?Sized)) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, name, labels))
}

/// All requirements of one term. An empty term matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &(impl Labels + ?Sized)) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| requirement_matches(r, labels.label(&r.key)))
        && fields.iter().all(|r| requirement_matches(r, (r.key == "metadata.name").then_some(name)))
}

/// The sum of the weights of the preferences that a node meets.
pub fn preference_score(
    terms: &[PreferredSchedulingTerm],
    name: &str,
    labels: &(impl Labels + ?Sized),
) -> i64 {
    let met =
        |term: &&PreferredSchedulingTerm| term.weight != 0 && term_matches(&term.preference, name, labels);
    terms.iter().filter(met).map(|term| i64::from(term.weight)).sum()
}

/// Names that required affinity pins the pod to through `metadata.name`, where every term does: a DaemonSet's pod.
pub fn pinned_names(selector: &NodeSelector) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for term in &selector.node_selector_terms {
        let pin =
            term.match_fields.iter().flatten().find(|r| r.key == "metadata.name" && r.operator == "In")?;
        names.extend(pin.values.iter().flatten().map(String::as_str));
    }
    (!selector.node_selector_terms.is_empty()).then_some(names)
}

fn requirement_matches(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let named = |value: &str| values.iter().any(|v| v == value);
    let against = || {
        let [value] = values else { return None };
        Some((found?.parse::<i64>().ok()?, value.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => found.is_some_and(named),
        "NotIn" => !found.is_some_and(named),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => against().is_some_and(|(found, value)| found > value),
        "Lt" => against().is_some_and(|(found, value)| found < value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LABELS: [(&str, &str); 2] = [("zone", "a"), ("cores", "8")];

    #[track_caller]
    fn check(term: Value, expected: bool) {
        let parsed: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
        assert_eq!(term_matches(&parsed, "n1", &LABELS), expected, "{term}");
    }

    #[test]
    fn every_operator_matches_as_upstream_does() {
        for (key, operator, values, expected) in [
            ("zone", "In", json!(["a", "b"]), true),
            ("zone", "In", json!(["b"]), false),
            ("zone", "NotIn", json!(["b"]), true),
            ("other", "NotIn", json!(["b"]), true),
            ("zone", "Exists", json!(null), true),
            ("other", "DoesNotExist", json!(null), true),
            ("cores", "Gt", json!(["7"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("zone", "Gt", json!(["1"]), false),
            ("zone", "Near", json!(["a"]), false),
        ] {
            check(
                json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
                expected,
            );
        }
    }

    #[test]
    fn fields_and_expressions_are_all_required_and_an_empty_term_matches_nothing() {
        check(json!({}), false);
        let field = json!([{"key": "metadata.name", "operator": "In", "values": ["n1"]}]);
        check(json!({"matchFields": field}), true);
        let wrong = json!([{"key": "zone", "operator": "In", "values": ["b"]}]);
        check(json!({"matchFields": field, "matchExpressions": wrong}), false);
    }

    #[test]
    fn node_selector_and_affinity_both_bind() {
        let pod = |spec: Value| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let term =
            |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        for (spec, expected) in [
            (json!({"containers": []}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "a"}}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "b"}}), false),
            (json!({"containers": [], "affinity": affinity(json!([term("b"), term("a")]))}), true),
            (json!({"containers": [], "affinity": affinity(json!([]))}), false),
            (
                json!({"containers": [], "nodeSelector": {"cores": "1"}, "affinity": affinity(json!([term("a")]))}),
                false,
            ),
        ] {
            assert_eq!(required_matches(&pod(spec.clone()), "n1", &LABELS), expected, "{spec}");
        }
    }

    #[test]
    fn preferences_add_up_and_pins_are_found() {
        let terms: Vec<PreferredSchedulingTerm> = serde_json::from_value(json!([
            {"weight": 3, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}},
            {"weight": 5, "preference": {"matchExpressions": [{"key": "other", "operator": "Exists"}]}},
            {"weight": 7, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}},
        ]))
        .unwrap();
        assert_eq!(preference_score(&terms, "n1", &LABELS), 10);
        let pinned: NodeSelector =
            serde_json::from_value(json!({"nodeSelectorTerms": [terms[2].preference]})).unwrap();
        assert_eq!(pinned_names(&pinned), Some(vec!["n1"]));
        let free: NodeSelector =
            serde_json::from_value(json!({"nodeSelectorTerms": [terms[2].preference, terms[0].preference]}))
                .unwrap();
        assert_eq!(pinned_names(&free), None);
    }
}
