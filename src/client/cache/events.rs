//! A watch's answer, line by line.

use bytes::{Buf, BytesMut};
use http::Request;
use http_body_util::BodyExt;
use kube::{client::Body, core::Status};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::MetaObject;
use crate::Client;

pub(super) enum Event<W> {
    Applied(W),
    Deleted(W),
    /// Nothing happened up to this version.
    Bookmark(String),
    /// The server ends the watch.
    Failed(Box<Status>),
    /// An object that we cannot read: it stays as it was last seen, and the watch goes on after it.
    Unreadable {
        version: Option<String>,
        error: serde_json::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    #[error("start watch")]
    Start(#[source] kube::Error),
    #[error("watch refused with {}: {}", .0.code, .0.message)]
    Refused(Box<Status>),
    #[error("watch was cut")]
    Cut(#[source] kube::Error),
}

/// The events of one watch request.
pub(super) struct Events {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    scanned: usize,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Events {
    pub(super) async fn open(client: &Client, request: Request<Vec<u8>>) -> Result<Self, WatchError> {
        let response = client.send(request.map(Body::from)).await.map_err(WatchError::Start)?;
        let code = response.status();
        if code.is_success() {
            return Ok(Self { body: response.into_body(), buffer: BytesMut::new(), scanned: 0 });
        }
        let bytes = response.into_body().collect().await.map_err(WatchError::Start)?.to_bytes();
        let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
            Status::failure(&String::from_utf8_lossy(&bytes), "Unknown").with_code(code.as_u16())
        });
        Err(WatchError::Refused(Box::new(status.with_code(code.as_u16()))))
    }

    /// The next event; none when the server has ended the answer.
    pub(super) async fn next<W: DeserializeOwned>(&mut self) -> Result<Option<Event<W>>, WatchError> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.scanned + at);
                self.buffer.advance(1);
                self.scanned = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(parse(&line)));
            }
            self.scanned = self.buffer.len();
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(WatchError::Cut(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

fn parse<W: DeserializeOwned>(line: &[u8]) -> Event<W> {
    let event: Line<'_> = match serde_json::from_slice(line) {
        Ok(event) => event,
        Err(error) => return Event::Unreadable { version: None, error },
    };
    let object = event.object.get();
    match event.kind {
        "BOOKMARK" => Event::Bookmark(version(object).unwrap_or_default()),
        "ERROR" => Event::Failed(serde_json::from_str(object).unwrap_or_default()),
        kind => match serde_json::from_str(object) {
            Ok(object) if kind == "DELETED" => Event::Deleted(object),
            Ok(object) => Event::Applied(object),
            Err(error) => Event::Unreadable { version: version(object), error },
        },
    }
}

fn version(object: &str) -> Option<String> {
    serde_json::from_str::<MetaObject>(object).ok()?.metadata.resource_version
}
