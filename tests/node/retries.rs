//! Exact retries by id, and writes that are guarded by `If-Match`.

use std::{collections::HashSet, thread};

use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::support::{TestNode, header, problem};

fn send(node: &TestNode, chain: &str, body: &Value) -> Response {
    node.post(&format!("{chain}/inject")).json(body).send().unwrap()
}

/// Asserts that a transaction was accepted now, or that it was before, and gives the answer.
fn accepted(response: Response, replayed: bool) -> Value {
    assert_eq!(response.status(), 202);
    assert_eq!(header(&response, "idempotent-replayed"), if replayed { "true" } else { "" });
    response.json().unwrap()
}

#[test]
fn the_same_id_with_the_same_data_answers_with_the_first_acceptance() {
    let node = TestNode::start(&[]);
    let body = json!({"data": {"b": 1, "a": [1.5, "é"]}, "id": "order/1%"});
    let first = accepted(send(&node, "", &body), false);
    node.inject("", json!("between"));
    assert_eq!(accepted(send(&node, "", &body), true), first);

    // The same value, written otherwise.
    let other_text = r#"{ "id" : "order\u002f1%", "data": {"a":[15e-1,"\u00e9"],"b":1.0} }"#;
    let again = node.post_text("/inject", "application/json", other_text);
    assert_eq!(header(&again, "etag"), "\"3\"", "the next index, though it is a repetition");
    assert_eq!(header(&again, "location"), "/transactions/1");
    assert_eq!(accepted(again, true), first);

    for other in [json!({"b": 1, "a": [1.5, "e"]}), json!(null), json!({"b": "1", "a": [1.5, "é"]})] {
        let refused = problem(send(&node, "", &json!({"data": other, "id": "order/1%"})), 409);
        assert!(refused["detail"].as_str().unwrap().contains("transaction 1,"), "{refused}");
    }
    node.leap("");
    let mut sealed = first;
    sealed["state"] = json!("sealed");
    assert_eq!(accepted(send(&node, "", &body), true), sealed);
    assert_eq!(node.size(""), 3);
}

#[test]
fn the_header_idempotency_key_is_another_way_to_give_the_id() {
    let node = TestNode::start(&[]);
    let send = |key: &str, body: Value| node.post("/inject").header("idempotency-key", key).json(&body).send().unwrap();
    let first = accepted(send("\"key\"", json!({"data": 1})), false);
    assert_eq!(first["id"], "key");
    assert_eq!(accepted(send("key", json!({"data": 1})), true), first, "quoted or not");
    assert_eq!(accepted(send("key", json!({"data": 1, "id": "key"})), true), first);
    let mut in_array = first.clone();
    in_array["replayed"] = json!(true);
    assert_eq!(accepted(send("key", json!([{"data": 1}])), true), json!([in_array]));
    let form = node.post("/inject").header("idempotency-key", "form");
    let form = form.header("content-type", "application/x-www-form-urlencoded").body("data=x").send().unwrap();
    assert_eq!(accepted(form, false)["id"], "form");

    problem(send("key", json!({"data": 2})), 409);
    let differs = problem(send("other", json!({"data": 1, "id": "key"})), 422);
    assert_eq!(differs["errors"][0]["pointer"], "/id");
    problem(send("key", json!([{"data": 1}, {"data": 2}])), 400);
    for key in ["", "\"\"", "a b", "\"a b\"", &"k".repeat(129)] {
        problem(send(key, json!({"data": 1})), 400);
    }
    let twice = node.post("/inject").header("idempotency-key", "a").header("idempotency-key", "b");
    problem(twice.json(&json!({"data": 1})).send().unwrap(), 400);
    let bytes = reqwest::header::HeaderValue::from_bytes(b"k\xe9y").unwrap();
    problem(node.post("/inject").header("idempotency-key", bytes).json(&json!({"data": 1})).send().unwrap(), 400);
    assert_eq!(node.size(""), 3);
}

#[test]
fn an_id_is_printable_ascii_of_bounded_length() {
    let node = TestNode::start(&[]);
    for id in [
        json!(""),
        json!("a b"),
        json!("é"),
        json!("a\n"),
        json!("\u{7f}"),
        json!("x".repeat(129)),
        json!(1),
        json!(null),
    ] {
        let refused = problem(send(&node, "", &json!({"data": 1, "id": id})), 422);
        assert_eq!(refused["errors"][0]["pointer"], "/id", "{id}");
    }
    assert_eq!(node.size(""), 1);
    for id in ["~", "x".repeat(128).as_str(), "a/b?c=d&e#f%g\"h\\i", ".", "..", "receipt", "by-id"] {
        let index = accepted(send(&node, "", &json!({"data": id, "id": id})), false)["index"].clone();
        let path: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = node.raw("GET", format!("/transactions/by-id/{path}").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{id}: {head}");
        let found: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&found["index"], &found["id"]), (&index, &json!(id)));
    }
}

#[test]
fn retries_are_exact_after_a_crash_and_across_forks() {
    let mut node = TestNode::start(&[]);
    node.bang(json!({"name": "parent", "difficulty": 0}));
    let body = |id: &str| json!({"data": {"of": id}, "id": id});
    let before = accepted(send(&node, "/chains/parent", &body("before")), false);
    node.leap("/chains/parent");
    let after = accepted(send(&node, "/chains/parent", &body("after")), false);
    node.leap("/chains/parent");
    let fork = json!({"name": "child", "at": 1, "difficulty": 0});
    assert_eq!(node.post("/chains/parent/fork").json(&fork).send().unwrap().status(), 201);
    let fork = json!({"name": "grandchild"});
    assert_eq!(node.post("/chains/child/fork").json(&fork).send().unwrap().status(), 201);

    for round in 0..2 {
        for chain in ["/chains/parent", "/chains/child", "/chains/grandchild"] {
            let again = accepted(send(&node, chain, &body("before")), true);
            assert_eq!(
                (&again["index"], &again["hash"]),
                (&before["index"], &before["hash"]),
                "known from before the fork"
            );
            problem(send(&node, chain, &json!({"data": "other", "id": "before"})), 409);
        }
        let again = accepted(send(&node, "/chains/parent", &body("after")), true);
        assert_eq!((&again["index"], &again["timestamp"]), (&after["index"], &after["timestamp"]));
        // Behind the fork point the id is free, in each child of its own.
        for chain in ["/chains/child", "/chains/grandchild"] {
            let own = json!({"data": {"own": chain}, "id": "after"});
            let own = accepted(send(&node, chain, &own), round > 0);
            assert_ne!(own["hash"], after["hash"]);
        }
        if round == 0 {
            let (data, folder) = node.kill();
            node = TestNode::open(&data, &[]).with(folder);
        }
    }
    for chain in ["/chains/parent", "/chains/child", "/chains/grandchild"] {
        node.leap(chain);
        node.audit(chain);
    }
}

#[test]
fn of_32_at_once_with_one_id_exactly_one_is_new() {
    let node = TestNode::start(&[]);
    let body = json!({"data": "once", "id": "once"});
    let answers: Vec<(String, Value)> = thread::scope(|scope| {
        let senders: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    let response = send(&node, "", &body);
                    assert_eq!(response.status(), 202);
                    (header(&response, "idempotent-replayed"), response.json().unwrap())
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|(replayed, _)| replayed.is_empty()).count(), 1);
    assert!(answers.iter().all(|(_, answer)| *answer == answers[0].1), "all tell of the same acceptance");
    assert_eq!(node.size(""), 2);
}

#[test]
fn of_32_at_once_with_one_id_and_other_data_exactly_one_is_accepted() {
    let node = TestNode::start(&[]);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let senders: Vec<_> = (0..32)
            .map(|data| (json!({"data": data, "id": "mine"}), &node))
            .map(|(body, node)| scope.spawn(move || send(node, "", &body).status().as_u16()))
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|&&status| status == 202).count(), 1);
    assert_eq!(statuses.iter().filter(|&&status| status == 409).count(), 31);
    assert_eq!(node.size(""), 2);
}

#[test]
fn ids_hold_within_one_array_and_one_stream() {
    let node = TestNode::start(&[]);
    let one = json!({"data": 1, "id": "one"});
    let two = json!({"data": 2, "id": "two"});
    let answer = accepted(send(&node, "", &json!([one, {"data": 0}, one])), false);
    assert_eq!(answer[0], answer[2], "twice the same in one array is one transaction");
    assert_eq!(node.size(""), 3);

    problem(send(&node, "", &json!([two, {"data": 3, "id": "two"}])), 409);
    problem(send(&node, "", &json!([{"data": 3}, {"data": 3, "id": "one"}])), 409);
    assert_eq!(node.size(""), 3, "a conflict anywhere refuses the whole array");

    // Symptom: which elements of an array had been accepted before, nobody could tell.
    let replayed = |answer: &Value| {
        let mut answer = answer.clone();
        answer["replayed"] = json!(true);
        answer
    };
    let mixed = accepted(send(&node, "", &json!([one, two])), false);
    assert_eq!((&mixed[0], mixed[1].get("replayed")), (&replayed(&answer[0]), None));
    let all_repeated = accepted(send(&node, "", &json!([two, one])), true);
    assert_eq!((&all_repeated[0], &all_repeated[1]), (&replayed(&mixed[1]), &mixed[0]));

    let lines = format!(
        "{}\n{one}\n{}\n{}\n{two}\n",
        json!({"data": 3, "id": "three"}),
        json!({"data": 3, "id": "three"}),
        json!({"data": 9, "id": "three"})
    );
    let response = node.post_text("/inject", "application/x-ndjson", lines);
    assert_eq!(header(&response, "etag"), "\"5\"", "the next index, though the last line was a repetition");
    let summary: Value = response.json().unwrap();
    let counts = (&summary["accepted"], &summary["replayed"], &summary["refused"]);
    assert_eq!(counts, (&json!(1), &json!(3), &json!(1)), "{summary}");
    assert_eq!((&summary["errors"][0]["line"], &summary["errors"][0]["status"]), (&json!(4), &json!(409)));
    assert_eq!(node.size(""), 5);
    node.leap("");
    node.audit("");
}

fn guarded(node: &TestNode, path: &str, tag: &str, data: u64) -> Response {
    let request = node.post(path).header("if-match", tag);
    if path.ends_with("/leap") { request.send().unwrap() } else { request.json(&json!({"data": data})).send().unwrap() }
}

#[test]
fn of_many_guarded_writers_with_one_tag_exactly_one_wins() {
    let node = TestNode::start(&[]);
    let mut winners = HashSet::new();
    for _ in 0..5 {
        let tag = header(&node.get("/stats").send().unwrap(), "etag");
        let won: Vec<u64> = thread::scope(|scope| {
            let writers: Vec<_> = (0..16)
                .map(|data| (data, tag.clone(), &node))
                .map(|(data, tag, node)| scope.spawn(move || (guarded(node, "/inject", &tag, data), data)))
                .collect();
            writers
                .into_iter()
                .filter_map(|writer| {
                    let (response, data) = writer.join().unwrap();
                    if response.status() == 202 {
                        Some(data)
                    } else {
                        problem(response, 412);
                        None
                    }
                })
                .collect()
        });
        assert_eq!(won.len(), 1);
        let size = node.size("");
        assert_eq!(format!("\"{}\"", size - 1), tag);
        assert_eq!(node.json(&format!("/transactions/{}", size - 1))["data"], won[0]);
        winners.insert(won[0]);
    }
    node.leap("");
    node.audit("");
}

#[test]
fn a_guard_holds_only_while_nothing_got_in_between() {
    let node = TestNode::start(&[]);
    let tag = header(&guarded(&node, "/inject", "\"1\"", 0), "etag");
    assert_eq!(tag, "\"2\"", "the tag of an inject guards the next one");
    problem(guarded(&node, "/inject", "\"1\"", 0), 412);
    problem(guarded(&node, "/inject", "\"3\"", 0), 412);
    problem(guarded(&node, "/leap", "\"1\"", 0), 412);
    assert_eq!(node.json("/stats")["length"], 1, "a refused leap makes no quant");
    let leap = guarded(&node, "/leap", &tag, 0);
    assert_eq!((leap.status().as_u16(), header(&leap, "etag")), (201, "\"2.1\"".into()));
    problem(guarded(&node, "/leap", &tag, 0), 412);
    problem(guarded(&node, "/inject", &tag, 0), 412);
    let by_get = node.get("/leap").header("if-match", "\"7\"").send().unwrap();
    problem(by_get, 412);
    let array =
        node.post("/inject").header("if-match", "\"2.1\"").json(&json!([{"data": 1}, {"data": 2}])).send().unwrap();
    assert_eq!((array.status().as_u16(), header(&array, "etag")), (202, "\"4\"".into()));

    // A complete retry was accepted when its guard held.
    let body = json!({"data": 1, "id": "one"});
    let send = |body: &Value| node.post("/inject").header("if-match", "\"4\"").json(body).send().unwrap();
    accepted(send(&body), false);
    accepted(send(&body), true);
    problem(send(&json!([body, {"data": 2, "id": "two"}])), 412);
    problem(send(&json!({"data": 2, "id": "one"})), 409);
}

#[test]
fn a_guard_is_one_strong_entity_tag() {
    let node = TestNode::start(&[]);
    for path in ["/inject", "/leap"] {
        for tag in ["1", "\"1", "1\"", "", "'1'", "\"1\" \"2\"", "W/1", "\"1\", 1"] {
            problem(guarded(&node, path, tag, 0), 400);
        }
        for tag in ["W/\"1\"", "\"one\"", "\"01\"", "\"+1\"", "\"\"", "\"-1\"", "\"99999999999999999999\"", "\"1 \""] {
            problem(guarded(&node, path, tag, 0), 412);
        }
        for tag in ["*, \"1\"", "*, *", "\"1\" *", "w/\"1\"", "\"1\"\"1\""] {
            problem(guarded(&node, path, tag, 0), 400);
        }
        for tag in ["\"1.0\"", "\"1.1\"", "\"1,2\"", "\"1-lzma\"", "W/\"1\", W/\"2\"", "\"\u{e9}\""] {
            problem(guarded(&node, path, tag, 0), 412);
        }
        let weak = problem(guarded(&node, path, "W/\"1\"", 0), 412);
        assert!(weak["detail"].as_str().unwrap().contains("proxy"), "{weak}");
        let read = node.post(path).header("if-none-match", "\"1\"");
        let read = if path == "/leap" { read } else { read.json(&json!({"data": 1})) };
        problem(read.send().unwrap(), 400);
    }
    let stats = node.json("/stats");
    assert_eq!((&stats["size"], &stats["length"]), (&json!(1), &json!(1)));
    assert_eq!(guarded(&node, "/inject", "*", 0).status(), 202);
    assert_eq!(guarded(&node, "/inject", "W/\"1\", \"2\"", 0).status(), 202, "the strong tag of a list");
    assert_eq!(guarded(&node, "/inject", ", \"one\",\"3\" ,\"4\",", 0).status(), 202, "any of a list");
    let lines = node.post("/inject").header("if-match", "\"7\"").header("if-match", "\"4\"");
    assert_eq!(lines.json(&json!({"data": 1})).send().unwrap().status(), 202, "a list on several lines");
    assert_eq!(guarded(&node, "/leap", "*", 0).status(), 201);
}

/// Symptom: `If-Match` and `Idempotency-Key` were passed over where a write had no use for them, so a client took a write for
/// guarded that was not. Cure: each write honours them or refuses them.
#[test]
fn no_condition_is_passed_over() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "a"}));
    node.inject("/chains/a", json!(1));
    node.leap("/chains/a");
    let tag = header(&node.get("/chains/a/stats").send().unwrap(), "etag");
    assert_eq!(tag, "\"2.1\"");
    let patch = json!({"leap": {"transactions": 1_000}});
    for wrong in ["\"2\"", "\"2.0\"", "\"3\"", "W/\"2.1\""] {
        let fork = node.post("/chains/a/fork").header("if-match", wrong).json(&json!({"name": "b"}));
        problem(fork.send().unwrap(), 412);
        for body in [&patch, &json!({})] {
            problem(node.patch("/chains/a").header("if-match", wrong).json(body).send().unwrap(), 412);
        }
    }
    assert_eq!((node.json("/chains").as_array().unwrap().len(), &node.json("/chains/a")["leap"]), (2, &json!({})));
    for body in [&patch, &json!({})] {
        assert_eq!(node.patch("/chains/a").header("if-match", &tag).json(body).send().unwrap().status(), 200);
    }
    let fork = node.post("/chains/a/fork").header("if-match", &tag).json(&json!({"name": "b", "at": 0}));
    assert_eq!(fork.send().unwrap().status(), 201);

    // Nothing is there that a tag could be of.
    let bang =
        |name: &str, value: &str| node.post("/bang").header(name, value).json(&json!({"name": "c"})).send().unwrap();
    for value in ["*", "\"1\""] {
        problem(bang("if-match", value), 412);
    }
    problem(bang("if-none-match", "\"1\""), 400);
    problem(bang("idempotency-key", "k"), 400);
    problem(node.get("/chains/c").send().unwrap(), 404);
    assert_eq!(bang("if-none-match", "*").status(), 201);
    problem(bang("if-none-match", "*"), 412);
    problem(node.post("/bang").json(&json!({"name": "c"})).send().unwrap(), 409);
    problem(node.post("/discover").header("if-match", "*").json(&json!({"host": "localhost:1"})).send().unwrap(), 412);

    for (path, body) in [
        ("/leap", json!({})),
        ("/chains/a/fork", json!({"name": "d"})),
        ("/chains/a/transactions/1/erase", json!({"reason": "r"})),
    ] {
        for (name, value) in [("idempotency-key", "k"), ("if-none-match", "*")] {
            problem(node.post(path).header(name, value).json(&body).send().unwrap(), 400);
        }
    }
    let keyed = node.get("/leap").header("idempotency-key", "k").send().unwrap();
    assert!(problem(keyed, 400)["detail"].as_str().unwrap().contains("If-Match"));
    problem(node.patch("/chains/a").header("idempotency-key", "k").json(&patch).send().unwrap(), 400);
    assert_eq!((node.json("/stats")["length"].clone(), node.size("/chains/a")), (json!(1), 2));
}

/// Symptom: a guarded erasure through a fork was compared with the parent's size. Cure: the chain that the request names.
#[test]
fn an_erasure_is_guarded_by_the_chain_that_it_names() {
    let node = TestNode::start(&[]);
    node.inject("", json!("x"));
    node.inject("", json!("y"));
    node.leap("");
    assert_eq!(node.post("/fork").json(&json!({"name": "child"})).send().unwrap().status(), 201);
    node.inject("/chains/child", json!("own"));
    let erase = |chain: &str, index: u64, tag: &str| {
        let request = node.post(&format!("{chain}/transactions/{index}/erase")).header("if-match", tag);
        request.json(&json!({"reason": "r"})).send().unwrap()
    };
    for parents in ["\"3\"", "\"3.1\""] {
        problem(erase("/chains/child", 1, parents), 412);
    }
    let through = erase("/chains/child", 1, "\"5\"");
    assert_eq!((through.status().as_u16(), header(&through, "etag")), (201, "\"5\"".into()), "the child is as it was");
    problem(erase("", 2, "\"3.1\""), 412);
    let own = erase("", 2, "\"4\"");
    assert_eq!((own.status().as_u16(), header(&own, "etag")), (201, "\"5\"".into()));
}

/// What waits for a leap is answered with the state behind it, where nothing else came: a client goes on from there.
#[test]
fn the_tag_of_what_waited_for_a_leap_guards_the_next_write() {
    let node = TestNode::start(&["--leap-every", "10ms"]);
    let sealed = node.post("/inject?wait=leap").json(&json!({"data": 1})).send().unwrap();
    assert_eq!(sealed.status(), 201);
    assert_eq!(guarded(&node, "/inject", &header(&sealed, "etag"), 2).status(), 202);
}

/// Symptom: a client whose answer was lost just before its chain was frozen was told that what it had sent was refused.
#[test]
fn what_was_accepted_is_answered_again_whatever_the_rules_are_since() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "year", "difficulty": 0}));
    let body = json!({"data": {"n": 1}, "id": "one"});
    let first = accepted(send(&node, "/chains/year", &body), false);
    let fork = json!({"name": "numbers", "schema": {"type": "integer"}});
    node.leap("/chains/year");
    assert_eq!(node.post("/chains/year/fork").json(&fork).send().unwrap().status(), 201);
    assert_eq!(node.post("/chains/year/freeze").json(&json!({"reason": "over"})).send().unwrap().status(), 201);
    for chain in ["/chains/year", "/chains/numbers"] {
        assert_eq!(accepted(send(&node, chain, &body), true)["hash"], first["hash"]);
        assert_eq!(accepted(send(&node, chain, &json!([body])), true)[0]["index"], 1);
        let lines = node.post_text(&format!("{chain}/inject"), "application/x-ndjson", format!("{body}\n"));
        assert_eq!(lines.json::<Value>().unwrap()["replayed"], 1);
        // Together with what is new it is refused, as that is.
        let size = node.size(chain);
        let refused = send(&node, chain, &json!([body, {"data": {"n": 2}}]));
        assert_eq!(refused.status(), if chain == "/chains/year" { 409 } else { 422 });
        assert_eq!(node.size(chain), size);
    }
    // Other data under the id is refused as ever.
    problem(send(&node, "/chains/year", &json!({"data": 2, "id": "one"})), 409);
    problem(send(&node, "/chains/numbers", &json!({"data": 2, "id": "one"})), 409);
    problem(send(&node, "/chains/numbers", &json!({"data": {"n": 2}, "id": "one"})), 422);
}
