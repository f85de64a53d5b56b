//! When to forget history. The caller's task calls [`Compactor::tick`], say once a minute.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{Revision, Store, StoreError};

/// How long history is kept, as upstream keeps it: lists that go on from a page and watches that start again have that
/// much time. Whoever watches the API server's cache
/// has as long as that one holds.
pub const KEPT: Duration = Duration::from_mins(5);

/// Remembers which revision was current when, and from that where to compact.
#[derive(Debug)]
pub struct Compactor {
    kept: Duration,
    /// Oldest first. Bounded: what is older than `kept` is dropped but for one.
    seen: VecDeque<(Instant, Revision)>,
    compacted: Revision,
}

impl Compactor {
    #[must_use]
    pub fn new(kept: Duration) -> Self {
        Self { kept, seen: VecDeque::new(), compacted: Revision::ZERO }
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
        let old = |seen: &(Instant, Revision)| now.saturating_duration_since(seen.0) >= self.kept;
        while self.seen.get(1).is_some_and(old) {
            self.seen.pop_front();
        }
        let target = self.seen.front().filter(|seen| old(seen))?.1;
        (target > self.compacted && target > Revision::FIRST).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_goes_when_it_is_old() {
        let mut compactor = Compactor::new(Duration::from_mins(5));
        let start = Instant::now();
        let mut at = |minute, current| {
            let due = compactor.due(start + Duration::from_mins(minute), Revision(current));
            compactor.compacted = due.unwrap_or(compactor.compacted);
            due
        };
        assert_eq!(at(0, 1000), None, "nothing is known to be old yet");
        assert_eq!(at(4, 5000), None);
        assert_eq!(at(5, 5010), Some(Revision(1000)), "what was current five minutes ago");
        assert_eq!(at(6, 5010), None, "it is forgotten already");
        assert_eq!(at(9, 5020), Some(Revision(5000)));
        assert_eq!(at(60, 5020), Some(Revision(5020)), "nothing was written for an hour");
    }

    #[test]
    fn an_empty_store_is_left_alone() {
        let mut compactor = Compactor::new(KEPT);
        let start = Instant::now();
        assert_eq!(compactor.due(start, Revision::FIRST), None);
        assert_eq!(compactor.due(start + Duration::from_hours(9), Revision::FIRST), None);
    }
}
