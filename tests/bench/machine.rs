//! What was measured, and on what: enough to read the numbers, nothing that tells whose machine it was.

use std::{fs, process::Command, thread};

use anyhow::{Context, anyhow, ensure};
use jiff::Timestamp;

use crate::report::results::Run;

pub(crate) fn describe() -> anyhow::Result<Run> {
    Ok(Run {
        commit: commit()?,
        date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
        cores: thread::available_parallelism()?.get(),
        memory_gb: memory_gb()?,
        kernel: number(&fs::read_to_string("/proc/sys/kernel/osrelease")?),
        containerd: containerd()?,
    })
}

/// Says so when the sources are not those of the commit.
fn commit() -> anyhow::Result<String> {
    let hash = said(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]))?;
    let changed = ["Cargo.lock", "Cargo.toml", "deploy", "proto", "src"];
    let changes = said(Command::new("git").args(["status", "--porcelain", "--"]).args(changed))?;
    Ok(if changes.is_empty() { hash } else { format!("{hash} with changes") })
}

fn memory_gb() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes: f64 = total
        .and_then(|total| total.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or_else(|| anyhow!("/proc/meminfo names no MemTotal"))?;
    // What the kernel keeps for itself is missing from its total; a machine of 24 GB should read as one.
    Ok((kibibytes / f64::from(1 << 20)).round() as u64)
}

fn containerd() -> anyhow::Result<String> {
    let words = said(Command::new("containerd").arg("--version"))?;
    let version = words.split_whitespace().nth(2).ok_or_else(|| anyhow!("containerd says {words:?}"))?;
    Ok(number(version.trim_start_matches('v')))
}

/// `6.1.0` of `6.1.0-18-cloud-amd64`.
fn number(text: &str) -> String {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_string()
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
