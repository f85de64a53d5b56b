//! Upstream's own e2e suite against a cluster of ours, of upstream's or of both. Needs root; `make conformance` builds
//! what it needs and starts it.
//!
//! What is known of each spec stays in `CONFORMANCE_CACHE`, so that a run goes on where an earlier one ended; `results.json`,
//! `RESULTS.md` and `passing.txt` beside this file are written from it at the end.
#![expect(clippy::unwrap_used, reason = "a host of the system tests fails by panicking")]

mod book;
mod cluster;
mod committed;
mod ginkgo_report;
#[cfg(test)]
mod history;
#[path = "../hosts/mod.rs"]
#[expect(dead_code, reason = "the system tests ask more of a host")]
mod hosts;
mod identity;
mod measured;
mod ratchet;
mod render;
mod results;
mod spec;
mod stream;
mod suite;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use book::Book;
use cluster::Cluster;
use hosts::{interrupt, tool};
use measured::{Again, Outcome};
use spec::{Wanted, runs_alone};
use suite::{Batch, Times, Verdict};
use target::Target;

/// More at once are not chance.
const MOST_FLAKES: usize = 10;

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The root of the sources, two folders up.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub(crate) fn progress(text: &str) {
    interrupt::say(&format!("[{:>5} s] {text}", STARTED.elapsed().as_secs()));
}

fn main() -> ExitCode {
    LazyLock::force(&STARTED);
    // The page alone, after `results.json` was merged or mended by hand.
    let page = env::args().any(|word| word == "page");
    let outcome = if page {
        committed::write_page_anew().map(|()| true)
    } else {
        Asked::read().and_then(|asked| run(&asked))
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            interrupt::say(&format!("conformance: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What somebody wants, from the environment.
struct Asked {
    target: Target,
    wanted: Wanted,
    again: Again,
    processes: usize,
    limit: Option<Duration>,
    /// The gate: writes nothing into the repository.
    gate: bool,
}

impl Asked {
    fn read() -> anyhow::Result<Self> {
        let said = |name: &str| env::var(name).unwrap_or_default();
        let number = |name: &str, default: usize| match said(name).as_str() {
            "" => Ok(default),
            text => text.parse().with_context(|| format!("{name} is no number: {text:?}")),
        };
        let gate = env::args().any(|word| word == "ci");
        let target = match said("TARGET").as_str() {
            "" => Target::Coracle,
            _ if gate => bail!("the gate judges coracle; leave TARGET out"),
            name => name.parse()?,
        };
        let again = match said("AGAIN").as_str() {
            "" => Again::No,
            "failed" => Again::Failed,
            "all" => Again::All,
            other => bail!("AGAIN is failed or all, not {other:?}"),
        };
        let (wanted, again) = if gate {
            let names = committed::ci()?;
            if names.is_empty() {
                bail!("tests/conformance/ci.txt names no tests");
            }
            (Wanted::Names(names), Again::All)
        } else if said("TEST").is_empty() {
            (Wanted::matching(&said("FOCUS"), &said("SKIP"))?, again)
        } else {
            (Wanted::Names([said("TEST")].into()), Again::All)
        };
        let minutes = number("MINUTES", if gate { 20 } else { 0 })?;
        let limit = (minutes > 0).then(|| Duration::from_secs(60 * minutes as u64));
        Ok(Self { target, wanted, again, processes: number("PROCS", 12)?.max(1), limit, gate })
    }
}

/// Whether all is well that was wanted.
fn run(asked: &Asked) -> anyhow::Result<bool> {
    interrupt::listen()?;
    let all = suite::list()?;
    let wanted = asked.wanted.among(&all)?;
    let mut book = Book::open(asked.target, &all)?;
    if asked.gate {
        // It is judged by what it does now alone.
        book.store.forget(&wanted);
    }
    let left = book.store.left(&wanted, &book.build, asked.again);
    progress(&format!(
        "TARGET={}: {} specs wanted, {} of them known of this build, {} to run",
        asked.target,
        wanted.len(),
        wanted.len() - left.len(),
        left.len()
    ));
    let outcome = if left.is_empty() { Ok(()) } else { measure(asked, &mut book, left) };
    if !asked.gate {
        book.commit(&all)?;
    }
    println(&book.wanted(&wanted)?);
    if !asked.gate {
        println(&book.summary(&all)?);
    }
    let bad = book.bad(&wanted, asked.gate)?;
    for (name, trouble) in &bad {
        println(&format!("{} {name}", trouble.in_capitals()));
    }
    outcome?;
    Ok(bad.is_empty())
}

/// The answer; whoever no longer reads it is none of our trouble.
fn println(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// Those that may run beside others, then those that may not; then once more what must pass and did not. A batch that
/// falls short is told of at the end.
fn measure(asked: &Asked, book: &mut Book, left: BTreeSet<String>) -> anyhow::Result<()> {
    let times = Times::until(asked.limit.map(|limit| Instant::now() + limit));
    let folder = tool("CONFORMANCE_CACHE").join("runs").join(asked.target.name()).join(identity::now());
    progress(&format!("logs, JUnit and JSON go to {}", folder.display()));
    let must_pass = book.must_pass(&left, asked.gate)?;
    let cluster = Cluster::start(asked.target);
    let (serial, parallel) = left.iter().cloned().partition(|name| runs_alone(name));
    let mut ended = BTreeMap::new();
    let mut short = Vec::new();
    for (what, names, processes) in [("parallel", parallel, asked.processes), ("serial", serial, 1)] {
        let batch = Batch { what, names, processes, folder: folder.join(what) };
        let verdict = suite::run(&cluster, &batch, times, &mut |name, spec| {
            ended.insert(name.to_string(), spec.outcome);
            book.keep(name, &spec)
        })?;
        go_on(verdict, &mut short)?;
    }
    if asked.target == Target::Coracle {
        let verdict =
            try_again(&cluster, folder.join("again"), times, book, ratchet::broken(&must_pass, &ended))?;
        go_on(verdict, &mut short)?;
    }
    ensure!(short.is_empty(), "{}", short.join("\n"));
    Ok(())
}

/// An error where nothing more is to run.
fn go_on(verdict: Verdict, short: &mut Vec<String>) -> anyhow::Result<()> {
    match verdict {
        Verdict::Complete => {}
        Verdict::Short(why) => {
            progress(&why);
            short.push(why);
        }
        Verdict::Stop(why) => {
            short.push(why);
            bail!("{}", short.join("\n"));
        }
    }
    Ok(())
}

/// What had to pass and did not is tried once more, alone: what passes then is a flake, and told as one.
fn try_again(
    cluster: &Cluster,
    folder: PathBuf,
    times: Times,
    book: &mut Book,
    names: BTreeSet<String>,
) -> anyhow::Result<Verdict> {
    if names.len() > MOST_FLAKES {
        progress(&format!("{} that must pass did not: that is no flake, none is tried again", names.len()));
        return Ok(Verdict::Complete);
    }
    let batch = Batch { what: "once more, alone", names, processes: 1, folder };
    let mut flakes = BTreeSet::new();
    suite::run(cluster, &batch, times, &mut |name, spec| {
        book.keep(name, &spec)?;
        // At once: whatever ends this run, what failed first is never taken for a plain pass.
        if spec.outcome == Outcome::Passed {
            book.keep_flake(name)?;
            if flakes.insert(name.to_string()) {
                progress(&format!("FLAKE: passed only when tried again, alone: {name}"));
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_falls_short_is_told_of_whatever_comes_after() {
        let mut short = Vec::new();
        assert!(go_on(Verdict::Complete, &mut short).is_ok() && short.is_empty());
        assert!(go_on(Verdict::Short("parallel hung".into()), &mut short).is_ok());
        let error = go_on(Verdict::Stop("the cluster died".into()), &mut short).unwrap_err().to_string();
        assert_eq!(error, "parallel hung\nthe cluster died");
    }
}
