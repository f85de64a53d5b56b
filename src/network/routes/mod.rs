//! Ways to the pods of other nodes.
//!
//! ```text
//!   a node on one of this host's links    route  10.1.2.0/24 via 192.0.2.2
//!   a node behind a router                route  10.1.3.0/24 via 10.1.3.0 dev coracle-vxlan onlink
//!                                         neighbour  10.1.3.0   is at MAC of that node's tunnel end
//!                                         forwarding MAC        is at 203.0.113.9, the node
//! ```
//!
//! `observe.rs` reads the host, `plan.rs` decides, by looking at each node, and `apply.rs` carries out. A host has
//! a device for each family that packets between nodes travel in, and only while a node needs it.
//!
//! Invariants:
//! - Nothing is exchanged but what Nodes say: a tunnel end's MAC is made from its node's address ([`names`]).
//! - A range that a node cannot rightly have draws no packets ([`ranges`]); a route that is not ours stays.
//! - The tunnel never floods and never learns: where a packet goes is written down beforehand.

mod apply;
mod names;
mod observe;
mod plan;
mod ranges;
#[cfg(test)]
mod tests;

use netlink::RequestError;

pub(crate) use plan::{Local, Outcome, Peer, Step, internal_addresses, peers, pod_cidrs};
pub(crate) use ranges::Refused;
pub use {apply::StepError, names::TUNNEL_LINKS, plan::Tunnel};

/// Makes our ways to other nodes' pods what the peers say. Blocks. One step that fails does not keep others from
/// being made.
pub(crate) fn sync(local: &Local, peers: &[Peer]) -> Result<Outcome, RequestError> {
    let mut host = netlink::route::Socket::open()?;
    let observed = observe::observe(&mut host)?;
    let plan = plan::plan(local, peers, &observed);
    let failed = apply::apply(&mut host, &plan.steps);
    Ok(Outcome { plan, failed })
}
