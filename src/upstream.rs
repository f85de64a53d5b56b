//! Called as `kubelet` or `kube-proxy`: one part of a node alone, told by upstream's flags and files.
#![expect(clippy::print_stdout, reason = "help and version are what was asked for")]

use std::{fs, path::Path, process::ExitCode};

use anyhow::bail;
use config::{
    Config, ConfigError,
    upstream::{self, Asked},
};

use lifecycle::Chain;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::{logging, stop_signal, wiring};

/// Which of upstream's programs this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Kubelet,
    KubeProxy,
}

impl Program {
    /// By the name that a process is called by (`argv[0]`).
    pub(crate) fn called(name: &str) -> Option<Self> {
        let name = Path::new(name).file_name()?;
        [Self::Kubelet, Self::KubeProxy].into_iter().find(|program| name == program.name())
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
        }
    }

    fn asked(self, arguments: &[String]) -> Result<Asked, ConfigError> {
        let read = |path: &Path| fs::read_to_string(path);
        match self {
            Self::Kubelet => upstream::kubelet(arguments, read),
            Self::KubeProxy => upstream::kube_proxy(arguments, read),
        }
    }
}

/// Does what the arguments ask for.
///
/// # Errors
/// What is wrong with them, or why it cannot run.
pub(crate) async fn run(program: Program, arguments: &[String]) -> anyhow::Result<ExitCode> {
    match program.asked(arguments)? {
        Asked::Help(text) => print!("{text}"),
        // kubeadm reads the version out of this line.
        Asked::Version => println!("Kubernetes {}", kubelet::node::VERSION),
        Asked::CleanUp(config) => {
            let failed = proxy::cleanup(config.network.node_ports).await;
            for error in &failed {
                println!("FAILED  {}", Chain(error));
            }
            if !failed.is_empty() {
                bail!("some rules of Services stay: mend what is named above and run it again");
            }
            println!("removed the rules of Services");
        }
        Asked::Run(config) => start(program, *config).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(program: Program, config: Config) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{} needs root: run it by sudo, or by its service manager", program.name());
    }
    logging::start(&config.logging)?;
    if let Some(told) = &config.upstream {
        if !told.ignored_flags.is_empty() {
            let flags = told.ignored_flags.join(", ");
            warn!(flags, "as in upstream's own, --config takes the place of these flags: say it in the file");
        }
        if !told.not_done.is_empty() {
            let fields = told.not_done.join(", ");
            warn!(fields, "accepted, and not done yet: docs/upstream.md says what happens instead");
        }
    }
    if let Err(error) = allow_open_files() {
        warn!(error = &error as &dyn std::error::Error, "the limit of open files stays as it was");
    }
    match program {
        Program::Kubelet => wiring::node(config, stop_signal()?).await,
        Program::KubeProxy => wiring::proxy(config, stop_signal()?).await,
    }
}

/// Upstream's units set no limit of open files, since its programs raise their own: to a million, or as far as they may.
fn allow_open_files() -> nix::Result<()> {
    const WANTED: u64 = 1_000_000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let allowed = WANTED.min(hard);
    if allowed > soft { setrlimit(Resource::RLIMIT_NOFILE, allowed, hard) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_upstream_asks_for_or_the_machine_allows() {
        allow_open_files().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= hard.min(1_000_000), "{soft} of {hard}");
    }

    #[test]
    fn a_program_is_known_by_the_last_part_of_the_name_it_is_called_by() {
        assert_eq!(Program::called("/usr/bin/kubelet"), Some(Program::Kubelet));
        assert_eq!(Program::called("kube-proxy"), Some(Program::KubeProxy));
        assert_eq!(Program::called("/usr/bin/coracle"), None);
        assert_eq!(Program::called(""), None);
    }
}
