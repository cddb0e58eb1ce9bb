//! A chain as a state machine: bang, inject, cut, seal.
//!
//! It decides and does nothing else: what to store is the caller's part, and so is all that is not deterministic (time,
//! salt, proof of work), which comes in with the arguments. The same steps give the same bytes on every node.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    hash::Hash,
    json,
    merkle::{Edge, Tile},
    quant::{Header, Quant, QuantError},
    rules::Rules,
    transaction::{Kind, Submission, Timestamp, Transaction},
};

/// Where a chain stands: all that is needed to go on from there.
#[derive(Clone)]
pub struct Head {
    /// The newest quant.
    pub newest: Arc<Quant>,
    /// The growing edge of the Merkle tree, over pooled transactions too.
    pub edge: Arc<Edge>,
    /// Bytes of all transactions as they are stored.
    pub bytes: u64,
}

impl Head {
    /// Transactions of the chain, pooled ones included, which is the index that the next one gets.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Transactions that no quant covers yet.
    pub fn pooled(&self) -> u64 {
        self.size() - self.newest.size()
    }

    /// The header of the quant that seals all that is pooled now. It costs the same whatever the pool holds.
    pub fn cut(&self, difficulty: u8, now: Timestamp) -> Header {
        Header {
            index: self.newest.index() + 1,
            timestamp: now.max(self.newest.header().timestamp),
            difficulty,
            previous_hash: self.newest.hash(),
            root: self.edge.root(),
            size: self.size(),
        }
    }
}

/// The bang of a chain: the transaction that records its rules.
pub fn bang_transaction(rules: &Rules, now: Timestamp, salt: [u8; 16]) -> Transaction {
    let data = json::canonical(&rules.to_value());
    Transaction::new(Submission { data, id: None, signed: None }, Some(Kind::Bang), now, salt)
}

/// The header of a chain's first own quant, which seals its bang and nothing else. `parent` is the quant that a fork goes on
/// from, with the tree's edge at that quant.
pub fn bang_header(rules: &Rules, bang: &Transaction, parent: Option<(&Quant, Edge)>, now: Timestamp) -> Header {
    let (previous, mut edge) = match parent {
        Some((quant, edge)) => (Some(quant), edge),
        None => (None, Edge::new()),
    };
    edge.push(bang.hash(), &mut |_| ());
    Header {
        index: previous.map_or(0, |quant| quant.index() + 1),
        timestamp: previous.map_or(now, |quant| now.max(quant.header().timestamp)),
        difficulty: rules.difficulty(),
        previous_hash: previous.map_or(Hash::ZERO, Quant::hash),
        root: edge.root(),
        size: edge.size(),
    }
}

/// One chain.
#[derive(Clone)]
pub struct Chain {
    /// The hash of its first own quant.
    pub id: Hash,
    /// Its rules.
    pub rules: Arc<Rules>,
    /// Where it stands.
    pub head: Head,
}

impl Chain {
    /// Makes a chain of its mined first quant. Arguments as for [`bang_header`]; `bytes` are those of the parent's
    /// transactions that it shares, and of its bang.
    ///
    /// # Errors
    /// The quant does not seal exactly this bang behind this parent.
    pub fn bang(
        rules: Arc<Rules>,
        bang: &Transaction,
        parent: Option<(&Quant, Edge)>,
        quant: Quant,
        bytes: u64,
        tiles: &mut impl FnMut(Tile),
    ) -> Result<Chain, QuantError> {
        let (previous, mut edge) = match parent {
            Some((quant, edge)) => (Some(quant), edge),
            None => (None, Edge::new()),
        };
        quant.check_follows(previous)?;
        edge.push(bang.hash(), tiles);
        let Header { root, size, difficulty, .. } = quant.header();
        if *root != edge.root() || *size != edge.size() || *difficulty != rules.difficulty() {
            return Err(QuantError::Link("the first quant of a chain seals its bang and nothing else".into()));
        }
        let head = Head { newest: Arc::new(quant.clone()), edge: Arc::new(edge), bytes };
        Ok(Chain { id: quant.hash(), rules, head })
    }

    /// Accepts a transaction of so many stored bytes, and gives its index. The rules were checked before.
    pub fn inject(&mut self, transaction: &Transaction, bytes: u64, tiles: &mut impl FnMut(Tile)) -> u64 {
        let index = self.head.size();
        Arc::make_mut(&mut self.head.edge).push(transaction.hash(), tiles);
        self.head.bytes += bytes;
        index
    }

    /// Puts a mined quant behind the newest. Its root is taken as it is: it was [cut](Head::cut) from a head of this chain,
    /// which may have grown since.
    ///
    /// # Errors
    /// It does not follow the newest quant, as when another leap was faster.
    pub fn seal(&mut self, quant: Quant) -> Result<(), QuantError> {
        quant.check_follows(Some(&self.head.newest))?;
        if quant.size() > self.head.size() || quant.header().difficulty != self.rules.difficulty() {
            return Err(QuantError::Link("the quant seals what the chain does not have".into()));
        }
        self.head.newest = Arc::new(quant);
        Ok(())
    }
}

/// When a chain leaps by itself. It is no rule: it may change, and no stranger needs it to check the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeapPolicy {
    /// A leap this many milliseconds after the first transaction came into the empty pool, at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// A leap as soon as so many transactions are pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<u64>,
}
