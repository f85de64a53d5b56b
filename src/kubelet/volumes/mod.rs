//! Volumes of pods: what is mounted where, and its content kept current.
//!
//! ```text
//!   Volume ──▶ plan (pure): what it is, where it stands
//!   watched ConfigMaps and Secrets, tokens ──▶ render (pure): its files ──▶ set_up ──▶ atomic, mounts, ownership
//!        │ changed                                                             on the pod's own worker
//!        └──▶ the pod's worker is woken, and prepares again
//! ```
//!
//! Invariants:
//! - A file system that hangs holds one thread of one pod: each pod has a single worker, and it may be abandoned.
//! - What is torn down is found on disk and in the mount table, not remembered.
//! - A directory is removed only when nothing is mounted in it any more.

mod atomic;
mod container_mounts;
pub(crate) mod mounts;
mod objects;
mod ownership;
pub mod plan;
pub mod render;
mod resources;
mod set_up;
mod sub_path;
mod tokens;

pub use resources::{NodeResources, Parts};

/// Runs `test` on a thread whose mounts nobody else sees, and which end with it.
#[cfg(test)]
pub(crate) fn in_private_mounts<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    let private = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("make them private");
        test()
    });
    match private.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
