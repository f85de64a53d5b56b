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

/// When a certificate that somebody else signs is asked for anew: between 70 and 90 % of its life, as upstream's kubelets
/// do, so that the nodes of a cluster do not all come at once. `jitter` is from 0 to 1.
pub fn rotation_time(certificate: &Certificate, jitter: f64) -> Timestamp {
    let (start, end) = (certificate.not_before.as_second(), certificate.not_after.as_second());
    let part = 0.7 + 0.2 * jitter.clamp(0.0, 1.0);
    let after = ((end - start) as f64 * part).round() as i64;
    Timestamp::from_second(start + after).unwrap_or(certificate.not_after)
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
    fn a_certificate_is_rotated_between_seven_and_nine_tenths_of_its_life() {
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now()).unwrap();
        let mut certificate = authority.issue(&Profile::Admin, now()).unwrap().certificate;
        (certificate.not_before, certificate.not_after) = (now(), now() + days(100));
        assert_eq!(rotation_time(&certificate, 0.0), now() + days(70));
        assert_eq!(rotation_time(&certificate, 1.0), now() + days(90));
        assert_eq!(rotation_time(&certificate, 0.5), now() + days(80));
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
