//! The API server, put together: its parts are given to it, it hands out connections.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response, request::Parts};
use http_body_util::BodyExt;
use jiff::Timestamp;
use lifecycle::Scope;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Plugin,
    authn::Authenticator,
    authz::Authorizer,
    body::{Body, BoxError},
    cache::Cache,
    chain::{self, Caller},
    handlers::{Api, ApiObjects},
    health,
    limits::Limits,
    metrics::Metrics,
    registry::{Objects, Registry},
    request::RequestInfo,
    status::ApiError,
    transaction::{Pools, PoolsConfig, Writer},
    user::UserInfo,
};

#[derive(Clone, Debug)]
pub struct Config {
    /// Service addresses and node ports.
    pub pools: PoolsConfig,
    /// How long a request may take that is no watch and no connection.
    pub request_timeout: Duration,
    pub version: Version,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pools: PoolsConfig::default(),
            request_timeout: Duration::from_secs(60),
            version: Version::default(),
        }
    }
}

/// What `/version` tells. Clients read the Kubernetes version whose API this is.
#[derive(Clone, Debug)]
pub struct Version {
    pub major: String,
    pub minor: String,
    pub git_version: String,
}

impl Default for Version {
    fn default() -> Self {
        Self { major: "1".into(), minor: "36".into(), git_version: "v1.36.3+coracle".into() }
    }
}

/// Answers for paths that name no resource: discovery, OpenAPI.
pub trait Pages: Send + Sync {
    /// `None` if the path is somebody else's.
    fn page(&self, info: &RequestInfo, headers: &HeaderMap) -> Option<Result<Response<Body>, ApiError>>;
}

/// What the server is made of.
pub struct Components {
    /// Already following the store.
    pub cache: Arc<Cache>,
    pub registry: Arc<Registry>,
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    /// In the order in which they are asked.
    pub admission: Vec<Arc<dyn Plugin>>,
    pub pages: Vec<Arc<dyn Pages>>,
}

/// A running API. Clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) api: Arc<Api>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pages: Vec<Arc<dyn Pages>>,
    /// Cancelled when the server stops: watches end.
    pub(crate) stop: CancellationToken,
}

impl Server {
    /// `scope` ends the server's watches when it is cancelled.
    pub fn new(config: Config, components: Components, scope: &Scope) -> Self {
        let Components { cache, registry, authenticator, authorizer, admission, pages } = components;
        let writer = Writer::new(cache.clone(), Pools::new(&config.pools));
        let api = Arc::new(Api { cache, registry, admission, writer });
        let (metrics, stop) = (Metrics::new(), scope.token());
        let limits = Limits::default();
        Self(Arc::new(Inner { config, api, authenticator, authorizer, metrics, limits, pages, stop }))
    }

    /// A connection inside this process, as a user: the same path as everybody's, authentication apart.
    pub fn connect(&self, user: UserInfo) -> InMemory {
        InMemory { server: self.0.clone(), user }
    }

    /// Objects for the server's own needs (bootstrap), past admission.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(ApiObjects::new(self.0.api.clone(), Timestamp::now()))
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.0.api.cache
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl Inner {
    /// Paths that name no resource.
    pub(crate) async fn pages(&self, info: &RequestInfo, parts: &Parts) -> Result<Response<Body>, ApiError> {
        if let Some(answer) = health::page(self, info).await {
            return answer;
        }
        let pages = self.pages.iter();
        pages
            .filter_map(|pages| pages.page(info, &parts.headers))
            .next()
            .unwrap_or_else(|| Err(ApiError::unknown_path()))
    }
}

/// An in-memory connection: a `tower::Service` that a client can be built on.
#[derive(Clone)]
pub struct InMemory {
    server: Arc<Inner>,
    user: UserInfo,
}

impl<B> tower::Service<Request<B>> for InMemory
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, caller) = (self.server.clone(), Caller::Component(self.user.clone()));
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        async move { Ok(chain::answer(&server, caller, request).await) }.boxed()
    }
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Components").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for InMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InMemory").field("user", &self.user.name).finish_non_exhaustive()
    }
}
