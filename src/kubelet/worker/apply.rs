//! Carries out the plan for one pod. May be dropped at any await: the next pass observes what was done.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tracing::warn;

use super::{
    dns, hooks, hosts,
    kill::{self, Hooked, Target},
    plan::{PodActions, Start},
    ports::{HostMount, PodResources, PrepareError, PreparedPod},
    tools::{NodeFacts, Tools},
};
use crate::{
    events::{self, EventType},
    images::Ensured,
    pods::{self, PodName, PodUid, container_hash},
    resources,
    runtime::{
        ContainerId, ContainerRequest, Image, PodObservation, Runtime, RuntimeError, SandboxId,
        SandboxRequest, shown_pod,
    },
    status::Waiting,
};

/// After a failure that no event announces the end of. Doubled by the worker up to [`RETRY_LONGEST`].
pub const RETRY: Duration = Duration::from_secs(1);
pub const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Why containers are still not running, by name. Replaces what was known of those that were tried.
    pub waiting: BTreeMap<String, Waiting>,
    pub made: Vec<Made>,
    /// Containers that could not be started, and after what to try again (the worker's own back-off when `None`).
    /// The others go on without them.
    pub refused: BTreeMap<String, Option<Duration>>,
    /// The pod as a whole could not be brought further.
    pub failed: bool,
}

/// A container that was made: its back-off grows.
#[derive(Debug)]
pub struct Made {
    pub name: String,
    /// Of the spec that it was made from.
    pub hash: u64,
    /// When the instance before it ended.
    pub after: Option<Timestamp>,
}

/// One pass of work on a pod that should run.
pub async fn apply<R: Runtime, P: PodResources>(
    tools: &Tools<R, P>,
    pod: &Arc<Pod>,
    observed: &PodObservation,
    actions: PodActions,
    hooked: &Hooked,
) -> Outcome {
    let mut pass =
        Pass { tools, pod, hooked, node: tools.node.borrow().clone(), outcome: Outcome::default() };
    pass.run(observed, actions).await;
    pass.outcome
}

struct Pass<'a, R: Runtime, P: PodResources> {
    tools: &'a Tools<R, P>,
    pod: &'a Arc<Pod>,
    hooked: &'a Hooked,
    node: NodeFacts,
    outcome: Outcome,
}

impl<R: Runtime, P: PodResources> Pass<'_, R, P> {
    async fn run(&mut self, observed: &PodObservation, actions: PodActions) {
        let stops = actions.kill_pod || actions.create_sandbox.is_some();
        if stops && !self.stop_pod(observed, actions.create_sandbox.is_some()).await {
            return;
        }
        let killed = self.kill(observed, &actions).await;
        if actions.kill_pod && actions.create_sandbox.is_none() {
            return;
        }
        if !pods::is_host_network(self.pod)
            && let Some(error) = self.node.network_error.clone()
        {
            let message = format!("network is not ready: {error}");
            self.event(EventType::Warning, events::NETWORK_NOT_READY, message);
            self.outcome.failed = true;
            return;
        }
        let prepared = match self.tools.resources.prepare(self.pod).await {
            Ok(prepared) => prepared,
            Err(error) => return self.cannot_prepare(&error),
        };
        let mut request = self.sandbox_request(&prepared, actions.create_sandbox.unwrap_or(0));
        let (sandbox, ips) = match actions.create_sandbox {
            Some(_) => match self.create_sandbox(&mut request).await {
                Some(created) => created,
                None => return,
            },
            None => match observed.sandboxes.first() {
                Some(current) => (current.id.clone(), current.ips.clone()),
                None => return,
            },
        };
        let ips = if pods::is_host_network(self.pod) { self.node.addresses.clone() } else { ips };
        for start in &actions.start {
            if !killed.contains(&start.name) && actions.kill.iter().any(|kill| kill.name == start.name) {
                continue;
            }
            let scene =
                Scene { observed, sandbox: &sandbox, request: &request, prepared: &prepared, ips: &ips };
            let started = self.start(start, &scene).await;
            if !started && start.init {
                return;
            }
        }
    }

    /// Everything of the pod ends, because its sandbox is broken or nothing is left to run.
    async fn stop_pod(&mut self, observed: &PodObservation, again: bool) -> bool {
        if again && !observed.sandboxes.is_empty() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_string();
            self.event(EventType::Normal, events::SANDBOX_CHANGED, message);
        }
        let grace = Duration::from_secs(u64::try_from(pods::grace_seconds(self.pod)).unwrap_or(0));
        let result = match kill::kill_all(self.tools, self.pod, observed, grace, self.hooked).await {
            Ok(()) => stop_sandboxes(self.tools, observed).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.event(
                EventType::Warning,
                events::FAILED_KILL_POD,
                format!("error killing pod: {}", error.shown()),
            );
            self.outcome.failed = true;
            return false;
        }
        true
    }

    /// Returns the names of those that have ended.
    async fn kill(&mut self, observed: &PodObservation, actions: &PodActions) -> Vec<String> {
        let pod_ip = observed.sandboxes.first().and_then(|sandbox| sandbox.ips.first().copied());
        let kills = actions.kill.iter().map(|kill| {
            let (tools, hooked, pod) = (self.tools, self.hooked, self.pod);
            async move {
                let target = Target {
                    pod,
                    container: pods::all_containers(pod).find(|it| it.name == kill.name),
                    id: &kill.id,
                    grace: kill::grace_of(pod, kill),
                    message: kill.message.clone(),
                    pod_ip,
                };
                (kill.name.clone(), kill::kill(tools, &target, hooked).await)
            }
        });
        let mut ended = Vec::new();
        for (name, result) in futures_util::future::join_all(kills).await {
            match result {
                Ok(()) => ended.push(name),
                Err(error) => {
                    warn!(pod = %PodName::of(self.pod), container = name, error = &error as &dyn std::error::Error, "kill failed");
                    self.outcome.failed = true;
                }
            }
        }
        ended
    }

    fn sandbox_request(&self, prepared: &PreparedPod, attempt: u32) -> SandboxRequest {
        let config = &self.tools.config;
        let (dns, missing) = dns::dns(self.pod, config, &self.node.resolv_conf);
        if missing && attempt == 0 {
            let message = format!(
                "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
                shown_pod(self.pod)
            );
            self.event(EventType::Warning, events::MISSING_CLUSTER_DNS, message);
        }
        SandboxRequest {
            pod: self.pod.clone(),
            attempt,
            hostname: hosts::kernel_hostname(self.pod, &config.cluster_domain),
            log_directory: config.pod_log_dir(&PodName::of(self.pod), &PodUid::of(self.pod)),
            dns,
            cgroup_parent: prepared.cgroup_parent.clone(),
            // Looked up when it is needed.
            runtime_handler: String::new(),
            supplemental_groups: prepared.supplemental_groups.clone(),
        }
    }

    async fn create_sandbox(&mut self, request: &mut SandboxRequest) -> Option<(SandboxId, Vec<IpAddr>)> {
        let class = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        if let Some(class) = class.filter(|class| !class.is_empty()) {
            match self.tools.runtime_classes.handler(class).await {
                Ok(handler) => request.runtime_handler = handler,
                Err(error) => {
                    self.no_sandbox(&error.shown());
                    return None;
                }
            }
        }
        make_dir(&request.log_directory).await;
        match self.tools.runtime.run_sandbox(request).await {
            Ok(id) => match self.own(id.as_str()).sandbox(&id).await {
                Ok(sandbox) => Some((id, sandbox.map(|it| it.ips).unwrap_or_default())),
                Err(error) => {
                    warn!(pod = %PodName::of(self.pod), error = &error as &dyn std::error::Error, "cannot read the new sandbox");
                    self.outcome.failed = true;
                    None
                }
            },
            Err(error) => {
                self.no_sandbox(&error.shown());
                if let Some(holder) = error.reserved_by() {
                    self.reap_sandbox(&holder.into()).await;
                }
                None
            }
        }
    }

    fn no_sandbox(&mut self, why: &str) {
        let message = format!("Failed to create pod sandbox: {why}");
        self.event(EventType::Warning, events::FAILED_CREATE_SANDBOX, message);
        self.outcome.failed = true;
    }

    /// Events of what was just made find its pod.
    fn own(&self, id: &str) -> &R {
        self.tools.bells.own(&PodUid::of(self.pod), std::iter::once(id));
        &self.tools.runtime
    }

    /// An abandoned attempt still holds the name: whatever became of it goes, and the next pass tries again.
    async fn reap_sandbox(&self, id: &SandboxId) {
        let stopped = self.tools.runtime.stop_sandbox(id).await;
        let removed = self.tools.runtime.remove_sandbox(id).await;
        if let Err(error) = stopped.and(removed) {
            warn!(sandbox = %id, error = &error as &dyn std::error::Error, "cannot reap an abandoned sandbox");
        }
    }

    fn cannot_prepare(&mut self, error: &PrepareError) {
        warn!(pod = %PodName::of(self.pod), error = error as &dyn std::error::Error, "pod is not prepared");
        let reason = match error {
            PrepareError::Volume { .. } => events::FAILED_MOUNT,
            _ => events::FAILED,
        };
        self.event(EventType::Warning, reason, error.to_string());
        self.outcome.failed = true;
    }

    /// True once the container has been started and its hook has run.
    async fn start(&mut self, start: &Start, scene: &Scene<'_>) -> bool {
        let pod = self.pod.clone();
        let Some(container) = pods::container(&pod, &start.name) else { return false };
        let container = &*container;
        let image = match self.tools.images.ensure(&pod, container).await {
            Ensured::Present(image) => image,
            Ensured::Pulling => {
                // The pod is woken when it is done; this only covers a lost wake.
                self.outcome.refused.insert(start.name.clone(), Some(Duration::from_secs(60)));
                return false;
            }
            Ensured::Refused { why, retry } => {
                if why.reason != "ErrImagePull" {
                    self.container_event(container, events::FAILED, format!("Error: {}", why.reason));
                }
                self.outcome.refused.insert(start.name.clone(), Some(retry));
                self.outcome.waiting.insert(start.name.clone(), why);
                return false;
            }
        };
        let id = match &start.adopt {
            Some(made) => made.clone(),
            None => match self.create(start, container, &image, scene).await {
                Some(id) => id,
                None => return false,
            },
        };
        if let Err(error) = self.tools.runtime.start_container(&id).await {
            self.container_event(container, events::FAILED, format!("Error: {}", error.shown_words()));
            self.refuse(container, "RunContainerError", error.shown_words());
            return false;
        }
        self.normal(container, events::STARTED, "Container started");
        self.post_start(container, &id, scene).await
    }

    async fn create(
        &mut self,
        start: &Start,
        container: &Container,
        image: &Image,
        scene: &Scene<'_>,
    ) -> Option<ContainerId> {
        let request = match self.container_request(start, container, image, scene).await {
            Ok(request) => request,
            Err(error) => {
                self.container_event(container, events::FAILED, format!("Error: {error}"));
                self.refuse(container, "CreateContainerConfigError", error.to_string());
                return None;
            }
        };
        make_dir(&scene.request.log_directory.join(&container.name)).await;
        match self.tools.runtime.create_container(scene.sandbox, scene.request, &request).await {
            Ok(id) => {
                self.own(id.as_str());
                let (name, hash) = (start.name.clone(), request.hash);
                self.outcome.made.push(Made { name, hash, after: start.after });
                self.normal(container, events::CREATED, "Container created");
                Some(id)
            }
            Err(error) => {
                self.container_event(container, events::FAILED, format!("Error: {}", error.shown_words()));
                let reason = match error {
                    RuntimeError::Convert(_) => "CreateContainerConfigError",
                    _ => "CreateContainerError",
                };
                self.refuse(container, reason, error.shown_words());
                if let Some(holder) = error.reserved_by() {
                    let removed = self.tools.runtime.remove_container(&holder.into()).await;
                    if let Err(error) = removed {
                        warn!(
                            container = holder,
                            error = &error as &dyn std::error::Error,
                            "cannot reap an abandoned container"
                        );
                    }
                }
                None
            }
        }
    }

    async fn container_request(
        &self,
        start: &Start,
        container: &Container,
        image: &Image,
        scene: &Scene<'_>,
    ) -> Result<ContainerRequest, PrepareError> {
        let target = self.target(container, scene.observed)?;
        let prepared = self.tools.resources.container(self.pod, container, scene.prepared, scene.ips).await?;
        let mut mounts = prepared.mounts;
        mounts.extend(self.own_mounts(start, container, scene.ips, &mounts).await?);
        Ok(ContainerRequest {
            container: container.clone(),
            attempt: start.attempt,
            hash: container_hash(container),
            image_ref: image.id.clone(),
            image_user: image.user.clone(),
            target,
            env: prepared.env,
            mounts,
            devices: prepared.devices,
            supplemental_groups: scene.prepared.supplemental_groups.clone(),
            oom_score_adj: resources::oom_score_adj(self.pod, container, self.node.memory_bytes),
            resources: resources::linux_resources(self.pod, container),
        })
    }

    /// The instance whose processes an ephemeral container is to see.
    fn target(
        &self,
        container: &Container,
        observed: &PodObservation,
    ) -> Result<Option<ContainerId>, PrepareError> {
        let Some(name) = pods::target_of(self.pod, &container.name) else { return Ok(None) };
        let missing = || PrepareError::Config { message: format!("unable to find target container {name}") };
        observed.latest(name).map(|target| Some(target.id.clone())).ok_or_else(missing)
    }

    /// The hosts file and the termination message, unless the pod mounts something there itself.
    async fn own_mounts(
        &self,
        start: &Start,
        container: &Container,
        ips: &[IpAddr],
        taken: &[HostMount],
    ) -> Result<Vec<HostMount>, PrepareError> {
        let dir = self.tools.config.pod_dir(&PodUid::of(self.pod));
        let mut files = Vec::new();
        let hosts = hosts::file(self.pod, ips, &self.tools.config.cluster_domain, &self.node.hosts_file);
        files.push(("/etc/hosts".to_string(), dir.join("etc-hosts"), hosts, 0o644));
        if let Some(path) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
            let file = dir.join("containers").join(&container.name).join(start.attempt.to_string());
            files.push((path.to_string(), file, String::new(), 0o666));
        }
        let mut mounts = Vec::new();
        for (container_path, host_path, text, mode) in files {
            if taken.iter().any(|mount| mount.container_path == container_path) {
                continue;
            }
            write_file(&host_path, &text, mode)
                .await
                .map_err(|source| PrepareError::Host { operation: "write a file of the pod", source })?;
            mounts.push(HostMount {
                container_path,
                host_path,
                read_only: false,
                recursive_read_only: false,
                propagation: Default::default(),
                selinux_relabel: false,
            });
        }
        Ok(mounts)
    }

    async fn post_start(&mut self, container: &Container, id: &ContainerId, scene: &Scene<'_>) -> bool {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
        else {
            return true;
        };
        let run = hooks::run(&*self.tools.runtime, id, container, hook, scene.ips.first().copied());
        let Err(error) = run.await else { return true };
        warn!(pod = %PodName::of(self.pod), container = container.name, error = &error as &dyn std::error::Error, "postStart hook failed");
        self.container_event(container, events::FAILED_POST_START, "PostStartHook failed".into());
        let target = Target {
            pod: self.pod,
            container: Some(container),
            id,
            grace: Duration::from_secs(u64::try_from(pods::grace_seconds(self.pod)).unwrap_or(0)),
            message: "FailedPostStartHook".into(),
            pod_ip: scene.ips.first().copied(),
        };
        if let Err(error) = kill::kill(self.tools, &target, self.hooked).await {
            warn!(container = container.name, error = &error as &dyn std::error::Error, "kill failed");
        }
        self.refuse(container, "PostStartHookError", error.to_string());
        false
    }

    fn refuse(&mut self, container: &Container, reason: &str, message: String) {
        self.outcome.waiting.insert(container.name.clone(), Waiting { reason: reason.into(), message });
        self.outcome.refused.insert(container.name.clone(), None);
    }

    fn event(&self, kind: EventType, reason: &'static str, message: String) {
        self.tools.events.event(&events::of_pod(self.pod), kind, reason, message);
    }

    fn container_event(&self, container: &Container, reason: &'static str, message: String) {
        self.tools.events.event(
            &events::of_container(self.pod, container),
            EventType::Warning,
            reason,
            message,
        );
    }

    fn normal(&self, container: &Container, reason: &'static str, message: &str) {
        let about = events::of_container(self.pod, container);
        self.tools.events.event(&about, EventType::Normal, reason, message.to_string());
    }
}

/// What containers of this pass are started in.
struct Scene<'a> {
    observed: &'a PodObservation,
    sandbox: &'a SandboxId,
    request: &'a SandboxRequest,
    prepared: &'a PreparedPod,
    ips: &'a [IpAddr],
}

/// Ends the networks of all sandboxes, those that are no longer ready too. One failure does not hide the rest.
pub async fn stop_sandboxes<R: Runtime, P: PodResources>(
    tools: &Tools<R, P>,
    observed: &PodObservation,
) -> Result<(), RuntimeError> {
    let stops = observed.sandboxes.iter().map(|sandbox| tools.runtime.stop_sandbox(&sandbox.id));
    futures_util::future::join_all(stops).await.into_iter().collect()
}

/// The runtime makes it too; made here so that its mode is ours. A failure shows when the runtime needs it.
async fn make_dir(path: &std::path::Path) {
    if let Err(error) = tokio::fs::create_dir_all(path).await {
        warn!(path = %path.display(), error = &error as &dyn std::error::Error, "cannot create a directory");
    }
}

async fn write_file(path: &PathBuf, text: &str, mode: u32) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    // In place: a container that runs has it mounted.
    tokio::fs::write(path, text).await?;
    tokio::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).await
}
