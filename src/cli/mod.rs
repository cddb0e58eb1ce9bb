//! The command line: what can be said, and where it goes. What the commands do stands in the other files.
//!
//! Results go to standard output: short sentences, or the node's own JSON with `--json`. Errors and progress go to
//! standard error.

use std::io::{self, Write};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Url;

use crate::core::rules::ChainName;
use connection::Connection;

pub mod bench;
pub mod client;
pub mod connection;
pub mod export;
pub mod file;
pub mod folder;
pub mod import;
pub mod key;
pub mod load;
pub mod log;
pub mod pieces;
pub mod remote;
pub mod serve;
pub mod stream;
pub mod tail;
pub mod verify;

const EXAMPLES: &str = "\
Examples:
  qbc                                  start a node at http://localhost:5000
  qbc --port 5001                      another one from the same folder
  qbc inject '{\"test\":\"test2\"}'        add a transaction, durable when this returns
  qbc leap                             seal all that is pooled in a quant
  qbc chain | jq                       read the chain
  qbc tail | jq .data                  follow it
  qbc verify http://localhost:5000     recompute the chain, hash by hash
  qbc bang orders --difficulty 8       make another chain
  qbc --chain orders inject 42         and use it
  qbc help bang                        more on a command";

/// A line of the command line that no command can follow. The program ends with 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The command line.
#[derive(Parser)]
#[command(
    name = "qbc",
    version,
    about = "A node that keeps tamper-evident, append-only chains, and its client",
    long_about = None,
    after_help = EXAMPLES,
    override_usage = "qbc [OPTIONS OF SERVE]\n       qbc [OPTIONS] <COMMAND>",
    max_term_width = 120
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten, next_help_heading = "Options of serve, which runs where no command is named")]
    serve: serve::ServeArgs,
}

/// What every client command takes.
#[derive(Args)]
struct ClientArgs {
    /// The node to talk to
    #[arg(long, global = true, env = "QBC_NODE", value_name = "URL", default_value = "http://localhost:5000", value_parser = parse_node)]
    node: Url,
    /// The chain to work on [default: the node's default chain, qbc]
    #[arg(long, global = true, env = "QBC_CHAIN", value_name = "NAME", value_parser = parse_chain)]
    chain: Option<ChainName>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node [default]
    #[command(after_help = "\
Examples:
  qbc serve                                http://localhost:5000, data in qbc-data/5000
  qbc serve --port 5001 --leap-every 1s
  qbc serve --data /var/lib/qbc --host 0.0.0.0 --advertise ledger-1.internal:5000
  qbc serve --port 0 --ephemeral           for a test: the first line says where

SIGTERM and Ctrl-C stop it cleanly.")]
    Serve(serve::ServeArgs),
    /// Add a transaction, or a stream of them
    Inject(client::InjectArgs),
    /// Seal all that is pooled in a quant
    #[command(after_help = "\
Examples:
  qbc leap                                 takes as long as the chain's difficulty demands
  qbc --chain orders leap --json | jq -r .hash

An empty pool gives an empty quant.")]
    Leap,
    /// Print the chain as JSON: quants with their transactions
    Chain(client::ChainArgs),
    /// Print each new transaction as it comes
    Tail(tail::TailArgs),
    /// Make a chain
    Bang(client::BangArgs),
    /// Make a chain that shares another one's past
    Fork(client::ForkArgs),
    /// Get the proof that a transaction is in the chain
    Receipt(client::ReceiptArgs),
    /// Let the node and another one know each other, or list the nodes that it knows
    Discover(client::DiscoverArgs),
    /// Recompute a chain, an export, a receipt or a data folder
    Verify(verify::VerifyArgs),
    /// Write the chain as lines of JSON, verified on the way
    Export(export::ExportArgs),
    /// Recreate a chain on a node from its export
    Import(import::ImportArgs),
    /// Print the key that checks a node's checkpoints, or give a new node one
    Key(key::KeyArgs),
    /// Load a running node and print rates and latencies
    Bench(bench::BenchArgs),
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  qbc completions bash > ~/.local/share/bash-completion/completions/qbc
  qbc completions zsh > ~/.zfunc/_qbc")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one of its commands
    #[command(after_help = "\
Examples:
  qbc man | man -l -
  qbc man verify > qbc-verify.1")]
    Man {
        /// The command
        command: Option<String>,
    },
}

impl Cli {
    /// Parses the command line; where it is wrong, or asks for help, the program ends here.
    pub fn from_command_line() -> Cli {
        let mut command = Cli::command();
        let matches = command.get_matches_mut();
        // Options of serve stand at the top too, but beside another command they would be passed over in silence.
        if let Some(name) = matches.subcommand_name() {
            let serve = serve::ServeArgs::augment_args(clap::Command::new("serve"));
            let is_given =
                |arg: &&clap::Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
            if let Some(option) = serve.get_arguments().find(is_given).and_then(clap::Arg::get_long) {
                let detail =
                    format!("--{option} is an option of serve: write it behind that command, not before {name}");
                command.error(ErrorKind::ArgumentConflict, detail).exit();
            }
        }
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// Runs a parsed command line.
///
/// # Errors
/// What the command could not do. [`Usage`] where nothing could do it.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let ClientArgs { node, chain, json } = cli.client;
    let connect = || Connection::new(node.clone(), chain.clone(), json);
    match cli.command {
        None => serve::run(cli.serve).await,
        Some(Command::Serve(args)) => serve::run(args).await,
        Some(Command::Inject(args)) => client::inject(&connect(), args).await,
        Some(Command::Leap) => client::leap(&connect()).await,
        Some(Command::Chain(args)) => client::chain(&connect(), &args).await,
        Some(Command::Tail(args)) => tail::run(&connect(), args).await,
        Some(Command::Bang(args)) => client::bang(&connect(), args).await,
        Some(Command::Fork(args)) => client::fork(&connect(), args).await,
        Some(Command::Receipt(args)) => client::receipt(&connect(), args).await,
        Some(Command::Discover(args)) => client::discover(&connect(), args).await,
        Some(Command::Verify(args)) => verify::run(args, connect()).await,
        Some(Command::Export(args)) => export::run(args, connect()).await,
        Some(Command::Import(args)) => import::run(args, connect()).await,
        Some(Command::Key(args)) => key::run(args, connect()).await,
        Some(Command::Bench(args)) => {
            let chain = chain.as_ref().map_or(ChainName::DEFAULT, ChainName::as_str);
            bench::run(args, node.as_str(), chain, json).await
        }
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "qbc", &mut script);
            print(&script)
        }
        Some(Command::Man { command }) => man(command.as_deref()),
    }
}

fn man(command: Option<&str>) -> anyhow::Result<()> {
    let mut page = Cli::command();
    page.build();
    if let Some(name) = command {
        let found = page.find_subcommand(name).ok_or_else(|| Usage(format!("{name:?} is no command of qbc")))?;
        page = found.clone();
    }
    let mut text = Vec::new();
    let title = page.get_display_name().unwrap_or("qbc").to_uppercase();
    let man = clap_mangen::Man::new(page).title(title).source(concat!("qbc ", env!("CARGO_PKG_VERSION")));
    man.render(&mut text)?;
    print(&text)
}

/// Takes `http://HOST:PORT` and also `HOST:PORT`.
fn parse_node(text: &str) -> Result<Url, String> {
    let url = if text.contains("://") { text.into() } else { format!("http://{text}") };
    Url::parse(&url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none())
        .ok_or_else(|| "a node is named by its URL, like http://localhost:5000".into())
}

fn parse_chain(text: &str) -> Result<ChainName, &'static str> {
    text.parse()
}

/// Writes to standard output. A closed pipe is a bare [`io::Error`], which ends the program quietly.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// A line on standard output.
fn print_line(line: impl std::fmt::Display) -> anyhow::Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// A line on standard error. One that cannot be written is lost, and what was to be done goes on.
pub fn print_notice(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What a progress bar counts.
#[derive(Clone, Copy)]
enum Unit {
    Transactions,
    Bytes,
}

/// A bar on standard error, where that is a terminal and no script listens.
fn progress(json: bool, unit: Unit, length: u64) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let template = match unit {
        Unit::Transactions => "{wide_bar} {human_pos}/{human_len} transactions, {per_sec}, {eta} left",
        Unit::Bytes => "{wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
    };
    ProgressBar::new(length).with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn a_node_is_named_with_or_without_scheme() {
        for text in ["http://localhost:5000", "localhost:5000", "http://localhost:5000/"] {
            assert_eq!(parse_node(text).unwrap().as_str(), "http://localhost:5000/");
        }
        for text in ["", "ftp://localhost", "http://", "http://localhost?x"] {
            assert!(parse_node(text).is_err(), "{text:?}");
        }
    }
}
