//! A private key: ECDSA P-256 when we make it, anything ring can sign with when it is brought.

use std::fmt;

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use crate::der;

/// A private key. It has no `Display`, and `Debug` shows nothing of it.
pub struct Key {
    pair: rcgen::KeyPair,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("not a PEM private key")]
    NotPem,
    #[error(
        "a private key in SEC1 form that does not name its curve; convert it: openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW"
    )]
    NoCurve,
    #[error("not a private key of a supported kind (ECDSA P-256 or P-384, Ed25519, RSA 2048 and longer)")]
    Unsupported(#[source] rcgen::Error),
    #[error("make a private key")]
    Generate(#[source] rcgen::Error),
}

impl Key {
    pub fn generate() -> Result<Key, KeyError> {
        let pair = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Key { pair })
    }

    /// Reads the first private key of a PEM text: PKCS#8 (`BEGIN PRIVATE KEY`), or the older forms of one algorithm,
    /// which upstream's kubelet (SEC1) and kubeadm (PKCS#1) write.
    pub fn from_pem(pem: &[u8]) -> Result<Key, KeyError> {
        let der = match PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem)? {
            PrivateKeyDer::Pkcs8(der) => der,
            PrivateKeyDer::Pkcs1(der) => der::pkcs8_of_pkcs1(der.secret_pkcs1_der()).into(),
            PrivateKeyDer::Sec1(der) => {
                der::pkcs8_of_sec1(der.secret_sec1_der()).ok_or(KeyError::NoCurve)?.into()
            }
            _ => return Err(KeyError::NotPem),
        };
        let pair = rcgen::KeyPair::try_from(&der).map_err(KeyError::Unsupported)?;
        Ok(Key { pair })
    }

    /// PKCS#8 PEM: to be written to a 0600 file or a kubeconfig, and nowhere else.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    pub fn public_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// The public key as PEM (`BEGIN PUBLIC KEY`).
    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    pub(crate) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.pair.serialized_der())
    }

    /// The key as rustls takes it.
    pub fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.pkcs8().clone_key())
    }

    pub(crate) fn pair(&self) -> &rcgen::KeyPair {
        &self.pair
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_survives_its_pem() {
        let key = Key::generate().unwrap();
        let again = Key::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.public_der(), key.public_der());
    }

    #[test]
    fn debug_shows_nothing_of_a_key() {
        assert_eq!(format!("{:?}", Key::generate().unwrap()), "Key(redacted)");
    }

    #[test]
    fn the_older_forms_of_a_key_are_the_same_key() {
        for pem in [include_str!("testdata/sec1.pem"), include_str!("testdata/pkcs1.pem")] {
            let key = Key::from_pem(pem.as_bytes()).unwrap();
            let again = Key::from_pem(key.to_pem().as_bytes()).unwrap();
            assert_eq!(again.public_der(), key.public_der());
        }
    }

    #[test]
    fn a_key_that_does_not_name_its_curve_is_told_how_to_be_converted() {
        let pem = "-----BEGIN EC PRIVATE KEY-----\nMAAAAA==\n-----END EC PRIVATE KEY-----\n";
        let told = Key::from_pem(pem.as_bytes()).unwrap_err().to_string();
        assert!(told.contains("openssl pkcs8 -topk8"), "{told}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Key::from_pem(&bytes).unwrap_err();
            let mut pem = b"-----BEGIN PRIVATE KEY-----\n".to_vec();
            pem.extend(&bytes);
            pem.extend(b"\n-----END PRIVATE KEY-----\n");
            Key::from_pem(&pem).unwrap_err();
        }
    }
}
