//! What the operator decides about the scheduler.

use std::time::Duration;

use client::{Elector, LeaseName};

#[derive(Clone, Debug)]
pub struct Config {
    /// Pods whose `spec.schedulerName` is one of these are ours.
    pub profiles: Vec<String>,
    /// With it, several schedulers may run and one of them works.
    pub leader_election: Option<Elector>,
    /// The first wait of a pod that could not be placed; doubles up to `max_backoff`.
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
    /// A pod that could not be placed is tried again after this, though nothing that we know of changed.
    pub unschedulable_timeout: Duration,
    /// How long a decision counts that the API does not confirm.
    pub assume_timeout: Duration,
    /// Writes to the API at once.
    pub concurrent_writes: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            profiles: vec![api::constants::DEFAULT_SCHEDULER.into()],
            leader_election: None,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            unschedulable_timeout: Duration::from_secs(5 * 60),
            assume_timeout: Duration::from_secs(30),
            concurrent_writes: 64,
        }
    }
}

impl Config {
    /// Stands for election with upstream's Lease, so that the two never schedule at once.
    pub fn elected(identity: String) -> Config {
        let lease = LeaseName { namespace: "kube-system".into(), name: "kube-scheduler".into() };
        Config { leader_election: Some(Elector::new(lease, identity)), ..Config::default() }
    }
}
