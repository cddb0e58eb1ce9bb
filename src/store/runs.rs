//! Runs: consecutive transactions of one chain, as they stand in one encrypted value.
//!
//! | part | bytes |
//! | --- | --- |
//! | version, form | 1, 1 |
//! | slot of the key | 8 |
//! | bytes of the chain's records before it | 8 |
//! | number of records | 4 |
//! | where each record ends | 4 each |
//! | size of each record as it was accepted, where something was erased | 4 each |
//! | the records with commas between them, encrypted | |
//!
//! Numbers are big-endian.

use std::ops::Range;

use super::{StoreError, VALUE_FORMAT, Value, run_keys::Key};
use crate::limits;

/// Consecutive transactions of one chain that were committed together.
#[derive(Default)]
pub struct Run {
    first: u64,
    bytes_before: u64,
    ends: Vec<u32>,
    records: Vec<u8>,
    replaces: Option<Replaced>,
}

/// What a run that is stored anew was before.
struct Replaced {
    /// The slot of its key.
    slot: u64,
    /// The sizes of its records as they were accepted.
    accepted: Vec<u32>,
}

impl Run {
    /// Version, form, slot of the key, bytes before, number of records.
    const HEAD: usize = 1 + 1 + 8 + 8 + 4;
    /// The form of a run as it was accepted.
    const ACCEPTED: u8 = 0;
    /// The form of a run of which something was erased: behind the ends of the records stand their sizes as accepted.
    const ERASED: u8 = 1;

    /// An empty run behind `bytes_before` bytes of the chain's earlier records.
    pub fn new(first: u64, bytes_before: u64) -> Self {
        Run { first, bytes_before, ..Run::default() }
    }

    /// Whether it should be put before `bytes` more are added.
    pub fn is_full_for(&self, bytes: usize) -> bool {
        !self.ends.is_empty()
            && (self.ends.len() >= limits::RUN_TRANSACTIONS || self.records.len() + bytes > limits::RUN_BYTES)
    }

    /// Adds the next record, and gives its size in bytes.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if !self.ends.is_empty() {
            self.records.push(b',');
        }
        let start = self.records.len();
        write(&mut self.records);
        self.ends.push(u32::try_from(self.records.len()).expect("a run is bounded far below 4 GiB"));
        (self.records.len() - start) as u64
    }

    /// Bytes of its records.
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// The slot of the key that it had before something was erased.
    pub(super) fn replaced_slot(&self) -> Option<u64> {
        self.replaces.as_ref().map(|replaced| replaced.slot)
    }

    /// The index of its first transaction.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Its stored form: the records are encrypted with the key of this slot.
    pub(super) fn encode(&self, slot: u64, key: &Key) -> Vec<u8> {
        let accepted: &[u32] = self.replaces.as_ref().map_or(&[], |replaced| &replaced.accepted);
        let mut value = Vec::with_capacity(Self::HEAD + 4 * (self.ends.len() + accepted.len()) + self.records.len());
        value.push(VALUE_FORMAT);
        value.push(if self.replaces.is_some() { Self::ERASED } else { Self::ACCEPTED });
        value.extend_from_slice(&slot.to_be_bytes());
        value.extend_from_slice(&self.bytes_before.to_be_bytes());
        value.extend_from_slice(&(self.ends.len() as u32).to_be_bytes());
        for number in self.ends.iter().chain(accepted) {
            value.extend_from_slice(&number.to_be_bytes());
        }
        let start = value.len();
        value.extend_from_slice(&self.records);
        key.apply(0, &mut value[start..]);
        value
    }
}

/// A run as it was read.
pub(super) struct StoredRun {
    /// The index of its first transaction.
    pub(super) first: u64,
    value: Value,
    /// How many it has.
    pub(super) count: usize,
}

impl StoredRun {
    pub(super) fn decode(key: &[u8], value: Value) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged("a run of transactions is malformed".into());
        let first = u64::from_be_bytes(key.get(8..16).and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?);
        let head = value.get(..Run::HEAD).ok_or_else(damaged)?;
        let count = u32::from_be_bytes(head[18..].try_into().expect("four bytes were taken")) as usize;
        let run = StoredRun { first, count, value };
        let is_whole = run.value[0] == VALUE_FORMAT
            && matches!(run.value[1], Run::ACCEPTED | Run::ERASED)
            && count > 0
            && run.value.len() >= run.start()
            && run.end_of(count - 1) == run.value.len();
        if is_whole { Ok(run) } else { Err(damaged()) }
    }

    fn number(&self, place: usize) -> u32 {
        u32::from_be_bytes(self.value[place..place + 4].try_into().expect("four bytes were taken"))
    }

    pub(super) fn slot(&self) -> u64 {
        u64::from_be_bytes(self.value[2..10].try_into().expect("eight bytes were taken"))
    }

    /// Where the records start.
    fn start(&self) -> usize {
        let numbers = if self.value[1] == Run::ERASED { 2 * self.count } else { self.count };
        Run::HEAD + 4 * numbers
    }

    pub(super) fn end_of(&self, at: usize) -> usize {
        self.start() + self.number(Run::HEAD + 4 * at) as usize
    }

    pub(super) fn begin_of(&self, at: usize) -> usize {
        if at == 0 { self.start() } else { self.end_of(at - 1) + 1 }
    }

    /// The size of a record as it was accepted.
    fn accepted(&self, at: usize) -> u32 {
        match self.value[1] {
            Run::ERASED => self.number(Run::HEAD + 4 * (self.count + at)),
            _ => (self.end_of(at) - self.begin_of(at)) as u32,
        }
    }

    /// Appends the records of a part of the run, with `separator` between them.
    pub(super) fn decrypt(
        &self,
        key: &Key,
        part: Range<usize>,
        separator: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let (begin, end) = (self.begin_of(part.start), self.end_of(part.end - 1));
        let bytes = self.value.get(begin..end);
        let bytes = bytes.ok_or_else(|| StoreError::Damaged("a run of transactions is malformed".into()))?;
        let from = out.len();
        out.extend_from_slice(bytes);
        key.apply(begin - self.start(), &mut out[from..]);
        if separator != b',' {
            for at in part.start..part.end - 1 {
                let comma = out.get_mut(from + self.end_of(at) - begin);
                *comma.ok_or_else(|| StoreError::Damaged("a run of transactions is malformed".into()))? = separator;
            }
        }
        Ok(())
    }

    /// The index behind its last transaction.
    pub(super) fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    /// Bytes of the chain's records, as they were accepted, before the one at this place of the run.
    pub(super) fn bytes_before(&self, at: usize) -> u64 {
        let before_run = u64::from_be_bytes(self.value[10..18].try_into().expect("eight bytes were taken"));
        before_run + (0..at).map(|at| u64::from(self.accepted(at))).sum::<u64>()
    }

    /// The same run with another record in the place of one.
    pub(super) fn with(&self, key: &Key, index: u64, record: &[u8]) -> Result<Run, StoreError> {
        let accepted = (0..self.count).map(|at| self.accepted(at)).collect();
        let mut run = Run::new(self.first, self.bytes_before(0));
        run.replaces = Some(Replaced { slot: self.slot(), accepted });
        let mut kept = Vec::new();
        for at in 0..self.count {
            kept.clear();
            self.decrypt(key, at..at + 1, b',', &mut kept)?;
            let is_it = self.first + at as u64 == index;
            run.push(|out| out.extend_from_slice(if is_it { record } else { &kept }));
        }
        Ok(run)
    }
}
