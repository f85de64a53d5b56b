//! `serviceaccounts/token`: a token for a service account, bound to a pod, a secret or a node.

use std::sync::Arc;

use api::quote;
use futures_util::future::BoxFuture;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use pki::claims::{Claims, Kubernetes, Reference};
use serde_json::{Value, json};

use super::{text, texts};
use crate::{
    authn::{TokenIssuer, service_account_name},
    registry::{Action, ActionContext, ActionRequest, Objects, Respond},
    status::{ApiError, FieldError, GroupKind, GroupResource, Reason},
};

const GROUP: &str = "authentication.k8s.io";
const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;
/// What the ServiceAccount admission plugin writes into projected volumes. Such a pod may hold an old client that never
/// reads its token again, so it is accepted for a year while the pod is there.
const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;

pub(super) struct TokenRequest {
    pub(super) tokens: Arc<TokenIssuer>,
}

impl Action for TokenRequest {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        Box::pin(async move {
            let (namespace, name) = (&request.info.namespace, &request.info.name);
            let objects = context.objects.as_ref();
            let answer = self.answer(objects, namespace, name, request.object, Timestamp::now()).await?;
            Ok(Respond::Object(StatusCode::CREATED, answer))
        })
    }
}

/// What a token is bound to, as it is stored.
#[derive(Debug, Default)]
struct Bound {
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

impl TokenRequest {
    pub(super) async fn answer(
        &self,
        objects: &dyn Objects,
        namespace: &str,
        name: &str,
        mut request: Value,
        now: Timestamp,
    ) -> Result<Value, ApiError> {
        check_metadata(&request, namespace, name)?;
        let account = objects.get(&core("serviceaccounts"), namespace, name).await?;
        let uid = text(&account, "/metadata/uid");
        check_uid(&request, name, uid)?;

        self.complete(&mut request);
        request["metadata"]["name"] = name.into();
        request["metadata"]["namespace"] = namespace.into();
        request["metadata"]["uid"] = uid.into();
        request["metadata"]["creationTimestamp"] = api::time::seconds(now).into();
        let seconds = lifetime(&request)?;
        let bound = bound(objects, namespace, name, &request).await?;

        let account = Reference { name: name.to_owned(), uid: uid.to_owned() };
        let claims = self.claims((namespace, account), bound, &request, seconds, now);
        let token = self.tokens.keys.sign(&claims);
        let token =
            token.map_err(|error| ApiError::internal(format!("failed to generate token: {error}")))?;
        let expiration =
            now.saturating_add(SignedDuration::from_secs(seconds)).map_err(ApiError::internal)?;
        request["status"] = json!({"token": token, "expirationTimestamp": api::time::seconds(expiration)});
        Ok(request)
    }

    /// Fills in what the request leaves open.
    fn complete(&self, request: &mut Value) {
        if !request["metadata"].is_object() {
            request["metadata"] = json!({});
        }
        if !request["spec"].is_object() {
            request["spec"] = json!({});
        }
        if texts(request, "/spec/audiences").is_empty() {
            request["spec"]["audiences"] = json!(self.tokens.audiences);
        }
        if request["spec"]["expirationSeconds"].is_null() {
            request["spec"]["expirationSeconds"] = DEFAULT_SECONDS.into();
        }
    }

    fn claims(
        &self,
        (namespace, account): (&str, Reference),
        bound: Bound,
        request: &Value,
        seconds: i64,
        now: Timestamp,
    ) -> Claims {
        let now = now.as_second();
        let audiences = texts(request, "/spec/audiences");
        let ours = audiences.iter().all(|audience| self.tokens.audiences.contains(audience));
        let extended = bound.pod.is_some() && seconds == WARN_ONLY_SECONDS && ours;
        Claims {
            exp: now + if extended { EXTENDED_SECONDS } else { seconds },
            iat: Some(now),
            iss: self.tokens.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: Some(now),
            sub: service_account_name(namespace, &account.name),
            aud: audiences,
            kubernetes: Kubernetes {
                namespace: namespace.to_owned(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: account,
                warnafter: extended.then_some(now + seconds),
            },
        }
    }
}

/// A body may repeat the account's name and namespace, not contradict them.
fn check_metadata(request: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    for (field, own, detail) in [
        ("name", name, "must match the service account name if specified"),
        ("namespace", namespace, "must match the service account namespace if specified"),
    ] {
        let given = text(request, &format!("/metadata/{field}"));
        if !given.is_empty() && given != own {
            let error = FieldError::invalid(&format!("metadata.{field}"), given, detail);
            return Err(ApiError::invalid(&GroupKind::new(GROUP, "TokenRequest"), name, &[error]));
        }
    }
    Ok(())
}

fn check_uid(request: &Value, name: &str, uid: &str) -> Result<(), ApiError> {
    let given = text(request, "/metadata/uid");
    if given.is_empty() || given == uid {
        return Ok(());
    }
    let why = format!(
        "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
    );
    Err(ApiError::conflict(&GroupResource::new(GROUP, "TokenRequest"), name, &why))
}

fn lifetime(request: &Value) -> Result<i64, ApiError> {
    let given = &request["spec"]["expirationSeconds"];
    let seconds = given.as_i64().unwrap_or_default();
    let detail = match seconds {
        SHORTEST_SECONDS..=LONGEST_SECONDS => return Ok(seconds),
        ..SHORTEST_SECONDS => "may not specify a duration less than 10 minutes",
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError::invalid("spec.expirationSeconds", given.clone(), detail);
    Err(ApiError::invalid(&GroupKind::new(GROUP, "TokenRequest"), "", &[error]))
}

/// Looks up what the token is to be bound to.
async fn bound(
    objects: &dyn Objects,
    namespace: &str,
    account: &str,
    request: &Value,
) -> Result<Bound, ApiError> {
    let wanted = &request["spec"]["boundObjectRef"];
    if !wanted.is_object() {
        return Ok(Bound::default());
    }
    let [api_version, kind, name] = ["/apiVersion", "/kind", "/name"].map(|pointer| text(wanted, pointer));
    let mut bound = Bound::default();
    let core_group = !api_version.contains('/');
    let uid = match kind {
        "Pod" if core_group => {
            let pod = objects.get(&core("pods"), namespace, name).await?;
            if text(&pod, "/spec/serviceAccountName") != account {
                let account = quote(account);
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account} to pod running with different serviceaccount name."
                )));
            }
            bound.node = node_of(objects, &pod).await?;
            bound.pod.insert(reference(&pod)).uid.clone()
        }
        "Node" if core_group => {
            let node = objects.get(&core("nodes"), "", name).await?;
            bound.node.insert(reference(&node)).uid.clone()
        }
        "Secret" if core_group => {
            let secret = objects.get(&core("secrets"), namespace, name).await?;
            bound.secret.insert(reference(&secret)).uid.clone()
        }
        _ => {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let shown = format!("{group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(format!("cannot bind token to object of type {shown}")));
        }
    };
    let given = text(wanted, "/uid");
    if !given.is_empty() && given != uid {
        let why = format!(
            "the UID in the bound object reference ({given}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(ApiError::conflict(&GroupResource::new("", kind), name, &why));
    }
    Ok(bound)
}

/// The node of a pod: its name alone if it has no Node object.
async fn node_of(objects: &dyn Objects, pod: &Value) -> Result<Option<Reference>, ApiError> {
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    match objects.get(&core("nodes"), "", name).await {
        Ok(node) => Ok(Some(reference(&node))),
        Err(error) if error.reason == Reason::NotFound => {
            Ok(Some(Reference { name: name.to_owned(), uid: String::new() }))
        }
        Err(error) => Err(ApiError::internal(error)),
    }
}

fn reference(object: &Value) -> Reference {
    Reference {
        name: text(object, "/metadata/name").to_owned(),
        uid: text(object, "/metadata/uid").to_owned(),
    }
}

fn core(resource: &str) -> GroupResource {
    GroupResource::new("", resource)
}
