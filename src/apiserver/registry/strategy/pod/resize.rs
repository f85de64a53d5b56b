//! `pods/resize`: requests and limits of a running pod's containers.

use serde_json::Value;

use super::{qos, validate};
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use crate::registry::strategy::rules::Rules;

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Everything but the containers' resources stays as it is.
pub const RESIZE: Rules = Rules {
    prepare_update: |new, old| {
        let mut resized = old.clone();
        for list in LISTS {
            let news = new["spec"][list].as_array().cloned().unwrap_or_default();
            super::super::fill::each(&mut resized["spec"], list, |container| {
                let wanted = news.iter().find(|new| new["name"] == container["name"]);
                if let Some(resources) = wanted.and_then(|new| new.get("resources")) {
                    container["resources"] = resources.clone();
                }
            });
        }
        *new = resized;
    },
    validate: validate::pod,
    validate_update: update,
    ..Rules::NONE
};

fn update(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let spec = new.get("spec");
    if old.get("metadata").get("annotations").key("kubernetes.io/config.mirror").present() {
        return found.forbidden(&At::named("", &Value::Null), "static pods cannot be resized");
    }
    if qos::class(new.value()) != qos::class(old.value()) {
        let class = At::named(spec.path(), new.value());
        let shown = qos::class(old.value());
        found.invalid_value(&class, shown, "Pod QOS Class may not change as a result of resizing");
    }
    for list in LISTS {
        let olds = old.get("spec").get(list);
        for (now, then) in spec.get(list).items().zip(olds.items()) {
            let (now, then) = (now.get("resources"), then.get("resources"));
            for kind in ["requests", "limits"] {
                let removed = then.get(kind).entries().any(|(name, _)| !now.get(kind).key(name).present());
                if removed {
                    let detail = format!("resource {kind} cannot be removed");
                    found.forbidden(&now.get(kind), &detail);
                }
            }
            if others(now.value()) != others(then.value()) {
                found.forbidden(&spec, "only cpu and memory resources are mutable");
            }
        }
    }
}

/// The resources without CPU and memory.
fn others(resources: &Value) -> Value {
    let mut rest = resources.clone();
    for kind in ["requests", "limits"] {
        super::super::fill::within(&mut rest, kind, |list| {
            for name in ["cpu", "memory"] {
                super::super::fill::remove(list, name);
            }
        });
    }
    rest
}
