//! What the process takes up of the machine.

use super::{To, since_1970};
use crate::core::transaction::Timestamp;

/// Adds it, as far as the system tells it.
pub(super) fn gather(of: &mut To, started: Timestamp) {
    of.seconds("process_start_time", "When the node was started, since 1970", since_1970(started));
    #[cfg(target_os = "linux")]
    // Where /proc is hidden, the rest is told all the same.
    let _ = linux(of);
}

#[cfg(target_os = "linux")]
fn linux(of: &mut To) -> procfs::ProcResult<()> {
    use procfs::process::{LimitValue, Process};
    use prometheus_client::{metrics::counter::Counter, registry::Unit};

    let process = Process::myself()?;
    let stat = process.stat()?;
    let seconds = Counter::<f64, std::sync::atomic::AtomicU64>::default();
    seconds.inc_by((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64);
    of.0.register_with_unit("process_cpu", "Processor time that the node has used", Unit::Seconds, seconds);
    of.bytes("process_resident_memory", "Memory that the node takes up", stat.rss * procfs::page_size());
    of.bytes("process_virtual_memory", "Addresses that the node has reserved", stat.vsize);
    of.gauge("process_threads", "Threads of the node", u64::try_from(stat.num_threads).unwrap_or(0));
    of.gauge("process_open_fds", "File descriptors that are open", process.fd_count()?);
    let most = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Value(most) => most,
        LimitValue::Unlimited => u64::MAX,
    };
    of.gauge("process_max_fds", "File descriptors that may be open", most);
    Ok(())
}
