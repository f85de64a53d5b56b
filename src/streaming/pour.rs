//! A body that streams to a WebSocket client, which says nothing: how logs are followed without a half-read answer.

use std::{io, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::websocket::{self, Form, LINGER};

/// A connection on which nothing is said for long is closed by what stands between; a client answers these.
const PING: Duration = Duration::from_secs(30);

/// Sends `body` piece by piece, until it has ended or the client is gone.
///
/// # Errors
/// When a connection fails.
pub async fn pour<S, B>(socket: WebSocketStream<S>, mut body: B, form: Form) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut to_client, mut from_client) = socket.split();
    let outwards = async {
        // An empty message says that the connection stands.
        to_client.send(message(Bytes::new(), form)).await.map_err(websocket::io_error)?;
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        loop {
            let said = tokio::select! {
                frame = body.frame() => match frame {
                    None => break,
                    Some(frame) => match frame.map_err(io::Error::other)?.into_data() {
                        Ok(piece) => message(piece, form),
                        Err(_) => continue,
                    },
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            to_client.send(said).await.map_err(websocket::io_error)?;
        }
        to_client.send(websocket::goodbye()).await.map_err(websocket::io_error)
    };
    // Its pings are answered on the way. Read on after the end: to close with input unread would reset the connection.
    let mut gone =
        std::pin::pin!(async { while from_client.next().await.is_some_and(|said| said.is_ok()) {} });
    let ended = tokio::select! {
        ended = outwards => ended,
        () = &mut gone => return Ok(()),
    };
    drop(timeout(LINGER, gone).await);
    ended
}

fn message(piece: Bytes, form: Form) -> Message {
    match form {
        Form::Bytes => Message::Binary(piece),
        Form::Text => Message::Text(STANDARD.encode(piece).into()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use tokio::io::duplex;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    async fn poured(form: Form) -> Vec<Message> {
        let (client, server) = duplex(1024);
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let seen = client.map(Result::unwrap).collect::<Vec<_>>();
        let (poured, mut seen) =
            tokio::join!(pour(server, Full::new(Bytes::from_static(b"line")), form), seen);
        poured.unwrap();
        assert!(matches!(seen.pop(), Some(Message::Close(_))));
        seen
    }

    #[tokio::test]
    async fn a_body_comes_in_the_form_that_was_asked_for_and_ends_with_a_goodbye() {
        let [empty, line] = [b"".as_slice(), b"line"].map(|bytes| Message::Binary(bytes.into()));
        assert_eq!(poured(Form::Bytes).await, [empty, line]);
        let [empty, line] = ["", "bGluZQ=="].map(|text| Message::Text(text.into()));
        assert_eq!(poured(Form::Text).await, [empty, line]);
    }

    #[tokio::test]
    async fn a_client_that_goes_ends_it() {
        let (client, server) = duplex(1024);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        drop(client);
        let ended = timeout(Duration::from_secs(10), pour(server, endless(), Form::Bytes)).await.unwrap();
        // Either half may be the first to see it.
        assert!(
            ended.as_ref().err().is_none_or(|error| error.kind() == io::ErrorKind::BrokenPipe),
            "{ended:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_kept_with_pings() {
        let (client, server) = duplex(1024);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let listening = timeout(3 * PING, async move {
            let mut pings = 0;
            while pings < 2 {
                pings += usize::from(client.next().await.unwrap().unwrap().is_ping());
            }
        });
        tokio::select! {
            heard = listening => heard.unwrap(),
            ended = pour(server, endless(), Form::Bytes) => panic!("{ended:?}"),
        }
    }

    fn endless() -> impl Body<Data = Bytes, Error = io::Error> + Unpin {
        StreamBody::new(stream::pending())
    }
}
