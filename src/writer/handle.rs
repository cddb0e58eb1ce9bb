//! Chains as all but the writer see them.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use hashbrown::HashMap;
use tokio::sync::{mpsc, watch};

use super::command::{Guard, Refused};
use crate::{
    core::{
        chain::{Chain, Expected, Head, LeapPolicy},
        count::{Height, Index, Size},
        hash::Hash,
        mirror::Follows,
        rules::{ChainName, Rules},
        terms::Terms,
        witness::Witnessed,
    },
    store::{ChainNumber, Group, Lineage, Rollback, Store},
};

/// A chain as all but the writer see it.
pub struct ChainHandle {
    /// Its name.
    pub name: ChainName,
    /// The hash of its first own quant.
    pub id: Hash,
    /// The nodes that keep it.
    pub group: Group,
    /// On what terms it takes transactions.
    terms: RwLock<Terms>,
    /// Where its parts are stored.
    pub lineage: Arc<Lineage>,
    /// What it was forked from.
    parent: Option<Arc<ChainHandle>>,
    pub(super) head: watch::Sender<Head>,
    leap: RwLock<LeapPolicy>,
    mirror: RwLock<Option<Mirrored>>,
    /// Transactions of its own that were erased.
    pub(super) erasures: AtomicU64,
    /// What does not hold, once that is found.
    damage: RwLock<Option<Damage>>,
    /// Runs of its transactions that were damaged, and were healed, since the node's start.
    healed: AtomicU64,
    of_all: Arc<OfAll>,
    /// Whether [`OfAll`] counts it. Changed while its head is locked only.
    is_counted: AtomicBool,
    /// The newest quant that was signed and is not here, once that is found.
    rollback: RwLock<Option<Rollback>>,
    /// Whether an imported chain has taken its place.
    replaced: AtomicBool,
    /// What other modules remember of it, each by a type of its own.
    remembered: RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// What is true of all chains of a node together, so that nobody has to look at each of them.
#[derive(Default)]
pub struct OfAll {
    /// Whether anything does not hold in any of them, or did: hardly ever.
    any_damage: AtomicBool,
    /// The same for quants that were signed and are not here.
    any_rollback: AtomicBool,
    transactions: AtomicU64,
    quants: AtomicU64,
    pooled: AtomicU64,
    bytes: AtomicU64,
}

/// How much all chains of a node have. What forks share counts in each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Transactions, pooled ones included.
    pub transactions: u64,
    /// Quants.
    pub quants: u64,
    /// Transactions that no quant covers yet.
    pub pooled: u64,
    /// Bytes of the transactions.
    pub bytes: u64,
}

impl OfAll {
    fn totals(&self) -> Totals {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let (transactions, quants) = (read(&self.transactions), read(&self.quants));
        Totals { transactions, quants, pooled: read(&self.pooled), bytes: read(&self.bytes) }
    }

    /// Adds what a chain has, or takes it off.
    fn count(&self, head: &Head, change: fn(&AtomicU64, u64)) {
        change(&self.transactions, head.size().get());
        change(&self.quants, head.newest.index().next().get());
        change(&self.pooled, head.pooled());
        change(&self.bytes, head.bytes);
    }
}

fn add(total: &AtomicU64, part: u64) {
    total.fetch_add(part, Ordering::Relaxed);
}

fn take_off(total: &AtomicU64, part: u64) {
    total.fetch_sub(part, Ordering::Relaxed);
}

/// How a mirror stands to what it is a mirror of.
#[derive(Clone, Debug)]
pub struct Mirrored {
    /// The URL of the chain that others keep.
    pub from: String,
    /// Whether it is followed.
    pub state: Follows,
    /// Transactions that the newest checkpoint seen of it has, once one was seen since the node's start.
    pub source: Option<Size>,
}

/// Why a chain takes no more writes.
#[derive(Clone, Debug)]
pub enum Damage {
    /// What is stored of it is not as it was written: it may be healed.
    Stored(String),
    /// It is not what the node has that leads its group.
    Differs(String),
    /// For good.
    Lasting(String),
}

impl Damage {
    /// What does not hold.
    fn detail(&self) -> &str {
        match self {
            Damage::Stored(detail) | Damage::Differs(detail) | Damage::Lasting(detail) => detail,
        }
    }
}

impl ChainHandle {
    pub(super) fn new(
        group: Group,
        chain: &Chain,
        lineage: Arc<Lineage>,
        parent: Option<Arc<ChainHandle>>,
        leap: LeapPolicy,
        erasures: u64,
        of_all: Arc<OfAll>,
    ) -> Self {
        ChainHandle {
            name: chain.rules().name().clone(),
            id: chain.id,
            group,
            terms: RwLock::new(chain.terms.clone()),
            lineage,
            parent,
            head: watch::Sender::new(chain.head.clone()),
            leap: RwLock::new(leap),
            mirror: RwLock::default(),
            erasures: erasures.into(),
            damage: RwLock::default(),
            healed: 0.into(),
            of_all,
            is_counted: false.into(),
            rollback: RwLock::default(),
            replaced: false.into(),
            remembered: RwLock::default(),
        }
    }

    /// On what terms it takes transactions. A head that is read later may be of later terms.
    pub fn terms(&self) -> Terms {
        self.terms.read().expect("no holder of this lock panics").clone()
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.terms.read().expect("no holder of this lock panics").rules().clone()
    }

    pub(super) fn set_terms(&self, terms: Terms) {
        *self.terms.write().expect("no holder of this lock panics") = terms;
    }

    /// The transaction that froze it, if it is frozen.
    pub fn frozen(&self) -> Option<Index> {
        self.terms.read().expect("no holder of this lock panics").frozen()
    }

    /// Whether it was frozen, and the quant that seals this is there: nothing follows.
    pub fn has_ended(&self) -> bool {
        self.frozen().is_some_and(|frozen| self.head.borrow().newest.size().has(frozen))
    }

    /// Whether it was frozen and the quant is missing that seals this.
    pub fn is_to_be_ended(&self) -> bool {
        self.frozen().is_some_and(|frozen| !self.head.borrow().newest.size().has(frozen))
    }

    /// Its number in the store.
    pub fn number(&self) -> ChainNumber {
        self.lineage.number()
    }

    /// The chain that made a quant of this chain: itself, or the ancestor whose rules held there.
    pub fn maker_of(self: &Arc<Self>, quant: Height) -> Arc<ChainHandle> {
        match &self.parent {
            Some(parent) if quant < self.lineage.own_quants_from() => parent.maker_of(quant),
            _ => self.clone(),
        }
    }

    /// The chain that wrote a transaction of this chain: itself, or an ancestor.
    pub fn writer_of(self: &Arc<Self>, transaction: Index) -> Arc<ChainHandle> {
        match &self.parent {
            Some(parent) if transaction < self.lineage.own_from() => parent.writer_of(transaction),
            _ => self.clone(),
        }
    }

    /// The chain, and those that it was forked from.
    pub fn with_ancestors(self: &Arc<Self>) -> impl Iterator<Item = Arc<ChainHandle>> {
        std::iter::successors(Some(self.clone()), |chain| chain.parent.clone())
    }

    /// How many transactions of this chain and of its ancestors were erased: what was read of them before may differ.
    pub fn erasures(&self) -> u64 {
        let shared = self.parent.as_ref().map_or(0, |parent| parent.erasures());
        shared + self.erasures.load(Ordering::Acquire)
    }

    /// Transactions of its own that were erased.
    pub(super) fn own_erasures(&self) -> u64 {
        self.erasures.load(Ordering::Acquire)
    }

    /// The newest durable head.
    pub fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// Makes another head the newest durable one, and gives the one before.
    pub(super) fn set_head(&self, mut head: Head) -> Head {
        self.head.send_modify(|current| {
            let is_counted = self.is_counted.load(Ordering::Relaxed);
            if is_counted {
                self.of_all.count(&head, add);
                self.of_all.count(current, take_off);
            }
            std::mem::swap(current, &mut head);
        });
        head
    }

    /// Counts what it has among what all chains have, or does so no more.
    fn set_counted(&self, is_counted: bool) {
        // Nobody is told: the head stays as it is, and is locked meanwhile.
        self.head.send_if_modified(|head| {
            if self.is_counted.swap(is_counted, Ordering::Relaxed) != is_counted {
                self.of_all.count(head, if is_counted { add } else { take_off });
            }
            false
        });
    }

    /// Follows the head.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// The guard of a write that is to be made in these states of the chain only.
    pub fn guard(&self, expected: Option<Expected>) -> Option<Guard> {
        expected.map(|expected| Guard { chain: self.number(), expected })
    }

    /// # Errors
    /// The chain is in none of the states that are expected.
    pub fn check_expected(&self, expected: &Expected, head: &Head) -> Result<(), Refused> {
        let (chain, tag) = (self.name.clone(), head.tag());
        if expected.allows(tag) { Ok(()) } else { Err(Refused::Moved { chain, expected: expected.clone(), tag }) }
    }

    /// Whether it is the default chain as a new node makes it, which nobody has used: an imported one may take its place.
    pub fn is_untouched_default(&self) -> bool {
        let head = self.head();
        self.number() == ChainNumber::FIRST
            && self.name.as_str() == ChainName::DEFAULT
            && (head.size(), head.newest.index()) == (Size::new(1), Height::FIRST)
    }

    /// What does not hold in what is stored of it, or of an ancestor.
    pub fn damage(&self) -> Option<String> {
        if !self.of_all.any_damage.load(Ordering::Acquire) {
            return None;
        }
        std::iter::successors(Some(self), |chain| chain.parent.as_deref())
            .find_map(|chain| chain.own_damage().map(|damage| damage.detail().to_owned()))
    }

    /// What does not hold in what is stored of itself.
    pub fn own_damage(&self) -> Option<Damage> {
        self.damage.read().expect("no holder of this lock panics").clone()
    }

    /// Why it is not read here, where it differs from the replica of the node that leads.
    pub fn difference(&self) -> Option<String> {
        if !self.of_all.any_damage.load(Ordering::Acquire) {
            return None;
        }
        match self.own_damage()? {
            Damage::Differs(detail) => Some(detail),
            Damage::Stored(_) | Damage::Lasting(_) => None,
        }
    }

    /// Whether an imported chain has taken its place. Then its head is sent once more, so that whoever follows it looks.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    pub(super) fn set_replaced(&self) {
        self.set_damage(Damage::Lasting("an imported chain has taken its place".into()));
        self.replaced.store(true, Ordering::Release);
        self.head.send_modify(|_| ());
    }

    /// Records that it is damaged: it takes no more writes until it is healed, or the node is started again.
    pub fn set_damage(&self, found: Damage) {
        let mut damage = self.damage.write().expect("no holder of this lock panics");
        // The first damage that was found stays, until there is one that cannot be healed.
        if !matches!(
            (&*damage, &found),
            (Some(_), Damage::Stored(_)) | (Some(Damage::Differs(_) | Damage::Lasting(_)), _)
        ) {
            *damage = Some(found);
        }
        self.of_all.any_damage.store(true, Ordering::Release);
    }

    /// Records that what is stored of it holds again.
    pub fn clear_damage(&self) {
        self.damage
            .write()
            .expect("no holder of this lock panics")
            .take_if(|damage| matches!(damage, Damage::Stored(_)));
    }

    /// Runs of its transactions that were damaged, and were healed, since the node's start.
    pub fn healed(&self) -> u64 {
        self.healed.load(Ordering::Relaxed)
    }

    /// Records that so many more runs were healed.
    pub fn add_healed(&self, runs: u64) {
        self.healed.fetch_add(runs, Ordering::Relaxed);
    }

    /// Why it takes no writes though it holds: a newer quant of it was signed, and its loss is not accepted.
    pub fn rollback(&self) -> Option<String> {
        let rollback = self.rollback.read().expect("no holder of this lock panics");
        let rollback = rollback.as_ref().filter(|rollback| !rollback.accepted)?;
        let cure = format!(
            "put the newest copy back, or go on in a fork; to write on this one all the same, start the node once with \
             --accept-rollback {}",
            self.name
        );
        Some(format!("{rollback}: the data folder is an older copy, or another node signs with its key; {cure}"))
    }

    /// Takes up that a newer quant was signed, or that its loss is accepted, and gives what is to be recorded, if anything.
    pub fn add_rollback(&self, found: Option<Rollback>, accepted: bool) -> Option<Rollback> {
        let mut known = self.rollback.write().expect("no holder of this lock panics");
        let is_known = |found: &Rollback| known.as_ref().is_some_and(|known| known.quant >= found.quant);
        let newest = found.filter(|found| !is_known(found)).or_else(|| known.clone())?;
        let newest = Rollback { accepted: accepted || newest.accepted, ..newest };
        self.of_all.any_rollback.store(true, Ordering::Release);
        (*known != Some(newest.clone())).then(|| known.insert(newest).clone())
    }

    /// Whether it takes writes, the quant that ends a frozen chain among them.
    ///
    /// # Errors
    /// Why not.
    pub fn check_writable(&self) -> Result<(), Refused> {
        self.check_sound()?;
        match (self.mirror(), self.frozen()) {
            (Some(Mirrored { from, .. }), _) => Err(Refused::Mirror { chain: self.name.clone(), from }),
            (None, Some(by)) if !self.is_to_be_ended() => Err(Refused::Frozen { chain: self.name.clone(), by }),
            _ => Ok(()),
        }
    }

    /// What it is a mirror of, if it is.
    pub fn mirror(&self) -> Option<Mirrored> {
        self.mirror.read().expect("no holder of this lock panics").clone()
    }

    /// It is a mirror of the chain at this URL from now on.
    pub(super) fn set_mirror(&self, from: String) {
        let mut mirror = self.mirror.write().expect("no holder of this lock panics");
        let (state, source) = mirror.take().map_or((Follows::Stopped, None), |before| (before.state, before.source));
        *mirror = Some(Mirrored { from, state, source });
    }

    /// Records how a mirror stands to its source.
    pub fn set_follows(&self, state: Follows, source: Option<Size>) {
        if let Some(mirror) = self.mirror.write().expect("no holder of this lock panics").as_mut() {
            (mirror.state, mirror.source) = (state, source.or(mirror.source));
        }
    }

    /// Whether its history holds, so that it may be gone on with.
    ///
    /// # Errors
    /// Why not.
    pub fn check_sound(&self) -> Result<(), Refused> {
        match (self.damage(), self.rollback()) {
            (Some(damage), _) => Err(Refused::Damaged(damage)),
            (None, Some(rollback)) => Err(Refused::RolledBack(rollback)),
            (None, None) => Ok(()),
        }
    }

    /// What a module remembers of the chain as long as the node runs. The type is the module's own, so that nobody else reads or
    /// changes it.
    pub fn remembered<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let of = TypeId::of::<T>();
        let known = self.remembered.read().expect("no holder of this lock panics").get(&of).cloned();
        let known = known.unwrap_or_else(|| {
            let mut remembered = self.remembered.write().expect("no holder of this lock panics");
            remembered.entry(of).or_insert_with(|| Arc::new(T::default())).clone()
        });
        known.downcast().expect("it stands under its type")
    }

    pub(super) fn set_leap_policy(&self, leap: LeapPolicy) {
        *self.leap.write().expect("no holder of this lock panics") = leap;
    }

    /// When it leaps by itself.
    pub fn leap_policy(&self) -> LeapPolicy {
        *self.leap.read().expect("no holder of this lock panics")
    }
}

/// Whether the node takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ready,
    /// Not until space is freed.
    Full,
    /// Not until it is started again.
    Failed(String),
}

/// What the writer publishes: the chains by name, and its own health.
pub struct Published {
    /// Of a chain that could not be loaded, why.
    chains: RwLock<BTreeMap<ChainName, Result<Arc<ChainHandle>, String>>>,
    /// The names of all that there were, by their ids: one may have another chain now.
    names: RwLock<HashMap<Hash, ChainName>>,
    store: Arc<Store>,
    health: Mutex<Health>,
    /// Chains that may have to leap by their policy.
    touched: mpsc::UnboundedSender<Arc<ChainHandle>>,
    /// Chains with a new quant.
    sealed: mpsc::UnboundedSender<Arc<ChainHandle>>,
    /// What was cosigned of others' logs, by the hashes of their names.
    witnessed: RwLock<BTreeMap<Hash, Arc<Witnessed>>>,
    /// Pieces of evidence among what was cosigned: those that prove a fault of a log, and the others.
    evidence: [AtomicU64; 2],
    /// A chain that could not be loaded counts as damaged, too.
    pub(super) of_all: Arc<OfAll>,
}

impl Published {
    /// Of no chains yet, with the chains that are touched and sealed from now on.
    pub fn new(
        store: Arc<Store>,
    ) -> (Published, mpsc::UnboundedReceiver<Arc<ChainHandle>>, mpsc::UnboundedReceiver<Arc<ChainHandle>>) {
        let (touched, touches) = mpsc::unbounded_channel();
        let (sealed, seals) = mpsc::unbounded_channel();
        let published = Published {
            chains: RwLock::default(),
            names: RwLock::default(),
            store,
            health: Mutex::new(Health::Ready),
            touched,
            sealed,
            witnessed: RwLock::default(),
            evidence: Default::default(),
            of_all: Arc::default(),
        };
        (published, touches, seals)
    }

    /// Makes a chain visible.
    pub(super) fn add(&self, handle: &Arc<ChainHandle>) {
        self.names.write().expect("no holder of this lock panics").insert(handle.id, handle.name.clone());
        let mut chains = self.chains.write().expect("no holder of this lock panics");
        let before = chains.insert(handle.name.clone(), Ok(handle.clone()));
        before.into_iter().flatten().for_each(|before| before.set_counted(false));
        handle.set_counted(true);
    }

    /// Says why a chain cannot be loaded.
    pub(super) fn add_lost(&self, name: ChainName, detail: String) {
        let before = self.chains.write().expect("no holder of this lock panics").insert(name, Err(detail));
        before.into_iter().flatten().for_each(|before| before.set_counted(false));
        self.of_all.any_damage.store(true, Ordering::Release);
    }

    /// Forgets all chains.
    pub(super) fn clear(&self) {
        let before = std::mem::take(&mut *self.chains.write().expect("no holder of this lock panics"));
        before.into_values().flatten().for_each(|before| before.set_counted(false));
    }

    /// Forgets the chains of a group that is not kept here any more.
    pub fn remove_group(&self, group: Group) {
        let mut chains = self.chains.write().expect("no holder of this lock panics");
        let gone = chains.extract_if(.., |_, chain| chain.as_ref().is_ok_and(|chain| chain.group == group));
        let gone: Vec<_> = gone.filter_map(|(_, chain)| chain.ok()).collect();
        drop(chains);
        let mut names = self.names.write().expect("no holder of this lock panics");
        gone.iter().for_each(|chain| drop(names.remove(&chain.id)));
        drop(names);
        gone.iter().for_each(|chain| {
            chain.set_counted(false);
            chain.set_replaced();
        });
    }

    pub(super) fn add_witnessed(&self, logs: impl IntoIterator<Item = (Hash, Arc<Witnessed>)>) {
        let mut witnessed = self.witnessed.write().expect("no holder of this lock panics");
        for (hash, log) in logs {
            self.count_evidence(&log, add);
            if let Some(before) = witnessed.insert(hash, log) {
                self.count_evidence(&before, take_off);
            }
        }
    }

    fn count_evidence(&self, log: &Witnessed, change: fn(&AtomicU64, u64)) {
        let proven = log.evidence.iter().filter(|evidence| evidence.proven).count();
        for (total, part) in self.evidence.iter().zip([proven, log.evidence.len() - proven]) {
            change(total, part as u64);
        }
    }

    /// Logs of which something was cosigned, pieces of evidence that prove a fault of one, and other pieces.
    pub fn witnessed_counts(&self) -> (usize, [u64; 2]) {
        let logs = self.witnessed.read().expect("no holder of this lock panics").len();
        (logs, [0, 1].map(|at: usize| self.evidence[at].load(Ordering::Relaxed)))
    }

    /// How much all chains have.
    pub fn totals(&self) -> Totals {
        self.of_all.totals()
    }

    pub(super) fn tell_sealed(&self, handle: &Arc<ChainHandle>) {
        // Nobody follows where there are no witnesses.
        let _ = self.sealed.send(handle.clone());
    }

    pub(super) fn tell_touched(&self, handle: &Arc<ChainHandle>) {
        // Nobody leaps any more when the receiver is gone: the node is stopping.
        let _ = self.touched.send(handle.clone());
    }

    pub(super) fn set_health(&self, health: Health) {
        *self.health.lock().expect("no holder of this lock panics") = health;
    }

    /// A chain by its name or its id, which is longer than any name.
    pub fn chain(&self, name: &str) -> Option<Arc<ChainHandle>> {
        let chains = self.chains.read().expect("no holder of this lock panics");
        match chains.get(name) {
            Some(chain) => chain.as_ref().ok().cloned(),
            None => {
                let id = name.parse().ok()?;
                let names = self.names.read().expect("no holder of this lock panics");
                chains.get(names.get(&id)?)?.as_ref().ok().filter(|chain| chain.id == id).cloned()
            }
        }
    }

    /// Whether a chain has this name, whatever its state.
    pub fn knows(&self, name: &ChainName) -> bool {
        self.chains.read().expect("no holder of this lock panics").contains_key(name)
    }

    /// Why a chain could not be loaded.
    pub fn lost(&self, name: &str) -> Option<String> {
        self.chains.read().expect("no holder of this lock panics").get(name)?.as_ref().err().cloned()
    }

    /// Whether any chain is damaged.
    pub fn has_damage(&self) -> bool {
        self.of_all.any_damage.load(Ordering::Acquire)
    }

    /// Whether newer quants of any chain were signed than are here.
    pub fn has_rollback(&self) -> bool {
        self.of_all.any_rollback.load(Ordering::Acquire)
    }

    /// At most `limit` chains in the order of their names, from behind `after`. Of one that could not be loaded, why.
    /// Only those with a name that is wanted.
    pub fn chains(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&ChainName) -> bool,
    ) -> Vec<(ChainName, Result<Arc<ChainHandle>, String>)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let chains = self.chains.read().expect("no holder of this lock panics");
        let chains = chains.range::<str, _>((start, Bound::Unbounded)).filter(|(name, _)| is_wanted(name));
        chains.take(limit).map(|(name, chain)| (name.clone(), chain.clone())).collect()
    }

    /// What was cosigned of a log.
    pub fn witnessed(&self, log: Hash) -> Option<Arc<Witnessed>> {
        self.witnessed.read().expect("no holder of this lock panics").get(&log).cloned()
    }

    /// What was cosigned of at most `limit` logs, in the order of the hashes of their names, from behind `after`.
    pub fn all_witnessed(&self, after: Option<Hash>, limit: usize) -> Vec<(Hash, Arc<Witnessed>)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let logs = self.witnessed.read().expect("no holder of this lock panics");
        logs.range((start, Bound::Unbounded)).take(limit).map(|(hash, log)| (*hash, log.clone())).collect()
    }

    /// How many chains there are.
    pub fn count(&self) -> usize {
        self.chains.read().expect("no holder of this lock panics").len()
    }

    /// Whether the node takes writes. Where there is room again, the next write opens the store anew.
    pub fn health(&self) -> Health {
        match self.own_health() {
            Health::Failed(detail) => Health::Failed(detail),
            _ if self.store.has_room() => Health::Ready,
            _ => Health::Full,
        }
    }

    /// What the writer has met with.
    pub(super) fn own_health(&self) -> Health {
        self.health.lock().expect("no holder of this lock panics").clone()
    }
}
