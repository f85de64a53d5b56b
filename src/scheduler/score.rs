//! Which of the nodes that will do is best. Each score is from 0 to 100; weights are upstream's.
#![deny(clippy::disallowed_methods)]

use api::{constants::taint, node_affinity, taints};
use k8s_openapi::api::core::v1::{PreferredSchedulingTerm, Toleration};

use crate::{cluster::Cluster, node::NodeInfo, pod::PodInfo};

const MAX: i64 = 100;
const TAINT_WEIGHT: i64 = 3;
const AFFINITY_WEIGHT: i64 = 2;

const MIB: i64 = 1024 * 1024;
const SMALL_IMAGE: i64 = 23 * MIB;
const LARGE_IMAGE: i64 = 1000 * MIB;

/// The weighted sums, in the order of `nodes`.
pub(crate) fn scores(cluster: &Cluster, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let tolerations = soft_tolerations(pod);
    let shunned: Vec<i64> = nodes.iter().map(|node| soft_taints(node, &tolerations)).collect();
    let most_shunned = shunned.iter().copied().max().unwrap_or_default();
    let preferences = preferences(pod);
    let preferred: Vec<i64> = nodes
        .iter()
        .map(|node| node_affinity::preference_score(preferences, &node.name, &node.facts.labels))
        .collect();
    let most_preferred = preferred.iter().copied().max().unwrap_or_default();
    let score = |(i, node): (usize, &&NodeInfo)| {
        TAINT_WEIGHT * if most_shunned == 0 { MAX } else { MAX - MAX * shunned[i] / most_shunned }
            + AFFINITY_WEIGHT * if most_preferred == 0 { 0 } else { MAX * preferred[i] / most_preferred }
            + least_allocated(pod, node)
            + balanced(pod, node)
            + image_locality(cluster, pod, node)
    };
    nodes.iter().enumerate().map(score).collect()
}

/// Tolerations that could be of a preference.
fn soft_tolerations(pod: &PodInfo) -> Vec<Toleration> {
    let soft = |toleration: &&Toleration| {
        matches!(toleration.effect.as_deref(), None | Some("" | taint::PREFER_NO_SCHEDULE))
    };
    pod.tolerations().iter().filter(soft).cloned().collect()
}

fn soft_taints(node: &NodeInfo, tolerations: &[Toleration]) -> i64 {
    let soft = node.facts.taints.iter().filter(|taint| taint.effect == taint::PREFER_NO_SCHEDULE);
    soft.filter(|taint| !taints::is_tolerated(taint, tolerations)).count() as i64
}

fn preferences(pod: &PodInfo) -> &[PreferredSchedulingTerm] {
    let affinity = pod.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    affinity
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// The share that would stay free, of processors and of memory.
fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let has = &node.facts.allocatable;
    let cpu = (has.milli_cpu, node.scored.0.saturating_add(pod.scored.0));
    let memory = (has.memory_bytes, node.scored.1.saturating_add(pod.scored.1));
    let known = [cpu, memory].into_iter().filter(|(has, _)| *has > 0);
    let free = |(has, taken): (i64, i64)| if taken > has { 0 } else { share(has - taken, has) };
    let (sum, count) = known.fold((0, 0), |(sum, count), resource| (sum + free(resource), count + 1));
    if count == 0 { 0 } else { sum / count }
}

/// Whether the pod makes the use of processors and memory more alike: 75 where it changes nothing.
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    if pod.requests.milli_cpu == 0 && pod.requests.memory_bytes == 0 {
        return 0;
    }
    let (has, taken, wants) = (&node.facts.allocatable, &node.requested, &pod.requests);
    let balance = |cpu: i64, memory: i64| {
        let fraction = |taken: i64, has: i64| (taken as f64 / has as f64).min(1.0);
        let deviation = if has.milli_cpu == 0 || has.memory_bytes == 0 {
            0.0
        } else {
            (fraction(cpu, has.milli_cpu) - fraction(memory, has.memory_bytes)).abs() / 2.0
        };
        ((1.0 - deviation) * MAX as f64) as i64
    };
    let before = balance(taken.milli_cpu, taken.memory_bytes);
    let after = balance(
        taken.milli_cpu.saturating_add(wants.milli_cpu),
        taken.memory_bytes.saturating_add(wants.memory_bytes),
    );
    MAX / 2 + (MAX / 2 + after - before) / 2
}

/// How much need not be pulled. What few nodes have counts less, lest they get every pod of it.
fn image_locality(cluster: &Cluster, pod: &PodInfo, node: &NodeInfo) -> i64 {
    if node.facts.images.is_empty() {
        return 0;
    }
    let Some(spec) = &pod.pod.spec else { return 0 };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let (mut there, mut count) = (0_i64, 0_i64);
    for container in containers {
        count += 1;
        let name = with_tag(container.image.as_deref().unwrap_or_default());
        if let Some(bytes) = node.facts.images.get(name.as_ref()) {
            let spread = cluster.nodes_with_image(&name) as f64 / cluster.nodes().len() as f64;
            there = there.saturating_add((*bytes as f64 * spread) as i64);
        }
    }
    let most = LARGE_IMAGE * count;
    if most <= SMALL_IMAGE {
        return 0;
    }
    share(there.clamp(SMALL_IMAGE, most) - SMALL_IMAGE, most - SMALL_IMAGE)
}

fn with_tag(image: &str) -> std::borrow::Cow<'_, str> {
    let name_end = image.rfind('/').map_or(0, |slash| slash + 1);
    if image[name_end..].contains([':', '@']) { image.into() } else { format!("{image}:latest").into() }
}

fn share(part: i64, whole: i64) -> i64 {
    (i128::from(part) * i128::from(MAX) / i128::from(whole.max(1))) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        for (image, name) in [
            ("nginx", "nginx:latest"),
            ("a.b:5000/nginx", "a.b:5000/nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("nginx@sha256:0", "nginx@sha256:0"),
        ] {
            assert_eq!(with_tag(image), name);
        }
    }
}
