//! Client certificates: the common name is the user, the organizations are his groups.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use pki::Certificate;
use sha2::{Digest as _, Sha256};

use super::{CREDENTIAL_ID, Rejected};
use crate::user::UserInfo;

/// The user of a certificate whose chain TLS has verified. The time is looked at again: a connection can outlive it.
/// `None`: it names nobody.
pub(super) fn user(certificate: &[u8], now: Timestamp) -> Result<Option<UserInfo>, Rejected> {
    let parsed = Certificate::from_der(certificate).map_err(|_| Rejected::Certificate)?;
    if now < parsed.not_before || now > parsed.not_after {
        return Err(Rejected::CertificateTime);
    }
    if parsed.common_name.is_empty() {
        return Ok(None);
    }
    let groups: Vec<&str> = parsed.organizations.iter().map(String::as_str).collect();
    let mut user = UserInfo::new(parsed.common_name, &groups);
    let digest: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={digest}")]);
    Ok(Some(user))
}

#[cfg(test)]
mod tests {
    use pki::{Authority, Key};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn certificate(user: &str, groups: &[&str]) -> Vec<u8> {
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now()).unwrap();
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        authority.issue_client(user, &groups, now()).unwrap().certificate.der.to_vec()
    }

    #[test]
    fn a_certificate_names_its_user_and_groups() {
        let user = user(&certificate("jane", &["dev", "ops"]), now()).unwrap().unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }

    #[test]
    fn a_certificate_that_names_nobody_is_nobodys() {
        assert_eq!(user(&certificate("", &["dev"]), now()), Ok(None));
    }

    #[test]
    fn a_connection_does_not_outlive_its_certificate() {
        let later = now() + jiff::SignedDuration::from_hours(24 * 400);
        assert_eq!(user(&certificate("jane", &[]), later), Err(Rejected::CertificateTime));
        assert_eq!(user(b"x", now()), Err(Rejected::Certificate));
    }
}
