//! The cluster as the program shows it, and changes it.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use serde::Deserialize;

use super::{
    Connection,
    output::{print_json, print_line, table},
};

/// `qbc cluster`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qbc cluster                              nodes, groups and chains
  qbc cluster --watch                      again and again
  qbc cluster --json | jq .nodes
  qbc cluster replicas 3 --chain orders    keep a chain's group on three nodes
  qbc cluster leave 3f2a…                  take a node out, when its chains have moved
  qbc cluster leave 3f2a… --lost           one that is dead for ever")]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: Option<ClusterCommand>,
    /// Show it again each second
    #[arg(long)]
    watch: bool,
}

#[derive(clap::Subcommand)]
enum ClusterCommand {
    /// Take a node out of the cluster
    Leave {
        /// Its id, or the first digits of it
        id: String,
        /// It is dead for ever: nothing of it is waited for
        #[arg(long)]
        lost: bool,
    },
    /// Change on how many nodes the group of a chain is kept
    Replicas {
        /// 1, 3 or 5
        count: u8,
    },
}

/// How a cluster stands.
#[derive(Deserialize)]
pub(super) struct Status {
    id: String,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) groups: Vec<GroupRow>,
    pub(super) busy: Vec<String>,
}

/// A node of a cluster.
#[derive(Deserialize)]
pub(super) struct NodeRow {
    pub(super) id: String,
    pub(super) host: String,
    pub(super) state: String,
    version: String,
    leads: u64,
    keeps: Option<u64>,
    bytes: Option<u64>,
}

/// A group of a cluster.
#[derive(Deserialize)]
pub(super) struct GroupRow {
    id: String,
    replicas: Vec<ReplicaRow>,
    pub(super) leader: Option<String>,
    term: u64,
    chains: u64,
}

#[derive(Deserialize)]
struct ReplicaRow {
    node: String,
    role: String,
    lag: u64,
}

impl GroupRow {
    /// What the replica that lags most lacks, in entries.
    pub(super) fn lag(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.lag).max().unwrap_or(0)
    }
}

/// How long a node may take to say how its cluster stands.
const PATIENCE: Duration = Duration::from_secs(10);

/// Digits of an id that tell it from others, for people.
const SHORT: usize = 8;

fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Shows the cluster, or changes it.
///
/// # Errors
/// The node does not answer, or refuses.
pub async fn run(node: &Connection, args: ClusterArgs) -> anyhow::Result<()> {
    match args.command {
        Some(ClusterCommand::Leave { id, lost }) => leave(node, &id, lost).await,
        Some(ClusterCommand::Replicas { count }) => replicas(node, count).await,
        None if args.watch => loop {
            // A node that dies may come back: what watches goes on.
            match ask(node).await {
                Ok(body) => show(node, &body)?,
                Err(error) => node.note("error", &format!("{error:#}")),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        },
        None => show(node, &ask(node).await?),
    }
}

/// How the cluster stands, as JSON.
async fn ask(node: &Connection) -> anyhow::Result<Bytes> {
    let request = node.get(node.node_url(&["cluster"])).timeout(PATIENCE);
    node.send(request).await?.bytes().await.context("the connection broke")
}

fn show(node: &Connection, body: &[u8]) -> anyhow::Result<()> {
    match node.json {
        true => print_json(body),
        false => print_line(in_words(&serde_json::from_slice(body).context("the answer is not understood")?)),
    }
}

fn in_words(status: &Status) -> String {
    let busy: String = status.busy.iter().map(|busy| format!("\n{busy}")).collect();
    let (nodes, groups) = (table(&rows_of_nodes(status)), table(&rows_of_groups(status)));
    format!("cluster {}\n{nodes}\n{groups}{busy}", short(&status.id))
}

/// The nodes, below a title.
pub(super) fn rows_of_nodes(status: &Status) -> Vec<Vec<String>> {
    let mut nodes = vec![["NODE", "HOST", "STATE", "LEADS", "KEEPS", "BYTES", "VERSION"].map(String::from).to_vec()];
    for node in &status.nodes {
        let count = |count: Option<u64>| count.map_or("-".into(), |count| count.to_string());
        let (id, host, state) = (short(&node.id).into(), node.host.clone(), node.state.clone());
        nodes.push(vec![
            id,
            host,
            state,
            node.leads.to_string(),
            count(node.keeps),
            count(node.bytes),
            node.version.clone(),
        ]);
    }
    nodes
}

/// The groups, below a title.
pub(super) fn rows_of_groups(status: &Status) -> Vec<Vec<String>> {
    let mut groups =
        vec![["GROUP", "LEADER", "TERM", "CHAINS", "REPLICAS (entries behind)"].map(String::from).to_vec()];
    for group in &status.groups {
        let leader = group.leader.as_deref().map_or("none", short).to_owned();
        let replica = |replica: &ReplicaRow| {
            let role = if replica.role == "learner" { ", learning" } else { "" };
            let lag = if replica.lag > 0 { format!(" ({}{role})", replica.lag) } else { String::new() };
            format!("{}{lag}", short(&replica.node))
        };
        let replicas: Vec<String> = group.replicas.iter().map(replica).collect();
        groups.push(vec![
            group.id.clone(),
            leader,
            group.term.to_string(),
            group.chains.to_string(),
            replicas.join(", "),
        ]);
    }
    groups
}

async fn leave(node: &Connection, id: &str, lost: bool) -> anyhow::Result<()> {
    let status: Status = node.ask(node.get(node.node_url(&["cluster"]))).await?;
    let found: Vec<&NodeRow> = status.nodes.iter().filter(|node| !id.is_empty() && node.id.starts_with(id)).collect();
    let [found] = found[..] else {
        anyhow::bail!(
            "{} nodes of the cluster have an id that begins with {id:?}: `qbc cluster` lists them",
            found.len()
        );
    };
    let mut url = node.node_url(&["cluster", "nodes", &found.id]);
    if lost {
        url.set_query(Some("lost=true"));
    }
    let response = node.send(node.delete(url)).await?;
    let body = response.bytes().await.context("the connection broke")?;
    match node.json {
        true => print_json(&body),
        false => print_line(format_args!("the node {} leaves: `qbc cluster` tells how far it is", found.host)),
    }
}

async fn replicas(node: &Connection, count: u8) -> anyhow::Result<()> {
    let request = node.patch(node.url_of_chain()).json(&serde_json::json!({"replicas": count}));
    let response = node.send(request).await?;
    let body = response.bytes().await.context("the connection broke")?;
    match node.json {
        true => print_json(&body),
        false => print_line(format_args!("the chain is kept on {count} nodes")),
    }
}
