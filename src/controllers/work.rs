//! The loop of every controller: take a key, look, act, say when to look again.

use std::{fmt, hash::Hash, sync::Arc, time::Duration};

use client::{Changes, Claim, ErrorKind, EventType, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::ObjectReference;
use lifecycle::{Scope, catch_panic};
use tracing::{debug, error, warn};

use crate::error::PassError;

/// When to look at an object again, besides when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    OnChange,
    After(Duration),
}

/// One controller: what it does about one key.
pub(crate) trait Reconciler: Send + Sync + 'static {
    type Key: Clone + Eq + Hash + fmt::Display + Send + Sync + 'static;
    const NAME: &'static str;

    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next, PassError>> + Send;

    /// Resolves when the stores that are read are synced: before that, nothing is decided.
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// What an event about a failure names.
    fn about(&self, _key: &Self::Key) -> Option<ObjectReference> {
        None
    }
}

/// Starts `workers` of `reconciler` on `queue`.
pub(crate) fn start<R: Reconciler>(
    scope: &Scope,
    reconciler: &Arc<R>,
    queue: &WorkQueue<R::Key>,
    workers: usize,
    recorder: &Recorder,
) {
    for _ in 0..workers {
        let (reconciler, queue, recorder) = (Arc::clone(reconciler), queue.clone(), recorder.clone());
        let token = scope.token();
        scope.spawn(R::NAME, async move {
            tokio::select! {
                () = token.cancelled() => return,
                () = reconciler.ready() => {}
            }
            loop {
                let claim = tokio::select! {
                    () = token.cancelled() => return,
                    claim = queue.next() => claim,
                };
                // Not inside the select: a pass that began is finished, so that no write is cut in half.
                pass(&*reconciler, claim, &recorder).await;
            }
        });
    }
}

async fn pass<R: Reconciler>(reconciler: &R, claim: Claim<R::Key>, recorder: &Recorder) {
    match catch_panic(reconciler.reconcile(&claim)).await {
        Ok(Ok(Next::OnChange)) => claim.done(),
        Ok(Ok(Next::After(delay))) => claim.again_after(delay),
        Ok(Err(failure)) => {
            let cause = &failure as &dyn std::error::Error;
            match failure.kind() {
                // Somebody else wrote first: the cache will show it.
                Some(ErrorKind::Conflict | ErrorKind::AlreadyExists) => {
                    debug!(controller = R::NAME, object = %*claim, error = cause, "lost a race");
                }
                _ => warn!(controller = R::NAME, object = %*claim, error = cause, "pass failed"),
            }
            claim.retry();
        }
        Err(panic) => {
            error!(controller = R::NAME, object = %*claim, error = %panic, "pass panicked");
            if let Some(about) = reconciler.about(&claim) {
                let note = format!("{} failed on this object and will try again: {panic}", R::NAME);
                recorder.event(&about, EventType::Warning, "ControllerPanic", "Reconcile", note);
            }
            claim.retry();
        }
    }
}

/// Moves what changed into the queue.
pub(crate) fn feed<U, K>(
    scope: &Scope,
    queue: &WorkQueue<K>,
    mut changes: Changes<U>,
    mut keys: impl FnMut(U) -> Vec<K> + Send + 'static,
) where
    U: Eq + Hash + Send + 'static,
    K: Clone + Eq + Hash + Send + Sync + 'static,
{
    let (queue, token) = (queue.clone(), scope.token());
    scope.spawn("changes", async move {
        loop {
            let names = tokio::select! {
                () = token.cancelled() => return,
                names = changes.next() => names,
            };
            for name in names {
                for key in keys(name) {
                    queue.add(key);
                }
            }
        }
    });
}

/// For [`feed`]: the name is the key.
pub(crate) fn itself<K>(key: K) -> Vec<K> {
    vec![key]
}
