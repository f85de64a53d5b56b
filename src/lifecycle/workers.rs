//! Blocking work that may hang in the kernel: bounded, and abandonable.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

/// Why blocking work gave no result.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Every worker is busy, perhaps stuck on a dead mount; `waited` passed without one coming free.
    #[error("{name}: no worker free after {} ms", .waited.as_millis())]
    Busy { name: &'static str, waited: Duration },
    /// The work is still running and keeps its worker; nobody waits for it any more.
    #[error("{name}: gave up after {} ms", .waited.as_millis())]
    Abandoned { name: &'static str, waited: Duration },
    #[error("{name}: panicked")]
    Panicked { name: &'static str },
}

/// A bounded set of threads for work that blocks. One dead NFS mount costs one worker, never the caller.
#[derive(Clone, Debug)]
pub struct Workers {
    free: Arc<Semaphore>,
}

impl Workers {
    /// At most `limit` pieces of work at a time, abandoned ones included.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(limit)) }
    }

    /// Runs `work` on a blocking thread and waits up to `deadline` for it, queueing included.
    ///
    /// # Errors
    /// When no worker came free in time, or the work did not end in time, or it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let until = tokio::time::Instant::now() + deadline;
        let free = Arc::clone(&self.free);
        let permit = match tokio::time::timeout_at(until, free.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            // The semaphore is never closed; a closed one would mean the same as a full one.
            Ok(Err(_)) | Err(_) => return Err(WorkError::Busy { name, waited: deadline }),
        };
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            // The worker is free when the thread is, not when the caller gives up.
            drop(permit);
            result
        });
        match tokio::time::timeout_at(until, task).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(WorkError::Panicked { name }),
            Err(_) => Err(WorkError::Abandoned { name, waited: deadline }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn stuck_work_is_abandoned_and_keeps_its_worker() {
        let workers = Workers::new(1);
        let (release, held) = sync_channel::<()>(0);
        let short = Duration::from_millis(20);
        let stuck = workers.run("stuck", short, move || held.recv()).await;
        assert!(matches!(stuck, Err(WorkError::Abandoned { .. })));
        let next = workers.run("next", short, || 1).await;
        assert!(matches!(next, Err(WorkError::Busy { .. })));
        drop(release);
        assert_eq!(workers.run("next", Duration::from_secs(5), || 1).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let workers = Workers::new(1);
        let result = workers.run("bad", Duration::from_secs(5), || panic!("boom")).await;
        assert!(matches!(result, Err::<(), _>(WorkError::Panicked { .. })));
    }
}
