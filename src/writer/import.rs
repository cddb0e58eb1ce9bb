//! Imports: chains that were made elsewhere, written in parts and seen by nobody before they are whole.
//!
//! What is in a command was verified by the one who sends it. The writer only keeps the order: a part is appended where the last
//! one ended, or not at all.

use std::sync::Arc;

use super::{ChainHandle, Entry, Outcome, Pending, Refused, Writer, stored_rules};
use crate::{
    core::{
        chain::LeapPolicy,
        hash::Hash,
        merkle::Tile,
        quant::Quant,
        rules::{ChainName, Rules},
        transaction::{Id, Record, Timestamp},
    },
    limits,
    store::{BangPlace, ChainNumber, ChainRecord, ImportRecord, Removed, Run, Store, StoreError},
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
        size: u64,
        /// See `size`.
        quants: u64,
        /// Transactions that came without their data.
        erasures: u64,
        /// When it is to leap by itself, where the chain whose place it takes does not say.
        leap: LeapPolicy,
    },
    /// Removes some of what is stored.
    GiveUp,
}

/// Consecutive transactions and quants of a chain, and what is derived from them.
#[derive(Default)]
pub struct Part {
    /// Transactions before it.
    from: u64,
    /// Transactions up to its end.
    size: u64,
    /// Bytes of all transactions up to its end.
    bytes: u64,
    runs: Vec<Run>,
    tiles: Vec<Tile>,
    ids: Vec<(Id, u64)>,
    /// Each with the size of the quant before.
    quants: Vec<(Quant, u64)>,
}

impl Part {
    /// An empty part behind so many transactions and their bytes.
    pub fn new(from: u64, bytes: u64) -> Part {
        Part { from, size: from, bytes, ..Part::default() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.size == self.from && self.quants.is_empty()
    }

    /// The empty part that follows.
    pub fn next(&self) -> Part {
        Part::new(self.size, self.bytes)
    }

    /// Adds the next transaction with the tiles that it completes. `stored` is its record.
    pub fn transaction(&mut self, record: &Record, stored: &[u8], tiles: Vec<Tile>) {
        if self.runs.last().is_none_or(|run| run.is_full_for(stored.len())) {
            self.runs.push(Run::new(self.size, self.bytes));
        }
        let run = self.runs.last_mut().expect("one was pushed where there was none");
        self.bytes += run.push(stored);
        self.ids.extend(record.id.clone().map(|id| (id, self.size)));
        self.tiles.extend(tiles);
        self.size += 1;
    }

    /// Adds the next quant, behind one of `previous_size` transactions.
    pub fn quant(&mut self, quant: Quant, previous_size: u64) {
        self.quants.push((quant, previous_size));
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
    pub size: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Quants that are stored.
    pub quants: u64,
}

impl Progress {
    /// As it stands in the store.
    ///
    /// # Errors
    /// What is stored is damaged.
    pub fn load(store: &Store, number: ChainNumber) -> Result<Progress, StoreError> {
        let (size, bytes) = store.size_and_bytes(number)?.unwrap_or((0, 0));
        let quants = store.newest_quant(number)?.map_or(0, |quant| quant.index() + 1);
        Ok(Progress { number, size, bytes, quants })
    }

    /// Nothing is stored.
    pub fn none(number: ChainNumber) -> Progress {
        Progress { number, size: 0, bytes: 0, quants: 0 }
    }
}

/// An import in the writer's own, newest state.
pub(super) struct Importing {
    record: ImportRecord,
    progress: Progress,
    /// How far it is removed.
    removed: Removed,
}

impl Importing {
    /// As it stands in the store. One that is damaged there is given up.
    pub(super) fn load(store: &Store, record: &ImportRecord) -> Result<Importing, StoreError> {
        let mut record = record.clone();
        let progress = match Progress::load(store, record.number) {
            Ok(progress) => progress,
            Err(StoreError::Damaged(detail)) => {
                tracing::error!(chain = %record.id, "what is stored of an import is damaged: {detail}");
                record.given_up = true;
                Progress::none(record.number)
            }
            Err(other) => return Err(other),
        };
        Ok(Importing { record, progress, removed: Removed::default() })
    }

    pub(super) fn number(&self) -> ChainNumber {
        self.progress.number
    }
}

impl Writer {
    pub(super) fn import(&mut self, id: Hash, step: Step, pending: &mut Pending) -> Result<Outcome, Refused> {
        match step {
            Step::Find => self.find_import(id).map(Outcome::Importing),
            Step::Begin(now) => self.begin_import(id, now, pending),
            Step::Add { part, name, now } => self.add_part(id, part, name, now, pending),
            Step::Finish { name, bang, size, quants, erasures, leap } => {
                let stored = self.imports.get(&id).map(|found| found.progress);
                if stored.is_some_and(|stored| stored.size != size || stored.quants != quants) {
                    return Err(Refused::ImportIsLonger);
                }
                self.finish_import(id, &name, bang, (erasures, leap), pending)
            }
            Step::GiveUp => self.give_up_import(id, pending),
        }
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

    fn begin_import(&mut self, id: Hash, now: Timestamp, pending: &mut Pending) -> Result<Outcome, Refused> {
        if let Some(progress) = self.find_import(id)? {
            return Ok(Outcome::Importing(Some(progress)));
        }
        let number = self.next_number;
        self.next_number = ChainNumber(number.0 + 1);
        let record = ImportRecord { id, number, given_up: false, name: None, active: Some(now) };
        pending.batch.import(&record);
        let progress = Progress::none(number);
        self.imports.insert(id, Importing { record, progress, removed: Removed::default() });
        Ok(Outcome::Importing(Some(progress)))
    }

    fn add_part(
        &mut self,
        id: Hash,
        part: Part,
        name: Option<ChainName>,
        now: Timestamp,
        pending: &mut Pending,
    ) -> Result<Outcome, Refused> {
        let found = self.imports.get_mut(&id).filter(|found| !found.record.given_up).ok_or(Refused::GivenUp)?;
        let progress = &mut found.progress;
        let follows =
            part.from == progress.size && part.quants.first().is_none_or(|(quant, _)| quant.index() == progress.quants);
        if !follows {
            return Err(Refused::Stale("the import went on elsewhere".into()));
        }
        found.record.active = Some(now);
        if let Some(name) = name {
            found.record.name = Some(name.to_string());
        }
        pending.batch.import(&found.record);
        let number = progress.number;
        progress.size = part.size;
        progress.bytes = part.bytes;
        progress.quants += part.quants.len() as u64;
        part.runs.into_iter().for_each(|run| pending.batch.run(number, run));
        part.tiles.iter().for_each(|tile| pending.batch.tile(number, tile));
        part.ids.iter().for_each(|(id, index)| pending.batch.id(number, id, *index));
        part.quants.iter().for_each(|(quant, previous_size)| pending.batch.quant(number, quant, *previous_size));
        Ok(Outcome::Done)
    }

    fn finish_import(
        &mut self,
        id: Hash,
        name: &ChainName,
        bang: BangPlace,
        (erasures, leap): (u64, LeapPolicy),
        pending: &mut Pending,
    ) -> Result<Outcome, Refused> {
        let found = self.imports.get(&id).filter(|found| !found.record.given_up).ok_or(Refused::GivenUp)?;
        let number = found.number();
        if self.names.contains(name) {
            let of_first =
                |record: &ChainRecord| record.parent.is_some_and(|parent| parent.number == ChainNumber::FIRST);
            let is_forked = self.store.chains()?.iter().any(of_first);
            let other = self.published.chain(name.as_str());
            let other = other.filter(|other| other.is_untouched_default()).filter(|_| !is_forked);
            pending.replaced = Some(other.ok_or_else(|| Refused::NameTaken(name.clone()))?);
        }
        // What this node's operator has said for its default chain counts more than what an export says.
        let replaced = pending.replaced.as_ref().map(|replaced| replaced.leap_policy());
        let leap = replaced.filter(|policy| *policy != LeapPolicy::default()).unwrap_or(leap);
        let name = name.to_string();
        let bang = Some(bang).filter(|bang| bang.quant > 0);
        let record = ChainRecord { name, number, id, parent: None, leap, erasures, bang };
        // It is read as it will be at the next start, so that nothing becomes visible that could not be opened then.
        let entry: Entry = self.load_chain(&record)?;
        if entry.chain.id != id {
            return Err(StoreError::Damaged("the imported chain has another id".into()).into());
        }
        let handle = entry.handle.clone();
        pending.batch.chain(&record);
        pending.batch.end_import(id);
        pending.made.push(number);
        self.imports.remove(&id);
        self.names.insert(handle.name.clone());
        self.chains.insert(number, entry);
        Ok(Outcome::Banged(handle))
    }

    fn give_up_import(&mut self, id: Hash, pending: &mut Pending) -> Result<Outcome, Refused> {
        let Some(found) = self.imports.get_mut(&id) else { return Ok(Outcome::Done) };
        let number = found.number();
        if !std::mem::replace(&mut found.record.given_up, true) {
            // First for sure: what is half removed must not be gone on with.
            pending.batch.import(&found.record);
            return Ok(Outcome::Removing);
        }
        if self.store.remove_parts(number, limits::REMOVE_ENTRIES, &mut found.removed, &mut pending.batch)? {
            pending.batch.end_import(id);
            self.imports.remove(&id);
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Removing)
    }
}

/// Id and rules of the chain that made a quant of this chain: where the chain was imported, that may be an ancestor which
/// this node does not have as a chain of its own.
///
/// # Errors
/// What is stored is damaged.
pub fn in_force_at(store: &Store, chain: &ChainHandle, quant: u64) -> Result<(Hash, Arc<Rules>), StoreError> {
    let (mut id, mut rules) = (chain.id, chain.rules.clone());
    while let Some(of) = rules.fork_of().filter(|of| quant <= of.index) {
        id = of.chain;
        let first = store.quant_with_hash(&chain.lineage, id)?;
        let first =
            first.ok_or_else(|| StoreError::Damaged(format!("the first quant of its ancestor {id} is missing")))?;
        // A bang is the last transaction of the quant that it is sealed by.
        let bang = store.quant(&chain.lineage, first)?.size() - 1;
        rules = Arc::new(stored_rules(store, &chain.lineage, bang)?);
    }
    Ok((id, rules))
}
