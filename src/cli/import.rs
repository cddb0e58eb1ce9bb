//! `qbc import`: recreates a chain on another node from its export.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::stream;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::{Unit, connection::Connection, output::print_json, print_line, progress};
use crate::core::{
    hash::Hash,
    json,
    note::{Checkpoint, Note, VerifierKey},
};

/// Bytes of the file that are sent at a time.
const STREAM_BYTES: usize = 256 << 10;

/// Bytes of a last line that is a checkpoint, at most.
const CHECKPOINT_BYTES: u64 = 64 << 10;

/// What `qbc import` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc import chain.ndjson --node localhost:5001
  qbc import chain.ndjson --key \"$(cat their.key)\"   only with a checkpoint that this key has signed
  zstd -dc orders.zst | qbc import -

The chain gets the id and the name that it has. The node verifies all of it, and shows it when all of it holds.
Interrupted, run it again: it goes on where it ended.")]
pub struct ImportArgs {
    /// What `qbc export` has written; `-` for standard input, which is kept in a temporary file first
    #[arg(value_name = "FILE|-")]
    file: String,
    /// The key that must have signed the checkpoint, as `qbc key` prints it
    #[arg(long, value_name = "VKEY")]
    key: Option<VerifierKey>,
    /// Accept transactions without their data whose erasure is not recorded in the export
    ///
    /// So it is where the record is on the chain that this one was forked from, and with an export that was made before the
    /// record was sealed.
    #[arg(long)]
    allow_unproven_erasures: bool,
}

#[derive(Deserialize)]
struct Answer {
    message: String,
    chain: String,
    id: Hash,
    quants: u64,
    transactions: u64,
    signed_by: Option<String>,
}

/// Sends an export to a node.
///
/// # Errors
/// The first line that does not hold, or why it cannot be imported.
pub async fn run(args: ImportArgs, node: Connection) -> anyhow::Result<()> {
    let path = args.file.clone();
    let (file, id, bytes) = tokio::task::spawn_blocking(move || open(&path)).await.context("it was interrupted")??;
    let mut url = node.node_url(&["import"]);
    url.query_pairs_mut().append_pair("chain", &id.to_string());
    if let Some(key) = &args.key {
        url.query_pairs_mut().append_pair("key", &key.to_string());
    }
    if args.allow_unproven_erasures {
        url.query_pairs_mut().append_pair("allow_unproven_erasures", "true");
    }
    let bar = progress(node.json, Unit::Bytes, bytes);
    let sent = bar.clone();
    let pieces = stream::try_unfold(tokio::fs::File::from_std(file), move |mut file| {
        let sent = sent.clone();
        async move {
            let mut buffer = vec![0; STREAM_BYTES];
            let read = file.read(&mut buffer).await?;
            buffer.truncate(read);
            sent.inc(read as u64);
            Ok::<_, io::Error>((read > 0).then(|| (Bytes::from(buffer), file)))
        }
    });
    let request = node.post(url).header(header::CONTENT_TYPE, "application/x-ndjson");
    let response = node.send(request.body(reqwest::Body::wrap_stream(pieces))).await;
    bar.finish_and_clear();
    let response = response?;
    let was_here = response.status() == StatusCode::OK;
    let body = response.bytes().await.context("the connection broke")?;
    if node.json {
        return print_json(&body);
    }
    let Answer { message, chain, id, quants, transactions, signed_by } =
        serde_json::from_slice(&body).context("the answer is not that of a QBC node")?;
    let signed = match signed_by {
        Some(name) => format!("signed by {name}"),
        None => "agrees; its signature was not checked, since no key was named with --key".into(),
    };
    let done = if was_here { message } else { format!("chain {chain} is imported") };
    print_line(format_args!("{done}: {quants} quants, {transactions} transactions, id {id}; checkpoint: {signed}"))
}

/// The export, the id of its chain, and its size.
fn open(path: &str) -> anyhow::Result<(File, Hash, u64)> {
    let mut file = match path {
        "-" => {
            let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
            io::copy(&mut io::stdin().lock(), &mut file).context("cannot keep standard input in a temporary file")?;
            file
        }
        path => File::open(Path::new(path)).with_context(|| format!("cannot read {path}"))?,
    };
    let bytes = file.seek(SeekFrom::End(0)).with_context(|| format!("cannot read {path}"))?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(CHECKPOINT_BYTES)))?;
    let mut end = Vec::new();
    (&mut file).take(CHECKPOINT_BYTES).read_to_end(&mut end)?;
    file.seek(SeekFrom::Start(0))?;
    let Some(id) = chain_of(&end) else {
        bail!("{path} does not end with a checkpoint: it is no whole export, and what is missing cannot be known");
    };
    Ok((file, id, bytes))
}

/// The chain that the checkpoint in the last line names: a claim, which the node checks.
fn chain_of(end: &[u8]) -> Option<Hash> {
    let line = end.trim_ascii_end().rsplit(|&byte| byte == b'\n').next()?;
    let Value::Object(fields) = json::parse(line).ok()? else { return None };
    let note = Note::parse(fields.get("checkpoint")?.as_str()?.as_bytes()).ok()?;
    Checkpoint::parse(note.text()).ok()?.origin().strip_prefix("qbc/")?.parse().ok()
}
