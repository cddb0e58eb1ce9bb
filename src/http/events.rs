//! `GET …/events`: a chain as it grows, as server-sent events (WHATWG HTML, section 9.2).
//!
//! # Order
//! A stream has every transaction in order, and every quant in order, each quant behind the transactions that it seals. How
//! the two kinds are mixed depends on when one listens: a transaction is sent as soon as it is durable, and a quant may come
//! long after newer transactions. So the id of an event is a [`Cursor`] into both kinds, and says all that was sent up to
//! it: a listener that resumes behind any id gets exactly the rest, wherever and whenever it resumes.
//!
//! # Cost
//! New events are read and framed once for each chain, by a [`Broadcast`] that lives as long as somebody listens, and kept
//! for a short time as [`Recent`]. That is a cache and nothing else. A listener that finds its cursor there sends the same
//! bytes as all others; one that does not, because it is far behind or because there was no room, reads the store by
//! itself until it does.
//!
//! # Erasure
//! A piece counts how much of the chain was erased when it was read. Before it goes out that is looked at again, and where it
//! is another number the piece is read anew: so nothing that is erased is sent after the erasure was answered.
//!
//! # Replacement
//! Where an imported chain takes the place of the default one, who listens gets an event `replaced`, whose id is before all that
//! the new chain has, and the stream ends: a browser connects again, and begins with the new chain.
//!
//! # Memory
//! A listener holds one piece, and gets the next when the socket has taken it. What is larger than a piece is kept whole
//! only while there is room for it among that of all listeners, and else is sent in parts that are each read anew: who
//! reads slowly takes nothing away from others but that room.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::Write,
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    App,
    extract::{ChainOf, Query, parse_index, single},
    problem::Problem,
};
use crate::{
    core::{
        chain::Head,
        count::{Height, Index},
        hash::Hash,
    },
    limits,
    metrics::Counted,
    node::{ChainReader, StoreError},
    writer::ChainHandle,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A comment, which clients pass over.
const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

/// Milliseconds after which a browser connects again.
const RETRY: u32 = 1_000;

/// Query parameters of `GET /events`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// The first transaction, and with it the quants that seal it or later ones; only what is new where it is not said.
    from: Option<u64>,
}

/// The chain as it grows: an event `transaction` for each that is durable, an event `quant` for each that seals some.
///
/// The data of an event is the transaction as it is served, or the quant without its transactions. A stream that breaks
/// off resumes behind `Last-Event-ID` without a gap and without repetition, as browsers do it by themselves.
#[utoipa::path(
    get,
    path = "/events",
    tag = "chain",
    params(
        EventsQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event received, or the index of \
            the last transaction. It has precedence over `from`"),
    ),
    responses(
        (status = 200, description = "Server-sent events, without end", body = String, content_type = "text/event-stream"),
        (status = 404, description = "The chain has no such place"),
    )
)]
pub async fn events(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let start = Start::of(&query, &headers)?;
    let cursor = start.cursor(&app, &target.chain).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Otherwise nginx gathers the events of a quiet chain.
        (ACCEL_BUFFERING, "no"),
    ];
    Ok((headers, Listener::new(app, target.chain, cursor).into_body()).into_response())
}

/// What was sent: so many of the chain's first transactions and quants. As the id of an event it counts that one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    transactions: u64,
    quants: u64,
}

impl Cursor {
    /// Behind all that the chain has.
    fn of(head: &Head) -> Cursor {
        Cursor { transactions: head.size().get(), quants: head.newest.index().next().get() }
    }

    /// How many events lie before it.
    fn events(self) -> u64 {
        self.transactions + self.quants
    }

    /// Whether `end` can be reached from here by sending more.
    fn is_before(self, end: Cursor) -> bool {
        self != end && self.transactions <= end.transactions && self.quants <= end.quants
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.transactions, self.quants)
    }
}

/// Where a request wants to begin.
#[derive(Clone, Copy)]
enum Start {
    /// With what comes next.
    Now,
    /// With this transaction.
    From(u64),
    /// Behind this transaction.
    BehindTransaction(u64),
    /// Behind this event.
    Behind(Cursor),
}

impl Start {
    fn of(query: &EventsQuery, headers: &HeaderMap) -> Result<Start, Problem> {
        // An empty id is none, as for browsers.
        let Some(id) = single(headers, &LAST_EVENT_ID)?.filter(|id| !id.is_empty()) else {
            return Ok(query.from.map_or(Start::Now, Start::From));
        };
        let start = match id.split_once('.') {
            None => parse_index(id).map(Start::BehindTransaction),
            Some((transactions, quants)) => parse_index(transactions)
                .zip(parse_index(quants))
                .map(|(transactions, quants)| Start::Behind(Cursor { transactions, quants })),
        };
        start.ok_or_else(|| {
            Problem::bad_request(format!(
                "{id:?} is not the id of an event, like \"18.3\", nor the index of a transaction: leave Last-Event-ID out, \
                 or send the id that came last"
            ))
        })
    }

    /// # Errors
    /// `404` where the chain has no such place, `400` where no event has such an id.
    async fn cursor(self, app: &App, chain: &Arc<ChainHandle>) -> Result<Cursor, Problem> {
        let head = chain.head();
        let newest = Cursor::of(&head);
        let (wanted, seals) = match self {
            Start::Now => return Ok(newest),
            Start::Behind(cursor) => return check(cursor, app, chain, newest).await,
            Start::From(index) => (index, index),
            Start::BehindTransaction(index) => (index.saturating_add(1), index),
        };
        if wanted > newest.transactions {
            return Err(beyond(newest));
        }
        let quants = match seals < head.newest.size().get() {
            true => read(app, chain, move |chain| chain.quant_of(Index::new(seals))).await?.get(),
            false => newest.quants,
        };
        Ok(Cursor { transactions: wanted, quants })
    }
}

/// An id that was sent by this node for this chain holds for ever, since only what is durable is sent.
async fn check(cursor: Cursor, app: &App, chain: &Arc<ChainHandle>, newest: Cursor) -> Result<Cursor, Problem> {
    if cursor != newest && !cursor.is_before(newest) {
        return Err(beyond(newest));
    }
    let Some(last) = cursor.quants.checked_sub(1) else { return Ok(cursor) };
    let sealed = read(app, chain, move |chain| chain.quant(Height::new(last))).await?.size().get();
    match sealed <= cursor.transactions {
        true => Ok(cursor),
        false => Err(Problem::bad_request(format!(
            "no event has the id {cursor}: quant {last} comes behind the {sealed} transactions that it seals"
        ))),
    }
}

fn beyond(newest: Cursor) -> Problem {
    let Cursor { transactions, quants } = newest;
    Problem::not_found(format!(
        "the chain has {transactions} transactions and {quants} quants, each counted from 0, and nothing behind them: is it \
         another chain than that of your last event?"
    ))
}

/// A read of the store for one listener: few at one time, or a thousand that connect at once would each take a thread.
async fn read<T: Send + 'static>(
    app: &App,
    chain: &Arc<ChainHandle>,
    read: impl FnOnce(&ChainReader) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let permit = app.0.events.reads.clone().acquire_owned().await.expect("the reads are never closed");
    app.0
        .node
        .read(chain, move |chain| {
            // It goes with the thread, even if nobody waits any more.
            let _permit = permit;
            read(chain)
        })
        .await
}

/// Some events in a row, as they are sent.
#[derive(Clone)]
struct Piece {
    start: Cursor,
    end: Cursor,
    bytes: Bytes,
    /// The chain's erasures before it was read.
    erasures: u64,
}

impl Piece {
    /// Whether it is one event that is larger than a piece should be.
    fn is_large(&self) -> bool {
        self.bytes.len() > limits::EVENTS_PIECE && self.end.events() - self.start.events() == 1
    }
}

/// Reads and frames the events between two cursors, as many as fit into a piece but at least one. A quant comes as soon as
/// all that it seals has come.
fn frame(chain: &ChainReader, start: Cursor, end: Cursor) -> Result<Piece, StoreError> {
    let erasures = chain.chain().erasures();
    // What stands around small records is about a quarter of them.
    let mut out = Vec::with_capacity(limits::EVENTS_PIECE + limits::EVENTS_PIECE / 4);
    let (mut at, mut records) = (start, Vec::new());
    while at.is_before(end) && out.len() < limits::EVENTS_PIECE {
        let quant = (at.quants < end.quants).then(|| chain.quant(Height::new(at.quants))).transpose()?;
        match quant {
            Some(quant) if quant.size().get() <= at.transactions => {
                at.quants += 1;
                frame_one(&mut out, at, "quant", &serde_json::to_vec(&quant).expect("a quant is JSON"));
            }
            quant => {
                let until = quant.map_or(end.transactions, |quant| quant.size().get());
                let room = limits::EVENTS_PIECE - out.len();
                records.clear();
                chain.records(Index::new(at.transactions)..Index::new(until), b'\n', room, &mut records)?;
                // The first comes even if there is no room for it.
                if records.len() > room && !out.is_empty() {
                    break;
                }
                // Canonical JSON escapes all control characters, so a record is one line.
                for record in records.split(|&byte| byte == b'\n') {
                    at.transactions += 1;
                    frame_one(&mut out, at, "transaction", record);
                }
            }
        }
    }
    Ok(Piece { start, end: at, bytes: out.into_boxed_slice().into(), erasures })
}

fn frame_one(out: &mut Vec<u8>, id: Cursor, kind: &str, data: &[u8]) {
    write!(out, "id: {id}\nevent: {kind}\ndata: ").expect("writing to memory does not fail");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// Bytes that hold a permit until their last copy is dropped.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn held(bytes: Bytes, permit: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Held { bytes, _permit: permit })
}

/// Room for these bytes among those that are kept for all listeners, at once or not at all.
fn take_room(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes).expect("an event is bounded far below 4 GiB");
    room.clone().try_acquire_many_owned(bytes).ok()
}

/// What the listeners of all chains share.
pub struct Feeds {
    /// The newest events of each chain that somebody listens to.
    feeds: Mutex<HashMap<Hash, Arc<Feed>>>,
    /// Bytes that may still be kept.
    room: Arc<Semaphore>,
    /// Listeners that may read the store at one time.
    reads: Arc<Semaphore>,
}

impl Feeds {
    /// Without listeners.
    pub fn new() -> Feeds {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Feeds { feeds: Mutex::default(), room: semaphore(limits::EVENTS_BYTES), reads: semaphore(limits::EVENTS_READS) }
    }
}

/// Those that listen to a chain, and what is new for them.
struct Feed {
    recent: watch::Sender<Recent>,
    /// They are told in groups, so that thousands of them do not stand before all others that wait for the processors.
    groups: Mutex<Vec<watch::Sender<()>>>,
}

impl Feed {
    fn new(end: Cursor) -> Feed {
        Feed { recent: watch::channel(Recent::new(end)).0, groups: Mutex::default() }
    }

    /// The newest events, and what tells that there are more.
    fn join(&self) -> (watch::Receiver<Recent>, watch::Receiver<()>) {
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        groups.retain(|group| group.receiver_count() > 0);
        let told = match groups.last().filter(|group| group.receiver_count() < limits::EVENTS_GROUP) {
            Some(group) => group.subscribe(),
            None => {
                let (group, told) = watch::channel(());
                groups.push(group);
                told
            }
        };
        (self.recent.subscribe(), told)
    }

    /// Nobody is told.
    fn change(&self, change: impl FnOnce(&mut Recent)) {
        self.recent.send_if_modified(|recent| {
            change(recent);
            false
        });
    }

    /// Tells all that there is more.
    async fn tell(&self) {
        let groups = self.groups.lock().expect("no holder of this lock panics").clone();
        for group in groups {
            group.send_replace(());
            yield_now().await;
        }
    }
}

/// The newest events of a chain, for all that listen to it.
struct Recent {
    /// In order. Each begins where the one before it ends, but that pieces may be missing between.
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Behind the last event that was sent on. Each listener that catches up with it is at this cursor exactly.
    end: Cursor,
}

/// How a listener stands to the newest events.
enum Place {
    /// This is its next piece.
    Within(Piece),
    /// It must read the store up to this cursor.
    Before(Cursor),
    /// It has all.
    Newest,
}

impl Recent {
    fn new(end: Cursor) -> Recent {
        Recent { pieces: VecDeque::new(), bytes: 0, end }
    }

    /// Forgets what may show data that was erased since it was read.
    fn forget_erased(&mut self, erasures: u64) {
        while self.pieces.front().is_some_and(|piece| piece.erasures != erasures) {
            self.pop();
        }
    }

    /// Of a chain with so many erasures.
    fn place(&self, cursor: Cursor, erasures: u64) -> Place {
        let found = self.pieces.binary_search_by_key(&cursor.events(), |piece| piece.start.events());
        match found.ok().map(|at| &self.pieces[at]) {
            Some(piece) if piece.start == cursor && piece.erasures == erasures => Place::Within(piece.clone()),
            _ if cursor.is_before(self.end) => Place::Before(self.end),
            // It may even be ahead: it began with the chain's head, which is sent on a moment later.
            _ => Place::Newest,
        }
    }

    /// Adds the next piece in place of the oldest ones. Where there is no room, it is left out.
    fn push(&mut self, piece: Piece, room: &Arc<Semaphore>) {
        let bytes = piece.bytes.len();
        self.end = piece.end;
        while self.bytes + bytes > limits::EVENTS_RECENT && self.pop() {}
        let permit = loop {
            match take_room(room, bytes) {
                None if self.pop() => {}
                taken => break taken,
            }
        };
        if let Some(permit) = permit {
            self.bytes += bytes;
            self.pieces.push_back(Piece { bytes: held(piece.bytes, permit), ..piece });
        }
    }

    fn pop(&mut self) -> bool {
        let oldest = self.pieces.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, |piece| piece.bytes.len());
        oldest.is_some()
    }
}

/// Follows a chain for all its listeners, until there is none.
struct Broadcast {
    app: App,
    chain: Arc<ChainHandle>,
    feed: Arc<Feed>,
}

impl Broadcast {
    /// The newest events of a chain, and what tells that there are more. The first listener starts the broadcast.
    fn follow(app: &App, chain: &Arc<ChainHandle>) -> (watch::Receiver<Recent>, watch::Receiver<()>) {
        let mut feeds = app.0.events.feeds.lock().expect("no holder of this lock panics");
        if let Some(feed) = feeds.get(&chain.id) {
            return feed.join();
        }
        let feed = Arc::new(Feed::new(Cursor::of(&chain.head())));
        feeds.insert(chain.id, feed.clone());
        let joined = feed.join();
        tokio::spawn(Broadcast { app: app.clone(), chain: chain.clone(), feed }.run());
        joined
    }

    async fn run(self) {
        let mut heads = self.chain.watch();
        while self.has_listeners() {
            let newest = Cursor::of(&heads.borrow_and_update());
            if self.chain.is_replaced() {
                return;
            }
            self.send_up_to(newest).await;
            sleep(limits::EVENTS_PAUSE).await;
            let changed = async {
                if timeout(limits::EVENTS_KEPT, heads.changed()).await.is_err() {
                    // Who has not taken them yet reads the store.
                    self.feed.change(|recent| while recent.pop() {});
                    heads.changed().await.expect("the chain is held");
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.feed.recent.closed() => {}
            }
        }
    }

    async fn send_up_to(&self, newest: Cursor) {
        let erasures = self.chain.erasures();
        self.feed.change(|recent| recent.forget_erased(erasures));
        let mut at = self.feed.recent.borrow().end;
        while at.is_before(newest) {
            let read = self.app.0.node.read(&self.chain, move |chain| frame(chain, at, newest)).await;
            at = read.as_ref().map_or(newest, |piece| piece.end);
            self.feed.change(|recent| match read {
                Ok(piece) => recent.push(piece, &self.app.0.events.room),
                // Each listener meets with the same error when it reads by itself, and ends.
                Err(_) => recent.end = newest,
            });
            self.feed.tell().await;
        }
    }

    /// Gives the chain's place free where nobody listens any more. Nobody can begin to meanwhile.
    fn has_listeners(&self) -> bool {
        let mut feeds = self.app.0.events.feeds.lock().expect("no holder of this lock panics");
        let has_listeners = self.feed.recent.receiver_count() > 0;
        if !has_listeners {
            feeds.remove(&self.chain.id);
        }
        has_listeners
    }
}

impl Drop for Broadcast {
    /// After a panic, or where the chain is replaced, the next listener starts another one, and those of this one end.
    fn drop(&mut self) {
        let Ok(mut feeds) = self.app.0.events.feeds.lock() else { return };
        let id = self.chain.id;
        if feeds.get(&id).is_some_and(|feed| Arc::ptr_eq(feed, &self.feed)) {
            feeds.remove(&id);
        }
    }
}

/// An event that is sent in parts.
struct Part {
    /// Bytes that were sent.
    sent: usize,
    /// All its bytes.
    whole: usize,
    /// Up to where it was read, so that the same event is read again.
    end: Cursor,
}

/// One stream of events.
struct Listener {
    app: App,
    chain: Arc<ChainHandle>,
    recent: watch::Receiver<Recent>,
    /// Changed when there is more.
    told: watch::Receiver<()>,
    stopping: watch::Receiver<bool>,
    /// What was sent.
    cursor: Cursor,
    part: Option<Part>,
    /// Whether it has said that another chain has taken the place of this one.
    is_over: bool,
    /// Held by the piece that is on its way, until the socket has taken it.
    turn: Arc<Semaphore>,
    _counted: Counted,
}

impl Listener {
    fn new(app: App, chain: Arc<ChainHandle>, cursor: Cursor) -> Listener {
        let (recent, told) = Broadcast::follow(&app, &chain);
        let stopping = app.0.stopping.clone();
        let (turn, counted) = (Arc::new(Semaphore::new(1)), Counted::new(&app.0.requests.event_streams));
        Listener { app, chain, recent, told, stopping, cursor, part: None, is_over: false, turn, _counted: counted }
    }

    /// It begins with an id but no event: a client that loses the connection before the first event resumes here too. A
    /// store that fails breaks the connection.
    fn into_body(self) -> Body {
        let greeting = Bytes::from(format!("retry: {RETRY}\nid: {}\n\n", self.cursor));
        Body::from_stream(stream::try_unfold((self, Some(greeting)), |(mut listener, greeting)| async move {
            let turn = listener.turn.clone().acquire_owned().await.expect("the turn is never closed");
            let bytes = match greeting {
                Some(greeting) => Some(greeting),
                None => listener.next().await?,
            };
            Ok::<_, StoreError>(bytes.map(|bytes| (held(bytes, turn), (listener, None))))
        }))
    }

    /// What is to be sent next, or nothing when the node stops or the chain was replaced. It stops between events.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(Part { end, .. }) = self.part {
                return self.read(end).await.map(Some);
            }
            if *self.stopping.borrow() || self.is_over {
                return Ok(None);
            }
            self.told.mark_unchanged();
            let place = self.recent.borrow().place(self.cursor, self.chain.erasures());
            match place {
                Place::Within(piece) => {
                    self.cursor = piece.end;
                    return Ok(Some(piece.bytes));
                }
                Place::Before(end) => return self.read(end).await.map(Some),
                Place::Newest => {}
            }
            let has_ended = tokio::select! {
                changed = self.told.changed() => changed.is_err(),
                _ = self.stopping.wait_for(|stopping| *stopping) => return Ok(None),
                () = sleep(limits::EVENTS_HEARTBEAT) => return Ok(Some(HEARTBEAT)),
            };
            if has_ended {
                return match self.chain.is_replaced() {
                    true => Ok(Some(self.end())),
                    false => Err(StoreError::Failed("what follows the chain has ended".into())),
                };
            }
        }
    }

    /// The last event of a chain that was replaced: whoever resumes behind it begins with the other one.
    fn end(&mut self) -> Bytes {
        self.is_over = true;
        let name = &self.chain.name;
        let id = self.app.0.node.chain(name.as_str()).map(|other| other.id);
        let data = serde_json::json!({ "chain": name.as_str(), "id": id });
        let mut out = Vec::new();
        frame_one(&mut out, Cursor { transactions: 0, quants: 0 }, "replaced", data.to_string().as_bytes());
        out.into()
    }

    /// The next piece from the store.
    async fn read(&mut self, end: Cursor) -> Result<Bytes, StoreError> {
        loop {
            let start = self.cursor;
            let piece = read(&self.app, &self.chain, move |chain| frame(chain, start, end)).await?;
            if piece.erasures == self.chain.erasures() {
                return self.cut(piece, end);
            }
        }
    }

    /// All of a piece, or the next part of an event that is too large to be kept.
    fn cut(&mut self, piece: Piece, end: Cursor) -> Result<Bytes, StoreError> {
        let whole = piece.bytes.len();
        let sent = match self.part.take() {
            Some(part) if part.whole == whole => part.sent,
            Some(_) => return Err(StoreError::Failed("a transaction changed while it was sent".into())),
            None if !piece.is_large() => {
                self.cursor = piece.end;
                return Ok(piece.bytes);
            }
            None => match take_room(&self.app.0.events.room, whole) {
                Some(room) => {
                    self.cursor = piece.end;
                    return Ok(held(piece.bytes, room));
                }
                None => 0,
            },
        };
        let to = whole.min(sent + limits::EVENTS_PIECE);
        match to == whole {
            true => self.cursor = piece.end,
            false => self.part = Some(Part { sent: to, whole, end }),
        }
        Ok(Bytes::copy_from_slice(&piece.bytes[sent..to]))
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZero, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        cluster::Cluster,
        core::{json, transaction::Submission},
        http::{Limits, serve},
        mirror::Mirrors,
        node::{Config, Node},
        peers::{Identity, Peers},
        tls::Authorities,
        writer::Reserved,
    };

    /// A node on a folder of its own.
    struct Served {
        app: App,
        stop: watch::Sender<bool>,
        _folder: tempfile::TempDir,
    }

    impl Served {
        async fn start() -> Served {
            let folder = tempfile::tempdir().unwrap();
            let data = folder.path().join("data");
            let config = Config {
                data,
                pool_limit: 1_000,
                mining_threads: NonZero::<usize>::MIN,
                leap: None,
                joins: false,
                cosign: Default::default(),
                accept_rollback: Vec::new(),
                clock: Default::default(),
                progress: Default::default(),
            };
            let (node, _) = Node::start(config).await.unwrap();
            let identity = Identity { id: node.id(), version: "0".into(), host: "localhost:1".parse().unwrap() };
            let peers = Peers::new(identity, "none".parse().unwrap(), &Authorities::default(), Vec::new());
            let (stop, stopping) = watch::channel(false);
            let secret = crate::cluster::link::Secret([0; 32]);
            let cluster = Cluster::start(node.clone(), secret, "localhost:1".into(), None, stopping.clone());
            let cluster = cluster.await.unwrap();
            let (allowed, named) = ("none".parse().unwrap(), Vec::new());
            let trusted = Authorities::default();
            let mirrors = Mirrors::start(node.clone(), cluster.clone(), allowed, &trusted, named, stopping.clone());
            let mirrors = mirrors.await.unwrap();
            Served {
                app: App::new(node, cluster, peers, mirrors, Default::default(), Default::default(), stopping),
                stop,
                _folder: folder,
            }
        }

        fn chain(&self) -> Arc<ChainHandle> {
            self.app.0.node.chain(crate::core::rules::ChainName::DEFAULT).expect("a new node has its default chain")
        }

        async fn inject(&self, bytes: usize) {
            let data = json::canonical(&"x".repeat(bytes).into());
            let submission = Submission { data, id: None, signed: None };
            let transactions = self.app.0.node.record(&self.chain(), vec![submission]);
            self.app.0.node.inject(&self.chain(), transactions, None, Reserved::default()).await.unwrap();
        }

        fn listen(&self, transactions: u64, quants: u64) -> Listener {
            Listener::new(self.app.clone(), self.chain(), Cursor { transactions, quants })
        }

        /// Streams of the default chain that are open.
        fn listeners(&self) -> usize {
            let feeds = self.app.0.events.feeds.lock().unwrap();
            feeds.get(&self.chain().id).map_or(0, |feed| feed.recent.receiver_count())
        }
    }

    /// The pieces that come until the listener has all that the chain has.
    async fn take_all(listener: &mut Listener) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        while listener.cursor != Cursor::of(&listener.chain.head()) {
            pieces.push(listener.next().await.unwrap().expect("the node goes on"));
        }
        pieces
    }

    async fn eventually(what: &str, holds: impl Fn() -> bool) {
        timeout(Duration::from_secs(30), async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_large_event_comes_in_parts_where_there_is_no_room_for_it() {
        let served = Served::start().await;
        for bytes in [10, 300_000, 20, limits::EVENTS_PIECE, 300_000] {
            served.inject(bytes).await;
        }
        served.app.0.node.leap(&served.chain(), None).await.unwrap();
        let whole = take_all(&mut served.listen(0, 0)).await;
        assert!(whole.iter().any(|piece| piece.len() > 300_000), "there is room");
        let (pieces, whole) = (whole.len(), { whole }.concat());

        let room = take_room(&served.app.0.events.room, limits::EVENTS_BYTES).expect("all that was held is given back");
        let mut listener = served.listen(0, 0);
        let parts = take_all(&mut listener).await;
        assert!(parts.len() > pieces + 10 && listener.part.is_none());
        assert_eq!(parts.concat(), whole);
        // The newest quant is below this.
        assert!(parts.iter().all(|part| part.len() < limits::EVENTS_PIECE + 1_000));
        drop(room);

        // What changes between its parts (it may be erased) must not look like one event.
        listener.cursor = Cursor { transactions: 2, quants: 1 };
        listener.part = Some(Part { sent: 100, whole: 300_000, end: Cursor { transactions: 6, quants: 1 } });
        assert!(listener.next().await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_kept_is_read_from_the_store() {
        let served = Served::start().await;
        let mut live = served.listen(1, 1);
        let mut late = served.listen(1, 1);
        served.inject(1).await;
        let shared = live.next().await.unwrap().unwrap();
        // Another cursor than the broadcast had: it cannot use the same piece, but has the same events in the end.
        let mut other = served.listen(0, 0);
        take_all(&mut other).await;
        let room = &served.app.0.events.room;
        let taken = take_room(room, room.available_permits() - 100).unwrap();
        for _ in 0..3 {
            served.inject(1_000).await;
        }
        let rest = take_all(&mut live).await.concat();
        assert!(live.recent.borrow().pieces.is_empty(), "there was no room");
        assert_eq!(take_all(&mut late).await.concat(), [&shared[..], &rest].concat());
        take_all(&mut other).await;
        assert_eq!((live.cursor, late.cursor), (other.cursor, Cursor { transactions: 5, quants: 1 }));
        drop(taken);

        served.inject(1).await;
        let (one, two) = (live.next().await.unwrap().unwrap(), late.next().await.unwrap().unwrap());
        assert_eq!(one.as_ptr(), two.as_ptr(), "both send the same bytes");
        drop((live, late, other));
        eventually("the broadcast ends with its last listener", || {
            served.app.0.events.feeds.lock().unwrap().is_empty()
        })
        .await;
        drop((one, two, shared));
        eventually("all room is given back", || served.app.0.events.room.available_permits() == limits::EVENTS_BYTES)
            .await;
    }

    /// Symptom: ten thousand listeners that were told at once kept all others waiting for as long as it takes to serve them. Cure: they are
    /// told in groups, and what else is ready comes between.
    #[tokio::test]
    async fn listeners_are_told_in_groups() {
        const GROUPS: usize = 4;
        let feed = Arc::new(Feed::new(Cursor { transactions: 0, quants: 0 }));
        let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let listeners: Vec<_> = (0..GROUPS * limits::EVENTS_GROUP)
            .map(|_| {
                let ((recent, mut news), told) = (feed.join(), told.clone());
                tokio::spawn(async move {
                    news.changed().await.unwrap();
                    told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    drop(recent);
                })
            })
            .collect();
        yield_now().await;
        let telling = tokio::spawn({
            let feed = feed.clone();
            async move { feed.tell().await }
        });
        let mut seen = Vec::new();
        while !telling.is_finished() {
            yield_now().await;
            seen.push(told.load(std::sync::atomic::Ordering::Relaxed));
        }
        let most = seen.windows(2).map(|two| two[1] - two[0]).max();
        assert!(most.is_some_and(|most| most <= limits::EVENTS_GROUP), "{seen:?}");
        for listener in listeners {
            listener.await.unwrap();
        }
        let (_recent, news) = feed.join();
        feed.tell().await;
        assert_eq!(feed.groups.lock().unwrap().len(), 1, "groups without listeners are gone");
        assert!(news.has_changed().unwrap());
    }

    #[test]
    fn a_cursor_finds_its_place_among_the_newest_events() {
        let room = Arc::new(Semaphore::new(limits::EVENTS_RECENT + 10));
        let at = |transactions, quants| Cursor { transactions, quants };
        let piece = |start, end, bytes| Piece { start, end, bytes: vec![0; bytes].into(), erasures: 0 };
        let mut recent = Recent::new(at(5, 2));
        recent.push(piece(at(5, 2), at(7, 2), 10), &room);
        recent.push(piece(at(7, 2), at(7, 3), 10), &room);
        let end_of = |recent: &Recent, cursor| match recent.place(cursor, 0) {
            Place::Within(piece) => ("piece", piece.end),
            Place::Before(end) => ("store", end),
            Place::Newest => ("none", recent.end),
        };
        assert_eq!(end_of(&recent, at(5, 2)), ("piece", at(7, 2)));
        assert_eq!(end_of(&recent, at(7, 2)), ("piece", at(7, 3)));
        assert_eq!(end_of(&recent, at(0, 0)), ("store", at(7, 3)));
        assert_eq!(end_of(&recent, at(6, 2)), ("store", at(7, 3)), "within a piece");
        assert_eq!(end_of(&recent, at(6, 3)), ("store", at(7, 3)), "as many events, but others");
        assert_eq!(end_of(&recent, at(7, 3)), ("none", at(7, 3)));
        for ahead in [at(8, 3), at(8, 2), at(7, 4)] {
            assert_eq!(end_of(&recent, ahead), ("none", at(7, 3)), "{ahead} is not before the end");
        }
        assert!(matches!(recent.place(at(5, 2), 1), Place::Before(_)), "something was erased since it was read");
        // The oldest make place for what comes, even for what is larger than all of them may be.
        recent.push(piece(at(7, 3), at(8, 3), limits::EVENTS_RECENT - 15), &room);
        assert_eq!(end_of(&recent, at(5, 2)), ("store", at(8, 3)));
        assert_eq!(end_of(&recent, at(7, 2)), ("piece", at(7, 3)));
        recent.push(piece(at(8, 3), at(9, 3), limits::EVENTS_RECENT + 5), &room);
        assert_eq!((recent.pieces.len(), recent.bytes), (1, limits::EVENTS_RECENT + 5));
        recent.push(piece(at(9, 3), at(10, 3), limits::EVENTS_RECENT + 20), &room);
        assert_eq!((recent.pieces.len(), recent.bytes, recent.end), (0, 0, at(10, 3)), "there is no room for it");
        assert_eq!(room.available_permits(), limits::EVENTS_RECENT + 10);
    }

    /// A client that never reads holds up neither the others nor memory for longer than the time limit.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_listener_that_takes_nothing_is_dropped_and_the_others_go_on() {
        const COUNT: u64 = 40;
        let served = Served::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Limits { connections: 10, of_address: 10, write_timeout: Duration::from_millis(500) };
        let server = tokio::spawn(serve(listener, None, served.app.clone(), bounds, served.stop.subscribe()));
        let connect = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            stream
        };
        let (mut stalled, mut reading) = (connect().await, connect().await);
        eventually("both listen", || served.listeners() == 2).await;
        let reader = tokio::spawn(async move {
            let (mut got, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
            let last = format!("id: {}.1\n", COUNT + 2);
            loop {
                let read = reading.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the stream ended too early");
                got.extend_from_slice(&buffer[..read]);
                let tail = &got[got.len().saturating_sub(1_000)..];
                if tail.windows(last.len()).any(|window| window == last.as_bytes()) {
                    return reading;
                }
            }
        });
        for _ in 0..COUNT {
            served.inject(900_000).await;
        }
        served.inject(1).await;
        let mut reading = reader.await.unwrap();
        eventually("the stalled one is dropped", || served.listeners() == 1).await;
        let mut rest = Vec::new();
        // It may end with a reset.
        let _ = stalled.read_to_end(&mut rest).await;
        assert!(rest.len() < COUNT as usize * 900_000, "it had not everything");

        served.stop.send(true).unwrap();
        let mut rest = Vec::new();
        reading.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"0\r\n\r\n"), "the other one ends in order");
        server.await.unwrap();
    }
}
