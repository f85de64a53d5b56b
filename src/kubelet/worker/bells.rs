//! Wakes the workers of pods, and knows whose a container is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::ports::Waker;
use crate::pods::PodUid;

/// How a worker is woken.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Look again.
    pub(super) look: Notify,
    /// Look again, and try again what failed: what it waited for may be there.
    pub(super) retry: Notify,
    /// What is said to have ended, and when that was said.
    pub(super) exits: Mutex<HashMap<String, Instant>>,
}

/// Rings workers, also those of a pool that is not made yet: probes and volumes are made before it.
#[derive(Clone, Debug, Default)]
pub struct Bells {
    bells: Arc<Mutex<BTreeMap<PodUid, Arc<Bell>>>>,
    /// Whose a container or sandbox is, for events that name only its id.
    owners: Arc<Mutex<HashMap<String, PodUid>>>,
    turned: Arc<watch::Sender<Option<Instant>>>,
}

impl Bells {
    /// For probes and volumes: look again, and try again what failed.
    pub fn waker(&self) -> Waker {
        let bells = self.clone();
        Waker::new(move |uid| {
            if let Some(bell) = bells.bells.lock().get(uid) {
                bell.retry.notify_one();
            }
        })
    }

    /// When the loop that hands pods to their workers last began a turn, as exact as whether it still turns needs it.
    pub fn turns(&self) -> watch::Receiver<Option<Instant>> {
        self.turned.subscribe()
    }

    pub(crate) fn turned(&self) {
        let (now, exact) = (Instant::now(), Duration::from_secs(1));
        self.turned.send_if_modified(|last| {
            let is_news = last.is_none_or(|last| now.saturating_duration_since(last) >= exact);
            if is_news {
                *last = Some(now);
            }
            is_news
        });
    }

    /// Of a worker that is about to begin.
    pub(super) fn hang(&self, uid: &PodUid) -> Arc<Bell> {
        self.bells.lock().entry(uid.clone()).or_default().clone()
    }

    /// For events of the runtime. False when no worker has this pod.
    pub fn look(&self, uid: &PodUid) -> bool {
        let bells = self.bells.lock();
        let bell = bells.get(uid);
        if let Some(bell) = bell {
            bell.look.notify_one();
        }
        bell.is_some()
    }

    /// A container or sandbox of this pod is said to have ended: the worker looks until it sees that.
    pub fn exited(&self, uid: &PodUid, id: &str) {
        if let Some(bell) = self.bells.lock().get(uid) {
            bell.exits.lock().insert(id.to_string(), Instant::now());
        }
    }

    pub fn own<'a>(&self, uid: &PodUid, ids: impl Iterator<Item = &'a str>) {
        let mut owners = self.owners.lock();
        for id in ids {
            if !owners.contains_key(id) {
                owners.insert(id.to_string(), uid.clone());
            }
        }
    }

    /// Those are all that the pod has: of others, which are gone, no event will come.
    pub(super) fn keep(&self, uid: &PodUid, ids: &HashSet<&str>) {
        self.owners.lock().retain(|id, owner| owner != uid || ids.contains(id.as_str()));
    }

    pub fn owner(&self, id: &str) -> Option<PodUid> {
        self.owners.lock().get(id).cloned()
    }

    #[cfg(test)]
    pub(super) fn owned(&self, uid: &PodUid) -> usize {
        self.owners.lock().values().filter(|owner| *owner == uid).count()
    }

    pub(super) fn remove(&self, uid: &PodUid) {
        self.bells.lock().remove(uid);
        self.owners.lock().retain(|_, owner| owner != uid);
    }

    pub fn look_all(&self) {
        self.bells.lock().values().for_each(|bell| bell.look.notify_one());
    }

    pub fn retry_all(&self) {
        self.bells.lock().values().for_each(|bell| bell.retry.notify_one());
    }
}
