//! The reflector against an API server that is played by the test, on paused time.

use std::{
    future::Ready,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::{BoxError, Service};

use super::*;
use crate::{ObjectKey, from_service};

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Hands each request to the test, which answers it.
#[derive(Clone)]
struct Played(mpsc::Sender<(String, oneshot::Sender<Answer>)>);

impl Service<Request<Body>> for Played {
    type Response = Answer;
    type Error = BoxError;
    type Future = futures_util::future::Either<
        futures_util::future::MapErr<oneshot::Receiver<Answer>, fn(oneshot::error::RecvError) -> BoxError>,
        Ready<Result<Answer, BoxError>>,
    >;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        use futures_util::{TryFutureExt, future::Either};
        let (tx, rx) = oneshot::channel();
        match self.0.try_send((request.uri().to_string(), tx)) {
            Ok(()) => Either::Left(rx.map_err(BoxError::from as fn(_) -> _)),
            Err(_) => Either::Right(std::future::ready(Err("the test is over".into()))),
        }
    }
}

struct Server {
    requests: mpsc::Receiver<(String, oneshot::Sender<Answer>)>,
    store: Store<ConfigMap>,
    scope: Scope,
}

/// The test's end of one watch.
struct Watch(mpsc::Sender<Result<Frame<Bytes>, BoxError>>);

impl Watch {
    fn send(&self, event: &Value) {
        self.0.try_send(Ok(Frame::data(Bytes::from(format!("{event}\n"))))).unwrap();
    }
}

impl Server {
    fn start() -> Self {
        let (tx, requests) = mpsc::channel(64);
        let scope = Scope::root("test");
        let cache = Cache::new(from_service(Played(tx)), &scope);
        Self { requests, store: cache.store(), scope }
    }

    async fn request(&mut self) -> (String, oneshot::Sender<Answer>) {
        tokio::time::timeout(Duration::from_secs(600), self.requests.recv()).await.unwrap().unwrap()
    }

    async fn on_list(&mut self, code: u16, body: Value) -> String {
        let (uri, answer) = self.request().await;
        assert!(!uri.contains("watch="), "expected a list, got {uri}");
        answer.send(respond(code, &body)).unwrap();
        uri
    }

    async fn on_watch(&mut self) -> (String, Watch) {
        let (uri, answer) = self.request().await;
        assert!(uri.contains("watch=true"), "expected a watch, got {uri}");
        let (tx, mut rx) = mpsc::channel(64);
        let stream = futures_util::stream::poll_fn(move |cx| rx.poll_recv(cx));
        let body = StreamBody::new(stream).boxed_unsync();
        answer.send(Response::new(body)).unwrap();
        (uri, Watch(tx))
    }

    async fn refuse_watch(&mut self, code: u16) -> String {
        let (uri, answer) = self.request().await;
        assert!(uri.contains("watch=true"), "expected a watch, got {uri}");
        answer.send(respond(code, &status(code))).unwrap();
        uri
    }

    async fn names(&self, changes: &mut Changes) -> Vec<String> {
        let mut names: Vec<String> = tokio::time::timeout(Duration::from_secs(600), changes.next())
            .await
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        names.sort();
        names
    }
}

fn respond(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": "x"})
}

fn map(name: &str, version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string(),
        "managedFields": [{"manager": "m"}]}})
}

fn list(version: u32, items: &[Value]) -> Value {
    json!({"kind": "ConfigMapList", "apiVersion": "v1",
        "metadata": {"resourceVersion": version.to_string()}, "items": items})
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced("ns", name)
}

#[tokio::test(start_paused = true)]
async fn a_store_is_unknown_until_its_first_list_and_then_follows_the_watch() {
    let mut server = Server::start();
    let mut changes = server.store.changes();
    assert!(!server.store.synced() && server.store.is_empty());
    server.on_list(200, list(10, &[map("a", 3)])).await;
    assert_eq!(server.names(&mut changes).await, ["ns/a"]);
    server.store.wait_synced().await;
    assert!(server.store.get(&key("a")).unwrap().metadata.managed_fields.is_none());

    let (uri, watch) = server.on_watch().await;
    assert!(uri.contains("resourceVersion=10") && uri.contains("allowWatchBookmarks=true"), "{uri}");
    watch.send(&json!({"type": "ADDED", "object": map("b", 11)}));
    assert_eq!(server.names(&mut changes).await, ["ns/b"]);
    watch.send(&json!({"type": "DELETED", "object": map("a", 12)}));
    assert_eq!(server.names(&mut changes).await, ["ns/a"]);
    assert_eq!(server.store.keys(), [key("b")]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_watch_resumes_from_the_last_version_seen_also_by_bookmark() {
    let mut server = Server::start();
    server.on_list(200, list(10, &[])).await;
    let (_, watch) = server.on_watch().await;
    watch.send(&json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"resourceVersion": "40"}}}));
    drop(watch);
    let (uri, _watch) = server.on_watch().await;
    assert!(uri.contains("resourceVersion=40"), "{uri}");
    assert!(server.store.has_seen("40") && !server.store.has_seen("41"));
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_the_store_is_never_empty_in_between() {
    let mut server = Server::start();
    server.on_list(200, list(10, &[map("a", 3), map("b", 4)])).await;
    server.store.wait_synced().await;
    let mut changes = server.store.changes();
    assert_eq!(server.names(&mut changes).await, ["ns/a", "ns/b"]);
    server.refuse_watch(410).await;
    server.on_list(500, status(500)).await;
    assert_eq!(server.store.len(), 2);
    server.on_list(200, list(90, &[map("a", 3), map("c", 80)])).await;
    // `a` is the same: nobody is told. `b` is gone, `c` is new.
    assert_eq!(server.names(&mut changes).await, ["ns/b", "ns/c"]);
    assert_eq!(server.store.keys(), [key("a"), key("c")]);
    let (uri, _watch) = server.on_watch().await;
    assert!(uri.contains("resourceVersion=90"), "{uri}");
}

#[tokio::test(start_paused = true)]
async fn an_error_event_lists_again() {
    let mut server = Server::start();
    server.on_list(200, list(10, &[])).await;
    let (_, watch) = server.on_watch().await;
    watch.send(&json!({"type": "ERROR", "object": status(410)}));
    server.on_list(200, list(90, &[])).await;
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_server_is_asked_again_without_a_list() {
    let mut server = Server::start();
    server.on_list(200, list(10, &[])).await;
    server.refuse_watch(429).await;
    server.refuse_watch(503).await;
    let (uri, _watch) = server.on_watch().await;
    assert!(uri.contains("resourceVersion=10"), "{uri}");
}

#[tokio::test(start_paused = true)]
async fn long_lists_come_in_pages_and_appear_at_once() {
    let mut server = Server::start();
    let mut first = list(10, &[map("a", 3)]);
    first["metadata"]["continue"] = json!("more");
    server.on_list(200, first).await;
    let (uri, answer) = server.request().await;
    assert!(uri.contains("continue=more"), "{uri}");
    assert!(!server.store.synced() && server.store.is_empty());
    answer.send(respond(200, &list(10, &[map("b", 4)]))).unwrap();
    server.store.wait_synced().await;
    assert_eq!(server.store.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_hides_no_other_and_does_not_look_deleted() {
    let mut server = Server::start();
    server.on_list(200, list(10, &[map("a", 3), map("b", 4)])).await;
    server.store.wait_synced().await;
    server.refuse_watch(410).await;
    let mut broken = map("a", 20);
    broken["data"] = json!(7);
    server.on_list(200, list(30, &[broken.clone(), map("b", 21)])).await;
    let (_, watch) = server.on_watch().await;
    assert_eq!(server.store.len(), 2);
    watch.send(&json!({"type": "MODIFIED", "object": broken}));
    watch.send(&json!({"type": "ADDED", "object": map("c", 31)}));
    let mut changes = server.store.changes();
    while server.store.get(&key("c")).is_none() {
        server.names(&mut changes).await;
    }
    assert_eq!(server.store.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_before_the_index_is_right_and_losers_are_told_too() {
    let mut server = Server::start();
    let label = |_: &ObjectKey, object: &ConfigMap| {
        object.metadata.labels.iter().flatten().map(|(_, value)| value.clone()).collect::<Vec<String>>()
    };
    let index = server.store.index(label);
    let mut owners = server.store.changes_by(label);
    let labelled = |version, value: &str| {
        let mut object = map("a", version);
        object["metadata"]["labels"] = json!({"owner": value});
        object
    };
    server.on_list(200, list(10, &[labelled(3, "red")])).await;
    assert!(owners.next().await.contains("red"));
    assert_eq!(index.get("red").len(), 1);
    let (_, watch) = server.on_watch().await;
    watch.send(&json!({"type": "MODIFIED", "object": labelled(11, "blue")}));
    let told = owners.next().await;
    assert!(told.contains("red") && told.contains("blue"));
    assert_eq!((index.get("red").len(), index.get("blue").len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_listed_alone() {
    let store = Store::new();
    for (namespace, name) in [("a", "x"), ("b", "x"), ("b", "y"), ("c", "x")] {
        let key = ObjectKey::namespaced(namespace, name);
        store.apply(store::Arrived { key, version: store::Version::default(), object: name });
    }
    assert_eq!(store.list_in("b").iter().map(|name| **name).collect::<Vec<_>>(), ["x", "y"]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_scope_ends_the_reflectors() {
    let mut server = Server::start();
    server.on_list(200, list(10, &[])).await;
    assert!(server.scope.close(Duration::from_secs(5)).await);
    assert!(server.requests.recv().map(|last| last.is_none_or(|(uri, _)| uri.contains("watch"))).await);
}

#[tokio::test(start_paused = true)]
async fn a_silent_request_ends_with_an_error_and_a_watch_does_not() {
    let (tx, mut requests) = mpsc::channel(64);
    let client = from_service(Played(tx));
    let api: kube::Api<ConfigMap> = kube::Api::namespaced(client.clone(), "ns");
    let error = api.get("a").await.unwrap_err().to_string();
    assert!(error.contains("did not answer within 60 s"), "{error}");
    drop(requests.recv().await);

    let params = kube::api::WatchParams::default();
    let watching = api.watch(&params, "0");
    let answering = async {
        let (_, answer) = requests.recv().await.unwrap();
        let never = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        answer.send(Response::new(StreamBody::new(never).boxed_unsync())).unwrap();
    };
    let (stream, ()) = tokio::join!(watching, answering);
    let mut stream = stream.unwrap().boxed();
    assert!(tokio::time::timeout(Duration::from_secs(250), stream.next()).await.is_err());
}
