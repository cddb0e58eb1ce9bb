//! What is stored: what it takes up, what a start makes of it, and what does not grow with it.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Mutex, time::Duration};

use anyhow::{Context, Result, ensure};
use qbc::cli::load::{self, median};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    MIB, MILLION, ROUNDS, Row, SETTLE,
    rig::{Bench, fill, get, read, send},
};

/// What a million takes up on disk after a clean stop, and a start without the index.
pub async fn disk(bench: &Bench) -> Result<Vec<Row>> {
    let node = bench.node("disk")?;
    fill(&node.target, "qbc", MILLION).await?;
    let stats = get(&node.target, "/stats").await?;
    let served = stats["bytes"].as_u64().context("/stats tells no bytes")? as f64;
    node.stop()?;
    let folder = bench.folder.path().join("disk");
    let stored = disk_usage(&folder)? as f64;
    fs::remove_dir_all(folder.join("index"))?;
    let node = bench.node("disk")?;
    let again = get(&node.target, "/stats").await?;
    ensure!(again["root"] == stats["root"] && again["size"] == stats["size"], "the chain is {again} after a start");
    Ok(vec![
        Row {
            measure: "disk for 1,000,000 transactions of 200-byte data".into(),
            figure: format!("{:.0} MiB", stored / MIB),
            baseline: format!("served {:.0} MiB", served / MIB),
            ratio: Some(stored / served),
            bar: "at most 1.25",
            met: stored / served <= 1.25,
        },
        Row::absolute("start without the index, 1,000,000", node.ready.as_secs_f64(), "s", 10.0, "below 10 s"),
    ])
}

/// Bytes of the blocks of all files in a folder.
fn disk_usage(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += 512 * metadata.blocks() + if metadata.is_dir() { disk_usage(&entry.path())? } else { 0 };
    }
    Ok(bytes)
}

pub async fn leap(bench: &Bench) -> Result<Vec<Row>> {
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

pub async fn chains(bench: &Bench) -> Result<Vec<Row>> {
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
    let mut scrapes = Vec::new();
    for _ in 0..20 {
        scrapes.push(read(&node.target, "/metrics", 1_000).await?.as_secs_f64() * 1e3);
    }
    Ok(vec![
        Row::absolute("10,000 chains of the default difficulty, 16 connections", made, "s", 10.0, "below 10 s"),
        Row::absolute("resident memory with 10,000 chains, idle", memory, "MiB", 200.0, "below 200 MiB"),
        Row::absolute("start after kill -9 with 10,000 chains", ready, "s", 2.0, "below 2 s"),
        Row::absolute("`GET /metrics` with 10,000 chains", median(scrapes), "ms", 10.0, "below 10 ms"),
    ])
}

pub async fn restart(bench: &Bench) -> Result<Vec<Row>> {
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
