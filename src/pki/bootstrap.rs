//! Bootstrap tokens, by which a machine and a cluster that do not know each other begin to: the token's secret signs
//! what the cluster says of itself, and the hash of the authority's public key says whether it is the one that was meant.
//!
//! The forms are kubeadm's: `abcdef.0123456789abcdef`, `sha256:` and the hex digest of the DER SubjectPublicKeyInfo,
//! and a JWS (RFC 7515, HS256) whose payload is left out (appendix F).
#![deny(clippy::disallowed_methods)]

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde_json::json;

use crate::certificate::Certificate;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const HASH_PREFIX: &str = "sha256:";

/// A token: its id is public, its secret is not, and `Debug` shows only the id.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    #[error("a token has the form abcdef.0123456789abcdef: six and sixteen lower-case letters or digits")]
    Token,
    #[error("a hash has the form sha256: and 64 hexadecimal digits")]
    Hash,
    #[error("the system has no random numbers")]
    NoRandom,
}

impl BootstrapToken {
    /// A new one, from the system's random numbers.
    pub fn generate() -> Result<BootstrapToken, BootstrapError> {
        let random = SystemRandom::new();
        let id = letters(&random, ID_LENGTH).ok_or(BootstrapError::NoRandom)?;
        let secret = letters(&random, SECRET_LENGTH).ok_or(BootstrapError::NoRandom)?;
        Ok(BootstrapToken { id, secret })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// `id.secret`: for the person who asked for it, for its Secret, and for an Authorization header.
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Whether a text is a token's id.
    pub fn is_id(text: &str) -> bool {
        fits(text, ID_LENGTH)
    }

    /// The detached signature of `content`: what upstream's bootstrap signer writes, letter for letter.
    pub fn sign(&self, content: &[u8]) -> String {
        let header = self.header();
        let signature = hmac::sign(&self.key(), signed(&header, content).as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether `signature` is this token's for `content`.
    pub fn has_signed(&self, content: &[u8], signature: &str) -> bool {
        let header = self.header();
        let Some(signature) = signature.strip_prefix(&header).and_then(|rest| rest.strip_prefix("..")) else {
            return false;
        };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        hmac::verify(&self.key(), signed(&header, content).as_bytes(), &signature).is_ok()
    }

    fn header(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": self.id}).to_string())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes())
    }
}

fn signed(header: &str, content: &[u8]) -> String {
    format!("{header}.{}", URL_SAFE_NO_PAD.encode(content))
}

impl FromStr for BootstrapToken {
    type Err = BootstrapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, secret) = text.split_once('.').ok_or(BootstrapError::Token)?;
        if !fits(id, ID_LENGTH) || !fits(secret, SECRET_LENGTH) {
            return Err(BootstrapError::Token);
        }
        Ok(BootstrapToken { id: id.to_owned(), secret: secret.to_owned() })
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BootstrapToken").field(&self.id).finish()
    }
}

fn fits(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| LETTERS.contains(&byte))
}

/// Every letter is as likely as every other: bytes beyond the last whole multiple of 36 are thrown away.
fn letters(random: &SystemRandom, length: usize) -> Option<String> {
    let limit = u8::MAX - u8::MAX % 36;
    let mut text = String::new();
    while text.len() < length {
        let mut bytes = [0; 32];
        random.fill(&mut bytes).ok()?;
        let fair = bytes.iter().filter(|byte| **byte < limit);
        text.extend(fair.map(|byte| char::from(LETTERS[usize::from(byte % 36)])).take(length - text.len()));
    }
    Some(text)
}

/// What an authority is recognized by: the digest of its public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    pub fn of(certificate: &Certificate) -> KeyHash {
        let digest = digest::digest(&digest::SHA256, &certificate.public_key);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        KeyHash(hex)
    }
}

impl FromStr for KeyHash {
    type Err = BootstrapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix(HASH_PREFIX).ok_or(BootstrapError::Hash)?;
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BootstrapError::Hash);
        }
        Ok(KeyHash(hex.to_ascii_lowercase()))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_PREFIX}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Authority, Key};

    #[test]
    fn a_new_token_reads_back_and_shows_no_secret() {
        let token = BootstrapToken::generate().unwrap();
        assert_eq!(token.reveal().parse::<BootstrapToken>().unwrap(), token);
        assert_eq!(format!("{token:?}"), format!("BootstrapToken({:?})", token.id()));
        assert_ne!(BootstrapToken::generate().unwrap(), token);
    }

    /// RFC 7515 leaves the header's spelling to the signer; upstream compares the whole text, so it must be Go's.
    #[test]
    fn the_signature_has_the_form_of_upstreams_signer() {
        let token: BootstrapToken = "07401b.f395accd246ae52d".parse().unwrap();
        let signature = token.sign(b"content");
        assert!(signature.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6IjA3NDAxYiJ9.."), "{signature}");
        assert!(token.has_signed(b"content", &signature));
        assert!(!token.has_signed(b"Content", &signature));
        let other: BootstrapToken = "07401b.f395accd246ae52e".parse().unwrap();
        assert!(!other.has_signed(b"content", &signature));
        assert!(!token.has_signed(b"content", ""));
    }

    #[test]
    fn an_authority_is_recognized_by_its_key_alone() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let key = Key::generate().unwrap();
        let pem = key.to_pem();
        let again = || Key::from_pem(pem.as_bytes()).unwrap();
        let first = Authority::self_signed("kubernetes", key, now).unwrap();
        let renewed = Authority::self_signed("kubernetes", again(), now).unwrap();
        let hash = KeyHash::of(first.certificate());
        assert_eq!(KeyHash::of(renewed.certificate()), hash);
        assert_eq!(hash.to_string().to_uppercase().replace("SHA256", "sha256").parse(), Ok(hash));
    }

    #[test]
    fn what_is_no_hash_is_told_the_form() {
        for text in ["", "sha256:", "sha256:abc", "md5:00", &format!("sha256:{}", "g".repeat(64))] {
            assert_eq!(text.parse::<KeyHash>(), Err(BootstrapError::Hash), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn only_the_right_form_is_a_token(text in "[a-z0-9.A-Z]{0,30}") {
            let form = text.len() == 23
                && text.char_indices().all(|(at, c)| if at == 6 { c == '.' } else { c.is_ascii_lowercase() || c.is_ascii_digit() });
            prop_assert_eq!(text.parse::<BootstrapToken>().is_ok(), form);
        }

        #[test]
        fn no_text_panics_the_readers(text in ".{0,80}") {
            drop(text.parse::<BootstrapToken>());
            drop(text.parse::<KeyHash>());
        }
    }
}
