//! A remote command between a client's WebSocket channels and a runtime's SPDY streams.

use std::{collections::BTreeMap, io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};

use crate::{
    channels::{self, Channel, Protocol},
    spdy::{Frame, FrameReader, FrameWriter},
    websocket::{self, LINGER},
};

/// For the other side to accept the streams.
const REPLIES: Duration = Duration::from_secs(30);
/// A Status is small; more of an error is not kept.
const MAX_ERROR: usize = 64 * 1024;
/// Answers to pings that wait to be written.
const CONTROL: usize = 16;

/// Which streams a command has, besides that for its error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// In the order in which they are opened.
    fn channels(self) -> Vec<Channel> {
        let Wanted { stdin, stdout, stderr, tty } = self;
        let all = [
            (Channel::Error, true),
            (Channel::Stdin, stdin),
            (Channel::Stdout, stdout),
            // A terminal has one output.
            (Channel::Stderr, stderr && !tty),
            (Channel::Resize, tty),
        ];
        all.into_iter().filter(|(_, wanted)| *wanted).map(|(channel, _)| channel).collect()
    }
}

/// The streams and their numbers. Those of a client are odd.
struct Streams(BTreeMap<u32, Channel>);

impl Streams {
    fn new(wanted: Wanted) -> Streams {
        Streams((0..).map(|at: u32| at * 2 + 1).zip(wanted.channels()).collect())
    }

    fn number(&self, channel: Channel) -> Option<u32> {
        self.0.iter().find(|(_, known)| **known == channel).map(|(number, _)| *number)
    }

    /// What comes from the other side, and must end before the command has.
    fn incoming(&self) -> BTreeMap<u32, Channel> {
        let comes = |channel| matches!(channel, Channel::Stdout | Channel::Stderr | Channel::Error);
        self.0.iter().filter(|(_, channel)| comes(**channel)).map(|(n, c)| (*n, *c)).collect()
    }
}

/// Runs until the command has ended, or a side is gone. The client is told how the command ended on its error channel,
/// as far as its protocol tells it.
///
/// # Errors
/// When a connection fails.
pub async fn translate<S, R>(
    socket: WebSocketStream<S>,
    remote: R,
    wanted: Wanted,
    protocol: Protocol,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (mut to_client, mut from_client) = socket.split();
    let (read, write) = tokio::io::split(remote);
    let (mut reader, mut writer) = (FrameReader::new(read), FrameWriter::new(write));
    let streams = Streams::new(wanted);
    let first = wanted.channels().into_iter().find(|c| matches!(c, Channel::Stdout | Channel::Stderr));
    // An empty message on the first output says that the connection stands.
    let hello = protocol.write(first.unwrap_or(Channel::Error), b"");
    to_client.send(hello).await.map_err(websocket::io_error)?;

    let opened = timeout(REPLIES, open(&streams, &mut reader, &mut writer)).await;
    let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let ended = match opened {
        Err(error) => Err(error),
        Ok(early) => {
            let (control, controls) = mpsc::channel(CONTROL);
            let mut outwards =
                Outwards { protocol, open: streams.incoming(), error: BytesMut::new(), control };
            tokio::select! {
                ended = outwards.run(early, &mut reader, &mut to_client) => ended,
                ended = inwards((&streams, protocol), &mut from_client, controls, &mut writer) => return ended,
            }
        }
    };
    if let Err(error) = &ended
        && let Some(status) = protocol.write_end(failure(error).as_bytes())
    {
        to_client.send(status).await.map_err(websocket::io_error)?;
    }
    to_client.send(websocket::goodbye()).await.map_err(websocket::io_error)?;
    // The command has ended: whether the other side still listens does not matter.
    drop(writer.close().await);
    // To close with input unread would reset the connection, and the client might lose what it has not read yet.
    let leave = async { while from_client.next().await.is_some_and(|message| message.is_ok()) {} };
    drop(timeout(LINGER, leave).await);
    ended
}

/// Opens the streams and waits until all are accepted. Gives what came meanwhile.
async fn open<R, W>(
    streams: &Streams,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> io::Result<Vec<Frame>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    for (number, channel) in &streams.0 {
        let headers = vec![("streamtype".to_owned(), channel.stream_type().to_owned())];
        writer
            .send(&Frame::SynStream {
                stream: *number,
                associated: 0,
                priority: 0,
                fin: false,
                unidirectional: false,
                headers,
            })
            .await?;
    }
    let mut waiting: Vec<u32> = streams.0.keys().copied().collect();
    let mut early = Vec::new();
    while !waiting.is_empty() {
        match reader.next().await? {
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Frame::SynReply { stream, .. }) => waiting.retain(|number| *number != stream),
            Some(Frame::RstStream { stream, .. }) if waiting.contains(&stream) => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "a stream was refused"));
            }
            Some(Frame::Ping { id }) => writer.send(&Frame::Ping { id }).await?,
            Some(other) => early.push(other),
        }
    }
    Ok(early)
}

/// The client's messages, and answers to pings, until the client goes.
async fn inwards<C, W>(
    (streams, protocol): (&Streams, Protocol),
    client: &mut C,
    mut controls: mpsc::Receiver<Frame>,
    writer: &mut FrameWriter<W>,
) -> io::Result<()>
where
    C: Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let message = tokio::select! {
            Some(control) = controls.recv() => {
                writer.send(&control).await?;
                continue;
            }
            message = client.next() => message,
        };
        let bytes = match message {
            None | Some(Ok(Message::Close(_))) => return Ok(()),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(websocket::io_error(error)),
        };
        let (channel, data, fin) = match protocol.read(bytes) {
            channels::Message::Data(channel, data) if !data.is_empty() => (channel, data, false),
            channels::Message::Close(channel) => (channel, Bytes::new(), true),
            channels::Message::Data(..) | channels::Message::Unknown => continue,
        };
        let takes = matches!(channel, Channel::Stdin | Channel::Resize);
        if let Some(stream) = streams.number(channel).filter(|_| takes) {
            writer.send(&Frame::Data { stream, fin, data }).await?;
        }
    }
}

/// The command's output and error.
struct Outwards {
    protocol: Protocol,
    /// Streams of the other side that have not ended.
    open: BTreeMap<u32, Channel>,
    error: BytesMut,
    control: mpsc::Sender<Frame>,
}

impl Outwards {
    async fn run<R, C>(
        &mut self,
        early: Vec<Frame>,
        reader: &mut FrameReader<R>,
        client: &mut C,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        C: Sink<Message, Error = tungstenite::Error> + Unpin,
    {
        for frame in early {
            self.take(frame, client).await?;
        }
        while !self.open.is_empty() {
            match reader.next().await {
                Ok(Some(frame)) => self.take(frame, client).await?,
                // The end of the connection ends its streams. Without a word on the error stream, nobody knows
                // how the command ended.
                Ok(None) => break,
                Err(_) if !self.error.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        if self.error.is_empty() && self.open.values().any(|channel| *channel == Channel::Error) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection to the container was lost",
            ));
        }
        let status = if self.error.is_empty() { SUCCESS.as_bytes() } else { &self.error };
        match self.protocol.write_end(status) {
            Some(status) => client.send(status).await.map_err(websocket::io_error),
            None => Ok(()),
        }
    }

    async fn take<C>(&mut self, frame: Frame, client: &mut C) -> io::Result<()>
    where
        C: Sink<Message, Error = tungstenite::Error> + Unpin,
    {
        match frame {
            Frame::Data { stream, fin, data } => {
                match self.open.get(&stream) {
                    Some(Channel::Error) => {
                        let room = MAX_ERROR.saturating_sub(self.error.len());
                        self.error.extend_from_slice(&data[..data.len().min(room)]);
                    }
                    Some(channel) if !data.is_empty() => {
                        let message = self.protocol.write(*channel, &data);
                        client.send(message).await.map_err(websocket::io_error)?;
                    }
                    _ => {}
                }
                self.ended(stream, fin);
            }
            Frame::RstStream { stream, .. } => self.ended(stream, true),
            Frame::Headers { stream, fin, .. } => self.ended(stream, fin),
            // A ping that finds the queue full is one of many that are not yet answered.
            Frame::Ping { id } => drop(self.control.try_send(Frame::Ping { id })),
            Frame::GoAway { .. }
            | Frame::SynStream { .. }
            | Frame::SynReply { .. }
            | Frame::Settings { .. }
            | Frame::WindowUpdate { .. }
            | Frame::Unknown { .. } => {}
        }
        Ok(())
    }

    fn ended(&mut self, stream: u32, fin: bool) {
        if fin {
            self.open.remove(&stream);
        }
    }
}

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

/// A Status in JSON for a connection that failed.
fn failure(error: &io::Error) -> String {
    let words: String = error
        .to_string()
        .chars()
        .map(|c| if c.is_control() || c == '"' || c == '\\' { ' ' } else { c })
        .collect();
    format!(
        r#"{{"metadata":{{}},"status":"Failure","message":"Internal error occurred: {words}","reason":"InternalError","details":{{"causes":[{{"message":"{words}"}}]}},"code":500}}"#
    )
}

#[cfg(test)]
mod tests;
