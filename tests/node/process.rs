//! The node as a process: its folder, its end, and all of it under concurrent load.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    scrub::damage,
    support::{TestNode, eventually, problem, recompute},
};

fn serve(data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    command.args(["serve", "--port", "0", "--data"]).arg(data).stdin(Stdio::null());
    command.output().expect("the program starts")
}

#[test]
fn a_data_folder_has_one_node() {
    let node = TestNode::start(&[]);
    let second = serve(&node.data);
    let message = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stdout.is_empty(), "it never says that it is listening");
    assert!(message.contains(node.data.to_str().unwrap()) && message.contains("another"), "{message}");
    node.inject("", json!("the first goes on"));
    // The lock goes with the process, however that ends.
    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &[]).with(folder);
    assert_eq!(node.size(""), 2);
}

#[test]
fn a_folder_that_is_no_data_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let refused = serve(folder.path());
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    let file = folder.path().join("letter.txt");
    let added =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path() != file);
    assert!(added.into_iter().all(|entry| entry.file_name() == "lock"), "it is no data folder now");
    assert_eq!(serve(&file).status.code(), Some(1));
    assert_eq!(std::fs::read(&file).unwrap(), b"dear");
}

#[test]
fn sigterm_ends_in_order_and_loses_nothing() {
    let mut node = TestNode::start(&[]);
    node.bang(json!({"name": "a", "difficulty": 0}));
    let acked = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..4 {
            let (post, acked) = (|body: &Value| node.post("/chains/a/inject").json(body).send(), &acked);
            scope.spawn(move || {
                for at in 0.. {
                    let data = json!([thread, at]);
                    // Once the node stops, it refuses or is gone.
                    match post(&json!({"data": data})) {
                        Ok(response) if response.status() == 202 => {
                            acked
                                .lock()
                                .unwrap()
                                .push((response.json::<Value>().unwrap()["index"].as_u64().unwrap(), data));
                        }
                        Ok(response) => assert_eq!(response.status(), 503),
                        Err(_) => return,
                    }
                }
            });
        }
        // A connection without a request must not delay the end.
        let _idle = node.connect();
        eventually("there is load", || acked.lock().unwrap().len() > 100);
        let start = Instant::now();
        node.terminate();
        eventually("it takes no more connections", || !node.is_listening());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
    let start = Instant::now();
    assert_eq!(node.wait(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &[]).with(folder);
    node.leap("/chains/a");
    node.audit("/chains/a");
    let acked = acked.into_inner().unwrap();
    let all = transactions(&node, "/chains/a");
    for (index, data) in acked {
        assert_eq!(all[index as usize]["data"], data);
    }
}

#[test]
fn a_wait_for_a_leap_ends_when_the_node_stops() {
    let node = TestNode::start(&[]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| node.post("/inject?wait=leap&timeout=60").json(&json!({"data": 1})).send());
        eventually("it is accepted", || node.size("") == 2);
        node.terminate();
        let start = Instant::now();
        let answer = waiter.join().unwrap().expect("what was accepted is answered");
        assert_eq!((answer.status().as_u16(), answer.json::<Value>().unwrap()["index"].clone()), (504, json!(1)));
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn the_log_names_each_request_by_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut node = TestNode::open_logging(&folder.path().join("data"), &["--log", "debug", "--log-json"], &log);
    for (path, id) in [("/stats", "good-one"), ("/nothing", "bad-one")] {
        node.get(path).header("x-request-id", id).send().unwrap();
    }
    assert_eq!(node.stop(), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    for (id, path, status) in [("good-one", "/stats", 200), ("bad-one", "/nothing", 404)] {
        let line = lines.iter().find(|line| line["fields"]["request_id"] == id).expect("it is there");
        assert_eq!((&line["fields"]["path"], &line["fields"]["status"]), (&json!(path), &json!(status)));
    }
}

/// Symptom: with a log on a full disk or a closed pipe, the start ended with 101, and answers of 422 and 503 were cut off.
/// Cause: a line that could not be written was told of by a macro that panics where it cannot write either. Cure: the log
/// takes every line, and loses what cannot be written.
#[test]
fn a_log_that_cannot_be_written_loses_lines_of_the_log_only() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = TestNode::open(&data, &[]);
    node.bang(json!({"name": "bad", "difficulty": 0}));
    node.kill();
    damage(&data, 1);
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let unread = || Stdio::from(io::pipe().unwrap().1);
    let closed = &["sh", "-c", "exec \"$0\" \"$@\" 2>&-"];
    for options in [&["--log", "debug"][..], &["--log", "debug", "--log-json"]] {
        for (program, log) in [(&[][..], full()), (&[], unread()), (closed, Stdio::inherit())] {
            let mut node = TestNode::attempt(program, &data, options, log).expect("it starts");
            let size = node.size("");
            problem(node.post("/discover").json(&json!({"host": "localhost:1"})).send().unwrap(), 422);
            problem(node.get("/chains/bad/stats").send().unwrap(), 503);
            assert_eq!(node.inject("", json!("it goes on")), size);
            node.leap("");
            node.audit("");
            assert_eq!(node.stop(), Some(0));
        }
        // A start that fails says so by its exit code at least.
        let second = TestNode::open(&data, &[]);
        for log in [full(), unread()] {
            let refused = TestNode::attempt(&[], &data, options, log).err().expect("another node has the folder");
            assert_eq!(refused.code(), Some(1));
        }
        drop(second);
    }
}

/// Symptom: requests waited for ever while the reader of the log slept. Cause: each wrote its line to the full pipe itself. Cure:
/// lines wait in bounded memory, and what finds no room there is lost, and told later.
#[test]
fn a_reader_of_the_log_that_sleeps_holds_nobody_up() {
    for is_awake_later in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let log = ["--log", "debug", "--log-json"];
        let mut node = TestNode::attempt(&[], &folder.path().join("data"), &log, writer.into()).expect("it starts");
        let path = format!("/{}", "a".repeat(4_000));
        // Several times what the pipe and the node keep.
        for _ in 0..1_000 {
            problem(node.get(&path).send().unwrap(), 404);
        }
        node.inject("", json!("nobody waits"));
        if !is_awake_later {
            assert_eq!(node.stop(), Some(0));
            continue;
        }
        let lines = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        // The next lines come when there is room again, and behind them stands how many are missing.
        thread::sleep(Duration::from_millis(300));
        node.json("/livez");
        assert_eq!(node.stop(), Some(0));
        let lines = lines.join().unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("each is JSON")).collect();
        let logged = lines.iter().filter(|line| line["fields"]["path"] == path.as_str()).count() as u64;
        let lost = lines.iter().filter_map(|line| line["fields"]["lost"].as_u64()).max().expect("it says so");
        assert!(logged > 0 && lost > 0 && logged + lost >= 1_000, "{logged} and {lost}");
        assert_eq!(lines.last().unwrap()["fields"]["message"], "stopping", "the last line is there");
    }
}

/// Symptom: a node whose stdout was closed ended at once, without an error. Cause: it took the line for scripts for its result.
/// Cure: it serves without it.
#[test]
fn a_stdout_that_takes_nothing_keeps_no_node_from_serving() {
    let folder = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    for stdout in [full.into(), io::pipe().unwrap().1.into(), Stdio::null()] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
        command.args(["serve", "--log", "off", "--port", &port, "--data"]).arg(folder.path().join("data"));
        let mut process = command.stdout(stdout).spawn().unwrap();
        let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{port}/livez");
        eventually("it serves", || client.get(&url).send().is_ok_and(|answer| answer.status() == 200));
        assert!(Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap().success());
        assert_eq!(process.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn data_is_kept_where_it_is_told_to_be() {
    let folder = tempfile::tempdir().unwrap();
    for ephemeral in [true, false] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
        command.args(["serve", "--port", "0", "--log", "warn"]).args(ephemeral.then_some("--ephemeral"));
        command.current_dir(folder.path()).env("TMPDIR", folder.path()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening on http://127.0.0.1:").expect("the line that scripts wait for");
        let entries: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0].ends_with("qbc-data"), !ephemeral);
        assert!(ephemeral || entries[0].join(port).is_dir());
        assert!(Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap().success());
        assert_eq!(process.wait().unwrap().code(), Some(0));
        assert_eq!(entries[0].exists(), !ephemeral, "an ephemeral node leaves nothing");
    }
}

fn transactions(node: &TestNode, chain: &str) -> Vec<Value> {
    let pages = node.pages(&format!("{chain}/transactions?limit=10000"));
    pages.into_iter().flat_map(|page| page.as_array().unwrap().clone()).collect()
}

#[test]
fn a_full_pool_is_429_until_the_next_leap() {
    let node = TestNode::start(&["--max-pool", "3"]);
    let array = |count| vec![json!({"data": 0}); count];
    assert_eq!(node.post("/inject").json(&array(2)).send().unwrap().status(), 202);
    let full = node.post("/inject").json(&array(2)).send().unwrap();
    assert!(full.headers().contains_key("retry-after"));
    problem(full, 429);
    assert_eq!(node.post("/inject").json(&json!({"data": 0, "id": "third"})).send().unwrap().status(), 202);
    problem(node.post("/inject").json(&json!({"data": 0})).send().unwrap(), 429);
    assert_eq!(
        node.post("/inject").json(&json!({"data": 0, "id": "third"})).send().unwrap().status(),
        202,
        "a retry adds nothing"
    );
    let stream = node.post_text("/inject", "application/x-ndjson", "{\"data\":0}\n{\"data\":0}");
    assert_eq!(stream.status(), 429);
    assert!(stream.headers().contains_key("retry-after"));
    assert_eq!(node.size(""), 4);
    node.leap("");
    assert_eq!(node.post("/inject").json(&array(3)).send().unwrap().status(), 202);
    node.bang(json!({"name": "other", "difficulty": 0}));
    assert_eq!(node.inject("/chains/other", json!("each chain has a pool of its own")), 1);
}

/// What the node acknowledged: chain, index, data.
type Acks = Mutex<Vec<(String, u64, Value)>>;

/// One of eight clients: mixed writes on all chains, in an order of its own.
fn client(node: &TestNode, number: u64, acks: &Acks) {
    // A linear congruential generator (Knuth's constants): each client does the same in every run.
    let mut state = number;
    let mut pick = |choices: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % choices
    };
    for step in 0..60 {
        let name = ["a", "b", "c"][pick(3) as usize];
        let chain = format!("/chains/{name}");
        let ack = |index: &Value, data: Value| acks.lock().unwrap().push((name.into(), index.as_u64().unwrap(), data));
        let send = |body: &Value| {
            let response = node.post(&format!("{chain}/inject")).json(body).send().unwrap();
            assert_eq!(response.status(), 202);
            response.json::<Value>().unwrap()
        };
        let data = json!({"client": number, "step": step});
        match pick(8) {
            0 | 1 => ack(&send(&json!({"data": data}))["index"], data),
            2 => {
                let body = json!({"data": data, "id": format!("{number}-{step}")});
                let (first, again) = (send(&body), send(&body));
                assert_eq!(first["index"], again["index"]);
                ack(&first["index"], data);
            }
            3 => {
                let bodies: Vec<_> = (0..pick(20) + 1).map(|at| json!({"data": [data, at]})).collect();
                for (answer, body) in send(&json!(bodies)).as_array().unwrap().iter().zip(&bodies) {
                    ack(&answer["index"], body["data"].clone());
                }
            }
            4 => {
                let lines: String = (0..30).map(|at| format!("{}\n", json!({"data": [at, data]}))).collect();
                let response = node.post_text(&format!("{chain}/inject"), "application/x-ndjson", lines);
                let summary: Value = response.json().unwrap();
                assert_eq!(summary["accepted"], 30);
                ack(&summary["first"], json!([0, data]));
                ack(&summary["last"], json!([29, data]));
            }
            5 | 6 => drop(node.leap(&chain)),
            _ => {
                let at = pick(node.json(&format!("{chain}/stats"))["length"].as_u64().unwrap());
                let fork = json!({"name": format!("{name}-{number}-{step}"), "at": at});
                assert_eq!(node.post(&format!("{chain}/fork")).json(&fork).send().unwrap().status(), 201);
            }
        }
    }
}

#[test]
fn what_is_acknowledged_under_mixed_load_is_there_once() {
    let node = TestNode::start(&[]);
    for name in ["a", "b", "c"] {
        node.bang(json!({"name": name, "difficulty": 0}));
    }
    let acks = Acks::default();
    thread::scope(|scope| {
        let (node, acks) = (&node, &acks);
        let clients: Vec<_> = (0..8).map(|number| scope.spawn(move || client(node, number, acks))).collect();
        // What is read meanwhile is a whole chain at each moment.
        while !clients.iter().all(|client| client.is_finished()) {
            recompute(&node.json("/chains/a/chain"));
            thread::sleep(Duration::from_millis(20));
        }
    });
    let chains = node.json("/chains?limit=1000");
    let names: Vec<&str> = chains.as_array().unwrap().iter().map(|chain| chain["name"].as_str().unwrap()).collect();
    assert!(names.len() > 20, "there were forks");
    let all: HashMap<&str, Vec<Value>> =
        names.iter().map(|&name| (name, transactions(&node, &format!("/chains/{name}")))).collect();
    let acks = acks.into_inner().unwrap();
    for (chain, index, data) in &acks {
        let same: Vec<_> =
            all[chain.as_str()].iter().filter(|one| one["data"] == *data).map(|one| &one["index"]).collect();
        assert_eq!(same, [&json!(index)], "{chain}: {data}");
    }
    for name in &names {
        let chain = format!("/chains/{name}");
        node.leap(&chain);
        node.audit(&chain);
        // A fork has its parent's transactions up to the quant where they part, and none behind it.
        if let Some(of) = node.json(&chain)["rules"]["fork_of"].as_object() {
            let parent = name.split('-').next().unwrap();
            let shared =
                node.json(&format!("/chains/{parent}/quants/{}", of["index"]))["size"].as_u64().unwrap() as usize;
            assert_eq!(all[name][..shared], all[parent][..shared]);
            assert_eq!(all[name].len(), shared + 1);
        }
    }
}
