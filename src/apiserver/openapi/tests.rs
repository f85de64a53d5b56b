//! The documents as clients read them.

use std::io::Read;

use http_body_util::BodyExt;

use super::*;
use crate::{
    registry::{Plain, Resource, Subresource, Verbs},
    request::Query,
};

fn openapi() -> OpenApi {
    let plain = || Arc::new(Plain);
    let deployment = Resource::namespaced("apps", "v1", "Deployment", "deployments", plain())
        .with_status()
        .with_subresource(Subresource {
            name: "scale".into(),
            verbs: Verbs::GET_UPDATE_PATCH,
            kind: ("autoscaling".into(), "v1".into(), "Scale".into()),
            how: crate::registry::How::Status,
        });
    let stored = vec![
        deployment,
        Resource::namespaced("", "v1", "Pod", "pods", plain()).with_status(),
        Resource::cluster("", "v1", "Namespace", "namespaces", plain()),
    ];
    OpenApi { registry: Arc::new(Registry::new(stored, vec![])), version: "v1.36.3".into() }
}

fn ask(path: &str, headers: &[(header::HeaderName, &str)]) -> Option<Result<Response<Body>, ApiError>> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let info = RequestInfo {
        verb: "get".into(),
        path: path.into(),
        query: Query::parse(query),
        ..RequestInfo::default()
    };
    let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
    openapi().page(&info, &headers)
}

async fn bytes(response: Response<Body>) -> bytes::Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

async fn get(path: &str) -> Value {
    serde_json::from_slice(&bytes(ask(path, &[]).unwrap().unwrap()).await).unwrap()
}

/// Every `$ref` of a document.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(target) if name == "$ref" => found.push(target.into()),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_index_leads_to_documents_that_may_be_kept() {
    let index = get("/openapi/v3").await;
    let paths = index["paths"].as_object().unwrap();
    assert_eq!(paths.keys().collect::<Vec<_>>(), ["api/v1", "apis/apps/v1"]);
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let response = ask(url, &[]).unwrap().unwrap();
    assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    let stale = ask("/openapi/v3/apis/apps/v1?hash=00", &[]).unwrap().unwrap();
    assert_eq!(stale.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(stale.headers()[header::LOCATION], url);
}

#[tokio::test]
async fn a_document_has_what_kubectl_looks_for() {
    let document = get("/openapi/v3/apis/apps/v1").await;
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let names: Vec<_> = patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert!(names.contains(&json!("fieldValidation")), "{names:?}");
    assert_eq!(
        document["paths"]["/apis/apps/v1/deployments"]["get"]["operationId"],
        "listAppsV1DeploymentForAllNamespaces"
    );
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
    assert_eq!(
        deployment["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    let container = &schemas["io.k8s.api.core.v1.Container"];
    assert_eq!(
        container["properties"]["imagePullPolicy"]["enum"],
        json!(["Always", "IfNotPresent", "Never"])
    );
    assert!(schemas["io.k8s.api.autoscaling.v1.Scale"].is_object());
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_field_has_its_text() {
    for path in ["/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1", "/openapi/v2"] {
        let document = get(path).await;
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for target in found {
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        }
        let place = if path.ends_with("v2") { "/definitions" } else { "/components/schemas" };
        for (name, schema) in document.pointer(place).unwrap().as_object().unwrap() {
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                let text = property["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{name}.{field}");
            }
        }
    }
}

#[tokio::test]
async fn v2_has_its_own_form() {
    let document = get("/openapi/v2").await;
    let post = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    let body = post["parameters"].as_array().unwrap().iter().find(|p| p["in"] == "body").unwrap();
    assert_eq!(body["schema"], json!({"$ref": "#/definitions/io.k8s.api.core.v1.Pod"}));
    assert_eq!(post["responses"]["200"]["schema"], body["schema"]);
    let spec = &document["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
}

#[tokio::test]
async fn who_takes_gzip_gets_it_and_who_has_the_document_is_told_so() {
    let plain = bytes(ask("/openapi/v3/api/v1", &[]).unwrap().unwrap()).await;
    let packed = ask("/openapi/v3/api/v1", &[(header::ACCEPT_ENCODING, "gzip, br")]).unwrap().unwrap();
    assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
    let tag = packed.headers()[header::ETAG].to_str().unwrap().to_string();
    let packed = bytes(packed).await;
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    let again = ask("/openapi/v3/api/v1", &[(header::IF_NONE_MATCH, &tag)]).unwrap().unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
}

#[test]
fn protobuf_alone_is_not_acceptable_and_what_is_not_served_is_not_found() {
    let accept = |value| ask("/openapi/v2", &[(header::ACCEPT, value)]).unwrap();
    assert_eq!(accept("application/com.github.proto-openapi.spec.v2@v1.0+protobuf").unwrap_err().code, 406);
    assert!(accept("application/com.github.proto-openapi.spec.v2@v1.0+protobuf, application/json").is_ok());
    assert!(ask("/openapi/v3/apis/batch/v1", &[]).is_none());
    assert!(ask("/openapi/v4", &[]).is_none());
}
