//! May a pod that is new here run here? Whoever bound it may have seen an older node than the one that is there.
//!
//! Upstream's predicates, reasons and words. Static pods are always admitted: they are the machine's own, and upstream
//! would evict others for the critical ones, which is not done here; what they ask for still counts against pods that
//! come later. So does everything that was admitted before, by this agent or by the one before it.
#![deny(clippy::disallowed_methods)]

use api::{
    constants::resource::{CPU, MEMORY},
    node_affinity,
    pods::{Resources, host_ports, read_list, requests, requests_with_status},
    quantity::Quantity,
    taints,
};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::pods;

const OS: &str = "linux";
const OS_LABEL: &str = "kubernetes.io/os";
const PODS: &str = "pods";
/// Upstream's list of what harms nobody but the pod that sets it: each belongs to one namespace of the pod's own. All are
/// namespaced since Linux 4.15.
const SAFE_SYSCTLS: &[(&str, Namespace)] = &[
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("net.ipv4.ip_local_port_range", Namespace::Net),
    ("net.ipv4.tcp_syncookies", Namespace::Net),
    ("net.ipv4.ping_group_range", Namespace::Net),
    ("net.ipv4.ip_unprivileged_port_start", Namespace::Net),
    ("net.ipv4.ip_local_reserved_ports", Namespace::Net),
    ("net.ipv4.tcp_keepalive_time", Namespace::Net),
    ("net.ipv4.tcp_fin_timeout", Namespace::Net),
    ("net.ipv4.tcp_keepalive_intvl", Namespace::Net),
    ("net.ipv4.tcp_keepalive_probes", Namespace::Net),
    ("net.ipv4.tcp_rmem", Namespace::Net),
    ("net.ipv4.tcp_wmem", Namespace::Net),
];
pub const NODE_AFFINITY: &str = "NodeAffinity";

/// Which of a pod's namespaces a sysctl belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// Why not: what the pod's status and the event say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

/// Is it to be asked? Not of a pod that was admitted before, whatever has come of the node since.
pub fn is_new(pod: &Pod) -> bool {
    let started = pod.status.as_ref().is_some_and(|status| {
        status.start_time.is_some() || status.phase.as_deref().is_some_and(|phase| phase != "Pending")
    });
    !pods::is_static(pod) && !started && pod.metadata.deletion_timestamp.is_none()
}

/// `others` are all pods that hold something of the node. The first thing that does not fit is told.
///
/// # Errors
/// When the pod may not run here.
pub fn admit(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), Refusal> {
    os(pod)?;
    sysctls(pod)?;
    devices(pod)?;
    resources(pod, others, node)?;
    let spec = pod.spec.as_ref();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !node_affinity::required_matches(pod, name, &node.metadata.labels.clone().unwrap_or_default()) {
        return Err(predicate(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    let wanted = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if !wanted.is_empty() && wanted != name {
        return Err(predicate("NodeName", "node(s) didn't match the requested node name"));
    }
    let taken: Vec<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    if host_ports(pod).iter().any(|port| taken.iter().any(|other| port.conflicts_with(other))) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let tainted = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    if taints::first_untolerated(tainted, tolerations, taints::evicts).is_some() {
        return Err(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

fn predicate(name: &str, why: &str) -> Refusal {
    Refusal { reason: name.into(), message: format!("Predicate {name} failed: {why}") }
}

fn os(pod: &Pod) -> Result<(), Refusal> {
    let refused = |reason: &str, message: &str| Refusal { reason: reason.into(), message: message.into() };
    // A label of the pod, not a selector: so it is upstream.
    if pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL)).is_some_and(|os| os != OS) {
        return Err(refused(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if pod.spec.as_ref().and_then(|spec| spec.os.as_ref()).is_some_and(|os| os.name != OS) {
        return Err(refused(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    Ok(())
}

/// Only safe ones, and none of a namespace that the pod shares with the machine.
fn sysctls(pod: &Pod) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let asked = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for sysctl in asked {
        let name = dotted(&sysctl.name);
        let why = match SAFE_SYSCTLS.iter().find(|(safe, _)| *safe == name) {
            None => "not allowlisted",
            Some((_, Namespace::Ipc)) if spec.host_ipc == Some(true) => "not allowed with host IPC enabled",
            Some((_, Namespace::Net)) if spec.host_network == Some(true) => {
                "not allowed with host Net enabled"
            }
            Some(_) => continue,
        };
        return Err(Refusal {
            reason: "SysctlForbidden".into(),
            message: format!("forbidden sysctl: {name:?} {why}"),
        });
    }
    Ok(())
}

/// Who binds such a pod counts on the node to prepare its devices: better none than one without them.
fn devices(pod: &Pod) -> Result<(), Refusal> {
    let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    if claims.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    Err(Refusal {
        reason: "UnexpectedAdmissionError".into(),
        message: "spec.resourceClaims is not supported yet".into(),
    })
}

/// `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`: the first separator says which of the two forms it is.
fn dotted(name: &str) -> String {
    let swapped = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.chars().map(swapped).collect(),
        _ => name.to_string(),
    }
}

fn resources(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), Refusal> {
    let allocatable = node.status.as_ref().map(|status| read_list(&status.allocatable)).unwrap_or_default();
    let most = amount(PODS, &allocatable);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count >= most {
        return Err(out_of(PODS, 1, count, most));
    }
    let asked = requests(pod);
    let mut held = Resources::new();
    for other in others {
        for (name, amount) in requests_with_status(other) {
            *held.entry(name).or_default() += amount;
        }
    }
    // Upstream's order: the first one is what is told.
    let first = [CPU, MEMORY, "ephemeral-storage"];
    let rest = asked.keys().map(String::as_str).filter(|name| !first.contains(name) && *name != PODS);
    for name in first.into_iter().chain(rest) {
        // What the node does not offer is not the node's to give: others keep count of it.
        if is_extended(name) && !allocatable.contains_key(name) {
            continue;
        }
        let (wanted, used, capacity) =
            (amount(name, &asked), amount(name, &held), amount(name, &allocatable));
        if wanted > 0 && wanted > capacity.saturating_sub(used) {
            return Err(out_of(name, wanted, used, capacity));
        }
    }
    Ok(())
}

/// Millicores of CPU; whole units of everything else.
fn amount(name: &str, list: &Resources) -> i64 {
    let count: fn(&Quantity) -> i64 = if name == CPU { Quantity::milli_value } else { Quantity::value };
    list.get(name).map_or(0, count)
}

/// Not one of Kubernetes' own: devices, and what other controllers count.
fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn out_of(name: &str, requested: i64, used: i64, capacity: i64) -> Refusal {
    Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd", "kubernetes.io/os": "linux"}},
            "status": {"allocatable": {
                "cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "3", "example.com/gpu": "1"}},
        }))
        .unwrap()
    }

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec})).unwrap()
    }

    fn asks(requests: Value) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn port(port: u16) -> Pod {
        pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port}]}]}))
    }

    /// `None`, or reason and message.
    fn verdict(pod: &Pod, others: &[Pod], node: &Node) -> Option<(String, String)> {
        let others: Vec<&Pod> = others.iter().collect();
        admit(pod, &others, node).err().map(|refusal| (refusal.reason, refusal.message))
    }

    #[track_caller]
    fn refused(pod: &Pod, others: &[Pod], reason: &str, message: &str) {
        assert_eq!(verdict(pod, others, &node()), Some((reason.into(), message.into())));
    }

    #[test]
    fn a_pod_that_claims_devices_is_refused() {
        let claims = json!([{"name": "gpu", "resourceClaimName": "g"}]);
        let message = "spec.resourceClaims is not supported yet";
        refused(&pod(json!({"resourceClaims": claims})), &[], "UnexpectedAdmissionError", message);
        assert_eq!(verdict(&pod(json!({"resourceClaims": []})), &[], &node()), None);
    }

    #[test]
    fn what_does_not_fit_beside_the_others_is_refused_in_upstreams_words() {
        let others = [asks(json!({"cpu": "1500m", "memory": "512Mi"})), port(80)];
        assert_eq!(verdict(&asks(json!({"cpu": "500m", "memory": "512Mi"})), &others, &node()), None);
        refused(
            &asks(json!({"cpu": "600m", "memory": "1Gi"})),
            &others,
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000",
        );
        refused(
            &asks(json!({"memory": "513Mi"})),
            &others,
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 537919488, used: 536870912, capacity: 1073741824",
        );
        refused(
            &pod(json!({})),
            &[port(1), port(2), port(3)],
            "OutOfpods",
            "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
        );
        refused(
            &port(80),
            &others,
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        );
        refused(
            &asks(json!({"hugepages-2Mi": "2Mi"})),
            &[],
            "OutOfhugepages-2Mi",
            "Node didn't have enough resource: hugepages-2Mi, requested: 2097152, used: 0, capacity: 0",
        );
    }

    #[test]
    fn only_safe_sysctls_of_namespaces_of_the_pods_own_are_let_through() {
        let with = |name: &str, rest: Value| {
            let mut spec = rest;
            spec["securityContext"] = json!({"sysctls": [
                {"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": name, "value": "1"}]});
            if spec["hostIPC"] == json!(true) {
                spec["securityContext"]["sysctls"][0] =
                    json!({"name": "net.ipv4.tcp_syncookies", "value": "1"});
            }
            pod(spec)
        };
        for (name, rest) in [
            ("net.ipv4.ip_unprivileged_port_start", json!({})),
            ("net/ipv4/tcp_rmem", json!({})),
            ("kernel.shm_rmid_forced", json!({"hostNetwork": true})),
            ("net.ipv4.tcp_wmem", json!({"hostIPC": true})),
        ] {
            assert_eq!(verdict(&with(name, rest), &[], &node()), None, "{name}");
        }
        for (name, rest, why) in [
            ("kernel.msgmax", json!({}), "\"kernel.msgmax\" not allowlisted"),
            ("net.core.somaxconn", json!({}), "\"net.core.somaxconn\" not allowlisted"),
            ("vm/swappiness", json!({}), "\"vm.swappiness\" not allowlisted"),
            (
                "net.ipv4.tcp_syncookies",
                json!({"hostNetwork": true}),
                "\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled",
            ),
            (
                "kernel.shm_rmid_forced",
                json!({"hostIPC": true}),
                "\"kernel.shm_rmid_forced\" not allowed with host IPC enabled",
            ),
        ] {
            let message = format!("forbidden sysctl: {why}");
            refused(&with(name, rest), &[], "SysctlForbidden", &message);
        }
    }

    #[test]
    fn devices_count_where_the_node_has_them() {
        let gpu = || asks(json!({"example.com/gpu": "1"}));
        assert_eq!(verdict(&gpu(), &[], &node()), None);
        assert_eq!(verdict(&gpu(), &[gpu()], &node()).unwrap().0, "OutOfexample.com/gpu");
        assert_eq!(verdict(&asks(json!({"example.com/else": "9"})), &[], &node()), None);
    }

    #[test]
    fn the_node_must_be_the_one_that_is_asked_for() {
        let affinity = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        assert_eq!(verdict(&pod(json!({"nodeSelector": {"disk": "ssd"}})), &[], &node()), None);
        refused(&pod(json!({"nodeSelector": {"disk": "tape"}})), &[], "NodeAffinity", affinity);
        let name = "Predicate NodeName failed: node(s) didn't match the requested node name";
        refused(&pod(json!({"nodeName": "m"})), &[], "NodeName", name);
        let os = "Failed to admit pod as the OS field doesn't match node OS";
        refused(&pod(json!({"os": {"name": "windows"}})), &[], "PodOSNotSupported", os);
        assert_eq!(verdict(&pod(json!({"os": {"name": "linux"}, "nodeName": "n"})), &[], &node()), None);
    }

    #[test]
    fn a_taint_that_would_evict_the_pod_keeps_it_out() {
        let mut node = node();
        let taints =
            json!({"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}]});
        node.spec = Some(serde_json::from_value(taints).unwrap());
        let message = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        let expected = Some(("TaintToleration".to_string(), message.to_string()));
        assert_eq!(verdict(&pod(json!({})), &[], &node), expected);
        let tolerant = pod(json!({"tolerations": [{"key": "b", "operator": "Exists"}]}));
        assert_eq!(verdict(&tolerant, &[], &node), None);
    }

    #[test]
    fn only_a_pod_that_no_agent_has_begun_with_is_asked() {
        let with = |status: Value, annotations: Value| -> bool {
            is_new(
                &serde_json::from_value(json!({
                    "metadata": {"annotations": annotations}, "status": status, "spec": {"containers": []}}))
                .unwrap(),
            )
        };
        assert!(with(json!({"phase": "Pending"}), json!({})));
        assert!(!with(json!({"phase": "Pending", "startTime": "2026-01-01T00:00:00Z"}), json!({})));
        assert!(!with(json!({"phase": "Running"}), json!({})));
        assert!(!with(json!({}), json!({"kubernetes.io/config.source": "file"})));
    }
}
