//! ReplicationControllers: what ReplicaSets are the successors of. Their selector is a plain map.

use api::names;
use serde_json::Value;

use super::at::At;
use super::fill::{fill, within, within_made};
use super::findings::Findings;
use super::rules::Rules;
use super::{pod, workload};

pub const REPLICATION_CONTROLLERS: Rules = Rules {
    prepare_create: |controller| controller["status"] = serde_json::json!({"replicas": 0}),
    defaults,
    validate: |controller, found| spec(&controller.get("spec"), found),
    validate_status: |new, _old, found| workload::replica_counts(&new.get("status"), found),
    warnings: |controller, old| {
        let mut warnings = name_warnings(controller, old);
        warnings.extend(workload::template_warnings(controller, old));
        warnings
    },
    // As it was before there was a choice.
    orphans_by_default: true,
    ..Rules::NONE
};

/// The template's labels are the selector, and the controller's own, where it has none.
fn defaults(controller: &mut Value) {
    within_made(controller, "spec", |spec| {
        fill(spec, "replicas", 1);
        within(spec, "template", pod::defaults::template);
    });
    let labels = controller.pointer("/spec/template/metadata/labels").cloned();
    let Some(labels) = labels.filter(Value::is_object) else { return };
    for owner in ["/spec/selector", "/metadata/labels"] {
        let (parent, field) = owner.rsplit_once('/').unwrap_or_default();
        let Some(parent) = controller.pointer_mut(parent) else { continue };
        if parent.is_object() && At::root(parent).get(field).is_empty() {
            parent[field] = labels.clone();
        }
    }
}

fn spec(spec: &At<'_>, found: &mut Findings) {
    found.not_negative(&spec.get("minReadySeconds"));
    found.not_negative(&spec.get("replicas"));
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_empty() {
        found.required(&selector, "");
    }
    if !template.present() {
        return found.required(&template, "");
    }
    let labels = template.get("metadata").get("labels");
    if !selector.entries().all(|(key, value)| labels.key(key).value() == value.value()) {
        found.invalid(&labels, "`selector` does not match template `labels`");
    }
    workload::lasting_template(&template, "ReplicationController", found);
}

/// Pods get their names, and so their host names, from their owner's.
pub fn name_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let complaints = names::dns1123_label(object["metadata"]["name"].as_str().unwrap_or_default());
    if old.is_some() || complaints.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; \
         a DNS label is recommended: [{}]",
        complaints.join(" ")
    )]
}
