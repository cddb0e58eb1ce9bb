//! The node's log: lines on standard error that nothing waits for and nothing fails with.
//!
//! Standard error may be a full disk, a pipe whose reader has ended or sleeps, or a terminal that is held. So whoever logs only
//! puts a line into a bounded buffer, and one thread writes. A line that finds no room or cannot be written is lost and
//! counted, and the log tells the count once it can be written again.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use crate::limits;

/// Pause before a pipe that takes nothing, and that others have set not to block, is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// The lines that wait to be written. It is a writer that never blocks and never fails.
pub struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether lines were taken out that may not be written yet.
    is_writing: bool,
    /// Lines that were lost since the start.
    lost: u64,
}

impl Log {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Arc<Log>> {
        let log = Arc::new(Log { state: Mutex::default(), changed: Condvar::new() });
        let to_write = log.clone();
        thread::Builder::new().name("log".into()).spawn(move || to_write.write_all(Lines { out, is_torn: false }))?;
        Ok(log)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn write_all(&self, mut lines: Lines<impl Write>) {
        let mut told = 0;
        loop {
            let nothing = |state: &mut State| state.waiting.is_empty();
            let mut state = self.changed.wait_while(self.lock(), nothing).expect("no holder of this lock panics");
            let taken = mem::take(&mut state.waiting);
            state.is_writing = true;
            drop(state);
            let unwritten = lines.write(&taken);
            let mut state = self.lock();
            state.lost += unwritten;
            let lost = state.lost;
            drop(state);
            if unwritten == 0 && lost > told {
                told = lost;
                // It is a line as any other. If it is lost as well, the count has grown, and is told the next time.
                tracing::error!(lost, "lines of the log were lost since the start: standard error did not take them");
            }
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits until all that was logged is written, but not for ever.
    fn flush(&self) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), limits::LOG_FLUSH, is_busy);
        drop(waited.expect("no holder of this lock panics"));
    }
}

/// Takes one line.
impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.waiting.len() + line.len() <= limits::LOG_BYTES {
            state.waiting.extend_from_slice(line);
        } else {
            state.lost += 1;
        }
        drop(state);
        self.changed.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Dropped when the node ends, also by an error or a panic: the last lines say why.
pub struct Flushed(pub Arc<Log>);

impl Drop for Flushed {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Where lines go.
struct Lines<W> {
    out: W,
    /// Whether the last line was written in part.
    is_torn: bool,
}

impl<W: Write> Lines<W> {
    /// Writes lines, and gives how many are lost.
    fn write(&mut self, lines: &[u8]) -> u64 {
        let count = |lines: &[u8]| lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if self.is_torn && self.put(b"\n") == 0 {
            return count(lines);
        }
        let (written, rest) = lines.split_at(self.put(lines));
        self.is_torn = written.last().is_some_and(|&byte| byte != b'\n');
        count(rest)
    }

    /// Writes what it can, and gives how many bytes that were.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(more @ 1..) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                Ok(0) | Err(_) => break,
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at each call, or fails.
    struct Disk {
        room: Vec<Result<usize, io::ErrorKind>>,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = if self.room.is_empty() { bytes.len() } else { self.room.remove(0)?.min(bytes.len()) };
            self.written.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_written_in_part_stands_alone() {
        use io::ErrorKind::{Interrupted, StorageFull, WouldBlock};
        let room = vec![
            Ok(1),
            Err(Interrupted),
            Ok(5),
            Err(WouldBlock),
            Ok(1),
            Err(StorageFull),
            Err(StorageFull),
            Err(StorageFull),
        ];
        let mut lines = Lines { out: Disk { room, written: Vec::new() }, is_torn: false };
        assert_eq!(lines.write(b"one\ntwo\nthree\nfour\n"), 3, "two is cut, three and four are lost");
        assert_eq!(lines.write(b"five\n"), 1);
        assert_eq!(lines.write(b"six\nseven\n"), 2);
        assert_eq!(lines.write(b"eight\n"), 0);
        assert_eq!(lines.write(b"nine\n"), 0);
        assert_eq!(lines.out.written, b"one\ntwo\neight\nnine\n");
    }
}
