//! StatefulSets.

use api::names;
use serde_json::{Value, json};

use super::at::{At, same};
use super::fill::{each, fill, object_at, remove, within_made};
use super::findings::Findings;
use super::rules::Rules;
use super::workload::{self, at_most_everything, int_or_percent, is_zero};
use super::{pod, volume};
use crate::registry::NameRule;

pub const STATEFUL_SETS: Rules = Rules {
    defaults: |set| within_made(set, "spec", defaults),
    prepare_create: |set| {
        set["status"] = json!({"availableReplicas": 0, "replicas": 0});
        drop_gated(set, None);
    },
    prepare_update: |new, old| drop_gated(new, Some(old)),
    validate: |set, found| spec(&set.get("spec"), found),
    // What cannot be changed is not looked at again: it may be from before there was a rule.
    validate_create: |set, found| {
        for claim in set.get("spec").get("volumeClaimTemplates").items() {
            volume::claim_spec(&claim.get("spec"), found);
        }
        let service = set.get("spec").get("serviceName");
        if !service.is_empty() {
            found.complaints(&service, names::dns1123_label(service.text()));
        }
    },
    validate_update: |new, old, found| {
        if !same(&fixed(new.get("spec").value()), &fixed(old.get("spec").value())) {
            found.forbidden(&new.get("spec"), FIXED);
        }
    },
    validate_status: |new, old, found| {
        let status = new.get("status");
        workload::counts(
            &status,
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
            found,
        );
        workload::available_are_ready(&status, "status.readyReplicas", found);
        workload::collisions_stay(new, old, found);
    },
    warnings: workload::template_warnings,
    name_rule: NameRule::DnsLabel,
    ..Rules::NONE
};

const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
    'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// What of a spec stays as it is.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    CHANGEABLE.iter().for_each(|field| remove(&mut spec, field));
    spec
}

fn defaults(spec: &mut Value) {
    fill(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = object_at(spec, "updateStrategy") {
        let kind = strategy.entry("type").or_insert(Value::Null);
        if kind == "" || kind.is_null() {
            *kind = "RollingUpdate".into();
            object_at(&mut spec["updateStrategy"], "rollingUpdate");
        }
    }
    if spec["updateStrategy"]["type"] == "RollingUpdate"
        && spec["updateStrategy"]["rollingUpdate"].is_object()
    {
        fill(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
    }
    within_made(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
        fill(policy, "whenDeleted", "Retain");
        fill(policy, "whenScaled", "Retain");
    });
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    within_made(spec, "template", pod::defaults::template);
    each(spec, "volumeClaimTemplates", |claim| {
        fill(claim, "apiVersion", "v1");
        fill(claim, "kind", "PersistentVolumeClaim");
        volume::claim_defaults(claim);
    });
}

/// `maxUnavailable` is behind a gate that is closed in upstream's release: taken away where it was not there before.
fn drop_gated(new: &mut Value, old: Option<&Value>) {
    const FIELD: &str = "/spec/updateStrategy/rollingUpdate/maxUnavailable";
    let had = old.and_then(|old| old.pointer(FIELD)).is_some_and(|value| !value.is_null());
    if !had && let Some(rolling) = new.pointer_mut("/spec/updateStrategy/rollingUpdate") {
        remove(rolling, "maxUnavailable");
    }
}

fn spec(spec: &At<'_>, found: &mut Findings) {
    let policy = spec.get("podManagementPolicy");
    match policy.text() {
        "" => found.required(&policy, ""),
        "OrderedReady" | "Parallel" => {}
        _ => found.invalid(&policy, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(&spec.get("updateStrategy"), found);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"].map(|name| retention.get(name)) {
        found.one_of_if_any(&field, &["Retain", "Delete"]);
    }
    for field in ["replicas", "minReadySeconds"] {
        found.not_negative(&spec.get(field));
    }
    let ordinal = spec.get("ordinals").get("start");
    found.not_negative(&At::named("spec.ordinals.start", ordinal.value()));
    if workload::selector(spec, "statefulset", found) {
        workload::template_is_selected(spec, found);
    } else {
        found.invalid(&spec.get("selector"), "");
    }
    let template = as_made(spec.value());
    workload::lasting_template(&At::named("spec.template", &template), "StatefulSet", found);
}

/// The template as pods are made from it: each claim is a volume, and the names are the controller's to give.
fn as_made(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let Some(pod) = object_at(&mut template, "spec") else { return template };
    pod.remove("hostname");
    pod.remove("subdomain");
    let claims = At::root(spec).get("volumeClaimTemplates");
    let names: Vec<&str> = claims.items().map(|claim| claim.get("metadata").get("name").text()).collect();
    let own = pod.remove("volumes").unwrap_or_default();
    let of_claims =
        names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let own = own.as_array().into_iter().flatten();
    let others = own.filter(|volume| !names.contains(&volume["name"].as_str().unwrap_or_default())).cloned();
    pod.insert("volumes".into(), of_claims.chain(others).collect());
    template
}

fn strategy(at: &At<'_>, found: &mut Findings) {
    let rolling = at.get("rollingUpdate");
    match at.get("type").text() {
        "" => found.required(at, ""),
        "OnDelete" if rolling.present() => {
            found.invalid(&rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            found.not_negative(&rolling.get("partition"));
            let unavailable = rolling.get("maxUnavailable");
            int_or_percent(&unavailable, found);
            if is_zero(&unavailable) {
                found.invalid(&unavailable, "cannot be 0");
            }
            at_most_everything(&unavailable, found);
        }
        // Upstream names the strategy and not its type here.
        _ => found.invalid(at, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}
