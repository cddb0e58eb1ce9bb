//! Discovery and liveness of nodes: which other nodes this one knows, and which of them answer now.
//!
//! Nodes speak one small protocol, at one path, `/peers/hello`. Its only message is [`Hello`]: who the sender is, where
//! it is reached and whom it knows to be live. `GET` answers with a node's own hello and changes nothing. `POST` brings
//! the caller's hello: the callee calls the named host back, with that `GET`, and lists the caller only where the
//! same identity answers. It then presents itself, in the same way, to nodes that the caller told of and that it does
//! not know, so a mesh forms at once. Calls cannot multiply: a `GET` never makes a node call anybody, a `POST` makes it
//! call only the caller and a bounded number of hosts that it does not know.
//!
//! Beside it, a node that is asked for a chain which it does not have asks the live ones at `/peers/chains/{name}`
//! ([`Peers::who_has`]). They answer for themselves and ask nobody.
//!
//! What comes off the wire is a claim until it is checked: a host is listed only after it has answered this node, and
//! hosts that others tell of are called first. A node's id is what answers at its host; it is not yet proved by a
//! signature, so the list says where nodes are reached and is no ground for trusting them.
//!
//! # Protection against probing a network
//!
//! Whoever may call `POST /discover` or `POST /peers/hello` makes this node open connections. Therefore:
//! - only addresses of the configured networks are called ([`Allowed`]). Names are resolved here, every address of a
//!   name must be allowed, and the connection goes to just these addresses, so a name that changes between check and
//!   use gains nothing;
//! - only `http` and `https`, a host and a port; no path, redirect, proxy or credentials;
//! - every call is bounded in time, the answer in size, and the calls in number;
//! - nothing that was answered is passed on: whatever is no hello gives one and the same error. A `POST` goes only to a
//!   host that has answered the `GET` with a hello.
//!
//! What remains is that a caller can tell an open port from a closed one inside the allowed networks.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::io;
use std::iter;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, ClientBuilder, Method, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::core::transaction::Timestamp;
use crate::tls::{Authorities, distrust};

/// The longest hello, in bytes: 250 hosts of 255 bytes fit. It bounds answers; the body of `POST /peers/hello` needs
/// the same bound.
pub const MAX_HELLO: usize = 64 * 1024;
/// How many nodes are known at most. Each is called at every check, at once, so this also bounds sockets.
pub const MAX_KNOWN: usize = 256;
/// How many hosts a hello tells of at most, so that it stays below [`MAX_HELLO`].
const MAX_TOLD: usize = 250;
/// The longest host, in bytes: a DNS name has at most 253 (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 255;
/// The longest version that a hello may name, in bytes: it is stored and shown.
const MAX_VERSION: usize = 64;
/// How many hosts that others told of wait to be called, and how many are called in one go: one hostile node can
/// cause so many calls and no more. What is left out is told again with the next greeting.
const MAX_INTRODUCTIONS: usize = 64;
/// How many of these are called at once.
const INTRODUCTIONS_AT_ONCE: usize = 16;
/// How many first calls to a host, which anybody can cause, run at once. Checks of known nodes do not wait for them.
const FIRST_CALLS_AT_ONCE: usize = 32;

/// How many look-ups of chains begin within [`Timing::lookup`], and how many calls they make at once: anybody can cause them.
const LOOKUPS: usize = 16;
const LOOKUP_CALLS: usize = 64;

const PATH: &str = "/peers/hello";
const TIMED_OUT: &str = "timed out";
/// What a node with TLS answers to a request without, and others do, too.
const MAY_HAVE_TLS: &str = "it answers 400: where it has TLS, it is reached as https://HOST:PORT";
const NOT_A_NODE: &str = "not a QBC node, or one that has another name (its options --advertise and --allow-host)";

/// Where a node is reached: scheme, host name or address, and port.
///
/// Parsed from `host:port`, `http://host[:port]` or `https://host[:port]` with an optional slash at the end; the port
/// is 5000 for `http` and 443 for `https` where none is given; an IPv6 address stands in brackets. Its text, the normal
/// form, is `host:port` for `http` and `https://host:port`, in lower case and with addresses as the WHATWG URL
/// standard writes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    text: String,
    /// The address, where the host is one and not a name.
    address: Option<IpAddr>,
}

impl Host {
    /// Its URL, without a path.
    pub fn url(&self) -> String {
        let scheme = if self.is_over_tls() { "" } else { "http://" };
        format!("{scheme}{}", self.text)
    }

    /// The same host and port by TLS.
    pub fn over_tls(&self) -> Host {
        match self.is_over_tls() {
            true => self.clone(),
            false => Host { text: format!("https://{}", self.text), address: self.address },
        }
    }

    /// Whether it is reached by TLS.
    pub fn is_over_tls(&self) -> bool {
        self.text.starts_with("https://")
    }

    /// The name or address, an IPv6 address in brackets.
    pub fn name(&self) -> &str {
        let authority = self.text.trim_start_matches("https://");
        authority.rsplit_once(':').map_or(authority, |(name, _)| name)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Host {
    type Err = DiscoverError;

    fn from_str(text: &str) -> Result<Host, DiscoverError> {
        let bad = |reason| DiscoverError::BadHost { reason };
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("it has a space or a character outside ASCII (such a name is written as xn--…)"));
        }
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://").unwrap_or(("http", &lower));
        let (prefix, default_port) = match scheme {
            "http" => ("", 5000),
            "https" => ("https://", 443),
            _ => return Err(bad("its scheme is neither http nor https")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        match authority.find(['@', '/', '\\', '?', '#']).map(|at| authority.as_bytes()[at]) {
            Some(b'@') => return Err(bad("it has a user name or a password")),
            Some(b'?' | b'#') => return Err(bad("it has a query or a fragment")),
            Some(_) => return Err(bad("it has a path")),
            None => {}
        }
        let (name, port) = split_port(authority).map_err(bad)?;
        let name = normal_name(name).map_err(bad)?;
        let address = name.trim_matches(['[', ']']).parse().ok();
        let text = format!("{prefix}{name}:{}", port.unwrap_or(default_port));
        if text.len() > MAX_HOST {
            return Err(bad("it is longer than 255 bytes"));
        }
        Ok(Host { text, address })
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    // Colons inside brackets belong to an IPv6 address.
    let from = authority.find(']').unwrap_or(0);
    let Some((_, port)) = authority[from..].split_once(':') else {
        return Ok((authority, None));
    };
    if port.contains(':') {
        return Err("an IPv6 address needs brackets around it");
    }
    let name = &authority[..authority.len() - port.len() - 1];
    match port.parse() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Ok((name, Some(number))),
        _ => Err("its port is no number from 1 to 65535"),
    }
}

/// The name exactly as the client's own URL parser reads it. That parser takes `127.1` or `2130706433` for an address
/// and never resolves it, so the check of addresses must see the same reading.
fn normal_name(name: &str) -> Result<String, &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if name.is_empty() {
        return Err("the name or address is missing");
    }
    let url = Url::parse(&format!("http://{name}/")).ok().filter(|_| name.bytes().all(is_plain));
    url.as_ref().and_then(Url::host_str).map(str::to_owned).ok_or("it is neither a name nor an address")
}

/// The networks that this node may call.
///
/// Parsed from a comma-separated list of addresses, CIDR networks (RFC 4632) and the words `loopback` (127.0.0.0/8,
/// ::1), `private` (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 of RFC 1918 and fc00::/7 of RFC 4193), `any` and `none`.
/// An IPv4 address written as IPv6 (RFC 4291, section 2.5.5.2) counts as the IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    text: String,
    networks: Vec<IpNet>,
}

impl Allowed {
    /// Whether this node may call the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// A part of a list of networks that is no network, address or word for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write an address, a network such as 10.1.0.0/16, loopback, private, any or none")]
pub struct BadNetwork(String);

impl FromStr for Allowed {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Allowed, BadNetwork> {
        let mut networks = Vec::new();
        for part in text.split(',').map(str::trim) {
            let words: &[&str] = match part {
                "none" => &[],
                "any" => &["0.0.0.0/0", "::/0"],
                "loopback" => &["127.0.0.0/8", "::1/128"],
                "private" => &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
                _ => &[part],
            };
            for word in words {
                let network = word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
                networks.push(network.map_err(|_| BadNetwork(part.to_owned()))?);
            }
        }
        Ok(Allowed { text: text.to_owned(), networks })
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a node was not listed. Every one of them is the request's fault or the other node's, never this one's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// The text names no host that could be called.
    #[error("not a host such as localhost:5001 or https://ledger.example: {reason}")]
    BadHost {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The claim of a caller is malformed.
    #[error("not the hello of a QBC node: `id` is 64 lower hex digits, `version` 1 to 64 printable ASCII characters")]
    BadHello,
    /// The host is outside the networks that this node may call.
    #[error("{host} is outside the networks that this node may call; its option --discover-allow sets them")]
    NotAllowed {
        /// The host as asked for.
        host: Host,
    },
    /// The host did not answer as a node does.
    #[error("{host} does not answer: {reason}")]
    NoAnswer {
        /// The host as asked for.
        host: Host,
        /// A short class, such as `timed out`, `connection refused` or `not a QBC node`.
        reason: &'static str,
    },
    /// The host is a node, but would not list this one.
    #[error("{host} answers but does not list this node: it must be allowed and able to call it back at {ours}")]
    NotListed {
        /// The host as asked for.
        host: Host,
        /// Where this node says that it is reached.
        ours: Host,
    },
    /// The host is this node.
    #[error("that is this node itself")]
    Itself,
    /// No more nodes can be known.
    #[error("this node knows {MAX_KNOWN} nodes already, and that is its limit")]
    TooMany,
}

/// Who this node is, as it tells others.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's public key, 64 lower hex digits.
    pub id: String,
    /// The program's version.
    pub version: String,
    /// Where others reach this node.
    pub host: Host,
}

/// What nodes tell each other. Unknown fields are ignored, so that nodes of different versions can meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hello {
    /// Where the sender is reached, such as `localhost:5001` or `https://ledger.example:443`.
    pub host: String,
    /// The sender's public key, 64 lower hex digits.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub id: String,
    /// The sender's program version, 1 to 64 printable ASCII characters.
    #[schema(pattern = "^[ -~]{1,64}$")]
    pub version: String,
    /// Hosts that the sender knows to be live; those after the 250th are ignored.
    pub nodes: Vec<String>,
}

impl Hello {
    fn is_valid(&self) -> bool {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_printable = |byte: u8| matches!(byte, b' '..=b'~');
        self.id.len() == 64
            && self.id.bytes().all(is_hex)
            && (1..=MAX_VERSION).contains(&self.version.len())
            && self.version.bytes().all(is_printable)
    }
}

/// A live node, as `GET /discover` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = Node)]
pub struct PeerView {
    /// Where this node reaches it.
    pub host: String,
    /// Its public key, 64 lower hex digits.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub id: String,
    /// Its program version.
    pub version: String,
    /// When it last answered: RFC 3339, UTC, microseconds.
    pub last_seen: String,
    /// How long its last answer took, connecting included, in milliseconds.
    pub latency_ms: f64,
}

/// How often and how long. The defaults let a node that dies leave the list within 15 seconds.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Each known node is called once in this time.
    pub check_every: Duration,
    /// A call, from resolving the name to the answer's last byte.
    pub call: Duration,
    /// A node counts as live for so long after its answer: two checks may fail and one more call may take its time.
    pub live: Duration,
    /// A live node is greeted anew after this time: it cures what either side missed of the other.
    pub greet_every: Duration,
    /// The whole of one `POST /discover`.
    pub discover: Duration,
    /// How long the answer to a greeting waits for calls to the nodes that the caller told of. It is well below
    /// `call`, so that the caller still gets the answer.
    pub introductions: Duration,
    /// A known node that was silent for so long is forgotten.
    pub forget: Duration,
    /// How long the answer to a request for an unknown chain waits for other nodes to say whether they have it.
    pub lookup: Duration,
    /// Which node has a chain is remembered for so long.
    pub found: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            check_every: Duration::from_secs(3),
            call: Duration::from_secs(2),
            live: Duration::from_secs(9),
            greet_every: Duration::from_secs(30),
            discover: Duration::from_secs(3),
            introductions: Duration::from_secs(1),
            forget: Duration::from_hours(7 * 24),
            lookup: Duration::from_secs(1),
            found: Duration::from_secs(5),
        }
    }
}

/// The other nodes: a cheap handle that everyone clones.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    identity: Identity,
    allowed: Allowed,
    timing: Timing,
    client: Client,
    first_calls: Semaphore,
    lookups: Arc<Semaphore>,
    lookup_calls: Semaphore,
    /// Held by whoever calls the hosts of `State::heard`, so that these calls are bounded for the whole node.
    turn: tokio::sync::Mutex<()>,
    known: watch::Sender<Vec<String>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<Host, Node>,
    /// Hosts that others told of and that were not called yet, at most [`MAX_INTRODUCTIONS`].
    heard: BTreeSet<Host>,
    /// Where chains were found lately that this node does not have. The pace of look-ups bounds them.
    found: BTreeMap<String, (Instant, Host)>,
}

/// A known node. `answer` is absent until it has answered since this node's start.
struct Node {
    answer: Option<Answer>,
    /// When it last answered, or else became known.
    since: Instant,
    greet_at: Instant,
}

/// What a host answered of itself.
struct Answer {
    id: String,
    version: String,
    time: Timestamp,
    latency: Duration,
}

impl Node {
    fn live(&self, timing: &Timing) -> Option<&Answer> {
        self.answer.as_ref().filter(|_| self.since.elapsed() < timing.live)
    }
}

impl Peers {
    /// Nodes with the default [`Timing`], whose certificates are of the system's authorities or of these; `known` are the hosts of the last run, see [`Peers::known`].
    pub fn new(identity: Identity, allowed: Allowed, trusted: &Authorities, known: Vec<String>) -> Peers {
        Peers::with_timing(identity, allowed, trusted, known, Timing::default())
    }

    /// As [`Peers::new`], with a timing of one's own.
    pub fn with_timing(
        identity: Identity,
        allowed: Allowed,
        trusted: &Authorities,
        known: Vec<String>,
        timing: Timing,
    ) -> Peers {
        let now = Instant::now();
        let hosts = known.iter().filter_map(|text| text.parse::<Host>().ok()).take(MAX_KNOWN);
        let nodes = hosts.map(|host| (host, Node { answer: None, since: now, greet_at: now })).collect();
        Peers(Arc::new(Inner {
            client: client(&allowed, trusted, &timing),
            identity,
            allowed,
            timing,
            first_calls: Semaphore::new(FIRST_CALLS_AT_ONCE),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            lookup_calls: Semaphore::new(LOOKUP_CALLS),
            turn: tokio::sync::Mutex::new(()),
            known: watch::Sender::new(known),
            state: Mutex::new(State { nodes, heard: BTreeSet::new(), found: BTreeMap::new() }),
        }))
    }

    /// The hosts of all known nodes, live or not, and word of each change. To know them after a restart, store them
    /// and hand them to [`Peers::new`].
    pub fn known(&self) -> watch::Receiver<Vec<String>> {
        self.0.known.subscribe()
    }

    /// The nodes that answered lately, without this one, sorted by host.
    pub fn live(&self) -> Vec<PeerView> {
        let view = |host: &Host, answer: &Answer| PeerView {
            host: host.to_string(),
            id: answer.id.clone(),
            version: answer.version.clone(),
            last_seen: answer.time.to_string(),
            latency_ms: answer.latency.as_micros() as f64 / 1000.0,
        };
        let state = self.state();
        state.nodes.iter().filter_map(|(host, node)| Some(view(host, node.live(&self.0.timing)?))).collect()
    }

    /// Where this node is reached.
    pub fn host(&self) -> &Host {
        &self.0.identity.host
    }

    /// A live node that says that it has a chain, by its name or id.
    ///
    /// Whoever asks for a chain that is not here causes this, so it asks live nodes alone, and none of them asks others; it begins
    /// no more than some look-ups a second, and above that knows nothing.
    pub async fn who_has(&self, chain: &str) -> Option<Host> {
        let hosts: Vec<Host> = {
            let state = self.state();
            let is_live = |host: &Host| state.nodes.get(host).is_some_and(|node| node.live(&self.0.timing).is_some());
            match state.found.get(chain) {
                Some((since, host)) if since.elapsed() < self.0.timing.found && is_live(host) => {
                    return Some(host.clone());
                }
                _ => state.nodes.keys().filter(|host| is_live(host)).cloned().collect(),
            }
        };
        if hosts.is_empty() {
            return None;
        }
        let turn = self.0.lookups.clone().try_acquire_owned().ok()?;
        let time = self.0.timing.lookup;
        tokio::spawn(async move {
            sleep(time).await;
            drop(turn);
        });
        let mut calls = JoinSet::new();
        for host in hosts {
            let (peers, chain) = (self.clone(), chain.to_owned());
            calls.spawn(async move { peers.has(&host, &chain).await.then_some(host) });
        }
        let first = async {
            while let Some(answer) = calls.join_next().await {
                if let Ok(Some(host)) = answer {
                    return Some(host);
                }
            }
            None
        };
        let host = timeout(time, first).await.ok().flatten()?;
        let mut state = self.state();
        state.found.retain(|_, (since, _)| since.elapsed() < self.0.timing.found);
        state.found.insert(chain.to_owned(), (Instant::now(), host.clone()));
        Some(host)
    }

    /// Whether a node says that it has a chain.
    async fn has(&self, host: &Host, chain: &str) -> bool {
        let _permit = self.0.lookup_calls.acquire().await.expect("this semaphore is never closed");
        if host.address.is_some_and(|address| !self.0.allowed.contains(address)) {
            return false;
        }
        let mut url: Url = format!("{}/peers/chains", host.url()).parse().expect("a host makes a URL");
        url.path_segments_mut().expect("an http URL has a path").push(chain);
        self.0.client.get(url).send().await.is_ok_and(|response| response.status() == StatusCode::OK)
    }

    /// This node's own hello, the answer to `GET /peers/hello`.
    pub fn hello(&self) -> Hello {
        let Identity { id, version, host } = self.0.identity.clone();
        let nodes = self.live().into_iter().map(|peer| peer.host).take(MAX_TOLD).collect();
        Hello { host: host.to_string(), id, version, nodes }
    }

    /// Calls a node, by TLS too where no scheme is said, so that both list each other, and then the nodes that it tells of, and theirs, as far as
    /// [`Timing::discover`] allows; the rest follows in the background. Answers with all live nodes.
    pub async fn discover(&self, host: &str) -> Result<Vec<PeerView>, DiscoverError> {
        let (given, host) = (host, host.parse::<Host>()?);
        let end = Instant::now() + self.0.timing.discover;
        let meeting = async {
            match self.meet(&host, true).await {
                Err(DiscoverError::NoAnswer { reason: MAY_HAVE_TLS, .. }) if !given.contains("://") => {
                    self.meet(&host.over_tls(), true).await
                }
                met => met,
            }
        };
        let met = timeout_at(end, meeting).await;
        met.unwrap_or(Err(DiscoverError::NoAnswer { host: host.clone(), reason: TIMED_OUT }))?;
        let introduced = timeout_at(end, async { self.introduce(self.0.turn.lock().await).await }).await;
        if introduced.is_err() {
            debug!("some of the nodes told of did not answer in time");
        }
        Ok(self.live())
    }

    /// The callee's side of `POST /peers/hello`: calls the caller back, lists it if the same identity answers there,
    /// and answers with this node's own hello.
    pub async fn greet(&self, hello: Hello) -> Result<Hello, DiscoverError> {
        if !hello.is_valid() {
            return Err(DiscoverError::BadHello);
        }
        let host: Host = hello.host.parse()?;
        let answer = self.first_call(&host).await?;
        if answer.id != hello.id {
            return Err(DiscoverError::NoAnswer { host, reason: "another node is there" });
        }
        self.list(&host, answer, false)?;
        self.hear(&hello.nodes);
        // Whoever has the turn takes up what was just heard. Waiting for it could make nodes wait for each other in a
        // ring, as a greeting is sent while its sender has its own turn.
        if let Ok(turn) = self.0.turn.try_lock()
            && timeout(self.0.timing.introductions, self.introduce(turn)).await.is_err()
        {
            debug!(%host, "some of the nodes told of did not answer in time");
        }
        Ok(self.hello())
    }

    /// Checks all known nodes again and again, until `shutdown` turns true. The node should already be listening, since
    /// those that it greets call it back.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut ticks = interval(self.0.timing.check_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let checks = async {
            loop {
                ticks.tick().await;
                self.check_all().await;
            }
        };
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = checks => {}
        }
    }

    /// Calls every known node, spread over a quarter of the time between checks so that they do not come as one burst,
    /// and those that were heard of beside them. No node waits for another: many dead ones, each of which takes the
    /// whole time of a call, must not make live ones look dead.
    async fn check_all(&self) {
        self.forget_silent();
        let hosts: Vec<Host> = self.state().nodes.keys().cloned().collect();
        let gap = self.0.timing.check_every / 4 / u32::try_from(hosts.len().max(1)).unwrap_or(u32::MAX);
        let mut delay = Duration::ZERO;
        let mut checks = JoinSet::new();
        for host in hosts {
            let peers = self.clone();
            checks.spawn(async move {
                sleep(delay).await;
                peers.check(&host).await;
            });
            delay += gap;
        }
        let introductions = async {
            if let Ok(turn) = self.0.turn.try_lock() {
                self.introduce(turn).await;
            }
        };
        let _ = tokio::join!(checks.join_all(), timeout(self.0.timing.discover, introductions));
    }

    /// Calls a known node, and greets it where it is new, came back, or was not greeted for long.
    async fn check(&self, host: &Host) {
        let checked = match self.call(host, Method::GET).await {
            Err(DiscoverError::Itself) => {
                self.forget(host);
                return;
            }
            Err(why) => Err(why),
            Ok((answer, _)) => {
                let id = answer.id.clone();
                match self.list(host, answer, false) {
                    Ok(true) => self.present(host, &id).await,
                    Ok(false) => Ok(()),
                    Err(why) => Err(why),
                }
            }
        };
        if let Err(why) = checked {
            debug!(%why, "check of a known node");
        }
    }

    /// Meets the hosts that were heard of, and those heard of on the way, until none is left or the bound is reached.
    async fn introduce(&self, _turn: tokio::sync::MutexGuard<'_, ()>) {
        let mut tried = BTreeSet::new();
        let mut calls = JoinSet::new();
        loop {
            while calls.len() < INTRODUCTIONS_AT_ONCE
                && tried.len() < MAX_INTRODUCTIONS
                && let Some(host) = self.next_heard()
            {
                if tried.insert(host.clone()) {
                    let peers = self.clone();
                    calls.spawn(async move { peers.meet(&host, false).await });
                }
            }
            match calls.join_next().await {
                Some(Ok(Err(why))) => debug!(%why, "a node that was told of"),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Lists a host once it has answered as a node and has listed this one. `asked` as in [`Peers::list`].
    async fn meet(&self, host: &Host, asked: bool) -> Result<(), DiscoverError> {
        let answer = self.first_call(host).await?;
        if !asked && self.twin(&self.state(), host, &answer.id).is_some_and(|(_, live)| live) {
            return Ok(());
        }
        self.present(host, &answer.id).await?;
        self.list(host, answer, asked).map(|_| ())
    }

    /// Presents this node to a node that has just answered as `id`, so that it lists this one, and hears whom it knows.
    async fn present(&self, host: &Host, id: &str) -> Result<(), DiscoverError> {
        match self.call(host, Method::POST).await {
            Ok((answer, nodes)) if answer.id == id => {
                self.hear(&nodes);
                Ok(())
            }
            Ok(_) | Err(DiscoverError::NoAnswer { reason: NOT_A_NODE | MAY_HAVE_TLS, .. }) => {
                Err(DiscoverError::NotListed { host: host.clone(), ours: self.0.identity.host.clone() })
            }
            Err(why) => Err(why),
        }
    }

    /// The call to a host that nobody here has checked yet.
    async fn first_call(&self, host: &Host) -> Result<Answer, DiscoverError> {
        let call = async {
            let _permit = self.0.first_calls.acquire().await.expect("this semaphore is never closed");
            self.call(host, Method::GET).await.map(|(answer, _)| answer)
        };
        let called = timeout(self.0.timing.call, call).await;
        called.unwrap_or_else(|_| Err(DiscoverError::NoAnswer { host: host.clone(), reason: TIMED_OUT }))
    }

    /// Says hello. `POST` carries this node's hello. Gives the hosts that were told, too.
    async fn call(&self, host: &Host, method: Method) -> Result<(Answer, Vec<String>), DiscoverError> {
        if host.address.is_some_and(|address| !self.0.allowed.contains(address)) {
            return Err(DiscoverError::NotAllowed { host: host.clone() });
        }
        let no_answer = |reason| DiscoverError::NoAnswer { host: host.clone(), reason };
        let mut request = self.0.client.request(method.clone(), format!("{}{PATH}", host.url()));
        if method == Method::POST {
            request = request.json(&self.hello());
        }
        let start = Instant::now();
        let response = request.send().await.map_err(|error| match cause::<Unresolved>(&error) {
            Some(Unresolved::NotAllowed) => DiscoverError::NotAllowed { host: host.clone() },
            Some(Unresolved::Unknown) => no_answer("its name is unknown"),
            None => no_answer(class(&error)),
        })?;
        let hello = read_hello(response).await.map_err(no_answer)?;
        if hello.id == self.0.identity.id {
            return Err(DiscoverError::Itself);
        }
        let Hello { id, version, nodes, .. } = hello;
        Ok((Answer { id, version, time: Clock::default().now(), latency: start.elapsed() }, nodes))
    }

    /// Takes up that a host has just answered; true says that it is due to be greeted, and counts it as greeted.
    ///
    /// A host has one node, the one that answered last. A node has one host: where it is live at another, it stays
    /// there, unless an operator asked for this one (`asked`); else hosts would alternate where a node has two names.
    fn list(&self, host: &Host, answer: Answer, asked: bool) -> Result<bool, DiscoverError> {
        let mut state = self.state();
        if let Some((twin, live)) = self.twin(&state, host, &answer.id) {
            let gone = if live && !asked { host } else { &twin };
            state.nodes.remove(gone);
            if gone == host {
                self.publish(&state);
                return Ok(false);
            }
        }
        let before = state.nodes.get(host);
        if before.is_none() && state.nodes.len() >= MAX_KNOWN {
            return Err(DiscoverError::TooMany);
        }
        let now = Instant::now();
        let stays = before.filter(|node| node.live(&self.0.timing).is_some_and(|last| last.id == answer.id));
        let greet_at = stays.map(|node| node.greet_at).filter(|at| *at > now);
        if stays.is_none() {
            info!(%host, id = answer.id, "a node is live");
        }
        let node =
            Node { answer: Some(answer), since: now, greet_at: greet_at.unwrap_or(now + self.0.timing.greet_every) };
        state.nodes.insert(host.clone(), node);
        state.heard.remove(host);
        self.publish(&state);
        Ok(greet_at.is_none())
    }

    /// The other host at which the same node answered, and whether it is live there.
    fn twin(&self, state: &State, host: &Host, id: &str) -> Option<(Host, bool)> {
        let same = |node: &Node| node.answer.as_ref().is_some_and(|answer| answer.id == id);
        let twin = state.nodes.iter().find(|(other, node)| *other != host && same(node));
        twin.map(|(other, node)| (other.clone(), node.live(&self.0.timing).is_some()))
    }

    fn hear(&self, told: &[String]) {
        let mut state = self.state();
        for host in told.iter().take(MAX_TOLD).filter_map(|text| text.parse::<Host>().ok()) {
            let is_news = host != self.0.identity.host && !state.nodes.contains_key(&host);
            if is_news && state.heard.len() < MAX_INTRODUCTIONS {
                state.heard.insert(host);
            }
        }
    }

    fn next_heard(&self) -> Option<Host> {
        self.state().heard.pop_first()
    }

    fn forget(&self, host: &Host) {
        let mut state = self.state();
        state.nodes.remove(host);
        self.publish(&state);
    }

    fn forget_silent(&self) {
        let mut state = self.state();
        state.nodes.retain(|_, node| node.since.elapsed() < self.0.timing.forget);
        self.publish(&state);
    }

    /// Tells of the known hosts, if they changed. It takes the locked state, so that changes are told in their order.
    fn publish(&self, state: &MutexGuard<'_, State>) {
        let hosts: Vec<String> = state.nodes.keys().map(Host::to_string).collect();
        self.0.known.send_if_modified(|known| {
            let changed = *known != hosts;
            *known = hosts;
            changed
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while it holds the lock of the peers")
    }
}

/// Finds the addresses of a name, and refuses the name if any of them may not be called.
struct Resolver(Allowed);

#[derive(Debug, thiserror::Error)]
enum Unresolved {
    #[error("an address of the name is not allowed")]
    NotAllowed,
    #[error("the name is unknown")]
    Unknown,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|_| Unresolved::Unknown)?;
            let addresses: Vec<_> = found.collect();
            if addresses.iter().any(|address| !allowed.contains(address.ip())) {
                return Err(Unresolved::NotAllowed.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn client(allowed: &Allowed, trusted: &Authorities, timing: &Timing) -> Client {
    build(trusted, |builder| {
        // A check is to show that the node takes new connections, and at addresses that are allowed now.
        only_to(allowed, builder).timeout(timing.call).pool_max_idle_per_host(0)
    })
}

/// Has a client call these networks only, whatever a name resolves to. Addresses that are no names are for the caller to check.
pub(crate) fn only_to(allowed: &Allowed, builder: ClientBuilder) -> ClientBuilder {
    builder.dns_resolver(Resolver(allowed.clone()))
}

/// Whether a call failed since a name is outside the networks that may be called.
pub(crate) fn is_outside(error: &reqwest::Error) -> bool {
    matches!(cause(error), Some(Unresolved::NotAllowed))
}

/// Builds a client with these bounds, as [`trusting`] does. It follows no redirect, and calls nobody by a proxy.
pub(crate) fn build(trusted: &Authorities, bound: impl Fn(ClientBuilder) -> ClientBuilder) -> Client {
    trusting(trusted, || {
        let builder = Client::builder().user_agent(concat!("qbc/", env!("CARGO_PKG_VERSION")));
        bound(builder.redirect(reqwest::redirect::Policy::none()).no_proxy())
    })
}

/// Builds a client that trusts these beside the certificate authorities of the system, on a system without any too.
pub(crate) fn trusting(trusted: &Authorities, builder: impl Fn() -> ClientBuilder) -> Client {
    let certificates = || {
        let certificate = |der| Certificate::from_der(der).expect("it was read as a certificate before");
        trusted.certificates().map(certificate).collect::<Vec<_>>()
    };
    let built = builder().tls_certs_merge(certificates()).build().or_else(|error| {
        // Building fails where the system has no certificate authorities, as in a bare container.
        warn!(?error, "no certificate authorities found: servers behind https cannot be called");
        builder().tls_certs_only(certificates()).build()
    });
    built.expect("a client that trusts no certificate of the system needs nothing from it")
}

/// Why an answer is not read.
pub(crate) enum ReadError {
    /// It has more bytes than it may have.
    TooLong,
    /// It broke off.
    Broken(reqwest::Error),
}

/// Reads the whole of an answer of so many bytes at most.
pub(crate) async fn read(mut response: Response, bytes: usize) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Broken)? {
        if body.len() + chunk.len() > bytes {
            return Err(ReadError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// How long one is left alone that did not answer, after this many failures before: it doubles from the first to the last of these.
pub(crate) fn pause([first, last]: [Duration; 2], failures: u32) -> Duration {
    first.saturating_mul(2u32.saturating_pow(failures)).min(last)
}

/// Reads an answer; the error is a class for [`DiscoverError::NoAnswer`].
async fn read_hello(response: Response) -> Result<Hello, &'static str> {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST => return Err(MAY_HAVE_TLS),
        _ => return Err(NOT_A_NODE),
    }
    let body = read(response, MAX_HELLO).await.map_err(|error| match error {
        ReadError::TooLong => NOT_A_NODE,
        ReadError::Broken(error) => class(&error),
    })?;
    serde_json::from_slice(&body).ok().filter(Hello::is_valid).ok_or(NOT_A_NODE)
}

/// The class of a failed call. It is all that is told of it, so that an answer of whatever else is there stays unread.
fn class(error: &reqwest::Error) -> &'static str {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    if let Some(reason) = distrust(error) {
        return reason;
    }
    match cause::<io::Error>(error).map(io::Error::kind) {
        _ if error.is_timeout() => TIMED_OUT,
        Some(ConnectionRefused) => "connection refused",
        Some(HostUnreachable | NetworkUnreachable) => "unreachable",
        Some(TimedOut) => TIMED_OUT,
        _ if error.is_connect() => "no connection",
        _ => NOT_A_NODE,
    }
}

/// The first of these among the causes of a failed call.
pub(crate) fn cause<T: Error + 'static>(error: &reqwest::Error) -> Option<&T> {
    iter::successors(error.source(), |&cause| cause.source()).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use axum::body::Body;
    use axum::extract::State as Extracted;
    use axum::http::{Response, header::LOCATION};
    use axum::routing::get;
    use axum::{Json, Router};
    use hyper::server::conn::http1;
    use hyper_util::{rt::TokioIo, service::TowerToHyperService};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn allowed(text: &str) -> Allowed {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_have_one_normal_form() {
        for (given, normal) in [
            ("localhost:5001", "localhost:5001"),
            ("LocalHost:5001/", "localhost:5001"),
            ("http://localhost:80", "localhost:80"),
            ("localhost", "localhost:5000"),
            ("HTTP://a_b.example/", "a_b.example:5000"),
            ("https://ledger.example", "https://ledger.example:443"),
            ("https://ledger.example:8443/", "https://ledger.example:8443"),
            ("[0:0::1]:5001", "[::1]:5001"),
            ("http://[::1]", "[::1]:5000"),
            ("127.1:5001", "127.0.0.1:5001"),
            ("2130706433:5001", "127.0.0.1:5001"),
            ("0x7f.0.0.1", "127.0.0.1:5000"),
        ] {
            assert_eq!(host(given).to_string(), normal, "{given}");
            assert_eq!(host(normal), host(given), "the normal form of {given} means the same");
        }
        assert_eq!(host("2130706433").address, Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!((host("[::1]").url().as_str(), host("[::1]").name()), ("http://[::1]:5000", "[::1]"));
        assert_eq!((host("https://A").url().as_str(), host("https://A").name()), ("https://a:443", "a"));
        assert_eq!(host("localhost").address, None);
    }

    #[test]
    fn what_is_no_host_is_refused_with_its_reason() {
        let long = "a".repeat(251);
        for (given, word) in [
            ("", "missing"),
            (":5001", "missing"),
            ("http://", "missing"),
            ("localhost:5001/chain", "path"),
            ("localhost//", "path"),
            ("localhost\\a", "path"),
            ("localhost?a=1", "query"),
            ("localhost:1#a", "fragment"),
            ("me:secret@localhost:5001", "password"),
            ("ftp://localhost", "scheme"),
            ("http://http://localhost", "path"),
            ("a b:5001", "space"),
            (" localhost", "space"),
            ("localhost\n", "space"),
            ("bücher.example", "xn--"),
            ("localhost:", "port"),
            ("localhost:0", "port"),
            ("localhost:+80", "port"),
            ("localhost:65536", "port"),
            ("::1:5001", "brackets"),
            ("[::1", "brackets"),
            ("[::1]x:1", "neither"),
            ("[]:1", "neither"),
            ("%31.example", "neither"),
            ("256.1.1.1", "neither"),
            ("a,b", "neither"),
            (long.as_str(), "255"),
        ] {
            match given.parse::<Host>() {
                Err(DiscoverError::BadHost { reason }) => assert!(reason.contains(word), "{given}: {reason}"),
                other => panic!("{given}: {other:?}"),
            }
        }
    }

    #[test]
    fn allowed_networks_hold_what_they_say() {
        for (list, inside, outside) in [
            ("none", vec![], vec!["127.0.0.1", "::1", "8.8.8.8"]),
            ("any", vec!["8.8.8.8", "2001:db8::1", "0.0.0.0"], vec![]),
            (
                "loopback",
                vec!["127.9.9.9", "::1", "::ffff:127.0.0.1"],
                vec!["0.0.0.0", "::", "128.0.0.1", "::ffff:8.8.8.8"],
            ),
            (
                "private",
                vec!["10.1.1.1", "172.31.0.1", "192.168.1.1", "fd00::1"],
                vec!["172.32.0.1", "169.254.169.254", "fe80::1"],
            ),
            (
                "10.1.0.0/16, 192.0.2.7,2001:db8::/32",
                vec!["10.1.2.3", "192.0.2.7", "2001:db8::5"],
                vec!["10.2.0.0", "192.0.2.8"],
            ),
        ] {
            let networks = allowed(list);
            assert_eq!(networks.to_string(), list);
            for address in inside {
                assert!(networks.contains(address.parse().unwrap()), "{address} in {list}");
            }
            for address in outside {
                assert!(!networks.contains(address.parse().unwrap()), "{address} in {list}");
            }
        }
        for list in ["", "loopback,", "10.0.0.0/33", "localhost", "Any", "1.2.3.4:80"] {
            assert!(list.parse::<Allowed>().is_err(), "{list:?}");
        }
    }

    #[test]
    fn the_longest_hello_fits_its_bound() {
        let nodes = vec!["a".repeat(MAX_HOST); MAX_TOLD];
        let hello = Hello { host: "a".repeat(MAX_HOST), id: id(1), version: "v".repeat(MAX_VERSION), nodes };
        assert!(serde_json::to_vec(&hello).unwrap().len() <= MAX_HELLO);
    }

    #[test]
    fn a_dead_node_leaves_within_15_seconds_and_a_slow_one_stays() {
        let timing = Timing::default();
        assert!(timing.live < Duration::from_secs(15));
        assert!(timing.live >= timing.check_every * 2 + timing.check_every / 4 + timing.call);
    }

    #[test]
    fn only_a_well_formed_hello_is_valid() {
        let hello = Hello { host: String::new(), id: id(7), version: "1.0".to_owned(), nodes: vec![] };
        assert!(hello.is_valid());
        for id in [id(7).replace('0', "G"), "A".repeat(64), "0".repeat(63), String::new()] {
            assert!(!Hello { id, ..hello.clone() }.is_valid());
        }
        for version in [String::new(), "v".repeat(65), "1\n".to_owned(), "é".to_owned()] {
            assert!(!Hello { version, ..hello.clone() }.is_valid());
        }
    }

    // A node in these tests is a real server on a free port of the loopback interface.

    fn id(number: u8) -> String {
        format!("{number:064x}")
    }

    fn fast() -> Timing {
        Timing {
            check_every: Duration::from_millis(50),
            call: Duration::from_millis(500),
            live: Duration::from_millis(300),
            greet_every: Duration::from_millis(200),
            discover: Duration::from_millis(1500),
            introductions: Duration::from_millis(250),
            forget: Duration::from_secs(60),
            ..Timing::default()
        }
    }

    fn peers(number: u8, address: SocketAddr, networks: &str, known: Vec<String>) -> Peers {
        let identity = Identity { id: id(number), version: "1.0".to_owned(), host: host(&address.to_string()) };
        Peers::with_timing(identity, allowed(networks), &Authorities::default(), known, fast())
    }

    struct Server {
        address: SocketAddr,
        task: JoinHandle<()>,
        calls: Arc<AtomicUsize>,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    /// Serves and counts calls; `port` 0 takes a free one.
    async fn serve<F: FnOnce(SocketAddr) -> Router>(port: u16, routes: F) -> Server {
        let listener = loop {
            // A server that was just dropped may hold its port for a moment.
            match TcpListener::bind(("127.0.0.1", port)).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => sleep(Duration::from_millis(5)).await,
                bound => break bound.unwrap(),
            }
        };
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let count = move |request: axum::extract::Request, next: axum::middleware::Next| {
            counter.fetch_add(1, SeqCst);
            next.run(request)
        };
        let router = routes(address).layer(axum::middleware::from_fn(count));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Server { address, task, calls }
    }

    fn routes(peers: Peers) -> Router {
        async fn hello(Extracted(peers): Extracted<Peers>) -> Json<Hello> {
            Json(peers.hello())
        }
        async fn greet(
            Extracted(peers): Extracted<Peers>,
            Json(hello): Json<Hello>,
        ) -> Result<Json<Hello>, StatusCode> {
            peers.greet(hello).await.map(Json).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)
        }
        Router::new().route(PATH, get(hello).post(greet)).with_state(peers)
    }

    /// A node; it runs its checks until it is dropped.
    struct TestNode {
        peers: Peers,
        server: Server,
        shutdown: Option<watch::Sender<bool>>,
    }

    impl TestNode {
        async fn at(port: u16, number: u8, known: Vec<String>) -> TestNode {
            let mut made = None;
            let server = serve(port, |address| {
                let peers = peers(number, address, "loopback", known);
                made = Some(peers.clone());
                routes(peers)
            })
            .await;
            TestNode { peers: made.unwrap(), server, shutdown: None }
        }

        async fn new(number: u8) -> TestNode {
            TestNode::at(0, number, vec![]).await
        }

        fn run(&mut self) {
            let (shutdown, receiver) = watch::channel(false);
            self.shutdown = Some(shutdown);
            tokio::spawn(self.peers.clone().run(receiver));
        }

        fn host(&self) -> String {
            self.server.address.to_string()
        }

        fn lists(&self) -> Vec<String> {
            self.peers.live().into_iter().map(|peer| peer.host).collect()
        }
    }

    fn sorted<const N: usize>(nodes: [&TestNode; N]) -> Vec<String> {
        let hosts: BTreeSet<Host> = nodes.iter().map(|node| host(&node.host())).collect();
        hosts.iter().map(Host::to_string).collect()
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < end, "never came: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn no_answer<T: fmt::Debug>(result: Result<T, DiscoverError>) -> &'static str {
        match result {
            Err(DiscoverError::NoAnswer { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn two_nodes_list_each_other() {
        let (a, b) = (TestNode::new(1).await, TestNode::new(2).await);
        let found = a.peers.discover(&format!("http://localhost:{}/", b.server.address.port())).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].host, format!("localhost:{}", b.server.address.port()), "shown as it was given");
        assert_eq!((found[0].id.as_str(), found[0].version.as_str()), (id(2).as_str(), "1.0"));
        let seen: Timestamp = found[0].last_seen.parse().unwrap();
        assert!(seen.seconds().abs_diff(Clock::default().now().seconds()) < 5);
        assert_eq!(found[0].last_seen.len(), "2026-01-01T00:00:00.000000Z".len());
        assert!(found[0].latency_ms > 0.0 && found[0].latency_ms < 500.0);
        assert_eq!(b.lists(), [a.host()]);
        assert_eq!(*a.peers.known().borrow(), [found[0].host.clone()]);
    }

    #[tokio::test]
    async fn a_mesh_forms_within_the_call() {
        let (a, b, c, d) =
            (TestNode::new(1).await, TestNode::new(2).await, TestNode::new(3).await, TestNode::new(4).await);
        a.peers.discover(&b.host()).await.unwrap();
        c.peers.discover(&b.host()).await.unwrap();
        assert_eq!(a.lists(), sorted([&b, &c]), "the newcomer introduced itself");
        a.peers.discover(&d.host()).await.unwrap();
        for (node, others) in [(&a, [&b, &c, &d]), (&b, [&a, &c, &d]), (&c, [&a, &b, &d]), (&d, [&a, &b, &c])] {
            assert_eq!(node.lists(), sorted(others));
        }
    }

    #[tokio::test]
    async fn two_meshes_become_one() {
        let mut nodes = vec![];
        for number in 1..=6 {
            let mut node = TestNode::new(number).await;
            node.run();
            nodes.push(node);
        }
        for (from, to) in [(0, 1), (0, 2), (3, 4), (3, 5), (2, 5)] {
            nodes[from].peers.discover(&nodes[to].host()).await.unwrap();
        }
        until("every node lists the five others", || nodes.iter().all(|node| node.lists().len() == 5)).await;
        sleep(fast().live * 2).await;
        assert!(nodes.iter().all(|node| node.lists().len() == 5), "and it stays so");
    }

    #[tokio::test]
    async fn a_dead_node_leaves_and_comes_back() {
        let (mut a, b) = (TestNode::new(1).await, TestNode::new(2).await);
        a.run();
        a.peers.discover(&b.host()).await.unwrap();
        let (port, there) = (b.server.address.port(), b.host());
        drop(b);
        until("the dead node leaves the list", || a.lists().is_empty()).await;
        assert_eq!(*a.peers.known().borrow(), std::slice::from_ref(&there), "it stays known");
        assert!(a.peers.hello().nodes.is_empty(), "others are not told of it");

        let b = TestNode::at(port, 2, vec![]).await;
        until("the node comes back", || a.lists() == [there.clone()]).await;
        until("it is greeted, as it forgot everything", || b.lists() == [a.host()]).await;
        drop(b);

        let _b = TestNode::at(port, 3, vec![]).await;
        until("another node takes its place", || a.peers.live().iter().any(|peer| peer.id == id(3))).await;
        assert_eq!(a.lists(), [there]);
    }

    #[tokio::test]
    async fn known_nodes_survive_a_restart() {
        let b = TestNode::new(2).await;
        let mut a = TestNode::at(0, 1, vec![b.host(), "no host".to_owned()]).await;
        assert!(a.lists().is_empty(), "known is not yet live");
        a.run();
        until("the known node is live", || a.lists() == [b.host()]).await;
        until("and lists the one that came back", || b.lists() == [a.host()]).await;
        assert_eq!(*a.peers.known().borrow(), [b.host()]);
    }

    #[tokio::test]
    async fn long_silence_is_forgotten() {
        let server = serve(0, |_| Router::new()).await;
        let identity = Identity { id: id(1), version: "1.0".to_owned(), host: host("localhost:1") };
        let timing = Timing { forget: Duration::from_millis(200), ..fast() };
        let peers = Peers::with_timing(
            identity,
            allowed("loopback"),
            &Authorities::default(),
            vec![server.address.to_string()],
            timing,
        );
        let mut known = peers.known();
        assert_eq!(known.borrow_and_update().len(), 1);
        let (_shutdown, receiver) = watch::channel(false);
        tokio::spawn(peers.run(receiver));
        timeout(Duration::from_secs(5), known.changed()).await.unwrap().unwrap();
        assert!(known.borrow().is_empty());
        assert!(server.calls.load(SeqCst) > 1, "it was tried until then");
    }

    #[tokio::test]
    async fn run_ends_with_the_shutdown() {
        let (shutdown, receiver) = watch::channel(false);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let run = tokio::spawn(peers(1, address, "loopback", vec!["localhost:1".to_owned()]).run(receiver));
        sleep(Duration::from_millis(60)).await;
        shutdown.send(true).unwrap();
        timeout(Duration::from_secs(1), run).await.expect("it ends at once").unwrap();
    }

    #[tokio::test]
    async fn a_node_does_not_list_itself() {
        let mut a = TestNode::new(1).await;
        assert_eq!(a.peers.discover(&a.host()).await, Err(DiscoverError::Itself));
        assert_eq!(a.peers.greet(a.peers.hello()).await, Err(DiscoverError::Itself));
        let other_name = format!("localhost:{}", a.server.address.port());
        assert_eq!(a.peers.discover(&other_name).await, Err(DiscoverError::Itself));
        assert!(a.peers.known().borrow().is_empty());
        a.peers.hear(&[a.host()]);
        assert!(a.peers.state().heard.is_empty(), "nor does it call itself when others tell of it");

        let port = a.server.address.port();
        drop(a);
        a = TestNode::at(port, 1, vec![other_name]).await;
        a.run();
        until("a known host that turns out to be itself is forgotten", || a.peers.known().borrow().is_empty()).await;
    }

    #[tokio::test]
    async fn a_node_with_two_names_is_listed_once_and_under_the_name_asked_for() {
        let (mut a, mut b) = (TestNode::new(1).await, TestNode::new(2).await);
        a.run();
        b.run();
        let name = format!("localhost:{}", b.server.address.port());
        a.peers.discover(&b.host()).await.unwrap();
        a.peers.discover(&name).await.unwrap();
        let called = a.server.calls.load(SeqCst);
        until("b greeted a again, naming itself as before", || a.server.calls.load(SeqCst) > called + 20).await;
        assert_eq!(a.lists(), [name]);
        assert_eq!(b.lists(), [a.host()]);
    }

    #[tokio::test]
    async fn a_host_outside_the_networks_is_never_called() {
        let server = serve(0, |_| Router::new()).await;
        let port = server.address.port();
        for networks in ["none", "10.0.0.0/8", "192.0.2.1"] {
            let peers = peers(1, server.address, networks, vec![server.address.to_string()]);
            for name in ["127.0.0.1", "localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]", "LOCALHOST"] {
                let given = format!("{name}:{port}");
                let refused = peers.discover(&given).await;
                assert_eq!(refused, Err(DiscoverError::NotAllowed { host: host(&given) }), "{given} in {networks}");
                let hello = Hello { host: given.clone(), id: id(2), version: "1.0".to_owned(), nodes: vec![] };
                assert_eq!(peers.greet(hello).await, Err(DiscoverError::NotAllowed { host: host(&given) }));
            }
            peers.hear(&[server.address.to_string()]);
            peers.check_all().await;
        }
        assert_eq!(server.calls.load(SeqCst), 0);
        let why = DiscoverError::NotAllowed { host: host("localhost") }.to_string();
        assert!(why.contains("--discover-allow"), "the text names the cure: {why}");
    }

    #[tokio::test]
    async fn a_connection_outside_is_not_even_opened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peers = peers(1, address, "private", vec![]);
        for name in ["127.0.0.1", "localhost"] {
            let refused = peers.discover(&format!("{name}:{}", address.port())).await;
            assert!(matches!(refused, Err(DiscoverError::NotAllowed { .. })), "{refused:?}");
        }
        assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err());
    }

    #[tokio::test]
    async fn a_call_that_fails_says_only_its_class() {
        let a = TestNode::new(1).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(no_answer(a.peers.discover(&closed.to_string()).await), "connection refused");
        assert_eq!(no_answer(a.peers.discover("no-such-name.invalid").await), "its name is unknown");

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(no_answer(a.peers.discover(&silent.local_addr().unwrap().to_string()).await), TIMED_OUT);

        let plain = serve(0, |_| Router::new()).await;
        let over_tls = no_answer(a.peers.discover(&format!("https://{}", plain.address)).await);
        assert_eq!((over_tls, plain.calls.load(SeqCst)), ("no connection", 0));
        assert!(a.peers.known().borrow().is_empty());
    }

    #[tokio::test]
    async fn whatever_is_no_hello_is_one_and_the_same_error() {
        let hello = |id: String| serde_json::json!({"host": "a", "id": id, "version": "1", "nodes": []}).to_string();
        let padded = format!("{}{}", hello(id(2)), " ".repeat(MAX_HELLO));
        let endless = || Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, io::Error>(" ".repeat(4096))));
        let elsewhere = TestNode::new(9).await;
        let answers: Vec<(&str, Response<Body>)> = vec![
            ("another server", Response::new(Body::from("<h1>secret</h1>"))),
            ("no body", Response::new(Body::empty())),
            ("a wrong id", Response::new(Body::from(hello("x".repeat(64))))),
            ("an oversized hello", Response::new(Body::from(padded))),
            ("an endless body", Response::new(endless())),
            ("an error", Response::builder().status(500).body(Body::from(hello(id(2)))).unwrap()),
            (
                "a redirect to a node",
                Response::builder()
                    .status(307)
                    .header(LOCATION, format!("{}{PATH}", host(&elsewhere.host()).url()))
                    .body(Body::empty())
                    .unwrap(),
            ),
        ];
        let a = TestNode::new(1).await;
        for (what, answer) in answers {
            let once = Arc::new(Mutex::new(Some(answer)));
            let routes = Router::new().fallback(move || async move { once.lock().unwrap().take().unwrap() });
            let server = serve(0, |_| routes).await;
            assert_eq!(no_answer(a.peers.discover(&server.address.to_string()).await), NOT_A_NODE, "{what}");
            assert_eq!(server.calls.load(SeqCst), 1, "{what}: asked once and never posted to");
        }
        assert_eq!(elsewhere.server.calls.load(SeqCst), 0, "no redirect is followed");
        assert!(a.peers.known().borrow().is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_trickles_is_cut_off() {
        let drip = futures_util::stream::unfold((), |()| async {
            sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, io::Error>(" "), ()))
        });
        let body = Arc::new(Mutex::new(Some(Body::from_stream(drip))));
        let routes = Router::new().fallback(move || async move { body.lock().unwrap().take().unwrap() });
        let server = serve(0, |_| routes).await;
        let a = TestNode::new(1).await;
        let start = Instant::now();
        assert_eq!(no_answer(a.peers.discover(&server.address.to_string()).await), TIMED_OUT);
        assert!(start.elapsed() < fast().call * 2);
    }

    #[tokio::test]
    async fn a_caller_is_listed_only_if_it_answers_as_itself() {
        let (a, b) = (TestNode::new(1).await, TestNode::new(2).await);
        let claim = |host: String, id: String| Hello { host, id, version: "1.0".to_owned(), nodes: vec![] };
        assert_eq!(no_answer(a.peers.greet(claim(b.host(), id(3))).await), "another node is there");
        assert_eq!(no_answer(a.peers.greet(claim("localhost:1".to_owned(), id(3))).await), "connection refused");
        assert_eq!(a.peers.greet(claim(b.host(), "3".to_owned())).await, Err(DiscoverError::BadHello));
        assert!(matches!(a.peers.greet(claim("a/b".to_owned(), id(3))).await, Err(DiscoverError::BadHost { .. })));
        assert!(a.lists().is_empty());
        assert_eq!(b.server.calls.load(SeqCst), 1, "the call back is one GET, whatever was claimed");

        assert_eq!(a.peers.greet(claim(b.host(), id(2))).await.unwrap().id, id(1));
        assert_eq!(a.lists(), [b.host()]);
        assert!(b.lists().is_empty(), "the call back changes nothing there");
    }

    #[tokio::test]
    async fn a_node_that_cannot_be_called_back_is_told_so() {
        let b = TestNode::new(2).await;
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let a = peers(1, nowhere, "loopback", vec![]);
        let refused = a.discover(&b.host()).await.unwrap_err();
        assert_eq!(refused, DiscoverError::NotListed { host: host(&b.host()), ours: host(&nowhere.to_string()) });
        assert!(a.known().borrow().is_empty() && b.lists().is_empty(), "neither lists the other");
    }

    #[tokio::test]
    async fn bounds_hold_against_a_node_that_tells_of_too_many() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let told: Vec<String> = (0..240).map(|last| format!("127.0.1.{last}:{port}")).collect();
        let hello = Hello { host: "localhost:1".to_owned(), id: id(66), version: "1".to_owned(), nodes: told };
        let routes = Router::new().route(PATH, get(Json(hello.clone())).post(Json(hello)));
        let liar = serve(0, |_| routes).await;
        let a = TestNode::new(1).await;
        let start = Instant::now();
        assert_eq!(a.peers.discover(&liar.address.to_string()).await.unwrap().len(), 1, "made up nodes are not listed");
        assert!(start.elapsed() < fast().discover * 2);
        assert!(a.peers.state().heard.len() <= MAX_INTRODUCTIONS);
        assert_eq!(a.peers.known().borrow().len(), 1);
    }

    #[tokio::test]
    async fn no_more_nodes_are_known_than_the_bound() {
        let b = TestNode::new(2).await;
        let known: Vec<String> = (0..MAX_KNOWN).map(|port| format!("10.0.0.1:{}", port + 1)).collect();
        let a = TestNode::at(0, 1, known).await;
        assert_eq!(a.peers.discover(&b.host()).await, Err(DiscoverError::TooMany));
        assert_eq!(a.peers.known().borrow().len(), MAX_KNOWN);
        assert!(a.lists().is_empty());
    }

    #[tokio::test]
    async fn many_dead_nodes_do_not_make_a_live_one_look_dead() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let b = TestNode::new(2).await;
        let mut known: Vec<String> = (0..200).map(|last| format!("127.0.0.{last}:{port}")).collect();
        known.push(b.host());
        let (identity, timing) = (
            peers(1, b.server.address, "none", vec![]).0.identity.clone(),
            Timing { call: Duration::from_millis(200), live: Duration::from_millis(900), ..fast() },
        );
        let peers = Peers::with_timing(identity, allowed("loopback"), &Authorities::default(), known, timing);
        let (_shutdown, receiver) = watch::channel(false);
        tokio::spawn(peers.clone().run(receiver));
        until("the live one is listed", || peers.live().len() == 1).await;
        for _ in 0..100 {
            sleep(Duration::from_millis(20)).await;
            assert_eq!(peers.live().len(), 1);
        }
    }
}
