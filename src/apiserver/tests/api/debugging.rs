//! Containers that are added to a pod, as kubectl debug adds them.

use apiserver::registry::table::{Actions, Cluster, rows};
use serde_json::{Value, json};

use crate::host::Host;

const POD: &str = "/api/v1/namespaces/a/pods/web";

fn patch(names: &[&str]) -> String {
    let added: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "busybox:1"})).collect();
    json!({"spec": {"ephemeralContainers": added}}).to_string()
}

#[tokio::test]
async fn a_patch_adds_a_container_and_a_put_another() {
    let cluster = Cluster::default();
    let host = Host::start(rows(&cluster, &Actions::default()).0).await;
    let pod =
        json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}});
    let pod = host.create("/api/v1/namespaces/a/pods", pod).await;
    assert_eq!(pod["metadata"]["generation"], 1);
    let path = format!("{POD}/ephemeralcontainers");
    let strategic = "application/strategic-merge-patch+json";

    let answer = host.call_as("PATCH", &path, strategic, patch(&["one"])).await;
    assert_eq!((answer.code, &answer.body["metadata"]["generation"]), (200, &json!(2)), "{}", answer.text);
    assert_eq!(answer.body["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"], "File");

    let mut pod = host.get(&path).await.body;
    pod["metadata"]["labels"] = json!({"not": "written"});
    let two = json!({"name": "two", "image": "busybox:1"});
    pod["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(two);
    let answer = host.call("PUT", &path, pod).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    let pod = host.get(POD).await.body;
    let added = pod["spec"]["ephemeralContainers"].as_array().unwrap();
    let names: Vec<&str> = added.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!((names.as_slice(), &pod["metadata"]["generation"]), (&["one", "two"][..], &json!(3)));
    assert!(pod["metadata"].get("labels").is_none());

    let mut gone = pod.clone();
    gone["spec"]["ephemeralContainers"] = json!([]);
    let answer = host.call("PUT", &path, gone).await;
    assert_eq!((answer.code, &answer.body["reason"]), (422, &json!("Invalid")), "{}", answer.text);
    assert!(
        answer.text.contains("existing ephemeral containers \\\"one\\\" may not be removed"),
        "{}",
        answer.text
    );

    let answer = host.call_as("PATCH", POD, strategic, patch(&["three"])).await;
    assert_eq!(answer.code, 422, "by their subresource alone: {}", answer.text);
}
