//! Live events: each transaction and each quant once and in order, wherever one begins, breaks off and resumes.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::OnceLock,
    thread,
};

use reqwest::{
    Method,
    blocking::{RequestBuilder, Response},
};
use serde_json::{Value, json};

use crate::support::{TestNode, header, problem};

/// What came of a chain: its transactions and its quants, as they stood in the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    transactions: Vec<String>,
    quants: Vec<String>,
}

impl Seen {
    /// What the chain's other routes say that must come from this transaction on.
    fn expected(node: &TestNode, chain: &str, from: u64) -> Seen {
        let lines = |path: String| {
            let response = node.get(&path).header("accept", "application/x-ndjson").send().expect("it answers");
            assert!(response.status().is_success());
            response.text().expect("it is text").trim_end().to_owned()
        };
        let size = node.size(chain);
        let record = |index: u64| {
            let page = lines(format!("{chain}/transactions?from={index}&limit=1"));
            page[1..page.len() - 1].to_owned()
        };
        let mut quants: Vec<String> =
            lines(format!("{chain}/chain?transactions=false")).lines().map(str::to_owned).collect();
        let size_of = |quant: &String| serde_json::from_str::<Value>(quant).unwrap()["size"].as_u64().unwrap();
        quants.retain(|quant| size_of(quant) > from);
        Seen { transactions: (from..size).map(record).collect(), quants }
    }

    fn take(&mut self, event: Event) {
        match event.kind.as_str() {
            "transaction" => self.transactions.push(event.data),
            "quant" => {
                let quant: Value = serde_json::from_str(&event.data).expect("it is JSON");
                let size = quant["size"].as_u64().unwrap();
                let is_behind = self.transactions.last().is_none_or(|last| index_of(last) + 1 >= size);
                assert!(is_behind, "a quant comes behind what it seals");
                self.quants.push(event.data);
            }
            kind => panic!("an event {kind:?}"),
        }
    }
}

fn index_of(record: &str) -> u64 {
    serde_json::from_str::<Value>(record).expect("it is JSON")["index"].as_u64().expect("it is a number")
}

struct Event {
    kind: String,
    data: String,
}

/// An open stream.
struct Events {
    lines: BufReader<Response>,
    /// The id that came last.
    id: String,
}

impl Events {
    fn open(request: RequestBuilder) -> Events {
        let response = request.send().expect("it answers");
        let status = response.status();
        assert_eq!(status, 200, "{}", response.text().unwrap_or_default());
        let mut events = Events { lines: BufReader::new(response), id: String::new() };
        assert!(events.read().is_some_and(|event| event.data.is_empty()), "first comes an id alone");
        assert!(!events.id.is_empty());
        events
    }

    fn from(node: &TestNode, chain: &str, index: u64) -> Events {
        Events::open(node.get(&format!("{chain}/events?from={index}")))
    }

    fn behind(node: &TestNode, chain: &str, id: &str) -> Events {
        Events::open(node.get(&format!("{chain}/events")).header("last-event-id", id))
    }

    /// The next event, or nothing where the stream ends in order, and an error where it breaks.
    fn try_read(&mut self) -> std::io::Result<Option<Event>> {
        let (mut event, mut line) = (Event { kind: String::new(), data: String::new() }, String::new());
        let mut id = None;
        loop {
            line.clear();
            if self.lines.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("event", value)) => event.kind = value.into(),
                Some(("data", value)) => event.data = value.into(),
                Some(("retry", _)) => {}
                None if line == "\n" => {
                    self.id = id.unwrap_or_else(|| self.id.clone());
                    return Ok(Some(event));
                }
                None if line.starts_with(':') => {}
                _ => panic!("a line {line:?}"),
            }
        }
    }

    fn read(&mut self) -> Option<Event> {
        self.try_read().expect("the connection holds")
    }

    /// All up to this id.
    fn read_to(&mut self, id: &str, seen: &mut Seen) {
        while self.id != id {
            seen.take(self.read().expect("the stream goes on"));
        }
    }
}

/// The id of the newest event.
fn newest(node: &TestNode, chain: &str) -> String {
    let stats = node.json(&format!("{chain}/stats"));
    format!("{}.{}", stats["size"], stats["length"])
}

/// A linear congruential generator (Knuth's constants), so that each run does the same.
fn picker(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |choices| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % choices
    }
}

#[test]
fn a_stream_begins_anywhere_and_goes_on_with_what_comes() {
    let node = TestNode::start(&[]);
    for step in 0..4 {
        node.post("/inject").json(&json!([{"data": step}, {"data": "two\nlines\r\u{2028}"}])).send().unwrap();
        node.leap("");
        node.leap("");
    }
    node.inject("", json!("pooled"));
    for chain in ["", "/chains/qbc"] {
        for from in 0..=node.size("") {
            let mut seen = Seen::default();
            Events::from(&node, chain, from).read_to(&newest(&node, chain), &mut seen);
            assert_eq!(seen, Seen::expected(&node, chain, from), "from {from}");
        }
    }
    // Live: by default nothing that was there before.
    let mut streams = [Events::open(node.get("/events")), Events::from(&node, "", 10), Events::from(&node, "", 3)];
    let old = newest(&node, "");
    assert_eq!(streams[0].id, old);
    node.inject("", json!("new"));
    for step in 0..3 {
        node.leap("");
        node.inject("", json!(vec![step; 50]));
    }
    for (stream, from) in streams.iter_mut().zip([10, 10, 3]) {
        let mut seen = Seen::default();
        stream.read_to(&newest(&node, ""), &mut seen);
        let expected = Seen::expected(&node, "", from);
        assert_eq!(seen.transactions, expected.transactions);
        // The pooled transaction came before, but the quant that seals it is new.
        assert_eq!(seen.quants, expected.quants);
    }
    // The index of a transaction is understood too.
    let mut seen = Seen::default();
    Events::behind(&node, "", "6").read_to(&newest(&node, ""), &mut seen);
    let expected = Seen::expected(&node, "", 6);
    assert_eq!((&seen.transactions[..], seen.quants), (&expected.transactions[1..], expected.quants));
}

#[test]
fn the_head_says_what_proxies_and_browsers_need() {
    let node = TestNode::start(&[]);
    for _ in 0..20 {
        node.inject("", json!("x".repeat(1_000)));
    }
    let request = node.get("/events?from=0").header("accept-encoding", "gzip, br, zstd");
    let response = request.send().unwrap();
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("content-encoding", ""),
    ] {
        assert_eq!(header(&response, name), value, "{name}");
    }
    drop(response);
    let response = node.request(Method::HEAD, "/events?from=0").send().unwrap();
    assert_eq!((response.status().as_u16(), response.text().unwrap().as_str()), (200, ""));
    let document = node.json("/openapi.json");
    for path in ["/events", "/chains/{chain}/events"] {
        assert!(document["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"].is_object());
    }
}

#[test]
fn a_place_that_cannot_be_is_refused() {
    let node = TestNode::start(&[]);
    node.inject("", json!(1));
    node.leap("");
    // Now there are 2 transactions and 2 quants of sizes 1 and 2.
    for (id, status) in [
        ("x", 400),
        ("1.", 400),
        (".1", 400),
        ("01.1", 400),
        ("+1.1", 400),
        ("-1", 400),
        ("1.1.1", 400),
        ("1,1", 400),
        (" ", 200),
        ("99999999999999999999.0", 400),
        ("18446744073709551615", 404),
        ("18446744073709551615.18446744073709551615", 404),
        ("3.2", 404),
        ("2.3", 404),
        ("2", 404),
        ("0.1", 400),
        ("1.2", 400),
    ] {
        let response = node.get("/events").header("last-event-id", id).send().unwrap();
        match status {
            200 => assert_eq!(response.status(), 200, "an empty id is none"),
            status => drop(problem(response, status)),
        }
    }
    for (query, status) in [
        ("from=3", 404),
        ("from=x", 400),
        ("from=-1", 400),
        ("form=0", 400),
        ("from=0&to=1", 400),
        ("from=0&from=1", 400),
    ] {
        problem(node.get(&format!("/events?{query}")).send().unwrap(), status);
    }
    problem(node.get("/chains/nowhere/events").send().unwrap(), 404);
    problem(node.post("/events").send().unwrap(), 405);
    for header in ["1.1\r\nLast-Event-ID: 2.2", "\u{e9}"] {
        let mut stream = node.connect();
        write!(
            stream,
            "GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nLast-Event-ID: {header}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // What is refused leaves nothing behind, and the id has precedence, as browsers use both.
    let request = node.get("/events?from=0").header("last-event-id", "2.1");
    let mut seen = Seen::default();
    let mut events = Events::open(request);
    seen.transactions = Seen::expected(&node, "", 0).transactions;
    events.read_to("2.2", &mut seen);
    assert_eq!(seen.quants.len(), 1);
}

/// A listener that begins at a random place, and again and again breaks off and resumes.
fn listen(node: &TestNode, number: u64, last: &OnceLock<String>) -> (u64, Seen) {
    let mut pick = picker(number);
    let from = pick(node.size("/chains/busy") + 1);
    let mut seen = Seen::default();
    let mut events = Events::from(node, "/chains/busy", from);
    loop {
        for _ in 0..pick(400) {
            seen.take(events.read().expect("the stream goes on"));
            if last.get() == Some(&events.id) {
                return (from, seen);
            }
        }
        if pick(4) == 0 {
            // Long enough that others are ahead.
            thread::sleep(std::time::Duration::from_millis(pick(60)));
        }
        events = Events::behind(node, "/chains/busy", &events.id);
    }
}

#[test]
fn resuming_anywhere_gives_each_event_once_while_others_write() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "busy", "difficulty": 0}));
    for _ in 0..20 {
        node.inject("/chains/busy", json!("before"));
        node.leap("/chains/busy");
    }
    let last = OnceLock::new();
    let seen: Vec<(u64, Seen)> = thread::scope(|scope| {
        let (node, last) = (&node, &last);
        let listeners: Vec<_> = (0..8).map(|number| scope.spawn(move || listen(node, number, last))).collect();
        let writers: Vec<_> = (0..3)
            .map(|number| {
                scope.spawn(move || {
                    let mut pick = picker(100 + number);
                    for step in 0..60 {
                        let length = [10, 500, 20_000][pick(3) as usize];
                        let one = json!({"data": [number, step, "y".repeat(length)]});
                        let body = vec![one; pick(12) as usize + 1];
                        let sent = node.post("/chains/busy/inject").json(&body).send().unwrap();
                        assert_eq!(sent.status(), 202);
                        if pick(2) == 0 {
                            node.leap("/chains/busy");
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        // The listeners know the last id before it comes.
        let stats = node.json("/chains/busy/stats");
        last.set(format!("{}.{}", stats["size"], stats["length"].as_u64().unwrap() + 1)).unwrap();
        node.leap("/chains/busy");
        listeners.into_iter().map(|listener| listener.join().unwrap()).collect()
    });
    let all = Seen::expected(&node, "/chains/busy", 0);
    assert!(all.transactions.len() > 500 && all.quants.len() > 60);
    let starts: BTreeSet<u64> = seen.iter().map(|(from, _)| *from).collect();
    assert!(starts.len() > 3, "they begin at different places: {starts:?}");
    for (from, seen) in seen {
        assert_eq!(seen.transactions, all.transactions[from as usize..], "from {from}");
        let quants: Vec<_> = all.quants.iter().filter(|quant| size_of(quant) > from).cloned().collect();
        assert_eq!(seen.quants, quants, "from {from}");
    }
}

fn size_of(quant: &str) -> u64 {
    serde_json::from_str::<Value>(quant).expect("it is JSON")["size"].as_u64().expect("it is a number")
}

#[test]
fn a_stream_resumes_after_kill_9_and_restart() {
    let mut node = TestNode::start(&[]);
    let mut seen = Seen::default();
    let mut id = "0.0".to_owned();
    for round in 0..3 {
        let mut events = Events::behind(&node, "", &id);
        let writer = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for step in 0..20 {
                    node.inject("", json!([round, step]));
                    if step % 7 == 3 {
                        node.leap("");
                    }
                }
            });
            for _ in 0..15 {
                seen.take(events.read().expect("the stream goes on"));
            }
            writer.join()
        });
        writer.unwrap();
        let (data, folder) = node.kill();
        // What the connection held still counts; in the end it breaks.
        while let Ok(Some(event)) = events.try_read() {
            seen.take(event);
        }
        id = events.id;
        node = TestNode::open(&data, &[]).with(folder);
    }
    Events::behind(&node, "", &id).read_to(&newest(&node, ""), &mut seen);
    assert_eq!(seen, Seen::expected(&node, "", 0));
}

#[test]
fn a_fork_has_the_shared_past_and_its_own_events() {
    let node = TestNode::start(&[]);
    for step in 0..6 {
        node.inject("", json!(step));
        node.leap("");
    }
    let fork = |of: &str, name: &str, at: u64| {
        let made = node.post(&format!("{of}/fork")).json(&json!({"name": name, "at": at, "difficulty": 0})).send();
        assert_eq!(made.unwrap().status(), 201);
    };
    fork("", "child", 3);
    let mut live = Events::from(&node, "/chains/child", 0);
    node.inject("/chains/child", json!("own"));
    node.leap("/chains/child");
    fork("/chains/child", "grandchild", 5);
    node.inject("", json!("of the parent alone"));
    node.leap("");
    node.inject("/chains/grandchild", json!("own"));
    let mut seen = Seen::default();
    live.read_to(&newest(&node, "/chains/child"), &mut seen);
    assert_eq!(seen, Seen::expected(&node, "/chains/child", 0));
    for chain in ["/chains/child", "/chains/grandchild"] {
        for from in 0..=node.size(chain) {
            let mut seen = Seen::default();
            Events::from(&node, chain, from).read_to(&newest(&node, chain), &mut seen);
            assert_eq!(seen, Seen::expected(&node, chain, from), "{chain} from {from}");
        }
    }
}

#[test]
fn a_stopping_node_ends_each_stream_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut node = TestNode::open_logging(&folder.path().join("data"), &[], &log);
    let lines = "{\"data\":\"0123456789012345678901234567890123456789\"}\n".repeat(20_000);
    assert_eq!(node.post_text("/inject", "application/x-ndjson", lines).status(), 202);
    let mut streams = [Events::open(node.get("/events")), Events::from(&node, "", 0)];
    streams[1].read();
    node.terminate();
    for stream in &mut streams {
        // A stream that breaks off would be an error.
        while stream.read().is_some() {}
    }
    assert_eq!(node.wait(), Some(0));
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("cut off"), "{log}");
}

/// The resident memory of a process in KiB (proc(5), `VmRSS`).
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.map_or(0, |kib| kib.parse().expect("it is a number"))
}

#[test]
fn thousands_listen_at_one_time() {
    // Each takes a file of this process and one of the node; other tests of this binary need some too.
    let files = rlimit::increase_nofile_limit(6_000).unwrap_or(1_024);
    let count = 3_000.min(files.saturating_sub(1_000)) as usize;
    if count < 1_000 {
        println!("only {count} listeners: the limit of open files is {files}");
    }
    let node = TestNode::start(&[]);
    for step in 0..100 {
        node.inject("", json!([step, "x".repeat(1_000)]));
    }
    node.leap("");
    let before = memory(node.pid());
    let mut streams: Vec<TcpStream> = (0..count)
        .map(|at| {
            let mut stream = node.connect();
            // They catch up from different places.
            let from = at % 102;
            write!(stream, "GET /events?from={from} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    node.inject("", json!("for all"));
    node.leap("");
    let last = b"id: 102.3\n";
    let mut buffer = vec![0; 1 << 20];
    for stream in &mut streams {
        let mut got = Vec::new();
        while !got.windows(last.len()).any(|window| window == last) {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the stream goes on");
            // The id stands near the end of what comes.
            got.drain(..got.len().saturating_sub(2_000));
            got.extend_from_slice(&buffer[..read]);
        }
    }
    let after = memory(node.pid());
    println!("{count} listeners: {before} KiB before, {after} KiB after");
    assert!(after < before + 64 * count as u64 + 64 * 1_024, "{before} KiB before, {after} KiB after");
}
