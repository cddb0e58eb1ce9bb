//! Batches and records as bytes: made to be written, and checked when they are read.

use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{ALIGNMENT, Mark, Place, aligned, number32, number64};

/// Bytes of the head of a batch.
pub(super) const HEAD: usize = 48;
/// Bytes of it that its checksum is of.
const CHECKED: usize = HEAD - 8;
/// Bytes of the head of a record.
const RECORD_HEAD: usize = 16;
/// Bytes of a payload's row in the table of its record.
const ROW: usize = 12;

/// Records that become durable together or not at all.
pub struct Batch {
    seed: u64,
    /// Room for the head, and the records.
    bytes: Vec<u8>,
    /// The heads of the records, one after the other.
    heads: Vec<u8>,
    erasures: Vec<u8>,
}

/// A record of a batch, before the batch has its place.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Bytes from the start of the batch.
    pub(super) offset: u32,
    pub(super) length: u32,
}

impl Slot {
    /// What stands from here to the end of another that comes after, or is the same.
    pub fn to(self, last: Slot) -> Slot {
        Slot { offset: self.offset, length: last.offset + last.length - self.offset }
    }
}

impl Batch {
    pub(super) fn new(seed: u64) -> Batch {
        Batch { seed, bytes: vec![0; HEAD], heads: Vec::new(), erasures: Vec::new() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.erasures.is_empty()
    }

    /// Bytes that it takes up in the log.
    pub fn encoded_bytes(&self) -> usize {
        aligned(self.bytes.len() + self.erasures.len())
    }

    /// Adds a record.
    pub fn push<'a, P>(&mut self, plain: &[u8], payloads: P) -> Slot
    where
        P: IntoIterator<Item = &'a [u8], IntoIter: Clone>,
    {
        self.push_with_erased(plain, payloads.into_iter().map(|payload| (payload, false)))
    }

    /// Adds a record, of which some payloads were erased elsewhere: zeros come in their place, and are read as
    /// [erased](Payload::Erased).
    pub fn push_with_erased<'a, P>(&mut self, plain: &[u8], payloads: P) -> Slot
    where
        P: IntoIterator<Item = (&'a [u8], bool), IntoIter: Clone>,
    {
        let start = self.bytes.len();
        let payloads = payloads.into_iter().map(|(payload, is_erased)| {
            debug_assert!(!is_erased || payload.iter().all(|&byte| byte == 0), "what was erased is zeros");
            (payload, if is_erased { Checksum::OfOther } else { Checksum::OfThis })
        });
        write_record(plain, payloads, self.seed, &mut self.bytes);
        self.heads.extend_from_slice(&self.bytes[start..start + RECORD_HEAD]);
        let slot = Slot { offset: length32(start), length: length32(self.bytes.len() - start) };
        self.bytes.resize(aligned(self.bytes.len()), 0);
        slot
    }

    /// Announces that a payload is overwritten when this batch is durable.
    pub fn erase(&mut self, payload: Place) {
        self.erasures.extend_from_slice(&payload.encode());
    }

    /// The whole batch after `before`, and its checksum.
    pub(super) fn finish(self, before: Mark) -> (Vec<u8>, u64) {
        let Batch { seed, mut bytes, mut heads, erasures } = self;
        let records = heads.len() / RECORD_HEAD;
        bytes.extend_from_slice(&erasures);
        bytes.resize(aligned(bytes.len()), 0);
        heads.extend_from_slice(&erasures);
        let head = Head {
            length: length32(bytes.len()),
            records: length32(records),
            erasures: length32(erasures.len() / Place::BYTES),
            number: before.number + 1,
            before: before.checksum,
            body: xxh3_64_with_seed(&heads, seed),
        };
        let (head, checksum) = head.encode(seed);
        bytes[..HEAD].copy_from_slice(&head);
        (bytes, checksum)
    }
}

/// The checksum of a payload, in the table of its record.
enum Checksum {
    OfThis,
    /// Any but that of these bytes says that something else was there.
    OfOther,
    Known(u64),
}

/// Appends a record of these plain bytes and payloads.
fn write_record<'a>(
    plain: &[u8],
    payloads: impl Iterator<Item = (&'a [u8], Checksum)> + Clone,
    seed: u64,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD]);
    for (payload, checksum) in payloads.clone() {
        let checksum = match checksum {
            Checksum::OfThis => xxh3_64_with_seed(payload, seed),
            Checksum::OfOther => !xxh3_64_with_seed(payload, seed),
            Checksum::Known(checksum) => checksum,
        };
        out.extend_from_slice(&length32(payload.len()).to_be_bytes());
        out.extend_from_slice(&checksum.to_be_bytes());
    }
    let count = (out.len() - start - RECORD_HEAD) / ROW;
    out.extend_from_slice(plain);
    let head = &mut out[start..];
    head[8..12].copy_from_slice(&length32(plain.len()).to_be_bytes());
    head[12..16].copy_from_slice(&length32(count).to_be_bytes());
    let checksum = xxh3_64_with_seed(&head[8..], seed);
    head[..8].copy_from_slice(&checksum.to_be_bytes());
    payloads.for_each(|(payload, _)| out.extend_from_slice(payload));
}

/// The bytes of a record as it was written once, of which `found` is left: of an erased payload, which is zeros, its checksum.
pub(super) fn mended(plain: &[u8], payloads: &[(&[u8], bool)], found: &[u8], seed: u64) -> Vec<u8> {
    let row = |at: usize| found.get(RECORD_HEAD + ROW * at..)?.get(..ROW);
    let payloads = payloads.iter().enumerate().map(|(at, &(payload, is_erased))| match row(at) {
        Some(row) if is_erased => (payload, Checksum::Known(number64(&row[4..]))),
        _ => (payload, Checksum::OfThis),
    });
    let mut record = Vec::with_capacity(found.len());
    write_record(plain, payloads, seed, &mut record);
    record
}

fn length32(length: usize) -> u32 {
    u32::try_from(length).expect("a batch is bounded far below 4 GiB")
}

/// The head of a batch.
pub(super) struct Head {
    /// Bytes of the whole batch.
    pub(super) length: u32,
    records: u32,
    erasures: u32,
    pub(super) number: u64,
    /// The checksum of the batch before.
    pub(super) before: u64,
    /// The checksum of the records' heads and of the erasures.
    body: u64,
}

impl Head {
    /// Its bytes, and the checksum of the batch, which stands at their end.
    fn encode(&self, seed: u64) -> ([u8; HEAD], u64) {
        let mut bytes = [0; HEAD];
        for (at, number) in [self.length, self.records, self.erasures].into_iter().enumerate() {
            bytes[4 * at..][..4].copy_from_slice(&number.to_be_bytes());
        }
        for (at, number) in [self.number, self.before, self.body].into_iter().enumerate() {
            bytes[16 + 8 * at..][..8].copy_from_slice(&number.to_be_bytes());
        }
        let checksum = xxh3_64_with_seed(&bytes[..CHECKED], seed);
        bytes[CHECKED..].copy_from_slice(&checksum.to_be_bytes());
        (bytes, checksum)
    }

    /// The head that these bytes are, with the checksum of the batch.
    pub(super) fn decode(bytes: &[u8; HEAD], seed: u64) -> Option<(Head, u64)> {
        let head = Head {
            length: number32(&bytes[0..]),
            records: number32(&bytes[4..]),
            erasures: number32(&bytes[8..]),
            number: number64(&bytes[16..]),
            before: number64(&bytes[24..]),
            body: number64(&bytes[32..]),
        };
        let checksum = number64(&bytes[CHECKED..]);
        // The checksum comes last: a search for heads tries many places that are none.
        let holds = head.length as usize >= HEAD
            && (head.length as usize).is_multiple_of(ALIGNMENT)
            && bytes[12..16] == [0; 4]
            && xxh3_64_with_seed(&bytes[..CHECKED], seed) == checksum;
        holds.then_some((head, checksum))
    }
}

/// What stands in a batch.
pub(super) struct Contents {
    /// The records, and where each begins in the batch.
    pub(super) records: Vec<(Slot, Record)>,
    pub(super) erasures: Vec<Place>,
}

/// Takes a whole batch apart.
///
/// # Errors
/// The offset in the batch at which something does not hold, and what. Payloads are not looked at.
pub(super) fn parse(head: &Head, batch: &[u8], seed: u64) -> Result<Contents, (usize, String)> {
    let mut heads = Vec::with_capacity(RECORD_HEAD * head.records as usize);
    let mut records = Vec::new();
    let mut at = HEAD;
    for _ in 0..head.records {
        let rest = batch.get(at..).unwrap_or_default();
        let length = Record::length(rest).ok_or_else(|| (at, "a record is cut off".to_owned()))?;
        let record = Record::parse(Bytes::copy_from_slice(&rest[..length]), seed).map_err(|detail| (at, detail))?;
        heads.extend_from_slice(&rest[..RECORD_HEAD]);
        records.push((Slot { offset: length32(at), length: length32(length) }, record));
        at = check_padding(batch, at + length)?;
    }
    let table = batch.get(at..at + Place::BYTES * head.erasures as usize);
    let table = table.ok_or_else(|| (at, "the erasures are cut off".to_owned()))?;
    heads.extend_from_slice(table);
    if xxh3_64_with_seed(&heads, seed) != head.body {
        return Err((0, "the batch does not match the checksum of its records".into()));
    }
    let erasures = table.as_chunks().0.iter().map(Place::decode).collect();
    match check_padding(batch, at + table.len())? {
        end if end == batch.len() => Ok(Contents { records, erasures }),
        end => Err((end, "there is something after the last record".into())),
    }
}

/// Whether the record at this offset of a batch is the one that was written there: its own checksum, and that of all heads of the
/// batch, say so. What else is in the batch may be damaged.
pub(super) fn has_record(head: &Head, batch: &[u8], seed: u64, offset: usize) -> bool {
    let (mut heads, mut at, mut holds) = (Vec::with_capacity(RECORD_HEAD * head.records as usize), HEAD, false);
    for _ in 0..head.records {
        let rest = batch.get(at..).unwrap_or_default();
        let Some(length) = Record::length(rest) else { return false };
        heads.extend_from_slice(&rest[..RECORD_HEAD]);
        holds |= at == offset && Record::parse(Bytes::copy_from_slice(&rest[..length]), seed).is_ok();
        at = aligned(at + length);
    }
    let Some(table) = batch.get(at..).and_then(|rest| rest.get(..Place::BYTES * head.erasures as usize)) else {
        return false;
    };
    heads.extend_from_slice(table);
    holds && xxh3_64_with_seed(&heads, seed) == head.body
}

/// The next multiple of the alignment, up to which there must be zeros.
fn check_padding(batch: &[u8], from: usize) -> Result<usize, (usize, String)> {
    let end = aligned(from);
    match batch.get(from..end) {
        Some(padding) if padding.iter().all(|&byte| byte == 0) => Ok(end),
        Some(_) => Err((from, "there is something between two records".into())),
        None => Err((from, "the batch is cut off".into())),
    }
}

/// A payload as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// As it was written.
    Whole(&'a [u8]),
    /// Zeros in the place of something else.
    Erased,
    /// Neither.
    Damaged,
}

/// A record as it was read, with its plain bytes checked.
#[derive(Clone, Debug)]
pub struct Record {
    bytes: Bytes,
    seed: u64,
    plain: Range<usize>,
}

impl Record {
    /// How long the record is that begins here. It is a claim: nothing of it is checked yet.
    pub(super) fn length(bytes: &[u8]) -> Option<usize> {
        let head = bytes.get(..RECORD_HEAD)?;
        let table = ROW.checked_mul(number32(&head[12..]) as usize)?;
        let rows = bytes.get(RECORD_HEAD..)?.get(..table)?.chunks_exact(ROW);
        let payloads: usize = rows.map(|row| number32(row) as usize).sum();
        let length = RECORD_HEAD + table + number32(&head[8..]) as usize + payloads;
        (length <= bytes.len()).then_some(length)
    }

    /// # Errors
    /// The plain bytes, or the table of the payloads, are not what was written.
    pub(super) fn parse(bytes: Bytes, seed: u64) -> Result<Record, String> {
        if Record::length(&bytes) != Some(bytes.len()) {
            return Err("a record has another length".into());
        }
        let start = RECORD_HEAD + ROW * number32(&bytes[12..]) as usize;
        let plain = start..start + number32(&bytes[8..]) as usize;
        if xxh3_64_with_seed(&bytes[8..plain.end], seed) != number64(&bytes) {
            return Err("a record does not match its checksum".into());
        }
        Ok(Record { bytes, seed, plain })
    }

    /// What is never erased.
    pub fn plain(&self) -> &[u8] {
        &self.bytes[self.plain.clone()]
    }

    /// Its payloads in their order.
    pub fn payloads(&self) -> impl Iterator<Item = Payload<'_>> {
        self.payloads_from(0)
    }

    /// Its payloads from one of them on. Those before are not checked.
    pub fn payloads_from(&self, first: usize) -> impl Iterator<Item = Payload<'_>> {
        let places = self.payload_ranges().skip(first);
        places.map(|(range, checksum)| self.judge(&self.bytes[range], checksum))
    }

    /// The lengths of its payloads, which an erasure does not change.
    pub fn payload_lengths(&self) -> impl Iterator<Item = usize> {
        self.payload_ranges().map(|(range, _)| range.len())
    }

    /// One of its payloads, if it has so many.
    pub fn payload(&self, at: usize) -> Option<Payload<'_>> {
        let (range, checksum) = self.payload_ranges().nth(at)?;
        Some(self.judge(&self.bytes[range], checksum))
    }

    /// Where all of its payloads stand together, in the record at this place; nothing where they are empty.
    pub fn all_payloads_place(&self, record: Place) -> Option<Place> {
        let length = self.bytes.len() - self.plain.end;
        let place = Place { offset: record.offset + length32(self.plain.end), length: length32(length), ..record };
        (length > 0).then_some(place)
    }

    /// Where one of its payloads stands, in the record at this place.
    pub fn payload_place(&self, record: Place, at: usize) -> Option<Place> {
        let (range, _) = self.payload_ranges().nth(at)?;
        let offset = record.offset + length32(range.start);
        Some(Place { segment: record.segment, offset, length: length32(range.len()) })
    }

    fn judge<'a>(&self, payload: &'a [u8], checksum: u64) -> Payload<'a> {
        if xxh3_64_with_seed(payload, self.seed) == checksum {
            Payload::Whole(payload)
        } else if payload.iter().all(|&byte| byte == 0) {
            Payload::Erased
        } else {
            Payload::Damaged
        }
    }

    /// The range and the checksum of each payload.
    fn payload_ranges(&self) -> impl Iterator<Item = (Range<usize>, u64)> {
        let mut end = self.plain.end;
        self.bytes[RECORD_HEAD..self.plain.start].chunks_exact(ROW).map(move |row| {
            let start = end;
            end += number32(row) as usize;
            (start..end, number64(&row[4..]))
        })
    }
}
