//! A connection as hyper sees it, with what hyper does not do by itself.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Bytes, http::StatusCode};
use bytes::Buf;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpListener,
    sync::watch,
    task::coop,
    time::{Instant, Sleep, sleep},
};
use tokio_io_timeout::TimeoutStream;

use super::frames::Frames;
use crate::{
    http::{new_request_id, problem::Problem, turns::take_steps},
    limits,
    tls::Stream,
};

/// A connection that
/// - breaks when its peer takes nothing for too long, or is gone while it waits for an answer;
/// - explains the errors that hyper answers by itself;
/// - reads on for a while before it closes, so that a client that still sends gets its answer: unread bytes make the kernel
///   reset a connection, which takes the answer away even where it has arrived.
pub struct Socket {
    stream: Pin<Box<TimeoutStream<Stream>>>,
    /// Whether to look if the peer is gone, when this is flushed next.
    looks: Arc<AtomicBool>,
    /// What is left of the answer to a broken head.
    explanation: Option<Bytes>,
    /// Once this side is closed.
    linger: Option<Linger>,
    /// Where they are frames, those that came.
    frames: Option<Frames>,
    stopping: watch::Receiver<bool>,
}

/// What is read and thrown away before a connection is closed.
struct Linger {
    bytes: usize,
    end: Pin<Box<Sleep>>,
    pause: Pin<Box<Sleep>>,
}

/// Bytes of one buffer that are written at once.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// Lets the kernel find out whether peers are there, on all connections that a listener accepts.
pub fn keep_alive(listener: &TcpListener) {
    use rustix::net::sockopt;
    let set = sockopt::set_socket_keepalive(listener, true)
        .and_then(|()| sockopt::set_tcp_keepidle(listener, limits::KEEP_ALIVE))
        .and_then(|()| sockopt::set_tcp_keepintvl(listener, limits::KEEP_ALIVE))
        .and_then(|()| sockopt::set_tcp_keepcnt(listener, limits::KEEP_ALIVE_PROBES));
    if let Err(error) = set {
        tracing::warn!("clients that vanish while they wait for an answer are not noticed: {error}");
    }
}

/// Has more connections wait in the kernel than the runtime asks for: Linux takes another length for a socket that listens.
pub fn lengthen_queue(listener: &TcpListener) {
    if let Err(error) = rustix::net::listen(listener, limits::BACKLOG) {
        tracing::warn!("few connections can wait to be accepted: {error}");
    }
}

impl Socket {
    pub fn new(
        stream: Stream,
        write_timeout: Duration,
        looks: Arc<AtomicBool>,
        stopping: watch::Receiver<bool>,
    ) -> Socket {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(write_timeout));
        Socket { stream: Box::pin(stream), looks, explanation: None, linger: None, frames: None, stopping }
    }

    /// It is one of HTTP/2, and breaks when too many frames come that are of no request. Its task gives way to others after few bytes:
    /// small frames are much more work than what is read of HTTP/1.1, and all that have come would be done at once.
    pub fn with_frames(self) -> Socket {
        Socket { frames: Some(Frames::new(Instant::now().into_std())), ..self }
    }

    /// While an answer is awaited, nothing is read that would tell.
    fn check_peer(&mut self) -> io::Result<()> {
        if !self.looks.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.looks.store(false, Ordering::Relaxed);
        self.stream.get_ref().tcp().take_error()?.map_or(Ok(()), Err)
    }

    /// Answers a client that speaks HTTP without TLS to a node that has it, and closes the connection.
    pub async fn ask_for_tls(mut self) {
        let detail =
            "this port speaks TLS, and the request came without: begin the URL with https:// in place of http://";
        // A client that is gone needs no answer.
        if self.write_all(&answer(StatusCode::BAD_REQUEST, detail)).await.is_ok() {
            let _ = self.shutdown().await;
        }
    }

    fn poll_explain(&mut self, cx: &mut Context<'_>, instead_of: usize) -> Poll<io::Result<usize>> {
        let explanation = self.explanation.as_mut().expect("it was made before");
        while !explanation.is_empty() {
            let written = ready!(self.stream.as_mut().poll_write(cx, explanation))?;
            explanation.advance(written);
        }
        Poll::Ready(Ok(instead_of))
    }
}

/// A whole answer with a problem document, where `head` is that of an error that hyper answers by itself, without a body.
/// Ours all have one.
fn explanation(head: &[u8]) -> Option<Bytes> {
    let status = head.strip_prefix(b"HTTP/1.1 4")?.get(..2)?;
    let (status, detail) = match status {
        b"00" => (
            StatusCode::BAD_REQUEST,
            "the head of the request is not HTTP/1.1: look at its first line, the names, lengths and characters of its \
             headers, and for a CR LF after each",
        ),
        b"14" => {
            (StatusCode::URI_TOO_LONG, "the path and query are longer than 65,534 bytes: send large data in a body")
        }
        b"31" => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head of the request has more than 100 headers or 96 KiB: send fewer or shorter ones",
        ),
        _ => return None,
    };
    let is_bare = head.ends_with(b"\r\n\r\n") && contains(head, b"\r\ncontent-length: 0\r\n");
    is_bare.then(|| answer(status, detail))
}

/// The whole answer to a connection whose address has too many.
pub fn too_many_connections() -> Bytes {
    answer(
        StatusCode::TOO_MANY_REQUESTS,
        "this address has too many connections at one time: end some, or try again later",
    )
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn answer(status: StatusCode, detail: &str) -> Bytes {
    let problem = Problem::new(status, detail).into_document();
    let id = new_request_id();
    let mut head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n", problem.len());
    if status == StatusCode::TOO_MANY_REQUESTS {
        head += "retry-after: 1\r\n";
    }
    let rest = [b"connection: close\r\nx-request-id: ", id.as_bytes(), b"\r\n\r\n", &problem].concat();
    [head.into_bytes(), rest].concat().into()
}

impl Linger {
    fn new() -> Linger {
        Linger {
            bytes: limits::LINGER_BYTES,
            end: Box::pin(sleep(limits::LINGER_TIME)),
            pause: Box::pin(sleep(limits::LINGER_PAUSE)),
        }
    }

    /// Ready when the peer has sent all, or has had its chance.
    fn poll(&mut self, stream: &mut Pin<Box<TimeoutStream<Stream>>>, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 16 << 10];
        while self.bytes > 0 {
            let mut read = ReadBuf::new(&mut buffer);
            match stream.as_mut().poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.bytes = self.bytes.saturating_sub(read.filled().len());
                    self.pause.as_mut().reset(Instant::now() + limits::LINGER_PAUSE);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    ready!(first(self.end.as_mut().poll(cx), self.pause.as_mut().poll(cx)));
                    return Poll::Ready(());
                }
            }
        }
        Poll::Ready(())
    }
}

fn first(one: Poll<()>, other: Poll<()>) -> Poll<()> {
    if one.is_ready() { one } else { other }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // What TLS has decrypted already takes up no step by itself.
        let step = ready!(coop::poll_proceed(cx));
        let Socket { stream, frames: Some(frames), .. } = &mut *self else {
            let before = buf.filled().len();
            ready!(self.stream.as_mut().poll_read(cx, buf))?;
            step.made_progress();
            take_steps(cx, buf.filled().len() - before, limits::BYTES_AT_ONCE);
            return Poll::Ready(Ok(()));
        };
        let mut part = [0; limits::HTTP2_AT_ONCE];
        let room = part.len().min(buf.remaining());
        let mut part = ReadBuf::new(&mut part[..room]);
        ready!(stream.as_mut().poll_read(cx, &mut part))?;
        step.made_progress();
        frames
            .see(part.filled(), Instant::now().into_std())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        buf.put_slice(part.filled());
        take_steps(cx, part.filled().len(), limits::HTTP2_AT_ONCE);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [head] = bufs {
            if self.explanation.is_none() {
                self.explanation = explanation(head);
            }
            if self.explanation.is_some() {
                return self.poll_explain(cx, head.len());
            }
        }
        let mut all = bufs.iter();
        let written = match all.find(|buf| !buf.is_empty()) {
            // The kernel would take megabytes at once.
            Some(first) if first.len() >= WRITTEN_AT_ONCE => {
                ready!(self.stream.as_mut().poll_write(cx, &first[..WRITTEN_AT_ONCE]))?
            }
            _ => ready!(self.stream.as_mut().poll_write_vectored(cx, bufs))?,
        };
        take_steps(cx, written, limits::BYTES_AT_ONCE);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_peer()?;
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Socket { stream, linger, stopping, .. } = &mut *self;
        if linger.is_none() {
            ready!(stream.as_mut().poll_shutdown(cx))?;
        }
        // Clients keep connections that are idle, and a node that stops does not wait for them.
        if *stopping.borrow() {
            return Poll::Ready(Ok(()));
        }
        linger.get_or_insert_with(Linger::new).poll(stream, cx).map(Ok)
    }
}
