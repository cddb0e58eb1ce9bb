//! Chains as they stand in the store.

use std::sync::Arc;

use super::ChainHandle;
use crate::{
    core::{
        chain::{Chain, Head},
        hash::Hash,
        json,
        merkle::{self, Edge, perfect_root},
        rules::Rules,
        transaction::{Kind, Record, Transaction},
    },
    store::{Lineage, Store, StoreError},
};

/// The Merkle edge of a chain at an earlier size: at most one stored tile a level.
///
/// # Errors
/// A tile is missing.
pub fn edge_at(store: &Store, chain: &ChainHandle, size: u64) -> Result<Edge, StoreError> {
    let head = chain.head();
    Edge::at(size, head.edge.source(|level, number| store.tile(&chain.lineage, level, number)))
}

/// A chain as it stands in the store. Its newest quant and the transactions of the last, incomplete tile are recomputed.
///
/// # Errors
/// What does not hold.
pub(super) fn load_chain(store: &Store, lineage: &Lineage) -> Result<Chain, StoreError> {
    let damaged = |detail: String| StoreError::Damaged(detail);
    let number = lineage.number();
    let (size, bytes) = store.size_and_bytes(number)?.ok_or_else(|| damaged("its bang is missing".into()))?;
    let newest = store.newest_quant(number)?;
    let (newest, size_then) = newest.ok_or_else(|| damaged("its first quant is missing".into()))?;
    if newest.size() > size {
        return Err(damaged(format!(
            "{size} transactions are left of the {} that quant {} seals",
            newest.size(),
            newest.index()
        )));
    }
    let edge = load_edge(store, lineage, size)?;
    let sealed = merkle::root(newest.size(), edge.source(|level, number| store.tile(lineage, level, number)))?;
    if sealed != newest.header().root {
        return Err(damaged(format!("the root of quant {} is not that of its transactions", newest.index())));
    }
    let place = lineage.bang_place();
    let rules = stored_rules(store, lineage, place.transaction)?;
    let first = place.quant;
    let id = if newest.index() == first { newest.hash() } else { store.quant(lineage, first)?.hash() };
    let accepted = checked_transaction(store, lineage, size - 1)?.timestamp();
    let has_leaped = size_then == size && newest.index() != first;
    let head = Head { newest: Arc::new(newest), edge: Arc::new(edge), bytes, accepted, has_leaped };
    Ok(Chain { id, rules: Arc::new(rules), head })
}

/// The Merkle edge of a chain that has so many stored transactions: the leaves of the last, incomplete tile are recomputed.
pub(super) fn load_edge(store: &Store, lineage: &Lineage, size: u64) -> Result<Edge, StoreError> {
    Edge::at(size, |level, number, width| stored_hashes(store, lineage, level, number, width))
}

/// The rules in a bang.
pub(super) fn stored_rules(store: &Store, lineage: &Lineage, bang: u64) -> Result<Rules, StoreError> {
    let damaged = |detail: String| StoreError::Damaged(detail);
    let bang = checked_transaction(store, lineage, bang)?;
    let rules = bang.data().filter(|_| bang.kind() == Some(Kind::Bang));
    let rules = json::parse(rules.ok_or_else(|| damaged("it has no bang".into()))?)
        .map_err(|error| damaged(format!("its rules: {error}")))?;
    Rules::from_value(&rules).map_err(|faults| damaged(format!("its rules: {}", faults[0].detail)))
}

/// The hashes of an incomplete tile: recomputed leaves, or the roots of the complete tiles below.
fn stored_hashes(
    store: &Store,
    lineage: &Lineage,
    level: u8,
    number: u64,
    width: usize,
) -> Result<Vec<Hash>, StoreError> {
    let first = number * merkle::TILE_WIDTH as u64;
    let range = first..first + width as u64;
    match level {
        0 => range.map(|index| Ok(checked_transaction(store, lineage, index)?.hash())).collect(),
        _ => range.map(|below| Ok(perfect_root(&store.tile(lineage, level - 1, below)?))).collect(),
    }
}

/// A transaction from the store, with its hash recomputed.
///
/// # Errors
/// It is not what was written at this index.
pub fn checked_transaction(store: &Store, lineage: &Lineage, index: u64) -> Result<Transaction, StoreError> {
    let record = Record::parse(&store.record(lineage, index)?)
        .map_err(|detail| StoreError::Damaged(format!("transaction {index}: {detail}")))?;
    if record.index == index {
        Ok(record.transaction)
    } else {
        Err(StoreError::Damaged(format!("transaction {index} says that it is transaction {}", record.index)))
    }
}
