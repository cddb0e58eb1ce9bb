//! `qbc backup`: a copy of a node's data folder, while the node runs.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use super::{
    Unit,
    folder::{self, VerifiedFolder},
    print_line, print_value, progress,
};
use crate::store::{Copied, Progress, Store};

/// What `qbc backup` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc backup /backup/qbc                       of the node with port 5000 and folder qbc-data/5000
  qbc backup --data /var/lib/qbc /backup/qbc   of this folder, whether its node runs or not
  qbc backup --quick /backup/qbc               each hour, say, and once a day without --quick
  cp -a /backup/qbc restored && qbc --data restored

Run it on the node's machine, as its user: it reads the data folder, and asks the node nothing. The
first run copies all. A later one copies what is new, and erases what was erased since then. Then
all of the backup is verified. An interrupted run leaves the backup as it was.

The backup has the node's secrets, node.key and cluster.secret: keep it as you keep the folder.")]
pub struct BackupArgs {
    /// The folder of the backup: a new or empty one, or that of an earlier run
    dir: PathBuf,
    /// The data folder to back up [default: qbc-data/PORT]
    #[arg(long, env = "QBC_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The port of the node whose folder is qbc-data/PORT
    #[arg(long, env = "QBC_PORT", default_value_t = 5000)]
    port: u16,
    /// The configuration of the node, which may name its data folder
    #[arg(long, env = "QBC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check what is copied, and leave what was copied before as it is
    #[arg(long)]
    quick: bool,
}

/// What a backup has come to.
#[derive(Serialize)]
struct BackedUp {
    folder: String,
    backup: String,
    /// Of the log, copied in this run.
    batches: u64,
    bytes: u64,
    /// Announced in what was copied.
    erasures: u64,
    /// All of the backup, recomputed; null with `--quick`.
    verified: Option<VerifiedFolder>,
}

impl fmt::Display for BackedUp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let BackedUp { folder, backup, batches, bytes, erasures, verified } = self;
        write!(f, "{folder} is backed up to {backup}: {batches} new batches, {}", HumanBytes(*bytes))?;
        if *erasures > 0 {
            write!(f, "; erasures since the last time, made there too: {erasures}")?;
        }
        match verified {
            None => write!(f, "; what is new was checked"),
            Some(verified) => write!(f, "; {verified}"),
        }
    }
}

/// Backs a data folder up.
///
/// # Errors
/// It cannot be read, the backup cannot be written, or what it has does not hold.
pub async fn run(args: BackupArgs, json: bool) -> anyhow::Result<()> {
    let done =
        tokio::task::spawn_blocking(move || back_up(&args, json)).await.context("the backup was interrupted")??;
    match json {
        true => print_value(&done),
        false => print_line(done),
    }
}

fn back_up(args: &BackupArgs, json: bool) -> anyhow::Result<BackedUp> {
    // The node beside it has the first word.
    let _ = rustix::process::nice(19);
    let from = args.data.clone().unwrap_or_else(|| Path::new("qbc-data").join(args.port.to_string()));
    let to = args.dir.as_path();
    let bar = progress(json, Unit::Bytes, 0);
    let shown = bar.clone();
    let told = Progress::new(move |copied, all| {
        shown.set_length(all);
        shown.set_position(copied);
    });
    let Copied { batches, bytes, erasures } = Store::back_up(&from, to, &told)?;
    bar.finish_and_clear();
    // It erases what was erased, and brings the index of the backup up to its log.
    let opened = Store::open(to, 0, Progress::default());
    drop(opened.with_context(|| format!("the backup {} cannot be used: back up into an empty folder", to.display()))?);
    let verified = (!args.quick).then(|| folder::recompute(to, json, true, |_, _| Ok(()))).transpose();
    let verified = verified.with_context(|| {
        format!(
            "the backup {} does not hold: is the node's folder whole (qbc doctor)? If so, back up into an empty folder",
            to.display()
        )
    })?;
    Ok(BackedUp {
        folder: from.display().to_string(),
        backup: to.display().to_string(),
        batches,
        bytes,
        erasures,
        verified,
    })
}
