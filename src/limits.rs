//! Every bound of the node in one place, each with its reason.
//!
//! A node that bounds what it reads, keeps in memory and waits for cannot be stopped by what it is sent. What goes over a
//! bound is refused with an answer that names the bound.

use std::time::Duration;

/// The deepest nesting of arrays and objects in a transaction's data, counted in containers.
///
/// A receipt wraps data in two more containers, which our own gate must still take
/// ([`MAX_DEPTH`](crate::core::json::MAX_DEPTH)), and a chain in five, where common parsers stop at 128.
pub const DATA_DEPTH: usize = 96;

/// Bytes of one request body, and of one line of a streamed body.
///
/// It holds a transaction of [`MAX_BYTES_LIMIT`] however it is escaped, and an array of many small ones.
pub const BODY_BYTES: usize = 8 << 20;

/// Bytes of all request bodies that wait in memory at one time. What does not fit is answered `503`.
pub const BODIES_BYTES: usize = 128 << 20;

/// Bytes of a request body that is not counted among those of its client, where it has come in one piece: most are so, and counting
/// costs time.
pub const BODY_UNCOUNTED: usize = 4 << 10;

/// `max_bytes` of a chain whose bang does not say: 1 MiB.
pub const MAX_BYTES_DEFAULT: u64 = 1 << 20;

/// The largest `max_bytes` that a bang may ask for: 4 MiB. Every reader of a chain must hold one transaction in memory.
pub const MAX_BYTES_LIMIT: u64 = 4 << 20;

/// Bytes of the canonical rules of a chain. Each node keeps the rules of each chain in memory.
pub const RULES_BYTES: usize = 256 << 10;

/// Successions of a signing key that a checkpoint shows, the newest: each is a line, and others may read no more than 16 of them beside
/// those of signers and witnesses. All are told by `GET /keys`.
pub const SUCCESSION_LINES: usize = 8;

/// Changes of the keys of one chain: where each stands is kept in memory and with the chain's record. It is one an hour for a year.
pub const KEY_CHANGES: usize = 10_000;

/// Transactions in one array. All or none of them are accepted, so they are one step of the writer.
pub const ARRAY_TRANSACTIONS: usize = 10_000;

/// Transactions that wait in the pool of one chain where the command line does not say. More are answered `429`.
pub const POOL_TRANSACTIONS: u64 = 100_000_000;

/// Commands that wait for the writer. More are answered `503`: at full rate these take well below a second.
pub const QUEUE_COMMANDS: usize = 16_384;

/// Commands that the writer commits together at most, so that the first of them does not wait for ever.
pub const BATCH_COMMANDS: usize = 4_096;

/// Bytes of transactions after which the writer commits what it has, so that others wait for little of a stream, and a new replica that is
/// fed has the disk for little at a time. Streams are as fast as with eight times as much.
pub const BATCH_BYTES: usize = 1 << 20;

/// Bytes of one quant in the log, and somewhat more.
pub const QUANT_BYTES: usize = 1 << 10;

/// Transactions in one stored run: a lookup of one transaction reads its whole run.
pub const RUN_TRANSACTIONS: usize = 128;

/// Bytes of one stored run, but for a run of one larger transaction.
pub const RUN_BYTES: usize = 64 << 10;

/// Bytes of the reason of an erasure: it stays on the chain for ever.
pub const REASON_BYTES: usize = 1_024;

/// Quants that a step of the scrub reads at most: empty ones have no transactions that would bound it.
pub const SCRUB_QUANTS: usize = 1_000;

/// Bytes a second that the scrub reads where the command line does not say: 8 MiB.
pub const SCRUB_RATE: u64 = 8 << 20;

/// Transactions of a page where the request does not say.
pub const PAGE_DEFAULT: u64 = 100;

/// Transactions, quants or chains of one page at most.
pub const PAGE_LIMIT: u64 = 10_000;

/// Bytes that a streamed answer reads from the store at a time.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Bytes of writes of one client, or one larger write, that wait for the writers while other clients are connected.
pub const WRITES_AHEAD: usize = 256 << 10;

/// Lines and bytes of a streamed inject that go to the writer together.
pub const STREAM_LINES: usize = 2_048;
/// See [`STREAM_LINES`].
pub const STREAM_BYTES: usize = 512 << 10;

/// Groups of lines of one streamed inject that wait for the writer while the next is read.
pub const STREAM_AHEAD: usize = 4;

/// Refused lines of a streamed inject that its answer names.
pub const STREAM_ERRORS: usize = 100;

/// Longest wait for a leap (`wait=leap&timeout=`).
pub const WAIT_LIMIT: Duration = Duration::from_secs(3_600);

/// Wait for a leap where the request does not say.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// A connection that has not sent a whole request head in this time is closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A request body of which nothing came for this time is answered `408`.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that takes nothing of its answer for this time is closed.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the rest of a request that was refused early is read and thrown away before its connection is closed, and how long
/// that waits for more of it. A client that still sends would be told of a broken connection, and never see the answer.
pub const LINGER_TIME: Duration = Duration::from_secs(30);
/// See [`LINGER_TIME`].
pub const LINGER_PAUSE: Duration = Duration::from_secs(5);
/// Bytes that are thrown away like that: many times what a body may have, and less than a second of work.
pub const LINGER_BYTES: usize = 512 << 20;

/// Bytes of a request head of HTTP/1.1, and of what is read of its body at a time: the longest path and query, and half as much again.
pub const HEAD_BYTES: usize = 96 << 10;

/// Time without traffic after which the kernel asks whether a client is still there, how often it asks again, and how often
/// connections that wait for their answer look at what it found. A client that has ended its side of the connection may
/// wait for the answer or be gone, and only that tells.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Questions without an answer after which a client is gone. See [`KEEP_ALIVE`].
pub const KEEP_ALIVE_PROBES: u32 = 4;

/// Bytes of a compressed body that are decoded at a time.
pub const DECODED_BYTES: usize = 64 << 10;

/// Bodies in `br` or `zstd` that are decoded at one time, each with a window of up to 16 MiB (RFC 7932 section 9.1) or 8 MiB.
/// More are answered `503`. A decoder of gzip takes a few kilobytes.
pub const DECODERS: usize = 64;

/// The largest window of a body in `zstd`, as a power of 2: 8 MiB, as RFC 9659 section 3 has it for HTTP.
pub const ZSTD_WINDOW: u32 = 23;

/// Connections at one time, where the limit of open files allows so many. More wait in the kernel's queue.
pub const CONNECTIONS: usize = 20_000;

/// Reads of the store for answers at one time, of all clients and of one, on so many processors. More wait, each client in a queue of its
/// own, so that whoever asks for little is not kept waiting by those who ask for much. There are several for a processor, since some
/// wait for the disk.
pub const fn reads(processors: usize) -> [usize; 2] {
    let all = if processors < 2 { 8 } else { 4 * processors };
    [all, all / 4 * 3]
}

/// Pieces of work at one time that keep a processor for milliseconds, of all clients and of one: a large body that is parsed, lines of an
/// import that are verified. More wait, as for [`reads`]. One client leaves a processor to all others, where there are two.
pub const fn heavy(processors: usize) -> [usize; 2] {
    let all = if processors < 2 { 2 } else { processors };
    [all, if all < 4 { all - 1 } else { all / 4 * 3 }]
}

/// Threads for such work that the node does by itself, or for other nodes: the scrub, what is healed, what is compared.
pub const ASIDE_OWN: usize = 2;

/// Bytes that values take up at most while they are parsed from JSON, in large bodies and lines. What does not fit waits. It holds one
/// body of the worst kind, one object of one field after the other.
pub const PARSED_BYTES: usize = 1 << 30;

/// Bytes of answers that wait to be taken. More are answered `503`.
pub const ANSWERS_BYTES: usize = 512 << 20;

/// Bytes of an answer that is not counted among those, as most are so.
pub const ANSWER_UNCOUNTED: usize = 16 << 10;

/// Bytes for which a streamed answer is counted: the piece that is being sent, and the one that is read meanwhile.
pub const ANSWER_STREAMED: usize = 2 * CHUNK_BYTES;

/// Answers that are compressed at one time. More are sent as they are.
pub const ENCODERS: usize = 32;

/// Connections that wait in the kernel until they are accepted, where the system allows so many. Who finds no place there asks again a
/// second later.
pub const BACKLOG: i32 = 4_096;

/// How long a stopping node waits for requests under way.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Free bytes of the data folder's file system below which writes are answered `507`: room for the engine to flush what it
/// has accepted. On a small file system a sixteenth of it is enough.
pub const FREE_BYTES: u64 = 64 << 20;

/// Time in which a file system that had room is not asked again: each batch would do that, and in this time less is written than
/// [`FREE_BYTES`].
pub const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Time after a write that found the disk full in which the store is not opened anew, since readers wait for that.
pub const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Shortest time between automatic leaps.
pub const LEAP_EVERY_MIN: Duration = Duration::from_millis(10);
/// Longest time between automatic leaps: a day.
pub const LEAP_EVERY_MAX: Duration = Duration::from_secs(86_400);

/// Bytes of one page of chains, behind which the next page begins.
pub const PAGE_BYTES: usize = 4 << 20;

/// Bytes of canonical data from which its check against the chain's rules gives way to other requests.
pub const CHECK_AT_ONCE: usize = 16 << 10;

/// How far the newest time of a chain may lie in the future before that is told: clocks that are kept by NTP differ by less.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The start of 2020 in microseconds since 1970: a clock that shows less was never set, and a witness signs nothing by it.
pub const CLOCK_FIRST_MICROS: i64 = 1_577_836_800_000_000;

/// Signatures of one signed note. C2SP signed-note asks for at least 16; Go's reader takes as many as this.
pub const NOTE_SIGNATURES: usize = 100;

/// Bytes that are read of a file with a secret key: its longest form has a name of any length, which is cut off here.
pub const KEY_BYTES: u64 = 64 << 10;

/// Complete tiles that are kept in memory, 8 KiB each, and as much again where a proof has read one: a read of the store costs more than
/// the rest of such a request. These are all of a million transactions, in 64 MiB at most.
pub const TILES_CACHED: usize = 4_096;

/// Signed checkpoints of quants that are kept in memory for receipts, about 600 bytes each.
pub const NOTES_CACHED: usize = 4_096;

/// Bytes of one piece of an event stream; a larger event is a piece by itself. Each listener that reads slowly holds one, so
/// that 10,000 of them hold 320 MiB.
pub const EVENTS_PIECE: usize = 32 << 10;

/// Bytes of newest events that one chain keeps in memory for all its listeners. Who is farther behind reads the store.
pub const EVENTS_RECENT: usize = 4 << 20;

/// Bytes of events of all chains that are kept for their listeners, and of events that are larger than a piece. Without room
/// among these, listeners read the store by themselves, and large events are sent in parts.
pub const EVENTS_BYTES: usize = 64 << 20;

/// Reads of the store for event streams at one time: thousands of listeners that catch up must not hold up other readers.
pub const EVENTS_READS: usize = 4;

/// Listeners that are told of new events at one time: the next ones only when others that wait for the processors had them.
pub const EVENTS_GROUP: usize = 64;

/// Pause after new events were sent on, in which the next ones gather. A hundred listeners cost a system call each time.
pub const EVENTS_PAUSE: Duration = Duration::from_millis(10);

/// Time without a new event after which a chain's newest events are no longer kept in memory.
pub const EVENTS_KEPT: Duration = Duration::from_secs(2);

/// Time without an event after which a stream sends a comment, so that dead peers are found and proxies keep the connection.
pub const EVENTS_HEARTBEAT: Duration = Duration::from_secs(15);

/// Bytes of lines of an import that are verified and stored together: one sync each.
pub const IMPORT_BYTES: usize = 2 << 20;

/// Imports that are under way at one time, and chains that unfinished ones have stored in part. More are answered `429`.
pub const IMPORTS: usize = 64;

/// A pause within an import after which the lines that have come are verified and stored, so that it takes up no memory for
/// them while it is idle.
pub const IMPORT_PAUSE: Duration = Duration::from_secs(1);

/// Time from one look for unfinished imports that are to be given up to the next.
pub const IMPORTS_EVERY: Duration = Duration::from_secs(60);

/// Entries of an import that was given up which are removed in one step of the writer, so that others do not wait long.
pub const REMOVE_ENTRIES: usize = 512;

/// Bytes of a call of `add-checkpoint`, and of an answer to one: 16 signatures of the largest algorithm, 5 kB each
/// (C2SP signed-note), in base64, beside the proof and the text.
pub const WITNESS_BYTES: usize = 128 << 10;

/// Pieces of evidence that a witness keeps of one log. One proves it all; more show how it went on.
pub const EVIDENCE: usize = 8;

/// Witnesses of one node: with the two of the node and the two of its cluster, their signatures are the 16 that every reader of notes
/// must take.
pub const WITNESSES: usize = 12;

/// Newest checkpoints of a chain that are kept with their cosignatures, so that slow and fast witnesses of a chain that leaps
/// often come to speak of the same one.
pub const COSIGNED_NOTES: usize = 8;

/// Calls of one witness at one time, whatever the number of chains.
pub const WITNESS_CALLS: usize = 8;

/// The longest wait for a witness's answer.
pub const WITNESS_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait at the start of a node for the first answers of its witnesses: they may know that its folder is an old copy.
pub const WITNESS_START: Duration = Duration::from_secs(2);

/// Wait before a witness that did not answer is called again: it doubles from the first to the last of these.
pub const WITNESS_PAUSE: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(60)];

/// Wait before a witness that refused a chain is asked for it again, where the chain does not leap before: its operator may
/// have mended that meanwhile.
pub const WITNESS_REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Bytes of log lines that wait to be written. A reader of the log that sleeps costs no more memory than twice this, and what
/// does not fit is lost: no request waits for the log.
pub const LOG_BYTES: usize = 1 << 20;

/// The longest wait for the last lines of the log when the node ends.
pub const LOG_FLUSH: Duration = Duration::from_secs(1);

/// The longest time for which a witness is left alone because it asks for that (`Retry-After`): what it says may be wrong.
pub const WITNESS_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Bytes of a host's name: a name of the DNS has at most 253 (RFC 1035 section 2.3.4).
pub const HOST_BYTES: usize = 255;

/// Bytes of the path that a proxy says to have stripped (`X-Forwarded-Prefix`): it comes back in headers.
pub const PREFIX_BYTES: usize = 256;

/// Bytes of rows that bringing the index up to the log gathers before it writes them.
pub const REPLAY_BYTES: usize = 4 << 20;

/// Time after which a start shows again how far it has come.
pub const REPLAY_TOLD: Duration = Duration::from_millis(200);

/// The same for lines of the log.
pub const OPENING_TOLD: Duration = Duration::from_secs(2);

/// Chains that can have metrics of their own, where the operator asks for that: each has five series, and a Prometheus keeps some KiB
/// of each in memory.
pub const METRICS_CHAINS: usize = 1_000;

/// Chains of one node. Each takes some 4 KiB of memory with the hashes at the edge of its tree, so these take 800 MiB, and a start
/// reads each of them.
pub const CHAINS: usize = 200_000;

/// Forks of forks, one the child of the other. An id is looked for in each of them, and each has a row in the table of every one
/// that follows: 10,000 chains of this depth take 60 MiB.
pub const FORK_DEPTH: usize = 256;

/// Bytes of one batch of the log that groups of several nodes share: what waits beyond it is of the next.
pub const JOURNAL_BYTES: usize = 16 << 20;

/// Bytes of newest entries that one group keeps in memory for its other nodes; who lags further is fed from the log.
pub const RECENT_ENTRIES_BYTES: usize = 4 << 20;

/// Bytes of one frame between nodes of a cluster: the largest entry, which is a batch of the writer.
pub const LINK_FRAME_BYTES: usize = 128 << 20;

/// The longest wait for a connection to another node of the cluster, and for its greeting.
pub const LINK_TIMEOUT: Duration = Duration::from_secs(3);

/// Wait before another node that cannot be reached is called again: it doubles from the first to the last of these.
pub const LINK_PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Bytes of entries that are sent to a lagging node at a time: reading them keeps a processor for a millisecond or so.
pub const REPLICATION_BYTES: usize = 256 << 10;

/// Entries that a node may lack of what its group has agreed to, before it is fed with pauses while others write.
pub const FEEDING_LAG: u64 = 32;

/// The pause between what a lagging node is sent while others write, as so many times what sending takes: they have four fifths of the
/// time.
pub const FEEDING_PAUSES: f64 = 4.0;

/// Time after which it is looked whether a node that is fed comes nearer, and whether others still write.
pub const FEEDING_COMPARED: Duration = Duration::from_secs(1);

/// Time between two signs of life of a leader.
pub const HEARTBEAT: Duration = Duration::from_millis(150);

/// Time without a sign of life after which another node stands for election: a random one between these.
pub const ELECTION: [Duration; 2] = [Duration::from_millis(700), Duration::from_millis(900)];

/// The longest wait for a group to have a leader, and to agree to a write: who asks is answered within 5 s.
pub const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(4);

/// The longest wait of a node that joins a cluster.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Time in which a node asks another only once how it stands, however many clients ask (`GET /cluster`).
pub const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The longest wait of a client for what another node says of itself: many times what one takes that is well.
pub const STATUS_WAIT: Duration = Duration::from_millis(500);

/// Time between two questions whether another node of the cluster is there.
pub const PING_EVERY: Duration = Duration::from_secs(1);

/// Time without an answer after which a node is not live: longer than from one question to the next.
pub const SILENT: Duration = Duration::from_secs(3);

/// Time after which a node that does not answer counts as down.
pub const SUSPECT: Duration = Duration::from_secs(10);

/// The longest wait for a group to move in one step. It is begun again then, and goes on where it was: who leads may have changed.
pub const MOVE_STEP: Duration = Duration::from_secs(15);

/// The longest wait for all new replicas to have all of a group. It goes on in the background then.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(600);

/// Time after which a node hands the same group over again to the node that is to lead it: one that dies again and again costs writes
/// no more pauses than that.
pub const HAND_OVER_EVERY: Duration = Duration::from_secs(30);

/// Entries of a group that the node to which it is handed over may lack: it gets them before it takes over, and writes wait for that.
pub const HAND_OVER_LAG: u64 = 8;

/// Time between two looks at whether the groups of a node are where they belong.
pub const SETTLE_EVERY: Duration = Duration::from_millis(500);

/// Bytes of a request that is kept while another node of the cluster answers it, so that it can be sent to the next one where nobody
/// has taken it.
pub const FORWARD_KEPT: usize = 64 << 10;

/// Bytes of a body of `POST /leap`, which has nothing to say, that are looked at.
pub const LEAP_BODY_BYTES: usize = 1 << 10;

/// Threads that mine, at most: more than there are processors are of no use.
pub const MINING_THREADS: usize = 1_024;

/// The longest wait of an entry of several nodes for requests that may be in it, too.
pub const GATHER: Duration = Duration::from_millis(10);

/// Time between two looks at whether they are there.
pub const GATHER_PAUSE: Duration = Duration::from_micros(100);

/// Time after which the replicas of a group that is written are compared again.
pub const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// The wait for the answer of a node to which transactions with ids were carried, before they are sent again: to another one, where
/// that leads by then.
pub const CARRY_AGAIN: Duration = Duration::from_secs(2);

/// The shortest wait for the answer to a call. With it a client still hears within five seconds what became of its request.
pub const LINK_LEAST: Duration = Duration::from_millis(500);

/// Chains of others that one node follows. Each is asked again and again, so this bounds calls and sockets too.
pub const MIRRORS: usize = 256;

/// Mirrors that take over transactions at one time: each holds a few pieces of [`IMPORT_BYTES`] in memory.
pub const MIRROR_STEPS: usize = 4;

/// Quants that a mirror takes over in one step, each step to a checkpoint that the source's key has signed.
pub const MIRROR_QUANTS: u64 = 1_000;

/// Time between two looks at a source that is there: what it seals is here about that much later.
pub const MIRROR_EVERY: Duration = Duration::from_secs(1);

/// Wait before a source that did not answer is asked again: it doubles from the first to the last of these.
pub const MIRROR_PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(60)];

/// The longest wait for one answer of a source, and for one piece of its transactions.
pub const MIRROR_CALL: Duration = Duration::from_secs(60);

/// Time in which nothing comes of an answer of a source, after which it is given up.
pub const MIRROR_IDLE: Duration = Duration::from_secs(10);

/// Bytes of a proof or a receipt of a source. A receipt of the record of an erasure is some kilobytes.
pub const MIRROR_PROOF_BYTES: usize = 64 << 10;

/// Bytes of the URL of a source: it stands in the log, and in answers.
pub const MIRROR_URL_BYTES: usize = 1_024;

/// Time after which a connection between nodes breaks when what was sent on it was not received: longer than a network is away that
/// nobody notices, and about as long as a client waits for an answer.
pub const LINK_UNHEARD: Duration = Duration::from_secs(5);

/// Pauses before what is damaged is tried to be healed again, where no other node could help: it is had soon where they are only away
/// for a moment, and costs a reading of the chain.
pub const HEAL_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(600)];

/// Tokens of one access file: the file is read again each time that it changes.
pub const TOKENS: usize = 10_000;

/// Bytes of an access file: [`TOKENS`] entries with many chains each.
pub const ACCESS_FILE_BYTES: u64 = 8 << 20;

/// Bytes of a token's name: it stands in the log.
pub const TOKEN_NAME_BYTES: usize = 64;

/// Bytes of a token that a client shows: ours have 47, and others may be used.
pub const TOKEN_BYTES: usize = 1_024;

/// Bytes of a pattern of chains: their names have at most 63.
pub const PATTERN_BYTES: usize = 128;

/// Time between two looks at whether the access file has changed. It is read when it is the same at two looks, so that one that is just
/// being written is not read in part.
pub const ACCESS_EVERY: Duration = Duration::from_millis(500);

/// Listeners to events at one time, on all chains: each holds a connection of its own where clients speak HTTP/1.1.
pub const LISTENERS: usize = CONNECTIONS;

/// Requests under way at one time: each holds a connection of its own where clients speak HTTP/1.1.
pub const REQUESTS: usize = CONNECTIONS;

/// The percentage that one client (an address, or a token) may take up of the node's connections, requests under way, listeners and
/// bytes of bodies, where the command line does not say. Others have the rest always. All clients behind a proxy are one address,
/// and so it is a large part: it keeps a single client from shutting out all others, and no more.
pub const CLIENT_SHARE: u8 = 75;

/// Connections over the bound of their address that are told so at one time, and how long each is waited for. More are closed at once:
/// a client that reads its answer only after it has sent all would find a broken connection otherwise.
pub const REFUSED_CONNECTIONS: usize = 64;
/// See [`REFUSED_CONNECTIONS`].
pub const REFUSED_TIME: Duration = Duration::from_secs(1);
/// The longest time that a client may take for the handshake of TLS: it is a few packets, so a client that is there is done in less,
/// and one that stalls keeps its place among the connections for no longer.
pub const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that are read of a file with certificates or a key: more than all authorities of a system have.
pub const PEM_BYTES: u64 = 4 << 20;

/// Time before the end of the node's certificate from which that is told: certificates that renew themselves do so long before.
pub const CERTIFICATE_END: Duration = Duration::from_hours(14 * 24);

/// Time between two looks at how long the certificate is valid still.
pub const CERTIFICATE_EVERY: Duration = Duration::from_hours(24);

/// Requests at one time on one connection of HTTP/2. RFC 9113 section 6.5.2 asks for no fewer than 100. All connections together have
/// as many as there may be [`CONNECTIONS`], so that they take up no more than with HTTP/1.
pub const HTTP2_STREAMS: u32 = 100;

/// Connections of HTTP/2 at one time. More speak HTTP/1.1, which takes up less and is what a client falls back to.
pub const HTTP2_CONNECTIONS: usize = 2_048;

/// Bytes that are read from or written to a connection before it gives way to others.
pub const BYTES_AT_ONCE: usize = 256 << 10;

/// Bytes that are read of one connection of HTTP/2 before it gives way to others: about 400 of the smallest frames.
pub const HTTP2_AT_ONCE: usize = 4 << 10;

/// Frames of no request (settings, pings, pieces of headers) that a client of HTTP/2 may send at once, and more in each second. Then
/// its connection ends.
pub const HTTP2_CONTROL: [u32; 2] = [1_000, 100];

/// Bytes of the headers of one request of HTTP/2, decoded, each with 32 more (RFC 9113 section 6.5.2): the longest path and query of
/// HTTP/1, and as much again.
pub const HTTP2_HEADERS_BYTES: u32 = 128 << 10;

/// Bytes of answers that one request of HTTP/2 keeps for a client that takes them slowly, beside the piece that is read for it.
pub const HTTP2_SEND_BYTES: usize = 64 << 10;

/// Bytes of bodies that a client of HTTP/2 may send before they are read: on one request, and on all of a connection.
pub const HTTP2_WINDOWS: [u32; 2] = [256 << 10, 512 << 10];

/// Requests that a client of HTTP/2 has taken back before they were begun, and those that were reset for its errors, after which the
/// connection ends (rapid reset, CVE-2023-44487).
pub const HTTP2_RESETS: usize = 20;
/// See [`HTTP2_RESETS`].
pub const HTTP2_ERRORS: usize = 256;

/// Bytes of memory that a node takes up at most on so many processors, with so many connections and chains, whatever its clients do: 14 GiB
/// on 2 processors with all [`CONNECTIONS`] and [`CHAINS`], and 7 GiB with 1,000 connections and 10,000 chains. `ulimit -n` sets the number
/// of connections.
///
/// | what takes it up | bytes |
/// | --- | --- |
/// | a connection: the head or the piece of a body that it reads | [`HEAD_BYTES`] |
/// | the same: its task, and what TLS keeps in both directions | 64 KiB |
/// | the same: a request under way, or a listener with its piece | 16 KiB and [`ANSWER_UNCOUNTED`]; [`EVENTS_PIECE`] and a quarter |
/// | one of HTTP/2: its window, headers on their way, and more requests | [`HTTP2_WINDOWS`], [`HTTP2_HEADERS_BYTES`], as above |
/// | bodies, with their canonical form and a copy on its way to the log | 3 x [`BODIES_BYTES`] |
/// | values that are parsed; answers; events | [`PARSED_BYTES`], [`ANSWERS_BYTES`], [`EVENTS_BYTES`] |
/// | decoders and encoders, each with a window | 16 MiB x ([`DECODERS`] and [`ENCODERS`]) |
/// | reads of the store: a piece, and the largest transaction twice | 8 MiB and [`CHUNK_BYTES`] x [`reads`] |
/// | imports: lines that were verified and are on their way to the log | 2 x [`IMPORT_BYTES`] x [`IMPORTS`] |
/// | a chain | 4 KiB |
/// | the rest: the program, caches, the engine of the index, batches on their way to the log, a cluster's newest entries | 512 MiB |
///
/// The allocator keeps up to a quarter more.
pub const fn memory(processors: usize, connections: usize, chains: usize) -> usize {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let of_request = 16 * KIB + ANSWER_UNCOUNTED;
    let listener = EVENTS_PIECE + EVENTS_PIECE / 4;
    let of_connection = HEAD_BYTES + 64 * KIB + if of_request > listener { of_request } else { listener };
    let http2 = least(connections, HTTP2_CONNECTIONS);
    let of_http2 = HTTP2_WINDOWS[1] as usize + HTTP2_HEADERS_BYTES as usize;
    let more_requests = least(http2 * HTTP2_STREAMS as usize, CONNECTIONS);
    let connected = connections * of_connection + http2 * of_http2 + more_requests * of_request;
    let bodies = 3 * BODIES_BYTES + PARSED_BYTES + ANSWERS_BYTES + EVENTS_BYTES + 2 * IMPORT_BYTES * IMPORTS;
    let coded = (DECODERS + ENCODERS) * 16 * MIB;
    let read = reads(processors)[0] * (CHUNK_BYTES + 2 * MAX_BYTES_LIMIT as usize);
    let all = connected + bodies + coded + read + chains * 4 * KIB + 512 * MIB;
    all + all / 4
}

const fn least(one: usize, other: usize) -> usize {
    if one < other { one } else { other }
}
