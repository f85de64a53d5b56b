//! Reviews: questions about users and their rights that are answered and not stored, and tokens on request.
//!
//! Each is an [`Action`] on a row of the registry; [`fill`] gives them to the rows. What they decide is a pure function
//! of the request's object and of what authentication and authorization say.

mod access;
mod token_request;
mod token_review;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    authn::Authentication,
    authz::Authorization,
    registry::{Action, ActionContext, ActionRequest, Respond, table::Actions},
    status::ApiError,
    user::UserInfo,
};

/// Puts the actions of this module into the rows' actions.
pub fn fill(actions: &mut Actions, authentication: &Arc<Authentication>, authorization: &Arc<Authorization>) {
    let access = |subject, scope| -> Option<Arc<dyn Action>> {
        Some(Arc::new(access::AccessReview { authorization: Arc::clone(authorization), subject, scope }))
    };
    actions.token =
        Some(Arc::new(token_request::TokenRequest { tokens: Arc::clone(authentication.tokens()) }));
    actions.token_review =
        Some(Arc::new(token_review::TokenReview { authentication: Arc::clone(authentication) }));
    actions.self_subject_review = Some(Arc::new(SelfSubjectReview));
    actions.subject_access_review = access(access::Subject::Named, access::Place::Cluster);
    actions.local_subject_access_review = access(access::Subject::Named, access::Place::Namespace);
    actions.self_subject_access_review = access(access::Subject::Own, access::Place::Cluster);
    actions.self_subject_rules_review =
        Some(Arc::new(access::RulesReview { authorization: Arc::clone(authorization) }));
}

/// Who am I: the user as authentication has found him.
struct SelfSubjectReview;

impl Action for SelfSubjectReview {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        let mut object = request.object;
        object["metadata"] = json!({"creationTimestamp": api::time::seconds(jiff::Timestamp::now())});
        object["status"] = json!({"userInfo": user_info(&context.user)});
        ready(Ok(object))
    }
}

/// `authentication.k8s.io/v1` UserInfo.
fn user_info(user: &UserInfo) -> Value {
    let mut info = Map::new();
    for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            info.insert(field.into(), text.as_str().into());
        }
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

/// A review's answer is its object, with a status.
fn ready<'a>(answer: Result<Value, ApiError>) -> BoxFuture<'a, Result<Respond, ApiError>> {
    Box::pin(std::future::ready(answer.map(|object| Respond::Object(StatusCode::CREATED, object))))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn texts(object: &Value, pointer: &str) -> Vec<String> {
    let items = object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests;
