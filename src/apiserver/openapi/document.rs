//! A document of OpenAPI v3: one for each group and version.
#![deny(clippy::disallowed_methods)]

use serde_json::{Value, json};

use super::{
    components::{Components, Dialect},
    descriptions::Texts,
    paths,
};
use crate::discovery::groups;

pub(super) fn v3(version: &groups::Version<'_>, server_version: &str) -> Value {
    let texts = Texts::unpack();
    let texts = texts.index();
    let is_served = |group: &str, name: &str| (group, name) == (version.group, version.version);
    // Kinds of other groups (Scale, Eviction) are met as bodies of subresources, and named with their own group.
    let mut components = Components::new(Dialect::V3, &texts, |group, name| {
        is_served(group, name) || is_borrowed(version, group, name)
    });
    let paths = paths::of(version, &mut components);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": paths,
        "components": {
            "schemas": components.finish(),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
            }},
        },
        "security": [{"BearerToken": []}],
    })
}

fn is_borrowed(version: &groups::Version<'_>, group: &str, name: &str) -> bool {
    let mut subresources = version.items.iter().flat_map(groups::Item::subresources);
    subresources.any(|sub| sub.kind.0 == group && sub.kind.1 == name)
}
