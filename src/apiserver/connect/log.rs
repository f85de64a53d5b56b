//! `pods/log`: what a container has written, streamed from its node.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use lifecycle::Chain;
use streaming::websocket::{self, Form};

use super::{
    dial::{self, Connector},
    location,
    proxy::is_upgrade,
};
use crate::{
    body::{self, Body},
    registry::{Action, ActionContext, ActionRequest, Respond},
    request::Query,
    status::{ApiError, Details, FieldError, GroupKind, Reason, quote},
};

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const POSITIVE: &str = "must be greater than 0";
/// Of an error's body, no more is read.
const MAX_ERROR: usize = 50_000;

pub(super) struct Log(pub(super) Connector);

impl Action for Log {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        Box::pin(async move {
            let info = &request.info;
            let options = options(&info.name, &info.query)?;
            let pod = dial::pod(context, info).await?;
            // Before anything is asked of the kubelet for who could not understand it.
            let headers = &request.parts.headers;
            let spoken = (is_upgrade(headers) && websocket::is_upgrade(headers))
                .then(|| protocol(websocket::offered(headers)));
            let spoken = spoken.transpose()?;
            let container = location::container(&pod, info.query.get("container").unwrap_or_default())?;
            let body = match location::node_of(&pod) {
                Some(node) => {
                    let path = format!("/containerLogs/{}/{}/{container}", info.namespace, info.name);
                    let path = location::with_query(&path, &options);
                    self.stream(context, node, &path, &info.name).await?
                }
                None => body::empty(),
            };
            let Some((protocol, form)) = spoken else { return Ok(Respond::Raw(text(body))) };
            self.0.accept(request, "log", protocol, move |socket| streaming::pour(socket, body, form))
        })
    }
}

impl Log {
    async fn stream(
        &self,
        context: &ActionContext,
        node: &str,
        path: &str,
        pod: &str,
    ) -> Result<Body, ApiError> {
        let to = self.0.endpoint(context, node).await?;
        let connection =
            self.0.dial(&to).await.map_err(|error| dial::unreachable("Get", &to, path, &error))?;
        let request = dial::request(&to, path).body(Empty::<Bytes>::new()).map_err(ApiError::internal)?;
        let response = streaming::http::send(connection, request).await;
        let response = response.map_err(|error| ApiError::internal(Chain(&error)))?;
        if (200..=206).contains(&response.status().as_u16()) {
            return Ok(response.into_body().map_err(Into::into).boxed_unsync());
        }
        let (parts, body) = response.into_parts();
        let bytes = Limited::new(body, MAX_ERROR).collect().await;
        let words = bytes.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        Err(refusal(parts.status, &words.unwrap_or_default(), pod))
    }
}

fn text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The first subprotocol that is known of those that are offered, and the form that it has.
pub(super) fn protocol<'a>(
    mut offered: impl Iterator<Item = &'a str>,
) -> Result<(&'static str, Form), ApiError> {
    const KNOWN: [(&str, Form); 2] = [("binary.k8s.io", Form::Bytes), ("base64.binary.k8s.io", Form::Text)];
    let known = |name: &str| KNOWN.into_iter().find(|(known, _)| *known == name);
    let Some(first) = offered.next() else { return Ok(("", Form::Bytes)) };
    known(first).or_else(|| offered.find_map(known)).ok_or_else(|| {
        let names = KNOWN.map(|(name, _)| name).join(", ");
        ApiError::bad_request(format!("unable to upgrade: none of the subprotocols is one of {names}"))
    })
}

/// The options, checked, as the kubelet takes them.
pub(super) fn options(pod: &str, query: &Query) -> Result<Vec<(&'static str, String)>, ApiError> {
    let mut errors = Vec::new();
    let mut pairs = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            pairs.push((flag, "true".to_owned()));
        }
    }
    let mut number = |key: &'static str, least: i64, why: &str| -> Result<(), ApiError> {
        let Some(text) = query.get(key) else { return Ok(()) };
        let value: i64 = text.parse().map_err(|_| {
            ApiError::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", quote(text)))
        })?;
        if value < least {
            errors.push(FieldError::invalid(key, value, why));
        }
        pairs.push((key, value.to_string()));
        Ok(())
    };
    number("tailLines", 0, NOT_NEGATIVE)?;
    number("limitBytes", 1, POSITIVE)?;
    if query.get("sinceTime").is_none() {
        number("sinceSeconds", 1, POSITIVE)?;
    } else if query.get("sinceSeconds").is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden("", why));
    }
    if let Some(since) = query.get("sinceTime") {
        let time: jiff::Timestamp = since
            .parse()
            .map_err(|_| ApiError::bad_request(format!("sinceTime {} is no RFC 3339 time", quote(since))))?;
        pairs.push(("sinceTime", api::time::seconds(time)));
    }
    let stream = query.get("stream").unwrap_or("All");
    if !["All", "Stdout", "Stderr"].contains(&stream) {
        errors.push(FieldError::not_supported("stream", stream, &["All", "Stderr", "Stdout"]));
    }
    if stream != "All" && query.get("tailLines").is_some() {
        let why = "`tailLines` and specific `stream` are mutually exclusive for now";
        errors.push(FieldError::forbidden("", why));
    }
    pairs.push(("stream", stream.to_owned()));
    if errors.is_empty() {
        return Ok(pairs);
    }
    Err(ApiError::invalid(&GroupKind::new("", "PodLogOptions"), pod, &errors))
}

/// A kubelet's error, as the API tells it.
pub(super) fn refusal(code: StatusCode, words: &str, pod: &str) -> ApiError {
    match code.as_u16() {
        500 => return ApiError::internal(words),
        400 => return ApiError::bad_request(words),
        _ => {}
    }
    let (reason, message) = match code.as_u16() {
        401 => {
            (Reason::Unauthorized, "the server has asked for the client to provide credentials".to_owned())
        }
        403 => (Reason::Forbidden, words.to_owned()),
        404 => (Reason::NotFound, "the server could not find the requested resource".to_owned()),
        422 => (Reason::Invalid, "the server rejected our request due to an error in our request".to_owned()),
        503 => {
            (Reason::ServiceUnavailable, "the server is currently unable to handle the request".to_owned())
        }
        501.. => (
            Reason::InternalError,
            format!("an error on the server ({}) has prevented the request from succeeding", quote(words)),
        ),
        other => (
            Reason::Unknown,
            format!("the server responded with the status code {other} but did not return more information"),
        ),
    };
    let mut error = ApiError::new(code, reason, format!("{message} ( pods/log {pod})"));
    error.details =
        Some(Box::new(Details { name: pod.into(), kind: "pods/log".into(), ..Details::default() }));
    error
}
