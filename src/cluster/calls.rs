//! What nodes of a cluster ask each other, and the answers; what their [engines](super::engine) say to each other gets there from here.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    time::Instant,
};

use tokio::time::sleep;

use super::{
    Cluster, ClusterError, HEARS_TOO_FEW, Inner, agreement_timeout, carry,
    engine::{Raft, ReadPolicy, leader_of},
    join::Joined,
    link::{self, Answer, Answers, Call, Known, LinkError},
    net, said,
};
use crate::{
    core::{count::Index, hash::Hash},
    limits,
    node::{Carried, Carrier, FetchedRun, Placements},
    store::{Group, LogRecord, NodeId},
    writer::Refused,
};

/// A leader is asked up to where it has come.
pub(super) const READ_INDEX: u8 = 16;
/// A change of the cluster is proposed to the leader of [`Group::META`], which says whether it was as expected.
pub(super) const CHANGE: u8 = 17;
/// A node asks to be taken in.
pub(super) const JOIN: u8 = 18;
/// A node asks how another stands.
pub(super) const STATUS: u8 = 19;
/// Transactions are carried to the node that leads their chain.
const CARRY: u8 = 20;
/// A run of a chain's transactions is asked for, which is damaged where it is asked: the id of the chain (32), the index of the first (8).
/// The answer is the [record](LogRecord::encode).
const RUN: u8 = 21;
/// A node is asked whether it is fit to lead.
pub(super) const FITNESS: u8 = 22;
/// A node is asked whether it is there.
pub(super) const PING: u8 = 23;

pub(super) struct CarrierOf(pub(super) Weak<Inner>);

impl Carrier for CarrierOf {
    fn carry(&self, group: Group, carried: Carried) -> Pin<Box<dyn Future<Output = Placements> + Send>> {
        let Some(cluster) = self.0.upgrade().map(Cluster) else { return Box::pin(async { Err(Refused::Stopping) }) };
        // What has ids is accepted once, however often it comes, so it need not wait for a leader that is silent. Lines of a stream keep
        // their order.
        let is_exact = !carried.each_for_itself && carried.transactions.iter().all(|one| one.id().is_some());
        let is_stream = carried.each_for_itself;
        let patience = move |until: Instant| {
            let left = until.saturating_duration_since(Instant::now()) + limits::LINK_LEAST;
            match (is_exact, is_stream) {
                (true, _) => left.min(limits::CARRY_AGAIN),
                // Much may wait before it, and its client is answered at the end.
                (false, true) => left + limits::AGREEMENT_TIMEOUT,
                (false, false) => left,
            }
        };
        // Where there is a connection, it is in line when this returns: what one client streams keeps its order.
        let first = cluster.known_leader(group).filter(|leader| *leader != cluster.me()).and_then(|leader| {
            let link = cluster.link_to(leader).ok()?;
            Some(link.call(
                CARRY,
                group,
                &mut |content| carry::encode(&carried, content),
                patience(agreement_timeout()),
            ))
        });
        Box::pin(async move {
            let (until, mut sent, mut is_unknown) = (agreement_timeout(), first, false);
            loop {
                let answer = match sent.take() {
                    Some(answer) => answer.await,
                    None => match cluster.leader(group, until).await {
                        Some(leader) if leader == cluster.me() => return cluster.0.node.inject_carried(carried).await,
                        Some(leader) => match cluster.link_to(leader) {
                            Ok(link) => {
                                let encode = &mut |content: &mut Vec<u8>| carry::encode(&carried, content);
                                link.call(CARRY, group, encode, patience(until)).await
                            }
                            Err(_) => Err(LinkError::NotSent(leader.to_string())),
                        },
                        None if is_unknown => return Err(Refused::NotAgreed),
                        None => return Err(Refused::NotLeading(None)),
                    },
                };
                let placed = match answer {
                    Ok(answer) => carry::decode_outcome(&answer).unwrap_or(Err(Refused::NotAgreed)),
                    Err(LinkError::NotSent(_)) => Err(Refused::NotLeading(None)),
                    Err(_) => Err(Refused::NotAgreed),
                };
                is_unknown |= matches!(placed, Err(Refused::NotAgreed));
                match placed {
                    Err(Refused::NotLeading(_) | Refused::NotAgreed)
                        if (is_exact || !is_unknown) && Instant::now() < until =>
                    {
                        sleep(limits::HEARTBEAT).await;
                    }
                    // Nobody has taken it this time.
                    Err(Refused::NotLeading(_)) if is_unknown => return Err(Refused::NotAgreed),
                    placed => return placed,
                }
            }
        })
    }

    fn catch_up(&self, group: Group) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let cluster = self.0.upgrade().map(Cluster);
        Box::pin(async move {
            match cluster {
                Some(cluster) => cluster.linearize(group, agreement_timeout()).await.is_ok(),
                None => false,
            }
        })
    }

    fn others(&self, group: Group) -> Vec<NodeId> {
        let Some(cluster) = self.0.upgrade().map(Cluster) else { return Vec::new() };
        let keep = cluster.knowledge().groups.remove(&group).map(|info| info.replicas).unwrap_or_default();
        keep.into_iter().filter(|node| *node != cluster.me()).collect()
    }

    fn run(&self, node: NodeId, group: Group, chain: Hash, first: Index) -> FetchedRun {
        let link = self.0.upgrade().map(Cluster).map(|cluster| cluster.link_to(node));
        Box::pin(async move {
            let link = link.ok_or("this node stops")?.map_err(|error| error.to_string())?;
            let asked = [&chain.as_bytes()[..], &first.get().to_be_bytes()].concat();
            let answer = link.call(RUN, group, &mut |content| content.extend_from_slice(&asked), limits::LINK_TIMEOUT);
            let answer = answer.await.map_err(|error| error.to_string())?;
            LogRecord::decode(&mut &answer[..]).ok_or_else(|| "its answer is not understood".into())
        })
    }
}

/// What is asked for with [`RUN`].
fn run_of(content: &[u8]) -> Option<(Hash, Index)> {
    let (chain, first) = content.split_first_chunk()?;
    Some((Hash::from_bytes(*chain), Index::new(u64::from_be_bytes(*first.as_array()?))))
}

pub(super) struct AnswersOf(pub(super) Weak<Inner>);

impl Answers for AnswersOf {
    fn known(&self, node: NodeId) -> Known {
        self.0.upgrade().map(|inner| Cluster(inner).known(node)).unwrap_or_default()
    }

    fn answer(&self, call: Call) -> Answer {
        let Some(cluster) = self.0.upgrade().map(Cluster) else {
            return Box::pin(async { Err("the node stops".into()) });
        };
        Box::pin(async move {
            let Call { from, kind, group, content, known } = call;
            match kind {
                link::HELLO => {
                    cluster.greet(from, &content, &known).await?;
                    Ok(cluster.0.hello())
                }
                net::APPEND | net::VOTE | net::PRE_VOTE | net::TRANSFER => {
                    let raft = match cluster.running(group) {
                        Some(raft) => raft,
                        None => cluster.open_asked(group).await?,
                    };
                    let answer = net::answer(raft.clone(), kind, content).await;
                    if kind == net::APPEND && answer.is_ok() && leader_of(&raft) == Some(from) {
                        cluster.hear(group);
                    }
                    answer
                }
                READ_INDEX => cluster.read_index(group).await,
                CHANGE => {
                    let known = cluster.knowledge();
                    if !known.nodes.contains_key(&from) {
                        return Err("the node is not of the cluster".into());
                    }
                    // Nothing is said where this node leads no more, or cannot know what becomes of it: then it is asked for again.
                    if !cluster.leads(Group::META) {
                        return Ok(Vec::new());
                    }
                    match cluster.try_change(&Arc::new(content.to_vec()), agreement_timeout()).await {
                        Ok(changed) => Ok(vec![changed.into()]),
                        Err(ClusterError::Unavailable(_)) => Ok(Vec::new()),
                        Err(error) => Err(error.to_string()),
                    }
                }
                JOIN => {
                    let joined = match cluster.take_in(from, said(&content)?).await {
                        Err(ClusterError::Unavailable(reason)) => Joined::Later(reason),
                        joined => joined.map_err(|error| error.to_string())?,
                    };
                    Ok(serde_json::to_vec(&joined).expect("it is JSON"))
                }
                RUN => {
                    if !cluster.knowledge().nodes.contains_key(&from) {
                        return Err("the node is not of the cluster".into());
                    }
                    let (chain, first) = run_of(&content).ok_or("what is said is not understood")?;
                    let run = cluster.0.node.read_store(move |store| store.run_record(chain, first)).await;
                    let (run, mut answer) = (run.map_err(|error| error.to_string())?, Vec::new());
                    run.encode(&mut answer);
                    Ok(answer)
                }
                PING => Ok(Vec::new()),
                FITNESS => cluster.check_fitness(group).map(|()| Vec::new()),
                CARRY => carry::answer(&cluster.0.node, &content).await,
                STATUS => Ok(serde_json::to_vec(&cluster.own_status()).expect("it is JSON")),
                _ => Err("what is said is not understood".into()),
            }
        })
    }
}

impl Cluster {
    /// Opens a group of which another node speaks.
    async fn open_asked(&self, group: Group) -> Result<Raft, String> {
        if group == Group::META {
            // This node has asked to be taken in, and others were faster.
            return self.be_member_of().await.map_err(|error| error.to_string());
        }
        let is_known = self.knowledge().groups.get(&group).is_some_and(|info| info.replicas.contains(&self.me()));
        match is_known && self.is_active() {
            true => self.open(group).await.map_err(|error| error.to_string()),
            false => Err(format!("the group {group} is not of this node")),
        }
    }

    async fn be_member_of(&self) -> Result<Raft, ClusterError> {
        Box::pin(self.be_member()).await?;
        self.running(Group::META).ok_or_else(|| ClusterError::Unavailable("the node stops".into()))
    }

    async fn read_index(&self, group: Group) -> Result<Vec<u8>, String> {
        let Some(raft) = self.running(group) else { return Err("the group does not run here".into()) };
        let read = match raft.get_read_log_id(ReadPolicy::LeaseRead).await {
            Ok(read) => read,
            Err(_) => raft.get_read_log_id(ReadPolicy::ReadIndex).await.map_err(|_| HEARS_TOO_FEW)?,
        };
        Ok(read.0.index().to_be_bytes().to_vec())
    }
}
