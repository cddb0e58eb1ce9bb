//! The programs in `examples/` do what they say. Each is skipped where its language is not installed.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::json;

use crate::support::{TestNode, eventually};

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file)
}

/// An example in Rust, as `cargo test` has built it.
fn built(name: &str) -> Option<Command> {
    let program = Path::new(env!("CARGO_BIN_EXE_qbc")).with_file_name("examples").join(name);
    if !program.exists() {
        println!("skipped: cargo test without --test builds {}", program.display());
        return None;
    }
    Some(Command::new(program))
}

/// A Python that has these modules.
fn python(modules: &str) -> Option<Command> {
    let mut pythons = ["python3", "/usr/bin/python3"].into_iter();
    let has = |python: &&str| Command::new(python).args(["-c", &format!("import {modules}")]).output();
    let Some(python) = pythons.find(|python| has(python).is_ok_and(|output| output.status.success())) else {
        println!("skipped: there is no python3 with {modules}");
        return None;
    };
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// What `qbc key` prints of a node.
pub fn key(node: &TestNode) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_qbc")).args(["key", "--data"]).arg(&node.data).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn succeeded(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A client records its value once though the node is killed between, and takes no receipt that is forged or that another key has signed.
fn records_once_and_verifies(mut client: impl FnMut() -> Command) {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "orders", "difficulty": 0}));
    let chain = format!("{}/chains/orders", node.url);
    let (port, key) = (node.url.rsplit(':').next().unwrap().to_owned(), key(&node));
    let running = client().args([&chain, &key]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the client has injected", || node.size("/chains/orders") == 2);

    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &["--port", &port]).with(folder);
    node.leap("/chains/orders");
    let text = succeeded(running.wait_with_output().unwrap());
    assert!(text.contains("verified: {") && text.contains("19.90") && text.contains("\nforged: "), "{text}");
    assert_eq!(node.size("/chains/orders"), 2);
    node.audit("/chains/orders");

    let other = key.replacen("qbc/node/", "qbc/node/x", 1);
    for key in [other, self::key(&TestNode::start(&[]))] {
        let output = client().args([&chain, &key]).output().unwrap();
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let unknown = client().args([&format!("{}/chains/none", node.url), &key]).output().unwrap();
    assert!(!unknown.status.success());
}

#[test]
fn the_client_in_python() {
    let Some(_) = python("requests, cryptography") else { return };
    records_once_and_verifies(|| {
        let mut command = python("requests, cryptography").unwrap();
        command.arg(example("client.py"));
        command
    });
}

#[test]
fn the_client_in_javascript() {
    if Command::new("node").arg("--version").output().is_err() {
        return println!("skipped: there is no node (Node.js)");
    }
    records_once_and_verifies(|| {
        let mut command = Command::new("node");
        command.arg(example("client.mjs"));
        command
    });
}

#[test]
fn the_client_in_go() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("client");
    let mut go = Command::new("go");
    go.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go")).env("GOFLAGS", "-mod=mod");
    let Ok(built) = go.arg("build").arg("-o").arg(&program).arg(example("client.go")).output() else {
        return println!("skipped: there is no go");
    };
    succeeded(built);
    records_once_and_verifies(|| Command::new(&program));
}

#[test]
fn the_client_in_rust() {
    if built("receipt").is_some() {
        records_once_and_verifies(|| built("receipt").unwrap());
    }
}

#[test]
fn the_audit_trail_of_a_shop() {
    let Some(mut shop) = python("requests") else { return };
    let node = TestNode::start(&[]);
    let text = succeeded(shop.arg(example("shop.py")).arg(&node.url).output().unwrap());
    for line in
        ["orders: {1017: ['placed', 'paid', 'shipped'], 1018: ['placed']}", "the auditor has verified 6 transactions"]
    {
        assert!(text.contains(line), "{text}");
    }
    node.audit(&format!("/chains/{}", node.json("/chains")[1]["name"].as_str().unwrap()));
}

#[test]
fn tiles_and_cosignatures_are_checked_by_the_examples() {
    let (Some(mut tiles), Some(mut again), Some(mut wrong)) = (built("tiles"), built("tiles"), built("tiles")) else {
        return;
    };
    let Some(mut cosigned) = built("cosigned") else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("log");
    let node = TestNode::open(&data, &[]);
    let own = key(&node);
    drop(node);
    let witness = TestNode::start(&["--cosign", &own]);
    let its = witness.json("/witness")["key"].as_str().unwrap().to_owned();
    let node = TestNode::open(&data, &["--witness", &format!("{its}@{}", witness.url)]);
    node.inject("", json!({"order": 1017}));
    node.leap("");
    let arguments = [node.url.as_str(), &own, "1"];
    let text = succeeded(tiles.current_dir(&folder).args(arguments).output().unwrap());
    assert!(text.contains("transaction 1 is in it"), "{text}");
    node.leap("");
    let text = succeeded(again.current_dir(&folder).args(arguments).output().unwrap());
    assert!(text.contains("it has only grown"), "{text}");
    let output = wrong.current_dir(&folder).args([node.url.as_str(), &key(&witness), "1"]).output().unwrap();
    assert!(!output.status.success());

    eventually("it is cosigned", || node.get("/checkpoint?cosigned=1").send().unwrap().status() == 200);
    let note = folder.path().join("cosigned.txt");
    fs::write(&note, node.get("/checkpoint?cosigned=1").send().unwrap().bytes().unwrap()).unwrap();
    let text = succeeded(cosigned.args([&own, &its]).stdin(fs::File::open(note).unwrap()).output().unwrap());
    assert!(text.contains("signed by qbc/node/") && text.contains("cosigned at "), "{text}");
}

#[test]
fn the_walk_with_three_nodes() {
    if Command::new("curl").arg("--version").output().is_err() || python("json").is_none() {
        return println!("skipped: it needs curl and python3");
    }
    // Three ports in a row that nobody has now.
    let is_free = |port: u16| (port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let first = (20_000 + std::process::id() as u16 % 10_000..).find(|&port| is_free(port)).unwrap();
    let mut walk = Command::new("bash");
    walk.arg(example("three-nodes.sh")).env("QBC", env!("CARGO_BIN_EXE_qbc")).env("PORT", first.to_string());
    let text = succeeded(walk.output().unwrap());
    assert!(text.contains("It comes back, and has all.") && text.matches("holds: ").count() == 3, "{text}");
}
