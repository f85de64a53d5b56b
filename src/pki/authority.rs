//! The certificate authority: issues our own certificates and signs the requests of others.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SigningKey as _, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    certificate::{self, Certificate, CertificateError},
    csr::Request,
    der,
    key::{Key, KeyError},
    profile::{Names, Profile},
    usages::Usages,
};

const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
pub(crate) const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Clocks differ: a certificate is valid from a little before it is made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Certificates shorter than this keep their whole life; longer ones give the back-dated minutes up at the end.
const SHORT_LIFE: Duration = Duration::from_secs(8 * 60 * 60);

/// The last second that a certificate can say: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// `now` moved by seconds, as rcgen takes it: by its own constructor, since its time crate is not ours.
macro_rules! date {
    ($now:expr, $seconds:expr) => {{
        let unix = $now.as_second().saturating_add($seconds);
        let unix = u64::try_from(unix).ok().filter(|unix| *unix <= LAST_SECOND).ok_or(IssueError::Time)?;
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix)
    }};
}
/// A certificate authority with its private key.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, Key>,
}

/// A certificate and its private key.
#[derive(Debug)]
pub struct Issued {
    pub certificate: Certificate,
    /// What its signer put behind it: between it and an authority that others know.
    pub above: Vec<CertificateDer<'static>>,
    pub key: Key,
}

/// Why a text is no certificate with its private key.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error("read the certificate")]
    Certificate(#[source] CertificateError),
    #[error("read the private key")]
    Key(#[source] KeyError),
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

impl Issued {
    /// A certificate with its key.
    pub fn of(certificate: Certificate, key: Key) -> Result<Issued, PairError> {
        if key.public_der() != certificate.public_key {
            return Err(PairError::Mismatch);
        }
        Ok(Issued { certificate, above: Vec::new(), key })
    }

    /// With what stands behind the first certificate of a PEM text.
    ///
    /// # Errors
    /// When that is no certificate.
    pub fn with_chain(mut self, pem: &[u8]) -> Result<Issued, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(pem).skip(1).collect::<Result<_, _>>();
        self.above = chain.map_err(|_| CertificateError::NotPem)?;
        Ok(self)
    }

    /// Certificate and chain, as a handshake shows them.
    pub(crate) fn shown(&self) -> Vec<CertificateDer<'static>> {
        [&self.certificate.der].into_iter().chain(&self.above).cloned().collect()
    }

    /// Reads both from one text, as node agents keep them (`kubelet-client-current.pem`).
    pub fn from_pem(pem: &[u8]) -> Result<Issued, PairError> {
        let certificate = Certificate::from_pem(pem).map_err(PairError::Certificate)?;
        let issued = Issued::of(certificate, Key::from_pem(pem).map_err(PairError::Key)?)?;
        issued.with_chain(pem).map_err(PairError::Certificate)
    }

    /// Both as one text. It holds a private key: for a 0600 file.
    pub fn to_pem(&self) -> String {
        let chain: String = self.shown().iter().map(|der| certificate::pem("CERTIFICATE", der)).collect();
        format!("{chain}{}", self.key.to_pem())
    }

    /// A certificate that nobody vouches for, for a server that must listen before its cluster has signed one.
    pub fn provisional(profile: &Profile, now: Timestamp) -> Result<Issued, IssueError> {
        let name = format!("{}-ca@{}", profile.common_name(), now.as_second());
        Authority::self_signed(&name, Key::generate().map_err(IssueError::Key)?, now)?.issue(profile, now)
    }
}

/// What a signed request may be used for, and for how long.
#[derive(Clone, Debug)]
pub struct SigningPolicy {
    pub usages: Usages,
    pub life: Duration,
    pub now: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("the certificate is not one of an authority")]
    NotAuthority,
    #[error("the signer has expired: NotAfter={not_after}")]
    Expired { not_after: Timestamp },
    #[error("a name that no certificate can carry: {name:?}")]
    Name { name: String },
    #[error("public key of a kind that cannot be certified")]
    PublicKey(#[source] rcgen::Error),
    #[error("the system has no random numbers")]
    NoRandom,
    #[error("time outside of what a certificate can say")]
    Time,
    #[error("make a private key")]
    Key(#[source] KeyError),
    #[error("sign the certificate")]
    Sign(#[source] rcgen::Error),
    #[error("read back the signed certificate")]
    ReadBack(#[source] CertificateError),
}

impl Authority {
    /// A new self-signed authority for ten years over `key`.
    pub fn self_signed(common_name: &str, key: Key, now: Timestamp) -> Result<Authority, IssueError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        (params.not_before, params.not_after) =
            (date!(now, -signed(BACKDATE)), date!(now, signed(AUTHORITY_LIFE)));
        let signed = params.self_signed(key.pair()).map_err(IssueError::Sign)?;
        Authority::new(Certificate::from_der(signed.der()).map_err(IssueError::ReadBack)?, key)
    }

    /// An authority that exists.
    pub fn new(certificate: Certificate, key: Key) -> Result<Authority, IssueError> {
        if key.public_der() != certificate.public_key {
            return Err(IssueError::KeyMismatch);
        }
        if !certificate.is_authority {
            return Err(IssueError::NotAuthority);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key).map_err(IssueError::Sign)?;
        Ok(Authority { certificate, issuer })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// A certificate with a new key for one of our own roles, for a year.
    pub fn issue(&self, profile: &Profile, now: Timestamp) -> Result<Issued, IssueError> {
        let key = Key::generate().map_err(IssueError::Key)?;
        let policy = SigningPolicy { usages: profile.usages(), life: LEAF_LIFE, now };
        let subject = der::name(&profile.common_name(), &profile.organizations());
        let certificate = self.certify(&subject, sans(&profile.names())?, key.pair(), &policy)?;
        Ok(Issued { certificate, above: Vec::new(), key })
    }

    /// A client certificate for any user and groups, for a year.
    pub fn issue_client(&self, user: &str, groups: &[String], now: Timestamp) -> Result<Issued, IssueError> {
        let key = Key::generate().map_err(IssueError::Key)?;
        let policy = SigningPolicy { usages: Usages::client(), life: LEAF_LIFE, now };
        let certificate = self.certify(&der::name(user, groups), Vec::new(), key.pair(), &policy)?;
        Ok(Issued { certificate, above: Vec::new(), key })
    }

    /// Signs a request: its subject, names and public key, with the policy's usages. Nothing else that the request
    /// asks for is taken. Whether it may be signed is for [`crate::recognize`] and an approver to say.
    pub fn sign(&self, request: &Request, policy: &SigningPolicy) -> Result<Certificate, IssueError> {
        let public = SubjectPublicKeyInfo::from_der(&request.public_key).map_err(IssueError::PublicKey)?;
        let mut names = sans(&Names { dns: request.dns.clone(), ips: request.ips.clone() })?;
        for email in &request.emails {
            names.push(SanType::Rfc822Name(ia5(email)?));
        }
        for uri in &request.uris {
            names.push(SanType::URI(ia5(uri)?));
        }
        self.certify(&request.subject, names, &public, policy)
    }

    fn certify(
        &self,
        subject: &[u8],
        names: Vec<SanType>,
        public: &impl PublicKeyData,
        policy: &SigningPolicy,
    ) -> Result<Certificate, IssueError> {
        let expiry = self.certificate.not_after;
        if policy.now >= expiry {
            return Err(IssueError::Expired { not_after: expiry });
        }
        let mut life = signed(policy.life);
        if policy.life >= SHORT_LIFE {
            life -= signed(BACKDATE);
        }
        let life = life.min(expiry.as_second() - policy.now.as_second());
        let mut params = CertificateParams::default(); // its subject is a placeholder
        params.serial_number = Some(serial()?);
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = policy.usages.basic.clone();
        params.extended_key_usages = policy.usages.extended.clone();
        (params.not_before, params.not_after) =
            (date!(policy.now, -signed(BACKDATE)), date!(policy.now, life));

        let draft = params.signed_by(public, &self.issuer).map_err(IssueError::Sign)?;
        let tbs = der::with_subject(draft.der(), subject);
        let tbs = tbs.ok_or(IssueError::ReadBack(CertificateError::Unreadable))?;
        let signature = self.issuer.key().pair().sign(&tbs).map_err(IssueError::Sign)?;
        let whole = der::assemble(draft.der(), &tbs, &signature);
        let whole = whole.ok_or(IssueError::ReadBack(CertificateError::Unreadable))?;
        Certificate::from_der(&whole).map_err(IssueError::ReadBack)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("certificate", &self.certificate.common_name)
            .finish_non_exhaustive()
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair().der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.pair().algorithm()
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair().sign(message)
    }
}

fn sans(names: &Names) -> Result<Vec<SanType>, IssueError> {
    let dns = names.dns.iter().map(|name| ia5(name).map(SanType::DnsName));
    dns.chain(names.ips.iter().map(|ip| Ok(SanType::IpAddress(*ip)))).collect()
}

fn ia5(name: &str) -> Result<rcgen::string::Ia5String, IssueError> {
    name.try_into().map_err(|_| IssueError::Name { name: name.to_owned() })
}

/// 127 random bits: RFC 5280 wants a positive number of at most 20 bytes.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| IssueError::NoRandom)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn signed(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// A request for `profile`'s certificate by the holder of `key`, as PEM.
pub(crate) fn make_request(profile: &Profile, key: &Key) -> Result<String, IssueError> {
    request_pem(&profile.common_name(), &profile.organizations(), &profile.names(), key)
}

pub(crate) fn request_pem(
    common_name: &str,
    organizations: &[String],
    names: &Names,
    key: &Key,
) -> Result<String, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = sans(names)?;
    let draft = params.serialize_request(key).map_err(IssueError::Sign)?;
    let body = der::with_request_subject(draft.der(), &der::name(common_name, organizations));
    let body = body.ok_or(IssueError::ReadBack(CertificateError::Unreadable))?;
    let signature = key.pair().sign(&body).map_err(IssueError::Sign)?;
    let whole = der::assemble(draft.der(), &body, &signature);
    let whole = whole.ok_or(IssueError::ReadBack(CertificateError::Unreadable))?;
    Ok(certificate::pem("CERTIFICATE REQUEST", &whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::tests::request;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn authority() -> Authority {
        Authority::self_signed("kubernetes", Key::generate().unwrap(), now()).unwrap()
    }

    #[test]
    fn an_issued_certificate_names_its_role_and_is_signed_by_the_authority() {
        let authority = authority();
        let names = Names::api_server("cluster.local", &["10.96.0.1", "host-1"]);
        let issued = authority.issue(&Profile::ApiServer { names: names.clone() }, now()).unwrap();
        assert_eq!(issued.certificate.common_name, "kube-apiserver");
        assert_eq!(issued.certificate.names, names);
        assert!(issued.certificate.is_signed_by(authority.certificate()));
        assert_eq!(issued.certificate.public_key, issued.key.public_der());
        assert_eq!(issued.certificate.not_before, "2026-11-21T09:55:00Z".parse().unwrap());
        assert_eq!(issued.certificate.not_after, "2027-11-21T09:55:00Z".parse().unwrap());
    }

    #[test]
    fn a_pair_survives_its_one_text_and_a_foreign_key_makes_none() {
        let profile = Profile::KubeletClient { node: "n1".into() };
        let issued = authority().issue(&profile, now()).unwrap();
        let again = Issued::from_pem(issued.to_pem().as_bytes()).unwrap();
        assert_eq!(again.certificate, issued.certificate);
        assert_eq!(again.key.public_der(), issued.key.public_der());
        let foreign = format!("{}{}", issued.certificate.to_pem(), Key::generate().unwrap().to_pem());
        assert!(matches!(Issued::from_pem(foreign.as_bytes()), Err(PairError::Mismatch)));
        assert!(matches!(Issued::from_pem(b""), Err(PairError::Certificate(_))));
    }

    #[test]
    fn a_chain_survives_its_one_text_and_is_shown_whole() {
        let (authority, above) = (authority(), authority());
        let issued = authority.issue(&Profile::Admin, now()).unwrap();
        let given =
            issued.certificate.to_pem() + &authority.certificate().to_pem() + &above.certificate().to_pem();
        let leaf = issued.certificate.der.clone();
        let whole = [leaf, authority.certificate().der.clone(), above.certificate().der.clone()];
        let issued = issued.with_chain(given.as_bytes()).unwrap();
        assert_eq!(issued.shown(), whole);
        assert_eq!(Issued::from_pem(issued.to_pem().as_bytes()).unwrap().shown(), whole);
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let issued = Issued::from_pem(issued.to_pem().as_bytes()).unwrap();
        let broken = issued.certificate.to_pem() + broken;
        assert!(issued.with_chain(broken.as_bytes()).is_err());
    }

    #[test]
    fn a_provisional_certificate_has_the_names_and_no_authority_of_the_cluster() {
        let names = Names::from_texts(&["n1", "10.0.0.7"]);
        let profile = Profile::KubeletServing { node: "n1".into(), names: names.clone() };
        let issued = Issued::provisional(&profile, now()).unwrap();
        assert_eq!(issued.certificate.names, names);
        assert!(!issued.certificate.is_signed_by(authority().certificate()));
    }

    #[test]
    fn every_group_of_a_user_is_in_the_certificate() {
        let groups = ["a", "b", "c"].map(str::to_owned);
        let issued = authority().issue_client("jane", &groups, now()).unwrap();
        assert_eq!(issued.certificate.common_name, "jane");
        assert_eq!(issued.certificate.organizations, groups);
    }

    #[test]
    fn another_authority_of_the_same_name_did_not_sign_it() {
        let issued = authority().issue(&Profile::Admin, now()).unwrap();
        assert!(!issued.certificate.is_signed_by(authority().certificate()));
    }

    #[test]
    fn a_certificate_never_outlives_its_authority() {
        let authority = authority();
        let late = authority.certificate().not_after - DAY;
        let issued = authority.issue(&Profile::Admin, late).unwrap();
        assert_eq!(issued.certificate.not_after, authority.certificate().not_after);
        let refused = authority.issue(&Profile::Admin, authority.certificate().not_after).unwrap_err();
        assert!(matches!(refused, IssueError::Expired { .. }));
    }

    #[test]
    fn a_foreign_key_makes_no_authority() {
        let certificate = authority().certificate().clone();
        let refused = Authority::new(certificate, Key::generate().unwrap()).unwrap_err();
        assert!(matches!(refused, IssueError::KeyMismatch));
    }

    #[test]
    fn a_signed_request_keeps_its_subject_and_key_and_takes_the_policys_usages() {
        let authority = authority();
        let request = request("system:node:n1", &["system:nodes", "more"], &["n1", "10.0.0.7"]);
        let usages = Usages::from_names(&["digital signature", "server auth"]).unwrap();
        let policy = SigningPolicy { usages, life: Duration::from_secs(3600), now: now() };
        let signed = authority.sign(&request, &policy).unwrap();
        assert_eq!(signed.common_name, "system:node:n1");
        assert_eq!(signed.organizations, ["system:nodes", "more"]);
        assert_eq!(signed.names, Names::from_texts(&["n1", "10.0.0.7"]));
        assert_eq!(signed.public_key, request.public_key);
        assert_eq!(signed.not_after, "2026-11-21T11:00:00Z".parse().unwrap());
        assert!(!signed.is_authority);
        let (_, parsed) = x509_parser::parse_x509_certificate(&signed.der).unwrap();
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
    }
}
