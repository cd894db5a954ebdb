//! Response bodies and the responses everything ends in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::sync::mpsc;

use super::status::ApiError;

/// A body that is there, or one that is written as it goes.
#[derive(Debug)]
pub(super) enum Payload {
    Full(Option<Bytes>),
    /// Ends when the sender is gone; an error resets the stream.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => receiver
                .poll_recv(cx)
                .map(|next| next.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

pub(super) type Reply = Response<Payload>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn reply(code: u16, content_type: HeaderValue, payload: Payload) -> Reply {
    let mut response = Response::new(payload);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Encoded JSON.
pub(super) fn json(code: u16, body: impl Into<Bytes>) -> Reply {
    reply(code, JSON, Payload::Full(Some(body.into())))
}

/// A JSON value.
pub(super) fn value(code: u16, body: &Value) -> Reply {
    json(code, body.to_string())
}

/// JSON that is still being written.
pub(super) fn stream(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Reply {
    reply(200, JSON, Payload::Stream(receiver))
}

/// Plain text.
pub(super) fn text(code: u16, body: impl Into<Bytes>) -> Reply {
    reply(code, TEXT, Payload::Full(Some(body.into())))
}

/// JSON with a content type of its own.
pub(super) fn typed(content_type: &'static str, body: &Value) -> Reply {
    reply(
        200,
        HeaderValue::from_static(content_type),
        Payload::Full(Some(body.to_string().into())),
    )
}

/// A `Status` and its headers.
pub(super) fn error(error: &ApiError) -> Reply {
    let mut response = value(error.code, &error.to_json());
    if let Some(seconds) = error.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The refusal of API Priority and Fairness: plain text, no `Status`.
pub(super) fn too_many() -> Reply {
    let mut response = text(429, "Too many requests, please try again later.");
    response.headers_mut().insert(header::RETRY_AFTER, 1.into());
    response
}
