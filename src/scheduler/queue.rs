//! Who waits for what.
//!
//! ```text
//!            add                    pop                     planned
//!   (new) ─────────▶ Active ─────────────────▶ (in hand) ──────────▶ removed
//!                    ▲    ▲                     │      │ write failed
//!            due     │    │ woken, back-off     │      ▼
//!          Backoff ──┘    │ is over             │   Backoff
//!             ▲           │                     ▼
//!             └── woken ──┴───────────── Unschedulable (or 5 minutes)          Gated: until its spec changes
//! ```
#![deny(clippy::disallowed_methods)]

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use client::ObjectKey;
use tokio::time::Instant;

use crate::{config::Config, pod::PodInfo};

#[derive(Debug)]
pub(crate) struct Queue {
    waiting: HashMap<ObjectKey, Waiting>,
    active: BTreeSet<Turn>,
    /// By the moment their back-off is over.
    backoff: BTreeSet<(Instant, ObjectKey)>,
    /// By the moment they were rejected.
    unschedulable: BTreeSet<(Instant, ObjectKey)>,
    arrivals: u64,
    initial_backoff: Duration,
    max_backoff: Duration,
    unschedulable_timeout: Duration,
}

/// Important pods first, then those that came first.
type Turn = (Reverse<i32>, u64, ObjectKey);

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    arrival: u64,
    attempts: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Active,
    /// Being planned or written.
    InHand,
    Backoff {
        until: Instant,
        /// A change may have helped: it may go early when nobody else waits.
        woken: bool,
        cause: Cause,
    },
    Unschedulable {
        since: Instant,
        topological: bool,
    },
    Gated,
}

/// Why a pod backs off.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cause {
    WriteFailed,
    /// No node would do, and something has changed since.
    Rejected {
        topological: bool,
    },
}

/// What a change means to a pod that no node would take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meaning {
    Nothing,
    /// It still finds no node, but for other reasons than it was told.
    OtherReasons,
    /// It may find a node now.
    MayHelp,
}

impl Queue {
    pub(crate) fn new(config: &Config) -> Queue {
        Queue {
            waiting: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            arrivals: 0,
            initial_backoff: config.initial_backoff,
            max_backoff: config.max_backoff,
            unschedulable_timeout: config.unschedulable_timeout,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// A pending pod as it is now. A change of what it asks for gives it another try at once; a change of its status
    /// (our own writes among them) does not.
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        let key = pod.key.clone();
        let gated = pod.gates().next().is_some();
        match self.waiting.get_mut(&key) {
            Some(waiting) if waiting.pod.uid == pod.uid && asks_the_same(&waiting.pod, &pod) => {
                waiting.pod = pod;
            }
            Some(waiting) if waiting.pod.uid == pod.uid && waiting.state == State::InHand => {
                waiting.pod = pod; // what becomes of it, its owner will say
            }
            _ => {
                self.remove(&key);
                self.arrivals += 1;
                let waiting = Waiting { pod, arrival: self.arrivals, attempts: 0, state: State::Gated };
                self.waiting.insert(key.clone(), waiting);
                if !gated {
                    self.set(&key, State::Active);
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        self.unlink(key);
        self.waiting.remove(key);
    }

    /// The next pod to plan. It stays in hand until it is removed, or comes back by one of the calls below.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.tick(now);
        let key = match self.active.first() {
            Some((_, _, key)) => key.clone(),
            None => self.backoff.iter().map(|(_, key)| key).find(|key| self.may_go_early(key))?.clone(),
        };
        self.set(&key, State::InHand);
        let waiting = self.waiting.get_mut(&key)?;
        waiting.attempts = waiting.attempts.saturating_add(1);
        Some(Arc::clone(&waiting.pod))
    }

    /// No node will do. `topological`: pods on other nodes are among the reasons.
    pub(crate) fn unschedulable(&mut self, key: &ObjectKey, topological: bool, now: Instant) {
        self.set(key, State::Unschedulable { since: now, topological });
    }

    /// The API did not take what we wrote about this pod. Its namesake that came since is none of it.
    pub(crate) fn retry(&mut self, key: &ObjectKey, uid: &str, now: Instant) {
        if self.waiting.get(key).is_none_or(|waiting| waiting.pod.uid != uid) {
            return;
        }
        let until = now + self.backoff_of(key);
        self.set(key, State::Backoff { until, woken: false, cause: Cause::WriteFailed });
    }

    /// Something changed: those of the rejected for whom it means something get another try, after their back-off.
    pub(crate) fn wake(&mut self, now: Instant, means: impl Fn(&PodInfo, bool) -> Meaning) {
        let judged = |key: &ObjectKey| {
            let waiting = self.waiting.get(key)?;
            let (State::Unschedulable { topological, .. }
            | State::Backoff { woken: false, cause: Cause::Rejected { topological }, .. }) = waiting.state
            else {
                return None;
            };
            let meaning = means(&waiting.pod, topological);
            (meaning != Meaning::Nothing).then_some((meaning == Meaning::MayHelp, topological))
        };
        let rejected = self.unschedulable.iter().map(|(since, key)| (Some(*since), key));
        let backing_off = self.backoff.iter().map(|(_, key)| (None, key));
        let all = rejected.chain(backing_off);
        let woken: Vec<_> = all.filter_map(|(since, key)| Some((since, key.clone(), judged(key)?))).collect();
        for (since, key, (woken, topological)) in woken {
            let cause = Cause::Rejected { topological };
            match (since.map(|since| since + self.backoff_of(&key)), self.backoff_end(&key)) {
                (Some(until), _) if until <= now => self.set(&key, State::Active),
                (Some(until), _) | (None, Some(until)) => {
                    self.set(&key, State::Backoff { until, woken, cause });
                }
                (None, None) => {}
            }
        }
    }

    fn backoff_end(&self, key: &ObjectKey) -> Option<Instant> {
        match self.waiting.get(key)?.state {
            State::Backoff { until, .. } => Some(until),
            _ => None,
        }
    }

    /// When there is something to do again, should nothing change.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let timeout = self.unschedulable.first().map(|(since, _)| *since + self.unschedulable_timeout);
        let backoff = self.backoff.first().map(|(until, _)| *until);
        timeout.into_iter().chain(backoff).min()
    }

    /// Whether [`Queue::pop`] would give a pod.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        !self.active.is_empty()
            || self.backoff.iter().any(|(until, key)| *until <= now || self.may_go_early(key))
            || self.next_due().is_some_and(|due| due <= now)
    }

    fn tick(&mut self, now: Instant) {
        while let Some((until, key)) = self.backoff.first().cloned()
            && until <= now
        {
            self.set(&key, State::Active);
        }
        while let Some((since, key)) = self.unschedulable.first().cloned()
            && since + self.unschedulable_timeout <= now
        {
            self.set(&key, State::Active);
        }
    }

    fn may_go_early(&self, key: &ObjectKey) -> bool {
        self.waiting.get(key).is_some_and(|w| matches!(w.state, State::Backoff { woken: true, .. }))
    }

    /// Doubles with each attempt.
    fn backoff_of(&self, key: &ObjectKey) -> Duration {
        let attempts = self.waiting.get(key).map_or(1, |waiting| waiting.attempts.max(1));
        let factor = 1_u32.checked_shl(attempts - 1).unwrap_or(u32::MAX);
        self.initial_backoff.saturating_mul(factor).min(self.max_backoff)
    }

    fn set(&mut self, key: &ObjectKey, state: State) {
        self.unlink(key);
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        match state {
            State::Active => {
                self.active.insert((Reverse(waiting.pod.priority), waiting.arrival, key.clone()));
            }
            State::Backoff { until, .. } => {
                self.backoff.insert((until, key.clone()));
            }
            State::Unschedulable { since, .. } => {
                self.unschedulable.insert((since, key.clone()));
            }
            State::InHand | State::Gated => {}
        }
        waiting.state = state;
    }

    fn unlink(&mut self, key: &ObjectKey) {
        let Some(waiting) = self.waiting.get(key) else { return };
        match waiting.state {
            State::Active => {
                self.active.remove(&(Reverse(waiting.pod.priority), waiting.arrival, key.clone()));
            }
            State::Backoff { until, .. } => {
                self.backoff.remove(&(until, key.clone()));
            }
            State::Unschedulable { since, .. } => {
                self.unschedulable.remove(&(since, key.clone()));
            }
            State::InHand | State::Gated => {}
        }
    }
}

fn asks_the_same(a: &PodInfo, b: &PodInfo) -> bool {
    a.pod.spec == b.pod.spec && a.pod.metadata.labels == b.pod.metadata.labels
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
        let gates: Vec<_> = gates.iter().map(|name| json!({"name": name})).collect();
        let pod = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"containers": [], "priority": priority, "schedulingGates": gates},
        });
        Arc::new(PodInfo::of(&Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::namespaced("a", name)
    }

    struct Test {
        queue: Queue,
        start: Instant,
    }

    impl Test {
        fn new() -> Test {
            Test { queue: Queue::new(&Config::default()), start: Instant::now() }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn pop(&mut self, seconds: u64) -> Option<String> {
            let now = self.at(seconds);
            let ready = self.queue.is_ready(now);
            let popped = self.queue.pop(now).map(|pod| pod.uid.clone());
            assert_eq!(ready, popped.is_some());
            popped
        }

        fn reject(&mut self, name: &str, seconds: u64) {
            let now = self.at(seconds);
            self.queue.unschedulable(&key(name), false, now);
        }
    }

    #[test]
    fn important_pods_go_first_and_then_those_that_came_first() {
        let mut test = Test::new();
        for (name, priority) in [("b", 0), ("a", 0), ("vip", 9)] {
            test.queue.add(pod(name, priority, &[]));
        }
        assert_eq!(
            [test.pop(0), test.pop(0), test.pop(0), test.pop(0)].map(Option::unwrap_or_default),
            ["vip", "b", "a", ""]
        );
    }

    #[test]
    fn a_rejected_pod_waits_for_a_change_that_helps_it() {
        let mut test = Test::new();
        test.queue.add(pod("a", 0, &[]));
        test.queue.add(pod("b", 0, &[]));
        assert_eq!(test.pop(0).as_deref(), Some("a"));
        test.reject("a", 0);
        assert_eq!(test.pop(0).as_deref(), Some("b"));
        test.reject("b", 0);
        assert_eq!(test.pop(100), None);
        test.queue.wake(
            test.at(100),
            |pod, _| {
                if pod.uid == "b" { Meaning::MayHelp } else { Meaning::Nothing }
            },
        );
        assert_eq!(test.pop(100).as_deref(), Some("b"));
        assert_eq!(test.pop(299), None);
        assert_eq!(test.queue.next_due(), Some(test.at(300)));
        assert_eq!(test.pop(300).as_deref(), Some("a"), "five minutes are enough");
    }

    #[test]
    fn a_woken_pod_goes_before_its_backoff_is_over_only_if_nobody_else_waits() {
        let mut test = Test::new();
        test.queue.add(pod("a", 9, &[]));
        test.pop(0);
        test.reject("a", 0);
        test.queue.wake(test.at(0), |_, _| Meaning::MayHelp);
        test.queue.add(pod("b", 0, &[]));
        assert_eq!(test.pop(0).as_deref(), Some("b"));
        assert_eq!(test.pop(0).as_deref(), Some("a"));
    }

    #[test]
    fn a_pod_whose_reasons_changed_is_looked_at_after_its_backoff_or_early_once_a_change_may_help() {
        let mut test = Test::new();
        test.queue.add(pod("a", 0, &[]));
        test.pop(0);
        test.reject("a", 0);
        test.queue.wake(test.at(0), |_, _| Meaning::OtherReasons);
        assert_eq!(test.pop(0), None);
        assert_eq!(test.queue.next_due(), Some(test.at(1)));
        assert_eq!(test.pop(1).as_deref(), Some("a"));
        test.reject("a", 1);
        test.queue.wake(test.at(1), |_, _| Meaning::OtherReasons);
        assert_eq!(test.pop(1), None);
        test.queue.wake(test.at(1), |_, _| Meaning::MayHelp);
        assert_eq!(test.pop(1).as_deref(), Some("a"));
    }

    #[test]
    fn no_change_hastens_what_backs_off_after_a_failed_write() {
        let mut test = Test::new();
        test.queue.add(pod("a", 0, &[]));
        test.pop(0);
        test.queue.retry(&key("a"), "a", test.at(0));
        test.queue.wake(test.at(0), |_, _| Meaning::MayHelp);
        assert_eq!(test.pop(0), None);
        assert_eq!(test.pop(1).as_deref(), Some("a"));
    }

    #[test]
    fn a_failed_write_backs_off_from_one_second_to_ten() {
        let mut test = Test::new();
        test.queue.add(pod("a", 0, &[]));
        let mut now = 0;
        for wait in [1, 2, 4, 8, 10, 10] {
            assert_eq!(test.pop(now).as_deref(), Some("a"));
            test.queue.retry(&key("a"), "a", test.at(now));
            assert_eq!(test.queue.next_due(), Some(test.at(now + wait)));
            assert_eq!(test.pop(now + wait - 1), None);
            now += wait;
        }
    }

    #[test]
    fn only_a_change_of_what_it_asks_for_gives_a_rejected_pod_another_try() {
        let mut test = Test::new();
        test.queue.add(pod("a", 0, &[]));
        test.pop(0);
        test.reject("a", 0);
        test.queue.add(pod("a", 0, &[]));
        assert_eq!(test.pop(1), None);
        test.queue.add(pod("a", 1, &[]));
        assert_eq!(test.pop(1).as_deref(), Some("a"));
    }

    #[test]
    fn a_gated_pod_waits_until_its_gates_are_gone() {
        let mut test = Test::new();
        test.queue.add(pod("a", 0, &["wait"]));
        assert_eq!(test.pop(1000), None);
        test.queue.add(pod("a", 0, &[]));
        assert_eq!(test.pop(1000).as_deref(), Some("a"));
    }

    #[test]
    fn a_removed_pod_is_nowhere() {
        let mut test = Test::new();
        for state in 0..3 {
            test.queue.add(pod("a", 0, &[]));
            if state > 0 {
                test.pop(0);
            }
            if state > 1 {
                test.queue.retry(&key("a"), "a", test.at(0));
            }
            test.queue.remove(&key("a"));
            assert_eq!(test.pop(1000), None);
            assert_eq!((test.queue.len(), test.queue.next_due()), (0, None));
        }
    }
}
