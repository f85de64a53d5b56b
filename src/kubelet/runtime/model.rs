//! What runs, in the node's own words: the CRI's types stop in this folder.

use std::{cmp::Reverse, fmt, net::IpAddr, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    pods::{PodName, PodUid},
    worker::ports::{HostDevice, HostMount},
};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(Arc::from(id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

id!(
    /// The runtime's name of one container instance, without the `containerd://` that the API shows.
    ContainerId
);
id!(
    /// The runtime's name of one pod sandbox.
    SandboxId
);

/// All that the runtime has of one pod at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodObservation {
    /// Newest attempt first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest attempt of each name first; dead ones too, as long as the runtime keeps them.
    pub containers: Vec<ObservedContainer>,
}

impl PodObservation {
    /// The newest instance of the container of this name.
    pub fn latest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|container| container.name == name)
    }

    pub fn running(&self) -> impl Iterator<Item = &ObservedContainer> {
        self.containers.iter().filter(|container| container.is_running())
    }

    /// Something could still be alive: a container that runs or may run, or a sandbox that is ready. One that was
    /// never started is dead once its sandbox is stopped: no runtime starts it then.
    pub fn has_life(&self) -> bool {
        self.containers.iter().any(ObservedContainer::may_run)
            || self.sandboxes.iter().any(|sandbox| sandbox.ready)
    }

    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|sandbox| Reverse((sandbox.attempt, sandbox.created_at)));
        self.containers.sort_by_key(|container| Reverse((container.attempt, container.created_at)));
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    pub id: SandboxId,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    /// In the pod's own network; empty for host network, whose addresses are the node's.
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub name: String,
    /// Counts the instances of this name in this pod from 0: the API's restartCount.
    pub attempt: u32,
    /// Hash of the container's spec when it was made; `None` for what another agent made.
    pub hash: Option<u64>,
    pub created_at: Timestamp,
    pub state: ContainerState,
    /// The image as the runtime names it.
    pub image: String,
    /// Its digest or id, as the API's `imageID`.
    pub image_id: String,
    pub log_path: PathBuf,
}

impl ObservedContainer {
    /// It runs, or nobody can say that it does not.
    pub fn may_run(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. } | ContainerState::Unknown)
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    Created,
    Running { started_at: Timestamp },
    Exited(Exit),
    Unknown,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    pub code: i32,
    /// The runtime's: Completed, Error, OOMKilled, ContainerCannotRun...
    pub reason: String,
    /// The termination message, or what the runtime says.
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

/// What the runtime knows of a pod without asking for details: enough to find what nobody wants, and what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSummary {
    pub uid: PodUid,
    pub name: PodName,
    /// Ids and coarse states; equal summaries mean that nothing happened.
    pub sandboxes: Vec<(SandboxId, bool)>,
    pub containers: Vec<(ContainerId, CoarseState)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoarseState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// What a sandbox is made from.
#[derive(Clone, Debug)]
pub struct SandboxRequest {
    pub pod: Arc<Pod>,
    pub attempt: u32,
    pub hostname: String,
    pub log_directory: PathBuf,
    pub dns: Dns,
    pub cgroup_parent: String,
    /// The runtime's handler that the pod's RuntimeClass names; empty for the default.
    pub runtime_handler: String,
    /// Groups of volumes, on top of the pod's own.
    pub supplemental_groups: Vec<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// What a container is made from, once everything it needs is there.
#[derive(Clone, Debug)]
pub struct ContainerRequest {
    pub container: Container,
    pub attempt: u32,
    pub hash: u64,
    /// How the runtime names the image that was resolved.
    pub image_ref: String,
    /// The user the image runs as when the pod names none.
    pub image_user: ImageUser,
    /// The instance in whose process namespace it is to run.
    pub target: Option<ContainerId>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<HostMount>,
    pub devices: Vec<HostDevice>,
    pub supplemental_groups: Vec<i64>,
    pub oom_score_adj: i64,
    pub resources: LinuxResources,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinuxResources {
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    pub cpu_period: i64,
    pub memory_limit_bytes: i64,
    /// Page size in the kernel's spelling (`2MB`), bytes.
    pub hugepage_limits: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageUser {
    #[default]
    Unset,
    Uid(i64),
    Name(String),
}

/// An image that the node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    pub user: ImageUser,
    pub pinned: bool,
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// As the pull secret names it.
    pub server: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeVersion {
    pub name: String,
    pub version: String,
}

/// The runtime's own judgement of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeHealth {
    pub runtime: Condition,
    pub network: Condition,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub ok: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Something happened to a pod's containers: look again. `None` when the runtime did not say whose they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    pub pod: Option<PodUid>,
    pub container: String,
    /// It has ended, whatever its status still says: containerd tells of an exit before it has noted it.
    pub exited: bool,
}
