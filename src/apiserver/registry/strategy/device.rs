//! Devices that pods can claim: their classes, the claims, templates of claims, and what nodes have.
//!
//! Expressions in selectors are not compiled here: the scheduler does that, and tells what is wrong with one in an
//! event of the pod that waits for it.

use std::collections::BTreeSet;

use api::{names, time};
use serde_json::{Value, json};

use super::at::{At, same};
use super::fill::{each, fill, fill_zero, quantities, quantity, remove, within};
use super::findings::{Findings, IMMUTABLE, POSITIVE};
use super::rules::Rules;
use super::volume::driver_name;
use super::{meta, pod};

pub const DEVICE_CLASSES: Rules = Rules {
    validate: |class, found| {
        let spec = class.get("spec");
        selectors(&spec.get("selectors"), found);
        at_most(&spec.get("config"), 32, found, opaque);
        let name = spec.get("extendedResourceName");
        if name.present() && !is_extended_resource(name.text()) {
            found.invalid(&name, "must be a valid extended resource name");
        }
    },
    ..Rules::NONE
};

pub const RESOURCE_CLAIMS: Rules = Rules {
    defaults: |claim| within(claim, "spec", claim_defaults),
    validate_create: |claim, found| device_claim(&claim.get("spec").get("devices"), found),
    validate_update: spec_stays,
    prepare_status: |new, old| drop_deallocated(new, old),
    validate_status: claim_status,
    ..Rules::NONE
};

pub const RESOURCE_CLAIM_TEMPLATES: Rules = Rules {
    defaults: |template| within(template, "spec", |spec| within(spec, "spec", claim_defaults)),
    validate_create: |template, found| {
        let spec = template.get("spec");
        meta::labels(&spec.get("metadata").get("labels"), found);
        device_claim(&spec.get("spec").get("devices"), found);
    },
    validate_update: spec_stays,
    ..Rules::NONE
};

pub const RESOURCE_SLICES: Rules = Rules {
    defaults: |slice| within(slice, "spec", slice_defaults),
    stamp: |slice, _old, now| {
        within(slice, "spec", |spec| {
            each(spec, "devices", |device| {
                each(device, "taints", |taint| fill(taint, "timeAdded", time::seconds(now)));
            });
        });
    },
    validate: |slice, found| slice_spec(&slice.get("spec"), found),
    validate_update: |new, old, found| {
        let (now, then) = (new.get("spec"), old.get("spec"));
        found.immutable(&now.get("pool").get("name"), &then.get("pool").get("name"));
        for field in ["driver", "nodeName"] {
            found.immutable(&now.get(field), &then.get(field));
        }
    },
    ..Rules::NONE
};

fn claim_defaults(spec: &mut Value) {
    within(spec, "devices", |devices| {
        each(devices, "requests", |request| {
            within(request, "exactly", allocation);
            each(request, "firstAvailable", allocation);
        });
    });
}

fn allocation(request: &mut Value) {
    fill(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        fill_zero(request, "count", 1);
    }
    within(request, "capacity", |capacity| quantities(capacity, "requests"));
    each(request, "tolerations", |toleration| fill(toleration, "operator", "Equal"));
}

fn slice_defaults(spec: &mut Value) {
    within(spec, "pool", |pool| fill(pool, "generation", 0));
    each(spec, "devices", |device| {
        within(device, "capacity", values);
        each(device, "consumesCounters", |used| within(used, "counters", values));
    });
    each(spec, "sharedCounters", |set| within(set, "counters", values));
}

/// A map whose entries each hold one quantity, as `value`.
fn values(map: &mut Value) {
    for entry in map.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        quantity(entry, "value");
    }
}

fn spec_stays(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (now, then) = (new.get("spec"), old.get("spec"));
    if !same(now.value(), then.value()) {
        found.invalid(&now, IMMUTABLE);
    }
}

/// Each element, where there are not too many: else none is looked at.
fn at_most(list: &At<'_>, max: usize, found: &mut Findings, judge: impl Fn(&At<'_>, &mut Findings)) -> bool {
    if list.len() > max {
        found.too_many(list, max);
        return false;
    }
    list.items().for_each(|item| judge(&item, found));
    true
}

/// As [`at_most`], where no two may have the same `key`.
fn set(
    list: &At<'_>,
    max: usize,
    key: fn(&At<'_>) -> String,
    found: &mut Findings,
    judge: impl Fn(&At<'_>, &mut Findings),
) {
    if !at_most(list, max, found, judge) {
        return;
    }
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let own = key(&item);
        if !seen.insert(own.clone()) {
            found.duplicate_value(&item, own);
        }
    }
}

fn name_of(item: &At<'_>) -> String {
    item.get("name").text().to_owned()
}

fn text_of(item: &At<'_>) -> String {
    item.text().to_owned()
}

/// Also of an absent name.
fn label(at: &At<'_>, found: &mut Findings) {
    for complaint in names::dns1123_label(at.text()) {
        found.invalid_value(at, at.text(), &complaint);
    }
}

fn selectors(list: &At<'_>, found: &mut Findings) {
    /// Of an expression.
    const MAX_BYTES: usize = 10 * 1024;
    at_most(list, 32, found, |selector, found| {
        let (cel, expression) = (selector.get("cel"), selector.get("cel").get("expression"));
        if !cel.present() {
            found.required(&cel, "");
        } else if expression.is_empty() {
            found.required(&expression, "");
        } else if expression.len() > MAX_BYTES {
            found.too_long(&expression, MAX_BYTES);
        }
    });
}

/// Parameters that only the driver understands.
fn opaque(config: &At<'_>, found: &mut Findings) {
    let opaque = config.get("opaque");
    if !opaque.present() {
        return found.required(&opaque, "");
    }
    driver_name(&opaque.get("driver"), found);
    let parameters = opaque.get("parameters");
    if !parameters.present() {
        found.required(&parameters, "");
    } else if !parameters.value().is_object() {
        found.invalid_value(&parameters, "<value omitted>", "must be a valid JSON object");
    }
}

fn device_claim(devices: &At<'_>, found: &mut Findings) {
    let known = request_names(devices);
    set(&devices.get("requests"), 32, name_of, found, request);
    at_most(&devices.get("constraints"), 32, found, |constraint, found| {
        requests_exist(&constraint.get("requests"), &known, found);
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        if same.present() {
            full_name(&same, found);
        } else if distinct.present() {
            full_name(&distinct, found);
        } else {
            // Upstream's words are of another mistake.
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            found.required(constraint, detail);
        }
    });
    at_most(&devices.get("config"), 32, found, |config, found| {
        requests_exist(&config.get("requests"), &known, found);
        opaque(config, found);
    });
}

/// Requests, and their alternatives as `request/alternative`.
fn request_names(devices: &At<'_>) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for request in devices.get("requests").items() {
        for alternative in request.get("firstAvailable").items() {
            known.insert(format!("{}/{}", name_of(&request), name_of(&alternative)));
        }
        known.insert(name_of(&request));
    }
    known
}

fn requests_exist(list: &At<'_>, known: &BTreeSet<String>, found: &mut Findings) {
    set(list, 32, text_of, found, |name, found| request_exists(name, known, found));
}

fn request_exists(name: &At<'_>, known: &BTreeSet<String>, found: &mut Findings) {
    let parts: Vec<&str> = name.text().split('/').collect();
    if parts.len() <= 2 {
        for complaint in parts.iter().flat_map(|part| names::dns1123_label(part)) {
            found.invalid_value(name, name.text(), &complaint);
        }
    }
    if !known.contains(name.text()) {
        let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        found.invalid(name, detail);
    }
}

fn request(request: &At<'_>, found: &mut Findings) {
    label(&request.get("name"), found);
    let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
    let one = "exactly one of `exactly` or `firstAvailable` is required";
    match (exactly.present(), !first.is_empty()) {
        (false, false) => found.required(request, one),
        (true, true) => {
            found.invalid_value(request, Value::Null, &format!("{one}, but multiple fields are set"));
        }
        (true, false) => wanted(&exactly, found),
        (false, true) => set(&first, 8, name_of, found, |alternative, found| {
            label(&alternative.get("name"), found);
            wanted(alternative, found);
        }),
    }
}

/// Which devices, and how many.
fn wanted(at: &At<'_>, found: &mut Findings) {
    let class = at.get("deviceClassName");
    if class.is_empty() {
        found.required(&class, "");
    } else {
        found.complaints(&class, names::dns1123_subdomain(class.text()));
    }
    selectors(&at.get("selectors"), found);
    let (mode, count) = (at.get("allocationMode"), at.get("count"));
    let number = count.int().unwrap_or_default();
    match mode.text() {
        "All" if number != 0 => found.invalid(&count, "must not be specified when allocationMode is 'All'"),
        "ExactCount" if number <= 0 => found.invalid_value(&count, number, POSITIVE),
        "All" | "ExactCount" => {}
        _ => found.not_supported(&mode, &["All", "ExactCount"]),
    }
    for toleration in at.get("tolerations").items() {
        tolerated(&toleration, found);
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

fn tolerated(toleration: &At<'_>, found: &mut Findings) {
    let (key, value, operator) = (toleration.get("key"), toleration.get("value"), toleration.get("operator"));
    if !key.is_empty() {
        found.complaints(&key, names::qualified_name(key.text()));
    }
    match operator.text() {
        "Exists" if !value.is_empty() => found.invalid(&value, "must be empty for operator `Exists`"),
        "Equal" => found.complaints(&value, names::label_value(value.text())),
        "Exists" => {}
        "" => found.required(&operator, ""),
        _ => found.not_supported(&operator, &["Equal", "Exists"]),
    }
    if !toleration.get("effect").is_empty() {
        found.one_of(&toleration.get("effect"), &EFFECTS);
    }
}

/// `domain/name`, or a name alone.
fn qualified_name(name: &str, at: &At<'_>, found: &mut Findings) {
    let (domain, name) = match name.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, name),
    };
    if domain == Some("") {
        found.invalid_value(at, "", "the domain must not be empty");
    } else if let Some(domain) = domain {
        driver_name(&At::named(at.path(), &domain.into()), found);
    }
    if domain.is_some() && name.is_empty() {
        return found.invalid_value(at, "", "the name must not be empty");
    }
    for complaint in names::c_identifier(name) {
        found.invalid_value(at, name, &complaint);
    }
    if name.len() > 32 {
        found.too_long(at, 32);
    }
}

fn full_name(at: &At<'_>, found: &mut Findings) {
    qualified_name(at.text(), at, found);
    if !at.text().contains('/') {
        found.invalid(at, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// Qualified, and not one of Kubernetes' own.
fn is_extended_resource(name: &str) -> bool {
    let foreign = name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
    foreign && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// A device in words that tell it from all others.
fn device_key(device: &At<'_>) -> String {
    let words = ["driver", "pool", "device", "shareID"].map(|field| device.get(field).text().to_owned());
    words.join("/").trim_end_matches('/').to_owned()
}

fn allocated(claim: &Value) -> BTreeSet<String> {
    let results = At::root(claim).get("status").get("allocation").get("devices").get("results");
    results.items().map(|result| device_key(&result)).collect()
}

/// What drivers have told of devices goes when the claim loses these.
fn drop_deallocated(new: &mut Value, old: &Value) {
    let (now, before) = (allocated(new), allocated(old));
    let Some(devices) = new.pointer_mut("/status/devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| {
        let key = device_key(&At::root(device));
        now.contains(&key) || !before.contains(&key)
    });
    if devices.is_empty() {
        within(new, "status", |status| remove(status, "devices"));
    }
}

fn claim_status(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (status, before) = (new.get("status"), old.get("status"));
    let reserved = status.get("reservedFor");
    set(
        &reserved,
        256,
        |user| user.get("uid").text().to_owned(),
        found,
        |user, found| {
            for field in ["resource", "name", "uid"].map(|name| user.get(name)) {
                if field.is_empty() {
                    found.required(&field, "");
                }
            }
        },
    );
    let owned = allocated(new.value());
    set(&status.get("devices"), usize::MAX, device_key, found, |device, found| {
        driver_name(&device.get("driver"), found);
        pool_name(&device.get("pool"), found);
        label(&device.get("device"), found);
        if !owned.contains(&device_key(device)) {
            found.invalid_value(device, json!({}), "must be an allocated device in the claim");
        }
    });
    let (allocation, allocation_before) = (status.get("allocation"), before.get("allocation"));
    if !reserved.is_empty() && !allocation.present() {
        found.forbidden(&reserved, "may not be specified when `allocated` is not set");
    } else if new.get("metadata").get("deletionTimestamp").present() {
        let had: Vec<&Value> = before.get("reservedFor").items().map(|user| user.value()).collect();
        if reserved.items().any(|user| !had.contains(&user.value())) {
            let detail =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            found.forbidden(&reserved, detail);
        }
    }
    if allocation.present() && allocation_before.present() {
        if !same(allocation.value(), allocation_before.value()) {
            found.invalid(&allocation, IMMUTABLE);
        }
    } else if allocation.present() {
        let known = request_names(&new.get("spec").get("devices"));
        at_most(&allocation.get("devices").get("results"), 32, found, |result, found| {
            request_exists(&result.get("request"), &known, found);
            driver_name(&result.get("driver"), found);
            pool_name(&result.get("pool"), found);
            label(&result.get("device"), found);
        });
    }
}

fn pool_name(at: &At<'_>, found: &mut Findings) {
    if at.is_empty() {
        return found.required(at, "");
    }
    if at.len() > 253 {
        found.too_long(at, 253);
    }
    for part in at.text().split('/') {
        for complaint in names::dns1123_subdomain(part) {
            found.invalid_value(at, part, &complaint);
        }
    }
}

fn slice_spec(spec: &At<'_>, found: &mut Findings) {
    driver_name(&spec.get("driver"), found);
    let pool = spec.get("pool");
    pool_name(&pool.get("name"), found);
    let (count, generation) = (pool.get("resourceSliceCount"), pool.get("generation"));
    if count.int().unwrap_or_default() <= 0 {
        found.invalid_value(&count, count.int().unwrap_or_default(), POSITIVE);
    }
    if generation.int().is_some_and(|generation| generation < 0) {
        found.invalid(&generation, "must be greater than or equal to zero");
    }
    slice_place(spec, found);
    if spec.get("sharedCounters").present() && spec.get("devices").present() {
        found.invalid_value(spec, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = spec.get("devices");
    let advanced = devices
        .items()
        .any(|device| !device.get("taints").is_empty() || !device.get("consumesCounters").is_empty());
    set(&devices, if advanced { 64 } else { 128 }, name_of, found, device);
    set(&spec.get("sharedCounters"), 8, name_of, found, |counters, found| {
        if counters.get("name").is_empty() {
            found.required(&counters.get("name"), "");
        } else {
            label(&counters.get("name"), found);
        }
        if counters.get("counters").is_empty() {
            found.required(&counters.get("counters"), "");
        }
    });
}

/// From which nodes the devices can be reached: one of four ways to say it.
fn slice_place(spec: &At<'_>, found: &mut Findings) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut said = Vec::new();
    let node = spec.get("nodeName");
    if node.present() && node.is_empty() {
        found.invalid(&node, "must be either unset or set to a non-empty string");
    } else if node.present() {
        said.push("`nodeName`");
        found.complaints(&node, names::dns1123_subdomain(node.text()));
    }
    let selector = spec.get("nodeSelector");
    if selector.present() {
        said.push("`nodeSelector`");
        pod::node_selector(&selector, found);
        if selector.get("nodeSelectorTerms").len() != 1 {
            found.invalid(&selector.get("nodeSelectorTerms"), "must have exactly one node selector term");
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        let flag = spec.get(field);
        if flag.flag() {
            said.push(shown);
        } else if flag.present() {
            found.invalid(&flag, "must be either unset or set to true");
        }
    }
    match said.len() {
        0 => found.required(spec, ONE),
        1 => {}
        _ => {
            let detail = format!("{ONE}, but multiple fields are set");
            found.invalid_value(spec, format!("{{{}}}", said.join(", ")), &detail);
        }
    }
}

fn device(device: &At<'_>, found: &mut Findings) {
    label(&device.get("name"), found);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let count = attributes.len() + capacity.len();
    if count > 32 {
        let detail = "the total number of attributes and capacities must not exceed 32";
        found.invalid_value(device, count, detail);
    }
    for (name, attribute) in attributes.entries() {
        qualified_name(name, &attributes, found);
        match attribute.entries().filter(|(_, value)| value.present()).count() {
            0 => found.invalid_value(&attribute, "", "exactly one value must be specified"),
            1 => {}
            _ => found.invalid(&attribute, "exactly one value must be specified"),
        }
        let text = attribute.get("string");
        if text.len() > 64 {
            found.too_long(&text, 64);
        }
    }
    for (name, _) in capacity.entries() {
        qualified_name(name, &capacity, found);
    }
    at_most(&device.get("taints"), 16, found, |taint, found| {
        let (key, value) = (taint.get("key"), taint.get("value"));
        for complaint in names::qualified_name(key.text()) {
            found.invalid_value(&key, key.text(), &complaint);
        }
        found.complaints(&value, names::label_value(value.text()));
        found.one_of(&taint.get("effect"), &EFFECTS);
    });
}
