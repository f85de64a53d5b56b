//! Ends requests that take too long. Streams (watches, followed logs) only have to begin in time.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use kube::client::Body;
use tokio::time::timeout;
use tower::{BoxError, Service};

pub(super) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;
type Answer = Result<Response<ResponseBody>, BoxError>;

#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {seconds} s")]
struct TooSlow {
    seconds: u64,
}

pub(super) struct Deadline<S> {
    inner: S,
    after: Duration,
}

impl<S> Deadline<S> {
    pub(super) fn new(inner: S, after: Duration) -> Self {
        Self { inner, after }
    }
}

impl<S, B> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stream = is_stream(&request);
        let answer = self.inner.call(request);
        let after = self.after;
        Box::pin(async move {
            timeout(after, receive(answer, stream))
                .await
                .unwrap_or_else(|_| Err(TooSlow { seconds: after.as_secs() }.into()))
        })
    }
}

async fn receive<B, E>(answer: impl Future<Output = Result<Response<B>, E>> + Send, stream: bool) -> Answer
where
    E: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let response = answer.await.map_err(Into::into)?;
    if stream || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()));
    }
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(Into::into)?.to_bytes();
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::from_parts(parts, body))
}

/// Whether the answer may last for as long as somebody listens.
fn is_stream(request: &Request<Body>) -> bool {
    let uri = request.uri();
    let asked = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .any(|pair| matches!(pair, "watch=true" | "watch=1" | "follow=true" | "follow=1"));
    let path = uri.path();
    asked
        || ["/log", "/exec", "/attach", "/portforward"].iter().any(|end| path.ends_with(end))
        || path.contains("/proxy/")
}
