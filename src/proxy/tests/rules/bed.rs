//! Network namespaces with real traffic in them: a node, two pods on it, and an outside that has another pod.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::mpsc,
    time::Duration,
};

use netlink::nft::Family;
use nix::sched::{CloneFlags, unshare};
use proxy::{Config, Mode};

use crate::models::ip;

pub(crate) const NODE: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.254";

pub(crate) fn config() -> Config {
    Config {
        mode: Mode::Nftables,
        node_name: "here".into(),
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
        families: vec![Family::Ip],
        node_ports: (30000, 32767),
        masquerade_all: false,
        scheduler: proxy::ipvs::Scheduler::default(),
    }
}

/// Runs a command in this thread's network namespace.
pub(crate) fn run(command: &str) {
    assert!(Command::new("sh").args(["-ec", command]).status().unwrap().success(), "{command}");
}

fn own_namespace() -> String {
    unshare(CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
    run("ip link set lo up");
    format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())
}

/// Runs a test on a thread in a fresh network namespace, which ends with the thread.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        own_namespace();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which ends with this value.
pub(crate) struct Host {
    jobs: mpsc::SyncSender<Job>,
    namespace: PathBuf,
}

impl Host {
    fn new() -> Self {
        let (jobs, todo) = mpsc::sync_channel::<Job>(1);
        let (tell, told) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            tell.send(own_namespace()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        Self { jobs, namespace: told.recv().unwrap().into() }
    }

    /// What a function gives that is run there.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work).recv().expect("the work panicked")
    }

    /// Where to receive what a function gives that is run there; others wait for it.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (tell, told) = mpsc::sync_channel(1);
        self.jobs.send(Box::new(move || drop(tell.send(work())))).unwrap();
        told
    }

    fn command(&self, command: String) {
        self.run(move || run(&command));
    }

    pub(crate) fn ask(&self, address: &str, port: u16) -> std::io::Result<Answer> {
        let address = address.to_string();
        self.run(move || ask(&address, port))
    }

    /// Which endpoints answer in many attempts.
    pub(crate) fn reaches(&self, address: &str, port: u16) -> BTreeSet<u8> {
        (0..30).map(|_| self.ask(address, port).unwrap().endpoint).collect()
    }
}

/// Pods 1 and 2 are on the node, 3 is outside.
pub(crate) struct Bed {
    pub(crate) pods: [Host; 2],
    pub(crate) outside: Host,
}

impl Bed {
    fn new() -> Self {
        // Outside is where it comes from and where it would go: a redirect to each would take the place of what refuses.
        run("cd /proc/sys/net/ipv4
             echo 1 > ip_forward
             echo 0 > conf/default/send_redirects
             echo 0 > conf/all/send_redirects
             echo 0 > icmp_ratelimit");
        let (outside, pods) = (Host::new(), [Host::new(), Host::new()]);
        run(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}
             ip link set eth0 up
             ip addr add {NODE}/24 dev eth0",
            outside.namespace.display()
        ));
        outside.command(format!(
            "ip link set eth0 up
             ip addr add {OUTSIDE}/24 dev eth0
             ip addr add {} dev lo
             ip route add 10.244.0.0/24 via {NODE}
             ip route add 10.96.0.0/16 via {NODE}
             ip route add 192.0.2.8/29 via {NODE}",
            ip(3)
        ));
        run(&format!("ip route add default via {OUTSIDE}"));
        for (number, pod) in (1..).zip(&pods) {
            run(&format!(
                "ip link add pod{number} type veth peer name eth0 netns {}
                 ip link set pod{number} up
                 ip route add {} dev pod{number} src {NODE}",
                pod.namespace.display(),
                ip(number)
            ));
            pod.command(format!(
                "ip link set eth0 up
                 ip addr add {}/32 dev eth0
                 ip route add default via {NODE} dev eth0 onlink",
                ip(number)
            ));
            pod.run(move || serve(number));
        }
        outside.run(|| serve(3));
        Self { pods, outside }
    }
}

/// Runs a test on a node with pods and an outside. The test's own thread is in the node's network namespace.
pub(crate) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Bed) -> F + Send + 'static) {
    in_namespace(async || test(Bed::new()).await);
}

/// Serves its own number and the client's address to each connection, until the namespace goes.
fn serve(number: u8) {
    let listener = TcpListener::bind((ip(number), 8080)).unwrap();
    // Ends with the test's process; it holds nothing but its socket.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = format!("{number} {}", stream.peer_addr().unwrap().ip());
            drop(stream.write_all(answer.as_bytes()));
        }
    });
}

/// Who answered, and whom it saw asking.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) endpoint: u8,
    pub(crate) client: IpAddr,
}

/// Which endpoint answers, if one does.
pub(crate) fn ask(address: &str, port: u16) -> std::io::Result<Answer> {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (endpoint, client) = answer.split_once(' ').ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(Answer { endpoint: endpoint.parse().unwrap(), client: client.parse().unwrap() })
}

/// Which endpoints answer this node itself in many attempts.
pub(crate) fn reaches(address: &str, port: u16) -> BTreeSet<u8> {
    (0..30).map(|_| ask(address, port).unwrap().endpoint).collect()
}
