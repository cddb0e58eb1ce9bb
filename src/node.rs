//! A node: the handle that everyone clones, and what one can do with it.
//!
//! It is the one place that reads the clock and draws random numbers: both go into [`Command`](crate::writer::Command)s before they reach the
//! writer, which only moves a time on that would go back within its chain. Making hashes and JSON is the work of the caller's task, never of the writer.

mod aside;
mod figures;
mod heal;
mod import;
mod mirror;
mod prove;
mod read;
mod sign;
mod witness;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZero,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use ed25519_dalek::SigningKey;
use tokio::sync::{Notify, mpsc};

use crate::{
    clock::Clock,
    core::{
        chain::{Expected, LeapPolicy},
        count::{Height, Index},
        hash::Hash,
        merkle::KnownTile,
        note::Note,
        rules::{ChainName, Rules},
        succession::Succession,
        transaction::{Id, Timestamp, Transaction},
        witness::Trusted,
    },
    limits,
    metrics::Metrics,
    mine::Miner,
    store::{
        ChainNumber, LogRecord, Store,
        key::{KeyFile, Signers},
    },
    writer::{self, ChainHandle, Core, Envelope, Health, Placed, Published, Refused, Writer},
};

pub use crate::store::{Group, NodeId, Progress, StoreError};
use aside::Aside;
use witness::Witness;

pub use aside::{beside, is_large};
pub use figures::Figures;
pub use import::{Import, ImportError, Imported, State as ImportState, Unfinished};
pub use prove::Receipt;
pub use read::ChainReader;
pub use witness::NotCosigned;

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

/// A run of transactions from another node, or why there is none.
pub type FetchedRun = Pin<Box<dyn Future<Output = Result<LogRecord, String>> + Send>>;

/// What decides on the chains of a group.
#[derive(Clone)]
struct GroupWriter {
    core: Arc<Core>,
    requests: mpsc::Sender<Envelope>,
}

/// Whether a chain's newest time lay in the future when it was looked at last.
#[derive(Default)]
struct IsAhead(AtomicBool);

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
