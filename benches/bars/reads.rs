//! Reading: chains, proofs, verification, events.

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use qbc::cli::load::{self, Target, median};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    DATA_BYTES, MIB, MILLION, ROUNDS, Row, SETTLE, TIME,
    rig::{Bench, fill, read, send},
};

pub async fn chain_speed(bench: &Bench) -> Result<Row> {
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
pub async fn chain_memory(bench: &Bench) -> Result<Row> {
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

/// Receipts, consistency proofs and tiles of a chain of a million in a hundred quants.
pub async fn proofs(bench: &Bench) -> Result<Vec<Row>> {
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

/// `qbc verify` of a million: of an export, of the live node, and of its data folder when it has stopped.
pub async fn verify(bench: &Bench) -> Result<Vec<Row>> {
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

/// What following costs is the node's processor time beyond that of the same writes without listeners.
pub async fn events(bench: &Bench) -> Result<Vec<Row>> {
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
