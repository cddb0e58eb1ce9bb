//! Checks a checkpoint offline: the log's signature and the cosignatures of witnesses, as a client of the library.
//!
//! ```sh
//! curl localhost:5000/checkpoint > checkpoint.txt
//! cargo run --example cosigned -- "$(qbc key)" "$(qbc --node http://localhost:5001 key --witness)" < checkpoint.txt
//! ```

use std::{
    env,
    io::{self, Read},
};

use qbc::core::note::{Checkpoint, Note, VerifierKey};

fn main() -> anyhow::Result<()> {
    let keys = env::args().skip(1).map(|key| key.parse()).collect::<Result<Vec<VerifierKey>, _>>()?;
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let note = Note::parse(&text)?;
    let verified = note.verify(&keys)?;
    anyhow::ensure!(verified.len() == keys.len(), "{} of {} keys have signed it", verified.len(), keys.len());
    let checkpoint = Checkpoint::parse(note.text())?;
    println!("{} has {} transactions below the root {}", checkpoint.origin(), checkpoint.size(), checkpoint.root());
    for signature in verified {
        match signature.time {
            None => println!("signed by {}", signature.key.name()),
            Some(time) => println!("cosigned at {time} by {}", signature.key.name()),
        }
    }
    Ok(())
}
