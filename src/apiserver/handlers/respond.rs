//! Answers: objects, lists and errors in the format and shape that the client wants.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;

use super::call::Call;
use crate::{
    body::{self, Body, BoxError},
    encode::{
        accept::{Format, Shape, Wanted},
        gzip, partial, table,
    },
    status::ApiError,
};

/// An object of the storage version, as the client wants it.
pub(crate) fn object(call: &Call, code: StatusCode, bytes: &Bytes) -> Result<Response<Body>, ApiError> {
    if call.served == 0 && call.wanted.format == Format::Json && call.wanted.shape == Shape::Object {
        return Ok(json_bytes(code, bytes.clone(), call.wanted));
    }
    let mut value: Value = serde_json::from_slice(bytes).map_err(ApiError::internal)?;
    call.to_served(&mut value);
    Ok(self::value(code, call.wanted, &shaped(call, value)))
}

/// In the wanted shape; `object` is in the served version.
pub(crate) fn shaped(call: &Call, object: Value) -> Value {
    match call.wanted.shape {
        Shape::Object => object,
        Shape::Partial => partial::partial(&object),
        Shape::Table => table::table(&call.row, &[object], None, call.wanted.include, call.now),
    }
}

/// Any object, in the wanted format.
pub(crate) fn value(code: StatusCode, wanted: Wanted, value: &Value) -> Response<Body> {
    match wanted.format {
        Format::Json => json_bytes(code, serde_json::to_vec(value).unwrap_or_default().into(), wanted),
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).unwrap_or_default();
            response(code, "application/yaml", body::full(text))
        }
    }
}

fn json_bytes(code: StatusCode, bytes: Bytes, wanted: Wanted) -> Response<Body> {
    let size = bytes.len();
    json_chunks(code, std::iter::once(bytes), size, wanted)
}

/// A JSON body made of chunks, compressed if it is big and the client takes that.
pub(crate) fn json_chunks(
    code: StatusCode,
    chunks: impl Iterator<Item = Bytes> + Send + 'static,
    size: usize,
    wanted: Wanted,
) -> Response<Body> {
    if size < gzip::THRESHOLD || !wanted.gzip {
        if size < gzip::THRESHOLD {
            let whole: Vec<Bytes> = chunks.collect();
            let whole = match <[Bytes; 1]>::try_from(whole) {
                Ok([one]) => one,
                Err(many) => many.concat().into(),
            };
            return response(code, "application/json", body::full(whole));
        }
        return response(code, "application/json", streamed(chunks));
    }
    let mut response = response(code, "application/json", streamed(gzip::gzip(chunks)));
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

fn streamed(chunks: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    let frames = chunks.map(|chunk| Ok::<_, BoxError>(Frame::data(chunk)));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

pub(crate) fn response(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A failure, as a Status in JSON (clients read it in any case).
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    let bytes = serde_json::to_vec(&error.to_value()).unwrap_or_default();
    let mut response = response(error.code, "application/json", body::full(bytes));
    if let Some(seconds) = error.retry_after_secs {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning` headers: `299 - "text"`.
pub(crate) fn warn(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    let mut sent: Vec<&str> = Vec::new();
    for text in warnings {
        if sent.contains(&text.as_str()) {
            continue;
        }
        sent.push(text);
        let clean: String =
            text.chars().map(|c| if c.is_control() || !c.is_ascii() { ' ' } else { c }).collect();
        let escaped = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            response.headers_mut().append(header::WARNING, header);
        }
    }
    response
}
