//! A line end behind every JSON answer, so that a prompt does not stand in its last line.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Response, header},
};
use bytes::BytesMut;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Adds the line end where the answer is one JSON value.
pub fn add(mut response: Response<Body>) -> Response<Body> {
    let media = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let media = media.split(|&byte| byte == b';').next().unwrap_or_default();
    let is_json = media == b"application/json" || media.ends_with(b"+json");
    if !is_json {
        return response;
    }
    // The router has counted without it.
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|body| Body::new(WithLineEnd { body, has_ended: false }))
}

/// Bytes that may be copied for the sake of a line end.
const COPIED_BYTES: usize = 4 << 10;

struct WithLineEnd {
    body: Body,
    has_ended: bool,
}

impl HttpBody for WithLineEnd {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                // One piece costs less than two.
                Ok(last) if self.body.is_end_stream() && last.len() <= COPIED_BYTES => {
                    self.has_ended = true;
                    let mut last = BytesMut::from(last);
                    last.extend_from_slice(b"\n");
                    Ok(Frame::data(last.freeze()))
                }
                data => Ok(data.map_or_else(|frame| frame, Frame::data)),
            },
            Some(Err(error)) => Err(error),
            None => {
                self.has_ended = true;
                Ok(Frame::data(Bytes::from_static(b"\n")))
            }
        };
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, line_end) = (self.body.size_hint(), u64::from(!self.has_ended));
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + line_end);
        }
        hint.set_lower(hint.lower() + line_end);
        hint
    }
}
