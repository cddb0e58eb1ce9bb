//! The load generator of `qbc bench` and of `benches/bars`, and the bare axum server that both compare the node with.
//!
//! It shares the machine with the node that it loads, so it spends little CPU of its own: keep-alive connections,
//! requests prepared as bytes, and of an answer only the status and the end are looked for. It speaks HTTP/1.1
//! (RFC 9112), with TLS or without, and nothing else. It is a closed loop: a connection sends its next request when the last one is answered,
//! so a slow answer also slows the asking, and latencies are those at the rate that was reached.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use axum::{Json, Router, routing::get};
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    access::Secret,
    tls::{Authorities, Connector, Stream},
};

/// Where a connection reads ahead: large enough that a long chain costs few system calls.
const READ_AHEAD: usize = 256 * 1024;

/// A server to load, known by `http://HOST[:PORT]` or `https://HOST[:PORT]`.
#[derive(Clone)]
pub struct Target {
    authority: String,
    /// What is shown to it.
    token: Option<Secret>,
    /// The server's name, and what opens connections to it, where it has TLS.
    tls: Option<(String, Connector)>,
}

impl Target {
    /// Takes the URL of a server; an error names what the generator cannot do with it.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        Target::trusting(&Authorities::default(), url)
    }

    /// The same of one whose certificate may be of these.
    pub fn trusting(trusted: &Authorities, url: &str) -> anyhow::Result<Self> {
        let parsed =
            reqwest::Url::parse(url).with_context(|| format!("{url} is not a URL like http://localhost:5000"))?;
        let scheme = parsed.scheme();
        ensure!(matches!(scheme, "http" | "https"), "the load generator speaks http and https only, not {scheme}");
        ensure!(parsed.path() == "/" && parsed.query().is_none(), "{url} names more than a host and a port");
        let host = parsed.host_str().with_context(|| format!("{url} names no host"))?;
        let tls = (scheme == "https").then(|| Connector::new(trusted)).transpose().map_err(anyhow::Error::msg)?;
        let authority = format!("{host}:{}", parsed.port_or_known_default().unwrap_or(80));
        Ok(Target { authority, token: None, tls: tls.map(|connector| (host.to_owned(), connector)) })
    }

    /// The same with a token that is shown.
    pub fn with_token(self, token: Option<&Secret>) -> Target {
        Target { token: token.cloned(), ..self }
    }

    /// The line of a request's head that shows the token, or nothing.
    fn authorization(&self) -> String {
        let line = |token: &Secret| format!("Authorization: Bearer {}\r\n", token.reveal());
        self.token.as_ref().map(line).unwrap_or_default()
    }

    /// The bytes of `GET path`.
    pub fn get(&self, path: &str) -> Bytes {
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n", self.authority, self.authorization()).into()
    }

    /// The bytes of `POST path` with a JSON body.
    pub fn post(&self, path: &str, json: &[u8]) -> Bytes {
        let mut request = self.post_head(path, "application/json", &format!("Content-Length: {}", json.len()));
        request.extend_from_slice(json);
        request.into()
    }

    fn post_head(&self, path: &str, content_type: &str, framing: &str) -> Vec<u8> {
        let (host, authorization) = (&self.authority, self.authorization());
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Content-Type: {content_type}\r\n{framing}\r\n\r\n"
        )
        .into_bytes()
    }

    /// A new connection.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.authority).await;
        let stream = stream.with_context(|| format!("cannot connect to {self}"))?;
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some((name, connector)) => {
                connector.connect(name, stream).await.with_context(|| format!("cannot connect to {self}"))?
            }
        };
        Ok(Connection { stream: BufReader::with_capacity(READ_AHEAD, stream) })
    }

    async fn connect_all(&self, connections: usize) -> anyhow::Result<Vec<Connection>> {
        let mut all = Vec::with_capacity(connections);
        while all.len() < connections {
            all.push(self.connect().await?);
        }
        Ok(all)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// What is known of an answer whose body was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Bytes of the body, without its framing.
    pub length: u64,
}

impl Answer {
    /// Whether the status is `2xx`.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A keep-alive connection with at most one request under way.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<Stream>,
}

/// Where a body ends (RFC 9112 section 6).
enum Framing {
    Length(u64),
    Chunked,
}

impl Connection {
    /// Sends a prepared request and reads the answer, whose body is appended to `body` where one is given.
    pub async fn ask(&mut self, request: &[u8], body: Option<&mut Vec<u8>>) -> io::Result<Answer> {
        self.stream.get_mut().write_all(request).await?;
        self.stream.get_mut().flush().await?;
        self.answer(body).await
    }

    async fn answer(&mut self, mut body: Option<&mut Vec<u8>>) -> io::Result<Answer> {
        let (status, framing) = self.head().await?;
        let mut length = 0;
        match framing {
            Framing::Length(bytes) => {
                self.take(bytes, body).await?;
                length = bytes;
            }
            Framing::Chunked => loop {
                let size = self.line().await?;
                let size = size.split(';').next().and_then(|size| u64::from_str_radix(size.trim(), 16).ok());
                let size = size.ok_or_else(|| malformed("a chunk has no size"))?;
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    break;
                }
                self.take(size, body.as_deref_mut()).await?;
                self.line().await?;
                length += size;
            },
        }
        Ok(Answer { status, length })
    }

    async fn head(&mut self) -> io::Result<(u16, Framing)> {
        let status = self.line().await?;
        let status = status.get(9..12).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| malformed("the answer has no status"))?;
        let mut framing = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if name.eq_ignore_ascii_case("content-length") {
                framing = value.trim().parse().ok().map(Framing::Length);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Some(Framing::Chunked);
            }
        }
        Ok((status, framing.ok_or_else(|| malformed("the answer's body has no length"))?))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        if line.pop() != Some('\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed within an answer"));
        }
        if line.ends_with('\r') {
            line.pop();
        }
        Ok(line)
    }

    async fn take(&mut self, mut bytes: u64, mut into: Option<&mut Vec<u8>>) -> io::Result<()> {
        while bytes > 0 {
            let ready = self.stream.fill_buf().await?;
            if ready.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed within a body"));
            }
            let count = ready.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            if let Some(into) = into.as_deref_mut() {
                into.extend_from_slice(&ready[..count]);
            }
            self.stream.consume(count);
            bytes -= count as u64;
        }
        Ok(())
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What a load did.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From the moment when every connection stood until the last answer was read.
    pub elapsed: Duration,
    /// Requests that were answered `2xx`, or transactions that were accepted from a stream.
    pub done: u64,
    /// How many were refused, by HTTP status.
    pub refused: BTreeMap<u16, u64>,
    /// Bytes of all answers' bodies.
    pub bytes: u64,
    /// Of each request, in microseconds, ascending.
    latencies: Vec<u32>,
}

impl Measured {
    /// What was done in a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency in microseconds that `percent` of the requests did not exceed (nearest rank); 0 where none was sent.
    /// Of a stream, it is the time from its last line to its answer.
    pub fn percentile(&self, percent: f64) -> u32 {
        let rank = (percent / 100.0 * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }

    /// An error that counts what was refused, if anything was.
    pub fn check(&self) -> anyhow::Result<()> {
        let refused: Vec<_> = self.refused.iter().map(|(status, count)| format!("{count} with {status}")).collect();
        ensure!(refused.is_empty(), "the server refused {}", refused.join(", "));
        Ok(())
    }

    fn record(&mut self, since: Instant) {
        self.latencies.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
    }

    fn refuse(&mut self, status: u16, count: u64) {
        *self.refused.entry(status).or_default() += count;
    }

    fn merge(&mut self, other: Measured) {
        self.done += other.done;
        self.bytes += other.bytes;
        self.latencies.extend(other.latencies);
        other.refused.into_iter().for_each(|(status, count)| self.refuse(status, count));
    }
}

/// The middle of the values, or of the two in the middle the mean; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Gives the same bytes again and again until the time is up.
pub fn repeat(bytes: Bytes, time: Duration) -> impl Fn() -> Option<Bytes> + Send + Sync + 'static {
    let end = Instant::now() + time;
    move || (Instant::now() < end).then(|| bytes.clone())
}

/// Sends what `next` gives, each as a request of its own, over that many connections, until it gives `None`.
///
/// It fails where a connection cannot be made or breaks; an answer that is not `2xx` is counted.
pub async fn requests(
    target: &Target,
    connections: usize,
    next: impl Fn() -> Option<Bytes> + Send + Sync + 'static,
) -> anyhow::Result<Measured> {
    let next = Arc::new(next);
    let connections = target.connect_all(connections).await?;
    run(connections, |mut connection| {
        let next = next.clone();
        async move {
            let mut measured = Measured::default();
            while let Some(request) = next() {
                let start = Instant::now();
                let answer = connection.ask(&request, None).await?;
                measured.record(start);
                measured.bytes += answer.length;
                match answer.is_success() {
                    true => measured.done += 1,
                    false => measured.refuse(answer.status, 1),
                }
            }
            Ok(measured)
        }
    })
    .await
}

/// Sends what `next` gives, [`block`]s of lines, as one NDJSON inject a connection, until it gives `None`.
///
/// It counts accepted and refused transactions as the node's answers report them.
pub async fn stream(
    target: &Target,
    path: &str,
    connections: usize,
    next: impl Fn() -> Option<Bytes> + Send + Sync + 'static,
) -> anyhow::Result<Measured> {
    let next = Arc::new(next);
    let head = Bytes::from(target.post_head(path, "application/x-ndjson", "Transfer-Encoding: chunked"));
    let connections = target.connect_all(connections).await?;
    run(connections, |connection| one_stream(connection, head.clone(), next.clone())).await
}

async fn one_stream(
    mut connection: Connection,
    head: Bytes,
    next: Arc<impl Fn() -> Option<Bytes>>,
) -> anyhow::Result<Measured> {
    let socket = connection.stream.get_mut();
    socket.write_all(&head).await?;
    // A node that refuses the whole stream answers before its end and closes: then the answer says more than the
    // broken pipe does.
    let mut sent = Ok(());
    while sent.is_ok()
        && let Some(block) = next()
    {
        sent = socket.write_all(&block).await;
    }
    if sent.is_ok() {
        sent = socket.write_all(b"0\r\n\r\n").await;
    }
    if sent.is_ok() {
        sent = socket.flush().await;
    }
    let end = Instant::now();
    let mut body = Vec::new();
    let answer = connection.answer(Some(&mut body)).await.map_err(|error| sent.err().unwrap_or(error))?;
    let mut measured = Measured { bytes: answer.length, ..Measured::default() };
    measured.record(end);
    let report: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (report["accepted"].as_u64(), report["refused"].as_u64()) {
        (Some(accepted), Some(0)) => measured.done = accepted,
        (Some(accepted), Some(refused)) => {
            measured.done = accepted;
            let status = report["errors"][0]["status"].as_u64().and_then(|status| u16::try_from(status).ok());
            measured.refuse(status.unwrap_or(answer.status), refused);
        }
        _ if answer.is_success() => bail!("a stream was answered without its counts: {report}"),
        _ => measured.refuse(answer.status, 1),
    }
    Ok(measured)
}

async fn run<F>(connections: Vec<Connection>, load: impl Fn(Connection) -> F) -> anyhow::Result<Measured>
where
    F: Future<Output = anyhow::Result<Measured>> + Send + 'static,
{
    let start = Instant::now();
    let mut running: JoinSet<_> = connections.into_iter().map(load).collect();
    let mut all = Measured::default();
    while let Some(measured) = running.join_next().await {
        let measured = measured.context("a connection of the load failed")?;
        // A broken pipe here is not that of the program's own output, which ends it quietly.
        all.merge(measured.map_err(|error| anyhow!("a connection broke under load: {error:#}"))?);
    }
    all.elapsed = start.elapsed();
    all.latencies.sort_unstable();
    Ok(all)
}

/// The body of a single inject whose `data` is an object of that many bytes of canonical JSON, at least 11.
pub fn inject_body(data_bytes: usize) -> Vec<u8> {
    let letters = data_bytes.saturating_sub(r#"{"text":""}"#.len());
    let text: String = ('a'..='z').cycle().take(letters).collect();
    format!(r#"{{"data":{{"text":"{text}"}}}}"#).into_bytes()
}

/// That many NDJSON lines of the same body, ready as one chunk (RFC 9112 section 7.1) of a streaming inject.
pub fn block(body: &[u8], lines: usize) -> Bytes {
    let mut block = format!("{:x}\r\n", lines * (body.len() + 1)).into_bytes();
    for _ in 0..lines {
        block.extend_from_slice(body);
        block.push(b'\n');
    }
    block.extend_from_slice(b"\r\n");
    block.into()
}

/// The baseline: axum with two routes and nothing around them.
///
/// `POST /` parses a JSON value and sends it back; `GET /` sends `bytes` from memory.
pub fn bare_router(bytes: Bytes) -> Router {
    let routes = get(move || async move { bytes }).post(async |Json(value): Json<Value>| Json(value));
    Router::new().route("/", routes)
}

/// Serves a baseline on the same HTTP/1 server as the node's.
///
/// # Errors
/// No connection can be accepted.
pub async fn serve_bare(listener: TcpListener, router: Router) -> io::Result<()> {
    let service = TowerToHyperService::new(router);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn baseline(bytes: &'static [u8]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve_bare(listener, bare_router(Bytes::from_static(bytes))));
        Target::parse(&url).unwrap()
    }

    /// A server that reads until `end` and then sends `answer`, once.
    async fn scripted(end: &'static [u8], answer: &'static [u8]) -> Target {
        use tokio::io::AsyncReadExt;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(end) {
                read.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
        });
        Target::parse(&url).unwrap()
    }

    #[tokio::test]
    async fn a_closed_loop_counts_what_was_answered() {
        let target = baseline(b"0123456789").await;
        let measured = requests(&target, 3, repeat(target.get("/"), Duration::from_millis(50))).await.unwrap();
        assert!(measured.done >= 3);
        assert_eq!(measured.bytes, measured.done * 10);
        assert_eq!(measured.latencies.len() as u64, measured.done);
        measured.check().unwrap();
    }

    #[tokio::test]
    async fn what_is_not_2xx_is_counted_as_refused() {
        let target = baseline(b"").await;
        let body = target.post("/", b"{");
        let measured = requests(&target, 1, repeat(body, Duration::from_millis(20))).await.unwrap();
        assert_eq!(measured.done, 0);
        assert!(measured.refused[&400] > 0);
        assert!(measured.check().unwrap_err().to_string().contains("with 400"));
    }

    #[tokio::test]
    async fn chunks_are_joined_and_trailers_skipped() {
        let target = scripted(
            b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
        )
        .await;
        let mut body = Vec::new();
        let answer = target.connect().await.unwrap().ask(&target.get("/"), Some(&mut body)).await.unwrap();
        assert_eq!((answer, body.as_slice()), (Answer { status: 200, length: 13 }, &b"abc0123456789"[..]));
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_short_is_an_error() {
        for cut in [&b"HTTP/1.1 200 OK\r\nContent-Le"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", b""] {
            let target = scripted(b"\r\n\r\n", cut).await;
            let error = target.connect().await.unwrap().ask(&target.get("/"), None).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test]
    async fn a_stream_counts_what_the_node_reports() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n\
            {\"accepted\": 5, \"refused\": 2, \"errors\": [{\"status\": 413}]}       ";
        let target = scripted(b"0\r\n\r\n", answer).await;
        let body = inject_body(20);
        let once = std::sync::Mutex::new(Some(block(&body, 7)));
        let measured = stream(&target, "/inject", 1, move || once.lock().unwrap().take()).await.unwrap();
        assert_eq!((measured.done, measured.refused), (5, BTreeMap::from([(413, 2)])));
    }

    #[test]
    fn the_data_has_the_bytes_that_were_asked_for() {
        for bytes in [11, 12, 200, 4096] {
            let body: Value = serde_json::from_slice(&inject_body(bytes)).unwrap();
            assert_eq!(body["data"].to_string().len(), bytes);
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let measured = Measured { latencies: (1..=200).collect(), ..Measured::default() };
        assert_eq!([50.0, 90.0, 99.0, 100.0].map(|percent| measured.percentile(percent)), [100, 180, 198, 200]);
        assert_eq!(Measured::default().percentile(50.0), 0);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn only_http_without_a_path_is_a_target() {
        assert_eq!(Target::parse("http://localhost:5000").unwrap().authority, "localhost:5000");
        assert_eq!(Target::parse("http://[::1]/").unwrap().authority, "[::1]:80");
        assert!(Target::parse("ftp://localhost").err().unwrap().to_string().contains("http and https only"));
        assert!(Target::parse("http://localhost:5000/chains/x").is_err());
        assert!(Target::parse("localhost").is_err());
    }
}
