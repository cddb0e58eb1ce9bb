//! Reads a log from its files, and tells a torn end from damage.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path, sync::RwLock};

use super::{
    ALIGNMENT, Acknowledged, LogError, Mark, Payload, Place, Record, Shared,
    batch::{self, Contents, Head},
    number64, overwrite_payload,
    segments::{self, LARGEST_BATCH, Segment},
    settle_erasures,
};

/// Bytes that are read of a segment at a time.
pub(super) const WINDOW: usize = 1 << 20;

/// A record that was found in the log.
pub struct Found {
    /// The batch that it is in.
    pub batch: Mark,
    /// The number of the newest acknowledged batch, to tell how much is left.
    pub acknowledged: u64,
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub record: Record,
}

/// A log that holds, before anything in its files is changed.
pub(super) struct Judged {
    shared: Shared,
    /// The number of the newest batch that is certain to have been synced.
    acknowledged: u64,
    newest: Mark,
    /// The segment of the next batch.
    segment: u32,
    /// Where a batch was torn off in that segment.
    torn: Option<u64>,
    /// Payloads whose erasure was announced.
    erasures: Vec<Place>,
}

impl Judged {
    /// Removes the trace of a torn batch, makes durable what stands, and completes the erasures. Returns the newest batch and the
    /// segment of the next.
    pub(super) fn settle(self) -> Result<(Shared, Mark, u32), LogError> {
        let Judged { shared, acknowledged, newest, segment, torn, erasures } = self;
        let next = shared.segment(segment).expect("the segment of the next batch is there");
        let cut = torn.map_or(Ok(()), |offset| {
            let length = (next.capacity - offset).min((segments::HEAD + LARGEST_BATCH) as u64);
            overwrite(&next.file, offset, length)
        });
        cut.and_then(|()| next.file.sync_data())
            .map_err(|error| LogError::Failed(format!("the torn end of the log cannot be removed: {error}")))?;
        if newest.number > acknowledged {
            let latest = shared.segment(newest.segment).expect("the newest batch is in a segment");
            rewrite(&latest.file, newest)
                .map_err(|error| LogError::Failed(format!("the newest batch of the log cannot be synced: {error}")))?;
        }
        for &place in &erasures {
            if !is_zero(&shared, place)? {
                overwrite_payload(&shared, place)?;
            }
        }
        // Zeros that are read need not be on disk: the process may have been killed before it synced them.
        settle_erasures(&shared, &erasures)?;
        Ok((shared, newest, segment))
    }
}

/// Makes a batch durable that was read, but maybe never synced: the process was killed before, or the sync failed, after which what
/// is in memory is not written to the disk by another one.
fn rewrite(file: &File, batch: Mark) -> io::Result<()> {
    let mut bytes = vec![0; (batch.end - batch.start) as usize];
    file.read_exact_at(&mut bytes, batch.start.into())?;
    file.write_all_at(&bytes, batch.start.into())?;
    file.sync_data()
}

/// Overwrites what is not zero with zeros.
fn overwrite(file: &File, mut offset: u64, length: u64) -> io::Result<()> {
    let end = offset + length;
    let mut bytes = vec![0; WINDOW.min(length as usize)];
    while offset < end {
        let part = bytes.len().min((end - offset) as usize);
        file.read_exact_at(&mut bytes[..part], offset)?;
        if bytes[..part].iter().any(|&byte| byte != 0) {
            file.write_all_at(&vec![0; part], offset)?;
        }
        offset += part as u64;
    }
    Ok(())
}

fn is_zero(shared: &Shared, place: Place) -> Result<bool, LogError> {
    let mut bytes = vec![0; place.length as usize];
    shared.reading(place, |file| file.read_exact_at(&mut bytes, place.offset.into()))?;
    Ok(bytes.iter().all(|&byte| byte == 0))
}

/// Reads the log after `from`, or nothing where the folder has none yet. No file is changed, but the log can be written to then if
/// that is said.
pub(super) fn judge<E: From<LogError>>(
    folder: &Path,
    from: Mark,
    to_write: bool,
    mut visit: impl FnMut(Found) -> Result<(), E>,
) -> Result<Option<Judged>, E> {
    let Some((shared, acknowledged)) = open_files(folder, to_write)? else {
        return if from == Mark::START { Ok(None) } else { Err(LogError::damaged(0, 0, "its file is missing").into()) };
    };
    let mut scan = Scan::new(&shared, acknowledged, from)?;
    let acknowledged = acknowledged.mark.number;
    let mut erasures = Vec::new();
    while let Some((mark, contents)) = scan.next()? {
        erasures.extend_from_slice(&contents.erasures);
        contents.found(mark, acknowledged).try_for_each(&mut visit)?;
    }
    let (newest, segment, torn) = (scan.newest, scan.segment, scan.torn);
    Ok(Some(Judged { shared, acknowledged, newest, segment, torn, erasures }))
}

/// Calls `visit` for each record after `from` in a log that may be in use, but is not written to meanwhile. Returns the newest
/// batch.
///
/// # Errors
/// As [`Log::open`](super::Log::open).
pub fn read<E: From<LogError>>(
    folder: &Path,
    from: Mark,
    visit: impl FnMut(Found) -> Result<(), E>,
) -> Result<Mark, E> {
    Ok(judge(folder, from, false, visit)?.map_or(Mark::START, |judged| judged.newest))
}

/// The files of a log, to be read, and what was acknowledged of it.
pub(super) fn open(folder: &Path) -> Result<Option<(Shared, Acknowledged)>, LogError> {
    open_files(folder, false)
}

fn open_files(folder: &Path, to_write: bool) -> Result<Option<(Shared, Acknowledged)>, LogError> {
    let segments = if folder.is_dir() { segments::open_all(folder, to_write)? } else { Vec::new() };
    let Some(first) = segments.first() else {
        return match folder.join(super::ACKNOWLEDGED).exists() {
            true => Err(LogError::damaged(0, 0, "its file is missing")),
            false => Ok(None),
        };
    };
    let seed = segments::seed_of(&first.file)?;
    let acknowledged = Acknowledged::read(folder, seed)?;
    let shared = Shared { folder: folder.into(), seed, segments: RwLock::new(segments) };
    let acknowledged = match acknowledged {
        Some(acknowledged) => acknowledged,
        // It is made before the first batch.
        None if !has_batches(&shared)? => Acknowledged { mark: Mark::START, is_closed: false },
        None => {
            let file = folder.join(super::ACKNOWLEDGED);
            let cure = "restore it from the copy that the rest is from";
            return Err(LogError::Failed(format!("the file {} is missing or empty: {cure}", file.display())));
        }
    };
    Ok(Some((shared, acknowledged)))
}

fn has_batches(shared: &Shared) -> Result<bool, LogError> {
    let place = Place { segment: 0, offset: segments::HEAD as u32, length: batch::HEAD as u32 };
    Ok(!is_zero(shared, place)?)
}

/// Whether a record belongs at this place: the batch there has such a one, and follows those before it in the segment.
pub(super) fn has_record(shared: &Shared, place: Place, record: &[u8]) -> Result<bool, LogError> {
    let Place { segment: number, offset, length } = place;
    let Some(segment) = shared.segment(number) else { return Ok(false) };
    let mut window = Window::default();
    let first = window.bytes(number, &segment, 0, segments::HEAD)?.and_then(|head| {
        let head = head.as_array()?;
        Some((segments::first_batch(head, shared.seed, number)?, number64(&head[24..])))
    });
    let (Some(mut next), mut start) = (first, segments::HEAD as u64) else { return Ok(false) };
    if record.len() != length as usize {
        return Ok(false);
    }
    loop {
        let bytes = window.bytes(number, &segment, start, batch::HEAD)?.and_then(|bytes| bytes.as_array());
        let Some((head, checksum)) = bytes.and_then(|bytes| Head::decode(bytes, shared.seed)) else { return Ok(false) };
        if (head.number, head.before) != next {
            return Ok(false);
        }
        let end = start + u64::from(head.length);
        if u64::from(offset) >= end {
            (next, start) = ((head.number + 1, checksum), end);
            continue;
        }
        let Some(bytes) = window.bytes(number, &segment, start, head.length as usize)? else { return Ok(false) };
        let mut bytes = bytes.to_vec();
        let at = (u64::from(offset) - start) as usize;
        let Some(found) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..record.len())) else { return Ok(false) };
        found.copy_from_slice(record);
        return Ok(batch::has_record(&head, &bytes, shared.seed, at));
    }
}

/// Recomputes every checksum of the log in a folder, and looks that nothing stands there that was not written. Nothing is
/// changed.
///
/// # Errors
/// The first place that is not as it was written. What `visit` returns.
pub fn check<E: From<LogError>>(folder: &Path, mut visit: impl FnMut(Found) -> Result<(), E>) -> Result<(), E> {
    let Some((shared, acknowledged)) = open(folder)? else { return Ok(()) };
    let mut scan = Scan::new(&shared, acknowledged, Mark::START)?;
    let (mut announced, mut erased) = (Announced::default(), Vec::new());
    let mut used: BTreeMap<u32, u64> = BTreeMap::from([(0, segments::HEAD as u64)]);
    while let Some((mark, contents)) = scan.next()? {
        used.insert(mark.segment, mark.end.into());
        announced.add(&contents.erasures);
        for found in contents.found(mark, acknowledged.mark.number) {
            erased.extend(erased_payloads(&found)?);
            visit(found)?;
        }
    }
    let unannounced = erased.into_iter().find(|place| !announced.has(place));
    if let Some(Place { segment, offset, .. }) = unannounced {
        let detail = "a payload is zeros, but its erasure was not announced";
        return Err(LogError::damaged(segment, offset.into(), detail).into());
    }
    used.entry(scan.segment).or_insert(segments::HEAD as u64);
    let torn = scan.torn.map(|_| scan.segment);
    let segments = shared.segments.read().expect("no holder of this lock panics").clone();
    for (number, segment) in (0..).zip(&segments) {
        let end = used.get(&number).copied().unwrap_or(0);
        if torn != Some(number) && !scan.window.is_zero(number, segment, end, segment.capacity)? {
            let detail = "something stands in space that is not used yet";
            return Err(LogError::damaged(number, end, detail).into());
        }
    }
    Ok(())
}

/// Erasures that were announced: where they end, by where they begin. One may be of many payloads.
#[derive(Default)]
pub(super) struct Announced(BTreeMap<(u32, u32), u32>);

impl Announced {
    pub(super) fn add(&mut self, erasures: &[Place]) {
        for &Place { segment, offset, length } in erasures {
            let end = self.0.entry((segment, offset)).or_insert(0);
            *end = (offset + length).max(*end);
        }
    }

    /// Whether all of a payload is among them.
    pub(super) fn has(&self, &Place { segment, offset, length }: &Place) -> bool {
        let before = self.0.range(..=(segment, offset)).next_back();
        before.is_some_and(|(start, end)| start.0 == segment && offset + length <= *end)
    }
}

/// The payloads of a record that are not as they were written.
pub(super) fn not_whole(found: &Found) -> Vec<Place> {
    let payloads = found.record.payloads().enumerate().filter(|(_, payload)| !matches!(payload, Payload::Whole(_)));
    payloads.filter_map(|(at, _)| found.record.payload_place(found.place, at)).collect()
}

/// The payloads of a record that are zeros.
///
/// # Errors
/// One is damaged.
fn erased_payloads(found: &Found) -> Result<Vec<Place>, LogError> {
    let mut erased = Vec::new();
    for (at, payload) in found.record.payloads().enumerate() {
        let place = || found.record.payload_place(found.place, at).expect("the payload is there");
        match payload {
            Payload::Whole(_) => {}
            Payload::Erased => erased.push(place()),
            Payload::Damaged => {
                let Place { segment, offset, .. } = place();
                return Err(LogError::damaged(segment, offset.into(), "a payload is not as it was written"));
            }
        }
    }
    Ok(erased)
}

impl Contents {
    /// The records of a batch in their order.
    pub(super) fn found(self, batch: Mark, acknowledged: u64) -> impl Iterator<Item = Found> {
        self.records.into_iter().map(move |(slot, record)| Found {
            batch,
            acknowledged,
            place: batch.place(slot),
            record,
        })
    }
}

/// A walk over the batches of a log.
pub(super) struct Scan<'a> {
    shared: &'a Shared,
    acknowledged: Acknowledged,
    pub(super) newest: Mark,
    /// The segment of the next batch, at the end of the walk: one whose first batch was torn, or did not come, is begun anew.
    segment: u32,
    /// Where a batch was torn off in that segment.
    torn: Option<u64>,
    window: Window,
}

/// What stands after a batch.
enum Next {
    Batch(Mark, Contents),
    /// Nothing: it is the newest, and this is the newest segment that was begun.
    End(u32),
    /// Something that is no batch begins at this place.
    Bad {
        segment: u32,
        start: u64,
        fault: (u64, String),
    },
}

impl<'a> Scan<'a> {
    pub(super) fn new(shared: &'a Shared, acknowledged: Acknowledged, from: Mark) -> Result<Scan<'a>, LogError> {
        let segment = from.segment;
        let mut scan = Scan { shared, acknowledged, newest: from, segment, torn: None, window: Window::default() };
        if from != Mark::START && !scan.has(from)? {
            return Err(LogError::NoSuchMark(from.number));
        }
        Ok(scan)
    }

    /// Whether the batch that ends at this mark is there as a whole.
    fn has(&mut self, mark: Mark) -> Result<bool, LogError> {
        let found = self.head(mark.segment, mark.start.into())?;
        let is_it = |(head, checksum): &(Head, u64)| {
            head.number == mark.number
                && *checksum == mark.checksum
                && mark.end.checked_sub(mark.start) == Some(head.length)
        };
        let Some((head, _)) = found.filter(is_it) else { return Ok(false) };
        let segment = self.shared.segment(mark.segment).expect("the head stands in it");
        let bytes = self.window.bytes(mark.segment, &segment, mark.start.into(), head.length as usize)?;
        Ok(bytes.is_some_and(|bytes| batch::parse(&head, bytes, self.shared.seed).is_ok()))
    }

    /// The next batch, or nothing at the end of the log.
    pub(super) fn next(&mut self) -> Result<Option<(Mark, Contents)>, LogError> {
        let found = self.acknowledged.mark.number <= self.newest.number;
        let (segment, start, fault) = match self.find(self.newest)? {
            Next::Batch(mark, contents) if self.is_whole(mark, &contents)? => {
                (self.newest, self.segment) = (mark, mark.segment);
                return Ok(Some((mark, contents)));
            }
            Next::Batch(mark, _) => (
                mark.segment,
                mark.start.into(),
                (mark.start.into(), "the payloads of a batch are not whole".to_owned()),
            ),
            Next::End(segment) if found => {
                self.segment = segment;
                return Ok(None);
            }
            Next::End(_) => {
                let (acknowledged, found) = (self.acknowledged.mark.number, self.newest.number);
                let lost = format!("{acknowledged} batches were acknowledged, but only {found} are found");
                return Err(LogError::damaged(self.newest.segment, self.newest.end.into(), lost));
            }
            Next::Bad { segment, start, fault } => (segment, start, fault),
        };
        // A log that was closed in order has no torn end. A batch that anything follows was synced.
        if !found || self.acknowledged.is_closed || self.is_followed(segment, start)? {
            return Err(LogError::damaged(segment, fault.0, fault.1));
        }
        (self.segment, self.torn) = (segment, Some(start));
        Ok(None)
    }

    /// Whether all of a batch is on disk. Payloads of one that is not certain to have been synced may be missing; those of others are
    /// erased or damaged.
    fn is_whole(&mut self, mark: Mark, contents: &Contents) -> Result<bool, LogError> {
        let is_whole = |record: &Record| record.payloads().all(|payload| matches!(payload, Payload::Whole(_)));
        let is_certain =
            mark.number <= self.acknowledged.mark.number || contents.records.iter().all(|(_, record)| is_whole(record));
        // Whatever stands after it, be it a torn batch, was only written when this one was synced.
        Ok(is_certain || !matches!(self.find(mark)?, Next::End(_)))
    }

    /// What stands after a batch.
    fn find(&mut self, after: Mark) -> Result<Next, LogError> {
        let number = after.segment;
        let before = number.saturating_sub(1);
        let Some(segment) = self.shared.segment(number) else { return Ok(Next::End(before)) };
        let bad = |start: u64, at: usize, detail: &str| {
            Ok(Next::Bad { segment: number, start, fault: (start + at as u64, detail.to_owned()) })
        };
        let start = u64::from(after.end).max(segments::HEAD as u64);
        if after.end == 0 {
            let expected = segments::head(self.shared.seed, number, after);
            if self.window.bytes(number, &segment, 0, segments::HEAD)? != Some(&expected) {
                return if self.are_unused(number)? {
                    Ok(Next::End(before))
                } else {
                    bad(0, 0, "the head of the segment does not hold")
                };
            }
        }
        let Some((head, checksum)) = self.head(number, start)? else {
            if self.is_unused(number, &segment, start)? {
                // The next batch did not fit into the rest of this segment, or there is none.
                return self.find(Mark { segment: number + 1, start: 0, end: 0, ..after });
            }
            return bad(start, 0, "the head of a batch does not hold");
        };
        if head.number != after.number + 1 || head.before != after.checksum {
            return bad(start, 0, "a batch does not follow the one before it");
        }
        let Some(bytes) = self.window.bytes(number, &segment, start, head.length as usize)? else {
            return bad(start, 0, "a batch is cut off");
        };
        match batch::parse(&head, bytes, self.shared.seed) {
            Ok(contents) => {
                let mark = Mark {
                    number: head.number,
                    segment: number,
                    start: start as u32,
                    end: start as u32 + head.length,
                    checksum,
                };
                Ok(Next::Batch(mark, contents))
            }
            Err((at, detail)) => bad(start, at, &detail),
        }
    }

    /// The head of a batch that stands here, if one does.
    fn head(&mut self, number: u32, start: u64) -> Result<Option<(Head, u64)>, LogError> {
        let Some(segment) = self.shared.segment(number) else { return Ok(None) };
        let bytes = self.window.bytes(number, &segment, start, batch::HEAD)?;
        let bytes = bytes.map(|bytes| bytes.try_into().expect("so many bytes were read"));
        Ok(bytes.and_then(|bytes| Head::decode(bytes, self.shared.seed)))
    }

    /// Whether nothing stands after this place, as far as one batch reaches.
    fn is_unused(&mut self, number: u32, segment: &Segment, start: u64) -> Result<bool, LogError> {
        let end = segment.capacity.min(start + (segments::HEAD + LARGEST_BATCH) as u64);
        self.window.is_zero(number, segment, start, end)
    }

    /// Whether nothing stands in this segment and in all after it.
    fn are_unused(&mut self, first: u32) -> Result<bool, LogError> {
        let segments = self.shared.segments.read().expect("no holder of this lock panics").clone();
        for (number, segment) in (first..).zip(segments.iter().skip(first as usize)) {
            if !self.is_unused(number, segment, 0)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether something stands after this place that can only follow the batch that does not hold there, so that it was synced.
    fn is_followed(&mut self, number: u32, start: u64) -> Result<bool, LogError> {
        let torn = self.newest.number + 1;
        let Some(segment) = self.shared.segment(number) else { return Ok(false) };
        if let Some((head, _)) = self.head(number, start)?
            && (head.number, head.before) == (torn, self.newest.checksum)
        {
            // Its head says where it ends. Space was there for all of it before it was written.
            let end = start + u64::from(head.length);
            let is_last = end <= segment.capacity && self.is_unused(number, &segment, end)?;
            return Ok(!is_last || !self.are_unused(number + 1)?);
        }
        let mut at = start;
        while at + batch::HEAD as u64 <= segment.capacity {
            if self.head(number, at)?.is_some_and(|(head, _)| head.number > torn) {
                return Ok(true);
            }
            at += ALIGNMENT as u64;
        }
        let segments = self.shared.segments.read().expect("no holder of this lock panics").clone();
        for (number, segment) in (number..).zip(segments.iter().skip(number as usize)) {
            // The head of a segment is written when all in those before it is synced.
            let head = self.window.bytes(number, segment, 0, segments::HEAD)?;
            let head = head.map(|head| head.try_into().expect("so many bytes were read"));
            if head
                .and_then(|head| segments::first_batch(head, self.shared.seed, number))
                .is_some_and(|first| first > torn)
                || self.head(number, segments::HEAD as u64)?.is_some_and(|(head, _)| head.number > torn)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Fills the buffer, or as much of it as the file has, and gives how much that is.
fn read_up_to(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A part of a segment in memory, so that a walk does not read each batch by itself.
#[derive(Default)]
struct Window {
    segment: u32,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Bytes of a segment, or nothing where it ends before.
    fn bytes(&mut self, number: u32, segment: &Segment, from: u64, length: usize) -> Result<Option<&[u8]>, LogError> {
        if from + length as u64 > segment.capacity {
            return Ok(None);
        }
        let held = self.start..self.start + self.bytes.len() as u64;
        if number != self.segment || from < held.start || from + length as u64 > held.end {
            let read = (segment.capacity - from).min(length.max(WINDOW) as u64) as usize;
            self.bytes.resize(read, 0);
            (self.segment, self.start) = (number, from);
            let read = read_up_to(&segment.file, &mut self.bytes, from);
            // A log that is in use cuts off the unused end of a finished segment.
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            read.map_err(|error| LogError::damaged(number, from, format!("it cannot be read: {error}")))?;
        }
        let at = (from - self.start) as usize;
        Ok(self.bytes.get(at..at + length))
    }

    /// Whether a part of a segment is zeros.
    fn is_zero(&mut self, number: u32, segment: &Segment, mut from: u64, end: u64) -> Result<bool, LogError> {
        while from < end {
            let length = WINDOW.min((end - from) as usize);
            let bytes = self.bytes(number, segment, from, length)?;
            if bytes.is_none_or(|bytes| bytes.iter().any(|&byte| byte != 0)) {
                return Ok(false);
            }
            from += length as u64;
        }
        Ok(true)
    }
}
