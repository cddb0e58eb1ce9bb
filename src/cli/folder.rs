//! A stopped node's data folder, recomputed: the engine's files, every chain, and every index into it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
    sync::{Arc, RwLock},
};

use anyhow::{Context, anyhow, bail, ensure};
use indicatif::ProgressBar;
use serde::Serialize;

use super::{
    Unit,
    pieces::{Piece, in_order},
    print_line, print_value, progress,
    verify::Verified,
};
use crate::{
    cluster::link::{SECRET_FILE, Secret},
    core::{
        count::{Height, Index, Size},
        merkle::Tile,
        quant::Quant,
        transaction::{Id, Record},
        verify::{Checked, Fault, InForce, Verifier, erasure_of},
    },
    limits,
    store::{ChainNumber, ChainRecord, Lineage, Progress, Store, StoreError, key::KeyFile},
};

/// A folder that holds.
#[derive(Serialize)]
pub struct VerifiedFolder {
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

/// Verifies all chains of a data folder, one after the other, and prints them.
///
/// # Errors
/// The first fault with the chain and the place in it, or why the folder cannot be used.
pub fn verify(path: &Path, json: bool, allow_unproven_erasures: bool) -> anyhow::Result<()> {
    let print = |bar: &ProgressBar, verified: &Verified| match json {
        true => Ok(()),
        false => bar.suspend(|| print_line(verified)),
    };
    let verified = recompute(path, json, allow_unproven_erasures, print)?;
    match json {
        true => print_value(&verified),
        false => print_line(verified),
    }
}

/// Verifies all chains of a data folder, one after the other, and tells of each. `json` says that nobody watches.
///
/// # Errors
/// As of [`verify`], and those of `tell`.
pub fn recompute(
    path: &Path,
    json: bool,
    allow_unproven_erasures: bool,
    mut tell: impl FnMut(&ProgressBar, &Verified) -> anyhow::Result<()>,
) -> anyhow::Result<VerifiedFolder> {
    ensure!(
        path.join("format").is_file(),
        "{} is no data folder of a node: that is qbc-data/PORT, or what --data named",
        path.display()
    );
    Store::check_files(path)?;
    let store = Store::open(path, 0, Progress::default())?;
    store.nodes()?;
    let mut records = store.chains()?;
    if !records.is_empty() {
        // A node has its key before its first chain. Where there is a file, none is made of the seed.
        ensure!(path.join("node.key").is_file(), "the file node.key is missing");
        let identity = store.secret_key(KeyFile::Node, [0; 32])?;
        store.signers(&identity)?;
    }
    if !store.witnessed()?.is_empty() {
        ensure!(path.join("witness.key").is_file(), "the file witness.key is missing");
        store.secret_key(KeyFile::Witness, [0; 32])?;
    }
    if let Ok(secret) = std::fs::read(path.join(SECRET_FILE)) {
        let secret = String::from_utf8_lossy(&secret);
        let known =
            secret.parse::<Secret>().map_err(anyhow::Error::msg).with_context(|| format!("the file {SECRET_FILE}"))?;
        ensure!(secret == format!("{known}\n"), "the file {SECRET_FILE} is not as it was written");
        store.cluster_successions(&known.signing_key().verifying_key())?;
    }
    records.sort_by_key(|record| record.number);
    let own = |record: &ChainRecord| {
        let size = store.size_and_bytes(record.number)?.map_or(0, |(size, _)| size.get());
        Ok(size.saturating_sub(record.parent.map_or(0, |parent| parent.size.get())))
    };
    let sizes = records.iter().map(own).collect::<Result<Vec<u64>, StoreError>>()?;
    let bar = progress(json, Unit::Transactions, sizes.iter().sum());
    let (mut lineages, mut chains) = (HashMap::new(), Vec::with_capacity(records.len()));
    let mut forks = Forks::of(&records);
    for record in &records {
        let verified = add_lineage(&mut lineages, record)
            .and_then(|lineage| {
                OneChain::new(&store, &lineage, &bar, &mut forks)?.verify(record, allow_unproven_erasures)
            })
            .with_context(|| format!("chain {}", record.name))?;
        tell(&bar, &verified)?;
        chains.push(verified);
    }
    bar.finish_and_clear();
    Ok(VerifiedFolder { folder: path.display().to_string(), chains })
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

/// What is verified once and shared: chains as they stood at the quants where others were forked from them.
struct Forks {
    wanted: HashSet<(ChainNumber, Height)>,
    found: HashMap<(ChainNumber, Height), Start>,
}

/// Where the verification of a chain starts.
#[derive(Clone)]
struct Start {
    /// It leaves the ids to the index of them in the store.
    verifier: Verifier,
    bytes: u64,
}

impl Forks {
    fn of(records: &[ChainRecord]) -> Forks {
        let wanted = records.iter().filter_map(|record| record.parent).map(|parent| (parent.number, parent.quant));
        Forks { wanted: wanted.collect(), found: HashMap::new() }
    }

    fn start(&self, lineage: &Lineage) -> anyhow::Result<Start> {
        let Some(parent) = lineage.parent() else {
            return Ok(Start { verifier: Verifier::without_ids(), bytes: 0 });
        };
        let start = self.found.get(&(parent.number, parent.quant));
        let start = start.filter(|start| start.verifier.size() == parent.size);
        start.cloned().context("the quant that it was forked at is not as it says")
    }
}

/// One chain on its way through the verifier, with all that the store derives from it. What a fork shares was verified
/// with its parent.
struct OneChain<'a> {
    store: &'a Store,
    lineage: &'a Lineage,
    bar: &'a ProgressBar,
    forks: &'a mut Forks,
    verifier: Verifier,
    bytes: u64,
    /// The next quant, if there is one.
    next: Option<Quant>,
}

/// A transaction that was read: all that can be said of it without those before.
struct Item {
    checked: Result<Checked, String>,
    bytes: u64,
    /// Where the index of ids sees it another way.
    misplaced: Option<String>,
}

impl<'a> OneChain<'a> {
    fn new(store: &'a Store, lineage: &'a Lineage, bar: &'a ProgressBar, forks: &'a mut Forks) -> anyhow::Result<Self> {
        let Start { verifier, bytes } = forks.start(lineage)?;
        Ok(OneChain { store, lineage, bar, forks, verifier, bytes, next: None })
    }

    fn verify(mut self, record: &ChainRecord, allow_unproven_erasures: bool) -> anyhow::Result<Verified> {
        let number = self.lineage.number();
        let newest = self.store.newest_quant(number)?.context("it has no quant")?.0.index();
        let (size, bytes) = self.store.size_and_bytes(number)?.context("its bang is missing")?;
        self.read_next(newest)?;
        self.transactions(size, newest)?;
        while self.next.is_some() {
            self.seal(newest)?;
        }
        ensure!(
            bytes == self.bytes && self.store.bytes_at(self.lineage, size)? == bytes,
            "its transactions have {} bytes, but the store counts {bytes}",
            self.bytes
        );
        let name = self.verifier.rules().context("it has no bang")?.name();
        ensure!(name.as_str() == record.name, "its rules name it {name}");
        let (store, lineage) = (self.store, self.lineage);
        self.verifier.look_for_erasures(|_, by, index| records_erasure(store, lineage, by, index))?;
        if !allow_unproven_erasures {
            self.verifier.check_erasures()?;
        }
        Verified::of(&self.verifier)
    }

    fn read_next(&mut self, newest: Height) -> anyhow::Result<()> {
        let index = self.verifier.newest().map_or(Height::FIRST, |quant| quant.index().next());
        self.next = if index > newest { None } else { Some(self.store.quant(self.lineage, index)?) };
        Ok(())
    }

    fn seal(&mut self, newest: Height) -> anyhow::Result<()> {
        let quant = self.next.take().expect("it is called where there is one");
        let (index, hash) = (quant.index(), quant.hash());
        let first = self.verifier.newest().map_or(Size::ZERO, Quant::size).next_index();
        let sealed = quant.size().last().filter(|last| *last >= first).map(|last| [first, last]);
        self.verifier.quant(quant)?;
        if self.store.quant_with_hash(self.lineage, hash)? != Some(index) {
            bail!(Fault::of_quant(index, "it is not found by its hash"));
        }
        // An entry of another quant in between would show at the first of its transactions.
        for transaction in sealed.into_iter().flatten() {
            if self.store.quant_of(self.lineage, transaction)? != index {
                bail!(Fault::of_transaction(transaction, format!("it is not found to be sealed by quant {index}")));
            }
        }
        let place = (self.lineage.number(), index);
        if self.forks.wanted.contains(&place) {
            self.forks.found.insert(place, Start { verifier: self.verifier.clone(), bytes: self.bytes });
        }
        self.read_next(newest)
    }

    /// The transactions that are not verified yet, and the quants that seal them.
    fn transactions(&mut self, size: Size, newest: Height) -> anyhow::Result<()> {
        let (store, lineage) = (self.store, self.lineage);
        let mut from = self.verifier.size().next_index();
        let read = || {
            if !size.has(from) {
                return Ok(None);
            }
            let mut records = Vec::with_capacity(limits::CHUNK_BYTES);
            let next = store.records(lineage, from..size.next_index(), b'\n', limits::CHUNK_BYTES, &mut records)?;
            let first = std::mem::replace(&mut from, next);
            Ok(Some((first..next, Piece::split(records, b'\n'))))
        };
        let in_force = RwLock::new(self.verifier.in_force());
        let check = |(range, piece): (std::ops::Range<Index>, Piece)| {
            let in_force = in_force.read().expect("no holder of this lock panics").clone();
            let texts = (range.start.get()..range.end.get()).zip(piece.texts());
            let items =
                texts.map(|(index, text)| Item::read(store, lineage, Index::new(index), text, in_force.as_deref()));
            (range, items.collect::<Result<Vec<_>, StoreError>>())
        };
        in_order(read, check, |(range, items)| {
            for item in items? {
                self.transaction(item)?;
                while self.next.as_ref().is_some_and(|next| next.size() <= self.verifier.size()) {
                    self.seal(newest)?;
                }
            }
            if self.verifier.size().next_index() != range.end {
                bail!(Fault::of_transaction(range.end, "a run of transactions is malformed"));
            }
            *in_force.write().expect("no holder of this lock panics") = self.verifier.in_force();
            Ok(())
        })
    }

    fn transaction(&mut self, item: Item) -> anyhow::Result<()> {
        let index = self.verifier.size().next_index();
        let fault = |detail: String| Fault::of_transaction(index, detail);
        let checked = item.checked.map_err(fault)?;
        let mut completed = Vec::new();
        self.verifier.checked(&checked, &mut |tile| completed.push(tile))?;
        if let Some(detail) = item.misplaced {
            bail!(fault(detail));
        }
        for Tile { level, number, hashes } in completed {
            if self.store.tile(self.lineage, level, number)? != hashes {
                bail!(fault(format!(
                    "tile {number} of level {level}, which it completes, is another one in the store"
                )));
            }
        }
        self.bytes += item.bytes;
        self.bar.inc(1);
        Ok(())
    }
}

impl Item {
    fn read(
        store: &Store,
        lineage: &Lineage,
        index: Index,
        text: &[u8],
        in_force: Option<&InForce>,
    ) -> Result<Item, StoreError> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let record = Record::parse(text);
        let misplaced = match record.as_ref().ok().and_then(|record| record.transaction.id()) {
            Some(id) => misplaced(store, lineage, index, id)?,
            None => None,
        };
        let bytes = match &record {
            // What an erasure took away counts on.
            Ok(record) if record.transaction.erased().is_some() => {
                let before = Size::new(index.get());
                store.bytes_at(lineage, index.size())? - store.bytes_at(lineage, before)?
            }
            _ => text.len() as u64,
        };
        let checked = record.map(|record| Checked::new(record, in_force));
        Ok(Item { checked, bytes, misplaced })
    }
}

/// Whether a transaction of the chain that wrote `index` records its erasure.
fn records_erasure(store: &Store, lineage: &Lineage, by: Index, index: Index) -> Result<bool, StoreError> {
    let writer = lineage.of_transaction(index);
    if by <= index || store.size_and_bytes(writer)?.is_none_or(|(size, _)| !size.has(by)) {
        return Ok(false);
    }
    // It may stand after the place of the fork.
    let record = Record::parse(&store.own_record(writer, by)?);
    Ok(record.is_ok_and(|record| record.index == by && erasure_of(&record.transaction) == Some(index)))
}

/// Each id leads to its one transaction. The index of a fork is asked before that of its parent, so the parent is asked too.
fn misplaced(store: &Store, lineage: &Lineage, index: Index, id: &Id) -> Result<Option<String>, StoreError> {
    if store.transaction_with_id(lineage, id)? != Some(index) {
        return Ok(Some(format!("it is not found by its id {:?}", id.as_str())));
    }
    let shared = index >= lineage.own_from() && store.inherited_with_id(lineage, id)?.is_some();
    Ok(shared.then(|| format!("its id {:?} stands in the chain already", id.as_str())))
}
