//! Leases: which keys each one holds, and when it ends. Pure: `now` is an argument.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{Event, LeaseId};

#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    /// Soonest first.
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Bytes>,
}

impl Leases {
    pub(super) fn ttl(&self, id: LeaseId) -> Option<Duration> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    pub(super) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Bytes> {
        self.leases.get(&id).into_iter().flat_map(|lease| &lease.keys)
    }

    /// The leases that have ended by `now`.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = LeaseId> + '_ {
        self.deadlines.iter().take_while(move |(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.revoke(id); // one that was revoked and granted again in one batch
        let deadline = now + ttl;
        self.deadlines.insert((deadline, id));
        self.leases.insert(id, Lease { ttl, deadline, keys: BTreeSet::new() });
    }

    pub(super) fn renew(&mut self, id: LeaseId, now: Instant) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + lease.ttl;
        self.deadlines.insert((lease.deadline, id));
    }

    pub(super) fn revoke(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        self.deadlines.remove(&(lease.deadline, id));
    }

    /// Follows a change of a key: it leaves its old lease and joins its new one.
    pub(super) fn follow(&mut self, event: &Event) {
        if let Some(lease) = event.prev().and_then(|kv| self.leases.get_mut(&kv.lease?)) {
            lease.keys.remove(event.key());
        }
        let Event::Put { kv, .. } = event else { return };
        if let Some(lease) = kv.lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(kv.key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn the_soonest_deadline_comes_first_and_renewal_moves_it() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut leases = Leases::default();
        leases.grant(LeaseId(1), Duration::from_secs(10), start);
        leases.grant(LeaseId(2), Duration::from_secs(20), start);
        assert_eq!(leases.next_deadline(), Some(at(10)));
        leases.renew(LeaseId(1), at(15));
        assert_eq!(leases.next_deadline(), Some(at(20)));
        assert_eq!(leases.due(at(24)).collect::<Vec<_>>(), [LeaseId(2)]);
        leases.revoke(LeaseId(2));
        assert_eq!(leases.due(at(25)).collect::<Vec<_>>(), [LeaseId(1)]);
    }
}
