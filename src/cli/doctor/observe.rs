//! Looks at the machine. Nothing is changed by looking.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{
    plan::{Cgroups, Facts},
    settings::{Clock, MODULES, Runtime, SYSCTLS, Settings},
};

/// What to look for: where the configuration says things are.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Whether pods will run here; a control plane alone needs less.
    pub runs_pods: bool,
    pub runtime_socket: PathBuf,
    pub state_dir: PathBuf,
    /// Address and ports that must be free; none when coracle itself already runs on them.
    pub ports: Vec<SocketAddr>,
    /// The node's address, where the configuration gives it.
    pub node_ip: Option<IpAddr>,
    /// Ranges of the cluster that this machine's networks overlap, in words.
    pub overlaps: Vec<String>,
    /// What the runtime said when it was asked.
    pub runtime: Runtime,
    /// Whether pods are on a bridge of other people's plugins.
    pub bridge: bool,
    /// Whether another process of ours is about to serve on those ports.
    pub starting: bool,
    /// Ask programs of the system too, which takes them a second: for a person.
    pub thorough: bool,
}

/// Programs that the container runtime and we start.
const PROGRAMS: [&str; 2] = ["containerd", "runc"];

#[must_use]
pub fn observe(questions: &Questions) -> Facts {
    let memory = meminfo();
    let disk = disk(&questions.state_dir);
    Facts {
        runs_pods: questions.runs_pods,
        overlaps: questions.overlaps.clone(),
        is_root: nix::unistd::geteuid().is_root(),
        runtime_socket: questions.runtime_socket.display().to_string(),
        runtime_error: UnixStream::connect(&questions.runtime_socket).err().map(|error| error.to_string()),
        programs: PROGRAMS.into_iter().map(|name| (name, in_path(name))).collect(),
        ports: questions.ports.iter().map(|address| (address.port(), taken(*address))).collect(),
        running: running(),
        starting: questions.starting,
        cgroups: cgroups(),
        overlay: std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\toverlay")),
        netfilter_error: netfilter().err().map(|error| error.to_string()),
        node_ip: questions.node_ip.or_else(routed_address).map(|ip| ip.to_string()),
        host_name: nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        state_dir: questions.state_dir.display().to_string(),
        state_free_bytes: disk.map(|(free, _)| free),
        state_size_bytes: disk.map_or(0, |(_, size)| size),
        swap_bytes: memory("SwapTotal:"),
        memory_bytes: memory("MemTotal:"),
        settings: settings(questions),
    }
}

/// Another process that serves as this program does, by its command line. One with a network of its own has other ports.
fn running() -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let ours = network("self");
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        serves(&command) && *pid != std::process::id() && network(&pid.to_string()) == ours
    })
}

/// `/usr/local/bin/coracle\0up\0` does.
fn serves(command: &str) -> bool {
    let mut words = command.split('\0');
    let program = words.next().unwrap_or_default();
    program.rsplit('/').next() == Some("coracle")
        && words.next().is_some_and(|role| ["up", "server", "node"].contains(&role))
}

fn settings(questions: &Questions) -> Settings {
    let modules = ModuleList::read();
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    Settings {
        modules_missing: MODULES
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !modules.has(name))
            .collect(),
        sysctls: SYSCTLS.into_iter().filter_map(|key| Some((key, sysctl(key)?))).collect(),
        bridge: questions.bridge,
        controllers: controllers.map(|text| text.split_whitespace().map(String::from).collect()),
        systemd: Path::new("/run/systemd/system").is_dir(),
        runtime: questions.runtime.clone(),
        clock: if questions.thorough { clock() } else { Clock::Unknown },
        legacy_rules: if questions.thorough { legacy_rules() } else { 0 },
    }
}

fn sysctl(key: &str) -> Option<u64> {
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The modules that this kernel has built in or could load.
struct ModuleList(Option<String>);

impl ModuleList {
    fn read() -> ModuleList {
        let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        let dir = Path::new("/lib/modules").join(release.unwrap_or_default());
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
        ModuleList(read("modules.builtin").zip(read("modules.dep")).map(|(built_in, dep)| built_in + &dep))
    }

    /// Where nobody keeps such lists (a kernel from elsewhere), what is not known is not called missing.
    fn has(&self, name: &str) -> bool {
        let named = |text: &String| text.lines().any(|line| names(line, name));
        Path::new("/sys/module").join(name).exists() || self.0.as_ref().is_none_or(named)
    }
}

/// `kernel/drivers/net/vxlan/vxlan.ko: kernel/net/...` names `vxlan`.
fn names(line: &str, name: &str) -> bool {
    let file = line.split(':').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    file.split('.').next().is_some_and(|stem| stem.replace('-', "_") == name)
}

fn clock() -> Clock {
    match said("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).as_deref().map(str::trim) {
        Some("yes") => Clock::Synchronised,
        Some("no") => Clock::Free,
        _ => Clock::Unknown,
    }
}

/// Asked only when the kernel's old filter is in use: to ask it loads it.
fn legacy_rules() -> usize {
    let in_use =
        std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| !names.trim().is_empty());
    let saved = if in_use { said("iptables-legacy-save", &[]) } else { None };
    saved.unwrap_or_default().lines().filter(|line| line.starts_with("-A ")).count()
}

/// What a program of the system prints, if it is there and content. At most 1 MiB of it.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = String::new();
    let read = child.stdout.take()?.take(1 << 20).read_to_string(&mut text);
    let ended = child.wait().ok()?;
    (read.is_ok() && ended.success()).then_some(text)
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Why a port cannot be bound, if it cannot.
fn taken(address: SocketAddr) -> Option<String> {
    TcpListener::bind(address).err().map(|error| error.to_string())
}

fn cgroups() -> Cgroups {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Cgroups::V2;
    }
    let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") else { return Cgroups::Missing };
    // ... - cgroup cgroup rw,cpu,cpuacct
    let mut controllers: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once(" - cgroup ").map(|(_, rest)| rest))
        .filter_map(|rest| rest.split(' ').nth(1))
        .flat_map(|options| options.split(',').skip(1).map(str::to_string))
        .filter(|option| !option.contains('=') && option != "relatime" && option != "xattr")
        .collect();
    controllers.sort();
    controllers.dedup();
    if controllers.is_empty() { Cgroups::Missing } else { Cgroups::V1 { controllers } }
}

fn netfilter() -> nix::Result<()> {
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
        .map(drop)
}

/// The address from which packets to the outside would leave. No packet is sent.
fn routed_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // An address of the documentation range (RFC 5737): only the route to it is asked for.
    socket.connect("203.0.113.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// Free space and size of the file system where `dir` is, or where it would be made.
fn disk(dir: &Path) -> Option<(u64, u64)> {
    let existing = dir.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Some((bytes(stat.blocks_available()), bytes(stat.blocks())))
}

/// A reader of `/proc/meminfo`: bytes of a row, 0 where it is missing.
fn meminfo() -> impl Fn(&str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    move |row| {
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix(row)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_command_line_and_a_question_is_none() {
        assert!(serves("/usr/local/bin/coracle\0up\0--config\0x\0"));
        assert!(serves("coracle\0node\0"));
        assert!(!serves("coracle\0doctor\0"));
        assert!(!serves("/usr/bin/other\0up\0"));
        assert!(!serves(""));
    }

    #[test]
    fn a_module_is_named_by_its_file_however_it_is_packed_and_spelled() {
        assert!(names("kernel/drivers/net/vxlan/vxlan.ko: kernel/net/ipv4/udp_tunnel.ko", "vxlan"));
        assert!(names("kernel/net/netfilter/nf_tables.ko.xz:", "nf_tables"));
        assert!(names("kernel/fs/some-thing.ko", "some_thing"));
        assert!(!names("kernel/net/x.ko: kernel/drivers/net/vxlan/vxlan.ko", "vxlan"));
        assert!(!names("", "vxlan"));
    }
}
