//! How long a node has been silent.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use tokio::time::Instant;

/// A node's last sign of life, and when we saw it come.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Health {
    signs: Signs,
    seen_at: Instant,
}

#[derive(Clone, Debug, PartialEq)]
struct Signs {
    renewed: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
}

impl Health {
    /// The health after looking at `node` and its `lease` at `now`.
    pub(super) fn observe(old: Option<&Self>, node: &Node, lease: Option<&Lease>, now: Instant) -> Self {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        // What we write ourselves (Unknown) keeps the heartbeat's time, so it is no sign of life.
        let heartbeat = conditions
            .filter(|condition| condition.type_ == "Ready")
            .find_map(|condition| condition.last_heartbeat_time.as_ref().map(|time| time.0));
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let signs = Signs { renewed, heartbeat };
        match old {
            Some(old) if old.signs == signs => old.clone(),
            _ => Self { signs, seen_at: now },
        }
    }

    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.duration_since(self.seen_at)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(second: u8) -> Lease {
        let time = format!("2026-01-01T00:00:{second:02}.000000Z");
        serde_json::from_value(json!({"metadata": {}, "spec": {"renewTime": time}})).unwrap()
    }

    #[test]
    fn silence_counts_from_the_moment_that_we_saw_the_last_renewal() {
        let (node, start) = (Node::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        let first = Health::observe(None, &node, Some(&lease(0)), start);
        let same = Health::observe(Some(&first), &node, Some(&lease(0)), later(30));
        assert_eq!(same.silent_for(later(30)).as_secs(), 30);
        let renewed = Health::observe(Some(&same), &node, Some(&lease(10)), later(35));
        assert_eq!(renewed.silent_for(later(40)).as_secs(), 5);
    }
}
