//! The node's secret key: one file, which only its owner can read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use ed25519_dalek::SigningKey;

use super::{Store, StoreError, check_format, lock, make_folder};
use crate::core::transaction::take_hex;

/// The file's name in the data folder.
const FILE: &str = "node.key";

/// A secret key from 64 lower-case hexadecimal digits, with or without a newline.
///
/// # Errors
/// It is something else.
pub fn parse(text: &str) -> Result<SigningKey, String> {
    take_hex::<32>(text.strip_suffix('\n').unwrap_or(text), FILE).map(|secret| SigningKey::from_bytes(&secret))
}

/// Reads the key of a data folder, whether a node uses the folder or not. `None` where it has none.
///
/// # Errors
/// It cannot be read, or is no key.
pub fn read(folder: &Path) -> Result<Option<SigningKey>, StoreError> {
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).map(Some).map_err(StoreError::Damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Damaged(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Says in the log where others than the owner can read the key.
pub fn warn_if_exposed(folder: &Path) {
    let path = folder.join(FILE);
    if fs::metadata(&path).is_ok_and(|metadata| is_exposed(&metadata)) {
        let path = path.display();
        tracing::warn!("others can read {path}, and sign in this node's name: run chmod 600 {path}");
    }
}

/// Whether others than the owner can read or change it.
pub fn is_exposed(metadata: &fs::Metadata) -> bool {
    metadata.permissions().mode() & 0o077 != 0
}

/// Writes the key of a folder that has none. After a crash it is there as a whole, or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write(folder: &Path, key: &SigningKey) -> Result<(), StoreError> {
    let (path, part) = (folder.join(FILE), folder.join("node.key.part"));
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        writeln!(file, "{}", hex::encode(key.to_bytes()))?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| StoreError::Folder(format!("cannot write {}: {error}", path.display())))
}

impl Store {
    /// Makes a data folder with this key, for a node that is to start there.
    ///
    /// # Errors
    /// A node has used the folder already, uses it now, or it cannot be written.
    pub fn import_key(folder: &Path, key: &SigningKey) -> Result<(), StoreError> {
        let shown = folder.display();
        let folder_error =
            |error: io::Error| StoreError::Folder(format!("cannot use the data folder {shown}: {error}"));
        make_folder(folder).map_err(folder_error)?;
        let _lock = lock(folder)?;
        check_format(folder)?;
        if [FILE, "acknowledged", "store"].iter().any(|name| folder.join(name).exists()) {
            return Err(StoreError::Folder(format!(
                "the data folder {shown} has a key already, which its node has signed with: \
                 import into a new folder, before the first start of its node"
            )));
        }
        write(folder, key)
    }
}
