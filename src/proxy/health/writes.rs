//! Whether rules follow the Services.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use tokio::time::Instant;

/// Two of kube-proxy's default periods between full writes, which is what it waits too.
const PENDING_AT_MOST: Duration = Duration::from_secs(60);

/// How the proxy's writes go. The default is that of a proxy that has not begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Since when something is to be written that has not been.
    pub pending_since: Option<Instant>,
    /// When something was written last.
    pub written: Option<Instant>,
}

impl Health {
    /// Whether nothing waits for longer than a minute.
    #[must_use]
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.pending_since.is_none_or(|since| now.saturating_duration_since(since) < PENDING_AT_MOST)
    }

    /// Something is to be written.
    pub(crate) fn pend(&mut self, now: Instant) {
        self.pending_since.get_or_insert(now);
    }

    /// Everything that was to be written has been.
    pub(crate) fn wrote(&mut self, now: Instant) {
        *self = Self { pending_since: None, written: Some(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_minute_is_not_well() {
        let start = Instant::now();
        let mut health = Health::default();
        health.pend(start);
        health.pend(start + Duration::from_secs(50));
        assert!(health.is_healthy(start + Duration::from_secs(59)));
        assert!(!health.is_healthy(start + Duration::from_secs(60)));
        health.wrote(start + Duration::from_secs(61));
        assert!(health.is_healthy(start + Duration::from_secs(600)));
    }
}
