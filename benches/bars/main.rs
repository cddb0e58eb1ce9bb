//! What the node must reach, measured: each bar beside its baseline, in interleaved rounds of one run.
//!
//! `cargo bench --bench bars` measures every row of [`ROWS`], `cargo bench --bench bars -- inject leap` those two. It
//! starts nodes of its own with data under `target/`, and its own bare servers (an echo, and a log without chains) in
//! processes of their own; Redis and PostgreSQL too, where they are installed. Single requests are made by `wrk` where
//! it is installed, all else by the generator of `qbc bench`, and those of other systems by their own. A row whose bar is
//! not met fails the run.

mod baselines;
mod reads;
mod rig;
mod store;
mod writes;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;

use baselines::BASELINE;
use rig::Bench;

/// The rows, by the names that select them.
const ROWS: [&str; 14] = [
    "inject", "one", "stream", "disk", "chain", "leap", "chains", "restart", "proofs", "verify", "events", "erase",
    "metrics", "pow",
];
/// Of node and baseline; the figures are medians over them.
const ROUNDS: usize = 3;
/// Of one measurement in a round.
const TIME: Duration = Duration::from_secs(4);
/// Of a whole row, after which it has failed.
const ROW_TIME: Duration = Duration::from_secs(240);
/// Until a process that was started has to be ready.
const START_TIME: Duration = Duration::from_secs(60);
/// What a node gets to flush what it was sent, before its memory or another figure is looked at.
const SETTLE: Duration = Duration::from_secs(3);

const DATA_BYTES: usize = 200;
const STREAMS: usize = 2;
const BLOCK_LINES: u64 = 250;
const MILLION: u64 = 1_000_000;
const MIB: f64 = 1024.0 * 1024.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|first| first == BASELINE) {
        return baselines::serve(&arguments[1..]);
    }
    if cfg!(debug_assertions) {
        println!("the bars are for a release build: cargo bench --bench bars");
        return Ok(());
    }
    if let Some(unknown) = arguments.iter().find(|argument| !ROWS.contains(&argument.as_str())) {
        bail!("{unknown} is no row: {}", ROWS.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // An interrupt ends the run by dropping it, and with it the processes that it started.
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            ended = measure_all(&arguments) => ended,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })
}

async fn measure_all(selected: &[String]) -> Result<()> {
    let bench = Bench::new()?;
    baselines::tell_missing();
    println!("{}\n", bench.describe());
    println!("| measure | figure | baseline | ratio | bar | met |\n| --- | --- | --- | --- | --- | --- |");
    let mut missed = 0;
    for row in ROWS.into_iter().filter(|row| selected.is_empty() || selected.iter().any(|name| name == row)) {
        eprintln!("measuring {row} …");
        let measured = timeout(ROW_TIME, measure(row, &bench)).await.context("it took too long").flatten();
        for line in measured.unwrap_or_else(|error| vec![Row::failed(row, &error)]) {
            missed += usize::from(line.is_missed());
            println!("{line}");
        }
    }
    ensure!(missed == 0, "{missed} bars were not met");
    Ok(())
}

async fn measure(row: &str, bench: &Bench) -> Result<Vec<Row>> {
    match row {
        "inject" => writes::inject(bench).await,
        "one" => writes::one(bench).await,
        "stream" => writes::stream(bench).await,
        "disk" => store::disk(bench).await,
        "chain" => Ok(vec![reads::chain_speed(bench).await?, reads::chain_memory(bench).await?]),
        "leap" => store::leap(bench).await,
        "chains" => store::chains(bench).await,
        "restart" => store::restart(bench).await,
        "proofs" => reads::proofs(bench).await,
        "verify" => reads::verify(bench).await,
        "erase" => Ok(vec![writes::inject_while_erasing(bench).await?]),
        "events" => reads::events(bench).await,
        "metrics" => writes::metrics(bench).await,
        _ => Ok(vec![writes::hashing()?, writes::inject_while_mining(bench).await?]),
    }
}

/// A line of the table.
struct Row {
    measure: String,
    figure: String,
    baseline: String,
    ratio: Option<f64>,
    bar: &'static str,
    met: bool,
}

impl Row {
    fn absolute(measure: &str, figure: f64, unit: &str, below: f64, bar: &'static str) -> Self {
        let figure_text = format!("{figure:.2} {unit}");
        Row {
            measure: measure.into(),
            figure: figure_text,
            baseline: "-".into(),
            ratio: None,
            bar,
            met: figure < below,
        }
    }

    /// A rate that must be at least so many times that of a baseline.
    fn rate(measure: &str, [rate, baseline]: [f64; 2], unit: &str, what: &str, least: f64, bar: &'static str) -> Self {
        Row {
            measure: measure.into(),
            figure: format!("{rate:.0}{unit}"),
            baseline: format!("{what} {baseline:.0}/s"),
            ratio: Some(rate / baseline),
            bar,
            met: rate / baseline >= least,
        }
    }

    /// A latency in microseconds that must be at most so many times that of a baseline.
    fn latency(measure: &str, [latency, baseline]: [f64; 2], what: &str, most: f64, bar: &'static str) -> Self {
        Row {
            measure: measure.into(),
            figure: format!("{:.3} ms", latency / 1e3),
            baseline: format!("{what} {:.3} ms", baseline / 1e3),
            ratio: Some(latency / baseline),
            bar,
            met: latency / baseline <= most,
        }
    }

    fn failed(row: &str, error: &anyhow::Error) -> Self {
        let figure = format!("failed: {error:#}").replace('|', "/");
        Row { measure: row.into(), figure, baseline: "-".into(), ratio: None, bar: FAILED, met: false }
    }

    fn is_missed(&self) -> bool {
        !self.met && self.bar != NO_BAR
    }
}

/// Of a row that is only told.
const NO_BAR: &str = "none";
/// Of a row that could not be measured.
const FAILED: &str = "-";

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { measure, figure, baseline, ratio, bar, met } = self;
        let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let met = if *bar == NO_BAR {
            "-"
        } else if *met {
            "yes"
        } else {
            "**no**"
        };
        write!(f, "| {measure} | {figure} | {baseline} | {ratio} | {bar} | {met} |")
    }
}
