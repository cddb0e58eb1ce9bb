//! The durable store, and the only file that names the storage engine (fjall).
//!
//! # What is stored
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `chains` | name | [`ChainRecord`] as JSON |
//! | `runs` | chain, index of the first | a run of consecutive transactions, as they are served, encrypted with a key of its own |
//! | `quants` | chain, index | the quant as it is served |
//! | `sizes` | chain, size | index of the first quant of that size |
//! | `hashes` | chain, hash of a quant | its index |
//! | `ids` | chain, a client's id | index of its transaction |
//! | `tiles` | chain, level, number | 256 hashes: a complete Merkle tile |
//! | `witnessed` | hash of a log's name | [`Witnessed`] as JSON: what this node has cosigned of another's log |
//! | `meta` | `commits`, `nodes`, `node`, `witness`, `keys` | the stamp of the newest batch; known nodes; this node's public keys; how many slots `run.keys` has at least |
//! | `meta` | `doomed` and a slot, `import` and an id, `rollback` and a chain | a key to destroy; an import under way; a [`Rollback`] as JSON |
//!
//! Numbers in keys are big-endian, so that a chain is one range. A value starts with the version of its form. What a fork
//! shares stays under the key of the chain that wrote it: a [`Lineage`] says where.
//!
//! # What is promised
//! [`Store::commit`] returns after one atomic batch is synced. Readers may see parts of it just before, so they ask only for
//! what a published head has. Beside the engine, the file
//! `acknowledged` holds the stamp of the newest batch that was synced: a journal that has lost its end, which the engine
//! takes for an interrupted write, is found by it at the next start. A batch that was answered with an error does not come
//! back after a restart in order, nor after a full disk; only an erasure whose key could not be destroyed at once is completed.
//!
//! # How transactions are erased
//! A batch stores their run anew, with a new key and without them, and marks the old key. When it is durable, the old key is
//! overwritten in the file `run.keys`, and with it every copy of the old run is gone that journals, tables or copies of their
//! blocks hold. Where that is interrupted, the mark has it done at the next opening.

mod files;
mod imports;
pub mod key;
mod run_keys;
mod runs;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use files::{Rest, Stamp};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
pub use imports::{ImportRecord, Removed};
use key::KeyFile;
use run_keys::{Key, Keys, Slot};
pub use runs::Run;
use runs::StoredRun;
use serde::{Deserialize, Serialize};

use crate::{
    core::{
        chain::LeapPolicy,
        hash::{self, Hash},
        merkle::{TILE_WIDTH, Tile},
        quant::{Quant, QuantFields},
        rules::ChainName,
        transaction::Id,
        witness::Witnessed,
    },
    limits,
};

/// A log filter that leaves out what the engine tells of its normal work.
pub const QUIET: &str = "fjall=warn,lsm_tree=warn";

/// The form of the data folder that this program reads and writes.
const FOLDER_FORMAT: &str = "qbc-data 2\n";
/// The file of the keys of runs.
const KEYS: &str = "run.keys";
/// A value as it was read.
type Value = fjall::Slice;

/// The version byte that each stored value starts with.
const VALUE_FORMAT: u8 = 1;

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

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        let io = match &error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => Some(error),
            _ => None,
        };
        match io {
            Some(error) => StoreError::from_io(error),
            None => StoreError::Failed(error.to_string()),
        }
    }
}

impl StoreError {
    fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
            _ => StoreError::Failed(error.to_string()),
        }
    }
}

/// A chain's number in the store, given in the order of making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainNumber(pub u64);

impl ChainNumber {
    /// That of the default chain as a new node makes it.
    pub const FIRST: ChainNumber = ChainNumber(0);
}

/// The quant of another chain that a fork goes on from, in the store's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The parent.
    pub number: ChainNumber,
    /// The index of its quant.
    pub quant: u64,
    /// Its size at that quant.
    pub size: u64,
}

/// What is stored of a chain beside its transactions and quants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChainRecord {
    /// Its name, which is its key.
    pub name: String,
    /// Its number.
    pub number: ChainNumber,
    /// What it was forked from.
    pub parent: Option<Parent>,
    /// When it leaps by itself.
    pub leap: LeapPolicy,
    /// Transactions of its own that were erased.
    #[serde(default)]
    pub erasures: u64,
    /// Where its bang stands, if not at the start of what it wrote itself: an imported fork holds its ancestors' part too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bang: Option<BangPlace>,
}

/// That this node's key has signed a quant of a chain which the chain here does not have: the data folder is an older copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The index of the quant.
    pub quant: u64,
    /// Its hash.
    pub hash: Hash,
    /// The transactions that the chain had with it.
    pub size: u64,
    /// Whether the operator has accepted that it is lost: then the chain takes writes all the same.
    pub accepted: bool,
}

impl std::fmt::Display for Rollback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rollback { quant, hash, size, .. } = self;
        write!(f, "this node's key has signed quant {quant} of it, {hash}, with {size} transactions, which is not here")
    }
}

/// Where the bang of a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BangPlace {
    /// The index of the transaction.
    pub transaction: u64,
    /// The index of the quant that seals it.
    pub quant: u64,
}

/// Who wrote which part of a chain: itself, its parent, and so on up.
#[derive(Debug)]
pub struct Lineage {
    number: ChainNumber,
    parent: Option<(Parent, Arc<Lineage>)>,
    bang: Option<BangPlace>,
}

impl Lineage {
    /// Of a chain with this number and, if it is a fork, its parent's lineage.
    pub fn new(number: ChainNumber, parent: Option<(Parent, Arc<Lineage>)>) -> Lineage {
        Lineage { number, parent, bang: None }
    }

    /// Of a stored chain and, if it is a fork, its parent's lineage.
    pub fn of(record: &ChainRecord, parent: Option<(Parent, Arc<Lineage>)>) -> Lineage {
        Lineage { bang: record.bang, ..Lineage::new(record.number, parent) }
    }

    /// Where its bang stands, if that is not the first that it wrote itself.
    pub fn bang(&self) -> Option<BangPlace> {
        self.bang
    }

    /// Where its bang stands.
    pub fn bang_place(&self) -> BangPlace {
        self.bang.unwrap_or(BangPlace { transaction: self.own_from(), quant: self.own_quants_from() })
    }

    /// The chain's number.
    pub fn number(&self) -> ChainNumber {
        self.number
    }

    /// What the chain was forked from.
    pub fn parent(&self) -> Option<Parent> {
        self.parent.as_ref().map(|(parent, _)| *parent)
    }

    /// The parent's own lineage.
    pub fn up(&self) -> Option<(Parent, &Lineage)> {
        self.parent.as_ref().map(|(parent, lineage)| (*parent, &**lineage))
    }

    /// The first quant that the chain wrote itself.
    pub fn own_quants_from(&self) -> u64 {
        self.parent().map_or(0, |parent| parent.quant + 1)
    }

    /// The first transaction that the chain wrote itself.
    pub fn own_from(&self) -> u64 {
        self.parent().map_or(0, |parent| parent.size)
    }

    /// From itself upwards.
    fn iter(&self) -> impl Iterator<Item = &Lineage> {
        std::iter::successors(Some(self), |lineage| lineage.parent.as_ref().map(|(_, parent)| &**parent))
    }

    /// The chain that wrote a transaction.
    fn of_transaction(&self, index: u64) -> ChainNumber {
        self.writer(|parent| index >= parent.size)
    }

    fn of_quant(&self, index: u64) -> ChainNumber {
        self.writer(|parent| index > parent.quant)
    }

    /// A complete tile that reaches over the place of the fork was written by the fork.
    fn of_tile(&self, level: u8, number: u64) -> ChainNumber {
        let leaves = 1u64.checked_shl(8 * (u32::from(level) + 1)).unwrap_or(u64::MAX);
        let end = (number + 1).saturating_mul(leaves);
        self.writer(|parent| end > parent.size)
    }

    fn writer(&self, is_own: impl Fn(&Parent) -> bool) -> ChainNumber {
        let own = self.iter().find(|lineage| lineage.parent.as_ref().is_none_or(|(parent, _)| is_own(parent)));
        own.expect("the first of a lineage has no parent").number
    }

    /// The end of the part of `0..` that the writer of transaction `index` wrote for this chain.
    fn end_of_part(&self, index: u64) -> u64 {
        let mut end = u64::MAX;
        for lineage in self.iter() {
            match &lineage.parent {
                Some((parent, _)) if index < parent.size => end = parent.size,
                _ => break,
            }
        }
        end
    }
}

#[derive(Clone, Copy)]
enum Space {
    Chains,
    Runs,
    Quants,
    Sizes,
    Hashes,
    Ids,
    Tiles,
    Meta,
    Witnessed,
}

const SPACES: [(Space, &str); 9] = [
    (Space::Chains, "chains"),
    (Space::Runs, "runs"),
    (Space::Quants, "quants"),
    (Space::Sizes, "sizes"),
    (Space::Hashes, "hashes"),
    (Space::Ids, "ids"),
    (Space::Tiles, "tiles"),
    (Space::Meta, "meta"),
    (Space::Witnessed, "witnessed"),
];

fn key<const N: usize>(parts: [u64; N]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.to_be_bytes()).collect()
}

fn key_and(chain: ChainNumber, rest: &[u8]) -> Vec<u8> {
    [&chain.0.to_be_bytes(), rest].concat()
}

fn versioned(value: &[u8]) -> Vec<u8> {
    [&[VALUE_FORMAT], value].concat()
}

fn tile_key(chain: ChainNumber, level: u8, number: u64) -> Vec<u8> {
    [&chain.0.to_be_bytes()[..], &[level], &number.to_be_bytes()].concat()
}

/// Changes that become durable together or not at all.
#[derive(Default)]
pub struct Batch {
    puts: Vec<(Space, Vec<u8>, Vec<u8>)>,
    removed: Vec<(Space, Vec<u8>)>,
    runs: Vec<(ChainNumber, Run)>,
    /// Slots of keys that must go when this is durable.
    doomed: Vec<u64>,
}

impl Batch {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.runs.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.puts.push((space, key, value));
    }

    /// A chain's record, new or changed.
    pub fn chain(&mut self, record: &ChainRecord) {
        let value = serde_json::to_vec(record).expect("a chain's record is JSON");
        self.put(Space::Chains, record.name.as_bytes().to_vec(), versioned(&value));
    }

    /// A run of transactions.
    pub fn run(&mut self, chain: ChainNumber, run: Run) {
        self.runs.push((chain, run));
    }

    /// A quant behind one of `previous_size` transactions.
    pub fn quant(&mut self, chain: ChainNumber, quant: &Quant, previous_size: u64) {
        let index = quant.index().to_be_bytes();
        let value = serde_json::to_vec(quant).expect("a quant is JSON");
        self.put(Space::Quants, key_and(chain, &index), versioned(&value));
        self.put(Space::Hashes, key_and(chain, quant.hash().as_bytes()), versioned(&index));
        if quant.size() > previous_size {
            self.put(Space::Sizes, key([chain.0, quant.size()]), versioned(&index));
        }
    }

    /// A client's id of a transaction.
    pub fn id(&mut self, chain: ChainNumber, id: &Id, index: u64) {
        self.put(Space::Ids, key_and(chain, id.as_str().as_bytes()), versioned(&index.to_be_bytes()));
    }

    /// A complete Merkle tile.
    pub fn tile(&mut self, chain: ChainNumber, tile: &Tile) {
        let mut value = Vec::with_capacity(1 + 32 * TILE_WIDTH);
        value.push(VALUE_FORMAT);
        for hash in &tile.hashes {
            value.extend_from_slice(hash.as_bytes());
        }
        self.put(Space::Tiles, tile_key(chain, tile.level, tile.number), value);
    }

    /// The hosts of known nodes.
    pub fn nodes(&mut self, hosts: &[String]) {
        let value = serde_json::to_vec(hosts).expect("a list of texts is JSON");
        self.put(Space::Meta, b"nodes".to_vec(), versioned(&value));
    }

    /// That newer quants of a chain were signed.
    pub fn rollback(&mut self, chain: ChainNumber, rollback: &Rollback) {
        let value = serde_json::to_vec(rollback).expect("it is JSON");
        self.put(Space::Meta, rollback_key(chain), versioned(&value));
    }

    /// What this node has cosigned of a log.
    pub fn witnessed(&mut self, log: &Witnessed) {
        let value = serde_json::to_vec(log).expect("it is JSON");
        self.put(Space::Witnessed, hash::origin(&log.origin).as_bytes().to_vec(), versioned(&value));
    }

    /// Encrypts the runs, each with a new key, and gives the slots of the keys that must go when this is durable.
    fn seal(&mut self, keys: &Keys) -> io::Result<Vec<u64>> {
        let mut doomed = std::mem::take(&mut self.doomed);
        let has_runs = !self.runs.is_empty();
        for (chain, run) in std::mem::take(&mut self.runs) {
            let (slot, key_of_run) = keys.take()?;
            self.put(Space::Runs, key([chain.0, run.first()]), run.encode(slot, &key_of_run));
            doomed.extend(run.replaced_slot());
        }
        if has_runs {
            self.put(Space::Meta, FILLED_KEYS.to_vec(), versioned(&keys.filled().to_be_bytes()));
        }
        for slot in &doomed {
            self.put(Space::Meta, doomed_key(*slot), vec![VALUE_FORMAT]);
        }
        Ok(doomed)
    }
}

/// Holds, in `meta`, how many slots the file of keys has at least.
const FILLED_KEYS: &[u8] = b"keys";

/// Marks, in `meta`, a key that is to be destroyed.
const DOOMED: &[u8] = b"doomed ";

fn doomed_key(slot: u64) -> Vec<u8> {
    [DOOMED, &slot.to_be_bytes()].concat()
}

fn rollback_key(chain: ChainNumber) -> Vec<u8> {
    [b"rollback ", &chain.0.to_be_bytes()[..]].concat()
}

struct Engine {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl Engine {
    fn open(folder: &Path) -> Result<Engine, StoreError> {
        let database = Database::builder(folder)
            // Chains are read in long ranges, which a larger cache would not make faster.
            .cache_size(16 << 20)
            .worker_threads(2)
            // A restart replays at most this much.
            .max_journaling_size(128 << 20)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(32 << 20);
        let spaces = SPACES.iter().map(|(_, name)| database.keyspace(name, options)).collect::<Result<_, _>>()?;
        Ok(Engine { database, spaces })
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<fjall::Slice>, StoreError> {
        let value = self.space(space).get(key).map_err(unreadable)?;
        value.map(|value| checked_version(&value).map(|()| value)).transpose()
    }

    /// The last entry in a range of keys.
    fn last(&self, space: Space, range: Range<Vec<u8>>) -> Result<Option<(fjall::Slice, fjall::Slice)>, StoreError> {
        match self.space(space).range(range).next_back() {
            Some(entry) => {
                let (key, value) = entry.into_inner().map_err(unreadable)?;
                checked_version(&value)?;
                Ok(Some((key, value)))
            }
            None => Ok(None),
        }
    }

    fn number(&self, space: Space, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.get(space, key)?.map(|value| decode_number(&value)).transpose()
    }

    /// Batches so far.
    fn commits(&self) -> Result<u64, StoreError> {
        let malformed = || StoreError::Damaged("the number of commits is malformed".into());
        let decode = |value: fjall::Slice| Stamp::decode(&value[1..]).map(|stamp| stamp.commits).ok_or_else(malformed);
        self.get(Space::Meta, b"commits")?.map_or(Ok(0), decode)
    }

    /// Writes and syncs the batch with this number, without the marks of keys that are destroyed. Its stamp comes last.
    fn write(&self, batch: Batch, destroyed: &[u64], commits: u64) -> Result<(), fjall::Error> {
        self.make_way()?;
        let mut write = self.database.batch().durability(Some(PersistMode::SyncData));
        for (space, key, value) in batch.puts {
            write.insert(self.space(space), key, value);
        }
        for (space, key) in batch.removed {
            write.remove(self.space(space), key);
        }
        for slot in destroyed {
            write.remove(self.space(Space::Meta), doomed_key(*slot));
        }
        let stamp = Stamp { commits, sequence: self.database.seqno() };
        write.insert(self.space(Space::Meta), *b"commits", versioned(&stamp.encode()));
        write.commit()
    }

    /// The slots of the keys that are to be destroyed.
    fn doomed(&self) -> Result<Vec<u64>, StoreError> {
        let malformed = || StoreError::Damaged("the mark of a key is malformed".into());
        let slot = |entry: fjall::Guard| {
            let key = entry.key().map_err(unreadable)?;
            let slot = key[DOOMED.len()..].try_into().map_err(|_| malformed())?;
            Ok(u64::from_be_bytes(slot))
        };
        self.space(Space::Meta).prefix(DOOMED).map(slot).collect()
    }

    /// Waits while too much is to be flushed or merged. The engine would wait as well, but for ever where that fails.
    fn make_way(&self) -> Result<(), fjall::Error> {
        let is_behind = |space: &Keyspace| space.sealed_memtable_count() >= 3 || space.tree.l0_run_count() >= 28;
        while self.spaces.iter().any(is_behind) {
            // It does nothing but to tell whether the engine still works.
            self.database.persist(PersistMode::Buffer)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn checked_version(value: &[u8]) -> Result<(), StoreError> {
    match value.first() {
        Some(&VALUE_FORMAT) => Ok(()),
        other => Err(StoreError::Damaged(format!("a stored value has the unknown version {other:?}"))),
    }
}

fn decode_number(value: &[u8]) -> Result<u64, StoreError> {
    let bytes = value.get(1..).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| StoreError::Damaged("a stored number is malformed".into()))
}

/// The key of a run. It is not destroyed while anybody reads a form of the run that needs it: see [`Store::destroy`].
fn key_of(keys: &mut run_keys::Reader, run: &StoredRun) -> Result<Key, StoreError> {
    match keys.get(run.slot()) {
        Ok(Slot::Key(key)) => Ok(key),
        Ok(Slot::Destroyed | Slot::Damaged) => {
            Err(StoreError::Damaged(format!("the key of transaction {} is gone", run.first)))
        }
        Err(error) => Err(StoreError::Damaged(format!("the file \"{KEYS}\" cannot be read: {error}"))),
    }
}

/// The file of keys is not what the rest of the folder needs.
fn lost_keys(what: &str) -> StoreError {
    let cure = "what they encrypt cannot be read without them: restore it from the copy that the rest is from";
    StoreError::Damaged(format!("the file \"{KEYS}\" {what}, and {cure}"))
}

fn missing(transaction: u64) -> StoreError {
    StoreError::Damaged(format!("transaction {transaction} is missing"))
}

/// A read that fails means that what was written cannot be had any more.
fn unreadable(error: fjall::Error) -> StoreError {
    use rustix::io::Errno;
    let detail = format!("it cannot be read: {error}");
    let (fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io))) = error else {
        return StoreError::Damaged(detail);
    };
    // These say nothing of the disk.
    match Errno::from_io_error(&io) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => StoreError::Failed(detail),
        _ => StoreError::Damaged(detail),
    }
}

fn from_json<T: serde::de::DeserializeOwned>(value: &[u8], what: &str) -> Result<T, StoreError> {
    serde_json::from_slice(&value[1..]).map_err(|error| StoreError::Damaged(format!("{what} is malformed: {error}")))
}

/// The data folder of one node, open and locked.
pub struct Store {
    folder: PathBuf,
    /// Empty only while it is opened anew after a full disk, or where that failed.
    engine: RwLock<Option<Engine>>,
    acknowledged: File,
    keys: Keys,
    /// Slots of keys that are destroyed, whose marks go with the next batch.
    destroyed: Mutex<Vec<u64>>,
    /// Whether a batch that was answered with an error may be in the journal.
    uncertain: AtomicBool,
    _lock: File,
}

impl Store {
    /// Opens a data folder, or makes it where there is none or an empty one.
    ///
    /// # Errors
    /// Another process uses it, it is no data folder, it is of an unknown form, it has lost what was acknowledged, or the
    /// engine's journals or lists of tables are damaged. Of a damaged folder nothing is changed.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        let folder_error =
            |error: io::Error| StoreError::Folder(format!("cannot use the data folder {}: {error}", folder.display()));
        make_folder(folder).map_err(folder_error)?;
        let lock = lock(folder)?;
        check_format(folder)?;
        let acknowledged = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("acknowledged"))
            .map_err(folder_error)?;
        let newest = read_acknowledged(&acknowledged)?;
        let mut engine = open_engine(folder, newest)?;
        if newest.is_none() {
            // Making the keyspaces leaves older lists and tables, which only opening removes: damage in them would not show.
            drop(engine);
            engine = open_engine(folder, None)?;
            // From now on it is only overwritten, which needs no space.
            write_acknowledged(&acknowledged, Stamp { commits: 0, sequence: 0 })
                .and_then(|()| acknowledged.sync_all())
                .map_err(folder_error)?;
        }
        let keys = folder.join(KEYS);
        if newest.is_some_and(|newest| newest.commits > 0) && !keys.exists() {
            return Err(lost_keys("is missing"));
        }
        // With fewer keys than are in use, the next runs would get slots of others, and the file could never be put back.
        let (found, filled) =
            (run_keys::count(&keys).map_err(folder_error)?, engine.number(Space::Meta, FILLED_KEYS)?.unwrap_or(0));
        if found < filled {
            return Err(lost_keys(&format!("is cut short: it has {found} whole keys of {filled}")));
        }
        let keys = Keys::open(&keys).map_err(folder_error)?;
        // A file can be synced and yet have no name after a power cut: what was made must have its name before a commit. The
        // engine leaves that of a keyspace's folder to luck.
        let made = ["", "store", "store/keyspaces"].map(|name| folder.join(name));
        made.iter().try_for_each(|made| sync_folder(made)).map_err(folder_error)?;
        let store = Store {
            folder: folder.into(),
            engine: RwLock::new(Some(engine)),
            acknowledged,
            keys,
            destroyed: Mutex::default(),
            uncertain: false.into(),
            _lock: lock,
        };
        let doomed = store.engine()?.doomed()?;
        store.destroy(doomed)?;
        Ok(store)
    }

    /// Destroys keys, which were marked for it in a durable batch. When this returns, what they encrypt is gone.
    ///
    /// # Errors
    /// They may be there still. The next start destroys them.
    pub fn destroy(&self, slots: Vec<u64>) -> Result<(), StoreError> {
        if slots.is_empty() {
            return Ok(());
        }
        // Each read holds the engine. When all that began before have ended, nobody has a form that needs these keys.
        drop(self.engine.write().expect("no holder of this lock panics"));
        self.keys.destroy(&slots).map_err(|error| StoreError::Failed(format!("a key cannot be destroyed: {error}")))?;
        self.destroyed.lock().expect("no holder of this lock panics").extend(slots);
        Ok(())
    }

    /// Compares all that the engine has on disk with its checksums, journals and tables. The folder must be at rest; nothing
    /// in it is changed.
    ///
    /// # Errors
    /// The first place that is not as it was written, or the folder is in use.
    pub fn check_files(folder: &Path) -> Result<(), StoreError> {
        let _lock = lock(folder)?;
        let acknowledged = File::open(folder.join("acknowledged")).ok();
        let newest = acknowledged.map_or(Ok(None), |file| read_acknowledged(&file))?;
        files::check_journals(&folder.join("store"), newest, Rest::Judge)?;
        files::check_tables(&folder.join("store"))?;
        let damaged = run_keys::first_damaged(&folder.join(KEYS));
        match damaged.map_err(|error| StoreError::Damaged(format!("the file \"{KEYS}\" cannot be read: {error}")))? {
            None => Ok(()),
            Some(slot) => Err(StoreError::Damaged(format!("the file \"{KEYS}\" is damaged at byte {}", 32 * slot))),
        }
    }

    fn engine(&self) -> Result<EngineGuard<'_>, StoreError> {
        let guard = self.engine.read().expect("no holder of this lock panics");
        if guard.is_some() {
            Ok(EngineGuard(guard))
        } else {
            Err(StoreError::Failed("it could not be opened again".into()))
        }
    }

    /// Makes a batch durable: when this returns, it is synced, and readers see it. It gives the keys of what it erases, for
    /// [`Store::destroy`] before it is answered.
    ///
    /// # Errors
    /// [`StoreError::Full`]: call [`Store::recover`] before the next commit. Any other: nobody knows what is on disk, and the
    /// next commit fails too.
    pub fn commit(&self, mut batch: Batch) -> Result<Vec<u64>, StoreError> {
        let engine = self.engine()?;
        let doomed = batch.seal(&self.keys).map_err(|error| StoreError::from_io(&error))?;
        let destroyed = std::mem::take(&mut *self.destroyed.lock().expect("no holder of this lock panics"));
        let commits = engine.commits()? + 1;
        let written = engine.write(batch, &destroyed, commits).map_err(|error| match error {
            // Nothing of this batch was written: work in the background failed before, which does not say why.
            fjall::Error::Poisoned if self.free().is_ok_and(|(free, _)| free < limits::SCARCE_BYTES) => {
                StoreError::Full
            }
            fjall::Error::Poisoned => error.into(),
            error => self.take_back(commits, error.into()),
        });
        written?;
        let newest = Stamp { commits, sequence: engine.database.seqno() };
        write_acknowledged(&self.acknowledged, newest)
            .map_err(|error| self.take_back(commits, StoreError::from_io(&error)))?;
        Ok(doomed)
    }

    /// Cuts a batch that fails off the journal, where some or all of it may stand. What the engine still holds of it in a
    /// buffer it writes when it closes, so that is cut off then.
    fn take_back(&self, commits: u64, error: StoreError) -> StoreError {
        self.uncertain.store(true, Ordering::Relaxed);
        if let Err(fault) = files::cut_behind(&self.folder.join("store"), commits - 1) {
            tracing::warn!("what failed may be found after a restart: {fault}");
        }
        error
    }

    fn close(&self, engine: &mut Option<Engine>) -> Result<(), StoreError> {
        *engine = None;
        if self.uncertain.load(Ordering::Relaxed) {
            let commits = read_acknowledged(&self.acknowledged)?.map_or(0, |newest| newest.commits);
            let cut = files::cut_behind(&self.folder.join("store"), commits);
            cut.map_err(|error| StoreError::from_io(&error))?;
            self.uncertain.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether the file system has room enough to go on writing.
    pub fn has_room(&self) -> bool {
        self.free().is_ok_and(|(free, total)| free >= limits::FREE_BYTES.min(total / 16))
    }

    /// Free and all bytes of the file system.
    fn free(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }

    /// Opens the engine anew after a full disk, as after a crash. Readers wait.
    ///
    /// # Errors
    /// [`StoreError::Full`] while there is still no room; otherwise as [`Store::open`].
    pub fn recover(&self) -> Result<(), StoreError> {
        if !self.has_room() {
            return Err(StoreError::Full);
        }
        let mut engine = self.engine.write().expect("no holder of this lock panics");
        // The old one must be closed before its folder can be opened again.
        self.close(&mut engine)?;
        *engine = Some(open_engine(&self.folder, read_acknowledged(&self.acknowledged)?)?);
        Ok(())
    }

    /// All chains, by name.
    ///
    /// # Errors
    /// What is stored is damaged; so for every other read.
    pub fn chains(&self) -> Result<Vec<ChainRecord>, StoreError> {
        let engine = self.engine()?;
        let decode = |entry: fjall::Guard| {
            let value = entry.value().map_err(unreadable)?;
            checked_version(&value)?;
            from_json(&value, "a chain's record")
        };
        engine.space(Space::Chains).iter().map(decode).collect()
    }

    /// The size of a chain and the bytes of its records, as far as it wrote them itself.
    pub fn size_and_bytes(&self, chain: ChainNumber) -> Result<Option<(u64, u64)>, StoreError> {
        let engine = self.engine()?;
        let Some((key, value)) = engine.last(Space::Runs, key([chain.0, 0])..key([chain.0 + 1]))? else {
            return Ok(None);
        };
        let run = StoredRun::decode(&key, value)?;
        Ok(Some((run.end(), run.bytes_before(run.count))))
    }

    /// Bytes of the records of a chain's first `size` transactions.
    pub fn bytes_at(&self, lineage: &Lineage, size: u64) -> Result<u64, StoreError> {
        let Some(last) = size.checked_sub(1) else { return Ok(0) };
        let chain = lineage.of_transaction(last);
        let entry = self.engine()?.last(Space::Runs, key([chain.0, 0])..key([chain.0, size]))?;
        let (key, value) = entry.ok_or_else(|| StoreError::Damaged(format!("transaction {last} is missing")))?;
        let run = StoredRun::decode(&key, value)?;
        Ok(run.bytes_before(run.count.min((size - run.first) as usize)))
    }

    /// The newest quant that a chain wrote itself.
    pub fn newest_quant(&self, chain: ChainNumber) -> Result<Option<Quant>, StoreError> {
        let engine = self.engine()?;
        let entry = engine.last(Space::Quants, key([chain.0, 0])..key([chain.0 + 1]))?;
        entry.map(|(_, value)| decode_quant(&value)).transpose()
    }

    /// Appends the records of transactions to `out`, as many runs from the front of `range` as fit into `bytes` but at least
    /// one, with `separator` between the records, and gives the index of the first that was left out.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] also where a transaction of the range is missing.
    pub fn records(
        &self,
        lineage: &Lineage,
        range: Range<u64>,
        separator: u8,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<u64, StoreError> {
        let engine = self.engine()?;
        let mut keys = self.keys.reader();
        let mut next = range.start;
        let limit = out.len().saturating_add(bytes);
        while next < range.end {
            let chain = lineage.of_transaction(next);
            let end_of_part = lineage.end_of_part(next).min(range.end);
            let first = self.run_of(&engine, chain, next)?.first;
            let runs = engine.space(Space::Runs).range(key([chain.0, first])..key([chain.0, end_of_part]));
            for entry in runs {
                let (key, value) = entry.into_inner().map_err(unreadable)?;
                let run = StoredRun::decode(&key, value)?;
                if next < run.first || next >= run.end() {
                    return Err(missing(next));
                }
                let part = (next - run.first) as usize..(run.end().min(end_of_part) - run.first) as usize;
                if next > range.start {
                    if out.len() + run.end_of(part.end - 1) - run.begin_of(part.start) > limit {
                        return Ok(next);
                    }
                    out.push(separator);
                }
                next = run.first + part.end as u64;
                run.decrypt(&key_of(&mut keys, &run)?, part, separator, out)?;
            }
            if next < end_of_part {
                return Err(missing(next));
            }
        }
        Ok(next)
    }

    /// The newest form of the run that has a transaction.
    fn run_of(&self, engine: &Engine, chain: ChainNumber, index: u64) -> Result<StoredRun, StoreError> {
        let entry = engine.last(Space::Runs, key([chain.0, 0])..key([chain.0, index + 1]))?;
        let (key, value) = entry.ok_or_else(|| missing(index))?;
        StoredRun::decode(&key, value).and_then(|run| if index < run.end() { Ok(run) } else { Err(missing(index)) })
    }

    /// The run that has a transaction, and its key.
    fn readable_run(&self, engine: &Engine, chain: ChainNumber, index: u64) -> Result<(StoredRun, Key), StoreError> {
        let run = self.run_of(engine, chain, index)?;
        let key = key_of(&mut self.keys.reader(), &run)?;
        Ok((run, key))
    }

    /// The run that has a transaction, with another record in the place of that one. When it is committed, nothing can read
    /// the run as it was any more.
    ///
    /// # Errors
    /// The run is missing or damaged.
    pub fn run_with(&self, chain: ChainNumber, index: u64, record: &[u8]) -> Result<Run, StoreError> {
        let engine = self.engine()?;
        let (run, key) = self.readable_run(&engine, chain, index)?;
        run.with(&key, index, record)
    }

    /// One transaction's record.
    pub fn record(&self, lineage: &Lineage, index: u64) -> Result<Vec<u8>, StoreError> {
        let engine = self.engine()?;
        let (run, key) = self.readable_run(&engine, lineage.of_transaction(index), index)?;
        let (at, mut record) = ((index - run.first) as usize, Vec::new());
        run.decrypt(&key, at..at + 1, b',', &mut record)?;
        Ok(record)
    }

    /// One quant; its hash and proof of work are checked.
    pub fn quant(&self, lineage: &Lineage, index: u64) -> Result<Quant, StoreError> {
        let chain = lineage.of_quant(index);
        let value = self.engine()?.get(Space::Quants, &key_and(chain, &index.to_be_bytes()))?;
        decode_quant(&value.ok_or_else(|| StoreError::Damaged(format!("quant {index} is missing")))?)
    }

    /// The index of a chain's quant with this hash.
    pub fn quant_with_hash(&self, lineage: &Lineage, hash: Hash) -> Result<Option<u64>, StoreError> {
        let engine = self.engine()?;
        for chain in lineage.iter() {
            if let Some(index) = engine.number(Space::Hashes, &key_and(chain.number, hash.as_bytes()))? {
                // A quant of an ancestor behind the fork is not of this chain.
                return Ok((lineage.of_quant(index) == chain.number).then_some(index));
            }
        }
        Ok(None)
    }

    /// The index of the quant that seals a transaction. The transaction must be sealed.
    pub fn quant_of(&self, lineage: &Lineage, transaction: u64) -> Result<u64, StoreError> {
        let chain = lineage.of_transaction(transaction);
        let engine = self.engine()?;
        let entry = engine.space(Space::Sizes).range(key([chain.0, transaction + 1])..key([chain.0 + 1])).next();
        let value = entry.ok_or_else(|| StoreError::Damaged(format!("no quant seals transaction {transaction}")))?;
        decode_number(&value.value().map_err(unreadable)?)
    }

    /// The index of the transaction that a client gave this id.
    pub fn transaction_with_id(&self, lineage: &Lineage, id: &Id) -> Result<Option<u64>, StoreError> {
        let engine = self.engine()?;
        for chain in lineage.iter() {
            if let Some(index) = engine.number(Space::Ids, &key_and(chain.number, id.as_str().as_bytes()))?
                && lineage.of_transaction(index) == chain.number
            {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// A complete Merkle tile.
    pub fn tile(&self, lineage: &Lineage, level: u8, number: u64) -> Result<Vec<Hash>, StoreError> {
        let chain = lineage.of_tile(level, number);
        let value = self.engine()?.get(Space::Tiles, &tile_key(chain, level, number))?;
        let damaged = || StoreError::Damaged(format!("tile {number} of level {level} is missing or malformed"));
        let hashes = value.as_ref().and_then(|value| value.get(1..)).ok_or_else(damaged)?;
        if hashes.len() != 32 * TILE_WIDTH {
            return Err(damaged());
        }
        let hash = |bytes: &[u8]| Hash::from_bytes(bytes.try_into().expect("a chunk has 32 bytes"));
        Ok(hashes.chunks_exact(32).map(hash).collect())
    }

    /// The hosts of known nodes.
    pub fn nodes(&self) -> Result<Vec<String>, StoreError> {
        let value = self.engine()?.get(Space::Meta, b"nodes")?;
        value.map_or(Ok(Vec::new()), |value| from_json(&value, "the list of nodes"))
    }

    /// The newest quant of a chain that was signed and is not here, as far as it is known.
    pub fn rollback(&self, chain: ChainNumber) -> Result<Option<Rollback>, StoreError> {
        let value = self.engine()?.get(Space::Meta, &rollback_key(chain))?;
        value.map(|value| from_json(&value, "the record of a rollback")).transpose()
    }

    /// What this node has cosigned of all logs.
    pub fn witnessed(&self) -> Result<Vec<Witnessed>, StoreError> {
        let decode = |entry: fjall::Guard| {
            let value = entry.value().map_err(unreadable)?;
            checked_version(&value)?;
            from_json(&value, "what was cosigned of a log")
        };
        self.engine()?.space(Space::Witnessed).iter().map(decode).collect()
    }

    /// A secret key of the node, made of `seed` where the folder has none yet. The file is readable by its owner alone.
    ///
    /// # Errors
    /// The file is missing though the folder has used it, or it is not the key that the folder has used.
    pub fn secret_key(&self, file: KeyFile, seed: [u8; 32]) -> Result<ed25519_dalek::SigningKey, StoreError> {
        let row = file.role().as_bytes();
        let recorded = self.engine()?.get(Space::Meta, row)?;
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
        let public = key.verifying_key().to_bytes();
        match recorded {
            Some(recorded) if recorded[1..] != public => {
                Err(StoreError::Damaged(format!("{file} is not the key that this folder was made with")))
            }
            Some(_) => Ok(key),
            None => {
                let mut batch = Batch::default();
                batch.put(Space::Meta, row.to_vec(), versioned(&public));
                self.commit(batch).map(|_| key)
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let Ok(mut engine) = self.engine.write() else { return };
        let closed = self.close(&mut engine).and_then(|()| files::remove_old_lists(&self.folder.join("store")));
        if let Err(error) = closed {
            tracing::warn!("the data folder is not closed in order: {error}");
        }
    }
}

/// Opens the engine in a data folder whose newest acknowledged batch this is.
fn open_engine(folder: &Path, newest: Option<Stamp>) -> Result<Engine, StoreError> {
    let store = folder.join("store");
    let acknowledged = newest.map_or(0, |newest| newest.commits);
    // The engine does not go on with a folder whose making was interrupted. It writes this file of four bytes last.
    let is_made = fs::metadata(store.join("version")).is_ok_and(|version| version.len() >= 4);
    if acknowledged == 0 && store.is_dir() && !is_made {
        fs::remove_dir_all(&store).map_err(|error| StoreError::from_io(&error))?;
    }
    files::check_journals(&store, newest, Rest::Cut)?;
    files::check_lists(&store)?;
    let engine = Engine::open(&store).map_err(|error| match error {
        StoreError::Failed(detail) => StoreError::Damaged(format!("the engine does not open it: {detail}")),
        other => other,
    })?;
    let found = engine.commits()?;
    if acknowledged > found {
        return Err(StoreError::Damaged(format!(
            "{acknowledged} commits were acknowledged, but only {found} are found"
        )));
    }
    Ok(engine)
}

/// The newest batch that was acknowledged, if the file has been written.
fn read_acknowledged(file: &File) -> Result<Option<Stamp>, StoreError> {
    let mut bytes = [0; 24];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return Ok(None);
    }
    let (stamp, sum) = bytes.split_at(16);
    let stamp = Stamp::decode(stamp).filter(|_| xxhash_rust::xxh3::xxh3_64(stamp).to_be_bytes() == sum);
    stamp.map(Some).ok_or_else(|| StoreError::Damaged("the file \"acknowledged\" does not match its checksum".into()))
}

fn write_acknowledged(file: &File, newest: Stamp) -> io::Result<()> {
    let stamp = newest.encode();
    let sum = xxhash_rust::xxh3::xxh3_64(&stamp).to_be_bytes();
    file.write_all_at(&[&stamp[..], &sum].concat(), 0)
}

/// The engine, held open for one read.
struct EngineGuard<'a>(RwLockReadGuard<'a, Option<Engine>>);

impl std::ops::Deref for EngineGuard<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.0.as_ref().expect("the guard is made only of an open engine")
    }
}

fn decode_quant(value: &[u8]) -> Result<Quant, StoreError> {
    checked_version(value)?;
    let fields: QuantFields = from_json(value, "a quant")?;
    let index = fields.index;
    Quant::try_from(fields).map_err(|error| StoreError::Damaged(format!("quant {index}: {error}")))
}

/// Makes a folder and those above it that are missing, with names that outlive a power cut.
fn make_folder(folder: &Path) -> io::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(folder)?;
    let parents = missing.into_iter().filter_map(Path::parent);
    parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).try_for_each(sync_folder)
}

/// Writes a new file of a folder, readable as `mode` says. After a crash it is there as a whole, or not at all.
fn write_whole(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let part = folder.join(format!("{name}.part"));
    // What an interrupted write left may be readable otherwise.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, folder.join(name))?;
    sync_folder(folder)
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|error| StoreError::Folder(format!("cannot open {}: {error}", path.display())))?;
    file.try_lock().map_err(|_| {
        StoreError::Folder(format!(
            "the data folder {} is in use by another process: stop that one, or choose another folder with --data",
            folder.display()
        ))
    })?;
    Ok(file)
}

fn check_format(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join("format");
    match fs::read_to_string(&path) {
        Ok(text) if text == FOLDER_FORMAT => Ok(()),
        Ok(text) => Err(StoreError::Folder(format!(
            "{} says {text:?}, but this program knows only {FOLDER_FORMAT:?}: use the program that wrote it",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let part = folder.join("format.part");
            let is_ours = |entry: fs::DirEntry| entry.file_name() == "lock" || entry.path() == part;
            let is_new = fs::read_dir(folder).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_ours)));
            if !is_new {
                let folder = folder.display();
                return Err(StoreError::Folder(format!(
                    "{folder} is no data folder of QBC, and not empty: choose another with --data"
                )));
            }
            let write = write_whole(folder, "format", 0o666, FOLDER_FORMAT.as_bytes());
            write.map_err(|error| StoreError::Folder(format!("cannot write {}: {error}", path.display())))
        }
        Err(error) => Err(StoreError::Folder(format!("cannot read {}: {error}", path.display()))),
    }
}

/// A name for a chain in the store's records is valid, since only valid names were written.
///
/// # Errors
/// The record was changed.
pub fn stored_name(record: &ChainRecord) -> Result<ChainName, StoreError> {
    record.name.parse().map_err(|_| StoreError::Damaged(format!("{:?} is no name of a chain", record.name)))
}
