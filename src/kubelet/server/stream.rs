//! Exec, attach and port-forward: the runtime serves them; the upgrade is passed on to it.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::{BodyExt, Empty, Full};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use streaming::http::Upgrade;
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    Body, Server,
    host::{StreamRequest, Streams, runtime_uid},
    query::Query,
    routes::text,
};
use crate::{
    pods,
    runtime::{PodObservation, RuntimeError},
};

/// What concerns only one connection, but makes the protocol of this one.
const PASSED_ON: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    HeaderName::from_static("x-stream-protocol-version"),
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_ACCEPT,
];

/// For the runtime to take a connection and to answer the upgrade, which it does before anything is run.
const UPGRADE: Duration = Duration::from_secs(30);

/// Why there is no stream.
type Refused = (StatusCode, String);

pub(super) async fn command(
    server: &Server,
    (kind, namespace, name): (&str, &str, &str),
    uid: Option<&str>,
    container: &str,
    (query, parts): (&Query, Parts),
) -> Response<Body> {
    let mut streams = Streams {
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error"),
        tty: query.flag("tty"),
    };
    // A terminal has one output.
    streams.stderr &= !streams.tty;
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let found = async {
        let pod = pod(server, namespace, name, uid)?;
        let observation = observe(server, &pod).await?;
        let running = observation.running().find(|observed| observed.name == container);
        let id = running.ok_or_else(|| {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})"))
        })?;
        if kind == "exec" {
            let command = query.all("command").map(str::to_owned).collect();
            return Ok(StreamRequest::Exec { container: id.id.clone(), command, streams });
        }
        // Whether a process has a terminal was settled when it began.
        let spec = pods::container(&pod, container);
        streams.tty = spec.map_or(streams.tty, |spec| spec.tty == Some(true));
        Ok(StreamRequest::Attach { container: id.id.clone(), streams })
    };
    pass_on(server, found.await, parts).await
}

pub(super) async fn port_forward(
    server: &Server,
    (namespace, name): (&str, &str),
    uid: Option<&str>,
    (query, parts): (&Query, Parts),
) -> Response<Body> {
    let found = async {
        let pod = pod(server, namespace, name, uid)?;
        let observation = observe(server, &pod).await?;
        let sandbox = observation.sandboxes.iter().find(|sandbox| sandbox.ready).ok_or_else(|| {
            let uid = runtime_uid(&pod);
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to find sandboxID for pod {uid}"))
        })?;
        let ports = query.all("port").flat_map(|ports| ports.split(','));
        let ports = ports.filter_map(|port| port.parse().ok()).collect();
        Ok(StreamRequest::PortForward { sandbox: sandbox.id.clone(), ports })
    };
    pass_on(server, found.await, parts).await
}

fn pod(server: &Server, namespace: &str, name: &str, uid: Option<&str>) -> Result<Arc<Pod>, Refused> {
    let gone = |words: &str| (StatusCode::NOT_FOUND, words.to_owned());
    let pod = server.host.pod(namespace, name).ok_or_else(|| gone("pod does not exist"))?;
    let same =
        uid.is_none_or(|uid| pod.metadata.uid.as_deref() == Some(uid) || runtime_uid(&pod).as_str() == uid);
    if same { Ok(pod) } else { Err(gone("pod not found")) }
}

async fn observe(server: &Server, pod: &Pod) -> Result<PodObservation, Refused> {
    server.host.observe(&runtime_uid(pod)).await.map_err(|error| of_runtime(&error))
}

fn of_runtime(error: &RuntimeError) -> Refused {
    let code = match error {
        RuntimeError::Call { code: tonic::Code::NotFound, .. } => StatusCode::NOT_FOUND,
        RuntimeError::Call { code: tonic::Code::ResourceExhausted, .. } => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, error.shown())
}

async fn pass_on(server: &Server, found: Result<StreamRequest, Refused>, mut parts: Parts) -> Response<Body> {
    let request = match found {
        Ok(request) => request,
        Err((code, words)) => return text(code, words),
    };
    let client = parts.extensions.remove::<OnUpgrade>();
    let Some(client) = client.filter(|_| parts.headers.contains_key(header::UPGRADE)) else {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    };
    let url = match server.host.stream_url(&request).await {
        Ok(url) => url,
        Err(error) => {
            let (code, words) = of_runtime(&error);
            return text(code, words);
        }
    };
    match upgrade_in_time(&url, &parts).await {
        Ok(Upgrade::Refused(refusal)) => {
            let (mut head, body) = refusal.into_parts();
            head.headers.remove(header::TRANSFER_ENCODING);
            head.headers.remove(header::CONNECTION);
            Response::from_parts(head, Full::new(body).map_err(|never| match never {}).boxed_unsync())
        }
        Ok(Upgrade::Switched(head, runtime)) => {
            let mut response = text(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
            *response.headers_mut() = passed_on(&head.headers);
            let token = server.scope.token();
            drop(server.scope.spawn_guarded("splice", async move {
                let spliced = async {
                    let client = client.await.map_err(io::Error::other)?;
                    streaming::splice(TokioIo::new(client), runtime).await
                };
                tokio::select! {
                    () = token.cancelled() => {}
                    ended = spliced => if let Err(error) = ended {
                        debug!(error = &error as &dyn std::error::Error, "stream ended");
                    }
                }
            }));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot reach the runtime: {error}")),
    }
}

fn passed_on(headers: &http::HeaderMap) -> http::HeaderMap {
    let kept = headers.iter().filter(|(name, _)| PASSED_ON.contains(name));
    let mut passed = http::HeaderMap::new();
    for (name, value) in kept {
        passed.append(name, value.clone());
    }
    passed
}

async fn upgrade_in_time(url: &str, parts: &Parts) -> io::Result<Upgrade> {
    match tokio::time::timeout(UPGRADE, upgrade(url, parts)).await {
        Ok(upgraded) => upgraded,
        Err(_) => {
            let words = format!("it did not answer within {UPGRADE:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, words))
        }
    }
}

async fn upgrade(url: &str, parts: &Parts) -> io::Result<Upgrade> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, format!("its streaming address is {url}"))
    })?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let connection = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    connection.set_nodelay(true)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(parts.method.clone()).uri(path);
    if let Some(headers) = request.headers_mut() {
        *headers = passed_on(&parts.headers);
    }
    let request = request.header(header::HOST, authority.as_str()).body(Empty::<Bytes>::new());
    Ok(streaming::http::upgrade(connection, request.map_err(io::Error::other)?).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_takes_a_connection_and_says_nothing_is_given_up() {
        // Its backlog takes the connection; nobody ever reads it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/exec/token", silent.local_addr().unwrap());
        let (parts, ()) = Request::new(()).into_parts();
        let waited = tokio::time::timeout(UPGRADE * 2, upgrade_in_time(&url, &parts));
        let error = waited.await.expect("it ends by itself").map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
