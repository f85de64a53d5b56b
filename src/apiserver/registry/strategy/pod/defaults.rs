//! Defaults of a pod and of a pod template (facts: upstream's `pkg/apis/core/v1/defaults.go`).
//! What only a Pod gets is in [`pod`]; what a template gets as well is in [`pod_spec`].

use serde_json::{Map, Value, json};

use crate::registry::strategy::fill::{
    each, fill, fill_zero, object_at, quantities, quantity, unset, within, within_made,
};

/// Octal 0644.
const FILE_MODE: i64 = 420;
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

pub fn pod(object: &mut Value) {
    within_made(object, "spec", |spec| {
        pod_spec(spec);
        for list in ["containers", "initContainers"] {
            each(spec, list, requests_from_limits);
        }
        fill(spec, "enableServiceLinks", true);
        if spec["hostNetwork"] == true {
            for list in ["containers", "initContainers"] {
                each(spec, list, |container| each(container, "ports", host_port));
            }
        }
    });
    within(object, "status", |status| fill(status, "phase", "Pending"));
}

/// A `PodTemplateSpec`.
pub fn template(template: &mut Value) {
    within_made(template, "spec", pod_spec);
}

fn pod_spec(spec: &mut Value) {
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    fill(spec, "securityContext", json!({}));
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "schedulerName", "default-scheduler");
    // The old name of the field is kept the same as the new one, so that old clients see it.
    let account = [&spec["serviceAccountName"], &spec["serviceAccount"]]
        .into_iter()
        .find_map(|name| name.as_str().filter(|name| !name.is_empty()).map(str::to_owned));
    if let Some(account) = account {
        spec["serviceAccountName"] = account.as_str().into();
        spec["serviceAccount"] = account.into();
    }
    each(spec, "volumes", volume);
    within(spec, "resources", resources);
    quantities(spec, "overhead");
    for list in CONTAINER_LISTS {
        each(spec, list, container);
    }
}

fn container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let policy = pull_policy(image);
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    within(container, "resources", resources);
    each(container, "ports", |port| fill(port, "protocol", "TCP"));
    each(container, "env", |variable| {
        within(variable, "valueFrom", |source| {
            within(source, "fieldRef", field_ref);
            within(source, "resourceFieldRef", resource_field_ref);
        });
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, name, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            within(lifecycle, hook, |handler| within(handler, "httpGet", http_get));
        }
    });
}

/// `Always` for the tag `latest`, spelled out or meant; a digest is never the latest.
pub fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    fill_zero(probe, "timeoutSeconds", 1);
    fill_zero(probe, "periodSeconds", 10);
    fill_zero(probe, "successThreshold", 1);
    fill_zero(probe, "failureThreshold", 3);
    within(probe, "httpGet", http_get);
    within(probe, "grpc", |grpc| {
        if grpc.is_object() && grpc.get("service").is_none() {
            grpc["service"] = "".into();
        }
    });
}

fn http_get(action: &mut Value) {
    fill(action, "path", "/");
    fill(action, "scheme", "HTTP");
}

fn field_ref(selector: &mut Value) {
    fill(selector, "apiVersion", "v1");
}

fn resources(resources: &mut Value) {
    quantities(resources, "requests");
    quantities(resources, "limits");
}

fn resource_field_ref(selector: &mut Value) {
    fill(selector, "divisor", "0");
    quantity(selector, "divisor");
}

fn volume(volume: &mut Value) {
    let sources =
        volume.as_object().map_or(0, |map| map.iter().filter(|(k, v)| *k != "name" && !v.is_null()).count());
    if sources == 0 {
        fill(volume, "emptyDir", json!({}));
    }
    for name in ["secret", "configMap", "projected", "downwardAPI"] {
        within(volume, name, |source| fill(source, "defaultMode", FILE_MODE));
    }
    within(volume, "downwardAPI", |source| each(source, "items", downward_item));
    within(volume, "projected", |source| {
        each(source, "sources", |projection| {
            within(projection, "serviceAccountToken", |token| fill_zero(token, "expirationSeconds", 3600));
            within(projection, "downwardAPI", |api| each(api, "items", downward_item));
        });
    });
    within(volume, "emptyDir", |source| quantity(source, "sizeLimit"));
    volume_sources(volume);
    within(volume, "image", |source| {
        let policy = pull_policy(source["reference"].as_str().unwrap_or_default());
        fill(source, "pullPolicy", policy);
    });
    within(volume, "ephemeral", |source| {
        within(source, "volumeClaimTemplate", |claim| {
            within(claim, "spec", |spec| {
                fill(spec, "volumeMode", "Filesystem");
                within(spec, "resources", resources);
            });
        });
    });
}

/// What a pod's volume and a PersistentVolume may both be made from.
pub fn volume_sources(volume: &mut Value) {
    within(volume, "hostPath", |source| {
        if source.is_object() && source.get("type").is_none_or(Value::is_null) {
            source["type"] = "".into();
        }
    });
    within(volume, "iscsi", |source| fill(source, "iscsiInterface", "default"));
    within(volume, "rbd", |source| {
        fill(source, "pool", "rbd");
        fill(source, "user", "admin");
        fill(source, "keyring", "/etc/ceph/keyring");
    });
}

fn downward_item(item: &mut Value) {
    within(item, "fieldRef", field_ref);
    within(item, "resourceFieldRef", resource_field_ref);
}

/// A limit without a request is also the request. Only in pods, so that a template keeps what its author wrote.
fn requests_from_limits(container: &mut Value) {
    let limits = container.pointer("/resources/limits").and_then(Value::as_object).cloned();
    let Some(limits) = limits.filter(|limits: &Map<String, Value>| !limits.is_empty()) else { return };
    within(container, "resources", |resources| {
        let Some(requests) = object_at(resources, "requests") else { return };
        for (name, quantity) in limits {
            requests.entry(name).or_insert(quantity);
        }
    });
}

fn host_port(port: &mut Value) {
    if unset(port, "hostPort") || port["hostPort"] == 0 {
        let number = port["containerPort"].clone();
        if !number.is_null() {
            port["hostPort"] = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_tag_is_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_limit_is_the_request_in_a_pod_but_not_in_a_template() {
        let spec = json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]});
        let mut a_pod = json!({"spec": spec});
        pod(&mut a_pod);
        assert_eq!(a_pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
        let mut a_template = json!({"spec": spec});
        template(&mut a_template);
        assert!(a_template["spec"]["containers"][0]["resources"].get("requests").is_none());
        assert!(a_template["spec"].get("enableServiceLinks").is_none());
    }

    #[test]
    fn a_minimal_pod_is_filled_as_upstream_fills_it() {
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
            "hostNetwork": true,
            "containers": [{"name": "web", "image": "nginx", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        }});
        pod(&mut object);
        insta::assert_json_snapshot!(object);
    }
}
