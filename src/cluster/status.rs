//! How nodes and groups stand: each node says it of what it leads, and is asked for it by the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Instant,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Cluster, ClusterError, Inner,
    calls::{PING, STATUS},
    engine::{ServerState, WatchReceiver as _, matched},
    knowledge::{GroupInfo, NodeInfo, Standing},
    link::LinkError,
};
use crate::{
    core::{hash, transaction::Timestamp},
    limits,
    store::{Group, NodeId},
};

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
pub(super) struct NodeStatus {
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
pub(super) struct Seen {
    /// Nothing where it never answered this node.
    last: Option<(Instant, Timestamp)>,
    /// Whether it has left the last question unanswered.
    is_silent: bool,
}

impl Seen {
    /// Whether a node that has answered before does so no more.
    pub(super) fn is_away(&self) -> bool {
        self.last.is_some_and(|(last, _)| last.elapsed() >= limits::SILENT)
    }

    /// How a node is that was heard of so.
    pub(super) fn state(seen: Option<&Seen>) -> &'static str {
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
pub(super) struct Survey {
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
    pub(super) async fn status_of(&self, node: NodeId) -> Result<NodeStatus, ClusterError> {
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

    /// Takes up that a node has called.
    pub(super) fn see(&self, node: NodeId) {
        let last = Some((Instant::now(), self.0.node.now()));
        self.0.seen.lock().expect("no holder of this lock panics").insert(node, Seen { last, is_silent: false });
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
    pub(super) async fn led_by(&self, node: NodeId, group: Group) -> Option<GroupStatus> {
        self.status_of(node).await.ok()?.groups.into_iter().find(|led| led.id == group)
    }

    /// What the leader of a group says of it.
    pub(super) async fn status_of_group(&self, group: Group) -> Option<GroupStatus> {
        self.led_by(self.leader_now(group).await?, group).await
    }

    pub(super) fn own_status(&self) -> NodeStatus {
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
}

/// Of each group what the node says that was elected last.
pub(super) fn newest<'a>(statuses: impl Iterator<Item = &'a NodeStatus>) -> BTreeMap<Group, &'a GroupStatus> {
    let mut all: Vec<&GroupStatus> = statuses.flat_map(|status| &status.groups).collect();
    all.sort_by_key(|group| group.term);
    all.into_iter().map(|group| (group.id, group)).collect()
}

/// Asks each other node whether it is there, so that it is known since when one is not.
pub(super) async fn look_around(inner: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
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
