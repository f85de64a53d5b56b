//! Nodes.

use std::collections::BTreeSet;

use api::names;

use super::at::At;
use super::fill::{fill, quantities, within};
use super::findings::Findings;
use super::rules::Rules;

pub const NODES: Rules = Rules {
    defaults: |node| {
        within(node, "status", |status| {
            quantities(status, "capacity");
            quantities(status, "allocatable");
            if let Some(capacity) = status.get("capacity").cloned().filter(|capacity| !capacity.is_null()) {
                fill(status, "allocatable", capacity);
            }
        });
        // The old field of one CIDR and the list say the same.
        within(node, "spec", |spec| {
            let (one, first) = (spec["podCIDR"].clone(), spec["podCIDRs"][0].clone());
            if first.is_string() {
                spec["podCIDR"] = first;
            } else if one.as_str().is_some_and(|cidr| !cidr.is_empty()) {
                spec["podCIDRs"] = serde_json::json!([one]);
            }
        });
    },
    validate,
    validate_update: update,
    validate_status: |new, _old, found| addresses(new, found),
    keeps_status_on_create: true,
    ..Rules::NONE
};

fn validate(node: &At<'_>, found: &mut Findings) {
    let spec = node.get("spec");
    // The path is upstream's.
    taints(&At::named("metadata.taints", spec.get("taints").value()), found);
    for cidr in spec.get("podCIDRs").items() {
        if cidr.text().parse::<ipnet::IpNet>().is_err() {
            found.invalid(&cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
    if spec.get("podCIDRs").len() > 2 {
        found.invalid(&spec.get("podCIDRs"), "may specify no more than one CIDR for each IP family");
    }
}

fn taints(list: &At<'_>, found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        found.complaints(&key, names::qualified_name(key.text()));
        let complaints = names::label_value(value.text());
        if !complaints.is_empty() {
            found.invalid(&value, &complaints.join(";"));
        }
        found.one_of(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key.text(), effect.text())) {
            found.duplicate(&taint);
        }
    }
}

fn update(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (spec, before) = (new.get("spec"), old.get("spec"));
    addresses(new, found);
    let (now, then) = (spec.get("podCIDRs"), before.get("podCIDRs"));
    if !then.is_empty() && now.value() != then.value() {
        found.forbidden(&now, "node updates may not change podCIDR except from \"\" to valid");
    }
    let (now, then) = (spec.get("providerID"), before.get("providerID"));
    if !then.is_empty() && now.text() != then.text() {
        found.forbidden(&now, "node updates may not change providerID except from \"\" to valid");
    }
}

fn addresses(node: &At<'_>, found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for address in node.get("status").get("addresses").items() {
        if !seen.insert((address.get("type").text(), address.get("address").text())) {
            found.duplicate(&address);
        }
    }
}
