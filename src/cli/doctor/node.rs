//! The node as it answers, and its cluster.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use chrono::{DateTime, Utc};
use reqwest::{Response, Url, header::DATE};
use serde_json::Value;

use super::Findings;
use crate::{
    cli::{
        connection::{Connection, Untrusted, problem},
        serve::{self, ServeArgs},
    },
    limits,
};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Seconds by which clocks may differ before that is told: a header has whole seconds, and an answer takes some time.
const CLOCKS: i64 = 3;

/// Looks at the node, if one runs there. `is_in_use` says whether one has the folder.
pub(super) async fn look(node: &Connection, serve: &ServeArgs, is_in_use: bool, found: &mut Findings) {
    let url = node.url().as_str().trim_end_matches('/').to_owned();
    let alive = match node.send_any(node.get(node.node_url(&["livez"])).timeout(PATIENCE)).await {
        Ok(alive) => alive,
        Err(error) if error.is::<Untrusted>() => {
            return found.wrong(
                "tls",
                error.to_string(),
                "name who signs it (--ca FILE), call it by a name that is in it, or renew it",
            );
        }
        Err(_) if is_in_use => {
            let detail = format!("a process uses the folder, but nothing answers at {url}");
            let cure =
                "name its port or URL (--port, --node), and look at its log: it may be starting, stopping or hanging";
            return found.wrong("node", detail, cure);
        }
        Err(_) => return look_at_port(serve, &url, found),
    };
    if !is_in_use {
        let detail = format!("a node answers at {url}, but none uses the folder");
        found.note("node", detail, "name the folder and the port of one node: --data, --port, or --config");
    }
    compare_clocks(&url, &alive, found);
    look_at_version(node, &url, found).await;
    look_at_readiness(node, found).await;
    look_at_host(node, serve, found).await;
    look_at_cluster(node, found).await;
}

fn look_at_port(serve: &ServeArgs, url: &str, found: &mut Findings) {
    let address = SocketAddr::new(serve.host, serve.port);
    match TcpListener::bind(address) {
        Ok(_) => found.ok("node", format!("none runs at {url}, and it can listen there")),
        Err(error) => {
            found.wrong("port", format!("{:#}", serve::cannot_listen(address, &error)), "see --host and --port")
        }
    }
}

/// By how many seconds the clock of who answered is ahead of this one.
fn ahead(answer: &Response) -> Option<i64> {
    let date = DateTime::parse_from_rfc2822(answer.headers().get(DATE)?.to_str().ok()?).ok()?;
    Some(date.timestamp() - Utc::now().timestamp())
}

fn compare_clocks(who: &str, answer: &Response, found: &mut Findings) {
    match ahead(answer) {
        Some(ahead) if ahead.abs() > CLOCKS => {
            let detail = format!("the clock of {who} differs from that of this machine by {ahead} s");
            let cure = "keep both by NTP (timedatectl set-ntp true)";
            match ahead.unsigned_abs() > limits::CLOCK_TOLERANCE.as_secs() {
                true => found.wrong("clock", detail, cure),
                false => found.note("clock", detail, cure),
            }
        }
        _ => {}
    }
}

/// The JSON of a route, or why there is none.
async fn ask(node: &Connection, url: Url) -> Result<Value, String> {
    node.ask(node.get(url).timeout(PATIENCE)).await.map_err(|error| format!("{error:#}"))
}

async fn look_at_version(node: &Connection, url: &str, found: &mut Findings) {
    let own = env!("CARGO_PKG_VERSION");
    match ask(node, node.node_url(&[])).await {
        Ok(index) if index["version"] == own => found.ok("node", format!("it runs at {url}")),
        Ok(index) => {
            let detail = format!("it runs version {} at {url}, and this program is {own}", index["version"]);
            found.note("node", detail, "start the node again, where this is its new version");
        }
        Err(error) => {
            found.wrong("node", format!("what answers at {url} is no node: {error}"), "see --port and --node")
        }
    }
}

async fn look_at_readiness(node: &Connection, found: &mut Findings) {
    let answer = match node.send_any(node.get(node.node_url(&["readyz"])).timeout(PATIENCE)).await {
        Ok(answer) => answer,
        Err(error) => return found.wrong("ready", format!("{error:#}"), "look at its log"),
    };
    if !answer.status().is_success() {
        let cure = "its log says more; Operation in the guide has the cure for a full disk, damage and a rollback";
        return found.wrong("ready", format!("{:#}", problem(answer).await), cure);
    }
    let body: Value = answer.json().await.unwrap_or_default();
    match body["warnings"].as_array().map_or(&[][..], Vec::as_slice) {
        [] => found.ok("ready", "it takes reads and writes"),
        warnings => warnings.iter().for_each(|warning| {
            found.note("ready", warning.as_str().unwrap_or_default(), "it takes reads and writes all the same");
        }),
    }
}

/// Where others are told to reach it.
async fn look_at_host(node: &Connection, serve: &ServeArgs, found: &mut Findings) {
    let Ok(hello) = ask(node, node.node_url(&["peers", "hello"])).await else { return };
    let host = hello["host"].as_str().unwrap_or_default();
    match at(node, host).await {
        Ok(_) => found.ok("host", format!("others are told to reach it at {host}, and it answers there")),
        Err(error) => {
            let detail =
                format!("others are told to reach it at {host}, but it cannot be reached there from here: {error:#}");
            found.wrong("host", detail, "start it with --advertise HOST:PORT, as other machines reach it");
        }
    }
    if !serve.host.is_loopback() && serve.witness.is_empty() {
        let detail = "it listens beyond this machine, and no witness cosigns its chains";
        let cure =
            "--witness KEY@URL: then nobody can show two histories, and an older copy of the folder is found out";
        found.note("witnesses", detail, cure);
    }
}

async fn look_at_cluster(node: &Connection, found: &mut Findings) {
    let status = match ask(node, node.node_url(&["cluster"])).await {
        Ok(status) => status,
        Err(error) => return found.note("cluster", error, "qbc cluster says more"),
    };
    let list = |of: &str| status[of].as_array().cloned().unwrap_or_default();
    let (nodes, groups) = (list("nodes"), list("groups"));
    if nodes.len() < 2 {
        return;
    }
    for other in nodes.iter().filter(|other| other["state"] != "live") {
        let detail = format!("the node {} is {}", text(&other["host"]), text(&other["state"]));
        let cure = "start it; where it is dead for ever: qbc cluster leave ID --lost, and join another";
        found.wrong("cluster", detail, cure);
    }
    if nodes.len().is_multiple_of(2) {
        let detail = format!("it has {} nodes: as many may die as with one less", nodes.len());
        found.note("cluster", detail, "join one more (qbc --join), or take one out (qbc cluster leave ID)");
    }
    if let Some(other) = nodes.iter().find(|other| other["version"] != nodes[0]["version"]) {
        let detail =
            format!("versions {} and {} run side by side", text(&nodes[0]["version"]), text(&other["version"]));
        found.note("cluster", detail, "finish the upgrade: one node after the other");
    }
    for group in &groups {
        let name = text(&group["id"]);
        if group["leader"].is_null() {
            let cure = "start those of its nodes that are down: most of them must be there";
            found.wrong("cluster", format!("nobody leads the group {name}, so its chains take no writes"), cure);
        }
        for replica in group["replicas"].as_array().into_iter().flatten().filter(|replica| replica["lag"] != 0) {
            let detail =
                format!("the node {} lacks {} entries of the group {name}", text(&replica["node"]), replica["lag"]);
            found.note("cluster", detail, "wait: it catches up; where it does not, look at its log and at the network");
        }
    }
    for other in nodes.iter().filter(|other| other["state"] == "live") {
        let host = text(&other["host"]);
        match at(node, &host).await {
            Ok(answer) => compare_clocks(&host, &answer, found),
            Err(error) => {
                found.wrong("cluster", format!("{host} does not answer from here: {error:#}"), "look at the network")
            }
        }
    }
    let (live, led) = (nodes.iter().filter(|node| node["state"] == "live").count(), groups.len());
    found.ok("cluster", format!("{live} of {} nodes are live, with {led} groups", nodes.len()));
}

/// Whether a node answers at a host, such as localhost:5001 or https://ledger.example.
async fn at(node: &Connection, host: &str) -> anyhow::Result<Response> {
    let url = if host.contains("://") { host.into() } else { format!("{}://{host}", node.url().scheme()) };
    let other = node.at(url.parse()?, None);
    other.send(other.get(other.node_url(&["livez"])).timeout(PATIENCE)).await
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
