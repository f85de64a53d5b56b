//! What is measured, and when: the commit, and a fingerprint of the programs.

use std::{env, fs, process::Command};

use anyhow::{Context, anyhow, ensure};
use jiff::Timestamp;

use crate::{hosts::tool, measured::Build, repository, target::Target};

pub(crate) fn today() -> String {
    Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// A name for a folder that sorts by time.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string()
}

/// `CORACLE_COMMIT` says of which commit the binary is, with the words "with changes" where its sources were others.
pub(crate) fn build(target: Target) -> anyhow::Result<Build> {
    let commit = env::var("CORACLE_COMMIT").context("CORACLE_COMMIT; tests/conformance/run.sh sets it")?;
    // Nothing of ours is in it: its results outlive our commits.
    if target == Target::Upstream {
        let kubelet =
            fs::read_link(tool("CORACLE_UPSTREAM").join("kubelet")).context("which kubelet it is")?;
        return Ok(Build { commit, fingerprint: kubelet.display().to_string() });
    }
    let sum = said(Command::new("sha256sum").arg(tool("CORACLE_BIN")))?;
    let digest = sum.get(..16).ok_or_else(|| anyhow!("sha256sum says {sum:?}"))?;
    Ok(Build { commit, fingerprint: digest.to_string() })
}

/// Whether a commit is HEAD or one that it goes back to; one that nobody knows here is not.
pub(crate) fn is_behind_head(commit: &str) -> anyhow::Result<bool> {
    let output = Command::new("git")
        .current_dir(repository())
        .args(["merge-base", "--is-ancestor", commit, "HEAD"])
        .output()
        .context("run git merge-base")?;
    Ok(output.status.success())
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .current_dir(repository())
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_head_goes_back_to_is_behind_it() {
        assert!(is_behind_head("HEAD").unwrap());
        assert!(!is_behind_head("123456789012 with changes").unwrap());
        assert!(!is_behind_head("nobody's").unwrap());
    }
}
