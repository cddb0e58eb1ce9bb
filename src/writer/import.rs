//! Imports: chains that were made elsewhere, written in parts and seen by nobody before they are whole.
//!
//! What is in a command was verified by the one who sends it. The writer only keeps the order: a part is appended where the last
//! one ended, or not at all.

use std::sync::Arc;

use super::{
    ChainHandle, Outcome, Refused,
    ledger::{Entry, Ledger, Needed, Pending},
    load::{load_edge, rules_at},
};
use crate::{
    core::{
        chain::LeapPolicy,
        count::{Height, Size},
        hash::Hash,
        merkle::Edge,
        quant::Quant,
        rules::{ChainName, Rules},
        transaction::{Timestamp, Transaction},
    },
    limits,
    store::{
        BangPlace, ChainNumber, ChainRecord, Decided, Effect, FollowedRun, ImportRecord, Lineage, Removed, Run, Store,
        StoreError,
    },
};

/// A step of an import.
pub enum Step {
    /// Tells how far one that was interrupted has come.
    Find,
    /// Starts it, when its first part was verified.
    Begin(Timestamp),
    /// Appends.
    Add {
        /// What.
        part: Part,
        /// The name that the chain will have, once that is known.
        name: Option<ChainName>,
        /// This moment.
        now: Timestamp,
    },
    /// Makes the chain visible.
    Finish {
        /// As its rules say.
        name: ChainName,
        /// Where its own bang stands.
        bang: BangPlace,
        /// Transactions and quants that were verified, which must be all that is stored.
        size: Size,
        /// See `size`.
        quants: Height,
        /// Transactions that came without their data.
        erasures: u64,
        /// What was decided about its keys and its end.
        decided: Decided,
        /// When it is to leap by itself, where the chain whose place it takes does not say.
        leap: LeapPolicy,
        /// What it is to be a mirror of, if it is: then it never leaps by itself.
        mirror: Option<String>,
    },
    /// Removes some of what is stored.
    GiveUp,
}

/// Consecutive transactions and quants of a chain.
pub struct Part {
    /// The chain's id.
    chain: Hash,
    /// Transactions before it.
    from: Size,
    /// Transactions up to its end.
    size: Size,
    /// Bytes of all transactions up to its end.
    bytes: u64,
    runs: Vec<Run>,
    quants: Vec<Quant>,
}

impl Part {
    /// An empty part behind so many transactions and their bytes.
    pub fn new(chain: Hash, from: Size, bytes: u64) -> Part {
        Part { chain, from, size: from, bytes, runs: Vec::new(), quants: Vec::new() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.size == self.from && self.quants.is_empty()
    }

    /// The empty part that follows.
    pub fn next(&self) -> Part {
        Part::new(self.chain, self.size, self.bytes)
    }

    /// Adds the next transaction.
    pub fn transaction(&mut self, transaction: &Transaction) {
        if self.runs.last().is_none_or(|run| run.is_full_for(transaction.served_bytes())) {
            self.runs.push(Run::new(self.chain, self.size.next_index(), self.bytes));
        }
        let run = self.runs.last_mut().expect("one was pushed where there was none");
        self.bytes += run.push(transaction);
        self.size = self.size.next_index().size();
    }

    /// Adds the next quant.
    pub fn quant(&mut self, quant: Quant) {
        self.quants.push(quant);
    }

    pub(super) fn bytes(&self) -> usize {
        self.runs.iter().map(Run::bytes).sum::<usize>() + limits::QUANT_BYTES * self.quants.len()
    }
}

/// How far an import has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The number that the chain has in the store.
    pub number: ChainNumber,
    /// Transactions that are stored.
    pub size: Size,
    /// Their bytes.
    pub bytes: u64,
    /// Where the next quant comes, which is how many are stored.
    pub quants: Height,
}

impl Progress {
    /// As it stands in the store.
    ///
    /// # Errors
    /// What is stored is damaged.
    pub fn load(store: &Store, number: ChainNumber) -> Result<Progress, StoreError> {
        let (size, bytes) = store.size_and_bytes(number)?.unwrap_or((Size::ZERO, 0));
        let quants = store.newest_quant(number)?.map_or(Height::FIRST, |(quant, _)| quant.index().next());
        Ok(Progress { number, size, bytes, quants })
    }

    /// Nothing is stored.
    pub fn none(number: ChainNumber) -> Progress {
        Progress { number, size: Size::ZERO, bytes: 0, quants: Height::FIRST }
    }
}

/// An import in its newest state.
pub(super) struct Importing {
    record: ImportRecord,
    progress: Progress,
    /// The growing edge of its tree.
    edge: Edge,
    /// The transactions that its newest quant seals.
    sealed: Size,
    /// How far it is removed.
    removed: Removed,
}

impl Importing {
    /// Of which nothing is stored.
    fn new(record: ImportRecord) -> Importing {
        let progress = Progress::none(record.number);
        Importing { record, progress, edge: Edge::new(), sealed: Size::ZERO, removed: Removed::default() }
    }

    /// Appends transactions that another node has verified, and which stand in the log.
    pub(super) fn follow(&mut self, run: &FollowedRun<'_>, pending: &mut Pending) -> Result<(), StoreError> {
        let Importing { record, progress, edge, .. } = self;
        for transaction in run.transactions() {
            let transaction = transaction?;
            let index = Size::new(edge.size()).next_index();
            edge.push(transaction.hash, &mut |tile| pending.batch.tile(record.number, &tile));
            progress.bytes += transaction.bytes;
            pending.batch.logged_transaction(record.number, index, &transaction);
        }
        progress.size = Size::new(edge.size());
        Ok(())
    }

    /// As it stands in the store. One that is damaged there is given up.
    pub(super) fn load(store: &Store, record: &ImportRecord) -> Result<Importing, StoreError> {
        let load = || {
            let progress = Progress::load(store, record.number)?;
            let sealed = store.newest_quant(record.number)?.map_or(Size::ZERO, |(quant, _)| quant.size());
            Ok((progress, load_edge(store, &Lineage::new(record.number, None), progress.size)?, sealed))
        };
        let mut importing = Importing::new(record.clone());
        match load() {
            Ok((progress, edge, sealed)) => Ok(Importing { progress, edge, sealed, ..importing }),
            Err(StoreError::Damaged(detail)) => {
                tracing::error!(chain = %record.id, "what is stored of an import is damaged: {detail}");
                importing.record.given_up = true;
                Ok(importing)
            }
            Err(other) => Err(other),
        }
    }
}

/// Deciding.
impl Ledger {
    pub(super) fn decide_import(&mut self, id: Hash, step: Step, pending: &mut Pending) -> Result<Outcome, Refused> {
        let effect = match step {
            Step::Find => return self.find_import(id).map(Outcome::Importing),
            Step::Begin(at) => {
                if let Some(progress) = self.find_import(id)? {
                    return Ok(Outcome::Importing(Some(progress)));
                }
                let effect = Effect::Import { chain: id, name: None, at, runs: Vec::new(), quants: Vec::new() };
                self.apply(effect, Needed::Nothing, pending);
                return self.find_import(id).map(Outcome::Importing);
            }
            Step::Add { part, name, now } => {
                self.check_part(&part)?;
                let Part { runs, quants, .. } = part;
                Effect::Import { chain: id, name: name.map(|name| name.to_string()), at: now, runs, quants }
            }
            Step::Finish { name, bang, size, quants, erasures, decided, leap, mirror } => {
                let leap = Some(leap).filter(|_| mirror.is_none());
                let (effect, entry) = self.decide_adopt(id, &name, bang, (size, quants), (erasures, decided, leap))?;
                let made = self.apply(effect, Needed::Chain(Box::new(entry)), pending);
                if let Some(from) = mirror {
                    self.apply(Effect::SetMirror { chain: id, from }, Needed::Nothing, pending);
                }
                return Ok(Outcome::Banged(made.expect("an import ends with a chain")));
            }
            Step::GiveUp => return self.give_up_import(id, pending),
        };
        self.apply(effect, Needed::Nothing, pending);
        Ok(Outcome::Done)
    }

    /// How far it has come, or nothing where nothing is stored of it and there is room for one more.
    fn find_import(&self, id: Hash) -> Result<Option<Progress>, Refused> {
        match self.imports.get(&id) {
            // What is being removed must be gone before anything is stored under the same id.
            Some(found) if found.record.given_up => Err(Refused::GivenUp),
            Some(found) => Ok(Some(found.progress)),
            None if self.imports.len() >= limits::IMPORTS => Err(Refused::TooManyImports(self.imports.len())),
            None => Ok(None),
        }
    }

    fn unfinished(&self, id: Hash) -> Result<&Importing, Refused> {
        self.imports.get(&id).filter(|found| !found.record.given_up).ok_or(Refused::GivenUp)
    }

    fn check_part(&self, part: &Part) -> Result<(), Refused> {
        let progress = self.unfinished(part.chain)?.progress;
        let follows =
            part.from == progress.size && part.quants.first().is_none_or(|quant| quant.index() == progress.quants);
        if follows { Ok(()) } else { Err(Refused::Stale("the import went on elsewhere".into())) }
    }

    fn decide_adopt(
        &self,
        id: Hash,
        name: &ChainName,
        bang: BangPlace,
        (size, quants): (Size, Height),
        (erasures, decided, leap): (u64, Decided, Option<LeapPolicy>),
    ) -> Result<(Effect, Entry), Refused> {
        let progress = self.unfinished(id)?.progress;
        if progress.size != size || progress.quants != quants {
            return Err(Refused::ImportIsLonger);
        }
        let (may_leap, mut leap) = (leap.is_some(), leap.unwrap_or_default());
        if self.is_elsewhere(name) {
            return Err(Refused::NameTaken(name.clone()));
        }
        if self.names.contains(name) {
            let other = self.replaceable(name)?.ok_or_else(|| Refused::NameTaken(name.clone()))?;
            // What this node's operator has said for its default chain counts more than what an export says.
            let said = Some(other.leap_policy()).filter(|policy| may_leap && *policy != LeapPolicy::default());
            leap = said.unwrap_or(leap);
        }
        // It is read as it will be at the next start, so that nothing becomes visible that could not be opened then.
        if decided.keys.len() > limits::KEY_CHANGES {
            return Err(Refused::TooManyKeys);
        }
        let entry = self.load_adopted(id, name, bang, leap, erasures, decided.clone())?;
        if entry.chain.id != id {
            return Err(StoreError::Damaged("the imported chain has another id".into()).into());
        }
        Ok((Effect::Adopt { chain: id, bang, leap, erasures, decided }, entry))
    }

    pub(super) fn load_adopted(
        &self,
        id: Hash,
        name: &ChainName,
        bang: BangPlace,
        leap: LeapPolicy,
        erasures: u64,
        decided: Decided,
    ) -> Result<Entry, StoreError> {
        let number = self.imports[&id].record.number;
        let (name, bang) = (name.to_string(), Some(bang).filter(|bang| bang.quant > Height::FIRST));
        let group = self.group;
        let made = ChainRecord::of_bang(name, number, id, group, None, leap);
        self.load_chain(&ChainRecord { erasures, bang, decided, ..made })
    }

    /// The chain of this name, where it is the default chain that nobody has used: an imported one may take its place.
    fn replaceable(&self, name: &ChainName) -> Result<Option<Arc<ChainHandle>>, StoreError> {
        let other = self.published.chain(name.as_str()).filter(|other| other.is_untouched_default());
        let Some(other) = other else { return Ok(None) };
        let is_of_it = |record: &ChainRecord| record.parent.is_some_and(|parent| parent.number == other.number());
        let is_forked = self.store.chains()?.iter().any(is_of_it);
        Ok((!is_forked).then_some(other))
    }

    pub(super) fn give_up_import(&mut self, id: Hash, pending: &mut Pending) -> Result<Outcome, Refused> {
        let Some(found) = self.imports.get_mut(&id) else { return Ok(Outcome::Done) };
        if !found.record.given_up {
            // First for sure: what is half removed must not be gone on with.
            self.apply(Effect::AbandonImport { chain: id }, Needed::Nothing, pending);
            return Ok(Outcome::Removing);
        }
        let number = found.record.number;
        if self.store.remove_parts(number, limits::REMOVE_ENTRIES, &mut found.removed, &mut pending.batch)? {
            self.apply(Effect::EndImport { chain: id }, Needed::Nothing, pending);
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Removing)
    }
}

/// Applying.
impl Ledger {
    pub(super) fn import_part(
        &mut self,
        id: Hash,
        name: Option<String>,
        at: Timestamp,
        (runs, quants): (Vec<Run>, Vec<Quant>),
        pending: &mut Pending,
    ) {
        let (number, group) = (self.number(id), self.group);
        let new = || Importing::new(ImportRecord { id, number, group, given_up: false, name: None, active: None });
        let Importing { record, progress, edge, sealed, .. } = self.imports.entry(id).or_insert_with(new);
        record.active = Some(at);
        if name.is_some() {
            record.name = name;
        }
        if let Some(run) = runs.last() {
            progress.bytes = run.bytes_before() + run.bytes() as u64;
        }
        progress.quants = quants.last().map_or(progress.quants, |quant| quant.index().next());
        let before = *sealed;
        *sealed = quants.last().map_or(before, Quant::size);
        pending.batch.import(record, at, (runs, quants), edge, before);
        progress.size = Size::new(edge.size());
    }

    pub(super) fn adopt(&mut self, id: Hash, entry: Entry, pending: &mut Pending) -> Arc<ChainHandle> {
        if self.names.contains(&entry.handle.name) {
            pending.replaced = self.published.chain(entry.handle.name.as_str());
        }
        pending.batch.adopt(&entry.record());
        self.imports.remove(&id);
        self.add(entry, pending)
    }

    pub(super) fn abandon_import(&mut self, id: Hash, pending: &mut Pending) {
        let Some(found) = self.imports.get_mut(&id) else { return };
        found.record.given_up = true;
        pending.batch.abandon_import(&found.record);
    }

    pub(super) fn end_import(&mut self, id: Hash, pending: &mut Pending) {
        self.imports.remove(&id);
        self.forget_number(id);
        pending.batch.end_import(id);
    }
}

/// Id and rules of the chain that made a quant of this chain: where the chain was imported, that may be an ancestor which
/// this node does not have as a chain of its own.
///
/// # Errors
/// What is stored is damaged.
pub fn in_force_at(store: &Store, chain: &ChainHandle, quant: Height) -> Result<(Hash, Arc<Rules>), StoreError> {
    let (terms, size) = (chain.terms(), store.quant(&chain.lineage, quant)?.size());
    let mut bang = chain.lineage.bang_place().transaction;
    let (mut id, mut rules) = (chain.id, rules_at(store, &chain.lineage, bang, terms.keys(), size)?.0);
    while let Some(of) = rules.fork_of().filter(|of| quant <= of.index) {
        id = of.chain;
        let first = store.quant_with_hash(&chain.lineage, id)?;
        let first =
            first.ok_or_else(|| StoreError::Damaged(format!("the first quant of its ancestor {id} is missing")))?;
        // A bang is the last transaction of the quant that it is sealed by.
        let last = store.quant(&chain.lineage, first)?.size().last();
        bang = last.ok_or_else(|| StoreError::Damaged("its first quant is empty".into()))?;
        rules = rules_at(store, &chain.lineage, bang, terms.keys(), size)?.0;
    }
    Ok((id, rules))
}
