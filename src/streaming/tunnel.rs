//! A byte stream inside WebSocket messages: how `kubectl port-forward` carries SPDY.

use std::io;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::websocket;

const PIECE: usize = 32 * 1024;

/// Carries bytes between binary messages and `raw`, not looking at them, until either side ends.
///
/// # Errors
/// When either connection fails.
pub async fn tunnel<S, R>(socket: WebSocketStream<S>, raw: R) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_raw, mut to_raw) = tokio::io::split(raw);
    let inwards = async {
        while let Some(message) = from_client.next().await {
            match message {
                Ok(Message::Binary(bytes)) => {
                    to_raw.write_all(&bytes).await?;
                    to_raw.flush().await?;
                }
                Ok(Message::Close(_)) => break,
                Ok(_) => {}
                Err(error) => return Err(websocket::io_error(error)),
            }
        }
        Ok(())
    };
    let outwards = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if from_raw.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            let piece = buffer.split().freeze();
            to_client.send(Message::Binary(piece)).await.map_err(websocket::io_error)?;
        }
    };
    let ended = tokio::select! {
        ended = inwards => ended,
        ended = outwards => ended,
    };
    // The client may be gone: then nobody waits for this.
    drop(to_client.send(websocket::goodbye()).await);
    drop(to_raw.shutdown().await);
    ended
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_and_an_end_closes_the_socket() {
        let ((client, server), (raw, mut far)) = (duplex(1024), duplex(1024));
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let talk = async {
            client.send(Message::Binary("ping".into())).await.unwrap();
            let mut asked = [0; 4];
            far.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"ping");
            far.write_all(b"pong").await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary("pong".into()));
            drop(far);
            assert!(matches!(client.next().await.unwrap().unwrap(), Message::Close(_)));
        };
        let (tunnelled, ()) = tokio::join!(tunnel(server, raw), talk);
        tunnelled.unwrap();
    }
}
