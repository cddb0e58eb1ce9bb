//! Reads of chains, where they may block.

use std::{ops::Range, sync::Arc};

use super::Node;
use crate::{
    core::{
        count::{Height, Index},
        hash::Hash,
        quant::Quant,
        rules::Rules,
        transaction::Id,
    },
    store::{Store, StoreError},
    writer::{ChainHandle, in_force_at},
};

/// What is stored of one chain. Each read fails where that is damaged, or where the chain does not have what is asked for.
pub struct ChainReader<'a> {
    store: &'a Store,
    chain: &'a ChainHandle,
}

impl ChainReader<'_> {
    /// The chain.
    pub fn chain(&self) -> &ChainHandle {
        self.chain
    }

    /// One quant.
    ///
    /// # Errors
    /// See [`ChainReader`], as for all reads.
    pub fn quant(&self, index: Height) -> Result<Quant, StoreError> {
        self.store.quant(&self.chain.lineage, index)
    }

    /// The place of the quant with this hash, if the chain has one.
    pub fn quant_with_hash(&self, hash: Hash) -> Result<Option<Height>, StoreError> {
        self.store.quant_with_hash(&self.chain.lineage, hash)
    }

    /// The quant that seals a transaction, which must be sealed.
    pub fn quant_of(&self, transaction: Index) -> Result<Height, StoreError> {
        self.store.quant_of(&self.chain.lineage, transaction)
    }

    /// One transaction as it is served.
    pub fn record(&self, index: Index) -> Result<Vec<u8>, StoreError> {
        self.store.record(&self.chain.lineage, index)
    }

    /// Appends transactions as they are served to `out`, with `separator` between them: as many as fit into about so many bytes, but
    /// at least one. Gives the first that was left out.
    pub fn records(
        &self,
        range: Range<Index>,
        separator: u8,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<Index, StoreError> {
        self.store.records(&self.chain.lineage, range, separator, bytes, out)
    }

    /// The transaction that a client gave this id. It may come a moment before the head that has it.
    pub fn transaction_with_id(&self, id: &Id) -> Result<Option<Index>, StoreError> {
        self.store.transaction_with_id(&self.chain.lineage, id)
    }

    /// Id and rules of the chain that made a quant of this chain.
    pub fn in_force_at(&self, quant: Height) -> Result<(Hash, Arc<Rules>), StoreError> {
        in_force_at(self.store, self.chain, quant)
    }
}

impl Node {
    /// Reads what is stored of a chain.
    ///
    /// # Errors
    /// Those of the read.
    pub async fn read<T: Send + 'static>(
        &self,
        chain: &Arc<ChainHandle>,
        read: impl FnOnce(&ChainReader<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let of = chain.clone();
        self.read_of(chain, move |store| read(&ChainReader { store, chain: &of })).await
    }

    /// The same for what is not asked of the chain alone. Where it meets with damage, the chain is looked at.
    pub(super) async fn read_of<T: Send + 'static>(
        &self,
        chain: &Arc<ChainHandle>,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let read = self.read_store(read).await;
        if matches!(read, Err(StoreError::Damaged(_))) {
            self.suspect(chain);
        }
        read
    }

    /// One quant of a chain.
    ///
    /// # Errors
    /// What is stored is damaged; so for all reads.
    pub async fn quant(&self, chain: &Arc<ChainHandle>, index: Height) -> Result<Quant, StoreError> {
        self.read(chain, move |chain| chain.quant(index)).await
    }

    /// The place of a chain's quant with this hash, if there is one.
    pub async fn quant_with_hash(&self, chain: &Arc<ChainHandle>, hash: Hash) -> Result<Option<Height>, StoreError> {
        self.read(chain, move |chain| chain.quant_with_hash(hash)).await
    }

    /// The transaction of a chain that a client gave this id.
    pub async fn transaction_with_id(&self, chain: &Arc<ChainHandle>, id: Id) -> Result<Option<Index>, StoreError> {
        let found = self.read(chain, move |chain| chain.transaction_with_id(&id)).await?;
        // The index may show an id a moment before its transaction, which only the published head makes visible.
        Ok(found.filter(|&index| chain.head().size().has(index)))
    }

    /// A quant of a chain that a fork may go on from, with id and rules of the chain that made it.
    pub async fn fork_point(
        &self,
        chain: &Arc<ChainHandle>,
        at: Height,
    ) -> Result<(Quant, Hash, Arc<Rules>), StoreError> {
        self.read(chain, move |chain| {
            let (id, rules) = chain.in_force_at(at)?;
            Ok((chain.quant(at)?, id, rules))
        })
        .await
    }
}
