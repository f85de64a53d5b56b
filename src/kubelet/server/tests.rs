//! The gate's decisions, and streams through the whole server to a runtime.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use streaming::http::Upgrade;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::{
    pods::PodUid,
    runtime::{ContainerState, ObservedContainer, PodObservation, RuntimeError, Sandbox},
};

/// Knows one token, and lets its owner do everything but `configz`.
#[derive(Default)]
struct Judge {
    asked: AtomicUsize,
}

impl Reviewer for Judge {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let user = (token == "good").then(|| User { name: "jane".into(), ..User::default() });
        Box::pin(async move { Ok(user) })
    }

    fn allowed<'a>(
        &'a self,
        user: &'a User,
        verb: &'static str,
        subresource: &'static str,
        node: &'a str,
    ) -> BoxFuture<'a, Result<bool, ReviewError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert_eq!(node, "n1");
        Box::pin(async move { Ok(user.name == "jane" && verb == "get" && subresource == "proxy") })
    }
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

#[tokio::test(start_paused = true)]
async fn who_is_nobody_or_may_not_is_refused_and_answers_are_remembered() {
    let judge = Arc::new(Judge::default());
    let gate = Gate::new("n1".into(), judge.clone());
    let admit = async |headers: &HeaderMap, method: Method, path: &str| {
        gate.admit(None, &method, path, headers).await.map_err(|refusal| refusal.code.as_u16())
    };
    assert_eq!(admit(&HeaderMap::new(), Method::GET, "/pods").await, Err(401));
    assert_eq!(admit(&bearer("bad"), Method::GET, "/pods").await, Err(401));
    assert_eq!(admit(&bearer("good"), Method::GET, "/exec/a/b/c").await, Ok(()));
    let asked = judge.asked.load(Ordering::SeqCst);
    assert_eq!(admit(&bearer("good"), Method::GET, "/exec/a/b/c").await, Ok(()));
    assert_eq!(judge.asked.load(Ordering::SeqCst), asked);
    tokio::time::advance(Duration::from_secs(121)).await;
    assert_eq!(admit(&bearer("good"), Method::GET, "/exec/a/b/c").await, Ok(()));
    assert_eq!(judge.asked.load(Ordering::SeqCst), asked + 1);
    assert_eq!(admit(&bearer("good"), Method::POST, "/exec/a/b/c").await, Err(403));
    assert_eq!(admit(&bearer("good"), Method::GET, "/metrics").await, Err(403));
    let joe = Some(User { name: "joe".into(), ..User::default() });
    let refusal = gate.admit(joe, &Method::GET, "/pods", &HeaderMap::new()).await.unwrap_err();
    let words = "Forbidden (user=joe, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_eq!((refusal.code, refusal.words.as_str()), (StatusCode::FORBIDDEN, words));
}

#[test]
fn paths_need_the_rights_that_upstream_asks_for() {
    for (path, needs) in [
        ("/pods", &["pods", "proxy"][..]),
        ("/podsx", &["proxy"]),
        ("/metrics/cadvisor", &["metrics"]),
        ("/logs/x", &["log"]),
        ("/stats/summary", &["stats"]),
        ("/containerLogs/a/b/c", &["proxy"]),
    ] {
        assert_eq!(rules::subresources(path), needs, "{path}");
    }
}

/// One pod with one container, whose streams are served at `url`.
struct OnePod {
    url: String,
}

impl Host for OnePod {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pod("default", "web").into_iter().collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pod = json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u"},
            "spec": {"containers": [{"name": "a"}]}
        });
        ((namespace, name) == ("default", "web")).then(|| Arc::new(serde_json::from_value(pod).unwrap()))
    }

    fn observe<'a>(&'a self, uid: &'a PodUid) -> BoxFuture<'a, Result<PodObservation, RuntimeError>> {
        assert_eq!(uid.as_str(), "u");
        let created_at = jiff::Timestamp::UNIX_EPOCH;
        let container = ObservedContainer {
            id: "c1".into(),
            sandbox: "s1".into(),
            name: "a".into(),
            attempt: 0,
            hash: None,
            created_at,
            state: ContainerState::Running { started_at: created_at },
            image: String::new(),
            image_id: String::new(),
            log_path: "/nowhere/0.log".into(),
        };
        let sandbox = Sandbox {
            id: "s1".into(),
            attempt: 0,
            ready: true,
            created_at,
            ips: Vec::new(),
            host_network: false,
        };
        Box::pin(async move { Ok(PodObservation { sandboxes: vec![sandbox], containers: vec![container] }) })
    }

    fn stream_url<'a>(&'a self, request: &'a StreamRequest) -> BoxFuture<'a, Result<String, RuntimeError>> {
        let path = match request {
            StreamRequest::Exec { container, command, streams } => {
                assert!(streams.stdin && streams.stdout && !streams.stderr && streams.tty);
                format!("exec-{}-{}", container.as_str(), command.join("."))
            }
            StreamRequest::Attach { container, .. } => format!("attach-{}", container.as_str()),
            StreamRequest::PortForward { sandbox, .. } => format!("forward-{}", sandbox.as_str()),
        };
        Box::pin(async move { Ok(format!("{}/{path}", self.url)) })
    }
}

/// The server on one end of a connection, for a caller who may do everything with GET.
fn serve_one(url: String, scope: &Scope) -> DuplexStream {
    let gate = Arc::new(Gate::new("n1".into(), Arc::new(Judge::default())));
    let server = Server { host: Arc::new(OnePod { url }), gate, scope: scope.clone() };
    let (near, far) = duplex(1 << 16);
    scope.spawn("server", async move {
        let jane = Some(User { name: "jane".into(), ..User::default() });
        let service = service_fn(|request: Request<Incoming>| {
            let (server, jane) = (server.clone(), jane.clone());
            async move { Ok::<_, Infallible>(answer(&server, jane, request).await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        drop(connection.with_upgrades().await);
    });
    near
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    let builder = Request::get(path).header("host", "n1").header("connection", "Upgrade");
    let builder =
        builder.header("upgrade", "SPDY/3.1").header("x-stream-protocol-version", "v4.channel.k8s.io");
    builder.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn an_exec_is_passed_on_to_the_runtime_and_both_talk() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scope = Scope::root("test");
    let near = serve_one(format!("http://{}", listener.local_addr().unwrap()), &scope);
    let runtime = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\
                      X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    };
    let client = async {
        let path = "/exec/default/web/a?command=ls&command=-l&input=1&output=1&error=1&tty=1";
        let Upgrade::Switched(head, mut io) = streaming::http::upgrade(near, request(path)).await.unwrap()
        else {
            panic!("refused")
        };
        assert_eq!(head.headers["x-stream-protocol-version"], "v4.channel.k8s.io");
        io.write_all(b"hello").await.unwrap();
        let mut echo = String::new();
        io.read_to_string(&mut echo).await.unwrap();
        echo
    };
    let (head, echo) = tokio::join!(runtime, client);
    assert!(head.starts_with("get /exec-c1-ls.-l http/1.1\r\n"), "{head}");
    assert!(head.contains("upgrade: spdy/3.1\r\n") && head.contains("x-stream-protocol-version: v4.channel"));
    assert_eq!(echo, "hello");
    assert!(scope.close(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_upstreams_words() {
    let scope = Scope::root("test");
    for (path, code, words) in [
        ("/exec/default/none/a?output=1", 404, "pod does not exist"),
        ("/exec/default/web/other/a?output=1", 404, "pod not found"),
        ("/exec/default/web/b?output=1", 500, "container not found (\"b\")"),
        ("/exec/default/web/a", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/containerLogs/default/web/b", 404, "container \"b\" not found in pod \"web\""),
        ("/containerLogs/default/none/b", 404, "pod \"none\" does not exist"),
        ("/containerLogs/default/web/a?tailLines=-1", 422, "{\"message\": \"Invalid request.\"}"),
        ("/nothing", 404, "404 page not found\n"),
    ] {
        let near = serve_one("http://127.0.0.1:1".into(), &scope);
        let response = streaming::http::send(near, request(path)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!((head.status.as_u16(), body.as_ref()), (code, words.as_bytes()), "{path}");
    }
    assert!(scope.close(Duration::from_secs(5)).await);
}
