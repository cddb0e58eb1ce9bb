//! Proofs: receipts, consistency, and the tiles that they are made of.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::Node;
use crate::{
    core::{
        count::{Index, Size},
        hash::Hash,
        merkle::{self, KnownTile},
        note::Note,
        quant::Quant,
        transaction::Record,
    },
    limits,
    store::{Lineage, Store, StoreError},
    writer::ChainHandle,
};

/// The proof that a transaction is in a chain.
pub struct Receipt {
    /// The transaction as it is served.
    pub record: Vec<u8>,
    /// The quant that seals it.
    pub quant: Quant,
    /// Its inclusion proof in the quant's tree.
    pub path: Vec<Hash>,
    /// The checkpoint of the quant.
    pub checkpoint: Note,
}

impl Node {
    /// The receipt of a sealed transaction.
    ///
    /// # Errors
    /// The store is damaged.
    ///
    /// # Panics
    /// No quant seals the transaction yet.
    pub async fn receipt(&self, chain: Arc<ChainHandle>, index: Index) -> Result<Receipt, StoreError> {
        let head = chain.head();
        assert!(head.newest.size().has(index), "only a sealed transaction has a receipt");
        let node = self.clone();
        self.read_of(&chain.clone(), move |store| {
            let lineage = &chain.lineage;
            let record = store.record(lineage, index)?;
            let quant = store.quant(lineage, store.quant_of(lineage, index)?)?;
            let tiles = head.edge.source(|level, number| node.complete_tile(store, lineage, level, number));
            let path = merkle::prove_inclusion(index.get(), quant.size().get(), tiles)?;
            let checkpoint = node.checkpoint_of(&chain, &quant);
            Ok(Receipt { record, quant, path, checkpoint })
        })
        .await
    }

    /// The proof that the chain of `to` transactions begins with its first `from`.
    ///
    /// # Errors
    /// The store is damaged.
    ///
    /// # Panics
    /// Unless `from <= to`, and the chain has `to` transactions.
    pub async fn consistency(&self, chain: Arc<ChainHandle>, from: Size, to: Size) -> Result<Vec<Hash>, StoreError> {
        let head = chain.head();
        assert!(from <= to && to <= head.size(), "a consistency proof is between sizes that the chain had");
        let node = self.clone();
        self.read_store(move |store| {
            let lineage = &chain.lineage;
            let tiles = head.edge.source(|level, number| node.complete_tile(store, lineage, level, number));
            merkle::prove_consistency(from.get(), to.get(), tiles)
        })
        .await
    }

    /// The first `width` hashes of a tile, one behind the other.
    ///
    /// # Errors
    /// The store is damaged.
    ///
    /// # Panics
    /// The chain does not have them.
    pub async fn tile(
        &self,
        chain: Arc<ChainHandle>,
        level: u8,
        number: u64,
        width: usize,
    ) -> Result<Bytes, StoreError> {
        let edge = chain.head().edge;
        assert!(merkle::has_tile(edge.size(), level, number, width), "a tile is read where there is one");
        if !merkle::has_tile(edge.size(), level, number, merkle::TILE_WIDTH) {
            return Ok(merkle::joined(&edge.partial(level)[..width]));
        }
        let tile = match self.0.tiles.get(&(chain.number().0, level, number)) {
            Some(tile) => tile,
            None => {
                let node = self.clone();
                self.read_store(move |store| node.complete_tile(store, &chain.lineage, level, number)).await?
            }
        };
        Ok(tile.bytes().slice(..width * size_of::<Hash>()))
    }

    /// A complete tile, from memory where it was read lately.
    fn complete_tile(&self, store: &Store, lineage: &Lineage, level: u8, number: u64) -> Result<KnownTile, StoreError> {
        let key = (lineage.number().0, level, number);
        if let Some(tile) = self.0.tiles.get(&key) {
            return Ok(tile);
        }
        let tile = KnownTile::from(store.tile(lineage, level, number)?);
        self.0.tiles.insert(key, tile.clone());
        Ok(tile)
    }

    /// The leaves of a range of transactions, each behind two bytes with its length, big-endian: an entry bundle of C2SP
    /// tlog-tiles.
    ///
    /// # Errors
    /// The store is damaged.
    pub async fn leaves(&self, chain: Arc<ChainHandle>, range: Range<Index>) -> Result<Vec<u8>, StoreError> {
        self.read_of(&chain.clone(), move |store| {
            let (mut bundle, mut next) = (Vec::new(), range.start);
            while next < range.end {
                let mut records = Vec::new();
                let end = store.records(&chain.lineage, next..range.end, b'\n', limits::CHUNK_BYTES, &mut records)?;
                for (index, record) in (next.get()..end.get()).zip(records.split(|&byte| byte == b'\n')) {
                    let leaf = Record::parse(record).map(|record| record.transaction.leaf());
                    let leaf = leaf.map_err(|detail| StoreError::Damaged(format!("transaction {index}: {detail}")))?;
                    let length = u16::try_from(leaf.len()).expect("a leaf is bounded by the length of an id");
                    bundle.extend_from_slice(&length.to_be_bytes());
                    bundle.extend_from_slice(&leaf);
                }
                next = end;
            }
            Ok(bundle)
        })
        .await
    }
}
