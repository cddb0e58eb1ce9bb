//! The good client: it injects with ids, reads what it has injected, and connects anew, and measures each of that.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};

use super::{CHAIN, GOOD};

/// The longest that anything of the good client may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection of HTTP/1.1, with or without TLS.
pub struct Connection(BufReader<Box<dyn Both>>);

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

impl Connection {
    pub fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream: Box<dyn Both> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let name = "localhost".try_into().expect("it is a name");
                let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, stream))
            }
        };
        Ok(Connection(BufReader::new(stream)))
    }

    /// One request: its status and the body of its answer.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {GOOD}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        self.0.get_mut().flush()?;
        let (mut status, mut length, mut is_chunked, mut line) = (0, 0, false, String::new());
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            match text.split_once(':') {
                _ if text.is_empty() => break,
                Some(("content-length", value)) => length = value.trim().parse().map_err(io::Error::other)?,
                Some(("transfer-encoding", _)) => is_chunked = true,
                _ if text.starts_with("http/1.1 ") => status = text[9..12].parse().map_err(io::Error::other)?,
                _ => {}
            }
        }
        let mut all = Vec::new();
        loop {
            if is_chunked {
                line.clear();
                self.0.read_line(&mut line)?;
                length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            }
            let start = all.len();
            all.resize(start + length, 0);
            self.0.read_exact(&mut all[start..])?;
            if is_chunked {
                line.clear();
                self.0.read_line(&mut line)?;
            }
            if !is_chunked || length == 0 {
                return Ok((status, all));
            }
        }
    }
}

/// What was measured of one phase, in seconds.
#[derive(Default)]
pub struct Measured {
    pub injects: Vec<f64>,
    pub reads: Vec<f64>,
    /// A new connection with one request.
    pub connects: Vec<f64>,
    /// What was answered otherwise than a good client expects, or not at all.
    pub failures: Vec<String>,
}

impl Measured {
    /// The 99th percentiles of injects, reads and new connections, in seconds.
    pub fn p99(&self) -> [f64; 3] {
        [&self.injects, &self.reads, &self.connects].map(|times| {
            let mut times = times.clone();
            times.sort_by(f64::total_cmp);
            times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::INFINITY)
        })
    }
}

/// The client, with all that was acknowledged to it: the index of each id.
pub struct Good {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    pub acked: Mutex<Vec<(String, u64)>>,
    sent: AtomicU64,
}

impl Good {
    pub fn new(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Good {
        Good { address, tls, acked: Mutex::default(), sent: 0.into() }
    }

    pub fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.address, self.tls.as_ref())
    }

    /// Does what it does for some time, or until it is told to stop.
    pub fn measure(&self, time: Duration, stop: &AtomicBool) -> Measured {
        let (end, mut measured) = (Instant::now() + time, Measured::default());
        let is_over = || Instant::now() >= end || stop.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let connects = scope.spawn(|| {
                let (mut times, mut failures) = (Vec::new(), Vec::new());
                while Instant::now() < end && !stop.load(Ordering::Relaxed) {
                    let since = Instant::now();
                    let asked = self.connect().and_then(|mut connection| connection.ask("GET", "/stats", b""));
                    match asked {
                        Ok((200, _)) => times.push(since.elapsed().as_secs_f64()),
                        other => failures.push(format!("a new connection: {other:?}")),
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                (times, failures)
            });
            let mut kept = None;
            while !is_over() {
                if let Err(error) = self.step(&mut kept, &mut measured) {
                    measured.failures.push(error);
                    kept = None;
                    thread::sleep(Duration::from_millis(10));
                }
                thread::sleep(Duration::from_millis(1));
            }
            let (times, failures) = connects.join().expect("it does not panic");
            measured.connects = times;
            measured.failures.extend(failures);
        });
        measured
    }

    fn step(&self, kept: &mut Option<Connection>, measured: &mut Measured) -> Result<(), String> {
        let at = |what: &str, error: io::Error| format!("{what}: {error}");
        if kept.is_none() {
            *kept = Some(self.connect().map_err(|error| at("a connection", error))?);
        }
        let connection = kept.as_mut().expect("it was made");
        let id = format!("good-{}", self.sent.fetch_add(1, Ordering::Relaxed));
        let body = json!({"data": {"of": id}, "id": id}).to_string();
        let since = Instant::now();
        let (status, answer) = connection
            .ask("POST", &format!("/chains/{CHAIN}/inject"), body.as_bytes())
            .map_err(|error| at("an inject", error))?;
        measured.injects.push(since.elapsed().as_secs_f64());
        if status != 202 {
            return Err(format!("an inject: {status} {}", String::from_utf8_lossy(&answer)));
        }
        let answer: Value = serde_json::from_slice(&answer).expect("it is JSON");
        let index = answer["index"].as_u64().expect("an acknowledgement has it");
        self.acked.lock().unwrap().push((id.clone(), index));
        let since = Instant::now();
        let path = format!("/chains/{CHAIN}/transactions/{index}");
        let (status, read) = connection.ask("GET", &path, b"").map_err(|error| at("a read", error))?;
        measured.reads.push(since.elapsed().as_secs_f64());
        let read: Value = serde_json::from_slice(&read).unwrap_or_default();
        match status == 200 && read["id"] == id.as_str() {
            true => Ok(()),
            false => Err(format!("a read of {index}: {status} {read}")),
        }
    }

    /// How many of the acknowledged ids are not there once at their index.
    pub fn lost(&self) -> usize {
        let mut connection = self.connect().expect("it takes connections");
        let mut all: Vec<Option<String>> = Vec::new();
        loop {
            let path = format!("/chains/{CHAIN}/transactions?from={}&limit=10000", all.len());
            let (status, page) = connection.ask("GET", &path, b"").expect("it answers");
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&page));
            let page: Vec<Value> = serde_json::from_slice(&page).expect("it is an array");
            if page.is_empty() {
                break;
            }
            all.extend(page.iter().map(|transaction| transaction["id"].as_str().map(str::to_owned)));
        }
        let mut count = HashMap::new();
        all.iter().flatten().for_each(|id| *count.entry(id.as_str()).or_insert(0) += 1);
        let acked = self.acked.lock().unwrap();
        let is_there = |id: &str, index: u64| {
            all.get(index as usize).is_some_and(|at| at.as_deref() == Some(id)) && count[id] == 1
        };
        acked.iter().filter(|(id, index)| !is_there(id, *index)).count()
    }
}
