//! Mirrors: nodes that follow chains of others, which go on, stop, and lie.

use std::{
    convert::Infallible,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use ed25519_dalek::SigningKey;
use qbc::core::{
    note::{Algorithm, Checkpoint, KeyName, Note, VerifierKey},
    witness::Evidence,
};
use reqwest::{Method, blocking::Response};
use serde_json::{Value, json};

use crate::support::{TestNode, eventually, files_with, header, problem, verifies};

/// What a node signs with, as `qbc key` prints it.
fn key_of(node: &TestNode) -> VerifierKey {
    let id = node.json("/")["id"].as_str().unwrap().to_owned();
    let key = ed25519_dalek::VerifyingKey::from_bytes(&hex::decode(id).unwrap().try_into().unwrap()).unwrap();
    VerifierKey::new(KeyName::of_node(&key), Algorithm::Ed25519, key)
}

fn follow(mirror: &TestNode, from: &str, key: &VerifierKey) -> Response {
    mirror.post("/mirrors").json(&json!({ "from": from, "key": key.to_string() })).send().unwrap()
}

fn followed(mirror: &TestNode, from: &str, key: &VerifierKey) -> Value {
    let response = follow(mirror, from, key);
    assert!(response.status().is_success(), "{}", response.text().unwrap());
    response.json().unwrap()
}

/// How the mirror of a chain stands.
fn state(mirror: &TestNode, chain: &str) -> Value {
    let all = mirror.json("/mirrors");
    all.as_array().unwrap().iter().find(|row| row["chain"] == chain).cloned().unwrap_or_default()
}

fn put(node: &TestNode, chain: &str, count: u64) {
    let lines: String = (0..count).map(|number| format!("{}\n", json!({"data": {"number": number}}))).collect();
    if count > 0 {
        let sent = node.post_text(&format!("{chain}/inject"), "application/x-ndjson", lines);
        assert_eq!(sent.status(), 202);
    }
    node.leap(chain);
}

fn text(node: &TestNode, path: &str) -> String {
    let response = node.get(path).send().unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.text().unwrap()
}

/// Waits until a mirror has all that its source has sealed, and compares all that is public.
fn is_equal(mirror: &TestNode, source: &TestNode, chain: &str) {
    let path = format!("/chains/{chain}");
    let newest = source.json(&format!("{path}/quants/latest"))["hash"].clone();
    eventually("the mirror has what its source has sealed", || {
        let response = mirror.get(&format!("{path}/stats")).send().unwrap();
        response.status() == 200 && response.json::<Value>().unwrap()["hash"] == newest
    });
    eventually("it says so", || state(mirror, chain)["state"] == "following");
    assert_eq!(text(mirror, &format!("{path}/chain")), text(source, &format!("{path}/chain")));
    mirror.audit(&path);
    let (of, row) = (mirror.json(&format!("{path}/stats")), state(mirror, chain));
    assert_eq!((&of["pooled"], &row["lag"], &row["error"]), (&json!(0), &json!(0), &Value::Null));
    assert_eq!((&row["size"], &row["source_size"]), (&of["size"], &of["size"]));
    assert_eq!(of["mirror"], json!({"from": row["from"], "state": "following", "lag": 0}));
}

fn port(node: &TestNode) -> String {
    node.url.rsplit(':').next().unwrap().to_owned()
}

/// The same node again, at the same port.
fn again((data, folder): (PathBuf, Option<tempfile::TempDir>), port: &str, options: &[&str]) -> TestNode {
    TestNode::open(&data, &[&["--port", port], options].concat()).with(folder)
}

#[test]
fn a_mirror_has_what_its_source_seals_whatever_restarts_and_takes_no_writes() {
    let (source, mirror) = (TestNode::start(&["--log", "error"]), TestNode::start(&["--log", "error"]));
    let key = key_of(&source);
    source.bang(json!({"name": "orders", "difficulty": 2}));
    let chain = "/chains/orders";
    put(&source, chain, 5);
    let pooled = json!({"data": "a secret that goes", "id": "p"});
    assert_eq!(source.post(&format!("{chain}/inject")).json(&pooled).send().unwrap().status(), 202);
    let from = format!("{}{chain}", source.url);
    let response = follow(&mirror, &from, &key);
    assert_eq!((response.status().as_u16(), header(&response, "location")), (201, chain.to_owned()));
    is_equal(&mirror, &source, "orders");
    let response = follow(&mirror, &from, &key);
    assert_eq!(response.status(), 200, "the same again is no error");

    // The newest checkpoint of the source stands beside that of the copy.
    let row = state(&mirror, "orders");
    let note = Note::parse(row["checkpoint"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(note.verify(std::slice::from_ref(&key)).unwrap().len(), 1);
    assert_eq!(Checkpoint::parse(note.text()).unwrap().size(), row["size"]);
    let own = Note::parse(text(&mirror, &format!("{chain}/checkpoint")).as_bytes()).unwrap();
    assert_eq!(own.text(), note.text());
    assert_eq!(own.verify(&[key_of(&mirror)]).unwrap().len(), 1);

    let refused = |response: Response| {
        let detail = problem(response, 409)["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&from) && detail.contains("fork"), "{detail}");
    };
    refused(mirror.post(&format!("{chain}/inject")).json(&json!({"data": 1})).send().unwrap());
    refused(mirror.get(&format!("{chain}/leap")).send().unwrap());
    refused(mirror.patch(chain).json(&json!({"leap": {"every_ms": 10}})).send().unwrap());
    let erase = |node: &TestNode, index: u64| {
        node.post(&format!("{chain}/transactions/{index}/erase")).json(&json!({"reason": "r"})).send().unwrap()
    };
    refused(erase(&mirror, 2));
    let lines = mirror.post_text(&format!("{chain}/inject"), "application/x-ndjson", "{\"data\":1}\n");
    assert_eq!(lines.status(), 422);
    assert_eq!(lines.json::<Value>().unwrap()["errors"][0]["status"], 409);
    // A fork is a chain of one's own.
    let fork = mirror.post(&format!("{chain}/fork")).json(&json!({"name": "own"})).send().unwrap();
    assert_eq!(fork.status(), 201);
    put(&mirror, "/chains/own", 2);
    refused(mirror.post("/chains/own/transactions/2/erase").json(&json!({"reason": "shared"})).send().unwrap());
    assert_eq!(mirror.json("/readyz").get("warnings"), None);

    // Killed while it takes over several thousand transactions, it goes on.
    for count in [3_000, 0, 0, 1, 2_500] {
        put(&source, chain, count);
    }
    let at = port(&mirror);
    let mut mirror = again(mirror.kill(), &at, &["--log", "error"]);
    for _ in 0..3 {
        mirror = again(mirror.kill(), &at, &["--log", "error"]);
    }
    is_equal(&mirror, &source, "orders");
    let retry = mirror.json(&format!("{chain}/transactions/by-id/p"));
    assert_eq!(retry["data"], "a secret that goes");
    let erased = retry["index"].as_u64().unwrap();

    // The source is away, and back.
    let at = port(&source);
    let kept = source.kill();
    eventually("it says that the source is away", || state(&mirror, "orders")["state"] == "away");
    assert_eq!(mirror.json(&format!("{chain}/stats"))["mirror"]["state"], "away");
    let source = again(kept, &at, &["--log", "error"]);
    put(&source, chain, 3);
    is_equal(&mirror, &source, "orders");

    // What is erased there is erased here when that is sealed, and is gone from the disk.
    assert!(!files_with(&mirror.data.join("log"), "a secret that goes").is_empty());
    assert_eq!(erase(&source, erased).status(), 201);
    put(&source, chain, 2);
    is_equal(&mirror, &source, "orders");
    assert_eq!(mirror.json(&format!("{chain}/transactions/{erased}"))["data"], Value::Null);
    assert_eq!(files_with(&mirror.data.join("log"), "a secret that goes"), "");
    let mut mirror = mirror;
    assert_eq!(mirror.stop(), Some(0));
    verifies(&mirror.data);
    let kept = mirror.kill();
    let mirror = again(kept, "0", &["--log", "error"]);

    // Stopped, the copy stays as it is, and takes no writes.
    assert_eq!(mirror.request(Method::DELETE, "/mirrors/orders").send().unwrap().status(), 204);
    assert_eq!(state(&mirror, "orders")["state"], "stopped");
    put(&source, chain, 1);
    refused(mirror.get(&format!("{chain}/leap")).send().unwrap());
    // The log alone says so.
    let kept = mirror.kill();
    fs::remove_dir_all(kept.0.join("index")).unwrap();
    let mirror = again(kept, "0", &["--log", "error"]);
    assert_eq!(state(&mirror, "orders")["state"], "stopped");
    refused(mirror.post(&format!("{chain}/inject")).json(&json!({"data": 1})).send().unwrap());
    followed(&mirror, &from, &key);
    is_equal(&mirror, &source, "orders");
    problem(mirror.request(Method::DELETE, "/mirrors/other").send().unwrap(), 404);
}

/// In a cluster the node that was asked keeps the mirror; all nodes answer for it, and none takes a write.
#[test]
fn a_node_of_a_cluster_keeps_a_mirror_and_all_nodes_show_it() {
    let source = TestNode::start(&[]);
    source.bang(json!({"name": "orders", "difficulty": 0}));
    put(&source, "/chains/orders", 50);
    let first = TestNode::start(&["--log", "error"]);
    let secret = fs::read_to_string(first.data.join("cluster.secret")).unwrap();
    let second = TestNode::start(&["--log", "error", "--join", &first.host(), "--secret", secret.trim()]);
    let from = format!("{}/chains/orders", source.url);
    followed(&second, &from, &key_of(&source));
    is_equal(&second, &source, "orders");
    put(&source, "/chains/orders", 5);
    is_equal(&second, &source, "orders");
    eventually("the other node knows where it is", || {
        first.get("/chains/orders/stats").send().unwrap().status() == 200
    });
    assert_eq!(text(&first, "/chains/orders/chain"), text(&source, "/chains/orders/chain"));
    let response = first.post("/chains/orders/inject").json(&json!({"data": 1})).send().unwrap();
    assert!(problem(response, 409)["detail"].as_str().unwrap().contains(&from));
    problem(first.post("/bang").json(&json!({"name": "orders"})).send().unwrap(), 409);
    // Another chain of the cluster has the name.
    source.bang(json!({"name": "taken", "difficulty": 0}));
    first.bang(json!({"name": "taken", "replicas": 1}));
    problem(follow(&second, &format!("{}/chains/taken", source.url), &key_of(&source)), 409);
}

/// A folder for a node that signs with this secret.
fn folder_with_key(secret: u8) -> (PathBuf, Option<tempfile::TempDir>) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("secret");
    fs::write(&file, hex::encode([secret; 32])).unwrap();
    assert!(Command::new("chmod").arg("600").arg(&file).status().unwrap().success());
    let mut import = Command::new(env!("CARGO_BIN_EXE_qbc"));
    assert!(import.args(["key", "--import"]).arg(&file).arg("--data").arg(&data).output().unwrap().status.success());
    (data, Some(folder))
}

fn copy(data: &Path) -> (PathBuf, Option<tempfile::TempDir>) {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("data");
    assert!(Command::new("cp").arg("-a").arg(data).arg(&to).status().unwrap().success());
    (to, Some(folder))
}

/// A source that goes on in two ways from one state, each signed by its key.
struct Liar {
    key: VerifierKey,
    port: String,
    other: (PathBuf, Option<tempfile::TempDir>),
}

/// The source as it is shown first, with the other history of it: both have `shared` transactions in common.
fn liar(shared: u64, first: u64, second: u64) -> (TestNode, Liar) {
    let (data, folder) = folder_with_key(77);
    let node = TestNode::open(&data, &["--log", "error"]).with(folder);
    let (key, port) = (key_of(&node), port(&node));
    put(&node, "", shared - 1);
    let mut node = node;
    assert_eq!(node.stop(), Some(0));
    let other = copy(&data);
    let lying = TestNode::open(&other.0, &["--log", "error"]);
    if second > 0 {
        put(&lying, "", second);
    }
    let mut lying = lying;
    assert_eq!(lying.stop(), Some(0));
    let node = again(node.kill(), &port, &["--log", "error"]);
    for _ in 0..first {
        node.inject("", json!("the first history"));
    }
    node.leap("");
    (node, Liar { key, port, other })
}

#[test]
fn a_source_that_shows_two_histories_is_convicted_by_its_own_signatures() {
    // Longer, where the size that was seen is a power of 2 and where not; of the same size; and shorter, both again.
    for (shared, first, second) in [(4, 4, 30), (4, 3, 30), (4, 3, 3), (4, 30, 4), (4, 30, 5)] {
        let case = format!("{shared} and {first} or {second}");
        let (source, Liar { key, port, other }) = liar(shared, first, second);
        let mirror = TestNode::start(&["--log", "off"]);
        let from = format!("{}/chains/qbc", source.url);
        followed(&mirror, &source.url, &key);
        is_equal(&mirror, &source, "qbc");
        let seen = text(&mirror, "/chain");
        drop(source.kill());
        let source = again(other, &port, &["--log", "error"]);
        eventually("the mirror finds it", || state(&mirror, "qbc")["state"] == "contradiction");
        let mirror = again(mirror.kill(), "0", &["--log", "off"]);
        let row = state(&mirror, "qbc");
        assert_eq!((&row["state"], row["evidence"].as_array().unwrap().len()), (&json!("contradiction"), 1), "{case}");
        let evidence: Evidence = serde_json::from_value(row["evidence"][0].clone()).unwrap();
        assert!(evidence.proven, "{case}: {row}");
        assert_eq!(evidence.check(&key), Ok(true), "{case}");
        let stranger = SigningKey::from_bytes(&[78; 32]).verifying_key();
        let stranger = VerifierKey::new(KeyName::of_node(&stranger), Algorithm::Ed25519, stranger);
        assert!(evidence.check(&stranger).is_err());
        let warnings = mirror.json("/readyz")["warnings"].to_string();
        assert!(warnings.contains("qbc") && warnings.contains(&from), "{warnings}");
        assert_eq!(text(&mirror, "/chain"), seen, "nothing of it was taken");
        // It is not followed on, unless that is said.
        put(&source, "", 1);
        problem(follow(&mirror, &source.url, &key), 409);
        assert_eq!(mirror.request(Method::DELETE, "/mirrors/qbc").send().unwrap().status(), 204);
        followed(&mirror, &source.url, &key);
        eventually("it is found again", || state(&mirror, "qbc")["state"] == "contradiction");
        assert_eq!(text(&mirror, "/chain"), seen);
    }
}

#[test]
fn an_older_checkpoint_is_no_contradiction_and_is_not_followed_back() {
    let (source, Liar { key, port, other }) = liar(4, 6, 0);
    let mirror = TestNode::start(&["--log", "off"]);
    followed(&mirror, &source.url, &key);
    is_equal(&mirror, &source, "qbc");
    let seen = text(&mirror, "/chain");
    let newest = source.kill();
    let old = again(other, &port, &["--log", "error"]);
    eventually("it says so", || state(&mirror, "qbc")["error"].to_string().contains("not followed back"));
    assert_eq!(state(&mirror, "qbc")["state"], "away");
    assert_eq!(text(&mirror, "/chain"), seen);
    drop(old.kill());
    let source = again(newest, &port, &["--log", "error"]);
    put(&source, "", 2);
    is_equal(&mirror, &source, "qbc");
}

#[test]
fn what_cannot_be_followed_is_refused_with_what_to_do() {
    let (source, mirror) = (TestNode::start(&[]), TestNode::start(&["--log", "off"]));
    source.bang(json!({"name": "orders", "difficulty": 0}));
    put(&source, "/chains/orders", 2);
    let (key, chain) = (key_of(&source), format!("{}/chains/orders", source.url));
    let detail = |response: Response, status: u16| problem(response, status)["detail"].as_str().unwrap().to_owned();
    let told = detail(follow(&mirror, &chain, &key_of(&mirror)), 409);
    assert!(told.contains("own"), "{told}");
    let stranger = SigningKey::from_bytes(&[9; 32]).verifying_key();
    let stranger = VerifierKey::new(KeyName::of_node(&stranger), Algorithm::Ed25519, stranger);
    let told = detail(follow(&mirror, &chain, &stranger), 422);
    assert!(told.contains("not signed by"), "{told}");
    let told = detail(follow(&mirror, &format!("{}/chains/none", source.url), &key), 422);
    assert!(told.contains("404"), "{told}");
    let told = detail(follow(&mirror, "http://192.0.2.1/chains/orders", &key), 422);
    assert!(told.contains("--discover-allow"), "{told}");
    for body in [
        json!({"from": chain}),
        json!({"from": 1, "key": key.to_string()}),
        json!({"from": chain, "key": "x"}),
        json!({"from": chain, "key": key.to_string(), "chain": "other"}),
        json!({"from": chain, "key": key.to_string(), "more": 1}),
        json!({"from": "ftp://localhost/", "key": key.to_string()}),
    ] {
        problem(mirror.post("/mirrors").json(&body).send().unwrap(), 422);
    }
    assert_eq!(mirror.json("/mirrors"), json!([]));

    // Another chain has the name.
    mirror.bang(json!({"name": "orders"}));
    let told = detail(follow(&mirror, &chain, &key), 409);
    assert!(told.contains("another one of that name"), "{told}");
    mirror.inject("", json!(1));
    problem(follow(&mirror, &source.url, &key), 409);
    assert_eq!(mirror.json("/mirrors"), json!([]));
}

/// An export of a chain of a node.
fn export(node: &TestNode, chain: &str) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    let output = command.args(["--node", &node.url, "--chain", chain, "export"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let id = node.json(&format!("/chains/{chain}"))["id"].as_str().unwrap().to_owned();
    (id, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn an_imported_chain_becomes_a_mirror_where_its_source_goes_on_from_it() {
    let source = TestNode::start(&[]);
    source.bang(json!({"name": "orders", "difficulty": 0}));
    let chain = "/chains/orders";
    put(&source, chain, 300);
    let (id, lines) = export(&source, "orders");
    let import = || {
        let node = TestNode::start(&["--log", "off"]);
        let done = node.post_text(&format!("/import?chain={id}"), "application/x-ndjson", lines.clone());
        assert_eq!(done.status(), 201);
        node
    };
    put(&source, chain, 10);
    let (key, from) = (key_of(&source), format!("{}{chain}", source.url));
    let mirror = import();
    followed(&mirror, &from, &key);
    is_equal(&mirror, &source, "orders");

    let other = import();
    other.inject(chain, json!("its own"));
    let told = problem(follow(&other, &from, &key), 409)["detail"].as_str().unwrap().to_owned();
    assert!(told.contains("pool"), "{told}");
    other.leap(chain);
    let told = problem(follow(&other, &from, &key), 409)["detail"].as_str().unwrap().to_owned();
    assert!(told.contains("different"), "{told}");
    other.inject(chain, json!("it takes writes still"));
    assert_eq!(other.json(&format!("{chain}/stats"))["mirror"], Value::Null);
}

#[test]
fn a_mirror_that_is_named_at_the_start_begins_when_its_source_answers() {
    let (data, folder) = folder_with_key(5);
    let source = TestNode::open(&data, &["--log", "error"]).with(folder);
    let (key, at) = (key_of(&source), port(&source));
    // A fork holds what it shares, with an erasure in it that is recorded there.
    put(&source, "", 400);
    let erased = source.post("/transactions/7/erase").json(&json!({"reason": "r"})).send().unwrap();
    assert_eq!(erased.status(), 201);
    put(&source, "", 1);
    let fork = source.post("/fork").json(&json!({"name": "branch", "difficulty": 3})).send().unwrap();
    assert_eq!(fork.status(), 201);
    put(&source, "/chains/branch", 40);
    let (default, branch) = (format!("{}={key}", source.url), format!("{}/chains/branch={key}", source.url));
    let kept = source.kill();
    let options = ["--mirror", &default, "--mirror", &branch, "--log", "off", "--discover-allow", "none"];
    let mirror = TestNode::start(&options);
    eventually("it says that it waits", || state(&mirror, "branch")["error"].is_string());
    assert_eq!((&state(&mirror, "branch")["id"], &state(&mirror, "branch")["state"]), (&Value::Null, &json!("away")));
    let source = again(kept, &at, &["--log", "error"]);
    is_equal(&mirror, &source, "qbc");
    is_equal(&mirror, &source, "branch");
    put(&source, "/chains/branch", 3);
    // An erasure of what was copied, and one of what was not.
    let index = put_secret(&source, "/chains/branch");
    assert_eq!(erase(&source, "/chains/branch", index).status(), 201);
    source.leap("/chains/branch");
    is_equal(&mirror, &source, "branch");
    let mirror = again(mirror.kill(), "0", &options);
    put(&source, "", 2);
    is_equal(&mirror, &source, "qbc");
    let options = [&options[..], &["--leap-every", "1s"]].concat();
    let mirror = again(mirror.kill(), "0", &options);
    is_equal(&mirror, &source, "qbc");
}

fn put_secret(node: &TestNode, chain: &str) -> u64 {
    let index = node.inject(chain, json!("a secret"));
    node.leap(chain);
    index
}

fn erase(node: &TestNode, chain: &str, index: u64) -> Response {
    node.post(&format!("{chain}/transactions/{index}/erase")).json(&json!({"reason": "r"})).send().unwrap()
}

/// Data without the sealed record of its erasure may have been taken away.
#[test]
fn missing_data_waits_for_the_sealed_record_of_its_erasure() {
    let (source, mirror) = (TestNode::start(&[]), TestNode::start(&["--log", "off"]));
    source.bang(json!({"name": "orders", "difficulty": 0}));
    let chain = "/chains/orders";
    put(&source, chain, 3);
    let index = put_secret(&source, chain);
    put(&source, chain, 3);
    assert_eq!(erase(&source, chain, index).status(), 201);
    followed(&mirror, &format!("{}{chain}", source.url), &key_of(&source));
    eventually("it waits", || state(&mirror, "orders")["error"].to_string().contains("no quant seals"));
    assert!(state(&mirror, "orders")["size"].as_u64().unwrap() <= index);
    source.leap(chain);
    is_equal(&mirror, &source, "orders");
    let served = mirror.json(&format!("{chain}/transactions/{index}"));
    assert!(served["erased"].is_object(), "{served}");

    // What a parent erased after the fork is recorded on the parent alone.
    assert_eq!(source.post(&format!("{chain}/fork")).json(&json!({"name": "b"})).send().unwrap().status(), 201);
    put(&source, "/chains/b", 2);
    assert_eq!(erase(&source, chain, 2).status(), 201);
    source.leap(chain);
    let from = format!("{}/chains/b", source.url);
    followed(&mirror, &from, &key_of(&source));
    let told = "allow_unproven_erasures";
    eventually("it refuses", || state(&mirror, "b")["error"].to_string().contains(told));
    assert_eq!(mirror.get("/chains/b").send().unwrap().status(), 404);
    assert_eq!(mirror.request(Method::DELETE, "/mirrors/b").send().unwrap().status(), 204);
    let body = json!({"from": from, "key": key_of(&source).to_string(), "allow_unproven_erasures": true});
    assert_eq!(mirror.post("/mirrors").json(&body).send().unwrap().status(), 201);
    is_equal(&mirror, &source, "b");
}

/// A server that answers each request with what a function makes of its path, without end where the function says so.
fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || -> Result<Infallible, std::io::Error> {
        loop {
            let (mut stream, _) = listener.accept()?;
            let answer = answer.clone();
            thread::spawn(move || {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    request.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                // Who asked may hang up on what is too much.
                let _ = stream.write_all(&answer(text.split(' ').nth(1).unwrap_or_default()));
            });
        }
    });
    url
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn a_hostile_source_costs_little_and_is_told_apart() {
    let source = TestNode::start(&[]);
    source.bang(json!({"name": "orders", "difficulty": 0}));
    // More than is taken over at one time.
    let filler = "x".repeat(4_000);
    let line = |number| format!("{}\n", json!({"data": {"filler": filler, "number": number}}));
    let lines: String = (0..700).map(line).collect();
    assert_eq!(source.post_text("/chains/orders/inject", "application/x-ndjson", lines).status(), 202);
    source.leap("/chains/orders");
    let (key, url) = (key_of(&source), source.url.clone());
    let mirror = TestNode::start(&["--log", "off"]);
    let endless = || {
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        [head, b"[{\"a\":\"".to_vec(), vec![b'x'; 20 << 20]].concat()
    };
    let pass = move |path: &str| {
        let body = reqwest::blocking::get(format!("{url}{path}")).unwrap();
        let status = body.status();
        let body = body.bytes().unwrap();
        match status.is_success() {
            true => ok(&body),
            false => format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes(),
        }
    };
    // What is no checkpoint at all begins nothing.
    let redirect = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    for (what, answer) in [
        ("no note", ok(b"{}")),
        ("bytes", endless()),
        ("302", redirect.as_bytes().to_vec()),
        ("HTTP", b"SSH-2.0-x\r\n\r\n".to_vec()),
    ] {
        let host = serve(move |_| answer.clone());
        let refused = problem(follow(&mirror, &host, &key), 422);
        assert!(
            refused["detail"].as_str().unwrap().contains(match what {
                "no note" => "no signed note",
                what => what,
            }),
            "{what}: {refused}"
        );
    }
    // Each part of what it serves, made wrong: the copy is never wrong, and what is away is told from what contradicts.
    type Change = fn(&[u8]) -> Vec<u8>;
    let cut: Change = |body| body[..body.len() / 2].to_vec();
    let other_data: Change = |body| String::from_utf8_lossy(body).replace("\"number\":300}", "\"number\":301}").into();
    let swapped: Change = |body| {
        let mut items: Vec<Value> = serde_json::from_slice(body).unwrap();
        if items.len() > 600 {
            let (first, second) = (items[300]["index"].clone(), items[301]["index"].clone());
            items.swap(300, 301);
            (items[300]["index"], items[301]["index"]) = (first, second);
        }
        serde_json::to_vec(&items).unwrap()
    };
    let no_quants: Change = |_| b"[]".to_vec();
    for (part, change, expected, told) in [
        ("/transactions?from=1&", cut, "away", "fewer"),
        ("/transactions?from=1&", other_data, "away", "does not hold"),
        ("/transactions?from=1&", swapped, "contradiction", "not those of"),
        ("from=1&limit=1&transactions=false", no_quants, "away", "quants"),
        ("/transactions?from=1&", |_| endless_item(), "away", "more than"),
    ] {
        let pass = pass.clone();
        let host = serve(move |path| {
            let whole = pass(path);
            match path.contains(part) {
                true => {
                    let at = whole.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
                    ok(&change(&whole[at..]))
                }
                false => whole,
            }
        });
        let mirror = TestNode::start(&["--log", "off"]);
        followed(&mirror, &format!("{host}/chains/orders"), &key);
        eventually(told, || state(&mirror, "orders")["error"].to_string().contains(told));
        assert_eq!(state(&mirror, "orders")["state"], expected, "{told}");
        assert_eq!(mirror.json("/chains/orders/stats")["size"], 1, "{told}");
        mirror.audit("/chains/orders");
    }
}

/// A transaction that does not end.
fn endless_item() -> Vec<u8> {
    [&b"[{\"a\":\""[..], &vec![b'x'; 20 << 20]].concat()
}

/// Symptom to keep away: a quant that is larger than what is held in memory at one time was believed before all of it was here.
#[test]
fn a_large_quant_comes_in_pieces_that_are_each_proven() {
    let (source, mirror) = (TestNode::start(&[]), TestNode::start(&["--log", "off"]));
    source.bang(json!({"name": "large", "difficulty": 0}));
    let chain = "/chains/large";
    let filler = "x".repeat(1_000);
    for _ in 0..5 {
        let lines: String = (0..5_000).map(|at| format!("{{\"data\":\"{at}{filler}\"}}\n")).collect();
        assert_eq!(source.post_text(&format!("{chain}/inject"), "application/x-ndjson", lines).status(), 202);
    }
    source.leap(chain);
    followed(&mirror, &format!("{}{chain}", source.url), &key_of(&source));
    let at = port(&mirror);
    eventually("it has begun", || {
        let stats = mirror.get(&format!("{chain}/stats")).send().unwrap();
        stats.status() == 200 && stats.json::<Value>().unwrap()["size"].as_u64().unwrap() > 1
    });
    let mirror = again(mirror.kill(), &at, &["--log", "off"]);
    is_equal(&mirror, &source, "large");
}
