//! logind: whether the machine goes down, the lock that holds it up, and for how long it can be held up at most.
//!
//! Its interface is that of systemd's "Inhibitor Locks" (org.freedesktop.login1, systemd 183 and later).

use std::{io, path::Path, sync::Arc, time::Duration};

use lifecycle::Backoff;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{FLUSH, Settings, plan};
use crate::dbus::{
    CallError, Connection, Handle,
    message::{Argument, Malformed, Target, Value},
};

const LOGIND: Target = Target {
    destination: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};
const PROPERTIES: Target = Target { interface: "org.freedesktop.DBus.Properties", ..LOGIND };
const SYSTEMD: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const PREPARE: &str = "type='signal',sender='org.freedesktop.login1',path='/org/freedesktop/login1',\
                       interface='org.freedesktop.login1.Manager',member='PrepareForShutdown'";
/// logind is started anew, or ends.
const OWNER: &str = "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',\
                     member='NameOwnerChanged',arg0='org.freedesktop.login1'";
/// The bus knows nobody of this name, and nobody who could be started.
const NOBODY: &str = "org.freedesktop.DBus.Error.ServiceUnknown";

const ANEW: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(60));
/// logind reads its configuration again once it gets to it.
const RELOAD_LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
enum LogindError {
    #[error("ask over the system bus")]
    Call(#[from] CallError),
    #[error("read what {0} says")]
    Answer(&'static str, #[source] Malformed),
    #[error("{0} says something of another kind")]
    Kind(&'static str),
    #[error("logind gave no lock")]
    NoLock,
    #[error("wait for a signal of the system bus")]
    Signal(#[source] io::Error),
}

impl LogindError {
    /// This machine has none, or not yet: that is no fault.
    fn is_absence(&self) -> bool {
        match self {
            LogindError::Call(CallError::Refused { name, .. }) => name == NOBODY,
            LogindError::Call(CallError::Broken { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// What holds the shutdown up. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Hold(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    lock: Option<Handle>,
    /// A shutdown is under way: only then the lock may go.
    preparing: bool,
    /// How long logind waits for those who hold locks.
    delay: Option<Duration>,
}

impl Hold {
    /// Lets the machine go, unless the shutdown was cancelled meanwhile.
    pub(super) fn release(&self) {
        let mut held = self.0.lock();
        if held.preparing {
            held.lock = None;
        }
    }

    /// How much time there is for pods; the rest is for their statuses.
    pub(super) fn available(&self) -> Duration {
        self.0.lock().delay.map_or(Duration::MAX, |delay| delay.saturating_sub(FLUSH.min(delay / 4)))
    }
}

/// Keeps `hold` and `preparing` true, over buses and logind that come and go. Runs until dropped.
pub(super) async fn attend(settings: &Settings, hold: Hold, preparing: watch::Sender<bool>) {
    let mut failures = 0;
    loop {
        let (begun, error) = match session(settings, &hold, &preparing).await {
            Ok(()) => (true, None),
            Err((begun, error)) => (begun, Some(error)),
        };
        failures = if begun { 1 } else { failures + 1 };
        match error {
            None => debug!("logind is started anew"),
            Some(error) if failures > 1 => {
                debug!(error = &error as &dyn std::error::Error, "still no logind to ask");
            }
            Some(error) if error.is_absence() => {
                info!(bus = %settings.bus.display(), "no logind here: a shutdown of the machine is not held up for pods");
            }
            Some(error) => warn!(
                error = &error as &dyn std::error::Error,
                "cannot ask logind; until that is mended, pods may be killed when the machine shuts down"
            ),
        }
        tokio::time::sleep(ANEW.delay(failures)).await;
    }
}

/// Until logind is another one, or the bus fails. An error says whether everything had been in place before.
async fn session(
    settings: &Settings,
    hold: &Hold,
    preparing: &watch::Sender<bool>,
) -> Result<(), (bool, LogindError)> {
    let mut logind = begin(settings, hold, preparing).await.map_err(|error| (false, error))?;
    loop {
        let next = logind.0.signal().await.map_err(LogindError::Signal);
        match next {
            Ok(signal) if signal.member == "NameOwnerChanged" => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err((true, error)),
        }
        logind.look(hold, preparing).await.map_err(|error| (true, error))?;
    }
}

async fn begin(
    settings: &Settings,
    hold: &Hold,
    preparing: &watch::Sender<bool>,
) -> Result<Logind, LogindError> {
    let mut logind = Logind(Connection::open(&settings.bus).await?);
    logind.0.subscribe(PREPARE).await?;
    logind.0.subscribe(OWNER).await?;
    if !logind.is_preparing().await? {
        let delay = logind.lengthen_delay(settings).await?;
        // A lock that we have is kept until there is another.
        let lock = logind.inhibit().await?;
        let mut held = hold.0.lock();
        (held.lock, held.delay) = (Some(lock), Some(delay));
        info!(delay_s = delay.as_secs(), "a shutdown of the machine waits for pods");
    }
    logind.look(hold, preparing).await?;
    Ok(logind)
}

/// Has logind read its configuration again, if there is one.
pub(super) async fn reload(bus: &Path) {
    let reloaded = async { Logind(Connection::open(bus).await?).reload().await };
    if let Err(error) = reloaded.await {
        debug!(
            error = &error as &dyn std::error::Error,
            "logind is not told to read its configuration again"
        );
    }
}

struct Logind(Connection);

impl Logind {
    /// Asks whether the machine goes down, and takes the lock again once it does not any more.
    async fn look(&mut self, hold: &Hold, preparing: &watch::Sender<bool>) -> Result<(), LogindError> {
        let now = self.is_preparing().await?;
        let lacks_lock = {
            let mut held = hold.0.lock();
            held.preparing = now;
            held.lock.is_none()
        };
        if !now && lacks_lock {
            let lock = self.inhibit().await?;
            hold.0.lock().lock = Some(lock);
        }
        preparing.send_if_modified(|before| std::mem::replace(before, now) != now);
        Ok(())
    }

    async fn is_preparing(&mut self) -> Result<bool, LogindError> {
        const PROPERTY: &str = "PreparingForShutdown";
        match self.property(PROPERTY).await? {
            Value::Bool(preparing) => Ok(preparing),
            _ => Err(LogindError::Kind(PROPERTY)),
        }
    }

    async fn delay(&mut self) -> Result<Duration, LogindError> {
        const PROPERTY: &str = "InhibitDelayMaxUSec";
        match self.property(PROPERTY).await? {
            Value::Number(microseconds) => Ok(Duration::from_micros(microseconds)),
            _ => Err(LogindError::Kind(PROPERTY)),
        }
    }

    async fn property(&mut self, name: &'static str) -> Result<Value, LogindError> {
        let arguments = [Argument::Text(LOGIND.interface), Argument::Text(name)];
        let (body, _) = self.0.call(&PROPERTIES, "Get", &arguments).await?;
        body.variant().map_err(|error| LogindError::Answer(name, error))
    }

    /// The lock: as long as its file descriptor is open, a shutdown is held up, for the delay at most.
    async fn inhibit(&mut self) -> Result<Handle, LogindError> {
        let words = ["shutdown", "coracle", "Pods end, and the API is told how", "delay"];
        let (body, mut handles) = self.0.call(&LOGIND, "Inhibit", &words.map(Argument::Text)).await?;
        let at = body.handle().map_err(|error| LogindError::Answer("Inhibit", error))?;
        if at < handles.len() { Ok(handles.swap_remove(at)) } else { Err(LogindError::NoLock) }
    }

    /// How long logind waits, after it was asked to wait as long as pods and their statuses may take.
    async fn lengthen_delay(&mut self, settings: &Settings) -> Result<Duration, LogindError> {
        let wanted = plan::total(&settings.periods) + FLUSH;
        let mut delay = self.delay().await?;
        if delay >= wanted {
            return Ok(delay);
        }
        let path = settings.drop_in.display();
        if let Err(error) = write_drop_in(&settings.drop_in, wanted).await {
            warn!(%path, error = &error as &dyn std::error::Error, "cannot write logind's configuration");
        } else if let Err(error) = self.reload().await {
            warn!(%path, error = &error as &dyn std::error::Error, "cannot have logind read its configuration");
        } else {
            for _ in 0..RELOAD_LOOKS {
                delay = self.delay().await?;
                if delay >= wanted {
                    return Ok(delay);
                }
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        }
        warn!(
            wanted_s = wanted.as_secs(),
            delay_s = delay.as_secs(),
            "logind holds a shutdown up for a shorter time than pods are given, which all get less; look for \
             InhibitDelayMaxSec in /etc/systemd/logind.conf.d, or shorten kubelet.shutdownGracePeriod"
        );
        Ok(delay)
    }

    /// By the signal that makes logind read its configuration again; systemd 252 has no job for that.
    async fn reload(&mut self) -> Result<(), LogindError> {
        let arguments = [
            Argument::Text("systemd-logind.service"),
            Argument::Text("main"),
            Argument::Integer(nix::sys::signal::Signal::SIGHUP as i32),
        ];
        self.0.call(&SYSTEMD, "KillUnit", &arguments).await?;
        Ok(())
    }
}

async fn write_drop_in(path: &Path, delay: Duration) -> io::Result<()> {
    let text = format!(
        "# Written by coracle, which ends pods before the machine goes down (kubelet.shutdownGracePeriod).\n\
         [Login]\nInhibitDelayMaxSec={}\n",
        delay.as_secs()
    );
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::write(path, text).await
}

#[cfg(test)]
#[path = "logind_tests.rs"]
mod tests;
