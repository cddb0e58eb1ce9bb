//! Connections between the nodes of a cluster: one for each ordered pair, on which calls of all groups share the way.
//!
//! It goes to the port of the other node's HTTP interface. Where the other node has TLS, it is a connection of TLS 1.3 with the ALPN name
//! `qbc-link`; then, or at once, it begins with a byte that no request of HTTP has. Numbers are big-endian.
//!
//! | who | says |
//! | --- | --- |
//! | caller | `0`, `qbc-link 1`, its key (32 bytes), a nonce (32) |
//! | called | its key, a nonce, its signature (64) |
//! | caller | its signature |
//!
//! A signature (Ed25519) is of the text `qbc-link 1 caller` or `qbc-link 1 called`, both keys, both nonces, under TLS the
//! [binding](Stream::binding) of the connection, and the cluster's secret: so it shows that its maker has the key, is of the cluster,
//! and, under TLS, is the other end of the connection. For this reason nobody looks at the certificate of the called node. Who stands
//! between with a certificate of his own has two connections with different bindings, and neither end takes the signature of the other.
//!
//! A node with TLS takes no connections of other nodes without it, and calls those without TLS only where they never said to have it:
//! such a host is known as `HOST:PORT`, one with TLS as `https://HOST:PORT`. What is sent without TLS is not encrypted.
//!
//! Where `qbc-http 1` stands in place of `qbc-link 1`, requests of HTTP/1.1 follow, which the caller sends on to the node.
//!
//! Otherwise both send frames then: length of the rest (4), number of the call (8), and in a call what it is (1) and its group (8), in an
//! answer whether it is one (1: `0`, or `1` with the reason as text); then the content. In the first call and its answer both say
//! what they are, and where one of them refuses that the connection ends. A call is put in line before it is
//! awaited, and the called node begins calls in the order in which they came.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use futures_util::poll;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::{
    core::hash,
    limits,
    store::{Group, NodeId},
    tls::{self, Stream},
};

/// The first byte that a node sends to another one.
pub const FIRST_BYTE: u8 = 0;

/// What a connection between nodes is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Calls of groups.
    Calls,
    /// Requests of HTTP that a node sends on.
    Http,
}

impl Purpose {
    /// How the connection says it: with the version of what is spoken.
    fn name(self) -> &'static [u8; 10] {
        match self {
            Purpose::Calls => b"qbc-link 1",
            Purpose::Http => b"qbc-http 1",
        }
    }

    fn of(name: &[u8]) -> Option<Purpose> {
        [Purpose::Calls, Purpose::Http].into_iter().find(|purpose| purpose.name() == name)
    }
}

/// The URL of the HTTP interface of a node that is known as this host, without a path.
pub fn url(host: &str) -> String {
    let scheme = if host.starts_with(HTTPS) { "" } else { "http://" };
    format!("{scheme}{host}")
}

/// Name and port of a node that is known as this host.
pub fn address(host: &str) -> &str {
    host.strip_prefix(HTTPS).unwrap_or(host)
}

const HTTPS: &str = "https://";

/// The first call of a connection: what the caller says of itself. Where it is refused, the connection ends.
pub const HELLO: u8 = 0;

/// What a node says of itself, and makes of what another says.
pub trait Greeting: Send + Sync + 'static {
    /// What this node is.
    fn hello(&self) -> Vec<u8>;

    /// Takes up that the node at this host does not talk to this one, and why.
    fn refused(&self, host: &str, reason: &str);

    /// Whether to talk to a node that says this of itself.
    fn check(&self, node: NodeId, said: Bytes) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
}

/// The secret that all nodes of a cluster share.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

/// The file of a data folder with the secret of its cluster.
pub const SECRET_FILE: &str = "cluster.secret";

impl Secret {
    /// The key with which all nodes of the cluster sign checkpoints.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&hash::cluster_key(&self.0))
    }

    /// Eight digits that show a slip in the others.
    fn check(digits: &str) -> String {
        hex::encode(&hash::origin(digits).as_bytes()[..4])
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = hex::encode(self.0);
        write!(f, "{digits}{}", Secret::check(&digits))
    }
}

impl std::str::FromStr for Secret {
    type Err = &'static str;

    /// Takes 64 hexadecimal digits, and the eight that check them where they are there.
    fn from_str(text: &str) -> Result<Secret, &'static str> {
        let (digits, check) = text.trim().split_at_checked(64).unwrap_or_default();
        let mut secret = [0; 32];
        hex::decode_to_slice(digits, &mut secret)
            .map_err(|_| "the secret of a cluster has 64 hexadecimal digits, and eight more that check them")?;
        match check.is_empty() || *check == Secret::check(digits) {
            true => Ok(Secret(secret)),
            false => Err("the secret is not as it was made: its last eight digits do not check the others"),
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no connection: nothing was sent.
    #[error("the node {0} cannot be reached")]
    NotSent(String),
    /// The connection broke.
    #[error("the connection to the node {0} broke")]
    Away(String),
    /// It took too long.
    #[error("the node {0} does not answer")]
    Late(String),
    /// The called node could not do it.
    #[error("{0}")]
    Refused(String),
}

/// A node as it shows itself to others.
#[derive(Clone)]
pub struct Identity {
    /// Its key.
    pub key: SigningKey,
    /// The secret of its cluster.
    pub secret: Secret,
    /// Whether it has TLS.
    pub has_tls: bool,
}

impl Identity {
    /// Its public key.
    pub fn node(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    fn sign(&self, transcript: &[u8]) -> [u8; 64] {
        self.key.sign(&[transcript, &self.secret.0].concat()).to_bytes()
    }

    fn check(&self, node: NodeId, transcript: &[u8], signature: &[u8; 64]) -> io::Result<()> {
        let signed = [transcript, &self.secret.0].concat();
        let key =
            VerifyingKey::from_bytes(&node.0).map_err(|_| io::Error::other("the key of the other node is none"))?;
        let holds = key.verify_strict(&signed, &Signature::from_bytes(signature)).is_ok();
        holds.then_some(()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the other node has another secret, or not the key that it shows",
            )
        })
    }
}

/// What both ends of a connection have said, and what it is bound to.
struct Transcript {
    purpose: Purpose,
    /// Of the caller and the called.
    nodes: [NodeId; 2],
    /// Of the same.
    nonces: [[u8; 32]; 2],
    binding: Option<[u8; 32]>,
}

impl Transcript {
    /// What one of them signs: `caller` or `called`.
    fn of(&self, role: &str) -> Vec<u8> {
        let ([caller, called], [nonce, other]) = (self.nodes, self.nonces);
        let binding = self.binding.as_ref().map_or(&[][..], |binding| binding);
        [self.purpose.name(), &b" "[..], role.as_bytes(), &caller.0, &called.0, &nonce, &other, binding].concat()
    }
}

/// The newest entries of groups that a node is known to have.
pub type Known = BTreeMap<Group, u64>;

/// A call as it came.
pub struct Call {
    /// Who calls.
    pub from: NodeId,
    /// What it is, as caller and called have agreed.
    pub kind: u8,
    /// The group that it is about.
    pub group: Group,
    /// What it says.
    pub content: Bytes,
    /// What the caller was known to have before it said anything of itself. What it says may be older than what is known by then.
    pub known: Arc<Known>,
}

/// What answers a call.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>>;

/// Answers calls of other nodes.
pub trait Answers: Send + Sync + 'static {
    /// What a node is known to have.
    fn known(&self, node: NodeId) -> Known;

    /// Begins to answer a call. What is to be in order must be so when the future was polled once.
    fn answer(&self, call: Call) -> Answer;
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, String>>>>>;

/// The way to another node.
pub struct Link {
    host: String,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    state: Arc<State>,
    next: AtomicU64,
}

/// How a link stands.
#[derive(Default)]
struct State {
    is_up: AtomicBool,
    /// Whether it is encrypted, while it is up.
    is_encrypted: AtomicBool,
}

impl Link {
    /// Keeps a connection to a node with this key at this host, until the last handle is dropped.
    pub fn start(identity: Identity, node: NodeId, host: String, greeting: Arc<dyn Greeting>) -> Arc<Link> {
        let (frames, queue) = mpsc::unbounded_channel();
        let (waiting, state) = (Waiting::default(), Arc::<State>::default());
        let link = Link { host: host.clone(), frames, waiting: waiting.clone(), state: state.clone(), next: 1.into() };
        tokio::spawn(keep(identity, node, host, greeting, queue, waiting, state));
        Arc::new(link)
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        self.state.is_up.load(Ordering::Acquire)
    }

    /// Whether there is a connection, and it is not encrypted.
    pub fn is_open_to_readers(&self) -> bool {
        self.is_up() && !self.state.is_encrypted.load(Ordering::Acquire)
    }

    /// Calls the node. The call is in line when this returns.
    pub fn call(
        self: &Arc<Self>,
        kind: u8,
        group: Group,
        content: &mut dyn FnMut(&mut Vec<u8>),
        patience: Duration,
    ) -> impl Future<Output = Result<Bytes, LinkError>> + Send + 'static + use<> {
        let answer = self.is_up().then(|| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let (told, answer) = oneshot::channel();
            self.waiting.lock().expect("no holder of this lock panics").insert(number, told);
            let frame = frame(number, |frame| {
                frame.push(kind);
                frame.extend_from_slice(&group.0.to_be_bytes());
                content(frame);
            });
            // Where the connection has just ended, nobody is told any more.
            let _ = self.frames.send(frame);
            (number, answer)
        });
        let link = self.clone();
        async move {
            let Some((number, answer)) = answer else { return Err(LinkError::NotSent(link.host.clone())) };
            match timeout(patience, answer).await {
                Ok(Ok(answer)) => answer.map_err(LinkError::Refused),
                Ok(Err(_)) => Err(LinkError::Away(link.host.clone())),
                Err(_) => {
                    link.waiting.lock().expect("no holder of this lock panics").remove(&number);
                    Err(LinkError::Late(link.host.clone()))
                }
            }
        }
    }
}

/// Calls a node once, whatever its key, which it shows. Gives that, too.
///
/// # Errors
/// It cannot be reached, has another secret, or refuses.
pub async fn call_once(
    identity: &Identity,
    host: &str,
    kind: u8,
    content: &[u8],
    patience: Duration,
) -> Result<(NodeId, Bytes), LinkError> {
    let away = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => LinkError::Refused(error.to_string()),
        _ => LinkError::NotSent(format!("{host} ({error})")),
    };
    let call = async {
        let (stream, node) = connect(identity, None, host, Purpose::Calls).await.map_err(away)?;
        let (mut reader, mut writer) = halves(stream, 4 << 10);
        let frame = frame(1, |frame| {
            frame.push(kind);
            frame.extend_from_slice(&Group::META.0.to_be_bytes());
            frame.extend_from_slice(content);
        });
        send(&mut writer, &frame).await.map_err(away)?;
        let (_, answer) = read_frame(&mut reader).await.map_err(away)?;
        Ok((node, answered(answer).map_err(LinkError::Refused)?))
    };
    timeout(patience, call).await.unwrap_or_else(|_| Err(LinkError::Late(host.into())))
}

fn frame(number: u64, content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = vec![0; 4];
    frame.extend_from_slice(&number.to_be_bytes());
    content(&mut frame);
    let length = u32::try_from(frame.len() - 4).expect("what nodes say is bounded far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

fn answer_frame(number: u64, answer: &Result<Vec<u8>, String>) -> Vec<u8> {
    frame(number, |frame| match answer {
        Ok(content) => {
            frame.push(0);
            frame.extend_from_slice(content);
        }
        Err(reason) => {
            frame.push(1);
            frame.extend_from_slice(reason.as_bytes());
        }
    })
}

fn answered(mut answer: Bytes) -> Result<Bytes, String> {
    match answer.split_first() {
        Some((0, _)) => Ok(answer.split_off(1)),
        Some((_, reason)) => Err(String::from_utf8_lossy(reason).into_owned()),
        None => Err("the answer of the other node is cut off".into()),
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(u64, Bytes)> {
    let length = reader.read_u32().await? as usize;
    if !(9..=limits::LINK_FRAME_BYTES).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let number = reader.read_u64().await?;
    let mut content = vec![0; length - 8];
    reader.read_exact(&mut content).await?;
    Ok((number, content.into()))
}

/// Has a connection break when what was sent is not received: the system would go on trying for minutes, more and more seldom, and after
/// a partition everything would wait for its next try.
fn break_when_unheard(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(
        stream,
        limits::LINK_UNHEARD.as_millis().try_into().unwrap_or(u32::MAX),
    ) {
        tracing::debug!("a connection keeps the time limit of the system: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

type Reader = BufReader<Box<dyn AsyncRead + Send + Unpin>>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Both ways of a connection, one of which is read ahead.
fn halves(stream: Stream, ahead: usize) -> (Reader, Writer) {
    let (reader, writer): (Box<dyn AsyncRead + Send + Unpin>, Writer) = match stream {
        // These share nothing.
        Stream::Plain(stream) => {
            let (reader, writer) = stream.into_split();
            (Box::new(reader), Box::new(writer))
        }
        encrypted => {
            let (reader, writer) = tokio::io::split(encrypted);
            (Box::new(reader), Box::new(writer))
        }
    };
    (BufReader::with_capacity(ahead, reader), writer)
}

/// Writes all, and leaves nothing of it in what encrypts.
async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Opens a connection to a node: with TLS where the node has it. A node that is not known to have it is called without, where this one
/// has none itself, or it turns out to have none.
async fn dial(identity: &Identity, host: &str) -> io::Result<Stream> {
    let address = address(host);
    let has_tls = address != host;
    let connect = async || {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        break_when_unheard(&stream);
        io::Result::Ok(stream)
    };
    if has_tls || identity.has_tls {
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        match tls::connect_link(name, connect().await?).await {
            Err(error) if !has_tls => tracing::debug!("the node {host} is called without TLS: {error}"),
            connected => return connected,
        }
    }
    Ok(Stream::Plain(connect().await?))
}

/// Connects to a node, which must have this key if one is given. Gives its key.
async fn connect(
    identity: &Identity,
    node: Option<NodeId>,
    host: &str,
    purpose: Purpose,
) -> io::Result<(Stream, NodeId)> {
    let mut stream = dial(identity, host).await?;
    let (own, nonce) = (identity.node(), rand::random::<[u8; 32]>());
    send(&mut stream, &[&[FIRST_BYTE], &purpose.name()[..], &own.0, &nonce].concat()).await?;
    let mut said = [0; 32 + 32 + 64];
    stream.read_exact(&mut said).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset if !stream.is_encrypted() => {
            io::Error::other("it has closed the connection: if it has TLS, it is reached as https://HOST:PORT")
        }
        _ => error,
    })?;
    let (key, other, signature) = (said[..32].as_array(), said[32..64].as_array(), said[64..].as_array());
    let (key, other, signature) = (key.copied(), other.copied(), signature.copied());
    let (called, other) = (NodeId(key.expect("32 bytes")), other.expect("32 bytes"));
    if node.is_some_and(|node| node != called) {
        return Err(io::Error::other("another node answers there"));
    }
    let transcript = Transcript { purpose, nodes: [own, called], nonces: [nonce, other], binding: stream.binding()? };
    identity.check(called, &transcript.of("called"), &signature.expect("64 bytes"))?;
    send(&mut stream, &identity.sign(&transcript.of("caller"))).await?;
    Ok((stream, called))
}

/// Opens a connection to a node of the cluster, whichever is there, for requests of HTTP/1.1.
///
/// # Errors
/// It cannot be reached, or has another secret.
pub async fn connect_http(identity: &Identity, host: &str) -> io::Result<Stream> {
    let connected = timeout(limits::LINK_TIMEOUT, connect(identity, None, host, Purpose::Http)).await;
    Ok(connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.0)
}

/// Keeps a connection, and connects again where it breaks.
async fn keep(
    identity: Identity,
    node: NodeId,
    host: String,
    greeting: Arc<dyn Greeting>,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Waiting,
    state: Arc<State>,
) {
    let mut pause = limits::LINK_PAUSE[0];
    let mut is_told = false;
    loop {
        let connected = connect(&identity, Some(node), &host, Purpose::Calls);
        let connected = timeout(limits::LINK_TIMEOUT, connected).await;
        match connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
            Ok((stream, _)) => {
                state.is_encrypted.store(stream.is_encrypted(), Ordering::Release);
                let (mut reader, mut writer) = halves(stream, 64 << 10);
                pause = limits::LINK_PAUSE[0];
                // What was said before was said to nobody.
                while queue.try_recv().is_ok() {}
                let hello = frame(0, |frame| {
                    frame.push(HELLO);
                    frame.extend_from_slice(&Group::META.0.to_be_bytes());
                    frame.extend_from_slice(&greeting.hello());
                });
                let said = async {
                    send(&mut writer, &hello).await?;
                    let (_, answer) = read_frame(&mut reader).await?;
                    let said = answered(answer).map_err(|reason| {
                        greeting.refused(&host, &reason);
                        io::Error::other(reason)
                    })?;
                    greeting.check(node, said).await.map_err(io::Error::other)
                };
                let said = timeout(limits::AGREEMENT_TIMEOUT, said).await;
                if let Err(error) = said.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
                    if !is_told {
                        tracing::error!("the node {host} does not talk to this one: {error}");
                        is_told = true;
                    }
                    sleep(limits::LINK_PAUSE[1]).await;
                    if queue.is_closed() {
                        return;
                    }
                    continue;
                }
                is_told = false;
                state.is_up.store(true, Ordering::Release);
                if identity.has_tls && !state.is_encrypted.load(Ordering::Acquire) {
                    tracing::warn!("what goes to the node {host} is not encrypted, since it has no TLS");
                }
                let answers = async {
                    while let Ok((number, answer)) = read_frame(&mut reader).await {
                        let told = waiting.lock().expect("no holder of this lock panics").remove(&number);
                        if let Some(told) = told {
                            let _ = told.send(answered(answer));
                        }
                    }
                };
                let ended = tokio::select! {
                    () = answers => false,
                    ended = write_all(&mut queue, &mut writer) => ended,
                };
                state.is_up.store(false, Ordering::Release);
                waiting.lock().expect("no holder of this lock panics").clear();
                if ended {
                    return;
                }
            }
            Err(error) => {
                if !is_told {
                    tracing::info!("no connection to the node {host}: {error}");
                    is_told = true;
                }
                sleep(pause).await;
                pause = (pause * 2).min(limits::LINK_PAUSE[1]);
            }
        }
        if queue.is_closed() {
            return;
        }
    }
}

/// Writes frames as they come, those that wait in one piece. Says whether no more will come.
async fn write_all(queue: &mut mpsc::UnboundedReceiver<Vec<u8>>, writer: &mut (impl AsyncWrite + Unpin)) -> bool {
    let (mut frames, mut bytes) = (Vec::new(), Vec::new());
    loop {
        if queue.recv_many(&mut frames, 256).await == 0 {
            return true;
        }
        bytes.clear();
        frames.drain(..).for_each(|frame| bytes.extend_from_slice(&frame));
        let written = timeout(limits::WRITE_TIMEOUT, send(writer, &bytes)).await;
        if !matches!(written, Ok(Ok(()))) {
            return false;
        }
        bytes.shrink_to(1 << 20);
    }
}

/// Another node, which has opened a connection.
pub struct Caller {
    node: NodeId,
    /// What it was known to have before it said anything.
    known: Arc<Known>,
    /// What it has opened the connection for.
    pub purpose: Purpose,
}

/// Authenticates another node that has opened a connection, and this one to it. Its first byte is still to be read.
///
/// # Errors
/// The other node is none of the cluster, or has not encrypted the connection though this one has TLS.
pub async fn accept(stream: &mut Stream, identity: &Identity, answers: &dyn Answers) -> io::Result<Caller> {
    if identity.has_tls && !stream.is_encrypted() {
        return Err(io::Error::other(
            "it has called without TLS, which this node has: it is reached as https://HOST:PORT",
        ));
    }
    let greet = async {
        let mut greeting = [0; 1 + 10 + 64];
        stream.read_exact(&mut greeting).await?;
        let (name, rest) = greeting[1..].split_at(10);
        let purpose = Purpose::of(name).ok_or_else(|| io::Error::other("the other node speaks another version"))?;
        let (key, other) = rest.split_at(32);
        let node = NodeId(key.try_into().expect("32 bytes were taken"));
        let other: [u8; 32] = other.try_into().expect("32 bytes are left");
        let (own, nonce) = (identity.node(), rand::random::<[u8; 32]>());
        let transcript = Transcript { purpose, nodes: [node, own], nonces: [other, nonce], binding: stream.binding()? };
        let known = Arc::new(answers.known(node));
        let signature = identity.sign(&transcript.of("called"));
        send(stream, &[&own.0[..], &nonce, &signature].concat()).await?;
        let mut signature = [0; 64];
        stream.read_exact(&mut signature).await?;
        identity.check(node, &transcript.of("caller"), &signature)?;
        Ok(Caller { node, known, purpose })
    };
    timeout(limits::LINK_TIMEOUT, greet).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Answers the calls of another node on a connection that was [accepted](accept), until it ends.
pub async fn serve(stream: Stream, caller: Caller, answers: Arc<dyn Answers>) {
    break_when_unheard(stream.tcp());
    let (mut reader, mut writer) = halves(stream, 256 << 10);
    let Caller { node: from, known, .. } = caller;
    let (frames, mut queue) = mpsc::unbounded_channel();
    let read = async {
        while let Ok((number, mut content)) = read_frame(&mut reader).await {
            if content.len() < 9 {
                return;
            }
            let head = content.split_to(9);
            let (kind, group) =
                (head[0], Group(u64::from_be_bytes(*head[1..].first_chunk().expect("so many were taken"))));
            let (answer, frames) =
                (answers.answer(Call { from, kind, group, content, known: known.clone() }), frames.clone());
            if kind == HELLO {
                let said = answer.await;
                let is_refused = said.is_err();
                let _ = frames.send(answer_frame(number, &said));
                if is_refused {
                    // Until it is written.
                    sleep(limits::LINK_PAUSE[0]).await;
                    return;
                }
                continue;
            }
            let mut answer = Box::pin(async move {
                let _ = frames.send(answer_frame(number, &answer.await));
            });
            // Begun here, in the order of the connection; ended wherever.
            if poll!(&mut answer).is_pending() {
                tokio::spawn(answer);
            }
        }
    };
    tokio::select! {
        () = read => {}
        _ = write_all(&mut queue, &mut writer) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers with what was said, some of it late.
    struct Echo {
        begun: Mutex<Vec<u8>>,
    }

    impl Answers for Echo {
        fn known(&self, _node: NodeId) -> Known {
            Known::new()
        }

        fn answer(&self, call: Call) -> Answer {
            if call.kind != HELLO {
                self.begun.lock().unwrap().push(call.content[0]);
            }
            Box::pin(async move {
                match call.kind {
                    9 => Err("it is not done".into()),
                    _ => {
                        if call.content.first().is_some_and(|first| first % 3 == 0) {
                            sleep(Duration::from_millis(5)).await;
                        }
                        Ok(call.content.to_vec())
                    }
                }
            })
        }
    }

    fn identity(key: u8, secret: u8) -> Identity {
        Identity { key: SigningKey::from_bytes(&[key; 32]), secret: Secret([secret; 32]), has_tls: false }
    }

    struct Greets;

    impl Greeting for Greets {
        fn hello(&self) -> Vec<u8> {
            b"hello".to_vec()
        }

        fn refused(&self, _host: &str, _reason: &str) {}

        fn check(&self, _node: NodeId, said: Bytes) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
            Box::pin(async move { if said == "hello" { Ok(()) } else { Err("it does not greet".into()) } })
        }
    }

    fn hello() -> Arc<dyn Greeting> {
        Arc::new(Greets)
    }

    /// A node that others call.
    async fn called(identity: Identity) -> (String, Arc<Echo>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, echo) = (listener.local_addr().unwrap().to_string(), Arc::new(Echo { begun: Mutex::default() }));
        let answers = echo.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (identity, answers) = (identity.clone(), answers.clone());
                tokio::spawn(async move {
                    let mut stream = Stream::Plain(stream);
                    let caller = accept(&mut stream, &identity, &*answers).await?;
                    serve(stream, caller, answers).await;
                    io::Result::Ok(())
                });
            }
        });
        (host, echo)
    }

    async fn up(link: &Arc<Link>) {
        while !link.is_up() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_are_begun_in_their_order_and_each_gets_its_answer() {
        let (host, echo) = called(identity(2, 7)).await;
        let link = Link::start(identity(1, 7), identity(2, 7).node(), host, hello());
        up(&link).await;
        let call =
            |number: u8| link.call(5, Group(3), &mut |content| content.extend_from_slice(&[number; 100]), PATIENCE);
        let calls: Vec<_> = (0..200).map(call).collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap()[..], [number as u8; 100]);
        }
        assert_eq!(*echo.begun.lock().unwrap(), (0..200).collect::<Vec<u8>>());
        let refused = link.call(9, Group(3), &mut |content| content.push(1), PATIENCE).await;
        assert_eq!(refused.unwrap_err().to_string(), "it is not done");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_another_secret_or_key_is_refused() {
        let (host, echo) = called(identity(2, 7)).await;
        let refused = call_once(&identity(1, 8), &host, 5, b"x", PATIENCE).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(reason) if reason.contains("secret")), "{refused}");
        let (node, answer) = call_once(&identity(1, 7), &host, 5, b"x", PATIENCE).await.unwrap();
        assert_eq!((node, &answer[..]), (identity(2, 7).node(), &b"x"[..]));
        // Another node than the one that is meant.
        let link = Link::start(identity(1, 7), identity(3, 7).node(), host.clone(), hello());
        sleep(Duration::from_millis(200)).await;
        assert!(!link.is_up());
        assert!(matches!(link.call(5, Group(1), &mut |_| (), PATIENCE).await, Err(LinkError::NotSent(_))));
        // Bytes that are no greeting end it, and nobody is asked.
        let before = echo.begun.lock().unwrap().len();
        for wrong in [&[FIRST_BYTE; 200][..], &[&[FIRST_BYTE], &Purpose::Calls.name()[..], &[9; 300]].concat()] {
            let mut stream = TcpStream::connect(&host).await.unwrap();
            let _ = stream.write_all(wrong).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        assert_eq!(echo.begun.lock().unwrap().len(), before);
    }

    fn with_tls(identity: Identity) -> Identity {
        Identity { has_tls: true, ..identity }
    }

    /// A certificate of its own.
    fn server() -> tls::Server {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        tls::Server::new(tls::Pair::parse(certificate.as_bytes(), key.as_bytes()).unwrap())
    }

    /// A node with TLS that others call.
    async fn called_by_tls(identity: Identity) -> (String, Arc<Echo>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("https://{}", listener.local_addr().unwrap());
        let (echo, server) = (Arc::new(Echo { begun: Mutex::default() }), server());
        let answers = echo.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (identity, answers, server) = (identity.clone(), answers.clone(), server.clone());
                tokio::spawn(async move {
                    let (mut stream, protocol) = server.accept(stream, false).await?;
                    assert_eq!(protocol, tls::Protocol::Link);
                    let caller = accept(&mut stream, &identity, &*answers).await?;
                    serve(stream, caller, answers).await;
                    io::Result::Ok(())
                });
            }
        });
        (host, echo)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn by_tls_it_is_the_same_and_encrypted() {
        let (host, echo) = called_by_tls(with_tls(identity(2, 7))).await;
        for caller in [identity(1, 7), with_tls(identity(1, 7))] {
            let link = Link::start(caller, identity(2, 7).node(), host.clone(), hello());
            up(&link).await;
            assert!(!link.is_open_to_readers());
            let large = link.call(5, Group(3), &mut |content| content.extend_from_slice(&vec![1; 3 << 20]), PATIENCE);
            assert_eq!(large.await.unwrap().len(), 3 << 20);
        }
        for wrong in [identity(1, 8), with_tls(identity(1, 8))] {
            let refused = call_once(&wrong, &host, 5, b"x", PATIENCE).await.unwrap_err();
            assert!(matches!(&refused, LinkError::Refused(reason) if reason.contains("secret")), "{refused}");
        }
        let another = connect(&identity(1, 7), Some(identity(3, 7).node()), &host, Purpose::Calls).await;
        assert_eq!(another.unwrap_err().to_string(), "another node answers there");
        // A node that is not known to have TLS is called with it by one that has.
        let bare = host.trim_start_matches("https://");
        call_once(&with_tls(identity(1, 7)), bare, 5, b"x", PATIENCE).await.unwrap();
        assert_eq!(echo.begun.lock().unwrap().len(), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_is_called_without_tls_who_has_it() {
        // It answers on TCP as a node without TLS does.
        let (bare, echo) = called(identity(2, 7)).await;
        let refused = call_once(&identity(1, 7), &format!("https://{bare}"), 5, b"x", PATIENCE).await;
        assert!(matches!(refused, Err(LinkError::NotSent(_))), "{refused:?}");
        assert!(echo.begun.lock().unwrap().is_empty());
        // And one that has it takes no calls without.
        let (bare, echo) = called(with_tls(identity(2, 7))).await;
        let refused = call_once(&identity(1, 7), &bare, 5, b"x", PATIENCE).await.unwrap_err();
        assert!(refused.to_string().contains("https://"), "{refused}");
        assert!(echo.begun.lock().unwrap().is_empty());
    }

    /// What stands between, with a certificate of its own, and passes on what it reads. Gives where it listens, and what it has read.
    async fn between(to: String) -> (String, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("https://{}", listener.local_addr().unwrap());
        let (read, server) = (Arc::new(Mutex::new(Vec::new())), server());
        let seen = read.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut caller, _) = server.accept(stream, false).await.unwrap();
                let mut called = match to.strip_prefix(HTTPS) {
                    Some(to) => tls::connect_link("localhost", TcpStream::connect(to).await.unwrap()).await.unwrap(),
                    None => Stream::Plain(TcpStream::connect(&to).await.unwrap()),
                };
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut buffers = [[0; 4096]; 2];
                    loop {
                        let [from_caller, from_called] = &mut buffers;
                        let (bytes, to) = tokio::select! {
                            read = caller.read(from_caller) => (from_caller[..read?].to_vec(), &mut called),
                            read = called.read(from_called) => (from_called[..read?].to_vec(), &mut caller),
                        };
                        if bytes.is_empty() {
                            return io::Result::Ok(());
                        }
                        seen.lock().unwrap().extend_from_slice(&bytes);
                        send(to, &bytes).await?;
                    }
                });
            }
        });
        (host, read)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_stands_between_with_another_certificate_gets_nowhere() {
        let (encrypted, one) = called_by_tls(with_tls(identity(2, 7))).await;
        let (plain, other) = called(identity(2, 7)).await;
        for to in [encrypted, plain] {
            let (host, read) = between(to).await;
            for caller in [identity(1, 7), with_tls(identity(1, 7))] {
                let refused = call_once(&caller, &host, 5, b"the payload", PATIENCE).await.unwrap_err();
                assert!(matches!(&refused, LinkError::Refused(reason) if reason.contains("secret")), "{refused}");
            }
            let read = read.lock().unwrap();
            let has = |part: &[u8]| read.windows(part.len()).any(|window| window == part);
            assert!(has(&identity(2, 7).node().0), "it stands between");
            assert!(!has(b"the payload") && !has(&[7; 32]));
        }
        assert!(one.begun.lock().unwrap().is_empty() && other.begun.lock().unwrap().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_said_once_is_not_taken_again() {
        let (host, echo) = called(identity(2, 7)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = listener.local_addr().unwrap().to_string();
        let to = host.clone();
        let recording = tokio::spawn(async move {
            let (mut caller, _) = listener.accept().await.unwrap();
            let mut called = TcpStream::connect(to).await.unwrap();
            let mut said = vec![0; 1 + 10 + 64];
            caller.read_exact(&mut said).await.unwrap();
            called.write_all(&said).await.unwrap();
            let mut answer = [0; 128];
            called.read_exact(&mut answer).await.unwrap();
            caller.write_all(&answer).await.unwrap();
            let mut rest = [0; 64 + 4 + 8 + 1 + 8 + 5];
            caller.read_exact(&mut rest).await.unwrap();
            said.extend_from_slice(&rest);
            said
        });
        let _ = call_once(&identity(1, 7), &recorder, 5, b"again", Duration::from_secs(1)).await;
        let said = recording.await.unwrap();
        assert!(said.ends_with(b"again"), "all of it was recorded");
        for _ in 0..3 {
            let mut stream = TcpStream::connect(&host).await.unwrap();
            stream.write_all(&said).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.len() <= 128, "nothing but the greeting is answered");
        }
        assert!(echo.begun.lock().unwrap().is_empty());
    }

    #[test]
    fn a_slip_in_a_secret_is_seen() {
        let text = Secret([9; 32]).to_string();
        assert_eq!(text.parse::<Secret>().unwrap(), Secret([9; 32]));
        assert_eq!(text[..64].parse::<Secret>().unwrap(), Secret([9; 32]));
        for at in 0..text.len() {
            let digit = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
            let slip = [&text[..at], digit, &text[at + 1..]].concat();
            assert!(slip.parse::<Secret>().is_err(), "{slip}");
        }
        for wrong in ["", "12", &text[..70], &"x".repeat(64)] {
            assert!(wrong.parse::<Secret>().is_err(), "{wrong}");
        }
    }
}
