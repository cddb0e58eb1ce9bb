//! Work that takes milliseconds, where it keeps nobody waiting who asks for something short.

use std::io;

use thread_priority::{ThreadPriority, ThreadPriorityValue};
use tokio::runtime::Builder;
use tokio_util::task::AbortOnDropHandle;

use crate::{limits, threads::Threads};

/// About half of the way from the normal priority to the lowest, which is that of mining.
const PRIORITY: u8 = 25;

/// Threads that read the store, and parse and hash what is large.
pub struct Aside(Threads);

impl Aside {
    /// Starts none yet.
    ///
    /// # Errors
    /// The operating system gives no resources.
    pub fn new() -> io::Result<Aside> {
        let processors = std::thread::available_parallelism().map_or(1, Into::into);
        let mut builder = Builder::new_current_thread();
        // As many as have a turn, and some for what the node does by itself. All that may be are soon started, and each keeps memory that it has
        // freed.
        let with_turn = limits::reads(processors)[0] + limits::heavy(processors)[0];
        builder.max_blocking_threads(with_turn + limits::ASIDE_OWN);
        let priority = ThreadPriorityValue::try_from(PRIORITY).expect("it is one");
        Threads::start(builder, "aside", ThreadPriority::Crossplatform(priority)).map(Aside)
    }

    /// Does it there. What nobody waits for any more is not begun.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let work = self.0.handle().spawn_blocking(work);
        AbortOnDropHandle::new(work).await.expect("what is done aside does not panic")
    }
}

/// Whether it takes milliseconds to parse or to hash a text.
pub fn is_large(text: &[u8]) -> bool {
    text.len() >= limits::CHECK_AT_ONCE
}

/// Does what takes milliseconds, and cannot go to other threads, where it holds nobody up; what is short is done at once.
pub fn beside<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    if is_long { tokio::task::block_in_place(work) } else { work() }
}
