//! Chains as they stand in the store.

use std::{ops::Range, sync::Arc};

use super::ChainHandle;
use crate::{
    core::{
        chain::{Chain, Head},
        count::{Index, Size},
        hash::Hash,
        json,
        merkle::{self, Edge, perfect_root},
        rules::Rules,
        terms::{KeyChange, Terms},
        transaction::{Kind, Record, Transaction},
    },
    store::{Decided, Lineage, Store, StoreError},
};

/// The Merkle edge of a chain at an earlier size: at most one stored tile a level.
///
/// # Errors
/// A tile is missing.
pub fn edge_at(store: &Store, chain: &ChainHandle, size: Size) -> Result<Edge, StoreError> {
    let head = chain.head();
    Edge::at(size.get(), head.edge.source(|level, number| store.tile(&chain.lineage, level, number)))
}

/// A chain as it stands in the store. Its newest quant and the transactions of the last, incomplete tile are recomputed.
///
/// # Errors
/// What does not hold.
pub(super) fn load_chain(store: &Store, lineage: &Lineage, decided: &Decided) -> Result<Chain, StoreError> {
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
    let sealed = merkle::root(newest.size().get(), edge.source(|level, number| store.tile(lineage, level, number)))?;
    if sealed != newest.header().root {
        return Err(damaged(format!("the root of quant {} is not that of its transactions", newest.index())));
    }
    let place = lineage.bang_place();
    let (rules, since) = rules_at(store, lineage, place.transaction, &decided.keys, size)?;
    let terms = Terms::decided(rules, since, decided.keys.clone(), decided.frozen);
    let first = place.quant;
    let id = if newest.index() == first { newest.hash() } else { store.quant(lineage, first)?.hash() };
    let accepted = size.last().map(|last| checked_transaction(store, lineage, last)).transpose()?;
    let accepted = accepted.ok_or_else(|| damaged("it has no transaction".into()))?.timestamp();
    let has_leaped = size_then == size && newest.index() != first;
    let head = Head { newest: Arc::new(newest), edge: Arc::new(edge), bytes, accepted, has_leaped };
    Ok(Chain { id, terms, head })
}

/// The Merkle edge of a chain that has so many stored transactions: the leaves of the last, incomplete tile are recomputed.
pub(super) fn load_edge(store: &Store, lineage: &Lineage, size: Size) -> Result<Edge, StoreError> {
    Edge::at(size.get(), |level, number, width| stored_hashes(store, lineage, level, number, width))
}

/// The rules that hold behind the first `size` transactions of the chain that this bang has made, and the transaction that names their
/// writers. `keys` are the places of all changes of keys.
pub(super) fn rules_at(
    store: &Store,
    lineage: &Lineage,
    bang: Index,
    keys: &[Index],
    size: Size,
) -> Result<(Arc<Rules>, Index), StoreError> {
    let rules = stored_rules(store, lineage, bang)?;
    for since in keys.iter().rev().copied().filter(|key| *key > bang && size.has(*key)) {
        if let KeyChange::Writers(change) = key_change(store, lineage, since)? {
            let damaged = |detail: &str| StoreError::Damaged(format!("transaction {since}: {detail}"));
            let rules = rules.with_writers(&change.writers).map_err(|faults| damaged(&faults[0].detail))?;
            return Ok((Arc::new(rules), since));
        }
    }
    Ok((Arc::new(rules), bang))
}

/// What a transaction of the kind `key` says.
///
/// # Errors
/// What is stored is damaged.
pub fn key_change(store: &Store, lineage: &Lineage, index: Index) -> Result<KeyChange, StoreError> {
    let damaged = |detail: String| StoreError::Damaged(format!("transaction {index}: {detail}"));
    let key = checked_transaction(store, lineage, index)?;
    let data = key.data().filter(|_| key.kind() == Some(Kind::Key));
    let data = data.ok_or_else(|| damaged("it is no change of keys".into()))?;
    KeyChange::parse(data).map_err(|error| damaged(error.to_string()))
}

/// The rules in a bang.
pub(super) fn stored_rules(store: &Store, lineage: &Lineage, bang: Index) -> Result<Rules, StoreError> {
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
        0 => leaf_hashes(store, lineage, range),
        _ => range.map(|below| Ok(perfect_root(&store.tile(lineage, level - 1, below)?))).collect(),
    }
}

/// The recomputed hashes of some transactions.
fn leaf_hashes(store: &Store, lineage: &Lineage, range: Range<u64>) -> Result<Vec<Hash>, StoreError> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let mut served = Vec::new();
    store.records(lineage, Index::new(range.start)..Index::new(range.end), b'\n', usize::MAX, &mut served)?;
    let texts = range.zip(served.split(|&byte| byte == b'\n'));
    texts.map(|(index, text)| Ok(checked(text, Index::new(index))?.hash())).collect()
}

/// A transaction from the store, with its hash recomputed.
///
/// # Errors
/// It is not what was written at this index.
pub fn checked_transaction(store: &Store, lineage: &Lineage, index: Index) -> Result<Transaction, StoreError> {
    checked(&store.record(lineage, index)?, index)
}

fn checked(text: &[u8], index: Index) -> Result<Transaction, StoreError> {
    let damaged = |detail| StoreError::Damaged(format!("transaction {index}: {detail}"));
    let record = Record::parse(text).map_err(damaged)?;
    match record.index == index {
        true => Ok(record.transaction),
        false => Err(damaged(format!("it says that it is transaction {}", record.index))),
    }
}
