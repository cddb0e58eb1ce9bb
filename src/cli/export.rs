//! `qbc export`: a chain as lines of JSON, verified on the way.
//!
//! The form is that of [`crate::core::export`].

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use tokio::runtime::Handle;

use super::{
    connection::Connection,
    output::{is_stdout, stdout, write_file},
    print_line, print_value,
    remote::{self, Part},
    verify::Verified,
};
use crate::core::note::VerifierKey;

/// What `qbc export` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc export --out chain.ndjson            the file appears when all of it holds
  qbc --chain orders export | zstd > orders.zst
  qbc export | jq -c 'select(.data).data'  only what was injected
  qbc verify chain.ndjson                  recompute it offline

Each line is a transaction or, behind those that it seals, a quant (it has a \"root\"). The last line is the signed
checkpoint of the newest quant: keep the node's public key elsewhere, and `qbc verify FILE --key` finds what was cut off.
Pooled transactions are left out: no quant speaks for them yet.")]
pub struct ExportArgs {
    /// Write to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The key that must have signed the checkpoint, as `qbc key` prints it
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
}

/// Exports the connection's chain.
///
/// # Errors
/// The first fault of the chain: what stands before it was written. Or why the chain cannot be read or written.
pub async fn run(args: ExportArgs, node: Connection) -> anyhow::Result<()> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || match args.out.as_deref().filter(|path| !is_stdout(path)) {
        Some(path) => to_file(&node, &runtime, path, &args.key),
        None => {
            let mut out = BufWriter::new(stdout()?);
            remote::read(&node, &runtime, Part::Export(&mut out), &args.key)?;
            Ok(out.flush()?)
        }
    })
    .await
    .context("the export was interrupted")?
}

/// A half or faulty export never has the name that was asked for.
fn to_file(node: &Connection, runtime: &Handle, path: &Path, keys: &[VerifierKey]) -> anyhow::Result<()> {
    let verified = write_file(path, |out| {
        let (verifier, voucher) = remote::read(node, runtime, Part::Export(out), keys)?;
        Ok(Verified::of(&verifier)?.with(voucher))
    })?;
    match node.json {
        true => print_value(&verified),
        false => print_line(format_args!("{verified}, written to {}", path.display())),
    }
}
