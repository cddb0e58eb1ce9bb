//! The commands that change a node, and the short ones beside them: inject, leap, leap-policy, chain, bang, fork, erase,
//! receipt, discover.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::stream;
use reqwest::{StatusCode, Url, header};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::AsyncReadExt;

use super::{
    Usage,
    connection::{Connection, problem, read_answer},
    mining,
    output::{self, is_stdout, print_json, table, write_file},
    print_line,
    read::{append, copy},
    serve::parse_duration,
    with_host,
};
use crate::core::{
    hash::Hash,
    json::{self, JsonError},
    note::VerifierKey,
    rules::{ChainName, Rules},
    verify,
};

/// Bytes of standard input that are sent at a time.
const STREAM_BYTES: usize = 64 << 10;

/// What `qbc inject` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc inject '{\"test\":\"test2\"}'            any JSON value
  qbc inject hello                         a word that cannot be meant as JSON is a text: \"hello\"
  qbc inject --text '[draft] 12 pieces'    a text, whatever it looks like
  qbc inject 42 --id order-42              sent again with the same id, it is not added twice
  qbc inject 42 --wait --json > r.json     wait until a quant seals it, and keep the receipt
  jq -c '{data: .}' rows.json | qbc inject -
  printf '{\"data\":1,\"id\":\"a\"}\\n{\"data\":2}\\n' | qbc inject -

Each line of the stream is for itself: a refused one is named, and the others are added.")]
pub struct InjectArgs {
    /// A JSON value, or a text that does not begin like one; `-` for lines like {"data":…} from standard input
    #[arg(allow_negative_numbers = true)]
    data: String,
    /// Take the data for a text, whatever it looks like
    #[arg(long)]
    text: bool,
    /// Your own name for it, for exact retries
    #[arg(long)]
    id: Option<String>,
    /// Wait until a quant has sealed it, and print the receipt
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, such as 10s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "wait")]
    timeout: Option<Duration>,
    #[command(flatten)]
    signed: SignedArgs,
}

/// A signature that was made elsewhere: the program never has a writer's key.
#[derive(Args, Serialize)]
pub(super) struct SignedArgs {
    /// On a chain with writers: the hex Ed25519 public key of the one that signed it
    #[arg(long, value_name = "KEY", requires = "signature")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signer: Option<String>,
    /// Its hex signature
    #[arg(long, value_name = "HEX", requires = "signer")]
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

#[derive(Serialize)]
struct Submission<'a> {
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(flatten)]
    signed: &'a SignedArgs,
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
    if args.data == "-" && !args.text {
        if args.wait || args.id.is_some() || args.signed.signer.is_some() {
            let detail = "--id, --signer and --wait are for one transaction: in a stream each line has its own \"id\"";
            return Err(Usage(detail.into()).into());
        }
        return inject_lines(node).await;
    }
    let (data, note) = read_data(&args.data, args.text).map_err(Usage)?;
    let mut url = node.chain_url(&["inject"]);
    if args.wait {
        let timeout = args.timeout.unwrap_or(Duration::from_secs(30)).as_secs_f64();
        url.query_pairs_mut().append_pair("wait", "leap").append_pair("timeout", &timeout.to_string());
    }
    let request = node.post(url).json(&Submission { data: &data, id: args.id.as_deref(), signed: &args.signed });
    let response = node.send_any(request).await?;
    let status = response.status();
    let late = status == StatusCode::GATEWAY_TIMEOUT && args.wait;
    if !status.is_success() && !late {
        return Err(problem(response).await);
    }
    let replayed = response.headers().contains_key("idempotent-replayed");
    let body = response.bytes().await.context("the connection broke")?;
    if node.json {
        print_json(&body)?;
    } else if status == StatusCode::CREATED {
        let receipt = checked_receipt(&body)?;
        print_line(format_args!(
            "transaction {} is sealed by quant {}{note}, hash {}",
            receipt.record.index,
            receipt.quant.index(),
            receipt.record.transaction.hash()
        ))?;
    } else {
        let Acceptance { chain, index, hash, state } = read_answer(&body)?;
        let again = if replayed { ", sent before" } else { "" };
        print_line(format_args!("transaction {index} of {chain} is {state}{note}{again}, hash {hash}"))?;
    }
    if late {
        bail!("no quant has sealed the transaction in time; it is accepted all the same");
    }
    Ok(())
}

/// The data, and what is to be said of it. A slip in JSON must not be recorded for ever as a text.
fn read_data(data: &str, is_text: bool) -> Result<(Box<RawValue>, &'static str), String> {
    let as_text = || to_raw_value(data).map(|data| (data, ", as a string")).map_err(|error| error.to_string());
    if is_text {
        return as_text();
    }
    match serde_json::from_str::<Box<RawValue>>(data) {
        Ok(value) => Ok((value, "")),
        Err(_) if data.trim().is_empty() => Err("there is no data: an empty text is '\"\"', or --text ''".into()),
        Err(_) if begins_like_json(data) => {
            // The gate has the better words for it than serde.
            let fault = json::parse(data.as_bytes()).err();
            let fault = fault.map_or(String::new(), |JsonError { line, column, detail, .. }| {
                format!(": {detail}, at line {line} column {column}")
            });
            Err(format!("the data begins like JSON and is none{fault}; if it is meant as a text, say so with --text"))
        }
        Err(_) => as_text(),
    }
}

/// Whether what is no JSON may be meant as such: by its first character, as the beginning or another spelling of a literal, or
/// with something behind one.
fn begins_like_json(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}').trim();
    let mut chars = text.chars();
    let (first, second) = (chars.next(), chars.next());
    let is_number = |char: char| char.is_ascii_digit() || char == '.';
    match first {
        Some('{' | '[' | '}' | ']' | '"' | '-' | '0'..='9') => return true,
        Some('+') => return second.is_some_and(is_number),
        Some('.') => return second.is_some_and(|char| char.is_ascii_digit()),
        _ => {}
    }
    let word = text.to_ascii_lowercase();
    let is_literal = |literal: &str| {
        let has_more = text.strip_prefix(literal).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
        literal.starts_with(&word) || has_more
    };
    let others = ["nan", "inf", "infinity", "+inf", "+infinity", "none", "undefined"];
    ["true", "false", "null"].into_iter().any(is_literal) || others.contains(&word.as_str())
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
    let Summary { accepted, replayed, refused, first, last, errors } = read_answer(&body)?;
    if node.json {
        print_json(&body)?;
    } else if let (Some(first), Some(last)) = (first, last) {
        let again = if replayed > 0 { format!(", {replayed} were before") } else { String::new() };
        print_line(format_args!("{accepted} transactions are accepted{again}, index {first} to {last}"))?;
    }
    // For scripts they stand in the summary.
    for LineError { line, detail } in errors.iter().filter(|_| !node.json) {
        output::tell(format_args!("line {line}: {detail}"));
    }
    match refused {
        0 if accepted + replayed == 0 => bail!("nothing came on standard input: nothing was added"),
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

/// What `qbc leap` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc leap                                 takes as long as the chain's difficulty demands
  qbc --chain orders leap --json | jq -r .hash

An empty pool gives an empty quant.")]
pub struct LeapArgs {
    /// Begin without a question or a warning, however long it may take
    #[arg(long)]
    yes: bool,
}

/// Seals all that is pooled.
pub async fn leap(node: &Connection, args: &LeapArgs) -> anyhow::Result<()> {
    let difficulty = mining::difficulty_of(node).await?;
    let request = node.send(node.post(node.chain_url(&["leap"])));
    let response = mining::watch(node, difficulty, args.yes, request).await?;
    tell(node, response, |QuantAnswer { index, size, hash }| {
        format!("quant {index} seals the chain's first {size} transactions, hash {hash}")
    })
    .await
}

/// What `qbc leap-policy` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc leap-policy                          show it
  qbc --chain orders leap-policy --every 1s --transactions 500
  qbc --chain orders leap-policy --off     leap by hand only")]
pub struct PolicyArgs {
    /// Leap this long after the first pooled transaction, such as 1s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    every: Option<Duration>,
    /// Leap as soon as so many transactions are pooled
    #[arg(long, value_name = "N")]
    transactions: Option<u64>,
    /// Leap by hand only
    #[arg(long, conflicts_with_all = ["every", "transactions"])]
    off: bool,
}

/// Shows when a chain leaps by itself, or replaces that.
pub async fn leap_policy(node: &Connection, args: &PolicyArgs) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Answer {
        name: String,
        leap: Leap,
    }
    let policy = Leap { every_ms: args.every.map(|every| every.as_millis() as u64), transactions: args.transactions };
    let is_shown = args.every.is_none() && args.transactions.is_none() && !args.off;
    let request = match is_shown {
        true => node.get(node.url_of_chain()),
        false => node.patch(node.url_of_chain()).json(&serde_json::json!({"leap": policy})),
    };
    let response = node.send(request).await?;
    tell(node, response, |Answer { name, leap }: Answer| {
        let every = leap.every_ms.map(|every| format!("{:?} after a transaction", Duration::from_millis(every)));
        let transactions = leap.transactions.map(|count| format!("as soon as {count} transactions are pooled"));
        match [every, transactions].into_iter().flatten().collect::<Vec<_>>() {
            rules if rules.is_empty() => format!("the chain {name} leaps by hand only"),
            rules => format!("the chain {name} leaps {}", rules.join(", and ")),
        }
    })
    .await
}

/// What `qbc erase` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc erase 5 --reason 'request of 2026-11-22'

Data and salt are gone for ever when this returns, in all forks that share them. Receipts and roots go on to hold. The reason
is recorded on the chain, for ever.")]
pub struct EraseArgs {
    /// The transaction's index
    index: u64,
    /// Why, for everyone to read
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    signed: SignedArgs,
}

/// Erases a transaction's data.
pub async fn erase(node: &Connection, args: &EraseArgs) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Erasure<'a> {
        reason: &'a str,
        #[serde(flatten)]
        signed: &'a SignedArgs,
    }
    #[derive(Deserialize)]
    struct Answer {
        chain: String,
        erased: u64,
        index: u64,
    }
    let url = node.chain_url(&["transactions", &args.index.to_string(), "erase"]);
    let request = node.post(url).json(&Erasure { reason: &args.reason, signed: &args.signed });
    let response = node.send(request).await?;
    let done = if response.status() == StatusCode::CREATED { "is erased" } else { "was erased before" };
    tell(node, response, |Answer { chain, erased, index }| {
        format!("transaction {erased} {done}: transaction {index} of {chain} records it")
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
    append(&mut url, &[("from", args.from), ("limit", args.limit)]);
    if args.no_transactions {
        url.query_pairs_mut().append_pair("transactions", "false");
    }
    copy(node, url).await
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
    /// On how many nodes of the cluster it is kept: 1, 3 or 5 [default: 3 where there are so many, else 1]
    #[arg(long, value_name = "N")]
    replicas: Option<u8>,
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
    /// Begin without a question or a warning, however long the mining may take
    #[arg(long)]
    yes: bool,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<u8>,
}

/// A policy of a chain.
#[derive(Serialize, Deserialize)]
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
            replicas: None,
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
    let (difficulty, yes) = (args.rules.difficulty.unwrap_or(Rules::DIFFICULTY_DEFAULT), args.rules.yes);
    let body = NewChain { replicas: args.replicas, ..args.rules.into_body(args.name, None)? };
    make(node, node.node_url(&["bang"]), &body, difficulty, yes).await
}

/// Makes a chain that goes on from a quant of another.
pub async fn fork(node: &Connection, args: ForkArgs) -> anyhow::Result<()> {
    let yes = args.rules.yes;
    let difficulty = match args.rules.difficulty {
        Some(difficulty) => difficulty,
        None => mining::difficulty_of(node).await?,
    };
    let body = args.rules.into_body(args.name, args.at)?;
    make(node, node.chain_url(&["fork"]), &body, difficulty, yes).await
}

async fn make(node: &Connection, url: Url, body: &NewChain, difficulty: u8, yes: bool) -> anyhow::Result<()> {
    let request = node.send(node.post(url).json(body));
    let response = mining::watch(node, difficulty, yes, request).await?;
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
    if receipt.record.index.get() != args.index {
        bail!("the node sent the receipt of transaction {}", receipt.record.index);
    }
    if !args.key.is_empty() {
        receipt.check_signature(&args.key)?;
    }
    let Some(path) = args.out.filter(|path| !is_stdout(path)) else {
        return print_json(&body);
    };
    let body = body.trim_ascii_end();
    write_file(&path, |out| Ok(out.write_all(body).and_then(|()| out.write_all(b"\n"))?))?;
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
    /// The other node's HOST:PORT, as the node reaches it, or a port of the node's own machine
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
        Some(host) => node.post(url).json(&serde_json::json!({"host": with_host(&host)})),
        None => node.get(url),
    };
    let response = node.send(request).await?;
    tell(node, response, |nodes: Vec<NodeAnswer>| {
        let row = |node: NodeAnswer| {
            let latency = node.latency_ms.map_or("-".into(), |latency| format!("{latency:.1} ms"));
            vec![node.host, latency, node.version, node.id]
        };
        match nodes.is_empty() {
            true => "the node knows no other".into(),
            false => table(&nodes.into_iter().map(row).collect::<Vec<_>>()),
        }
    })
    .await
}

/// Prints an answer: as it came for scripts, in words for people.
pub(super) async fn tell<T: serde::de::DeserializeOwned>(
    node: &Connection,
    response: reqwest::Response,
    in_words: impl FnOnce(T) -> String,
) -> anyhow::Result<()> {
    let body = response.bytes().await.context("the connection broke")?;
    match node.json {
        true => print_json(&body),
        false => print_line(in_words(read_answer(&body)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A typing error in JSON was recorded for ever as a text: whatever was no JSON was taken for one.
    #[test]
    fn what_begins_like_json_is_no_text() {
        for slip in [
            "{\"a\":1,}",
            "[1,2",
            "{",
            "]",
            " {a:1}",
            "\u{feff}{}",
            "\"open",
            "1e",
            "01",
            "2026-11-22",
            "-",
            "-x",
            "+1",
            "+.5",
            ".5",
            "t",
            "tru",
            "nul",
            "fals",
            "True",
            "NULL",
            "true,",
            "null]",
            "true story",
            "NaN",
            "Infinity",
            "-Infinity",
            "None",
            "undefined",
            "",
            "  ",
            "\n",
        ] {
            let told = read_data(slip, false).expect_err(slip);
            assert!(told.contains("--text"), "{slip}: {told}");
            assert_eq!(read_data(slip, true).unwrap().0.get(), serde_json::to_string(slip).unwrap());
        }
        for (slip, fault) in [
            ("{\"a\":1,}", "a comma with nothing after it: remove it, at line 1 column 8"),
            ("[1,2", "at line 1 column 5"),
        ] {
            let told = read_data(slip, false).unwrap_err();
            assert!(told.contains(fault), "{slip}: {told}");
        }
        for text in
            ["hello", "hello world", "nullable", "trueness", "trust", "nothing", "+one", "...", "'a'", "No", "é"]
        {
            let (data, note) = read_data(text, false).unwrap();
            assert_eq!((data.get(), note), (serde_json::to_string(text).unwrap().as_str(), ", as a string"));
        }
        for value in ["{\"a\":1}", " [1] ", "\"\"", "-5", "1e3", "null"] {
            assert_eq!(read_data(value, false).unwrap().1, "");
        }
    }
}
