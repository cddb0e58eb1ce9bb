//! The durable store: the [`log`], in which everything is kept once, and the index over it, which says where.
//!
//! A data folder has
//!
//! | name | what |
//! | --- | --- |
//! | `log/` | all that was accepted: transactions, quants, chains, and what is the node's own |
//! | `index/` | where it stands. It can be removed while the node is stopped: the next start makes it anew |
//! | `node.key`, `witness.key` | the node's secret keys |
//! | `cluster.secret`, `mirror.tokens` | the secret of its cluster; what sources of mirrors are shown |
//! | `format`, `lock` | the form of the folder; held by the one process that uses it |
//! | `index.opening` | left where the process ended while it opened the index, which is made anew then |
//!
//! # What is promised
//! [`Store::commit`] returns after one batch is synced in the log. Then it is in the index too, and readers see it; they ask only
//! for what a published head has. What is read from the log is checked, so a wrong index shows.
//!
//! # How damage is mended
//! What is read is checked, so a flipped bit shows. A run of transactions that does not hold is [mended](Store::mend) with what another
//! node has of it: the checksums of the log prove that it is what was written here, the hashes of the leaves that the data belongs to
//! them, and it is written in the same place.
//!
//! # How transactions are erased
//! The batch that records an erasure announces it in the log, too. When that is durable, [`Store::erase`] overwrites the data and
//! the salt in the one place where they stand. Where that is interrupted, the next opening completes it.
//!
//! # How it is backed up
//! [`Store::back_up`] copies what is new in the folder of a running node into another, and opening that one erases there what was erased here.

mod backup;
mod effects;
mod entry;
mod folder;
mod follow;
mod groups;
mod imports;
mod index;
mod journal;
pub mod key;
mod lineage;
mod mend;
mod replay;
mod runs;

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

pub use crate::log::Place;
pub use backup::{Copied, is_secret, look_at};
#[cfg(test)]
pub(crate) use effects::read_all;
pub use effects::{Effect, ForkPoint};
use effects::{Entry as EffectEntry, OwnEntry};
pub use entry::{Entry, EntryId, Group, LogRecord, Membership, NodeId, Said, Vote};
use entry::{EntryHead, GroupRecord};
pub use folder::write_secret;
use folder::{check_format, lock, write_whole};
pub use follow::{Followed, FollowedRun, FollowedTransaction};
use groups::Groups;
pub use groups::{CHAIN_PLACE, ClusterChange, GroupState, Known};
pub use imports::{ImportRecord, Removed};
pub use index::QUIET;
use index::{Index, Rows, RunRow, Space, decode_number, decode_quant, from_json, key, key_and, malformed, unreadable};
use journal::Journal;
use key::KeyFile;
pub use lineage::{BangPlace, ChainNumber, ChainRecord, Decided, Lineage, Parent, Rollback};
pub use mend::{DamagedRun, Looked};
use replay::{Replay, Replayed};
pub use runs::Erasure;
pub use runs::Run;
use runs::StoredRun;

use crate::{
    core::{
        count::{self, Height, Size},
        hash::{self, Hash},
        merkle::Tile,
        mirror::Mirror,
        quant::Quant,
        rules::ChainName,
        transaction::{Erased, Id, Transaction},
        witness::Witnessed,
    },
    limits,
    log::{self, Log, LogError, Mark, Placed, Reader, make_folder},
    metrics::{Metrics, observe_since},
};

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. Nothing of the batch counts.
    #[error("the disk of the data folder is full")]
    Full,
    /// A write failed, so nobody knows what is on disk.
    #[error("the store failed: {0}")]
    Failed(String),
    /// What is on disk is not what was written.
    #[error("the data folder is damaged: {0}")]
    Damaged(String),
    /// The folder cannot be used.
    #[error("{0}")]
    Folder(String),
}

impl StoreError {
    fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
            _ => StoreError::Failed(error.to_string()),
        }
    }
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Full => StoreError::Full,
            LogError::Failed(detail) => StoreError::Failed(detail),
            damaged => StoreError::Damaged(damaged.to_string()),
        }
    }
}

/// Is told how far bringing the index up to the log has come, where that takes long.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64, u64) + Send + Sync>);

impl Progress {
    /// Calls `told` with the number of the batch that was reached, and with that of the last.
    pub fn new(told: impl Fn(u64, u64) + Send + Sync + 'static) -> Progress {
        Progress(Arc::new(told))
    }

    fn tell(&self, batch: u64, last: u64) {
        (self.0)(batch, last);
    }
}

impl Default for Progress {
    /// Tells nobody.
    fn default() -> Self {
        Progress::new(|_, _| ())
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// A file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// All that it has.
    pub size: u64,
    /// What is taken, by whomever.
    pub used: u64,
    /// What this program may take.
    pub free: u64,
    /// Where less than this is free, no more writes are taken.
    pub reserve: u64,
}

/// Changes that become durable together or not at all.
///
/// It is filled effect by effect, each with what is derived from it for the index: so what it logs is the effects in their order,
/// and consecutive transactions of a chain share a run.
#[derive(Default)]
pub struct Batch {
    logged: Vec<Logged>,
    /// By chain, the one of `logged` whose run its next transaction belongs to.
    open: HashMap<ChainNumber, usize>,
    /// What is the node's own.
    own: Vec<OwnEntry>,
    /// Of each record of an entry that is in the log, the run that it has.
    runs: Vec<Option<RunInLog>>,
    /// Transactions whose payloads are to be erased.
    erased: Vec<(ChainNumber, count::Index)>,
    /// Payloads that are erased with the whole chain that they are of.
    purged: Vec<Place>,
    /// What only the index has.
    rows: Rows,
    /// Chains that get their numbers.
    named: Vec<(ChainNumber, Hash)>,
}

/// A record of the log in the making.
struct Logged {
    /// The plain bytes before the run, or all of them.
    plain: Vec<u8>,
    run: Option<(ChainNumber, Run)>,
}

/// A run of a record that has its place in the log, or will have.
struct RunInLog {
    chain: ChainNumber,
    first: count::Index,
    bytes_before: u64,
    count: u32,
}

impl RunInLog {
    fn row(&self, place: Place) -> RunRow {
        RunRow { first: self.first, place, bytes_before: self.bytes_before, count: self.count }
    }
}

impl Batch {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.logged.is_empty() && self.own.is_empty() && self.purged.is_empty() && self.rows.is_empty()
    }

    /// Whether there is no effect in it.
    pub fn has_no_effect(&self) -> bool {
        self.logged.is_empty()
    }

    /// Takes the effects as the records of an entry. What is left is [applied](Store::apply) when that is agreed.
    pub fn take_records(&mut self) -> Vec<LogRecord> {
        let (mut records, runs) = (Vec::with_capacity(self.logged.len()), &mut self.runs);
        for Logged { plain, run } in self.logged.drain(..) {
            match run {
                None => {
                    records.push(LogRecord::plain(plain));
                    runs.push(None);
                }
                Some((chain, run)) => {
                    let (first, bytes_before, count) = (run.first(), run.bytes_before(), run.count());
                    runs.push(Some(RunInLog { chain, first, bytes_before, count }));
                    records.push(run.into_record(plain));
                }
            }
        }
        records
    }

    /// Takes what is the node's own, to be committed by itself.
    pub fn take_own(&mut self) -> Batch {
        Batch { own: std::mem::take(&mut self.own), purged: std::mem::take(&mut self.purged), ..Batch::default() }
    }

    fn log(&mut self, entry: &EffectEntry) {
        self.logged.push(Logged { plain: entry.encode(), run: None });
    }

    /// An effect with one transaction.
    fn log_with(&mut self, entry: &EffectEntry, chain: ChainNumber, mut run: Run, transaction: &Transaction) -> u64 {
        let bytes = run.push(transaction);
        self.logged.push(Logged { plain: entry.encode(), run: Some((chain, run)) });
        self.open.remove(&chain);
        bytes
    }

    /// [`Effect::Bang`], for a chain behind so many bytes of its parent's transactions. Gives those of its own.
    pub fn bang(
        &mut self,
        record: &ChainRecord,
        parent: Option<ForkPoint>,
        shared_bytes: u64,
        bang: &Transaction,
        quant: &Quant,
    ) -> u64 {
        let shared = parent.map_or(Size::ZERO, |parent| parent.size);
        self.named.push((record.number, record.id));
        self.rows.chain(record);
        self.rows.quant(record.number, quant, shared, quant.size());
        let (name, leap, first) = (record.name.clone(), record.leap, quant.clone().into());
        let entry = EffectEntry::Bang { name, parent, leap, quant: first };
        self.log_with(&entry, record.number, Run::new(record.id, shared.next_index(), shared_bytes), bang)
    }

    /// One transaction of [`Effect::Inject`], behind so many bytes of its chain's. Gives its own.
    pub fn transaction(
        &mut self,
        (number, chain): (ChainNumber, Hash),
        index: count::Index,
        bytes_before: u64,
        transaction: &Transaction,
    ) -> u64 {
        let logged = &mut self.logged;
        let new = |logged: &mut Vec<Logged>| {
            logged.push(Logged { plain: Vec::new(), run: Some((number, Run::new(chain, index, bytes_before))) });
            logged.len() - 1
        };
        let at = self.open.entry(number).or_insert_with(|| new(logged));
        let is_full =
            |logged: &Logged| matches!(&logged.run, Some((_, run)) if run.is_full_for(transaction.served_bytes()));
        if is_full(&logged[*at]) {
            *at = new(logged);
        }
        let (_, run) = logged[*at].run.as_mut().expect("what is open has a run");
        if let Some(id) = transaction.id() {
            self.rows.id(number, id, index);
        }
        run.push(transaction)
    }

    /// [`Effect::Seal`] of a chain that has `size` transactions, behind a quant of `previous_size`.
    pub fn seal(&mut self, (number, chain): (ChainNumber, Hash), quant: &Quant, previous_size: Size, size: Size) {
        self.rows.quant(number, quant, previous_size, size);
        self.log(&EffectEntry::Seal { chain, quant: quant.clone().into() });
        self.open.remove(&number);
    }

    /// [`Effect::Erase`]: the transaction must be in the log already, and `record` is the newest of the chain, behind so many bytes.
    /// Gives its own. The payload is to be [erased](Store::erase) then.
    pub fn erase(
        &mut self,
        chain: &ChainRecord,
        index: count::Index,
        commitment: Hash,
        (record, by, bytes_before): (&Transaction, count::Index, u64),
    ) -> u64 {
        let erased = Erased { timestamp: record.timestamp(), by };
        self.rows.chain(chain);
        self.rows.erased(chain.number, index, &Erasure { erased, commitment });
        self.erased.push((chain.number, index));
        let entry = EffectEntry::Erase { chain: chain.id, index, commitment };
        self.log_with(&entry, chain.number, Run::new(chain.id, by, bytes_before), record)
    }

    /// [`Effect::Key`]: `record` is the newest transaction of the chain, behind so many bytes, and stands in what is decided of it. Gives
    /// its own bytes.
    pub fn key(
        &mut self,
        chain: &ChainRecord,
        (record, index, bytes_before): (&Transaction, count::Index, u64),
    ) -> u64 {
        self.rows.chain(chain);
        let entry = EffectEntry::Key { chain: chain.id };
        self.log_with(&entry, chain.number, Run::new(chain.id, index, bytes_before), record)
    }

    /// [`Effect::Freeze`]: as [`Batch::key`].
    pub fn freeze(
        &mut self,
        chain: &ChainRecord,
        (record, index, bytes_before): (&Transaction, count::Index, u64),
    ) -> u64 {
        self.rows.chain(chain);
        let entry = EffectEntry::Freeze { chain: chain.id };
        self.log_with(&entry, chain.number, Run::new(chain.id, index, bytes_before), record)
    }

    /// [`Effect::SetLeap`]; the record has the new policy.
    pub fn set_leap(&mut self, record: &ChainRecord) {
        self.rows.chain(record);
        self.log(&EffectEntry::SetLeap { chain: record.id, leap: record.leap });
    }

    /// [`Effect::SetMirror`]; the record says of which.
    pub fn set_mirror(&mut self, record: &ChainRecord, from: &str) {
        self.rows.chain(record);
        self.log(&EffectEntry::SetMirror { chain: record.id, from: from.into() });
    }

    /// A complete Merkle tile.
    pub fn tile(&mut self, chain: ChainNumber, tile: &Tile) {
        self.rows.tile(chain, tile);
    }

    /// The hosts of known nodes.
    pub fn nodes(&mut self, hosts: &[String]) {
        self.own("nodes".into(), Some(serde_json::to_string(hosts).expect("a list of texts is JSON")));
    }

    /// That newer quants of a chain were signed.
    pub fn rollback(&mut self, chain: Hash, rollback: &Rollback) {
        self.own(rollback_name(chain), Some(serde_json::to_string(rollback).expect("it is JSON")));
    }

    /// What this node has cosigned of a log.
    pub fn witnessed(&mut self, log: &Witnessed) {
        let name = format!("{WITNESSED}{}", hash::origin(&log.origin));
        self.own(name, Some(serde_json::to_string(log).expect("it is JSON")));
    }

    /// A chain of others that this node follows.
    pub fn mirror(&mut self, mirror: &Mirror) {
        self.own(format!("{MIRROR}{}", mirror.id), Some(serde_json::to_string(mirror).expect("it is JSON")));
    }

    /// A chain of others is not followed any more.
    pub fn end_mirror(&mut self, id: Hash) {
        self.own(format!("{MIRROR}{id}"), None);
    }

    /// Something of the node's own.
    fn own(&mut self, name: String, value: Option<String>) {
        self.own.push(OwnEntry { name, value });
    }
}

/// Before the hash of a log's name, the name of what was cosigned of it.
const WITNESSED: &str = "witnessed ";

/// Before the id of a chain that is followed, the name of what is known of that.
const MIRROR: &str = "mirror ";

fn rollback_name(chain: Hash) -> String {
    format!("rollback {chain}")
}

fn key_name(file: KeyFile) -> String {
    format!("key {}", file.role())
}

fn missing(transaction: count::Index) -> StoreError {
    StoreError::Damaged(format!("transaction {transaction} is missing"))
}

/// The folder of the log in a data folder.
const LOG: &str = "log";
/// The folder of the index in a data folder.
const INDEX: &str = "index";

/// The data folder of one node, open and locked.
pub struct Store {
    folder: PathBuf,
    log: Mutex<Log>,
    reader: Reader,
    /// Empty only while it is opened anew, or where that failed.
    index: RwLock<Option<Index>>,
    /// Whether the index lacks something that the log has, since it could not be written.
    is_behind: AtomicBool,
    /// Whether something that was to be erased may be there still.
    hides_erased: AtomicBool,
    progress: Progress,
    /// The ids of the chains by which the log names them. Taken after `index`, which is taken after `log`.
    ids: RwLock<HashMap<ChainNumber, Hash>>,
    /// The groups on this node. Taken after `log`.
    groups: Mutex<Groups>,
    /// What the cluster knows, by name.
    cluster: RwLock<Known>,
    journal: Journal,
    /// The number of the next chain.
    next_chain: AtomicU64,
    /// This node, once it has a key.
    node: OnceLock<NodeId>,
    /// When the file system had room enough.
    had_room: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
    /// The number of the newest batch of the log, and of the one up to which the index has all.
    newest_batch: AtomicU64,
    indexed_batch: AtomicU64,
    _lock: File,
}

impl Store {
    /// Opens a data folder, or makes it where there is none or an empty one. What the index lacks is read from the log; one that
    /// does not fit the log, or cannot be read, is made anew. `seed` is for a new log, and must be random.
    ///
    /// # Errors
    /// Another process uses it, it is no data folder, it is of another form, or the log is damaged or has lost what was
    /// acknowledged. Of a damaged log nothing is changed.
    pub fn open(folder: &Path, seed: u64, progress: Progress) -> Result<Store, StoreError> {
        let folder_error =
            |error: io::Error| StoreError::Folder(format!("cannot use the data folder {}: {error}", folder.display()));
        make_folder(folder).map_err(folder_error)?;
        let lock = lock(folder)?;
        check_format(folder)?;
        let (log_folder, index_folder) = (folder.join(LOG), folder.join(INDEX));
        let mut index = Index::open_or_make(&index_folder)?;
        let node = key::read(folder, KeyFile::Node)?.map(|key| NodeId(key.verifying_key().to_bytes()));
        let opened = match open_log(&index, &log_folder, seed, node, &progress) {
            Err(fault) if fault.may_be_of_index() => {
                tracing::warn!("the index does not fit the log, or is damaged: {}", StoreError::from(fault));
                index = index.make_anew(&index_folder)?;
                open_log(&index, &log_folder, seed, node, &progress)
            }
            opened => opened,
        };
        let (log, reader, Replayed { ids, groups, cluster }) = opened?;
        // Who has another key is another node: nothing of its groups would be agreed.
        if let Some(node) = node
            && let Some(recorded) = index.own_text(&key_name(KeyFile::Node))?
            && recorded != format!("\"{node}\"")
        {
            return Err(StoreError::Damaged(format!(
                "{} is not the key that this folder was made with",
                KeyFile::Node
            )));
        }
        let next_chain = ids.keys().map(|number| number.0 + 1).max().unwrap_or(0).into();
        let newest_batch = log.newest().number;
        let indexed_batch = index.mark()?.number;
        Ok(Store {
            folder: folder.into(),
            log: Mutex::new(log),
            reader,
            index: RwLock::new(Some(index)),
            is_behind: false.into(),
            hides_erased: false.into(),
            progress,
            ids: RwLock::new(ids),
            groups: Mutex::new(groups),
            cluster: RwLock::new(cluster),
            journal: Journal::default(),
            next_chain,
            node: node.map(OnceLock::from).unwrap_or_default(),
            had_room: Mutex::default(),
            metrics: Arc::default(),
            newest_batch: newest_batch.into(),
            indexed_batch: indexed_batch.into(),
            _lock: lock,
        })
    }

    /// Recomputes every checksum of the log. The folder must be at rest; nothing in it is changed, but that what an interrupted
    /// backup has left is taken away.
    ///
    /// # Errors
    /// The first place that is not as it was written, or the folder is in use.
    pub fn check_files(folder: &Path) -> Result<(), StoreError> {
        let _lock = lock(folder)?;
        check_format(folder)?;
        log::undo_copy(&folder.join(LOG))?;
        log::check(&folder.join(LOG), |_| Ok(()))
    }

    fn index(&self) -> Result<IndexGuard<'_>, StoreError> {
        let guard = self.index.read().expect("no holder of this lock panics");
        if guard.is_some() {
            Ok(IndexGuard(guard))
        } else {
            Err(StoreError::Failed("the index could not be opened again".into()))
        }
    }

    /// Makes a batch durable as an entry of a group in which this node is alone: when this returns, it is synced, and readers see
    /// it. Nothing is written where there is nothing in it. It gives the places of what it erases, for [`Store::erase`] before it is answered.
    ///
    /// # Errors
    /// [`StoreError::Full`]: nothing was written; call [`Store::recover`] before the next commit. Any other: nobody knows what is on
    /// disk, and the next commit fails too.
    pub fn commit(&self, group: Group, mut batch: Batch) -> Result<Vec<Place>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut log = self.log.lock().expect("no holder of this lock panics");
        let index = self.index()?;
        let records = batch.take_records();
        let doomed = self.begin(&index, &mut batch)?;
        let Batch { own, runs, mut rows, .. } = batch;
        let mut logged = log.batch();
        for entry in &own {
            logged.push(&entry.encode(), []);
            rows.own(&entry.name, entry.value.as_deref());
        }
        let id = (!records.is_empty()).then(|| self.next_entry(group)).transpose()?;
        let head = id.map(|id| {
            let head = EntryHead::effects(group, id, records.len() as u32);
            logged.push(&GroupRecord::Entry(head).encode(), [])
        });
        let slots: Vec<_> = records.iter().map(|record| record.log(&mut logged).0).collect();
        drop(records);
        doomed.iter().for_each(|place| logged.erase(*place));
        let placed = log.place(logged)?;
        for (run, slot) in runs.iter().zip(&slots) {
            if let Some(run) = run {
                rows.run(run.chain, &run.row(placed.place(*slot)));
            }
        }
        if let (Some(id), Some(head), Some(last)) = (id, head, slots.last()) {
            rows.entry(group, id, placed.place(head.to(*last)));
        }
        let mark = self.write(placed)?;
        // Until it has erased what it announced, a start must find that it did not: the mark comes with the next batch.
        {
            let mut groups = self.groups.lock().expect("no holder of this lock panics");
            if let Some(id) = id {
                let of = groups.by_id.entry(group).or_default();
                (of.applied, of.committed) = (Some(id), Some(id));
            }
            if !doomed.is_empty() {
                groups.erasing += 1;
            } else if groups.erasing == 0 {
                groups.newest = Some(mark);
            }
            // While the lock is held: a mark of another group must not come before what it says to be there.
            let settled = groups.settled().filter(|_| doomed.is_empty());
            self.write_index(&index, rows, settled);
        }
        drop(index);
        if doomed.is_empty() {
            self.try_catch_up(&log);
        }
        Ok(doomed)
    }

    /// The next entry of a group in which this node is alone.
    fn next_entry(&self, group: Group) -> Result<EntryId, StoreError> {
        let groups = self.groups.lock().expect("no holder of this lock panics");
        let of =
            groups.by_id.get(&group).ok_or_else(|| StoreError::Failed(format!("there is no group {group} here")))?;
        let vote = of.vote.filter(|vote| vote.committed);
        let vote = vote.ok_or_else(|| StoreError::Failed(format!("nobody leads the group {group}")))?;
        Ok(EntryId { term: vote.term, leader: vote.node, index: of.next() })
    }

    /// Names the chains that a batch makes, and finds what it erases.
    fn begin(&self, index: &Index, batch: &mut Batch) -> Result<Vec<Place>, StoreError> {
        if !batch.named.is_empty() {
            self.ids.write().expect("no holder of this lock panics").extend(batch.named.drain(..));
        }
        let mut doomed = std::mem::take(&mut batch.purged);
        for (chain, at) in batch.erased.drain(..) {
            let row = self.run_row(index, chain, at)?;
            let run = self.run(chain, &row)?;
            doomed.push(run.payload_place(row.place, run.place_of(at)).ok_or_else(|| missing(at))?);
        }
        // What came without its data has nothing to erase.
        doomed.retain(|place| place.length > 0);
        Ok(doomed)
    }

    /// While the index lacks something, nothing is added: no mark may say that it is there.
    fn write_index(&self, index: &Index, rows: Rows, mark: Option<Mark>) {
        if self.is_behind() {
            return;
        }
        match index.write(rows, mark.filter(|mark| *mark != Mark::START)) {
            Ok(()) => self.tell_indexed(mark),
            Err(error) => {
                // It is in the log, so it counts.
                tracing::error!("the index cannot be written: {error}");
                self.is_behind.store(true, Ordering::Relaxed);
            }
        }
    }

    fn tell_indexed(&self, mark: Option<Mark>) {
        if let Some(mark) = mark {
            self.indexed_batch.fetch_max(mark.number, Ordering::Relaxed);
        }
    }

    /// Makes a batch of the log durable.
    fn write(&self, placed: Placed) -> Result<Mark, LogError> {
        let (since, mark) = (Instant::now(), placed.mark());
        self.metrics.log_batch_bytes.observe(f64::from(mark.end - mark.start));
        let written = placed.write();
        observe_since(&self.metrics.log_sync_seconds, since);
        self.newest_batch.fetch_max(mark.number, Ordering::Relaxed);
        written
    }

    /// What the store and all above it count.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Batches that the log has behind those of which the index has all: few at any time, unless it [is behind](Store::is_behind) or
    /// waits for agreement.
    pub fn index_lag(&self) -> u64 {
        let indexed = self.indexed_batch.load(Ordering::Relaxed);
        self.newest_batch.load(Ordering::Relaxed).saturating_sub(indexed)
    }

    /// The number of a new chain: each is given once.
    pub fn new_chain_number(&self) -> ChainNumber {
        ChainNumber(self.next_chain.fetch_add(1, Ordering::Relaxed))
    }

    /// Overwrites what a durable batch has announced to erase. When this returns, it is gone.
    ///
    /// # Errors
    /// It may be there still. The next start erases it.
    pub fn erase(&self, doomed: Vec<Place>) -> Result<(), StoreError> {
        if doomed.is_empty() {
            return Ok(());
        }
        let log = self.log.lock().expect("no holder of this lock panics");
        if let Err(error) = log.erase(&doomed) {
            // It is recorded, so nobody gets it from now on. The next start erases it.
            self.hides_erased.store(true, Ordering::Relaxed);
            return Err(error.into());
        }
        {
            let mut groups = self.groups.lock().expect("no holder of this lock panics");
            groups.erasing -= 1;
            if groups.erasing == 0 {
                groups.newest = Some(log.newest());
            }
        }
        self.try_catch_up(&log);
        Ok(())
    }

    /// Whether a write to the log has failed: then none succeeds before the node is started again.
    pub fn log_has_failed(&self) -> bool {
        self.log.lock().expect("no holder of this lock panics").has_failed()
    }

    /// Whether the file system has room enough to go on writing, or had a moment ago.
    pub fn has_room(&self) -> bool {
        let mut had_room = self.had_room.lock().expect("no holder of this lock panics");
        if had_room.is_some_and(|at| at.elapsed() < limits::ROOM_PAUSE) {
            return true;
        }
        let has_room = self.disk().is_ok_and(|disk| disk.free >= disk.reserve);
        *had_room = has_room.then(Instant::now);
        has_room
    }

    /// How the file system of the data folder stands.
    ///
    /// # Errors
    /// It does not say.
    pub fn disk(&self) -> io::Result<Disk> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        let [size, left, free] = [stat.f_blocks, stat.f_bfree, stat.f_bavail].map(|blocks| blocks * stat.f_frsize);
        Ok(Disk { size, used: size.saturating_sub(left), free, reserve: limits::FREE_BYTES.min(size / 16) })
    }

    /// Whether the index lacks something that the log has: then [`Store::recover`] must come before the next commit.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Makes the store ready to go on after a full disk, or when the index could not be written. Readers wait.
    ///
    /// # Errors
    /// [`StoreError::Full`] while there is still no room; otherwise as [`Store::open`].
    pub fn recover(&self) -> Result<(), StoreError> {
        if !self.has_room() {
            return Err(StoreError::Full);
        }
        if !self.is_behind() {
            return Ok(());
        }
        let log = self.log.lock().expect("no holder of this lock panics");
        match self.is_erasing() {
            // Another group is about to: it takes no longer than a write.
            true => Err(StoreError::Full),
            false => self.catch_up(&log),
        }
    }

    fn is_erasing(&self) -> bool {
        self.groups.lock().expect("no holder of this lock panics").erasing > 0
    }

    /// Readers of what was just committed would miss it in an index that lacks it, so that is mended at once where it can be.
    fn try_catch_up(&self, log: &Log) {
        if self.is_behind()
            && self.has_room()
            && !self.is_erasing()
            && let Err(error) = self.catch_up(log)
        {
            tracing::error!("the index cannot be brought up to the log: {error}");
        }
    }

    /// Opens the index anew, and puts into it what the log has. All that was announced must be erased.
    fn catch_up(&self, _log: &Log) -> Result<(), StoreError> {
        let mut guard = self.index.write().expect("no holder of this lock panics");
        // The old one must be closed before its folder can be opened again.
        *guard = None;
        let (log_folder, index_folder) = (self.folder.join(LOG), self.folder.join(INDEX));
        let mut index = Index::open(&index_folder)?;
        if let Err(StoreError::Damaged(_)) = index.mark() {
            index = index.make_anew(&index_folder)?;
        }
        let mut ids = self.ids.write().expect("no holder of this lock panics");
        // The writer and the handles of chains go on with the numbers that they have.
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        let mut replay = Replay::new(&index, &log_folder, &ids, self.node.get().copied(), &self.progress)?;
        // What was applied is agreed, whether or not the log says so already.
        replay.know_applied(&groups);
        let newest = log::read(&log_folder, index.mark()?, |found| replay.take(found))?;
        *ids = replay.finish(newest)?.ids;
        groups.newest = Some(newest);
        self.tell_indexed(Some(newest));
        *guard = Some(index);
        self.is_behind.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the index anew from the log: it is asked for where a chain does not hold at opening, since that may be the index alone.
    /// The chains may have other numbers then.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn make_index_anew(&self) -> Result<(), StoreError> {
        let _log = self.log.lock().expect("no holder of this lock panics");
        let mut guard = self.index.write().expect("no holder of this lock panics");
        *guard = None;
        let log_folder = self.folder.join(LOG);
        let index = guard.insert(Index::make(&self.folder.join(INDEX))?);
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        let node = self.node.get().copied();
        let mut replay = Replay::new(index, &log_folder, &HashMap::new(), node, &self.progress)?;
        replay.know_applied(&groups);
        let newest = log::read(&log_folder, Mark::START, |found| replay.take(found))?;
        let replayed = replay.finish(newest)?;
        *self.ids.write().expect("no holder of this lock panics") = replayed.ids;
        *groups = replayed.groups;
        self.tell_indexed(Some(newest));
        Ok(())
    }

    /// All chains, by name.
    ///
    /// # Errors
    /// What is stored is damaged; so for every other read.
    pub fn chains(&self) -> Result<Vec<ChainRecord>, StoreError> {
        self.index()?.chains()
    }

    /// The size of a chain and the bytes of its transactions, as far as it wrote them itself.
    pub fn size_and_bytes(&self, chain: ChainNumber) -> Result<Option<(Size, u64)>, StoreError> {
        let index = self.index()?;
        let Some(row) = index.run_before(chain, Size::new(u64::MAX))? else { return Ok(None) };
        let run = self.run(chain, &row)?;
        Ok(Some((run.end(), run.bytes_before(run.count()))))
    }

    /// Bytes of a chain's first `size` transactions.
    pub fn bytes_at(&self, lineage: &Lineage, size: Size) -> Result<u64, StoreError> {
        let Some(last) = size.last() else { return Ok(0) };
        let chain = lineage.of_transaction(last);
        let run = self.run(chain, &self.run_row(&*self.index()?, chain, last)?)?;
        Ok(run.bytes_before(run.place_of(size.next_index())))
    }

    /// The newest quant that a chain wrote itself, and how many transactions the chain had when it was sealed.
    pub fn newest_quant(&self, chain: ChainNumber) -> Result<Option<(Quant, Size)>, StoreError> {
        self.index()?.newest_quant(chain)
    }

    /// Appends transactions as they are served to `out`, as many runs from the front of `range` as fit into `bytes` but at least
    /// one, with `separator` between the transactions, and gives the index of the first that was left out.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] also where a transaction of the range is missing.
    pub fn records(
        &self,
        lineage: &Lineage,
        range: Range<count::Index>,
        separator: u8,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<count::Index, StoreError> {
        let index = self.index()?;
        let mut next = range.start;
        let limit = out.len().saturating_add(bytes);
        while next < range.end {
            let chain = lineage.of_transaction(next);
            let end_of_part = lineage.end_of_part(next).next_index().min(range.end);
            let first = self.run_row(&index, chain, next)?.first;
            let rows = index.space(Space::Runs).range(key([chain.0, first.get()])..key([chain.0, end_of_part.get()]));
            for entry in rows {
                let (key, value) = entry.into_inner().map_err(unreadable)?;
                let row = RunRow::decode(&key, &value)?;
                if next < row.first || !row.end().has(next) {
                    return Err(missing(next));
                }
                if next > range.start {
                    if out.len() + row.place.length as usize > limit {
                        return Ok(next);
                    }
                    out.push(separator);
                }
                let run = self.run(chain, &row)?;
                let end = run.end().next_index().min(end_of_part);
                let part = run.place_of(next)..run.place_of(end);
                next = end;
                run.serve(
                    part,
                    separator,
                    self.hides_erased.load(Ordering::Relaxed),
                    |at| index.erasure(chain, at),
                    out,
                )?;
            }
            if next < end_of_part {
                return Err(missing(next));
            }
        }
        Ok(next)
    }

    /// Where the run stands that has a transaction.
    fn run_row(&self, index: &Index, chain: ChainNumber, transaction: count::Index) -> Result<RunRow, StoreError> {
        let row = index.run_before(chain, transaction.size())?;
        row.filter(|row| row.end().has(transaction)).ok_or_else(|| missing(transaction))
    }

    fn run(&self, chain: ChainNumber, row: &RunRow) -> Result<StoredRun, StoreError> {
        let id = self.ids.read().expect("no holder of this lock panics").get(&chain).copied();
        self.stored_run(chain, id.ok_or_else(|| malformed(&format!("chain number {}", chain.0)))?, row)
    }

    /// A run from the log, which must be the one that the index says.
    fn stored_run(&self, chain: ChainNumber, id: Hash, row: &RunRow) -> Result<StoredRun, StoreError> {
        let run = StoredRun::decode(self.reader.record(row.place)?)?;
        let is_it = run.chain == id && run.first == row.first && run.end() == row.end();
        let wrong = || malformed(&format!("where transaction {} of chain number {} stands", row.first, chain.0));
        if is_it { Ok(run) } else { Err(wrong()) }
    }

    /// One transaction as it is served.
    pub fn record(&self, lineage: &Lineage, index: count::Index) -> Result<Vec<u8>, StoreError> {
        self.own_record(lineage.of_transaction(index), index)
    }

    /// One quant; its hash and proof of work are checked.
    pub fn quant(&self, lineage: &Lineage, index: Height) -> Result<Quant, StoreError> {
        let chain = lineage.of_quant(index);
        let value = self.index()?.get(Space::Quants, &key_and(chain, &index.get().to_be_bytes()))?;
        let value = value.ok_or_else(|| StoreError::Damaged(format!("quant {index} is missing")))?;
        decode_quant(&value).map(|(quant, _)| quant)
    }

    /// The index of a chain's quant with this hash.
    pub fn quant_with_hash(&self, lineage: &Lineage, hash: Hash) -> Result<Option<Height>, StoreError> {
        let held = self.index()?;
        for chain in lineage.writers() {
            if let Some(index) = held.number(Space::Hashes, &key_and(chain, hash.as_bytes()))?.map(Height::new) {
                // A quant of an ancestor behind the fork is not of this chain.
                return Ok((lineage.of_quant(index) == chain).then_some(index));
            }
        }
        Ok(None)
    }

    /// The index of the quant that seals a transaction. The transaction must be sealed.
    pub fn quant_of(&self, lineage: &Lineage, transaction: count::Index) -> Result<Height, StoreError> {
        let chain = lineage.of_transaction(transaction);
        let held = self.index()?;
        let entry = held.space(Space::Sizes).range(key([chain.0, transaction.size().get()])..key([chain.0 + 1])).next();
        let value = entry.ok_or_else(|| StoreError::Damaged(format!("no quant seals transaction {transaction}")))?;
        decode_number(&value.value().map_err(unreadable)?).map(Height::new)
    }

    /// The index of the transaction that a client gave this id.
    pub fn transaction_with_id(&self, lineage: &Lineage, id: &Id) -> Result<Option<count::Index>, StoreError> {
        self.own_transaction_with_id(lineage, lineage.writers(), id)
    }

    /// The same of what the ancestors of a chain wrote.
    pub fn inherited_with_id(&self, lineage: &Lineage, id: &Id) -> Result<Option<count::Index>, StoreError> {
        self.own_transaction_with_id(lineage, lineage.ancestors(), id)
    }

    fn own_transaction_with_id(
        &self,
        lineage: &Lineage,
        mut writers: impl Iterator<Item = ChainNumber>,
        id: &Id,
    ) -> Result<Option<count::Index>, StoreError> {
        let held = self.index()?;
        let find = |chain: ChainNumber| {
            let found = held.number(Space::Ids, &key_and(chain, id.as_str().as_bytes()))?.map(count::Index::new);
            Ok(found.filter(|&index| lineage.of_transaction(index) == chain))
        };
        writers.find_map(|chain| find(chain).transpose()).transpose()
    }

    /// One transaction of a chain by its number, as it wrote it itself.
    pub fn own_record(&self, chain: ChainNumber, index: count::Index) -> Result<Vec<u8>, StoreError> {
        let held = self.index()?;
        let run = self.run(chain, &self.run_row(&held, chain, index)?)?;
        let (at, mut record) = (run.place_of(index), Vec::new());
        let hides = self.hides_erased.load(Ordering::Relaxed);
        run.serve(at..at + 1, b',', hides, |at| held.erasure(chain, at), &mut record)?;
        Ok(record)
    }

    /// A complete Merkle tile.
    pub fn tile(&self, lineage: &Lineage, level: u8, number: u64) -> Result<Vec<Hash>, StoreError> {
        self.index()?.tile(lineage.of_tile(level, number), level, number)
    }

    /// The hosts of known nodes.
    pub fn nodes(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.own("nodes", "the list of nodes")?.unwrap_or_default())
    }

    /// The newest quant of a chain that was signed and is not here, as far as it is known.
    pub fn rollback(&self, chain: Hash) -> Result<Option<Rollback>, StoreError> {
        self.own(&rollback_name(chain), "the record of a rollback")
    }

    /// What this node has cosigned of all logs.
    pub fn witnessed(&self) -> Result<Vec<Witnessed>, StoreError> {
        self.index()?.all_own(WITNESSED, "what was cosigned of a log")
    }

    /// The chains of others that this node follows, or did.
    pub fn mirrors(&self) -> Result<Vec<Mirror>, StoreError> {
        self.index()?.all_own(MIRROR, "what is known of a mirror")
    }

    /// Something of the node's own.
    fn own<T: serde::de::DeserializeOwned>(&self, name: &str, what: &str) -> Result<Option<T>, StoreError> {
        let value = self.index()?.get(Space::Own, name.as_bytes())?;
        value.map(|value| from_json(&value, what)).transpose()
    }

    /// A secret key of the node, made of `seed` where the folder has none yet. The file is readable by its owner alone.
    ///
    /// # Errors
    /// The file is missing though the folder has used it, or it is not the key that the folder has used.
    pub fn secret_key(&self, file: KeyFile, seed: [u8; 32]) -> Result<ed25519_dalek::SigningKey, StoreError> {
        let recorded: Option<String> = self.own(&key_name(file), "the public key of the node")?;
        let key = match key::read(&self.folder, file)? {
            Some(key) => key,
            None if recorded.is_none() => {
                let key = ed25519_dalek::SigningKey::from_bytes(&seed);
                key::write(&self.folder, file, &key)?;
                key
            }
            None => return Err(StoreError::Damaged(format!("the file {file} is missing"))),
        };
        key::warn_if_exposed(&self.folder, file);
        let public = hex::encode(key.verifying_key().to_bytes());
        match recorded {
            Some(recorded) if recorded != public => {
                Err(StoreError::Damaged(format!("{file} is not the key that this folder was made with")))
            }
            Some(_) => Ok(key),
            None => {
                let mut batch = Batch::default();
                batch.own(key_name(file), Some(format!("\"{public}\"")));
                self.commit(Group::META, batch).map(|_| key)
            }
        }
    }
}

/// Opens the log, and brings the index up to it. Gives the ids of the chains, too.
fn open_log(
    index: &Index,
    log: &Path,
    seed: u64,
    node: Option<NodeId>,
    progress: &Progress,
) -> Result<(Log, Reader, Replayed), replay::Fault> {
    let mut replay = Replay::new(index, log, &HashMap::new(), node, progress)?;
    let (log, reader) = Log::open(log, index.mark()?, seed, |found| replay.take(found))?;
    let replayed = replay.finish(log.newest())?;
    Ok((log, reader, replayed))
}

/// The index, held open for one read.
struct IndexGuard<'a>(RwLockReadGuard<'a, Option<Index>>);

impl std::ops::Deref for IndexGuard<'_> {
    type Target = Index;

    fn deref(&self) -> &Index {
        self.0.as_ref().expect("the guard is made only of an open index")
    }
}

/// A name for a chain in the store's records is valid, since only valid names were written.
///
/// # Errors
/// The record was changed.
pub fn stored_name(record: &ChainRecord) -> Result<ChainName, StoreError> {
    record.name.parse().map_err(|_| StoreError::Damaged(format!("{:?} is no name of a chain", record.name)))
}

#[cfg(test)]
mod tests;
