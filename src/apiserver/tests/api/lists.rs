//! get and list.

use apiserver::registry::table;
use http::Request;
use serde_json::{Value, json};

use crate::{host::Host, rows};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

async fn with_maps(names: &[&str]) -> Host {
    let host = Host::start(rows::all()).await;
    for name in names {
        host.create(MAPS, json!({"metadata": {"name": name, "labels": {"n": name}}})).await;
    }
    host
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_was_created_is_read_back_with_its_version() {
    let host = with_maps(&[]).await;
    let made = host.create(MAPS, json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).await;
    let read = host.get(&format!("{MAPS}/m")).await;
    assert_eq!((read.code, &read.body), (200, &made));
    assert!(read.body["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 1);
    assert!(read.headers.contains_key("audit-id"));
    let missing = host.get(&format!("{MAPS}/x")).await;
    assert_eq!(missing.code, 404);
    insta::assert_json_snapshot!("not_found", missing.body);
}

#[tokio::test]
async fn lists_are_selected_by_namespace_labels_and_fields() {
    let host = with_maps(&["m1", "m2", "m3"]).await;
    host.create("/api/v1/namespaces/b/configmaps", json!({"metadata": {"name": "m1"}})).await;
    for (path, expected) in [
        (MAPS.to_string(), vec!["m1", "m2", "m3"]),
        ("/api/v1/configmaps".to_string(), vec!["m1", "m2", "m3", "m1"]),
        (format!("{MAPS}?labelSelector=n%20in%20(m1,m3)"), vec!["m1", "m3"]),
        (format!("{MAPS}?fieldSelector=metadata.name!%3Dm1"), vec!["m2", "m3"]),
        ("/api/v1/configmaps?fieldSelector=metadata.namespace%3Db".to_string(), vec!["m1"]),
        (format!("{MAPS}?fieldSelector=metadata.name%3Dm2"), vec!["m2"]),
    ] {
        let list = host.get(&path).await;
        assert_eq!(names(&list.body), expected, "{path}");
        assert_eq!((&list.body["kind"], &list.body["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
        assert_eq!(list.body["items"][0].get("kind"), None, "items do not repeat the type");
    }
    let bad = host.get(&format!("{MAPS}?fieldSelector=data.x%3Dy")).await;
    assert_eq!(
        (bad.code, bad.body["message"].as_str().unwrap()),
        (400, "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    );
}

#[tokio::test]
async fn events_are_selected_by_who_reported_them_in_the_words_of_either_group() {
    let host = Host::start(table::rows(&table::Cluster::default(), &table::Actions::default()).0).await;
    let event = json!({
        "metadata": {"name": "e"}, "regarding": {"namespace": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "who", "reportingInstance": "here", "action": "Do", "reason": "Test", "type": "Normal",
    });
    host.create("/apis/events.k8s.io/v1/namespaces/a/events", event).await;
    for (path, expected) in [
        ("/api/v1/namespaces/a/events?fieldSelector=source%3Dwho", 1),
        ("/api/v1/namespaces/a/events?fieldSelector=source%3Dother", 0),
        ("/apis/events.k8s.io/v1/namespaces/a/events?fieldSelector=reportingController%3Dwho", 1),
    ] {
        let list = host.get(path).await;
        assert_eq!(list.body["items"].as_array().map(Vec::len), Some(expected), "{path}: {}", list.text);
    }
}

#[tokio::test]
async fn pages_show_one_state_even_if_objects_change_in_between() {
    let host = with_maps(&["m1", "m2", "m3", "m4", "m5"]).await;
    let first = host.get(&format!("{MAPS}?limit=2")).await.body;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["m1", "m2"], &json!(3)));
    assert_eq!(host.call("DELETE", &format!("{MAPS}/m3"), Value::Null).await.code, 200);
    host.create(MAPS, json!({"metadata": {"name": "m31"}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = host.get(&format!("{MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!(names(&second), ["m3", "m4"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = host.get(&format!("{MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["m5"], None));
}

#[tokio::test]
async fn an_expired_token_answers_gone_with_a_token_to_go_on() {
    let host = with_maps(&["m1", "m2", "m3"]).await;
    let first = host.get(&format!("{MAPS}?limit=1")).await.body;
    host.create(MAPS, json!({"metadata": {"name": "m4"}})).await;
    let current = host.store.current_revision().await.unwrap();
    host.store.compact(current).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let gone = host.get(&format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!((gone.code, gone.body["reason"].as_str().unwrap()), (410, "Expired"), "{}", gone.text);
    let token = gone.body["metadata"]["continue"].as_str().unwrap();
    let rest = host.get(&format!("{MAPS}?limit=5&continue={token}")).await.body;
    assert_eq!(names(&rest), ["m2", "m3", "m4"]);
    let bad = host.get(&format!("{MAPS}?continue=xyz")).await;
    assert_eq!(bad.code, 400);
}

#[tokio::test]
async fn an_exact_version_is_read_from_history_and_an_impossible_one_is_told() {
    let host = with_maps(&["m1"]).await;
    let version = host.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    host.create(MAPS, json!({"metadata": {"name": "m2"}})).await;
    let path = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(names(&host.get(&path).await.body), ["m1"]);
    let path = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&host.get(&path).await.body), ["m1", "m2"]);
}

#[tokio::test]
async fn tables_and_partial_objects_are_made_on_request() {
    let host = with_maps(&["m1"]).await;
    let table = host.get_as(MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.body;
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("m1")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let partial = host.get_as(MAPS, accept).await.body;
    assert_eq!((&partial["kind"], names(&partial)), (&json!("PartialObjectMetadataList"), vec!["m1"]));
    let yaml = host.get_as(&format!("{MAPS}/m1"), "application/yaml").await;
    assert!(yaml.text.contains("kind: ConfigMap"), "{}", yaml.text);
    assert_eq!(host.get_as(MAPS, "application/vnd.kubernetes.protobuf").await.code, 406);
}

#[tokio::test]
async fn big_lists_are_compressed_for_who_takes_that() {
    let host = with_maps(&[]).await;
    let big = "x".repeat(100_000);
    for name in ["b1", "b2"] {
        host.create(MAPS, json!({"metadata": {"name": name}, "data": {"k": big}})).await;
    }
    let request = Request::builder().uri(MAPS).header("accept-encoding", "gzip");
    let answer = host.send(request.body(apiserver::body::empty()).unwrap()).await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let plain = host.get(MAPS).await;
    assert_eq!(names(&plain.body), ["b1", "b2"]);
}

#[tokio::test]
async fn a_read_at_a_version_that_does_not_come_is_told_which_is_current() {
    let host = with_maps(&["m"]).await;
    let current = host.store.current_revision().await.unwrap();
    tokio::time::pause();
    for path in [MAPS.to_string(), format!("{MAPS}/m")] {
        let began = tokio::time::Instant::now();
        let answer = host.get(&format!("{path}?resourceVersion=4000000")).await;
        assert!(began.elapsed().as_secs() == 3, "upstream waits as long");
        assert_eq!(answer.code, 504);
        assert_eq!(
            (&answer.body["reason"], &answer.body["message"], &answer.body["details"]),
            (
                &json!("Timeout"),
                &json!(format!("Timeout: Too large resource version: 4000000, current: {current}")),
                &json!({
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                    "retryAfterSeconds": 1
                })
            ),
            "{path}"
        );
    }
}

#[tokio::test]
async fn unknown_paths_methods_and_bodies_answer_statuses() {
    let host = with_maps(&[]).await;
    for (method, path, code) in [
        ("GET", "/api/v1/widgets", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/api/v1/configmaps", 405),
        ("GET", "/api/v1/namespaces/a/configmaps/m/status", 404),
        ("PUT", MAPS, 405),
        ("GET", "/api/v1/watch", 500),
    ] {
        let answer = host.call(method, path, Value::Null).await;
        assert_eq!(
            (answer.code, &answer.body["kind"]),
            (code, &json!("Status")),
            "{method} {path} {}",
            answer.text
        );
    }
    let huge = format!("{{\"metadata\":{{\"name\":\"{}\"}}}}", "x".repeat(4 << 20));
    let answer = host.call_as("POST", MAPS, "application/json", huge).await;
    assert_eq!(
        (answer.code, answer.body["message"].as_str().unwrap()),
        (413, "Request entity too large: limit is 3145728")
    );
}

#[tokio::test]
async fn health_version_and_metrics_are_told() {
    let host = with_maps(&["m"]).await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/etcd", "/livez/ping"] {
        assert_eq!(host.get(path).await.text, "ok", "{path}");
    }
    let verbose = host.get("/readyz?verbose&exclude=ping").await.text;
    assert_eq!(
        verbose,
        "[+]ping excluded: ok\n[+]etcd ok\n[+]watch-cache ok\n[+]shutdown ok\nreadyz check passed\n"
    );
    assert_eq!(host.get("/version").await.body["gitVersion"], "v1.36.3+coracle");
    let metrics = host.get("/metrics").await.text;
    assert!(
        metrics.contains(
            "apiserver_request_total{verb=\"POST\",group=\"\",version=\"v1\",resource=\"configmaps\""
        ),
        "{metrics}"
    );
    assert!(metrics.contains("apiserver_storage_objects{resource=\"configmaps\"} 1"), "{metrics}");
}
