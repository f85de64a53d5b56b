//! Discovery: which groups, versions and resources are served. Documents are made from the registry's rows alone.
//!
//! ```text
//!   Rows ──groups.rs──▶ Vec<Group> ──legacy.rs────▶ /api /apis /api/v1 /apis/<group> /apis/<group>/<version>
//!                                 └─aggregated.rs─▶ /api /apis, all in one document (KEP-3352)
//! ```

mod accept;
mod aggregated;
pub(crate) mod groups;
mod legacy;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::accept::Form;
use crate::{
    body::{self, Body},
    registry::{Registry, Rows},
    request::RequestInfo,
    server::Pages,
    status::ApiError,
};

/// Discovery of what the registry holds at the moment.
#[derive(Debug)]
pub struct Discovery(pub Arc<Registry>);

impl Pages for Discovery {
    fn page(&self, info: &RequestInfo, headers: &HeaderMap) -> Option<Result<Response<Body>, ApiError>> {
        respond(&self.0.rows(), &info.verb, &info.path, headers)
    }
}

/// Answers a discovery request; `None` if the path is none of discovery's, or names a group or version that isn't
/// served.
fn respond(
    rows: &Rows,
    verb: &str,
    path: &str,
    headers: &HeaderMap,
) -> Option<Result<Response<Body>, ApiError>> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').skip(1).collect();
    if !matches!(parts.first(), Some(&"api" | &"apis")) || parts.len() > 3 {
        return None;
    }
    let groups = groups::of(rows);
    let form = accept::read(headers);
    let document = match (parts.as_slice(), form) {
        (["api" | "apis"], None) => return Some(Err(accept::refusal())),
        (["api"], Some(Form::Aggregated(version))) => aggregated::document(&groups, true, version),
        (["apis"], Some(Form::Aggregated(version))) => aggregated::document(&groups, false, version),
        (["api"], Some(Form::Plain)) => legacy::api_versions(&groups, host(headers)),
        (["apis"], Some(Form::Plain)) => legacy::group_list(&groups),
        (["api", version], _) => legacy::resource_list(groups::version(&groups, "", version)?),
        (["apis", group], _) => legacy::group(groups::group(&groups, group)?),
        (["apis", group, version], _) => legacy::resource_list(groups::version(&groups, group, version)?),
        _ => return None,
    };
    if verb != "get" && verb != "head" {
        return Some(Err(ApiError::method_not_allowed()));
    }
    // Single documents have one form only; whoever asks for them otherwise gets JSON, as from old servers.
    let form = if parts.len() == 1 { form.unwrap_or(Form::Plain) } else { Form::Plain };
    Some(Ok(response(&document, form, headers)))
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

/// Aggregated documents carry an ETag, since clients poll them; 304 to those who have it.
fn response(document: &Value, form: Form, headers: &HeaderMap) -> Response<Body> {
    let bytes = serde_json::to_vec(document).unwrap_or_default();
    let mut response = Response::new(body::empty());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    fields.insert(header::VARY, HeaderValue::from_static("Accept"));
    if form != Form::Plain {
        let tag = format!("\"{}\"", hex(&Sha256::digest(&bytes)));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        let known =
            headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            fields.insert(header::ETAG, tag);
        }
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
    }
    *response.body_mut() = body::full(bytes);
    response
}

/// In upper case, as upstream's tags are.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A group and version as `/apis/<group>/<version>` shows it: changes when its rows do.
pub(crate) fn fingerprint(version: &groups::Version<'_>) -> String {
    legacy::resource_list(version).to_string()
}

#[cfg(test)]
mod tests;
