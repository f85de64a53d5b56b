//! A tree of tasks with one owner: cancelled together, waited for together.

use std::{
    any::Any,
    fmt,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

/// A task ended by panicking; the message of the panic.
#[derive(Clone, Debug, thiserror::Error)]
#[error("panicked: {message}")]
pub struct Panicked {
    pub message: String,
}

impl Panicked {
    fn from_payload(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&'static str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "(no message)".to_string());
        Self { message }
    }
}

/// Runs `future`, turning a panic into an error. For work on one object that must not stop a loop.
///
/// # Errors
/// When `future` panicked.
pub async fn catch_panic<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|payload| Panicked::from_payload(payload.as_ref()))
}

/// A task tree. Clones are handles to the same tree.
#[derive(Clone)]
pub struct Scope {
    name: &'static str,
    token: CancellationToken,
    /// The tasks of this scope and of its ancestors' view of it: closing a parent waits for children too.
    trackers: Arc<Trackers>,
    /// The first panic of an unguarded task anywhere in the component; its supervisor restarts it.
    failure: Arc<Failure>,
}

struct Trackers {
    own: TaskTracker,
    parent: Option<Arc<Trackers>>,
}

struct Failure {
    first: OnceLock<Panicked>,
    happened: CancellationToken,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("name", &self.name).field("tasks", &self.trackers.own.len()).finish()
    }
}

impl Scope {
    /// The root of a tree: the process's, or a test's.
    #[must_use]
    pub fn root(name: &'static str) -> Self {
        Self::with_token(name, CancellationToken::new())
    }

    /// A tree of its own (own failure) that is cancelled with `token`.
    pub(crate) fn with_token(name: &'static str, token: CancellationToken) -> Self {
        Self {
            name,
            token,
            trackers: Arc::new(Trackers { own: TaskTracker::new(), parent: None }),
            failure: Arc::new(Failure { first: OnceLock::new(), happened: CancellationToken::new() }),
        }
    }

    /// A part that can be cancelled and waited for alone, and is cancelled with its parent.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        Self {
            name,
            token: self.token.child_token(),
            trackers: Arc::new(Trackers {
                own: TaskTracker::new(),
                parent: Some(Arc::clone(&self.trackers)),
            }),
            failure: Arc::clone(&self.failure),
        }
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Starts a task that this scope owns. It should end soon after [`Scope::cancelled`] resolves.
    /// If it panics, the whole component is restarted by its supervisor.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let failure = Arc::clone(&self.failure);
        let scope = self.name;
        self.track(async move {
            if let Err(panic) = catch_panic(future).await {
                error!(scope, task = name, error = %panic, "task panicked");
                failure.report(panic);
            }
        });
    }

    /// Starts a task whose panic harms nobody else. Dropping the handle does not stop the task.
    pub fn spawn_guarded<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Guarded<T> {
        let (tx, rx) = oneshot::channel();
        let scope = self.name;
        self.track(async move {
            let result = catch_panic(future).await;
            if let Err(panic) = &result {
                error!(scope, task = name, error = %panic, "guarded task panicked");
            }
            // The receiver may be gone: nobody waits for this result.
            drop(tx.send(result));
        });
        Guarded { result: rx }
    }

    /// Starts a named OS thread that this scope owns, for work that blocks for its whole life.
    /// The closure gets the scope and must end soon after it is cancelled.
    ///
    /// # Errors
    /// When the kernel refuses a new thread.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        work: impl FnOnce(Scope) + Send + 'static,
    ) -> std::io::Result<()> {
        let (done, ended) = oneshot::channel::<()>();
        let failure = Arc::clone(&self.failure);
        let scope = self.clone();
        std::thread::Builder::new().name(name.to_string()).spawn(move || {
            let owner = scope.name;
            if let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(|| work(scope))) {
                let panic = Panicked::from_payload(payload.as_ref());
                error!(scope = owner, thread = name, error = %panic, "thread panicked");
                failure.report(panic);
            }
            drop(done);
        })?;
        // Stands for the thread in the tracker; resolves when `done` is dropped.
        self.track(ended.map(drop));
        Ok(())
    }

    /// Resolves when this scope, or an ancestor, is cancelled.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Asks everything in this scope to end; does not wait.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Cancels, and waits until every task has ended or `deadline` has passed. True if all ended.
    pub async fn close(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.trackers.own.close();
        tokio::time::timeout(deadline, self.trackers.own.wait()).await.is_ok()
    }

    /// The panic that failed this tree, once there is one.
    pub(crate) async fn failed(&self) -> Panicked {
        self.failure.happened.cancelled().await;
        self.failure.first.get().cloned().unwrap_or_else(|| Panicked { message: "unknown".to_string() })
    }

    fn track(&self, future: impl Future<Output = ()> + Send + 'static) {
        // A task counts in its own scope and in each ancestor, so that closing any of them waits for it.
        let mut tokens = Vec::new();
        let mut ancestor = self.trackers.parent.as_ref();
        while let Some(trackers) = ancestor {
            tokens.push(trackers.own.token());
            ancestor = trackers.parent.as_ref();
        }
        self.trackers.own.spawn(async move {
            future.await;
            drop(tokens);
        });
    }
}

impl Failure {
    fn report(&self, panic: Panicked) {
        // Only the first is kept: later ones are its consequences.
        drop(self.first.set(panic));
        self.happened.cancel();
    }
}

/// The result of a guarded task.
#[derive(Debug)]
pub struct Guarded<T> {
    result: oneshot::Receiver<Result<T, Panicked>>,
}

impl<T> Future for Guarded<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A closed channel means that the runtime dropped the task, which only happens at its own end.
        Pin::new(&mut self.result).poll(cx).map(|received| {
            received.unwrap_or_else(|_| Err(Panicked { message: "the runtime ended".to_string() }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn closing_a_scope_waits_for_the_tasks_of_its_children() {
        let root = Scope::root("root");
        let child = root.child("child");
        let (tx, rx) = oneshot::channel();
        child.clone().spawn("worker", async move {
            child.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _receiver_gone = tx.send(());
        });
        assert!(root.close(Duration::from_secs(5)).await);
        rx.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_is_cancelled_alone() {
        let root = Scope::root("root");
        let child = root.child("child");
        child.cancel();
        assert!(child.is_cancelled() && !root.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_will_not_end_is_given_up_at_the_deadline() {
        let root = Scope::root("root");
        root.spawn("stuck", std::future::pending());
        assert!(!root.close(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_guarded_panic_is_a_result_and_does_not_fail_the_scope() {
        let root = Scope::root("root");
        let result = root.spawn_guarded("bad", async { panic!("boom") }).await;
        let result: Result<(), Panicked> = result;
        assert_eq!(result.unwrap_err().message, "boom");
        assert!(!root.failure.happened.is_cancelled());
    }

    #[tokio::test]
    async fn an_unguarded_panic_fails_the_scope_of_the_whole_component() {
        let root = Scope::root("root");
        root.child("part").spawn("bad", async { panic!("boom") });
        assert_eq!(root.failed().await.message, "boom");
    }

    #[tokio::test]
    async fn a_thread_is_waited_for() {
        let root = Scope::root("root");
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        root.spawn_thread("blocking", move |scope| {
            while !scope.is_cancelled() {
                std::thread::yield_now();
            }
            tx.send(()).unwrap();
        })
        .unwrap();
        assert!(root.close(Duration::from_secs(5)).await);
        rx.try_recv().unwrap();
    }
}
