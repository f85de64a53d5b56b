//! Discovery: which groups, versions and resources are served. Documents are made from the registry's rows alone.
//!
//! ```text
//!   Rows ──groups.rs──▶ Vec<Group> ──legacy.rs────▶ /api /apis /api/v1 /apis/<group> /apis/<group>/<version>
//!                                 └─aggregated.rs─▶ /api /apis, all in one document (KEP-3352)
//! ```

mod accept;
mod aggregated;
mod groups;
mod legacy;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::accept::Form;
use crate::{
    body::{self, Body},
    registry::Rows,
    status::ApiError,
};

/// Answers a discovery request; `None` if the path is none of discovery's, or names a group or version that isn't
/// served.
pub fn respond(
    rows: &Rows,
    method: &Method,
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
    if method != Method::GET && method != Method::HEAD {
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

/// The resources of one group and version as `/apis/<group>/<version>` shows them: changes when the rows do.
pub(crate) fn fingerprint(rows: &Rows, group: &str, version: &str) -> Option<String> {
    let groups = groups::of(rows);
    Some(legacy::resource_list(groups::version(&groups, group, version)?).to_string())
}

/// All (group, version)s that are served, in the order of discovery.
pub(crate) fn group_versions(rows: &Rows) -> Vec<(String, String)> {
    let groups = groups::of(rows);
    let versions = groups.iter().flat_map(|group| group.versions.iter());
    versions.map(|version| (version.group.to_string(), version.version.to_string())).collect()
}

#[cfg(test)]
mod tests;
