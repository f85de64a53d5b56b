//! What is done with a request for a resource, once it is authorized.
//!
//! ```text
//!   get, list ─ read ──────────────┐
//!   watch ───── watch ─────────────┼─▶ cache
//!   create, update, patch ─ write ─┼─▶ prepare (defaults, admission, strategy) ─▶ transaction
//!   delete ──── delete ─ deletion ─┘                                              ▲
//!   scale, status, actions ──── scale, prepare, act ──────────────────────────────┘
//! ```

mod act;
pub(crate) mod call;
mod decode;
mod delete;
mod deletion;
mod metadata;
mod objects;
mod options;
mod patch;
mod prepare;
mod protobuf;
mod read;
pub(crate) mod respond;
mod scale;
mod token;
mod watch;
mod write;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
pub use call::Api;
use call::Call;
use http::{Method, Response, request::Parts};
use http_body_util::BodyExt;
use jiff::Timestamp;
pub use objects::ApiObjects;
use tokio_util::sync::CancellationToken;

use crate::{
    body::Body,
    encode::accept::Wanted,
    registry::{Entry, How, Resource, Verbs},
    request::RequestInfo,
    status::ApiError,
    user::UserInfo,
};

/// Bodies may be this big (upstream's `MaxRequestBodyBytes`).
const MAX_BODY_BYTES: usize = 3 << 20;
/// Of a body that is too big, so much is read for its sender to get the answer.
const MAX_PASSED_OVER_BYTES: usize = 64 << 20;
const MAX_PASSED_OVER_TIME: Duration = Duration::from_secs(10);

/// A request for a resource, authorized.
pub(crate) struct Request {
    pub(crate) user: UserInfo,
    pub(crate) info: RequestInfo,
    pub(crate) parts: Parts,
    pub(crate) body: Body,
    /// Ends long answers when the server stops.
    pub(crate) stop: CancellationToken,
}

pub(crate) async fn handle(api: &Arc<Api>, request: Request) -> Result<Response<Body>, ApiError> {
    let info = &request.info;
    let now = Timestamp::now();
    let rows = api.registry.rows();
    let entry = rows.lookup(&info.group, &info.version, &info.resource).cloned();
    let wanted = match &entry {
        entry if is_answered_by_another(entry.as_ref(), info) => Wanted::default(),
        Some(Entry::Virtual(_)) => Wanted::read_plain(&request.parts.headers)?,
        _ => Wanted::read(&request.parts.headers, &info.query)?,
    };
    match entry {
        None => Err(ApiError::unknown_path()),
        Some(Entry::Virtual(row)) => {
            let who = (request.user, request.info, wanted);
            act::create_virtual(api, &row, who, (request.parts, request.body), now).await
        }
        Some(Entry::Stored(row, served)) => {
            check_path(&row, info)?;
            let headers = request.parts.headers.clone();
            let call = Call { user: request.user, info: request.info, headers, row, served, wanted, now };
            Box::pin(stored(api, call, request.parts, request.body, request.stop)).await
        }
    }
}

/// Whether what is accepted is another server's to judge, and what stands in the query another server's to read. (The
/// answer of a log is the API's own.)
fn is_answered_by_another(entry: Option<&Entry>, info: &RequestInfo) -> bool {
    let Some(Entry::Stored(row, _)) = entry else { return false };
    let sub = row.subresource(&info.subresource);
    sub.is_some_and(|sub| matches!(sub.how, How::Connect(_)) && sub.name != "log")
}

/// Namespaced objects are named, and created, in a namespace; others are not.
fn check_path(row: &Resource, info: &RequestInfo) -> Result<(), ApiError> {
    let in_namespace = !info.namespace.is_empty() && info.resource != "namespaces";
    if in_namespace != row.is_namespaced() && in_namespace {
        return Err(ApiError::unknown_path());
    }
    let across = row.is_namespaced() && info.namespace.is_empty();
    if across && !matches!(info.verb.as_ref(), "list" | "watch") {
        return Err(if info.name.is_empty() {
            ApiError::method_not_allowed()
        } else {
            ApiError::unknown_path()
        });
    }
    Ok(())
}

async fn stored(
    api: &Arc<Api>,
    call: Call,
    parts: Parts,
    body: Body,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    if !call.info.subresource.is_empty() {
        return subresource(api, &call, parts, body).await;
    }
    let verb = Verbs::named(&call.info.verb).filter(|verb| call.row.verbs.has(*verb));
    if verb.is_none() {
        return Err(ApiError::method_not_served(&call.row.read_only_because));
    }
    let named = !call.info.name.is_empty();
    match call.info.verb.as_ref() {
        "create" if named => Err(ApiError::method_not_allowed()),
        "update" | "patch" if !named => Err(ApiError::method_not_allowed()),
        "get" => read::get(api, &call).await,
        "list" => read::list(api, &call).await,
        "watch" => watch::watch(api, call, stop).await,
        "create" => write::create(api, &call, read_body(body).await?).await,
        "update" => write::update(api, &call, read_body(body).await?).await,
        "patch" => write::patch(api, &call, read_body(body).await?).await,
        "delete" => delete::delete(api, &call, read_body(body).await?).await,
        "deletecollection" => delete::delete_collection(api, &call, read_body(body).await?).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn subresource(
    api: &Arc<Api>,
    call: &Call,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let Some(sub) = call.row.subresource(&call.info.subresource).cloned() else {
        return Err(ApiError::unknown_path());
    };
    let verb =
        if parts.method == Method::OPTIONS { Some(Verbs::OPTIONS) } else { Verbs::named(&call.info.verb) };
    if !verb.is_some_and(|verb| sub.verbs.has(verb)) {
        return Err(ApiError::method_not_allowed());
    }
    match (&sub.how, call.info.verb.as_ref()) {
        (How::Connect(action), _) => act::connect(api, call, action, (parts, body)).await,
        (How::Acting(action), _) => act::act(api, call, &sub, action, (parts, body)).await,
        (How::Status | How::Part(_), "get") => read::get(api, call).await,
        (How::Status | How::Part(_), "update") => write::update(api, call, read_body(body).await?).await,
        (How::Status | How::Part(_), "patch") => write::patch(api, call, read_body(body).await?).await,
        (How::Scale(paths), "get") => scale::get(api, call, paths).await,
        (How::Scale(paths), "update") => scale::update(api, call, paths, read_body(body).await?).await,
        (How::Scale(paths), "patch") => scale::patch(api, call, paths, read_body(body).await?).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// A whole body, if it is not too big.
pub(crate) async fn read_body(mut body: Body) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::bad_request(format!("unable to read the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_BODY_BYTES {
            drop(whole);
            drop(tokio::time::timeout(MAX_PASSED_OVER_TIME, pass_over(body)).await);
            let message = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
            return Err(ApiError::request_entity_too_large(message));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads what is left of a body that is refused: most clients send all of it before they look at the answer, and one
/// whose HTTP/2 stream is reset meanwhile never does.
async fn pass_over(mut body: Body) {
    let mut passed_over = 0;
    while let Some(Ok(frame)) = body.frame().await {
        passed_over += frame.data_ref().map_or(0, Bytes::len);
        if passed_over > MAX_PASSED_OVER_BYTES {
            return;
        }
    }
}
