//! The data folder itself: its lock, its form, and files that are written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{Store, StoreError};
use crate::log::sync_folder;

/// The form of the data folder that this program reads and writes.
const FOLDER_FORMAT: &str = "qbc-data 4\n";

/// The number of the form that the file `format` names, if it names one.
fn form(text: &str) -> Option<u64> {
    text.strip_prefix("qbc-data ")?.strip_suffix('\n')?.parse().ok()
}

/// Judges what the file `format` of a data folder says.
pub(super) fn check_form(path: &Path, text: &str) -> Result<(), StoreError> {
    if text == FOLDER_FORMAT {
        return Ok(());
    }
    let cure = match form(text) {
        form if form > self::form(FOLDER_FORMAT) => {
            "a newer version of the program wrote it: start that version again, or a later one. Nothing was changed"
        }
        Some(_) => "carry the chains over with the program that wrote it (qbc export), and this one (qbc import)",
        None => "it is damaged: restore it from a backup",
    };
    let path = path.display();
    Err(StoreError::Folder(format!("{path} says {text:?}, but this program knows only {FOLDER_FORMAT:?}: {cure}")))
}

/// Writes a new file of a folder, readable as `mode` says. After a crash it is there as a whole, or not at all.
pub(super) fn write_whole(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let part = folder.join(format!("{name}.part"));
    // What an interrupted write left may be readable otherwise.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, folder.join(name))?;
    sync_folder(folder)
}

/// Writes a secret of a data folder, which its owner alone can read. After a crash it is there as a whole, or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write_secret(folder: &Path, name: &str, secret: &str) -> Result<(), StoreError> {
    write_whole(folder, name, 0o600, format!("{secret}\n").as_bytes())
        .map_err(|error| StoreError::Folder(format!("cannot write {}: {error}", folder.join(name).display())))
}

impl Store {
    /// A secret of the data folder, if it has it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_secret(&self, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::Folder(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// Writes a secret of the data folder, as [`write_secret`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_secret(&self, name: &str, secret: &str) -> Result<(), StoreError> {
        write_secret(&self.folder, name, secret)
    }
}

pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|error| StoreError::Folder(format!("cannot open {}: {error}", path.display())))?;
    file.try_lock().map_err(|_| {
        StoreError::Folder(format!(
            "the data folder {} is in use by another process: stop that one, or choose another folder with --data",
            folder.display()
        ))
    })?;
    Ok(file)
}

pub(super) fn check_format(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => check_form(&path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let part = folder.join("format.part");
            let is_ours = |entry: fs::DirEntry| entry.file_name() == "lock" || entry.path() == part;
            let is_new = fs::read_dir(folder).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_ours)));
            if !is_new {
                let folder = folder.display();
                return Err(StoreError::Folder(format!(
                    "{folder} is no data folder of QBC, and not empty: choose another with --data"
                )));
            }
            let write = write_whole(folder, "format", 0o666, FOLDER_FORMAT.as_bytes());
            write.map_err(|error| StoreError::Folder(format!("cannot write {}: {error}", path.display())))
        }
        Err(error) => Err(StoreError::Folder(format!("cannot read {}: {error}", path.display()))),
    }
}
