//! Imports that are under way: chains that are stored in part, and that nobody sees before they are whole.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{
    Batch, ChainNumber, Store, StoreError,
    entries::Entry,
    index::{Index, PARTS, Rows, RunRow, Space, key, unreadable},
};
use crate::core::{hash::Hash, transaction::Timestamp};

/// Before the id of the chain, the name of the record of an import.
const IMPORT: &str = "import ";

/// How far the parts of a chain are removed: walking over all that is gone already would take longer with each step.
#[derive(Default)]
pub struct Removed {
    /// Keyspaces that are done.
    spaces: usize,
    /// The last key of the next one that is removed.
    key: Option<Vec<u8>>,
}

/// A chain that is imported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportRecord {
    /// The id that the chain will have.
    pub id: Hash,
    /// The number that its parts have.
    pub number: ChainNumber,
    /// Whether what is stored of it is being removed.
    pub given_up: bool,
    /// The name that the chain will have, once its bang was read.
    #[serde(default)]
    pub name: Option<String>,
    /// When something was stored of it last. Records of older versions do not say.
    #[serde(default)]
    pub active: Option<Timestamp>,
}

impl Rows {
    pub(super) fn import(&mut self, record: &ImportRecord) {
        let value = serde_json::to_string(record).expect("the record of an import is JSON");
        self.own(&format!("{IMPORT}{}", record.id), Some(&value));
    }

    pub(super) fn end_import(&mut self, id: Hash) {
        self.own(&format!("{IMPORT}{id}"), None);
    }
}

impl Index {
    /// All imports that are under way.
    pub(super) fn imports(&self) -> Result<Vec<ImportRecord>, StoreError> {
        self.all_own(IMPORT, "the record of an import")
    }
}

impl Batch {
    /// An import, new or changed.
    pub fn import(&mut self, record: &ImportRecord) {
        self.named.push((record.number, record.id));
        self.rows.import(record);
        self.entries.push(Entry::import(record));
    }

    /// The end of an import.
    pub fn end_import(&mut self, id: Hash) {
        self.rows.end_import(id);
        self.entries.push(Entry::EndImport { id });
    }
}

impl Store {
    /// All imports that are under way.
    pub fn imports(&self) -> Result<Vec<ImportRecord>, StoreError> {
        self.index()?.imports()
    }

    /// Removes at most `limit` more entries of a chain that no record names any more, and says whether none is left. The data and
    /// the salts of its transactions are erased with them.
    pub fn remove_parts(
        &self,
        chain: ChainNumber,
        limit: usize,
        removed: &mut Removed,
        batch: &mut Batch,
    ) -> Result<bool, StoreError> {
        let index = self.index()?;
        let mut room = limit;
        while let Some(&space) = PARTS.get(removed.spaces) {
            let start = removed.key.clone().map_or(Bound::Included(key([chain.0])), Bound::Excluded);
            for entry in index.space(space).range((start, Bound::Excluded(key([chain.0 + 1])))).take(room) {
                let (key, value) = entry.into_inner().map_err(unreadable)?;
                if let Space::Runs = space {
                    let place = RunRow::decode(&key, &value)?.place;
                    batch.purged.extend(self.reader.record(place)?.all_payloads_place(place));
                }
                removed.key = Some(key.to_vec());
                batch.rows.remove(space, key.to_vec());
                room -= 1;
            }
            if room == 0 {
                return Ok(false);
            }
            (removed.spaces, removed.key) = (removed.spaces + 1, None);
        }
        Ok(true)
    }
}
