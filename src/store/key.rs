//! The node's secret keys: a file each, which only its owner can read; and who has taken whose place, for everyone to read.
//!
//! | file | what |
//! | --- | --- |
//! | `node.key` | the node's identity, which never changes; it signs checkpoints, too, until another key takes its place in that |
//! | `signing.key` | the key that signs checkpoints in the place of `node.key`, and, in a second line, the one before that while it signs, too |
//! | `node.keys` | how the one came to the other: a [`Succession`] a line |
//! | `cluster.keys` | the same of the keys that a cluster's secrets came to |
//!
//! What is public is written first: a succession whose new key nobody has counts for nothing.

use std::{fmt, fs, io, os::unix::fs::PermissionsExt, path::Path};

use ed25519_dalek::{SigningKey, VerifyingKey};

use super::{Store, StoreError, check_format, lock, make_folder, write_whole};
use crate::core::{
    succession::{Role, Succession},
    transaction::{Timestamp, take_hex},
};

/// A key file in the data folder, by what its key is for. One key for both would let a signature of one kind be looked for
/// in the other, so C2SP signed-note advises against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// Is the node's identity, and signs the checkpoints of its chains where no other key does.
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

/// The file with the key that signs checkpoints.
const SIGNING_KEY: &str = "signing.key";

/// The file with the successions of a role.
fn successions_file(role: Role) -> &'static str {
    match role {
        Role::Node => "node.keys",
        Role::Cluster => "cluster.keys",
    }
}

/// What signs a node's checkpoints.
#[derive(Clone)]
pub struct Signers {
    /// The key.
    pub current: SigningKey,
    /// The one before, while it signs, too.
    pub previous: Option<SigningKey>,
    /// From the node's first key to the current one.
    pub successions: Vec<Succession>,
}

impl Signers {
    /// Those of a data folder with this identity.
    ///
    /// # Errors
    /// The files cannot be read, or do not fit together.
    pub fn read(folder: &Path, identity: &SigningKey) -> Result<Signers, StoreError> {
        let damaged = |detail: String| StoreError::Damaged(format!("{SIGNING_KEY}: {detail}"));
        let path = folder.join(SIGNING_KEY);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Signers { current: identity.clone(), previous: None, successions: Vec::new() });
            }
            Err(error) => return Err(StoreError::Damaged(format!("cannot read {}: {error}", path.display()))),
        };
        let mut keys = text.lines().map(parse);
        let mut next = || keys.next().transpose().map_err(damaged);
        let current = next()?.ok_or_else(|| damaged("it is empty".into()))?;
        let previous = next()?;
        let successions = read_successions(folder, Role::Node, &current.verifying_key())?;
        let first = successions.first().map(|first| *first.old());
        if first != Some(identity.verifying_key()) {
            let detail =
                format!("{} does not show how the key of {} came to it", successions_file(Role::Node), KeyFile::Node);
            return Err(damaged(detail));
        }
        Ok(Signers { current, previous, successions })
    }
}

/// The successions of a data folder that lead to this key; none where it has none.
///
/// # Errors
/// The file cannot be read, or is malformed.
pub fn read_successions(folder: &Path, role: Role, to: &VerifyingKey) -> Result<Vec<Succession>, StoreError> {
    let path = folder.join(successions_file(role));
    let damaged = |detail: String| StoreError::Damaged(format!("{}: {detail}", path.display()));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(damaged(error.to_string())),
    };
    let all = text.lines().map(|line| line.parse().map_err(damaged)).collect::<Result<Vec<Succession>, _>>()?;
    // What a crash has left behind the last is of a key that nobody has.
    let Some(last) = all.iter().rposition(|succession| succession.successor() == to) else { return Ok(Vec::new()) };
    let successions = all[..=last].to_vec();
    if successions.windows(2).any(|two| two[0].successor() != two[1].old()) {
        return Err(damaged("one succession does not follow the other".into()));
    }
    Ok(successions)
}

fn write_successions(folder: &Path, role: Role, successions: &[Succession]) -> Result<(), StoreError> {
    let name = successions_file(role);
    let text: String = successions.iter().map(|succession| format!("{succession}\n")).collect();
    write_whole(folder, name, 0o644, text.as_bytes())
        .map_err(|error| StoreError::Folder(format!("cannot write {}: {error}", folder.join(name).display())))
}

fn write_signers(folder: &Path, current: &SigningKey, previous: Option<&SigningKey>) -> Result<(), StoreError> {
    let keys = [Some(current), previous].into_iter().flatten();
    let text: String = keys.map(|key| format!("{}\n", hex::encode(key.to_bytes()))).collect();
    write_whole(folder, SIGNING_KEY, 0o600, text.as_bytes())
        .map_err(|error| StoreError::Folder(format!("cannot write {}: {error}", folder.join(SIGNING_KEY).display())))
}

/// Holds the data folder of a stopped node.
fn hold(folder: &Path) -> Result<fs::File, StoreError> {
    let held = lock(folder)?;
    check_format(folder)?;
    Ok(held)
}

fn identity(folder: &Path) -> Result<SigningKey, StoreError> {
    let missing =
        || StoreError::Folder(format!("{} holds no {}: no node has used it", folder.display(), KeyFile::Node));
    read(folder, KeyFile::Node)?.ok_or_else(missing)
}

/// Puts a new key in the place of the one that signs a stopped node's checkpoints, as that one says at this moment. Where it is kept,
/// it goes on signing beside the new one.
///
/// # Errors
/// A node uses the folder, or it cannot be read or written.
pub fn rotate(folder: &Path, new: &SigningKey, now: Timestamp, keeps_old: bool) -> Result<Succession, StoreError> {
    let _held = hold(folder)?;
    let Signers { current, mut successions, .. } = Signers::read(folder, &identity(folder)?)?;
    let succession = Succession::sign(Role::Node, &current, new.verifying_key(), now);
    successions.push(succession.clone());
    write_successions(folder, Role::Node, &successions)?;
    write_signers(folder, new, Some(&current).filter(|_| keeps_old))?;
    Ok(succession)
}

/// Ends that the key before the current one signs the checkpoints of a stopped node, too. Says whether one did.
///
/// # Errors
/// As of [`rotate`].
pub fn retire(folder: &Path) -> Result<bool, StoreError> {
    let _held = hold(folder)?;
    let Signers { current, previous, .. } = Signers::read(folder, &identity(folder)?)?;
    if previous.is_some() {
        write_signers(folder, &current, None)?;
    }
    Ok(previous.is_some())
}

/// Records on a stopped node that one key of its cluster has another in its place; `write` makes the new secret that of the folder.
///
/// # Errors
/// As of [`rotate`], and those of `write`.
pub fn rotate_cluster(
    folder: &Path,
    (old, new): (&SigningKey, &SigningKey),
    now: Timestamp,
    write: impl FnOnce() -> Result<(), StoreError>,
) -> Result<Succession, StoreError> {
    let _held = hold(folder)?;
    let mut successions = read_successions(folder, Role::Cluster, &old.verifying_key())?;
    let succession = Succession::sign(Role::Cluster, old, new.verifying_key(), now);
    successions.push(succession.clone());
    write_successions(folder, Role::Cluster, &successions)?;
    write()?;
    Ok(succession)
}

impl Store {
    /// What signs the checkpoints of the node with this identity.
    ///
    /// # Errors
    /// The files cannot be read, or do not fit together.
    pub fn signers(&self, identity: &SigningKey) -> Result<Signers, StoreError> {
        Signers::read(&self.folder, identity)
    }

    /// How the keys of the node's cluster came to this one.
    ///
    /// # Errors
    /// The file cannot be read, or is malformed.
    pub fn cluster_successions(&self, to: &VerifyingKey) -> Result<Vec<Succession>, StoreError> {
        read_successions(&self.folder, Role::Cluster, to)
    }
}
