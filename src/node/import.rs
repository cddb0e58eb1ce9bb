//! Imports: a chain that another node made is verified line by line, and recreated byte by byte under its id.
//!
//! It is stored as it comes, in parts, and nobody sees it before its checkpoint holds: then it becomes visible in one commit. An
//! import that is interrupted keeps what was stored; the same lines sent again are verified again, compared with that, and go
//! on where it ends. One that is at fault is removed.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::yield_now};

use super::{Node, beside, is_large};
use crate::{
    core::{
        count::{Height, Size},
        export::{Export, Line, Voucher},
        hash::Hash,
        note::VerifierKey,
        quant::Quant,
        rules::ChainName,
        transaction::{Id, Record, Timestamp},
        verify::{Fault, Verifier, check_depth},
    },
    limits,
    store::{BangPlace, ChainNumber, Decided, ImportRecord, Lineage, Store, StoreError},
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
    /// Data is missing without the record of its erasure. Nothing of it is kept.
    #[error("{0} (in a request: allow_unproven_erasures=true)")]
    UnprovenErasure(Fault),
    /// Whoever imports may not make a chain of this name. Nothing of it is kept.
    #[error("the chain is called {0}, and the token has not the role operate on chains of that name")]
    OtherName(ChainName),
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
    /// Whether data may be missing without the record of its erasure.
    allow_unproven_erasures: bool,
    /// Lines seen.
    line: u64,
    target: Target,
    /// Where the newest bang stands.
    bang: BangPlace,
    /// What the chain is to be a mirror of, if it is.
    mirror: Option<String>,
    /// Which names the chain may have.
    names: Box<dyn Fn(&ChainName) -> bool + Send + Sync>,
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
    found: Found,
    /// Under which its parts are stored, once any is.
    lineage: Option<Lineage>,
    /// Stored records from there on where the reading stands, to be compared.
    stored: VecDeque<Vec<u8>>,
    part: Part,
    /// Ids in the part, which the store does not know yet.
    ids: HashSet<Id>,
}

/// What an earlier import has stored.
#[derive(Clone, Copy)]
struct Found {
    size: Size,
    quants: Height,
}

/// An import that is not finished.
pub struct Unfinished {
    /// The id that the chain will have.
    pub id: Hash,
    /// Its name, once that is known.
    pub name: Option<String>,
    /// Transactions that are stored.
    pub size: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Quants that are stored.
    pub quants: u64,
    /// What becomes of it.
    pub state: State,
    /// When something was stored of it last, or, where nothing was, when it began.
    pub active: Option<Timestamp>,
}

/// What becomes of an import that is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Somebody sends it.
    Running,
    /// Nobody sends it. It may be gone on with.
    Interrupted,
    /// What is stored of it is being removed.
    Removing,
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
        let mut importing = node.0.importing.lock().expect("no holder of this lock panics");
        if importing.contains_key(&id) {
            return Err(ImportError::Conflict(format!("the chain {id} is being imported by somebody else")));
        }
        if importing.len() >= limits::IMPORTS {
            return Err(Refused::TooManyImports(importing.len()).into());
        }
        importing.insert(id, node.now());
        Ok(Turn(node.clone(), id))
    }
}

impl Import {
    /// Begins the import of the chain with this id, or goes on with one that was interrupted. One of the keys must have signed
    /// the export's checkpoint, if any is named. Nothing is stored before some of it was verified.
    ///
    /// # Errors
    /// Somebody else imports the same chain, too many imports are not finished, or the node takes no writes.
    pub async fn begin(
        node: &Node,
        id: Hash,
        keys: Vec<VerifierKey>,
        allow_unproven_erasures: bool,
    ) -> Result<Import, ImportError> {
        let turn = Turn::take(node, id)?;
        let target = match node.chain(&id.to_string()) {
            Some(chain) => Target::Here(chain),
            None => Target::Stored(Box::new(Storing::behind(id, find(node, id).await?))),
        };
        let export = Export::new(Verifier::without_ids(), keys);
        let bang = BangPlace::START;
        Ok(Import {
            node: node.clone(),
            id,
            export,
            allow_unproven_erasures,
            line: 0,
            target,
            bang,
            mirror: None,
            names: Box::new(|_| true),
            _turn: turn,
        })
    }

    /// Only for a chain with such a name.
    pub fn of_names(self, names: impl Fn(&ChainName) -> bool + Send + Sync + 'static) -> Import {
        Import { names: Box::new(names), ..self }
    }

    /// The chain is to be a mirror of the one at this URL from the moment on at which it becomes visible.
    pub fn as_mirror_of(self, from: String) -> Import {
        Import { mirror: Some(from), ..self }
    }

    /// Takes the next lines. When it returns, what they hold is durable.
    ///
    /// # Errors
    /// The first line that does not hold, or why they cannot be stored. The import is over then.
    pub async fn lines(&mut self, lines: &[u8]) -> Result<(), ImportError> {
        let mut at_once = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            // Hashing takes long enough to hold others up.
            at_once += line.len();
            if at_once >= limits::CHECK_AT_ONCE {
                at_once = line.len();
                yield_now().await;
            }
            beside(is_large(line), || self.line(line.trim_ascii()))?;
        }
        let Target::Stored(storing) = &mut self.target else { return Ok(()) };
        if storing.part.is_empty() {
            return Ok(());
        }
        if storing.lineage.is_none() {
            let begun = progress(self.node.step(self.id, Step::Begin(self.node.now())).await?);
            storing.lineage = begun.map(|begun| Lineage::new(begun.number, None));
        }
        let next = storing.part.next();
        let part = mem::replace(&mut storing.part, next);
        storing.ids.clear();
        // Before its own bang, an export of a fork has the rules of its ancestors.
        let verifier = self.export.verifier();
        let name = verifier.rules().map(|rules| rules.name().clone()).filter(|_| verifier.id() == Some(self.id));
        self.node.step(self.id, Step::Add { part, name, now: self.node.now() }).await.map(|_| ())
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
        self.export.take(&item, &mut |_| ()).map_err(at_line)?;
        match item {
            Line::Transaction(Ok(checked)) => {
                check_depth(checked.record()).map_err(at_line)?;
                let Target::Stored(storing) = &mut self.target else { return Ok(()) };
                storing.transaction(&self.node.0.store, checked.record(), line)
            }
            Line::Quant(Ok(quant)) => {
                if self.export.verifier().id() == Some(quant.hash()) {
                    let bang = quant.size().last().expect("a first quant seals its bang");
                    self.bang = BangPlace { transaction: bang, quant: quant.index() };
                    self.check_name(&quant)?;
                }
                match &mut self.target {
                    Target::Stored(storing) => storing.quant(&self.node.0.store, quant, line),
                    Target::Here(chain) => compare(&self.node.0.store, chain, &quant),
                }
            }
            _ => Ok(()),
        }
    }

    /// Finds early that the chain could not become visible.
    fn check_name(&self, first: &Quant) -> Result<(), ImportError> {
        let name = self.export.verifier().rules().map(|rules| rules.name().clone());
        if let Some(name) = name.as_ref().filter(|name| first.hash() == self.id && !(self.names)(name)) {
            return Err(ImportError::OtherName(name.clone()));
        }
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
        let leap = export.leap().unwrap_or_default();
        let (verifier, voucher) = export.finish().map_err(|fault| ImportError::Fault { line, fault })?;
        if voucher == Voucher::Nobody {
            return Err(at_end("checkpoint", "it is missing, so nobody can say whether the end is there".into()));
        }
        let (newest, rules) = verifier.newest().zip(verifier.rules()).expect("a checkpoint holds for a quant");
        let (quants, transactions) = (newest.index().next(), newest.size());
        if verifier.id() != Some(id) {
            let found = verifier.id().map(|id| id.to_string()).unwrap_or_default();
            return Err(at_end("chain", format!("its id is {found}, but {id} was to be imported")));
        }
        if !self.allow_unproven_erasures {
            verifier.check_erasures().map_err(ImportError::UnprovenErasure)?;
        }
        let (chain, was_here) = match &self.target {
            Target::Here(chain) => (chain.clone(), true),
            Target::Stored(_) => {
                let (name, erasures) = (rules.name().clone(), verifier.erased());
                let terms = verifier.terms().expect("a checkpoint holds for a chain");
                let decided = Decided { keys: terms.keys().to_vec(), frozen: terms.frozen() };
                let mirror = self.mirror.clone();
                let finish = Step::Finish { name, bang, size: transactions, quants, erasures, decided, leap, mirror };
                match self.node.step(id, finish).await? {
                    Outcome::Banged(chain) => {
                        tracing::info!(chain = %chain.name, %id, %quants, %transactions, "the chain is imported");
                        self.node.metrics().imports.inc();
                        (chain, false)
                    }
                    _ => unreachable!("the outcome of a finished import is Banged"),
                }
            }
        };
        let (quants, transactions) = (quants.get(), transactions.get());
        Ok(Imported { chain, quants, transactions, was_here, voucher })
    }

    /// Removes what is stored, because a line was at fault. Where all that this import saw was stored by an earlier one, it
    /// stays: that one may have been right.
    ///
    /// # Errors
    /// The node takes no writes. What is left is removed before the same chain is imported again.
    pub async fn give_up(self) -> Result<(), ImportError> {
        let found = match &self.target {
            Target::Stored(storing) if storing.lineage.is_some() => storing.found,
            // Nothing is stored.
            _ => return Ok(()),
        };
        let is_behind = self.export.verifier().size() <= found.size && found.size > Size::ZERO;
        if is_behind { Ok(()) } else { self.node.give_up(self.id).await }
    }
}

async fn find(node: &Node, id: Hash) -> Result<Option<Progress>, ImportError> {
    let found = match node.step(id, Step::Find).await {
        // An earlier one was given up, and the node was stopped before all of it was removed.
        Err(ImportError::Refused(Refused::GivenUp)) => {
            node.give_up(id).await?;
            node.step(id, Step::Find).await?
        }
        found => found?,
    };
    Ok(progress(found))
}

fn progress(outcome: Outcome) -> Option<Progress> {
    match outcome {
        Outcome::Importing(progress) => progress,
        _ => unreachable!("the outcome of finding or beginning an import is its progress"),
    }
}

impl Node {
    async fn step(&self, id: Hash, step: Step) -> Result<Outcome, ImportError> {
        Ok(self.submit(self.own_group(), Command::Import(id, step)).await?)
    }

    /// Removes what is stored of the unfinished import of the chain with this id.
    ///
    /// # Errors
    /// Somebody imports it at the moment, or the node takes no writes.
    pub async fn give_up_import(&self, id: Hash) -> Result<(), ImportError> {
        let _turn = Turn::take(self, id)?;
        self.give_up(id).await
    }

    /// The imports that are not finished, in the order of their ids.
    ///
    /// # Errors
    /// The store is damaged.
    pub async fn imports(&self) -> Result<Vec<Unfinished>, StoreError> {
        // First, so that one that ends meanwhile is not taken for one that nothing is stored of.
        let mut running = self.0.importing.lock().expect("no holder of this lock panics").clone();
        let stored =
            self.read_store(|store| store.imports()?.into_iter().map(|record| unfinished(store, record)).collect());
        let mut imports: Vec<Unfinished> = stored.await?;
        for import in &mut imports {
            if running.remove(&import.id).is_some() && import.state == State::Interrupted {
                import.state = State::Running;
            }
        }
        imports.extend(running.into_iter().map(|(id, began)| {
            let (state, active) = (State::Running, Some(began));
            Unfinished { id, name: None, size: 0, bytes: 0, quants: 0, state, active }
        }));
        imports.sort_by_key(|import| *import.id.as_bytes());
        Ok(imports)
    }

    /// Gives up unfinished imports of which nothing was stored for `age`, until `stopping` says that the node stops.
    pub async fn expire_imports(self, age: Duration, mut stopping: watch::Receiver<bool>) {
        loop {
            if let Err(error) = self.give_up_old_imports(age).await {
                tracing::warn!("an old import cannot be given up: {error}");
            }
            tokio::select! {
                () = tokio::time::sleep(age.clamp(limits::IMPORT_PAUSE, limits::IMPORTS_EVERY)) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    async fn give_up_old_imports(&self, age: Duration) -> Result<(), ImportError> {
        for Unfinished { id, state, active, .. } in self.imports().await? {
            let since = active.map_or(0, Timestamp::seconds);
            let is_old = self.now().seconds().saturating_sub(since) >= age.as_secs();
            // One that was given up before the node stopped is removed now.
            if state == State::Removing || state == State::Interrupted && is_old {
                tracing::info!(chain = %id, "an unfinished import is given up");
                match self.give_up_import(id).await {
                    // Somebody has just gone on with it.
                    Ok(()) | Err(ImportError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// For the one whose turn it is.
    async fn give_up(&self, id: Hash) -> Result<(), ImportError> {
        while !matches!(self.step(id, Step::GiveUp).await?, Outcome::Done) {}
        Ok(())
    }
}

fn unfinished(store: &Store, record: ImportRecord) -> Result<Unfinished, StoreError> {
    let ImportRecord { id, number, given_up, name, active, .. } = record;
    let (stored, is_damaged) = match Progress::load(store, number) {
        Ok(stored) => (stored, false),
        Err(StoreError::Damaged(_)) => (Progress::none(number), true),
        Err(other) => return Err(other),
    };
    let state = if given_up || is_damaged { State::Removing } else { State::Interrupted };
    let Progress { size, bytes, quants, .. } = stored;
    let (size, quants) = (size.get(), quants.get());
    Ok(Unfinished { id, name, size, bytes, quants, state, active })
}

impl Storing {
    fn behind(id: Hash, stored: Option<Progress>) -> Storing {
        let lineage = stored.map(|stored| Lineage::new(stored.number, None));
        let Progress { size, bytes, quants, .. } = stored.unwrap_or(Progress::none(ChainNumber(0)));
        let found = Found { size, quants };
        Storing { found, lineage, stored: VecDeque::new(), part: Part::new(id, size, bytes), ids: HashSet::new() }
    }

    /// What is stored already.
    fn lineage(&self) -> &Lineage {
        self.lineage.as_ref().expect("what was found stored has a number")
    }

    fn transaction(&mut self, store: &Store, record: &Record, line: u64) -> Result<(), ImportError> {
        let index = record.index;
        if let Some(id) = record.transaction.id() {
            let earlier = match &self.lineage {
                Some(lineage) => store.transaction_with_id(lineage, id)?.is_some_and(|other| other != index),
                None => false,
            };
            if earlier || !self.ids.insert(id.clone()) {
                let detail = format!("its id {:?} stands in the chain already", id.as_str());
                return Err(ImportError::Fault { line, fault: Fault::of_transaction(index, detail) });
            }
        }
        if !self.found.size.has(index) {
            self.part.transaction(&record.transaction);
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(512);
        record.transaction.write(index, &mut bytes);
        if self.stored.is_empty() {
            let mut records = Vec::new();
            store.records(
                self.lineage(),
                index..self.found.size.next_index(),
                b'\n',
                limits::CHUNK_BYTES,
                &mut records,
            )?;
            self.stored.extend(records.split(|&byte| byte == b'\n').map(<[u8]>::to_vec));
        }
        if self.stored.pop_front().is_none_or(|stored| stored != bytes) { Err(differs(line)) } else { Ok(()) }
    }

    fn quant(&mut self, store: &Store, quant: Quant, line: u64) -> Result<(), ImportError> {
        if quant.index() >= self.found.quants {
            self.part.quant(quant);
            return Ok(());
        }
        let is_same = store.quant(self.lineage(), quant.index())? == quant;
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
