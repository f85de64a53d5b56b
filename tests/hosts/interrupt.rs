//! Ctrl-C, SIGTERM and a closed terminal end a program that has hosts between two steps, so that they are taken down.

use std::{
    fs,
    io::{self, Write},
    sync::OnceLock,
    thread,
};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

static ASKED: OnceLock<watch::Receiver<bool>> = OnceLock::new();

/// Listens for the rest of the process's life.
pub(crate) fn listen() -> anyhow::Result<()> {
    let (tell, asked) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    // Whoever started this by nohup wants it to outlive the terminal.
    let mut hangup = match hangup_is_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup()).context("listen for SIGHUP")?),
    };
    let mut hangup = async move || match &mut hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    };
    drop(entered);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} _ = hangup() => {} }
            tell.send_replace(true);
            say("interrupted: taking down what was started");
            // Nobody is told twice; until the process ends, further signals change nothing.
            std::future::pending::<()>().await;
        });
    });
    // A second call finds the first one's listener, which is as good.
    drop(ASKED.set(asked));
    Ok(())
}

/// The first bit of the mask is signal 1.
fn hangup_is_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Whether somebody listens, and will take down what was started.
pub(crate) fn listens() -> bool {
    ASKED.get().is_some()
}

/// Says something that nobody may be there to read: `eprintln` would panic where the terminal has gone.
pub(crate) fn say(text: &str) {
    // A test's words belong to the test.
    if cfg!(test) {
        eprintln!("{text}");
    } else {
        drop(writeln!(io::stderr(), "{text}"));
    }
}

/// An error if somebody wants the program to end.
pub(crate) fn check() -> anyhow::Result<()> {
    if ASKED.get().is_some_and(|asked| *asked.borrow()) {
        bail!("interrupted");
    }
    Ok(())
}

/// Resolves when somebody wants the program to end.
pub(crate) async fn asked() {
    if let Some(asked) = ASKED.get()
        && asked.clone().wait_for(|asked| *asked).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
