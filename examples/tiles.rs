//! A client that trusts one key and nothing else: it proves, from a checkpoint and tiles alone, that a transaction is in a
//! chain, and that the chain has only grown since the checkpoint that it remembers in a file.
//!
//! Start a node with `cargo run --release`, then `cargo run --example tiles -- http://localhost:5000 KEY 0`, where KEY is what
//! `qbc key` prints. Run it again after some leaps.

use std::{env, error::Error, fs, io::ErrorKind};

use qbc::core::{
    hash::{self, Hash},
    merkle::{self, TILE_WIDTH},
    note::{Checkpoint, Note, VerifierKey},
    tile::TilePath,
};
use reqwest::{Client, StatusCode};
use tokio::runtime::Runtime;

const REMEMBERED: &str = "checkpoint.txt";

/// A log as its client sees it.
struct Log {
    url: String,
    client: Client,
    runtime: Runtime,
}

impl Log {
    fn get(&self, path: &str) -> Result<Vec<u8>, Box<dyn Error>> {
        self.runtime.block_on(async {
            let response = self.client.get(format!("{}{path}", self.url)).send().await?;
            match response.status() {
                StatusCode::OK => Ok(response.bytes().await?.into()),
                _ => Err(response.text().await?.into()),
            }
        })
    }

    /// What a proof asks for. A wrong hash leads to another root than the signed one.
    fn tile(&self, level: u8, number: u64, width: usize) -> Result<Vec<Hash>, Box<dyn Error>> {
        let bytes = self.get(&format!("/tile/{level}/{}", TilePath::new(number, width)))?;
        if bytes.len() != 32 * width {
            return Err(format!("tile {number} of level {level} has {} bytes", bytes.len()).into());
        }
        Ok(bytes.as_chunks().0.iter().copied().map(Hash::from_bytes).collect())
    }

    /// The entry of a transaction: a commitment to its data, its time, and who signed it.
    fn entry(&self, index: u64, size: u64) -> Result<Vec<u8>, Box<dyn Error>> {
        let (number, place) = (index / TILE_WIDTH as u64, index % TILE_WIDTH as u64);
        let width = (size - (index - place)).min(TILE_WIDTH as u64) as usize;
        let bundle = self.get(&format!("/tile/entries/{}", TilePath::new(number, width)))?;
        let mut rest = bundle.as_slice();
        for _ in 0..place {
            rest = split_entry(rest).ok_or("the entries break off")?.1;
        }
        Ok(split_entry(rest).ok_or("the entries break off")?.0.into())
    }
}

/// The first entry of a bundle and the others.
fn split_entry(bundle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bundle.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

/// Opens a signed note: what nobody known has signed is not read.
fn open(note: &[u8], key: &VerifierKey) -> Result<Checkpoint, Box<dyn Error>> {
    let note = Note::parse(note)?;
    note.verify(std::slice::from_ref(key))?;
    Ok(Checkpoint::parse(note.text())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, key, index] = arguments.as_slice() else { return Err("usage: tiles URL KEY INDEX".into()) };
    let (key, index): (VerifierKey, u64) = (key.parse()?, index.parse()?);
    let log = Log { url: url.clone(), client: Client::new(), runtime: Runtime::new()? };

    let note = log.get("/checkpoint")?;
    let checkpoint = open(&note, &key)?;
    let (size, root) = (checkpoint.size(), checkpoint.root());
    println!("{} has {size} transactions, signed by {}", checkpoint.origin(), key.name());

    match fs::read(REMEMBERED) {
        Ok(remembered) => {
            let older = open(&remembered, &key)?;
            if older.origin() != checkpoint.origin() || older.size() > size {
                return Err(format!("{REMEMBERED} is of {} with {} transactions", older.origin(), older.size()).into());
            }
            let path =
                merkle::prove_consistency(older.size(), size, |level, number, width| log.tile(level, number, width))?;
            merkle::check_consistency(older.size(), size, &path, older.root(), root)?;
            println!("it has only grown since it had {}", older.size());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }

    if index >= size {
        return Err(format!("transaction {index} is not sealed yet").into());
    }
    let entry = log.entry(index, size)?;
    let path = merkle::prove_inclusion(index, size, |level, number, width| log.tile(level, number, width))?;
    merkle::check_inclusion(hash::leaf(&entry), index, size, &path, root)?;
    println!("transaction {index} is in it: {}", String::from_utf8_lossy(&entry));

    fs::write(REMEMBERED, note)?;
    Ok(())
}
