//! Links, addresses, routes, neighbours and queueing of one network namespace.
//!
//! A [`Socket`] belongs to the namespace where it was opened, whatever thread uses it later
//! ([`Socket::open_in`]). It blocks: each call is one question to the kernel, answered in microseconds,
//! and a handful of them makes a pod's network. Callers that live on an async runtime use a worker thread.
//!
//! Every change says what should be: making what is there, and removing what is not, succeeds.
//!
//! Sources: `include/uapi/linux/{rtnetlink,if_link,pkt_sched}.h`, rtnetlink(7).

mod address;
mod link;
mod monitor;
mod neighbour;
mod queueing;
mod routes;
mod socket;
mod vxlan;

pub use link::{Link, Mac, VethPair};
pub use monitor::Monitor;
pub use queueing::TokenBucket;
pub use routes::Route;
pub use socket::Socket;
pub use vxlan::{Vxlan, VxlanDevice};
