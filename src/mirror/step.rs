//! One step of a mirror: from one signed checkpoint to the next, each piece proven before it is written.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    Inner,
    follower::{Follower, Trouble},
    source::Source,
};
use crate::{
    core::{
        count::{Height, Index, Size},
        merkle,
        mirror::{Seen, check_quants},
        quant::Quant,
        transaction::{Id, Kind, Record, Transaction},
        verify::{self, Checked, InForce, Verifier},
    },
    limits,
    node::StoreError,
    writer::{ChainHandle, MirrorStep},
};

/// One step of a mirror.
pub(super) struct Step<'a> {
    pub follower: &'a Follower,
    pub inner: &'a Inner,
    pub source: &'a Source<'a>,
    pub chain: &'a Arc<ChainHandle>,
}

/// What is verified and not written yet.
struct Part {
    /// Transactions and quants before it.
    at: (Size, Height),
    steps: Vec<MirrorStep>,
    ids: HashSet<Id>,
    bytes: usize,
}

impl Part {
    fn after(at: (Size, Height)) -> Part {
        Part { at, steps: Vec::new(), ids: HashSet::new(), bytes: 0 }
    }

    fn append(&mut self, transaction: Transaction) {
        self.bytes += transaction.served_bytes();
        self.ids.extend(transaction.id().cloned());
        match (self.steps.last_mut(), transaction.kind()) {
            (_, Some(Kind::Key | Kind::Freeze)) => self.steps.push(MirrorStep::Decide(transaction.into())),
            (Some(MirrorStep::Append(transactions)), _) => transactions.push(transaction),
            _ => self.steps.push(MirrorStep::Append(vec![transaction])),
        }
    }

    /// The transaction at an index, where it is of this part.
    fn transaction(&self, index: Index) -> Option<&Transaction> {
        let at = index.get().checked_sub(self.at.0.get())?;
        let appended = self.steps.iter().map(|step| match step {
            MirrorStep::Append(transactions) => transactions.as_slice(),
            MirrorStep::Decide(record) | MirrorStep::Erase { record, .. } => std::slice::from_ref(&**record),
            MirrorStep::Seal(_) => &[],
        });
        appended.flatten().nth(at as usize)
    }
}

impl Step<'_> {
    /// Goes on to the next checkpoint that the key has signed, at most to `newest`.
    pub(super) async fn run(&self, newest: &Seen) -> Result<(), Trouble> {
        let head = self.chain.head();
        let from = head.newest.index().next();
        let count = (newest.quant.next().get() - from.get()).min(limits::MIRROR_QUANTS);
        let last = Height::new(from.get() + count - 1);
        let signed = match last == newest.quant {
            true => newest.clone(),
            false => self.follower.signed(self.source, Some(last)).await?,
        };
        let quants = self.source.quants(from, count).await?;
        check_quants(&head.newest, head.size(), &quants, &signed)
            .map_err(|detail| self.contradiction(&signed, detail))?;
        let in_force = InForce::new(self.chain.id, self.chain.terms());
        let verifier = Verifier::behind(head.edge.as_ref().clone(), head.newest.as_ref().clone(), in_force);
        self.take(verifier, &quants, &signed).await
    }

    /// What is served for a signed checkpoint does not lead to it. It is no proof for others: who serves it may have changed it.
    fn contradiction(&self, signed: &Seen, detail: String) -> Trouble {
        let before = self.follower.seen();
        let evidence = (before.note.text() != signed.note.text())
            .then(|| before.evidence(signed, Vec::new(), self.inner.node.now()))
            .flatten();
        Trouble::Contradiction(detail, evidence)
    }

    /// Takes over the transactions that some signed quants seal.
    async fn take(&self, mut verifier: Verifier, quants: &[Quant], signed: &Seen) -> Result<(), Trouble> {
        let start = quants.first().map_or(Height::FIRST, Quant::index);
        let mut part = Part::after((verifier.size(), start));
        let mut quants = quants.iter().peekable();
        let mut transactions = self.source.transactions(verifier.size(), signed.size);
        let wrong = |fault: verify::Fault| self.contradiction(signed, fault.to_string());
        loop {
            let records = transactions.next().await?;
            let is_end = records.is_empty();
            let in_force = verifier.in_force();
            let checked: Vec<Checked> = tokio::task::block_in_place(|| {
                records.into_iter().map(|record| Checked::new(record, in_force.as_deref())).collect()
            });
            for checked in checked {
                seal(&mut verifier, &mut quants, &mut part).map_err(wrong)?;
                let record = checked.record();
                self.check(record, &part).map_err(|detail| self.contradiction(signed, detail))?;
                let erases = self.erases(record, &part)?;
                if erases.is_some() {
                    // What it erases must stand in one place first.
                    self.settle(&mut verifier, quants.peek().copied(), &mut part, signed).await?;
                }
                verifier.checked(&checked, &mut |_| ()).map_err(wrong)?;
                let record = checked.into_record();
                match erases {
                    None => part.append(record.transaction),
                    Some(index) => {
                        part.steps.push(MirrorStep::Erase { index, record: record.transaction.into() });
                        self.settle(&mut verifier, quants.peek().copied(), &mut part, signed).await?;
                    }
                }
            }
            seal(&mut verifier, &mut quants, &mut part).map_err(wrong)?;
            self.settle(&mut verifier, quants.peek().copied(), &mut part, signed).await?;
            if is_end {
                return Ok(());
            }
        }
    }

    /// Checks what a verifier leaves to whoever has an index of the chain.
    fn check(&self, record: &Record, part: &Part) -> Result<(), String> {
        verify::check_depth(record).map_err(|fault| fault.to_string())?;
        let Some(id) = record.transaction.id() else { return Ok(()) };
        let store = self.inner.node.store();
        let lineage = &self.chain.lineage;
        let stands = tokio::task::block_in_place(|| store.transaction_with_id(lineage, id));
        match stands.map_err(|error| error.to_string())?.is_some() || part.ids.contains(id) {
            true => Err(format!("transaction {}: its id {:?} stands in the chain already", record.index, id.as_str())),
            false => Ok(()),
        }
    }

    /// The transaction whose data a record of an erasure takes away, where that is here still.
    fn erases(&self, record: &Record, part: &Part) -> Result<Option<Index>, Trouble> {
        let Some(index) = verify::erasure_of(&record.transaction).filter(|index| *index < record.index) else {
            return Ok(None);
        };
        let holds = |of: &Transaction| of.erased().is_none() && of.kind().is_none();
        let is_here = match part.transaction(index) {
            Some(of) => holds(of),
            None if !part.at.0.has(index) => false,
            None => {
                let store = self.inner.node.store();
                let text = tokio::task::block_in_place(|| store.record(&self.chain.lineage, index))?;
                holds(&Record::parse(&text).map_err(StoreError::Damaged)?.transaction)
            }
        };
        Ok(is_here.then_some(index))
    }

    /// Writes what was verified, when it is proven to be of what the key has signed. `next` is the quant that seals what comes last
    /// of it, where no quant of it does.
    async fn settle(
        &self,
        verifier: &mut Verifier,
        next: Option<&Quant>,
        part: &mut Part,
        signed: &Seen,
    ) -> Result<(), Trouble> {
        let (size, quants) = (verifier.size(), verifier.newest().map_or(Height::FIRST, |quant| quant.index().next()));
        let done = std::mem::replace(part, Part::after((size, quants)));
        if done.steps.is_empty() {
            return Ok(());
        }
        let sealed = verifier.newest().map_or(Size::ZERO, Quant::size);
        if let Some(quant) = next.filter(|_| sealed < size) {
            let path = self.source.consistency(size, quant.size()).await?;
            let (root, of) = (verifier.root(), quant.header().root);
            merkle::check_consistency(size.get(), quant.size().get(), &path, root, of).map_err(|error| {
                let detail = format!("its first {size} transactions are not those of quant {}: {error}", quant.index());
                self.contradiction(signed, detail)
            })?;
        }
        self.check_erasures(verifier.take_unproven()).await?;
        Ok(self.inner.node.go_on(self.chain, done.at, done.steps).await?)
    }

    /// Checks that what comes without its data was erased by a record that a quant seals.
    async fn check_erasures(&self, unproven: BTreeSet<(Index, Index)>) -> Result<(), Trouble> {
        if self.follower.record().allow_unproven_erasures {
            return Ok(());
        }
        let key = [self.follower.key()];
        for (by, index) in unproven {
            let lacks = |detail: &str| {
                Trouble::Away(format!(
                    "transaction {index} comes without its data, as erased by transaction {by}, but {detail}. Where it was erased \
                     on the chain that this one was forked or copied from, follow it with allow_unproven_erasures"
                ))
            };
            let receipt = match self.source.receipt(by).await {
                Ok(receipt) => receipt,
                Err(error) if error.is_refusal() => {
                    return Err(lacks("no quant seals that one yet: the copy goes on when one does"));
                }
                Err(error) => return Err(error.into()),
            };
            let receipt = verify::receipt(receipt).map_err(|fault| Trouble::Away(fault.to_string()))?;
            receipt.check_signature(&key).map_err(|fault| Trouble::Away(fault.to_string()))?;
            let records = verify::erasure_of(&receipt.record.transaction) == Some(index);
            if receipt.chain != self.chain.id || receipt.record.index != by || !records {
                return Err(lacks("that one does not record it"));
            }
        }
        Ok(())
    }
}

/// Takes the quants that end where the verifier stands.
fn seal<'a>(
    verifier: &mut Verifier,
    quants: &mut std::iter::Peekable<impl Iterator<Item = &'a Quant>>,
    part: &mut Part,
) -> Result<(), verify::Fault> {
    while let Some(quant) = quants.next_if(|quant| quant.size() <= verifier.size()) {
        verifier.quant(quant.clone())?;
        part.steps.push(MirrorStep::Seal(quant.clone().into()));
    }
    Ok(())
}
