//! The rows of the resource table. One row says everything about one resource; nothing else knows kinds by name.

mod acting;
mod apps;
mod core;
mod identity;
mod storage;
mod upstream;

use std::sync::Arc;

pub use acting::Actions;

use super::strategy::service::Family;
use super::{Resource, Virtual};

/// What the rows need to know of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The address families of Services, the default one first.
    pub service_families: Vec<Family>,
    pub upstream_kinds: UpstreamKinds,
}

/// The kinds that none of our controllers acts on, but upstream's do: whether there are any depends on whose run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamKinds {
    /// Nobody acts on them, nobody asks for them: they are not there.
    #[default]
    Absent,
    /// Nobody acts on them, but upstream's scheduler reads them and waits until it can.
    ReadOnly,
    /// Upstream's controllers act on them.
    Served,
}

impl UpstreamKinds {
    /// By whether the controllers and the scheduler are ours.
    pub fn beside(our_controllers: bool, our_scheduler: bool) -> Self {
        match (our_controllers, our_scheduler) {
            (true, true) => Self::Absent,
            (true, false) => Self::ReadOnly,
            (false, _) => Self::Served,
        }
    }
}

/// All built-in resources: those that are stored, and those that are only answered.
pub fn rows(cluster: &Cluster, actions: &Actions) -> (Vec<Resource>, Vec<Virtual>) {
    let mut stored = core::rows(cluster, actions);
    stored.extend(apps::rows());
    stored.extend(identity::rows());
    stored.extend(storage::rows());
    stored.extend(upstream::rows(cluster.upstream_kinds));
    let mut virtuals = core::virtuals();
    virtuals.extend(identity::virtuals(actions));
    (stored, virtuals)
}

/// A strategy that is a table of functions.
fn rules(rules: super::strategy::rules::Rules) -> Arc<dyn super::Strategy> {
    Arc::new(rules)
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
