//! One command at a time for each attachment, in the order in which they came.
//!
//! A runtime gives up on a slow ADD and sends DEL at once. Were that DEL to overtake the ADD, it would find nothing,
//! and what the ADD makes afterwards would belong to nobody.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::cni::AttachmentId;

/// Whose turn it is. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<AttachmentId, Arc<tokio::sync::Mutex<()>>>>>);

/// The right to work on one attachment, until it is dropped: by the work itself, since work that nobody waits for
/// any more still goes on.
#[derive(Debug)]
pub(crate) struct Turn {
    _held: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// For who is alone anyway: a plugin process, and commands that name no attachment.
    pub(crate) fn free() -> Self {
        Self { _held: None }
    }
}

impl Turns {
    /// Waits until those that came before are done with this attachment.
    pub(crate) async fn take(&self, id: &AttachmentId) -> Turn {
        let own = {
            let mut all = self.0.lock();
            // Nobody holds or waits for what only the map has.
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(all.entry(id.clone()).or_default())
        };
        Turn { _held: Some(own.lock_owned().await) }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn id(container: &str) -> AttachmentId {
        AttachmentId { container_id: container.into(), ifname: "eth0".into() }
    }

    #[tokio::test]
    async fn a_second_command_waits_for_the_first_and_others_do_not() {
        let turns = Turns::default();
        let (a, first) = (id("a"), turns.take(&id("a")).await);
        let mut second = Box::pin(turns.take(&a));
        assert!(second.as_mut().now_or_never().is_none());
        turns.take(&id("b")).await;
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn nothing_is_remembered_of_what_is_done() {
        let turns = Turns::default();
        for number in 0..100 {
            turns.take(&id(&number.to_string())).await;
        }
        turns.take(&id("last")).await;
        assert!(turns.0.lock().len() <= 1);
    }
}
