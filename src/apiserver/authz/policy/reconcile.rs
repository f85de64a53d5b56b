//! What an existing object of the policy lacks. Nothing that somebody has added is taken away.
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

use super::AUTO_UPDATE;
use crate::authz::rbac::{Rule, joined, uncovered};

/// `existing` with what it lacks of `wanted`; `None` if that is nothing, or if its owner has switched updates off by
/// the annotation `rbac.authorization.kubernetes.io/autoupdate: "false"`.
pub fn reconcile(existing: &Value, wanted: &Value) -> Option<Value> {
    let auto_update = existing.pointer("/metadata/annotations").and_then(|map| map.get(AUTO_UPDATE));
    if auto_update.and_then(Value::as_str) == Some("false") {
        return None;
    }
    let mut updated = existing.clone();
    for field in ["labels", "annotations"] {
        add_keys(&mut updated, field, &wanted["metadata"][field]);
    }
    if wanted.get("roleRef").is_some() {
        updated["roleRef"] = wanted["roleRef"].clone();
        add_items(&mut updated, "/subjects", &wanted["subjects"]);
    } else {
        add_rules(&mut updated, wanted);
        reconcile_aggregation(&mut updated, wanted);
    }
    (updated != *existing).then_some(updated)
}

/// Adds keys that are not there; what is there keeps its value.
fn add_keys(object: &mut Value, field: &str, wanted: &Value) {
    let Some(wanted) = wanted.as_object() else { return };
    if !object["metadata"][field].is_object() {
        object["metadata"][field] = Value::Object(Map::new());
    }
    if let Some(map) = object["metadata"][field].as_object_mut() {
        for (key, value) in wanted {
            map.entry(key).or_insert_with(|| value.clone());
        }
    }
}

fn add_rules(object: &mut Value, wanted: &Value) {
    let missing = uncovered(&Rule::all_of(object), &Rule::all_of(wanted));
    if missing.is_empty() {
        return;
    }
    let missing = joined(&missing);
    match object["rules"].as_array_mut() {
        Some(rules) => rules.extend(missing.iter().map(Rule::to_value)),
        None => object["rules"] = missing.iter().map(Rule::to_value).collect(),
    }
}

fn reconcile_aggregation(object: &mut Value, wanted: &Value) {
    match wanted.get("aggregationRule") {
        None => {
            if let Some(object) = object.as_object_mut() {
                object.remove("aggregationRule");
            }
        }
        Some(rule) => {
            if !object["aggregationRule"].is_object() {
                object["aggregationRule"] = json!({});
            }
            add_items(object, "/aggregationRule/clusterRoleSelectors", &rule["clusterRoleSelectors"]);
        }
    }
}

/// Adds the items of a list that are not in it.
fn add_items(object: &mut Value, pointer: &str, wanted: &Value) {
    let Some(wanted) = wanted.as_array() else { return };
    let (parent, field) = pointer.rsplit_once('/').unwrap_or(("", pointer));
    let Some(parent) = object.pointer_mut(parent) else { return };
    if !parent[field].is_array() {
        parent[field] = json!([]);
    }
    if let Some(items) = parent[field].as_array_mut() {
        for item in wanted {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::policy;

    fn wanted(name: &str) -> Value {
        let named = policy::objects().into_iter().find(|(_, object)| object["metadata"]["name"] == name);
        named.unwrap().1
    }

    #[test]
    fn what_is_complete_stays_untouched() {
        for (_, object) in policy::objects() {
            assert_eq!(reconcile(&object, &object), None);
        }
    }

    #[test]
    fn a_missing_rule_is_added_and_an_extra_one_kept() {
        let wanted = wanted("system:basic-user");
        let mut existing = wanted.clone();
        let extra = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        existing["rules"] = json!([extra]);
        existing["metadata"]["labels"] = json!({"mine": "x"});
        let updated = reconcile(&existing, &wanted).unwrap();
        assert_eq!(updated["rules"][0], extra);
        assert_eq!(uncovered(&Rule::all_of(&updated), &Rule::all_of(&wanted)), []);
        assert_eq!(updated["metadata"]["labels"]["mine"], "x");
        assert_eq!(updated["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        assert_eq!(reconcile(&updated, &wanted), None);
    }

    #[test]
    fn a_missing_subject_is_added_and_a_changed_role_put_back() {
        let wanted = wanted("system:discovery");
        assert!(reconcile(&wanted, &wanted).is_none());
        let binding = policy::objects().into_iter().find(|(resource, object)| {
            resource.resource == "clusterrolebindings" && object["metadata"]["name"] == "system:discovery"
        });
        let wanted = binding.unwrap().1;
        let mut existing = wanted.clone();
        existing["subjects"] = json!([{"kind": "User", "name": "jane"}]);
        existing["roleRef"]["name"] = json!("other");
        let updated = reconcile(&existing, &wanted).unwrap();
        assert_eq!(updated["subjects"].as_array().unwrap().len(), 2);
        assert_eq!(updated["roleRef"]["name"], "system:discovery");
    }

    #[test]
    fn an_owner_can_switch_updates_off() {
        let wanted = wanted("system:basic-user");
        let mut existing = wanted.clone();
        existing["rules"] = json!([]);
        existing["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(reconcile(&existing, &wanted), None);
    }
}
