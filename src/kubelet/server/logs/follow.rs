//! Reads a log file, and what is written to it from then on.
//!
//! The kernel says when something is written, when the file is rotated, and when its writer closes it. Only then is it
//! asked whether the container has ended: by the close, all it wrote is in the file.

use std::{
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    time::Instant,
};

use super::{line::Renderer, options::LogOptions};

/// Says whether the container still runs.
pub(super) type Writing = Box<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

const BLOCK: usize = 64 * 1024;
/// A line of the file is at most some 16 KiB (runtimes cut longer ones); what is longer is no log.
const MAX_LINE: usize = 1024 * 1024;
/// The runtime closes the file a little before it says that the container has ended: asked again after, doubling.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASKED: u32 = 8;

pub(super) struct LogStream {
    path: PathBuf,
    file: File,
    /// Read and not yet a whole line.
    buffer: Vec<u8>,
    renderer: Renderer,
    watch: Option<Watch>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// What there is now is all there will be.
    Last,
    /// Another file has this one's name: after what is left in this one.
    Rotated,
    Done,
}

struct Watch {
    events: EventStream<Vec<u8>>,
    writing: Writing,
    /// The writer has closed the file: when to ask next whether the container has ended, and how often that was done.
    closed: Option<(Instant, u32)>,
}

impl LogStream {
    pub(super) async fn open(path: &Path, options: LogOptions, writing: Writing) -> io::Result<LogStream> {
        // Watched before it is read, so that nothing falls in between.
        let watch = if options.follow {
            let inotify = Inotify::init()?;
            let mask = WatchMask::MODIFY
                | WatchMask::CLOSE_WRITE
                | WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::DELETE_SELF;
            inotify.watches().add(path.parent().unwrap_or(Path::new("/")), mask)?;
            let events = inotify.into_event_stream(vec![0; 4096])?;
            Some(Watch { events, writing, closed: None })
        } else {
            None
        };
        let mut file = File::open(path).await?;
        if let Some(lines) = options.tail {
            let at = tail(&mut file, lines).await?;
            file.seek(SeekFrom::Start(at)).await?;
        }
        let ended = match &watch {
            Some(watch) => !(watch.writing)().await,
            None => true,
        };
        let state = if ended { State::Last } else { State::Reading };
        let renderer = Renderer::new(&options);
        Ok(LogStream { path: path.to_owned(), file, buffer: Vec::new(), renderer, watch, state })
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = Vec::new();
        while self.state != State::Done {
            let from = self.buffer.len();
            self.buffer.resize(from + BLOCK, 0);
            let read = self.file.read(&mut self.buffer[from..]).await;
            self.buffer.truncate(from + *read.as_ref().unwrap_or(&0));
            if read? > 0 {
                self.render(&mut out);
            } else {
                self.at_end(&mut out).await?;
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }

    fn render(&mut self, out: &mut Vec<u8>) {
        let mut begin = 0;
        while let Some(length) = self.buffer[begin..].iter().position(|byte| *byte == b'\n') {
            let end = begin + length + 1;
            if !self.renderer.add(&self.buffer[begin..end], out) {
                self.state = State::Done;
                return;
            }
            begin = end;
        }
        self.buffer.drain(..begin);
        if self.buffer.len() > MAX_LINE {
            self.buffer.clear();
        }
    }

    async fn at_end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self.state {
            State::Reading => self.wait().await?,
            State::Last => {
                self.unfinished(out);
                self.state = State::Done;
            }
            State::Rotated => {
                self.unfinished(out);
                // Gone already: the next event tells of the next file.
                match File::open(&self.path).await {
                    Ok(file) => self.file = file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                if self.state == State::Rotated {
                    self.state = State::Reading;
                }
            }
            State::Done => {}
        }
        Ok(())
    }

    /// A last line that has no end.
    fn unfinished(&mut self, out: &mut Vec<u8>) {
        if !self.renderer.add(&std::mem::take(&mut self.buffer), out) {
            self.state = State::Done;
        }
    }

    /// Until there may be more to read, or nothing more will be.
    async fn wait(&mut self) -> io::Result<()> {
        let Some(watch) = &mut self.watch else {
            self.state = State::Last;
            return Ok(());
        };
        let ask = async {
            match watch.closed {
                Some((at, _)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = watch.events.next() => event.ok_or(io::ErrorKind::UnexpectedEof)??,
            () = ask => {
                if !(watch.writing)().await {
                    self.state = State::Last;
                }
                watch.closed = watch.closed.and_then(|(_, asked)| {
                    (asked < ASKED).then(|| (Instant::now() + ASK_AGAIN * 2_u32.pow(asked), asked + 1))
                });
                return Ok(());
            }
        };
        if event.mask.intersects(EventMask::DELETE_SELF | EventMask::IGNORED) {
            self.state = State::Last;
            return Ok(());
        }
        if event.mask.contains(EventMask::CLOSE_WRITE) {
            watch.closed = Some((Instant::now(), 0));
        }
        let appeared = EventMask::CREATE | EventMask::MOVED_TO | EventMask::Q_OVERFLOW;
        if event.mask.intersects(appeared) && self.is_another().await? {
            self.state = State::Rotated;
        }
        Ok(())
    }

    /// The path names another file than the open one.
    async fn is_another(&self) -> io::Result<bool> {
        let open = self.file.metadata().await?;
        match tokio::fs::metadata(&self.path).await {
            Ok(named) => Ok((named.dev(), named.ino()) != (open.dev(), open.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Where the last `lines` lines begin.
async fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut right = file.seek(SeekFrom::End(0)).await?;
    let size = right;
    let mut seen = 0;
    let mut block = vec![0; BLOCK];
    while right > 0 {
        let left = right.saturating_sub(BLOCK as u64);
        let length = usize::try_from(right - left).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(left)).await?;
        file.read_exact(&mut block[..length]).await?;
        for at in (0..length).rev().filter(|at| block[*at] == b'\n') {
            let after = left + at as u64 + 1;
            // A newline at the very end ends the last line, and begins none.
            if seen == lines && (lines > 0 || after == size) {
                return Ok(after);
            }
            seen += 1;
        }
        right = left;
    }
    Ok(if lines == 0 { size } else { 0 })
}
