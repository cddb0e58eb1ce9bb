//! Keys that change, and chains that end.

use ed25519_dalek::{Signer, SigningKey};
use qbc::core::json;
use serde_json::{Value, json};

use crate::{
    cluster::Nodes,
    support::{TestNode, header, problem, verifies},
};

/// A writer by its number.
struct Writer(u8);

impl Writer {
    fn key(&self) -> SigningKey {
        SigningKey::from_bytes(&[self.0; 32])
    }

    fn public(&self) -> String {
        hex::encode(self.key().verifying_key().to_bytes())
    }

    /// The signed fields of a request.
    fn sign(&self, node: &TestNode, chain: &str, kind: Option<&str>, data: &Value) -> Value {
        let mut message = json!({"chain": node.json(&format!("{chain}/stats"))["id"], "data": data});
        if let Some(kind) = kind {
            message["kind"] = kind.into();
        }
        let signature = hex::encode(self.key().sign(&json::canonical(&message)).to_bytes());
        json!({"signer": self.public(), "signature": signature})
    }

    fn inject(&self, node: &TestNode, chain: &str, data: Value) -> reqwest::blocking::Response {
        let mut body = self.sign(node, chain, None, &data);
        body["data"] = data;
        node.post(&format!("{chain}/inject")).json(&body).send().unwrap()
    }

    /// The body of a change that this writer signs.
    fn change(&self, node: &TestNode, chain: &str, replaces: u64, writers: &[u8]) -> Value {
        let writers: Vec<String> = writers.iter().map(|number| Writer(*number).public()).collect();
        let mut body = json!({"replaces": replaces, "writers": writers});
        let signed = self.sign(node, chain, Some("key"), &body);
        body.as_object_mut().unwrap().extend(signed.as_object().unwrap().clone());
        body
    }
}

fn change(node: &TestNode, chain: &str, body: &Value) -> reqwest::blocking::Response {
    node.post(&format!("{chain}/keys")).json(body).send().unwrap()
}

/// Asserts that it is refused and changes nothing, and gives the problem.
fn refused(node: &TestNode, chain: &str, body: &Value, status: u16) -> Value {
    let before = node.json(&format!("{chain}/stats"));
    let problem = problem(change(node, chain, body), status);
    assert_eq!(node.json(&format!("{chain}/stats")), before);
    problem
}

fn freeze(node: &TestNode, chain: &str) -> Value {
    let response = node.post(&format!("{chain}/freeze")).json(&json!({"reason": "it is over"})).send().unwrap();
    assert_eq!(response.status(), 201, "{}", response.text().unwrap());
    response.json().unwrap()
}

/// An export of a chain, as `qbc export` writes it.
fn export(node: &TestNode, chain: &str) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_qbc"))
        .args(["--node", &node.url, "--chain", chain, "export"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `qbc verify` says of an export, and whether it holds.
fn verify(export: &str, options: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chain.ndjson");
    std::fs::write(&file, export).unwrap();
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_qbc")).arg("verify").arg(&file).args(options).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn import(node: &TestNode, id: &Value, export: &str) -> reqwest::blocking::Response {
    let path = format!("/import?chain={}", id.as_str().unwrap());
    node.post_text(&path, "application/x-ndjson", export)
}

/// A writer's key is stolen: the others, or the writer, name a set without it, and the thief writes no more.
#[test]
fn a_stolen_key_is_rotated_away() {
    let (thief, honest, next) = (Writer(1), Writer(2), Writer(3));
    let mut node = TestNode::start(&[]);
    node.bang(json!({"name": "audit", "difficulty": 0, "writers": [thief.public(), honest.public()]}));
    let chain = "/chains/audit";
    assert_eq!(thief.inject(&node, chain, json!("stolen")).status(), 202);
    let keys = node.json("/chains/audit/keys");
    assert_eq!((&keys["since"], &keys["changes"]), (&json!(0), &json!([])));
    assert_eq!(keys["writers"], json!([thief.public(), honest.public()]));

    let body = honest.change(&node, chain, 0, &[2, 3]);
    let made = change(&node, chain, &body);
    assert_eq!((made.status().as_u16(), header(&made, "location").as_str()), (201, "/chains/audit/transactions/2"));
    assert_eq!(header(&made, "etag"), "\"3\"");
    let recorded = node.json("/chains/audit/transactions/2");
    assert_eq!((&recorded["kind"], &recorded["data"]["replaces"]), (&json!("key"), &json!(0)));
    let keys = node.json("/chains/audit/keys");
    assert_eq!((&keys["since"], &keys["changes"]), (&json!(2), &json!([2])));
    assert_eq!(node.json(chain)["rules"]["writers"], json!([honest.public(), next.public()]));
    // A lost answer is cured by asking again.
    let again = change(&node, chain, &body);
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed").as_str()), (200, "true"));
    assert_eq!(again.json::<Value>().unwrap()["index"], 2);

    problem(thief.inject(&node, chain, json!("late")), 403);
    refused(&node, chain, &thief.change(&node, chain, 2, &[1]), 403);
    refused(&node, chain, &thief.change(&node, chain, 0, &[1]), 409);
    refused(&node, chain, &honest.change(&node, chain, 0, &[1]), 409);
    assert_eq!(next.inject(&node, chain, json!("on")).status(), 202);
    node.leap(chain);
    node.audit(chain);
    // What the thief wrote before stays valid, and all of it holds after a restart, with and without the index.
    let before = node.json("/chains/audit/keys");
    assert_eq!(node.stop(), Some(0));
    verifies(&node.data.clone());
    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &[]).with(folder);
    assert_eq!(node.json("/chains/audit/keys"), before);
    let (data, folder) = node.kill();
    std::fs::remove_dir_all(data.join("index")).unwrap();
    let node = TestNode::open(&data, &[]).with(folder);
    assert_eq!(node.json("/chains/audit/keys"), before);
    problem(thief.inject(&node, chain, json!("late")), 403);
}

/// Each change says what it replaces, so of two at one time the second is refused, and no change can be used twice.
#[test]
fn of_changes_at_one_time_one_is_made() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "audit", "difficulty": 0, "writers": [Writer(1).public(), Writer(2).public()]}));
    let chain = "/chains/audit";
    let bodies: Vec<Value> = [(1, 3), (2, 4), (1, 5), (2, 6)]
        .iter()
        .map(|(by, next)| Writer(*by).change(&node, chain, 0, &[*next]))
        .collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            bodies.iter().map(|body| scope.spawn(|| change(&node, chain, body).status().as_u16())).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 403, 409].contains(status)), "{statuses:?}");
    assert_eq!(node.json("/chains/audit/keys")["changes"], json!([1]));
    node.leap(chain);
    node.audit(chain);
}

#[test]
fn only_writers_change_writers_and_nobody_fakes_it() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "audit", "difficulty": 0, "writers": [Writer(1).public()]}));
    let chain = "/chains/audit";
    let good = Writer(1).change(&node, chain, 0, &[2]);
    let without = |name: &str| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(name);
        body
    };
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, pointer) in [
        (without("replaces"), "/replaces"),
        (without("writers"), "/writers"),
        (without("signer"), "/signature"),
        (with("writers", json!([])), "/writers"),
        (with("writers", Value::Null), "/writers"),
        (with("writers", json!(["00"])), "/writers/0"),
        (with("replaces", json!(-1)), "/replaces"),
        (with("kind", json!("key")), "/kind"),
    ] {
        assert_eq!(refused(&node, chain, &body, 422)["errors"][0]["pointer"], pointer, "{body}");
    }
    let mut unsigned = without("signer");
    unsigned.as_object_mut().unwrap().remove("signature");
    refused(&node, chain, &unsigned, 401);
    refused(&node, chain, &Writer(2).change(&node, chain, 0, &[2]), 403);
    refused(&node, chain, &with("writers", json!([Writer(3).public()])), 403);
    refused(&node, "", &Writer(1).change(&node, "", 0, &[1]), 409);
    // As data it is data, and what was signed as data is no change.
    let data = json!({"replaces": 0, "writers": [Writer(2).public()]});
    assert_eq!(Writer(1).inject(&node, chain, data.clone()).status(), 202);
    let mut faked = Writer(1).sign(&node, chain, None, &data);
    faked.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
    refused(&node, chain, &faked, 403);
    let mut kind = Writer(1).sign(&node, chain, None, &json!(1));
    kind.as_object_mut().unwrap().extend(json!({"data": 1, "kind": "key"}).as_object().unwrap().clone());
    problem(node.post("/chains/audit/inject").json(&kind).send().unwrap(), 422);
    assert_eq!(node.json("/chains/audit/keys")["since"], 0);
    // It cannot be erased.
    assert_eq!(change(&node, chain, &good).status(), 201);
    let record = node.json("/chains/audit/keys")["since"].as_u64().unwrap();
    let reason = json!({"index": record, "reason": "r"});
    let mut erase = Writer(2).sign(&node, chain, Some("erasure"), &reason);
    erase["reason"] = "r".into();
    problem(node.post(&format!("/chains/audit/transactions/{record}/erase")).json(&erase).send().unwrap(), 409);
}

#[test]
fn forks_begin_with_the_writers_in_force_where_they_begin() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "audit", "difficulty": 0, "writers": [Writer(1).public()]}));
    let chain = "/chains/audit";
    assert_eq!(change(&node, chain, &Writer(1).change(&node, chain, 0, &[2])).status(), 201);
    node.leap(chain);
    assert_eq!(change(&node, chain, &Writer(2).change(&node, chain, 1, &[3])).status(), 201);
    // Pooled, it is of no quant that a fork could go on from.
    for (name, at, writer) in [("first", 0, 1), ("second", 1, 2)] {
        let body = json!({"name": name, "at": at});
        let made: Value = node.post("/chains/audit/fork").json(&body).send().unwrap().json().unwrap();
        assert_eq!(made["rules"]["writers"], json!([Writer(writer).public()]), "{name}");
        let fork = format!("/chains/{name}");
        let keys = node.json(&format!("{fork}/keys"));
        assert_eq!((&keys["since"], &keys["changes"]), (&json!(at + 1), &json!([])));
        assert_eq!(Writer(writer).inject(&node, &fork, json!(1)).status(), 202);
        node.leap(&fork);
        node.audit(&fork);
    }
    // A fork that was imported holds its ancestors' part, with the keys that were in force there.
    let copy = TestNode::start(&[]);
    let id = node.json("/chains/second")["id"].clone();
    assert_eq!(change(&node, "/chains/second", &Writer(2).change(&node, "/chains/second", 2, &[4])).status(), 201);
    node.leap("/chains/second");
    let exported = export(&node, "second");
    assert_eq!(import(&copy, &id, &exported).status(), 201);
    let keys = copy.json("/chains/second/keys");
    assert_eq!((&keys["chain"], &keys["id"], &keys["since"]), (&json!("second"), &id, &json!(4)));
    assert_eq!((&keys["writers"], &keys["changes"]), (&json!([Writer(4).public()]), &json!([1, 4])));
    for (name, at, writer) in [("a", 0, 1), ("b", 1, 2), ("c", 2, 2), ("d", 4, 4)] {
        let body = json!({"name": name, "at": at});
        let made: Value = copy.post("/chains/second/fork").json(&body).send().unwrap().json().unwrap();
        assert_eq!(made["rules"]["writers"], json!([Writer(writer).public()]), "{name}: {made}");
        copy.audit(&format!("/chains/{name}"));
    }
    assert_eq!(Writer(4).inject(&copy, "/chains/second", json!(1)).status(), 202);
    problem(Writer(2).inject(&copy, "/chains/second", json!(1)), 403);
}

/// A chain in which old writers go on, or a change is left out, is no chain.
#[test]
fn verifiers_find_what_old_writers_wrote() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "audit", "difficulty": 0, "writers": [Writer(1).public()]}));
    let chain = "/chains/audit";
    let late = Writer(1).inject(&node, chain, json!("in time"));
    assert_eq!(late.status(), 202);
    assert_eq!(change(&node, chain, &Writer(1).change(&node, chain, 0, &[2])).status(), 201);
    assert_eq!(Writer(2).inject(&node, chain, json!("on")).status(), 202);
    node.leap(chain);
    let exported = export(&node, "audit");
    assert!(verify(&exported, &[]).0);
    // The order of lines is that of the chain: with the two swapped, the old writer wrote after the change.
    let lines: Vec<&str> = exported.lines().collect();
    let renumber = |line: &str, index: u64| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value["index"] = index.into();
        value.to_string()
    };
    let (first, second) = (renumber(lines[3], 1), renumber(lines[2], 2));
    let swapped = [lines[0], lines[1], &first, &second, lines[4], lines[5], lines[6]].join("\n");
    let (holds, said) = verify(&swapped, &[]);
    assert!(!holds && said.contains("transaction 2: its signer is not one of the chain's writers"), "{said}");
    let without = [lines[0], lines[1], lines[2], &renumber(lines[4], 2), lines[5], lines[6]].join("\n");
    let (holds, said) = verify(&without, &[]);
    assert!(!holds && said.contains("transaction 2: its signer is not one of the chain's writers"), "{said}");
    let other = TestNode::start(&[]);
    let id = &node.json(chain)["id"];
    assert!(problem(import(&other, id, &swapped), 422)["detail"].as_str().unwrap().contains("transaction 2"));
    assert_eq!(import(&other, id, &exported).status(), 201);
    problem(Writer(1).inject(&other, chain, json!("late")), 403);
}

#[test]
fn a_frozen_chain_takes_nothing_any_more() {
    let mut node = TestNode::start(&[]);
    node.bang(json!({"name": "year", "difficulty": 0}));
    let chain = "/chains/year";
    node.inject(chain, json!(1));
    assert_eq!(node.json("/chains/year/stats")["frozen"], Value::Null);
    problem(node.post("/chains/year/freeze").json(&json!({"reason": ""})).send().unwrap(), 422);
    problem(node.post("/chains/year/freeze").json(&json!({"reason": "a", "b": 1})).send().unwrap(), 422);
    let frozen = freeze(&node, chain);
    assert_eq!(
        (&frozen["index"], &frozen["quant"]["index"], &frozen["quant"]["size"]),
        (&json!(2), &json!(1), &json!(3))
    );
    let again = node.post("/chains/year/freeze").json(&json!({"reason": "again"})).send().unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed").as_str()), (200, "true"));
    let again: Value = again.json().unwrap();
    assert_eq!(again, frozen);

    let ends = |node: &TestNode| {
        let stats = node.json("/chains/year/stats");
        assert_eq!((&stats["frozen"], &stats["size"], &stats["length"]), (&json!(2), &json!(3), &json!(2)));
        assert_eq!(node.json(chain)["frozen"], 2);
        let writes = [
            node.post("/chains/year/inject").json(&json!({"data": 1})),
            node.post_body("/chains/year/inject", "application/x-ndjson", "{\"data\":1}\n"),
            node.post("/chains/year/leap"),
            node.get("/chains/year/leap"),
            node.post("/chains/year/transactions/1/erase").json(&json!({"reason": "r"})),
            node.patch(chain).json(&json!({"leap": {"every_ms": 10}})),
        ];
        for (at, write) in writes.into_iter().enumerate() {
            let response = write.send().unwrap();
            let (status, text) = (response.status().as_u16(), response.text().unwrap());
            // Of lines each has its own status.
            assert_eq!(status, if at == 1 { 422 } else { 409 }, "{text}");
            assert!(text.contains("frozen for ever by transaction 2") && text.contains("/chains/year/fork"), "{text}");
        }
        // What is read again meanwhile is no change.
        let but_scrubbed = |mut stats: Value| stats.as_object_mut().unwrap().remove("scrubbed").map(|_| stats);
        assert_eq!(but_scrubbed(node.json("/chains/year/stats")), but_scrubbed(stats));
        node.audit(chain);
    };
    ends(&node);
    let (data, folder) = {
        assert_eq!(node.stop(), Some(0));
        verifies(&node.data.clone());
        node.kill()
    };
    std::fs::remove_dir_all(data.join("index")).unwrap();
    let node = TestNode::open(&data, &[]).with(folder);
    ends(&node);

    // Forks go on, also from before.
    for (name, at) in [("next", 1), ("before", 0)] {
        let made = node.post("/chains/year/fork").json(&json!({"name": name, "at": at})).send().unwrap();
        assert_eq!(made.status(), 201);
        let fork = format!("/chains/{name}");
        assert_eq!(node.json(&fork)["frozen"], Value::Null);
        node.inject(&fork, json!("goes on"));
        node.leap(&fork);
        node.audit(&fork);
    }
    let other = TestNode::start(&[]);
    for name in ["year", "next"] {
        let exported = export(&node, name);
        let (holds, said) = verify(&exported, &[]);
        assert!(holds && said.contains("frozen") == (name == "year"), "{said}");
        assert_eq!(import(&other, &node.json(&format!("/chains/{name}"))["id"], &exported).status(), 201);
    }
    ends(&other);
    other.inject("/chains/next", json!("and on"));
    other.leap("/chains/next");
    other.audit("/chains/next");
}

/// Whoever runs the node cannot go on with a frozen chain unseen: anything behind its last quant is a fault.
#[test]
fn verifiers_find_what_follows_a_freeze() {
    let node = TestNode::start(&[]);
    for name in ["year", "open"] {
        node.bang(json!({"name": name, "difficulty": 0}));
    }
    freeze(&node, "/chains/year");
    let exported = export(&node, "year");
    let lines: Vec<&str> = exported.lines().collect();
    let last: Value = serde_json::from_str(lines[3]).unwrap();
    // An empty quant behind it, with the right hashes.
    let header = json!({
        "difficulty": 0, "index": 2, "previous_hash": last["hash"], "root": last["root"], "size": 2,
        "timestamp": last["timestamp"], "version": 1,
    });
    let mut quant = header.clone();
    quant["proof"] = 0.into();
    quant["hash"] = quant_hash(&json::canonical(&header)).into();
    let longer = [lines[0], lines[1], lines[2], lines[3], &quant.to_string(), ""].join("\n");
    let (holds, said) = verify(&longer, &[]);
    assert!(!holds && said.contains("quant 2: quant 1 sealed that the chain is frozen"), "{said}");
    // A transaction behind it.
    let mut next: Value = serde_json::from_str(export(&node, "open").lines().next().unwrap()).unwrap();
    next["index"] = 2.into();
    next.as_object_mut().unwrap().remove("kind");
    let mut leaf = next.clone();
    let fields = leaf.as_object_mut().unwrap();
    let salt: [u8; 16] = hex::decode(fields.remove("salt").unwrap().as_str().unwrap()).unwrap().try_into().unwrap();
    let data = json::canonical(&fields.remove("data").unwrap());
    fields.remove("hash");
    fields.remove("index");
    fields.insert("commitment".into(), qbc::core::hash::commitment(&salt, &data).to_string().into());
    next["hash"] = qbc::core::hash::leaf(&json::canonical(&leaf)).to_string().into();
    let longer = [lines[0], lines[1], lines[2], &next.to_string(), lines[3], ""].join("\n");
    let (holds, said) = verify(&longer, &[]);
    assert!(!holds && said.contains("transaction 2: the chain was frozen by transaction 1"), "{said}");
}

/// `H( H(header) ‖ proof )` with the proof 0.
fn quant_hash(header: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::new().chain_update(Sha256::digest(header)).chain_update([0; 8]).finalize())
}

#[test]
fn writers_freeze_a_chain_with_writers() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "audit", "difficulty": 0, "writers": [Writer(1).public()], "leap": {"every_ms": 60_000}}));
    let chain = "/chains/audit";
    let reason = json!({"reason": "done"});
    let send = |signed: Value| {
        let mut body = reason.clone();
        body.as_object_mut().unwrap().extend(signed.as_object().unwrap().clone());
        node.post("/chains/audit/freeze").json(&body).send().unwrap()
    };
    problem(send(json!({})), 401);
    problem(send(Writer(2).sign(&node, chain, Some("freeze"), &reason)), 403);
    problem(send(Writer(1).sign(&node, chain, None, &reason)), 403);
    assert_eq!(Writer(1).inject(&node, chain, json!("last")).status(), 202);
    assert_eq!(send(Writer(1).sign(&node, chain, Some("freeze"), &reason)).status(), 201);
    refused(&node, chain, &Writer(1).change(&node, chain, 0, &[2]), 409);
    problem(Writer(1).inject(&node, chain, json!("late")), 409);
    node.audit(chain);
}

/// Many clients write while it is frozen: what was accepted before is sealed, and nothing comes behind.
#[test]
fn a_freeze_ends_what_many_write() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "year", "difficulty": 4}));
    std::thread::scope(|scope| {
        for client in 0..4 {
            let node = &node;
            scope.spawn(move || {
                for number in 0.. {
                    let body = json!({"data": [client, number]});
                    let response = node.post("/chains/year/inject").json(&body).send().unwrap();
                    if response.status() == 409 {
                        break;
                    }
                    assert_eq!(response.status(), 202);
                    if number % 5 == 0 {
                        let status = node.post("/chains/year/leap").send().unwrap().status();
                        assert!([201, 409].contains(&status.as_u16()), "{status}");
                    }
                }
            });
        }
        while node.size("/chains/year") < 40 {
            std::thread::yield_now();
        }
        freeze(&node, "/chains/year");
    });
    let stats = node.json("/chains/year/stats");
    assert_eq!((&stats["pooled"], stats["frozen"].as_u64().unwrap() + 1), (&json!(0), stats["size"].as_u64().unwrap()));
    node.audit("/chains/year");
}

/// All nodes of a cluster agree on who may write, and on the end, whichever is asked.
#[test]
fn a_cluster_follows_what_is_decided() {
    let mut nodes = Nodes::start(3);
    let (old, new) = (Writer(1), Writer(2));
    nodes.node(0).bang(json!({"name": "audit", "difficulty": 0, "writers": [old.public()], "replicas": 3}));
    nodes.node(0).bang(json!({"name": "other", "difficulty": 0, "replicas": 3}));
    nodes.settle();
    let chain = "/chains/audit";
    let leader = nodes.leader("audit");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    assert_eq!(old.inject(nodes.node(others[0]), chain, json!(1)).status(), 202);
    let body = old.change(nodes.node(others[0]), chain, 0, &[2]);
    assert_eq!(change(nodes.node(others[0]), chain, &body).status(), 201);
    // At once, and at each node.
    for number in 0..3 {
        problem(old.inject(nodes.node(number), chain, json!("late")), 403);
        let taken = new.inject(nodes.node(number), chain, json!(number));
        assert_eq!(taken.status(), 202, "{}", taken.text().unwrap());
        assert_eq!(nodes.node(number).json("/chains/audit/keys")["writers"], json!([new.public()]));
    }
    nodes.kill(leader);
    let node = nodes.node(others[1]);
    let reason = json!({"reason": "over"});
    let mut freeze = new.sign(node, chain, Some("freeze"), &reason);
    freeze["reason"] = "over".into();
    let mut status = 0;
    crate::cluster::eventually("another leads, and the chain is frozen", || {
        status = node.post("/chains/audit/freeze").json(&freeze).send().unwrap().status().as_u16();
        [200, 201].contains(&status)
    });
    for number in others {
        problem(new.inject(nodes.node(number), chain, json!("late")), 409);
    }
    nodes.restart(leader);
    nodes.settle();
    problem(new.inject(nodes.node(leader), chain, json!("late")), 409);
    nodes.same("audit");
    nodes.node(leader).audit(chain);

    // All of them get another secret, and whoever knows the old key of the cluster follows.
    let qbc = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_qbc")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let first = qbc(&["key", "--node", &nodes.node(0).url]);
    assert!(first.starts_with("qbc/cluster/"));
    (0..3).for_each(|number| nodes.kill(number));
    let data = [0, 1, 2].map(|number| nodes.data(number).to_str().unwrap().to_owned());
    let second = qbc(&["key", "--rotate", "--cluster", "--data", &data[0]]);
    let secret = std::fs::read_to_string(nodes.data(0).join("cluster.secret")).unwrap();
    for data in &data[1..] {
        assert_eq!(qbc(&["key", "--rotate", "--cluster", "--data", data, "--secret", secret.trim_end()]), second);
    }
    (0..3).for_each(|number| nodes.restart(number));
    nodes.settle();
    assert_eq!(nodes.node(1).leap("/chains/other")["size"], 2, "it says so itself");
    let record = nodes.node(2).json("/chains/other/transactions/1");
    assert_eq!(record["kind"], "key");
    assert!(first.starts_with(record["data"]["from"].as_str().unwrap()), "{record}");
    assert!(second.starts_with(record["data"]["to"].as_str().unwrap()), "{record}");
    for number in 0..3 {
        for name in ["audit", "other"] {
            let url = format!("{}/chains/{name}", nodes.node(number).url);
            for key in [&first, &second] {
                qbc(&["verify", &url, "--key", key]);
            }
        }
        nodes.node(number).leap("/chains/other");
    }
    assert_eq!(nodes.node(0).json("/chains/other/keys")["changes"], json!([1]), "whoever leads");
    (0..3).for_each(|number| nodes.kill(number));
    (0..3).for_each(|number| verifies(&nodes.data(number)));
}

/// A mirror follows what is decided, and knows that a frozen chain has ended.
#[test]
fn a_mirror_follows_what_is_decided() {
    let (source, mirror) = (TestNode::start(&[]), TestNode::start(&["--discover-allow", "any"]));
    source.bang(json!({"name": "audit", "difficulty": 0, "writers": [Writer(1).public()]}));
    let chain = "/chains/audit";
    assert_eq!(Writer(1).inject(&source, chain, json!(1)).status(), 202);
    source.leap(chain);
    let key = source.json("/keys")["signers"][0].clone();
    let body = json!({"from": format!("{}{chain}", source.url), "key": key});
    assert!(mirror.post("/mirrors").json(&body).send().unwrap().status().is_success());
    let state = |name: &str| mirror.json("/mirrors")[0][name].clone();
    crate::support::eventually("it is there", || state("state") == "following" && state("size") == 2);
    assert_eq!(change(&source, chain, &Writer(1).change(&source, chain, 0, &[2])).status(), 201);
    assert_eq!(Writer(2).inject(&source, chain, json!(2)).status(), 202);
    source.leap(chain);
    crate::support::eventually("it follows", || state("size") == 4);
    let decided = |node: &TestNode| {
        let keys = node.json("/chains/audit/keys");
        (keys["writers"].clone(), keys["since"].clone(), keys["changes"].clone())
    };
    assert_eq!(decided(&mirror), decided(&source));
    let reason = json!({"reason": "over"});
    let mut freeze = Writer(2).sign(&source, chain, Some("freeze"), &reason);
    freeze["reason"] = "over".into();
    assert_eq!(source.post("/chains/audit/freeze").json(&freeze).send().unwrap().status(), 201);
    crate::support::eventually("it is complete", || state("state") == "complete");
    let stats = mirror.json("/chains/audit/stats");
    assert_eq!(
        (&stats["frozen"], &stats["size"], &stats["mirror"]["state"]),
        (&json!(4), &json!(5), &json!("complete"))
    );
    problem(Writer(2).inject(&mirror, chain, json!(3)), 409);
    mirror.audit(chain);
    let mut mirror = mirror;
    assert_eq!(mirror.stop(), Some(0));
    verifies(&mirror.data.clone());
}
