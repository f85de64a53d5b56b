//! Which cgroups this kernel has mounted: v1 with a tree per controller, or v2 with one for all.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// The mounted trees, each with the controllers that it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    /// By the directory of the tree.
    pub trees: BTreeMap<PathBuf, Vec<String>>,
}

impl Hierarchy {
    /// What is mounted at `root`, normally `/sys/fs/cgroup`. A hybrid host, with v2 beside v1, counts as v1: the
    /// controllers are there.
    pub fn detect(root: &Path) -> io::Result<Hierarchy> {
        if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
            let controllers = controllers.split_whitespace().map(String::from).collect();
            return Ok(Hierarchy {
                version: Version::V2,
                trees: BTreeMap::from([(root.into(), controllers)]),
            });
        }
        let mut trees: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if !entry.path().join("cgroup.procs").exists() {
                continue;
            }
            // `cpu` and `cpuacct` may be links to one tree that serves both.
            let tree = fs::canonicalize(entry.path())?;
            let names = entry.file_name().to_string_lossy().into_owned();
            let controllers = trees.entry(tree).or_default();
            for name in names.split(',') {
                if !controllers.iter().any(|it| it == name) {
                    controllers.push(name.into());
                }
            }
        }
        if trees.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no cgroups are mounted at {}", root.display()),
            ));
        }
        Ok(Hierarchy { version: Version::V1, trees })
    }

    pub fn serving(&self, controller: &str) -> Option<&Path> {
        let serves = |controllers: &[String]| controllers.iter().any(|it| it == controller);
        self.trees.iter().find(|(_, controllers)| serves(controllers)).map(|(tree, _)| tree.as_path())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_controller_that_shares_its_tree_is_found_under_each_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for tree in ["cpu,cpuacct", "memory", "unified"] {
            fs::create_dir(root.join(tree)).unwrap();
            fs::write(root.join(tree).join("cgroup.procs"), "").unwrap();
        }
        symlink("cpu,cpuacct", root.join("cpu")).unwrap();
        fs::create_dir(root.join("not-mounted")).unwrap();
        let found = Hierarchy::detect(&root).unwrap();
        assert_eq!(found.version, Version::V1);
        assert_eq!(found.trees.len(), 3);
        assert_eq!(found.serving("cpuacct"), Some(root.join("cpu,cpuacct").as_path()));
        assert_eq!(found.serving("pids"), None);
    }

    #[test]
    fn a_unified_tree_serves_what_it_lists() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let found = Hierarchy::detect(dir.path()).unwrap();
        assert_eq!(found.version, Version::V2);
        assert_eq!(found.serving("memory"), Some(dir.path()));
    }
}
