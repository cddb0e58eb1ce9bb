//! Runs: consecutive transactions of one chain, as they stand in one record of the log, alone or behind an
//! [effect](super::effects).
//!
//! Its plain bytes are, numbers big-endian:
//!
//! | part | bytes |
//! | --- | --- |
//! | `R` | 1 |
//! | id of the chain | 32 |
//! | index of the first transaction | 8 |
//! | bytes of the chain's transactions before it | 8 |
//! | number of transactions | 4 |
//! | of each, length of its text | 4 |
//! | the texts, one behind the other | |
//!
//! A text is the transaction as it is served, without its data and its salt: these are the payload, with the name of the
//! salt between them. Served is the text with the payload in its place, or with what is left after an erasure. A
//! transaction that came erased has an empty payload, and its text is all of it.

use std::ops::Range;

use super::{ChainNumber, StoreError, effects::run_start, entry::LogRecord, index::Rows};
use crate::{
    core::{
        count::{Index, Size},
        hash::Hash,
        merkle::Edge,
        transaction::{DATA, END_BYTES, Erased, Id, Timestamp, Transaction, record_hash, write_erased},
    },
    limits,
    log::{Payload, Place, Record},
};

/// Marks a run in the log.
pub(super) const RUN: u8 = b'R';

/// Bytes of the plain bytes before the lengths of the texts.
const HEAD: usize = 1 + 32 + 8 + 8 + 4;

/// Consecutive transactions of one chain that are committed together.
pub struct Run {
    chain: Hash,
    first: Index,
    bytes_before: u64,
    lengths: Vec<u32>,
    texts: Vec<u8>,
    payloads: Vec<u8>,
    /// Where each payload ends.
    ends: Vec<usize>,
}

impl Run {
    /// An empty run of a chain, behind `bytes_before` bytes of its earlier transactions.
    pub fn new(chain: Hash, first: Index, bytes_before: u64) -> Self {
        let (lengths, texts, payloads, ends) = Default::default();
        Run { chain, first, bytes_before, lengths, texts, payloads, ends }
    }

    /// Whether it should be put before `bytes` more are added.
    pub fn is_full_for(&self, bytes: usize) -> bool {
        !self.lengths.is_empty()
            && (self.lengths.len() >= limits::RUN_TRANSACTIONS || self.bytes() + bytes > limits::RUN_BYTES)
    }

    /// Adds the next transaction, and gives its size in bytes as it is served.
    pub fn push(&mut self, transaction: &Transaction) -> u64 {
        let (texts, payloads) = (self.texts.len(), self.payloads.len());
        let index = self.first.get() + u64::from(self.count());
        transaction.write_apart(Index::new(index), &mut self.texts, &mut self.payloads);
        let length = self.texts.len() - texts;
        self.lengths.push(u32::try_from(length).expect("a run is bounded far below 4 GiB"));
        self.ends.push(self.payloads.len());
        (length + self.payloads.len() - payloads) as u64
    }

    /// Bytes of its transactions.
    pub fn bytes(&self) -> usize {
        self.texts.len() + self.payloads.len()
    }

    /// The index of its first transaction.
    pub(super) fn first(&self) -> Index {
        self.first
    }

    /// How many it has.
    pub(super) fn count(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// Bytes of the chain's transactions before it.
    pub fn bytes_before(&self) -> u64 {
        self.bytes_before
    }

    /// The texts of its transactions.
    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.lengths.iter().scan(self.texts.as_slice(), |rest, length| {
            let (text, after) = rest.split_at(*length as usize);
            *rest = after;
            Some(text)
        })
    }

    /// As a record of the log, behind the plain bytes of an effect if it is a part of one.
    pub(super) fn into_record(self, effect: Vec<u8>) -> LogRecord {
        let mut plain = effect;
        plain.reserve(HEAD + 4 * self.lengths.len() + self.texts.len());
        plain.push(RUN);
        plain.extend_from_slice(self.chain.as_bytes());
        plain.extend_from_slice(&self.first.get().to_be_bytes());
        plain.extend_from_slice(&self.bytes_before.to_be_bytes());
        plain.extend_from_slice(&self.count().to_be_bytes());
        for length in &self.lengths {
            plain.extend_from_slice(&length.to_be_bytes());
        }
        plain.extend_from_slice(&self.texts);
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let lengths = starts.zip(&self.ends).map(|(start, end)| ((end - start) as u32, None)).collect();
        LogRecord { plain, payloads: self.payloads, lengths }
    }
}

/// What is left of an erased transaction beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// When, and by which transaction.
    pub erased: Erased,
    /// What the leaf says of the data.
    pub commitment: Hash,
}

impl Erasure {
    /// Of what was imported and given up: nobody will ask for it.
    pub(super) const GONE: Erasure =
        Erasure { erased: Erased { timestamp: Timestamp::LAST, by: Index::new(u64::MAX) }, commitment: Hash::ZERO };

    /// Bytes of its encoded form.
    pub(super) const BYTES: usize = 48;

    /// As it is stored: time, index and commitment, numbers big-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Erasure { erased: Erased { timestamp, by }, commitment } = self;
        [&timestamp.micros().to_be_bytes()[..], &by.get().to_be_bytes(), commitment.as_bytes()].concat()
    }

    /// From its stored form.
    pub(super) fn decode(bytes: &[u8]) -> Option<Erasure> {
        let (timestamp, rest) = bytes.split_first_chunk()?;
        let (by, commitment) = rest.split_first_chunk()?;
        let timestamp = Timestamp::from_micros(i64::from_be_bytes(*timestamp))?;
        let erased = Erased { timestamp, by: Index::new(u64::from_be_bytes(*by)) };
        Some(Erasure { erased, commitment: Hash::from_bytes(*commitment.as_array()?) })
    }
}

/// What the plain bytes of a record say of its run.
pub(super) struct ParsedRun {
    pub(super) chain: Hash,
    pub(super) first: Index,
    pub(super) bytes_before: u64,
    /// Where the text of each transaction stands in the plain bytes.
    pub(super) texts: Vec<Range<usize>>,
}

fn malformed_run() -> StoreError {
    StoreError::Damaged("a run of transactions is malformed".into())
}

/// The run in the plain bytes of a record.
///
/// # Errors
/// There is none.
pub(super) fn parse_run(plain: &[u8]) -> Result<ParsedRun, StoreError> {
    let start = run_start(plain).ok_or_else(malformed_run)?;
    let plain = plain.get(start..).ok_or_else(malformed_run)?;
    let head: &[u8; HEAD] = plain.first_chunk().filter(|head| head[0] == RUN).ok_or_else(malformed_run)?;
    let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes were taken"));
    let (chain, first, bytes_before) =
        (Hash::from_bytes(head[1..33].try_into().expect("32 bytes were taken")), Index::new(number(33)), number(41));
    let count = u32::from_be_bytes(head[49..].try_into().expect("four bytes were taken")) as usize;
    let lengths = plain.get(HEAD..).and_then(|rest| rest.get(..4 * count)).ok_or_else(malformed_run)?;
    let mut end = HEAD + lengths.len();
    let texts: Vec<Range<usize>> = lengths
        .as_chunks()
        .0
        .iter()
        .map(|length| {
            let from = end;
            end += u32::from_be_bytes(*length) as usize;
            start + from..start + end
        })
        .collect();
    if count > 0 && end == plain.len() {
        Ok(ParsedRun { chain, first, bytes_before, texts })
    } else {
        Err(malformed_run())
    }
}

/// A transaction as it is served, from its text and its payload.
///
/// # Errors
/// The text is malformed.
pub(super) fn whole_text(text: &[u8], payload: &[u8]) -> Result<Vec<u8>, StoreError> {
    let split = text.len().checked_sub(END_BYTES).ok_or_else(malformed_run)?;
    Ok([&text[..split], payload, &text[split..]].concat())
}

/// A run as it was read.
pub(super) struct StoredRun {
    record: Record,
    /// The chain that wrote it.
    pub(super) chain: Hash,
    /// The index of its first transaction.
    pub(super) first: Index,
    bytes_before: u64,
    /// Where the text of each stands in the plain bytes.
    texts: Vec<Range<usize>>,
}

impl StoredRun {
    /// The run in a record of the log, if it has one.
    pub(super) fn decode(record: Record) -> Result<StoredRun, StoreError> {
        let ParsedRun { chain, first, bytes_before, texts } = parse_run(record.plain())?;
        match record.payload_lengths().count() == texts.len() {
            true => Ok(StoredRun { record, chain, first, bytes_before, texts }),
            false => Err(malformed_run()),
        }
    }

    /// How many transactions it has.
    pub(super) fn count(&self) -> usize {
        self.texts.len()
    }

    /// The size of the chain with its last transaction.
    pub(super) fn end(&self) -> Size {
        Size::new(self.first.get() + self.count() as u64)
    }

    /// The place of a transaction in the run, from 0.
    pub(super) fn place_of(&self, index: Index) -> usize {
        (index.get() - self.first.get()) as usize
    }

    /// The texts of its transactions.
    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count()).map(|at| self.text(at))
    }

    /// What is never erased of a transaction.
    pub(super) fn text(&self, at: usize) -> &[u8] {
        &self.record.plain()[self.texts[at].clone()]
    }

    /// Where the payload of a transaction stands, in the run at this place.
    pub(super) fn payload_place(&self, run: Place, at: usize) -> Option<Place> {
        self.record.payload_place(run, at)
    }

    /// Appends a part of the run as it is served, with `separator` between the transactions. `erasure` tells of those whose data is
    /// not there any more; with `hides`, also of those whose data could not be overwritten.
    pub(super) fn serve(
        &self,
        part: Range<usize>,
        separator: u8,
        hides: bool,
        erasure: impl Fn(Index) -> Result<Option<Erasure>, StoreError>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let start = part.start;
        for (at, payload) in part.zip(self.record.payloads_from(start)) {
            if at > start {
                out.push(separator);
            }
            let (index, text) = (Index::new(self.first.get() + at as u64), self.text(at));
            let damaged = |detail: &str| StoreError::Damaged(format!("transaction {index}: {detail}"));
            let split = text.len().checked_sub(END_BYTES).ok_or_else(|| damaged("it is malformed"))?;
            let payload = match payload {
                Payload::Whole([_, ..]) if hides && erasure(index)?.is_some() => Payload::Erased,
                payload => payload,
            };
            match payload {
                Payload::Whole([]) => out.extend_from_slice(text),
                Payload::Whole(payload) => {
                    out.extend_from_slice(&text[..split]);
                    out.extend_from_slice(payload);
                    out.extend_from_slice(&text[split..]);
                }
                Payload::Erased => {
                    let erasure = erasure(index)?.ok_or_else(|| damaged("its data is zeros, but it was not erased"))?;
                    let kept = text[..split].strip_suffix(DATA).ok_or_else(|| damaged("it is malformed"))?;
                    out.extend_from_slice(kept);
                    write_erased(erasure.commitment, erasure.erased, out);
                    out.extend_from_slice(&text[split..]);
                }
                Payload::Damaged => return Err(damaged("its data is not as it was written")),
            }
        }
        Ok(())
    }

    /// Bytes of the chain's transactions, as they were accepted, before the one at this place of the run.
    pub(super) fn bytes_before(&self, at: usize) -> u64 {
        let bytes = self.texts.iter().zip(self.record.payload_lengths()).map(|(text, payload)| text.len() + payload);
        self.bytes_before + bytes.take(at).sum::<usize>() as u64
    }
}

/// Puts what follows from the texts of consecutive transactions into the index: the tiles that they complete, and their ids.
///
/// # Errors
/// A text is malformed.
pub(super) fn index<'a>(
    texts: impl Iterator<Item = &'a [u8]>,
    chain: ChainNumber,
    edge: &mut Edge,
    rows: &mut Rows,
) -> Result<(), StoreError> {
    for text in texts {
        let index = Size::new(edge.size()).next_index();
        let malformed = || StoreError::Damaged(format!("transaction {index} is malformed"));
        edge.push(record_hash(text).ok_or_else(malformed)?, &mut |tile| rows.tile(chain, &tile));
        if let Some(id) = id_of(text).ok_or_else(malformed)? {
            rows.id(chain, &id, index);
        }
    }
    Ok(())
}

/// When the transaction of a text was accepted.
///
/// # Errors
/// The text is malformed.
pub(super) fn time_of(text: &[u8]) -> Result<Timestamp, StoreError> {
    // The mark stands in no id, where its quotes would be escaped.
    let read = || str::from_utf8(text).ok()?.split_once(",\"timestamp\":\"")?.1.get(..27)?.parse().ok();
    read().ok_or_else(|| StoreError::Damaged("the time of a transaction is malformed".into()))
}

/// The client's id in the text of a transaction, if it has one. `None` where the text is malformed.
pub(super) fn id_of(text: &[u8]) -> Option<Option<Id>> {
    // Its place is the first after the index, and its text has no escapes but those of JSON.
    let rest = text.strip_prefix(b"{\"index\":")?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let Some(quoted) = rest[digits..].strip_prefix(b",\"id\":") else { return Some(None) };
    let mut values = serde_json::Deserializer::from_slice(quoted).into_iter::<String>();
    values.next()?.ok()?.parse().ok().map(Some)
}
