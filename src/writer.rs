//! The one writer: every change of every chain goes through it, in one order.
//!
//! A [`Command`] holds all that is not deterministic (time, salt, proof of work), so that applying it gives the same
//! bytes wherever it runs. The writer drains what waits, applies it to its own state of the chains, commits one batch with
//! one sync, publishes the new heads, and only then answers. Readers never wait for it: they read published heads and the
//! store.
//!
//! After a failed write it refuses all further ones, since nobody knows what is on disk; a full disk it recovers from, by
//! opening the store anew as after a crash.

mod import;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use import::Importing;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::{
    core::{
        chain::{Chain, Expected, Head, LeapPolicy, Tag},
        hash::{self, Hash},
        json,
        merkle::{self, Edge, Tile, perfect_root},
        note::{Note, Signature},
        quant::Quant,
        rules::{ChainName, Rules},
        transaction::{Erased, Id, Kind, Record, Signed, Timestamp, Transaction},
        verify,
        witness::{Cosigned, Evidence, Witnessed},
    },
    limits,
    store::{Batch, ChainNumber, ChainRecord, Lineage, Parent, Rollback, Run, Store, StoreError, stored_name},
};

pub use import::{Part, Progress, Step, in_force_at};

/// The states of a chain in which a write may be made.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The chain that the client speaks of, which may be a fork of the one that is changed.
    pub chain: ChainNumber,
    /// Its states.
    pub expected: Expected,
}

/// A change. Applying the same commands in the same order gives the same bytes on every node.
pub enum Command {
    /// Makes a chain of its mined first quant.
    Bang {
        /// Its rules, its name among them.
        rules: Arc<Rules>,
        /// The chain and quant that it goes on from, if it is a fork.
        parent: Option<(ChainNumber, u64)>,
        /// The transaction that records the rules.
        transaction: Transaction,
        /// The quant that seals it.
        quant: Quant,
        /// When it leaps by itself.
        leap: LeapPolicy,
        /// Only then.
        guard: Option<Guard>,
    },
    /// Accepts transactions that meet the chain's rules.
    Inject {
        /// Where.
        chain: ChainNumber,
        /// Only then.
        guard: Option<Guard>,
        /// In this order.
        transactions: Vec<Transaction>,
        /// Whether a refused one leaves the others accepted.
        each_for_itself: bool,
    },
    /// Puts a mined quant behind the newest.
    Seal {
        /// Where.
        chain: ChainNumber,
        /// Only then.
        guard: Option<Guard>,
        /// What.
        quant: Quant,
    },
    /// Erases the data of a transaction that the chain wrote itself.
    Erase {
        /// Where.
        chain: ChainNumber,
        /// Which one.
        index: u64,
        /// Only then.
        guard: Option<Guard>,
        /// The transaction that records it.
        transaction: Transaction,
    },
    /// Changes when a chain leaps by itself.
    SetLeap {
        /// Where.
        chain: ChainNumber,
        /// The new policy.
        leap: LeapPolicy,
        /// Only then.
        guard: Option<Guard>,
    },
    /// Records that newer quants of the chain were signed.
    SetRollback(ChainNumber, Rollback),
    /// Records the hosts of all known nodes.
    SetNodes(Vec<String>),
    /// Records a checkpoint of another's log before its cosignature is given away.
    Cosign {
        /// Only if the newest that was cosigned of the log has this size and root.
        previous: Option<(u64, Hash)>,
        /// The checkpoint. What was kept of the log as evidence stays.
        newest: Witnessed,
    },
    /// Keeps what shows that a log has signed two histories.
    Accuse {
        /// The log.
        origin: String,
        /// What shows it.
        evidence: Evidence,
    },
    /// A step of the import of the chain with this id.
    Import(Hash, Step),
}

impl Command {
    /// The chain that it is about.
    fn chain(&self) -> Option<ChainNumber> {
        match self {
            Command::Inject { chain, .. }
            | Command::Seal { chain, .. }
            | Command::Erase { chain, .. }
            | Command::SetLeap { chain, .. } => Some(*chain),
            Command::Bang { parent, .. } => parent.map(|(chain, _)| chain),
            Command::SetRollback(..)
            | Command::SetNodes(_)
            | Command::Cosign { .. }
            | Command::Accuse { .. }
            | Command::Import(..) => None,
        }
    }

    /// Whether it makes the history of its chain longer, or takes something out of it.
    fn changes_history(&self) -> bool {
        matches!(self, Command::Inject { .. } | Command::Seal { .. } | Command::Erase { .. })
    }

    fn bytes(&self) -> usize {
        match self {
            Command::Inject { transactions, .. } => transactions.iter().map(Transaction::record_bytes).sum(),
            Command::Import(_, Step::Add { part, .. }) => part.bytes(),
            Command::Bang { transaction, .. } => transaction.record_bytes(),
            Command::Cosign { newest, .. } => newest.checkpoint.len(),
            _ => 0,
        }
    }
}

/// What a command did.
pub enum Outcome {
    /// The new chain.
    Banged(Arc<ChainHandle>),
    /// The chain's state behind a new quant.
    Sealed(Tag),
    /// What became of each transaction; only those of `each_for_itself` can be refused here.
    Injected(Vec<Result<Placed, Refused>>),
    /// Where an erasure is recorded.
    Erased(Placed),
    /// Whether the evidence was new.
    Accused(bool),
    /// How far an import has come, or nothing where nothing is stored of it.
    Importing(Option<Progress>),
    /// Some of an import that was given up is still there.
    Removing,
    /// It is done.
    Done,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its final index.
    pub index: u64,
    /// Its leaf hash.
    pub hash: Hash,
    /// When it was accepted.
    pub timestamp: Timestamp,
    /// Whether a transaction with the same id that came earlier is the one there.
    pub replayed: bool,
}

impl Placed {
    fn new(index: u64, transaction: &Transaction) -> Placed {
        Placed { index, hash: transaction.hash(), timestamp: transaction.timestamp(), replayed: false }
    }

    fn replay(record: &Record) -> Placed {
        Placed { index: record.index, hash: record.hash, timestamp: record.timestamp, replayed: true }
    }
}

/// Why a command changed nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// A chain of this name exists.
    #[error("a chain with the name \"{0}\" exists already")]
    NameTaken(ChainName),
    /// Somebody else was faster.
    #[error("the chain \"{chain}\" has changed: the tag of its state is \"{tag}\" now, not {expected}")]
    Moved {
        /// The chain that the client spoke of.
        chain: ChainName,
        /// What the client expected.
        expected: Expected,
        /// What is.
        tag: Tag,
    },
    /// The id names another transaction.
    #[error("the id {id:?} belongs to transaction {index}, which has other data or another signer")]
    IdTaken {
        /// The client's id.
        id: String,
        /// Of the transaction that has it.
        index: u64,
    },
    /// The id names a transaction of which only a hash is left.
    #[error(
        "the id {id:?} belongs to transaction {index}, whose data was erased: whether this is the same data can no longer be \
         compared, so it is not accepted as a repetition; other data needs another id"
    )]
    IdErased {
        /// The client's id.
        id: String,
        /// Of the transaction that has it.
        index: u64,
    },
    /// The id names two transactions of one request.
    #[error("the id {0:?} stands twice in this request, with other data or another signer")]
    IdTwice(String),
    /// What the node itself recorded stays.
    #[error(
        "transaction {0} is a record of the node itself (a bang, or an erasure): only what clients injected can be erased"
    )]
    NotErasable(u64),
    /// It came without its data, and without the record of that.
    #[error("transaction {0} is erased already; the record of that is on the chain that this one was copied from")]
    ErasedElsewhere(u64),
    /// Not all that is stored of an import was verified.
    #[error(
        "an unfinished import of this chain has stored more than this export has: send the longer one, or give that import \
         up with DELETE /import, and send this one then"
    )]
    ImportIsLonger,
    /// What is stored of the chain does not hold.
    #[error("the chain is damaged, and takes no writes: {0}")]
    Damaged(String),
    /// The chain is an older copy of what was signed.
    #[error("the chain takes no writes: {0}")]
    RolledBack(String),
    /// The chain's pool is full.
    #[error("the pool of the chain holds {0} transactions, which is its limit: leap, then send again")]
    PoolFull(u64),
    /// The quant does not follow the newest one.
    #[error("another leap was faster: {0}")]
    Stale(String),
    /// Another checkpoint of the same log was cosigned meanwhile.
    #[error("another checkpoint of the log was faster")]
    Overtaken,
    /// What is stored of an import is being removed.
    #[error("an earlier import of this chain was given up and is being removed: send again later")]
    GivenUp,
    /// So many chains are stored in part.
    #[error(
        "{0} imports are not finished, which is the limit: GET /import lists them; finish one, or give one up with \
         DELETE /import?chain=ID, and send this one then"
    )]
    TooManyImports(usize),
    /// The node has no room for more chains.
    #[error("the node has {} chains, which is its limit: use one of them, or another node", limits::CHAINS)]
    TooManyChains,
    /// Forks of forks.
    #[error(
        "the chain is the last of {} forks of forks, which is the limit: fork one of its ancestors, or export it and \
         import it on another node",
        limits::FORK_DEPTH
    )]
    ForkedTooOften,
    /// Too much waits already.
    #[error("the node has too much to write: send again later")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The store could not take it.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// A chain as all but the writer see it.
pub struct ChainHandle {
    /// Its name.
    pub name: ChainName,
    /// The hash of its first own quant.
    pub id: Hash,
    /// Its rules.
    pub rules: Arc<Rules>,
    /// Where its parts are stored.
    pub lineage: Arc<Lineage>,
    /// What it was forked from.
    parent: Option<Arc<ChainHandle>>,
    head: watch::Sender<Head>,
    leap: RwLock<LeapPolicy>,
    /// Transactions of its own that were erased.
    erasures: AtomicU64,
    /// What does not hold, once that is found.
    damage: OnceLock<String>,
    /// Whether anything does not hold in any chain of the node: hardly ever, so that nobody has to look at all ancestors.
    any_damage: Arc<AtomicBool>,
    /// The newest quant that was signed and is not here, once that is found.
    rollback: RwLock<Option<Rollback>>,
    /// Whether an imported chain has taken its place.
    replaced: AtomicBool,
    /// Whether it was told that its newest time lies in the future.
    pub(crate) is_ahead: AtomicBool,
    /// When it was read again last.
    scrubbed: RwLock<Option<Scrubbed>>,
    /// What witnesses have cosigned since the node's start.
    cosigned: RwLock<Cosigned>,
    /// One leap at a time: the next cuts what this one left.
    pub(crate) leaping: tokio::sync::Mutex<()>,
    /// Whether a task waits to leap by the policy.
    pub(crate) armed: AtomicBool,
}

/// That all of a chain was read again and held.
#[derive(Clone, Copy, Debug)]
pub struct Scrubbed {
    /// The chain's size then.
    pub size: u64,
    /// When it was done.
    pub timestamp: Timestamp,
}

impl ChainHandle {
    fn new(
        chain: &Chain,
        lineage: Arc<Lineage>,
        parent: Option<Arc<ChainHandle>>,
        leap: LeapPolicy,
        erasures: u64,
        any_damage: Arc<AtomicBool>,
    ) -> Self {
        ChainHandle {
            name: chain.rules.name().clone(),
            id: chain.id,
            rules: chain.rules.clone(),
            lineage,
            parent,
            head: watch::Sender::new(chain.head.clone()),
            leap: RwLock::new(leap),
            erasures: erasures.into(),
            damage: OnceLock::new(),
            any_damage,
            rollback: RwLock::default(),
            replaced: false.into(),
            is_ahead: false.into(),
            scrubbed: RwLock::default(),
            cosigned: RwLock::default(),
            leaping: tokio::sync::Mutex::new(()),
            armed: false.into(),
        }
    }

    /// Its number in the store.
    pub fn number(&self) -> ChainNumber {
        self.lineage.number()
    }

    /// The chain that made a quant of this chain: itself, or the ancestor whose rules held there.
    pub fn maker_of(self: &Arc<Self>, quant: u64) -> Arc<ChainHandle> {
        match &self.parent {
            Some(parent) if quant < self.lineage.own_quants_from() => parent.maker_of(quant),
            _ => self.clone(),
        }
    }

    /// The chain that wrote a transaction of this chain: itself, or an ancestor.
    pub fn writer_of(self: &Arc<Self>, transaction: u64) -> Arc<ChainHandle> {
        match &self.parent {
            Some(parent) if transaction < self.lineage.own_from() => parent.writer_of(transaction),
            _ => self.clone(),
        }
    }

    /// How many transactions of this chain and of its ancestors were erased: what was read of them before may differ.
    pub fn erasures(&self) -> u64 {
        let shared = self.parent.as_ref().map_or(0, |parent| parent.erasures());
        shared + self.erasures.load(Ordering::Acquire)
    }

    /// The newest durable head.
    pub fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// Follows the head.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// The guard of a write that is to be made in these states of the chain only.
    pub fn guard(&self, expected: Option<Expected>) -> Option<Guard> {
        expected.map(|expected| Guard { chain: self.number(), expected })
    }

    /// # Errors
    /// The chain is in none of the states that are expected.
    pub fn check_expected(&self, expected: &Expected, head: &Head) -> Result<(), Refused> {
        let (chain, tag) = (self.name.clone(), head.tag());
        if expected.allows(tag) { Ok(()) } else { Err(Refused::Moved { chain, expected: expected.clone(), tag }) }
    }

    /// Whether it is the default chain as a new node makes it, which nobody has used: an imported one may take its place.
    pub fn is_untouched_default(&self) -> bool {
        let head = self.head();
        self.number() == ChainNumber::FIRST
            && self.name.as_str() == ChainName::DEFAULT
            && (head.size(), head.newest.index()) == (1, 0)
    }

    /// What does not hold in what is stored of it, or of an ancestor.
    pub fn damage(&self) -> Option<&str> {
        if !self.any_damage.load(Ordering::Acquire) {
            return None;
        }
        std::iter::successors(Some(self), |chain| chain.parent.as_deref())
            .find_map(|chain| chain.damage.get().map(String::as_str))
    }

    /// Whether an imported chain has taken its place. Then its head is sent once more, so that whoever follows it looks.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    fn set_replaced(&self) {
        self.set_damage("an imported chain has taken its place".into());
        self.replaced.store(true, Ordering::Release);
        self.head.send_modify(|_| ());
    }

    /// Records that it is damaged: it takes no more writes until the node is started again.
    pub fn set_damage(&self, detail: String) {
        // The first damage that was found stays.
        let _ = self.damage.set(detail);
        self.any_damage.store(true, Ordering::Release);
    }

    /// Why it takes no writes though it holds: a newer quant of it was signed, and its loss is not accepted.
    pub fn rollback(&self) -> Option<String> {
        let rollback = self.rollback.read().expect("no holder of this lock panics");
        let rollback = rollback.as_ref().filter(|rollback| !rollback.accepted)?;
        let cure = format!(
            "put the newest copy back, or go on in a fork; to write on this one all the same, start the node once with \
             --accept-rollback {}",
            self.name
        );
        Some(format!("{rollback}: the data folder is an older copy, or another node signs with its key; {cure}"))
    }

    /// Takes up that a newer quant was signed, or that its loss is accepted, and gives what is to be recorded, if anything.
    pub fn add_rollback(&self, found: Option<Rollback>, accepted: bool) -> Option<Rollback> {
        let mut known = self.rollback.write().expect("no holder of this lock panics");
        let is_known = |found: &Rollback| known.as_ref().is_some_and(|known| known.quant >= found.quant);
        let newest = found.filter(|found| !is_known(found)).or_else(|| known.clone())?;
        let newest = Rollback { accepted: accepted || newest.accepted, ..newest };
        (*known != Some(newest.clone())).then(|| known.insert(newest).clone())
    }

    /// Whether its history may be changed.
    ///
    /// # Errors
    /// Why not.
    pub fn check_writable(&self) -> Result<(), Refused> {
        match (self.damage(), self.rollback()) {
            (Some(damage), _) => Err(Refused::Damaged(damage.to_owned())),
            (None, Some(rollback)) => Err(Refused::RolledBack(rollback)),
            (None, None) => Ok(()),
        }
    }

    /// When all of it was read again last, and held.
    pub fn scrubbed(&self) -> Option<Scrubbed> {
        *self.scrubbed.read().expect("no holder of this lock panics")
    }

    /// Records that all of it was read again, and held.
    pub fn set_scrubbed(&self, scrubbed: Scrubbed) {
        *self.scrubbed.write().expect("no holder of this lock panics") = Some(scrubbed);
    }

    /// Reads what witnesses have cosigned since the node's start.
    pub fn cosigned<T>(&self, read: impl FnOnce(&Cosigned) -> T) -> T {
        read(&self.cosigned.read().expect("no holder of this lock panics"))
    }

    /// Adds a witness's cosignature, which must hold, of the checkpoint of a quant.
    pub fn add_cosignature(&self, quant: u64, note: &Note, cosignature: Signature) {
        self.cosigned.write().expect("no holder of this lock panics").add(quant, note, cosignature);
    }

    /// When it leaps by itself.
    pub fn leap_policy(&self) -> LeapPolicy {
        *self.leap.read().expect("no holder of this lock panics")
    }
}

/// Whether the node takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ready,
    /// Not until space is freed.
    Full,
    /// Not until it is started again.
    Failed(String),
}

/// What the writer publishes: the chains by name, and its own health.
pub struct Published {
    /// Of a chain that could not be loaded, why.
    chains: RwLock<BTreeMap<ChainName, Result<Arc<ChainHandle>, String>>>,
    store: Arc<Store>,
    health: Mutex<Health>,
    /// Chains that may have to leap by their policy.
    touched: mpsc::UnboundedSender<Arc<ChainHandle>>,
    /// Chains with a new quant.
    sealed: mpsc::UnboundedSender<Arc<ChainHandle>>,
    /// What was cosigned of others' logs, by the hashes of their names.
    witnessed: RwLock<BTreeMap<Hash, Arc<Witnessed>>>,
    /// See [`ChainHandle`]; a chain that could not be loaded counts too.
    any_damage: Arc<AtomicBool>,
}

impl Published {
    /// A chain by its name or its id, which is longer than any name.
    pub fn chain(&self, name: &str) -> Option<Arc<ChainHandle>> {
        let chains = self.chains.read().expect("no holder of this lock panics");
        match chains.get(name) {
            Some(chain) => chain.as_ref().ok().cloned(),
            None => {
                let id = name.parse().ok()?;
                chains.values().flatten().find(|chain| chain.id == id).cloned()
            }
        }
    }

    /// Why a chain could not be loaded.
    pub fn lost(&self, name: &str) -> Option<String> {
        self.chains.read().expect("no holder of this lock panics").get(name)?.as_ref().err().cloned()
    }

    /// Whether any chain is damaged.
    pub fn has_damage(&self) -> bool {
        self.any_damage.load(Ordering::Acquire)
    }

    /// At most `limit` chains in the order of their names, from behind `after`. Of one that could not be loaded, why.
    pub fn chains(&self, after: Option<&str>, limit: usize) -> Vec<(ChainName, Result<Arc<ChainHandle>, String>)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let chains = self.chains.read().expect("no holder of this lock panics");
        let chains = chains.range::<str, _>((start, Bound::Unbounded));
        chains.take(limit).map(|(name, chain)| (name.clone(), chain.clone())).collect()
    }

    /// What was cosigned of a log.
    pub fn witnessed(&self, log: Hash) -> Option<Arc<Witnessed>> {
        self.witnessed.read().expect("no holder of this lock panics").get(&log).cloned()
    }

    /// What was cosigned of at most `limit` logs, in the order of the hashes of their names, from behind `after`.
    pub fn all_witnessed(&self, after: Option<Hash>, limit: usize) -> Vec<(Hash, Arc<Witnessed>)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let logs = self.witnessed.read().expect("no holder of this lock panics");
        logs.range((start, Bound::Unbounded)).take(limit).map(|(hash, log)| (*hash, log.clone())).collect()
    }

    /// How many chains there are.
    pub fn count(&self) -> usize {
        self.chains.read().expect("no holder of this lock panics").len()
    }

    /// Whether the node takes writes. Where there is room again, the next write opens the store anew.
    pub fn health(&self) -> Health {
        match self.own_health() {
            Health::Failed(detail) => Health::Failed(detail),
            _ if self.store.has_room() => Health::Ready,
            _ => Health::Full,
        }
    }

    /// What the writer has met with.
    fn own_health(&self) -> Health {
        self.health.lock().expect("no holder of this lock panics").clone()
    }
}

/// A command with the way back for its outcome.
pub struct Envelope {
    /// What is to be done.
    pub command: Command,
    /// Who waits for it.
    pub reply: oneshot::Sender<Result<Outcome, Refused>>,
    /// The memory that it takes up, given back when it is done, whether or not anybody still waits.
    pub room: Option<OwnedSemaphorePermit>,
}

/// A chain in the writer's own, newest state, durable or about to be.
struct Entry {
    chain: Chain,
    handle: Arc<ChainHandle>,
}

/// What one batch changes, until it is committed.
#[derive(Default)]
struct Pending {
    batch: Batch,
    runs: HashMap<ChainNumber, Run>,
    /// Ids of this batch, which the store does not know yet.
    ids: HashMap<(ChainNumber, Id), Named>,
    touched: HashSet<ChainNumber>,
    made: Vec<ChainNumber>,
    policies: Vec<(Arc<ChainHandle>, LeapPolicy)>,
    witnessed: HashMap<Hash, Witnessed>,
    erased: Option<ChainNumber>,
    /// A transaction on its way into its run.
    served: Vec<u8>,
    replaced: Option<Arc<ChainHandle>>,
}

/// A transaction with an id, and what a repetition must equal.
struct Named {
    placed: Placed,
    data: Vec<u8>,
    signer: Option<[u8; 32]>,
}

/// What the writer shares with the rest of the node.
pub struct Ends {
    /// What all but the writer see.
    pub published: Arc<Published>,
    /// The way to send commands.
    pub commands: mpsc::Sender<Envelope>,
    /// Chains that may have to leap by their policy.
    pub touched: mpsc::UnboundedReceiver<Arc<ChainHandle>>,
    /// Chains with a new quant.
    pub sealed: mpsc::UnboundedReceiver<Arc<ChainHandle>>,
}

/// Owns all chains and is the only one to write them.
pub struct Writer {
    store: Arc<Store>,
    published: Arc<Published>,
    commands: mpsc::Receiver<Envelope>,
    chains: HashMap<ChainNumber, Entry>,
    names: HashSet<ChainName>,
    /// By the ids that the chains will have.
    imports: HashMap<Hash, Importing>,
    next_number: ChainNumber,
    pool_limit: u64,
    /// When a write found the disk full.
    full_at: Instant,
}

impl Writer {
    /// Loads and verifies all chains of a store.
    ///
    /// # Errors
    /// The list of chains cannot be read.
    pub fn open(store: Arc<Store>, pool_limit: u64) -> Result<(Writer, Ends), StoreError> {
        let (sender, commands) = mpsc::channel(limits::QUEUE_COMMANDS);
        let (touched, touches) = mpsc::unbounded_channel();
        let (sealed, seals) = mpsc::unbounded_channel();
        let published = Arc::new(Published {
            chains: RwLock::default(),
            store: store.clone(),
            health: Mutex::new(Health::Ready),
            touched,
            sealed,
            witnessed: RwLock::default(),
            any_damage: Arc::default(),
        });
        let mut writer = Writer {
            store,
            published: published.clone(),
            commands,
            chains: HashMap::new(),
            names: HashSet::new(),
            imports: HashMap::new(),
            next_number: ChainNumber(0),
            pool_limit,
            full_at: Instant::now(),
        };
        if !writer.load_whole()? {
            // It may be the index alone.
            tracing::warn!("not all chains hold: the index is made anew");
            writer.store.make_index_anew()?;
            writer.published.chains.write().expect("no holder of this lock panics").clear();
            writer.load()?;
        }
        Ok((writer, Ends { published, commands: sender, touched: touches, sealed: seals }))
    }

    /// Takes the chains as they stand in the store, and says whether all of them hold.
    fn load_whole(&mut self) -> Result<bool, StoreError> {
        match self.load() {
            Err(StoreError::Damaged(_)) => Ok(false),
            loaded => loaded.map(|()| self.names.len() == self.chains.len()),
        }
    }

    /// Takes the chains as they stand in the store, at opening and after a full disk. One that is damaged does not hold up the
    /// others.
    fn load(&mut self) -> Result<(), StoreError> {
        self.chains.clear();
        self.names.clear();
        let witnessed = self.store.witnessed()?.into_iter().map(|log| (hash::origin(&log.origin), Arc::new(log)));
        *self.published.witnessed.write().expect("no holder of this lock panics") = witnessed.collect();
        let mut records = self.store.chains()?;
        // A parent has a lower number than its forks.
        records.sort_by_key(|record| record.number);
        for record in records {
            let name = stored_name(&record)?;
            self.next_number = self.next_number.max(ChainNumber(record.number.0 + 1));
            match self.load_chain(&record) {
                Ok(entry) => {
                    self.publish_made(&entry.handle);
                    self.chains.insert(record.number, entry);
                }
                Err(StoreError::Damaged(detail)) => {
                    tracing::error!(chain = %name, "the chain is damaged: {detail}");
                    let mut chains = self.published.chains.write().expect("no holder of this lock panics");
                    chains.insert(name.clone(), Err(detail));
                    self.published.any_damage.store(true, Ordering::Release);
                }
                Err(other) => return Err(other),
            }
            self.names.insert(name);
        }
        self.imports.clear();
        for record in self.store.imports()? {
            self.next_number = self.next_number.max(ChainNumber(record.number.0 + 1));
            self.imports.insert(record.id, Importing::load(&self.store, &record)?);
        }
        Ok(())
    }

    fn load_chain(&self, record: &ChainRecord) -> Result<Entry, StoreError> {
        let parent = match record.parent {
            Some(parent) => {
                let parent = self.chains.get(&parent.number);
                let damaged = || StoreError::Damaged("the chain that it was forked from is damaged or missing".into());
                Some(parent.ok_or_else(damaged)?.handle.clone())
            }
            None => None,
        };
        let shared = record.parent.zip(parent.as_ref().map(|parent| parent.lineage.clone()));
        let lineage = Arc::new(Lineage::of(record, shared));
        let loaded = load_chain(&self.store, &lineage)?;
        let name = stored_name(record)?;
        if *loaded.rules.name() != name {
            return Err(StoreError::Damaged("its bang has another name".into()));
        }
        // After a full disk the handles that others hold are kept, and moved to what is on disk.
        let published = self.published.chain(name.as_str());
        if let Some(handle) = published.filter(|handle| handle.number() == record.number) {
            handle.head.send_replace(loaded.head.clone());
            return Ok(Entry { chain: loaded, handle });
        }
        let handle = Arc::new(ChainHandle::new(
            &loaded,
            lineage,
            parent,
            record.leap,
            record.erasures,
            self.published.any_damage.clone(),
        ));
        handle.add_rollback(self.store.rollback(record.id)?, false);
        Ok(Entry { chain: loaded, handle })
    }

    /// Runs until all senders of commands are gone.
    pub fn run(mut self) {
        while let Some(first) = self.commands.blocking_recv() {
            let mut bytes = first.command.bytes();
            let mut envelopes = vec![first];
            while envelopes.len() < limits::BATCH_COMMANDS && bytes < limits::BATCH_BYTES {
                let Ok(envelope) = self.commands.try_recv() else { break };
                bytes += envelope.command.bytes();
                envelopes.push(envelope);
            }
            // What an erasure overwrites must be in the log, and its place in the index. The end of an import may replace a chain, which
            // nothing may have changed meanwhile, and what is removed must be gone before anything is put in its place.
            let is_alone = |envelope: &Envelope| {
                matches!(
                    envelope.command,
                    Command::Erase { .. } | Command::Import(_, Step::Finish { .. } | Step::GiveUp)
                )
            };
            let mut together = Vec::with_capacity(envelopes.len());
            for envelope in envelopes {
                if is_alone(&envelope) {
                    self.process(std::mem::take(&mut together));
                    self.process(vec![envelope]);
                } else {
                    together.push(envelope);
                }
            }
            self.process(together);
        }
    }

    fn process(&mut self, envelopes: Vec<Envelope>) {
        if envelopes.is_empty() {
            return;
        }
        if let Err(error) = self.be_ready() {
            for envelope in envelopes {
                let _ = envelope.reply.send(Err(error.clone().into()));
            }
            return;
        }
        let mut pending = Pending::default();
        let mut replies = Vec::with_capacity(envelopes.len());
        for Envelope { command, reply, room } in envelopes {
            replies.push((reply, self.apply(command, &mut pending), room));
        }
        let committed = self.commit(pending);
        for (reply, outcome, _room) in replies {
            // Whoever does not wait any more has dropped the other end. Where the batch failed, what was refused may have been
            // refused for the sake of something in it, so that is no answer either.
            let _ = reply.send(match &committed {
                Ok(()) => outcome,
                Err(error) => Err(error.clone().into()),
            });
        }
    }

    /// Refuses before anything is applied where a write could not succeed.
    fn be_ready(&mut self) -> Result<(), StoreError> {
        match self.published.own_health() {
            Health::Failed(detail) => Err(StoreError::Failed(detail)),
            _ if !self.store.has_room() => Err(StoreError::Full),
            Health::Ready if !self.store.is_behind() => Ok(()),
            Health::Full if self.full_at.elapsed() < limits::FULL_PAUSE => Err(StoreError::Full),
            Health::Ready | Health::Full => {
                let recovered = self.store.recover().and_then(|()| self.load());
                match &recovered {
                    Ok(()) => {
                        tracing::info!("the disk has room again: writes go on");
                        self.set_health(Health::Ready);
                    }
                    Err(error) => self.fail(error),
                }
                recovered
            }
        }
    }

    fn set_health(&self, health: Health) {
        *self.published.health.lock().expect("no holder of this lock panics") = health;
    }

    fn fail(&mut self, error: &StoreError) {
        match error {
            StoreError::Full => {
                tracing::error!("the disk is full: writes are refused until space is freed");
                self.full_at = Instant::now();
                self.set_health(Health::Full);
            }
            error => {
                tracing::error!("{error}: no more writes are taken until the node is started again");
                let detail = match error {
                    StoreError::Failed(detail) => detail.clone(),
                    other => other.to_string(),
                };
                self.set_health(Health::Failed(detail));
            }
        }
    }

    /// Makes durable what was applied, and then visible.
    fn commit(&mut self, mut pending: Pending) -> Result<(), StoreError> {
        for (chain, run) in pending.runs.drain() {
            pending.batch.run(chain, run);
        }
        pending.witnessed.values().for_each(|log| pending.batch.witnessed(log));
        if pending.batch.is_empty() {
            return Ok(());
        }
        let doomed = self.store.commit(pending.batch).inspect_err(|error| self.fail(error))?;
        for (handle, leap) in pending.policies {
            *handle.leap.write().expect("no holder of this lock panics") = leap;
        }
        for number in pending.touched {
            let entry = &self.chains[&number];
            let before = entry.handle.head.send_replace(entry.chain.head.clone());
            if before.newest.index() != entry.chain.head.newest.index() {
                self.publish_sealed(&entry.handle);
            }
            if entry.handle.leap_policy() != LeapPolicy::default() {
                // Nobody leaps any more when the receiver is gone: the node is stopping.
                let _ = self.published.touched.send(entry.handle.clone());
            }
        }
        for number in pending.made {
            self.publish_made(&self.chains[&number].handle);
            self.publish_sealed(&self.chains[&number].handle);
        }
        if let Some(replaced) = pending.replaced {
            replaced.set_replaced();
        }
        let mut witnessed = self.published.witnessed.write().expect("no holder of this lock panics");
        witnessed.extend(pending.witnessed.into_iter().map(|(hash, log)| (hash, Arc::new(log))));
        drop(witnessed);
        // An erasure stands from its commit on, whatever becomes of the data: the next start would destroy it.
        self.store.erase(doomed).inspect_err(|error| self.fail(error))?;
        // What was read before may have the data. It must not pass for what is read from now on.
        if let Some(chain) = pending.erased {
            self.chains[&chain].handle.erasures.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    fn publish_sealed(&self, handle: &Arc<ChainHandle>) {
        // Nobody follows where there are no witnesses.
        let _ = self.published.sealed.send(handle.clone());
    }

    fn publish_made(&self, handle: &Arc<ChainHandle>) {
        let mut chains = self.published.chains.write().expect("no holder of this lock panics");
        chains.insert(handle.name.clone(), Ok(handle.clone()));
    }

    /// Applies one command to the writer's state and to the batch. It is deterministic.
    fn apply(&mut self, command: Command, pending: &mut Pending) -> Result<Outcome, Refused> {
        if let Some(chain) = command.chain() {
            let damage = match self.chains.get(&chain) {
                Some(entry) => entry.handle.damage(),
                None => Some("it is not there any more"),
            };
            if let Some(damage) = damage {
                return Err(Refused::Damaged(damage.to_owned()));
            }
            if command.changes_history() {
                self.entry(chain).handle.check_writable()?;
            }
        }
        match command {
            Command::Bang { rules, parent, transaction, quant, leap, guard } => {
                self.check(guard)?;
                self.bang(rules, parent, &transaction, quant, leap, pending)
            }
            Command::Inject { chain, guard, transactions, each_for_itself } => {
                self.inject(chain, guard, transactions, each_for_itself, pending)
            }
            Command::Seal { chain, guard, quant } => {
                self.check(guard)?;
                let entry = self.entry(chain);
                let previous_size = entry.chain.head.newest.size();
                entry.chain.seal(quant.clone()).map_err(|error| Refused::Stale(error.to_string()))?;
                let tag = entry.chain.head.tag();
                pending.batch.quant(chain, &quant, previous_size);
                pending.touched.insert(chain);
                Ok(Outcome::Sealed(tag))
            }
            Command::Erase { chain, index, guard, transaction } => {
                self.check(guard)?;
                self.erase(chain, index, transaction, pending)
            }
            Command::SetLeap { chain, leap, guard } => {
                self.check(guard)?;
                let handle = self.entry(chain).handle.clone();
                pending.batch.chain(&ChainRecord { leap, ..chain_record(&handle) });
                pending.policies.push((handle, leap));
                pending.touched.insert(chain);
                Ok(Outcome::Done)
            }
            Command::SetRollback(chain, rollback) => {
                pending.batch.rollback(self.entry(chain).handle.id, &rollback);
                Ok(Outcome::Done)
            }
            Command::SetNodes(hosts) => {
                pending.batch.nodes(&hosts);
                Ok(Outcome::Done)
            }
            Command::Cosign { previous, newest } => {
                let log = hash::origin(&newest.origin);
                let before = self.witnessed(log, pending);
                if before.as_ref().map(|before| (before.size, before.root)) != previous {
                    return Err(Refused::Overtaken);
                }
                let evidence = before.map(|before| before.evidence).unwrap_or_default();
                pending.witnessed.insert(log, Witnessed { evidence, ..newest });
                Ok(Outcome::Done)
            }
            Command::Accuse { origin, evidence } => {
                let log = hash::origin(&origin);
                let mut accused = self.witnessed(log, pending).ok_or(Refused::Overtaken)?;
                let is_new = accused.keep(evidence);
                if is_new {
                    pending.witnessed.insert(log, accused);
                }
                Ok(Outcome::Accused(is_new))
            }
            Command::Import(id, step) => self.import(id, step, pending),
        }
    }

    /// What was cosigned of a log, that of this batch included.
    fn witnessed(&self, log: Hash, pending: &Pending) -> Option<Witnessed> {
        let durable = || self.published.witnessed(log).map(|log| Witnessed::clone(&log));
        pending.witnessed.get(&log).cloned().or_else(durable)
    }

    /// Whether a guarded write may be made now.
    fn check(&self, guard: Option<Guard>) -> Result<(), Refused> {
        let Some(Guard { chain, expected }) = guard else { return Ok(()) };
        let entry = self.chains.get(&chain).ok_or_else(|| Refused::Damaged("it is not there any more".into()))?;
        entry.handle.check_expected(&expected, &entry.chain.head)
    }

    fn entry(&mut self, chain: ChainNumber) -> &mut Entry {
        self.chains.get_mut(&chain).expect("commands name chains by the number in their handle")
    }

    fn bang(
        &mut self,
        rules: Arc<Rules>,
        parent: Option<(ChainNumber, u64)>,
        transaction: &Transaction,
        quant: Quant,
        leap: LeapPolicy,
        pending: &mut Pending,
    ) -> Result<Outcome, Refused> {
        if self.names.contains(rules.name()) {
            return Err(Refused::NameTaken(rules.name().clone()));
        }
        if self.names.len() >= limits::CHAINS {
            return Err(Refused::TooManyChains);
        }
        let number = self.next_number;
        let parent_handle = parent.map(|(chain, _)| self.entry(chain).handle.clone());
        if parent_handle.as_ref().is_some_and(|parent| parent.lineage.depth() >= limits::FORK_DEPTH) {
            return Err(Refused::ForkedTooOften);
        }
        let mut shared_bytes = 0;
        let (parent, shared) = match parent.zip(parent_handle.as_ref()) {
            Some(((number, index), handle)) => {
                let quant = self.store.quant(&handle.lineage, index)?;
                let edge = edge_at(&self.store, handle, quant.size())?;
                shared_bytes = self.store.bytes_at(&handle.lineage, quant.size())?;
                let of = Parent { number, quant: index, size: quant.size() };
                (Some((quant, edge)), Some((of, handle.lineage.clone())))
            }
            None => (None, None),
        };
        let lineage = Arc::new(Lineage::new(number, shared));
        let parent_size = parent.as_ref().map_or(0, |(quant, _)| quant.size());
        let mut run = Run::new(parent_size, shared_bytes);
        let mut served = Vec::with_capacity(transaction.record_bytes() + 20);
        transaction.write_record(parent_size, &mut served);
        let bytes = shared_bytes + run.push(&served);
        let mut tiles = |tile: Tile| pending.batch.tile(number, &tile);
        let parent = parent.as_ref().map(|(quant, edge)| (quant, edge.clone()));
        let chain = Chain::bang(rules, transaction, parent, quant.clone(), bytes, &mut tiles)
            .map_err(|error| Refused::Stale(error.to_string()))?;

        let handle =
            Arc::new(ChainHandle::new(&chain, lineage, parent_handle, leap, 0, self.published.any_damage.clone()));
        pending.batch.chain(&chain_record(&handle));
        pending.batch.run(number, run);
        pending.batch.quant(number, &quant, parent_size);
        pending.made.push(number);
        self.next_number = ChainNumber(number.0 + 1);
        self.names.insert(handle.name.clone());
        self.chains.insert(number, Entry { chain, handle: handle.clone() });
        Ok(Outcome::Banged(handle))
    }

    fn inject(
        &mut self,
        number: ChainNumber,
        guard: Option<Guard>,
        transactions: Vec<Transaction>,
        each_for_itself: bool,
        pending: &mut Pending,
    ) -> Result<Outcome, Refused> {
        let found = self.find_replays(number, &transactions, pending);
        if !each_for_itself && let Some(refused) = found.iter().find_map(|found| found.as_ref().err()) {
            return Err(refused.clone());
        }
        let new = found.iter().filter(|found| matches!(found, Ok(Found::New))).count() as u64;
        // A request that is a retry through and through was accepted when its guard held.
        if new > 0 {
            self.check(guard)?;
        }
        let pool_limit = self.pool_limit;
        let entry = self.entry(number);
        if !each_for_itself && new > 0 && entry.chain.head.pooled() + new > pool_limit {
            return Err(Refused::PoolFull(pool_limit));
        }
        let mut placed = Vec::with_capacity(found.len());
        for (transaction, found) in transactions.into_iter().zip(found) {
            placed.push(match found {
                Ok(Found::Replay(placed)) => Ok(placed),
                // The first one of this command may be there by now, or refused.
                Ok(Found::New | Found::Again) => match pending.replay(number, &transaction) {
                    Some(replay) => replay,
                    None if entry.chain.head.pooled() >= pool_limit => Err(Refused::PoolFull(pool_limit)),
                    None => Ok(entry.accept(number, transaction, pending)),
                },
                Err(refused) => Err(refused),
            });
        }
        if placed.iter().flatten().any(|placed| !placed.replayed) {
            pending.touched.insert(number);
        }
        Ok(Outcome::Injected(placed))
    }

    /// The transaction loses data and salt, and another one at the end of the chain says so.
    fn erase(
        &mut self,
        number: ChainNumber,
        index: u64,
        mut transaction: Transaction,
        pending: &mut Pending,
    ) -> Result<Outcome, Refused> {
        let handle = self.entry(number).handle.clone();
        let record = checked_record(&self.store, &handle.lineage, index)?;
        if let Some(Erased { by, .. }) = record.erased {
            let is_there = by < self.entry(number).chain.head.size();
            let by = is_there.then(|| checked_record(&self.store, &handle.lineage, by)).transpose()?;
            return match by.filter(|by| verify::erasure_of(by) == Some(index)) {
                Some(by) => Ok(Outcome::Erased(Placed::replay(&by))),
                None => Err(Refused::ErasedElsewhere(index)),
            };
        }
        if record.kind.is_some() {
            return Err(Refused::NotErasable(index));
        }
        let head = &self.entry(number).chain.head;
        transaction.delay_to(head.accepted);
        let by = head.size();
        let erased = Erased { timestamp: transaction.timestamp(), by };
        pending.batch.erased(number, index, record.commitment, erased);
        let placed = self.entry(number).accept(number, transaction, pending);
        let record = chain_record(&handle);
        pending.batch.chain(&ChainRecord { erasures: record.erasures + 1, ..record });
        pending.erased = Some(number);
        pending.touched.insert(number);
        Ok(Outcome::Erased(placed))
    }

    /// Whether each transaction is new, or that its id is taken.
    fn find_replays(
        &self,
        number: ChainNumber,
        transactions: &[Transaction],
        pending: &Pending,
    ) -> Vec<Result<Found, Refused>> {
        let mut own = HashMap::new();
        transactions.iter().map(|transaction| self.find(number, transaction, &mut own, pending)).collect()
    }

    /// `own` has the new ones of the same command: where it is an array, all or nothing, a conflict between two of them must be
    /// found before any is accepted.
    fn find<'a>(
        &self,
        number: ChainNumber,
        transaction: &'a Transaction,
        own: &mut HashMap<&'a Id, &'a Transaction>,
        pending: &Pending,
    ) -> Result<Found, Refused> {
        let Some(id) = transaction.id() else { return Ok(Found::New) };
        if let Some(replay) = pending.replay(number, transaction) {
            return replay.map(Found::Replay);
        }
        if let Some(replay) = find_replay(&self.store, &self.chains[&number].handle.lineage, transaction, id)? {
            return Ok(Found::Replay(replay));
        }
        let Some(first) = own.get(id) else {
            own.insert(id, transaction);
            return Ok(Found::New);
        };
        match first.data() == transaction.data() && first.signer() == transaction.signer() {
            true => Ok(Found::Again),
            false => Err(Refused::IdTwice(id.as_str().into())),
        }
    }
}

/// What is known of a transaction before it is accepted.
enum Found {
    /// It takes a place.
    New,
    /// It repeats an earlier one of the same command.
    Again,
    /// It repeats this one.
    Replay(Placed),
}

impl Entry {
    fn accept(&mut self, number: ChainNumber, mut transaction: Transaction, pending: &mut Pending) -> Placed {
        let head = &self.chain.head;
        // The clock may have been set back, and of two requests at one time the later one may come here first.
        transaction.delay_to(head.accepted);
        let (index, bytes_before) = (head.size(), head.bytes);
        let run = pending.runs.entry(number).or_insert_with(|| Run::new(index, bytes_before));
        if run.is_full_for(transaction.record_bytes()) {
            pending.batch.run(number, std::mem::replace(run, Run::new(index, bytes_before)));
        }
        pending.served.clear();
        transaction.write_record(index, &mut pending.served);
        let bytes = run.push(&pending.served);
        let placed = Placed::new(index, &transaction);
        if let Some(id) = transaction.id() {
            pending.batch.id(number, id, index);
            let named = Named { placed, data: transaction.data().to_vec(), signer: transaction.signer() };
            pending.ids.insert((number, id.clone()), named);
        }
        self.chain.inject(&transaction, bytes, &mut |tile: Tile| pending.batch.tile(number, &tile));
        placed
    }
}

impl Pending {
    /// The transaction of this batch that a transaction repeats, or that its id is taken.
    fn replay(&self, number: ChainNumber, transaction: &Transaction) -> Option<Result<Placed, Refused>> {
        if self.ids.is_empty() {
            return None;
        }
        let id = transaction.id()?;
        let Named { placed, data, signer } = self.ids.get(&(number, id.clone()))?;
        let same = data == transaction.data() && *signer == transaction.signer();
        let replay = Placed { replayed: true, ..*placed };
        Some(if same { Ok(replay) } else { Err(Refused::IdTaken { id: id.as_str().into(), index: placed.index }) })
    }
}

/// The durable transaction that a transaction with this id repeats, or that the id is taken.
///
/// Of an erased one there is no data to compare. A signature speaks for chain, data and id, and Ed25519 gives the same one for
/// the same, so it still tells the same from other data.
fn find_replay(
    store: &Store,
    lineage: &Lineage,
    transaction: &Transaction,
    id: &Id,
) -> Result<Option<Placed>, Refused> {
    let Some(index) = store.transaction_with_id(lineage, id)? else { return Ok(None) };
    let record = checked_record(store, lineage, index)?;
    let signer = |signed: Option<&Signed>| signed.map(|signed| signed.signer);
    let same = match &record.data {
        Some(data) => data == transaction.data() && signer(record.signed.as_ref()) == transaction.signer(),
        None if record.signed.is_none() && transaction.signed().is_none() => {
            return Err(Refused::IdErased { id: id.as_str().into(), index });
        }
        None => record.signed.as_ref() == transaction.signed(),
    };
    if same { Ok(Some(Placed::replay(&record))) } else { Err(Refused::IdTaken { id: id.as_str().into(), index }) }
}

fn chain_record(chain: &ChainHandle) -> ChainRecord {
    ChainRecord {
        name: chain.name.to_string(),
        number: chain.number(),
        id: chain.id,
        parent: chain.lineage.parent(),
        bang: chain.lineage.bang(),
        leap: chain.leap_policy(),
        erasures: chain.erasures.load(Ordering::Acquire),
    }
}

/// The Merkle edge of a chain at an earlier size: at most one stored tile a level.
///
/// # Errors
/// A tile is missing.
pub fn edge_at(store: &Store, chain: &ChainHandle, size: u64) -> Result<Edge, StoreError> {
    let head = chain.head();
    Edge::at(size, head.edge.source(|level, number| store.tile(&chain.lineage, level, number)))
}

/// A chain as it stands in the store. Its newest quant and the transactions of the last, incomplete tile are recomputed.
///
/// # Errors
/// What does not hold.
pub fn load_chain(store: &Store, lineage: &Lineage) -> Result<Chain, StoreError> {
    let damaged = |detail: String| StoreError::Damaged(detail);
    let number = lineage.number();
    let (size, bytes) = store.size_and_bytes(number)?.ok_or_else(|| damaged("its bang is missing".into()))?;
    let newest = store.newest_quant(number)?.ok_or_else(|| damaged("its first quant is missing".into()))?;
    if newest.size() > size {
        return Err(damaged(format!(
            "{size} transactions are left of the {} that quant {} seals",
            newest.size(),
            newest.index()
        )));
    }
    let edge = Edge::at(size, |level, number, width| stored_hashes(store, lineage, level, number, width))?;
    let sealed = merkle::root(newest.size(), edge.source(|level, number| store.tile(lineage, level, number)))?;
    if sealed != newest.header().root {
        return Err(damaged(format!("the root of quant {} is not that of its transactions", newest.index())));
    }
    let place = lineage.bang_place();
    let rules = stored_rules(store, lineage, place.transaction)?;
    let first = place.quant;
    let id = if newest.index() == first { newest.hash() } else { store.quant(lineage, first)?.hash() };
    let accepted = checked_record(store, lineage, size - 1)?.timestamp;
    // A leap that left something pooled may have come after the newest transaction, which is not stored: then the tag is that of
    // the transaction.
    let has_leaped = newest.size() == size && newest.index() != first;
    let head = Head { newest: Arc::new(newest), edge: Arc::new(edge), bytes, accepted, has_leaped };
    Ok(Chain { id, rules: Arc::new(rules), head })
}

/// The rules in a bang.
fn stored_rules(store: &Store, lineage: &Lineage, bang: u64) -> Result<Rules, StoreError> {
    let damaged = |detail: String| StoreError::Damaged(detail);
    let bang = checked_record(store, lineage, bang)?;
    let rules = bang.data.filter(|_| bang.kind == Some(Kind::Bang)).ok_or_else(|| damaged("it has no bang".into()))?;
    let rules = json::parse(&rules).map_err(|error| damaged(format!("its rules: {error}")))?;
    Rules::from_value(&rules).map_err(|faults| damaged(format!("its rules: {}", faults[0].detail)))
}

/// The hashes of an incomplete tile: recomputed leaves, or the roots of the complete tiles below.
fn stored_hashes(
    store: &Store,
    lineage: &Lineage,
    level: u8,
    number: u64,
    width: usize,
) -> Result<Vec<Hash>, StoreError> {
    let first = number * merkle::TILE_WIDTH as u64;
    let range = first..first + width as u64;
    match level {
        0 => range.map(|index| Ok(checked_record(store, lineage, index)?.hash)).collect(),
        _ => range.map(|below| Ok(perfect_root(&store.tile(lineage, level - 1, below)?))).collect(),
    }
}

/// A transaction from the store, with its hash recomputed.
///
/// # Errors
/// It is not what was written at this index.
pub fn checked_record(store: &Store, lineage: &Lineage, index: u64) -> Result<Record, StoreError> {
    let record = Record::parse(&store.record(lineage, index)?)
        .map_err(|detail| StoreError::Damaged(format!("transaction {index}: {detail}")))?;
    if record.index == index {
        Ok(record)
    } else {
        Err(StoreError::Damaged(format!("transaction {index} says that it is transaction {}", record.index)))
    }
}
