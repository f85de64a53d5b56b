//! The Node object of what was observed.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, net::IpAddr};

use api::quantity::{Format, Quantity};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
        NodeStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity as Text,
        apis::meta::v1::{ObjectMeta, Time},
    },
};

use super::observe::{Machine, Observed};
use crate::{config::KubeletConfig, runtime::Condition, shutdown::GOING_DOWN};

/// The kubelet's version, as the Node and `kubelet --version` tell it.
pub const VERSION: &str = "v1.36.3+coracle";
/// Upstream's `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;
/// Upstream's `evictionHard` defaults.
const LEAST_MEMORY_BYTES: i64 = 100 << 20;
const LEAST_DISK_PERCENT: u64 = 10;
const LEAST_INODES_PERCENT: u64 = 5;
const LEAST_PIDS_PERCENT: i64 = 5;

pub(super) struct Facts<'a> {
    pub(super) config: &'a KubeletConfig,
    pub(super) machine: &'a Machine,
    pub(super) observed: &'a Observed,
    pub(super) addresses: &'a [IpAddr],
    /// The machine is about to be off.
    pub(super) going_down: bool,
    pub(super) now: Timestamp,
}

/// The labels that every node has, and those of the configuration.
pub(super) fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let arch = arch();
    let mut labels = config.node_labels.clone();
    for (key, value) in [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", config.hostname.as_str()),
    ] {
        labels.insert(key.into(), value.into());
    }
    labels
}

/// As upstream: of the labels of a node that is there already, only these are put back to what they say here. The others
/// of the configuration are for registering; an administrator may have changed them since.
const KEPT: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// What is to be put back among the labels that a node shows.
pub(super) fn lost_labels(
    config: &KubeletConfig,
    shown: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut lost = labels(config);
    lost.retain(|key, value| KEPT.contains(&key.as_str()) && shown.get(key) != Some(value));
    lost
}

/// The object to register.
pub(super) fn node(facts: &Facts<'_>) -> Node {
    let config = facts.config;
    let attach = ("volumes.kubernetes.io/controller-managed-attach-detach".to_string(), "true".to_string());
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some(BTreeMap::from([attach])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(config.register_with_taints.clone()).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: Some(status(facts, &[])),
    }
}

/// `shown` are the conditions in the API: one that keeps its status keeps its time.
pub(super) fn status(facts: &Facts<'_>, shown: &[NodeCondition]) -> NodeStatus {
    let capacity = capacity(facts);
    let mut addresses: Vec<NodeAddress> = facts
        .addresses
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: facts.config.hostname.clone() });
    NodeStatus {
        allocatable: Some(allocatable(facts, &capacity)),
        capacity: Some(capacity),
        addresses: Some(addresses),
        conditions: Some(conditions(facts, shown)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: facts.config.server_port.into() }),
        }),
        images: Some(images(facts.observed)),
        node_info: Some(info(facts)),
        ..NodeStatus::default()
    }
}

/// Whether the API shows another state of a condition than `status` does: somebody who missed our Lease marked it
/// Unknown, and takes our word for it again only when it is given.
pub(super) fn contradicts(shown: &Node, status: &NodeStatus) -> bool {
    let shown = shown.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let other = |own: &NodeCondition| {
        shown.iter().find(|it| it.type_ == own.type_).is_none_or(|it| it.status != own.status)
    };
    status.conditions.iter().flatten().any(other)
}

/// The conditions that `ours` and the time of their last change are compared with: what others made of them counts.
pub(super) fn newest_conditions(
    mut ours: Vec<NodeCondition>,
    of_api: &[NodeCondition],
) -> Vec<NodeCondition> {
    for own in &mut ours {
        if let Some(shown) = of_api.iter().find(|it| it.type_ == own.type_ && it.status != own.status) {
            *own = shown.clone();
        }
    }
    ours
}

/// Why pods on the pod network cannot start: upstream's words.
pub(super) fn network_error(observed: &Observed) -> Option<String> {
    let network = &observed.health.as_ref()?.network;
    (!network.ok).then(|| format!("container runtime network not ready: {}", shown("NetworkReady", network)))
}

fn shown(kind: &str, condition: &Condition) -> String {
    format!("{kind}={} reason:{} message:{}", condition.ok, condition.reason, condition.message)
}

fn capacity(facts: &Facts<'_>) -> BTreeMap<String, Text> {
    let machine = facts.machine;
    let mut list = BTreeMap::from([
        ("cpu".to_string(), Text(machine.cpus.to_string())),
        ("memory".to_string(), Text(format!("{}Ki", machine.memory_bytes / 1024))),
        ("pods".to_string(), Text(facts.config.max_pods.to_string())),
    ]);
    if let Some(disk) = facts.observed.disk {
        list.insert("ephemeral-storage".into(), Text(format!("{}Ki", disk.capacity_bytes / 1024)));
    }
    for (kilobytes, bytes) in &machine.hugepages {
        let size = Quantity::from_bytes(kilobytes * 1024);
        list.insert(format!("hugepages-{size}"), Quantity::from_bytes(*bytes).into());
    }
    list
}

fn allocatable(facts: &Facts<'_>, capacity: &BTreeMap<String, Text>) -> BTreeMap<String, Text> {
    let mut list = capacity.clone();
    for (name, reserved) in &facts.config.reserved {
        let (Some(Ok(all)), Ok(reserved)) =
            (list.get(name).map(Quantity::try_from), reserved.parse::<Quantity>())
        else {
            continue;
        };
        let format = all.format();
        let left = (all - reserved).max(Quantity::new(0, format)).with_format(format);
        list.insert(name.clone(), left.into());
    }
    if let Some(disk) = facts.observed.disk {
        let usable = disk.capacity_bytes - disk.capacity_bytes / 100 * LEAST_DISK_PERCENT;
        let usable = Quantity::new(i64::try_from(usable).unwrap_or(i64::MAX), Format::DecimalSi);
        list.insert("ephemeral-storage".into(), usable.into());
    }
    list
}

fn conditions(facts: &Facts<'_>, shown: &[NodeCondition]) -> Vec<NodeCondition> {
    let observed = facts.observed;
    let disk_pressure = observed.disk.is_some_and(|disk| {
        disk.available_bytes * 100 < disk.capacity_bytes * LEAST_DISK_PERCENT
            || (disk.inodes > 0 && disk.inodes_free * 100 < disk.inodes * LEAST_INODES_PERCENT)
    });
    let pids_free = observed.pids_max.saturating_sub(observed.pids_used);
    let pressures = [
        (
            "MemoryPressure",
            observed.memory_available_bytes < LEAST_MEMORY_BYTES,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        (
            "DiskPressure",
            disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        (
            "PIDPressure",
            pids_free < observed.pids_max / 100 * LEAST_PIDS_PERCENT,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    ];
    let mut conditions: Vec<NodeCondition> = pressures
        .into_iter()
        .map(|(kind, pressed, bad, good)| {
            let (reason, message) = if pressed { bad } else { good };
            condition(facts, shown, kind, pressed, (reason, message.to_string()))
        })
        .collect();
    let unready = not_ready(observed, facts.going_down);
    let told = match &unready {
        None => ("KubeletReady", "kubelet is posting ready status".to_string()),
        Some(message) => ("KubeletNotReady", message.clone()),
    };
    // Ready is the last one: older clients look there.
    conditions.push(condition(facts, shown, "Ready", unready.is_none(), told));
    conditions
}

fn not_ready(observed: &Observed, going_down: bool) -> Option<String> {
    let mut errors = Vec::new();
    match &observed.health {
        None => errors.push("container runtime is down".to_string()),
        Some(health) if !health.runtime.ok => {
            errors.push(format!("container runtime not ready: {}", shown("RuntimeReady", &health.runtime)));
        }
        Some(_) => {}
    }
    errors.extend(network_error(observed));
    errors.extend(going_down.then(|| GOING_DOWN.to_string()));
    if observed.disk.is_none() {
        errors.push("missing node capacity for resources: ephemeral-storage".to_string());
    }
    match errors.len() {
        0 => None,
        1 => errors.pop(),
        _ => Some(format!("[{}]", errors.join(", "))),
    }
}

fn condition(
    facts: &Facts<'_>,
    shown: &[NodeCondition],
    kind: &str,
    is_true: bool,
    (reason, message): (&str, String),
) -> NodeCondition {
    let status = if is_true { "True" } else { "False" };
    let before = shown.iter().find(|shown| shown.type_ == kind && shown.status == status);
    let since = before.and_then(|before| before.last_transition_time.clone());
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_heartbeat_time: Some(Time(facts.now)),
        last_transition_time: Some(since.unwrap_or(Time(facts.now))),
    }
}

fn images(observed: &Observed) -> Vec<ContainerImage> {
    let mut images = observed.images.clone();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    images.truncate(MAX_IMAGES);
    let shown = images.into_iter().map(|image| ContainerImage {
        names: Some(image.digests.into_iter().chain(image.tags).collect()),
        size_bytes: i64::try_from(image.size_bytes).ok(),
    });
    shown.collect()
}

fn info(facts: &Facts<'_>) -> NodeSystemInfo {
    let machine = facts.machine;
    let runtime = facts.observed.version.clone().unwrap_or_default();
    let runtime = if runtime.name.is_empty() {
        String::new()
    } else {
        format!("{}://{}", runtime.name, runtime.version)
    };
    NodeSystemInfo {
        architecture: arch().into(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime,
        kernel_version: machine.kernel.clone(),
        kubelet_version: VERSION.into(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        ..NodeSystemInfo::default()
    }
}

/// Go's name of this machine's architecture.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        node::observe::Disk,
        runtime::{RuntimeHealth, RuntimeVersion},
    };

    fn healthy() -> Observed {
        let ok = Condition { ok: true, ..Condition::default() };
        Observed {
            memory_available_bytes: 1 << 30,
            disk: Some(Disk {
                capacity_bytes: 1000 << 20,
                available_bytes: 500 << 20,
                inodes: 100,
                inodes_free: 50,
            }),
            pids_used: 1,
            pids_max: 32768,
            health: Some(RuntimeHealth { runtime: ok.clone(), network: ok }),
            version: Some(RuntimeVersion { name: "containerd".into(), version: "1.6.20".into() }),
            images: Vec::new(),
        }
    }

    fn status_of(observed: &Observed, shown: &[NodeCondition]) -> NodeStatus {
        let config = KubeletConfig::new("n");
        let machine =
            Machine { cpus: 2, memory_bytes: 1 << 30, hugepages: vec![(2048, 0)], ..Machine::default() };
        let now = Timestamp::from_second(100).unwrap();
        status(
            &Facts { config: &config, machine: &machine, observed, addresses: &[], going_down: false, now },
            shown,
        )
    }

    fn told(status: &NodeStatus, kind: &str) -> (String, String, String) {
        let condition = status.conditions.iter().flatten().find(|it| it.type_ == kind).unwrap().clone();
        (condition.status, condition.reason.unwrap(), condition.message.unwrap())
    }

    #[test]
    fn what_others_marked_unknown_while_the_node_was_silent_is_contradicted_once() {
        let ours = status_of(&healthy(), &[]);
        let mut shown = Node { status: Some(ours.clone()), ..Node::default() };
        assert!(!contradicts(&shown, &ours));
        for condition in shown.status.as_mut().unwrap().conditions.as_mut().unwrap() {
            condition.status = "Unknown".into();
            condition.last_transition_time = Some(Time(Timestamp::from_second(50).unwrap()));
        }
        assert!(contradicts(&shown, &ours));
        let of_api = shown.status.unwrap().conditions.unwrap();
        let compared = newest_conditions(ours.conditions.clone().unwrap(), &of_api);
        let again = status_of(&healthy(), &compared);
        let ready = again.conditions.iter().flatten().find(|it| it.type_ == "Ready").unwrap();
        assert_eq!(
            (ready.status.as_str(), &ready.last_transition_time),
            ("True", &Some(Time(Timestamp::from_second(100).unwrap())))
        );
    }

    #[test]
    fn a_healthy_node_is_ready_with_what_it_has() {
        let status = status_of(&healthy(), &[]);
        assert_eq!(told(&status, "Ready").1, "KubeletReady");
        assert_eq!(status.conditions.as_ref().unwrap().last().unwrap().type_, "Ready");
        let text = |list: &Option<BTreeMap<String, Text>>, name: &str| list.as_ref().unwrap()[name].0.clone();
        assert_eq!(text(&status.capacity, "memory"), "1048576Ki");
        assert_eq!(text(&status.allocatable, "memory"), "924Mi");
        assert_eq!(text(&status.allocatable, "ephemeral-storage"), "943718400");
        assert_eq!(text(&status.capacity, "hugepages-2Mi"), "0");
        assert_eq!(status.node_info.unwrap().container_runtime_version, "containerd://1.6.20");
    }

    #[test]
    fn each_failure_is_told_in_upstreams_words() {
        let mut observed = healthy();
        observed.health = None;
        assert_eq!(told(&status_of(&observed, &[]), "Ready").2, "container runtime is down");
        let mut observed = healthy();
        observed.health.as_mut().unwrap().network = Condition {
            ok: false,
            reason: "NetworkPluginNotReady".into(),
            message: "Network plugin returns error: cni plugin not initialized".into(),
        };
        let (status, reason, message) = told(&status_of(&observed, &[]), "Ready");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "KubeletNotReady"));
        assert_eq!(
            message,
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
        );
        let mut observed = healthy();
        observed.memory_available_bytes = 50 << 20;
        assert_eq!(told(&status_of(&observed, &[]), "MemoryPressure").0, "True");
        let mut observed = healthy();
        observed.disk.as_mut().unwrap().available_bytes = 1;
        assert_eq!(told(&status_of(&observed, &[]), "DiskPressure").1, "KubeletHasDiskPressure");
    }

    #[test]
    fn a_node_whose_machine_goes_down_is_not_ready() {
        let mut observed = healthy();
        assert_eq!(not_ready(&observed, true).as_deref(), Some("node is shutting down"));
        observed.health = None;
        let both = "[container runtime is down, node is shutting down]";
        assert_eq!(not_ready(&observed, true).as_deref(), Some(both));
    }

    #[test]
    fn only_well_known_labels_of_a_node_that_is_there_are_put_back() {
        let mut config = KubeletConfig::new("n");
        for (key, value) in [("example.com/rack", "7"), ("topology.kubernetes.io/zone", "z")] {
            config.node_labels.insert(key.into(), value.into());
        }
        let mut shown = labels(&config);
        assert_eq!(lost_labels(&config, &shown), BTreeMap::new());
        shown.insert("example.com/rack".into(), "8".into());
        shown.insert("topology.kubernetes.io/zone".into(), "y".into());
        shown.remove("kubernetes.io/os");
        let expected = [("kubernetes.io/os", "linux"), ("topology.kubernetes.io/zone", "z")];
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        assert_eq!(lost_labels(&config, &shown), expected);
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let before = Time(Timestamp::from_second(7).unwrap());
        let shown = NodeCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(before.clone()),
            ..NodeCondition::default()
        };
        let status = status_of(&healthy(), &[shown]);
        let ready = status.conditions.unwrap().pop().unwrap();
        assert_eq!(ready.last_transition_time, Some(before));
    }
}
