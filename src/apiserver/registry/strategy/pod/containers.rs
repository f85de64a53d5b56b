//! Validation of a pod's containers. The words are those of upstream's `pkg/apis/core/validation`.

use std::collections::BTreeSet;

use super::{env, probes, resources, security};
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use api::names;

/// What a container is checked against.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub volumes: BTreeSet<&'a str>,
    pub claims: BTreeSet<&'a str>,
    /// `terminationGracePeriodSeconds` of the pod.
    pub grace: Option<i64>,
    pub host_users: bool,
}

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";

pub(super) fn all(spec: &At<'_>, around: &Surroundings<'_>, found: &mut Findings) {
    regular(&spec.get("containers"), around, found);
    init(spec, around, found);
    ephemeral(spec, around, found);
}

fn regular(list: &At<'_>, around: &Surroundings<'_>, found: &mut Findings) {
    if list.is_empty() {
        return found.required(list, "");
    }
    let mut names = BTreeSet::new();
    for container in list.items() {
        common(&container, around, found);
        unique_name(&container, &mut names, found);
        let lifecycle = container.get("lifecycle");
        if lifecycle.present() {
            probes::lifecycle(&lifecycle, around.grace, found);
        }
        for name in PROBES {
            probes::probe(&container.get(name), name, around.grace, found);
        }
        let policy = container.get("restartPolicy");
        if policy.present() {
            restart_policy(&container, found);
        }
    }
    host_ports(list, found);
}

fn init(spec: &At<'_>, around: &Surroundings<'_>, found: &mut Findings) {
    let mut names: BTreeSet<&str> = spec.get("containers").items().map(|c| c.get("name").text()).collect();
    for container in spec.get("initContainers").items() {
        common(&container, around, found);
        if container.get("restartPolicy").present() || container.get("restartPolicyRules").present() {
            restart_policy(&container, found);
        }
        unique_name(&container, &mut names, found);
        let sidecar = container.get("restartPolicy").text() == "Always";
        let lifecycle = container.get("lifecycle");
        if sidecar {
            if lifecycle.present() {
                probes::lifecycle(&lifecycle, around.grace, found);
            }
            for name in PROBES {
                probes::probe(&container.get(name), name, around.grace, found);
            }
        } else {
            let fields = std::iter::once("lifecycle").chain(PROBES);
            for field in fields.map(|name| container.get(name)).filter(At::present) {
                found.forbidden(&field, NOT_FOR_INIT);
            }
        }
    }
}

/// What an ephemeral container may say; everything else that is set is refused by name.
const EPHEMERAL_FIELDS: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

fn ephemeral(spec: &At<'_>, around: &Surroundings<'_>, found: &mut Findings) {
    let list = spec.get("ephemeralContainers");
    let others: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec.get(list).items())
        .map(|container| container.get("name").text())
        .collect();
    let mut names = others.clone();
    for container in list.items() {
        common(&container, around, found);
        no_padding(&container, found);
        unique_name(&container, &mut names, found);
        let target = container.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.text()) {
            found.not_found(&target);
        }
        for (name, _) in container.entries() {
            let field = container.get(name);
            if !EPHEMERAL_FIELDS.contains(&name) && !field.is_empty() {
                found.forbidden(&field, "cannot be set for an Ephemeral Container");
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"].map(|name| mount.get(name)) {
                if !field.is_empty() {
                    found.forbidden(&field, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

fn unique_name<'a>(container: &At<'a>, names: &mut BTreeSet<&'a str>, found: &mut Findings) {
    let name = container.get("name");
    if !name.is_empty() && !names.insert(name.text()) {
        found.duplicate(&name);
    }
}

/// What only a pod's containers are held to, not a template's.
pub(super) fn only_in_pods(spec: &At<'_>, found: &mut Findings) {
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            no_padding(&container, found);
        }
    }
}

fn no_padding(container: &At<'_>, found: &mut Findings) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        found.invalid(&image, "must not have leading or trailing whitespace");
    }
}

fn common(container: &At<'_>, around: &Surroundings<'_>, found: &mut Findings) {
    let name = container.get("name");
    if name.is_empty() {
        found.required(&name, "");
    } else {
        found.complaints(&name, names::dns1123_label(name.text()));
    }
    let image = container.get("image");
    if image.is_empty() {
        found.required(&image, "");
    }
    found.one_of(&container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(&container.get("ports"), found);
    env::variables(&container.get("env"), found);
    env::sources(&container.get("envFrom"), found);
    mounts(container, around, found);
    found.one_of(&container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resources::requirements(&container.get("resources"), Some(&around.claims), found);
    for policy in container.get("resizePolicy").items() {
        found.one_of(&policy.get("resourceName"), &["cpu", "memory"]);
        found.one_of(&policy.get("restartPolicy"), &["NotRequired", "RestartContainer"]);
    }
    security::container(&container.get("securityContext"), around.host_users, found);
}

fn restart_policy(container: &At<'_>, found: &mut Findings) {
    let policy = container.get("restartPolicy");
    let rules = container.get("restartPolicyRules");
    if !policy.present() {
        found.required(&policy, "must specify restartPolicy when restart rules are used");
    }
    found.one_of_if_any(&policy, &["Always", "Never", "OnFailure"]);
    if rules.len() > 20 {
        found.too_many(&rules, 20);
    }
    for rule in rules.items() {
        found.one_of(&rule.get("action"), &["Restart", "RestartAllContainers"]);
        let codes = rule.get("exitCodes");
        if codes.present() {
            found.one_of(&codes.get("operator"), &["In", "NotIn"]);
        } else {
            found.required(&codes, "must be specified");
        }
    }
}

fn ports(list: &At<'_>, found: &mut Findings) {
    let mut names = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let complaints = names::port_name(name.text());
            if complaints.is_empty() {
                if !names.insert(name.text()) {
                    found.duplicate(&name);
                }
            } else {
                found.complaints(&name, complaints);
            }
        }
        let number = port.get("containerPort");
        match number.int().unwrap_or_default() {
            0 => found.required(&number, ""),
            value => found.complaints(&number, names::port_number(value)),
        }
        let host = port.get("hostPort");
        if let Some(value) = host.int().filter(|value| *value != 0) {
            found.complaints(&host, names::port_number(value));
        }
        found.one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers of a pod cannot have the same port of the host.
fn host_ports(containers: &At<'_>, found: &mut Findings) {
    let mut taken = BTreeSet::new();
    for port in containers.items().flat_map(|container| container.get("ports").items()) {
        let host = port.get("hostPort");
        let Some(number) = host.int().filter(|number| *number != 0) else { continue };
        let key = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
        if !taken.insert(key.clone()) {
            found.duplicate_value(&host, key);
        }
    }
}

fn mounts(container: &At<'_>, around: &Surroundings<'_>, found: &mut Findings) {
    let devices: BTreeSet<&str> =
        container.get("volumeDevices").items().map(|d| d.get("name").text()).collect();
    let list = container.get("volumeMounts");
    let mut places = BTreeSet::new();
    for mount in list.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            found.required(&name, "");
        }
        if !around.volumes.contains(name.text()) {
            found.not_found(&name);
        }
        if path.is_empty() {
            found.required(&path, "");
        }
        if !places.insert(path.text()) {
            found.invalid(&path, "must be unique");
        }
        if devices.contains(name.text()) {
            found.invalid(&name, "must not already exist in volumeDevices");
        }
        mount_options(&mount, &list, container, found);
    }
    device_list(container, around, found);
}

fn mount_options(mount: &At<'_>, list: &At<'_>, container: &At<'_>, found: &mut Findings) {
    let (sub_path, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
    if !sub_path.is_empty() && !expression.is_empty() {
        found.invalid(&expression, "subPathExpr and subPath are mutually exclusive");
    }
    // Upstream names the list and not the mount in these two.
    for (field, value) in [("subPath", &sub_path), ("subPathExpr", &expression)] {
        if !value.is_empty() {
            descending(&At::named(format!("{}.{field}", list.path()), value.value()), found);
        }
    }
    let propagation = mount.get("mountPropagation");
    if propagation.present() {
        let at = At::named(format!("{}.mountPropagation", list.path()), propagation.value());
        found.one_of_if_any(&at, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container.get("securityContext").get("privileged").flag();
        if propagation.text() == "Bidirectional" && !privileged {
            found
                .forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let recursive = mount.get("recursiveReadOnly");
    if !recursive.is_empty() && recursive.text() != "Disabled" {
        let at = At::named(format!("{}.recursiveReadOnly", list.path()), recursive.value());
        if !mount.get("readOnly").flag() {
            found.forbidden(&at, "may only be specified when readOnly is true");
        }
        found.one_of_if_any(&at, &["Disabled", "Enabled", "IfPossible"]);
    }
}

fn device_list(container: &At<'_>, around: &Surroundings<'_>, found: &mut Findings) {
    let mut names = BTreeSet::new();
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.is_empty() {
            found.required(&name, "");
        }
        if !names.insert(name.text()) {
            found.invalid(&name, "must be unique");
        }
        if !around.volumes.contains(name.text()) {
            found.not_found(&name);
        }
        if path.is_empty() {
            found.required(&path, "");
        }
    }
}

/// A path that stays below where it starts.
pub(super) fn descending(at: &At<'_>, found: &mut Findings) {
    if at.text().starts_with('/') {
        found.invalid(at, "must be a relative path");
    }
    no_backsteps(at, found);
}

pub(super) fn no_backsteps(at: &At<'_>, found: &mut Findings) {
    if at.text().split('/').any(|part| part == "..") {
        found.invalid(at, "must not contain '..'");
    }
}
