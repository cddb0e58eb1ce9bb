//! How the groups of this node stand, in numbers that are at hand, and which of them have ended.

use std::{collections::BTreeMap, sync::Weak};

use super::{
    Cluster, Inner,
    engine::{Fatal, Raft, ServerState, WatchReceiver as _, matched},
    knowledge::{NodeInfo, Standing},
    status::Seen,
};
use crate::store::{Group, NodeId};

/// How the cluster stands, as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Nodes in each state of [`Figures::STATES`].
    pub nodes: BTreeMap<&'static str, u64>,
    /// Groups that this node keeps.
    pub groups: u64,
    /// Groups that it leads.
    pub led: u64,
    /// Groups that it keeps, of which it knows no leader.
    pub leaderless: u64,
    /// Groups that it keeps, whose engine has ended.
    pub ended: u64,
    /// Groups that it moves.
    pub moving: u64,
    /// Entries that it has and has not applied, of the group with the most.
    pub apply_lag: u64,
    /// Of each other node, by its host, how the way there is.
    pub others: BTreeMap<String, Way>,
}

/// How the way to another node is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Whether there is a connection.
    pub is_up: bool,
    /// Entries that it lacks, of the group with the most that this node leads.
    pub lag: u64,
}

impl Figures {
    /// How a node can be.
    pub const STATES: [&str; 4] = ["live", "suspect", "down", "leaving"];
}

impl Cluster {
    /// How the cluster stands. A node alone is a cluster of one.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures { nodes: Figures::STATES.map(|state| (state, 0)).into(), ..Figures::default() };
        let (me, own) = (self.me(), self.0.node.own_group());
        let known = if self.is_active() { self.knowledge().nodes } else { [(me, NodeInfo::new(String::new()))].into() };
        self.look_at_nodes(&known, &mut figures);
        let running = self.0.groups.read().expect("no holder of this lock panics").clone();
        for raft in running.values() {
            self.look_at_group(raft, &known, &mut figures);
        }
        if !running.contains_key(&own) && self.0.node.leads(own) {
            figures.groups += 1;
            figures.led += 1;
        }
        figures.ended = self.ended().len() as u64;
        figures.moving = self.0.moving.lock().expect("no holder of this lock panics").len() as u64;
        figures
    }

    fn look_at_nodes(&self, known: &BTreeMap<NodeId, NodeInfo>, figures: &mut Figures) {
        let seen = self.0.seen.lock().expect("no holder of this lock panics").clone();
        let links = self.0.links.lock().expect("no holder of this lock panics");
        for (node, info) in known {
            let is_me = *node == self.me();
            let state = match info.standing {
                Standing::Leaving | Standing::Left => "leaving",
                Standing::In if is_me => "live",
                Standing::In => Seen::state(seen.get(node)),
            };
            *figures.nodes.entry(state).or_default() += 1;
            if !is_me {
                let is_up = links.get(node).is_some_and(|(_, link)| link.is_up());
                figures.others.insert(info.host.clone(), Way { is_up, lag: 0 });
            }
        }
    }

    fn look_at_group(&self, raft: &Raft, known: &BTreeMap<NodeId, NodeInfo>, figures: &mut Figures) {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        figures.groups += 1;
        figures.leaderless += u64::from(metrics.current_leader.is_none());
        let last = metrics.last_log_index.map_or(0, |last| last + 1);
        let applied = metrics.last_applied.map_or(0, |applied| applied.index + 1);
        figures.apply_lag = figures.apply_lag.max(last.saturating_sub(applied));
        if metrics.state != ServerState::Leader {
            return;
        }
        figures.led += 1;
        for (node, _) in metrics.membership_config.membership().nodes() {
            let there = matched(&metrics, *node).map_or(0, |index| index + 1);
            if let Some(way) = known.get(node).and_then(|info| figures.others.get_mut(&info.host)) {
                way.lag = way.lag.max(last.saturating_sub(there));
            }
        }
    }

    /// The groups whose engine has ended by itself, and why: nothing of them is taken until the node is started again.
    pub fn ended(&self) -> Vec<(Group, String)> {
        let ended = self.0.ended.lock().expect("no holder of this lock panics");
        ended.iter().map(|(group, reason)| (*group, reason.clone())).collect()
    }
}

/// Counts elections in a group until its engine ends, and takes up where that is nothing that was asked for.
pub(super) async fn watch(cluster: Weak<Inner>, group: Group, raft: Raft) {
    let mut changes = raft.server_metrics();
    let seen = |leader: Option<NodeId>, term: u64| leader.map(|leader| (term, leader));
    let mut before = None;
    loop {
        let now = {
            let metrics = changes.borrow_watched();
            seen(metrics.current_leader, metrics.vote.leader_id.term)
        };
        if now.is_some() && now != before {
            before = now;
            let Some(inner) = cluster.upgrade() else { return };
            inner.node.metrics().elections.inc();
        }
        if changes.changed().await.is_err() {
            break;
        }
    }
    // It is told before the channel is closed, but for a panic.
    let reason = match &raft.metrics().borrow_watched().running_state {
        Err(Fatal::Stopped) => return,
        Err(fatal) => fatal.to_string(),
        Ok(()) => "it panicked".to_owned(),
    };
    tracing::error!(%group, "the group runs no more on this node: {reason}");
    let Some(inner) = cluster.upgrade() else { return };
    inner.ended.lock().expect("no holder of this lock panics").insert(group, reason);
}
