//! What the engines of groups say to each other, over the [links](super::link) between nodes.

mod pace;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    OptionalSend,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    engine::{LeaderId, LogId, Raft, RaftVote, Snapshot, Types, entry, entry_id, log_id, raft_entry},
    link::{Link, LinkError},
};
use crate::{
    limits,
    store::{Entry, EntryId, Group, LogRecord, NodeId, Said},
};
use pace::Pace;

pub use pace::Turns;

/// Entries are to be appended.
pub const APPEND: u8 = 1;
/// A vote is asked for.
pub const VOTE: u8 = 2;
/// It is asked whether a vote would be given.
pub const PRE_VOTE: u8 = 3;
/// Another node is to lead.
pub const TRANSFER: u8 = 4;

/// Finds the way to a node.
pub trait Ways: Send + Sync + 'static {
    /// The link to a node that was at this host; nothing when this node stops.
    fn link(&self, node: NodeId, host: &str) -> Option<Arc<Link>>;
}

/// The network of one group.
#[derive(Clone)]
pub struct Net {
    /// The way to each node.
    pub ways: Arc<dyn Ways>,
    /// The group.
    pub group: Group,
    /// The nodes that lag far, of all groups, are fed in turns.
    pub turns: Turns,
}

/// The way from this node to another, for one group.
pub struct Client {
    ways: Arc<dyn Ways>,
    node: NodeId,
    host: String,
    group: Group,
    pace: Arc<Mutex<Pace>>,
    turns: Turns,
}

impl RaftNetworkFactory<Types> for Net {
    type Network = Client;

    async fn new_client(&mut self, node: NodeId, host: &String) -> Client {
        let (ways, pace) = (self.ways.clone(), Arc::new(Mutex::new(Pace::new(Instant::now()))));
        Client { ways, node, host: host.clone(), group: self.group, pace, turns: self.turns.clone() }
    }
}

/// Bytes of an entry as it is sent beside what it says.
const ENTRY_HEAD: usize = 64;

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn vote(&mut self, vote: &RaftVote) {
        self.number(vote.leader_id.term);
        self.0.extend_from_slice(&vote.leader_id.node_id.0);
        self.0.push(vote.committed.into());
    }

    fn id(&mut self, id: EntryId) {
        self.number(id.term);
        self.0.extend_from_slice(&id.leader.0);
        self.number(id.index);
    }

    fn maybe_id(&mut self, id: Option<LogId>) {
        self.0.push(id.is_some().into());
        if let Some(id) = id {
            self.id(entry_id(id));
        }
    }

    fn entry(&mut self, entry: &Entry) {
        self.id(entry.id);
        match &entry.said {
            Said::Blank => self.0.push(b'b'),
            Said::Effects(records) => {
                self.0.push(b'e');
                self.number(records.len() as u64);
                records.iter().for_each(|record| record.encode(&mut self.0));
            }
            Said::Membership(membership) => {
                self.0.push(b'm');
                self.bytes(&serde_json::to_vec(&**membership).expect("a membership is JSON"));
            }
            Said::Cluster(json) => {
                self.0.push(b'c');
                self.bytes(json);
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.as_array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    fn node(&mut self) -> Option<NodeId> {
        self.take(32)?.as_array().map(|key| NodeId(*key))
    }

    fn vote(&mut self) -> Option<RaftVote> {
        let leader_id = LeaderId { term: self.number()?, node_id: self.node()? };
        Some(RaftVote { leader_id, committed: self.flag()? })
    }

    fn id(&mut self) -> Option<EntryId> {
        Some(EntryId { term: self.number()?, leader: self.node()?, index: self.number()? })
    }

    fn maybe_id(&mut self) -> Option<Option<LogId>> {
        match self.flag()? {
            true => self.id().map(|id| Some(log_id(id))),
            false => Some(None),
        }
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn entry(&mut self) -> Option<Entry> {
        let id = self.id()?;
        let said = match self.byte()? {
            b'b' => Said::Blank,
            b'e' => {
                let count = self.number()?;
                let records = (0..count).map(|_| LogRecord::decode(&mut self.0)).collect::<Option<Vec<_>>>()?;
                Said::Effects(Arc::new(records))
            }
            b'm' => Said::Membership(Arc::new(serde_json::from_slice(self.bytes()?).ok()?)),
            b'c' => Said::Cluster(Arc::new(self.bytes()?.to_vec())),
            _ => return None,
        };
        Some(Entry { id, said })
    }
}

fn away(error: LinkError) -> RPCError<Types> {
    match error {
        LinkError::NotSent(_) | LinkError::Away(_) => RPCError::Unreachable(Unreachable::new(&error)),
        _ => RPCError::Network(NetworkError::new(&error)),
    }
}

fn stops() -> RPCError<Types> {
    away(LinkError::Away("of this process, which stops,".into()))
}

fn malformed() -> RPCError<Types> {
    away(LinkError::Refused("the other node answers what is not understood".into()))
}

impl Client {
    fn append(
        &self,
        request: &AppendEntriesRequest<Types>,
        patience: Duration,
    ) -> impl Future<Output = Result<AppendEntriesResponse<Types>, RPCError<Types>>> + Send + 'static + use<> {
        // Looked up each time: a node may have moved to another host.
        let link = self.ways.link(self.node, &self.host);
        let answer = link.map(|link| {
            link.call(
                APPEND,
                self.group,
                &mut |content| {
                    let mut writer = Writer(std::mem::take(content));
                    writer.vote(&request.vote);
                    writer.maybe_id(request.prev_log_id);
                    writer.maybe_id(request.leader_commit);
                    writer.number(request.entries.len() as u64);
                    let entries: Vec<Entry> = request.entries.iter().map(|next| entry(next.clone())).collect();
                    // A buffer that grows would have up to twice as much.
                    writer.0.reserve(entries.iter().map(|entry| ENTRY_HEAD + entry.said.bytes()).sum());
                    entries.iter().for_each(|entry| writer.entry(entry));
                    *content = writer.0;
                },
                patience,
            )
        });
        async move {
            let answer = answer.ok_or_else(stops)?.await.map_err(away)?;
            let mut reader = Reader(&answer);
            let read = || {
                Some(match reader.byte()? {
                    0 => AppendEntriesResponse::Success,
                    1 => AppendEntriesResponse::PartialSuccess(reader.maybe_id()?),
                    2 => AppendEntriesResponse::Conflict,
                    _ => AppendEntriesResponse::HigherVote(reader.vote()?),
                })
            };
            let mut read = read;
            read().ok_or_else(malformed)
        }
    }

    async fn ask(
        &self,
        kind: u8,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let link = self.ways.link(self.node, &self.host).ok_or_else(stops)?;
        let answer = link.call(
            kind,
            self.group,
            &mut |content| {
                let mut writer = Writer(std::mem::take(content));
                writer.vote(&request.vote);
                writer.maybe_id(request.last_log_id);
                writer.0.push(request.leadership_transfer.into());
                *content = writer.0;
            },
            option.hard_ttl().max(limits::HEARTBEAT),
        );
        let answer = answer.await.map_err(away)?;
        let mut reader = Reader(&answer);
        let mut read = || Some(VoteResponse::new(reader.vote()?, reader.maybe_id()?, reader.flag()?));
        read().ok_or_else(malformed)
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.append(&request, patience(&option)).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let patience = patience(&option);
        Box::pin(async move {
            let client: &Client = self;
            let pace = move || client.pace.lock().expect("no holder of this lock panics");
            let answers = input
                .then(move |request| {
                    let committed = request.leader_commit.map_or(0, |id| id.index);
                    let last = request.entries.last().map(|entry| entry.log_id.index);
                    let pause = last.map_or(Duration::ZERO, |last| pace().pause(committed, last, Instant::now()));
                    async move {
                        client.turns.pause(pause).await;
                        request
                    }
                })
                .map(move |request| {
                    let (before, last) = (request.prev_log_id, request.entries.last().map(|entry| entry.log_id));
                    let (answer, last, sent) = (client.append(&request, patience), last.or(before), Instant::now());
                    async move {
                        let answer = answer.await;
                        pace().answered(sent.elapsed());
                        answer.map(|answer| {
                            let is_partial =
                                matches!(&answer, AppendEntriesResponse::PartialSuccess(id) if *id != last);
                            (answer.into_stream_result(before, last), is_partial)
                        })
                    }
                })
                // The next one is on its way while the last one is written.
                .buffered(2)
                .scan(false, |has_ended, answer| {
                    if *has_ended {
                        return std::future::ready(None);
                    }
                    *has_ended = match &answer {
                        Ok((Ok(_), is_partial)) => *is_partial,
                        _ => true,
                    };
                    std::future::ready(Some(answer.map(|(result, _)| result)))
                });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(VOTE, request, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(PRE_VOTE, request, option).await
    }

    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let none = LinkError::Refused("there are no snapshots".into());
        Err(StreamingError::Unreachable(Unreachable::new(&none)))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let link = self.ways.link(self.node, &self.host).ok_or_else(stops)?;
        let answer = link.call(
            TRANSFER,
            self.group,
            &mut |content| {
                let mut writer = Writer(std::mem::take(content));
                writer.vote(request.from_leader());
                writer.0.extend_from_slice(&request.to_node_id().0);
                writer.maybe_id(request.last_log_id().copied());
                *content = writer.0;
            },
            patience(&option),
        );
        answer.await.map_err(away)?;
        Ok(Ok(()))
    }
}

/// A disk may be slower than a network.
fn patience(option: &RPCOption) -> Duration {
    option.hard_ttl().max(limits::LINK_TIMEOUT)
}

/// Answers what the engine of the same group on another node says. The request is in the engine's line when this was polled
/// once.
pub async fn answer(raft: Raft, kind: u8, content: Bytes) -> Result<Vec<u8>, String> {
    let not_understood = || "what is said is not understood".to_owned();
    let mut reader = Reader(&content);
    let mut writer = Writer(Vec::with_capacity(128));
    match kind {
        APPEND => {
            let mut read = || {
                let (vote, prev_log_id, leader_commit) = (reader.vote()?, reader.maybe_id()?, reader.maybe_id()?);
                let count = reader.number()?;
                let entries = (0..count).map(|_| reader.entry().map(raft_entry)).collect::<Option<Vec<_>>>()?;
                Some(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
            };
            let request = read().ok_or_else(not_understood)?;
            match raft.append_entries(request).await.map_err(|error| error.to_string())? {
                AppendEntriesResponse::Success => writer.0.push(0),
                AppendEntriesResponse::PartialSuccess(id) => {
                    writer.0.push(1);
                    writer.maybe_id(id);
                }
                AppendEntriesResponse::Conflict => writer.0.push(2),
                AppendEntriesResponse::HigherVote(vote) => {
                    writer.0.push(3);
                    writer.vote(&vote);
                }
            }
        }
        VOTE | PRE_VOTE => {
            let mut read = || {
                let mut request = VoteRequest::new(reader.vote()?, reader.maybe_id()?);
                request.leadership_transfer = reader.flag()?;
                Some(request)
            };
            let request = read().ok_or_else(not_understood)?;
            let answer = if kind == VOTE { raft.vote(request).await } else { raft.pre_vote(request).await };
            let answer = answer.map_err(|error| error.to_string())?;
            writer.vote(&answer.vote);
            writer.maybe_id(answer.last_log_id);
            writer.0.push(answer.vote_granted.into());
        }
        TRANSFER => {
            let mut read = || Some(TransferLeaderRequest::new(reader.vote()?, reader.node()?, reader.maybe_id()?));
            let request = read().ok_or_else(not_understood)?;
            let answer = raft.handle_transfer_leader(request).await.map_err(|error| error.to_string())?;
            answer.map_err(|error| error.to_string())?;
        }
        _ => return Err(not_understood()),
    }
    Ok(writer.0)
}
