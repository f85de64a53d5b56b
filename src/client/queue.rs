//! When to work on what: each item once, failures with back-off, some later.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use lifecycle::Backoff;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// A queue in which an item waits at most once and is worked on by at most one worker at a time:
/// what is added while it is being worked on comes again when that is done. Cheap to clone.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something became ready, or the next delayed item changed.
    changed: Notify,
    backoff: Backoff,
    seeds: RandomState,
}

struct State<T> {
    ready: VecDeque<T>,
    /// What is in `ready`, or was added again while claimed.
    waiting: HashSet<T>,
    claimed: HashSet<T>,
    failures: HashMap<T, u32>,
    /// The earliest wanted moment of each delayed item; heap entries that differ from it are stale.
    due: HashMap<T, Instant>,
    delayed: BinaryHeap<Reverse<Delayed<T>>>,
    added: u64,
}

struct Delayed<T> {
    at: Instant,
    order: u64,
    item: T,
}

impl<T> PartialEq for Delayed<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl<T> Eq for Delayed<T> {}
impl<T> PartialOrd for Delayed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Delayed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for WorkQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("WorkQueue")
            .field("ready", &state.ready.len())
            .field("delayed", &state.due.len())
            .field("claimed", &state.claimed.len())
            .finish()
    }
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    /// Retries after 5 ms, doubling up to 1000 s, as upstream's controllers.
    fn default() -> Self {
        Self::new(Backoff::doubling(Duration::from_millis(5), Duration::from_secs(1000)))
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            claimed: HashSet::new(),
            failures: HashMap::new(),
            due: HashMap::new(),
            delayed: BinaryHeap::new(),
            added: 0,
        };
        let shared =
            Shared { state: Mutex::new(state), changed: Notify::new(), backoff, seeds: RandomState::new() };
        Self { shared: Arc::new(shared) }
    }

    pub fn add(&self, item: T) {
        if self.shared.state.lock().add(item) {
            self.shared.changed.notify_one();
        }
    }

    /// Adds `item` at `at`; of several such wishes the earliest counts.
    pub fn add_at(&self, item: T, at: Instant) {
        let mut state = self.shared.state.lock();
        if state.due.get(&item).is_some_and(|due| *due <= at) {
            return;
        }
        state.due.insert(item.clone(), at);
        state.added += 1;
        let order = state.added;
        state.delayed.push(Reverse(Delayed { at, order, item }));
        drop(state);
        self.shared.changed.notify_one();
    }

    pub fn add_after(&self, item: T, delay: Duration) {
        self.add_at(item, Instant::now() + delay);
    }

    /// Takes the next item, waiting for one. Cancel safe; any number of workers may wait.
    pub async fn next(&self) -> Claim<T> {
        loop {
            let changed = self.shared.changed.notified();
            let next_due = {
                let mut state = self.shared.state.lock();
                state.collect_due(Instant::now());
                if let Some(item) = state.ready.pop_front() {
                    state.waiting.remove(&item);
                    state.claimed.insert(item.clone());
                    let more = !state.ready.is_empty();
                    drop(state);
                    if more {
                        // One notification may stand for several items: pass it on.
                        self.shared.changed.notify_one();
                    }
                    return Claim { queue: self.clone(), item: Some(item) };
                }
                state.delayed.peek().map(|Reverse(delayed)| delayed.at)
            };
            match next_due {
                None => changed.await,
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    /// How often `item` has failed in a row.
    #[must_use]
    pub fn failures(&self, item: &T) -> u32 {
        self.shared.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// Items that are ready or delayed.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.shared.state.lock();
        state.waiting.len() + state.due.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn release(&self, item: T, failed: bool) {
        let mut state = self.shared.state.lock();
        state.claimed.remove(&item);
        // Added while it was worked on: it may go now.
        let again = state.waiting.contains(&item);
        if again {
            state.ready.push_back(item.clone());
        }
        if !failed {
            state.failures.remove(&item);
        } else {
            let failures = state.failures.entry(item.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            let failures = *failures;
            drop(state);
            let seed = self.shared.seeds.build_hasher().finish() ^ u64::from(failures);
            self.add_after(item, self.shared.backoff.jittered(failures, seed));
        }
        if again {
            self.shared.changed.notify_one();
        }
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// True if a worker may be needed.
    fn add(&mut self, item: T) -> bool {
        if !self.waiting.insert(item.clone()) || self.claimed.contains(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    fn collect_due(&mut self, now: Instant) {
        while let Some(Reverse(first)) = self.delayed.peek() {
            if self.due.get(&first.item) != Some(&first.at) {
                self.delayed.pop();
                continue;
            }
            if first.at > now {
                return;
            }
            if let Some(Reverse(first)) = self.delayed.pop() {
                self.due.remove(&first.item);
                self.add(first.item);
            }
        }
    }
}

/// An item that is being worked on. Dropping it without an answer (a panic) counts as a failure.
pub struct Claim<T: Clone + Eq + Hash> {
    queue: WorkQueue<T>,
    item: Option<T>,
}

impl<T: Clone + Eq + Hash + fmt::Debug> fmt::Debug for Claim<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.item).finish()
    }
}

impl<T: Clone + Eq + Hash> Claim<T> {
    /// Done; its failures are forgotten.
    pub fn done(mut self) {
        if let Some(item) = self.item.take() {
            self.queue.release(item, false);
        }
    }

    /// Failed: comes again after the back-off for its failures in a row.
    pub fn retry(mut self) {
        if let Some(item) = self.item.take() {
            self.queue.release(item, true);
        }
    }

    /// Done for now; comes again after `delay`.
    pub fn again_after(mut self, delay: Duration) {
        if let Some(item) = self.item.take() {
            self.queue.add_after(item.clone(), delay);
            self.queue.release(item, false);
        }
    }
}

impl<T: Clone + Eq + Hash> std::ops::Deref for Claim<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.item {
            Some(item) => item,
            // `item` is only taken by the methods that consume the claim.
            None => unreachable!("a claim holds its item until it is answered"),
        }
    }
}

impl<T: Clone + Eq + Hash> Drop for Claim<T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.queue.release(item, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> WorkQueue<&'static str> {
        WorkQueue::new(Backoff {
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            factor: 2.0,
            jitter: 0.0,
        })
    }

    async fn none_ready(queue: &WorkQueue<&'static str>) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_added_twice_comes_once() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        queue.next().await.done();
        assert!(none_ready(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_added_while_worked_on_comes_again_but_not_beside() {
        let queue = queue();
        queue.add("a");
        let claim = queue.next().await;
        queue.add("a");
        assert!(none_ready(&queue).await);
        claim.done();
        queue.next().await.done();
        assert!(none_ready(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_one_item_delay_that_item_alone() {
        let queue = queue();
        queue.add("bad");
        let start = Instant::now();
        for _ in 0..3 {
            queue.next().await.retry();
        }
        queue.add("good");
        queue.next().await.done();
        assert_eq!(start.elapsed().as_secs(), 3); // 1 s + 2 s, the third wait of 4 s is still running
        let claim = queue.next().await;
        assert_eq!((*claim, start.elapsed().as_secs()), ("bad", 7));
        claim.done();
        assert_eq!(queue.failures(&"bad"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_delays_counts() {
        let queue = queue();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(20));
        queue.next().await.done();
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_claim_is_a_failure() {
        let queue = queue();
        queue.add("a");
        drop(queue.next().await);
        assert_eq!(queue.failures(&"a"), 1);
        queue.next().await.done();
    }

    #[tokio::test(start_paused = true)]
    async fn every_waiting_worker_gets_work() {
        let queue = queue();
        let (one, two) = (queue.clone(), queue.clone());
        let both = async { tokio::join!(one.next(), two.next()) };
        let feed = async {
            queue.add("a");
            queue.add("b");
        };
        let ((first, second), ()) = tokio::join!(both, feed);
        assert_ne!(*first, *second);
        first.done();
        second.done();
    }
}
