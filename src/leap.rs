//! Automatic leaps: each chain by its own policy.
//!
//! A chain costs nothing while its pool is empty. The first transaction that comes into an empty pool arms it: a task waits
//! until the policy says that it is time, leaps, and goes on as long as there is something pooled. A chain that was frozen leaps at once,
//! whatever its policy: its last quant ends it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    core::{chain::LeapPolicy, transaction::Timestamp},
    node::Node,
    writer::{ChainHandle, Refused},
};

/// How long to wait after a leap that failed, as on a full disk.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long to wait before looking again whether this node leads a chain that is due.
const FOLLOWING: Duration = Duration::from_millis(250);

/// Leaps for all chains with a policy until `shutdown` says that the node stops.
pub async fn run(node: Node, mut touched: mpsc::UnboundedReceiver<Arc<ChainHandle>>, shutdown: watch::Receiver<bool>) {
    let mut stopping = shutdown.clone();
    // What was pooled when the node stopped is due as well.
    for (_, chain) in node.chains(None, usize::MAX) {
        chain.into_iter().for_each(|chain| arm(&node, chain, &shutdown));
    }
    loop {
        tokio::select! {
            Some(chain) = touched.recv() => arm(&node, chain, &shutdown),
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Whether a task waits to leap by a chain's policy.
#[derive(Default)]
struct Armed(AtomicBool);

fn arm(node: &Node, chain: Arc<ChainHandle>, shutdown: &watch::Receiver<bool>) {
    if is_due(&chain) && !chain.remembered::<Armed>().0.swap(true, Ordering::AcqRel) {
        let (node, mut shutdown) = (node.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = leap_while_due(&node, &chain) => {}
                _ = shutdown.wait_for(|stopping| *stopping) => {}
            }
        });
    }
}

fn is_due(chain: &ChainHandle) -> bool {
    let leaps_by_itself = chain.leap_policy() != LeapPolicy::default() || chain.is_to_be_ended();
    leaps_by_itself && chain.check_writable().is_ok() && chain.head().pooled() > 0
}

async fn leap_while_due(node: &Node, chain: &ChainHandle) {
    let armed = chain.remembered::<Armed>();
    loop {
        while is_due(chain) {
            if !node.leads(chain.group) {
                // The node that does leaps. It may be this one soon.
                sleep(FOLLOWING).await;
                continue;
            }
            let policy = chain.leap_policy();
            wait(node, chain, policy).await;
            // A leap by hand may have emptied the pool meanwhile. A new policy starts anew.
            if is_due(chain)
                && chain.leap_policy() == policy
                && let Err(error) = node.leap_pooled(chain).await
            {
                match error {
                    Refused::Stopping => return,
                    Refused::NotLeading(_) => sleep(FOLLOWING).await,
                    // Whoever froze it was faster.
                    Refused::Frozen { .. } => {}
                    error => {
                        tracing::warn!(chain = %chain.name, "an automatic leap failed: {error}");
                        sleep(AFTER_FAILURE).await;
                    }
                }
            }
        }
        armed.0.store(false, Ordering::Release);
        // What came in since the last look found the chain still armed.
        if !is_due(chain) || armed.0.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}

/// Waits until enough is pooled or enough time is over, as the policy says, or until the policy is another. The time counts from the
/// oldest pooled transaction, which may have come before this node was started, or led the chain.
async fn wait(node: &Node, chain: &ChainHandle, policy: LeapPolicy) {
    let mut head = chain.watch();
    let enough = head.wait_for(|head| {
        let pooled = head.pooled();
        let is_enough = policy.transactions.is_some_and(|least| pooled >= least);
        pooled == 0 || is_enough || chain.leap_policy() != policy || chain.is_to_be_ended()
    });
    match policy.every_ms {
        Some(every) => {
            // What cannot be read now is named where it is needed.
            let oldest = node.oldest_pooled(chain).await.ok().flatten();
            drop(timeout(remaining(Duration::from_millis(every), oldest, node.now()), enough).await)
        }
        None => drop(enough.await),
    }
}

/// What is left of the time between a transaction that was accepted then and its leap. Where clocks differ, it is all of it at most.
fn remaining(every: Duration, oldest: Option<Timestamp>, now: Timestamp) -> Duration {
    let age = oldest.map_or(0, |oldest| now.micros().saturating_sub(oldest.micros()));
    every.saturating_sub(Duration::from_micros(age.try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_leaps_counts_from_the_oldest_transaction() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let every = Duration::from_millis(10);
        let left = |oldest, now| remaining(every, oldest, at(now));
        assert_eq!(left(None, 5), every);
        assert_eq!(left(Some(at(1_000)), 1_000), every);
        assert_eq!(left(Some(at(1_000)), 5_000), Duration::from_millis(6));
        assert_eq!(left(Some(at(1_000)), 11_000), Duration::ZERO);
        assert_eq!(left(Some(at(1_000)), 1_000_000), Duration::ZERO);
        // The clock of the node that accepted it is ahead.
        assert_eq!(left(Some(at(9_000)), 1_000), every);
    }
}
