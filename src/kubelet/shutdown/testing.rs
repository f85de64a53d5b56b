//! A system bus with systemd and logind behind it, for tests: it speaks the protocol, gives locks, and knows which are held.

use std::{
    io::IoSlice,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use lifecycle::Scope;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
    unistd::{pipe2, read},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Period, Settings};
use crate::dbus::message::{
    self, FIXED_BYTES, Value,
    tests::{Answer, answering, signal},
};

const IN_PROGRESS: &str = "org.freedesktop.login1.OperationInProgress";

type Line = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;

#[derive(Default)]
struct State {
    preparing: bool,
    delay_s: u64,
    /// What of a configuration that is read again has an effect.
    reloads: bool,
    /// The other ends of the locks that were given.
    locks: Vec<OwnedFd>,
    calls: Vec<String>,
    lines: Vec<Line>,
}

pub(crate) struct FakeLogind {
    state: Arc<Mutex<State>>,
    scope: Scope,
    dir: tempfile::TempDir,
}

impl FakeLogind {
    /// Waits for 5 s, as logind does where nobody says otherwise.
    pub(crate) fn start() -> FakeLogind {
        let dir = tempfile::tempdir().unwrap();
        let state = State { delay_s: 5, reloads: true, ..State::default() };
        let fake = FakeLogind { state: Arc::new(Mutex::new(state)), scope: Scope::root("bus"), dir };
        fake.listen();
        fake
    }

    pub(crate) fn settings(&self, periods: Vec<Period>) -> Settings {
        Settings { periods, bus: self.dir.path().join("bus"), drop_in: self.drop_in() }
    }

    pub(crate) fn drop_in(&self) -> PathBuf {
        self.dir.path().join("logind.conf.d/own.conf")
    }

    fn listen(&self) {
        let listener = UnixListener::bind(self.dir.path().join("bus")).unwrap();
        let (state, drop_in, token) = (self.state.clone(), self.drop_in(), self.scope.token());
        let scope = self.scope.clone();
        self.scope.spawn("bus", async move {
            loop {
                let stream = tokio::select! {
                    () = token.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let talk = talk(stream, state.clone(), drop_in.clone());
                let token = token.clone();
                scope.spawn("line", async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        _ended = talk => {}
                    }
                });
            }
        });
    }

    pub(crate) fn ignore_configuration(&self) {
        self.state.lock().reloads = false;
    }

    /// What is so, for whoever asks.
    pub(crate) fn set_preparing(&self, preparing: bool) {
        self.state.lock().preparing = preparing;
    }

    /// What anybody on a bus may send.
    pub(crate) async fn signal(&self, preparing: bool) {
        let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
        let bytes = signal(path, interface, "PrepareForShutdown", preparing);
        let lines = self.state.lock().lines.clone();
        for line in lines {
            drop(line.lock().await.write_all(&bytes).await);
        }
    }

    pub(crate) async fn prepare(&self, preparing: bool) {
        self.set_preparing(preparing);
        self.signal(preparing).await;
    }

    /// Every connection breaks.
    pub(crate) async fn hang_up(&self) {
        let lines = std::mem::take(&mut self.state.lock().lines);
        for line in lines {
            drop(line.lock().await.shutdown().await);
        }
    }

    /// Of each lock that was ever given, whether it is held.
    pub(crate) fn locks(&self) -> Vec<bool> {
        let is_held = |lock: &OwnedFd| match read(lock, &mut [0]) {
            Err(Errno::EAGAIN) => true,
            Ok(0) => false,
            other => panic!("{other:?}"),
        };
        self.state.lock().locks.iter().map(is_held).collect()
    }

    pub(crate) fn calls(&self, member: &str) -> usize {
        self.state.lock().calls.iter().filter(|call| call.contains(member)).count()
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn(&FakeLogind) -> bool) {
        let level = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), level)
            .await
            .unwrap_or_else(|_| panic!("never: {what}; {:?}, {:?}", self.locks(), self.state.lock().calls));
    }

    pub(crate) async fn close(self) {
        assert!(self.scope.close(Duration::from_secs(60)).await);
    }
}

async fn line(stream: &mut OwnedReadHalf) -> std::io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(line).unwrap())
}

async fn talk(stream: UnixStream, state: Arc<Mutex<State>>, drop_in: PathBuf) -> std::io::Result<()> {
    let (mut from, to) = stream.into_split();
    let to: Line = Arc::new(tokio::sync::Mutex::new(to));
    assert!(line(&mut from).await?.starts_with("\0AUTH EXTERNAL 3"));
    // In two parts, as a stream may come.
    to.lock().await.write_all(b"OK 01").await?;
    to.lock().await.write_all(b"23\r\n").await?;
    assert_eq!(line(&mut from).await?, "NEGOTIATE_UNIX_FD\r\n");
    to.lock().await.write_all(b"AGREE_UNIX_FD\r\n").await?;
    assert_eq!(line(&mut from).await?, "BEGIN\r\n");
    state.lock().lines.push(to.clone());
    loop {
        let mut fixed = [0; FIXED_BYTES];
        from.read_exact(&mut fixed).await?;
        let mut rest = vec![0; message::rest(&fixed).unwrap()];
        from.read_exact(&mut rest).await?;
        let call = String::from_utf8_lossy(&rest).into_owned();
        let serial = u32::from_le_bytes(fixed[8..12].try_into().unwrap());
        let (answer, lock) = answer(&state, &call, &drop_in);
        state.lock().calls.push(call);
        send(&*to.lock().await, &answering(serial, &answer), lock).await?;
    }
}

fn answer(state: &Mutex<State>, call: &str, drop_in: &PathBuf) -> (Answer<'static>, Option<OwnedFd>) {
    let mut state = state.lock();
    let answer = if call.contains("Hello") {
        Answer::Name(":1.7")
    } else if call.contains("PreparingForShutdown") {
        Answer::Variant(Value::Bool(state.preparing))
    } else if call.contains("InhibitDelayMaxUSec") {
        Answer::Variant(Value::Number(state.delay_s * 1_000_000))
    } else if call.contains("Inhibit") && state.preparing {
        Answer::Refusal(IN_PROGRESS, "The operation inhibition has been requested for is already running")
    } else if call.contains("Inhibit") {
        let (kept, given) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        state.locks.push(kept);
        return (Answer::Handle, Some(given));
    } else if call.contains("KillUnit") {
        let text = std::fs::read_to_string(drop_in).unwrap_or_default();
        let seconds = text.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec="));
        if state.reloads {
            state.delay_s = seconds.map_or(5, |seconds| seconds.parse().unwrap());
            Answer::Nothing
        } else {
            Answer::Refusal("org.x.Denied", "not for you")
        }
    } else {
        Answer::Nothing
    };
    (answer, None)
}

async fn send(to: &OwnedWriteHalf, bytes: &[u8], lock: Option<OwnedFd>) -> std::io::Result<()> {
    let stream: &UnixStream = to.as_ref();
    let fds: Vec<_> = lock.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[] } else { &control[..] };
    let sent = stream.async_io(Interest::WRITABLE, || {
        Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_DONTWAIT, None)?)
    });
    assert_eq!(sent.await?, bytes.len());
    Ok(())
}
