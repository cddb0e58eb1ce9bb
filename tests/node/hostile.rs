//! Requests that no friend sends. Each is answered with a problem that tells what is wrong, and changes nothing.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType};
use serde_json::{Value, json};

use crate::support::{TestNode, header, problem};

const JSON: &str = "application/json";

/// Asserts that nothing was written since the node was started.
fn is_untouched(node: &TestNode) {
    let stats = node.json("/stats");
    assert_eq!((&stats["size"], &stats["length"]), (&json!(1), &json!(1)));
    assert_eq!(node.json("/chains").as_array().unwrap().len(), 1);
}

/// The routes that take an object, each with a body that it would take.
fn writes() -> [(&'static str, &'static str, Value); 6] {
    [
        ("POST", "/inject", json!({"data": 1})),
        ("POST", "/chains/qbc/inject", json!({"data": 1})),
        ("POST", "/bang", json!({"name": "x"})),
        ("POST", "/fork", json!({"name": "x"})),
        ("PATCH", "/chains/qbc", json!({"leap": null})),
        ("POST", "/discover", json!({"host": "localhost:1"})),
    ]
}

#[test]
fn what_is_no_i_json_is_400_with_its_place() {
    let node = TestNode::start(&[]);
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    let deep_object = ["{\"a\":".repeat(100_000), "1".into(), "}".repeat(100_000)].concat();
    for (value, pointer) in [
        ("", "/data"),
        ("nul", "/data"),
        ("NaN", "/data"),
        ("01", "/data"),
        ("+1", "/data"),
        (".5", "/data"),
        ("'a'", "/data"),
        ("[1,]", "/data"),
        ("{\"a\":1,}", "/data"),
        ("\"a\nb\"", "/data"),
        ("\"\\x\"", "/data"),
        ("\"open", "/data"),
        ("\"\\ud800\"", "/data"),
        ("\"\\udc00\\ud800\"", "/data"),
        ("{\"a\":\"\\ud800x\"}", "/data/a"),
        ("{\"\\ud800\":1}", "/data"),
        ("{\"a\":1,\"a\":1}", "/data"),
        ("{\"b\":[{\"a\":1,\"\\u0061\":2}]}", "/data/b/0"),
        ("12345678901234567890", "/data"),
        ("0.1000000000000000055511151231257827", "/data"),
        ("9007199254740993", "/data"),
        ("[1,1e400]", "/data/1"),
        ("{\"a/b\":1e-400}", "/data/a~1b"),
        ("-1e999999999999999999999", "/data"),
        (&deep, ""),
        (&deep_object, ""),
    ] {
        let shown = &value[..value.len().min(40)];
        let response = node.post_text("/inject", JSON, format!("{{\"data\":{value}}}"));
        let problem = problem(response, 400);
        let found = problem["errors"][0]["pointer"].as_str().unwrap_or_else(|| panic!("{shown}: {problem}"));
        // A syntax error is placed at the innermost value, or at one around it.
        assert!(found.starts_with(pointer) || pointer.starts_with(found), "{shown}: {problem}");
        assert!(problem.to_string().len() < 5_000, "{shown}: a problem is for people");
    }
    for number in ["12345678901234567890", "0.1000000000000000055511151231257827", "1e400"] {
        let problem = problem(node.post_text("/inject", JSON, format!("{{\"data\":{number}}}")), 400);
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("string"), "the cure: {problem}");
    }
    for body in [
        &b""[..],
        b"  ",
        b"{}{}",
        b"\xef\xbb\xbf{\"data\":1}",
        b"{\"data\":\"\xff\"}",
        b"{\"data\":\"\xed\xa0\x80\"}",
        b"{\"data\":\"\xc0\x80\"}",
        b"{\"data\":1}\0",
        b"{\"data\":1,\"data\":1}",
        b"{\"data\":1,\"id\":\"a\",\"id\":\"a\"}",
        b"\xff\xfe{\0",
    ] {
        problem(node.post_text("/inject", JSON, body), 400);
    }
    problem(node.post_text("/inject", JSON, deep.clone()), 400);
    problem(node.post_text("/bang", JSON, format!("{{\"name\":\"x\",\"schema\":{deep}}}")), 400);
    problem(node.post_text("/peers/hello", JSON, &deep[..60_000]), 400);
    // Within the bounds of the gate, but too deep to be served inside of a chain.
    let nested = |depth: usize| format!("{{\"data\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    problem(node.post_text("/inject", JSON, nested(97)), 400);
    is_untouched(&node);
    assert_eq!(node.post_text("/inject", JSON, nested(96)).status(), 202);
    node.leap("");
    node.audit("");
}

#[test]
fn every_write_refuses_what_it_does_not_know() {
    let node = TestNode::start(&[]);
    for (method, path, body) in writes() {
        let send = |body: Vec<u8>, media: &str| {
            let request = node.request(method.parse().unwrap(), path).header("content-type", media);
            request.body(body).send().unwrap()
        };
        let mut unknown = body.clone();
        unknown["dta/x"] = json!(1);
        let refused = problem(send(unknown.to_string().into(), JSON), 422);
        assert_eq!(refused["errors"][0]["pointer"], "/dta~1x", "{path}");
        for shape in ["5", "null", "\"x\"", "[[]]", "[]"] {
            problem(send(shape.into(), JSON), 422);
        }
        for text in [&b""[..], b"{", b"{\"name\":\"\xff\"}", b"{\"name\":\"a\",\"name\":\"a\"}"] {
            problem(send(text.into(), JSON), 400);
        }
        problem(send(body.to_string().into(), "text/plain"), 415);
        problem(send(body.to_string().into(), "application/x-www-form-urlencoded"), 415);
        problem(send(b"name=%FF".into(), "application/x-www-form-urlencoded"), 400);
        problem(send(b"nonsense=1".into(), "application/x-www-form-urlencoded"), 422);
    }
    is_untouched(&node);
    assert_eq!(node.json("/chains/qbc")["leap"], json!({}));
}

#[test]
fn a_body_that_is_too_large_is_413() {
    let node = TestNode::start(&[]);
    let large = format!("{{\"data\":\"{}\"}}", "x".repeat(9 << 20));
    for path in ["/inject", "/bang", "/discover", "/peers/hello"] {
        let mut stream = node.connect();
        // It is refused by its head, before it is sent.
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n",
            large.len()
        )
        .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 413", "{path}");
    }
    // Without a length, by what has come.
    let chunked = reqwest::blocking::Body::new(std::io::Cursor::new(large));
    let sent = node.post("/inject").header("content-type", JSON).body(chunked).send();
    // The node may close before all is sent, which some clients take for a failure.
    assert!(sent.is_err() || sent.is_ok_and(|response| response.status() == 413));
    problem(node.post_text("/peers/hello", JSON, format!("{{\"host\":\"{}\"}}", "x".repeat(70_000))), 413);
    is_untouched(&node);
}

#[test]
fn hostile_paths_are_answered_and_lead_nowhere() {
    let node = TestNode::start(&[]);
    let long = "x".repeat(60_000);
    for path in [
        "/chains/..",
        "/chains/../stats",
        "/chains/%2e%2e/stats",
        "/chains/..%2Fqbc/stats",
        "/chains/qbc%2Fstats",
        "/chains/%2F",
        "/chains/%2fqbc/stats",
        "/chains/%00",
        "/chains/qbc%00/stats",
        "/chains/%C3%A9/stats",
        "/chains/%0d%0aX:1/stats",
        "/chains/QBC/stats",
        "/chains/%20/stats",
        "/chains/%25FF/stats",
        "/..",
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/.%2Fstats",
        "/stats%2F",
        "/%00",
        "/chains//stats",
        &format!("/chains/{long}/stats"),
        &format!("/{long}"),
        "/stats;x=1",
        "/stats%3Fx",
        "/CHAINS",
        "/chains/{chain}/stats",
        "/chains/*/stats",
    ] {
        let answer = node.raw("GET", path.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(answer.contains("application/problem+json"), "{path}: {answer}");
    }
    for path in [
        "/chains/%FF",
        "/chains/%FF/stats",
        "/quants/%FF",
        "/quants/..%2F0",
        "/transactions/%00",
        "/transactions/by-id/%FE%FF",
        "/transactions/%2e%2e",
    ] {
        let answer = node.raw("GET", path.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(answer.contains("application/problem+json"), "{path}: {answer}");
    }
    // What is no HTTP is refused, or the connection closed.
    for path in [&b"stats"[..], b"/stats\x00", b"/a b", b"/\xff", b"", b"*", b"/%", b"http://other/../stats"] {
        let answer = node.raw("GET", path);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{path:?}: {answer}");
    }
    is_untouched(&node);
    node.audit("");
}

#[test]
fn what_is_no_http_does_no_harm() {
    let node = TestNode::start(&[]);
    let many_headers: String = (0..1_000).map(|number| format!("X-{number}: x\r\n")).collect();
    for request in [
        "\r\n\r\n\r\n",
        "hello\r\n\r\n",
        "GET /stats\r\n\r\n",
        "GET /stats HTTP/9.9\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n{}",
        "POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{    }",
        "POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        &format!("GET /stats HTTP/1.1\r\nHost: localhost\r\n{many_headers}\r\n"),
        &format!("GET /stats HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        let mut stream = node.connect();
        // The node may have closed already.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{}: {answer}",
            &request[..request.len().min(60)]
        );
    }
    is_untouched(&node);
}

#[test]
fn a_request_that_breaks_off_changes_nothing() {
    let node = TestNode::start(&[]);
    for sent in [0, 5, 9] {
        let mut stream = node.connect();
        write!(
            stream,
            "POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: 10\r\n\r\n"
        )
        .unwrap();
        stream.write_all(&b"{\"data\":1}"[..sent]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        // Whether it is told so or cut off.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    is_untouched(&node);
}

#[test]
fn a_pipeline_of_good_and_bad_requests_is_answered_in_order() {
    let node = TestNode::start(&[]);
    let mut stream = node.connect();
    let inject = |body: &str| {
        format!(
            "POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let last = "GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let pipeline = [inject("{\"data\":1}"), inject("{\"data\":"), inject("{\"data\":2}"), last.into()].concat();
    stream.write_all(pipeline.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["202", "400", "202", "200"]);
    assert_eq!(node.size(""), 3);
}

#[test]
fn a_schema_can_neither_stall_the_node_nor_fetch() {
    let node = TestNode::start(&[]);
    // A pattern that backtracking engines take for ever to refuse.
    node.bang(json!({"name": "s", "difficulty": 0, "schema": {"type": "string", "pattern": "^(a+)+$"}}));
    problem(node.post("/chains/s/inject").json(&json!({"data": "a".repeat(50_000) + "!"})).send().unwrap(), 422);
    // It refers to itself for ever.
    let endless =
        node.post("/bang").json(&json!({"name": "r", "schema": {"$ref": "#"}, "difficulty": 0})).send().unwrap();
    if endless.status() == 201 {
        let answer = node.post("/chains/r/inject").json(&json!({"data": 1})).send().unwrap();
        assert!(!answer.status().is_server_error(), "{}", answer.status());
    }
    let mutual = json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"});
    let endless = node.post("/bang").json(&json!({"name": "m", "schema": mutual, "difficulty": 0})).send().unwrap();
    if endless.status() == 201 {
        let answer = node.post("/chains/m/inject").json(&json!({"data": 1})).send().unwrap();
        assert!(!answer.status().is_server_error(), "{}", answer.status());
    }
    assert_eq!(node.get("/livez").send().unwrap().status(), 200);
    assert_eq!(header(&node.get("/stats").send().unwrap(), "content-type"), JSON);
}

/// A connection from another address of this machine, which is another client.
fn connect_from(source: Ipv4Addr, node: &TestNode) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0)).unwrap();
    rustix::net::connect(&socket, &node.address().parse::<SocketAddrV4>().unwrap()).unwrap();
    TcpStream::from(socket)
}

/// Symptom: a leap waited for minutes while somebody asked for hundreds of chains that nobody can mine. Cause: each search had as many
/// slices of the threads as any other, whosever it was. Cure: the slices of one client wait for each other.
#[test]
fn proofs_that_nobody_finds_leave_others_their_leaps() {
    let node = TestNode::start(&[]);
    let hopeless: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, 2), &node);
            let body = json!({"name": format!("hopeless-{number}"), "difficulty": 48}).to_string();
            let head = format!("POST /bang HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n");
            write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            stream
        })
        .collect();
    let search = |difficulty: u64| {
        let name = format!("easy-{difficulty}");
        node.post("/bang").json(&json!({"name": name, "difficulty": difficulty})).send().unwrap().status()
    };
    // As easy as can be for which a thread has to search.
    let since = Instant::now();
    assert_eq!(search(14), 201);
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    drop(hopeless);
}
