//! DaemonSets and their revisions over HTTP: there whoever acts on them.

use apiserver::registry::table::{Actions, Cluster, rows};
use serde_json::{Value, json};

use crate::host::Host;

const SETS: &str = "/apis/apps/v1/namespaces/a/daemonsets";

async fn host() -> Host {
    Host::start(rows(&Cluster::default(), &Actions::default()).0).await
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn set(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "template": template("v1")}})
}

#[tokio::test]
async fn a_daemon_set_is_made_told_of_and_left_as_it_selects() {
    let host = host().await;
    let made = host.create(SETS, set("web")).await;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
    assert_eq!((&made["spec"]["updateStrategy"], &made["metadata"]["generation"]), (&strategy, &json!(1)));
    assert_eq!(made["status"]["desiredNumberScheduled"], 0);
    let path = format!("{SETS}/web");
    let counts = json!({"status": {"desiredNumberScheduled": 2, "numberReady": 1, "observedGeneration": 1}});
    let told = host.call("PATCH", &format!("{path}/status"), counts).await;
    assert_eq!((told.code, &told.body["metadata"]["generation"]), (200, &json!(1)), "{}", told.text);
    assert_eq!(told.body["status"]["desiredNumberScheduled"], 2);
    let other = host.call("PATCH", &path, json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}})).await;
    assert_eq!(other.code, 422, "{}", other.text);
    let scale = host.call("GET", &format!("{path}/scale"), Value::Null).await;
    assert_eq!(scale.code, 404, "the nodes decide how many there are");
}

/// What `kubectl rollout undo` sends: a revision's data, as a strategic merge patch.
#[tokio::test]
async fn a_revisions_data_puts_the_template_back() {
    let host = host().await;
    let mut changed = set("web");
    changed["spec"]["template"] = template("v2");
    changed["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    host.create(SETS, changed).await;
    let mut before = template("v1");
    before["$patch"] = "replace".into();
    let undo = json!({"spec": {"template": before}}).to_string();
    let path = format!("{SETS}/web");
    let undone = host.call_as("PATCH", &path, "application/strategic-merge-patch+json", undo).await;
    assert_eq!(undone.code, 200, "{}", undone.text);
    let spec = &undone.body["spec"]["template"]["spec"];
    assert_eq!((&spec["containers"][0]["image"], &spec["hostNetwork"]), (&json!("v1"), &Value::Null));
    assert_eq!(undone.body["metadata"]["generation"], 2);
}

/// Upstream's controllers compare them with what they would write, byte by byte.
#[tokio::test]
async fn a_revisions_data_keeps_its_bytes() {
    const REVISIONS: &str = "/apis/apps/v1/namespaces/a/controllerrevisions";
    let host = host().await;
    let data = r#"{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{}},"spec":{"containers":[{"command":["sh","-c","a \u0026\u0026 b \u003e c\n"],"image":"i","resources":{},"securityContext":{"runAsUser":1000}}]}}}}"#;
    let body = format!(
        r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"r"}},"data":{data},"revision":1}}"#
    );
    let made = host.call_as("POST", REVISIONS, "application/json", body).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert!(made.body["metadata"]["generation"].is_null(), "nothing of it changes");
    for answer in [made, host.get(&format!("{REVISIONS}/r")).await, host.get(REVISIONS).await] {
        assert!(answer.text.contains(data), "{}", answer.text);
    }
}
