//! How good a service a pod gets when memory or processors run short.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use super::resources::{Resources, read_list};
use crate::constants::resource::{CPU, MEMORY};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Computed from the spec, which never changes it: Guaranteed if every container limits cpu and memory and the requests
/// are equal to the limits, BestEffort if nothing is requested or limited, Burstable otherwise.
pub fn qos_class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let (mut requests, mut limits) = (Resources::new(), Resources::new());
    let mut all_limited = true;
    if let Some(own) = &spec.resources {
        collect(Some(own), &mut requests, &mut limits);
        all_limited = own.limits.as_ref().is_none_or(|l| l.is_empty()) || limits.len() == 2;
    } else {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let limited = collect(container.resources.as_ref(), &mut requests, &mut limits);
            all_limited &= limited == 2;
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return QosClass::BestEffort;
    }
    if all_limited && requests == limits { QosClass::Guaranteed } else { QosClass::Burstable }
}

/// Adds what is asked of cpu and memory. Answers how many of the two are limited.
fn collect(
    resources: Option<&ResourceRequirements>,
    requests: &mut Resources,
    limits: &mut Resources,
) -> usize {
    let Some(resources) = resources else { return 0 };
    let add = |list, sum: &mut Resources| {
        let counted = |name: &str| name == CPU || name == MEMORY;
        let mut found = 0;
        for (name, amount) in read_list(list) {
            if counted(&name) && !amount.is_zero() && !amount.is_negative() {
                *sum.entry(name).or_default() += amount;
                found += 1;
            }
        }
        found
    };
    add(&resources.requests, requests);
    add(&resources.limits, limits)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: QosClass) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(qos_class(&pod), expected, "{spec}");
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn the_class_follows_from_cpu_and_memory_of_every_container() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let equal = container(full.clone(), full.clone());
        let none = container(json!({}), json!({}));
        check(json!({"containers": [equal]}), QosClass::Guaranteed);
        check(json!({"containers": [equal, equal]}), QosClass::Guaranteed);
        check(json!({"containers": [none]}), QosClass::BestEffort);
        check(json!({"containers": [equal, none]}), QosClass::Burstable);
        check(json!({"containers": [equal], "initContainers": [none]}), QosClass::Burstable);
        check(json!({"containers": [container(json!({"cpu": "1"}), json!({}))]}), QosClass::Burstable);
        check(json!({"containers": [container(json!({"cpu": "1"}), full.clone())]}), QosClass::Burstable);
        check(json!({"containers": [container(json!({"cpu": "0"}), json!({}))]}), QosClass::BestEffort);
        check(
            json!({"containers": [container(json!({"example.com/x": "1"}), json!({}))]}),
            QosClass::BestEffort,
        );
        check(
            json!({"containers": [container(json!({"cpu": "1000m", "memory": "1Gi"}), full)]}),
            QosClass::Guaranteed,
        );
    }

    #[test]
    fn the_pods_own_resources_decide_where_it_has_them() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let none = container(json!({}), json!({}));
        check(
            json!({"containers": [none], "resources": {"requests": full, "limits": full}}),
            QosClass::Guaranteed,
        );
        check(json!({"containers": [none], "resources": {"requests": {"cpu": "1"}}}), QosClass::Burstable);
        check(
            json!({"containers": [none], "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}),
            QosClass::Burstable,
        );
    }
}
