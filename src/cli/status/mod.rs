//! `coracle status`: the cluster on one screen, and what is unhealthy in it and why.
//!
//! ```text
//!   API ──observe──▶ Observed ──plan (pure)──▶ Report ──render (pure)──▶ text
//! ```

mod observe;
mod plan;
mod render;

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::CommandError;
pub use observe::observe;
pub use plan::{Observed, Report, report};
pub use render::render;

/// Asks again until every node is Ready and the API answers, or `deadline` has passed, or `alive` says
/// that the server's process has ended. `progress` hears each new state once.
///
/// # Errors
/// The last state, when the deadline passed or the process ended.
pub async fn wait_ready(
    connect: impl AsyncFn() -> Result<kube::Client, String>,
    deadline: Duration,
    alive: impl Fn() -> bool,
    mut progress: impl FnMut(&str),
) -> Result<Report, CommandError> {
    let started = Instant::now();
    let mut last = String::new();
    loop {
        let state = match connect().await {
            Ok(client) => match observe(&client).await {
                Ok(observed) => {
                    let report = report(&observed, Timestamp::now());
                    if report.all_nodes_ready() {
                        return Ok(report);
                    }
                    report.waiting_for()
                }
                Err(_) => "the API server".to_string(),
            },
            Err(reason) => reason,
        };
        if state != last {
            progress(&state);
            last = state;
        }
        if !alive() {
            return Err(CommandError::NotFound {
                what: "the coracle process".to_string(),
                mend: format!("it ended while waiting for {last}; its log says why"),
            });
        }
        if started.elapsed() >= deadline {
            return Err(CommandError::Timeout {
                what: "Ready".to_string(),
                after: deadline,
                state: format!("waiting for {last}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
