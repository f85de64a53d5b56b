//! What becomes of pods when they are deleted, and what of their status and names.

use serde_json::{Value, json};

use super::*;
use crate::registry::Strategy;

fn running() -> Value {
    let mut pod = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"nodeName": "n", "containers": [
        {"name": "a", "image": "x", "resources": {"requests": {"cpu": "1"}}}]}});
    PODS.defaults(&mut pod);
    PODS.prepare_create(&mut pod);
    pod["status"]["phase"] = "Running".into();
    pod
}

#[test]
fn a_running_pod_gets_the_time_that_it_asks_for() {
    let deletion = |pod: &Value, asked: Option<i64>| {
        PODS.deletion(pod, &DeleteOptions { grace_period_seconds: asked, ..DeleteOptions::default() })
    };
    let mut pod = running();
    assert_eq!(deletion(&pod, None), Deletion::Graceful { seconds: 30 });
    assert_eq!(deletion(&pod, Some(5)), Deletion::Graceful { seconds: 5 });
    assert_eq!(deletion(&pod, Some(-1)), Deletion::Graceful { seconds: 1 });
    assert_eq!(deletion(&pod, Some(0)), Deletion::Now);
    pod["status"]["phase"] = "Succeeded".into();
    assert_eq!(deletion(&pod, None), Deletion::Now);
    pod["status"]["phase"] = "Pending".into();
    pod["spec"]["nodeName"] = "".into();
    assert_eq!(deletion(&pod, None), Deletion::Now);
}

#[test]
fn a_status_keeps_what_only_others_may_change() {
    let mut old = running();
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let mut new = old.clone();
    new["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
    new["status"] = json!({"phase": "Running", "podIP": "10.0.0.1", "hostIPs": [{"ip": "192.0.2.1"}]});
    PODS.prepare_status(&mut new, &old);
    assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(new["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
    assert_eq!(new["status"]["hostIP"], "192.0.2.1");
    assert_eq!(new["status"]["qosClass"], "Burstable");
}

#[test]
fn a_name_that_is_no_label_is_warned_of() {
    let mut pod = running();
    pod["metadata"]["name"] = "web.1".into();
    assert!(PODS.warnings(&pod, None)[0].starts_with("metadata.name: this is used in the Pod's hostname"));
    pod["spec"]["containers"][0]["env"] = json!([{"name": "A"}, {"name": "A"}]);
    let warnings = PODS.warnings(&pod, None);
    assert_eq!(
        warnings[1],
        "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"
    );
}

#[test]
fn a_hostname_override_is_a_name_of_the_pods_own() {
    let refused = |change: Value| {
        let mut pod = running();
        pod["spec"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let errors = PODS.validate_create(&pod);
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.detail)).collect::<Vec<_>>()
    };
    assert_eq!(refused(json!({"hostnameOverride": "a.b", "hostname": "c", "subdomain": "d"})), [""; 0]);
    assert_eq!(refused(json!({"hostnameOverride": "", "hostNetwork": true})), [""; 0]);
    for (change, words) in [
        (json!({"hostnameOverride": "a", "hostNetwork": true}), "may not be set when `hostNetwork` is true"),
        (
            json!({"hostnameOverride": "a", "setHostnameAsFQDN": true}),
            "may not be set when `setHostnameAsFQDN` is true",
        ),
        (json!({"hostnameOverride": "a".repeat(65)}), "may not be more than 64 bytes"),
        (json!({"hostnameOverride": "Not-RFC1123"}), "a lowercase RFC 1123 subdomain must consist of"),
    ] {
        let said = refused(change);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with(&format!("spec.hostnameOverride: {words}")), "{said:?}");
    }
}

fn with_added(names: &[&str]) -> Value {
    let mut pod = running();
    let added = |name: &&str| json!({"name": name, "image": "busybox:1", "targetContainerName": "a"});
    pod["spec"]["ephemeralContainers"] = names.iter().map(added).collect();
    PODS.defaults(&mut pod);
    pod
}

#[test]
fn nothing_but_ephemeral_containers_is_written_by_their_subresource() {
    let old = running();
    let mut new = with_added(&["debug"]);
    new["spec"]["nodeName"] = "elsewhere".into();
    new["metadata"]["labels"] = json!({"a": "b"});
    new["metadata"]["resourceVersion"] = "7".into();
    EPHEMERAL_CONTAINERS.prepare_update(&mut new, &old);
    let added = new["spec"].as_object_mut().unwrap().remove("ephemeralContainers").unwrap();
    assert_eq!((&added[0]["name"], &added[0]["imagePullPolicy"]), (&json!("debug"), &json!("IfNotPresent")));
    assert_eq!(new["metadata"]["resourceVersion"], "7");
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(new, old);
}

#[test]
fn ephemeral_containers_are_added_and_neither_changed_nor_removed() {
    let refused = |new: &Value, old: &Value| {
        let errors = EPHEMERAL_CONTAINERS.validate_update(new, old);
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.detail)).collect::<Vec<_>>()
    };
    assert_eq!(refused(&with_added(&["a1"]), &running()), [""; 0]);
    assert_eq!(refused(&with_added(&["a2", "a1"]), &with_added(&["a1"])), [""; 0]);
    let removed = "spec.ephemeralContainers: existing ephemeral containers \"a1\" may not be removed\n";
    assert_eq!(refused(&with_added(&["a2"]), &with_added(&["a1"])), [removed]);
    let mut changed = with_added(&["a1"]);
    changed["spec"]["ephemeralContainers"][0]["image"] = "other".into();
    let said = refused(&changed, &with_added(&["a1"]));
    let start = "spec.ephemeralContainers: existing ephemeral containers \"a1\" may not be changed\n";
    assert!(said.len() == 1 && said[0].starts_with(start), "{said:?}");
    let mut mirror = running();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(refused(&with_added(&["a1"]), &mirror), [": static pods do not support ephemeral containers"]);
}

#[test]
fn an_ephemeral_container_has_a_name_of_its_own_and_no_more_than_it_may() {
    let refused = |change: Value| {
        let mut pod = with_added(&["debug"]);
        let added = pod["spec"]["ephemeralContainers"][0].as_object_mut().unwrap();
        added.extend(change.as_object().unwrap().clone());
        let errors = EPHEMERAL_CONTAINERS.validate_update(&pod, &running());
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.detail)).collect::<Vec<_>>()
    };
    let at = |field: &str, detail: &str| vec![format!("spec.ephemeralContainers[0].{field}: {detail}")];
    let not_for_it = "cannot be set for an Ephemeral Container";
    assert_eq!(refused(json!({"name": "a"})), at("name", ""));
    assert_eq!(refused(json!({"targetContainerName": "x"})), at("targetContainerName", ""));
    assert_eq!(
        refused(json!({"ports": [{"containerPort": 80, "protocol": "TCP"}]})),
        at("ports", not_for_it)
    );
    assert_eq!(
        refused(json!({"livenessProbe": {"exec": {"command": ["a"]}}})),
        at("livenessProbe", not_for_it)
    );
    assert_eq!(
        refused(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}})),
        at("lifecycle", not_for_it)
    );
    assert_eq!(refused(json!({"resources": {"limits": {"cpu": "1"}}})), at("resources", not_for_it));
}
