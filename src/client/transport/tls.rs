//! From PEM files to a TLS configuration; ring is the only crypto provider.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring::default_provider},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use super::{
    ConnectError,
    endpoint::{Credentials, Endpoint, Pem},
};

/// Where Debian and most others keep the system's certificate authorities.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) fn client_config(endpoint: &Endpoint) -> Result<ClientConfig, ConnectError> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Tls)?;
    let builder = if endpoint.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    } else {
        builder.with_root_certificates(roots(endpoint.ca.as_ref())?)
    };
    let mut config = match &endpoint.credentials {
        Credentials::Certificate { certificate, key } => {
            let (origin, text) = read(key)?;
            let key = PrivateKeyDer::from_pem_slice(&text).map_err(|source| ConnectError::Pem {
                what: "private key",
                origin,
                source,
            })?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(ConnectError::Tls)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca: Option<&Pem>) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(ConnectError::Tls)?;
            }
        }
        None => {
            let system = certificates(&Pem::File(SYSTEM_ROOTS.into())).map_err(|_| ConnectError::NoRoots)?;
            // A bundle may hold certificates that rustls cannot use; the others still count.
            roots.add_parsable_certificates(system);
        }
    }
    Ok(roots)
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let (origin, text) = read(pem)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => {
            Err(ConnectError::NoPem { what: "certificate", origin })
        }
        Ok(certificates) => Ok(certificates),
        Err(source) => Err(ConnectError::Pem { what: "certificate", origin, source }),
    }
}

/// The text, and what to call it in an error.
fn read(pem: &Pem) -> Result<(String, Vec<u8>), ConnectError> {
    match pem {
        Pem::Data(data) => Ok(("the embedded data".to_string(), data.clone())),
        Pem::File(path) => Ok((path.display().to_string(), read_file(path)?)),
    }
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|source| ConnectError::Read { path: path.to_path_buf(), source })
}

/// `insecure-skip-tls-verify`: the handshake's signatures are checked, the certificate is not.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
