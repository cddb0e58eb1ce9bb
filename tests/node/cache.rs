//! What stands between a client and a node: proxies that strip a path, and caches that keep answers.

use std::io::{Read, Write};

use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::support::{TestNode, header, problem};

/// A request as a proxy passes it on.
fn through(node: &TestNode, method: &str, path: &str, body: Value, headers: &[(&str, &str)]) -> Response {
    let mut request = node.request(method.parse().unwrap(), path);
    if !body.is_null() {
        request = request.json(&body);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().unwrap()
}

/// Where a reference leads from a URL (RFC 3986 section 5).
fn resolve(base: &str, reference: &str) -> String {
    reqwest::Url::parse(base).unwrap().join(reference).unwrap().to_string()
}

/// Symptom: behind a proxy that serves the node below `/qbc/` and strips that, `Location` and `Link` led out of it. Cause: they
/// are absolute paths. Cure: the stripped path stands before them where the proxy names it, else they are relative.
#[test]
fn references_are_right_behind_a_proxy_that_strips_a_path() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "a", "difficulty": 0}));
    let proxies: [&[(&str, &str)]; 10] = [
        &[("x-forwarded-prefix", "/qbc")],
        &[("x-forwarded-prefix", "/qbc/"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "ledger.example")],
        &[("x-forwarded-for", "192.0.2.1")],
        &[("x-forwarded-host", "ledger.example"), ("x-forwarded-proto", "https")],
        &[("forwarded", "for=192.0.2.1;proto=https;host=ledger.example")],
        &[("via", "1.1 proxy")],
        // None of these names a path, so the answer is as without it.
        &[("x-forwarded-prefix", "//evil.example")],
        &[("x-forwarded-prefix", "https://evil.example")],
        &[("x-forwarded-prefix", "/a>; rel=\"next\", </evil")],
        &[("x-forwarded-prefix", "/evil/.."), ("x-forwarded-prefix", "/x")],
    ];
    let client = "https://ledger.example/qbc";
    for (number, proxy) in proxies.into_iter().enumerate() {
        let fork = format!("fork-{number}");
        for (method, path, body, there) in [
            ("POST", "/inject", json!({"data": 1}), "/transactions/"),
            ("POST", "/chains/a/inject", json!({"data": 1}), "/chains/a/transactions/"),
            ("GET", "/chains/a/leap", Value::Null, "/chains/a/quants/"),
            ("POST", "/leap", Value::Null, "/quants/"),
            ("POST", "/chains/a/fork", json!({"name": fork, "difficulty": 0}), &format!("/chains/{fork}")),
            ("POST", "/chains/a/transactions/1/erase", json!({"reason": "x"}), "/chains/a/transactions/"),
        ] {
            let response = through(&node, method, path, body, proxy);
            assert!(response.status().is_success(), "{method} {path}: {}", response.status());
            let location = resolve(&format!("{client}{path}"), &header(&response, "location"));
            assert!(location.starts_with(&format!("{client}{there}")), "{proxy:?} {path}: {location}");
            let at_node = location.strip_prefix(client).unwrap();
            assert_eq!(node.get(at_node).send().unwrap().status(), 200, "{proxy:?}: {location}");
        }
        for (path, next) in [
            ("/transactions?limit=1", "/transactions?from=1&limit=1"),
            ("/chains/a/transactions?limit=1", "/chains/a/transactions?from=1&limit=1"),
            ("/chains?limit=1", "/chains?after=a&limit=1"),
        ] {
            let response = through(&node, "GET", path, Value::Null, proxy);
            let link = header(&response, "link");
            let target =
                link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect("it is one link");
            assert_eq!(resolve(&format!("{client}{path}"), target), format!("{client}{next}"), "{proxy:?}");
        }
    }
    let direct = node.post("/chains/a/inject").json(&json!({"data": 1})).send().unwrap();
    assert!(header(&direct, "location").starts_with("/chains/a/transactions/"), "without a proxy it is a path");
}

/// Symptom: compressed and plain answers had one strong tag, and a `304` neither the `Vary` of its `200` nor a true
/// `Content-Length`, so that a cache gave gzip to clients that know none. Cure: RFC 9110 sections 8.8.3.3 and 15.4.5.
#[test]
fn each_encoding_has_a_tag_and_a_304_is_of_the_one_that_the_client_has() {
    let node = TestNode::start(&[]);
    let index = node.inject("", json!("x".repeat(5_000)));
    node.leap("");
    for path in [format!("/transactions/{index}"), "/quants/1".into(), format!("/transactions/{index}/receipt")] {
        let get = |coding: &str, held: &[&str]| {
            let mut request = node.get(&path).header("accept-encoding", coding);
            for held in held {
                request = request.header("if-none-match", *held);
            }
            request.send().unwrap()
        };
        let tags = ["identity", "gzip", "br", "zstd"].map(|coding| {
            let response = get(coding, &[]);
            let is_plain = coding == "identity";
            assert_eq!(header(&response, "content-encoding"), if is_plain { "" } else { coding });
            assert!(header(&response, "vary").ends_with("accept-encoding"), "{path} {coding}");
            header(&response, "etag")
        });
        let [plain, gzip, br, _] = &tags;
        assert!((1..tags.len()).all(|at| !tags[..at].contains(&tags[at])), "{tags:?}");
        for (coding, held, shown) in [
            ("gzip", vec![gzip.as_str()], gzip),
            ("gzip", vec![&format!("W/{gzip}")], gzip),
            ("gzip", vec![plain], plain),
            ("gzip, br", vec!["\"x\"", br], br),
            ("gzip", vec![&format!("\"x\", {br} , W/{gzip}")], gzip),
            ("identity", vec![gzip, plain], plain),
            ("gzip", vec!["*"], plain),
        ] {
            let response = get(coding, &held);
            assert_eq!(
                (response.status().as_u16(), &header(&response, "etag")),
                (304, shown),
                "{path} {coding} {held:?}"
            );
            assert!(header(&response, "vary").ends_with("accept-encoding"));
            assert!(!response.headers().contains_key("content-length"), "it would be that of the 200");
        }
        for (coding, held) in
            [("identity", vec![gzip.as_str()]), ("br", vec![gzip]), ("gzip;q=0", vec![gzip]), ("gzip", vec!["x"])]
        {
            assert_eq!(
                get(coding, &held).status(),
                200,
                "{path} {coding} {held:?}: the client cannot read what it has"
            );
        }
    }
}

#[test]
fn a_304_is_a_head_alone() {
    let node = TestNode::start(&[]);
    let tag = header(&node.get("/stats").send().unwrap(), "etag");
    for method in ["GET", "HEAD"] {
        let mut stream = node.connect();
        let ask =
            |last: &str| format!("{method} /stats HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}\r\n{last}\r\n");
        write!(stream, "{}{}", ask(""), ask("Connection: close\r\n")).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer = answer.to_ascii_lowercase();
        assert_eq!(answer.matches("http/1.1 304").count(), 2, "the connection goes on: {answer}");
        assert!(!answer.contains("content-length") && !answer.contains("transfer-encoding"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

#[test]
fn stats_are_asked_for_anew_and_mostly_the_same() {
    let node = TestNode::start(&[]);
    let tag = header(&node.get("/stats").send().unwrap(), "etag");
    let ask = |tags: &[&str]| {
        tags.iter().fold(node.get("/stats"), |request, tag| request.header("if-none-match", *tag)).send().unwrap()
    };
    for tags in [vec![tag.as_str()], vec!["*"], vec!["\"x\"", &tag], vec![&format!("\"x\",W/{tag}")]] {
        let unchanged = ask(&tags);
        assert_eq!((unchanged.status().as_u16(), header(&unchanged, "etag")), (304, tag.clone()), "{tags:?}");
        assert_eq!(header(&unchanged, "cache-control"), "no-cache");
    }
    node.inject("", json!(1));
    assert_eq!(ask(&[&tag]).status(), 200);
}

/// Symptom: whoever sent back the tag that came with a compressed answer would find the chain changed. Cure: both are one state.
#[test]
fn a_guard_takes_the_tag_of_any_encoding() {
    let node = TestNode::start(&[]);
    let next = node.size("");
    let inject = |tag: &str| node.post("/inject").header("if-match", tag).json(&json!({"data": 1})).send().unwrap();
    assert_eq!(inject(&format!("\"{next}-gzip\"")).status(), 202);
    problem(inject(&format!("\"{next}-gzip\"")), 412);
    let many: Vec<Value> = (0..50).map(|data| json!({"data": data})).collect();
    let response = node.post("/inject").header("accept-encoding", "gzip").json(&many).send().unwrap();
    assert_eq!(
        (header(&response, "content-encoding"), header(&response, "etag")),
        ("gzip".into(), format!("\"{}\"", next + 51))
    );
}

#[test]
fn the_form_of_a_chain_is_negotiated() {
    let node = TestNode::start(&[]);
    for (accept, media) in [
        (&["application/x-ndjson"][..], "application/x-ndjson"),
        (&["text/html", "application/x-ndjson"], "application/x-ndjson"),
        (&["application/x-ndjson;q=0, */*"], "application/json"),
        (&["application/json;q=0.1, application/x-ndjson;q=0.2"], "application/x-ndjson"),
        (&["application/json", "application/x-ndjson;q=0.5"], "application/json"),
        (&["*/*"], "application/json"),
        (&["text/csv"], "application/json"),
    ] {
        let request = accept.iter().fold(node.get("/chain"), |request, line| request.header("accept", *line));
        let response = request.send().unwrap();
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, media.into()), "{accept:?}");
        let varies = response.headers().get_all("vary").iter().any(|line| line.to_str().unwrap().contains("accept"));
        assert!(varies, "a cache must know that Accept matters");
    }
}
