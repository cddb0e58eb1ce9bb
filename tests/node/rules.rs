//! Chains with rules, forks, and what may change of a chain: all that is no rule.

use std::{thread, time::Duration};

use ed25519_dalek::{Signer, SigningKey};
use qbc::core::json;
use serde_json::{Value, json};

use crate::support::{TestNode, eventually, header, problem};

/// Asserts that the chain does not take a transaction, and gives the problem.
fn refused(node: &TestNode, chain: &str, body: &Value, status: u16) -> Value {
    let size = node.size(chain);
    let problem = problem(node.post(&format!("{chain}/inject")).json(body).send().unwrap(), status);
    assert_eq!(node.size(chain), size, "a refused transaction changes nothing");
    problem
}

fn accepted(node: &TestNode, chain: &str, body: &Value) -> Value {
    let response = node.post(&format!("{chain}/inject")).json(body).send().unwrap();
    assert_eq!(response.status(), 202, "{}", response.text().unwrap());
    response.json().unwrap()
}

fn fork(node: &TestNode, chain: &str, body: Value) -> Value {
    let response = node.post(&format!("{chain}/fork")).json(&body).send().unwrap();
    assert_eq!(response.status(), 201, "{}", response.text().unwrap_or_default());
    assert_eq!(header(&response, "location"), format!("/chains/{}", body["name"].as_str().unwrap()));
    response.json().unwrap()
}

#[test]
fn a_bang_makes_a_chain_with_its_rules() {
    let node = TestNode::start(&[]);
    let rules =
        json!({"name": "a.b_c-1", "difficulty": 3, "schema": {"type": "object"}, "max_bytes": 100, "writers": null});
    let mut body = rules.clone();
    body["leap"] = json!({"every_ms": 60_000, "transactions": 7});
    body["replicas"] = json!(1);
    let response = node.post("/bang").json(&body).send().unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "location")), (201, "/chains/a.b_c-1".into()));
    let made: Value = response.json().unwrap();
    assert_eq!(made, node.json("/chains/a.b_c-1"));
    let mut whole = rules;
    whole["fork_of"] = Value::Null;
    assert_eq!((&made["rules"], &made["leap"], &made["replicas"]), (&whole, &body["leap"], &json!(1)));
    let stats = node.json("/chains/a.b_c-1/stats");
    assert_eq!((&made["stats"], &made["id"], &made["name"]), (&stats, &stats["id"], &stats["chain"]));
    assert_eq!(made["id"], node.json("/chains/a.b_c-1/quants/0")["hash"], "the id is the hash of the first quant");
    let bang = node.json("/chains/a.b_c-1/transactions/0");
    assert_eq!((&bang["kind"], &bang["data"]), (&json!("bang"), &whole));
    node.audit("/chains/a.b_c-1");

    let default = node.bang(json!({"name": "0"}));
    let rules =
        json!({"name": "0", "difficulty": 12, "schema": null, "max_bytes": 1 << 20, "writers": null, "fork_of": null});
    assert_eq!((&default["rules"], &default["leap"]), (&rules, &json!({})));
}

#[test]
fn a_malformed_bang_names_each_wrong_field() {
    let node = TestNode::start(&[]);
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    for (fields, pointer) in [
        (json!({"difficulty": 49}), "/difficulty"),
        (json!({"difficulty": -1}), "/difficulty"),
        (json!({"difficulty": 1.5}), "/difficulty"),
        (json!({"difficulty": "1"}), "/difficulty"),
        (json!({"difficulty": null}), "/difficulty"),
        (json!({"max_bytes": 0}), "/max_bytes"),
        (json!({"max_bytes": (4 << 20) + 1}), "/max_bytes"),
        (json!({"max_bytes": "1 MiB"}), "/max_bytes"),
        (json!({"schema": 5}), "/schema"),
        (json!({"schema": "{}"}), "/schema"),
        (json!({"schema": {"type": "objekt"}}), "/schema/type"),
        (json!({"schema": {"properties": {"a": {"minimum": "0"}}}}), "/schema/properties/a/minimum"),
        (json!({"schema": {"$ref": "http://127.0.0.1:9/schema.json"}}), "/schema"),
        (json!({"schema": {"$ref": "file:///etc/passwd"}}), "/schema"),
        (json!({"schema": {"pattern": "(?=a)"}}), "/schema/pattern"),
        (json!({"writers": []}), "/writers"),
        (json!({"writers": key}), "/writers"),
        (json!({"writers": [key, key.to_uppercase()]}), "/writers/1"),
        (json!({"writers": [key, &key[2..]]}), "/writers/1"),
        (json!({"writers": ["00".repeat(32)]}), "/writers/0"),
        (json!({"leap": {"every_ms": 9}}), "/leap/every_ms"),
        (json!({"leap": {"every_ms": 86_400_001}}), "/leap/every_ms"),
        (json!({"leap": {"transactions": 0}}), "/leap/transactions"),
        (json!({"leap": {"every": 1000}}), "/leap/every"),
        (json!({"leap": 1000}), "/leap"),
        (json!({"leap": {"transactions": 1.5}}), "/leap/transactions"),
        (json!({"replicas": 3}), "/replicas"),
        (json!({"replicas": "1"}), "/replicas"),
        (json!({"fork_of": null}), "/fork_of"),
        (json!({"dificulty": 1}), "/dificulty"),
        (json!({"a/b~c": 1}), "/a~1b~0c"),
        (json!({"name": "x".repeat(64)}), "/name"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "A"}), "/name"),
        (json!({"name": "-a"}), "/name"),
        (json!({"name": ".."}), "/name"),
        (json!({"name": "a/b"}), "/name"),
        (json!({"name": "a b"}), "/name"),
        (json!({"name": "é"}), "/name"),
        (json!({"name": "a\u{0}"}), "/name"),
        (json!({"name": 1}), "/name"),
    ] {
        let mut body = json!({"name": "x"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let problem = problem(node.post("/bang").json(&body).send().unwrap(), 422);
        let found = problem["errors"][0]["pointer"].as_str().unwrap_or_else(|| panic!("{fields}: {problem}"));
        // In a schema the checker may point at the keyword or at the schema around it.
        assert!(
            found == pointer || pointer.starts_with("/schema") && found.starts_with("/schema"),
            "{fields}: {problem}"
        );
    }
    let both = problem(node.post("/bang").json(&json!({"name": "x", "difficulty": 99, "max": 1})).send().unwrap(), 422);
    assert_eq!(both["errors"].as_array().unwrap().len(), 2, "all are named at once");
    let missing = problem(node.post("/bang").json(&json!({"difficulty": 1})).send().unwrap(), 422);
    assert_eq!(missing["errors"][0]["pointer"], "/name");
    problem(node.post("/bang").json(&json!([{"name": "x"}])).send().unwrap(), 422);
    problem(
        node.post("/bang").json(&json!({"name": "x", "schema": {"enum": ["x".repeat(300_000)]}})).send().unwrap(),
        422,
    );
    assert_eq!(node.json("/chains").as_array().unwrap().len(), 1, "none was made");
    assert_eq!(node.bang(json!({"name": "x".repeat(63), "schema": true, "leap": null}))["leap"], json!({}));
}

#[test]
fn a_name_is_given_once() {
    let node = TestNode::start(&[]);
    problem(node.post("/bang").json(&json!({"name": "qbc"})).send().unwrap(), 409);
    problem(node.post("/fork").json(&json!({"name": "qbc"})).send().unwrap(), 409);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let makers: Vec<_> = (0..16)
            .map(|at| (["/bang", "/fork"][at % 2], &node))
            .map(|(path, node)| {
                scope.spawn(move || {
                    node.post(path).json(&json!({"name": "one", "difficulty": 0})).send().unwrap().status().as_u16()
                })
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|&&status| status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|&&status| status == 409).count(), 15, "{statuses:?}");
    node.audit("/chains/one");
}

#[test]
fn a_schema_refuses_with_pointers_into_the_data() {
    let node = TestNode::start(&[]);
    let schema = json!({
        "$defs": {"name": {"type": "string", "pattern": "^[a-z]+$"}},
        "type": "object", "required": ["amount"], "additionalProperties": false,
        "properties": {"amount": {"type": "integer", "minimum": 1}, "names": {"items": {"$ref": "#/$defs/name"}}},
    });
    node.bang(json!({"name": "s", "difficulty": 0, "schema": schema}));
    let chain = "/chains/s";
    for (data, pointer) in [
        (json!({"amount": 0}), "/data/amount"),
        (json!({"amount": 1.5}), "/data/amount"),
        (json!({"amount": 1, "names": ["ok", "No"]}), "/data/names/1"),
        (json!({}), "/data"),
        (json!({"amount": 1, "a/b": 2}), "/data"),
        (json!("text"), "/data"),
    ] {
        let problem = refused(&node, chain, &json!({"data": data}), 422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{data}: {problem}");
    }
    let two = refused(&node, chain, &json!({"data": {"amount": 0, "names": ["0"]}}), 422);
    assert_eq!(two["errors"].as_array().unwrap().len(), 2, "all faults at once: {two}");
    let in_array = refused(&node, chain, &json!([{"data": {"amount": 1}}, {"data": {"amount": 0}}]), 422);
    assert_eq!(in_array["errors"][0]["pointer"], "/1/data/amount");
    accepted(&node, chain, &json!({"data": {"amount": 1.0, "names": ["ok"]}}));
    node.bang(json!({"name": "never", "difficulty": 0, "schema": false}));
    refused(&node, "/chains/never", &json!({"data": 1}), 422);
    node.leap(chain);
    node.audit(chain);
}

#[test]
fn max_bytes_bounds_the_canonical_data() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "m", "difficulty": 0, "max_bytes": 10}));
    for data in ["\"123456789\"", "\"\\u0001\\u0002\"", "[1,2,3,4,5]"] {
        problem(node.post_text("/chains/m/inject", "application/json", format!("{{\"data\":{data}}}")), 413);
    }
    // Ten bytes in canonical form, however they are written.
    for data in ["\"12345678\"", "[1.00, 2e0,\n3 ,  4,5e-1]".replace("5e-1", "5").as_str(), "\"\\u0031\\u0032345678\""]
    {
        let response = node.post_text("/chains/m/inject", "application/json", format!("{{\"data\":{data}}}"));
        assert_eq!(response.status().as_u16(), if data.starts_with('[') { 413 } else { 202 }, "{data}");
    }
    let long = |bytes: usize| json!({"data": "x".repeat(bytes - 2)});
    refused(&node, "", &long((1 << 20) + 1), 413);
    accepted(&node, "", &long(1 << 20));
    let in_array = refused(&node, "/chains/m", &json!([{"data": 1}, {"data": "x".repeat(20)}]), 413);
    assert_eq!(in_array["errors"][0]["pointer"], "/1/data");
    node.bang(json!({"name": "large", "difficulty": 0, "max_bytes": 4 << 20}));
    accepted(&node, "/chains/large", &long(4 << 20));
    refused(&node, "/chains/large", &json!([{"data": 1}, {"data": "x".repeat(4 << 20)}]), 413);
    node.leap("/chains/large");
    node.audit("/chains/large");
}

#[test]
fn writers_sign_what_they_inject() {
    let node = TestNode::start(&[]);
    let keys: Vec<_> = [1, 2, 3].map(|seed| SigningKey::from_bytes(&[seed; 32])).into();
    let public = |key: &SigningKey| hex::encode(key.verifying_key().to_bytes());
    let made = node.bang(json!({"name": "w", "difficulty": 0, "writers": [public(&keys[0]), public(&keys[1])]}));
    node.bang(json!({"name": "open", "difficulty": 0}));
    let signed = |key: &SigningKey, chain: &Value, body: Value| {
        let mut message = body.clone();
        message["chain"] = chain.clone();
        let mut signed = body;
        signed["signature"] = json!(hex::encode(key.sign(&json::canonical(&message)).to_bytes()));
        signed["signer"] = json!(public(key));
        signed
    };
    let (chain, id) = ("/chains/w", &made["id"]);
    let data = json!({"b": "é\u{1}😀", "a": 1.5});

    let unsigned = node.post("/chains/w/inject").json(&json!({"data": data})).send().unwrap();
    assert!(unsigned.headers().contains_key("www-authenticate"), "RFC 9110 section 15.5.2 demands it of a 401");
    problem(unsigned, 401);
    let good = signed(&keys[0], id, json!({"data": data}));
    refused(&node, chain, &signed(&keys[2], id, json!({"data": data})), 403);
    let other_chain = node.json("/stats")["id"].clone();
    refused(&node, chain, &signed(&keys[0], &other_chain, json!({"data": data})), 403);
    for (field, value) in [
        ("data", json!({"b": "é\u{1}😀", "a": 1.25})),
        ("id", json!("one")),
        ("signer", json!(public(&keys[1]))),
        ("signature", json!("00".repeat(64))),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        refused(&node, chain, &bad, 403);
        let problem = refused(&node, chain, &json!([good, bad]), 403);
        assert_eq!(problem["errors"][0]["pointer"], "/1/signature", "{problem}");
    }
    for (field, value) in [
        ("signature", json!("00")),
        ("signature", json!(good["signature"].as_str().unwrap().to_uppercase())),
        ("signature", json!(null)),
        ("signer", json!("zz".repeat(32))),
        ("signer", json!(1)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let problem = refused(&node, chain, &bad, 422);
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{problem}");
        let problem = refused(&node, chain, &json!([good, bad]), 422);
        assert_eq!(problem["errors"][0]["pointer"], format!("/1/{field}"), "{problem}");
    }
    for field in ["signer", "signature"] {
        let mut half = good.clone();
        half.as_object_mut().unwrap().remove(field);
        refused(&node, chain, &half, 422);
    }

    accepted(&node, chain, &good);
    let with_id = signed(&keys[1], id, json!({"data": data, "id": "one"}));
    let first = accepted(&node, chain, &with_id);
    assert_eq!(accepted(&node, chain, &with_id), first);
    refused(&node, chain, &signed(&keys[0], id, json!({"data": data, "id": "one"})), 409);
    let served = node.json(&format!("/chains/w/transactions/{}", first["index"]));
    assert_eq!((&served["signer"], &served["signature"]), (&with_id["signer"], &with_id["signature"]));
    // Anybody may sign where nobody has to, and a false signature is refused there as well.
    let open = node.json("/chains/open")["id"].clone();
    accepted(&node, "/chains/open", &signed(&keys[2], &open, json!({"data": 1})));
    refused(&node, "/chains/open", &signed(&keys[2], id, json!({"data": 1})), 403);

    // A form, a key in the header, and a line are signed the same way.
    let keyed = signed(&keys[0], id, json!({"data": "text", "id": "form"}));
    let form = format!(
        "data=text&signer={}&signature={}",
        keyed["signer"].as_str().unwrap(),
        keyed["signature"].as_str().unwrap()
    );
    let form = node.post("/chains/w/inject").header("idempotency-key", "form").body(form);
    assert_eq!(form.header("content-type", "application/x-www-form-urlencoded").send().unwrap().status(), 202);
    let lines = format!("{}\n{}\n", signed(&keys[1], id, json!({"data": 7})), json!({"data": 8}));
    let summary: Value = node.post_text("/chains/w/inject", "application/x-ndjson", lines).json().unwrap();
    assert_eq!((&summary["accepted"], &summary["errors"][0]["status"]), (&json!(1), &json!(401)));

    // A fork has an id of its own, so a signature for the parent says nothing there.
    node.leap(chain);
    let child = fork(&node, chain, json!({"name": "child"}));
    refused(&node, "/chains/child", &good, 403);
    accepted(&node, "/chains/child", &signed(&keys[0], &child["id"], json!({"data": data})));
    for chain in ["/chains/w", "/chains/open", "/chains/child"] {
        node.leap(chain);
        node.audit(chain);
    }
}

#[test]
fn a_chain_forks_at_each_of_its_quants() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "p", "difficulty": 0, "max_bytes": 1000}));
    // Sizes on both sides of a full tile of 256.
    for count in [1, 254, 1, 0, 300] {
        let array: Vec<_> = (0..count).map(|data| json!({"data": data})).collect();
        if !array.is_empty() {
            accepted(&node, "/chains/p", &json!(array));
        }
        node.leap("/chains/p");
    }
    node.inject("/chains/p", json!("pooled"));
    let parent = node.json("/chains/p/chain");
    let quants = parent.as_array().unwrap().len() as u64;
    for at in 0..quants {
        let chain = format!("/chains/f{at}");
        let made = fork(&node, "/chains/p", json!({"name": format!("f{at}"), "at": at}));
        let quant = &parent[at as usize];
        let of = json!({"chain": parent[0]["hash"], "index": at, "hash": quant["hash"]});
        assert_eq!((&made["rules"]["fork_of"], &made["rules"]["max_bytes"]), (&of, &json!(1000)));
        assert_eq!(made["stats"]["size"], quant["size"].as_u64().unwrap() + 1, "the shared transactions and the bang");
        assert_eq!((&made["stats"]["pooled"], &made["stats"]["length"]), (&json!(0), &json!(at + 2)));
        assert_eq!(node.inject(&chain, json!("own")), quant["size"].as_u64().unwrap() + 1);
        node.leap(&chain);
        let own = node.json(&format!("{chain}/chain"));
        assert_eq!(own.as_array().unwrap()[..=at as usize], parent.as_array().unwrap()[..=at as usize], "shared");
        assert_eq!(
            (&own[at as usize + 1]["previous_hash"], &own[at as usize + 1]["hash"]),
            (&quant["hash"], &made["id"])
        );
        node.audit(&chain);
    }
    // The newest where it is not said; the pool stays where it is.
    let newest = fork(&node, "/chains/p", json!({"name": "newest"}));
    assert_eq!(newest["rules"]["fork_of"]["index"], quants - 1);
    assert_eq!(node.json("/chains/p/pool")["count"], 1);
    node.audit("/chains/p");

    // A fork of a fork: behind, at, and before the place where they parted.
    for at in 0..5 {
        let chain = format!("/chains/g{at}");
        let made = fork(&node, "/chains/f2", json!({"name": format!("g{at}"), "at": at, "max_bytes": 500 + at}));
        assert_eq!(made["rules"]["max_bytes"], 500 + at);
        accepted(&node, &chain, &json!([{"data": 1}, {"data": 2}]));
        node.leap(&chain);
        node.audit(&chain);
    }
    for (body, pointer) in [
        (json!({"name": "x", "at": quants}), "/at"),
        (json!({"name": "x", "at": -1}), "/at"),
        (json!({"name": "x", "at": "0"}), "/at"),
        (json!({"name": "x", "at": null}), "/at"),
        (json!({"name": "x", "ta": 0}), "/ta"),
        (json!({"name": "x", "difficulty": 49}), "/difficulty"),
        (json!({"name": "X"}), "/name"),
        (json!({}), "/name"),
    ] {
        let problem = problem(node.post("/chains/p/fork").json(&body).send().unwrap(), 422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    problem(node.post("/chains/x/fork").json(&json!({"name": "y"})).send().unwrap(), 404);
}

#[test]
fn a_fork_changes_rules_from_there_on() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "p", "difficulty": 0, "schema": {"type": "integer"}}));
    accepted(&node, "/chains/p", &json!({"data": 1}));
    node.leap("/chains/p");
    fork(&node, "/chains/p", json!({"name": "same"}));
    refused(&node, "/chains/same", &json!({"data": "text"}), 422);
    let freed = fork(
        &node,
        "/chains/p",
        json!({"name": "text", "schema": {"type": "string"}, "difficulty": 4, "leap": {"transactions": 3}}),
    );
    assert_eq!((&freed["rules"]["difficulty"], &freed["leap"]), (&json!(4), &json!({"transactions": 3})));
    refused(&node, "/chains/text", &json!({"data": 1}), 422);
    accepted(&node, "/chains/text", &json!({"data": "text"}));
    fork(&node, "/chains/text", json!({"name": "any", "schema": null}));
    accepted(&node, "/chains/any", &json!([{"data": 1}, {"data": "text"}]));
    // Where an ancestor made the quant, the ancestor's rules are those that a fork there starts from.
    let old = fork(&node, "/chains/any", json!({"name": "old", "at": 1}));
    assert_eq!(old["rules"]["schema"], json!({"type": "integer"}));
    refused(&node, "/chains/p", &json!({"data": "text"}), 422);
    for chain in ["p", "same", "text", "any", "old"].map(|name| format!("/chains/{name}")) {
        let quant = node.leap(&chain);
        assert_eq!(quant["difficulty"], node.json(&chain)["rules"]["difficulty"]);
        node.audit(&chain);
    }
}

#[test]
fn what_is_no_rule_can_be_changed() {
    let node = TestNode::start(&[]);
    let patch = |path: &str, body: Value| node.patch(path).json(&body).send().unwrap();
    let changed = patch("/chains/qbc", json!({"leap": {"transactions": 1_000}, "replicas": 1}));
    assert_eq!(changed.status(), 200);
    let changed: Value = changed.json().unwrap();
    assert_eq!((&changed["leap"], &changed["name"]), (&json!({"transactions": 1_000}), &json!("qbc")));
    assert_eq!(changed, node.json("/chains/qbc"));
    assert_eq!(patch("/chains/qbc", json!({})).json::<Value>().unwrap(), changed, "nothing was asked for");
    for (body, pointer) in [
        (json!({"difficulty": 1}), "/difficulty"),
        (json!({"name": "new"}), "/name"),
        (json!({"leap": null, "rules": {}}), "/rules"),
        (json!({"leap": {"every_ms": 5}}), "/leap/every_ms"),
        (json!({"leap": null, "replicas": 2}), "/replicas"),
    ] {
        let problem = problem(patch("/chains/qbc", body.clone()), 422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    problem(patch("/chains/none", json!({"leap": null})), 404);
    assert_eq!(node.json("/chains/qbc"), changed, "a refused change changes nothing");
    let cleared: Value = patch("/chains/qbc", json!({"leap": null})).json().unwrap();
    assert_eq!(cleared["leap"], json!({}));
}

#[test]
fn a_chain_leaps_by_its_policy_also_after_a_restart() {
    let mut node = TestNode::start(&["--leap-every", "100ms"]);
    node.bang(json!({"name": "count", "difficulty": 0, "leap": {"transactions": 3}}));
    node.bang(json!({"name": "time", "difficulty": 0, "leap": {"every_ms": 50}}));
    node.bang(json!({"name": "hand", "difficulty": 0}));
    let pooled =
        |node: &TestNode, chain: &str| node.json(&format!("/chains/{chain}/stats"))["pooled"].as_u64().unwrap();
    for round in 1..=2 {
        for chain in ["qbc", "time", "hand", "count", "count"] {
            node.inject(&format!("/chains/{chain}"), json!(round));
        }
        eventually("time leaps", || pooled(&node, "time") == 0 && pooled(&node, "qbc") == 0);
        assert_eq!((pooled(&node, "count"), pooled(&node, "hand")), (2, round), "not enough for a leap yet");
        node.inject("/chains/count", json!("the third"));
        eventually("the third makes it leap", || pooled(&node, "count") == 0);
        assert_eq!(node.json("/chains/count/quants/latest")["transactions"].as_array().unwrap().len(), 3);
        let waited = node.post("/chains/time/inject?wait=leap").json(&json!({"data": 0})).send().unwrap();
        assert_eq!(waited.status(), 201);
        if round == 1 {
            // What is pooled when the node dies is due when it comes back.
            node.patch("/chains/time").json(&json!({"leap": {"every_ms": 86_400_000}})).send().unwrap();
            node.inject("/chains/time", json!("pooled"));
            node.patch("/chains/time").json(&json!({"leap": {"every_ms": 1_000}})).send().unwrap();
            let (data, folder) = node.kill();
            node = TestNode::open(&data, &[]).with(folder);
            eventually("the pooled one is sealed", || pooled(&node, "time") == 0);
            node.patch("/chains/time").json(&json!({"leap": {"every_ms": 50}})).send().unwrap();
        }
    }
    // With nothing pooled there is nothing to leap for.
    let length = node.json("/chains/time/stats")["length"].clone();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(node.json("/chains/time/stats")["length"], length);
    ["count", "time", "hand", "qbc"].iter().for_each(|chain| node.audit(&format!("/chains/{chain}")));
}

#[test]
fn a_changed_policy_holds_for_what_is_pooled_already() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "c", "difficulty": 0, "leap": {"transactions": 100}}));
    let patch =
        |leap: Value| assert_eq!(node.patch("/chains/c").json(&json!({"leap": leap})).send().unwrap().status(), 200);
    let length = || node.json("/chains/c/stats")["length"].as_u64().unwrap();
    node.inject("/chains/c", json!(1));
    patch(json!({"transactions": 1}));
    eventually("one is enough now", || length() == 2);
    node.inject("/chains/c", json!(2));
    eventually("one is enough", || length() == 3);
    patch(Value::Null);
    node.inject("/chains/c", json!(3));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(length(), 3, "by hand only");
    patch(json!({"every_ms": 10}));
    eventually("it is due now", || length() == 4);
    node.audit("/chains/c");
}

#[test]
fn a_changed_policy_that_is_not_due_makes_no_leap() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "c", "difficulty": 0, "leap": {"transactions": 100}}));
    node.inject("/chains/c", json!(1));
    for leap in [json!({"transactions": 50}), json!({"every_ms": 86_400_000, "transactions": 50})] {
        assert_eq!(node.patch("/chains/c").json(&json!({"leap": leap})).send().unwrap().status(), 200);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(node.json("/chains/c/stats")["length"], 1, "one is not fifty");
    }
}

#[test]
fn mining_ends_with_its_request() {
    let node = TestNode::start(&["--mining-threads", "1"]);
    // No machine finds 48 zero bits in this time.
    let impossible = json!({"name": "x", "difficulty": 48});
    let given_up = node.post("/bang").timeout(Duration::from_millis(300)).json(&impossible).send();
    assert!(given_up.is_err_and(|error| error.is_timeout()));
    node.bang(json!({"name": "x", "difficulty": 13}));
    node.leap("/chains/x");
    node.audit("/chains/x");
}

/// Symptom: 30,000 forks, each of the last, made `/readyz` take seconds and a restart minutes. Cause: each look-up walked up all
/// of them. Cure: a table that is searched, and a bound.
#[test]
fn forks_of_forks_end_at_a_bound() {
    let node = TestNode::start(&[]);
    node.bang(json!({ "name": "f0", "difficulty": 0 }));
    let fork = |from: usize| {
        let name = json!({ "name": format!("f{}", from + 1) });
        node.post(&format!("/chains/f{from}/fork")).json(&name).send().unwrap()
    };
    let deepest = qbc::limits::FORK_DEPTH;
    for from in 0..deepest {
        assert_eq!(fork(from).status(), 201, "{from}");
    }
    let refused = problem(fork(deepest), 422);
    assert!(refused["detail"].as_str().unwrap().contains("256 forks of forks"), "{refused}");
    let last = format!("/chains/f{deepest}");
    let index = node.inject(&last, json!("deep"));
    assert_eq!(index, deepest as u64 + 1);
    node.leap(&last);
    node.audit(&last);
    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &[]).with(folder);
    assert_eq!(node.json(&format!("{last}/transactions/{index}"))["data"], "deep");
}
