//! A quant and its proof of work: mine one, check one against its predecessor.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    count::{Height, Size},
    hash::{Hash, Work},
    transaction::Timestamp,
};

/// The version of the format that this program writes.
pub const VERSION: u8 = 1;

/// Proofs are below 2^53, so that every JSON reader keeps them exactly.
pub const PROOFS: u64 = 1 << 53;

/// The seven fields of a quant that its hash speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its place in the chain.
    pub index: Height,
    /// When it was cut from the pool. Never before the quant that it follows.
    pub timestamp: Timestamp,
    /// Zero bits that its hash starts with at least.
    pub difficulty: u8,
    /// The hash of the quant before, [`Hash::ZERO`] for the first.
    pub previous_hash: Hash,
    /// The Merkle root over the first `size` transactions.
    pub root: Hash,
    /// Transactions of the chain up to and including this quant.
    pub size: Size,
}

impl Header {
    /// Its canonical JSON (RFC 8785), which is hashed.
    pub fn canonical(&self) -> String {
        let Header { index, timestamp, difficulty, previous_hash, root, size } = self;
        format!(
            "{{\"difficulty\":{difficulty},\"index\":{index},\"previous_hash\":\"{previous_hash}\",\"root\":\"{root}\",\
             \"size\":{size},\"timestamp\":\"{timestamp}\",\"version\":{VERSION}}}"
        )
    }

    /// Tries the proofs of a range, and gives the quant of the first that meets the difficulty.
    pub fn mine(&self, proofs: Range<u64>) -> Option<Quant> {
        let mut work = Work::on(self.canonical().as_bytes());
        let difficulty = u32::from(self.difficulty);
        for proof in proofs.start..proofs.end.min(PROOFS) {
            let hash = work.attempt(proof);
            if hash.leading_zeros() >= difficulty {
                return Some(Quant { header: self.clone(), proof, hash });
            }
        }
        None
    }
}

/// A quant: a header with a proof of work that was found or checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "QuantFields")]
pub struct Quant {
    header: Header,
    proof: u64,
    hash: Hash,
}

/// What is wrong with a quant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantError {
    /// It is of another version of the format.
    #[error("version {0} is unknown: this program knows {VERSION}")]
    Version(u64),
    /// A field cannot be.
    #[error("{0}")]
    Field(String),
    /// The hash that it claims is not that of its header and proof.
    #[error("\"hash\" is {claimed}, but header and proof hash to {computed}")]
    Hash {
        /// As it was served.
        claimed: Hash,
        /// From header and proof.
        computed: Hash,
    },
    /// The hash has too few zero bits.
    #[error("the hash {hash} has {} zero bits, its difficulty is {difficulty}", hash.leading_zeros())]
    Work {
        /// The quant's hash.
        hash: Hash,
        /// What it must meet.
        difficulty: u8,
    },
    /// It does not follow the quant before it.
    #[error("{0}")]
    Link(String),
}

impl Quant {
    /// The fields that its hash speaks for.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Its place in the chain.
    pub fn index(&self) -> Height {
        self.header.index
    }

    /// Transactions of the chain up to and including it.
    pub fn size(&self) -> Size {
        self.header.size
    }

    /// Checks that it may stand behind `previous`, or that it may be a chain's first.
    ///
    /// # Errors
    /// [`QuantError::Link`] with a sentence that names the field.
    pub fn check_follows(&self, previous: Option<&Quant>) -> Result<(), QuantError> {
        let (index, hash, size, timestamp) = match previous {
            Some(previous) => {
                (previous.index().next(), previous.hash, previous.size(), Some(previous.header.timestamp))
            }
            None => (Height::FIRST, Hash::ZERO, Size::ZERO, None),
        };
        let Header { index: claimed, previous_hash, size: claimed_size, timestamp: claimed_time, .. } = &self.header;
        let fault = if *claimed != index {
            format!("\"index\" is {claimed}, but {index} is next")
        } else if *previous_hash != hash {
            format!("\"previous_hash\" is {previous_hash}, but the quant before has the hash {hash}")
        } else if *claimed_size < size {
            format!("\"size\" is {claimed_size}, but the quant before has {size}")
        } else if timestamp.is_some_and(|timestamp| *claimed_time < timestamp) {
            format!("\"timestamp\" {claimed_time} is before that of the quant before")
        } else {
            return Ok(());
        };
        Err(QuantError::Link(fault))
    }
}

/// A quant as it stands in JSON: a claim until it is checked.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuantFields {
    /// Counts the quants of the chain from 0.
    pub index: u64,
    /// RFC 3339, UTC, six digits.
    #[schema(value_type = Timestamp)]
    pub timestamp: String,
    /// Zero bits that the hash starts with at least.
    pub difficulty: u8,
    /// The hash of the quant before, 64 zeros for the first.
    pub previous_hash: Hash,
    /// The Merkle root over the first `size` transactions.
    pub root: Hash,
    /// Transactions of the chain up to and including this quant.
    pub size: u64,
    /// The version of the format.
    pub version: u64,
    /// Found by mining, below 2^53.
    pub proof: u64,
    /// `H(H(header) ‖ proof)`.
    pub hash: Hash,
}

impl From<Quant> for QuantFields {
    fn from(quant: Quant) -> Self {
        let Quant { header, proof, hash } = quant;
        QuantFields {
            index: header.index.get(),
            timestamp: header.timestamp.to_string(),
            difficulty: header.difficulty,
            previous_hash: header.previous_hash,
            root: header.root,
            size: header.size.get(),
            version: u64::from(VERSION),
            proof,
            hash,
        }
    }
}

impl TryFrom<QuantFields> for Quant {
    type Error = QuantError;

    /// Recomputes the hash and the proof of work.
    fn try_from(fields: QuantFields) -> Result<Self, QuantError> {
        if fields.version != u64::from(VERSION) {
            return Err(QuantError::Version(fields.version));
        }
        if fields.proof >= PROOFS {
            return Err(QuantError::Field(format!("\"proof\" is {}, but it is below 2^53", fields.proof)));
        }
        let header = Header {
            index: Height::new(fields.index),
            timestamp: fields.timestamp.parse().map_err(QuantError::Field)?,
            difficulty: fields.difficulty,
            previous_hash: fields.previous_hash,
            root: fields.root,
            size: Size::new(fields.size),
        };
        let computed = Work::on(header.canonical().as_bytes()).attempt(fields.proof);
        if computed != fields.hash {
            return Err(QuantError::Hash { claimed: fields.hash, computed });
        }
        if computed.leading_zeros() < u32::from(header.difficulty) {
            return Err(QuantError::Work { hash: computed, difficulty: header.difficulty });
        }
        Ok(Quant { header, proof: fields.proof, hash: computed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::core::{json as gate, verify};

    fn header(difficulty: u8) -> Header {
        Header {
            index: Height::new(3),
            timestamp: Timestamp::from_micros(1_795_348_147_123_456).unwrap(),
            difficulty,
            previous_hash: Hash::from_bytes([0xab; 32]),
            root: Hash::from_bytes([0xcd; 32]),
            size: Size::new(17),
        }
    }

    #[test]
    fn the_header_is_the_canonical_form_of_its_seven_fields() {
        let mut fields = serde_json::to_value(header(0).mine(0..1).unwrap()).unwrap();
        let fields = fields.as_object_mut().unwrap();
        assert!(fields.remove("proof").is_some() && fields.remove("hash").is_some());
        assert_eq!(gate::canonical(&json!(fields)), header(0).canonical().as_bytes());
    }

    #[test]
    fn mining_gives_the_first_proof_of_its_range() {
        let header = header(10);
        let quant = header.mine(0..PROOFS).unwrap();
        assert!(quant.hash().leading_zeros() >= 10);
        assert_eq!(header.mine(0..quant.proof), None);
        assert_eq!(header.mine(quant.proof..quant.proof + 1).as_ref(), Some(&quant));
        assert!(header.mine(quant.proof + 1..PROOFS).unwrap().proof > quant.proof);
        assert_eq!(super::tests::header(0).mine(PROOFS - 1..u64::MAX).unwrap().proof, PROOFS - 1);
        assert_eq!(super::tests::header(0).mine(PROOFS..u64::MAX), None);
    }

    #[test]
    fn a_served_quant_is_a_claim_until_it_is_checked() {
        let quant = header(8).mine(0..PROOFS).unwrap();
        let served = serde_json::to_value(&quant).unwrap();
        assert_eq!(verify::quant(served.clone()), Ok(quant.clone()));
        for (field, value) in [
            ("index", json!(4)),
            ("timestamp", json!("2026-11-22T11:49:07.123457Z")),
            ("timestamp", json!("2026-11-22T11:49:07Z")),
            ("difficulty", json!(7)),
            ("difficulty", json!(256)),
            ("previous_hash", json!(Hash::ZERO)),
            ("root", json!(Hash::ZERO)),
            ("size", json!(18)),
            ("version", json!(2)),
            ("version", json!(0)),
            ("proof", json!(quant.proof + 1)),
            ("proof", json!(PROOFS)),
            ("proof", json!(-1)),
            ("hash", json!(Hash::ZERO)),
            ("note", json!(1)),
        ] {
            let mut changed = served.clone();
            changed[field] = value;
            assert!(verify::quant(changed.clone()).is_err(), "{changed}");
        }
        for field in served.as_object().unwrap().keys() {
            let mut changed = served.clone();
            changed.as_object_mut().unwrap().remove(field);
            assert!(verify::quant(changed).is_err(), "without {field}");
        }
        // A right hash with too little work: only the difficulty can tell.
        let lazy = header(200);
        let hash = Work::on(lazy.canonical().as_bytes()).attempt(0);
        let fields = QuantFields { hash, ..Quant { header: lazy, proof: 0, hash }.into() };
        assert_eq!(Quant::try_from(fields), Err(QuantError::Work { hash, difficulty: 200 }));
    }

    #[test]
    fn a_quant_follows_by_index_hash_size_and_time() {
        let first = Header { index: Height::FIRST, previous_hash: Hash::ZERO, size: Size::new(1), ..header(0) }
            .mine(0..1)
            .unwrap();
        assert_eq!(first.check_follows(None), Ok(()));
        assert!(header(0).mine(0..1).unwrap().check_follows(None).is_err());
        let next = Header { index: Height::new(1), previous_hash: first.hash(), size: Size::new(1), ..header(0) };
        let follows = |header: Header| header.mine(0..1).unwrap().check_follows(Some(&first));
        assert_eq!(follows(next.clone()), Ok(()), "an empty quant at the same moment");
        let earlier = Timestamp::from_micros(1_795_348_147_123_455).unwrap();
        for (header, field) in [
            (Header { index: Height::new(2), ..next.clone() }, "index"),
            (Header { index: Height::FIRST, ..next.clone() }, "index"),
            (Header { previous_hash: Hash::ZERO, ..next.clone() }, "previous_hash"),
            (Header { size: Size::ZERO, ..next.clone() }, "size"),
            (Header { timestamp: earlier, ..next.clone() }, "timestamp"),
        ] {
            let Err(QuantError::Link(detail)) = follows(header) else { panic!("{field} was not checked") };
            assert!(detail.starts_with(&format!("\"{field}\"")), "{detail}");
        }
    }

    proptest! {
        #[test]
        fn each_changed_byte_is_found(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let served = serde_json::to_vec(&header(2).mine(0..PROOFS).unwrap()).unwrap();
            let mut bytes = served.clone();
            bytes[at.index(served.len())] ^= 1 << bit;
            let accepted = gate::parse(&bytes).is_ok_and(|value: Value| verify::quant(value).is_ok());
            prop_assert!(!accepted, "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
