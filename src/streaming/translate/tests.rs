//! A client with a WebSocket, a runtime with SPDY, and what is between them.

use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

/// A runtime's end: accepts streams and says what it is told to.
struct Runtime {
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: FrameWriter<WriteHalf<DuplexStream>>,
    streams: BTreeMap<String, u32>,
}

impl Runtime {
    async fn accept(io: DuplexStream, count: usize) -> Runtime {
        let (read, write) = split(io);
        let mut runtime = Runtime {
            reader: FrameReader::new(read),
            writer: FrameWriter::new(write),
            streams: BTreeMap::new(),
        };
        while runtime.streams.len() < count {
            let Some(Frame::SynStream { stream, headers, .. }) = runtime.reader.next().await.unwrap() else {
                panic!("no stream was opened")
            };
            assert_eq!(headers[0].0, "streamtype");
            runtime.streams.insert(headers[0].1.clone(), stream);
            runtime.send(Frame::SynReply { stream, fin: false, headers: Vec::new() }).await;
        }
        runtime
    }

    async fn send(&mut self, frame: Frame) {
        self.writer.send(&frame).await.unwrap();
    }

    async fn say(&mut self, stream: &str, text: &'static str, fin: bool) {
        let stream = self.streams[stream];
        self.send(Frame::Data { stream, fin, data: Bytes::from_static(text.as_bytes()) }).await;
    }

    async fn hears(&mut self) -> Frame {
        self.reader.next().await.unwrap().unwrap()
    }
}

async fn ends() -> (WebSocketStream<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (client, server) = duplex(1 << 16);
    (
        WebSocketStream::from_raw_socket(client, Role::Client, None).await,
        WebSocketStream::from_raw_socket(server, Role::Server, None).await,
    )
}

/// All binary messages, until both have said goodbye.
async fn rest(client: &mut WebSocketStream<DuplexStream>) -> Vec<Bytes> {
    let mut seen = Vec::new();
    loop {
        match client.next().await {
            Some(Ok(Message::Binary(bytes))) => seen.push(bytes),
            Some(Ok(Message::Close(_))) => {}
            None => return seen,
            other => panic!("{other:?}"),
        }
    }
}

const IO: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
const V5: Protocol = Protocol::ALL[0];

#[tokio::test]
async fn stdin_ends_alone_and_the_command_ends_with_its_status() {
    let ((mut client, server), (near, far)) = (ends().await, duplex(1 << 16));
    let talk = async {
        let mut runtime = Runtime::accept(far, 4).await;
        client.send(Message::Binary(b"\x00hello".as_slice().into())).await.unwrap();
        client.send(Message::Binary(b"\xff\x00".as_slice().into())).await.unwrap();
        let stdin = runtime.streams["stdin"];
        let hello = Frame::Data { stream: stdin, fin: false, data: Bytes::from_static(b"hello") };
        assert_eq!(runtime.hears().await, hello);
        assert_eq!(runtime.hears().await, Frame::Data { stream: stdin, fin: true, data: Bytes::new() });
        runtime.say("stdout", "out", true).await;
        runtime.say("stderr", "err", true).await;
        runtime.say("error", r#"{"status":"#, false).await;
        runtime.say("error", r#""Failure"}"#, true).await;
        rest(&mut client).await
    };
    let (ended, seen) = tokio::join!(translate(server, near, IO, V5), talk);
    ended.unwrap();
    assert_eq!(seen, [&b"\x01"[..], b"\x01out", b"\x02err", b"\x03{\"status\":\"Failure\"}"]);
}

#[tokio::test]
async fn a_terminal_has_sizes_and_one_output() {
    let ((mut client, server), (near, far)) = (ends().await, duplex(1 << 16));
    let talk = async {
        let mut runtime = Runtime::accept(far, 4).await;
        let names: Vec<&str> = runtime.streams.keys().map(String::as_str).collect();
        assert_eq!(names, ["error", "resize", "stdin", "stdout"]);
        client.send(Message::Binary(b"\x04{\"Width\":1}".as_slice().into())).await.unwrap();
        let data = Bytes::from_static(b"{\"Width\":1}");
        let stream = runtime.streams["resize"];
        assert_eq!(runtime.hears().await, Frame::Data { stream, fin: false, data });
        for stream in runtime.streams.clone().into_values() {
            runtime.send(Frame::RstStream { stream, status: 5 }).await;
        }
        rest(&mut client).await
    };
    let (ended, seen) = tokio::join!(translate(server, near, Wanted { tty: true, ..IO }, V5), talk);
    ended.unwrap();
    let status = [&b"\x03"[..], SUCCESS.as_bytes()].concat();
    assert_eq!(seen, [Bytes::from_static(b"\x01"), Bytes::from(status)]);
}

#[tokio::test]
async fn a_connection_that_is_lost_is_a_failure_and_not_a_success() {
    let ((mut client, server), (near, far)) = (ends().await, duplex(1 << 16));
    let talk = async {
        let mut runtime = Runtime::accept(far, 4).await;
        runtime.say("stdout", "half", false).await;
        drop(runtime);
        rest(&mut client).await
    };
    let (ended, seen) = tokio::join!(translate(server, near, IO, V5), talk);
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let last = String::from_utf8(seen.last().unwrap().to_vec()).unwrap();
    assert!(last.contains("\"Failure\"") && last.contains("was lost"), "{last}");
}

#[tokio::test]
async fn pings_of_the_runtime_are_answered_and_those_of_the_client_too() {
    let ((mut client, server), (near, far)) = (ends().await, duplex(1 << 16));
    let talk = async {
        let mut runtime = Runtime::accept(far, 4).await;
        runtime.send(Frame::Ping { id: 2 }).await;
        assert_eq!(runtime.hears().await, Frame::Ping { id: 2 });
        client.send(Message::Ping("x".into())).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(b"\x01".as_slice().into()));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("x".into()));
        client.close(None).await.unwrap();
        // Held until the translation has ended: its end would be a lost connection, which races with the close.
        runtime
    };
    let (ended, _runtime) = tokio::join!(translate(server, near, IO, V5), talk);
    ended.unwrap();
}

#[tokio::test]
async fn output_flows_while_input_is_stuck() {
    // The runtime reads no input until all its output is taken: more of both than the connections hold.
    let ((mut client, server), (near, far)) = (ends().await, duplex(1 << 12));
    let talk = async {
        let mut runtime = Runtime::accept(far, 4).await;
        let (mut sink, mut stream) = (&mut client).split();
        let input = async {
            for _ in 0..64 {
                let mut piece = vec![0; 4096];
                piece.insert(0, 0);
                sink.send(Message::Binary(piece.into())).await.unwrap();
            }
        };
        let output = async {
            for _ in 0..64 {
                runtime.say("stdout", "0123456789abcdef0123456789abcdef", false).await;
            }
            let mut taken = 0;
            while taken < 64 * 4096 {
                if let Frame::Data { data, .. } = runtime.hears().await {
                    taken += data.len();
                }
            }
            for name in ["stdout", "stderr", "error"] {
                runtime.say(name, "", true).await;
            }
        };
        let reading = async {
            let mut seen = 0;
            while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
                seen += usize::from(bytes.len() > 1);
            }
            assert!(stream.next().await.is_none());
            seen
        };
        tokio::join!(input, output, reading).2
    };
    let (ended, seen) = tokio::join!(translate(server, near, IO, V5), talk);
    ended.unwrap();
    assert_eq!(seen, 65);
}

#[tokio::test]
async fn an_old_client_gets_the_output_and_no_word_of_a_success() {
    let ((mut client, server), (near, far)) = (ends().await, duplex(1 << 16));
    let wanted = Wanted { stdin: false, ..IO };
    let talk = async {
        let mut runtime = Runtime::accept(far, 3).await;
        runtime.say("stdout", "out", true).await;
        runtime.say("stderr", "", true).await;
        runtime.say("error", SUCCESS, true).await;
        rest(&mut client).await
    };
    let old = Protocol::choose(["channel.k8s.io"].into_iter()).unwrap();
    let (ended, seen) = tokio::join!(translate(server, near, wanted, old), talk);
    ended.unwrap();
    assert_eq!(seen, [&b"\x01"[..], b"\x01out"]);
}
