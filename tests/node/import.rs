//! Imports: the same chain on another node, byte by byte, whatever happens on the way; and nothing that does not hold.

use std::{
    io::Write,
    process::{Command, Output},
    thread,
    time::Duration,
};

use ed25519_dalek::{Signer, SigningKey};
use qbc::{
    core::{
        chain::{Chain, bang_header, bang_transaction},
        count::Index,
        export::checkpoint_line,
        json,
        merkle::Edge,
        note::{Checkpoint, KeyName, Note},
        rules::Rules,
        transaction::{Submission, Timestamp, Transaction},
    },
    limits::{DATA_DEPTH, IMPORTS},
};
use reqwest::{Method, blocking::Response};
use serde_json::{Value, json};

use crate::support::{TestNode, eventually, header, problem, verifies};

/// What `qbc export` writes of a chain.
fn export(node: &TestNode, chain: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    let output = command.args(["--node", &node.url, "--chain", chain, "export"]).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("JSON is UTF-8")
}

/// The id of the chain that an export ends as.
fn id_of(export: &str) -> String {
    let last: Value = serde_json::from_str(export.lines().last().expect("it has lines")).expect("it is JSON");
    let note = last["checkpoint"].as_str().expect("it is the checkpoint");
    note.strip_prefix("qbc/").expect("its origin").lines().next().expect("the first line").to_owned()
}

fn import_as(node: &TestNode, id: &str, export: &str) -> Response {
    node.post_text(&format!("/import?chain={id}"), "application/x-ndjson", export)
}

fn import(node: &TestNode, export: &str) -> Response {
    import_as(node, &id_of(export), export)
}

#[track_caller]
fn imported(node: &TestNode, export: &str) -> Value {
    let response = import(node, export);
    let status = response.status();
    let text = response.text().expect("it is text");
    assert_eq!(status, 201, "{text}");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Makes a chain with all that a chain can have: ids, signatures, a schema, empty quants, several tiles and runs.
fn fill(node: &TestNode) {
    let key = SigningKey::from_bytes(&[3; 32]);
    let public = hex::encode(key.verifying_key().to_bytes());
    let rules =
        json!({"name": "root", "difficulty": 2, "writers": [public], "schema": {"type": ["object", "integer"]}});
    let id = node.bang(rules)["id"].clone();
    let sign = |body: Value| {
        let mut message = body.clone();
        message["chain"] = id.clone();
        let mut signed = body;
        signed["signature"] = json!(hex::encode(key.sign(&json::canonical(&message)).to_bytes()));
        signed["signer"] = json!(public);
        signed
    };
    let bodies: Vec<Value> =
        (0..700).map(|number| sign(json!({"data": number, "id": format!("n-{number}")}))).collect();
    assert_eq!(node.post("/chains/root/inject").json(&bodies).send().unwrap().status(), 202);
    node.leap("/chains/root");
    node.leap("/chains/root");
    let odd = sign(json!({"data": {"é\u{1f600}": ["\u{0}\"\\", 1e300, 0.5, null, [], {}]}}));
    assert_eq!(node.post("/chains/root/inject").json(&odd).send().unwrap().status(), 202);
    node.leap("/chains/root");
}

fn fork(node: &TestNode, chain: &str, body: Value) {
    let response = node.post(&format!("/chains/{chain}/fork")).json(&body).send().unwrap();
    assert_eq!(response.status(), 201, "{}", response.text().unwrap());
}

/// A receipt, but for the signatures of the node that serves it.
fn receipt(node: &TestNode, path: &str) -> Value {
    let mut receipt = node.json(path);
    let note = receipt["checkpoint"].as_str().expect("it has a checkpoint").to_owned();
    receipt["checkpoint"] = json!(note.split("\n\n").next());
    receipt
}

/// All that a node serves of the sealed part of a chain.
fn served(node: &TestNode, chain: &str) -> Vec<String> {
    let text = |path: &str| {
        let response = node.get(&format!("/chains/{chain}{path}")).send().expect("it answers");
        assert_eq!(response.status(), 200, "{path}");
        response.bytes().expect("it has a body").iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let size = node.json(&format!("/chains/{chain}/stats"))["size"].as_u64().unwrap();
    let mut paths: Vec<String> =
        ["/chain", "/transactions?limit=10000", "/quants/latest", "/stats", "/tile/0/000", "/tile/entries/000"]
            .map(String::from)
            .into();
    for index in [0, 1, 255, 256, 300, size - 2, size - 1] {
        paths.push(format!("/transactions/{index}/receipt"));
        paths.push(format!("/transactions/{index}"));
        paths.push(format!("/consistency?from={index}&to={size}"));
    }
    // When a node has read all again is its own affair, and so is who signs a checkpoint.
    let is_own = |path: &&String| *path != "/stats" && !path.ends_with("/receipt");
    let mut all: Vec<String> = paths.iter().filter(is_own).map(|path| text(path)).collect();
    for path in paths.iter().filter(|path| path.ends_with("/receipt")) {
        all.push(receipt(node, &format!("/chains/{chain}{path}")).to_string());
    }
    let stats = node.json(&format!("/chains/{chain}/stats"));
    all.push(json!([stats["id"], stats["size"], stats["hash"], stats["root"], stats["bytes"]]).to_string());
    all
}

#[test]
fn a_chain_is_the_same_on_another_node() {
    let source = TestNode::start(&[]);
    fill(&source);
    fork(&source, "root", json!({"name": "child", "at": 2, "writers": null, "schema": null, "difficulty": 0}));
    source.inject("/chains/child", json!("free"));
    source.leap("/chains/child");
    fork(&source, "child", json!({"name": "grandchild", "difficulty": 1}));
    let id = json!({"data": "last", "id": "mine"});
    source.post("/chains/grandchild/inject").json(&id).send().unwrap();
    source.leap("/chains/grandchild");

    let mut target = TestNode::start(&[]);
    for chain in ["grandchild", "root", "child"] {
        let export = export(&source, chain);
        let answer = imported(&target, &export);
        assert_eq!((&answer["chain"], answer["id"].as_str()), (&json!(chain), Some(&*id_of(&export))));
        assert_eq!(served(&target, chain), served(&source, chain), "{chain}");
        let again = import(&target, &export);
        assert_eq!((again.status().as_u16(), header(&again, "location")), (200, format!("/chains/{chain}")));
    }

    // The chains live: exact retries, new transactions, forks at quants of ancestors, restarts.
    let replayed = target.post("/chains/grandchild/inject").json(&id).send().unwrap();
    assert_eq!((replayed.status().as_u16(), header(&replayed, "idempotent-replayed")), (202, "true".into()));
    let taken = json!({"data": 1, "id": "n-5"});
    problem(target.post("/chains/grandchild/inject").json(&taken).send().unwrap(), 409);
    target.inject("/chains/grandchild", json!({"after": "import"}));
    target.leap("/chains/grandchild");
    for (name, at) in [("of-root", 1), ("of-child", 3), ("of-itself", 5)] {
        fork(&target, "grandchild", json!({"name": name, "at": at, "writers": null, "schema": null}));
        target.inject(&format!("/chains/{name}"), json!("new"));
        target.leap(&format!("/chains/{name}"));
    }
    let rules = target.json("/chains/of-root")["rules"]["fork_of"].clone();
    assert_eq!(rules["chain"], target.json("/chains/root")["id"], "the quant was made by the root");
    let data = target.data.clone();
    for chain in ["root", "child", "grandchild", "of-root", "of-child", "of-itself"] {
        target.audit(&format!("/chains/{chain}"));
    }
    let before = served(&target, "grandchild");
    assert_eq!(target.stop(), Some(0));
    verifies(&data);
    let (again, folder) = (TestNode::open(&data, &[]), target);
    assert_eq!(served(&again, "grandchild"), before);
    again.audit("/chains/of-root");
    drop((again, folder));
}

#[test]
fn erased_transactions_come_without_their_data() {
    let source = TestNode::start(&[]);
    source.bang(json!({"name": "c", "difficulty": 0}));
    for data in ["kept", "secret", "kept too"] {
        source.inject("/chains/c", json!(data));
    }
    source.leap("/chains/c");
    let reason = json!({"reason": "a request"});
    assert_eq!(source.post("/chains/c/transactions/2/erase").json(&reason).send().unwrap().status(), 201);
    source.leap("/chains/c");
    let export = export(&source, "c");
    assert!(!export.contains("secret"));
    let mut target = TestNode::start(&[]);
    imported(&target, &export);
    for path in ["/chain", "/transactions", "/tile/entries/000.p/5"] {
        let text = |node: &TestNode| node.get(&format!("/chains/c{path}")).send().unwrap().text().unwrap();
        assert_eq!(text(&target), text(&source), "{path}");
    }
    let path = "/chains/c/transactions/2/receipt";
    assert_eq!(receipt(&target, path), receipt(&source, path));
    assert_eq!(target.stop(), Some(0));
    verifies(&target.data);
}

/// What is wrong, the line that is named, and what is said of it.
fn faults(export: &str) -> Vec<(String, usize, &'static str)> {
    let lines: Vec<&str> = export.lines().collect();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut changed: Vec<String> = lines.iter().map(ToString::to_string).collect();
        change(&mut changed);
        changed.join("\n") + "\n"
    };
    let replaced = |line: usize, from: &str, to: &str| {
        assert!(lines[line - 1].contains(from), "{}", lines[line - 1]);
        with(&|lines| lines[line - 1] = lines[line - 1].replacen(from, to, 1))
    };
    let last = lines.len();
    vec![
        (replaced(5, "\"data\":2", "\"data\":3"), 5, "\"hash\" is "),
        (replaced(5, "\"data\":2", "\"data\":+"), 5, "I-JSON"),
        (replaced(5, "\"index\":3", "\"index\":4"), 5, "it says that it is transaction 4"),
        (replaced(2, "\"proof\":", "\"proof\":1"), 2, "quant 0: \"hash\" is "),
        (with(&|lines| drop(lines.remove(4))), 5, "it says that it is transaction 4"),
        (with(&|lines| lines.swap(4, 5)), 5, "it says that it is transaction 4"),
        (with(&|lines| lines.insert(5, lines[4].clone())), 6, "it says that it is transaction 3"),
        (with(&|lines| lines[4] = "hello".into()), 5, "I-JSON"),
        (with(&|lines| drop(lines.remove(0))), 1, "quant 0: "),
        (with(&|lines| drop(lines.remove(last - 1))), last, "checkpoint: it is missing"),
        (with(&|lines| lines.truncate(last - 2)), last - 1, "the end is missing"),
        (with(&|lines| drop(lines.remove(last - 2))), last - 1, "checkpoint: no quant seals"),
        (with(&|lines| lines.push(lines[last - 1].clone())), last + 1, "something stands behind it"),
        (with(&|lines| lines.push(lines[last - 2].clone())), last + 1, "something stands behind it"),
        (String::new(), 1, "checkpoint: it is missing"),
    ]
}

#[test]
fn each_fault_is_named_with_its_line_and_nothing_is_kept() {
    let source = TestNode::start(&[]);
    source.bang(json!({"name": "c", "difficulty": 0}));
    for data in 0..8 {
        source.inject("/chains/c", json!(data));
    }
    source.leap("/chains/c");
    source.inject("/chains/c", json!(8));
    source.leap("/chains/c");
    let export = export(&source, "c");
    let id = id_of(&export);
    let target = TestNode::start(&[]);
    for (faulty, line, detail) in faults(&export) {
        let problem = problem(import_as(&target, &id, &faulty), 422);
        let said = problem["detail"].as_str().unwrap();
        assert!(said.starts_with(&format!("line {line}: ")) && said.contains(detail), "{line} {detail}: {said}");
        assert_eq!(target.get("/chains/c").send().unwrap().status(), 404, "{said}");
        assert!(!target.json("/chains").to_string().contains(&id), "{said}");
    }
    let other = "00".repeat(32);
    let problem_of = |response: Response, status: u16| problem(response, status)["detail"].as_str().unwrap().to_owned();
    assert!(problem_of(import_as(&target, &other, &export), 422).contains("its id is "));
    // An older checkpoint, which does not speak for the end.
    let older = export.lines().last().unwrap().to_owned();
    source.leap("/chains/c");
    let newer = self::export(&source, "c");
    let lines: Vec<&str> = newer.lines().collect();
    let mixed = format!("{}\n{older}\n", lines[..lines.len() - 1].join("\n"));
    assert!(problem_of(import(&target, &mixed), 422).contains("checkpoint: it says "));

    imported(&target, &export);
    target.audit("/chains/c");
    assert!(problem_of(import(&target, &newer), 409).contains("is here already, but has less"));
    source.bang(json!({"name": "other", "difficulty": 0}));
    target.bang(json!({"name": "other", "difficulty": 0}));
    assert!(problem_of(import(&target, &self::export(&source, "other")), 409).contains("another one of that name"));
    problem(target.post_text(&format!("/import?chain={id}"), "application/json", "{}"), 415);
    problem(target.post_text("/import", "application/x-ndjson", ""), 400);
    problem(target.post_text("/import?chain=1", "application/x-ndjson", ""), 400);
}

/// An export that no node writes, with this data in its one transaction behind the bang.
fn forged(name: &str, data: &str) -> String {
    let now = Timestamp::from_micros(1_763_812_147_123_456).unwrap();
    let rules = Rules::from_value(&json!({"name": name, "difficulty": 0})).ok().unwrap();
    let bang = bang_transaction(&rules, now, [1; 16]);
    let first = bang_header(&rules, &bang, None, now).mine(0..1).unwrap();
    let mut chain = Chain::bang(rules.into(), &bang, Edge::new(), first.clone(), 0, &mut |_| ());
    let submission = Submission { data: data.into(), id: None, signed: None };
    let transaction = Transaction::new(submission, None, now, [2; 16]);
    chain.inject(&transaction, 0, &mut |_| ());
    let second = chain.head.cut(0, now).mine(0..1).unwrap();
    let mut note = Note::new(Checkpoint::new(chain.id, &second).to_string()).unwrap();
    note.sign(KeyName::of_chain(chain.id), &SigningKey::from_bytes(&[4; 32]));
    let mut lines = Vec::new();
    bang.write(Index::new(0), &mut lines);
    lines.extend(format!("\n{}\n", serde_json::to_string(&first).unwrap()).bytes());
    transaction.write(Index::new(1), &mut lines);
    lines.extend(format!("\n{}\n", serde_json::to_string(&second).unwrap()).bytes());
    lines.extend(checkpoint_line(&note.to_string()));
    String::from_utf8(lines).unwrap()
}

/// Receipts wrap data in two more containers, which every reader must still take.
#[test]
fn data_that_no_node_takes_is_not_imported() {
    let target = TestNode::start(&[]);
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    imported(&target, &forged("deep", &nested(DATA_DEPTH)));
    target.audit("/chains/deep");
    for data in [nested(DATA_DEPTH + 1), format!("{{\"\u{1f600}\":{}}}", nested(DATA_DEPTH))] {
        let refused = problem(import(&target, &forged("deeper", &data)), 422);
        let said = refused["detail"].as_str().unwrap();
        assert!(said.starts_with("line 3: transaction 1: its data is nested more than"), "{said}");
    }
}

#[test]
fn a_key_must_have_signed_the_checkpoint() {
    let (source, other, target) = (TestNode::start(&[]), TestNode::start(&[]), TestNode::start(&[]));
    source.bang(json!({"name": "c", "difficulty": 0}));
    let export = export(&source, "c");
    let key = |node: &TestNode| {
        let output = Command::new(env!("CARGO_BIN_EXE_qbc")).args(["--node", &node.url, "key"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().next().expect("it prints a key").to_owned()
    };
    let with_key = |key: &str| {
        let path = format!("/import?chain={}&key={}", id_of(&export), key.replace('+', "%2B"));
        target.post_text(&path, "application/x-ndjson", export.as_str())
    };
    problem(with_key("nonsense"), 400);
    let refused = problem(with_key(&key(&other)), 422);
    assert!(refused["detail"].as_str().unwrap().contains("has not signed it"), "{refused}");
    let done: Value = with_key(&key(&source)).json().unwrap();
    assert!(done["signed_by"].is_string(), "{done}");
}

/// A long export, so that an interruption finds it under way.
fn long_export() -> (TestNode, String) {
    let source = TestNode::start(&[]);
    source.bang(json!({"name": "long", "difficulty": 0}));
    for part in 0..3 {
        let lines: String = (0..8_000)
            .map(|number| {
                format!(
                    "{{\"data\":{{\"number\":{number},\"text\":\"{}\"}},\"id\":\"{part}-{number}\"}}\n",
                    "x".repeat(150)
                )
            })
            .collect();
        source.post_text("/chains/long/inject", "application/x-ndjson", lines);
        source.leap("/chains/long");
    }
    let export = export(&source, "long");
    (source, export)
}

/// Sends a part of an export and breaks off.
fn send_part(node: &TestNode, export: &str, bytes: usize) {
    let mut stream = node.connect();
    let head = format!(
        "POST /import?chain={} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        id_of(export),
        export.len()
    );
    // It closes the connection where an earlier part is not known to have broken off.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&export.as_bytes()[..bytes]));
}

/// Imports as soon as an import that broke off is over.
fn import_then(node: &TestNode, export: &str) -> (u16, String) {
    let mut answer = (409, String::new());
    eventually("nobody else imports it", || {
        let response = import(node, export);
        answer = (response.status().as_u16(), response.text().unwrap());
        !answer.1.contains("by somebody else")
    });
    answer
}

#[test]
fn an_interrupted_import_goes_on() {
    let (source, export) = long_export();
    let before = served(&source, "long");
    let mut target = TestNode::start(&[]);
    for part in [export.len() / 3, export.len() / 2 + 7] {
        send_part(&target, &export, part);
        assert_eq!(target.get("/chains/long").send().unwrap().status(), 404);
    }
    for round in 1..5 {
        let whole = export.clone();
        let (url, id) = (target.url.clone(), id_of(&export));
        let sending = thread::spawn(move || {
            let client = reqwest::blocking::Client::new();
            let request =
                client.post(format!("{url}/import?chain={id}")).header("content-type", "application/x-ndjson");
            request.body(whole).send().map(|response| response.status().as_u16())
        });
        thread::sleep(Duration::from_millis(70 * round));
        let (data, folder) = target.kill();
        // It was answered only where all of it was done.
        let answered = sending.join().unwrap().is_ok_and(|status| status == 201);
        target = TestNode::open(&data, &[]).with(folder);
        assert!(!answered || target.get("/chains/long").send().unwrap().status() == 200);
    }
    let (status, text) = import_then(&target, &export);
    assert!(matches!(status, 200 | 201), "{text}");
    assert_eq!(served(&target, "long"), before);
    target.audit("/chains/long");
    assert_eq!(target.stop(), Some(0));
    verifies(&target.data);
}

#[test]
fn an_interrupted_import_takes_no_other_lines() {
    let (source, export) = long_export();
    let target = TestNode::start(&[]);
    send_part(&target, &export, export.len() - 100);
    let reason = json!({"reason": "a request"});
    assert_eq!(source.post("/chains/long/transactions/4/erase").json(&reason).send().unwrap().status(), 201);
    source.leap("/chains/long");
    let other = self::export(&source, "long");
    let (status, text) = import_then(&target, &other);
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("line 6: it differs from what an interrupted import"), "{text}");
    assert_eq!(
        target.request(Method::DELETE, &format!("/import?chain={}", id_of(&export))).send().unwrap().status(),
        204
    );
    imported(&target, &other);
    assert_eq!(served(&target, "long")[0], served(&source, "long")[0]);
    target.inject("/chains/long", json!("goes on"));
    target.leap("/chains/long");
}

/// Symptom: who listened to the default chain when an imported one took its place heard nothing more. Cure: an event says so, and
/// whoever resumes behind it gets all of the other chain.
#[test]
fn a_listener_of_a_replaced_chain_goes_on_with_the_other() {
    let from = TestNode::start(&[]);
    from.inject("", json!("theirs"));
    from.leap("");
    let to = TestNode::start(&[]);
    let listening = to.get("/events?from=0").send().unwrap();
    let said = imported(&to, &export(&from, "qbc"));
    let text = listening.text().expect("it ends in order");
    let end = format!("id: 0.0\nevent: replaced\ndata: {{\"chain\":\"qbc\",\"id\":{}}}\n\n", said["id"]);
    assert!(text.ends_with(&end), "{text}");
    let mut again = std::io::BufReader::new(to.get("/events").header("last-event-id", "0.0").send().unwrap());
    let mut line = String::new();
    while !line.contains("theirs") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut again, &mut line).unwrap() > 0);
    }
}

/// Each node has a default chain of the same name: one that nobody has used gives way to an imported one.
#[test]
fn a_default_chain_is_imported_where_nobody_used_the_one_that_is_there() {
    let source = TestNode::start(&[]);
    for number in 0..300 {
        source.inject("", json!(number));
    }
    source.leap("");
    let export = export(&source, "qbc");

    let node = TestNode::start(&[]);
    let own = node.json("/stats")["id"].as_str().unwrap().to_owned();
    assert_eq!(imported(&node, &export)["chain"], "qbc");
    let text = |node: &TestNode, path: &str| node.get(path).send().unwrap().text().unwrap();
    for path in ["/chain", "/chains/qbc/chain"] {
        assert_eq!(text(&node, path), text(&source, path));
    }
    assert_eq!(receipt(&node, "/transactions/17/receipt"), receipt(&source, "/transactions/17/receipt"));
    let id = id_of(&export);
    assert_eq!(text(&node, &format!("/chains/{id}/chain")), text(&source, "/chain"), "it is found by its id too");
    problem(node.get(&format!("/chains/{own}")).send().unwrap(), 404);
    assert_eq!(node.inject("", json!("on")), 301);
    node.leap("");
    node.audit("");
    let (data, folder) = node.kill();
    verifies(&data);
    let node = TestNode::open(&data, &[]).with(folder);
    node.audit("");
    assert_eq!(node.json("/stats")["id"], id);

    // One that is used, or forked, stays.
    let used = TestNode::start(&[]);
    used.inject("", json!("x"));
    problem(import(&used, &export), 409);
    let forked = TestNode::start(&[]);
    fork(&forked, "qbc", json!({ "name": "child" }));
    problem(import(&forked, &export), 409);
    forked.audit("");
}

/// What an interrupted import left is not covered by the checkpoint of a shorter export.
#[test]
fn a_shorter_export_does_not_make_the_rest_of_a_longer_one_visible() {
    let source = TestNode::start(&[]);
    source.bang(json!({ "name": "c" }));
    // A part is stored when two mebibytes have come.
    let grow = || {
        for number in 0..30 {
            source.inject("/chains/c", json!(format!("{number}{}", "x".repeat(100_000))));
        }
        source.leap("/chains/c");
        export(&source, "c")
    };
    let (short, long) = (grow(), grow());
    let node = TestNode::start(&[]);
    send_part(&node, &long, long.len() - 100);
    let (status, told) = import_then(&node, &short);
    assert!(status == 409 && told.contains("more than this export has"), "{told}");
    problem(node.get("/chains/c").send().unwrap(), 404);
    // A faulty body does not take away what an earlier import has stored.
    problem(import_as(&node, &id_of(&long), "nonsense\n"), 422);
    problem(import(&node, &short), 409);
    imported(&node, &long);
    node.audit("/chains/c");
}

/// The record of an erasure may lie behind the export's end: the chain stays valid, whatever comes there.
#[test]
fn a_chain_whose_erasure_is_recorded_elsewhere_goes_on() {
    let source = TestNode::start(&[]);
    source.bang(json!({ "name": "c" }));
    source.inject("/chains/c", json!("secret"));
    source.leap("/chains/c");
    let erase =
        |node: &TestNode| node.post("/chains/c/transactions/1/erase").json(&json!({ "reason": "r" })).send().unwrap();
    assert_eq!(erase(&source).status(), 201);
    let node = TestNode::start(&[]);
    let export_of = export(&source, "c");
    let said = problem(import(&node, &export_of), 422)["detail"].as_str().unwrap().to_owned();
    assert!(
        said.starts_with("transaction 1: it comes without its data, as erased by transaction 2, but what is here"),
        "{said}"
    );
    assert!(said.contains("--leap") && said.contains("allow_unproven_erasures=true"), "{said}");
    assert_eq!(node.json("/import"), json!([]), "nothing is kept");
    let allowed = format!("/import?chain={}&allow_unproven_erasures=true", id_of(&export_of));
    assert_eq!(node.post_text(&allowed, "application/x-ndjson", export_of).status(), 201);
    problem(erase(&node), 409);
    node.inject("/chains/c", json!("where the record would be"));
    node.leap("/chains/c");
    problem(erase(&node), 409);
    node.audit("/chains/c");
    export(&node, "c");
    let url = format!("{}/chains/c", node.url);
    let (told, allowed) = (qbc(&["verify", &url]), qbc(&["verify", &url, "--allow-unproven-erasures"]));
    assert!(
        !told.status.success() && String::from_utf8_lossy(&told.stderr).contains("transaction 2 does not record that")
    );
    assert!(allowed.status.success());
    let (data, _folder) = node.kill();
    let folder = data.to_str().unwrap();
    assert!(!qbc(&["verify", folder]).status.success());
    assert!(qbc(&["verify", folder, "--allow-unproven-erasures"]).status.success());
}

fn qbc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qbc")).args(args).output().expect("the program runs")
}

/// Whoever has an export could take data away and call it erased: import and verification took that for what a node does. The
/// record of the erasure, which the checkpoint covers, tells the two apart.
#[test]
fn data_that_was_taken_away_is_no_erasure() {
    let source = TestNode::start(&[]);
    source.bang(json!({ "name": "c" }));
    for data in ["one", "two", "three"] {
        source.inject("/chains/c", json!(data));
    }
    source.leap("/chains/c");
    let reason = json!({ "reason": "r" });
    assert_eq!(source.post("/chains/c/transactions/2/erase").json(&reason).send().unwrap().status(), 201);
    source.leap("/chains/c");
    let whole = export(&source, "c");
    imported(&TestNode::start(&[]), &whole);

    // By the record of another erasure, by no record, by one behind the end, and by one before it.
    let node = TestNode::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tampered.ndjson");
    for by in [4, 1, 0, 3, 5, 1_u64 << 50] {
        let tamper = |line: &str| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            if record["data"] != json!("three") {
                return format!("{line}\n");
            }
            let fields = record.as_object_mut().unwrap();
            let salt = hex::decode(fields.remove("salt").unwrap().as_str().unwrap()).unwrap().try_into().unwrap();
            let data = json::canonical(&fields.remove("data").unwrap());
            fields.insert("commitment".into(), json!(qbc::core::hash::commitment(&salt, &data)));
            fields.insert("erased".into(), json!({"by": by, "timestamp": fields["timestamp"]}));
            format!("{record}\n")
        };
        let tampered: String = whole.lines().map(tamper).collect();
        let said = problem(import(&node, &tampered), 422)["detail"].as_str().unwrap().to_owned();
        assert!(said.starts_with("transaction 3: it comes without its data"), "{said}");
        problem(node.get("/chains/c").send().unwrap(), 404);
        std::fs::write(&path, &tampered).unwrap();
        let told = qbc(&["verify", path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.status.code() == Some(1) && text.contains("transaction 3: it comes without its data"), "{text}");
        assert!(qbc(&["verify", path.to_str().unwrap(), "--allow-unproven-erasures"]).status.success());
    }
}

/// The record of an erasure stands on the chain that wrote what was erased. A fork's export has it not, but whoever has the
/// parent beside the fork can look there.
#[test]
fn an_erasure_on_the_parent_is_found_from_the_fork() {
    let mut source = TestNode::start(&[]);
    source.bang(json!({ "name": "a", "difficulty": 0 }));
    source.inject("/chains/a", json!("shared"));
    source.inject("/chains/a", json!("shared too"));
    source.leap("/chains/a");
    fork(&source, "a", json!({ "name": "b" }));
    fork(&source, "b", json!({ "name": "c" }));
    for number in 0..4 {
        source.inject("/chains/c", json!(number));
    }
    source.leap("/chains/c");
    let erase = |chain: &str, index: u64| {
        let path = format!("/chains/{chain}/transactions/{index}/erase");
        assert_eq!(source.post(&path).json(&json!({ "reason": "r" })).send().unwrap().status(), 201);
    };
    erase("c", 1);
    // It is pooled on the parent, and sealed.
    for _ in 0..2 {
        let told = qbc(&["verify", &format!("{}/chains/c", source.url)]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        source.leap("/chains/a");
    }
    let export_of = export(&source, "c");
    let said = problem(import(&TestNode::start(&[]), &export_of), 422).to_string();
    assert!(said.contains("transaction 1: ") && said.contains("forked"), "{said}");
    source.stop();
    verifies(&source.data);
}

/// An unfinished import left a record before any line was verified, which nothing showed, bounded or ended.
#[test]
fn unfinished_imports_are_listed_and_given_up_by_age() {
    let (_source, export) = long_export();
    let id = id_of(&export);
    let node = TestNode::start(&[]);
    assert_eq!(node.json("/import"), json!([]));
    // Nothing is stored of what was not verified.
    for number in 0..80 {
        let body = if number % 2 == 0 { "" } else { "nonsense" };
        problem(import_as(&node, &format!("{number:064x}"), body), 422);
    }
    assert_eq!(node.json("/import"), json!([]));
    send_part(&node, &export, export.len() - 100);
    let only = |node: &TestNode| node.json("/import")[0].clone();
    eventually("it is interrupted", || only(&node)["state"] == "interrupted");
    let import = only(&node);
    assert_eq!((&import["id"], &import["name"]), (&json!(id), &json!("long")));
    assert!(import["size"].as_u64().unwrap() > 8_000 && import["bytes"].as_u64().unwrap() > 1 << 20, "{import}");
    assert!(import["quants"].as_u64().unwrap() >= 1 && import["last_activity"].is_string(), "{import}");

    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &[]);
    assert_eq!(only(&node), import, "a restart keeps it");
    let (data, _) = node.kill();
    thread::sleep(Duration::from_secs(1));
    let node = TestNode::open(&data, &["--import-age", "1s"]).with(folder);
    eventually("it is given up", || node.json("/import") == json!([]));
    imported(&node, &export);
    assert_eq!(node.json("/import"), json!([]));
}

/// Imports took the room of ten mebibytes each before a byte had come: twelve idle ones left nothing for anybody's bodies. One client
/// leaves a quarter of the imports to others.
#[test]
fn idle_imports_take_no_room_and_are_bounded() {
    let node = TestNode::start(&[]);
    let open = |number: usize| {
        let mut stream = node.connect();
        let head = format!(
            "POST /import?chain={number:064x} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: 1000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let most = IMPORTS / 4 * 3;
    let idle: Vec<_> = (0..most).map(open).collect();
    eventually("all are under way", || node.json("/import").as_array().unwrap().len() == most);
    assert_eq!(node.json("/import")[0]["state"], "running");
    let large = json!({ "data": "x".repeat(900_000) });
    let many: Vec<_> = (0..8).map(|_| large.clone()).collect();
    assert_eq!(node.post("/inject").json(&many).send().unwrap().status(), 202);

    let refused = import_as(&node, &"f".repeat(64), "");
    assert!(!header(&refused, "retry-after").is_empty());
    let said = problem(refused, 429).to_string();
    assert!(said.contains("GET /import"), "{said}");
    drop(idle);
    eventually("they are over", || node.json("/import") == json!([]));
}

/// Lines that have come wait for no more: what they took up is free for others while a client pauses.
#[test]
fn a_pausing_import_stores_what_has_come() {
    let (_source, export) = long_export();
    let node = TestNode::start(&[]);
    let mut stream = node.connect();
    let head = format!(
        "POST /import?chain={} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        id_of(&export),
        export.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&export.as_bytes()[..100_000]).unwrap();
    eventually("it is stored", || node.json("/import")[0]["size"].as_u64().is_some_and(|size| size > 100));
    assert_eq!(node.json("/import")[0]["state"], "running");
    drop(stream);
    let (status, text) = import_then(&node, &export);
    assert_eq!(status, 201, "{text}");
    node.audit("/chains/long");
}

/// A chain that leaps by itself does so where it is imported, too. Nobody signs that, so what no node could follow is passed over.
#[test]
fn the_leap_policy_travels() {
    let source = TestNode::start(&[]);
    source.bang(json!({"name": "c", "difficulty": 0, "leap": {"every_ms": 50, "transactions": 7}}));
    let export = export(&source, "c");
    let policy = json!({"every_ms": 50, "transactions": 7});
    let last: Value = serde_json::from_str(export.lines().last().unwrap()).unwrap();
    assert_eq!(last["leap"], policy);
    let node = TestNode::start(&[]);
    assert_eq!(imported(&node, &export)["leap"], policy);
    assert_eq!(node.json("/chains/c")["leap"], policy);
    node.inject("/chains/c", json!(1));
    eventually("it leaps", || node.json("/chains/c/stats")["pooled"] == 0);

    for (hint, expected) in [
        ("", json!({})),
        (",\"leap\":{\"every_ms\":1}", json!({})),
        (",\"leap\":{\"every\":1000}", json!({})),
        (",\"leap\":17", json!({})),
        (",\"leap\":{\"transactions\":3}", json!({"transactions": 3})),
    ] {
        let changed = export.replace(",\"leap\":{\"every_ms\":50,\"transactions\":7}", hint);
        let node = TestNode::start(&[]);
        assert_eq!(imported(&node, &changed)["leap"], expected, "{hint}");
        assert_eq!(node.json("/chains/c")["leap"], expected, "{hint}");
    }
    let unknown = export.replace(",\"leap\":", ",\"laep\":");
    problem(import(&TestNode::start(&[]), &unknown), 422);
}
