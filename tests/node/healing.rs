//! Flipped bits on one of several nodes: what is damaged is fetched again from the others, and the node says so.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use qbc::log::{self, LogError, Mark, Place};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cluster::{Nodes, bang, eventually, post},
    support::{TestNode, verifies},
};

/// Instead of a text: a run whose first transaction was erased.
const ERASED: &str = "";

/// The runs of transactions of a folder that begin with one with this text, each with the place of its first payload.
fn runs(data: &Path, text: &str) -> Vec<(Place, Place)> {
    let mut runs = Vec::new();
    log::read(&data.join("log"), Mark::START, |found| {
        let is_it = |payload: log::Payload<'_>| match payload {
            log::Payload::Whole(bytes) => text != ERASED && String::from_utf8_lossy(bytes).contains(text),
            log::Payload::Erased => text == ERASED,
            log::Payload::Damaged => false,
        };
        if found.record.payload(0).is_some_and(is_it) {
            runs.push((found.place, found.record.payload_place(found.place, 0).unwrap()));
        }
        Ok::<_, LogError>(())
    })
    .unwrap();
    assert!(!runs.is_empty(), "{text}");
    runs
}

/// Flips a bit of a segment.
fn flip(data: &Path, segment: u32, offset: u32) {
    let file = File::options().read(true).write(true).open(data.join(format!("log/{segment:08}.log"))).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset.into()).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset.into()).unwrap();
}

/// Flips bits of each run that has one of these texts: in its data; in what is never erased, just before; or in the length of that, which
/// leaves nothing of the record to be understood.
fn damage(data: &Path, in_data: &[&str], in_text: &[&str], in_length: &[&str]) {
    let first = |text: &&str| runs(data, text)[0];
    let places = [in_data, in_text, in_length].map(|texts| texts.iter().map(first).collect::<Vec<_>>());
    let [in_data, in_text, in_length] = places;
    in_data.iter().for_each(|(_, payload)| flip(data, payload.segment, payload.offset + payload.length / 2));
    in_text.iter().for_each(|(_, payload)| flip(data, payload.segment, payload.offset - 40));
    in_length.iter().for_each(|(record, _)| flip(data, record.segment, record.offset + 10));
}

/// How many runs were healed on a node, as far as it shows the chain.
fn healed(node: &TestNode) -> Option<u64> {
    let shown = node.get("/chains/kept/stats?consistency=local").send().unwrap();
    shown.json::<Value>().unwrap()["healed"].as_u64()
}

/// A chain of ten transactions on three nodes, `Jane Roe` among them, who is erased.
fn three(options: &[&'static str]) -> Nodes {
    let nodes = Nodes::with(3, options);
    bang(nodes.node(0), json!({"name": "kept", "difficulty": 0}));
    for number in 1..10 {
        let data = if number == 5 { "Jane Roe".into() } else { format!("data-{number}-") };
        assert_eq!(nodes.node(number % 3).inject("/chains/kept", json!(data)), number as u64);
    }
    nodes.node(0).leap("/chains/kept");
    let (status, _) = post(nodes.node(0), "/chains/kept/transactions/5/erase", &json!({"reason": "asked for"}));
    assert_eq!(status, 201);
    nodes.settle();
    nodes
}

fn end(mut nodes: Nodes, erased: &Value) {
    let transactions = nodes.same("kept");
    assert!(transactions[5]["erased"].is_object() && transactions[5]["erased"] == erased["erased"], "{erased}");
    let numbers: Vec<usize> = (0..nodes.nodes.len()).filter(|number| nodes.nodes[*number].is_some()).collect();
    for number in numbers {
        assert_eq!(nodes.nodes[number].as_mut().unwrap().stop(), Some(0));
        verifies(&nodes.data(number));
    }
}

#[test]
fn flipped_bits_are_healed_while_the_nodes_run() {
    let nodes = three(&["--scrub-every", "10ms", "--log", "error"]);
    let erased = nodes.node(0).json("/chains/kept/transactions/5");
    // Each is damaged elsewhere, the one that leads too.
    damage(&nodes.data(0), &["data-1-"], &["data-2-"], &[]);
    damage(&nodes.data(1), &["data-3-"], &["data-4-"], &["data-8-"]);
    // What was erased is healed to zeros.
    damage(&nodes.data(2), &["data-6-", ERASED], &["data-7-"], &[]);
    eventually("all is healed", || {
        (0..3).map(|number| healed(nodes.node(number))).collect::<Vec<_>>() == [2, 3, 3].map(Some)
    });
    for node in nodes.running() {
        eventually("the chain is whole", || node.json("/chains/kept/stats")["damage"].is_null());
        let ready = node.json("/readyz");
        assert!(ready["warnings"].to_string().contains("\\\"kept\\\" were damaged"), "{ready}");
    }
    // It takes writes wherever they come.
    for number in 0..3 {
        nodes.node(number).inject("/chains/kept", json!(number));
    }
    end(nodes, &erased);
}

#[test]
fn a_node_that_starts_on_flipped_bits_is_healed() {
    let mut nodes = three(&["--log", "error"]);
    let erased = nodes.node(0).json("/chains/kept/transactions/5");
    let (status, _) = post(nodes.node(0), "/chains/kept/fork", &json!({"name": "fork"}));
    assert_eq!(status, 201);
    let number = nodes.leader("kept");
    nodes.kill(number);
    // The rules of the chain, without which it is none, and its last transactions, which each start reads.
    damage(&nodes.data(number), &["\"kept\"", "data-9-"], &[], &[]);
    let other = (number + 1) % 3;
    eventually("another leads", || {
        nodes.node(other).post("/chains/kept/inject").json(&json!({"data": 1})).send().unwrap().status() == 202
    });
    nodes.restart(number);
    eventually("it is healed", || healed(nodes.node(number)) == Some(2));
    nodes.settle();
    assert!(nodes.node(number).size("/chains/kept") >= 12);
    nodes.node(number).inject("/chains/fork", json!("on"));
    nodes.same("fork");
    end(nodes, &erased);
}

#[test]
fn what_a_new_node_is_fed_is_healed_first() {
    let mut nodes = three(&["--scrub-rate", "0", "--log", "error"]);
    let erased = nodes.node(0).json("/chains/kept/transactions/5");
    let new = nodes.add();
    // What is kept in memory of the log is gone with the process.
    for number in 0..3 {
        nodes.kill(number);
        nodes.restart(number);
    }
    nodes.settle();
    let leader = nodes.leader("kept");
    for (at, text) in ["data-1-", "data-2-", "data-3-"].iter().enumerate() {
        damage(&nodes.data((leader + at) % 3), &[text], &[], &[]);
    }
    let id = nodes.id((leader + 1) % 3, new);
    let left = nodes.node(new).request(Method::DELETE, &format!("/cluster/nodes/{id}")).send().unwrap();
    assert_eq!(left.status(), 202, "{}", left.text().unwrap());
    eventually("it has left", || {
        nodes.node(new).json("/cluster")["nodes"].as_array().unwrap().iter().all(|other| other["id"] != id.as_str())
    });
    nodes.kill((leader + 1) % 3);
    nodes.settle();
    let read = nodes.node(new).json("/chains/kept/transactions?limit=100");
    assert_eq!(read.as_array().unwrap().len(), 11);
    // A read finds damage, too.
    for node in nodes.running() {
        eventually("all is read", || node.get("/chains/kept/transactions?limit=100").send().unwrap().status() == 200);
    }
    end(nodes, &erased);
}
