//! A file, recomputed: a receipt, an export, or a chain as `GET /chain` serves it, told apart by what stands in it.

use std::{
    cell::Cell,
    io::{BufRead, Cursor, Read},
    rc::Rc,
    sync::RwLock,
};

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value, value::RawValue};

use super::{
    pieces::{Piece, in_order, next_lines},
    stream::{self, Fields, LineCount, Sink},
};
use crate::{
    core::{
        count::Size,
        export::{Export, Line, Voucher},
        json,
        note::VerifierKey,
        proof::{FIRST_LINE, TlogProof},
        transaction::Record,
        verify::{self, Checked, Receipt, Verifier},
    },
    limits,
};

/// What holds.
pub enum Content {
    /// A chain, or the part of it from its start on, and what speaks for its end.
    Chain(Box<Verifier>, Voucher),
    /// A receipt.
    Receipt(Box<Receipt>),
    /// A tlog-proof, which was only read.
    Proof(Box<TlogProof>),
}

/// Recomputes a file in constant memory, but for the ids of the chain's transactions. A key must have signed the checkpoint in
/// it, if any is named.
///
/// # Errors
/// The first fault with its line.
pub fn check(mut input: impl BufRead, keys: &[VerifierKey]) -> anyhow::Result<Content> {
    let mut first = Vec::new();
    (&mut input).take(limits::BODY_BYTES as u64).read_until(b'\n', &mut first)?;
    if first.strip_suffix(b"\n") == Some(FIRST_LINE.as_bytes()) {
        input.take(limits::BODY_BYTES as u64).read_to_end(&mut first)?;
        return Ok(Content::Proof(Box::new(TlogProof::parse(&first)?)));
    }
    let is_export = first.ends_with(b"\n") && matches!(Line::parse(&first, None), Line::Transaction(Ok(_)));
    let input = Cursor::new(first).chain(input);
    let export = Export::new(Verifier::new(), keys.to_vec());
    if is_export { check_lines(input, export) } else { check_objects(input, export) }
}

/// An export: each line is one item.
fn check_lines(mut input: impl BufRead, mut export: Export) -> anyhow::Result<Content> {
    // What is in force when a line is read is nearly always so when its turn comes.
    let in_force = RwLock::new(None);
    let read = |piece: Piece| -> Vec<Option<Line>> {
        let in_force = in_force.read().expect("no holder of this lock panics").clone();
        let is_blank = |text: &[u8]| text.iter().all(u8::is_ascii_whitespace);
        piece
            .texts()
            .map(|text| (!is_blank(text)).then(|| Line::parse(text.trim_ascii(), in_force.as_deref())))
            .collect()
    };
    let mut number = 0;
    let take = |lines: Vec<Option<Line>>| {
        for line in lines {
            number += 1;
            if let Some(line) = line {
                export.take(&line, &mut |_| ()).with_context(|| format!("line {number}"))?;
            }
        }
        *in_force.write().expect("no holder of this lock panics") = export.verifier().in_force();
        Ok(())
    };
    in_order(|| next_lines(&mut input).map(|piece| (piece.count() > 0).then_some(piece)), read, take)?;
    let (verifier, voucher) = export.finish()?;
    Ok(Content::Chain(Box::new(verifier), voucher))
}

/// Whatever else a file may be: objects in a row or in an array, transactions within quants, or a receipt.
fn check_objects(input: impl BufRead, export: Export) -> anyhow::Result<Content> {
    let (input, line) = LineCount::new(input);
    let mut items = Items { export, receipt: None, line };
    stream::read_objects(input, &mut items)?;
    match items {
        Items { receipt: Some(receipt), .. } => Ok(Content::Receipt(Box::new(receipt))),
        Items { export, .. } => {
            let (verifier, voucher) = export.finish()?;
            if verifier.newest().is_none() {
                bail!("there is nothing in it");
            }
            Ok(Content::Chain(Box::new(verifier), voucher))
        }
    }
}

struct Items {
    export: Export,
    receipt: Option<Receipt>,
    line: Rc<Cell<u64>>,
}

impl Items {
    fn take_object(&mut self, fields: Fields) -> anyhow::Result<()> {
        let has = |name: &str| fields.iter().any(|(other, _)| other == name);
        if self.receipt.is_some() {
            bail!("something stands behind the receipt");
        }
        let size = self.export.verifier().size();
        if has("path") {
            if size > Size::ZERO {
                bail!("a receipt stands in a chain");
            }
            self.receipt = Some(verify::receipt(Value::Object(parse(fields)?))?);
            return Ok(());
        }
        if size == Size::ZERO && !["root", "hash", "checkpoint"].into_iter().any(has) {
            bail!("it is neither a quant nor a transaction nor a receipt");
        }
        let is_quant = has("root");
        let line = match parse(fields) {
            Ok(fields) => Line::of(fields, None),
            Err(error) if is_quant => Line::Quant(Err(error.to_string())),
            Err(error) => Line::Unreadable(error.to_string()),
        };
        Ok(self.export.take(&line, &mut |_| ())?)
    }

    fn placed(&self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        result.with_context(|| format!("line {}", self.line.get()))
    }
}

impl Sink for Items {
    fn transaction(&mut self, text: &RawValue) -> anyhow::Result<()> {
        let in_force = self.export.verifier().in_force();
        let record = Record::parse(text.get().as_bytes());
        let line = Line::Transaction(record.map(|record| Checked::new(record, in_force.as_deref())));
        let taken = self.export.take(&line, &mut |_| ());
        self.placed(taken.map_err(Into::into))
    }

    fn object(&mut self, fields: Fields) -> anyhow::Result<()> {
        let taken = self.take_object(fields);
        self.placed(taken)
    }
}

/// Lets each field through the gate by itself, so that a receipt's transaction may be as deep as it may be alone.
fn parse(fields: Fields) -> anyhow::Result<Map<String, Value>> {
    let parse = |(name, text): (String, Box<RawValue>)| match json::parse(text.get().as_bytes()) {
        Ok(value) => Ok((name, value)),
        Err(error) => Err(anyhow!("{name:?}: {} (pointer {:?})", error.detail, error.pointer)),
    };
    fields.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        chain::{Chain, bang_header, bang_transaction},
        count::Index,
        merkle::{Edge, Tile},
        rules::Rules,
        transaction::{Submission, Timestamp, Transaction},
    };

    /// A chain of two quants, the second of which seals two transactions: as an export, as `GET /chain` serves it, and the
    /// receipt of its newest transaction.
    fn example() -> (String, String, String) {
        let now = Timestamp::from_micros(1_763_812_147_123_456).unwrap();
        let rules = Map::from_iter([("difficulty".into(), 0.into())]);
        let rules = Rules::new("trial".parse().unwrap()).amend(rules).unwrap_or_else(|faults| panic!("{faults:?}"));
        let bang = bang_transaction(&rules, now, [1; 16]);
        let first = bang_header(&rules, &bang, None, now).mine(0..1).unwrap();
        let mut no_tiles = |_: Tile| ();
        let mut chain = Chain::bang(rules.into(), &bang, Edge::new(), first.clone(), 0, &mut no_tiles);
        let transactions = ["{\"a\":[1,2.5,\"\\u0000é\"]}", "null"].map(|data| {
            let id = Some("order-1".parse().unwrap()).filter(|_| data == "null");
            let submission = Submission { data: data.into(), id, signed: None };
            let transaction = Transaction::new(submission, None, now, [2; 16]);
            chain.inject(&transaction, 0, &mut no_tiles);
            transaction
        });
        let second = chain.head.cut(0, now).mine(0..1).unwrap();
        let record = |index: u64, transaction: &Transaction| {
            let mut out = Vec::new();
            transaction.write(Index::new(index), &mut out);
            String::from_utf8(out).unwrap()
        };
        let records = [record(0, &bang), record(1, &transactions[0]), record(2, &transactions[1])];
        let quants = [&first, &second].map(|quant| serde_json::to_string(quant).unwrap());
        let export = [&records[0], &quants[0], &records[1], &records[2], &quants[1], ""].map(str::to_string).join("\n");
        let with = |quant: &str, records: &[String]| {
            format!("{},\"transactions\":[{}]}}", quant.strip_suffix('}').unwrap(), records.join(","))
        };
        let served = format!("[{},{}]", with(&quants[0], &records[..1]), with(&quants[1], &records[1..]));
        let tile = [bang.hash(), transactions[0].hash(), transactions[1].hash()];
        let path = crate::core::merkle::prove_inclusion(2, 3, |_, _, _| Ok::<_, ()>(tile.to_vec())).unwrap();
        let receipt = format!(
            "{{\"chain\":\"{}\",\"transaction\":{},\"quant\":{},\"path\":{}}}",
            chain.id,
            records[2],
            quants[1],
            serde_json::to_string(&path).unwrap()
        );
        (export, served, receipt)
    }

    fn outcome(text: impl AsRef<[u8]>) -> Result<Content, String> {
        check(text.as_ref(), &[]).map_err(|error| format!("{error:#}"))
    }

    fn fault(text: impl AsRef<[u8]>) -> String {
        outcome(text).err().expect("it does not hold")
    }

    #[test]
    fn what_was_served_holds_in_every_form() {
        let (export, served, receipt) = example();
        let lines = served[1..served.len() - 1].replace("]},{", "]}\n{");
        for text in [&export, &served, &lines, &format!(" \n{served}\n")] {
            let Ok(Content::Chain(verifier, Voucher::Nobody)) = outcome(text) else { panic!("{:?}", fault(text)) };
            assert_eq!((verifier.size().get(), verifier.newest().unwrap().index().get()), (3, 1));
        }
        let Ok(Content::Receipt(receipt)) = outcome(&receipt) else { panic!("{:?}", fault(&receipt)) };
        assert_eq!((receipt.record.index.get(), receipt.quant.index().get()), (2, 1));
    }

    #[test]
    fn no_byte_can_be_flipped() {
        let (export, served, receipt) = example();
        // A receipt of another quant than the first cannot prove which chain it is of, but the form is checked.
        let unproven = receipt.find("\",\"transaction").unwrap() - 64..receipt.find("\",\"transaction").unwrap();
        for (text, skip) in [(export, 0..0), (served, 0..0), (receipt, unproven)] {
            for at in (0..text.len()).filter(|at| !skip.contains(at)) {
                for bit in 0..8 {
                    let mut bytes = text.clone().into_bytes();
                    bytes[at] ^= 1 << bit;
                    let is_space = |bytes: &[u8]| bytes[at].is_ascii_whitespace();
                    if !(is_space(&bytes) && is_space(text.as_bytes())) {
                        assert!(outcome(&bytes).is_err(), "byte {at}: {}", String::from_utf8_lossy(&bytes));
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_can_be_cut_off_within_a_quant() {
        let (export, served, receipt) = example();
        let first_quant = export.match_indices('\n').nth(1).unwrap().0;
        for end in (0..export.len() - 1).filter(|end| !(first_quant..first_quant + 2).contains(end)) {
            fault(&export.as_bytes()[..end]);
        }
        for text in [served, receipt] {
            for end in 0..text.len() {
                fault(&text.as_bytes()[..end]);
            }
        }
    }

    #[test]
    fn the_first_fault_is_named_with_its_place() {
        let (export, served, receipt) = example();
        assert!(
            fault(export.replace("\"data\":null", "\"data\":true")).starts_with("line 4: transaction 2: \"hash\" is ")
        );
        assert!(fault(export.replacen("\"proof\":0", "\"proof\":1", 1)).starts_with("line 2: quant 0: \"hash\" is "));
        assert!(fault(served.replace("\"data\":null", "\"data\":true")).starts_with("line 1: transaction 2: "));
        assert!(
            fault(receipt.replace("\"data\":null", "\"data\":true")).starts_with("line 1: the receipt's transaction: ")
        );
        let lines: Vec<_> = export.lines().collect();
        assert_eq!(
            fault(lines[..4].join("\n")),
            "transaction 1: no quant seals it and the 1 behind it: the end is missing"
        );
        let swapped = [lines[0], lines[1], lines[3]].join("\n");
        assert_eq!(fault(swapped), "line 3: transaction 1: it says that it is transaction 2");
    }

    #[test]
    fn what_is_none_of_them_says_so() {
        assert_eq!(fault(""), "there is nothing in it");
        assert_eq!(fault("[]"), "there is nothing in it");
        assert_eq!(fault("{}"), "line 1: it is neither a quant nor a transaction nor a receipt");
        assert!(fault("hello").starts_with("the JSON cannot be read: "));
        assert!(fault("17").contains("expected a quant, a transaction or a receipt"));
        let twice = "the JSON cannot be read: the name \"root\" stands twice in one object at line 1 column ";
        assert!(fault("{\"root\":1,\"root\":1}").starts_with(twice));
        assert!(fault("[".repeat(100_000)).starts_with("the JSON cannot be read: "));
        assert!(fault("{\"hash\":".to_string() + &"[".repeat(100_000)).starts_with("the JSON is cut short: "));
        let deep = format!("{{\"hash\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(fault(deep).contains("line 1: transaction 0: "));
    }
}
