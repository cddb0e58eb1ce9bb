//! What the rows share: nodes and other processes, loads, and single requests.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use qbc::cli::load::{self, Target, median};
use serde_json::Value;

use crate::{BASELINE, BLOCK_LINES, DATA_BYTES, ROUNDS, START_TIME, STREAMS, TIME};

/// What the rows share: the folder that all data is in, and what makes single requests.
pub struct Bench {
    pub folder: tempfile::TempDir,
    wrk: bool,
}

/// Of one load of single requests: latencies in microseconds.
pub struct Posts {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let body = String::from_utf8(load::inject_body(DATA_BYTES))?;
        let script = format!(
            "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{body}'\n\
             done = function(summary, latency)\n  local e = summary.errors\n\
             io.write(string.format('figures %d %d %d %d %d\\n', summary.requests, summary.duration, \
             latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))\nend\n"
        );
        std::fs::write(folder.path().join("post.lua"), script)?;
        let wrk = Command::new("wrk").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        Ok(Bench { folder, wrk })
    }

    pub fn describe(&self) -> String {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let generator = if self.wrk { "wrk -t1" } else { "the crate's own generator, as wrk is not installed" };
        format!(
            "{cores} cores, shared with the load; single requests by {generator}; medians of {ROUNDS} interleaved rounds."
        )
    }

    /// Starts a node on the data folder of that name, with what an earlier one left there.
    pub fn node(&self, name: &str) -> Result<Process> {
        let mut node = Command::new(env!("CARGO_BIN_EXE_qbc"));
        node.args(["--port", "0", "--data"]).arg(self.folder.path().join(name));
        Process::start(node, self.folder.path().join(format!("{name}.log")))
    }

    /// Starts the bare axum server, to serve that file from memory.
    pub fn baseline(&self, file: Option<&Path>) -> Result<Process> {
        let mut baseline = Command::new(std::env::current_exe()?);
        baseline.args([BASELINE, "echo"]).args(file);
        Process::start(baseline, self.folder.path().join("echo.log"))
    }

    /// Starts the bare log behind axum, with a log of that name.
    pub fn bare_log(&self, name: &str) -> Result<Process> {
        let mut baseline = Command::new(std::env::current_exe()?);
        baseline.args([BASELINE, "log"]).arg(self.folder.path().join(format!("{name}-bare-log")));
        Process::start(baseline, self.folder.path().join("bare-log.log"))
    }

    pub async fn posts(&self, target: &Target, path: &str, connections: usize) -> Result<Posts> {
        if self.wrk {
            return self.wrk(&format!("{target}{path}"), connections);
        }
        let request = target.post(path, &load::inject_body(DATA_BYTES));
        let measured = load::requests(target, connections, load::repeat(request, TIME)).await?;
        measured.check()?;
        let [p50, p99] = [50.0, 99.0].map(|percent| measured.percentile(percent).into());
        Ok(Posts { rate: measured.rate(), p50, p99 })
    }

    fn wrk(&self, url: &str, connections: usize) -> Result<Posts> {
        let (connections, time) = (connections.to_string(), TIME.as_secs().to_string());
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c", &connections, "-d", &time, "-s"]).arg(self.folder.path().join("post.lua")).arg(url);
        let output = wrk.output().context("wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let figures = text.lines().find_map(|line| line.strip_prefix("figures "));
        let figures =
            figures.with_context(|| format!("wrk gave no figures: {}", String::from_utf8_lossy(&output.stderr)))?;
        let figures = figures.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let &[requests, micros, p50, p99, errors] = figures.as_slice() else { bail!("wrk gave other figures: {text}") };
        ensure!(errors == 0.0, "wrk counted {errors} errors on {url}");
        Ok(Posts { rate: requests / micros * 1e6, p50, p99 })
    }

    /// The median microseconds of appending 4 KiB to a file and syncing its data.
    pub fn append_and_sync(&self) -> Result<f64> {
        let mut file = File::create(self.folder.path().join("append"))?;
        let mut times = Vec::new();
        for _ in 0..300 {
            let start = Instant::now();
            file.write_all(&[0x55; 4096])?;
            file.sync_data()?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(median(times))
    }
}

/// A process that serves, and that is killed when this is dropped.
pub struct Process {
    child: Child,
    pub target: Target,
    /// From its start until it listened.
    pub ready: Duration,
}

impl Process {
    /// Starts it and waits for the first line of its output, `listening on URL`. What it logs goes to a file.
    pub fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let start = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?).spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut process = Process { child, target: Target::parse("http://localhost")?, ready: Duration::ZERO };
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            if output.read_line(&mut line).is_ok() && sender.send((line, start.elapsed())).is_ok() {
                // The pipe stays open and is emptied, so that no later output stops the process.
                let _ = std::io::copy(&mut output, &mut std::io::sink());
            }
        });
        let (line, ready) = receiver.recv_timeout(START_TIME).unwrap_or_default();
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            bail!("{command:?} does not listen: {line}{}", std::fs::read_to_string(log)?);
        };
        (process.target, process.ready) = (Target::parse(url)?, ready);
        Ok(process)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(asked.success() && self.child.wait()?.success(), "it did not shut down cleanly");
        Ok(())
    }

    /// The processor time that it has used (proc(5), `utime` and `stime`, in hundredths of a second on every Linux).
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the program stands in parentheses, and is the second of the fields, which are counted from 1.
        let fields = stat.rsplit_once(')').context("/proc tells no stat")?.1;
        let ticks = fields
            .split_whitespace()
            .skip(14 - 3)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, std::num::ParseIntError>>()?;
        Ok(Duration::from_millis(10 * ticks))
    }

    /// Its resident memory in MiB (proc(5), `VmRSS`).
    pub fn memory(&self) -> Result<f64> {
        let mut status = String::new();
        File::open(format!("/proc/{}/status", self.child.id()))?.read_to_string(&mut status)?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(kib.context("/proc does not tell VmRSS")?.parse::<f64>()? / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// One request each, on a connection that stands before the time is taken.

pub async fn send(target: &Target, path: &str, body: &Value) -> Result<Duration> {
    let (mut connection, mut answer) = (target.connect().await?, Vec::new());
    let request = target.post(path, body.to_string().as_bytes());
    let start = Instant::now();
    let status = connection.ask(&request, Some(&mut answer)).await?;
    let time = start.elapsed();
    ensure!(status.is_success(), "POST {path}: {} {}", status.status, String::from_utf8_lossy(&answer));
    Ok(time)
}

/// Reads a body of at least that many bytes and throws it away.
pub async fn read(target: &Target, path: &str, least: u64) -> Result<Duration> {
    let mut connection = target.connect().await?;
    let start = Instant::now();
    let answer = connection.ask(&target.get(path), None).await?;
    let time = start.elapsed();
    ensure!(answer.is_success() && answer.length >= least, "GET {path}: {answer:?}, not {least} bytes");
    Ok(time)
}

pub async fn get(target: &Target, path: &str) -> Result<Value> {
    let mut body = Vec::new();
    let answer = target.connect().await?.ask(&target.get(path), Some(&mut body)).await?;
    ensure!(answer.is_success(), "GET {path}: {answer:?}");
    Ok(serde_json::from_slice(&body)?)
}

/// Injects that many transactions, a multiple of [`BLOCK_LINES`], by streams.
pub async fn fill(target: &Target, chain: &str, count: u64) -> Result<()> {
    let block = load::block(&load::inject_body(DATA_BYTES), BLOCK_LINES as usize);
    let blocks = AtomicU64::new(count / BLOCK_LINES);
    let next = move || {
        let left = blocks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.is_ok().then(|| block.clone())
    };
    let filled = load::stream(target, &format!("/chains/{chain}/inject"), STREAMS, next).await?;
    filled.check()?;
    ensure!(filled.done == count, "of {count} transactions {} were accepted", filled.done);
    Ok(())
}
