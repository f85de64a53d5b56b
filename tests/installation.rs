//! What puts Coracle on a machine: systemd's own check of the units, and what the installer refuses before it touches anything.
//!
//! That a machine which it installed works is shown on real ones, by `make vm-test`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const UNITS: [&str; 3] = ["coracle.service", "coracle-server.service", "coracle-node.service"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn unit(name: &str) -> String {
    fs::read_to_string(repository("systemd").join(name)).unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]);
    for name in UNITS {
        // The program need not be installed where the test runs.
        let here = unit(name).replace("/usr/local/bin/coracle", "/bin/true");
        let file = dir.path().join(name);
        fs::write(&file, here).unwrap();
        command.arg(file);
    }
    let output = command.output().expect("systemd-analyze, from Debian's package systemd");
    // An unknown directive is only a line of output, with exit code 0.
    assert_eq!((output.status.success(), text(&output).as_str()), (true, ""));
}

#[test]
fn the_vagrantfile_is_valid() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("vagrant");
    // None of its providers need be there.
    command.args(["validate", "--ignore-provider"]).current_dir(repository(""));
    command.env("HOME", home.path()).env("VAGRANT_DOTFILE_PATH", home.path().join("dot"));
    let output = command.output().expect("vagrant, from Debian's package of that name");
    assert!(output.status.success(), "{}", text(&output));
}

/// What a line of bash says that knows a host's two places, and reads `input`.
fn places(state: &str, line: &str, input: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    fs::write(&file, input).unwrap();
    let mut command = Command::new("bash");
    command.args([
        "-euo",
        "pipefail",
        "-c",
        &format!("state=$1 run=/run/c; . deploy/places.sh; {line}"),
        "bash",
        state,
    ]);
    command.current_dir(repository("")).stdin(fs::File::open(file).unwrap()).output().unwrap()
}

#[test]
fn every_mount_below_the_two_places_is_known_by_its_own_name() {
    let input = r"a /s/c ext4 rw 0 0
a /s/c/pods/a\040b\134c ext4 rw 0 0
a /s/c/pods ext4 rw 0 0
a /s/cc/pods ext4 rw 0 0
a /run/c/netns/x nsfs rw 0 0
";
    let found = places("/s/c", "mounts", input);
    assert_eq!(text(&found), "/s/c/pods/a b\\c\0/s/c/pods\0/run/c/netns/x\0");
}

#[test]
fn nothing_is_removed_through_a_mount() {
    // Of whatever is mounted here.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let (state, _) =
        points.filter_map(|point| point.rsplit_once('/')).find(|(above, _)| !above.is_empty()).unwrap();
    let refused = places(state, "refuse_mounts; echo removed", "");
    assert!(
        !refused.status.success() && text(&refused).contains(&format!("\n{state}/")),
        "{}",
        text(&refused)
    );
    assert!(!text(&refused).contains("removed\n"), "{}", text(&refused));
    assert_eq!(text(&places("/nowhere", "refuse_mounts; echo removed", "")), "removed\n");
}

#[test]
fn pods_outlive_the_service_and_a_hung_process_does_not() {
    for name in UNITS {
        let unit = unit(name);
        for line in [
            "Type=notify",
            "KillMode=process",
            "Delegate=yes",
            "Restart=always",
            "RestartPreventExitStatus=2",
        ] {
            assert!(unit.lines().any(|it| it == line), "{name}: {line}");
        }
        assert!(unit.contains("\nWatchdogSec="), "{name}");
    }
}

#[test]
fn units_that_mount_volumes_share_the_machines_mounts() {
    for name in ["coracle.service", "coracle-node.service"] {
        for line in unit(name).lines() {
            let directive = line.split('=').next().unwrap();
            let own_mounts = [
                "ProtectSystem",
                "ProtectHome",
                "PrivateTmp",
                "PrivateDevices",
                "PrivateMounts",
                "ReadWritePaths",
            ];
            assert!(!own_mounts.contains(&directive), "{name}: {line}");
        }
    }
}

#[test]
fn the_installer_says_what_is_wrong_with_its_arguments_and_changes_nothing() {
    let cases: [(&[&str], &str); 4] = [
        (&[], "say which role: up, server or node"),
        (&["agent"], "agent is not known"),
        (&["up", "--binary"], "--binary needs a value"),
        (&["node", "--frobnicate"], "--frobnicate is not known"),
    ];
    for (arguments, words) in cases {
        let output = Command::new(repository("deploy/install.sh")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output).contains(words) && text(&output).contains("usage:"), "{}", text(&output));
    }
    let output = Command::new(repository("deploy/uninstall.sh")).arg("--all").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
