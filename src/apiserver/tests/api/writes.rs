//! create, update, patch, delete, and what they reserve.

use std::sync::Arc;

use apiserver::{
    admission::{Attributes, Operation, Plugin, Reader},
    status::{ApiError, GroupResource},
};
use serde_json::{Value, json};

use crate::{host::Host, rows};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const PODS: &str = "/api/v1/namespaces/a/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/a/deployments";
const SERVICES: &str = "/api/v1/namespaces/a/services";

async fn host() -> Host {
    Host::start(rows::all()).await
}

fn deployment(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 9},
    })
}

#[tokio::test]
async fn a_created_object_has_what_the_server_says_about_it() {
    let host = host().await;
    let mut sent = deployment("d");
    sent["metadata"]["uid"] = "mine".into();
    sent["metadata"]["generation"] = 9.into();
    sent["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
    sent["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Update"}]);
    let made = host.create(DEPLOYMENTS, sent).await;
    let metadata = &made["metadata"];
    assert_eq!((&metadata["namespace"], &metadata["generation"]), (&json!("a"), &json!(1)));
    assert_ne!(metadata["uid"], "mine");
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    for gone in ["deletionTimestamp", "managedFields"] {
        assert_eq!(metadata.get(gone), None);
    }
    assert_eq!(
        made.get("status").and_then(|status| status.get("replicas")),
        None,
        "status is not a client's to create"
    );
}

#[tokio::test]
async fn names_are_generated_checked_and_taken_once() {
    let host = host().await;
    let made = host.create(MAPS, json!({"metadata": {"generateName": "m-"}})).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-") && name.len() == 7, "{name}");
    host.create(MAPS, json!({"metadata": {"name": "m"}})).await;
    let again = host.call("POST", MAPS, json!({"metadata": {"name": "m"}})).await;
    assert_eq!(again.code, 409);
    insta::assert_json_snapshot!("already_exists", again.body);
    let invalid = host.call("POST", MAPS, json!({"metadata": {"name": "M_", "labels": {"a": "b c"}}})).await;
    assert_eq!(invalid.code, 422);
    insta::assert_json_snapshot!("invalid_metadata", invalid.body);
    let other = host.call("POST", MAPS, json!({"metadata": {"name": "x", "namespace": "b"}})).await;
    assert_eq!(
        (other.code, other.body["message"].as_str().unwrap()),
        (400, "the namespace of the provided object does not match the namespace sent on the request")
    );
    let versioned = host.call("POST", MAPS, json!({"metadata": {"name": "x", "resourceVersion": "5"}})).await;
    assert_eq!(versioned.body["message"], "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn unknown_fields_warn_or_fail() {
    let host = host().await;
    let body = json!({"metadata": {"name": "m"}, "dota": {}});
    let warned = host.call("POST", &format!("{MAPS}?dryRun=All"), body.clone()).await;
    assert_eq!(
        (warned.code, warned.headers["warning"].to_str().unwrap()),
        (201, "299 - \"unknown field \\\"dota\\\"\"")
    );
    assert_eq!(warned.body.get("dota"), None);
    let strict = host.call("POST", &format!("{MAPS}?fieldValidation=Strict"), body.clone()).await;
    assert_eq!(
        (strict.code, strict.body["message"].as_str().unwrap()),
        (
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dota\""
        )
    );
    let ignored = host.call("POST", &format!("{MAPS}?fieldValidation=Ignore"), body).await;
    assert_eq!((ignored.code, ignored.headers.get("warning")), (201, None));
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_stores_nothing() {
    let host = host().await;
    let answer = host.call("POST", &format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "m"}})).await;
    assert_eq!((answer.code, host.get(&format!("{MAPS}/m")).await.code), (201, 404));
    host.create(MAPS, json!({"metadata": {"name": "m"}})).await;
    let deleted = host.call("DELETE", &format!("{MAPS}/m?dryRun=All"), Value::Null).await;
    assert_eq!((deleted.code, host.get(&format!("{MAPS}/m")).await.code), (200, 200));
}

#[tokio::test]
async fn an_update_needs_the_version_it_was_made_from() {
    let host = host().await;
    let path = format!("{MAPS}/m");
    let made = host.create(MAPS, json!({"metadata": {"name": "m"}})).await;
    let mut first = made.clone();
    first["data"] = json!({"k": "1"});
    assert_eq!(host.call("PUT", &path, first.clone()).await.code, 200);
    let stale = host.call("PUT", &path, first).await;
    assert_eq!(stale.code, 409);
    insta::assert_json_snapshot!("conflict", stale.body);
    let unversioned = host.call("PUT", &path, json!({"metadata": {"name": "m"}, "data": {"k": "2"}})).await;
    assert_eq!((unversioned.code, &unversioned.body["metadata"]["uid"]), (200, &made["metadata"]["uid"]));
    let renamed = host.call("PUT", &path, json!({"metadata": {"name": "n"}})).await;
    assert_eq!(
        (renamed.code, renamed.body["message"].as_str().unwrap()),
        (400, "the name of the object (n) does not match the name on the URL (m)")
    );
    let absent = host.call("PUT", &format!("{MAPS}/x"), json!({"metadata": {"name": "x"}})).await;
    assert_eq!(absent.code, 404);
    let other_uid = json!({"metadata": {"name": "m", "uid": "other"}});
    let other_uid = host.call("PUT", &path, other_uid).await;
    assert_eq!(other_uid.code, 409, "{}", other_uid.text);
    assert!(other_uid.text.contains("Precondition failed: UID in precondition: other, UID in object meta: "));
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let host = host().await;
    let made = host.create(MAPS, json!({"metadata": {"name": "m"}})).await;
    let before = host.store.current_revision().await.unwrap();
    let same = host.call("PUT", &format!("{MAPS}/m"), made.clone()).await;
    assert_eq!((same.body, host.store.current_revision().await.unwrap()), (made, before));
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let host = host().await;
    let made = host.create(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut object = made.clone();
    object["status"] = json!({"replicas": 3});
    object["spec"]["replicas"] = 5.into();
    let status = host.call("PUT", &format!("{path}/status"), object.clone()).await.body;
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(3), &json!(1)));
    assert_eq!(status["metadata"]["generation"], 1);
    object["metadata"]["resourceVersion"] = status["metadata"]["resourceVersion"].clone();
    object["status"]["replicas"] = 7.into();
    let whole = host.call("PUT", &path, object).await.body;
    assert_eq!((&whole["status"]["replicas"], &whole["spec"]["replicas"]), (&json!(3), &json!(5)));
    assert_eq!(whole["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scale_reads_and_writes_replicas() {
    let host = host().await;
    host.create(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = host.get(&path).await.body;
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(1), &json!("a=b"))
    );
    let scaled = host.call("PATCH", &path, json!({"spec": {"replicas": 4}})).await.body;
    assert_eq!(scaled["spec"]["replicas"], 4);
    assert_eq!(host.get(&format!("{DEPLOYMENTS}/d")).await.body["spec"]["replicas"], 4);
    let negative = host.call("PATCH", &path, json!({"spec": {"replicas": -1}})).await;
    assert_eq!(
        (negative.code, negative.body["message"].as_str().unwrap()),
        (
            422,
            "Scale.autoscaling \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        )
    );
}

#[tokio::test]
async fn patches_of_all_kinds_apply() {
    let host = host().await;
    host.create(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "second", "image": "j"}]}}}});
    let merged =
        host.call_as("PATCH", &path, "application/strategic-merge-patch+json", strategic.to_string()).await;
    let containers = merged.body["spec"]["template"]["spec"]["containers"].as_array().unwrap().len();
    assert_eq!((merged.code, containers), (200, 2), "{}", merged.text);
    let merge = json!({"spec": {"template": {"spec": {"containers": [{"name": "only", "image": "k"}]}}}});
    let merged = host.call_as("PATCH", &path, "application/merge-patch+json", merge.to_string()).await.body;
    assert_eq!(merged["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    let json_patch = json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 8}]);
    let patched =
        host.call_as("PATCH", &path, "application/json-patch+json", json_patch.to_string()).await.body;
    assert_eq!(patched["spec"]["replicas"], 8);
    let failed = host.call_as("PATCH", &path, "application/json-patch+json", json_patch.to_string()).await;
    assert_eq!(
        (failed.code, failed.body["message"].as_str().unwrap()),
        (422, "the server rejected our request due to an error in our request")
    );
    let apply = host.call_as("PATCH", &path, "application/apply-patch+yaml", "{}".into()).await;
    assert_eq!(apply.code, 415);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}});
    assert_eq!(host.call("PATCH", &path, stale).await.code, 409);
    let unknown =
        host.call("PATCH", &format!("{path}?fieldValidation=Strict"), json!({"spec": {"replica": 2}})).await;
    assert!(
        unknown.text.contains("strict decoding error: unknown field \\\"spec.replica\\\""),
        "{}",
        unknown.text
    );
    let renamed = host.call("PATCH", &path, json!({"metadata": {"name": "e"}})).await;
    assert_eq!(renamed.code, 400, "{}", renamed.text);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let host = Arc::new(host().await);
    host.create(MAPS, json!({"metadata": {"name": "m"}})).await;
    let path = format!("{MAPS}/m");
    let patches = (0..20).map(|n| {
        let (host, path) = (host.clone(), path.clone());
        async move { host.call("PATCH", &path, json!({"data": {format!("k{n}"): "v"}})).await.code }
    });
    let codes = futures_util::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    assert_eq!(host.get(&path).await.body["data"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn a_finalizer_keeps_an_object_until_it_is_removed() {
    let host = host().await;
    let path = format!("{MAPS}/m");
    host.create(MAPS, json!({"metadata": {"name": "m", "finalizers": ["x.io/y"]}})).await;
    let deleted = host.call("DELETE", &path, Value::Null).await;
    assert_eq!(
        (deleted.code, deleted.body["metadata"]["deletionGracePeriodSeconds"].as_i64()),
        (200, Some(0))
    );
    assert!(!deleted.body["metadata"]["deletionTimestamp"].is_null());
    let added = host.call("PATCH", &path, json!({"metadata": {"finalizers": ["x.io/y", "x.io/z"]}})).await;
    assert_eq!(added.code, 422);
    insta::assert_json_snapshot!("no_new_finalizers", added.body);
    let removed = host.call("PATCH", &path, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!((removed.code, host.get(&path).await.code), (200, 404));
}

#[tokio::test]
async fn a_delete_answers_what_it_did() {
    let host = host().await;
    let made = host.create(MAPS, json!({"metadata": {"name": "m"}})).await;
    let wrong = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    assert_eq!(host.call("DELETE", &format!("{MAPS}/m"), wrong).await.code, 409);
    let deleted = host.call("DELETE", &format!("{MAPS}/m"), Value::Null).await.body;
    assert_eq!(
        deleted,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "m", "kind": "configmaps", "uid": made["metadata"]["uid"]},
        })
    );
    assert_eq!(host.call("DELETE", &format!("{MAPS}/m"), Value::Null).await.code, 404);
}

#[tokio::test]
async fn a_pod_is_deleted_gracefully_then_at_once() {
    let host = host().await;
    host.create(PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}})).await;
    let path = format!("{PODS}/p");
    let first = host.call("DELETE", &path, Value::Null).await.body;
    assert_eq!(
        (&first["kind"], &first["metadata"]["deletionGracePeriodSeconds"]),
        (&json!("Pod"), &json!(30))
    );
    let again = host.call("DELETE", &path, Value::Null).await.body;
    assert_eq!(
        again["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"],
        "nothing new was asked"
    );
    let last = host.call("DELETE", &path, json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((last.code, last.body["kind"].as_str(), host.get(&path).await.code), (200, Some("Pod"), 404));
}

#[tokio::test]
async fn a_collection_is_deleted_as_selected() {
    let host = host().await;
    for name in ["m1", "m2", "m3"] {
        host.create(MAPS, json!({"metadata": {"name": name, "labels": {"n": name}}})).await;
    }
    let deleted = host.call("DELETE", &format!("{MAPS}?labelSelector=n!%3Dm2"), Value::Null).await;
    assert_eq!((deleted.code, deleted.body["items"].as_array().unwrap().len()), (200, 2), "{}", deleted.text);
    assert_eq!(host.get(MAPS).await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn addresses_and_ports_are_reserved_with_the_object_and_released_with_it() {
    let host = host().await;
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let mut addresses = Vec::new();
    for n in 0..4 {
        let made = host.create(SERVICES, service(&format!("s{n}"))).await;
        assert_eq!(made["spec"]["clusterIP"], made["spec"]["clusterIPs"][0]);
        assert!(
            made["spec"]["ports"][0]["nodePort"].as_i64().is_some_and(|port| (30000..=30003).contains(&port))
        );
        addresses.push(made["spec"]["clusterIP"].as_str().unwrap().to_string());
    }
    let full = host.call("POST", SERVICES, service("s4")).await;
    assert_eq!(full.code, 422);
    insta::assert_json_snapshot!("ports_full", full.body);
    host.call("DELETE", &format!("{SERVICES}/s0"), Value::Null).await;
    host.create(SERVICES, service("s4")).await;
    let taken = json!({"metadata": {"name": "t"}, "spec": {"clusterIP": addresses[1], "clusterIPs": [addresses[1]], "ports": [{"port": 1}]}});
    let taken = host.call("POST", SERVICES, taken).await;
    assert_eq!(taken.code, 422);
    let message = taken.body["message"].as_str().unwrap();
    let address = &addresses[1];
    assert_eq!(
        message,
        format!(
            "Service \"t\" is invalid: spec.clusterIPs: Invalid value: [\"{address}\"]: failed to allocate IP {address}: provided IP is already allocated"
        )
    );
    let port = json!({"metadata": {"name": "t"}, "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]}});
    let port = host.call("POST", SERVICES, port).await;
    assert_eq!(
        port.body["message"],
        "Service \"t\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
    );
}

#[tokio::test]
async fn many_at_once_never_share_an_address() {
    let host = Arc::new(host().await);
    let service =
        |n: usize| json!({"metadata": {"name": format!("s{n}")}, "spec": {"ports": [{"port": 80}]}});
    let made = (0..14).map(|n| {
        let (host, object) = (host.clone(), service(n));
        async move { host.create(SERVICES, object).await["spec"]["clusterIP"].as_str().unwrap().to_string() }
    });
    let addresses: std::collections::BTreeSet<String> =
        futures_util::future::join_all(made).await.into_iter().collect();
    assert_eq!(addresses.len(), 14, "a /28 has 14 addresses, each given once");
}

/// Labels what is created, and refuses what is named "no".
struct Labels;

impl Plugin for Labels {
    fn name(&self) -> &'static str {
        "Labels"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, _subresource: &str) -> bool {
        operation == Operation::Create && resource.resource == "configmaps"
    }

    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        let seen = reader.list(&attributes.resource, &attributes.namespace).len();
        attributes.object["metadata"]["labels"]["seen"] = seen.to_string().into();
        Ok(())
    }

    fn validate(&self, attributes: &Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        if attributes.name == "no" { Err(attributes.forbidden("not this one")) } else { Ok(()) }
    }
}

#[tokio::test]
async fn admission_changes_and_refuses_and_sees_what_was_written_before() {
    let host = Host::with(rows::all(), vec![Arc::new(Labels)]).await;
    host.create(MAPS, json!({"metadata": {"name": "m1"}})).await;
    let second = host.create(MAPS, json!({"metadata": {"name": "m2"}})).await;
    assert_eq!(second["metadata"]["labels"]["seen"], "1");
    let refused = host.call("POST", MAPS, json!({"metadata": {"name": "no"}})).await;
    assert_eq!(
        (refused.code, refused.body["message"].as_str().unwrap()),
        (403, "configmaps \"no\" is forbidden: not this one")
    );
}
