//! The durable log: what is accepted is written here once, and is read from here by its place. It knows nothing of chains.
//!
//! A log is a folder of segment files. A **batch** is what one sync makes durable; it holds **records**, each of plain bytes
//! and of **payloads**, which can be erased in place while everything else goes on to verify. Batches are numbered from 1.
//!
//! # The files
//! Numbers are big-endian, and checksums are XXH3-64 with the log's own random seed, so that nobody can make a valid batch of
//! the bytes that a client sends. Batches and records begin at multiples of 8 bytes, with zeros between.
//!
//! | segment `NNNNNNNN.log`: its head | bytes |
//! | --- | --- |
//! | `qbc-log1` | 8 |
//! | the log's seed | 8 |
//! | number of the segment, from 0 | 8 |
//! | checksum of the batch before its first, 0 where there is none | 8 |
//! | number of its first batch | 8 |
//! | checksum of the head so far | 8 |
//!
//! | batch | bytes |
//! | --- | --- |
//! | length of the whole | 4 |
//! | number of records | 4 |
//! | number of erasures | 4 |
//! | zeros | 4 |
//! | number of the batch | 8 |
//! | checksum of the batch before | 8 |
//! | checksum of the heads (16 bytes) of the records, and of the erasures | 8 |
//! | checksum of the batch: of all so far | 8 |
//! | the records | |
//! | the erasures: [places](Place) of payloads, 12 each | |
//!
//! | record | bytes |
//! | --- | --- |
//! | checksum of all from here to the end of the plain bytes | 8 |
//! | length of the plain bytes | 4 |
//! | number of payloads | 4 |
//! | of each payload its length and checksum | 4 and 8 |
//! | the plain bytes | |
//! | the payloads, one after the other | |
//!
//! The file `acknowledged` holds the [mark](Mark) of the newest batch that was synced, a byte that says whether the log was closed in
//! order, and a checksum. It is not synced with each batch: it survives the death of the process, and after a cut of the power it may
//! be older than the log, never newer. The file `copying` stands in a [copy](copy()) of a log that is being written, and is gone when that is done.
//!
//! # What is promised
//! - **Segments are filled with zeros before they are used**, the next one in the background, so that a sync overwrites blocks
//!   that exist, which costs the file system no journal of its own. Where the next one is not ready in time, space for it is
//!   only allocated: no write waits for zeros.
//! - **A torn end is not damage.** A batch is written only when the one before it is synced. So an incomplete batch that nothing follows and
//!   that was never acknowledged is the trace of a crash, and is overwritten with zeros. Any other incomplete batch was acknowledged once: the log
//!   is damaged, it says in which segment and at which offset, and opening it changes nothing.
//! - **An erasure is announced, then done.** The batch that announces it is durable first. Then the payload is overwritten with zeros in
//!   place and synced, and whole blocks of it are given back to the file system where that can punch holes. A crash
//!   between the two is completed when the log is opened.
//! - **A record is mended only with what was written**: where it is damaged and another copy of it is had from elsewhere, it is written
//!   anew in its place when the checksums of its batch, and those of all before it in the segment, prove it to be the same.
//! - **What is read is what was written**: each read checks its checksums.

mod batch;
mod copy;
mod recovery;
mod segments;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};

pub use batch::{Batch, Payload, Record, Slot};
use bytes::Bytes;
pub use copy::{Copied, copy, undo as undo_copy};
pub use recovery::{Found, check, read};
use segments::{Preparer, Segment};
pub(crate) use segments::{make_folder, sync_folder};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Batches and records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// The file with the mark of the newest synced batch.
const ACKNOWLEDGED: &str = "acknowledged";

/// Why the log cannot do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The disk is full. Nothing was written.
    #[error("the disk is full")]
    Full,
    /// A write failed: nobody knows what is on disk.
    #[error("{0}")]
    Failed(String),
    /// What is on disk is not what was written.
    #[error("segment {segment} of the log is damaged at byte {offset}: {detail}")]
    Damaged {
        /// The number of the segment.
        segment: u32,
        /// Where in its file.
        offset: u64,
        /// What does not hold.
        detail: String,
    },
    /// The log does not have the batch that it was to be opened from.
    #[error("the log has no batch {0} where it was")]
    NoSuchMark(u64),
}

impl LogError {
    fn damaged(segment: u32, offset: u64, detail: impl Into<String>) -> LogError {
        LogError::Damaged { segment, offset, detail: detail.into() }
    }

    /// Of a failed write to `what`.
    fn write(what: &str, error: &io::Error) -> LogError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full,
            _ => LogError::Failed(format!("{what}: {error}")),
        }
    }
}

/// Where a part of the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The number of the segment.
    pub segment: u32,
    /// The offset of the first byte in the segment's file.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

impl Place {
    /// Bytes of its encoded form.
    pub const BYTES: usize = 12;

    /// As it is stored: three numbers, big-endian.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (part, number) in bytes.chunks_exact_mut(4).zip([self.segment, self.offset, self.length]) {
            part.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// From its stored form.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Place {
        Place { segment: number32(&bytes[..]), offset: number32(&bytes[4..]), length: number32(&bytes[8..]) }
    }
}

/// The end of a batch, from which reading can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The number of the batch; 0 is the start of the log.
    pub number: u64,
    /// The segment that it is in.
    pub segment: u32,
    /// Where it begins.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// Its checksum.
    pub checksum: u64,
}

impl Mark {
    /// The start of every log.
    pub const START: Mark = Mark { number: 0, segment: 0, start: 0, end: 0, checksum: 0 };

    /// Bytes of its encoded form.
    pub const BYTES: usize = 28;

    /// As it is stored: its fields in their order, big-endian.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        for (part, number) in bytes[8..20].chunks_exact_mut(4).zip([self.segment, self.start, self.end]) {
            part.copy_from_slice(&number.to_be_bytes());
        }
        bytes[20..].copy_from_slice(&self.checksum.to_be_bytes());
        bytes
    }

    /// From its stored form.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Mark {
        Mark {
            number: number64(&bytes[..]),
            segment: number32(&bytes[8..]),
            start: number32(&bytes[12..]),
            end: number32(&bytes[16..]),
            checksum: number64(&bytes[20..]),
        }
    }
}

impl Mark {
    /// The place of a record in the batch that ends here.
    fn place(self, slot: Slot) -> Place {
        Place { segment: self.segment, offset: self.start + slot.offset, length: slot.length }
    }
}

/// The first four bytes as a number. There must be so many.
fn number32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes were taken"))
}

/// The first eight bytes as a number. There must be so many.
fn number64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes were taken"))
}

/// The next multiple of [`ALIGNMENT`].
fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

/// Reads records by their places. A clone is another handle to the same log.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    seed: u64,
    /// By number. It is held for reading during each read, and for writing while a payload is overwritten, so that nobody reads
    /// half of one.
    segments: RwLock<Vec<Arc<Segment>>>,
}

impl Shared {
    fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().expect("no holder of this lock panics").get(number as usize).cloned()
    }

    /// Reads a part of a segment, while nothing is overwritten.
    fn reading<T>(&self, place: Place, read: impl FnOnce(&File) -> io::Result<T>) -> Result<T, LogError> {
        let segments = self.segments.read().expect("no holder of this lock panics");
        let missing = || LogError::damaged(place.segment, place.offset.into(), "the segment is missing");
        let segment = segments.get(place.segment as usize).ok_or_else(missing)?;
        read(&segment.file).map_err(|error| {
            LogError::damaged(place.segment, place.offset.into(), format!("it cannot be read: {error}"))
        })
    }
}

impl Reader {
    /// Reads the log in a folder, whether it is in use or not. Nothing is checked before it is read.
    ///
    /// # Errors
    /// There is none, or its first segment is damaged.
    pub fn open(folder: &Path) -> Result<Reader, LogError> {
        let found = recovery::open(folder)?;
        let (shared, _) = found.ok_or_else(|| LogError::Failed(format!("there is no log in {}", folder.display())))?;
        Ok(Reader(Arc::new(shared)))
    }

    /// A record by its place.
    ///
    /// # Errors
    /// It cannot be read, or its plain bytes are not what was written. Payloads are checked when they are taken.
    pub fn record(&self, place: Place) -> Result<Record, LogError> {
        if place.length as usize > segments::LARGEST_BATCH {
            return Err(LogError::damaged(place.segment, place.offset.into(), "no record is as long as this place"));
        }
        let mut bytes = vec![0; place.length as usize];
        self.0.reading(place, |file| file.read_exact_at(&mut bytes, place.offset.into()))?;
        Record::parse(bytes.into(), self.0.seed)
            .map_err(|detail| LogError::damaged(place.segment, place.offset.into(), detail))
    }

    /// Consecutive records of one batch, with the place of each.
    ///
    /// # Errors
    /// As of [`Reader::record`].
    pub fn records(&self, place: Place) -> Result<Vec<(Place, Record)>, LogError> {
        let damaged = |offset: u32, detail: String| LogError::damaged(place.segment, offset.into(), detail);
        if place.length as usize > segments::LARGEST_BATCH {
            return Err(damaged(place.offset, "no batch is as long as this place".into()));
        }
        let mut bytes = vec![0; place.length as usize];
        self.0.reading(place, |file| file.read_exact_at(&mut bytes, place.offset.into()))?;
        let bytes = Bytes::from(bytes);
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let offset = place.offset + at as u32;
            let length = Record::length(&bytes[at..]).ok_or_else(|| damaged(offset, "a record is cut off".into()))?;
            let record = Record::parse(bytes.slice(at..at + length), self.0.seed);
            let of = Place { offset, length: length as u32, ..place };
            records.push((of, record.map_err(|detail| damaged(offset, detail))?));
            at = aligned(at + length);
        }
        Ok(records)
    }
}

/// The end of the log, where batches are placed. There is one for each log.
pub struct Log {
    shared: Arc<Shared>,
    /// The newest placed batch.
    newest: Mark,
    /// The segment of the next batch: that of the newest, or one that has no batch yet.
    segment: u32,
    /// Bytes that it has space for.
    capacity: u64,
    progress: Arc<Progress>,
    preparer: Preparer,
    /// The segment before, which the first write to this one cuts to its used length.
    finished: Option<(Arc<Segment>, u32)>,
}

/// How far the log is written.
struct Progress {
    /// The file `acknowledged`.
    file: File,
    /// The newest batch that is synced, or nothing when a write has failed.
    written: Mutex<Option<Mark>>,
}

/// A batch that has its place after all that were placed before, and is written next.
#[must_use = "nothing is written before `write`"]
pub struct Placed {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// The head of its segment, if it is the first there.
    head: Option<[u8; segments::HEAD]>,
    bytes: Vec<u8>,
    mark: Mark,
    progress: Arc<Progress>,
    finished: Option<(Arc<Segment>, u32)>,
}

impl Log {
    /// Opens the log in a folder, or makes it where the folder is missing or empty, and calls `visit` for each record after
    /// `from`, in their order. `seed` is for a new log, and must be random.
    ///
    /// It completes the erasures that were announced after `from`. So a caller that keeps a mark to go on from may only keep
    /// one up to which [`Log::erase`] has done all that was announced.
    ///
    /// # Errors
    /// The log is damaged (nothing is changed), does not have `from`, or the folder cannot be used. What `visit` returns.
    pub fn open<E: From<LogError>>(
        folder: &Path,
        from: Mark,
        seed: u64,
        visit: impl FnMut(Found) -> Result<(), E>,
    ) -> Result<(Log, Reader), E> {
        let in_folder = |error: io::Error| LogError::write(&format!("cannot use {}", folder.display()), &error);
        make_folder(folder).map_err(in_folder)?;
        copy::undo(folder)?;
        let (shared, newest, segment) = match recovery::judge(folder, from, true, visit)? {
            Some(judged) => judged.settle()?,
            None => segments::create(folder, seed).map_err(in_folder)?,
        };
        let shared = Arc::new(shared);
        let path = folder.join(ACKNOWLEDGED);
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(in_folder)?;
        Acknowledged { mark: newest, is_closed: false }
            .write(&file, shared.seed)
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_folder(folder))
            .map_err(in_folder)?;
        let progress = Arc::new(Progress { file, written: Mutex::new(Some(newest)) });
        let preparer = Preparer::start(&shared, segment)?;
        let capacity = shared.segment(segment).expect("the segment of the next batch is there").capacity;
        let log = Log { shared: shared.clone(), newest, segment, capacity, progress, preparer, finished: None };
        Ok((log, Reader(shared)))
    }

    /// The end of the newest placed batch.
    pub fn newest(&self) -> Mark {
        self.newest
    }

    /// An empty batch for this log.
    pub fn batch(&self) -> Batch {
        Batch::new(self.shared.seed)
    }

    /// Sees to it that a batch of this length can be placed.
    ///
    /// # Errors
    /// [`LogError::Full`] where there is no space for it; any other means that the folder does not take files any more. The log
    /// is as it was.
    pub fn reserve(&mut self, length: usize) -> Result<(), LogError> {
        assert!(length <= segments::LARGEST_BATCH, "batches are bounded");
        let needed = u64::from(self.end()) + length as u64;
        if needed <= self.capacity {
            return Ok(());
        }
        let current = self.shared.segment(self.segment).expect("the segment of the next batch is there");
        if self.is_first() {
            // It is the first of its segment, which is too small for it.
            current.allocate(needed)?;
            self.capacity = needed;
            return Ok(());
        }
        self.capacity = self.preparer.take(&self.shared, self.segment + 1, length)?;
        self.finished = Some((current, self.newest.end));
        self.segment += 1;
        Ok(())
    }

    /// Whether the next batch is the first of its segment.
    fn is_first(&self) -> bool {
        self.newest.number == 0 || self.newest.segment != self.segment
    }

    /// Where the next batch begins.
    fn end(&self) -> u32 {
        if self.is_first() { segments::HEAD as u32 } else { self.newest.end }
    }

    /// Gives a batch its place after the newest. It must be [written](Placed::write) before those that are placed after it.
    ///
    /// # Errors
    /// As [`Log::reserve`].
    pub fn place(&mut self, batch: Batch) -> Result<Placed, LogError> {
        self.reserve(batch.encoded_bytes())?;
        let before = self.newest;
        let segment = self.shared.segment(self.segment).expect("the segment of the next batch is there");
        let head = self.is_first().then(|| segments::head(self.shared.seed, self.segment, before));
        let (bytes, checksum) = batch.finish(before);
        let start = self.end();
        let end = start + bytes.len() as u32;
        self.newest = Mark { number: before.number + 1, segment: self.segment, start, end, checksum };
        let (shared, progress) = (self.shared.clone(), self.progress.clone());
        let finished = self.finished.take();
        Ok(Placed { shared, segment, head, bytes, mark: self.newest, progress, finished })
    }

    /// Whether a batch could not be written: then none can before the log is opened again.
    pub fn has_failed(&self) -> bool {
        self.progress.written.lock().expect("no holder of this lock panics").is_none()
    }

    /// Overwrites payloads with zeros, and syncs them. A durable batch must have announced these erasures.
    ///
    /// # Errors
    /// Some may be there still; opening the log completes it.
    pub fn erase(&self, payloads: &[Place]) -> Result<(), LogError> {
        erase(&self.shared, payloads)
    }

    /// Writes a damaged record anew in its place, and syncs it. With each payload it is said whether it was erased, and is zeros. The
    /// record must be the one that was written, which the checksums of its batch prove before anything is overwritten.
    ///
    /// # Errors
    /// It is another one, the batch is damaged beside it, or the write fails.
    pub fn mend(&self, place: Place, plain: &[u8], payloads: &[(&[u8], bool)]) -> Result<(), LogError> {
        let Place { segment: number, offset, length } = place;
        assert!(payloads.iter().all(|(bytes, is_erased)| !is_erased || bytes.iter().all(|&byte| byte == 0)));
        let damaged = |detail: &str| LogError::damaged(number, offset.into(), detail);
        let mut found = vec![0; length as usize];
        self.shared.reading(place, |file| file.read_exact_at(&mut found, offset.into()))?;
        let record = batch::mended(plain, payloads, &found, self.shared.seed);
        if !recovery::has_record(&self.shared, place, &record)? {
            return Err(damaged("what was to mend a record is not what was written there"));
        }
        let failed = |error: io::Error| LogError::Failed(format!("a record cannot be mended: {error}"));
        {
            // Nobody reads half of it.
            let segments = self.shared.segments.write().expect("no holder of this lock panics");
            segments[number as usize].file.write_all_at(&record, offset.into()).map_err(failed)?;
        }
        let segment = self.shared.segment(number).expect("it was just written to");
        segment.file.sync_data().map_err(failed)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let written = *self.progress.written.lock().expect("no holder of this lock panics");
        // What failed is judged when the log is opened again.
        let Some(mark) = written.filter(|mark| mark.number == self.newest.number) else { return };
        let closed = Acknowledged { mark, is_closed: true }.write(&self.progress.file, self.shared.seed);
        if let Err(error) = closed.and_then(|()| self.progress.file.sync_data()) {
            tracing::warn!("the log is not closed in order: {error}");
        }
    }
}

impl Placed {
    /// The place of a record of the batch.
    pub fn place(&self, slot: Slot) -> Place {
        self.mark.place(slot)
    }

    /// The end of the batch.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Writes and syncs the batch. When this returns, it is durable and can be read.
    ///
    /// # Errors
    /// Nobody knows what is on disk: no further batch may be written before the log is opened again. What stands there of this
    /// one is overwritten if that can be done, so that it does not come back.
    pub fn write(self) -> Result<Mark, LogError> {
        let mut newest = self.progress.written.lock().expect("no holder of this lock panics");
        // What fails here, or is out of order, leaves nothing: all later writes fail too.
        if newest.take().is_none_or(|before| before.number + 1 != self.mark.number) {
            return Err(LogError::Failed("an earlier batch of the log was not written".into()));
        }
        let acknowledged = Acknowledged { mark: self.mark, is_closed: false };
        let written = self.write_bytes(&self.bytes);
        if let Err(error) = written.and_then(|()| acknowledged.write(&self.progress.file, self.shared.seed)) {
            if let Err(error) = self.write_bytes(&vec![0; self.bytes.len()]) {
                tracing::warn!("what failed to be written may be found after a restart: {error}");
            }
            return Err(LogError::Failed(format!("a write to the log failed: {error}")));
        }
        *newest = Some(self.mark);
        drop(newest);
        if let Some((finished, used)) = &self.finished {
            // It only gives back what was never used.
            if let Err(error) = finished.file.set_len((*used).into()) {
                tracing::warn!("a finished segment of the log keeps its unused end: {error}");
            }
        }
        Ok(self.mark)
    }

    fn write_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let file = &self.segment.file;
        if let Some(head) = &self.head {
            file.write_all_at(head, 0)?;
        }
        file.write_all_at(bytes, self.mark.start.into())?;
        file.sync_data()
    }
}

fn erase(shared: &Shared, payloads: &[Place]) -> Result<(), LogError> {
    payloads.iter().try_for_each(|&payload| overwrite_payload(shared, payload))?;
    settle_erasures(shared, payloads)
}

/// Overwrites a payload with zeros, which are not durable yet.
fn overwrite_payload(shared: &Shared, Place { segment: number, offset, length }: Place) -> Result<(), LogError> {
    let segments = shared.segments.write().expect("no holder of this lock panics");
    let missing = || LogError::damaged(number, offset.into(), "the segment is missing");
    let segment = segments.get(number as usize).ok_or_else(missing)?;
    segment.file.write_all_at(&vec![0; length as usize], offset.into()).map_err(|error| not_erased(&error))
}

/// Makes it durable that payloads were overwritten, and gives their blocks back.
fn settle_erasures(shared: &Shared, payloads: &[Place]) -> Result<(), LogError> {
    let numbers: BTreeSet<u32> = payloads.iter().map(|payload| payload.segment).collect();
    let mut touched = numbers.into_iter().filter_map(|number| shared.segment(number));
    touched.try_for_each(|segment| segment.file.sync_data()).map_err(|error| not_erased(&error))?;
    for &payload in payloads {
        if let Some(segment) = shared.segment(payload.segment) {
            segment.give_back(payload);
        }
    }
    Ok(())
}

fn not_erased(error: &io::Error) -> LogError {
    LogError::Failed(format!("an erasure in the log failed: {error}"))
}

/// What the file `acknowledged` says.
#[derive(Clone, Copy)]
struct Acknowledged {
    /// The newest synced batch.
    mark: Mark,
    /// Whether the log was closed in order, so that nothing can be torn.
    is_closed: bool,
}

impl Acknowledged {
    fn write(self, file: &File, seed: u64) -> io::Result<()> {
        let mut bytes = [0; Mark::BYTES + 9];
        bytes[..Mark::BYTES].copy_from_slice(&self.mark.encode());
        bytes[Mark::BYTES] = self.is_closed.into();
        let checksum = xxh3_64_with_seed(&bytes[..=Mark::BYTES], seed);
        bytes[Mark::BYTES + 1..].copy_from_slice(&checksum.to_be_bytes());
        file.write_all_at(&bytes, 0)
    }

    /// From the folder of a log, or nothing where the file is missing or was never written.
    fn read(folder: &Path, seed: u64) -> Result<Option<Acknowledged>, LogError> {
        let path = folder.join(ACKNOWLEDGED);
        let malformed = |detail: String| LogError::Failed(format!("the file {} {detail}", path.display()));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(malformed(format!("cannot be read: {error}"))),
        };
        // A crash came while it was made: nothing of it is on disk but its name, and maybe its length.
        if bytes.len() <= Mark::BYTES + 9 && bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let bytes: [u8; Mark::BYTES + 9] = bytes.try_into().map_err(|_| malformed("has another length".into()))?;
        if number64(&bytes[Mark::BYTES + 1..]) != xxh3_64_with_seed(&bytes[..=Mark::BYTES], seed) {
            return Err(malformed("does not match its checksum".into()));
        }
        let mark = Mark::decode(bytes[..Mark::BYTES].try_into().expect("so many bytes were taken"));
        Ok(Some(Acknowledged { mark, is_closed: bytes[Mark::BYTES] != 0 }))
    }
}

#[cfg(test)]
mod tests;
