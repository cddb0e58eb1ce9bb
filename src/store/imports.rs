//! Imports that are under way: chains that are stored in part, and that nobody sees before they are whole.

use serde::{Deserialize, Serialize};

use super::{
    Batch, ChainNumber, Space, Store, StoreError, StoredRun, checked_version, from_json, key, unreadable, versioned,
};
use crate::core::hash::Hash;

/// Marks, in `meta`, an import that is under way.
const IMPORT: &[u8] = b"import ";

/// The keyspaces that hold parts of a chain, each under a key that begins with its number.
const PARTS: [Space; 6] = [Space::Runs, Space::Quants, Space::Sizes, Space::Hashes, Space::Ids, Space::Tiles];

/// A chain that is imported.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ImportRecord {
    /// The id that the chain will have.
    pub id: Hash,
    /// The number that its parts have.
    pub number: ChainNumber,
    /// Whether what is stored of it is being removed.
    pub given_up: bool,
}

fn import_key(id: Hash) -> Vec<u8> {
    [IMPORT, id.as_bytes()].concat()
}

impl Batch {
    /// An import, new or changed.
    pub fn import(&mut self, record: &ImportRecord) {
        let value = serde_json::to_vec(record).expect("the record of an import is JSON");
        self.put(Space::Meta, import_key(record.id), versioned(&value));
    }

    /// The end of an import.
    pub fn end_import(&mut self, id: Hash) {
        self.removed.push((Space::Meta, import_key(id)));
    }
}

impl Store {
    /// All imports that are under way.
    pub fn imports(&self) -> Result<Vec<ImportRecord>, StoreError> {
        let engine = self.engine()?;
        let entries = engine.space(Space::Meta).prefix(IMPORT);
        entries
            .map(|entry| {
                let value = entry.value().map_err(unreadable)?;
                checked_version(&value)?;
                from_json(&value, "the record of an import")
            })
            .collect()
    }

    /// Removes at most `limit` entries of a chain that no record names any more, and says whether none is left. The keys of its
    /// runs go with them.
    pub fn remove_parts(&self, chain: ChainNumber, limit: usize, batch: &mut Batch) -> Result<bool, StoreError> {
        let engine = self.engine()?;
        let before = batch.removed.len();
        for space in PARTS {
            let room = limit - (batch.removed.len() - before);
            for entry in engine.space(space).range(key([chain.0])..key([chain.0 + 1])).take(room) {
                let (key, value) = entry.into_inner().map_err(unreadable)?;
                if let Space::Runs = space {
                    // Of one that is damaged nobody knows the key.
                    batch.doomed.extend(StoredRun::decode(&key, value).map(|run| run.slot()));
                }
                batch.removed.push((space, key.to_vec()));
            }
        }
        Ok(batch.removed.len() - before < limit)
    }
}
