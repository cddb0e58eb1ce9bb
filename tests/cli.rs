//! The program as a user runs it: each command against a node of its own on a free port.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    command.args(args).env("QBC_LOG", "warn").stdin(Stdio::null());
    for name in [
        "QBC_NODE",
        "QBC_CHAIN",
        "QBC_HOST",
        "QBC_PORT",
        "QBC_DATA",
        "QBC_LEAP_EVERY",
        "QBC_TOKEN",
        "QBC_ACCESS",
        "QBC_OPEN",
        "QBC_METRICS_CHAINS",
        "RUST_BACKTRACE",
        "NO_COLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    command
}

/// What a run printed, and its exit code.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(output: Output) -> Run {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        let code = output.status.code().expect("no signal ended the program");
        Run { code, out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "stderr: {}", self.err);
        self.out
    }

    #[track_caller]
    fn ok_json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("it prints one JSON value")
    }

    /// The error, which is on stderr alone.
    #[track_caller]
    fn fails(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "stderr: {}", self.err);
        self.err
    }
}

fn qbc(args: &[&str]) -> Run {
    Run::of(program(args).output().expect("the program runs"))
}

/// A running node. Dropped, it is killed.
struct Node {
    child: Child,
    url: String,
    _stdout: BufReader<ChildStdout>,
}

impl Node {
    fn start(args: &[&str]) -> Node {
        Node::start_at("0", args)
    }

    fn start_at(port: &str, args: &[&str]) -> Node {
        let mut child = program(args).args(["--port", port]).stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the node writes a line");
        let url = line.trim_end().strip_prefix("listening on ").expect("the node says where it listens").into();
        Node { child, url, _stdout: stdout }
    }

    fn ephemeral() -> Node {
        Node::start(&["--ephemeral"])
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        command.env("QBC_NODE", &self.url);
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).output().expect("the program runs"))
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Run {
        let piped = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = piped.expect("the program runs");
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads all");
        Run::of(child.wait_with_output().expect("the program ends"))
    }

    /// As SIGTERM does it.
    fn stop(mut self) {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(killed.success());
        assert_eq!(self.child.wait().expect("the node ends").code(), Some(0));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node with three quants and a pooled transaction in its default chain, and a fork of it.
fn filled(args: &[&str]) -> Node {
    let node = Node::start(args);
    node.run(&["inject", r#"{"test":"test2"}"#]).ok();
    node.run(&["inject", "hello", "--id", "order-1"]).ok();
    node.run(&["leap"]).ok();
    let lines: String = (0..300).map(|number| format!("{{\"data\":{number},\"id\":\"line-{number}\"}}\n")).collect();
    node.run_with_input(&["inject", "-"], &lines).ok();
    node.run(&["leap"]).ok();
    node.run(&["inject", "null"]).ok();
    node.run(&["fork", "trial", "--at", "1", "--difficulty", "0"]).ok();
    node.run(&["--chain", "trial", "inject", "1"]).ok();
    node
}

/// A copy of a file with one bit changed, in the byte so far behind the first place where `text` stands.
fn flip(path: &Path, text: &str, offset: usize) -> PathBuf {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect("the text is there");
    bytes[at + offset] ^= 1;
    let flipped = path.with_extension("flipped");
    fs::write(&flipped, bytes).unwrap();
    flipped
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

#[test]
fn inject_says_where_the_transaction_stands() {
    let node = Node::ephemeral();
    let said = node.run(&["inject", r#"{"test":"test2"}"#]).ok();
    assert!(said.starts_with("transaction 1 of qbc is pooled, hash "), "{said}");
    let said = node.run(&["inject", "hello", "--id", "a"]).ok();
    assert!(said.starts_with("transaction 2 of qbc is pooled, as a string, hash "), "{said}");
    let said = node.run(&["inject", "hello", "--id", "a"]).ok();
    assert!(said.contains("transaction 2 of qbc is pooled, as a string, sent before"), "{said}");
    let accepted = node.run(&["inject", "-5", "--json"]).ok_json();
    assert_eq!((&accepted["index"], &accepted["state"]), (&json!(3), &json!("pooled")));

    let told = node.run(&["inject", "other", "--id", "a"]).fails(1);
    assert!(told.starts_with("error: the node answers 409: the id \"a\" belongs to transaction 2"), "{told}");
    let told = node.run(&["inject", "0.1000000000000000055511151231257827"]).fails(1);
    assert!(told.contains("400") && told.contains("/data") && told.contains("as a string"), "{told}");
    assert!(node.run(&["inject", "1", "--id", ""]).fails(1).contains("/id: "));
}

#[test]
fn inject_waits_for_a_leap() {
    let node = Node::ephemeral();
    node.run(&["bang", "quick", "--difficulty", "0", "--leap-every", "20ms"]).ok();
    let said = node.run(&["--chain", "quick", "inject", "1", "--wait"]).ok();
    assert!(said.starts_with("transaction 1 is sealed by quant 1, hash "), "{said}");
    let receipt = node.run(&["--chain", "quick", "inject", "2", "--wait", "--json"]).ok_json();
    assert_eq!(receipt["transaction"]["data"], json!(2));

    let late = node.run(&["inject", "1", "--wait", "--timeout", "50ms", "--json"]);
    assert_eq!(late.code, 1);
    assert_eq!(serde_json::from_str::<Value>(&late.out).unwrap()["index"], json!(1));
    assert!(
        late.err.contains("no quant has sealed the transaction in time; it is accepted all the same"),
        "{}",
        late.err
    );
}

#[test]
fn inject_streams_lines() {
    let node = Node::ephemeral();
    let said = node.run_with_input(&["inject", "-"], "{\"data\":1}\n{\"data\":2,\"id\":\"b\"}\n").ok();
    assert_eq!(said, "2 transactions are accepted, index 1 to 2\n");
    let again = node.run_with_input(&["inject", "-"], "{\"data\":2,\"id\":\"b\"}\n").ok();
    assert_eq!(again, "0 transactions are accepted, 1 were before, index 2 to 2\n");
    let run = node.run_with_input(&["inject", "-"], "{\"data\":3}\n{\"daat\":4}\n{\"data\":5}");
    assert_eq!((run.code, run.out.as_str()), (1, "2 transactions are accepted, index 3 to 4\n"));
    assert!(run.err.starts_with("line 2: ") && run.err.ends_with("error: 1 of 3 lines were refused\n"), "{}", run.err);
    // A node has a use for it, and a command that calls nobody has none.
    let told = node.run(&["--ca", "nowhere", "man"]).fails(2);
    assert!(told.contains("man has no use for --ca"), "{told}");
    let told = node.run(&["--ca", "nowhere", "--ephemeral"]).fails(1);
    assert!(told.contains("cannot read nowhere"), "{told}");
    let run = node.run_with_input(&["inject", "-", "--json"], "nonsense\n");
    assert_eq!(serde_json::from_str::<Value>(&run.out).unwrap()["refused"], json!(1));
    assert_eq!(run.code, 1);
    assert!(node.run(&["inject", "-", "--id", "a"]).fails(2).contains("in a stream each line has its own \"id\""));
}

#[test]
fn leap_and_chain_show_the_quants() {
    let node = Node::ephemeral();
    node.run(&["inject", "1"]).ok();
    let said = node.run(&["leap"]).ok();
    assert!(said.starts_with("quant 1 seals the chain's first 2 transactions, hash 000"), "{said}");
    assert_eq!(node.run(&["leap", "--json"]).ok_json()["message"], json!("block creation successful"));
    let chain = node.run(&["chain"]).ok_json();
    assert_eq!(chain.as_array().unwrap().len(), 3);
    assert_eq!(chain[1]["transactions"][0]["data"], json!(1));
    let page = node.run(&["chain", "--from", "1", "--limit", "1", "--no-transactions"]).ok_json();
    assert_eq!((page.as_array().unwrap().len(), &page[0]["index"]), (1, &json!(1)));
    assert_eq!(page[0].get("transactions"), None);
}

#[test]
fn bang_and_fork_make_chains_with_rules() {
    let node = Node::ephemeral();
    let folder = TempDir::new().unwrap();
    let schema = folder.path().join("schema.json");
    fs::write(&schema, r#"{"type":"integer"}"#).unwrap();
    let said = node.run(&["bang", "orders", "--difficulty", "1", "--schema", text(&schema), "--max-bytes", "10"]).ok();
    assert!(said.starts_with("the chain orders is made, id "), "{said}");
    node.run(&["--chain", "orders", "inject", "17"]).ok();
    let told = node.run(&["--chain", "orders", "inject", "text"]).fails(1);
    assert!(told.contains("422") && told.contains("/data"), "{told}");

    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let fork =
        ["--chain", "orders", "fork", "signed", "--at", "0", "--writer", key, "--leap-transactions", "5", "--json"];
    let fork = node.run(&fork).ok_json();
    assert_eq!((&fork["name"], &fork["leap"]["transactions"]), (&json!("signed"), &json!(5)));
    let rules =
        node.run(&["--chain", "signed", "chain", "--from", "1"]).ok_json()[0]["transactions"][0]["data"].clone();
    assert_eq!((&rules["writers"], &rules["difficulty"], &rules["max_bytes"]), (&json!([key]), &json!(1), &json!(10)));
    assert!(node.run(&["--chain", "signed", "inject", "1"]).fails(1).contains("the node answers 401"));

    assert!(node.run(&["bang", "orders"]).fails(1).contains("409: a chain with the name \"orders\" exists already"));
    let told = node.run(&["bang", "x", "--difficulty", "99", "--max-bytes", "0"]).fails(1);
    assert!(told.contains("\n  /difficulty: must be") && told.contains("\n  /max_bytes: must be"), "{told}");
    assert!(
        node.run(&["bang", "x", "--schema", "no such file"]).fails(1).contains("cannot read the schema no such file")
    );
    assert!(node.run(&["--chain", "none", "leap"]).fails(1).contains("404: there is no chain \"none\""));
    assert!(node.run(&["fork", "y", "--at", "7"]).fails(1).contains("at"));
    for usage in [&["bang", "BIG"][..], &["bang", "x", "--leap-every", "soon"], &["--chain", "../x", "leap"], &["bang"]]
    {
        node.run(usage).fails(2);
    }
}

#[test]
fn nodes_discover_each_other() {
    let (one, other) = (Node::ephemeral(), Node::ephemeral());
    assert_eq!(one.run(&["discover"]).ok(), "the node knows no other\n");
    let host = other.url.strip_prefix("http://").unwrap();
    let port = host.rsplit(':').next().unwrap();
    let list = one.run(&["discover", host, "--json"]).ok_json();
    assert!(list[0]["host"].as_str().unwrap().ends_with(port), "{list}");
    let said = one.run(&["discover"]).ok();
    assert!(said.contains(port) && said.contains(list[0]["id"].as_str().unwrap()), "{said}");
    assert!(one.run(&["discover", "localhost:1"]).fails(1).contains("422: localhost:1 does not answer"));
}

#[test]
fn a_receipt_is_kept_and_checked_offline() {
    let node = filled(&["--ephemeral"]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("receipt.json");
    let said = node.run(&["receipt", "2", "--out", text(&path)]).ok();
    assert!(said.starts_with("transaction 2 is sealed by quant 1: its receipt is in "), "{said}");
    assert_eq!(node.run(&["receipt", "2"]).ok(), fs::read_to_string(&path).unwrap());
    assert!(node.run(&["receipt", "303"]).fails(1).contains("409"));
    assert!(node.run(&["receipt", "999"]).fails(1).contains("404"));
    let printed = |args: &[&str]| node.run(args).ok().lines().next().expect("it prints the key").to_owned();
    let (key, of_chain) = (printed(&["key"]), printed(&["key", "--chain", "qbc"]));
    let other = Node::ephemeral().run(&["key"]).ok().lines().next().unwrap().to_owned();
    node.run(&["receipt", "2", "--key", &key]).ok();
    assert!(node.run(&["receipt", "2", "--key", &other]).fails(1).contains("has not signed it"));
    let proof = reqwest::blocking::Client::new().get(format!("{}/transactions/2/receipt", node.url));
    let tlog_proof = proof.header("accept", "text/plain").send().unwrap().text().unwrap();
    node.stop();

    let receipt: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (id, hash) = (receipt["chain"].as_str().unwrap(), receipt["quant"]["hash"].as_str().unwrap());
    let said = qbc(&["verify", text(&path)]).ok();
    let holds = format!("the receipt holds: transaction 2 is in quant 1, hash {hash}, chain id {id}");
    assert_eq!(
        said,
        format!("{holds}; NOT proven: whose chain it is: name the key of its node or of a witness with --key\n")
    );
    let said = qbc(&["verify", text(&path), "--json"]).ok_json();
    let (checkpoint, open) = (json!({"signed_by": null}), said["not_proven"].clone());
    let expected = json!({"chain": id, "transaction": 2, "quant": 1, "hash": hash, "erased": false, "checkpoint": checkpoint, "not_proven": open});
    assert_eq!(said, expected);
    assert!(open[0].as_str().unwrap().starts_with("whose chain it is"), "{said}");

    // A key proves whose chain it is: the symptom was that a receipt held for any chain id that somebody wrote into it.
    let verify = |path: &Path, key: &str| qbc(&["verify", text(path), "--key", key]);
    let said = verify(&path, &key).ok();
    assert!(said.starts_with(&holds) && said.contains("; signed by qbc/node/") && !said.contains("NOT"), "{said}");
    let said = qbc(&["verify", text(&path), "--key", &other, "--key", &of_chain, "--json"]).ok_json();
    assert_eq!((&said["checkpoint"]["signed_by"], &said["not_proven"]), (&json!(format!("qbc/{id}")), &json!([])));
    let told = verify(&path, &other).fails(1);
    assert!(told.contains("the receipt's checkpoint: the key that was named has not signed it"), "{told}");
    let changed = folder.path().join("changed.json");
    let write = |change: &dyn Fn(&mut Value)| {
        let mut value = receipt.clone();
        change(&mut value);
        fs::write(&changed, value.to_string()).unwrap();
    };
    let in_note = |from: &str, to: &str| {
        let note = receipt["checkpoint"].as_str().unwrap().replacen(from, to, 1);
        write(&|value| value["checkpoint"] = json!(note));
    };
    // What contradicts the rest of the receipt is a fault without a key too.
    write(&|value| value["chain"] = json!("00".repeat(32)));
    assert!(qbc(&["verify", text(&changed)]).fails(1).contains("the receipt's checkpoint: it is of qbc/"));
    for (from, to) in [("\n3\n", "\n4\n"), (hash, id), ("quant 1 ", "quant 2 "), ("quant 1", "quanta 1")] {
        in_note(from, to);
        let told = qbc(&["verify", text(&changed)]).fails(1);
        assert!(told.contains("the receipt's checkpoint: it says "), "{from}: {told}");
    }
    in_note("\u{2014} qbc/node/", "\u{2014} qbc/none/");
    qbc(&["verify", text(&changed)]).ok();
    verify(&changed, &key).fails(1);
    write(&|value| value["chekpoint"] = json!("a typing error"));
    assert!(qbc(&["verify", text(&changed)]).fails(1).contains("\"chekpoint\" is no field of a receipt"));
    // Receipts of older nodes have no checkpoint.
    write(&|value| drop(value.as_object_mut().unwrap().remove("checkpoint")));
    let said = qbc(&["verify", text(&changed)]).ok();
    assert!(said.contains("NOT proven: whose chain it is: the receipt has no checkpoint"), "{said}");
    assert_eq!(qbc(&["verify", text(&changed), "--json"]).ok_json()["checkpoint"], Value::Null);
    assert!(verify(&changed, &key).fails(1).contains("the receipt's checkpoint: it is missing"));

    let proof = folder.path().join("proof.txt");
    fs::write(&proof, tlog_proof).unwrap();
    let said = qbc(&["verify", text(&proof)]).ok();
    assert!(said.starts_with(&format!("the proof holds: leaf 2 of the 3 of qbc/{id}, root ")), "{said}");
    assert!(said.contains("\\\"id\\\":\\\"order-1\\\"") && said.contains("; NOT proven: whose chain it is"), "{said}");
    assert!(verify(&proof, &key).ok().contains("; signed by qbc/node/"));
    assert!(
        verify(&proof, &other).fails(1).contains("the proof's checkpoint: the key that was named has not signed it")
    );
    assert!(qbc(&["verify", text(&flip(&proof, "index 2", 6))]).fails(1).contains("proof"));
    for (part, place) in [
        ("\"data\":\"", "line 1: the receipt's transaction: \"hash\" is "),
        // Of a proof like 1023 the flip makes 0023, which is no JSON.
        ("\"proof\":", "line 1"),
        ("\"path\":[\"", "path"),
    ] {
        let told = qbc(&["verify", text(&flip(&path, part, part.len()))]).fails(1);
        assert!(told.contains(place), "{told}");
    }
}

#[test]
fn a_live_chain_is_verified() {
    let node = filled(&["--ephemeral"]);
    let said = node.run(&["verify"]).ok();
    assert!(said.starts_with("chain qbc holds: 3 quants, 303 transactions and 1 pooled, id 000"), "{said}");
    let trial = "chain trial holds: 3 quants, 4 transactions and 1 pooled, id ";
    for url in ["/chains/trial", "/chains/trial/", "/chains/trial/chain"] {
        let said = qbc(&["verify", &(node.url.clone() + url)]).ok();
        assert!(said.starts_with(trial), "{said}");
    }
    assert!(qbc(&["verify", &node.url, "--chain", "trial"]).ok().starts_with(trial));
    let newest = node.run(&["chain", "--from", "2", "--no-transactions"]).ok_json()[0]["hash"].clone();
    let said = node.run(&["verify", "--json"]).ok_json();
    let figures = json!({"chain": "qbc", "id": said["id"], "quants": 3, "transactions": 303, "pooled": 1, "erased": 0, "unrecorded": 0, "hash": newest, "checkpoint": {"signed_by": null}});
    assert_eq!(said, figures);
    assert!(qbc(&["verify", &(node.url.clone() + "/chains/none")]).fails(1).contains("404"));
    assert!(qbc(&["verify", &(node.url.clone() + "/transactions")]).fails(2).contains("names no chain"));
    let host = node.url.trim_start_matches("http://");
    assert_eq!(qbc(&["verify", host]).ok(), qbc(&["verify", &node.url]).ok());
}

/// The URL of a proxy before the node that changes `text` to `other`, of the same length, in each answer.
fn lying(node: &Node, text: &'static str, other: &'static str) -> String {
    assert_eq!(text.len(), other.len());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let host = node.url.strip_prefix("http://").unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&host).unwrap());
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            thread::spawn(move || {
                // Whole lines of a head and bodies without line ends: the last bytes wait for what may complete the text.
                let (mut held, mut buffer) = (String::new(), vec![0; 4096]);
                while let Ok(read @ 1..) = server.read(&mut buffer) {
                    held += std::str::from_utf8(&buffer[..read]).expect("the test's data is ASCII");
                    held = held.replace(text, other);
                    let keep = (1..text.len()).rev().find(|&length| held.ends_with(&text[..length])).unwrap_or(0);
                    let rest = held.split_off(held.len() - keep);
                    if client.write_all(held.as_bytes()).is_err() {
                        return;
                    }
                    held = rest;
                }
            });
        }
    });
    url
}

#[test]
fn a_lying_node_is_found() {
    let node = filled(&["--ephemeral"]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("export.ndjson");
    for (text_there, other, place) in [
        ("\"data\":150", "\"data\":151", "error: transaction 153: \"hash\" is "),
        ("\"index\":154", "\"index\":155", "error: transaction 154: it says that it is transaction 155"),
        ("\"id\":\"line-10\"", "\"id\":\"line-11\"", "error: transaction 13: \"hash\" is "),
        ("\"size\":303,\"version\"", "\"size\":302,\"version\"", "error: quant 2: \"hash\" is "),
        ("\"length\":3", "\"length\":4", "error: quant 3: the node does not send it"),
        ("\"length\":3", "\"length\":2", "error: the node says that it has 2 quants, but its checkpoint is of"),
        ("\"size\":304", "\"size\":305", "error: transaction 304: the node does not send it"),
        ("\"chain\":\"qbc\"", "\"chain\":\"qbd\"", "error: the node says that the chain is \"qbd\""),
    ] {
        let url = lying(&node, text_there, other);
        let told = qbc(&["verify", &url]).fails(1);
        assert!(told.starts_with(place), "{other}: {told}");
        // An export ends with its checkpoint, whatever else the node says that it has.
        if !other.contains("305") && !other.contains("\"length\":4") {
            let told = qbc(&["--node", &url, "export", "--out", text(&path)]).fails(1);
            assert!(told.starts_with(place), "{other}: {told}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a faulty export leaves no file");
    }
    assert!(qbc(&["verify", &lying(&node, "\"no such text", "\"no such text")]).ok().starts_with("chain qbc holds"));
    let told = qbc(&["--node", &lying(&node, "\"data\":\"hello", "\"data\":\"jello"), "receipt", "2"]).fails(1);
    assert!(told.contains("the node sent a receipt that does not hold: the receipt's transaction: "), "{told}");
}

#[test]
fn a_chain_file_is_verified() {
    let node = filled(&["--ephemeral"]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("chain.json");
    let chain = node.run(&["chain"]).ok();
    fs::write(&path, &chain).unwrap();
    let said = qbc(&["verify", text(&path)]).ok();
    assert!(said.starts_with("chain qbc holds: 3 quants, 303 transactions, id 000"), "{said}");
    assert_eq!(node.run_with_input(&["verify", "-"], &chain).ok(), said);
    let quants: Vec<Value> = serde_json::from_str(&chain).unwrap();
    let lines = quants.iter().map(|quant| format!("{quant}\n")).collect::<String>();
    assert_eq!(node.run_with_input(&["verify", "-"], &lines).ok(), said);

    let told = qbc(&["verify", text(&flip(&path, "\"data\":150", 9))]).fails(1);
    assert!(told.contains("chain.flipped: line 1: transaction 153: \"hash\" is "), "{told}");
    assert!(
        node.run_with_input(&["verify", "-"], &chain[..1000])
            .fails(1)
            .contains("standard input: the JSON is cut short")
    );
    assert!(qbc(&["verify", "no such file"]).fails(1).contains("cannot read no such file"));
}

#[test]
fn an_export_is_verified_on_the_way_and_again() {
    let node = filled(&["--ephemeral"]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("export.ndjson");
    let said = node.run(&["export", "--out", text(&path)]).ok();
    assert!(said.starts_with("chain qbc holds: 3 quants, 303 transactions, id 000"), "{said}");
    let export = fs::read_to_string(&path).unwrap();
    assert_eq!(node.run(&["export"]).ok(), export);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the part file is gone");
    let is_quant = |line: &str| serde_json::from_str::<Value>(line).unwrap().get("root").is_some();
    let quants: Vec<_> = export.lines().enumerate().filter(|(_, line)| is_quant(line)).map(|(at, _)| at).collect();
    assert_eq!((quants, export.lines().count()), (vec![1, 4, 305], 307));

    let said = qbc(&["verify", text(&path)]).ok();
    assert!(said.starts_with("chain qbc holds: 3 quants, 303 transactions, id 000"), "{said}");
    let told = qbc(&["verify", text(&flip(&path, "\"data\":150", 9))]).fails(1);
    assert!(told.contains("export.flipped: line 156: transaction 153: \"hash\" is "), "{told}");
    fs::write(&path, &export[..export.len() / 2]).unwrap();
    qbc(&["verify", text(&path)]).fails(1);

    // What is pooled is left out, and that was not told: a backup of fifty transactions had one.
    let run = node.run(&["export"]);
    assert!(run.err.starts_with("1 pooled transactions are not in the export"), "{}", run.err);
    let run = node.run(&["export", "--out", text(&path)]);
    assert!(run.err.contains("qbc export --leap") && !run.out.contains("pooled"), "{}{}", run.out, run.err);
    assert_eq!(node.run(&["export", "--out", text(&path), "--json"]).ok_json()["pooled"], 1);
    let run = node.run(&["export", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&run.err).unwrap()["pooled"], 1, "{}", run.err);
    let said = node.run(&["export", "--leap", "--out", text(&path), "--json"]).ok_json();
    assert_eq!((&said["pooled"], &said["transactions"], &said["quants"]), (&json!(0), &json!(304), &json!(4)));
    let run = node.run(&["export", "--leap"]);
    assert_eq!((run.err.as_str(), run.out.lines().count()), ("", 309), "an empty pool is no reason to leap");

    let nowhere = folder.path().join("no/such/folder");
    assert!(node.run(&["export", "--out", text(&nowhere)]).fails(1).contains("cannot write"));
    assert!(node.run(&["--chain", "trial", "export"]).ok().contains("\"fork_of\":{\"chain\":"));
}

#[test]
fn a_checkpoint_shows_what_was_cut_off() {
    let node = filled(&["--ephemeral"]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("export.ndjson");
    let key = node.run(&["key"]).ok().lines().next().expect("it prints the key").to_owned();
    let other = Node::ephemeral().run(&["key"]).ok().lines().next().expect("it prints the key").to_owned();
    let said = node.run(&["export", "--out", text(&path), "--key", &key]).ok();
    assert!(said.contains("; checkpoint: agrees, signed by "), "{said}");
    let verify = |args: &[&str]| qbc(&[&["verify", text(&path)], args].concat());
    assert!(verify(&[]).ok().contains("; checkpoint: agrees; its signature was not checked"));
    assert!(verify(&["--key", &other, "--key", &key]).ok().contains("; checkpoint: agrees, signed by "));
    assert!(
        verify(&["--key", &other]).fails(1).contains("line 307: checkpoint: the key that was named has not signed it")
    );
    assert!(verify(&["--key", "nonsense"]).fails(2).contains("--key"));

    let export = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = export.lines().collect();
    let write = |lines: &[&str]| fs::write(&path, lines.join("\n") + "\n").unwrap();
    write(&lines[..5]);
    let said = verify(&[]).ok();
    assert!(said.contains("holds: 2 quants, 3 transactions") && said.contains("; checkpoint: none"), "{said}");
    assert!(verify(&["--key", &key]).fails(1).contains("checkpoint: there is none"));
    write(&[&lines[..5], &lines[306..]].concat());
    assert!(verify(&[]).fails(1).contains("line 6: checkpoint: it says "));
    write(&[&lines[..], &lines[306..]].concat());
    assert!(verify(&[]).fails(1).contains("line 308: checkpoint: something stands behind it"));
    write(&[&lines[..], &lines[305..306]].concat());
    assert!(verify(&[]).fails(1).contains("line 308: checkpoint: something stands behind it"));

    assert!(qbc(&["verify", &node.url, "--key", &key]).ok().contains("; checkpoint: agrees, signed by "));
    assert!(qbc(&["verify", &node.url, "--key", &other]).fails(1).contains("has not signed it"));
    let lie = lying(&node, "303\n", "302\n");
    assert!(qbc(&["verify", &lie]).fails(1).contains("checkpoint: it says "));
}

#[test]
fn a_chain_is_imported() {
    let (source, target) = (filled(&["--ephemeral"]), Node::ephemeral());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trial.ndjson");
    source.run(&["--chain", "trial", "export", "--out", text(&path)]).ok();
    let key = source.run(&["key"]).ok().lines().next().expect("it prints the key").to_owned();
    let other = target.run(&["key"]).ok().lines().next().expect("it prints the key").to_owned();

    let told = target.run(&["import", text(&path), "--key", &other]).fails(1);
    assert!(
        told.contains("the node answers 422: line 8: checkpoint: the key that was named has not signed it"),
        "{told}"
    );
    let told = target.run(&["import", text(&flip(&path, "\"data\":\"hello", 9))]).fails(1);
    assert!(told.contains("the node answers 422: line 4: transaction 2: \"hash\" is "), "{told}");
    let said = target.run(&["import", text(&path), "--key", &key]).ok();
    assert!(said.starts_with("chain trial is imported: 3 quants, 4 transactions, id "), "{said}");
    let chain = ["--chain", "trial", "chain"];
    assert_eq!(target.run(&chain).ok(), source.run(&chain).ok());
    let export = fs::read_to_string(&path).unwrap();
    let said = target.run_with_input(&["import", "-", "--json"], &export).ok_json();
    assert_eq!((&said["message"], &said["signed_by"]), (&json!("Chain is here already"), &Value::Null));
    assert!(qbc(&["verify", &format!("{}/chains/trial", target.url)]).ok().starts_with("chain trial holds"));

    // The name of the default chain is taken where somebody uses it.
    target.run(&["inject", "1"]).ok();
    source.run(&["export", "--out", text(&path)]).ok();
    let told = target.run(&["import", text(&path)]).fails(1);
    assert!(told.contains("the node answers 409: the chain is called \"qbc\""), "{told}");
    let cut: String = export.lines().take(7).map(|line| format!("{line}\n")).collect();
    let told = target.run_with_input(&["import", "-"], &cut).fails(1);
    assert!(told.contains("does not end with a checkpoint"), "{told}");
}

#[test]
fn a_stopped_folder_is_verified() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let node = filled(&["--data", text(&data)]);
    let told = qbc(&["verify", text(&data)]).fails(1);
    assert!(told.contains("is in use by another process"), "{told}");
    node.stop();

    let said = qbc(&["verify", text(&data)]).ok();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("chain qbc holds: 3 quants, 303 transactions and 1 pooled, id 000"), "{said}");
    assert!(lines[1].starts_with("chain trial holds: 3 quants, 4 transactions and 1 pooled, id "), "{said}");
    assert!(lines[2].contains("holds: 2 chains, 6 quants, 307 transactions and 2 pooled"), "{said}");
    let said = qbc(&["verify", text(&data), "--json"]).ok_json();
    assert_eq!((&said["chains"][1]["chain"], &said["chains"][1]["pooled"]), (&json!("trial"), &json!(1)));

    assert!(qbc(&["verify", text(folder.path())]).fails(1).contains("is no data folder of a node"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "verify makes nothing where nothing is");
    let key = data.join("node.key");
    let secret = fs::read(&key).unwrap();
    fs::write(&key, "00".repeat(32)).unwrap();
    assert!(qbc(&["verify", text(&data)]).fails(1).contains("node.key is not the key"));
    fs::write(&key, secret).unwrap();

    // The transactions stand in the journal or in a table: the byte is flipped wherever they do.
    let holder = files(&data).into_iter().find(|path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(8).any(|window| window == b"line-150")
    });
    let holder = holder.expect("some file holds the transactions as they are");
    let flipped = flip(&holder, "line-150", 7);
    fs::rename(flipped, holder).unwrap();
    let told = qbc(&["verify", text(&data)]).fails(1);
    assert!(told.starts_with("error: the data folder is damaged: "), "{told}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Symptom: a program whose errors nobody could read ended with 101 instead of its own exit code. Cause: the macros that print
/// panic where they cannot. Cure: what cannot be said is lost, and nothing else.
#[test]
fn an_error_that_cannot_be_written_leaves_the_exit_code_as_it_is() {
    let node = Node::ephemeral();
    let closed = || std::io::pipe().unwrap().1.into();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap().into();
    let run = |args: &[&str], stderr: Stdio| node.command(args).stdout(Stdio::null()).stderr(stderr).status().unwrap();
    for stderr in [closed, full] as [fn() -> Stdio; 2] {
        assert_eq!(run(&["verify", "/no/such/file"], stderr()).code(), Some(1));
        assert_eq!(run(&["man", "nonsense"], stderr()).code(), Some(2));
        assert_eq!(run(&["--nonsense"], stderr()).code(), Some(2));
        let mut command = node.command(&["inject", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"nonsense\n{\"data\":1}\n").unwrap();
        let run = child.wait_with_output().unwrap();
        assert!(String::from_utf8(run.stdout).unwrap().starts_with("1 transactions are accepted"));
        assert_eq!(run.status.code(), Some(1));
    }
}

#[test]
fn bench_prints_rates() {
    let node = Node::ephemeral();
    let report = node.run(&["bench", "--seconds", "1", "--connections", "2", "--json"]).ok_json();
    assert!(report["node"]["rate"].as_f64().unwrap() > 0.0, "{report}");
    node.run(&["verify"]).ok();
}

#[test]
fn a_node_that_is_not_there_is_told_with_its_cure() {
    for command in [&["leap"][..], &["inject", "1"], &["chain"], &["verify"], &["export"], &["discover"], &["tail"]] {
        let told = qbc(&[&["--node", "localhost:1"], command].concat()).fails(1);
        assert!(told.starts_with("error: no node answers at http://localhost:1 ("), "{told}");
        assert!(told.contains("Start one with `qbc`"), "{told}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for usage in [
        &["nonsense"][..],
        &["inject"],
        &["inject", "1", "2"],
        &["inject", "--wiat"],
        &["inject", "1", "--timeout", "1s"],
        &["receipt", "first"],
        &["tail", "--from", "-1"],
        &["leap", "--port", "5001"],
        &["--port", "5001", "leap"],
        &["--node", "ftp://localhost", "leap"],
        &["--node", "0", "leap"],
        &["--node", "http://5000", "leap"],
        &["bang", "x", "--chain", "y"],
        &["--chain", "y", "bang", "x"],
        &["--chain", "x", "discover"],
        &["--chain", "x", "chains"],
        &["--chain", "x", "import", "file"],
        &["serve", "--node", "localhost:5000"],
        &["--node", "localhost:5000", "serve"],
        &["--node", "localhost:5000"],
        &["verify", "file", "--node", "localhost:5000"],
        &["--chain", "x", "verify", "file"],
        &["verify", "http://localhost:5000/chains/a", "--chain", "b"],
        &["key", "--data", "folder", "--node", "localhost:5000"],
        &["leap-policy", "--off", "--every", "1s"],
        &["erase", "1"],
        &["freeze"],
        &["freeze", "--reason", "over"],
        &["freeze", "--reason", "over", "--yes", "--message"],
        &["writers", "--message"],
        &["writers", "--signer", "00", "--signature", "00"],
        &["key", "--rotate"],
        &["key", "--retire"],
        &["key", "--data", "folder", "--stolen"],
        &["key", "--data", "folder", "--rotate", "--secret", "00"],
        &["get", ".."],
        &["completions", "basic"],
        &["man", "woman"],
    ] {
        let told = qbc(usage).fails(2);
        assert!(told.starts_with("error: "), "{usage:?}: {told}");
    }
}

/// A writer signs elsewhere what the program prints.
#[test]
fn writers_name_others_and_end_their_chain() {
    use ed25519_dalek::{Signer, SigningKey};
    let node = filled(&["--ephemeral"]);
    let [old, new] = [1, 2].map(|number| SigningKey::from_bytes(&[number; 32]));
    let public = |key: &SigningKey| hex::encode(key.verifying_key().to_bytes());
    let sign = |key: &SigningKey, message: &str| hex::encode(key.sign(message.as_bytes()).to_bytes());
    node.run(&["bang", "audit", "--writer", &public(&old)]).ok();
    let run = |arguments: &[&str]| node.run(&[&["--chain", "audit"], arguments].concat());
    assert_eq!(run(&["writers"]).ok(), format!("{}\ntransaction 0 of the chain audit names them\n", public(&old)));
    let change = ["writers", "--set", &public(&new)];
    assert!(run(&change).fails(1).contains("signed"));
    let message = run(&[&change[..], &["--message"]].concat()).ok();
    let signed = ["--signer", &public(&old), "--signature", &sign(&old, &message)];
    let said = run(&[&change[..], &signed].concat()).ok();
    assert_eq!(said, "the chain audit has other writers: transaction 1 names them\n");
    assert_eq!(run(&["writers", "--json"]).ok_json()["writers"], json!([public(&new)]));
    let message = run(&["freeze", "--reason", "over", "--message"]).ok();
    let signed = ["--signer", &public(&new), "--signature", &sign(&new, &message)];
    let freeze = ["freeze", "--reason", "over", "--yes"];
    assert!(run(&freeze).fails(1).contains("signed"));
    let said = run(&[&freeze[..], &signed].concat()).ok();
    assert_eq!(said, "the chain audit is frozen: transaction 2 is its last, and quant 1 seals it\n");
    assert!(run(&["verify"]).ok().contains("frozen for ever by transaction 2"));
    assert!(run(&["leap"]).fails(1).contains("frozen for ever"));
    assert_eq!(node.run(&["writers"]).ok(), "everyone may write on the chain qbc\n");
}

#[test]
fn help_completions_and_manual_pages_are_printed() {
    assert!(qbc(&["--help"]).ok().contains("start a node at http://localhost:5000"));
    assert!(qbc(&["help", "verify"]).ok().contains("Examples:"));
    assert!(qbc(&["--version"]).ok().starts_with("qbc "));
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(qbc(&["completions", shell]).ok().contains("QBC_COMPLETE"), "{shell}");
    }
    assert!(qbc(&["man"]).ok().contains(".TH QBC 1"));
    assert!(qbc(&["man", "verify"]).ok().contains(".TH QBC-VERIFY 1"));
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = TempDir::new().unwrap();
    let pages = folder.path().join("man1");
    let said = qbc(&["man", "--dir", text(&pages)]).ok();
    let files: Vec<PathBuf> = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(said, format!("{} pages are in {}\n", files.len(), pages.display()));
    for file in &files {
        let page = fs::read_to_string(file).unwrap();
        for section in ["NAME", "SYNOPSIS", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{}: {section}: {page}", file.display());
        }
        // Each page that it leads to is there.
        for other in page.split("\\fR(1)").filter_map(|before| before.rsplit_once("\\fB")) {
            let other = pages.join(format!("{}.1", other.1.replace('\\', "")));
            assert!(other.exists(), "{} leads to {}", file.display(), other.display());
        }
    }
    let help = qbc(&["--help"]).ok();
    let commands = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(commands.len() > 30, "{help}");
    for command in commands.iter().filter(|command| !matches!(**command, "" | "help")) {
        assert!(pages.join(format!("qbc-{command}.1")).exists(), "{command}");
    }
    assert_eq!(qbc(&["man", "cluster", "leave"]).ok(), fs::read_to_string(pages.join("qbc-cluster-leave.1")).unwrap());
    let page = qbc(&["man", "stats"]).ok();
    assert!(page.contains("QBC_NODE") && page.contains("\nqbc stats\n"), "variables and examples: {page}");
    assert!(qbc(&["man", "cluster", "stay"]).fails(2).contains("qbc cluster --help lists them"));

    let mut man = Command::new("man");
    man.args(["--warnings", "-E", "UTF-8", "-l"]).args(&files).env("MANWIDTH", "80").env("PAGER", "cat");
    let Ok(shown) = man.output() else {
        eprintln!("skipped: there is no man here");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&shown.stderr), "", "man has nothing to complain of");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert!(words.windows(3).any(|words| words == ["qbc-watch", "-", "Show"]), "{shown}");
    let node = Node::ephemeral();
    let variables = [("MANPAGER", "cat"), ("MANWIDTH", "80")];
    if let Some(shown) = in_terminal(&node, &["man", "verify"], "", &variables) {
        assert!(shown.contains("Recompute") && !shown.contains(".SH"), "{shown}");
    }
}

/// What a shell gets to see of an answer to it.
fn completed(node: &str, words: &[&str]) -> String {
    let mut command = program(&[&["--", "qbc"], words].concat());
    command.env("QBC_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    let run = Run::of(command.env("QBC_NODE", node).env("_CLAP_IFS", " ").output().expect("the program runs"));
    assert_eq!(run.err, "", "somebody is typing");
    run.ok()
}

#[test]
fn completions_know_chains_and_are_silent_without_a_node() {
    let node = Node::ephemeral();
    for chain in ["orders", "orders-2", "other"] {
        node.run(&["bang", chain, "--difficulty", "0"]).ok();
    }
    for (words, expected) in [
        (&["--chain", "or"][..], "orders orders-2"),
        (&["--chain", "o"], "orders orders-2 other"),
        (&["--chain", ""], "orders orders-2 other qbc"),
        (&["stats", "--chain", "orders"], "orders orders-2"),
        (&["stats", "--chain", "z"], ""),
        // As bash cuts it: what stands before the last piece is not written again.
        (&["stats", "--chain", "=", "ot"], "other"),
        (&["mirror", "--stop", "ot"], "other"),
        (&["guide", "pr"], "proofs"),
        (&["man", "wat"], "watch"),
        (&["exp"], "export"),
        (&["stats", "--jso"], "--json"),
    ] {
        assert_eq!(completed(&node.url, words), expected, "{words:?}");
    }
    let host = node.url.strip_prefix("http://").unwrap();
    let (host, port) = host.split_once(':').unwrap();
    assert_eq!(completed("localhost:1", &["--node", host, ":", port, "--chain", "ot"]), "other");
    assert_eq!(completed("localhost:1", &["--chain", "or"]), "");
    assert_eq!(completed("no node: at all", &["--chain", "or"]), "");

    // One that never answers is not waited for, and what is no name reaches no shell.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(completed(&silent.local_addr().unwrap().to_string(), &["--chain", "or"]), "");
    let evil = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = evil.local_addr().unwrap().to_string();
    let answering = thread::spawn(move || {
        let (mut stream, _) = evil.accept().unwrap();
        let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
        while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        let body = r#"[{"name":"or$(touch x)"},{"name":"or\u001b[31m"},{"name":"or ders"},{"name":"orders"}]"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
    });
    assert_eq!(completed(&address, &["--chain", "or"]), "orders");
    answering.join().unwrap();
}

#[test]
fn the_shells_complete_the_names_of_chains() {
    let node = Node::ephemeral();
    for chain in ["orders", "other"] {
        node.run(&["bang", chain, "--difficulty", "0"]).ok();
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_qbc")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let home = TempDir::new().unwrap();
    for (shell, command, script) in [
        ("bash", "bash --norc --noprofile -i", "source <(qbc completions bash)"),
        ("zsh", "zsh -f -i", "autoload -Uz compinit; compinit -u -D; source <(qbc completions zsh)"),
        ("fish", "fish --no-config -i", "qbc completions fish | source"),
    ] {
        if !std::env::split_paths(&path).any(|folder| folder.join(shell).is_file()) {
            eprintln!("skipped: {shell} is not installed");
            continue;
        }
        let variables =
            [("PATH", path.as_str()), ("QBC_NODE", &node.url), ("NO_COLOR", "1"), ("HOME", text(home.path()))];
        let Some(mut terminal) = Typed::start(command, &variables) else { return };
        terminal.enter(&format!("{script}; echo is rea''dy\r"));
        terminal.wait_for("is ready");
        terminal.enter("qbc --chain ord\tstats --json\r");
        terminal.wait_for("\"chain\": \"orders\"");
        let port = node.url.rsplit(':').next().unwrap();
        terminal.enter(&format!("qbc --node localhost:{port} --chain=oth\tstats --json\r"));
        terminal.wait_for("\"chain\": \"other\"");
        terminal.enter("exit\r");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let node = filled(&["--ephemeral"]);
    for args in [&["chain"][..], &["export"], &["tail", "--from", "0"]] {
        let piped = node.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = piped.expect("the program runs");
        drop(child.stdout.take());
        let run = Run::of(child.wait_with_output().expect("the program ends"));
        assert_eq!((run.code, run.err.as_str()), (0, ""));
    }
}

/// A `qbc tail` that runs. Dropped, it is killed.
struct Tail {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Tail {
    fn start(node: &Node, args: &[&str]) -> Tail {
        let piped = node.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = piped.expect("the program runs");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Nobody takes them where the test has ended.
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Tail { child, lines }
    }

    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(30)).expect("it goes on");
        serde_json::from_str(&line).expect("each line is JSON")
    }

    /// As Ctrl-C ends it. What it wrote to stderr comes back.
    fn interrupt(mut self) -> String {
        let killed = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
        let mut told = String::new();
        self.child.stderr.take().expect("it is piped").read_to_string(&mut told).expect("it is UTF-8");
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0), "{told}");
        told
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tail_prints_what_is_there_and_what_comes() {
    let node = filled(&["--ephemeral"]);
    let all = Tail::start(&node, &["tail", "--from", "0", "--quants", "--json"]);
    let fork = Tail::start(&node, &["--chain", "trial", "tail", "--from", "2"]);
    let page: Value = reqwest::blocking::get(format!("{}/transactions?limit=1000", node.url)).unwrap().json().unwrap();
    let (mut transactions, mut quants) = (Vec::new(), Vec::new());
    while transactions.len() + quants.len() < 304 + 3 {
        let value = all.next();
        if value["root"].is_string() { &mut quants } else { &mut transactions }.push(value);
    }
    assert_eq!(json!(transactions), page);
    assert_eq!(quants.iter().map(|quant| &quant["index"]).collect::<Vec<_>>(), [0, 1, 2]);
    node.run(&["inject", "\"new\""]).ok();
    assert_eq!(all.next()["data"], "new");
    node.run(&["leap"]).ok();
    assert_eq!(all.next()["size"], 305);
    assert_eq!(all.interrupt(), "");
    // Without --quants only transactions come.
    let data: Vec<Value> = (0..3).map(|_| fork.next()["data"].take()).collect();
    assert_eq!((&data[0], &data[1]["name"], &data[2]), (&json!("hello"), &json!("trial"), &json!(1)));
    assert_eq!(fork.interrupt(), "");

    let told = node.run(&["tail", "--from", "306"]).fails(1);
    assert!(told.starts_with("error: the node answers 404: the chain has 305 transactions"), "{told}");
}

#[test]
fn tail_goes_on_with_a_node_that_was_killed_and_started_again() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let mut node = Node::start(&["--data", text(&data)]);
    let tail = Tail::start(&node, &["tail", "--from", "0"]);
    assert_eq!(tail.next()["index"], 0);
    for round in 1..4 {
        node.run(&["inject", "a"]).ok();
        assert_eq!(tail.next()["index"], 2 * round - 1);
        let port = node.url.rsplit(':').next().unwrap().to_owned();
        // One end in order, and others by kill -9.
        if round == 1 {
            node.stop()
        } else {
            drop(node)
        }
        node = Node::start_at(&port, &["--data", text(&data)]);
        node.run(&["inject", "b"]).ok();
        assert_eq!(tail.next()["index"], 2 * round);
    }
    let told = tail.interrupt();
    assert_eq!(told.matches("connecting again\n").count(), 3, "{told}");
    assert_eq!(told.matches("connected again\n").count(), 3, "{told}");
}

/// A typing error in JSON was recorded for ever, as a text, with exit 0: whatever was no JSON was taken for a text.
#[test]
fn what_begins_like_json_is_added_as_such_or_not_at_all() {
    let node = Node::ephemeral();
    for slip in [r#"{"a":1,}"#, "[1,2", "tru", "", " ", " -x", "2026-11-22", "NaN"] {
        assert!(node.run(&["inject", slip]).fails(2).contains("--text"), "{slip:?}");
    }
    assert!(node.run(&["inject", r#"{"a":1,}"#]).fails(2).contains("at line 1 column 8"));
    assert_eq!(node.run(&["stats", "--json"]).ok_json()["size"], 1);
    for text in [r#"{"a":1,}"#, "tru", "", "17", "-"] {
        node.run(&["inject", "--text", text]).ok();
        assert_eq!(
            node.run(&["pool"]).ok_json()["transactions"].as_array().unwrap().last().unwrap()["data"],
            json!(text)
        );
    }

    for input in ["", "\n\n"] {
        let run = node.run_with_input(&["inject", "-"], input);
        assert_eq!((run.code, run.out.as_str()), (1, ""), "{input:?}");
        assert!(run.err.contains("nothing came"), "{}", run.err);
    }
}

/// `--out` replaced whatever had the name: as root a device, and a symbolic link instead of its target.
#[test]
fn a_named_file_is_written_through_links_and_devices_stay() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    let node = filled(&["--ephemeral"]);
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let export = node.run(&["export"]).ok();
    let commands = [(vec!["export"], export), (vec!["receipt", "2"], node.run(&["receipt", "2"]).ok())];
    fs::write(path("target"), "before").unwrap();
    fs::set_permissions(path("target"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("target", path("link")).unwrap();
    symlink("link", path("second")).unwrap();
    symlink("new", path("dangling")).unwrap();
    symlink("loop", path("loop")).unwrap();
    symlink("nowhere/new", path("astray")).unwrap();
    let fifo = path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    for (command, content) in &commands {
        let to = |path: &Path| node.run(&[&command[..], &["--out", text(path)]].concat());
        for (name, target) in [("second", "target"), ("dangling", "new"), ("plain", "plain")] {
            to(&path(name)).ok();
            assert_eq!(&fs::read_to_string(path(target)).unwrap(), content, "{name}");
        }
        assert!(["link", "second", "dangling", "loop"].iter().all(|name| path(name).is_symlink()));
        assert_eq!(fs::metadata(path("target")).unwrap().permissions().mode() & 0o777, 0o640);

        let reader = thread::spawn({
            let fifo = fifo.clone();
            move || fs::read_to_string(fifo).unwrap()
        });
        to(&fifo).ok();
        assert_eq!(&reader.join().unwrap(), content);
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

        to(Path::new("/dev/null")).ok();
        assert!(to(Path::new("/dev/full")).fails(1).contains("cannot write /dev/full"));
        assert!(
            ["/dev/null", "/dev/full"].iter().all(|device| fs::metadata(device).unwrap().file_type().is_char_device())
        );
        assert!(to(folder.path()).fails(1).contains("it is a folder"));
        // Links that lead nowhere are no files either.
        assert!(to(&path("loop")).fails(1).to_lowercase().contains("too many levels"));
        assert!(to(&path("astray")).fails(1).contains("there is no folder"));
        for stdout in ["-", "/dev/stdout"] {
            assert_eq!(&to(Path::new(stdout)).ok(), content, "{stdout}");
        }
    }
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["astray", "dangling", "fifo", "link", "loop", "new", "plain", "second", "target"]);
}

/// A result that nobody got was a success: Rust's runtime opens /dev/null in place of a closed standard output, and takes a
/// write to one that cannot be written for done.
#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    let node = filled(&["--ephemeral"]);
    let shell = |redirect: &str, args: &[&str]| {
        let script = format!("exec \"$0\" \"$@\" {redirect}");
        let program = node.command(args).get_program().to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(program).args(args).env("QBC_NODE", &node.url).stdin(Stdio::null());
        Run::of(command.output().expect("sh runs"))
    };
    for args in
        [&["stats"][..], &["chain"], &["export"], &["receipt", "2", "--json"], &["man"], &["--help"], &["--version"]]
    {
        for redirect in [">&-", ">/dev/full", "1</dev/null"] {
            let told = shell(redirect, args).fails(1);
            assert!(told.contains("standard output") || told.contains("os error"), "{args:?} {redirect}: {told}");
        }
        assert_eq!(shell(">/dev/null", args).code, 0, "{args:?}");
    }
    // Where that is known before, nothing is done.
    shell(">&-", &["inject", "1"]).fails(1);
    assert_eq!(node.run(&["stats", "--json"]).ok_json()["size"], 304);
}

#[test]
fn what_the_node_can_the_program_can() {
    let node = filled(&["--ephemeral"]);
    let said = node.run(&["chains"]).ok();
    let lines: Vec<_> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(
        (lines[1][..5].to_vec(), lines[2][..5].to_vec()),
        (vec!["qbc", "3", "304", "1", "12"], vec!["trial", "3", "5", "1", "0"])
    );
    let column = |line: usize| said.lines().nth(line).unwrap().find("000").unwrap();
    assert_eq!(column(1), said.lines().next().unwrap().find("id").unwrap(), "{said}");
    let chains = node.run(&["chains", "--json"]).ok_json();
    let trial = chains[1]["id"].as_str().unwrap();

    // An id stands for a name.
    let stats = node.run(&["stats", "--json", "--chain", trial]).ok_json();
    assert_eq!((&stats["chain"], &stats["size"]), (&json!("trial"), &json!(5)));
    let said = node.run(&["--chain", trial, "stats"]).ok();
    let figures: Vec<_> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(figures[..4], [["chain", "trial"], ["id", trial], ["length", "3"], ["size", "5"]]);
    assert_eq!(said.lines().next().unwrap().find("trial"), said.lines().nth(1).unwrap().find(trial), "{said}");
    assert!(node.run(&["--chain", trial, "verify"]).ok().starts_with("chain trial holds"));
    assert!(node.run(&["inject", "2", "--chain", trial]).ok().starts_with("transaction 5 of trial is pooled"));

    assert_eq!(node.run(&["get", "order-1"]).ok_json()["data"], "hello");
    assert_eq!(node.run(&["get", "2"]).ok_json()["state"], "sealed");
    node.run(&["inject", "3", "--id", "2"]).ok();
    assert_eq!(node.run(&["get", "--id", "2"]).ok_json()["data"], 3);
    node.run(&["inject", "4", "--id", "a/b?"]).ok();
    assert_eq!(node.run(&["get", "a/b?"]).ok_json()["data"], 4);
    let pool = node.run(&["pool", "--from", "304", "--limit", "1"]).ok_json();
    assert_eq!((&pool["count"], pool["transactions"].as_array().unwrap().len()), (&json!(3), 1));
    let newest = node.run(&["quant", "latest"]).ok_json();
    assert_eq!(
        (&newest["index"], &node.run(&["quant", newest["hash"].as_str().unwrap()]).ok_json()),
        (&json!(2), &newest)
    );
    assert_eq!(node.run(&["quant", "2"]).ok_json(), newest);

    let said = node.run(&["erase", "2", "--reason", "asked for"]).ok();
    assert_eq!(said, "transaction 2 is erased: transaction 306 of qbc records it\n");
    assert!(node.run(&["erase", "2", "--reason", "again"]).ok().contains("was erased before"));
    assert_eq!(node.run(&["get", "2"]).ok_json().get("data"), None);

    assert_eq!(node.run(&["leap-policy"]).ok(), "the chain qbc leaps by hand only\n");
    let said = node.run(&["leap-policy", "--every", "1h", "--transactions", "5000"]).ok();
    assert_eq!(said, "the chain qbc leaps 3600s after a transaction, and as soon as 5000 transactions are pooled\n");
    assert_eq!(
        node.run(&["leap-policy", "--json"]).ok_json()["leap"],
        json!({"every_ms": 3_600_000, "transactions": 5000})
    );
    assert_eq!(node.run(&["leap-policy", "--off"]).ok(), "the chain qbc leaps by hand only\n");
}

#[test]
fn errors_speak_of_commands_and_for_scripts_in_json() {
    let node = Node::ephemeral();
    let told = node.run(&["--chain", "none", "leap"]).fails(1);
    assert!(told.contains("`qbc chains` lists them, `qbc bang` makes one"), "{told}");
    let error = |args: &[&str], code| serde_json::from_str::<Value>(&node.run(args).fails(code)).expect("it is JSON");
    let problem: Value = reqwest::blocking::get(format!("{}/chains/none/stats", node.url)).unwrap().json().unwrap();
    assert_eq!(error(&["--json", "--chain", "none", "stats"], 1), problem);
    let faults = error(&["bang", "x", "--difficulty", "99", "--max-bytes", "0", "--json"], 1);
    assert_eq!((&faults["status"], faults["errors"].as_array().unwrap().len()), (&json!(422), 2));
    for (args, code, detail) in [
        (&["inject", "[1", "--json"][..], 2, "begins like JSON"),
        (&["inject", "--wiat", "--json"], 2, "--wiat"),
        (&["--json"], 2, "--json is an option of client commands"),
        (&["--json", "man"], 2, "man has no use for --json"),
        (&["verify", "no such file", "--json"], 1, "cannot read no such file"),
        (&["--node", "1", "leap", "--json"], 1, "no node answers at http://localhost:1 "),
    ] {
        let error = error(args, code);
        assert!(error["detail"].as_str().unwrap().contains(detail) && error["title"].is_string(), "{error}");
    }
    let run = node.run_with_input(&["inject", "-", "--json"], "nonsense\n");
    assert!(serde_json::from_str::<Value>(&run.err).is_ok(), "{}", run.err);
}

/// A load of a hundred thousand transactions went into the chain that everybody uses.
#[test]
fn bench_loads_a_chain_of_its_own_or_the_one_that_is_named() {
    let node = Node::ephemeral();
    let bench = |args: &[&str]| {
        node.run(&[args, &["bench", "--seconds", "1", "--connections", "1", "--json"]].concat()).ok_json()
    };
    let size = |chain: &str| node.run(&["--chain", chain, "stats", "--json"]).ok_json()["size"].as_u64().unwrap();
    let own = bench(&[])["chain"].as_str().unwrap().to_owned();
    assert!(own.starts_with("bench-") && size(&own) > 1, "{own}");
    assert_eq!(size("qbc"), 1);
    assert_eq!(bench(&["--chain", "qbc"])["chain"], "qbc");
    assert!(size("qbc") > 1);
}

/// What runs in a terminal. None where there is no `script` that gives it one.
fn in_terminal(node: &Node, args: &[&str], input: &str, variables: &[(&str, &str)]) -> Option<String> {
    let quoted: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
    let command = format!("'{}' {}", env!("CARGO_BIN_EXE_qbc"), quoted.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("QBC_NODE", &node.url).env("TERM", "xterm");
    script.env_remove("NO_COLOR").envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = script.spawn() else {
        eprintln!("skipped: there is no script (util-linux) here");
        return None;
    };
    // It stays open until the end, which would be taken for the user's.
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads all");
    let mut out = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut out).expect("it is UTF-8");
    child.wait().expect("it ends");
    Some(out.replace("\r\n", "\n"))
}

/// What runs in a terminal, and is typed to as it goes. Dropped, it is killed.
struct Typed {
    child: Child,
    shown: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Typed {
    /// None where there is no `script` that gives it a terminal.
    fn start(command: &str, variables: &[(&str, &str)]) -> Option<Typed> {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("stty rows 30 cols 100; {command}"), "/dev/null"]).env("TERM", "xterm");
        script.env_remove("NO_COLOR").envs(variables.iter().copied());
        let Ok(mut child) = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            eprintln!("skipped: there is no script (util-linux) here");
            return None;
        };
        let mut out = child.stdout.take().expect("it is piped");
        let (sender, shown) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Some(Typed { child, shown, seen: Vec::new() })
    }

    fn enter(&mut self, keys: &str) {
        self.child.stdin.as_mut().expect("it is piped").write_all(keys.as_bytes()).expect("it reads them");
    }

    /// Waits until it has shown a text behind what was waited for before. What came up to there.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let found = self.seen.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let before: Vec<u8> = self.seen.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&before).into_owned();
            }
            match self.shown.recv_timeout(Duration::from_secs(60)) {
                Ok(shown) if start.elapsed() < Duration::from_secs(60) => self.seen.extend(shown),
                _ => panic!("it does not show {text:?}, but {:?}", String::from_utf8_lossy(&self.seen)),
            }
        }
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watch_shows_a_node_and_leaves_the_terminal_as_it_was() {
    let folder = TempDir::new().unwrap();
    let node = Node::start(&["--data", text(folder.path())]);
    node.run(&["bang", "orders", "--difficulty", "0"]).ok();
    let watch = format!("'{}' watch", env!("CARGO_BIN_EXE_qbc"));
    let command = format!("before=$(stty -g); {watch}; echo code $?; test $before = $(stty -g) && echo as before");
    let Some(mut terminal) = Typed::start(&command, &[("QBC_NODE", &node.url)]) else { return };
    terminal.wait_for("\u{1b}[?1049h");
    terminal.wait_for("orders");
    terminal.wait_for("bang");
    node.run(&["inject", r#"{"hello":"you\u009b31m"}"#]).ok();
    let shown = terminal.wait_for(r#"{"hello":"you\u009b31m"}"#);
    assert!(!shown.contains('\u{9b}'), "no text of a chain commands the terminal");

    // A node that dies and comes back.
    let port = node.url.rsplit(':').next().unwrap().to_owned();
    node.stop();
    terminal.wait_for("AWAY");
    let node = Node::start_at(&port, &["--data", text(folder.path())]);
    node.run(&["inject", r#"{"again":"here"}"#]).ok();
    terminal.wait_for(r#"{"again":"here"}"#);

    terminal.enter("jk?q");
    terminal.wait_for("Ctrl-C");
    terminal.enter("q");
    terminal.wait_for("\u{1b}[?1049l");
    terminal.wait_for("code 0");
    terminal.wait_for("as before");

    let Some(mut terminal) = Typed::start(&format!("{watch}; echo code $?"), &[("QBC_NODE", "localhost:1")]) else {
        return;
    };
    let told = terminal.wait_for("code 1");
    assert!(told.contains("no node answers") && !told.contains("\u{1b}[?1049h"), "{told}");
    let told = node.run(&["watch"]).fails(2);
    assert!(told.contains("`qbc tail`") && told.contains("`qbc cluster --watch`"), "{told}");
    assert!(node.run(&["watch", "--json"]).fails(2).contains("--json"));
}

#[test]
fn the_guide_is_printed_and_paged_on_a_terminal() {
    let node = Node::ephemeral();
    let text = node.run(&["guide", "proofs"]).ok();
    assert!(text.starts_with("# Proofs\n"), "{text}");
    let list = node.run(&["guide"]).ok();
    assert!(qbc::guide::CHAPTERS.iter().all(|chapter| list.contains(chapter.title())), "{list}");
    let unknown = node.run(&["guide", "nothing"]);
    assert!(unknown.code == 2 && unknown.err.contains("proofs"), "{}", unknown.err);
    for (pager, first) in
        [("sed 's/^/> /'", "> # Proofs\n"), ("", "# Proofs\n"), ("no-such-pager-here 2>/dev/null", "# Proofs\n")]
    {
        let Some(shown) = in_terminal(&node, &["guide", "proofs"], "", &[("PAGER", pager)]) else { return };
        assert!(shown.starts_with(first), "{pager}: {shown}");
    }
}

#[test]
fn on_a_terminal_json_is_indented_and_coloured() {
    let node = Node::ephemeral();
    node.run(&["inject", "{\"a\":[\"\u{9b}31m\"]}"]).ok();
    let Some(shown) = in_terminal(&node, &["get", "1"], "", &[]) else { return };
    assert!(shown.starts_with("{\n  \u{1b}[1;34m\"index\"\u{1b}[0m: \u{1b}[36m1\u{1b}[0m,\n"), "{shown}");
    assert!(
        shown.contains("\\u009b31m") && shown.ends_with("\n}\n"),
        "no text of a chain commands the terminal: {shown}"
    );
    let plain = in_terminal(&node, &["chain"], "", &[("NO_COLOR", "1")]).expect("there is a terminal");
    assert!(plain.starts_with("[\n  {\n    \"index\": 0,\n") && !plain.contains('\u{1b}'), "{plain}");
    let piped = node.run(&["chain"]).ok();
    assert_eq!(serde_json::from_str::<Value>(&plain).unwrap(), serde_json::from_str::<Value>(&piped).unwrap());
    assert_eq!((piped.lines().count(), piped.ends_with("]\n")), (1, true));
    let forced = node.command(&["get", "1"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(Run::of(forced).ok().starts_with("{\u{1b}[1;34m\"index\""));
    // The bar is gone at the end.
    let verified = in_terminal(&node, &["verify"], "", &[]).expect("there is a terminal");
    let last = verified.trim_end().rsplit(['\r', '\n']).next().unwrap();
    assert!(last.trim_start_matches("\u{1b}[2K").starts_with("chain qbc holds: "), "{verified:?}");
}

#[test]
fn long_mining_is_asked_for_or_warned_of() {
    let node = Node::ephemeral();
    let bang = ["bang", "hard", "--difficulty", "48"];
    for (args, is_json) in [(&bang[..], false), (&[&bang[..], &["--json"]].concat(), true)] {
        let mut child = node.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut warning = String::new();
        BufReader::new(child.stderr.take().expect("it is piped")).read_line(&mut warning).expect("it warns");
        child.kill().expect("it mines still");
        child.wait().expect("it ends");
        assert!(warning.contains("difficulty 48 takes about ") && warning.contains("--yes"), "{warning}");
        assert_eq!(serde_json::from_str::<Value>(&warning).is_ok(), is_json);
    }
    if let Some(shown) = in_terminal(&node, &bang, "n\n", &[]) {
        assert!(shown.contains("Begin? [y/N]") && shown.contains("nothing was mined"), "{shown}");
    }
}

/// Where nothing came any more, no write showed that the reader had gone.
#[test]
fn tail_ends_when_its_reader_does() {
    let node = filled(&["--ephemeral"]);
    let mut tail = node.command(&["tail", "--from", "0"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut out = BufReader::new(tail.stdout.take().expect("it is piped"));
    for _ in 0..304 {
        assert!(out.read_line(&mut String::new()).expect("it is text") > 0);
    }
    drop(out);
    let (sender, ended) = mpsc::channel();
    let id = tail.id().to_string();
    thread::spawn(move || sender.send(tail.wait().expect("it ends").code()));
    let code = ended.recv_timeout(Duration::from_secs(30));
    if code.is_err() {
        Command::new("kill").arg(id).status().expect("kill runs");
    }
    assert_eq!(code, Ok(Some(0)));
}

#[test]
fn an_address_of_another_machine_is_blamed_on_the_host() {
    // TEST-NET-1 is nobody's.
    let told = qbc(&["serve", "--ephemeral", "--host", "192.0.2.1", "--port", "0"]).fails(1);
    assert!(told.contains("192.0.2.1 is no address of this machine: --host ") && !told.contains("--port"), "{told}");
    let node = Node::ephemeral();
    let port = node.url.rsplit(':').next().unwrap();
    let told = qbc(&["serve", "--ephemeral", "--port", port]).fails(1);
    assert!(told.contains("is another node running there? Choose another port with --port"), "{told}");
}

#[test]
fn a_bare_number_is_a_port_of_this_machine() {
    let node = Node::ephemeral();
    let port = node.url.rsplit(':').next().unwrap();
    // What is said counts before the environment, in front of the command too.
    let elsewhere = program(&["--node", port, "stats", "--json"]).env("QBC_NODE", "localhost:1").output().unwrap();
    assert_eq!(Run::of(elsewhere).ok_json()["size"], 1);
    for name in [port.to_owned(), format!(":{port}"), format!("localhost:{port}"), format!("127.0.0.1:{port}")] {
        assert_eq!(qbc(&["--node", &name, "stats", "--json"]).ok_json()["size"], 1, "{name}");
    }
}

#[test]
fn the_log_has_a_line_for_each_chain_that_changes() {
    let folder = TempDir::new().unwrap();
    let (log, export) = (folder.path().join("log"), folder.path().join("export"));
    let start = || {
        let mut command = program(&["--ephemeral", "--port", "0", "--log", "info"]);
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(file).spawn().expect("the program runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the node writes a line");
        Node { child, url: line.trim_end().strip_prefix("listening on ").expect("it listens").into(), _stdout: stdout }
    };
    let (node, other) = (start(), start());
    node.run(&["bang", "orders"]).ok();
    node.run(&["--chain", "orders", "inject", "1"]).ok();
    node.run(&["--chain", "orders", "leap"]).ok();
    node.run(&["--chain", "orders", "fork", "orders-2"]).ok();
    node.run(&["--chain", "orders", "erase", "1", "--reason", "a secret"]).ok();
    node.run(&["--chain", "orders", "export", "--leap", "--out", text(&export)]).ok();
    other.run(&["import", text(&export)]).ok();
    // Nothing waits for the log: a line may come after its answer.
    let has = |line: &str| {
        let log = fs::read_to_string(&log).unwrap();
        log.lines().any(|other| other.contains("INFO") && other.contains(line))
    };
    for line in [
        "the chain is made chain=orders id=",
        "the chain is forked from quant 1 of orders chain=orders-2 id=",
        "the data of transaction 1 is erased chain=orders",
        "the chain is imported chain=orders id=",
    ] {
        let written = (0..1_000).any(|_| {
            has(line) || {
                thread::sleep(Duration::from_millis(10));
                false
            }
        });
        assert!(written, "{line}: {}", fs::read_to_string(&log).unwrap());
    }
    assert!(!fs::read_to_string(&log).unwrap().contains("secret"));
}

#[test]
fn a_test_net_is_one_command_and_any_of_its_nodes_will_do() {
    let mut net = program(&["net", "--nodes", "3", "--kill-every", "1s"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(net.stdout.take().unwrap()).lines();
    let urls: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
    let nodes = urls.join(",");
    let run = |args: &[&str]| qbc(&[&["--node", &nodes], args].concat());
    // Until there is a group of three; nodes die all the time.
    let start = Instant::now();
    while run(&["bang", "kept", "--difficulty", "0", "--replicas", "3"]).code != 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(100));
    }
    for number in 0..10 {
        let id = format!("id-{number}");
        while run(&["--chain", "kept", "inject", &number.to_string(), "--id", &id]).code != 0 {
            assert!(start.elapsed() < Duration::from_secs(90));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let stats = loop {
        let stats = run(&["--chain", "kept", "stats", "--json"]);
        if stats.code == 0 {
            break stats.ok_json();
        }
        assert!(start.elapsed() < Duration::from_secs(120));
    };
    assert_eq!(stats["size"], 11);
    let shown = loop {
        let shown = run(&["cluster"]);
        if shown.code == 0 {
            break shown.ok();
        }
        assert!(start.elapsed() < Duration::from_secs(120));
    };
    assert!(
        shown.contains("LEADER") && shown.lines().filter(|line| line.contains("localhost:")).count() == 3,
        "{shown}"
    );
    assert_eq!(run(&["cluster", "--json"]).ok_json()["nodes"].as_array().unwrap().len(), 3);
    let wrong = "0 nodes of the cluster have an id that begins with \"zz\"";
    while !run(&["cluster", "leave", "zz"]).fails(1).contains(wrong) {
        assert!(start.elapsed() < Duration::from_secs(150));
    }
    let killed = Command::new("kill").arg(net.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(net.wait().unwrap().code(), Some(0));
    for url in urls {
        assert!(TcpStream::connect(url.trim_start_matches("http://")).is_err(), "{url} is still there");
    }
}

#[test]
fn a_mirror_is_started_listed_and_stopped() {
    let (source, node) = (filled(&["--ephemeral"]), Node::ephemeral());
    let key = source.run(&["key"]).ok();
    let key = key.trim();
    assert!(node.run(&["mirror"]).ok().contains("follows no chain"));
    let from = format!("{}/chains/trial", source.url);
    assert!(node.run(&["mirror", &from]).fails(2).contains("--key"));
    let started = node.run(&["mirror", &from, "--key", key]).ok();
    assert!(started.contains("trial") && started.contains(&from), "{started}");
    source.run(&["--chain", "trial", "leap"]).ok();
    let size = source.run(&["--chain", "trial", "stats", "--json"]).ok_json()["size"].clone();
    let start = Instant::now();
    loop {
        let rows = node.run(&["mirror", "--json"]).ok_json();
        if rows[0]["state"] == "following" && rows[0]["size"] == size {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{rows}");
        thread::sleep(Duration::from_millis(50));
    }
    let table = node.run(&["mirror"]).ok();
    assert!(table.contains("CHAIN") && table.contains("following") && table.contains(&from), "{table}");
    assert!(node.run(&["--chain", "trial", "inject", "1"]).fails(1).contains("mirror of"));
    // A stranger takes the copy for what its source has signed.
    node.run(&["--chain", "trial", "verify"]).ok();
    assert!(node.run(&["mirror", "--stop", "trial"]).ok().contains("not followed"));
    assert_eq!(node.run(&["mirror", "--json"]).ok_json()[0]["state"], "stopped");
    assert!(node.run(&["mirror", "--stop", "none"]).fails(1).contains("no mirror"));
}

/// A token is printed once, alone on the first line; what follows is a whole access file. The program shows it, and nothing prints it.
#[test]
fn a_token_is_made_shown_and_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut file) = (folder.path().join("access.toml"), String::new());
    let mut make = |args: &[&str]| {
        let printed = qbc(&[&["token"], args].concat()).ok();
        let (token, entry) = printed.split_once('\n').expect("lines follow");
        assert!(token.starts_with("qbc_") && !entry.contains(token), "{printed}");
        file += entry;
        token.to_owned()
    };
    let writer = make(&["--name", "writer", "--role", "write", "--chains", "orders-*,qbc"]);
    let admin = make(&["--name", "admin", "--role", "operate", "--role", "read,write"]);
    assert_ne!(writer, admin);
    fs::write(&path, &file).unwrap();
    let node = Node::start(&["--ephemeral", "--access", text(&path)]);
    let with = |token: &str, args: &[&str]| Run::of(node.command(args).env("QBC_TOKEN", token).output().unwrap());
    let told = node.run(&["inject", "1"]).fails(1);
    assert!(told.contains("401") && told.contains("QBC_TOKEN") && told.contains("--token"), "{told}");
    with(&writer, &["inject", "1"]).ok();
    let told = with(&writer, &["stats"]).fails(1);
    assert!(told.contains("403") && told.contains("\"writer\" has not the role read"), "{told}");
    with(&admin, &["bang", "orders-1", "--difficulty", "0"]).ok();
    with(&writer, &["--chain", "orders-1", "inject", "2"]).ok();
    // In front of the command and behind it, before what the environment says.
    node.run(&["--token", &admin, "stats"]).ok();
    with(&writer, &["stats", "--token", &admin]).ok();
    with(&admin, &["leap"]).ok();
    with(&admin, &["verify"]).ok();
    with(&admin, &["bench", "--seconds", "1", "--connections", "2"]).ok();
    for wrong in ["a b", "qbc_unknown"] {
        let told = with(wrong, &["stats"]);
        assert!(told.code != 0 && !told.err.contains(wrong), "{}", told.err);
    }
    let help = node.command(&["stats", "--help"]).env("QBC_TOKEN", &admin).output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains(&admin), "the variable's value is hidden");
    for wrong in [
        &["token", "--role", "read"][..],
        &["token", "--name", "x"],
        &["token", "--name", "a b", "--role", "read"],
        &["token", "--name", "x", "--role", "all"],
        &["token", "--name", "x", "--role", "read", "--chains", "A"],
    ] {
        qbc(wrong).fails(2);
    }
}
