//! Starts plugin binaries, and defines what the engine needs from it ([`Exec`]).

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process};

use super::{
    error::{CniError, Code},
    model::{Attachment, Command},
};

/// One call of one plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    /// The binary's name.
    pub plugin: String,
    pub command: Command,
    /// `None` for commands that are not about one container.
    pub attachment: Option<Attachment>,
    pub stdin: Value,
}

/// What the engine needs from the world: plugins.
pub trait Exec: Send + Sync {
    /// Runs a plugin to its end. What it printed, `Null` if nothing.
    fn run(&self, invocation: Invocation) -> impl Future<Output = Result<Value, CniError>> + Send;
}

/// Plugins as processes.
#[derive(Clone, Debug)]
pub struct Processes {
    /// Where the binaries are (`CNI_PATH`); the first that has one wins.
    pub dirs: Vec<PathBuf>,
    /// A plugin that runs longer is killed.
    pub deadline: Duration,
}

impl Exec for Processes {
    async fn run(&self, invocation: Invocation) -> Result<Value, CniError> {
        let name = invocation.plugin.as_str();
        let path =
            self.dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
                let dirs: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
                CniError::new(
                    Code::INVALID_CONFIG,
                    format!("failed to find plugin {name:?} in path [{}]", dirs.join(" ")),
                )
            })?;
        let failed = |what: &str, error: &std::io::Error| {
            CniError::caused(Code::IO_FAILURE, format!("plugin {name}: {what}"), error)
        };
        let mut command = process::Command::new(path);
        self.environment(&invocation, &mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start", &error))?;
        let mut stdin = child.stdin.take();
        let input = invocation.stdin.to_string();
        let conversation = async {
            if let Some(stdin) = stdin.as_mut() {
                // A plugin may end without reading; what it then says counts.
                drop(stdin.write_all(input.as_bytes()).await);
            }
            drop(stdin);
            child.wait_with_output().await
        };
        // Giving up drops the child, which kills it.
        let output = tokio::time::timeout(self.deadline, conversation)
            .await
            .map_err(|_| {
                let seconds = self.deadline.as_secs();
                CniError::new(Code::TRY_AGAIN_LATER, format!("plugin {name}: killed after {seconds} s"))
            })?
            .map_err(|error| failed("wait for", &error))?;
        answer(name, output.status.success(), &output.stdout, &output.stderr)
    }
}

impl Processes {
    fn environment(&self, invocation: &Invocation, command: &mut process::Command) {
        let path = std::env::join_paths(&self.dirs).unwrap_or_default();
        command.env("CNI_COMMAND", invocation.command.as_str()).env("CNI_PATH", path);
        match &invocation.attachment {
            Some(attachment) => command
                .env("CNI_CONTAINERID", &attachment.id.container_id)
                .env("CNI_IFNAME", &attachment.id.ifname)
                .env("CNI_NETNS", &attachment.netns)
                .env("CNI_ARGS", &attachment.args),
            None => command
                .env_remove("CNI_CONTAINERID")
                .env_remove("CNI_IFNAME")
                .env_remove("CNI_NETNS")
                .env_remove("CNI_ARGS"),
        };
    }
}

/// What a plugin said, by its exit status and output.
fn answer(plugin: &str, success: bool, stdout: &[u8], stderr: &[u8]) -> Result<Value, CniError> {
    if success {
        if stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        return serde_json::from_slice(stdout).map_err(|error| {
            CniError::caused(
                Code::DECODING_FAILURE,
                format!("plugin {plugin}: its answer does not parse"),
                &error,
            )
        });
    }
    if let Ok(error) = serde_json::from_slice::<CniError>(stdout) {
        return Err(CniError { msg: format!("plugin {plugin}: {}", error.msg), ..error });
    }
    let said = if stdout.is_empty() { stderr } else { stdout };
    let mut error = CniError::new(Code::INTERNAL, format!("plugin {plugin} failed"));
    error.details = String::from_utf8_lossy(&said[..said.len().min(4096)]).trim().to_string();
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_plugin_is_quoted() {
        let error = answer("x", false, br#"{"cniVersion":"1.0.0","code":103,"msg":"no","details":"d"}"#, b"")
            .unwrap_err();
        assert_eq!(error.to_string(), "plugin x: no: d (code 103)");
        assert_eq!(answer("x", false, b"", b"panic: oh\n").unwrap_err().details, "panic: oh");
    }

    #[tokio::test]
    async fn a_hanging_plugin_is_killed_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", pid_file.display());
        let path = dir.path().join("hang");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let exec = Processes { dirs: vec![dir.path().to_path_buf()], deadline: Duration::from_millis(400) };
        let invocation = Invocation {
            plugin: "hang".into(),
            command: Command::Status,
            attachment: None,
            stdin: Value::Null,
        };
        let error = exec.run(invocation).await.unwrap_err();
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let gone = async {
            // The runtime reaps what it killed.
            while std::path::Path::new(&format!("/proc/{pid}")).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    }
}
