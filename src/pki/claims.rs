//! The claims of a service-account token: whose it is, and what it is bound to.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// Clocks differ: what has just ended or not quite begun is let pass by this much.
pub const LEEWAY_SECONDS: i64 = 60;

/// The payload of a service-account token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    /// Seconds since 1970, as `iat` and `nbf`. A token without an end is refused.
    #[serde(deserialize_with = "seconds")]
    pub exp: i64,
    #[serde(default, deserialize_with = "maybe_seconds", skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    #[serde(default, deserialize_with = "maybe_seconds", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    pub sub: String,
}

/// The account, and the object whose end is also the token's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    pub namespace: String,
    /// With a pod: the node that it runs on. Without: the node that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    /// The token is past the life that was asked for and still accepted.
    #[serde(default, deserialize_with = "maybe_seconds", skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    #[serde(default)]
    pub name: String,
    /// Empty for the node of a pod whose Node object is not there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("service account token is issued in the future")]
    FromTheFuture,
}

impl Claims {
    /// Whether the token is valid at `now`, give or take [`LEEWAY_SECONDS`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), TimeError> {
        let now = now.as_second();
        if self.nbf.is_some_and(|start| now.saturating_add(LEEWAY_SECONDS) < start) {
            return Err(TimeError::NotYet);
        }
        if now.saturating_sub(LEEWAY_SECONDS) > self.exp {
            return Err(TimeError::Expired);
        }
        if self.iat.is_some_and(|issued| now.saturating_add(LEEWAY_SECONDS) < issued) {
            return Err(TimeError::FromTheFuture);
        }
        Ok(())
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// A NumericDate (RFC 7519): it may have a fraction, which is dropped.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let whole = number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64));
    whole.ok_or_else(|| serde::de::Error::custom("a time that is not a number of seconds"))
}

fn maybe_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    seconds(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Claims {
        let rest = r#""iss":"i","sub":"s","kubernetes.io":{"namespace":"n","serviceaccount":{"name":"a","uid":"u"}}"#;
        serde_json::from_str(&format!("{{{rest},{text}}}")).unwrap()
    }

    #[test]
    fn one_audience_may_stand_without_a_list() {
        assert_eq!(claims(r#""exp":1,"aud":"a""#).aud, ["a"]);
        assert_eq!(claims(r#""exp":1,"aud":["a","b"]"#).aud, ["a", "b"]);
    }

    #[test]
    fn a_time_may_have_a_fraction() {
        assert_eq!(claims(r#""exp":12.9"#).exp, 12);
    }

    #[test]
    fn claims_survive_their_text() {
        let claims = claims(r#""exp":1,"nbf":2,"iat":3,"jti":"x""#);
        assert_eq!(serde_json::from_value::<Claims>(serde_json::to_value(&claims).unwrap()).unwrap(), claims);
    }

    #[test]
    fn a_token_is_valid_between_its_times_give_or_take_a_minute() {
        let claims = claims(r#""exp":2000,"nbf":1000,"iat":1000"#);
        let at = |second| claims.check_time(Timestamp::from_second(second).unwrap());
        assert_eq!(at(1500), Ok(()));
        assert_eq!(at(940), Ok(()));
        assert_eq!(at(939), Err(TimeError::NotYet));
        assert_eq!(at(2060), Ok(()));
        assert_eq!(at(2061), Err(TimeError::Expired));
    }

    #[test]
    fn a_token_without_an_end_is_refused() {
        let text = r#"{"iss":"i","sub":"s","kubernetes.io":{"namespace":"n","serviceaccount":{"name":"a","uid":"u"}}}"#;
        serde_json::from_str::<Claims>(text).unwrap_err();
    }
}
