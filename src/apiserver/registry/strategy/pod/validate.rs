//! Validation of a pod and of a pod template. The words are those of upstream's `pkg/apis/core/validation`.

use api::{constants::annotation::CONFIG_MIRROR as MIRROR, names};

use super::containers::{self, Surroundings};
use super::{probes, scheduling, security, volumes};
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use crate::registry::strategy::meta;

/// What Linux takes (`HOST_NAME_MAX`).
const MAX_KERNEL_HOSTNAME: usize = 64;

pub(super) fn pod(pod: &At<'_>, found: &mut Findings) {
    let spec = pod.get("spec");
    let mirror = pod.get("metadata").get("annotations").key(MIRROR);
    if mirror.present() && spec.get("nodeName").is_empty() {
        found.invalid(&mirror, "must set spec.nodeName if mirror pod annotation is set");
    }
    pod_spec(&spec, found);
    if spec.get("serviceAccountName").is_empty() {
        for volume in spec.get("volumes").items() {
            for source in volume.get("projected").get("sources").items() {
                let token = source.get("serviceAccountToken");
                if token.present() {
                    found.forbidden(&token, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    containers::only_in_pods(&spec, found);
}

pub(super) fn create(pod: &At<'_>, found: &mut Findings) {
    let spec = pod.get("spec");
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        found.forbidden(&ephemeral, "cannot be set on create");
    }
    if !spec.get("schedulingGates").is_empty() && !spec.get("nodeName").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        found.forbidden(&spec.get("nodeName"), detail);
    }
}

/// A `PodTemplateSpec`.
pub fn template(template: &At<'_>, found: &mut Findings) {
    meta::labels(&template.get("metadata").get("labels"), found);
    pod_spec(&template.get("spec"), found);
    let ephemeral = template.get("spec").get("ephemeralContainers");
    if !ephemeral.is_empty() {
        found.forbidden(&ephemeral, "ephemeral containers not allowed in pod template");
    }
}

fn pod_spec(spec: &At<'_>, found: &mut Findings) {
    let volume_list = spec.get("volumes");
    volumes::all(&volume_list, found);
    let around = Surroundings {
        volumes: volume_list.items().map(|volume| volume.get("name").text()).collect(),
        claims: spec.get("resourceClaims").items().map(|claim| claim.get("name").text()).collect(),
        grace: spec.get("terminationGracePeriodSeconds").int(),
        host_users: spec.get("hostUsers").value() != false,
    };
    containers::all(spec, &around, found);
    host_network_ports(spec, found);
    found.one_of(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    found.one_of(&spec.get("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    security::pod(spec, found);
    scheduling::all(spec, found);
    dns(spec, found);
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        found.complaints(&kind, names::qualified_name(kind.text()));
    }
    security::host_users(spec, found);
    named(spec, found);
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        if ip.text().parse::<std::net::IpAddr>().is_err() {
            found.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        for host in alias.get("hostnames").items() {
            found.complaints(&host, names::dns1123_subdomain(host.text()));
        }
    }
    let os = spec.get("os");
    if os.present() {
        found.one_of(&os.get("name"), &["linux", "windows"]);
    }
}

/// On the host's network a container port is the host's port.
fn host_network_ports(spec: &At<'_>, found: &mut Findings) {
    if !spec.get("hostNetwork").flag() {
        return;
    }
    for port in spec.get("containers").items().flat_map(|container| container.get("ports").items()) {
        let host = port.get("hostPort");
        if host.int().is_some_and(|number| number != 0) && host.int() != port.get("containerPort").int() {
            found.invalid(&host, "must match `containerPort` when `hostNetwork` is true");
        }
    }
}

fn named(spec: &At<'_>, found: &mut Findings) {
    let subdomains = ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"];
    for at in subdomains.map(|name| spec.get(name)) {
        if !at.is_empty() {
            found.complaints(&at, names::dns1123_subdomain(at.text()));
        }
    }
    for at in ["hostname", "subdomain"].map(|name| spec.get(name)) {
        if !at.is_empty() {
            found.complaints(&at, names::dns1123_label(at.text()));
        }
    }
    hostname_override(spec, found);
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        found.invalid(&deadline, "must be between 1 and 2147483647, inclusive");
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    if !grace.present() {
        found.required(&grace, "");
    }
    found.one_of_if_any(&spec.get("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
}

/// A name that the pod alone sees. On the host's network it would be the node's, and as a full name it has no domain.
fn hostname_override(spec: &At<'_>, found: &mut Findings) {
    let name = spec.get("hostnameOverride");
    if name.is_empty() {
        return;
    }
    found.complaints(&name, names::dns1123_subdomain(name.text()));
    if name.len() > MAX_KERNEL_HOSTNAME {
        found.too_long(&name, MAX_KERNEL_HOSTNAME);
    }
    if spec.get("hostNetwork").flag() {
        found.forbidden(&name, "may not be set when `hostNetwork` is true");
    }
    if spec.get("setHostnameAsFQDN").flag() {
        found.forbidden(&name, "may not be set when `setHostnameAsFQDN` is true");
    }
}

fn dns(spec: &At<'_>, found: &mut Findings) {
    let config = spec.get("dnsConfig");
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    if spec.get("dnsPolicy").text() == "None" {
        if !config.present() {
            return found.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return found.required(&servers, detail);
        }
    }
    if servers.len() > 3 {
        found.invalid(&servers, "must not have more than 3 nameservers");
    }
    for server in servers.items() {
        if server.text().parse::<std::net::IpAddr>().is_err() {
            found.invalid(&server, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    if searches.len() > 32 {
        found.invalid(&searches, "must not have more than 32 search paths");
    }
    for search in searches.items() {
        // A search path may be the root, and may end in it.
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        if !name.is_empty() {
            found.complaints(&search, names::dns1123_subdomain_with_underscore(name));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            found.required(&option, "must not be empty");
        }
    }
}

/// Whether a Service's or a probe's target is a port number or a port's name.
pub fn port_or_name(at: &At<'_>, found: &mut Findings) {
    probes::port_or_name(at, found);
}
