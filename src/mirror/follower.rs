//! One mirror: its rounds, and the beginning of its copy.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{
    Inner,
    source::{Source, SourceError},
    step::Step,
};
use crate::{
    core::{
        count::{Height, Size},
        export::checkpoint_line,
        mirror::{Compared, Following, Follows, Mirror, Seen},
        note::VerifierKey,
        quant::Quant,
        transaction::Timestamp,
        verify,
        witness::Evidence,
    },
    limits,
    node::{Import, ImportError, StoreError},
    peers::pause,
    writer::{ChainHandle, Refused},
};

/// One mirror.
pub(super) struct Follower {
    record: Mutex<Mirror>,
    status: Mutex<Status>,
    /// Ends the task.
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What became of its rounds.
#[derive(Default)]
pub(super) struct Status {
    /// When the source has answered last with a checkpoint that holds.
    pub checked: Option<Timestamp>,
    /// Why the last round failed.
    pub error: Option<String>,
}

/// Why a round ended early.
pub(super) enum Trouble {
    /// It is tried again later.
    Away(String),
    /// The source is not followed any more.
    Contradiction(String, Option<Evidence>),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Trouble::Away(error.to_string())
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Trouble::Away(format!("this node: {refused}"))
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Refused::from(error).into()
    }
}

impl Follower {
    /// A mirror as it is recorded.
    pub(super) fn new(record: Mirror) -> Follower {
        let stop = watch::Sender::new(false);
        Follower { record: record.into(), status: Mutex::default(), stop, task: Mutex::default() }
    }

    /// Follows the source until it contradicts itself, the mirror is ended, or the node stops.
    pub(super) fn start(self: &Arc<Self>, inner: Arc<Inner>) {
        let (of, mut stopped, mut stopping) = (self.clone(), self.stop.subscribe(), inner.stopping.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = of.rounds(&inner) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        });
        *self.task.lock().expect("no holder of this lock panics") = Some(task);
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Mirror> {
        self.record.lock().expect("no holder of this lock panics")
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().expect("no holder of this lock panics")
    }

    pub(super) fn key(&self) -> VerifierKey {
        let record = self.record();
        let key = record.signer.as_ref().unwrap_or(&record.key);
        key.parse().expect("only a key is recorded")
    }

    /// The newest checkpoint that was found to continue those before. It may have been signed by the key of an earlier source.
    pub(super) fn seen(&self) -> Seen {
        let note = self.record().checkpoint.clone();
        Seen::recorded(&note).expect("only a checkpoint of a chain is recorded")
    }

    /// Ends its task.
    pub(super) async fn end(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().expect("no holder of this lock panics").take();
        if let Some(task) = task {
            // A task that has panicked has ended, too.
            let _ = task.await;
        }
    }

    /// Follows the source until it contradicts itself.
    async fn rounds(&self, inner: &Inner) {
        let mut failures = 0;
        loop {
            let outcome = self.round(inner).await;
            let chain = inner.node.chain(&self.record().id.to_string());
            let (state, wait) = match outcome {
                Ok(()) => {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!(chain = self.record().name, "the source of the mirror answers again");
                    }
                    self.status().error = None;
                    // That nothing follows a frozen chain is looked at all the same: its source may break that.
                    match chain.as_ref().is_some_and(|chain| chain.has_ended()) {
                        true => (Follows::Complete, limits::MIRROR_PAUSE[1]),
                        false => (Follows::Following, limits::MIRROR_EVERY),
                    }
                }
                Err(Trouble::Away(reason)) => {
                    if failures == 0 {
                        tracing::warn!(
                            chain = self.record().name,
                            "the mirror does not go on, and is tried again: {reason}"
                        );
                    }
                    self.status().error = Some(reason);
                    failures += 1;
                    (Follows::Away, pause(limits::MIRROR_PAUSE, failures - 1))
                }
                Err(Trouble::Contradiction(reason, evidence)) => {
                    tracing::error!(
                        chain = self.record().name,
                        "the source of the mirror contradicts itself: {reason}"
                    );
                    self.contradicted(inner, reason, evidence).await;
                    (Follows::Contradiction, Duration::ZERO)
                }
            };
            if let Some(chain) = chain {
                chain.set_follows(state, Some(self.seen().size));
            }
            if state == Follows::Contradiction {
                return;
            }
            sleep(wait).await;
        }
    }

    /// Records what speaks against the source. Until that is on disk, nothing else is done.
    async fn contradicted(&self, inner: &Inner, reason: String, evidence: Option<Evidence>) {
        let record = {
            let mut record = self.record();
            evidence.into_iter().for_each(|evidence| record.keep(evidence));
            record.state = Following::Contradiction(reason);
            record.clone()
        };
        while let Err(error) = inner.node.record_mirror(record.clone()).await {
            self.status().error = Some(error.to_string());
            sleep(limits::MIRROR_EVERY).await;
        }
    }

    /// Asks the source once, and takes over all that it has signed.
    async fn round(&self, inner: &Inner) -> Result<(), Trouble> {
        let (from, anywhere, id) = {
            let record = self.record();
            (record.from.clone(), record.anywhere, record.id)
        };
        let url = from.parse().expect("only a URL of a chain is recorded");
        let source = inner.caller(anywhere).source(url, inner.token(&from));
        let newest = self.look(inner, &source).await?;
        self.status().checked = Some(inner.node.now());
        let chain = match inner.node.chain(&id.to_string()) {
            Some(chain) => chain,
            None => self.copy_start(inner, &source).await?,
        };
        inner.ensure_mirror(&source, &self.key(), &chain).await?;
        chain.set_follows(Follows::Copying, Some(newest.size));
        while chain.head().newest.index() < newest.quant {
            let _permit = inner.steps.acquire().await.expect("this semaphore is never closed");
            self.status().error = None;
            Step { follower: self, inner, source: &source, chain: &chain }.run(&newest).await?;
        }
        let head = chain.head();
        match verify::check_checkpoint(&newest.note, id, &head.newest) {
            Ok(()) => Ok(()),
            Err(detail) => Err(Trouble::Contradiction(format!("the copy is not what was signed: {detail}"), None)),
        }
    }

    /// A checkpoint of a quant, or the newest, if the key has signed it.
    pub(super) async fn signed(&self, source: &Source<'_>, quant: Option<Height>) -> Result<Seen, Trouble> {
        let seen = Seen::open(&source.checkpoint(quant).await?, &self.key()).map_err(Trouble::Away)?;
        let id = self.record().id;
        if seen.chain != id {
            let detail =
                format!("the source has another chain of this name now, {}, and not {id} any more", seen.chain);
            return Err(Trouble::Away(detail));
        }
        match quant {
            Some(quant) if quant != seen.quant => {
                Err(Trouble::Away(format!("it gives the checkpoint of quant {} for that of {quant}", seen.quant)))
            }
            _ => Ok(seen),
        }
    }

    /// Looks at the source's newest checkpoint, which must continue the one that was seen before. That is recorded first.
    async fn look(&self, inner: &Inner, source: &Source<'_>) -> Result<Seen, Trouble> {
        let (now, before) = (self.signed(source, None).await?, self.seen());
        self.take_signer(inner, &now).await?;
        match before.compare(&now) {
            Compared::Same => return Ok(now),
            Compared::OnlyQuants => {}
            Compared::Contradicts => {
                let evidence = before.evidence(&now, Vec::new(), inner.node.now());
                let reason = format!(
                    "it has signed quant {} with {} transactions, and quant {} with {}, which cannot be of one history",
                    before.quant, before.size, now.quant, now.size
                );
                return Err(Trouble::Contradiction(reason, evidence));
            }
            Compared::Shorter => return Err(self.shorter(inner, &before, &now).await?),
            Compared::Longer => self.check_longer(inner, source, &before, &now).await?,
        }
        let record = {
            let mut record = self.record();
            record.checkpoint = now.note.to_string();
            record.clone()
        };
        inner.node.record_mirror(record).await?;
        Ok(now)
    }

    /// Records that another key has taken the place of the one that is known: from then on, the old one is good for nothing.
    async fn take_signer(&self, inner: &Inner, now: &Seen) -> Result<(), Trouble> {
        let Some(signer) = now.signer.as_ref().filter(|signer| **signer != self.key()) else { return Ok(()) };
        let record = Mirror { signer: Some(signer.to_string()), ..self.record().clone() };
        inner.node.record_mirror(record.clone()).await?;
        tracing::info!(
            chain = record.name,
            "the source of the mirror signs with another key, as the old one says: {signer}"
        );
        *self.record() = record;
        Ok(())
    }

    /// Has the source show that what it has signed now begins with what it had signed before.
    async fn check_longer(&self, inner: &Inner, source: &Source<'_>, before: &Seen, now: &Seen) -> Result<(), Trouble> {
        let path = source.consistency(before.size, now.size).await?;
        if before.begins(now, &path) {
            return Ok(());
        }
        let is_perfect = before.size.get().is_power_of_two();
        // What a path leaves out makes it a proof of the contradiction.
        let root = if is_perfect { source.perfect_root(before.size).await.ok() } else { None };
        let path = root.into_iter().chain(path).collect();
        let evidence = before.evidence(now, path, inner.node.now());
        let reason = format!(
            "what it has signed of {} transactions does not begin with what it had signed of {}",
            now.size, before.size
        );
        Err(Trouble::Contradiction(reason, evidence))
    }

    /// What an older checkpoint comes to, which is compared with the copy.
    async fn shorter(&self, inner: &Inner, before: &Seen, now: &Seen) -> Result<Trouble, Trouble> {
        let older = || {
            Trouble::Away(format!(
                "it shows a checkpoint of {} transactions, but has signed {} before: it is not followed back, and asked again",
                now.size, before.size
            ))
        };
        let Some(chain) = inner.node.chain(&before.chain.to_string()) else { return Ok(older()) };
        let head = chain.head();
        if now.size > head.size() || now.quant > head.newest.index() {
            return Ok(older());
        }
        let (root, quant) = inner.node.at(&chain, now.size, now.quant).await?;
        if root == now.root && quant.hash() == now.hash {
            return Ok(older());
        }
        let mut path = Vec::new();
        if before.size <= head.size() && now.size < before.size {
            path = inner.node.consistency(chain, now.size, before.size).await?;
            if now.size.get().is_power_of_two() {
                path.insert(0, root);
            }
        }
        let evidence = before.evidence(now, path, inner.node.now());
        let reason = format!(
            "it has signed {} transactions that are not the first of the {} which it had signed before",
            now.size, before.size
        );
        Ok(Trouble::Contradiction(reason, evidence))
    }

    /// Imports the chain up to its own bang: from there on it is a mirror, and goes on in steps.
    async fn copy_start(&self, inner: &Inner, source: &Source<'_>) -> Result<Arc<ChainHandle>, Trouble> {
        let (id, from, allow, name) = {
            let record = self.record();
            (record.id, record.from.clone(), record.allow_unproven_erasures, record.name.clone())
        };
        let (first, _) = source.bang(id).await?;
        let signed = self.signed(source, Some(first.index())).await?;
        let import = Import::begin(&inner.node, id, vec![self.key()], allow).await.map_err(refused)?;
        let mut import = import.as_mirror_of(from);
        let outcome = match self.send_start(source, &first, &signed, &mut import).await {
            Ok(()) => import.finish().await.map_err(refused),
            Err(trouble) => Err(trouble),
        };
        match outcome {
            Ok(imported) => {
                let cluster = &inner.cluster;
                if cluster.is_active() && cluster.group_of(&name) != Some(imported.chain.group) {
                    tracing::error!(
                        chain = name,
                        "the mirror has a name that another chain of the cluster got meanwhile"
                    );
                }
                Ok(imported.chain)
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Contradiction(..))
                    && let Err(error) = import.give_up().await
                {
                    tracing::warn!("what came of the source is not removed yet: {error}");
                }
                Err(trouble)
            }
        }
    }

    /// Sends the transactions and quants up to a chain's first own quant to an import, as an export has them.
    async fn send_start(
        &self,
        source: &Source<'_>,
        first: &Quant,
        signed: &Seen,
        import: &mut Import,
    ) -> Result<(), Trouble> {
        let (mut next, mut size) = (Height::FIRST, Size::ZERO);
        while next <= first.index() {
            let count = (first.index().get() + 1 - next.get()).min(limits::MIRROR_QUANTS);
            let quants = source.quants(next, count).await?;
            let end = quants.last().map_or(size, Quant::size);
            if end < size {
                return Err(Trouble::Away("its quants are in no order".into()));
            }
            let mut transactions = source.transactions(size, end);
            let mut lines = Vec::new();
            let mut quants = quants.iter().peekable();
            loop {
                for record in transactions.next().await? {
                    while let Some(quant) = quants.next_if(|quant| quant.size() <= size) {
                        add_quant(quant, &mut lines);
                    }
                    record.transaction.write(record.index, &mut lines);
                    lines.push(b'\n');
                    size = size.next_index().size();
                }
                while let Some(quant) = quants.next_if(|quant| quant.size() <= size) {
                    add_quant(quant, &mut lines);
                }
                import.lines(&std::mem::take(&mut lines)).await.map_err(refused)?;
                if size >= end {
                    break;
                }
            }
            next = Height::new(next.get() + count);
        }
        let mut line = checkpoint_line(&signed.note.to_string());
        line.push(b'\n');
        import.lines(&line).await.map_err(refused)
    }
}

fn add_quant(quant: &Quant, lines: &mut Vec<u8>) {
    serde_json::to_writer(&mut *lines, quant).expect("writing to memory does not fail");
    lines.push(b'\n');
}

/// Why the start of a chain was not imported.
fn refused(error: ImportError) -> Trouble {
    match error {
        ImportError::Fault { .. } => {
            Trouble::Contradiction(format!("the start of the chain does not hold: {error}"), None)
        }
        ImportError::UnprovenErasure(fault) => {
            Trouble::Away(format!("{fault} (in POST /mirrors: allow_unproven_erasures)"))
        }
        ImportError::Conflict(_) | ImportError::OtherName(_) => Trouble::Away(error.to_string()),
        ImportError::Refused(refused) => refused.into(),
    }
}
