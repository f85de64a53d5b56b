//! Pods and containers as the CRI wants them. No I/O: everything that had to be read is in the request.
#![deny(clippy::disallowed_methods)]

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri;

use super::{
    expand::expand,
    labels,
    model::{ContainerRequest, SandboxRequest},
    security::{self, SecurityDefaults},
};
use crate::{
    pods::{self, PodName, PodUid},
    worker::ports::{HostMount, Propagation},
};

/// The pod asks for what cannot be made. Shown as CreateContainerConfigError, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("{message}")]
    NonRoot { message: String },
    #[error("{message}")]
    Profile { message: String },
}

pub fn sandbox(request: &SandboxRequest) -> cri::PodSandboxConfig {
    let pod = &*request.pod;
    let PodName { namespace, name } = PodName::of(pod);
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name,
            namespace,
            uid: PodUid::of(pod).as_str().into(),
            attempt: request.attempt,
        }),
        hostname: if pods::is_host_network(pod) { String::new() } else { request.hostname.clone() },
        log_directory: request.log_directory.display().to_string(),
        dns_config: Some(cri::DnsConfig {
            servers: request.dns.servers.clone(),
            searches: request.dns.searches.clone(),
            options: request.dns.options.clone(),
        }),
        port_mappings: pods::containers(pod).iter().flat_map(port_mappings).collect(),
        labels: labels::of_sandbox(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: request.cgroup_parent.clone(),
            security_context: Some(security::of_sandbox(pod, &request.supplemental_groups)),
            sysctls: sysctls(pod),
            ..Default::default()
        }),
    }
}

fn sysctls(pod: &Pod) -> labels::Map {
    pod.spec
        .iter()
        .filter_map(|spec| spec.security_context.as_ref())
        .flat_map(|context| context.sysctls.iter().flatten())
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect()
}

/// Every port of the container, those without a host port too: the network decides what to do with them.
/// A name or an unnamed combination that comes twice counts once.
fn port_mappings(container: &Container) -> Vec<cri::PortMapping> {
    let mut seen = HashSet::new();
    let mut mappings = Vec::new();
    for port in container.ports.iter().flatten() {
        let host_ip = port.host_ip.clone().unwrap_or_default();
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let host_port = port.host_port.unwrap_or(0);
        let key = port.name.clone().unwrap_or_else(|| {
            format!("{}-{protocol}-{host_ip}:{}:{host_port}", host_ip.contains(':'), port.container_port)
        });
        if !seen.insert(key) {
            continue;
        }
        mappings.push(cri::PortMapping {
            protocol: match protocol {
                "UDP" => cri::Protocol::Udp.into(),
                "SCTP" => cri::Protocol::Sctp.into(),
                _ => cri::Protocol::Tcp.into(),
            },
            container_port: port.container_port,
            host_port,
            host_ip,
        });
    }
    mappings
}

pub fn container(
    pod: &Pod,
    request: &ContainerRequest,
    defaults: &SecurityDefaults,
) -> Result<cri::ContainerConfig, ConvertError> {
    let container = &request.container;
    let value = |name: &str| {
        // A later variable of the same name wins.
        request.env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    };
    let mut security_context =
        security::of_container(pod, container, &request.image_user, &request.supplemental_groups, defaults)?;
    if let Some(target) = &request.target {
        security_context.namespace_options = Some(security::namespaces_with(pod, target));
    }
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, &value)).collect()
    };
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: request.attempt }),
        image: Some(cri::ImageSpec {
            image: request.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: request
            .env
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: request.mounts.iter().map(mount).collect(),
        devices: request
            .devices
            .iter()
            .map(|device| cri::Device {
                container_path: device.container_path.clone(),
                host_path: device.host_path.clone(),
                permissions: device.permissions.clone(),
            })
            .collect(),
        labels: labels::of_container(pod, container),
        annotations: labels::annotations_of_container(pod, container, request.hash, request.attempt),
        log_path: log_path(&container.name, request.attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(request)),
            security_context: Some(security_context),
        }),
        stop_signal: stop_signal(container),
        ..Default::default()
    })
}

/// Relative to the sandbox's log directory.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

fn resources(request: &ContainerRequest) -> cri::LinuxContainerResources {
    let asked = &request.resources;
    cri::LinuxContainerResources {
        cpu_period: asked.cpu_period,
        cpu_quota: asked.cpu_quota,
        cpu_shares: asked.cpu_shares,
        memory_limit_in_bytes: asked.memory_limit_bytes,
        oom_score_adj: request.oom_score_adj,
        hugepage_limits: asked
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| cri::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        ..Default::default()
    }
}

fn mount(mount: &HostMount) -> cri::Mount {
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.display().to_string(),
        readonly: mount.read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: match mount.propagation {
            Propagation::Private => cri::MountPropagation::PropagationPrivate.into(),
            Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer.into(),
            Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional.into(),
        },
        recursive_read_only: mount.recursive_read_only,
        ..Default::default()
    }
}

fn stop_signal(container: &Container) -> i32 {
    let asked = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    // The protocol spells `SIGRTMIN+1` as `SIGRTMINPLUS1`.
    let name = asked.unwrap_or_default().replace('+', "PLUS").replace('-', "MINUS");
    cri::Signal::from_str_name(&name).unwrap_or_default().into()
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
