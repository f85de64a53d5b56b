//! Namespaces. One stays until `spec.finalizers` is empty: the namespace controller empties it first.

use serde_json::{Value, json};

use super::at::At;
use super::fill::{fill, object_at, within};
use super::findings::Findings;
use super::rules::Rules;
use crate::registry::NameRule;

pub const NAMESPACES: Rules = Rules {
    defaults,
    prepare_create: |namespace| {
        namespace["spec"] = json!({"finalizers": with_ours(&namespace["spec"]["finalizers"])});
        namespace["status"] = json!({"phase": "Active"});
    },
    // The finalizers of the spec change through /finalize alone.
    prepare_update: |new, old| new["spec"] = old["spec"].clone(),
    prepare_status: |new, _old| within(new, "status", |status| fill(status, "phase", "Active")),
    validate,
    validate_status: |new, _old, found| {
        let phase = new.get("status").get("phase");
        let leaving = new.get("metadata").get("deletionTimestamp").present();
        let at = At::named("status.Phase", phase.value());
        match (leaving, phase.text()) {
            (false, "Terminating") => {
                found.invalid(&at, "may only be 'Terminating' if `deletionTimestamp` is not empty");
            }
            (true, "Active") => found.invalid(&at, "may only be 'Active' if `deletionTimestamp` is empty"),
            _ => {}
        }
    },
    name_rule: NameRule::DnsLabel,
    prepare_deletion: |namespace| namespace["status"]["phase"] = "Terminating".into(),
    held: |namespace| namespace["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()),
    ..Rules::NONE
};

/// `namespaces/finalize`: only the finalizers of the spec change.
pub const FINALIZE: Rules = Rules {
    prepare_update: |new, old| {
        let finalizers = new["spec"]["finalizers"].take();
        let conditions = old["status"].clone();
        *new = old.clone();
        new["spec"] = if finalizers.is_null() { json!({}) } else { json!({ "finalizers": finalizers }) };
        new["status"] = conditions;
    },
    validate,
    ..Rules::NONE
};

fn defaults(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !name.is_empty() {
        within(namespace, "metadata", |metadata| {
            if let Some(labels) = object_at(metadata, "labels") {
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
            }
        });
    }
}

fn with_ours(finalizers: &Value) -> Vec<Value> {
    let mut list = finalizers.as_array().cloned().unwrap_or_default();
    if !list.iter().any(|finalizer| finalizer == "kubernetes") {
        list.push("kubernetes".into());
    }
    list
}

fn validate(namespace: &At<'_>, found: &mut Findings) {
    for finalizer in namespace.get("spec").get("finalizers").items() {
        let complaints = api::names::qualified_name(finalizer.text());
        let list = At::named("spec.finalizers", finalizer.value());
        if complaints.is_empty() && !finalizer.text().contains('/') && finalizer.text() != "kubernetes" {
            found.invalid(&list, "name is neither a standard finalizer name nor is it fully qualified");
        }
        found.complaints(&list, complaints);
    }
}
