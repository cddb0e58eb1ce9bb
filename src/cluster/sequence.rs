//! The way from the writer of a group to its engine.

use std::sync::{
    Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{sync::oneshot, time::timeout};

use super::{
    Cluster, Inner,
    engine::{
        ClientWriteError, LeaderId, Proposal, Raft, ReadPolicy, ServerState, Told, WatchReceiver as _, leader_of,
    },
};
use crate::{
    limits,
    store::{Group, NodeId},
    writer::{Proposed, Refused, Sequencer},
};

/// Brings effects to the nodes of a group.
pub(super) struct Sequence {
    cluster: Weak<Inner>,
    raft: Raft,
    runtime: tokio::runtime::Handle,
    group: Group,
    /// The newest term in which this node leads and has all that was agreed before.
    ready: AtomicU64,
    /// Whether it is not known what became of something that was proposed since.
    has_failed: AtomicBool,
}

impl Sequence {
    /// The way to this engine of a group.
    pub(super) fn new(cluster: Weak<Inner>, raft: Raft, group: Group) -> Sequence {
        let runtime = tokio::runtime::Handle::current();
        Sequence { cluster, raft, runtime, group, ready: AtomicU64::new(0), has_failed: false.into() }
    }

    fn not_leading(&self, leader: Option<NodeId>) -> Refused {
        let host = leader.and_then(|leader| Cluster(self.cluster.upgrade()?).host_of(leader));
        Refused::NotLeading(host)
    }
}

impl Sequencer for Sequence {
    fn leads(&self) -> bool {
        leader_of(&self.raft) == Some(*self.raft.node_id())
    }

    fn lead(&self) -> Result<bool, Refused> {
        let me = *self.raft.node_id();
        let seen = || {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.current_term, metrics.state)
        };
        let (mut leader, mut term, mut state) = seen();
        if leader.is_none() {
            // It may be this one in a moment, as when a group of one node gets its engine.
            let wait = self.raft.wait(Some(limits::AGREEMENT_TIMEOUT));
            let led = wait.metrics(|metrics| metrics.current_leader.is_some(), "a leader");
            let _ = self.runtime.block_on(led);
            (leader, term, state) = seen();
        }
        if leader != Some(me) || state != ServerState::Leader {
            return Err(self.not_leading(leader));
        }
        if self.ready.load(Ordering::Relaxed) == term && !self.has_failed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(inner) = self.cluster.upgrade() else { return Err(Refused::Stopping) };
        let settled = async {
            // Requests of the engine are answered in their order, so what was proposed before is in the log by now, or never will be.
            self.raft.with_raft_state(|_| ()).await.ok()?;
            let last = inner.store.group(self.group).last.map(|last| last.index);
            self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await.ok()?;
            let wait = self.raft.wait(Some(limits::AGREEMENT_TIMEOUT));
            wait.applied_index_at_least(last, "all that was proposed").await.ok()
        };
        let settled = async { timeout(limits::AGREEMENT_TIMEOUT, settled).await.ok().flatten() };
        match self.runtime.block_on(settled) {
            Some(_) => {
                self.has_failed.store(false, Ordering::Relaxed);
                if self.ready.swap(term, Ordering::Relaxed) != term {
                    tracing::info!(group = %self.group, term, "this node leads the group");
                }
                Ok(true)
            }
            None => Err(self.not_leading(None)),
        }
    }

    fn propose(&self, proposal: Proposed) -> Result<(), Refused> {
        let (told, answer) = oneshot::channel();
        let told = Told(Box::new(move |result| drop(told.send(result))));
        let proposal = match proposal {
            Proposed::Effects(records) => Proposal::Effects(records),
            Proposed::Digest(digest) => Proposal::Cluster(digest),
        };
        let agreed = async {
            // What was decided goes on from what was agreed when this node became the leader, so it is nothing for another time.
            let leader = LeaderId { term: self.ready.load(Ordering::Relaxed), node_id: *self.raft.node_id() };
            let write = self.raft.write(proposal).with_leader(leader).responder(told);
            write.await.map_err(|_| Refused::NotAgreed)?;
            match timeout(limits::AGREEMENT_TIMEOUT, answer).await {
                Ok(Ok(Ok(_))) => Ok(()),
                // The engine has not taken it: this node leads no more, or hands over.
                Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Err(self.not_leading(None)),
                _ => Err(Refused::NotAgreed),
            }
        };
        // Until it is known what became of it, nothing can go on from it.
        self.runtime.block_on(agreed).inspect_err(|_| self.has_failed.store(true, Ordering::Relaxed))
    }
}
