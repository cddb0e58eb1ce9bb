//! The node's secret keys: a file each, which only its owner can read.

use std::{fmt, fs, io, os::unix::fs::PermissionsExt, path::Path};

use ed25519_dalek::SigningKey;

use super::{Store, StoreError, check_format, lock, make_folder, write_whole};
use crate::core::transaction::take_hex;

/// A key file in the data folder, by what its key is for. One key for both would let a signature of one kind be looked for
/// in the other, so C2SP signed-note advises against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// Signs the checkpoints of the node's own chains, and is its identity.
    Node,
    /// Cosigns the checkpoints of others.
    Witness,
}

impl KeyFile {
    /// The name of what the key is for.
    pub fn role(self) -> &'static str {
        match self {
            KeyFile::Node => "node",
            KeyFile::Witness => "witness",
        }
    }
}

/// The file's name.
impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.key", self.role())
    }
}

/// A secret key from 64 lower-case hexadecimal digits, with or without a newline.
///
/// # Errors
/// It is something else.
pub fn parse(text: &str) -> Result<SigningKey, String> {
    take_hex::<32>(text.strip_suffix('\n').unwrap_or(text), "the key").map(|secret| SigningKey::from_bytes(&secret))
}

/// Reads a key of a data folder, whether a node uses the folder or not. `None` where it has none.
///
/// # Errors
/// It cannot be read, or is no key.
pub fn read(folder: &Path, file: KeyFile) -> Result<Option<SigningKey>, StoreError> {
    let path = folder.join(file.to_string());
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).map(Some).map_err(|error| StoreError::Damaged(format!("{file}: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Damaged(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Says in the log where others than the owner can read the key.
pub fn warn_if_exposed(folder: &Path, file: KeyFile) {
    let path = folder.join(file.to_string());
    if fs::metadata(&path).is_ok_and(|metadata| is_exposed(&metadata)) {
        let path = path.display();
        tracing::warn!("others can read {path}, and sign in this node's name: run chmod 600 {path}");
    }
}

/// Whether others than the owner can read or change it.
pub fn is_exposed(metadata: &fs::Metadata) -> bool {
    metadata.permissions().mode() & 0o077 != 0
}

/// Writes a key of a folder that has none. After a crash it is there as a whole, or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write(folder: &Path, file: KeyFile, key: &SigningKey) -> Result<(), StoreError> {
    let name = file.to_string();
    write_whole(folder, &name, 0o600, format!("{}\n", hex::encode(key.to_bytes())).as_bytes())
        .map_err(|error| StoreError::Folder(format!("cannot write {}: {error}", folder.join(name).display())))
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
        if ["node.key", "log"].iter().any(|name| folder.join(name).exists()) {
            return Err(StoreError::Folder(format!(
                "the data folder {shown} has a key already, which its node has signed with: \
                 import into a new folder, before the first start of its node"
            )));
        }
        write(folder, KeyFile::Node, key)
    }
}
