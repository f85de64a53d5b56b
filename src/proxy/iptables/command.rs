//! The programs: which there are, which packet filter they speak to, and running them.

use std::{fmt, io, process::Stdio, time::Duration};

use netlink::nft::{CommitError, Family, Socket, TableName};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    names::is_proof,
    rules::{Restore, Saved, Table},
};

/// Thousands of rules take some seconds on a slow machine; a lock is waited for that long too.
const DEADLINE: Duration = Duration::from_secs(60);
/// What another holder of the legacy lock is given, in seconds. nf_tables needs no lock, and its program passes this over.
const LOCK_WAIT: &str = "10";
/// Exit status of a resource problem, of which the lock is one (iptables(8)).
const BUSY: i32 = 4;

/// Which of the kernel's packet filters a program speaks to. Each has rules that the other does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Nft,
    Legacy,
}

impl Flavour {
    fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    #[error(
        "there is no program {program}; install the package iptables, or configure another proxy.mode (nftables needs none)"
    )]
    Missing { program: String },
    #[error("run {program}")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("look for rules of Services in nf_tables")]
    Look(#[source] CommitError),
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} gave no result within {} s", .after.as_secs())]
    Silent { program: String, after: Duration },
    #[error(
        "the xtables lock was held by another program for {LOCK_WAIT} s ({program}: {said}); find it with `fuser /run/xtables.lock`"
    )]
    Busy { program: String, said: String },
    /// Nothing, or a part of it, was made.
    #[error("{program} failed: {said}{line}")]
    Refused {
        program: String,
        said: String,
        /// The refused line, where it was named.
        line: String,
    },
    #[error(
        "`{program}` speaks to the {used} packet filter, but rules of Services are in the {other} one too, where it does not see \
         them, and packets would meet both; take {other} with `update-alternatives --set {program} /usr/sbin/{program}-{other}`, \
         or remove all rules of Services with `coracle kube-proxy --cleanup` (pods stay)"
    )]
    Clash { program: &'static str, used: Flavour, other: Flavour },
}

impl IptablesError {
    /// Whether the rules are not what we believe them to be: writing all anew mends that.
    #[must_use]
    pub fn is_out_of_step(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// The programs of one family, in the flavour that the machine prefers or in a named one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tools {
    ipv6: bool,
    flavour: Option<Flavour>,
}

impl Tools {
    /// Without a flavour, those that the machine prefers.
    pub(super) fn of(ipv6: bool, flavour: Option<Flavour>) -> Self {
        Self { ipv6, flavour }
    }

    fn base(&self) -> &'static str {
        if self.ipv6 { "ip6tables" } else { "iptables" }
    }

    fn program(&self, what: &str) -> String {
        let flavour = self.flavour.map(|flavour| format!("-{flavour}")).unwrap_or_default();
        format!("{}{flavour}{what}", self.base())
    }

    /// Which packet filter they speak to. Before 1.8 there was but one, and nobody said so.
    async fn flavour(&self) -> Result<Flavour, IptablesError> {
        let said = self.run(&self.program(""), &["--version"], String::new()).await?;
        Ok(if said.contains("nf_tables") { Flavour::Nft } else { Flavour::Legacy })
    }

    /// What the kernel has of a Service proxy's.
    pub(super) async fn saved(&self) -> Result<Saved, IptablesError> {
        let text = self.run(&self.program("-save"), &[], String::new()).await?;
        Ok(Saved::parse(&text))
    }

    pub(super) async fn restore(&self, restore: &Restore) -> Result<(), IptablesError> {
        if restore.is_empty() {
            return Ok(());
        }
        let arguments = ["--noflush", "--wait", LOCK_WAIT];
        self.run(&self.program("-restore"), &arguments, restore.to_string()).await.map(drop)
    }

    /// Which packet filter they speak to, where the other one has no rules of Services.
    pub(super) async fn settle(&self) -> Result<Flavour, IptablesError> {
        let used = self.flavour().await?;
        let other = Self::of(self.ipv6, Some(used.other()));
        if other.has_ours(used.other()).await? {
            return Err(IptablesError::Clash { program: self.base(), used, other: used.other() });
        }
        Ok(used)
    }

    /// Removes what a Service proxy has in one of the packet filters. False where there was nothing.
    pub(super) async fn clear(ipv6: bool, flavour: Flavour) -> Result<bool, IptablesError> {
        let named = Self::of(ipv6, Some(flavour));
        if !named.has_ours(flavour).await? {
            return Ok(false);
        }
        let (tools, saved) = match named.saved().await {
            // Where there is but one flavour, its programs have the plain names.
            Err(IptablesError::Missing { .. }) => {
                let plain = Self::of(ipv6, None);
                let saved = plain.saved().await?;
                (plain, saved)
            }
            saved => (named, saved?),
        };
        tools.restore(&super::plan::plan_removal(&saved)).await?;
        Ok(!saved.is_empty())
    }

    /// Starts no program where there is nothing. What cannot be seen is not nothing.
    async fn has_ours(&self, flavour: Flavour) -> Result<bool, IptablesError> {
        match flavour {
            Flavour::Nft => match self.nft_has_ours().await {
                Err(error) if error.is_unsupported() => Ok(false),
                found => found.map_err(IptablesError::Look),
            },
            Flavour::Legacy if !has_lines(&self.legacy_tables())? => Ok(false),
            Flavour::Legacy => match self.saved().await {
                Ok(saved) => Ok(!saved.is_empty()),
                // Tables without a program that could have filled them, since the kernel's module was loaded.
                Err(IptablesError::Missing { .. }) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    async fn nft_has_ours(&self) -> Result<bool, CommitError> {
        let mut socket = Socket::open()?;
        let family = if self.ipv6 { Family::Ip6 } else { Family::Ip };
        for table in Table::ALL {
            let table = TableName { family, name: table.name().to_string() };
            if socket.chains(&table).await?.iter().any(|chain| is_proof(chain)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The file that names the tables of the legacy packet filter.
    fn legacy_tables(&self) -> String {
        // The thread's network namespace, not that of the process.
        let file = if self.ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
        format!("/proc/thread-self/net/{file}")
    }

    /// Runs a program and gives what it wrote.
    async fn run(&self, program: &str, arguments: &[&str], input: String) -> Result<String, IptablesError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => IptablesError::Missing { program: program.to_string() },
            _ => IptablesError::Run { program: program.to_string(), source },
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let (text, named) = (input.as_bytes(), program.to_string());
        let write = async move {
            if let Some(mut stdin) = stdin {
                // One that ends early says why by itself.
                drop(stdin.write_all(text).await);
            }
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = match tokio::time::timeout(DEADLINE, both).await {
            Ok(output) => output.map_err(failed)?,
            Err(_) => return Err(IptablesError::Silent { program: named, after: DEADLINE }),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(refusal(named, output.status.code(), said.trim(), &input))
    }
}

/// Whether there is anything in a file, which is not there where the kernel has nothing to name.
fn has_lines(path: &str) -> Result<bool, IptablesError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(!text.trim().is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(IptablesError::Read { path: path.to_string(), source }),
    }
}

fn refusal(program: String, code: Option<i32>, said: &str, input: &str) -> IptablesError {
    let shown: String = said.lines().take(3).collect::<Vec<_>>().join("; ").chars().take(300).collect();
    if code == Some(BUSY) && said.contains("lock") {
        return IptablesError::Busy { program, said: shown };
    }
    // "line 7 failed", or "Error occurred at line: 7".
    let number = said.split("line").nth(1).and_then(|rest| {
        let digits: String = rest.chars().skip_while(|c| !c.is_ascii_digit()).collect();
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    });
    let line = number
        .and_then(|number| input.lines().nth(number.checked_sub(1)?))
        .map(|line| format!(" (`{}`)", line.chars().take(200).collect::<String>()))
        .unwrap_or_default();
    IptablesError::Refused { program, said: shown, line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_line() {
        let input = "*nat\n-D KUBE-SERVICES -j X\nCOMMIT\n";
        let said = "iptables-restore: line 2 failed";
        let error = refusal("iptables-restore".into(), Some(1), said, input);
        assert_eq!(
            error.to_string(),
            "iptables-restore failed: iptables-restore: line 2 failed (`-D KUBE-SERVICES -j X`)"
        );
        assert!(error.is_out_of_step());
        let said = "Another app is currently holding the xtables lock";
        assert!(!refusal("iptables-restore".into(), Some(4), said, input).is_out_of_step());
    }

    #[test]
    fn what_cannot_be_read_is_not_nothing() {
        assert!(has_lines("/proc/self/status").unwrap());
        assert!(!has_lines("/proc/self/no-such-file").unwrap());
        let error = has_lines("/proc/self").expect_err("no file");
        assert!(matches!(error, IptablesError::Read { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told_with_what_helps() {
        let tools = Tools { ipv6: false, flavour: None };
        let error = tools.run("coracle-no-such-program", &[], String::new()).await.expect_err("not there");
        assert!(error.to_string().contains("install the package iptables"), "{error}");
    }
}
