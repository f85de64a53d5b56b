//! Authorization: whether a user may do something.
//!
//! ```text
//!   user, Attributes ─▶ system:masters? ─▶ node/ (what its pods need) ─▶ rbac/ (roles and bindings) ─▶ Decision
//!                           allow              allow or no opinion          allow or no opinion
//! ```
//!
//! - `rbac/` and `node/` judge by what the watch cache holds, kept as indexes by change.
//! - `policy/` is the roles and bindings that every cluster has.
//! - `escalation.rs` refuses to give away rights that the giver does not hold.

pub mod escalation;
pub mod node;
pub mod policy;
pub mod rbac;

use std::sync::{Arc, OnceLock};

use api::quote;

use crate::{
    admission::Reader,
    request::RequestInfo,
    status::{ApiError, GroupResource},
    user::{MASTERS, UserInfo},
};

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

/// The chain of authorizers. Until [`Authorization::attach`] gives it the watch cache it allows only `system:masters`.
pub struct Authorization {
    reader: Arc<OnceLock<Arc<dyn Reader>>>,
    node: node::NodeAuthorizer,
    rbac: rbac::Rbac,
}

/// What a user may do in a namespace, as far as it can be listed.
#[derive(Debug, Default)]
pub struct Rules {
    pub rules: Vec<rbac::Rule>,
    /// The user may do more than is listed.
    pub incomplete: bool,
    pub errors: Vec<String>,
}

impl Authorization {
    pub fn new() -> Arc<Authorization> {
        let reader = Arc::new(OnceLock::new());
        Arc::new(Authorization {
            node: node::NodeAuthorizer::new(Arc::clone(&reader)),
            rbac: rbac::Rbac::new(Arc::clone(&reader)),
            reader,
        })
    }

    /// Gives it the watch cache, once: the cache needs the registry, whose rows need the authorizer.
    pub fn attach(&self, reader: Arc<dyn Reader>) {
        self.reader.get_or_init(|| reader);
    }

    pub fn rbac(&self) -> &rbac::Rbac {
        &self.rbac
    }

    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let held = self.rbac.held(user, namespace);
        let mut rules = Rules { rules: held.rules, ..Rules::default() };
        if node::node_of(user).is_some() {
            rules.incomplete = true;
            rules.errors.push("node authorizer does not support user rule resolution".to_owned());
        }
        rules.errors.extend(held.errors.iter().map(ToString::to_string));
        rules
    }
}

impl Authorizer for Authorization {
    fn authorize(&self, user: &UserInfo, what: &Attributes) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons: Vec<String> = Vec::new();
        let chain: [&dyn Fn() -> Decision; 2] =
            [&|| self.node.authorize(user, what), &|| self.rbac.authorize(user, what)];
        for authorize in chain {
            match authorize() {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided @ (Decision::Allow(_) | Decision::Deny(_)) => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorization")
            .field("node", &self.node)
            .field("rbac", &self.rbac)
            .finish_non_exhaustive()
    }
}

/// 403 in upstream's words.
pub fn forbidden(user: &UserInfo, what: &Attributes, reason: &str) -> ApiError {
    let message = escape(&message(user, what));
    let why = if reason.is_empty() { message } else { format!("{message}: {reason}") };
    let resource = GroupResource::new(what.group.as_str(), what.resource.as_str());
    ApiError::forbidden(&resource, &what.name, &why)
}

fn message(user: &UserInfo, what: &Attributes) -> String {
    let (user, verb) = (quote(&user.name), &what.verb);
    if !what.is_resource {
        return format!("User {user} cannot {verb} path {}", quote(&what.path));
    }
    let slash = if what.subresource.is_empty() { "" } else { "/" };
    let resource = quote(&format!("{}{slash}{}", what.resource, what.subresource));
    let place = if what.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quote(&what.namespace))
    };
    format!("User {user} cannot {verb} resource {resource} in API group {} {place}", quote(&what.group))
}

/// Nothing in the message looks like HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
pub(crate) mod tests;
