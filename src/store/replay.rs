//! Brings the index up to the log: what the log says behind the index's mark is put into it, and what follows from that.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    ChainNumber, ChainRecord, Decided, ImportRecord, Lineage, Parent, Progress, StoreError,
    effects::{self, Content, Entry},
    entry::{EntryHead, Group, GroupRecord, NodeId},
    groups::{ClusterChange, Groups, Known as ClusterKnown, LoggedEntry, Waiting},
    index::{Index, PARTS, Rows, RunRow, key, unreadable},
    runs::{self, Erasure, StoredRun},
};
use crate::{
    core::{
        count::{self, Height, Size},
        hash::Hash,
        merkle::{Edge, TILE_WIDTH, perfect_root},
        quant::{Quant, QuantFields},
        transaction::{Erased, record_hash},
    },
    limits,
    log::{Found, LogError, Mark, Place, Reader},
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

/// What is known of a chain, or of an import, while the log is replayed.
struct Known {
    id: Hash,
    lineage: Arc<Lineage>,
    /// As it stands in the index.
    of: Of,
    /// Where it ends, once something was added to it.
    end: Option<End>,
}

enum Of {
    Chain(ChainRecord),
    Import(ImportRecord),
}

/// The end of a chain.
struct End {
    /// The growing edge of its tree.
    edge: Edge,
    /// The transactions that its newest quant seals.
    sealed: Size,
}

/// The index while it is brought up to the log.
pub(super) struct Replay<'a> {
    index: &'a Index,
    log: PathBuf,
    reader: Option<Reader>,
    rows: Rows,
    chains: HashMap<ChainNumber, Known>,
    numbers: HashMap<Hash, ChainNumber>,
    /// The number of the next chain.
    next: ChainNumber,
    groups: Groups,
    cluster: ClusterKnown,
    /// This node.
    node: Option<NodeId>,
    /// The batch that is read, and the one before.
    batch: Mark,
    before: Mark,
    entry: Option<OpenEntry>,
    progress: &'a Progress,
    /// When it was told last how far it is.
    told: Instant,
    has_told: bool,
}

/// An entry of which records follow.
struct OpenEntry {
    head: EntryHead,
    /// Records that are to come.
    left: u32,
    /// Of its head and of what came.
    span: Place,
    records: Vec<Place>,
    what: Take,
}

/// What becomes of the records of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    /// They are in the index already.
    Skip,
    /// They are agreed.
    Apply,
    /// They may be agreed later.
    Keep,
}

/// What is known when the index is brought up to the log.
pub(super) struct Replayed {
    /// The ids of the chains.
    pub(super) ids: HashMap<ChainNumber, Hash>,
    pub(super) groups: Groups,
    pub(super) cluster: ClusterKnown,
}

impl<'a> Replay<'a> {
    /// `ids` are the numbers that chains of the log have, though the index may not know them yet.
    pub(super) fn new(
        index: &'a Index,
        log: &Path,
        ids: &HashMap<ChainNumber, Hash>,
        node: Option<NodeId>,
        progress: &'a Progress,
    ) -> Result<Replay<'a>, StoreError> {
        index.check_own()?;
        let mark = index.mark()?;
        let mut replay = Replay {
            index,
            log: log.into(),
            reader: None,
            rows: Rows::default(),
            chains: HashMap::new(),
            numbers: HashMap::new(),
            next: ChainNumber(0),
            groups: Groups { by_id: index.groups()?, newest: Some(mark), erasing: 0 },
            cluster: index.cluster()?,
            node,
            batch: mark,
            before: mark,
            entry: None,
            progress,
            told: Instant::now(),
            has_told: false,
        };
        // Of an import that was given up and began again, the newer number counts.
        for (number, id) in BTreeMap::from_iter(ids) {
            replay.add_number(*id, *number);
        }
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

    /// What other groups have applied is agreed.
    pub(super) fn know_applied(&mut self, groups: &Groups) {
        for (&group, of) in &groups.by_id {
            let known = self.groups.by_id.entry(group).or_default();
            known.committed = known.committed.max(of.applied);
        }
    }

    /// Takes the next record of the log.
    pub(super) fn take(&mut self, found: Found) -> Result<(), Fault> {
        if self.rows.bytes > limits::REPLAY_BYTES {
            self.write_part()?;
            self.tell(&found);
        }
        if found.batch != self.batch {
            self.before = std::mem::replace(&mut self.batch, found.batch);
        }
        match effects::decode(found.record.plain())? {
            Content::Own(entry) => self.rows.own(&entry.name, entry.value.as_deref()),
            Content::Group(record) => self.group(*record, found.place)?,
            content => self.of_entry(content, found)?,
        }
        Ok(())
    }

    /// A record of a group.
    fn group(&mut self, record: GroupRecord, place: Place) -> Result<(), StoreError> {
        if self.entry.is_some() {
            return Err(StoreError::Damaged("an entry of the log is cut off".into()));
        }
        match record {
            GroupRecord::Entry(head) => self.begin_entry(head, place)?,
            GroupRecord::Vote(group, vote) => {
                let of = self.groups.by_id.entry(group).or_default();
                of.vote = Some(vote);
                self.rows.group(group, of);
            }
            GroupRecord::Committed(group, id) => {
                let of = self.groups.by_id.entry(group).or_default();
                of.committed = of.committed.max(Some(id));
                self.apply_committed(group)?;
            }
            GroupRecord::Truncated(group, from) => self.groups.by_id.entry(group).or_default().truncate(from),
        }
        Ok(())
    }

    fn begin_entry(&mut self, head: EntryHead, span: Place) -> Result<(), StoreError> {
        let of = self.groups.by_id.entry(head.group).or_default();
        let what = if of.applied.is_some_and(|applied| head.id.index <= applied.index) {
            Take::Skip
        } else if head.id.index != of.next() {
            let (index, group, next) = (head.id.index, head.group, of.next());
            return Err(StoreError::Damaged(format!(
                "the log goes on with entry {index} of group {group}, not {next}"
            )));
        } else {
            let membership = head.membership()?.map(Arc::new);
            let waiting = Waiting { id: head.id, said: None, membership, logged: None };
            of.waiting.insert(head.id.index, waiting);
            match of.is_alone(self.node) {
                true => {
                    // What is only now known to be agreed comes first.
                    let before = of.waiting.len() > 1;
                    of.committed = Some(head.id);
                    if before { Take::Keep } else { Take::Apply }
                }
                false => Take::Keep,
            }
        };
        self.entry = Some(OpenEntry { left: head.records, head, span, records: Vec::new(), what });
        self.end_entry()
    }

    /// Takes a record of the entry that was begun.
    fn of_entry(&mut self, content: Content, found: Found) -> Result<(), StoreError> {
        let open = self.entry.as_mut();
        let open = open.ok_or_else(|| StoreError::Damaged("the log has an effect that is of no entry".into()))?;
        open.left -= 1;
        open.span.length = found.place.offset + found.place.length - open.span.offset;
        if !matches!(content, Content::ErasedBefore(_)) {
            open.records.push(found.place);
        }
        if open.what == Take::Apply {
            let group = open.head.group;
            self.content(group, content, found)?;
        }
        self.end_entry()
    }

    fn end_entry(&mut self) -> Result<(), StoreError> {
        let Some(OpenEntry { head, span, records, what, .. }) = self.entry.take_if(|entry| entry.left == 0) else {
            return Ok(());
        };
        let of = self.groups.by_id.get_mut(&head.group).expect("it was begun");
        match what {
            Take::Skip => Ok(()),
            Take::Apply => self.applied(&head, span),
            Take::Keep => {
                let logged = LoggedEntry { span, records, before: self.before };
                of.waiting.get_mut(&head.id.index).expect("it was begun").logged = Some(logged);
                self.apply_committed(head.group)
            }
        }
    }

    /// Applies what waits and is agreed.
    fn apply_committed(&mut self, group: Group) -> Result<(), StoreError> {
        loop {
            let of = self.groups.by_id.get_mut(&group).expect("it is known");
            let Some((_, waiting)) = of.waiting.first_key_value() else { return Ok(()) };
            let is_agreed = of.committed.is_some_and(|committed| waiting.id.index <= committed.index);
            let Some(logged) = waiting.logged.clone().filter(|_| is_agreed) else { return Ok(()) };
            let mut head = None;
            for (place, record) in self.reader()?.records(logged.span).map_err(StoreError::from)? {
                match effects::decode(record.plain())? {
                    Content::Group(record) => match *record {
                        GroupRecord::Entry(read) => head = Some(read),
                        _ => return Err(StoreError::Damaged("an entry of the log is cut off".into())),
                    },
                    content => {
                        let found = Found { batch: self.batch, acknowledged: self.batch.number, place, record };
                        self.content(group, content, found)?;
                    }
                }
            }
            let head = head.ok_or_else(|| StoreError::Damaged("an entry of the log has no head".into()))?;
            self.applied(&head, logged.span)?;
        }
    }

    /// All effects of an entry are applied.
    fn applied(&mut self, head: &EntryHead, span: Place) -> Result<(), StoreError> {
        let of = self.groups.by_id.get_mut(&head.group).expect("it was begun");
        let waiting = of.waiting.remove(&head.id.index);
        of.applied = Some(head.id);
        of.committed = of.committed.max(of.applied);
        if let Some(membership) = waiting.and_then(|waiting| waiting.membership) {
            of.membership = Some((head.id, membership));
            self.rows.group(head.group, of);
        }
        if let Some(json) = head.cluster().filter(|_| head.group == Group::META) {
            let change = ClusterChange::parse(json)?;
            if change.apply(&mut self.cluster) {
                self.rows.cluster(&change);
            }
        }
        self.rows.entry(head.group, head.id, span);
        Ok(())
    }

    fn content(&mut self, group: Group, content: Content, found: Found) -> Result<(), StoreError> {
        match content {
            Content::Run => self.run(found),
            Content::Effect(entry) => self.effect(group, *entry, found),
            Content::ErasedBefore(note) => {
                let number = self.known(note.chain)?;
                self.rows.erased(number, note.index, &note.erasure);
                Ok(())
            }
            Content::Own(_) | Content::Group(_) => unreachable!("it is no effect"),
        }
    }

    /// Ends at the newest batch of the log, when what was announced to be erased is gone.
    pub(super) fn finish(mut self, newest: Mark) -> Result<Replayed, StoreError> {
        if self.entry.is_some() {
            return Err(StoreError::Damaged("the last entry of the log is cut off".into()));
        }
        self.groups.newest = Some(newest);
        let settled = self.groups.settled();
        self.index.write(self.rows, settled.filter(|mark| *mark != Mark::START))?;
        if self.has_told {
            self.progress.tell(newest.number, newest.number);
        }
        let ids = self.chains.into_iter().map(|(number, known)| (number, known.id)).collect();
        Ok(Replayed { ids, groups: self.groups, cluster: self.cluster })
    }

    fn write_part(&mut self) -> Result<(), StoreError> {
        self.index.write_part(std::mem::take(&mut self.rows))
    }

    /// A start that takes long says so.
    fn tell(&mut self, found: &Found) {
        if self.told.elapsed() >= limits::REPLAY_TOLD {
            (self.told, self.has_told) = (Instant::now(), true);
            self.progress.tell(found.batch.number, found.acknowledged);
        }
    }

    /// The number of a chain, which is its own from now on.
    fn number(&self, id: Hash) -> ChainNumber {
        self.numbers.get(&id).copied().unwrap_or(self.next)
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
        let end = self.chains.remove(&record.number).and_then(|known| known.end);
        let lineage = Arc::new(Lineage::of(record, parent));
        self.chains.insert(record.number, Known { id: record.id, lineage, of: Of::Chain(record.clone()), end });
        Ok(())
    }

    fn add_import(&mut self, record: &ImportRecord) {
        self.add_number(record.id, record.number);
        let end = self.chains.remove(&record.number).and_then(|known| known.end);
        let lineage = Arc::new(Lineage::new(record.number, None));
        self.chains.insert(record.number, Known { id: record.id, lineage, of: Of::Import(record.clone()), end });
    }

    /// The record of a chain that was made.
    fn chain(&self, id: Hash) -> Result<ChainRecord, StoreError> {
        match &self.chains[&self.known(id)?].of {
            Of::Chain(record) => Ok(record.clone()),
            Of::Import(_) => {
                Err(StoreError::Damaged(format!("the log speaks of the chain {id} before it was complete")))
            }
        }
    }

    /// The record of an import, which begins where there is none.
    fn import(&self, group: Group, id: Hash) -> ImportRecord {
        let number = self.number(id);
        match self.chains.get(&number).map(|known| &known.of) {
            Some(Of::Import(record)) => record.clone(),
            _ => ImportRecord { id, number, group, given_up: false, name: None, active: None },
        }
    }

    fn effect(&mut self, group: Group, entry: Entry, found: Found) -> Result<(), StoreError> {
        match entry {
            Entry::Bang { name, parent, leap, quant } => {
                let parent = match parent {
                    Some(at) => Some(Parent { number: self.known(at.chain)?, quant: at.quant, size: at.size }),
                    None => None,
                };
                let (id, size) = (quant.hash, parent.map_or(Size::ZERO, |parent| parent.size));
                let number = self.number(id);
                let record = ChainRecord::of_bang(name, number, id, group, parent, leap);
                self.rows.chain(&record);
                self.add_chain(&record)?;
                self.begin(record.number, size)?;
                self.run(found)?;
                self.quant(record.number, quant)?;
            }
            Entry::Seal { chain, quant } => {
                let number = self.known(chain)?;
                self.quant(number, quant)?;
            }
            Entry::Erase { chain, index, commitment } => {
                let mut record = self.chain(chain)?;
                let run = StoredRun::decode(found.record)?;
                let (by, timestamp) = (run.first, runs::time_of(run.text(0))?);
                record.erasures += 1;
                self.rows.chain(&record);
                self.add_chain(&record)?;
                let erasure = Erasure { erased: Erased { timestamp, by }, commitment };
                self.rows.erased(record.number, index, &erasure);
                self.transactions(found.place, &run)?;
            }
            Entry::Key { chain } => {
                let (mut record, run) = (self.chain(chain)?, StoredRun::decode(found.record)?);
                record.decided.keys.push(run.first);
                self.decided(&record, found.place, &run)?;
            }
            Entry::Freeze { chain } => {
                let (mut record, run) = (self.chain(chain)?, StoredRun::decode(found.record)?);
                record.decided.frozen = Some(run.first);
                self.decided(&record, found.place, &run)?;
            }
            Entry::SetLeap { chain, leap } => {
                let record = ChainRecord { leap, ..self.chain(chain)? };
                self.rows.chain(&record);
                self.add_chain(&record)?;
            }
            Entry::SetMirror { chain, from } => {
                let record = ChainRecord { mirror: Some(from), ..self.chain(chain)? };
                self.rows.chain(&record);
                self.add_chain(&record)?;
            }
            Entry::Import { chain, name, at, quants } => {
                let record = ImportRecord { name, active: Some(at), ..self.import(group, chain) };
                self.rows.import(&record);
                self.add_import(&record);
                quants.into_iter().try_for_each(|quant| self.quant(record.number, quant))?;
            }
            Entry::Adopt { chain: id, name, bang, leap, erasures, keys, frozen } => {
                let number = self.known(id)?;
                let bang = Some(bang).filter(|bang| bang.quant > Height::FIRST);
                let made = ChainRecord::of_bang(name, number, id, group, None, leap);
                let record = ChainRecord { erasures, bang, decided: Decided { keys, frozen }, ..made };
                self.rows.chain(&record);
                self.rows.end_import(id);
                self.add_chain(&record)?;
            }
            Entry::AbandonImport { chain } => {
                let record = ImportRecord { given_up: true, ..self.import(group, chain) };
                self.rows.import(&record);
                self.add_import(&record);
            }
            Entry::EndImport { chain } => self.end_import(chain)?,
        }
        Ok(())
    }

    /// Something was decided about a chain's keys or its end, as the run records.
    fn decided(&mut self, record: &ChainRecord, place: Place, run: &StoredRun) -> Result<(), StoreError> {
        self.rows.chain(record);
        self.add_chain(record)?;
        self.transactions(place, run)
    }

    fn quant(&mut self, number: ChainNumber, fields: QuantFields) -> Result<(), StoreError> {
        let (index, id) = (fields.index, self.chains[&number].id);
        let quant = Quant::try_from(fields)
            .map_err(|error| StoreError::Damaged(format!("quant {index} of the chain {id}: {error}")))?;
        self.ensure_end(number)?;
        let end = self.chains.get_mut(&number).and_then(|known| known.end.as_mut()).expect("it was just found");
        self.rows.quant(number, &quant, end.sealed, Size::new(end.edge.size()));
        end.sealed = quant.size();
        Ok(())
    }

    fn is_import(&self, number: ChainNumber) -> bool {
        self.chains.get(&number).is_some_and(|known| matches!(known.of, Of::Import(_)))
    }

    /// What was stored of an import that was given up goes.
    fn end_import(&mut self, id: Hash) -> Result<(), StoreError> {
        let number = self.numbers.get(&id).copied().filter(|number| self.is_import(*number));
        let Some(number) = number else {
            self.rows.end_import(id);
            return Ok(());
        };
        self.write_part()?;
        for space in PARTS {
            for entry in self.index.space(space).range(key([number.0])..key([number.0 + 1])) {
                let (key, _) = entry.into_inner().map_err(unreadable)?;
                self.rows.remove(space, key.to_vec());
            }
        }
        // Its number may be given again only when nothing is left under it.
        self.write_part()?;
        self.rows.end_import(id);
        self.chains.remove(&number);
        self.numbers.remove(&id);
        Ok(())
    }

    fn run(&mut self, Found { place, record, .. }: Found) -> Result<(), StoreError> {
        self.transactions(place, &StoredRun::decode(record)?)
    }

    fn transactions(&mut self, place: Place, run: &StoredRun) -> Result<(), StoreError> {
        let number = self.known(run.chain)?;
        self.ensure_end(number)?;
        let edge =
            &mut self.chains.get_mut(&number).and_then(|known| known.end.as_mut()).expect("it was just found").edge;
        let (first, bytes_before, count) = (run.first, run.bytes_before(0), run.count() as u32);
        self.rows.run(number, &RunRow { first, place, bytes_before, count });
        let size = Size::new(edge.size());
        if run.end() <= size {
            // It is of a batch that erases, which is written without its mark.
            return Ok(());
        }
        if size.next_index() != run.first {
            let (id, first) = (run.chain, run.first);
            let detail = format!("the log goes on with transaction {first} of the chain {id}, which has {size}");
            return Err(StoreError::Damaged(detail));
        }
        runs::index(run.texts(), number, edge, &mut self.rows)
    }

    /// Finds where a chain ends in the index.
    fn ensure_end(&mut self, number: ChainNumber) -> Result<(), StoreError> {
        if self.chains[&number].end.is_some() {
            return Ok(());
        }
        // It reads what came before.
        self.write_part()?;
        let own = self.index.run_before(number, Size::new(u64::MAX))?;
        let size = own.map_or(self.chains[&number].lineage.shared(), |row| row.end());
        self.begin(number, size)?;
        let sealed = self.index.newest_quant(number)?.map_or(Size::ZERO, |(quant, _)| quant.size());
        let end = self.chains.get_mut(&number).and_then(|known| known.end.as_mut()).expect("it was just begun");
        end.sealed = sealed.max(end.sealed);
        Ok(())
    }

    /// A chain has so many transactions, all of them sealed.
    fn begin(&mut self, number: ChainNumber, size: Size) -> Result<(), StoreError> {
        let lineage = self.chains[&number].lineage.clone();
        if size > Size::ZERO {
            self.write_part()?;
        }
        let edge = Edge::at(size.get(), |level, tile, width| self.hashes(&lineage, level, tile, width))?;
        let end = End { edge, sealed: lineage.shared() };
        self.chains.get_mut(&number).expect("a chain with a number is known").end = Some(end);
        Ok(())
    }

    fn reader(&mut self) -> Result<&Reader, StoreError> {
        if self.reader.is_none() {
            self.reader = Some(Reader::open(&self.log)?);
        }
        Ok(self.reader.as_ref().expect("it was just opened"))
    }

    /// The hashes of an incomplete tile: those of leaves, or the roots of the complete tiles below.
    fn hashes(&mut self, lineage: &Lineage, level: u8, tile: u64, width: usize) -> Result<Vec<Hash>, StoreError> {
        let first = tile * TILE_WIDTH as u64;
        let range = first..first + width as u64;
        if level > 0 {
            let below = |number| self.index.tile(lineage.of_tile(level - 1, number), level - 1, number);
            return range.map(|number| Ok(perfect_root(&below(number)?))).collect();
        }
        let reader = self.reader()?.clone();
        let mut hashes = Vec::with_capacity(width);
        while hashes.len() < width {
            let next = count::Index::new(first + hashes.len() as u64);
            let missing = || StoreError::Damaged(format!("transaction {next} is missing in the index"));
            let row = self.index.run_before(lineage.of_transaction(next), next.size())?;
            let row = row.filter(|row| row.end().has(next)).ok_or_else(missing)?;
            let run = StoredRun::decode(reader.record(row.place)?)?;
            let end = lineage.end_of_part(next).min(run.end()).min(Size::new(range.end)).next_index();
            for at in run.place_of(next)..run.place_of(end) {
                hashes.push(record_hash(run.text(at)).ok_or_else(missing)?);
            }
        }
        Ok(hashes)
    }
}
