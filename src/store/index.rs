//! Where what the log holds stands: the index over it, and the only file that names its engine (fjall).
//!
//! It is never synced for a write. It is written behind the log, each batch at once with the mark of the log that it comes
//! from, so after a crash it is as it was at some earlier mark, and the log is read from there on. A lost or damaged one, or one for
//! which that was interrupted, is made anew from the log.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `chains` | name | [`ChainRecord`] as JSON |
//! | `runs` | chain, index of the first | place in the log, bytes of the chain before it, number of transactions |
//! | `erased` | chain, index | time and index of the erasure, commitment |
//! | `quants` | chain, index | transactions of the chain when it was sealed, the quant as it is served |
//! | `sizes` | chain, size | index of the first quant of that size |
//! | `hashes` | chain, hash of a quant | its index |
//! | `ids` | chain, a client's id | index of its transaction |
//! | `tiles` | chain, level, number | 256 hashes: a complete Merkle tile |
//! | `own` | a name | what is the node's own, as JSON; votes and members of groups, and what the cluster knows |
//! | `entries` | group, index | place in the log, term, and who led: an applied entry |
//! | `meta` | `mark` | the [`Mark`] of the log that the index stands at |
//! | `meta` | `form` | the number of the form of all these rows: an index of another form is made anew. None is form 1 |
//! | each | eight bytes `ff` | nothing: the keyspace is not one that was lost |
//!
//! Numbers are big-endian, so that a chain is one range. What a fork shares stays under the number of the chain that wrote it: a
//! [`Lineage`](super::Lineage) says where.

use std::{fs, io, ops::Range, panic::catch_unwind, path::Path, time::Duration};

use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{ChainNumber, ChainRecord, StoreError, runs::Erasure};
use crate::{
    core::{
        count::{self, Size},
        hash::Hash,
        merkle::{TILE_WIDTH, Tile},
        quant::{Quant, QuantFields},
        transaction::Id,
    },
    log::{Mark, Place},
};

/// A log filter that leaves out what the engine tells of its normal work.
pub const QUIET: &str = "fjall=warn,lsm_tree=warn";

/// A value as it was read.
pub(super) type Value = fjall::Slice;

#[derive(Clone, Copy)]
pub(super) enum Space {
    Chains,
    Runs,
    Erased,
    Quants,
    Sizes,
    Hashes,
    Ids,
    Tiles,
    Own,
    Entries,
    Meta,
}

const SPACES: [(Space, &str); 11] = [
    (Space::Chains, "chains"),
    (Space::Runs, "runs"),
    (Space::Erased, "erased"),
    (Space::Quants, "quants"),
    (Space::Sizes, "sizes"),
    (Space::Hashes, "hashes"),
    (Space::Ids, "ids"),
    (Space::Tiles, "tiles"),
    (Space::Own, "own"),
    (Space::Entries, "entries"),
    (Space::Meta, "meta"),
];

/// The keyspaces that hold parts of a chain, each under a key that begins with its number.
pub(super) const PARTS: [Space; 7] =
    [Space::Runs, Space::Erased, Space::Quants, Space::Sizes, Space::Hashes, Space::Ids, Space::Tiles];

/// The row of the mark.
const MARK: &[u8] = b"mark";
/// The row of the form, and the form that this program reads and writes.
const FORM: (&[u8], &[u8]) = (b"form", b"1");
/// A row of each keyspace, after all others: one that was lost, and made anew by the engine, does not have it.
const THERE: &[u8] = &[0xff; 8];

pub(super) fn key<const N: usize>(parts: [u64; N]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.to_be_bytes()).collect()
}

pub(super) fn key_and(chain: ChainNumber, rest: &[u8]) -> Vec<u8> {
    [&chain.0.to_be_bytes(), rest].concat()
}

fn tile_key(chain: ChainNumber, level: u8, number: u64) -> Vec<u8> {
    [&chain.0.to_be_bytes()[..], &[level], &number.to_be_bytes()].concat()
}

/// Where a run stands.
#[derive(Clone, Copy)]
pub(super) struct RunRow {
    pub(super) first: count::Index,
    pub(super) place: Place,
    pub(super) bytes_before: u64,
    pub(super) count: u32,
}

impl RunRow {
    fn encode(&self) -> Vec<u8> {
        [&self.place.encode()[..], &self.bytes_before.to_be_bytes(), &self.count.to_be_bytes()].concat()
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<RunRow, StoreError> {
        let read = || {
            let first = count::Index::new(u64::from_be_bytes(*key.get(8..)?.as_array()?));
            let (place, rest) = value.split_first_chunk()?;
            let (bytes_before, count) = rest.split_first_chunk()?;
            let (bytes_before, count) = (u64::from_be_bytes(*bytes_before), u32::from_be_bytes(*count.as_array()?));
            Some(RunRow { first, place: Place::decode(place), bytes_before, count })
        };
        read().ok_or_else(|| malformed("the row of a run"))
    }

    /// The size of the chain with its last transaction.
    pub(super) fn end(&self) -> Size {
        Size::new(self.first.get() + u64::from(self.count))
    }
}

/// Changes of the index.
#[derive(Default)]
pub(super) struct Rows {
    puts: Vec<(Space, Vec<u8>, Vec<u8>)>,
    removed: Vec<(Space, Vec<u8>)>,
    /// Bytes of all that is put.
    pub(super) bytes: usize,
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removed.is_empty()
    }

    pub(super) fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.puts.push((space, key, value));
    }

    pub(super) fn remove(&mut self, space: Space, key: Vec<u8>) {
        self.removed.push((space, key));
    }

    pub(super) fn chain(&mut self, record: &ChainRecord) {
        let value = serde_json::to_vec(record).expect("a chain's record is JSON");
        self.put(Space::Chains, record.name.as_bytes().to_vec(), value);
    }

    pub(super) fn run(&mut self, chain: ChainNumber, row: &RunRow) {
        self.put(Space::Runs, key([chain.0, row.first.get()]), row.encode());
    }

    pub(super) fn erased(&mut self, chain: ChainNumber, index: count::Index, erasure: &Erasure) {
        let value = erasure.encode();
        self.put(Space::Erased, key([chain.0, index.get()]), value);
    }

    /// A quant behind one of `previous_size` transactions, sealed when the chain had `size`.
    pub(super) fn quant(&mut self, chain: ChainNumber, quant: &Quant, previous_size: Size, size: Size) {
        let index = quant.index().get().to_be_bytes();
        let mut value = size.get().to_be_bytes().to_vec();
        serde_json::to_writer(&mut value, quant).expect("a quant is JSON");
        self.put(Space::Quants, key_and(chain, &index), value);
        self.put(Space::Hashes, key_and(chain, quant.hash().as_bytes()), index.to_vec());
        if quant.size() > previous_size {
            self.put(Space::Sizes, key([chain.0, quant.size().get()]), index.to_vec());
        }
    }

    pub(super) fn id(&mut self, chain: ChainNumber, id: &Id, index: count::Index) {
        self.put(Space::Ids, key_and(chain, id.as_str().as_bytes()), index.get().to_be_bytes().to_vec());
    }

    pub(super) fn tile(&mut self, chain: ChainNumber, tile: &Tile) {
        let mut value = Vec::with_capacity(32 * TILE_WIDTH);
        tile.hashes.iter().for_each(|hash| value.extend_from_slice(hash.as_bytes()));
        self.put(Space::Tiles, tile_key(chain, tile.level, tile.number), value);
    }

    pub(super) fn own(&mut self, name: &str, value: Option<&str>) {
        let name = name.as_bytes().to_vec();
        match value {
            Some(value) => self.put(Space::Own, name, value.as_bytes().to_vec()),
            None => self.remove(Space::Own, name),
        }
    }
}

/// The open index.
pub(super) struct Index {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl Index {
    pub(super) fn open(folder: &Path) -> Result<Index, StoreError> {
        let database = Database::builder(folder)
            // Chains are read in long ranges, which a larger cache would not make faster.
            .cache_size(16 << 20)
            .worker_threads(2)
            // A restart replays at most this much.
            .max_journaling_size(128 << 20)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(32 << 20);
        let spaces = SPACES.iter().map(|(_, name)| database.keyspace(name, options)).collect::<Result<_, _>>()?;
        let index = Index { database, spaces };
        index.check_spaces()?;
        Ok(index)
    }

    /// After a cut of the power, a keyspace may be lost of which the engine's journal still tells.
    fn check_spaces(&self) -> Result<(), StoreError> {
        let are_there = SPACES.iter().map(|&(space, _)| Ok(self.get(space, THERE)?.is_some()));
        let are_there = are_there.collect::<Result<Vec<bool>, StoreError>>()?;
        match (are_there.contains(&true), are_there.contains(&false)) {
            (true, true) => Err(malformed("a keyspace")),
            (true, false) => match self.get(Space::Meta, FORM.0)? {
                Some(form) if form != FORM.1 => Err(StoreError::Damaged("it is of another version".into())),
                _ => Ok(()),
            },
            (false, _) => {
                let mut rows = Rows::default();
                rows.put(Space::Meta, FORM.0.to_vec(), FORM.1.to_vec());
                SPACES.iter().for_each(|&(space, _)| rows.put(space, THERE.to_vec(), Vec::new()));
                self.write(rows, None)
            }
        }
    }

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.space(space).get(key).map_err(unreadable)
    }

    /// The last entry in a range of keys.
    pub(super) fn last(&self, space: Space, range: Range<Vec<u8>>) -> Result<Option<(Value, Value)>, StoreError> {
        let entry = self.space(space).range(range).next_back();
        entry.map(|entry| entry.into_inner().map_err(unreadable)).transpose()
    }

    pub(super) fn number(&self, space: Space, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.get(space, key)?.map(|value| decode_number(&value)).transpose()
    }

    /// Opens the index in a folder, or makes it, anew where it cannot be opened.
    pub(super) fn open_or_make(folder: &Path) -> Result<Index, StoreError> {
        let open = || Index::open(folder).and_then(|index| index.mark().map(|_| index));
        // On some damage of its files, the engine panics, or ends the process. Then this file is left.
        let opening = folder.with_extension("opening");
        let unreadable = || StoreError::Damaged("the engine cannot read its files".into());
        let opened = if opening.exists() {
            Err(unreadable())
        } else {
            let _ = fs::write(&opening, []);
            catch_unwind(open).unwrap_or_else(|_| Err(unreadable()))
        };
        let _ = fs::remove_file(opening);
        match opened {
            Err(StoreError::Full) => Err(StoreError::Full),
            Err(error) => {
                tracing::warn!("the index cannot be opened: {error}");
                Index::make(folder)
            }
            opened => opened,
        }
    }

    /// Makes an empty one in its place.
    pub(super) fn make_anew(self, folder: &Path) -> Result<Index, StoreError> {
        drop(self);
        Index::make(folder)
    }

    pub(super) fn make(folder: &Path) -> Result<Index, StoreError> {
        tracing::info!("the index is made anew from the log");
        match if folder.is_dir() { fs::remove_dir_all(folder) } else { fs::remove_file(folder) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::from_io(&error)),
            _ => {}
        }
        Index::open(folder)
    }

    /// All chains, by name.
    pub(super) fn chains(&self) -> Result<Vec<ChainRecord>, StoreError> {
        let decode = |entry: fjall::Guard| from_json(&entry.value().map_err(unreadable)?, "a chain's record");
        self.space(Space::Chains).range(..THERE).map(decode).collect()
    }

    /// What is the node's own under all names that begin so.
    pub(super) fn all_own<T: serde::de::DeserializeOwned>(&self, name: &str, what: &str) -> Result<Vec<T>, StoreError> {
        let decode = |entry: fjall::Guard| from_json(&entry.value().map_err(unreadable)?, what);
        self.space(Space::Own).prefix(name).map(decode).collect()
    }

    /// Something of the node's own as it is stored.
    pub(super) fn own_text(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.get(Space::Own, name.as_bytes())?.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Reads what is the node's own: where it cannot be read, the index is made anew.
    pub(super) fn check_own(&self) -> Result<(), StoreError> {
        self.space(Space::Own).iter().try_for_each(|entry| entry.into_inner().map(drop).map_err(unreadable))
    }

    /// The mark of the log that it stands at.
    ///
    /// # Errors
    /// It was written [in part](Index::write_part), and that was not finished.
    pub(super) fn mark(&self) -> Result<Mark, StoreError> {
        let Some(value) = self.get(Space::Meta, MARK)? else { return Ok(Mark::START) };
        match value.as_array().map(Mark::decode) {
            Some(Mark::START) => Err(StoreError::Damaged("bringing the index up to the log was interrupted".into())),
            mark => mark.ok_or_else(|| malformed("the mark")),
        }
    }

    /// The last run of a chain that begins within its first `end` transactions.
    pub(super) fn run_before(&self, chain: ChainNumber, end: Size) -> Result<Option<RunRow>, StoreError> {
        let entry = self.last(Space::Runs, key([chain.0, 0])..key([chain.0, end.get()]))?;
        entry.map(|(key, value)| RunRow::decode(&key, &value)).transpose()
    }

    /// The newest quant that a chain wrote itself, and how many transactions the chain had when it was sealed.
    pub(super) fn newest_quant(&self, chain: ChainNumber) -> Result<Option<(Quant, Size)>, StoreError> {
        let entry = self.last(Space::Quants, key([chain.0, 0])..key([chain.0 + 1]))?;
        entry.map(|(_, value)| decode_quant(&value)).transpose()
    }

    /// What is left of an erased transaction.
    pub(super) fn erasure(&self, chain: ChainNumber, index: count::Index) -> Result<Option<Erasure>, StoreError> {
        let Some(value) = self.get(Space::Erased, &key([chain.0, index.get()]))? else { return Ok(None) };
        Erasure::decode(&value).map(Some).ok_or_else(|| malformed("the row of an erasure"))
    }

    pub(super) fn tile(&self, chain: ChainNumber, level: u8, number: u64) -> Result<Vec<Hash>, StoreError> {
        let value = self.get(Space::Tiles, &tile_key(chain, level, number))?;
        let hashes = value.as_deref().filter(|hashes| hashes.len() == 32 * TILE_WIDTH);
        let hashes = hashes.ok_or_else(|| malformed(&format!("tile {number} of level {level}")))?;
        Ok(hashes.as_chunks().0.iter().map(|hash| Hash::from_bytes(*hash)).collect())
    }

    /// Makes changes, at once with the mark of the log that they come from. They are not synced.
    pub(super) fn write(&self, rows: Rows, mark: Option<Mark>) -> Result<(), StoreError> {
        self.make_way()?;
        let mut write = self.database.batch();
        for (space, key, value) in rows.puts {
            write.insert(self.space(space), key, value);
        }
        for (space, key) in rows.removed {
            write.remove(self.space(space), key);
        }
        if let Some(mark) = mark {
            write.insert(self.space(Space::Meta), MARK, mark.encode());
        }
        Ok(write.commit()?)
    }

    /// Makes changes that are a part of what leads to the next mark. Until that is written, the index stands nowhere: the same
    /// part of the log cannot be put into it twice, since an import that it ends, or a chain that takes another's place, is
    /// not there any more.
    pub(super) fn write_part(&self, rows: Rows) -> Result<(), StoreError> {
        if rows.is_empty() { Ok(()) } else { self.write(rows, Some(Mark::START)) }
    }

    /// Waits while too much is to be flushed or merged. The engine would wait as well, but for ever where that fails.
    fn make_way(&self) -> Result<(), StoreError> {
        let is_behind = |space: &Keyspace| space.sealed_memtable_count() >= 3 || space.tree.l0_run_count() >= 28;
        while self.spaces.iter().any(is_behind) {
            // It does nothing but to tell whether the engine still works.
            self.database.persist(PersistMode::Buffer)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
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

/// The cure of a damaged index.
const CURE: &str = "stop the node, remove the folder \"index\", and start it again: it is made anew from the log";

pub(super) fn malformed(what: &str) -> StoreError {
    StoreError::Damaged(format!("in the index, {what} is missing or malformed: {CURE}"))
}

pub(super) fn decode_number(value: &[u8]) -> Result<u64, StoreError> {
    value.as_array().map(|bytes| u64::from_be_bytes(*bytes)).ok_or_else(|| malformed("a number"))
}

/// A quant, and how many transactions the chain had when it was sealed.
pub(super) fn decode_quant(value: &[u8]) -> Result<(Quant, Size), StoreError> {
    let (size, json) = value.split_first_chunk().ok_or_else(|| malformed("a quant"))?;
    let fields: QuantFields = from_json(json, "a quant")?;
    let index = fields.index;
    let quant = Quant::try_from(fields).map_err(|error| StoreError::Damaged(format!("quant {index}: {error}")))?;
    Ok((quant, Size::new(u64::from_be_bytes(*size))))
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(value: &[u8], what: &str) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| malformed(&format!("{what} ({error})")))
}

/// A read that fails means that what was written cannot be had any more.
pub(super) fn unreadable(error: fjall::Error) -> StoreError {
    use rustix::io::Errno;
    let (fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io))) = &error else {
        return StoreError::Damaged(format!("the index cannot be read: {error}: {CURE}"));
    };
    // These say nothing of the disk.
    match Errno::from_io_error(io) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
            StoreError::Failed(format!("the index cannot be read: {error}"))
        }
        _ => StoreError::Damaged(format!("the index cannot be read: {error}: {CURE}")),
    }
}
