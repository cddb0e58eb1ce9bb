//! What the log holds beside the transactions: chains, quants, erasures, and what is the node's own. One record of a batch has all
//! of it, as JSON.
//!
//! Chains are named by their ids: their numbers are the index's own.

use serde::{Deserialize, Serialize};

use super::{BangPlace, ChainNumber, ChainRecord, ImportRecord, Parent, StoreError, runs::Erasure};
use crate::core::{
    chain::LeapPolicy,
    hash::Hash,
    quant::QuantFields,
    transaction::{Erased, Timestamp},
};

/// Marks, in the log, a record of entries.
pub(super) const ENTRIES: u8 = b'E';

/// One thing that the log says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Entry {
    /// A chain, new or changed.
    Chain { id: Hash, name: String, parent: Option<Forked>, leap: LeapPolicy, erasures: u64, bang: Option<BangPlace> },
    /// A quant behind one of `previous_size` transactions.
    Quant { chain: Hash, previous_size: u64, quant: QuantFields },
    /// A transaction that is erased.
    Erased { chain: Hash, index: u64, timestamp: Timestamp, by: u64, commitment: Hash },
    /// An import, new or changed.
    Import { id: Hash, given_up: bool, name: Option<String>, active: Option<Timestamp> },
    /// The end of an import: the chain is there, or all of it is gone.
    EndImport { id: Hash },
    /// Something of the node's own, or nothing any more.
    Own { name: String, value: Option<String> },
}

/// The quant of another chain that a fork goes on from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Forked {
    pub(super) chain: Hash,
    quant: u64,
    size: u64,
}

impl Forked {
    pub(super) fn parent(&self, number: ChainNumber) -> Parent {
        Parent { number, quant: self.quant, size: self.size }
    }
}

impl Entry {
    /// `parent` is the id of the chain that it was forked from.
    pub(super) fn chain(record: &ChainRecord, parent: Option<Hash>) -> Entry {
        let ChainRecord { id, ref name, parent: place, leap, erasures, bang, .. } = *record;
        let parent = place.zip(parent).map(|(Parent { quant, size, .. }, chain)| Forked { chain, quant, size });
        Entry::Chain { id, name: name.clone(), parent, leap, erasures, bang }
    }

    pub(super) fn erased(chain: Hash, index: u64, erasure: &Erasure) -> Entry {
        let Erasure { erased: Erased { timestamp, by }, commitment } = *erasure;
        Entry::Erased { chain, index, timestamp, by, commitment }
    }

    pub(super) fn import(record: &ImportRecord) -> Entry {
        let ImportRecord { id, given_up, ref name, active, .. } = *record;
        Entry::Import { id, given_up, name: name.clone(), active }
    }
}

/// The plain bytes of a record of these entries.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut plain = vec![ENTRIES];
    serde_json::to_writer(&mut plain, entries).expect("entries are JSON");
    plain
}

/// Entries from the plain bytes of their record.
pub(super) fn decode(plain: &[u8]) -> Result<Vec<Entry>, StoreError> {
    let entries = plain.strip_prefix(&[ENTRIES]).and_then(|json| serde_json::from_slice(json).ok());
    entries.ok_or_else(|| StoreError::Damaged("the log has a record that is none of this program's".into()))
}
