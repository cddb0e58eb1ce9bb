//! Connections: how many, how long a request may take to arrive, and how they end.

mod socket;

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response},
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    cluster::{Cluster, link::FIRST_BYTE},
    limits,
    metrics::{Counted, Gauge},
};
use socket::Socket;

/// What clients may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
    /// How long a connection may take nothing of what it is sent.
    pub write_timeout: Duration,
}

/// What a connection is told beside its requests.
enum Signal {
    /// To finish the request under way and end.
    Stop,
    /// To look whether its client is gone.
    Look,
}

/// Serves until `shutdown` says that the node stops; then finishes the requests under way, for a bounded time. Connections of other
/// nodes are the cluster's. `open` counts all of them.
pub async fn serve<R>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    cluster: Option<Cluster>,
    bounds: Limits,
    open: Gauge,
    mut shutdown: watch::Receiver<bool>,
) where
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let mut builder = http1::Builder::new();
    // Its `pipeline_flush` must stay off: it would take all of a streamed answer into memory before a client has read any.
    builder.timer(TokioTimer::new()).header_read_timeout(limits::HEAD_TIMEOUT);
    // A client that has said all may end its side of the connection, and waits for the answer still.
    builder.half_close(true);
    socket::keep_alive(&listener);
    let places = Arc::new(Semaphore::new(bounds.connections));
    // Its end is that of this function, and cuts off what is under way still.
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("the places are never closed");
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            _ = shutdown.wait_for(|stopping| *stopping) => break,
            Some(_ended) = connections.join_next() => continue,
        };
        let (answer, looks) = (answer.clone(), Arc::new(AtomicBool::new(false)));
        let service = service_fn(move |request| answer(request).map(Ok::<_, Infallible>));
        let (builder, cluster, shutdown) = (builder.clone(), cluster.clone(), shutdown.clone());
        let mut stopping = shutdown.clone();
        let stop = async move {
            // Whoever would say it is gone where this fails.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            Signal::Stop
        };
        let look = || sleep(limits::KEEP_ALIVE).map(|()| Signal::Look).boxed();
        let counted = Counted::new(&open);
        connections.spawn(async move {
            let _counted = counted;
            let mut ending = shutdown.clone();
            let is_link = tokio::select! {
                is_link = is_link(&stream) => is_link,
                _ = ending.wait_for(|stopping| *stopping) => return,
            };
            match (is_link, cluster) {
                (Some(false), _) => {}
                (Some(true), Some(cluster)) => {
                    tokio::select! {
                        () = cluster.serve(stream) => {}
                        _ = ending.wait_for(|stopping| *stopping) => {}
                    }
                    return;
                }
                _ => return,
            }
            let socket = Socket::new(stream, bounds.write_timeout, looks.clone(), shutdown);
            let connection = builder.serve_connection(TokioIo::new(socket), service);
            let mut connection = pin!(connection);
            // A set of them polls only what was woken: the connection is polled several times for each request.
            let mut signals = FuturesUnordered::from_iter([stop.boxed(), look()]);
            loop {
                tokio::select! {
                    biased;
                    // A connection that breaks is the client's matter.
                    _ = &mut connection => break,
                    Some(signal) = signals.next() => match signal {
                        Signal::Stop => connection.as_mut().graceful_shutdown(),
                        Signal::Look => {
                            looks.store(true, Ordering::Relaxed);
                            signals.push(look());
                        }
                    },
                }
            }
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(limits::DRAIN_TIMEOUT, ended).await.is_err() {
        tracing::warn!("requests under way were cut off after {:?}", limits::DRAIN_TIMEOUT);
    }
}

/// Whether another node has opened a connection, or nothing where it ends before it says.
async fn is_link(stream: &TcpStream) -> Option<bool> {
    let mut first = [0];
    match timeout(limits::HEAD_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(1)) => Some(first[0] == FIRST_BYTE),
        _ => None,
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it, the answer to a small request may wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!("cannot accept connections: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Bytes;
    use futures_util::stream;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Symptom: a client that asked for a long answer and read nothing made the node hold all of it in memory. Cause:
    /// hyper's `pipeline_flush`. Cure: without it, and with a time limit for writing.
    #[tokio::test]
    async fn a_client_that_reads_nothing_gets_little_and_is_cut_off() {
        const PIECES: usize = 2_000;
        let (taken, held) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
        let (counter, holder) = (taken.clone(), held.clone());
        let answer = move |_| {
            let state = (counter.clone(), holder.clone());
            let pieces = stream::unfold(state, |state| async {
                // As an answer does that is read from the store, which is not ready at once.
                tokio::task::yield_now().await;
                let piece = Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 64 << 10]));
                (state.0.fetch_add(1, Ordering::Relaxed) < PIECES).then_some((piece, state))
            });
            std::future::ready(Response::new(Body::from_stream(pieces)))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let bounds = Limits { connections: 1, write_timeout: Duration::from_millis(500) };
        let (stop, stopping) = watch::channel(false);
        let server = tokio::spawn(serve(listener, answer, None, bounds, Gauge::default(), stopping));
        client.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").await.unwrap();
        let dropped = async {
            while taken.load(Ordering::Relaxed) == 0 || Arc::strong_count(&held) > 2 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), dropped).await.expect("the answer is dropped with its connection");
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < PIECES / 2, "{taken} pieces were taken, which is more than sockets hold");
        stop.send(true).unwrap();
        server.await.unwrap();
    }
}
