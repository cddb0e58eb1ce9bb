//! The index after crashes that left it somewhere else than the log.

use super::*;
use crate::core::{
    chain::{bang_header, bang_transaction},
    json,
    rules::Rules,
    transaction::{Submission, Timestamp},
};

const SEED: u64 = 0x5eed;
const CHAIN: ChainNumber = ChainNumber(0);
const GROUP: Group = Group(1);

fn open(folder: &Path) -> Store {
    let store = Store::open(folder, SEED, Progress::default()).unwrap();
    let key = store.secret_key(KeyFile::Node, [7; 32]).unwrap();
    store.found(GROUP, NodeId(key.verifying_key().to_bytes())).unwrap();
    store
}

fn time() -> Timestamp {
    Timestamp::from_micros(1).unwrap()
}

/// A chain with this number for a name.
struct Made {
    record: ChainRecord,
    bang: Transaction,
    quant: Quant,
}

fn made(number: ChainNumber) -> Made {
    let name = format!("chain{}", number.0);
    let rules = Rules::from_value(&serde_json::json!({"name": name, "difficulty": 0})).ok().unwrap();
    let bang = bang_transaction(&rules, time(), [0; 16]);
    let quant = bang_header(&rules, &bang, None, time()).mine(0..u64::MAX).unwrap();
    let (id, leap) = (quant.hash(), Default::default());
    let record = ChainRecord::of_bang(name, number, id, GROUP, None, leap);
    Made { record, bang, quant }
}

impl Made {
    fn bang(&self, batch: &mut Batch) {
        batch.bang(&self.record, None, 0, &self.bang, &self.quant);
    }

    fn inject(&self, batch: &mut Batch, index: u64) {
        let of = (self.record.number, self.record.id);
        batch.transaction(of, count::Index::new(index), 0, &transaction(index));
    }
}

/// With its index for an id.
fn transaction(index: u64) -> Transaction {
    let data = json::canonical(&serde_json::json!(format!("secret {index}")));
    let id = Some(format!("i{index}").parse().unwrap());
    Transaction::new(Submission { data, id, signed: None }, None, time(), [0; 16])
}

/// As it is served.
fn served(index: u64) -> Vec<u8> {
    let mut served = Vec::new();
    transaction(index).write(count::Index::new(index), &mut served);
    served
}

fn commit(store: &Store, fill: impl FnOnce(&mut Batch)) -> Vec<Place> {
    let mut batch = Batch::default();
    fill(&mut batch);
    store.commit(GROUP, batch).unwrap()
}

/// Symptom: after a kill between the sync of an erasure and its overwriting, the data was served for ever. Cause: the index said
/// with its mark that all before it was erased, so the log did not look. Cure: the mark comes when that is so.
#[test]
fn an_erasure_that_was_interrupted_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, chain) = (open(folder.path()), made(CHAIN));
    commit(&store, |batch| {
        chain.bang(batch);
        chain.inject(batch, 1);
    });
    let record = ChainRecord { erasures: 1, ..chain.record };
    let doomed = commit(&store, |batch| {
        batch.erase(&record, count::Index::new(1), Hash::ZERO, (&transaction(2), count::Index::new(2), 0));
    });
    assert_eq!(doomed.len(), 1);
    drop(store);
    let store = open(folder.path());
    let text = String::from_utf8(store.own_record(CHAIN, count::Index::new(1)).unwrap()).unwrap();
    assert!(!text.contains("secret") && text.contains("\"erased\""), "{text}");
    assert_eq!(store.chains().unwrap()[0].erasures, 1, "the batch was replayed once more");
}

/// Symptom: a start that was killed while it made the index left parts that the next one took for its own, such as the row of a
/// chain whose place another took. Cure: it is made anew until it was made to the end.
#[test]
fn an_index_that_is_half_made_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (store, chain) = (open(folder.path()), made(CHAIN));
    commit(&store, |batch| {
        chain.bang(batch);
        chain.inject(batch, 1);
    });
    drop(store);
    let stray: Id = "stray".parse().unwrap();
    let index = Index::open(&folder.path().join(INDEX)).unwrap();
    let mut rows = Rows::default();
    rows.id(CHAIN, &stray, count::Index::new(0));
    index.write_part(rows).unwrap();
    drop(index);
    let (store, lineage) = (open(folder.path()), Lineage::new(CHAIN, None));
    assert_eq!(store.transaction_with_id(&lineage, &stray).unwrap(), None);
    assert_eq!(store.transaction_with_id(&lineage, &"i1".parse().unwrap()).unwrap(), Some(count::Index::new(1)));
    assert_eq!(store.own_record(CHAIN, count::Index::new(1)).unwrap(), served(1));
}

/// Symptom: the node did not start where its index lacked a part of a chain before its mark. Cure: such an index does not fit the
/// log, so it is made anew.
#[test]
fn an_index_that_does_not_fit_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (store, chain) = (open(folder.path()), made(CHAIN));
    commit(&store, |batch| {
        chain.bang(batch);
        chain.inject(batch, 1);
    });
    let mark = store.index().unwrap().mark().unwrap();
    commit(&store, |batch| chain.inject(batch, 2));
    drop(store);
    let index = Index::open(&folder.path().join(INDEX)).unwrap();
    let mut rows = Rows::default();
    (1..3).for_each(|index| rows.remove(Space::Runs, key([CHAIN.0, index])));
    rows.remove(Space::Entries, key([GROUP.0, 2]));
    index.write(rows, Some(mark)).unwrap();
    drop(index);
    let store = open(folder.path());
    assert_eq!([1, 2].map(|index| store.own_record(CHAIN, count::Index::new(index)).unwrap()), [1, 2].map(served));
}

/// Symptom: after the index could not be written for a new chain, the chain was damaged. Cause: it came into the index with another
/// number than it had. Cure: numbers that were given stay.
#[test]
fn a_chain_that_the_index_lacks_keeps_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    commit(&store, |batch| made(CHAIN).bang(batch));
    let mark = store.index().unwrap().mark().unwrap();
    // Those between were of imports that were given up.
    let chain = made(ChainNumber(5));
    let number = chain.record.number;
    commit(&store, |batch| {
        chain.bang(batch);
        chain.inject(batch, 1);
    });
    let mut rows = Rows::default();
    rows.remove(Space::Chains, b"chain5".to_vec());
    (0..2).for_each(|index| rows.remove(Space::Runs, key([number.0, index])));
    rows.remove(Space::Entries, key([GROUP.0, 2]));
    store.index().unwrap().write(rows, Some(mark)).unwrap();
    store.is_behind.store(true, std::sync::atomic::Ordering::Relaxed);
    store.recover().unwrap();
    assert!(!store.is_behind());
    assert_eq!(store.own_record(number, count::Index::new(1)).unwrap(), served(1));
    assert!(store.chains().unwrap().iter().any(|record| record.number == number));
}

/// Symptom: a node that was killed while the cluster changed knew something else than the others for ever: it listed a node that had left.
/// Cause: of an entry that was in its log and not yet agreed when it started again, the change was not made when it was agreed. Cure:
/// who applies an entry says what it says.
#[test]
fn a_change_of_the_cluster_that_waited_for_a_restart_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let others = [NodeId([1; 32]), NodeId([2; 32])];
    let membership = Membership { voters: vec![others.into()], nodes: others.map(|node| (node, String::new())).into() };
    let said = [
        Said::Membership(membership.into()),
        Said::Cluster(Arc::new(br#"{"set":{"a":1}}"#.to_vec())),
        Said::Cluster(Arc::new(br#"{"expect":{"a":1},"set":{"a":2}}"#.to_vec())),
    ];
    let known = |store: &Store| store.cluster(|known| known.get("a").cloned());
    let store = Arc::new(open(folder.path()));
    store.found(Group::META, others[0]).unwrap();
    let journal = std::thread::spawn({
        let store = store.clone();
        move || store.run_journal()
    });
    let entries = (1..).zip(&said).map(|(index, said)| {
        let id = EntryId { term: 1, leader: others[0], index };
        Entry { id, said: said.clone() }
    });
    let (done, written) = std::sync::mpsc::channel();
    store.append(Group::META, entries.collect(), Box::new(move |result| done.send(result).unwrap()));
    written.recv().unwrap().unwrap();
    store.apply(Group::META, 1, &said[0], Batch::default()).unwrap();
    store.end_journal();
    journal.join().unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(known(&store), None, "it is not agreed yet");
    for index in 2..4 {
        assert!(store.apply(Group::META, index, &said[index as usize - 1], Batch::default()).unwrap().1);
    }
    assert_eq!(known(&store), Some(2.into()));
    drop(store);
    assert_eq!(known(&open(folder.path())), Some(2.into()), "it stays");
}
