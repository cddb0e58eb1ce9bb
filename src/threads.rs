//! Threads of a lower priority than those that serve connections and write.

use std::io;

use thread_priority::{ThreadPriority, set_current_thread_priority};
use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime with such threads. It ends with this, and waits for nothing that is under way.
pub struct Threads {
    /// Taken when they are dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Threads {
    /// Those that `builder` makes, with this name and priority.
    ///
    /// # Errors
    /// The operating system gives none.
    pub fn start(mut builder: Builder, name: &'static str, priority: ThreadPriority) -> io::Result<Threads> {
        let lower = move || {
            if let Err(error) = set_current_thread_priority(priority) {
                tracing::warn!("threads of the kind {name:?} run at normal priority: {error:?}");
            }
        };
        let runtime = builder.thread_name(name).on_thread_start(lower).build()?;
        Ok(Threads { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// What starts work on them.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
