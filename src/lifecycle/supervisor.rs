//! Starts components, restarts those that fail, stops them in the reverse order.

use std::{future::Future, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    backoff::Backoff,
    chain::Chain,
    scope::{Panicked, Scope},
};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the failure of a component means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Its task tree is taken down and started again, after a back-off.
    Restart,
    /// The process ends, and its service manager starts it again: for the store.
    EndProcess,
}

/// A component whose failure ended the process.
#[derive(Debug, thiserror::Error)]
#[error("{component} failed")]
pub struct Failed {
    pub component: &'static str,
    #[source]
    pub source: BoxError,
}

/// How long one component may take to stop before it is left behind.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// A component that ran this long was healthy: its failures are counted afresh.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
const RESTART: Backoff = Backoff::doubling(Duration::from_millis(500), Duration::from_secs(30));

struct Component {
    name: &'static str,
    stop: CancellationToken,
    stopped: CancellationToken,
}

/// The owner of all components of the process.
pub struct Supervisor {
    components: Vec<Component>,
    fatal: mpsc::Sender<Failed>,
    fatal_seen: mpsc::Receiver<Failed>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.components.iter().map(|c| c.name)).finish()
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    #[must_use]
    pub fn new() -> Self {
        let (fatal, fatal_seen) = mpsc::channel(1);
        Self { components: Vec::new(), fatal, fatal_seen }
    }

    /// Starts a component. `run` is called again for each restart, with a fresh scope.
    /// Returning `Ok` before its scope is cancelled means that the component has nothing left to do.
    pub fn start<F, Fut>(&mut self, name: &'static str, on_failure: OnFailure, run: F)
    where
        F: FnMut(Scope) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let component = Component { name, stop: CancellationToken::new(), stopped: CancellationToken::new() };
        let (stop, stopped) = (component.stop.clone(), component.stopped.clone());
        let fatal = self.fatal.clone();
        self.components.push(component);
        tokio::spawn(async move {
            if let Err(source) = supervise(name, on_failure, &stop, run).await {
                // Only the first fatal failure is told; the channel has room for one.
                drop(fatal.try_send(Failed { component: name, source }));
            }
            stopped.cancel();
        });
    }

    /// Takes over a task tree that was started before, such as the store's: it is stopped in its place,
    /// and a panic in it ends the process.
    pub fn adopt(&mut self, name: &'static str, scope: Scope) {
        let component = Component { name, stop: CancellationToken::new(), stopped: CancellationToken::new() };
        let (stop, stopped) = (component.stop.clone(), component.stopped.clone());
        let fatal = self.fatal.clone();
        self.components.push(component);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                panic = scope.failed() => drop(fatal.try_send(Failed { component: name, source: Box::new(panic) })),
            }
            if !scope.close(STOP_DEADLINE).await {
                warn!(component = name, "tasks did not end in time; left behind");
            }
            stopped.cancel();
        });
    }

    /// Runs until `stop` resolves or a component fails for good, then stops everything, last started first.
    ///
    /// # Errors
    /// The failure that ended the process.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> Result<(), Failed> {
        let failed = tokio::select! {
            () = stop => None,
            failed = self.fatal_seen.recv() => failed,
        };
        for component in self.components.iter().rev() {
            info!(component = component.name, "stopping");
            component.stop.cancel();
            // The component's own scope has the same deadline; the margin is for its bookkeeping.
            let wait = STOP_DEADLINE + Duration::from_secs(1);
            if tokio::time::timeout(wait, component.stopped.cancelled()).await.is_err() {
                warn!(component = component.name, "did not stop in time; left behind");
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

async fn supervise<F, Fut>(
    name: &'static str,
    on_failure: OnFailure,
    stop: &CancellationToken,
    mut run: F,
) -> Result<(), BoxError>
where
    F: FnMut(Scope) -> Fut + Send,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let mut failures = 0;
    loop {
        let started = Instant::now();
        let scope = Scope::with_token(name, stop.child_token());
        let ended = run_once(&scope, run(scope.clone())).await;
        if !scope.close(STOP_DEADLINE).await {
            warn!(component = name, "tasks did not end in time; left behind");
        }
        let source = match ended {
            Ok(()) => return Ok(()),
            Err(_) if stop.is_cancelled() => return Ok(()),
            Err(source) => source,
        };
        if on_failure == OnFailure::EndProcess {
            return Err(source);
        }
        failures = if started.elapsed() >= HEALTHY_AFTER { 1 } else { failures + 1 };
        let wait = RESTART.delay(failures);
        error!(component = name, failures, restart_in_ms = wait.as_millis(), error = %Chain(source.as_ref()), "component failed");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Runs one life of a component: until its future ends, or a task of its tree panics.
async fn run_once(
    scope: &Scope,
    future: impl Future<Output = Result<(), BoxError>> + Send + 'static,
) -> Result<(), BoxError> {
    let main = scope.spawn_guarded("component", future);
    tokio::select! {
        ended = main => ended.unwrap_or_else(|panic| Err(Box::new(panic))),
        panic = scope.failed() => Err(Box::<Panicked>::new(panic)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn components_stop_in_the_reverse_of_their_start_order() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::new();
        for name in ["store", "apiserver", "kubelet"] {
            let order = Arc::clone(&order);
            supervisor.start(name, OnFailure::Restart, move |scope| {
                let order = Arc::clone(&order);
                async move {
                    scope.cancelled().await;
                    order.lock().unwrap().push(name);
                    Ok(())
                }
            });
        }
        supervisor.run_until(tokio::time::sleep(Duration::from_secs(1))).await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["kubelet", "apiserver", "store"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_task_restarts_its_component_and_nothing_else() {
        let (lives, others) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let mut supervisor = Supervisor::new();
        let seen = Arc::clone(&lives);
        supervisor.start("panics", OnFailure::Restart, move |scope| {
            let life = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                if life == 0 {
                    scope.spawn("part", async { panic!("poisoned") });
                }
                scope.cancelled().await;
                Ok(())
            }
        });
        let seen = Arc::clone(&others);
        supervisor.start("calm", OnFailure::Restart, move |scope| {
            seen.fetch_add(1, Ordering::SeqCst);
            async move {
                scope.cancelled().await;
                Ok(())
            }
        });
        supervisor.run_until(tokio::time::sleep(Duration::from_secs(30))).await.unwrap();
        assert_eq!(lives.load(Ordering::SeqCst), 2);
        assert_eq!(others.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_an_adopted_tree_ends_the_process() {
        let mut supervisor = Supervisor::new();
        let scope = Scope::root("store");
        supervisor.adopt("store", scope.clone());
        scope.spawn("writer", async { panic!("the disk lies") });
        let failed = supervisor.run_until(std::future::pending()).await.unwrap_err();
        assert_eq!(failed.source.to_string(), "panicked: the disk lies");
        assert!(scope.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn the_failure_of_an_essential_component_ends_the_process() {
        let mut supervisor = Supervisor::new();
        supervisor.start("store", OnFailure::EndProcess, |_| async { Err("disk is gone".into()) });
        let failed = supervisor.run_until(std::future::pending()).await.unwrap_err();
        assert_eq!(failed.component, "store");
        assert_eq!(failed.source.to_string(), "disk is gone");
    }
}
