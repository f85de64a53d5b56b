//! A client's connection that switches protocols, and that of a kubelet, or of what is behind a proxy, that does.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use lifecycle::Chain;
use streaming::{
    http::Upgrade,
    websocket::{self, WebSocketStream},
};
use tracing::debug;

use super::{
    dial::{self, Connector},
    location::Endpoint,
    proxy::{is_upgrade, remove_hops},
};
use crate::{
    body::{self, Body},
    registry::{ActionContext, ActionRequest, Respond},
    status::ApiError,
};

pub(super) const SPDY: &str = "SPDY/3.1";
pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

pub(super) type Switched = TokioIo<Upgraded>;

/// A stream of a pod's that a client asks for.
pub(super) struct Stream {
    /// What it is, for the log.
    pub(super) name: &'static str,
    pub(super) node: String,
    /// On that node's kubelet.
    pub(super) path: String,
    /// What the kubelet is offered to speak in its SPDY streams.
    pub(super) protocol: &'static str,
}

/// The client's half of an upgrade that it has asked for.
fn client(request: &mut ActionRequest) -> Result<OnUpgrade, ApiError> {
    let asked = is_upgrade(&request.parts.headers);
    let on = request.parts.extensions.remove::<OnUpgrade>();
    on.filter(|_| asked).ok_or_else(upgrade_required)
}

fn upgrade_required() -> ApiError {
    ApiError::bad_request("Upgrade request required")
}

/// The client asks for SPDY itself.
fn wants_spdy(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    upgrade.to_ascii_lowercase().starts_with("spdy/")
}

/// A kubelet that has switched to SPDY: its answer's headers and the connection.
enum Remote {
    Switched(HeaderMap, Switched),
    /// It refused: this is the answer to the client.
    Refused(Response<Body>),
}

impl Connector {
    /// Connects a client with a kubelet: its own SPDY as it is; a WebSocket, in the subprotocol that is chosen (by name,
    /// and what `relay` has to know of it), by `relay`.
    pub(super) async fn bridge<T, F>(
        &self,
        context: &ActionContext,
        mut request: ActionRequest,
        stream: Stream,
        choose: impl FnOnce(&HeaderMap) -> Result<(&'static str, T), ApiError>,
        relay: impl FnOnce(WebSocketStream<Switched>, Switched, T) -> F + Send + 'static,
    ) -> Result<Respond, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let Stream { name, node, path, protocol } = stream;
        let client = client(&mut request)?;
        let to = self.endpoint(context, &node).await?;
        let headers = &request.parts.headers;
        if wants_spdy(headers) {
            return self.splice((&to, &path), headers, client).await.map(Respond::Raw);
        }
        let (name_of_protocol, chosen) = choose(headers)?;
        let response = websocket::accept(headers, name_of_protocol).ok_or_else(upgrade_required)?;
        let remote = match self.spdy(&to, &path, &[HeaderValue::from_static(protocol)]).await? {
            Remote::Refused(response) => return Ok(Respond::Raw(response)),
            Remote::Switched(_, remote) => remote,
        };
        self.serve(name, client, |socket| relay(socket, remote, chosen));
        Ok(Respond::Raw(response))
    }

    /// Answers a request for a WebSocket with what comes of `relay`, which nothing but the client ends early.
    pub(super) fn accept<F>(
        &self,
        mut request: ActionRequest,
        name: &'static str,
        protocol: &'static str,
        relay: impl FnOnce(WebSocketStream<Switched>) -> F + Send + 'static,
    ) -> Result<Respond, ApiError>
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let client = client(&mut request)?;
        let response = websocket::accept(&request.parts.headers, protocol).ok_or_else(upgrade_required)?;
        self.serve(name, client, relay);
        Ok(Respond::Raw(response))
    }

    /// The client's end of a WebSocket, once it has its answer.
    fn serve<F>(
        &self,
        name: &'static str,
        client: OnUpgrade,
        relay: impl FnOnce(WebSocketStream<Switched>) -> F + Send + 'static,
    ) where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        self.run(name, async move {
            let ended = match client.await {
                Ok(client) => relay(websocket::server(TokioIo::new(client)).await).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            tell(name, ended);
        });
    }

    /// Asks a kubelet for SPDY, offering these protocols for its streams.
    async fn spdy(&self, to: &Endpoint, path: &str, protocols: &[HeaderValue]) -> Result<Remote, ApiError> {
        let connection = self.dial(to).await.map_err(|error| dial::unreachable("Post", to, path, &error))?;
        let mut request = dial::request(to, path)
            .method(Method::POST)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, SPDY)
            .header(header::CONTENT_LENGTH, "0");
        for protocol in protocols {
            request = request.header(STREAM_PROTOCOL, protocol);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(ApiError::internal)?;
        let answer = streaming::http::upgrade(connection, request).await;
        match answer.map_err(|error| ApiError::internal(Chain(&error)))? {
            Upgrade::Switched(parts, connection) => Ok(Remote::Switched(parts.headers, connection)),
            Upgrade::Refused(refusal) => Ok(Remote::Refused(refused(refusal, remove_hops))),
        }
    }

    /// Passes a client's own SPDY through.
    async fn splice(
        &self,
        (to, path): (&Endpoint, &str),
        headers: &HeaderMap,
        client: OnUpgrade,
    ) -> Result<Response<Body>, ApiError> {
        let protocols: Vec<HeaderValue> = headers.get_all(STREAM_PROTOCOL).iter().cloned().collect();
        let (answer, remote) = match self.spdy(to, path, &protocols).await? {
            Remote::Refused(response) => return Ok(response),
            Remote::Switched(answer, remote) => (answer, remote),
        };
        let mut headers = HeaderMap::new();
        for name in [header::CONNECTION, header::UPGRADE, STREAM_PROTOCOL] {
            for value in answer.get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
        Ok(self.joined(client, headers, remote))
    }

    /// Makes one connection of a client that asked to switch protocols and a remote that has, with these headers.
    pub(super) fn join(
        &self,
        mut request: ActionRequest,
        headers: HeaderMap,
        remote: Switched,
    ) -> Result<Respond, ApiError> {
        let client = client(&mut request)?;
        Ok(Respond::Raw(self.joined(client, headers, remote)))
    }

    fn joined(&self, client: OnUpgrade, headers: HeaderMap, remote: Switched) -> Response<Body> {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        self.run("splice", async move {
            let ended = match client.await {
                Ok(client) => streaming::splice(TokioIo::new(client), remote).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            tell("splice", ended);
        });
        response
    }
}

/// The answer to a client whose upgrade the other side refuses: what that said, as far as it was read. `back` makes of
/// its headers what the client gets.
pub(super) fn refused(refusal: Response<Bytes>, back: impl FnOnce(&mut HeaderMap)) -> Response<Body> {
    let (head, text) = refusal.into_parts();
    let mut response = Response::new(body::full(text));
    (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
    back(response.headers_mut());
    response
}

/// Connections break; who looks for the reason finds it.
fn tell(what: &'static str, ended: std::io::Result<()>) {
    if let Err(error) = ended {
        debug!(what, error = &error as &dyn std::error::Error, "stream ended");
    }
}
