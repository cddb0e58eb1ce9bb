//! Signed notes, checkpoints and cosignatures, as the transparency world reads and writes them: C2SP [signed-note],
//! [tlog-checkpoint] and [tlog-cosignature] (version 1, Ed25519).
//!
//! A *note* is a text that ends with a newline, an empty line, and *signature* lines, each by a key with a *name*. The name
//! and the key's short *id* together say which key it was. Whoever reads a note knows some keys ([`VerifierKey`]), must
//! pass over signatures of others, and must not believe a word of the text before one of the known keys has signed it
//! ([`Note::verify`]).
//!
//! A *checkpoint* is the text of a note that a log signs: its name, its size, and its Merkle root. A *cosignature* is a
//! witness's signature on the same text with the moment at which it saw no larger tree.
//!
//! One note has one spelling: base64 with bits that denote nothing, a digit in upper case and a number with leading zeros
//! are refused.
//!
//! [signed-note]: https://c2sp.org/signed-note
//! [tlog-checkpoint]: https://c2sp.org/tlog-checkpoint
//! [tlog-cosignature]: https://c2sp.org/tlog-cosignature

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use super::{
    count::Height,
    hash::{self, Hash},
    quant::Quant,
};
use crate::limits;

/// What is wrong with a note, a checkpoint or a key. Nothing of it may be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It breaks the form.
    #[error("{0}")]
    Malformed(&'static str),
    /// It is made to be expensive.
    #[error("the note has more than {} signatures", limits::NOTE_SIGNATURES)]
    TooManySignatures,
    /// A key is of an algorithm that this program does not know.
    #[error("the key's algorithm {0:#04x} is unknown: 0x01 (Ed25519) and 0x04 (cosignature/v1) are known")]
    Algorithm(u8),
    /// The id in a key is not that of its name and content.
    #[error("the key says that its id is {claimed:08x}, but its content has {computed:08x}")]
    KeyId {
        /// As it is written.
        claimed: u32,
        /// From name, algorithm and key.
        computed: u32,
    },
    /// Two known keys have the same name and id, so nobody can tell which one signed.
    #[error("two known keys are called {name}+{id:08x}")]
    Ambiguous {
        /// The name of both.
        name: KeyName,
        /// The id of both.
        id: u32,
    },
    /// A signature of a known key is not its signature on this text.
    #[error("the signature of {name}+{id:08x} is not on this text")]
    WrongSignature {
        /// The key's name.
        name: KeyName,
        /// The key's id.
        id: u32,
    },
    /// Nobody knows which of two keys has taken the place of a known one.
    #[error("the key {0} has named two others in its place: whoever has stolen it may be one of them")]
    TwoSuccessors(KeyName),
    /// No known key has signed the note.
    #[error("no known key has signed the note")]
    Unsigned,
}

use NoteError::Malformed;

/// The name of a key: not empty, without spaces of any kind, `+`, and control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName(Box<str>);

impl KeyName {
    /// The name under which a node signs the checkpoints of all its chains: `qbc/node/` and its public key, which is its id.
    pub fn of_node(key: &VerifyingKey) -> KeyName {
        KeyName(format!("qbc/node/{}", hex::encode(key.as_bytes())).into())
    }

    /// The name under which the nodes of a cluster sign the checkpoints of all its chains, whichever of them serves: `qbc/cluster/`
    /// and the cluster's public key.
    pub fn of_cluster(key: &VerifyingKey) -> KeyName {
        KeyName(format!("qbc/cluster/{}", hex::encode(key.as_bytes())).into())
    }

    /// The name under which a node cosigns the checkpoints of others: `qbc/witness/` and the public key for that.
    pub fn of_witness(key: &VerifyingKey) -> KeyName {
        KeyName(format!("qbc/witness/{}", hex::encode(key.as_bytes())).into())
    }

    /// The name under which a node signs the checkpoints of one chain: their origin, as tlog-checkpoint recommends.
    pub fn of_chain(chain: Hash) -> KeyName {
        KeyName(origin(chain).into())
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyName {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let is_barred = |letter: char| letter.is_whitespace() || letter == '+' || letter < ' ';
        match text.is_empty() || text.contains(is_barred) {
            true => Err(Malformed("a key's name is not empty, and has no spaces, no \"+\" and no control characters")),
            false => Ok(KeyName(text.into())),
        }
    }
}

/// What a key signs, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 on the text itself (signed-note).
    Ed25519 = 0x01,
    /// Ed25519 on a checkpoint and a time (tlog-cosignature, cosignature/v1).
    Cosignature = 0x04,
}

/// A public key with its name, as verifiers know it: `NAME+ID+BASE64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: KeyName,
    id: u32,
    algorithm: Algorithm,
    key: VerifyingKey,
}

impl VerifierKey {
    /// The public key under this name for this use.
    pub fn new(name: KeyName, algorithm: Algorithm, key: VerifyingKey) -> VerifierKey {
        let id = hash::key_id(name.as_str(), &[algorithm as u8], key.as_bytes());
        VerifierKey { name, id, algorithm, key }
    }

    /// Its name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Its id, which together with the name tells it from other keys.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What it signs, and how.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The key, if this is its id.
    fn with_id(self, claimed: u32) -> Result<VerifierKey, NoteError> {
        let computed = self.id;
        if claimed == computed { Ok(self) } else { Err(NoteError::KeyId { claimed, computed }) }
    }

    /// Whether this is the key's signature on the text, and the time that a cosignature names, in seconds since 1970.
    ///
    /// Keys of small order are refused, so that a signature speaks for one text only.
    fn check(&self, text: &str, signature: &[u8]) -> Option<Option<u64>> {
        let verifies = |message: &[u8], signature: &[u8]| {
            let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
            self.key.verify_strict(message, &signature).ok()
        };
        match self.algorithm {
            Algorithm::Ed25519 => verifies(text.as_bytes(), signature).map(|()| None),
            Algorithm::Cosignature => {
                let (time, signature) = signature.split_first_chunk()?;
                let time = u64::from_be_bytes(*time);
                i64::try_from(time).ok()?;
                verifies(cosigned(text, time).as_bytes(), signature).map(|()| Some(time))
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = [&[self.algorithm as u8], &self.key.as_bytes()[..]].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id, BASE64_STANDARD.encode(content))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, claimed, algorithm, key) = split_key(text)?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| Malformed("the key is no point of Ed25519"))?;
        VerifierKey::new(name, algorithm, key).with_id(claimed)
    }
}

/// The secret key and its name from the form `PRIVATE+KEY+NAME+ID+BASE64` that Go's `note.GenerateKey` writes.
///
/// # Errors
/// It is not of that form, or of another algorithm than Ed25519.
pub fn parse_secret(text: &str) -> Result<(KeyName, SigningKey), NoteError> {
    let rest = text.strip_prefix("PRIVATE+KEY+").ok_or(Malformed("a secret key starts with PRIVATE+KEY+"))?;
    let (name, claimed, algorithm, seed) = split_key(rest)?;
    if algorithm != Algorithm::Ed25519 {
        return Err(NoteError::Algorithm(algorithm as u8));
    }
    let key = SigningKey::from_bytes(&seed);
    VerifierKey::new(name.clone(), algorithm, key.verifying_key()).with_id(claimed)?;
    Ok((name, key))
}

/// The parts of `NAME+ID+BASE64`, where the last is an algorithm and 32 bytes. The id is a claim.
fn split_key(text: &str) -> Result<(KeyName, u32, Algorithm, [u8; 32]), NoteError> {
    const FORM: NoteError =
        Malformed("a key is its name, 8 lower-case hexadecimal digits and base64 with \"+\" between");
    let (name, rest) = text.split_once('+').ok_or(FORM)?;
    let (id, content) = rest.split_once('+').ok_or(FORM)?;
    let is_id = id.len() == 8 && id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let claimed = u32::from_str_radix(id, 16).ok().filter(|_| is_id).ok_or(FORM)?;
    let content = BASE64_STANDARD.decode(content).map_err(|_| FORM)?;
    let (algorithm, key) = content.split_first().ok_or(FORM)?;
    let algorithm = match algorithm {
        0x01 => Algorithm::Ed25519,
        0x04 => Algorithm::Cosignature,
        other => return Err(NoteError::Algorithm(*other)),
    };
    let key = key.try_into().map_err(|_| Malformed("an Ed25519 key has 32 bytes"))?;
    Ok((name.parse()?, claimed, algorithm, key))
}

/// One signature line of a note: whose it claims to be, and what is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    name: KeyName,
    id: u32,
    bytes: Vec<u8>,
}

impl Signature {
    pub(super) fn new(name: KeyName, id: u32, bytes: Vec<u8>) -> Signature {
        Signature { name, id, bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name of the key that it claims to be of.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The id of the key that it claims to be of.
    pub fn id(&self) -> u32 {
        self.id
    }

    fn is_of(&self, name: &KeyName, id: u32) -> bool {
        self.id == id && self.name == *name
    }
}

/// As a line of a note, without the newline.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = [&self.id.to_be_bytes()[..], &self.bytes].concat();
        write!(f, "{SIGNATURE_START}{} {}", self.name, BASE64_STANDARD.encode(content))
    }
}

impl FromStr for Signature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, NoteError> {
        const FORM: NoteError = Malformed("a signature is a line of an em dash, a key's name and base64");
        let (name, content) = line.strip_prefix(SIGNATURE_START).and_then(|rest| rest.split_once(' ')).ok_or(FORM)?;
        let content = BASE64_STANDARD.decode(content).map_err(|_| FORM)?;
        match content.split_first_chunk() {
            Some((id, bytes)) if !bytes.is_empty() => {
                Ok(Signature { name: name.parse()?, id: u32::from_be_bytes(*id), bytes: bytes.into() })
            }
            _ => Err(Malformed("a signature has a key's id and at least one byte more")),
        }
    }
}

/// U+2014 and a space.
const SIGNATURE_START: &str = "\u{2014} ";

/// A text, and the signatures that stand below it. None of them is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// A signature of a known key that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<'a> {
    /// The key.
    pub key: &'a VerifierKey,
    /// The line.
    pub signature: &'a Signature,
    /// The moment that a cosignature names, in seconds since 1970. Whether that can be is the caller's to judge.
    pub time: Option<u64>,
}

impl Note {
    /// A note that nobody has signed yet.
    ///
    /// # Errors
    /// The text does not end with a newline, or has control characters.
    pub fn new(text: impl Into<String>) -> Result<Note, NoteError> {
        let text = text.into();
        if !text.ends_with('\n') {
            return Err(Malformed("the text of a note ends with a newline"));
        }
        refuse_controls(&text)?;
        Ok(Note { text, signatures: Vec::new() })
    }

    /// Reads a signed note. Its text must not be believed before [`Note::verify`]; it may be read to find out which keys
    /// are to be known.
    ///
    /// # Errors
    /// It breaks the form of signed-note, or has more than [`limits::NOTE_SIGNATURES`].
    pub fn parse(bytes: &[u8]) -> Result<Note, NoteError> {
        let note = str::from_utf8(bytes).map_err(|_| Malformed("a note is UTF-8"))?;
        refuse_controls(note)?;
        let gap = note.rfind("\n\n").ok_or(Malformed("a note has an empty line before its signatures"))?;
        let (text, lines) = (&note[..=gap], &note[gap + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(Malformed("a note ends with a signature and a newline"))?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == limits::NOTE_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(line.parse()?);
        }
        Ok(Note { text: text.into(), signatures })
    }

    /// The text with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All signatures, of known and of unknown keys, in the order of their lines.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The signatures of known keys, one for each key that has signed. Those of unknown keys are passed over.
    ///
    /// # Errors
    /// A signature of a known key does not hold, no known key has signed, or two known keys cannot be told apart.
    pub fn verify<'a>(&'a self, known: &'a [VerifierKey]) -> Result<Vec<Verified<'a>>, NoteError> {
        let mut verified: Vec<Verified> = Vec::new();
        for signature in &self.signatures {
            let Signature { name, id, bytes } = signature;
            let mut keys = known.iter().filter(|key| signature.is_of(&key.name, key.id));
            let Some(key) = keys.next() else { continue };
            if keys.next().is_some() {
                return Err(NoteError::Ambiguous { name: name.clone(), id: *id });
            }
            let time = key.check(&self.text, bytes);
            let time = time.ok_or_else(|| NoteError::WrongSignature { name: name.clone(), id: *id })?;
            if !verified.iter().any(|earlier| earlier.key == key) {
                verified.push(Verified { key, signature, time });
            }
        }
        if verified.is_empty() { Err(NoteError::Unsigned) } else { Ok(verified) }
    }

    /// Signs the text under this name.
    pub fn sign(&mut self, name: KeyName, key: &SigningKey) {
        let id = VerifierKey::new(name.clone(), Algorithm::Ed25519, key.verifying_key()).id;
        let bytes = key.sign(self.text.as_bytes()).to_bytes().to_vec();
        self.add(Signature { name, id, bytes });
    }

    /// Cosigns the text, which must be a checkpoint: as of `time`, in seconds since 1970, nobody has shown this witness a
    /// larger tree of this log, and this one is consistent with all that it has seen.
    ///
    /// # Panics
    /// At times from 2^63 seconds on, which a cosignature cannot name.
    pub fn cosign(&mut self, name: KeyName, key: &SigningKey, time: u64) {
        i64::try_from(time).expect("a cosignature's time is below 2^63 seconds");
        let id = VerifierKey::new(name.clone(), Algorithm::Cosignature, key.verifying_key()).id;
        let signature = key.sign(cosigned(&self.text, time).as_bytes());
        let bytes = [&time.to_be_bytes()[..], &signature.to_bytes()].concat();
        self.add(Signature { name, id, bytes });
    }

    /// Adds a signature below the others, and takes away an older one of the same name and id. It is not checked.
    pub fn add(&mut self, signature: Signature) {
        self.signatures.retain(|other| !other.is_of(&signature.name, signature.id));
        self.signatures.push(signature);
    }
}

/// The whole note, as it is signed and served.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

fn refuse_controls(text: &str) -> Result<(), NoteError> {
    match text.bytes().any(|byte| byte < b' ' && byte != b'\n') {
        true => Err(Malformed("a note has no control characters but newlines")),
        false => Ok(()),
    }
}

/// What a witness signs (tlog-cosignature, Ed25519 signed message).
fn cosigned(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// The origin of a chain's checkpoints, which names the chain for all the world.
pub fn origin(chain: Hash) -> String {
    format!("qbc/{chain}")
}

/// What a log says of itself: the text of a checkpoint. It is a claim until the note that it stands in is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// Of a chain as it stands at one of its quants, with the quant as an extension line.
    pub fn new(chain: Hash, quant: &Quant) -> Checkpoint {
        let extensions = vec![format!("quant {} {}", quant.index(), quant.hash())];
        Checkpoint { origin: origin(chain), size: quant.size().get(), root: quant.header().root, extensions }
    }

    /// Reads the text of a checkpoint of this or any other log.
    ///
    /// # Errors
    /// It breaks the form of tlog-checkpoint.
    pub fn parse(text: &str) -> Result<Checkpoint, NoteError> {
        let lines = text.strip_suffix('\n').ok_or(Malformed("a checkpoint ends with a newline"))?;
        let mut lines = lines.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty());
        let origin = line().ok_or(Malformed("the first line of a checkpoint is its origin"))?;
        let size = line().and_then(|line| line.parse::<u64>().ok().filter(|size| size.to_string() == line));
        let size = size.ok_or(Malformed("the second line of a checkpoint is the tree's size in decimal digits"))?;
        let root = line().and_then(hash_from_base64);
        let root = root.ok_or(Malformed("the third line of a checkpoint is the root hash in base64"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(Malformed("a checkpoint has no empty lines"));
        }
        Ok(Checkpoint { origin: origin.into(), size, root, extensions })
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The Merkle root over them.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// What else the log says, a line each. Nobody but the log vouches for it.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// Index and hash of the quant that it was made of, where it is of a chain.
    pub fn quant(&self) -> Option<(Height, Hash)> {
        let (index, hash) = self.extensions.first()?.strip_prefix("quant ")?.split_once(' ')?;
        let index = index.parse::<u64>().ok().filter(|number| number.to_string() == index)?;
        Some((Height::new(index), hash.parse().ok()?))
    }
}

/// The text of the note.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, hash_to_base64(&self.root))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A hash as C2SP writes it.
pub fn hash_to_base64(hash: &Hash) -> String {
    BASE64_STANDARD.encode(hash.as_bytes())
}

/// A hash from base64 with padding, and from nothing else.
pub fn hash_from_base64(text: &str) -> Option<Hash> {
    Some(Hash::from_bytes(BASE64_STANDARD.decode(text).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{count::Size, quant::Header, transaction::Timestamp};

    // The keys and signatures of Go's golang.org/x/mod/sumdb/note, from its tests.
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const PETER_SECRET: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const PETER_LINE: &str = "\u{2014} PeterNeumann \
        x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const ENOCH_LINE: &str = "\u{2014} EnochRoot \
        rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

    // A checkpoint of sum.golang.org, and the example of C2SP tlog-cosignature.
    const GO: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    const GO_CHECKPOINT: &str = "go.sum database tree\n6476701\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n\n\
        \u{2014} sum.golang.org \
        Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=\n";
    const COSIGNED: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        \u{2014} example.com/behind-the-sofa \
        Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} witness.example.com/w1 \
        jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

    fn key(text: &str) -> VerifierKey {
        text.parse().unwrap()
    }

    fn name(text: &str) -> KeyName {
        text.parse().unwrap()
    }

    fn open(note: &str, known: &[&str]) -> Result<usize, NoteError> {
        let known: Vec<VerifierKey> = known.iter().map(|known| key(known)).collect();
        Note::parse(note.as_bytes())?.verify(&known).map(|verified| verified.len())
    }

    #[test]
    fn a_note_is_signed_as_go_signs_it() {
        let (peter, secret) = parse_secret(PETER_SECRET).unwrap();
        assert_eq!(VerifierKey::new(peter.clone(), Algorithm::Ed25519, secret.verifying_key()).to_string(), PETER);
        let mut note = Note::new(TEXT).unwrap();
        note.sign(peter.clone(), &secret);
        assert_eq!(note.to_string(), format!("{TEXT}\n{PETER_LINE}"));

        // Go's GenerateKey with zeros for random bytes gives EnochRoot this key.
        note.sign(name("EnochRoot"), &SigningKey::from_bytes(&[0; 32]));
        note.sign(peter, &secret);
        assert_eq!(note.to_string(), format!("{TEXT}\n{ENOCH_LINE}{PETER_LINE}"), "a new signature replaces the old");
        assert!(Note::new("abc").is_err() && Note::new("a\tb\n").is_err() && Note::new("").is_err());
    }

    /// TestOpen of Go.
    #[test]
    fn a_note_is_opened_as_go_opens_it() {
        let both = format!("{TEXT}\n{PETER_LINE}{ENOCH_LINE}");
        let note = Note::parse(both.as_bytes()).unwrap();
        assert_eq!((note.text(), note.signatures().len(), note.to_string()), (TEXT, 2, both.clone()));
        assert_eq!(open(&both, &[PETER]), Ok(1));
        assert_eq!(open(&both, &[PETER, ENOCH]), Ok(2));
        assert_eq!(open(&both, &[]), Err(NoteError::Unsigned));
        assert_eq!(open(&both, &[GO]), Err(NoteError::Unsigned));
        let twice = open(&both, &[ENOCH, PETER, ENOCH]);
        assert!(matches!(twice, Err(NoteError::Ambiguous { id: 0xaf0c_fe78, .. })), "{twice:?}");
        assert_eq!(open(&format!("{TEXT}\n{PETER_LINE}"), &[ENOCH, PETER, ENOCH]), Ok(1));

        let many = |count| format!("{TEXT}\n{}", PETER_LINE.repeat(count));
        assert_eq!(open(&many(100), &[PETER]), Ok(1));
        assert_eq!(open(&many(101), &[PETER]), Err(NoteError::TooManySignatures));
        let longer = |line: &str| format!("{}ABCD{}", &line[..60], &line[60..]);
        let wrong = open(&format!("{TEXT}\n{}", longer(PETER_LINE)), &[PETER]);
        assert!(matches!(wrong, Err(NoteError::WrongSignature { id: 0xc74f_20a3, .. })), "{wrong:?}");
        // Of a key that nobody knows anything goes; of a known key every line must hold.
        assert_eq!(open(&format!("{both}{}{ENOCH_LINE}", longer(ENOCH_LINE)), &[PETER]), Ok(1));
        assert!(open(&format!("{both}{}", longer(PETER_LINE)), &[PETER]).is_err());

        for malformed in [
            TEXT.to_owned(),
            format!("{TEXT}\n"),
            format!("{TEXT}\n{}", PETER_LINE.trim_end()),
            format!("\u{1}{TEXT}\n{PETER_LINE}"),
            format!("\r{TEXT}\n{PETER_LINE}"),
            format!("{TEXT}\n{PETER_LINE}Unexpected line.\n"),
            format!("{TEXT}\n{PETER_LINE}\n"),
            format!("{TEXT}\n{}", PETER_LINE.replace("PeterNeumann", "Peter Neumann")),
            format!("{TEXT}\n{}", PETER_LINE.replace("PeterNeumann", "")),
            format!("{TEXT}\n{}", PETER_LINE.replace("PeterNeumann", "Peter+Neumann")),
            format!("{TEXT}\n{}", PETER_LINE.replace("PeterNeumann", "Peter\u{a0}Neumann")),
            format!("{TEXT}\n{}", PETER_LINE.replace('\u{2014}', "-")),
            format!("{TEXT}\n{}", PETER_LINE.replace("AM=", "AM")),
            // The last two bits denote nothing, and must be zeros.
            format!("{TEXT}\n{}", PETER_LINE.replace("AM=", "AN=")),
            format!("{TEXT}\n\u{2014} PeterNeumann x08gow==\n"),
            format!("{TEXT}\n\u{2014} PeterNeumann \n"),
        ] {
            assert!(Note::parse(malformed.as_bytes()).is_err(), "{malformed:?}");
        }
        let no_utf8 = [b"\xff", format!("{TEXT}\n{PETER_LINE}").as_bytes()].concat();
        assert!(Note::parse(&no_utf8).is_err());
    }

    /// A text may have empty lines; the last one of the note divides.
    #[test]
    fn a_text_may_look_like_signatures() {
        let (peter, secret) = parse_secret(PETER_SECRET).unwrap();
        for text in ["\n", "a\n\n", "\n\n\n", &format!("{TEXT}\n{PETER_LINE}")] {
            let mut note = Note::new(text).unwrap();
            note.sign(peter.clone(), &secret);
            assert_eq!(Note::parse(note.to_string().as_bytes()).as_ref(), Ok(&note));
            assert_eq!(open(&note.to_string(), &[PETER]), Ok(1));
        }
    }

    /// TestNewVerifier and TestNewSigner of Go.
    #[test]
    fn a_key_has_one_spelling() {
        for text in [PETER, ENOCH, GO] {
            assert_eq!(key(text).to_string(), text);
        }
        // A witness's key, from the tests of transparency-dev/formats.
        let witness = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";
        assert_eq!((key(witness).to_string().as_str(), key(witness).algorithm()), (witness, Algorithm::Cosignature));
        // The example of signed-note.
        let example = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        let note = "This is an example message.\n\n\u{2014} example.com/foo \
                    Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
        assert_eq!(open(note, &[example]), Ok(1));

        let is_public: fn(&str) -> bool = |text| text.parse::<VerifierKey>().is_ok();
        for (text, parses) in [(PETER, is_public), (PETER_SECRET, |text| parse_secret(text).is_ok())] {
            assert!(parses(text));
            for (from, to) in (0..=text.len()).flat_map(|to| (0..=to).map(move |from| (from, to))) {
                assert!(!parses(&text[from..to]) || to - from == text.len(), "{}", &text[from..to]);
            }
            for (at, bit) in (0..text.len()).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                let changed = str::from_utf8(&bytes).unwrap();
                assert!(!parses(changed), "{changed}");
            }
        }
        for (wrong, what) in [
            ("PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==", "a longer key"),
            ("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "another algorithm"),
            ("PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "upper case"),
            ("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n", "a newline"),
        ] {
            assert!(wrong.parse::<VerifierKey>().is_err(), "{what}");
        }
        // A public key as a secret one, and a secret key for another use.
        assert!(parse_secret(&format!("PRIVATE+KEY+{PETER}")).is_err());
        assert!(parse_secret(&format!("PRIVATE+KEY+{witness}")).is_err());
    }

    /// With a key of small order, one signature would hold for many texts.
    #[test]
    fn a_weak_key_signs_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let weak = VerifierKey::new(name("weak"), Algorithm::Ed25519, VerifyingKey::from_bytes(&identity).unwrap());
        let mut bytes = vec![0; 64];
        bytes[0] = 1;
        let mut note = Note::new("a\n").unwrap();
        note.add(Signature { name: name("weak"), id: weak.id(), bytes });
        assert!(matches!(note.verify(&[weak]), Err(NoteError::WrongSignature { .. })));
    }

    #[test]
    fn checkpoints_of_others_are_read() {
        assert_eq!(open(GO_CHECKPOINT, &[GO]), Ok(1));
        let note = Note::parse(GO_CHECKPOINT.as_bytes()).unwrap();
        let checkpoint = Checkpoint::parse(note.text()).unwrap();
        assert_eq!(checkpoint.to_string(), note.text());
        assert_eq!((checkpoint.origin(), checkpoint.size()), ("go.sum database tree", 6_476_701));
        assert_eq!((hash_to_base64(&checkpoint.root()).as_str(), checkpoint.quant()), (&note.text()[29..73], None));

        let note = Note::parse(COSIGNED.as_bytes()).unwrap();
        assert_eq!((note.to_string().as_str(), note.signatures().len()), (COSIGNED, 2));
        assert_eq!(Checkpoint::parse(note.text()).unwrap().size(), 20_852_163);
        // The example's log signature is one of sum.golang.org, made under its own origin.
        let go = COSIGNED.replace("example.com/behind-the-sofa\n", "go.sum database tree\n");
        assert_eq!(open(&go.replace("example.com/behind-the-sofa ", "sum.golang.org "), &[GO]), Ok(1));

        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        let extended = format!("Moon Log\n0\n{root}\n6086d1a9\nWaxing gibbous\n");
        let checkpoint = Checkpoint::parse(&extended).unwrap();
        assert_eq!(checkpoint.extensions(), ["6086d1a9", "Waxing gibbous"]);
        assert_eq!(checkpoint.to_string(), extended);
    }

    #[test]
    fn a_checkpoint_has_one_spelling() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        for size in ["0", "1", "18446744073709551615"] {
            assert!(Checkpoint::parse(&format!("Log\n{size}\n{root}\n")).is_ok());
        }
        for size in ["", "01", "00", "+1", "-1", " 1", "1 ", "0x1", "1_0", "18446744073709551616", "\u{661}"] {
            assert!(Checkpoint::parse(&format!("Log\n{size}\n{root}\n")).is_err(), "{size:?}");
        }
        for root in ["", "YmFuYW5hcw==", root.trim_end_matches('='), &root.replace("2I=", "2J="), &format!(" {root}")] {
            assert!(Checkpoint::parse(&format!("Log\n1\n{root}\n")).is_err(), "{root:?}");
        }
        for malformed in [
            String::new(),
            "\n".into(),
            "Log\n1\n".into(),
            format!("Log\n1\n{root}"),
            format!("\n1\n{root}\n"),
            format!("Log\n1\n{root}\n\n"),
            format!("Log\n1\n{root}\na\n\nb\n"),
        ] {
            assert!(Checkpoint::parse(&malformed).is_err(), "{malformed:?}");
        }
    }

    fn quant(index: u64, size: u64) -> Quant {
        let (timestamp, root) = (Timestamp::from_micros(5).unwrap(), Hash::from_bytes([7; 32]));
        let (index, size) = (Height::new(index), Size::new(size));
        let header = Header { index, timestamp, difficulty: 0, previous_hash: Hash::ZERO, root, size };
        header.mine(0..1).unwrap()
    }

    #[test]
    fn a_checkpoint_names_its_quant() {
        let (chain, quant) = (Hash::from_bytes([0xab; 32]), quant(3, 258));
        let checkpoint = Checkpoint::new(chain, &quant);
        let text = format!(
            "qbc/{}\n258\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\nquant 3 {}\n",
            "ab".repeat(32),
            quant.hash()
        );
        assert_eq!(checkpoint.to_string(), text);
        assert_eq!(Checkpoint::parse(&text).as_ref(), Ok(&checkpoint));
        assert_eq!(checkpoint.quant(), Some((Height::new(3), quant.hash())));
        for other in ["quant 03 ", "quant +3 ", "quant  3 ", "Quant 3 ", "quant "] {
            assert_eq!(Checkpoint::parse(&text.replace("quant 3 ", other)).unwrap().quant(), None, "{other}");
        }
    }

    /// The message of tlog-cosignature, word by word.
    #[test]
    fn a_cosignature_speaks_for_a_text_and_a_time() {
        let note = Note::parse(COSIGNED.as_bytes()).unwrap();
        let message = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
                       CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert_eq!(cosigned(note.text(), 1_679_315_147), message);
        assert_eq!(note.signatures()[1].bytes[..8], 1_679_315_147u64.to_be_bytes(), "the example has this time");

        let secret = SigningKey::from_bytes(&[9; 32]);
        let known = [VerifierKey::new(name("w"), Algorithm::Cosignature, secret.verifying_key())];
        let mut note = note.clone();
        note.cosign(name("w"), &secret, 1_679_315_147);
        assert_eq!(note.signatures()[2].bytes[8..], secret.sign(message.as_bytes()).to_bytes());
        let verified = note.verify(&known).unwrap();
        assert_eq!((verified.len(), verified[0].time), (1, Some(1_679_315_147)));

        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = note.clone();
            change(&mut changed.signatures[2].bytes);
            changed.verify(&known).map(|_| ())
        };
        assert_eq!(with(&|_| ()), Ok(()));
        // A time that no signed number holds, though the signature is made for it.
        let late = 1u64 << 63;
        let signature = secret.sign(cosigned(note.text(), late).as_bytes()).to_bytes();
        for wrong in [
            with(&|bytes| bytes[7] ^= 1),
            with(&|bytes| bytes.truncate(8)),
            with(&|bytes| bytes.truncate(3)),
            with(&|bytes| bytes.push(0)),
            with(&|bytes| drop(bytes.drain(..8))),
            with(&|bytes| *bytes = [&late.to_be_bytes()[..], &signature].concat()),
        ] {
            assert!(matches!(wrong, Err(NoteError::WrongSignature { .. })), "{wrong:?}");
        }

        // The same key for another use is another key, and neither passes for the other.
        let plain = VerifierKey::new(name("w"), Algorithm::Ed25519, secret.verifying_key());
        assert_ne!(plain.id(), known[0].id());
        assert_eq!(note.verify(&[plain]), Err(NoteError::Unsigned));
    }

    fn texts() -> impl Strategy<Value = String> {
        proptest::collection::vec("[^\\x00-\\x1f]{0,20}", 1..6).prop_map(|lines| lines.join("\n") + "\n")
    }

    proptest! {
        #[test]
        fn what_is_signed_is_opened(text in texts(), seeds in proptest::collection::vec(any::<[u8; 32]>(), 1..5)) {
            let mut note = Note::new(text).unwrap();
            let mut known = Vec::new();
            for (number, seed) in seeds.iter().enumerate() {
                let (secret, name) = (SigningKey::from_bytes(seed), name(&format!("log.example/{number}")));
                let algorithm = if number % 2 == 0 { Algorithm::Ed25519 } else { Algorithm::Cosignature };
                known.push(VerifierKey::new(name.clone(), algorithm, secret.verifying_key()));
                match algorithm {
                    Algorithm::Ed25519 => note.sign(name, &secret),
                    Algorithm::Cosignature => note.cosign(name, &secret, number as u64),
                }
            }
            let read = Note::parse(note.to_string().as_bytes()).unwrap();
            prop_assert_eq!(&read, &note);
            prop_assert_eq!(read.verify(&known).unwrap().len(), seeds.len());
            for key in &known {
                prop_assert_eq!(&key.to_string().parse::<VerifierKey>().unwrap(), key);
            }
        }

        #[test]
        fn hostile_bytes_are_an_error(bytes in any::<Vec<u8>>(), line in "\\PC*", at in any::<prop::sample::Index>()) {
            drop(Note::parse(&bytes));
            drop(Checkpoint::parse(&line));
            let mut note = format!("{TEXT}\n{PETER_LINE}");
            let places: Vec<usize> = note.char_indices().map(|(at, _)| at).collect();
            note.insert_str(places[at.index(places.len())], &line);
            if let Ok(note) = Note::parse(note.as_bytes()) {
                prop_assert!(note.verify(&[key(PETER)]).is_err() || note.text() == TEXT);
            }
        }
    }

    #[test]
    fn each_changed_bit_is_found() {
        let secret = SigningKey::from_bytes(&[3; 32]);
        let known = [VerifierKey::new(name("log"), Algorithm::Ed25519, secret.verifying_key())];
        let mut note = Note::new(Checkpoint::new(Hash::from_bytes([1; 32]), &quant(0, 1)).to_string()).unwrap();
        note.sign(name("log"), &secret);
        let bytes = note.to_string().into_bytes();
        assert!(Note::parse(&bytes).unwrap().verify(&known).is_ok());
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(Note::parse(&changed).and_then(|note| note.verify(&known).map(|_| ())).is_err(), "bit {at}");
        }
    }
}
