//! One HTTP/1.1 request on a connection of its own: an upgrade, or an answer that streams.
//!
//! The connection lives in what is returned: dropping that closes it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response::Parts};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Of a refusal, no more is read.
const MAX_REFUSAL: usize = 50_000;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("read the answer")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a server says to an upgrade.
#[derive(Debug)]
pub enum Upgrade {
    Switched(Parts, TokioIo<Upgraded>),
    Refused(Response<Bytes>),
}

/// Sends a request that asks for another protocol.
///
/// # Errors
/// When there is no whole answer.
pub async fn upgrade<S>(connection: S, request: Request<Empty<Bytes>>) -> Result<Upgrade, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
    let mut driver = std::pin::pin!(driver.with_upgrades());
    let exchange = async move {
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = response.into_parts();
            let upgraded = hyper::upgrade::on(Response::from_parts(parts.clone(), body)).await?;
            return Ok(Upgrade::Switched(parts, TokioIo::new(upgraded)));
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_REFUSAL).collect().await.map_err(HttpError::Answer)?;
        Ok(Upgrade::Refused(Response::from_parts(parts, body.to_bytes())))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => return answer,
        // How it ended is told by the exchange.
        _ = &mut driver => {}
    }
    exchange.await
}

/// Sends a request; the answer's body streams.
///
/// # Errors
/// When there is no answer.
pub async fn send<S, B>(connection: S, request: Request<B>) -> Result<Response<Streaming>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
    let mut driver: Driver = Box::pin(driver);
    let mut exchange = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        answer = &mut exchange => answer?,
        _ = &mut driver => exchange.await?,
    };
    Ok(response.map(|body| Streaming { body, driver: Some(driver) }))
}

type Driver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// A body that comes over a connection of its own.
pub struct Streaming {
    body: Incoming,
    driver: Option<Driver>,
}

impl std::fmt::Debug for Streaming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Streaming")
    }
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(context).is_ready()
        {
            // How it ended is told by the body.
            self.driver = None;
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl From<HttpError> for io::Error {
    fn from(error: HttpError) -> io::Error {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn serve(mut far: DuplexStream, answer: &[u8]) -> DuplexStream {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(far.read_u8().await.unwrap());
        }
        far.write_all(answer).await.unwrap();
        far
    }

    fn request() -> Request<Empty<Bytes>> {
        let builder = Request::get("/x").header("host", "h").header("connection", "Upgrade");
        builder.header("upgrade", "SPDY/3.1").body(Empty::new()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_switches_is_handed_over_with_what_came_after() {
        let (near, far) = duplex(4096);
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\nearly";
        let (upgraded, mut far) = tokio::join!(upgrade(near, request()), serve(far, answer));
        let Upgrade::Switched(parts, mut io) = upgraded.unwrap() else { panic!("refused") };
        assert_eq!(parts.headers["upgrade"], "SPDY/3.1");
        io.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        far.read_exact(&mut back).await.unwrap();
        drop(far);
        let mut early = String::new();
        io.read_to_string(&mut early).await.unwrap();
        assert_eq!((early.as_str(), &back), ("early", b"back"));
    }

    #[tokio::test]
    async fn a_refusal_is_read_whole() {
        let (near, far) = duplex(4096);
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno such";
        let (upgraded, _far) = tokio::join!(upgrade(near, request()), serve(far, answer));
        let Upgrade::Refused(response) = upgraded.unwrap() else { panic!("switched") };
        assert_eq!((response.status().as_u16(), response.body().as_ref()), (404, &b"no such"[..]));
    }

    #[tokio::test]
    async fn a_body_streams_while_nothing_else_drives_its_connection() {
        let (near, far) = duplex(4096);
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
        let (response, mut far) = tokio::join!(send(near, request()), serve(far, answer));
        let mut body = response.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let more = async {
            far.write_all(b"2\r\ncd\r\n0\r\n\r\n").await.unwrap();
        };
        let (rest, ()) = tokio::join!(body.collect(), more);
        assert_eq!((first.as_ref(), rest.unwrap().to_bytes().as_ref()), (&b"ab"[..], &b"cd"[..]));
    }
}
