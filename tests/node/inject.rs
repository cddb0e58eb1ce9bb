//! `POST /inject` in all its forms, and `wait=leap`.

use std::{io::Write, thread};

use qbc::core::{json, verify};
use serde_json::{Value, json};

use crate::support::{TestNode, eventually, header, problem};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const LINES: &str = "application/x-ndjson";

#[test]
fn an_acceptance_says_where_the_transaction_is() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "a", "difficulty": 0}));
    for (chain, name) in [("", "qbc"), ("/chains/a", "a"), ("/chains/qbc", "qbc")] {
        let index = node.size(chain);
        let body = json!({"data": {"test": chain}, "id": format!("id{chain}")});
        let response = node.post(&format!("{chain}/inject")).json(&body).send().unwrap();
        assert_eq!(response.status(), 202);
        assert_eq!(header(&response, "location"), format!("{chain}/transactions/{index}"));
        assert_eq!(header(&response, "etag"), format!("\"{}\"", index + 1));
        assert!(!response.headers().contains_key("idempotent-replayed"));
        let accepted: Value = response.json().unwrap();
        let served = node.json(&format!("{chain}/transactions/{index}"));
        let expected = json!({
            "message": "Transaction submission successful",
            "chain": name, "index": index, "id": body["id"], "state": "pooled",
            "hash": served["hash"], "timestamp": served["timestamp"],
        });
        assert_eq!(accepted, expected);
        assert_eq!(served["data"], body["data"]);
    }
    let response = node.post("/inject").json(&json!({"data": 1})).send().unwrap();
    assert_eq!(response.json::<Value>().unwrap().get("id"), None, "no id was given");
}

#[test]
fn what_is_read_back_equals_what_was_sent() {
    let node = TestNode::start(&[]);
    let values = [
        "null",
        "false",
        "0",
        "-0",
        "1.0",
        "1E2",
        "-1.5",
        "1e21",
        "5e-324",
        "9007199254740992",
        "0.1",
        "\"\"",
        "[]",
        "{}",
        r#""\u0000\u001f\"\\\/é\ud83d\ude00\ufffd""#,
        r#"{"":{"":[null,{"\u0000":1}]},"z":1,"a":2,"é":3,"😀":4}"#,
        r#"{"__proto__":1,"data":{"data":2},"id":3,"hash":"4","state":"5"}"#,
        "[[[[[[[[[[]]]]]]]]]]",
    ];
    for value in values {
        let response = node.post_text("/inject", JSON, format!(" {{ \"data\" :\t{value}\r\n}} "));
        assert_eq!(response.status(), 202, "{value}");
        let index = &response.json::<Value>().unwrap()["index"];
        let (read, sent) = (node.json(&format!("/transactions/{index}")), json::parse(value.as_bytes()).unwrap());
        assert_eq!(json::canonical(&read["data"]), json::canonical(&sent), "{value}");
    }
    node.leap("");
    node.audit("");
}

#[test]
fn an_array_is_accepted_whole_or_not_at_all() {
    let node = TestNode::start(&[]);
    let response =
        node.post("/inject").json(&json!([{"data": "a"}, {"data": "b", "id": "b"}, {"data": "a"}])).send().unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!((header(&response, "location"), header(&response, "etag")), ("/transactions/1".into(), "\"4\"".into()));
    let accepted: Value = response.json().unwrap();
    let indexes: Vec<_> = accepted.as_array().unwrap().iter().map(|one| one["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [1, 2, 3]);

    for (bad, status, pointer) in [
        (json!([{"data": 1}, {"data": 2, "foo": 3}]), 422, "/1/foo"),
        (json!([{"data": 1}, {}]), 422, "/1/data"),
        (json!([{"data": 1}, 5]), 422, "/1"),
        (json!([{"data": 1}, [{"data": 1}]]), 422, "/1"),
        (json!([{"data": 1}, {"data": 2, "id": "a b"}]), 422, "/1/id"),
        (json!([]), 422, ""),
    ] {
        let problem = problem(node.post("/inject").json(&bad).send().unwrap(), status);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{bad}");
    }
    let too_many = vec![json!({"data": 0}); 10_001];
    problem(node.post("/inject").json(&too_many).send().unwrap(), 413);
    assert_eq!(node.size(""), 4, "nothing of a refused array is accepted");
    let most = node.post("/inject").json(&too_many[1..]).send().unwrap();
    assert_eq!((most.status().as_u16(), node.size("")), (202, 10_004));
}

/// Symptom: the writer panicked. Cause: canonical JSON writes `1e20` with all its digits, so a body of 8 MiB can be a batch of 36,
/// and the log took 32. Cure: it takes what the largest array can be.
#[test]
fn an_array_may_be_longer_in_canonical_json() {
    let node = TestNode::start(&[]);
    let one = format!(r#"{{"data":[{}1]}}"#, "1e20,".repeat(40_000));
    let body = format!("[{}]", vec![one; 41].join(","));
    let sent = node.post("/inject").header("content-type", "application/json").body(body).send().unwrap();
    assert_eq!(sent.status(), 202);
    assert_eq!(node.size(""), 42);
}

#[test]
fn a_form_carries_text() {
    let node = TestNode::start(&[]);
    for (body, data) in [
        ("data=%7B%22test%22%3A+%22test2%22%7D", r#"{"test": "test2"}"#),
        ("data=a%2Bb+c%20d", "a+b c d"),
        ("data=a=b", "a=b"),
        ("data=", ""),
        ("data", ""),
        ("&&data=1&", "1"),
        ("data=%zz%4", "%zz%4"),
        ("data=%C3%A9\u{e9}", "éé"),
        ("%64ata=x", "x"),
    ] {
        let response = node.post_text("/inject", FORM, body);
        assert_eq!(response.status(), 202, "{body}");
        let index = &response.json::<Value>().unwrap()["index"];
        assert_eq!(node.json(&format!("/transactions/{index}"))["data"], data, "{body}");
    }
    let response = node.post_text("/inject", "Application/X-WWW-Form-URLencoded; charset=utf-8", "id=f%2F1&data=1");
    assert_eq!(response.json::<Value>().unwrap()["id"], "f/1");

    let size = node.size("");
    for (body, status) in [
        (&b"data=%FF"[..], 400),
        (b"data=\xff", 400),
        (b"data=\xed\xa0\x80", 400),
        (b"dat%FFa=1", 400),
        (b"", 422),
        (b"id=1", 422),
        (b"data=1&dta=2", 422),
        (b"data=1&data=1", 422),
        (b"data=1&id=", 422),
        (b"data=1&id=a+b", 422),
    ] {
        problem(node.post_text("/inject", FORM, body), status);
    }
    assert_eq!(node.size(""), size);
}

#[test]
fn another_media_type_is_answered_with_the_header_to_add() {
    let node = TestNode::start(&[]);
    // `curl -d '{"data":1}'` calls itself a form.
    for body in [r#"{"data":1}"#, " \n[{\"data\":1}]", "\"data\"", "{"] {
        let problem = problem(node.post_text("/inject", FORM, body), 415);
        assert!(problem["detail"].as_str().unwrap().contains("Content-Type: application/json"), "{problem}");
    }
    for media in ["text/plain", "", "multipart/form-data; boundary=x", "application/xml", "json", "application/jsonx"] {
        let problem = problem(node.post_text("/inject", media, r#"{"data":1}"#), 415);
        assert!(problem["detail"].as_str().unwrap().contains("Content-Type: application/json"), "{problem}");
    }
    problem(node.post("/inject").body(r#"{"data":1}"#).send().unwrap(), 415);
    assert_eq!(node.size(""), 1);
    for media in ["application/json;charset=UTF-8", "APPLICATION/JSON", "application/vnd.example+json"] {
        assert_eq!(node.post_text("/inject", media, r#"{"data":1}"#).status(), 202, "{media}");
    }
}

#[test]
fn a_stream_judges_each_line_for_itself() {
    let node = TestNode::start(&[]);
    node.inject("", json!("first"));
    let lines: [&[u8]; 13] = [
        b"{\"data\":\"good\"}",
        b"",
        b"  \t ",
        b"{\"data\":\"good\",\"id\":\"one\"}\r",
        b"not JSON",
        b"{\"data\":1,\"dta\":2}",
        b"[{\"data\":1}]",
        b"{\"data\":\"\xff\"}",
        b"{\"data\":\"other\",\"id\":\"one\"}",
        b"{\"data\":\"good\",\"id\":\"one\"}",
        b"{\"data\":12345678901234567890}",
        b"{\"data\":{\"a\":1,\"a\":1}}",
        b"{\"data\":\"the last has no line end\"}",
    ];
    let response = node.post_text("/inject", LINES, lines.join(&b'\n'));
    assert_eq!(response.status(), 202);
    assert_eq!(header(&response, "etag"), "\"5\"");
    let summary: Value = response.json().unwrap();
    let counts = (&summary["accepted"], &summary["replayed"], &summary["refused"]);
    assert_eq!(counts, (&json!(3), &json!(1), &json!(7)));
    assert_eq!((&summary["first"], &summary["last"]), (&json!(2), &json!(4)));
    let errors: Vec<_> =
        summary["errors"].as_array().unwrap().iter().map(|error| (&error["line"], &error["status"])).collect();
    let expected =
        [(5, 400), (6, 422), (7, 422), (8, 400), (9, 409), (11, 400), (12, 400)].map(|(l, s)| (json!(l), json!(s)));
    assert_eq!(errors, expected.iter().map(|(line, status)| (line, status)).collect::<Vec<_>>());
    assert!(summary["errors"].as_array().unwrap().iter().all(|error| !error["detail"].as_str().unwrap().is_empty()));
    let data: Vec<_> =
        node.json("/transactions?from=2").as_array().unwrap().iter().map(|one| one["data"].clone()).collect();
    assert_eq!(data, ["good", "good", "the last has no line end"]);
}

#[test]
fn a_stream_of_refused_lines_is_422_and_names_the_first_hundred() {
    let node = TestNode::start(&[]);
    let response = node.post_text("/inject", LINES, "nonsense\n".repeat(150));
    assert_eq!(response.status(), 422);
    let summary: Value = response.json().unwrap();
    assert_eq!((&summary["accepted"], &summary["refused"], &summary["first"]), (&json!(0), &json!(150), &Value::Null));
    let lines: Vec<_> =
        summary["errors"].as_array().unwrap().iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, (1..=100).collect::<Vec<_>>());

    // A line that only the writer can refuse is known to be bad later than one that is no JSON; the first are named still.
    node.post("/inject").json(&json!({"data": 1, "id": "taken"})).send().unwrap();
    let body = ["{\"data\":2,\"id\":\"taken\"}\n".repeat(60), "nonsense\n".repeat(150)].concat();
    let summary: Value = node.post_text("/inject", LINES, body).json().unwrap();
    let lines: Vec<_> =
        summary["errors"].as_array().unwrap().iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, (1..=100).collect::<Vec<_>>());
    assert_eq!(summary["refused"], 210);

    let nothing = node.post_text("/inject", LINES, "\n\n");
    assert_eq!(nothing.status(), 202);
    assert_eq!(nothing.json::<Value>().unwrap()["accepted"], 0);
}

#[test]
fn an_overlong_line_leaves_its_neighbours_accepted() {
    let node = TestNode::start(&[]);
    let body = ["{\"data\":\"before\"}\n{\"data\":\"", &"x".repeat(9 << 20), "\"}\n{\"data\":\"behind\"}\n"].concat();
    let summary: Value = node.post_text("/inject", LINES, body).json().unwrap();
    assert_eq!((&summary["accepted"], &summary["refused"]), (&json!(2), &json!(1)));
    assert_eq!((&summary["errors"][0]["line"], &summary["errors"][0]["status"]), (&json!(2), &json!(413)));
    // Under the bound of a line, but over that of the chain.
    let body = ["{\"data\":\"", &"x".repeat(2 << 20), "\"}"].concat();
    let response = node.post_text("/inject", LINES, body);
    assert_eq!(response.status(), 422, "every line was refused");
    assert_eq!(response.json::<Value>().unwrap()["errors"][0]["status"], 413);
}

#[test]
fn a_stream_commits_as_it_comes() {
    let node = TestNode::start(&[]);
    let mut stream = node.connect();
    let head = "POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for round in 1..=3 {
        // A whole line, and the start of the next one.
        stream
            .write_all(b"12\r\n\"a\"}\n{\"data\":\"b\"}\n\r\n".get(if round == 1 { 0..0 } else { 0..24 }).unwrap())
            .unwrap();
        stream.write_all(b"8\r\n{\"data\":\r\n").unwrap();
        eventually("what came is in the pool", || node.json("/pool")["count"] == 2 * (round - 1));
    }
    // It breaks off: the half line is dropped, the whole ones stay.
    drop(stream);
    assert_eq!(node.size(""), 5);
    node.leap("");
    node.audit("");
}

/// Symptom: noncharacters were recorded, which strict readers of I-JSON refuse. They are refused wherever a text can come in.
#[test]
fn noncharacters_are_refused_in_bodies_and_forms() {
    let node = TestNode::start(&[]);
    for text in [r"\uffff", r"\ud83f\udffe", "\u{fdd0}", "\u{10ffff}"] {
        for body in [format!("{{\"data\":{{\"a\":\"x{text}\"}}}}"), format!("{{\"data\":{{\"{text}\":1}}}}")] {
            let refused = problem(node.post_text("/inject", "application/json", body.clone()), 400);
            assert!(refused["detail"].as_str().unwrap().contains("noncharacter"), "{refused}");
            let summary: Value = node.post_text("/inject", LINES, body).json().unwrap();
            assert_eq!(summary["errors"][0]["status"], 400);
        }
        let erase = node.post_text("/transactions/0/erase", "application/json", format!("{{\"reason\":\"{text}\"}}"));
        problem(erase, 400);
    }
    for (form, at) in [
        ("data=%EF%BF%BF", "\"data\""),
        ("data=1&%EF%B7%90=2", "a name"),
        ("data=\u{fffe}", "\"data\""),
        ("id=%ff&data=1", "\"id\""),
    ] {
        let refused = problem(node.post_text("/inject", "application/x-www-form-urlencoded", form), 400);
        assert!(refused["detail"].as_str().unwrap().contains(at), "{refused}");
    }
    assert_eq!(node.size(""), 1);
}

#[test]
fn a_long_stream_is_accepted_in_its_order_and_only_once() {
    let node = TestNode::start(&[]);
    let lines: String = (0..7_000).map(|line| format!("{{\"data\":{line},\"id\":\"line-{line}\"}}\n")).collect();
    for (accepted, replayed) in [(7_000, 0), (0, 7_000)] {
        let summary: Value = node.post_text("/inject", LINES, lines.clone()).json().unwrap();
        let (first, last) = (1, 7_000);
        let expected = json!({"accepted": accepted, "replayed": replayed, "refused": 0, "first": first, "last": last, "errors": []});
        assert_eq!(summary, expected);
        assert_eq!(node.size(""), 7_001);
    }
    let read = node.json("/transactions?from=1&limit=10000");
    assert!(read.as_array().unwrap().iter().enumerate().all(|(at, one)| one["data"] == at && one["index"] == at + 1));
    node.leap("");
    node.audit("");
}

#[test]
fn a_stream_has_no_guard_and_no_key_and_does_not_wait() {
    let node = TestNode::start(&[]);
    let line = || "{\"data\":1}\n".to_owned();
    problem(node.post_text("/inject?wait=leap", LINES, line()), 400);
    for name in ["if-match", "if-none-match", "idempotency-key"] {
        let request = node.post("/inject").header(name, "\"1\"").header("content-type", LINES);
        problem(request.body(line()).send().unwrap(), 400);
    }
    assert_eq!(node.size(""), 1);
}

/// Asserts that a receipt holds offline, and gives its transaction's index.
fn check(receipt: &Value) -> u64 {
    verify::receipt(json::parse(receipt.to_string().as_bytes()).unwrap()).unwrap().record.index.get()
}

#[test]
fn waiting_for_a_leap_gives_the_receipt() {
    let node = TestNode::start(&[]);
    let inject = |body: Value| node.post("/inject?wait=leap").json(&body).send().unwrap();
    thread::scope(|scope| {
        let one = scope.spawn(|| inject(json!({"data": "one", "id": "one"})));
        let array = scope.spawn(|| inject(json!([{"data": 1}, {"data": 2}, {"data": 3}])));
        eventually("all four are pooled", || node.json("/pool")["count"] == 4);
        node.leap("");
        let one = one.join().unwrap();
        assert_eq!(one.status(), 201);
        let location = header(&one, "location");
        let receipt: Value = one.json().unwrap();
        assert_eq!(location, format!("/transactions/{}", check(&receipt)));
        assert_eq!(receipt["transaction"]["data"], "one");
        assert_eq!(receipt["chain"], node.json("/stats")["id"]);
        assert_eq!(receipt, node.json(&format!("{location}/receipt")));

        let array = array.join().unwrap();
        assert_eq!(array.status(), 201);
        let receipts: Vec<Value> = array.json().unwrap();
        assert_eq!(
            receipts.iter().map(|receipt| receipt["transaction"]["data"].clone()).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        receipts.iter().for_each(|receipt| assert!(check(receipt) > 0));
    });
    // A repeated one that is sealed already does not wait.
    let again = inject(json!({"data": "one", "id": "one"}));
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed")), (201, "true".into()));
    check(&again.json().unwrap());
}

#[test]
fn a_wait_that_ends_before_the_leap_is_504_and_accepted() {
    let node = TestNode::start(&[]);
    for (timeout, array) in [("0", false), ("0.05", true)] {
        let object = json!({"data": "late", "id": timeout});
        let body = if array { json!([object]) } else { object };
        let response = node.post(&format!("/inject?wait=leap&timeout={timeout}")).json(&body).send().unwrap();
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (504, JSON.into()));
        let answer: Value = response.json().unwrap();
        let accepted = if array { &answer[0] } else { &answer };
        assert_eq!((&accepted["state"], &accepted["id"]), (&json!("pooled"), &json!(timeout)));
        assert_eq!(node.json(&format!("/transactions/{}", accepted["index"]))["data"], "late");
    }
    let size = node.size("");
    for query in [
        "wait=quant",
        "wait=",
        "wait=leap&timeout=-1",
        "wait=leap&timeout=x",
        "wait=leap&timeout=inf",
        "wait=leap&timeout=NaN",
        "wait=leap&timeout=1e9",
        "timeout=1",
        "wiat=leap",
        "wait=leap&wait=leap",
    ] {
        problem(node.post(&format!("/inject?{query}")).json(&json!({"data": 1})).send().unwrap(), 400);
    }
    assert_eq!(node.size(""), size);
}

/// Symptom: dozens of large streams at once never ended, and every other write got a 503. Cause: a stream kept the room of
/// groups that were long committed while it waited for more room. Cure: the room goes with the command to the writer.
#[test]
fn more_streams_than_there_is_memory_all_end() {
    let node = TestNode::start(&[]);
    let line = json!({"data": "x".repeat(300 << 10)}).to_string() + "\n";
    let body = line.repeat(8);
    std::thread::scope(|scope| {
        let stream = || {
            let request = node.post("/inject").header("content-type", "application/x-ndjson").body(body.clone());
            request.send().unwrap().json::<Value>().unwrap()
        };
        let streams: Vec<_> = (0..72).map(|_| scope.spawn(stream)).collect();
        for stream in streams {
            let summary = stream.join().unwrap();
            // A line that comes in pieces may find no room, and is told so; a stream always ends.
            let (accepted, refused) = (summary["accepted"].as_u64().unwrap(), summary["refused"].as_u64().unwrap());
            assert_eq!(accepted + refused, 8, "{summary}");
            for error in summary["errors"].as_array().unwrap() {
                assert_eq!(error["status"], 503, "{summary}");
            }
        }
    });
    node.inject("", json!("others write on"));
}

/// Symptom: the last places of a nearly full pool were refused to a whole group of lines, retries among them.
#[test]
fn lines_fill_a_pool_to_its_last_place() {
    let node = TestNode::start(&["--max-pool", "10"]);
    let lines = |from: u64, to: u64| {
        let lines: String = (from..to).map(|id| json!({"data": id, "id": id.to_string()}).to_string() + "\n").collect();
        let request = node.post("/inject").header("content-type", "application/x-ndjson").body(lines);
        request.send().unwrap().json::<Value>().unwrap()
    };
    let summary = lines(0, 15);
    assert_eq!((&summary["accepted"], &summary["refused"]), (&json!(10), &json!(5)), "{summary}");
    assert_eq!(summary["errors"][0], json!({"line": 11, "status": 429, "detail": summary["errors"][0]["detail"]}));
    let again = lines(0, 10);
    assert_eq!(again["replayed"], 10, "what stands already needs no place: {again}");
    node.leap("");
    assert_eq!(lines(10, 15)["accepted"], 5);
    node.audit("");
}

/// Symptom: an array with one id twice was answered `429` although it adds one transaction, for which there was a place. Cause:
/// what repeats another one of the same array counted as new.
#[test]
fn what_repeats_within_an_array_needs_no_place() {
    let node = TestNode::start(&["--max-pool", "2"]);
    node.inject("", json!("pooled"));
    let send = |body: Value| node.post("/inject").json(&body).send().unwrap();
    let one = json!({"data": 1, "id": "one"});
    problem(send(json!([one, {"data": 2}, one])), 429);
    problem(send(json!([one, {"data": 1, "id": "other"}])), 429);
    let answer = send(json!([one, one, one]));
    assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (202, "\"3\"".into()));
    assert_eq!(answer.json::<Value>().unwrap()[2]["index"], 2);
    assert_eq!(send(json!([one, one])).status(), 202);
    problem(send(json!([{"data": 3, "id": "three"}, one])), 429);
    assert_eq!(node.size(""), 3);
}

/// Symptom: two leaps that raced with one tag both made a quant.
#[test]
fn of_racing_guarded_leaps_one_wins() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "slow", "difficulty": 18}));
    node.inject("/chains/slow", json!(1));
    let won: usize = std::thread::scope(|scope| {
        let leap = || node.post("/chains/slow/leap").header("if-match", "\"2\"").send().unwrap().status().as_u16();
        let leaps: Vec<_> = (0..6).map(|_| scope.spawn(leap)).collect();
        leaps
            .into_iter()
            .map(|leap| match leap.join().unwrap() {
                201 => 1,
                412 => 0,
                status => panic!("{status}"),
            })
            .sum()
    });
    assert_eq!(won, 1);
    assert_eq!(node.json("/chains/slow/stats")["length"], 2);
}

#[test]
fn of_a_refused_line_the_place_is_told() {
    let node = TestNode::start(&[]);
    let schema = json!({"properties": {"order": {"type": "integer"}}});
    node.bang(json!({"name": "orders", "difficulty": 0, "schema": schema}));
    let lines = "{\"data\":{\"order\":1}}\n{\"data\":{\"order\":\"x\"}}\n{\"data\":}\n";
    let summary: Value = node.post_text("/chains/orders/inject", "application/x-ndjson", lines).json().unwrap();
    let detail = |at: usize| summary["errors"][at]["detail"].as_str().unwrap();
    assert!(detail(0).contains("/data/order"), "{summary}");
    assert!(detail(1).contains("column 9") && !detail(1).contains("line 1,"), "{summary}");
}
