//! The cgroup of each pod, between the node's and its containers'.
//!
//! ```text
//!   Pod ──▶ plan (pure): where it lives, its limits, the files that say so ──▶ tree: mkdir, write, kill, rmdir
//!
//!   <cgroupRoot>/kubepods/pod<uid>               guaranteed
//!                        /burstable/pod<uid>
//!                        /besteffort/pod<uid>    below each controller (v1), or once (v2)
//! ```
//!
//! Invariants:
//! - Nothing outside `<cgroupRoot>/kubepods` is written or removed, but for what the kernel needs of its parents: cpuset
//!   values (v1) and enabled controllers (v2).
//! - With the systemd driver the same places are slices (`kubepods.slice/kubepods-burstable.slice/…`), which systemd is asked
//!   to make (`systemd/`): on cgroup v2 it is the tree's one owner.
//! - The runtime makes the containers' cgroups below the pod's; they go with the pod.

mod hierarchy;
pub mod plan;
mod systemd;
mod tree;

pub use hierarchy::{Hierarchy, Version};
pub use tree::Cgroups;
