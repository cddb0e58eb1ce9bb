//! Imports: a chain that another node made is verified line by line, and recreated byte by byte under its id.
//!
//! It is stored as it comes, in parts, and nobody sees it before its checkpoint holds: then it becomes visible in one commit. An
//! import that is interrupted keeps what was stored; the same lines sent again are verified again, compared with that, and go
//! on where it ends. One that is at fault is removed.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::Arc,
};

use super::Node;
use crate::{
    core::{
        export::{Export, Line, Voucher},
        hash::Hash,
        json,
        merkle::Tile,
        note::VerifierKey,
        quant::Quant,
        transaction::{Id, Record},
        verify::{Fault, Verifier},
    },
    limits,
    store::{BangPlace, Lineage, Store, StoreError},
    writer::{ChainHandle, Command, Outcome, Part, Progress, Refused, Step},
};

/// Why a chain was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The export does not hold. Nothing of it is kept.
    #[error("line {line}: {fault}")]
    Fault {
        /// Counted from 1; the one behind the last where something is missing.
        line: u64,
        /// What does not hold.
        fault: Fault,
    },
    /// It cannot be stored beside what is there already, which stays as it was.
    #[error("{0}")]
    Conflict(String),
    /// It could not be written. What was written stays, to be gone on with.
    #[error("{0}")]
    Refused(#[from] Refused),
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        ImportError::Refused(error.into())
    }
}

/// A chain that was imported.
pub struct Imported {
    /// The chain.
    pub chain: Arc<ChainHandle>,
    /// Quants of the export.
    pub quants: u64,
    /// Transactions of the export.
    pub transactions: u64,
    /// Whether the node had all of it before.
    pub was_here: bool,
    /// Who speaks for it.
    pub voucher: Voucher,
}

/// An import on its way. Dropped before it is finished, it counts as interrupted.
pub struct Import {
    node: Node,
    id: Hash,
    export: Export,
    /// Lines seen.
    line: u64,
    target: Target,
    /// Where the newest bang stands.
    bang: BangPlace,
    _turn: Turn,
}

/// Where the lines go.
enum Target {
    /// The chain is here: they are compared with it.
    Here(Arc<ChainHandle>),
    /// They are stored.
    Stored(Box<Storing>),
}

struct Storing {
    /// How far it had come when this import began.
    found: Progress,
    lineage: Lineage,
    /// Stored records from there on where the reading stands, to be compared.
    stored: VecDeque<Vec<u8>>,
    part: Part,
    /// Ids in the part, which the store does not know yet.
    ids: HashSet<Id>,
}

/// Nobody else imports the same chain meanwhile.
struct Turn(Node, Hash);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.importing.lock().expect("no holder of this lock panics").remove(&self.1);
    }
}

impl Turn {
    fn take(node: &Node, id: Hash) -> Result<Turn, ImportError> {
        match node.0.importing.lock().expect("no holder of this lock panics").insert(id) {
            true => Ok(Turn(node.clone(), id)),
            false => Err(ImportError::Conflict(format!("the chain {id} is being imported by somebody else"))),
        }
    }
}

impl Import {
    /// Begins the import of the chain with this id, or goes on with one that was interrupted. One of the keys must have signed
    /// the export's checkpoint, if any is named.
    ///
    /// # Errors
    /// Somebody else imports the same chain, or the node takes no writes.
    pub async fn begin(node: &Node, id: Hash, keys: Vec<VerifierKey>) -> Result<Import, ImportError> {
        let turn = Turn::take(node, id)?;
        let target = match node.chain(&id.to_string()) {
            Some(chain) => Target::Here(chain),
            None => Target::Stored(Box::new(Storing::behind(begin(node, id).await?))),
        };
        let export = Export::new(Verifier::without_ids(), keys);
        let bang = BangPlace { transaction: 0, quant: 0 };
        Ok(Import { node: node.clone(), id, export, line: 0, target, bang, _turn: turn })
    }

    /// Takes the next lines. When it returns, what they hold is durable.
    ///
    /// # Errors
    /// The first line that does not hold, or why they cannot be stored. The import is over then.
    pub async fn lines(&mut self, lines: &[u8]) -> Result<(), ImportError> {
        // Hashing takes long enough to hold others up.
        tokio::task::block_in_place(|| {
            lines.split_inclusive(|&byte| byte == b'\n').try_for_each(|line| self.line(line.trim_ascii()))
        })?;
        let Target::Stored(storing) = &mut self.target else { return Ok(()) };
        if storing.part.is_empty() {
            return Ok(());
        }
        let next = storing.part.next();
        let part = mem::replace(&mut storing.part, next);
        storing.ids.clear();
        self.node.step(self.id, Step::Add(part)).await.map(|_| ())
    }

    fn line(&mut self, text: &[u8]) -> Result<(), ImportError> {
        self.line += 1;
        if text.is_empty() {
            return Ok(());
        }
        let line = self.line;
        let at_line = |fault| ImportError::Fault { line, fault };
        let in_force = self.export.verifier().in_force();
        let item = Line::parse(text, in_force.as_deref());
        let previous = self.export.verifier().newest().map_or(0, Quant::size);
        let mut tiles = Vec::new();
        self.export.take(&item, &mut |tile| tiles.push(tile)).map_err(at_line)?;
        match item {
            Line::Transaction(Ok(checked)) => {
                check_depth(checked.record()).map_err(at_line)?;
                let Target::Stored(storing) = &mut self.target else { return Ok(()) };
                storing.transaction(&self.node.0.store, checked.record(), tiles, line)
            }
            Line::Quant(Ok(quant)) => {
                if self.export.verifier().id() == Some(quant.hash()) {
                    self.bang = BangPlace { transaction: quant.size() - 1, quant: quant.index() };
                    self.check_name(&quant)?;
                }
                match &mut self.target {
                    Target::Stored(storing) => storing.quant(&self.node.0.store, quant, previous, line),
                    Target::Here(chain) => compare(&self.node.0.store, chain, &quant),
                }
            }
            _ => Ok(()),
        }
    }

    /// Finds early that the chain could not become visible.
    fn check_name(&self, first: &Quant) -> Result<(), ImportError> {
        let name = self.export.verifier().rules().map(|rules| rules.name().clone());
        let Some(name) = name.filter(|_| first.hash() == self.id && matches!(self.target, Target::Stored(_))) else {
            return Ok(());
        };
        match self.node.chain(name.as_str()) {
            // The writer looks again, when the chain becomes visible.
            Some(other) if other.is_untouched_default() => Ok(()),
            Some(other) => Err(ImportError::Conflict(format!(
                "the chain is called \"{name}\", and this node has another one of that name, whose id is {}",
                other.id
            ))),
            None => Ok(()),
        }
    }

    /// Ends behind the last line: the chain becomes visible.
    ///
    /// # Errors
    /// The end is missing, or the chain is another one than was said.
    pub async fn finish(&mut self) -> Result<Imported, ImportError> {
        let (id, line, bang) = (self.id, self.line + 1, self.bang);
        let at_end = |place: &str, detail: String| {
            let fault = Fault { place: place.into(), detail };
            ImportError::Fault { line, fault }
        };
        let export = mem::replace(&mut self.export, Export::new(Verifier::without_ids(), Vec::new()));
        let (verifier, voucher) = export.finish().map_err(|fault| ImportError::Fault { line, fault })?;
        if voucher == Voucher::Nobody {
            return Err(at_end("checkpoint", "it is missing, so nobody can say whether the end is there".into()));
        }
        let (newest, rules) = verifier.newest().zip(verifier.rules()).expect("a checkpoint holds for a quant");
        let (quants, transactions) = (newest.index() + 1, newest.size());
        if verifier.id() != Some(id) {
            let found = verifier.id().map(|id| id.to_string()).unwrap_or_default();
            return Err(at_end("chain", format!("its id is {found}, but {id} was to be imported")));
        }
        let (chain, was_here) = match &self.target {
            Target::Here(chain) => (chain.clone(), true),
            Target::Stored(_) => {
                let (name, erasures) = (rules.name().clone(), verifier.erased());
                let finish = Step::Finish { name, bang, size: transactions, quants, erasures };
                match self.node.step(id, finish).await? {
                    Outcome::Banged(chain) => {
                        tracing::info!(chain = %chain.name, %id, quants, transactions, "the chain is imported");
                        (chain, false)
                    }
                    _ => unreachable!("the outcome of a finished import is Banged"),
                }
            }
        };
        Ok(Imported { chain, quants, transactions, was_here, voucher })
    }

    /// Removes what is stored, because a line was at fault. Where all that this import saw was stored by an earlier one, it
    /// stays: that one may have been right.
    ///
    /// # Errors
    /// The node takes no writes. What is left is removed before the same chain is imported again.
    pub async fn give_up(self) -> Result<(), ImportError> {
        let found = match &self.target {
            Target::Stored(storing) => storing.found,
            Target::Here(_) => return Ok(()),
        };
        let is_behind = self.export.verifier().size() <= found.size && found.size > 0;
        if is_behind { Ok(()) } else { self.node.give_up(self.id).await }
    }
}

/// What is nested deeper could be stored, but some of what is served around it could not be read any more.
fn check_depth(record: &Record) -> Result<(), Fault> {
    let Some(data) = &record.data else { return Ok(()) };
    let is_deep = || json::parse(data).is_ok_and(|value| json::depth(&value) > limits::DATA_DEPTH);
    if json::canonical_length(data, limits::DATA_DEPTH).is_some() || !is_deep() {
        return Ok(());
    }
    let detail = format!("its data is nested more than {} deep", limits::DATA_DEPTH);
    Err(Fault::of_transaction(record.index, detail))
}

async fn begin(node: &Node, id: Hash) -> Result<Progress, ImportError> {
    let begun = match node.step(id, Step::Begin).await {
        // An earlier one was given up, and the node was stopped before all of it was removed.
        Err(ImportError::Refused(Refused::GivenUp)) => {
            node.give_up(id).await?;
            node.step(id, Step::Begin).await?
        }
        begun => begun?,
    };
    match begun {
        Outcome::Importing(progress) => Ok(progress),
        _ => unreachable!("the outcome of a begun import is its progress"),
    }
}

impl Node {
    async fn step(&self, id: Hash, step: Step) -> Result<Outcome, ImportError> {
        Ok(self.submit(Command::Import(id, step), None).await?)
    }

    /// Removes what is stored of the unfinished import of the chain with this id.
    ///
    /// # Errors
    /// Somebody imports it at the moment, or the node takes no writes.
    pub async fn give_up_import(&self, id: Hash) -> Result<(), ImportError> {
        let _turn = Turn::take(self, id)?;
        self.give_up(id).await
    }

    /// For the one whose turn it is.
    async fn give_up(&self, id: Hash) -> Result<(), ImportError> {
        while !matches!(self.step(id, Step::GiveUp).await?, Outcome::Done) {}
        Ok(())
    }
}

impl Storing {
    fn behind(found: Progress) -> Storing {
        let part = Part::new(found.size, found.bytes);
        let lineage = Lineage::new(found.number, None);
        Storing { found, lineage, stored: VecDeque::new(), part, ids: HashSet::new() }
    }

    fn transaction(&mut self, store: &Store, record: &Record, tiles: Vec<Tile>, line: u64) -> Result<(), ImportError> {
        let index = record.index;
        if let Some(id) = &record.id {
            let earlier = store.transaction_with_id(&self.lineage, id)?.is_some_and(|other| other != index);
            if earlier || !self.ids.insert(id.clone()) {
                let detail = format!("its id {:?} stands in the chain already", id.as_str());
                return Err(ImportError::Fault { line, fault: Fault::of_transaction(index, detail) });
            }
        }
        let mut bytes = Vec::with_capacity(512);
        record.write(&mut bytes);
        if index >= self.found.size {
            self.part.transaction(record, &bytes, tiles);
            return Ok(());
        }
        if self.stored.is_empty() {
            let mut records = Vec::new();
            store.records(&self.lineage, index..self.found.size, b'\n', limits::CHUNK_BYTES, &mut records)?;
            self.stored.extend(records.split(|&byte| byte == b'\n').map(<[u8]>::to_vec));
        }
        if self.stored.pop_front().is_none_or(|stored| stored != bytes) { Err(differs(line)) } else { Ok(()) }
    }

    fn quant(&mut self, store: &Store, quant: Quant, previous_size: u64, line: u64) -> Result<(), ImportError> {
        if quant.index() >= self.found.quants {
            self.part.quant(quant, previous_size);
            return Ok(());
        }
        let is_same = store.quant(&self.lineage, quant.index())? == quant;
        if is_same { Ok(()) } else { Err(differs(line)) }
    }
}

fn differs(line: u64) -> ImportError {
    ImportError::Conflict(format!(
        "line {line}: it differs from what an interrupted import of this chain has stored: send the same export again, or \
         give that import up with DELETE /import, and send this one then"
    ))
}

/// Compares a quant of an export with the chain of the same id, which is here already.
fn compare(store: &Store, chain: &ChainHandle, quant: &Quant) -> Result<(), ImportError> {
    let newest = chain.head().newest.index();
    let same = quant.index() <= newest && store.quant(&chain.lineage, quant.index())? == *quant;
    let detail = if quant.index() > newest { "has less" } else { "goes on another way" };
    match same {
        true => Ok(()),
        false => Err(ImportError::Conflict(format!(
            "the chain \"{}\" is here already, but {detail}: the export's quant {} is not in it",
            chain.name,
            quant.index()
        ))),
    }
}
