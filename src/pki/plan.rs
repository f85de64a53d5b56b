//! Decides whether a stored certificate is kept or issued again.
#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

use jiff::Timestamp;

use crate::{certificate::Certificate, profile::Profile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep,
    Issue(Reason),
}

/// Why a certificate is issued (again).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Missing,
    /// A pair that was half written: the key is not the certificate's.
    KeyMismatch,
    SubjectChanged,
    NamesChanged,
    /// Less than a third of its life is left, or none.
    Expiring,
}

/// A stored certificate and whether its key belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub certificate: Certificate,
    pub key_matches: bool,
}

/// `stored` was signed by the authority that would issue the next one: the caller has refused any other.
pub(crate) fn decide(stored: Option<&Stored>, profile: &Profile, now: Timestamp) -> Decision {
    let Some(Stored { certificate, key_matches }) = stored else { return Decision::Issue(Reason::Missing) };
    let subject_is_right = certificate.common_name == profile.common_name()
        && certificate.organizations == profile.organizations();
    if !key_matches {
        Decision::Issue(Reason::KeyMismatch)
    } else if !subject_is_right {
        Decision::Issue(Reason::SubjectChanged)
    } else if certificate.names != profile.names() {
        Decision::Issue(Reason::NamesChanged)
    } else if is_expiring(certificate, now) {
        Decision::Issue(Reason::Expiring)
    } else {
        Decision::Keep
    }
}

fn is_expiring(certificate: &Certificate, now: Timestamp) -> bool {
    let life = certificate.not_after.as_second() - certificate.not_before.as_second();
    certificate.not_after.as_second() - now.as_second() < life / 3
}

/// When [`decide`] will say Expiring for this certificate.
pub fn renewal_time(certificate: &Certificate) -> Timestamp {
    let (start, end) = (certificate.not_before.as_second(), certificate.not_after.as_second());
    Timestamp::from_second(end - (end - start) / 3).unwrap_or(certificate.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Key, Names};

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn days(count: i64) -> jiff::SignedDuration {
        jiff::SignedDuration::from_hours(24 * count)
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Stored), wanted: &Profile, at: Timestamp, expected: Decision) {
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now()).unwrap();
        let profile = Profile::ApiServer { names: Names::from_texts(&["a"]) };
        let certificate = authority.issue(&profile, now()).unwrap().certificate;
        let mut stored = Stored { certificate, key_matches: true };
        change(&mut stored);
        assert_eq!(decide(Some(&stored), wanted, at), expected);
    }

    #[test]
    fn a_fitting_certificate_is_kept_for_two_thirds_of_its_life() {
        let wanted = Profile::ApiServer { names: Names::from_texts(&["a"]) };
        check(|_| {}, &wanted, now() + days(242), Decision::Keep);
        check(|_| {}, &wanted, now() + days(245), Decision::Issue(Reason::Expiring));
        check(|_| {}, &wanted, now() + days(999), Decision::Issue(Reason::Expiring));
    }

    #[test]
    fn other_names_another_subject_or_a_foreign_key_make_a_new_one() {
        let wanted = Profile::ApiServer { names: Names::from_texts(&["a", "b"]) };
        check(|_| {}, &wanted, now(), Decision::Issue(Reason::NamesChanged));
        check(|_| {}, &Profile::Admin, now(), Decision::Issue(Reason::SubjectChanged));
        check(|stored| stored.key_matches = false, &wanted, now(), Decision::Issue(Reason::KeyMismatch));
        assert_eq!(decide(None, &wanted, now()), Decision::Issue(Reason::Missing));
    }

    #[test]
    fn the_renewal_time_is_the_moment_the_decision_changes() {
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now()).unwrap();
        let certificate = authority.issue(&Profile::Admin, now()).unwrap().certificate;
        let second = jiff::SignedDuration::from_secs(1);
        assert!(!is_expiring(&certificate, renewal_time(&certificate)));
        assert!(is_expiring(&certificate, renewal_time(&certificate) + second));
    }
}
