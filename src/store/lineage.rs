//! Chains as they are stored: their numbers, and who wrote which part of which.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::{chain::LeapPolicy, hash::Hash};

/// A chain's number in the store, given in the order of making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainNumber(pub u64);

impl ChainNumber {
    /// That of the default chain as a new node makes it.
    pub const FIRST: ChainNumber = ChainNumber(0);
}

/// The quant of another chain that a fork goes on from, in the store's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The parent.
    pub number: ChainNumber,
    /// The index of its quant.
    pub quant: u64,
    /// Its size at that quant.
    pub size: u64,
}

/// What is stored of a chain beside its transactions and quants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChainRecord {
    /// Its name, which is its key.
    pub name: String,
    /// Its number.
    pub number: ChainNumber,
    /// The hash of its first own quant.
    pub id: Hash,
    /// What it was forked from.
    pub parent: Option<Parent>,
    /// When it leaps by itself.
    pub leap: LeapPolicy,
    /// Transactions of its own that were erased.
    #[serde(default)]
    pub erasures: u64,
    /// Where its bang stands, if not at the start of what it wrote itself: an imported fork holds its ancestors' part too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bang: Option<BangPlace>,
}

/// That this node's key has signed a quant of a chain which the chain here does not have: the data folder is an older copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The index of the quant.
    pub quant: u64,
    /// Its hash.
    pub hash: Hash,
    /// The transactions that the chain had with it.
    pub size: u64,
    /// Whether the operator has accepted that it is lost: then the chain takes writes all the same.
    pub accepted: bool,
}

impl std::fmt::Display for Rollback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rollback { quant, hash, size, .. } = self;
        write!(f, "this node's key has signed quant {quant} of it, {hash}, with {size} transactions, which is not here")
    }
}

/// Where the bang of a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BangPlace {
    /// The index of the transaction.
    pub transaction: u64,
    /// The index of the quant that seals it.
    pub quant: u64,
}

/// Who wrote which part of a chain: itself, its parent, and so on up.
#[derive(Debug)]
pub struct Lineage {
    number: ChainNumber,
    parent: Option<(Parent, Arc<Lineage>)>,
    bang: Option<BangPlace>,
}

impl Lineage {
    /// Of a chain with this number and, if it is a fork, its parent's lineage.
    pub fn new(number: ChainNumber, parent: Option<(Parent, Arc<Lineage>)>) -> Lineage {
        Lineage { number, parent, bang: None }
    }

    /// Of a stored chain and, if it is a fork, its parent's lineage.
    pub fn of(record: &ChainRecord, parent: Option<(Parent, Arc<Lineage>)>) -> Lineage {
        Lineage { bang: record.bang, ..Lineage::new(record.number, parent) }
    }

    /// Where its bang stands, if that is not the first that it wrote itself.
    pub fn bang(&self) -> Option<BangPlace> {
        self.bang
    }

    /// Where its bang stands.
    pub fn bang_place(&self) -> BangPlace {
        self.bang.unwrap_or(BangPlace { transaction: self.own_from(), quant: self.own_quants_from() })
    }

    /// The chain's number.
    pub fn number(&self) -> ChainNumber {
        self.number
    }

    /// What the chain was forked from.
    pub fn parent(&self) -> Option<Parent> {
        self.parent.as_ref().map(|(parent, _)| *parent)
    }

    /// The parent's own lineage.
    pub fn up(&self) -> Option<(Parent, &Lineage)> {
        self.parent.as_ref().map(|(parent, lineage)| (*parent, &**lineage))
    }

    /// The first quant that the chain wrote itself.
    pub fn own_quants_from(&self) -> u64 {
        self.parent().map_or(0, |parent| parent.quant + 1)
    }

    /// The first transaction that the chain wrote itself.
    pub fn own_from(&self) -> u64 {
        self.parent().map_or(0, |parent| parent.size)
    }

    /// From itself upwards.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lineage> {
        std::iter::successors(Some(self), |lineage| lineage.parent.as_ref().map(|(_, parent)| &**parent))
    }

    /// The chain that wrote a transaction.
    pub(super) fn of_transaction(&self, index: u64) -> ChainNumber {
        self.writer(|parent| index >= parent.size)
    }

    pub(super) fn of_quant(&self, index: u64) -> ChainNumber {
        self.writer(|parent| index > parent.quant)
    }

    /// A complete tile that reaches over the place of the fork was written by the fork.
    pub(super) fn of_tile(&self, level: u8, number: u64) -> ChainNumber {
        let leaves = 1u64.checked_shl(8 * (u32::from(level) + 1)).unwrap_or(u64::MAX);
        let end = (number + 1).saturating_mul(leaves);
        self.writer(|parent| end > parent.size)
    }

    fn writer(&self, is_own: impl Fn(&Parent) -> bool) -> ChainNumber {
        let own = self.iter().find(|lineage| lineage.parent.as_ref().is_none_or(|(parent, _)| is_own(parent)));
        own.expect("the first of a lineage has no parent").number
    }

    /// The end of the part of `0..` that the writer of transaction `index` wrote for this chain.
    pub(super) fn end_of_part(&self, index: u64) -> u64 {
        let mut end = u64::MAX;
        for lineage in self.iter() {
            match &lineage.parent {
                Some((parent, _)) if index < parent.size => end = parent.size,
                _ => break,
            }
        }
        end
    }
}
