//! Lets in who proves who he is and may do what he asks for: asks the API, and remembers the answers for a while.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use super::rules;

/// Upstream's times of remembering.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_secs(120);
/// Of each kind of answer, no more is remembered.
const REMEMBERED: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The API did not answer.
#[derive(Debug, thiserror::Error)]
#[error("ask the API about a caller")]
pub struct ReviewError(#[from] kube::Error);

/// Knows whose a token is, and what a user may do with this node.
pub trait Reviewer: Send + Sync {
    /// `None`: nobody's.
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>>;
    /// May `user` do `verb` to `nodes/<subresource>` of the node of this name?
    fn allowed<'a>(
        &'a self,
        user: &'a User,
        verb: &'static str,
        subresource: &'static str,
        node: &'a str,
    ) -> BoxFuture<'a, Result<bool, ReviewError>>;
}

/// [`Reviewer`] by TokenReview and SubjectAccessReview.
#[derive(Clone)]
pub struct ApiReviewer(pub kube::Client);

impl std::fmt::Debug for ApiReviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiReviewer")
    }
}

impl Reviewer for ApiReviewer {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { token: token.to_owned(), ..Default::default() };
            let review = TokenReview { spec, ..Default::default() };
            let answer = Api::all(self.0.clone()).create(&PostParams::default(), &review).await?;
            let status = answer.status.unwrap_or_default();
            let user = status.user.filter(|_| status.authenticated == Some(true));
            Ok(user.map(|user| User {
                name: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }))
        })
    }

    fn allowed<'a>(
        &'a self,
        user: &'a User,
        verb: &'static str,
        subresource: &'static str,
        node: &'a str,
    ) -> BoxFuture<'a, Result<bool, ReviewError>> {
        Box::pin(async move {
            let attributes = ResourceAttributes {
                verb: Some(verb.into()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some(subresource.into()),
                name: Some(node.into()),
                ..Default::default()
            };
            let spec = SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(attributes),
                ..Default::default()
            };
            let review = SubjectAccessReview { spec, ..Default::default() };
            let answer = Api::all(self.0.clone()).create(&PostParams::default(), &review).await?;
            Ok(answer.status.is_some_and(|status| status.allowed))
        })
    }
}

/// Why a request is not let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: StatusCode,
    pub(super) words: String,
}

pub(super) struct Gate {
    node: String,
    reviewer: Arc<dyn Reviewer>,
    tokens: Remembered<[u8; 32], Option<User>>,
    rights: Remembered<(User, &'static str, &'static str), bool>,
}

impl Gate {
    pub(super) fn new(node: String, reviewer: Arc<dyn Reviewer>) -> Gate {
        Gate { node, reviewer, tokens: Remembered::default(), rights: Remembered::default() }
    }

    pub(super) async fn admit(
        &self,
        by_certificate: Option<User>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let user = match by_certificate {
            Some(user) => Some(user),
            None => self.by_token(headers).await,
        };
        let user =
            user.ok_or_else(|| Refusal { code: StatusCode::UNAUTHORIZED, words: "Unauthorized".into() })?;
        let (verb, subresources) = (rules::verb(method), rules::subresources(path));
        for subresource in subresources {
            match self.allowed(&user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    warn!(
                        user = user.name,
                        error = &error as &dyn std::error::Error,
                        "cannot find out whether a caller may do this"
                    );
                    let words = format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                        user.name
                    );
                    return Err(Refusal { code: StatusCode::INTERNAL_SERVER_ERROR, words });
                }
            }
        }
        let words = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" ")
        );
        Err(Refusal { code: StatusCode::FORBIDDEN, words })
    }

    async fn by_token(&self, headers: &HeaderMap) -> Option<User> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return None;
        }
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.tokens.get(&key) {
            return known;
        }
        match self.reviewer.token(token).await {
            Ok(user) => {
                let lasts = if user.is_some() { TOKEN_FOR } else { DENIED_FOR };
                self.tokens.put(key, user.clone(), lasts);
                user
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot find out whose a token is");
                None
            }
        }
    }

    async fn allowed(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, ReviewError> {
        let key = (user.clone(), verb, subresource);
        if let Some(known) = self.rights.get(&key) {
            return Ok(known);
        }
        let allowed = self.reviewer.allowed(user, verb, subresource, &self.node).await?;
        self.rights.put(key, allowed, if allowed { ALLOWED_FOR } else { DENIED_FOR });
        Ok(allowed)
    }
}

/// Answers, until they are too old.
struct Remembered<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Remembered(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock();
        known.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, lasts: Duration) {
        let (mut known, now) = (self.0.lock(), Instant::now());
        if known.len() >= REMEMBERED {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < REMEMBERED {
            known.insert(key, (value, now + lasts));
        }
    }
}
