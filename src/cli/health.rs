//! `qbc health`: whether a node is ready, for health checks of containers and load balancers.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::{
    connection::{Connection, read_answer},
    output::{print_json, print_line},
};

/// How long a node may take to answer: what asks is asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `qbc health` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc health                     exit 0: the node at http://localhost:5000 takes reads and writes; 1: it does not, and why
  qbc health --live              whether it answers at all
  qbc --node 5001 health")]
pub struct HealthArgs {
    /// Whether the program runs, ready or not (GET /livez)
    #[arg(long)]
    live: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    warnings: Vec<String>,
}

/// Asks a node how it is.
///
/// # Errors
/// It does not answer, or is not ready.
pub async fn run(node: &Connection, args: &HealthArgs) -> anyhow::Result<()> {
    let (route, state) = if args.live { ("livez", "alive") } else { ("readyz", "ready") };
    let response = node.send(node.get(node.node_url(&[route])).timeout(PATIENCE)).await?;
    let body = response.bytes().await.context("the connection broke")?;
    let Answer { warnings } = read_answer(&body)?;
    if node.json {
        return print_json(&body);
    }
    warnings.iter().for_each(|warning| node.note("warning", warning));
    print_line(state)
}
