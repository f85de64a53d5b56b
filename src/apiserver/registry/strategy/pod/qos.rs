//! The quality of service class of a pod, fixed when it is made.

use api::quantity::Quantity;
use serde_json::Value;

/// `Guaranteed` if every container has equal requests and limits of both resources, `BestEffort` if nobody asks for
/// anything.
pub fn class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let pod_level = &spec["resources"];
    let asks = |resources: &Value| {
        ["requests", "limits"]
            .iter()
            .any(|kind| ["cpu", "memory"].iter().any(|n| amount(&resources[kind], n).is_some()))
    };
    if asks(pod_level) {
        return if guaranteed(pod_level) { "Guaranteed" } else { "Burstable" };
    }
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .filter_map(|list| spec[list].as_array())
        .flatten()
        .map(|container| &container["resources"])
        .collect();
    if !containers.iter().any(|resources| asks(resources)) {
        "BestEffort"
    } else if containers.iter().all(|resources| guaranteed(resources)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn guaranteed(resources: &Value) -> bool {
    ["cpu", "memory"].iter().all(|name| {
        let limit = amount(&resources["limits"], name);
        limit.is_some() && limit == amount(&resources["requests"], name)
    })
}

/// What is asked for; zero is not asking.
fn amount(list: &Value, name: &str) -> Option<Quantity> {
    let quantity = Quantity::of_value(list.get(name)?).ok()?;
    (!quantity.is_zero() && !quantity.is_negative()).then_some(quantity)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let both =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}});
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"example.com/gpu": "1"}}), "BestEffort"),
            (both, "Guaranteed"),
        ] {
            let pod = json!({"spec": {"containers": [{"resources": resources}]}});
            assert_eq!(class(&pod), expected, "{pod}");
        }
    }
}
