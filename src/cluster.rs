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
//! | `calls` | what nodes ask each other on them, and the answers |
//! | `carry` | writes on their way to the node that leads, as bytes |
//! | `engine`, `net` | agreement within a group, by openraft; the only ones that name it |
//! | `sequence` | the way from a writer to the engine of its group |
//! | [`knowledge`] | what all nodes know, and where new things are placed |
//! | `join` | how a node gets in, and is known again |
//! | `moves` | brings groups where they belong |
//! | `status`, `figures` | how nodes and groups stand |
//! | this file | runs the groups of this node, finds who leads them, and has them agree |

mod calls;
mod carry;
mod engine;
mod figures;
mod join;
pub mod knowledge;
pub mod link;
mod moves;
mod net;
mod sequence;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    limits,
    node::Node,
    store::{ClusterChange, Group, NodeId, Store, StoreError},
    tls::{self, Stream},
    writer::Sequencer,
};
pub use engine::QUIET;
pub use figures::Figures;
pub use status::{GroupStatus, Replica};

use calls::{AnswersOf, CHANGE, CarrierOf, READ_INDEX};
use engine::{GroupStorage, Instant as _, Machine, Proposal, Raft, ReadPolicy, Told, WatchReceiver as _, leader_of};
use join::GreetingOf;
use knowledge::Knowledge;
use link::{Answers, Identity, Link, LinkError, Purpose, Secret};
use net::{Net, Turns, Ways};
use sequence::Sequence;
use status::{Seen, Survey};

/// Why a leader does not say how far it is.
const HEARS_TOO_FEW: &str = "the node that leads hears of too few of the others";

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
    /// Why this node has no part in groups of several nodes, where its data folder is an older copy.
    barred: Mutex<Option<String>>,
    /// Groups whose engine has ended by itself, and why.
    ended: Mutex<BTreeMap<Group, String>>,
    /// Counts changes of what the cluster knows.
    changed: Arc<watch::Sender<u64>>,
    journal: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Whether the node is in a cluster with others, or was.
    is_active: AtomicBool,
    stopping: watch::Receiver<bool>,
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
        let barred = Mutex::new(Cluster::barred_before(&store)?);
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
            barred,
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
                tokio::spawn(moves::run(Arc::downgrade(&self.0), self.0.stopping.clone()));
                tokio::spawn(status::look_around(Arc::downgrade(&self.0), self.0.stopping.clone()));
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
        self.is_alone(group) || self.check_part(group).is_ok() && (group == Group::META || self.0.node.is_whole(group))
    }

    /// Whether this node may have a part in a group: one whose data folder is an older copy has none where others are.
    fn check_part(&self, group: Group) -> Result<(), ClusterError> {
        match &*self.0.barred.lock().expect("no holder of this lock panics") {
            Some(reason) if !self.is_alone(group) => {
                Err(ClusterError::Refused(format!("this node has no part in its cluster any more: {reason}")))
            }
            _ => Ok(()),
        }
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
        self.check_part(group)?;
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
                Arc::new(engine::config()?),
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
                    let sequence = Sequence::new(Arc::downgrade(&self.0), raft, group);
                    Ok::<_, ClusterError>(Arc::new(sequence) as Arc<dyn Sequencer>)
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
        // Again, as it may have been found out meanwhile: who does so ends the groups that are listed then.
        let listed = {
            let mut groups = self.0.groups.write().expect("no holder of this lock panics");
            self.check_part(group).map(|()| drop(groups.insert(group, raft.clone())))
        };
        if listed.is_err() {
            let _ = raft.shutdown().await;
        }
        listed?;
        tokio::spawn(figures::watch(Arc::downgrade(&self.0), group, raft.clone()));
        tracing::info!(%group, "the group runs on this node");
        Ok(raft)
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
        let unavailable = |detail: &str| {
            ClusterError::Unavailable(format!(
                "no majority of the nodes that keep the chain answers: {detail}; send again later"
            ))
        };
        let Some(raft) = self.running(group) else {
            let is_alone = !self.is_active() || self.0.store.is_alone(group);
            return if is_alone { Ok(()) } else { Err(unavailable("its group does not run here")) };
        };
        loop {
            let read = async {
                let leader = self.leader(group, until).await;
                let leader = leader.ok_or_else(|| unavailable("nobody leads its group"))?;
                if leader == self.me() {
                    // While a majority has answered lately, no other node can lead.
                    if raft.ensure_linearizable(ReadPolicy::LeaseRead).await.is_ok() {
                        return Ok(());
                    }
                    let read = raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
                    return read.map(|_| ()).map_err(|_| unavailable(HEARS_TOO_FEW));
                }
                let left = until.saturating_duration_since(Instant::now()).min(limits::LINK_TIMEOUT);
                let answer = self.link_to(leader)?.call(READ_INDEX, group, &mut |_| (), left);
                let answer = answer.await.map_err(|error| unavailable(&error.to_string()))?;
                let index = answer.as_array().map(|bytes| u64::from_be_bytes(*bytes));
                let index = index.ok_or_else(|| unavailable("its answer is not understood"))?;
                let wait = raft.wait(Some(until.saturating_duration_since(Instant::now())));
                let applied = wait.applied_index_at_least(Some(index), "what the leader has").await;
                applied.map(|_| ()).map_err(|_| unavailable("what the leader has does not come in time"))
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
                Err(ClusterError::Unavailable(reason)) => {
                    return Err(ClusterError::Unavailable(format!(
                        "{reason}: it may be done all the same, so look before you send it again"
                    )));
                }
                changed => return changed,
            }
        }
    }

    async fn try_change(&self, json: &Arc<Vec<u8>>, until: Instant) -> Result<bool, ClusterError> {
        let nobody = || ClusterError::Unavailable("no majority of the cluster's nodes answers".into());
        let left = || until.saturating_duration_since(Instant::now()).max(limits::LINK_LEAST);
        let leader = self.leader(Group::META, until).await.ok_or_else(nobody)?;
        if leader != self.me() {
            let link = self.link_to(leader)?;
            let answer = link.call(CHANGE, Group::META, &mut |content| content.extend_from_slice(json), left());
            return answer.await?.first().map(|changed| *changed == 1).ok_or_else(nobody);
        }
        let raft = self.running(Group::META).ok_or_else(nobody)?;
        let (told, answer) = oneshot::channel();
        let told = Told(Box::new(move |result| drop(told.send(result))));
        let sent = raft.client_write_ff(Proposal::Cluster(json.clone()), Some(told)).await;
        sent.map_err(|error| ClusterError::Unavailable(error.to_string()))?;
        match timeout(left(), answer).await {
            Ok(Ok(Ok(written))) => Ok(written.data),
            _ => Err(nobody()),
        }
    }

    fn link_to(&self, node: NodeId) -> Result<Arc<Link>, ClusterError> {
        let host = self.0.known_host_of(node);
        let host = host.ok_or_else(|| ClusterError::Unavailable(format!("the node {node} is not in the cluster")))?;
        Ok(self.0.link(node, &host))
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

    /// Waits until then, and from then on until the node at this host has not answered for a while.
    pub async fn until_silent(&self, host: &str, from: Instant) {
        let mut nodes = self.knowledge().nodes.into_keys();
        let node = nodes.find(|node| self.host_of(*node).as_deref() == Some(host));
        tokio::time::sleep_until(from.into()).await;
        let is_away = || {
            let seen = self.0.seen.lock().expect("no holder of this lock panics");
            node.and_then(|node| seen.get(&node)).is_some_and(Seen::is_away)
        };
        while !is_away() {
            sleep(limits::HEARTBEAT).await;
        }
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

/// What another node says, as JSON.
fn said<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T, String> {
    serde_json::from_slice(content).map_err(|_| "what is said is not understood".to_owned())
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Where it was not stopped in order.
        self.store.end_journal();
    }
}

impl Inner {
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

struct WaysOf(Weak<Inner>);

impl Ways for WaysOf {
    fn link(&self, node: NodeId, host: &str) -> Option<Arc<Link>> {
        let inner = self.0.upgrade()?;
        // Where it is now counts more than where it was when it became a member.
        let host = inner.known_host_of(node).unwrap_or_else(|| host.into());
        Some(inner.link(node, &host))
    }
}

#[cfg(test)]
mod tests;
