//! The server's side of a WebSocket: the answer to the upgrade, and the socket.

use std::{io, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{
    Error, Message,
    handshake::derive_accept_key,
    protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
};

/// How bytes stand in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Bytes,
    /// In base64, for clients that know only text.
    Text,
}

/// The biggest message that is taken: clients send pieces of some 32 KiB.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// For the client to say goodbye too.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// The subprotocols that a client offers, in its order.
pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty())
}

/// 101 to a request with this subprotocol, which it must have offered; empty for one that offers none. `None`: it is no
/// WebSocket request.
pub fn accept<B: Default>(headers: &HeaderMap, protocol: &'static str) -> Option<Response<B>> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    if !protocol.is_empty() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Some(response)
}

/// The socket on a connection that has been upgraded.
pub async fn server<S: AsyncRead + AsyncWrite + Unpin>(upgraded: S) -> WebSocketStream<S> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await
}

pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

pub(crate) fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_as_rfc_6455_answers_it() {
        let mut headers = HeaderMap::new();
        assert!(accept::<()>(&headers, "x").is_none());
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v5.x, v4.x"));
        assert!(is_upgrade(&headers));
        assert!(!accept::<()>(&headers, "").unwrap().headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL));
        assert_eq!(offered(&headers).collect::<Vec<_>>(), ["v5.x", "v4.x"]);
        let response = accept::<()>(&headers, "v5.x").unwrap();
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], "v5.x");
    }
}
