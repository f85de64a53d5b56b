//! What the agent needs from a container runtime, and how that fails.

use std::time::Duration;

use futures_util::stream::BoxStream;

use super::model::{
    ContainerId, ContainerRequest, ExecOutput, Image, PodObservation, PodSummary, RegistryAuth, RuntimeEvent,
    RuntimeHealth, RuntimeVersion, Sandbox, SandboxId, SandboxRequest,
};
use crate::pods::PodUid;

/// A container runtime. Every call has a deadline of its own; dropping a call abandons it, and what it may still do is
/// found by the next observation.
pub trait Runtime: Send + Sync + 'static {
    fn version(&self) -> impl Future<Output = Result<RuntimeVersion, RuntimeError>> + Send;
    fn health(&self) -> impl Future<Output = Result<RuntimeHealth, RuntimeError>> + Send;

    /// Everything of one pod. An error is not an absence.
    fn observe(&self, uid: &PodUid) -> impl Future<Output = Result<PodObservation, RuntimeError>> + Send;
    /// One sandbox alone, as it is now; `None` when it is gone.
    fn sandbox(&self, id: &SandboxId) -> impl Future<Output = Result<Option<Sandbox>, RuntimeError>> + Send;
    /// Every pod that the runtime has anything of.
    fn list(&self) -> impl Future<Output = Result<Vec<PodSummary>, RuntimeError>> + Send;
    /// Ends when the runtime goes away; events in between may be lost.
    fn events(&self) -> impl Future<Output = Result<BoxStream<'static, RuntimeEvent>, RuntimeError>> + Send;

    fn run_sandbox(
        &self,
        request: &SandboxRequest,
    ) -> impl Future<Output = Result<SandboxId, RuntimeError>> + Send;
    /// Idempotent, as are the three others that end or remove something.
    fn stop_sandbox(&self, id: &SandboxId) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    fn remove_sandbox(&self, id: &SandboxId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    fn create_container(
        &self,
        sandbox: &SandboxId,
        sandbox_request: &SandboxRequest,
        request: &ContainerRequest,
    ) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send;
    fn start_container(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Asks the container to end and kills it after `grace`. Returns when it has ended.
    fn stop_container(
        &self,
        id: &ContainerId,
        grace: Duration,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    fn remove_container(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Runs a command and waits for it; [`RuntimeError::ExecTimedOut`] after `timeout`.
    fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> impl Future<Output = Result<ExecOutput, RuntimeError>> + Send;

    fn image(&self, name: &str) -> impl Future<Output = Result<Option<Image>, RuntimeError>> + Send;
    /// Returns how the runtime names what was pulled.
    fn pull_image(
        &self,
        name: &str,
        auth: Option<RegistryAuth>,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;
    fn images(&self) -> impl Future<Output = Result<Vec<Image>, RuntimeError>> + Send;
    fn remove_image(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
}

/// What was asked of the runtime, for errors, logs and metrics (upstream's `operation_type` names).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Version,
    Status,
    RuntimeConfig,
    ListPodSandbox,
    PodSandboxStatus,
    ListContainers,
    ContainerStatus,
    RunPodSandbox,
    StopPodSandbox,
    RemovePodSandbox,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    ExecSync,
    Exec,
    Attach,
    PortForward,
    ImageStatus,
    PullImage,
    ListImages,
    RemoveImage,
    Events,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Version => "version",
            Operation::Status => "status",
            Operation::RuntimeConfig => "runtime_config",
            Operation::ListPodSandbox => "list_podsandbox",
            Operation::PodSandboxStatus => "podsandbox_status",
            Operation::ListContainers => "list_containers",
            Operation::ContainerStatus => "container_status",
            Operation::RunPodSandbox => "run_podsandbox",
            Operation::StopPodSandbox => "stop_podsandbox",
            Operation::RemovePodSandbox => "remove_podsandbox",
            Operation::CreateContainer => "create_container",
            Operation::StartContainer => "start_container",
            Operation::StopContainer => "stop_container",
            Operation::RemoveContainer => "remove_container",
            Operation::ExecSync => "exec_sync",
            Operation::Exec => "exec",
            Operation::Attach => "attach",
            Operation::PortForward => "port_forward",
            Operation::ImageStatus => "image_status",
            Operation::PullImage => "pull_image",
            Operation::ListImages => "list_images",
            Operation::RemoveImage => "remove_image",
            Operation::Events => "container_events",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("connect to the container runtime at {endpoint}")]
    Connect {
        endpoint: String,
        #[source]
        source: tonic::transport::Error,
    },
    /// The runtime refused or failed. `words` is what it said, for people; `code` what it meant.
    #[error("{}: rpc error: code = {code:?} desc = {words}", operation.as_str())]
    Call { operation: Operation, code: tonic::Code, words: String },
    #[error("{} did not answer within {after:?}", operation.as_str())]
    TimedOut { operation: Operation, after: Duration },
    #[error("command {command:?} timed out")]
    ExecTimedOut { command: Vec<String> },
    /// The pod asks for what cannot be made from it (reason CreateContainerConfigError).
    #[error("{0}")]
    Convert(#[from] super::convert::ConvertError),
}

impl RuntimeError {
    /// What to show in the API: `rpc error: code = … desc = …` as upstream shows it.
    pub fn shown(&self) -> String {
        match self {
            RuntimeError::Call { code, words, .. } => format!("rpc error: code = {code:?} desc = {words}"),
            other => other.to_string(),
        }
    }

    /// What the runtime said, without its code: for waiting messages and events of one container.
    pub fn shown_words(&self) -> String {
        match self {
            RuntimeError::Call { words, .. } => words.clone(),
            other => other.to_string(),
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, RuntimeError::Call { code: tonic::Code::NotFound, .. })
    }

    /// containerd#4604: an earlier, abandoned create still holds the name. The id that holds it.
    pub fn reserved_by(&self) -> Option<&str> {
        let RuntimeError::Call { words, .. } = self else { return None };
        let (_, after) = words.split_once(" is reserved for \"")?;
        after.split('"').next()
    }
}
