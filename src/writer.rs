//! The one writer: every change of every chain goes through it, in one order.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`Request`] | what is asked for, with all that is not deterministic (time, salt, proof of work) |
//! | [`Ledger`](ledger::Ledger) | *decides* on the newest state of the chains: refuses, or makes an [`Effect`](crate::store::Effect), which cannot fail any more; and *applies* that |
//! | [`Store`] | makes what was applied durable, one batch with one sync for all that waited |
//! | [`Published`] | the durable heads, which all others read; they never wait for the writer |
//!
//! Only then it answers. Two threads take turns: while one waits for the disk, the other decides the next batch.
//!
//! After a failed write it refuses all further ones, since nobody knows what is on disk; a full disk it recovers from, by
//! opening the store anew as after a crash.

mod command;
mod handle;
mod import;
mod ledger;
mod load;

use std::{
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::Instant,
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::{
    core::chain::LeapPolicy,
    limits,
    store::{Store, StoreError},
};
use ledger::{Ledger, Pending};

pub use command::{Command, Envelope, Guard, Outcome, Own, Placed, Refused, Request};
pub use handle::{ChainHandle, Health, Published, Scrubbed};
pub use import::{Part, Progress, Step, in_force_at};
pub use load::{checked_transaction, edge_at};

/// What the writer shares with the rest of the node.
pub struct Ends {
    /// What all but the writer see.
    pub published: Arc<Published>,
    /// The way to send requests.
    pub requests: mpsc::Sender<Envelope>,
    /// Chains that may have to leap by their policy.
    pub touched: mpsc::UnboundedReceiver<Arc<ChainHandle>>,
    /// Chains with a new quant.
    pub sealed: mpsc::UnboundedReceiver<Arc<ChainHandle>>,
}

/// Owns all chains and is the only one to write them.
pub struct Writer {
    /// Locked before the committer.
    decider: Mutex<Decider>,
    committer: Mutex<Committer>,
}

/// Takes requests, and decides them.
struct Decider {
    requests: mpsc::Receiver<Envelope>,
    /// One that was taken, and must be alone.
    next: Option<Envelope>,
    ledger: Ledger,
    /// The failures of the committer that the ledger knows of.
    failures: u64,
}

/// Makes durable what was decided, and publishes it.
struct Committer {
    store: Arc<Store>,
    published: Arc<Published>,
    /// How often a batch was not committed. What was decided behind it does not count either.
    failures: u64,
    /// The newest of them.
    failure: Option<StoreError>,
    /// When a write found the disk full.
    full_at: Instant,
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
    /// Given back with the answer.
    _room: Option<OwnedSemaphorePermit>,
}

impl Decided {
    fn is_full(&self) -> bool {
        self.replies.len() >= limits::BATCH_COMMANDS || self.bytes >= limits::BATCH_BYTES
    }

    fn answer(self, committed: &Result<(), StoreError>) {
        for Reply { to, outcome, .. } in self.replies {
            // Whoever does not wait any more has dropped the other end. Where the batch failed, what was refused may have been
            // refused for the sake of something in it, so that is no answer either.
            let _ = to.send(match committed {
                Ok(()) => outcome,
                Err(error) => Err(error.clone().into()),
            });
        }
    }
}

impl Writer {
    /// Loads and verifies all chains of a store.
    ///
    /// # Errors
    /// The list of chains cannot be read.
    pub fn open(store: Arc<Store>, pool_limit: u64) -> Result<(Writer, Ends), StoreError> {
        let (sender, requests) = mpsc::channel(limits::QUEUE_COMMANDS);
        let (published, touched, sealed) = Published::new(store.clone());
        let published = Arc::new(published);
        let ledger = Ledger::open(store.clone(), published.clone(), pool_limit)?;
        let decider = Decider { requests, next: None, ledger, failures: 0 };
        let committer =
            Committer { store, published: published.clone(), failures: 0, failure: None, full_at: Instant::now() };
        let writer = Writer { decider: Mutex::new(decider), committer: Mutex::new(committer) };
        Ok((writer, Ends { published, requests: sender, touched, sealed }))
    }

    /// Runs until all senders of requests are gone.
    pub fn run(self) {
        self.take_turns();
    }

    fn take_turns(&self) {
        while self.take_turn() {}
    }

    /// Decides and commits one batch, and says whether there may be more.
    fn take_turn(&self) -> bool {
        let mut decider = self.decider.lock().expect("no holder of this lock panics");
        let Some(first) = decider.next.take().or_else(|| decider.requests.blocking_recv()) else { return false };
        let is_alone = first.is_alone();
        let alone = is_alone.then(|| self.committer());
        let mut decided = Decided::default();
        if let Err(error) = self.be_ready(&mut decider, alone.as_deref()) {
            decider.refuse(first, &error);
            return true;
        }
        decider.decide(first, &mut decided);
        let mut committer = match alone {
            Some(committer) => committer,
            None => {
                decider.drain(&mut decided);
                let committer = self.committer();
                // What came while the batch before was on its way.
                decider.drain(&mut decided);
                committer
            }
        };
        if committer.failures != decider.failures {
            let failed = committer.failure.clone().map_or(Ok(()), Err);
            decided.answer(&failed);
            return true;
        }
        decider.ledger.finish(&mut decided.pending);
        // Nothing is decided while what is alone is on its way.
        let decider = is_alone.then_some(decider);
        let committed = committer.commit(std::mem::take(&mut decided.pending));
        drop(committer);
        drop(decider);
        decided.answer(&committed);
        true
    }

    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer.lock().expect("no holder of this lock panics")
    }

    /// Refuses before anything is decided where a write could not succeed. After a failure, the chains are taken as they stand on
    /// disk.
    fn be_ready(&self, decider: &mut Decider, committer: Option<&Committer>) -> Result<(), StoreError> {
        let ledger = &mut decider.ledger;
        if let Some(result) = ledger.is_ready() {
            return result;
        }
        // Until nothing is on its way.
        let held;
        let committer = match committer {
            Some(committer) => committer,
            None => {
                held = self.committer();
                &held
            }
        };
        let result = committer.recover(ledger);
        if result.is_ok() {
            decider.failures = committer.failures;
        }
        result
    }
}

impl Decider {
    fn decide(&mut self, envelope: Envelope, decided: &mut Decided) {
        decided.bytes += envelope.bytes();
        let Envelope { request, reply, room } = envelope;
        let outcome = self.ledger.decide(request, &mut decided.pending);
        decided.replies.push(Reply { to: reply, outcome, _room: room });
    }

    /// Decides all that waits, as far as it may be of one batch.
    fn drain(&mut self, decided: &mut Decided) {
        while self.next.is_none() && !decided.is_full() {
            let Ok(envelope) = self.requests.try_recv() else { break };
            if envelope.is_alone() {
                self.next = Some(envelope);
            } else {
                self.decide(envelope, decided);
            }
        }
    }

    /// Answers all that waits with an error.
    fn refuse(&mut self, first: Envelope, error: &StoreError) {
        let mut next = Some(first);
        while let Some(envelope) = next {
            let _ = envelope.reply.send(Err(error.clone().into()));
            next = self.next.take().or_else(|| self.requests.try_recv().ok());
        }
    }
}

impl Committer {
    /// Goes on after a full disk, or where the index lacks something.
    fn recover(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        if self.published.own_health() == Health::Full && self.full_at.elapsed() < limits::FULL_PAUSE {
            return Err(StoreError::Full);
        }
        let recovered = self.store.recover().and_then(|()| ledger.load());
        match &recovered {
            Ok(()) => {
                tracing::info!("the disk has room again: writes go on");
                self.published.set_health(Health::Ready);
            }
            Err(error) => self.tell(error),
        }
        recovered
    }

    fn fail(&mut self, error: &StoreError) {
        self.tell(error);
        self.failures += 1;
        self.failure = Some(error.clone());
        self.full_at = Instant::now();
    }

    fn tell(&self, error: &StoreError) {
        match error {
            StoreError::Full => {
                tracing::error!("the disk is full: writes are refused until space is freed");
                self.published.set_health(Health::Full);
            }
            error => {
                tracing::error!("{error}: no more writes are taken until the node is started again");
                let detail = match error {
                    StoreError::Failed(detail) => detail.clone(),
                    other => other.to_string(),
                };
                self.published.set_health(Health::Failed(detail));
            }
        }
    }

    /// Makes durable what was applied, and then visible.
    fn commit(&mut self, pending: Pending) -> Result<(), StoreError> {
        if pending.batch.is_empty() {
            return Ok(());
        }
        let doomed = self.store.commit(pending.batch).inspect_err(|error| self.fail(error))?;
        for (handle, leap) in pending.policies {
            handle.set_leap_policy(leap);
        }
        for (handle, head) in pending.heads.into_values() {
            let newest = head.newest.index();
            let before = handle.head.send_replace(head);
            if before.newest.index() != newest {
                self.published.tell_sealed(&handle);
            }
            if handle.leap_policy() != LeapPolicy::default() {
                self.published.tell_touched(&handle);
            }
        }
        for handle in pending.made {
            self.published.add(&handle);
            self.published.tell_sealed(&handle);
        }
        if let Some(replaced) = pending.replaced {
            replaced.set_replaced();
        }
        self.published.add_witnessed(pending.witnessed);
        // An erasure stands from its commit on, whatever becomes of the data: the next start would destroy it.
        self.store.erase(doomed).inspect_err(|error| self.fail(error))?;
        // What was read before may have the data. It must not pass for what is read from now on.
        if let Some(chain) = pending.erased {
            chain.erasures.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
