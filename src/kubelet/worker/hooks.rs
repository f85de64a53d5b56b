//! Lifecycle hooks of containers: exec, http, sleep.

use std::{net::IpAddr, pin::pin, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, LifecycleHandler},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    probes::Tls,
    runtime::{ContainerId, Runtime, RuntimeError},
};

/// A hook that never ends is ended by the grace period (preStop) or the pod's end (postStart): this only bounds it.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const CONNECT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("run the hook's command")]
    Exec(#[source] RuntimeError),
    #[error("command exited with {code}")]
    ExitCode { code: i32 },
    #[error("the hook's port {port} is not a port of the container")]
    NoSuchPort { port: String },
    #[error("the pod has no address")]
    NoAddress,
    #[error("encrypt the connection to the hook's server")]
    Encrypt(#[source] std::io::Error),
    #[error("connect to the hook's server")]
    Connect(#[source] std::io::Error),
    #[error("the hook's server did not answer in time")]
    TimedOut,
    #[error("request to the hook's server")]
    Request(#[source] hyper::Error),
    #[error("the hook's request is malformed")]
    Malformed(#[source] http::Error),
    #[error("the hook names no handler")]
    Empty,
}

pub async fn run<R: Runtime>(
    runtime: &R,
    id: &ContainerId,
    container: &Container,
    hook: &LifecycleHandler,
    pod_ip: Option<IpAddr>,
) -> Result<(), HookError> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output = runtime.exec(id, &command, LONGEST).await.map_err(HookError::Exec)?;
        return match output.exit_code {
            0 => Ok(()),
            code => Err(HookError::ExitCode { code }),
        };
    }
    if let Some(get) = &hook.http_get {
        return http_get(container, get, pod_ip).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(HookError::Empty)
}

/// Any answer is a success: upstream looks only for an error of the request.
async fn http_get(
    container: &Container,
    get: &HTTPGetAction,
    pod_ip: Option<IpAddr>,
) -> Result<(), HookError> {
    let port = port(container, &get.port)?;
    let host = match get.host.as_deref() {
        Some(host) if !host.is_empty() => host.to_string(),
        _ => pod_ip.ok_or(HookError::NoAddress)?.to_string(),
    };
    if get.scheme.as_deref() != Some("HTTPS") {
        return ask(dial(&host, port).await?, request(get, &host, port, false)?).await;
    }
    let encrypted = tokio::time::timeout(CONNECT, Tls::shared().connect(&host, dial(&host, port).await?));
    match encrypted.await.map_err(|_| HookError::TimedOut)? {
        Ok(stream) => ask(stream, request(get, &host, port, false)?).await,
        // As upstream, which once spoke plain HTTP whatever the hook said; nothing that is secret goes with it.
        Err(error) if speaks_no_tls(&error) => {
            ask(dial(&host, port).await?, request(get, &host, port, true)?).await
        }
        Err(error) => Err(HookError::Encrypt(error)),
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, HookError> {
    let connect = tokio::time::timeout(CONNECT, TcpStream::connect((host, port)));
    connect.await.map_err(|_| HookError::TimedOut)?.map_err(HookError::Connect)
}

/// The server answered, in words that are no TLS.
fn speaks_no_tls(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}

type Request = http::Request<Empty<bytes::Bytes>>;

fn request(get: &HTTPGetAction, host: &str, port: u16, no_secrets: bool) -> Result<Request, HookError> {
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request =
        http::Request::get(path).header("Host", authority).header("User-Agent", "kube-lifecycle/1.36");
    for header in get.http_headers.iter().flatten() {
        if !(no_secrets && header.name.eq_ignore_ascii_case("Authorization")) {
            request = request.header(&header.name, &header.value);
        }
    }
    request.body(Empty::new()).map_err(HookError::Malformed)
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request,
) -> Result<(), HookError> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(HookError::Request)?;
    let mut answer = pin!(sender.send_request(request));
    tokio::select! {
        answer = answer.as_mut() => answer.map(drop).map_err(HookError::Request),
        // An answer may have come before the connection broke, and counts.
        broken = connection => {
            let told = answer.await.map(drop);
            told.map_err(|gone| HookError::Request(broken.err().unwrap_or(gone)))
        }
    }
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, HookError> {
    let found = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|it| it.name.as_deref() == Some(name))
            .and_then(|it| u16::try_from(it.container_port).ok())
            .or_else(|| name.parse().ok()),
    };
    found.ok_or_else(|| HookError::NoSuchPort {
        port: match port {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name.clone(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn https(port: u16) -> HTTPGetAction {
        serde_json::from_value(serde_json::json!({
            "scheme": "HTTPS", "host": "127.0.0.1", "port": port, "path": "bye",
            "httpHeaders": [{"name": "Authorization", "value": "secret"}, {"name": "X-Hook", "value": "1"}],
        }))
        .unwrap()
    }

    /// Reads one request, and answers with an error, which is an answer too.
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        let mut request = String::new();
        while !request.contains("\r\n\r\n") {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "{request}");
            request.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        request.to_lowercase()
    }

    #[tokio::test]
    async fn a_hook_over_https_asks_nobody_who_signed_the_certificate() {
        let own = rcgen::generate_simple_self_signed(vec!["somebody.else".into()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let get = https(listener.local_addr().unwrap().port());
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            answer(acceptor.accept(stream).await.unwrap()).await
        };
        let container = Container::default();
        let (request, asked) = tokio::join!(serve, http_get(&container, &get, None));
        asked.unwrap();
        assert!(request.starts_with("get /bye http/1.1"), "{request}");
        assert!(request.contains("authorization: secret"), "{request}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_asked_again_in_plain_words_and_gets_no_credentials() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let get = https(listener.local_addr().unwrap().port());
        let serve = async {
            let (mut first, _) = listener.accept().await.unwrap();
            first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let (second, _) = listener.accept().await.unwrap();
            answer(second).await
        };
        let container = Container::default();
        let (request, asked) = tokio::join!(serve, http_get(&container, &get, None));
        asked.unwrap();
        assert!(request.contains("x-hook: 1") && !request.contains("secret"), "{request}");
    }
}
