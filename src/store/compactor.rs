//! When to forget history. The caller's task calls [`Compactor::tick`], say once a minute.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{Revision, Store, StoreError};

/// How much history to keep. A revision goes only when both say so: a quiet cluster keeps days of history for
/// watchers that come back late, a busy one at least what upstream keeps (five minutes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub revisions: i64,
    pub age: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { revisions: 10_000, age: Duration::from_mins(5) }
    }
}

/// Remembers which revision was current when, and from that where to compact.
#[derive(Debug)]
pub struct Compactor {
    retention: Retention,
    /// Oldest first. Bounded: what is older than `age` is dropped but for one.
    seen: VecDeque<(Instant, Revision)>,
    compacted: Revision,
}

impl Compactor {
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self { retention, seen: VecDeque::new(), compacted: Revision::ZERO }
    }

    /// Notes the current revision and compacts what is due; answers where it compacted.
    ///
    /// # Errors
    /// Those of [`Store::compact`], but for `Compacted`: somebody else did it (another server of one etcd).
    pub async fn tick(&mut self, store: &dyn Store, now: Instant) -> Result<Option<Revision>, StoreError> {
        let current = store.current_revision().await?;
        let Some(target) = self.due(now, current) else { return Ok(None) };
        match store.compact(target).await {
            Ok(()) => {
                self.compacted = target;
                Ok(Some(target))
            }
            Err(StoreError::Compacted { compact_revision, .. }) => {
                self.compacted = compact_revision;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn due(&mut self, now: Instant, current: Revision) -> Option<Revision> {
        self.seen.push_back((now, current));
        let old = |seen: &(Instant, Revision)| now.saturating_duration_since(seen.0) >= self.retention.age;
        while self.seen.get(1).is_some_and(old) {
            self.seen.pop_front();
        }
        let by_age = self.seen.front().filter(|seen| old(seen))?.1;
        let target = by_age.min(Revision(current.0 - self.retention.revisions));
        (target > self.compacted && target > Revision::FIRST).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_goes_when_it_is_both_old_and_far_behind() {
        let mut compactor = Compactor::new(Retention { revisions: 100, age: Duration::from_mins(5) });
        let start = Instant::now();
        let mut at = |minute, current| compactor.due(start + Duration::from_mins(minute), Revision(current));
        assert_eq!(at(0, 1000), None, "nothing is known to be old yet");
        assert_eq!(at(4, 5000), None);
        assert_eq!(at(5, 5010), Some(Revision(1000)), "what was current five minutes ago");
        assert_eq!(at(9, 5020), Some(Revision(4920)), "the last hundred stay, however old");
        assert_eq!(at(60, 5021), Some(Revision(4921)));
    }

    #[test]
    fn a_small_store_is_left_alone() {
        let mut compactor = Compactor::new(Retention::default());
        let start = Instant::now();
        assert_eq!(compactor.due(start, Revision(50)), None);
        assert_eq!(compactor.due(start + Duration::from_hours(9), Revision(60)), None);
    }
}
