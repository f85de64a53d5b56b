//! Decides what becomes of one occurrence: a new Event, one more of a known one, or nothing.
//! The numbers are client-go's: 10 similar within 10 minutes are told as one; 25 at once per object,
//! then one every 5 minutes.
#![deny(clippy::disallowed_methods)]

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

use super::EventType;

const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW_SECONDS: i64 = 600;
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// Objects and events that are remembered, as upstream's cache; beyond it the oldest half is forgotten.
const REMEMBERED: usize = 4096;

#[derive(Clone, Debug)]
pub(super) struct Occurrence {
    pub(super) about: ObjectReference,
    pub(super) kind: EventType,
    pub(super) reason: String,
    pub(super) action: String,
    pub(super) note: String,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Drop,
    Create { occurrence: Occurrence, name: String },
    Repeat { occurrence: Occurrence, name: String, first: Timestamp, count: i32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct About {
    namespace: String,
    name: String,
    kind: String,
    uid: String,
    field_path: String,
}

type Similar = (About, EventType, String);

#[derive(Debug, Default)]
pub(super) struct Correlator {
    buckets: HashMap<About, Bucket>,
    similar: HashMap<Similar, Aggregate>,
    known: HashMap<(Similar, String), Known>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

#[derive(Debug)]
struct Aggregate {
    notes: HashSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Known {
    name: String,
    first: Timestamp,
    last: Timestamp,
    count: i32,
}

impl Correlator {
    pub(super) fn on(&mut self, mut occurrence: Occurrence, now: Timestamp) -> Verdict {
        self.forget(now);
        let about = About::of(&occurrence.about);
        if !self.take_token(about.clone(), now) {
            return Verdict::Drop;
        }
        let similar = (about, occurrence.kind, occurrence.reason.clone());
        let combined = self.aggregate(&similar, &occurrence.note, now);
        // Combined events share one Event whatever they say; the newest note is shown.
        let key = if combined { String::new() } else { occurrence.note.clone() };
        if combined {
            occurrence.note = format!("(combined from similar events): {}", occurrence.note);
        }
        if let Some(known) = self.known.get_mut(&(similar.clone(), key.clone())) {
            known.count = known.count.saturating_add(1);
            known.last = now;
            let (name, first, count) = (known.name.clone(), known.first, known.count);
            return Verdict::Repeat { occurrence, name, first, count };
        }
        let object = occurrence.about.name.as_deref().unwrap_or_default();
        let name = format!("{object}.{:x}", now.as_nanosecond());
        self.known.insert((similar, key), Known { name: name.clone(), first: now, last: now, count: 1 });
        Verdict::Create { occurrence, name }
    }

    fn take_token(&mut self, about: About, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(about).or_insert(Bucket { tokens: BURST, filled: now });
        let seconds = now.duration_since(bucket.filled).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + seconds * REFILL_PER_SECOND).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Whether so many different notes of this sort came lately that they are told as one.
    fn aggregate(&mut self, similar: &Similar, note: &str, now: Timestamp) -> bool {
        let aggregate = self
            .similar
            .entry(similar.clone())
            .or_insert_with(|| Aggregate { notes: HashSet::new(), last: now });
        if seconds_between(aggregate.last, now) > SIMILAR_WINDOW_SECONDS {
            aggregate.notes.clear();
        }
        aggregate.last = now;
        if aggregate.notes.len() < SIMILAR_LIMIT {
            aggregate.notes.insert(note.to_string());
        }
        aggregate.notes.len() >= SIMILAR_LIMIT
    }

    fn forget(&mut self, now: Timestamp) {
        if self.buckets.len() > REMEMBERED {
            // A full bucket is the same as none.
            self.buckets.retain(|_, bucket| {
                let seconds = now.duration_since(bucket.filled).as_secs_f64();
                bucket.tokens + seconds * REFILL_PER_SECOND < BURST
            });
            halve(&mut self.buckets, |bucket| bucket.filled);
        }
        halve(&mut self.similar, |aggregate| aggregate.last);
        halve(&mut self.known, |known| known.last);
    }
}

/// Drops the half that was used longest ago once there are too many.
fn halve<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, used: impl Fn(&V) -> Timestamp) {
    if map.len() <= REMEMBERED {
        return;
    }
    let mut times: Vec<Timestamp> = map.values().map(&used).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    map.retain(|_, value| used(value) > middle);
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> i64 {
    later.as_second() - earlier.as_second()
}

impl About {
    fn of(object: &ObjectReference) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            namespace: text(&object.namespace),
            name: text(&object.name),
            kind: text(&object.kind),
            uid: text(&object.uid),
            field_path: text(&object.field_path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(pod: &str, note: &str) -> Occurrence {
        Occurrence {
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("default".into()),
                name: Some(pod.into()),
                ..ObjectReference::default()
            },
            kind: EventType::Normal,
            reason: "Pulled".into(),
            action: String::new(),
            note: note.into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn the_same_words_again_raise_the_count_of_the_first_event() {
        let mut correlator = Correlator::default();
        let Verdict::Create { name: created, .. } = correlator.on(occurrence("a", "x"), at(0)) else {
            panic!("first is created")
        };
        let Verdict::Repeat { name, count, first, .. } = correlator.on(occurrence("a", "x"), at(5)) else {
            panic!("second is a repeat")
        };
        assert_eq!((name, count, first), (created, 2, at(0)));
    }

    #[test]
    fn many_different_words_of_one_reason_become_one_event() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            let verdict = correlator.on(occurrence("a", &n.to_string()), at(n));
            assert!(matches!(verdict, Verdict::Create { .. }));
        }
        let Verdict::Create { occurrence: combined, .. } = correlator.on(occurrence("a", "9"), at(9)) else {
            panic!("the tenth is the first combined one")
        };
        assert_eq!(combined.note, "(combined from similar events): 9");
        assert!(matches!(correlator.on(occurrence("a", "10"), at(10)), Verdict::Repeat { count: 2, .. }));
    }

    #[test]
    fn a_talkative_object_is_silenced_after_its_burst_and_others_are_not() {
        let mut correlator = Correlator::default();
        for _ in 0..25 {
            assert!(!matches!(correlator.on(occurrence("a", "x"), at(0)), Verdict::Drop));
        }
        assert!(matches!(correlator.on(occurrence("a", "x"), at(1)), Verdict::Drop));
        assert!(!matches!(correlator.on(occurrence("b", "x"), at(1)), Verdict::Drop));
        assert!(!matches!(correlator.on(occurrence("a", "x"), at(302)), Verdict::Drop));
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..10_000_i64 {
            correlator.on(occurrence(&n.to_string(), "x"), at(n));
        }
        assert!(correlator.known.len() <= REMEMBERED + 1);
        assert!(correlator.buckets.len() <= REMEMBERED + 1);
    }
}
