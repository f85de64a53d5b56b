//! Connections of probes, which are gone when they are closed.

use std::{io, net::SocketAddr};

use tokio::net::TcpStream;

/// Closing resets the connection: thousands of probes an hour would each leave a port in TIME_WAIT.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let at = |address: String| move |source| DialError { address, source };
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(at(shown(host, port)))?;
    let address = addresses
        .next()
        .ok_or_else(|| at(shown(host, port))(io::Error::new(io::ErrorKind::NotFound, "no such host")))?;
    let connected = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_zero_linger()?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    connected.await.map_err(at(address.to_string()))
}

/// `[::1]:80`, as one address.
pub(super) fn shown(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("dial tcp {address}: {}", words(.source))]
pub(super) struct DialError {
    address: String,
    // Shown above: these words end up in events as they are.
    source: io::Error,
}

/// As the words are known from upstream: `connect: connection refused`.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("connect: {}", nix::errno::Errno::from_raw(code).desc().to_lowercase()),
        None => error.to_string(),
    }
}
