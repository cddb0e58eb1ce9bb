//! A receipt for tools that know nothing of QBC: C2SP [tlog-proof], which carries an inclusion proof (RFC 6962 section 2.1.1) and
//! the signed checkpoint of the tree that it is for.
//!
//! What is in the log stands in `extra`: for a chain of QBC it is the leaf, whose hash the proof is about.
//!
//! [tlog-proof]: https://c2sp.org/tlog-proof

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    hash::{self, Hash},
    merkle,
    note::{Checkpoint, Note, NoteError, hash_from_base64, hash_to_base64},
    verify::Fault,
};

/// The first line of each such proof.
pub const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// A proof that a leaf is in a log. Nothing of it may be believed before [`TlogProof::check`] and a signature hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// The leaf, where it is there.
    pub leaf: Option<Vec<u8>>,
    /// Its index in the log.
    pub index: u64,
    /// The inclusion proof.
    pub path: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: Note,
}

impl TlogProof {
    /// Reads a proof.
    ///
    /// # Errors
    /// It breaks the form.
    pub fn parse(bytes: &[u8]) -> Result<TlogProof, NoteError> {
        use NoteError::Malformed;
        let text = str::from_utf8(bytes).map_err(|_| Malformed("a proof is UTF-8"))?;
        let (proof, note) =
            text.split_once("\n\n").ok_or(Malformed("a proof has an empty line before its checkpoint"))?;
        let mut lines = proof.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(Malformed("the first line of a proof is c2sp.org/tlog-proof@v1"));
        }
        let extra = lines.next_if(|line| line.starts_with("extra ")).map(|line| BASE64_STANDARD.decode(&line[6..]));
        let leaf = extra.transpose().map_err(|_| Malformed("\"extra\" is no base64"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(|digits| digits.parse::<u64>().ok().filter(|index| index.to_string() == digits));
        let index = index.ok_or(Malformed("a proof has a line of \"index\" and decimal digits"))?;
        let path = lines.map(hash_from_base64).collect::<Option<_>>();
        let path = path.ok_or(Malformed("a line of the inclusion proof is not the base64 of 32 bytes"))?;
        Ok(TlogProof { leaf, index, path, checkpoint: Note::parse(note.as_bytes())? })
    }

    /// Checks that the leaf is in the tree of the checkpoint, and gives what that says. Its signatures are not checked.
    ///
    /// # Errors
    /// It does not hold, or the leaf is missing.
    pub fn check(&self) -> Result<Checkpoint, Fault> {
        let fault = |detail: String| Fault { place: "the proof".into(), detail };
        let missing = "it has no \"extra\": without the leaf nobody knows what it proves";
        let leaf = self.leaf.as_ref().ok_or_else(|| fault(missing.into()))?;
        let checkpoint = Checkpoint::parse(self.checkpoint.text()).map_err(|error| fault(error.to_string()))?;
        merkle::check_inclusion(hash::leaf(leaf), self.index, checkpoint.size(), &self.path, checkpoint.root())
            .map_err(|error| fault(error.to_string()))?;
        Ok(checkpoint)
    }
}

/// The whole proof, as it is served and kept.
impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(leaf) = &self.leaf {
            writeln!(f, "extra {}", BASE64_STANDARD.encode(leaf))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{}", hash_to_base64(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn proof() -> TlogProof {
        let leaves = [b"a", b"b", b"c"].map(|leaf| hash::leaf(leaf));
        let Ok(path) = merkle::prove_inclusion(1, 3, |_, _, _| Ok::<_, std::convert::Infallible>(leaves.to_vec()));
        let Ok(root) = merkle::root(3, |_, _, _| Ok::<_, std::convert::Infallible>(leaves.to_vec()));
        let mut checkpoint = Note::new(format!("log\n3\n{}\n", hash_to_base64(&root))).unwrap();
        checkpoint.sign("log".parse().unwrap(), &SigningKey::from_bytes(&[1; 32]));
        TlogProof { leaf: Some(b"b".to_vec()), index: 1, path, checkpoint }
    }

    #[test]
    fn a_proof_is_read_as_it_is_written_and_no_part_can_be_changed() {
        let proof = proof();
        let text = proof.to_string();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra Yg==\nindex 1\n"), "{text}");
        let read = TlogProof::parse(text.as_bytes()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.check().unwrap().size(), 3);
        // Up to the end of the checkpoint's root each byte is checked; the signatures are for whoever has a key.
        for at in 0..text.find("\n\n\u{2014}").unwrap() {
            for bit in 0..8 {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1 << bit;
                let checkpoint = TlogProof::parse(&changed).ok().and_then(|changed| changed.check().ok());
                let holds = checkpoint.is_some_and(|checkpoint| checkpoint.origin() == "log");
                assert!(!holds, "byte {at}: {}", String::from_utf8_lossy(&changed));
            }
        }
    }

    #[test]
    fn what_breaks_the_form_is_refused() {
        let text = proof().to_string();
        for (from, to) in [
            ("index 1", "index 01"),
            ("index 1", "index +1"),
            ("index 1", "index"),
            ("extra Yg==", "extra Yg"),
            ("tlog-proof@v1", "tlog-proof@v2"),
            ("extra Yg==\nindex 1", "index 1\nextra Yg=="),
            ("\n\nlog", "\nlog"),
        ] {
            assert!(TlogProof::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
        let without = TlogProof::parse(text.replacen("extra Yg==\n", "", 1).as_bytes()).unwrap();
        assert_eq!(without.leaf, None);
        assert!(without.check().unwrap_err().detail.contains("extra"));
    }
}
