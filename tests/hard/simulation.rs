//! Nodes of one cluster in this process, over a network that a seed breaks.
//!
//! The nodes are real: their groups, links, journals and data folders. What stands between them is a proxy before each, at the host
//! that it advertises. It reads who calls, and hands frames on one by one, later, or not at all:
//!
//! | fault | what becomes of it |
//! | --- | --- |
//! | partition | connections end, and no new ones come up, between two nodes or all of one, in both directions |
//! | silence | one direction of a pair stands still; when that ends, what was held is delivered late, or the connection breaks |
//! | delay | each frame waits, so that what goes over several connections comes in another order |
//! | cut | a connection breaks with a frame, before it is delivered or just after: then its answer is lost |
//! | crash | a node is cut off, then it goes on from what is in the files of its log, or is dropped and opened again |
//! | join, leave | a node comes, or one goes and its groups move |
//!
//! A call whose answer was lost is made again by the engines, so it comes twice: connections themselves double nothing.
//!
//! The seed chooses the faults, and prints each. When threads run, and so what a fault meets, is the machine's: a seed repeats the
//! schedule, not the run.
//!
//! What must hold: what was acknowledged is there once, at its index, on every replica in the end; what has no id is never there twice;
//! there is one quant of each height; all replicas are equal; and a linearizable read misses nothing that was acknowledged, or read,
//! before it began.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    net::TcpListener,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use qbc::{
    clock::Clock,
    cluster::{Cluster, agreement_timeout, link::Secret},
    core::{
        count::{Height, Index},
        hash::Hash,
        json,
        rules::Rules,
        transaction::{Record, Submission},
    },
    node::{Config, Node, NodeId},
    tls::Stream,
    writer::Refused,
};
use serde_json::json as value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::watch,
    time::sleep as later,
};

use crate::{
    seed,
    support::{Random, setting},
};

const CHAINS: [&str; 3] = ["one", "two", "three"];

/// Bytes of a caller's greeting, its key from the 11th on, and of the answer and of the caller's signature.
const GREETING: [usize; 3] = [75, 128, 64];

/// The network between the nodes.
#[derive(Default)]
struct Net {
    /// Where each node is, by its key, when it is known.
    numbers: RwLock<HashMap<NodeId, usize>>,
    /// Read while a frame is handed on, so that nothing goes through any more when a fault was set.
    faults: tokio::sync::RwLock<Faults>,
    /// Counts changes of `faults`.
    changed: watch::Sender<u64>,
    random: Mutex<Option<Random>>,
}

#[derive(Default)]
struct Faults {
    /// Nodes that nobody reaches, and that reach nobody.
    isolated: BTreeSet<usize>,
    /// Pairs that do not reach each other, the lower number first.
    parted: BTreeSet<(usize, usize)>,
    /// Directions in which nothing is delivered.
    silent: BTreeSet<(usize, usize)>,
    /// Up to so many milliseconds for each frame.
    delay: u64,
    /// One frame of so many breaks its connection; 0 is none.
    cuts: u64,
}

impl Faults {
    fn parts(&self, from: usize, to: usize) -> bool {
        self.isolated.contains(&from)
            || self.isolated.contains(&to)
            || self.parted.contains(&(from.min(to), from.max(to)))
    }
}

impl Net {
    fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().get_or_insert(Random(1)).below(end)
    }

    /// Sets faults. When it returns, nothing is under way that they forbid.
    async fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut *self.faults.write().await);
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Serves the host of a node.
    async fn stand_before(self: Arc<Self>, number: usize, listener: TcpListener, at: String) {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((caller, _)) = listener.accept().await {
            let (net, at) = (self.clone(), at.clone());
            tokio::spawn(async move {
                let _ = net.pass_on(number, caller, &at).await;
            });
        }
    }

    async fn pass_on(self: Arc<Self>, called: usize, caller: TcpStream, at: &str) -> std::io::Result<()> {
        let (mut from_caller, to_caller) = caller.into_split();
        let mut greeting = vec![0; GREETING[0]];
        from_caller.read_exact(&mut greeting).await?;
        let key = NodeId(greeting[11..43].try_into().unwrap());
        let Some(calling) = self.numbers.read().unwrap().get(&key).copied() else { return Ok(()) };
        if self.faults.read().await.parts(calling, called) {
            return Ok(());
        }
        let (from_called, mut to_called) = TcpStream::connect(at).await?.into_split();
        to_called.write_all(&greeting).await?;
        let mut watched = self.changed.subscribe();
        let parted = async {
            while !self.faults.read().await.parts(calling, called) {
                watched.changed().await.expect("the network outlives its connections");
            }
        };
        let forth = self.frames((calling, called), (from_caller, to_called), GREETING[2]);
        let back = self.frames((called, calling), (from_called, to_caller), GREETING[1]);
        // With any of them the whole connection ends.
        tokio::select! {
            () = parted => {}
            _ = forth => {}
            _ = back => {}
        }
        Ok(())
    }

    /// Hands on what goes in one direction: `head` bytes, then frames.
    async fn frames(
        &self,
        (from, to): (usize, usize),
        (mut reader, mut writer): (OwnedReadHalf, OwnedWriteHalf),
        head: usize,
    ) -> std::io::Result<()> {
        let mut bytes = vec![0; head];
        reader.read_exact(&mut bytes).await?;
        writer.write_all(&bytes).await?;
        let mut watched = self.changed.subscribe();
        loop {
            bytes.resize(4, 0);
            reader.read_exact(&mut bytes).await?;
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            bytes.resize(4 + length, 0);
            reader.read_exact(&mut bytes[4..]).await?;
            let (delay, cuts) = {
                let faults = self.faults.read().await;
                (faults.delay, faults.cuts)
            };
            if delay > 0 {
                later(Duration::from_millis(self.below(delay))).await;
            }
            let is_cut = cuts > 0 && self.below(cuts) == 0;
            if is_cut && self.below(2) == 0 {
                return Ok(());
            }
            let mut was_silent = false;
            loop {
                let faults = self.faults.read().await;
                if faults.parts(from, to) {
                    return Ok(());
                }
                if !faults.silent.contains(&(from, to)) {
                    if was_silent && self.below(2) == 0 {
                        return Ok(());
                    }
                    writer.write_all(&bytes).await?;
                    break;
                }
                was_silent = true;
                drop(faults);
                watched.changed().await.expect("the network outlives its connections");
            }
            if is_cut {
                return Ok(());
            }
        }
    }
}

/// A node that runs.
struct Running {
    node: Node,
    cluster: Cluster,
    stop: watch::Sender<bool>,
    runtime: Runtime,
    /// Unset before its folder is copied: what it says then counts no more.
    counts: Arc<AtomicBool>,
}

/// What a client asks, of a node that may be gone when it has answered.
#[derive(Clone)]
struct Asked {
    node: Node,
    cluster: Cluster,
    runtime: tokio::runtime::Handle,
    counts: Arc<AtomicBool>,
}

/// Where a node is, whether it runs or not.
struct Place {
    host: String,
    data: PathBuf,
    /// For what it listens on behind its proxy.
    port: u16,
    running: Option<Running>,
    has_left: bool,
}

struct Simulation {
    folder: tempfile::TempDir,
    net: Arc<Net>,
    /// Of the proxies.
    runtime: Runtime,
    places: Vec<Place>,
    /// Copies of folders that were made.
    copies: u64,
    history: Arc<History>,
}

/// What was acknowledged, and read.
#[derive(Default)]
struct History {
    asked: RwLock<Vec<Asked>>,
    chains: BTreeMap<&'static str, Chain>,
    is_done: AtomicBool,
    /// What did not hold.
    faults: Mutex<Vec<String>>,
    reads: AtomicU64,
}

#[derive(Default)]
struct Chain {
    /// By what was sent, the index; nothing where it may be there.
    sent: Mutex<BTreeMap<String, Option<u64>>>,
    /// What a read that begins now must show.
    floor: AtomicU64,
    quants: Mutex<BTreeMap<u64, Hash>>,
}

impl History {
    fn pick(&self, random: &mut Random) -> Option<Asked> {
        let asked = self.asked.read().unwrap();
        (!asked.is_empty()).then(|| asked[random.below(asked.len() as u64) as usize].clone())
    }

    /// Records what a node has said, if it counted when it was said.
    fn take(&self, from: &Asked, record: impl FnOnce()) -> bool {
        // Held for writing while a node stops counting.
        let _asked = self.asked.read().unwrap();
        let counts = from.counts.load(Ordering::SeqCst);
        if counts {
            record();
        }
        counts
    }

    fn fault(&self, fault: String) {
        println!("FAULT: {fault}");
        self.faults.lock().unwrap().push(fault);
    }

    /// Writes to a chain, with ids until each is accepted, and without, once.
    fn write(&self, writer: u64, name: &'static str) {
        let (mut random, chain) = (Random(writer), &self.chains[name]);
        for number in 0.. {
            let has_id = number % 3 > 0;
            let data = format!("{writer}-{number}");
            let submission = Submission {
                data: format!("\"{data}\"").into_bytes(),
                id: has_id.then(|| data.parse().unwrap()),
                signed: None,
            };
            chain.sent.lock().unwrap().insert(data.clone(), None);
            while !self.is_done.load(Ordering::Relaxed) {
                let Some(asked) = self.pick(&mut random) else {
                    sleep(Duration::from_millis(20));
                    continue;
                };
                let (node, submission) = (asked.node.clone(), submission.clone());
                let Some(handle) = node.chain(name) else { continue };
                let sent = asked.runtime.spawn(async move {
                    let transactions = node.record(&handle, vec![submission]);
                    node.inject(&handle, transactions, None, Default::default()).await
                });
                let outcome = wait(&asked, sent);
                if let Some(Ok(accepted)) = &outcome
                    && self.take(&asked, || {
                        let index = accepted[0].index.get();
                        chain.sent.lock().unwrap().insert(data.clone(), Some(index));
                        chain.floor.fetch_max(index + 1, Ordering::SeqCst);
                    })
                {
                    break;
                }
                // What nobody took may be sent again; of all else it is not known.
                if !has_id && !matches!(outcome, Some(Err(Refused::NotLeading(_)))) {
                    break;
                }
                sleep(Duration::from_millis(10));
            }
            if self.is_done.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Reads sizes at any node.
    fn read(&self, reader: u64) {
        let mut random = Random(reader);
        while !self.is_done.load(Ordering::Relaxed) {
            let name = CHAINS[random.below(CHAINS.len() as u64) as usize];
            let chain = &self.chains[name];
            let found = self.pick(&mut random).and_then(|asked| Some((asked.node.chain(name)?, asked)));
            let Some((handle, asked)) = found else {
                sleep(Duration::from_millis(5));
                continue;
            };
            let floor = chain.floor.load(Ordering::SeqCst);
            let cluster = asked.cluster.clone();
            let read = asked.runtime.spawn(async move {
                cluster.linearize(handle.group, agreement_timeout()).await.map(|()| handle.head().size().get())
            });
            if let Some(Ok(size)) = wait(&asked, read) {
                self.take(&asked, || {
                    if size < floor {
                        self.fault(format!("{name}: a read shows {size} transactions, but {floor} were there before"));
                    }
                    chain.floor.fetch_max(size, Ordering::SeqCst);
                });
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// Leaps on whichever node leads.
    fn leap(&self) {
        while !self.is_done.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(100));
            for name in CHAINS {
                let all = self.asked.read().unwrap().clone();
                for asked in all {
                    let Some(handle) = asked.node.chain(name).filter(|chain| asked.node.leads(chain.group)) else {
                        continue;
                    };
                    let node = asked.node.clone();
                    let leaped = asked.runtime.spawn(async move { node.leap(&handle, None).await });
                    if let Some(Ok((quant, _))) = wait(&asked, leaped) {
                        self.take(&asked, || self.quant(name, quant.index().get(), quant.hash()));
                    }
                }
            }
        }
    }

    fn quant(&self, name: &str, height: u64, hash: Hash) {
        let known = *self.chains[name].quants.lock().unwrap().entry(height).or_insert(hash);
        if known != hash {
            self.fault(format!("{name}: two quants of the height {height}"));
        }
    }
}

/// What a node says, while it runs.
fn wait<T: Send + 'static>(asked: &Asked, mut said: tokio::task::JoinHandle<T>) -> Option<T> {
    let _context = asked.runtime.enter();
    let start = Instant::now();
    loop {
        if said.is_finished() {
            // Its runtime may be gone.
            let ready = futures_util::FutureExt::now_or_never(&mut said)?;
            return ready.ok();
        }
        if !asked.counts.load(Ordering::SeqCst) || start.elapsed() > Duration::from_secs(30) {
            return None;
        }
        sleep(Duration::from_millis(1));
    }
}

impl Simulation {
    fn new(count: usize, seed: u64) -> Simulation {
        let net = Arc::new(Net { random: Mutex::new(Some(Random(seed ^ 0x5eed))), ..Net::default() });
        let history = History { chains: CHAINS.map(|name| (name, Chain::default())).into(), ..History::default() };
        let mut simulation = Simulation {
            folder: tempfile::tempdir().unwrap(),
            net,
            runtime: runtime(2),
            places: Vec::new(),
            copies: 0,
            history: Arc::new(history),
        };
        for _ in 0..count {
            simulation.join();
        }
        simulation
    }

    /// Starts one more node, which joins.
    fn join(&mut self) -> bool {
        let number = self.places.len();
        let (proxy, behind) = (bind(0), bind(0));
        let host = proxy.local_addr().unwrap().to_string();
        let port = behind.local_addr().unwrap().port();
        drop(behind);
        let at = format!("127.0.0.1:{port}");
        self.runtime.spawn(self.net.clone().stand_before(number, proxy, at));
        let data = self.folder.path().join(number.to_string());
        self.places.push(Place { host, data, port, running: None, has_left: false });
        self.start(number);
        let first = self.places.iter().find(|place| place.running.is_some()).unwrap().host.clone();
        if number == 0 {
            return true;
        }
        let running = self.places[number].running.as_ref().unwrap();
        let joined = running.runtime.block_on(running.cluster.join(&first));
        if let Err(error) = &joined {
            println!("it has not joined: {error}");
            self.let_go(number);
        }
        joined.is_ok()
    }

    fn start(&mut self, number: usize) {
        let place = &mut self.places[number];
        let (runtime, (stop, stopping)) = (runtime(2), watch::channel(false));
        let config = Config {
            data: place.data.clone(),
            pool_limit: 1_000_000,
            mining_threads: NonZero::<usize>::MIN,
            leap: None,
            joins: number > 0,
            cosign: Default::default(),
            accept_rollback: Vec::new(),
            clock: Clock::default(),
            progress: Default::default(),
        };
        let (host, port) = (place.host.clone(), place.port);
        let net = self.net.clone();
        let (node, cluster) = runtime.block_on(async {
            let (node, _background) = tokio::spawn(Node::start(config)).await.unwrap().expect("it starts");
            let key = node.id().parse().unwrap();
            net.numbers.write().unwrap().insert(key, number);
            let cluster = Cluster::start(node.clone(), Secret([7; 32]), host, None, stopping);
            let cluster = cluster.await.expect("it starts");
            let (listener, serving) = (bind(port), cluster.clone());
            tokio::spawn(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let serving = serving.clone();
                    tokio::spawn(async move { serving.serve(Stream::Plain(stream)).await });
                }
            });
            (node, cluster)
        });
        let counts = Arc::new(AtomicBool::new(true));
        let handle = runtime.handle().clone();
        let asked = Asked { node: node.clone(), cluster: cluster.clone(), runtime: handle, counts: counts.clone() };
        self.history.asked.write().unwrap().push(asked);
        place.running = Some(Running { node, cluster, stop, runtime, counts });
    }

    /// Takes what a node says for nothing from now on.
    fn uncount(&self, running: &Running) {
        let mut asked = self.history.asked.write().unwrap();
        running.counts.store(false, Ordering::SeqCst);
        asked.retain(|asked| !Arc::ptr_eq(&asked.counts, &running.counts));
    }

    /// A crash: the node is cut off, and goes on from a copy of its log as the files stand, or from its folder, which it was made to let
    /// go without a word to anybody.
    fn crash(&mut self, number: usize, is_copied: bool) {
        let running = self.places[number].running.take().unwrap();
        self.runtime.block_on(self.net.set(|faults| faults.isolated.extend([number])));
        self.uncount(&running);
        let mut data = self.places[number].data.clone();
        if is_copied {
            self.copies += 1;
            let copy = self.folder.path().join(format!("{number}-{}", self.copies));
            copy_log(&data, &copy);
            data = copy;
        }
        drop_node(running, &self.places[number].data);
        self.places[number].data = data;
    }

    fn restart(&mut self, number: usize) {
        self.runtime.block_on(self.net.set(|faults| faults.isolated.retain(|isolated| *isolated != number)));
        self.start(number);
    }

    fn running(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|number| self.places[*number].running.is_some()).collect()
    }

    fn is_down(&self, number: usize) -> bool {
        self.places[number].running.is_none() && !self.places[number].has_left
    }

    fn of(&self, number: usize) -> &Running {
        self.places[number].running.as_ref().unwrap()
    }

    /// Makes the chains, when the groups are there.
    fn bang(&self, replicas: u8) {
        for name in CHAINS {
            eventually("the chain is made", || {
                let first = self.of(0);
                // Where it was reserved and not made, it stays in its group.
                let group = first.cluster.group_of(name).or_else(|| first.cluster.place(Some(replicas)).ok());
                let Some(group) = group else { return false };
                let leads = |number: &usize| self.of(*number).cluster.leads(group);
                let Some(leader) = self.running().into_iter().find(leads) else { return false };
                let leader = self.of(leader);
                leader.runtime.block_on(async {
                    if !leader.cluster.reserve(name, group).await.is_ok_and(|is_free| is_free) {
                        return leader.node.chain(name).is_some();
                    }
                    let rules = value!({"name": name, "difficulty": 0}).to_string();
                    let rules = Rules::from_value(&json::parse(rules.as_bytes()).unwrap()).unwrap();
                    leader.node.bang(rules, None, Default::default(), None, Some(group)).await.is_ok()
                })
            });
        }
    }

    /// One fault, or the end of some.
    fn step(&mut self, random: &mut Random, moves: bool) {
        let (count, running) = (self.places.len() as u64, self.running());
        let node = running[random.below(running.len() as u64) as usize];
        let (one, other) = (random.below(count) as usize, random.below(count) as usize);
        // So many nodes may be away that a majority can still go on; now and then it cannot.
        let all = 0..self.places.len();
        let down: Vec<usize> = all.clone().filter(|number| self.is_down(*number)).collect();
        let isolated: BTreeSet<usize> = all.filter(|number| !running.contains(number)).collect();
        let set = |change: Box<dyn FnOnce(&mut Faults)>| self.runtime.block_on(self.net.set(change));
        match random.below(if moves { 12 } else { 11 }) {
            0 if one != other => {
                println!("{one} and {other} are parted");
                set(Box::new(move |faults| faults.parted.extend([(one.min(other), one.max(other))])));
            }
            1 if one != other => {
                println!("from {one} to {other} nothing comes");
                set(Box::new(move |faults| faults.silent.extend([(one, other)])));
            }
            2 => {
                println!("{node} is cut off");
                set(Box::new(move |faults| faults.isolated.extend([node])));
            }
            3 | 4 => {
                println!("the network is whole");
                set(Box::new(move |faults| *faults = Faults { isolated, ..Faults::default() }));
            }
            5 => {
                let delay = random.below(60);
                println!("frames take up to {delay} ms");
                set(Box::new(move |faults| faults.delay = delay));
            }
            6 => {
                let cuts = 20 + random.below(200);
                println!("one of {cuts} frames breaks its connection");
                set(Box::new(move |faults| faults.cuts = cuts));
            }
            7 | 8 if down.is_empty() || (down.len() == 1 && random.below(4) == 0) => {
                let is_copied = random.below(2) == 0;
                println!("{node} crashes{}", if is_copied { ", and goes on from its log" } else { "" });
                self.crash(node, is_copied);
            }
            7..=10 => {
                if let Some(&number) = down.first() {
                    println!("{number} is started");
                    self.restart(number);
                }
            }
            11 if down.is_empty() => {
                println!("the network is whole, for a node that comes and another that goes");
                set(Box::new(move |faults| *faults = Faults { isolated, ..Faults::default() }));
                if self.join() {
                    self.leave(node);
                }
            }
            _ => {}
        }
    }

    /// Takes a node out, and lets it go when nobody needs it any more.
    fn leave(&mut self, number: usize) {
        let id: NodeId = self.of(number).node.id().parse().unwrap();
        let other = self.running().into_iter().find(|other| *other != number).unwrap();
        println!("{number} leaves");
        eventually("it may leave", || {
            let Running { cluster, runtime, .. } = self.of(other);
            runtime.block_on(cluster.leave(id, false)).is_ok()
        });
        eventually("it has left", || self.of(other).cluster.knowledge().gone.contains(&id));
        self.let_go(number);
    }

    /// Ends a node that is no member.
    fn let_go(&mut self, number: usize) {
        let running = self.places[number].running.take().unwrap();
        self.uncount(&running);
        self.places[number].has_left = true;
        drop_node(running, &self.places[number].data);
    }

    /// Ends all faults, and waits until all replicas of each chain have the same.
    fn settle(&mut self, replicas: usize) {
        for number in 0..self.places.len() {
            if self.is_down(number) {
                self.restart(number);
            }
        }
        self.runtime.block_on(self.net.set(|faults| *faults = Faults::default()));
        for name in CHAINS {
            let mut seen = Vec::new();
            eventually(&format!("all replicas of {name} are equal"), || {
                seen.clear();
                for number in self.running() {
                    let running = self.of(number);
                    let Some(chain) = running.node.chain(name) else { continue };
                    if running.runtime.block_on(running.cluster.linearize(chain.group, agreement_timeout())).is_ok() {
                        let head = chain.head();
                        seen.push((head.edge.root(), head.newest.hash()));
                    }
                }
                seen.len() == replicas && seen.windows(2).all(|pair| pair[0] == pair[1])
            });
        }
    }

    /// Asserts all that must hold in the end, and gives how many transactions were acknowledged.
    fn check(&self) -> usize {
        let mut acknowledged = 0;
        for (name, chain) in &self.history.chains {
            let sent = chain.sent.lock().unwrap();
            for number in self.running() {
                let running = self.of(number);
                let Some(handle) = running.node.chain(name) else { continue };
                assert_eq!(handle.damage(), None, "{name} on {number}");
                let (size, heights) = (handle.head().size(), handle.head().newest.index());
                let (texts, quants) = running
                    .runtime
                    .block_on(running.node.read(&handle, move |chain| {
                        let (mut texts, mut next) = (Vec::new(), Index::new(0));
                        while next < size.next_index() {
                            if !texts.is_empty() {
                                texts.push(b'\n');
                            }
                            next = chain.records(next..size.next_index(), b'\n', 1 << 20, &mut texts)?;
                        }
                        let quants =
                            (0..=heights.get()).map(|at| chain.quant(Height::new(at)).map(|quant| quant.hash()));
                        Ok((texts, quants.collect::<Result<Vec<_>, _>>()?))
                    }))
                    .unwrap();
                quants.iter().zip(0..).for_each(|(hash, height)| self.history.quant(name, height, *hash));
                let mut found = BTreeMap::new();
                for (index, text) in (0..).zip(texts.split(|byte| *byte == b'\n')).skip(1) {
                    let record = Record::parse(text).unwrap();
                    assert_eq!(record.index.get(), index);
                    let data: String = serde_json::from_slice(record.transaction.data().unwrap()).unwrap();
                    assert!(sent.contains_key(&data), "{name} on {number} has {data}, which nobody sent");
                    assert_eq!(found.insert(data.clone(), index), None, "{name} on {number} has {data} twice");
                }
                for (data, index) in sent.iter().filter_map(|(data, index)| Some((data, (*index)?))) {
                    assert_eq!(found.get(data), Some(&index), "{name} on {number}: {data} was acknowledged as {index}");
                }
            }
            acknowledged += sent.values().flatten().count();
        }
        let faults = self.history.faults.lock().unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        acknowledged
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.history.is_done.store(true, Ordering::SeqCst);
        for place in &mut self.places {
            if let Some(running) = place.running.take() {
                let _ = running.stop.send(true);
                running.counts.store(false, Ordering::SeqCst);
                running.runtime.shutdown_background();
            }
        }
    }
}

fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

fn bind(port: u16) -> TcpListener {
    // One that was just dropped may hold it for a moment.
    let mut bound = None;
    eventually("the port is free", || {
        bound = TcpListener::bind(("127.0.0.1", port)).ok();
        bound.is_some()
    });
    let listener = bound.unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Lets a node go, and waits until nothing of it holds its folder.
fn drop_node(running: Running, data: &Path) {
    let Running { node, cluster, stop, runtime, .. } = running;
    drop(stop);
    // Its writers end when nobody can send to them.
    drop(node.end_writers());
    runtime.shutdown_timeout(Duration::from_secs(10));
    drop((node, cluster));
    let lock = fs::File::options().write(true).open(data.join("lock")).unwrap();
    eventually("the folder is let go", || lock.try_lock().is_ok());
}

/// Copies a folder as a crash leaves it, without the index, which each start can make anew. What was acknowledged is never newer than
/// the log then.
fn copy_log(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("log")).unwrap();
    let copy = |name: &Path| assert!(fs::copy(from.join(name), to.join(name)).is_ok(), "{}", name.display());
    copy(Path::new("log/acknowledged"));
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(from.join("log")).unwrap() {
        let name = Path::new("log").join(entry.unwrap().file_name());
        names.extend(name.extension().is_some_and(|end| end == "log").then_some(name));
    }
    names.sort();
    names.iter().for_each(|name| copy(name));
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            copy(Path::new(&entry.file_name()));
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "in vain: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// Runs so many steps over so many nodes, which come and go if it `moves`.
fn simulate(nodes: usize, steps: u64, moves: bool, seed: u64) {
    println!("{nodes} nodes, {steps} steps, seed {seed}");
    let mut random = Random(seed);
    let mut simulation = Simulation::new(nodes, seed);
    let replicas = if nodes >= 5 { 5 } else { 3 };
    simulation.bang(replicas);
    let history = simulation.history.clone();
    std::thread::scope(|scope| {
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _ends = Ends(&history.is_done);
        let history = &history;
        for (writer, name) in (0..).zip([CHAINS, CHAINS].as_flattened().to_vec()) {
            scope.spawn(move || history.write(writer, name));
        }
        (100..102).for_each(|reader| drop(scope.spawn(move || history.read(reader))));
        scope.spawn(|| history.leap());
        for _ in 0..steps {
            simulation.step(&mut random, moves);
            sleep(Duration::from_millis(50 + random.below(400)));
        }
        simulation.settle(replicas.into());
        // It goes on.
        let before: usize = history.chains.values().map(|chain| chain.sent.lock().unwrap().len()).sum();
        eventually("writes are accepted", || {
            history.chains.values().map(|chain| chain.sent.lock().unwrap().len()).sum::<usize>() > before + 30
        });
    });
    simulation.settle(replicas.into());
    let acknowledged = simulation.check();
    println!("{acknowledged} transactions were acknowledged, {} reads", history.reads.load(Ordering::Relaxed));
    assert!(acknowledged > 0);
}

#[test]
fn a_network_that_breaks_loses_and_invents_nothing() {
    simulate(3, setting("QBC_STEPS", 24), false, seed());
}

#[test]
#[ignore = "it takes an hour"]
fn networks_that_break_lose_and_invent_nothing() {
    let seed = seed();
    for round in 0..setting("QBC_SIMULATIONS", 60) {
        simulate(if round % 2 == 0 { 3 } else { 5 }, setting("QBC_STEPS", 100), round % 4 > 1, seed + round);
    }
}
