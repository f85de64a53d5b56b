//! Subresources that do something, and the parts of the server that do it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::registry::strategy::rules::Rules;
use crate::registry::{Action, ActionContext, ActionRequest, How, Respond, Subresource, Verbs};
use crate::status::ApiError;

/// Actions that other parts of the server bring. What is not there answers 501.
#[derive(Clone, Default)]
pub struct Actions {
    pub log: Option<Arc<dyn Action>>,
    pub exec: Option<Arc<dyn Action>>,
    pub attach: Option<Arc<dyn Action>>,
    pub port_forward: Option<Arc<dyn Action>>,
    pub pod_proxy: Option<Arc<dyn Action>>,
    pub service_proxy: Option<Arc<dyn Action>>,
    pub node_proxy: Option<Arc<dyn Action>>,
    /// `serviceaccounts/token`.
    pub token: Option<Arc<dyn Action>>,
    pub token_review: Option<Arc<dyn Action>>,
    pub self_subject_review: Option<Arc<dyn Action>>,
    pub subject_access_review: Option<Arc<dyn Action>>,
    pub local_subject_access_review: Option<Arc<dyn Action>>,
    pub self_subject_access_review: Option<Arc<dyn Action>>,
    pub self_subject_rules_review: Option<Arc<dyn Action>>,
}

impl std::fmt::Debug for Actions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actions").finish_non_exhaustive()
    }
}

/// Answers for an action that nobody brought.
struct Absent(&'static str);

impl Action for Absent {
    fn call<'a>(
        &'a self,
        _context: &'a ActionContext,
        _request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        let message = format!("{} is not available on this server", self.0);
        Box::pin(async move { Err(ApiError::not_implemented(message)) })
    }
}

pub(super) fn or_absent(action: Option<&Arc<dyn Action>>, name: &'static str) -> Arc<dyn Action> {
    action.cloned().unwrap_or_else(|| Arc::new(Absent(name)))
}

/// Group, version and kind of what a subresource takes.
pub(super) type Kind = (&'static str, &'static str, &'static str);

/// A subresource whose body is an object.
pub(super) fn acting(name: &'static str, verbs: Verbs, kind: Kind, action: Arc<dyn Action>) -> Subresource {
    subresource(name, verbs, kind, How::Acting(action))
}

/// A subresource whose body is a stream.
pub(super) fn connect(name: &'static str, verbs: Verbs, kind: Kind, action: Arc<dyn Action>) -> Subresource {
    subresource(name, verbs, kind, How::Connect(action))
}

/// A subresource that is a part of its parent.
pub(super) fn part(name: &'static str, verbs: Verbs, rules: Rules) -> Subresource {
    subresource(name, verbs, ("", "", ""), How::Part(Arc::new(rules)))
}

pub(super) fn subresource(name: &'static str, verbs: Verbs, kind: Kind, how: How) -> Subresource {
    Subresource { name: name.into(), verbs, kind: (kind.0.into(), kind.1.into(), kind.2.into()), how }
}
