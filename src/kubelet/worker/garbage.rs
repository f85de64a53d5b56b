//! Dead containers that nobody will ask about: all but the last dead one of each name, and sandboxes left behind.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use crate::runtime::{ContainerId, ContainerState, PodObservation, SandboxId};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Garbage {
    pub(super) containers: Vec<ContainerId>,
    pub(super) sandboxes: Vec<SandboxId>,
}

/// Of a pod that should run. The newest instance of each name stays, and the newest dead one before it.
pub(super) fn garbage(observed: &PodObservation) -> Garbage {
    let mut garbage = Garbage::default();
    let mut kept: BTreeMap<&str, u32> = BTreeMap::new();
    for container in &observed.containers {
        let dead = match container.state {
            ContainerState::Exited(_) => true,
            // Made and never started, with a newer one in its place.
            ContainerState::Created => kept.contains_key(container.name.as_str()),
            ContainerState::Running { .. } | ContainerState::Unknown => false,
        };
        let seen = kept.entry(&container.name).or_default();
        *seen += 1;
        if dead && *seen > 2 {
            garbage.containers.push(container.id.clone());
        }
    }
    let gone = |id: &ContainerId| garbage.containers.contains(id);
    let holds =
        |sandbox: &SandboxId| observed.containers.iter().any(|it| it.sandbox == *sandbox && !gone(&it.id));
    let older = observed.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready && !holds(&sandbox.id));
    garbage.sandboxes = older.map(|sandbox| sandbox.id.clone()).collect();
    garbage
}
