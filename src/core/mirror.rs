//! Mirrors: chains of others that a node follows without trusting who keeps them.
//!
//! The one thing that is believed is a key: what it has signed as a checkpoint of the chain is compared with the newest
//! checkpoint that was seen before, and nothing is taken that does not lead to what was signed ([`Seen`], [`check_quants`]). Where two
//! signed checkpoints cannot be of one history, both are kept as [`Evidence`].

use serde::{Deserialize, Serialize};

use super::{
    count::{Height, Size},
    hash::Hash,
    merkle,
    note::{Checkpoint, Note, VerifierKey},
    quant::Quant,
    succession,
    transaction::Timestamp,
    verify,
    witness::Evidence,
};

/// What a node keeps of a chain of others that it follows, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The chain's id.
    pub id: Hash,
    /// Its name, which its rules say.
    pub name: String,
    /// The URL of the chain at its source.
    pub from: String,
    /// The verifier key that signs its checkpoints.
    pub key: String,
    /// The verifier key that has taken its place, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Whether its source may be in any network, since the node's operator has named it on the command line.
    pub anywhere: bool,
    /// Whether data may be missing without the record of its erasure.
    pub allow_unproven_erasures: bool,
    /// Whether it is followed.
    pub state: Following,
    /// The newest signed checkpoint that was found to continue the one before: a note with the signatures of the key.
    pub checkpoint: String,
    /// At most [`limits::EVIDENCE`](crate::limits::EVIDENCE), in the order of their coming.
    pub evidence: Vec<Evidence>,
}

/// Whether a chain of others is followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Following {
    /// It is.
    Yes,
    /// Its operator has ended that.
    Stopped,
    /// What its source serves contradicts what the key has signed, as the text says.
    Contradiction(String),
}

/// How a mirror stands to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[schema(as = MirrorState)]
#[serde(rename_all = "lowercase")]
pub enum Follows {
    /// It lags the newest checkpoint that was seen, and comes closer.
    Copying,
    /// It has all that was signed when the source was asked last.
    Following,
    /// It has all of a chain that was frozen: nothing more can come.
    Complete,
    /// The source does not answer, or not as it should: it is asked again later.
    Away,
    /// Nobody follows the source.
    Stopped,
    /// The source contradicts itself, and is not followed any more.
    Contradiction,
}

impl Mirror {
    /// Adds evidence, where it is new and there is room.
    pub fn keep(&mut self, evidence: Evidence) {
        evidence.keep_in(&mut self.evidence, |kept, new| (&kept.first, &kept.second) == (&new.first, &new.second));
    }
}

/// A checkpoint of a chain that a key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The note, with the signatures of the key alone, and what shows that it has taken the place of another.
    pub note: Note,
    /// The key, or the one that has taken its place.
    pub signer: Option<VerifierKey>,
    /// The chain's id.
    pub chain: Hash,
    /// Transactions up to its quant.
    pub size: Size,
    /// The root over them.
    pub root: Hash,
    /// Its quant.
    pub quant: Height,
    /// The hash of that.
    pub hash: Hash,
}

/// How a newer look at a source compares with what was seen before, as far as the two checkpoints alone say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Nothing has changed.
    Same,
    /// It has quants more, but no transaction.
    OnlyQuants,
    /// It has more; that it begins with what was seen is to be shown.
    Longer,
    /// It has less; that what was seen begins with it is to be shown.
    Shorter,
    /// They cannot be of one history.
    Contradicts,
}

impl Seen {
    /// Reads a note.
    ///
    /// # Errors
    /// It is no checkpoint of a chain, or the key has not signed it.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<Seen, String> {
        let all = Note::parse(note).map_err(|error| format!("its checkpoint is no signed note: {error}"))?;
        let successions = succession::shown(&all);
        let keys = succession::follow(std::slice::from_ref(key), &successions).map_err(|error| error.to_string())?;
        let signer = keys[0].clone();
        let verified = all.verify(&keys).map_err(|_| {
            let signers: Vec<&str> = all.signatures().iter().map(|signature| signature.name().as_str()).collect();
            let signers: String = signers.join(", ").chars().take(300).collect();
            format!(
                "its checkpoint is not signed by {}+{:08x}, but in the name of {signers}",
                signer.name(),
                signer.id()
            )
        })?;
        let mut note = Note::new(all.text()).expect("it is the text of a note");
        verified.iter().for_each(|verified| note.add(verified.signature.clone()));
        if signer != *key {
            successions.iter().for_each(|succession| note.add(succession.line()));
        }
        Ok(Seen { signer: Some(signer), ..Seen::of(note)? })
    }

    /// Reads a note whose signature was checked when it was recorded.
    ///
    /// # Errors
    /// It is no checkpoint of a chain.
    pub fn recorded(note: &str) -> Result<Seen, String> {
        Seen::of(Note::parse(note.as_bytes()).map_err(|error| error.to_string())?)
    }

    fn of(note: Note) -> Result<Seen, String> {
        let said = Checkpoint::parse(note.text()).map_err(|error| format!("its checkpoint: {error}"))?;
        let chain = said.origin().strip_prefix("qbc/").and_then(|id| id.parse().ok());
        let (Some(chain), Some((quant, hash))) = (chain, said.quant()) else {
            return Err("its checkpoint is of no chain of a QBC node".into());
        };
        Ok(Seen { note, signer: None, chain, size: Size::new(said.size()), root: said.root(), quant, hash })
    }

    /// Compares what was seen before with what is seen now, of one chain.
    pub fn compare(&self, now: &Seen) -> Compared {
        let is_same_quant = self.quant == now.quant;
        if is_same_quant && self.hash == now.hash && self.size == now.size && self.root == now.root {
            return Compared::Same;
        }
        let shrinks = self.quant < now.quant && self.size > now.size || self.quant > now.quant && self.size < now.size;
        if is_same_quant || shrinks || self.size == now.size && self.root != now.root {
            return Compared::Contradicts;
        }
        match self.quant < now.quant {
            true if self.size == now.size => Compared::OnlyQuants,
            true => Compared::Longer,
            false => Compared::Shorter,
        }
    }

    /// Whether a path (RFC 9162 section 2.1.4) shows that `newer` begins with this.
    pub fn begins(&self, newer: &Seen, path: &[Hash]) -> bool {
        merkle::check_consistency(self.size.get(), newer.size.get(), path, self.root, newer.root).is_ok()
    }

    /// Evidence of two checkpoints that are not shown to be of one history, with the path that was given for that.
    pub fn evidence(&self, other: &Seen, path: Vec<Hash>, now: Timestamp) -> Option<Evidence> {
        let (older, newer) = if self.size <= other.size { (self, other) } else { (other, self) };
        Evidence::of(&older.note, &newer.note, path, now).ok()
    }
}

/// Checks that quants go on from `newest` and lead to what was signed: then each of them, and its root, is what the key speaks for.
/// `size` are the transactions that are here already.
///
/// # Errors
/// What does not hold.
pub fn check_quants(newest: &Quant, size: Size, quants: &[Quant], signed: &Seen) -> Result<(), String> {
    let mut before = newest;
    for quant in quants {
        quant.check_follows(Some(before)).map_err(|error| format!("quant {}: {error}", quant.index()))?;
        if quant.size() < size {
            return Err(format!("quant {} ends before the transactions that are here, {size}", quant.index()));
        }
        before = quant;
    }
    verify::check_checkpoint(&signed.note, signed.chain, before)
        .map_err(|detail| format!("the quants do not lead to the signed checkpoint: {detail}"))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::core::note::{Algorithm, KeyName, hash_to_base64};

    fn seen(size: u64, root: u8, quant: u64, hash: u8) -> Seen {
        let (root, hash) = (Hash::from_bytes([root; 32]), Hash::from_bytes([hash; 32]));
        let text = format!("qbc/{}\n{size}\n{}\nquant {quant} {hash}\n", Hash::ZERO, hash_to_base64(&root));
        let key = SigningKey::from_bytes(&[1; 32]);
        let name: KeyName = "a".parse().unwrap();
        let mut note = Note::new(text).unwrap();
        note.sign(name.clone(), &key);
        let known = VerifierKey::new(name, Algorithm::Ed25519, key.verifying_key());
        Seen::open(note.to_string().as_bytes(), &known).unwrap()
    }

    #[test]
    fn two_checkpoints_say_by_themselves_whether_they_may_be_of_one_history() {
        let before = seen(10, 1, 3, 1);
        let now = Timestamp::from_micros(0).unwrap();
        let cases = [
            (seen(10, 1, 3, 1), Compared::Same),
            (seen(10, 1, 4, 2), Compared::OnlyQuants),
            (seen(11, 2, 4, 2), Compared::Longer),
            (seen(9, 2, 2, 2), Compared::Shorter),
            (seen(10, 1, 2, 2), Compared::Shorter),
            (seen(10, 2, 4, 2), Compared::Contradicts),
            (seen(10, 1, 3, 2), Compared::Contradicts),
            (seen(11, 2, 3, 2), Compared::Contradicts),
            (seen(9, 2, 4, 2), Compared::Contradicts),
            (seen(11, 2, 2, 2), Compared::Contradicts),
        ];
        for (next, compared) in cases {
            assert_eq!(before.compare(&next), compared, "{next:?}");
            let evidence = before.evidence(&next, Vec::new(), now).unwrap();
            assert_eq!(evidence.proven, compared == Compared::Contradicts, "{next:?}");
            let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
            let key = VerifierKey::new("a".parse().unwrap(), Algorithm::Ed25519, key);
            assert_eq!(evidence.check(&key), Ok(evidence.proven));
        }
    }
}
