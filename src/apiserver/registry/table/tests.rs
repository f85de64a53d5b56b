//! The table as a whole.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;
use crate::{
    discovery::Discovery,
    openapi::OpenApi,
    registry::{How, Registry, Verbs},
    request::RequestInfo,
    server::Pages,
};

fn all() -> (Vec<Resource>, Vec<Virtual>) {
    with(UpstreamKinds::Absent)
}

fn with(upstream_kinds: UpstreamKinds) -> (Vec<Resource>, Vec<Virtual>) {
    rows(&Cluster { service_families: vec![Family::V4], upstream_kinds }, &Actions::default())
}

fn shown(stored: &[Resource]) -> Vec<Value> {
    let mut shown = Vec::new();
    for row in stored {
        let subresources: Vec<String> = row
            .subresources
            .iter()
            .map(|sub| format!("{} {:?} [{}]", sub.name, sub.how, sub.verbs.names().join(" ")))
            .collect();
        let served: Vec<String> = row.served.iter().map(super::super::Served::api_version).collect();
        let fields: Vec<&str> = row.fields.iter().map(|field| field.label.as_ref()).collect();
        let columns: Vec<&str> = row.columns.iter().map(|column| column.name.as_ref()).collect();
        shown.push(json!({
            "resource": format!("{} {} ({}) {:?}", served.join(" "), row.plural, row.singular, row.scope),
            "short": row.short_names.join(" "), "categories": row.categories.join(" "),
            "verbs": row.verbs.names().join(" "), "subresources": subresources,
            "fields": fields.join(" "), "columns": columns.join("|"),
        }));
    }
    shown
}

#[test]
fn the_table_is_what_discovery_shows() {
    let (stored, virtuals) = all();
    let mut shown = shown(&stored);
    for row in &virtuals {
        shown.push(json!(format!(
            "{}/{} {} ({}) {:?}",
            row.group, row.version, row.plural, row.singular, row.scope
        )));
    }
    insta::assert_json_snapshot!(shown);
}

#[test]
fn upstreams_kinds_follow_the_others() {
    let (ours, (stored, _)) = (all().0, with(UpstreamKinds::Served));
    assert_eq!(shown(&stored[..ours.len()]), shown(&ours));
    insta::assert_json_snapshot!(shown(&stored[ours.len()..]));
}

#[test]
fn every_status_belongs_to_a_row_that_says_so() {
    let (stored, _) = all();
    for row in stored {
        assert_eq!(row.has_status(), row.subresources.iter().any(|sub| matches!(sub.how, How::Status)));
        assert_eq!(row.subresource("status").is_some(), row.has_status(), "{}", row.plural);
    }
}

#[test]
fn columns_print_any_object_without_panicking() {
    let (stored, _) = with(UpstreamKinds::Served);
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for row in stored {
        for object in [json!({}), json!(null), json!({"metadata": 1, "spec": [], "status": "x"})] {
            for column in &row.columns {
                column.cell.value(&object, now);
            }
            row.strategy.validate_create(&object);
            row.strategy.validate_update(&object, &json!({}));
            row.strategy.claims(&object);
        }
    }
}

#[test]
fn whose_controllers_and_scheduler_run_decides_about_upstreams_kinds() {
    for (controllers, scheduler, kinds) in [
        (true, true, UpstreamKinds::Absent),
        (true, false, UpstreamKinds::ReadOnly),
        (false, true, UpstreamKinds::Served),
        (false, false, UpstreamKinds::Served),
    ] {
        assert_eq!(UpstreamKinds::beside(controllers, scheduler), kinds);
    }
}

async fn page(pages: &dyn Pages, path: &str) -> Value {
    let info = RequestInfo { verb: "get".into(), path: path.into(), ..RequestInfo::default() };
    let answer = pages.page(&info, &http::HeaderMap::new()).unwrap().unwrap();
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

/// What upstream's discovery and tables say of these kinds, and of some that are always served.
fn recorded() -> Vec<Value> {
    serde_json::from_str(include_str!("parity/discovery.json")).unwrap()
}

#[tokio::test]
async fn upstreams_kinds_are_discovered_and_printed_as_upstreams() {
    let (stored, virtuals) = with(UpstreamKinds::Served);
    let discovery = Discovery(Arc::new(Registry::new(stored.clone(), virtuals)));
    for known in recorded() {
        let (path, theirs) = (known["path"].as_str().unwrap(), &known["resource"]);
        let shown = page(&discovery, path).await;
        let ours = shown["resources"].as_array().unwrap().iter().find(|ours| ours["name"] == theirs["name"]);
        assert_eq!(ours, Some(theirs), "{path}");
        let Some(columns) = known["columns"].as_array() else { continue };
        let row = stored.iter().find(|row| theirs["name"] == row.plural.as_ref()).unwrap();
        let ours: Vec<Value> = row
            .columns
            .iter()
            .map(|column| json!([column.name, column.r#type, column.format, column.priority]))
            .collect();
        assert_eq!(&ours, columns, "{}", row.plural);
    }
    let ours = all().0;
    let always = |known: &Value| ours.iter().any(|row| known["resource"]["name"] == row.plural.as_ref());
    let theirs = recorded().into_iter().filter(|known| known["columns"].is_array() && !always(known)).count();
    assert_eq!(stored.len(), ours.len() + theirs, "there are no others");
}

#[tokio::test]
async fn upstreams_kinds_have_schemas() {
    let (stored, virtuals) = with(UpstreamKinds::Served);
    let registry = Arc::new(Registry::new(stored.clone(), virtuals));
    let openapi = OpenApi { registry, version: "v1.36.3".into() };
    for known in recorded().iter().filter(|known| known["columns"].is_array()) {
        let (path, name) = (known["path"].as_str().unwrap(), known["resource"]["name"].as_str().unwrap());
        let scope = if known["resource"]["namespaced"] == true { "/namespaces/{namespace}" } else { "" };
        let document = page(&openapi, &format!("/openapi/v3{path}")).await;
        let create = &document["paths"][format!("{path}{scope}/{name}")]["post"];
        let schema = create["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
        let target = schema.unwrap_or_default().trim_start_matches('#');
        assert!(document.pointer(target).is_some_and(|schema| schema["properties"].is_object()), "{create}");
    }
}

#[test]
fn beside_our_controllers_upstreams_scheduler_only_reads_its_kinds() {
    let ours = all().0.len();
    let (stored, _) = with(UpstreamKinds::ReadOnly);
    assert_eq!(stored.len(), with(UpstreamKinds::Served).0.len());
    for row in &stored[ours..] {
        assert_eq!(row.verbs, Verbs::GET.and(Verbs::LIST).and(Verbs::WATCH), "{}", row.plural);
        assert!(row.subresources.is_empty() && !row.columns.is_empty(), "{}", row.plural);
    }
}
