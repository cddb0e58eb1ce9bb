//! A node: the handle that everyone clones, and what one can do with it.
//!
//! It is the one place that reads the clock and draws random numbers: both go into [`Command`]s before they reach the
//! writer, which only moves a time on that would go back within its chain. Making hashes and JSON is the work of the caller's task, never of the writer.

mod aside;
mod figures;
mod heal;
mod import;
mod mirror;
mod read;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZero,
    ops::Range,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tokio::sync::{
    Notify,
    mpsc::{self, error::TrySendError},
    oneshot, watch,
};

use crate::{
    clock::Clock,
    core::{
        chain::{Expected, Head, LeapPolicy, Tag, bang_header, bang_transaction},
        count::{Height, Index, Size},
        hash::{self, Hash},
        merkle::{self, KnownTile},
        note::{Algorithm, Checkpoint, KeyName, Note, Signature, VerifierKey},
        quant::Quant,
        rules::{ChainName, Rules},
        succession::{Role, Succession},
        terms::KeyChange,
        transaction::{Id, Kind, Record, Submission, Timestamp, Transaction},
        witness::{self, Cosigned, Evidence, Refusal, Rejected, Trusted, Witnessed},
    },
    limits,
    metrics::{Metrics, observe_since},
    mine::Miner,
    store::{
        ChainNumber, Lineage, LogRecord, Rollback, Store,
        key::{KeyFile, Signers},
    },
    writer::{
        self, ChainHandle, Command, Core, Envelope, Guard, Health, Outcome, Own, Placed, Published, Refused, Request,
        Reserved, Writer, checked_transaction, edge_at, key_change,
    },
};

pub use crate::store::{Group, NodeId, Progress, StoreError};
use aside::Aside;

pub use aside::{beside, is_large};
pub use figures::Figures;
pub use import::{Import, ImportError, Imported, State as ImportState, Unfinished};

pub use read::ChainReader;

/// Why something cannot be read for a while, which is no damage.
const INDEX_LAGS: &str =
    "the index lacks what could not be written while the disk was full, and has it again when there is room";

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data folder.
    pub data: PathBuf,
    /// Transactions that the pool of one chain may hold.
    pub pool_limit: u64,
    /// Threads that mine.
    pub mining_threads: NonZero<usize>,
    /// When the default chain leaps by itself, where it is made now.
    pub leap: Option<LeapPolicy>,
    /// Whether the default chain is left to the cluster that the node joins.
    pub joins: bool,
    /// The logs of others that the node cosigns.
    pub cosign: Trusted,
    /// Chains that take writes though newer quants of them were signed; `*` is all.
    pub accept_rollback: Vec<String>,
    /// What tells the time.
    pub clock: Clock,
    /// Is told how far a start that takes long has come.
    pub progress: Progress,
}

/// A running node. A clone is another handle to the same.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    store: Arc<Store>,
    published: Arc<Published>,
    /// The group in which this node is alone at first, with what is its own.
    own_group: Group,
    groups: RwLock<BTreeMap<Group, GroupWriter>>,
    writers: Mutex<Vec<JoinHandle<()>>>,
    cluster: OnceLock<InCluster>,
    /// Chains of which a read has met with damage.
    suspected: Mutex<BTreeMap<ChainNumber, Arc<ChainHandle>>>,
    /// Is told when damage was found.
    damage_found: Notify,
    /// One healing at a time.
    healing: tokio::sync::Mutex<()>,
    pool_limit: u64,
    miner: Miner,
    aside: Aside,
    /// Its identity.
    key: SigningKey,
    /// What signs the checkpoints of its chains.
    signers: Signers,
    /// Complete tiles that were served lately, by chain, level and number. They never change.
    tiles: quick_cache::sync::Cache<(u64, u8, u64), KnownTile>,
    /// Checkpoints of quants that were signed lately, by chain, quant and whether the cluster's key has signed, without
    /// cosignatures. A signature takes longer than the rest of a receipt.
    notes: quick_cache::sync::Cache<(u64, Height, bool), Arc<Note>>,
    /// The chains that are being imported, and since when.
    importing: Mutex<HashMap<Hash, Timestamp>>,
    /// The known nodes, as they were recorded last.
    recorded: tokio::sync::Mutex<Option<Vec<String>>>,
    witness: Option<Witness>,
    accept_rollback: Vec<String>,
    clock: Clock,
}

/// Transactions for a chain that another node leads.
#[derive(Clone)]
pub struct Carried {
    /// The id of the chain.
    pub chain: Hash,
    /// The states in which they may be accepted, of the chain with this id.
    pub expected: Option<(Hash, Expected)>,
    /// The transactions.
    pub transactions: Arc<Vec<Transaction>>,
    /// Whether a refused one leaves the others accepted.
    pub each_for_itself: bool,
}

/// What became of each of some transactions, or why none was accepted.
pub type Placements = Result<Vec<Result<Placed, Refused>>, Refused>;

/// What other nodes do for this one.
pub trait Carrier: Send + Sync {
    /// Takes transactions to the node that leads their chain, and gives what that says. Nothing is sent twice that may have been accepted.
    fn carry(&self, group: Group, carried: Carried) -> Pin<Box<dyn Future<Output = Placements> + Send>>;

    /// Waits until this node has all of a group that was acknowledged before the call. Says whether it has: it cannot know where
    /// nobody leads.
    fn catch_up(&self, group: Group) -> Pin<Box<dyn Future<Output = bool> + Send>>;

    /// The other nodes that keep a group.
    fn others(&self, group: Group) -> Vec<NodeId>;

    /// The run of a chain's transactions that begins with this one, as another node has it.
    fn run(&self, node: NodeId, group: Group, chain: Hash, first: Index) -> FetchedRun;
}

/// What a node has of the cluster that it is in, or was.
struct InCluster {
    carrier: Arc<dyn Carrier>,
    /// Signs the checkpoints of all its chains beside each node's own key.
    key: SigningKey,
    /// How its keys came to that one.
    successions: Vec<Succession>,
}

/// How many of the successions of the key that signs checkpoints are recorded on a chain, once that was looked at.
#[derive(Default)]
struct RecordedSuccessions(tokio::sync::Mutex<Option<usize>>);

/// A run of transactions from another node, or why there is none.
pub type FetchedRun = Pin<Box<dyn Future<Output = Result<LogRecord, String>> + Send>>;

/// What decides on the chains of a group.
#[derive(Clone)]
struct GroupWriter {
    core: Arc<Core>,
    requests: mpsc::Sender<Envelope>,
}

/// One leap of a chain at a time: the next cuts what this one left.
#[derive(Default)]
struct LeapTurn(tokio::sync::Mutex<()>);

/// What witnesses have cosigned of a chain since the node's start.
#[derive(Default)]
struct Cosignatures(RwLock<Cosigned>);

/// Whether a chain's newest time lay in the future when it was looked at last.
#[derive(Default)]
struct IsAhead(AtomicBool);

/// A node's part as a witness of others.
struct Witness {
    key: SigningKey,
    trusted: Trusted,
    /// The time of the newest cosignature that was made: none has an earlier one from then on.
    newest: Mutex<Option<Timestamp>>,
}

impl Witness {
    /// The time of the newest cosignature.
    fn newest(&self) -> Option<Timestamp> {
        *self.newest.lock().expect("no holder of this lock panics")
    }

    /// Whether a cosignature may have this time: then none has an earlier one any more.
    fn begin_at(&self, time: Timestamp) -> bool {
        let mut newest = self.newest.lock().expect("no holder of this lock panics");
        let is_in_order = newest.is_none_or(|newest| newest <= time);
        if is_in_order {
            *newest = Some(time);
        }
        is_in_order
    }
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum NotCosigned {
    /// It is not to be.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// It cannot be recorded.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A cosignature would have a time that cannot be.
    #[error("{0}: this witness signs nothing until its clock is set")]
    Clock(String),
}

/// What must be kept beside a node until it has stopped.
pub struct Background {
    /// Chains that may have to leap by their policy.
    pub touched: mpsc::UnboundedReceiver<Arc<ChainHandle>>,
    /// Chains with a new quant, which witnesses may cosign.
    pub sealed: mpsc::UnboundedReceiver<Arc<ChainHandle>>,
}

/// A transaction that is durable in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its final index.
    pub index: Index,
    /// The client's name for it.
    pub id: Option<Id>,
    /// Its leaf hash.
    pub hash: Hash,
    /// When it was accepted.
    pub timestamp: Timestamp,
    /// Whether an earlier request with the same id did it.
    pub replayed: bool,
}

/// The proof that a transaction is in a chain.
pub struct Receipt {
    /// The transaction as it is served.
    pub record: Vec<u8>,
    /// The quant that seals it.
    pub quant: Quant,
    /// Its inclusion proof in the quant's tree.
    pub path: Vec<Hash>,
    /// The checkpoint of the quant.
    pub checkpoint: Note,
}

impl Node {
    /// Opens the data folder, verifies the newest part of each chain, makes the default chain where there is none, and
    /// starts the writer. A chain that does not hold is [lost](Node::lost); the others go on.
    ///
    /// # Errors
    /// The folder cannot be used or is damaged.
    pub async fn start(config: Config) -> Result<(Node, Background), StoreError> {
        let (inner, background) = tokio::task::block_in_place(|| Inner::open(&config))?;
        let node = Node(Arc::new(inner));
        for chain in node.chains(None, usize::MAX).into_iter().filter_map(|(_, chain)| chain.ok()) {
            node.take_rollback(&chain, None).await;
        }
        node.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        // A cluster has one, which may be kept elsewhere.
        if !config.joins && !node.0.store.groups().contains(&Group::META) {
            node.ensure_default(config.leap).await?;
        }
        Ok((node, background))
    }

    async fn ensure_default(&self, leap: Option<LeapPolicy>) -> Result<(), StoreError> {
        let done = match (self.chain(ChainName::DEFAULT), leap) {
            (None, _) if self.lost(ChainName::DEFAULT).is_some() => Ok(()),
            (None, leap) => {
                let name = ChainName::DEFAULT.parse().expect("the default name is valid");
                self.bang(Rules::new(name), None, leap.unwrap_or_default(), None, None).await.map(|_| ())
            }
            (Some(chain), Some(_)) if chain.mirror().is_some() => {
                tracing::warn!("the default chain is a mirror, so it does not leap by itself");
                Ok(())
            }
            (Some(chain), Some(leap)) if chain.leap_policy() != leap => self.set_leap(&chain, leap, None).await,
            _ => Ok(()),
        };
        done.map_err(|refused| match refused {
            Refused::Store(error) => error,
            other => StoreError::Failed(other.to_string()),
        })
    }

    /// The node's public key, which is its identity.
    pub fn id(&self) -> String {
        hex::encode(self.0.key.verifying_key().to_bytes())
    }

    /// Whether the node takes writes.
    pub fn health(&self) -> Health {
        let groups = self.0.groups.read().expect("no holder of this lock panics");
        if groups.values().any(|group| group.requests.is_closed()) {
            return Health::Failed("a writer has stopped".into());
        }
        drop(groups);
        self.0.published.health()
    }

    /// A chain by name.
    pub fn chain(&self, name: &str) -> Option<Arc<ChainHandle>> {
        self.0.published.chain(name)
    }

    /// Why a chain could not be loaded.
    pub fn lost(&self, name: &str) -> Option<String> {
        self.0.published.lost(name)
    }

    /// At most `limit` chains in the order of their names, from behind `after`. Of one that could not be loaded, why.
    pub fn chains(&self, after: Option<&str>, limit: usize) -> Vec<(ChainName, Result<Arc<ChainHandle>, String>)> {
        self.chains_if(after, limit, |_| true)
    }

    /// The same of those with a name that is wanted.
    pub fn chains_if(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&ChainName) -> bool,
    ) -> Vec<(ChainName, Result<Arc<ChainHandle>, String>)> {
        self.0.published.chains(after, limit, is_wanted)
    }

    /// The chains that are damaged, and where. The others go on.
    pub fn damages(&self) -> Vec<(ChainName, String)> {
        if !self.0.published.has_damage() {
            return Vec::new();
        }
        let damage = |(name, chain): (ChainName, Result<Arc<ChainHandle>, String>)| match chain {
            Ok(chain) => Some((name, chain.damage()?)),
            Err(detail) => Some((name, detail)),
        };
        self.chains(None, usize::MAX).into_iter().filter_map(damage).collect()
    }

    /// The chains that take no writes because newer quants of them were signed, and what to do.
    pub fn rollbacks(&self) -> Vec<(ChainName, String)> {
        if !self.0.published.has_rollback() {
            return Vec::new();
        }
        let rollback =
            |(name, chain): (ChainName, Result<Arc<ChainHandle>, String>)| Some((name, chain.ok()?.rollback()?));
        self.chains(None, usize::MAX).into_iter().filter_map(rollback).collect()
    }

    /// How many chains there are.
    pub fn chain_count(&self) -> usize {
        self.0.published.count()
    }

    /// Does what takes milliseconds where it holds up nobody.
    pub async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.0.aside.run(work).await
    }

    /// Runs a read of the store where it may block.
    pub(crate) async fn read_store<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.0.store.clone();
        let read = move || match read(&store) {
            Err(StoreError::Damaged(_)) if store.is_behind() => Err(StoreError::Failed(INDEX_LAGS.into())),
            read => read,
        };
        self.aside(read).await
    }

    /// The group in which this node is alone at first.
    pub fn own_group(&self) -> Group {
        self.0.own_group
    }

    /// What the node counts.
    pub fn metrics(&self) -> &Metrics {
        self.0.store.metrics()
    }

    /// The store, for what keeps it equal to those of other nodes.
    pub(crate) fn store(&self) -> Arc<Store> {
        self.0.store.clone()
    }

    /// The node's secret key.
    pub(crate) fn signing_key(&self) -> SigningKey {
        self.0.key.clone()
    }

    /// The chains of a group, which has none yet if it is new here.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn ensure_group(&self, group: Group) -> Result<Arc<Core>, StoreError> {
        if let Some(known) = self.core(group) {
            return Ok(known);
        }
        let core = Core::of_new(&self.0.store, &self.0.published, group, self.0.pool_limit)?;
        self.0.start_writer(group, core.clone())?;
        Ok(core)
    }

    /// Whether this node decides on the writes of a group.
    pub fn leads(&self, group: Group) -> bool {
        self.core(group).is_some_and(|core| core.leads())
    }

    /// What decides on the chains of a group, where it is kept here.
    fn core(&self, group: Group) -> Option<Arc<Core>> {
        self.0.groups.read().expect("no holder of this lock panics").get(&group).map(|group| group.core.clone())
    }

    /// Forgets the chains of a group that is not kept here any more.
    pub(crate) fn drop_group(&self, group: Group) {
        self.0.groups.write().expect("no holder of this lock panics").remove(&group);
        self.0.published.remove_group(group);
    }

    fn writer(&self, group: Group) -> Result<mpsc::Sender<Envelope>, Refused> {
        let groups = self.0.groups.read().expect("no holder of this lock panics");
        groups.get(&group).map(|group| group.requests.clone()).ok_or(Refused::Stopping)
    }

    /// Ends all writers, when what was sent to them is settled.
    pub fn end_writers(&self) -> Vec<JoinHandle<()>> {
        self.0.groups.write().expect("no holder of this lock panics").clear();
        std::mem::take(&mut *self.0.writers.lock().expect("no holder of this lock panics"))
    }

    async fn submit(&self, group: Group, request: impl Into<Request>) -> Result<Outcome, Refused> {
        self.submit_reserved(group, request.into(), Reserved::default()).await
    }

    async fn submit_reserved(&self, group: Group, request: Request, reserved: Reserved) -> Result<Outcome, Refused> {
        let (reply, outcome) = oneshot::channel();
        self.writer(group)?.try_send(Envelope { request, reply, reserved }).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Closed(_) => Refused::Stopping,
        })?;
        outcome.await.unwrap_or(Err(Refused::Stopping))
    }

    /// Adds transactions that meet the chain's rules to its pool: all or none. Returns when they are on disk.
    /// `reserved` is what they take up.
    ///
    /// # Errors
    /// Why none was added.
    pub async fn inject(
        &self,
        chain: &ChainHandle,
        transactions: Vec<Transaction>,
        expected: Option<Expected>,
        reserved: Reserved,
    ) -> Result<Vec<Accepted>, Refused> {
        let ids: Vec<Option<Id>> = transactions.iter().map(|transaction| transaction.id().cloned()).collect();
        let carried = |transactions, expected: Option<Expected>| Carried {
            chain: chain.id,
            expected: expected.map(|expected| (chain.id, expected)),
            transactions: Arc::new(transactions),
            each_for_itself: false,
        };
        let placed = match self.carrier(chain) {
            Some(carrier) => {
                let _memory = reserved.carried();
                carrier.carry(chain.group, carried(transactions, expected)).await?
            }
            None => {
                let guard = chain.guard(expected.clone());
                let again = self.0.cluster.get().map(|cluster| (&cluster.carrier, transactions.clone()));
                let command = Command::Inject { chain: chain.number(), guard, transactions, each_for_itself: false };
                match (self.submit_reserved(chain.group, command.into(), reserved).await, again) {
                    (Ok(Outcome::Injected(placed)), _) => placed,
                    (Ok(_), _) => unreachable!("the outcome of an inject is Injected"),
                    // It has led until now, and nothing was accepted.
                    (Err(Refused::NotLeading(_)), Some((carrier, transactions))) => {
                        carrier.carry(chain.group, carried(transactions, expected)).await?
                    }
                    (Err(refused), _) => return Err(refused),
                }
            }
        };
        // What repeats a new one of the same request was accepted with it, and by no earlier one.
        let first_new = placed.iter().flatten().filter(|placed| !placed.replayed).map(|placed| placed.index).min();
        let accepted = |(id, placed): (_, Result<Placed, Refused>)| {
            let placed = placed?;
            let replayed = first_new.is_none_or(|first| placed.index < first);
            Ok(Accepted { id, ..Accepted::new(Placed { replayed, ..placed }) })
        };
        ids.into_iter().zip(placed).map(accepted).collect()
    }

    /// Erases the data and the salt of a transaction for ever, and records that and why as a transaction of its own, on the
    /// chain that wrote the erased one: that is `chain` itself or an ancestor, and it is returned too. All that is durable when
    /// this returns. What was erased before stays as it is: then the first record of it is returned.
    ///
    /// # Errors
    /// Why it is not erased.
    ///
    /// # Panics
    /// The chain has no such transaction.
    pub async fn erase(
        &self,
        chain: &Arc<ChainHandle>,
        index: Index,
        expected: Option<Expected>,
        submission: Submission,
    ) -> Result<(Arc<ChainHandle>, Accepted), Refused> {
        assert!(chain.head().size().has(index), "only what is in the chain can be erased");
        let writer = chain.writer_of(index);
        let time = self.time_in(&writer);
        let transaction = Transaction::new(submission, Some(Kind::Erasure), time, rand::random());
        let command = Command::Erase {
            chain: writer.number(),
            index,
            guard: chain.guard(expected),
            transaction: transaction.into(),
        };
        match self.submit(writer.group, command).await? {
            Outcome::Recorded(placed) => {
                if !placed.replayed {
                    tracing::info!(chain = %writer.name, record = %placed.index, "the data of transaction {index} is erased");
                }
                Ok((writer, Accepted::new(placed)))
            }
            _ => unreachable!("the outcome of an erasure is Recorded"),
        }
    }

    /// Changes the writers of a chain, as one of them has signed. It is on disk when this returns. The same again is answered with the
    /// first.
    ///
    /// # Errors
    /// Why they stay.
    pub async fn change_writers(
        &self,
        chain: &ChainHandle,
        expected: Option<Expected>,
        submission: Submission,
    ) -> Result<Accepted, Refused> {
        let time = self.time_in(chain);
        let transaction = Transaction::new(submission, Some(Kind::Key), time, rand::random()).into();
        let (number, guard) = (chain.number(), chain.guard(expected));
        let placed = self.decide(chain, Command::Key { chain: number, guard, transaction }).await?;
        if !placed.replayed {
            tracing::info!(chain = %chain.name, record = %placed.index, "the chain has other writers");
        }
        Ok(placed)
    }

    /// Freezes a chain for ever, and gives the quant that ends it. All is on disk when this returns. What was frozen before stays so: then
    /// the first record of it is returned.
    ///
    /// # Errors
    /// Why it is not frozen, or not sealed yet: then it leaps by itself, or when this is asked for again.
    pub async fn freeze(
        &self,
        chain: &Arc<ChainHandle>,
        expected: Option<Expected>,
        submission: Submission,
    ) -> Result<(Accepted, Quant), Refused> {
        let time = self.time_in(chain);
        let transaction = Transaction::new(submission, Some(Kind::Freeze), time, rand::random()).into();
        let (number, guard) = (chain.number(), chain.guard(expected));
        let placed = self.decide(chain, Command::Freeze { chain: number, guard, transaction }).await?;
        if !placed.replayed {
            tracing::info!(chain = %chain.name, record = %placed.index, "the chain is frozen");
        }
        match self.leap_pooled(chain).await {
            // The automatic leap may have been faster.
            Ok(()) | Err(Refused::Frozen { .. }) => {}
            Err(refused) => return Err(refused),
        }
        let last = self.read(chain, move |chain| chain.quant(chain.quant_of(placed.index)?)).await?;
        Ok((placed, last))
    }

    async fn decide(&self, chain: &ChainHandle, command: Command) -> Result<Accepted, Refused> {
        match self.submit(chain.group, command).await? {
            Outcome::Recorded(placed) => Ok(Accepted::new(placed)),
            _ => unreachable!("the outcome of a change of keys, or of a freeze, is Recorded"),
        }
    }

    /// Sends transactions that meet the chain's rules to its pool, each for itself, and waits while the writer has too much
    /// to do. They are on disk when the returned future is. `reserved` is what they take up.
    ///
    /// # Errors
    /// Why none was sent; in the future, why none was added.
    pub async fn inject_each(
        &self,
        chain: &ChainHandle,
        transactions: Vec<Transaction>,
        reserved: Reserved,
    ) -> Result<Pin<Box<dyn Future<Output = Placements> + Send>>, Refused> {
        if let Some(carrier) = self.carrier(chain) {
            let transactions = Arc::new(transactions);
            let carried = Carried { chain: chain.id, expected: None, transactions, each_for_itself: true };
            let (outcome, memory) = (carrier.carry(chain.group, carried), reserved.carried());
            return Ok(Box::pin(async move {
                let _memory = memory;
                outcome.await
            }));
        }
        let command = Command::Inject { chain: chain.number(), guard: None, transactions, each_for_itself: true };
        let (reply, outcome) = oneshot::channel();
        self.writer(chain.group)?
            .send(Envelope { request: command.into(), reply, reserved })
            .await
            .map_err(|_| Refused::Stopping)?;
        Ok(Box::pin(async {
            match outcome.await.unwrap_or(Err(Refused::Stopping))? {
                Outcome::Injected(placed) => Ok(placed),
                _ => unreachable!("the outcome of an inject is Injected"),
            }
        }))
    }

    /// What carries transactions of this chain, where another node leads it.
    fn carrier(&self, chain: &ChainHandle) -> Option<&Arc<dyn Carrier>> {
        self.0.cluster.get().map(|cluster| &cluster.carrier).filter(|_| !self.leads(chain.group))
    }

    /// Makes the node one of a cluster: transactions for chains that others lead are carried there, and checkpoints are signed with
    /// the cluster's key, too.
    pub fn set_cluster(&self, carrier: Arc<dyn Carrier>, key: SigningKey) {
        let successions = self.0.store.cluster_successions(&key.verifying_key());
        let successions = successions.unwrap_or_else(|error| {
            tracing::error!("who knows an old key of the cluster cannot follow: {error}");
            Vec::new()
        });
        // There is one cluster.
        let _ = self.0.cluster.set(InCluster { carrier, key, successions });
    }

    /// Decides on transactions that another node has carried here, which were checked there.
    ///
    /// # Errors
    /// Why none was accepted.
    pub async fn inject_carried(&self, carried: Carried) -> Placements {
        let Carried { chain, expected, transactions, each_for_itself } = carried;
        let handle = self.chain(&chain.to_string()).ok_or(Refused::NotLeading(None))?;
        let guard = match expected {
            None => None,
            Some((of, expected)) => {
                let of = self.chain(&of.to_string()).ok_or(Refused::NotLeading(None))?;
                of.guard(Some(expected))
            }
        };
        let transactions = Arc::unwrap_or_clone(transactions);
        let command = Command::Inject { chain: handle.number(), guard, transactions, each_for_itself };
        match self.submit(handle.group, command).await? {
            Outcome::Injected(placed) => Ok(placed),
            _ => unreachable!("the outcome of an inject is Injected"),
        }
    }

    /// Mines a quant from all that is pooled, and only if the chain is in an expected state from the call on until the quant is
    /// recorded. Gives the chain's state behind it, too.
    ///
    /// # Errors
    /// Why there is no quant.
    pub async fn leap(&self, chain: &ChainHandle, expected: Option<Expected>) -> Result<(Quant, Tag), Refused> {
        Ok(self.leap_if(chain, expected, |_| true).await?.expect("every head is fit"))
    }

    /// When the oldest transaction that no quant covers was accepted, if there is one.
    ///
    /// # Errors
    /// The store is damaged.
    pub async fn oldest_pooled(&self, chain: &ChainHandle) -> Result<Option<Timestamp>, StoreError> {
        let (head, lineage) = (chain.head(), chain.lineage.clone());
        if head.pooled() == 0 {
            return Ok(None);
        }
        let first = Index::new(head.newest.size().get());
        let oldest = self.read_store(move |store| checked_transaction(store, &lineage, first)).await?;
        Ok(Some(oldest.timestamp()))
    }

    /// Leaps if anything is pooled, also when it comes to that: what was pooled may have been sealed by another node meanwhile.
    ///
    /// # Errors
    /// As [`Node::leap`].
    pub async fn leap_pooled(&self, chain: &ChainHandle) -> Result<(), Refused> {
        self.leap_if(chain, None, |head| head.pooled() > 0).await.map(|_| ())
    }

    /// Leaps from the newest head, unless that is not `fit`.
    async fn leap_if(
        &self,
        chain: &ChainHandle,
        expected: Option<Expected>,
        fit: impl Fn(&Head) -> bool,
    ) -> Result<Option<(Quant, Tag)>, Refused> {
        let turn = chain.remembered::<LeapTurn>();
        let _turn = turn.0.lock().await;
        chain.check_writable()?;
        let mut expected = expected;
        if fit(&chain.head()) && chain.frozen().is_none() {
            let tag = self.record_successions(chain, expected.as_ref()).await?;
            // The one who expects a state of the chain did not expect this, but nothing else came in between.
            expected = expected.map(|expected| tag.and_then(|tag| Expected::any_of(vec![tag])).unwrap_or(expected));
        }
        loop {
            let head = chain.head();
            if let Some(expected) = &expected {
                chain.check_expected(expected, &head)?;
            }
            if !fit(&head) {
                return Ok(None);
            }
            // So a quant is never earlier than what it seals.
            let header = head.cut(chain.rules().difficulty(), self.time_in(chain));
            let since = Instant::now();
            let quant = self.0.miner.mine(header).await;
            observe_since(&self.metrics().mining_seconds, since);
            let seal = Command::Seal {
                chain: chain.number(),
                guard: chain.guard(expected.clone()),
                quant: quant.clone().into(),
            };
            match self.submit(chain.group, seal).await {
                Ok(Outcome::Sealed(tag)) => return Ok(Some((quant, tag))),
                Ok(_) => unreachable!("the outcome of a seal is Sealed"),
                // The seal of a leap that was given up came in between: its head is published by now.
                Err(Refused::Stale(_)) => {}
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Makes a chain: a new one, or one that goes on from a quant of `parent`, which must have [made](ChainHandle::maker_of)
    /// that quant itself. Where a guard is given, only while its chain is in one of the states that it names. `group` is where a
    /// new one is kept, this node alone where it does not say.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn bang(
        &self,
        rules: Rules,
        parent: Option<(Arc<ChainHandle>, Quant)>,
        leap: LeapPolicy,
        guard: Option<Guard>,
        group: Option<Group>,
    ) -> Result<Arc<ChainHandle>, Refused> {
        // A fork shares what its parent has stored.
        let group = parent.as_ref().map(|(chain, _)| chain.group).or(group).unwrap_or(self.0.own_group);
        let name = rules.name().as_str();
        if self.chain(name).is_some() || self.lost(name).is_some() {
            return Err(Refused::NameTaken(rules.name().clone()));
        }
        let origin = parent.as_ref().map(|(chain, quant)| (chain.name.clone(), quant.index()));
        let (number, shared) = match parent {
            None => (None, None),
            Some((chain, quant)) => {
                let (number, size) = (chain.number(), quant.size());
                let read = move |store: &Store| {
                    let last = size.last().expect("a quant seals its chain's bang at least");
                    let last = checked_transaction(store, &chain.lineage, last)?;
                    Ok((edge_at(store, &chain, size)?, last.timestamp()))
                };
                (Some((number, quant.index())), Some((quant, self.read_store(read).await?)))
            }
        };
        let now = self.now();
        let time = shared.as_ref().map_or(now, |(_, (_, last))| now.max(*last));
        let transaction = bang_transaction(&rules, time, rand::random());
        let shared = shared.as_ref().map(|(quant, (edge, _))| (quant, edge.clone()));
        let quant = self.0.miner.mine(bang_header(&rules, &transaction, shared, time)).await;
        let rules = Arc::new(rules);
        let origin = origin.map(|(name, at)| format!("forked from quant {at} of {name}"));
        let (transaction, quant) = (transaction.into(), quant.into());
        let command = Command::Bang { rules, parent: number, transaction, quant, leap, guard };
        match self.submit(group, command).await? {
            Outcome::Banged(chain) => {
                tracing::info!(chain = %chain.name, id = %chain.id, "the chain is {}", origin.as_deref().unwrap_or("made"));
                Ok(chain)
            }
            _ => unreachable!("the outcome of a bang is Banged"),
        }
    }

    /// Changes when a chain leaps by itself.
    ///
    /// # Errors
    /// Why it stays as it was.
    pub async fn set_leap(
        &self,
        chain: &ChainHandle,
        leap: LeapPolicy,
        expected: Option<Expected>,
    ) -> Result<(), Refused> {
        let guard = chain.guard(expected);
        self.submit(chain.group, Command::SetLeap { chain: chain.number(), leap, guard }).await.map(|_| ())
    }

    /// Records the hosts of all known nodes.
    ///
    /// # Errors
    /// Why they are not recorded.
    pub async fn record_nodes(&self, known: &watch::Receiver<Vec<String>>) -> Result<(), Refused> {
        // Held until they are on disk, so that nobody takes up what is not, and an older list never comes after a newer.
        let mut recorded = self.0.recorded.lock().await;
        let hosts = known.borrow().clone();
        if recorded.take().as_ref() != Some(&hosts) {
            self.submit(self.0.own_group, Own::SetNodes(hosts.clone())).await?;
        }
        *recorded = Some(hosts);
        Ok(())
    }

    /// The receipt of a sealed transaction.
    ///
    /// # Errors
    /// The store is damaged.
    ///
    /// # Panics
    /// No quant seals the transaction yet.
    pub async fn receipt(&self, chain: Arc<ChainHandle>, index: Index) -> Result<Receipt, StoreError> {
        let head = chain.head();
        assert!(head.newest.size().has(index), "only a sealed transaction has a receipt");
        let node = self.clone();
        self.read_of(&chain.clone(), move |store| {
            let lineage = &chain.lineage;
            let record = store.record(lineage, index)?;
            let quant = store.quant(lineage, store.quant_of(lineage, index)?)?;
            let tiles = head.edge.source(|level, number| node.complete_tile(store, lineage, level, number));
            let path = merkle::prove_inclusion(index.get(), quant.size().get(), tiles)?;
            let checkpoint = node.checkpoint_of(&chain, &quant);
            Ok(Receipt { record, quant, path, checkpoint })
        })
        .await
    }

    /// The proof that the chain of `to` transactions begins with its first `from`.
    ///
    /// # Errors
    /// The store is damaged.
    ///
    /// # Panics
    /// Unless `from <= to`, and the chain has `to` transactions.
    pub async fn consistency(&self, chain: Arc<ChainHandle>, from: Size, to: Size) -> Result<Vec<Hash>, StoreError> {
        let head = chain.head();
        assert!(from <= to && to <= head.size(), "a consistency proof is between sizes that the chain had");
        let node = self.clone();
        self.read_store(move |store| {
            let lineage = &chain.lineage;
            let tiles = head.edge.source(|level, number| node.complete_tile(store, lineage, level, number));
            merkle::prove_consistency(from.get(), to.get(), tiles)
        })
        .await
    }

    /// The names under which checkpoints of all chains are signed here, and their keys: the cluster's, where the node is in one, and
    /// the node's own, with the one before it while that signs, too.
    fn signers(&self) -> impl Iterator<Item = (KeyName, &SigningKey)> {
        let cluster = self.0.cluster.get().map(|InCluster { key, .. }| (Role::Cluster, key));
        let Signers { current, previous, .. } = &self.0.signers;
        let own = [Some(current), previous.as_ref()].into_iter().flatten().map(|key| (Role::Node, key));
        cluster.into_iter().chain(own).map(|(role, key)| (role.name(&key.verifying_key()), key))
    }

    /// How the keys that sign here came to be those: of the cluster, and of the node.
    fn successions(&self) -> [&[Succession]; 2] {
        let cluster = self.0.cluster.get().map(|cluster| cluster.successions.as_slice());
        [cluster.unwrap_or_default(), &self.0.signers.successions]
    }

    /// The keys that sign checkpoints of all chains here, the first of which is [`Node::verifier_key`]; and those before them, each
    /// with what shows who has taken its place.
    pub fn keys(&self) -> (Vec<VerifierKey>, Vec<(VerifierKey, Succession)>) {
        let signing = self.signers().map(|(name, key)| VerifierKey::new(name, Algorithm::Ed25519, key.verifying_key()));
        let roles = [Role::Cluster, Role::Node].into_iter().zip(self.successions());
        let earlier = roles.flat_map(|(role, successions)| {
            successions
                .iter()
                .map(move |of| (VerifierKey::new(role.name(of.old()), Algorithm::Ed25519, *of.old()), of.clone()))
        });
        (signing.collect(), earlier.collect())
    }

    /// Whether checkpoints are signed here with the secret part of this key, or were.
    pub fn signs_with(&self, key: &VerifierKey) -> bool {
        let (signing, earlier) = self.keys();
        signing.iter().chain(earlier.iter().map(|(key, _)| key)).any(|own| own.key() == key.key())
    }

    /// The key that checks the checkpoints of all chains, whichever node serves them: the cluster's, where the node is in one, else
    /// the node's own.
    pub fn verifier_key(&self) -> VerifierKey {
        let (name, key) = self.signers().next().expect("a node signs");
        VerifierKey::new(name, Algorithm::Ed25519, key.verifying_key())
    }

    /// A quant of a chain as a checkpoint, signed under its origin and under the signer's own name, by the
    /// cluster's key, where the node is in one, and by the node's own.
    pub fn sign(&self, chain: &ChainHandle, quant: &Quant) -> Note {
        self.sign_text(chain, &Checkpoint::new(chain.id, quant).to_string())
    }

    fn sign_text(&self, chain: &ChainHandle, text: &str) -> Note {
        let mut note = Note::new(text).expect("a checkpoint is a note's text");
        for (name, key) in self.signers() {
            note.sign(KeyName::of_chain(chain.id), key);
            note.sign(name, key);
        }
        for successions in self.successions() {
            let first = successions.len().saturating_sub(limits::SUCCESSION_LINES);
            successions[first..].iter().for_each(|succession| note.add(succession.line()));
        }
        note
    }

    /// Records on a chain, before it goes on, that the key which signs its checkpoints has taken the place of another: where the chain
    /// is older than that, and does not say so yet. Gives the state of the chain then, if anything was recorded.
    async fn record_successions(
        &self,
        chain: &ChainHandle,
        expected: Option<&Expected>,
    ) -> Result<Option<Tag>, Refused> {
        let [of_cluster, own] = self.successions();
        let successions = if self.0.cluster.get().is_some() { of_cluster } else { own };
        if successions.is_empty() {
            return Ok(None);
        }
        let recorded = chain.remembered::<RecordedSuccessions>();
        let mut recorded = recorded.0.lock().await;
        let mut done = match *recorded {
            Some(done) => done,
            None => self.recorded_successions(chain, successions).await?,
        };
        let mut tag = None;
        while done < successions.len() {
            let submission = Submission { data: successions[done].data(), id: None, signed: None };
            let transaction = Transaction::new(submission, Some(Kind::Key), self.time_in(chain), rand::random()).into();
            let guard = if tag.is_none() { chain.guard(expected.cloned()) } else { None };
            let placed = match self.decide(chain, Command::Key { chain: chain.number(), guard, transaction }).await {
                Ok(placed) => placed,
                // Checkpoints show it all the same.
                Err(Refused::TooManyKeys) => break,
                Err(refused) => return Err(refused),
            };
            tracing::info!(chain = %chain.name, record = %placed.index, "the chain says which key signs its checkpoints");
            (tag, done) = (Some(Tag::of_size(placed.index.size())), done + 1);
        }
        *recorded = Some(done);
        Ok(tag)
    }

    /// How many successions a chain says already, or need not say, since it was made later.
    async fn recorded_successions(&self, chain: &ChainHandle, successions: &[Succession]) -> Result<usize, StoreError> {
        let (lineage, keys) = (chain.lineage.clone(), chain.terms().keys().clone());
        let successions = successions.to_vec();
        self.read_store(move |store| {
            let made = checked_transaction(store, &lineage, lineage.bang_place().transaction)?.timestamp();
            let earlier = successions.iter().rposition(|succession| succession.time() < made).map_or(0, |at| at + 1);
            for key in keys.iter().rev() {
                if let KeyChange::Signer(said) = key_change(store, &lineage, *key)?
                    && let Some(at) =
                        successions.iter().position(|of| (of.old(), of.successor()) == (said.old(), said.successor()))
                {
                    return Ok(earlier.max(at + 1));
                }
            }
            Ok(earlier)
        })
        .await
    }

    /// Compares a chain with a note of somebody else. If that is a checkpoint which this node's own key or its cluster's has signed,
    /// of a quant that the chain does not have, then the data folder is an older copy, or all of the cluster's are: that is recorded,
    /// and the chain takes no more writes until the operator accepts it.
    ///
    /// # Errors
    /// It takes none, or its quant cannot be read.
    pub async fn compare(&self, chain: &Arc<ChainHandle>, note: &Note) -> Result<(), Refused> {
        let origin = KeyName::of_chain(chain.id);
        let (signing, earlier) = self.keys();
        let all = signing.into_iter().chain(earlier.into_iter().map(|(key, _)| key));
        let names = |key: VerifierKey| [VerifierKey::new(origin.clone(), Algorithm::Ed25519, *key.key()), key];
        let mut keys: Vec<VerifierKey> = Vec::new();
        // The one before the current key may be among both.
        all.flat_map(names).for_each(|key| {
            if !keys.contains(&key) {
                keys.push(key)
            }
        });
        let Ok(checkpoint) = Checkpoint::parse(note.text()) else { return Ok(()) };
        let is_own = checkpoint.origin() == origin.as_str() && note.verify(&keys).is_ok();
        let Some((quant, hash)) = checkpoint.quant().filter(|_| is_own) else { return Ok(()) };
        let lags = || quant > chain.head().newest.index();
        if lags()
            && let Some(cluster) = self.0.cluster.get()
            && !cluster.carrier.catch_up(chain.group).await
        {
            // Others may have it. A node that was started again does not know at first that it has it itself.
            return Ok(());
        }
        if !lags() && self.quant(chain, quant).await?.hash() == hash {
            return Ok(());
        }
        let found = Rollback { quant, hash, size: Size::new(checkpoint.size()), accepted: false };
        self.take_rollback(chain, Some(found)).await;
        chain.check_sound()
    }

    /// Takes up that a newer quant of a chain was signed, or that the operator accepts what is known of that.
    async fn take_rollback(&self, chain: &ChainHandle, found: Option<Rollback>) {
        let accepted = self.0.accept_rollback.iter().any(|name| name == "*" || name == chain.name.as_str());
        // From now on it holds, even where it cannot be recorded: the next start may find it again.
        let Some(rollback) = chain.add_rollback(found, accepted) else { return };
        match rollback.accepted {
            true => {
                tracing::warn!(chain = %chain.name, "a rollback is accepted, and the chain takes writes: {rollback}")
            }
            false => tracing::error!(chain = %chain.name, "the chain takes no writes: {rollback}"),
        }
        if let Err(error) = self.submit(self.0.own_group, Own::SetRollback(chain.id, rollback)).await {
            tracing::warn!(chain = %chain.name, "that newer quants were signed is not recorded: {error}");
        }
    }

    /// The newest quant of a chain as a checkpoint, with the cosignatures that it has by now.
    pub fn checkpoint(&self, chain: &ChainHandle) -> Note {
        self.checkpoint_of(chain, &chain.head().newest)
    }

    /// A quant of a chain as a checkpoint, with the cosignatures that the node has of it.
    pub fn checkpoint_of(&self, chain: &ChainHandle, quant: &Quant) -> Note {
        self.with_cosignatures(chain, quant.index(), &Checkpoint::new(chain.id, quant).to_string())
    }

    /// The newest checkpoint of a chain that this many witnesses have cosigned since the node's start.
    pub fn cosigned(&self, chain: &ChainHandle, witnesses: usize) -> Option<Note> {
        let newest = |cosigned: &Cosigned| cosigned.newest(witnesses).map(|(quant, text)| (quant, text.to_owned()));
        let cosignatures = chain.remembered::<Cosignatures>();
        let (quant, text) = newest(&cosignatures.0.read().expect("no holder of this lock panics"))?;
        Some(self.with_cosignatures(chain, quant, &text))
    }

    fn with_cosignatures(&self, chain: &ChainHandle, quant: Height, text: &str) -> Note {
        let key = (chain.number().0, quant, self.0.cluster.get().is_some());
        let signed = self.0.notes.get(&key).unwrap_or_else(|| {
            let note = Arc::new(self.sign_text(chain, text));
            self.0.notes.insert(key, note.clone());
            note
        });
        let mut note = Note::clone(&signed);
        let cosignatures = chain.remembered::<Cosignatures>();
        let cosigned = cosignatures.0.read().expect("no holder of this lock panics");
        cosigned.of(text).iter().for_each(|cosignature| note.add(cosignature.clone()));
        note
    }

    /// Adds a witness's cosignature, which must hold, of the checkpoint of a quant, which has this text.
    pub fn add_cosignature(&self, chain: &ChainHandle, quant: Height, text: &str, cosignature: Signature) {
        let cosignatures = chain.remembered::<Cosignatures>();
        cosignatures.0.write().expect("no holder of this lock panics").add(quant, text, cosignature);
    }

    /// The key that checks the cosignatures of this node, where it is a witness.
    pub fn witness_key(&self) -> Option<VerifierKey> {
        let key = self.0.witness.as_ref()?.key.verifying_key();
        Some(VerifierKey::new(KeyName::of_witness(&key), Algorithm::Cosignature, key))
    }

    /// Cosigns a checkpoint of another's log (`add-checkpoint` of C2SP tlog-witness), and gives the signature's line. It is
    /// on disk before. No cosignature has an earlier time than one before it, whatever the clock shows.
    ///
    /// # Errors
    /// Why it does not. What proves that the log has signed two histories is kept.
    pub async fn add_checkpoint(&self, body: &[u8]) -> Result<String, NotCosigned> {
        let cosigned = self.cosign(body).await;
        self.metrics().count_cosigning(cosigned.is_ok());
        cosigned
    }

    async fn cosign(&self, body: &[u8]) -> Result<String, NotCosigned> {
        let submission = witness::Submission::parse(body)?;
        // Whoever has kept a checkpoint of this node's own may know more than an old copy of its folder.
        if let Some(chain) = submission.origin().strip_prefix("qbc/").and_then(|id| self.chain(id)) {
            self.compare(&chain, submission.note()).await?;
        }
        let unknown = || Refusal::UnknownLog(submission.origin().into());
        let witness = self.0.witness.as_ref().ok_or_else(unknown)?;
        let Witness { key, trusted, .. } = witness;
        loop {
            let before = self.witnessed(hash::origin(submission.origin()));
            let clock = self.0.clock.plausible().map_err(NotCosigned::Clock)?;
            let now = witness.newest().map_or(clock, |newest| clock.max(newest));
            let (mut note, newest) = match submission.judge(trusted, before.as_deref(), now) {
                Ok(judged) => judged,
                Err(rejected) => {
                    let Rejected { refusal, evidence } = *rejected;
                    if let Some(evidence) = evidence {
                        self.accuse(submission.origin(), evidence).await?;
                    }
                    return Err(refusal.into());
                }
            };
            if !witness.begin_at(now) {
                continue;
            }
            note.cosign(KeyName::of_witness(&key.verifying_key()), key, now.seconds());
            let line = format!("{}\n", note.signatures().last().expect("it was just cosigned"));
            let newest = Witnessed { checkpoint: note.to_string(), ..newest };
            let previous = before.map(|before| (before.size, before.root));
            match self.submit(self.0.own_group, Own::Cosign { previous, newest }).await {
                Ok(_) => return Ok(line),
                // It is judged anew by what came in between.
                Err(Refused::Overtaken) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    async fn accuse(&self, origin: &str, evidence: Evidence) -> Result<(), Refused> {
        let proven = evidence.proven;
        match self.submit(self.0.own_group, Own::Accuse { origin: origin.into(), evidence }).await? {
            Outcome::Accused(true) if proven => {
                tracing::error!(origin, "the log has signed two histories: GET /witness has both as evidence");
            }
            Outcome::Accused(true) => {
                tracing::warn!(origin, "a signed checkpoint came without a proof: GET /witness has it");
            }
            _ => {}
        }
        Ok(())
    }

    /// What this node has cosigned of a log, which the hash of its name stands for.
    pub fn witnessed(&self, log: Hash) -> Option<Arc<Witnessed>> {
        self.0.published.witnessed(log)
    }

    /// What this node has cosigned of at most `limit` logs, in the order of the hashes of their names, from behind `after`.
    pub fn all_witnessed(&self, after: Option<Hash>, limit: usize) -> Vec<(Hash, Arc<Witnessed>)> {
        self.0.published.all_witnessed(after, limit)
    }

    /// The first `width` hashes of a tile, one behind the other.
    ///
    /// # Errors
    /// The store is damaged.
    ///
    /// # Panics
    /// The chain does not have them.
    pub async fn tile(
        &self,
        chain: Arc<ChainHandle>,
        level: u8,
        number: u64,
        width: usize,
    ) -> Result<Bytes, StoreError> {
        let edge = chain.head().edge;
        assert!(merkle::has_tile(edge.size(), level, number, width), "a tile is read where there is one");
        if !merkle::has_tile(edge.size(), level, number, merkle::TILE_WIDTH) {
            return Ok(merkle::joined(&edge.partial(level)[..width]));
        }
        let tile = match self.0.tiles.get(&(chain.number().0, level, number)) {
            Some(tile) => tile,
            None => {
                let node = self.clone();
                self.read_store(move |store| node.complete_tile(store, &chain.lineage, level, number)).await?
            }
        };
        Ok(tile.bytes().slice(..width * size_of::<Hash>()))
    }

    /// A complete tile, from memory where it was read lately.
    fn complete_tile(&self, store: &Store, lineage: &Lineage, level: u8, number: u64) -> Result<KnownTile, StoreError> {
        let key = (lineage.number().0, level, number);
        if let Some(tile) = self.0.tiles.get(&key) {
            return Ok(tile);
        }
        let tile = KnownTile::from(store.tile(lineage, level, number)?);
        self.0.tiles.insert(key, tile.clone());
        Ok(tile)
    }

    /// The leaves of a range of transactions, each behind two bytes with its length, big-endian: an entry bundle of C2SP
    /// tlog-tiles.
    ///
    /// # Errors
    /// The store is damaged.
    pub async fn leaves(&self, chain: Arc<ChainHandle>, range: Range<Index>) -> Result<Vec<u8>, StoreError> {
        self.read_of(&chain.clone(), move |store| {
            let (mut bundle, mut next) = (Vec::new(), range.start);
            while next < range.end {
                let mut records = Vec::new();
                let end = store.records(&chain.lineage, next..range.end, b'\n', limits::CHUNK_BYTES, &mut records)?;
                for (index, record) in (next.get()..end.get()).zip(records.split(|&byte| byte == b'\n')) {
                    let leaf = Record::parse(record).map(|record| record.transaction.leaf());
                    let leaf = leaf.map_err(|detail| StoreError::Damaged(format!("transaction {index}: {detail}")))?;
                    let length = u16::try_from(leaf.len()).expect("a leaf is bounded by the length of an id");
                    bundle.extend_from_slice(&length.to_be_bytes());
                    bundle.extend_from_slice(&leaf);
                }
                next = end;
            }
            Ok(bundle)
        })
        .await
    }

    /// This moment, or the nearest that can be written.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// When what is accepted now is accepted: in a chain, time never goes back. The writer looks again, since others may come
    /// first.
    fn time_in(&self, chain: &ChainHandle) -> Timestamp {
        let (now, head) = (self.now(), chain.head());
        let is_ahead = is_ahead(head.time(), now);
        // It is told each time that it begins.
        if is_ahead != chain.remembered::<IsAhead>().0.swap(is_ahead, Ordering::Relaxed) && is_ahead {
            tracing::warn!("{}", ahead(&format!("the chain \"{}\"", chain.name), head.time()));
        }
        now.max(head.accepted)
    }

    /// Makes transactions of submissions for a chain: this moment, and a salt for each.
    pub fn record(&self, chain: &ChainHandle, submissions: Vec<Submission>) -> Vec<Transaction> {
        let time = self.time_in(chain);
        let record = |submission| Transaction::new(submission, None, time, rand::random());
        submissions.into_iter().map(record).collect()
    }

    /// What an operator should look at although all goes on: a clock that cannot be right, and chains whose newest time lies in
    /// the future, since the clock was ahead once.
    pub fn warnings(&self) -> Vec<String> {
        let now = self.now();
        let mut warnings: Vec<String> = self.0.clock.plausible().err().into_iter().collect();
        for (name, chain) in self.chains(None, usize::MAX) {
            let Ok(chain) = chain else { continue };
            let (time, healed) = (chain.head().time(), chain.healed());
            warnings.extend(is_ahead(time, now).then(|| ahead(&format!("the chain \"{name}\""), time)));
            warnings.extend((healed > 0).then(|| {
                format!(
                    "{healed} runs of transactions of the chain \"{name}\" were damaged on this node's disk since it was started, and \
                     were healed: look at the disk"
                )
            }));
        }
        let cosigned = self.0.witness.as_ref().and_then(Witness::newest);
        warnings
            .extend(cosigned.filter(|time| is_ahead(*time, now)).map(|time| ahead("what this witness cosigned", time)));
        warnings
    }

    /// The hosts of nodes that were known when the node stopped.
    ///
    /// # Errors
    /// The store is damaged.
    pub async fn nodes(&self) -> Result<Vec<String>, StoreError> {
        self.read_store(Store::nodes).await
    }
}

impl Inner {
    fn start_writer(&self, group: Group, core: Arc<Core>) -> Result<(), StoreError> {
        let (writer, requests) = Writer::new(core.clone());
        let started = std::thread::Builder::new().name(format!("writer {group}")).spawn(|| writer.run());
        let started = started.map_err(|error| StoreError::Failed(format!("cannot start a thread: {error}")))?;
        self.writers.lock().expect("no holder of this lock panics").push(started);
        let mut groups = self.groups.write().expect("no holder of this lock panics");
        groups.insert(group, GroupWriter { core, requests });
        Ok(())
    }

    fn open(config: &Config) -> Result<(Inner, Background), StoreError> {
        let store = Arc::new(Store::open(&config.data, rand::random(), config.progress.clone())?);
        let key = store.secret_key(KeyFile::Node, rand::random())?;
        let signers = store.signers(&key)?;
        let witness = match config.cosign.is_empty() {
            true => None,
            false => {
                let key = store.secret_key(KeyFile::Witness, rand::random())?;
                let newest = store.witnessed()?.iter().map(|log| log.cosigned).max();
                Some(Witness { key, trusted: config.cosign.clone(), newest: Mutex::new(newest) })
            }
        };
        let id = NodeId(key.verifying_key().to_bytes());
        let own_group = Group::of(id);
        store.found(own_group, id)?;
        let (published, touched, sealed) = Published::new(store.clone());
        let published = Arc::new(published);
        let mut groups = store.groups();
        groups.retain(|group| *group != Group::META);
        let cores = writer::open(&store, &published, &groups, config.pool_limit)?;
        let failed = |error: std::io::Error| StoreError::Failed(format!("cannot start a thread: {error}"));
        let miner = Miner::new(config.mining_threads).map_err(failed)?;
        let aside = Aside::new().map_err(failed)?;
        let (groups, writers) = (RwLock::default(), Mutex::default());
        let tiles = quick_cache::sync::Cache::new(limits::TILES_CACHED);
        let notes = quick_cache::sync::Cache::new(limits::NOTES_CACHED);
        let importing = Mutex::default();
        let (accept_rollback, clock) = (config.accept_rollback.clone(), config.clock.clone());
        let inner = Inner {
            store,
            published,
            own_group,
            groups,
            writers,
            cluster: OnceLock::new(),
            suspected: Mutex::default(),
            damage_found: Notify::new(),
            healing: tokio::sync::Mutex::default(),
            pool_limit: config.pool_limit,
            miner,
            aside,
            key,
            signers,
            witness,
            clock,
            tiles,
            notes,
            importing,
            recorded: tokio::sync::Mutex::default(),
            accept_rollback,
        };
        cores.into_iter().try_for_each(|(group, core)| inner.start_writer(group, core))?;
        Ok((inner, Background { touched, sealed }))
    }
}

/// Whether a time lies in the future, by more than clocks differ.
fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    time.micros() - now.micros() > limits::CLOCK_TOLERANCE.as_micros() as i64
}

/// That the newest time of something lies in the future.
fn ahead(what: &str, time: Timestamp) -> String {
    format!(
        "the newest time of {what}, {time}, lies in the future: the clock was ahead then, or is wrong now, and until it has \
         come there, what is new gets this time"
    )
}

impl Accepted {
    fn new(Placed { index, hash, timestamp, replayed }: Placed) -> Accepted {
        Accepted { index, id: None, hash, timestamp, replayed }
    }
}
