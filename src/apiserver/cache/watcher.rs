//! One watch: what it is about, its queue, and what one change means to it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    entry::{self, Entry},
    ring::Change,
    selection::Selection,
};

/// How many events may wait for a watcher before it is ended.
pub(super) const QUEUE: usize = 1024;

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

/// The receiving end of a watch.
#[derive(Debug)]
pub struct Watcher {
    /// What the watch starts with, before its queue.
    pub initial: Vec<Delivered>,
    /// Everything up to here is in `initial`.
    pub start: u64,
    pub queue: mpsc::Receiver<Delivered>,
}

/// The dispatcher's end of a watch.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) selection: Selection,
    /// Changes up to this revision were asked not to be sent.
    pub(super) after: u64,
    pub(super) queue: mpsc::Sender<Delivered>,
}

impl Sender {
    /// False when the watch is over: its reader is gone or too slow.
    pub(super) fn send(&self, change: &Change) -> bool {
        if change.revision <= self.after {
            return true;
        }
        match Delivered::of(change, &self.selection) {
            None => !self.queue.is_closed(),
            Some(event) => self.queue.try_send(event).is_ok(),
        }
    }
}

pub(super) fn line_start(created: bool) -> &'static [u8] {
    if created { entry::ADDED } else { entry::MODIFIED }
}
