//! The process's log: one line for each thing that happened, on standard error (systemd's journal takes it from there).

use std::io::IsTerminal;

use anyhow::Context;
use config::{LogFormat, Logging};
use tracing_subscriber::EnvFilter;

/// # Errors
/// When the level in the configuration is none.
pub(crate) fn start(logging: &Logging) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&logging.level)
        .with_context(|| format!("logging.level \"{}\" is no level and no filter", logging.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match logging.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
