//! The data folder and the machine that it is on.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

use chrono::Utc;
use indicatif::HumanBytes;
use rustix::fs::{Access, access, statfs, statvfs};

use super::Findings;
use crate::{
    cli::serve,
    clock::Clock,
    limits,
    store::{self, key},
};

/// File systems on which an overwrite is written to another place than what it overwrites, by the magic numbers of statfs(2), or on which
/// nobody knows; and whether a sync is one.
const FILE_SYSTEMS: &[(u32, &str, Kind)] = &[
    (0x9123_683e, "btrfs", Kind::CopyOnWrite),
    (0x2fc1_2fc1, "ZFS", Kind::CopyOnWrite),
    (0xca45_1a4e, "bcachefs", Kind::CopyOnWrite),
    (0xf2f5_2010, "F2FS", Kind::CopyOnWrite),
    (0x0000_3434, "NILFS", Kind::CopyOnWrite),
    (0x794c_7630, "overlayfs", Kind::Layered),
    (0x6969, "NFS", Kind::Remote),
    (0xff53_4d42, "CIFS", Kind::Remote),
    (0xfe53_4d42, "SMB", Kind::Remote),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58f6, "ramfs", Kind::Memory),
    (0xef53, "ext4", Kind::InPlace),
    (0x5846_5342, "XFS", Kind::InPlace),
];

#[derive(Clone, Copy)]
enum Kind {
    InPlace,
    CopyOnWrite,
    Layered,
    Remote,
    Memory,
}

/// Writes and syncs that are measured, of as many bytes as a small request takes.
const SYNCS: usize = 32;
const SYNCED_BYTES: usize = 4_096;

/// Each write waits for a sync: one that takes longer is felt, and no disk is faster than the shorter.
const SLOW_SYNC: Duration = Duration::from_millis(20);
const NO_SYNC: Duration = Duration::from_micros(8);

/// Whether others than its owner can read or change a file.
pub(super) fn is_exposed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| key::is_exposed(&metadata))
}

/// Looks at the folder, and says whether a node uses it. What is there already is not changed.
pub(super) fn look(data: &Path, found: &mut Findings) -> bool {
    look_at_machine(found);
    let shown = data.display();
    if !data.exists() {
        let cure =
            format!("start a node on it, or say which one is meant: {}", "--data DIR, --port PORT or --config FILE");
        found.note("folder", format!("there is no {shown} yet"), cure);
        return false;
    }
    let is_in_use = match store::look_at(data) {
        Ok(is_in_use) => {
            found.ok("folder", format!("{shown} is a data folder {}", if is_in_use { "in use" } else { "at rest" }));
            is_in_use
        }
        Err(error) => {
            found.wrong("folder", error.to_string(), "see what --data names");
            return false;
        }
    };
    look_at_files(data, is_in_use, found);
    look_at_room(data, found);
    look_at_file_system(data, found);
    measure_syncs(data, found);
    look_at_times(data, found);
    is_in_use
}

fn look_at_machine(found: &mut Findings) {
    let (_, most) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap_or((0, 0));
    let wanted = serve::OWN_FILES + limits::CONNECTIONS as u64;
    match most {
        most if most >= wanted => found.ok("open files", format!("a node may open {most}")),
        most => found.note(
            "open files",
            format!("a node may open {most}, and would for {} connections open {wanted}", limits::CONNECTIONS),
            format!(
                "raise the hard limit: LimitNOFILE={wanted} in a systemd unit, --ulimit nofile={wanted} for Docker"
            ),
        ),
    }
    match Clock::default().plausible() {
        Ok(now) => found.ok("clock", format!("it shows {now}")),
        Err(detail) => found.wrong("clock", detail, "set it, and keep it by NTP (timedatectl set-ntp true)"),
    }
}

fn look_at_files(data: &Path, is_in_use: bool, found: &mut Findings) {
    let entries = || fs::read_dir(data).into_iter().flatten().filter_map(Result::ok);
    let exposed: Vec<String> = entries()
        .filter(|entry| entry.file_name().to_str().is_some_and(store::is_secret) && is_exposed(&entry.path()))
        .map(|entry| entry.path().display().to_string())
        .collect();
    match exposed.as_slice() {
        [] => found.ok("secrets", "only their owner can read them"),
        files => found.wrong(
            "secrets",
            format!("others can read {}, and sign in this node's name", files.join(" and ")),
            format!("chmod 600 {}; whoever may have read them has the keys", files.join(" ")),
        ),
    }
    let owner = fs::metadata(data).map(|metadata| metadata.uid()).ok();
    let log = fs::read_dir(data.join("log")).into_iter().flatten().filter_map(Result::ok);
    let of_others = entries().chain(log).filter(|entry| entry.metadata().ok().map(|metadata| metadata.uid()) != owner);
    match of_others.count() {
        0 => {}
        files => found.wrong(
            "owner",
            format!("{files} files in {} belong to another user than the folder", data.display()),
            format!("chown -R --reference={0} {0}, and start the node as that user only", data.display()),
        ),
    }
    if access(data, Access::WRITE_OK).is_err() {
        let detail = "this user cannot write to it";
        found.note("owner", detail, "run qbc doctor as the node's user: then it can tell more");
    }
    let (index, opening) = (data.join("index"), data.join("index.opening"));
    if !index.is_dir() {
        found.note("index", "there is none", "nothing: the next start makes it from the log, which takes a while");
    } else if opening.exists() && !is_in_use {
        let detail = "the process ended while it was opened";
        found.note("index", detail, "nothing: the next start makes it anew from the log");
    }
    if data.join("log/copying").exists() {
        let detail = "a backup into this folder was interrupted";
        found.note(
            "backup",
            detail,
            "run it again; until then the folder is the backup before, once a node is started on it",
        );
    }
}

fn look_at_room(data: &Path, found: &mut Findings) {
    let Ok(stat) = statvfs(data) else { return };
    let (free, total) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
    let detail = format!("{} of {} are free", HumanBytes(free), HumanBytes(total));
    let least = limits::FREE_BYTES.min(total / 16);
    if free < least {
        let cure = "free some, or move the folder to a larger disk: a node takes no writes until then";
        found.wrong("disk", detail, cure);
    } else if stat.f_files > 0 && stat.f_favail == 0 {
        found.wrong(
            "disk",
            "it can have no more files (inodes)",
            "remove files, or make a file system with more inodes",
        );
    } else if free < total / 10 {
        found.note(
            "disk",
            detail,
            format!("see to more space in time: below {} writes are refused", HumanBytes(least)),
        );
    } else {
        found.ok("disk", detail);
    }
}

fn look_at_file_system(data: &Path, found: &mut Findings) {
    let Ok(stat) = statfs(data) else { return };
    let magic = stat.f_type as u32;
    let Some((_, name, kind)) = FILE_SYSTEMS.iter().find(|(of, ..)| *of == magic) else {
        return found.ok("file system", format!("kind {magic:#x}: whether an overwrite is one there is not known"));
    };
    let detail = format!("the folder is on {name}");
    match kind {
        Kind::InPlace => found.ok("file system", detail),
        Kind::CopyOnWrite => found.note(
            "file system",
            format!("{detail}, where what is overwritten stays on the disk for a while: so does what is erased"),
            "encrypt the disk, keep no snapshots longer than erased data may live, or use ext4 or XFS",
        ),
        Kind::Layered => found.note(
            "file system",
            format!("{detail}: in a container the data goes with the container"),
            "mount a volume at the data folder",
        ),
        Kind::Remote => found.note(
            "file system",
            format!("{detail}: whether a sync is durable, an overwrite is one, and a lock holds is up to the server"),
            "use a local disk, and other nodes for availability",
        ),
        Kind::Memory => found.wrong(
            "file system",
            format!("{detail}: all is gone when the machine stops"),
            "use a disk, or --ephemeral where that is meant",
        ),
    }
}

fn measure_syncs(data: &Path, found: &mut Findings) {
    let measure = || -> std::io::Result<Vec<Duration>> {
        let mut file: File = tempfile::tempfile_in(data)?;
        file.write_all(&[0; SYNCED_BYTES])?;
        file.sync_all()?;
        let sync = |round: usize| {
            let start = Instant::now();
            file.write_all_at(&[round as u8; SYNCED_BYTES], 0)?;
            file.sync_data()?;
            Ok(start.elapsed())
        };
        (0..SYNCS).map(sync).collect()
    };
    let Ok(mut took) = measure() else { return };
    took.sort_unstable();
    let (median, longest) = (took[SYNCS / 2], took[SYNCS - 1]);
    let detail = format!("a small write takes {median:.2?} to be durable, the longest of {SYNCS} took {longest:.2?}");
    if median > SLOW_SYNC {
        let cure = "use a disk with a faster sync (an SSD with a protected cache): each write waits that long";
        found.note("sync", detail, cure);
    } else if median < NO_SYNC {
        let cure = "see that nothing pretends to sync (memory, eatmydata, a virtual disk with cache=unsafe): the power may be cut";
        found.note("sync", format!("{detail}: no disk is that fast"), cure);
    } else {
        found.ok("sync", detail);
    }
}

/// A clock that is behind what was written by it before.
fn look_at_times(data: &Path, found: &mut Findings) {
    let files = fs::read_dir(data.join("log")).into_iter().flatten().filter_map(Result::ok);
    let newest = files.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.mtime()).max();
    let ahead = newest.map_or(0, |newest| newest - Utc::now().timestamp());
    if ahead > limits::CLOCK_TOLERANCE.as_secs() as i64 {
        let detail = format!("the newest file of the log was written {ahead} s from now, by this clock");
        found.wrong(
            "clock",
            detail,
            "set it, and keep it by NTP; what is new gets the newest time that there is until then",
        );
    }
}
