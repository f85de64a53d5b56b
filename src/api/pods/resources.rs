//! What a pod asks for and may use, all of its containers taken together.
//!
//! Containers run at once, so they add up. Init containers run one after another beside the sidecars that started
//! before them, so the largest moment counts (KEP-753). The pod's own demands replace those of its containers (KEP-2837),
//! and the overhead of its runtime class comes on top.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use crate::{
    constants::resource::{CPU, HUGE_PAGES_PREFIX, MEMORY},
    quantity::Quantity,
};

/// Amounts by the name of their resource.
pub type Resources = BTreeMap<String, Quantity>;

type TextList = Option<BTreeMap<String, Text>>;

/// A list as the API has it. What is no quantity does not pass validation, and counts as nothing here.
pub fn read_list(list: &TextList) -> Resources {
    let read = |(name, text): (&String, &Text)| Some((name.clone(), Quantity::try_from(text).ok()?));
    list.iter().flatten().filter_map(read).collect()
}

/// An init container that is started and stays: `restartPolicy: Always`.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod's spec asks for.
pub fn requests(pod: &Pod) -> Resources {
    request_sum(pod, |container| requested(container.resources.as_ref()))
}

/// What the pod holds or asks for, whichever is more: while it is resized in place, the node has to have room for both.
pub fn requests_with_status(pod: &Pod) -> Resources {
    requests_or(pod, &Resources::new())
}

/// As [`requests_with_status`], with an amount for what a container does not ask for: for scores, since a pod that asks
/// for nothing still uses something.
pub fn requests_or(pod: &Pod, default: &Resources) -> Resources {
    let infeasible = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"));
    let held = |container: &Container| {
        let spec = requested(container.resources.as_ref());
        let Some(status) = status_of(pod, &container.name) else { return spec };
        let Some(actual) = &status.resources else { return spec };
        let mut held = requested(Some(actual));
        take_larger(&mut held, &read_list(&status.allocated_resources));
        if !infeasible {
            take_larger(&mut held, &spec);
        }
        held
    };
    request_sum(pod, |container| {
        let mut asked = held(container);
        for (name, amount) in default {
            asked.entry(name.clone()).or_insert(*amount);
        }
        asked
    })
}

/// What the pod may use. A resource without a limit is not in the list.
pub fn limits(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let limit = |r: Option<&ResourceRequirements>| r.map(|r| read_list(&r.limits)).unwrap_or_default();
    let mut sum = over_time(pod, |container| limit(container.resources.as_ref()));
    take_over(&mut sum, limit(spec.resources.as_ref()));
    for (name, overhead) in read_list(&spec.overhead) {
        if let Some(limit) = sum.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit += overhead;
        }
    }
    sum
}

fn request_sum(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let mut sum = over_time(pod, of);
    take_over(&mut sum, requested(spec.resources.as_ref()));
    add(&mut sum, &read_list(&spec.overhead));
    sum
}

/// The most that the containers use at one moment.
fn over_time(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let mut running = Resources::new();
    for container in &spec.containers {
        add(&mut running, &of(container));
    }
    let (mut sidecars, mut starting) = (Resources::new(), Resources::new());
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if is_sidecar(container) {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            take_larger(&mut starting, &sidecars);
        } else {
            let mut moment = own;
            add(&mut moment, &sidecars);
            take_larger(&mut starting, &moment);
        }
    }
    take_larger(&mut running, &starting);
    running
}

fn requested(resources: Option<&ResourceRequirements>) -> Resources {
    resources.map(|r| read_list(&r.requests)).unwrap_or_default()
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.find(|status| status.name == name)
}

fn add(sum: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn take_larger(list: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        let held = list.entry(name.clone()).or_insert(*amount);
        *held = (*held).max(*amount);
    }
}

/// Only these can be demanded for a pod as a whole.
fn take_over(sum: &mut Resources, of_pod: Resources) {
    sum.extend(
        of_pod
            .into_iter()
            .filter(|(name, _)| name == CPU || name == MEMORY || name.starts_with(HUGE_PAGES_PREFIX)),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn cpu(name: &str, request: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": request}, "limits": {"cpu": request}}})
    }

    fn sidecar(name: &str, request: &str) -> Value {
        let mut container = cpu(name, request);
        container["restartPolicy"] = json!("Always");
        container
    }

    #[track_caller]
    fn check(spec: Value, expected: &str) {
        let pod = pod(spec);
        assert_eq!(requests(&pod)["cpu"].to_string(), expected);
        assert_eq!(requests_with_status(&pod)["cpu"].to_string(), expected);
    }

    #[test]
    fn containers_add_up_and_init_containers_take_turns() {
        check(json!({"containers": [cpu("a", "1"), cpu("b", "500m")]}), "1500m");
        check(json!({"containers": [cpu("a", "1")], "initContainers": [cpu("i", "3"), cpu("j", "2")]}), "3");
        check(json!({"containers": [cpu("a", "4")], "initContainers": [cpu("i", "3")]}), "4");
    }

    #[test]
    fn a_sidecar_counts_beside_the_containers_and_beside_later_init_containers() {
        check(json!({"containers": [cpu("a", "1")], "initContainers": [sidecar("s", "2")]}), "3");
        check(
            json!({"containers": [cpu("a", "1")], "initContainers": [sidecar("s", "2"), cpu("i", "5")]}),
            "7",
        );
        check(
            json!({"containers": [cpu("a", "1")], "initContainers": [cpu("i", "5"), sidecar("s", "2")]}),
            "5",
        );
    }

    #[test]
    fn overhead_comes_on_top_and_the_pods_own_demand_replaces_its_containers() {
        check(json!({"containers": [cpu("a", "1")], "overhead": {"cpu": "250m"}}), "1250m");
        let own = json!({"requests": {"cpu": "2", "example.com/x": "1"}, "limits": {"cpu": "3"}});
        let spec = json!({"containers": [cpu("a", "1")], "resources": own, "overhead": {"cpu": "1", "memory": "1Gi"}});
        check(spec.clone(), "3");
        let limits = limits(&pod(spec));
        assert_eq!(limits["cpu"].to_string(), "4");
        assert!(!limits.contains_key("memory"), "overhead limits nothing that has no limit");
    }

    #[test]
    fn a_resize_counts_what_is_held_until_it_is_done() {
        let resized = |reason: &str| -> Pod {
            serde_json::from_value(json!({
                "spec": {"containers": [cpu("a", "3")]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                    "containerStatuses": [{
                        "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                        "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "1"}},
                    }],
                },
            }))
            .unwrap()
        };
        assert_eq!(requests_with_status(&resized("Deferred"))["cpu"].to_string(), "3");
        assert_eq!(requests_with_status(&resized("Infeasible"))["cpu"].to_string(), "2");
        assert_eq!(requests(&resized("Infeasible"))["cpu"].to_string(), "3");
    }

    #[test]
    fn each_container_that_asks_for_nothing_gets_the_default() {
        let default = Resources::from([("cpu".to_string(), "100m".parse().unwrap())]);
        let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}, cpu("c", "1"), cpu("d", "0")]}));
        assert_eq!(requests_or(&pod, &default)["cpu"].to_string(), "1200m");
    }
}
