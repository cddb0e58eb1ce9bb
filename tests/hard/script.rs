//! What a test writes, what the node answered to each write, and whether it keeps to that.
//!
//! A run is a table of [`Step`]s. After a crash, [`check`] asks the node for the effect of each: what was acknowledged must be
//! there byte for byte, what was refused must not, and what was never answered may, but whole. A new kind of write is an
//! arm in [`Step::request`] and one in [`Done::check`].

use std::{collections::HashMap, thread};

use qbc::{core::json, limits};
use reqwest::{Method, StatusCode, blocking::RequestBuilder};
use serde_json::{Value, json};

use crate::support::{TestNode, files_with, header};

/// A write.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The name of the chain that it goes to.
    pub chain: &'static str,
    pub write: Write,
}

#[derive(Clone, Copy, Debug)]
pub enum Write {
    /// One transaction with an id.
    Single,
    /// So many in an array, with ids: all or none.
    Array(usize),
    /// So many lines, with ids, each with so many bytes more: each for itself.
    Lines(usize, usize),
    Leap,
    /// A new chain of this name, from nothing or from the newest quant of the step's chain.
    Bang(&'static str),
    Fork(&'static str),
    /// A leap policy with this number of transactions, which no pool reaches.
    Patch(u64),
    /// Erases a transaction: of this step of the same table, so many behind its first.
    Erase(usize, usize),
}

/// Writes of every kind, on a chain made by the node, one made by the script and a fork.
pub const ALL_KINDS: &[Step] = &[
    Step { chain: "qbc", write: Write::Single },
    Step { chain: "qbc", write: Write::Array(5) },
    Step { chain: "qbc", write: Write::Leap },
    Step { chain: "qbc", write: Write::Bang("second") },
    Step { chain: "second", write: Write::Lines(40, 100) },
    Step { chain: "second", write: Write::Patch(1_000_001) },
    Step { chain: "qbc", write: Write::Fork("fork") },
    Step { chain: "fork", write: Write::Single },
    // One that is sealed, and one that is not.
    Step { chain: "qbc", write: Write::Erase(1, 2) },
    Step { chain: "second", write: Write::Erase(4, 17) },
    Step { chain: "qbc", write: Write::Array(300) },
    Step { chain: "second", write: Write::Leap },
    Step { chain: "fork", write: Write::Leap },
    Step { chain: "second", write: Write::Patch(1_000_002) },
    Step { chain: "qbc", write: Write::Leap },
    Step { chain: "second", write: Write::Single },
];

/// Writes on chains that are there.
pub const ON_THREE_CHAINS: &[Step] = &[
    Step { chain: "qbc", write: Write::Single },
    Step { chain: "fork", write: Write::Lines(30, 200) },
    Step { chain: "second", write: Write::Array(20) },
    Step { chain: "second", write: Write::Leap },
    Step { chain: "qbc", write: Write::Lines(30, 10) },
    Step { chain: "qbc", write: Write::Leap },
    Step { chain: "fork", write: Write::Single },
    Step { chain: "fork", write: Write::Erase(1, 3) },
    Step { chain: "second", write: Write::Erase(2, 0) },
    Step { chain: "second", write: Write::Single },
];

/// Some segments of the log, which are prepared in the background or made at once where that comes too late.
pub const LARGE: &[Step] = &[
    Step { chain: "second", write: Write::Lines(600, 10_000) },
    Step { chain: "second", write: Write::Leap },
    Step { chain: "qbc", write: Write::Single },
    Step { chain: "second", write: Write::Lines(600, 10_000) },
    Step { chain: "fork", write: Write::Leap },
];

/// What came back.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A success, with its body.
    Acked(Value),
    /// An error.
    Refused(u16),
    /// The connection ended.
    Unanswered,
}

/// A step that was tried.
#[derive(Clone, Debug)]
pub struct Done {
    pub step: Step,
    /// Of this step alone. It is in its data, its ids and its request id.
    pub name: String,
    pub outcome: Outcome,
}

impl Step {
    fn route(&self, rest: &str) -> String {
        format!("/chains/{}{rest}", self.chain)
    }

    fn request(&self, node: &TestNode, name: &str) -> RequestBuilder {
        let submission = |at| json!({ "data": data(name, at, self.fill()), "id": id(name, at) });
        let request = match self.write {
            Write::Single => node.post(&self.route("/inject")).json(&submission(0)),
            Write::Array(count) => {
                node.post(&self.route("/inject")).json(&(0..count).map(submission).collect::<Vec<_>>())
            }
            Write::Lines(count, _) => {
                let lines: String = (0..count).map(|at| format!("{}\n", submission(at))).collect();
                node.post(&self.route("/inject")).header("content-type", "application/x-ndjson").body(lines)
            }
            Write::Leap => node.post(&self.route("/leap")),
            Write::Bang(new) => node.post("/bang").json(&json!({ "name": new, "difficulty": 0 })),
            Write::Fork(new) => node.post(&self.route("/fork")).json(&json!({ "name": new, "difficulty": 0 })),
            Write::Erase(..) => {
                let id = self.erased(name).expect("it erases one");
                let found = node.get(&self.route(&format!("/transactions/by-id/{id}"))).send();
                let index =
                    found.and_then(|found| found.json::<Value>()).ok().and_then(|found| found["index"].as_u64());
                // Where there is none, the node shall say so.
                let index = index.unwrap_or(u64::from(u32::MAX));
                node.post(&self.route(&format!("/transactions/{index}/erase"))).json(&json!({ "reason": "a test" }))
            }
            Write::Patch(count) => {
                node.request(Method::PATCH, &self.route("")).json(&json!({ "leap": { "transactions": count } }))
            }
        };
        request.header("x-request-id", name)
    }

    /// The id of the transaction that it erases.
    fn erased(&self, name: &str) -> Option<String> {
        let Write::Erase(step, at) = self.write else { return None };
        let prefix = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
        Some(id(&format!("{prefix}{step}"), at))
    }

    fn fill(&self) -> usize {
        if let Write::Lines(_, bytes) = self.write { bytes } else { 0 }
    }

    /// Transactions that it injects.
    fn count(&self) -> usize {
        match self.write {
            Write::Single => 1,
            Write::Array(count) | Write::Lines(count, _) => count,
            _ => 0,
        }
    }
}

fn data(name: &str, at: usize, fill: usize) -> Value {
    json!({ "of": name, "at": at, "fill": "x".repeat(fill) })
}

fn id(name: &str, at: usize) -> String {
    format!("{name}-{at}")
}

/// Tries all steps one after the other. After a full disk it waits until the node tries again.
pub fn run(node: &TestNode, steps: &[Step], prefix: &str) -> Vec<Done> {
    let mut done = Vec::with_capacity(steps.len());
    for (number, &step) in steps.iter().enumerate() {
        let name = format!("{prefix}{number}");
        let outcome = match step.request(node, &name).send() {
            Err(_) => Outcome::Unanswered,
            Ok(response) => {
                let status = response.status();
                match response.json() {
                    Err(_) => Outcome::Unanswered,
                    Ok(body) if status.is_success() => Outcome::Acked(body),
                    Ok(_) => Outcome::Refused(status.as_u16()),
                }
            }
        };
        if matches!(outcome, Outcome::Refused(507)) {
            thread::sleep(limits::FULL_PAUSE);
        }
        done.push(Done { step, name, outcome });
    }
    done
}

/// How the node is asked: one that fails stop cannot answer repeated writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    ReadsAlone,
    RepeatsToo,
}

/// A node that is checked.
struct View<'a> {
    node: &'a TestNode,
    asked: Asked,
    /// What came back to the erasures, by the ids that they erase.
    erasures: HashMap<String, &'a Outcome>,
}

/// Asserts that the node has what was acknowledged, nothing of what was refused, and nothing else.
pub fn check(node: &TestNode, done: &[Done], asked: Asked) {
    let erasures = done.iter().filter_map(|done| Some((done.step.erased(&done.name)?, &done.outcome))).collect();
    let view = View { node, asked, erasures };
    let mut found: HashMap<&str, u64> = HashMap::new();
    let mut leaps: HashMap<&str, u64> = HashMap::new();
    for done in done {
        done.check_status(&view);
        *found.entry(done.step.chain).or_default() += done.check(&view);
        if done.is(Write::Leap) && !done.is_refused() {
            *leaps.entry(done.step.chain).or_default() += 1;
        }
    }
    check_policies(node, done);
    for chain in node.json("/chains?limit=1000").as_array().unwrap() {
        let name = chain["name"].as_str().unwrap();
        let is_ours = name == "qbc" || done.iter().any(|done| done.made() == Some(name));
        assert!(is_ours, "nobody made the chain {name}");
        node.audit(&format!("/chains/{name}"));
        let (mut size, mut quants) = (1 + found.get(name).copied().unwrap_or(0), 1);
        if let Some(of) = chain["rules"]["fork_of"].as_object() {
            let shared = node.json(&format!("/chains/{name}/quants/{}", of["index"]));
            size += shared["size"].as_u64().unwrap();
            quants += shared["index"].as_u64().unwrap() + 1;
        }
        let stats = &chain["stats"];
        assert_eq!(stats["size"], size, "{name} has transactions that nobody injected, or one twice");
        let length = stats["length"].as_u64().unwrap();
        let most = quants + leaps.get(name).copied().unwrap_or(0);
        assert!(length <= most, "{name} has {length} quants, but {most} were asked for");
    }
}

/// The newest acknowledged policy of a chain, or one that was asked for after it and never answered.
fn check_policies(node: &TestNode, done: &[Done]) {
    let mut allowed: HashMap<&str, Vec<Value>> = HashMap::new();
    for done in done {
        let Write::Patch(count) = done.step.write else { continue };
        let policies = allowed.entry(done.step.chain).or_insert_with(|| vec![Value::Null]);
        match done.outcome {
            Outcome::Acked(_) => *policies = vec![json!(count)],
            Outcome::Unanswered => policies.push(json!(count)),
            Outcome::Refused(_) => {}
        }
    }
    for (chain, policies) in allowed {
        let response = node.get(&format!("/chains/{chain}")).send().unwrap();
        if response.status() == StatusCode::OK {
            let policy = response.json::<Value>().unwrap()["leap"]["transactions"].clone();
            assert!(policies.contains(&policy), "{chain} has the policy {policy}, allowed are {policies:?}");
        }
    }
}

impl Done {
    fn is(&self, write: Write) -> bool {
        std::mem::discriminant(&self.step.write) == std::mem::discriminant(&write)
    }

    fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused(_))
    }

    /// The chain that it makes.
    fn made(&self) -> Option<&'static str> {
        match self.step.write {
            Write::Bang(new) | Write::Fork(new) => Some(new),
            _ => None,
        }
    }

    /// A refusal names the fault: failed, full, or there is no such chain or transaction.
    fn check_status(&self, view: &View) {
        let Outcome::Refused(status) = self.outcome else { return };
        let is_missing = || match self.step.erased(&self.name) {
            None => view.node.get(&self.step.route("")).send().unwrap().status() == StatusCode::NOT_FOUND,
            Some(id) => self.find_id(view, &id).is_none(),
        };
        assert!(status == 503 || status == 507 || status == 404 && is_missing(), "{self:?}");
    }

    /// Asserts that its effect is there or is not, as it was answered, and gives how many of its transactions are.
    fn check(&self, view: &View) -> u64 {
        match (self.step.write, &self.outcome) {
            (Write::Leap, Outcome::Acked(quant)) => {
                let hash = quant["hash"].as_str().unwrap();
                let found = view.node.json(&self.step.route(&format!("/quants/{hash}")));
                assert_eq!((&found["index"], &found["root"]), (&quant["index"], &quant["root"]), "{self:?}");
            }
            // `check` counts quants, and compares policies.
            (Write::Leap | Write::Patch(_), _) => {}
            (Write::Bang(new) | Write::Fork(new), outcome) => {
                let response = view.node.get(&format!("/chains/{new}")).send().unwrap();
                match outcome {
                    Outcome::Acked(made) => assert_eq!(response.json::<Value>().unwrap()["id"], made["id"], "{self:?}"),
                    Outcome::Refused(_) => assert_eq!(response.status(), StatusCode::NOT_FOUND, "{self:?}"),
                    Outcome::Unanswered => {}
                }
            }
            (Write::Single | Write::Array(_) | Write::Lines(..), _) => {
                return self.check_transactions(view);
            }
            // What is left of the erased is compared where it was injected; here its record counts.
            (Write::Erase(..), _) => {
                let id = self.step.erased(&self.name).unwrap();
                let left = self.find_id(view, &id).filter(|left| left.get("erased").is_some());
                return u64::from(left.is_some_and(|left| self.check_record(view, &id, &left)));
            }
        }
        0
    }

    fn check_transactions(&self, view: &View) -> u64 {
        let count = self.step.count();
        // Of very many a part is looked up, the first and the last among them, and the size of the chain tells of the rest.
        let step = (count / 400).max(1);
        let present: Vec<Option<Value>> =
            (0..count).step_by(step).chain((step > 1).then_some(count - 1)).map(|at| self.find(view, at)).collect();
        let is_whole = present.iter().all(Option::is_some);
        let found = present.iter().flatten().count();
        match (&self.outcome, self.step.write) {
            (Outcome::Acked(answer), Write::Lines(..)) => {
                let accepted = answer["accepted"].as_u64().unwrap() + answer["replayed"].as_u64().unwrap();
                let refused: Vec<usize> = answer["errors"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|error| error["line"].as_u64().unwrap() as usize - 1)
                    .collect();
                let name = &self.name;
                assert!(step > 1 || accepted == found as u64, "{name}: {accepted} accepted, {found} found");
                // Before the first that was refused, all were accepted.
                let front = refused.first().map_or(count, |first| *first);
                for (at, present) in (0..count).step_by(step).zip(&present).take_while(|(at, _)| *at < front) {
                    assert!(present.is_some(), "{name}: line {} was accepted and is lost", at + 1);
                }
                for at in refused {
                    assert!(self.find(view, at).is_none(), "{name}: line {} was refused and is there", at + 1);
                }
                return accepted;
            }
            (Outcome::Acked(answer), write) => {
                let one = [answer.clone()];
                let answers = if matches!(write, Write::Single) { &one[..] } else { answer.as_array().unwrap() };
                for (answer, present) in answers.iter().zip(&present) {
                    let present = present.as_ref().unwrap_or_else(|| panic!("{answer} is lost"));
                    for name in ["index", "hash", "timestamp", "id"] {
                        assert_eq!(present[name], answer[name]);
                    }
                }
                assert!(is_whole);
            }
            (Outcome::Refused(_), _) => assert_eq!(found, 0, "it came back: {self:?}"),
            (Outcome::Unanswered, Write::Lines(..)) => {}
            (Outcome::Unanswered, _) => assert!(is_whole || found == 0, "half of it is there: {self:?}"),
        }
        let is_repeatable = matches!(self.step.write, Write::Single | Write::Array(_));
        let is_repeatable = is_repeatable && present.iter().flatten().all(|found| found.get("erased").is_none());
        if view.asked == Asked::RepeatsToo && is_repeatable && matches!(self.outcome, Outcome::Acked(_)) {
            self.repeat(view.node);
        }
        if step > 1 && found > 0 {
            // What was streamed and not answered is there from its first line up to some line.
            return (0..count).take_while(|&at| self.find(view, at).is_some()).count() as u64;
        }
        found as u64
    }

    /// One of its transactions, by its id; then its data is what was sent, or it is erased as it was asked for.
    fn find(&self, view: &View, at: usize) -> Option<Value> {
        let found = self.find_id(view, &id(&self.name, at))?;
        let data = data(&self.name, at, self.step.fill());
        let is_erased = found.get("erased").is_some();
        let is_acked = || matches!(view.erasures[&id(&self.name, at)], Outcome::Acked(_));
        if !is_erased {
            assert_eq!(found["data"], data);
        } else if view.asked == Asked::RepeatsToo || is_acked() {
            let text = String::from_utf8(json::canonical(&data)).expect("it is JSON");
            assert_eq!(files_with(&view.node.data, &text), "", "{text} is erased");
        }
        Some(found)
    }

    /// A transaction of its chain, which is erased as a whole or not at all.
    fn find_id(&self, view: &View, id: &str) -> Option<Value> {
        let response = view.node.get(&self.step.route(&format!("/transactions/by-id/{id}"))).send().unwrap();
        if response.status() == StatusCode::NOT_FOUND {
            return None;
        }
        assert_eq!(response.status(), StatusCode::OK, "{id}");
        let found: Value = response.json().unwrap();
        let is_erased = found.get("erased").is_some();
        assert_eq!((found.get("data").is_none(), found.get("salt").is_none()), (is_erased, is_erased), "{found}");
        assert_eq!(found.get("commitment").is_some(), is_erased, "{found}");
        match view.erasures.get(id) {
            Some(Outcome::Acked(record)) => assert_eq!(found["erased"]["by"], record["index"], "{id}"),
            // It is committed before the data is overwritten: where that fails, the answer is an error, and a start completes it.
            Some(Outcome::Unanswered | Outcome::Refused(500..)) => {}
            None | Some(Outcome::Refused(_)) => assert!(!is_erased, "nobody erased {found}"),
        }
        if is_erased {
            self.check_record(view, id, &found);
        }
        Some(found)
    }

    /// Whether what records an erasure is there. A node that could not finish one may show no data any more and no record
    /// yet; with the next start it is undone or completed.
    fn check_record(&self, view: &View, id: &str, erased: &Value) -> bool {
        let path = self.step.route(&format!("/transactions/{}", erased["erased"]["by"]));
        let response = view.node.get(&path).send().unwrap();
        let is_refused = matches!(view.erasures[id], Outcome::Refused(_));
        if is_refused && view.asked == Asked::ReadsAlone && response.status() == StatusCode::NOT_FOUND {
            return false;
        }
        let record: Value = response.json().unwrap();
        assert_eq!((&record["kind"], &record["data"]["index"]), (&json!("erasure"), &erased["index"]), "{id}");
        true
    }

    /// Sending an acknowledged write again changes nothing.
    fn repeat(&self, node: &TestNode) {
        let again = self.step.request(node, &self.name).send().unwrap();
        assert_eq!(header(&again, "idempotent-replayed"), "true", "{self:?}");
        let (Outcome::Acked(first), Write::Single) = (&self.outcome, self.step.write) else { return };
        assert_eq!(again.json::<Value>().unwrap()["index"], first["index"]);
    }
}

/// Asserts that a node goes on: it takes a write, and ends in order with a folder that holds.
pub fn goes_on(mut node: TestNode) {
    node.inject("", json!("after"));
    node.leap("");
    assert_eq!(node.stop(), Some(0));
    crate::support::verifies(&node.data);
}
