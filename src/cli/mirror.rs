//! `qbc mirror`: chains of others that a node follows.

use anyhow::{Context, bail};
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;

use super::{
    Connection, Hidden, Usage,
    connection::read_answer,
    output::{print_json, print_line, print_value, table},
};
use crate::core::note::VerifierKey;

/// What `qbc mirror` takes.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qbc mirror https://ledger.example/chains/orders --key \"$(cat their.key)\"   follow that chain
  qbc mirror                               what is followed, and how far each lags
  qbc mirror --json | jq '.[].evidence'
  qbc mirror --stop orders                 follow it no more; the copy stays, and takes no writes

The key is what `qbc key` prints at the source; get it on a way of its own.")]
pub struct MirrorArgs {
    /// The URL of the chain at its source, or of a node, whose default chain is meant then
    #[arg(value_name = "URL", requires = "key")]
    from: Option<Url>,
    /// The key that signs the chain's checkpoints, as `qbc key` prints it at the source
    #[arg(long, value_name = "VKEY", requires = "from")]
    key: Option<VerifierKey>,
    /// A token of the source, where it asks for one: better by the variable, as others on this machine see command lines
    #[arg(long, env = "QBC_SOURCE_TOKEN", value_name = "TOKEN", hide_env_values = true, requires = "from")]
    source_token: Option<Hidden>,
    /// Accept transactions without their data though no record of their erasure is on the chain
    #[arg(long, requires = "from")]
    allow_unproven_erasures: bool,
    /// Follow this chain no more
    #[arg(long, value_name = "CHAIN", conflicts_with = "from")]
    stop: Option<String>,
}

#[derive(Deserialize)]
struct Row {
    chain: String,
    from: String,
    state: String,
    size: u64,
    source_size: Option<u64>,
    lag: Option<u64>,
    error: Option<String>,
}

/// Follows a chain, stops that, or lists what is followed.
///
/// # Errors
/// The node does not answer, or refuses.
pub async fn run(node: &Connection, args: MirrorArgs) -> anyhow::Result<()> {
    match (args.stop, args.from, args.key) {
        (Some(chain), ..) => stop(node, &chain).await,
        (None, Some(from), Some(key)) => {
            follow(node, &from, &key, args.source_token, args.allow_unproven_erasures).await
        }
        (None, None, None) => list(node).await,
        _ => bail!(Usage("a mirror has a URL and a --key".into())),
    }
}

async fn follow(
    node: &Connection,
    from: &Url,
    key: &VerifierKey,
    token: Option<Hidden>,
    allow_unproven_erasures: bool,
) -> anyhow::Result<()> {
    let mut body = json!({ "from": from.as_str(), "key": key.to_string() });
    if let Some(token) = token {
        body["token"] = token.0.into();
    }
    if allow_unproven_erasures {
        body["allow_unproven_erasures"] = true.into();
    }
    let response = node.send(node.post(node.node_url(&["mirrors"])).json(&body)).await?;
    let body = response.bytes().await.context("the connection broke")?;
    if node.json {
        return print_json(&body);
    }
    let Row { chain, from, .. } = read_answer(&body)?;
    print_line(format_args!("the chain {chain} follows {from}: `qbc mirror` tells how far it is"))
}

async fn list(node: &Connection) -> anyhow::Result<()> {
    let response = node.send(node.get(node.node_url(&["mirrors"]))).await?;
    let body = response.bytes().await.context("the connection broke")?;
    if node.json {
        return print_json(&body);
    }
    let mirrors: Vec<Row> = read_answer(&body)?;
    if mirrors.is_empty() {
        return print_line("the node follows no chain of others");
    }
    let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
    let mut rows = vec![["CHAIN", "STATE", "SIZE", "SOURCE", "LAG", "FROM"].map(String::from).to_vec()];
    let mut errors = String::new();
    for Row { chain, from, state, size, source_size, lag, error } in mirrors {
        if let Some(error) = error {
            errors += &format!("\n{chain}: {error}");
        }
        rows.push(vec![chain, state, size.to_string(), number(source_size), number(lag), from]);
    }
    // What a source says reaches a terminal: no control character may.
    let text: String = format!("{}{errors}", table(&rows));
    print_line(text.chars().filter(|char| !char.is_control() || *char == '\n').collect::<String>())
}

async fn stop(node: &Connection, chain: &str) -> anyhow::Result<()> {
    node.send(node.delete(node.node_url(&["mirrors", chain]))).await?;
    match node.json {
        true => print_value(&json!({ "chain": chain, "state": "stopped" })),
        false => print_line(format_args!("{chain} is not followed any more; its copy stays, and takes no writes")),
    }
}
