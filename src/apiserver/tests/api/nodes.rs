//! What goes through the API server to a node: its log in messages, its kubelet by proxy, a connection that switches.

use std::time::Duration;

use apiserver::{
    connect::{self, Connector},
    registry::table::{Actions, Cluster, rows},
};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use lifecycle::Scope;
use pki::{Authority, tls};
use serde_json::json;
use streaming::serve::{Limits, Peer, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::client::TlsStream;

use crate::{
    host::Host,
    sockets::{Socket, authority, serving},
};

/// Tells what it is asked, has one line of every log, and echoes to who switches to `echo`.
async fn kubelet(authority: &Authority, scope: &Scope) -> u16 {
    let (listener, tls) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), serving(authority));
    let port = listener.local_addr().unwrap().port();
    let scope_of_connections = scope.child("connections of a kubelet");
    let (connections, tasks) = (scope_of_connections.clone(), scope_of_connections);
    let on_connection = move |_: Peer| {
        let tasks = tasks.clone();
        move |request: Request<Incoming>| {
            let tasks = tasks.clone();
            async move { answer(request, &tasks) }
        }
    };
    let limits = Limits { connections: 16, drain: Duration::from_secs(1) };
    scope.spawn("kubelet", async move { serve(listener, tls, limits, &connections, on_connection).await });
    port
}

fn answer(request: Request<Incoming>, tasks: &Scope) -> Response<Full<Bytes>> {
    let secret = request.headers().contains_key(header::AUTHORIZATION);
    let said = format!("{} {} {secret}", request.method(), request.uri());
    if request.uri().path().starts_with("/containerLogs/") {
        return Response::new("line\n".into());
    }
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
        return Response::new(said.into());
    };
    tasks.spawn("echo", async move {
        let mut switched = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut word = [0; 4];
        switched.read_exact(&mut word).await.unwrap();
        switched.write_all(&word).await.unwrap();
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, protocol);
    response.body(Full::default()).unwrap()
}

async fn with_a_node() -> Socket {
    let authority = authority();
    let scope = Scope::root("connector");
    let mut actions = Actions::default();
    connect::fill(&mut actions, &Connector::new(tls::client(authority.certificate(), None).unwrap(), &scope));
    let cluster = Cluster::default();
    let host = Host::start(rows(&cluster, &actions).0).await;
    let port = kubelet(&authority, &host.scope).await;
    host.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    assert_eq!(host.call("PATCH", "/api/v1/nodes/n1/status", status).await.code, 200);
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "busybox:1"}]});
    host.create("/api/v1/namespaces/a/pods", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    Socket::of(host, authority).await
}

/// The head of the answer to an upgrade, and the connection behind it.
async fn upgraded(socket: &Socket, path: &str, headers: &str) -> (String, TlsStream<TcpStream>) {
    asked(socket, "GET", path, &format!("connection: Upgrade\r\n{headers}")).await
}

/// The head of an answer, and the connection behind it.
async fn asked(socket: &Socket, method: &str, path: &str, headers: &str) -> (String, TlsStream<TcpStream>) {
    let mut stream = socket.dial("http/1.1").await;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer me\r\n{headers}\r\n");
    let head = in_time(async {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        head
    });
    (String::from_utf8(head.await).unwrap(), stream)
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("it hangs")
}

#[tokio::test]
async fn a_log_comes_in_messages_to_who_asks_for_a_websocket() {
    let socket = with_a_node().await;
    let asks = |protocol: &str| {
        format!(
            "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}"
        )
    };
    for (protocol, frames) in [
        ("", &b"\x82\x00\x82\x05line\n\x88\x02\x03\xe8"[..]),
        ("binary.k8s.io", b"\x82\x00\x82\x05line\n\x88\x02\x03\xe8"),
        ("base64.binary.k8s.io", b"\x81\x00\x81\x08bGluZQo=\x88\x02\x03\xe8"),
    ] {
        let offer = match protocol {
            "" => String::new(),
            name => format!("sec-websocket-protocol: {name}\r\n"),
        };
        let (head, mut stream) = upgraded(&socket, "/api/v1/namespaces/a/pods/web/log", &asks(&offer)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&offer), "{head}");
        let mut seen = vec![0; frames.len()];
        in_time(stream.read_exact(&mut seen)).await.unwrap();
        assert_eq!(seen, frames, "{protocol}");
    }
    let offer = asks("sec-websocket-protocol: other\r\n");
    // No kubelet is asked for who could not understand it, not even one that nobody knows.
    let spec = json!({"nodeName": "n2", "containers": [{"name": "c", "image": "busybox:1"}]});
    let lost = json!({"metadata": {"name": "lost"}, "spec": spec});
    socket.host.create("/api/v1/namespaces/a/pods", lost).await;
    for pod in ["web", "lost"] {
        let (head, _) = upgraded(&socket, &format!("/api/v1/namespaces/a/pods/{pod}/log"), &offer).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{pod}: {head}");
    }
}

#[tokio::test]
async fn a_kubelet_is_reached_through_its_nodes_proxy() {
    let socket = with_a_node().await;
    for protocol in ["h2", "http/1.1"] {
        let (code, said) = socket.get(protocol, "/api/v1/nodes/n1/proxy/a%20b/?c=d", Some("me")).await;
        assert_eq!((code, said), (StatusCode::OK, json!("GET /a%20b/?c=d false")), "{protocol}");
        let (code, _) = socket.get(protocol, "/api/v1/nodes/n1/proxy", Some("me")).await;
        assert_eq!(code, StatusCode::MOVED_PERMANENTLY, "{protocol}");
        let (code, refused) = socket.get(protocol, "/api/v1/nodes/n1:81/proxy/", Some("me")).await;
        assert_eq!((code.as_u16(), &refused["message"]), (400, &json!("address not allowed")), "{protocol}");
        let (code, _) = socket.get(protocol, "/api/v1/nodes/n2/proxy/", Some("me")).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{protocol}");
    }
}

#[tokio::test]
async fn a_proxied_connection_that_switches_protocols_is_one_from_then_on() {
    let socket = with_a_node().await;
    let (head, mut stream) = upgraded(&socket, "/api/v1/nodes/n1/proxy/x", "upgrade: echo\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: echo\r\n"), "{head}");
    in_time(stream.write_all(b"ping")).await.unwrap();
    let mut back = [0; 4];
    in_time(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn what_a_proxied_request_accepts_is_the_other_sides_to_judge() {
    let socket = with_a_node().await;
    for (method, path, headers, code) in [
        ("GET", "/api/v1/nodes/n1/proxy/events", "accept: text/event-stream\r\n", 200),
        ("GET", "/api/v1/nodes/n1/proxy/", "accept: text/html\r\n", 200),
        ("GET", "/api/v1/nodes/n1/proxy/?includeObject=x", "", 200),
        ("OPTIONS", "/api/v1/nodes/n1/proxy/", "", 200),
        ("HEAD", "/api/v1/nodes/n1/proxy/x", "", 200),
        ("TRACE", "/api/v1/nodes/n1/proxy/x", "", 405),
        ("OPTIONS", "/api/v1/nodes/n1", "", 405),
        ("OPTIONS", "/api/v1/namespaces/a/pods/web/exec", "", 405),
        ("GET", "/api/v1/namespaces/a/pods/web/log", "accept: text/html\r\n", 406),
        ("GET", "/api/v1/nodes/n1", "accept: text/html\r\n", 406),
    ] {
        let (head, mut stream) = asked(&socket, method, path, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{method} {path}: {head}");
        if code == 200 && method != "HEAD" {
            let said = format!("{method} {} false", path.strip_prefix("/api/v1/nodes/n1/proxy").unwrap());
            let mut seen = vec![0; said.len()];
            in_time(stream.read_exact(&mut seen)).await.unwrap();
            assert_eq!(String::from_utf8(seen).unwrap(), said);
        }
    }
}

#[tokio::test]
async fn an_upgrade_without_its_connection_option_is_a_request_like_any_other() {
    let socket = with_a_node().await;
    let headers = "upgrade: x\r\ncontent-length: 5\r\n\r\nhello";
    let (head, _stream) = asked(&socket, "POST", "/api/v1/nodes/n1/proxy/x", headers).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let headers = "upgrade: websocket\r\n";
    let (head, _stream) = asked(&socket, "GET", "/api/v1/namespaces/a/pods/web/log", headers).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
