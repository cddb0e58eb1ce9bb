//! A stopped node's data folder, recomputed: the engine's files, every chain, and every index into it.

use std::{collections::HashMap, fmt, path::Path, sync::Arc};

use anyhow::{Context, anyhow, bail, ensure};
use indicatif::ProgressBar;
use serde::Serialize;

use super::{Unit, print_line, progress, verify::Verified};
use crate::{
    core::{
        merkle::{Edge, Tile},
        quant::Quant,
        transaction::Record,
        verify::{Fault, Verifier},
    },
    limits,
    store::{ChainNumber, ChainRecord, Lineage, Store, StoreError, key::KeyFile},
};

/// A folder that holds.
#[derive(Serialize)]
struct VerifiedFolder {
    folder: String,
    chains: Vec<Verified>,
}

impl fmt::Display for VerifiedFolder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut total = [0; 3];
        for chain in &self.chains {
            total.iter_mut().zip(chain.counts()).for_each(|(total, count)| *total += count);
        }
        let [quants, transactions, pooled] = total;
        let chains = self.chains.len();
        write!(f, "the folder {} holds: {chains} chains, {quants} quants, ", self.folder)?;
        write!(f, "{transactions} transactions and {pooled} pooled; what forks share is counted for each")
    }
}

/// Verifies all chains of a data folder, one after the other.
///
/// # Errors
/// The first fault with the chain and the place in it, or why the folder cannot be used.
pub fn verify(path: &Path, json: bool) -> anyhow::Result<()> {
    ensure!(
        path.join("format").is_file(),
        "{} is no data folder of a node: that is qbc-data/PORT, or what --data named",
        path.display()
    );
    Store::check_files(path)?;
    let store = Store::open(path)?;
    store.nodes()?;
    let mut records = store.chains()?;
    if !records.is_empty() {
        // A node has its key before its first chain. Where there is a file, none is made of the seed.
        ensure!(path.join("node.key").is_file(), "the file node.key is missing");
        store.secret_key(KeyFile::Node, [0; 32])?;
    }
    if !store.witnessed()?.is_empty() {
        ensure!(path.join("witness.key").is_file(), "the file witness.key is missing");
        store.secret_key(KeyFile::Witness, [0; 32])?;
    }
    records.sort_by_key(|record| record.number);
    let size = |record: &ChainRecord| Ok(store.size_and_bytes(record.number)?.map_or(0, |(size, _)| size));
    let sizes = records.iter().map(size).collect::<Result<Vec<u64>, StoreError>>()?;
    let bar = progress(json, Unit::Transactions, sizes.iter().sum());
    let (mut lineages, mut chains) = (HashMap::new(), Vec::with_capacity(records.len()));
    for record in &records {
        let verified = add_lineage(&mut lineages, record)
            .and_then(|lineage| OneChain::new(&store, &lineage, &bar).verify(record))
            .with_context(|| format!("chain {}", record.name))?;
        if !json {
            bar.suspend(|| print_line(&verified))?;
        }
        chains.push(verified);
    }
    bar.finish_and_clear();
    let verified = VerifiedFolder { folder: path.display().to_string(), chains };
    match json {
        true => print_line(serde_json::to_string(&verified)?),
        false => print_line(verified),
    }
}

/// A chain's parent has a lower number, so its lineage is there already.
fn add_lineage(
    lineages: &mut HashMap<ChainNumber, Arc<Lineage>>,
    record: &ChainRecord,
) -> anyhow::Result<Arc<Lineage>> {
    let parent = match record.parent {
        Some(parent) => {
            let of =
                lineages.get(&parent.number).ok_or_else(|| anyhow!("the chain that it was forked from is missing"))?;
            Some((parent, of.clone()))
        }
        None => None,
    };
    let lineage = Arc::new(Lineage::new(record.number, parent));
    if lineages.insert(record.number, lineage.clone()).is_some() {
        bail!("another chain has its number");
    }
    Ok(lineage)
}

/// One chain on its way through the verifier, with all that the store derives from it.
struct OneChain<'a> {
    store: &'a Store,
    lineage: &'a Lineage,
    bar: &'a ProgressBar,
    verifier: Verifier,
    /// Grows with the verifier's own, to give the tiles.
    edge: Edge,
    bytes: u64,
}

impl<'a> OneChain<'a> {
    fn new(store: &'a Store, lineage: &'a Lineage, bar: &'a ProgressBar) -> Self {
        OneChain { store, lineage, bar, verifier: Verifier::new(), edge: Edge::new(), bytes: 0 }
    }

    fn verify(mut self, record: &ChainRecord) -> anyhow::Result<Verified> {
        let number = self.lineage.number();
        let newest = self.store.newest_quant(number)?.context("it has no quant")?;
        for index in 0..=newest.index() {
            self.quant(self.store.quant(self.lineage, index)?)?;
        }
        let (size, bytes) = self.store.size_and_bytes(number)?.context("its bang is missing")?;
        self.transactions(size)?;
        ensure!(
            bytes == self.bytes && self.store.bytes_at(self.lineage, size)? == bytes,
            "its transactions have {} bytes, but the store counts {bytes}",
            self.bytes
        );
        let name = self.verifier.rules().context("it has no bang")?.name();
        ensure!(name.as_str() == record.name, "its rules name it {name}");
        Verified::of(&self.verifier)
    }

    fn quant(&mut self, quant: Quant) -> anyhow::Result<()> {
        let (index, hash, sealed) = (quant.index(), quant.hash(), self.verifier.size()..quant.size());
        self.transactions(quant.size()).with_context(|| format!("quant {index}"))?;
        self.verifier.quant(quant)?;
        if self.store.quant_with_hash(self.lineage, hash)? != Some(index) {
            bail!(Fault::of_quant(index, "it is not found by its hash"));
        }
        // An entry of another quant in between would show at the first of its transactions.
        for transaction in sealed.clone().take(1).chain(sealed.last()) {
            if self.store.quant_of(self.lineage, transaction)? != index {
                bail!(Fault::of_transaction(transaction, format!("it is not found to be sealed by quant {index}")));
            }
        }
        Ok(())
    }

    /// The transactions that are not verified yet, up to this size.
    fn transactions(&mut self, size: u64) -> anyhow::Result<()> {
        let mut records = Vec::with_capacity(limits::CHUNK_BYTES);
        while self.verifier.size() < size {
            records.clear();
            let range = self.verifier.size()..size;
            let next = self.store.records(self.lineage, range, b'\n', limits::CHUNK_BYTES, &mut records)?;
            for record in records.split(|&byte| byte == b'\n') {
                self.transaction(record)?;
            }
            if self.verifier.size() != next {
                bail!(Fault::of_transaction(next, "a run of transactions is malformed"));
            }
        }
        Ok(())
    }

    fn transaction(&mut self, text: &[u8]) -> anyhow::Result<()> {
        let index = self.verifier.size();
        let fault = |detail: String| Fault::of_transaction(index, detail);
        let record = Record::parse(text).map_err(fault)?;
        self.verifier.transaction(&record)?;
        if let Some(id) = &record.id
            && self.store.transaction_with_id(self.lineage, id)? != Some(index)
        {
            bail!(fault(format!("it is not found by its id {:?}", id.as_str())));
        }
        let mut completed = Vec::new();
        self.edge.push(record.hash, |tile| completed.push(tile));
        for Tile { level, number, hashes } in completed {
            if self.store.tile(self.lineage, level, number)? != hashes {
                bail!(fault(format!(
                    "tile {number} of level {level}, which it completes, is another one in the store"
                )));
            }
        }
        self.bytes += match record.erased {
            None => text.len() as u64,
            // What an erasure took away counts on.
            Some(_) => self.store.bytes_at(self.lineage, index + 1)? - self.store.bytes_at(self.lineage, index)?,
        };
        self.bar.inc(1);
        Ok(())
    }
}
