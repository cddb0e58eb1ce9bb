//! Brings the index up to the log: what the log says behind the index's mark is put into it, and what follows from that.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    ChainNumber, ChainRecord, ImportRecord, Lineage, StoreError,
    entries::{self, ENTRIES, Entry},
    index::{Index, PARTS, Rows, RunRow, key, unreadable},
    runs::{Erasure, RUN, StoredRun},
};
use crate::{
    core::{
        hash::Hash,
        merkle::{Edge, TILE_WIDTH, perfect_root},
        quant::Quant,
        transaction::{Erased, Id, record_hash},
    },
    limits,
    log::{Found, LogError, Mark, Reader},
};

/// Why the log cannot be replayed.
pub(super) enum Fault {
    /// The log itself.
    Log(LogError),
    /// What it says, or the index.
    Store(StoreError),
}

impl Fault {
    /// Whether an index that is made anew may be free of it.
    pub(super) fn may_be_of_index(&self) -> bool {
        matches!(self, Fault::Log(LogError::NoSuchMark(_)) | Fault::Store(StoreError::Damaged(_)))
    }
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        Fault::Log(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Fault::Store(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Log(error) => error.into(),
            Fault::Store(error) => error,
        }
    }
}

/// What is known of a chain while the log is replayed.
struct Known {
    id: Hash,
    lineage: Arc<Lineage>,
    /// The growing edge of its tree, once something was added to it.
    edge: Option<Edge>,
    /// Whether it is a chain; else it is an import.
    is_chain: bool,
}

/// The index while it is brought up to the log.
pub(super) struct Replay<'a> {
    index: &'a Index,
    log: PathBuf,
    reader: Option<Reader>,
    rows: Rows,
    /// The newest batch of which something was taken.
    batch: Mark,
    /// The batch before it, all of which is in the index or in the rows.
    completed: Mark,
    chains: HashMap<ChainNumber, Known>,
    numbers: HashMap<Hash, ChainNumber>,
    /// Numbers that chains get which the index does not have yet.
    given: HashMap<Hash, ChainNumber>,
    /// The number of the next chain.
    next: ChainNumber,
    /// When it was told last how far it is.
    told: Instant,
}

impl<'a> Replay<'a> {
    /// A chain that the index does not have gets its number from `given`, or the next one.
    pub(super) fn new(
        index: &'a Index,
        log: &Path,
        given: HashMap<Hash, ChainNumber>,
    ) -> Result<Replay<'a>, StoreError> {
        index.check_own()?;
        let mark = index.mark()?;
        let mut replay = Replay {
            index,
            log: log.into(),
            reader: None,
            rows: Rows::default(),
            batch: mark,
            completed: mark,
            chains: HashMap::new(),
            numbers: HashMap::new(),
            given,
            next: ChainNumber(0),
            told: Instant::now(),
        };
        let mut records = index.chains()?;
        // A parent has a lower number than its forks.
        records.sort_by_key(|record| record.number);
        for record in &records {
            replay.add_chain(record)?;
        }
        for record in index.imports()? {
            replay.add_import(&record);
        }
        Ok(replay)
    }

    /// Takes the next record of the log.
    pub(super) fn take(&mut self, found: Found) -> Result<(), Fault> {
        if found.batch != self.batch {
            (self.completed, self.batch) = (self.batch, found.batch);
            if self.rows.bytes > limits::REPLAY_BYTES {
                // The mark comes last: only then the log has completed the erasures before it.
                self.write(None)?;
                self.tell();
            }
        }
        match found.record.plain().first() {
            Some(&RUN) => self.run(found)?,
            Some(&ENTRIES) => {
                for entry in entries::decode(found.record.plain())? {
                    self.entry(entry)?;
                }
            }
            _ => return Err(StoreError::Damaged("the log has a record that is none of this program's".into()).into()),
        }
        Ok(())
    }

    /// Ends at the newest batch of the log. Gives the ids of the chains.
    pub(super) fn finish(mut self, newest: Mark) -> Result<HashMap<ChainNumber, Hash>, StoreError> {
        self.write(Some(newest))?;
        Ok(self.chains.into_iter().map(|(number, known)| (number, known.id)).collect())
    }

    fn write(&mut self, mark: Option<Mark>) -> Result<(), StoreError> {
        self.index.write(std::mem::take(&mut self.rows), mark)
    }

    /// A start that takes long says so.
    fn tell(&mut self) {
        if self.told.elapsed() >= limits::REPLAY_TOLD {
            self.told = Instant::now();
            tracing::info!("the index is brought up to the log: batch {} is done", self.completed.number);
        }
    }

    /// The number of a chain, which is its own from now on.
    fn number(&self, id: Hash) -> ChainNumber {
        self.numbers.get(&id).or_else(|| self.given.get(&id)).copied().unwrap_or(self.next)
    }

    fn add_number(&mut self, id: Hash, number: ChainNumber) {
        self.numbers.insert(id, number);
        self.next = self.next.max(ChainNumber(number.0 + 1));
    }

    fn known(&self, id: Hash) -> Result<ChainNumber, StoreError> {
        let number = self.numbers.get(&id).copied();
        number.ok_or_else(|| StoreError::Damaged(format!("the log speaks of the chain {id} before it was made")))
    }

    fn add_chain(&mut self, record: &ChainRecord) -> Result<(), StoreError> {
        let parent = match record.parent {
            None => None,
            Some(parent) => {
                let of = self.chains.get(&parent.number);
                let of =
                    of.ok_or_else(|| StoreError::Damaged("the chain that another was forked from is missing".into()))?;
                Some((parent, of.lineage.clone()))
            }
        };
        self.add_number(record.id, record.number);
        let edge = self.chains.remove(&record.number).and_then(|known| known.edge);
        let lineage = Arc::new(Lineage::of(record, parent));
        self.chains.insert(record.number, Known { id: record.id, lineage, edge, is_chain: true });
        Ok(())
    }

    fn add_import(&mut self, record: &ImportRecord) {
        self.add_number(record.id, record.number);
        let lineage = Arc::new(Lineage::new(record.number, None));
        let known = || Known { id: record.id, lineage, edge: None, is_chain: false };
        self.chains.entry(record.number).or_insert_with(known);
    }

    fn entry(&mut self, entry: Entry) -> Result<(), StoreError> {
        match entry {
            Entry::Chain { id, name, parent, leap, erasures, bang } => {
                let parent = parent.map(|of| self.known(of.chain).map(|number| of.parent(number))).transpose()?;
                let record = ChainRecord { name, number: self.number(id), id, parent, leap, erasures, bang };
                self.rows.chain(&record);
                self.add_chain(&record)?;
            }
            Entry::Import { id, given_up, name, active } => {
                let record = ImportRecord { id, number: self.number(id), given_up, name, active };
                self.rows.import(&record);
                self.add_import(&record);
            }
            Entry::EndImport { id } => self.end_import(id)?,
            Entry::Quant { chain, previous_size, quant } => {
                let index = quant.index;
                let quant = Quant::try_from(quant)
                    .map_err(|error| StoreError::Damaged(format!("quant {index} of the chain {chain}: {error}")))?;
                self.rows.quant(self.known(chain)?, &quant, previous_size);
            }
            Entry::Erased { chain, index, timestamp, by, commitment } => {
                let erasure = Erasure { erased: Erased { timestamp, by }, commitment };
                self.rows.erased(self.known(chain)?, index, &erasure);
            }
            Entry::Own { name, value } => self.rows.own(&name, value.as_deref()),
        }
        Ok(())
    }

    /// What was stored of an import that was given up goes.
    fn end_import(&mut self, id: Hash) -> Result<(), StoreError> {
        let number = self.numbers.get(&id).copied().filter(|number| !self.chains[number].is_chain);
        let Some(number) = number else {
            self.rows.end_import(id);
            return Ok(());
        };
        self.write(None)?;
        for space in PARTS {
            for entry in self.index.space(space).range(key([number.0])..key([number.0 + 1])) {
                let (key, _) = entry.into_inner().map_err(unreadable)?;
                self.rows.remove(space, key.to_vec());
            }
        }
        // Its number may be given again only when nothing is left under it.
        self.write(None)?;
        self.rows.end_import(id);
        self.chains.remove(&number);
        self.numbers.remove(&id);
        Ok(())
    }

    fn run(&mut self, found: Found) -> Result<(), StoreError> {
        let place = found.place;
        let run = StoredRun::decode(found.record)?;
        let number = self.known(run.chain)?;
        self.ensure_edge(number)?;
        let known = self.chains.get_mut(&number).expect("a chain with a number is known");
        let edge = known.edge.as_mut().expect("it was just found");
        let (first, bytes_before, count) = (run.first, run.bytes_before(0), run.count() as u32);
        self.rows.run(number, &RunRow { first, place, bytes_before, count });
        if run.end() <= edge.size() {
            // It was written before an interrupted replay could write its mark.
            return Ok(());
        }
        if edge.size() != run.first {
            let (id, size, first) = (run.chain, edge.size(), run.first);
            let detail = format!("the log goes on with transaction {first} of the chain {id}, which has {size}");
            return Err(StoreError::Damaged(detail));
        }
        for (index, at) in (run.first..).zip(0..run.count()) {
            let text = run.text(at);
            let malformed =
                || StoreError::Damaged(format!("transaction {index} of the chain {} is malformed", run.chain));
            edge.push(record_hash(text).ok_or_else(malformed)?, |tile| self.rows.tile(number, &tile));
            if let Some(id) = id_of(text).ok_or_else(malformed)? {
                self.rows.id(number, &id, index);
            }
        }
        Ok(())
    }

    /// Finds where the tree of a chain stands in the index.
    fn ensure_edge(&mut self, number: ChainNumber) -> Result<(), StoreError> {
        if self.chains[&number].edge.is_some() {
            return Ok(());
        }
        // It reads what came before.
        self.write(None)?;
        let lineage = self.chains[&number].lineage.clone();
        let own = self.index.run_before(number, u64::MAX)?;
        let size = own.map_or(lineage.own_from(), |row| row.end());
        let edge = Edge::at(size, |level, tile, width| self.hashes(&lineage, level, tile, width))?;
        self.chains.get_mut(&number).expect("a chain with a number is known").edge = Some(edge);
        Ok(())
    }

    /// The hashes of an incomplete tile: those of leaves, or the roots of the complete tiles below.
    fn hashes(&mut self, lineage: &Lineage, level: u8, tile: u64, width: usize) -> Result<Vec<Hash>, StoreError> {
        let first = tile * TILE_WIDTH as u64;
        let range = first..first + width as u64;
        if level > 0 {
            let below = |number| self.index.tile(lineage.of_tile(level - 1, number), level - 1, number);
            return range.map(|number| Ok(perfect_root(&below(number)?))).collect();
        }
        if self.reader.is_none() {
            self.reader = Some(Reader::open(&self.log)?);
        }
        let reader = self.reader.as_ref().expect("it was just opened");
        let mut hashes = Vec::with_capacity(width);
        while hashes.len() < width {
            let next = first + hashes.len() as u64;
            let missing = || StoreError::Damaged(format!("transaction {next} is missing in the index"));
            let row = self.index.run_before(lineage.of_transaction(next), next + 1)?;
            let row = row.filter(|row| next < row.end()).ok_or_else(missing)?;
            let run = StoredRun::decode(reader.record(row.place)?)?;
            let end = lineage.end_of_part(next).min(run.end()).min(range.end);
            for index in next..end {
                hashes.push(record_hash(run.text((index - run.first) as usize)).ok_or_else(missing)?);
            }
        }
        Ok(hashes)
    }
}

/// The client's id in the text of a transaction, if it has one. `None` where the text is malformed.
fn id_of(text: &[u8]) -> Option<Option<Id>> {
    // Its place is the first after the index, and its text has no escapes but those of JSON.
    let rest = text.strip_prefix(b"{\"index\":")?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let Some(quoted) = rest[digits..].strip_prefix(b",\"id\":") else { return Some(None) };
    let mut values = serde_json::Deserializer::from_slice(quoted).into_iter::<String>();
    values.next()?.ok()?.parse().ok().map(Some)
}
