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
    sync::{Arc, atomic::Ordering},
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
    requests: mpsc::Receiver<Envelope>,
    /// One that was taken, and must be alone.
    next: Option<Envelope>,
    ledger: Ledger,
    store: Arc<Store>,
    published: Arc<Published>,
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
        let writer =
            Writer { requests, next: None, ledger, store, published: published.clone(), full_at: Instant::now() };
        Ok((writer, Ends { published, requests: sender, touched, sealed }))
    }

    /// Runs until all senders of requests are gone.
    pub fn run(mut self) {
        while let Some(first) = self.next.take().or_else(|| self.requests.blocking_recv()) {
            if let Err(error) = self.be_ready() {
                self.refuse(first, &error);
                continue;
            }
            let mut decided = Decided::default();
            let is_alone = first.is_alone();
            self.decide(first, &mut decided);
            if !is_alone {
                self.drain(&mut decided);
            }
            self.ledger.finish(&mut decided.pending);
            let committed = self.commit(std::mem::take(&mut decided.pending));
            decided.answer(&committed);
        }
    }

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
            next = self.requests.try_recv().ok();
        }
    }

    /// Refuses before anything is decided where a write could not succeed. After a failure, the chains are taken as they stand on
    /// disk.
    fn be_ready(&mut self) -> Result<(), StoreError> {
        match self.published.own_health() {
            Health::Failed(detail) => return Err(StoreError::Failed(detail)),
            _ if !self.store.has_room() => return Err(StoreError::Full),
            Health::Ready if !self.store.is_behind() => return Ok(()),
            Health::Full if self.full_at.elapsed() < limits::FULL_PAUSE => return Err(StoreError::Full),
            Health::Ready | Health::Full => {}
        }
        let recovered = self.store.recover().and_then(|()| self.ledger.load());
        match &recovered {
            Ok(()) => {
                tracing::info!("the disk has room again: writes go on");
                self.published.set_health(Health::Ready);
            }
            Err(error) => self.fail(error),
        }
        recovered
    }

    fn fail(&mut self, error: &StoreError) {
        match error {
            StoreError::Full => {
                tracing::error!("the disk is full: writes are refused until space is freed");
                self.full_at = Instant::now();
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
