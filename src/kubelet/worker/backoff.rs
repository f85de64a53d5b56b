//! How long a container that keeps ending waits before it starts again: 10 s, doubled to 5 minutes, forgotten after
//! a run (or a pause) of twice the longest wait.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

/// Upstream's values (`CrashLoopBackOff`): first and longest wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { first: Duration::from_secs(10), longest: Duration::from_secs(300) }
    }
}

/// The waits of one pod's containers (by [`of_container`]) or of one pod's images. Changed only by [`Backoff::started`]
/// and [`Backoff::recall`].
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    limits: Limits,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    wait: Duration,
    updated: Timestamp,
}

/// Still waiting: until when, and how long this wait is in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub until: Timestamp,
    pub wait: Duration,
}

/// The key of a container: one that was changed has not failed yet, and starts its waits anew.
pub fn of_container(name: &str, hash: u64) -> String {
    format!("{name}_{hash:x}")
}

impl Backoff {
    pub fn new(limits: Limits) -> Backoff {
        Backoff { limits, entries: BTreeMap::new() }
    }

    /// Must `key`, which ended at `ended`, still wait?
    pub fn check(&self, key: &str, ended: Timestamp, now: Timestamp) -> Option<Wait> {
        let entry = self.entries.get(key).filter(|entry| !self.is_forgotten(entry, ended))?;
        let until = ended.saturating_add(signed(entry.wait)).unwrap_or(Timestamp::MAX);
        (until > now).then_some(Wait { until, wait: entry.wait })
    }

    /// Must `key`, which counts from its last start, still wait?
    pub fn check_since_start(&self, key: &str, now: Timestamp) -> Option<Wait> {
        self.check(key, self.entries.get(key)?.updated, now)
    }

    /// `key`, which ended at `ended`, is started again now: the next wait is longer.
    pub fn started(&mut self, key: &str, ended: Timestamp, now: Timestamp) {
        let wait = match self.entries.get(key) {
            Some(entry) if !self.is_forgotten(entry, ended) => (entry.wait * 2).min(self.limits.longest),
            _ => self.limits.first,
        };
        self.entries.insert(key.to_string(), Entry { wait, updated: now });
    }

    /// An agent that was restarted knows no waits: this is what they must have been after `restarts` of `key`, whose
    /// last run began at `began`.
    pub fn recall(&mut self, key: &str, restarts: u32, began: Timestamp) {
        if restarts == 0 || self.entries.contains_key(key) {
            return;
        }
        let doublings = (restarts - 1).min(16);
        let wait = self.limits.first.saturating_mul(1 << doublings).min(self.limits.longest);
        self.entries.insert(key.to_string(), Entry { wait, updated: began });
    }

    fn is_forgotten(&self, entry: &Entry, ended: Timestamp) -> bool {
        ended.duration_since(entry.updated) > signed(self.limits.longest * 2)
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        assert_eq!(backoff.check("c", at(now), at(now)), None, "the first restart is at once");
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoff.started("c", at(now), at(now));
            let wait = backoff.check("c", at(now), at(now)).unwrap();
            waits.push(wait.wait.as_secs());
            now = wait.until.as_second();
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_forgets_the_waits() {
        let mut backoff = Backoff::default();
        backoff.started("c", at(0), at(0));
        backoff.started("c", at(10), at(10));
        assert_eq!(backoff.check("c", at(611), at(611)), None, "ran for more than ten minutes");
        backoff.started("c", at(611), at(611));
        assert_eq!(backoff.check("c", at(612), at(612)).unwrap().wait.as_secs(), 10);
    }

    #[test]
    fn a_new_agent_recalls_the_wait_from_the_restart_count() {
        let mut backoff = Backoff::default();
        backoff.recall("c", 3, at(100));
        assert_eq!(backoff.check("c", at(101), at(101)).unwrap().wait.as_secs(), 40);
        backoff.recall("d", 0, at(100));
        assert_eq!(backoff.check("d", at(101), at(101)), None);
    }
}
