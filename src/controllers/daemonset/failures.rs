//! How long a node waits before a failed pod is replaced again.
//!
//! A node that refuses a pod refuses the next one too: the wait doubles with each failure, from a second to 15 minutes,
//! and what lies long enough behind is forgotten. So it is for each generation that the status tells of, as upstream:
//! a template that was mended is tried at once. Kept in memory only; after a restart each node is tried once at once.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use client::ObjectKey;
use k8s_openapi::api::apps::v1::DaemonSet;
use lifecycle::Backoff;
use tokio::time::Instant;

const LONGEST: Duration = Duration::from_secs(15 * 60);
const BACKOFF: Backoff = Backoff::doubling(Duration::from_secs(1), LONGEST);

#[derive(Debug, Default)]
pub(super) struct Failures {
    sets: Mutex<HashMap<ObjectKey, Failed>>,
}

/// What failed of one DaemonSet at one generation.
#[derive(Debug, Default)]
struct Failed {
    of: (Option<String>, i64),
    nodes: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    count: u32,
    last: Instant,
}

impl Failures {
    /// The nodes that wait, and for how long yet.
    pub(super) fn waits(&self, key: &ObjectKey, set: &DaemonSet, now: Instant) -> HashMap<String, Duration> {
        let mut sets = self.lock();
        let Some(failed) = sets.get_mut(key) else { return HashMap::new() };
        if failed.of != about(set) {
            sets.remove(key);
            return HashMap::new();
        }
        failed.nodes.retain(|_, entry| now.saturating_duration_since(entry.last) <= 2 * LONGEST);
        let left = |entry: &Entry| {
            BACKOFF.delay(entry.count).saturating_sub(now.saturating_duration_since(entry.last))
        };
        let waits = failed.nodes.iter().map(|(node, entry)| (node.clone(), left(entry)));
        waits.filter(|(_, left)| !left.is_zero()).collect()
    }

    /// A failed pod of this node is replaced now.
    pub(super) fn note(&self, key: &ObjectKey, set: &DaemonSet, node: &str, now: Instant) {
        let mut sets = self.lock();
        let failed = sets.entry(key.clone()).or_default();
        if failed.of != about(set) {
            *failed = Failed { of: about(set), nodes: HashMap::new() };
        }
        let entry = failed.nodes.entry(node.to_string()).or_insert(Entry { count: 0, last: now });
        *entry = Entry { count: entry.count.saturating_add(1), last: now };
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Failed>> {
        // No method leaves an entry half-written.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn about(set: &DaemonSet) -> (Option<String>, i64) {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    (set.metadata.uid.clone(), observed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nodes_wait_doubles_and_a_new_generation_begins_anew() {
        let set = |generation: i64| -> DaemonSet {
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": {"observedGeneration": generation,
                "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}}))
            .unwrap()
        };
        let (failures, key, start) = (Failures::default(), ObjectKey::namespaced("d", "x"), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let wait = |generation, seconds: u64| {
            let waits = failures.waits(&key, &set(generation), at(seconds));
            assert!(waits.keys().all(|node| node == "n1"));
            waits.get("n1").map(Duration::as_secs)
        };
        assert_eq!(wait(1, 0), None);
        failures.note(&key, &set(1), "n1", at(0));
        assert_eq!(wait(1, 0), Some(1));
        assert_eq!(wait(1, 1), None);
        failures.note(&key, &set(1), "n1", at(1));
        failures.note(&key, &set(1), "n1", at(3));
        assert_eq!((wait(1, 3), wait(1, 6)), (Some(4), Some(1)));
        assert_eq!(wait(1, 7), None);
        (0..20).for_each(|_| failures.note(&key, &set(1), "n1", at(10)));
        assert_eq!(wait(1, 10), Some(900));
        assert_eq!(wait(1, 10 + 1801), None);
        failures.note(&key, &set(1), "n1", at(2000));
        assert_eq!(wait(1, 2000), Some(1), "what lies long behind is forgotten");
        assert_eq!(wait(2, 2000), None);
    }
}
