//! Deployments and ReplicaSets, and what the others that make pods from a template share with them.

use serde_json::Value;

use super::at::At;
use super::fill::{fill, object_at, within_made};
use super::findings::{Findings, IMMUTABLE};
use super::rules::Rules;
use super::{meta, pod};

pub const DEPLOYMENTS: Rules = Rules {
    defaults: |object| {
        within_made(object, "spec", deployment_defaults);
    },
    validate: deployment,
    validate_update: selector_stays,
    validate_status: |new, old, found| {
        let status = new.get("status");
        counts(&status, &["updatedReplicas", "readyReplicas", "availableReplicas"], found);
        available_are_ready(&status, "readyReplicas", found);
        collisions_stay(new, old, found);
    },
    warnings: template_warnings,
    ..Rules::NONE
};

pub const REPLICA_SETS: Rules = Rules {
    prepare_create: |set| set["status"] = serde_json::json!({"replicas": 0}),
    defaults: |object| {
        within_made(object, "spec", |spec| {
            fill(spec, "replicas", 1);
            within_made(spec, "template", pod::defaults::template);
        });
    },
    validate: replica_set,
    validate_update: selector_stays,
    validate_status: |new, _old, found| {
        replica_counts(&new.get("status"), found);
    },
    warnings: template_warnings,
    ..Rules::NONE
};

fn deployment_defaults(spec: &mut Value) {
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = object_at(spec, "strategy") {
        let kind = strategy.entry("type").or_insert_with(|| "RollingUpdate".into());
        if kind == "" || kind.is_null() {
            *kind = "RollingUpdate".into();
        }
        if kind == "RollingUpdate"
            && let Some(rolling) = object_at(&mut spec["strategy"], "rollingUpdate")
        {
            for field in ["maxUnavailable", "maxSurge"] {
                rolling.entry(field).or_insert_with(|| "25%".into());
            }
        }
    }
    within_made(spec, "template", pod::defaults::template);
}

fn deployment(object: &At<'_>, found: &mut Findings) {
    let spec = object.get("spec");
    found.not_negative(&spec.get("replicas"));
    selector_and_template(&spec, found);
    strategy(&spec.get("strategy"), found);
    found.not_negative(&spec.get("minReadySeconds"));
    found.not_negative(&spec.get("revisionHistoryLimit"));
    let deadline = spec.get("progressDeadlineSeconds");
    found.not_negative(&deadline);
    if deadline.int().is_some_and(|secs| secs <= spec.get("minReadySeconds").int().unwrap_or_default()) {
        found.invalid(&deadline, "must be greater than minReadySeconds");
    }
}

fn replica_set(object: &At<'_>, found: &mut Findings) {
    let spec = object.get("spec");
    found.not_negative(&spec.get("replicas"));
    found.not_negative(&spec.get("minReadySeconds"));
    selector_and_template(&spec, found);
}

fn selector_and_template(spec: &At<'_>, found: &mut Findings) {
    if !selector(spec, "deployment", found) {
        return found.invalid(&spec.get("selector"), "invalid label selector");
    }
    template_is_selected(spec, found);
    lasting_template(&spec.get("template"), "ReplicaSet", found);
}

/// A selector that is required, and must not be everything. `whose` is the kind's name in that complaint. Whether
/// what is there can be used.
pub fn selector(spec: &At<'_>, whose: &str, found: &mut Findings) -> bool {
    let selector = spec.get("selector");
    if !selector.present() {
        found.required(&selector, "");
        return true;
    }
    let mut wrong = Findings::default();
    meta::label_selector(&selector, &mut wrong);
    let usable = wrong.is_empty();
    wrong.into_errors().into_iter().for_each(|error| found.push(error));
    if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
        found.invalid(&selector, &format!("empty selector is invalid for {whose}"));
    }
    usable
}

pub fn template_is_selected(spec: &At<'_>, found: &mut Findings) {
    let selector = spec.get("selector");
    let labels = spec.get("template").get("metadata").get("labels");
    let empty = selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty();
    // No selector at all selects nothing, an empty one everything.
    if !selector.present() || (!empty && !meta::selects(&selector, &labels)) {
        found.invalid(&labels, "`selector` does not match template `labels`");
    }
}

/// A template whose pods run until somebody ends them. `whose` is the kind that upstream names when they would not.
pub fn lasting_template(template: &At<'_>, whose: &str, found: &mut Findings) {
    pod::validate::template(template, found);
    let policy = template.get("spec").get("restartPolicy");
    if !matches!(policy.text(), "" | "Always") {
        found.not_supported(&policy, &["Always"]);
    }
    let deadline = template.get("spec").get("activeDeadlineSeconds");
    if deadline.present() {
        found.forbidden(&deadline, &format!("activeDeadlineSeconds in {whose} is not Supported"));
    }
}

fn strategy(at: &At<'_>, found: &mut Findings) {
    let rolling = at.get("rollingUpdate");
    match at.get("type").text() {
        "Recreate" => {
            if rolling.present() {
                found.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            for at in [&unavailable, &surge] {
                int_or_percent(at, found);
            }
            if is_zero(&unavailable) && is_zero(&surge) {
                found.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
            }
            at_most_everything(&unavailable, found);
        }
        // Upstream names the strategy and not its type here.
        _ => found.not_supported(at, &["Recreate", "RollingUpdate"]),
    }
}

/// A number that is not negative, or a text such as `25%`.
pub fn int_or_percent(at: &At<'_>, found: &mut Findings) {
    match at.value() {
        Value::Number(_) => found.not_negative(at),
        Value::String(text) => found.complaints(at, api::names::percent(text)),
        _ => {}
    }
}

pub fn at_most_everything(at: &At<'_>, found: &mut Findings) {
    if percent(at).is_some_and(|percent| percent > 100) {
        found.invalid(at, "must not be greater than 100%");
    }
}

fn percent(at: &At<'_>) -> Option<i64> {
    at.text().strip_suffix('%')?.parse().ok()
}

pub fn is_zero(at: &At<'_>) -> bool {
    match at.value() {
        Value::Number(number) => number.as_i64() == Some(0),
        // What is no number counts as none.
        Value::String(text) => text.strip_suffix('%').unwrap_or(text).parse::<i64>().unwrap_or_default() == 0,
        _ => false,
    }
}

pub fn selector_stays(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (now, then) = (new.get("spec").get("selector"), old.get("spec").get("selector"));
    if now.value() != then.value() {
        found.invalid(&now, IMMUTABLE);
    }
}

/// Counts of replicas are not negative, and no part is more than the whole.
pub fn counts(status: &At<'_>, parts: &[&str], found: &mut Findings) {
    let replicas = status.get("replicas");
    let whole = replicas.int().unwrap_or_default();
    for field in ["replicas", "observedGeneration"].iter().chain(parts) {
        found.not_negative(&status.get(field));
    }
    for part in parts.iter().map(|name| status.get(name)) {
        if part.int().is_some_and(|count| count > whole) {
            found.invalid(&part, "cannot be greater than status.replicas");
        }
    }
}

/// `ready` is the other count's name in the complaint.
pub fn available_are_ready(status: &At<'_>, ready: &str, found: &mut Findings) {
    let available = status.get("availableReplicas");
    if available.int().unwrap_or_default() > status.get("readyReplicas").int().unwrap_or_default() {
        found.invalid(&available, &format!("cannot be greater than {ready}"));
    }
}

/// The counts of a ReplicaSet, which are those of a ReplicationController.
pub fn replica_counts(status: &At<'_>, found: &mut Findings) {
    counts(status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], found);
    available_are_ready(status, "readyReplicas", found);
}

/// Names of revisions are made from this count: it never goes back.
pub fn collisions_stay(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (now, then) = (new.get("status").get("collisionCount"), old.get("status").get("collisionCount"));
    found.not_negative(&now);
    if then.present() && now.int() < then.int() {
        found.invalid_value(&now, now.int().unwrap_or_default(), "cannot be decremented");
    }
}

pub fn template_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let at = At::root(object).get("spec").get("template").get("spec");
    let same =
        old.is_some_and(|old| old.pointer("/spec/template/spec") == object.pointer("/spec/template/spec"));
    if same { Vec::new() } else { pod::template_warnings(&at) }
}
