//! Judges the facts about a machine.
#![deny(clippy::disallowed_methods)]

use super::settings::{self, Settings};

/// What was found on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether pods will run here.
    pub runs_pods: bool,
    /// Ranges of the cluster that this machine's networks overlap, in words.
    pub overlaps: Vec<String>,
    pub is_root: bool,
    /// The runtime's socket and why it cannot be connected to, if so.
    pub runtime_socket: String,
    pub runtime_error: Option<String>,
    /// Programs that were looked for, and whether each was found.
    pub programs: Vec<(&'static str, bool)>,
    /// Ports that are needed, and the error of binding each.
    pub ports: Vec<(u16, Option<String>)>,
    /// The process of ours that serves here already.
    pub running: Option<u32>,
    /// Whether another one is about to.
    pub starting: bool,
    pub cgroups: Cgroups,
    pub overlay: bool,
    /// The error of opening a netfilter socket, if any.
    pub netfilter_error: Option<String>,
    pub node_ip: Option<String>,
    pub host_name: String,
    pub state_dir: String,
    pub state_free_bytes: Option<u64>,
    /// The size of the file system that `state_free_bytes` is of.
    pub state_size_bytes: u64,
    pub swap_bytes: u64,
    pub memory_bytes: u64,
    pub settings: Settings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    V2,
    /// v1, with the controllers that are mounted.
    V1 {
        controllers: Vec<String>,
    },
    Missing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub name: &'static str,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Well(String),
    Warning { what: String, mend: String },
    Broken { what: String, mend: String },
}

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// The controllers without which pods cannot be limited or counted.
const NEEDED_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

type Check = fn(&Facts) -> Outcome;

#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let always = true;
    let checks: [(&'static str, bool, Check); 18] = [
        ("user", facts.runs_pods, user),
        // A runtime that answers has what it needs, under whatever name.
        ("programs", facts.runs_pods && facts.runtime_error.is_some(), programs),
        ("runtime", facts.runs_pods, runtime),
        ("cri", facts.runs_pods, |it| settings::cri(&it.settings)),
        ("cgroups", facts.runs_pods, cgroups),
        ("driver", facts.runs_pods, |it| settings::cgroup_driver(&it.settings)),
        ("modules", facts.runs_pods, |it| settings::modules(&it.settings)),
        ("sysctls", facts.runs_pods, |it| settings::sysctls(&it.settings)),
        ("overlayfs", facts.runs_pods, overlay),
        ("nftables", facts.runs_pods, netfilter),
        ("iptables", facts.runs_pods, |it| settings::iptables(&it.settings)),
        ("conntrack", facts.runs_pods, |it| settings::conntrack(&it.settings)),
        ("ports", always, ports),
        ("address", always, address),
        ("clock", always, |it| settings::clock(&it.settings)),
        ("ranges", always, ranges),
        ("disk", always, disk),
        ("memory", always, memory),
    ];
    let applies = checks.into_iter().filter(|(_, applies, _)| *applies);
    applies.map(|(name, _, check)| Finding { name, outcome: check(facts) }).collect()
}

pub(super) fn well(text: impl Into<String>) -> Outcome {
    Outcome::Well(text.into())
}

pub(super) fn broken(what: impl Into<String>, mend: impl Into<String>) -> Outcome {
    Outcome::Broken { what: what.into(), mend: mend.into() }
}

pub(super) fn warning(what: impl Into<String>, mend: impl Into<String>) -> Outcome {
    Outcome::Warning { what: what.into(), mend: mend.into() }
}

fn user(facts: &Facts) -> Outcome {
    if facts.is_root {
        return well("root");
    }
    broken("not root: pods need namespaces, cgroups and packet rules", "run it again with sudo")
}

fn programs(facts: &Facts) -> Outcome {
    let missing: Vec<&str> =
        facts.programs.iter().filter(|(_, found)| !found).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        let names: Vec<&str> = facts.programs.iter().map(|(name, _)| *name).collect();
        return well(names.join(", "));
    }
    broken(
        format!("not found: {}", missing.join(", ")),
        format!("apt-get install --no-install-recommends {}", missing.join(" ")),
    )
}

fn runtime(facts: &Facts) -> Outcome {
    match &facts.runtime_error {
        None => well(format!("answers on {}", facts.runtime_socket)),
        Some(error) => broken(
            format!("no container runtime on {}: {error}", facts.runtime_socket),
            "start it (systemctl start containerd), or set runtime.endpoint in the configuration to its socket",
        ),
    }
}

fn cgroups(facts: &Facts) -> Outcome {
    match &facts.cgroups {
        Cgroups::V2 => well("v2"),
        Cgroups::Missing => broken("not mounted", "mount -t cgroup2 none /sys/fs/cgroup"),
        Cgroups::V1 { controllers } => {
            let missing: Vec<&str> = NEEDED_CONTROLLERS
                .into_iter()
                .filter(|need| !controllers.iter().any(|c| c == need))
                .collect();
            if missing.is_empty() {
                return well(format!("v1 ({})", controllers.join(", ")));
            }
            broken(
                format!("v1 without {}", missing.join(", ")),
                "boot with systemd.unified_cgroup_hierarchy=1 for v2, or mount these controllers",
            )
        }
    }
}

fn overlay(facts: &Facts) -> Outcome {
    if facts.overlay {
        well("there")
    } else {
        broken("the kernel does not know overlayfs", "modprobe overlay")
    }
}

fn netfilter(facts: &Facts) -> Outcome {
    match &facts.netfilter_error {
        None => well("there"),
        Some(error) => broken(format!("nf_tables cannot be reached: {error}"), "modprobe nf_tables"),
    }
}

fn ports(facts: &Facts) -> Outcome {
    let taken: Vec<String> = facts
        .ports
        .iter()
        .filter_map(|(port, error)| error.as_ref().map(|error| format!("{port} ({error})")))
        .collect();
    if taken.is_empty() {
        let ports: Vec<String> = facts.ports.iter().map(|(port, _)| port.to_string()).collect();
        return well(format!("{} are free", ports.join(", ")));
    }
    match facts.running {
        Some(pid) if !facts.starting => return well(format!("in use by coracle itself (process {pid})")),
        Some(pid) => {
            let busy = facts.ports.iter().filter(|(_, error)| error.is_some());
            let ports: Vec<String> = busy.map(|(port, _)| port.to_string()).collect();
            return broken(
                format!("{} in use by coracle itself, which runs already (process {pid})", ports.join(", ")),
                "`coracle status` tells how it is; stop it before another start (`systemctl stop coracle`, or Ctrl-C where it runs)",
            );
        }
        None => {}
    }
    broken(
        format!("in use: {}", taken.join(", ")),
        "end the program that `ss -ltnp` shows there, or set server.port, kubelet.port or dns.port in the configuration",
    )
}

fn address(facts: &Facts) -> Outcome {
    match &facts.node_ip {
        Some(ip) => well(format!("{} is {ip}", facts.host_name)),
        None => broken("this machine has no address besides loopback", "set node.ip in the configuration"),
    }
}

fn ranges(facts: &Facts) -> Outcome {
    if facts.overlaps.is_empty() {
        return well("pods and Services have addresses of their own");
    }
    broken(
        facts.overlaps.join("; "),
        "set network.podCIDR and network.serviceCIDR to ranges that this machine's networks do not use",
    )
}

fn disk(facts: &Facts) -> Outcome {
    match facts.state_free_bytes {
        None => warning(format!("cannot tell the free space of {}", facts.state_dir), "look with df -h"),
        Some(free) if free < 256 * MIB => broken(
            format!("{} MiB free in {}", free / MIB, facts.state_dir),
            "free some space, or set stateDir to another disk",
        ),
        // Below a tenth the node calls itself under DiskPressure and takes no new pods (upstream's nodefs.available).
        Some(free) if free < facts.state_size_bytes / 10 => warning(
            format!(
                "{} GiB free in {}, less than a tenth: new pods stay Pending",
                free / GIB,
                facts.state_dir
            ),
            "free some space, or set stateDir to another disk",
        ),
        Some(free) if free < 2 * GIB => warning(
            format!("{} MiB free in {}: images soon fill it", free / MIB, facts.state_dir),
            "free some space, or set stateDir to another disk",
        ),
        Some(free) => well(format!("{} GiB free in {}", free / GIB, facts.state_dir)),
    }
}

fn memory(facts: &Facts) -> Outcome {
    if facts.memory_bytes < 256 * MIB {
        return warning(
            format!("{} MiB of memory", facts.memory_bytes / MIB),
            "pods will be short of it: add some",
        );
    }
    let swap = if facts.swap_bytes > 0 { ", swap on (pods do not use it)" } else { "" };
    well(format!("{} MiB{swap}", facts.memory_bytes / MIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Facts {
        Facts {
            runs_pods: true,
            overlaps: Vec::new(),
            is_root: true,
            runtime_socket: "/run/c.sock".into(),
            runtime_error: None,
            programs: vec![("runc", true)],
            ports: vec![(6443, None)],
            running: None,
            starting: false,
            cgroups: Cgroups::V2,
            overlay: true,
            netfilter_error: None,
            node_ip: Some("10.0.0.1".into()),
            host_name: "a".into(),
            state_dir: "/var/lib/coracle".into(),
            state_free_bytes: Some(10 * GIB),
            state_size_bytes: 20 * GIB,
            swap_bytes: 0,
            memory_bytes: GIB,
            settings: Settings::default(),
        }
    }

    fn broken_names(facts: &Facts) -> Vec<&'static str> {
        let findings = examine(facts);
        findings.into_iter().filter(|f| matches!(f.outcome, Outcome::Broken { .. })).map(|f| f.name).collect()
    }

    #[test]
    fn a_healthy_machine_has_nothing_broken() {
        assert_eq!(broken_names(&healthy()), Vec::<&str>::new());
    }

    #[test]
    fn each_broken_fact_is_found_alone() {
        let overlap = "network.podCIDR 10.244.0.0/16 overlaps the address 10.244.1.1/24 of this machine";
        let cases: [(Facts, &str); 7] = [
            (Facts { overlaps: vec![overlap.into()], ..healthy() }, "ranges"),
            (Facts { is_root: false, ..healthy() }, "user"),
            (Facts { runtime_error: Some("No such file".into()), ..healthy() }, "runtime"),
            (Facts { cgroups: Cgroups::V1 { controllers: vec!["cpu".into()] }, ..healthy() }, "cgroups"),
            (Facts { ports: vec![(6443, Some("Address already in use".into()))], ..healthy() }, "ports"),
            (Facts { node_ip: None, ..healthy() }, "address"),
            (Facts { state_free_bytes: Some(MIB), ..healthy() }, "disk"),
        ];
        for (facts, name) in cases {
            assert_eq!(broken_names(&facts), [name]);
        }
    }

    #[test]
    fn a_control_plane_alone_needs_no_runtime() {
        let facts = Facts { runs_pods: false, runtime_error: Some("No such file".into()), ..healthy() };
        assert_eq!(broken_names(&facts), Vec::<&str>::new());
    }

    #[test]
    fn ports_that_coracle_itself_serves_are_well() {
        let ports = vec![(6443, Some("Address already in use".into()))];
        assert_eq!(broken_names(&Facts { ports: ports.clone(), ..healthy() }), ["ports"]);
        let serves = Facts { ports, running: Some(7), ..healthy() };
        assert_eq!(broken_names(&serves), Vec::<&str>::new());
        let second = Facts { starting: true, ..serves };
        assert_eq!(broken_names(&second), ["ports"]);
        let told = format!("{:?}", examine(&second));
        assert!(told.contains("which runs already (process 7)") && told.contains("coracle status"), "{told}");
    }

    #[test]
    fn a_missing_program_comes_with_the_command_that_installs_it() {
        let programs = vec![("runc", false), ("containerd", false)];
        let another = Facts { programs: programs.clone(), ..healthy() };
        assert_eq!(broken_names(&another), Vec::<&str>::new(), "CRI-O serves the same socket");
        let facts = Facts { programs, runtime_error: Some("No such file".into()), ..healthy() };
        assert_eq!(broken_names(&facts), ["programs", "runtime"]);
        let finding = examine(&facts).into_iter().find(|f| f.name == "programs").unwrap();
        let Outcome::Broken { mend, .. } = finding.outcome else { panic!("{finding:?}") };
        assert_eq!(mend, "apt-get install --no-install-recommends runc containerd");
    }
}
