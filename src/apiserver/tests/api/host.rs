//! A whole API server in this process, over an embedded store in a directory of its own.

use std::{sync::Arc, time::Duration};

use apiserver::{
    Cache, Components, Config, InMemory, Server,
    admission::Plugin,
    authn::{Authenticator, PeerCertificates},
    authz::{Attributes, Authorizer, Decision},
    body::{self, Body},
    registry::{Registry, Resource},
    status::ApiError,
    transaction::PoolsConfig,
    user::UserInfo,
};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode, request::Parts};
use http_body_util::BodyExt;
use lifecycle::Scope;
use serde_json::Value;
use store::{EmbeddedStore, Store, embedded::Options};
use tempfile::TempDir;
use tower::ServiceExt;

/// Everybody may do everything, but for "nobody".
pub(crate) struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize(&self, user: &UserInfo, _attributes: &Attributes) -> Decision {
        if user.name == "nobody" {
            return Decision::NoOpinion(String::new());
        }
        Decision::Allow(String::new())
    }
}

/// A bearer token is the user's name.
pub(crate) struct NameTokens;

impl Authenticator for NameTokens {
    fn authenticate<'a>(
        &'a self,
        parts: &'a Parts,
        _peer: Option<&'a PeerCertificates>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, ApiError>> {
        let header = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
        let user =
            header.and_then(|header| header.strip_prefix("Bearer ")).map(|name| UserInfo::new(name, &[]));
        Box::pin(async move { Ok(user) })
    }
}

pub(crate) struct Host {
    pub(crate) server: Server,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) scope: Scope,
    service: InMemory,
    _dir: TempDir,
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Host {
    pub(crate) async fn start(rows: Vec<Resource>) -> Self {
        Self::with(rows, Vec::new()).await
    }

    pub(crate) async fn with(rows: Vec<Resource>, admission: Vec<Arc<dyn Plugin>>) -> Self {
        let scope = Scope::root("test");
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&Options::new(dir.path()), &scope).unwrap());
        let registry = Arc::new(Registry::new(rows, Vec::new()));
        let cache = Cache::start(store.clone(), registry.clone(), &scope).await.unwrap();
        let pools =
            PoolsConfig { service_cidrs: vec!["10.96.0.0/28".parse().unwrap()], node_ports: 30000..=30003 };
        let config = Config { pools, ..Config::default() };
        let components = Components {
            cache,
            registry,
            authenticator: Arc::new(NameTokens),
            authorizer: Arc::new(AllowAll),
            admission,
            pages: Vec::new(),
        };
        let server = Server::new(config, components, &scope);
        let service = server.connect(UserInfo::new("tester", &[]));
        Self { server, store, scope, service, _dir: dir }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        self.service.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let content_type = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        self.call_as(method, path, content_type, body.to_string()).await
    }

    pub(crate) async fn call_as(&self, method: &str, path: &str, content_type: &str, body: String) -> Answer {
        let body = if body == "null" { String::new() } else { body };
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        self.answer(request.body(body::full(body)).unwrap()).await
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.send(request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = Request::builder().uri(path).header("accept", accept);
        self.answer(request.body(body::empty()).unwrap()).await
    }

    /// Creates and must succeed.
    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        let answer = self.call("POST", path, object).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        answer.body
    }

    pub(crate) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = Request::builder().uri(path).header("accept", accept).body(body::empty()).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), rest: Vec::new() }
    }
}

/// The events of an open watch.
pub(crate) struct Events {
    body: Body,
    rest: Vec<u8>,
}

impl Events {
    /// The next event, or `None` at the end of the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await;
            let frame = frame.expect("an event in time")?;
            self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// `TYPE name`
    pub(crate) async fn short(&mut self) -> String {
        match self.next().await {
            None => "END".into(),
            Some(event) => {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_string();
                format!("{} {name}", event["type"].as_str().unwrap_or_default()).trim().to_string()
            }
        }
    }
}
