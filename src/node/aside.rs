//! Threads that read the store, and do what else takes milliseconds. They have a lower priority than those that serve connections and
//! write, so that much of that keeps nobody waiting who asks for something short.

use std::io;

use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::limits;

/// About half of the way from the normal priority to the lowest, which is that of mining.
const PRIORITY: u8 = 25;

/// The threads.
pub struct Aside {
    /// Taken when they are dropped. Only its threads for what may block are used.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Aside {
    /// Starts none yet.
    ///
    /// # Errors
    /// The operating system gives no resources.
    pub fn new() -> io::Result<Aside> {
        let lower = || {
            let priority = ThreadPriorityValue::try_from(PRIORITY).expect("it is one");
            if let Err(error) = set_current_thread_priority(ThreadPriority::Crossplatform(priority)) {
                tracing::warn!("reads and other long work have the normal priority: {error:?}");
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, Into::into);
        // As many as have a turn, and as many more for what the node does by itself.
        let threads = 2 * (limits::reads(processors)[0] + limits::heavy(processors)[0]);
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(threads)
            .thread_name("aside")
            .on_thread_start(lower)
            .build()?;
        Ok(Aside { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Does it there. What nobody waits for any more is not begun.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        AbortOnDropHandle::new(self.handle.spawn_blocking(work)).await.expect("what is done aside does not panic")
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
