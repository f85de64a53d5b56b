//! The watch cache: every object's bytes, encoded once, for get, list and watch.
//!
//! ```text
//!   store.watch(/registry/) ─▶ Dispatcher ─▶ ResourceCache ─▶ entries   (get, list)
//!                                  │             └─▶ ring      (watch from a revision)
//!                                  │             └─▶ watchers  (bounded queues; a slow one is ended)
//!                                  └─▶ progress (a revision: everything up to it has been applied)
//! ```
//!
//! Invariants:
//! - Progress is published after every event up to it was applied and queued to every watcher.
//! - A watcher sees each event of its selection after its start once, in order, or is ended.
//! - A slow watcher never blocks the dispatcher.

mod dispatcher;
mod entry;
mod resource;
mod ring;
mod selection;
mod watcher;

pub(crate) use dispatcher::number as dispatcher_number;
pub use dispatcher::{Cache, CacheError};
pub use entry::{Entry, Header};
pub use resource::{ResourceCache, Snapshot, Start};
pub use ring::Change;
pub use selection::Selection;
pub use watcher::{Delivered, EventType, Watcher};
