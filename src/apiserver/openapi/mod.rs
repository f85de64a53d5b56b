//! OpenAPI: what the served resources look like, for `kubectl explain`, `apply` and generators of clients.
//!
//! ```text
//!   Rows ──────────────▶ paths.rs ───────┐
//!   api::schema ─▶ components.rs ────────┼─▶ document.rs ─▶ /openapi/v3/apis/apps/v1
//!   descriptions.rs (unpacked) ──┘       └─▶ v2.rs ───────▶ /openapi/v2
//! ```
//!
//! Nothing is kept: a document is made when it is asked for, and the clients keep it by its hash, which is computed
//! from what it is made of, not from the document.

mod components;
mod descriptions;
mod document;
mod operation;
mod paths;
mod v2;

use std::sync::{Arc, OnceLock};

use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    body::{self, Body},
    discovery::{self, groups, hex},
    registry::{Registry, Rows},
    request::RequestInfo,
    server::Pages,
    status::ApiError,
};

/// OpenAPI of what the registry holds at the moment.
#[derive(Debug)]
pub struct OpenApi {
    pub registry: Arc<Registry>,
    /// Told in the documents: `v1.36.3`.
    pub version: String,
}

const V3: &str = "application/json";

impl Pages for OpenApi {
    fn page(&self, info: &RequestInfo, headers: &HeaderMap) -> Option<Result<Response<Body>, ApiError>> {
        let path = info.path.strip_prefix("/openapi/")?;
        if info.verb != "get" && info.verb != "head" {
            return Some(Err(ApiError::method_not_allowed()));
        }
        if !takes_json(headers) {
            return Some(Err(ApiError::not_acceptable(&[V3])));
        }
        let rows = self.registry.rows();
        match path {
            "v3" | "v3/" => Some(Ok(self.index(&rows, headers))),
            "v2" => Some(Ok(self.v2(&rows, headers))),
            _ => self.v3(&rows, path.strip_prefix("v3/")?, info.query.get("hash"), headers).map(Ok),
        }
    }
}

impl OpenApi {
    /// `/openapi/v3`: where each group and version has its document.
    fn index(&self, rows: &Rows, headers: &HeaderMap) -> Response<Body> {
        let mut paths = Map::new();
        for version in groups::of(rows).iter().flat_map(|group| &group.versions) {
            let path = path_of(version);
            let url = format!("/openapi/v3/{path}?hash={}", self.hash(version));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        let document = json!({"paths": paths});
        let tag = hex(&Sha256::digest(document.to_string()));
        response(&tag, headers, || document)
    }

    /// `/openapi/v3/apis/apps/v1`. A stale hash is sent on to the present one, which may be kept for ever.
    fn v3(&self, rows: &Rows, path: &str, hash: Option<&str>, headers: &HeaderMap) -> Option<Response<Body>> {
        let groups = groups::of(rows);
        let version = groups.iter().flat_map(|group| &group.versions).find(|known| path_of(known) == path)?;
        let current = self.hash(version);
        match hash {
            Some(asked) if asked != current && !asked.is_empty() => {
                Some(moved(&format!("/openapi/v3/{path}?hash={current}")))
            }
            _ => {
                let mut response = response(&current, headers, || document::v3(version, &self.version));
                if hash.is_some() {
                    let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
                    response.headers_mut().insert(header::CACHE_CONTROL, forever);
                }
                Some(response)
            }
        }
    }

    fn v2(&self, rows: &Rows, headers: &HeaderMap) -> Response<Body> {
        let groups = groups::of(rows);
        let versions: Vec<_> = groups.iter().flat_map(|group| &group.versions).collect();
        let hashes: String = versions.iter().map(|version| self.hash(version)).collect();
        let tag = hex(&Sha256::digest(hashes));
        response(&tag, headers, || v2::document(&versions, &self.version))
    }

    /// Of all that a document is made of.
    fn hash(&self, version: &groups::Version<'_>) -> String {
        static FACTS: OnceLock<[u8; 32]> = OnceLock::new();
        let facts = FACTS.get_or_init(|| {
            let mut digest = Sha256::new_with_prefix(descriptions::packed());
            for r#type in api::schema::all() {
                digest.update(format!("{:?}", r#type.read()));
            }
            digest.finalize().into()
        });
        let mut digest = Sha256::new_with_prefix(facts);
        digest.update(env!("CARGO_PKG_VERSION"));
        digest.update(&self.version);
        digest.update(discovery::fingerprint(version));
        hex(&digest.finalize())
    }
}

/// `api/v1`, `apis/apps/v1`
fn path_of(version: &groups::Version<'_>) -> String {
    let prefix = if version.group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", version.name())
}

/// Protobuf forms are not made; clients that can only read those get 406.
fn takes_json(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = values
        .flat_map(|value| value.split(','))
        .map(|clause| clause.split(';').next().unwrap_or_default().trim())
        .filter(|media_type| !media_type.is_empty())
        .peekable();
    types.peek().is_none() || types.any(|media_type| matches!(media_type, V3 | "application/*" | "*/*"))
}

fn moved(to: &str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// The document, compressed for those who take that, or 304 for those who have it.
fn response(tag: &str, headers: &HeaderMap, make: impl FnOnce() -> Value) -> Response<Body> {
    let tag = format!("\"{tag}\"");
    let has = |name: header::HeaderName, wanted: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split([',', ';']).any(|part| part.trim() == wanted))
    };
    let mut response = Response::new(body::empty());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(V3));
    fields.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        fields.insert(header::ETAG, tag);
    }
    if has(header::IF_NONE_MATCH, &tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let document = make();
    *response.body_mut() = if has(header::ACCEPT_ENCODING, "gzip") {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail; if it did, the client would notice the broken body.
        let written = serde_json::to_writer(&mut packed, &document).is_ok();
        body::full(packed.finish().ok().filter(|_| written).unwrap_or_default())
    } else {
        body::full(serde_json::to_vec(&document).unwrap_or_default())
    };
    response
}

#[cfg(test)]
mod tests;
