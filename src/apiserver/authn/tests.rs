//! Requests with and without credentials.

use http::{HeaderValue, Request, header::HeaderName};
use pki::{
    Authority, Key,
    claims::{Kubernetes, Reference},
};
use serde_json::json;

use super::*;
use crate::authz::tests::Fake;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub(crate) fn authentication(fake: &Fake) -> Arc<Authentication> {
    let keys = TokenKeys::new(&Key::generate().unwrap()).unwrap();
    let authentication = Authentication::new(Arc::new(TokenIssuer::new(keys, ISSUER)));
    authentication.attach(Arc::new(fake.clone()));
    authentication
}

fn cluster() -> Fake {
    let fake = Fake::default();
    fake.put("serviceaccounts", "ns", "sa", json!({"metadata": {"uid": "u1"}}));
    let data = json!({
        "token-id": "YWJjZGVm", "token-secret": "MDEyMzQ1Njc4OWFiY2RlZg==",
        "usage-bootstrap-authentication": "dHJ1ZQ==",
    });
    let secret = json!({"type": "bootstrap.kubernetes.io/token", "data": data});
    fake.put("secrets", "kube-system", "bootstrap-token-abcdef", secret);
    fake
}

fn token(authentication: &Authentication, issuer: &str, audience: &str) -> String {
    let claims = Claims {
        aud: vec![audience.into()],
        exp: Timestamp::now().as_second() + 600,
        iat: None,
        iss: issuer.into(),
        jti: String::new(),
        kubernetes: Kubernetes {
            namespace: "ns".into(),
            serviceaccount: Reference { name: "sa".into(), uid: "u1".into() },
            ..Kubernetes::default()
        },
        nbf: None,
        sub: service_account_name("ns", "sa"),
    };
    authentication.tokens.keys.sign(&claims).unwrap()
}

/// The user's name, `anonymous`, or `401`.
fn known(
    authentication: &Authentication,
    headers: &[(&str, &str)],
    peer: Option<&PeerCertificates>,
) -> String {
    let mut request = Request::get("/healthz");
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request = request.header(name, HeaderValue::from_str(value).unwrap());
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let found = futures_util::FutureExt::now_or_never(authentication.authenticate(&parts, peer)).unwrap();
    match found {
        Ok(Some(user)) => user.name,
        Ok(None) => "anonymous".into(),
        Err(error) => {
            assert_eq!(error, ApiError::unauthorized());
            "401".into()
        }
    }
}

#[test]
fn credentials_decide_whose_request_it_is() {
    let authentication = authentication(&cluster());
    let good = token(&authentication, ISSUER, ISSUER);
    let foreign = token(&self::authentication(&cluster()), ISSUER, ISSUER);
    for (header, who) in [
        (format!("Bearer {good}"), "system:serviceaccount:ns:sa"),
        (format!("bearer   {good} "), "system:serviceaccount:ns:sa"),
        (format!("Bearer {foreign}"), "401"),
        (format!("Bearer {good}x"), "401"),
        (format!("Bearer {}", token(&authentication, ISSUER, "vault")), "401"),
        (format!("Bearer {}", token(&authentication, "https://elsewhere", ISSUER)), "401"),
        ("Bearer abcdef.0123456789abcdef".into(), "system:bootstrap:abcdef"),
        ("Bearer abcdef.0123456789abcdeX".into(), "401"),
        ("Bearer fedcba.0123456789abcdef".into(), "401"),
        ("Bearer nonsense".into(), "401"),
        ("Bearer ".into(), "anonymous"),
        ("Basic YTpi".into(), "anonymous"),
    ] {
        assert_eq!(known(&authentication, &[("authorization", &header)], None), who, "{header}");
    }
    assert_eq!(known(&authentication, &[], None), "anonymous");
}

#[test]
fn a_browser_sends_its_token_as_a_subprotocol() {
    let authentication = authentication(&cluster());
    let encoded = URL_SAFE_NO_PAD.encode(token(&authentication, ISSUER, ISSUER));
    let protocols = format!("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{encoded}");
    let headers = [("upgrade", "websocket"), ("sec-websocket-protocol", protocols.as_str())];
    assert_eq!(known(&authentication, &headers, None), "system:serviceaccount:ns:sa");
    assert_eq!(known(&authentication, &headers[1..], None), "anonymous");
}

#[test]
fn a_certificate_comes_before_a_token() {
    let authentication = authentication(&cluster());
    let now = Timestamp::now();
    let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap();
    let jane = authority.issue_client("jane", &[], now).unwrap();
    let peer = PeerCertificates(Arc::new(vec![jane.certificate.der]));
    let header = [("authorization", "Bearer nonsense")];
    assert_eq!(known(&authentication, &header, Some(&peer)), "jane");
    let nobody = authority.issue_client("", &[], now).unwrap();
    let peer = PeerCertificates(Arc::new(vec![nobody.certificate.der]));
    assert_eq!(known(&authentication, &header, Some(&peer)), "401");
    assert_eq!(known(&authentication, &[], Some(&peer)), "anonymous");
}

#[test]
fn a_token_is_reviewed_for_the_audiences_that_are_asked_for() {
    let authentication = authentication(&cluster());
    let token = token(&authentication, ISSUER, "vault");
    let review = |audiences: &[&str]| {
        let audiences: Vec<String> = audiences.iter().map(|text| (*text).to_owned()).collect();
        authentication.token(&token, &audiences, Timestamp::now())
    };
    assert_eq!(review(&["vault", "other"]).unwrap().audiences, ["vault"]);
    let told = review(&["other"]).unwrap_err().to_string();
    assert_eq!(told, r#"token audiences ["vault"] is invalid for the target audiences ["other"]"#);
}

proptest::proptest! {
    #[test]
    fn no_header_panics_the_reader(token in "[ -~]{0,120}") {
        let authentication = authentication(&cluster());
        let who = known(&authentication, &[("authorization", &format!("Bearer {token}"))], None);
        proptest::prop_assert!(who == "401" || token.trim().is_empty());
    }
}
