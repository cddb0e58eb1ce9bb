//! What is left of a request's body when its answer is there.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Request, Response, Version, header},
};
use futures_util::FutureExt;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// A body that is known still when its reader has dropped it; nothing once it has ended.
#[derive(Clone)]
struct Lent(Arc<Mutex<Option<Incoming>>>);

/// What is left of a body that was lent to a handler.
pub struct Unread {
    lent: Option<Lent>,
    version: Version,
}

/// What is left of the request's body, in the extensions of an answer by HTTP/2, where other requests share the connection.
#[derive(Clone)]
pub struct Rest(Lent);

impl Rest {
    /// The next piece; nothing at its end, or where it broke off.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.0), cx));
        Poll::Ready(frame.and_then(Result::ok).map(|frame| frame.data_ref().map_or(0, Bytes::len)))
    }
}

/// Lends a request's body to whoever handles it.
pub fn lend(request: Request<Incoming>) -> (Request<Body>, Unread) {
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let lent = (!http_body::Body::is_end_stream(&body)).then(|| Lent(Arc::new(Mutex::new(Some(body)))));
    let body = lent.clone().map_or_else(Body::empty, Body::new);
    (Request::from_parts(parts, body), Unread { lent, version })
}

impl Unread {
    /// Announces the end of the connection where the client still sends: nothing else can follow on it, but with HTTP/2.
    pub fn announce(self, response: &mut Response<Body>) {
        let Some(mut rest) = self.lent else { return };
        // What has come already is no reason for it.
        while !http_body::Body::is_end_stream(&rest) {
            match rest.frame().now_or_never() {
                Some(Some(_)) => {}
                Some(None) => return,
                None if self.version == Version::HTTP_2 => {
                    response.extensions_mut().insert(Rest(rest));
                    return;
                }
                None => {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    return;
                }
            }
        }
    }
}

impl Lent {
    fn with<T>(&self, look: impl FnOnce(&mut Option<Incoming>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.with(|lent| {
            let Some(body) = lent else { return Poll::Ready(None) };
            let frame = Pin::new(body).poll_frame(cx);
            if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
                *lent = None;
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.with(|lent| lent.as_ref().is_none_or(http_body::Body::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|lent| lent.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint))
    }
}
