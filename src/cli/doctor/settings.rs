//! Judges how the machine is set: kernel modules, sysctls, who owns the cgroup tree, the clock, rules of others.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use super::plan::{Outcome, broken, warning, well};

/// How the machine is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Modules that this kernel has neither built in, nor loaded, nor to load.
    pub modules_missing: Vec<&'static str>,
    /// A value for each of [`SYSCTLS`] that this kernel has.
    pub sysctls: BTreeMap<&'static str, u64>,
    /// Pods are on a bridge of other people's plugins, which passes its packets by the rules only when told to.
    pub bridge: bool,
    /// What v2's root passes on; `None` on v1.
    pub controllers: Option<Vec<String>>,
    /// Whether systemd runs this machine.
    pub systemd: bool,
    /// What the container runtime says of itself.
    pub runtime: Runtime,
    pub clock: Clock,
    /// Rules in the kernel's old packet filter, beside nf_tables.
    pub legacy_rules: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// Nobody could ask it; that its socket is dead is said elsewhere.
    #[default]
    NotAsked,
    /// Its socket takes connections, but it does not answer the CRI.
    Refuses {
        error: String,
    },
    Tells {
        version: String,
        driver: Option<Driver>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    Synchronised,
    Free,
    #[default]
    Unknown,
}

/// Each is looked for, with what needs it.
pub(super) const MODULES: [(&str, &str); 5] = [
    ("overlay", "images"),
    ("nf_tables", "Services"),
    ("nf_conntrack", "Services"),
    ("veth", "pods' interfaces"),
    ("vxlan", "nodes that share no link"),
];

const FORWARD: &str = "net.ipv4.ip_forward";
const BRIDGE: &str = "net.bridge.bridge-nf-call-iptables";
const INSTANCES: &str = "fs.inotify.max_user_instances";
const WATCHES: &str = "fs.inotify.max_user_watches";
const CONNTRACK: &str = "net.netfilter.nf_conntrack_max";
pub(super) const SYSCTLS: [&str; 5] = [FORWARD, BRIDGE, INSTANCES, WATCHES, CONNTRACK];

/// Upstream's kube-proxy asks for 131072 at least; below a quarter of that a busy node drops connections.
const LEAST_CONNTRACK: u64 = 32_768;
/// The kernel's default of 128 is used up by a few dozen pods that watch files.
const LEAST_INSTANCES: u64 = 512;
const LEAST_WATCHES: u64 = 65_536;
const NEEDED_V2: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn modules(settings: &Settings) -> Outcome {
    let missing: Vec<String> = MODULES
        .into_iter()
        .filter(|(name, _)| settings.modules_missing.contains(name))
        .map(|(name, what)| format!("{name} (for {what})"))
        .collect();
    if missing.is_empty() {
        return well("there");
    }
    warning(
        format!("this kernel has no {}", missing.join(", ")),
        "boot a kernel that has them; on Debian: apt-get install linux-image-amd64",
    )
}

pub(super) fn sysctls(settings: &Settings) -> Outcome {
    let below = |key: &'static str, least: u64| {
        settings.sysctls.get(key).filter(|value| **value < least).map(|value| (key, *value, least))
    };
    let mut wrong = Vec::new();
    if settings.bridge {
        wrong.extend(below(BRIDGE, 1));
    }
    wrong.extend(below(INSTANCES, LEAST_INSTANCES));
    wrong.extend(below(WATCHES, LEAST_WATCHES));
    if settings.bridge && !settings.sysctls.contains_key(BRIDGE) {
        return warning(
            format!("{BRIDGE} is not there: packets between pods on one bridge miss the rules of Services"),
            "modprobe br_netfilter; echo br_netfilter >/etc/modules-load.d/coracle.conf",
        );
    }
    if wrong.is_empty() {
        // The agent switches forwarding on itself.
        let forwards = settings.sysctls.get(FORWARD) == Some(&1);
        return well(if forwards { "forwarding is on" } else { "forwarding is off; coracle switches it on" });
    }
    let what: Vec<String> = wrong.iter().map(|(key, value, _)| format!("{key} is {value}")).collect();
    let mend: Vec<String> = wrong.iter().map(|(key, _, least)| format!("{key}={least}")).collect();
    warning(what.join(", "), format!("sysctl -w {} (and a file in /etc/sysctl.d)", mend.join(" ")))
}

pub(super) fn conntrack(settings: &Settings) -> Outcome {
    match settings.sysctls.get(CONNTRACK) {
        None => well("not in use yet"),
        Some(most) if *most < LEAST_CONNTRACK => warning(
            format!("{CONNTRACK} is {most}: a busy node drops connections"),
            format!("sysctl -w {CONNTRACK}=131072"),
        ),
        Some(most) => well(format!("up to {most} connections")),
    }
}

/// Two owners of one cgroup tree undo each other's limits.
pub(super) fn cgroup_driver(settings: &Settings) -> Outcome {
    let containerd = "in /etc/containerd/config.toml set SystemdCgroup =";
    if let Some(controllers) = &settings.controllers {
        let missing: Vec<&str> =
            NEEDED_V2.into_iter().filter(|need| !controllers.iter().any(|it| it == need)).collect();
        if !missing.is_empty() {
            return broken(
                format!("the unified hierarchy does not pass on {}", missing.join(", ")),
                "boot without cgroup_disable= for them, and with no v1 hierarchy mounted for them",
            );
        }
    }
    let Runtime::Tells { driver: Some(driver), .. } = settings.runtime else {
        return well("the runtime does not tell; kubelet.cgroupDriver holds");
    };
    match (driver, settings.systemd, settings.controllers.is_some()) {
        (Driver::Systemd, false, _) => broken(
            "the container runtime asks systemd for cgroups, and systemd does not run here",
            format!("{containerd} false, then start containerd again"),
        ),
        (Driver::Cgroupfs, true, true) => warning(
            "the container runtime makes cgroups itself, in a tree that systemd owns: limits may be undone",
            format!("{containerd} true, then systemctl restart containerd"),
        ),
        (Driver::Systemd, true, _) => well("systemd"),
        (Driver::Cgroupfs, _, _) => well("cgroupfs"),
    }
}

pub(super) fn cri(settings: &Settings) -> Outcome {
    match &settings.runtime {
        Runtime::NotAsked => well("not asked"),
        Runtime::Tells { version, .. } => well(version.clone()),
        // What Docker's own package of containerd ships.
        Runtime::Refuses { error } => broken(
            format!("the container runtime does not speak CRI v1: {error}"),
            "take \"cri\" out of disabled_plugins in /etc/containerd/config.toml, then systemctl restart containerd",
        ),
    }
}

pub(super) fn clock(settings: &Settings) -> Outcome {
    match settings.clock {
        Clock::Synchronised => well("synchronised"),
        Clock::Unknown => well("nobody tells whether it is synchronised"),
        Clock::Free => warning(
            "not synchronised: certificates are refused between machines whose clocks differ",
            "apt-get install systemd-timesyncd && timedatectl set-ntp true",
        ),
    }
}

pub(super) fn iptables(settings: &Settings) -> Outcome {
    if settings.legacy_rules == 0 {
        return well("no rules in the old packet filter");
    }
    warning(
        format!(
            "{} rules in the old packet filter (iptables-legacy): packets pass those too, and nft list does not show them",
            settings.legacy_rules
        ),
        "look at them with iptables-legacy-save; move them with iptables-legacy-save | iptables-nft-restore, then iptables-legacy -F",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Settings {
        Settings {
            sysctls: BTreeMap::from([
                (FORWARD, 1),
                (BRIDGE, 1),
                (INSTANCES, 8192),
                (WATCHES, 524_288),
                (CONNTRACK, 131_072),
            ]),
            controllers: Some(["cpuset", "cpu", "memory", "pids"].map(String::from).into()),
            systemd: true,
            runtime: Runtime::Tells { version: "containerd 2.0.0".into(), driver: Some(Driver::Systemd) },
            clock: Clock::Synchronised,
            ..Settings::default()
        }
    }

    fn tells(driver: Driver) -> Runtime {
        Runtime::Tells { version: "containerd 1.6.20".into(), driver: Some(driver) }
    }

    type Check = fn(&Settings) -> Outcome;
    const CHECKS: [(&str, Check); 7] = [
        ("modules", modules),
        ("sysctls", sysctls),
        ("conntrack", conntrack),
        ("driver", cgroup_driver),
        ("cri", cri),
        ("clock", clock),
        ("iptables", iptables),
    ];

    #[test]
    fn a_well_set_machine_is_well() {
        for (name, check) in CHECKS {
            assert!(matches!(check(&healthy()), Outcome::Well(_)), "{name}: {:?}", check(&healthy()));
        }
    }

    #[test]
    fn each_wrong_setting_is_found_alone_and_comes_with_its_command() {
        let with = |key, value| {
            let mut settings = healthy();
            settings.sysctls.insert(key, value);
            settings
        };
        let cases: [(Settings, &str, &str); 9] = [
            (Settings { modules_missing: vec!["vxlan"], ..healthy() }, "modules", "linux-image"),
            (with(INSTANCES, 128), "sysctls", "sysctl -w fs.inotify.max_user_instances=512"),
            (Settings { bridge: true, ..with(BRIDGE, 0) }, "sysctls", "bridge-nf-call-iptables=1"),
            (with(CONNTRACK, 1000), "conntrack", "sysctl -w net.netfilter.nf_conntrack_max=131072"),
            (Settings { controllers: Some(vec!["cpu".into()]), ..healthy() }, "driver", "cgroup_disable"),
            (Settings { runtime: tells(Driver::Cgroupfs), ..healthy() }, "driver", "SystemdCgroup = true"),
            (Settings { systemd: false, ..healthy() }, "driver", "SystemdCgroup = false"),
            (Settings { clock: Clock::Free, ..healthy() }, "clock", "timedatectl set-ntp true"),
            (Settings { legacy_rules: 3, ..healthy() }, "iptables", "iptables-nft-restore"),
        ];
        for (settings, name, command) in cases {
            for (check, judge) in CHECKS {
                match judge(&settings) {
                    Outcome::Well(_) => assert_ne!(check, name, "{settings:?}"),
                    Outcome::Warning { mend, .. } | Outcome::Broken { mend, .. } => {
                        assert_eq!(check, name, "{mend}");
                        assert!(mend.contains(command), "{mend}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_bridge_without_its_module_is_told_which() {
        let mut settings = Settings { bridge: true, ..healthy() };
        settings.sysctls.remove(BRIDGE);
        let Outcome::Warning { mend, .. } = sysctls(&settings) else { panic!("it is not well") };
        assert!(mend.starts_with("modprobe br_netfilter"), "{mend}");
    }
}
