//! How many bytes a TCP connection carries from one network namespace to another.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use nix::sched::{CloneFlags, setns};

const CHUNK: usize = 128 * 1024;

/// Gigabits in a second, from the namespace `from` to `to`, which is at `address`, for `time`.
pub(crate) fn blast(from: &Path, to: &Path, address: IpAddr, time: Duration) -> anyhow::Result<f64> {
    let (receiver, sender) = (File::open(to)?, File::open(from)?);
    let listener = thread::scope(|scope| {
        let bound = scope.spawn(move || -> anyhow::Result<TcpListener> {
            setns(&receiver, CloneFlags::CLONE_NEWNET)?;
            Ok(TcpListener::bind((address, 0))?)
        });
        bound.join().unwrap_or_else(|_| bail!("a panic, see above"))
    })
    .with_context(|| format!("listen at {address}"))?;
    let address = listener.local_addr()?;
    // Before anybody waits for the connection: the kernel takes it for a listener that does not accept yet.
    let stream = thread::scope(|scope| {
        let connected = scope.spawn(move || -> anyhow::Result<TcpStream> {
            setns(&sender, CloneFlags::CLONE_NEWNET)?;
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(5))?)
        });
        connected.join().unwrap_or_else(|_| bail!("a panic, see above"))
    })
    .with_context(|| format!("connect to {address}"))?;
    thread::scope(|scope| {
        // What arrived counts, not what was sent.
        let received = scope.spawn(move || receive(&listener));
        let sent = scope.spawn(move || send(stream, time));
        sent.join().map_err(|_| anyhow!("a panic, see above"))??;
        received.join().map_err(|_| anyhow!("a panic, see above"))?
    })
}

fn receive(listener: &TcpListener) -> anyhow::Result<f64> {
    let (mut stream, _) = listener.accept()?;
    let (started, mut bytes, mut chunk) = (Instant::now(), 0.0, vec![0; CHUNK]);
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(bytes * 8.0 / started.elapsed().as_secs_f64() / 1e9),
            #[expect(clippy::cast_precision_loss, reason = "a chunk is small")]
            read => bytes += read as f64,
        }
    }
}

fn send(mut stream: TcpStream, time: Duration) -> anyhow::Result<()> {
    let (until, chunk) = (Instant::now() + time, vec![7; CHUNK]);
    while Instant::now() < until {
        stream.write_all(&chunk)?;
    }
    Ok(())
}
