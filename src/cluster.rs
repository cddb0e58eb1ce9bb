//! Several nodes that keep chains together.
//!
//! A **cluster** is a set of nodes with one secret. A **group** is a set of its nodes that keeps some chains: one of them leads, and
//! what a majority has on disk is agreed. Each node has a group of its own, in which it is alone until more replicas are asked for;
//! more groups are made when nodes join, and a new chain goes to the group with the fewest. The group [`Group::META`], of all nodes,
//! agrees on what the cluster [knows](knowledge): nodes, groups, and which chain is kept where.
//!
//! A node that nobody joined runs none of this: what it writes is agreed when it is on disk. It writes the log of a group of one all
//! the same, so that others can join it whenever they want.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`link`] | connections between nodes |
//! | `figures` | how the groups of this node stand, in numbers, and which have ended |
//! | `engine`, `net` | agreement within a group, by openraft; the only ones that name it |
//! | [`knowledge`] | what all nodes know, and where new things are placed |
//! | this file | joins, runs the groups of this node, and moves them where they belong |

mod carry;
mod engine;
mod figures;
pub mod knowledge;
pub mod link;
mod net;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::{
    ChangeMembers, Instant as _, ReadPolicy, ServerState, async_runtime::WatchReceiver, errors::ClientWriteError,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    core::{
        count::Index,
        hash::{self, Hash},
        transaction::Timestamp,
    },
    limits,
    node::{Carried, Carrier, FetchedRun, Node, Placements},
    store::{ClusterChange, Group, LogRecord, NodeId, Store, StoreError},
    tls::{self, Stream},
    writer::{Health, Proposed, Refused, Sequencer},
};
pub use figures::Figures;

use engine::{GroupStorage, LeaderId, Machine, Proposal, Raft, Told};
use knowledge::{GroupInfo, Knowledge, NodeInfo, Standing};
use link::{Answer, Answers, Call, Greeting, Identity, Known, Link, LinkError, Purpose, Secret};
use net::{Net, Turns, Ways};

/// A log filter that leaves out what the engine tells of its normal work.
pub const QUIET: &str = "openraft=error";

/// A leader is asked up to where it has come.
const READ_INDEX: u8 = 16;
/// A change of the cluster is proposed to the leader of [`Group::META`], which says whether it was as expected.
const CHANGE: u8 = 17;
/// A node asks to be taken in.
const JOIN: u8 = 18;
/// A node asks how another stands.
const STATUS: u8 = 19;
/// Transactions are carried to the node that leads their chain.
const CARRY: u8 = 20;
/// A run of a chain's transactions is asked for, which is damaged where it is asked: the id of the chain (32), the index of the first (8).
/// The answer is the [record](LogRecord::encode).
const RUN: u8 = 21;
/// A node is asked whether it is fit to lead.
const FITNESS: u8 = 22;
/// A node is asked whether it is there.
const PING: u8 = 23;

/// Why something of the cluster could not be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nobody leads, or too few nodes answer.
    #[error("{0}")]
    Unavailable(String),
    /// It is not allowed, or makes no sense.
    #[error("{0}")]
    Refused(String),
    /// The node's own store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LinkError> for ClusterError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(reason) => ClusterError::Refused(reason),
            away => ClusterError::Unavailable(away.to_string()),
        }
    }
}

/// A node's part in its cluster. A clone is another handle to the same.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    myself: Weak<Inner>,
    node: Node,
    store: Arc<Store>,
    identity: Identity,
    /// Where others reach this node.
    host: String,
    /// What it shows to those who call by TLS, where it has that.
    tls: Option<tls::Server>,
    links: Mutex<HashMap<NodeId, (String, Arc<Link>)>>,
    /// Where nodes are that have called, whatever the cluster knows so far.
    moved: Mutex<HashMap<NodeId, String>>,
    /// The groups that run on this node.
    groups: RwLock<BTreeMap<Group, Raft>>,
    /// The turns of the nodes that this one feeds.
    turns: Turns,
    /// One opening of a group at a time.
    opening: tokio::sync::Mutex<()>,
    /// The groups that are being moved.
    moving: Mutex<BTreeMap<Group, String>>,
    /// When what the nodes know was compared last.
    compared: Mutex<Option<Instant>>,
    /// When this node has given each group back last to the node that is to lead it.
    given_back: Mutex<HashMap<Group, Instant>>,
    /// When each node answered last, and whether it has left the last question unanswered.
    seen: Mutex<HashMap<NodeId, Seen>>,
    /// How each node stands, as it was asked last.
    surveys: Mutex<HashMap<NodeId, Survey>>,
    /// When the leader of each group that runs here was there last, as far as this node knows.
    heard: Mutex<HashMap<Group, Instant>>,
    /// Groups that this node does not keep any more, though its own last word of them may be that it does.
    forgotten: Mutex<BTreeSet<Group>>,
    /// Groups whose engine has ended by itself, and why.
    ended: Mutex<BTreeMap<Group, String>>,
    /// Counts changes of what the cluster knows.
    changed: Arc<watch::Sender<u64>>,
    journal: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Whether the node is in a cluster with others, or was.
    is_active: AtomicBool,
    stopping: watch::Receiver<bool>,
}

/// What a node says that asks to be taken in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Joining {
    id: NodeId,
    host: String,
    version: String,
    /// The names of the chains that it has.
    chains: Vec<String>,
}

/// How a replica of a group stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// The node.
    pub node: NodeId,
    /// `leader`, `follower`, or `learner`, which gets a copy and has no say.
    pub role: String,
    /// Entries that it is known to have.
    pub size: u64,
    /// Entries that it lacks of the leader's.
    pub lag: u64,
}

/// How a group stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its id.
    pub id: Group,
    /// The nodes that keep it.
    pub replicas: Vec<Replica>,
    /// Who leads, if anybody does.
    pub leader: Option<NodeId>,
    /// The term of the election.
    pub term: u64,
    /// How many chains it has.
    pub chains: u64,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct NodeStatus {
    /// The groups that it leads.
    groups: Vec<GroupStatus>,
    /// Groups that it keeps.
    keeps: u64,
    /// Bytes of the transactions that it keeps.
    bytes: u64,
    /// What moves.
    busy: Vec<String>,
}

/// When a node was heard of last.
#[derive(Clone, Copy)]
struct Seen {
    /// Nothing where it never answered this node.
    last: Option<(Instant, Timestamp)>,
    /// Whether it has left the last question unanswered.
    is_silent: bool,
}

impl Seen {
    /// How a node is that was heard of so.
    fn state(seen: Option<&Seen>) -> &'static str {
        match seen {
            Some(Seen { last: Some((last, _)), is_silent }) => match last.elapsed() {
                ago if ago < limits::SILENT && !is_silent => "live",
                ago if ago < limits::SUSPECT => "suspect",
                _ => "down",
            },
            _ => "down",
        }
    }
}

/// What a node was asked, and says of itself. All who want to know it within [`limits::STATUS_EVERY`] share one question.
#[derive(Clone)]
struct Survey {
    asked: Instant,
    /// The answer, when there is one; nothing in it where the node gave none.
    answer: watch::Receiver<Option<Option<Arc<NodeStatus>>>>,
    /// What it said before.
    before: Option<Arc<NodeStatus>>,
}

impl Survey {
    /// Whether there is an answer, or there will be none.
    fn is_over(&self) -> bool {
        self.answer.borrow().is_some() || self.answer.has_changed().is_err()
    }

    /// What the node said last.
    fn newest(&self) -> Option<Arc<NodeStatus>> {
        self.answer.borrow().clone().flatten().or_else(|| self.before.clone())
    }
}

impl Cluster {
    /// The part of a node that others reach at this host. It does nothing before the node is [joined](Cluster::join), or joins.
    ///
    /// # Errors
    /// The groups of the node cannot be opened.
    pub async fn start(
        node: Node,
        secret: Secret,
        host: String,
        tls: Option<tls::Server>,
        stopping: watch::Receiver<bool>,
    ) -> Result<Cluster, ClusterError> {
        let identity = Identity { key: node.signing_key(), secret, has_tls: tls.is_some() };
        let store = node.store();
        let inner = Arc::new_cyclic(|myself| Inner {
            myself: myself.clone(),
            node,
            store,
            identity,
            host,
            tls,
            links: Mutex::default(),
            moved: Mutex::default(),
            groups: RwLock::default(),
            turns: Turns::default(),
            opening: tokio::sync::Mutex::default(),
            moving: Mutex::default(),
            compared: Mutex::default(),
            given_back: Mutex::default(),
            seen: Mutex::default(),
            surveys: Mutex::default(),
            heard: Mutex::default(),
            forgotten: Mutex::default(),
            ended: Mutex::default(),
            changed: Arc::new(watch::Sender::new(0)),
            journal: Mutex::default(),
            is_active: false.into(),
            stopping,
        });
        let cluster = Cluster(inner);
        if cluster.0.store.groups().contains(&Group::META) {
            cluster.be_member().await?;
            cluster.announce();
        }
        Ok(cluster)
    }

    /// Whether the node is in a cluster with others, or was.
    pub fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Acquire)
    }

    /// Where a chain is kept that is not here.
    pub fn group_of(&self, chain: &str) -> Option<Group> {
        self.0.store.place_of(chain)
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.0.identity.node()
    }

    /// What the cluster knows.
    pub fn knowledge(&self) -> Knowledge {
        self.0.store.cluster(Knowledge::read)
    }

    /// Runs the groups of this node from now on.
    async fn be_member(&self) -> Result<(), ClusterError> {
        {
            let mut journal = self.0.journal.lock().expect("no holder of this lock panics");
            if journal.is_none() {
                let store = self.0.store.clone();
                let started = std::thread::Builder::new().name("journal".into()).spawn(move || store.run_journal());
                let started =
                    started.map_err(|error| ClusterError::Unavailable(format!("cannot start a thread: {error}")))?;
                *journal = Some(started);
                let carrier = Arc::new(CarrierOf(Arc::downgrade(&self.0)));
                self.0.node.set_cluster(carrier, self.0.identity.secret.signing_key());
                self.0.is_active.store(true, Ordering::Release);
                tokio::spawn(run(Arc::downgrade(&self.0), self.0.stopping.clone()));
                tokio::spawn(look_around(Arc::downgrade(&self.0), self.0.stopping.clone()));
            }
        }
        self.open(Group::META).await?;
        let known = self.knowledge();
        for group in self.0.store.groups() {
            if self.runs_apart(&known, group) && self.may_open(group) {
                self.open(group).await?;
            }
        }
        Ok(())
    }

    /// Whether a group needs an engine here: the node's own does not while the node is alone in it.
    fn runs_apart(&self, known: &Knowledge, group: Group) -> bool {
        if group != self.0.node.own_group() {
            return true;
        }
        let is_to_be_alone = known.groups.get(&group).is_none_or(|info| info.replicas == [self.me()]);
        !(self.is_alone(group) && is_to_be_alone)
    }

    /// Whether all chains of a group are there to take what is agreed, or nobody else could have them healed.
    fn may_open(&self, group: Group) -> bool {
        group == Group::META || self.is_alone(group) || self.0.node.is_whole(group)
    }

    /// Whether this node is the only member of a group.
    fn is_alone(&self, group: Group) -> bool {
        self.0.store.group(group).membership.is_some_and(|(_, members)| members.is_alone(self.me()))
    }

    /// The engine of a group, where it runs on this node.
    fn running(&self, group: Group) -> Option<Raft> {
        self.0.groups.read().expect("no holder of this lock panics").get(&group).cloned()
    }

    /// Starts the engine of a group on this node, if it does not run.
    async fn open(&self, group: Group) -> Result<Raft, ClusterError> {
        let _turn = self.0.opening.lock().await;
        if let Some(raft) = self.running(group) {
            return Ok(raft);
        }
        let core = match group {
            Group::META => None,
            group => Some(tokio::task::block_in_place(|| self.0.node.ensure_group(group))?),
        };
        if !self.may_open(group) {
            let detail = format!("chains of the group {group} are damaged here, and are healed before it runs");
            return Err(ClusterError::Unavailable(detail));
        }
        let start = async {
            let storage = GroupStorage::new(self.0.store.clone(), group).healed_by(self.0.node.clone());
            let machine = Machine::new(storage.clone(), core.clone(), self.0.changed.clone());
            let ways: Arc<dyn Ways> = Arc::new(WaysOf(Arc::downgrade(&self.0)));
            let raft = Raft::new(
                self.me(),
                Arc::new(config()?),
                Net { ways, group, turns: self.0.turns.clone() },
                storage,
                machine,
            )
            .await;
            raft.map_err(|error| ClusterError::Unavailable(format!("the group {group} cannot be opened: {error}")))
        };
        let raft = match &core {
            None => start.await?,
            Some(core) => {
                let mut started = None;
                let change = async {
                    let raft = started.insert(start.await?).clone();
                    let cluster = Arc::downgrade(&self.0);
                    let runtime = tokio::runtime::Handle::current();
                    Ok::<_, ClusterError>(Arc::new(Sequence {
                        cluster,
                        raft,
                        runtime,
                        group,
                        ready: AtomicU64::new(0),
                        has_failed: false.into(),
                    }) as Arc<dyn Sequencer>)
                };
                core.sequence(change).await?;
                started.expect("it was started")
            }
        };
        if self.is_alone(group)
            && let Err(error) = raft.trigger().elect(false).await
        {
            tracing::warn!(%group, "the group has no leader yet: {error}");
        }
        self.hear(group);
        self.0.groups.write().expect("no holder of this lock panics").insert(group, raft.clone());
        tokio::spawn(figures::watch(Arc::downgrade(&self.0), group, raft.clone()));
        tracing::info!(%group, "the group runs on this node");
        Ok(raft)
    }

    /// Makes a cluster of this node alone, if it is in none, with all chains that it has.
    async fn found(&self) -> Result<(), ClusterError> {
        if self.is_active() {
            return Ok(());
        }
        tokio::task::block_in_place(|| self.0.store.found(Group::META, self.me()))?;
        self.be_member().await?;
        let (me, own) = (self.me(), self.0.node.own_group());
        let mut set = BTreeMap::from([
            knowledge::cluster_id(hash::origin(&me.to_string()).to_string()),
            knowledge::node(me, Some(&NodeInfo::new(self.0.host.clone()))),
            knowledge::group(own, Some(&GroupInfo { replicas: vec![me], founder: me, want: 1 })),
        ]);
        for (name, _) in self.0.node.chains(None, usize::MAX) {
            set.extend([knowledge::chain(name.as_str(), Some(own))]);
        }
        self.change(ClusterChange { expect: BTreeMap::new(), set }).await?;
        tracing::info!("this node is the first of a cluster");
        Ok(())
    }

    /// Tells another node of the cluster where this one is, and takes from it where all are: where all nodes have moved, none finds
    /// another by what it knows.
    async fn meet(&self, host: &str) -> Result<(), ClusterError> {
        let (node, answer) =
            link::call_once(&self.0.identity, host, link::HELLO, &self.0.hello(), limits::JOIN_TIMEOUT).await?;
        // Nothing was known of it: how far it is, the connections that follow compare.
        self.greet(node, &answer, &Known::new()).await.map_err(ClusterError::Refused)?;
        let told: Hello = said(&answer).map_err(ClusterError::Refused)?;
        let mut moved = self.0.moved.lock().expect("no holder of this lock panics");
        let others = told.hosts.into_iter().filter(|(other, _)| *other != self.me() && *other != node);
        moved.extend(others);
        Ok(())
    }

    /// Has this node taken into the cluster of the node at `host`. One that is in it already meets that node again.
    ///
    /// # Errors
    /// It cannot be reached, has another secret, or refuses.
    pub async fn join(&self, first: &str) -> Result<(), ClusterError> {
        if self.is_active() && self.knowledge().nodes.len() > 1 {
            if let Err(error) = self.meet(first).await {
                tracing::warn!("the node at {first} is not met again: {error}");
                return Ok(());
            }
            // Who was taken out has not heard of it.
            return match self.be_taken_in(first).await {
                Err(ClusterError::Refused(reason)) => Err(ClusterError::Refused(reason)),
                _ => Ok(()),
            };
        }
        self.be_taken_in(first).await?;
        self.be_member().await?;
        // Until it knows the cluster, it cannot say where a chain is.
        let mut changed = self.0.changed.subscribe();
        let me = self.me();
        let known = async {
            while !self.knowledge().nodes.contains_key(&me) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let late = || ClusterError::Unavailable("the cluster has taken this node in, but sends it nothing".into());
        timeout(limits::JOIN_TIMEOUT, known).await.map_err(|_| late())
    }

    /// Asks the node at `first`, and whomever it names, to take this node in.
    async fn be_taken_in(&self, first: &str) -> Result<(), ClusterError> {
        let chains = self.0.node.chains(None, usize::MAX).into_iter().map(|(name, _)| name.to_string());
        let joining = Joining {
            id: self.me(),
            host: self.0.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            chains: chains.collect(),
        };
        let said = serde_json::to_vec(&joining).expect("it is JSON");
        let mut host = first.to_owned();
        let since = Instant::now();
        loop {
            let answer = link::call_once(&self.0.identity, &host, JOIN, &said, limits::JOIN_TIMEOUT).await;
            match answer {
                Ok((_, answer)) => match serde_json::from_slice::<Joined>(&answer) {
                    Ok(Joined::Taken) => return Ok(()),
                    Ok(Joined::Ask(leader)) => host = leader,
                    Err(_) => {
                        return Err(ClusterError::Refused(format!("the node {host} answers what is not understood")));
                    }
                },
                Err(LinkError::Refused(reason)) => {
                    return Err(ClusterError::Refused(format!("the node {host} refuses: {reason}")));
                }
                Err(error) if since.elapsed() > limits::JOIN_TIMEOUT || host == first => return Err(error.into()),
                // The node that led has died: the first one knows soon who leads now.
                Err(_) => host = first.to_owned(),
            }
            sleep(limits::HEARTBEAT).await;
        }
    }

    /// Takes a node in that asks for it.
    async fn take_in(&self, from: NodeId, joining: Joining) -> Result<Joined, ClusterError> {
        if from != joining.id {
            return Err(ClusterError::Refused("it speaks for another node".into()));
        }
        self.found().await?;
        // A member needs nobody's leave, and those that were taken out are known everywhere in the end.
        let known = self.knowledge();
        if known.gone.contains(&from) {
            return Err(ClusterError::Refused(
                "this node was taken out of the cluster; its key is not taken in again: start it with a new data folder"
                    .into(),
            ));
        }
        if known.nodes.contains_key(&from) {
            return Ok(Joined::Taken);
        }
        let Some(leader) = self.leader(Group::META, agreement_timeout()).await else {
            return Err(ClusterError::Unavailable("nobody leads the cluster at the moment: try again".into()));
        };
        if leader != self.me() {
            let host = known.nodes.get(&leader).map(|node| node.host.clone());
            return host.map(Joined::Ask).ok_or_else(|| ClusterError::Unavailable("the leader has no host".into()));
        }
        let known = self.knowledge();
        let hidden: Vec<&str> =
            joining.chains.iter().map(String::as_str).filter(|name| self.group_of(name).is_some()).collect();
        if !hidden.is_empty() {
            return Err(ClusterError::Refused(format!(
                "the cluster has chains with the names of this node's: {}. A chain keeps its name for ever, so start this one \
                 with a new data folder (--data DIR); the old folder can go on as a node of its own",
                hidden.join(", ")
            )));
        }
        let own = Group::of(from);
        let info = NodeInfo { version: joining.version, ..NodeInfo::new(joining.host.clone()) };
        let mut set = BTreeMap::from([knowledge::node(from, Some(&info))]);
        if !known.groups.contains_key(&own) {
            set.extend([knowledge::group(own, Some(&GroupInfo { replicas: vec![from], founder: from, want: 1 }))]);
        }
        set.extend(joining.chains.iter().map(|name| knowledge::chain(name, Some(own))));
        self.change(ClusterChange { expect: BTreeMap::new(), set }).await?;
        tracing::info!(id = %from, host = joining.host, "the node is taken in");
        Ok(Joined::Taken)
    }

    /// Tells the others where this node is and of which version, if that is another than before.
    fn announce(&self) {
        let cluster = self.clone();
        tokio::spawn(async move {
            loop {
                let (me, known) = (cluster.me(), cluster.knowledge());
                let Some(info) = known.nodes.get(&me) else { return };
                let to = NodeInfo { standing: info.standing, ..NodeInfo::new(cluster.0.host.clone()) };
                if *info == to {
                    return;
                }
                // Only if nobody has changed it: the node may be on its way out.
                let (key, before) = knowledge::node(me, Some(info));
                let set = BTreeMap::from([knowledge::node(me, Some(&to))]);
                if cluster
                    .change(ClusterChange { expect: BTreeMap::from([(key, before)]), set })
                    .await
                    .is_ok_and(|is_so| is_so)
                {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// Who leads a group that this node keeps, as far as it knows.
    fn known_leader(&self, group: Group) -> Option<NodeId> {
        leader_of(&self.running(group)?)
    }

    /// Who leads a group, as far as this node knows: where nobody does, it waits until then for somebody to.
    pub async fn leader(&self, group: Group, until: Instant) -> Option<NodeId> {
        loop {
            let leader = self.leader_now(group).await;
            if leader.is_some() || Instant::now() > until {
                return leader;
            }
            match self.running(group) {
                Some(raft) => {
                    let wait = raft.wait(Some(limits::HEARTBEAT));
                    let _ = wait.metrics(|metrics| metrics.current_leader.is_some(), "a leader").await;
                }
                // It may be about to be made.
                None => sleep(limits::HEARTBEAT).await,
            }
        }
    }

    /// Who leads a group at the moment. A node that keeps nothing of it asks those that do.
    async fn leader_now(&self, group: Group) -> Option<NodeId> {
        if let Some(raft) = self.running(group) {
            return leader_of(&raft);
        }
        let info = self.knowledge().groups.get(&group)?.clone();
        match info.replicas.as_slice() {
            [only] => Some(*only),
            replicas => {
                // All at once: one that is away would hold up the question to the next.
                let asked = replicas.iter().map(|node| async { self.led_by(*node, group).await.map(|_| *node) });
                let answers = asked.collect::<FuturesUnordered<_>>().filter_map(std::future::ready);
                std::pin::pin!(answers).next().await
            }
        }
    }

    /// Whether this node decides on the writes of a group.
    pub fn leads(&self, group: Group) -> bool {
        match self.running(group) {
            Some(raft) => leader_of(&raft) == Some(self.me()),
            None => self.0.node.leads(group),
        }
    }

    /// Waits until this node has all of a group that was acknowledged before the call, or until then.
    ///
    /// # Errors
    /// Nobody leads, or too few nodes answer.
    pub async fn linearize(&self, group: Group, until: Instant) -> Result<(), ClusterError> {
        let unavailable = |error: String| {
            ClusterError::Unavailable(format!(
                "no majority of the nodes that keep the chain answers: {error}; send again later"
            ))
        };
        let Some(raft) = self.running(group) else {
            let is_alone = !self.is_active() || self.0.store.is_alone(group);
            return if is_alone { Ok(()) } else { Err(unavailable("its group does not run here".into())) };
        };
        loop {
            let read = async {
                let leader = self.leader(group, until).await;
                let leader = leader.ok_or_else(|| unavailable("nobody leads its group".into()))?;
                if leader == self.me() {
                    // While a majority has answered lately, no other node can lead.
                    if raft.ensure_linearizable(ReadPolicy::LeaseRead).await.is_ok() {
                        return Ok(());
                    }
                    let read = raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
                    return read.map(|_| ()).map_err(|error| unavailable(error.to_string()));
                }
                let left = until.saturating_duration_since(Instant::now()).min(limits::LINK_TIMEOUT);
                let answer = self.link_to(leader)?.call(READ_INDEX, group, &mut |_| (), left);
                let answer = answer.await.map_err(|error| unavailable(error.to_string()))?;
                let index = answer.as_array().map(|bytes| u64::from_be_bytes(*bytes));
                let index = index.ok_or_else(|| unavailable("its answer is not understood".into()))?;
                let wait = raft.wait(Some(until.saturating_duration_since(Instant::now())));
                let applied = wait.applied_index_at_least(Some(index), "what the leader has").await;
                applied.map(|_| ()).map_err(|error| unavailable(error.to_string()))
            };
            match read.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => sleep(limits::HEARTBEAT).await,
            }
        }
    }

    /// How old what this node has of a group may be.
    pub fn lag(&self, group: Group) -> Lag {
        let Some(raft) = self.running(group) else { return Lag::default() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let entries =
            metrics.last_log_index.zip(metrics.last_applied).map(|(last, applied)| last.saturating_sub(applied.index));
        let heard = self.0.heard.lock().expect("no holder of this lock panics").get(&group).copied();
        let age = match metrics.current_leader == Some(self.me()) {
            _ if self.is_alone(group) => Duration::ZERO,
            // Others have let it lead until then.
            true => metrics.last_quorum_acked.map_or(Duration::ZERO, |acked| acked.elapsed()),
            false => heard.map_or(Duration::ZERO, |heard| heard.elapsed()),
        };
        Lag { entries: entries.unwrap_or(0), age }
    }

    /// Takes up that a group has a leader, or may have one in a moment.
    fn hear(&self, group: Group) {
        self.0.heard.lock().expect("no holder of this lock panics").insert(group, Instant::now());
    }

    /// Groups that run on this node and have had no leader with a majority for longer than it is waited for one.
    pub fn leaderless(&self) -> Vec<Group> {
        let running: Vec<Group> =
            self.0.groups.read().expect("no holder of this lock panics").keys().copied().collect();
        running.into_iter().filter(|group| self.lag(*group).age > limits::AGREEMENT_TIMEOUT).collect()
    }

    /// The hosts of the other nodes that keep a group.
    pub fn keepers(&self, group: Group) -> Vec<String> {
        let known = self.knowledge();
        let keepers = known.groups.get(&group).map(|info| info.replicas.as_slice()).unwrap_or_default();
        keepers.iter().filter(|node| **node != self.me()).filter_map(|node| self.host_of(*node)).collect()
    }

    /// Changes what the cluster knows, through the leader of [`Group::META`]. Says whether all was as the change expects.
    ///
    /// # Errors
    /// It is not known whether it was or will be made.
    pub async fn change(&self, change: ClusterChange) -> Result<bool, ClusterError> {
        let json = Arc::new(serde_json::to_vec(&change).expect("a change is JSON"));
        let until = agreement_timeout();
        loop {
            let changed = self.try_change(&json, until).await;
            match changed {
                Err(ClusterError::Unavailable(_)) if Instant::now() < until => sleep(limits::HEARTBEAT).await,
                changed => return changed,
            }
        }
    }

    async fn try_change(&self, json: &Arc<Vec<u8>>, until: Instant) -> Result<bool, ClusterError> {
        let nobody = || ClusterError::Unavailable("no majority of the cluster's nodes answers".into());
        let leader = self.leader(Group::META, until).await.ok_or_else(nobody)?;
        if leader != self.me() {
            let link = self.link_to(leader)?;
            let answer = link.call(
                CHANGE,
                Group::META,
                &mut |content| content.extend_from_slice(json),
                limits::AGREEMENT_TIMEOUT,
            );
            return answer.await?.first().map(|changed| *changed == 1).ok_or_else(nobody);
        }
        let raft = self.running(Group::META).ok_or_else(nobody)?;
        let (told, answer) = oneshot::channel();
        let told = Told(Box::new(move |result| drop(told.send(result))));
        let sent = raft.client_write_ff(Proposal::Cluster(json.clone()), Some(told)).await;
        sent.map_err(|error| ClusterError::Unavailable(error.to_string()))?;
        match timeout(limits::AGREEMENT_TIMEOUT, answer).await {
            Ok(Ok(Ok(written))) => Ok(written.data),
            _ => Err(nobody()),
        }
    }

    fn link_to(&self, node: NodeId) -> Result<Arc<Link>, ClusterError> {
        let host = self.0.known_host_of(node);
        let host = host.ok_or_else(|| ClusterError::Unavailable(format!("the node {node} is not in the cluster")))?;
        Ok(self.0.link(node, &host))
    }

    async fn status_of(&self, node: NodeId) -> Result<NodeStatus, ClusterError> {
        if node == self.me() {
            return Ok(self.own_status());
        }
        let answer = self.ask(node, STATUS).await?;
        serde_json::from_slice(&answer).map_err(|_| ClusterError::Refused("its answer is not understood".into()))
    }

    /// Asks another node, and takes up whether it answers.
    async fn ask(&self, node: NodeId, kind: u8) -> Result<Bytes, ClusterError> {
        let answer = self.link_to(node)?.call(kind, Group::META, &mut |_| (), limits::LINK_TIMEOUT).await;
        // One that refuses is there.
        let has_answered = matches!(answer, Ok(_) | Err(LinkError::Refused(_)));
        let mut seen = self.0.seen.lock().expect("no holder of this lock panics");
        let now = (Instant::now(), self.0.node.now());
        let last = if has_answered { Some(now) } else { seen.get(&node).and_then(|seen| seen.last) };
        seen.insert(node, Seen { last, is_silent: !has_answered });
        Ok(answer?)
    }

    /// How a node stands, as it was asked within [`limits::STATUS_EVERY`], or is asked now. Who waits for the answer does so until
    /// [`limits::STATUS_WAIT`] after it was asked, and takes what it said before then.
    async fn survey(&self, node: NodeId) -> Option<Arc<NodeStatus>> {
        let mut survey = {
            let mut surveys = self.0.surveys.lock().expect("no holder of this lock panics");
            match surveys.get(&node) {
                Some(survey) if survey.asked.elapsed() < limits::STATUS_EVERY || !survey.is_over() => survey.clone(),
                last => {
                    let (told, answer) = watch::channel(None);
                    let survey = Survey { asked: Instant::now(), answer, before: last.and_then(Survey::newest) };
                    surveys.insert(node, survey.clone());
                    let cluster = self.clone();
                    tokio::spawn(async move {
                        let answer = cluster.status_of(node).await.ok().map(Arc::new);
                        let _ = told.send(Some(answer));
                    });
                    survey
                }
            }
        };
        let left = limits::STATUS_WAIT.saturating_sub(survey.asked.elapsed());
        let _ = timeout(left, survey.answer.wait_for(Option::is_some)).await;
        survey.newest()
    }

    /// What a node says of a group, if it leads it.
    async fn led_by(&self, node: NodeId, group: Group) -> Option<GroupStatus> {
        self.status_of(node).await.ok()?.groups.into_iter().find(|led| led.id == group)
    }

    /// What the leader of a group says of it.
    async fn status_of_group(&self, group: Group) -> Option<GroupStatus> {
        self.led_by(self.leader_now(group).await?, group).await
    }

    fn own_status(&self) -> NodeStatus {
        let me = self.me();
        let mut status = NodeStatus::default();
        let mut counts: BTreeMap<Group, u64> = BTreeMap::new();
        for chain in self.0.node.chains(None, usize::MAX).into_iter().filter_map(|(_, chain)| chain.ok()) {
            status.bytes += chain.head().bytes;
            *counts.entry(chain.group).or_default() += 1;
        }
        let chains = |group| counts.get(&group).copied().unwrap_or(0);
        for (group, raft) in &*self.0.groups.read().expect("no holder of this lock panics") {
            status.keeps += 1;
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader != Some(me) || metrics.state != ServerState::Leader {
                continue;
            }
            let membership = metrics.membership_config.membership();
            // While the members change, only those are sure that are in the old majority and in the new one.
            let is_voter = |node: &NodeId| membership.get_joint_config().iter().all(|voters| voters.contains(node));
            let last = metrics.last_log_index.map_or(0, |last| last + 1);
            let replica = |node: NodeId| {
                let size = if node == me { last } else { matched(&metrics, node).map_or(0, |index| index + 1) };
                let role = match (node == me, is_voter(&node)) {
                    (true, _) => "leader",
                    (false, true) => "follower",
                    (false, false) => "learner",
                };
                Replica { node, role: role.into(), size, lag: last.saturating_sub(size) }
            };
            let replicas = membership.nodes().map(|(node, _)| replica(*node)).collect();
            let (id, chains) = (*group, chains(*group));
            status.groups.push(GroupStatus { id, replicas, leader: Some(me), term: metrics.current_term, chains });
        }
        let own = self.0.node.own_group();
        if self.running(own).is_none() && self.0.node.leads(own) {
            status.keeps += 1;
            let size = self.0.store.group(own).last.map_or(0, |last| last.index + 1);
            let replica = Replica { node: me, role: "leader".into(), size, lag: 0 };
            let (term, chains) = (1, chains(own));
            status.groups.push(GroupStatus { id: own, replicas: vec![replica], leader: Some(me), term, chains });
        }
        let moving = self.0.moving.lock().expect("no holder of this lock panics");
        status.busy = moving.values().cloned().collect();
        status
    }

    /// How the cluster stands, as JSON of `GET /cluster`.
    pub async fn status(&self) -> Value {
        let (me, mut known, now) = (self.me(), self.knowledge(), self.0.node.now());
        if !self.is_active() {
            let own = self.0.node.own_group();
            known.id = hash::origin(&me.to_string()).to_string();
            known.nodes.insert(me, NodeInfo::new(self.0.host.clone()));
            known.groups.insert(own, GroupInfo { replicas: vec![me], founder: me, want: 1 });
            known.chains.insert(own, self.0.node.chain_count());
        }
        let asked = known.nodes.keys().map(|node| async move { (*node, self.survey(*node).await) });
        let mut answers: BTreeMap<NodeId, Arc<NodeStatus>> = futures_util::future::join_all(asked)
            .await
            .into_iter()
            .filter_map(|(node, status)| Some((node, status?)))
            .collect();
        let seen = self.0.seen.lock().expect("no holder of this lock panics").clone();
        let state = |node: &NodeId| if *node == me { "live" } else { Seen::state(seen.get(node)) };
        // What a node said that is away is so no more.
        answers.retain(|node, _| state(node) == "live");
        let mut groups: BTreeMap<Group, GroupStatus> =
            newest(answers.values().map(Arc::as_ref)).into_iter().map(|(id, group)| (id, group.clone())).collect();
        let busy: BTreeSet<&String> = answers.values().flat_map(|status| &status.busy).collect();
        for (group, info) in &known.groups {
            groups.entry(*group).or_insert_with(|| {
                let replica = |node: &NodeId| Replica { node: *node, role: "unknown".into(), size: 0, lag: 0 };
                let chains = known.chains.get(group).copied().unwrap_or(0) as u64;
                let replicas = info.replicas.iter().map(replica).collect();
                GroupStatus { id: *group, replicas, leader: None, term: 0, chains }
            });
        }
        let nodes = known.nodes.iter().map(|(id, info)| {
            let status = answers.get(id);
            let last_seen = match *id == me {
                true => Some(now),
                false => seen.get(id).and_then(|seen| seen.last).map(|(_, time)| time),
            };
            let state = match info.standing {
                Standing::Leaving | Standing::Left => "leaving",
                Standing::In => state(id),
            };
            let last_seen = last_seen.map(|time| time.to_string());
            serde_json::json!({
                "id": id, "host": info.host, "state": state, "version": info.version,
                "leads": groups.values().filter(|group| group.leader == Some(*id)).count(),
                "keeps": status.map(|status| status.keeps), "bytes": status.map(|status| status.bytes),
                "last_seen": last_seen,
            })
        });
        let nodes: Vec<Value> = nodes.collect();
        serde_json::json!({
            "id": known.id, "key": self.0.node.verifier_key().to_string(),
            "nodes": nodes, "groups": groups.into_values().collect::<Vec<_>>(), "busy": busy,
        })
    }

    /// On how many nodes each group is to be kept; one that it does not name, on one.
    pub fn replica_counts(&self) -> impl Fn(Group) -> usize + use<> {
        let known = self.knowledge();
        move |group| known.groups.get(&group).map_or(1, |info| info.replicas.len())
    }

    /// The replicas of a group, as its leader says.
    pub async fn replicas(&self, group: Group) -> Option<Vec<Value>> {
        let known = self.knowledge();
        let group = self.status_of_group(group).await?;
        let replica = |replica: Replica| {
            let host = known.nodes.get(&replica.node).map(|info| info.host.clone());
            serde_json::json!({"node": replica.node, "host": host, "role": replica.role, "size": replica.size})
        };
        Some(group.replicas.into_iter().map(replica).collect())
    }

    /// The hosts of the other nodes, and when they may be others.
    pub fn hosts(&self) -> (Vec<String>, watch::Receiver<u64>) {
        let (me, changed) = (self.me(), self.0.changed.subscribe());
        let hosts = self.knowledge().nodes.into_iter().filter(|(node, _)| *node != me).map(|(_, info)| info.host);
        (hosts.collect(), changed)
    }

    /// Where another node of the cluster is.
    pub fn host_of(&self, node: NodeId) -> Option<String> {
        let moved = self.0.moved.lock().expect("no holder of this lock panics").get(&node).cloned();
        moved.or_else(|| self.0.known_host_of(node))
    }

    /// The group of a new chain that is to have so many replicas.
    ///
    /// # Errors
    /// There are not so many nodes.
    pub fn place(&self, replicas: Option<u8>) -> Result<Group, ClusterError> {
        self.knowledge().place(replicas, self.me()).map_err(ClusterError::Refused)
    }

    /// Reserves the name of a new chain for a group. Says whether it was free, or reserved for this group already.
    ///
    /// # Errors
    /// The cluster does not agree at the moment.
    pub async fn reserve(&self, name: &str, group: Group) -> Result<bool, ClusterError> {
        let (key, value) = knowledge::chain(name, Some(group));
        let expect = BTreeMap::from([(key.clone(), None)]);
        let set = BTreeMap::from([(key, value)]);
        if self.change(ClusterChange { expect, set }).await? {
            return Ok(true);
        }
        Ok(self.group_of(name) == Some(group) && self.0.node.chain(name).is_none())
    }

    /// Gives a name up that was reserved, where no chain came of it.
    pub async fn release(&self, name: &str, group: Group) {
        let (key, value) = knowledge::chain(name, Some(group));
        let change =
            ClusterChange { expect: BTreeMap::from([(key.clone(), value)]), set: BTreeMap::from([(key, None)]) };
        if let Err(error) = self.change(change).await {
            tracing::warn!("the name {name} stays reserved: {error}");
        }
    }

    /// Changes on how many nodes a group is kept, and returns when all of them have all of it.
    ///
    /// # Errors
    /// There are not so many nodes, or they cannot be reached.
    pub async fn set_replicas(&self, group: Group, replicas: u8) -> Result<(), ClusterError> {
        self.found().await?;
        let known = self.knowledge();
        let change = known.resize(group, replicas).map_err(ClusterError::Refused)?;
        if let Some(change) = change
            && !self.change(change).await?
        {
            return Err(ClusterError::Unavailable("the cluster has changed meanwhile: send again".into()));
        }
        let since = Instant::now();
        loop {
            let info = self.knowledge().groups.get(&group).cloned();
            // What is agreed may be known here a moment later.
            let wanted = info.filter(|info| info.want == replicas).map(|info| info.replicas.into_iter().collect());
            let wanted: BTreeSet<NodeId> = wanted.unwrap_or_default();
            if let Some(status) = self.status_of_group(group).await.filter(|_| !wanted.is_empty()) {
                let there: BTreeSet<NodeId> = status
                    .replicas
                    .iter()
                    .filter(|replica| replica.role != "learner")
                    .map(|replica| replica.node)
                    .collect();
                if there == wanted {
                    return Ok(());
                }
            }
            if since.elapsed() > limits::MOVE_TIMEOUT {
                return Err(ClusterError::Unavailable(
                    "it goes on in the background: GET /cluster tells how far it is".into(),
                ));
            }
            sleep(limits::HEARTBEAT).await;
        }
    }

    /// Takes a node out. Its groups move first; one that is lost is not waited for.
    ///
    /// # Errors
    /// There is no such node, or what it keeps would be lost.
    pub async fn leave(&self, node: NodeId, is_lost: bool) -> Result<(), ClusterError> {
        let known = self.knowledge();
        let change = known.leave(node, is_lost).map_err(ClusterError::Refused)?;
        match self.change(change).await? {
            true => Ok(()),
            false => Err(ClusterError::Unavailable("the cluster has changed meanwhile: send again".into())),
        }
    }

    /// Serves a connection of another node until it ends, or gives it back where the other node sends requests of HTTP/1.1 on it.
    pub async fn serve(&self, mut stream: Stream) -> Option<Stream> {
        let answers: Arc<dyn Answers> = Arc::new(AnswersOf(Arc::downgrade(&self.0)));
        match link::accept(&mut stream, &self.0.identity, &*answers).await {
            Ok(caller) if caller.purpose == Purpose::Http => return Some(stream),
            Ok(caller) => link::serve(stream, caller, answers).await,
            Err(error) => tracing::warn!("a connection of another node is refused: {error}"),
        }
        None
    }

    /// Opens a connection for requests of HTTP/1.1 to the node of the cluster that is known as this host.
    ///
    /// # Errors
    /// None of the cluster is reached there.
    pub async fn connect_http(&self, host: &str) -> io::Result<Stream> {
        link::connect_http(&self.0.identity, host).await
    }

    /// What an operator should look at although all goes on: the node's certificate, and connections between nodes that are not
    /// encrypted although this one has TLS.
    pub fn warnings(&self) -> Vec<String> {
        let Some(tls) = &self.0.tls else { return Vec::new() };
        let mut warnings: Vec<String> = tls.warning(self.0.node.now()).into_iter().collect();
        let links = self.0.links.lock().expect("no holder of this lock panics");
        let open = links.values().filter(|(_, link)| link.is_open_to_readers());
        warnings.extend(open.map(|(host, _)| {
            format!(
                "what goes to the node {host} is not encrypted: start it with --tls-cert and --tls-key, as this one"
            )
        }));
        warnings
    }

    /// Ends all groups.
    pub async fn stop(&self) {
        let groups = std::mem::take(&mut *self.0.groups.write().expect("no holder of this lock panics"));
        for raft in groups.into_values() {
            let _ = timeout(limits::LINK_TIMEOUT, raft.shutdown()).await;
        }
        self.0.links.lock().expect("no holder of this lock panics").clear();
        self.0.store.end_journal();
        let journal = self.0.journal.lock().expect("no holder of this lock panics").take();
        if let Some(journal) = journal {
            let _ = tokio::task::spawn_blocking(move || journal.join()).await;
        }
    }

    /// Brings the groups of this node where the cluster says that they belong.
    async fn settle(&self) {
        let (me, known) = (self.me(), self.knowledge());
        for (group, info) in &known.groups {
            let members = self.0.store.group(*group).membership;
            let was_here = || {
                let is_forgotten = self.0.forgotten.lock().expect("no holder of this lock panics").contains(group);
                !is_forgotten && members.is_some_and(|(_, of)| of.nodes.contains_key(&me))
            };
            let is_here = info.replicas.contains(&me) || was_here();
            if is_here && self.runs_apart(&known, *group) && self.running(*group).is_none() && self.may_open(*group) {
                // One makes a new group; the others get it from there.
                if info.founder == me {
                    let founded = tokio::task::block_in_place(|| self.0.store.found(*group, me));
                    if let Err(error) = founded {
                        tracing::error!("a group cannot be made: {error}");
                        continue;
                    }
                }
                if let Err(error) = self.open(*group).await {
                    tracing::error!("{error}");
                }
            }
        }
        let running = self.0.groups.read().expect("no holder of this lock panics").clone();
        for (group, raft) in running {
            let (state, membership) = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                (metrics.state, metrics.membership_config.membership().clone())
            };
            if state == ServerState::Leader {
                // When it leads no more, the group is without a leader since then at most.
                if self.lag(group).age < limits::ELECTION[0] {
                    self.hear(group);
                }
                let (voters, learners) = known.members(group);
                let is_in_place = is_in_place(&membership, &voters, &learners);
                if !self.0.store.has_room() {
                    // It would refuse all writes, though others have room.
                    let others = membership.voter_ids().filter(|node| *node != me).collect();
                    self.hand_over(group, raft.clone(), others);
                } else if is_in_place {
                    self.give_back(&known, group, raft.clone());
                }
                if !is_in_place {
                    self.move_group(group, raft, &membership, voters, learners);
                }
            } else if let Some(info) = known.groups.get(&group).filter(|info| !info.replicas.contains(&me))
                && self.is_without(group, info, me).await
            {
                self.forget(group, raft).await;
            }
        }
        if self.leads(Group::META) {
            self.plan(&known).await;
            self.compare().await;
        }
    }

    /// Whether the node that leads a group says that another one does not keep it any more. Who is taken out is not told by the group.
    async fn is_without(&self, group: Group, info: &GroupInfo, node: NodeId) -> bool {
        for replica in &info.replicas {
            if let Some(led) = self.led_by(*replica, group).await {
                return led.replicas.iter().all(|replica| replica.node != node);
            }
        }
        false
    }

    /// Ends a group that is not kept here any more.
    async fn forget(&self, group: Group, raft: Raft) {
        self.0.forgotten.lock().expect("no holder of this lock panics").insert(group);
        self.0.groups.write().expect("no holder of this lock panics").remove(&group);
        let _ = raft.shutdown().await;
        self.0.node.drop_group(group);
        tracing::info!(%group, "the group is not kept on this node any more");
    }

    /// Gives a group that this node leads back to the node that is to lead it: after nodes died and came back, leaders are spread again.
    /// Writes pause for as long as an election takes, so this is done now and then at most.
    fn give_back(&self, known: &Knowledge, group: Group, raft: Raft) {
        let Some(to) = known.leader_to_be(group).filter(|to| *to != self.me()) else { return };
        if !has_caught_up(&raft, to) {
            return;
        }
        {
            let mut given = self.0.given_back.lock().expect("no holder of this lock panics");
            if given.get(&group).is_some_and(|last| last.elapsed() < limits::HAND_OVER_EVERY) {
                return;
            }
            given.insert(group, Instant::now());
        }
        self.hand_over(group, raft, vec![to]);
    }

    /// Hands a group over to the first of these nodes that has all of it, answers, and is fit to lead.
    fn hand_over(&self, group: Group, raft: Raft, to: Vec<NodeId>) {
        let cluster = self.clone();
        tokio::spawn(async move {
            for to in to.into_iter().filter(|to| has_caught_up(&raft, *to)) {
                let fitness = async {
                    let link = cluster.link_to(to)?;
                    Ok::<_, ClusterError>(link.call(FITNESS, group, &mut |_| (), limits::LINK_TIMEOUT).await?)
                };
                match fitness.await {
                    Ok(_) if has_caught_up(&raft, to) => {
                        tracing::info!(%group, %to, "the group is handed over to another node");
                        let _ = raft.trigger().transfer_leader(to).await;
                        return;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%group, %to, "the node is not fit to lead the group: {error}"),
                }
            }
        });
    }

    /// Whether this node could lead a group.
    fn check_fitness(&self, group: Group) -> Result<(), String> {
        let node = &self.0.node;
        if self.running(group).is_none() {
            return Err("the group does not run here".into());
        }
        if node.health() != Health::Ready {
            return Err("the node takes no writes".into());
        }
        match node.damages().into_iter().chain(node.rollbacks()).next() {
            Some((name, detail)) => Err(format!("the chain \"{name}\" takes no writes there: {detail}")),
            None => Ok(()),
        }
    }

    /// Has the members of a group that this node leads be these.
    fn move_group(
        &self,
        group: Group,
        raft: Raft,
        membership: &engine::RaftMembership,
        voters: BTreeMap<NodeId, String>,
        learners: BTreeMap<NodeId, String>,
    ) {
        let is: BTreeSet<NodeId> = membership.voter_ids().collect();
        let is_joint = membership.get_joint_config().len() > 1;
        let wanted: BTreeSet<NodeId> = voters.keys().copied().collect();
        let all: BTreeMap<NodeId, String> = voters.into_iter().chain(learners).collect();
        let there: BTreeSet<NodeId> = membership.nodes().map(|(node, _)| *node).collect();
        if wanted.is_empty() {
            return;
        }
        {
            let mut moving = self.0.moving.lock().expect("no holder of this lock panics");
            if moving.contains_key(&group) {
                return;
            }
            moving.insert(group, format!("the group {group} moves to {} nodes", wanted.len()));
        }
        let cluster = self.clone();
        tokio::spawn(async move {
            let moved = async {
                for (node, host) in all.iter().filter(|(node, _)| !there.contains(node)) {
                    // Until it has nearly all of it.
                    raft.add_learner(*node, host.clone(), true).await.map_err(|error| error.to_string())?;
                }
                if is != wanted || is_joint {
                    raft.change_membership(wanted.clone(), true).await.map_err(|error| error.to_string())?;
                }
                let gone: BTreeSet<NodeId> = there.iter().filter(|node| !all.contains_key(node)).copied().collect();
                if !gone.is_empty() && raft.is_leader() {
                    raft.change_membership(ChangeMembers::RemoveNodes(gone), true)
                        .await
                        .map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(())
            };
            if let Err(error) =
                timeout(limits::MOVE_STEP, moved).await.unwrap_or_else(|_| Err("it takes too long".into()))
            {
                tracing::warn!(%group, "the group is not moved yet: {error}");
                sleep(Duration::from_secs(1)).await;
            }
            cluster.0.moving.lock().expect("no holder of this lock panics").remove(&group);
        });
    }

    /// As the leader of the cluster: makes groups where nodes came, and moves them where nodes go.
    async fn plan(&self, known: &Knowledge) {
        let mut left = BTreeSet::new();
        if known.going().next().is_some() {
            let asked = known.nodes.keys().map(|node| self.status_of(*node));
            let statuses = futures_util::future::join_all(asked).await;
            let led = newest(statuses.iter().flatten());
            // Only the node that leads a group knows who has it.
            let is_without = |group: &Group, node: NodeId| {
                led.get(group).is_some_and(|group| group.replicas.iter().all(|replica| replica.node != node))
            };
            for node in known.going() {
                let is_told = known.nodes[&node].standing == Standing::Leaving;
                let kept = known.groups.iter().filter(|(_, info)| known.may_keep(info, node));
                let has_left = kept.into_iter().all(|(group, _)| is_without(group, node));
                if has_left && (is_told || is_without(&Group::META, node)) {
                    left.insert(node);
                }
            }
        }
        let has_left = |node: NodeId| left.contains(&node);
        if let Some(change) = known.plan(|| Group(rand::random::<u64>().max(2)), has_left)
            && let Err(error) = self.change(change).await
        {
            tracing::warn!("the cluster is not brought in order yet: {error}");
        }
    }

    /// As the leader of the cluster: has all nodes compare what they know with what this one knows, where that has changed.
    async fn compare(&self) {
        {
            let mut compared = self.0.compared.lock().expect("no holder of this lock panics");
            if compared.is_some_and(|last| last.elapsed() < limits::COMPARE_EVERY) {
                return;
            }
            *compared = Some(Instant::now());
        }
        if let Some(comparison) = self.0.store.comparison()
            && let Err(error) = self.change(comparison).await
        {
            tracing::warn!("what the nodes of the cluster know is not compared yet: {error}");
        }
    }
}

/// What a node says of itself when it calls another.
#[derive(Serialize, Deserialize)]
struct Hello {
    /// Where it is reached.
    host: String,
    /// The newest entry that it has of each group.
    last: BTreeMap<Group, Option<u64>>,
    /// Where it reaches the other nodes.
    #[serde(default)]
    hosts: BTreeMap<NodeId, String>,
}

/// What becomes of a node that asks to be taken in.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Joined {
    Taken,
    /// The node at this host decides.
    Ask(String),
}

fn config() -> Result<openraft::Config, ClusterError> {
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

/// How old what a node has of a group may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    /// Entries that it has and has not applied.
    pub entries: u64,
    /// Time since it knew that the leader is there, which sends it what is new.
    pub age: Duration,
}

/// Until when it is waited for a leader, and for agreement.
pub fn agreement_timeout() -> Instant {
    Instant::now() + limits::AGREEMENT_TIMEOUT
}

/// Who leads a group, as far as its engine here knows.
fn leader_of(raft: &Raft) -> Option<NodeId> {
    raft.metrics().borrow_watched().current_leader
}

/// The last entry that another node is known to have of a group that this node leads.
fn matched(metrics: &engine::Metrics, node: NodeId) -> Option<u64> {
    Some(metrics.replication.as_ref()?.get(&node)?.as_ref()?.index)
}

/// Whether a group has these members and no others.
fn is_in_place(
    membership: &engine::RaftMembership,
    voters: &BTreeMap<NodeId, String>,
    learners: &BTreeMap<NodeId, String>,
) -> bool {
    let is_joint = membership.get_joint_config().len() > 1;
    let there: BTreeSet<NodeId> = membership.nodes().map(|(node, _)| *node).collect();
    let all: BTreeSet<NodeId> = voters.keys().chain(learners.keys()).copied().collect();
    !is_joint && there == all && membership.voter_ids().eq(voters.keys().copied())
}

/// Whether a voter of a group that this node leads has nearly all of it, and has answered lately.
fn has_caught_up(raft: &Raft, node: NodeId) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let answered = metrics.heartbeat.as_ref().and_then(|all| all.get(&node)).and_then(Option::as_ref);
    let (last, there) = (metrics.last_log_index, matched(&metrics, node));
    metrics.state == ServerState::Leader
        && metrics.membership_config.membership().voter_ids().any(|voter| voter == node)
        && answered.is_some_and(|answered| answered.elapsed() < limits::ELECTION[0])
        && there.is_some_and(|there| last.is_some_and(|last| last - there.min(last) <= limits::HAND_OVER_LAG))
}

/// Of each group what the node says that was elected last.
fn newest<'a>(statuses: impl Iterator<Item = &'a NodeStatus>) -> BTreeMap<Group, &'a GroupStatus> {
    let mut all: Vec<&GroupStatus> = statuses.flat_map(|status| &status.groups).collect();
    all.sort_by_key(|group| group.term);
    all.into_iter().map(|group| (group.id, group)).collect()
}

/// What another node says, as JSON.
fn said<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T, String> {
    serde_json::from_slice(content).map_err(|_| "what is said is not understood".to_owned())
}

/// Asks each other node whether it is there, so that it is known since when one is not.
async fn look_around(inner: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = sleep(limits::PING_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(cluster) = inner.upgrade().map(Cluster) else { return };
        let me = cluster.me();
        let others = cluster.knowledge().nodes.into_keys().filter(|node| *node != me);
        // A question takes no longer than the bound of a call, and the next ones wait for it.
        let asked = others.map(|node| {
            let cluster = cluster.clone();
            async move { drop(cluster.ask(node, PING).await) }
        });
        futures_util::future::join_all(asked).await;
    }
}

/// Settles the groups whenever something has changed, and now and then.
async fn run(inner: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    let Some(mut changed) = inner.upgrade().map(|inner| inner.changed.subscribe()) else { return };
    loop {
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep(limits::SETTLE_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(inner) = inner.upgrade() else { return };
        Cluster(inner).settle().await;
        // Changes come in crowds.
        sleep(Duration::from_millis(50)).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Where it was not stopped in order.
        self.store.end_journal();
    }
}

struct GreetingOf(Weak<Inner>);

impl Greeting for GreetingOf {
    fn hello(&self) -> Vec<u8> {
        self.0.upgrade().map(|inner| inner.hello()).unwrap_or_default()
    }

    fn check(&self, node: NodeId, said: Bytes) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        let cluster = self.0.upgrade().map(Cluster);
        Box::pin(async move {
            match cluster {
                // No entry goes there before this connection is up, so nothing new is known since it spoke.
                Some(cluster) => cluster.greet(node, &said, &cluster.known(node)).await,
                None => Err("this node stops".into()),
            }
        })
    }
}

impl Inner {
    /// What this node says of itself.
    fn hello(&self) -> Vec<u8> {
        let last = |group| (group, self.store.group(group).last.map(|last| last.index));
        let last = self.store.groups().into_iter().map(last).collect();
        let moved = self.moved.lock().expect("no holder of this lock panics").clone();
        let known = self.store.cluster(Knowledge::read).nodes.into_iter().map(|(node, info)| (node, info.host));
        let hosts = known.chain(moved).collect();
        serde_json::to_vec(&Hello { host: self.host.clone(), last, hosts }).expect("it is JSON")
    }

    /// Where another node is, as far as the cluster knows.
    fn known_host_of(&self, node: NodeId) -> Option<String> {
        self.store.cluster(|known| knowledge::host(known, node))
    }

    fn link(&self, node: NodeId, host: &str) -> Arc<Link> {
        let moved = self.moved.lock().expect("no holder of this lock panics").get(&node).cloned();
        let host = moved.as_deref().unwrap_or(host);
        let mut links = self.links.lock().expect("no holder of this lock panics");
        match links.get(&node) {
            Some((at, link)) if at == host => link.clone(),
            _ => {
                let greeting = GreetingOf(self.myself.clone());
                let link = Link::start(self.identity.clone(), node, host.into(), Arc::new(greeting));
                links.insert(node, (host.into(), link.clone()));
                link
            }
        }
    }
}

struct CarrierOf(Weak<Inner>);

impl Carrier for CarrierOf {
    fn carry(&self, group: Group, carried: Carried) -> Pin<Box<dyn Future<Output = Placements> + Send>> {
        let Some(cluster) = self.0.upgrade().map(Cluster) else { return Box::pin(async { Err(Refused::Stopping) }) };
        // Where there is a connection, it is in line when this returns: what one client streams keeps its order.
        let first = cluster.known_leader(group).filter(|leader| *leader != cluster.me()).and_then(|leader| {
            let link = cluster.link_to(leader).ok()?;
            Some(link.call(CARRY, group, &mut |content| carry::encode(&carried, content), limits::CARRY_TIMEOUT))
        });
        Box::pin(async move {
            // What has ids is accepted once, however often it comes. Lines of a stream keep their order.
            let is_exact = !carried.each_for_itself && carried.transactions.iter().all(|one| one.id().is_some());
            let (until, mut sent, mut is_unknown) = (agreement_timeout(), first, false);
            loop {
                let answer = match sent.take() {
                    Some(answer) => answer.await,
                    None => match cluster.leader(group, until).await {
                        Some(leader) if leader == cluster.me() => return cluster.0.node.inject_carried(carried).await,
                        Some(leader) => match cluster.link_to(leader) {
                            Ok(link) => {
                                let encode = &mut |content: &mut Vec<u8>| carry::encode(&carried, content);
                                link.call(CARRY, group, encode, limits::CARRY_TIMEOUT).await
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

struct WaysOf(Weak<Inner>);

impl Ways for WaysOf {
    fn link(&self, node: NodeId, host: &str) -> Option<Arc<Link>> {
        let inner = self.0.upgrade()?;
        // Where it is now counts more than where it was when it became a member.
        let host = inner.known_host_of(node).unwrap_or_else(|| host.into());
        Some(inner.link(node, &host))
    }
}

struct AnswersOf(Weak<Inner>);

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
                    let joined = cluster.take_in(from, said(&content)?).await.map_err(|error| error.to_string())?;
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
    /// Looks at what a node says of itself before anything else of it is believed: a folder that was copied, or put back from an old
    /// copy, is no member of its groups, though it has the key of one.
    async fn greet(&self, from: NodeId, content: &[u8], known: &Known) -> Result<(), String> {
        let said: Hello = said(content)?;
        if from == self.me() {
            return Err("it has this node's key: one of the two data folders is a copy, which must not run".into());
        }
        for (group, last) in said.last {
            if let Some(known) = known.get(&group).filter(|known| last.is_none_or(|last| last < **known)) {
                return Err(format!(
                    "its data folder is an older copy: of the group {group} it has {} entries and has acknowledged {}. Take \
                     it out of the cluster (qbc cluster leave {from} --lost), and join with a new folder",
                    last.map_or(0, |last| last + 1),
                    known + 1
                ));
            }
        }
        // With TLS or without, it is the same place.
        let is_elsewhere = |before: &String| link::address(before) != link::address(&said.host);
        let before = self.host_of(from).filter(is_elsewhere);
        if let Some(before) = before
            && match link::call_once(&self.0.identity, &before, STATUS, &[], limits::LINK_TIMEOUT).await {
                Ok((node, _)) => node == from,
                // It may have too much to do to answer in time: while there is a connection to it, it is there.
                Err(_) => self.is_linked(from, &before),
            }
        {
            return Err(format!(
                "a node with its key runs at {before}: one of the two data folders is a copy, which must not run"
            ));
        }
        self.0.moved.lock().expect("no holder of this lock panics").insert(from, said.host);
        Ok(())
    }

    /// Whether there is a connection to a node at this host.
    fn is_linked(&self, node: NodeId, host: &str) -> bool {
        let links = self.0.links.lock().expect("no holder of this lock panics");
        links.get(&node).is_some_and(|(at, link)| link::address(at) == link::address(host) && link.is_up())
    }

    /// What another node is known to have of the groups that this one leads.
    fn known(&self, node: NodeId) -> Known {
        let groups = self.0.groups.read().expect("no holder of this lock panics");
        let known = |(group, raft): (&Group, &Raft)| Some((*group, matched(&raft.metrics().borrow_watched(), node)?));
        groups.iter().filter_map(known).collect()
    }

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
            Err(_) => {
                let read = raft.get_read_log_id(ReadPolicy::ReadIndex).await;
                read.map_err(|error| error.to_string())?
            }
        };
        Ok(read.0.index().to_be_bytes().to_vec())
    }
}

/// Brings effects to the nodes of a group.
struct Sequence {
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

#[cfg(test)]
mod tests;
