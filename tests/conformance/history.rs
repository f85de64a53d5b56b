//! What git knows of a file: every line that it ever had, in whichever branch.

use std::{path::Path, process::Command};

use anyhow::{Context, ensure};

/// All changes of a file, as `git log -p` tells them. `folder` is the file's.
pub(crate) fn of(folder: &Path, file: &str) -> anyhow::Result<String> {
    let shallow = git(folder, &["rev-parse", "--is-shallow-repository"])?;
    ensure!(
        shallow.trim() == "false",
        "this clone has only the latest commits, and a name may have been lost before them: fetch the whole history \
         (git fetch --unshallow)"
    );
    // Of merges too, against each parent: one that kept only its own side has lost what the other had added.
    let log = ["log", "--full-history", "-m", "-p", "--unified=0", "--no-color", "--no-ext-diff"];
    git(folder, &[&log[..], &["--no-renames", "--text", "--format=commit %h", "--", file]].concat())
}

fn git(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .current_dir(folder)
        // A hook's, which would be another repository's.
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .args(arguments)
        .output()
        .context("run git")?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("git tells no text")
}

mod tests {
    use std::fs;

    use super::*;
    use crate::ratchet::{lost, names};

    struct Repository(tempfile::TempDir);

    impl Repository {
        fn new() -> Self {
            let repository = Self(tempfile::tempdir().unwrap());
            repository.git(&["init", "-q", "-b", "main"]);
            repository.git(&["config", "user.name", "x"]);
            repository.git(&["config", "user.email", "x@example.com"]);
            repository.git(&["config", "commit.gpgsign", "false"]);
            repository
        }

        fn git(&self, arguments: &[&str]) -> String {
            git(self.0.path(), arguments).unwrap()
        }

        fn commit(&self, file: &str, text: &str) {
            fs::write(self.0.path().join(file), text).unwrap();
            self.git(&["add", file]);
            self.git(&["commit", "-q", "-m", "x"]);
        }

        fn lost(&self) -> Vec<String> {
            let now = names(&fs::read_to_string(self.0.path().join("passing.txt")).unwrap());
            lost(&of(self.0.path(), "passing.txt").unwrap(), &now).into_iter().collect()
        }
    }

    #[test]
    fn a_name_that_was_taken_away_is_missed() {
        let repository = Repository::new();
        repository.commit("passing.txt", "[sig-a] one\n[sig-a] two\n");
        repository.commit("passing.txt", "[sig-a] one\n[sig-a] two\n[sig-a] three\n");
        assert!(repository.lost().is_empty());
        repository.commit("passing.txt", "[sig-a] one\n[sig-a] three\n");
        assert_eq!(repository.lost(), ["[sig-a] two"]);
    }

    #[test]
    fn a_name_that_a_merge_left_out_is_missed() {
        let repository = Repository::new();
        repository.commit("passing.txt", "[sig-a] one\n");
        repository.git(&["checkout", "-q", "-b", "side"]);
        repository.commit("passing.txt", "[sig-a] one\n[sig-a] two\n");
        repository.git(&["checkout", "-q", "main"]);
        repository.commit("other.txt", "");
        repository.git(&["merge", "-q", "-s", "ours", "--no-edit", "side"]);
        assert_eq!(repository.lost(), ["[sig-a] two"]);
    }

    #[test]
    fn a_name_that_came_by_a_merge_alone_is_missed() {
        let repository = Repository::new();
        repository.commit("passing.txt", "[sig-a] one\n");
        repository.git(&["checkout", "-q", "-b", "side"]);
        repository.commit("other.txt", "");
        repository.git(&["checkout", "-q", "main"]);
        repository.git(&["merge", "-q", "--no-ff", "--no-commit", "side"]);
        repository.commit("passing.txt", "[sig-a] one\n[sig-a] two\n");
        repository.commit("passing.txt", "[sig-a] one\n");
        assert_eq!(repository.lost(), ["[sig-a] two"]);
    }

    #[test]
    fn a_clone_without_its_history_is_refused() {
        let repository = Repository::new();
        repository.commit("passing.txt", "[sig-a] one\n[sig-a] two\n");
        repository.commit("passing.txt", "[sig-a] one\n");
        let clone = tempfile::tempdir().unwrap();
        let url = format!("file://{}", repository.0.path().display());
        git(clone.path(), &["clone", "-q", "--depth=1", &url, "."]).unwrap();
        let error = of(clone.path(), "passing.txt").unwrap_err().to_string();
        assert!(error.contains("fetch the whole history"), "{error}");
    }
}
