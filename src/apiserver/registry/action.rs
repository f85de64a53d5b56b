//! Actions: subresources and virtual resources that do something other than read or write their object.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Response, StatusCode, request::Parts};
use serde_json::Value;

use super::{DeleteOptions, Registry};
use crate::{
    body::Body,
    request::RequestInfo,
    status::{ApiError, GroupResource},
    user::UserInfo,
};

/// What a named subresource (binding, eviction, log …) or a virtual resource (TokenReview …) does.
pub trait Action: Send + Sync {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>>;
}

/// What an action may use.
#[derive(Clone)]
pub struct ActionContext {
    pub user: UserInfo,
    pub registry: Arc<Registry>,
    pub objects: Arc<dyn Objects>,
}

/// A request for an action, authorized.
pub struct ActionRequest {
    pub info: RequestInfo,
    /// Headers, and in the extensions hyper's `OnUpgrade`.
    pub parts: Parts,
    /// The decoded body. `Null` for GET and DELETE without one, and for `How::Connect`.
    pub object: Value,
    /// The body, unread, for `How::Connect`; else empty.
    pub body: Body,
    /// `dryRun=All`: nothing may be written.
    pub dry_run: bool,
}

/// An action's answer.
pub enum Respond {
    /// An object, encoded as the client accepts (JSON or YAML).
    Object(StatusCode, Value),
    /// Anything else: a stream, an upgrade, another server's answer.
    Raw(Response<Body>),
}

/// Objects, for actions: the same store, cache, validation and allocation as requests, without
/// authentication, authorization and admission. Objects are JSON in the storage version, with a resourceVersion.
pub trait Objects: Send + Sync {
    /// A consistent read. `namespace` is empty for cluster-scoped resources.
    fn get<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Value, ApiError>>;

    /// All objects of a namespace, or (empty) of all.
    fn list<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>>;

    /// Creates as a POST would, after admission.
    fn create<'a>(&'a self, what: &'a GroupResource, object: Value)
    -> BoxFuture<'a, Result<Value, ApiError>>;

    /// Reads, changes and writes one object until nobody else wrote in between. `change` may be called several
    /// times; its error ends the update. `precondition` is checked on each try. Strategies' update preparation
    /// and validation are skipped: the action is responsible for what it writes.
    fn update<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        precondition: Precondition,
        change: &'a mut (dyn FnMut(&mut Value) -> Result<(), ApiError> + Send),
    ) -> BoxFuture<'a, Result<Value, ApiError>>;

    /// Deletes as a DELETE would, after admission. The answer is the object, or a Status if it is gone.
    fn delete<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        options: DeleteOptions,
    ) -> BoxFuture<'a, Result<Value, ApiError>>;
}

/// What must hold of the object for an update to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl std::fmt::Debug for ActionContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActionContext").field("user", &self.user.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ActionRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActionRequest").field("path", &self.info.path).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Respond {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(code, _) => f.debug_tuple("Object").field(code).finish(),
            Self::Raw(response) => f.debug_tuple("Raw").field(&response.status()).finish(),
        }
    }
}
