//! Validation of security contexts of pods and containers.

use api::names;

use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

pub(super) fn container(at: &At<'_>, host_users: bool, found: &mut Findings) {
    if !at.present() {
        return;
    }
    ids(at, &["runAsUser", "runAsGroup"], found);
    let proc_mount = at.get("procMount");
    found.one_of_if_any(&proc_mount, &["Default", "Unmasked"]);
    if host_users && proc_mount.text() == "Unmasked" {
        found.invalid(&proc_mount, "`hostUsers` must be false to use `Unmasked`");
    }
    profile(&at.get("seccompProfile"), "seccomp", found);
    if at.get("allowPrivilegeEscalation").value() == false {
        if at.get("privileged").flag() {
            found.invalid(at, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let mut added = at.get("capabilities").get("add").items();
        if added.any(|capability| capability.text() == "CAP_SYS_ADMIN") {
            found.invalid(
                at,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    profile(&at.get("appArmorProfile"), "AppArmor", found);
}

pub(super) fn pod(spec: &At<'_>, found: &mut Findings) {
    let at = spec.get("securityContext");
    ids(&at, &["fsGroup", "runAsUser", "runAsGroup"], found);
    for group in at.get("supplementalGroups").items() {
        id(&group, found);
    }
    let shared = spec.get("shareProcessNamespace");
    if shared.flag() && spec.get("hostPID").flag() {
        let at = At::named(at.get("shareProcessNamespace").path(), shared.value());
        found.invalid(&at, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(spec, &at.get("sysctls"), found);
    found.one_of_if_any(&at.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    profile(&at.get("seccompProfile"), "seccomp", found);
    profile(&at.get("appArmorProfile"), "AppArmor", found);
    found.one_of_if_any(&at.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    found.one_of_if_any(&at.get("seLinuxChangePolicy"), &["MountOption", "Recursive"]);
}

/// A pod with its own user namespace shares nothing else with the host.
pub(super) fn host_users(spec: &At<'_>, found: &mut Findings) {
    if spec.get("hostUsers").value() != false {
        return;
    }
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(name).flag() {
            let shown = match name {
                "hostPID" => "HostPID",
                "hostIPC" => "HostIPC",
                _ => name,
            };
            found.forbidden(&spec.get(shown), "when `hostUsers` is false");
        }
    }
}

fn ids(at: &At<'_>, fields: &[&str], found: &mut Findings) {
    for name in fields {
        id(&at.get(name), found);
    }
}

fn id(at: &At<'_>, found: &mut Findings) {
    if let Some(number) = at.int() {
        found.complaints(at, names::user_or_group_id(number));
    }
}

fn profile(at: &At<'_>, system: &str, found: &mut Findings) {
    if !at.present() {
        return;
    }
    let (kind, local) = (at.get("type"), at.get("localhostProfile"));
    if kind.is_empty() {
        let field = if system == "seccomp" { "seccompProfile" } else { "appArmorProfile" };
        return found.required(&kind, &format!("type is required when {field} is set"));
    }
    if !PROFILE_TYPES.contains(&kind.text()) {
        found.not_supported(&kind, &PROFILE_TYPES);
    }
    match (kind.text() == "Localhost", local.is_empty()) {
        (true, true) => found.required(&local, &format!("must be set when {system} type is Localhost")),
        (false, false) => found.invalid(&local, &format!("can only be set when {system} type is Localhost")),
        _ => {}
    }
}

/// The kernel's parameters that a network or IPC namespace of its own is needed for.
fn sysctls(spec: &At<'_>, list: &At<'_>, found: &mut Findings) {
    let mut names = std::collections::BTreeSet::new();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        let dotted = name.text().replace('/', ".");
        if name.is_empty() {
            found.required(&name, "");
            continue;
        }
        if !is_sysctl(name.text()) {
            found.invalid(
                &name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if !names.insert(dotted.clone()) {
            found.duplicate(&name);
        }
        if spec.get("hostNetwork").flag() && dotted.starts_with("net.") {
            found.invalid(&name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p))
            || dotted == "kernel.sem";
        if spec.get("hostIPC").flag() && ipc {
            found.invalid(&name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|c| edge(*c))
            && bytes.last().is_some_and(|c| edge(*c))
            && bytes.iter().all(|c| edge(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}
