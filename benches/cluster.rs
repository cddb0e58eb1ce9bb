//! What several nodes cost: each figure beside that of one node alone, in one run. `cargo bench --bench cluster`, or a part of it:
//! `cargo bench --bench cluster -- throughput losses newcomer idle`.
//!
//! Nodes and load share the processors, so only the ratios say something of the program.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long one measurement takes.
const SPAN: Duration = Duration::from_secs(3);
/// Interleaved rounds, of which the median counts.
const ROUNDS: usize = 3;
const DATA: usize = 200;

/// A node of a folder, ended when it is dropped.
struct Node {
    process: Child,
    port: u16,
}

impl Node {
    fn start(folder: &std::path::Path, port: u16, join: Option<u16>) -> Node {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
        command.env("QBC_SECRET", "5e".repeat(32));
        command
            .args(["serve", "--log", "error", "--port", &port.to_string(), "--data"])
            .arg(folder.join(port.to_string()));
        if let Some(join) = join {
            command.args(["--join", &format!("localhost:{join}")]);
        }
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).expect("it is text");
        assert!(line.starts_with("listening on "), "the node does not start: {line}");
        Node { process, port }
    }

    /// Bytes of memory that it takes up.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect()
}

/// A cluster of three, with what its load needs to know.
struct Three {
    nodes: Vec<Option<Node>>,
    folder: tempfile::TempDir,
}

impl Three {
    async fn start() -> Three {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let ports = free_ports(3);
        let mut nodes = Vec::new();
        for &port in &ports {
            nodes.push(Some(Node::start(folder.path(), port, (port != ports[0]).then_some(ports[0]))));
        }
        let three = Three { nodes, folder };
        three.settled().await;
        three
    }

    fn ports(&self) -> Vec<u16> {
        self.nodes.iter().flatten().map(|node| node.port).collect()
    }

    /// Waits until the groups of three are whole.
    async fn settled(&self) {
        let port = self.ports()[0];
        loop {
            let status = get(port, "/cluster").await;
            let groups = status["groups"].as_array().cloned().unwrap_or_default();
            let is_whole = |group: &&Value| {
                let replicas = group["replicas"].as_array().expect("an array");
                replicas.len() == 3 && replicas.iter().all(has_all)
            };
            if groups.iter().filter(is_whole).count() >= 4 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The port of the node that leads a chain.
    async fn leader(&self, chain: &str) -> u16 {
        leader(&self.ports(), chain).await
    }
}

/// Whether a replica in the answer of `GET /cluster` has nearly all of its group.
fn has_all(replica: &Value) -> bool {
    let is_member = replica["role"] == "leader" || replica["role"] == "follower";
    is_member && replica["lag"].as_u64().is_some_and(|lag| lag < 50)
}

/// The port of the node that leads a chain, as one of these says.
async fn leader(ports: &[u16], chain: &str) -> u16 {
    loop {
        for port in ports {
            let chain = get(*port, &format!("/chains/{chain}")).await;
            let replicas = chain["replicas"].as_array().cloned().unwrap_or_default();
            if let Some(leader) = replicas.iter().find(|replica| replica["role"] == "leader") {
                let host = leader["host"].as_str().expect("a text");
                return host.rsplit_once(':').expect("it has a port").1.parse().expect("a number");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The answer to one request; nothing where the node does not answer.
async fn ask(port: u16, method: &str, path: &str, body: &str) -> String {
    let answer = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let of_body = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all([head, of_body].concat().as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map(|_| answer)
    };
    String::from_utf8_lossy(&answer.await.unwrap_or_default()).into_owned()
}

/// What is read, as JSON.
async fn get(port: u16, path: &str) -> Value {
    let text = ask(port, "GET", path, "").await;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // A body in chunks has its JSON on one line.
    body.lines()
        .find_map(|line| serde_json::from_str(line).ok().filter(|value: &Value| value.is_object() || value.is_array()))
        .unwrap_or(Value::Null)
}

async fn bang(port: u16, name: &str) {
    let body = json!({"name": name, "difficulty": 0}).to_string();
    let mut connection = Connection::open(port).await.expect("it connects");
    let status = connection.post("/bang", "application/json", body.as_bytes()).await.expect("it answers");
    assert_eq!(status, 201, "bang {name}");
}

/// A connection that speaks as much HTTP as the load needs.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::new() })
    }

    /// Sends a request and gives the status of its answer.
    async fn post(&mut self, path: &str, media: &str, body: &[u8]) -> std::io::Result<u16> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), body].concat()).await?;
        self.buffer.clear();
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(broken());
            }
            let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
            let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
            let is_whole = match head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
                Some(length) => self.buffer.len() >= end + 4 + length.parse::<usize>().map_err(|_| broken())?,
                None => self.buffer.ends_with(b"0\r\n\r\n"),
            };
            if is_whole {
                return Ok(status);
            }
        }
    }
}

/// What a load came to.
struct Load {
    rate: f64,
    latencies: Vec<Duration>,
}

impl Load {
    fn percentile(&mut self, of: f64) -> Duration {
        self.latencies.sort_unstable();
        let at = ((self.latencies.len() as f64 * of) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// So many connections inject for a while, each to one of these places in turn.
async fn inject(places: &[(u16, String)], connections: usize, span: Duration) -> Load {
    inject_while(places, connections, move |elapsed| elapsed < span).await
}

/// The same as long as that holds for the time since the start.
async fn inject_while(
    places: &[(u16, String)],
    connections: usize,
    goes_on: impl Fn(Duration) -> bool + Clone + Send + 'static,
) -> Load {
    let accepted = Arc::new(AtomicU64::new(0));
    let body = json!({"data": "x".repeat(DATA)}).to_string();
    let start = Instant::now();
    let writers = (0..connections).map(|number| {
        let ((port, chain), body, accepted) = (places[number % places.len()].clone(), body.clone(), accepted.clone());
        let goes_on = goes_on.clone();
        tokio::spawn(async move {
            let path = format!("/chains/{chain}/inject");
            let mut connection = Connection::open(port).await.expect("it connects");
            let mut latencies = Vec::new();
            while goes_on(start.elapsed()) {
                let sent = Instant::now();
                let status = connection.post(&path, "application/json", body.as_bytes()).await.expect("it answers");
                assert_eq!(status, 202);
                latencies.push(sent.elapsed());
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            latencies
        })
    });
    let mut latencies = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        latencies.extend(writer.await.expect("a writer does not panic"));
    }
    Load { rate: accepted.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64(), latencies }
}

/// Lines in two streams.
async fn lines(port: u16, chain: &str, transactions: usize) -> f64 {
    let line = format!("{}\n", json!({"data": "x".repeat(DATA)}));
    let body = Arc::new(line.repeat(transactions / 2));
    let start = Instant::now();
    let streams = (0..2).map(|_| {
        let (body, path) = (body.clone(), format!("/chains/{chain}/inject"));
        tokio::spawn(async move {
            let mut connection = Connection::open(port).await.expect("it connects");
            let status = connection.post(&path, "application/x-ndjson", body.as_bytes()).await.expect("it answers");
            assert_eq!(status, 202);
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        stream.await.expect("a stream does not panic");
    }
    transactions as f64 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(measure: &str, figure: &str, beside: &str, ratio: Option<f64>, bar: &str, holds: bool) {
    let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    println!("| {measure} | {figure} | {beside} | {ratio} | {bar} | {} |", if holds { "yes" } else { "**no**" });
}

fn main() {
    // A test run asks every target what it has.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("it starts");
    println!("| measure | figure | one node alone | ratio | bar | met |\n| --- | --- | --- | --- | --- | --- |");
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    runtime.block_on(async {
        if is_asked("throughput") {
            throughput().await;
        }
        if is_asked("losses") {
            losses().await;
        }
        if is_asked("newcomer") {
            newcomer().await;
        }
        if is_asked("idle") {
            idle().await;
        }
    });
}

async fn throughput() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let alone = Node::start(folder.path(), free_ports(1)[0], None);
    bang(alone.port, "one").await;
    let three = Three::start().await;
    bang(three.ports()[0], "one").await;
    for number in 0..100 {
        bang(three.ports()[number % 3], &format!("spread{number}")).await;
        bang(alone.port, &format!("spread{number}")).await;
    }
    let leader = three.leader("one").await;
    let other = three.ports().into_iter().find(|port| *port != leader).expect("there are three");
    let one = |port| vec![(port, "one".to_owned())];
    let spread = |ports: &[u16]| -> Vec<_> {
        (0..100).map(|number| (ports[number % ports.len()], format!("spread{number}"))).collect()
    };
    // What is measured, where in the cluster and where alone, with how many connections, and the bar.
    type Places = Vec<(u16, String)>;
    let cases: [(&str, Places, Places, usize, f64); 3] = [
        ("one chain of 3 replicas, 64 connections to the leader", one(leader), one(alone.port), 64, 0.4),
        ("the same, 256 connections", one(leader), one(alone.port), 256, 0.6),
        ("100 chains spread, 256 connections over all nodes", spread(&three.ports()), spread(&[alone.port]), 256, 0.4),
    ];
    for (measure, clustered, single, connections, bar) in cases {
        let (mut rates, mut singles, mut p50) = (Vec::new(), Vec::new(), Duration::ZERO);
        for _ in 0..ROUNDS {
            singles.push(inject(&single, connections, SPAN).await.rate);
            let mut load = inject(&clustered, connections, SPAN).await;
            rates.push(load.rate);
            p50 = load.percentile(0.5);
        }
        let (rate, single) = (median(rates), median(singles));
        let figure = format!("{rate:.0}/s, p50 {:.2} ms", p50.as_secs_f64() * 1e3);
        row(
            &format!("`POST /inject`, {measure}"),
            &figure,
            &format!("{single:.0}/s"),
            Some(rate / single),
            &format!("at least {bar}"),
            rate / single >= bar,
        );
    }
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        direct.push(inject(&one(leader), 64, SPAN).await.rate);
        through.push(inject(&one(other), 64, SPAN).await.rate);
    }
    let (direct, through) = (median(direct), median(through));
    row(
        "`POST /inject` to a node that does not lead, 64 connections",
        &format!("{through:.0}/s"),
        &format!("to the leader {direct:.0}/s"),
        Some(through / direct),
        "at least 0.7",
        through / direct >= 0.7,
    );
    let (mut clustered, mut single) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        single.push(lines(alone.port, "one", 400_000).await);
        clustered.push(lines(leader, "one", 400_000).await);
    }
    let (clustered, single) = (median(clustered), median(single));
    row(
        "NDJSON inject, 3 replicas",
        &format!("{clustered:.0} transactions/s"),
        &format!("{single:.0}"),
        Some(clustered / single),
        "at least 0.35",
        clustered / single >= 0.35,
    );
}

/// How long no write is accepted when the leader dies.
async fn losses() {
    let mut three = Three::start().await;
    bang(three.ports()[0], "one").await;
    let mut gaps = Vec::new();
    for _ in 0..10 {
        let leader = three.leader("one").await;
        let others: Vec<u16> = three.ports().into_iter().filter(|port| *port != leader).collect();
        let last = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
        let is_done = Arc::new(AtomicBool::new(false));
        let writers = (0..8).map(|number| {
            let (port, last, is_done) = (others[number % 2], last.clone(), is_done.clone());
            tokio::spawn(async move {
                let body = json!({"data": "x".repeat(DATA)}).to_string();
                let mut connection = Connection::open(port).await.expect("it connects");
                while !is_done.load(Ordering::Relaxed) {
                    match connection.post("/chains/one/inject", "application/json", body.as_bytes()).await {
                        Ok(202) => {
                            let mut last = last.lock().expect("no holder panics");
                            *last = (Instant::now(), last.1.max(last.0.elapsed()));
                        }
                        Ok(_) => {}
                        Err(_) => connection = Connection::open(port).await.expect("it connects"),
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let number = three
            .nodes
            .iter()
            .position(|node| node.as_ref().is_some_and(|node| node.port == leader))
            .expect("it is there");
        *last.lock().expect("no holder panics") = (Instant::now(), Duration::ZERO);
        drop(three.nodes[number].take());
        tokio::time::sleep(Duration::from_secs(5)).await;
        is_done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.expect("a writer does not panic");
        }
        let gap = last.lock().expect("no holder panics").1;
        gaps.push(gap.as_secs_f64());
        three.nodes[number] = Some(Node::start(three.folder.path(), leader, None));
        three.settled().await;
    }
    let most = gaps.iter().copied().fold(0.0, f64::max);
    let gap = median(gaps);
    row(
        "kill -9 of a leader under load: no write is accepted for (median of ten)",
        &format!("{gap:.2} s, at most {most:.2} s"),
        "-",
        None,
        "at most 2 s",
        gap <= 2.0,
    );
}

/// How long new replicas take to get a chain of a million while others write to it, and what the writers see of that.
async fn newcomer() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let ports = free_ports(4);
    let first = Node::start(folder.path(), ports[0], None);
    lines(ports[0], "qbc", 1_000_000).await;
    let mut joined = [1, 2].map(|at| Some(Node::start(folder.path(), ports[at], Some(ports[0]))));
    let two = beside_writers(ports[0], async {
        let before = first.memory();
        let answer = ask(ports[0], "PATCH", "/chains/qbc", "{\"replicas\":3}").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        first.memory().saturating_sub(before) >> 20
    });
    let (more, took, p99) = two.await;
    takes_over("two new replicas take over", took, p99);
    row("the leader's memory meanwhile", &format!("{more} MiB more"), "-", None, "below 64 MiB", more < 64);

    let node_of = |nodes: &Value, port: u16| {
        let host = format!("localhost:{port}");
        let found = nodes["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["host"] == host.as_str()));
        found.map(|node| node["id"].as_str().expect("a text").to_owned())
    };
    let leads = leader(&ports[..3], "qbc").await;
    let (at, dead) = if leads == ports[2] { (0, ports[1]) } else { (1, ports[2]) };
    let lost = node_of(&get(ports[0], "/cluster").await, dead).expect("it is a node of the cluster");
    let replaced = beside_writers(ports[0], async {
        joined[at] = None;
        let fourth = Node::start(folder.path(), ports[3], Some(ports[0]));
        let path = format!("/cluster/nodes/{lost}?lost=true");
        while !ask(ports[0], "DELETE", &path, "").await.starts_with("HTTP/1.1 202") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        loop {
            let status = get(ports[0], "/cluster").await;
            let of_chain = get(ports[0], "/chains/qbc").await["replicas"].as_array().map_or(0, Vec::len);
            let groups = status["groups"].as_array().cloned().unwrap_or_default();
            let is_kept = |group: &Value| group["replicas"].as_array().is_some_and(|all| all.iter().all(has_all));
            if node_of(&status, dead).is_none() && of_chain == 3 && groups.iter().all(is_kept) {
                return fourth;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let (_fourth, took, p99) = replaced.await;
    takes_over("a new node in the place of a dead one takes over", took, p99);
}

/// What something comes to, how long it takes, and the 99th percentiles of 4 writers of the default chain before it and meanwhile.
async fn beside_writers<T>(port: u16, work: impl Future<Output = T>) -> (T, Duration, [Duration; 2]) {
    let place = [(port, "qbc".to_owned())];
    let mut quiet = inject(&place, 4, SPAN).await;
    let is_done = Arc::new(AtomicBool::new(false));
    let is_over = is_done.clone();
    let load = tokio::spawn(async move { inject_while(&place, 4, move |_| !is_over.load(Ordering::Relaxed)).await });
    let start = Instant::now();
    let done = work.await;
    let took = start.elapsed();
    is_done.store(true, Ordering::Relaxed);
    let mut meanwhile = load.await.expect("it ends");
    (done, took, [quiet.percentile(0.99), meanwhile.percentile(0.99)])
}

fn takes_over(measure: &str, took: Duration, p99: [Duration; 2]) {
    let took = took.as_secs_f64();
    let measure = format!("{measure} 1,000,000 transactions of 200 bytes");
    row(&measure, &format!("{took:.1} s"), "-", None, "below 30 s", took < 30.0);
    let [quiet, meanwhile] = p99.map(|p99| p99.as_secs_f64() * 1e3);
    row(
        "p99 of 4 writers meanwhile",
        &format!("{meanwhile:.2} ms"),
        &format!("quiet {quiet:.2} ms"),
        Some(meanwhile / quiet),
        "at most 3",
        meanwhile / quiet <= 3.0,
    );
}

async fn idle() {
    let three = Three::start().await;
    let ports = three.ports();
    let makers = (0..16).map(|maker| {
        let port = ports[maker % 3];
        tokio::spawn(async move {
            let mut connection = Connection::open(port).await.expect("it connects");
            for number in (maker..10_000).step_by(16) {
                let body = json!({"name": format!("idle{number}"), "difficulty": 0}).to_string();
                let status = connection.post("/bang", "application/json", body.as_bytes()).await.expect("it answers");
                assert_eq!(status, 201);
            }
        })
    });
    for maker in makers.collect::<Vec<_>>() {
        maker.await.expect("it does not panic");
    }
    // Threads with nothing to do end after ten seconds, and only then what they have freed is given back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let ticks = |node: &Node| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.process.id())).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0)
    };
    let before: Vec<u64> = three.nodes.iter().flatten().map(ticks).collect();
    let span = 10;
    tokio::time::sleep(Duration::from_secs(span)).await;
    let after: Vec<u64> = three.nodes.iter().flatten().map(ticks).collect();
    // A hundred ticks a second.
    let share = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - before) as f64 / (100 * span) as f64)
        .fold(0.0, f64::max);
    let memory = three.nodes.iter().flatten().map(Node::memory).max().unwrap_or(0) >> 20;
    row(
        "3 nodes, 10,000 chains, idle: the busiest",
        &format!("{:.1} % of a core", share * 100.0),
        "-",
        None,
        "below 10 %",
        share < 0.1,
    );
    row("the same: the largest", &format!("{memory} MiB"), "-", None, "below 300 MiB", memory < 300);
}
