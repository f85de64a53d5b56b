//! The built-in network: one wire for each pod, straight to the host, made over netlink in this process.
//!
//! ```text
//!   pod namespace                        host
//!   eth0  10.1.0.7/32  ────── veth ───── cor1f2e3d4c5b6a    route 10.1.0.7 dev cor1f2e3d4c5b6a
//!   default via 169.254.1.1 dev eth0                        table coracle-network: host ports, masquerade
//! ```
//!
//! No bridge and no ARP: every host end has the same fixed MAC, and both ends know the other by a permanent
//! neighbour entry, so a packet is routed once, by the host.
//!
//! - `model.rs` says what an attachment is; `records.rs` keeps each as one file, written before anything is
//!   made in the kernel and removed after everything is gone. These files are the address allocations.
//! - `request.rs` reads the runtime's request; `ipam.rs` picks addresses; `names.rs` names interfaces;
//!   `render.rs` makes the nf_tables transactions. All pure.
//! - `wire.rs` makes and removes the pair of interfaces; `rules.rs` commits transactions.
//! - `network.rs` puts them in order.
//!
//! Invariants:
//! - An address belongs to one record from before the pod has it until after the pod lost it.
//! - An interface named `cor` and twelve hex digits without a record is a leftover, and removed.
//! - The table holds what the records say, whoever changed it last.

mod ipam;
mod model;
mod names;
mod network;
mod records;
mod render;
mod request;
mod rules;
mod wire;

pub use model::{Bandwidth, HostPort, Protocol, Settings};
pub(crate) use names::is_host_interface;
pub use network::{Builtin, Leaving, Swept};
pub(crate) use render::TABLE;
pub(crate) use rules::Table;
pub(crate) use wire::DEFAULT_MTU;
