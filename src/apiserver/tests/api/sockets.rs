//! Over TLS: HTTP/1.1 and HTTP/2, credentials, panics, the graceful end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use apiserver::{
    admission::{Attributes, Operation, Plugin, Reader},
    body,
    status::{ApiError, GroupResource},
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use pki::{Authority, Key, Names, Profile, tls};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{host::Host, rows};

/// Panics at the object named "boom".
struct Boom;

impl Plugin for Boom {
    fn name(&self) -> &'static str {
        "Boom"
    }

    fn handles(&self, operation: Operation, _resource: &GroupResource, _subresource: &str) -> bool {
        operation == Operation::Create
    }

    fn validate(&self, attributes: &Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        assert_ne!(attributes.name, "boom");
        Ok(())
    }
}

pub(crate) struct Socket {
    pub(crate) host: Host,
    address: SocketAddr,
    authority: Authority,
}

pub(crate) fn authority() -> Authority {
    Authority::self_signed("test", Key::generate().unwrap(), Timestamp::now()).unwrap()
}

/// How whoever listens at 127.0.0.1 shows that he is of this authority.
pub(crate) fn serving(authority: &Authority) -> Arc<rustls::ServerConfig> {
    let names = Names::from_texts(&["127.0.0.1"]);
    let issued = authority.issue(&Profile::ApiServer { names }, Timestamp::now()).unwrap();
    Arc::new(tls::server(tls::Serving::new(&issued).unwrap(), authority.certificate()).unwrap())
}

async fn listening() -> Socket {
    Socket::of(Host::with(rows::all(), vec![Arc::new(Boom)]).await, authority()).await
}

impl Socket {
    pub(crate) async fn of(host: Host, authority: Authority) -> Socket {
        let tls = serving(&authority);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, scope) = (host.server.clone(), host.scope.clone());
        host.scope.spawn("serve", async move { server.serve(listener, tls, scope).await });
        Socket { host, address, authority }
    }

    pub(crate) async fn dial(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut config = tls::client(self.authority.certificate(), None).unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn request(&self, protocol: &str, request: Request<body::Body>) -> (StatusCode, Value) {
        let stream = TokioIo::new(self.dial(protocol).await);
        let response = if protocol == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            self.host.scope.spawn("client", async move { drop(connection.await) });
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            self.host.scope.spawn("client", async move { drop(connection.await) });
            sender.send_request(request).await.unwrap()
        };
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
        (parts.status, value)
    }

    pub(crate) async fn get(&self, protocol: &str, path: &str, user: Option<&str>) -> (StatusCode, Value) {
        let uri = if protocol == "h2" { format!("https://127.0.0.1{path}") } else { path.to_string() };
        let mut request = Request::builder().uri(uri).header("host", "127.0.0.1");
        if let Some(user) = user {
            request = request.header("authorization", format!("Bearer {user}"));
        }
        self.request(protocol, request.body(body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn both_versions_of_http_answer() {
    let socket = listening().await;
    for protocol in ["h2", "http/1.1"] {
        let (code, list) = socket.get(protocol, "/api/v1/configmaps", Some("me")).await;
        assert_eq!((code.as_u16(), &list["kind"]), (200, &json!("ConfigMapList")), "{protocol}");
    }
}

#[tokio::test]
async fn without_credentials_only_health_and_version_answer() {
    let socket = listening().await;
    for (path, code) in
        [("/healthz", 200), ("/readyz", 200), ("/version", 200), ("/metrics", 401), ("/api/v1/pods", 401)]
    {
        assert_eq!(socket.get("h2", path, None).await.0.as_u16(), code, "{path}");
    }
    let (code, refused) = socket.get("h2", "/api/v1/pods", None).await;
    assert_eq!((code.as_u16(), &refused["reason"]), (401, &json!("Unauthorized")));
}

#[tokio::test]
async fn what_is_not_allowed_is_told_in_upstreams_words() {
    let socket = listening().await;
    let message = |answer: (StatusCode, Value)| {
        assert_eq!(answer.0, 403);
        answer.1["message"].as_str().unwrap().to_string()
    };
    assert_eq!(
        message(socket.get("h2", "/api/v1/namespaces/y/pods", Some("nobody")).await),
        "pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\""
    );
    assert_eq!(
        message(socket.get("h2", "/apis/apps/v1/namespaces/y/deployments/d/scale", Some("nobody")).await),
        "deployments.apps \"d\" is forbidden: User \"nobody\" cannot get resource \"deployments/scale\" in API group \"apps\" in the namespace \"y\""
    );
    assert_eq!(
        message(socket.get("h2", "/metrics", Some("nobody")).await),
        "forbidden: User \"nobody\" cannot get path \"/metrics\""
    );
}

#[tokio::test]
async fn a_panic_is_that_requests_error_alone() {
    let socket = listening().await;
    let path = "/api/v1/namespaces/a/configmaps";
    let object = json!({"metadata": {"name": "boom"}}).to_string();
    let request = Request::post(path).header("host", "x").header("authorization", "Bearer me");
    let (code, error) = socket.request("http/1.1", request.body(body::full(object)).unwrap()).await;
    assert_eq!((code.as_u16(), &error["reason"]), (500, &json!("InternalError")));
    assert_eq!(socket.get("http/1.1", path, Some("me")).await.0.as_u16(), 200);
}

#[tokio::test]
async fn who_sends_too_much_is_told_so_over_both_versions_of_http() {
    let socket = listening().await;
    let huge = format!("{{\"metadata\":{{\"name\":\"{}\"}}}}", "x".repeat(12 << 20));
    for (protocol, base) in [("h2", "https://127.0.0.1"), ("http/1.1", "")] {
        let request = Request::post(format!("{base}/api/v1/namespaces/a/configmaps"))
            .header("host", "127.0.0.1")
            .header("authorization", "Bearer me");
        let (code, error) = socket.request(protocol, request.body(body::full(huge.clone())).unwrap()).await;
        assert_eq!(
            (code.as_u16(), &error["reason"]),
            (413, &json!("RequestEntityTooLarge")),
            "{protocol}: {error}"
        );
    }
}

#[tokio::test]
async fn a_watch_that_nobody_reads_is_broken_off_and_the_connection_answers_on() {
    let socket = listening().await;
    let stream = TokioIo::new(socket.dial("h2").await);
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(64 << 10);
    let (mut sender, connection) = client.handshake(stream).await.unwrap();
    socket.host.scope.spawn("client", async move { drop(connection.await) });
    let mut get = async |path: &str| {
        let request = Request::builder().uri(format!("https://127.0.0.1{path}"));
        let request = request.header("authorization", "Bearer me").body(body::empty()).unwrap();
        sender.send_request(request).await.unwrap()
    };
    let watch = get("/api/v1/namespaces/a/configmaps?watch=1").await;
    let map =
        |n: usize| json!({"metadata": {"name": "m"}, "data": {"n": n.to_string(), "x": "x".repeat(1000)}});
    socket.host.create("/api/v1/namespaces/a/configmaps", map(0)).await;
    for n in 1..2000 {
        let answer = socket.host.call("PATCH", "/api/v1/namespaces/a/configmaps/m", map(n)).await;
        assert_eq!(answer.code, 200, "{}", answer.text);
    }
    let rest = tokio::time::timeout(Duration::from_secs(10), watch.into_body().collect()).await.unwrap();
    assert!(rest.is_err(), "it was reset, not ended");
    assert_eq!(get("/api/v1/namespaces/a/configmaps").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn stopping_lets_connections_end() {
    let socket = listening().await;
    let _idle = socket.dial("h2").await;
    assert!(socket.host.scope.close(Duration::from_secs(30)).await);
    assert!(TcpStream::connect(socket.address).await.is_err());
}
