//! Erasure: the data is gone from every file, and everything that was proven stays proven.

use std::{
    io::{BufRead, BufReader},
    thread,
    time::Duration,
};

use ed25519_dalek::{Signer, SigningKey};
use qbc::core::{json, merkle, verify};
use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::{
    faults::node_with_faults,
    support::{TestNode, files_with, header, problem, verifies},
};

fn erase(node: &TestNode, chain: &str, index: u64) -> Response {
    let path = format!("{chain}/transactions/{index}/erase");
    node.post(&path).json(&json!({ "reason": "a request of the person" })).send().expect("it answers")
}

fn receipt(node: &TestNode, chain: &str, index: u64) -> verify::Receipt {
    let receipt = node.json(&format!("{chain}/transactions/{index}/receipt"));
    verify::receipt(json::parse(receipt.to_string().as_bytes()).unwrap()).unwrap()
}

#[test]
fn an_erased_value_is_gone_and_every_proof_holds() {
    let mut node = TestNode::start(&[]);
    let secret = "a-very-private-value-4711";
    let name = |index: u64| format!("{secret}-of-{index}-");
    let body: Value = (1..21).map(|index| json!({ "data": { "number": index, "name": name(index) } })).collect();
    assert_eq!(node.post("/inject").json(&body).send().unwrap().status(), 202);
    node.leap("");
    node.post("/fork").json(&json!({ "name": "child" })).send().unwrap();
    let pooled = node.inject("", json!(name(21)));
    let before = node.json("/transactions/7");
    let (old_receipt, stats) = (receipt(&node, "", 7), node.json("/stats"));

    let mut records = Vec::new();
    for index in [7, 8, pooled] {
        let answer = erase(&node, "", index);
        assert_eq!(answer.status(), 201);
        let location = header(&answer, "location");
        let erasure: Value = answer.json().unwrap();
        assert_eq!((&erasure["erased"], &erasure["chain"]), (&json!(index), &json!("qbc")));
        assert_eq!(location, format!("/transactions/{}", erasure["index"]));
        records.push(erasure);
    }
    let record = node.json(&format!("/transactions/{}", records[0]["index"]));
    assert_eq!(record["kind"], "erasure");
    assert_eq!(record["data"], json!({ "index": 7, "reason": "a request of the person" }));

    // What is left, here and in the fork.
    for chain in ["", "/chains/child"] {
        let erased = node.json(&format!("{chain}/transactions/7"));
        assert_eq!((erased.get("data"), erased.get("salt")), (None, None));
        assert_eq!(erased["erased"], json!({ "timestamp": records[0]["timestamp"], "by": records[0]["index"] }));
        let salt = hex::decode(before["salt"].as_str().unwrap()).unwrap().try_into().unwrap();
        let commitment = qbc::core::hash::commitment(&salt, &json::canonical(&before["data"]));
        assert_eq!(erased["commitment"], commitment.to_string());
        for kept in ["index", "timestamp", "hash"] {
            assert_eq!(erased[kept], before[kept], "{kept}");
        }
        let new_receipt = receipt(&node, chain, 7);
        assert_eq!(new_receipt.record.transaction.hash(), old_receipt.record.transaction.hash());
        assert_eq!(new_receipt.quant.header().root, old_receipt.quant.header().root);
        node.leap(chain);
        node.audit(chain);
    }
    let (from, to) = (old_receipt.quant.size().get(), node.json("/stats")["size"].as_u64().unwrap());
    let proof = node.json(&format!("/consistency?from={from}&to={to}"));
    let path: Vec<_> = serde_json::from_value(proof["path"].clone()).unwrap();
    let root = node.json("/stats")["root"].as_str().unwrap().parse().unwrap();
    merkle::check_consistency(from, to, &path, stats["root"].as_str().unwrap().parse().unwrap(), root).unwrap();

    // A client of tiles sees the same leaves, and a listener what is left.
    let entries = node.get("/tile/entries/000.p/20").send().unwrap().bytes().unwrap();
    let hashes = node.get("/tile/0/000.p/20").send().unwrap().bytes().unwrap();
    let mut rest = &entries[..];
    for hash in hashes.chunks(32) {
        let (length, more) = rest.split_first_chunk().unwrap();
        let (leaf, more) = more.split_at(u16::from_be_bytes(*length).into());
        assert_eq!(qbc::core::hash::leaf(leaf).as_bytes(), hash);
        rest = more;
    }
    assert!(rest.is_empty());

    // The neighbours in the same run stay.
    assert_eq!(node.json("/transactions/6")["data"]["name"], name(6));
    assert_eq!(node.json("/transactions/9")["data"]["name"], name(9));
    let salt = before["salt"].as_str().unwrap().to_owned();
    assert_eq!(files_with(&node.data, &salt), "");
    let data = node.data.clone();
    let all_gone = || [7, 8, 21].iter().all(|&index| files_with(&data, &name(index)).is_empty());
    assert!(all_gone());
    assert_eq!(node.stop(), Some(0));
    assert!(all_gone());
    verifies(&node.data);
}

/// In a segment of the log that is finished, in the newest one, of many blocks or of a part of one.
#[test]
fn what_is_erased_is_gone_wherever_it_stands() {
    let node = TestNode::start(&[]);
    let secret = |number: u64| format!("secret-{number}-").repeat(if number.is_multiple_of(2) { 6_000 } else { 3 });
    for number in 0..60 {
        assert_eq!(node.inject("", json!(secret(number))), number + 1);
    }
    node.leap("");
    for number in [0, 1, 30, 31, 58, 59] {
        let text = format!("secret-{number}-");
        assert_ne!(files_with(&node.data, &text), "");
        assert_eq!(erase(&node, "", number + 1).status(), 201);
        assert_eq!(files_with(&node.data, &text), "");
    }
    node.audit("");
    assert_eq!(node.json("/transactions/3")["data"], secret(2));
    let (data, _folder) = node.kill();
    verifies(&data);
}

/// Symptom: an erasure that was recorded, but interrupted before the data was overwritten, was never completed. Cause: the index
/// stood after it already, and opening completes what comes after the index. Cure: the index moves on when it is done.
#[test]
fn an_erasure_that_is_interrupted_is_completed_by_the_next_start() {
    // The first write is that of the transaction, the second that of the erasure's record.
    for fault in ["signal=SIGKILL", "error=EIO"] {
        for call in ["pwrite64", "fdatasync"] {
            let folder = tempfile::tempdir().unwrap();
            let data = folder.path().join("data");
            assert_eq!(TestNode::open(&data, &[]).stop(), Some(0));
            let fault = format!("{call}:{fault}:when=3");
            let Some(node) = node_with_faults(&data, &["log/00000000.log"], &[&fault]) else { return };
            node.inject("", json!("a-very-private-value"));
            let answer = node.post("/transactions/1/erase").json(&json!({ "reason": "r" })).send();
            if let Ok(answer) = answer {
                problem(answer, 503);
            }
            node.kill();
            let node = TestNode::open(&data, &[]);
            let left = node.json("/transactions/1");
            assert_eq!((left.get("data"), &left["erased"]["by"]), (None, &json!(2)), "{fault}: {left}");
            assert_eq!(files_with(&data, "a-very-private-value"), "", "{fault}");
            node.leap("");
            node.audit("");
            node.kill();
            verifies(&data);
        }
    }
}

#[test]
fn what_cannot_be_erased_says_why_and_changes_nothing() {
    let node = TestNode::start(&[]);
    let index = node.inject("", json!("x"));
    let size = node.size("");
    assert!(problem(erase(&node, "", 0), 409)["detail"].as_str().unwrap().contains("bang"));
    problem(erase(&node, "", size), 404);
    let path = format!("/transactions/{index}/erase");
    problem(node.post("/transactions/x/erase").json(&json!({ "reason": "r" })).send().unwrap(), 400);
    for body in [
        json!({}),
        json!({ "reason": 1 }),
        json!({ "reason": "" }),
        json!({ "reason": "r".repeat(1025) }),
        json!({ "reason": "r", "why": "r" }),
        json!({ "reason": "r", "signer": "00" }),
        json!([]),
    ] {
        let problem = problem(node.post(&path).json(&body).send().unwrap(), 422);
        assert!(problem["errors"].is_array(), "{body}");
    }
    problem(node.post_text(&path, "application/json", "{"), 400);
    let guarded = node.post(&path).header("if-match", "\"1\"").json(&json!({ "reason": "r" }));
    problem(guarded.send().unwrap(), 412);
    assert_eq!(node.size(""), size);
    assert_eq!(node.json(&format!("/transactions/{index}"))["data"], "x");

    // As a form, and again: the first erasure counts.
    let first = node.post_text(&path, "application/x-www-form-urlencoded", "reason=a+form");
    assert_eq!(first.status(), 201);
    let first: Value = first.json().unwrap();
    let again = erase(&node, "", index);
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed")), (200, "true".into()));
    assert_eq!(again.json::<Value>().unwrap(), first);
    assert_eq!(node.size(""), size + 1);
    // The record of an erasure stays.
    problem(erase(&node, "", size), 409);
}

/// Symptom: other data under an erased transaction's id was answered as a repetition, and dropped. Cause: there is nothing left
/// to compare it with. Cure: an honest `409`.
#[test]
fn what_was_erased_is_never_taken_for_what_is_sent() {
    let node = TestNode::start(&[]);
    let send = |chain: &str, path: &str, body: Value| node.post(&format!("{chain}{path}")).json(&body).send().unwrap();
    let one = |data: &str| json!({ "data": data, "id": "order-1" });
    assert_eq!(send("", "/inject", one("x")).status(), 202);
    node.leap("");
    node.post("/fork").json(&json!({ "name": "child" })).send().unwrap();
    assert_eq!(erase(&node, "", 1).status(), 201);
    for chain in ["", "/chains/child"] {
        let size = node.size(chain);
        for data in ["x", "y"] {
            for (path, body) in [
                ("/inject", one(data)),
                ("/inject?wait=leap", one(data)),
                ("/inject", json!([{ "data": 1 }, one(data)])),
                ("/inject", json!([one(data), one(data)])),
            ] {
                let refused = problem(send(chain, path, body), 409);
                assert!(refused["detail"].as_str().unwrap().contains("can no longer be compared"), "{refused}");
            }
            let lines = format!("{}\n{}\n", one(data), json!({ "data": 1, "id": "other" }));
            let summary: Value =
                node.post_text(&format!("{chain}/inject"), "application/x-ndjson", lines).json().unwrap();
            assert_eq!((&summary["refused"], &summary["errors"][0]["status"]), (&json!(1), &json!(409)), "{summary}");
        }
        assert_eq!(node.size(chain), size + 1, "the other line");
        assert_eq!(node.json(&format!("{chain}/transactions/by-id/order-1"))["erased"]["by"], 2);
    }
}

/// A signature speaks for chain, data and id, so a signed one can still be sent again.
#[test]
fn a_signed_transaction_is_compared_by_its_signature_when_it_is_erased() {
    let node = TestNode::start(&[]);
    let chain = node.json("/stats")["id"].clone();
    let signed = |secret: u8, data: &str| {
        let key = SigningKey::from_bytes(&[secret; 32]);
        let message = json::canonical(&json!({ "chain": chain, "data": data, "id": "order-1" }));
        let signature = hex::encode(key.sign(&message).to_bytes());
        json!({ "data": data, "id": "order-1", "signer": hex::encode(key.verifying_key()), "signature": signature })
    };
    let send = |body: &Value| node.post("/inject").json(body).send().unwrap();
    let first: Value = send(&signed(1, "x")).json().unwrap();
    assert_eq!(erase(&node, "", 1).status(), 201);
    let again = send(&signed(1, "x"));
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed")), (202, "true".into()));
    assert_eq!(again.json::<Value>().unwrap(), first);
    for other in [signed(1, "y"), signed(2, "x"), json!({ "data": "x", "id": "order-1" })] {
        problem(send(&other), 409);
    }
    problem(send(&json!([signed(1, "x"), signed(1, "y")])), 409);
    assert_eq!(node.size(""), 3);
}

/// Through a fork, what the parent wrote is erased and recorded where it was written.
#[test]
fn a_shared_transaction_is_erased_on_the_chain_that_wrote_it() {
    let node = TestNode::start(&[]);
    node.inject("", json!("shared"));
    node.leap("");
    node.post("/fork").json(&json!({ "name": "child" })).send().unwrap();
    node.post("/chains/child/fork").json(&json!({ "name": "grandchild" })).send().unwrap();
    let own = node.inject("/chains/grandchild", json!("own"));
    let answer = erase(&node, "/chains/grandchild", 1);
    assert_eq!((answer.status().as_u16(), header(&answer, "location")), (201, "/chains/qbc/transactions/2".into()));
    let answer = erase(&node, "/chains/grandchild", own);
    assert_eq!(header(&answer, "location"), format!("/chains/grandchild/transactions/{}", own + 1));
    for chain in ["", "/chains/child", "/chains/grandchild"] {
        assert_eq!(node.json(&format!("{chain}/transactions/1")).get("data"), None);
        node.leap(chain);
        node.audit(chain);
    }
    let (data, _folder) = node.kill();
    verifies(&data);
}

#[test]
fn on_a_chain_with_writers_one_of_them_signs_the_erasure() {
    let node = TestNode::start(&[]);
    let (writer, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let chain = node.bang(json!({ "name": "signed", "writers": [hex::encode(writer.verifying_key())] }));
    let sign = |key: &SigningKey, data: Value| {
        let message = json::canonical(&json!({ "chain": chain["id"], "data": data }));
        (hex::encode(key.verifying_key()), hex::encode(key.sign(&message).to_bytes()))
    };
    let (signer, signature) = sign(&writer, json!("x"));
    let body = json!({ "data": "x", "signer": signer, "signature": signature });
    assert_eq!(node.post("/chains/signed/inject").json(&body).send().unwrap().status(), 202);
    problem(erase(&node, "/chains/signed", 1), 401);
    let sign_erasure = |key: &SigningKey, data: Value| {
        let message = json::canonical(&json!({ "chain": chain["id"], "data": data, "kind": "erasure" }));
        (hex::encode(key.verifying_key()), hex::encode(key.sign(&message).to_bytes()))
    };
    let send = |(signer, signature): (String, String)| {
        let body = json!({ "reason": "r", "signer": signer, "signature": signature });
        node.post("/chains/signed/transactions/1/erase").json(&body).send().unwrap()
    };
    problem(send(sign_erasure(&other, json!({ "index": 1, "reason": "r" }))), 403);
    problem(send(sign_erasure(&writer, json!({ "index": 1, "reason": "another" }))), 403);
    problem(send(sign_erasure(&writer, json!({ "index": 0, "reason": "r" }))), 403);

    // Symptom: whoever read a signed value of this shape could erase with it. Cure: an erasure is signed with its kind.
    let value = json!({ "index": 1, "reason": "r" });
    let (signer, signature) = sign(&writer, value.clone());
    let body = json!({ "data": value, "signer": signer, "signature": signature });
    assert_eq!(node.post("/chains/signed/inject").json(&body).send().unwrap().status(), 202);
    let replayed = problem(send((signer, signature)), 403);
    assert!(replayed["detail"].as_str().unwrap().contains("\"kind\": \"erasure\""), "{replayed}");
    let (signer, signature) = sign_erasure(&writer, value.clone());
    let body = json!({ "data": value, "signer": signer, "signature": signature });
    problem(node.post("/chains/signed/inject").json(&body).send().unwrap(), 403);
    assert_eq!(send((signer, signature)).status(), 201);
    node.leap("/chains/signed");
    node.audit("/chains/signed");
}

/// Symptom: for some milliseconds after an erasure was answered, event streams had the data still. Cause: what was read before was
/// kept for all listeners. Cure: nothing goes out that was read before the newest erasure.
#[test]
fn no_listener_gets_what_was_erased() {
    let node = TestNode::start(&[]);
    let listen = |from: u64| BufReader::new(node.get(&format!("/events?from={from}")).send().unwrap());
    let next = |events: &mut BufReader<Response>| loop {
        let mut line = String::new();
        assert!(events.read_line(&mut line).unwrap() > 0);
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str::<Value>(data).unwrap();
        }
    };
    let mut first = listen(1);
    for round in 0..30 {
        let index = node.inject("", json!(format!("secret-{round}")));
        while next(&mut first)["index"] != index {}
        assert_eq!(erase(&node, "", index).status(), 201);
        let seen = next(&mut listen(index));
        assert_eq!((&seen["index"], seen.get("data")), (&json!(index), None), "{seen}");
    }
}

/// A copy in a cache lives no longer than a minute, and is found to be another one then.
#[test]
fn cached_answers_do_not_keep_what_was_erased() {
    let node = TestNode::start(&[]);
    (0..3).for_each(|number| assert_eq!(node.inject("", json!(number)), number + 1));
    node.leap("");
    for (path, index) in [("/transactions/1", 1), ("/transactions/2/receipt", 2), ("/quants/1", 3)] {
        let first = node.get(path).send().unwrap();
        assert!(["public, max-age=60, immutable", "no-cache"].contains(&header(&first, "cache-control").as_str()));
        let tag = header(&first, "etag");
        let ask = || node.get(path).header("if-none-match", &tag).send().unwrap();
        assert_eq!(ask().status(), 304);
        assert_eq!(erase(&node, "", index).status(), 201);
        assert_eq!(ask().status(), 200, "{path}");
    }
}

/// Whenever the process dies, each erasure is undone or completed; what was acknowledged is completed.
#[test]
fn kill_9_leaves_no_erasure_half() {
    let mut node = TestNode::start(&[]);
    for round in 0..4 {
        let first = node.size("");
        let body: Value = (0..200).map(|number| json!({ "data": format!("secret-{round}-{number}") })).collect();
        node.post("/inject").json(&body).send().unwrap();
        let (done, opened) = thread::scope(|scope| {
            let url = node.url.clone();
            let eraser = scope.spawn(move || {
                let client = reqwest::blocking::Client::new();
                let mut done = Vec::new();
                for index in first..first + 200 {
                    let request = client.post(format!("{url}/transactions/{index}/erase"));
                    match request.json(&json!({ "reason": "r" })).send() {
                        Ok(response) => done.push((index, response.json::<Value>().unwrap()["index"].clone())),
                        Err(_) => break,
                    }
                }
                done
            });
            thread::sleep(Duration::from_millis(20 + 15 * round));
            let (data, folder) = node.kill();
            (eraser.join().unwrap(), TestNode::open(&data, &[]).with(folder))
        });
        node = opened;
        for (index, by) in &done {
            assert_eq!(node.json(&format!("/transactions/{index}"))["erased"]["by"], *by);
        }
        for index in first..first + 200 {
            let record = node.json(&format!("/transactions/{index}"));
            if let Some(by) = record["erased"]["by"].as_u64() {
                assert_eq!(node.json(&format!("/transactions/{by}"))["data"]["index"], index);
            } else {
                assert_eq!(record["data"], format!("secret-{round}-{}", index - first));
            }
        }
        println!("round {round}: {} erased before the kill", done.len());
        node.leap("");
        node.audit("");
    }
    let (data, _folder) = node.kill();
    verifies(&data);
}
