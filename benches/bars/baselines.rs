//! What the node is compared with: bare servers of its own kind, and other systems where they are installed.

use std::{
    fs::{self, File},
    io,
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use qbc::{
    cli::load::{self, median},
    log::{Log, LogError, Mark},
};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    DATA_BYTES, START_TIME, TIME,
    rig::{Bench, Posts},
};

/// The hidden argument with which this program is one of its own bare servers: `echo [FILE]` or `log FOLDER`.
pub const BASELINE: &str = "baseline";

/// Serves until it is killed.
pub fn serve(arguments: &[String]) -> Result<()> {
    let router = match arguments {
        [kind] if kind == "echo" => load::bare_router(Bytes::new()),
        [kind, file] if kind == "echo" => load::bare_router(fs::read(file)?.into()),
        [kind, folder] if kind == "log" => log_router(Path::new(folder))?,
        other => bail!("there is no bare server {other:?}"),
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on http://{}", listener.local_addr()?);
        Ok(load::serve_bare(listener, router).await?)
    })
}

/// A body that is to be made durable, and who waits for that.
type Waiting = (Bytes, oneshot::Sender<()>);

/// The ceiling of what the node can do: `POST /` parses a JSON value, makes the body durable in a log with one sync for all
/// that wait, and sends the value back. It knows nothing of chains.
fn log_router(folder: &Path) -> Result<Router> {
    let (mut log, _) = Log::open(folder, Mark::START, 1, |_| Ok::<(), LogError>(()))?;
    let (queue, waiting) = mpsc::channel::<Waiting>();
    thread::spawn(move || -> Result<()> {
        while let Ok(first) = waiting.recv() {
            let together: Vec<Waiting> = [first].into_iter().chain(waiting.try_iter()).collect();
            let mut batch = log.batch();
            together.iter().for_each(|(body, _)| {
                batch.push(body, []);
            });
            log.place(batch)?.write()?;
            // Whoever does not wait any more has dropped the other end.
            for (_, reply) in together {
                let _ = reply.send(());
            }
        }
        Ok(())
    });
    let inject = async move |body: Bytes| {
        let value: Value = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
        let (reply, done) = oneshot::channel();
        queue.send((body, reply)).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        done.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        Ok::<_, StatusCode>(axum::Json(value))
    };
    Ok(Router::new().route("/", post(inject)))
}

/// Prints which of the other systems are left out.
pub fn tell_missing() {
    if !Redis::is_installed() {
        eprintln!("left out: Redis (redis-server and redis-benchmark are not installed)");
    }
    if Postgres::programs().is_none() {
        eprintln!("left out: PostgreSQL (its server is not in {POSTGRES})");
    }
}

/// The text that other systems store.
fn text() -> String {
    "0123456789".repeat(DATA_BYTES / 10)
}

/// A port that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until a server is ready.
fn await_ready(server: &mut Child, mut is_ready: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_ready() {
        ensure!(server.try_wait()?.is_none() && start.elapsed() < START_TIME, "it does not become ready");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The output of a program that must not fail.
fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let [text, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "{command:?}: {text}{errors}");
    Ok(text)
}

/// A Redis that syncs each command before it is answered.
pub struct Redis {
    server: Child,
    port: u16,
}

impl Redis {
    fn is_installed() -> bool {
        let answers = |program| Command::new(program).arg("--version").output().is_ok_and(|run| run.status.success());
        answers("redis-server") && answers("redis-benchmark")
    }

    /// Starts one with an empty folder, where it is installed.
    pub fn start(bench: &Bench) -> Result<Option<Redis>> {
        if !Redis::is_installed() {
            return Ok(None);
        }
        let (port, folder) = (free_port()?, tempfile::tempdir_in(bench.folder.path())?.keep());
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(folder);
        // Without a snapshot or a shorter log, which would only cost it time in between.
        command.args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
            "--auto-aof-rewrite-percentage",
            "0",
        ]);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut redis = Redis { server, port };
        await_ready(&mut redis.server, || TcpStream::connect(("127.0.0.1", port)).is_ok()).context("redis-server")?;
        Ok(Some(redis))
    }

    /// Adds to a stream from so many connections, with so many commands under way on each. Its generator takes no time, only
    /// a number, so there is a short run before to find it.
    pub fn add(&self, connections: usize, pipeline: usize) -> Result<Posts> {
        let short = self.run(connections, pipeline, 500 * connections.max(pipeline))?;
        self.run(connections, pipeline, (short.rate * TIME.as_secs_f64()) as usize)
    }

    fn run(&self, connections: usize, pipeline: usize, count: usize) -> Result<Posts> {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "--csv"]);
        for (option, value) in [("-p", usize::from(self.port)), ("-c", connections), ("-P", pipeline), ("-n", count)] {
            command.args([option, &value.to_string()]);
        }
        let output = output_of(command.args(["XADD", "bars", "*", "data", &text()]))?;
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
        let figures = output.lines().last().unwrap_or_default().rsplit(',').take(7);
        let figures: Vec<f64> = figures.map_while(|figure| figure.trim_matches('"').parse().ok()).collect();
        let &[_, p99, _, p50, _, _, rate] = figures.as_slice() else {
            bail!("redis-benchmark gave other figures: {output}")
        };
        Ok(Posts { rate, p50: p50 * 1e3, p99: p99 * 1e3 })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Where Debian has the versions of PostgreSQL.
const POSTGRES: &str = "/usr/lib/postgresql";

/// A PostgreSQL that syncs each insert before it is answered.
pub struct Postgres {
    programs: PathBuf,
    /// It refuses to run as root: then the one whom Debian makes for it.
    user: Option<[u32; 2]>,
    folder: tempfile::TempDir,
    port: u16,
    server: Child,
}

impl Postgres {
    /// The folder of the newest version's programs.
    fn programs() -> Option<PathBuf> {
        let versions = fs::read_dir(POSTGRES).ok()?.flatten().map(|version| version.path().join("bin"));
        versions
            .filter(|programs| ["initdb", "postgres", "pgbench"].iter().all(|name| programs.join(name).exists()))
            .max()
    }

    /// Starts one with an empty table, where it is installed.
    pub fn start(bench: &Bench) -> Result<Option<Postgres>> {
        let Some(programs) = Postgres::programs() else { return Ok(None) };
        let user = match fs::metadata("/proc/self")?.uid() {
            0 => Some(user("postgres")?),
            _ => None,
        };
        // Beside that of all else, which only its owner may enter.
        let folder = tempfile::tempdir_in(bench.folder.path().parent().context("it is in a folder")?)?;
        if let Some([uid, gid]) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let (data, port) = (folder.path().join("data"), free_port()?);
        let mut initdb = program(&programs, "initdb", user);
        output_of(initdb.args(["--auth", "trust", "--username", "bars", "--no-locale", "-D"]).arg(&data))?;
        let mut postgres = program(&programs, "postgres", user);
        postgres.args(["-h", "127.0.0.1", "-k", "", "-c", "synchronous_commit=on", "-p", &port.to_string(), "-D"]);
        let log = File::create(bench.folder.path().join("postgres.log"))?;
        let server = postgres.arg(&data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut postgres = Postgres { programs, user, folder, port, server };
        let mut asked = program(&postgres.programs, "pg_isready", user);
        asked.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
        let is_ready = || asked.status().is_ok_and(|status| status.success());
        await_ready(&mut postgres.server, is_ready).context("postgres")?;
        postgres.run("CREATE TABLE bars (id bigserial PRIMARY KEY, data text NOT NULL)", &["-t", "1"])?;
        Ok(Some(postgres))
    }

    /// Inserts rows from so many connections.
    pub fn insert(&self, connections: usize) -> Result<Posts> {
        for entry in fs::read_dir(self.folder.path())?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(LATENCIES) {
                fs::remove_file(entry.path())?;
            }
        }
        let (connections, time) = (connections.to_string(), TIME.as_secs().to_string());
        let options = ["-c", &connections, "-j", "1", "-T", &time, "-M", "prepared", "-l", "--log-prefix", LATENCIES];
        let output = self.run(&format!("INSERT INTO bars (data) VALUES ('{}')", text()), &options)?;
        let rate = output.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        let rate = rate.with_context(|| format!("pgbench gave no rate: {output}"))?;
        let mut latencies = Vec::new();
        for entry in fs::read_dir(self.folder.path())?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(LATENCIES) {
                let lines = fs::read_to_string(entry.path())?;
                // The third field of a line is the time of one transaction.
                latencies.extend(lines.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
            }
        }
        latencies.sort_by(f64::total_cmp);
        let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        Ok(Posts { rate, p50: median(latencies), p99 })
    }

    /// Runs one statement again and again.
    fn run(&self, statement: &str, options: &[&str]) -> Result<String> {
        let script = self.folder.path().join("script.sql");
        fs::write(&script, format!("{statement};\n"))?;
        let mut pgbench = program(&self.programs, "pgbench", self.user);
        pgbench.current_dir(self.folder.path()).args(["-n", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        output_of(pgbench.args(["-U", "bars", "-f"]).arg(script).args(options).arg("postgres"))
    }
}

/// The start of the names of pgbench's files of latencies.
const LATENCIES: &str = "latencies";

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its other processes end with the first, if that is asked rather than killed.
        let asked = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}

fn program(programs: &Path, name: &str, user: Option<[u32; 2]>) -> Command {
    let mut command = Command::new(programs.join(name));
    if let Some([uid, gid]) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The ids of a user and of its group.
fn user(name: &str) -> Result<[u32; 2]> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    let line = line.with_context(|| format!("there is no user {name}, as whom PostgreSQL could run"))?;
    let mut ids = line.split(':').skip(1).take(2).map(str::parse);
    match (ids.next(), ids.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => Ok([uid, gid]),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)).context("/etc/passwd"),
    }
}
