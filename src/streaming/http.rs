//! One HTTP/1.1 request on a connection of its own: an upgrade, or an answer that streams.
//!
//! The connection lives in what is returned: dropping that closes it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode, header, response::Parts};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

/// Of a refusal, no more is read.
const MAX_REFUSAL: usize = 50_000;
/// For the answer to an upgrade: who can switch does so at once. From the end of the request on.
const SWITCH: Duration = Duration::from_secs(30);
/// For the head of any other answer, which the body may follow as slowly as it likes. Upstream's proxies wait for ever; no
/// long poll takes so long. From the end of the request on.
const ANSWER: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// What a server says to an upgrade.
#[derive(Debug)]
pub enum Upgrade {
    Switched(Parts, TokioIo<Upgraded>),
    /// Of a long body, the beginning.
    Refused(Response<Bytes>),
}

/// Sends a request that asks for another protocol.
///
/// # Errors
/// When there is no answer in time.
pub async fn upgrade<S, B>(connection: S, request: Request<B>) -> Result<Upgrade, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (request, sent) = told_when_sent(request);
    in_time(SWITCH, sent, switch(connection, request)).await
}

async fn switch<S, B>(connection: S, request: Request<B>) -> Result<Upgrade, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
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
        let (mut parts, body) = response.into_parts();
        // What is read of it has a length of its own.
        parts.headers.remove(header::CONTENT_LENGTH);
        Ok(Upgrade::Refused(Response::from_parts(parts, beginning(body).await?)))
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
/// When there is no answer in time.
pub async fn send<S, B>(connection: S, request: Request<B>) -> Result<Response<Streaming>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (request, sent) = told_when_sent(request);
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
    let mut driver: Driver = Box::pin(driver);
    let answer = async {
        let mut exchange = std::pin::pin!(sender.send_request(request));
        Ok(tokio::select! {
            answer = &mut exchange => answer?,
            _ = &mut driver => exchange.await?,
        })
    };
    let response = in_time(ANSWER, sent, answer).await?;
    Ok(response.map(|body| Streaming { body, driver: Some(driver) }))
}

/// The first [`MAX_REFUSAL`] bytes of a body.
async fn beginning(mut body: Incoming) -> Result<Bytes, HttpError> {
    let mut read = BytesMut::new();
    while read.len() < MAX_REFUSAL
        && let Some(frame) = body.frame().await
    {
        let Ok(data) = frame?.into_data() else { continue };
        let room = MAX_REFUSAL - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
    }
    Ok(read.freeze())
}

/// Waits for an answer: for as long as the request goes out, and then for `most`.
async fn in_time<T>(
    most: Duration,
    sent: oneshot::Receiver<()>,
    answer: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    let late = async {
        drop(sent.await);
        tokio::time::sleep(most).await;
    };
    tokio::select! {
        answer = answer => answer,
        () = late => Err(HttpError::Late(most)),
    }
}

/// A request, and what ends when its body has been sent.
fn told_when_sent<B>(request: Request<B>) -> (Request<Sent<B>>, oneshot::Receiver<()>) {
    let (tell, told) = oneshot::channel();
    (request.map(|body| Sent { body, _tell: tell }), told)
}

/// A body that is dropped, and so tells, once it is sent.
struct Sent<B> {
    body: B,
    _tell: oneshot::Sender<()>,
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
        let kind = match error {
            HttpError::Late(_) => io::ErrorKind::TimedOut,
            HttpError::Http(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::{Empty, StreamBody};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{Instant, sleep, timeout},
    };

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
    async fn of_a_long_refusal_the_beginning_is_read() {
        let (near, far) = duplex(4096);
        let mut answer =
            b"HTTP/1.1 401 No\r\nContent-Length: 1000000\r\nWWW-Authenticate: x\r\n\r\n".to_vec();
        answer.resize(answer.len() + MAX_REFUSAL + 9, b'x');
        let refused = async { timeout(Duration::from_secs(10), upgrade(near, request())).await.unwrap() };
        let far = async {
            let mut far = serve(far, b"").await;
            // Nobody reads it to its end.
            drop(far.write_all(&answer).await);
        };
        let (refused, ()) = tokio::join!(refused, far);
        let Upgrade::Refused(response) = refused.unwrap() else { panic!("switched") };
        assert_eq!((response.status().as_u16(), response.body().len()), (401, MAX_REFUSAL));
        assert_eq!(response.headers()["www-authenticate"], "x");
        assert!(!response.headers().contains_key("content-length"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_not_waited_for() {
        let waited = |late: Result<(), HttpError>, began: Instant, most| {
            assert!(matches!(late, Err(HttpError::Late(waited)) if waited == most), "{late:?}");
            assert_eq!(io::Error::from(late.unwrap_err()).kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() >= most && began.elapsed() < 2 * most, "{:?}", began.elapsed());
        };
        let ((near, _far), began) = (duplex(4096), Instant::now());
        let late = timeout(2 * SWITCH, upgrade(near, request())).await.unwrap();
        waited(late.map(drop), began, SWITCH);
        let ((near, _far), began) = (duplex(4096), Instant::now());
        let late = timeout(2 * ANSWER, send(near, request())).await.unwrap();
        waited(late.map(drop), began, ANSWER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_take_longer_than_its_answer() {
        let pieces = stream::iter(0..3).then(|_| async {
            sleep(ANSWER).await;
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"x")))
        });
        let request = Request::post("/x").header("host", "h").header("content-length", "3");
        let request = request.body(StreamBody::new(Box::pin(pieces))).unwrap();
        let (near, far) = duplex(4096);
        let far = async {
            let mut far = serve(far, b"").await;
            far.read_exact(&mut [0; 3]).await.unwrap();
            sleep(ANSWER / 2).await;
            far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            far
        };
        let (answer, _far) = tokio::join!(send(near, request), far);
        assert_eq!(answer.unwrap().status(), StatusCode::NO_CONTENT);
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
