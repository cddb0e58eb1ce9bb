//! Connections: how many, what is spoken on them, how long a request may take to arrive, and how they end.

mod frames;
mod http2;
mod socket;

use std::{
    collections::HashMap,
    convert::Infallible,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
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
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::PollSemaphore;

use super::{access::Client, forward::FromNode};
use crate::{
    access::{self, Resource, Usage},
    cluster::{Cluster, link},
    limits,
    metrics::{Counted, Gauge},
    tls::{self, Protocol, Stream},
};
use socket::Socket;

/// What clients may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
    /// Connections of one address at one time.
    pub of_address: usize,
    /// How long a connection may take nothing of what it is sent.
    pub write_timeout: Duration,
}

/// What each address takes up that has connections.
#[derive(Default)]
struct Addresses {
    all: HashMap<IpAddr, Weak<Usage>>,
    /// Entries from which on those without connections are looked for and removed.
    full: usize,
    /// Held by each that has connections.
    present: Arc<()>,
}

impl Addresses {
    fn usage(&mut self, address: IpAddr) -> Arc<Usage> {
        let address = counted(address);
        if let Some(usage) = self.all.get(&address).and_then(Weak::upgrade) {
            return usage;
        }
        if self.all.len() >= self.full {
            self.all.retain(|_, usage| usage.strong_count() > 0);
            self.full = 2 * self.all.len() + 64;
        }
        let usage: Arc<Usage> = Arc::default();
        usage.present.set(self.present.clone()).expect("it is new");
        self.all.insert(address, Arc::downgrade(&usage));
        usage
    }
}

/// What counts as one address: of IPv6 the network of 64 bits, as each host has all of it.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// Works on the connections of one client only so many at one time, while others are connected: what waits for the processors is served
/// in order, so that one with little to do would wait for all connections of one with much.
struct InTurn {
    usage: Arc<Usage>,
    turns: PollSemaphore,
    waits: bool,
}

impl InTurn {
    fn new(usage: &Arc<Usage>) -> InTurn {
        InTurn { usage: usage.clone(), turns: PollSemaphore::new(usage.connections.clone()), waits: false }
    }

    fn poll<F: Future>(&mut self, cx: &mut Context<'_>, connection: Pin<&mut F>) -> Poll<F::Output> {
        if self.usage.is_alone() {
            if std::mem::take(&mut self.waits) {
                // The turn that it has waited for may have come, and would be kept.
                self.turns = PollSemaphore::new(self.usage.connections.clone());
            }
            return connection.poll(cx);
        }
        self.waits = true;
        let _turn = ready!(self.turns.poll_acquire(cx)).expect("it is never closed");
        self.waits = false;
        connection.poll(cx)
    }
}

/// What a connection is told beside its requests.
enum Signal {
    /// To finish the request under way and end.
    Stop,
    /// To look whether its client is gone.
    Look,
}

/// A connection on which requests come.
struct Arrived {
    stream: Stream,
    protocol: Protocol,
    /// Whether another node of the cluster has opened it.
    is_of_node: bool,
    /// Its place among the connections of HTTP/2.
    http2: Option<OwnedSemaphorePermit>,
}

/// What a handshake of TLS needs.
struct Handshakes {
    tls: tls::Server,
    /// Those that are worked on at one time: of all clients, and of this one.
    all: Arc<Semaphore>,
    of_client: Arc<Semaphore>,
    /// Places among the connections of HTTP/2.
    http2: Arc<Semaphore>,
}

impl Handshakes {
    /// Does one. Each of its steps is done in turn, and it has no turn while it waits for its client: so a flood of them, which are much
    /// work each, leaves the processors to others.
    async fn shake(self, stream: TcpStream) -> io::Result<Arrived> {
        let place = self.http2.clone().try_acquire_owned().ok();
        let mut handshake = pin!(self.tls.accept(stream, place.is_some()));
        let turn = || async { (self.of_client.acquire().await, self.all.acquire().await) };
        let mut next = Box::pin(turn());
        let (stream, protocol) = poll_fn(|cx| {
            let _turn = ready!(next.as_mut().poll(cx));
            next = Box::pin(turn());
            handshake.as_mut().poll(cx)
        })
        .await?;
        let http2 = place.filter(|_| protocol == Protocol::Http2);
        Ok(Arrived { stream, protocol, is_of_node: false, http2 })
    }
}

/// Serves until `shutdown` says that the node stops; then finishes the requests under way, for a bounded time. Connections of other
/// nodes are the cluster's. `open` counts all of them.
pub async fn serve<R>(
    listener: TcpListener,
    tls: Option<tls::Server>,
    answer: impl Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    cluster: Option<Cluster>,
    bounds: Limits,
    open: Gauge,
    mut shutdown: watch::Receiver<bool>,
) where
    R: Future<Output = Response<Body>> + Send + 'static,
{
    socket::keep_alive(&listener);
    socket::lengthen_queue(&listener);
    let places = Arc::new(Semaphore::new(bounds.connections));
    let (mut addresses, refused) = (Addresses::default(), Arc::new(Semaphore::new(limits::REFUSED_CONNECTIONS)));
    let http2 = http2::Server::new(bounds);
    let handshakes = Arc::new(Semaphore::new(access::TURNS.handshakes));
    // Its end is that of this function, and cuts off what is under way still.
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("the places are never closed");
            (place, accept(&listener).await)
        };
        let (place, (stream, address)) = tokio::select! {
            next = next => next,
            _ = shutdown.wait_for(|stopping| *stopping) => break,
            Some(_ended) = connections.join_next() => continue,
        };
        let usage = addresses.usage(address);
        let Some(held) = usage.hold(Resource::Connections, 1, bounds.of_address) else {
            // Who speaks TLS does not understand it, and finds the connection closed.
            if tls.is_none()
                && let Ok(turn) = refused.clone().try_acquire_owned()
            {
                connections.spawn(refuse(stream).map(|()| drop(turn)));
            }
            continue;
        };
        let (answer, http2, cluster) = (answer.clone(), http2.clone(), cluster.clone());
        let handshakes = tls.clone().map(|tls| Handshakes {
            tls,
            all: handshakes.clone(),
            of_client: usage.handshakes.clone(),
            http2: http2.places(),
        });
        let (stopping, counted) = (shutdown.clone(), Counted::new(&open));
        connections.spawn(async move {
            let _holds = (held, counted);
            let mut ending = stopping.clone();
            let arrived = tokio::select! {
                arrived = arrive(stream, handshakes, cluster, &stopping) => arrived,
                _ = ending.wait_for(|stopping| *stopping) => return,
            };
            let Some(Arrived { stream, protocol, is_of_node, http2: _http2 }) = arrived else { return };
            let turns = InTurn::new(&usage);
            let client = Client::at((!is_of_node).then_some(usage));
            let answer = move |mut request: Request<Incoming>| {
                if is_of_node {
                    request.extensions_mut().insert(FromNode);
                }
                request.extensions_mut().insert(client.clone());
                answer(request)
            };
            let looks = Arc::new(AtomicBool::new(false));
            let socket = Socket::new(stream, bounds.write_timeout, looks.clone(), stopping.clone());
            match protocol {
                // Boxed, so that a connection of HTTP/1.1 takes up no room for it.
                Protocol::Http2 => Box::pin(http2.serve(socket.with_frames(), turns, answer, stopping)).await,
                _ => serve_http1(socket, turns, answer, &looks, stopping).await,
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

/// Serves one connection of HTTP/1.1 until it ends.
async fn serve_http1<R>(
    socket: Socket,
    mut turns: InTurn,
    answer: impl Fn(Request<Incoming>) -> R,
    looks: &AtomicBool,
    mut stopping: watch::Receiver<bool>,
) where
    R: Future<Output = Response<Body>>,
{
    let mut builder = http1::Builder::new();
    // Its `pipeline_flush` must stay off: it would take all of a streamed answer into memory before a client has read any.
    builder.timer(TokioTimer::new()).header_read_timeout(limits::HEAD_TIMEOUT).max_buf_size(limits::HEAD_BYTES);
    // A client that has said all may end its side of the connection, and waits for the answer still.
    builder.half_close(true);
    let service = service_fn(move |request| answer(request).map(Ok::<_, Infallible>));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let stop = async move {
        // Whoever would say it is gone where this fails.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        Signal::Stop
    };
    let look = || sleep(limits::KEEP_ALIVE).map(|()| Signal::Look).boxed();
    // A set of them polls only what was woken: the connection is polled several times for each request.
    let mut signals = FuturesUnordered::from_iter([stop.boxed(), look()]);
    loop {
        tokio::select! {
            biased;
            // A connection that breaks is the client's matter.
            _ = poll_fn(|cx| turns.poll(cx, connection.as_mut())) => break,
            Some(signal) = signals.next() => match signal {
                Signal::Stop => connection.as_mut().graceful_shutdown(),
                Signal::Look => {
                    looks.store(true, Ordering::Relaxed);
                    signals.push(look());
                }
            },
        }
    }
}

/// Finds out what is spoken on a new connection, by its first byte, and does what comes before the first request: the handshake of
/// TLS, and whatever another node has called for. Nothing where no requests will come.
async fn arrive(
    stream: TcpStream,
    handshakes: Option<Handshakes>,
    cluster: Option<Cluster>,
    stopping: &watch::Receiver<bool>,
) -> Option<Arrived> {
    let end = Instant::now() + if handshakes.is_some() { limits::TLS_TIMEOUT } else { limits::HEAD_TIMEOUT };
    let mut first = [0];
    if !matches!(timeout_at(end, stream.peek(&mut first)).await, Ok(Ok(1))) {
        return None;
    }
    let plain = |stream, protocol| Arrived { stream: Stream::Plain(stream), protocol, is_of_node: false, http2: None };
    let arrived = match (first[0], handshakes) {
        (tls::FIRST_BYTE, Some(handshakes)) => match timeout_at(end, Box::pin(handshakes.shake(stream))).await {
            Ok(Ok(arrived)) => arrived,
            Ok(Err(error)) => {
                tracing::debug!("a handshake of TLS has failed: {error}");
                return None;
            }
            Err(_) => {
                tracing::debug!("a handshake of TLS was not done after {:?}", limits::TLS_TIMEOUT);
                return None;
            }
        },
        (tls::FIRST_BYTE, None) => {
            tracing::debug!("a client speaks TLS, which this node does not: its options are --tls-cert and --tls-key");
            return None;
        }
        (link::FIRST_BYTE, _) => plain(stream, Protocol::Link),
        (_, Some(_)) => {
            let socket = Socket::new(Stream::Plain(stream), limits::WRITE_TIMEOUT, Arc::default(), stopping.clone());
            socket.ask_for_tls().await;
            return None;
        }
        (_, None) => plain(stream, Protocol::Http1),
    };
    match arrived.protocol {
        Protocol::Link => {
            let stream = Box::pin(cluster?.serve(arrived.stream)).await?;
            Some(Arrived { stream, protocol: Protocol::Http1, is_of_node: true, http2: None })
        }
        _ => Some(arrived),
    }
}

/// Tells a client that its address has too many connections, and waits until it has read that, for a short time.
async fn refuse(mut stream: TcpStream) {
    let told = async {
        let answer = socket::too_many_connections();
        // Whoever sends nothing may get no answer.
        let mut buffer = [0; 4 << 10];
        if stream.read(&mut buffer).await? == 0 {
            return Ok(());
        }
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(limits::REFUSED_TIME, told).await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Without it, the answer to a small request may wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                return (stream, address.ip());
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
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Waker,
    };

    use axum::body::Bytes;
    use futures_util::stream;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn what_has_no_connection_is_counted_no_more() {
        let mut addresses = Addresses::default();
        let usage = addresses.usage("192.0.2.1".parse().unwrap());
        for same in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(Arc::ptr_eq(&usage, &addresses.usage(same.parse().unwrap())), "{same}");
        }
        let host = addresses.usage("2001:db8:0:1::1".parse().unwrap());
        assert!(Arc::ptr_eq(&host, &addresses.usage("2001:db8:0:1:ffff::2".parse().unwrap())), "it is one host's");
        assert!(!Arc::ptr_eq(&host, &addresses.usage("2001:db8:0:2::1".parse().unwrap())));
        for number in 0..100_000u32 {
            addresses.usage(std::net::Ipv4Addr::from_bits(number).into());
        }
        assert!(addresses.all.len() < 1_000, "{} are kept", addresses.all.len());
        assert!(Arc::ptr_eq(&usage, &addresses.usage("192.0.2.1".parse().unwrap())));
    }

    /// Symptom: a flood on many connections of one client kept others waiting for all of them. Cause: the runtime serves what is ready in
    /// order. Cure: few of each client's connections are ready at one time, while others are connected.
    #[tokio::test]
    async fn connections_of_one_client_wait_for_each_other() {
        let mut addresses = Addresses::default();
        let one = addresses.usage("192.0.2.1".parse().unwrap());
        let mut turn = InTurn::new(&one);
        let mut poll = || turn.poll(&mut Context::from_waker(Waker::noop()), pin!(async {}));
        let most = access::TURNS.connections;
        let taken = one.connections.clone().try_acquire_many_owned(most as u32).unwrap();
        assert!(poll().is_ready(), "who is alone waits for nobody");
        let other = addresses.usage("192.0.2.2".parse().unwrap());
        assert!(poll().is_pending());
        drop(taken);
        assert!(poll().is_ready());
        let taken = one.connections.clone().try_acquire_many_owned(most as u32).unwrap();
        assert!(poll().is_pending());
        // The turn that it waits for comes when it needs none any more.
        drop((taken, other));
        assert!(poll().is_ready());
        assert_eq!(one.connections.available_permits(), most, "no turn is kept");
    }

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
        let bounds = Limits { connections: 1, of_address: 1, write_timeout: Duration::from_millis(500) };
        let (stop, stopping) = watch::channel(false);
        let server = tokio::spawn(serve(listener, None, answer, None, bounds, Gauge::default(), stopping));
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
