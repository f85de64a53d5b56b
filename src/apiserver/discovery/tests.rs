//! Discovery as clients ask for it, of a registry of two rows.

use http_body_util::BodyExt;
use serde_json::json;

use super::*;
use crate::registry::{Plain, Resource, Verbs};

fn rows() -> Rows {
    let plain = || Arc::new(Plain);
    let deployment = Resource::namespaced("apps", "v1", "Deployment", "deployments", plain())
        .short(&["deploy"])
        .in_categories(&["all"])
        .with_status()
        .with_subresource(crate::registry::Subresource {
            name: "scale".into(),
            verbs: Verbs::GET_UPDATE_PATCH,
            kind: ("autoscaling".into(), "v1".into(), "Scale".into()),
            how: crate::registry::How::Status,
        });
    let event = Resource::namespaced("", "v1", "Event", "events", plain()).short(&["ev"]).also_served(
        "events.k8s.io",
        "v1",
        None,
    );
    let namespace = Resource::cluster("", "v1", "Namespace", "namespaces", plain())
        .short(&["ns"])
        .with_verbs(Verbs::ALL.without(Verbs::DELETE_COLLECTION));
    let custom = Resource::namespaced("a.example.com", "v1", "Thing", "things", plain()).also_served(
        "a.example.com",
        "v1beta1",
        None,
    );
    let lease = Resource::namespaced("coordination.k8s.io", "v1", "Lease", "leases", plain());
    Rows::new(vec![custom, deployment, event, namespace, lease], vec![])
}

fn ask(path: &str, accept: &str, known: Option<&str>) -> Option<Result<Response<Body>, ApiError>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, accept.parse().unwrap());
    if let Some(known) = known {
        headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
    }
    respond(&rows(), "get", path, &headers)
}

async fn get(path: &str, accept: &str) -> Value {
    let response = ask(path, accept, None).unwrap().unwrap();
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn a_versions_resources_are_as_upstream_lists_them() {
    assert_eq!(
        get("/apis/apps/v1", "application/json").await,
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "apps/v1", "resources": [
            {
                "name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "shortNames": ["deploy"], "categories": ["all"], "storageVersionHash": "8aSe+NMegvE=",
            },
            {
                "name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
                "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"],
            },
            {
                "name": "deployments/status", "singularName": "", "namespaced": true, "kind": "Deployment",
                "verbs": ["get", "patch", "update"],
            },
        ]})
    );
    let core = get("/api/v1", "*/*").await;
    assert_eq!(core.get("apiVersion"), None);
    assert_eq!(core["resources"][0]["storageVersionHash"], "r2yiGXH7wu8=");
    let events = get("/apis/events.k8s.io/v1", "*/*").await;
    assert_eq!(events["resources"][0]["storageVersionHash"], "r2yiGXH7wu8=", "the same objects");
}

#[tokio::test]
async fn groups_come_in_upstreams_order_and_custom_ones_last() {
    let groups = get("/apis", "application/json").await;
    let names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].clone()).collect();
    assert_eq!(names, ["apps", "events.k8s.io", "coordination.k8s.io", "a.example.com"]);
    assert_eq!(groups["groups"][3]["preferredVersion"]["groupVersion"], "a.example.com/v1");
    assert_eq!(get("/apis/apps", "").await["kind"], "APIGroup");
    assert_eq!(get("/api", "").await["versions"], json!(["v1"]));
}

#[tokio::test]
async fn one_document_holds_all_groups_for_those_who_ask() {
    let all = get("/apis", AGGREGATED).await;
    assert_eq!(all["apiVersion"], "apidiscovery.k8s.io/v2");
    assert_eq!(
        all["items"][0]["versions"][0]["resources"][0]["subresources"],
        json!([
            {"subresource": "scale", "verbs": ["get", "patch", "update"],
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}},
            {"subresource": "status", "verbs": ["get", "patch", "update"],
                "responseKind": {"group": "", "version": "", "kind": "Deployment"}},
        ])
    );
    let core = get("/api", AGGREGATED).await;
    assert_eq!(core["items"].as_array().unwrap().len(), 1);
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    assert_eq!(get("/apis", beta).await["apiVersion"], "apidiscovery.k8s.io/v2beta1");
}

#[test]
fn who_has_the_document_is_told_so() {
    let first = ask("/apis", AGGREGATED, None).unwrap().unwrap();
    let tag = first.headers()[header::ETAG].to_str().unwrap().to_string();
    let again = ask("/apis", AGGREGATED, Some(&tag)).unwrap().unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
}

#[test]
fn what_is_not_served_is_not_found_and_formats_that_cannot_be_made_are_refused() {
    for path in ["/apis/batch", "/apis/apps/v2", "/api/v2", "/apis/apps/v1/deployments", "/healthz", "/apix"]
    {
        assert!(ask(path, "", None).is_none(), "{path}");
    }
    assert_eq!(ask("/apis", "application/vnd.kubernetes.protobuf", None).unwrap().unwrap_err().code, 406);
    let post = respond(&rows(), "post", "/apis", &HeaderMap::new()).unwrap();
    assert_eq!(post.unwrap_err().code, 405);
}
