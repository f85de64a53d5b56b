//! A whole API server on a port of its own, and callers with certificates and tokens.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use apiserver::{
    Cache, Components, Config, Server,
    admission::Plugin,
    authn::{Authentication, TokenIssuer, openid::Documents},
    authz::{Authorization, escalation::Escalation, policy},
    body,
    registry::{
        Registry,
        strategy::service::Family,
        table::{self, Actions},
    },
    reviews,
};
use http::{Request, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use lifecycle::Scope;
use pki::{Directory, Issued, Names, Profile, tls};
use serde_json::Value;
use store::{EmbeddedStore, Store, embedded::Options};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

pub(crate) enum Caller {
    Admin,
    /// n1.
    Node,
    Token(String),
    Nobody,
}

pub(crate) struct Cluster {
    server: Server,
    address: SocketAddr,
    directory: Directory,
    admin: Issued,
    node: Issued,
    scope: Scope,
    _state: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        let (scope, state, now) = (Scope::root("test"), tempfile::tempdir().unwrap(), Timestamp::now());
        let path = state.path().join("pki");
        let directory = Directory::open(&path, now).unwrap();
        let names = Names::api_server("cluster.local", &["127.0.0.1"]);
        let serving = directory.ensure(&Profile::ApiServer { names }, now).unwrap();
        let admin = directory.ensure(&Profile::Admin, now).unwrap();
        let node = directory.ensure(&Profile::KubeletClient { node: "n1".into() }, now).unwrap();

        let server = server(Directory::open(&path, now).unwrap(), &state, &scope).await;
        policy::ensure(server.objects().as_ref()).await.unwrap();

        let shown = tls::Serving::new(&serving).unwrap();
        let config = tls::server(shown, directory.authority().certificate()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serve, own) = (server.clone(), scope.child("serve"));
        scope.spawn("serve", async move { serve.serve(listener, Arc::new(config), own).await });
        Cluster { server, address, directory, admin, node, scope, _state: state }
    }

    pub(crate) async fn ensure_policy(&self) {
        policy::ensure(self.server.objects().as_ref()).await.unwrap();
    }

    pub(crate) async fn get(&self, caller: &Caller, path: &str) -> (u16, Value) {
        self.call(caller, "GET", path, Value::Null).await
    }

    /// Creates as the administrator and must succeed.
    pub(crate) async fn create(&self, path: &str, object: Value) {
        let (code, answer) = self.call(&Caller::Admin, "POST", path, object).await;
        assert_eq!(code, 201, "{answer}");
    }

    /// One request over a connection of its own.
    pub(crate) async fn call(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        object: Value,
    ) -> (u16, Value) {
        let identity = match caller {
            Caller::Admin => Some(&self.admin),
            Caller::Node => Some(&self.node),
            Caller::Token(_) | Caller::Nobody => None,
        };
        let config = tls::client(self.directory.authority().certificate(), identity).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = self.address.ip().into();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.scope.spawn("connection", async move { drop(connection.await) });

        let text = if object.is_null() { String::new() } else { object.to_string() };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "test");
        if !object.is_null() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Caller::Token(token) = caller {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = sender.send_request(request.body(body::full(text)).unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap().unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

/// The server with the real rows, authentication and authorization, and no admission but the escalation check.
async fn server(directory: Directory, state: &TempDir, scope: &Scope) -> Server {
    let (_, keys) = directory.into_parts();
    let tokens = Arc::new(TokenIssuer::new(keys, "https://kubernetes.default.svc.cluster.local"));
    let authentication = Authentication::new(Arc::clone(&tokens));
    let authorization = Authorization::new();
    let mut actions = Actions::default();
    reviews::fill(&mut actions, &authentication, &authorization);
    let (stored, virtuals) = table::rows(
        &table::Cluster { service_families: vec![Family::V4], ..table::Cluster::default() },
        &actions,
    );

    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&Options::new(state.path()), scope).unwrap());
    let registry = Arc::new(Registry::new(stored, virtuals));
    let cache = Cache::start(store, registry.clone(), scope).await.unwrap();
    authentication.attach(cache.clone());
    authorization.attach(cache.clone());
    let admission: Vec<Arc<dyn Plugin>> = vec![Arc::new(Escalation::new(authorization.clone()))];
    let components = Components {
        cache,
        registry,
        authenticator: authentication,
        authorizer: authorization,
        admission,
        pages: vec![Arc::new(Documents { tokens, address: "127.0.0.1:6443".into() })],
    };
    Server::new(Config::default(), components, scope)
}
