//! Clocks that are set back, run ahead, or show what no calendar has.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, UNIX_EPOCH},
};

use qbc::{
    clock::Clock,
    core::{
        count::Index,
        hash::Hash,
        note::Note,
        transaction::{Submission, Timestamp},
        witness,
    },
    node::{Config, Node},
};
use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::support::{TestNode, problem};

/// Adds the seconds that stand in the file `CLOCK_OFFSET` to the time of day.
const SHIFT: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <time.h>
    int clock_gettime(clockid_t id, struct timespec *time) {
        static int (*real)(clockid_t, struct timespec *);
        if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
        int result = real(id, time);
        long long seconds;
        FILE *file = id == CLOCK_REALTIME ? fopen(getenv("CLOCK_OFFSET"), "r") : NULL;
        if (file) {
            if (fscanf(file, "%lld", &seconds) == 1) time->tv_sec += seconds;
            fclose(file);
        }
        return result;
    }
"#;

/// The library that shifts the clock of a process. What links Rust programs can make it.
pub fn shift() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("shift.c"), folder.path().join("shift.so"));
        fs::write(&source, SHIFT).unwrap();
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
        assert!(made.expect("there is a C compiler").success());
        (folder, library)
    });
    library
}

/// A node whose clock can be set.
struct Shifted {
    node: TestNode,
    folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Shifted {
    fn start(options: &[&str]) -> Shifted {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("offset"), "0").unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Shifted { node: Shifted::open(folder.path(), &options), folder, options }
    }

    fn open(folder: &Path, options: &[String]) -> TestNode {
        let preload = format!("LD_PRELOAD={}", shift().display());
        let offset = format!("CLOCK_OFFSET={}", folder.join("offset").display());
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let program = ["env", &preload, &offset];
        TestNode::attempt(&program, &folder.join("data"), &options, Stdio::from(log)).expect("it starts")
    }

    /// Sets the clock so many seconds ahead of the right time.
    fn set(&self, seconds: i64) {
        let (file, new) = (self.folder.path().join("offset"), self.folder.path().join("new"));
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn restart(mut self) -> Shifted {
        assert_eq!(self.node.stop(), Some(0));
        self.node = Shifted::open(self.folder.path(), &self.options);
        self
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn warnings(&self) -> String {
        self.node.json("/readyz")["warnings"].to_string()
    }
}

fn time(value: &Value) -> Timestamp {
    value["timestamp"].as_str().unwrap().parse().unwrap()
}

/// Symptom: after the clock was set back, transactions had earlier times than those before them, and a chain whose time was once
/// far ahead said nothing of it. Cause: each time was the clock's. Cure: the writer moves a time on that would go back, and
/// `/readyz` and the log name the chain.
#[test]
fn time_never_goes_back_within_a_chain() {
    let shifted = Shifted::start(&[]);
    let node = &shifted.node;
    node.inject("", json!(1));
    assert_eq!(node.json("/readyz"), json!({"status": "ok"}));
    shifted.set(80 * 365 * 86_400);
    node.inject("", json!(2));
    node.leap("");
    assert_eq!(shifted.warnings(), "null", "as far as it can know");
    shifted.set(0);
    assert!(shifted.warnings().contains("\\\"qbc\\\""), "{}", shifted.warnings());
    node.inject("", json!(3));
    let array = json!([{"data": 4}, {"data": 5, "id": "five"}]);
    let accepted: Value = node.post("/inject").json(&array).send().unwrap().json().unwrap();
    let replayed: Value = node.post("/inject").json(&json!({"data": 5, "id": "five"})).send().unwrap().json().unwrap();
    assert_eq!((&replayed["timestamp"], &replayed["hash"]), (&accepted[1]["timestamp"], &accepted[1]["hash"]));
    let lines = "{\"data\":6}\n{\"data\":7}\n";
    assert_eq!(node.post_text("/inject", "application/x-ndjson", lines).status(), 202);
    assert_eq!(node.post("/transactions/2/erase").json(&json!({"reason": "r"})).send().unwrap().status(), 201);
    assert!(shifted.log().contains("\"qbc\""), "{}", shifted.log());
    assert_eq!(shifted.log().matches("lies in the future").count(), 1, "told once: {}", shifted.log());
    node.leap("");
    assert_eq!(node.post("/fork").json(&json!({"name": "child"})).send().unwrap().status(), 201);
    node.bang(json!({"name": "other"}));
    assert!(!shifted.warnings().contains("other") && shifted.warnings().contains("child"));

    let shifted = shifted.restart();
    assert_eq!(shifted.log().matches("lies in the future").count(), 3, "at the start too: {}", shifted.log());
    shifted.node.inject("", json!(8));
    for chain in ["", "/chains/child"] {
        shifted.node.leap(chain);
        shifted.node.audit(chain);
        let all = shifted.node.json(&format!("{chain}/transactions?limit=100"));
        let times: Vec<Timestamp> = all.as_array().unwrap().iter().map(time).collect();
        assert!(times.is_sorted(), "{times:?}");
        let quants = shifted.node.json(&format!("{chain}/chain"));
        for quant in quants.as_array().unwrap() {
            let sealed = quant["transactions"].as_array().unwrap();
            assert!(sealed.iter().all(|transaction| time(transaction) <= time(quant)));
        }
    }
    // A chain whose clock was never ahead has the right time.
    shifted.node.inject("/chains/other", json!(1));
    assert!(time(&shifted.node.json("/chains/other/transactions/1")) < time(&shifted.node.json("/transactions/2")));
}

/// Asks a witness to cosign a chain of a log, of which it has cosigned so much.
fn ask(witness: &TestNode, log: &TestNode, chain: &str, old: u64) -> Response {
    let note = log.get(&format!("{chain}/checkpoint")).send().unwrap().text().unwrap();
    let size = note.lines().nth(1).unwrap();
    let proof: Vec<Hash> = match old {
        0 => Vec::new(),
        _ => {
            let proof = log.json(&format!("{chain}/consistency?from={old}&to={size}"));
            serde_json::from_value(proof["path"].clone()).unwrap()
        }
    };
    let submission = witness::Submission::new(old, proof, Note::parse(note.as_bytes()).unwrap()).unwrap();
    witness.post("/add-checkpoint").body(submission.to_string()).send().unwrap()
}

/// The time that a witness has put on the newest checkpoint of a chain.
fn cosigned_at(witness: &TestNode, log: &TestNode, chain: &str, old: u64) -> u64 {
    let answer = ask(witness, log, chain, old);
    assert_eq!(answer.status(), 200);
    let note = log.get(&format!("{chain}/checkpoint")).send().unwrap().text().unwrap() + &answer.text().unwrap();
    let key = witness.json("/witness")["key"].as_str().unwrap().parse().unwrap();
    Note::parse(note.as_bytes()).unwrap().verify(&[key]).unwrap()[0].time.unwrap()
}

/// Symptom: a witness whose clock was set back signed larger trees with earlier times, even with 0. Cause: the time was the
/// clock's. Cure: none is below the newest one that was signed, which is on disk, and a clock that cannot be right signs nothing.
#[test]
fn cosignature_times_never_go_back() {
    let log = TestNode::start(&[]);
    log.bang(json!({"name": "b"}));
    let output = Command::new(env!("CARGO_BIN_EXE_qbc")).arg("key").arg("--data").arg(&log.data).output().unwrap();
    let key = String::from_utf8(output.stdout).unwrap();
    let witness = Shifted::start(&["--cosign", key.lines().next().unwrap()]);
    let first = cosigned_at(&witness.node, &log, "", 0);
    witness.set(-3_600);
    log.inject("", json!(1));
    log.leap("");
    assert_eq!(cosigned_at(&witness.node, &log, "", 1), first);
    // Neither for another log, nor after a restart.
    let witness = witness.restart();
    assert_eq!(cosigned_at(&witness.node, &log, "/chains/b", 0), first);
    assert!(witness.warnings().contains("cosigned"), "{}", witness.warnings());

    log.inject("", json!(2));
    log.leap("");
    witness.set(-1_200_000_000);
    let refused = problem(ask(&witness.node, &log, "", 2), 503);
    assert!(refused["detail"].as_str().unwrap().contains("the clock shows"), "{refused}");
    assert!(witness.warnings().contains("the clock shows"), "{}", witness.warnings());
    witness.set(5);
    assert!(cosigned_at(&witness.node, &log, "", 2) >= first);
}

/// Symptom: the node broke off each request when the clock showed a year after 9999. Cause: such a time cannot be written, and a
/// panic said so. Cure: the last time that can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_beyond_all_calendars_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        data: folder.path().join("data"),
        pool_limit: 10,
        mining_threads: NonZero::<usize>::MIN,
        leap: None,
        joins: false,
        cosign: Default::default(),
        accept_rollback: Vec::new(),
        clock: Clock::new(|| UNIX_EPOCH + Duration::from_secs(300_000_000_000)),
        progress: Default::default(),
    };
    let (node, _background) = Node::start(config).await.unwrap();
    let chain = node.chain("qbc").unwrap();
    let submission = Submission { data: b"1".to_vec(), id: None, signed: None };
    let transactions = node.record(&chain, vec![submission.clone()]);
    let accepted = node.inject(&chain, transactions, None, Default::default()).await.unwrap();
    let (quant, _) = node.leap(&chain, None).await.unwrap();
    assert_eq!((accepted[0].timestamp, quant.header().timestamp), (Timestamp::LAST, Timestamp::LAST));
    node.erase(
        &chain,
        Index::new(1),
        None,
        Submission { data: b"{\"index\":1,\"reason\":\"r\"}".to_vec(), ..submission },
    )
    .await
    .unwrap();
    assert_eq!(node.warnings(), ["the clock shows a year after 9999"]);
}

/// The same over HTTP. Symptom: connections were reset. Cause: hyper's header `Date` panicked. Cure: one that does not.
#[test]
fn a_clock_beyond_all_calendars_breaks_no_connection() {
    let shifted = Shifted::start(&[]);
    shifted.set(253_402_300_800);
    let node = &shifted.node;
    node.inject("", json!(1));
    node.leap("");
    assert!(shifted.warnings().contains("after 9999"));
    let date = node.get("/livez").send().unwrap().headers()["date"].clone();
    assert_eq!(date, "Fri, 31 Dec 9999 23:59:59 GMT");
    shifted.set(0);
    node.inject("", json!(2));
    assert!(shifted.warnings().contains("lies in the future"));
    node.leap("");
    node.audit("");
}
