//! The Node authorizer: a node reads what its pods need, and writes what is its own.
//!
//! The graph follows the pods of the watch cache: a node's request first takes in what has changed since the last
//! one. A pod that the node has seen is in the cache, so what it refers to is in the graph.

mod graph;
mod judge;

use std::sync::{Arc, OnceLock};

pub use graph::{Graph, Kind};
use parking_lot::RwLock;

use super::{Attributes, Decision, policy, rbac::Rule};
use crate::{admission::Reader, status::GroupResource, user::UserInfo};

/// The group of all nodes.
pub const NODES: &str = "system:nodes";
/// What a node's user name begins with.
pub const NODE_PREFIX: &str = "system:node:";

/// The node whose request it is: `Some("")` for a member of `system:nodes` whose name says no node.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_PREFIX)?;
    user.in_group(NODES).then_some(name)
}

pub struct NodeAuthorizer {
    reader: Arc<OnceLock<Arc<dyn Reader>>>,
    state: RwLock<State>,
    /// What every node may do with resources that are not divided among nodes.
    rules: Vec<Rule>,
    pods: GroupResource,
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// Every change of a pod up to this revision is in the graph.
    revision: u64,
}

impl NodeAuthorizer {
    pub(super) fn new(reader: Arc<OnceLock<Arc<dyn Reader>>>) -> NodeAuthorizer {
        let pods = GroupResource::new("", "pods");
        NodeAuthorizer { reader, state: RwLock::default(), rules: policy::node_rules(), pods }
    }

    pub fn authorize(&self, user: &UserInfo, what: &Attributes) -> Decision {
        let Some(node) = node_of(user) else { return Decision::NoOpinion(String::new()) };
        self.catch_up();
        let state = self.state.read();
        let owner = |resource: &GroupResource, name: &str| self.owner(resource, name);
        judge::authorize(&judge::View { node, graph: &state.graph, rules: &self.rules, owner: &owner }, what)
    }

    fn catch_up(&self) {
        let Some(reader) = self.reader.get() else { return };
        if reader.changed(&self.pods) == self.state.read().revision {
            return;
        }
        let mut state = self.state.write();
        let state = &mut *state;
        match reader.changes_after(&self.pods, state.revision) {
            Some(changes) => {
                for changed in changes.objects {
                    match changed.object {
                        Some(pod) => state.graph.put(&changed.namespace, &changed.name, &pod),
                        None => state.graph.remove(&changed.namespace, &changed.name),
                    }
                }
                state.revision = changes.revision;
            }
            None => {
                state.revision = reader.changed(&self.pods); // before the list: what it misses is taken in next time
                state.graph = Graph::default();
                for pod in reader.list(&self.pods, "") {
                    let text =
                        |pointer| pod.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default();
                    state.graph.put(text("/metadata/namespace"), text("/metadata/name"), &pod);
                }
            }
        }
    }

    /// What a cluster-scoped object belongs to.
    fn owner(&self, resource: &GroupResource, name: &str) -> judge::Owner {
        let object = self.reader.get().and_then(|reader| reader.get(resource, "", name));
        let Some(object) = object else { return judge::Owner::Nobody };
        let text = |pointer| object.pointer(pointer).and_then(|value| value.as_str()).map(str::to_owned);
        match resource.resource.as_str() {
            "persistentvolumes" => match (text("/spec/claimRef/namespace"), text("/spec/claimRef/name")) {
                (Some(namespace), Some(name)) => judge::Owner::Claim { namespace, name },
                _ => judge::Owner::Nobody,
            },
            _ => text("/spec/nodeName").map_or(judge::Owner::Nobody, judge::Owner::Node),
        }
    }
}

impl std::fmt::Debug for NodeAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeAuthorizer")
            .field("revision", &self.state.read().revision)
            .finish_non_exhaustive()
    }
}
