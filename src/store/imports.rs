//! Imports that are under way: chains that are stored in part, and that nobody sees before they are whole.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{
    Batch, ChainNumber, Space, Store, StoreError, StoredRun, checked_version, from_json, key, unreadable, versioned,
};
use crate::core::{hash::Hash, transaction::Timestamp};

/// Marks, in `meta`, an import that is under way.
const IMPORT: &[u8] = b"import ";

/// The keyspaces that hold parts of a chain, each under a key that begins with its number.
const PARTS: [Space; 6] = [Space::Runs, Space::Quants, Space::Sizes, Space::Hashes, Space::Ids, Space::Tiles];

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

    /// Removes at most `limit` more entries of a chain that no record names any more, and says whether none is left. The keys of
    /// its runs go with them.
    pub fn remove_parts(
        &self,
        chain: ChainNumber,
        limit: usize,
        removed: &mut Removed,
        batch: &mut Batch,
    ) -> Result<bool, StoreError> {
        let engine = self.engine()?;
        let mut room = limit;
        while let Some(&space) = PARTS.get(removed.spaces) {
            let start = removed.key.clone().map_or(Bound::Included(key([chain.0])), Bound::Excluded);
            for entry in engine.space(space).range((start, Bound::Excluded(key([chain.0 + 1])))).take(room) {
                let (key, value) = entry.into_inner().map_err(unreadable)?;
                if let Space::Runs = space {
                    // Of one that is damaged nobody knows the key.
                    batch.doomed.extend(StoredRun::decode(&key, value).map(|run| run.slot()));
                }
                removed.key = Some(key.to_vec());
                batch.removed.push((space, key.to_vec()));
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
