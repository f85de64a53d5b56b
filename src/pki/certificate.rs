//! A certificate as we read it: the facts that choices are made from.

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate, x509::X509Name};

use crate::profile::Names;

/// The facts of one certificate. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub names: Names,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub is_authority: bool,
    /// DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("not a PEM certificate")]
    NotPem,
    #[error("not a readable X.509 certificate")]
    Unreadable,
    #[error("a certificate whose validity is outside of representable time")]
    Time,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &[u8]) -> Result<Certificate, CertificateError> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| CertificateError::NotPem)?;
        Certificate::from_der(&der)
    }

    /// Reads every certificate of a PEM text.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
        let read = |der: Result<CertificateDer<'_>, _>| {
            Certificate::from_der(&der.map_err(|_| CertificateError::NotPem)?)
        };
        CertificateDer::pem_slice_iter(pem).map(read).collect()
    }

    pub fn from_der(der: &[u8]) -> Result<Certificate, CertificateError> {
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|_| CertificateError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CertificateError::Unreadable);
        }
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| CertificateError::Time);
        Ok(Certificate {
            common_name: common_name(parsed.subject()).ok_or(CertificateError::Unreadable)?,
            organizations: organizations(parsed.subject()).ok_or(CertificateError::Unreadable)?,
            names: names(&parsed),
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
            is_authority: parsed.is_ca(),
            public_key: parsed.public_key().raw.to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// Whether `authority` signed this certificate: its name and its signature.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let parse = |der| x509_parser::parse_x509_certificate(der).map(|(_, parsed)| parsed);
        let (Ok(own), Ok(signer)) = (parse(&self.der), parse(&authority.der)) else { return false };
        self.issuer == authority.subject && own.verify_signature(Some(signer.public_key())).is_ok()
    }

    pub fn to_pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }
}

/// The last `CN`, empty if there is none. `None` if it is not text.
pub(crate) fn common_name(name: &X509Name<'_>) -> Option<String> {
    match name.iter_common_name().last() {
        Some(value) => value.as_str().ok().map(str::to_owned),
        None => Some(String::new()),
    }
}

pub(crate) fn organizations(name: &X509Name<'_>) -> Option<Vec<String>> {
    name.iter_organization().map(|value| value.as_str().ok().map(str::to_owned)).collect()
}

fn names(certificate: &X509Certificate<'_>) -> Names {
    let mut names = Names::default();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(text) => drop(names.dns.insert((*text).to_owned())),
                GeneralName::IPAddress(bytes) => names.ips.extend(ip(bytes)),
                _ => {}
            }
        }
    }
    names
}

pub(crate) fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(Into::into);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(Into::into)).ok()
}

/// RFC 7468 text.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;

    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Certificate::from_der(&bytes).unwrap_err();
            Certificate::from_pem(pem("CERTIFICATE", &bytes).as_bytes()).unwrap_err();
            Certificate::from_pem(&bytes).unwrap_err();
            drop(Certificate::all_from_pem(&bytes));
        }
    }
}
