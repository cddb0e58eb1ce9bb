//! Brings groups where the cluster says that they belong: to new members and new leaders, and away from nodes that
//! leave. Now and then it has nodes compare what they know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Weak,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Cluster, ClusterError, Inner,
    calls::FITNESS,
    engine::{ChangeMembers, Instant as _, Raft, RaftMembership, ServerState, WatchReceiver as _, matched},
    knowledge::{GroupInfo, Knowledge, Standing},
    status::{Seen, newest},
};
use crate::{
    limits,
    store::{Group, NodeId},
    writer::Health,
};

impl Cluster {
    /// Whether a group can be kept on so many nodes.
    ///
    /// # Errors
    /// There are not so many.
    pub fn check_replicas(&self, group: Group, replicas: u8) -> Result<(), ClusterError> {
        match self.is_active() {
            true => self.knowledge().resize(group, replicas).map(|_| ()).map_err(ClusterError::Refused),
            false if replicas == 1 => Ok(()),
            false => Err(ClusterError::Refused("this node is alone: join others to it first (qbc --join)".into())),
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
    pub(super) fn check_fitness(&self, group: Group) -> Result<(), String> {
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
        membership: &RaftMembership,
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
        let seen = self.0.seen.lock().expect("no holder of this lock panics").clone();
        // Where this node has just begun to ask, it does not know yet.
        let is_there = |node: NodeId| seen.get(&node).is_none_or(|seen| Seen::state(Some(seen)) != "down");
        let is_live = |node: NodeId| node == self.me() || Seen::state(seen.get(&node)) == "live";
        if let Some(change) = known.plan(|| Group(rand::random::<u64>().max(2)), has_left, is_there, is_live)
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

/// Whether a group has these members and no others.
fn is_in_place(
    membership: &RaftMembership,
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

/// Settles the groups whenever something has changed, and now and then.
pub(super) async fn run(inner: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
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
