//! How a node stands, in numbers that are at hand: nothing here looks at each chain, or waits.

use super::Node;
use crate::{core::transaction::Timestamp, store::Disk, writer::Totals};

/// How a node stands.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Its chains.
    pub chains: usize,
    /// How much they have.
    pub totals: Totals,
    /// Transactions that the pool of one chain may hold.
    pub pool_limit: u64,
    /// Requests that wait for the writers.
    pub queued: usize,
    /// Requests that may wait for them.
    pub queue_limit: usize,
    /// Batches that the log has behind those of which the index has all.
    pub index_lag: u64,
    /// Whether the index lacks something that could not be written.
    pub is_index_behind: bool,
    /// The file system of the data folder, where it says how it stands.
    pub disk: Option<Disk>,
    /// Imports under way.
    pub imports: usize,
    /// Logs of others that it has cosigned.
    pub witnessed: usize,
    /// Pieces of evidence against those that prove a fault, and other pieces.
    pub evidence: [u64; 2],
    /// What its clock shows.
    pub clock: Timestamp,
    /// Whether the clock can be right.
    pub is_clock_plausible: bool,
}

impl Node {
    /// How the node stands.
    pub fn figures(&self) -> Figures {
        let inner = &*self.0;
        let (queued, queue_limit) = {
            let groups = inner.groups.read().expect("no holder of this lock panics");
            let waiting = |(queued, limit), requests: &tokio::sync::mpsc::Sender<_>| {
                (queued + requests.max_capacity() - requests.capacity(), limit + requests.max_capacity())
            };
            groups.values().map(|group| &group.requests).fold((0, 0), waiting)
        };
        let (witnessed, evidence) = inner.published.witnessed_counts();
        Figures {
            chains: inner.published.count(),
            totals: inner.published.totals(),
            pool_limit: inner.pool_limit,
            queued,
            queue_limit,
            index_lag: inner.store.index_lag(),
            is_index_behind: inner.store.is_behind(),
            disk: inner.store.disk().ok(),
            imports: inner.importing.lock().expect("no holder of this lock panics").len(),
            witnessed,
            evidence,
            clock: self.now(),
            is_clock_plausible: inner.clock.plausible().is_ok(),
        }
    }
}
