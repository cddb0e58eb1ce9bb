//! Nodes that find each other.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{TestNode, eventually, problem};

fn discover(node: &TestNode, host: &str) -> reqwest::blocking::Response {
    node.post("/discover").json(&json!({"host": host})).send().unwrap()
}

/// The hosts that a node says to be live.
fn live(node: &TestNode) -> BTreeSet<String> {
    node.json("/discover").as_array().unwrap().iter().map(|peer| peer["host"].as_str().unwrap().into()).collect()
}

/// Whether each of the nodes lists all others.
fn is_mesh(nodes: &[&TestNode]) -> bool {
    let hosts: BTreeSet<String> = nodes.iter().map(|node| node.host()).collect();
    nodes.iter().all(|node| {
        let mut others = hosts.clone();
        others.remove(&node.host());
        live(node) == others
    })
}

#[test]
fn nodes_meet_remember_and_notice_who_is_gone() {
    let (a, mut b, c) = (TestNode::start(&[]), TestNode::start(&[]), TestNode::start(&[]));
    let met = discover(&a, &b.host());
    assert_eq!(met.status(), 201);
    let met: Value = met.json().unwrap();
    assert_eq!((&met[0]["host"], &met[0]["id"]), (&json!(b.host()), &b.json("/")["id"]));
    assert!(met[0]["latency_ms"].as_f64().unwrap() > 0.0 && met[0]["version"].is_string());
    assert!(met[0]["last_seen"].as_str().unwrap().ends_with('Z'));
    assert!(is_mesh(&[&a, &b]), "both list each other at once");

    // httpie and curl send forms; one word brings the third into the mesh.
    let form = format!("host={}", b.host().replace(':', "%3A"));
    assert_eq!(c.post_text("/discover", "application/x-www-form-urlencoded", form).status(), 201);
    eventually("all three list each other", || is_mesh(&[&a, &b, &c]));

    let (itself, port) = (problem(discover(&a, &a.host()), 422), b.host());
    assert_eq!(itself["errors"][0]["pointer"], "/host");
    assert!(is_mesh(&[&a, &b, &c]), "a node does not list itself");

    // A node that starts again knows whom it knew, and is the same node. Its port is free for itself.
    let id = b.json("/")["id"].clone();
    let (data, folder) = b.kill();
    let died = Instant::now();
    eventually("the dead one leaves the lists", || is_mesh(&[&a, &c]));
    assert!(died.elapsed() < Duration::from_secs(15), "{:?}", died.elapsed());
    b = TestNode::open(&data, &["--port", port.trim_start_matches("localhost:")]).with(folder);
    assert_eq!(b.json("/")["id"], id);
    let back = Instant::now();
    eventually("it returns, and finds the others by itself", || is_mesh(&[&a, &b, &c]));
    assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
}

#[test]
fn a_node_knows_after_a_restart_whom_it_knew() {
    let (a, b) = (TestNode::start(&[]), TestNode::start(&[]));
    assert_eq!(discover(&a, &b.host()).status(), 201);
    let (host, (data, folder)) = (b.host(), a.kill());
    drop(b);
    // Where the other was, there is a new one that knows nobody: so only the first can find it.
    let b = TestNode::start(&["--port", host.trim_start_matches("localhost:")]);
    let a = TestNode::open(&data, &[]).with(folder);
    eventually("they list each other again", || is_mesh(&[&a, &b]));
}

#[test]
fn a_host_that_does_not_answer_is_not_listed() {
    let node = TestNode::start(&[]);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    // One that never answers, one that is no node, one that sends on to a node.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger =
        serve("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n{\"a\":\"b\"}".into());
    let sends_on = serve(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}/peers/hello\r\nContent-Length: 0\r\n\r\n",
        node.url
    ));
    let endless = serve(format!("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n{}", " ".repeat(1 << 20)));
    for host in [closed.to_string(), silent.local_addr().unwrap().to_string(), stranger, sends_on, endless] {
        let start = Instant::now();
        let refused = problem(discover(&node, &host), 422);
        assert_eq!(refused["errors"][0]["pointer"], "/host");
        assert!(refused["detail"].as_str().unwrap().contains(&host), "it says why: {refused}");
        assert!(!refused.to_string().contains("\"a\\\""), "nothing of the answer is passed on");
        assert!(start.elapsed() < Duration::from_secs(5), "{host}: {:?}", start.elapsed());
    }
    assert_eq!(node.json("/discover"), json!([]));
}

/// The host of a server that gives each connection the same answer.
fn serve(answer: String) -> String {
    serve_with(move |_| answer.clone())
}

/// The host of a server that makes its answers of the heads of requests.
fn serve_with(answer: impl Fn(&str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), [0; 4096]);
            let read = stream.read(&mut head).unwrap_or(0);
            // The node may hang up on what is too long.
            let _ = stream.write_all(answer(&String::from_utf8_lossy(&head[..read])).as_bytes());
        }
    });
    host
}

type Counter = Arc<Mutex<u64>>;

#[test]
fn only_a_host_of_an_allowed_network_is_called() {
    let (node, closed) = (TestNode::start(&[]), TestNode::start(&["--discover-allow", "none"]));
    for host in [
        "",
        " ",
        "localhost:0",
        "localhost:65536",
        "localhost:x",
        "ftp://localhost:5001",
        "file:///etc/passwd",
        "http://user:pw@localhost:1",
        "localhost:1/path",
        "localhost:1?q",
        "localhost:1#f",
        "http://",
        "://",
        "a b",
        "é.example:1",
        "::1:5001",
        "localhost\n:1",
        "a\\b",
        "http://localhost:1/peers/hello",
        "8.8.8.8:80",
        "http://169.254.169.254",
        "[2001:db8::1]:80",
        "0.0.0.0:1",
        &"x".repeat(300),
    ] {
        let refused = problem(discover(&node, host), 422);
        assert_eq!(refused["errors"][0]["pointer"], "/host", "{host:?}: {refused}");
    }
    for body in [
        json!({}),
        json!({"host": null}),
        json!({"host": 5001}),
        json!({"host": ["localhost:1"]}),
        json!({"host": "localhost:1", "port": 1}),
    ] {
        problem(node.post("/discover").json(&body).send().unwrap(), 422);
    }
    // A node that may call nobody neither calls nor lists, and so is not listed.
    let refused = problem(discover(&closed, &node.host()), 422);
    assert!(refused["detail"].as_str().unwrap().contains("--discover-allow"), "{refused}");
    problem(discover(&node, &closed.host()), 422);
    assert_eq!((node.json("/discover"), closed.json("/discover")), (json!([]), json!([])));

    // A claim about somebody else is checked there.
    let hello = json!({"host": closed.host(), "id": "0".repeat(64), "version": "1", "nodes": []});
    problem(node.post("/peers/hello").json(&hello).send().unwrap(), 422);
    for wrong in [json!({"host": 1}), json!([]), json!({"host": closed.host(), "id": "x", "version": "1", "nodes": []})]
    {
        problem(node.post("/peers/hello").json(&wrong).send().unwrap(), 422);
    }
    problem(node.post_text("/peers/hello", "application/json", "nonsense"), 400);
    assert_eq!(node.json("/discover"), json!([]));
}

/// Symptom: who asked a node for a chain that another has was told that there is none. Cure: the answer says where it is, as far as
/// a live node says so in time.
#[test]
fn an_unknown_chain_is_answered_with_the_node_that_has_it() {
    let (a, b, c) = (TestNode::start(&[]), TestNode::start(&[]), TestNode::start(&[]));
    let id = b.bang(json!({"name": "orders", "difficulty": 0}))["id"].as_str().unwrap().to_owned();
    let detail = |node: &TestNode, path: &str| {
        problem(node.get(path).send().unwrap(), 404)["detail"].as_str().unwrap().to_owned()
    };
    let there = format!("http://{}/chains/", b.host());
    assert!(!detail(&a, "/chains/orders").contains(&there), "it does not know the other yet");
    for node in [&a, &c] {
        assert_eq!(discover(node, &b.host()).status(), 201);
    }
    for path in ["", "/stats", "/chain", "/transactions/0", "/pool"] {
        let detail = detail(&a, &format!("/chains/orders{path}"));
        assert!(detail.contains(&format!("{there}orders")), "{path}: {detail}");
    }
    assert!(detail(&c, &format!("/chains/{id}")).contains(&format!("{there}{id}")), "by its id as well");
    let refused = a.post("/chains/orders/inject").json(&json!({"data": 1})).send().unwrap();
    assert!(problem(refused, 404)["detail"].as_str().unwrap().contains(&there), "and to who would write");

    // What nobody has, or nobody can have, is answered as ever.
    for name in ["none", "ORDERS", "orders%2Fstats", "orders%3Fx", "%25", "peers"] {
        let detail = detail(&a, &format!("/chains/{name}/stats"));
        assert!(!detail.contains("has one"), "{name}: {detail}");
    }
    // Nodes ask each other whether they have it themselves, so that no question goes on and on.
    assert_eq!(b.json("/peers/chains/orders"), json!({"name": "orders", "id": id}));
    assert_eq!(b.json(&format!("/peers/chains/{id}"))["name"], "orders");
    let no = problem(a.get("/peers/chains/orders").send().unwrap(), 404);
    assert!(!no["detail"].as_str().unwrap().contains(&there), "{no}");

    // One that is gone is not named for longer than it counts as live, and a found place is not kept for a dead node.
    drop(b);
    eventually("the dead one is not named", || !detail(&a, "/chains/orders").contains(&there));
}

#[test]
fn unknown_chains_cost_other_nodes_a_bounded_number_of_calls() {
    let (hello, calls) = (
        json!({"host": "localhost:1", "id": "0".repeat(64), "version": "1", "nodes": []}).to_string(),
        Counter::default(),
    );
    let counted = calls.clone();
    let stub = serve_with(move |request| {
        if request.starts_with("GET /peers/chains/") {
            *counted.lock().unwrap() += 1;
            return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into();
        }
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{hello}", hello.len())
    });
    let node = TestNode::start(&[]);
    assert_eq!(discover(&node, &stub).status(), 201);
    let start = Instant::now();
    for number in 0..300 {
        problem(node.get(&format!("/chains/x{number}/stats")).send().unwrap(), 404);
    }
    let calls = *calls.lock().unwrap();
    let seconds = start.elapsed().as_secs() + 1;
    assert!(calls > 0 && calls <= 16 * seconds, "{calls} calls in {seconds} seconds");
}

/// Symptom: one node under two names would stand in the list, and in what is recorded, twice. Cure: an id stands there once.
#[test]
fn a_node_is_listed_once_whatever_it_is_called() {
    let (a, mut b) = (TestNode::start(&[]), TestNode::start(&[]));
    let port = b.host().trim_start_matches("localhost:").to_owned();
    for name in ["localhost", "127.0.0.1", "LOCALHOST", "localhost", "[::ffff:127.0.0.1]"] {
        let met = discover(&a, &format!("{name}:{port}"));
        assert_eq!(met.status(), 201, "{name}");
        assert_eq!(met.json::<Value>().unwrap().as_array().unwrap().len(), 1, "{name}");
    }
    assert_eq!(a.json("/discover").as_array().unwrap().len(), 1);
    // Another node takes the place of one that it replaces.
    assert_eq!(b.stop(), Some(0));
    let b = TestNode::start(&["--port", &port]);
    assert_eq!(discover(&a, &b.host()).status(), 201);
    let id = b.json("/")["id"].clone();
    eventually("the new one alone is listed", || {
        let live = a.json("/discover");
        live.as_array().unwrap().len() == 1 && live[0]["id"] == id
    });
    let host = a.host();
    let (data, folder) = a.kill();
    drop(b);
    let a = TestNode::open(&data, &["--port", host.trim_start_matches("localhost:")]).with(folder);
    let b = TestNode::start(&["--port", &port]);
    eventually("it is known once after a restart", || {
        let live = a.json("/discover");
        live.as_array().unwrap().len() == 1 && live[0]["id"] == b.json("/")["id"]
    });
}
