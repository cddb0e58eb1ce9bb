//! The scrub: all data is read again, at a bounded rate, and compared with the roots.
//!
//! Damage on a disk shows only where somebody reads. So each chain is recomputed from what is stored, its own part of it
//! where it is a fork: hashes, tiles, roots, links and proof of work, and at the end the head in memory. A chain that does
//! not hold takes no more writes, `/readyz` names it, and the others go on. Where other nodes keep it too, it is
//! [healed](Node::heal), whoever found the damage.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    core::{
        chain::Head,
        count::{Height, Size},
        merkle::{Edge, Tile},
        quant::Quant,
        transaction::{Record, Timestamp},
    },
    limits,
    node::Node,
    store::{Lineage, Store, StoreError},
    writer::{ChainHandle, Damage, edge_at},
};

/// How fast and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes a second that are read.
    pub rate: u64,
    /// From the end of a pass to the start of the next.
    pub pause: Duration,
}

/// That all of a chain was read again and held.
#[derive(Clone, Copy, Debug)]
pub struct Scrubbed {
    /// The chain's size then.
    pub size: Size,
    /// When it was done.
    pub timestamp: Timestamp,
}

#[derive(Default)]
struct Last(Mutex<Option<Scrubbed>>);

/// When all of a chain was read again last and held, since the node started.
pub fn last(chain: &ChainHandle) -> Option<Scrubbed> {
    *chain.remembered::<Last>().0.lock().expect("no holder of this lock panics")
}

/// Scrubs all chains, again and again if there is a pace, and heals what is found to be damaged, until `shutdown` says that the node
/// stops.
pub async fn run(node: Node, pace: Option<Pace>, mut shutdown: watch::Receiver<bool>) {
    let rate = pace.map_or(limits::SCRUB_RATE, |pace| pace.rate);
    let scrub = async {
        match pace {
            Some(pace) => passes(&node, pace).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = scrub => {}
        () = heal_all(&node, rate) => {}
        _ = shutdown.wait_for(|stopping| *stopping) => {}
    }
}

async fn passes(node: &Node, pace: Pace) {
    loop {
        let mut bytes = 0;
        let started = Instant::now();
        for (_, chain) in node.chains(None, usize::MAX) {
            if let Ok(chain) = chain
                && chain.damage().is_none()
            {
                let (read, holds) = chain_once(node, &chain, pace.rate).await;
                bytes += read;
                tell(node, &chain, holds);
            }
        }
        tracing::debug!(bytes, took = ?started.elapsed(), "all data was read again");
        let metrics = node.metrics();
        metrics.scrub_passes.inc();
        metrics.scrub_passed.set(node.now().micros() / 1_000_000);
        sleep(pace.pause).await;
    }
}

/// Heals whatever is damaged, when it is found, and again after pauses while it stays so.
async fn heal_all(node: &Node, rate: u64) {
    let mut pause = limits::HEAL_PAUSE[0];
    loop {
        let is_new = tokio::select! {
            () = node.damage_found() => true,
            () = sleep(pause) => false,
        };
        pause = if is_new { limits::HEAL_PAUSE[0] } else { (2 * pause).min(limits::HEAL_PAUSE[1]) };
        node.heal_suspected().await;
        if node.damages().is_empty() {
            continue;
        }
        for chain in node.chains(None, usize::MAX).into_iter().filter_map(|(_, chain)| chain.ok()) {
            // A node alone has nobody to ask again.
            if let Some(Damage::Stored(_)) = chain.own_damage()
                && (is_new || node.keeps_with_others(&chain))
            {
                heal_once(node, &chain, rate).await;
            }
        }
        if let Err(error) = node.heal_lost().await {
            tracing::warn!("damaged chains cannot be healed: {error}");
        }
    }
}

async fn heal_once(node: &Node, chain: &Arc<ChainHandle>, rate: u64) {
    let Ok(healed) = node.heal(chain).await else { return };
    // Its runs hold. Where they did before, it is something else, or was healed meanwhile.
    if healed > 0 || chain_once(node, chain, rate).await.1.is_ok() {
        chain.clear_damage();
        tracing::warn!(chain = %chain.name, "the chain is whole again");
    }
    if healed > 0 {
        let (_, holds) = chain_once(node, chain, rate).await;
        tell(node, chain, holds);
    }
}

/// Tells what came of a scrub, if the chain does not hold.
fn tell(node: &Node, chain: &ChainHandle, holds: Result<(), StoreError>) {
    match holds {
        Ok(()) => {}
        Err(StoreError::Damaged(detail)) => node.tell_damage(chain, detail),
        Err(error) => tracing::warn!(chain = %chain.name, "the chain cannot be read again: {error}"),
    }
}

/// Scrubs one chain, and gives the bytes that it read, and whether all of it holds.
async fn chain_once(node: &Node, chain: &Arc<ChainHandle>, rate: u64) -> (u64, Result<(), StoreError>) {
    let (of, began) = (chain.clone(), Instant::now());
    let mut bytes = 0;
    let mut pass = node.read_store(move |store| Pass::begin(store, &of)).await;
    loop {
        let step = match pass {
            Ok(pass) => node.read_store(move |store| pass.step(store)).await,
            Err(error) => Err(error),
        };
        match step {
            Ok((next, read)) => {
                bytes += read;
                node.metrics().scrub_bytes.inc_by(read);
                if next.is_done() {
                    let done = Scrubbed { size: next.size(), timestamp: node.now() };
                    *chain.remembered::<Last>().0.lock().expect("no holder of this lock panics") = Some(done);
                    return (bytes, Ok(()));
                }
                let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
                sleep(due.saturating_sub(began.elapsed())).await;
                pass = Ok(next);
            }
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// One chain on its way.
struct Pass {
    lineage: Arc<Lineage>,
    /// Where it stood at the beginning.
    head: Head,
    edge: Edge,
    /// The newest quant that holds.
    newest: Option<Quant>,
    /// The next one, whose transactions are read.
    quant: Option<Quant>,
}

impl Pass {
    fn begin(store: &Store, chain: &ChainHandle) -> Result<Pass, StoreError> {
        let (lineage, head) = (chain.lineage.clone(), chain.head());
        let newest = lineage.parent().map(|parent| store.quant(&lineage, parent.quant)).transpose()?;
        let edge = edge_at(store, chain, lineage.shared())?;
        if newest.as_ref().is_some_and(|quant| quant.header().root != edge.root()) {
            return Err(StoreError::Damaged("the tree is not that of the quant that it was forked from".into()));
        }
        Ok(Pass { lineage, head, edge, newest, quant: None })
    }

    fn is_done(&self) -> bool {
        self.size() == self.head.size() && self.newest.as_ref() == Some(&*self.head.newest)
    }

    fn size(&self) -> Size {
        Size::new(self.edge.size())
    }

    /// Reads the next quants and transactions, and gives the bytes of the transactions.
    fn step(mut self, store: &Store) -> Result<(Pass, u64), StoreError> {
        let mut records = Vec::with_capacity(limits::CHUNK_BYTES);
        let mut quants = 0;
        while records.is_empty() && quants < limits::SCRUB_QUANTS && !self.is_done() {
            if self.quant.is_none() && self.newest.as_ref() != Some(&*self.head.newest) {
                let index = self.newest.as_ref().map_or(Height::FIRST, |quant| quant.index().next());
                self.quant = Some(store.quant(&self.lineage, index)?);
                quants += 1;
            }
            let end = self.quant.as_ref().map_or(self.head.size(), Quant::size);
            if self.size() < end {
                let range = self.size().next_index()..end.min(self.head.size()).next_index();
                store.records(&self.lineage, range, b'\n', limits::CHUNK_BYTES, &mut records)?;
                for record in records.split(|&byte| byte == b'\n') {
                    self.transaction(store, record)?;
                }
            }
            if let Some(quant) = self.quant.take_if(|quant| quant.size().get() <= self.edge.size()) {
                self.seal(quant)?;
            }
        }
        if self.is_done() && self.edge != *self.head.edge {
            return Err(StoreError::Damaged("its transactions are not those that were accepted".into()));
        }
        Ok((self, records.len() as u64))
    }

    fn transaction(&mut self, store: &Store, text: &[u8]) -> Result<(), StoreError> {
        let index = self.size().next_index();
        let damaged = |detail: &str| StoreError::Damaged(format!("transaction {index}: {detail}"));
        let record = Record::parse(text).map_err(|detail| damaged(&detail))?;
        if record.index != index {
            return Err(damaged(&format!("it says that it is transaction {}", record.index)));
        }
        let mut completed = Vec::new();
        self.edge.push(record.transaction.hash(), |tile| completed.push(tile));
        for Tile { level, number, hashes } in completed {
            if store.tile(&self.lineage, level, number)? != hashes {
                return Err(damaged(&format!("tile {number} of level {level}, which it completes, is another one")));
            }
        }
        Ok(())
    }

    fn seal(&mut self, quant: Quant) -> Result<(), StoreError> {
        let damaged = |detail: String| StoreError::Damaged(format!("quant {}: {detail}", quant.index()));
        quant.check_follows(self.newest.as_ref()).map_err(|error| damaged(error.to_string()))?;
        if quant.size() != self.size() || quant.header().root != self.edge.root() {
            return Err(damaged("its root is not that of the transactions".into()));
        }
        self.newest = Some(quant);
        Ok(())
    }
}
