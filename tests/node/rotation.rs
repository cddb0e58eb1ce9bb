//! The key that signs a node's checkpoints gives way to another: who knows an old one follows, and whoever has stolen it is found out.

use std::{fs, path::Path, process::Command};

use qbc::core::{
    note::{Note, VerifierKey},
    succession,
};
use serde_json::{Value, json};

use crate::support::{TestNode, eventually, header, verifies};

fn qbc(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_qbc")).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn said(arguments: &[&str]) -> String {
    let (is_done, said) = qbc(arguments);
    assert!(is_done, "{arguments:?}: {said}");
    said.trim_end().into()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The key that signs for the node of a folder.
fn key(data: &Path) -> VerifierKey {
    said(&["key", "--data", text(data)]).parse().unwrap()
}

fn digits(key: &VerifierKey) -> String {
    hex::encode(key.key().as_bytes())
}

/// Lets a new key sign for a node that is stopped meanwhile, and gives both.
fn rotated(mut node: TestNode, options: &[&str], rotation: &[&str]) -> (TestNode, VerifierKey) {
    let port = node.url.rsplit(':').next().unwrap().to_owned();
    assert_eq!(node.stop(), Some(0));
    let (data, folder) = node.kill();
    let key = said(&[&["key", "--data", text(&data)], rotation].concat()).parse().unwrap();
    verifies(&data);
    (TestNode::open(&data, &[&["--port", &port], options].concat()).with(folder), key)
}

fn note(node: &TestNode, path: &str) -> Note {
    Note::parse(&node.get(path).send().unwrap().bytes().unwrap()).unwrap()
}

/// Whether a key has itself signed a note.
fn has_signed(note: &Note, key: &VerifierKey) -> bool {
    note.verify(std::slice::from_ref(key)).is_ok()
}

/// Asserts that whoever knows one of these keys can check all that the node shows of a chain.
fn holds(node: &TestNode, chain: &str, keys: &[&VerifierKey]) {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("/chains/{chain}");
    let receipt = folder.path().join("receipt.json");
    fs::write(&receipt, node.get(&format!("{path}/transactions/0/receipt")).send().unwrap().bytes().unwrap()).unwrap();
    let proof = folder.path().join("proof.txt");
    let asked = node.get(&format!("{path}/transactions/0/receipt")).header("accept", "text/plain").send().unwrap();
    fs::write(&proof, asked.bytes().unwrap()).unwrap();
    let export = folder.path().join("chain.ndjson");
    said(&["--node", &node.url, "--chain", chain, "export", "--out", text(&export)]);
    let live = format!("{}{path}", node.url);
    for key in keys {
        for target in [text(&receipt), text(&proof), text(&export), &live] {
            said(&["verify", target, "--key", &key.to_string()]);
        }
    }
}

#[test]
fn who_knows_an_old_key_follows_to_the_newest() {
    let mut node = TestNode::start(&[]);
    for name in ["busy", "idle", "over"] {
        node.bang(json!({"name": name, "difficulty": 0}));
    }
    let first = key(&node.data);
    assert_eq!(node.json("/keys")["signers"], json!([first.to_string()]));
    let frozen = node.post("/chains/over/freeze").json(&json!({"reason": "done"})).send().unwrap();
    assert_eq!(frozen.status(), 201);
    let old_receipt = node.json("/chains/busy/transactions/0/receipt");
    let id = node.json("/")["id"].clone();

    let second;
    (node, second) = rotated(node, &[], &["--rotate"]);
    assert_eq!(node.json("/")["id"], id, "the node is the same");
    assert_eq!((key(&node.data), said(&["key", "--node", &node.url]).parse()), (second.clone(), Ok(second.clone())));
    let keys = node.json("/chains/idle/keys");
    assert_eq!(keys["signers"], json!([second.to_string(), first.to_string()]));
    assert_eq!((&keys["replaced"][0]["key"], &keys["changes"]), (&json!(first.to_string()), &json!([])));
    let line: succession::Succession = keys["replaced"][0]["succession"].as_str().unwrap().parse().unwrap();
    assert_eq!((line.old(), line.successor()), (first.key(), second.key()));
    // Others, who know nothing of successions, find the old key's signature for a while.
    let newest = note(&node, "/chains/busy/checkpoint");
    assert!(has_signed(&newest, &first) && has_signed(&newest, &second));
    for chain in ["busy", "idle", "over"] {
        holds(&node, chain, &[&first, &second]);
        node.audit(&format!("/chains/{chain}"));
    }
    // Before a chain goes on, it says so itself, once. A guard is not disturbed by that.
    let tag = header(&node.get("/chains/busy/stats").send().unwrap(), "etag");
    let leap = node.post("/chains/busy/leap").header("if-match", tag).send().unwrap();
    assert_eq!((leap.status().as_u16(), leap.json::<Value>().unwrap()["size"].clone()), (201, json!(2)));
    let record = node.json("/chains/busy/transactions/1");
    let data = &record["data"];
    assert_eq!((&record["kind"], &data["to"]), (&json!("key"), &json!(second.name().as_str())));
    assert_eq!(data["from"], first.name().as_str());
    node.inject("/chains/busy", json!(1));
    assert_eq!(node.leap("/chains/busy")["size"], 3);
    assert_eq!(node.json("/chains/busy/keys")["changes"], json!([1]));
    holds(&node, "busy", &[&first, &second]);
    // A chain that is made now has nothing to say.
    node.bang(json!({"name": "new", "difficulty": 0}));
    assert_eq!(node.leap("/chains/new")["size"], 1);

    (node, _) = rotated(node, &[], &["--retire"]);
    let newest = note(&node, "/chains/busy/checkpoint");
    assert!(!has_signed(&newest, &first) && has_signed(&newest, &second));
    assert_eq!(node.leap("/chains/new")["size"], 1, "also after a start");
    assert_eq!(node.leap("/chains/busy")["size"], 3);
    let third;
    (node, third) = rotated(node, &[], &["--rotate", "--stolen"]);
    let newest = note(&node, "/chains/busy/checkpoint");
    assert!(!has_signed(&newest, &first) && !has_signed(&newest, &second) && has_signed(&newest, &third));
    assert_eq!(node.leap("/chains/busy")["size"], 4);
    node.audit("/chains/busy");
    for chain in ["busy", "idle", "over"] {
        holds(&node, chain, &[&first, &second, &third]);
    }
    // What is imported holds for whoever knows an old key, too.
    let other = TestNode::start(&[]);
    let export = node.data.with_extension("ndjson");
    said(&["--node", &node.url, "--chain", "busy", "export", "--out", text(&export)]);
    said(&["--node", &other.url, "import", text(&export), "--key", &first.to_string()]);
    other.audit("/chains/busy");
    // An old receipt holds for the old key, and no longer one is made for it.
    let folder = tempfile::tempdir().unwrap();
    let receipt = folder.path().join("old.json");
    fs::write(&receipt, old_receipt.to_string()).unwrap();
    said(&["verify", text(&receipt), "--key", &first.to_string()]);
    assert!(!qbc(&["verify", text(&receipt), "--key", &third.to_string()]).0);
    assert!(!qbc(&["key", "--retire", "--data", text(&node.data)]).0, "a node uses the folder");
}

/// The thief of a node's key has the node's folder as it was, and goes on elsewhere.
#[test]
fn a_stolen_key_is_cosigned_and_followed_no_more() {
    let mut node = TestNode::start(&[]);
    node.bang(json!({"name": "books", "difficulty": 0}));
    node.inject("/chains/books", json!("right"));
    node.leap("/chains/books");
    let first = key(&node.data);
    let witness = TestNode::start(&["--cosign", &first.to_string()]);
    let mirror = TestNode::start(&["--discover-allow", "any"]);
    let body = json!({"from": format!("{}/chains/books", node.url), "key": first.to_string()});
    assert!(mirror.post("/mirrors").json(&body).send().unwrap().status().is_success());
    let state = |of: &str| mirror.json("/mirrors")[0][of].clone();
    let named = format!("{}@{}", witness.json("/witness")["key"].as_str().unwrap(), witness.url);
    let cosigned = |size: u64| {
        let logs = witness.json("/witness")["logs"].clone();
        let of_books = format!("qbc/{}", mirror.json("/mirrors")[0]["id"].as_str().unwrap());
        logs.as_array().unwrap().iter().any(|log| log["origin"] == of_books && log["size"] == size)
    };
    eventually("the mirror has it", || state("state") == "following");

    assert_eq!(node.stop(), Some(0));
    let (data, folder) = node.kill();
    let stolen = tempfile::tempdir().unwrap();
    assert!(Command::new("cp").arg("-r").arg(&data).arg(stolen.path().join("data")).status().unwrap().success());
    let node = TestNode::open(&data, &["--witness", &named]).with(folder);
    eventually("the witness has cosigned it", || cosigned(2));
    let port = body["from"].as_str().unwrap().split(&[':', '/'][..]).nth(4).unwrap().to_owned();
    let (mut node, second) = rotated(node, &["--witness", &named], &["--rotate", "--stolen"]);
    node.inject("/chains/books", json!("on"));
    node.leap("/chains/books");
    eventually("the witness follows", || cosigned(4));
    let logs = witness.json("/witness")["logs"].clone();
    let log = logs.as_array().unwrap().iter().find(|log| log["size"] == 4).unwrap();
    assert_eq!((&log["signer"], &log["through"]), (&json!(digits(&second)), &json!(digits(&first))));
    // The mirror asks where it always asked.
    assert_eq!(node.stop(), Some(0));
    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &["--port", &port]).with(folder);
    eventually("the mirror follows", || state("signer") == second.to_string() && state("size") == 4);
    mirror.audit("/chains/books");
    drop(node);

    let thief = TestNode::open(&stolen.path().join("data"), &["--port", &port, "--witness", &named]);
    thief.inject("/chains/books", json!("wrong"));
    thief.leap("/chains/books");
    thief.leap("/chains/books");
    thief.inject("/chains/books", json!("more"));
    thief.inject("/chains/books", json!("and more"));
    thief.leap("/chains/books");
    assert!(has_signed(&note(&thief, "/chains/books/checkpoint"), &first));
    eventually("the mirror does not follow", || state("state") == "away");
    assert!(state("error").as_str().unwrap().contains("not signed by"), "{}", state("error"));
    assert_eq!((state("size"), cosigned(4)), (json!(4), true));
    assert_eq!(note(&thief, "/chains/books/checkpoint").signatures().len(), 2, "nobody cosigns it");
    mirror.audit("/chains/books");
}
