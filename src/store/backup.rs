//! A backup: a copy of a data folder, brought up to it again and again while its node runs.
//!
//! It has the log and the node's secrets; the index is made from the log. A backup is a data folder as any other: a node that is started on
//! it goes on from there. What it has is the folder as it was at one moment: had the power been cut then, just this would be found. To that
//! end the secrets must be the same before and after the log is copied.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use super::{LOG, Progress, Store, StoreError, check_format, folder::check_form, key, lock, write_whole};
use crate::log::{self, LogError, make_folder, sync_folder};

pub use crate::log::Copied;

/// The contents of files, by their names.
type Files = BTreeMap<String, Vec<u8>>;

impl Store {
    /// Brings the backup in the folder `to`, which is made where there is none, up to the data folder `from`, which is only read. Then the
    /// backup must be [opened](Store::open) once: that erases in it what was erased since the last time.
    ///
    /// # Errors
    /// `from` is no data folder, has no log yet, or its log is damaged; `to` is in use, is something else than a backup of `from`, or has
    /// more than `from` has; or a file cannot be read or written. An existing backup is as it was, or is made so when it is opened.
    pub fn back_up(from: &Path, to: &Path, progress: &Progress) -> Result<Copied, StoreError> {
        look_at(from)?;
        let cannot_use = |error: io::Error| StoreError::Folder(format!("cannot use {}: {error}", to.display()));
        make_folder(to).map_err(cannot_use)?;
        if fs::canonicalize(to).map_err(cannot_use)?.starts_with(fs::canonicalize(from).map_err(cannot_use)?) {
            return Err(StoreError::Folder(format!("{} is, or lies in, the folder to back up", to.display())));
        }
        let _lock = lock(to)?;
        check_format(to)?;
        let mut all = Copied::default();
        loop {
            let before = secrets(from)?;
            refuse_other(to, &before)?;
            let copied = log::copy(&from.join(LOG), &to.join(LOG), is_in_use(from), |done, of| progress.tell(done, of));
            let copied = copied.map_err(|error| describe(error, from, to))?;
            all = Copied {
                batches: all.batches + copied.batches,
                bytes: all.bytes + copied.bytes,
                erasures: all.erasures + copied.erasures,
            };
            if secrets(from)? == before {
                return write_secrets(to, &before).map(|()| all);
            }
        }
    }
}

/// Whether a node uses a data folder now. Nothing in it is changed.
///
/// # Errors
/// It is none, or of another form.
pub fn look_at(folder: &Path) -> Result<bool, StoreError> {
    let form = folder.join("format");
    let text = fs::read_to_string(&form).map_err(|error| {
        let (folder, form) = (folder.display(), form.display());
        StoreError::Folder(format!("{folder} is no data folder of a node: cannot read {form}: {error}"))
    })?;
    check_form(&form, &text).map(|()| is_in_use(folder))
}

fn is_in_use(folder: &Path) -> bool {
    let lock = File::open(folder.join("lock"));
    lock.is_ok_and(|lock| lock.try_lock_shared().is_err())
}

fn describe(error: LogError, from: &Path, to: &Path) -> StoreError {
    let (from, to) = (from.display(), to.display());
    match error {
        LogError::NoSuchMark(batch) => StoreError::Folder(format!(
            "{to} is no older copy of {from}: it goes up to batch {batch}, which is another one there, or is missing. It is the backup of another \
             node, a node was started on it, or {from} was put back from an older copy. Back up into an empty folder"
        )),
        LogError::Full => StoreError::Folder(format!("the disk of {to} is full: the backup is as it was before")),
        LogError::Failed(detail) => StoreError::Folder(format!("{from} cannot be backed up: {detail}")),
        damaged => StoreError::Damaged(format!("{damaged}, in {from}")),
    }
}

/// Whether a file of a data folder holds a secret: its owner alone may read it, and a backup has it too.
pub fn is_secret(name: &str) -> bool {
    // That the folder is an older copy is no secret, but goes with it as well.
    [".key", ".secret", ".tokens", "older-copy"].iter().any(|part| name.contains(part)) && !name.ends_with(".part")
}

/// The secrets of a data folder.
fn secrets(folder: &Path) -> Result<Files, StoreError> {
    let read = || -> io::Result<Files> {
        let mut files = Files::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && is_secret(&name)
            {
                // What a link leads to is meant: secrets may be kept elsewhere.
                files.insert(name, fs::read(entry.path())?);
            }
        }
        Ok(files)
    };
    read().map_err(|error| StoreError::Folder(format!("cannot read the secrets of {}: {error}", folder.display())))
}

/// A folder that has a key, but no log, is waiting for its first node: its key may be nowhere else.
fn refuse_other(to: &Path, from: &Files) -> Result<(), StoreError> {
    let name = key::KeyFile::Node.to_string();
    let is_other = |key: &Vec<u8>| from.get(&name) != Some(key);
    match fs::read(to.join(&name)) {
        Ok(key) if !to.join(LOG).exists() && is_other(&key) => Err(StoreError::Folder(format!(
            "{} has the key of another node: back up into an empty folder",
            to.display()
        ))),
        _ => Ok(()),
    }
}

/// Writes what is different, and removes what is gone.
fn write_secrets(to: &Path, wanted: &Files) -> Result<(), StoreError> {
    let there = secrets(to)?;
    let write = || -> io::Result<()> {
        for (name, bytes) in wanted.iter().filter(|(name, bytes)| there.get(*name) != Some(*bytes)) {
            write_whole(to, name, 0o600, bytes)?;
        }
        for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
            fs::remove_file(to.join(name))?;
        }
        sync_folder(to)
    };
    write().map_err(|error| StoreError::Folder(format!("cannot write the secrets of {}: {error}", to.display())))
}
