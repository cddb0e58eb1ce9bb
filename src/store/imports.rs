//! Imports that are under way: chains that are stored in part, and that nobody sees before they are whole.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{
    Batch, ChainNumber, ChainRecord, Decided, Logged, Run, Store, StoreError,
    effects::Entry as EffectEntry,
    entry::Group,
    index::{Index, PARTS, Rows, RunRow, Space, key, unreadable},
    runs,
};
use crate::core::{count::Size, hash::Hash, merkle::Edge, quant::Quant, transaction::Timestamp};

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
    /// The nodes that will keep it.
    pub group: Group,
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
    /// [`Effect::Import`](super::Effect::Import): `edge` is that of the transactions that are stored, and moves on; `sealed` is the
    /// size of the newest quant that is stored.
    ///
    /// # Panics
    /// A transaction is malformed.
    pub fn import(
        &mut self,
        record: &ImportRecord,
        at: Timestamp,
        parts: (Vec<Run>, Vec<Quant>),
        edge: &mut Edge,
        mut sealed: Size,
    ) {
        let (runs, quants) = parts;
        let chain = record.number;
        self.named.push((chain, record.id));
        self.rows.import(record);
        for run in runs {
            runs::index(run.texts(), chain, edge, &mut self.rows).expect("what is imported was verified");
            self.logged.push(Logged { plain: Vec::new(), run: Some((chain, run)) });
        }
        for quant in &quants {
            self.rows.quant(chain, quant, sealed, quant.size());
            sealed = quant.size();
        }
        let quants = quants.into_iter().map(Into::into).collect();
        self.log(&EffectEntry::Import { chain: record.id, name: record.name.clone(), at, quants });
    }

    /// [`Effect::Adopt`](super::Effect::Adopt).
    pub fn adopt(&mut self, record: &ChainRecord) {
        let ChainRecord { id: chain, leap, erasures, .. } = *record;
        let (name, Decided { keys, frozen }) = (record.name.clone(), record.decided.clone());
        let bang = record.bang.unwrap_or(super::BangPlace::START);
        self.rows.chain(record);
        self.rows.end_import(chain);
        self.log(&EffectEntry::Adopt { chain, name, bang, leap, erasures, keys, frozen });
    }

    /// [`Effect::AbandonImport`](super::Effect::AbandonImport); the record says so.
    pub fn abandon_import(&mut self, record: &ImportRecord) {
        self.rows.import(record);
        self.log(&EffectEntry::AbandonImport { chain: record.id });
    }

    /// [`Effect::EndImport`](super::Effect::EndImport).
    pub fn end_import(&mut self, chain: Hash) {
        self.rows.end_import(chain);
        self.log(&EffectEntry::EndImport { chain });
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
