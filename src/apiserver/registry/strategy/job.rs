//! Jobs and CronJobs.

use api::names;
use serde_json::{Value, json};

use super::at::{At, same};
use super::fill::{each, fill, object_at, remove, within, within_made};
use super::findings::{Findings, IMMUTABLE};
use super::replication_controller::name_warnings;
use super::rules::Rules;
use super::workload::{template_is_selected, template_warnings};
use super::{meta, pod};

pub const JOBS: Rules = Rules {
    defaults: job_defaults,
    prepare_create: |job| {
        job["status"] = json!({});
        if job["spec"]["manualSelector"] != true {
            select_own_pods(job);
        }
    },
    validate: |job, found| {
        let spec = job.get("spec");
        job_spec(&spec, found);
        let selector = spec.get("selector");
        if selector.present() {
            meta::label_selector(&selector, found);
        } else {
            found.required(&selector, "");
        }
        template_is_selected(&spec, found);
    },
    validate_create: |job, found| {
        generated_selector(job, found);
        last_pod_has_a_host_name(job, found);
    },
    validate_update: job_update,
    validate_status: |new, _old, found| {
        for field in ["active", "succeeded", "failed", "ready", "terminating"] {
            found.not_negative(&new.get("status").get(field));
        }
        conditions_agree(&new.get("status"), found);
    },
    warnings: |job, old| {
        let mut warnings = name_warnings(job, old);
        warnings.extend(template_warnings(job, old));
        warnings
    },
    // As it was before there was a choice.
    orphans_by_default: true,
    ..Rules::NONE
};

pub const CRON_JOBS: Rules = Rules {
    defaults: |cron| {
        within_made(cron, "spec", |spec| {
            fill(spec, "concurrencyPolicy", "Allow");
            fill(spec, "suspend", false);
            fill(spec, "successfulJobsHistoryLimit", 3);
            fill(spec, "failedJobsHistoryLimit", 1);
            within(spec, "jobTemplate", |template| {
                within(template, "spec", |spec| within_made(spec, "template", pod::defaults::template));
            });
        });
    },
    prepare_create: |cron| cron["status"] = json!({}),
    validate: |cron, found| cron_spec(&cron.get("spec"), found),
    validate_create: |cron, found| {
        let name = cron.get("metadata").get("name");
        // Jobs are named after it and the minute, and pods after these.
        if name.len() > 52 {
            found.invalid(&name, "must be no more than 52 characters");
        }
        zone(&cron.get("spec").get("timeZone"), found);
        no_zone_in_schedule(&cron.get("spec").get("schedule"), found);
    },
    validate_update: |new, old, found| {
        let (now, then) = (new.get("spec"), old.get("spec"));
        if now.get("timeZone").value() != then.get("timeZone").value() {
            zone(&now.get("timeZone"), found);
        }
        if !then.get("schedule").text().contains("TZ") {
            no_zone_in_schedule(&now.get("schedule"), found);
        }
    },
    warnings: name_warnings,
    ..Rules::NONE
};

const NAMES: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UIDS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

fn job_defaults(job: &mut Value) {
    within_made(job, "spec", |spec| {
        let given = |field: &str| !spec[field].is_null();
        let (counts, indexed, fails) = (
            given("completions") || given("parallelism"),
            given("backoffLimitPerIndex"),
            given("podFailurePolicy"),
        );
        if !counts {
            fill(spec, "completions", 1);
        }
        fill(spec, "parallelism", 1);
        fill(spec, "backoffLimit", if indexed { i64::from(i32::MAX) } else { 6 });
        fill(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        fill(spec, "podReplacementPolicy", if fails { "Failed" } else { "TerminatingOrFailed" });
        fill(spec, "manualSelector", false);
        within(spec, "podFailurePolicy", |policy| {
            each(policy, "rules", |rule| {
                each(rule, "onPodConditions", |pattern| fill(pattern, "status", "True"));
            });
        });
        within_made(spec, "template", pod::defaults::template);
    });
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && At::root(job).get("metadata").get("labels").is_empty() {
        within_made(job, "metadata", |metadata| metadata["labels"] = labels);
    }
}

/// Gives the pods labels that no other job's have, and selects by these.
fn select_own_pods(job: &mut Value) {
    let text = |field: &str| job["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (name, uid) = (text("name"), text("uid"));
    // A job without labels has those of its template, these too.
    let shared = same(&job["metadata"]["labels"], &job["spec"]["template"]["metadata"]["labels"]);
    within_made(job, "spec", |spec| {
        within_made(spec, "template", |template| {
            within_made(template, "metadata", |metadata| {
                let Some(labels) = object_at(metadata, "labels") else { return };
                for (keys, value) in [(NAMES, &name), (UIDS, &uid)] {
                    for key in keys {
                        labels.entry(key).or_insert_with(|| value.as_str().into());
                    }
                }
            });
        });
        within_made(spec, "selector", |selector| {
            if let Some(labels) = object_at(selector, "matchLabels") {
                labels.entry(UIDS[1]).or_insert_with(|| uid.as_str().into());
            }
        });
    });
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if shared {
        job["metadata"]["labels"] = labels;
    }
}

/// Who brings labels of their own must bring the right ones.
fn generated_selector(job: &At<'_>, found: &mut Findings) {
    let spec = job.get("spec");
    if spec.get("manualSelector").flag() || !spec.get("selector").present() {
        return;
    }
    let metadata = job.get("metadata");
    let labels = spec.get("template").get("metadata").get("labels");
    let mut expected = json!({});
    for (keys, value) in [(UIDS, metadata.get("uid").text()), (NAMES, metadata.get("name").text())] {
        for key in keys {
            expected[key] = value.into();
            if labels.key(key).text() != value {
                found.invalid_value(&labels.key(key), labels.value().clone(), &format!("must be '{value}'"));
            }
        }
    }
    if !meta::selects(&spec.get("selector"), &At::root(&expected)) {
        found.invalid(&spec.get("selector"), "`selector` not auto-generated");
    }
}

/// Pods of an indexed job are hosts, named after it and their number.
fn last_pod_has_a_host_name(job: &At<'_>, found: &mut Findings) {
    let (name, spec) = (job.get("metadata").get("name"), job.get("spec"));
    let completions = spec.get("completions").int().unwrap_or_default();
    let last = format!("{}-{}", name.text(), completions - 1);
    let indexed = spec.get("completionMode").text() == "Indexed" && completions > 0;
    if indexed && !names::dns1123_label(&last).is_empty() {
        found.invalid(&name, &format!("will not able to create pod with invalid DNS label: {last}"));
    }
}

fn job_spec(spec: &At<'_>, found: &mut Findings) {
    const COUNTS: [&str; 7] = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for field in COUNTS {
        found.not_negative(&spec.get(field));
    }
    let (per_index, failures) = (spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"));
    if failures.present() && !per_index.present() {
        found.required(&per_index, "when maxFailedIndexes is specified");
    }
    let mode = spec.get("completionMode");
    found.one_of_if_any(&mode, &["NonIndexed", "Indexed"]);
    if mode.text() == "Indexed" {
        indexed(spec, found);
    } else if matches!(mode.text(), "" | "NonIndexed") {
        for field in [&per_index, &failures] {
            if field.present() {
                found.invalid(field, "requires indexed completion mode");
            }
        }
    }
    if spec.get("successPolicy").present() && mode.text() != "Indexed" {
        found.invalid(&spec.get("successPolicy"), "requires indexed completion mode");
    }
    let replacement = spec.get("podReplacementPolicy");
    let fails = spec.get("podFailurePolicy").present();
    found.one_of_if_any(&replacement, if fails { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] });
    let template = spec.get("template");
    pod::validate::template(&template, found);
    let policy = template.get("spec").get("restartPolicy");
    match policy.text() {
        "" | "Always" => found.required(&policy, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if fails => {
            found.invalid(&policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        _ => found.not_supported(&policy, &["OnFailure", "Never"]),
    }
}

/// The controller keeps the indexes of a job in one text: there are limits to it.
fn indexed(spec: &At<'_>, found: &mut Findings) {
    const MANY: i64 = 100_000;
    const MANY_AT_ONCE: i64 = 10_000;
    let (completions, parallelism, failures) =
        (spec.get("completions"), spec.get("parallelism"), spec.get("maxFailedIndexes"));
    let above = |at: &At<'_>, limit: i64| at.int().is_some_and(|number| number > limit);
    if !completions.present() {
        found.required(&completions, "when completion mode is Indexed");
    }
    if above(&parallelism, MANY) {
        let detail = "must be less than or equal to 100000 when completion mode is Indexed";
        found.invalid(&parallelism, detail);
    }
    if completions.int().is_some_and(|all| above(&failures, all)) {
        found.invalid(&failures, "must be less than or equal to completions");
    }
    if above(&failures, MANY) {
        found.invalid(&failures, "must be less than or equal to 100000");
    }
    if above(&completions, MANY) && spec.get("backoffLimitPerIndex").present() {
        if !failures.present() {
            found.required(&failures, "must be specified when completions is above 100000");
        }
        for at in [&parallelism, &failures] {
            if above(at, MANY_AT_ONCE) {
                let detail = "must be less than or equal to 10000 when completions are above 100000 and used with \
                    backoff limit per index";
                found.invalid(at, detail);
            }
        }
    }
}

fn job_update(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    const FIXED: [&str; 6] = [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    let (now, then) = (new.get("spec"), old.get("spec"));
    for field in FIXED {
        if !same(now.get(field).value(), then.get(field).value()) {
            found.invalid(&now.get(field), IMMUTABLE);
        }
    }
    let completions = now.get("completions");
    if completions.value() != then.get("completions").value() {
        let indexed = now.get("completionMode").text() == "Indexed";
        if !indexed {
            found.invalid(&completions, IMMUTABLE);
        } else if completions.present() && completions.value() != now.get("parallelism").value() {
            found.invalid(&completions, "can only be modified in tandem with spec.parallelism");
        }
    }
    let movable = is_movable(old);
    if !same(&fixed_template(&now, movable), &fixed_template(&then, movable)) {
        found.invalid(&now.get("template"), IMMUTABLE);
    }
}

/// While a job is held back, whoever queues it may say where its pods go and what they get.
fn is_movable(job: &At<'_>) -> bool {
    let status = job.get("status");
    let rests = !status.get("startTime").present() || holds(&status, "Suspended");
    job.get("spec").get("suspend").flag() && rests && status.get("active").int().unwrap_or_default() == 0
}

/// What of a job's template stays as it is.
fn fixed_template(spec: &At<'_>, movable: bool) -> Value {
    const WHERE: [&str; 6] = [
        "/metadata/labels",
        "/metadata/annotations",
        "/spec/nodeSelector",
        "/spec/tolerations",
        "/spec/schedulingGates",
        "/spec/affinity/nodeAffinity",
    ];
    let mut template = spec.get("template").value().clone();
    if movable {
        for pointer in WHERE {
            if let Some(value) = template.pointer_mut(pointer) {
                *value = Value::Null;
            }
        }
        within(&mut template, "spec", |pod| {
            for list in ["containers", "initContainers"] {
                each(pod, list, |container| remove(container, "resources"));
            }
        });
    }
    template
}

/// Whether a condition is true.
fn holds(status: &At<'_>, word: &str) -> bool {
    let conditions = status.get("conditions");
    conditions.items().any(|one| one.get("type").text() == word && one.get("status").text() == "True")
}

fn conditions_agree(status: &At<'_>, found: &mut Findings) {
    let (complete, failed) = (holds(status, "Complete"), holds(status, "Failed"));
    let end = status.get("completionTime");
    if complete && failed {
        found.invalid(&status.get("conditions"), "cannot set Complete=True and Failed=true conditions");
    }
    if end.present() && !complete {
        found.invalid(&end, "cannot set completionTime when there is no Complete=True condition");
    }
    if complete && !end.present() {
        found.required(&end, "completionTime is required for Complete jobs");
    }
    let active = status.get("active");
    if (complete || failed) && active.int().is_some_and(|count| count > 0) {
        found.invalid(&active, "active>0 is invalid for finished job");
    }
}

fn cron_spec(spec: &At<'_>, found: &mut Findings) {
    let schedule = spec.get("schedule");
    if schedule.is_empty() {
        found.required(&schedule, "");
    } else {
        schedule_fields(&schedule, found);
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        found.not_negative(&spec.get(field));
    }
    found.one_of(&spec.get("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let job = spec.get("jobTemplate").get("spec");
    job_spec(&job, found);
    if job.get("selector").present() {
        found.invalid(&job.get("selector"), "`selector` will be auto-generated");
    }
    if job.get("manualSelector").flag() {
        found.not_supported(&job.get("manualSelector"), &["nil", "false"]);
    }
}

/// Five fields, or one of the words for the usual ones. What is in the fields is for the controller to understand.
fn schedule_fields(schedule: &At<'_>, found: &mut Findings) {
    let fields: Vec<&str> = schedule.text().split_whitespace().filter(|word| !word.contains("TZ=")).collect();
    let is_word = fields.first().is_some_and(|word| word.starts_with('@'));
    if !is_word && fields.len() != 5 {
        let detail = format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" "));
        found.invalid(schedule, &detail);
    }
}

fn no_zone_in_schedule(schedule: &At<'_>, found: &mut Findings) {
    if schedule.text().contains("TZ") {
        found.invalid(schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

/// A name that could be one; whether there is such a zone, the controller knows.
fn zone(zone: &At<'_>, found: &mut Findings) {
    if !zone.present() {
        return;
    }
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    let part = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.starts_with('-') && part.chars().all(usual)
    };
    if zone.is_empty() {
        found.invalid(zone, "timeZone must be nil or non-empty string");
    } else if !zone.text().split('/').all(part) {
        found.invalid(zone, &format!("unknown time zone {}", zone.text()));
    } else if zone.text().eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        found.invalid(zone, detail);
    }
}
