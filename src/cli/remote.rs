//! A node's chain, read and recomputed in the order of verification: the transactions that a quant seals, then the quant.
//!
//! Two routes are read side by side, in pages: the transactions, and the quants without theirs. So the memory that it
//! takes does not grow with the chain, nor with a quant. It ends at the chain's size at the beginning: the chain may grow
//! meanwhile.

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use reqwest::{Url, header};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::runtime::Handle;

use super::{
    Unit,
    connection::{Body, Connection},
    progress,
    stream::{self, Fields, Sink},
};
use crate::{
    core::{
        hash::Hash,
        json,
        quant::Quant,
        transaction::Record,
        verify::{self, Fault, Verifier},
    },
    limits,
};

/// Quants of one page. They are held, so that no connection idles while their transactions are read.
const QUANTS: u64 = 1_000;

/// What is read of a chain.
pub enum Part<'a> {
    /// All of it, pooled transactions too.
    Whole,
    /// What is sealed; each item that holds is written as a line of canonical JSON.
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

/// Reads a chain and recomputes it. Must run on a thread that may block.
///
/// # Errors
/// The first fault, or why the chain cannot be read.
pub fn read<'a>(node: &'a Connection, runtime: &'a Handle, part: Part<'a>) -> anyhow::Result<Verifier> {
    let source = Source { node, runtime };
    let stats: Stats = serde_json::from_reader(BufReader::new(source.get(node.chain_url(&["stats"]))?))
        .context("the answer is not that of a QBC node")?;
    let sealed = stats.size.checked_sub(stats.pooled).context("the node says that more is pooled than it has")?;
    let (end, out) = match part {
        Part::Whole => (stats.size, None),
        Part::Export(out) => (sealed, Some(out)),
    };
    let bar = progress(node.json, Unit::Transactions, end);
    let quants = Quants { source, length: stats.length, next: 0, page: Vec::new().into_iter() };
    let mut walk = Walk { verifier: Verifier::new(), quants, waiting: None, out, bar: bar.clone() };
    while walk.verifier.size() < end {
        let from = walk.verifier.size();
        stream::read_transactions(source.transactions(from, end)?, &mut walk)?;
        if walk.verifier.size() == from {
            bail!(Fault::of_transaction(from, format!("the node does not send it, but says that it has {end}")));
        }
    }
    // What is left has no transactions of its own, or too few were sent.
    while let Some(quant) = walk.next_quant()? {
        walk.seal(quant)?;
    }
    let verifier = walk.verifier;
    bar.finish_and_clear();
    let newest = verifier.newest().context("the chain has no quant")?;
    ensure!(
        newest.hash() == stats.hash,
        "the node says that the newest quant is {}, but it is {}",
        stats.hash,
        newest.hash()
    );
    ensure!(verifier.id() == Some(stats.id), "the node says that the chain's id is {}, but it is not", stats.id);
    let name = verifier.rules().map(|rules| rules.name().to_string()).unwrap_or_default();
    ensure!(name == stats.chain, "the node says that the chain is {:?}, but its rules name it {name:?}", stats.chain);
    Ok(verifier)
}

#[derive(Clone, Copy)]
struct Source<'a> {
    node: &'a Connection,
    runtime: &'a Handle,
}

impl Source<'_> {
    fn get(self, url: Url) -> anyhow::Result<Body> {
        let request = self.node.get(url).header(header::ACCEPT, "application/x-ndjson, application/json");
        let response = self.runtime.block_on(self.node.send(request))?;
        Ok(Body::new(response, self.runtime.clone()))
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
            let index = from + quants.len() as u64;
            quants.push(json::parse(&line?).map_err(|error| Fault::of_quant(index, error))?);
        }
        Ok(quants)
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
            Fault::of_quant(self.next, format!("the node does not send it, but says that it has {}", self.length))
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
        let quant = verify::quant(value.clone()).map_err(|error| Fault::of_quant(self.quants.next - 1, error))?;
        Ok(Some((quant, value)))
    }

    fn seal(&mut self, (quant, value): (Quant, Value)) -> anyhow::Result<()> {
        self.verifier.quant(quant)?;
        self.write(&value)
    }

    fn write(&mut self, value: &Value) -> anyhow::Result<()> {
        if let Some(out) = &mut self.out {
            let mut line = json::canonical(value);
            line.push(b'\n');
            out.write_all(&line)?;
        }
        Ok(())
    }
}

impl Sink for Walk<'_> {
    fn transaction(&mut self, text: &RawValue) -> anyhow::Result<()> {
        let index = self.verifier.size();
        let mut value = json::parse(text.get().as_bytes()).map_err(|error| Fault::of_transaction(index, error))?;
        if let Value::Object(fields) = &mut value {
            // Where it stands is no part of it.
            fields.retain(|name, _| name != "state" && name != "quant");
        }
        let exported = self.out.is_some().then(|| value.clone());
        let record = Record::from_value(value).map_err(|error| Fault::of_transaction(index, error))?;
        self.verifier.transaction(&record)?;
        if let Some(value) = exported {
            self.write(&value)?;
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

    fn object(&mut self, _: Fields) -> anyhow::Result<()> {
        unreachable!("an array of transactions is read, whose elements are taken as such")
    }
}
