//! What the suite tells while it runs: each of its processes posts how a spec ended (`--progress-report-url`).

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use crate::cluster::Cluster;

/// A spec that has ended.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) passed: bool,
}

pub(crate) struct Events {
    pub(crate) url: String,
    pub(crate) receiver: Receiver<Event>,
}

/// More than the suite has specs: nobody waits for who reads.
const ROOM: usize = 10_000;

impl Events {
    /// Listens on the loopback of the machine that the suite runs on, until nobody reads any more.
    pub(crate) fn listen(cluster: &Cluster) -> anyhow::Result<Self> {
        let namespace =
            cluster.client_namespace().ok_or_else(|| anyhow!("the link's commands name no namespace"))?;
        let namespace = File::open(&namespace).with_context(|| namespace.display().to_string())?;
        // A socket belongs to the namespace of the thread that made it, wherever it is used then.
        let bound = thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter the link's namespace")?;
            TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("listen for the suite")
        });
        let listener = bound.join().map_err(|_| anyhow!("a panic, see above"))??;
        let url = format!("http://{}/", listener.local_addr()?);
        let (tell, receiver) = sync_channel(ROOM);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let tell = tell.clone();
                thread::spawn(move || serve(&stream, &tell));
            }
        });
        Ok(Self { url, receiver })
    }
}

/// One connection, with as many posts as its process makes. Whatever is wrong with it ends it; the report that the suite
/// writes at its end tells the same again.
fn serve(stream: &TcpStream, tell: &SyncSender<Event>) {
    let mut reader = BufReader::new(stream);
    while let Some(body) = post(&mut reader) {
        let event = said(&body);
        if event.is_some_and(|event| tell.send(event).is_err()) {
            return;
        }
        let mut writer = stream;
        if writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

/// The body of the next request; `None` at the end of the connection.
fn post(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    const LARGEST: usize = 16 << 20;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok().filter(|length| *length <= LARGEST)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

/// `None` for what is no spec's end: the start and the end of the suite.
fn said(body: &[u8]) -> Option<Event> {
    #[derive(Deserialize)]
    struct Post {
        msg: String,
    }
    let Post { msg } = serde_json::from_slice(body).ok()?;
    let (word, name) = msg.split_once(' ')?;
    let passed = match word {
        "PASSED" => true,
        "FAILED" => false,
        _ => return None,
    };
    Some(Event { name: name.trim_end().to_string(), passed })
}

/// How long a reader waits before it looks at other things.
pub(crate) const TICK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_tells_how_a_spec_ended() {
        let body =
            br#"{"msg":"FAILED [sig-node] Pods run: twice","total":5,"completed":0,"skipped":9,"failed":1}"#;
        let event = Event { name: "[sig-node] Pods run: twice".into(), passed: false };
        assert_eq!(said(body), Some(event));
        assert_eq!(said(br#"{"msg":"Test Suite starting"}"#), None);
        assert_eq!(said(br#"{"msg":""}"#), None);
        assert_eq!(said(b"not JSON"), None);
    }

    #[test]
    fn one_connection_carries_many_posts() {
        let request = "POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nde";
        let mut reader = request.as_bytes();
        assert_eq!(post(&mut reader).as_deref(), Some(b"abc".as_slice()));
        assert_eq!(post(&mut reader).as_deref(), Some(b"de".as_slice()));
        assert_eq!(post(&mut reader), None);
        assert_eq!(post(&mut b"Content-Length: 99999999999\r\n\r\n".as_slice()), None);
    }
}
