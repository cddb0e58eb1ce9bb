//! The commands that ask a node for one thing: inject, leap, chain, bang, fork, receipt, discover.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::stream;
use reqwest::{RequestBuilder, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::AsyncReadExt;

use super::{
    Usage,
    connection::{Connection, problem},
    print, print_line, print_notice,
    serve::parse_duration,
};
use crate::core::{hash::Hash, json, note::VerifierKey, rules::ChainName, verify};

/// Bytes of standard input that are sent at a time.
const STREAM_BYTES: usize = 64 << 10;

/// What `qbc inject` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc inject '{\"test\":\"test2\"}'            any JSON value
  qbc inject hello                         what is no JSON is sent as a string: \"hello\"
  qbc inject 42 --id order-42              sent again with the same id, it is not added twice
  qbc inject 42 --wait --json > r.json     wait until a quant seals it, and keep the receipt
  jq -c '{data: .}' rows.json | qbc inject -
  printf '{\"data\":1,\"id\":\"a\"}\\n{\"data\":2}\\n' | qbc inject -

Each line of the stream is for itself: a refused one is named, and the others are added.")]
pub struct InjectArgs {
    /// A JSON value, or a text; `-` for lines like {"data":…} from standard input
    #[arg(allow_negative_numbers = true)]
    data: String,
    /// Your own name for it, for exact retries
    #[arg(long)]
    id: Option<String>,
    /// Wait until a quant has sealed it, and print the receipt
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, such as 10s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "wait")]
    timeout: Option<Duration>,
}

#[derive(Serialize)]
struct Submission<'a> {
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Acceptance {
    chain: String,
    index: u64,
    hash: Hash,
    state: String,
}

/// Adds one transaction, or a stream of them.
pub async fn inject(node: &Connection, args: InjectArgs) -> anyhow::Result<()> {
    if args.data == "-" {
        if args.wait || args.id.is_some() {
            return Err(Usage(
                "--id and --wait are for one transaction: in a stream each line has its own \"id\"".into(),
            )
            .into());
        }
        return inject_lines(node).await;
    }
    let as_json = serde_json::from_str::<Box<RawValue>>(&args.data);
    let note = if as_json.is_err() { ", as a string" } else { "" };
    let data = as_json.or_else(|_| to_raw_value(&args.data)).context("the data is no text")?;
    let mut url = node.chain_url(&["inject"]);
    if args.wait {
        let timeout = args.timeout.unwrap_or(Duration::from_secs(30)).as_secs_f64();
        url.query_pairs_mut().append_pair("wait", "leap").append_pair("timeout", &timeout.to_string());
    }
    let request = node.post(url).json(&Submission { data: &data, id: args.id.as_deref() });
    let response = node.send_any(request).await?;
    let status = response.status();
    let late = status == StatusCode::GATEWAY_TIMEOUT && args.wait;
    if !status.is_success() && !late {
        return Err(problem(response).await);
    }
    let replayed = response.headers().contains_key("idempotent-replayed");
    let body = response.bytes().await.context("the connection broke")?;
    if node.json {
        print(&with_newline(&body))?;
    } else if status == StatusCode::CREATED {
        let receipt = checked_receipt(&body)?;
        print_line(format_args!(
            "transaction {} is sealed by quant {}{note}, hash {}",
            receipt.record.index,
            receipt.quant.index(),
            receipt.record.hash
        ))?;
    } else {
        let Acceptance { chain, index, hash, state } = answer(&body)?;
        let again = if replayed { ", sent before" } else { "" };
        print_line(format_args!("transaction {index} of {chain} is {state}{note}{again}, hash {hash}"))?;
    }
    if late {
        bail!("no quant has sealed the transaction in time; it is accepted all the same");
    }
    Ok(())
}

/// What became of a stream.
#[derive(Deserialize)]
struct Summary {
    accepted: u64,
    #[serde(default)]
    replayed: u64,
    refused: u64,
    first: Option<u64>,
    last: Option<u64>,
    errors: Vec<LineError>,
}

#[derive(Deserialize)]
struct LineError {
    line: u64,
    detail: String,
}

async fn inject_lines(node: &Connection) -> anyhow::Result<()> {
    let lines = stream::try_unfold(tokio::io::stdin(), |mut stdin| async {
        let mut buffer = vec![0; STREAM_BYTES];
        let read = stdin.read(&mut buffer).await?;
        buffer.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(buffer), stdin)))
    });
    let request = node.post(node.chain_url(&["inject"])).header(header::CONTENT_TYPE, "application/x-ndjson");
    let response = node.send_any(request.body(reqwest::Body::wrap_stream(lines))).await?;
    // Where all lines were refused the status says so, and the body tells why.
    let is_summary = response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "application/json");
    if !response.status().is_success() && !is_summary {
        return Err(problem(response).await);
    }
    let body = response.bytes().await.context("the connection broke")?;
    let Summary { accepted, replayed, refused, first, last, errors } = answer(&body)?;
    if node.json {
        print(&with_newline(&body))?;
    } else if let (Some(first), Some(last)) = (first, last) {
        let again = if replayed > 0 { format!(", {replayed} were before") } else { String::new() };
        print_line(format_args!("{accepted} transactions are accepted{again}, index {first} to {last}"))?;
    }
    for LineError { line, detail } in &errors {
        print_notice(format_args!("line {line}: {detail}"));
    }
    match refused {
        0 => Ok(()),
        _ => bail!("{refused} of {} lines were refused", accepted + replayed + refused),
    }
}

/// A quant in an answer; the rest of its fields is not needed to tell of it.
#[derive(Deserialize)]
struct QuantAnswer {
    index: u64,
    size: u64,
    hash: Hash,
}

/// Seals all that is pooled.
pub async fn leap(node: &Connection) -> anyhow::Result<()> {
    let response = node.send(node.post(node.chain_url(&["leap"]))).await?;
    tell(node, response, |QuantAnswer { index, size, hash }| {
        format!("quant {index} seals the chain's first {size} transactions, hash {hash}")
    })
    .await
}

/// What `qbc chain` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc chain                                the whole chain, a JSON array
  qbc chain --from 10 --limit 5            quants 10 to 14
  qbc chain --no-transactions | jq -r '.[].hash'
  qbc chain > chain.json && qbc verify chain.json")]
pub struct ChainArgs {
    /// The first quant
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// How many quants
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only the quants' headers
    #[arg(long)]
    no_transactions: bool,
}

/// Prints the chain as it comes.
pub async fn chain(node: &Connection, args: &ChainArgs) -> anyhow::Result<()> {
    let mut url = node.chain_url(&["chain"]);
    for (name, value) in [("from", args.from), ("limit", args.limit)] {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, &value.to_string());
        }
    }
    if args.no_transactions {
        url.query_pairs_mut().append_pair("transactions", "false");
    }
    let mut response = node.send(node.get(url)).await?;
    while let Some(chunk) = response.chunk().await.context("the connection broke, the chain is not complete")? {
        print(&chunk)?;
    }
    print(b"\n")
}

/// What `qbc bang` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc bang orders                          a chain with the usual rules
  qbc bang orders --difficulty 0 --leap-every 1s
  qbc bang orders --schema order.json --max-bytes 4096
  qbc bang audit --writer 2152f8d1…        only signed transactions of this key

Rules never change: a chain that needs others is forked.")]
pub struct BangArgs {
    /// The chain's name: lower-case letters, digits, and . _ -
    name: ChainName,
    #[command(flatten)]
    rules: RuleArgs,
}

/// What `qbc fork` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc fork trial                           go on from the newest quant of the default chain
  qbc --chain orders fork orders-2 --at 7 --difficulty 16
  qbc --chain orders fork strict --schema order.json

It costs the same whatever the chain holds. Rules that are not named stay as they were.")]
pub struct ForkArgs {
    /// The new chain's name: lower-case letters, digits, and . _ -
    name: ChainName,
    /// The quant to go on from [default: the newest]
    #[arg(long, value_name = "INDEX")]
    at: Option<u64>,
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Args)]
struct RuleArgs {
    /// Zero bits of each quant's hash, 0 to 48
    #[arg(long, value_name = "BITS")]
    difficulty: Option<u8>,
    /// A JSON Schema (2020-12) that injected data must meet
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// The largest data, in bytes of canonical JSON
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// A hex Ed25519 public key that may write; once for each
    #[arg(long = "writer", value_name = "KEY")]
    writers: Option<Vec<String>>,
    /// Leap this long after the first pooled transaction, such as 1s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    leap_every: Option<Duration>,
    /// Leap as soon as so many transactions are pooled
    #[arg(long, value_name = "N")]
    leap_transactions: Option<u64>,
}

/// The body of a bang or a fork. What is not said is left out, and the node decides.
#[derive(Serialize)]
struct NewChain {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difficulty: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leap: Option<Leap>,
}

#[derive(Serialize)]
struct Leap {
    #[serde(skip_serializing_if = "Option::is_none")]
    every_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transactions: Option<u64>,
}

impl RuleArgs {
    fn into_body(self, name: ChainName, at: Option<u64>) -> anyhow::Result<NewChain> {
        let every_ms = self.leap_every.map(|every| every.as_millis() as u64);
        let leap = Leap { every_ms, transactions: self.leap_transactions };
        Ok(NewChain {
            name: name.to_string(),
            at,
            difficulty: self.difficulty,
            schema: self.schema.map(read_schema).transpose()?,
            max_bytes: self.max_bytes,
            writers: self.writers,
            leap: (leap.every_ms.is_some() || leap.transactions.is_some()).then_some(leap),
        })
    }
}

fn read_schema(path: PathBuf) -> anyhow::Result<Box<RawValue>> {
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read the schema {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("the schema {} is no JSON", path.display()))
}

#[derive(Deserialize)]
struct ChainAnswer {
    name: String,
    id: Hash,
}

/// Makes a chain.
pub async fn bang(node: &Connection, args: BangArgs) -> anyhow::Result<()> {
    let body = args.rules.into_body(args.name, None)?;
    make(node, node.post(node.node_url(&["bang"])).json(&body)).await
}

/// Makes a chain that goes on from a quant of another.
pub async fn fork(node: &Connection, args: ForkArgs) -> anyhow::Result<()> {
    let body = args.rules.into_body(args.name, args.at)?;
    make(node, node.post(node.chain_url(&["fork"])).json(&body)).await
}

async fn make(node: &Connection, request: RequestBuilder) -> anyhow::Result<()> {
    let response = node.send(request).await?;
    tell(node, response, |ChainAnswer { name, id }| format!("the chain {name} is made, id {id}")).await
}

/// What `qbc receipt` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc receipt 5 --out order-5.json         keep the proof of transaction 5
  qbc verify order-5.json --key \"$(cat their.key)\"   check it offline, years later
  qbc receipt 5 | jq .quant.hash

It is checked before it is printed.")]
pub struct ReceiptArgs {
    /// The transaction's index
    index: u64,
    /// Write it to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The key of the node or of a witness that must have signed its checkpoint; one of those named is enough
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
}

/// Gets the receipt of a sealed transaction and checks it.
pub async fn receipt(node: &Connection, args: ReceiptArgs) -> anyhow::Result<()> {
    let url = node.chain_url(&["transactions", &args.index.to_string(), "receipt"]);
    let body = node.send(node.get(url)).await?.bytes().await.context("the connection broke")?;
    let receipt = checked_receipt(&body)?;
    if receipt.record.index != args.index {
        bail!("the node sent the receipt of transaction {}", receipt.record.index);
    }
    if !args.key.is_empty() {
        receipt.check_signature(&args.key)?;
    }
    let Some(path) = args.out else {
        return print(&with_newline(&body));
    };
    fs::write(&path, with_newline(&body)).with_context(|| format!("cannot write {}", path.display()))?;
    let (index, quant) = (args.index, receipt.quant.index());
    print_line(format_args!("transaction {index} is sealed by quant {quant}: its receipt is in {}", path.display()))
}

fn checked_receipt(body: &[u8]) -> anyhow::Result<verify::Receipt> {
    let value = json::parse(body).context("the node's answer is no I-JSON")?;
    verify::receipt(value).context("the node sent a receipt that does not hold")
}

/// What `qbc discover` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc discover localhost:5001              the node and that one list each other
  qbc discover                             the live nodes that the node knows
  qbc --node localhost:5001 discover       the same of another node")]
pub struct DiscoverArgs {
    /// The other node's HOST:PORT, as the node reaches it
    host: Option<String>,
}

#[derive(Deserialize)]
struct NodeAnswer {
    host: String,
    id: String,
    version: String,
    latency_ms: Option<f64>,
}

/// Lists the nodes that a node knows, after it has called another one if that is asked for.
pub async fn discover(node: &Connection, args: DiscoverArgs) -> anyhow::Result<()> {
    let url = node.node_url(&["discover"]);
    let request = match args.host {
        Some(host) => node.post(url).json(&serde_json::json!({"host": host})),
        None => node.get(url),
    };
    let response = node.send(request).await?;
    tell(node, response, |nodes: Vec<NodeAnswer>| {
        let line = |node: NodeAnswer| {
            let latency = node.latency_ms.map_or("-".into(), |latency| format!("{latency:.1} ms"));
            format!("{:<28} {:>10}  {:<8} {}", node.host, latency, node.version, node.id)
        };
        match nodes.is_empty() {
            true => "the node knows no other".into(),
            false => nodes.into_iter().map(line).collect::<Vec<_>>().join("\n"),
        }
    })
    .await
}

/// Prints an answer: as it came for scripts, in words for people.
async fn tell<T: serde::de::DeserializeOwned>(
    node: &Connection,
    response: reqwest::Response,
    in_words: impl FnOnce(T) -> String,
) -> anyhow::Result<()> {
    let body = response.bytes().await.context("the connection broke")?;
    match node.json {
        true => print(&with_newline(&body)),
        false => print_line(in_words(answer(&body)?)),
    }
}

fn answer<T: serde::de::DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).context("the answer is not that of a QBC node")
}

fn with_newline(body: &[u8]) -> Vec<u8> {
    [body.trim_ascii_end(), b"\n"].concat()
}
