//! Segment files: made, filled with zeros in the background, cut when they are finished.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, RwLock},
    thread::JoinHandle,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{Errno, retry_on_intr},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{LogError, Mark, Place, Shared, number64};

/// Bytes of the head of a segment.
pub(super) const HEAD: usize = 48;

/// Bytes of the largest batch. The writer ends a batch at [`BATCH_BYTES`](crate::limits::BATCH_BYTES), but the last command may
/// be an array of [`BODY_BYTES`](crate::limits::BODY_BYTES), of which every five (`1e20,`) are 22 in canonical JSON: 36 MiB, and
/// 4 MiB for the other fields of its transactions.
pub(super) const LARGEST_BATCH: usize = 64 << 20;

/// Bytes of the smallest and of the largest segment. Between them a new one is a sixteenth of the log: what is not used yet is a
/// small part of the whole, and a log of a terabyte has some thousand files.
const SIZES: [u64; 2] = [1 << 20, 256 << 20];

const FORM: &[u8; 8] = b"qbc-log1";
/// Bytes of zeros that are written and synced at a time: the least, and the most of a large segment, which would take too many syncs. The
/// disk is busy with them for some milliseconds at most.
const ZEROS: [u64; 2] = [256 << 10, 1 << 20];
/// The smallest part of a file that a file system can give back.
const BLOCK: u64 = 4_096;

/// One file of the log.
pub(super) struct Segment {
    pub(super) file: File,
    /// Bytes that it has space for.
    pub(super) capacity: u64,
}

impl Segment {
    /// Allocates space, which reads as zeros, up to this length of the file, and makes that durable.
    pub(super) fn allocate(&self, length: u64) -> Result<(), LogError> {
        let allocated = match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, length)) {
            // Some file systems cannot.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(length),
            done => done.map_err(io::Error::from),
        };
        let durable = allocated.and_then(|()| self.file.sync_all());
        durable.map_err(|error| LogError::write("space for the log cannot be allocated", &error))
    }

    /// Gives the whole blocks of an overwritten payload back to the file system, where that can be done.
    pub(super) fn give_back(&self, payload: Place) {
        let start = u64::from(payload.offset).next_multiple_of(BLOCK);
        let end = (u64::from(payload.offset) + u64::from(payload.length)) / BLOCK * BLOCK;
        if start < end {
            // The zeros are there already, so nothing depends on it.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if let Err(error) = fallocate(&self.file, flags, start, end - start) {
                tracing::debug!("erased blocks are not given back: {error}");
            }
        }
    }
}

/// The head of a segment after `before`.
pub(super) fn head(seed: u64, segment: u32, before: Mark) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(FORM);
    for (at, number) in [seed, segment.into(), before.checksum, before.number + 1].into_iter().enumerate() {
        head[8 + 8 * at..][..8].copy_from_slice(&number.to_be_bytes());
    }
    let checksum = xxh3_64_with_seed(&head[..HEAD - 8], seed);
    head[HEAD - 8..].copy_from_slice(&checksum.to_be_bytes());
    head
}

/// The seed of the log, as the head of its first segment says.
pub(super) fn seed_of(file: &File) -> Result<u64, LogError> {
    let damaged = |detail: &str| LogError::damaged(0, 0, detail);
    let mut bytes = [0; HEAD];
    file.read_exact_at(&mut bytes, 0).map_err(|error| damaged(&format!("its head cannot be read: {error}")))?;
    let seed = number64(&bytes[8..]);
    if bytes == head(seed, 0, Mark::START) { Ok(seed) } else { Err(damaged("its head is not as it was written")) }
}

/// The number of the first batch of a segment, if its head is one of this log.
pub(super) fn first_batch(head: &[u8; HEAD], seed: u64, segment: u32) -> Option<u64> {
    let (checksum, first) = (number64(&head[24..]), number64(&head[32..]));
    let before = Mark { checksum, number: first.checked_sub(1)?, ..Mark::START };
    (*head == self::head(seed, segment, before)).then_some(first)
}

/// The path of a segment's file.
pub(super) fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:08}.log"))
}

/// The numbers of all segment files of a folder, in their order.
pub(super) fn numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|digits| digits.len() >= 8);
        numbers.extend(digits.and_then(|digits| digits.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// All segment files of a folder, by number; to be written to, or only read.
///
/// # Errors
/// One is missing among them, or cannot be opened.
pub(super) fn open_all(folder: &Path, to_write: bool) -> Result<Vec<Arc<Segment>>, LogError> {
    let unreadable = |error: io::Error| LogError::Failed(format!("{} cannot be read: {error}", folder.display()));
    let numbers = numbers(folder).map_err(unreadable)?;
    let mut segments = Vec::with_capacity(numbers.len());
    for (expected, number) in (0u32..).zip(numbers) {
        if number != expected {
            return Err(LogError::damaged(expected, 0, "its file is missing"));
        }
        let open = OpenOptions::new().read(true).write(to_write).open(path(folder, number));
        let segment = open.and_then(|file| Ok(Segment { capacity: file.metadata()?.len(), file }));
        segments.push(Arc::new(segment.map_err(|error| LogError::damaged(number, 0, error.to_string()))?));
    }
    Ok(segments)
}

/// Makes a log in an empty folder: one segment.
pub(super) fn create(folder: &Path, seed: u64) -> io::Result<(Shared, Mark, u32)> {
    let part = folder.join("first.part");
    let mut file = new_file(&part)?;
    file.write_all(&head(seed, 0, Mark::START))?;
    file.write_all(&vec![0; SIZES[0] as usize - HEAD])?;
    file.sync_all()?;
    fs::rename(&part, path(folder, 0))?;
    sync_folder(folder)?;
    let segments = RwLock::new(vec![Arc::new(Segment { file, capacity: SIZES[0] })]);
    Ok((Shared { folder: folder.into(), seed, segments }, Mark::START, 0))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Makes a folder and those above it that are missing, with names that outlive a power cut.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(folder)?;
    let parents = missing.into_iter().filter_map(Path::parent);
    parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).try_for_each(sync_folder)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes the next segment while the newest is written to.
pub(super) struct Preparer {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

enum State {
    /// Nothing is to be done before a segment is taken.
    Idle,
    /// A segment of this number and capacity is to be made.
    Wanted(u32, u64),
    /// It is being made.
    Making,
    /// It is there.
    Ready(Segment),
    /// The log is closed.
    Closed,
}

impl Preparer {
    /// Starts the thread that prepares the segment after `newest`, unless it is there already.
    ///
    /// # Errors
    /// The system gives no thread, or the folder cannot be changed.
    pub(super) fn start(log: &Shared, newest: u32) -> Result<Preparer, LogError> {
        // Those after the newest are empty. The first of them is taken again as a new one would be. Another is there where that
        // one was taken, but not written to: it goes, or it would stand after a gap if the one before it cannot be made again.
        let mut empty = log.segments.write().expect("no holder of this lock panics").split_off(newest as usize + 1);
        if empty.len() > 1 {
            let surplus = (newest + 2..).take(empty.len() - 1).collect::<Vec<u32>>();
            let mut latest_first = surplus.into_iter().rev();
            let removed = latest_first.try_for_each(|number| fs::remove_file(path(&log.folder, number)));
            removed
                .and_then(|()| sync_folder(&log.folder))
                .map_err(|error| LogError::write("a segment of the log that is not used cannot be removed", &error))?;
            empty.truncate(1);
        }
        let ready = empty.pop().and_then(Arc::into_inner);
        let state = ready.map_or_else(|| State::Wanted(newest + 1, log.next_capacity()), State::Ready);
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let (theirs, folder) = (shared.clone(), log.folder.clone());
        let thread = std::thread::Builder::new().name("segments".into()).spawn(move || prepare_all(&theirs, &folder));
        let thread = thread.map_err(|error| LogError::Failed(format!("no thread can be started: {error}")))?;
        Ok(Preparer { shared, thread: Some(thread) })
    }

    /// Takes the prepared segment into the log, or makes it at once where it is not ready or has no room for a batch of
    /// `length`, and has the one after it prepared. Returns its capacity.
    pub(super) fn take(&self, log: &Shared, number: u32, length: usize) -> Result<u64, LogError> {
        let (state, wake) = &*self.shared;
        let mut state = state.lock().expect("no holder of this lock panics");
        let least = (HEAD + length) as u64;
        let ready = match std::mem::replace(&mut *state, State::Idle) {
            State::Ready(segment) if segment.capacity >= least => Ok(segment),
            State::Ready(segment) => segment.allocate(least).map(|()| Segment { capacity: least, ..segment }),
            _ => allocated(&log.folder, number, log.next_capacity().max(least)),
        }?;
        let capacity = ready.capacity;
        log.segments.write().expect("no holder of this lock panics").push(Arc::new(ready));
        *state = State::Wanted(number + 1, log.next_capacity());
        wake.notify_one();
        Ok(capacity)
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        let (state, wake) = &*self.shared;
        *state.lock().expect("no holder of this lock panics") = State::Closed;
        wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Bytes of the next segment.
    fn next_capacity(&self) -> u64 {
        let segments = self.segments.read().expect("no holder of this lock panics");
        let total: u64 = segments.iter().map(|segment| segment.capacity).sum();
        (total / 16).next_multiple_of(SIZES[0]).clamp(SIZES[0], SIZES[1])
    }
}

fn prepare_all(shared: &(Mutex<State>, Condvar), folder: &Path) {
    let (state, wake) = shared;
    let mut guard = state.lock().expect("no holder of this lock panics");
    loop {
        match *guard {
            State::Closed => return,
            State::Wanted(number, capacity) => {
                *guard = State::Making;
                drop(guard);
                let goes_on = || matches!(*state.lock().expect("no holder of this lock panics"), State::Making);
                let part = folder.join("next.part");
                let made = filled(&part, capacity, goes_on);
                guard = state.lock().expect("no holder of this lock panics");
                // Where it came too late, another was made in its place.
                if !matches!(*guard, State::Making) {
                    let _ = fs::remove_file(&part);
                    continue;
                }
                let named = made.and_then(|file| {
                    fs::rename(&part, path(folder, number))?;
                    sync_folder(folder)?;
                    Ok(Segment { file, capacity })
                });
                *guard = match named {
                    Ok(segment) => State::Ready(segment),
                    Err(error) => {
                        let _ = fs::remove_file(&part);
                        tracing::warn!("the next segment of the log cannot be prepared: {error}");
                        State::Idle
                    }
                };
            }
            State::Idle | State::Making | State::Ready(_) => {
                guard = wake.wait(guard).expect("no holder of this lock panics");
            }
        }
    }
}

/// A file of zeros that is written and synced, unless it is not wanted any more.
fn filled(path: &Path, capacity: u64, goes_on: impl Fn() -> bool) -> io::Result<File> {
    let mut file = new_file(path)?;
    let zeros = vec![0; (capacity / 64).clamp(ZEROS[0], ZEROS[1]) as usize];
    let mut left = capacity as usize;
    while left > 0 && goes_on() {
        let piece = left.min(zeros.len());
        file.write_all(&zeros[..piece])?;
        // A sync of all of it would hold up those of the log.
        file.sync_data()?;
        left -= piece;
    }
    Ok(file)
}

/// A segment with space for so many bytes, made at once.
fn allocated(folder: &Path, number: u32, capacity: u64) -> Result<Segment, LogError> {
    let path = path(folder, number);
    let not_made = |error: io::Error| LogError::write("a segment of the log cannot be made", &error);
    let segment = Segment { file: new_file(&path).map_err(not_made)?, capacity };
    let made = segment.allocate(capacity).and_then(|()| sync_folder(folder).map_err(not_made));
    made.inspect_err(|_| {
        let _ = fs::remove_file(&path);
    })?;
    Ok(segment)
}
