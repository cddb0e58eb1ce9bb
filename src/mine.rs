//! Proof of work, away from everything that answers.
//!
//! Mining has threads of its own at the lowest priority. Each search works in slices and gives way after each, so that
//! all searches share the threads fairly: a chain of impossible difficulty never stops another's leap. A client has few
//! slices among those that wait for the threads, however many searches it has. Whoever drops the future of a search ends it.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use thread_priority::ThreadPriority;
use tokio::{
    runtime::Builder,
    sync::Semaphore,
    task::{JoinSet, yield_now},
    task_local,
};

use crate::{
    access::wait_for,
    core::quant::{Header, PROOFS, Quant},
    threads::Threads,
};

/// Slices that whoever searches may have at one time, as an address and as the holder of a token, where they are counted.
pub type Slices = [Option<Arc<Semaphore>>; 2];

task_local! {
    static OF: Slices;
}

/// Does what may seek proofs on behalf of a client with these.
pub async fn in_turns_of<T>(slices: Slices, work: impl Future<Output = T>) -> T {
    OF.scope(slices, work).await
}

/// Proofs of one slice: some tens of milliseconds.
const SLICE: u64 = 1 << 18;

/// Proofs tried at once by the caller itself, which costs less than to hand them over.
const AT_ONCE: u64 = 512;

/// Threads that mine.
pub struct Miner {
    threads: Threads,
    count: NonZero<usize>,
}

impl Miner {
    /// Starts the threads.
    ///
    /// # Errors
    /// The operating system gives none.
    pub fn new(count: NonZero<usize>) -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(count.get());
        Ok(Miner { threads: Threads::start(builder, "mine", ThreadPriority::Min)?, count })
    }

    /// Finds the proof of a header.
    pub async fn mine(&self, header: Header) -> Quant {
        if let Some(quant) = header.mine(0..AT_ONCE) {
            return quant;
        }
        let next = Arc::new(AtomicU64::new(AT_ONCE));
        let (slices, mut searches) = (OF.try_with(Slices::clone).unwrap_or_default(), JoinSet::new());
        // A slice holds the proof of an easy quant, so one thread finds it as soon as many.
        let threads = if SLICE >> header.difficulty > 0 { 1 } else { self.count.get() };
        for _ in 0..threads {
            searches.spawn_on(search(header.clone(), next.clone(), slices.clone()), self.threads.handle());
        }
        let found = searches.join_next().await.expect("there is at least one search");
        found.expect("a search does not panic").expect("2^53 proofs hold one for each difficulty that rules allow")
    }
}

async fn search(header: Header, next: Arc<AtomicU64>, slices: Slices) -> Option<Quant> {
    let [address, token] = &slices;
    loop {
        let _turn = [wait_for(address.as_ref(), 1).await, wait_for(token.as_ref(), 1).await];
        let start = next.fetch_add(SLICE, Ordering::Relaxed);
        if start >= PROOFS {
            return None;
        }
        if let Some(quant) = header.mine(start..start + SLICE) {
            return Some(quant);
        }
        yield_now().await;
    }
}
