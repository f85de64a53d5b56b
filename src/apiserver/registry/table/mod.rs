//! The rows of the resource table. One row says everything about one resource; nothing else knows kinds by name.

mod acting;
mod apps;
mod core;
mod identity;
mod storage;

use std::sync::Arc;

pub use acting::Actions;

use super::strategy::service::Family;
use super::{Resource, Virtual};

/// What the rows need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The address families of Services, the default one first.
    pub service_families: Vec<Family>,
}

/// All built-in resources: those that are stored, and those that are only answered.
pub fn rows(cluster: &Cluster, actions: &Actions) -> (Vec<Resource>, Vec<Virtual>) {
    let mut stored = core::rows(cluster, actions);
    stored.extend(apps::rows());
    stored.extend(identity::rows());
    stored.extend(storage::rows());
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
