//! Every reason not to trust a cluster, or not to join it, judged from what was read.
#![deny(clippy::disallowed_methods)]

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node},
};
use pki::{BootstrapToken, KeyHash};

use crate::cluster_info::ClusterInfo;

/// Certificates are valid from five minutes before they are made: a clock further behind than that cannot use them.
const CLOCKS_MAY_DIFFER: SignedDuration = SignedDuration::from_mins(5);

/// Why what the server says is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    #[error(
        "{server} knows no token {id:?}: it is wrong, expired or deleted; make a new one on the control plane \
         (`coracle token create`, or `kubeadm token create --print-join-command`)"
    )]
    UnknownToken { server: String, id: String },
    #[error(
        "the token {id}.… did not sign what {server} says of its cluster: its second half is wrong, or somebody else \
         answers there; compare it with the line that `coracle token create` printed"
    )]
    WrongSecret { server: String, id: String },
    #[error(
        "the authority of {server} has the key hash {found}, not {wanted}: this is another cluster than the one that was \
         meant, or somebody stands in between; compare --ca-cert-hash with the line that `coracle token create` printed"
    )]
    WrongAuthority { server: String, found: String, wanted: String },
    #[error(
        "{server} says nothing of its cluster that can be read ({what} in the ConfigMap kube-public/cluster-info); \
         on the control plane, `coracle server` or `kubeadm init phase bootstrap-token` writes it"
    )]
    Unreadable { server: String, what: &'static str },
}

/// A cluster's authority, as the token's signature and the hash vouch for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trusted {
    /// One certificate or several.
    pub(crate) authority_pem: Vec<u8>,
}

/// Whether `info` names a cluster, and nothing in it is signed by `token`, rightly or wrongly.
pub(crate) fn is_unsigned(info: &ConfigMap, token: &BootstrapToken) -> bool {
    ClusterInfo::text(info).is_ok() && signature(info, token).is_none()
}

fn signature<'a>(info: &'a ConfigMap, token: &BootstrapToken) -> Option<&'a String> {
    info.data.as_ref().and_then(|data| data.get(&format!("jws-kubeconfig-{}", token.id())))
}

/// Believes `info` if `token` signed it and one of `hashes` is that of an authority in it.
pub(crate) fn verify(
    server: &str,
    info: &ConfigMap,
    token: &BootstrapToken,
    hashes: &[KeyHash],
) -> Result<Trusted, Distrust> {
    let server = || server.to_owned();
    let unreadable = |what| Distrust::Unreadable { server: server(), what };
    let text = ClusterInfo::text(info).map_err(unreadable)?;
    let signature = signature(info, token)
        .ok_or_else(|| Distrust::UnknownToken { server: server(), id: token.id().to_owned() })?;
    if !token.has_signed(text.as_bytes(), signature) {
        return Err(Distrust::WrongSecret { server: server(), id: token.id().to_owned() });
    }
    let ClusterInfo { authority_pem, authorities, .. } = ClusterInfo::parse(text).map_err(unreadable)?;
    let found: Vec<KeyHash> = authorities.iter().map(KeyHash::of).collect();
    if !found.iter().any(|hash| hashes.contains(hash)) {
        let wanted = joined(hashes);
        return Err(Distrust::WrongAuthority { server: server(), found: joined(&found), wanted });
    }
    Ok(Trusted { authority_pem })
}

fn joined(hashes: &[KeyHash]) -> String {
    hashes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// A clock that is too far from the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Positive: this machine is ahead.
    pub ahead: SignedDuration,
}

impl Clock {
    /// `date` is the server's Date header; none or an unreadable one tells nothing.
    #[must_use]
    pub fn compare(date: Option<&str>, now: Timestamp) -> Option<Clock> {
        let server = jiff::fmt::rfc2822::parse(date?).ok()?.timestamp();
        let ahead = now.duration_since(server);
        (ahead.abs() > CLOCKS_MAY_DIFFER).then_some(Clock { ahead })
    }

    /// `10 minutes ahead of`
    #[must_use]
    pub fn words(self) -> String {
        let minutes = self.ahead.abs().as_secs() / 60;
        let amount = match minutes {
            0..=119 => format!("{minutes} minutes"),
            120..=2879 => format!("{} hours", minutes / 60),
            _ => format!("{} days", minutes / 1440),
        };
        format!("{amount} {}", if self.ahead.is_positive() { "ahead of" } else { "behind" })
    }
}

/// Whether a node of this name lives: it is Ready, and its Lease (if it could be read) is fresh.
#[must_use]
pub fn is_alive(node: &Node, lease: Option<&Lease>, now: Timestamp) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let fresh = spec.and_then(|spec| spec.renew_time.as_ref()).is_none_or(|renewed| {
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(40);
        now.duration_since(renewed.0) <= SignedDuration::from_secs(i64::from(seconds))
    });
    ready && fresh
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use pki::{Authority, Certificate, Key};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn token() -> BootstrapToken {
        "abcdef.0123456789abcdef".parse().unwrap()
    }

    fn authority() -> Certificate {
        Authority::self_signed("kubernetes", Key::generate().unwrap(), now()).unwrap().certificate().clone()
    }

    fn info(authority: &str, signature: impl Fn(&str) -> String) -> ConfigMap {
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://a\n  name: \"\"\n",
            STANDARD.encode(authority)
        );
        let signature = signature(&text);
        serde_json::from_value(json!({"data": {"kubeconfig": text, "jws-kubeconfig-abcdef": signature}}))
            .unwrap()
    }

    fn signed(authority: &str) -> ConfigMap {
        info(authority, |text| token().sign(text.as_bytes()))
    }

    #[test]
    fn the_right_token_and_the_right_hash_are_believed() {
        let (ours, other) = (authority(), authority());
        let hashes = [KeyHash::of(&other), KeyHash::of(&ours)];
        let trusted = verify("a:6443", &signed(&ours.to_pem()), &token(), &hashes).unwrap();
        assert_eq!(trusted.authority_pem, ours.to_pem().as_bytes());
        let both = format!("{}{}", other.to_pem(), ours.to_pem());
        verify("a:6443", &signed(&both), &token(), &hashes[1..]).unwrap();
    }

    #[test]
    fn each_reason_for_distrust_is_told_apart() {
        let (ours, other) = (authority(), authority());
        let hashes = [KeyHash::of(&ours)];
        let refused = |info: &ConfigMap, token: &str| {
            verify("a:6443", info, &token.parse().unwrap(), &hashes).unwrap_err()
        };
        let good = signed(&ours.to_pem());
        assert!(matches!(refused(&good, "zzzzzz.0123456789abcdef"), Distrust::UnknownToken { .. }));
        assert!(matches!(refused(&good, "abcdef.zzzzzzzzzzzzzzzz"), Distrust::WrongSecret { .. }));
        let theirs = signed(&other.to_pem());
        let told = refused(&theirs, "abcdef.0123456789abcdef").to_string();
        assert!(
            told.contains(&KeyHash::of(&other).to_string()) && told.contains(&hashes[0].to_string()),
            "{told}"
        );
        assert!(matches!(
            refused(&signed("nonsense"), "abcdef.0123456789abcdef"),
            Distrust::Unreadable { .. }
        ));
        assert!(matches!(
            refused(&ConfigMap::default(), "abcdef.0123456789abcdef"),
            Distrust::Unreadable { .. }
        ));
        let changed = info(&ours.to_pem(), |_| token().sign(b"something else"));
        assert!(matches!(refused(&changed, "abcdef.0123456789abcdef"), Distrust::WrongSecret { .. }));
    }

    #[test]
    fn only_a_token_without_any_signature_is_waited_for() {
        let good = signed(&authority().to_pem());
        let unsigned = |info: &ConfigMap, token: &str| is_unsigned(info, &token.parse().unwrap());
        assert!(unsigned(&good, "zzzzzz.0123456789abcdef"));
        assert!(!unsigned(&good, "abcdef.0123456789abcdef"));
        assert!(!unsigned(&good, "abcdef.zzzzzzzzzzzzzzzz"));
        assert!(!unsigned(&ConfigMap::default(), "abcdef.0123456789abcdef"));
    }

    #[test]
    fn a_clock_ten_minutes_off_is_noticed_and_four_are_not() {
        let clock = |date: &str| Clock::compare(Some(date), now()).map(Clock::words);
        assert_eq!(clock("Sat, 21 Nov 2026 10:10:00 GMT").as_deref(), Some("10 minutes behind"));
        assert_eq!(clock("Sat, 21 Nov 2026 07:00:00 GMT").as_deref(), Some("3 hours ahead of"));
        assert_eq!(clock("Sat, 21 Nov 2026 10:04:00 GMT"), None);
        assert_eq!(clock("yesterday"), None);
        assert_eq!(Clock::compare(None, now()), None);
    }

    #[test]
    fn a_node_lives_while_it_is_ready_and_its_lease_is_fresh() {
        let node = |ready: &str| -> Node {
            serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}}))
                .unwrap()
        };
        let lease = |renewed: &str| -> Lease {
            serde_json::from_value(json!({"spec": {"renewTime": renewed, "leaseDurationSeconds": 40}}))
                .unwrap()
        };
        assert!(is_alive(&node("True"), None, now()));
        assert!(is_alive(&node("True"), Some(&lease("2026-11-21T09:59:30.000000Z")), now()));
        assert!(!is_alive(&node("True"), Some(&lease("2026-11-21T09:59:10.000000Z")), now()));
        assert!(!is_alive(&node("Unknown"), None, now()));
        assert!(!is_alive(&Node::default(), None, now()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_that_a_server_says_panics(text in "[ -~\n]{0,120}", authority in ".{0,60}") {
            let signature = token().sign(text.as_bytes());
            let data = json!({"data": {"kubeconfig": text, "jws-kubeconfig-abcdef": signature}});
            let strange: ConfigMap = serde_json::from_value(data).unwrap();
            prop_assert!(verify("a", &strange, &token(), &[]).is_err());
            prop_assert!(verify("a", &signed(&authority), &token(), &[]).is_err());
        }
    }
}
