//! Pods, and the pod templates inside of other kinds.
//!
//! ```text
//!   defaults ─▶ validate (containers, env, probes, resources, security, scheduling, volumes) ─▶ update: what may change
//! ```

pub mod defaults;
pub mod qos;
pub mod validate;

mod containers;
mod env;
mod probes;
mod resources;
mod scheduling;
mod security;
mod update;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use api::names;
use serde_json::{Value, json};

use super::at::At;
use super::fill;
use super::findings::Findings;
use super::rules::Rules;
use crate::registry::{DeleteOptions, Deletion};

pub const PODS: Rules = Rules {
    defaults: defaults::pod,
    prepare_create,
    prepare_status,
    validate: validate::pod,
    validate_create: validate::create,
    validate_update: update::pod,
    validate_status: update::status,
    warnings,
    deletion,
    ..Rules::NONE
};

/// `pods/ephemeralcontainers`: how containers are added to a pod that is there.
pub const EPHEMERAL_CONTAINERS: Rules = Rules {
    prepare_update: only_ephemeral_containers,
    validate: validate::pod,
    validate_update: update::ephemeral_containers,
    ..Rules::NONE
};

pub const POD_TEMPLATES: Rules = Rules {
    defaults: |object| fill::within(object, "template", defaults::template),
    validate: |at, found| validate::template(&at.get("template"), found),
    ..Rules::NONE
};

/// What a volume is made from, by the name of its field: a PersistentVolume's has the same names.
pub fn volume_source(name: &str, at: &At<'_>, found: &mut Findings) {
    volumes::one_source(name, at, found);
}

/// A volume that is a path of the node.
pub fn volume_path(at: &At<'_>, found: &mut Findings) {
    volumes::path(at, found);
}

/// A `v1.NodeSelector`.
pub fn node_selector(at: &At<'_>, found: &mut Findings) {
    scheduling::node_selector(at, found);
}

fn prepare_create(pod: &mut Value) {
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(pod)});
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastTransitionTime": pod["metadata"]["creationTimestamp"],
        }]);
    }
    pod["status"] = status;
}

/// All else of the pod stays what it was, and whose write this is.
fn only_ephemeral_containers(new: &mut Value, old: &Value) {
    let mut pod = old.clone();
    for field in ["name", "namespace", "resourceVersion", "uid"] {
        match new["metadata"].get(field) {
            Some(value) => pod["metadata"][field] = value.clone(),
            None => fill::within(&mut pod, "metadata", |metadata| fill::remove(metadata, field)),
        }
    }
    match new["spec"].get("ephemeralContainers") {
        Some(added) => pod["spec"]["ephemeralContainers"] = added.clone(),
        None => fill::within(&mut pod, "spec", |spec| fill::remove(spec, "ephemeralContainers")),
    }
    *new = pod;
}

/// The single address and the list of addresses tell the same.
fn prepare_status(new: &mut Value, old: &Value) {
    // Only a delete starts a pod's end, and only its owner's controller changes whose it is.
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences"] {
        match old["metadata"].get(field) {
            Some(value) => new["metadata"][field] = value.clone(),
            None => fill::within(new, "metadata", |metadata| fill::remove(metadata, field)),
        }
    }
    let status = &mut new["status"];
    if !status.is_object() {
        return;
    }
    if let Some(class) = old["status"].get("qosClass") {
        fill::fill(status, "qosClass", class.clone());
    }
    for (single, list) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let first = status[list][0]["ip"].clone();
        let one = status[single].clone();
        if first.is_string() {
            status[single] = first;
        } else if one.as_str().is_some_and(|ip| !ip.is_empty()) {
            status[list] = json!([{ "ip": one }]);
        }
    }
    fill::fill(status, "phase", "Pending");
}

/// Who deletes a running pod waits for it to end; nobody waits for what does not run.
fn deletion(pod: &Value, options: &DeleteOptions) -> Deletion {
    let asked = options.grace_period_seconds;
    let mut seconds = asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
    let unscheduled = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    if unscheduled || finished {
        seconds = 0;
    }
    if seconds < 0 {
        seconds = 1;
    }
    if seconds == 0 { Deletion::Now } else { Deletion::Graceful { seconds } }
}

fn warnings(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let complaints = names::dns1123_label(pod["metadata"]["name"].as_str().unwrap_or_default());
    if !complaints.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            complaints.join(" ")
        ));
    }
    warnings.extend(template_warnings(&At::root(pod).get("spec")));
    warnings
}

/// Warnings that a template gives as well as a pod; `spec` is the pod spec.
pub fn template_warnings(spec: &At<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            duplicates(&container.get("env"), &mut warnings);
        }
    }
    let mut seen = BTreeMap::new();
    for port in spec.get("containers").items().flat_map(|c| c.get("ports").items()) {
        let Some(number) = port.get("containerPort").int() else { continue };
        let key =
            (number, port.get("protocol").text(), port.get("hostPort").int(), port.get("hostIP").text());
        if let Some(first) = seen.insert(key, port.path().to_owned()) {
            warnings.push(format!("{}: duplicate port definition with {first}", port.path()));
        }
    }
    if spec.get("terminationGracePeriodSeconds").int().is_some_and(|seconds| seconds < 0) {
        let path = spec.get("terminationGracePeriodSeconds");
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.path()
        ));
    }
    warnings
}

/// A variable that is named twice: the second one wins in the container, and may get lost in a merge.
fn duplicates(list: &At<'_>, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let name = item.get("name").text();
        if !seen.insert(name) {
            let path = item.path();
            warnings.push(format!(
                "{path}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
