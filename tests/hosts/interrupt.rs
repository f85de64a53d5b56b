//! Ctrl-C, SIGTERM and a closed terminal end a program that has hosts between two steps, so that they are taken down.

use std::{
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
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    drop(entered);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} _ = hangup.recv() => {} }
            tell.send_replace(true);
            // Not by a macro, which panics where the terminal has gone.
            drop(writeln!(io::stderr(), "interrupted: taking down what was started"));
            // Nobody is told twice; until the process ends, further signals change nothing.
            std::future::pending::<()>().await;
        });
    });
    // A second call finds the first one's listener, which is as good.
    drop(ASKED.set(asked));
    Ok(())
}

/// Whether somebody listens, and will take down what was started.
pub(crate) fn listens() -> bool {
    ASKED.get().is_some()
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
