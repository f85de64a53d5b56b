//! What a watcher sees.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::BoxStream};

use crate::{KeyValue, Revision, StoreError};

/// One key's change. A key changes at most once in a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `prev` is what was there before: `None` for a new key.
    Put { kv: KeyValue, prev: Option<KeyValue> },
    /// `prev` is what was deleted. It can be `None` only for a watch that starts at the compact revision itself.
    Delete { key: Bytes, prev: Option<KeyValue> },
}

impl Event {
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    #[must_use]
    pub fn prev(&self) -> Option<&KeyValue> {
        match self {
            Self::Put { prev, .. } | Self::Delete { prev, .. } => prev.as_ref(),
        }
    }
}

/// All that one revision changed in the watched range, or, without events, the news that every event up to
/// `revision` has been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: Vec<Event>,
}

/// An open watch: a stream of batches in revision order. After an error it has ended. Dropping it ends it too.
pub struct Watch {
    batches: BoxStream<'static, Result<WatchBatch, StoreError>>,
    progress: Progress,
}

impl Watch {
    /// For engines: a watch from its two halves.
    #[must_use]
    pub fn new(batches: BoxStream<'static, Result<WatchBatch, StoreError>>, progress: Progress) -> Self {
        Self { batches, progress }
    }

    pub async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        self.batches.next().await
    }

    /// Asks this watch to tell how far it has seen.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl Stream for Watch {
    type Item = Result<WatchBatch, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Makes a watch yield a batch without events once it is level with the store. This is how a cache serves a
/// consistent read: take [`current_revision`](crate::Store::current_revision), request progress, wait until the
/// watch has yielded a batch of that revision or later.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn() + Send + Sync>);

impl Progress {
    pub fn new(request: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(request))
    }

    /// Never blocks. Requests that meet an unanswered one share its answer.
    pub fn request(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}
