//! What a person sees while a quant is mined: how long it may take before it begins, and that it goes on.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    num::NonZero,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use reqwest::Response;
use serde::Deserialize;

use super::connection::Connection;
use crate::core::{
    count::{Height, Size},
    hash::Hash,
    quant::Header,
    rules::Rules,
    transaction::Timestamp,
};

/// What is expected to take longer is not begun without a word.
const LONG: Duration = Duration::from_secs(60);

/// How long the speed of this machine is measured.
const MEASURE: Duration = Duration::from_millis(20);

/// Proofs that are tried between two looks at the clock.
const SLICE: u64 = 1 << 12;

/// The spinner turns so often.
const TICK: Duration = Duration::from_millis(100);

/// Sends a request that makes the node mine a quant of this difficulty. What takes long is asked for once more on a terminal,
/// or warned of, unless `yes` says that it is meant.
///
/// # Errors
/// Those of the request; or the answer is no.
pub async fn watch(
    node: &Connection,
    difficulty: u8,
    yes: bool,
    request: impl Future<Output = anyhow::Result<Response>>,
) -> anyhow::Result<Response> {
    // A node refuses what is above the limit.
    let expected = (difficulty <= Rules::DIFFICULTY_LIMIT).then(|| expected(difficulty));
    let long = expected.filter(|expected| *expected > LONG && !yes);
    if let Some(expected) = long {
        let about = HumanDuration(expected);
        let detail = format!("a quant of difficulty {difficulty} takes about {about} at the speed of this machine");
        if !node.json && io::stdin().is_terminal() && io::stderr().is_terminal() {
            confirm(&detail)?;
        } else {
            node.note(
                "warning",
                &format!("{detail}; whoever ends this command ends the mining (--yes: without this warning)"),
            );
        }
    }
    let spinner = if node.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let style = ProgressStyle::with_template("{spinner} mining for {elapsed}{msg}").expect("the template is valid");
    spinner.set_style(style);
    if let Some(expected) = expected.filter(|expected| *expected > Duration::from_secs(1)) {
        spinner.set_message(format!(", expected are about {}", HumanDuration(expected)));
    }
    spinner.enable_steady_tick(TICK);
    let answer = request.await;
    spinner.finish_and_clear();
    answer
}

fn confirm(detail: &str) -> anyhow::Result<()> {
    let mut err = io::stderr();
    write!(err, "{detail}. Begin? [y/N] ").and_then(|()| err.flush())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was mined"),
    }
}

/// The difficulty of the connection's chain.
///
/// # Errors
/// There is no such chain, or no answer.
pub async fn difficulty_of(node: &Connection) -> anyhow::Result<u8> {
    #[derive(Deserialize)]
    struct Chain {
        rules: Difficulty,
    }
    #[derive(Deserialize)]
    struct Difficulty {
        difficulty: u8,
    }
    let chain: Chain = node.ask(node.get(node.url_of_chain())).await?;
    Ok(chain.rules.difficulty)
}

/// How long it takes to find a proof, on average, where all threads but one of this machine mine.
fn expected(difficulty: u8) -> Duration {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1);
    let seconds = 2f64.powi(difficulty.into()) / (hashes_per_second() * threads as f64);
    Duration::from_secs_f64(seconds)
}

fn hashes_per_second() -> f64 {
    let timestamp = Timestamp::from_micros(0).expect("the epoch is a time");
    let zero = Hash::ZERO;
    // No hash meets it.
    let header = Header {
        index: Height::FIRST,
        timestamp,
        difficulty: u8::MAX,
        previous_hash: zero,
        root: zero,
        size: Size::ZERO,
    };
    let (started, mut tried) = (Instant::now(), 0);
    while started.elapsed() < MEASURE {
        header.mine(tried..tried + SLICE);
        tried += SLICE;
    }
    tried as f64 / started.elapsed().as_secs_f64()
}
