//! JSON Web Tokens (RFC 7519, 7515) on ring: ES256 and RS256, one signature, compact form, and nothing else.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_2048_8192_SHA256,
        RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use x509_parser::{prelude::FromDer as _, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use crate::key::Key;

/// The key that signs tokens, and the keys whose tokens are accepted.
pub struct TokenKeys {
    signer: Signer,
    verifiers: Vec<Verifier>,
}

enum Signer {
    Es256(Box<EcdsaKeyPair>),
    Rs256(Box<RsaKeyPair>),
}

#[derive(Debug)]
struct Verifier {
    /// The base64url SHA-256 of the DER public key, as upstream names its keys.
    id: String,
    key: Public,
}

#[derive(Debug, PartialEq, Eq)]
enum Public {
    /// An uncompressed point: 0x04, x, y.
    Es256(Vec<u8>),
    Rs256 {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a JSON Web Token")]
    Malformed,
    #[error("a token signed by an algorithm that is not accepted")]
    Algorithm,
    #[error("invalid signature, no keys found")]
    UnknownKey,
    #[error("invalid signature")]
    Signature,
    #[error("claims that are not those of such a token")]
    Claims,
    #[error("a key that can neither sign ES256 (P-256) nor RS256 (RSA of 2048 bits and more)")]
    Key,
    #[error("not a PEM public key")]
    PublicKey,
    #[error("sign a token")]
    Sign,
}

impl TokenKeys {
    /// Signs with `key` and accepts its tokens.
    pub fn new(key: &Key) -> Result<TokenKeys, TokenError> {
        let pkcs8 = key.pkcs8();
        let bytes = pkcs8.secret_pkcs8_der();
        let ecdsa = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &SystemRandom::new());
        let signer = match ecdsa {
            Ok(pair) => Signer::Es256(Box::new(pair)),
            Err(_) => Signer::Rs256(Box::new(RsaKeyPair::from_pkcs8(bytes).map_err(|_| TokenError::Key)?)),
        };
        let own = Verifier::from_der(&key.public_der()).ok_or(TokenError::Key)?;
        Ok(TokenKeys { signer, verifiers: vec![own] })
    }

    /// Accepts the tokens of every public key in a PEM text as well.
    pub fn accepting(mut self, pem: &[u8]) -> Result<TokenKeys, TokenError> {
        let mut count = 0;
        for der in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let der = der.map_err(|_| TokenError::PublicKey)?;
            let verifier = Verifier::from_der(&der).ok_or(TokenError::Key)?;
            if self.verifiers.iter().all(|known| known.id != verifier.id) {
                self.verifiers.push(verifier);
            }
            count += 1;
        }
        if count == 0 { Err(TokenError::PublicKey) } else { Ok(self) }
    }

    pub fn sign(&self, claims: &impl Serialize) -> Result<String, TokenError> {
        let (algorithm, id) = (self.signer.algorithm(), &self.verifiers[0].id);
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "kid": id}).to_string());
        let claims = serde_json::to_vec(claims).map_err(|_| TokenError::Claims)?;
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = self.signer.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that one of our keys signed. Who issued it, for whom and until when is not looked at.
    pub fn verify<C: DeserializeOwned>(&self, token: &str) -> Result<C, TokenError> {
        let parts = Parts::split(token).ok_or(TokenError::Malformed)?;
        let header: Value = parts.header().ok_or(TokenError::Malformed)?;
        if header.get("crit").is_some() {
            return Err(TokenError::Algorithm); // demands an extension, and we know none
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(TokenError::Malformed)?;
        let id = header.get("kid").and_then(Value::as_str).unwrap_or_default();
        let signature = URL_SAFE_NO_PAD.decode(parts.signature).map_err(|_| TokenError::Malformed)?;
        let mut error = TokenError::UnknownKey;
        for verifier in self.verifiers.iter().filter(|verifier| id.is_empty() || verifier.id == id) {
            if verifier.key.algorithm() != algorithm {
                error = TokenError::Algorithm;
            } else if verifier.key.verify(parts.signed.as_bytes(), &signature) {
                let claims = URL_SAFE_NO_PAD.decode(parts.claims).map_err(|_| TokenError::Malformed)?;
                return serde_json::from_slice(&claims).map_err(|_| TokenError::Claims);
            } else {
                error = TokenError::Signature;
            }
        }
        Err(error)
    }

    /// The JSON Web Key Set (RFC 7517) of the accepted keys, as `/openid/v1/jwks` shows it.
    pub fn key_set(&self) -> Value {
        json!({"keys": self.verifiers.iter().map(Verifier::to_jwk).collect::<Vec<_>>()})
    }

    /// The document of `/.well-known/openid-configuration`.
    pub fn discovery(&self, issuer: &str, key_set_uri: &str) -> Value {
        let mut algorithms: Vec<_> = self.verifiers.iter().map(|verifier| verifier.key.algorithm()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": issuer,
            "jwks_uri": key_set_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.verifiers.iter().map(|verifier| &verifier.id).collect();
        f.debug_struct("TokenKeys").field("accepted", &ids).finish_non_exhaustive()
    }
}

impl Signer {
    fn algorithm(&self) -> &'static str {
        match self {
            Signer::Es256(_) => "ES256",
            Signer::Rs256(_) => "RS256",
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let random = SystemRandom::new();
        match self {
            Signer::Es256(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| TokenError::Sign),
            Signer::Rs256(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.map(|()| signature).map_err(|_| TokenError::Sign)
            }
        }
    }
}

impl Verifier {
    fn from_der(der: &[u8]) -> Option<Verifier> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        let key = match info.parsed().ok()? {
            PublicKey::EC(point) if point.data().len() == 65 => Public::Es256(point.data().to_vec()),
            PublicKey::RSA(rsa) if rsa.key_size() >= 2048 => Public::Rs256 {
                modulus: without_leading_zeros(rsa.modulus),
                exponent: without_leading_zeros(rsa.exponent),
            },
            _ => return None,
        };
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der));
        rest.is_empty().then_some(Verifier { id, key })
    }

    fn to_jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (id, algorithm) = (&self.id, self.key.algorithm());
        match &self.key {
            Public::Es256(point) => json!({
                "use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": algorithm,
                "x": text(&point[1..33]), "y": text(&point[33..]),
            }),
            Public::Rs256 { modulus, exponent } => json!({
                "use": "sig", "kty": "RSA", "kid": id, "alg": algorithm, "n": text(modulus), "e": text(exponent),
            }),
        }
    }
}

impl Public {
    fn algorithm(&self) -> &'static str {
        match self {
            Public::Es256(_) => "ES256",
            Public::Rs256 { .. } => "RS256",
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Public::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Public::Rs256 { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
        }
    }
}

fn without_leading_zeros(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
}

/// A token's three parts, still encoded.
struct Parts<'a> {
    signed: &'a str,
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Option<Parts<'a>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        (!claims.contains('.')).then_some(Parts { signed, header, claims, signature })
    }

    fn header(&self) -> Option<Value> {
        json_part(self.header)
    }
}

fn json_part(encoded: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).ok()?).ok().filter(Value::is_object)
}

/// Who a token says issued it. Nothing is verified: only for choosing who is to verify it.
pub fn unverified_issuer(token: &str) -> Option<String> {
    let claims = json_part(Parts::split(token)?.claims)?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> TokenKeys {
        TokenKeys::new(&Key::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_signed_token_is_verified_and_a_strangers_is_not() {
        let keys = keys();
        let token = keys.sign(&json!({"sub": "a"})).unwrap();
        assert_eq!(keys.verify::<Value>(&token).unwrap(), json!({"sub": "a"}));
        let other = self::keys();
        assert_eq!(other.verify::<Value>(&token), Err(TokenError::UnknownKey));
    }

    #[test]
    fn a_changed_claim_breaks_the_signature() {
        let keys = keys();
        let token = keys.sign(&json!({"sub": "a"})).unwrap();
        let mut parts: Vec<&str> = token.split('.').collect();
        let claims = URL_SAFE_NO_PAD.encode(json!({"sub": "b"}).to_string());
        parts[1] = &claims;
        assert_eq!(keys.verify::<Value>(&parts.join(".")), Err(TokenError::Signature));
    }

    #[test]
    fn no_algorithm_but_the_keys_own_is_accepted() {
        let keys = keys();
        let token = keys.sign(&json!({"sub": "a"})).unwrap();
        let (_, rest) = token.split_once('.').unwrap();
        for header in [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": "RS256"})] {
            let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()));
            assert_eq!(keys.verify::<Value>(&forged), Err(TokenError::Algorithm), "{header}");
        }
        let critical = URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "crit": ["b64"]}).to_string());
        assert_eq!(keys.verify::<Value>(&format!("{critical}.{rest}")), Err(TokenError::Algorithm));
    }

    #[test]
    fn the_tokens_of_a_former_key_are_accepted_while_it_is_listed() {
        let (old, new) = (Key::generate().unwrap(), Key::generate().unwrap());
        let token = TokenKeys::new(&old).unwrap().sign(&json!({"sub": "a"})).unwrap();
        let pem = [old.public_pem(), new.public_pem()].concat();
        let keys = TokenKeys::new(&new).unwrap().accepting(pem.as_bytes()).unwrap();
        keys.verify::<Value>(&token).unwrap();
        assert_eq!(keys.key_set()["keys"].as_array().unwrap().len(), 2);
    }

    /// A key and a token that OpenSSL made.
    const RSA_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArQ800HMXIeCXYtnAQVPm
wkrrhRtU1vB3RE9NhDQoaOX0nsGiAfTpfFXhL4Ffsqm/6DicqVa2jjnE/VWr8Bx4
rw/ilJVdlI/hmfvwDFBjw/DgNqglKKVgeyvIotZxX15w16NEmUrNEEmf95tK1D/E
l2s9hcDyx61ihRHeyOmFOXYNM1k9NeAJQiTWaXnb8lNjgRzgtRvOcuDjzDQE1d0m
iG9RVz2KvtA33QqCHY/lW4OjbOUTAmJCKwmOpOl3TngWqQtKc2JG+qtcAuuxswKP
OuOga0HFQMBq07483x2/ELAoXhCOWZjtuTLxANMhNKpNWRePu8crtcdHeqg6IZOr
mQIDAQAB
-----END PUBLIC KEY-----
";
    const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6Iko1UW52Z2NlYTVZeWRGd2RCdklUaE5ZYUhnOUJXSmZHYTgxVnpjNlBDU1ki\
        fQ.eyJzdWIiOiJhIn0.rN-2pXDGgHr85MMmFmdIFLb4J94uZszkoKeOzXi5oV6ejWoW8CF61_c382c0UWQtawPE8\
        s2f4-sIQ7dWd_symwsQ3pVHZYYwBPGig-HVXqei-dwoz1-ztrk43Cd8HwTCjSPJYSbTgNZlGEqaNChZ2n8cgEgYi\
        B7i15ahfzSrm4BeXD3u3NTVHdtIz-8ukL8wZtCoXmYI8SO1sgabbhcCy9IN4q84KkDrBFmviYtRCqI7_awRWgcmb\
        HG2Hhik3MpcuAXhua4XoOceNJ_7H_LzCyhh8d6_tO5cezHAA2cVoDcbb1VzjTdob2Hrr4sZW0eOxObqw8CGJ5N-Q\
        TUJlkg1Aw";

    #[test]
    fn the_token_of_an_rsa_key_is_verified() {
        let keys = keys().accepting(RSA_KEY.as_bytes()).unwrap();
        assert_eq!(keys.verify::<Value>(RSA_TOKEN).unwrap(), json!({"sub": "a"}));
        let changed = RSA_TOKEN.replace(&URL_SAFE_NO_PAD.encode(r#"{"sub":"a"}"#), "e30");
        assert_eq!(keys.verify::<Value>(&changed), Err(TokenError::Signature));
        assert_eq!(keys.key_set()["keys"][1]["e"], "AQAB");
        let document = keys.discovery("i", "u");
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256", "RS256"]));
    }

    #[test]
    fn the_discovery_document_names_the_algorithms_of_the_keys() {
        let document = keys().discovery("https://kubernetes.default.svc", "https://host:6443/openid/v1/jwks");
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    }

    #[test]
    fn the_issuer_is_read_without_a_key() {
        let token = keys().sign(&json!({"iss": "https://a"})).unwrap();
        assert_eq!(unverified_issuer(&token).as_deref(), Some("https://a"));
        assert_eq!(unverified_issuer("abcdef.0123456789abcdef"), None);
    }

    #[test]
    fn debug_shows_no_private_key() {
        let shown = format!("{:?}", keys());
        assert!(shown.starts_with("TokenKeys { accepted:"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_panics_the_reader(token in ".{0,200}", parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..5)) {
            let keys = TokenKeys::new(&Key::generate().unwrap()).unwrap();
            prop_assert!(keys.verify::<Value>(&token).is_err());
            let encoded: Vec<String> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
            prop_assert!(keys.verify::<Value>(&encoded.join(".")).is_err());
            let _ = unverified_issuer(&encoded.join("."));
        }

        #[test]
        fn no_changed_character_is_accepted(at in 0usize..400, to in "[A-Za-z0-9_.-]") {
            let keys = TokenKeys::new(&Key::generate().unwrap()).unwrap();
            let token = keys.sign(&json!({"sub": "a", "n": 1})).unwrap();
            let at = at % token.len();
            let mut changed = token.clone();
            changed.replace_range(at..=at, &to);
            // (the last character of a part may carry bits that no byte uses: such a change is refused too)
            prop_assert_eq!(keys.verify::<Value>(&changed).is_ok(), changed == token);
        }
    }
}
