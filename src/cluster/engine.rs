//! What openraft needs of this node for one group: its types, how it runs, its log, and what becomes of agreed entries. Only this file
//! and [`net`](super::net) name it.
//!
//! The log of the node is the log of all its groups. Nothing of it is ever removed, so whoever lags is fed entries, and there are no
//! snapshots.

use std::{
    fmt::{self, Debug},
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder, RaftTypeConfig,
    impls::leader_id_adv,
    storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine},
};
use tokio::sync::{oneshot, watch};

pub use openraft::{
    ChangeMembers, Instant, ReadPolicy, ServerState,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, Fatal},
};

use super::ClusterError;
use crate::{
    limits,
    node::Node,
    store::{Entry, EntryId, Group, LogRecord, Membership, NodeId, Said, Store, StoreError, Vote},
    writer::Core,
};

/// A log filter that leaves out what the engine tells of its normal work.
pub const QUIET: &str = "openraft=error";

/// What is proposed to a group.
#[derive(Clone)]
pub enum Proposal {
    /// Effects of requests on its chains.
    Effects(Arc<Vec<LogRecord>>),
    /// A change of the cluster.
    Cluster(Arc<Vec<u8>>),
}

impl Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proposal::Effects(records) => write!(f, "{} effects", records.len()),
            Proposal::Cluster(_) => f.write_str("a change of the cluster"),
        }
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self, f)
    }
}

/// Is told what became of a proposal. It must not block.
pub struct Told<T>(pub Box<dyn FnOnce(T) + Send>);

impl<T: OptionalSend + 'static> openraft::raft::responder::Responder<Types, T> for Told<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// The types of a group.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct Types;

pub type LeaderId = leader_id_adv::LeaderId<u64, NodeId>;
pub type RaftVote = openraft::Vote<LeaderId>;
pub type LogId = openraft::LogId<LeaderId>;
pub type RaftEntry = openraft::Entry<LeaderId, EntryPayload<Proposal, NodeId, String>>;
pub type RaftMembership = openraft::Membership<NodeId, String>;
pub type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, String>;
pub type Snapshot = openraft::Snapshot<LeaderId, NodeId, String, ()>;
pub type SnapshotMeta = openraft::SnapshotMeta<LeaderId, NodeId, String>;
/// The engine of one group.
pub type Raft = openraft::Raft<Types, Machine>;
pub type Metrics = openraft::RaftMetrics<Types>;

impl RaftTypeConfig for Types {
    type D = Proposal;
    type R = bool;
    type NodeId = NodeId;
    type Node = String;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = RaftVote;
    type Payload = EntryPayload<Proposal, NodeId, String>;
    type Entry = RaftEntry;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Told<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub fn log_id(id: EntryId) -> LogId {
    LogId { leader_id: LeaderId { term: id.term, node_id: id.leader }, index: id.index }
}

pub fn entry_id(id: LogId) -> EntryId {
    EntryId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

fn raft_membership(membership: &Membership) -> RaftMembership {
    RaftMembership::new(membership.voters.clone(), membership.nodes.clone()).expect("it was one when it was written")
}

pub fn raft_entry(entry: Entry) -> RaftEntry {
    let payload = match entry.said {
        Said::Blank => EntryPayload::Blank,
        Said::Effects(records) => EntryPayload::Normal(Proposal::Effects(records)),
        Said::Cluster(json) => EntryPayload::Normal(Proposal::Cluster(json)),
        Said::Membership(membership) => EntryPayload::Membership(raft_membership(&membership)),
    };
    RaftEntry { log_id: log_id(entry.id), payload }
}

pub fn entry(entry: RaftEntry) -> Entry {
    let said = match entry.payload {
        EntryPayload::Blank => Said::Blank,
        EntryPayload::Normal(Proposal::Effects(records)) => Said::Effects(records),
        EntryPayload::Normal(Proposal::Cluster(json)) => Said::Cluster(json),
        EntryPayload::Membership(membership) => {
            let voters = membership.get_joint_config().clone();
            let nodes = membership.nodes().map(|(node, host)| (*node, host.clone())).collect();
            Said::Membership(Membership { voters, nodes }.into())
        }
    };
    Entry { id: entry_id(entry.log_id), said }
}

fn vote(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

fn raft_vote(vote: Vote) -> RaftVote {
    RaftVote { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
}

fn failed(error: StoreError) -> io::Error {
    io::Error::other(error.to_string())
}

/// How all engines run.
///
/// # Errors
/// Its bounds contradict each other.
pub fn config() -> Result<openraft::Config, ClusterError> {
    let millis = |time: Duration| time.as_millis() as u64;
    let config = openraft::Config {
        cluster_name: "qbc".into(),
        heartbeat_interval: millis(limits::HEARTBEAT),
        election_timeout_min: millis(limits::ELECTION[0]),
        election_timeout_max: millis(limits::ELECTION[1]),
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_payload_entries: 300,
        replication_lag_threshold: 1_000,
        enable_pre_vote: Some(true),
        // A leader that was started again may lack what was agreed in its term. In a new term it learns of all first.
        enable_leader_restore: Some(false),
        // The others write while this node does.
        broadcast_submitted_on_append: Some(true),
        backoff: "50ms 50ms 50ms".into(),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| ClusterError::Refused(error.to_string()))
}

/// Who leads a group, as far as its engine here knows.
pub fn leader_of(raft: &Raft) -> Option<NodeId> {
    raft.metrics().borrow_watched().current_leader
}

/// The last entry that another node is known to have of a group that this node leads.
pub fn matched(metrics: &Metrics, node: NodeId) -> Option<u64> {
    Some(metrics.replication.as_ref()?.get(&node)?.as_ref()?.index)
}

/// The log of one group.
#[derive(Clone)]
pub struct GroupStorage {
    store: Arc<Store>,
    group: Group,
    /// How many of its entries are durable here.
    durable: Arc<watch::Sender<u64>>,
    /// What heals chains that are damaged.
    node: Option<Node>,
}

impl GroupStorage {
    /// The log of a group as it stands in the store.
    pub fn new(store: Arc<Store>, group: Group) -> GroupStorage {
        let durable = store.group(group).last.map_or(0, |last| last.index + 1);
        GroupStorage { store, group, durable: Arc::new(watch::Sender::new(durable)), node: None }
    }

    /// The same, of which what is damaged is healed when it is read: an engine that cannot read its log ends.
    pub fn healed_by(self, node: Node) -> GroupStorage {
        GroupStorage { node: Some(node), ..self }
    }

    async fn read(&self, (start, end): (u64, u64), bytes: usize) -> Result<Vec<RaftEntry>, io::Error> {
        // What is read from the log keeps the thread for a while.
        let is_quick = self.store.is_recent(self.group, start);
        let read = || {
            let read = || self.store.entries(self.group, start..end, bytes);
            if is_quick { read() } else { tokio::task::block_in_place(read) }
        };
        let entries = match (read(), &self.node) {
            (Err(StoreError::Damaged(detail)), Some(node)) => {
                tracing::error!(group = %self.group, "the log of the group is damaged: {detail}");
                node.heal_group(self.group).await;
                read()
            }
            (entries, _) => entries,
        };
        Ok(entries.map_err(failed)?.into_iter().map(raft_entry).collect())
    }
}

fn bounds<R: RangeBounds<u64>>(range: &R) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for GroupStorage {
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = Result<RaftEntry, io::Error>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let storage = self.clone();
        // A part at a time, whatever the range.
        let parts = stream::unfold(start, move |next| {
            let storage = storage.clone();
            async move {
                if next >= end {
                    return None;
                }
                match storage.read((next, end), limits::REPLICATION_BYTES).await {
                    Ok(entries) if entries.is_empty() => None,
                    Ok(entries) => {
                        let after = next + entries.len() as u64;
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), after))
                    }
                    Err(error) => Some((vec![Err(error)], end)),
                }
            }
        });
        Box::pin(parts.flat_map(stream::iter))
    }

    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(bounds(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.store.group(self.group).vote.map(raft_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read((start, end), limits::REPLICATION_BYTES).await
    }
}

impl RaftLogStorage<Types> for GroupStorage {
    type LogReader = GroupStorage;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.store.group(self.group);
        Ok(LogState { last_purged_log_id: state.purged.map(log_id), last_log_id: state.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> GroupStorage {
        self.clone()
    }

    async fn save_vote(&mut self, given: &RaftVote) -> Result<(), io::Error> {
        let (told, durable) = oneshot::channel();
        self.store.save_vote(self.group, vote(given), Box::new(|done| drop(told.send(done))));
        durable.await.map_err(io::Error::other)?.map_err(failed)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(id) = committed {
            self.store.save_committed(self.group, entry_id(id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.store.group(self.group).committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().map(entry).collect();
        let (end, durable) = (entries.last().map(|entry| entry.id.index + 1), self.durable.clone());
        let done = move |done: Result<(), StoreError>| {
            if let (Some(end), Ok(())) = (end, &done) {
                durable.send_modify(|durable| *durable = end.max(*durable));
            }
            callback.io_completed(done.map_err(failed));
        };
        self.store.append(self.group, entries, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        self.durable.send_modify(|durable| *durable = from.min(*durable));
        self.store.truncate(self.group, from);
        Ok(())
    }

    /// Nothing is ever purged, so nothing asks for this but the engine's own tests of a storage.
    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        self.store.hide(self.group, entry_id(id));
        Ok(())
    }
}

/// What becomes of agreed entries of one group.
#[derive(Clone)]
pub struct Machine {
    storage: GroupStorage,
    /// The chains of the group; the group of the cluster itself has none.
    core: Option<Arc<Core>>,
    /// Is told when what the cluster knows has changed.
    changed: Arc<watch::Sender<u64>>,
}

impl Machine {
    /// Of the group of this storage.
    pub fn new(storage: GroupStorage, core: Option<Arc<Core>>, changed: Arc<watch::Sender<u64>>) -> Machine {
        Machine { storage, core, changed }
    }

    fn apply_one(&self, applied: &Entry) -> Result<bool, StoreError> {
        let index = applied.id.index;
        match &self.core {
            Some(core) => core.apply(index, &applied.said),
            None => {
                let is_as_expected =
                    self.storage.store.apply(self.storage.group, index, &applied.said, Default::default())?.1;
                self.changed.send_modify(|changes| *changes += 1);
                Ok(is_as_expected)
            }
        }
    }

    /// Waits while the index lacks an applied entry, since the disk was full: the next one may need it. The others go on meanwhile.
    async fn wait_for_index(&self) {
        let store = &self.storage.store;
        while store.is_behind() {
            match tokio::task::block_in_place(|| store.recover()) {
                Ok(()) => return,
                Err(StoreError::Full) => {}
                Err(error) => tracing::error!("the index cannot be brought up to the log: {error}"),
            }
            tokio::time::sleep(limits::ROOM_PAUSE).await;
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = NoSnapshots;
    type SnapshotData = ();

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.storage.store.group(self.storage.group);
        let membership = state
            .membership
            .map(|(id, membership)| StoredMembership::new(Some(log_id(id)), raft_membership(&membership)));
        Ok((state.applied.map(log_id), membership.unwrap_or_default()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut durable = self.storage.durable.subscribe();
        while let Some(next) = entries.next().await {
            let (applied, responder) = next?;
            let applied = entry(applied);
            // A majority may be faster than this node's own disk.
            durable.wait_for(|durable| *durable > applied.id.index).await.map_err(io::Error::other)?;
            let result = tokio::task::block_in_place(|| self.apply_one(&applied)).map_err(|error| {
                tracing::error!(group = %self.storage.group, "an agreed entry cannot be applied: {error}");
                failed(error)
            })?;
            if let Some(responder) = responder {
                responder.send(result);
            }
            self.wait_for_index().await;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, _snapshot: ()) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(None)
    }
}

/// There are none: the log has all.
pub struct NoSnapshots;

fn no_snapshots() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "there are no snapshots")
}

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Err(no_snapshots())
    }
}
