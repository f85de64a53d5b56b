//! Validation of environment variables and of references into the pod and the container.

use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use api::names;

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// All fields that the downward API knows, here or elsewhere.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn variables(list: &At<'_>, found: &mut Findings) {
    for variable in list.items() {
        let name = variable.get("name");
        if name.is_empty() {
            found.required(&name, "");
        } else {
            found.complaints(&name, names::relaxed_env_var_name(name.text()));
        }
        value_from(&variable, found);
    }
}

fn value_from(variable: &At<'_>, found: &mut Findings) {
    let from = variable.get("valueFrom");
    if !from.present() {
        return;
    }
    let field = from.get("fieldRef");
    if field.present() {
        field_ref(&field, &ENV_FIELDS, found);
    }
    let resource = from.get("resourceFieldRef");
    if resource.present() {
        resource_ref(&resource, false, found);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let reference = from.get(name);
        if reference.present() {
            key_ref(&reference, found);
        }
    }
    let sources = SOURCES.iter().filter(|name| from.get(name).present()).count();
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if !variable.get("value").is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    found.invalid_value(&from, "", detail);
}

/// A field of the pod, as the downward API names it.
pub(super) fn field_ref(at: &At<'_>, allowed: &[&str], found: &mut Findings) {
    for field in ["apiVersion", "fieldPath"].map(|name| at.get(name)) {
        if field.is_empty() {
            return found.required(&field, "");
        }
    }
    let path = at.get("fieldPath");
    let subscript = path.text().strip_suffix("']").and_then(|path| path.split_once("['"));
    match subscript {
        Some((map @ ("metadata.annotations" | "metadata.labels"), key)) => {
            let complaints = match map {
                "metadata.annotations" => names::qualified_name(&key.to_lowercase()),
                _ => names::qualified_name(key),
            };
            let at = At::named(at.path(), path.value());
            for complaint in complaints {
                found.invalid_value(&at, key, &complaint);
            }
        }
        Some((map, _)) => {
            found.invalid_value(at, map, "does not support subscript");
        }
        None if !KNOWN_FIELDS.contains(&path.text()) => {
            let detail = format!("error converting fieldPath: field label not supported: {}", path.text());
            found.invalid(&path, &detail);
        }
        None if !allowed.contains(&path.text()) => found.not_supported(&path, allowed),
        None => {}
    }
}

/// A request or limit of a container; a volume has to say of which.
pub(super) fn resource_ref(at: &At<'_>, in_volume: bool, found: &mut Findings) {
    let (container, resource) = (at.get("containerName"), at.get("resource"));
    if in_volume && container.is_empty() {
        return found.required(&container, "");
    }
    if resource.is_empty() {
        return found.required(&resource, "");
    }
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.text().starts_with(p));
    if !huge && !RESOURCES.contains(&resource.text()) {
        return found.not_supported(&resource, &RESOURCES);
    }
    divisor(at, found);
}

fn divisor(at: &At<'_>, found: &mut Findings) {
    const SIZES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (divisor, resource) = (at.get("divisor"), at.get("resource").text());
    if matches!(divisor.text(), "" | "0") {
        return;
    }
    let (allowed, name): (&[&str], _) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (&SIZES, "memory"),
        "ephemeral-storage" => (&SIZES, "local ephemeral storage"),
        _ => (&SIZES, "hugepages"),
    };
    if !allowed.contains(&divisor.text()) {
        let shown = if name == "cpu" { "1m and 1".to_owned() } else { SIZES.join(", ") };
        let detail = format!("only divisor's values {shown} are supported with the {name} resource");
        found.invalid_value(&divisor, resource, &detail);
    }
}

fn key_ref(at: &At<'_>, found: &mut Findings) {
    let (name, key) = (at.get("name"), at.get("key"));
    if !name.is_empty() {
        found.complaints(&name, names::dns1123_subdomain(name.text()));
    }
    if key.is_empty() {
        found.required(&key, "");
    } else {
        found.complaints(&key, names::config_map_key(key.text()));
    }
}

/// `envFrom`.
pub(super) fn sources(list: &At<'_>, found: &mut Findings) {
    for source in list.items() {
        let prefix = source.get("prefix");
        if !prefix.is_empty() {
            found.complaints(&prefix, names::relaxed_env_var_name(prefix.text()));
        }
        let present: Vec<At<'_>> = ["configMapRef", "secretRef"]
            .map(|name| source.get(name))
            .into_iter()
            .filter(At::present)
            .collect();
        for reference in &present {
            let name = reference.get("name");
            if name.is_empty() {
                found.required(&name, "");
            } else {
                found.complaints(&name, names::dns1123_subdomain(name.text()));
            }
        }
        // Upstream names the list and not the element here.
        let list = At::named(list.path(), list.value());
        match present.len() {
            0 => found.invalid_value(&list, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => found.invalid_value(&list, "", "may not have more than one field specified at a time"),
        }
    }
}
