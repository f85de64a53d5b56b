//! watch: a stream of events, one JSON object a line.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    call::{Api, Call},
    options::{ListOptions, Version},
    read, respond,
};
use crate::{
    body::{Body, BoxError},
    cache::{Cache, Delivered, Start, Watcher},
    encode::{
        accept::{Format, Shape},
        table,
    },
    status::ApiError,
};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A bookmark shortly before the end lets the client go on from there.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Watches without a timeout end after this long, and up to twice that (upstream's `--min-request-timeout`).
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Events that are ready together travel together.
const FRAME: usize = 64 << 10;

pub(crate) async fn watch(
    api: &Arc<Api>,
    call: Call,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    if call.wanted.format != Format::Json {
        return Err(ApiError::not_acceptable(&["application/json", "application/json;stream=watch"]));
    }
    let options = ListOptions::read(&call.info.query, true)?;
    let selection = read::selection(&call, &options)?;
    let (start, fresh) = start_of(&options);
    if let Some(version) = fresh {
        read::fresh_enough(api, version).await?;
    }
    let cache = call.cache(api)?;
    let watcher = match api.cache.watch(&cache, selection, start, streaming::serve::this_response()) {
        Ok(watcher) => watcher,
        // As upstream: the watch itself succeeds, its one event is the error.
        Err(error) => return Ok(streamed(stream::iter([Ok(Frame::data(error_line(&error)))]))),
    };
    let stream = WatchStream::new(api.cache.clone(), call, &options, watcher, stop);
    let frames = stream::unfold(stream, |mut stream| async move {
        let frame = stream.next_frame().await?;
        Some((Ok(Frame::data(frame)), stream))
    });
    Ok(streamed(frames))
}

fn streamed(
    frames: impl futures_util::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + 'static,
) -> Response<Body> {
    respond::response(StatusCode::OK, "application/json", StreamBody::new(frames).boxed_unsync())
}

/// Where to start, and how fresh the cache must be for that.
fn start_of(options: &ListOptions) -> (Start, Option<Version>) {
    match (options.send_initial_events, options.resource_version) {
        (Some(true), version) => (Start::Initial, Some(version)),
        (Some(false), Version::Unset | Version::Any) => (Start::Now, Some(Version::Unset)),
        (None, Version::Unset) => (Start::Initial, Some(Version::Unset)),
        (None, Version::Any) => (Start::Initial, Some(Version::Any)),
        (None | Some(false), Version::At(revision)) => (Start::After(revision), None),
    }
}

fn error_line(error: &ApiError) -> Bytes {
    line(&json!({"type": "ERROR", "object": error.to_value()}))
}

fn line(value: &Value) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// What a watch still has to send.
struct WatchStream {
    cache: Arc<Cache>,
    call: Call,
    watcher: Watcher,
    initial: std::vec::IntoIter<Delivered>,
    phase: Phase,
    bookmarks: bool,
    tick: Interval,
    deadline: Instant,
    last_bookmark: Option<Instant>,
    stop: CancellationToken,
    /// In a watch of Tables, the first one has said what the columns are.
    columns_sent: bool,
    /// Everything up to here has been sent.
    sent: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sending what was there; then a bookmark that says so, if it was asked for.
    Initial {
        announce_end: bool,
    },
    Live,
    /// One last bookmark was sent.
    Ended,
}

/// Why a live watch wakes.
enum Wake {
    Event(Delivered),
    Bookmark,
    Closed,
    Over,
}

impl WatchStream {
    fn new(
        cache: Arc<Cache>,
        call: Call,
        options: &ListOptions,
        mut watcher: Watcher,
        stop: CancellationToken,
    ) -> Self {
        let announce_end = options.send_initial_events == Some(true) && options.bookmarks;
        let spread = uuid::Uuid::new_v4().as_u128() % MIN_TIMEOUT.as_millis();
        let default = MIN_TIMEOUT + Duration::from_millis(u64::try_from(spread).unwrap_or(0));
        let timeout = options.timeout_secs.filter(|secs| *secs > 0).map_or(default, Duration::from_secs);
        let now = Instant::now();
        let mut tick = tokio::time::interval_at(now + Duration::from_secs(1), Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            cache,
            call,
            initial: std::mem::take(&mut watcher.initial).into_iter(),
            sent: watcher.start,
            watcher,
            phase: Phase::Initial { announce_end },
            bookmarks: options.bookmarks,
            tick,
            deadline: now + timeout,
            last_bookmark: Some(now),
            stop,
            columns_sent: false,
        }
    }

    async fn next_frame(&mut self) -> Option<Bytes> {
        loop {
            match self.phase {
                Phase::Initial { announce_end } => match self.initial_frame() {
                    Some(frame) => return Some(frame),
                    None => {
                        self.phase = Phase::Live;
                        if announce_end {
                            return Some(self.bookmark(self.sent, true));
                        }
                    }
                },
                Phase::Live => match self.wake().await {
                    Wake::Event(event) => return Some(self.frame_from(event)),
                    Wake::Bookmark => {
                        if let Some(frame) = self.due_bookmark() {
                            return Some(frame);
                        }
                    }
                    Wake::Closed | Wake::Over => self.phase = Phase::Ended,
                },
                Phase::Ended => return None,
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Wake::Over,
            event = self.watcher.next() => event.map_or(Wake::Closed, Wake::Event),
            () = tokio::time::sleep_until(self.deadline) => Wake::Over,
            _ = self.tick.tick(), if self.bookmarks => Wake::Bookmark,
        }
    }

    fn initial_frame(&mut self) -> Option<Bytes> {
        self.watcher.note_read();
        let mut frame = Vec::new();
        while frame.len() < FRAME {
            let Some(event) = self.initial.next() else { break };
            let rendered = self.render(&event);
            if frame.is_empty() && rendered.len() >= FRAME {
                return Some(rendered);
            }
            frame.extend_from_slice(&rendered);
        }
        (!frame.is_empty()).then(|| frame.into())
    }

    /// An event, with those that wait behind it.
    fn frame_from(&mut self, event: Delivered) -> Bytes {
        self.sent = self.sent.max(event.revision);
        let first = self.render(&event);
        let mut more: Option<Vec<u8>> = None;
        while more.as_ref().map_or(first.len(), Vec::len) < FRAME {
            let Some(event) = self.watcher.waiting() else { break };
            self.sent = self.sent.max(event.revision);
            let rendered = self.render(&event);
            more.get_or_insert_with(|| first.to_vec()).extend_from_slice(&rendered);
        }
        more.map_or(first, Bytes::from)
    }

    fn render(&mut self, event: &Delivered) -> Bytes {
        if self.call.served == 0 && self.call.wanted.shape == Shape::Object {
            return event.line.clone();
        }
        let mut object: Value = serde_json::from_slice(&event.object).unwrap_or_default();
        self.call.to_served(&mut object);
        let mut shaped = respond::shaped(&self.call, object);
        self.cut_columns(&mut shaped);
        line(&json!({"type": event.r#type.as_str(), "object": shaped}))
    }

    fn cut_columns(&mut self, shaped: &mut Value) {
        if self.call.wanted.shape == Shape::Table && std::mem::replace(&mut self.columns_sent, true) {
            shaped["columnDefinitions"] = Value::Null;
        }
    }

    /// A bookmark, if it is time for one and there is something new to say.
    fn due_bookmark(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        let ending = self.deadline.saturating_duration_since(now) <= BOOKMARK_BEFORE_END;
        let waited = self.last_bookmark.is_none_or(|last| now.duration_since(last) >= BOOKMARK_EVERY);
        if !waited && !ending {
            return None;
        }
        self.cache.request_progress();
        // Progress first, then the queue: what is queued up to that progress must be sent before the bookmark.
        let progress = self.cache.progress();
        if let Some(event) = self.watcher.waiting() {
            return Some(self.frame_from(event));
        }
        if progress <= self.sent && self.last_bookmark.is_some() && !waited {
            return None;
        }
        self.last_bookmark = Some(now);
        self.sent = self.sent.max(progress);
        Some(self.bookmark(self.sent, false))
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": self.call.row.kind, "apiVersion": self.call.version().api_version(), "metadata": metadata,
        });
        let object = match self.call.wanted.shape {
            Shape::Table => table::bookmark(&object),
            Shape::Object | Shape::Partial => respond::shaped(&self.call, object),
        };
        line(&json!({"type": "BOOKMARK", "object": object}))
    }
}
