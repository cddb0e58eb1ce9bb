//! Nodes of one cluster that do not have the same, as no failure of a disk or a network makes them: a fault of the program would. They find
//! out, and who differs serves it no more.
//!
//! The node 2 gets another entry than the others, under the same name, so that the engine takes it for theirs.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use qbc::{
    core::{
        count::Index,
        transaction::{Submission, Timestamp, Transaction},
    },
    store::{Entry, EntryId, Group, LogRecord, Progress, Said, Store},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cluster::{Nodes, bang, eventually, post};

/// The node that gets the other entry.
const DIFFERS: usize = 2;

/// Uses the store of a node that does not run.
fn with_store<T>(data: &Path, work: impl FnOnce(&Store) -> T) -> T {
    let store = Arc::new(Store::open(data, 1, Progress::default()).unwrap());
    let journal = thread::spawn({
        let store = store.clone();
        move || store.run_journal()
    });
    let done = work(&store);
    store.end_journal();
    journal.join().unwrap();
    done
}

fn append(store: &Store, group: Group, entries: &[Entry]) {
    let (told, written) = mpsc::channel();
    store.append(group, entries.to_vec(), Box::new(move |done| told.send(done).unwrap()));
    written.recv().unwrap().unwrap();
}

/// Why the node is not ready, once it says this.
fn unready(nodes: &Nodes, with: &str) {
    eventually(with, || {
        let ready = nodes.node(DIFFERS).get("/readyz").send().unwrap();
        ready.status() == 503 && ready.text().unwrap().contains(with)
    });
    for number in [0, 1] {
        // On a slow machine it may have been without a leader for a moment.
        eventually("the others are ready", || nodes.node(number).get("/readyz").send().unwrap().status() == 200);
    }
}

#[test]
fn a_node_that_knows_something_else_of_the_cluster_is_found() {
    let mut nodes = Nodes::start(3);
    bang(nodes.node(0), json!({"name": "kept", "difficulty": 0}));
    let last = |nodes: &Nodes| {
        let last = |number| with_store(&nodes.data(number), |store| store.group(Group::META).last.unwrap());
        [0, 1, DIFFERS].map(last)
    };
    let kill = |nodes: &mut Nodes| [0, 1, DIFFERS].into_iter().for_each(|number| nodes.kill(number));
    let restart = |nodes: &mut Nodes| [0, 1, DIFFERS].into_iter().for_each(|number| nodes.restart(number));
    kill(&mut nodes);
    let last = loop {
        // One may have been about to lead.
        match last(&nodes) {
            [one, two, three] if one == two && two == three => break one,
            _ => {
                restart(&mut nodes);
                nodes.settle();
                kill(&mut nodes);
            }
        }
    };
    let entry = |after: u64, json: &str| Entry {
        id: EntryId { index: last.index + after, ..last },
        said: Said::Cluster(Arc::new(json.as_bytes().to_vec())),
    };
    // It does not lead, as the others have more.
    let theirs = [entry(1, r#"{"set":{"note":1}}"#), entry(2, r#"{"set":{"other":1}}"#)];
    for number in [0, 1] {
        with_store(&nodes.data(number), |store| append(store, Group::META, &theirs));
    }
    let other = [entry(1, r#"{"set":{"note":2}}"#)];
    with_store(&nodes.data(DIFFERS), |store| append(store, Group::META, &other));
    restart(&mut nodes);
    unready(&nodes, "differs from what the node that leads it knows");
    bang(nodes.node(0), json!({"name": "later", "difficulty": 0}));

    // The cure that it tells.
    let id = nodes.id(DIFFERS, 0);
    nodes.kill(DIFFERS);
    let left = nodes.node(0).request(Method::DELETE, &format!("/cluster/nodes/{id}?lost=true")).send().unwrap();
    assert_eq!(left.status(), 202);
    nodes.add();
    nodes.settle();
    for chain in ["kept", "later"] {
        assert_eq!(nodes.node(3).inject(&format!("/chains/{chain}"), json!("goes on")), 1);
        nodes.same(chain);
    }
    nodes.running().for_each(|node| drop(node.json("/readyz")));
}

#[test]
fn a_replica_that_differs_is_found() {
    let mut nodes = Nodes::start(3);
    bang(nodes.node(0), json!({"name": "kept", "difficulty": 0}));
    // The only other chain is on one node alone.
    let is_its = |group: &&Value| group["chains"] == 1 && group["replicas"].as_array().unwrap().len() == 3;
    let mut found = None;
    eventually("its group is told", || {
        let status = nodes.status();
        let its = status["groups"].as_array().unwrap().iter().find(is_its);
        found = its.map(|group| group["id"].as_str().unwrap().parse().unwrap());
        found.is_some()
    });
    let group: Group = found.unwrap();
    nodes.kill(DIFFERS);
    // The other one of the two may have to be elected.
    for data in ["theirs", "more"] {
        eventually("it is written", || post(nodes.node(0), "/chains/kept/inject", &json!({"data": data})).0 == 202);
    }
    nodes.same("kept");
    [0, 1].into_iter().for_each(|number| nodes.kill(number));
    let before = with_store(&nodes.data(DIFFERS), |store| store.group(group).last.unwrap());
    let mut entries =
        with_store(&nodes.data(0), |store| store.entries(group, before.index + 1..u64::MAX, usize::MAX).unwrap());
    let is_theirs = |entry: &Entry| match &entry.said {
        Said::Effects(records) => {
            records.iter().any(|record| String::from_utf8_lossy(&record.payloads).contains("theirs"))
        }
        _ => false,
    };
    let at = entries.iter().position(is_theirs).unwrap();
    entries.truncate(at + 1);
    let Said::Effects(records) = &mut entries[at].said else { unreachable!("it was just found") };
    let LogRecord { plain, lengths, .. } = &records[0];
    let head = plain.windows(2).position(|start| start == b"{\"").unwrap();
    let (mut other, mut payload) = (plain[..head].to_vec(), Vec::new());
    let submission = Submission { data: b"\"others\"".to_vec(), id: None, signed: None };
    let time = Timestamp::from_micros(1_800_000_000_000_001).unwrap();
    Transaction::new(submission, None, time, [7; 16]).write_apart(Index::new(1), &mut other, &mut payload);
    assert_eq!((other.len(), payload.len()), (plain.len(), records[0].payloads.len()));
    *records = Arc::new(vec![LogRecord { plain: other, payloads: payload, lengths: lengths.clone() }]);
    with_store(&nodes.data(DIFFERS), |store| append(store, group, &entries));
    [0, 1, DIFFERS].into_iter().for_each(|number| nodes.restart(number));
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let (nodes, pause) = (&nodes, Duration::from_millis(500));
        // What is not written is not compared.
        scope.spawn(move || {
            while is_done.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                post(nodes.node(0), "/chains/kept/inject", &json!({"data": "on"}));
            }
        });
        unready(nodes, "differs from the replica of the node that leads");
        drop(done);
    });
    // What is asked there is answered by others.
    for query in ["", "?consistency=local"] {
        for number in [0, 1, DIFFERS] {
            assert_eq!(nodes.node(number).json(&format!("/chains/kept/transactions/1{query}"))["data"], "theirs");
        }
    }
    let size = nodes.node(0).size("/chains/kept");
    assert_eq!(nodes.node(DIFFERS).inject("/chains/kept", json!("by another")), size);
    nodes.node(DIFFERS).leap("/chains/kept");
    nodes.node(DIFFERS).audit("/chains/kept");
}
