//! What answers which path.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use k8s_openapi::{List, api::core::v1::Pod};

use super::{Body, Server, logs, query::Query, stream as streams};

pub(super) async fn route(server: &Server, parts: Parts) -> Response<Body> {
    let path = parts.uri.path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let get = parts.method == Method::GET;
    let streamed = get || parts.method == Method::POST;
    match segments.as_slice() {
        ["healthz", ..] if get => text(StatusCode::OK, "ok"),
        ["pods"] if get => pods(server),
        ["metrics"] if get => metrics(server),
        ["containerLogs", namespace, pod, container] if get => {
            logs::answer(server, (namespace, pod, container), &query).await
        }
        [kind @ ("exec" | "attach"), namespace, pod, container] if streamed => {
            streams::command(server, (kind, namespace, pod), None, container, (&query, parts)).await
        }
        [kind @ ("exec" | "attach"), namespace, pod, uid, container] if streamed => {
            streams::command(server, (kind, namespace, pod), Some(uid), container, (&query, parts)).await
        }
        ["portForward", namespace, pod] if streamed => {
            streams::port_forward(server, (namespace, pod), None, (&query, parts)).await
        }
        ["portForward", namespace, pod, uid] if streamed => {
            streams::port_forward(server, (namespace, pod), Some(uid), (&query, parts)).await
        }
        ["healthz" | "pods" | "metrics" | "containerLogs" | "exec" | "attach" | "portForward", ..] => {
            let known = !get && !streamed;
            let code = if known { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND };
            text(code, format!("{code}\n"))
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

pub(super) fn text(code: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(words.into()).map_err(|never| match never {}).boxed_unsync();
    with_type(code, "text/plain; charset=utf-8", body)
}

fn with_type(code: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A body that is made as it is read.
pub(super) fn streaming(
    chunks: impl stream::Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    use futures_util::StreamExt;
    let body = StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync();
    with_type(StatusCode::OK, "text/plain", body)
}

fn pods(server: &Server) -> Response<Body> {
    let items = server.host.pods().iter().map(|pod| Pod::clone(pod)).collect();
    let list = List::<Pod> { items, ..List::default() };
    match serde_json::to_vec(&list) {
        Ok(bytes) => {
            let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
            with_type(StatusCode::OK, "application/json", body)
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Upstream's names for what is known here.
fn metrics(server: &Server) -> Response<Body> {
    let pods = server.host.pods();
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    let running = pods.iter().filter(|pod| phase(pod).as_deref() == Some("Running")).count();
    let mut out = String::new();
    for (name, help, value) in [
        ("kubelet_running_pods", "Number of pods that have a running pod sandbox", running),
        ("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.", pods.len()),
    ] {
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    }
    text(StatusCode::OK, out)
}
