//! How a node gets into a cluster, and how nodes that call each other find out whether they are those that they were.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Weak,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    Cluster, ClusterError, Inner, agreement_timeout,
    calls::{JOIN, STATUS},
    engine::{Raft, WatchReceiver as _, matched},
    knowledge::{self, GroupInfo, Knowledge, NodeInfo},
    link::{self, Greeting, Known, LinkError},
    said,
};
use crate::{
    core::hash,
    limits,
    store::{ClusterChange, Group, NodeId, Store, StoreError},
};

/// What a node says that asks to be taken in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Joining {
    id: NodeId,
    host: String,
    version: String,
    /// The names of the chains that it has.
    chains: Vec<String>,
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
pub(super) enum Joined {
    Taken,
    /// The node at this host decides.
    Ask(String),
    /// It has asked itself.
    Itself,
    /// Nobody can decide at the moment, for this reason.
    Later(String),
}

/// How it begins what a node is told that has an older copy of its data folder.
const OLDER_COPY: &str = "its data folder is an older copy";

/// The file of a data folder that says that it is an older copy, and how that was found.
const OLDER_COPY_FILE: &str = "older-copy";

pub(super) struct GreetingOf(pub(super) Weak<Inner>);

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

    fn refused(&self, host: &str, reason: &str) {
        if let Some(cluster) = self.0.upgrade().map(Cluster)
            && let Some(found) = reason.strip_prefix(OLDER_COPY)
        {
            cluster.be_barred(format!("the node {host} says that it is an older copy{found}"));
        }
    }
}

impl Inner {
    /// What this node says of itself.
    pub(super) fn hello(&self) -> Vec<u8> {
        let last = |group| (group, self.store.group(group).last.map(|last| last.index));
        let last = self.store.groups().into_iter().map(last).collect();
        let moved = self.moved.lock().expect("no holder of this lock panics").clone();
        let known = self.store.cluster(Knowledge::read).nodes.into_iter().map(|(node, info)| (node, info.host));
        let hosts = known.chain(moved).collect();
        serde_json::to_vec(&Hello { host: self.host.clone(), last, hosts }).expect("it is JSON")
    }
}

impl Cluster {
    /// Makes a cluster of this node alone, if it is in none, with all chains that it has.
    pub(super) async fn found(&self) -> Result<(), ClusterError> {
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
                    Ok(Joined::Ask(leader)) if since.elapsed() < limits::JOIN_TIMEOUT => host = leader,
                    Ok(Joined::Ask(leader)) => {
                        return Err(ClusterError::Unavailable(format!(
                            "the nodes of the cluster do not agree on who leads it, which may be {leader}: try again"
                        )));
                    }
                    Ok(Joined::Itself) if host == first => {
                        return Err(ClusterError::Refused(format!(
                            "{host} is this node itself, or one with a copy of its data folder: --join takes the host of another node"
                        )));
                    }
                    // Somebody leads soon: elsewhere, where this node stands at the place of the one that led.
                    Ok(Joined::Itself | Joined::Later(_)) if since.elapsed() < limits::JOIN_TIMEOUT => {
                        host = first.to_owned()
                    }
                    Ok(Joined::Itself) => {
                        return Err(ClusterError::Unavailable(format!(
                            "the node {first} knows no other leader of the cluster than one that was reached at {host}, where this \
                             node is: try again when a majority of the others is there"
                        )));
                    }
                    Ok(Joined::Later(reason)) => {
                        return Err(ClusterError::Unavailable(format!("the node {host} cannot decide: {reason}")));
                    }
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
    pub(super) async fn take_in(&self, from: NodeId, joining: Joining) -> Result<Joined, ClusterError> {
        if from != joining.id {
            return Err(ClusterError::Refused("it speaks for another node".into()));
        }
        if from == self.me() {
            return Ok(Joined::Itself);
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
        self.see(from);
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
    pub(super) fn announce(&self) {
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

    /// Looks at what a node says of itself before anything else of it is believed: a folder that was copied, or put back from an old
    /// copy, is no member of its groups, though it has the key of one.
    pub(super) async fn greet(&self, from: NodeId, content: &[u8], known: &Known) -> Result<(), String> {
        let said: Hello = said(content)?;
        if from == self.me() {
            return Err("it has this node's key: one of the two data folders is a copy, which must not run".into());
        }
        for (group, last) in said.last {
            if let Some(known) = known.get(&group).filter(|known| last.is_none_or(|last| last < **known)) {
                return Err(format!(
                    "{OLDER_COPY}: of the group {group} it has {} entries and has acknowledged {}. Take \
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

    /// Takes up that this node's data folder is an older copy, for ever: what it has acknowledged is not in it, so from now on it has no
    /// part in what groups of several nodes agree on.
    fn be_barred(&self, reason: String) {
        {
            let mut barred = self.0.barred.lock().expect("no holder of this lock panics");
            if barred.is_some() {
                return;
            }
            *barred = Some(reason.clone());
        }
        tracing::error!("this node has no part in its cluster any more: {reason}");
        if let Err(error) = self.0.store.write_secret(OLDER_COPY_FILE, &reason) {
            tracing::error!("the next start does not know that the data folder is an older copy: {error}");
        }
        let mut groups = self.0.groups.write().expect("no holder of this lock panics");
        let shared: Vec<Group> = groups.keys().copied().filter(|group| !self.is_alone(*group)).collect();
        for group in shared {
            self.0.ended.lock().expect("no holder of this lock panics").insert(group, reason.clone());
            if let Some(raft) = groups.remove(&group) {
                tokio::spawn(async move { drop(raft.shutdown().await) });
            }
        }
    }

    /// What was found of this node's data folder at an earlier start, if it is an older copy.
    ///
    /// # Errors
    /// That cannot be read.
    pub(super) fn barred_before(store: &Store) -> Result<Option<String>, StoreError> {
        Ok(store.read_secret(OLDER_COPY_FILE)?.map(|reason| reason.trim().to_owned()))
    }

    /// Whether there is a connection to a node at this host.
    fn is_linked(&self, node: NodeId, host: &str) -> bool {
        let links = self.0.links.lock().expect("no holder of this lock panics");
        links.get(&node).is_some_and(|(at, link)| link::address(at) == link::address(host) && link.is_up())
    }

    /// What another node is known to have of the groups that this one leads, or has led: of what is agreed, which nobody may have taken
    /// back.
    pub(super) fn known(&self, node: NodeId) -> Known {
        let groups = self.0.groups.read().expect("no holder of this lock panics");
        let known = |(group, raft): (&Group, &Raft)| {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            Some((*group, matched(&metrics, node)?.min(metrics.last_applied?.index)))
        };
        groups.iter().filter_map(known).collect()
    }
}
