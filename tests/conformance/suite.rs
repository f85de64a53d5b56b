//! Runs chosen specs of upstream's suite by ginkgo, and ends it when it hangs, without losing what is known.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::Cluster,
    ginkgo_report::{self, Told},
    hosts::tool,
    interrupt,
    measured::{Ended, Outcome},
    progress,
    spec::listed,
    stream::{Event, Stream},
};

/// One spec sleeps for 22 minutes; after that long without any news there will be none.
const SILENCE: Duration = Duration::from_secs(30 * 60);
/// What ginkgo gets each time it is asked to end.
const GRACE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(200);
const EVERY: Duration = Duration::from_secs(15);

/// Specs that run together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) what: &'static str,
    pub(crate) names: BTreeSet<String>,
    pub(crate) processes: usize,
    /// For the log and the reports.
    pub(crate) folder: PathBuf,
}

/// Why a suite was over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Over {
    ByItself,
    Hung,
    OutOfTime,
    Interrupted,
}

/// The names of all specs.
pub(crate) fn list() -> anyhow::Result<BTreeSet<String>> {
    let program = tool("CORACLE_UPSTREAM").join("e2e.test");
    let output = Command::new(&program)
        .arg("--list-tests")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let names = listed(&String::from_utf8_lossy(&output.stdout));
    ensure!(!names.is_empty(), "e2e.test lists no tests: {}", String::from_utf8_lossy(&output.stderr));
    Ok(names)
}

/// Runs the batch. `keep` hears of each spec as it ends, and of all of them again, with their messages, at the end.
/// An error if the batch did not come to its end; what it did is kept nevertheless.
pub(crate) fn run(
    cluster: &Cluster,
    batch: &Batch,
    deadline: Option<Instant>,
    keep: &mut dyn FnMut(&str, Ended) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if batch.names.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(&batch.folder).with_context(|| batch.folder.display().to_string())?;
    let log = batch.folder.join("suite.log");
    let mut running = Running {
        child: start(cluster, batch, &log)?,
        log: File::open(&log).context("follow the suite's log")?,
        stream: Stream::of(&batch.names),
        batch,
        started: Instant::now(),
        heard: Instant::now(),
        printed: Instant::now(),
        done: BTreeSet::new(),
        failed: 0,
    };
    progress(&format!("{}: {} specs, {} at once", batch.what, batch.names.len(), batch.processes));
    let over = running.follow(deadline, keep)?;
    running.line();
    let told = report(&batch.folder)?;
    if let Some(told) = &told {
        for (name, ended) in told.ended.iter().filter(|(name, _)| batch.names.contains(*name)) {
            keep(name, ended.clone())?;
            running.done.insert(name.clone());
        }
    }
    let told = told.unwrap_or_default();
    if over == Over::Hung {
        // What a suite hangs in would hang the next run too.
        let message =
            format!("no spec ended for {} minutes, then the suite was ended", SILENCE.as_secs() / 60);
        for name in told.cut_short.iter().filter(|name| batch.names.contains(*name)) {
            keep(
                name,
                Ended { outcome: Outcome::Failed, message: message.clone(), seconds: SILENCE.as_secs_f64() },
            )?;
        }
    }
    verdict(over, batch, &running.done, &told)
}

fn verdict(over: Over, batch: &Batch, done: &BTreeSet<String>, told: &Told) -> anyhow::Result<()> {
    let left = batch.names.difference(done).count();
    let log = batch.folder.join("suite.log");
    match over {
        Over::Interrupted => bail!("interrupted; the next run goes on from here"),
        Over::OutOfTime => bail!("out of time, {left} specs left; the next run goes on from here"),
        Over::Hung => {
            bail!("the suite hung and was ended, {left} specs left; the next run goes on from here")
        }
        Over::ByItself if left > 0 => bail!(
            "the suite ended without {left} of its specs; its log is {}\n{}",
            log.display(),
            told.complaints.join("\n")
        ),
        Over::ByItself => Ok(()),
    }
}

fn start(cluster: &Cluster, batch: &Batch, log: &Path) -> anyhow::Result<Child> {
    let tools = tool("CORACLE_UPSTREAM");
    let log = File::create(log)?;
    let mut command = cluster.client(&tools.join("ginkgo"));
    command.arg(format!("--nodes={}", batch.processes));
    command.args(["-v", "--timeout=24h", "--silence-skips", "--no-color", "--poll-progress-after=0"]);
    command.args(batch.names.iter().map(|name| format!("--focus={}$", quoted(name))));
    command.arg(tools.join("e2e.test")).arg("--");
    command.args([
        "--provider=skeleton",
        "--num-nodes=2",
        "--allowed-not-ready-nodes=0",
        "--dns-domain=cluster.local",
    ]);
    command.args(["--kube-api-content-type=application/json", "--report-complete-ginkgo"]);
    command.arg(format!("--kubeconfig={}", cluster.kubeconfig().display()));
    command.arg(format!("--kubectl-path={}", tools.join("kubectl").display()));
    command.arg(format!("--report-dir={}", batch.folder.display()));
    command.env("HOME", &batch.folder);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Of its own, so that it can be ended with all its processes, and hears of Ctrl-C only from here.
    command.process_group(0);
    command.spawn().context("start ginkgo")
}

/// A name as an expression that matches it and nothing else.
fn quoted(name: &str) -> String {
    let mut expression = String::new();
    for letter in name.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            expression.push('\\');
        }
        expression.push(letter);
    }
    expression
}

/// `None` if ginkgo did not come to write it.
fn report(folder: &Path) -> anyhow::Result<Option<Told>> {
    match fs::read_to_string(folder.join("ginkgo/report.json")) {
        Ok(text) => ginkgo_report::read(&text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("read ginkgo's report"),
    }
}

/// A suite that runs. It ends with this.
struct Running<'a> {
    child: Child,
    /// What it prints, from where it was not read yet.
    log: File,
    stream: Stream<'a>,
    batch: &'a Batch,
    started: Instant,
    heard: Instant,
    printed: Instant,
    done: BTreeSet<String>,
    failed: usize,
}

impl Running<'_> {
    fn follow(
        &mut self,
        deadline: Option<Instant>,
        keep: &mut dyn FnMut(&str, Ended) -> anyhow::Result<()>,
    ) -> anyhow::Result<Over> {
        loop {
            // Asked before its log is read: what it said last is read too.
            let ended = self.child.try_wait().context("wait for ginkgo")?.is_some();
            let mut more = Vec::new();
            self.log.read_to_end(&mut more).context("follow the suite's log")?;
            for event in self.stream.on(&more) {
                self.on(event, keep)?;
            }
            if self.printed.elapsed() > EVERY {
                self.line();
            }
            let over = if interrupt::check().is_err() {
                Over::Interrupted
            } else if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                Over::OutOfTime
            } else if self.heard.elapsed() > SILENCE {
                Over::Hung
            } else if ended {
                return Ok(Over::ByItself);
            } else {
                thread::sleep(TICK);
                continue;
            };
            progress("asking the suite to end");
            self.end();
            return Ok(over);
        }
    }

    fn on(
        &mut self,
        event: Event,
        keep: &mut dyn FnMut(&str, Ended) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.heard = Instant::now();
        let Event { name, outcome, seconds, message } = event;
        if outcome == Outcome::Failed && !self.done.contains(&name) {
            self.failed += 1;
            progress(&format!("FAILED {name}"));
        }
        keep(&name, Ended { outcome, message, seconds })?;
        self.done.insert(name);
        Ok(())
    }

    fn line(&mut self) {
        self.printed = Instant::now();
        let (done, all) = (self.done.len(), self.batch.names.len());
        let minutes = self.started.elapsed().as_secs() / 60;
        progress(&format!(
            "{}: {done} of {all} done, {} failed, {} left, {minutes} min",
            self.batch.what,
            self.failed,
            all - done
        ));
    }

    /// Asks as a terminal would, all its processes: at first they clean up, then they only report, then they only end.
    fn end(&mut self) {
        let group = Pid::from_raw(-self.child.id().cast_signed());
        for _ in 0..3 {
            kill(group, Signal::SIGINT).ok();
            let until = Instant::now() + GRACE;
            while Instant::now() < until {
                if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                    return;
                }
                thread::sleep(TICK);
            }
        }
        kill(group, Signal::SIGKILL).ok();
        drop(self.child.wait());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use regex_lite::Regex;

    use super::*;

    fn batch(names: &[&str]) -> Batch {
        let names = names.iter().map(ToString::to_string).collect();
        Batch { what: "parallel", names, processes: 1, folder: "folder".into() }
    }

    #[test]
    fn a_name_as_an_expression_matches_itself_alone() {
        for name in ["[sig-node] Pods (v1.2) {x} $HOME ^a|b* c+ d? e\\f", "plain"] {
            let expression = Regex::new(&format!("{}$", quoted(name))).unwrap();
            assert!(expression.is_match(&format!("Kubernetes e2e suite {name}")), "{name}");
            assert!(!expression.is_match(&format!("{name} [Slow]")), "{name}");
        }
    }

    #[test]
    fn a_suite_that_ends_without_its_specs_has_failed() {
        let (batch, none, told) = (batch(&["one", "two"]), BTreeSet::new(), Told::default());
        assert!(verdict(Over::ByItself, &batch, &batch.names, &told).is_ok());
        let told_why = Told { complaints: vec!["no nodes".into()], ..Told::default() };
        let error = verdict(Over::ByItself, &batch, &none, &told_why).unwrap_err().to_string();
        assert!(error.contains("without 2 of its specs") && error.contains("no nodes"), "{error}");
        for over in [Over::Hung, Over::OutOfTime, Over::Interrupted] {
            let error = verdict(over, &batch, &none, &told).unwrap_err().to_string();
            assert!(error.contains("the next run goes on"), "{error}");
        }
    }
}
