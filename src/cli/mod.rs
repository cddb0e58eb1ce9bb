//! The command line: what can be said, and where it goes. What the commands do stands in the other files.
//!
//! Results go to standard output: short sentences, or the node's own JSON with `--json`. Errors and progress go to
//! standard error.

use std::{env, ffi::OsString, io, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource,
};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Url;

use connection::{ChainRef, Connection, Refusal};
use output::{print, print_line, print_value};

use crate::access::Secret;

pub mod access;
pub mod backup;
pub mod bench;
pub mod client;
pub mod cluster;
pub mod complete;
pub mod config;
pub mod connection;
pub mod doctor;
pub mod export;
pub mod file;
pub mod folder;
pub mod guide;
pub mod health;
pub mod import;
pub mod key;
pub mod load;
pub mod log;
pub mod man;
pub mod mining;
pub mod mirror;
pub mod net;
pub mod output;
pub mod pieces;
pub mod pretty;
pub mod read;
pub mod remote;
pub mod serve;
pub mod service;
pub mod stream;
pub mod tail;
pub mod tls;
pub mod token;
pub mod verify;
pub mod watch;
mod writers;

const EXAMPLES: &str = "\
Examples:
  qbc                                  start a node at http://localhost:5000
  qbc --port 5001                      another one from the same folder
  qbc --port 5002 --join localhost:5001   one that keeps chains together with it
  qbc inject '{\"test\":\"test2\"}'        add a transaction, durable when this returns
  qbc leap                             seal all that is pooled in a quant
  qbc chain | jq                       read the chain
  qbc tail | jq .data                  follow it
  qbc watch                            all of the node, on the whole screen
  qbc verify http://localhost:5000     recompute the chain, hash by hash
  qbc bang orders --difficulty 8       make another chain
  qbc --chain orders inject 42         and use it
  qbc guide                            read on
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
    #[command(flatten, next_help_heading = "Options of client commands, in front of them or behind")]
    client: ClientArgs,
    #[command(flatten, next_help_heading = "Options of serve, which runs where no command is named")]
    serve: serve::ServeArgs,
}

/// What client commands take: each those that it uses, in front of its name or behind it.
#[derive(Args)]
struct ClientArgs {
    /// The node to talk to: its URL, HOST:PORT, or a port of this machine; several with commas between, of which the next is taken
    /// where one is away [default: http://localhost:5000]
    #[arg(long, env = "QBC_NODE", value_name = "URL", value_parser = parse_nodes)]
    node: Option<Nodes>,
    /// The chain to work on, by its name or its id [default: the node's default chain, qbc]
    #[arg(long, env = "QBC_CHAIN", value_name = "NAME", value_parser = str::parse::<ChainRef>)]
    chain: Option<ChainRef>,
    /// Trust the certificates in this file too, those of authorities or of servers: PEM. A node trusts them where it calls others
    #[arg(long, env = "QBC_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON, for scripts: results on standard output, errors on standard error
    #[arg(long)]
    json: bool,
    /// The token to show, where the node has an access file: better by the variable, as others on this machine see command lines
    #[arg(long, env = "QBC_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<Hidden>,
}

/// A text that is in no message: it is looked at when it is used.
#[derive(Clone)]
pub struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

impl std::ops::Deref for Hidden {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Hidden {
        Hidden(text)
    }
}

/// The client options of what is asked of a chain: all that there are.
const OF_CHAIN: &[&str] = &["node", "chain", "json", "token", "ca"];

/// The client options of what is asked of a node.
const OF_NODE: &[&str] = &["node", "json", "token", "ca"];

/// The client options that each command uses. What a command would pass over in silence, it does not accept.
const USES: &[(&str, &[&str])] = &[
    ("inject", OF_CHAIN),
    ("leap", OF_CHAIN),
    ("chain", OF_CHAIN),
    ("quant", OF_CHAIN),
    ("get", OF_CHAIN),
    ("pool", OF_CHAIN),
    ("stats", OF_CHAIN),
    ("tail", OF_CHAIN),
    ("watch", &["node", "chain", "token", "ca"]),
    ("bang", OF_NODE),
    ("fork", OF_CHAIN),
    ("chains", OF_NODE),
    ("leap-policy", OF_CHAIN),
    ("erase", OF_CHAIN),
    ("writers", OF_CHAIN),
    ("freeze", OF_CHAIN),
    ("receipt", OF_CHAIN),
    ("discover", OF_NODE),
    ("verify", OF_CHAIN),
    ("export", OF_CHAIN),
    ("import", OF_NODE),
    ("key", OF_CHAIN),
    ("cluster", OF_CHAIN),
    ("mirror", OF_NODE),
    ("backup", &["json"]),
    ("doctor", OF_NODE),
    ("health", OF_NODE),
    ("config", &[]),
    ("token", &[]),
    ("net", &[]),
    ("bench", OF_CHAIN),
    ("serve", &["ca"]),
    ("guide", &[]),
    ("completions", &[]),
    ("man", &[]),
];

/// The command line with the client options at each command that uses them.
fn command_line() -> clap::Command {
    let options = ClientArgs::augment_args(clap::Command::new("client"));
    // What the environment says is for the commands that use it.
    let without_variable = |command: clap::Command, name: &'static str| {
        command.mut_arg(name, |option| option.env(clap::builder::Resettable::Reset))
    };
    let command = ["node", "chain", "token"].into_iter().fold(Cli::command(), without_variable);
    USES.iter().fold(command, |command, (name, uses)| {
        let used = options.get_arguments().filter(|option| uses.contains(&option.get_id().as_str()));
        let used = used.map(|option| option.clone().help_heading("Client options"));
        let used: Vec<_> = used.collect();
        command.mut_subcommand(name, |command| {
            let below: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
            let with_used =
                |command: clap::Command, name| command.mut_subcommand(name, |below| below.args(used.clone()));
            below.into_iter().fold(command, with_used).args(used.clone())
        })
    })
}

#[derive(Subcommand)]
enum Command {
    /// Run a node [default]
    #[command(after_help = "\
Examples:
  qbc serve                                http://localhost:5000, data in qbc-data/5000
  qbc serve --port 5001 --leap-every 1s
  qbc serve --data /var/lib/qbc --host 0.0.0.0 --advertise ledger-1.internal:5000 --access access.toml
  qbc serve --tls-cert node.crt --tls-key node.key     https://localhost:5000; SIGHUP has both read again
  qbc serve --port 0 --ephemeral           for a test: the first line says where

SIGTERM and Ctrl-C stop it cleanly.")]
    Serve(serve::ServeArgs),
    /// Add a transaction, or a stream of them
    Inject(client::InjectArgs),
    /// Seal all that is pooled in a quant
    Leap(client::LeapArgs),
    /// Print the chain as JSON: quants with their transactions
    Chain(client::ChainArgs),
    /// Print one quant with its transactions
    Quant(read::QuantArgs),
    /// Print one transaction
    Get(read::GetArgs),
    /// Print the transactions that no quant seals yet
    Pool(read::PoolArgs),
    /// Print how large the chain is
    #[command(after_help = "\
Examples:
  qbc stats
  qbc --chain orders stats --json | jq .size")]
    Stats,
    /// Print each new transaction as it comes
    Tail(tail::TailArgs),
    /// Show the node on the whole screen: its health, chains, rates, cluster and what comes
    #[command(after_help = "\
Examples:
  qbc watch
  qbc --chain orders watch                 begin with this chain
  qbc --node 5000,5001,5002 watch          of several nodes, the next where one is away

q quits, ? shows the keys. A node that dies is waited for.")]
    Watch,
    /// Make a chain
    Bang(client::BangArgs),
    /// Make a chain that shares another one's past
    Fork(client::ForkArgs),
    /// List the node's chains
    #[command(after_help = "\
Examples:
  qbc chains
  qbc chains --json | jq -r '.[].name'")]
    Chains,
    /// Show when the chain leaps by itself, or change that
    LeapPolicy(client::PolicyArgs),
    /// Erase the data of a transaction for ever
    Erase(client::EraseArgs),
    /// Show who may write on the chain, or change that
    Writers(writers::WritersArgs),
    /// End the chain for ever
    Freeze(writers::FreezeArgs),
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
    /// Show the nodes, groups and chains of the cluster, or change it
    Cluster(cluster::ClusterArgs),
    /// Follow chains of others that are not trusted, or list those that are followed
    Mirror(mirror::MirrorArgs),
    /// Make a token for the access file of a node
    Token(token::TokenArgs),
    /// Copy the data folder of a node, while it runs, or bring an earlier copy up to it
    Backup(backup::BackupArgs),
    /// Look for what is wrong with a node, and say the cure
    Doctor(doctor::DoctorArgs),
    /// Whether a node is ready, for health checks: exit 0 or 1
    Health(health::HealthArgs),
    /// Check the configuration of a node
    Config(config::ConfigArgs),
    /// Run a cluster for a test, in temporary folders
    Net(net::NetArgs),
    /// Load a running node and print rates and latencies
    Bench(bench::BenchArgs),
    /// Print the guide, a chapter at a time
    Guide(guide::GuideArgs),
    /// Print what makes a shell complete commands, options and the names of chains
    #[command(after_help = "\
Examples:
  source <(qbc completions bash)           now; for ever as a line of ~/.bashrc
  source <(qbc completions zsh)            now; for ever as a line of ~/.zshrc, behind compinit
  qbc completions fish | source            now; for ever as a line of ~/.config/fish/config.fish

The names of chains are those of the node that --node or QBC_NODE names. The shell runs qbc for them, so that must be on the path.")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one of its commands, or write all of them
    Man(man::ManArgs),
}

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// The exit code where it is wrong, or asked for help only, or is one that a shell completes.
    pub fn from_command_line() -> Result<Cli, ExitCode> {
        if let Some(answered) = complete::answer() {
            return Err(answered);
        }
        Cli::parse(env::args_os().collect()).map_err(|error| match error.downcast_ref::<clap::Error>() {
            Some(error) => end(error),
            None => report(&Usage(format!("{error:#}")).into(), env::args_os().any(|argument| argument == "--json")),
        })
    }

    /// The options of a node, as the command line and its configuration, which may have changed, say now.
    ///
    /// # Errors
    /// The configuration is wrong.
    pub fn serve_args() -> anyhow::Result<serve::ServeArgs> {
        let cli = Cli::parse(env::args_os().collect()).map_err(|error| match error.downcast_ref::<clap::Error>() {
            Some(error) => anyhow::Error::msg(config::reason(error)),
            None => error,
        })?;
        Ok(if let Some(Command::Serve(args)) = cli.command { args } else { cli.serve })
    }

    fn parse(arguments: Vec<OsString>) -> anyhow::Result<Cli> {
        let mut command = command_line();
        let mut matches = command.try_get_matches_from_mut(&arguments)?;
        if let Some(detail) = ignored(&matches) {
            return Err(command.error(ErrorKind::ArgumentConflict, detail).into());
        }
        if let Some((file, completed)) = config::completed(&command, &matches, arguments)? {
            let parsed = command.try_get_matches_from_mut(completed);
            matches = parsed.map_err(|error| anyhow::anyhow!("{}: {}", file.display(), config::reason(&error)))?;
        }
        Ok(Cli::of(&matches).map_err(|error| error.format(&mut command))?)
    }

    fn of(matches: &ArgMatches) -> Result<Cli, clap::Error> {
        let mut cli = Cli::from_arg_matches(matches)?;
        let mut level = matches;
        while let Some((_, behind)) = level.subcommand() {
            let ClientArgs { node, chain, ca, json, token } = &mut cli.client;
            prefer(node, behind, "node");
            prefer(chain, behind, "chain");
            prefer(ca, behind, "ca");
            prefer(token, behind, "token");
            *json |= behind.try_get_one("json").is_ok_and(|json| json == Some(&true));
            level = behind;
        }
        Ok(cli)
    }

    /// Whether results and errors are for a script.
    pub fn is_for_script(&self) -> bool {
        self.client.json
    }
}

/// What is said behind the command counts before what is said in front of it, and both before the environment.
fn prefer<T: Clone + Send + Sync + 'static>(front: &mut Option<T>, behind: &ArgMatches, id: &str) {
    if front.is_none() || is_said(behind, id) {
        *front = behind.try_get_one(id).ok().flatten().cloned().or_else(|| front.take());
    }
}

/// Whether an option is on the command line.
fn is_said(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// The first option that would be passed over in silence.
fn ignored(matches: &ArgMatches) -> Option<String> {
    let uses = |name: &str| USES.iter().find(|(command, _)| *command == name).map_or(&[][..], |(_, uses)| uses);
    let Some((name, behind)) = matches.subcommand() else {
        let client = OF_CHAIN.iter().find(|id| is_said(matches, id) && !uses("serve").contains(id))?;
        return Some(format!(
            "--{client} is an option of client commands: without one, a node starts, which has no use for it"
        ));
    };
    let serve = serve::ServeArgs::augment_args(clap::Command::new("serve"));
    if let Some(option) = serve.get_arguments().find(|option| is_said(matches, option.get_id().as_str())) {
        let option = option.get_long().unwrap_or_default();
        return Some(format!("--{option} is an option of serve: write it behind that command, not before {name}"));
    }
    let is_given = |id: &str| is_said(matches, id) || is_said(behind, id);
    let unused = OF_CHAIN.iter().find(|id| is_said(matches, id) && !uses(name).contains(id));
    if let Some(option) = unused {
        return Some(format!("{name} has no use for --{option}"));
    }
    // Where another argument says what these would.
    let (what, ignored): (String, &[&str]) = match name {
        "verify" => match behind.get_one::<String>("target") {
            Some(url) if url.contains("/chains/") && url.contains("://") => (url.clone(), &["node", "chain"]),
            Some(url) if url.contains("://") => (url.clone(), &["node"]),
            Some(file) => (file.clone(), &["node", "chain", "ca"]),
            None => return None,
        },
        "key" if is_said(behind, "data") => ("--data".into(), &["node", "ca", "token"]),
        _ => return None,
    };
    let option = ignored.iter().find(|id| is_given(id))?;
    Some(format!("{name} {what} has no use for --{option}"))
}

/// Says what is wrong with the command line, or the help that it asked for.
fn end(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if !error.use_stderr() {
        let styled = io::IsTerminal::is_terminal(&io::stdout());
        let text = if styled { text.ansi().to_string() } else { text.to_string() };
        return print(text.as_bytes()).map_or_else(|error| report(&error, false), |()| ExitCode::SUCCESS);
    }
    if env::args_os().any(|argument| argument == "--json") {
        let text = text.to_string();
        let detail = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        report(&Usage(detail.into()).into(), true);
    } else {
        // Whoever closed standard error does not want to know.
        let _ = error.print();
    }
    ExitCode::from(2)
}

/// Turns the error of a command into a sentence, or a problem document for scripts (RFC 9457), and an exit code.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    // Errors of the network are wrapped, so a bare broken pipe is that of our own output: `qbc chain | head`.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let (title, code) = if error.is::<Usage>() { ("Wrong usage", 2) } else { ("The command failed", 1) };
    match (json, error.downcast_ref::<Refusal>()) {
        (false, _) => output::tell(format_args!("error: {error:#}")),
        (true, Some(refusal)) => output::tell(&refusal.document),
        (true, None) => output::tell(output::problem(title, &format!("{error:#}"))),
    }
    ExitCode::from(code)
}

/// Runs a parsed command line.
///
/// # Errors
/// What the command could not do. [`Usage`] where nothing could do it.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let ClientArgs { node, chain, ca, json, token } = cli.client;
    let named = node.clone();
    let nodes = node.unwrap_or_else(|| Nodes(vec![Url::parse(DEFAULT_NODE).expect("it is a URL")]));
    let token = token.map(|token| token.0.parse::<Secret>()).transpose();
    let token = token.map_err(|error| Usage(format!("--token or QBC_TOKEN: {error}")))?;
    let trusted = || tls::read_authorities(ca.as_deref());
    let connect_to =
        |nodes: Vec<Url>| anyhow::Ok(Connection::new(nodes, chain.clone(), trusted()?, token.as_ref(), json));
    let connect = || connect_to(nodes.0.clone());
    if !matches!(cli.command, None | Some(Command::Serve(_))) {
        output::stdout().context("cannot write to standard output, so nothing was done")?;
    }
    match cli.command {
        None => serve::run(cli.serve, trusted()?).await,
        Some(Command::Serve(args)) => serve::run(args, trusted()?).await,
        Some(Command::Inject(args)) => client::inject(&connect()?, args).await,
        Some(Command::Leap(args)) => client::leap(&connect()?, &args).await,
        Some(Command::Chain(args)) => client::chain(&connect()?, &args).await,
        Some(Command::Quant(args)) => read::quant(&connect()?, &args).await,
        Some(Command::Get(args)) => read::get(&connect()?, &args).await,
        Some(Command::Pool(args)) => read::pool(&connect()?, &args).await,
        Some(Command::Stats) => read::stats(&connect()?).await,
        Some(Command::Tail(args)) => tail::run(&connect()?, args).await,
        Some(Command::Watch) => watch::run(&connect()?).await,
        Some(Command::Bang(args)) => client::bang(&connect()?, args).await,
        Some(Command::Fork(args)) => client::fork(&connect()?, args).await,
        Some(Command::Chains) => read::chains(&connect()?).await,
        Some(Command::LeapPolicy(args)) => client::leap_policy(&connect()?, &args).await,
        Some(Command::Erase(args)) => client::erase(&connect()?, &args).await,
        Some(Command::Writers(args)) => writers::writers(&connect()?, &args).await,
        Some(Command::Freeze(args)) => writers::freeze(&connect()?, &args).await,
        Some(Command::Receipt(args)) => client::receipt(&connect()?, args).await,
        Some(Command::Discover(args)) => client::discover(&connect()?, args).await,
        Some(Command::Verify(args)) => verify::run(args, connect()?).await,
        Some(Command::Export(args)) => export::run(args, connect()?).await,
        Some(Command::Import(args)) => import::run(args, connect()?).await,
        Some(Command::Key(args)) => key::run(args, connect()?).await,
        Some(Command::Mirror(args)) => mirror::run(&connect()?, args).await,
        Some(Command::Cluster(args)) => cluster::run(&connect()?, args).await,
        Some(Command::Token(args)) => token::run(args),
        Some(Command::Backup(args)) => backup::run(args, json).await,
        Some(Command::Doctor(args)) => doctor::run(args, named.map(|nodes| nodes.0), connect_to, json).await,
        Some(Command::Health(args)) => health::run(&connect()?, &args).await,
        Some(Command::Config(args)) => config::run(args),
        Some(Command::Net(args)) => net::run(args).await,
        Some(Command::Bench(args)) => bench::run(args, &connect()?).await,
        Some(Command::Guide(args)) => guide::run(&args),
        Some(Command::Completions { shell }) => complete::print_script(shell),
        Some(Command::Man(args)) => man::run(&args, command_line()),
    }
}

const DEFAULT_NODE: &str = "http://localhost:5000";

/// Nodes that can answer the same, at least one.
#[derive(Clone)]
struct Nodes(Vec<Url>);

fn parse_nodes(text: &str) -> Result<Nodes, String> {
    text.split(',').map(|node| parse_node(node.trim())).collect::<Result<_, _>>().map(Nodes)
}

/// Takes `http://HOST:PORT`, `HOST:PORT`, and a port of this machine: `PORT` or `:PORT`.
fn parse_node(text: &str) -> Result<Url, String> {
    let text = &with_host(text);
    let url = if text.contains("://") { text.clone() } else { format!("http://{text}") };
    let is_node = |url: &Url| {
        let is_plain =
            url.query().is_none() && url.fragment().is_none() && url.port() != Some(0) && !text.ends_with(':');
        matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain && !is_number_for_address(url, text)
    };
    Url::parse(&url).ok().filter(is_node).ok_or_else(|| {
        format!(
            "a node is named by its URL, like {DEFAULT_NODE}, by HOST:PORT, or by its port on this machine, like 5000"
        )
    })
}

/// The host that a bare port is one of: this machine.
fn with_host(text: &str) -> String {
    let port = text.strip_prefix(':').unwrap_or(text);
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port { format!("localhost:{port}") } else { text.into() }
}

/// URLs take `5000` and `127.1` for addresses (WHATWG URL, section 3.5); who writes that means something else.
fn is_number_for_address(url: &Url, text: &str) -> bool {
    url.host_str().is_some_and(|host| host.parse::<std::net::Ipv4Addr>().is_ok() && !text.contains(host))
}

/// What a progress bar counts.
#[derive(Clone, Copy)]
enum Unit {
    Transactions,
    Bytes,
    Batches,
}

/// A bar on standard error, where that is a terminal and no script listens.
fn progress(json: bool, unit: Unit, length: u64) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let template = match unit {
        Unit::Transactions => "{wide_bar} {human_pos}/{human_len} transactions, {per_sec}, {eta} left",
        Unit::Batches => "{wide_bar} batch {human_pos} of {human_len} is in the index, {eta} left",
        Unit::Bytes => "{wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
    };
    ProgressBar::new(length).with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_examples() {
        for command in command_line().get_subcommands() {
            assert!(USES.iter().any(|(name, _)| *name == command.get_name()), "{}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn a_node_is_named_with_or_without_scheme() {
        for text in ["http://localhost:5000", "localhost:5000", "http://localhost:5000/"] {
            assert_eq!(parse_node(text).unwrap().as_str(), "http://localhost:5000/");
        }
        for text in ["5000", ":5000"] {
            assert_eq!(parse_node(text).unwrap().as_str(), "http://localhost:5000/");
        }
        assert_eq!(parse_node("http://127.0.0.1:80/qbc").unwrap().as_str(), "http://127.0.0.1/qbc");
        assert_eq!(parse_node("[::1]:5000").unwrap().as_str(), "http://[::1]:5000/");
        for text in [
            "",
            ":",
            "0",
            "70000",
            ":70000",
            "http://5000",
            "127.1:5000",
            "0x7f.1",
            "5000:80",
            "localhost:",
            ":x",
            "localhost:0",
            "ftp://localhost",
            "http://",
            "http://localhost?x",
            "localhost#x",
            "local host",
        ] {
            assert!(parse_node(text).is_err(), "{text:?}");
        }
    }
}
