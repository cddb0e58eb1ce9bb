//! `qbc doctor`: looks at a node's machine, folder, configuration and cluster, and says what is wrong, and the cure.
//!
//! It changes nothing, and works on a stopped folder and beside a running node.

mod folder;
mod node;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use reqwest::Url;
use serde::Serialize;

use super::{
    config::Configuration,
    connection::Connection,
    output::{print_line, print_value},
    serve::ServeArgs,
};

/// What `qbc doctor` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc doctor                           of the node with port 5000 and folder qbc-data/5000
  qbc doctor --config /etc/qbc.toml    of the node with this configuration
  qbc doctor --data /var/lib/qbc --port 80 --host 0.0.0.0
  qbc doctor --json | jq '.findings[] | select(.state != \"ok\")'

The options are those of serve. Run it on the node's machine, as its user, whether the node runs or
not. It exits with 1 where something is wrong. What is only to be noted may be meant so.")]
pub struct DoctorArgs {
    #[command(flatten)]
    serve: ServeArgs,
}

/// How a thing stands.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// To be looked at, though all goes on; it may be meant.
    Note,
    /// It must be changed.
    Wrong,
}

#[derive(Serialize)]
struct Finding {
    about: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Finding { about, state, detail, cure } = self;
        let state = match state {
            State::Ok => "ok   ",
            State::Note => "note ",
            State::Wrong => "WRONG",
        };
        write!(f, "{state}  {about}: {detail}")?;
        cure.iter().try_for_each(|cure| write!(f, "\n       -> {cure}"))
    }
}

/// What was found so far.
#[derive(Default, Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, about: &'static str, detail: impl Into<String>) {
        self.findings.push(Finding { about, state: State::Ok, detail: detail.into(), cure: None });
    }

    fn note(&mut self, about: &'static str, detail: impl Into<String>, cure: impl Into<String>) {
        self.findings.push(Finding { about, state: State::Note, detail: detail.into(), cure: Some(cure.into()) });
    }

    fn wrong(&mut self, about: &'static str, detail: impl Into<String>, cure: impl Into<String>) {
        self.findings.push(Finding { about, state: State::Wrong, detail: detail.into(), cure: Some(cure.into()) });
    }
}

/// Looks at all there is. `named` are the URLs of the node, if the command line names it.
///
/// # Errors
/// Something is wrong, or what was found cannot be printed.
pub async fn run(
    args: DoctorArgs,
    named: Option<Vec<Url>>,
    connect_to: impl FnOnce(Vec<Url>) -> anyhow::Result<Connection>,
    json: bool,
) -> anyhow::Result<()> {
    let DoctorArgs { serve } = args;
    let mut found = Findings::default();
    found.ok("program", concat!("this is qbc ", env!("CARGO_PKG_VERSION")));
    if let Some(file) = &serve.config {
        look_at_configuration(file, &mut found);
    }
    let data = serve.data.clone().unwrap_or_else(|| PathBuf::from("qbc-data").join(serve.port.to_string()));
    let looked = tokio::task::spawn_blocking(move || {
        let is_in_use = folder::look(&data, &mut found);
        (found, is_in_use)
    });
    let (mut found, is_in_use) = looked.await.context("the look at the folder was interrupted")?;
    let node = connect_to(named.map_or_else(|| own_node(&serve).map(|url| vec![url]), Ok)?)?;
    node::look(&node, &serve, is_in_use, &mut found).await;
    match json {
        true => print_value(&found)?,
        false => found.findings.iter().try_for_each(print_line)?,
    }
    match found.findings.iter().filter(|finding| finding.state == State::Wrong).count() {
        0 => Ok(()),
        1 => bail!("one thing is wrong"),
        wrong => bail!("{wrong} things are wrong"),
    }
}

/// Where the node listens for whom is on its machine.
fn own_node(serve: &ServeArgs) -> anyhow::Result<Url> {
    let host = match serve.host {
        host if host.is_unspecified() => "localhost".into(),
        std::net::IpAddr::V6(host) => format!("[{host}]"),
        host => host.to_string(),
    };
    let scheme = if serve.tls.is_on() { "https" } else { "http" };
    Ok(format!("{scheme}://{host}:{}", serve.port).parse()?)
}

fn look_at_configuration(file: &Path, found: &mut Findings) {
    let shown = file.display();
    // It was read already, so it holds.
    let holds_secret = Configuration::read(file).is_ok_and(|configuration| configuration.holds_secret());
    if holds_secret && folder::is_exposed(file) {
        let cure = format!("chmod 600 {shown}");
        return found.wrong("configuration", format!("others can read {shown}, which holds a secret"), cure);
    }
    found.ok("configuration", format!("{shown} holds"));
}
