//! Key usages by the names that the certificates API gives them (certificates.k8s.io/v1 `KeyUsage`).
#![deny(clippy::disallowed_methods)]

use rcgen::{ExtendedKeyUsagePurpose as Extended, KeyUsagePurpose as Basic};

/// What a certificate may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    pub(crate) basic: Vec<Basic>,
    pub(crate) extended: Vec<Extended>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized usage values: {}", quoted(.0))]
pub struct UnknownUsage(pub Vec<String>);

fn quoted(names: &[String]) -> String {
    format!("[{}]", names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" "))
}

impl Usages {
    pub fn server() -> Usages {
        Usages { basic: vec![Basic::DigitalSignature], extended: vec![Extended::ServerAuth] }
    }

    pub fn client() -> Usages {
        Usages { basic: vec![Basic::DigitalSignature], extended: vec![Extended::ClientAuth] }
    }

    /// Reads a CSR's `spec.usages`.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Usages, UnknownUsage> {
        let mut usages = Usages::default();
        let mut unknown = Vec::new();
        for name in names {
            match (basic(name.as_ref()), extended(name.as_ref())) {
                (Some(usage), _) if !usages.basic.contains(&usage) => usages.basic.push(usage),
                (None, Some(usage)) if !usages.extended.contains(&usage) => usages.extended.push(usage),
                (None, None) => unknown.push(name.as_ref().to_owned()),
                _ => {}
            }
        }
        if unknown.is_empty() { Ok(usages) } else { Err(UnknownUsage(unknown)) }
    }
}

fn basic(name: &str) -> Option<Basic> {
    Some(match name {
        "signing" | "digital signature" => Basic::DigitalSignature,
        "content commitment" => Basic::ContentCommitment,
        "key encipherment" => Basic::KeyEncipherment,
        "key agreement" => Basic::KeyAgreement,
        "data encipherment" => Basic::DataEncipherment,
        "cert sign" => Basic::KeyCertSign,
        "crl sign" => Basic::CrlSign,
        "encipher only" => Basic::EncipherOnly,
        "decipher only" => Basic::DecipherOnly,
        _ => return None,
    })
}

fn extended(name: &str) -> Option<Extended> {
    Some(match name {
        "any" => Extended::Any,
        "server auth" => Extended::ServerAuth,
        "client auth" => Extended::ClientAuth,
        "code signing" => Extended::CodeSigning,
        "email protection" | "s/mime" => Extended::EmailProtection,
        "ipsec end system" => Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 5]),
        "ipsec tunnel" => Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 6]),
        "ipsec user" => Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 7]),
        "timestamping" => Extended::TimeStamping,
        "ocsp signing" => Extended::OcspSigning,
        "microsoft sgc" => Extended::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => Extended::Other(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_read_by_their_api_names() {
        let usages = Usages::from_names(&["digital signature", "signing", "server auth", "s/mime"]).unwrap();
        assert_eq!(usages.basic, [Basic::DigitalSignature]);
        assert_eq!(usages.extended, [Extended::ServerAuth, Extended::EmailProtection]);
    }

    #[test]
    fn every_unknown_usage_is_named() {
        let told = Usages::from_names(&["client auth", "a", "b"]).unwrap_err().to_string();
        assert_eq!(told, r#"unrecognized usage values: ["a" "b"]"#);
    }
}
