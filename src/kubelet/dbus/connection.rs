//! One conversation over a bus: calls with their answers, signals, file descriptors. Nothing is polled.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
    time::timeout,
};

use super::message::{self, Argument, Body, FIXED_BYTES, Received, Target, What};

/// Services that are asked answer from memory, unless the machine is very busy.
const DEADLINE: Duration = Duration::from_secs(10);
/// Signals that came while an answer was waited for. More are dropped: each says only "look again".
const MOST_SIGNALS: usize = 16;
/// File descriptors that no message has claimed yet; a bus sends no more than a few.
const MOST_HANDLES: usize = 16;

const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A file descriptor that came over the bus, closed when dropped. It is held for what it means to the sender, never
/// read or written.
#[derive(Debug)]
pub(crate) struct Handle(RawFd);

impl Drop for Handle {
    fn drop(&mut self) {
        // Whatever the kernel says of it: it is gone.
        let _closed = nix::unistd::close(self.0).is_ok();
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{member}: the connection to the bus failed")]
    Broken {
        member: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{member}: {name}: {words}")]
    Refused { member: &'static str, name: String, words: String },
}

/// A signal of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signal {
    pub(crate) interface: String,
    pub(crate) member: String,
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
    /// Read, and not yet taken apart.
    bytes: Vec<u8>,
    handles: VecDeque<Handle>,
    signals: VecDeque<Signal>,
}

impl Connection {
    /// A conversation over the bus that listens there.
    ///
    /// # Errors
    /// When nobody listens, or does not let us in.
    pub(crate) async fn open(socket: &Path) -> Result<Connection, CallError> {
        let opened = async {
            let stream = UnixStream::connect(socket).await?;
            let (bytes, handles, signals) = (Vec::new(), VecDeque::new(), VecDeque::new());
            let mut connection = Connection { stream, serial: 0, bytes, handles, signals };
            connection.authenticate().await?;
            Ok(connection)
        };
        let opened = in_time(opened).await.map_err(|source| CallError::Broken { member: "connect", source });
        let mut connection = opened?;
        // Before this, a bus passes nothing on.
        connection.call(&BUS, "Hello", &[]).await?;
        Ok(connection)
    }

    async fn authenticate(&mut self) -> io::Result<()> {
        self.stream.write_all(super::greeting().as_bytes()).await?;
        self.expect("OK ").await?;
        self.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").await?;
        self.expect("AGREE_UNIX_FD").await?;
        self.stream.write_all(b"BEGIN\r\n").await
    }

    /// Takes a line that begins so.
    async fn expect(&mut self, start: &str) -> io::Result<()> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                if line.starts_with(start) {
                    return Ok(());
                }
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it answers {line:?}")));
            }
            if self.bytes.len() > super::LONGEST_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
            self.receive().await?;
        }
    }

    /// Has the bus pass on signals that fit `rule`.
    pub(crate) async fn subscribe(&mut self, rule: &str) -> Result<(), CallError> {
        self.call(&BUS, "AddMatch", &[Argument::Text(rule)]).await.map(drop)
    }

    /// The next signal. May be dropped while it waits: nothing is lost.
    pub(crate) async fn signal(&mut self) -> io::Result<Signal> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let (received, _handles) = self.next().await?;
            self.keep(received);
        }
    }

    /// What the method returns, and the file descriptors that came with it.
    pub(crate) async fn call(
        &mut self,
        target: &Target,
        member: &'static str,
        arguments: &[Argument<'_>],
    ) -> Result<(Body, Vec<Handle>), CallError> {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        let call = message::call(self.serial, target, member, arguments);
        let answered = async {
            self.stream.write_all(&call).await?;
            loop {
                let (received, handles) = self.next().await?;
                match received.what {
                    What::Done { to, body } if to == self.serial => return Ok(Ok((body, handles))),
                    What::Refused { to, name, words } if to == self.serial => {
                        return Ok(Err(CallError::Refused { member, name, words }));
                    }
                    _ => self.keep(received),
                }
            }
        };
        in_time(answered).await.unwrap_or_else(|source| Err(CallError::Broken { member, source }))
    }

    fn keep(&mut self, received: Received) {
        if let What::Signal { interface, member } = received.what {
            self.signals.push_back(Signal { interface, member });
            self.signals.truncate(MOST_SIGNALS);
        }
    }

    /// The next message, with its own file descriptors.
    async fn next(&mut self) -> io::Result<(Received, Vec<Handle>)> {
        loop {
            if let Some(message) = self.whole()? {
                let received = message::read(&message).map_err(super::wrong)?;
                if received.handles > self.handles.len() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a message whose file descriptors did not come",
                    ));
                }
                let handles = self.handles.drain(..received.handles).collect();
                return Ok((received, handles));
            }
            self.receive().await?;
        }
    }

    /// A message of which everything is there.
    fn whole(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(fixed) = self.bytes.first_chunk::<FIXED_BYTES>() else { return Ok(None) };
        let length = FIXED_BYTES + message::rest(fixed).map_err(super::wrong)?;
        Ok((self.bytes.len() >= length).then(|| self.bytes.drain(..length).collect()))
    }

    /// Reads once. File descriptors come with the first bytes of their message at the latest.
    async fn receive(&mut self) -> io::Result<()> {
        let stream = &self.stream;
        let mut buffer = [0; 4096];
        let (length, came) = stream
            .async_io(Interest::READABLE, || {
                let mut slices = [IoSliceMut::new(&mut buffer)];
                let mut space = nix::cmsg_space!([RawFd; MOST_HANDLES]);
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
                let received = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
                let mut came = Vec::new();
                for message in received.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = message {
                        came.extend(fds.into_iter().map(Handle));
                    }
                }
                Ok((received.bytes, came))
            })
            .await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&buffer[..length]);
        self.handles.extend(came);
        if self.handles.len() > MOST_HANDLES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file descriptors that nobody asked for"));
        }
        Ok(())
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Debian's bus, on a socket of its own.
    struct Daemon(Child);

    impl Daemon {
        async fn start(socket: &Path) -> Daemon {
            let mut command = Command::new("dbus-daemon");
            command.args(["--session", "--nofork", "--nopidfile"]);
            command.arg(format!("--address=unix:path={}", socket.display()));
            command.stdout(Stdio::null());
            let daemon = Daemon(command.spawn().expect("dbus-daemon, from Debian's package dbus-daemon"));
            let listens = async {
                while UnixStream::connect(socket).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(30), listens).await.expect("it listens");
            daemon
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn debians_bus_understands_what_is_said_and_tells_what_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let daemon = Daemon::start(&socket).await;
        let mut connection = Connection::open(&socket).await.unwrap();
        connection.subscribe("type='signal',member='NameOwnerChanged'").await.unwrap();
        let features = [Argument::Text(BUS.interface), Argument::Text("Features")];
        let properties = Target { interface: "org.freedesktop.DBus.Properties", ..BUS };
        let (body, handles) = connection.call(&properties, "Get", &features).await.unwrap();
        assert!(body.variant().is_err() && handles.is_empty(), "a list of texts, which nobody here reads");
        let nobody = Target { destination: "org.freedesktop.login1", ..BUS };
        let refused = connection.call(&nobody, "Get", &[]).await.unwrap_err();
        let unknown = "org.freedesktop.DBus.Error.ServiceUnknown";
        assert!(matches!(&refused, CallError::Refused { name, .. } if name == unknown), "{refused:?}");
        // Somebody else comes to the bus.
        let other = Connection::open(&socket).await.unwrap();
        let told = async {
            // A bus also says, unasked, by what name it knows us.
            while connection.signal().await.unwrap().member != "NameOwnerChanged" {}
        };
        timeout(Duration::from_secs(30), told).await.expect("it is told");
        drop((daemon, other));
        let ended = async { while connection.signal().await.is_ok() {} };
        timeout(Duration::from_secs(30), ended).await.expect("a bus that ends is noticed");
    }
}
