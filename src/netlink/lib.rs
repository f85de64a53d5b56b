//! What proxy and network need from the kernel, over netlink: no process is started.
//!
//! - [`nft`]: nf_tables transactions as values, rendered as text (for people and tests) or as messages (for the kernel).

pub mod nft;
