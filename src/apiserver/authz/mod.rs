//! Authorization: whether a user may do something.

use crate::{request::RequestInfo, user::UserInfo};

/// Judges a request. Pure but for the watch cache.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// Nobody allowed it: the request is refused, with the reason if there is one.
    NoOpinion(String),
    Deny(String),
}

/// What is to be done (upstream's `authorizer.Attributes`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub verb: String,
    pub is_resource: bool,
    pub namespace: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// For requests that are not for resources.
    pub path: String,
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

impl From<&RequestInfo> for Attributes {
    fn from(info: &RequestInfo) -> Self {
        let selects = matches!(info.verb.as_ref(), "list" | "watch" | "deletecollection");
        let selector = |key| info.query.get(key).filter(|_| selects).map(ToString::to_string);
        Self {
            verb: info.verb.to_string(),
            is_resource: info.is_resource,
            namespace: info.namespace.clone(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            field_selector: selector("fieldSelector"),
            label_selector: selector("labelSelector"),
        }
    }
}
