//! Damage of what chains have stored, and how it is mended: found run by run, and written anew in its place, of what another node has of
//! the same run.

use super::{
    ChainNumber, LogRecord, RunRow, Space, Store, StoreError,
    index::{Index, key, unreadable},
    runs::{parse_run, whole_text},
};
use crate::{
    core::{count, hash::Hash, transaction::Record},
    limits,
    log::Payload,
};

/// A run of a chain's transactions that is not as it was written.
#[derive(Clone, Debug)]
pub struct DamagedRun {
    /// The index of its first transaction.
    pub first: count::Index,
    /// The index after its last.
    pub end: count::Index,
    /// What does not hold.
    pub detail: String,
}

/// What was looked at of a chain.
pub enum Looked {
    /// A run is damaged.
    Damaged(DamagedRun),
    /// All up to this transaction holds; there is more.
    UpTo(count::Index),
    /// All holds.
    Whole,
}

impl Store {
    /// Looks for the first damaged run among those that a chain wrote itself, from the one with this first transaction on.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn look(&self, chain: ChainNumber, from: count::Index) -> Result<Looked, StoreError> {
        let index = self.index()?;
        let (mut bytes, mut served) = (0, Vec::new());
        for entry in index.space(Space::Runs).range(key([chain.0, from.get()])..key([chain.0 + 1])) {
            let (key, value) = entry.into_inner().map_err(unreadable)?;
            let row = RunRow::decode(&key, &value)?;
            if bytes > limits::REPLAY_BYTES {
                return Ok(Looked::UpTo(row.first));
            }
            bytes += row.place.length as usize;
            served.clear();
            let whole = self.run(chain, &row).and_then(|run| {
                let all = 0..run.count();
                run.serve(all, b'\n', false, |at| index.erasure(chain, at), &mut served)
            });
            match whole {
                Ok(()) => {}
                Err(StoreError::Damaged(detail)) => {
                    return Ok(Looked::Damaged(DamagedRun { first: row.first, end: row.end().next_index(), detail }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Looked::Whole)
    }

    /// A run of a chain's transactions, by the chain's id and the index of its first transaction, for another node that lacks it. What was
    /// erased is not in it.
    ///
    /// # Errors
    /// It is not here, or damaged here as well.
    pub fn run_record(&self, chain: Hash, first: count::Index) -> Result<LogRecord, StoreError> {
        let index = self.index()?;
        let unknown = || StoreError::Damaged(format!("the chain {chain} is not here"));
        let record = index.chains()?.into_iter().find(|record| record.id == chain).ok_or_else(unknown)?;
        let row = self.run_row(&index, record.number, first)?;
        let stored = self.reader.record(row.place)?;
        let mut run = LogRecord::read(&stored, |at| {
            let at = count::Index::new(row.first.get() + at as u64);
            let unknown = || StoreError::Damaged(format!("transaction {at}: its data is zeros, but it was not erased"));
            index.erasure(record.number, at)?.ok_or_else(unknown)
        })?;
        // Also where the data could not be overwritten yet.
        let mut rest = run.payloads.as_mut_slice();
        for (at, (length, erasure)) in (row.first.get()..).zip(&mut run.lengths) {
            let (payload, after) = rest.split_at_mut(*length as usize);
            rest = after;
            if !payload.is_empty() && erasure.is_none() {
                *erasure = index.erasure(record.number, count::Index::new(at))?.map(Box::new);
                if erasure.is_some() {
                    payload.fill(0);
                }
            }
        }
        Ok(run)
    }

    /// Writes a damaged run anew in its place, as it was written once: of what another node has of it, or, where it only lacks zeros for what
    /// was erased here, of itself. What was erased here stays so.
    ///
    /// # Errors
    /// It is not the run that was written here, which leaves all as it is; or the write fails.
    pub fn mend(&self, chain: ChainNumber, first: count::Index, of: Option<&LogRecord>) -> Result<(), StoreError> {
        // No erasure is under way while it is held.
        let log = self.log.lock().expect("no holder of this lock panics");
        if self.is_behind() {
            return Err(StoreError::Failed("the index lacks something that the log has".into()));
        }
        let index = self.index()?;
        let row = self.run_row(&index, chain, first)?;
        let own = of.is_none().then(|| self.own_run(&row)).transpose()?;
        let of = of.or(own.as_ref()).expect("one of them is there");
        let payloads = self.payloads_to_stand(&index, chain, &row, of)?;
        let payloads: Vec<(&[u8], bool)> = payloads.iter().map(|(bytes, erased)| (&bytes[..], *erased)).collect();
        Ok(log.mend(row.place, &of.plain, &payloads)?)
    }

    /// A run as it stands here, with zeros for each payload that is damaged.
    fn own_run(&self, row: &RunRow) -> Result<LogRecord, StoreError> {
        let record = self.reader.record(row.place)?;
        let (mut payloads, mut lengths) = (Vec::new(), Vec::new());
        for (payload, length) in record.payloads().zip(record.payload_lengths()) {
            match payload {
                Payload::Whole(bytes) => payloads.extend_from_slice(bytes),
                Payload::Erased | Payload::Damaged => payloads.resize(payloads.len() + length, 0),
            }
            lengths.push((length as u32, None));
        }
        Ok(LogRecord { plain: record.plain().to_vec(), payloads, lengths })
    }

    /// What is to stand in the place of each payload of a run, and whether it was erased here. What was not must hold the hash of its leaf.
    fn payloads_to_stand(
        &self,
        index: &Index,
        chain: ChainNumber,
        row: &RunRow,
        of: &LogRecord,
    ) -> Result<Vec<(Vec<u8>, bool)>, StoreError> {
        let run = parse_run(&of.plain)?;
        let id = self.ids.read().expect("no holder of this lock panics").get(&chain).copied();
        let is_it = Some(run.chain) == id
            && (run.first, run.bytes_before, run.texts.len()) == (row.first, row.bytes_before, row.count as usize)
            && of.lengths.len() == run.texts.len();
        if !is_it {
            return Err(StoreError::Damaged(format!("what was sent is not the run of transaction {}", row.first)));
        }
        let (mut payloads, mut rest) = (Vec::with_capacity(run.texts.len()), of.payloads.as_slice());
        for ((at, text), (length, erased)) in (row.first.get()..).zip(&run.texts).zip(&of.lengths) {
            let length = *length;
            let damaged = |detail: &str| StoreError::Damaged(format!("transaction {at}: {detail}"));
            let (payload, after) =
                rest.split_at_checked(length as usize).ok_or_else(|| damaged("what was sent of it is cut off"))?;
            rest = after;
            if length > 0 && index.erasure(chain, count::Index::new(at))?.is_some() {
                payloads.push((vec![0; length as usize], true));
                continue;
            }
            if erased.is_some() && length > 0 {
                return Err(damaged("elsewhere its data is erased already, which this node learns soon"));
            }
            let whole = whole_text(&of.plain[text.clone()], payload)?;
            let record = Record::parse(&whole).map_err(|detail| damaged(&detail))?;
            if record.index.get() != at {
                return Err(damaged("what was sent is another one"));
            }
            payloads.push((payload.to_vec(), false));
        }
        Ok(payloads)
    }
}
