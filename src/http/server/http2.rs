//! Connections of HTTP/2 (RFC 9113): what holds for HTTP/1.1 holds for them, too.
//!
//! - A request comes to the routes as one of HTTP/1.1 does: with its host in the header `Host`.
//! - All connections together have no more requests at one time than there may be connections.
//! - A connection without a request under way ends after the time in which a head of HTTP/1.1 has to come.
//! - One whose client takes nothing of its answers is closed, also where it takes what TCP carries and opens no window.
//! - What is left of a request that was refused early is read for a while before its answer ends: many clients take it for a failure
//!   that they are told to send no more.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Request, Response, Uri, header},
    response::IntoResponse,
};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, Sleep, sleep},
};

use super::{InTurn, Limits, Socket};
use crate::{
    http::{problem::Problem, unread::Rest},
    limits,
};

/// What all connections of HTTP/2 share.
#[derive(Clone)]
pub struct Server {
    builder: http2::Builder<TokioExecutor>,
    /// Requests that may still come.
    room: Arc<Semaphore>,
    /// Connections that may still speak it.
    places: Arc<Semaphore>,
    write_timeout: Duration,
}

impl Server {
    pub fn new(bounds: Limits) -> Server {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let [of_request, of_connection] = limits::HTTP2_WINDOWS;
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits::HTTP2_STREAMS)
            .max_header_list_size(limits::HTTP2_HEADERS_BYTES)
            .max_send_buf_size(limits::HTTP2_SEND_BYTES)
            .initial_stream_window_size(of_request)
            .initial_connection_window_size(of_connection)
            .max_pending_accept_reset_streams(limits::HTTP2_RESETS)
            .max_local_error_reset_streams(limits::HTTP2_ERRORS)
            .keep_alive_interval(limits::KEEP_ALIVE)
            .keep_alive_timeout(bounds.write_timeout);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let (room, places) = (semaphore(bounds.connections), semaphore(limits::HTTP2_CONNECTIONS));
        Server { builder, room, places, write_timeout: bounds.write_timeout }
    }

    /// Places for connections.
    pub fn places(&self) -> Arc<Semaphore> {
        self.places.clone()
    }

    /// Serves one connection until it ends.
    pub async fn serve<R>(
        self,
        socket: Socket,
        mut turns: InTurn,
        answer: impl Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        mut stopping: watch::Receiver<bool>,
    ) where
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let pace = Arc::new(Pace::new());
        let (requests, room) = (pace.clone(), self.room.clone());
        let service = service_fn(move |request| {
            let under_way = UnderWay::new(&requests, &room);
            let answer = answer.clone();
            async move {
                let response = match (&under_way.room, as_http1(request)) {
                    (None, _) => {
                        Problem::overloaded("too many requests are under way: send again later").into_response()
                    }
                    (_, Err(problem)) => problem.into_response(),
                    (_, Ok(request)) => answer(request).await,
                };
                Ok::<_, Infallible>(Paced::answer(response, under_way))
            }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(socket), service));
        let mut is_ending = false;
        loop {
            tokio::select! {
                biased;
                // A connection that breaks is the client's matter.
                _ = poll_fn(|cx| turns.poll(cx, connection.as_mut())) => return,
                _ = stopping.wait_for(|stopping| *stopping), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep(limits::KEEP_ALIVE) => match pace.look(self.write_timeout) {
                    Look::GoesOn => {}
                    // Whoever does not even answer that it ends is gone.
                    Look::Idle if is_ending => return,
                    Look::Idle => {
                        is_ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    Look::Stalls => return,
                },
            }
        }
    }
}

/// The request as HTTP/1.1 has it (RFC 9113 section 8.3.1).
///
/// # Errors
/// `400` where its host is malformed.
fn as_http1(mut request: Request<Incoming>) -> Result<Request<Incoming>, Problem> {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str());
        let host = host.map_err(|_| Problem::bad_request("the request's :authority is malformed"))?;
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(target) = request.uri().path_and_query() {
        *request.uri_mut() = Uri::from(target.clone());
    }
    Ok(request)
}

/// How the requests of one connection go on.
struct Pace {
    under_way: AtomicUsize,
    /// Answers of which a piece was handed over, and no more was asked for yet.
    handed: AtomicUsize,
    /// When a request last came, went on or ended.
    moved: Mutex<Instant>,
}

/// How a connection is found.
enum Look {
    GoesOn,
    /// Nothing was asked for some time.
    Idle,
    /// Answers wait for their client, and none goes on.
    Stalls,
}

impl Pace {
    fn new() -> Pace {
        Pace { under_way: AtomicUsize::new(0), handed: AtomicUsize::new(0), moved: Mutex::new(Instant::now()) }
    }

    fn note(&self) {
        *self.moved.lock().expect("no holder of this lock panics") = Instant::now();
    }

    fn look(&self, write_timeout: Duration) -> Look {
        let still = self.moved.lock().expect("no holder of this lock panics").elapsed();
        let (under_way, handed) = (self.under_way.load(Ordering::Relaxed), self.handed.load(Ordering::Relaxed));
        match (under_way, handed) {
            (0, _) if still >= limits::HEAD_TIMEOUT => Look::Idle,
            (1.., 1..) if still >= write_timeout => Look::Stalls,
            _ => Look::GoesOn,
        }
    }
}

/// One request, until its answer has been handed over.
struct UnderWay {
    pace: Arc<Pace>,
    /// Nothing where there are too many.
    room: Option<OwnedSemaphorePermit>,
}

impl UnderWay {
    fn new(pace: &Arc<Pace>, room: &Arc<Semaphore>) -> UnderWay {
        pace.under_way.fetch_add(1, Ordering::Relaxed);
        pace.note();
        UnderWay { pace: pace.clone(), room: room.clone().try_acquire_owned().ok() }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.pace.under_way.fetch_sub(1, Ordering::Relaxed);
        self.pace.note();
    }
}

/// The body of an answer. HTTP/2 asks for the next piece only when its client may be sent one.
struct Paced {
    body: Body,
    under_way: UnderWay,
    /// Whether a piece was handed over, and no more was asked for yet.
    is_handed: bool,
    unread: Option<Unread>,
}

/// What is read and thrown away of a request before its answer ends.
struct Unread {
    rest: Rest,
    bytes: usize,
    end: Pin<Box<Sleep>>,
}

impl Unread {
    fn new(rest: Rest) -> Unread {
        Unread { rest, bytes: limits::LINGER_BYTES, end: Box::pin(sleep(limits::LINGER_TIME)) }
    }

    /// Ready when the client has sent all, or has had its chance.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.bytes > 0 {
            match self.rest.poll(cx) {
                Poll::Ready(Some(bytes)) => self.bytes = self.bytes.saturating_sub(bytes),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return self.end.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl Paced {
    fn answer(mut response: Response<Body>, under_way: UnderWay) -> Response<Paced> {
        let unread = response.extensions_mut().remove::<Rest>().map(Unread::new);
        response.map(|body| Paced { body, under_way, is_handed: false, unread })
    }

    fn hand(&mut self, is_handed: bool) {
        match (self.is_handed, is_handed) {
            (false, true) => self.under_way.pace.handed.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.under_way.pace.handed.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        self.is_handed = is_handed;
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.hand(false);
        self.under_way.pace.note();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none()
            && let Some(unread) = &mut self.unread
        {
            ready!(unread.poll(cx));
        }
        self.hand(true);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.hand(false);
    }
}
