//! The newest state of all chains, durable or about to be: what is asked for is decided on it, and effects are applied to it.
//!
//! *Deciding* refuses, or makes an [`Effect`]. It looks at everything: guards, ids that were given before, limits, and whether what
//! is stored on this node holds. *Applying* an effect looks at nothing but the state of the chains and the effect, and does not
//! fail: the same effects in the same order make the same chains. How they are batched makes no difference.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{
    ChainHandle, Command, Damage, Guard, MirrorStep, Outcome, Own, Placed, Published, Refused, Request,
    import::Importing,
    load::{checked_transaction, edge_at, load_chain},
};
use crate::{
    core::{
        chain::{Chain, Head, LeapPolicy},
        count::{Height, Index, Size},
        hash::{self, Hash},
        merkle::{Edge, Tile},
        quant::Quant,
        rules::{ChainName, Refusal, Rules},
        terms::{NoChange, Terms},
        transaction::{Erased, Id, Kind, Transaction},
        verify,
        witness::Witnessed,
    },
    limits,
    store::{
        Batch, ChainNumber, ChainRecord, Decided, Effect, Followed, FollowedRun, ForkPoint, Group, Lineage, LogRecord,
        Parent, Removed, Store, StoreError, stored_name,
    },
};

/// The newest state of the chains of a group.
pub(super) struct Ledger {
    pub(super) group: Group,
    pub(super) store: Arc<Store>,
    pub(super) published: Arc<Published>,
    pub(super) chains: HashMap<ChainNumber, Entry>,
    /// The chains and imports by their ids.
    numbers: HashMap<Hash, ChainNumber>,
    /// Clients choose them, and they stay: so with the hash of the standard library.
    pub(super) names: std::collections::HashSet<ChainName>,
    /// By the ids that the chains will have.
    pub(super) imports: HashMap<Hash, Importing>,
    /// What was cosigned of others' logs, by the hashes of their names.
    witnessed: HashMap<Hash, Arc<Witnessed>>,
    pool_limit: u64,
}

/// A chain in its newest state.
pub(super) struct Entry {
    pub(super) chain: Chain,
    pub(super) leap: LeapPolicy,
    pub(super) erasures: u64,
    /// The URL of what it is a mirror of, if it is.
    pub(super) mirror: Option<String>,
    pub(super) handle: Arc<ChainHandle>,
}

/// What one batch changes, until it is committed.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    /// Ids of this batch, which the store does not know yet.
    ids: HashMap<(ChainNumber, Id), Named>,
    touched: HashSet<ChainNumber>,
    /// The newest heads of those that were touched.
    pub(super) heads: HashMap<ChainNumber, (Arc<ChainHandle>, Head)>,
    pub(super) made: Vec<Arc<ChainHandle>>,
    pub(super) policies: Vec<(Arc<ChainHandle>, LeapPolicy)>,
    pub(super) terms: Vec<(Arc<ChainHandle>, Terms)>,
    pub(super) mirrors: Vec<(Arc<ChainHandle>, String)>,
    pub(super) witnessed: HashMap<Hash, Arc<Witnessed>>,
    pub(super) erased: Option<Arc<ChainHandle>>,
    pub(super) replaced: Option<Arc<ChainHandle>>,
}

/// A transaction with an id, and what a repetition must equal.
struct Named {
    placed: Placed,
    data: Vec<u8>,
    signer: Option<[u8; 32]>,
}

impl Named {
    /// What a transaction with the same id comes to.
    fn compare(&self, transaction: &Transaction) -> Result<Placed, Refused> {
        let Named { placed, data, signer } = self;
        match Some(&data[..]) == transaction.data() && *signer == transaction.signer() {
            true => Ok(Placed { replayed: true, ..*placed }),
            false => {
                let id = transaction.id().map(|id| id.as_str().into()).unwrap_or_default();
                Err(Refused::IdTaken { id, index: placed.index })
            }
        }
    }
}

/// What applying an effect needs beside the newest state: made of the effect and of what is stored, the same on every node.
pub(super) enum Needed {
    Nothing,
    /// The rules in the bang, and what a fork shares with its parent.
    Bang {
        rules: Arc<Rules>,
        edge: Edge,
        bytes: u64,
    },
    /// What a chain's keys or its end become.
    Terms(Terms),
    /// The imported chain, as the next start will read it.
    Chain(Box<Entry>),
}

impl Ledger {
    /// Loads and verifies the chains of a group.
    ///
    /// # Errors
    /// The list of chains cannot be read.
    pub(super) fn open(
        store: Arc<Store>,
        published: Arc<Published>,
        group: Group,
        pool_limit: u64,
    ) -> Result<Ledger, StoreError> {
        let mut ledger = Ledger {
            group,
            store,
            published,
            chains: HashMap::new(),
            numbers: HashMap::new(),
            names: std::collections::HashSet::new(),
            imports: HashMap::new(),
            witnessed: HashMap::new(),
            pool_limit,
        };
        ledger.load()?;
        Ok(ledger)
    }

    /// Whether all of its chains hold.
    pub(super) fn is_whole(&self) -> bool {
        self.names.len() == self.chains.len()
    }

    /// Takes the chains as they stand in the store, at opening and after a failure. One that is damaged does not hold up the
    /// others.
    pub(super) fn load(&mut self) -> Result<(), StoreError> {
        self.chains.clear();
        self.numbers.clear();
        self.names.clear();
        let witnessed = self.store.witnessed()?.into_iter().map(|log| (hash::origin(&log.origin), Arc::new(log)));
        self.witnessed = witnessed.collect();
        self.published.add_witnessed(self.witnessed.clone());
        let mut records = self.store.chains()?;
        records.retain(|record| record.group == self.group);
        // A parent has a lower number than its forks.
        records.sort_by_key(|record| record.number);
        for record in records {
            self.load_or_lose(&record)?;
        }
        self.load_imports()
    }

    /// Takes a chain as it stands in the store, or says why it is lost.
    fn load_or_lose(&mut self, record: &ChainRecord) -> Result<(), StoreError> {
        let name = stored_name(record)?;
        self.numbers.insert(record.id, record.number);
        match self.load_chain(record) {
            Ok(entry) => {
                self.published.add(&entry.handle);
                self.chains.insert(record.number, entry);
            }
            Err(StoreError::Damaged(detail)) => {
                if self.published.lost(name.as_str()).as_ref() != Some(&detail) {
                    tracing::error!(chain = %name, "the chain is damaged: {detail}");
                }
                self.published.add_lost(name.clone(), detail);
            }
            Err(other) => return Err(other),
        }
        self.names.insert(name);
        Ok(())
    }

    /// Takes the chains that were lost, and hold again.
    ///
    /// # Errors
    /// The list of chains cannot be read.
    pub(super) fn load_lost(&mut self) -> Result<(), StoreError> {
        let mut records = self.store.chains()?;
        records.retain(|record| record.group == self.group && !self.chains.contains_key(&record.number));
        records.sort_by_key(|record| record.number);
        records.iter().try_for_each(|record| self.load_or_lose(record))
    }

    fn load_imports(&mut self) -> Result<(), StoreError> {
        self.imports.clear();
        for record in self.store.imports()?.into_iter().filter(|record| record.group == self.group) {
            self.numbers.insert(record.id, record.number);
            self.imports.insert(record.id, Importing::load(&self.store, &record)?);
        }
        Ok(())
    }

    /// Takes the chains as they are published, since what was decided on them is not agreed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn reset(&mut self) -> Result<(), StoreError> {
        self.chains.clear();
        self.numbers.clear();
        self.names.clear();
        for (name, handle) in self.published.chains(None, usize::MAX, |_| true) {
            if let Ok(handle) = handle
                && handle.group == self.group
            {
                self.numbers.insert(handle.id, handle.number());
                self.names.insert(name);
                self.chains.insert(handle.number(), Entry::published(handle));
            }
        }
        self.load_imports()
    }

    pub(super) fn load_chain(&self, record: &ChainRecord) -> Result<Entry, StoreError> {
        let parent = match record.parent {
            Some(parent) => {
                let parent = self.chains.get(&parent.number);
                let damaged = || StoreError::Damaged("the chain that it was forked from is damaged or missing".into());
                Some(parent.ok_or_else(damaged)?.handle.clone())
            }
            None => None,
        };
        let shared = record.parent.zip(parent.as_ref().map(|parent| parent.lineage.clone()));
        let lineage = Arc::new(Lineage::of(record, shared));
        let chain = load_chain(&self.store, &lineage, &record.decided)?;
        let name = stored_name(record)?;
        if *chain.rules().name() != name {
            return Err(StoreError::Damaged("its bang has another name".into()));
        }
        let ChainRecord { leap, erasures, .. } = *record;
        let mirror = record.mirror.clone();
        // After a full disk the handles that others hold are kept, and moved to what is on disk.
        let published = self.published.chain(name.as_str());
        if let Some(handle) = published.filter(|handle| handle.number() == record.number) {
            handle.set_terms(chain.terms.clone());
            handle.set_head(chain.head.clone());
            return Ok(Entry { chain, leap, erasures, mirror, handle });
        }
        let of_all = self.published.of_all.clone();
        let handle = Arc::new(ChainHandle::new(self.group, &chain, lineage, parent, leap, erasures, of_all));
        mirror.iter().for_each(|from| handle.set_mirror(from.clone()));
        handle.add_rollback(self.store.rollback(record.id)?, false);
        Ok(Entry { chain, leap, erasures, mirror, handle })
    }

    /// The number of a chain or an import, a new one where it has none yet.
    pub(super) fn number(&mut self, id: Hash) -> ChainNumber {
        *self.numbers.entry(id).or_insert_with(|| self.store.new_chain_number())
    }

    /// Forgets the number of an import that is gone.
    pub(super) fn forget_number(&mut self, id: Hash) {
        self.numbers.remove(&id);
    }

    /// Ends a batch: what comes after is of the next one.
    pub(super) fn finish(&self, pending: &mut Pending) {
        for log in pending.witnessed.values() {
            pending.batch.witnessed(log);
        }
        let heads = pending.touched.drain().map(|number| {
            let entry = &self.chains[&number];
            (number, (entry.handle.clone(), entry.chain.head.clone()))
        });
        pending.heads = heads.collect();
    }

    pub(super) fn entry(&mut self, chain: ChainNumber) -> &mut Entry {
        self.chains.get_mut(&chain).expect("requests name chains by the number in their handle")
    }

    fn chain_with(&mut self, id: Hash) -> (ChainNumber, &mut Entry) {
        let number = self.numbers[&id];
        (number, self.chains.get_mut(&number).expect("an effect is of a chain that is there"))
    }
}

/// Deciding.
impl Ledger {
    /// Decides on a request, and applies what it comes to.
    pub(super) fn decide(&mut self, request: Request, pending: &mut Pending) -> Result<Outcome, Refused> {
        let command = match request {
            Request::Change(command) => command,
            Request::Own(own) => return self.own(own, pending),
        };
        if let Some(chain) = command.chain() {
            let damage = match self.chains.get(&chain) {
                Some(entry) => entry.handle.damage(),
                None => Some("it is not there any more".into()),
            };
            if let Some(damage) = damage {
                return Err(Refused::Damaged(damage));
            }
            if command.changes_history() {
                self.entry(chain).handle.check_sound()?;
            }
            let Entry { mirror, handle, .. } = self.entry(chain);
            if let Some(from) = mirror.clone().filter(|_| command.is_write()) {
                return Err(Refused::Mirror { chain: handle.name.clone(), from });
            }
            self.check_open(chain, &command)?;
        }
        match command {
            Command::Bang { rules, parent, transaction, quant, leap, guard } => {
                self.check(guard)?;
                let (effect, needed) = self.decide_bang(rules, parent, *transaction, *quant, leap)?;
                let made = self.apply(effect, needed, pending);
                Ok(Outcome::Banged(made.expect("a bang makes a chain")))
            }
            Command::Inject { chain, guard, transactions, each_for_itself } => {
                let (accepted, outcome) = self.decide_inject(chain, guard, transactions, each_for_itself, pending)?;
                if !accepted.is_empty() {
                    let chain = self.entry(chain).chain.id;
                    self.apply(Effect::Inject { chain, transactions: accepted }, Needed::Nothing, pending);
                }
                Ok(Outcome::Injected(outcome))
            }
            Command::Seal { chain, guard, quant } => {
                self.check(guard)?;
                let of = &self.entry(chain).chain;
                of.check_seal(&quant).map_err(|error| Refused::Stale(error.to_string()))?;
                let effect = Effect::Seal { chain: of.id, quant: *quant };
                self.apply(effect, Needed::Nothing, pending);
                Ok(Outcome::Sealed(self.entry(chain).chain.head.tag()))
            }
            Command::Erase { chain, index, guard, transaction } => {
                self.check(guard)?;
                let effect = match self.decide_erase(chain, index, *transaction)? {
                    Ok(effect) => effect,
                    Err(earlier) => return Ok(Outcome::Recorded(earlier)),
                };
                let Effect::Erase { record, .. } = &effect else { unreachable!("an erasure was decided") };
                let placed = Placed::new(self.entry(chain).chain.head.size().next_index(), record);
                self.apply(effect, Needed::Nothing, pending);
                Ok(Outcome::Recorded(placed))
            }
            Command::Key { chain, guard, transaction } => {
                self.check(guard)?;
                self.decide_terms(chain, *transaction, |chain, record| Effect::Key { chain, record }, pending)
            }
            Command::Freeze { chain, guard, transaction } => {
                self.check(guard)?;
                self.decide_terms(chain, *transaction, |chain, record| Effect::Freeze { chain, record }, pending)
            }
            Command::SetLeap { chain, leap, guard } => {
                self.check(guard)?;
                let chain = self.entry(chain).chain.id;
                self.apply(Effect::SetLeap { chain, leap }, Needed::Nothing, pending);
                Ok(Outcome::Done)
            }
            Command::SetMirror { chain, from, newest } => {
                let Entry { chain, mirror, .. } = self.entry(chain);
                let is_same = chain.head.newest.hash() == newest && chain.head.pooled() == 0;
                if mirror.is_none() && !is_same {
                    return Err(Refused::Stale("the chain has changed since it was compared".into()));
                }
                let chain = chain.id;
                self.apply(Effect::SetMirror { chain, from }, Needed::Nothing, pending);
                Ok(Outcome::Done)
            }
            Command::Mirror { chain, at, steps } => self.decide_mirror(chain, at, steps, pending),
            Command::Import(id, step) => self.decide_import(id, step, pending),
        }
    }

    /// What is in the command was verified by the one who sends it. It comes where the last one ended, or not at all.
    fn decide_mirror(
        &mut self,
        number: ChainNumber,
        at: (Size, Height),
        steps: Vec<MirrorStep>,
        pending: &mut Pending,
    ) -> Result<Outcome, Refused> {
        let Entry { chain: Chain { id, head, .. }, mirror, handle, .. } = &self.chains[&number];
        let chain = *id;
        if mirror.is_none() || (head.size(), head.newest.index().next()) != at {
            return Err(Refused::Stale("the mirror went on elsewhere".into()));
        }
        let erased = match steps.first() {
            Some(MirrorStep::Erase { index, .. }) => {
                Some(checked_transaction(&self.store, &handle.lineage, *index)?.commitment())
            }
            _ => None,
        };
        for step in steps {
            let effect = match step {
                MirrorStep::Append(transactions) => Effect::Inject { chain, transactions },
                MirrorStep::Decide(record) => {
                    let effect = match record.kind() {
                        Some(Kind::Freeze) => Effect::Freeze { chain, record: *record },
                        _ => Effect::Key { chain, record: *record },
                    };
                    let needed = self.needed(&effect)?;
                    self.apply(effect, needed, pending);
                    continue;
                }
                MirrorStep::Seal(quant) => Effect::Seal { chain, quant: *quant },
                MirrorStep::Erase { index, record } => {
                    let commitment = erased.expect("an erasure comes first and alone");
                    Effect::Erase { chain, index, commitment, record: *record }
                }
            };
            self.apply(effect, Needed::Nothing, pending);
        }
        Ok(Outcome::Done)
    }

    /// Whether a chain takes this still: once it is frozen, only the quant that seals that.
    fn check_open(&self, number: ChainNumber, command: &Command) -> Result<(), Refused> {
        let Entry { chain, handle, .. } = &self.chains[&number];
        let Some(by) = chain.terms.frozen() else { return Ok(()) };
        let is_over = match command {
            Command::Seal { .. } | Command::Mirror { .. } => chain.terms.has_ended(chain.head.newest.size()),
            // It is answered with the first.
            Command::Freeze { .. } => false,
            // What repeats an earlier one, too.
            Command::Inject { .. } => false,
            command => command.is_write(),
        };
        if is_over { Err(Refused::Frozen { chain: handle.name.clone(), by }) } else { Ok(()) }
    }

    /// What a transaction that changes a chain's keys, or ends it, comes to. The same again is answered with the first.
    fn decide_terms(
        &mut self,
        number: ChainNumber,
        mut record: Transaction,
        effect: impl Fn(Hash, Transaction) -> Effect,
        pending: &mut Pending,
    ) -> Result<Outcome, Refused> {
        let Entry { chain, handle, .. } = &self.chains[&number];
        record.delay_to(chain.head.accepted);
        let index = chain.head.size().next_index();
        let terms = match chain.terms.after(chain.id, index, &record) {
            Ok(terms) => terms.expect("these kinds change the terms"),
            Err(error) => {
                let earlier = match error {
                    NoChange::Frozen(by) => by,
                    _ => chain.terms.since(),
                };
                // What is of this batch cannot be read yet, and its sender is about to get the answer.
                let is_there =
                    matches!(error, NoChange::Frozen(_) | NoChange::Stale { .. }) && handle.head().size().has(earlier);
                if is_there {
                    let earlier_record = checked_transaction(&self.store, &handle.lineage, earlier)?;
                    let is_same = earlier_record.data() == record.data() && earlier_record.signer() == record.signer();
                    if matches!(error, NoChange::Frozen(_)) || is_same {
                        return Ok(Outcome::Recorded(Placed::replay(earlier, &earlier_record)));
                    }
                }
                return Err(self.refused(number, error));
            }
        };
        if terms.keys().len() > limits::KEY_CHANGES {
            return Err(Refused::TooManyKeys);
        }
        let (chain, placed) = (chain.id, Placed::new(index, &record));
        self.apply(effect(chain, record), Needed::Terms(terms), pending);
        Ok(Outcome::Recorded(placed))
    }

    fn refused(&self, number: ChainNumber, error: NoChange) -> Refused {
        let Entry { chain, handle, .. } = &self.chains[&number];
        match error {
            NoChange::Frozen(by) => Refused::Frozen { chain: handle.name.clone(), by },
            NoChange::Stale { replaces, since } => Refused::KeysMoved { replaces, since },
            NoChange::NoWriters => Refused::NoWriters,
            NoChange::Refusal(Refusal::NotAWriter) => Refused::NotAWriter(chain.terms.since()),
            NoChange::Refusal(_) | NoChange::Malformed(_) => Refused::Malformed(error.to_string()),
        }
    }

    /// Whether the one who signed may write now: since it was checked, the writers may have become others.
    fn check_new(&self, number: ChainNumber, transaction: &Transaction) -> Result<(), Refused> {
        let Entry { chain: Chain { terms, .. }, handle, .. } = &self.chains[&number];
        if let Some(by) = terms.frozen() {
            return Err(Refused::Frozen { chain: handle.name.clone(), by });
        }
        match terms.keys().is_empty() || terms.rules().check_writer(transaction.signed()).is_ok() {
            true => Ok(()),
            false => Err(Refused::NotAWriter(terms.since())),
        }
    }

    /// Whether a guarded write may be made now.
    fn check(&self, guard: Option<Guard>) -> Result<(), Refused> {
        let Some(Guard { chain, expected }) = guard else { return Ok(()) };
        let entry = self.chains.get(&chain).ok_or_else(|| Refused::Damaged("it is not there any more".into()))?;
        entry.handle.check_expected(&expected, &entry.chain.head)
    }

    fn decide_bang(
        &self,
        rules: Arc<Rules>,
        parent: Option<(ChainNumber, Height)>,
        bang: Transaction,
        quant: Quant,
        leap: LeapPolicy,
    ) -> Result<(Effect, Needed), Refused> {
        if self.names.contains(rules.name()) || self.published.knows(rules.name()) || self.is_elsewhere(rules.name()) {
            return Err(Refused::NameTaken(rules.name().clone()));
        }
        if self.published.count() >= limits::CHAINS {
            return Err(Refused::TooManyChains);
        }
        let (parent, shared) = match parent {
            None => (None, None),
            Some((number, index)) => {
                let handle = &self.chains[&number].handle;
                if handle.lineage.depth() >= limits::FORK_DEPTH {
                    return Err(Refused::ForkedTooOften);
                }
                let quant = self.store.quant(&handle.lineage, index)?;
                let point = ForkPoint { chain: handle.id, quant: index, size: quant.size() };
                (Some(point), Some((quant, self.shared(point)?)))
            }
        };
        let of = shared.as_ref().map(|(quant, (edge, _))| (quant, edge.clone()));
        Chain::check_bang(&rules, &bang, of, &quant).map_err(|error| Refused::Stale(error.to_string()))?;
        let (edge, bytes) = shared.map_or((Edge::new(), 0), |(_, shared)| shared);
        let needed = Needed::Bang { rules, edge, bytes };
        Ok((Effect::Bang { parent, leap, bang, quant }, needed))
    }

    /// What a fork shares with its parent: the tree's edge, and the bytes of the transactions.
    fn shared(&self, point: ForkPoint) -> Result<(Edge, u64), StoreError> {
        let handle = &self.chains[&self.numbers[&point.chain]].handle;
        Ok((edge_at(&self.store, handle, point.size)?, self.store.bytes_at(&handle.lineage, point.size)?))
    }

    /// The transactions that are accepted, and what becomes of each that was sent.
    #[expect(clippy::type_complexity, reason = "it is used once")]
    fn decide_inject(
        &mut self,
        number: ChainNumber,
        guard: Option<Guard>,
        transactions: Vec<Transaction>,
        each_for_itself: bool,
        pending: &Pending,
    ) -> Result<(Vec<Transaction>, Vec<Result<Placed, Refused>>), Refused> {
        let found = self.find_replays(number, &transactions, pending);
        if !each_for_itself && let Some(refused) = found.iter().find_map(|found| found.as_ref().err()) {
            return Err(refused.clone());
        }
        let new = found.iter().filter(|found| matches!(found, Ok(Found::New))).count() as u64;
        // A request that is a retry through and through was accepted when its guard held.
        if new > 0 {
            self.check(guard)?;
        }
        let head = &self.chains[&number].chain.head;
        let room = self.pool_limit.saturating_sub(head.pooled());
        if !each_for_itself && new > self.pool_limit {
            return Err(Refused::LargerThanPool { count: new, limit: self.pool_limit });
        }
        if !each_for_itself && new > room {
            return Err(Refused::PoolFull(self.pool_limit));
        }
        let (mut time, mut size) = (head.accepted, head.size());
        let end = Size::new(size.get().saturating_add(room));
        let mut accepted: Vec<Transaction> = Vec::with_capacity(transactions.len());
        let mut outcome: Vec<Result<Placed, Refused>> = Vec::with_capacity(found.len());
        for (mut transaction, found) in transactions.into_iter().zip(found) {
            outcome.push(match found {
                Err(refused) => Err(refused),
                Ok(Found::Replay(placed)) => Ok(placed),
                // The first one may have been refused.
                Ok(Found::Again(first)) => outcome[first].clone().map(|placed| Placed { replayed: true, ..placed }),
                Ok(Found::New) if size >= end => Err(Refused::PoolFull(self.pool_limit)),
                Ok(Found::New) => {
                    // The clock may have been set back, and of two requests at one time the later one may come here first.
                    transaction.delay_to(time);
                    let placed = Placed::new(size.next_index(), &transaction);
                    (time, size) = (transaction.timestamp(), placed.index.size());
                    accepted.push(transaction);
                    Ok(placed)
                }
            });
        }
        Ok((accepted, outcome))
    }

    /// Whether each transaction is new, or that its id is taken.
    fn find_replays(
        &self,
        number: ChainNumber,
        transactions: &[Transaction],
        pending: &Pending,
    ) -> Vec<Result<Found, Refused>> {
        let mut own = HashMap::new();
        let find = |(at, transaction)| {
            let found = self.find(number, (at, transaction), &mut own, pending)?;
            if matches!(found, Found::New) {
                self.check_new(number, transaction)?;
            }
            Ok(found)
        };
        transactions.iter().enumerate().map(find).collect()
    }

    /// `own` has the new ones of the same command: where it is an array, all or nothing, a conflict between two of them must be
    /// found before any is accepted.
    fn find<'a>(
        &self,
        number: ChainNumber,
        (at, transaction): (usize, &'a Transaction),
        own: &mut HashMap<&'a Id, (usize, &'a Transaction)>,
        pending: &Pending,
    ) -> Result<Found, Refused> {
        let Some(id) = transaction.id() else { return Ok(Found::New) };
        if !pending.ids.is_empty()
            && let Some(named) = pending.ids.get(&(number, id.clone()))
        {
            return named.compare(transaction).map(Found::Replay);
        }
        if let Some(replay) = find_replay(&self.store, &self.chains[&number].handle.lineage, transaction, id)? {
            return Ok(Found::Replay(replay));
        }
        let Some((first_at, first)) = own.get(id) else {
            own.insert(id, (at, transaction));
            return Ok(Found::New);
        };
        match first.data() == transaction.data() && first.signer() == transaction.signer() {
            true => Ok(Found::Again(*first_at)),
            false => Err(Refused::IdTwice(id.as_str().into())),
        }
    }

    /// The erasure, or the one that was there before.
    fn decide_erase(
        &mut self,
        number: ChainNumber,
        index: Index,
        mut record: Transaction,
    ) -> Result<Result<Effect, Placed>, Refused> {
        let Entry { chain, handle, .. } = &self.chains[&number];
        let erased = checked_transaction(&self.store, &handle.lineage, index)?;
        if let Some(Erased { by, .. }) = erased.erased() {
            let is_there = chain.head.size().has(by);
            let record = is_there.then(|| checked_transaction(&self.store, &handle.lineage, by)).transpose()?;
            return match record.filter(|record| verify::erasure_of(record) == Some(index)) {
                Some(record) => Ok(Err(Placed::replay(by, &record))),
                None => Err(Refused::ErasedElsewhere(index)),
            };
        }
        if erased.kind().is_some() {
            return Err(Refused::NotErasable(index));
        }
        self.check_new(number, &record)?;
        record.delay_to(chain.head.accepted);
        Ok(Ok(Effect::Erase { chain: chain.id, index, commitment: erased.commitment(), record }))
    }

    fn own(&mut self, own: Own, pending: &mut Pending) -> Result<Outcome, Refused> {
        match own {
            Own::SetRollback(chain, rollback) => pending.batch.rollback(chain, &rollback),
            Own::SetNodes(hosts) => pending.batch.nodes(&hosts),
            Own::SetMirror(mirror) => pending.batch.mirror(&mirror),
            Own::EndMirror(id) => pending.batch.end_mirror(id),
            Own::Cosign { previous, newest } => {
                let log = hash::origin(&newest.origin);
                let before = self.witnessed.get(&log);
                if before.map(|before| (before.size, before.root)) != previous {
                    return Err(Refused::Overtaken);
                }
                let evidence = before.map(|before| before.evidence.clone()).unwrap_or_default();
                self.witness(log, Witnessed { evidence, ..newest }, pending);
            }
            Own::Accuse { origin, evidence } => {
                let log = hash::origin(&origin);
                let mut accused = Witnessed::clone(self.witnessed.get(&log).ok_or(Refused::Overtaken)?);
                let is_new = accused.keep(evidence);
                if is_new {
                    self.witness(log, accused, pending);
                }
                return Ok(Outcome::Accused(is_new));
            }
        }
        Ok(Outcome::Done)
    }

    fn witness(&mut self, log: Hash, witnessed: Witnessed, pending: &mut Pending) {
        let witnessed = Arc::new(witnessed);
        pending.witnessed.insert(log, witnessed.clone());
        self.witnessed.insert(log, witnessed);
    }
}

/// What is known of a transaction before it is accepted.
enum Found {
    /// It takes a place.
    New,
    /// It repeats an earlier one of the same command, which stands there.
    Again(usize),
    /// It repeats this one.
    Replay(Placed),
}

/// Applying.
impl Ledger {
    /// What applying an effect needs that another node has decided. All before it must be in the store.
    ///
    /// # Errors
    /// What is stored is damaged.
    pub(super) fn needed(&self, effect: &Effect) -> Result<Needed, StoreError> {
        match effect {
            Effect::Bang { parent, bang, .. } => {
                let shared = parent.map(|point| self.shared(point)).transpose()?;
                let (edge, bytes) = shared.unwrap_or((Edge::new(), 0));
                let rules = bang.data().and_then(|data| crate::core::json::parse(data).ok());
                let rules = rules.and_then(|rules| Rules::from_value(&rules).ok());
                let rules = rules.ok_or_else(|| StoreError::Damaged("a bang has no rules".into()))?;
                Ok(Needed::Bang { rules: rules.into(), edge, bytes })
            }
            Effect::Key { chain, record } | Effect::Freeze { chain, record } => {
                let Chain { id, terms, head } = &self.chains[&self.numbers[chain]].chain;
                let after = terms.after(*id, head.size().next_index(), record);
                let damaged = |error: NoChange| StoreError::Damaged(format!("transaction {}: {error}", head.size()));
                let after = after
                    .map_err(damaged)?
                    .ok_or_else(|| damaged(NoChange::Malformed("it is of no such kind".into())))?;
                Ok(Needed::Terms(after))
            }
            Effect::Adopt { chain, bang, leap, erasures, decided } => {
                let lineage = Lineage::new(self.numbers[chain], None);
                let rules = super::load::stored_rules(&self.store, &lineage, bang.transaction)?;
                let entry = self.load_adopted(*chain, rules.name(), *bang, *leap, *erasures, decided.clone())?;
                Ok(Needed::Chain(Box::new(entry)))
            }
            _ => Ok(Needed::Nothing),
        }
    }

    /// Applies an effect that was decided on this state, or on the equal one of another node. Gives the chain that it makes.
    pub(super) fn apply(&mut self, effect: Effect, needed: Needed, pending: &mut Pending) -> Option<Arc<ChainHandle>> {
        match effect {
            Effect::Bang { parent, leap, bang, quant } => {
                let Needed::Bang { rules, edge, bytes } = needed else { unreachable!("a bang has rules") };
                return Some(self.bang(rules, parent, leap, (&bang, quant), (edge, bytes), pending));
            }
            Effect::Inject { chain, transactions } => {
                let (number, entry) = self.chain_with(chain);
                transactions.into_iter().for_each(|transaction| entry.accept(number, transaction, pending));
                pending.touched.insert(number);
            }
            Effect::Seal { chain, quant } => {
                let (number, entry) = self.chain_with(chain);
                let head = &entry.chain.head;
                pending.batch.seal((number, chain), &quant, head.newest.size(), head.size());
                entry.chain.seal(quant);
                pending.touched.insert(number);
            }
            Effect::Erase { chain, index, commitment, record } => {
                let (number, entry) = self.chain_with(chain);
                entry.erasures += 1;
                let (by, bytes) = (entry.chain.head.size().next_index(), entry.chain.head.bytes);
                let bytes = pending.batch.erase(&entry.record(), index, commitment, (&record, by, bytes));
                entry.chain.inject(&record, bytes, &mut |tile: Tile| pending.batch.tile(number, &tile));
                pending.erased = Some(entry.handle.clone());
                pending.touched.insert(number);
            }
            Effect::Key { chain, record } => {
                let Needed::Terms(terms) = needed else { unreachable!("a change of keys has terms") };
                let (number, entry, place) = self.set_terms(chain, terms, pending);
                let bytes = pending.batch.key(&entry.record(), (&record, place.0, place.1));
                entry.chain.inject(&record, bytes, &mut |tile: Tile| pending.batch.tile(number, &tile));
            }
            Effect::Freeze { chain, record } => {
                let Needed::Terms(terms) = needed else { unreachable!("a frozen chain has terms") };
                let (number, entry, place) = self.set_terms(chain, terms, pending);
                let bytes = pending.batch.freeze(&entry.record(), (&record, place.0, place.1));
                entry.chain.inject(&record, bytes, &mut |tile: Tile| pending.batch.tile(number, &tile));
            }
            Effect::SetLeap { chain, leap } => {
                let (number, entry) = self.chain_with(chain);
                entry.leap = leap;
                pending.batch.set_leap(&entry.record());
                pending.policies.push((entry.handle.clone(), leap));
                pending.touched.insert(number);
            }
            Effect::SetMirror { chain, from } => {
                let (number, entry) = self.chain_with(chain);
                entry.mirror = Some(from.clone());
                pending.batch.set_mirror(&entry.record(), &from);
                pending.mirrors.push((entry.handle.clone(), from));
                pending.touched.insert(number);
            }
            Effect::Import { chain, name, at, runs, quants } => {
                self.import_part(chain, name, at, (runs, quants), pending);
            }
            Effect::Adopt { chain, .. } => {
                let Needed::Chain(entry) = needed else { unreachable!("what was imported was loaded") };
                return Some(self.adopt(chain, *entry, pending));
            }
            Effect::AbandonImport { chain } => self.abandon_import(chain, pending),
            Effect::EndImport { chain } => self.end_import(chain, pending),
        }
        None
    }

    /// A chain has other terms. The transaction that records it comes at this place, behind so many bytes.
    fn set_terms(
        &mut self,
        chain: Hash,
        terms: Terms,
        pending: &mut Pending,
    ) -> (ChainNumber, &mut Entry, (Index, u64)) {
        let (number, entry) = self.chain_with(chain);
        entry.chain.terms = terms.clone();
        pending.terms.push((entry.handle.clone(), terms));
        pending.touched.insert(number);
        let place = (entry.chain.head.size().next_index(), entry.chain.head.bytes);
        (number, entry, place)
    }

    fn bang(
        &mut self,
        rules: Arc<Rules>,
        parent: Option<ForkPoint>,
        leap: LeapPolicy,
        (bang, quant): (&Transaction, Quant),
        (edge, shared_bytes): (Edge, u64),
        pending: &mut Pending,
    ) -> Arc<ChainHandle> {
        let number = self.number(quant.hash());
        let of = parent.map(|point| {
            let of = &self.chains[&self.numbers[&point.chain]];
            (Parent { number: of.handle.number(), quant: point.quant, size: point.size }, of.handle.clone())
        });
        let (place, parent_handle) = of.unzip();
        let shared = place.zip(parent_handle.as_ref().map(|parent| parent.lineage.clone()));
        let lineage = Arc::new(Lineage::new(number, shared));
        let record = ChainRecord::of_bang(rules.name().to_string(), number, quant.hash(), self.group, place, leap);
        let bytes = shared_bytes + pending.batch.bang(&record, parent, shared_bytes, bang, &quant);
        let chain = Chain::bang(rules, bang, edge, quant, bytes, &mut |tile: Tile| pending.batch.tile(number, &tile));
        let of_all = self.published.of_all.clone();
        let handle = Arc::new(ChainHandle::new(self.group, &chain, lineage, parent_handle, leap, 0, of_all));
        self.add(Entry { chain, leap, erasures: 0, mirror: None, handle }, pending)
    }

    /// Adds a chain that was made.
    pub(super) fn add(&mut self, entry: Entry, pending: &mut Pending) -> Arc<ChainHandle> {
        let handle = entry.handle.clone();
        pending.made.push(handle.clone());
        self.names.insert(handle.name.clone());
        self.chains.insert(handle.number(), entry);
        handle
    }
}

/// Comparing.
impl Ledger {
    /// Size, root, newest quant and erasures of all chains of the group, in the order of their ids: equal on all nodes at the same
    /// entry. As JSON.
    pub(super) fn digest(&self) -> Vec<u8> {
        let mut chains: Vec<&Entry> = self.chains.values().collect();
        chains.sort_by_key(|entry| entry.chain.id);
        let mut all = String::new();
        for Entry { chain, erasures, .. } in chains {
            let Head { newest, edge, .. } = &chain.head;
            all.push_str(&format!("{} {} {} {} {erasures}\n", chain.id, edge.size(), edge.root(), newest.hash()));
        }
        serde_json::to_vec(&serde_json::json!({"digest": hash::origin(&all)})).expect("a hash is JSON")
    }

    /// Compares the chains with the digest of the node that leads. Where they differ, one of the two is wrong, and nobody can tell
    /// which: the chains of this one are served no more.
    ///
    /// # Errors
    /// They differ.
    pub(super) fn compare(&self, digest: &[u8]) -> Result<(), StoreError> {
        if self.digest() == digest {
            return Ok(());
        }
        let detail =
            "it differs from the replica of the node that leads: take this node out of the cluster, and join a new one";
        for entry in self.chains.values() {
            entry.handle.set_damage(Damage::Differs(detail.into()));
        }
        Err(StoreError::Damaged(detail.into()))
    }

    /// Whether the cluster keeps a chain of this name elsewhere.
    pub(super) fn is_elsewhere(&self, name: &ChainName) -> bool {
        self.store.place_of(name.as_str()).is_some_and(|group| group != self.group)
    }
}

/// Following: applying what another node has decided.
impl Ledger {
    /// Applies the effects of an entry, which stands in the log.
    ///
    /// # Errors
    /// What is stored is damaged.
    pub(super) fn follow(&mut self, records: &[LogRecord], pending: &mut Pending) -> Result<(), StoreError> {
        for record in records {
            match Followed::read(record)? {
                Followed::Run(run) => self.follow_run(&run, pending)?,
                Followed::Effect(effect) => {
                    if let Effect::EndImport { chain } = *effect {
                        self.remove_import(chain)?;
                    }
                    let needed = self.needed(&effect)?;
                    self.apply(*effect, needed, pending);
                    // It is in the log already.
                    pending.batch.take_records();
                }
            }
        }
        Ok(())
    }

    /// Transactions that were injected, or are a part of an import.
    fn follow_run(&mut self, run: &FollowedRun<'_>, pending: &mut Pending) -> Result<(), StoreError> {
        let number = self.numbers.get(&run.chain).copied();
        let unknown = || StoreError::Damaged(format!("the log speaks of the chain {} before it was made", run.chain));
        let number = number.ok_or_else(unknown)?;
        match self.chains.get_mut(&number) {
            Some(entry) => {
                let Entry { chain, .. } = entry;
                let (size, bytes) = (chain.head.size(), chain.head.bytes);
                if size.next_index() != run.first || bytes != run.bytes_before {
                    let detail =
                        format!("transaction {} of the chain {} does not follow its {size}", run.first, run.chain);
                    return Err(StoreError::Damaged(detail));
                }
                for transaction in run.transactions() {
                    let transaction = transaction?;
                    let tiles = &mut |tile: Tile| pending.batch.tile(number, &tile);
                    let index = chain.append(transaction.hash, transaction.timestamp, transaction.bytes, tiles);
                    pending.batch.logged_transaction(number, index, &transaction);
                }
                pending.touched.insert(number);
            }
            None => self.imports.get_mut(&run.chain).ok_or_else(unknown)?.follow(run, pending)?,
        }
        pending.batch.logged_run(number, run);
        Ok(())
    }

    /// Removes what is stored of an import that was given up.
    fn remove_import(&mut self, id: Hash) -> Result<(), StoreError> {
        let Some(number) = self.numbers.get(&id).copied() else { return Ok(()) };
        let mut removed = Removed::default();
        loop {
            let mut batch = Batch::default();
            let is_done = self.store.remove_parts(number, limits::REMOVE_ENTRIES, &mut removed, &mut batch)?;
            let doomed = self.store.commit(self.group, batch)?;
            self.store.erase(doomed)?;
            if is_done {
                return Ok(());
            }
        }
    }
}

impl Entry {
    /// As it is published.
    fn published(handle: Arc<ChainHandle>) -> Entry {
        let chain = Chain { id: handle.id, terms: handle.terms(), head: handle.head() };
        let (leap, erasures) = (handle.leap_policy(), handle.own_erasures());
        let mirror = handle.mirror().map(|mirror| mirror.from);
        Entry { chain, leap, erasures, mirror, handle }
    }

    fn accept(&mut self, number: ChainNumber, transaction: Transaction, pending: &mut Pending) {
        let (index, bytes_before) = (self.chain.head.size().next_index(), self.chain.head.bytes);
        let of = (number, self.chain.id);
        let bytes = pending.batch.transaction(of, index, bytes_before, &transaction);
        self.chain.inject(&transaction, bytes, &mut |tile: Tile| pending.batch.tile(number, &tile));
        if let Some(id) = transaction.id() {
            let (placed, signer) = (Placed::new(index, &transaction), transaction.signer());
            let data = transaction.data().unwrap_or_default().to_vec();
            let named = Named { placed, data, signer };
            pending.ids.insert((number, id.clone()), named);
        }
    }

    /// What is stored of it beside its transactions and quants.
    pub(super) fn record(&self) -> ChainRecord {
        let Entry { chain, leap, erasures, mirror, handle } = self;
        ChainRecord {
            name: handle.name.to_string(),
            number: handle.number(),
            id: chain.id,
            group: handle.group,
            parent: handle.lineage.parent(),
            bang: handle.lineage.bang(),
            leap: *leap,
            erasures: *erasures,
            mirror: mirror.clone(),
            decided: Decided { keys: chain.terms.keys().to_vec(), frozen: chain.terms.frozen() },
        }
    }
}

/// The durable transaction that a transaction with this id repeats, or that the id is taken.
///
/// Of an erased one there is no data to compare. A signature speaks for chain, data and id, and Ed25519 gives the same one for
/// the same, so it still tells the same from other data.
fn find_replay(
    store: &Store,
    lineage: &Lineage,
    transaction: &Transaction,
    id: &Id,
) -> Result<Option<Placed>, Refused> {
    let Some(index) = store.transaction_with_id(lineage, id)? else { return Ok(None) };
    let earlier = checked_transaction(store, lineage, index)?;
    let same = match earlier.data() {
        Some(data) => Some(data) == transaction.data() && earlier.signer() == transaction.signer(),
        None if earlier.signed().is_none() && transaction.signed().is_none() => {
            return Err(Refused::IdErased { id: id.as_str().into(), index });
        }
        None => earlier.signed() == transaction.signed(),
    };
    match same {
        true => Ok(Some(Placed::replay(index, &earlier))),
        false => Err(Refused::IdTaken { id: id.as_str().into(), index }),
    }
}
