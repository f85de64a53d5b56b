//! Hosts and pods: network namespaces that end with the thread that is in them.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use network::{
    builtin::{Builtin, Settings},
    cni::{Attachment, AttachmentId},
};
use serde_json::{Map, Value};

type Work = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which lasts as long as the thread.
pub(crate) struct Place {
    work: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::entered(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("root, to make a network namespace");
        })
    }

    /// Another thread in the same namespace, for what runs beside.
    pub(crate) fn beside(&self) -> Self {
        let path = self.path.clone();
        Self::entered(move || {
            let file = std::fs::File::open(path).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        })
    }

    fn entered(enter: impl FnOnce() + Send + 'static) -> Self {
        let (work, todo) = sync_channel::<Work>(0);
        let (told, tell) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .spawn(move || {
                enter();
                told.send(nix::unistd::gettid()).unwrap();
                for work in todo {
                    work();
                }
            })
            .unwrap();
        let tid = tell.recv().unwrap();
        let path = format!("/proc/{}/task/{tid}/ns/net", std::process::id()).into();
        Self { work: Some(work), thread: Some(thread), path }
    }

    pub(crate) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Runs something inside and gives its result, panics included.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = sync_channel(1);
        let work = std::panic::AssertUnwindSafe(work);
        let boxed: Work = Box::new(move || {
            let result = std::panic::catch_unwind(|| {
                let work = work;
                (work.0)()
            });
            done.send(result).unwrap();
        });
        self.work.as_ref().unwrap().send(boxed).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(crate) fn shell(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments);
        self.run(move || {
            let output = command.output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{command:?}: {error}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.shell("ip", &arguments.split(' ').collect::<Vec<_>>())
    }

    /// Answers every connection to a port with the caller's address; the port.
    pub(crate) fn serve(&self, address: &str, port: u16) -> u16 {
        let address = format!("{address}:{port}");
        let listener = self.run(move || TcpListener::bind(address).unwrap());
        let port = listener.local_addr().unwrap().port();
        std::thread::Builder::new()
            .spawn(move || {
                while let Ok((mut stream, from)) = listener.accept() {
                    if from.port() == 0 || stream.write_all(from.ip().to_string().as_bytes()).is_err() {
                        return;
                    }
                }
            })
            .unwrap();
        port
    }

    /// Who the server at `to` sees when this place calls, or why it cannot be called.
    pub(crate) fn call(&self, to: &str, port: u16) -> std::io::Result<IpAddr> {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.parse().unwrap())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A host with an uplink `up0` (192.0.2.1) to an outside (192.0.2.2) that has no route back to pods.
pub(crate) struct Host {
    pub(crate) place: Place,
    pub(crate) outside: Place,
    pub(crate) state: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (place, outside) = (Place::new(), Place::new());
        outside.ip("link set lo up");
        // Both ends are made on the outside, and one is handed over by its thread.
        let tid = place.path().split('/').nth(4).unwrap().to_string();
        outside.ip(&format!("link add up0 type veth peer name up0 netns {tid}"));
        for (end, address) in [(&place, "192.0.2.1/24"), (&outside, "192.0.2.2/24")] {
            end.ip(&format!("addr add {address} dev up0"));
            end.ip(&format!("addr add 2001:db8::{}/64 dev up0 nodad", &address[8..9]));
            end.ip("link set up0 up");
        }
        place.ip("link set lo up");
        place.ip("link set up0 mtu 1400");
        place.ip("route add default via 192.0.2.2");
        place.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        Self { place, outside, state: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn settings() -> Settings {
        Settings {
            pod_cidrs: vec!["10.77.0.0/24".parse().unwrap(), "fd00:77::/64".parse().unwrap()],
            cluster_cidrs: vec!["10.77.0.0/16".parse().unwrap()],
            mtu: None,
            tunnel_mtu: None,
        }
    }

    pub(crate) fn network(&self) -> Builtin {
        Builtin::new(self.state.path(), Self::settings())
    }

    /// Runs something with the network, on the host.
    pub(crate) fn with<T: Send + 'static>(&self, work: impl FnOnce(&Builtin) -> T + Send + 'static) -> T {
        let network = self.network();
        self.place.run(move || work(&network))
    }
}

pub(crate) fn attachment(container: &str, netns: String, capabilities: Value) -> Attachment {
    let capabilities = if let Value::Object(map) = capabilities { map } else { Map::new() };
    Attachment {
        id: AttachmentId { container_id: container.into(), ifname: "eth0".into() },
        netns,
        args: String::new(),
        capabilities,
    }
}
