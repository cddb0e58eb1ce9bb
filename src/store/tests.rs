//! The index after crashes that left it somewhere else than the log.

use super::*;
use crate::core::transaction::Timestamp;

const SEED: u64 = 0x5eed;
const CHAIN: ChainNumber = ChainNumber(0);

fn open(folder: &Path) -> Store {
    Store::open(folder, SEED).unwrap()
}

fn id(of: u8) -> Hash {
    Hash::from_bytes([of; 32])
}

fn record(number: ChainNumber, id: Hash) -> ChainRecord {
    let leap = Default::default();
    ChainRecord { name: format!("chain{}", number.0), number, id, parent: None, leap, erasures: 0, bang: None }
}

/// A transaction as it is served, with its index for an id.
fn served(index: u64) -> String {
    let (salt, hash) = ("0".repeat(32), id(index as u8));
    format!(r#"{{"index":{index},"id":"i{index}","data":"secret {index}","salt":"{salt}","hash":"{hash}"}}"#)
}

fn run(index: u64) -> Run {
    let mut run = Run::new(index, 0);
    run.push(served(index).as_bytes());
    run
}

fn commit(store: &Store, fill: impl FnOnce(&mut Batch)) -> Vec<Place> {
    let mut batch = Batch::default();
    fill(&mut batch);
    store.commit(batch).unwrap()
}

/// Symptom: after a kill between the sync of an erasure and its overwriting, the data was served for ever. Cause: the index said
/// with its mark that all before it was erased, so the log did not look. Cure: the mark comes when that is so.
#[test]
fn an_erasure_that_was_interrupted_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    commit(&store, |batch| {
        batch.chain(&record(CHAIN, id(1)));
        batch.run(CHAIN, run(0));
    });
    let erased = Erased { timestamp: Timestamp::from_micros(1).unwrap(), by: 1 };
    let doomed = commit(&store, |batch| batch.erased(CHAIN, 0, id(2), erased));
    assert_eq!(doomed.len(), 1);
    drop(store);
    let text = String::from_utf8(open(folder.path()).own_record(CHAIN, 0).unwrap()).unwrap();
    assert!(!text.contains("secret") && text.contains("\"erased\""), "{text}");
}

/// Symptom: a start that was killed while it made the index left parts that the next one took for its own, such as the row of a
/// chain whose place another took. Cure: it is made anew until it was made to the end.
#[test]
fn an_index_that_is_half_made_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    commit(&store, |batch| {
        batch.chain(&record(CHAIN, id(1)));
        batch.run(CHAIN, run(0));
    });
    drop(store);
    let stray: Id = "stray".parse().unwrap();
    let index = Index::open(&folder.path().join(INDEX)).unwrap();
    let mut rows = Rows::default();
    rows.id(CHAIN, &stray, 0);
    index.write_part(rows).unwrap();
    drop(index);
    let (store, lineage) = (open(folder.path()), Lineage::new(CHAIN, None));
    assert_eq!(store.transaction_with_id(&lineage, &stray).unwrap(), None);
    assert_eq!(store.transaction_with_id(&lineage, &"i0".parse().unwrap()).unwrap(), Some(0));
    assert_eq!(store.own_record(CHAIN, 0).unwrap(), served(0).as_bytes());
}

/// Symptom: the node did not start where its index lacked a part of a chain before its mark. Cure: such an index does not fit the
/// log, so it is made anew.
#[test]
fn an_index_that_does_not_fit_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    commit(&store, |batch| {
        batch.chain(&record(CHAIN, id(1)));
        batch.run(CHAIN, run(0));
    });
    let mark = store.index().unwrap().mark().unwrap();
    commit(&store, |batch| batch.run(CHAIN, run(1)));
    drop(store);
    let index = Index::open(&folder.path().join(INDEX)).unwrap();
    let mut rows = Rows::default();
    (0..2).for_each(|index| rows.remove(Space::Runs, key([CHAIN.0, index])));
    index.write(rows, Some(mark)).unwrap();
    drop(index);
    let store = open(folder.path());
    assert_eq!(
        [0, 1].map(|index| store.own_record(CHAIN, index).unwrap()),
        [0, 1].map(|index| served(index).into_bytes())
    );
}

/// Symptom: after the index could not be written for a new chain, the chain was damaged. Cause: it came into the index with another
/// number than it had. Cure: numbers that were given stay.
#[test]
fn a_chain_that_the_index_lacks_keeps_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    commit(&store, |batch| batch.chain(&record(CHAIN, id(1))));
    let mark = store.index().unwrap().mark().unwrap();
    // Those between were of imports that were given up.
    let number = ChainNumber(5);
    commit(&store, |batch| {
        batch.chain(&record(number, id(2)));
        batch.run(number, run(0));
    });
    let mut rows = Rows::default();
    rows.remove(Space::Chains, b"chain5".to_vec());
    rows.remove(Space::Runs, key([number.0, 0]));
    store.index().unwrap().write(rows, Some(mark)).unwrap();
    store.is_behind.store(true, std::sync::atomic::Ordering::Relaxed);
    store.recover().unwrap();
    assert!(!store.is_behind());
    assert_eq!(store.own_record(number, 0).unwrap(), served(0).as_bytes());
    assert!(store.chains().unwrap().iter().any(|record| record.number == number));
}
