//! rustls configurations for our servers and clients, on ring.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{authority::Issued, certificate::Certificate};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the authority's certificate cannot be trusted")]
    Root(#[source] rustls::Error),
    #[error("set up the verification of client certificates")]
    Verifier(#[source] VerifierBuilderError),
    #[error("read the PEM text of a certificate or key")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("use a certificate and its key for TLS")]
    Pair(#[source] rustls::Error),
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The certificate that a server or a client shows, which can be renewed while it is in use.
#[derive(Debug)]
pub struct Serving {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Serving {
    pub fn new(issued: &Issued) -> Result<Arc<Serving>, TlsError> {
        Ok(Arc::new(Serving { current: RwLock::new(certified(issued)?) }))
    }

    /// A chain and its key as PEM texts, of whatever kind rustls can show.
    ///
    /// # Errors
    /// When they are no certificate and key, or do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Arc<Serving>, TlsError> {
        Ok(Arc::new(Serving { current: RwLock::new(pair(chain, key)?) }))
    }

    /// As [`Serving::replace`], with what [`Serving::from_pem`] takes.
    ///
    /// # Errors
    /// As [`Serving::from_pem`]; what was shown before is then shown on.
    pub fn replace_pem(&self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = pair(chain, key)?;
        Ok(())
    }

    /// Shown by every handshake from now on. Open connections stay.
    pub fn replace(&self, issued: &Issued) -> Result<(), TlsError> {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified(issued)?;
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl ResolvesClientCert for Serving {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server that speaks HTTP/2 and HTTP/1.1, and asks for a client certificate without needing one. A certificate that
/// `client_authority` did not sign ends the handshake.
pub fn server(serving: Arc<Serving>, client_authority: &Certificate) -> Result<ServerConfig, TlsError> {
    server_trusting(serving, std::slice::from_ref(client_authority))
}

/// As [`server`], for clients of any of several authorities: while one takes another's place, both are there.
pub fn server_trusting(
    serving: Arc<Serving>,
    client_authorities: &[Certificate],
) -> Result<ServerConfig, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(all_roots(client_authorities)?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts `authority`, and shows `identity` if it has one. The caller sets the ALPN protocols.
pub fn client(authority: &Certificate, identity: Option<&Issued>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots(authority)?);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(issued) => {
            builder.with_client_auth_cert(issued.shown(), issued.key.private_der()).map_err(TlsError::Pair)
        }
    }
}

/// As [`client`], with an identity that can be renewed while it is in use.
pub fn renewable_client(authority: &Certificate, identity: Arc<Serving>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots(authority)?);
    Ok(builder.with_client_cert_resolver(identity))
}

fn roots(authority: &Certificate) -> Result<RootCertStore, TlsError> {
    all_roots(std::slice::from_ref(authority))
}

fn all_roots(authorities: &[Certificate]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.der.clone()).map_err(TlsError::Root)?;
    }
    Ok(roots)
}

fn certified(issued: &Issued) -> Result<Arc<CertifiedKey>, TlsError> {
    CertifiedKey::from_der(issued.shown(), issued.key.private_der(), &provider())
        .map(Arc::new)
        .map_err(TlsError::Pair)
}

fn pair(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain =
        CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(TlsError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Pem)?;
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new).map_err(TlsError::Pair)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

    use super::*;
    use crate::{Authority, Key, Names, Profile};

    fn authority() -> Authority {
        Authority::self_signed("kubernetes", Key::generate().unwrap(), jiff::Timestamp::now()).unwrap()
    }

    fn serving(authority: &Authority, name: &str) -> Issued {
        let profile = Profile::ApiServer { names: Names::from_texts(&[name]) };
        authority.issue(&profile, jiff::Timestamp::now()).unwrap()
    }

    /// Both ends in memory, until the handshake is done or one of them refuses. Gives the client's certificate as the
    /// server has verified it.
    fn handshake(
        server: ServerConfig,
        client: ClientConfig,
        name: &str,
    ) -> Result<Option<Certificate>, rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        let mut wire = Vec::new();
        for _ in 0..4 {
            client.write_tls(&mut wire).unwrap();
            while !wire.is_empty() {
                let read = server.read_tls(&mut &wire[..]).unwrap();
                wire.drain(..read);
                server.process_new_packets()?;
            }
            server.write_tls(&mut wire).unwrap();
            while !wire.is_empty() {
                let read = client.read_tls(&mut &wire[..]).unwrap();
                wire.drain(..read);
                client.process_new_packets()?;
            }
        }
        assert!(!server.is_handshaking());
        let chain = server.peer_certificates().unwrap_or_default();
        Ok(chain.first().map(|der| Certificate::from_der(der).unwrap()))
    }

    #[test]
    fn a_client_is_known_by_its_certificate_and_may_come_without() {
        let authority = authority();
        let admin = authority.issue(&Profile::Admin, jiff::Timestamp::now()).unwrap();
        let root = authority.certificate();
        let config = server(Serving::new(&serving(&authority, "127.0.0.1")).unwrap(), root).unwrap();
        let known = handshake(config.clone(), client(root, Some(&admin)).unwrap(), "127.0.0.1").unwrap();
        assert_eq!(known.unwrap().organizations, ["system:masters"]);
        assert_eq!(handshake(config, client(root, None).unwrap(), "127.0.0.1").unwrap(), None);
    }

    #[test]
    fn a_strangers_certificate_and_a_wrong_name_are_refused() {
        let (ours, theirs) = (authority(), authority());
        let root = ours.certificate();
        let config = server(Serving::new(&serving(&ours, "a.example")).unwrap(), root).unwrap();
        let stranger = theirs.issue(&Profile::Admin, jiff::Timestamp::now()).unwrap();
        handshake(config.clone(), client(root, Some(&stranger)).unwrap(), "a.example").unwrap_err();
        handshake(config.clone(), client(root, None).unwrap(), "b.example").unwrap_err();
        handshake(config, client(theirs.certificate(), None).unwrap(), "a.example").unwrap_err();
    }

    #[test]
    fn a_server_certificate_is_no_client_certificate() {
        let authority = authority();
        let root = authority.certificate();
        let config = server(Serving::new(&serving(&authority, "a.example")).unwrap(), root).unwrap();
        let wrong = serving(&authority, "a.example");
        handshake(config, client(root, Some(&wrong)).unwrap(), "a.example").unwrap_err();
    }

    #[test]
    fn files_that_somebody_brought_are_shown_and_replaced() {
        let authority = authority();
        let root = authority.certificate();
        let texts = |name: &str| {
            let issued = serving(&authority, name);
            (issued.certificate.to_pem(), issued.key.to_pem())
        };
        let (certificate, key) = texts("a.example");
        let shown = Serving::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let config = server(Arc::clone(&shown), root).unwrap();
        handshake(config.clone(), client(root, None).unwrap(), "a.example").unwrap();
        let (other, other_key) = texts("b.example");
        shown.replace_pem(other.as_bytes(), key.as_bytes()).unwrap_err();
        shown.replace_pem(b"", other_key.as_bytes()).unwrap_err();
        handshake(config.clone(), client(root, None).unwrap(), "a.example").unwrap();
        shown.replace_pem(other.as_bytes(), other_key.as_bytes()).unwrap();
        handshake(config, client(root, None).unwrap(), "b.example").unwrap();
    }

    #[test]
    fn a_renewed_certificate_is_shown_by_the_next_handshake() {
        let authority = authority();
        let root = authority.certificate();
        let shown = Serving::new(&serving(&authority, "a.example")).unwrap();
        let config = server(Arc::clone(&shown), root).unwrap();
        handshake(config.clone(), client(root, None).unwrap(), "b.example").unwrap_err();
        shown.replace(&serving(&authority, "b.example")).unwrap();
        handshake(config, client(root, None).unwrap(), "b.example").unwrap();
    }
}
