//! Clients that believe nothing: they verify every proof that they get and remember what it proved, while others write and the
//! node is killed and started again. What was once shown must stay so for ever.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader},
    ops::Range,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use ed25519_dalek::VerifyingKey;
use qbc::core::{
    hash::Hash,
    json, merkle,
    merkle::TILE_WIDTH,
    note::{self, Algorithm, Checkpoint, KeyName, Note, VerifierKey},
    quant::Quant,
    tile::TilePath,
    transaction::Record,
    verify::{self, Receipt},
};
use reqwest::blocking::{Client, Response};
use serde_json::{Map, Value, json};

use crate::{
    seed,
    support::{Random, TestNode, setting, verifies},
};

const CHAINS: [&str; 3] = ["", "/chains/second", "/chains/fork"];

/// What was proved of one chain.
#[derive(Default)]
struct Chain {
    id: Option<Hash>,
    /// Transactions, pooled ones too.
    size: u64,
    roots: BTreeMap<u64, Hash>,
    quants: BTreeMap<u64, Hash>,
    transactions: HashMap<u64, Hash>,
}

impl Chain {
    /// Remembers a value, or compares it with what was remembered.
    fn same<K: Ord + Copy + std::fmt::Debug>(known: &mut BTreeMap<K, Hash>, key: K, hash: Hash, what: &str) {
        assert_eq!(*known.entry(key).or_insert(hash), hash, "another {what} {key:?} was shown before");
    }

    fn is(&mut self, id: Hash) {
        assert_eq!(*self.id.get_or_insert(id), id, "it is another chain now");
    }

    fn quant(&mut self, quant: &Quant) {
        Chain::same(&mut self.roots, quant.size().get(), quant.header().root, "root of size");
        Chain::same(&mut self.quants, quant.index().get(), quant.hash(), "quant");
        self.size = self.size.max(quant.size().get());
    }

    fn record(&mut self, record: &Record) {
        let known = *self.transactions.entry(record.index.get()).or_insert(record.transaction.hash());
        assert_eq!(known, record.transaction.hash(), "another transaction {} was shown before", record.index);
        self.size = self.size.max(record.index.size().get());
    }

    /// Transactions that a quant seals.
    fn sealed(&self) -> u64 {
        self.roots.keys().next_back().copied().unwrap_or(0)
    }
}

struct Clients {
    /// Of the node that runs; none while it is replaced, so that nobody calls whoever else gets its port.
    url: RwLock<Option<String>>,
    chains: [Mutex<Chain>; 3],
    is_done: AtomicBool,
    /// Proofs that held, by kind.
    proofs: Mutex<BTreeMap<&'static str, u64>>,
    counter: AtomicU64,
    /// What the node signs with.
    key: VerifyingKey,
}

impl Clients {
    fn new(key: VerifyingKey) -> Clients {
        Clients {
            key,
            url: RwLock::default(),
            chains: Default::default(),
            is_done: false.into(),
            proofs: Mutex::default(),
            counter: 0.into(),
        }
    }

    /// The JSON that answers a request, or none where the node ends first.
    fn ask(&self, client: &Client, path: &str, body: Option<&Value>) -> Option<Value> {
        self.ask_bytes(client, path, body).map(|answer| serde_json::from_slice(&answer).unwrap())
    }

    fn ask_bytes(&self, client: &Client, path: &str, body: Option<&Value>) -> Option<Vec<u8>> {
        self.send(client, path, body)?.bytes().ok().map(Vec::from)
    }

    fn send(&self, client: &Client, path: &str, body: Option<&Value>) -> Option<Response> {
        let Some(url) = self.url.read().unwrap().clone() else {
            thread::sleep(Duration::from_millis(2));
            return None;
        };
        let request = match body {
            None => client.get(format!("{url}{path}")),
            Some(Value::Null) => client.post(format!("{url}{path}")),
            Some(body) => client.post(format!("{url}{path}")).json(body),
        };
        let response = request.send().ok()?;
        let status = response.status();
        if !status.is_success() {
            // Where the node ends within the answer, that says nothing.
            panic!("{path}: {status} {}", response.text().ok()?);
        }
        Some(response)
    }

    fn write(&self, mut random: Random) {
        let client = client();
        while !self.is_done.load(Ordering::Relaxed) {
            let chain = CHAINS[random.below(3) as usize];
            let data = || json!({ "data": self.counter.fetch_add(1, Ordering::Relaxed) });
            let many = |count| Value::Array((0..count).map(|_| data()).collect());
            match random.below(6) {
                0 => self.ask(&client, &format!("{chain}/leap"), Some(&Value::Null)),
                1 => self.ask(&client, &format!("{chain}/inject"), Some(&many(1 + random.below(300)))),
                _ => self.ask(&client, &format!("{chain}/inject"), Some(&data())),
            };
        }
    }

    fn read(&self, mut random: Random) {
        let client = client();
        while !self.is_done.load(Ordering::Relaxed) {
            let number = random.below(3) as usize;
            let reader = Reader { clients: self, client: &client, route: CHAINS[number], chain: &self.chains[number] };
            let (kind, proof) = match random.below(9) {
                0 => ("figures", reader.figures()),
                1 => ("transactions", reader.transactions(&mut random)),
                2 => ("quants", reader.quant(&mut random)),
                3 => ("consistency", reader.consistency(&mut random)),
                4 => ("checkpoints", reader.checkpoint()),
                5 => ("tiles", reader.tile(&mut random)),
                6 => ("events", reader.events(&mut random)),
                _ => ("receipts", reader.receipt(&mut random)),
            };
            if proof.is_some() {
                *self.proofs.lock().unwrap().entry(kind).or_default() += 1;
            }
        }
    }
}

/// One reader at one chain. Each of its methods verifies an answer and remembers what it proves; `None` if there was none.
struct Reader<'a> {
    clients: &'a Clients,
    client: &'a Client,
    route: &'a str,
    chain: &'a Mutex<Chain>,
}

impl Reader<'_> {
    fn get(&self, path: &str) -> Option<Value> {
        self.clients.ask(self.client, &format!("{}{path}", self.route), None)
    }

    /// A number of what is known, if anything is.
    fn pick(&self, random: &mut Random, known: impl Fn(&Chain) -> u64) -> Option<u64> {
        let count = known(&self.chain.lock().unwrap());
        (count > 0).then(|| random.below(count))
    }

    fn figures(&self) -> Option<()> {
        let before = self.chain.lock().unwrap().size;
        let stats = self.get("/stats")?;
        let number = |name: &str| stats[name].as_u64().unwrap();
        let mut chain = self.chain.lock().unwrap();
        chain.is(hash(&stats["id"]));
        assert!(number("size") >= before, "{} transactions were shown, now there are {}", before, number("size"));
        Chain::same(&mut chain.roots, number("size") - number("pooled"), hash(&stats["root"]), "root of size");
        Chain::same(&mut chain.quants, number("length") - 1, hash(&stats["hash"]), "quant");
        chain.size = chain.size.max(number("size"));
        Some(())
    }

    fn receipt(&self, random: &mut Random) -> Option<()> {
        let index = self.pick(random, Chain::sealed)?;
        let answer = self.get(&format!("/transactions/{index}/receipt"))?;
        let Receipt { chain: id, record, quant, .. } = verify::receipt(strict(&answer)).unwrap();
        assert_eq!(record.index.get(), index);
        let mut chain = self.chain.lock().unwrap();
        chain.is(id);
        chain.record(&record);
        chain.quant(&quant);
        Some(())
    }

    /// A page, of pooled transactions most often.
    fn transactions(&self, random: &mut Random) -> Option<()> {
        let size = self.chain.lock().unwrap().size;
        let from = if random.below(3) == 0 { random.below(size + 1) } else { size.saturating_sub(random.below(40)) };
        let page = self.get(&format!("/transactions?from={from}&limit=40"))?;
        let page = page.as_array().unwrap();
        assert!(page.len() as u64 >= size.saturating_sub(from).min(40), "of what was shown, something is gone");
        let mut chain = self.chain.lock().unwrap();
        for (index, record) in (from..).zip(page) {
            let record = Record::parse(record.to_string().as_bytes()).unwrap();
            assert_eq!(record.index.get(), index);
            chain.record(&record);
        }
        Some(())
    }

    fn quant(&self, random: &mut Random) -> Option<()> {
        let index = self.pick(random, |chain| chain.quants.keys().next_back().map_or(0, |last| last + 1))?;
        let (quant, records) = split(self.get(&format!("/quants/{index}"))?);
        assert_eq!((quant.index().get(), records.end), (index, quant.size().get()));
        self.chain.lock().unwrap().quant(&quant);
        Some(())
    }

    fn checkpoint(&self) -> Option<()> {
        let answer = self.clients.ask_bytes(self.client, &format!("{}/checkpoint", self.route), None)?;
        let id = self.chain.lock().unwrap().id?;
        let note = Note::parse(&answer).unwrap();
        let name = KeyName::of_chain(id);
        let known = [VerifierKey::new(name, Algorithm::Ed25519, self.clients.key)];
        note.verify(&known).unwrap();
        let checkpoint = Checkpoint::parse(note.text()).unwrap();
        assert_eq!(checkpoint.origin(), note::origin(id));
        let (index, hash) = checkpoint.quant().unwrap();
        let mut chain = self.chain.lock().unwrap();
        Chain::same(&mut chain.roots, checkpoint.size(), checkpoint.root(), "root of size");
        Chain::same(&mut chain.quants, index.get(), hash, "quant");
        Some(())
    }

    /// A tile of leaves: hashes of transactions.
    fn tile(&self, random: &mut Random) -> Option<()> {
        let sealed = self.chain.lock().unwrap().sealed();
        let number = random.below(sealed.div_ceil(TILE_WIDTH as u64).max(1));
        let first = number * TILE_WIDTH as u64;
        let width = (sealed - first).min(TILE_WIDTH as u64) as usize;
        if width == 0 {
            return None;
        }
        let path = format!("{}/tile/0/{}", self.route, TilePath::new(number, width));
        let tile = self.clients.ask_bytes(self.client, &path, None)?;
        assert_eq!(tile.len(), 32 * width);
        let mut chain = self.chain.lock().unwrap();
        for (index, hash) in (first..).zip(tile.chunks(32)) {
            let hash = Hash::from_bytes(hash.try_into().unwrap());
            assert_eq!(*chain.transactions.entry(index).or_insert(hash), hash, "another transaction {index} was shown");
        }
        Some(())
    }

    /// The first events from some transaction on.
    fn events(&self, random: &mut Random) -> Option<()> {
        let size = self.chain.lock().unwrap().size;
        let from = size.checked_sub(1 + random.below(size.clamp(1, 60)))?;
        let answer = self.clients.send(self.client, &format!("{}/events?from={from}", self.route), None)?;
        let (mut next, mut kind) = (from, String::new());
        for line in BufReader::new(answer).lines() {
            let line = line.ok()?;
            if let Some(name) = line.strip_prefix("event: ") {
                kind = name.into();
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let mut chain = self.chain.lock().unwrap();
            if kind == "transaction" {
                let record = Record::parse(data.as_bytes()).unwrap();
                assert_eq!(record.index.get(), next, "an event is missing");
                chain.record(&record);
                next += 1;
            } else {
                chain.quant(&verify::quant(serde_json::from_str(data).unwrap()).unwrap());
            }
            if next == size {
                break;
            }
        }
        assert_eq!(next, size, "the stream has an end");
        Some(())
    }

    fn consistency(&self, random: &mut Random) -> Option<()> {
        let ((from, old), (to, new)) = {
            let chain = self.chain.lock().unwrap();
            let mut pick = || chain.roots.iter().nth(random.below(chain.roots.len().max(1) as u64) as usize);
            let (one, other) = (pick()?, pick()?);
            let (old, new) = (one.min(other), one.max(other));
            ((*old.0, *old.1), (*new.0, *new.1))
        };
        let proof = self.get(&format!("/consistency?from={from}&to={to}"))?;
        let path: Vec<Hash> = serde_json::from_value(proof["path"].clone()).unwrap();
        merkle::check_consistency(from, to, &path, old, new).unwrap();
        Some(())
    }
}

fn client() -> Client {
    Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap()
}

fn hash(value: &Value) -> Hash {
    serde_json::from_value(value.clone()).unwrap()
}

/// As the gate for JSON reads it.
fn strict(value: &Value) -> Value {
    json::parse(value.to_string().as_bytes()).unwrap()
}

/// A quant, recomputed, and the range of its transactions.
fn split(quant: Value) -> (Quant, Range<u64>) {
    let mut fields: Map<String, Value> = serde_json::from_value(quant).unwrap();
    let records = fields.remove("transactions").expect("they come with it");
    let quant = verify::quant(Value::Object(fields)).unwrap();
    let indexes: Vec<u64> =
        records.as_array().unwrap().iter().map(|record| record["index"].as_u64().unwrap()).collect();
    let start = indexes.first().copied().unwrap_or(quant.size().get());
    assert!(indexes.iter().copied().eq(start..quant.size().get()), "{indexes:?}");
    (quant, start..start + indexes.len() as u64)
}

/// Asserts that the node still has all that was ever proved.
fn keeps(node: &TestNode, route: &str, chain: &Chain) {
    node.audit(route);
    let stats = node.json(&format!("{route}/stats"));
    let (newest, root) = (stats["size"].as_u64().unwrap() - stats["pooled"].as_u64().unwrap(), hash(&stats["root"]));
    for (&size, &old) in &chain.roots {
        let proof = node.json(&format!("{route}/consistency?from={size}&to={newest}"));
        let path: Vec<Hash> = serde_json::from_value(proof["path"].clone()).unwrap();
        merkle::check_consistency(size, newest, &path, old, root).unwrap();
    }
    for (index, known) in &chain.quants {
        assert_eq!(node.json(&format!("{route}/quants/{known}"))["index"], *index);
    }
    let mut shown = 0;
    for record in
        node.pages(&format!("{route}/transactions?limit=10000")).iter().flat_map(|page| page.as_array().unwrap())
    {
        if let Some(known) = chain.transactions.get(&record["index"].as_u64().unwrap()) {
            assert_eq!(hash(&record["hash"]), *known);
            shown += 1;
        }
    }
    assert_eq!(shown, chain.transactions.len(), "transactions that were shown are gone");
}

/// Ends the clients, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hunt(rounds: u64) {
    let mut random = Random(seed());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut node = TestNode::open(&data, &[]);
    node.bang(json!({ "name": "second", "difficulty": 0 }));
    node.inject("/chains/second", json!("shared"));
    node.leap("/chains/second");
    assert_eq!(node.post("/chains/second/fork").json(&json!({ "name": "fork" })).send().unwrap().status(), 201);
    let key = qbc::store::key::read(&data, qbc::store::key::KeyFile::Node).unwrap().expect("the first start makes it");
    let clients = Clients::new(key.verifying_key());
    // The last node outlives the clients.
    let node = thread::scope(|scope| {
        let _end = End(&clients.is_done);
        for number in 0..6 {
            let (clients, random) = (&clients, Random(random.below(u64::MAX)));
            scope.spawn(move || if number < 2 { clients.write(random) } else { clients.read(random) });
        }
        for _ in 0..rounds {
            *clients.url.write().unwrap() = Some(node.url.clone());
            thread::sleep(Duration::from_millis(100 + random.below(800)));
            *clients.url.write().unwrap() = None;
            node.kill();
            node = TestNode::open(&data, &[]);
        }
        node
    });
    let proofs = clients.proofs.into_inner().unwrap();
    println!("{proofs:?}");
    assert_eq!(proofs.len(), 8, "there were proofs of every kind");
    for (route, chain) in CHAINS.iter().zip(clients.chains) {
        keeps(&node, route, &chain.into_inner().unwrap());
    }
    node.kill();
    verifies(&data);
}

#[test]
fn what_was_proved_holds_for_ever_while_the_node_is_killed() {
    hunt(setting("QBC_ROUNDS", 6));
}

#[test]
#[ignore = "it takes some minutes"]
fn what_was_proved_holds_for_ever_while_the_node_is_killed_for_long() {
    hunt(setting("QBC_ROUNDS", 200));
}
