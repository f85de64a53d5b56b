//! The machine goes down: its pods end in order, and the API hears how, before logind lets it go.
//!
//! ```text
//!   logind ──PrepareForShutdown──▶ logind (task) ──▶ task ── Going ──▶ node (not ready), pool (admits nobody)
//!     ▲                               │               │
//!     │                         Hold: lock, delay     ├─ plan (pure) ──▶ pool: end these, with this grace
//!     └────── lock released ◀─────────┴───────────────┴─ every status written, or out of time
//! ```
//!
//! Upstream's graceful node shutdown (KEP-2000), with its words and its order. Other than there:
//! - the lock is released once the last statuses are in the API, not when the last pod has ended;
//! - pods are looked at again and again: one that comes late, or an agent that is started again meanwhile, is no exception;
//! - a pod that ends is not ready, so that nothing is sent to it any more;
//! - static pods run again when the shutdown is cancelled.
//!
//! Invariants:
//! - A signal is never believed: logind is asked what is so.
//! - While no shutdown is under way the lock is held, but for the time in which there is no logind to give it.

mod logind;
mod plan;
mod task;
#[cfg(test)]
pub(crate) mod testing;

use std::{path::PathBuf, time::Duration};

use tokio::sync::watch;

pub(crate) use plan::Alive;
#[cfg(test)]
pub(crate) use plan::CRITICAL;
pub use plan::Period;
pub(crate) use task::{Parts, run};

/// What a pod is told to have ended by, in its status (upstream's words).
pub const TERMINATED: &str = "Terminated";
pub const TERMINATED_MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// The reason of its condition `DisruptionTarget`.
pub const BY_KUBELET: &str = "TerminationByKubelet";
/// Why a pod is not admitted.
pub const NODE_SHUTDOWN: &str = "NodeShutdown";
pub const NOT_ADMITTED_MESSAGE: &str = "Pod was rejected as the node is shutting down.";
/// Why the node is not ready.
pub const GOING_DOWN: &str = "node is shutting down";

/// How long statuses may take on top of what pods have: logind is asked for this, too.
const FLUSH: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long pods of each priority have. Empty: a shutdown is not held up.
    pub periods: Vec<Period>,
    /// The system bus.
    pub bus: PathBuf,
    /// Where logind is told to wait longer than it would. Gone with the next boot, as the need for it.
    pub drop_in: PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            periods: Vec::new(),
            bus: "/run/dbus/system_bus_socket".into(),
            drop_in: "/run/systemd/logind.conf.d/99-coracle.conf".into(),
        }
    }
}

/// Whether the machine goes down. Clones are the same.
#[derive(Clone, Debug)]
pub struct Going {
    /// Written by the task of the shutdown.
    down: watch::Sender<bool>,
    /// What the API was last told of it. Written by the node's status.
    told: watch::Sender<bool>,
}

impl Default for Going {
    fn default() -> Going {
        Going { down: watch::Sender::new(false), told: watch::Sender::new(false) }
    }
}

impl Going {
    pub fn is_down(&self) -> bool {
        *self.down.borrow()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<bool> {
        self.down.subscribe()
    }

    pub(crate) fn announce(&self, down: bool) {
        self.down.send_replace(down);
    }

    pub(crate) fn told(&self, down: bool) {
        self.told.send_replace(down);
    }

    async fn wait_told(&self, down: bool) {
        // The sender is here: this does not fail.
        drop(self.told.subscribe().wait_for(|told| *told == down).await);
    }
}

/// Takes back what was asked of logind. True when there was something.
///
/// # Errors
/// When the file cannot be removed. That logind does not hear of it is no error: it reads the folder at its next start.
pub(crate) async fn reset(settings: &Settings) -> std::io::Result<bool> {
    match tokio::fs::remove_file(&settings.drop_in).await {
        Ok(()) => {
            logind::reload(&settings.bus).await;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
