//! Our own frozen vectors: what FORMAT, version 1, makes of `tests/vectors/inputs.json`, byte for byte.
//!
//! `chain.ndjson` and `fork.ndjson` are two chains as they are served, each quant behind what it seals; `receipts.ndjson`
//! holds receipts of both. They were made once, and confirmed with another program that shares no code with this one.
//! They are never made again: if this test fails, the code is wrong, or the format needs another version.

use std::{collections::BTreeMap, convert::Infallible, fs, path::Path, str::FromStr, sync::Arc};

use ed25519_dalek::{Signer, SigningKey};
use qbc::core::{
    chain::{Chain, bang_header, bang_transaction},
    count::Index,
    hash::Hash,
    json,
    merkle::{self, Edge},
    quant::{Header, Quant},
    rules::{ForkOf, Rules},
    transaction::{Record, Signed, Submission, Transaction},
    verify::{self, Verifier},
};
use serde_json::{Value, json};

/// The ids, so that a changed file is noticed as well.
const CHAIN: &str = "0058228e58ad7707dda4ec7cb885baed37a6e51e0da9edd3e9b5983fa0054b84";
const FORK: &str = "02fe573ebccee956426db1071b40f357b8703e3cb6d1cbead2adf86d600f6b8e";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)).unwrap()
}

fn text<'a>(step: &'a Value, name: &str) -> &'a str {
    step[name].as_str().unwrap_or_else(|| panic!("{step} has no {name}"))
}

fn parsed<T: FromStr<Err: std::fmt::Debug>>(step: &Value, name: &str) -> T {
    text(step, name).parse().unwrap()
}

fn salt(step: &Value) -> [u8; 16] {
    hex::decode(text(step, "salt")).unwrap().try_into().unwrap()
}

fn mined(header: Header) -> Quant {
    header.mine(0..u64::MAX).unwrap()
}

/// A chain as far as it was made.
#[derive(Clone)]
struct Made {
    chain: Chain,
    lines: Vec<String>,
    leaves: Vec<Hash>,
}

impl Made {
    fn bang(step: &Value, parent: Option<Made>) -> Made {
        let timestamp = parsed(step, "timestamp");
        let fields = json::parse(text(step, "bang").as_bytes()).unwrap();
        let rules = match &parent {
            None => Rules::from_value(&fields),
            Some(Made { chain, .. }) => {
                let of = ForkOf { chain: chain.id, index: chain.head.newest.index(), hash: chain.head.newest.hash() };
                chain.rules().fork(parsed(step, "name"), of).amend(fields.as_object().unwrap().clone())
            }
        };
        let rules = rules.ok().unwrap();
        let bang = bang_transaction(&rules, timestamp, salt(step));
        let (lines, leaves) = parent.as_ref().map(|made| (made.lines.clone(), made.leaves.clone())).unwrap_or_default();
        let parent: Option<(&Quant, Edge)> =
            parent.as_ref().map(|made| (&*made.chain.head.newest, (*made.chain.head.edge).clone()));
        let quant = mined(bang_header(&rules, &bang, parent.clone(), timestamp));
        Chain::check_bang(&rules, &bang, parent.clone(), &quant).unwrap();
        let edge = parent.map_or(Edge::new(), |(_, edge)| edge);
        let chain = Chain::bang(Arc::new(rules), &bang, edge, quant, 0, &mut |_| ());
        let mut made = Made { chain, lines, leaves };
        made.serve(&bang);
        made.serve_quant();
        made
    }

    fn inject(&mut self, step: &Value, keys: &BTreeMap<String, SigningKey>) {
        let value = json::parse(text(step, "inject").as_bytes()).unwrap();
        let id = step.get("id").map(|_| parsed(step, "id"));
        let signed = step.get("signer").map(|name| {
            let key = &keys[name.as_str().unwrap()];
            let mut message = json!({"chain": self.chain.id, "data": value});
            if let Some(id) = step.get("id") {
                message["id"] = id.clone();
            }
            let signature = key.sign(&json::canonical(&message)).to_bytes();
            Signed { signer: key.verifying_key().to_bytes(), signature }
        });
        let submission = Submission { data: json::canonical(&value), id, signed };
        self.chain.rules().check(self.chain.id, &submission, &value).unwrap();
        let transaction = Transaction::new(submission, None, parsed(step, "timestamp"), salt(step));
        self.chain.inject(&transaction, 0, &mut |_| ());
        self.serve(&transaction);
    }

    fn leap(&mut self, step: &Value) {
        let header = self.chain.head.cut(self.chain.rules().difficulty(), parsed(step, "leap"));
        self.chain.seal(mined(header));
        self.serve_quant();
    }

    fn serve(&mut self, transaction: &Transaction) {
        let mut record = Vec::new();
        transaction.write(Index::new(self.leaves.len() as u64), &mut record);
        self.lines.push(String::from_utf8(record).unwrap());
        self.leaves.push(transaction.hash());
    }

    fn serve_quant(&mut self) {
        self.lines.push(serde_json::to_string(&*self.chain.head.newest).unwrap());
    }

    fn receipt(&self, index: u64, quant: u64) -> String {
        let is_quant = |line: &&String| verify::is_quant(json::parse(line.as_bytes()).unwrap().as_object().unwrap());
        let record = self.lines.iter().filter(|line| !is_quant(line)).nth(index as usize).unwrap();
        let quant = self.lines.iter().filter(is_quant).nth(quant as usize).unwrap();
        let size = json::parse(quant.as_bytes()).unwrap()["size"].as_u64().unwrap();
        let Ok(path) = merkle::prove_inclusion(index, size, |_, _, _| Ok::<_, Infallible>(self.leaves.clone()));
        let path = serde_json::to_string(&path).unwrap();
        format!("{{\"chain\":\"{}\",\"transaction\":{record},\"quant\":{quant},\"path\":{path}}}", self.chain.id)
    }
}

/// The chain, its fork, and the receipts.
fn make() -> (Made, Made, Vec<String>) {
    let inputs = json::parse(read("inputs.json").as_bytes()).unwrap();
    let keys = inputs["keys"].as_object().unwrap().iter().map(|(name, seed)| {
        let seed: [u8; 32] = hex::decode(seed.as_str().unwrap()).unwrap().try_into().unwrap();
        (name.clone(), SigningKey::from_bytes(&seed))
    });
    let keys: BTreeMap<String, SigningKey> = keys.collect();
    let steps = |name: &str| inputs[name].as_array().unwrap().clone();
    let go_on = |mut made: Made, steps: &[Value]| {
        for step in steps {
            match step.get("inject") {
                Some(_) => made.inject(step, &keys),
                None => made.leap(step),
            }
        }
        made
    };
    let own = steps("chain");
    let behind_the_parent = inputs["fork_behind_step"].as_u64().unwrap() as usize + 1;
    let parent = go_on(Made::bang(&own[0], None), &own[1..behind_the_parent]);
    let chain = go_on(parent.clone(), &own[behind_the_parent..]);
    let own = steps("fork");
    let fork = go_on(Made::bang(&own[0], Some(parent)), &own[1..]);
    let receipts = steps("receipts").into_iter().map(|receipt| {
        let [of, index, quant] = receipt.as_array().unwrap().as_slice() else { panic!("{receipt}") };
        let made = if *of == "chain" { &chain } else { &fork };
        made.receipt(index.as_u64().unwrap(), quant.as_u64().unwrap())
    });
    let receipts = receipts.collect();
    (chain, fork, receipts)
}

fn verified(lines: &[String]) -> Verifier {
    let mut verifier = Verifier::new();
    for line in lines {
        let value = json::parse(line.as_bytes()).unwrap();
        if verify::is_quant(value.as_object().unwrap()) {
            verifier.quant(verify::quant(value).unwrap()).unwrap();
        } else {
            verifier.transaction(&Record::from_value(value).unwrap()).unwrap();
        }
    }
    verifier
}

#[test]
fn the_code_makes_the_frozen_bytes() {
    let (chain, fork, receipts) = make();
    for (name, made) in [("chain.ndjson", &chain.lines), ("fork.ndjson", &fork.lines), ("receipts.ndjson", &receipts)] {
        let frozen = read(name);
        let frozen: Vec<&str> = frozen.lines().collect();
        assert_eq!(frozen.len(), made.len(), "{name}");
        for (number, (frozen, made)) in frozen.iter().zip(made).enumerate() {
            assert_eq!(frozen, made, "{name}, line {}", number + 1);
        }
    }
}

#[test]
fn the_frozen_bytes_verify() {
    for (name, id, size) in [("chain.ndjson", CHAIN, 10), ("fork.ndjson", FORK, 10)] {
        let lines: Vec<String> = read(name).lines().map(str::to_owned).collect();
        let verifier = verified(&lines);
        assert_eq!((verifier.id().unwrap().to_string().as_str(), verifier.size().get()), (id, size), "{name}");
    }
    for line in read("receipts.ndjson").lines() {
        verify::receipt(json::parse(line.as_bytes()).unwrap()).unwrap();
    }
}
