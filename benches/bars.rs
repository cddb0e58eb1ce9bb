//! What the node must reach, measured: each bar beside its baseline, in interleaved rounds of one run.
//!
//! `cargo bench --bench bars` measures every row of [`ROWS`], `cargo bench --bench bars -- inject leap` those two. It
//! starts nodes of its own with data under `target/`, and its own bare axum server in a process of its own. Single
//! requests are made by `wrk` where it is installed, all else by the generator of `qbc bench`. A row whose bar is not
//! met fails the run.

use std::{
    fs::File,
    hint::black_box,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use qbc::{
    cli::load::{self, Target, median},
    core::{hash::Hash, quant::Header, transaction::Timestamp},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

/// The rows, by the names that select them.
const ROWS: [&str; 12] =
    ["inject", "one", "stream", "chain", "leap", "chains", "restart", "proofs", "verify", "events", "erase", "pow"];
/// Of node and baseline; the figures are medians over them.
const ROUNDS: usize = 3;
/// Of one measurement in a round.
const TIME: Duration = Duration::from_secs(4);
/// Of a whole row, after which it has failed.
const ROW_TIME: Duration = Duration::from_secs(180);
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
        return serve_baseline(arguments.get(1));
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
    println!("{}\n", bench.describe());
    println!("| measure | figure | baseline | ratio | bar | met |\n| --- | --- | --- | --- | --- | --- |");
    let mut missed = 0;
    for row in ROWS.into_iter().filter(|row| selected.is_empty() || selected.iter().any(|name| name == row)) {
        eprintln!("measuring {row} …");
        let measured = timeout(ROW_TIME, measure(row, &bench)).await.context("it took too long").flatten();
        for line in measured.unwrap_or_else(|error| vec![Row::failed(row, &error)]) {
            missed += usize::from(!line.met);
            println!("{line}");
        }
    }
    ensure!(missed == 0, "{missed} bars were not met");
    Ok(())
}

async fn measure(row: &str, bench: &Bench) -> Result<Vec<Row>> {
    match row {
        "inject" => inject(bench).await,
        "one" => one(bench).await,
        "stream" => stream(bench).await,
        "chain" => Ok(vec![chain_speed(bench).await?, chain_memory(bench).await?]),
        "leap" => leap(bench).await,
        "chains" => chains(bench).await,
        "restart" => restart(bench).await,
        "proofs" => proofs(bench).await,
        "verify" => verify(bench).await,
        "erase" => Ok(vec![inject_while_erasing(bench).await?]),
        "events" => events(bench).await,
        _ => Ok(vec![hashing()?, inject_while_mining(bench).await?]),
    }
}

// The rows.

async fn inject(bench: &Bench) -> Result<Vec<Row>> {
    let (node, echo) = (bench.node("inject")?, bench.baseline(None)?);
    let (mut rates, mut echoed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        echoed.push(bench.posts(&echo.target, "/", 64).await?.rate);
        rates.push(bench.posts(&node.target, "/inject", 64).await?.rate);
    }
    let (rate, echo) = (median(rates), median(echoed));
    Ok(vec![Row {
        measure: "`POST /inject`, 200-byte data, 64 connections".into(),
        figure: format!("{rate:.0}/s"),
        baseline: format!("axum echo {echo:.0}/s"),
        ratio: Some(rate / echo),
        bar: "at least 0.5",
        met: rate / echo >= 0.5,
    }])
}

async fn one(bench: &Bench) -> Result<Vec<Row>> {
    let node = bench.node("one")?;
    let (mut injects, mut syncs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        syncs.push(bench.append_and_sync()?);
        injects.push(bench.posts(&node.target, "/inject", 1).await?.p50);
    }
    let (inject, sync) = (median(injects), median(syncs));
    Ok(vec![Row {
        measure: "the same, 1 connection, p50".into(),
        figure: format!("{:.3} ms", inject / 1e3),
        baseline: format!("4 KiB append + fdatasync {:.3} ms", sync / 1e3),
        ratio: Some(inject / sync),
        bar: "at most 2.5",
        met: inject / sync <= 2.5,
    }])
}

async fn stream(bench: &Bench) -> Result<Vec<Row>> {
    let (node, echo) = (bench.node("stream")?, bench.baseline(None)?);
    let block = load::block(&load::inject_body(DATA_BYTES), BLOCK_LINES as usize);
    let (mut rates, mut echoed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        echoed.push(bench.posts(&echo.target, "/", 64).await?.rate);
        let streamed = load::stream(&node.target, "/inject", STREAMS, load::repeat(block.clone(), TIME)).await?;
        streamed.check()?;
        rates.push(streamed.rate());
    }
    let (rate, echo) = (median(rates), median(echoed));
    Ok(vec![Row {
        measure: format!("NDJSON inject, 200-byte data, {STREAMS} streams"),
        figure: format!("{rate:.0} transactions/s"),
        baseline: format!("axum echo, 64 connections {echo:.0}/s"),
        ratio: Some(rate / echo),
        bar: "at least 3.5",
        met: rate / echo >= 3.5,
    }])
}

async fn chain_speed(bench: &Bench) -> Result<Row> {
    let node = bench.node("chain-100000")?;
    fill(&node.target, "qbc", 100_000).await?;
    send(&node.target, "/leap", &json!({})).await?;
    let mut chain = Vec::new();
    let answer = node.target.connect().await?.ask(&node.target.get("/chain"), Some(&mut chain)).await?;
    let bytes = answer.length;
    ensure!(answer.is_success() && bytes > 100_000 * DATA_BYTES as u64, "GET /chain: {answer:?}");
    let file = bench.folder.path().join("chain.json");
    std::fs::write(&file, &chain)?;
    let memory = bench.baseline(Some(&file))?;
    let (mut reads, mut copies) = (Vec::new(), Vec::new());
    for _ in 0..3 * ROUNDS {
        copies.push(read(&memory.target, "/", bytes).await?.as_secs_f64());
        reads.push(read(&node.target, "/chain", bytes).await?.as_secs_f64());
    }
    let (read, copy) = (median(reads), median(copies));
    Ok(Row {
        measure: format!("`GET /chain` of 100,000, {:.0} MiB", bytes as f64 / MIB),
        figure: format!("{:.0} ms", read * 1e3),
        baseline: format!("axum from memory {:.0} ms", copy * 1e3),
        ratio: Some(read / copy),
        bar: "at most 6",
        met: read / copy <= 6.0,
    })
}

/// The node is started anew before the read, so that memory which the filling left free does not hide what reading takes.
async fn chain_memory(bench: &Bench) -> Result<Row> {
    let mut node = bench.node("chain-1000000")?;
    fill(&node.target, "qbc", MILLION).await?;
    send(&node.target, "/leap", &json!({})).await?;
    drop(node);
    node = bench.node("chain-1000000")?;
    sleep(SETTLE).await;
    let before = node.memory()?;
    let mut most = before;
    let mut reading = std::pin::pin!(read(&node.target, "/chain", MILLION * DATA_BYTES as u64));
    let time = loop {
        tokio::select! {
            time = &mut reading => break time?,
            () = sleep(Duration::from_millis(2)) => most = most.max(node.memory()?),
        }
    };
    let growth = most.max(node.memory()?) - before;
    Ok(Row {
        measure: format!("`GET /chain` of 1,000,000 in {:.1} s: memory more", time.as_secs_f64()),
        figure: format!("{growth:.1} MiB"),
        baseline: format!("before {before:.1} MiB"),
        ratio: None,
        bar: "below 64 MiB",
        met: growth < 64.0,
    })
}

async fn leap(bench: &Bench) -> Result<Vec<Row>> {
    const LARGE: [&str; 2] = ["large", "small"];
    let node = bench.node("leap")?;
    let target = &node.target;
    for name in LARGE {
        send(target, "/bang", &json!({"name": name, "difficulty": 0})).await?;
    }
    let (mut leaps, mut forks) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..ROUNDS {
        fill(target, LARGE[0], MILLION).await?;
        fill(target, LARGE[1], 1_000).await?;
        // Whichever is first waits for more of the engine's work on the million, so they take turns.
        for which in [round % 2, (round + 1) % 2] {
            leaps[which].push(send(target, &format!("/chains/{}/leap", LARGE[which]), &json!({})).await?);
        }
        for fork in 0..if round == 0 { 3 * ROUNDS } else { 0 } {
            for which in [0, 1] {
                let name = LARGE[which];
                let body = json!({"name": format!("{name}-fork-{fork}")});
                forks[which].push(send(target, &format!("/chains/{name}/fork"), &body).await?);
            }
        }
    }
    let row = |measure: &str, [large, small]: [Vec<Duration>; 2]| {
        let [large, small] = [large, small].map(|times| median(times.iter().map(Duration::as_secs_f64)) * 1e3);
        Row {
            measure: measure.into(),
            figure: format!("{large:.2} ms"),
            baseline: format!("1,000: {small:.2} ms"),
            ratio: Some(large / small),
            bar: "same within noise (1.5), below 10 ms",
            met: large < 10.0 && large / small <= 1.5,
        }
    };
    Ok(vec![row("leap with 1,000,000 pooled, difficulty 0", leaps), row("fork of a chain of 1,000,000", forks)])
}

async fn chains(bench: &Bench) -> Result<Vec<Row>> {
    const CHAINS: usize = 10_000;
    let node = bench.node("chains")?;
    let bang = |number| node.target.post("/bang", json!({"name": format!("c{number}")}).to_string().as_bytes());
    let bangs = Mutex::new((0..CHAINS).map(bang).collect::<Vec<_>>());
    let made = load::requests(&node.target, 16, move || bangs.lock().expect("no panic holds it").pop()).await?;
    made.check()?;
    sleep(SETTLE).await;
    let memory = node.memory()?;
    drop(node);
    let node = bench.node("chains")?;
    let (made, ready) = (made.elapsed.as_secs_f64(), node.ready.as_secs_f64());
    Ok(vec![
        Row::absolute("10,000 chains of the default difficulty, 16 connections", made, "s", 10.0, "below 10 s"),
        Row::absolute("resident memory with 10,000 chains, idle", memory, "MiB", 200.0, "below 200 MiB"),
        Row::absolute("start after kill -9 with 10,000 chains", ready, "s", 2.0, "below 2 s"),
    ])
}

async fn restart(bench: &Bench) -> Result<Vec<Row>> {
    let mut node = bench.node("restart")?;
    fill(&node.target, "qbc", MILLION).await?;
    let mut rows = Vec::new();
    for state in ["pooled", "sealed"] {
        drop(node);
        node = bench.node("restart")?;
        let measure = format!("restart after kill -9 with 1,000,000 {state}");
        rows.push(Row::absolute(&measure, node.ready.as_secs_f64(), "s", 2.0, "below 2 s"));
        let size = get(&node.target, "/stats").await?["size"].as_u64();
        ensure!(size == Some(MILLION + 1), "the size after the restart is {size:?}, not a million and the bang");
        send(&node.target, "/leap", &json!({})).await?;
    }
    Ok(rows)
}

/// `qbc verify` of a million: of an export, of the live node, and of its data folder when it has stopped.
async fn verify(bench: &Bench) -> Result<Vec<Row>> {
    let node = bench.node("verify")?;
    fill(&node.target, "qbc", MILLION).await?;
    send(&node.target, "/leap", &json!({})).await?;
    let qbc = |arguments: &[&str]| {
        let started = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_qbc")).args(arguments).output()?;
        ensure!(output.status.success(), "qbc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(started.elapsed().as_secs_f64())
    };
    let url = node.target.to_string();
    let path = |name: &str| bench.folder.path().join(name).display().to_string();
    let (export, folder) = (path("verify.ndjson"), path("verify"));
    qbc(&["--node", &url, "export", "--out", &export])?;
    let mut rows = Vec::new();
    let mut row = |what: &str, target: &str| -> Result<()> {
        let times = (0..ROUNDS).map(|_| qbc(&["verify", target])).collect::<Result<Vec<_>>>()?;
        let rate = MILLION as f64 / median(times);
        rows.push(Row {
            measure: format!("`qbc verify` of 1,000,000: {what}"),
            figure: format!("{rate:.0}/s"),
            baseline: String::new(),
            ratio: None,
            bar: "at least 400,000/s",
            met: rate >= 400_000.0,
        });
        Ok(())
    };
    row("an export", &export)?;
    row("a live node", &url)?;
    drop(node);
    row("a stopped node's folder", &folder)?;
    Ok(rows)
}

/// The miner's loop against nothing but the compression function, each on every core.
fn hashing() -> Result<Row> {
    let header = Header {
        index: 1,
        timestamp: Timestamp::from_micros(0).context("1970 is a time")?,
        difficulty: 255,
        previous_hash: Hash::ZERO,
        root: Hash::ZERO,
        size: 1,
    };
    // No proof meets this difficulty, so a range is always tried to its end.
    let mine = |first: u64, tries: u64| {
        black_box(header.mine(first..first + tries));
    };
    let raw = |first: u64, tries: u64| {
        let mut block = [0; 64];
        for nonce in first..first + tries {
            let mut state = [0; 8];
            block[..8].copy_from_slice(&nonce.to_be_bytes());
            sha2::block_api::compress256(&mut state, std::slice::from_ref(&block));
            black_box(state);
        }
    };
    let (mut mined, mut hashed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        hashed.push(tries_a_second(raw));
        mined.push(tries_a_second(mine));
    }
    let (mined, hashed) = (median(mined), median(hashed));
    Ok(Row {
        measure: format!("proof of work, {} cores", thread::available_parallelism()?),
        figure: format!("{:.1} million/s", mined / 1e6),
        baseline: format!("single-block SHA-256 {:.1} million/s", hashed / 1e6),
        ratio: Some(mined / hashed),
        bar: "at least 0.8",
        met: mined / hashed >= 0.8,
    })
}

/// Counts tries, made in ranges of `(first, how many)`, on all cores for a second.
fn tries_a_second(attempt: impl Fn(u64, u64) + Sync) -> f64 {
    const RANGE: u64 = 1 << 18;
    let next = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while start.elapsed() < Duration::from_secs(1) {
                    attempt(next.fetch_add(RANGE, Ordering::Relaxed), RANGE);
                }
            });
        }
    });
    next.into_inner() as f64 / start.elapsed().as_secs_f64()
}

async fn inject_while_mining(bench: &Bench) -> Result<Row> {
    let (mut idle, mut mining) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Nothing stops the mining but the end of its node.
        let node = bench.node(&format!("mining-{round}"))?;
        let target = &node.target;
        send(target, "/bang", &json!({"name": "light", "difficulty": 0})).await?;
        idle.push(bench.posts(target, "/chains/light/inject", 64).await?.p99);
        let mut miner = target.connect().await?;
        let heavy = target.post("/bang", json!({"name": "heavy", "difficulty": 40}).to_string().as_bytes());
        let mined = {
            let mut mine = std::pin::pin!(miner.ask(&heavy, None));
            // The bang goes out here, before the load, which may hold this thread.
            let early = timeout(Duration::from_millis(200), &mut mine).await;
            mining.push(bench.posts(target, "/chains/light/inject", 64).await?.p99);
            if early.is_ok() { early } else { timeout(Duration::from_millis(10), mine).await }
        };
        ensure!(mined.is_err(), "mining with difficulty 40 ended too early: {mined:?}");
    }
    let (idle, mining) = (median(idle) / 1e3, median(mining) / 1e3);
    Ok(Row {
        measure: "p99 of `POST /inject`, 64 connections, while mining".into(),
        figure: format!("{mining:.2} ms"),
        baseline: format!("not mining {idle:.2} ms"),
        ratio: Some(mining / idle),
        bar: "at most 3",
        met: mining / idle <= 3.0,
    })
}

/// Receipts, consistency proofs and tiles of a chain of a million in a hundred quants.
async fn proofs(bench: &Bench) -> Result<Vec<Row>> {
    const QUANTS: u64 = 100;
    let node = bench.node("proofs")?;
    for _ in 0..QUANTS {
        fill(&node.target, "qbc", MILLION / QUANTS).await?;
        send(&node.target, "/leap", &json!({})).await?;
    }
    sleep(SETTLE).await;
    let mut random = rand_below();
    let receipts: Vec<Bytes> =
        (0..10_000).map(|_| node.target.get(&format!("/transactions/{}/receipt", random(MILLION)))).collect();
    let mut consistency =
        |from| node.target.get(&format!("/consistency?from={from}&to={}", from + random(MILLION - from) + 1));
    let consistency: Vec<Bytes> = (0..10_000).map(|place| consistency(place * 97)).collect();
    let tiles = (0..3_906).map(|number| format!("/tile/0/{}", tile_number(number)));
    let tiles: Vec<Bytes> = tiles.map(|path| node.target.get(&path)).collect();

    let mut tile = Vec::new();
    let answer = node.target.connect().await?.ask(&tiles[7], Some(&mut tile)).await?;
    ensure!(answer.is_success() && answer.length == 8_192, "a tile: {answer:?}");
    let file = bench.folder.path().join("tile");
    std::fs::write(&file, &tile)?;
    let memory = bench.baseline(Some(&file))?;
    let same = vec![memory.target.get("/")];
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let asked = [(&node, &receipts), (&node, &consistency), (&node, &tiles), (&memory, &same)];
        for (rates, (process, requests)) in rates.iter_mut().zip(asked) {
            rates.push(gets(&process.target, requests.clone()).await?);
        }
    }
    let [receipts, consistency, tiles, same] = rates.map(median);
    let proof = |measure: &str, rate: f64| Row {
        measure: measure.into(),
        figure: format!("{rate:.0}/s"),
        baseline: "-".into(),
        ratio: None,
        bar: "at least 10,000/s",
        met: rate >= 10_000.0,
    };
    Ok(vec![
        proof("receipts of a chain of 1,000,000, 16 connections", receipts),
        proof("consistency proofs of the same", consistency),
        Row {
            measure: "its tiles, 8 KiB".into(),
            figure: format!("{tiles:.0}/s"),
            baseline: format!("axum from memory {same:.0}/s"),
            ratio: Some(tiles / same),
            bar: "at least 0.5",
            met: tiles / same >= 0.5,
        },
    ])
}

/// Numbers below a bound, the same in each run (SplitMix64).
fn rand_below() -> impl FnMut(u64) -> u64 {
    let mut state = 1u64;
    move |end| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % end
    }
}

/// The number of a tile below a million in its path (C2SP tlog-tiles).
fn tile_number(number: u64) -> String {
    if number < 1_000 { format!("{number:03}") } else { format!("x{:03}/{:03}", number / 1_000, number % 1_000) }
}

/// Requests a second that 16 connections get answered, each in its turn.
async fn gets(target: &Target, requests: Vec<Bytes>) -> Result<f64> {
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let measured = load::requests(target, 16, move || {
        let place = next.fetch_add(1, Ordering::Relaxed) as usize % requests.len();
        (start.elapsed() < TIME).then(|| requests[place].clone())
    });
    let measured = measured.await?;
    measured.check()?;
    Ok(measured.rate())
}

/// Twenty erasures a second beside the load.
async fn inject_while_erasing(bench: &Bench) -> Result<Row> {
    let node = bench.node("erase")?;
    let target = &node.target;
    fill(target, "qbc", 10_000).await?;
    let (mut quiet, mut erasing, mut erased) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        quiet.push(bench.posts(target, "/inject", 64).await?.p99);
        let stop = Arc::new(AtomicBool::new(false));
        let eraser = thread::spawn({
            let (target, stop, first) = (target.clone(), stop.clone(), erased + 1);
            move || -> Result<u64> {
                tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                    let mut next = first;
                    while !stop.load(Ordering::Relaxed) {
                        send(&target, &format!("/transactions/{next}/erase"), &json!({"reason": "a bench"})).await?;
                        next += 1;
                        sleep(Duration::from_millis(50)).await;
                    }
                    Ok(next - first)
                })
            }
        });
        erasing.push(bench.posts(target, "/inject", 64).await?.p99);
        stop.store(true, Ordering::Relaxed);
        erased += eraser.join().map_err(|_| anyhow::anyhow!("the eraser panicked"))??;
    }
    let (quiet, erasing) = (median(quiet) / 1e3, median(erasing) / 1e3);
    Ok(Row {
        measure: format!("p99 of `POST /inject`, 64 connections, while {erased} transactions are erased"),
        figure: format!("{erasing:.2} ms"),
        baseline: format!("not erasing {quiet:.2} ms"),
        ratio: Some(erasing / quiet),
        bar: "at most 2",
        met: erasing / quiet <= 2.0,
    })
}

/// What following costs is the node's processor time beyond that of the same writes without listeners.
async fn events(bench: &Bench) -> Result<Vec<Row>> {
    const LISTENERS: usize = 100;
    const RATE: u64 = 10_000;
    const WRITERS: u64 = 4;
    const ARRAY: u64 = 50;
    let node = bench.node("events")?;
    let target = &node.target;
    let one = String::from_utf8(load::inject_body(DATA_BYTES))?;
    let request = target.post("/inject", format!("[{}]", vec![one; ARRAY as usize].join(",")).as_bytes());
    let (mut alone, mut followed) = (Vec::new(), Vec::new());
    for listeners in (0..2 * ROUNDS).map(|round| round % 2 * LISTENERS) {
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..listeners {
            let mut stream = tokio::net::TcpStream::connect(target.to_string().trim_start_matches("http://")).await?;
            stream.write_all(&target.get("/events")).await?;
            streams.spawn(listen(stream));
        }
        sleep(SETTLE).await;
        let (start, busy) = (Instant::now(), node.processor_time()?);
        let pause = Duration::from_secs(1) * (WRITERS * ARRAY) as u32 / RATE as u32;
        let writers = (0..WRITERS).map(|_| write(target, &request, RATE * TIME.as_secs() / ARRAY / WRITERS, pause));
        futures_util::future::try_join_all(writers).await?;
        ensure!(start.elapsed() < TIME + TIME / 10, "the writes took {:?} instead of {TIME:?}", start.elapsed());
        send(target, "/inject", &json!({ "data": LAST_EVENT })).await?;
        while let Some(listened) = streams.join_next().await {
            let bytes = listened??;
            ensure!(bytes > RATE * TIME.as_secs() * DATA_BYTES as u64, "a listener got only {bytes} bytes");
        }
        let cores = (node.processor_time()? - busy).as_secs_f64() / start.elapsed().as_secs_f64();
        if listeners == 0 { &mut alone } else { &mut followed }.push(cores);
    }
    let (alone, followed) = (median(alone), median(followed));
    Ok(vec![Row {
        measure: format!("{LISTENERS} listeners (`GET /events`) of {RATE} transactions/s"),
        figure: format!("{:.2} cores", followed - alone),
        baseline: format!("the writes alone {alone:.2} cores"),
        ratio: None,
        bar: "at most 1 core",
        met: followed - alone <= 1.0,
    }])
}

/// Sends a request so many times at this pace, or as fast as it is answered.
async fn write(target: &Target, request: &[u8], count: u64, pause: Duration) -> Result<()> {
    let mut connection = target.connect().await?;
    let mut ticks = tokio::time::interval(pause);
    for _ in 0..count {
        ticks.tick().await;
        let answer = connection.ask(request, None).await?;
        ensure!(answer.is_success(), "POST /inject: {answer:?}");
    }
    Ok(())
}

/// The data of the last event of a round.
const LAST_EVENT: &str = "the last of this round";

/// Reads events until the last of the round, and gives how many bytes came.
async fn listen(mut stream: tokio::net::TcpStream) -> Result<u64> {
    let (mut buffer, mut tail, mut bytes) = (vec![0; 256 << 10], Vec::new(), 0);
    loop {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the stream ended after {bytes} bytes");
        bytes += read as u64;
        // The last event is short, and nothing comes behind it.
        tail.extend_from_slice(&buffer[read.saturating_sub(1_000)..read]);
        tail.drain(..tail.len().saturating_sub(1_000));
        if tail.windows(LAST_EVENT.len()).any(|window| window == LAST_EVENT.as_bytes()) {
            return Ok(bytes);
        }
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

    fn failed(row: &str, error: &anyhow::Error) -> Self {
        let figure = format!("failed: {error:#}").replace('|', "/");
        Row { measure: row.into(), figure, baseline: "-".into(), ratio: None, bar: "-", met: false }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { measure, figure, baseline, ratio, bar, met } = self;
        let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let met = if *met { "yes" } else { "**no**" };
        write!(f, "| {measure} | {figure} | {baseline} | {ratio} | {bar} | {met} |")
    }
}

/// What the rows share: the folder that all data is in, and what makes single requests.
struct Bench {
    folder: tempfile::TempDir,
    wrk: bool,
}

/// Of one load of single requests: latencies in microseconds.
struct Posts {
    rate: f64,
    p50: f64,
    p99: f64,
}

impl Bench {
    fn new() -> Result<Self> {
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

    fn describe(&self) -> String {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let generator = if self.wrk { "wrk -t1" } else { "the crate's own generator, as wrk is not installed" };
        format!(
            "{cores} cores, shared with the load; single requests by {generator}; medians of {ROUNDS} interleaved rounds."
        )
    }

    /// Starts a node on the data folder of that name, with what an earlier one left there.
    fn node(&self, name: &str) -> Result<Process> {
        let mut node = Command::new(env!("CARGO_BIN_EXE_qbc"));
        node.args(["--port", "0", "--data"]).arg(self.folder.path().join(name));
        Process::start(node, self.folder.path().join(format!("{name}.log")))
    }

    /// Starts the bare axum server, to serve that file from memory.
    fn baseline(&self, file: Option<&Path>) -> Result<Process> {
        let mut baseline = Command::new(std::env::current_exe()?);
        baseline.arg(BASELINE).args(file);
        Process::start(baseline, self.folder.path().join("baseline.log"))
    }

    async fn posts(&self, target: &Target, path: &str, connections: usize) -> Result<Posts> {
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
    fn append_and_sync(&self) -> Result<f64> {
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
struct Process {
    child: Child,
    target: Target,
    /// From its start until it listened.
    ready: Duration,
}

impl Process {
    /// Starts it and waits for the first line of its output, `listening on URL`. What it logs goes to a file.
    fn start(mut command: Command, log: PathBuf) -> Result<Self> {
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

    /// The processor time that it has used (proc(5), `utime` and `stime`, in hundredths of a second on every Linux).
    fn processor_time(&self) -> Result<Duration> {
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
    fn memory(&self) -> Result<f64> {
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

/// The hidden argument with which this program is its own bare axum server.
const BASELINE: &str = "echo";

fn serve_baseline(file: Option<&String>) -> Result<()> {
    let bytes = file.map(std::fs::read).transpose()?.unwrap_or_default();
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on http://{}", listener.local_addr()?);
        Ok(load::serve_baseline(listener, Bytes::from(bytes)).await?)
    })
}

// One request each, on a connection that stands before the time is taken.

async fn send(target: &Target, path: &str, body: &Value) -> Result<Duration> {
    let (mut connection, mut answer) = (target.connect().await?, Vec::new());
    let request = target.post(path, body.to_string().as_bytes());
    let start = Instant::now();
    let status = connection.ask(&request, Some(&mut answer)).await?;
    let time = start.elapsed();
    ensure!(status.is_success(), "POST {path}: {} {}", status.status, String::from_utf8_lossy(&answer));
    Ok(time)
}

/// Reads a body of at least that many bytes and throws it away.
async fn read(target: &Target, path: &str, least: u64) -> Result<Duration> {
    let mut connection = target.connect().await?;
    let start = Instant::now();
    let answer = connection.ask(&target.get(path), None).await?;
    let time = start.elapsed();
    ensure!(answer.is_success() && answer.length >= least, "GET {path}: {answer:?}, not {least} bytes");
    Ok(time)
}

async fn get(target: &Target, path: &str) -> Result<Value> {
    let mut body = Vec::new();
    let answer = target.connect().await?.ask(&target.get(path), Some(&mut body)).await?;
    ensure!(answer.is_success(), "GET {path}: {answer:?}");
    Ok(serde_json::from_slice(&body)?)
}

/// Injects that many transactions, a multiple of [`BLOCK_LINES`], by streams.
async fn fill(target: &Target, chain: &str, count: u64) -> Result<()> {
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
