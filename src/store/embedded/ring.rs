//! The last revisions in memory, for watchers that keep up. Bounded in bytes; whoever needs more reads the log. Pure.
#![deny(clippy::disallowed_methods)]

use std::collections::VecDeque;

use crate::{Event, KeyRange, Revision, WatchBatch};

#[derive(Debug)]
pub(super) struct Ring {
    commits: VecDeque<Commit>,
    bytes: usize,
    limit_bytes: usize,
}

/// One revision's events.
#[derive(Debug)]
struct Commit {
    revision: Revision,
    events: Vec<Event>,
    bytes: usize,
}

impl Ring {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { commits: VecDeque::new(), bytes: 0, limit_bytes }
    }

    pub(super) fn push(&mut self, revision: Revision, events: Vec<Event>) {
        let bytes = events.iter().map(size_bytes).sum();
        self.bytes += bytes;
        self.commits.push_back(Commit { revision, events, bytes });
        while self.bytes > self.limit_bytes {
            let Some(oldest) = self.commits.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
    }

    /// Whether every revision from `from` on is here.
    pub(super) fn covers(&self, from: Revision) -> bool {
        self.commits.front().is_some_and(|oldest| oldest.revision <= from)
    }

    /// At most `limit` batches of `range` from `from` on, and whether that was all.
    pub(super) fn batches(&self, range: &KeyRange, from: Revision, limit: usize) -> (Vec<WatchBatch>, bool) {
        let first = self.commits.partition_point(|commit| commit.revision < from);
        let mut batches = Vec::new();
        for commit in self.commits.range(first..) {
            let events: Vec<Event> =
                commit.events.iter().filter(|event| range.contains(event.key())).cloned().collect();
            if events.is_empty() {
                continue;
            }
            if batches.len() == limit {
                return (batches, false);
            }
            batches.push(WatchBatch { revision: commit.revision, events });
        }
        (batches, true)
    }
}

/// What an event keeps in memory, counting the previous value as the ring's own.
fn size_bytes(event: &Event) -> usize {
    let value = if let Event::Put { kv, .. } = event { kv.value.len() } else { 0 };
    size_of::<Event>() + event.key().len() + value + event.prev().map_or(0, |prev| prev.value.len())
}
