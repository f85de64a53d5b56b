//! The kinds that only upstream's controllers act on, over HTTP: served, for reading, and absent.

use apiserver::registry::table::{Actions, Cluster, UpstreamKinds, rows};
use serde_json::{Value, json};

use crate::host::Host;

const SETS: &str = "/apis/apps/v1/namespaces/a/statefulsets";
const CLAIMS: &str = "/api/v1/namespaces/a/persistentvolumeclaims";
const JOBS: &str = "/apis/batch/v1/namespaces/a/jobs";
const DEVICES: &str = "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims";

async fn host(upstream_kinds: UpstreamKinds) -> Host {
    let cluster = Cluster { upstream_kinds, ..Cluster::default() };
    Host::start(rows(&cluster, &Actions::default()).0).await
}

fn set(name: &str) -> Value {
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": {
        "serviceName": "web", "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    }})
}

#[tokio::test]
async fn a_stateful_set_is_made_scaled_and_told_of() {
    let host = host(UpstreamKinds::Served).await;
    let made = host.create(SETS, set("web")).await;
    assert_eq!((&made["spec"]["replicas"], &made["metadata"]["generation"]), (&json!(1), &json!(1)));
    assert_eq!(made["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"], "Filesystem");
    let path = format!("{SETS}/web");
    let scaled = host.call("PATCH", &format!("{path}/scale"), json!({"spec": {"replicas": 3}})).await;
    assert_eq!((scaled.code, &scaled.body["status"]["selector"]), (200, &json!("a=b")));
    let told = host.call("PATCH", &format!("{path}/status"), json!({"status": {"replicas": 3}})).await;
    assert_eq!((&told.body["status"]["replicas"], &told.body["spec"]["replicas"]), (&json!(3), &json!(3)));
    let wrong = host.call("PATCH", &path, json!({"spec": {"serviceName": "other"}})).await;
    assert_eq!(wrong.code, 422);
    assert!(wrong.text.contains("updates to statefulset spec for fields other than"), "{}", wrong.text);
    let name = host.call("POST", SETS, set("web.example")).await;
    assert_eq!(name.code, 422, "pods' host names are made from it");
}

#[tokio::test]
async fn a_claim_is_bound_by_who_has_the_volumes() {
    let host = host(UpstreamKinds::Served).await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}});
    let made = host.create(CLAIMS, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["resources"]["requests"]["storage"], "1Gi");
    let path = format!("{CLAIMS}/c");
    let bound = host.call("PATCH", &path, json!({"spec": {"volumeName": "v"}})).await;
    assert_eq!(bound.code, 200, "{}", bound.text);
    let again = host.call("PATCH", &path, json!({"spec": {"volumeName": "w"}})).await;
    assert_eq!(again.code, 422);
    let selected = host.call("GET", &format!("{CLAIMS}?fieldSelector=name=c"), Value::Null).await;
    assert_eq!(selected.body["items"].as_array().map(Vec::len), Some(1), "{}", selected.text);
}

#[tokio::test]
async fn a_job_selects_its_own_pods_and_leaves_them_behind_unless_told() {
    let host = host(UpstreamKinds::Served).await;
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    let made =
        host.create(JOBS, json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}})).await;
    let uid = &made["metadata"]["uid"];
    assert_eq!(&made["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], uid);
    assert_eq!(made["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    let deleted = host.call("DELETE", &format!("{JOBS}/j"), Value::Null).await;
    assert_eq!(deleted.body["metadata"]["finalizers"], json!(["orphan"]), "{}", deleted.text);
}

#[tokio::test]
async fn a_claim_for_devices_is_allocated_once() {
    let host = host(UpstreamKinds::Served).await;
    let devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]});
    host.create(DEVICES, json!({"metadata": {"name": "d"}, "spec": {"devices": devices}})).await;
    let path = format!("{DEVICES}/d/status");
    let of = |device: &str| {
        let result = json!({"request": "r", "driver": "a.b", "pool": "p", "device": device});
        json!({"status": {"allocation": {"devices": {"results": [result]}}}})
    };
    assert_eq!(host.call("PATCH", &path, of("x")).await.code, 200);
    assert_eq!(host.call("PATCH", &path, of("y")).await.code, 422);
}

#[tokio::test]
async fn what_nobody_would_act_on_can_be_read_but_not_made() {
    let host = host(UpstreamKinds::ReadOnly).await;
    for path in [SETS, CLAIMS, JOBS, DEVICES, "/api/v1/persistentvolumes"] {
        let list = host.call("GET", path, Value::Null).await;
        assert_eq!((list.code, &list.body["items"]), (200, &json!([])), "{path}");
        let made = host.call("POST", path, json!({"metadata": {"name": "x"}})).await;
        assert_eq!((made.code, &made.body["reason"]), (405, &json!("MethodNotAllowed")), "{path}");
        assert!(made.text.contains("nobody would act on what is written here"), "{}", made.text);
    }
}

#[tokio::test]
async fn beside_our_own_components_these_kinds_are_not_there() {
    let host = host(UpstreamKinds::Absent).await;
    for path in [SETS, CLAIMS, JOBS, DEVICES] {
        assert_eq!(host.call("GET", path, Value::Null).await.code, 404, "{path}");
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_as_of_any_other_kind() {
    let host = host(UpstreamKinds::Served).await;
    for (path, field, object) in [
        (SETS, "spec.replica", json!({"metadata": {"name": "x"}, "spec": {"replica": 1}})),
        (JOBS, "spec.completion", json!({"metadata": {"name": "x"}, "spec": {"completion": 1}})),
        (
            DEVICES,
            "spec.devices.request",
            json!({"metadata": {"name": "x"}, "spec": {"devices": {"request": []}}}),
        ),
    ] {
        let strict = host.call("POST", &format!("{path}?fieldValidation=Strict"), object).await;
        assert_eq!(strict.code, 400, "{}", strict.text);
        assert!(strict.text.contains(&format!("unknown field \\\"{field}\\\"")), "{}", strict.text);
    }
}
