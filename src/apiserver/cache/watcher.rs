//! One watch: what it is about, its queue, and what one change means to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    entry::{self, Entry},
    ring::Change,
    selection::Selection,
};

/// How many events may wait for a watcher before it is ended.
const QUEUE: usize = 1024;
/// And how much. One event may always wait, however big.
const QUEUE_BYTES: usize = 64 << 20;
/// A watcher for whom events wait, and who has not read anything for this long, is ended.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// An event as one watcher sees it.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub r#type: EventType,
    pub revision: u64,
    /// The object, in the storage version.
    pub object: Bytes,
    /// The whole event as a line of JSON.
    pub line: Bytes,
}

impl Delivered {
    /// An initial event.
    pub(super) fn initial(entry: &Entry) -> Self {
        Self {
            r#type: EventType::Added,
            revision: entry.revision,
            object: entry.bytes.clone(),
            line: entry.added_line(),
        }
    }

    /// What a change means to a selection: an object that enters is ADDED, one that leaves is DELETED in its
    /// last selected state, under the change's revision.
    pub(super) fn of(change: &Change, selection: &Selection) -> Option<Self> {
        let selected = |entry: &Arc<Entry>| selection.matches(&entry.header);
        let new = change.new.as_ref().filter(|entry| selected(entry));
        let old = change.old.as_ref().filter(|entry| selected(entry));
        let (r#type, object, line) = match (new, old) {
            (None, None) => return None,
            (Some(new), None) => (EventType::Added, new.bytes.clone(), new.added_line()),
            (Some(new), Some(_)) => (EventType::Modified, new.bytes.clone(), new.line.clone()),
            (None, Some(old)) => {
                let (object, line) =
                    change.deleted.clone().unwrap_or_else(|| old.deleted_at(change.revision));
                (EventType::Deleted, object, line)
            }
        };
        Some(Self { r#type, revision: change.revision, object, line })
    }
}

/// What both ends of a watch know.
#[derive(Debug, Default)]
struct Shared {
    /// Counts what the watcher has read, so that its standing still can be seen.
    reads: AtomicU64,
    queued_bytes: AtomicUsize,
}

/// The receiving end of a watch.
#[derive(Debug)]
pub struct Watcher {
    /// What the watch starts with, before its queue.
    pub initial: Vec<Delivered>,
    /// Everything up to here is in `initial`.
    pub start: u64,
    queue: mpsc::Receiver<Delivered>,
    shared: Arc<Shared>,
}

impl Watcher {
    /// The next event; `None` when the watch is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivered> {
        let event = self.queue.recv().await?;
        Some(self.taken(event))
    }

    /// The next event, if one waits.
    pub fn waiting(&mut self) -> Option<Delivered> {
        let event = self.queue.try_recv().ok()?;
        Some(self.taken(event))
    }

    /// The reader goes forward, though with what it started with.
    pub fn note_read(&self) {
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
    }

    fn taken(&self, event: Delivered) -> Delivered {
        self.shared.queued_bytes.fetch_sub(event.line.len(), Ordering::Relaxed);
        self.note_read();
        event
    }
}

/// The dispatcher's end of a watch.
#[derive(Debug)]
pub(super) struct Sender {
    selection: Selection,
    /// Changes up to this revision were asked not to be sent.
    after: u64,
    queue: mpsc::Sender<Delivered>,
    shared: Arc<Shared>,
    /// The count of reads at `read_at`, the last time that the watcher was seen to go forward.
    reads: u64,
    read_at: Instant,
    /// Breaks off the response of a watcher that is ended: it holds what was queued until it is read, and nobody reads.
    broken_off: Option<CancellationToken>,
}

/// Both ends of a watch that starts with `initial`.
pub(super) fn watch(
    (initial, start): (Vec<Delivered>, u64),
    (selection, after): (Selection, u64),
    broken_off: Option<CancellationToken>,
) -> (Sender, Watcher) {
    let (tx, rx) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared::default());
    let (reads, read_at) = (0, Instant::now());
    let sender = Sender { selection, after, queue: tx, shared: shared.clone(), reads, read_at, broken_off };
    (sender, Watcher { initial, start, queue: rx, shared })
}

impl Sender {
    /// False when the watch is over: its reader is gone or too slow.
    pub(super) fn send(&mut self, change: &Change) -> bool {
        if self.queue.is_closed() {
            return false;
        }
        if change.revision <= self.after {
            return true;
        }
        let kept =
            !self.is_stalled() && Delivered::of(change, &self.selection).is_none_or(|event| self.put(event));
        if !kept && let Some(broken_off) = &self.broken_off {
            broken_off.cancel();
        }
        kept
    }

    fn put(&self, event: Delivered) -> bool {
        let bytes = event.line.len();
        // Before the event, which may be taken at once.
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        (queued == 0 || queued + bytes <= QUEUE_BYTES) && self.queue.try_send(event).is_ok()
    }

    fn is_stalled(&mut self) -> bool {
        let reads = self.shared.reads.load(Ordering::Relaxed);
        let nothing_waits = self.queue.capacity() == self.queue.max_capacity();
        if nothing_waits || reads != self.reads {
            (self.reads, self.read_at) = (reads, Instant::now());
        }
        self.read_at.elapsed() >= STALLED
    }
}

pub(super) fn line_start(created: bool) -> &'static [u8] {
    if created { entry::ADDED } else { entry::MODIFIED }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Sender, Watcher, CancellationToken) {
        let broken_off = CancellationToken::new();
        let all = Selection::in_namespace("");
        let (sender, watcher) = watch((Vec::new(), 0), (all, 0), Some(broken_off.clone()));
        (sender, watcher, broken_off)
    }

    fn event(bytes: usize) -> Delivered {
        let line = Bytes::from(vec![b'x'; bytes]);
        Delivered { r#type: EventType::Added, revision: 1, object: line.clone(), line }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_stands_still_while_events_wait_is_stalled_after_a_minute() {
        let (mut sender, mut watcher, _) = ends();
        tokio::time::advance(STALLED * 2).await;
        assert!(!sender.is_stalled(), "nothing waits for it");
        assert!(sender.put(event(1)) && sender.put(event(1)));
        tokio::time::advance(STALLED - Duration::from_secs(1)).await;
        assert!(!sender.is_stalled());
        watcher.note_read();
        assert!(!sender.is_stalled());
        tokio::time::advance(STALLED - Duration::from_secs(1)).await;
        assert!(!sender.is_stalled(), "it still read what it started with");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(sender.is_stalled());
        assert!(watcher.next().await.is_some());
        assert!(!sender.is_stalled());
    }

    #[tokio::test]
    async fn a_queue_holds_so_many_bytes_and_always_one_event() {
        let (sender, mut watcher, _) = ends();
        assert!(sender.put(event(QUEUE_BYTES + 1)));
        assert!(!sender.put(event(1)));
        let (sender_2, mut watcher_2, _) = ends();
        assert!(sender_2.put(event(QUEUE_BYTES / 2)) && sender_2.put(event(QUEUE_BYTES / 2)));
        assert!(watcher_2.waiting().is_some());
        assert!(sender_2.put(event(QUEUE_BYTES / 2)), "what was read does not count");
        assert!(watcher.waiting().is_some() && watcher.waiting().is_none());
    }
}
