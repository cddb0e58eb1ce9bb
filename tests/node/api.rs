//! Reading: every route for it, pages, caches; and what holds for every route.

use std::{
    collections::HashSet,
    process::{Command, Stdio},
};

use qbc::core::{hash::Hash, json, merkle, verify};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestNode, header, problem};

/// A node whose chain `/chains/a` has three quants (sizes 1, 4, 4) and two transactions in its pool.
fn small() -> TestNode {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "a", "difficulty": 0}));
    let array = json!([{"data": 1}, {"data": [2, {"b": "é"}], "id": "two/2%"}, {"data": null}]);
    assert_eq!(node.post("/chains/a/inject").json(&array).send().unwrap().status(), 202);
    node.leap("/chains/a");
    node.leap("/chains/a");
    node.inject("/chains/a", json!("pooled"));
    node.inject("/chains/a", json!("pooled too"));
    node
}

const A: &str = "/chains/a";

fn indexes(values: &Value) -> Vec<u64> {
    values.as_array().unwrap().iter().map(|value| value["index"].as_u64().unwrap()).collect()
}

#[test]
fn the_original_interface_works_on_the_default_chain() {
    let node = TestNode::start(&[]);
    assert_eq!(node.post("/inject").json(&json!({"data": "{\"test\":\"test2\"}"})).send().unwrap().status(), 202);
    let leap = node.get("/leap").send().unwrap();
    assert_eq!((leap.status().as_u16(), header(&leap, "location")), (201, "/quants/1".into()));
    assert_eq!(header(&leap, "etag"), "\"2.1\"");
    let mut leap: Value = leap.json().unwrap();
    assert_eq!(leap.as_object_mut().unwrap().remove("message").unwrap(), "block creation successful");
    for body in ["{\"wait\":true}", "x", "[]"] {
        problem(node.post_text("/leap", "application/json", body), 422);
    }
    let empty: Value = node.post_text("/leap", "application/json", "{ }").json().unwrap();
    assert_eq!((&empty["size"], &empty["index"], &empty["root"]), (&json!(2), &json!(2), &leap["root"]));
    let chain = node.json("/chain");
    assert_eq!(indexes(&chain), [0, 1, 2]);
    assert_eq!(chain[1]["transactions"][0]["data"], "{\"test\":\"test2\"}");
    assert_eq!(chain[2]["transactions"], json!([]));
    leap["transactions"] = chain[1]["transactions"].clone();
    assert_eq!(chain[1], leap);
    assert_eq!((node.json("/discover"), node.json("/livez")), (json!([]), json!({"status": "ok"})));
    assert_eq!(node.json("/readyz"), json!({"status": "ok"}));
    assert_eq!(node.json("/")["name"], "qbc");
    assert_eq!(node.json("/chains/qbc/chain"), chain);
    node.audit("");
}

/// A prompt stood behind the last bracket: JSON came without a line end, but for streams of lines.
#[test]
fn every_json_answer_ends_its_line() {
    let node = small();
    let long = node.post("/chains/a/inject").json(&json!({"data": "x".repeat(300_000)})).send().unwrap();
    assert!(long.text().unwrap().ends_with("}\n"));
    node.leap(A);
    for path in [
        "/",
        "/openapi.json",
        "/guide",
        "/livez",
        "/readyz",
        "/chains",
        "/chains/a",
        "/discover",
        "/peers/hello",
        "/witness",
        "/chains/a/stats",
        "/chains/a/chain",
        "/chains/a/chain?transactions=false",
        "/chains/a/chain?from=9",
        "/chains/a/quants/latest",
        "/chains/a/pool",
        "/chains/a/transactions",
        "/chains/a/transactions/1",
        "/chains/a/transactions/1/receipt",
        "/chains/a/consistency?from=1",
        "/nowhere",
        "/chains/none/stats",
        "/chains/a/chain?from=x",
    ] {
        let answer = node.get(path).send().unwrap();
        let length = header(&answer, "content-length").parse::<usize>().ok();
        let body = answer.bytes().unwrap();
        assert!(body.ends_with(b"\n") && !body.ends_with(b"\n\n"), "{path}");
        serde_json::from_slice::<Value>(&body).unwrap();
        assert!(length.is_none_or(|length| length == body.len()), "{path}");
        let head = node.request(Method::HEAD, path).send().unwrap();
        assert_eq!(header(&head, "content-length").parse::<usize>().ok(), length, "{path}");
        assert!(head.bytes().unwrap().is_empty(), "{path}");
    }
    for path in ["/leap", "/inject", "/transactions/0/erase"] {
        let answer = node.post(path).send().unwrap().text().unwrap();
        assert!(answer.ends_with("}\n") && !answer.contains("\n\n"), "{path}: {answer}");
    }
    // Bytes that are hashed stay as they are.
    assert_eq!(node.get("/chains/a/tile/0/000.p/1").send().unwrap().bytes().unwrap().len(), 32);
}

#[test]
fn a_chain_is_read_whole_in_part_and_by_lines() {
    let node = small();
    let whole = node.json("/chains/a/chain");
    assert_eq!(indexes(&whole), [0, 1, 2]);
    let quant = |index: usize| whole[index].clone();
    for (query, expected) in [
        ("?from=1", json!([quant(1), quant(2)])),
        ("?from=1&limit=1", json!([quant(1)])),
        ("?limit=2", json!([quant(0), quant(1)])),
        ("?from=2&limit=100", json!([quant(2)])),
        ("?from=3", json!([])),
        ("?from=18446744073709551615&limit=18446744073709551615", json!([])),
        ("?limit=0", json!([])),
        ("?transactions=true", whole.clone()),
    ] {
        assert_eq!(node.json(&format!("/chains/a/chain{query}")), expected, "{query}");
    }
    let mut bare = quant(1);
    bare.as_object_mut().unwrap().remove("transactions");
    let fields = ["difficulty", "hash", "index", "previous_hash", "proof", "root", "size", "timestamp", "version"];
    assert_eq!(bare.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    assert_eq!(node.json("/chains/a/chain?transactions=false&from=1&limit=1"), json!([bare]));

    for (query, expected) in
        [("", whole.clone()), ("?transactions=false&from=1&limit=1", json!([bare])), ("?from=3", json!([]))]
    {
        let response =
            node.get(&format!("/chains/a/chain{query}")).header("accept", "application/x-ndjson").send().unwrap();
        assert_eq!(header(&response, "content-type"), "application/x-ndjson");
        let text = response.text().unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(json!(lines), expected);
        assert!(text.is_empty() || text.ends_with('\n'));
    }
}

#[test]
fn a_quant_is_found_by_index_hash_and_latest() {
    let node = small();
    let whole = node.json("/chains/a/chain");
    for (index, quant) in whole.as_array().unwrap().iter().enumerate() {
        assert_eq!(node.json(&format!("/chains/a/quants/{index}")), *quant);
        assert_eq!(node.json(&format!("/chains/a/quants/{}", quant["hash"].as_str().unwrap())), *quant);
    }
    assert_eq!(node.json("/chains/a/quants/latest"), whole[2]);
    let foreign = node.json("/quants/latest")["hash"].as_str().unwrap().to_owned();
    for missing in ["3", "18446744073709551615", &"0".repeat(64), &foreign] {
        problem(node.get(&format!("/chains/a/quants/{missing}")).send().unwrap(), 404);
    }
    for nonsense in ["-1", "01", "+1", "1.0", "newest", "18446744073709551616", "0x1", "%20", "%FF", &"A".repeat(64)] {
        let response = node.get(&format!("/chains/a/quants/{nonsense}")).send().unwrap();
        problem(response, 400);
    }
}

#[test]
fn pages_of_transactions_lead_to_the_end() {
    let node = small();
    let array: Vec<_> = (0..250).map(|data| json!({"data": data})).collect();
    node.post("/chains/a/inject").json(&array).send().unwrap();
    let all: Vec<u64> = (0..256).collect();
    for (query, sizes) in [
        ("", vec![100, 100, 56]),
        ("?limit=128", vec![128, 128]),
        ("?from=250&limit=5", vec![5, 1]),
        ("?limit=10000", vec![256]),
    ] {
        let pages = node.pages(&format!("/chains/a/transactions{query}"));
        assert_eq!(pages.iter().map(|page| page.as_array().unwrap().len()).collect::<Vec<_>>(), sizes, "{query}");
        let read: Vec<u64> = pages.iter().flat_map(indexes).collect();
        assert_eq!(read, all[256 - read.len()..], "{query}");
    }
    assert_eq!(node.json("/chains/a/transactions?from=256"), json!([]));
    assert_eq!(node.json("/chains/a/transactions?limit=0"), json!([]));

    let pool = node.pages("/chains/a/pool?limit=100");
    assert_eq!(pool.len(), 3);
    assert!(pool.iter().all(|page| page["count"] == 252));
    assert_eq!(pool.iter().flat_map(|page| indexes(&page["transactions"])).collect::<Vec<_>>(), all[4..]);
    assert_eq!(indexes(&node.json("/chains/a/pool?from=255")["transactions"]), [255]);
    assert_eq!(
        indexes(&node.json("/chains/a/pool?from=0&limit=1")["transactions"]),
        [4],
        "what is sealed is not pooled"
    );

    for path in ["transactions", "pool", "chain", "consistency", "receipt"] {
        for query in [
            "from=-1",
            "from=x",
            "from=",
            "limit=1.5",
            "limit=18446744073709551616",
            "form=1",
            "from=1&from=2",
            "from=%FF",
        ] {
            let path = if path == "receipt" { "/chains".into() } else { format!("/chains/a/{path}") };
            problem(node.get(&format!("{path}?{query}")).send().unwrap(), 400);
        }
    }
    for path in ["/chains/a/transactions", "/chains/a/pool", "/chains"] {
        problem(node.get(&format!("{path}?limit=10001")).send().unwrap(), 400);
    }
}

#[test]
fn a_page_of_large_transactions_comes_whole() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "a", "difficulty": 0, "max_bytes": 4 << 20}));
    for at in 0..6 {
        node.inject(A, json!([at, "x".repeat(4_000_000)]));
    }
    for (path, count) in [("/chains/a/transactions", 1), ("/chains/a/transactions?limit=3", 3)] {
        let pages = node.pages(path);
        assert_eq!(pages.len(), count);
        assert_eq!(pages.iter().flat_map(indexes).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    }
    assert_eq!(node.json("/chains/a/pool")["transactions"].as_array().unwrap().len(), 6);
}

#[test]
fn a_transaction_is_found_by_index_and_id() {
    let records = TestNode::start(&[]);
    // The chain's own records are never erased, and what is erased stays so; data can be.
    assert_eq!((records.inject("", json!("kept")), records.inject("", json!("erased"))), (1, 2));
    records.leap("");
    let erased = records.post("/transactions/2/erase").json(&json!({"reason": "asked for"})).send().unwrap();
    assert_eq!(erased.status(), 201);
    let is_immutable = |index: u64| {
        header(&records.get(&format!("/transactions/{index}")).send().unwrap(), "cache-control").contains("immutable")
    };
    assert_eq!([0, 1, 2, 3].map(is_immutable), [true, false, true, false]);
    records.leap("");
    assert_eq!([0, 1, 2, 3].map(is_immutable), [true, false, true, true]);
    let node = small();
    let sealed = node.json("/chains/a/transactions/2");
    assert_eq!((&sealed["data"], &sealed["id"]), (&json!([2, {"b": "é"}]), &json!("two/2%")));
    assert_eq!((&sealed["state"], &sealed["quant"]), (&json!("sealed"), &json!(1)));
    assert_eq!(node.json("/chains/a/transactions/by-id/two%2F2%25"), sealed);
    let pooled = node.json("/chains/a/transactions/4");
    assert_eq!((&pooled["state"], &pooled["quant"]), (&json!("pooled"), &Value::Null));
    assert_eq!(node.json("/chains/a/transactions/0")["kind"], "bang");
    for missing in ["6", "18446744073709551615", "by-id/two", "by-id/two%2F2", "by-id/two/2%25", "by-id/"] {
        problem(node.get(&format!("/chains/a/transactions/{missing}")).send().unwrap(), 404);
    }
    for nonsense in ["-1", "02", "two", "18446744073709551616", "by-id/%20", "by-id/%C3%A9", "by-id/%FF", "by-id/%00"] {
        problem(node.get(&format!("/chains/a/transactions/{nonsense}")).send().unwrap(), 400);
    }
    problem(node.get(&format!("/chains/a/transactions/by-id/{}", "x".repeat(129))).send().unwrap(), 400);
}

#[test]
fn a_receipt_holds_offline_and_comes_only_with_a_quant() {
    let node = small();
    let id = node.json("/chains/a/stats")["id"].clone();
    for index in 0..4 {
        let receipt = node.json(&format!("/chains/a/transactions/{index}/receipt"));
        assert_eq!((&receipt["chain"], receipt.as_object().unwrap().len()), (&id, 5));
        let text = receipt.to_string();
        let checked = verify::receipt(json::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!((checked.record.index.get(), checked.quant.index().get()), (index, u64::from(index > 0)));
        // Any other digit in any of its hashes is found.
        for hash in [&receipt["transaction"]["salt"], &receipt["quant"]["root"], &receipt["path"][0]] {
            let Some(hash) = hash.as_str() else { continue };
            let digit = if hash.starts_with('0') { "1" } else { "0" };
            let forged = text.replace(hash, &[digit, &hash[1..]].concat());
            assert!(verify::receipt(json::parse(forged.as_bytes()).unwrap()).is_err());
        }
    }
    problem(node.get("/chains/a/transactions/4/receipt").send().unwrap(), 409);
    problem(node.get("/chains/a/transactions/6/receipt").send().unwrap(), 404);
    problem(node.get("/chains/a/transactions/x/receipt").send().unwrap(), 400);
    let before = node.json("/chains/a/transactions/1/receipt");
    node.leap(A);
    assert_eq!(node.json("/chains/a/transactions/1/receipt"), before, "it stays as it is");
    assert_eq!(node.get("/chains/a/transactions/4/receipt").send().unwrap().status(), 200);
}

#[test]
fn consistency_holds_between_any_two_sizes() {
    let node = small();
    let hashes: Vec<Hash> = node
        .json("/chains/a/transactions")
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["hash"].as_str().unwrap().parse().unwrap())
        .collect();
    let root = |size: u64| {
        let mut edge = merkle::Edge::new();
        hashes[..size as usize].iter().for_each(|hash| edge.push(*hash, |_| ()));
        edge.root()
    };
    for to in 1..=6 {
        for from in 1..=to {
            let proof = node.json(&format!("/chains/a/consistency?from={from}&to={to}"));
            assert_eq!((&proof["from"], &proof["to"]), (&json!(from), &json!(to)));
            let path: Vec<Hash> = serde_json::from_value(proof["path"].clone()).unwrap();
            merkle::check_consistency(from, to, &path, root(from), root(to)).unwrap();
        }
    }
    assert_eq!(node.json("/chains/a/consistency?from=0&to=6")["path"], json!([]));
    assert_eq!(node.json("/chains/a/consistency?from=1")["to"], 4, "the newest quant's size where none is said");
    problem(node.get("/chains/a/consistency?from=1&to=7").send().unwrap(), 404);
    problem(node.get("/chains/a/consistency?from=5&to=4").send().unwrap(), 400);
    problem(node.get("/chains/a/consistency?to=4").send().unwrap(), 400);
}

#[test]
fn figures_and_their_tag_follow_each_write() {
    let node = small();
    let response = node.get("/chains/a/stats").send().unwrap();
    assert_eq!(header(&response, "etag"), "\"6\"");
    let stats: Value = response.json().unwrap();
    let newest = node.json("/chains/a/quants/latest");
    assert_eq!(
        (&stats["chain"], &stats["length"], &stats["size"], &stats["pooled"]),
        (&json!("a"), &json!(3), &json!(6), &json!(2))
    );
    assert_eq!((&stats["hash"], &stats["root"]), (&newest["hash"], &newest["root"]));
    assert_eq!(stats["id"], node.json("/chains/a/quants/0")["hash"]);
    node.audit(A);
    for (chain, size) in [("", 1), (A, 6)] {
        assert_eq!(header(&node.get(&format!("{chain}/stats")).send().unwrap(), "etag"), format!("\"{size}\""));
    }
}

#[test]
fn chains_are_listed_by_name_in_pages() {
    let node = TestNode::start(&[]);
    let mut names: Vec<String> = (0..249).map(|number| format!("c{}", number * 7919 % 1000)).collect();
    for name in &names {
        node.bang(json!({"name": name, "difficulty": 0}));
    }
    names.push("qbc".into());
    names.sort();
    for (query, pages) in [("", 3), ("?limit=125", 2), ("?limit=1000", 1), ("?limit=249", 2)] {
        let read = node.pages(&format!("/chains{query}"));
        assert_eq!(read.len(), pages, "{query}");
        let read: Vec<_> =
            read.iter().flat_map(|page| page.as_array().unwrap()).map(|chain| chain["name"].clone()).collect();
        assert_eq!(read, names);
    }
    let behind = node.json("/chains?after=c99z&limit=1");
    assert_eq!((&behind[0]["name"], &behind[0]["stats"]["size"]), (&json!("qbc"), &json!(1)));
    assert_eq!(node.json("/chains?after=qbc"), json!([]));
    assert_eq!(node.json("/chains?limit=0"), json!([]));
    assert_eq!(node.json("/chains?after=%C3%BF%20%2F"), json!([]));
    let one = node.json(&format!("/chains/{}", names[0]));
    assert_eq!(node.json("/chains?limit=1"), json!([one]));
}

#[test]
fn what_cannot_change_is_cacheable() {
    let node = small();
    let hash = node.json("/chains/a/quants/1")["hash"].as_str().unwrap().to_owned();
    for (path, immutable) in [
        ("quants/1".to_owned(), true),
        (format!("quants/{hash}"), true),
        ("quants/latest".into(), false),
        ("transactions/1".into(), false),
        ("transactions/by-id/two%2F2%25".into(), false),
        ("transactions/4".into(), false),
        ("transactions/1/receipt".into(), false),
        ("consistency?from=1&to=4".into(), true),
        ("consistency?from=1".into(), false),
    ] {
        let get = || node.get(&format!("/chains/a/{path}"));
        let response = get().send().unwrap();
        let (tag, cache) = (header(&response, "etag"), header(&response, "cache-control"));
        assert!(tag.starts_with('"') && tag.len() > 2, "{path}: {tag}");
        assert_eq!(cache.contains("immutable"), immutable, "{path}: {cache}");
        assert_eq!(cache.contains("no-cache"), !immutable, "{path}: {cache}");
        for same in [&tag, "*", &format!("W/{tag}"), &format!("\"x\", {tag}")] {
            let unchanged = get().header("if-none-match", same).send().unwrap();
            assert_eq!(unchanged.status(), 304, "{path} {same}");
            assert_eq!((header(&unchanged, "etag"), header(&unchanged, "cache-control")), (tag.clone(), cache.clone()));
            assert_eq!(unchanged.text().unwrap(), "");
        }
        assert_eq!(get().header("if-none-match", "\"x\"").send().unwrap().status(), 200);
    }
    let pooled = header(&node.get("/chains/a/transactions/4").send().unwrap(), "etag");
    let latest = header(&node.get("/chains/a/quants/latest").send().unwrap(), "etag");
    node.leap(A);
    for (path, old) in [("transactions/4", pooled), ("quants/latest", latest)] {
        let changed = node.get(&format!("/chains/a/{path}")).header("if-none-match", old).send().unwrap();
        assert_eq!(changed.status(), 200, "{path} is another now");
    }
}

#[test]
fn what_is_not_there_is_a_problem_document() {
    let node = TestNode::start(&[]);
    for path in [
        "/nothing",
        "/chains/none",
        "/chains/none/stats",
        "/chains/qbc/none",
        "/chains/qbc/discover",
        "/chain/",
        "//chain",
        "/chains/",
        "/chains/qbc/",
        "/Chain",
        "/quants",
        "/quants/0/0",
        "/openapi.json/x",
    ] {
        problem(node.get(path).send().unwrap(), 404);
    }
    problem(node.post("/chains/none/inject").json(&json!({"data": 1})).send().unwrap(), 404);
    let allowed = |response: &reqwest::blocking::Response| -> HashSet<String> {
        header(response, "allow").split(',').map(|method| method.trim().to_owned()).collect()
    };
    for (method, path, methods) in [
        (Method::GET, "/inject", "POST"),
        (Method::PUT, "/inject", "POST"),
        (Method::DELETE, "/leap", "GET,HEAD,POST"),
        (Method::HEAD, "/leap", "GET,POST"),
        (Method::HEAD, "/chains/qbc/leap", "GET,POST"),
        (Method::POST, "/chain", "GET,HEAD"),
        (Method::DELETE, "/transactions/0", "GET,HEAD"),
        (Method::PATCH, "/chains", "GET,HEAD"),
        (Method::PUT, "/chains/qbc", "GET,HEAD,PATCH"),
        (Method::GET, "/bang", "POST"),
        (Method::OPTIONS, "/fork", "POST"),
        (Method::POST, "/openapi.json", "GET,HEAD"),
        (Method::PATCH, "/", "GET,HEAD"),
        (Method::from_bytes(b"BREW").unwrap(), "/discover", "GET,HEAD,POST"),
    ] {
        let response = node.request(method.clone(), path).send().unwrap();
        assert_eq!(allowed(&response), methods.split(',').map(str::to_owned).collect(), "{method} {path}");
        if method == Method::HEAD {
            assert_eq!((response.status().as_u16(), response.text().unwrap().as_str()), (405, ""));
        } else {
            problem(response, 405);
        }
    }
    assert_eq!(node.json("/stats")["length"], 1, "a HEAD of /leap makes no quant");
}

#[test]
fn a_head_is_a_get_without_its_body() {
    let node = small();
    for path in [
        "/",
        "/chain",
        "/chains/a/chain",
        "/chains/a/quants/1",
        "/chains/a/transactions",
        "/chains/a/transactions/1",
        "/chains/a/transactions/1/receipt",
        "/chains/a/stats",
        "/chains",
        "/openapi.json",
        "/nothing",
    ] {
        let (head, get) = (node.request(Method::HEAD, path).send().unwrap(), node.get(path).send().unwrap());
        assert_eq!(head.status(), get.status(), "{path}");
        for name in ["content-type", "etag", "cache-control", "link"] {
            assert_eq!(header(&head, name), header(&get, name), "{path}: {name}");
        }
        assert_eq!(head.text().unwrap(), "");
    }
}

#[test]
fn each_answer_has_the_id_of_its_request() {
    let node = TestNode::start(&[]);
    for path in ["/stats", "/nothing", "/quants/x", "/leap"] {
        let given = node.get(path).header("x-request-id", "my-id/1").send().unwrap();
        assert_eq!(header(&given, "x-request-id"), "my-id/1", "{path}");
    }
    let made = |request: reqwest::blocking::RequestBuilder| header(&request.send().unwrap(), "x-request-id");
    let ids: HashSet<String> = (0..10).map(|_| made(node.get("/stats"))).collect();
    assert_eq!(ids.len(), 10);
    for unusable in ["", "a b", "a\tb", &"x".repeat(129)] {
        let id = made(node.get("/stats").header("x-request-id", unusable));
        assert!(id != unusable && id.len() == 32, "{unusable:?}: {id}");
    }
    let foreign =
        node.post("/inject").header("sec-fetch-site", "cross-site").header("x-request-id", "7").send().unwrap();
    assert_eq!((foreign.status().as_u16(), header(&foreign, "x-request-id")), (403, "7".into()));
}

#[test]
fn answers_are_compressed_for_those_who_ask() {
    let node = TestNode::start(&[]);
    node.inject("", json!("x".repeat(5_000)));
    node.leap("");
    let plain = node.get("/chain").send().unwrap();
    assert_eq!(header(&plain, "content-encoding"), "");
    assert!(header(&plain, "vary").to_ascii_lowercase().contains("accept-encoding"));
    let plain = plain.bytes().unwrap();
    for (accept, coding, magic) in [
        ("gzip", "gzip", &b"\x1f\x8b"[..]),
        ("br", "br", b""),
        ("zstd", "zstd", b"\x28\xb5\x2f\xfd"),
        ("br;q=0, gzip;q=0.5", "gzip", b"\x1f\x8b"),
        ("identity", "", b"["),
        ("rot13", "", b"["),
    ] {
        for path in ["/chain", "/openapi.json"] {
            let response = node.get(path).header("accept-encoding", accept).send().unwrap();
            assert_eq!(header(&response, "content-encoding"), coding, "{path} {accept}");
        }
        let body = node.get("/chain").header("accept-encoding", accept).send().unwrap().bytes().unwrap();
        assert!(body.starts_with(magic), "{accept}");
        assert_eq!(body.len() < plain.len() / 4, !coding.is_empty(), "{accept}: {} bytes", body.len());
        if coding == "gzip" {
            assert_eq!(gunzip(&body), plain);
        }
    }
    let small = node.get("/livez").header("accept-encoding", "gzip").send().unwrap();
    assert_eq!(header(&small, "content-encoding"), "", "it would only grow");
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut gzip.stdin.take().unwrap(), bytes).unwrap();
    gzip.wait_with_output().unwrap().stdout
}

#[test]
fn a_page_of_another_site_cannot_write() {
    let node = TestNode::start(&[]);
    let writes = [
        (Method::POST, "/inject"),
        (Method::POST, "/chains/qbc/inject"),
        (Method::POST, "/bang"),
        (Method::POST, "/fork"),
        (Method::GET, "/leap"),
        (Method::POST, "/leap"),
        (Method::GET, "/chains/qbc/leap"),
        (Method::PATCH, "/chains/qbc"),
        (Method::POST, "/discover"),
        (Method::POST, "/peers/hello"),
    ];
    for (method, path) in &writes {
        let request = node.request(method.clone(), path).header("sec-fetch-site", "cross-site");
        let request = request.header("origin", "https://evil.example").header("content-type", "application/json");
        problem(request.body(r#"{"data":1,"name":"evil","leap":null,"host":"localhost:1"}"#).send().unwrap(), 403);
    }
    let stats = node.json("/stats");
    assert_eq!((&stats["length"], &stats["size"]), (&json!(1), &json!(1)));
    assert_eq!(node.json("/chains").as_array().unwrap().len(), 1);
    for site in ["same-origin", "same-site", "none"] {
        let leap = node.get("/leap").header("sec-fetch-site", site).send().unwrap();
        assert_eq!(leap.status(), 201, "{site}");
    }
    node.bang(json!({"name": "leap", "difficulty": 0}));
    let named = node.get("/chains/leap").header("sec-fetch-site", "cross-site").send().unwrap();
    assert_eq!(named.status(), 200, "a chain of that name is read only");
    problem(node.get("/chains/leap/leap").header("sec-fetch-site", "cross-site").send().unwrap(), 403);
    let read = node
        .get("/chain")
        .header("sec-fetch-site", "cross-site")
        .header("origin", "https://evil.example")
        .send()
        .unwrap();
    assert_eq!(read.status(), 200);
    assert_eq!(header(&read, "access-control-allow-origin"), "", "but no page of another site can see it");
}

#[test]
fn a_configured_site_may_use_the_node() {
    let (ours, other) = ("https://ledger.example", "https://ledger.example.evil");
    let node = TestNode::start(&["--cors-origin", ours]);
    let preflight =
        node.request(Method::OPTIONS, "/inject").header("origin", ours).header("sec-fetch-site", "cross-site");
    let preflight = preflight
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type");
    let preflight = preflight.send().unwrap();
    assert!(preflight.status().is_success());
    assert_eq!(header(&preflight, "access-control-allow-origin"), ours);
    assert!(header(&preflight, "access-control-allow-methods").contains("POST"));
    assert!(!header(&preflight, "access-control-allow-headers").is_empty());
    let inject = |origin: &str| {
        let request = node.post("/inject").header("origin", origin).header("sec-fetch-site", "cross-site");
        request.json(&json!({"data": 1})).send().unwrap()
    };
    let allowed = inject(ours);
    assert_eq!((allowed.status().as_u16(), header(&allowed, "access-control-allow-origin")), (202, ours.into()));
    assert!(!header(&allowed, "access-control-expose-headers").is_empty(), "a page needs ETag and Location");
    let refused = inject(other);
    assert_ne!(header(&refused, "access-control-allow-origin"), other);
    problem(refused, 403);
    problem(node.get("/leap").header("sec-fetch-site", "cross-site").send().unwrap(), 403);
    assert_eq!(node.size(""), 2);
}

/// The routes that API.md promises, those of a chain without their prefix.
const CHAIN_ROUTES: [(&str, &str); 13] = [
    ("post", "/inject"),
    ("get", "/leap"),
    ("post", "/leap"),
    ("get", "/chain"),
    ("get", "/quants/{quant}"),
    ("get", "/transactions"),
    ("get", "/transactions/{index}"),
    ("get", "/transactions/by-id/{id}"),
    ("get", "/transactions/{index}/receipt"),
    ("get", "/consistency"),
    ("get", "/pool"),
    ("get", "/stats"),
    ("post", "/fork"),
];
const NODE_ROUTES: [(&str, &str); 14] = [
    ("post", "/bang"),
    ("post", "/import"),
    ("delete", "/import"),
    ("get", "/chains"),
    ("get", "/chains/{chain}"),
    ("patch", "/chains/{chain}"),
    ("post", "/discover"),
    ("get", "/discover"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/"),
    ("get", "/explorer/{file}"),
];

#[test]
fn the_openapi_document_has_every_route_and_no_dead_end() {
    let node = TestNode::start(&[]);
    let response = node.get("/openapi.json").send().unwrap();
    assert_eq!(header(&response, "content-type"), "application/json");
    let document: Value = response.json().unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    for (method, path) in CHAIN_ROUTES {
        for path in [path.to_owned(), format!("/chains/{{chain}}{path}")] {
            assert!(document["paths"][&path][method].is_object(), "{method} {path} is missing");
        }
    }
    for (method, path) in NODE_ROUTES {
        assert!(document["paths"][path][method].is_object(), "{method} {path} is missing");
    }

    let mut ids = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let place = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{place}: its operationId is not unique");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{place} has no responses");
            let parameters = [&item["parameters"], &operation["parameters"]];
            let named: HashSet<&str> = parameters
                .iter()
                .filter_map(|list| list.as_array())
                .flatten()
                .filter(|one| one["in"] == "path")
                .map(|one| one["name"].as_str().unwrap())
                .collect();
            let used: HashSet<&str> = path.split('{').skip(1).map(|part| part.split('}').next().unwrap()).collect();
            assert_eq!(named, used, "{place}: its path parameters");
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads away"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn answers_have_the_shape_that_the_openapi_document_says() {
    let node = small();
    let document = node.json("/openapi.json");
    let check = |path: &str, method: &str, status: &str, media: &str, answer: &Value| {
        let response = &document["paths"][path][method]["responses"][status];
        let schema = json!({"allOf": [response["content"][media]["schema"]], "components": document["components"]});
        let schema = jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let faults: Vec<_> =
            schema.iter_errors(answer).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        assert!(
            response["content"][media]["schema"].is_object() && faults.is_empty(),
            "{method} {path} {status}: {faults:?}"
        );
    };
    for (path, real) in [
        ("/chain", "chain"),
        ("/chain", "chain?transactions=false"),
        ("/quants/{quant}", "quants/1"),
        ("/transactions", "transactions"),
        ("/transactions/{index}", "transactions/2"),
        ("/transactions/{index}", "transactions/5"),
        ("/transactions/by-id/{id}", "transactions/by-id/two%2F2%25"),
        ("/transactions/{index}/receipt", "transactions/2/receipt"),
        ("/consistency", "consistency?from=1"),
        ("/pool", "pool"),
        ("/stats", "stats"),
    ] {
        check(
            &format!("/chains/{{chain}}{path}"),
            "get",
            "200",
            "application/json",
            &node.json(&format!("/chains/a/{real}")),
        );
    }
    for path in ["/chains", "/discover", "/livez", "/readyz", "/"] {
        check(path, "get", "200", "application/json", &node.json(path));
    }
    check("/chains/{chain}", "get", "200", "application/json", &node.json("/chains/a"));
    let write = |path: &str, status: &str, body: Value| {
        let response = node.post(path).json(&body).send().unwrap();
        assert_eq!(response.status().as_str(), status, "{path}");
        let path = path.split('?').next().unwrap();
        let media = header(&response, "content-type");
        check(path, "post", status, &media, &response.json().unwrap());
    };
    write("/inject", "202", json!({"data": 1}));
    write("/inject", "202", json!([{"data": 1, "id": "one"}, {"data": null}]));
    write("/inject?wait=leap&timeout=0", "504", json!({"data": 2}));
    write("/inject", "422", json!({"data": 1, "foo": 2}));
    write("/leap", "201", json!(null));
    write("/bang", "201", json!({"name": "b", "difficulty": 0, "leap": {"transactions": 5}}));
    write("/bang", "409", json!({"name": "b"}));
    write("/fork", "201", json!({"name": "f", "difficulty": 0}));
    write("/discover", "422", json!({"host": "localhost:1"}));
}

/// Symptom: clients made from the document sent the form for JSON, so that data was stored as the text of a Python value.
/// Cause: both had one schema. Cure: forms have schemas of their own, and are listed last.
#[test]
fn a_form_has_a_schema_of_its_own_behind_that_of_json() {
    let node = TestNode::start(&[]);
    let text = node.get("/openapi.json").send().unwrap().text().unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let mut forms = 0;
    // As it stands in the text: this reader sorts the names of an object.
    for bodies in text.split("\"requestBody\":").skip(1) {
        let content = bodies.split("\"responses\":").next().unwrap();
        let Some(form) = content.find("application/x-www-form-urlencoded") else { continue };
        assert!(content.find("application/json").unwrap() < form, "{content}");
        assert!(content.rfind("\"application/").unwrap() < form, "{content}");
        forms += 1;
    }
    assert_eq!(forms, 8, "inject, fork and erase twice, bang, discover");
    for (path, item) in document["paths"].as_object().unwrap() {
        let content = &item["post"]["requestBody"]["content"];
        let schema = |media: &str| content[media]["schema"]["$ref"].as_str().unwrap_or_default().to_owned();
        let form = schema("application/x-www-form-urlencoded");
        assert!(form.is_empty() || form != schema("application/json"), "{path}");
        assert!(form.is_empty() || form.ends_with("Form"), "{path}: {form}");
    }
}

/// What the document says of a body is what the node does with it.
#[test]
fn the_openapi_document_takes_the_bodies_that_the_node_takes() {
    let node = TestNode::start(&[]);
    let document = node.json("/openapi.json");
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let bang = |field: &str, value: Value| json!({"name": "other", "difficulty": 0, field: value});
    let inject = |field: &str, value: Value| json!({"data": 1, field: value});
    let bodies = [
        (
            "post",
            "/inject",
            vec![json!({"data": null}), json!([{"data": 1}, {"data": []}]), inject("id", json!("a/~!"))],
        ),
        ("post", "/inject", vec![inject("data", json!({"any": [1.5, true]}))]),
        ("post", "/bang", vec![bang("schema", json!(null)), bang("schema", json!(false)), bang("schema", json!({}))]),
        (
            "post",
            "/bang",
            vec![bang("writers", json!(null)), bang("writers", json!([key])), bang("replicas", json!(1))],
        ),
        (
            "post",
            "/bang",
            vec![bang("leap", json!(null)), bang("leap", json!({})), bang("max_bytes", json!(4_194_304))],
        ),
        ("post", "/bang", vec![bang("leap", json!({"every_ms": null, "transactions": 1}))]),
        ("post", "/bang", vec![bang("leap", json!({"every_ms": 86_400_000})), bang("max_bytes", json!(1))]),
        ("post", "/fork", vec![bang("at", json!(0)), bang("writers", json!(null))]),
        ("patch", "/chains/{chain}", vec![json!({}), json!({"leap": null}), json!({"replicas": 1, "leap": {}})]),
    ];
    let wrong = [
        (
            "post",
            "/inject",
            vec![json!({}), json!([]), json!([1]), json!(null), json!("data"), inject("more", json!(1))],
        ),
        ("post", "/inject", vec![inject("id", json!(null)), inject("id", json!("")), inject("id", json!("a b"))]),
        ("post", "/inject", vec![inject("id", json!("x".repeat(129))), inject("signer", json!(null))]),
        ("post", "/inject", vec![json!({"data": 1, "signer": key.to_uppercase(), "signature": "0".repeat(128)})]),
        (
            "post",
            "/bang",
            vec![json!({}), json!([]), json!({"name": null}), json!({"name": "-a"}), json!({"name": "A"})],
        ),
        ("post", "/bang", vec![json!({"name": "a".repeat(64)}), bang("more", json!(1)), bang("fork_of", json!(null))]),
        (
            "post",
            "/bang",
            vec![bang("difficulty", json!(null)), bang("difficulty", json!(49)), bang("schema", json!(1))],
        ),
        (
            "post",
            "/bang",
            vec![bang("max_bytes", json!(null)), bang("max_bytes", json!(0)), bang("writers", json!([]))],
        ),
        ("post", "/bang", vec![bang("max_bytes", json!(4_194_305)), bang("writers", json!([key, 1]))]),
        ("post", "/bang", vec![bang("replicas", json!(null)), bang("replicas", json!(2)), bang("leap", json!(1))]),
        ("post", "/bang", vec![bang("leap", json!({"every_ms": 9})), bang("leap", json!({"every_ms": 86_400_001}))]),
        ("post", "/bang", vec![bang("leap", json!({"transactions": 0})), bang("leap", json!({"more": 1}))]),
        ("post", "/fork", vec![bang("at", json!(null)), bang("at", json!(-1)), bang("replicas", json!(1))]),
        (
            "patch",
            "/chains/{chain}",
            vec![json!({"leap": {"every_ms": 1}}), json!({"replicas": null}), json!({"name": "a"})],
        ),
        ("post", "/discover", vec![json!({}), json!({"host": null}), json!({"host": "localhost:1", "more": 1})]),
        ("post", "/transactions/{index}/erase", vec![json!({}), json!({"reason": null}), json!({"reason": ""})]),
        ("post", "/transactions/{index}/erase", vec![json!({"reason": "x".repeat(1_025)})]),
        ("post", "/transactions/{index}/erase", vec![json!({"reason": "x", "signer": null}), json!({"index": 1})]),
    ];
    node.inject("", json!("to erase"));
    let mut names = 0;
    let mut check = |method: &str, path: &str, body: &Value, is_right: bool| {
        let schema = &document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"];
        let schema = json!({"allOf": [schema], "components": document["components"]});
        let schema = jsonschema::draft202012::new(&schema).unwrap();
        assert_eq!(schema.is_valid(body), is_right, "the document on {method} {path} {body}");
        let mut body = body.clone();
        if is_right && body["name"] == "other" {
            names += 1;
            body["name"] = json!(format!("other-{names}"));
        }
        let path = path.replace("{chain}", "qbc").replace("{index}", "1");
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let status = node.request(method, &path).json(&body).send().unwrap().status();
        assert_eq!(status.is_success(), is_right, "{path} {body}: {status}");
    };
    for (method, path, bodies) in &bodies {
        bodies.iter().for_each(|body| check(method, path, body, true));
    }
    for (method, path, bodies) in &wrong {
        bodies.iter().for_each(|body| check(method, path, body, false));
    }
}

/// A client of another author, made from the document, in another language: openapi-python-client from the Python Package Index.
#[test]
fn a_generated_client_gives_back_what_it_has_sent() {
    let Some(tool) = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("openapi-python-client"))
        .find(|tool| tool.exists())
    else {
        eprintln!("skipped: there is no openapi-python-client (pip install openapi-python-client) on the path");
        return;
    };
    let node = TestNode::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let document = file("openapi.json", &node.get("/openapi.json").send().unwrap().text().unwrap());
    let config = file("config.yml", "post_hooks: []\n");
    let mut generate = Command::new(&tool);
    generate.args(["generate", "--meta", "none", "--path"]).arg(document).arg("--config").arg(config);
    let generated = generate.arg("--output-path").arg(folder.path().join("client")).output().unwrap();
    assert!(generated.status.success(), "{}", String::from_utf8_lossy(&generated.stderr));
    // The Python that has the tool has the packages of its clients as well.
    let mut python = Command::new(std::fs::canonicalize(tool.parent().unwrap()).unwrap().join("python3"));
    python.arg(file("round_trip.py", ROUND_TRIP)).arg(&node.url);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    node.audit("");
}

const ROUND_TRIP: &str = r#"
import sys
from client import Client
from client.api.chain import chain, chain_inject, erase, inject, leap, receipt, transaction, transaction_by_id
from client.api.node import bang
from client.models import Bang, Erase, Inject, InjectWait, Problem

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
value = {"via": ["a generated client", 1.5, None, True]}
accepted = inject.sync(client=client, body=Inject(data=value, id="from/a client".replace(" ", "-")))
found = transaction.sync(accepted.index, client=client)
assert (found.data, found.state, found.quant) == (value, "pooled", None), found
waiting = inject.sync_detailed(client=client, body=Inject(data=2), wait=InjectWait.LEAP, timeout=0.0)
assert (waiting.status_code, waiting.parsed.index) == (504, 2), waiting
sealed = leap.sync(client=client)
assert receipt.sync(accepted.index, client=client).quant.index == sealed.index == 1
assert transaction_by_id.sync("from/a-client", client=client).quant == 1
listed = chain.sync(client=client)
assert [one.index for one in listed[1].transactions] == [1, 2], listed
assert bang.sync(client=client, body=Bang(name="b", difficulty=0, schema=None)).rules.difficulty == 0
assert chain_inject.sync("b", client=client, body=Inject(data=value)).index == 1
missing = chain_inject.sync("none", client=client, body=Inject(data=value))
assert isinstance(missing, Problem) and missing.status == 404, missing
assert erase.sync(1, client=client, body=Erase(reason="asked for")).erased == 1
assert not transaction.sync(1, client=client).data
"#;
