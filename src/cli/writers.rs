//! `qbc writers` and `qbc freeze`: what writers decide about a chain itself. They sign elsewhere: the program says what, and never has
//! their keys.

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Usage,
    client::{SignedArgs, tell},
    connection::Connection,
    output, print_line, print_value,
};
use crate::core::{
    count::Index,
    hash::Hash,
    json,
    terms::{WritersChange, freeze_data},
    transaction::Kind,
};

/// What `qbc writers` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc --chain audit writers                who may write, and which transaction says so
  qbc --chain audit writers --set 2152f8d1… --set 9a31… --message > change
                                           what one of those who may write now is to sign
  openssl pkeyutl -sign -rawin -inkey writer.pem -in change | xxd -p -c 64
  qbc --chain audit writers --set 2152f8d1… --set 9a31… --signer 2152f8d1… --signature 77ab…

All who may write from then on are named. Who is not named writes no more, from the transaction on that records the change.")]
pub struct WritersArgs {
    /// The hex Ed25519 public key of one who may write from then on; once for each
    #[arg(long, value_name = "KEY", value_parser = parse_writer)]
    set: Vec<String>,
    /// The transaction that names those who write until then [default: the one that does now]
    #[arg(long, value_name = "INDEX", requires = "set")]
    replaces: Option<u64>,
    /// Print what is to be signed, and change nothing
    #[arg(long, requires = "set", conflicts_with = "signer")]
    message: bool,
    #[command(flatten)]
    signed: SignedArgs,
}

fn parse_writer(text: &str) -> Result<String, String> {
    let is_key = text.len() == 64 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if is_key { Ok(text.into()) } else { Err("a key has 64 lower-case hexadecimal digits".into()) }
}

/// What a node says of a chain's keys.
#[derive(Serialize, Deserialize)]
struct Keys {
    chain: String,
    id: Hash,
    writers: Option<Vec<String>>,
    since: u64,
    #[serde(flatten)]
    more: serde_json::Map<String, Value>,
}

/// Shows who may write, or changes that.
///
/// # Errors
/// The node refuses it.
pub async fn writers(node: &Connection, args: &WritersArgs) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Change<'a> {
        replaces: u64,
        writers: &'a [String],
        #[serde(flatten)]
        signed: &'a SignedArgs,
    }
    #[derive(Deserialize)]
    struct Answer {
        chain: String,
        index: u64,
    }
    let url = node.chain_url(&["keys"]);
    if args.set.is_empty() {
        if args.signed.signer.is_some() {
            return Err(Usage("a signature is for a change: name with --set who may write from then on".into()).into());
        }
        return show(node, &node.ask(node.get(url)).await?);
    }
    let replaces = match args.replaces {
        Some(replaces) => replaces,
        None => node.ask::<Keys>(node.get(url.clone())).await?.since,
    };
    if args.message {
        let change = WritersChange { replaces: Index::new(replaces), writers: json!(args.set) };
        return print_message(node, Kind::Key, &change.data()).await;
    }
    let change = Change { replaces, writers: &args.set, signed: &args.signed };
    let response = node.send(node.post(url).json(&change)).await?;
    tell(node, response, |Answer { chain, index }| {
        format!("the chain {chain} has other writers: transaction {index} names them")
    })
    .await
}

fn show(node: &Connection, keys: &Keys) -> anyhow::Result<()> {
    if node.json {
        return print_value(keys);
    }
    let Keys { chain, writers, since, .. } = keys;
    match writers {
        None => print_line(format_args!("everyone may write on the chain {chain}")),
        Some(writers) => {
            writers.iter().try_for_each(print_line)?;
            print_line(format_args!("transaction {since} of the chain {chain} names them"))
        }
    }
}

/// What `qbc freeze` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc --chain orders-2026 freeze --reason 'the year is over' --yes
  qbc --chain audit freeze --reason 'the year is over' --message > freeze
                                           of a chain with writers: what one of them is to sign

What is pooled is sealed, and then nothing is ever added, not by anyone: each verifier sees that nothing may. It cannot be taken back.
Data of a frozen chain cannot be erased any more: erase first what may have to be. Forks of it go on.")]
pub struct FreezeArgs {
    /// Why, for everyone to read
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// It is meant: it cannot be taken back
    #[arg(long)]
    yes: bool,
    /// Print what is to be signed, and change nothing
    #[arg(long, conflicts_with_all = ["signer", "yes"])]
    message: bool,
    #[command(flatten)]
    signed: SignedArgs,
}

/// Ends a chain.
///
/// # Errors
/// The node refuses it.
pub async fn freeze(node: &Connection, args: &FreezeArgs) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Freeze<'a> {
        reason: &'a str,
        #[serde(flatten)]
        signed: &'a SignedArgs,
    }
    #[derive(Deserialize)]
    struct Answer {
        chain: String,
        index: u64,
        quant: Value,
    }
    if args.message {
        return print_message(node, Kind::Freeze, &freeze_data(&args.reason)).await;
    }
    if !args.yes {
        let detail =
            "a frozen chain never takes a write again, and none of its data can be erased: say --yes if that is meant";
        return Err(Usage(detail.into()).into());
    }
    let request = node.post(node.chain_url(&["freeze"]));
    let response = node.send(request.json(&Freeze { reason: &args.reason, signed: &args.signed })).await?;
    tell(node, response, |Answer { chain, index, quant }| {
        format!("the chain {chain} is frozen: transaction {index} is its last, and quant {} seals it", quant["index"])
    })
    .await
}

/// The bytes that a writer signs, with no newline behind them.
async fn print_message(node: &Connection, kind: Kind, data: &[u8]) -> anyhow::Result<()> {
    let Keys { id, .. } = node.ask(node.get(node.chain_url(&["keys"]))).await?;
    let data = json::parse(data).context("the arguments are no I-JSON")?;
    output::print(&json::canonical(&json!({"chain": id, "data": data, "kind": kind.as_str()})))
}
