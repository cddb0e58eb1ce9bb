//! The keys of stored runs: what is destroyed to erase.
//!
//! A storage engine keeps old versions of a value in its journal and its tables until it merges them, perhaps for ever. So
//! no run of transactions is stored as it is: each is encrypted with a key of its own that is used for nothing else, and the
//! keys stand in one file, which is overwritten in place. Where a key is gone, every copy of its run is random bytes.
//!
//! # The file
//! An array of 32-byte slots; a key is named by its slot, from 0.
//!
//! | part | bytes |
//! | --- | --- |
//! | random | 24 |
//! | XXH3-64 of the slot's number (8, big-endian) and of the random bytes | 8 |
//!
//! The key, of AES-256 in counter mode (NIST SP 800-38A section 6.5, first counter block 0), is the random bytes and the slot's
//! number. A slot of zeros is destroyed, or was never filled. Slots are filled and synced in groups, before one of them is
//! used; no slot is used twice, so a start begins a new group. A slot lies within one disk sector: it is never half destroyed.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Mutex,
};

use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use xxhash_rust::xxh3::xxh3_64;

/// The fastest that is safe: processors have instructions for it.
type Cipher = ctr::Ctr64BE<aes::Aes256>;

const SLOT: usize = 32;
const RANDOM: usize = 24;

/// Slots that are filled together, which costs one sync: 32 KiB.
const GROUP: u64 = 1_024;

/// Bytes of the file that one look-up reads: runs that were written one after the other have neighbouring slots.
const PAGE: u64 = 4_096;

/// The file of keys.
pub struct Keys {
    file: File,
    state: Mutex<State>,
}

struct State {
    /// The slot that is used next.
    next: u64,
    /// The group that it stands in, filled and synced; of no meaning where it is the first of a group.
    group: Vec<u8>,
}

/// What a slot holds.
pub enum Slot {
    /// The key of a run.
    Key(Key),
    /// Zeros.
    Destroyed,
    /// Something that was never written.
    Damaged,
}

/// The key of one run.
pub struct Key([u8; SLOT]);

impl Key {
    /// Encrypts, or decrypts, bytes that stand at `offset` of what the key is for.
    pub fn apply(&self, offset: usize, bytes: &mut [u8]) {
        let mut cipher = Cipher::new(&self.0.into(), &[0; 16].into());
        cipher.seek(offset as u64);
        cipher.apply_keystream(bytes);
    }

    fn of(slot: u64, random: &[u8]) -> Key {
        let mut key = [0; SLOT];
        key[..RANDOM].copy_from_slice(random);
        key[RANDOM..].copy_from_slice(&slot.to_be_bytes());
        Key(key)
    }
}

fn checksum(slot: u64, random: &[u8]) -> [u8; SLOT - RANDOM] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(&slot.to_be_bytes());
    bytes[8..].copy_from_slice(random);
    xxh3_64(&bytes).to_be_bytes()
}

fn decode(slot: u64, bytes: &[u8]) -> Slot {
    let (random, sum) = bytes.split_at(RANDOM);
    if bytes == [0; SLOT] {
        Slot::Destroyed
    } else if checksum(slot, random) == sum {
        Slot::Key(Key::of(slot, random))
    } else {
        Slot::Damaged
    }
}

impl Keys {
    /// Opens the file, or makes it. Only its owner may read it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Keys> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        // The last group may have been filled in part when the process was killed: none of its slots was used then.
        let next = (file.metadata()?.len() / SLOT as u64).next_multiple_of(GROUP);
        Ok(Keys { file, state: Mutex::new(State { next, group: Vec::new() }) })
    }

    /// A random key that was never used.
    ///
    /// # Errors
    /// More slots cannot be written and synced.
    pub fn take(&self) -> io::Result<(u64, Key)> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let slot = state.next;
        if slot.is_multiple_of(GROUP) {
            let mut group = vec![0; GROUP as usize * SLOT];
            rand::fill(&mut group[..]);
            for (slot, bytes) in (slot..).zip(group.chunks_exact_mut(SLOT)) {
                let (key, sum) = bytes.split_at_mut(RANDOM);
                sum.copy_from_slice(&checksum(slot, key));
            }
            self.file.write_all_at(&group, slot * SLOT as u64)?;
            self.file.sync_data()?;
            state.group = group;
        }
        let key = Key::of(slot, &state.group[(slot % GROUP) as usize * SLOT..][..RANDOM]);
        state.next += 1;
        Ok((slot, key))
    }

    /// How many slots are filled, used or not.
    pub fn filled(&self) -> u64 {
        self.state.lock().expect("no holder of this lock panics").next.next_multiple_of(GROUP)
    }

    /// A reader for several look-ups.
    pub fn reader(&self) -> Reader<'_> {
        Reader { file: &self.file, page: u64::MAX, bytes: Vec::new() }
    }

    /// Overwrites keys with zeros. When this returns, that is on disk.
    ///
    /// # Errors
    /// They may be there still.
    pub fn destroy(&self, slots: &[u64]) -> io::Result<()> {
        for slot in slots {
            self.file.write_all_at(&[0; SLOT], slot * SLOT as u64)?;
        }
        self.file.sync_data()
    }
}

/// How many whole slots a file has. Where there is no file, none.
///
/// # Errors
/// It cannot be looked at.
pub fn count(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        metadata => Ok(metadata?.len() / SLOT as u64),
    }
}

/// Compares all slots of a file with their checksums, and gives the first that differs. Where there is no file, none does.
///
/// # Errors
/// It cannot be read.
pub fn first_damaged(path: &Path) -> io::Result<Option<u64>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let slots = file.metadata()?.len() / SLOT as u64;
    let mut reader = Reader { file: &file, page: u64::MAX, bytes: Vec::new() };
    for slot in 0..slots {
        if let Slot::Damaged = reader.get(slot)? {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

/// Looks keys up. It keeps the last page that it read.
pub struct Reader<'a> {
    file: &'a File,
    page: u64,
    bytes: Vec<u8>,
}

impl Reader<'_> {
    /// What a slot holds. A slot behind the end of the file is destroyed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&mut self, slot: u64) -> io::Result<Slot> {
        let offset = slot * SLOT as u64;
        if self.page != offset / PAGE {
            self.page = u64::MAX;
            self.bytes.resize(PAGE as usize, 0);
            let mut read = 0;
            loop {
                match self.file.read_at(&mut self.bytes[read..], offset / PAGE * PAGE + read as u64) {
                    Ok(0) => break,
                    Ok(more) => read += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.bytes[read..].fill(0);
            self.page = offset / PAGE;
        }
        let at = (offset % PAGE) as usize;
        Ok(decode(slot, &self.bytes[at..at + SLOT]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(keys: &Keys, slot: u64) -> Option<[u8; SLOT]> {
        match keys.reader().get(slot).unwrap() {
            Slot::Key(key) => Some(key.0),
            Slot::Destroyed => None,
            Slot::Damaged => panic!("slot {slot} is damaged"),
        }
    }

    #[test]
    fn no_slot_is_used_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.keys");
        let mut used = Vec::new();
        for round in 0..4 {
            let keys = Keys::open(&path).unwrap();
            for _ in 0..round * 700 {
                used.push(keys.take().unwrap().0);
            }
            // A crash may leave any part of a group that was not used yet.
            drop(keys);
            let file = File::options().append(true).open(&path).unwrap();
            file.set_len(fs::metadata(&path).unwrap().len() + 100).unwrap();
        }
        let count = used.len();
        used.dedup();
        assert!(used.is_sorted() && used.len() == count);
    }

    #[test]
    fn a_destroyed_key_is_gone_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.keys");
        let keys = Keys::open(&path).unwrap();
        let taken: Vec<_> = (0..300).map(|_| keys.take().unwrap()).collect();
        keys.destroy(&[7, 299]).unwrap();
        for (slot, key) in &taken {
            assert_eq!(found(&keys, *slot), (![7, 299].contains(slot)).then_some(key.0));
        }
        assert_eq!(found(&keys, 1 << 40), None);
        assert_eq!(first_damaged(&path).unwrap(), None);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8 * SLOT + 3] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(first_damaged(&path).unwrap(), Some(8));
    }

    /// AES-256 of the counter blocks 0 and 1 with a key of zeros: NIST AESAVS appendix B.1 with a zero text, and the tag of
    /// test case 13 of the GCM specification, which is the cipher of block 1.
    #[test]
    fn the_cipher_is_aes_256_in_counter_mode() {
        let mut bytes = [0; 128];
        Key([0; SLOT]).apply(0, &mut bytes);
        assert_eq!(hex::encode(&bytes[..16]), "dc95c078a2408989ad48a21492842087");
        assert_eq!(hex::encode(&bytes[16..32]), "530f8afbc74536b9a963b4f1c4cb738b");
        let mut part = bytes[70..].to_vec();
        Key([0; SLOT]).apply(70, &mut part);
        assert_eq!(part, [0; 58]);
    }
}
