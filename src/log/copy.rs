//! A copy of a log, brought up to it again and again while the log is written to.
//!
//! The copy is a log like any other, which ends with a batch that was acknowledged. Segments are copied up to that batch, what is new of
//! them appended in place, so that a payload has one place there too, and then every batch that came is checked in the copy.
//!
//! - **What is read may be erased meanwhile**: zeros, or a payload that is zeros in part, stand only where a batch has announced it
//!   before. So more batches are copied until those that announce what was found are there, too.
//! - **What was erased is not erased in the copy yet**, but announced: opening the copy with [`Log::open`](super::Log::open) does that.
//! - **A crash leaves the copy as it was before**: the file `copying` says from where on it was being written, and
//!   [`undo`] takes that away again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::RwLock,
    thread,
    time::Duration,
};

use super::{
    ACKNOWLEDGED, Acknowledged, LogError, Mark, Place, Shared, make_folder,
    recovery::{self, Announced, Scan, WINDOW},
    segments, sync_folder,
};

/// The file that says from which batch on a copy is being written.
pub(super) const COPYING: &str = "copying";

/// How often `acknowledged` is read again, and the pause before, where it was just being written.
const READS: u32 = 100;
const READ_PAUSE: Duration = Duration::from_millis(1);

/// What a copy took over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copied {
    /// New batches.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Erasures that they announce.
    pub erasures: u64,
}

/// Brings the copy in the folder `to`, which is made where there is none, up to the log in `from`. That is only read; `is_in_use` says
/// whether it is written to meanwhile. `told` is called with the bytes that are copied, and with all that there are to copy.
///
/// # Errors
/// [`LogError::NoSuchMark`] where the copy has a batch that the log has not: it is a copy of another one, or a newer one. The log is
/// damaged, or the copy; or a file cannot be read or written. The copy is as it was, or the next [`undo`] makes it that again.
pub fn copy(from: &Path, to: &Path, is_in_use: bool, told: impl Fn(u64, u64)) -> Result<Copied, LogError> {
    make_folder(to).map_err(|error| LogError::write(&format!("cannot make {}", to.display()), &error))?;
    undo(to)?;
    let copying = Copying::new(from, to, is_in_use)?;
    copying.run(&told).inspect_err(|_| {
        // Where that fails too, it is done when the copy is used next.
        let _ = undo(to);
    })
}

struct Copying<'a> {
    from: &'a Path,
    to: &'a Path,
    is_in_use: bool,
    seed: u64,
    /// Where the copy ends.
    base: Mark,
}

impl<'a> Copying<'a> {
    fn new(from: &'a Path, to: &'a Path, is_in_use: bool) -> Result<Copying<'a>, LogError> {
        let seed = seed(from)?;
        let base = match recovery::open(to)? {
            Some((shared, acknowledged)) if shared.seed == seed => acknowledged.mark,
            Some((_, acknowledged)) => return Err(LogError::NoSuchMark(acknowledged.mark.number)),
            None => Mark::START,
        };
        let copying = Copying { from, to, is_in_use, seed, base };
        // It must be there.
        Scan::new(&copying.shared(from)?, Acknowledged { mark: base, is_closed: false }, base)?;
        Ok(copying)
    }

    /// A log of which only the segments are looked at.
    fn shared(&self, folder: &Path) -> Result<Shared, LogError> {
        let segments = RwLock::new(segments::open_all(folder, false)?);
        Ok(Shared { folder: folder.into(), seed: self.seed, segments })
    }

    fn run(&self, told: &impl Fn(u64, u64)) -> Result<Copied, LogError> {
        let Copying { to, seed, base, .. } = *self;
        let not_written = |error: io::Error| LogError::write(&format!("cannot write {}", to.display()), &error);
        let (mut copied, mut mark) = (Copied::default(), base);
        // Payloads that are not as they were written, and whose erasure was not announced by then.
        let (mut announced, mut unexplained) = (Announced::default(), Vec::new());
        loop {
            let end = self.newest()?;
            if end == mark {
                break;
            }
            if mark == base {
                write_whole(to, COPYING, &base.encode()).map_err(not_written)?;
            }
            copied.bytes += append(self.from, to, mark, end, told)?;
            copied.batches += end.number - mark.number;
            unexplained.extend(self.check(mark, end, &mut announced, &mut copied.erasures)?);
            mark = end;
            unexplained.retain(|place| !announced.has(place));
            if unexplained.is_empty() {
                break;
            }
        }
        if let Some(&Place { segment, offset, .. }) = unexplained.first() {
            return Err(LogError::damaged(segment, offset.into(), "a payload is not as it was written"));
        }
        if mark == Mark::START {
            return Err(LogError::Failed("nothing was written to the log yet".into()));
        }
        if mark != base {
            settle(to, seed, mark).map_err(not_written)?;
            fs::remove_file(to.join(COPYING)).and_then(|()| sync_folder(to)).map_err(not_written)?;
        }
        Ok(copied)
    }

    /// The newest batch of the log that is certain to stay there.
    fn newest(&self) -> Result<Mark, LogError> {
        if !self.is_in_use {
            return recovery::read(self.from, self.base, |_| Ok(()));
        }
        let mut reads = 0;
        loop {
            match Acknowledged::read(self.from, self.seed) {
                Ok(acknowledged) => return Ok(acknowledged.map_or(Mark::START, |acknowledged| acknowledged.mark)),
                Err(error) if reads >= READS => return Err(error),
                Err(_) => thread::sleep(READ_PAUSE),
            }
            reads += 1;
        }
    }

    /// Recomputes the checksums of the batches of the copy after one up to another, and gives the payloads that are not as they
    /// were written.
    fn check(
        &self,
        after: Mark,
        end: Mark,
        announced: &mut Announced,
        erasures: &mut u64,
    ) -> Result<Vec<Place>, LogError> {
        let shared = self.shared(self.to)?;
        let mut scan = Scan::new(&shared, Acknowledged { mark: end, is_closed: false }, after)?;
        let mut not_whole = Vec::new();
        while scan.newest.number < end.number {
            let Some((mark, contents)) = scan.next()? else { break };
            *erasures += contents.erasures.len() as u64;
            announced.add(&contents.erasures);
            contents.found(mark, end.number).for_each(|found| not_whole.extend(recovery::not_whole(&found)));
        }
        match scan.newest == end {
            true => Ok(not_whole),
            false => Err(LogError::damaged(end.segment, end.start.into(), "another batch than was acknowledged")),
        }
    }
}

/// Takes away what an interrupted [copy](copy()) has left in this folder.
///
/// # Errors
/// A file cannot be written or removed. It can be done again.
pub fn undo(folder: &Path) -> Result<(), LogError> {
    let path = folder.join(COPYING);
    let base = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LogError::Failed(format!("cannot read {}: {error}", path.display()))),
    };
    let base = base.as_array().map(Mark::decode);
    let base = base.ok_or_else(|| LogError::Failed(format!("the file {} has another length", path.display())))?;
    let undone = || -> Result<(), io::Error> {
        let is_new = base == Mark::START;
        for number in segments::numbers(folder)? {
            match segments::path(folder, number) {
                path if is_new || number > base.segment => fs::remove_file(path)?,
                path if number == base.segment => open_to_write(&path)?.set_len(base.end.into())?,
                _ => {}
            }
        }
        if is_new {
            remove_if_there(&folder.join(ACKNOWLEDGED))?;
        }
        sync_folder(folder)
    };
    let failed = |error: io::Error| LogError::write(&format!("cannot undo a copy in {}", folder.display()), &error);
    undone().map_err(failed)?;
    if base != Mark::START {
        settle(folder, seed(folder)?, base).map_err(failed)?;
    }
    fs::remove_file(path).and_then(|()| sync_folder(folder)).map_err(failed)
}

/// The seed of the log in a folder.
fn seed(folder: &Path) -> Result<u64, LogError> {
    let first = segments::path(folder, 0);
    let opened = File::open(&first);
    segments::seed_of(&opened.map_err(|error| LogError::Failed(format!("cannot read {}: {error}", first.display())))?)
}

/// Copies the bytes of the batches after one up to another, and gives how many.
pub(super) fn append(
    from: &Path,
    to: &Path,
    after: Mark,
    end: Mark,
    told: &impl Fn(u64, u64),
) -> Result<u64, LogError> {
    let unreadable = |error: io::Error| LogError::Failed(format!("cannot read {}: {error}", from.display()));
    let mut parts = Vec::new();
    for number in after.segment..=end.segment {
        let file = File::open(segments::path(from, number)).map_err(unreadable)?;
        let start = if number == after.segment { after.end.into() } else { 0 };
        let stop = match number == end.segment {
            true => end.end.into(),
            false => file.metadata().map_err(unreadable)?.len(),
        };
        parts.push((number, file, start..stop));
    }
    let all = parts.iter().map(|(.., range)| range.end - range.start).sum();
    let (mut copied, mut bytes) = (0, vec![0; WINDOW]);
    for (number, file, range) in parts {
        let path = segments::path(to, number);
        let not_written = |error: io::Error| LogError::write(&format!("cannot write {}", path.display()), &error);
        let copy = open_to_write(&path).map_err(not_written)?;
        // A prepared segment of zeros may stand there.
        copy.set_len(range.start).map_err(not_written)?;
        let mut at = range.start;
        while at < range.end {
            let part = bytes.len().min((range.end - at) as usize);
            // The unused end of a finished segment is cut off some time.
            let read = file.read_at(&mut bytes[..part], at).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            copy.write_all_at(&bytes[..read], at).map_err(not_written)?;
            at += read as u64;
            copied += read as u64;
            told(copied, all);
        }
    }
    Ok(copied)
}

/// Makes all segments durable, and then says how far they are written.
fn settle(folder: &Path, seed: u64, mark: Mark) -> io::Result<()> {
    for number in segments::numbers(folder)? {
        File::open(segments::path(folder, number))?.sync_all()?;
    }
    sync_folder(folder)?;
    let file = open_to_write(&folder.join(ACKNOWLEDGED))?;
    Acknowledged { mark, is_closed: true }.write(&file, seed)?;
    file.sync_all()?;
    sync_folder(folder)
}

fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

pub(super) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = folder.join(format!("{name}.part"));
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, folder.join(name))?;
    sync_folder(folder)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
