//! Whom a node answers: by the host that a request is addressed to, and by the site whose page sent it.

use std::io::{Read, Write};

use reqwest::Method;
use serde_json::json;

use crate::support::{TestNode, problem};

/// Sends a request as it stands, and gives the status and the whole answer.
fn send(node: &TestNode, request: &str) -> (u16, String) {
    let mut stream = node.connect();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{request}: {answer}")), answer)
}

/// The status of `GET /stats` for a host.
fn asked_as(node: &TestNode, host: &str) -> (u16, String) {
    send(node, &format!("GET /stats HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// Symptom: a page of any site could read and write all of a node, on loopback too, once its own name led to the node's address
/// (DNS rebinding): the browser takes both for one site. Cause: the node answered to every name. Cure: it answers to its own.
#[test]
fn only_requests_for_the_nodes_own_names_are_answered() {
    let node =
        TestNode::start(&["--advertise", "Node.Example:5000", "--allow-host", "ledger.example,other.example:8443"]);
    for host in [
        "localhost",
        "LocalHost:1",
        "localhost.:5000",
        "localhost:",
        "127.0.0.1",
        "127.0.0.1.",
        "192.0.2.7:80",
        "0.0.0.0",
        "[::1]",
        "[::1]:5000",
        "[::ffff:127.0.0.1]",
        "[fe80::1%25eth0]:5000",
        "node.example",
        "NODE.example.:81",
        "ledger.example",
        "Ledger.Example:443",
        "other.example",
    ] {
        let (status, answer) = asked_as(&node, host);
        assert_eq!(status, 200, "{host}: {answer}");
    }
    for host in [
        "evil.example",
        "evil.example:5000",
        "localhost.evil.example",
        "evil-localhost",
        "evil.localhost",
        "localhost.localdomain",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "node.example.evil.example",
        "sub.ledger.example",
        "ledger-example",
        "ledger.example,localhost",
        "%6cocalhost",
        "node",
    ] {
        let (status, answer) = asked_as(&node, host);
        assert_eq!(status, 421, "{host}: {answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("--allow-host"), "the cure: {answer}");
    }
    for host in [
        "",
        " ",
        ":80",
        "::1",
        "a b",
        "localhost/x",
        "me@localhost",
        "localhost:x",
        "localhost:99999",
        "[::1",
        "http://localhost",
    ] {
        let (status, answer) = asked_as(&node, host);
        assert_eq!(status, 400, "{host}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    // Nothing that a proxy or a page adds makes a name one of the node's, and every route is covered.
    for request in [
        "GET /stats HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\nForwarded: host=localhost\r\n",
        "GET /leap HTTP/1.1\r\nHost: evil.example\r\nSec-Fetch-Site: same-origin\r\n",
        "POST /inject HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n",
        "GET /nothing HTTP/1.1\r\nHost: evil.example\r\n",
        "GET /peers/hello HTTP/1.1\r\nHost: evil.example\r\n",
        "OPTIONS /inject HTTP/1.1\r\nHost: evil.example\r\n",
        "GET /stats HTTP/1.0\r\nHost: evil.example\r\n",
    ] {
        assert_eq!(send(&node, &format!("{request}Connection: close\r\n\r\n")).0, 421, "{request}");
    }
    assert_eq!(node.json("/stats")["length"], 1);
}

#[test]
fn a_request_names_one_host() {
    let node = TestNode::start(&[]);
    for (head, expected) in [
        ("GET /stats HTTP/1.1", 400),
        ("GET /stats HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400),
        ("GET /stats HTTP/1.1\r\nHost: localhost\r\nhost: evil.example", 400),
        ("GET /stats HTTP/1.0\r\nHost: localhost\r\nHost: localhost", 400),
        // HTTP/1.0 did not know the header.
        ("GET /stats HTTP/1.0", 200),
        ("GET /stats HTTP/1.0\r\nHost: localhost", 200),
        // A target with a host of its own takes the place of the header (RFC 9112 section 3.2.2).
        ("GET http://localhost:5000/stats HTTP/1.1\r\nHost: localhost", 200),
        ("GET http://localhost/stats HTTP/1.1\r\nHost: evil.example", 200),
        ("GET http://evil.example/stats HTTP/1.1\r\nHost: localhost", 421),
        ("GET http://evil.example/stats HTTP/1.0", 421),
        ("GET http://localhost/stats HTTP/1.1", 400),
        ("GET http://me@localhost/stats HTTP/1.1\r\nHost: localhost", 400),
    ] {
        let (status, answer) = send(&node, &format!("{head}\r\nConnection: close\r\n\r\n"));
        assert_eq!(status, expected, "{head}: {answer}");
    }
}

/// Symptom: a page of another site could write and erase wherever browsers send no `Sec-Fetch-Site`, which they send over TLS and
/// to localhost alone. Cause: nothing else was looked at. Cure: `Origin` decides, then `Referer`, then `Sec-Fetch-Site`.
#[test]
fn a_write_is_judged_by_the_site_that_sent_it() {
    let ours = "https://app.example";
    let node = TestNode::start(&["--cors-origin", "https://App.example:443", "--allow-host", "ledger.example"]);
    let index = node.inject("", json!("secret"));
    let own = node.url.clone();
    let port = own.rsplit_once(':').unwrap().1.to_owned();
    let forged = [
        vec![("origin", "http://evil.example".to_owned())],
        vec![("origin", "null".into())],
        vec![("origin", "".into())],
        vec![("origin", "http://evil.example".into()), ("sec-fetch-site", "same-origin".into())],
        vec![("origin", "http://evil.example".into()), ("referer", own.clone())],
        vec![("origin", own.clone()), ("origin", "http://evil.example".into())],
        vec![("origin", format!("{own}, http://evil.example"))],
        vec![("origin", "http://127.0.0.1".into())],
        vec![("origin", format!("http://localhost:{port}"))],
        vec![("origin", format!("http://127.0.0.2:{port}"))],
        vec![("origin", format!("{own}.evil.example"))],
        vec![("origin", format!("http://evil.example@127.0.0.1:{port}"))],
        vec![("origin", format!("chrome-extension://127.0.0.1:{port}"))],
        vec![("origin", "http://app.example".into())],
        vec![("origin", "https://app.example:444".into())],
        vec![("origin", "https://sub.app.example".into())],
        vec![("referer", "http://evil.example/page?x#y".into())],
        vec![("referer", "http://evil.example".into()), ("sec-fetch-site", "same-origin".into())],
        vec![("referer", format!("http://127.0.0.1:1{port}/"))],
        vec![("referer", "http://localhost:3000/".into()), ("sec-fetch-site", "same-site".into())],
        vec![("referer", format!("{own}/")), ("sec-fetch-site", "cross-site".into())],
        vec![("sec-fetch-site", "cross-site".into())],
    ];
    let erase = format!("/transactions/{index}/erase");
    let (form, json) = ("application/x-www-form-urlencoded", "application/json");
    let writes = [
        (Method::GET, "/leap", "", ""),
        (Method::GET, "/chains/qbc/leap", "", ""),
        (Method::POST, "/leap", "", ""),
        (Method::POST, &erase, form, "reason=x"),
        (Method::POST, "/inject", form, "data=x"),
        (Method::POST, "/inject", "application/x-ndjson", "{\"data\":1}\n"),
        (Method::POST, "/inject", "text/plain", "{\"data\":1}"),
        (Method::POST, "/bang", json, r#"{"name":"evil"}"#),
        (Method::PATCH, "/chains/qbc", json, r#"{"leap":{"transactions":1}}"#),
        (Method::DELETE, "/import", json, "{}"),
        (Method::POST, "/discover", form, "host=localhost:1"),
        (Method::POST, "/nothing", "", ""),
    ];
    let request = |method: &Method, path: &str, media: &str, body: &str, signs: &[(&str, String)]| {
        let mut request = node.request(method.clone(), path).body(body.to_owned());
        if !media.is_empty() {
            request = request.header("content-type", media);
        }
        for (name, value) in signs {
            request = request.header(*name, value);
        }
        request.send().unwrap()
    };
    for signs in &forged {
        for (method, path, media, body) in &writes {
            let response = request(method, path, media, body, signs);
            assert_eq!(response.status(), 403, "{method} {path} {signs:?}");
            assert!(problem(response, 403)["detail"].as_str().unwrap().contains("--cors-origin"));
        }
        // Who may read is the browser's matter: it shows the answer to no page of another site.
        assert_eq!(request(&Method::GET, "/stats", "", "", signs).status(), 200, "{signs:?}");
    }
    let stats = node.json("/stats");
    assert_eq!((&stats["length"], &stats["size"]), (&json!(1), &json!(2)), "nothing was written");
    assert_eq!(node.json(&format!("/transactions/{index}"))["data"], "secret");

    for signs in [
        vec![],
        vec![("origin", own.clone())],
        vec![("origin", own.to_uppercase())],
        vec![("origin", own.clone()), ("sec-fetch-site", "same-origin".into())],
        vec![("origin", ours.into()), ("sec-fetch-site", "cross-site".into())],
        vec![("origin", own.clone()), ("referer", "http://evil.example/".into())],
        vec![("referer", format!("{own}/page"))],
        vec![("referer", format!("{ours}/page")), ("sec-fetch-site", "cross-site".into())],
        vec![("sec-fetch-site", "same-origin".into())],
        vec![("sec-fetch-site", "none".into())],
    ] {
        assert_eq!(request(&Method::GET, "/leap", "", "", &signs).status(), 201, "{signs:?}");
        assert_eq!(request(&Method::POST, "/inject", form, "data=x", &signs).status(), 202, "{signs:?}");
    }
    // A port that is not named is that of the origin's scheme, since a proxy may have taken TLS off.
    for (host, origin, expected) in [
        ("ledger.example", "https://ledger.example", 201),
        ("ledger.example", "http://ledger.example", 201),
        ("ledger.example:443", "https://ledger.example", 201),
        ("LEDGER.example.", "https://ledger.example", 201),
        ("ledger.example:443", "http://ledger.example", 403),
        ("ledger.example:8443", "https://ledger.example", 403),
        ("[::1]:5000", "http://[::1]:5000", 201),
        ("localhost:5000", "http://127.0.0.1:5000", 403),
    ] {
        let head = format!(
            "POST /leap HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(send(&node, &head).0, expected, "{origin} at {host}");
    }
    assert_eq!(
        send(&node, &format!("GET /leap HTTP/1.0\r\nOrigin: {own}\r\n\r\n")).0,
        403,
        "of an unknown host no origin is known"
    );
}
