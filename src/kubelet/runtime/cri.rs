//! [`Runtime`] over the CRI's socket.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use proto::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{
    convert, events, labels,
    model::{
        ContainerId, ContainerRequest, ExecOutput, Image, ObservedContainer, PodObservation, PodSummary,
        RegistryAuth, RuntimeEvent, RuntimeHealth, RuntimeVersion, Sandbox, SandboxId, SandboxRequest,
    },
    port::{Operation, Runtime, RuntimeError},
    read,
    security::SecurityDefaults,
    termination_message::{LastWords, Places},
};
use crate::{config::CgroupDriver, pods::PodUid, server::StreamRequest};

/// For every call but those that wait for a container or an image (upstream's `runtimeRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(120);
/// CreateContainer and RunPodSandbox may wait for disks and CNI; upstream's limit for a sandbox is twice the usual.
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
/// Status reads of one pod at a time.
const PARALLEL_READS: usize = 16;
/// Upstream's limit; a list of a full node is far below.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// A connection to containerd or CRI-O. Clones share it; it reconnects by itself.
#[derive(Clone, Debug)]
pub struct CriRuntime {
    channel: Channel,
    defaults: SecurityDefaults,
    last_words: LastWords,
}

impl CriRuntime {
    /// `endpoint` is `unix:///run/containerd/containerd.sock` or the bare path. Connects at the first call, so that
    /// the agent can start before the runtime.
    ///
    /// # Errors
    /// An endpoint that is no address.
    pub fn new(endpoint: &str, defaults: SecurityDefaults) -> Result<CriRuntime, RuntimeError> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        let uri = format!("unix://{path}");
        let endpoint = Endpoint::from_shared(uri.clone())
            .map_err(|source| RuntimeError::Connect { endpoint: uri, source })?
            .connect_timeout(Duration::from_secs(3));
        Ok(CriRuntime { channel: endpoint.connect_lazy(), defaults, last_words: LastWords::default() })
    }

    /// Which cgroup driver the runtime uses. `None`: it tells nobody, as a CRI-O without `RuntimeConfig`.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn cgroup_driver(&self) -> Result<Option<CgroupDriver>, RuntimeError> {
        let mut client = self.runtime();
        let asked = self.call(Operation::RuntimeConfig, client.runtime_config(cri::RuntimeConfigRequest {}));
        // Unimplemented before containerd 2.0 and CRI-O 1.28: any refusal leads to the other way, which fails where this did.
        if let Ok(cri::RuntimeConfigResponse { linux: Some(linux) }) = asked.await {
            return Ok(Some(match linux.cgroup_driver() {
                cri::CgroupDriver::Systemd => CgroupDriver::Systemd,
                cri::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
            }));
        }
        let request = cri::StatusRequest { verbose: true };
        let answer = self.call(Operation::Status, self.runtime().status(request)).await?;
        Ok(answer.info.get("config").and_then(|config| read::cgroup_driver(config)))
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn sandboxes(&self, uid: Option<&PodUid>) -> Result<Vec<cri::PodSandbox>, RuntimeError> {
        let filter =
            uid.map(|uid| cri::PodSandboxFilter { label_selector: of_pod(uid), ..Default::default() });
        let request = cri::ListPodSandboxRequest { filter };
        let answer = self.call(Operation::ListPodSandbox, self.runtime().list_pod_sandbox(request)).await?;
        Ok(answer.items)
    }

    async fn containers(&self, uid: Option<&PodUid>) -> Result<Vec<cri::Container>, RuntimeError> {
        let filter =
            uid.map(|uid| cri::ContainerFilter { label_selector: of_pod(uid), ..Default::default() });
        let request = cri::ListContainersRequest { filter };
        let answer = self.call(Operation::ListContainers, self.runtime().list_containers(request)).await?;
        Ok(answer.containers)
    }

    async fn sandbox_status(&self, id: String) -> Result<Option<Sandbox>, RuntimeError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
        let mut client = self.runtime();
        let call = self.call(Operation::PodSandboxStatus, client.pod_sandbox_status(request));
        let answer = gone_is_none(call.await)?;
        Ok(answer.and_then(|answer| answer.status).as_ref().map(read::sandbox))
    }

    async fn container(&self, listed: cri::Container) -> Result<Option<ObservedContainer>, RuntimeError> {
        let request = cri::ContainerStatusRequest { container_id: listed.id, verbose: false };
        let mut client = self.runtime();
        let call = self.call(Operation::ContainerStatus, client.container_status(request));
        let Some(answer) = gone_is_none(call.await)? else { return Ok(None) };
        let Some(status) = answer.status else { return Ok(None) };
        let message = self.last_words.of(&status.id, places(&status)).await;
        Ok(Some(read::container(&status, &listed.pod_sandbox_id, message)))
    }

    /// Where the runtime's own server streams what is asked for: a URL that is good for one connection.
    ///
    /// # Errors
    /// What the runtime refuses.
    pub async fn stream_url(&self, request: &StreamRequest) -> Result<String, RuntimeError> {
        let mut client = self.runtime();
        match request {
            StreamRequest::Exec { container, command, streams } => {
                let request = cri::ExecRequest {
                    container_id: container.as_str().into(),
                    cmd: command.clone(),
                    tty: streams.tty,
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                };
                Ok(self.call(Operation::Exec, client.exec(request)).await?.url)
            }
            StreamRequest::Attach { container, streams } => {
                let request = cri::AttachRequest {
                    container_id: container.as_str().into(),
                    tty: streams.tty,
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                };
                Ok(self.call(Operation::Attach, client.attach(request)).await?.url)
            }
            StreamRequest::PortForward { sandbox, ports } => {
                let request =
                    cri::PortForwardRequest { pod_sandbox_id: sandbox.as_str().into(), port: ports.clone() };
                Ok(self.call(Operation::PortForward, client.port_forward(request)).await?.url)
            }
        }
    }

    async fn call<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RuntimeError> {
        self.call_within(operation, TIMEOUT, call).await
    }

    async fn call_within<T>(
        &self,
        operation: Operation,
        after: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RuntimeError> {
        match tokio::time::timeout(after, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(failed(operation, &status)),
            Err(_) => Err(RuntimeError::TimedOut { operation, after }),
        }
    }
}

impl Runtime for CriRuntime {
    async fn version(&self) -> Result<RuntimeVersion, RuntimeError> {
        let request = cri::VersionRequest { version: "0.1.0".into() };
        let answer = self.call(Operation::Version, self.runtime().version(request)).await?;
        Ok(RuntimeVersion { name: answer.runtime_name, version: answer.runtime_version })
    }

    async fn health(&self) -> Result<RuntimeHealth, RuntimeError> {
        let request = cri::StatusRequest { verbose: false };
        let answer = self.call(Operation::Status, self.runtime().status(request)).await?;
        Ok(read::health(&answer.status.unwrap_or_default()))
    }

    async fn observe(&self, uid: &PodUid) -> Result<PodObservation, RuntimeError> {
        // Containers first: a sandbox that appears in between is looked at again by its own event.
        let (containers, sandboxes) =
            futures_util::future::try_join(self.containers(Some(uid)), self.sandboxes(Some(uid))).await?;
        let sandboxes = stream::iter(sandboxes)
            .map(|listed| self.sandbox_status(listed.id))
            .buffer_unordered(PARALLEL_READS)
            .try_collect::<Vec<Option<_>>>();
        let containers = stream::iter(containers)
            .map(|listed| self.container(listed))
            .buffer_unordered(PARALLEL_READS)
            .try_collect::<Vec<Option<_>>>();
        let (sandboxes, containers) = futures_util::future::try_join(sandboxes, containers).await?;
        let mut observation = PodObservation {
            sandboxes: sandboxes.into_iter().flatten().collect(),
            containers: containers.into_iter().flatten().collect(),
        };
        observation.sort();
        Ok(observation)
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, RuntimeError> {
        self.sandbox_status(id.as_str().into()).await
    }

    async fn list(&self) -> Result<Vec<PodSummary>, RuntimeError> {
        let (containers, sandboxes) =
            futures_util::future::try_join(self.containers(None), self.sandboxes(None)).await?;
        self.last_words.keep(&containers.iter().map(|container| container.id.as_str()).collect());
        let mut pods: BTreeMap<PodUid, PodSummary> = BTreeMap::new();
        for sandbox in &sandboxes {
            let Some((uid, name)) = labels::pod_of(&sandbox.labels) else { continue };
            let ready = sandbox.state() == cri::PodSandboxState::SandboxReady;
            summary(&mut pods, uid, name).sandboxes.push((sandbox.id.as_str().into(), ready));
        }
        for container in &containers {
            let Some((uid, name)) = labels::pod_of(&container.labels) else { continue };
            let state = read::coarse(container.state);
            summary(&mut pods, uid, name).containers.push((container.id.as_str().into(), state));
        }
        let mut pods: Vec<PodSummary> = pods.into_values().collect();
        for pod in &mut pods {
            pod.sandboxes.sort();
            pod.containers.sort();
        }
        Ok(pods)
    }

    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        match self.runtime().get_container_events(cri::GetEventsRequest {}).await {
            Ok(response) => Ok(events::of_cri(response.into_inner())),
            Err(status) if status.code() == Code::Unimplemented => {
                events::of_containerd(self.channel.clone())
                    .await
                    .map_err(|status| failed(Operation::Events, &status))
            }
            Err(status) => Err(failed(Operation::Events, &status)),
        }
    }

    async fn run_sandbox(&self, request: &SandboxRequest) -> Result<SandboxId, RuntimeError> {
        let config = Some(convert::sandbox(request));
        let runtime_handler = request.runtime_handler.clone();
        let request = cri::RunPodSandboxRequest { config, runtime_handler };
        let mut client = self.runtime();
        let call = client.run_pod_sandbox(request);
        let answer = self.call_within(Operation::RunPodSandbox, SANDBOX_TIMEOUT, call).await?;
        Ok(answer.pod_sandbox_id.as_str().into())
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.as_str().into() };
        gone_is_fine(self.call(Operation::StopPodSandbox, self.runtime().stop_pod_sandbox(request)).await)
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.as_str().into() };
        gone_is_fine(self.call(Operation::RemovePodSandbox, self.runtime().remove_pod_sandbox(request)).await)
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        sandbox_request: &SandboxRequest,
        request: &ContainerRequest,
    ) -> Result<ContainerId, RuntimeError> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.as_str().into(),
            config: Some(convert::container(&sandbox_request.pod, request, &self.defaults)?),
            sandbox_config: Some(convert::sandbox(sandbox_request)),
        };
        let mut client = self.runtime();
        let call = Box::pin(client.create_container(request));
        let answer = self.call(Operation::CreateContainer, call).await?;
        Ok(answer.container_id.as_str().into())
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request = cri::StartContainerRequest { container_id: id.as_str().into() };
        self.call(Operation::StartContainer, self.runtime().start_container(request)).await.map(drop)
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.as_str().into(), timeout };
        let mut client = self.runtime();
        let call = client.stop_container(request);
        gone_is_fine(self.call_within(Operation::StopContainer, TIMEOUT.saturating_add(grace), call).await)
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request = cri::RemoveContainerRequest { container_id: id.as_str().into() };
        gone_is_fine(self.call(Operation::RemoveContainer, self.runtime().remove_container(request)).await)
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        // Whole seconds on the wire; our own clock keeps the fraction, a little later than the runtime's.
        let seconds = timeout.as_secs_f64().ceil();
        let request = cri::ExecSyncRequest {
            container_id: id.as_str().into(),
            cmd: command.to_vec(),
            #[expect(clippy::cast_possible_truncation, reason = "a float to integer cast saturates")]
            timeout: seconds as i64,
        };
        let mut client = self.runtime();
        let call = client.exec_sync(request);
        let limit = timeout.max(Duration::from_secs(1)).saturating_add(Duration::from_secs(2));
        match self.call_within(Operation::ExecSync, limit, call).await {
            Ok(answer) => {
                Ok(ExecOutput { exit_code: answer.exit_code, stdout: answer.stdout, stderr: answer.stderr })
            }
            Err(RuntimeError::TimedOut { .. }) => {
                Err(RuntimeError::ExecTimedOut { command: command.to_vec() })
            }
            Err(RuntimeError::Call { code: Code::DeadlineExceeded, .. }) => {
                Err(RuntimeError::ExecTimedOut { command: command.to_vec() })
            }
            Err(other) => Err(other),
        }
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        let request = cri::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        let answer = self.call(Operation::ImageStatus, self.image_service().image_status(request)).await?;
        Ok(answer.image.map(read::image))
    }

    async fn pull_image(&self, name: &str, auth: Option<RegistryAuth>) -> Result<String, RuntimeError> {
        // Without the server: containerd takes it for a URL, and drops credentials of one without a scheme, as most pull
        // secrets name it, or of the name that Docker's own has in them. Whose they are was looked at before.
        let auth = auth.map(|auth| cri::AuthConfig {
            username: auth.username,
            password: auth.password,
            ..Default::default()
        });
        let request = cri::PullImageRequest { image: Some(image_spec(name)), auth, sandbox_config: None };
        // No deadline of ours: the runtime cancels a pull that makes no progress.
        match self.image_service().pull_image(request).await {
            Ok(answer) => Ok(answer.into_inner().image_ref),
            Err(status) => Err(failed(Operation::PullImage, &status)),
        }
    }

    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        let request = cri::ListImagesRequest { filter: None };
        let answer = self.call(Operation::ListImages, self.image_service().list_images(request)).await?;
        Ok(answer.images.into_iter().map(read::image).collect())
    }

    async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::RemoveImageRequest { image: Some(image_spec(id)) };
        gone_is_fine(self.call(Operation::RemoveImage, self.image_service().remove_image(request)).await)
    }
}

fn of_pod(uid: &PodUid) -> labels::Map {
    labels::Map::from([(labels::POD_UID.to_string(), uid.as_str().to_string())])
}

fn summary(
    pods: &mut BTreeMap<PodUid, PodSummary>,
    uid: PodUid,
    name: crate::pods::PodName,
) -> &mut PodSummary {
    pods.entry(uid.clone()).or_insert_with(|| PodSummary {
        uid,
        name,
        sandboxes: Vec::new(),
        containers: Vec::new(),
    })
}

fn image_spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: name.into(), ..Default::default() }
}

/// Only an ended container has last words. Its file is on the host, where its mount says.
fn places(status: &cri::ContainerStatus) -> Places {
    if status.state() != cri::ContainerState::ContainerExited {
        return Places::default();
    }
    let made = labels::read(&status.annotations);
    let Some(path) = made.message_path else { return Places::default() };
    let file = status.mounts.iter().find(|mount| mount.container_path == path);
    let falls_back = made.message_falls_back_to_logs && status.exit_code != 0;
    Places {
        file: file.map(|mount| (&mount.host_path).into()),
        log: falls_back.then(|| (&status.log_path).into()),
    }
}

fn failed(operation: Operation, status: &Status) -> RuntimeError {
    RuntimeError::Call { operation, code: status.code(), words: status.message().to_string() }
}

/// To end or remove what is not there is done.
fn gone_is_fine<T>(result: Result<T, RuntimeError>) -> Result<(), RuntimeError> {
    gone_is_none(result).map(drop)
}

/// Between a list and a status read, things may go.
fn gone_is_none<T>(result: Result<T, RuntimeError>) -> Result<Option<T>, RuntimeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
