//! What a node counts: the counters and histograms of `GET /metrics`, with their names and what they mean.
//!
//! Whoever does something counts it here, and whoever serves the metrics reads it; neither knows the other. What can be asked for at any
//! time needs no counter, and is no part of this: `http::metrics` asks for it.
//!
//! Names are those of <https://prometheus.io/docs/practices/naming/>: behind `qbc_` the part of the node, then what is counted, then the
//! unit, which is a base unit. No label has more values than its help says: none is ever what a client sends.

use std::time::Instant;

pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Before each name.
pub const PREFIX: &str = "qbc";

/// Seconds of what is done for a client, from a read in memory to a wait.
pub const REQUEST_SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Seconds of a sync, from a fast disk to one that is about to fail.
const SYNC_SECONDS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Seconds of proof of work, which the difficulty of a chain decides on.
const MINING_SECONDS: [f64; 10] = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0];

/// Transactions of one commit.
const BATCH_TRANSACTIONS: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0];

/// Bytes of one batch of the log.
const BATCH_BYTES: [f64; 8] = [1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// What one node counts. A counter that is cloned out of it is the same counter.
pub struct Metrics {
    registry: Registry,
    /// From taking requests out of a writer's queue until they can be answered.
    pub commit_seconds: Histogram,
    /// Transactions that become visible together.
    pub commit_transactions: Histogram,
    /// Transactions that have become visible.
    pub transactions: Counter,
    /// Quants that have become visible.
    pub quants: Counter,
    /// Transactions whose data was erased.
    pub erasures: Counter,
    /// Proof of work of one quant.
    pub mining_seconds: Histogram,
    /// Bytes of a batch of the log.
    pub log_batch_bytes: Histogram,
    /// Writing and syncing a batch of the log.
    pub log_sync_seconds: Histogram,
    /// Bytes of transactions that were read again.
    pub scrub_bytes: Counter,
    /// Readings of all data.
    pub scrub_passes: Counter,
    /// When the last reading of all data has ended, in seconds since 1970.
    pub scrub_passed: Gauge,
    /// Damage that was found.
    pub damages: Counter,
    /// Runs of transactions that were healed.
    pub healed_runs: Counter,
    /// Chains that were imported.
    pub imports: Counter,
    /// What became of calls of the node's own witnesses.
    pub witness_calls: Family<WitnessCall, Counter>,
    /// What became of checkpoints of others that the node was asked to cosign.
    pub cosignings: Family<Cosigning, Counter>,
    /// Elections of leaders of groups that run here.
    pub elections: Counter,
}

/// A call of a witness.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WitnessCall {
    /// The name of its key.
    pub witness: String,
    /// `cosigned`, `refused` or `away`.
    pub outcome: &'static str,
}

/// What became of a checkpoint that was to be cosigned.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Cosigning {
    /// `cosigned` or `refused`.
    pub outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let of = &mut registry;
        let commit_seconds = seconds(
            of,
            "commit_duration",
            "Time from taking requests out of a writer's queue until they are on disk (in a cluster: on a majority) and can be answered",
            &SYNC_SECONDS,
        );
        let commit_transactions = Histogram::new(BATCH_TRANSACTIONS);
        of.register(
            "commit_transactions",
            "Transactions that became visible together; commits without any are left out",
            commit_transactions.clone(),
        );
        let transactions =
            counter(of, "transactions", "Transactions that came into chains of this node since its start");
        let quants = counter(of, "quants", "Quants that came into chains of this node since its start");
        let erasures = counter(of, "erasures", "Transactions whose data was erased on this node since its start");
        let mining_seconds = seconds(of, "mining_duration", "Time of the proof of work of one quant", &MINING_SECONDS);
        let log_batch_bytes = Histogram::new(BATCH_BYTES);
        of.register_with_unit(
            "log_batch_size",
            "Bytes of one batch of the log, which one sync makes durable",
            Unit::Bytes,
            log_batch_bytes.clone(),
        );
        let log_sync_seconds =
            seconds(of, "log_sync_duration", "Time to write one batch of the log and to sync it", &SYNC_SECONDS);
        let scrub_bytes = Counter::default();
        of.register_with_unit(
            "scrub_read",
            "Bytes of transactions that the scrub has read again and compared with the roots",
            Unit::Bytes,
            scrub_bytes.clone(),
        );
        let scrub_passes = counter(of, "scrub_passes", "Readings of all data that the scrub has ended");
        let scrub_passed = Gauge::default();
        of.register_with_unit(
            "scrub_last_pass_timestamp",
            "When the scrub has ended its last reading of all data, since 1970; 0 before the first",
            Unit::Seconds,
            scrub_passed.clone(),
        );
        let damages = counter(of, "damages", "Times that a chain was found to be damaged on this node's disk");
        let healed_runs =
            counter(of, "healed_runs", "Runs of transactions that were damaged on this node's disk, and are healed");
        let imports = counter(of, "imports", "Chains that were imported, those of mirrors included");
        let witness_calls = Family::default();
        of.register(
            "witness_calls",
            "Calls of the witnesses of this node's chains (at most 12) by what became of them: cosigned, refused, away",
            witness_calls.clone(),
        );
        let cosignings = Family::<Cosigning, Counter>::default();
        of.register(
            "cosigning_requests",
            "Checkpoints of others that this node was asked to cosign as their witness, by what became of them: cosigned, refused",
            cosignings.clone(),
        );
        for outcome in ["cosigned", "refused"] {
            drop(cosignings.get_or_create(&Cosigning { outcome }));
        }
        let elections = counter(
            of,
            "cluster_elections",
            "Leaders that the groups which run on this node got, the same ones in new terms included",
        );
        Metrics {
            registry,
            commit_seconds,
            commit_transactions,
            transactions,
            quants,
            erasures,
            mining_seconds,
            log_batch_bytes,
            log_sync_seconds,
            scrub_bytes,
            scrub_passes,
            scrub_passed,
            damages,
            healed_runs,
            imports,
            witness_calls,
            cosignings,
            elections,
        }
    }
}

impl Metrics {
    /// All of them, to be written.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a call of a witness.
    pub fn count_witness_call(&self, witness: &str, outcome: &'static str, calls: u64) {
        self.witness_calls.get_or_create(&WitnessCall { witness: witness.into(), outcome }).inc_by(calls);
    }

    /// Counts a checkpoint that was to be cosigned.
    pub fn count_cosigning(&self, is_cosigned: bool) {
        let outcome = if is_cosigned { "cosigned" } else { "refused" };
        self.cosignings.get_or_create(&Cosigning { outcome }).inc();
    }
}

/// A new counter, whose name gets `_total` where it is written.
pub fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// A new histogram of seconds.
pub fn seconds(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::new(buckets.iter().copied());
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

/// Adds the time since then to a histogram.
pub fn observe_since(histogram: &Histogram, since: Instant) {
    histogram.observe(since.elapsed().as_secs_f64());
}

/// One of those that a gauge counts, as long as it is there.
pub struct Counted(Gauge);

impl Counted {
    /// One more of them.
    pub fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
