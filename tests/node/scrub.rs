//! Damage of one chain: it is found without being asked for, named, and stops nothing else.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use qbc::log::{self, LogError, Mark, Place};
use serde_json::{Value, json};

use crate::support::{TestNode, eventually, problem, verifies};

/// Flips a bit in the data of the run that was committed as number `run` since the node was made.
pub fn damage(data: &Path, run: u64) {
    let mut runs = Vec::new();
    log::read(&data.join("log"), Mark::START, |found| {
        runs.extend(found.record.payload_place(found.place, 0));
        Ok::<_, LogError>(())
    })
    .unwrap();
    let Place { segment, offset, .. } = runs[run as usize];
    let file = File::options().read(true).write(true).open(data.join(format!("log/{segment:08}.log"))).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset.into()).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset.into()).unwrap();
}

/// The default chain (run 0), `good` and `bad` (1 and 2), one transaction in each (3 to 5), and a fork of `bad`.
fn three_chains(options: &[&str]) -> TestNode {
    let node = TestNode::start(options);
    for name in ["good", "bad"] {
        node.bang(json!({ "name": name }));
    }
    for chain in ["", "/chains/good", "/chains/bad"] {
        node.inject(chain, json!({ "of": chain }));
        node.leap(chain);
    }
    let fork = node.post("/chains/bad/fork").json(&json!({ "name": "fork" })).send().unwrap();
    assert_eq!(fork.status(), 201);
    node
}

#[test]
fn a_chain_that_holds_is_read_again_and_says_so() {
    let node = three_chains(&["--scrub-every", "10ms"]);
    for chain in ["", "/chains/good", "/chains/bad", "/chains/fork"] {
        for _ in 0..600 {
            node.inject(chain, json!("more"));
        }
        let size = node.size(chain);
        let is_scrubbed = || node.json(&format!("{chain}/stats"))["scrubbed"]["size"] == size;
        eventually("all of it is read again", is_scrubbed);
        node.leap(chain);
    }
    assert_eq!(node.json("/readyz")["status"], "ok");
    let (data, _folder) = node.kill();
    verifies(&data);
}

#[test]
fn the_scrub_finds_damage_and_the_other_chains_go_on() {
    let node = three_chains(&["--scrub-every", "10ms", "--log", "off"]);
    damage(&node.data, 5);
    eventually("it is found", || node.get("/readyz").send().unwrap().status() == 503);
    let ready = problem(node.get("/readyz").send().unwrap(), 503);
    let detail = ready["detail"].as_str().unwrap();
    assert!(detail.contains("\"bad\" is damaged: transaction 1") && !detail.contains("\"good\""), "{detail}");

    for chain in ["/chains/bad", "/chains/fork"] {
        assert!(node.json(&format!("{chain}/stats"))["damage"].as_str().unwrap().contains("transaction 1"), "{chain}");
        let refused = node.post(&format!("{chain}/inject")).json(&json!({ "data": 1 })).send().unwrap();
        assert!(problem(refused, 503)["detail"].as_str().unwrap().contains("damaged"));
        problem(node.post(&format!("{chain}/leap")).send().unwrap(), 503);
    }
    assert_eq!(node.json("/chains").as_array().unwrap().len(), 4);
    for chain in ["", "/chains/good"] {
        node.inject(chain, json!("on"));
        node.leap(chain);
        node.audit(chain);
    }
}

#[test]
fn a_chain_that_cannot_be_loaded_stops_nothing_else() {
    let (data, folder) = three_chains(&[]).kill();
    damage(&data, 5);
    let node = TestNode::open(&data, &["--log", "off"]).with(folder);
    let chains = node.json("/chains");
    let of = |name: &str| chains.as_array().unwrap().iter().find(|chain| chain["name"] == name).unwrap().clone();
    assert!(of("bad")["damage"].as_str().unwrap().contains("transaction 1: its data is not as it was written"));
    assert!(of("fork")["damage"].as_str().unwrap().contains("forked from"));
    assert_eq!(of("good")["stats"]["damage"], Value::Null);
    assert_eq!(node.pages("/chains?limit=1").len(), 4, "each page has one, damaged or not");
    let ready = problem(node.get("/readyz").send().unwrap(), 503);
    assert!(ready["detail"].as_str().unwrap().contains("\"bad\" is damaged"));
    for path in ["/chains/bad", "/chains/bad/stats", "/chains/bad/transactions/1", "/chains/fork/chain"] {
        problem(node.get(path).send().unwrap(), 503);
    }
    problem(node.post("/bang").json(&json!({ "name": "bad" })).send().unwrap(), 409);
    node.bang(json!({ "name": "new" }));
    for chain in ["", "/chains/good", "/chains/new"] {
        node.inject(chain, json!("on"));
        node.leap(chain);
        node.audit(chain);
    }
}

#[test]
fn the_default_chain_may_be_the_damaged_one() {
    let (data, folder) = three_chains(&[]).kill();
    damage(&data, 3);
    let mut node = TestNode::open(&data, &["--log", "off", "--leap-every", "1s"]).with(folder);
    problem(node.get("/chain").send().unwrap(), 503);
    problem(node.post("/inject").json(&json!({ "data": 1 })).send().unwrap(), 503);
    node.audit("/chains/good");
    assert_eq!(node.json("/")["name"], "qbc");
    assert_eq!(node.stop(), Some(0));
}
