//! What the service manager (systemd) is told: that we are ready, that we are alive, that we stop. Without one, nothing.

use std::{sync::Arc, time::Duration};

use lifecycle::{OnFailure, Scope, Supervisor};
use sd_notify::NotifyState;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{error, warn};

/// Says that everything is started, and from then on that the process is alive, until `stop` resolves.
///
/// The future that this returns is what [`Supervisor::run_until`] waits on. So a beat proves that the task that
/// would notice a failed component still runs, and, since a component of its own must answer each one, that the
/// workers under all components do. A process in which either hangs is killed by systemd and started again; its pods
/// run on.
pub(crate) fn attend<S: Future<Output = ()>>(
    supervisor: &mut Supervisor,
    status: &str,
    stop: S,
) -> impl Future<Output = ()> + use<S> {
    let within = sd_notify::watchdog_enabled();
    let (ask, pulse) = mpsc::channel(1);
    if within.is_some() {
        let pulse = Arc::new(Mutex::new(pulse));
        supervisor.start("pulse", OnFailure::Restart, move |scope| {
            let pulse = Arc::clone(&pulse);
            async move {
                answer(&mut *pulse.lock().await, &scope).await;
                Ok(())
            }
        });
    }
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    async move {
        tokio::select! {
            () = stop => {}
            () = beat(within, &ask, || tell(&[NotifyState::Watchdog])) => {}
        }
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping; pods run on")]);
    }
}

/// How far each word while starting moves the end of the time in which we must have started (`TimeoutStartSec`), and how often
/// it is said.
const EXTENSION: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(30));

/// `work`, which may wait for somebody for as long as it takes: the service manager is told that we still start, so that it
/// does not end us and begin again.
pub(crate) async fn while_starting<T>(work: impl Future<Output = T>) -> T {
    extend(work, || {
        let micros = u32::try_from(EXTENSION.0.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
    })
    .await
}

async fn extend<T>(work: impl Future<Output = T>, said: impl Fn()) -> T {
    let mut ticks = interval(EXTENSION.1);
    let saying = async {
        loop {
            ticks.tick().await;
            said();
        }
    };
    tokio::select! {
        done = work => done,
        () = saying => unreachable!("it never ends"),
    }
}

/// What `systemctl status` shows of us until the next word.
pub(crate) fn show(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

type Question = oneshot::Sender<()>;

async fn answer(questions: &mut mpsc::Receiver<Question>, scope: &Scope) {
    loop {
        tokio::select! {
            () = scope.cancelled() => return,
            Some(question) = questions.recv() => drop(question.send(())),
        }
    }
}

/// Calls `fed` three times in each `within`, as long as the questions are answered. Never ends.
async fn beat(within: Option<Duration>, ask: &mpsc::Sender<Question>, fed: impl Fn()) {
    let Some(within) = within.filter(|within| !within.is_zero()) else {
        return std::future::pending().await;
    };
    let period = within / 3;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (question, answered) = oneshot::channel();
        // A full channel is a question that was not answered: the one before.
        let asked = ask.try_send(question).is_ok();
        if asked && matches!(timeout(period, answered).await, Ok(Ok(()))) {
            fed();
        } else {
            error!(within_ms = within.as_millis(), "no worker answers; the watchdog is not fed");
        }
    }
}

/// Whether it heard makes no difference here.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(error = &error as &dyn std::error::Error, "the service manager could not be told our state");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_that_waits_for_hours_says_so_in_time() {
        let (said, last) = (Cell::new(0), Cell::new(tokio::time::Instant::now()));
        let hours = tokio::time::sleep(Duration::from_secs(2 * 3600));
        extend(hours, || {
            assert!(last.get().elapsed() < EXTENSION.0 / 2, "the word before has nearly run out");
            last.set(tokio::time::Instant::now());
            said.set(said.get() + 1);
        })
        .await;
        assert!(said.get() >= 240, "{}", said.get());
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_well_within_its_time_while_workers_answer() {
        let (ask, mut questions) = mpsc::channel(1);
        let scope = Scope::root("test");
        let fed = Cell::new(0);
        let minute = tokio::time::sleep(Duration::from_secs(60));
        tokio::select! {
            () = beat(Some(Duration::from_secs(30)), &ask, || fed.set(fed.get() + 1)) => {}
            () = answer(&mut questions, &scope) => {}
            () = minute => {}
        }
        assert!((6..=7).contains(&fed.get()), "{}", fed.get());
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_starves_when_no_worker_answers() {
        let (ask, _hung) = mpsc::channel(1);
        let fed = Cell::new(0);
        let minute = tokio::time::sleep(Duration::from_secs(60));
        tokio::select! {
            () = beat(Some(Duration::from_secs(30)), &ask, || fed.set(fed.get() + 1)) => {}
            () = minute => {}
        }
        assert_eq!(fed.get(), 0);
    }
}
