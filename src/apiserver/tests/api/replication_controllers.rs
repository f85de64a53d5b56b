//! ReplicationControllers over HTTP: there whoever acts on them.

use apiserver::registry::table::{Actions, Cluster, rows};
use serde_json::{Value, json};

use crate::host::Host;

const CONTROLLERS: &str = "/api/v1/namespaces/a/replicationcontrollers";

async fn host() -> Host {
    Host::start(rows(&Cluster::default(), &Actions::default()).0).await
}

fn controller(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"template": {
        "metadata": {"labels": {"app": "web", "tier": "front"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn a_replication_controller_is_made_scaled_and_told_of() {
    let host = host().await;
    let made = host.create(CONTROLLERS, controller("web")).await;
    let labels = json!({"app": "web", "tier": "front"});
    assert_eq!((&made["spec"]["selector"], &made["metadata"]["labels"]), (&labels, &labels));
    assert_eq!((&made["spec"]["replicas"], &made["status"]), (&json!(1), &json!({"replicas": 0})));
    let path = format!("{CONTROLLERS}/web");
    let counts = json!({"status": {"replicas": 2, "readyReplicas": 1, "observedGeneration": 1}});
    let told = host.call("PATCH", &format!("{path}/status"), counts).await;
    assert_eq!((told.code, &told.body["metadata"]["generation"]), (200, &json!(1)), "{}", told.text);
    let scaled = host.call("PATCH", &format!("{path}/scale"), json!({"spec": {"replicas": 3}})).await;
    assert_eq!((scaled.code, &scaled.body["spec"]), (200, &json!({"replicas": 3})), "{}", scaled.text);
    assert_eq!(scaled.body["status"], json!({"replicas": 2, "selector": "app=web,tier=front"}));
    let after = host.call("GET", &path, Value::Null).await;
    assert_eq!(after.body["metadata"]["generation"], 2);
    let listed =
        host.call("GET", &format!("{CONTROLLERS}?fieldSelector=status.replicas=2"), Value::Null).await;
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1), "{}", listed.text);
}

#[tokio::test]
async fn a_replication_controller_leaves_its_pods_behind_unless_told() {
    let host = host().await;
    host.create(CONTROLLERS, controller("web")).await;
    let deleted = host.call("DELETE", &format!("{CONTROLLERS}/web"), Value::Null).await;
    assert_eq!(deleted.body["metadata"]["finalizers"], json!(["orphan"]), "{}", deleted.text);
}
