//! `nodes/proxy`, `pods/proxy` and `services/proxy`: a request goes on to what they name, and its answer comes back.
//!
//! ```text
//!   request ─ target (which address) ─ route (path, headers) ─▶ kubelet, pod ─▶ answer ─ route (headers) ─ page (links)
//! ```
//!
//! Invariants:
//! - Nothing of the caller's credentials goes on; only a kubelet is shown the API server's own.
//! - No loopback, link-local, multicast or unspecified address is dialed, but that of a kubelet by its node. The API
//!   server's machine by its other addresses is, as in upstream: they are those of its own pods and kubelet.
//! - A page costs at most [`MAX_PAGE`] to read, and one of [`PAGES`] threads with as much again to unpack it and
//!   [`MAX_REWRITTEN`] to rewrite it.

mod page;
mod route;
mod target;

use std::{borrow::Cow, error::Error, io, io::Read, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyDataStream, BodyExt, StreamBody};
use lifecycle::{Chain, Workers};
use serde_json::Value;
use streaming::http::Upgrade;
use tracing::warn;

pub(super) use self::route::{is_upgrade, remove_hops};
use self::{
    route::{Links, Route},
    target::Asked,
};
use super::{
    dial::{Connector, Line, Over},
    location::Endpoint,
    upgrade,
};
use crate::{
    body::{self, Body},
    registry::{Action, ActionContext, ActionRequest, Respond},
    request::RequestInfo,
    status::{ApiError, GroupResource},
};

/// A page with more than this keeps its links as they are.
const MAX_PAGE: usize = 8 << 20;
/// So does one that would get bigger than this by them.
const MAX_REWRITTEN: usize = 2 * MAX_PAGE;
/// And one that is not done by then.
const REWRITING: Duration = Duration::from_secs(10);
/// Pages that are rewritten at once.
const PAGES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Pod,
    Service,
}

pub(super) struct Proxy {
    pub(super) connector: Connector,
    pub(super) kind: Kind,
    pub(super) pages: Workers,
}

/// What rewrites the pages of all proxies.
pub(super) fn pages() -> Workers {
    Workers::new(PAGES)
}

/// Where a request goes, and how.
enum Backend {
    Kubelet(Endpoint),
    Other(Endpoint, Over),
}

impl Backend {
    fn endpoint(&self) -> &Endpoint {
        match self {
            Backend::Kubelet(endpoint) | Backend::Other(endpoint, _) => endpoint,
        }
    }
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
        if route.path.is_empty() && reads && !is_upgrade(&parts.headers) {
            return moved(&route.with_slash(parts.uri.query()));
        }
        let line = self.line(&backend).await?;
        self.exchange(line, backend.endpoint(), &route, request).await
    }

    async fn exchange(
        &self,
        line: Box<dyn Line>,
        to: &Endpoint,
        route: &Route,
        mut request: ActionRequest,
    ) -> Result<Respond, ApiError> {
        let body = std::mem::replace(&mut request.body, body::empty());
        let parts = &request.parts;
        let caller = parts.extensions.get::<SocketAddr>().map(SocketAddr::ip);
        let mut headers = route::onwards(&parts.headers, &parts.uri, route, caller);
        if !body.is_end_stream() {
            headers = route::chunked(headers);
        }
        let target = route.target(parts.uri.query());
        let asked_host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let links =
            Links { prefix: route.prefix.clone(), backend: to.to_string(), asked: asked_host.to_owned() };
        if is_upgrade(&parts.headers) {
            let headers = route::upgrading(&parts.headers, headers);
            let asked = ask(&parts.method, &target, headers, body)?;
            return self.switch(line, asked, request, &links).await;
        }
        let asked = ask(&parts.method, &target, headers, body)?;
        let answer = streaming::http::send(line, asked).await.map_err(|error| unreachable(&error))?;
        let (head, body) = answer.into_parts();
        let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        route::back(response.headers_mut(), &links);
        let has_body = head.status != StatusCode::NOT_MODIFIED && parts.method != Method::HEAD;
        let response = if has_body { self.with_links(response, &links).await? } else { response };
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
                    return Ok(Backend::Kubelet(kubelet));
                }
                Endpoint { port: asked.number()?, ..kubelet }
            }
            Kind::Pod => target::of_pod(&get(context, "pods", info, asked.name).await?, &asked)?,
            Kind::Service => service(context, info, &asked).await?,
        };
        Ok(Backend::Other(endpoint, over))
    }

    async fn line(&self, backend: &Backend) -> Result<Box<dyn Line>, ApiError> {
        let line = match backend {
            Backend::Kubelet(endpoint) => {
                self.connector.dial(endpoint).await.map(|line| Box::new(line) as Box<dyn Line>)
            }
            Backend::Other(endpoint, over) => self.connector.line(endpoint, *over, target::is_allowed).await,
        };
        line.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => target::not_allowed(),
            _ => unreached(format_args!("dial tcp {}: {}", backend.endpoint(), Chain(&error))),
        })
    }

    /// A connection that is to become another protocol's.
    async fn switch(
        &self,
        line: Box<dyn Line>,
        asked: Request<Body>,
        request: ActionRequest,
        links: &Links,
    ) -> Result<Respond, ApiError> {
        match streaming::http::upgrade(line, asked).await.map_err(|error| unreachable(&error))? {
            Upgrade::Switched(head, remote) => self.connector.join(request, head.headers, remote),
            Upgrade::Refused(refusal) if refusal.status().as_u16() < 400 => Err(ApiError::internal(format!(
                "invalid upgrade response: status code {} from {}",
                refusal.status().as_u16(),
                links.backend
            ))),
            Upgrade::Refused(refusal) => {
                Ok(Respond::Raw(upgrade::refused(refusal, |headers| route::back(headers, links))))
            }
        }
    }

    /// A page's links lead through the proxy; everything else is passed on as it comes.
    async fn with_links(&self, response: Response<Body>, links: &Links) -> Result<Response<Body>, ApiError> {
        let Some(packed) = page_form(response.headers()) else { return Ok(response) };
        let (mut head, body) = response.into_parts();
        let page = match whole(body).await.map_err(|error| unreachable(&*error))? {
            Ok(page) => page,
            Err(too_big) => return Ok(Response::from_parts(head, too_big)),
        };
        let (read, links) = (page.clone(), links.clone());
        let rewriting = move || rewritten(&read, packed, &links);
        let done = self.pages.run("rewrite a page", REWRITING, rewriting).await;
        let Some(made) = done.unwrap_or_else(|error| {
            warn!(error = &error as &dyn Error, "the links of a page stay as they are");
            None
        }) else {
            return Ok(Response::from_parts(head, body::full(page)));
        };
        head.headers.remove(header::CONTENT_ENCODING);
        head.headers.remove(header::CONTENT_LENGTH);
        Ok(Response::from_parts(head, body::full(made)))
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

fn unreachable(error: &(dyn Error + 'static)) -> ApiError {
    unreached(format_args!("{}", Chain(error)))
}

fn unreached(why: std::fmt::Arguments<'_>) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: {why}"))
}

/// `None`: its links stay as they are.
fn rewritten(page: &[u8], packed: bool, links: &Links) -> Option<Vec<u8>> {
    let unpacked = if packed { Cow::Owned(unpacked(page)?) } else { Cow::Borrowed(page) };
    page::with_links(&unpacked, MAX_REWRITTEN, |link| links.rewrite(link))
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
    let read = flate2::read::MultiGzDecoder::new(page).take(most + 1).read_to_end(&mut out).ok()?;
    (read <= MAX_PAGE).then_some(out)
}

#[cfg(test)]
mod tests;
