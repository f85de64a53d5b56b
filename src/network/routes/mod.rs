//! Routes to the pods of other nodes: by the other node's own address, where both are on one link.
//!
//! `plan.rs` decides; [`sync`] carries out. Nodes that no link is shared with are named in the plan, for a
//! tunnel to reach.

mod plan;

use netlink::{RequestError, route::Socket};

use plan::{Observed, Plan, plan};
pub(crate) use plan::{Peer, peers, pod_cidrs};

/// Makes our routes to other nodes' pods what the peers say. Blocks.
pub(crate) fn sync(peers: &[Peer]) -> Result<Plan, RequestError> {
    let mut host = Socket::open()?;
    let observed = Observed { addresses: host.addresses(None)?, routes: host.own_routes()? };
    let plan = plan(peers, &observed);
    for route in &plan.remove {
        host.remove_route(route)?;
    }
    for route in &plan.set {
        host.set_route(route)?;
    }
    Ok(plan)
}
