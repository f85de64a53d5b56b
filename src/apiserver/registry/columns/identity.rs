//! Role bindings and certificate signing requests.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::age::human;
use super::{age, list, name, or_none, string, text, wide};
use crate::registry::Column;

pub(in crate::registry) fn bindings() -> Vec<Column> {
    vec![
        name(),
        text("Role", "What is granted.", |object, _| {
            format!("{}/{}", string(object, "/roleRef/kind"), string(object, "/roleRef/name")).into()
        }),
        age(),
        wide(text("Users", "Users in the roleBinding", |object, _| subjects(object, "User"))),
        wide(text("Groups", "Groups in the roleBinding", |object, _| subjects(object, "Group"))),
        wide(text("ServiceAccounts", "ServiceAccounts in the roleBinding", |object, _| {
            subjects(object, "ServiceAccount")
        })),
    ]
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = list(binding, "/subjects")
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", string(subject, "/namespace"), string(subject, "/name")),
            _ => string(subject, "/name").to_owned(),
        })
        .collect();
    names.join(", ").into()
}

pub(in crate::registry) fn certificate_signing_requests() -> Vec<Column> {
    vec![
        name(),
        age(),
        text("SignerName", "Who is to sign.", |object, _| or_none(string(object, "/spec/signerName"))),
        text("Requestor", "Who asks.", |object, _| string(object, "/spec/username").into()),
        text("RequestedDuration", "How long the certificate is to hold.", |object, _| {
            match object["spec"]["expirationSeconds"].as_i64() {
                Some(seconds) => human(seconds).into(),
                None => super::NONE.into(),
            }
        }),
        text("Condition", "What has become of the request.", |object, _| condition(object)),
    ]
}

fn condition(csr: &Value) -> Value {
    let has = |kind: &str| list(csr, "/status/conditions").iter().any(|condition| condition["type"] == kind);
    let mut shown = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if !string(csr, "/status/certificate").is_empty() {
        shown.push_str(",Issued");
    }
    shown.into()
}
