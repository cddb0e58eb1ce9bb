//! What the engine has on disk, read without it.
//!
//! The engine takes a damaged journal for one that a crash cut short, and destroys all behind the damage; it believes the
//! lists of its tables unseen; and a batch that it could not write may still reach the disk when it closes. So its journals
//! and lists are read here before it opens them, and what was answered with an error is cut off when it has closed.
//!
//! # The engine's form (fjall 3)
//! A journal, `N.jnl`, is a sequence of batches, and behind them zeros up to its preallocated length, or nothing. Numbers are
//! little-endian.
//!
//! | part | bytes |
//! | --- | --- |
//! | start | `1`, items (4), sequence number (8) |
//! | item | `2`, kind (1), compression (1), keyspace (8), length of key (2), of value (4), of stored value (4), key, value |
//! | end | `3`, XXH3-64 of all items (8), `FJL`, `3` |
//!
//! The last item of each of our batches is its [`Stamp`]. In `keyspaces/N`, the file `current` holds the number of the list
//! that counts, its XXH3-128 and `0`; that list, `vNUMBER`, names the files in `tables` with the XXH3-128 of each.

use std::{
    fs::{self, File},
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_128};

use super::{StoreError, VALUE_FORMAT};

/// What each batch says of itself. The engine's checksum covers it, but not the engine's own sequence number of the batch: so
/// that number is held between the stamps of this batch and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Batches so far, this one counted.
    pub commits: u64,
    /// The sequence number that the engine gives next.
    pub sequence: u64,
}

impl Stamp {
    /// Its stored form.
    pub fn encode(self) -> Vec<u8> {
        [self.commits.to_be_bytes(), self.sequence.to_be_bytes()].concat()
    }

    /// From its stored form.
    pub fn decode(bytes: &[u8]) -> Option<Stamp> {
        let (commits, sequence) = bytes.split_first_chunk()?;
        Some(Stamp { commits: u64::from_be_bytes(*commits), sequence: u64::from_be_bytes(sequence.try_into().ok()?) })
    }
}

/// A batch that is whole.
struct Batch {
    length: usize,
    sequence: u64,
    stamp: Stamp,
}

/// The batch at the front of `bytes`, if it is whole.
fn whole_batch(bytes: &[u8]) -> Option<Batch> {
    let mut rest = bytes;
    let [1] = take(&mut rest)? else { return None };
    let items = u32::from_le_bytes(take(&mut rest)?);
    let sequence = u64::from_le_bytes(take(&mut rest)?);
    let body = rest;
    let mut last = &body[..0];
    for _ in 0..items {
        last = item(&mut rest)?;
    }
    let sum = xxh3_64(&body[..body.len() - rest.len()]);
    let end = [&[3], &sum.to_le_bytes()[..], b"FJL\x03"].concat();
    let stamp = Stamp::decode(last.strip_prefix(&[VALUE_FORMAT])?)?;
    rest.starts_with(&end).then(|| Batch { length: bytes.len() - rest.len() + end.len(), sequence, stamp })
}

const ITEM_HEAD: usize = 21;

/// Takes an item, and gives its value.
fn item<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let head: [u8; ITEM_HEAD] = take(rest)?;
    if head[0] != 2 {
        return None;
    }
    let (key, value) = lengths(&head);
    rest.split_off(..key)?;
    rest.split_off(..value)
}

/// Of an item's key and stored value.
fn lengths(head: &[u8; ITEM_HEAD]) -> (usize, usize) {
    let key = u16::from_le_bytes([head[11], head[12]]);
    let value = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
    (usize::from(key), value as usize)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    rest.split_off(..N)?.try_into().ok()
}

/// The bytes up to the zeros at their end.
fn written(mut bytes: &[u8]) -> &[u8] {
    // Block by block first: most of a journal was never written.
    while let Some(shorter) = bytes.strip_suffix(&[0; 4096]) {
        bytes = shorter;
    }
    while let [shorter @ .., 0] = bytes {
        bytes = shorter;
    }
    bytes
}

/// Whether these bytes, which are no whole batch and do not end with zero, can be what a killed process wrote of one.
fn is_front_of_batch(bytes: &[u8]) -> bool {
    let mut at = 13;
    while let Some(part) = bytes.get(at).filter(|_| bytes[0] == 1) {
        match (part, bytes[at..].first_chunk::<ITEM_HEAD>()) {
            (2, Some(head)) => at += ITEM_HEAD + lengths(head).0 + lengths(head).1,
            (2, None) => return true,
            // A whole end with a wrong checksum is no front.
            (3, _) => return bytes.len() < at + 13,
            _ => return false,
        }
    }
    matches!(bytes.first(), None | Some(1))
}

/// The journals of the engine's folder, oldest first.
fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl"));
        if let Some(number) = name.and_then(|name| name.parse::<u64>().ok()) {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Damaged(format!("cannot read {}: {error}", path.display()))
}

fn damaged<T>(path: &Path, what: &str) -> Result<T, StoreError> {
    Err(StoreError::Damaged(format!("{} {what}", path.display())))
}

/// What opening does with the rest of an interrupted write behind the last whole batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It is cut off, whatever it is: a power cut may leave any part of what was not acknowledged.
    Cut,
    /// It stays, and is a fault where a killed process cannot have left it.
    Judge,
}

/// Reads all journals: nothing in them may be damaged, and the newest batch that was acknowledged must be there.
///
/// # Errors
/// The place of the damage. Then nothing was changed.
pub fn check_journals(folder: &Path, acknowledged: Option<Stamp>, on_rest: Rest) -> Result<(), StoreError> {
    let mut newest = None;
    let mut rests = Vec::new();
    for path in journals(folder).map_err(unreadable(folder))? {
        let bytes = fs::read(&path).map_err(unreadable(&path))?;
        let mut rest = &bytes[..];
        let place = |rest: &[u8]| format!("is damaged at byte {}", bytes.len() - rest.len());
        while let Some(batch) = whole_batch(rest) {
            check_order(newest.as_ref(), &batch, acknowledged)
                .or_else(|fault| damaged(&path, &format!("{}: {fault}", place(rest))))?;
            rest = &rest[batch.length..];
            newest = Some(batch);
        }
        let last = written(rest);
        if (1..last.len()).any(|at| last[at] == 1 && whole_batch(&rest[at..]).is_some()) {
            return damaged(&path, &format!("{}, with whole commits behind it", place(rest)));
        }
        if on_rest == Rest::Judge && !is_front_of_batch(last) {
            return damaged(&path, &format!("{}, behind its last whole commit", place(rest)));
        }
        if !last.is_empty() {
            rests.push((path, (bytes.len() - rest.len()) as u64));
        }
    }
    match (newest.map(|batch| batch.stamp.commits), acknowledged.map(|newest| newest.commits)) {
        (Some(_), None) => damaged(folder, "has commits, but the file \"acknowledged\" is missing or cut short"),
        (Some(found), Some(acknowledged)) if found < acknowledged => {
            let place = rests.last().map(|(path, end)| format!(": {} is damaged at byte {end}", path.display()));
            let counts = format!("has lost commits, {acknowledged} were acknowledged and {found} are found");
            damaged(folder, &(counts + &place.unwrap_or_default()))
        }
        _ if on_rest == Rest::Cut => rests.iter().try_for_each(|(path, end)| cut(path, *end).map_err(unreadable(path))),
        _ => Ok(()),
    }
}

/// A batch follows the one before it, and its sequence number is held by the stamps on both sides.
fn check_order(previous: Option<&Batch>, batch: &Batch, acknowledged: Option<Stamp>) -> Result<(), &'static str> {
    let stamp = batch.stamp;
    if previous.is_some_and(|previous| previous.stamp.commits + 1 != stamp.commits) {
        return Err("a commit is missing before this one");
    }
    let is_behind = |sequence| batch.sequence >= sequence;
    if !is_behind(stamp.sequence) || previous.is_some_and(|previous| previous.sequence >= stamp.sequence) {
        return Err("the sequence number of this commit or of the one before is not what was written");
    }
    if acknowledged.is_some_and(|newest| stamp.commits <= newest.commits && is_behind(newest.sequence)) {
        return Err("the sequence number of this commit is not what was written");
    }
    Ok(())
}

/// Cuts off what stands in the journals behind commit `commits`: it was answered with an error, but the engine may have
/// written it whole, at once or when it closed.
///
/// # Errors
/// The files cannot be read or cut.
pub fn cut_behind(folder: &Path, commits: u64) -> io::Result<()> {
    for path in journals(folder)? {
        let bytes = fs::read(&path)?;
        let mut rest = &bytes[..];
        while let Some(batch) = whole_batch(rest).filter(|batch| batch.stamp.commits <= commits) {
            rest = &rest[batch.length..];
        }
        if !written(rest).is_empty() {
            cut(&path, (bytes.len() - rest.len()) as u64)?;
        }
    }
    Ok(())
}

fn cut(path: &Path, end: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(end)?;
    file.sync_all()
}

/// The list of a keyspace's tables.
pub struct List {
    keyspace: PathBuf,
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Reads the list of each keyspace and compares it with its checksum.
///
/// # Errors
/// The first list that differs.
pub fn check_lists(folder: &Path) -> Result<Vec<List>, StoreError> {
    let folder = folder.join("keyspaces");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable(&folder))?,
    };
    let mut lists = Vec::new();
    for entry in entries {
        let keyspace = entry.map_err(unreadable(&folder))?.path();
        let path = keyspace.join("current");
        let current = match fs::read(&path) {
            // The making of the folder was interrupted; the engine makes it anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            current => current.map_err(unreadable(&path))?,
        };
        let mut rest = &current[..];
        let (Some(number), Some(sum), &[0]) = (take(&mut rest), take(&mut rest), rest) else {
            return damaged(&path, "is malformed");
        };
        let path = keyspace.join(format!("v{}", u64::from_le_bytes(number)));
        let bytes = fs::read(&path).map_err(unreadable(&path))?;
        if xxh3_128(&bytes) != u128::from_le_bytes(sum) {
            return damaged(&path, "does not match its checksum");
        }
        lists.push(List { keyspace, path, bytes });
    }
    Ok(lists)
}

/// Removes older lists, which the engine leaves until it opens the folder again: nothing could tell damage in them.
///
/// # Errors
/// They cannot be removed, or the lists that count are damaged.
pub fn remove_old_lists(folder: &Path) -> Result<(), StoreError> {
    for list in check_lists(folder)? {
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&list.keyspace)? {
                let path = entry?.path();
                if path != list.path && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"v")) {
                    fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        remove().map_err(|error| StoreError::from_io(&error))?;
    }
    Ok(())
}

/// Compares each table file with the checksum that its list has of it.
///
/// # Errors
/// The first file that differs.
pub fn check_tables(folder: &Path) -> Result<(), StoreError> {
    for list in check_lists(folder)? {
        let Some(tables) = tables(&list.bytes) else {
            return damaged(&list.path, "is malformed");
        };
        for (table, expected) in tables {
            let path = list.keyspace.join("tables").join(table.to_string());
            if file_checksum(&path).map_err(unreadable(&path))? != expected {
                return damaged(&path, "does not match its checksum");
            }
        }
    }
    Ok(())
}

/// The numbers and checksums of a list's tables: levels of runs of tables.
fn tables(list: &[u8]) -> Option<Vec<(u64, u128)>> {
    let archive = sfa::Reader::from_reader(&mut Cursor::new(list)).ok()?;
    let section = archive.toc().section(b"tables")?;
    let mut rest = list.get(section.pos() as usize..)?.get(..section.len() as usize)?;
    let mut tables = Vec::new();
    let [levels] = take(&mut rest)?;
    for _ in 0..levels {
        let [runs] = take(&mut rest)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
                let number = u64::from_le_bytes(take(&mut rest)?);
                let [0] = take(&mut rest)? else { return None };
                tables.push((number, u128::from_le_bytes(take(&mut rest)?)));
                let _sequence: [u8; 8] = take(&mut rest)?;
            }
        }
    }
    rest.is_empty().then_some(tables)
}

fn file_checksum(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut sum = Xxh3Default::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum.digest128()),
            read => sum.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Batch, Store},
        *,
    };

    /// A folder with some commits, and its journal cut to little more than what is written.
    fn folder() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for hosts in 0..4 {
            let mut batch = Batch::default();
            batch.nodes(&vec!["localhost:5001".to_string(); hosts]);
            store.commit(batch).unwrap();
        }
        drop(store);
        let path = folder.path().join("store/0.jnl");
        let mut bytes = written(&fs::read(&path).unwrap()).to_vec();
        bytes.extend([0; 100]);
        fs::write(&path, &bytes).unwrap();
        Store::check_files(folder.path()).unwrap();
        (folder, path, bytes)
    }

    /// Flips a bit of each byte of a file.
    fn every_bit(folder: &Path, path: &Path) {
        let bytes = fs::read(path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(path, &flipped).unwrap();
            assert!(Store::check_files(folder).is_err(), "byte {at} of {}", path.display());
        }
        fs::write(path, &bytes).unwrap();
    }

    #[test]
    fn a_flipped_bit_in_any_byte_is_found() {
        let (folder, _, _) = folder();
        let mut folders = vec![folder.path().join("store")];
        while let Some(parent) = folders.pop() {
            for path in fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                // What the engine checks itself.
                } else if !path.ends_with("version") {
                    every_bit(folder.path(), &path);
                }
            }
        }
        every_bit(folder.path(), &folder.path().join("acknowledged"));
        Store::check_files(folder.path()).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_of_a_batch_is_no_fault_and_is_cut_off() {
        let (folder, path, bytes) = folder();
        let whole = written(&bytes).len();
        let last = {
            let mut at = 0;
            while let Some(batch) = whole_batch(&bytes[at..]).filter(|batch| at + batch.length < whole) {
                at += batch.length;
            }
            at
        };
        let store = folder.path().join("store");
        let acknowledged = Some(Stamp { commits: 3, sequence: u64::MAX });
        for end in last..whole {
            for zeros in [0, 50] {
                fs::write(&path, [&bytes[..end], &vec![0; zeros]].concat()).unwrap();
                check_journals(&store, acknowledged, Rest::Judge).unwrap();
                check_journals(&store, Some(Stamp { commits: 4, sequence: u64::MAX }), Rest::Cut).unwrap_err();
                check_journals(&store, acknowledged, Rest::Cut).unwrap();
                assert!(written(&fs::read(&path).unwrap()).len() <= last);
            }
        }
    }

    #[test]
    fn a_batch_in_the_middle_that_is_damaged_is_not_cut_off_with_all_behind_it() {
        let (folder, path, bytes) = folder();
        let mut flipped = bytes.clone();
        flipped[whole_batch(&bytes).unwrap().length + 50] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(Store::open(folder.path()).is_err());
        assert_eq!(fs::read(&path).unwrap(), flipped);
    }

    #[test]
    fn what_was_answered_with_an_error_is_cut_off() {
        let (folder, path, bytes) = folder();
        cut_behind(&folder.path().join("store"), 3).unwrap();
        let left = fs::read(&path).unwrap();
        assert!(bytes.starts_with(&left) && left.len() + 100 < bytes.len());
        let acknowledged = Some(Stamp { commits: 3, sequence: u64::MAX });
        check_journals(&folder.path().join("store"), acknowledged, Rest::Judge).unwrap();
    }
}
