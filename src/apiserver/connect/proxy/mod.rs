//! `nodes/proxy`, `pods/proxy` and `services/proxy`: a request goes on to what they name, and its answer comes back.
//!
//! ```text
//!   request ─ target (which address) ─ route (path, headers) ─▶ kubelet, pod ─▶ answer ─ route (headers) ─ page (links)
//! ```
//!
//! Invariants:
//! - Nothing of the caller's credentials goes on; only a kubelet is shown the API server's own.
//! - Nothing is dialed on the API server's machine or its link, but a kubelet at the address of its node.

mod page;
mod route;
mod target;

use std::{io, io::Read, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyDataStream, BodyExt, Empty, StreamBody};
use serde_json::Value;
use streaming::http::Upgrade;

use self::{
    route::{Links, Route},
    target::Asked,
};
use super::{
    dial::{Connector, Line, Over},
    location::Endpoint,
};
use crate::{
    body::{self, Body},
    registry::{Action, ActionContext, ActionRequest, Respond},
    request::RequestInfo,
    status::{ApiError, GroupResource},
};

/// A page with more than this keeps its links as they are.
const MAX_PAGE: usize = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Pod,
    Service,
}

pub(super) struct Proxy {
    pub(super) connector: Connector,
    pub(super) kind: Kind,
}

/// Where a request goes, and how.
struct Backend {
    endpoint: Endpoint,
    over: Over,
}

impl Action for Proxy {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        Box::pin(self.forward(context, request))
    }
}

impl Proxy {
    async fn forward(&self, context: &ActionContext, request: ActionRequest) -> Result<Respond, ApiError> {
        let (info, parts) = (&request.info, &request.parts);
        let backend = self.backend(context, info).await?;
        let route = Route::of(&info.path, info.rest.len());
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if route.path.is_empty() && reads && !parts.headers.contains_key(header::UPGRADE) {
            return moved(&route.with_slash(parts.uri.query()));
        }
        let line = self.line(&backend).await?;
        self.exchange(line, &backend.endpoint, &route, request).await
    }

    async fn exchange(
        &self,
        line: Box<dyn Line>,
        to: &Endpoint,
        route: &Route,
        request: ActionRequest,
    ) -> Result<Respond, ApiError> {
        let parts = &request.parts;
        let caller = parts.extensions.get::<SocketAddr>().map(SocketAddr::ip);
        let headers = route::onwards(&parts.headers, &parts.uri, route, caller);
        let target = route.target(parts.uri.query());
        if parts.headers.contains_key(header::UPGRADE) {
            let headers = route::upgrading(&parts.headers, headers);
            let asked = ask(&parts.method, &target, headers, Empty::new())?;
            return self.switch(line, asked, request, to).await;
        }
        let asked_host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        let asked = ask(&parts.method, &target, headers, request.body)?;
        let answer = streaming::http::send(line, asked).await.map_err(|error| unreachable(&error))?;
        let backend = to.to_string();
        let links = Links { prefix: &route.prefix, backend: &backend, asked: &asked_host };
        let (head, body) = answer.into_parts();
        let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        route::back(response.headers_mut(), &links);
        let has_body = head.status != StatusCode::NOT_MODIFIED && parts.method != Method::HEAD;
        let response = if has_body { with_links(response, &links).await? } else { response };
        Ok(Respond::Raw(response))
    }

    async fn backend(&self, context: &ActionContext, info: &RequestInfo) -> Result<Backend, ApiError> {
        let kind = match self.kind {
            Kind::Node => "node",
            Kind::Pod => "pod",
            Kind::Service => "service",
        };
        let asked = Asked::parse(kind, &info.name)?;
        let over = if asked.https { Over::AnyTls } else { Over::Plain };
        let endpoint = match self.kind {
            Kind::Node => {
                let kubelet = self.connector.endpoint(context, asked.name).await?;
                if asked.port.is_empty() || asked.port == kubelet.port.to_string() {
                    return Ok(Backend { endpoint: kubelet, over: Over::Kubelet });
                }
                Endpoint { port: asked.number()?, ..kubelet }
            }
            Kind::Pod => target::of_pod(&get(context, "pods", info, asked.name).await?, &asked)?,
            Kind::Service => service(context, info, &asked).await?,
        };
        Ok(Backend { endpoint, over })
    }

    async fn line(&self, backend: &Backend) -> Result<Box<dyn Line>, ApiError> {
        let Backend { endpoint, over } = backend;
        let line = self.connector.line(endpoint, *over, target::is_allowed).await;
        line.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => target::not_allowed(),
            _ => unreachable(&format!("dial tcp {endpoint}: {error}")),
        })
    }

    /// A connection that is to become another protocol's.
    async fn switch(
        &self,
        line: Box<dyn Line>,
        asked: Request<Empty<Bytes>>,
        request: ActionRequest,
        to: &Endpoint,
    ) -> Result<Respond, ApiError> {
        match streaming::http::upgrade(line, asked).await.map_err(|error| unreachable(&error))? {
            Upgrade::Switched(head, remote) => self.connector.join(request, head.headers, remote),
            Upgrade::Refused(refusal) if refusal.status().as_u16() < 400 => Err(ApiError::internal(format!(
                "invalid upgrade response: status code {} from {to}",
                refusal.status().as_u16()
            ))),
            Upgrade::Refused(refusal) => {
                let (head, text) = refusal.into_parts();
                let mut response = Response::new(body::full(text));
                *response.status_mut() = head.status;
                if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
                    response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
                }
                Ok(Respond::Raw(response))
            }
        }
    }
}

async fn get(
    context: &ActionContext,
    resource: &str,
    info: &RequestInfo,
    name: &str,
) -> Result<Value, ApiError> {
    context.objects.get(&GroupResource::new("", resource), &info.namespace, name).await
}

/// An endpoint of a Service whose pod has its address: any of them, begun with another one each time.
async fn service(
    context: &ActionContext,
    info: &RequestInfo,
    asked: &Asked<'_>,
) -> Result<Endpoint, ApiError> {
    let service = get(context, "services", info, asked.name).await?;
    let port = target::port_name(&service, asked)?;
    let endpoints = get(context, "endpoints", info, asked.name).await?;
    let mut candidates = target::candidates(&endpoints, &info.namespace, port);
    let count = u128::try_from(candidates.len()).unwrap_or(1).max(1);
    let first = usize::try_from(uuid::Uuid::new_v4().as_u128() % count).unwrap_or(0);
    candidates.rotate_left(first);
    for candidate in candidates {
        let pod = get(context, "pods", info, &candidate.pod).await;
        if pod.is_ok_and(|pod| target::has_address(&pod, &candidate.endpoint.host)) {
            return Ok(candidate.endpoint);
        }
    }
    Err(target::no_endpoints(&info.name))
}

fn ask<B>(method: &Method, target: &str, headers: HeaderMap, body: B) -> Result<Request<B>, ApiError> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .body(body)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn moved(location: &str) -> Result<Respond, ApiError> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(location).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(Respond::Raw(response))
}

fn unreachable(why: &dyn std::fmt::Display) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: {why}"))
}

/// A page's links lead through the proxy; everything else is passed on as it comes.
async fn with_links(response: Response<Body>, links: &Links<'_>) -> Result<Response<Body>, ApiError> {
    let Some(packed) = page_form(response.headers()) else { return Ok(response) };
    let (mut head, body) = response.into_parts();
    let page = match whole(body).await.map_err(|error| unreachable(&error))? {
        Ok(page) => page,
        Err(too_big) => return Ok(Response::from_parts(head, too_big)),
    };
    let page = match packed.then(|| unpacked(&page)) {
        None => page.to_vec(),
        Some(Some(unpacked)) => unpacked,
        Some(None) => return Ok(Response::from_parts(head, body::full(page))),
    };
    head.headers.remove(header::CONTENT_ENCODING);
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, body::full(page::with_links(&page, |link| links.rewrite(link)))))
}

/// Whether a page is compressed. `None`: it is none whose links can be seen.
fn page_form(headers: &HeaderMap) -> Option<bool> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let kind = text(header::CONTENT_TYPE)?.split(';').next()?;
    let packed = match text(header::CONTENT_ENCODING) {
        None => false,
        Some("gzip") => true,
        Some(_) => return None,
    };
    (kind.trim() == "text/html" && !headers.contains_key(header::LOCATION)).then_some(packed)
}

/// All of a body, or (inner `Err`) a body that is more than a page may be.
async fn whole(mut body: Body) -> Result<Result<Bytes, Body>, body::BoxError> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        read.extend_from_slice(&data);
        if read.len() > MAX_PAGE {
            let first = stream::iter([Ok(read.freeze())]);
            let all = first.chain(BodyDataStream::new(body)).map(|piece| piece.map(Frame::data));
            return Ok(Err(StreamBody::new(all).boxed_unsync()));
        }
    }
    Ok(Ok(read.freeze()))
}

/// `None`: it is no gzip, or too much.
fn unpacked(page: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let most = u64::try_from(MAX_PAGE).unwrap_or(u64::MAX);
    let read = flate2::read::GzDecoder::new(page).take(most + 1).read_to_end(&mut out).ok()?;
    (read <= MAX_PAGE).then_some(out)
}

#[cfg(test)]
mod tests;
