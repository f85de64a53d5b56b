//! watch.

use serde_json::{Value, json};

use crate::{host::Host, rows};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

fn labelled(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"x": label}}})
}

#[tokio::test]
async fn a_watch_without_a_version_starts_with_what_is_there() {
    let host = Host::start(rows::all()).await;
    host.create(MAPS, labelled("m1", "a")).await;
    let mut events = host.watch(&format!("{MAPS}?watch=true")).await;
    assert_eq!(events.short().await, "ADDED m1");
    host.create(MAPS, labelled("m2", "a")).await;
    assert_eq!(events.short().await, "ADDED m2");
    host.call("PATCH", &format!("{MAPS}/m1"), json!({"data": {"k": "v"}})).await;
    assert_eq!(events.short().await, "MODIFIED m1");
    host.call("DELETE", &format!("{MAPS}/m1"), Value::Null).await;
    let deleted = events.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["k"]), (&json!("DELETED"), &json!("v")));
    let current = host.store.current_revision().await.unwrap().to_string();
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], current, "a delete has its own revision");
}

#[tokio::test]
async fn a_watch_from_a_version_replays_what_came_after_it() {
    let host = Host::start(rows::all()).await;
    let first = host.create(MAPS, labelled("m1", "a")).await;
    host.create(MAPS, labelled("m2", "a")).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = host.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(events.short().await, "ADDED m2");
    host.create(MAPS, labelled("m3", "a")).await;
    assert_eq!(events.short().await, "ADDED m3");
}

#[tokio::test]
async fn a_version_that_is_forgotten_ends_in_an_error_event() {
    let host = Host::start(rows::all()).await;
    let mut events = host.watch(&format!("{MAPS}?watch=1&resourceVersion=0")).await;
    host.create(MAPS, labelled("m1", "a")).await;
    assert_eq!(events.short().await, "ADDED m1");
    for n in 0..4200 {
        let path = format!("{MAPS}/m1");
        host.call("PATCH", &path, json!({"data": {"n": n.to_string()}})).await;
    }
    let mut events = host.watch(&format!("{MAPS}?watch=1&resourceVersion=2")).await;
    let error = events.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"], &error["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(
        error["object"]["message"].as_str().unwrap().starts_with("too old resource version: 2 ("),
        "{error}"
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn entering_a_selection_is_added_and_leaving_it_is_deleted_in_its_last_state() {
    let host = Host::start(rows::all()).await;
    let mut events = host.watch(&format!("{MAPS}?watch=1&labelSelector=x%3Da")).await;
    host.create(MAPS, labelled("m1", "b")).await;
    host.call("PATCH", &format!("{MAPS}/m1"), labelled("m1", "a")).await;
    assert_eq!(events.short().await, "ADDED m1");
    let left = host.call("PATCH", &format!("{MAPS}/m1"), labelled("m1", "c")).await.body;
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["labels"]["x"]),
        (&json!("DELETED"), &json!("a"))
    );
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn fields_select_without_reading_the_object() {
    let host = Host::start(rows::all()).await;
    let pods = "/api/v1/namespaces/a/pods";
    let mut events = host.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1").await;
    host.create(pods, json!({"metadata": {"name": "p1"}, "spec": {"nodeName": "n2"}})).await;
    host.create(pods, json!({"metadata": {"name": "p2"}, "spec": {"nodeName": "n1"}})).await;
    assert_eq!(events.short().await, "ADDED p2");
}

#[tokio::test]
async fn a_streamed_list_ends_with_its_bookmark() {
    let host = Host::start(rows::all()).await;
    host.create(MAPS, labelled("m1", "a")).await;
    host.create(MAPS, labelled("m2", "a")).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = host.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!((events.short().await, events.short().await), ("ADDED m1".into(), "ADDED m2".into()));
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    host.create(MAPS, labelled("m3", "a")).await;
    assert_eq!(events.short().await, "ADDED m3");
}

#[tokio::test]
async fn a_watch_ends_after_its_timeout_with_a_bookmark_where_it_got_to() {
    let host = Host::start(rows::all()).await;
    host.create(MAPS, labelled("m1", "a")).await;
    let mut events = host.watch(&format!("{MAPS}?watch=1&timeoutSeconds=2&allowWatchBookmarks=true")).await;
    assert_eq!(events.short().await, "ADDED m1");
    host.create("/api/v1/namespaces/b/configmaps", labelled("other", "a")).await;
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let current = host.store.current_revision().await.unwrap().to_string();
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], current);
    assert_eq!(events.short().await, "END");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_ended_and_blocks_nobody() {
    let host = Host::start(rows::all()).await;
    let mut slow = host.watch(&format!("{MAPS}?watch=1")).await;
    for n in 0..1100 {
        let body = json!({"data": {"n": n.to_string()}});
        let method = if n == 0 { "POST" } else { "PATCH" };
        let path = if n == 0 { MAPS.to_string() } else { format!("{MAPS}/m1") };
        let body = if n == 0 { labelled("m1", "a") } else { body };
        assert!(host.call(method, &path, body).await.code < 300);
    }
    let mut count = 0;
    while slow.next().await.is_some() {
        count += 1;
    }
    assert_eq!(count, 1024, "what was queued arrives, then the watch ends");
}

#[tokio::test]
async fn a_watch_of_tables_names_the_columns_once() {
    let host = Host::start(rows::all()).await;
    host.create(MAPS, labelled("m1", "a")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut events = host.watch_as(&format!("{MAPS}?watch=1"), accept).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    host.create(MAPS, labelled("m2", "a")).await;
    let second = events.next().await.unwrap();
    assert_eq!(
        (&second["object"]["columnDefinitions"], &second["object"]["rows"][0]["cells"][0]),
        (&Value::Null, &json!("m2"))
    );
}

#[tokio::test]
async fn stopping_the_server_ends_watches() {
    let host = Host::start(rows::all()).await;
    let mut events = host.watch(&format!("{MAPS}?watch=1")).await;
    host.scope.cancel();
    assert_eq!(events.next().await, None);
}
