//! DaemonSets.

use serde_json::{Value, json};

use super::at::{At, same};
use super::fill::{fill, object_at, within_made};
use super::findings::Findings;
use super::rules::Rules;
use super::workload::{self, at_most_everything, int_or_percent, is_zero};
use super::{meta, pod};

pub const DAEMON_SETS: Rules = Rules {
    defaults: |set| within_made(set, "spec", defaults),
    prepare_create: |set| {
        set["status"] = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
        count_templates(set, None);
    },
    prepare_update: |new, old| count_templates(new, Some(old)),
    validate: |set, found| spec(&set.get("spec"), found),
    validate_update: workload::selector_stays,
    validate_status: |new, old, found| {
        for field in COUNTS {
            found.not_negative(&new.get("status").get(field));
        }
        workload::collisions_stay(new, old, found);
    },
    warnings: workload::template_warnings,
    ..Rules::NONE
};

const COUNTS: [&str; 8] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
];

const GENERATION: &str = "deprecated.daemonset.template.generation";

fn defaults(spec: &mut Value) {
    fill(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object_at(spec, "updateStrategy") {
        let kind = strategy.entry("type").or_insert(Value::Null);
        if kind == "" || kind.is_null() {
            *kind = "RollingUpdate".into();
        }
        if kind == "RollingUpdate"
            && let Some(rolling) = object_at(&mut spec["updateStrategy"], "rollingUpdate")
        {
            for (field, default) in [("maxUnavailable", 1), ("maxSurge", 0)] {
                rolling.entry(field).or_insert_with(|| default.into());
            }
        }
    }
    within_made(spec, "template", pod::defaults::template);
}

/// How many templates there have been is an annotation: the field that it was has gone with the version that had it.
fn count_templates(new: &mut Value, old: Option<&Value>) {
    let said = |set: &Value| set["metadata"]["annotations"][GENERATION].as_str()?.parse::<i64>().ok();
    let count = match old {
        None => said(new).unwrap_or(1).max(1),
        Some(old) => {
            let changed = !same(&new["spec"]["template"], &old["spec"]["template"]);
            said(old).unwrap_or(1) + i64::from(changed)
        }
    };
    within_made(new, "metadata", |metadata| {
        if let Some(annotations) = object_at(metadata, "annotations") {
            annotations.insert(GENERATION.into(), count.to_string().into());
        }
    });
}

fn spec(spec: &At<'_>, found: &mut Findings) {
    let selector = spec.get("selector");
    let mut wrong = Findings::default();
    meta::label_selector(&selector, &mut wrong);
    if wrong.is_empty() {
        workload::template_is_selected(spec, found);
    }
    wrong.into_errors().into_iter().for_each(|error| found.push(error));
    let empty = selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty();
    if selector.present() && empty {
        found.invalid(&selector, "empty selector is invalid for daemonset");
    }
    workload::lasting_template(&spec.get("template"), "DaemonSet", found);
    found.not_negative(&spec.get("minReadySeconds"));
    strategy(&spec.get("updateStrategy"), found);
    found.not_negative(&spec.get("revisionHistoryLimit"));
}

fn strategy(at: &At<'_>, found: &mut Findings) {
    match at.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => rolling_update(&at.get("rollingUpdate"), found),
        // Upstream names the strategy and not its type here.
        _ => found.not_supported(at, &["RollingUpdate", "OnDelete"]),
    }
}

/// A new pod comes before the old one has gone, or after; not both.
fn rolling_update(at: &At<'_>, found: &mut Findings) {
    let (unavailable, surge) = (at.get("maxUnavailable"), at.get("maxSurge"));
    for at in [&unavailable, &surge] {
        int_or_percent(at, found);
        at_most_everything(at, found);
    }
    match (is_zero(&unavailable), is_zero(&surge)) {
        (false, false) => found.invalid(&surge, "may not be set when maxUnavailable is non-zero"),
        (true, true) => found.required(&unavailable, "cannot be 0 when maxSurge is 0"),
        (true, false) | (false, true) => {}
    }
}
