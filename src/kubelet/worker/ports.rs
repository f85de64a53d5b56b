//! What the pod worker needs from the parts beside it: narrow traits that volumes, env, cgroups and probes implement.
//!
//! All of it is level-triggered and idempotent: the worker calls again on every pass, and after a restart of the agent
//! it calls with no memory of what was done before.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{pods::PodUid, runtime::ContainerId};

/// What is made for a pod outside the runtime: cgroup, directories, volumes, environment.
pub trait PodResources: Send + Sync + 'static {
    /// Makes the pod's cgroup and directories and mounts its volumes; brings their content up to date.
    /// Runs on every pass of a pod that should run, before its sandbox exists; cheap when nothing changed.
    fn prepare(&self, pod: &Arc<Pod>) -> impl Future<Output = Result<PreparedPod, PrepareError>> + Send;

    /// What one container needs, asked just before it is created. `env` is final except for `$(VAR)` expansion in
    /// command and args, which the runtime's conversion does with these values.
    fn container(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        prepared: &PreparedPod,
        pod_ips: &[IpAddr],
    ) -> impl Future<Output = Result<PreparedContainer, PrepareError>> + Send;

    /// Unmounts, removes the pod's directory and its cgroup, once no container of it runs. Idempotent; an unknown
    /// pod is a success. Only after this succeeds does the API object go.
    fn teardown(&self, uid: &PodUid) -> impl Future<Output = Result<(), PrepareError>> + Send;

    /// Pods of which something is left here (a directory, a cgroup), known to the sources or not.
    fn leftovers(&self) -> impl Future<Output = Vec<PodUid>> + Send;
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreparedPod {
    /// The sandbox's `cgroup_parent` in the driver's own notation; empty leaves it to the runtime.
    pub cgroup_parent: String,
    /// Where each volume of `spec.volumes` stands on the host.
    pub volumes: BTreeMap<String, PathBuf>,
    /// The group that owns fsGroup volumes and those their plugin asks for, added to every container's groups.
    pub supplemental_groups: Vec<i64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreparedContainer {
    /// In the order that they are set; later wins.
    pub env: Vec<(String, String)>,
    /// From `volumeMounts`, subPath resolved. The hosts file and the termination log are added by the worker.
    pub mounts: Vec<HostMount>,
    pub devices: Vec<HostDevice>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMount {
    pub container_path: String,
    pub host_path: PathBuf,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    pub selinux_relabel: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    pub container_path: String,
    pub host_path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// Why a pod or container cannot have what it asks for. `Config` is the pod's own fault as it stands now (a ConfigMap
/// that is not there): reason CreateContainerConfigError; `Volume` is event FailedMount; the rest is ours.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Upstream's words, shown in the container's waiting message.
    #[error("{message}")]
    Config { message: String },
    /// Upstream's words after `MountVolume.SetUp failed for volume "…" : `, shown in the event.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    Volume { volume: String, message: String },
    #[error("{operation}")]
    Host {
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A mount or file system that does not answer; the work was left to end by itself.
    #[error("{operation} did not end in time")]
    TimedOut { operation: &'static str },
}

/// Probes run beside the worker, one task per probe; the worker tells what runs and reads what was measured.
pub trait Probes: Send + Sync + 'static {
    /// The containers of this pod that run now and should be probed; probes of others end. Called after every
    /// observation, also when nothing changed. An empty list ends all of them (a pod that terminates).
    /// Readiness is still probed while a pod terminates, liveness and startup are not: `terminating` says so.
    fn update(&self, pod: &Arc<Pod>, running: &[Probed], terminating: bool);

    /// What was measured for the container instances of this pod.
    fn readings(&self, uid: &PodUid) -> Vec<Reading>;

    fn forget(&self, uid: &PodUid);
}

/// A running container as probes see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    pub name: String,
    pub id: ContainerId,
    pub started_at: jiff::Timestamp,
    /// For http, tcp and grpc probes without a host of their own.
    pub pod_ip: Option<IpAddr>,
    /// What the API already shows for this very instance. A probe starts from it, so that a restart of the agent
    /// flips nothing before it has measured.
    pub was_ready: bool,
    pub was_started: bool,
}

/// What is known of one container instance. `None`: there is such a probe, and it has not decided yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub id: ContainerId,
    pub started: Option<bool>,
    pub ready: Option<bool>,
    /// The container must be killed, and then judged by the restart policy.
    pub failed: Option<ProbeFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    pub kind: FailedProbe,
    /// The probe's own `terminationGracePeriodSeconds`.
    pub grace_seconds: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedProbe {
    Liveness,
    Startup,
}

/// Asks for a pass over one pod: "look again". Probes call it when a reading changes, volumes when a ConfigMap does.
/// Never blocks, coalesces; waking an unknown pod does nothing.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn(&PodUid) + Send + Sync>);

impl Waker {
    pub fn new(wake: impl Fn(&PodUid) + Send + Sync + 'static) -> Waker {
        Waker(Arc::new(wake))
    }

    pub fn wake(&self, uid: &PodUid) {
        (self.0)(uid);
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}
