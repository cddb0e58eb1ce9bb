//! Automatic leaps: each chain by its own policy.
//!
//! A chain costs nothing while its pool is empty. The first transaction that comes into an empty pool arms it: a task waits
//! until the policy says that it is time, leaps, and goes on as long as there is something pooled.

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
    core::chain::LeapPolicy,
    node::Node,
    writer::{ChainHandle, Refused},
};

/// How long to wait after a leap that failed, as on a full disk.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

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
    chain.check_writable().is_ok() && chain.leap_policy() != LeapPolicy::default() && chain.head().pooled() > 0
}

async fn leap_while_due(node: &Node, chain: &ChainHandle) {
    let armed = chain.remembered::<Armed>();
    loop {
        while is_due(chain) {
            if !node.leads(chain.group) {
                // The node that does leaps. It may be this one soon.
                sleep(AFTER_FAILURE).await;
                continue;
            }
            let policy = chain.leap_policy();
            wait(chain, policy).await;
            // A leap by hand may have emptied the pool meanwhile. A new policy starts anew.
            if is_due(chain)
                && chain.leap_policy() == policy
                && let Err(error) = node.leap(chain, None).await
            {
                match error {
                    Refused::Stopping => return,
                    Refused::NotLeading(_) => {}
                    error => tracing::warn!(chain = %chain.name, "an automatic leap failed: {error}"),
                }
                sleep(AFTER_FAILURE).await;
            }
        }
        armed.0.store(false, Ordering::Release);
        // What came in since the last look found the chain still armed.
        if !is_due(chain) || armed.0.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}

/// Waits until enough is pooled or enough time is over, as the policy says, or until the policy is another.
async fn wait(chain: &ChainHandle, policy: LeapPolicy) {
    let mut head = chain.watch();
    let enough = head.wait_for(|head| {
        let pooled = head.pooled();
        pooled == 0 || policy.transactions.is_some_and(|least| pooled >= least) || chain.leap_policy() != policy
    });
    match policy.every_ms {
        Some(every) => drop(timeout(Duration::from_millis(every), enough).await),
        None => drop(enough.await),
    }
}
