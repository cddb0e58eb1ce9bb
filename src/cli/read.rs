//! The commands that look at a node: its chains, and quants, transactions and figures of one.

use anyhow::{Context, anyhow};
use clap::Args;
use reqwest::{Response, Url, header};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    Usage,
    connection::{Connection, read_answer},
    output::{JsonOutput, table},
    print_line, print_value,
};

/// What `qbc quant` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc quant latest                         the newest
  qbc quant 0                              the bang, with the chain's rules
  qbc quant latest | jq -r .hash           keep it where the node cannot reach")]
pub struct QuantArgs {
    /// Its index, its hash, or `latest`
    #[arg(value_name = "INDEX|HASH|latest")]
    quant: String,
}

/// What `qbc get` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc get 5                                by its index
  qbc get order-42                         by the id that it was injected with
  qbc get --id 42                          by an id that looks like an index
  qbc --chain orders get 5 | jq .data")]
pub struct GetArgs {
    /// Its index, or its id
    #[arg(value_name = "INDEX|ID")]
    transaction: String,
    /// Take digits for an id too
    #[arg(long)]
    id: bool,
}

/// What `qbc pool` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc pool                                 the first 100, and how many there are
  qbc pool --from 500 --limit 10000        the others by their index
  qbc pool | jq .count")]
pub struct PoolArgs {
    /// The first transaction's index
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// How many transactions at most [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Prints one quant with its transactions.
pub async fn quant(node: &Connection, args: &QuantArgs) -> anyhow::Result<()> {
    copy(node, node.chain_url(&["quants", segment(&args.quant)?])).await
}

/// Prints one transaction.
pub async fn get(node: &Connection, args: &GetArgs) -> anyhow::Result<()> {
    let name = segment(&args.transaction)?;
    let is_index = !args.id && name.bytes().all(|byte| byte.is_ascii_digit());
    let route: &[&str] = if is_index { &["transactions", name] } else { &["transactions", "by-id", name] };
    copy(node, node.chain_url(route)).await
}

/// Prints a page of the pool.
pub async fn pool(node: &Connection, args: &PoolArgs) -> anyhow::Result<()> {
    let mut url = node.chain_url(&["pool"]);
    append(&mut url, &[("from", args.from), ("limit", args.limit)]);
    copy(node, url).await
}

/// Adds what is there to a URL's query.
pub fn append(url: &mut Url, parameters: &[(&str, Option<u64>)]) {
    for (name, value) in parameters {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, &value.to_string());
        }
    }
}

/// What can stand in a path: URLs take dots for steps between folders.
fn segment(text: &str) -> anyhow::Result<&str> {
    match text {
        "" | "." | ".." => Err(Usage(format!("{text:?} cannot be asked for by a URL")).into()),
        text => Ok(text),
    }
}

/// Prints the JSON of a route as it comes.
pub async fn copy(node: &Connection, url: Url) -> anyhow::Result<()> {
    let mut response = node.send(node.get(url)).await?;
    let mut out = JsonOutput::value();
    while let Some(chunk) = response.chunk().await.context("the connection broke, the answer is not complete")? {
        out.write(&chunk)?;
    }
    out.finish()
}

/// Prints the figures of a chain.
pub async fn stats(node: &Connection) -> anyhow::Result<()> {
    let url = node.chain_url(&["stats"]);
    if node.json {
        return copy(node, url).await;
    }
    let stats: serde_json::Map<String, Value> = node.ask(node.get(url)).await?;
    // Their order in the interface, and behind them what else a node tells.
    const NAMES: [&str; 8] = ["chain", "id", "length", "size", "pooled", "hash", "root", "bytes"];
    let known = NAMES.into_iter().filter_map(|name| stats.get_key_value(name));
    let others = stats.iter().filter(|(name, value)| !NAMES.contains(&name.as_str()) && !value.is_null());
    print_line(table(&known.chain(others).map(|(name, value)| vec![name.clone(), in_words(value)]).collect::<Vec<_>>()))
}

/// A text as it is, other values as JSON. No control character reaches a terminal.
fn in_words(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().filter(|char| !char.is_control()).collect()
}

/// Lists the chains of a node.
pub async fn chains(node: &Connection) -> anyhow::Result<()> {
    let (mut chains, mut next) = (Vec::new(), Some(node.node_url(&["chains"])));
    while let Some(url) = next {
        let response = node.send(node.get(url)).await?;
        next = next_page(&response)?;
        let page: Vec<Box<RawValue>> = read_answer(&response.bytes().await.context("the connection broke")?)?;
        chains.extend(page);
    }
    if node.json {
        return print_value(&chains);
    }
    let title = ["chain", "quants", "transactions", "pooled", "difficulty", "id"].map(str::to_owned).to_vec();
    let rows = chains.iter().map(|chain| Ok(row(&read_answer(chain.get().as_bytes())?)));
    let rows = [Ok(title)].into_iter().chain(rows).collect::<anyhow::Result<Vec<_>>>()?;
    print_line(table(&rows))
}

/// A chain in the list; one that could not be loaded has its name and what is wrong with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Whole { name: String, id: String, rules: Value, stats: Value },
    Lost { name: String, damage: String },
}

fn row(chain: &Listed) -> Vec<String> {
    match chain {
        Listed::Whole { name, id, rules, stats } => {
            let damage = match &stats["damage"] {
                Value::Null => String::new(),
                damage => format!("damaged: {}", in_words(damage)),
            };
            let figures = [&stats["length"], &stats["size"], &stats["pooled"], &rules["difficulty"]].map(in_words);
            [vec![name.clone()], figures.to_vec(), vec![id.clone(), damage]].concat()
        }
        Listed::Lost { name, damage } => vec![name.clone(), format!("damaged: {damage}")],
    }
}

/// Where the header `Link` says that the list goes on (RFC 8288).
pub(super) fn next_page(response: &Response) -> anyhow::Result<Option<Url>> {
    let Some(link) = response.headers().get(header::LINK) else { return Ok(None) };
    let target = link.to_str().ok().and_then(|link| link.strip_prefix('<')?.split_once(">; rel=\"next\""));
    let (target, _) = target.ok_or_else(|| anyhow!("the answer is not that of a QBC node"))?;
    Ok(Some(response.url().join(target).context("the answer is not that of a QBC node")?))
}
