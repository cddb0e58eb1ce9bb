//! The one hash of the format, SHA-256, and the places where it is applied.
//!
//! This is the only file that names SHA-256. Each use has a prefix or a shape of its own (RFC 6962 section 2.1 for the
//! tree), so that no hash of one kind can stand for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A SHA-256 hash: 32 bytes, written as 64 lower-case hexadecimal digits.
///
/// It has no default: a hash that nobody computed does not exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a hash is 64 lower-case hexadecimal digits")]
pub struct NotAHash;

impl Hash {
    /// 32 zero bytes: the `previous_hash` of a chain's first quant, the hash of nothing that exists.
    pub const ZERO: Hash = Hash([0; 32]);

    /// Takes 32 bytes as a hash, as they were stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Hash(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// How many zero bits it starts with: 0 to 256.
    pub fn leading_zeros(&self) -> u32 {
        let zero_bytes = self.0.iter().take_while(|&&byte| byte == 0).count();
        let rest = self.0.get(zero_bytes).map_or(0, |byte| byte.leading_zeros());
        zero_bytes as u32 * 8 + rest
    }

    /// Its 64 hexadecimal digits.
    pub fn to_hex(&self) -> [u8; 64] {
        let mut digits = [0; 64];
        digits.copy_from_slice(hex_digits(&self.0).as_flattened());
        digits
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NotAHash);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAHash)?;
        Ok(Hash(bytes))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.to_hex()).expect("hexadecimal digits are ASCII"))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The lower-case hexadecimal digits of bytes. The compiler makes vector instructions of it, which take a fifth of the time that
/// a table takes: each transaction that is accepted or verified has some hundred digits.
pub(super) fn hex_digits<const N: usize>(bytes: &[u8; N]) -> [[u8; 2]; N] {
    let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
    bytes.map(|byte| [digit(byte >> 4), digit(byte & 15)])
}

/// `H(salt ‖ data)`: what a transaction's leaf says of its data.
pub fn commitment(salt: &[u8; 16], data: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update(salt).chain_update(data).finalize().into())
}

/// `H(0x00 ‖ leaf)`: the hash of a Merkle leaf (RFC 6962 section 2.1).
pub fn leaf(leaf: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0x00]).chain_update(leaf).finalize().into())
}

/// `H(0x01 ‖ left ‖ right)`: the hash of an inner Merkle node (RFC 6962 section 2.1).
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([0x01]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// `H("")`: the root of the empty tree (RFC 6962 section 2.1).
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// `H(origin)`: under which a witness serves what it has seen of a log (C2SP tlog-witness).
pub fn origin(origin: &str) -> Hash {
    Hash(Sha256::digest(origin).into())
}

/// `H(token)`: what a node has of a token that clients show. A token is 32 random bytes, so that a plain hash is enough.
pub fn token(token: &[u8]) -> Hash {
    Hash(Sha256::digest(token).into())
}

/// The first four bytes of `H(name ‖ 0x0A ‖ kind ‖ key)`, big-endian: the id of a key that signs notes (C2SP signed-note). The kind
/// is one byte, or 0xff and a longer name.
///
/// It is short, so it names a key and proves nothing.
pub fn key_id(name: &str, kind: &[u8], key: &[u8; 32]) -> u32 {
    let hash = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(kind).chain_update(key).finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// `H("qbc-cluster-key 1" ‖ secret)`: the secret Ed25519 key with which all nodes of a cluster sign checkpoints. All of them have the
/// cluster's secret, so that this key is neither carried nor stored.
pub fn cluster_key(secret: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update("qbc-cluster-key 1").chain_update(secret).finalize().into()
}

/// The second step of a quant's hash, `H(H(header) ‖ proof)`, ready to try many proofs.
///
/// Its 40 bytes fill one SHA-256 block, so a try costs one compression.
#[derive(Clone)]
pub struct Work {
    block: [u8; 64],
}

impl Work {
    /// Hashes the header once.
    pub fn on(header: &[u8]) -> Self {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&Sha256::digest(header));
        // FIPS 180-4 section 5.1.1: a one bit, zeros, and the message's length of 320 bits.
        block[40] = 0x80;
        block[56..].copy_from_slice(&320u64.to_be_bytes());
        Work { block }
    }

    /// The quant's hash with this proof.
    pub fn attempt(&mut self, proof: u64) -> Hash {
        const INITIAL: [u32; 8] =
            [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
        self.block[32..40].copy_from_slice(&proof.to_be_bytes());
        let mut state = INITIAL;
        sha2::block_api::compress256(&mut state, std::slice::from_ref(&self.block));
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        Hash(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_equals_the_whole_function() {
        let header = br#"{"difficulty":0}"#;
        for proof in [0u64, 1, 255, 256, (1 << 53) - 1] {
            let mut message = Sha256::digest(header).to_vec();
            message.extend(proof.to_be_bytes());
            assert_eq!(Work::on(header).attempt(proof), Hash(Sha256::digest(message).into()));
        }
    }

    #[test]
    fn leading_zeros_counts_bits() {
        let mut bytes = [0xff; 32];
        assert_eq!(Hash(bytes).leading_zeros(), 0);
        (bytes[0], bytes[1]) = (0, 0x1f);
        assert_eq!(Hash(bytes).leading_zeros(), 11);
        assert_eq!(Hash::ZERO.leading_zeros(), 256);
    }

    #[test]
    fn only_lower_case_hex_is_a_hash() {
        let text = "00ff".repeat(16);
        assert_eq!(text.parse::<Hash>().unwrap().to_string(), text);
        for bad in [text.to_uppercase(), text[1..].into(), "zz".repeat(32), String::new()] {
            assert_eq!(bad.parse::<Hash>(), Err(NotAHash));
        }
    }
}
