//! A pod without Kubernetes: the same containerd, image and pod network, asked straight over the CRI.
//!
//! Its sandboxes carry none of the labels by which a node agent knows its pods, so coracle leaves them alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use proto::cri::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxContainerConfig,
    LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::{hosts::Host, pods};

pub(crate) struct Floor {
    runtime: RuntimeServiceClient<Channel>,
    cgroup_parent: String,
    logs: PathBuf,
}

impl Floor {
    pub(crate) async fn new(host: &Host) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(setting(host, "endpoint")?)?.connect().await?;
        // Beside the pods' cgroup.
        let cgroup_parent = format!("{}/floor", setting(host, "cgroupRoot")?);
        let logs = Path::new(&host.state()).join("floor");
        fs::create_dir_all(&logs).context("create a directory for logs")?;
        Ok(Self { runtime: RuntimeServiceClient::new(channel), cgroup_parent, logs })
    }

    /// Returns the sandbox.
    pub(crate) async fn create(&mut self, number: usize) -> anyhow::Result<String> {
        let sandbox = self.sandbox(number);
        let request = RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
        let id =
            self.runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(container()),
            sandbox_config: Some(sandbox),
        };
        let created = self.runtime.create_container(request).await.context("CreateContainer")?;
        let request = StartContainerRequest { container_id: created.into_inner().container_id };
        self.runtime.start_container(request).await.context("StartContainer")?;
        Ok(id)
    }

    pub(crate) async fn delete(&mut self, sandbox: String) -> anyhow::Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        self.runtime.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
        self.runtime.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
        Ok(())
    }

    fn sandbox(&self, number: usize) -> PodSandboxConfig {
        let name = format!("floor-{number}");
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                uid: format!("{}-{name}", std::process::id()),
                namespace: "default".into(),
                attempt: 0,
                name: name.clone(),
            }),
            hostname: name,
            log_directory: self.logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn setting(host: &Host, key: &str) -> anyhow::Result<String> {
    let config = fs::read_to_string(host.config()).context("read the host's configuration")?;
    let found = config.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
    found
        .map(|value| value.trim().to_string())
        .ok_or_else(|| anyhow!("the host's configuration has no {key}"))
}

/// The cgroups that the runtime made for the floor's sandboxes; removed with this value, which must outlive the host.
pub(crate) struct Cgroups(String);

impl Cgroups {
    pub(crate) fn of(host: &Host) -> anyhow::Result<Self> {
        Ok(Self(setting(host, "cgroupRoot")?.trim_start_matches('/').to_string()))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        // The tree of cgroup v2 itself, and each controller's of v1.
        for tree in trees.chain(["/sys/fs/cgroup".into()]) {
            let root = tree.join(&self.0);
            remove_groups(&root.join("floor"));
            // Only if nothing else is in it.
            drop(fs::remove_dir(root));
        }
    }
}

/// Removes a cgroup after those in it. A group that still holds a process stays, and its parents.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
}

fn container() -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image: pods::IMAGE.into(), ..Default::default() }),
        log_path: "main.log".into(),
        linux: Some(LinuxContainerConfig::default()),
        ..Default::default()
    }
}
