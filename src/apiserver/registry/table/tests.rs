//! The table as a whole.

use serde_json::{Value, json};

use super::*;
use crate::registry::How;

fn all() -> (Vec<Resource>, Vec<Virtual>) {
    rows(&Cluster { service_families: vec![Family::V4] }, &Actions::default())
}

#[test]
fn the_table_is_what_discovery_shows() {
    let (stored, virtuals) = all();
    let mut shown: Vec<Value> = Vec::new();
    for row in &stored {
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
    for row in &virtuals {
        shown.push(json!(format!(
            "{}/{} {} ({}) {:?}",
            row.group, row.version, row.plural, row.singular, row.scope
        )));
    }
    insta::assert_json_snapshot!(shown);
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
    let (stored, _) = all();
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
