//! Backups of data folders whose nodes run: what they have, what later runs add and erase, and what is started on them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cluster::Nodes,
    support::{Random, TestNode, eventually, files_with, verifies},
};

fn command(data: &Path, to: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    command.args(["backup", "--json", "--data"]).arg(data).arg(to).args(options);
    command
}

fn run(data: &Path, to: &Path, options: &[&str]) -> Output {
    command(data, to, options).output().expect("the program runs")
}

/// Backs up, and gives what the program says of it.
fn back_up(data: &Path, to: &Path, options: &[&str]) -> Value {
    let output = run(data, to, options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

/// The sentence with which a backup is refused.
fn refused(data: &Path, to: &Path) -> String {
    let output = run(data, to, &[]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let problem: Value = serde_json::from_slice(&output.stderr).expect("it is JSON");
    problem["detail"].as_str().expect("it says why").to_owned()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn erase(node: &TestNode, index: u64) {
    let body = json!({"reason": "request 7"});
    assert_eq!(node.post(&format!("/transactions/{index}/erase")).json(&body).send().unwrap().status(), 201);
}

#[test]
fn a_backup_of_a_running_node_is_started_on() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("deep/backup");
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "orders", "difficulty": 0}));
    for number in 0..300 {
        node.inject("/chains/orders", json!({ "number": number }));
    }
    node.leap("/chains/orders");
    node.inject("", json!("pooled"));
    let done = back_up(&node.data, &to, &[]);
    assert_eq!(done["verified"]["chains"].as_array().unwrap().len(), 2, "{done}");
    verifies(&to);
    // What is added afterwards is not in it.
    let stats = |node: &TestNode| {
        ["", "/chains/orders"].map(|chain| {
            let stats = node.json(&format!("{chain}/stats"));
            ["id", "size", "pooled", "hash", "root", "bytes"].map(|name| stats[name].clone())
        })
    };
    let then = stats(&node);
    node.inject("", json!("later"));
    let data = folder.path().join("restored");
    copy(&to, &data);
    let key = fs::read(node.data.join("node.key")).unwrap();
    assert_eq!(fs::read(data.join("node.key")).unwrap(), key);
    drop(node);

    let mut restored = TestNode::open(&data, &[]);
    assert_eq!(stats(&restored), then);
    restored.leap("");
    restored.audit("");
    restored.audit("/chains/orders");
    assert_eq!(restored.stop(), Some(0));
    verifies(&data);
}

#[test]
fn a_later_run_copies_what_is_new_and_erases_what_was_erased() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup");
    let node = TestNode::start(&[]);
    let large = "x".repeat(20_000);
    let secret = node.inject("", json!({"name": "Jane Roe", "large": large}));
    // It comes and is erased between two runs.
    let first = back_up(&node.data, &to, &[]);
    assert!(first["bytes"].as_u64().unwrap() > 20_000);
    assert_ne!(files_with(&to, "Jane Roe"), "");
    let between = node.inject("", json!({"name": "John Doe"}));
    erase(&node, secret);
    erase(&node, between);
    let second = back_up(&node.data, &to, &["--quick"]);
    assert_eq!((&second["erasures"], &second["verified"]), (&json!(2), &Value::Null), "{second}");
    assert!(second["bytes"].as_u64().unwrap() < 10_000, "{second}");
    assert_eq!(files_with(&to, "Jane Roe") + &files_with(&to, "John Doe"), "");
    let third = back_up(&node.data, &to, &[]);
    assert_eq!((&third["batches"], &third["bytes"]), (&json!(0), &json!(0)));
    // Text for people says so, too.
    erase(&node, node.inject("", json!("another")));
    let text = Command::new(env!("CARGO_BIN_EXE_qbc")).args(["backup", "--data"]).arg(&node.data).arg(&to).output();
    let text = String::from_utf8(text.unwrap().stdout).unwrap();
    assert!(text.contains("erasures since the last time, made there too: 1") && text.contains("holds"), "{text}");
    drop(node);
    let restored = TestNode::open(&to, &[]);
    assert!(restored.json(&format!("/transactions/{secret}"))["data"].is_null());
    restored.leap("");
    restored.audit("");
}

#[test]
fn a_node_that_is_written_to_is_backed_up_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup");
    let node = TestNode::start(&["--leap-every", "50ms"]);
    let (ends, acknowledged) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    let (mut restored_size, mut runs) = (0, 0);
    thread::scope(|scope| {
        for writer in 0..3_u64 {
            let (node, ends, acknowledged) = (&node, &ends, &acknowledged);
            scope.spawn(move || {
                // Of all lengths up to some blocks, so that what is erased is being read now and then.
                let mut random = Random(writer);
                while !ends.load(Ordering::Relaxed) {
                    let text = "secret".repeat(random.below(4_000) as usize);
                    let index = node.inject("", json!({ "text": text }));
                    acknowledged.fetch_max(index, Ordering::Relaxed);
                    if random.below(3) == 0 {
                        erase(node, index);
                    }
                }
            });
        }
        eventually("there is something", || acknowledged.load(Ordering::Relaxed) > 20);
        while runs < 5 {
            let before = acknowledged.load(Ordering::Relaxed);
            let done = back_up(&node.data, &to, if runs == 4 { &[] } else { &["--quick"] });
            assert!(done["batches"].as_u64().unwrap() > 0);
            restored_size = before;
            runs += 1;
        }
        ends.store(true, Ordering::Relaxed);
    });
    drop(node);
    let restored = TestNode::open(&to, &[]);
    assert!(restored.size("") > restored_size, "what was acknowledged before is there");
    restored.leap("");
    restored.audit("");
}

#[test]
fn an_interrupted_run_leaves_the_backup_that_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup");
    let node = TestNode::start(&[]);
    node.inject("", json!("first"));
    back_up(&node.data, &to, &[]);
    let mut random = Random(7);
    for round in 0..12 {
        let text = "x".repeat(900_000);
        for number in 0..4 {
            node.inject("", json!([round, number, text]));
        }
        erase(&node, node.inject("", json!("Jane Roe")));
        let mut running = command(&node.data, &to, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(random.below(60_000)));
        running.kill().unwrap();
        running.wait().unwrap();
        if round % 4 == 3 {
            let copied = folder.path().join(format!("copy{round}"));
            copy(&to, &copied);
            verifies(&copied);
            let restored = TestNode::open(&copied, &[]);
            restored.leap("");
            restored.audit("");
        }
    }
    back_up(&node.data, &to, &[]);
    assert_eq!(files_with(&to, "Jane Roe"), "");
    let size = node.size("");
    drop(node);
    assert_eq!(TestNode::open(&to, &[]).size(""), size);
}

#[test]
fn what_is_no_backup_of_a_node_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [letters, other, to] = ["letters", "other", "backup"].map(|name| folder.path().join(name));
    let node = TestNode::start(&[]);
    node.inject("", json!(1));
    fs::create_dir(&letters).unwrap();
    fs::write(letters.join("letter.txt"), "dear").unwrap();
    assert!(refused(&node.data, &letters).contains("not empty"));
    assert_eq!(fs::read(letters.join("letter.txt")).unwrap(), b"dear");

    // The folder of another node, whether that runs or not.
    let second = TestNode::open(&other, &[]);
    assert!(refused(&node.data, &other).contains("in use"));
    let (size, _) = (second.size(""), second.kill());
    assert!(refused(&node.data, &other).contains("is no older copy"));
    assert_eq!(TestNode::open(&other, &[]).size(""), size);
    assert!(refused(&node.data, &node.data).contains("is, or lies in"));
    assert!(refused(&node.data, &node.data.join("log/backup")).contains("is, or lies in"));
    assert!(refused(&letters, &to).contains("no data folder"));

    // A node was started on it, and wrote.
    back_up(&node.data, &to, &[]);
    let restored = TestNode::open(&to, &[]);
    restored.inject("", json!("elsewhere"));
    restored.kill();
    node.inject("", json!("here"));
    let detail = refused(&node.data, &to);
    assert!(detail.contains("a node was started on it") && detail.contains("empty folder"), "{detail}");
    assert_eq!(TestNode::open(&to, &[]).size(""), 3);
}

#[test]
fn damage_is_not_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup");
    let node = TestNode::start(&[]);
    node.inject("", json!("whole"));
    back_up(&node.data, &to, &[]);
    node.inject("", json!("a text that is easily found"));
    let (data, _folder) = node.kill();
    let segment = data.join("log/00000000.log");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|part| part == b"easily").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let detail = refused(&data, &to);
    assert!(detail.contains("segment 0 of the log is damaged at byte"), "{detail}");
    verifies(&to);
    assert_eq!(TestNode::open(&to, &[]).size(""), 2);
}

/// Backups of the nodes of a cluster, one after the other, while it is written to; and a whole cluster that is lost, restored from them:
/// the newest backup first, so that it leads as soon as most of them are there.
#[test]
fn a_lost_cluster_is_restored_from_backups_of_its_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Nodes::start(3);
    assert_eq!(nodes.node(0).post("/bang").json(&json!({"name": "shared"})).send().unwrap().status(), 201);
    let ends = AtomicBool::new(false);
    let to: Vec<PathBuf> = (0..3).map(|number| folder.path().join(number.to_string())).collect();
    let mut sizes = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let body = json!({"data": number, "id": format!("n{number}")});
                let _ = nodes.node(0).post("/chains/shared/inject").json(&body).send();
            }
        });
        eventually("there is something", || nodes.node(0).size("/chains/shared") > 50);
        for (number, to) in to.iter().enumerate() {
            sizes.push(nodes.node(0).size("/chains/shared"));
            back_up(&nodes.data(number), to, &["--quick"]);
        }
        ends.store(true, Ordering::Relaxed);
    });
    (0..3).for_each(|number| nodes.kill(number));

    let newest = TestNode::open(&to[2], &[]);
    let host = newest.host();
    let mut restored = vec![newest];
    for to in [&to[1], &to[0]] {
        restored.push(TestNode::open(to, &["--join", &host]));
        for node in &restored {
            eventually("it takes writes", || {
                let answer = node.post("/chains/shared/inject").json(&json!({"data": "again"})).send();
                answer.is_ok_and(|answer| answer.status() == 202)
            });
        }
        let local = |node: &TestNode| node.json("/chains/shared/stats?consistency=local")["size"].clone();
        eventually("nothing lags", || restored[1..].iter().all(|node| local(node) == local(&restored[0])));
    }
    assert!(restored[0].size("/chains/shared") > sizes[2], "what was there before the newest backup");
    restored[1].leap("/chains/shared");
    restored.iter().for_each(|node| node.audit("/chains/shared"));
    for node in &mut restored {
        assert_eq!(node.stop(), Some(0));
        verifies(&node.data.clone());
    }
}
