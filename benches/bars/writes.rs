//! Writing: single injects, streams, and injects beside other work.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::http::{Method, StatusCode};
use qbc::{
    cli::load::{self, median},
    core::{
        count::{Height, Size},
        hash::Hash,
        quant::Header,
        transaction::Timestamp,
    },
    http::{OfRoute, Requests},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    BLOCK_LINES, DATA_BYTES, NO_BAR, ROUNDS, Row, STREAMS, TIME,
    baselines::{Postgres, Redis},
    rig::{Bench, fill, get, read, send},
};

pub async fn inject(bench: &Bench) -> Result<Vec<Row>> {
    let (node, log, echo) = (bench.node("inject")?, bench.bare_log("inject")?, bench.baseline(None)?);
    let (redis, postgres) = (Redis::start(bench)?, Postgres::start(bench)?);
    let [mut rates, mut logged, mut echoed, mut added, mut inserted] = [const { Vec::new() }; 5];
    let [mut wide_rates, mut wide_logged] = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        echoed.push(bench.posts(&echo.target, "/", 64).await?.rate);
        logged.push(bench.posts(&log.target, "/", 64).await?.rate);
        rates.push(bench.posts(&node.target, "/inject", 64).await?.rate);
        if let Some(redis) = &redis {
            added.push(redis.add(64, 1)?.rate);
        }
        if let Some(postgres) = &postgres {
            inserted.push(postgres.insert(64)?.rate);
        }
        wide_logged.push(bench.posts(&log.target, "/", 256).await?.rate);
        wide_rates.push(bench.posts(&node.target, "/inject", 256).await?.rate);
    }
    let [rate, log, echo, wide, wide_log] = [rates, logged, echoed, wide_rates, wide_logged].map(median);
    let row = |baseline, what, least, bar| {
        Row::rate("`POST /inject`, 200-byte data, 64 connections", [rate, baseline], "/s", what, least, bar)
    };
    let mut rows = vec![row(log, "bare log", 0.8, "at least 0.8"), row(echo, "axum echo", 0.5, "at least 0.5")];
    if redis.is_some() {
        rows.push(row(median(added), "Redis", 1.0, "at least 1"));
    }
    if postgres.is_some() {
        rows.push(row(median(inserted), "PostgreSQL", 1.0, NO_BAR));
    }
    rows.push(Row::rate("the same, 256 connections", [wide, wide_log], "/s", "bare log", 0.75, "at least 0.75"));
    Ok(rows)
}

pub async fn one(bench: &Bench) -> Result<Vec<Row>> {
    let (node, log) = (bench.node("one")?, bench.bare_log("one")?);
    let (redis, postgres) = (Redis::start(bench)?, Postgres::start(bench)?);
    let [mut injects, mut logged, mut syncs, mut added, mut inserted] = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        syncs.push(bench.append_and_sync()?);
        logged.push(bench.posts(&log.target, "/", 1).await?.p50);
        injects.push(bench.posts(&node.target, "/inject", 1).await?.p50);
        if let Some(redis) = &redis {
            added.push(redis.add(1, 1)?.p50);
        }
        if let Some(postgres) = &postgres {
            inserted.push(postgres.insert(1)?.p50);
        }
    }
    let [inject, log, sync] = [injects, logged, syncs].map(median);
    let row =
        |baseline, what, most, bar| Row::latency("the same, 1 connection, p50", [inject, baseline], what, most, bar);
    let mut rows =
        vec![row(log, "bare log", 1.15, "at most 1.15"), row(sync, "4 KiB append + fdatasync", 2.5, "at most 2.5")];
    if redis.is_some() {
        rows.push(row(median(added), "Redis", 1.0, NO_BAR));
    }
    if postgres.is_some() {
        rows.push(row(median(inserted), "PostgreSQL", 1.0, NO_BAR));
    }
    Ok(rows)
}

pub async fn stream(bench: &Bench) -> Result<Vec<Row>> {
    let (node, echo, redis) = (bench.node("stream")?, bench.baseline(None)?, Redis::start(bench)?);
    let block = load::block(&load::inject_body(DATA_BYTES), BLOCK_LINES as usize);
    let [mut rates, mut echoed, mut added] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        echoed.push(bench.posts(&echo.target, "/", 64).await?.rate);
        let streamed = load::stream(&node.target, "/inject", STREAMS, load::repeat(block.clone(), TIME)).await?;
        streamed.check()?;
        rates.push(streamed.rate());
        if let Some(redis) = &redis {
            added.push(redis.add(64, 100)?.rate);
        }
    }
    let [rate, echo] = [rates, echoed].map(median);
    let measure = format!("NDJSON inject, 200-byte data, {STREAMS} streams");
    let row = |baseline, what, least, bar| Row::rate(&measure, [rate, baseline], " transactions/s", what, least, bar);
    let mut rows = vec![row(echo, "axum echo, 64 connections", 3.5, "at least 3.5")];
    if redis.is_some() {
        rows.push(row(median(added), "Redis, 64 connections, pipelines of 100", 1.0, "at least 1"));
    }
    Ok(rows)
}

/// Twenty erasures a second beside the load.
pub async fn inject_while_erasing(bench: &Bench) -> Result<Row> {
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

/// What metrics cost: of a request what it counts, and of a node that is scraped each second the rate.
pub async fn metrics(bench: &Bench) -> Result<Vec<Row>> {
    const SCRAPE_EVERY: Duration = Duration::from_secs(1);
    let node = bench.node("metrics")?;
    let target = &node.target;
    let [mut quiet, mut scraped, mut busy, mut counting] = [const { Vec::new() }; 4];
    let routes = routes(&get(target, "/openapi.json").await?)?;
    for _ in 0..ROUNDS {
        let before = node.processor_time()?;
        let posts = bench.posts(target, "/inject", 64).await?;
        // The load ends when its time is over, so this is as exact as the rate is.
        busy.push((node.processor_time()? - before).as_secs_f64() * 1e6 / (posts.rate * TIME.as_secs_f64()));
        quiet.push(posts.rate);
        counting.push(micros_of_counting(&routes)?);
        let stop = Arc::new(AtomicBool::new(false));
        let scraper = thread::spawn({
            let (target, stop) = (target.clone(), stop.clone());
            move || -> Result<()> {
                tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                    while !stop.load(Ordering::Relaxed) {
                        read(&target, "/metrics", 1_000).await?;
                        sleep(SCRAPE_EVERY).await;
                    }
                    Ok(())
                })
            }
        });
        scraped.push(bench.posts(target, "/inject", 64).await?.rate);
        stop.store(true, Ordering::Relaxed);
        scraper.join().map_err(|_| anyhow::anyhow!("the scraper panicked"))??;
    }
    let [quiet, scraped, busy, counting] = [quiet, scraped, busy, counting].map(median);
    let what = "not scraped";
    Ok(vec![
        Row {
            measure: "what a request counts for the metrics".into(),
            figure: format!("{:.0} ns", counting * 1e3),
            baseline: format!("processor time of an inject {busy:.1} µs"),
            ratio: Some(counting / busy),
            bar: "at most 0.02",
            met: counting / busy <= 0.02,
        },
        Row::rate("inject, 64 connections, scraped each second", [scraped, quiet], "/s", what, 0.98, NO_BAR),
    ])
}

/// The routes of a node, as it looks them up.
fn routes(document: &Value) -> Result<matchit::Router<Arc<str>>> {
    let mut routes = matchit::Router::new();
    for path in document["paths"].as_object().context("the document has paths")?.keys() {
        // What takes the rest of a path has no mark in the document.
        let path = path.replace("{tile}", "{*tile}");
        routes.insert(path.as_str(), Arc::from(path.as_str()))?;
    }
    Ok(routes)
}

/// Microseconds that it takes to look up the route of an inject, and to count it, on two threads that do nothing else.
fn micros_of_counting(routes: &matchit::Router<Arc<str>>) -> Result<f64> {
    const REQUESTS: u32 = 500_000;
    let (requests, of_route) = (Requests::default(), OfRoute::default());
    let count = || -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..REQUESTS {
            let route = routes.at(black_box("/inject"))?.value;
            requests.begin(Some(route), Some(&of_route), &Method::POST).answer(StatusCode::ACCEPTED);
        }
        Ok(start.elapsed())
    };
    thread::scope(|scope| {
        let other = scope.spawn(count);
        let one = count()?;
        let other = other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        Ok(one.max(other).as_secs_f64() * 1e6 / f64::from(REQUESTS))
    })
}

pub async fn inject_while_mining(bench: &Bench) -> Result<Row> {
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

/// The miner's loop against nothing but the compression function, each on every core.
pub fn hashing() -> Result<Row> {
    let header = Header {
        index: Height::new(1),
        timestamp: Timestamp::from_micros(0).context("1970 is a time")?,
        difficulty: 255,
        previous_hash: Hash::ZERO,
        root: Hash::ZERO,
        size: Size::new(1),
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
