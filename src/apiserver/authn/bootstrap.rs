//! Bootstrap tokens: `abcdef.0123456789abcdef`, kept in a Secret of kube-system, by which a machine asks for its
//! first certificate.
#![deny(clippy::disallowed_methods)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::Value;

use crate::user::UserInfo;

pub(super) const SECRET_PREFIX: &str = "bootstrap-token-";
const USER_PREFIX: &str = "system:bootstrap:";
const GROUP: &str = "system:bootstrappers";
const GROUP_PREFIX: &str = "system:bootstrappers:";

/// A text of a bootstrap token's form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) id: &'a str,
    secret: &'a str,
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Token<'a>> {
        let (id, secret) = text.split_once('.')?;
        let fits = |part: &str, length| {
            part.len() == length
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        (fits(id, 6) && fits(secret, 16)).then_some(Token { id, secret })
    }

    /// The user, if the token's Secret says that it may be used to authenticate.
    pub(super) fn user(&self, secret: &Value, now: Timestamp) -> Option<UserInfo> {
        let data = |key| -> Option<String> {
            let encoded = secret.pointer("/data")?.get(key)?.as_str()?;
            String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
        };
        let usable = secret.pointer("/metadata/deletionTimestamp").is_none_or(Value::is_null)
            && secret.get("type").and_then(Value::as_str) == Some("bootstrap.kubernetes.io/token")
            && equal(data("token-secret").unwrap_or_default().as_bytes(), self.secret.as_bytes())
            && data("token-id").as_deref() == Some(self.id)
            && !has_expired(data("expiration").as_deref(), now)
            && data("usage-bootstrap-authentication").as_deref() == Some("true");
        if !usable {
            return None;
        }
        let mut groups = vec![GROUP.to_owned()];
        let extra = data("auth-extra-groups").unwrap_or_default();
        for group in extra.split(',').filter(|group| !group.is_empty()) {
            if !is_bootstrap_group(group) {
                return None;
            }
            if !groups.iter().any(|known| known == group) {
                groups.push(group.to_owned());
            }
        }
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        Some(UserInfo::new(format!("{USER_PREFIX}{}", self.id), &groups))
    }
}

/// A token without an end never expires; one whose end cannot be read has expired.
fn has_expired(expiration: Option<&str>, now: Timestamp) -> bool {
    match expiration {
        None | Some("") => false,
        Some(text) => !text.parse::<Timestamp>().is_ok_and(|end| now < end),
    }
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(GROUP_PREFIX) else { return false };
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|byte| is_word(byte) || byte == b':' || byte == b'-')
        && rest.bytes().last().is_some_and(is_word)
}

/// Compares without telling by its time where the difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        for (key, value) in [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-11-21T11:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:b"),
        ] {
            data[key] = STANDARD.encode(value).into();
        }
        for (key, value) in changes {
            data[key] = STANDARD.encode(value).into();
        }
        json!({"type": "bootstrap.kubernetes.io/token", "metadata": {}, "data": data})
    }

    fn user(secret: &Value) -> Option<UserInfo> {
        Token::parse("abcdef.0123456789abcdef").unwrap().user(secret, now())
    }

    #[test]
    fn a_token_names_a_bootstrapper_with_its_groups() {
        let user = user(&secret(&[])).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        let groups = [
            "system:bootstrappers",
            "system:bootstrappers:a",
            "system:bootstrappers:b",
            "system:authenticated",
        ];
        assert_eq!(user.groups, groups);
    }

    #[test]
    fn whatever_is_wrong_with_the_secret_refuses_the_token() {
        for change in [
            ("token-secret", "0123456789abcdeX"),
            ("token-secret", "0123456789abcde"),
            ("token-secret", ""),
            ("token-id", "abcdeX"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2026-11-21T09:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
        ] {
            assert_eq!(user(&secret(&[change])), None, "{change:?}");
        }
        let mut other = secret(&[]);
        other["type"] = json!("Opaque");
        assert_eq!(user(&other), None);
        let mut deleted = secret(&[]);
        deleted["metadata"]["deletionTimestamp"] = json!("2026-11-21T09:00:00Z");
        assert_eq!(user(&deleted), None);
        assert_eq!(user(&json!({})), None);
    }

    proptest! {
        #[test]
        fn only_the_right_form_is_a_token(text in ".{0,30}") {
            let form = text.len() == 23
                && text.char_indices().all(|(at, c)| if at == 6 { c == '.' } else { c.is_ascii_lowercase() || c.is_ascii_digit() });
            prop_assert_eq!(Token::parse(&text).is_some(), form);
        }

        #[test]
        fn equality_is_that_of_slices(a in proptest::collection::vec(any::<u8>(), 0..4), b in proptest::collection::vec(any::<u8>(), 0..4)) {
            prop_assert_eq!(equal(&a, &b), a == b);
        }
    }
}
