//! The benchmark: what Coracle takes and how fast it is, on real containerd and the real kernel, with the floor or
//! upstream measured in turns in the same run. Needs root; `make bench` builds what it needs and starts it.
//!
//! Writes `results.json` (every sample) and `RESULTS.md` (a table made from that file) beside this one. Given names of
//! parts (`tests/bench/run.sh pods api`), it measures only those and prints instead of writing.
#![expect(clippy::unwrap_used, reason = "a host of the system tests fails by panicking; each part is caught")]

mod api;
mod blast;
mod dns;
mod floor;
#[path = "../hosts/mod.rs"]
#[expect(dead_code, reason = "the system tests ask more of a host")]
mod hosts;
mod inside;
mod machine;
mod memory;
mod network;
mod pods;
mod ready;
mod report;
mod services;
mod upstream;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    sync::LazyLock,
    time::Instant,
};

use anyhow::{Context, bail};
use hosts::interrupt;
use report::{
    render,
    results::{Measurement, Missing, Results},
};

type Report = Vec<Measurement>;

/// A name, and what takes the part's measurements into the report. What was measured before an error is kept.
type Part = (&'static str, fn(&mut Report) -> anyhow::Result<()>);

const PARTS: [Part; 6] = [
    ("start", ready::measure),
    ("pods", pods::measure),
    ("services", services::measure),
    ("network", network::measure),
    ("dns", dns::measure),
    ("api", api::measure),
];

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn progress(text: &str) {
    interrupt::say(&format!("[{:>4} s] {text}", STARTED.elapsed().as_secs()));
}

fn main() -> ExitCode {
    // Cargo adds flags of its own, such as --bench.
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            interrupt::say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was measured.
fn run(wanted: &[String]) -> anyhow::Result<bool> {
    let known = PARTS.map(|(name, _)| name);
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no part {unknown:?}: the parts are {}", known.join(", "));
    }
    interrupt::listen()?;
    let mut results = Results { run: machine::describe()?, measurements: Vec::new(), missing: Vec::new() };
    for (name, measure) in PARTS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        progress(&format!("part {name}"));
        let outcome = catch_unwind(AssertUnwindSafe(|| measure(&mut results.measurements)));
        interrupt::check()?;
        let why = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => {
                progress(&format!("part {name} failed: {error:#}"));
                error.to_string()
            }
            Err(_) => "its host failed; the output of the run says why".to_string(),
        };
        results.missing.push(Missing { what: format!("part {name}"), why });
    }
    let complete = results.missing.is_empty();
    if wanted.is_empty() {
        write(&results)?;
    } else {
        eprintln!("\n{}", render::page(&results));
    }
    Ok(complete)
}

/// The page is made from what the file says, not from what this process remembers.
fn write(results: &Results) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench");
    let file = folder.join("results.json");
    fs::write(&file, serde_json::to_string_pretty(results)? + "\n").context("write results.json")?;
    let results: Results = serde_json::from_str(&fs::read_to_string(&file)?).context("read results.json")?;
    let page = render::page(&results);
    fs::write(folder.join("RESULTS.md"), &page).context("write RESULTS.md")?;
    eprintln!("\n{page}\nWritten to tests/bench/results.json and tests/bench/RESULTS.md");
    Ok(())
}
