//! Runs chosen specs of upstream's suite by ginkgo, and ends it when it hangs or when the cluster has died, without
//! losing what is known and without keeping what is not the cluster's doing.

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

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::Cluster,
    ginkgo_report::{self, Told},
    hosts::{interrupt, program::has_ended, tool},
    measured::{Ended, Outcome},
    progress,
    spec::listed,
    stream::{Event, Stream},
};

const EVERY: Duration = Duration::from_secs(15);

/// What a suite runs against; in tests of this file something that only looks like it.
pub(crate) trait World {
    /// The suite's command for a batch.
    fn command(&self, batch: &Batch) -> Command;
    /// A program of the cluster that has ended, with its last words.
    fn dead(&self) -> Option<String>;
    /// Whether somebody wants all to end.
    fn interrupted(&self) -> bool;
}

/// How long a suite may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) deadline: Option<Instant>,
    /// After that long without any news there will be none.
    silence: Duration,
    /// What ginkgo gets each time it is asked to end.
    grace: Duration,
    tick: Duration,
}

impl Times {
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            // One spec sleeps for 22 minutes.
            silence: Duration::from_secs(30 * 60),
            grace: Duration::from_secs(60),
            tick: Duration::from_millis(200),
        }
    }
}

/// Who hears of each spec.
pub(crate) type Keep<'a> = &'a mut dyn FnMut(&str, Ended) -> anyhow::Result<()>;

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
#[derive(Clone, Debug, Eq, PartialEq)]
enum Over {
    ByItself,
    Hung,
    OutOfTime,
    Interrupted,
    /// Of which program it died, and the program's last words.
    ClusterDied(String),
}

/// What came of a batch.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Complete,
    /// Not all of its specs ended, and why; others may still run on this cluster.
    Short(String),
    /// Nothing more is to run, and why.
    Stop(String),
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
/// An error is one of this program; what the suite did is kept nevertheless.
pub(crate) fn run(world: &dyn World, batch: &Batch, times: Times, keep: Keep) -> anyhow::Result<Verdict> {
    if batch.names.is_empty() {
        return Ok(Verdict::Complete);
    }
    fs::create_dir_all(&batch.folder).with_context(|| batch.folder.display().to_string())?;
    let log = batch.folder.join("suite.log");
    let mut running = Running {
        child: start(world.command(batch), &log)?,
        finished: false,
        log: File::open(&log).context("follow the suite's log")?,
        stream: Stream::of(&batch.names),
        batch,
        times,
        started: Instant::now(),
        heard: Instant::now(),
        printed: Instant::now(),
        done: BTreeSet::new(),
        failed: 0,
    };
    progress(&format!("{}: {} specs, {} at once", batch.what, batch.names.len(), batch.processes));
    let over = running.follow(world, keep)?;
    running.line();
    let told = report(&batch.folder);
    for (name, ended) in told.ended.iter().filter(|(name, _)| batch.names.contains(*name)) {
        // Of a dead cluster a spec only tells again what it told while the cluster lived.
        if !matches!(over, Over::ClusterDied(_)) || running.done.contains(name) {
            keep(name, ended.clone())?;
            running.done.insert(name.clone());
        }
    }
    if over == Over::Hung {
        // What a suite hangs in would hang the next run too.
        let message = format!("no spec ended for {} s, then the suite was ended", times.silence.as_secs());
        for name in told.cut_short.iter().filter(|name| batch.names.contains(*name)) {
            let seconds = times.silence.as_secs_f64();
            keep(name, Ended { outcome: Outcome::Failed, message: message.clone(), seconds })?;
        }
    }
    Ok(verdict(over, batch, &running.done, &told))
}

fn verdict(over: Over, batch: &Batch, done: &BTreeSet<String>, told: &Told) -> Verdict {
    let left = batch.names.difference(done).count();
    let (what, log) = (batch.what, batch.folder.join("suite.log"));
    match over {
        Over::Interrupted => Verdict::Stop("interrupted; the next run goes on from here".into()),
        Over::OutOfTime => {
            Verdict::Stop(format!("out of time, {left} specs left; the next run goes on from here"))
        }
        Over::ClusterDied(dead) => Verdict::Stop(format!(
            "the cluster died, {left} specs left; what ended after that is not kept, and the next run goes on from \
             here\n{dead}"
        )),
        Over::Hung => Verdict::Short(format!(
            "{what}: the suite hung and was ended, {left} specs left; the next run goes on from here"
        )),
        Over::ByItself if left > 0 => Verdict::Short(format!(
            "{what}: the suite ended without {left} of its specs; its log is {}\n{}",
            log.display(),
            told.complaints.join("\n")
        )),
        Over::ByItself => Verdict::Complete,
    }
}

impl World for Cluster {
    fn command(&self, batch: &Batch) -> Command {
        let tools = tool("CORACLE_UPSTREAM");
        let mut command = self.client(&tools.join("ginkgo"));
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
        command.arg(format!("--kubeconfig={}", self.kubeconfig().display()));
        command.arg(format!("--kubectl-path={}", tools.join("kubectl").display()));
        command.arg(format!("--report-dir={}", batch.folder.display()));
        command.env("HOME", &batch.folder);
        command
    }

    fn dead(&self) -> Option<String> {
        self.dead().map(|dead| dead.to_string())
    }

    fn interrupted(&self) -> bool {
        interrupt::check().is_err()
    }
}

fn start(mut command: Command, log: &Path) -> anyhow::Result<Child> {
    let log = File::create(log)?;
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

/// A complaint in it says why there is none.
fn report(folder: &Path) -> Told {
    let read = fs::read_to_string(folder.join("ginkgo/report.json")).context("read ginkgo's report");
    read.and_then(|text| ginkgo_report::read(&text))
        .unwrap_or_else(|error| Told { complaints: vec![format!("{error:#}")], ..Told::default() })
}

/// A suite that runs. It ends with this.
struct Running<'a> {
    child: Child,
    /// Waited for, and all that it started is gone.
    finished: bool,
    /// What it prints, from where it was not read yet.
    log: File,
    stream: Stream<'a>,
    batch: &'a Batch,
    times: Times,
    started: Instant,
    heard: Instant,
    printed: Instant,
    done: BTreeSet<String>,
    failed: usize,
}

impl Running<'_> {
    fn follow(&mut self, world: &dyn World, keep: Keep) -> anyhow::Result<Over> {
        loop {
            // Asked before its log is read: what it said last is read too.
            let ended = has_ended(&self.child);
            if let Some(over) = self.listen(world, keep)? {
                self.end();
                return Ok(over);
            }
            if self.printed.elapsed() > EVERY {
                self.line();
            }
            let Some(over) = self.over(ended, world.interrupted(), Instant::now()) else {
                thread::sleep(self.times.tick);
                continue;
            };
            self.end();
            // What ended while it was asked to.
            return Ok(self.listen(world, keep)?.unwrap_or(over));
        }
    }

    fn over(&self, ended: bool, interrupted: bool, now: Instant) -> Option<Over> {
        if interrupted {
            Some(Over::Interrupted)
        } else if self.times.deadline.is_some_and(|deadline| now > deadline) {
            Some(Over::OutOfTime)
        } else if now.duration_since(self.heard) > self.times.silence {
            Some(Over::Hung)
        } else {
            ended.then_some(Over::ByItself)
        }
    }

    /// Takes what the log says since it was read last, unless the cluster has died.
    fn listen(&mut self, world: &dyn World, keep: Keep) -> anyhow::Result<Option<Over>> {
        let mut more = Vec::new();
        self.log.read_to_end(&mut more).context("follow the suite's log")?;
        // Asked after the log was read: what a death brought about was written after it.
        if let Some(dead) = world.dead() {
            return Ok(Some(Over::ClusterDied(dead)));
        }
        for event in self.stream.on(&more) {
            self.on(event, keep)?;
        }
        Ok(None)
    }

    fn on(&mut self, event: Event, keep: Keep) -> anyhow::Result<()> {
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
    /// Whatever they do, nothing of the group is left.
    fn end(&mut self) {
        let group = Pid::from_raw(-self.child.id().cast_signed());
        for _ in 0..3 {
            if has_ended(&self.child) {
                break;
            }
            progress("asking the suite to end");
            kill(group, Signal::SIGINT).ok();
            let until = Instant::now() + self.times.grace;
            while !has_ended(&self.child) && Instant::now() < until {
                thread::sleep(self.times.tick);
            }
        }
        // Before it is waited for, after which the group's number may be somebody else's.
        kill(group, Signal::SIGKILL).ok();
        drop(self.child.wait());
        self.finished = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use regex_lite::Regex;

    use super::*;

    const PASSED: &str = "\u{2022} [1.0 seconds]\n[sig-a] one\n";
    const LONG: Duration = Duration::from_secs(60);
    /// In which a shell begins on a busy machine.
    const SHORT: Duration = Duration::from_secs(3);

    /// A shell script instead of ginkgo, in the batch's folder. By the files `dead` and `interrupted` it says what happened.
    struct Scripted {
        script: &'static str,
        folder: tempfile::TempDir,
    }

    impl World for Scripted {
        fn command(&self, batch: &Batch) -> Command {
            // A shell cannot trap what it was started to ignore.
            let mut command = Command::new("env");
            command.args(["--default-signal=INT", "sh", "-c", self.script]).current_dir(&batch.folder);
            command.env("PASSED", PASSED).env("FAILED", "\u{2022} [FAILED] [1.0 seconds]\n[sig-a] two\n");
            command.env("REPORT", report_of(&[("one", "passed"), ("two", "failed")]));
            command.env("CUT_SHORT", report_of(&[("one", "passed"), ("two", "interrupted")]));
            command
        }

        fn dead(&self) -> Option<String> {
            self.folder.path().join("dead").exists().then(|| "etcd has ended".to_string())
        }

        fn interrupted(&self) -> bool {
            self.folder.path().join("interrupted").exists()
        }
    }

    fn report_of(specs: &[(&str, &str)]) -> String {
        let specs = specs.iter().map(|(name, state)| {
            format!(
                r#"{{"ContainerHierarchyTexts": ["[sig-a]"], "LeafNodeType": "It", "LeafNodeText": "{name}",
                    "State": "{state}", "StartTime": "2026-01-31T01:02:03Z", "Failure": {{"Message": "why\nat length"}}}}"#
            )
        });
        format!(r#"[{{"SpecReports": [{}]}}]"#, specs.collect::<Vec<_>>().join(","))
    }

    fn world(script: &'static str) -> Scripted {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("ginkgo")).unwrap();
        Scripted { script, folder }
    }

    fn times() -> Times {
        Times { deadline: None, silence: LONG, grace: LONG, tick: Duration::from_millis(5) }
    }

    /// What came of the specs one and two, and what was kept.
    fn ran(world: &Scripted, times: Times) -> (Verdict, Vec<(String, Outcome, String)>) {
        let batch = Batch { folder: world.folder.path().into(), ..batch(&["[sig-a] one", "[sig-a] two"]) };
        let mut kept = Vec::new();
        let verdict = run(world, &batch, times, &mut |name, ended| {
            // For a script that goes on once the first spec was heard of; a second time there is one.
            symlink("x", world.folder.path().join("heard")).ok();
            kept.push((name.to_string(), ended.outcome, ended.message));
            Ok(())
        });
        (verdict.unwrap(), kept)
    }

    fn one() -> (String, Outcome, String) {
        ("[sig-a] one".into(), Outcome::Passed, String::new())
    }

    fn why(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Complete => "",
            Verdict::Short(why) | Verdict::Stop(why) => why,
        }
    }

    #[test]
    fn a_suite_is_heard_as_it_runs_and_again_with_messages() {
        let world =
            world("printf %s \"$PASSED\" \"$FAILED\"; printf %s \"$REPORT\" >ginkgo/report.json; exit 1");
        let (verdict, kept) = ran(&world, times());
        assert_eq!(verdict, Verdict::Complete);
        assert_eq!(kept[0], one());
        assert_eq!(kept.last().unwrap(), &("[sig-a] two".into(), Outcome::Failed, "why\nat length".into()));
    }

    #[test]
    fn a_suite_that_hangs_is_ended_and_what_hung_has_failed() {
        let world = world(
            "trap 'printf %s \"$CUT_SHORT\" >ginkgo/report.json; exit 1' INT; printf %s \"$PASSED\"; sleep 60 & wait",
        );
        let (verdict, kept) = ran(&world, Times { silence: SHORT, ..times() });
        assert!(matches!(&verdict, Verdict::Short(why) if why.contains("hung")), "{verdict:?}");
        let (name, outcome, message) = kept.last().unwrap();
        assert_eq!((name.as_str(), *outcome), ("[sig-a] two", Outcome::Failed));
        assert!(message.contains("no spec ended"), "{message}");
    }

    #[test]
    fn out_of_time_a_suite_that_does_not_listen_is_killed_and_what_it_did_is_kept() {
        let world = world("trap '' INT; printf %s \"$PASSED\"; while :; do sleep 60; done");
        let deadline = Some(Instant::now() + SHORT);
        let (verdict, kept) = ran(&world, Times { deadline, grace: Duration::from_millis(200), ..times() });
        assert!(
            matches!(&verdict, Verdict::Stop(why) if why.contains("out of time, 1 specs")),
            "{verdict:?}"
        );
        assert_eq!(kept, [one()]);
    }

    #[test]
    fn what_fails_after_the_cluster_has_died_is_not_kept() {
        let world = world(
            "printf %s \"$PASSED\"; until [ -h heard ]; do sleep 0.01; done; touch dead; printf %s \"$FAILED\"
             printf %s \"$REPORT\" >ginkgo/report.json; sleep 60",
        );
        let (verdict, kept) = ran(&world, times());
        assert!(matches!(&verdict, Verdict::Stop(why) if why.contains("etcd has ended")), "{verdict:?}");
        assert!(
            kept.iter()
                .all(|(name, outcome, _)| (name.as_str(), *outcome) == ("[sig-a] one", Outcome::Passed))
        );
        assert!(!kept.is_empty());
    }

    #[test]
    fn without_a_report_the_log_tells() {
        let complete = world("printf %s \"$PASSED\" \"$FAILED\"");
        assert_eq!(ran(&complete, times()).0, Verdict::Complete);
        let short = world("printf %s \"$PASSED\"");
        let (verdict, kept) = ran(&short, times());
        assert!(
            matches!(&verdict, Verdict::Short(why) if why.contains("read ginkgo's report")),
            "{verdict:?}"
        );
        assert_eq!(kept, [one()]);
    }

    #[test]
    fn what_ends_while_the_suite_is_asked_to_end_is_kept() {
        let world = world("trap 'printf %s \"$PASSED\"; exit 1' INT; touch interrupted; sleep 60 & wait");
        let (verdict, kept) = ran(&world, times());
        assert!(matches!(&verdict, Verdict::Stop(why) if why.contains("interrupted")), "{verdict:?}");
        assert_eq!(kept, [one()]);
    }

    #[test]
    fn nothing_of_a_suite_that_ended_is_left() {
        let world = world("sleep 60 & echo $! >child; printf %s \"$PASSED\" \"$FAILED\"");
        assert_eq!(ran(&world, times()).0, Verdict::Complete);
        let child = fs::read_to_string(world.folder.path().join("child")).unwrap();
        let until = Instant::now() + LONG;
        // A zombie has no command line.
        while fs::read(format!("/proc/{}/cmdline", child.trim())).is_ok_and(|line| !line.is_empty()) {
            assert!(Instant::now() < until, "process {child} lives");
            thread::sleep(Duration::from_millis(5));
        }
    }

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
        assert_eq!(verdict(Over::ByItself, &batch, &batch.names, &told), Verdict::Complete);
        let told_why = Told { complaints: vec!["no nodes".into()], ..Told::default() };
        let short = verdict(Over::ByItself, &batch, &none, &told_why);
        assert!(
            why(&short).contains("without 2 of its specs") && why(&short).contains("no nodes"),
            "{short:?}"
        );
        for over in [Over::Hung, Over::OutOfTime, Over::Interrupted, Over::ClusterDied("etcd".into())] {
            let verdict = verdict(over, &batch, &none, &told);
            assert!(why(&verdict).contains("the next run goes on"), "{verdict:?}");
        }
    }
}
