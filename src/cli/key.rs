//! `qbc key`: the key that checks checkpoints, of a node or of its cluster, and a key of one's own for a new node.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use clap::Args;
use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::Deserialize;
use serde_json::json;

use super::{Usage, connection::Connection, print_line, print_value, serve::read_cluster_secret};
use crate::{
    clock::Clock,
    cluster::link::{SECRET_FILE, Secret},
    core::note::{self, Algorithm, Checkpoint, KeyName, Note, VerifierKey},
    limits,
    store::{
        Store,
        key::{self, KeyFile, Signers},
        write_secret,
    },
};

/// What `qbc key` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc key                                  of the node at http://localhost:5000
  qbc key --data qbc-data/5000             of a data folder, whether its node runs or not
  qbc --chain orders key                   the same key under the origin of one chain's checkpoints
  qbc key --own                            that node's own, where it is one of a cluster
  qbc key --data qbc-data/5000 --cluster   the cluster's, from the data folder of one of its nodes
  qbc key --witness                        the key with which the node cosigns the chains of others
  qbc key --import secret.key --data new   let a new node sign with this key
  openssl rand -hex 32 | qbc key --import - --data new
  qbc key --rotate --data qbc-data/5000    of a stopped node: a new key signs, and the old one says so
  qbc key --retire --data qbc-data/5000    the old one, which went on signing beside it, signs no more
  qbc key --rotate --stolen --data qbc-data/5000
                                           the old one signs no more at once
  qbc key --rotate --cluster --data DIR    a new secret, and so a new key, for a cluster that is stopped;
                                           on its other nodes: the same with --secret, as it stands in
                                           cluster.secret of the first

The key has the form of C2SP signed-note: NAME+ID+BASE64. Under the name of a node it checks the
checkpoints of all chains that this node serves; under the name of a cluster, those that any of its
nodes serves, also when others are gone: so of a node in a cluster, that is the one to keep, and the
one that is printed. A data folder alone does not tell whether its node is in one. A running node proves that it has the key, but not that it is
the node that you mean: compare it with what its operator reads from the data folder.")]
pub struct KeyArgs {
    /// Read the key from a node's data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Put a secret key into a data folder that no node has used: 64 hex digits, or Go's PRIVATE+KEY+...; - reads it from
    /// standard input
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with = "witness")]
    import: Option<PathBuf>,
    /// The node's own key, also where it is one of a cluster
    #[arg(long, conflicts_with_all = ["data", "witness"])]
    own: bool,
    /// The key of the node's cluster: of a data folder, too
    #[arg(long, conflicts_with_all = ["own", "witness", "import"])]
    cluster: bool,
    /// Let a new key sign the checkpoints of a stopped node, as the old one says: who knows that follows
    #[arg(long, requires = "data", conflicts_with_all = ["own", "witness", "import"])]
    rotate: bool,
    /// With --rotate: the old key, which others may have, does not go on signing beside the new one
    #[arg(long, requires = "rotate", conflicts_with = "cluster")]
    stolen: bool,
    /// Let the key before the current one sign no more
    #[arg(long, requires = "data", conflicts_with_all = ["rotate", "own", "witness", "import", "cluster"])]
    retire: bool,
    /// With --rotate --cluster: the new secret, as another node of the cluster has it already [default: one is made]
    #[arg(long, value_name = "DIGITS", requires_all = ["rotate", "cluster"])]
    secret: Option<Secret>,
    /// The key of the node's cosignatures, where it is a witness of others (`serve --cosign`)
    #[arg(long)]
    witness: bool,
}

/// Prints the verifier key, or imports a secret one.
///
/// # Errors
/// There is no key to print, or the folder or the file is not fit for an import.
pub async fn run(args: KeyArgs, node: Connection) -> anyhow::Result<()> {
    let key = match args.data {
        None if args.witness => served_witness(&node).await?,
        None => served(&node, args.own, args.cluster).await?,
        Some(_) if node.names_chain() => {
            let detail = "--chain asks for the key under the name of one chain, which only the running node knows";
            return Err(Usage(format!("{detail}: say --node URL instead of --data")).into());
        }
        Some(data) if args.rotate && args.cluster => rotate_cluster(&data, args.secret)?,
        Some(data) if args.rotate => {
            let new = SigningKey::from_bytes(&rand::random());
            let now = Clock::default().plausible().map_err(|error| anyhow!(error))?;
            key::rotate(&data, &new, now, !args.stolen)?;
            of_node(&new.verifying_key())
        }
        Some(data) if args.retire => {
            ensure!(key::retire(&data)?, "no key but the current one signs: there is nothing to retire");
            signing_key(&data)?
        }
        Some(data) if args.cluster => {
            let secret =
                read_cluster_secret(&data)?.with_context(|| format!("{} holds no {SECRET_FILE}", data.display()))?;
            let key = secret.signing_key().verifying_key();
            VerifierKey::new(KeyName::of_cluster(&key), Algorithm::Ed25519, key)
        }
        Some(data) => match args.import {
            None if args.witness => {
                let key = read(&data, KeyFile::Witness)?.verifying_key();
                VerifierKey::new(KeyName::of_witness(&key), Algorithm::Cosignature, key)
            }
            None => signing_key(&data)?,
            Some(file) => of_node(&import(&file, &data)?.verifying_key()),
        },
    };
    match node.json {
        true => print_value(&json!({"id": hex::encode(key.key().as_bytes()), "key": key.to_string()})),
        false => print_line(key),
    }
}

fn of_node(key: &VerifyingKey) -> VerifierKey {
    VerifierKey::new(KeyName::of_node(key), Algorithm::Ed25519, *key)
}

fn read(data: &Path, file: KeyFile) -> anyhow::Result<SigningKey> {
    key::read(data, file)?.with_context(|| format!("{} holds no {file}", data.display()))
}

/// The key that signs the checkpoints of the node of a data folder.
fn signing_key(data: &Path) -> anyhow::Result<VerifierKey> {
    Ok(of_node(&Signers::read(data, &read(data, KeyFile::Node)?)?.current.verifying_key()))
}

/// Gives a node of a stopped cluster a new secret, and with it a new key, as the old one says.
fn rotate_cluster(data: &Path, said: Option<Secret>) -> anyhow::Result<VerifierKey> {
    let old = read_cluster_secret(data)?.with_context(|| format!("{} holds no {SECRET_FILE}", data.display()))?;
    let new = said.unwrap_or_else(|| Secret(rand::random()));
    ensure!(old != new, "the folder has this secret already");
    let now = Clock::default().plausible().map_err(|error| anyhow!(error))?;
    let keys = (&old.signing_key(), &new.signing_key());
    key::rotate_cluster(data, keys, now, || write_secret(data, SECRET_FILE, &new.to_string()))?;
    let key = new.signing_key().verifying_key();
    Ok(VerifierKey::new(KeyName::of_cluster(&key), Algorithm::Ed25519, key))
}

/// The key of a running node, or of its cluster if it is in one. It stands in the name that is signed with, and must have made the
/// signatures.
async fn served(node: &Connection, own: bool, cluster: bool) -> anyhow::Result<VerifierKey> {
    let note = Note::parse(&checkpoint(node).await?)?;
    let origin = Checkpoint::parse(note.text())?.origin().parse::<KeyName>()?;
    let signer = |start: &str| {
        note.signatures().iter().map(note::Signature::name).find_map(|name| {
            let key: [u8; 32] = hex::decode(name.as_str().strip_prefix(start)?).ok()?.try_into().ok()?;
            Some((name.clone(), VerifyingKey::from_bytes(&key).ok()?))
        })
    };
    let of_cluster = if own { None } else { signer("qbc/cluster/") };
    ensure!(of_cluster.is_some() || !cluster, "the node is in no cluster: it signs with its own key alone");
    let (name, key) =
        of_cluster.or_else(|| signer("qbc/node/")).ok_or_else(|| anyhow!("the checkpoint is not signed by a node"))?;
    let known = [name.clone(), origin.clone()].map(|name| VerifierKey::new(name, Algorithm::Ed25519, key));
    ensure!(note.verify(&known)?.len() == 2, "the checkpoint is not signed under its origin and under the name {name}");
    Ok(VerifierKey::new(if node.names_chain() { origin } else { name }, Algorithm::Ed25519, key))
}

/// A checkpoint that the node serves: of the chain that is named, or of any where the default one cannot be had, as in a cluster that
/// has lost its only replica.
async fn checkpoint(node: &Connection) -> anyhow::Result<Bytes> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let first = node.send(node.get(node.chain_url(&["checkpoint"]))).await;
    if first.is_err() && !node.names_chain() {
        let named: Vec<Named> = node.ask(node.get(node.node_url(&["chains"]))).await?;
        for Named { name } in named {
            if let Ok(other) = node.send(node.get(node.node_url(&["chains", &name, "checkpoint"]))).await {
                return Ok(other.bytes().await?);
            }
        }
    }
    Ok(first?.bytes().await?)
}

/// The key with which a running node cosigns. Only its cosignatures prove that it has it.
async fn served_witness(node: &Connection) -> anyhow::Result<VerifierKey> {
    #[derive(Deserialize)]
    struct Answer {
        key: Option<String>,
    }
    ensure!(!node.names_chain(), "a witness has one key for all chains: leave out --chain");
    let answer: Answer = node.send(node.get(node.node_url(&["witness"]))).await?.json().await?;
    let key = answer.key.context("the node is no witness: start it with --cosign KEY")?;
    Ok(key.parse()?)
}

fn import(file: &Path, data: &Path) -> anyhow::Result<SigningKey> {
    let key = read_secret(file)?;
    Store::import_key(data, &key)?;
    Ok(key)
}

/// A secret key in either of its forms.
fn read_secret(path: &Path) -> anyhow::Result<SigningKey> {
    let mut text = String::new();
    let limit = limits::KEY_BYTES;
    let read = if path == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text)
    } else {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (metadata, path) = (file.metadata()?, path.display());
        ensure!(
            !(metadata.is_file() && key::is_exposed(&metadata)),
            "others can read {path}, so that others may sign with this key: run chmod 600 {path} if nobody has"
        );
        file.take(limit).read_to_string(&mut text)
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    let parsed = match text.trim_end().strip_prefix("PRIVATE+KEY+") {
        Some(_) => note::parse_secret(text.trim_end()).map(|(_, key)| key).map_err(|error| error.to_string()),
        None => key::parse(&text),
    };
    parsed.map_err(|_| {
        // What stands there is not repeated: it may be a secret.
        anyhow!("{} is no secret key: 64 lower-case hexadecimal digits, or PRIVATE+KEY+NAME+ID+BASE64", path.display())
    })
}
