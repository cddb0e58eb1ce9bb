//! The one writer: every change of every chain goes through it, in one order.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`Request`] | what is asked for, with all that is not deterministic (time, salt, proof of work) |
//! | the ledger | *decides* on the newest state of the chains: refuses, or makes an [`Effect`](crate::store::Effect), which cannot fail any more; and *applies* that |
//! | [`Store`] | makes what was applied durable, one batch with one sync for all that waited |
//! | [`Published`] | the durable heads, which all others read; they never wait for the writer |
//!
//! Only then it answers.
//!
//! After a failed write it refuses all further ones, since nobody knows what is on disk; a full disk it recovers from, by
//! opening the store anew as after a crash.

mod command;
mod handle;
mod import;
mod ledger;
mod load;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, atomic::Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    core::chain::LeapPolicy,
    limits,
    metrics::observe_since,
    store::{Group, LogRecord, Place, Said, Store, StoreError},
};
use ledger::{Ledger, Pending};

pub use command::{Command, Envelope, Guard, MirrorStep, Outcome, Own, Placed, Refused, Request, Reserved};
pub use handle::{ChainHandle, Damage, Health, Mirrored, Published, Totals};
pub use import::{Part, Progress, Step, in_force_at};
pub use load::{checked_transaction, edge_at, key_change};

/// What brings effects to the other nodes of a group. Where there is none, this node is alone, and what it writes is agreed.
pub trait Sequencer: Send + Sync {
    /// Whether this node leads the group, as far as it knows.
    fn leads(&self) -> bool;

    /// Waits until this node leads the group, and everything that was agreed before is applied here. Says whether what was proposed
    /// before and is not applied will never be: so it is after a proposal that failed, and where another node has led meanwhile.
    ///
    /// # Errors
    /// Another node leads, or nobody does.
    fn lead(&self) -> Result<bool, Refused>;

    /// Returns when a majority has the entry on disk, and it is [applied](Core::apply) here. Nothing is proposed where this node does
    /// not lead any more since [`Sequencer::lead`] has said so.
    ///
    /// # Errors
    /// It is not known whether it is, or will be.
    fn propose(&self, proposed: Proposed) -> Result<(), Refused>;
}

/// What a group is to agree to.
pub enum Proposed {
    /// What became of requests.
    Effects(Arc<Vec<LogRecord>>),
    /// How all chains of the group stand, which each node compares with its own.
    Digest(Arc<Vec<u8>>),
}

/// The chains of one group, and the only one that changes them: on the node that leads it, what is asked for is decided here; on all
/// nodes, what is agreed is applied here.
pub struct Core {
    group: Group,
    store: Arc<Store>,
    published: Arc<Published>,
    state: Mutex<State>,
    resumed: Condvar,
    /// Changed while `state` is held only. Where there is none, what is asked for is decided only if this node is alone in the group: one
    /// that runs here is yet to be started, or never is.
    sequencer: RwLock<Option<Arc<dyn Sequencer>>>,
}

struct State {
    ledger: Ledger,
    /// What was decided, one on the other, and is not agreed yet. It may be agreed after its proposal seemed to fail.
    proposed: VecDeque<(Arc<Vec<LogRecord>>, Pending)>,
    /// Whether the sequencer is being changed.
    is_paused: bool,
}

/// Decides what is asked for of one group, one batch after the other.
pub struct Writer {
    requests: mpsc::Receiver<Envelope>,
    /// One that was taken, and must be alone.
    next: Option<Envelope>,
    core: Arc<Core>,
    /// When a write found the disk full.
    full_at: Instant,
    /// When the replicas were compared last.
    compared: Instant,
    /// How many requests were under way when the last proposal was agreed: those that it answered, and those that waited by then.
    under_way: usize,
    /// How long that took.
    round: Duration,
}

/// Requests that were decided together, with the ways back for their outcomes.
#[derive(Default)]
struct Decided {
    pending: Pending,
    replies: Vec<Reply>,
    bytes: usize,
}

struct Reply {
    to: oneshot::Sender<Result<Outcome, Refused>>,
    outcome: Result<Outcome, Refused>,
    _reserved: Reserved,
}

impl Decided {
    fn is_full(&self) -> bool {
        self.replies.len() >= limits::BATCH_COMMANDS || self.bytes >= limits::BATCH_BYTES
    }

    fn answer(self, committed: &Result<(), Refused>) {
        for Reply { to, outcome, .. } in self.replies {
            // Whoever does not wait any more has dropped the other end. Where the batch failed, what was refused may have been
            // refused for the sake of something in it, so that is no answer either.
            let _ = to.send(match committed {
                Ok(()) => outcome,
                Err(error) => Err(error.clone()),
            });
        }
    }
}

/// Loads and verifies the chains of a store, by their groups.
///
/// # Errors
/// The list of chains cannot be read.
pub fn open(
    store: &Arc<Store>,
    published: &Arc<Published>,
    groups: &[Group],
    pool_limit: u64,
) -> Result<BTreeMap<Group, Arc<Core>>, StoreError> {
    let open_all = || {
        let ledger = |group| Ledger::open(store.clone(), published.clone(), group, pool_limit);
        groups.iter().map(|&group| Ok((group, ledger(group)?))).collect::<Result<Vec<_>, StoreError>>()
    };
    let is_whole = |ledgers: &[(Group, Ledger)]| ledgers.iter().all(|(_, ledger)| ledger.is_whole());
    let ledgers = match open_all() {
        Ok(ledgers) if is_whole(&ledgers) => ledgers,
        Ok(_) | Err(StoreError::Damaged(_)) => {
            // It may be the index alone.
            tracing::warn!("not all chains hold: the index is made anew");
            store.make_index_anew()?;
            published.clear();
            open_all()?
        }
        Err(error) => return Err(error),
    };
    let core = |(group, ledger)| (group, Arc::new(Core::new(group, store.clone(), published.clone(), ledger)));
    Ok(ledgers.into_iter().map(core).collect())
}

impl State {
    /// Takes the chains as they are agreed.
    fn forget_proposed(&mut self) -> Result<(), StoreError> {
        self.proposed.clear();
        self.ledger.reset()
    }
}

impl Core {
    fn new(group: Group, store: Arc<Store>, published: Arc<Published>, ledger: Ledger) -> Core {
        let state = State { ledger, proposed: VecDeque::new(), is_paused: false };
        Core {
            group,
            store,
            published,
            state: Mutex::new(state),
            resumed: Condvar::new(),
            sequencer: RwLock::default(),
        }
    }

    /// The core of a group that has no chain yet.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn of_new(
        store: &Arc<Store>,
        published: &Arc<Published>,
        group: Group,
        pool_limit: u64,
    ) -> Result<Arc<Core>, StoreError> {
        let ledger = Ledger::open(store.clone(), published.clone(), group, pool_limit)?;
        Ok(Arc::new(Core::new(group, store.clone(), published.clone(), ledger)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Holds up all writes while `change` makes the sequencer of all further ones, from the group as it stands then.
    ///
    /// # Errors
    /// What `change` returns: all is as it was.
    pub async fn sequence<E>(&self, change: impl Future<Output = Result<Arc<dyn Sequencer>, E>>) -> Result<(), E> {
        self.lock().is_paused = true;
        let changed = change.await;
        let mut state = self.lock();
        state.is_paused = false;
        self.resumed.notify_all();
        *self.sequencer.write().expect("no holder of this lock panics") = Some(changed?);
        Ok(())
    }

    /// Whether all of its chains could be loaded.
    pub fn is_whole(&self) -> bool {
        self.lock().ledger.is_whole()
    }

    /// Takes the chains that could not be loaded, and hold again.
    ///
    /// # Errors
    /// The list of chains cannot be read.
    pub fn load_lost(&self) -> Result<(), StoreError> {
        self.lock().ledger.load_lost()
    }

    /// Whether what is asked for is decided on this node.
    pub fn leads(&self) -> bool {
        self.sequencer().map_or_else(|| self.store.is_alone(self.group), |sequencer| sequencer.leads())
    }

    fn sequencer(&self) -> Option<Arc<dyn Sequencer>> {
        self.sequencer.read().expect("no holder of this lock panics").clone()
    }

    /// Makes an entry visible, which is agreed and durable here. It says whether a change of the cluster was as expected.
    ///
    /// # Errors
    /// It cannot be stored, or this node has other chains than the one that leads.
    pub fn apply(&self, index: u64, said: &Said) -> Result<bool, StoreError> {
        let mut state = self.lock();
        let mut pending = Pending::default();
        if let Said::Cluster(digest) = said {
            state.ledger.compare(digest)?;
        }
        if let Said::Effects(records) = said {
            match state.proposed.pop_front() {
                Some((proposed, decided)) if Arc::ptr_eq(&proposed, records) => pending = decided,
                other => {
                    if other.is_some() {
                        // Another node leads: what was decided here is not what is agreed.
                        state.forget_proposed()?;
                    }
                    state.ledger.follow(records, &mut pending)?;
                    state.ledger.finish(&mut pending);
                }
            }
        }
        let (doomed, is_as_expected) = self.store.apply(self.group, index, said, std::mem::take(&mut pending.batch))?;
        self.publish(pending, doomed)?;
        Ok(is_as_expected)
    }

    /// Makes visible what is durable.
    fn publish(&self, pending: Pending, doomed: Vec<Place>) -> Result<(), StoreError> {
        for (handle, leap) in pending.policies {
            handle.set_leap_policy(leap);
        }
        for (handle, terms) in pending.terms {
            handle.set_terms(terms);
        }
        for (handle, from) in pending.mirrors {
            handle.set_mirror(from);
        }
        let metrics = self.store.metrics();
        let (mut transactions, mut quants) = (0, 0);
        for (handle, head) in pending.heads.into_values() {
            let (size, newest) = (head.size(), head.newest.index());
            let before = handle.set_head(head);
            transactions += size.get().saturating_sub(before.size().get());
            quants += newest.get().saturating_sub(before.newest.index().get());
            if before.newest.index() != newest {
                self.published.tell_sealed(&handle);
            }
            if handle.leap_policy() != LeapPolicy::default() || handle.is_to_be_ended() {
                self.published.tell_touched(&handle);
            }
        }
        for handle in pending.made {
            let head = handle.head();
            transactions += head.size().get().saturating_sub(handle.lineage.shared().get());
            quants += head.newest.index().next().get().saturating_sub(handle.lineage.own_quants_from().get());
            self.published.add(&handle);
            self.published.tell_sealed(&handle);
        }
        if let Some(replaced) = pending.replaced {
            replaced.set_replaced();
        }
        metrics.transactions.inc_by(transactions);
        metrics.quants.inc_by(quants);
        if transactions > 0 {
            metrics.commit_transactions.observe(transactions as f64);
        }
        self.published.add_witnessed(pending.witnessed);
        // An erasure stands from its commit on, whatever becomes of the data: the next start would destroy it.
        self.store.erase(doomed)?;
        // What was read before may have the data. It must not pass for what is read from now on.
        if let Some(chain) = pending.erased {
            chain.erasures.fetch_add(1, Ordering::Release);
            metrics.erasures.inc();
        }
        Ok(())
    }

    /// Makes durable what was applied, and then visible.
    fn commit(&self, mut pending: Pending) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut pending.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let doomed = self.store.commit(self.group, batch)?;
        self.publish(pending, doomed)
    }
}

impl Writer {
    /// The writer of a group, and the way to send it requests.
    pub fn new(core: Arc<Core>) -> (Writer, mpsc::Sender<Envelope>) {
        let (sender, requests) = mpsc::channel(limits::QUEUE_COMMANDS);
        let now = Instant::now();
        let writer =
            Writer { requests, next: None, core, full_at: now, compared: now, under_way: 0, round: Duration::ZERO };
        (writer, sender)
    }

    /// Runs until all senders of requests are gone.
    pub fn run(mut self) {
        let core = self.core.clone();
        while let Some(first) = self.next.take().or_else(|| self.requests.blocking_recv()) {
            let since = Instant::now();
            let mut state = core.lock();
            while state.is_paused {
                state = core.resumed.wait(state).expect("no holder of this lock panics");
            }
            if let Some(sequencer) = core.sequencer() {
                drop(state);
                self.gather();
                let leads = sequencer.lead();
                state = core.lock();
                let forgotten = match leads {
                    Ok(true) if !state.proposed.is_empty() => state.forget_proposed(),
                    Ok(_) => Ok(()),
                    Err(refused) => {
                        drop(state);
                        self.refuse(first, &refused);
                        continue;
                    }
                };
                if let Err(error) = forgotten {
                    drop(state);
                    self.fail(&error);
                    self.refuse(first, &error.into());
                    continue;
                }
            }
            let may_change = core.sequencer().is_some() || core.store.is_alone(core.group);
            if !may_change && matches!(first.request, Request::Change(_)) {
                let _ = first.reply.send(Err(Refused::NotLeading(None)));
                continue;
            }
            if let Err(error) = self.be_ready(&mut state) {
                drop(state);
                self.refuse(first, &error.into());
                continue;
            }
            let decided = self.decide_all(first, &mut state.ledger, may_change);
            if self.settle(decided, state) {
                observe_since(&core.store.metrics().commit_seconds, since);
            }
        }
    }

    /// Waits a little until as many requests are there as were under way before. What was answered together comes again together, but
    /// not at once: taken as it comes, half of all clients would be in each entry and the other half wait for it, in turns for ever,
    /// and an entry of several nodes costs as much as some tens of requests.
    fn gather(&mut self) {
        let until = Instant::now() + (self.round / 2).min(limits::GATHER);
        while self.requests.len() + 1 < self.under_way && Instant::now() < until {
            sleep(limits::GATHER_PAUSE);
        }
        // Who has not come is not waited for again.
        self.under_way = self.under_way.min(self.requests.len() + 1);
    }

    /// Decides a request and all that waits, as far as it may be of one batch. Where nothing may be changed, it is alone.
    fn decide_all(&mut self, first: Envelope, ledger: &mut Ledger, may_change: bool) -> Decided {
        let mut decided = Decided::default();
        let is_alone = first.is_alone();
        decide(ledger, first, &mut decided);
        while may_change && !is_alone && self.next.is_none() && !decided.is_full() {
            let Ok(envelope) = self.requests.try_recv() else { break };
            if envelope.is_alone() {
                self.next = Some(envelope);
            } else {
                decide(ledger, envelope, &mut decided);
            }
        }
        ledger.finish(&mut decided.pending);
        decided
    }

    /// Has what was decided agreed, and answers. Says whether there was something that is durable now.
    fn settle(&mut self, mut decided: Decided, mut state: MutexGuard<'_, State>) -> bool {
        let core = self.core.clone();
        let mut pending = std::mem::take(&mut decided.pending);
        let is_change = !pending.batch.is_empty();
        let committed = match core.sequencer() {
            Some(sequencer) if !pending.batch.has_no_effect() => {
                // What is this node's own is no part of what others agree to. There is hardly ever any.
                let own = core.store.commit(core.group, pending.batch.take_own());
                match own.and_then(|doomed| core.store.erase(doomed)) {
                    Err(error) => {
                        self.fail(&error);
                        Err(error.into())
                    }
                    Ok(()) => {
                        let records = Arc::new(pending.batch.take_records());
                        state.proposed.push_back((records.clone(), pending));
                        drop(state);
                        let since = Instant::now();
                        let agreed = sequencer.propose(Proposed::Effects(records));
                        self.under_way = 0;
                        match &agreed {
                            Ok(()) => {
                                self.under_way = decided.replies.len() + self.requests.len();
                                self.round = since.elapsed();
                                self.compare(&*sequencer);
                            }
                            Err(_) if core.store.log_has_failed() => {
                                self.fail(&StoreError::Failed("a write to the log failed".into()));
                            }
                            Err(_) => {}
                        }
                        agreed
                    }
                }
            }
            _ => {
                let committed = core.commit(pending);
                drop(state);
                committed.map_err(|error| {
                    self.fail(&error);
                    error.into()
                })
            }
        };
        decided.answer(&committed);
        is_change && committed.is_ok()
    }

    /// Has the replicas of the group compared, now and then.
    fn compare(&mut self, sequencer: &dyn Sequencer) {
        if self.compared.elapsed() < limits::COMPARE_EVERY {
            return;
        }
        self.compared = Instant::now();
        let digest = {
            let state = self.core.lock();
            if !state.proposed.is_empty() {
                return;
            }
            state.ledger.digest()
        };
        // Where it is not agreed, the next one is.
        let _ = sequencer.propose(Proposed::Digest(Arc::new(digest)));
    }

    /// Answers all that waits with an error.
    fn refuse(&mut self, first: Envelope, refused: &Refused) {
        let mut next = Some(first);
        while let Some(envelope) = next {
            let _ = envelope.reply.send(Err(refused.clone()));
            next = self.requests.try_recv().ok();
        }
    }

    /// Refuses before anything is decided where a write could not succeed. After a failure, the chains are taken as they stand on
    /// disk.
    fn be_ready(&mut self, state: &mut State) -> Result<(), StoreError> {
        let Core { store, published, .. } = &*self.core;
        match published.own_health() {
            Health::Failed(detail) => return Err(StoreError::Failed(detail)),
            _ if !store.has_room() => return Err(StoreError::Full),
            Health::Ready if !store.is_behind() => return Ok(()),
            Health::Full if self.full_at.elapsed() < limits::FULL_PAUSE => return Err(StoreError::Full),
            Health::Ready | Health::Full => {}
        }
        let recovered = store.recover().and_then(|()| state.ledger.load());
        match &recovered {
            Ok(()) => {
                tracing::info!("the disk has room again: writes go on");
                published.set_health(Health::Ready);
            }
            Err(error) => self.fail(error),
        }
        recovered
    }

    fn fail(&mut self, error: &StoreError) {
        let published = &self.core.published;
        match error {
            StoreError::Full => {
                tracing::error!("the disk is full: writes are refused until space is freed");
                self.full_at = Instant::now();
                published.set_health(Health::Full);
            }
            error => {
                tracing::error!("{error}: no more writes are taken until the node is started again");
                let detail = match error {
                    StoreError::Failed(detail) => detail.clone(),
                    other => other.to_string(),
                };
                published.set_health(Health::Failed(detail));
            }
        }
    }
}

fn decide(ledger: &mut Ledger, envelope: Envelope, decided: &mut Decided) {
    decided.bytes += envelope.bytes();
    let Envelope { request, reply, reserved } = envelope;
    let outcome = ledger.decide(request, &mut decided.pending);
    decided.replies.push(Reply { to: reply, outcome, _reserved: reserved });
}

#[cfg(test)]
mod tests;
