//! Effects make the same chains wherever and however they are applied.

use std::{collections::BTreeMap, path::Path, sync::atomic::AtomicUsize};

use ed25519_dalek::{Signer, SigningKey};
use futures_util::FutureExt;
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};
use serde_json::json;

use super::*;
use crate::{
    core::{
        chain::{Chain, Expected, bang_header, bang_transaction, erasure_data},
        count::{Height, Index, Size},
        json,
        merkle::Edge,
        rules::{ForkOf, Rules},
        terms::{WritersChange, freeze_data},
        transaction::{Kind, Signed, Submission, Timestamp, Transaction},
    },
    store::{BangPlace, Decided, Effect, NodeId, Progress as StoreProgress, key::KeyFile, read_all},
};

const GROUP: Group = Group(5);

/// The data folder of a node with this key, which has founded the group.
fn open_store(folder: &Path, key: u8) -> Arc<Store> {
    let store = Store::open(folder, 7, StoreProgress::default()).unwrap();
    let key = store.secret_key(KeyFile::Node, [key; 32]).unwrap();
    store.found(GROUP, NodeId(key.verifying_key().to_bytes())).unwrap();
    store.into()
}

/// A data folder with the chains of its node, driven by hand.
struct Applied {
    folder: tempfile::TempDir,
    core: Option<Arc<Core>>,
}

impl Applied {
    fn new() -> Applied {
        let mut applied = Applied { folder: tempfile::tempdir().unwrap(), core: None };
        applied.open();
        applied
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    /// Opens the folder again, as a start of the node does.
    fn open(&mut self) {
        self.core = None;
        let store = open_store(self.data(), 7);
        let published = Arc::new(Published::new(store.clone()).0);
        let cores = super::open(&store, &published, &[GROUP], 1_000).unwrap();
        self.core = cores.into_values().next();
    }

    /// Opens it again without its index.
    fn open_without_index(&mut self) {
        self.core = None;
        std::fs::remove_dir_all(self.data().join("index")).unwrap();
        self.open();
    }

    fn ledger<T>(&mut self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.core.as_ref().unwrap().lock().ledger)
    }

    fn commit(&mut self, mut pending: Pending) {
        self.ledger(|ledger| ledger.finish(&mut pending));
        self.core.as_ref().unwrap().commit(pending).unwrap();
    }

    /// Decides requests as one batch.
    fn decide(&mut self, requests: Vec<Command>) -> Vec<Result<Outcome, Refused>> {
        let mut pending = Pending::default();
        let mut decide = |ledger: &mut Ledger, request: Command| ledger.decide(request.into(), &mut pending);
        let outcomes = self.ledger(|ledger| requests.into_iter().map(|request| decide(ledger, request)).collect());
        self.commit(pending);
        outcomes
    }

    fn chain(&self, name: &str) -> Arc<ChainHandle> {
        self.core.as_ref().unwrap().published.chain(name).unwrap()
    }

    /// All that is public of all chains and imports.
    fn public(&mut self) -> BTreeMap<String, String> {
        let mut public = BTreeMap::new();
        let chains = self.ledger(|ledger| {
            let chains = ledger.chains.values().map(|entry| (entry.handle.clone(), entry.record()));
            chains.collect::<Vec<_>>()
        });
        let store = self.ledger(|ledger| ledger.store.clone());
        for (handle, record) in chains {
            let head = handle.head();
            let (mut records, lineage) = (Vec::new(), &handle.lineage);
            let all = store
                .records(lineage, Index::new(0)..head.size().next_index(), b'\n', usize::MAX, &mut records)
                .unwrap();
            assert_eq!(all, head.size().next_index());
            let quants: Vec<_> = (0..=head.newest.index().get())
                .map(|index| store.quant(lineage, Height::new(index)).unwrap())
                .collect();
            let tiles: Vec<_> =
                (0..head.size().get() / 256).map(|number| store.tile(lineage, 0, number).unwrap()).collect();
            let ids = (0..2_000).map(|id| store.transaction_with_id(lineage, &id_of(id)).unwrap());
            let ids: Vec<_> = ids.collect();
            let sealed_by: Vec<_> = (0..head.newest.size().get())
                .map(|index| store.quant_of(lineage, Index::new(index)).unwrap())
                .collect();
            // Bytes are those that were accepted: who gets a transaction after its erasure has never seen them.
            let bytes = (handle.erasures() == 0).then_some(head.bytes);
            let state = (head.tag().to_string(), bytes, head.accepted, head.edge.root(), handle.erasures());
            let terms = (handle.terms(), &record.decided);
            let terms =
                (terms.0.since(), terms.0.keys().clone(), terms.0.frozen(), terms.0.rules().to_value(), terms.1);
            let made = (terms, record.leap, record.erasures, record.bang, handle.leap_policy());
            let all = format!(
                "{state:?} {made:?} {} {quants:?} {tiles:?} {ids:?} {sealed_by:?}",
                String::from_utf8(records).unwrap()
            );
            public.insert(format!("{} {}", handle.name, handle.id), all);
        }
        for record in store.imports().unwrap() {
            let progress = Progress::load(&store, record.number).unwrap();
            let stored = (record.given_up, record.name, record.active, progress.size, progress.bytes, progress.quants);
            public.insert(format!("import {}", record.id), format!("{stored:?}"));
        }
        public
    }

    /// Applies effects of another node, in batches of random sizes, with restarts between some of them.
    fn replay(&mut self, effects: Vec<Effect>, random: &mut TestRng) {
        let mut pending = Pending::default();
        for effect in effects {
            let needs_all = matches!(
                effect,
                Effect::Erase { .. }
                    | Effect::Adopt { .. }
                    | Effect::EndImport { .. }
                    | Effect::Bang { parent: Some(_), .. }
            );
            if needs_all || random.random_range(0..4) == 0 {
                self.commit(std::mem::take(&mut pending));
                match random.random_range(0..12) {
                    0 => self.open(),
                    1 => self.open_without_index(),
                    _ => {}
                }
            }
            if let Effect::EndImport { chain } = effect {
                // Each node removes what it has stored at its own pace, and then tells the end.
                while !matches!(self.decide(vec![Command::Import(chain, Step::GiveUp)])[..], [Ok(Outcome::Done)]) {}
                continue;
            }
            self.ledger(|ledger| {
                let needed = ledger.needed(&effect).unwrap();
                ledger.apply(effect, needed, &mut pending);
            });
            if needs_all {
                self.commit(std::mem::take(&mut pending));
            }
        }
        self.commit(pending);
    }
}

/// A node that gets the entries of another, in parts of random sizes.
fn follow(source: &Applied, random: &mut TestRng) -> Applied {
    let source = source.core.as_ref().unwrap().store.clone();
    let mut follower = Applied { folder: tempfile::tempdir().unwrap(), core: None };
    let mut next = 0;
    loop {
        // It is started again now and then, and has lost its index sometimes.
        follower.core = None;
        if random.random_range(0..3) == 0 && next > 0 {
            std::fs::remove_dir_all(follower.data().join("index")).unwrap();
        }
        let store = Store::open(follower.data(), 8, StoreProgress::default()).unwrap();
        let key = store.secret_key(KeyFile::Node, [8; 32]).unwrap();
        store.found(Group(6), NodeId(key.verifying_key().to_bytes())).unwrap();
        let store = Arc::new(store);
        let writing = store.clone();
        let journal = std::thread::spawn(move || writing.run_journal());
        let published = Arc::new(Published::new(store.clone()).0);
        let cores = super::open(&store, &published, &[GROUP], 1_000).unwrap();
        let core = cores.into_values().next().unwrap();
        let entries = source.entries(GROUP, next..next + random.random_range(1..40), usize::MAX).unwrap();
        let is_done = entries.is_empty();
        next += entries.len() as u64;
        for part in entries.chunks(random.random_range(1..5)) {
            let (told, durable) = std::sync::mpsc::channel();
            store.append(GROUP, part.to_vec(), Box::new(move |done| told.send(done).unwrap()));
            durable.recv().unwrap().unwrap();
        }
        // Some stay for the next start, which finds them in its log; there, what is known to be agreed is taken at once.
        let applied = store.group(GROUP).applied.map_or(0, |applied| applied.index + 1);
        let until = if is_done || random.random_range(0..2) == 0 { next } else { random.random_range(applied..=next) };
        for entry in store.entries(GROUP, applied..until, usize::MAX).unwrap() {
            store.save_committed(GROUP, entry.id);
            core.apply(entry.id.index, &entry.said).unwrap();
        }
        store.end_journal();
        journal.join().unwrap();
        if is_done {
            follower.core = Some(core);
            return follower;
        }
    }
}

/// Asserts that two nodes show the same, and shows where they do not.
fn same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, shown) in one {
        let differs = shown.bytes().zip(other[name].bytes()).position(|(one, other)| one != other);
        let at = differs.unwrap_or(shown.len().min(other[name].len()));
        let part = |text: &str| text[at.saturating_sub(200)..text.len().min(at + 200)].to_owned();
        assert!(*shown == other[name], "{name}:\n{}\n{}", part(shown), part(&other[name]));
    }
}

fn id_of(number: u32) -> crate::core::transaction::Id {
    format!("id{number}").parse().unwrap()
}

fn time(random: &mut TestRng) -> Timestamp {
    // Clocks go back, too.
    Timestamp::from_micros(1_764_000_000_000_000 + random.random_range(0..1_000_000)).unwrap()
}

fn transaction(random: &mut TestRng) -> Transaction {
    let data =
        json::canonical(&json!({"n": random.random_range(0..1_000), "text": "x".repeat(random.random_range(0..200))}));
    let id = random.random_bool(0.3).then(|| id_of(random.random_range(0..2_000)));
    Transaction::new(Submission { data, id, signed: None }, None, time(random), random.random())
}

/// Something of everything that can be asked for, on some chains.
fn make(source: &mut Applied, random: &mut TestRng) {
    let mut names: Vec<String> = Vec::new();
    for step in 0..70 {
        let existing = (!names.is_empty()).then(|| names[random.random_range(0..names.len())].clone());
        let (choice, Some(name)) = (random.random_range(0..20), existing) else {
            names.push(bang(source, format!("chain{step}"), None, random));
            continue;
        };
        let chain = source.chain(&name);
        let number = chain.number();
        let inject = |random: &mut TestRng| {
            let count = if random.random_range(0..10) == 0 { 300 } else { random.random_range(1..4) };
            let transactions = (0..count).map(|_| transaction(random)).collect();
            Command::Inject { chain: number, guard: None, transactions, each_for_itself: true }
        };
        match choice {
            0 => names.push(bang(source, format!("chain{step}"), None, random)),
            1 | 2 => names.push(bang(source, format!("chain{step}"), Some(&chain), random)),
            3..=6 => {
                // Something comes in while it is mined, before the seal or with it.
                let quant = chain.head().cut(0, time(random)).mine(0..1).unwrap();
                let seal = Command::Seal { chain: number, guard: None, quant: quant.into() };
                let mut requests = vec![inject(random), seal];
                if random.random_bool(0.5) {
                    requests.push(inject(random));
                }
                source.decide(requests);
            }
            7 | 8 => {
                let (from, size) = (chain.lineage.shared(), chain.head().size());
                let index = Index::new(random.random_range(from.get()..size.get()));
                let data = erasure_data(index, "asked for");
                let submission = Submission { data, id: None, signed: None };
                let record = Transaction::new(submission, Some(Kind::Erasure), time(random), random.random());
                let guard = chain.guard(Expected::any_of(vec![chain.head().tag()]));
                source.decide(vec![Command::Erase { chain: number, index, guard, transaction: record.into() }]);
            }
            9 => {
                let leap = LeapPolicy { every_ms: Some(random.random_range(10..100)), transactions: None };
                source.decide(vec![Command::SetLeap { chain: number, leap, guard: None }]);
            }
            10 => import(source, format!("import{step}"), random),
            11 | 12 => {
                let writers = json!([hex::encode(writer().verifying_key()), hex::encode(random.random::<[u8; 32]>())]);
                let replaces = chain.terms().since();
                // Not all that is drawn is a key.
                let change = WritersChange { replaces, writers };
                let transaction = decision(&chain, Kind::Key, change.data(), random);
                source.decide(vec![
                    inject(random),
                    Command::Key { chain: number, guard: None, transaction },
                    inject(random),
                ]);
            }
            13 if random.random_bool(0.3) => {
                let transaction = decision(&chain, Kind::Freeze, freeze_data("it is over"), random);
                source.decide(vec![
                    inject(random),
                    Command::Freeze { chain: number, guard: None, transaction },
                    inject(random),
                ]);
            }
            _ => {
                let count = random.random_range(1..4);
                let requests = (0..count).map(|_| inject(random)).collect();
                source.decide(requests);
            }
        }
    }
}

fn writer() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// A change of keys, or a freeze, as the writer signs it.
fn decision(chain: &ChainHandle, kind: Kind, data: Vec<u8>, random: &mut TestRng) -> Box<Transaction> {
    let value = json::parse(&data).unwrap();
    let message = json::canonical(&json!({"chain": chain.id, "data": value, "kind": kind.as_str()}));
    let (signer, signature) = (writer().verifying_key().to_bytes(), writer().sign(&message).to_bytes());
    let signed = Some(Signed { signer, signature });
    let submission = Submission { data, id: None, signed };
    Transaction::new(submission, Some(kind), time(random), random.random()).into()
}

fn bang(source: &mut Applied, name: String, parent: Option<&Arc<ChainHandle>>, random: &mut TestRng) -> String {
    let store = source.ledger(|ledger| ledger.store.clone());
    let (rules, shared) = match parent {
        None => {
            let writers = random.random_bool(0.5).then(|| [hex::encode(writer().verifying_key())]);
            (Rules::from_value(&json!({"name": name, "difficulty": 0, "writers": writers})).ok().unwrap(), None)
        }
        Some(parent) => {
            let lineage = &parent.lineage;
            let at = random.random_range(lineage.own_quants_from().get()..=parent.head().newest.index().get());
            let at = Height::new(at);
            let quant = store.quant(lineage, at).unwrap();
            let of = ForkOf { chain: parent.id, index: at, hash: quant.hash() };
            let edge = edge_at(&store, parent, quant.size()).unwrap();
            (parent.rules().fork(name.parse().unwrap(), of), Some((quant, edge)))
        }
    };
    let now = time(random);
    let transaction = bang_transaction(&rules, now, random.random());
    let of = shared.as_ref().map(|(quant, edge)| (quant, edge.clone()));
    let quant = bang_header(&rules, &transaction, of, now).mine(0..1).unwrap();
    let parent = parent.zip(shared).map(|(parent, (quant, _))| (parent.number(), quant.index()));
    let (rules, transaction, quant, leap) = (rules.into(), transaction.into(), quant.into(), LeapPolicy::default());
    let made = source.decide(vec![Command::Bang { rules, parent, transaction, quant, leap, guard: None }]);
    assert!(matches!(made[..], [Ok(Outcome::Banged(_))]));
    name
}

/// A chain that was made elsewhere comes in parts, and is adopted, given up, or left unfinished.
fn import(source: &mut Applied, name: String, random: &mut TestRng) {
    let rules = Rules::from_value(&json!({"name": name, "difficulty": 0})).ok().unwrap();
    let now = time(random);
    let bang = bang_transaction(&rules, now, random.random());
    let first = bang_header(&rules, &bang, None, now).mine(0..1).unwrap();
    let mut chain = Chain::bang(rules.into(), &bang, Edge::new(), first.clone(), 0, &mut |_| ());
    let id = chain.id;
    source.decide(vec![Command::Import(id, Step::Begin(now))]);
    let mut part = Part::new(id, Size::ZERO, 0);
    part.transaction(&bang);
    part.quant(first);
    let parts = random.random_range(1..4);
    for _ in 0..parts {
        for _ in 0..random.random_range(1..300) {
            let mut next = transaction(random);
            while next.id().is_some() {
                next = transaction(random);
            }
            next.delay_to(chain.head.accepted);
            chain.inject(&next, 0, &mut |_| ());
            part.transaction(&next);
        }
        let quant = chain.head.cut(0, now).mine(0..1).unwrap();
        chain.seal(quant.clone());
        part.quant(quant);
        let next = part.next();
        let part = std::mem::replace(&mut part, next);
        let added = source.decide(vec![Command::Import(id, Step::Add { part, name: name.parse().ok(), now })]);
        assert!(matches!(added[..], [Ok(Outcome::Done)]));
    }
    match random.random_range(0..3) {
        0 => {
            let (size, quants) = (chain.head.size(), chain.head.newest.index().next());
            let (name, bang) = (name.parse().unwrap(), BangPlace::START);
            let (leap, decided) = (LeapPolicy::default(), Decided::default());
            let mirror = random.random_bool(0.5).then(|| "http://localhost:1/chains/a".to_owned());
            let finish = Step::Finish { name, bang, size, quants, erasures: 0, decided, leap, mirror };
            assert!(matches!(source.decide(vec![Command::Import(id, finish)])[..], [Ok(Outcome::Banged(_))]));
        }
        1 => while !matches!(source.decide(vec![Command::Import(id, Step::GiveUp)])[..], [Ok(Outcome::Done)]) {},
        _ => {}
    }
}

/// The log of one node is applied on two others, with other batches, restarts, and indexes made anew: all that is public is the same
/// everywhere, and so is the log of each.
#[test]
fn the_same_effects_make_the_same_chains() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..2 {
        let mut random = runner.new_rng();
        let mut source = Applied::new();
        make(&mut source, &mut random);
        let public = source.public();
        assert!(public.len() > 5);
        for _ in 0..2 {
            let mut other = Applied::new();
            other.replay(read_all(source.data()).unwrap(), &mut random);
            let replayed = other.public();
            assert_eq!(public.keys().collect::<Vec<_>>(), replayed.keys().collect::<Vec<_>>());
            for (name, chain) in &public {
                assert_eq!(chain, &replayed[name], "{name}");
            }
            other.open_without_index();
            assert_eq!(public, other.public());
        }
        let mut follower = follow(&source, &mut random);
        same(&public, &follower.public());
        source.open_without_index();
        assert_eq!(public, source.public());
    }
}

/// Has all agreed, and takes its time for it.
#[derive(Default)]
struct Slow {
    proposals: AtomicUsize,
}

impl Sequencer for Slow {
    fn leads(&self) -> bool {
        true
    }

    fn lead(&self) -> Result<bool, Refused> {
        Ok(false)
    }

    fn propose(&self, _proposed: Proposed) -> Result<(), Refused> {
        self.proposals.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(40));
        Ok(())
    }
}

/// Each client asks again when it is answered. The first one to do so must not have a proposal for itself each time.
#[test]
fn those_who_ask_together_are_in_one_proposal() {
    let (clients, rounds) = (8, 10);
    let mut source = Applied::new();
    let name = bang(&mut source, "a".into(), None, &mut TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (chain, core) = (source.chain(&name).number(), source.core.clone().unwrap());
    let slow = Arc::new(Slow::default());
    let sequencer = async { Ok::<_, ()>(slow.clone() as Arc<dyn Sequencer>) };
    core.sequence(sequencer).now_or_never().unwrap().unwrap();
    let (writer, sender) = Writer::new(core);
    std::thread::scope(|scope| {
        scope.spawn(|| writer.run());
        for client in 0..clients {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[client; 32]);
                for _ in 0..rounds {
                    let transactions = vec![transaction(&mut random)];
                    let inject = Command::Inject { chain, guard: None, transactions, each_for_itself: false };
                    let (reply, answer) = oneshot::channel();
                    sender
                        .blocking_send(Envelope { request: inject.into(), reply, reserved: Reserved::default() })
                        .ok();
                    assert!(matches!(answer.blocking_recv(), Ok(Ok(_))));
                }
            });
        }
        drop(sender);
    });
    // Without waiting for each other they would be in about two a round.
    let proposals = slow.proposals.load(Ordering::Relaxed);
    assert!((rounds..=rounds + rounds / 2).contains(&proposals), "{proposals} proposals");
}
