//! systemd as the owner of the cgroup tree: pods' slices are units that it is asked for.
//!
//! On a machine with cgroup v2 and systemd, a directory that nobody told systemd of is one that it may rewrite the limits
//! of, or remove. So slices are started, changed and stopped by its manager's D-Bus interface, spoken over its private
//! socket: three methods of it, which root may call without a bus between. A D-Bus crate would bring 55 others.

mod plan;

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use parking_lot::Mutex;

use super::{Version, plan::Limits};
use crate::dbus::{
    self,
    message::{self, Argument, FIXED_BYTES, Received, Target, What},
};

/// Where systemd's manager listens for root.
pub(super) const SOCKET: &str = "/run/systemd/private";
/// systemd answers from memory, unless the machine is very busy.
const DEADLINE: Duration = Duration::from_secs(30);
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

#[derive(Debug, thiserror::Error)]
pub(super) enum SystemdError {
    #[error(
        "connect to systemd at {socket}; is systemd running here? (SystemdCgroup = false in the container runtime's configuration does without)"
    )]
    Connect {
        socket: String,
        #[source]
        source: io::Error,
    },
    #[error("{operation} {unit}: the connection to systemd failed")]
    Broken {
        operation: &'static str,
        unit: String,
        #[source]
        source: io::Error,
    },
    #[error("{operation} {unit}: systemd says {name}: {words}")]
    Refused { operation: &'static str, unit: String, name: String, words: String },
}

/// systemd's manager. Blocking, one call at a time; a broken connection is made anew at the next call.
#[derive(Debug)]
pub(super) struct Systemd {
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    serial: u32,
}

impl Systemd {
    pub(super) fn at(socket: impl Into<PathBuf>) -> Systemd {
        Systemd { socket: socket.into(), connection: Mutex::default() }
    }

    /// Starts the slice with these limits, or changes those that it has. Its cgroup may come a moment later.
    pub(super) fn ensure(&self, slice: &str, version: Version, limits: &Limits) -> Result<(), SystemdError> {
        let limits = plan::limits(version, limits);
        let mut properties = plan::start("Pods of this Kubernetes node");
        properties.extend(limits.iter().cloned());
        let arguments = [
            Argument::Text(slice),
            // An active slice is kept as it is, with an error that says so.
            Argument::Text("replace"),
            Argument::Properties(&properties),
            Argument::NoUnits,
        ];
        match self.call("StartTransientUnit", slice, &arguments) {
            Err(SystemdError::Refused { name, .. }) if name == UNIT_EXISTS => {
                // For this boot alone: after the next, the agent starts it again.
                let arguments = [Argument::Text(slice), Argument::Bool(true), Argument::Properties(&limits)];
                self.call("SetUnitProperties", slice, &arguments)
            }
            other => other,
        }
    }

    /// Stops the slice, with what runs in it. One that is not there is a success.
    pub(super) fn stop(&self, slice: &str) -> Result<(), SystemdError> {
        match self.call("StopUnit", slice, &[Argument::Text(slice), Argument::Text("replace")]) {
            Err(SystemdError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            other => other,
        }
    }

    fn call(
        &self,
        operation: &'static str,
        unit: &str,
        arguments: &[Argument<'_>],
    ) -> Result<(), SystemdError> {
        let mut connection = self.connection.lock();
        // systemd closes its side when it is executed anew (an upgrade of it): one more try, on a new connection.
        for last in [false, true] {
            let current = match &mut *connection {
                Some(current) => current,
                none => none.insert(Connection::open(&self.socket).map_err(|source| {
                    SystemdError::Connect { socket: self.socket.display().to_string(), source }
                })?),
            };
            match current.ask(operation, arguments) {
                Ok(What::Refused { name, words, .. }) => {
                    return Err(SystemdError::Refused { operation, unit: unit.into(), name, words });
                }
                Ok(_) => return Ok(()),
                Err(source) => {
                    *connection = None;
                    if last {
                        return Err(SystemdError::Broken { operation, unit: unit.into(), source });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Connection {
    fn open(socket: &std::path::Path) -> io::Result<Connection> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        // In one write, as systemd's own client does: its answer says that it has read "BEGIN". systemd 252 was seen not to
        // answer a call that could reach it together with that.
        stream.write_all(format!("{}BEGIN\r\n", dbus::greeting()).as_bytes())?;
        let line = read_line(&mut stream)?;
        if !line.starts_with("OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it answers {line:?}")));
        }
        Ok(Connection { stream, serial: 0 })
    }

    fn ask(&mut self, member: &str, arguments: &[Argument<'_>]) -> io::Result<What> {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        self.stream.write_all(&message::call(self.serial, &MANAGER, member, arguments))?;
        // Signals come in between: this socket gets all of them.
        loop {
            let what = self.read()?.what;
            if let What::Done { to, .. } | What::Refused { to, .. } = what
                && to == self.serial
            {
                return Ok(what);
            }
        }
    }

    fn read(&mut self) -> io::Result<Received> {
        let mut fixed = [0; FIXED_BYTES];
        self.stream.read_exact(&mut fixed)?;
        let mut bytes = fixed.to_vec();
        bytes.resize(FIXED_BYTES + message::rest(&fixed).map_err(dbus::wrong)?, 0);
        self.stream.read_exact(&mut bytes[FIXED_BYTES..])?;
        message::read(&bytes).map_err(dbus::wrong)
    }
}

fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    // Byte for byte: what follows the line belongs to the protocol after it.
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > dbus::LONGEST_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().into())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::Path, thread};

    use super::*;
    use crate::dbus::message::tests::{Answer, answering};

    /// Answers each call by `judge`, which gets the bytes of it; hangs up after `calls`.
    fn fake(
        socket: &Path,
        calls: usize,
        judge: impl Fn(&str) -> Option<(&'static str, &'static str)> + Send + 'static,
    ) -> thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(read_line(&mut stream).unwrap(), "\0AUTH EXTERNAL 30");
            stream.write_all(b"OK 0123\r\n").unwrap();
            assert_eq!(read_line(&mut stream).unwrap(), "BEGIN");
            let mut seen = Vec::new();
            for _ in 0..calls {
                let mut fixed = [0; FIXED_BYTES];
                stream.read_exact(&mut fixed).unwrap();
                let mut body = vec![0; message::rest(&fixed).unwrap()];
                stream.read_exact(&mut body).unwrap();
                let text = String::from_utf8_lossy(&body).into_owned();
                let serial = u32::from_le_bytes(fixed[8..12].try_into().unwrap());
                // Something that was not asked for comes first.
                stream.write_all(&answering(serial + 1000, &Answer::Job)).unwrap();
                let answer = judge(&text).map_or(Answer::Job, |(name, words)| Answer::Refusal(name, words));
                stream.write_all(&answering(serial, &answer)).unwrap();
                seen.push(text);
            }
            seen
        })
    }

    #[test]
    fn a_slice_that_is_there_gets_new_limits_and_one_that_is_gone_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("private");
        let answers = fake(&socket, 3, |call| {
            if call.contains("StartTransientUnit") {
                Some((UNIT_EXISTS, "Unit x.slice already exists."))
            } else if call.contains("StopUnit") {
                Some((NO_SUCH_UNIT, "Unit x.slice not loaded."))
            } else {
                None
            }
        });
        let systemd = Systemd::at(&socket);
        systemd.ensure("x.slice", Version::V2, &Limits { pids: Some(9), ..Limits::default() }).unwrap();
        systemd.stop("x.slice").unwrap();
        let seen = answers.join().unwrap();
        assert!(seen[1].contains("SetUnitProperties") && seen[1].contains("TasksMax"));
        assert!(!seen[1].contains("DefaultDependencies"), "which cannot be changed");
    }

    #[test]
    fn a_refusal_is_told_in_systemds_words_and_no_systemd_with_its_mend() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("private");
        let systemd = Systemd::at(&socket);
        let error = systemd.stop("x.slice").unwrap_err();
        assert!(error.to_string().contains("SystemdCgroup = false"), "{error}");
        let answers = fake(&socket, 1, |_| Some(("org.x.Denied", "not for you")));
        let error = systemd.stop("x.slice").unwrap_err();
        assert_eq!(error.to_string(), "StopUnit x.slice: systemd says org.x.Denied: not for you");
        answers.join().unwrap();
    }
}
