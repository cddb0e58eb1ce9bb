//! A node's chain, read and recomputed in the order of verification: the transactions that a quant seals, then the quant.
//!
//! Two routes are read side by side, in pages: the transactions, and the quants without theirs. So the memory that it
//! takes does not grow with the chain, nor with a quant. It ends where the chain was at the beginning: the chain may grow
//! meanwhile. The checkpoint is asked for first, so it speaks for a quant that is read.

use std::{
    io::{self, BufRead, BufReader, Write},
    sync::RwLock,
};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use reqwest::{StatusCode, Url, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Handle;

use super::{
    Unit,
    connection::{Body, Connection},
    pieces::{Elements, Piece, in_order},
    progress,
};
use crate::{
    core::{
        chain::LeapPolicy,
        count::{Height, Index},
        export::{Voucher, check_checkpoint, last_line},
        hash::Hash,
        json,
        note::{Checkpoint, Note, VerifierKey},
        quant::Quant,
        transaction::Record,
        verify::{self, Checked, Fault, InForce, Verifier},
    },
    limits,
};

/// Quants of one page. They are held, so that no connection idles while their transactions are read.
const QUANTS: u64 = 1_000;

/// What is read of a chain.
pub enum Part<'a> {
    /// All of it, pooled transactions too.
    Whole,
    /// What the newest checkpoint speaks for; each item that holds is written as a line of an export, the checkpoint last.
    Export(&'a mut dyn Write),
}

/// What a node says of a chain.
#[derive(Deserialize)]
struct Stats {
    chain: String,
    id: Hash,
    length: u64,
    size: u64,
    pooled: u64,
    hash: Hash,
}

/// What a node says of a chain beside its figures.
#[derive(Deserialize)]
struct About {
    leap: LeapPolicy,
}

/// A chain that was read and holds.
pub struct Read {
    /// What was seen of it.
    pub verifier: Verifier,
    /// What speaks for its end.
    pub voucher: Voucher,
    /// Transactions that were pooled, and are left out of an export.
    pub left_out: u64,
}

/// Reads a chain and recomputes it. A key must have signed its checkpoint, if any is named. Must run on a thread that may
/// block.
///
/// # Errors
/// The first fault, or why the chain cannot be read. Erasures without a record are for the caller to judge.
pub fn read<'a>(
    node: &'a Connection,
    runtime: &'a Handle,
    part: Part<'a>,
    keys: &'a [VerifierKey],
) -> anyhow::Result<Read> {
    let source = Source { node, runtime };
    let promise = source.promise(keys)?;
    let stats: Stats = serde_json::from_reader(BufReader::new(source.get(node.chain_url(&["stats"]))?))
        .context("the answer is not that of a QBC node")?;
    ensure!(stats.pooled <= stats.size, "the node says that more is pooled than it has");
    ensure!(
        promise.quant.get() < stats.length,
        "the node says that it has {} quants, but its checkpoint is of quant {}",
        stats.length,
        promise.quant
    );
    let (end, length, out) = match part {
        Part::Whole => (stats.size, stats.length, None),
        Part::Export(out) => (promise.size, promise.quant.next().get(), Some(out)),
    };
    let left_out = stats.size.saturating_sub(end);
    let is_whole = out.is_none();
    let bar = progress(node.json, Unit::Transactions, end);
    let quants = Quants { source, length, next: 0, page: Vec::new().into_iter() };
    let mut walk =
        Walk { verifier: Verifier::new(), quants, waiting: None, promise, voucher: None, out, bar: bar.clone() };
    let in_force = RwLock::new(None);
    let exports = !is_whole;
    let check = |piece: Piece| {
        let in_force = in_force.read().expect("no holder of this lock panics").clone();
        piece.texts().map(|text| Item::read(text, in_force.as_deref(), exports)).collect::<Vec<_>>()
    };
    let mut pages = Pages { source, end, asked: 0, seen: 0, page: None };
    in_order(
        || pages.next(),
        check,
        |items| {
            items.into_iter().try_for_each(|item| walk.take(item))?;
            *in_force.write().expect("no holder of this lock panics") = walk.verifier.in_force();
            Ok(())
        },
    )?;
    let (mut verifier, voucher) = walk.finish()?;
    bar.finish_and_clear();
    if is_whole {
        // A fork shares transactions with chains on which alone the record of their erasure may be.
        verifier.look_for_erasures(|writer, by, index| source.records_erasure(writer, by, index))?;
        let newest = verifier.newest().context("the chain has no quant")?.hash();
        ensure!(newest == stats.hash, "the node says that the newest quant is {}, but it is {newest}", stats.hash);
    }
    ensure!(verifier.id() == Some(stats.id), "the node says that the chain's id is {}, but it is not", stats.id);
    let name = verifier.rules().map(|rules| rules.name().to_string()).unwrap_or_default();
    ensure!(name == stats.chain, "the node says that the chain is {:?}, but its rules name it {name:?}", stats.chain);
    Ok(Read { verifier, voucher, left_out })
}

#[derive(Clone, Copy)]
struct Source<'a> {
    node: &'a Connection,
    runtime: &'a Handle,
}

impl<'a> Source<'a> {
    fn get(self, url: Url) -> anyhow::Result<Body> {
        self.accept(url, "application/x-ndjson, application/json")
    }

    fn accept(self, url: Url, media: &str) -> anyhow::Result<Body> {
        let request = self.node.get(url).header(header::ACCEPT, media);
        let response = self.runtime.block_on(self.node.send(request))?;
        Ok(Body::new(response, self.runtime.clone()))
    }

    /// The newest checkpoint, and what it says: a claim until its quant is read.
    fn promise(self, keys: &'a [VerifierKey]) -> anyhow::Result<Promise<'a>> {
        let mut body = self.accept(self.node.chain_url(&["checkpoint"]), "text/plain")?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(&mut body, limits::CHUNK_BYTES as u64), &mut text)
            .context("the checkpoint cannot be read")?;
        let malformed = || "the node's checkpoint is none";
        let note = Note::parse(text.as_bytes()).with_context(malformed)?;
        let checkpoint = Checkpoint::parse(note.text()).with_context(malformed)?;
        let (quant, _) = checkpoint.quant().with_context(malformed)?;
        Ok(Promise { note, text, quant, size: checkpoint.size(), keys })
    }

    /// When a chain leaps by itself.
    fn leap(self, chain: Hash) -> anyhow::Result<LeapPolicy> {
        let body = self.get(self.node.node_url(&["chains", &chain.to_string()]))?;
        let About { leap } =
            serde_json::from_reader(BufReader::new(body)).context("the answer is not that of a QBC node")?;
        Ok(leap)
    }

    /// Whether a transaction of another chain of the node records the erasure of this one.
    fn records_erasure(self, chain: Hash, by: Index, index: Index) -> anyhow::Result<bool> {
        let url = self.node.node_url(&["chains", &chain.to_string(), "transactions", &by.to_string()]);
        let response = self.runtime.block_on(self.node.send_any(self.node.get(url)))?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let mut text = Vec::new();
        let body = Body::new(response, self.runtime.clone());
        io::Read::read_to_end(&mut io::Read::take(body, limits::BODY_BYTES as u64), &mut text)?;
        let Ok(Value::Object(mut fields)) = json::parse(&text) else { return Ok(false) };
        // Where it stands is no part of the record.
        ["state", "quant"].iter().for_each(|name| drop(fields.remove(*name)));
        let record = Record::from_value(Value::Object(fields));
        Ok(record.is_ok_and(|record| record.index == by && verify::erasure_of(&record.transaction) == Some(index)))
    }

    fn transactions(self, from: u64, end: u64) -> anyhow::Result<Body> {
        let mut url = self.node.chain_url(&["transactions"]);
        let limit = limits::PAGE_LIMIT.min(end - from);
        url.query_pairs_mut().append_pair("from", &from.to_string()).append_pair("limit", &limit.to_string());
        self.get(url)
    }

    fn quants(self, from: u64, limit: u64) -> anyhow::Result<Vec<Value>> {
        let mut url = self.node.chain_url(&["chain"]);
        url.query_pairs_mut().append_pair("transactions", "false");
        url.query_pairs_mut().append_pair("from", &from.to_string()).append_pair("limit", &limit.to_string());
        let mut quants = Vec::new();
        for line in BufReader::new(self.get(url)?).split(b'\n').take(limit as usize) {
            let index = Height::new(from + quants.len() as u64);
            quants.push(json::parse(&line?).map_err(|error| Fault::of_quant(index, error))?);
        }
        Ok(quants)
    }
}

/// A checkpoint before it was compared with the chain.
struct Promise<'a> {
    note: Note,
    text: String,
    quant: Height,
    size: u64,
    keys: &'a [VerifierKey],
}

/// The transactions of a chain in their order, a page of the node at a time.
struct Pages<'a> {
    source: Source<'a>,
    end: u64,
    /// What is read when the open page is.
    asked: u64,
    seen: u64,
    page: Option<Elements<BufReader<Body>>>,
}

impl Pages<'_> {
    fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        loop {
            if let Some(page) = &mut self.page {
                let piece = page.next_piece()?;
                self.seen += piece.count() as u64;
                ensure!(self.seen <= self.asked, "the node sends more transactions than it was asked for");
                if piece.count() > 0 {
                    return Ok(Some(piece));
                }
                if self.seen < self.asked {
                    let detail = format!("the node does not send it, but says that it has {}", self.end);
                    bail!(Fault::of_transaction(Index::new(self.seen), detail));
                }
            }
            if self.seen == self.end {
                return Ok(None);
            }
            let body = self.source.transactions(self.seen, self.end)?;
            self.asked = self.end.min(self.seen + limits::PAGE_LIMIT);
            self.page = Some(Elements::new(BufReader::with_capacity(limits::CHUNK_BYTES, body)));
        }
    }
}

/// A transaction that was read, and its line where it is to be exported.
struct Item {
    checked: Result<Checked, String>,
    line: Option<Vec<u8>>,
}

impl Item {
    fn read(text: &[u8], in_force: Option<&InForce>, exports: bool) -> Item {
        let record = Record::parse(text);
        let line = record.as_ref().ok().filter(|_| exports).map(|record| {
            let mut line = Vec::with_capacity(text.len());
            record.transaction.write_canonical(record.index, &mut line);
            line.push(b'\n');
            line
        });
        Item { checked: record.map(|record| Checked::new(record, in_force)), line }
    }
}

/// The quants of a chain in their order, a page at a time.
struct Quants<'a> {
    source: Source<'a>,
    length: u64,
    next: u64,
    page: std::vec::IntoIter<Value>,
}

impl Quants<'_> {
    fn next(&mut self) -> anyhow::Result<Option<Value>> {
        if self.next == self.length {
            return Ok(None);
        }
        if self.page.as_slice().is_empty() {
            self.page = self.source.quants(self.next, QUANTS.min(self.length - self.next))?.into_iter();
        }
        let quant = self.page.next().ok_or_else(|| {
            Fault::of_quant(
                Height::new(self.next),
                format!("the node does not send it, but says that it has {}", self.length),
            )
        })?;
        self.next += 1;
        Ok(Some(quant))
    }
}

struct Walk<'a> {
    verifier: Verifier,
    quants: Quants<'a>,
    /// The next quant, which seals transactions that have not come yet.
    waiting: Option<(Quant, Value)>,
    promise: Promise<'a>,
    /// Known when the quant of the checkpoint was read.
    voucher: Option<Voucher>,
    out: Option<&'a mut dyn Write>,
    bar: ProgressBar,
}

impl Walk<'_> {
    fn next_quant(&mut self) -> anyhow::Result<Option<(Quant, Value)>> {
        if self.waiting.is_some() {
            return Ok(self.waiting.take());
        }
        let Some(value) = self.quants.next()? else {
            return Ok(None);
        };
        let quant =
            verify::quant(value.clone()).map_err(|error| Fault::of_quant(Height::new(self.quants.next - 1), error))?;
        Ok(Some((quant, value)))
    }

    fn seal(&mut self, (quant, value): (Quant, Value)) -> anyhow::Result<()> {
        let is_promised = quant.index() == self.promise.quant;
        self.verifier.quant(quant)?;
        if let Some(out) = &mut self.out {
            let mut line = json::canonical(&value);
            line.push(b'\n');
            out.write_all(&line)?;
        }
        if is_promised {
            let Promise { note, keys, .. } = &self.promise;
            self.voucher = Some(check_checkpoint(note, keys, &self.verifier)?);
        }
        Ok(())
    }

    fn take(&mut self, item: Item) -> anyhow::Result<()> {
        let index = self.verifier.size().next_index();
        let checked = item.checked.map_err(|error| Fault::of_transaction(index, error))?;
        self.verifier.checked(&checked, &mut |_| ())?;
        if let (Some(out), Some(line)) = (&mut self.out, item.line) {
            out.write_all(&line)?;
        }
        self.bar.inc(1);
        while let Some(next) = self.next_quant()? {
            if next.0.size() > self.verifier.size() {
                self.waiting = Some(next);
                break;
            }
            self.seal(next)?;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<(Verifier, Voucher)> {
        // What is left has no transactions of its own, or too few were sent.
        while let Some(quant) = self.next_quant()? {
            self.seal(quant)?;
        }
        let voucher = self.voucher.with_context(|| {
            format!("the node's checkpoint is of quant {}, which the chain does not have", self.promise.quant)
        })?;
        if let Some(out) = &mut self.out {
            let leap = self.quants.source.leap(self.verifier.id().context("the chain has no bang")?)?;
            let mut line = last_line(&self.promise.text, leap);
            line.push(b'\n');
            out.write_all(&line)?;
        }
        Ok((self.verifier, voucher))
    }
}
