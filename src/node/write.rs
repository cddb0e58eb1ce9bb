//! What changes chains: each call makes a [`Command`], and answers when it is on disk.

use std::{pin::Pin, sync::Arc, time::Instant};

use tokio::sync::{mpsc::error::TrySendError, oneshot, watch};

use super::{Accepted, Carried, Carrier, Node, Placements};
use crate::{
    core::{
        chain::{Expected, Head, LeapPolicy, Tag, bang_header, bang_transaction},
        count::Index,
        quant::Quant,
        rules::Rules,
        transaction::{Id, Kind, Submission, Timestamp, Transaction},
    },
    metrics::observe_since,
    store::{Group, Store, StoreError},
    writer::{
        ChainHandle, Command, Envelope, Guard, Outcome, Own, Placed, Refused, Request, Reserved, checked_transaction,
        edge_at,
    },
};

/// One leap of a chain at a time: the next cuts what this one left.
#[derive(Default)]
struct LeapTurn(tokio::sync::Mutex<()>);

impl Node {
    pub(super) async fn submit(&self, group: Group, request: impl Into<Request>) -> Result<Outcome, Refused> {
        self.submit_reserved(group, request.into(), Reserved::default()).await
    }

    pub(super) async fn submit_reserved(
        &self,
        group: Group,
        request: Request,
        reserved: Reserved,
    ) -> Result<Outcome, Refused> {
        let (reply, outcome) = oneshot::channel();
        self.writer(group)?.try_send(Envelope { request, reply, reserved }).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Closed(_) => Refused::Stopping,
        })?;
        outcome.await.unwrap_or(Err(Refused::Stopping))
    }

    /// Adds transactions that meet the chain's rules to its pool: all or none. Returns when they are on disk.
    /// `reserved` is what they take up.
    ///
    /// # Errors
    /// Why none was added.
    pub async fn inject(
        &self,
        chain: &ChainHandle,
        transactions: Vec<Transaction>,
        expected: Option<Expected>,
        reserved: Reserved,
    ) -> Result<Vec<Accepted>, Refused> {
        let ids: Vec<Option<Id>> = transactions.iter().map(|transaction| transaction.id().cloned()).collect();
        let carried = |transactions, expected: Option<Expected>| Carried {
            chain: chain.id,
            expected: expected.map(|expected| (chain.id, expected)),
            transactions: Arc::new(transactions),
            each_for_itself: false,
        };
        let placed = match self.carrier(chain) {
            Some(carrier) => {
                let _memory = reserved.carried();
                carrier.carry(chain.group, carried(transactions, expected)).await?
            }
            None => {
                let guard = chain.guard(expected.clone());
                let again = self.0.cluster.get().map(|cluster| (&cluster.carrier, transactions.clone()));
                let command = Command::Inject { chain: chain.number(), guard, transactions, each_for_itself: false };
                match (self.submit_reserved(chain.group, command.into(), reserved).await, again) {
                    (Ok(Outcome::Injected(placed)), _) => placed,
                    (Ok(_), _) => unreachable!("the outcome of an inject is Injected"),
                    // It has led until now, and nothing was accepted.
                    (Err(Refused::NotLeading(_)), Some((carrier, transactions))) => {
                        carrier.carry(chain.group, carried(transactions, expected)).await?
                    }
                    (Err(refused), _) => return Err(refused),
                }
            }
        };
        // What repeats a new one of the same request was accepted with it, and by no earlier one.
        let first_new = placed.iter().flatten().filter(|placed| !placed.replayed).map(|placed| placed.index).min();
        let accepted = |(id, placed): (_, Result<Placed, Refused>)| {
            let placed = placed?;
            let replayed = first_new.is_none_or(|first| placed.index < first);
            Ok(Accepted { id, ..Accepted::new(Placed { replayed, ..placed }) })
        };
        ids.into_iter().zip(placed).map(accepted).collect()
    }

    /// Whether a submission repeats what the chain has accepted, to the letter. The rules that a chain has since then, or as a fork, say
    /// nothing of that. It may block.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn has_accepted(&self, chain: &ChainHandle, submission: &Submission) -> Result<bool, StoreError> {
        let Some(id) = &submission.id else { return Ok(false) };
        let (store, lineage) = (&self.0.store, &chain.lineage);
        let Some(index) = store.transaction_with_id(lineage, id)? else { return Ok(false) };
        let accepted = checked_transaction(store, lineage, index)?;
        Ok(accepted.data() == Some(&submission.data) && accepted.signed() == submission.signed.as_ref())
    }

    /// Erases the data and the salt of a transaction for ever, and records that and why as a transaction of its own, on the
    /// chain that wrote the erased one: that is `chain` itself or an ancestor, and it is returned too. All that is durable when
    /// this returns. What was erased before stays as it is: then the first record of it is returned.
    ///
    /// # Errors
    /// Why it is not erased.
    ///
    /// # Panics
    /// The chain has no such transaction.
    pub async fn erase(
        &self,
        chain: &Arc<ChainHandle>,
        index: Index,
        expected: Option<Expected>,
        submission: Submission,
    ) -> Result<(Arc<ChainHandle>, Accepted), Refused> {
        assert!(chain.head().size().has(index), "only what is in the chain can be erased");
        let writer = chain.writer_of(index);
        let time = self.time_in(&writer);
        let transaction = Transaction::new(submission, Some(Kind::Erasure), time, rand::random());
        let command = Command::Erase {
            chain: writer.number(),
            index,
            guard: chain.guard(expected),
            transaction: transaction.into(),
        };
        match self.submit(writer.group, command).await? {
            Outcome::Recorded(placed) => {
                if !placed.replayed {
                    tracing::info!(chain = %writer.name, record = %placed.index, "the data of transaction {index} is erased");
                }
                Ok((writer, Accepted::new(placed)))
            }
            _ => unreachable!("the outcome of an erasure is Recorded"),
        }
    }

    /// Changes the writers of a chain, as one of them has signed. It is on disk when this returns. The same again is answered with the
    /// first.
    ///
    /// # Errors
    /// Why they stay.
    pub async fn change_writers(
        &self,
        chain: &ChainHandle,
        expected: Option<Expected>,
        submission: Submission,
    ) -> Result<Accepted, Refused> {
        let time = self.time_in(chain);
        let transaction = Transaction::new(submission, Some(Kind::Key), time, rand::random()).into();
        let (number, guard) = (chain.number(), chain.guard(expected));
        let placed = self.decide(chain, Command::Key { chain: number, guard, transaction }).await?;
        if !placed.replayed {
            tracing::info!(chain = %chain.name, record = %placed.index, "the chain has other writers");
        }
        Ok(placed)
    }

    /// Freezes a chain for ever, and gives the quant that ends it. All is on disk when this returns. What was frozen before stays so: then
    /// the first record of it is returned.
    ///
    /// # Errors
    /// Why it is not frozen, or not sealed yet: then it leaps by itself, or when this is asked for again.
    pub async fn freeze(
        &self,
        chain: &Arc<ChainHandle>,
        expected: Option<Expected>,
        submission: Submission,
    ) -> Result<(Accepted, Quant), Refused> {
        let time = self.time_in(chain);
        let transaction = Transaction::new(submission, Some(Kind::Freeze), time, rand::random()).into();
        let (number, guard) = (chain.number(), chain.guard(expected));
        let placed = self.decide(chain, Command::Freeze { chain: number, guard, transaction }).await?;
        if !placed.replayed {
            tracing::info!(chain = %chain.name, record = %placed.index, "the chain is frozen");
        }
        match self.leap_pooled(chain).await {
            // The automatic leap may have been faster.
            Ok(()) | Err(Refused::Frozen { .. }) => {}
            Err(refused) => return Err(refused),
        }
        let last = self.read(chain, move |chain| chain.quant(chain.quant_of(placed.index)?)).await?;
        Ok((placed, last))
    }

    pub(super) async fn decide(&self, chain: &ChainHandle, command: Command) -> Result<Accepted, Refused> {
        match self.submit(chain.group, command).await? {
            Outcome::Recorded(placed) => Ok(Accepted::new(placed)),
            _ => unreachable!("the outcome of a change of keys, or of a freeze, is Recorded"),
        }
    }

    /// Sends transactions that meet the chain's rules to its pool, each for itself, and waits while the writer has too much
    /// to do. They are on disk when the returned future is. `reserved` is what they take up.
    ///
    /// # Errors
    /// Why none was sent; in the future, why none was added.
    pub async fn inject_each(
        &self,
        chain: &ChainHandle,
        transactions: Vec<Transaction>,
        reserved: Reserved,
    ) -> Result<Pin<Box<dyn Future<Output = Placements> + Send>>, Refused> {
        if let Some(carrier) = self.carrier(chain) {
            let transactions = Arc::new(transactions);
            let carried = Carried { chain: chain.id, expected: None, transactions, each_for_itself: true };
            let (outcome, memory) = (carrier.carry(chain.group, carried), reserved.carried());
            return Ok(Box::pin(async move {
                let _memory = memory;
                outcome.await
            }));
        }
        let command = Command::Inject { chain: chain.number(), guard: None, transactions, each_for_itself: true };
        let (reply, outcome) = oneshot::channel();
        self.writer(chain.group)?
            .send(Envelope { request: command.into(), reply, reserved })
            .await
            .map_err(|_| Refused::Stopping)?;
        Ok(Box::pin(async {
            match outcome.await.unwrap_or(Err(Refused::Stopping))? {
                Outcome::Injected(placed) => Ok(placed),
                _ => unreachable!("the outcome of an inject is Injected"),
            }
        }))
    }

    /// What carries transactions of this chain, where another node leads it.
    fn carrier(&self, chain: &ChainHandle) -> Option<&Arc<dyn Carrier>> {
        self.0.cluster.get().map(|cluster| &cluster.carrier).filter(|_| !self.leads(chain.group))
    }

    /// Decides on transactions that another node has carried here, which were checked there.
    ///
    /// # Errors
    /// Why none was accepted.
    pub async fn inject_carried(&self, carried: Carried) -> Placements {
        let Carried { chain, expected, transactions, each_for_itself } = carried;
        let handle = self.chain(&chain.to_string()).ok_or(Refused::NotLeading(None))?;
        let guard = match expected {
            None => None,
            Some((of, expected)) => {
                let of = self.chain(&of.to_string()).ok_or(Refused::NotLeading(None))?;
                of.guard(Some(expected))
            }
        };
        let transactions = Arc::unwrap_or_clone(transactions);
        let command = Command::Inject { chain: handle.number(), guard, transactions, each_for_itself };
        match self.submit(handle.group, command).await? {
            Outcome::Injected(placed) => Ok(placed),
            _ => unreachable!("the outcome of an inject is Injected"),
        }
    }

    /// Mines a quant from all that is pooled, and only if the chain is in an expected state from the call on until the quant is
    /// recorded. Gives the chain's state behind it, too.
    ///
    /// # Errors
    /// Why there is no quant.
    pub async fn leap(&self, chain: &ChainHandle, expected: Option<Expected>) -> Result<(Quant, Tag), Refused> {
        Ok(self.leap_if(chain, expected, |_| true).await?.expect("every head is fit"))
    }

    /// When the oldest transaction that no quant covers was accepted, if there is one.
    ///
    /// # Errors
    /// The store is damaged.
    pub async fn oldest_pooled(&self, chain: &ChainHandle) -> Result<Option<Timestamp>, StoreError> {
        let (head, lineage) = (chain.head(), chain.lineage.clone());
        if head.pooled() == 0 {
            return Ok(None);
        }
        let first = Index::new(head.newest.size().get());
        let oldest = self.read_store(move |store| checked_transaction(store, &lineage, first)).await?;
        Ok(Some(oldest.timestamp()))
    }

    /// Leaps if anything is pooled, also when it comes to that: what was pooled may have been sealed by another node meanwhile.
    ///
    /// # Errors
    /// As [`Node::leap`].
    pub async fn leap_pooled(&self, chain: &ChainHandle) -> Result<(), Refused> {
        self.leap_if(chain, None, |head| head.pooled() > 0).await.map(|_| ())
    }

    /// Leaps from the newest head, unless that is not `fit`.
    async fn leap_if(
        &self,
        chain: &ChainHandle,
        expected: Option<Expected>,
        fit: impl Fn(&Head) -> bool,
    ) -> Result<Option<(Quant, Tag)>, Refused> {
        let turn = chain.remembered::<LeapTurn>();
        let _turn = turn.0.lock().await;
        chain.check_writable()?;
        let mut expected = expected;
        if fit(&chain.head()) && chain.frozen().is_none() {
            let tag = self.record_successions(chain, expected.as_ref()).await?;
            // The one who expects a state of the chain did not expect this, but nothing else came in between.
            expected = expected.map(|expected| tag.and_then(|tag| Expected::any_of(vec![tag])).unwrap_or(expected));
        }
        loop {
            let head = chain.head();
            if let Some(expected) = &expected {
                chain.check_expected(expected, &head)?;
            }
            if !fit(&head) {
                return Ok(None);
            }
            // So a quant is never earlier than what it seals.
            let header = head.cut(chain.rules().difficulty(), self.time_in(chain));
            let since = Instant::now();
            let quant = self.0.miner.mine(header).await;
            observe_since(&self.metrics().mining_seconds, since);
            let seal = Command::Seal {
                chain: chain.number(),
                guard: chain.guard(expected.clone()),
                quant: quant.clone().into(),
            };
            match self.submit(chain.group, seal).await {
                Ok(Outcome::Sealed(tag)) => return Ok(Some((quant, tag))),
                Ok(_) => unreachable!("the outcome of a seal is Sealed"),
                // The seal of a leap that was given up came in between: its head is published by now.
                Err(Refused::Stale(_)) => {}
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Makes a chain: a new one, or one that goes on from a quant of `parent`, which must have [made](ChainHandle::maker_of)
    /// that quant itself. Where a guard is given, only while its chain is in one of the states that it names. `group` is where a
    /// new one is kept, this node alone where it does not say.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn bang(
        &self,
        rules: Rules,
        parent: Option<(Arc<ChainHandle>, Quant)>,
        leap: LeapPolicy,
        guard: Option<Guard>,
        group: Option<Group>,
    ) -> Result<Arc<ChainHandle>, Refused> {
        // A fork shares what its parent has stored.
        let group = parent.as_ref().map(|(chain, _)| chain.group).or(group).unwrap_or(self.0.own_group);
        let name = rules.name().as_str();
        if self.chain(name).is_some() || self.lost(name).is_some() {
            return Err(Refused::NameTaken(rules.name().clone()));
        }
        let origin = parent.as_ref().map(|(chain, quant)| (chain.name.clone(), quant.index()));
        let (number, shared) = match parent {
            None => (None, None),
            Some((chain, quant)) => {
                let (number, size) = (chain.number(), quant.size());
                let read = move |store: &Store| {
                    let last = size.last().expect("a quant seals its chain's bang at least");
                    let last = checked_transaction(store, &chain.lineage, last)?;
                    Ok((edge_at(store, &chain, size)?, last.timestamp()))
                };
                (Some((number, quant.index())), Some((quant, self.read_store(read).await?)))
            }
        };
        let now = self.now();
        let time = shared.as_ref().map_or(now, |(_, (_, last))| now.max(*last));
        let transaction = bang_transaction(&rules, time, rand::random());
        let shared = shared.as_ref().map(|(quant, (edge, _))| (quant, edge.clone()));
        let quant = self.0.miner.mine(bang_header(&rules, &transaction, shared, time)).await;
        let rules = Arc::new(rules);
        let origin = origin.map(|(name, at)| format!("forked from quant {at} of {name}"));
        let (transaction, quant) = (transaction.into(), quant.into());
        let command = Command::Bang { rules, parent: number, transaction, quant, leap, guard };
        match self.submit(group, command).await? {
            Outcome::Banged(chain) => {
                tracing::info!(chain = %chain.name, id = %chain.id, "the chain is {}", origin.as_deref().unwrap_or("made"));
                Ok(chain)
            }
            _ => unreachable!("the outcome of a bang is Banged"),
        }
    }

    /// Changes when a chain leaps by itself.
    ///
    /// # Errors
    /// Why it stays as it was.
    pub async fn set_leap(
        &self,
        chain: &ChainHandle,
        leap: LeapPolicy,
        expected: Option<Expected>,
    ) -> Result<(), Refused> {
        let guard = chain.guard(expected);
        self.submit(chain.group, Command::SetLeap { chain: chain.number(), leap, guard }).await.map(|_| ())
    }

    /// Records the hosts of all known nodes.
    ///
    /// # Errors
    /// Why they are not recorded.
    pub async fn record_nodes(&self, known: &watch::Receiver<Vec<String>>) -> Result<(), Refused> {
        // Held until they are on disk, so that nobody takes up what is not, and an older list never comes after a newer.
        let mut recorded = self.0.recorded.lock().await;
        let hosts = known.borrow().clone();
        if recorded.take().as_ref() != Some(&hosts) {
            self.submit(self.0.own_group, Own::SetNodes(hosts.clone())).await?;
        }
        *recorded = Some(hosts);
        Ok(())
    }

    /// Makes transactions of submissions for a chain: this moment, and a salt for each.
    pub fn record(&self, chain: &ChainHandle, submissions: Vec<Submission>) -> Vec<Transaction> {
        let time = self.time_in(chain);
        let record = |submission| Transaction::new(submission, None, time, rand::random());
        submissions.into_iter().map(record).collect()
    }
}
