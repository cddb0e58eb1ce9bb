//! Cosigning: nodes that are witnesses of each other's chains (C2SP tlog-witness), and logs that lie.

use std::{
    convert::Infallible,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use ed25519_dalek::SigningKey;
use qbc::core::{
    hash::{self, Hash},
    json,
    merkle::{self, Edge},
    note::{Algorithm, Checkpoint, KeyName, Note, VerifierKey, hash_to_base64},
    verify,
    witness::{Evidence, Submission},
};
use serde_json::{Value, json};

use crate::support::{TestNode, eventually, header, problem, verifies};

/// The key of the node in these tests whose secret is this byte, 32 times.
pub fn node_key(secret: u8) -> VerifierKey {
    let key = SigningKey::from_bytes(&[secret; 32]).verifying_key();
    VerifierKey::new(KeyName::of_node(&key), Algorithm::Ed25519, key)
}

/// Lets a node sign with the key of [`node_key`] that is to start in this folder.
fn import(data: &Path, secret: u8) {
    let file = data.with_extension("secret");
    fs::write(&file, hex::encode([secret; 32])).unwrap();
    let mode = Command::new("chmod").arg("600").arg(&file).status().unwrap();
    assert!(mode.success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    assert!(command.args(["key", "--import"]).arg(&file).arg("--data").arg(data).output().unwrap().status.success());
}

/// A node with this key on a new folder.
pub fn log_with_key(secret: u8, options: &[&str]) -> TestNode {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    import(&data, secret);
    TestNode::open(&data, options).with(Some(folder))
}

/// The key of a running witness.
fn witness_key(witness: &TestNode) -> VerifierKey {
    witness.json("/witness")["key"].as_str().expect("it is a witness").parse().unwrap()
}

/// How an operator names a witness.
pub fn named(witness: &TestNode) -> String {
    format!("{}@{}", witness_key(witness), witness.url)
}

/// The checkpoint that a path gives.
fn note(node: &TestNode, path: &str) -> Option<Note> {
    let response = node.get(path).send().unwrap();
    match response.status().as_u16() {
        200 => Some(Note::parse(&response.bytes().unwrap()).unwrap()),
        _ => {
            problem(response, 404);
            None
        }
    }
}

/// Waits until a chain's newest checkpoint has cosignatures of all these keys, and checks all of its signatures.
fn cosigned(node: &TestNode, chain: &str, keys: &[&VerifierKey]) -> Checkpoint {
    let newest = || note(node, &format!("{chain}/checkpoint")).expect("each chain has one");
    eventually("the newest checkpoint is cosigned", || newest().signatures().len() == 2 + keys.len());
    let newest = newest();
    let keys: Vec<VerifierKey> = keys.iter().map(|key| (*key).clone()).collect();
    let verified = newest.verify(&keys).unwrap();
    assert_eq!(verified.len(), keys.len());
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(verified.iter().filter_map(|verified| verified.time).all(|time| (now - 60..=now).contains(&time)));
    let checkpoint = Checkpoint::parse(newest.text()).unwrap();
    let by_query = note(node, &format!("{chain}/checkpoint?cosigned={}", keys.len())).unwrap();
    assert_eq!(by_query.text(), newest.text());
    checkpoint
}

/// What a witness has of a log.
fn seen(witness: &TestNode, origin: &str) -> Value {
    let all = witness.pages("/witness?limit=1");
    let mut logs = all.iter().flat_map(|page| page["logs"].as_array().unwrap());
    logs.find(|log| log["origin"] == origin).cloned().unwrap_or_default()
}

fn put(node: &TestNode, chain: &str, count: u64) {
    for number in 0..count {
        node.inject(chain, json!({ "number": number }));
    }
    node.leap(chain);
}

#[test]
fn a_leap_is_cosigned_and_a_restart_of_either_side_loses_nothing() {
    let mut witnesses = [0, 1].map(|_| TestNode::start(&["--cosign", &node_key(1).to_string()]));
    let keys = [0, 1].map(|at| witness_key(&witnesses[at]));
    assert_ne!(keys[0], keys[1]);
    let names = [0, 1].map(|at| named(&witnesses[at]));
    for (option, place) in [("--node", witnesses[0].url.as_ref()), ("--data", witnesses[0].data.as_os_str())] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
        let printed = command.args(["key", "--witness", option]).arg(place).output().unwrap().stdout;
        assert_eq!(String::from_utf8(printed).unwrap(), format!("{}\n", keys[0]));
    }
    let options = ["--witness", &names[0], "--witness", &names[1]];
    let log = log_with_key(1, &options);
    log.bang(json!({ "name": "second" }));
    let all: Vec<&VerifierKey> = keys.iter().collect();
    let node = node_key(1);
    let tag = |path: &str| header(&log.get(path).send().unwrap(), "etag");
    for (chain, count) in [("", 1), ("", 7), ("/chains/second", 600), ("", 0), ("/chains/second", 1)] {
        put(&log, chain, count);
        let alone = log.json(&format!("{chain}/quants/latest"));
        let checkpoint = cosigned(&log, chain, &all);
        assert_eq!(checkpoint.size(), alone["size"]);
        assert_eq!(checkpoint.quant().unwrap().0.get(), alone["index"], "an empty quant has a checkpoint of its own");
        let both = note(&log, &format!("{chain}/checkpoint")).unwrap();
        assert_eq!(both.verify(std::slice::from_ref(&node)).unwrap().len(), 1);
        // The receipts of that quant carry the same note, so whoever has a witness's key alone can check them too.
        let receipt = log.json(&format!("{chain}/transactions/{}/receipt", checkpoint.size() - 1));
        if receipt["quant"]["index"] == checkpoint.quant().unwrap().0.get() {
            assert_eq!(receipt["checkpoint"], both.to_string());
            let receipt = verify::receipt(json::parse(receipt.to_string().as_bytes()).unwrap()).unwrap();
            receipt.check_signature(&keys[1..]).unwrap();
        }
        let path = format!("{chain}/checkpoint");
        let same = log.get(&path).header("if-none-match", tag(&path)).send().unwrap();
        assert_eq!(same.status(), 304);
        let newest = seen(&witnesses[0], checkpoint.origin());
        assert_eq!((&newest["size"], &newest["evidence"]), (&json!(checkpoint.size()), &json!([])));
        // The witness serves it as well (tlog-witness, monitor retrieval).
        let path = format!("/witness/{}/checkpoint", hash::origin(checkpoint.origin()));
        let monitored = note(&witnesses[0], &path).unwrap();
        assert_eq!(monitored.verify(&[keys[0].clone(), node.clone()]).unwrap().len(), 2);
        assert_eq!(monitored.text(), both.text());
        assert_eq!(monitored.signatures()[..2], both.signatures()[..2], "under the chain's name and under the node's");
    }
    problem(log.get("/checkpoint?cosigned=3").send().unwrap(), 404);
    problem(log.get("/checkpoint?cosigned=x").send().unwrap(), 400);

    // A witness that starts anew knows what it has cosigned, and has its key.
    let url = witnesses[1].url.clone();
    let [first, second] = witnesses;
    let (data, folder) = second.kill();
    put(&log, "", 3);
    eventually("the other is enough for whoever asks for one", || {
        let one = note(&log, "/checkpoint?cosigned=1").unwrap();
        one.text() == note(&log, "/checkpoint").unwrap().text()
    });
    let two = note(&log, "/checkpoint?cosigned=2").unwrap();
    assert_eq!(Checkpoint::parse(two.text()).unwrap().size() + 3, log.size(""), "the newest that both have cosigned");
    let port = url.rsplit(':').next().unwrap();
    let cosign = node_key(1).to_string();
    witnesses = [first, TestNode::open(&data, &["--cosign", &cosign, "--port", port]).with(folder)];
    assert_eq!(witness_key(&witnesses[1]), keys[1]);
    cosigned(&log, "", &all);

    // A log that starts anew asks again.
    let (data, folder) = log.kill();
    let log = TestNode::open(&data, &options).with(folder);
    cosigned(&log, "", &all);
    cosigned(&log, "/chains/second", &all);
    put(&log, "", 2);
    cosigned(&log, "", &all);

    for mut node in witnesses.into_iter().chain([log]) {
        assert_eq!(node.stop(), Some(0));
        verifies(&node.data);
    }
}

#[test]
fn a_node_writes_and_leaps_without_its_witness() {
    let witness = TestNode::start(&["--cosign", &node_key(2).to_string()]);
    let (name, key) = (named(&witness), witness_key(&witness));
    let port = witness.url.rsplit(':').next().unwrap().to_owned();
    let (data, folder) = witness.kill();
    // One is away, one takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_name = format!("{}@http://{}", other_witness(9), silent.local_addr().unwrap());
    let mut log = log_with_key(2, &["--witness", &name, "--witness", &silent_name, "--log", "error"]);
    for count in [1, 5, 0, 40] {
        put(&log, "", count);
        assert_eq!(note(&log, "/checkpoint").unwrap().signatures().len(), 2);
    }
    problem(log.get("/checkpoint?cosigned=1").send().unwrap(), 404);
    assert_eq!(log.json("/readyz")["status"], "ok");

    let witness = TestNode::open(&data, &["--cosign", &node_key(2).to_string(), "--port", &port]).with(folder);
    let checkpoint = cosigned(&log, "", &[&key]);
    assert_eq!(seen(&witness, checkpoint.origin())["size"], log.size(""), "only the newest was shown");
    assert_eq!(log.stop(), Some(0));
}

/// The key of a witness that is no node.
fn other_witness(secret: u8) -> VerifierKey {
    let key = SigningKey::from_bytes(&[secret; 32]).verifying_key();
    VerifierKey::new(KeyName::of_witness(&key), Algorithm::Cosignature, key)
}

/// The host of a server whose answers a function makes of the requests' bodies, and how often it was asked.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> (String, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (host, asked) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(0)));
    let count = asked.clone();
    thread::spawn(move || -> Result<Infallible, std::io::Error> {
        loop {
            let (mut stream, _) = listener.accept()?;
            let mut request = Vec::new();
            let body = loop {
                let mut chunk = [0; 4096];
                let read = stream.read(&mut chunk)?;
                request.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() >= length.parse().unwrap() || read == 0 {
                    break body.to_owned();
                }
            };
            *count.lock().unwrap() += 1;
            // The node may hang up on what is too long.
            let _ = stream.write_all(answer(&body).as_bytes());
        }
    });
    (host, asked)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// The line of a cosignature by the key of [`other_witness`] on the checkpoint of a request.
fn cosignature(request: &str, secret: u8, time: u64) -> String {
    let (_, sent) = request.split_once("\n\n").unwrap();
    let mut note = Note::new(Note::parse(sent.as_bytes()).unwrap().text()).unwrap();
    let key = SigningKey::from_bytes(&[secret; 32]);
    note.cosign(KeyName::of_witness(&key.verifying_key()), &key, time);
    note.signatures()[0].to_string()
}

/// Symptom: a witness that says when it may be called again was called every few moments all the same. Cure: `Retry-After`.
#[test]
fn a_witness_that_asks_for_time_is_left_alone_for_so_long() {
    let (secret, answers) = (11, Arc::new(Mutex::new(Vec::<&str>::new())));
    // Far in the past of any clock: what counts is the time between the two dates.
    let date =
        "429 Too Many Requests\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sunday, 06-Nov-94 08:49:39 GMT";
    for (first, seconds) in
        [("503 Service Unavailable\r\nRetry-After: 3", 3), (date, 2), ("503 Busy\r\nRetry-After: soon", 0)]
    {
        *answers.lock().unwrap() = vec![first];
        let (pending, times) = (answers.clone(), Arc::new(Mutex::new(Vec::new())));
        let told = times.clone();
        let (host, _) = serve(move |request| {
            told.lock().unwrap().push(Instant::now());
            match pending.lock().unwrap().pop() {
                Some(refusal) => format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
                None => ok(&cosignature(request, secret, UNIX_EPOCH.elapsed().unwrap().as_secs())),
            }
        });
        let key = other_witness(secret);
        let node = TestNode::start(&["--witness", &format!("{key}@http://{host}")]);
        // New quants are no reason to call earlier.
        eventually("it was called", || !times.lock().unwrap().is_empty());
        node.leap("");
        cosigned(&node, "", &[&key]);
        let times = times.lock().unwrap();
        let waited = times[1] - times[0];
        assert!(waited >= Duration::from_secs(seconds), "{first}: called again after {waited:?}");
    }
}

/// Makes an answer of the body of a request.
type LyingAnswer = Box<dyn Fn(&str) -> String + Send>;

#[test]
fn what_a_lying_witness_answers_goes_nowhere() {
    let wrong_text = |request: &str| {
        let other = request.replace("quant ", "quant 1");
        ok(&format!("{}\n", cosignature(&other, 9, 1)))
    };
    let answers: [LyingAnswer; 9] = [
        Box::new(|_| ok("")),
        Box::new(|_| ok("\u{2014} a AAAA\n")),
        Box::new(wrong_text),
        Box::new(|request| ok(&format!("{}\n", cosignature(request, 8, 1)))),
        Box::new(|request| ok(&format!("{}\n", cosignature(request, 9, 0)))),
        Box::new(|_| ok(&"x".repeat(1 << 20))),
        Box::new(|_| {
            "HTTP/1.1 307 Moved\r\nLocation: /add-checkpoint\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into()
        }),
        Box::new(|_| "HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\nConnection: close\r\n\r\n0\n".into()),
        Box::new(|_| "HTTP/1.1 409 Conflict\r\nContent-Length: 10\r\nConnection: close\r\n\r\n999999999\n".into()),
    ];
    let mut options = Vec::new();
    let mut counts = Vec::new();
    for answer in answers {
        let (host, asked) = serve(answer);
        options.extend(["--witness".to_owned(), format!("{}@http://{host}", other_witness(9))]);
        counts.push(asked);
    }
    // An honest one among them, whose answer has lines of others as well.
    let honest = |request: &str| {
        let lines = [cosignature(request, 7, 1), cosignature(request, 9, 1), cosignature(request, 8, 1)];
        ok(&format!("{}\n", lines.join("\n")))
    };
    let (host, _) = serve(honest);
    options.extend([
        "--witness".to_owned(),
        format!("{}@http://{host}/", other_witness(8)),
        "--log".into(),
        "error".into(),
    ]);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let log = TestNode::start(&options);
    put(&log, "", 5);
    eventually("each was asked", || counts.iter().all(|count| *count.lock().unwrap() > 0));
    eventually("the honest one is heard", || note(&log, "/checkpoint").unwrap().signatures().len() == 3);
    let newest = note(&log, "/checkpoint").unwrap();
    assert_eq!(newest.verify(&[other_witness(8)]).unwrap().len(), 1);
    problem(log.get("/checkpoint?cosigned=2").send().unwrap(), 404);
    put(&log, "", 5);
    log.audit("");
    assert_eq!(log.json("/readyz")["status"], "ok", "a lie is no proof that the folder is old");
}

/// A log of ours, so that a test can sign what it likes: its leaves are the numbers from 0 on, but from `turn` on others.
struct Log {
    key: SigningKey,
    name: &'static str,
}

impl Log {
    fn key(&self) -> VerifierKey {
        VerifierKey::new(self.name.parse().unwrap(), Algorithm::Ed25519, self.key.verifying_key())
    }

    fn leaves(size: u64, turn: u64) -> Vec<Hash> {
        (0..size).map(|index| hash::leaf(format!("{index} {}", index >= turn).as_bytes())).collect()
    }

    fn root(size: u64, turn: u64) -> Hash {
        let mut edge = Edge::new();
        Log::leaves(size, turn).into_iter().for_each(|leaf| edge.push(leaf, |_| {}));
        edge.root()
    }

    fn proof(from: u64, to: u64, turn: u64) -> Vec<Hash> {
        let (mut edge, mut tiles) = (Edge::new(), Vec::new());
        Log::leaves(to, turn).into_iter().for_each(|leaf| edge.push(leaf, |tile| tiles.push(tile)));
        let stored = |level, number| {
            let tile = tiles.iter().find(|tile| (tile.level, tile.number) == (level, number)).unwrap();
            Ok::<_, Infallible>(tile.hashes.to_vec())
        };
        merkle::prove_consistency(from, to, edge.source(stored)).unwrap()
    }

    fn text(&self, size: u64, turn: u64) -> String {
        format!("{}\n{size}\n{}\n", self.name, hash_to_base64(&Log::root(size, turn)))
    }

    fn note(&self, text: &str) -> Note {
        let mut note = Note::new(text).unwrap();
        note.sign(self.name.parse().unwrap(), &self.key);
        note
    }

    /// The call that shows `size` as the continuation of `old`.
    fn call(&self, old: u64, size: u64, turn: u64) -> String {
        let note = self.note(&self.text(size, turn));
        Submission::new(old, Log::proof(old, size, turn), note).unwrap().to_string()
    }
}

fn add(witness: &TestNode, body: impl Into<Vec<u8>>) -> reqwest::blocking::Response {
    witness.post("/add-checkpoint").body(body.into()).send().unwrap()
}

/// Asserts that the witness has cosigned another size, and says which.
fn assert_moved(response: reqwest::blocking::Response, size: u64) {
    assert_eq!((response.status().as_u16(), header(&response, "content-type").as_str()), (409, "text/x.tlog.size"));
    assert_eq!(response.text().unwrap(), format!("{size}\n"));
}

const NEVER: u64 = u64::MAX;

#[test]
fn a_call_is_answered_as_tlog_witness_says() {
    let log = Log { key: SigningKey::from_bytes(&[3; 32]), name: "example.com/log" };
    let stranger = Log { key: SigningKey::from_bytes(&[4; 32]), name: "example.com/log" };
    let node = TestNode::start(&["--cosign", &log.key().to_string(), "--cosign", &node_key(1).to_string()]);
    let mut size = 0;
    // From nothing, to the same, and on, from perfect and other trees.
    for next in [0, 0, 1, 1, 2, 8, 8, 300, 513, 777] {
        let cosigned = add(&node, log.call(size, next, NEVER));
        assert_eq!(
            (cosigned.status().as_u16(), header(&cosigned, "content-type").as_str()),
            (200, "text/plain; charset=utf-8")
        );
        let signed = format!("{}\n{}", log.text(next, NEVER), cosigned.text().unwrap());
        let note = Note::parse(signed.as_bytes()).unwrap();
        assert_eq!((note.signatures().len(), note.verify(&[witness_key(&node)]).unwrap().len()), (1, 1));
        size = next;
    }
    let before = node.json("/witness");
    let good = log.call(777, 800, NEVER);
    let (head, rest) = good.split_once("\n\n").unwrap();
    let line = head.lines().nth(1).unwrap();
    let signature = rest.lines().last().unwrap();
    for malformed in [
        String::new(),
        "\n".into(),
        "\n\n".into(),
        "old 777".into(),
        rest.into(),
        good.replace("old 777\n", ""),
        good.replace("old 777\n", "\n"),
        good.replace("old 777", "old 0777"),
        good.replace("old 777", "old -1"),
        good.replace("old 777", "old +777"),
        good.replace("old 777", "old  777"),
        good.replace("old 777", "old 777 "),
        good.replace("old 777", "Old 777"),
        good.replace("old 777", "old 18446744073709551616"),
        good.replace("old 777", "old 801"),
        good.replace("old 777", "old 18446744073709551615"),
        good.replace(line, &line[1..]),
        good.replace(line, &hex::encode([1; 32])),
        good.replace(line, &format!(" {line}")),
        good.replace(line, ""),
        good.replacen('\n', "\r\n", 1),
        format!("{head}\n{}\n{rest}", format!("{line}\n").repeat(64)),
        good.replace("\n800\n", "\n0800\n"),
        good.replace("\n800\n", "\n\n800\n"),
        good.replace(signature, ""),
        good.replace(signature, "\u{2014} example.com/log AAAA"),
        good.trim_end().into(),
        format!("{good}\n"),
        format!("{good}more\n"),
        format!("{head}\n\nexample.com/log\n800\n"),
    ] {
        problem(add(&node, malformed), 400);
    }
    for bytes in [&b"\xff\xfe"[..], &b"old 0\n\n\xff"[..], &[0; 100][..], &b"\n".repeat(100_000)] {
        problem(add(&node, bytes), 400);
    }
    problem(add(&node, "old 0\n".repeat(30_000)), 413);

    // Logs that nobody trusts, and signatures of others.
    let unknown = Log { name: "example.com/other", key: log.key.clone() };
    problem(add(&node, unknown.call(0, 5, NEVER)), 404);
    problem(add(&node, stranger.call(777, 800, NEVER)), 403);
    let chain: &'static str = format!("qbc/{}", "0".repeat(64)).leak();
    problem(add(&node, Log { name: chain, key: log.key.clone() }.call(0, 5, NEVER)), 403);
    problem(add(&node, Log { name: "qbc/a", key: log.key.clone() }.call(0, 5, NEVER)), 404);
    let broken = good.replace(signature, &log.note("example.com/log\n1\n\n").signatures()[0].to_string());
    problem(add(&node, broken), 403);
    let unsigned = good.replace(signature, "\u{2014} somebody AAAAAAAA");
    problem(add(&node, unsigned), 403);

    // An old size that is not the newest gets the newest.
    for (old, next) in [(0, 800), (776, 800), (778, 800), (0, 5), (5, 5), (513, 777)] {
        assert_moved(add(&node, log.call(old, next, NEVER)), 777);
    }
    // Proofs that are none, of a checkpoint that the log has signed.
    for proof in [vec![], vec![Hash::ZERO], Log::proof(776, 800, NEVER), vec![Hash::ZERO; 63]] {
        let note = log.note(&log.text(800, NEVER));
        problem(add(&node, Submission::new(777, proof, note).unwrap().to_string()), 422);
    }
    let note = log.note(&log.text(777, NEVER));
    problem(add(&node, Submission::new(777, vec![Hash::ZERO], note).unwrap().to_string()), 422);
    let after = node.json("/witness");
    assert_eq!(after["logs"][0]["checkpoint"], before["logs"][0]["checkpoint"], "nothing of that was taken up");
    let evidence = after["logs"][0]["evidence"].as_array().unwrap();
    assert_eq!((evidence.len(), &evidence[0]["proven"]), (1, &json!(false)), "bad proofs convict nobody");
    assert_eq!(add(&node, good).status(), 200);

    // Of a log that was never seen, the empty tree has one root, and needs no proof.
    let fresh = TestNode::start(&["--cosign", &log.key().to_string()]);
    let empty = log.text(0, NEVER);
    let other = empty.replace(&hash_to_base64(&hash::empty_root()), &hash_to_base64(&Hash::ZERO));
    problem(add(&fresh, Submission::new(0, vec![], log.note(&other)).unwrap().to_string()), 422);
    let note = log.note(&log.text(5, NEVER));
    problem(add(&fresh, Submission::new(0, vec![Hash::ZERO], note).unwrap().to_string()), 422);
    assert_moved(add(&fresh, log.call(3, 5, NEVER)), 0);
    assert_eq!(fresh.json("/witness")["logs"], json!([]));
    let none = TestNode::start(&[]);
    problem(add(&none, log.call(0, 5, NEVER)), 404);
    assert_eq!(none.json("/witness"), json!({"key": null, "logs": []}));
    problem(none.get("/witness/x/checkpoint").send().unwrap(), 404);
}

#[test]
fn of_two_histories_at_one_time_one_is_cosigned() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let logs = names.map(|name| Log { key: SigningKey::from_bytes(&[3; 32]), name });
    let keys = logs.each_ref().map(|log| log.key().to_string());
    let options: Vec<&str> = keys.iter().flat_map(|key| ["--cosign", key]).chain(["--log", "off"]).collect();
    let node = TestNode::start(&options);
    for log in &logs {
        assert_eq!(add(&node, log.call(0, 7, NEVER)).status(), 200);
        // Both continue what was cosigned, and turn away from each other there. Each is sent four times at once.
        let calls = [log.call(7, 20, NEVER), log.call(7, 20, 7)];
        let statuses: Vec<u16> = thread::scope(|scope| {
            let send = |at: usize| add(&node, calls[at % 2].as_str()).status().as_u16();
            let sent: Vec<_> = (0..8).map(|at| scope.spawn(move || send(at))).collect();
            sent.into_iter().map(|sent| sent.join().unwrap()).collect()
        });
        let won = |parity: usize| statuses.iter().skip(parity).step_by(2).any(|status| *status == 200);
        assert!(won(0) != won(1) && statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
        let seen = seen(&node, log.name);
        let root = Log::root(20, if won(0) { NEVER } else { 7 });
        assert_eq!((&seen["size"], &seen["root"]), (&json!(20), &json!(root)));
        let evidence: Vec<Evidence> = serde_json::from_value(seen["evidence"].clone()).unwrap();
        assert_eq!(evidence.len(), 1, "the other is kept once");
        assert_eq!((evidence[0].proven, evidence[0].check(&log.key())), (true, Ok(true)));
    }
}

/// A copy of the folder of a node that does not run.
fn copied(data: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("data");
    assert!(Command::new("cp").arg("-r").arg(data).arg(&copy).status().unwrap().success());
    (folder, copy)
}

/// Asserts that a node on an older folder says so of its default chain alone, and leaves that chain as it is.
fn is_rolled_back(node: &TestNode) {
    let before = node.json("/stats");
    let detail = problem(node.get("/readyz").send().unwrap(), 503)["detail"].to_string();
    assert!(detail.contains("\\\"qbc\\\" takes no writes") && !detail.contains("second"), "{detail}");
    let told = before["rollback"].as_str().expect("/stats says so");
    assert!(detail.contains("--accept-rollback qbc") && told.contains("older copy"), "{told}");
    for (path, body) in [
        ("/inject", json!({ "data": 1 })),
        ("/inject", json!([{ "data": 1 }, { "data": 2 }])),
        ("/leap", json!({})),
        ("/transactions/1/erase", json!({ "reason": "none" })),
    ] {
        let refused = problem(node.post(path).json(&body).send().unwrap(), 503);
        assert!(
            refused["detail"]
                .as_str()
                .unwrap()
                .starts_with("the chain takes no writes: a key of this node has signed quant")
        );
    }
    problem(node.get("/leap").send().unwrap(), 503);
    assert_eq!(node.post_text("/inject", "application/x-ndjson", "{\"data\":1}\n").status(), 503);
    node.audit("");
    assert_eq!(node.json("/stats"), before);
    assert_eq!(node.json("/chains/second/stats")["rollback"], Value::Null);
    node.inject("/chains/second", json!("the others go on"));
}

/// Symptom: a node on a restored older folder went on as if nothing were lost, and signed a second history. Cure: what its own key
/// has signed, and witnesses or clients have kept, stops the writes of the chain until the operator says that it is meant.
#[test]
fn a_restored_older_folder_takes_no_writes_until_its_operator_accepts_that() {
    let witness = TestNode::start(&["--cosign", &node_key(5).to_string()]);
    let (name, key) = (named(&witness), witness_key(&witness));
    let witnessed = ["--witness", &name, "--log", "off"];
    let mut log = log_with_key(5, &witnessed);
    log.bang(json!({ "name": "second", "difficulty": 0 }));
    put(&log, "", 4);
    // Something that an automatic leap would seal.
    log.inject("", json!("pooled"));
    assert_eq!(log.stop(), Some(0));
    let (_kept, old) = copied(&log.data);
    let log = TestNode::open(&log.data.clone(), &witnessed).with(log.kill().1);
    put(&log, "", 2);
    cosigned(&log, "", &[&key]);
    let lost = note(&log, "/checkpoint").unwrap();
    drop(log);

    // Its witness tells before the first write. What was told once is kept, also without the witness.
    let (_copy, data) = copied(&old);
    for (fork, options) in [("a", &witnessed[..]), ("b", &["--leap-every", "20ms", "--log", "off"])] {
        let node = TestNode::open(&data, options);
        is_rolled_back(&node);
        let (chain, fork) = (format!("/chains/{fork}"), json!({ "name": fork }));
        assert_eq!(node.post("/fork").json(&fork).send().unwrap().status(), 201, "a fork is the cure");
        node.inject(&chain, json!(1));
        node.kill();
    }

    // Without a witness, whoever has kept a checkpoint shows it; nothing else proves anything.
    let (_copy, data) = copied(&old);
    let node = TestNode::open(&data, &["--log", "off"]);
    let show = |note: &Note| add(&node, Submission::new(0, vec![], note.clone()).unwrap().to_string());
    problem(show(&note(&node, "/checkpoint").unwrap()), 404);
    let by = |secret: u8| {
        let (mut forged, key) = (Note::new(lost.text()).unwrap(), SigningKey::from_bytes(&[secret; 32]));
        forged.sign(KeyName::of_node(&key.verifying_key()), &key);
        forged
    };
    problem(show(&by(6)), 404);
    let of_second = note(&node, "/chains/second/checkpoint").unwrap();
    problem(show(&of_second), 404);
    assert_eq!(node.json("/readyz")["status"], "ok");
    let refused = problem(show(&by(5)), 503);
    assert!(refused["detail"].as_str().unwrap().contains("older copy"));
    is_rolled_back(&node);
    problem(show(&note(&node, "/checkpoint").unwrap()), 404);
    node.kill();

    // A start with the word of the operator is enough for all that follow.
    let accepting = ["--accept-rollback", "second,qbc", "--witness", &name, "--log", "off"];
    for options in [&accepting[..], &witnessed] {
        let node = TestNode::open(&data, options);
        assert_eq!(node.json("/readyz")["status"], "ok");
        assert_eq!(node.json("/stats")["rollback"], Value::Null);
        put(&node, "", 3);
        node.audit("");
        problem(add(&node, Submission::new(0, vec![], lost.clone()).unwrap().to_string()), 404);
        node.kill();
    }

    // One that went on before anybody told has another history.
    let (_copy, data) = copied(&old);
    let node = TestNode::open(&data, &[]);
    put(&node, "", 7);
    put(&node, "", 7);
    node.kill();
    let node = TestNode::open(&data, &witnessed);
    is_rolled_back(&node);
    node.kill();
    let node = TestNode::open(&data, &["--accept-rollback", "*", "--log", "off"]);
    put(&node, "", 1);
    verifies(&node.kill().0);
}

#[test]
fn a_split_view_is_refused_and_its_evidence_is_kept() {
    let witness = TestNode::start(&["--cosign", &node_key(5).to_string(), "--log", "off"]);
    let (name, key) = (named(&witness), witness_key(&witness));
    // One chain of 5 transactions, and then the folder twice: the same key goes on in two ways.
    let mut log = log_with_key(5, &[]);
    put(&log, "", 4);
    assert_eq!(log.stop(), Some(0));
    let (copy, data) = copied(&log.data);
    let options = ["--witness", &name, "--log", "off"];
    let (data_of_log, folder) = log.kill();
    let honest = TestNode::open(&data_of_log, &options).with(folder);
    put(&honest, "", 2);
    let checkpoint = cosigned(&honest, "", &[&key]);
    assert_eq!(checkpoint.size(), 7);

    let liar = TestNode::open(&data, &["--witness", &name, "--log", "off", "--accept-rollback", "*"]).with(Some(copy));
    put(&liar, "", 2);
    liar.audit("");
    let shown = note(&liar, "/checkpoint").unwrap();
    assert_eq!(shown.verify(&[node_key(5)]).unwrap().len(), 1, "whoever sees only this one believes it");
    assert_eq!(Checkpoint::parse(shown.text()).unwrap().origin(), checkpoint.origin());
    let evidence = |witness: &TestNode, count: usize| -> Vec<Evidence> {
        let of = || seen(witness, checkpoint.origin())["evidence"].clone();
        eventually("the evidence is kept", || of().as_array().is_some_and(|kept| kept.len() == count));
        serde_json::from_value(of()).unwrap()
    };
    let first = evidence(&witness, 1);
    // And a longer one: the proof that its node gives convicts it.
    put(&liar, "", 6);
    let both = evidence(&witness, 2);
    assert_eq!((&both[..1], both[1].proof.is_empty()), (&first[..], false));
    for evidence in &both {
        assert_eq!((evidence.proven, evidence.check(&node_key(5))), (true, Ok(true)));
        let of_chain = VerifierKey::new(checkpoint.origin().parse().unwrap(), Algorithm::Ed25519, *node_key(5).key());
        assert_eq!(evidence.check(&of_chain), Ok(true), "the key under the chain's own name convicts it as well");
        assert!(evidence.check(&node_key(6)).is_err(), "only the log's key convicts the log");
        let (one, other) =
            (Note::parse(evidence.first.as_bytes()).unwrap(), Note::parse(evidence.second.as_bytes()).unwrap());
        assert!(one.verify(std::slice::from_ref(&key)).is_ok() && other.verify(std::slice::from_ref(&key)).is_err());
        let swapped = Evidence { second: evidence.first.clone(), ..evidence.clone() };
        assert_eq!(swapped.check(&node_key(5)), Ok(false));
    }
    assert_eq!(note(&liar, "/checkpoint").unwrap().signatures().len(), 2);
    problem(liar.get("/checkpoint?cosigned=1").send().unwrap(), 404);

    // After a restart, the witness has its evidence, and refuses still; the honest history goes on.
    let port = witness.url.rsplit(':').next().unwrap().to_owned();
    let (data, folder) = witness.kill();
    let cosign = node_key(5).to_string();
    let witness = TestNode::open(&data, &["--cosign", &cosign, "--port", &port, "--log", "off"]).with(folder);
    assert_eq!(evidence(&witness, 2), both);
    put(&liar, "", 1);
    evidence(&witness, 3);
    put(&honest, "", 1);
    assert_eq!(cosigned(&honest, "", &[&key]).size(), 8);
    // A witness that trusts nobody any more still shows what it has.
    let (data, folder) = witness.kill();
    let witness = TestNode::open(&data, &[]).with(folder);
    assert_eq!(evidence(&witness, 3)[..2], both);
}

#[test]
fn a_chain_stays_with_the_node_that_signed_it_first() {
    let [one, other] = [1, 2].map(|secret| node_key(secret).to_string());
    let witness = TestNode::start(&["--cosign", &one, "--cosign", &other]);
    let chain: &'static str = format!("qbc/{}", "ab".repeat(32)).leak();
    let signed = |secret: u8, old: u64, size: u64| {
        let log = Log { name: chain, key: SigningKey::from_bytes(&[secret; 32]) };
        let mut note = Note::new(log.text(size, NEVER)).unwrap();
        note.sign(node_key(secret).name().clone(), &log.key);
        Submission::new(old, Log::proof(old, size, NEVER), note).unwrap().to_string()
    };
    assert_eq!(add(&witness, signed(1, 0, 5)).status(), 200);
    problem(add(&witness, signed(2, 5, 9)), 403);
    let under_its_name = Log { name: chain, key: SigningKey::from_bytes(&[2; 32]) };
    problem(add(&witness, under_its_name.call(5, 9, NEVER)), 403);
    assert_eq!(add(&witness, signed(1, 5, 9)).status(), 200);
    problem(add(&witness, signed(3, 9, 12)), 403);

    // A key under the chain's own name settles it.
    let (data, folder) = witness.kill();
    let named = Log { name: chain, key: SigningKey::from_bytes(&[2; 32]) };
    let witness = TestNode::open(&data, &["--cosign", &one, "--cosign", &named.key().to_string()]).with(folder);
    problem(add(&witness, signed(1, 9, 12)), 403);
    assert_eq!(add(&witness, named.call(9, 12, NEVER)).status(), 200);
}

#[test]
fn options_that_cannot_be_meant_are_refused() {
    let witness = other_witness(9).to_string();
    let log = node_key(1).to_string();
    let refused = |options: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        // A node that takes them would run on.
        let mut command = Command::new("timeout");
        command
            .args(["20", env!("CARGO_BIN_EXE_qbc"), "serve", "--port", "0", "--data"])
            .arg(folder.path().join("data"))
            .args(options);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{options:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let at = |key: &str, url: &str| format!("{key}@{url}");
    assert!(refused(&["--cosign", &witness]).contains("key of a witness"));
    assert!(refused(&["--cosign", "nonsense"]).contains("hexadecimal"));
    assert!(refused(&["--cosign", &log, "--cosign", &log]).contains("twice"));
    assert!(refused(&["--witness", &at(&log, "http://localhost:1")]).contains("no key of a witness"));
    for url in [
        "localhost:1",
        "ftp://localhost",
        "http://",
        "http://localhost?a",
        "http://localhost#a",
        "",
        "x@http://localhost",
    ] {
        assert!(refused(&["--witness", &at(&witness, url)]).contains("--witness"), "{url}");
    }
    assert!(refused(&["--witness", &witness]).contains("URL"));
    let many = at(&witness, "http://localhost:1");
    let many: Vec<&str> = (0..13).flat_map(|_| ["--witness", &many]).collect();
    assert!(refused(&many).contains("at most 12"));
}

/// The witness of another author, in another language: aics-witness from the Python Package Index.
#[test]
fn an_independent_witness_cosigns() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("witness.json");
    let run = |arguments: &[&str]| {
        let mut command = Command::new("aics-witness");
        command.args(arguments).env("AICS_WITNESS_CONFIG", &config).stderr(Stdio::null());
        command
    };
    let Ok(made) = run(&["init", "--name", "witness.example/w1"]).output() else {
        eprintln!("skipped: there is no aics-witness (pip install aics-witness) on the path");
        return;
    };
    let made = String::from_utf8(made.stdout).unwrap();
    let key: VerifierKey = made.split_whitespace().find_map(|word| word.parse().ok()).expect("it prints its key");
    let log = log_with_key(6, &[]);
    put(&log, "", 3);
    let origin = Checkpoint::parse(note(&log, "/checkpoint").unwrap().text()).unwrap().origin().to_owned();
    let public = SigningKey::from_bytes(&[6; 32]).verifying_key();
    let own = VerifierKey::new(origin.parse().unwrap(), Algorithm::Ed25519, public);
    assert!(run(&["add-log", "--origin", &origin, "--vkey", &own.to_string()]).output().unwrap().status.success());
    let mut settings: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    settings["logs"][0]["extension_lines"] = json!(true);
    fs::write(&config, settings.to_string()).unwrap();

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut witness = run(&["serve", "--listen", &address]).stdout(Stdio::null()).spawn().unwrap();
    let (data, kept) = log.kill();
    let log = TestNode::open(&data, &["--witness", &format!("{key}@http://{address}")]).with(kept);
    for count in [0, 1, 300] {
        put(&log, "", count);
        assert_eq!(cosigned(&log, "", &[&key]).size(), log.size(""));
    }
    // A restart knows nothing of it: it asks from nothing, and is told where to go on.
    let (data, kept) = log.kill();
    let log = TestNode::open(&data, &["--witness", &format!("{key}@http://{address}/")]).with(kept);
    put(&log, "", 2);
    cosigned(&log, "", &[&key]);
    witness.kill().unwrap();
    witness.wait().unwrap();
}
