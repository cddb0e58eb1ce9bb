//! The effects of entries that other nodes have decided.

use std::ops::Range;

use super::{
    Batch, ChainNumber, Decided, Effect, LogRecord, RunInLog, StoreError,
    effects::{self, Content, Entry},
    runs::{Erasure, id_of, parse_run, time_of, whole_text},
};
use crate::core::{
    count::Index,
    hash::Hash,
    quant::{Quant, QuantFields},
    transaction::{Id, Record, Timestamp, Transaction, record_hash},
};

/// What a record of an entry says.
pub enum Followed<'a> {
    /// Transactions were accepted, or are a part of an import.
    Run(FollowedRun<'a>),
    /// Anything else.
    Effect(Box<Effect>),
}

/// Consecutive transactions of a chain, of which some may have been erased since.
pub struct FollowedRun<'a> {
    record: &'a LogRecord,
    /// The chain.
    pub chain: Hash,
    /// The index of the first.
    pub first: Index,
    /// Bytes of the chain's transactions before it.
    pub bytes_before: u64,
    texts: Vec<Range<usize>>,
}

/// A transaction, as far as it is needed to go on behind it.
pub struct FollowedTransaction {
    /// The hash of its leaf.
    pub hash: Hash,
    /// The client's name for it.
    pub id: Option<Id>,
    /// When it was accepted.
    pub timestamp: Timestamp,
    /// Bytes of it as it was served first.
    pub bytes: u64,
    /// What is left of its data, if it was erased before it came here.
    pub erasure: Option<Erasure>,
}

impl<'a> Followed<'a> {
    /// Reads a record of an entry.
    ///
    /// # Errors
    /// It is none of this program's.
    pub fn read(record: &'a LogRecord) -> Result<Followed<'a>, StoreError> {
        let quant =
            |fields: QuantFields| Quant::try_from(fields).map_err(|error| StoreError::Damaged(error.to_string()));
        let effect = match effects::decode(&record.plain)? {
            Content::Own(_) | Content::Group(_) | Content::ErasedBefore(_) => {
                return Err(StoreError::Damaged("an entry has something that is no effect".into()));
            }
            Content::Run => return FollowedRun::of(record).map(Followed::Run),
            Content::Effect(entry) => match *entry {
                Entry::Bang { parent, leap, quant: first, .. } => {
                    Effect::Bang { parent, leap, bang: the_transaction(record)?, quant: quant(first)? }
                }
                Entry::Seal { chain, quant: next } => Effect::Seal { chain, quant: quant(next)? },
                Entry::Erase { chain, index, commitment } => {
                    Effect::Erase { chain, index, commitment, record: the_transaction(record)? }
                }
                Entry::Key { chain } => Effect::Key { chain, record: the_transaction(record)? },
                Entry::Freeze { chain } => Effect::Freeze { chain, record: the_transaction(record)? },
                Entry::SetLeap { chain, leap } => Effect::SetLeap { chain, leap },
                Entry::SetMirror { chain, from } => Effect::SetMirror { chain, from },
                Entry::Import { chain, name, at, quants } => {
                    let quants = quants.into_iter().map(quant).collect::<Result<_, _>>()?;
                    Effect::Import { chain, name, at, runs: Vec::new(), quants }
                }
                Entry::Adopt { chain, bang, leap, erasures, keys, frozen, .. } => {
                    Effect::Adopt { chain, bang, leap, erasures, decided: Decided { keys, frozen } }
                }
                Entry::AbandonImport { chain } => Effect::AbandonImport { chain },
                Entry::EndImport { chain } => Effect::EndImport { chain },
            },
        };
        Ok(Followed::Effect(effect.into()))
    }
}

/// The one transaction of a record, which is never erased.
fn the_transaction(record: &LogRecord) -> Result<Transaction, StoreError> {
    let run = FollowedRun::of(record)?;
    let text = whole_text(&record.plain[run.texts[0].clone()], &record.payloads)?;
    Record::parse(&text).map(|record| record.transaction).map_err(StoreError::Damaged)
}

impl<'a> FollowedRun<'a> {
    fn of(record: &'a LogRecord) -> Result<FollowedRun<'a>, StoreError> {
        let run = parse_run(&record.plain)?;
        if run.texts.len() != record.lengths.len() {
            return Err(StoreError::Damaged("a run of transactions is malformed".into()));
        }
        Ok(FollowedRun { record, chain: run.chain, first: run.first, bytes_before: run.bytes_before, texts: run.texts })
    }

    /// Its transactions in their order.
    pub fn transactions(&self) -> impl Iterator<Item = Result<FollowedTransaction, StoreError>> {
        self.texts.iter().zip(&self.record.lengths).map(|(text, (payload, erasure))| {
            let text = &self.record.plain[text.clone()];
            let malformed = || StoreError::Damaged("a transaction of the log is malformed".into());
            let hash = record_hash(text).ok_or_else(malformed)?;
            let id = id_of(text).ok_or_else(malformed)?;
            let bytes = (text.len() + *payload as usize) as u64;
            Ok(FollowedTransaction { hash, id, timestamp: time_of(text)?, bytes, erasure: erasure.as_deref().copied() })
        })
    }
}

impl Batch {
    /// How a transaction that stands in the log is found by its id, and what is left of one whose data was erased.
    pub fn logged_transaction(&mut self, chain: ChainNumber, index: Index, transaction: &FollowedTransaction) {
        if let Some(id) = &transaction.id {
            self.rows.id(chain, id, index);
        }
        if let Some(erasure) = &transaction.erasure {
            self.rows.erased(chain, index, erasure);
        }
    }

    /// A run that stands in the log as the next record of an entry.
    pub fn logged_run(&mut self, chain: ChainNumber, run: &FollowedRun<'_>) {
        let (first, bytes_before, count) = (run.first, run.bytes_before, run.texts.len() as u32);
        self.runs.push(Some(RunInLog { chain, first, bytes_before, count }));
    }
}
