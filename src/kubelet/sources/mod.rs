//! Where pods come from: the API, and the static pod directory. Merged into one wish by a pure function.
//!
//! ```text
//!   API watch (spec.nodeName = this node) ──┐
//!                                           ├─ merge (pure) ─▶ Desired, MirrorPlan ─▶ mirror (API)
//!   files (inotify) ── static_pod (pure) ───┘
//! ```
//!
//! Invariants:
//! - A mirror pod never runs; it shows its static pod in the API, and goes with it.
//! - The UID of a static pod is the hash of its content: a changed file is another pod.
//!
//! The place of a third source, a local checkpoint of the API's pods, is beside `files.rs`.

mod files;
pub mod merge;
mod mirror;
pub mod static_pod;

pub use files::watch_files;
pub use mirror::keep as keep_mirrors;
