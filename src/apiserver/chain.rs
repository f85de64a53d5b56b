//! The path of every request, in one screen.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, Response, header, request::Parts};
use tokio::time::Instant;
use tracing::{debug, error};

use crate::{
    authn::PeerCertificates,
    authz::{Attributes, Authorizer, Decision, forbidden},
    body::Body,
    handlers::{self, respond},
    impersonate,
    request::{self, RequestInfo},
    server::Inner,
    status::ApiError,
    user::UserInfo,
};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// What anybody may ask, without credentials (upstream's health checks and version).
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A component of this process, known already.
    Component(UserInfo),
    /// Somebody on the network, to be authenticated.
    Remote(Option<PeerCertificates>),
}

/// Answers one request. Never fails, never panics.
pub(crate) async fn answer(server: &Arc<Inner>, caller: Caller, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let audit_id = parts.headers.get(AUDIT_ID).cloned().unwrap_or_else(new_audit_id);
    let mut seen = RequestInfo { path: parts.uri.path().to_string(), ..RequestInfo::default() };
    let result = match request::parse(&parts.method, &parts.uri) {
        Err(error) => Err(error),
        Ok(info) => {
            seen = info.clone();
            let in_flight = server.metrics.enter(&info);
            let steps = lifecycle::catch_panic(Box::pin(steps(server, caller, info, parts, body))).await;
            drop(in_flight);
            steps.unwrap_or_else(|panic| {
                error!(
                    path = seen.path,
                    error = &panic as &dyn std::error::Error,
                    "request handler panicked"
                );
                Err(ApiError::internal("the request handler panicked"))
            })
        }
    };
    let mut response = result.unwrap_or_else(|error| respond::error(&error));
    response.headers_mut().insert(AUDIT_ID, audit_id);
    let private = HeaderValue::from_static("no-cache, private");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(private);
    server.metrics.observe(&server.api.registry.rows(), &seen, response.status(), started.elapsed());
    debug!(verb = seen.verb.as_ref(), path = seen.path, code = response.status().as_u16(), "request");
    response
}

/// The stages; the first that fails is the answer.
async fn steps(
    server: &Arc<Inner>,
    caller: Caller,
    info: RequestInfo,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let ours = matches!(caller, Caller::Component(_));
    let user = authenticate(server, caller, &info, &parts).await?;
    let _counted = if ours { None } else { server.limits.enter(&user, &info)? };
    let user = impersonate::impersonate(server.authorizer.as_ref(), user, &parts.headers)?;
    authorize(server.authorizer.as_ref(), &user, &info)?;
    let deadline = timeout(server, &info);
    let route = async move {
        if info.is_resource {
            let stop = server.stop.clone();
            handlers::handle(&server.api, handlers::Request { user, info, parts, body, stop }).await
        } else {
            server.pages(&info, &parts).await
        }
    };
    match deadline {
        None => route.await,
        Some(after) => tokio::time::timeout(after, route).await.unwrap_or_else(|_| Err(timed_out())),
    }
}

async fn authenticate(
    server: &Inner,
    caller: Caller,
    info: &RequestInfo,
    parts: &Parts,
) -> Result<UserInfo, ApiError> {
    let peer = match caller {
        Caller::Component(user) => return Ok(user),
        Caller::Remote(peer) => peer,
    };
    match server.authenticator.authenticate(parts, peer.as_ref()).await? {
        Some(user) => Ok(user),
        None if is_open(&info.path) || introduces_the_cluster(info) => Ok(UserInfo::anonymous()),
        None => Err(ApiError::unauthorized()),
    }
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS
        .iter()
        .any(|open| path == *open || path.strip_prefix(open).is_some_and(|rest| rest.starts_with('/')))
}

/// What a machine reads before it knows anybody: this one object, and only if RBAC lets `system:anonymous` do so.
fn introduces_the_cluster(info: &RequestInfo) -> bool {
    let what = (info.group.as_str(), info.resource.as_str(), info.subresource.as_str());
    info.is_resource
        && info.verb == "get"
        && what == ("", "configmaps", "")
        && (info.namespace.as_str(), info.name.as_str()) == ("kube-public", "cluster-info")
}

fn authorize(authorizer: &dyn Authorizer, user: &UserInfo, info: &RequestInfo) -> Result<(), ApiError> {
    if !info.is_resource && is_open(&info.path) {
        return Ok(());
    }
    let attributes = Attributes::from(info);
    allowed(authorizer, user, &attributes)?;
    if enters_a_pod(info) && info.verb != "create" {
        return allowed(authorizer, user, &Attributes { verb: "create".into(), ..attributes });
    }
    Ok(())
}

fn allowed(authorizer: &dyn Authorizer, user: &UserInfo, attributes: &Attributes) -> Result<(), ApiError> {
    match authorizer.authorize(user, attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(forbidden(user, attributes, &reason)),
    }
}

/// WebSockets open with a GET, but who enters a pod does more than read it: `create` must be allowed too
/// (upstream's `AuthorizePodWebsocketUpgradeCreatePermission`).
fn enters_a_pod(info: &RequestInfo) -> bool {
    let pods = info.is_resource && info.group.is_empty() && info.resource == "pods";
    pods && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward")
}

fn timeout(server: &Inner, info: &RequestInfo) -> Option<Duration> {
    (!info.lasts()).then_some(server.config.request_timeout)
}

fn timed_out() -> ApiError {
    ApiError::timeout("request did not complete within the allotted timeout", 0)
}

fn new_audit_id() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "reader" may get, "operator" may get and create.
    struct Verbs;
    impl Authorizer for Verbs {
        fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
            match (user.name.as_str(), attributes.verb.as_str()) {
                (_, "get") | ("operator", "create") => Decision::Allow(String::new()),
                _ => Decision::NoOpinion(String::new()),
            }
        }
    }

    fn ask(user: &str, method: &str, subresource: &str) -> Result<(), String> {
        let path = format!("/api/v1/namespaces/ns/pods/web/{subresource}");
        let info = request::parse(&method.parse().unwrap(), &path.parse().unwrap()).unwrap();
        authorize(&Verbs, &UserInfo::new(user, &[]), &info).map_err(|error| error.message)
    }

    #[test]
    fn only_one_object_introduces_the_cluster() {
        let asks = |method: &str, path: &str| {
            let info = request::parse(&method.parse().unwrap(), &path.parse().unwrap()).unwrap();
            introduces_the_cluster(&info)
        };
        let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
        assert!(asks("GET", path));
        for method in ["PUT", "PATCH", "DELETE"] {
            assert!(!asks(method, path), "{method}");
        }
        for other in [
            "/api/v1/watch/namespaces/kube-public/configmaps/cluster-info",
            "/api/v1/namespaces/kube-public/configmaps?fieldSelector=metadata.name%3Dcluster-info",
            "/api/v1/namespaces/kube-public/configmaps/other",
            "/api/v1/namespaces/default/configmaps/cluster-info",
            "/api/v1/namespaces/kube-public/secrets/cluster-info",
            "/api/v1/namespaces/kube-public/configmaps/cluster-info/status",
        ] {
            assert!(!asks("GET", other), "{other}");
        }
    }

    #[test]
    fn who_may_only_read_does_not_enter_a_pod_by_websocket() {
        for subresource in ["exec", "attach", "portforward"] {
            let told = format!(
                "pods \"web\" is forbidden: User \"reader\" cannot create resource \"pods/{subresource}\" in API \
                 group \"\" in the namespace \"ns\""
            );
            assert_eq!(ask("reader", "GET", subresource), Err(told));
            assert_eq!(ask("operator", "GET", subresource), Ok(()));
            assert_eq!(ask("operator", "POST", subresource), Ok(()));
        }
        assert_eq!(ask("reader", "GET", "log"), Ok(()));
    }
}
