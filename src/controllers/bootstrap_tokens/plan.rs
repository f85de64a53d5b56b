//! Which signatures `cluster-info` should hold, and when a token's time is over.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use pki::BootstrapToken;

/// What is signed.
const SIGNED: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";
const NAME: &str = "bootstrap-token-";

/// The ConfigMap as it should be; none if it is so already.
pub(super) fn sign<'a>(
    info: &ConfigMap,
    tokens: impl IntoIterator<Item = &'a Secret>,
    now: Timestamp,
) -> Option<ConfigMap> {
    let data = info.data.clone().unwrap_or_default();
    let mut wanted: BTreeMap<String, String> = data
        .iter()
        .filter(|(key, _)| !key.starts_with(SIGNATURE))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if let Some(content) = data.get(SIGNED) {
        for token in tokens.into_iter().filter_map(|secret| signer(secret, now)) {
            wanted.insert(format!("{SIGNATURE}{}", token.id()), token.sign(content.as_bytes()));
        }
    }
    (wanted != data).then(|| ConfigMap { data: Some(wanted), ..info.clone() })
}

/// The token of a Secret that may sign now.
fn signer(secret: &Secret, now: Timestamp) -> Option<BootstrapToken> {
    if secret.metadata.deletion_timestamp.is_some() || text(secret, "usage-bootstrap-signing") != "true" {
        return None;
    }
    if time_left(secret, now).is_some_and(|left| left.is_zero()) {
        return None;
    }
    let token = format!("{}.{}", text(secret, "token-id"), text(secret, "token-secret"));
    let token: BootstrapToken = token.parse().ok()?;
    let name = secret.metadata.name.as_deref().and_then(|name| name.strip_prefix(NAME));
    (name == Some(token.id())).then_some(token)
}

/// How long the token may still be used; none: for ever. One whose end cannot be read has ended.
pub(super) fn time_left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let end = text(secret, "expiration");
    if end.is_empty() {
        return None;
    }
    let end = end.parse::<Timestamp>().unwrap_or(Timestamp::MIN);
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn secret(id: &str, changes: &[(&str, &str)]) -> Secret {
        let mut data: BTreeMap<String, ByteString> = [
            ("token-id", id),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-signing", "true"),
            ("expiration", "2026-11-21T11:00:00Z"),
        ]
        .iter()
        .chain(changes)
        .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
        .collect();
        data.retain(|_, value| !value.0.is_empty());
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        secret.metadata.name = Some(format!("{NAME}{id}"));
        secret
    }

    fn info(data: serde_json::Value) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "cluster-info"}, "data": data})).unwrap()
    }

    fn keys(map: &ConfigMap) -> Vec<&str> {
        map.data.iter().flatten().map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn each_token_signs_and_signing_again_changes_nothing() {
        let tokens = [secret("abcdef", &[]), secret("ghijkl", &[("expiration", "")])];
        let signed = sign(&info(json!({"kubeconfig": "here", "note": "kept"})), &tokens, now()).unwrap();
        assert_eq!(keys(&signed), ["jws-kubeconfig-abcdef", "jws-kubeconfig-ghijkl", "kubeconfig", "note"]);
        let token: BootstrapToken = "abcdef.0123456789abcdef".parse().unwrap();
        assert!(token.has_signed(b"here", &signed.data.as_ref().unwrap()["jws-kubeconfig-abcdef"]));
        assert_eq!(sign(&signed, &tokens, now()), None);
        let without = sign(&signed, &tokens[1..], now()).unwrap();
        assert_eq!(keys(&without), ["jws-kubeconfig-ghijkl", "kubeconfig", "note"]);
    }

    #[test]
    fn a_token_that_may_not_sign_leaves_no_signature() {
        for change in [
            ("usage-bootstrap-signing", "false"),
            ("expiration", "2026-11-21T09:59:59Z"),
            ("expiration", "soon"),
            ("token-secret", "short"),
            ("token-id", "zzzzzz"),
        ] {
            assert_eq!(
                sign(&info(json!({"kubeconfig": "x"})), &[secret("abcdef", &[change])], now()),
                None,
                "{change:?}"
            );
        }
        // Nothing to sign.
        assert_eq!(sign(&info(json!({})), &[secret("abcdef", &[])], now()), None);
    }

    #[test]
    fn time_is_over_at_the_end_and_never_without_one() {
        assert_eq!(time_left(&secret("abcdef", &[]), now()), Some(Duration::from_secs(3600)));
        assert_eq!(time_left(&secret("abcdef", &[("expiration", "")]), now()), None);
        assert_eq!(
            time_left(&secret("abcdef", &[("expiration", "2026-11-21T09:00:00Z")]), now()),
            Some(Duration::ZERO)
        );
        assert_eq!(time_left(&secret("abcdef", &[("expiration", "soon")]), now()), Some(Duration::ZERO));
    }
}
