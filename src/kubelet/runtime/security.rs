//! Effective security context of a container: the pod's, overridden by its own, with upstream's defaults.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile,
    SecurityContext,
};
use proto::cri;

use super::{
    convert::ConvertError,
    model::{ContainerId, ImageUser},
};
use crate::pods::{self, PodName, PodUid};

/// Where `Localhost` seccomp profiles are looked for, and what an unset profile means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityDefaults {
    pub seccomp_root: String,
    pub seccomp_default: bool,
    /// What of /proc and /sys is hidden: upstream's list, with the thermal files that this machine has.
    pub masked_paths: Vec<String>,
}

impl Default for SecurityDefaults {
    fn default() -> Self {
        SecurityDefaults {
            seccomp_root: "/var/lib/kubelet/seccomp".into(),
            seccomp_default: false,
            masked_paths: MASKED_PATHS.iter().map(ToString::to_string).collect(),
        }
    }
}

pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn of_sandbox(pod: &Pod, extra_groups: &[i64]) -> cri::LinuxSandboxSecurityContext {
    let mut context = cri::LinuxSandboxSecurityContext {
        // A runtime takes a privileged container into no other sandbox; one may be added later, by `kubectl debug`.
        privileged: pods::all_containers(pod).any(is_privileged)
            || pods::ephemeral_containers(pod).any(|added| is_privileged(&added)),
        // The sandbox holds nothing of the user's: the strictest profile, whatever the pod says.
        seccomp: Some(profile(cri::security_profile::ProfileType::RuntimeDefault, "")),
        namespace_options: Some(namespaces(pod)),
        ..Default::default()
    };
    let Some(own) = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()) else { return context };
    context.run_as_user = own.run_as_user.map(int64);
    context.run_as_group = own.run_as_group.map(int64);
    context.supplemental_groups = groups(own, extra_groups);
    context.supplemental_groups_policy = groups_policy(own);
    context.selinux_options = own.se_linux_options.as_ref().map(selinux);
    context
}

pub(super) fn of_container(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    extra_groups: &[i64],
    defaults: &SecurityDefaults,
) -> Result<cri::LinuxContainerSecurityContext, ConvertError> {
    let effective = effective(pod, container);
    verify_non_root(pod, container, &effective, image_user)?;
    let (mut user, mut user_name) = (effective.run_as_user.map(int64), String::new());
    if user.is_none() {
        match image_user {
            ImageUser::Uid(uid) => user = Some(int64(*uid)),
            ImageUser::Name(name) => user_name.clone_from(name),
            ImageUser::Unset => {}
        }
    }
    let pod_context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let unmasked = effective.proc_mount.as_deref() == Some("Unmasked");
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: effective.capabilities.as_ref().map(capabilities),
        privileged: effective.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(pod)),
        selinux_options: effective.se_linux_options.as_ref().map(selinux),
        run_as_user: user,
        run_as_group: effective.run_as_group.map(int64),
        run_as_username: user_name,
        readonly_rootfs: effective.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: pod_context
            .map_or_else(|| extra_groups.to_vec(), |own| groups(own, extra_groups)),
        supplemental_groups_policy: pod_context.map_or(0, groups_policy),
        no_new_privs: effective.allow_privilege_escalation == Some(false),
        masked_paths: if unmasked { Vec::new() } else { defaults.masked_paths.clone() },
        readonly_paths: if unmasked { Vec::new() } else { READONLY_PATHS.map(String::from).to_vec() },
        seccomp: Some(seccomp(effective.seccomp_profile.as_ref(), defaults)?),
        apparmor: effective.app_armor_profile.as_ref().map(apparmor).transpose()?,
    })
}

/// The container's own settings win one by one over the pod's.
pub(super) fn effective(pod: &Pod, container: &Container) -> SecurityContext {
    let mut own = container.security_context.clone().unwrap_or_default();
    let Some(of_pod) = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()) else { return own };
    own.se_linux_options = own.se_linux_options.or_else(|| of_pod.se_linux_options.clone());
    own.run_as_user = own.run_as_user.or(of_pod.run_as_user);
    own.run_as_group = own.run_as_group.or(of_pod.run_as_group);
    own.run_as_non_root = own.run_as_non_root.or(of_pod.run_as_non_root);
    own.seccomp_profile = own.seccomp_profile.or_else(|| of_pod.seccomp_profile.clone());
    own.app_armor_profile = own.app_armor_profile.or_else(|| of_pod.app_armor_profile.clone());
    own
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    effective: &SecurityContext,
    image_user: &ImageUser,
) -> Result<(), ConvertError> {
    if effective.run_as_non_root != Some(true) {
        return Ok(());
    }
    let of = format!("(pod: \"{}\", container: {})", shown(pod), container.name);
    let message = match (effective.run_as_user, image_user) {
        (Some(0), _) => format!("container's runAsUser breaks non-root policy {of}"),
        (Some(_), _) => return Ok(()),
        (None, ImageUser::Name(name)) => format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {of}"
        ),
        // An image that names no user runs as root.
        (None, ImageUser::Unset | ImageUser::Uid(0)) => {
            format!("container has runAsNonRoot and image will run as root {of}")
        }
        (None, ImageUser::Uid(uid)) if !(0..=i64::from(i32::MAX)).contains(uid) => format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({max})): must be between 0 and {max}, inclusive {of}",
            max = i32::MAX
        ),
        (None, ImageUser::Uid(_)) => return Ok(()),
    };
    Err(ConvertError::NonRoot { message })
}

/// `name_namespace(uid)`, as upstream's messages name a pod.
pub(crate) fn shown(pod: &Pod) -> String {
    let PodName { namespace, name } = PodName::of(pod);
    format!("{name}_{namespace}({})", PodUid::of(pod))
}

pub(super) fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let spec = pod.spec.as_ref();
    let node_or_pod = |on: Option<bool>| match on {
        Some(true) => cri::NamespaceMode::Node,
        _ => cri::NamespaceMode::Pod,
    };
    let pid = match spec {
        Some(spec) if spec.host_pid == Some(true) => cri::NamespaceMode::Node,
        Some(spec) if spec.share_process_namespace == Some(true) => cri::NamespaceMode::Pod,
        _ => cri::NamespaceMode::Container,
    };
    cri::NamespaceOption {
        network: node_or_pod(spec.and_then(|spec| spec.host_network)).into(),
        ipc: node_or_pod(spec.and_then(|spec| spec.host_ipc)).into(),
        pid: pid.into(),
        ..Default::default()
    }
}

/// Those of a container that sees the processes of `target`: where the pod or the node has one PID namespace for all, it sees
/// them anyway, also when the target does not run.
pub(super) fn namespaces_with(pod: &Pod, target: &ContainerId) -> cri::NamespaceOption {
    let own = namespaces(pod);
    if own.pid() != cri::NamespaceMode::Container {
        return own;
    }
    cri::NamespaceOption { pid: cri::NamespaceMode::Target.into(), target_id: target.as_str().into(), ..own }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
}

fn groups(own: &PodSecurityContext, extra: &[i64]) -> Vec<i64> {
    let mut groups: Vec<i64> = own.fs_group.into_iter().collect();
    for group in own.supplemental_groups.iter().flatten().chain(extra) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    groups
}

fn groups_policy(own: &PodSecurityContext) -> i32 {
    match own.supplemental_groups_policy.as_deref() {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict.into(),
        _ => cri::SupplementalGroupsPolicy::Merge.into(),
    }
}

fn seccomp(
    asked: Option<&SeccompProfile>,
    defaults: &SecurityDefaults,
) -> Result<cri::SecurityProfile, ConvertError> {
    use cri::security_profile::ProfileType;
    let Some(asked) = asked else {
        let unset =
            if defaults.seccomp_default { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
        return Ok(profile(unset, ""));
    };
    match (asked.type_.as_str(), asked.localhost_profile.as_deref()) {
        ("RuntimeDefault", _) => Ok(profile(ProfileType::RuntimeDefault, "")),
        ("Localhost", Some(file)) if !file.is_empty() => {
            Ok(profile(ProfileType::Localhost, &format!("{}/{file}", defaults.seccomp_root)))
        }
        ("Localhost", _) => Err(ConvertError::Profile {
            message: "localhostProfile must be set if seccompProfile type is Localhost.".into(),
        }),
        _ => Ok(profile(ProfileType::Unconfined, "")),
    }
}

fn apparmor(asked: &AppArmorProfile) -> Result<cri::SecurityProfile, ConvertError> {
    use cri::security_profile::ProfileType;
    match (asked.type_.as_str(), asked.localhost_profile.as_deref()) {
        ("RuntimeDefault", _) => Ok(profile(ProfileType::RuntimeDefault, "")),
        ("Unconfined", _) => Ok(profile(ProfileType::Unconfined, "")),
        ("Localhost", Some(name)) => Ok(profile(ProfileType::Localhost, name)),
        ("Localhost", None) => {
            Err(ConvertError::Profile { message: "missing localhost apparmor profile name".into() })
        }
        (other, _) => {
            Err(ConvertError::Profile { message: format!("unknown apparmor profile type: \"{other}\"") })
        }
    }
}

fn profile(kind: cri::security_profile::ProfileType, reference: &str) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.into() }
}

fn capabilities(asked: &Capabilities) -> cri::Capability {
    cri::Capability {
        add_capabilities: asked.add.clone().unwrap_or_default(),
        drop_capabilities: asked.drop.clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn selinux(asked: &SELinuxOptions) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        user: asked.user.clone().unwrap_or_default(),
        role: asked.role.clone().unwrap_or_default(),
        r#type: asked.type_.clone().unwrap_or_default(),
        level: asked.level.clone().unwrap_or_default(),
    }
}

fn int64(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}
