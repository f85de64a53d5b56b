//! Requests and limits as the kernel takes them: shares, quota, bytes, OOM score.
#![deny(clippy::disallowed_methods)]

use api::quantity::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use crate::{pods, runtime::LinuxResources};

/// The kernel's bounds and upstream's period.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1_000;

/// Upstream's scores: guaranteed pods go last, best-effort ones first.
const GUARANTEED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1000;

pub(crate) fn linux_resources(pod: &Pod, container: &Container) -> LinuxResources {
    let cpu_limit = limit(pod, container, "cpu").map_or(0, |cpu| cpu.milli_value());
    // A limit alone is also the request.
    let cpu_request = request(container, "cpu").map_or(cpu_limit, |cpu| cpu.milli_value());
    LinuxResources {
        cpu_shares: shares(cpu_request),
        cpu_quota: quota(cpu_limit),
        cpu_period: PERIOD_US,
        memory_limit_bytes: limit(pod, container, "memory").map_or(0, |memory| memory.value()),
        hugepage_limits: hugepages(container),
    }
}

pub(crate) fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

pub(crate) fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * PERIOD_US / 1000).max(MIN_QUOTA_US) }
}

/// Upstream's heuristic: the more of the node's memory a burstable container asked for, the later it is killed.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i64 {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
    if priority == Some("system-node-critical") {
        return GUARANTEED_SCORE;
    }
    match api::pods::qos_class(pod).as_str() {
        "Guaranteed" => return GUARANTEED_SCORE,
        "BestEffort" => return BEST_EFFORT_SCORE,
        _ => {}
    }
    let score = |bytes: i64| 1000 - 1000_i64.saturating_mul(bytes) / node_memory_bytes.max(1);
    let memory = |container: &Container| request(container, "memory").map_or(0, |memory| memory.value());
    let mut adj = score(memory(container));
    if pods::is_sidecar(container) {
        // A sidecar is not killed before the containers it serves.
        let least = pods::containers(pod).iter().map(memory).min().unwrap_or(0);
        adj = adj.min(score(least));
    }
    adj.clamp(1000 + GUARANTEED_SCORE, BEST_EFFORT_SCORE - 1)
}

fn hugepages(container: &Container) -> Vec<(String, u64)> {
    let limits = container.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
    limits
        .filter_map(|(name, amount)| {
            let size = Quantity::try_from(&Text(name.strip_prefix("hugepages-")?.into())).ok()?.value();
            let amount = u64::try_from(Quantity::try_from(amount).ok()?.value()).ok()?;
            Some((kernel_size(size), amount))
        })
        .collect()
}

/// `2MB`, as the kernel names the cgroup file.
pub(crate) fn kernel_size(bytes: i64) -> String {
    let units = [("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    let fits = units.iter().find(|(_, unit)| bytes >= *unit && bytes % unit == 0);
    fits.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

fn request(container: &Container, name: &str) -> Option<Quantity> {
    parse(container.resources.as_ref()?.requests.as_ref()?.get(name)?)
}

/// The container's own, else the pod's.
fn limit(pod: &Pod, container: &Container, name: &str) -> Option<Quantity> {
    let own = container.resources.as_ref().and_then(|resources| parse(resources.limits.as_ref()?.get(name)?));
    own.or_else(|| parse(pod.spec.as_ref()?.resources.as_ref()?.limits.as_ref()?.get(name)?))
}

fn parse(text: &Text) -> Option<Quantity> {
    Quantity::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_become_shares_and_limits_become_quota() {
        let table = [
            (json!({}), (2, 0, 0)),
            (json!({"requests": {"cpu": "1"}}), (1024, 0, 0)),
            (json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}}), (2, 1000, 0)),
            (json!({"limits": {"cpu": "250m", "memory": "64Mi"}}), (256, 25_000, 64 << 20)),
        ];
        for (resources, expected) in table {
            let pod = Pod::default();
            let container: Container =
                serde_json::from_value(json!({"name": "c", "resources": resources})).unwrap();
            let made = linux_resources(&pod, &container);
            assert_eq!((made.cpu_shares, made.cpu_quota, made.memory_limit_bytes), expected, "{resources}");
        }
    }

    #[test]
    fn oom_scores_follow_the_quality_of_service() {
        let score = |resources: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}
            }))
            .unwrap();
            oom_score_adj(&pod, &pods::containers(&pod)[0], 1 << 30)
        };
        assert_eq!(score(json!({})), 1000);
        assert_eq!(score(json!({"requests": {"memory": "256Mi"}})), 750);
        assert_eq!(score(json!({"requests": {"cpu": "1"}})), 999);
        let both = json!({"cpu": "1", "memory": "1Mi"});
        assert_eq!(score(json!({"requests": both, "limits": both})), -997);
    }
}
