//! Lifecycle hooks of containers: exec, http, sleep.

use std::{net::IpAddr, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, LifecycleHandler},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use crate::runtime::{ContainerId, Runtime, RuntimeError};

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
    #[error("the hook asks for https, which hooks cannot speak yet")]
    Https,
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
    if get.scheme.as_deref() == Some("HTTPS") {
        return Err(HookError::Https);
    }
    let port = port(container, &get.port)?;
    let host = match get.host.as_deref() {
        Some(host) if !host.is_empty() => host.to_string(),
        _ => pod_ip.ok_or(HookError::NoAddress)?.to_string(),
    };
    let connect = tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), port)));
    let stream = connect.await.map_err(|_| HookError::TimedOut)?.map_err(HookError::Connect)?;
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request =
        http::Request::get(path).header("Host", authority).header("User-Agent", "kube-lifecycle/1.36");
    for header in get.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(HookError::Malformed)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(HookError::Request)?;
    tokio::select! {
        answer = sender.send_request(request) => answer.map(drop).map_err(HookError::Request),
        broken = connection => broken.map_err(HookError::Request),
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
