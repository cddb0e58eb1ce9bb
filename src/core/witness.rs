//! What a witness of transparency logs decides, and what a log keeps of its witnesses: C2SP [tlog-witness].
//!
//! A witness cosigns the checkpoints of logs, and never two of one log that contradict each other. So whoever finds the
//! cosignature of an honest witness below a checkpoint knows that everybody else who asks for it sees the same history. For
//! that, a witness keeps the newest checkpoint that it has cosigned of each log ([`Witnessed`]), takes the next only with
//! the proof that it continues that one ([`Submission::judge`]), and keeps what shows that a log has signed two histories
//! ([`Evidence`]).
//!
//! [tlog-witness]: https://c2sp.org/tlog-witness

use serde::{Deserialize, Serialize};

use super::{
    count::Height,
    hash::{self, Hash},
    merkle::{self, ProofError},
    note::{Algorithm, Checkpoint, KeyName, Note, NoteError, Signature, VerifierKey, hash_from_base64, hash_to_base64},
    succession::{self, Succession},
    transaction::Timestamp,
};
use crate::limits;

/// The logs that a witness cosigns, each known by a key.
#[derive(Clone, Debug, Default)]
pub struct Trusted(Vec<VerifierKey>);

impl Trusted {
    /// Keys that sign checkpoints. One under the name of a node or a cluster is good for all chains of that; under any other name
    /// it is good for the log of that name.
    ///
    /// # Errors
    /// A key is not for that, or two keys cannot be told apart.
    pub fn new(keys: Vec<VerifierKey>) -> Result<Trusted, String> {
        for (at, key) in keys.iter().enumerate() {
            if key.algorithm() != Algorithm::Ed25519 {
                return Err(format!("{key} is the key of a witness: say that of a log, as \"qbc key\" prints it"));
            }
            if keys[..at].iter().any(|other| other.name() == key.name() && other.id() == key.id()) {
                return Err(format!("the key {}+{:08x} stands twice", key.name(), key.id()));
            }
        }
        Ok(Trusted(keys))
    }

    /// Whether no log is cosigned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that are good for a log of which `newest` was cosigned last: in the place of each stands the one that has taken it, as
    /// `successions` say.
    ///
    /// A key under the log's own name settles it, since an operator has said so. The keys of nodes and clusters are good for all
    /// chains, under the signer's name and under the chain's, so the first that signs for a chain is the only one from then on:
    /// else a node could end the cosigning of another node's chain by signing something for it. What was signed by the one in a key's
    /// place ends the old key: whoever has stolen that is not cosigned any more.
    fn of(
        &self,
        origin: &str,
        newest: Option<&Witnessed>,
        successions: &[Succession],
    ) -> Result<Vec<Candidate>, NoteError> {
        let own: Vec<&VerifierKey> = self.0.iter().filter(|key| key.name().as_str() == origin).collect();
        let chain = origin.strip_prefix("qbc/").and_then(|chain| chain.parse::<Hash>().ok());
        let is_for_all = |key: &&VerifierKey| *key.name() == KeyName::of_node(key.key()) || is_of_cluster(key);
        let (named, chain) = match chain.filter(|_| own.is_empty()) {
            Some(chain) => (self.0.iter().filter(is_for_all).collect(), Some(chain)),
            None => (own, None),
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        for key in named {
            let heirs = succession::heirs(key, successions)?;
            let is_bound = newest.is_none_or(|newest| match &newest.through {
                // Another key under the log's own name is the operator's word.
                through if chain.is_none() && through.as_ref() != Some(&signer(key)) => true,
                _ => heirs.iter().any(|heir| signer(heir) == newest.signer),
            });
            let Some(last) = heirs.last().filter(|_| is_bound) else { continue };
            let names = [Some(last.name().clone()), chain.map(KeyName::of_chain)];
            for name in names.into_iter().flatten() {
                let key = Candidate {
                    through: (last != key).then(|| signer(key)),
                    key: VerifierKey::new(name, Algorithm::Ed25519, *last.key()),
                    is_of_cluster: is_of_cluster(last),
                };
                if !candidates.iter().any(|other| other.key == key.key) {
                    candidates.push(key);
                }
            }
        }
        Ok(candidates)
    }

    fn knows(&self, origin: &str) -> bool {
        self.of(origin, None, &[]).is_ok_and(|candidates| !candidates.is_empty())
    }
}

/// A key that is good for a log.
struct Candidate {
    key: VerifierKey,
    /// The public key that was named, where this one has taken its place.
    through: Option<String>,
    /// Whether it is the key of a cluster.
    is_of_cluster: bool,
}

/// Whether it is the key of a cluster, under the cluster's name.
fn is_of_cluster(key: &VerifierKey) -> bool {
    *key.name() == KeyName::of_cluster(key.key())
}

/// Who signed, whatever name stands beside it.
fn signer(key: &VerifierKey) -> String {
    hex::encode(key.key().as_bytes())
}

/// The body of the call `add-checkpoint`: a claim of whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    old: u64,
    proof: Vec<Hash>,
    note: Note,
    checkpoint: Checkpoint,
}

/// Why a witness does not cosign a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body breaks the form.
    #[error("the body is not what add-checkpoint takes: {0}")]
    Malformed(NoteError),
    /// It asks to shrink.
    #[error("the old size {old} is above the checkpoint's, {size}")]
    Shrinks {
        /// The size that the caller takes for the newest cosigned one.
        old: u64,
        /// The checkpoint's.
        size: u64,
    },
    /// No key is known for the log.
    #[error("this node does not cosign the log {0:?}: its operator names the logs with --cosign")]
    UnknownLog(String),
    /// None of the log's known keys has signed the checkpoint.
    #[error("the checkpoint is not signed as this log signs: {0}")]
    Untrusted(NoteError),
    /// The newest cosigned checkpoint has another size than the caller takes it to have.
    #[error("the newest checkpoint that was cosigned of this log has the size {0}")]
    Moved(u64),
    /// It does not continue what was cosigned before.
    #[error("the checkpoint is not shown to continue the one of size {size} that was cosigned: {error}")]
    Inconsistent {
        /// The size that was cosigned.
        size: u64,
        /// What is wrong.
        error: ProofError,
    },
    /// The root of an empty tree is known.
    #[error("the root of an empty log is the hash of nothing")]
    WrongEmptyRoot,
}

/// A submission that is not to be cosigned.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub refusal: Refusal,
    /// What is to be kept of it.
    pub evidence: Option<Evidence>,
}

impl Submission {
    /// Of a log that takes `old` for the size that was cosigned last.
    ///
    /// # Errors
    /// The note is no checkpoint.
    pub fn new(old: u64, proof: Vec<Hash>, note: Note) -> Result<Submission, NoteError> {
        let checkpoint = Checkpoint::parse(note.text())?;
        Ok(Submission { old, proof, note, checkpoint })
    }

    /// Reads the body of a call.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], and [`Refusal::Shrinks`] as it is written.
    pub fn parse(body: &[u8]) -> Result<Submission, Refusal> {
        const HEAD: Refusal = Refusal::Malformed(NoteError::Malformed(
            "it begins with \"old SIZE\", at most 63 hashes in base64, a line each, and an empty line",
        ));
        let end = body.windows(2).position(|pair| pair == b"\n\n").ok_or(HEAD)?;
        let mut lines = str::from_utf8(&body[..end]).map_err(|_| HEAD)?.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or(HEAD)?;
        let old = old.parse::<u64>().ok().filter(|size| size.to_string() == old).ok_or(HEAD)?;
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MOST_HASHES {
                return Err(HEAD);
            }
            proof.push(hash_from_base64(line).ok_or(HEAD)?);
        }
        let note = Note::parse(&body[end + 2..]).map_err(Refusal::Malformed)?;
        let submission = Submission::new(old, proof, note).map_err(Refusal::Malformed)?;
        let size = submission.checkpoint.size();
        if old <= size { Ok(submission) } else { Err(Refusal::Shrinks { old, size }) }
    }

    /// The log that it is of.
    pub fn origin(&self) -> &str {
        self.checkpoint.origin()
    }

    /// The signed checkpoint.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Decides about it, where `newest` is the newest checkpoint of its log that was cosigned. What is to be recorded before
    /// the cosignature is given away comes back with the note to cosign.
    ///
    /// # Errors
    /// Why it is not to be cosigned, and what is to be kept of it as evidence.
    pub fn judge(
        &self,
        trusted: &Trusted,
        newest: Option<&Witnessed>,
        now: Timestamp,
    ) -> Result<(Note, Witnessed), Box<Rejected>> {
        let refuse = |refusal| Box::new(Rejected { refusal, evidence: None });
        if !trusted.knows(self.origin()) {
            return Err(refuse(Refusal::UnknownLog(self.origin().into())));
        }
        let untrusted = |error| refuse(Refusal::Untrusted(error));
        let successions = succession::shown(&self.note);
        let candidates = trusted.of(self.origin(), newest, &successions).map_err(untrusted)?;
        let keys: Vec<VerifierKey> = candidates.iter().map(|candidate| candidate.key.clone()).collect();
        let verified = self.note.verify(&keys).map_err(untrusted)?;
        // What unknown keys have signed is nothing that is vouched for, so it is not kept.
        let mut note = Note::new(self.note.text()).expect("it is the text of a note");
        verified.iter().for_each(|verified| note.add(verified.signature.clone()));
        if candidates.iter().any(|candidate| candidate.through.is_some()) {
            successions.iter().for_each(|succession| note.add(succession.line()));
        }
        if let Err(refusal) = self.continues(newest) {
            let evidence = newest.and_then(|newest| self.evidence(newest, &note, &refusal, now));
            return Err(Box::new(Rejected { refusal, evidence }));
        }
        // A cluster's key outlives its nodes', which sign beside it.
        let of = |key: &VerifierKey| {
            candidates.iter().find(|candidate| candidate.key == *key).expect("it was verified with it")
        };
        let by_cluster = verified.iter().find(|verified| of(verified.key).is_of_cluster);
        let by = of(by_cluster.unwrap_or(&verified[0]).key);
        let witnessed = Witnessed {
            origin: self.origin().into(),
            size: self.checkpoint.size(),
            root: self.checkpoint.root(),
            signer: signer(&by.key),
            through: by.through.clone(),
            checkpoint: String::new(),
            cosigned: now,
            evidence: Vec::new(),
        };
        Ok((note, witnessed))
    }

    fn continues(&self, newest: Option<&Witnessed>) -> Result<(), Refusal> {
        let (seen, seen_root) = newest.map_or((0, hash::empty_root()), |newest| (newest.size, newest.root));
        let (size, root) = (self.checkpoint.size(), self.checkpoint.root());
        if self.old != seen {
            return Err(Refusal::Moved(seen));
        }
        if size == 0 && root != hash::empty_root() {
            return Err(Refusal::WrongEmptyRoot);
        }
        merkle::check_consistency(seen, size, &self.proof, seen_root, root)
            .map_err(|error| Refusal::Inconsistent { size: seen, error })
    }

    fn evidence(&self, newest: &Witnessed, note: &Note, refusal: &Refusal, now: Timestamp) -> Option<Evidence> {
        let (first, second) = (newest.checkpoint.clone(), note.to_string());
        let proof = if self.checkpoint.size() == newest.size { Vec::new() } else { self.proof.clone() };
        let seen = Claim { size: newest.size, root: newest.root, quant: None };
        let proven = contradict(seen, Claim { quant: None, ..Claim::of(&self.checkpoint) }, &proof);
        // A path that leads nowhere may be the caller's mistake.
        let is_suspect = matches!(refusal, Refusal::Inconsistent { size, .. } if *size < self.checkpoint.size());
        let proof = if proven { proof } else { Vec::new() };
        (proven || is_suspect).then_some(Evidence { proven, timestamp: now, first, second, proof })
    }
}

/// As it is sent.
impl std::fmt::Display for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", hash_to_base64(hash)))?;
        write!(f, "\n{}", self.note)
    }
}

/// Hashes of a proof at most: tlog-witness, add-checkpoint.
const MOST_HASHES: usize = 63;

/// What a checkpoint says of its log.
#[derive(Clone, Copy)]
struct Claim {
    size: u64,
    root: Hash,
    /// Of a chain, index and hash of the quant.
    quant: Option<(Height, Hash)>,
}

impl Claim {
    fn of(checkpoint: &Checkpoint) -> Claim {
        let is_of_chain = checkpoint.origin().starts_with("qbc/");
        let quant = checkpoint.quant().filter(|_| is_of_chain);
        Claim { size: checkpoint.size(), root: checkpoint.root(), quant }
    }
}

/// Whether two checkpoints of one log, both signed by it, cannot be of one history: they are of one size with two roots, or of one
/// quant with two hashes, or the later quant has less; or the path, which leads to the root of the larger one, leads from another
/// smaller one.
fn contradict(first: Claim, second: Claim, path: &[Hash]) -> bool {
    if let Some(((first_quant, first_hash), (second_quant, second_hash))) = first.quant.zip(second.quant) {
        let shrinks = first_quant < second_quant && first.size > second.size
            || first_quant > second_quant && first.size < second.size;
        if shrinks || first_quant == second_quant && first_hash != second_hash {
            return true;
        }
    }
    match first.size == second.size {
        true => first.root != second.root,
        false => merkle::older_root(first.size, second.size, path, second.root).is_some_and(|root| root != first.root),
    }
}

/// The newest checkpoint of a log that a witness has cosigned, and what speaks against the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Witnessed {
    /// The log's name.
    pub origin: String,
    /// The size of the tree.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// The public key that signed the checkpoint, 64 hexadecimal digits.
    pub signer: String,
    /// The public key that the operator has named, where the signer has taken its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub through: Option<String>,
    /// The checkpoint: a note with the signatures of the log's known keys and the cosignature.
    pub checkpoint: String,
    /// When it was cosigned.
    pub cosigned: Timestamp,
    /// At most [`limits::EVIDENCE`], in the order of their coming.
    pub evidence: Vec<Evidence>,
}

impl Witnessed {
    /// Adds evidence, where it is new and there is room.
    pub fn keep(&mut self, evidence: Evidence) -> bool {
        evidence.keep_in(&mut self.evidence, |kept, new| kept.second == new.second)
    }
}

/// Two checkpoints that a log has signed and that a witness was not shown to be of one history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// Whether they contradict each other for certain. If not, an honest log can still give the proof of consistency from
    /// the first to the second, which somebody has left out or broken.
    pub proven: bool,
    /// When the second came.
    pub timestamp: Timestamp,
    /// The note that was cosigned; of a mirror, the one of the smaller size.
    pub first: String,
    /// The note that was refused; of a mirror, the one of the larger size.
    pub second: String,
    /// Where they have two sizes: the path that leads from another root than the first's to the second's. Before it stands that root
    /// where the first's size is a power of 2, since a path leaves the root of a perfect tree out.
    pub proof: Vec<Hash>,
}

impl Evidence {
    /// Whether it proves, to whoever knows a key of the log, that the log has signed two histories.
    ///
    /// # Errors
    /// A note is malformed, or not signed by the key.
    pub fn check(&self, key: &VerifierKey) -> Result<bool, NoteError> {
        let open = |note: &str| {
            let note = Note::parse(note.as_bytes())?;
            note.verify(&succession::follow(std::slice::from_ref(key), &succession::shown(&note))?)?;
            Checkpoint::parse(note.text())
        };
        let (first, second) = (open(&self.first)?, open(&self.second)?);
        Ok(first.origin() == second.origin() && contradict(Claim::of(&first), Claim::of(&second), &self.proof))
    }

    /// Adds it to others, where it is new and there is room. What proves stays for ever; what does not gives way to newer, and to what
    /// proves the same.
    pub fn keep_in(self, others: &mut Vec<Evidence>, is_same: impl Fn(&Evidence, &Evidence) -> bool) -> bool {
        match others.iter().position(|kept| is_same(kept, &self)) {
            Some(at) if others[at].proven || !self.proven => return false,
            Some(at) => drop(others.remove(at)),
            None if others.len() < limits::EVIDENCE => {}
            None => match others.iter().position(|kept| !kept.proven) {
                Some(at) => drop(others.remove(at)),
                None => return false,
            },
        }
        others.push(self);
        true
    }

    /// Two checkpoints of one log whose signatures were checked, the smaller one first, with the path that was given for them.
    pub fn of(older: &Note, newer: &Note, proof: Vec<Hash>, now: Timestamp) -> Result<Evidence, NoteError> {
        let (first, second) = (Checkpoint::parse(older.text())?, Checkpoint::parse(newer.text())?);
        let (first, second) = (Claim::of(&first), Claim::of(&second));
        let is_direct = contradict(first, second, &[]);
        let proven = is_direct || contradict(first, second, &proof);
        let proof = if proven && !is_direct { proof } else { Vec::new() };
        Ok(Evidence { proven, timestamp: now, first: older.to_string(), second: newer.to_string(), proof })
    }
}

/// The checkpoints of one chain that witnesses have cosigned: the newest few, which slower witnesses may cosign yet, and for
/// each number of cosignatures the newest that has so many.
#[derive(Clone, Debug, Default)]
pub struct Cosigned {
    /// From the newest quant on.
    checkpoints: Vec<CosignedText>,
}

#[derive(Clone, Debug)]
struct CosignedText {
    quant: Height,
    text: String,
    cosignatures: Vec<Signature>,
}

impl Cosigned {
    /// Adds the cosignature of the checkpoint of a quant, which has this text. It takes the place of an older one by the same key.
    pub fn add(&mut self, quant: Height, text: &str, cosignature: Signature) {
        let is_same = |other: &Signature| other.name() == cosignature.name() && other.id() == cosignature.id();
        match self.checkpoints.iter_mut().find(|checkpoint| checkpoint.text == text) {
            Some(CosignedText { cosignatures, .. }) => {
                cosignatures.retain(|other| !is_same(other));
                cosignatures.push(cosignature);
            }
            None => self.checkpoints.push(CosignedText { quant, text: text.into(), cosignatures: vec![cosignature] }),
        }
        self.checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.quant));
        let (mut most, mut newer) = (0, 0);
        self.checkpoints.retain(|checkpoint| {
            let count = checkpoint.cosignatures.len();
            let stays = count > most || newer < limits::COSIGNED_NOTES;
            (most, newer) = (most.max(count), newer + 1);
            stays
        });
    }

    /// The cosignatures of the checkpoint with this text that are kept.
    pub fn of(&self, text: &str) -> &[Signature] {
        let checkpoint = self.checkpoints.iter().find(|checkpoint| checkpoint.text == text);
        checkpoint.map_or(&[], |checkpoint| &checkpoint.cosignatures)
    }

    /// The quant and the text of the newest checkpoint with this many cosignatures.
    pub fn newest(&self, cosignatures: usize) -> Option<(Height, &str)> {
        let checkpoint = self.checkpoints.iter().find(|checkpoint| checkpoint.cosignatures.len() >= cosignatures);
        checkpoint.map(|checkpoint| (checkpoint.quant, checkpoint.text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    const EXAMPLE: &str = "old 20852014\n\
        PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\
        jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n\
        5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n\
        /6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\
        \n\
        example.com/behind-the-sofa\n\
        20852163\n\
        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\
        \n\
        \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";

    /// The example of tlog-witness.
    #[test]
    fn the_example_is_read_and_written_again() {
        let submission = Submission::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!((submission.old, submission.proof.len()), (20_852_014, 4));
        assert_eq!((submission.origin(), submission.checkpoint.size()), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(submission.note.signatures().len(), 2);
        assert_eq!(submission.to_string(), EXAMPLE);
        let many = |count: usize| {
            let line = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n";
            EXAMPLE.replacen(line, &line.repeat(count), 1)
        };
        assert_eq!(Submission::parse(many(60).as_bytes()).unwrap().proof.len(), 63);
        assert!(matches!(Submission::parse(many(61).as_bytes()), Err(Refusal::Malformed(_))));
        let shrinks = EXAMPLE.replace("old 20852014", "old 20852164");
        let shrinks = Submission::parse(shrinks.as_bytes());
        assert_eq!(shrinks, Err(Refusal::Shrinks { old: 20_852_164, size: 20_852_163 }));
    }

    fn evidence(second: usize, proven: bool) -> Evidence {
        let timestamp = Timestamp::from_micros(0).unwrap();
        Evidence { proven, timestamp, first: String::new(), second: second.to_string(), proof: Vec::new() }
    }

    #[test]
    fn evidence_is_bounded_and_what_proves_is_never_pushed_out() {
        let mut log = Witnessed {
            origin: "log".into(),
            size: 0,
            root: hash::empty_root(),
            signer: "log".into(),
            through: None,
            checkpoint: String::new(),
            cosigned: Timestamp::from_micros(0).unwrap(),
            evidence: Vec::new(),
        };
        assert!(log.keep(evidence(0, true)) && !log.keep(evidence(0, true)) && !log.keep(evidence(0, false)));
        // Anybody can send a bad proof of a good checkpoint, as often as he likes.
        assert!((1..100).all(|second| log.keep(evidence(second, false))));
        assert_eq!((log.evidence.len(), log.evidence[0].proven), (limits::EVIDENCE, true));
        assert!(log.keep(evidence(99, true)), "what was suspected is proven");
        assert!((100..100 + limits::EVIDENCE - 2).all(|second| log.keep(evidence(second, true))));
        assert!(!log.keep(evidence(200, true)) && !log.keep(evidence(201, false)), "eight are enough");
        assert!(log.evidence.len() == limits::EVIDENCE && log.evidence.iter().all(|kept| kept.proven));
        let json = serde_json::to_vec(&log).unwrap();
        assert_eq!(serde_json::from_slice::<Witnessed>(&json).unwrap(), log);
    }

    #[test]
    fn for_each_number_of_cosignatures_the_newest_checkpoint_stays() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let text = |quant: u64| format!("log\n{quant}\n{}\n", hash_to_base64(&Hash::ZERO));
        let by = |quant: u64, witness: &str| {
            let mut note = Note::new(text(quant)).unwrap();
            note.cosign(witness.parse().unwrap(), &key, quant + 1);
            note.signatures()[0].clone()
        };
        let mut cosigned = Cosigned::default();
        assert!(cosigned.newest(0).is_none());
        // One witness is two quants behind the other, and answers come in any order.
        for quant in [1, 0, 3, 2, 2, 5] {
            cosigned.add(Height::new(quant), &text(quant), by(quant, "a"));
            if quant >= 2 {
                cosigned.add(Height::new(quant - 2), &text(quant - 2), by(quant - 2, "b"));
            }
        }
        let newest =
            |cosigned: &Cosigned, count| cosigned.newest(count).map(|(quant, of)| (quant.get(), of.to_owned()));
        assert_eq!(newest(&cosigned, 1), Some((5, text(5))));
        assert_eq!(newest(&cosigned, 2), Some((3, text(3))), "both have cosigned 0, 1 and 3");
        assert_eq!(newest(&cosigned, 3), None);
        assert_eq!(cosigned.of(&text(1)).len(), 2);
        for quant in 6..100 {
            cosigned.add(Height::new(quant), &text(quant), by(quant, "a"));
        }
        assert_eq!(newest(&cosigned, 1), Some((99, text(99))));
        assert_eq!(newest(&cosigned, 2), Some((3, text(3))));
        assert_eq!((cosigned.of(&text(1)), cosigned.checkpoints.len()), (&[][..], limits::COSIGNED_NOTES + 1));
    }
}
