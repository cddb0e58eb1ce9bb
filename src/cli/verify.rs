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
    remote::{self, Part, Read},
};
use crate::{
    core::{
        count::Index,
        export::Voucher,
        hash::Hash,
        note::VerifierKey,
        proof::TlogProof,
        terms::Terms,
        verify::{Fault, Receipt, Verifier, check_signature},
    },
    limits,
};

/// What `qbc verify` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc verify http://localhost:5000         the default chain of a running node
  qbc verify http://localhost:5000/chains/orders
  qbc verify receipt.json --key \"$(cat their.key)\"   what qbc receipt has written: whose chain it is, too
  qbc verify proof.txt                     a C2SP tlog-proof
  qbc verify chain.ndjson                  what qbc export has written
  curl -s localhost:5000/chain | qbc verify -
  qbc verify qbc-data/5000                 all chains of a stopped node

All hashes, signatures, rules and proofs of work are recomputed: nothing that was written is believed.
It ends with 0 where all holds; otherwise with 1 and the first fault.")]
pub struct VerifyArgs {
    /// URL, FILE, DIR or `-` for standard input [default: the chain of --node]
    #[arg(value_name = "URL|FILE|DIR")]
    target: Option<String>,
    /// The key that must have signed the checkpoint of the chain, export or receipt, as `qbc key` prints it
    ///
    /// It is a node's or a witness's. More than one may be named: one of them is enough.
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
    /// Accept transactions without their data whose erasure is not recorded in what is verified
    ///
    /// The record may be on the chain that this one was forked or copied from, or behind the end of an export.
    #[arg(long)]
    allow_unproven_erasures: bool,
}

/// What is asked of all that is verified.
struct Demands {
    keys: Vec<VerifierKey>,
    allow_unproven_erasures: bool,
    json: bool,
}

impl Demands {
    fn check_erasures(&self, verifier: &Verifier) -> anyhow::Result<()> {
        if self.allow_unproven_erasures { Ok(()) } else { Ok(verifier.check_erasures()?) }
    }
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
    /// The transaction that froze it, if it is frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<Index>,
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
            quants: newest.index().next().get(),
            transactions: newest.size().get(),
            pooled: verifier.size().get() - newest.size().get(),
            erased: verifier.erased(),
            unrecorded: verifier.unrecorded(),
            hash: newest.hash(),
            frozen: verifier.terms().and_then(Terms::frozen),
            checkpoint: None,
        })
    }

    /// The same with what speaks for its end.
    pub fn with(self, voucher: Voucher) -> Verified {
        Verified { checkpoint: Some(voucher), ..self }
    }

    /// The same with another number of pooled transactions.
    pub fn pooled(self, pooled: u64) -> Verified {
        Verified { pooled, ..self }
    }

    /// Quants, sealed and pooled transactions.
    pub fn counts(&self) -> [u64; 3] {
        [self.quants, self.transactions, self.pooled]
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Verified { chain, id, quants, transactions, pooled, erased, unrecorded, hash, frozen, checkpoint } = self;
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
        if let Some(frozen) = frozen {
            write!(f, ", frozen for ever by transaction {frozen}")?;
        }
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
    let VerifyArgs { target, key: keys, allow_unproven_erasures } = args;
    let demands = Demands { keys, allow_unproven_erasures, json: node.json };
    let verify = move || match target.as_deref() {
        None => of_node(&node, &runtime, &demands),
        Some("-") => of_file(io::stdin().lock(), 0, "standard input", &demands),
        Some(url) if names_node(url) => of_node(&at_url(url, &node)?, &runtime, &demands),
        Some(path) => of_path(Path::new(path), &demands),
    };
    tokio::task::spawn_blocking(verify).await.context("the verification was interrupted")?
}

/// Whether it is a URL, or the HOST:PORT of one, and no file of that name is there.
fn names_node(text: &str) -> bool {
    text.contains("://") || text.contains(':') && parse_node(text).is_ok() && !Path::new(text).exists()
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

fn of_node(node: &Connection, runtime: &Handle, demands: &Demands) -> anyhow::Result<()> {
    let Read { verifier, voucher, .. } = remote::read(node, runtime, Part::Whole, &demands.keys)?;
    demands.check_erasures(&verifier)?;
    tell(demands.json, &Verified::of(&verifier)?.with(voucher))
}

fn of_path(path: &Path, demands: &Demands) -> anyhow::Result<()> {
    if path.is_dir() {
        if !demands.keys.is_empty() {
            return Err(Usage("a data folder has no checkpoint that --key could check".into()).into());
        }
        return folder::verify(path, demands.json, demands.allow_unproven_erasures);
    }
    let file = File::open(path).with_context(|| {
        format!("cannot read {} (a node's chain is named by its URL, like http://localhost:5000)", path.display())
    })?;
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    of_file(file, bytes, &path.display().to_string(), demands)
}

fn of_file(input: impl io::Read, bytes: u64, name: &str, demands: &Demands) -> anyhow::Result<()> {
    let Demands { keys, json, .. } = demands;
    let json = *json;
    let bar = progress(json || bytes == 0, Unit::Bytes, bytes);
    let checked = file::check(io::BufReader::with_capacity(limits::CHUNK_BYTES, bar.wrap_read(input)), keys)
        .with_context(|| name.to_string())?;
    bar.finish_and_clear();
    match checked {
        Content::Chain(verifier, voucher) => {
            demands.check_erasures(&verifier).with_context(|| name.to_string())?;
            tell(json, &Verified::of(&verifier)?.with(voucher))
        }
        Content::Receipt(receipt) => {
            tell(json, &VerifiedReceipt::of(&receipt, keys).with_context(|| name.to_string())?)
        }
        Content::Proof(proof) => tell(json, &VerifiedProof::of(&proof, keys).with_context(|| name.to_string())?),
    }
}

#[derive(Serialize)]
struct VerifiedReceipt {
    /// The chain's id.
    chain: Hash,
    transaction: u64,
    quant: u64,
    hash: Hash,
    /// Whether its data is not there.
    erased: bool,
    #[serde(serialize_with = "write_voucher")]
    checkpoint: Option<Voucher>,
    not_proven: Vec<&'static str>,
}

impl VerifiedReceipt {
    fn of(receipt: &Receipt, keys: &[VerifierKey]) -> Result<VerifiedReceipt, Fault> {
        let voucher = match &receipt.checkpoint {
            None if keys.is_empty() => Voucher::Nobody,
            Some(_) if keys.is_empty() => Voucher::Unchecked,
            _ => Voucher::Key(receipt.check_signature(keys)?),
        };
        let erased = receipt.record.transaction.data().is_none();
        let whose = unproven(&voucher).into_iter();
        Ok(VerifiedReceipt {
            chain: receipt.chain,
            transaction: receipt.record.index.get(),
            quant: receipt.quant.index().get(),
            hash: receipt.quant.hash(),
            erased,
            not_proven: whose.chain(erased.then_some("that its data was erased by a record of that")).collect(),
            checkpoint: Some(voucher),
        })
    }
}

impl fmt::Display for VerifiedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let VerifiedReceipt { chain, transaction, quant, hash, erased, checkpoint, not_proven } = self;
        write!(f, "the receipt holds: transaction {transaction} is in quant {quant}, hash {hash}, chain id {chain}")?;
        if *erased {
            f.write_str(", without its data")?;
        }
        write_proof_end(f, checkpoint.as_ref(), not_proven)
    }
}

/// What a proof of a transaction leaves open without a signature.
fn unproven(voucher: &Voucher) -> Option<&'static str> {
    match voucher {
        Voucher::Key(_) => None,
        Voucher::Unchecked => Some("whose chain it is: name the key of its node or of a witness with --key"),
        Voucher::Nobody => Some("whose chain it is: the receipt has no checkpoint that a key could have signed"),
    }
}

fn write_proof_end(f: &mut fmt::Formatter, checkpoint: Option<&Voucher>, not_proven: &[&str]) -> fmt::Result {
    if let Some(Voucher::Key(name)) = checkpoint {
        write!(f, "; signed by {name}")?;
    }
    not_proven.iter().try_for_each(|open| write!(f, "; NOT proven: {open}"))
}

#[derive(Serialize)]
struct VerifiedProof {
    /// The name of the log, which is `qbc/` and the id of a chain of QBC.
    log: String,
    index: u64,
    size: u64,
    root: Hash,
    /// The leaf, as text where it is that.
    leaf: String,
    #[serde(serialize_with = "write_voucher")]
    checkpoint: Option<Voucher>,
    not_proven: Vec<&'static str>,
}

impl VerifiedProof {
    fn of(proof: &TlogProof, keys: &[VerifierKey]) -> Result<VerifiedProof, Fault> {
        let checkpoint = proof.check()?;
        let voucher = match keys.is_empty() {
            true => Voucher::Unchecked,
            false => {
                let name = check_signature(&proof.checkpoint, keys, &[]);
                let name = name.map_err(|detail| Fault { place: "the proof's checkpoint".into(), detail })?;
                Voucher::Key(name)
            }
        };
        Ok(VerifiedProof {
            log: checkpoint.origin().into(),
            index: proof.index,
            size: checkpoint.size(),
            root: checkpoint.root(),
            leaf: String::from_utf8_lossy(proof.leaf.as_deref().unwrap_or_default()).into_owned(),
            not_proven: unproven(&voucher).into_iter().collect(),
            checkpoint: Some(voucher),
        })
    }
}

impl fmt::Display for VerifiedProof {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let VerifiedProof { log, index, size, root, leaf, checkpoint, not_proven } = self;
        write!(f, "the proof holds: leaf {index} of the {size} of {log}, root {root}, is {leaf:?}")?;
        write_proof_end(f, checkpoint.as_ref(), not_proven)
    }
}

fn tell(json: bool, verified: &(impl Serialize + fmt::Display)) -> anyhow::Result<()> {
    match json {
        true => print_value(verified),
        false => print_line(verified),
    }
}
