//! `qbc export`: a chain as lines of JSON, verified on the way.
//!
//! The form is that of [`crate::core::export`].

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use tokio::runtime::Handle;

use super::{
    connection::Connection,
    output::{self, is_stdout, stdout, write_file},
    print_line, print_value,
    remote::{self, Part, Read},
    verify::Verified,
};
use crate::core::note::VerifierKey;

/// What `qbc export` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc export --out chain.ndjson            the file appears when all of it holds
  qbc export --leap --out chain.ndjson     seal what is pooled first, so that it is in it
  qbc --chain orders export | zstd > orders.zst
  qbc export | jq -c 'select(.data).data'  only what was injected
  qbc verify chain.ndjson                  recompute it offline

Each line is a transaction or, behind those that it seals, a quant (it has a \"root\"). The last line is the signed
checkpoint of the newest quant: keep the node's public key elsewhere, and `qbc verify FILE --key` finds what was cut off.
Pooled transactions are left out, since no quant speaks for them yet, and how many is told on standard error.")]
pub struct ExportArgs {
    /// Write to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Leap first where anything is pooled
    #[arg(long)]
    leap: bool,
    /// The key that must have signed the checkpoint, as `qbc key` prints it
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
}

/// Exports the connection's chain.
///
/// # Errors
/// The first fault of the chain: what stands before it was written. Or why the chain cannot be read or written.
pub async fn run(args: ExportArgs, node: Connection) -> anyhow::Result<()> {
    if args.leap {
        leap(&node).await?;
    }
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || match args.out.as_deref().filter(|path| !is_stdout(path)) {
        Some(path) => to_file(&node, &runtime, path, &args.key),
        None => {
            let mut out = BufWriter::new(stdout()?);
            let read = remote::read(&node, &runtime, Part::Export(&mut out), &args.key)
                .and_then(|read| Ok(out.flush().map(|()| read)?))
                .map_err(output::of_stdout)?;
            // Standard output has the export itself.
            if node.json {
                output::tell(serde_json::to_string(&exported(&read)?)?);
            } else {
                warn(&read);
            }
            Ok(())
        }
    })
    .await
    .context("the export was interrupted")?
}

/// Seals what is pooled, if anything is.
async fn leap(node: &Connection) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Stats {
        pooled: u64,
    }
    let response = node.send(node.get(node.chain_url(&["stats"]))).await?;
    let Stats { pooled } = response.json().await.context("the answer is not that of a QBC node")?;
    if pooled > 0 {
        node.send(node.post(node.chain_url(&["leap"]))).await?;
    }
    Ok(())
}

/// What is told of an export. `pooled` is what it leaves out.
fn exported(read: &Read) -> anyhow::Result<Verified> {
    Ok(Verified::of(&read.verifier)?.with(read.voucher.clone()).pooled(read.left_out))
}

/// Says what an export lacks.
fn warn(read: &Read) {
    if read.left_out > 0 {
        output::tell(format_args!(
            "{} pooled transactions are not in the export: no quant seals them yet (qbc export --leap does so first)",
            read.left_out
        ));
    }
    if read.verifier.unrecorded() > 0 {
        output::tell(format_args!(
            "{} erased transactions are in the export without the record of their erasure: it is still pooled (qbc export \
             --leap), or on a chain that this one was forked or copied from; verify and import need \
             --allow-unproven-erasures",
            read.verifier.unrecorded()
        ));
    }
}

/// A half or faulty export never has the name that was asked for.
fn to_file(node: &Connection, runtime: &Handle, path: &Path, keys: &[VerifierKey]) -> anyhow::Result<()> {
    let read = write_file(path, |out| remote::read(node, runtime, Part::Export(out), keys))?;
    let verified = exported(&read)?;
    if node.json {
        return print_value(&verified);
    }
    // What is pooled is no part of what was written.
    print_line(format_args!("{}, written to {}", verified.pooled(0), path.display()))?;
    warn(&read);
    Ok(())
}
