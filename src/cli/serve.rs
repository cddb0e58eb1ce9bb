//! `qbc serve`: one node.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::HashSet,
    io::{self, IsTerminal, Write},
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
    pin::pin,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    Cli, Hidden, Usage,
    access::{self, Watched, ensure_guarded},
    config::Configuration,
    log::{self, Log},
    service,
    tls::TlsArgs,
};
use crate::{
    clock::Clock,
    cluster::{
        self, Cluster,
        link::{SECRET_FILE, Secret},
    },
    core::{chain::LeapPolicy, note::VerifierKey, rules::ChainName, witness::Trusted},
    http::{self, Admitted, App, HostName, Origin, Share, ShownChains},
    leap, limits,
    mirror::{Mirrors, Wanted, source::ChainUrl},
    node::{Background, Config, Node, Progress},
    peers::{Allowed, DiscoverError, Host, Identity, Peers},
    scrub, store,
    tls::{self, Authorities},
    witness::{self, Witness},
};

/// Files that the node itself keeps open: the store's and its own.
pub const OWN_FILES: u64 = 1_200;

/// SIGXFSZ, on Linux and macOS.
const FILE_SIZE_SIGNAL: i32 = 25;

/// Options of a node. Each is also an environment variable.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Address to listen on. One that others can reach takes --access, or --open.
    #[arg(long, env = "QBC_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "QBC_PORT", default_value_t = 5000)]
    pub port: u16,

    /// Who may do what: a file of tokens, which `qbc token` makes. It is read again when it changes, and on SIGHUP.
    #[arg(long, env = "QBC_ACCESS", value_name = "FILE")]
    pub access: Option<PathBuf>,

    /// Let everybody who reaches the node do everything, also from other machines.
    #[arg(long, env = "QBC_OPEN", conflicts_with = "access")]
    pub open: bool,

    /// Percentage of the node's connections, requests under way, listeners to events and bytes of bodies that one client, an address
    /// or a token, may take up: 1 to 100. All clients behind a proxy are one address.
    #[arg(long, env = "QBC_CLIENT_SHARE", value_name = "PERCENT", default_value_t = Share::default())]
    pub client_share: Share,

    /// Data folder, made where there is none [default: qbc-data/PORT].
    #[arg(long, env = "QBC_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Keep the data in a temporary folder that goes with the node.
    #[arg(long, env = "QBC_EPHEMERAL", conflicts_with = "data")]
    pub ephemeral: bool,

    /// Let the default chain leap by itself, at most this long after a transaction: 500ms, 1s, 2m.
    #[arg(long, env = "QBC_LEAP_EVERY", value_name = "TIME", value_parser = parse_duration)]
    pub leap_every: Option<Duration>,

    /// Transactions that the pool of one chain may hold.
    #[arg(long, env = "QBC_MAX_POOL", value_name = "N", default_value_t = limits::POOL_TRANSACTIONS,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub max_pool: u64,

    /// Threads that mine, at the lowest priority [default: one less than there are processors].
    #[arg(long, env = "QBC_MINING_THREADS", value_name = "N", value_parser = parse_threads)]
    pub mining_threads: Option<NonZero<usize>>,

    /// MiB a second at which all data is read again and compared with the roots; 0 turns that off.
    #[arg(long, env = "QBC_SCRUB_RATE", value_name = "MIB", default_value_t = limits::SCRUB_RATE >> 20)]
    pub scrub_rate: u64,

    /// Time between two readings of all data: 10s, 5m, 1h.
    #[arg(long, env = "QBC_SCRUB_EVERY", value_name = "TIME", value_parser = parse_time, default_value = "1h")]
    pub scrub_every: Duration,

    /// Time without progress after which an unfinished import is given up: 30m, 24h.
    #[arg(long, env = "QBC_IMPORT_AGE", value_name = "TIME", value_parser = parse_time, default_value = "168h")]
    pub import_age: Duration,

    /// Where other nodes reach this one [default: localhost:PORT, or the machine's name if it listens on all addresses].
    #[arg(long, env = "QBC_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Networks that this node may call to discover others: CIDR networks, loopback, private, any, none.
    #[arg(long, env = "QBC_DISCOVER_ALLOW", value_name = "NETWORKS", default_value = "loopback,private")]
    pub discover_allow: Allowed,

    /// Join the cluster of the node that is reached there, such as localhost:5000; one with TLS as https://localhost:5000, which is meant
    /// without a scheme too where this node has TLS. A node that has joined once does not need it again.
    #[arg(long, env = "QBC_JOIN", value_name = "HOST:PORT")]
    pub join: Option<Said>,

    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// The secret of the cluster, hexadecimal digits [default: the file cluster.secret of the data folder, or of the folder
    /// beside it of the node that is joined; a first node makes one].
    #[arg(long, env = "QBC_SECRET", value_name = "DIGITS", hide_env_values = true, value_parser = str::parse::<Secret>)]
    pub secret: Option<Secret>,

    /// Cosign the checkpoints of the node or log with this key, as `qbc key` prints it; may be repeated.
    #[arg(long, env = "QBC_COSIGN", value_name = "KEY", value_delimiter = ',')]
    pub cosign: Vec<VerifierKey>,

    /// Have the checkpoints of all chains cosigned by this witness; may be repeated. `qbc key --witness` prints its key.
    #[arg(long, env = "QBC_WITNESS", value_name = "KEY@URL", value_delimiter = ',')]
    pub witness: Vec<Witness>,

    /// Follow the chain at this URL, such as `https://ledger.example/chains/orders`, whose checkpoints this key signs (`qbc key` there
    /// prints it); a URL without a chain is of the default one. May be repeated.
    #[arg(long, env = "QBC_MIRROR", value_name = "URL=KEY", value_delimiter = ',')]
    pub mirror: Vec<Wanted>,

    /// The token to show to the source of the mirror at this URL; may be repeated. Better by the variable, as others on this machine see
    /// command lines.
    #[arg(long, env = "QBC_MIRROR_TOKEN", value_name = "URL=TOKEN", value_delimiter = ',', hide_env_values = true)]
    pub mirror_token: Vec<Hidden>,

    /// Write on this chain though newer quants of it, signed by this node, are lost with a newer data folder; may be repeated,
    /// `*` is all. It is recorded: one start with it is enough.
    #[arg(long, env = "QBC_ACCEPT_ROLLBACK", value_name = "CHAIN", value_delimiter = ',', value_parser = parse_accepted)]
    pub accept_rollback: Vec<String>,

    /// Sites whose pages may use this node from a browser, such as `https://ledger.example`; may be repeated.
    #[arg(long, env = "QBC_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<Origin>,

    /// A name by which clients reach this node, such as ledger.example, besides IP addresses, localhost and the name of
    /// --advertise; may be repeated. Requests for other names are answered 421.
    #[arg(long, env = "QBC_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    pub allow_host: Vec<HostName>,

    /// Give the chains with these names metrics of their own, with their names as labels: orders-* is all names that begin so, and without
    /// a pattern it is all chains. At most 1,000 are told.
    #[arg(
        long,
        env = "QBC_METRICS_CHAINS",
        value_name = "PATTERN",
        num_args = 0..=1,
        default_missing_value = "*",
        value_delimiter = ',',
        value_parser = parse_pattern
    )]
    pub metrics_chains: Vec<String>,

    /// What is logged to stderr: error, warn, info, debug (a line for each request), or a tracing filter.
    #[arg(long, env = "QBC_LOG", value_name = "FILTER", default_value = "info", value_parser = parse_log)]
    pub log: String,

    /// Log JSON, a line an event.
    #[arg(long, env = "QBC_LOG_JSON")]
    pub log_json: bool,

    /// Take options from this file (TOML), by their names; those that are said here or by a variable count before. `qbc config` has more.
    #[arg(long, env = "QBC_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A host as it was said, with a scheme or without.
#[derive(Clone, Debug)]
pub struct Said {
    host: Host,
    has_scheme: bool,
}

impl FromStr for Said {
    type Err = DiscoverError;

    fn from_str(text: &str) -> Result<Said, DiscoverError> {
        Ok(Said { host: text.parse()?, has_scheme: text.contains("://") })
    }
}

impl Said {
    /// The host that is meant. A node with TLS means others with TLS.
    fn host(self, has_tls: bool) -> Host {
        if has_tls && !self.has_scheme { self.host.over_tls() } else { self.host }
    }
}

/// The name of a chain, or `*`.
fn parse_accepted(text: &str) -> Result<String, &'static str> {
    if text != "*" {
        text.parse::<ChainName>()?;
    }
    Ok(text.into())
}

/// The name of a chain, or the beginning of names with `*` behind it.
fn parse_pattern(text: &str) -> Result<String, String> {
    let start = text.strip_suffix('*').unwrap_or(text);
    match start.is_empty() && start != text || start.parse::<ChainName>().is_ok() {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is neither the name of a chain nor the beginning of one with * behind it")),
    }
}

/// The secret of the node's cluster: as it was said, or from its folder, or from that of the node that it joins, where both stand
/// in one; otherwise a new one. It is kept in the folder.
fn secret(data: &Path, said: Option<Secret>, join: Option<&Host>) -> anyhow::Result<Secret> {
    let kept = read_cluster_secret(data)?;
    let secret = match (said, join, kept.clone()) {
        (Some(said), ..) => said,
        (None, None, Some(kept)) => kept,
        (None, None, None) => Secret(rand::random()),
        (None, Some(host), kept) => {
            let text = host.to_string();
            let port = text.rsplit_once(':').map_or("", |(_, port)| port);
            let beside = data.parent().map(|parent| read_cluster_secret(&parent.join(port))).transpose()?.flatten();
            // Beside it stands the newest; the own one may be that of a node alone.
            beside.or(kept).with_context(|| {
                format!(
                    "--join {host} needs the secret of that node's cluster: --secret or QBC_SECRET, as it stands in the file \
                     {SECRET_FILE} of its data folder"
                )
            })?
        }
    };
    if kept.as_ref() != Some(&secret) {
        store::write_secret(data, SECRET_FILE, &secret.to_string())?;
    }
    Ok(secret)
}

/// The secret of a cluster that a data folder has, if it has one.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read_cluster_secret(data: &Path) -> anyhow::Result<Option<Secret>> {
    let path = data.join(SECRET_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let secret = text.parse().map_err(anyhow::Error::msg);
            secret.map(Some).with_context(|| format!("the file {}", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A time between automatic leaps.
///
/// # Errors
/// It is no time, or out of bounds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_time(text)?;
    if (limits::LEAP_EVERY_MIN..=limits::LEAP_EVERY_MAX).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("a time between leaps is {:?} to {:?}", limits::LEAP_EVERY_MIN, limits::LEAP_EVERY_MAX))
    }
}

/// A whole number with ms, s, m or h behind it.
///
/// # Errors
/// Anything else, in a sentence.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text:?} is no time like 500ms, 1s, 2m or 1h")),
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
    number.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is no time like 500ms, 1s, 2m or 1h"))
}

/// Runs a node until it is told to stop. Where it calls others, their certificates are of the system's authorities or of the `trusted`
/// ones.
///
/// # Errors
/// It cannot start.
pub async fn run(args: ServeArgs, trusted: Authorities) -> anyhow::Result<()> {
    // Its last lines are written when all else has ended.
    let (_log, refilter) = start_log(&args)?;
    let reloads = reloads(&args, refilter)?;
    let (most, witnesses) = (limits::WITNESSES, args.witness.len());
    ensure!(witnesses <= most, "a node has at most {most} witnesses, so that every reader takes their signatures");
    let (has_access, is_open) = (args.access.is_some(), args.open);
    let access = args.access.map(Watched::open).transpose()?;
    let mirrors = with_tokens(args.mirror, &args.mirror_token)?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))?;
    // Behind that, which tells of an address that is none of this machine. Nothing is taken yet.
    ensure_guarded(args.host, has_access, is_open)?;
    let address = listener.local_addr()?;
    let temporary = args.ephemeral.then(tempfile::tempdir).transpose().context("cannot make a temporary folder")?;
    let data = match (&temporary, args.data) {
        (Some(folder), _) => folder.path().join("data"),
        (None, Some(data)) => data,
        (None, None) => PathBuf::from("qbc-data").join(address.port().to_string()),
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let config = Config {
        data: data.clone(),
        pool_limit: args.max_pool,
        mining_threads: args.mining_threads.or(NonZero::new(processors - 1)).unwrap_or(NonZero::<usize>::MIN),
        cosign: Trusted::new(args.cosign).map_err(anyhow::Error::msg).context("--cosign")?,
        accept_rollback: args.accept_rollback,
        clock: Clock::default(),
        progress: opening(),
        joins: args.join.is_some(),
        leap: args.leap_every.map(|every| LeapPolicy { every_ms: Some(every.as_millis() as u64), transactions: None }),
    };
    let (stop, stopping) = watch::channel(false);
    // Before the log is read, which may take long.
    let tls = args.tls.start(stopping.clone())?;
    let join = args.join.map(|said| said.host(tls.is_some()));
    let host = own_host(args.advertise, address, tls.is_some())?;
    service::starting("the log is read");
    let (node, background) = Node::start(config).await?;

    let secret = secret(&data, args.secret, join.as_ref())?;
    let mut meeting = stopping.clone();
    let peers = start_peers(&node, host, args.discover_allow.clone(), &trusted, &stopping).await?;
    let Background { touched, sealed } = background;
    let pace = scrub::Pace { rate: args.scrub_rate.saturating_mul(1 << 20), pause: args.scrub_every };
    tokio::spawn(scrub::run(node.clone(), (pace.rate > 0).then_some(pace), stopping.clone()));

    tokio::spawn(node.clone().expire_imports(args.import_age, stopping.clone()));

    // Before witnesses tell what the node has signed: it may have to ask the other nodes of its cluster for that.
    let host = peers.host().to_string();
    let cluster = Cluster::start(node.clone(), secret, host, tls.clone(), stopping.clone()).await?;
    if args.witness.is_empty() {
        // Otherwise each new quant would wait there for ever.
        drop(sealed);
    } else {
        let (asked, all_asked) = oneshot::channel();
        tokio::spawn(witness::run(node.clone(), args.witness, trusted.clone(), sealed, asked, stopping.clone()));
        // An older copy of the folder is to take no write before its witnesses have told; one that is away tells nothing.
        let _ = tokio::time::timeout(limits::WITNESS_START, all_asked).await;
    }
    tokio::spawn(leap::run(node.clone(), touched, stopping.clone()));

    let advertised = peers.host().name().parse().map_err(anyhow::Error::msg).context("--advertise")?;
    let names = [vec![advertised], args.allow_host].concat();
    let in_force = access.as_ref().map(Watched::in_force);
    let admitted = Admitted { names, origins: args.cors_origin, access: in_force, share: args.client_share };
    if let Some(access) = access {
        tokio::spawn(access.run(stopping.clone()));
    }
    let (met, known) = (peers.clone(), cluster.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = meet(&met, &known) => {}
            _ = meeting.wait_for(|stopping| *stopping) => {}
        }
    });
    let allowed = args.discover_allow;
    let mirrors = Mirrors::start(node.clone(), cluster.clone(), allowed, &trusted, mirrors, stopping.clone()).await?;
    let shown_chains = ShownChains(args.metrics_chains);
    let app = App::new(node.clone(), cluster.clone(), peers, mirrors, admitted, shown_chains, stopping.clone());
    let signals = signals()?;
    tokio::spawn(async move {
        signals.await;
        tracing::info!("stopping");
        service::stopping();
        // Whoever listens is gone where the node has stopped already.
        let _ = stop.send(true);
    });
    let scheme = if tls.is_some() { "https" } else { "http" };
    let connections = connections();
    let of_address = args.client_share.of(connections);
    let bounds = http::Limits { connections, of_address, write_timeout: limits::WRITE_TIMEOUT };
    let mut serving = pin!(http::serve(listener, tls, app, bounds, stopping));
    let mut has_ended = false;
    if let Some(host) = &join {
        // The others reach this node while it joins.
        let first = host.to_string();
        tokio::select! {
            joined = cluster.join(&first) => joined.with_context(|| format!("--join {host}"))?,
            () = &mut serving => has_ended = true,
        }
    }
    tracing::info!(id = node.id(), chains = node.chain_count(), %address, "the node is ready");
    service::ready(&format!("the node is ready at {address}"));
    tokio::spawn(service::watchdog());
    // Not before, since each says in its end that the node is ready.
    tokio::spawn(reloads);
    // Nobody waits for it: a stdout that takes nothing keeps no node from serving.
    tokio::task::spawn_blocking(move || announce(scheme, address));
    if !has_ended {
        serving.await;
    }

    cluster.stop().await;
    let writers = node.end_writers();
    drop(node);
    // A writer ends when nobody can send to it any more: connections that were cut off and tasks that stop drop what they hold.
    let ended = tokio::task::spawn_blocking(move || writers.into_iter().try_for_each(|writer| writer.join()));
    match tokio::time::timeout(limits::DRAIN_TIMEOUT, ended).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(_) => bail!("the writer ended with a panic; what was acknowledged is on disk"),
        Err(_) => Ok(()),
    }
}

/// The mirrors that are named at the start, with the tokens that are named for them.
fn with_tokens(mut mirrors: Vec<Wanted>, tokens: &[Hidden]) -> anyhow::Result<Vec<Wanted>> {
    for named in tokens {
        let (from, token) = named.split_once('=').context("--mirror-token takes a URL, = and a token")?;
        let from: ChainUrl = from.parse().map_err(anyhow::Error::msg).context("--mirror-token")?;
        let mirror = mirrors.iter_mut().find(|mirror| mirror.from == from);
        let mirror = mirror.with_context(|| format!("--mirror-token names {from}, and no --mirror does"))?;
        mirror.token = Some(token.parse().map_err(anyhow::Error::msg).context("--mirror-token")?);
    }
    Ok(mirrors)
}

/// Names the option that is at fault where nobody can listen at an address.
pub fn cannot_listen(address: SocketAddr, error: &io::Error) -> anyhow::Error {
    let (ip, port) = (address.ip(), address.port());
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => "is another node running there? Choose another port with --port".into(),
        io::ErrorKind::PermissionDenied => format!("port {port} is reserved: choose one from 1024 on with --port"),
        _ => format!("{ip} is no address of this machine: --host takes one of its own, or 0.0.0.0 for all of them"),
    };
    anyhow::anyhow!("cannot listen on {address}: {cure} ({error})")
}

fn parse_threads(text: &str) -> Result<NonZero<usize>, String> {
    let threads = text.parse::<NonZero<usize>>().ok().filter(|threads| threads.get() <= limits::MINING_THREADS);
    threads.ok_or_else(|| format!("it is a number from 1 to {}", limits::MINING_THREADS))
}

/// A filter of the log. A word alone is a level, and no name of a part: a slip in it would have nothing logged.
fn parse_log(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| format!("it is no filter: {error}"))?;
    let is_level = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    let mut parts = text.split(',').filter(|part| text.is_empty() || !part.is_empty());
    match parts.find(|part| part.is_empty() || !part.contains(['=', '[', ']', '{', '}']) && !is_level(part)) {
        None => Ok(text.into()),
        Some(part) => Err(format!(
            "{:?} is no level: off, error, warn, info, debug or trace; a part of the program has its own as NAME=LEVEL",
            part.trim()
        )),
    }
}

/// What the log is to have.
fn log_filter(log: &str) -> anyhow::Result<EnvFilter> {
    // What names a part counts more than what names none.
    let quiet: &[&str] = if log == "off" { &[] } else { &[store::QUIET, cluster::QUIET, tls::QUIET] };
    let filter = EnvFilter::try_new([quiet, &[log]].concat().join(","));
    filter.with_context(|| format!("--log {log:?} is no filter"))
}

/// Gives the running log another filter.
type Refilter = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send>;

fn start_log(args: &ServeArgs) -> anyhow::Result<(log::Flushed, Refilter)> {
    let filter = log_filter(&args.log)?;
    // Caught once, it ends the process no more: a file that has reached its limit of size is a failed write as any other.
    drop(signal(SignalKind::from_raw(FILE_SIZE_SIGNAL)).context("cannot catch signals")?);
    let log = Log::start(std::io::stderr()).context("cannot start the log")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).log_internal_errors(false);
    let (started, refilter): (_, Refilter) = if args.log_json {
        let lines = lines.json().with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |filter| Ok(handle.reload(filter)?)))
    } else {
        let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |filter| Ok(handle.reload(filter)?)))
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    // A panic is a line of the log, so that it neither breaks lines of JSON nor waits for standard error.
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
    Ok((log::Flushed(log), refilter))
}

/// On SIGHUP, what the log is to have is taken over from the configuration. What else is changed there is named: it takes a restart.
fn reloads(args: &ServeArgs, refilter: Refilter) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let mut hangups = signal(SignalKind::hangup()).context("cannot catch signals")?;
    let started_with = args.config.as_deref().map(Configuration::read).transpose().map_err(anyhow::Error::msg)?;
    let file = args.config.clone();
    Ok(async move {
        while hangups.recv().await.is_some() {
            service::reloading();
            if let (Some(file), Some(started_with)) = (&file, &started_with) {
                match reload(file, started_with, &refilter) {
                    Ok(()) => tracing::info!("the configuration {} was read again", file.display()),
                    Err(error) => tracing::error!("all stays as it is: {error:#}"),
                }
            }
            service::ready("the node is ready");
        }
    })
}

fn reload(file: &Path, started_with: &Configuration, refilter: &Refilter) -> anyhow::Result<()> {
    let now = Configuration::read(file).map_err(anyhow::Error::msg)?;
    refilter(log_filter(&Cli::serve_args()?.log)?)?;
    let others: Vec<String> = now.differences(started_with).into_iter().filter(|name| name != "log").collect();
    if !others.is_empty() {
        tracing::warn!(
            "changed in {}, but in force only when the node is started again: {}",
            file.display(),
            others.join(", ")
        );
    }
    Ok(())
}

/// The first line on stdout, for scripts. Without it the node serves all the same.
fn announce(scheme: &str, address: SocketAddr) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "listening on {scheme}://{address}").and_then(|()| stdout.flush()) {
        tracing::warn!("cannot write to stdout that the node listens on {scheme}://{address}: {error}");
    }
}

/// Whether a node could start with these options, as far as that can be told without starting one.
///
/// # Errors
/// Why not.
pub fn check(args: &ServeArgs) -> anyhow::Result<()> {
    ensure_guarded(args.host, args.access.is_some(), args.open)?;
    args.access.as_deref().map(access::read).transpose()?;
    args.tls.check()?;
    Trusted::new(args.cosign.clone()).map_err(anyhow::Error::msg).context("--cosign")?;
    own_host(args.advertise.clone(), SocketAddr::new(args.host, args.port), args.tls.is_on()).map(|_| ())
}

/// Where others reach this node: by TLS where it has that.
fn own_host(advertise: Option<String>, address: SocketAddr, has_tls: bool) -> anyhow::Result<Host> {
    let advertise = advertise.unwrap_or_else(|| match address.ip() {
        ip if ip.is_loopback() => format!("localhost:{}", address.port()),
        ip if ip.is_unspecified() => {
            format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), address.port())
        }
        _ => address.to_string(),
    });
    let host = advertise.parse::<Host>();
    let host =
        host.map_err(|error| Usage(format!("cannot advertise {advertise:?}: {error}; say --advertise HOST:PORT")))?;
    if has_tls && advertise.starts_with("http://") {
        let detail =
            format!("cannot advertise {advertise:?}, since the node has TLS: say --advertise https://HOST:PORT");
        return Err(Usage(detail).into());
    }
    Ok(if has_tls { host.over_tls() } else { host })
}

async fn start_peers(
    node: &Node,
    host: Host,
    allowed: Allowed,
    trusted: &Authorities,
    stopping: &watch::Receiver<bool>,
) -> anyhow::Result<Peers> {
    let identity = Identity { id: node.id(), version: env!("CARGO_PKG_VERSION").into(), host };
    let peers = Peers::new(identity, allowed, trusted, node.nodes().await?);
    tokio::spawn(peers.clone().run(stopping.clone()));

    let (node, mut known, mut stopping) = (node.clone(), peers.known(), stopping.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            known.mark_unchanged();
            if let Err(error) = node.record_nodes(&known).await {
                tracing::warn!("the known nodes are not recorded: {error}");
            }
        }
    });
    Ok(peers)
}

/// Nodes of one cluster are nodes that know each other.
async fn meet(peers: &Peers, cluster: &Cluster) {
    let mut met = HashSet::new();
    loop {
        let (hosts, mut changed) = cluster.hosts();
        for host in hosts {
            // Where it cannot be called now, it tells of itself, or is asked when the cluster changes next.
            if !met.contains(&host) && peers.discover(&host).await.is_ok() {
                met.insert(host);
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Each connection is an open file, and so is each table of the store.
fn connections() -> usize {
    let files = rlimit::increase_nofile_limit(OWN_FILES + limits::CONNECTIONS as u64).unwrap_or(1_024);
    let connections = files.saturating_sub(OWN_FILES).max(files / 4);
    usize::try_from(connections).unwrap_or(usize::MAX).min(limits::CONNECTIONS)
}

/// Waits for SIGTERM or Ctrl-C. They are caught from the call on, and not from the first poll.
fn signals() -> anyhow::Result<impl Future<Output = ()>> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Shows how far the index is brought up to the log: a bar on a terminal, else a line of the log now and then.
fn opening() -> Progress {
    let bar = std::io::stderr().is_terminal().then(|| super::progress(false, super::Unit::Batches, 0));
    let told = std::sync::Mutex::new(std::time::Instant::now());
    Progress::new(move |batch, last| match &bar {
        Some(bar) => {
            bar.set_length(last);
            bar.set_position(batch);
            if batch >= last {
                bar.finish_and_clear();
            }
        }
        None => {
            let mut told = told.lock().expect("no holder of this lock panics");
            if told.elapsed() >= limits::OPENING_TOLD {
                *told = std::time::Instant::now();
                tracing::info!("the index is brought up to the log: batch {batch} of {last}");
                service::starting(&format!("the index is brought up to the log: batch {batch} of {last}"));
            }
        }
    })
}
