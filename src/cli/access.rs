//! The access file of a node: read at its start, when it changes, and on SIGHUP. A wrong one is refused, and what was in force stays.

use std::{
    fs::{self, File, Metadata},
    io::Read,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::sleep,
};

use super::Usage;
use crate::{access::Access, limits};

/// The access file of a running node.
pub struct Watched {
    path: PathBuf,
    hangups: Signal,
    in_force: watch::Sender<Arc<Access>>,
}

/// What tells one state of a file from another.
type Stamp = (u64, u64, u64, [i64; 4]);

fn stamp(metadata: &Metadata) -> Stamp {
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    (metadata.dev(), metadata.ino(), metadata.len(), times)
}

/// Ensures that a node which everybody may change is reached from this machine only, or that this is meant.
///
/// # Errors
/// It would not be so.
pub fn ensure_guarded(host: IpAddr, has_access: bool, is_open: bool) -> anyhow::Result<()> {
    if has_access || is_open || host.to_canonical().is_loopback() {
        return Ok(());
    }
    bail!(Usage(format!(
        "whoever reaches {host} could read, change and erase everything on this node: say who may do what with --access FILE (`qbc \
         token` makes a token and its lines for the file), or say --open if everybody may"
    )))
}

impl Watched {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or is wrong: the line is named.
    pub fn open(path: PathBuf) -> anyhow::Result<Watched> {
        // From here on it ends the process no more.
        let hangups = signal(SignalKind::hangup()).context("cannot catch signals")?;
        let access = read(&path)?;
        tell(&path, &access);
        Ok(Watched { path, hangups, in_force: watch::channel(Arc::new(access)).0 })
    }

    /// What is in force, as it changes.
    pub fn in_force(&self) -> watch::Receiver<Arc<Access>> {
        self.in_force.subscribe()
    }

    /// Reads it again, on SIGHUP at once, and otherwise when it has changed and is no more being written.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let look = |path: &Path| fs::metadata(path).ok().map(|metadata| stamp(&metadata));
        // The file may have changed since it was read: then it is read once more.
        let (mut read, mut seen) = (None, look(&self.path));
        loop {
            let is_asked = tokio::select! {
                _ = self.hangups.recv() => true,
                () = sleep(limits::ACCESS_EVERY) => false,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            let now = look(&self.path);
            let is_still = std::mem::replace(&mut seen, now) == now;
            if is_asked || is_still && read != Some(now) {
                self.read(is_asked || read.is_some());
                read = Some(now);
            }
        }
    }

    fn read(&self, is_told: bool) {
        match read(&self.path) {
            Ok(mut access) => {
                if is_told {
                    tell(&self.path, &access);
                }
                self.in_force.send_modify(|before| {
                    access.goes_on_from(before);
                    *before = Arc::new(access);
                });
            }
            Err(error) => tracing::error!("{error:#}; what was in force stays so"),
        }
    }
}

fn tell(path: &Path, access: &Access) {
    tracing::info!(tokens = access.len(), "the access file {} is in force", path.display());
}

/// Reads such a file.
///
/// # Errors
/// It cannot be read, or is wrong: the line is named.
pub fn read(path: &Path) -> anyhow::Result<Access> {
    let place = || format!("the access file {} is refused", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(place)?;
    file.take(limits::ACCESS_FILE_BYTES + 1).read_to_string(&mut text).with_context(place)?;
    let most = limits::ACCESS_FILE_BYTES;
    ensure!(text.len() as u64 <= most, "{}: it has more than {most} bytes", place());
    Access::parse(&text).with_context(place)
}
