//! Whose token is it: TokenReview, by which kubelets and other servers delegate authentication.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ready, text, texts, user_info};
use crate::{
    authn::Authentication,
    registry::{Action, ActionContext, ActionRequest, Respond},
    status::ApiError,
};

pub(super) struct TokenReview {
    pub(super) authentication: Arc<Authentication>,
}

impl Action for TokenReview {
    fn call<'a>(
        &'a self,
        _: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        ready(self.review(request.object, Timestamp::now()))
    }
}

impl TokenReview {
    pub(super) fn review(&self, mut object: Value, now: Timestamp) -> Result<Value, ApiError> {
        let token = text(&object, "/spec/token");
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let answer = self.authentication.token(token, &texts(&object, "/spec/audiences"), now);
        object["status"] = match answer {
            Ok(known) => json!({
                "authenticated": true, "user": user_info(&known.user), "audiences": known.audiences,
            }),
            Err(rejected) => json!({"user": {}, "error": rejected.to_string()}),
        };
        Ok(object)
    }
}
