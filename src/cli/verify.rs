//! `qbc verify`: recomputes a node's chain, a file or a data folder, and names the first fault with its place.

use std::{fmt, fs::File, io, path::Path};

use anyhow::Context;
use clap::Args;
use reqwest::Url;
use serde::{Serialize, Serializer};
use serde_json::json;
use tokio::runtime::Handle;

use super::{
    Unit, Usage,
    connection::{ChainRef, Connection},
    file::{self, Content},
    folder, parse_node, print_line, print_value, progress,
    remote::{self, Part},
};
use crate::{
    core::{export::Voucher, hash::Hash, note::VerifierKey, verify::Verifier},
    limits,
};

/// What `qbc verify` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc verify http://localhost:5000         the default chain of a running node
  qbc verify http://localhost:5000/chains/orders
  qbc verify receipt.json                  what qbc receipt has written
  qbc verify chain.ndjson                  what qbc export has written
  curl -s localhost:5000/chain | qbc verify -
  qbc verify qbc-data/5000                 all chains of a stopped node

All hashes, signatures, rules and proofs of work are recomputed: nothing that was written is believed.
It ends with 0 where all holds; otherwise with 1 and the first fault.")]
pub struct VerifyArgs {
    /// URL, FILE, DIR or `-` for standard input [default: the chain of --node]
    #[arg(value_name = "URL|FILE|DIR")]
    target: Option<String>,
    /// The key that must have signed the checkpoint of the chain or export, as `qbc key` prints it
    ///
    /// More than one may be named: one of them is enough.
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
}

/// A chain that holds.
#[derive(Serialize)]
pub struct Verified {
    chain: String,
    id: Hash,
    quants: u64,
    /// Sealed ones.
    transactions: u64,
    pooled: u64,
    /// Without their data.
    erased: u64,
    /// Those whose erasure is recorded elsewhere, or not at all.
    unrecorded: u64,
    hash: Hash,
    /// Of what was read as an export or from a node; null in JSON where that has none.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_voucher")]
    checkpoint: Option<Voucher>,
}

/// `{"signed_by": NAME or null}`, or null where there is no checkpoint.
fn write_voucher<S: Serializer>(voucher: &Option<Voucher>, serializer: S) -> Result<S::Ok, S::Error> {
    let signed_by = match voucher {
        None | Some(Voucher::Nobody) => None,
        Some(Voucher::Unchecked) => Some(None),
        Some(Voucher::Key(name)) => Some(Some(name.as_str())),
    };
    signed_by.map(|name| json!({ "signed_by": name })).serialize(serializer)
}

impl Verified {
    /// What a verifier has seen.
    ///
    /// # Errors
    /// It has seen no quant.
    pub fn of(verifier: &Verifier) -> anyhow::Result<Verified> {
        let newest = verifier.newest().context("there is no quant")?;
        let (id, rules) = verifier.id().zip(verifier.rules()).context("there is no bang")?;
        Ok(Verified {
            chain: rules.name().to_string(),
            id,
            quants: newest.index() + 1,
            transactions: newest.size(),
            pooled: verifier.size() - newest.size(),
            erased: verifier.erased(),
            unrecorded: verifier.unrecorded(),
            hash: newest.hash(),
            checkpoint: None,
        })
    }

    /// The same with what speaks for its end.
    pub fn with(self, voucher: Voucher) -> Verified {
        Verified { checkpoint: Some(voucher), ..self }
    }

    /// Quants, sealed and pooled transactions.
    pub fn counts(&self) -> [u64; 3] {
        [self.quants, self.transactions, self.pooled]
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Verified { chain, id, quants, transactions, pooled, erased, unrecorded, hash, checkpoint } = self;
        write!(f, "chain {chain} holds: {quants} quants, {transactions} transactions")?;
        if *pooled > 0 {
            write!(f, " and {pooled} pooled")?;
        }
        if *erased > 0 {
            write!(f, ", {erased} of them erased")?;
            if *unrecorded > 0 {
                write!(f, " ({unrecorded} without the record of it)")?;
            }
        }
        write!(f, ", id {id}, newest quant {hash}")?;
        match checkpoint {
            None => Ok(()),
            Some(voucher) => write!(f, "; checkpoint: {voucher}"),
        }
    }
}

/// Verifies what the command line names.
///
/// # Errors
/// The first fault, or why the target cannot be read.
pub async fn run(args: VerifyArgs, node: Connection) -> anyhow::Result<()> {
    let runtime = Handle::current();
    let target = args.target;
    let keys = args.key;
    let verify = move || match target.as_deref() {
        None => of_node(&node, &runtime, &keys),
        Some("-") => of_file(io::stdin().lock(), 0, "standard input", &keys, node.json),
        Some(url) if url.contains("://") => of_node(&at_url(url, &node)?, &runtime, &keys),
        Some(path) => of_path(Path::new(path), &keys, node.json),
    };
    tokio::task::spawn_blocking(verify).await.context("the verification was interrupted")?
}

/// The chain that a URL names: `http://HOST[:PORT]`, perhaps with `/chains/NAME`, and perhaps with `/chain` behind it.
fn at_url(text: &str, node: &Connection) -> anyhow::Result<Connection> {
    let mut url = parse_node(text).map_err(Usage)?;
    let chain = chain_of(&url).ok_or_else(|| {
        Usage(format!("{text} names no chain: http://localhost:5000 and http://localhost:5000/chains/NAME do"))
    })?;
    url.set_path("");
    Ok(node.at(url, chain))
}

fn chain_of(url: &Url) -> Option<Option<ChainRef>> {
    let segments: Vec<&str> = url.path().split('/').filter(|segment| !segment.is_empty()).collect();
    match segments[..] {
        [] | ["chain"] => Some(None),
        ["chains", name] | ["chains", name, "chain"] => name.parse().ok().map(Some),
        _ => None,
    }
}

fn of_node(node: &Connection, runtime: &Handle, keys: &[VerifierKey]) -> anyhow::Result<()> {
    let (verifier, voucher) = remote::read(node, runtime, Part::Whole, keys)?;
    tell(node.json, &Verified::of(&verifier)?.with(voucher))
}

fn of_path(path: &Path, keys: &[VerifierKey], json: bool) -> anyhow::Result<()> {
    if path.is_dir() {
        if !keys.is_empty() {
            return Err(Usage("a data folder has no checkpoint that --key could check".into()).into());
        }
        return folder::verify(path, json);
    }
    let file = File::open(path).with_context(|| {
        format!("cannot read {} (a node's chain is named by its URL, like http://localhost:5000)", path.display())
    })?;
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    of_file(file, bytes, &path.display().to_string(), keys, json)
}

fn of_file(input: impl io::Read, bytes: u64, name: &str, keys: &[VerifierKey], json: bool) -> anyhow::Result<()> {
    let bar = progress(json || bytes == 0, Unit::Bytes, bytes);
    let checked = file::check(io::BufReader::with_capacity(limits::CHUNK_BYTES, bar.wrap_read(input)), keys)
        .with_context(|| name.to_string())?;
    bar.finish_and_clear();
    match checked {
        Content::Chain(verifier, voucher) => tell(json, &Verified::of(&verifier)?.with(voucher)),
        Content::Receipt(_) if !keys.is_empty() => {
            Err(Usage(format!("{name} is a receipt, which has no checkpoint that --key could check")).into())
        }
        Content::Receipt(receipt) => tell(
            json,
            &VerifiedReceipt {
                chain: receipt.chain,
                transaction: receipt.record.index,
                quant: receipt.quant.index(),
                hash: receipt.quant.hash(),
            },
        ),
    }
}

#[derive(Serialize)]
struct VerifiedReceipt {
    /// The chain's id.
    chain: Hash,
    transaction: u64,
    quant: u64,
    hash: Hash,
}

impl fmt::Display for VerifiedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let VerifiedReceipt { chain, transaction, quant, hash } = self;
        write!(f, "the receipt holds: transaction {transaction} is in quant {quant}, hash {hash}, chain id {chain}")
    }
}

fn tell(json: bool, verified: &(impl Serialize + fmt::Display)) -> anyhow::Result<()> {
    match json {
        true => print_value(verified),
        false => print_line(verified),
    }
}
