//! What reads the bytes of strangers, on a corpus and on mutants of it.
//!
//! A target is a plain function of bytes that says whether they were accepted and panics where a property does not hold, so
//! that any fuzzer can drive it. Its seeds stand in `tests/corpus/TARGET`: `y-…` must be accepted and `n-…` refused. What a
//! failing run prints belongs there.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use qbc::{
    cli::file::{self, Content},
    core::{
        hash::{self, Hash},
        json, merkle,
        note::{Checkpoint, Note, VerifierKey},
        tile::TilePath,
        verify::{self, Verifier},
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    seed,
    support::{Random, setting},
};

type Target = fn(&[u8]) -> bool;

/// The gate for JSON: its canonical form is a fixed point, and it accepts nothing that another parser does not, and reads it
/// the same.
fn json_gate(bytes: &[u8]) -> bool {
    let theirs = serde_json::from_slice::<Value>(bytes);
    match json::parse(bytes) {
        Ok(value) => {
            let canonical = json::canonical(&value);
            let again = json::parse(&canonical).expect("the canonical form is accepted");
            assert_eq!(again, value, "the canonical form is another value");
            assert_eq!(json::canonical(&again), canonical, "the canonical form of the canonical form differs");
            let theirs = theirs.expect("what the gate accepts is JSON");
            assert!(is_same(&value, &theirs), "{value} is read as {theirs} by another parser");
            true
        }
        Err(error) => {
            let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&error.line) && error.column > 0 && !error.detail.is_empty(), "{error:?}");
            // I-JSON is less than JSON: names that differ, numbers that a double can hold, and bounded depth.
            let is_stricter =
                ["name", "number", "levels", "noncharacter"].iter().any(|word| error.detail.contains(word));
            assert!(theirs.is_err() || is_stricter, "{error}");
            false
        }
    }
}

/// Whether two parsers read the same. Their numbers may differ in the last place.
fn is_same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(one), Value::Number(other)) => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            (one - other).abs() <= one.abs() * 1e-15
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| is_same(one, other)))
        }
        (one, other) => one == other,
    }
}

/// What a receipt proves: the hash of the quant, and index, hash and data of the transaction.
type Proved = (Hash, u64, Hash, Option<Vec<u8>>);

fn proved(bytes: &[u8]) -> Option<Proved> {
    let value = json::parse(bytes).ok()?;
    let receipt = verify::receipt(value.clone()).ok()?;
    let again = verify::receipt(json::parse(&json::canonical(&value)).unwrap()).expect("its canonical form holds too");
    assert_eq!(
        (again.chain, again.record.transaction.hash(), again.quant.hash()),
        (receipt.chain, receipt.record.transaction.hash(), receipt.quant.hash())
    );
    assert!(receipt.quant.size().has(receipt.record.index));
    let qbc::core::transaction::Record { index, transaction } = receipt.record;
    Some((receipt.quant.hash(), index.get(), transaction.hash(), transaction.data().map(<[u8]>::to_vec)))
}

/// Receipts: nobody can make one that proves anything else than those that the corpus has.
fn receipt(bytes: &[u8]) -> bool {
    static KNOWN: OnceLock<Vec<Proved>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| accepted("receipt").values().filter_map(|bytes| proved(bytes)).collect());
    let Some(proved) = proved(bytes) else { return false };
    assert!(known.contains(&proved), "a forged receipt: {proved:?}");
    true
}

/// Exports and served chains: what is sealed in one is what was sealed in the corpus.
fn chain(bytes: &[u8]) -> bool {
    let sealed = |verifier: &Verifier| {
        let newest = verifier.newest().expect("it was checked");
        assert_eq!(newest.size(), verifier.size());
        (newest.index().get(), newest.hash())
    };
    static KNOWN: OnceLock<HashSet<(u64, Hash)>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let mut known = HashSet::new();
        for (_, bytes) in corpus("chain") {
            // Each front of it that ends with a quant is a chain as well, also where what follows is refused.
            for end in (0..bytes.len()).filter(|&at| bytes[at] == b'\n').chain([bytes.len()]) {
                if let Ok(Content::Chain(verifier, _)) = file::check(&bytes[..end], &[]) {
                    known.insert(sealed(&verifier));
                }
            }
        }
        known
    });
    match file::check(bytes, &[]) {
        Ok(Content::Chain(verifier, _)) => {
            assert!(known.contains(&sealed(&verifier)), "a forged chain: {:?}", sealed(&verifier));
            true
        }
        Ok(Content::Receipt(_) | Content::Proof(_)) => false,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// Signed notes, checkpoints and keys: each has one spelling, and nobody signs another text for the keys of the corpus.
fn note(bytes: &[u8]) -> bool {
    static KNOWN: OnceLock<(Vec<VerifierKey>, Vec<Vec<u8>>)> = OnceLock::new();
    let (keys, texts) = KNOWN.get_or_init(|| {
        let keys = fs::read_to_string(tests().join("corpus/note.keys")).unwrap();
        let text = |bytes: &Vec<u8>| Note::parse(bytes).unwrap().text().into();
        (keys.lines().map(|key| key.parse().unwrap()).collect(), accepted("note").values().map(text).collect())
    });
    for line in String::from_utf8_lossy(bytes).lines() {
        if let Ok(key) = line.parse::<VerifierKey>() {
            assert_eq!(key.to_string(), line);
        }
        if let Ok(path) = line.parse::<TilePath>() {
            assert_eq!(path.to_string(), line);
        }
    }
    let Ok(note) = Note::parse(bytes) else { return false };
    assert_eq!(note.to_string().as_bytes(), bytes, "a note has one spelling");
    if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
        let front = format!("{}\n{}\n", checkpoint.origin(), checkpoint.size());
        assert!(
            note.text().starts_with(&front) && checkpoint.extensions().iter().all(|line| note.text().contains(line))
        );
    }
    let is_verified = note.verify(keys).is_ok();
    assert!(!is_verified || texts.iter().any(|text| text == note.text().as_bytes()), "a forged note: {note}");
    is_verified
}

/// A Merkle proof as the corpus writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Proof {
    Inclusion { index: u64, size: u64, leaf: Hash, root: Hash, path: Vec<Hash> },
    Consistency { from: u64, to: u64, old: Hash, new: Hash, path: Vec<Hash> },
}

/// Merkle proofs: the verifiers agree with the definitions of RFC 9162, written down as they stand there.
fn proof(bytes: &[u8]) -> bool {
    match serde_json::from_slice(bytes) {
        Ok(Proof::Inclusion { index, size, leaf, root, path }) => {
            let holds = merkle::check_inclusion(leaf, index, size, &path, root).is_ok();
            assert_eq!(holds, root_of(index, size, leaf, &path) == Some(root));
            holds
        }
        Ok(Proof::Consistency { from, to, old, new, path }) => {
            let holds = merkle::check_consistency(from, to, &path, old, new).is_ok();
            let expected = match from {
                0 => path.is_empty() && old == hash::empty_root() && (to > 0 || new == old),
                _ if from > to => false,
                _ => roots_of(from, to, old, &path, true) == Some((old, new, 0)),
            };
            assert_eq!(holds, expected);
            holds
        }
        Err(_) => false,
    }
}

/// The largest power of two below `size`.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The root that a path leads to (RFC 9162 section 2.1.3.1).
fn root_of(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    if size == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (last, rest) = path.split_last()?;
    let left = split(size);
    match index < left {
        true => Some(hash::node(&root_of(index, left, leaf, rest)?, last)),
        false => Some(hash::node(last, &root_of(index - left, size - left, leaf, rest)?)),
    }
}

/// The older and the newer root that a path leads to, and how much of its front is left (RFC 9162 section 2.1.4.1).
fn roots_of(from: u64, to: u64, old: Hash, path: &[Hash], is_whole: bool) -> Option<(Hash, Hash, usize)> {
    if from == to && is_whole {
        return Some((old, old, path.len()));
    }
    let (last, rest) = path.split_last()?;
    if from == to {
        return Some((*last, *last, rest.len()));
    }
    let left = split(to);
    if from <= left {
        let (older, newer, front) = roots_of(from, left, old, rest, is_whole)?;
        Some((older, hash::node(&newer, last), front))
    } else {
        let (older, newer, front) = roots_of(from - left, to - left, old, rest, false)?;
        Some((hash::node(last, &older), hash::node(last, &newer), front))
    }
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The seeds of a target by their names.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let tests = tests();
    let files = fs::read_dir(tests.join("corpus").join(target)).expect("the target has a corpus");
    let read = |path: &Path| fs::read(path).unwrap();
    let mut seeds: BTreeMap<String, Vec<u8>> = files
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), read(&file.path())))
        .collect();
    // The frozen vectors are seeds as well.
    let vectors = tests.join("vectors");
    match target {
        "chain" => {
            for name in ["chain", "fork"] {
                let text = fs::read_to_string(vectors.join(format!("{name}.ndjson"))).unwrap();
                // Pooled transactions stand behind the newest quant: no export has such.
                let end = text.rfind("\"root\"").and_then(|at| text[at..].find('\n').map(|length| at + length));
                seeds.insert(format!("y-vector-{name}"), text[..end.expect("it has a quant")].into());
            }
        }
        "receipt" => {
            for (number, line) in read(&vectors.join("receipts.ndjson")).split(|&byte| byte == b'\n').enumerate() {
                if !line.is_empty() {
                    seeds.insert(format!("y-vector-{number}"), line.to_vec());
                }
            }
        }
        _ => {}
    }
    seeds
}

/// The seeds that must be accepted.
fn accepted(target: &str) -> BTreeMap<String, Vec<u8>> {
    corpus(target).into_iter().filter(|(name, _)| name.starts_with("y-")).collect()
}

/// Pieces that formats are made of, and that break them.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\n",
    b" ",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\"data\":",
    b"\"kind\":\"bang\",",
    b"\xe2\x80\x94 ",
    b"\n\n",
    b"=",
    b"+",
    b".p/",
    b"x001/",
    b"\"erased\":{\"timestamp\":\"2026-11-22T11:49:07.123456Z\",\"by\":0},",
    b"\"path\":[],",
    b"\"root\":",
    b"-",
    b"e",
];
const NUMBERS: &[&[u8]] = &[
    b"0",
    b"-0",
    b"1",
    b"-1",
    b"2",
    b"7",
    b"63",
    b"64",
    b"255",
    b"256",
    b"9007199254740991",
    b"9007199254740993",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e400",
    b"1E-7",
    b"0.1",
    b"1.0",
    b"00",
    b"4.35",
    b"5e-324",
    b"1e308",
];

/// A seed with a few changes.
fn mutant(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len() as u64) as usize].clone();
    for _ in 0..1 + random.below(3) {
        let other = &seeds[random.below(seeds.len() as u64) as usize];
        change(&mut bytes, other, random);
        bytes.truncate(1 << 16);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let below = |random: &mut Random, end: usize| random.below(end as u64 + 1) as usize;
    let range = |random: &mut Random, length: usize| {
        let start = below(random, length);
        let most = [4, 64, length][below(random, 2)].min(length - start);
        start..start + below(random, most)
    };
    let at = below(random, bytes.len());
    match random.below(10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 => drop(bytes.drain(range(random, bytes.len()))),
        2 => {
            let copied = bytes[range(random, bytes.len())].to_vec();
            drop(bytes.splice(at..at, copied));
        }
        3 => drop(bytes.splice(at..at, WORDS[below(random, WORDS.len() - 1)].iter().copied())),
        // A front of one and an end of another.
        4 => drop(bytes.splice(at.., other[below(random, other.len())..].iter().copied())),
        5 => drop(bytes.splice(at..at, other[range(random, other.len())].iter().copied())),
        6 => {
            let digits: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at].is_ascii_digit()).collect();
            let Some(&start) = digits.get(below(random, digits.len())) else { return };
            let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            drop(bytes.splice(start..start + length, NUMBERS[below(random, NUMBERS.len() - 1)].iter().copied()));
        }
        7 => {
            let depth = [1, 2, 95, 96, 97, 3_000][below(random, 5)];
            let (open, close) = [(&b"["[..], &b"]"[..]), (b"{\"a\":", b"}")][below(random, 1)];
            let part = range(random, bytes.len());
            let wrapped = [&open.repeat(depth), &bytes[part.clone()], &close.repeat(depth)].concat();
            drop(bytes.splice(part, wrapped));
        }
        8 => {
            let mut lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            let (one, two) = (below(random, lines.len() - 1), below(random, lines.len() - 1));
            match random.below(3) {
                0 => lines.swap(one, two),
                1 => lines.insert(one, lines[two].clone()),
                _ => drop(lines.remove(one)),
            }
            *bytes = lines.join(&b'\n');
        }
        _ if at < bytes.len() => bytes[at] = b"0123456789abcdef"[below(random, 15)],
        _ => {}
    }
}

/// Runs a target on its corpus, and on mutants of it. Slow targets take a part of them.
fn fuzz(name: &str, target: Target, part: u64, count: u64) {
    let corpus = corpus(name);
    for (seed, bytes) in &corpus {
        assert_eq!(target(bytes), seed.starts_with("y-"), "{name}/{seed}");
    }
    let seeds: Vec<Vec<u8>> = corpus.into_values().collect();
    let mut random = Random(seed());
    let mut accepted = 0;
    for _ in 0..setting("QBC_FUZZ", count) / part {
        let bytes = mutant(&seeds, &mut random);
        match catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            Ok(is_accepted) => accepted += u64::from(is_accepted),
            Err(_) => panic!("this breaks the target {name}: b\"{}\"", bytes.escape_ascii()),
        }
    }
    println!("{name}: {accepted} mutants were accepted");
}

const TARGETS: [(&str, Target, u64); 5] =
    [("json", json_gate, 1), ("receipt", receipt, 2), ("proof", proof, 1), ("note", note, 2), ("chain", chain, 8)];

#[test]
fn no_bytes_break_what_reads_them() {
    for (name, target, part) in TARGETS {
        fuzz(name, target, part, 40_000);
    }
}

#[test]
#[ignore = "it takes some minutes"]
fn no_bytes_break_what_reads_them_for_long() {
    for (name, target, part) in TARGETS {
        fuzz(name, target, part, 1_000_000);
    }
}
