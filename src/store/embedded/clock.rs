//! Wakes the writer when a lease ends, and tells it when to stop.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::writer::Command;

/// How long to wait after the disk has refused an expiry.
const RETRY: Duration = Duration::from_secs(1);

enum Wake {
    Due,
    /// Another lease is the soonest now.
    Changed,
    Stop,
}

/// Runs until `stopped`, or until the store's last handle is gone. Holds the queue weakly, so as not to keep it open.
pub(super) async fn run(
    queue: mpsc::WeakSender<Command>,
    mut deadlines: watch::Receiver<Option<Instant>>,
    stopped: CancellationToken,
) {
    let mut retry: Option<Instant> = None;
    loop {
        let next =
            deadlines.borrow_and_update().map(|deadline| retry.take().map_or(deadline, |r| r.max(deadline)));
        let wake = tokio::select! {
            () = stopped.cancelled() => Wake::Stop,
            changed = deadlines.changed() => if changed.is_ok() { Wake::Changed } else { return },
            () = until(next) => Wake::Due,
        };
        match wake {
            Wake::Changed => {}
            Wake::Due => {
                let Some(queue) = queue.upgrade() else { return };
                let (reply, answer) = oneshot::channel();
                if queue.send(Command::Expire(reply)).await.is_err() {
                    return;
                }
                drop(queue);
                match answer.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        warn!(error = &error as &dyn Error, "store: cannot expire leases");
                        retry = Some(Instant::now() + RETRY);
                    }
                    Err(_) => return,
                }
            }
            Wake::Stop => {
                let Some(queue) = queue.upgrade() else { return };
                drop(queue.send(Command::Stop).await); // gone already is as good
                return;
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
