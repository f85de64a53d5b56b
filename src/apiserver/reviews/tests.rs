//! What reviews answer, and what they refuse.

use futures_util::FutureExt as _;
use jiff::Timestamp;
use pki::claims::Claims;

use super::*;
use crate::{
    admission::Reader as _,
    authn::tests::authentication,
    authz::tests::{Fake, authorization, with_policy},
    registry::{DeleteOptions, Objects, Precondition},
    status::GroupResource,
};

/// Reads of the fake cache; a review writes nothing.
struct Stored(Fake);

impl Objects for Stored {
    fn get<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        let found = self.0.get(what, namespace, name).map(|object| object.as_ref().clone());
        Box::pin(std::future::ready(found.ok_or_else(|| ApiError::not_found(what, name))))
    }

    fn list<'a>(&'a self, _: &'a GroupResource, _: &'a str) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        unreachable!("a review lists nothing")
    }

    fn create<'a>(&'a self, _: &'a GroupResource, _: Value) -> BoxFuture<'a, Result<Value, ApiError>> {
        unreachable!("a review writes nothing")
    }

    fn update<'a>(
        &'a self,
        _: &'a GroupResource,
        _: &'a str,
        _: &'a str,
        _: Precondition,
        _: &'a mut (dyn FnMut(&mut Value) -> Result<(), ApiError> + Send),
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        unreachable!("a review writes nothing")
    }

    fn delete<'a>(
        &'a self,
        _: &'a GroupResource,
        _: &'a str,
        _: &'a str,
        _: DeleteOptions,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        unreachable!("a review writes nothing")
    }
}

fn jane() -> UserInfo {
    UserInfo::new("jane", &["dev"])
}

fn review(subject: access::Subject, scope: access::Place, object: Value) -> Result<Value, String> {
    let fake = with_policy();
    fake.bind("ns", "viewers", "ClusterRole", "view", &["Group dev"]);
    let review = access::AccessReview { authorization: authorization(&fake), subject, scope };
    review.review(&jane(), "ns", object).map_err(|error| error.message)
}

fn own(attributes: Value) -> Value {
    let object = json!({"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
    review(access::Subject::Own, access::Place::Cluster, object).unwrap()["status"].clone()
}

#[test]
fn may_i_is_answered_with_a_reason() {
    let status = own(json!({"namespace": "ns", "verb": "list", "resource": "pods"}));
    let reason = r#"RBAC: allowed by RoleBinding "viewers/ns" of ClusterRole "view" to Group "dev""#;
    assert_eq!(status, json!({"allowed": true, "reason": reason}));
    let status = own(json!({"namespace": "other", "verb": "list", "resource": "pods"}));
    assert_eq!(status, json!({"allowed": false}));
}

#[test]
fn a_selector_that_cannot_be_read_is_told() {
    let selector = json!({"requirements": [{"key": "spec.nodeName", "operator": "Exists"}]});
    let status =
        own(json!({"namespace": "ns", "verb": "list", "resource": "pods", "fieldSelector": selector}));
    assert_eq!(status["evaluationError"], "spec.resourceAttributes.fieldSelector ignored due to parse error");
}

#[test]
fn selectors_are_taken_from_their_requirements() {
    let (what, problems) = access::attributes(&json!({"resourceAttributes": {
        "verb": "list", "resource": "pods",
        "fieldSelector": {"requirements": [
            {"key": "spec.nodeName", "operator": "In", "values": ["n1"]},
            {"key": "metadata.name", "operator": "NotIn", "values": ["a,b"]},
        ]},
        "labelSelector": {"requirements": [
            {"key": "app", "operator": "In", "values": ["x", "y"]}, {"key": "old", "operator": "DoesNotExist"},
        ]},
    }}));
    assert_eq!(what.field_selector.as_deref(), Some(r"spec.nodeName=n1,metadata.name!=a\,b"));
    assert_eq!(what.label_selector.as_deref(), Some("app in (x,y),!old"));
    assert_eq!(what.version, "*");
    assert!(problems.is_empty());
}

#[test]
fn a_review_that_asks_nothing_or_too_much_is_refused() {
    let named = |spec: Value| {
        let object = json!({"kind": "SubjectAccessReview", "spec": spec});
        review(access::Subject::Named, access::Place::Cluster, object).unwrap_err()
    };
    assert_eq!(
        named(json!({"user": "jane"})),
        "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: \
         exactly one of nonResourceAttributes or resourceAttributes must be specified"
    );
    let both = json!({"user": "x", "resourceAttributes": {}, "nonResourceAttributes": {"path": "/"}});
    assert!(named(both).contains("cannot be specified in combination with resourceAttributes"));
    assert!(
        named(json!({"resourceAttributes": {}})).contains("at least one of user or group must be specified")
    );
    let empty = json!({"user": "x", "resourceAttributes": {"fieldSelector": {}}});
    assert!(named(empty).contains(
        "spec.resourceAttributes.fieldSelector.requirements: Required value: when \
         spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"
    ));
}

#[test]
fn a_named_user_is_judged_with_his_groups_as_given() {
    let ask = |spec: Value| {
        let object = json!({"kind": "SubjectAccessReview", "spec": spec});
        review(access::Subject::Named, access::Place::Cluster, object).unwrap()["status"]["allowed"].clone()
    };
    let attributes = json!({"namespace": "ns", "verb": "get", "resource": "pods", "name": "a"});
    assert_eq!(ask(json!({"user": "bob", "resourceAttributes": attributes})), false);
    assert_eq!(ask(json!({"user": "bob", "groups": ["dev"], "resourceAttributes": attributes})), true);
    let path = json!({"path": "/metrics", "verb": "get"});
    assert_eq!(ask(json!({"groups": ["system:monitoring"], "nonResourceAttributes": path})), true);
}

#[test]
fn a_local_review_stays_in_its_namespace() {
    let ask = |namespace: &str, asked: &str| {
        let attributes = json!({"namespace": asked, "verb": "get", "resource": "pods"});
        let object = json!({
            "kind": "LocalSubjectAccessReview", "metadata": {"namespace": namespace},
            "spec": {"user": "x", "groups": ["dev"], "resourceAttributes": attributes},
        });
        review(access::Subject::Named, access::Place::Namespace, object)
    };
    assert_eq!(ask("ns", "ns").unwrap()["status"]["allowed"], true);
    assert!(ask("ns", "other").unwrap_err().contains("must match metadata.namespace"));
    assert!(ask("other", "other").unwrap_err().contains("must match namespace: ns"));
}

#[test]
fn what_may_i_lists_the_rules_of_a_namespace() {
    let fake = with_policy();
    fake.bind("ns", "b", "Role", "gone", &["User jane"]);
    let status = access::rules_status(&authorization(&fake).rules_for(&jane(), "ns"));
    assert!(
        status["nonResourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| { rule["nonResourceURLs"].as_array().unwrap().contains(&json!("/openapi")) })
    );
    assert_eq!(status["incomplete"], false);
    assert_eq!(status["evaluationError"], "role.rbac.authorization.k8s.io \"gone\" not found");
    let node = UserInfo::new("system:node:n1", &["system:nodes"]);
    let status = access::rules_status(&authorization(&fake).rules_for(&node, "ns"));
    assert_eq!(status["incomplete"], true);
}

fn cluster() -> Fake {
    let fake = Fake::default();
    fake.put("serviceaccounts", "ns", "sa", json!({"metadata": {"uid": "u1"}}));
    let spec = json!({"serviceAccountName": "sa", "nodeName": "n1"});
    fake.put("pods", "ns", "p", json!({"metadata": {"uid": "u2"}, "spec": spec}));
    fake.put("pods", "ns", "other", json!({"metadata": {"uid": "u4"}, "spec": {"serviceAccountName": "x"}}));
    fake.put("nodes", "", "n1", json!({"metadata": {"uid": "u3"}}));
    fake
}

fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap()
}

/// The answer, the token's claims, and how a TokenReview knows the token.
fn request(spec: Value) -> Result<(Value, Claims, Value), String> {
    let fake = cluster();
    let authentication = authentication(&fake);
    let tokens = Arc::clone(authentication.tokens());
    let action = token_request::TokenRequest { tokens };
    let object = json!({"kind": "TokenRequest", "spec": spec});
    let answer = action.answer(&Stored(fake), "ns", "sa", object, now()).now_or_never().unwrap();
    let answer = answer.map_err(|error| error.message)?;
    let token = answer["status"]["token"].as_str().unwrap();
    let claims = authentication.tokens().keys.verify(token).unwrap();
    let object = json!({"spec": {"token": token, "audiences": answer["spec"]["audiences"]}});
    let review = token_review::TokenReview { authentication }.review(object, now()).unwrap();
    Ok((answer, claims, review["status"].clone()))
}

#[test]
fn a_requested_token_is_known_again() {
    let (answer, claims, review) = request(json!({})).unwrap();
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["metadata"]["uid"], "u1");
    assert_eq!(claims.exp - now().as_second(), 3600);
    assert_eq!(claims.kubernetes.pod, None);
    assert_eq!(review["authenticated"], true);
    assert_eq!(review["user"]["username"], "system:serviceaccount:ns:sa");
    assert_eq!(review["audiences"], answer["spec"]["audiences"]);
}

#[test]
fn a_pods_token_says_where_it_runs_and_is_accepted_past_its_hour() {
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2"});
    let (answer, claims, review) =
        request(json!({"boundObjectRef": bound, "expirationSeconds": 3607})).unwrap();
    assert_eq!(claims.kubernetes.node.unwrap().uid, "u3");
    assert_eq!(claims.exp - now().as_second(), 365 * 24 * 3600);
    assert_eq!(claims.kubernetes.warnafter.unwrap() - now().as_second(), 3607);
    let end: Timestamp = answer["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap();
    assert_eq!(end.as_second() - now().as_second(), 3607);
    assert_eq!(review["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    // For somebody else it ends when it says.
    let (_, claims, _) =
        request(json!({"boundObjectRef": bound, "expirationSeconds": 3607, "audiences": ["vault"]})).unwrap();
    assert_eq!(claims.exp - now().as_second(), 3607);
}

#[test]
fn a_request_that_cannot_be_met_is_refused_in_upstreams_words() {
    let bound = |kind: &str, name: &str, uid: &str| {
        let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
        json!({"boundObjectRef": {"apiVersion": version, "kind": kind, "name": name, "uid": uid}})
    };
    for (spec, told) in [
        (
            json!({"expirationSeconds": 599}),
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: \
             may not specify a duration less than 10 minutes",
        ),
        (
            json!({"expirationSeconds": (1i64 << 32) + 1}),
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: \
             may not specify a duration larger than 2^32 seconds",
        ),
        (bound("Pod", "none", ""), "pods \"none\" not found"),
        (
            bound("Pod", "other", ""),
            "cannot bind token for serviceaccount \"sa\" to pod running with different serviceaccount name.",
        ),
        (
            bound("Pod", "p", "old"),
            "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (old) does not match \
             the UID in record. The object might have been deleted and then recreated",
        ),
        (bound("Deployment", "d", ""), "cannot bind token to object of type apps/v1, Kind=Deployment"),
    ] {
        assert_eq!(request(spec).unwrap_err(), told);
    }
}

#[test]
fn a_body_may_not_contradict_its_path() {
    let fake = cluster();
    let action = token_request::TokenRequest { tokens: Arc::clone(authentication(&fake).tokens()) };
    let answer = |name: &str, metadata: Value| {
        let object = json!({"metadata": metadata, "spec": {}});
        let stored = Stored(fake.clone());
        let answer = action.answer(&stored, "ns", name, object, now());
        answer.now_or_never().unwrap().unwrap_err().message
    };
    assert!(answer("sa", json!({"name": "x"})).contains("must match the service account name if specified"));
    assert!(answer("sa", json!({"namespace": "x"})).contains("must match the service account namespace"));
    assert!(answer("sa", json!({"uid": "x"})).contains("does not match the UID of the service account (u1)"));
    assert_eq!(answer("none", json!({})), "serviceaccounts \"none\" not found");
}

#[test]
fn a_strangers_token_is_reviewed_as_unknown() {
    let review = token_review::TokenReview { authentication: authentication(&cluster()) };
    let answer = review.review(json!({"spec": {"token": "x.y.z"}}), now()).unwrap();
    assert_eq!(answer["status"], json!({"user": {}, "error": "invalid bearer token"}));
    let refused = review.review(json!({"spec": {}}), now()).unwrap_err();
    assert_eq!(refused.message, "token is required for TokenReview in authentication");
}
