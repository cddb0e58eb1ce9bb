//! Healing: what is damaged on this node's disk is fetched again from another node that keeps it, and written in its place.

use std::{mem, sync::Arc};

use super::Node;
use crate::{
    core::{count::Index, hash::Hash},
    store::{ChainNumber, DamagedRun, Group, LogRecord, Looked, NodeId, StoreError},
    writer::{ChainHandle, Damage},
};

/// A chain by what its runs are stored under.
struct Stored {
    group: Group,
    number: ChainNumber,
    id: Hash,
    name: String,
}

impl Node {
    /// Waits until damage of a chain was found.
    pub async fn damage_found(&self) {
        self.0.damage_found.notified().await;
    }

    /// Has a damaged chain healed, if it can be.
    pub fn tell_damage(&self, chain: &ChainHandle, detail: String) {
        tracing::error!(chain = %chain.name, "the chain is damaged: {detail}");
        self.metrics().damages.inc();
        chain.set_damage(Damage::Stored(detail));
        self.0.damage_found.notify_one();
    }

    /// Has a chain looked at, since a read of it has met with damage.
    pub(super) fn suspect(&self, chain: &Arc<ChainHandle>) {
        let mut suspected = self.0.suspected.lock().expect("no holder of this lock panics");
        suspected.insert(chain.number(), chain.clone());
        self.0.damage_found.notify_one();
    }

    /// Heals the chains of which a read has met with damage. One that cannot be healed takes no more writes.
    pub async fn heal_suspected(&self) {
        let suspected = mem::take(&mut *self.0.suspected.lock().expect("no holder of this lock panics"));
        for chain in suspected.into_values() {
            // It may be an ancestor's part that was read.
            for chain in chain.with_ancestors() {
                if chain.damage().is_none()
                    && let Err(StoreError::Damaged(detail)) = self.heal(&chain).await
                {
                    self.tell_damage(&chain, detail);
                }
            }
        }
    }

    /// Heals all that the chains of a group have stored here, as far as it can be.
    pub(crate) async fn heal_group(&self, group: Group) {
        for chain in self.chains(None, usize::MAX).into_iter().filter_map(|(_, chain)| chain.ok()) {
            if chain.group == group {
                let _ = self.heal(&chain).await;
            }
        }
    }

    /// Writes what is damaged of a chain's own transactions anew, as another node of its group has it, and gives how many runs that were.
    ///
    /// # Errors
    /// What is still damaged.
    pub async fn heal(&self, chain: &ChainHandle) -> Result<u64, StoreError> {
        let (group, number, id) = (chain.group, chain.number(), chain.id);
        let healed = self.heal_runs(&Stored { group, number, id, name: chain.name.to_string() }).await;
        chain.add_healed(*healed.as_ref().unwrap_or(&0));
        healed
    }

    /// Heals the chains that could not be loaded, where other nodes keep them.
    ///
    /// # Errors
    /// The list of chains cannot be read.
    pub async fn heal_lost(&self) -> Result<(), StoreError> {
        if !self.0.published.has_damage() {
            return Ok(());
        }
        let mut lost = self.read_store(|store| store.chains()).await?;
        lost.retain(|record| self.lost(&record.name).is_some() && !self.others(record.group).is_empty());
        // A parent has a lower number than its forks.
        lost.sort_by_key(|record| record.number);
        for record in lost {
            let (group, number, id, name) = (record.group, record.number, record.id, record.name);
            let Ok(healed) = self.heal_runs(&Stored { group, number, id, name: name.clone() }).await else { continue };
            let Some(core) = self.core(group) else { continue };
            tokio::task::block_in_place(|| core.load_lost())?;
            if let Some(chain) = self.chain(&name) {
                tracing::warn!(chain = %name, "the chain is whole again");
                chain.add_healed(healed);
            }
        }
        Ok(())
    }

    /// Whether all chains of a group that is kept here could be loaded.
    pub(crate) fn is_whole(&self, group: Group) -> bool {
        self.core(group).is_none_or(|core| core.is_whole())
    }

    /// Whether other nodes keep a chain, too.
    pub fn keeps_with_others(&self, chain: &ChainHandle) -> bool {
        !self.others(chain.group).is_empty()
    }

    /// The other nodes that keep a group.
    fn others(&self, group: Group) -> Vec<NodeId> {
        self.0.cluster.get().map(|cluster| cluster.carrier.others(group)).unwrap_or_default()
    }

    async fn heal_runs(&self, of: &Stored) -> Result<u64, StoreError> {
        let _turn = self.0.healing.lock().await;
        let (number, mut next, mut healed) = (of.number, Index::new(0), 0);
        loop {
            match self.read_store(move |store| store.look(number, next)).await? {
                Looked::Whole => return Ok(healed),
                Looked::UpTo(index) => next = index,
                Looked::Damaged(run) => {
                    let by = self.heal_run(of, &run).await?;
                    let (first, last) = (run.first, run.end.get() - 1);
                    let detail = &run.detail;
                    tracing::warn!(
                        chain = of.name,
                        "transactions {first} to {last} were damaged on this node's disk, and are healed {by}: {detail}"
                    );
                    self.metrics().healed_runs.inc();
                    (healed, next) = (healed + 1, run.end);
                }
            }
        }
    }

    /// Heals one run, and says of what.
    async fn heal_run(&self, of: &Stored, run: &DamagedRun) -> Result<String, StoreError> {
        let (number, first) = (of.number, run.first);
        let mend = |record: Option<LogRecord>| self.read_store(move |store| store.mend(number, first, record.as_ref()));
        if mend(None).await.is_ok() {
            return Ok("by itself, since only what was erased was damaged".into());
        }
        for node in self.others(of.group) {
            let carrier = &self.0.cluster.get().expect("there are others").carrier;
            let mended = match carrier.run(node, of.group, of.id, first).await {
                Ok(record) => mend(Some(record)).await.map_err(|error| error.to_string()),
                Err(reason) => Err(reason),
            };
            match mended {
                Ok(()) => return Ok(format!("from the node {node}")),
                Err(reason) => {
                    tracing::warn!(chain = of.name, "transaction {first} is not healed from the node {node}: {reason}");
                }
            }
        }
        Err(StoreError::Damaged(run.detail.clone()))
    }
}
