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
//! - The runtime makes the containers' cgroups below the pod's; they go with the pod.

mod hierarchy;
pub mod plan;
mod tree;

pub use hierarchy::{Hierarchy, Version};
pub use tree::Cgroups;
