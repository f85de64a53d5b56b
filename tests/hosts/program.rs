//! One program of a host: how it is started, whether it lives, and how it is ended.

use std::{
    env, fmt,
    fs::{self, File},
    io::{Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::hosts::interrupt::{self, say};

/// What a program gets to end in once it was asked; then what the kernel gets once it was killed.
const GRACE: Duration = Duration::from_secs(20);
const KILLED: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// A process that ends with this.
pub(crate) struct Started {
    name: String,
    child: Child,
    log: PathBuf,
    /// As its log is called where all of them are kept.
    kept: Option<String>,
    /// Whether it leads a group of its own.
    leads: bool,
}

/// A program that ended by itself, though it should live.
#[derive(Debug)]
pub(crate) struct Dead {
    name: String,
    log_tail: String,
}

impl Dead {
    pub(super) fn new(name: String, log: &Path) -> Self {
        Self { name, log_tail: tail(log) }
    }
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has ended; its log ends with:\n{}", self.name, self.log_tail)
    }
}

impl Started {
    pub(super) fn new(name: String, mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // Where somebody listens for Ctrl-C, only that one hears of it, and ends this in its turn. Where nobody does,
        // the program has to hear of it itself: it would be left behind.
        let leads = interrupt::listens();
        if leads {
            command.process_group(0);
        }
        Self { name, child: command.spawn().unwrap(), log, kept: None, leads }
    }

    pub(super) fn keep_log_as(&mut self, name: String) {
        self.kept = Some(name);
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its log, for a failure's message.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Itself, if it has ended.
    pub(crate) fn dead(&self) -> Option<Dead> {
        has_ended(&self.child).then(|| Dead::new(self.name.clone(), &self.log))
    }

    /// Ends it as a power cut would.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Started {
    /// Ends it as a service manager would.
    fn drop(&mut self) {
        if !has_ended(&self.child) {
            kill(pid(&self.child), Signal::SIGTERM).ok();
        }
        if !ends_within(GRACE, &self.child) {
            say(&format!("{} did not end within {GRACE:?} and is killed", self.name));
        }
        reap(&mut self.child, self.leads);
        if let (Ok(directory), Some(name)) = (env::var("CORACLE_KEEP_LOGS"), &self.kept) {
            drop(fs::copy(&self.log, Path::new(&directory).join(name)));
        }
    }
}

/// Whether a child has ended. It is not waited for: until it is, its number and its group's are nobody else's.
pub(crate) fn has_ended(child: &Child) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // An error says that it was waited for already.
    !matches!(waitid(Id::Pid(pid(child)), look), Ok(WaitStatus::StillAlive))
}

/// Runs a command to its end, or ends it with everything that it started. An error says what it complained of.
pub(super) fn within(limit: Duration, mut command: Command) -> Result<(), String> {
    // A file, since nobody reads a pipe meanwhile, and what it leaves running would keep one open.
    let mut said = tempfile::tempfile().ok();
    let [out, err] = [0; 2].map(|_| {
        let file = said.as_ref().and_then(|file| file.try_clone().ok());
        file.map_or_else(Stdio::null, Stdio::from)
    });
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let status = if ends_within(limit, &child) {
        child.wait().map_err(|error| error.to_string())
    } else {
        reap(&mut child, true);
        Err(format!("did not end within {limit:?}"))
    };
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(why) => why,
    };
    let mut text = Vec::new();
    if let Some(file) = &mut said {
        file.rewind().and_then(|()| file.read_to_end(&mut text)).ok();
    }
    Err(format!("{command:?}: {why}: {}", String::from_utf8_lossy(&text)))
}

fn ends_within(limit: Duration, child: &Child) -> bool {
    let until = Instant::now() + limit;
    while !has_ended(child) {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(TICK);
    }
    true
}

/// Kills what is left of it, and waits for it unless the kernel holds it.
fn reap(child: &mut Child, leads: bool) {
    if leads {
        kill(Pid::from_raw(-child.id().cast_signed()), Signal::SIGKILL).ok();
    } else if !has_ended(child) {
        child.kill().ok();
    }
    if ends_within(KILLED, child) {
        drop(child.wait());
    } else {
        say(&format!("process {} cannot be killed; going on without it", child.id()));
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(script: &str, folder: &Path) -> Started {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Started::new("a program".into(), command, folder.join("log"))
    }

    #[test]
    fn a_program_that_ended_is_dead_and_shows_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let lives = started("exec sleep 60", folder.path());
        assert!(lives.dead().is_none());
        let ends = started("echo last words; exit 3", folder.path());
        assert!(ends_within(GRACE, &ends.child));
        for _ in 0..2 {
            let text = ends.dead().unwrap().to_string();
            assert!(text.contains("a program has ended") && text.contains("last words"), "{text}");
        }
    }

    #[test]
    fn a_command_that_does_not_end_is_ended_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo said; sleep 60 & wait"]);
        let began = Instant::now();
        let complaint = within(Duration::from_secs(2), command).unwrap_err();
        assert!(complaint.contains("did not end within") && complaint.contains("said"), "{complaint}");
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(within(GRACE, Command::new("true")), Ok(()));
    }
}
