//! A whole chain or a receipt, recomputed from nothing but what is served; the first fault is named with its place.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{
    hash::Hash,
    json,
    merkle::{self, Edge},
    quant::{Quant, QuantFields},
    rules::{Refusal, Rules},
    transaction::{Id, Kind, Record, Submission},
};

/// The first fault that was found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {detail}")]
pub struct Fault {
    /// Such as `transaction 17` or `quant 3`.
    pub place: String,
    /// What does not hold.
    pub detail: String,
}

impl Fault {
    /// A fault of a transaction.
    pub fn of_transaction(index: u64, detail: impl ToString) -> Fault {
        Fault { place: format!("transaction {index}"), detail: detail.to_string() }
    }

    /// A fault of a quant.
    pub fn of_quant(index: u64, detail: impl ToString) -> Fault {
        Fault { place: format!("quant {index}"), detail: detail.to_string() }
    }
}

/// Recomputes a chain from its first transaction on: each transaction in order, and each quant behind the transactions that
/// it seals.
pub struct Verifier {
    edge: Edge,
    newest: Option<Quant>,
    /// Id and rules in force. A fork changes both at its bang.
    current: Option<(Hash, Rules)>,
    /// The rules of a bang that no quant has sealed yet.
    bang: Option<Rules>,
    ids: HashSet<Id>,
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier::new()
    }
}

impl Verifier {
    /// A verifier that has seen nothing.
    pub fn new() -> Self {
        Verifier { edge: Edge::new(), newest: None, current: None, bang: None, ids: HashSet::new() }
    }

    /// Transactions seen.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The newest quant seen.
    pub fn newest(&self) -> Option<&Quant> {
        self.newest.as_ref()
    }

    /// The id of the chain that was seen.
    pub fn id(&self) -> Option<Hash> {
        self.current.as_ref().map(|(id, _)| *id)
    }

    /// The rules in force at the end of what was seen.
    pub fn rules(&self) -> Option<&Rules> {
        self.current.as_ref().map(|(_, rules)| rules)
    }

    /// Takes the next transaction.
    ///
    /// # Errors
    /// It is not at its place, or breaks the rules that hold there.
    pub fn transaction(&mut self, record: &Record) -> Result<(), Fault> {
        let index = self.edge.size();
        let fault = |detail: String| Err(Fault::of_transaction(index, detail));
        if record.index != index {
            return fault(format!("it says that it is transaction {}", record.index));
        }
        if self.bang.is_some() {
            return fault("it follows a bang within one quant, which seals the bang alone".into());
        }
        match (&record.kind, &self.current) {
            (Some(Kind::Bang), _) => self.bang = Some(self.check_bang(record)?),
            (_, None) => return fault("a chain starts with its bang".into()),
            (Some(Kind::Erasure), Some(_)) => {}
            (None, Some((id, rules))) => check_rules(*id, rules, record).map_err(|detail| Fault::of_transaction(index, detail))?,
        }
        if let Some(id) = &record.id
            && !self.ids.insert(id.clone())
        {
            return fault(format!("its id {:?} stands in the chain already", id.as_str()));
        }
        self.edge.push(record.hash, &mut |_| ());
        Ok(())
    }

    fn check_bang(&self, record: &Record) -> Result<Rules, Fault> {
        let fault = |detail: String| Fault::of_transaction(record.index, detail);
        if self.edge.size() != self.newest.as_ref().map_or(0, Quant::size) {
            return Err(fault("a bang stands between the transactions of one quant".into()));
        }
        let data = record.data.as_ref().ok_or_else(|| fault("a bang cannot be erased".into()))?;
        let rules = Rules::from_value(data)
            .map_err(|faults| fault(format!("its rules are no rules: {}: {}", faults[0].pointer, faults[0].detail)))?;
        let parent = rules.fork_of().map(|of| (of.chain, of.index, of.hash));
        let shared = self.current.as_ref().zip(self.newest.as_ref());
        if parent != shared.map(|((id, _), quant)| (*id, quant.index(), quant.hash())) {
            return Err(fault("\"fork_of\" does not name the quant that it follows".into()));
        }
        Ok(rules)
    }

    /// Takes the quant that seals the transactions seen since the quant before.
    ///
    /// # Errors
    /// It does not follow the quant before, or its root is not that of the transactions.
    pub fn quant(&mut self, quant: Quant) -> Result<(), Fault> {
        let index = self.newest.as_ref().map_or(0, |quant| quant.index() + 1);
        let fault = |detail: String| Err(Fault::of_quant(index, detail));
        quant.check_follows(self.newest.as_ref()).map_err(|error| Fault::of_quant(index, error))?;
        if quant.size() != self.edge.size() {
            return fault(format!("\"size\" is {}, but there are {} transactions", quant.size(), self.edge.size()));
        }
        let root = self.edge.root();
        if quant.header().root != root {
            return fault(format!("\"root\" is {}, but the transactions' root is {root}", quant.header().root));
        }
        if let Some(rules) = self.bang.take() {
            self.current = Some((quant.hash(), rules));
        }
        let Some((_, rules)) = &self.current else {
            return fault("a chain starts with its bang".into());
        };
        if quant.header().difficulty != rules.difficulty() {
            let detail = format!("\"difficulty\" is {}, the rules say {}", quant.header().difficulty, rules.difficulty());
            return fault(detail);
        }
        self.newest = Some(quant);
        Ok(())
    }
}

fn check_rules(chain: Hash, rules: &Rules, record: &Record) -> Result<(), String> {
    // Of an erased transaction only the commitment is left: what its data was cannot be checked against the rules.
    let Some(value) = &record.data else { return Ok(()) };
    let submission =
        Submission { data: json::canonical(value), id: record.id.clone(), signed: record.signed.clone() };
    rules.check(chain, &submission, value).map_err(|refusal| match refusal {
        Refusal::TooLarge { bytes, max } => format!("its data has {bytes} bytes, the rules allow {max}"),
        Refusal::Schema(faults) => format!("its data breaks the schema at {:?}: {}", faults[0].pointer, faults[0].detail),
        Refusal::Unsigned => "it is not signed, but the chain has writers".into(),
        Refusal::NotAWriter => "its signer is not one of the chain's writers".into(),
        Refusal::BadSignature => "its signature is not its signer's".into(),
    })
}

/// A receipt that holds: this transaction is in the tree of this quant.
#[derive(Debug)]
pub struct Receipt {
    /// The chain that it names. A receipt cannot prove by itself that the quant belongs to this chain.
    pub chain: Hash,
    /// The transaction.
    pub record: Record,
    /// The quant.
    pub quant: Quant,
}

/// Checks a receipt offline: hashes, proof of work, and the inclusion proof (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// The first part that is missing, malformed or does not hold.
pub fn receipt(value: Value) -> Result<Receipt, Fault> {
    let fault = |detail: String| Fault { place: "receipt".into(), detail };
    let Value::Object(mut fields) = value else {
        return Err(fault("it is no JSON object".into()));
    };
    let mut take = |name: &str| fields.remove(name).ok_or_else(|| fault(format!("{name:?} is missing")));
    let chain: Hash = parse("chain", take("chain")?)?;
    let record = Record::from_value(take("transaction")?)
        .map_err(|detail| Fault { place: "the receipt's transaction".into(), detail })?;
    let quant = quant(take("quant")?).map_err(|detail| Fault { place: "the receipt's quant".into(), detail })?;
    let path: Vec<Hash> = parse("path", take("path")?)?;
    merkle::check_inclusion(record.hash, record.index, quant.size(), &path, quant.header().root)
        .map_err(|error| Fault { place: "the receipt's path".into(), detail: error.to_string() })?;
    Ok(Receipt { chain, record, quant })
}

/// A quant as it is served, without its transactions; hash and proof of work are recomputed.
///
/// # Errors
/// A sentence that names the field.
pub fn quant(value: Value) -> Result<Quant, String> {
    let fields: QuantFields = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Quant::try_from(fields).map_err(|error| error.to_string())
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Result<T, Fault> {
    serde_json::from_value(value)
        .map_err(|error| Fault { place: "receipt".into(), detail: format!("{name:?}: {error}") })
}

/// Whether an object is a quant rather than a transaction: both stand in an export.
pub fn is_quant(fields: &Map<String, Value>) -> bool {
    fields.contains_key("root")
}
