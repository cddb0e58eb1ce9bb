//! Chains as they are stored: their numbers, and who wrote which part of which.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::Group;
use crate::core::{
    chain::LeapPolicy,
    count::{Height, Index, Size},
    hash::Hash,
};

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
    /// Its quant.
    pub quant: Height,
    /// Its size at that quant.
    pub size: Size,
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
    /// The nodes that keep it.
    pub group: Group,
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
    /// The URL of the chain of others that it is a mirror of, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// What was decided about its keys and its end.
    #[serde(flatten)]
    pub decided: Decided,
}

/// Where the transactions stand by which a chain's keys were changed, and by which it was frozen: all that are in what is stored under its
/// number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Those of the kind `key`, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Index>,
    /// The one of the kind `freeze`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Index>,
}

impl ChainRecord {
    /// Of a chain that was just made.
    pub fn of_bang(
        name: String,
        number: ChainNumber,
        id: Hash,
        group: Group,
        parent: Option<Parent>,
        leap: LeapPolicy,
    ) -> ChainRecord {
        let decided = Decided::default();
        ChainRecord { name, number, id, group, parent, leap, erasures: 0, bang: None, mirror: None, decided }
    }
}

/// That a key of this node, its own or its cluster's, has signed a quant of a chain which the chain here does not have: the data
/// folder is an older copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// Which one.
    pub quant: Height,
    /// Its hash.
    pub hash: Hash,
    /// The transactions that the chain had with it.
    pub size: Size,
    /// Whether the operator has accepted that it is lost: then the chain takes writes all the same.
    pub accepted: bool,
}

impl std::fmt::Display for Rollback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rollback { quant, hash, size, .. } = self;
        write!(
            f,
            "a key of this node has signed quant {quant} of it, {hash}, with {size} transactions, which is not here"
        )
    }
}

/// Where the bang of a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BangPlace {
    /// The transaction.
    pub transaction: Index,
    /// The quant that seals it.
    pub quant: Height,
}

impl BangPlace {
    /// Of a chain that is no fork.
    pub const START: BangPlace = BangPlace { transaction: Size::ZERO.next_index(), quant: Height::FIRST };
}

/// Who wrote which part of a chain: the first of its ancestors, the next, and so on to itself.
#[derive(Debug)]
pub struct Lineage {
    number: ChainNumber,
    parent: Option<Parent>,
    bang: Option<BangPlace>,
    /// In the order of the chain. A look-up is a binary search, however often it was forked.
    parts: Vec<Part>,
}

/// What one chain wrote of another that goes on from it.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Who.
    writer: ChainNumber,
    /// The first transaction.
    transactions_from: Index,
    /// The first quant.
    quants_from: Height,
}

impl Lineage {
    /// Of a chain with this number and, if it is a fork, its parent's lineage.
    pub fn new(number: ChainNumber, parent: Option<(Parent, Arc<Lineage>)>) -> Lineage {
        let (mut parts, from) = match &parent {
            None => (
                Vec::new(),
                Part { writer: number, transactions_from: Size::ZERO.next_index(), quants_from: Height::FIRST },
            ),
            Some((parent, lineage)) => {
                let (size, quant) = (parent.size, parent.quant);
                let from = Part { writer: number, transactions_from: size.next_index(), quants_from: quant.next() };
                (lineage.parts.clone(), from)
            }
        };
        parts.push(from);
        Lineage { number, parent: parent.map(|(parent, _)| parent), bang: None, parts }
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
        self.parent
    }

    /// How many forks it took to come here.
    pub fn depth(&self) -> usize {
        self.parts.len() - 1
    }

    /// The first quant that the chain wrote itself.
    pub fn own_quants_from(&self) -> Height {
        self.parent.map_or(Height::FIRST, |parent| parent.quant.next())
    }

    /// The transactions that it shares with its parent.
    pub fn shared(&self) -> Size {
        self.parent.map_or(Size::ZERO, |parent| parent.size)
    }

    /// The first transaction that the chain wrote itself.
    pub fn own_from(&self) -> Index {
        self.shared().next_index()
    }

    /// All who wrote parts of it, from itself upwards.
    pub(super) fn writers(&self) -> impl Iterator<Item = ChainNumber> {
        self.parts.iter().rev().map(|part| part.writer)
    }

    /// The same without the chain itself.
    pub fn ancestors(&self) -> impl Iterator<Item = ChainNumber> {
        self.writers().skip(1)
    }

    /// The chain that wrote a transaction.
    pub fn of_transaction(&self, index: Index) -> ChainNumber {
        self.last_part(|part| part.transactions_from <= index).writer
    }

    pub(super) fn of_quant(&self, index: Height) -> ChainNumber {
        self.last_part(|part| part.quants_from <= index).writer
    }

    /// A complete tile that reaches over the place of the fork was written by the fork.
    pub(super) fn of_tile(&self, level: u8, number: u64) -> ChainNumber {
        let leaves = 1u64.checked_shl(8 * (u32::from(level) + 1)).unwrap_or(u64::MAX);
        let end = (number + 1).saturating_mul(leaves);
        self.last_part(|part| part.transactions_from.get() < end).writer
    }

    /// The last part that begins early enough. The first begins at 0.
    fn last_part(&self, begins: impl Fn(&Part) -> bool) -> Part {
        self.parts[self.parts.partition_point(begins) - 1]
    }

    /// The end of the part of `0..` that the writer of transaction `index` wrote for this chain.
    pub(super) fn end_of_part(&self, index: Index) -> Size {
        let next = self.parts.partition_point(|part| part.transactions_from <= index);
        Size::new(self.parts.get(next).map_or(u64::MAX, |part| part.transactions_from.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition: from the chain upwards, the first that reaches so far.
    #[test]
    fn each_part_has_its_writer() {
        let fork = |number, quant, size, of: &Arc<Lineage>| {
            let parent = Parent { number: of.number(), quant: Height::new(quant), size: Size::new(size) };
            Arc::new(Lineage::new(ChainNumber(number), Some((parent, of.clone()))))
        };
        let root = Arc::new(Lineage::new(ChainNumber(0), None));
        let child = fork(1, 3, 300, &root);
        let last = fork(2, 4, 301, &child);
        let up = [(2, 301, 5), (1, 300, 4), (0, 0, 0)];
        let writer = |reaches: &dyn Fn(u64, u64) -> bool| {
            ChainNumber(up.iter().find(|(_, size, quant)| reaches(*size, *quant)).unwrap().0)
        };
        for index in [0, 1, 255, 256, 299, 300, 301, 302, 1_000, u64::MAX - 1] {
            assert_eq!(last.of_transaction(Index::new(index)), writer(&|size, _| size <= index), "{index}");
            assert_eq!(last.of_quant(Height::new(index)), writer(&|_, quant| quant <= index), "{index}");
        }
        for (level, number) in [(0, 0), (0, 1), (0, 2), (1, 0), (7, 0)] {
            let end = (number + 1) * 256u64.checked_pow(u32::from(level) + 1).unwrap_or(u64::MAX);
            assert_eq!(last.of_tile(level, number), writer(&|size, _| size < end), "{level} {number}");
        }
        assert_eq!(
            [0, 299, 300, 301].map(|index| last.end_of_part(Index::new(index)).get()),
            [300, 300, 301, u64::MAX]
        );
        assert_eq!((root.depth(), last.depth(), last.ancestors().count()), (0, 2, 2));
    }
}
