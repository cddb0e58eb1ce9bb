//! `qbc bench`: loads a running node and prints rates and latencies, beside those of a bare axum server if asked to.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use chrono::Utc;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    connection::{ChainRef, Connection},
    load::{self, Measured, Target, median},
    output::{print, print_value},
};
use crate::core::rules::ChainName;

/// How long after its end a measurement may wait for the last answers.
const GRACE: Duration = Duration::from_secs(60);

/// How many connections load the bare server when the node is measured by streams.
const ECHO_CONNECTIONS: u16 = 64;

/// Lines that a stream sends at once.
const BLOCK_LINES: usize = 256;

const EXAMPLES: &str = "\
Examples:
  qbc bench                            single injects, 64 connections, 10 seconds
  qbc bench --baseline --rounds 5      beside a bare axum echo server, as medians
  qbc bench --connections 1            what one client waits for a durable inject
  qbc bench --stream --baseline        NDJSON streams; ratio to echoed requests
  qbc bench --read --baseline          the whole chain, beside it from memory
  qbc --chain trial bench --size 4096  larger data, into the chain `trial`
  qbc bench --json --baseline | jq .ratio

What it injects stays for ever: without --chain it makes a chain of its own for that, bench-DATE-TIME.
On the node's own machine it takes a share of the CPU that the node could use.
Any answer that is not 2xx fails the run.";

/// Load a running node and print rates and latencies
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Keep-alive connections [default: 64; 2 with --stream; 1 with --read]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: Option<u16>,

    /// Seconds that each measurement lasts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,

    /// Bytes of each transaction's data, as canonical JSON
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(11..=16_777_216))]
    pub size: u32,

    /// Inject by NDJSON streams, one a connection, instead of single requests
    #[arg(long)]
    pub stream: bool,

    /// Read the whole chain again and again instead of injecting
    #[arg(long, conflicts_with_all = ["stream", "size"])]
    pub read: bool,

    /// Measure a bare axum server in this process too, and print the ratio
    #[arg(long)]
    pub baseline: bool,

    /// Rounds of node, then baseline; the figures are their medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: u16,
}

/// Loads a chain of the node and prints the figures: the one that is named, or a new one.
///
/// # Errors
/// The node cannot be reached, a connection breaks, or any answer is not `2xx`.
pub async fn run(args: BenchArgs, connection: &Connection) -> anyhow::Result<()> {
    let node = Target::trusting(connection.trusted(), connection.url().as_str())?;
    let node = node.with_token(connection.token.as_ref());
    let chain = &chain_to_load(&args, connection).await?;
    let (mut figures, mut baseline) = (Vec::new(), Vec::new());
    let echo = match args.baseline {
        true => Some(start_baseline(&args, &node, chain).await?),
        false => None,
    };
    for _ in 0..args.rounds {
        figures.push(measure_node(&args, &node, chain).await?);
        if let Some(echo) = &echo {
            baseline.push(measure_baseline(&args, echo).await?);
        }
    }
    match connection.json {
        true => print_value(&as_json(&args, chain, &figures, &baseline))?,
        false => print(format!("{}chain {chain}\n", as_table(&args, &figures, &baseline)).as_bytes())?,
    }
    figures.iter().chain(&baseline).try_for_each(Measured::check)
}

/// What is injected stays for ever, so it goes into no chain that somebody uses, unless that is said.
async fn chain_to_load(args: &BenchArgs, node: &Connection) -> anyhow::Result<String> {
    match node.chain() {
        Some(chain) => Ok(ChainRef::as_str(chain).into()),
        None if args.read => Ok(ChainName::DEFAULT.into()),
        None => {
            let name = Utc::now().format("bench-%Y%m%d-%H%M%S-%3f").to_string();
            let bang = node.post(node.node_url(&["bang"])).json(&json!({"name": name, "difficulty": 0}));
            node.ask::<Value>(bang).await?;
            Ok(name)
        }
    }
}

/// Starts the bare server on a free loopback port; to be compared with reading, it serves the node's own chain.
async fn start_baseline(args: &BenchArgs, node: &Target, chain: &str) -> anyhow::Result<Target> {
    let mut bytes = Vec::new();
    if args.read {
        let answer = node.connect().await?.ask(&node.get(&format!("/chains/{chain}/chain")), Some(&mut bytes)).await?;
        ensure!(answer.is_success(), "GET /chains/{chain}/chain was answered with {}", answer.status);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(load::serve_bare(listener, load::bare_router(bytes.into())));
    Target::parse(&url)
}

async fn measure_node(args: &BenchArgs, node: &Target, chain: &str) -> anyhow::Result<Measured> {
    let body = load::inject_body(args.size as usize);
    let inject = format!("/chains/{chain}/inject");
    if args.stream {
        let (node, connections) = (node.clone(), args.connections.unwrap_or(2));
        let (lines, time) = (load::block(&body, BLOCK_LINES), Duration::from_secs(args.seconds));
        return on_a_thread(args, async move {
            load::stream(&node, &inject, connections.into(), load::repeat(lines, time)).await
        })
        .await;
    }
    match args.read {
        true => repeat(args, node, args.connections.unwrap_or(1), node.get(&format!("/chains/{chain}/chain"))).await,
        false => repeat(args, node, args.connections.unwrap_or(64), node.post(&inject, &body)).await,
    }
}

async fn measure_baseline(args: &BenchArgs, echo: &Target) -> anyhow::Result<Measured> {
    let body = load::inject_body(args.size as usize);
    match (args.read, args.stream) {
        (true, _) => repeat(args, echo, args.connections.unwrap_or(1), echo.get("/")).await,
        (_, true) => repeat(args, echo, ECHO_CONNECTIONS, echo.post("/", &body)).await,
        _ => repeat(args, echo, args.connections.unwrap_or(64), echo.post("/", &body)).await,
    }
}

async fn repeat(args: &BenchArgs, target: &Target, connections: u16, request: Bytes) -> anyhow::Result<Measured> {
    let (target, time) = (target.clone(), Duration::from_secs(args.seconds));
    on_a_thread(args, async move { load::requests(&target, connections.into(), load::repeat(request, time)).await })
        .await
}

/// Runs a load on one thread of its own: it costs less CPU there than spread over the threads of a runtime, and the
/// bare server of the same process keeps those.
async fn on_a_thread(
    args: &BenchArgs,
    load: impl Future<Output = anyhow::Result<Measured>> + Send + 'static,
) -> anyhow::Result<Measured> {
    let bound = Duration::from_secs(args.seconds) + GRACE;
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bounded = runtime.block_on(async { tokio::time::timeout(bound, load).await });
        bounded.with_context(|| format!("the last answers did not come within {} s of the end", GRACE.as_secs()))?
    });
    thread.await.context("the load's thread failed")?
}

/// Medians over the rounds; the maximum is that of all of them.
struct Figures {
    rate: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Figures {
    fn of(rounds: &[Measured]) -> Self {
        let percentile = |percent| median(rounds.iter().map(|round| round.percentile(percent).into()));
        Figures {
            rate: median(rounds.iter().map(Measured::rate)),
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            max: rounds.iter().map(|round| round.percentile(100.0)).max().unwrap_or(0).into(),
        }
    }
}

fn unit(args: &BenchArgs) -> &'static str {
    match (args.read, args.stream) {
        (true, _) => "reads/s",
        (_, true) => "transactions/s",
        _ => "injects/s",
    }
}

fn as_json(args: &BenchArgs, chain: &str, node: &[Measured], baseline: &[Measured]) -> serde_json::Value {
    let side = |rounds: &[Measured]| {
        let figures = Figures::of(rounds);
        json!({
            "rate": figures.rate,
            "p50_us": figures.p50, "p90_us": figures.p90, "p99_us": figures.p99, "max_us": figures.max,
            "rounds": rounds.iter().map(|round| json!({
                "seconds": round.elapsed.as_secs_f64(), "done": round.done, "bytes": round.bytes, "refused": round.refused,
            })).collect::<Vec<_>>(),
        })
    };
    let mut report = json!({"unit": unit(args), "chain": chain, "node": side(node)});
    if !baseline.is_empty() {
        report["baseline"] = side(baseline);
        report["ratio"] = (Figures::of(node).rate / Figures::of(baseline).rate).into();
    }
    report
}

fn as_table(args: &BenchArgs, node: &[Measured], baseline: &[Measured]) -> String {
    let unit = unit(args);
    let mut table = format!("{:<10}{unit:>15}{:>10}{:>10}{:>10}{:>10}", "", "p50 ms", "p90 ms", "p99 ms", "max ms");
    table += &format!("{:>12}{:>10}\n", "done", "refused");
    let row = |name, rounds: &[Measured]| {
        let Figures { rate, p50, p90, p99, max } = Figures::of(rounds);
        let [p50, p90, p99, max] = [p50, p90, p99, max].map(|micros| micros / 1000.0);
        let done: u64 = rounds.iter().map(|round| round.done).sum();
        let refused: u64 = rounds.iter().flat_map(|round| round.refused.values()).sum();
        format!("{name:<10}{rate:>15.1}{p50:>10.3}{p90:>10.3}{p99:>10.3}{max:>10.3}{done:>12}{refused:>10}\n")
    };
    table += &row("node", node);
    if !baseline.is_empty() {
        table += &row("bare axum", baseline);
        table += &format!("{:<10}{:>15.3}\n", "ratio", Figures::of(node).rate / Figures::of(baseline).rate);
    }
    if args.stream {
        table += "Latencies of the node are those from the end of a stream to its answer.\n";
    }
    table
}
