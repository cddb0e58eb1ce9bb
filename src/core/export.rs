//! An export: a chain as lines of JSON, and its checkpoint at the end.
//!
//! One item a line in the order of verification: the transactions that a quant seals, then that quant, and so on to the newest
//! quant. The last line is `{"checkpoint": TEXT}`, the signed note that speaks for exactly that quant: without it nobody can see
//! that quants were cut off at the end. Each line is canonical (RFC 8785), so that exports of one chain differ in nothing but
//! the signatures.
//!
//! Beside the checkpoint stands, where the chain leaps by itself, `"leap"`: when. Nobody signs that, so it is a hint to whoever
//! imports the chain, and nothing else.

use std::fmt;

use serde_json::{Map, Value};

use super::{
    chain::LeapPolicy,
    count::{Height, Size},
    json,
    merkle::Tile,
    note::{KeyName, Note, VerifierKey},
    quant::Quant,
    transaction::{Record, take_text},
    verify::{self, Checked, Fault, InForce, Verifier},
};

/// One line, checked as far as that needs no other. What it is was found out even where it is at fault.
pub enum Line {
    /// A transaction.
    Transaction(Result<Checked, String>),
    /// A quant behind the transactions that it seals.
    Quant(Result<Quant, String>),
    /// The checkpoint behind all.
    Checkpoint(Result<Ending, String>),
    /// No JSON.
    Unreadable(String),
}

/// The last line.
pub struct Ending {
    /// The signed checkpoint.
    pub note: Note,
    /// When the chain leaped by itself where it was exported. Nobody has signed that.
    pub leap: Option<LeapPolicy>,
}

impl Line {
    /// Reads a line and recomputes what stands in it. This is nearly all of the work of a verification, and lines can be
    /// read in any order.
    pub fn parse(text: &[u8], in_force: Option<&InForce>) -> Line {
        if let Some(record) = Record::walk(text) {
            return Line::Transaction(Ok(Checked::new(record, in_force)));
        }
        match json::parse(text) {
            Ok(Value::Object(fields)) => Line::of(fields, in_force),
            Ok(_) => Line::Unreadable("it is no object".into()),
            Err(error) => Line::Unreadable(format!("it is no I-JSON: {error}")),
        }
    }

    /// The same for an object that came through the gate.
    pub fn of(mut fields: Map<String, Value>, in_force: Option<&InForce>) -> Line {
        if verify::is_quant(&fields) {
            Line::Quant(verify::quant(Value::Object(fields)))
        } else if fields.contains_key("checkpoint") {
            Line::Checkpoint(take_ending(&mut fields))
        } else {
            Line::Transaction(Record::from_value(Value::Object(fields)).map(|record| Checked::new(record, in_force)))
        }
    }
}

fn take_ending(fields: &mut Map<String, Value>) -> Result<Ending, String> {
    let text = take_text(fields, "checkpoint")?.unwrap_or_default();
    // A hint that no node could follow is passed over: nothing of what the checkpoint speaks for depends on it.
    let leap = fields.remove("leap").and_then(|leap| serde_json::from_value::<LeapPolicy>(leap).ok());
    let leap = leap.filter(|leap| leap.check().is_ok());
    match fields.keys().next() {
        Some(name) => Err(format!("{name:?} is no field of the last line")),
        None => Note::parse(text.as_bytes()).map(|note| Ending { note, leap }).map_err(|error| error.to_string()),
    }
}

/// The last line of an export of a chain that does not leap by itself.
pub fn checkpoint_line(note: &str) -> Vec<u8> {
    last_line(note, LeapPolicy::default())
}

/// The last line of an export of a chain that leaps by this policy.
pub fn last_line(note: &str, leap: LeapPolicy) -> Vec<u8> {
    let mut line = b"{\"checkpoint\":".to_vec();
    json::write_string(note, &mut line);
    if leap != LeapPolicy::default() {
        line.extend_from_slice(b",\"leap\":");
        line.extend(json::canonical(&serde_json::to_value(leap).expect("a policy is JSON")));
    }
    line.push(b'}');
    line
}

/// What speaks for the end of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// Nothing: quants may have been cut off.
    Nobody,
    /// A checkpoint. Its signature was not checked, since no key was named.
    Unchecked,
    /// A checkpoint that this key has signed.
    Key(KeyName),
}

impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Voucher::Nobody => f.write_str("none: quants may have been cut off at the end"),
            Voucher::Unchecked => {
                f.write_str("agrees; its signature was not checked, since no key was named with --key")
            }
            Voucher::Key(name) => write!(f, "agrees, signed by {name}"),
        }
    }
}

/// Checks that a checkpoint speaks for what a verifier has seen, and that one of the keys has signed it, where any is named.
///
/// # Errors
/// It is another chain's or quant's, or none of the keys has signed it.
pub fn check_checkpoint(note: &Note, keys: &[VerifierKey], verifier: &Verifier) -> Result<Voucher, Fault> {
    let fault = |detail: String| Fault { place: "checkpoint".into(), detail };
    let (Some(id), Some(newest)) = (verifier.id(), verifier.newest()) else {
        return Err(fault("there is no quant before it".into()));
    };
    verify::check_checkpoint(note, id, newest).map_err(fault)?;
    if keys.is_empty() {
        return Ok(Voucher::Unchecked);
    }
    verify::check_signature(note, keys, verifier.successions()).map(Voucher::Key).map_err(fault)
}

/// An export on its way through the verifier.
pub struct Export {
    verifier: Verifier,
    keys: Vec<VerifierKey>,
    voucher: Voucher,
    leap: Option<LeapPolicy>,
}

impl Export {
    /// Starts before the first line. One of the keys must have signed the checkpoint, if there are any.
    pub fn new(verifier: Verifier, keys: Vec<VerifierKey>) -> Export {
        Export { verifier, keys, voucher: Voucher::Nobody, leap: None }
    }

    /// What was seen of the chain.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// When the chain leaped by itself where it was exported, if the last line says so.
    pub fn leap(&self) -> Option<LeapPolicy> {
        self.leap
    }

    /// Takes the next line, and gives the tiles of the Merkle tree that it completes.
    ///
    /// # Errors
    /// What does not hold.
    pub fn take(&mut self, line: &Line, tiles: &mut impl FnMut(Tile)) -> Result<(), Fault> {
        if self.voucher != Voucher::Nobody {
            return Err(Fault { place: "checkpoint".into(), detail: "something stands behind it".into() });
        }
        match line {
            Line::Transaction(checked) => {
                let index = self.verifier.size().next_index();
                let checked = checked.as_ref().map_err(|detail| Fault::of_transaction(index, detail))?;
                self.verifier.checked(checked, tiles)?;
            }
            Line::Quant(quant) => {
                let index = self.verifier.newest().map_or(Height::FIRST, |quant| quant.index().next());
                let quant = quant.as_ref().map_err(|detail| Fault::of_quant(index, detail))?;
                self.verifier.quant(quant.clone())?;
            }
            Line::Checkpoint(ending) => {
                let fault = |detail: String| Fault { place: "checkpoint".into(), detail };
                if sealed(&self.verifier) < self.verifier.size() {
                    return Err(fault("no quant seals the transactions before it".into()));
                }
                let Ending { note, leap } = ending.as_ref().map_err(|detail| fault(detail.clone()))?;
                self.voucher = check_checkpoint(note, &self.keys, &self.verifier)?;
                self.leap = *leap;
            }
            Line::Unreadable(detail) => {
                return Err(Fault::of_transaction(self.verifier.size().next_index(), detail));
            }
        }
        Ok(())
    }

    /// Ends behind the last line.
    ///
    /// # Errors
    /// The end is missing: the quant that seals the last transactions, or the checkpoint where a key was named for it.
    pub fn finish(self) -> Result<(Verifier, Voucher), Fault> {
        let Export { verifier, keys, voucher, .. } = self;
        let first = sealed(&verifier).next_index();
        if verifier.size().has(first) {
            let more = verifier.size().get() - first.size().get();
            let detail = format!("no quant seals it and the {more} behind it: the end is missing");
            return Err(Fault::of_transaction(first, detail));
        }
        if voucher == Voucher::Nobody && !keys.is_empty() {
            let detail = "there is none, so the key that was named speaks for nothing: the end may be missing";
            return Err(Fault { place: "checkpoint".into(), detail: detail.into() });
        }
        Ok((verifier, voucher))
    }
}

/// The transactions that the newest quant seals.
fn sealed(verifier: &Verifier) -> Size {
    verifier.newest().map_or(Size::ZERO, Quant::size)
}
