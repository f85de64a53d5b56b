//! The socket against real clients: how many, stalled, stopped.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, client::conn};
use hyper_util::rt::TokioExecutor;
use nix::sys::socket::{getsockopt, sockopt};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::{TlsConnector, client};

use super::*;

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// Answers `/endless` without an end, everything else with "hello". Keeps how `/endless` is broken off.
struct Site {
    address: SocketAddr,
    trust: Arc<rustls::ClientConfig>,
    scope: Scope,
    endless: tokio::sync::watch::Receiver<Option<CancellationToken>>,
    frames: Arc<AtomicUsize>,
}

impl Site {
    async fn open(connections: usize) -> Site {
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
        let mut tls = builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        let trust = builder.with_safe_default_protocol_versions().unwrap();
        let trust = trust.with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tell, endless) = tokio::sync::watch::channel(None);
        let frames = Arc::new(AtomicUsize::new(0));
        let (address, scope) = (listener.local_addr().unwrap(), Scope::root("test"));
        let (own, counter, tell) = (scope.child("connections"), frames.clone(), Arc::new(tell));
        scope.spawn("serve", async move {
            let limits = Limits { connections, drain: Duration::from_secs(5) };
            serve(listener, Arc::new(tls), limits, &own, move |_: Peer| {
                let (tell, counter) = (tell.clone(), counter.clone());
                move |request| answer(request, tell.clone(), counter.clone())
            })
            .await;
        });
        Site { address, trust: Arc::new(trust), scope, endless, frames }
    }

    async fn dial(&self, protocol: &str) -> std::io::Result<client::TlsStream<TcpStream>> {
        let mut config = (*self.trust).clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn http2(&self) -> conn::http2::SendRequest<AnyBody> {
        let stream = TokioIo::new(self.dial("h2").await.unwrap());
        let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        self.scope.spawn("client", async move { drop(connection.await) });
        sender
    }
}

async fn answer(
    request: Request<Incoming>,
    tell: Arc<tokio::sync::watch::Sender<Option<CancellationToken>>>,
    counter: Arc<AtomicUsize>,
) -> Response<AnyBody> {
    if request.uri().path() != "/endless" {
        return Response::new(Full::new(Bytes::from_static(b"hello")).boxed_unsync());
    }
    tell.send_replace(this_response());
    let frames = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 16 << 10])))
    });
    Response::new(
        StreamBody::new(frames.then(|frame| async move {
            tokio::task::yield_now().await;
            frame
        }))
        .boxed_unsync(),
    )
}

fn get(path: &str) -> Request<AnyBody> {
    let uri = format!("https://localhost{path}");
    Request::builder().uri(uri).body(Full::new(Bytes::new()).boxed_unsync()).unwrap()
}

#[tokio::test]
async fn the_kernel_asks_whether_a_silent_client_is_still_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = Limits { connections: 1, drain: Duration::ZERO };
    let mut door = Door { room: Arc::new(Semaphore::new(1)), limits, told: None };
    let dialed = TcpStream::connect(listener.local_addr().unwrap());
    let (accepted, _dialed) = tokio::join!(door.accept(&listener), dialed);
    let (stream, ..) = accepted.unwrap();
    assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap() && stream.nodelay().unwrap());
}

#[tokio::test]
async fn one_connection_more_than_there_may_be_waits_until_another_ends() {
    let site = Site::open(1).await;
    let first = site.dial("h2").await.unwrap();
    let second = site.dial("h2");
    let mut second = std::pin::pin!(second);
    tokio::time::timeout(Duration::from_millis(200), second.as_mut()).await.unwrap_err();
    drop(first);
    tokio::time::timeout(Duration::from_secs(10), second).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_response_that_nobody_reads_is_broken_off_and_the_connection_serves_on() {
    let mut site = Site::open(8).await;
    let mut sender = site.http2().await;
    let stalled = sender.send_request(get("/endless")).await.unwrap();
    let broken_off = site.endless.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    broken_off.cancel();
    let read = tokio::time::timeout(Duration::from_secs(10), stalled.into_body().collect()).await.unwrap();
    assert!(read.is_err(), "a stream that is broken off has no end");
    let next = sender.send_request(get("/")).await.unwrap();
    assert_eq!(next.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert!(site.frames.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn over_http_1_the_connection_of_a_broken_off_response_is_closed() {
    let mut site = Site::open(8).await;
    let stream = TokioIo::new(site.dial("http/1.1").await.unwrap());
    let (mut sender, connection) = conn::http1::handshake(stream).await.unwrap();
    site.scope.spawn("client", async move { drop(connection.await) });
    let mut request = get("/endless");
    *request.uri_mut() = "/endless".parse().unwrap();
    request.headers_mut().insert("host", http::HeaderValue::from_static("localhost"));
    let stalled = sender.send_request(request).await.unwrap();
    let broken_off = site.endless.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    broken_off.cancel();
    let read = tokio::time::timeout(Duration::from_secs(10), stalled.into_body().collect()).await.unwrap();
    assert!(read.is_err());
}

#[tokio::test]
async fn a_stopped_server_accepts_nobody_and_ends_idle_connections() {
    let site = Site::open(8).await;
    let mut sender = site.http2().await;
    drop(sender.send_request(get("/")).await.unwrap().into_body().collect().await);
    assert!(site.scope.close(Duration::from_secs(10)).await);
    assert!(site.dial("h2").await.is_err());
}
