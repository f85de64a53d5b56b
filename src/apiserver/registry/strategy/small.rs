//! Kinds with few rules of their own: Leases, PriorityClasses, RuntimeClasses, storage, PodDisruptionBudgets.

use api::names;
use serde_json::json;

use super::at::At;
use super::fill::{fill, quantities, within};
use super::findings::{Findings, IMMUTABLE};
use super::rules::Rules;
use super::{meta, workload};

pub const LEASES: Rules = Rules {
    validate: |lease, found| {
        let spec = lease.get("spec");
        let (duration, transitions) = (spec.get("leaseDurationSeconds"), spec.get("leaseTransitions"));
        if duration.int().is_some_and(|seconds| seconds <= 0) {
            found.invalid(&duration, "must be greater than 0");
        }
        found.not_negative(&transitions);
        if spec.get("preferredHolder").present() && spec.get("strategy").is_empty() {
            found.forbidden(&spec.get("preferredHolder"), "may only be specified if `strategy` is defined");
        }
    },
    creates_on_update: true,
    updates_unconditionally: false,
    ..Rules::NONE
};

/// The highest priority that a user may give.
const HIGHEST: i64 = 1_000_000_000;
pub const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub const PRIORITY_CLASSES: Rules = Rules {
    defaults: |class| {
        fill(class, "preemptionPolicy", "PreemptLowerPriority");
        // Zero is a value as good as any: it is shown.
        fill(class, "value", 0);
    },
    validate: priority_class,
    validate_update: |new, old, found| {
        let (now, then) = (new.get("value"), old.get("value"));
        if now.int() != then.int() {
            found.forbidden(&now, "may not be changed in an update.");
        }
        found.immutable(&new.get("preemptionPolicy"), &old.get("preemptionPolicy"));
    },
    ..Rules::NONE
};

fn priority_class(class: &At<'_>, found: &mut Findings) {
    let name = class.get("metadata").get("name");
    let value = class.get("value");
    if name.text().starts_with("system-") {
        let known = SYSTEM_CLASSES.iter().find(|(system, _)| *system == name.text());
        let error = match known {
            None => Some(format!("{} is not a known system priority class", name.text())),
            Some((_, expected)) if value.int() != Some(*expected) => {
                Some(format!("value of {} PriorityClass must be {expected}", name.text()))
            }
            Some(_) if class.get("globalDefault").flag() => {
                Some(format!("globalDefault of {} PriorityClass must be false", name.text()))
            }
            Some(_) => None,
        };
        if let Some(error) = error {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {error}"
            );
            found.forbidden(&name, &detail);
        }
    } else if value.int().is_some_and(|value| value > HIGHEST) {
        found.forbidden(&value, &format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    found.one_of(&class.get("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
}

pub const RUNTIME_CLASSES: Rules = Rules {
    defaults: |class| within(class, "overhead", |overhead| quantities(overhead, "podFixed")),
    validate: |class, found| {
        let handler = class.get("handler");
        if handler.is_empty() {
            found.required(&handler, "");
        } else {
            found.complaints(&handler, names::dns1123_label(handler.text()));
        }
        meta::labels(&class.get("scheduling").get("nodeSelector"), found);
    },
    validate_update: |new, old, found| found.immutable(&new.get("handler"), &old.get("handler")),
    ..Rules::NONE
};

pub const STORAGE_CLASSES: Rules = Rules {
    defaults: |class| {
        fill(class, "reclaimPolicy", "Delete");
        fill(class, "volumeBindingMode", "Immediate");
    },
    validate: |class, found| {
        let provisioner = class.get("provisioner");
        if provisioner.is_empty() {
            found.required(&provisioner, "");
        } else {
            found.complaints(&provisioner, names::qualified_name(&provisioner.text().to_lowercase()));
        }
        found.one_of_if_any(&class.get("reclaimPolicy"), &["Delete", "Retain"]);
        found.one_of(&class.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
    },
    validate_update: |new, old, found| {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            found.immutable(&new.get(field), &old.get(field));
        }
        found.immutable(&new.get("volumeBindingMode"), &old.get("volumeBindingMode"));
    },
    ..Rules::NONE
};

pub const CSI_NODES: Rules = Rules {
    validate: |node, found| {
        let mut seen = std::collections::BTreeSet::new();
        for driver in node.get("spec").get("drivers").items() {
            let (name, id) = (driver.get("name"), driver.get("nodeID"));
            if name.is_empty() {
                found.required(&name, "");
            } else if name.len() > 63 {
                found.too_long(&name, 63);
            } else {
                found.complaints(&name, names::dns1123_subdomain(&name.text().to_lowercase()));
            }
            if id.is_empty() {
                found.required(&id, "");
            }
            if !seen.insert(name.text()) {
                found.duplicate(&name);
            }
        }
    },
    ..Rules::NONE
};

pub const CSI_DRIVERS: Rules = Rules {
    defaults: |driver| {
        within(driver, "spec", |spec| {
            fill(spec, "attachRequired", true);
            for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
                fill(spec, field, false);
            }
            fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            if spec["volumeLifecycleModes"].as_array().is_none_or(Vec::is_empty) {
                spec["volumeLifecycleModes"] = json!(["Persistent"]);
            }
        });
    },
    validate: |driver, found| {
        let spec = driver.get("spec");
        found.one_of_if_any(&spec.get("fsGroupPolicy"), &["File", "None", "ReadWriteOnceWithFSType"]);
        let modes = spec.get("volumeLifecycleModes");
        for mode in modes.items() {
            // Upstream names the list and not the element here.
            found.one_of(&At::named(modes.path(), mode.value()), &["Persistent", "Ephemeral"]);
        }
    },
    validate_update: |new, old, found| {
        for field in ["attachRequired", "volumeLifecycleModes"] {
            let (now, then) = (new.get("spec").get(field), old.get("spec").get(field));
            if now.value() != then.value() {
                found.invalid(&now, IMMUTABLE);
            }
        }
    },
    ..Rules::NONE
};

pub const POD_DISRUPTION_BUDGETS: Rules = Rules {
    prepare_create: |budget| {
        budget["status"] =
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
    },
    validate: |budget, found| disruption(&budget.get("spec"), found),
    validate_status: |new, _old, found| {
        meta::conditions(&new.get("status").get("conditions"), found);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            found.not_negative(&new.get("status").get(field));
        }
    },
    updates_unconditionally: false,
    ..Rules::NONE
};

fn disruption(spec: &At<'_>, found: &mut Findings) {
    let (min, max) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if min.present() && max.present() {
        found.invalid(spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for at in [&min, &max] {
        workload::int_or_percent(at, found);
        workload::at_most_everything(at, found);
    }
    meta::label_selector(&spec.get("selector"), found);
    found.one_of_if_any(&spec.get("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"]);
}
