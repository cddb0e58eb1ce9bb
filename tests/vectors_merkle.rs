//! Inclusion and consistency proofs, valid and broken, of transparency-dev/merkle.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use qbc::core::{
    hash::{Hash, empty_root, leaf},
    merkle,
};
use serde::{Deserialize, de::DeserializeOwned};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inclusion {
    leaf_idx: u64,
    tree_size: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consistency {
    size1: u64,
    size2: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

#[test]
fn inclusion() {
    check("inclusion", |vector: Inclusion| {
        let (entry, root, path) = (hash(&vector.leaf_hash), hash(&vector.root), path(&vector.proof));
        let held = merkle::check_inclusion(entry, vector.leaf_idx, vector.tree_size, &path, root);
        // An absent leaf is refused by its type: `Hash` cannot say it.
        (held.is_err() || vector.leaf_hash.is_empty(), vector.want_err)
    });
}

#[test]
fn consistency() {
    check("consistency", |vector: Consistency| {
        let (older, newer, path) = (hash(&vector.root1), hash(&vector.root2), path(&vector.proof));
        let held = merkle::check_consistency(vector.size1, vector.size2, &path, older, newer);
        // They refuse every growth out of the empty tree as useless; it is true all the same, and accepted here.
        let from_empty = vector.size1 == 0 && vector.size2 > 0 && older == empty_root() && path.is_empty();
        (held.is_err(), vector.want_err && !from_empty)
    });
}

/// Compares (refused, to be refused) of every vector below a folder.
fn check<V: DeserializeOwned>(kind: &str, verdict: impl Fn(V) -> (bool, bool)) {
    let Some(folder) = vectors() else { return };
    let mut seen = [0, 0];
    for file in files(&folder.join("testdata").join(kind)) {
        let (refused, to_be_refused) = verdict(serde_json::from_slice(&fs::read(&file).unwrap()).unwrap());
        assert_eq!(refused, to_be_refused, "{}", file.display());
        seen[usize::from(refused)] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "[accepted, refused]: {seen:?}");
}

/// The folder of the vectors, which are not part of the project.
fn vectors() -> Option<PathBuf> {
    let all = std::env::var_os("QBC_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), PathBuf::from);
    let folder = all.join("merkle");
    if !folder.exists() {
        eprintln!("skipped: there are no vectors at {}; set QBC_VECTORS", folder.display());
        return None;
    }
    Some(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|entry| if entry.is_dir() { files(&entry) } else { vec![entry] }).collect()
}

fn path(proof: &Option<Vec<String>>) -> Vec<Hash> {
    proof.iter().flatten().map(|text| hash(text)).collect()
}

/// Some vectors have texts like "don't care 1" for hashes; equal hashes stand in for equal texts.
fn hash(text: &str) -> Hash {
    let bytes = BASE64_STANDARD.decode(text).unwrap();
    bytes.as_slice().try_into().map_or_else(|_| leaf(&bytes), Hash::from_bytes)
}
