//! Holding a coordination.k8s.io Lease: a node's sign of life, and leader election.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{Api, api::PostParams};
use lifecycle::Scope;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::{Client, ErrorKind, kind_of};

/// Which Lease.
#[derive(Clone, Debug)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("read lease {name}")]
    Read {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("write lease {name}")]
    Write {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// Renews a Lease that is ours alone (a node's).
#[derive(Debug)]
pub struct LeaseHolder {
    client: Client2,
    name: LeaseName,
    holder: String,
    duration_seconds: i32,
    /// What we wrote last: renewing costs one request.
    last: Option<Lease>,
}

/// `kube::Client` without a need for `Debug`.
#[derive(Clone)]
struct Client2(Client);

impl std::fmt::Debug for Client2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl LeaseHolder {
    #[must_use]
    pub fn new(client: Client, name: LeaseName, holder: &str, duration_seconds: i32) -> Self {
        Self { client: Client2(client), name, holder: holder.to_string(), duration_seconds, last: None }
    }

    /// Renews now, making the Lease if it is not there. `owner` (a node's reference) is set on it, so
    /// that it goes with its owner.
    ///
    /// # Errors
    /// When the API cannot be reached or refuses. Call again; upstream's kubelet does so at once up to
    /// five times, then at the next interval.
    pub async fn renew(&mut self, owner: Option<OwnerReference>, now: Timestamp) -> Result<(), LeaseError> {
        let api: Api<Lease> = Api::namespaced(self.client.0.clone(), &self.name.namespace);
        let known = match self.last.take() {
            Some(lease) => Some(lease),
            None => api.get_opt(&self.name.name).await.map_err(|source| self.read(source))?,
        };
        let written = match known {
            Some(mut lease) => {
                let spec = lease.spec.get_or_insert_default();
                spec.holder_identity = Some(self.holder.clone());
                spec.lease_duration_seconds = Some(self.duration_seconds);
                spec.renew_time = Some(MicroTime(now));
                if let Some(owner) = owner
                    && lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
                {
                    lease.metadata.owner_references = Some(vec![owner]);
                }
                api.replace(&self.name.name, &PostParams::default(), &lease).await
            }
            None => {
                let lease = self.fresh(owner, now);
                api.create(&PostParams::default(), &lease).await
            }
        };
        // After a conflict `last` stays empty: the next call reads first.
        self.last = Some(written.map_err(|source| LeaseError::Write {
            name: self.name.name.clone(),
            source: Box::new(source),
        })?);
        Ok(())
    }

    fn fresh(&self, owner: Option<OwnerReference>, now: Timestamp) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.name.clone()),
                namespace: Some(self.name.namespace.clone()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.holder.clone()),
                lease_duration_seconds: Some(self.duration_seconds),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }

    fn read(&self, source: kube::Error) -> LeaseError {
        LeaseError::Read { name: self.name.name.clone(), source: Box::new(source) }
    }
}

/// Leader election over one Lease, with upstream's default times.
#[derive(Clone, Debug)]
pub struct Elector {
    pub name: LeaseName,
    /// Unique to this process.
    pub identity: String,
    /// Others wait this long after the last renewal that they saw (15 s).
    pub lease_duration: Duration,
    /// The leader gives up when it could not renew for this long (10 s).
    pub renew_deadline: Duration,
    /// Between tries (2 s).
    pub retry_period: Duration,
}

/// What the Lease said, and when we saw it say so: other machines' clocks are not trusted.
#[derive(Debug)]
struct Observed {
    lease: Option<Lease>,
    since: Instant,
}

impl Elector {
    #[must_use]
    pub fn new(name: LeaseName, identity: String) -> Self {
        Self {
            name,
            identity,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// Waits for leadership, runs `lead` with a scope that is cancelled when it is lost, and returns
    /// when that has happened or `scope` was cancelled. The caller decides whether to stand again.
    pub async fn run<F>(&self, client: Client, scope: &Scope, lead: impl FnOnce(Scope) -> F)
    where
        F: Future<Output = ()>,
    {
        let api: Api<Lease> = Api::namespaced(client, &self.name.namespace);
        let mut observed = Observed { lease: None, since: Instant::now() };
        while !self.try_hold(&api, &mut observed).await {
            tokio::select! {
                () = scope.cancelled() => return,
                () = sleep(self.retry_period) => {}
            }
        }
        info!(lease = %self.name.name, identity = %self.identity, "became leader");
        let term = scope.child("leader");
        tokio::select! {
            () = lead(term.clone()) => {}
            () = self.keep(&api, &mut observed) => warn!(lease = %self.name.name, "lost leadership"),
            () = scope.cancelled() => {}
        }
        term.close(self.renew_deadline).await;
        self.release(&api, observed).await;
    }

    /// Renews until that failed for the deadline.
    async fn keep(&self, api: &Api<Lease>, observed: &mut Observed) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.renew_deadline {
            sleep(self.retry_period).await;
            let left = self.renew_deadline.saturating_sub(renewed.elapsed());
            if matches!(timeout(left, self.try_hold(api, observed)).await, Ok(true)) {
                renewed = Instant::now();
            }
        }
    }

    /// Takes or renews the Lease if it is free or ours. True if we hold it now.
    async fn try_hold(&self, api: &Api<Lease>, observed: &mut Observed) -> bool {
        let current = match api.get_opt(&self.name.name).await {
            Ok(current) => current,
            Err(error) => {
                warn!(lease = %self.name.name, error = &error as &dyn std::error::Error, "lease not read");
                return false;
            }
        };
        if current.as_ref().map(|lease| &lease.spec) != observed.lease.as_ref().map(|lease| &lease.spec) {
            *observed = Observed { lease: current.clone(), since: Instant::now() };
        }
        let Some(next) = self.claim(current.as_ref(), observed.since.elapsed(), Timestamp::now()) else {
            return false;
        };
        let written = match current {
            None => api.create(&PostParams::default(), &next).await,
            Some(_) => api.replace(&self.name.name, &PostParams::default(), &next).await,
        };
        match written {
            Ok(lease) => {
                *observed = Observed { lease: Some(lease), since: Instant::now() };
                true
            }
            Err(error) => {
                if !matches!(kind_of(&error), ErrorKind::Conflict | ErrorKind::AlreadyExists) {
                    warn!(lease = %self.name.name, error = &error as &dyn std::error::Error, "lease not written");
                }
                false
            }
        }
    }

    /// The Lease as ours; none while somebody else holds it. Pure.
    fn claim(&self, current: Option<&Lease>, unchanged_for: Duration, now: Timestamp) -> Option<Lease> {
        let mut next = current.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.name.clone()),
                namespace: Some(self.name.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = next.spec.get_or_insert_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let ours = holder == self.identity;
        let promised = Duration::from_secs(
            spec.lease_duration_seconds.and_then(|seconds| seconds.try_into().ok()).unwrap_or(0),
        );
        if !ours && !holder.is_empty() && unchanged_for < promised {
            return None;
        }
        if !ours {
            spec.acquire_time = Some(MicroTime(now));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + i32::from(current.is_some()));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(self.lease_duration.as_secs()).unwrap_or(i32::MAX));
        spec.renew_time = Some(MicroTime(now));
        Some(next)
    }

    /// Lets a successor begin at once instead of after the lease's duration.
    async fn release(&self, api: &Api<Lease>, observed: Observed) {
        let Some(mut lease) = observed.lease else { return };
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let params = PostParams::default();
        let released = api.replace(&self.name.name, &params, &lease);
        if !matches!(timeout(self.retry_period, released).await, Ok(Ok(_))) {
            info!(lease = %self.name.name, "lease not released; it runs out by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elector(identity: &str) -> Elector {
        let name = LeaseName { namespace: "kube-system".into(), name: "controllers".into() };
        Elector::new(name, identity.into())
    }

    #[test]
    fn a_free_lease_is_taken_and_a_held_one_is_left_until_it_was_silent_for_its_duration() {
        let now = Timestamp::UNIX_EPOCH;
        let held = elector("a").claim(None, Duration::ZERO, now).unwrap();
        assert_eq!(held.spec.as_ref().unwrap().lease_transitions, Some(0));
        assert!(elector("b").claim(Some(&held), Duration::from_secs(14), now).is_none());
        let taken = elector("b").claim(Some(&held), Duration::from_secs(15), now).unwrap().spec.unwrap();
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(1)));
    }

    #[test]
    fn the_holder_renews_without_a_transition() {
        let now = Timestamp::UNIX_EPOCH;
        let held = elector("a").claim(None, Duration::ZERO, now).unwrap();
        let renewed = elector("a").claim(Some(&held), Duration::ZERO, now).unwrap().spec.unwrap();
        assert_eq!(renewed.lease_transitions, Some(0));
    }
}
