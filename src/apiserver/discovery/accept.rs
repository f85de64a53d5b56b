//! Which form of discovery a client wants.
#![deny(clippy::disallowed_methods)]

use http::{HeaderMap, header};

use crate::status::ApiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// All groups in one document, of this version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
}

impl Form {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Aggregated("v2") => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::Aggregated(_) => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
            Self::Plain => "application/json",
        }
    }
}

/// The first form of the client's list, by its weights, that we can make. `None` if there is none.
pub(super) fn read(headers: &HeaderMap) -> Option<Form> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses: Vec<(f32, Option<Form>)> =
        values.flat_map(|value| value.split(',')).map(read_clause).collect();
    if clauses.is_empty() {
        return Some(Form::Plain);
    }
    clauses.sort_by(|(a, _), (b, _)| b.total_cmp(a)); // stable: the client's order decides among equals
    clauses.into_iter().find_map(|(weight, form)| form.filter(|_| weight > 0.0))
}

pub(super) fn refusal() -> ApiError {
    ApiError::not_acceptable(&["application/json"])
}

fn read_clause(clause: &str) -> (f32, Option<Form>) {
    let mut parts = clause.split(';').map(str::trim);
    let is_json = matches!(parts.next(), Some("application/json" | "application/*" | "*/*" | ""));
    let (mut weight, mut group, mut version, mut kind) = (1.0, "", "", "");
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "q" => weight = value.parse().unwrap_or(0.0),
            "as" => kind = value,
            "v" => version = value,
            "g" => group = value,
            _ => {}
        }
    }
    let form = match (kind, group, version) {
        ("", ..) => Some(Form::Plain),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Form::Aggregated("v2")),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Some(Form::Aggregated("v2beta1")),
        _ => None,
    };
    (weight, form.filter(|_| is_json))
}
