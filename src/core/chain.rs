//! A chain as a state machine: bang, inject, cut, seal.
//!
//! It decides and does nothing else: what to store is the caller's part, and so is all that is not deterministic (time,
//! salt, proof of work), which comes in with the arguments. The same steps give the same bytes on every node.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    count::{Height, Index, Size},
    hash::Hash,
    json,
    merkle::{Edge, Tile},
    quant::{Header, Quant, QuantError},
    rules::{Fault, Rules},
    terms::Terms,
    transaction::{Kind, Submission, Timestamp, Transaction},
};
use crate::limits;

/// Where a chain stands: all that is needed to go on from there.
#[derive(Clone)]
pub struct Head {
    /// The newest quant.
    pub newest: Arc<Quant>,
    /// The growing edge of the Merkle tree, over pooled transactions too.
    pub edge: Arc<Edge>,
    /// Bytes of all transactions as they are stored.
    pub bytes: u64,
    /// When the newest transaction was accepted: the next one is not earlier.
    pub accepted: Timestamp,
    /// Whether the newest quant came after the newest transaction, and is not the chain's first own one.
    pub has_leaped: bool,
}

impl Head {
    /// Transactions of the chain, pooled ones included, which is the index that the next one gets.
    pub fn size(&self) -> Size {
        Size::new(self.edge.size())
    }

    /// Transactions that no quant covers yet.
    pub fn pooled(&self) -> u64 {
        self.size().get() - self.newest.size().get()
    }

    /// What names this state of the chain and no other: each transaction and each leap changes it.
    pub fn tag(&self) -> Tag {
        Tag { size: self.size(), quant: self.has_leaped.then(|| self.newest.index()) }
    }

    /// The newest time in the chain.
    pub fn time(&self) -> Timestamp {
        self.accepted.max(self.newest.header().timestamp)
    }

    /// The header of the quant that seals all that is pooled now. It costs the same whatever the pool holds.
    pub fn cut(&self, difficulty: u8, now: Timestamp) -> Header {
        Header {
            index: self.newest.index().next(),
            timestamp: now.max(self.newest.header().timestamp),
            difficulty,
            previous_hash: self.newest.hash(),
            root: self.edge.root(),
            size: self.size(),
        }
    }
}

/// The name of a state of a chain: how many transactions it has, which is the index that the next one gets, and where a leap was
/// the newest change, the quant that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    size: Size,
    quant: Option<Height>,
}

impl Tag {
    /// Of a chain of this size, to which a transaction came last.
    pub fn of_size(size: Size) -> Tag {
        Tag { size, quant: None }
    }

    /// Transactions of the chain.
    pub fn size(self) -> Size {
        self.size
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.size)?;
        self.quant.map_or(Ok(()), |quant| write!(f, ".{quant}"))
    }
}

impl FromStr for Tag {
    type Err = String;

    /// Reads the one form that is written.
    fn from_str(text: &str) -> Result<Tag, String> {
        let read = || {
            let (size, quant) = text.split_once('.').map_or((text, None), |(size, quant)| (size, Some(quant)));
            let tag = Tag { size: size.parse().ok()?, quant: quant.map(str::parse).transpose().ok()? };
            (tag.to_string() == text).then_some(tag)
        };
        read().ok_or_else(|| format!("{text:?} names no state of a chain: \"5\" does, or \"5.2\" after a leap"))
    }
}

/// The states in which a guarded write may be made, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected(Vec<Tag>);

impl Expected {
    /// Any of these, if there are any.
    pub fn any_of(tags: Vec<Tag>) -> Option<Expected> {
        (!tags.is_empty()).then_some(Expected(tags))
    }

    /// The states.
    pub fn tags(&self) -> impl Iterator<Item = Tag> {
        self.0.iter().copied()
    }

    /// Whether a state is one of them.
    pub fn allows(&self, tag: Tag) -> bool {
        self.0.contains(&tag)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, tag) in self.0.iter().enumerate() {
            write!(f, "{}\"{tag}\"", if at == 0 { "" } else { " or " })?;
        }
        Ok(())
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
        index: previous.map_or(Height::FIRST, |quant| quant.index().next()),
        timestamp: previous.map_or(now, |quant| now.max(quant.header().timestamp)),
        difficulty: rules.difficulty(),
        previous_hash: previous.map_or(Hash::ZERO, Quant::hash),
        root: edge.root(),
        size: Size::new(edge.size()),
    }
}

/// What an erasure records: the canonical JSON of `{"index", "reason"}`. On a chain with writers, one of them signs it, with its
/// kind.
pub fn erasure_data(index: Index, reason: &str) -> Vec<u8> {
    json::canonical(&serde_json::json!({ "index": index, "reason": reason }))
}

/// One chain.
#[derive(Clone)]
pub struct Chain {
    /// The hash of its first own quant.
    pub id: Hash,
    /// Its rules, and what was decided since its bang.
    pub terms: Terms,
    /// Where it stands.
    pub head: Head,
}

impl Chain {
    /// Whether a quant seals exactly this bang behind this parent. Arguments as for [`bang_header`].
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_bang(
        rules: &Rules,
        bang: &Transaction,
        parent: Option<(&Quant, Edge)>,
        quant: &Quant,
    ) -> Result<(), QuantError> {
        let (previous, mut edge) = parent.map_or((None, Edge::new()), |(quant, edge)| (Some(quant), edge));
        quant.check_follows(previous)?;
        edge.push(bang.hash(), |_| ());
        let Header { root, size, difficulty, .. } = quant.header();
        if *root != edge.root() || size.get() != edge.size() || *difficulty != rules.difficulty() {
            return Err(QuantError::Link("the first quant of a chain seals its bang and nothing else".into()));
        }
        Ok(())
    }

    /// Makes a chain of its mined first quant, which was [checked](Chain::check_bang). `edge` is that of the parent's tree at the
    /// quant that a fork goes on from; `bytes` are those of the parent's transactions that it shares, and of its bang.
    pub fn bang(
        rules: Arc<Rules>,
        bang: &Transaction,
        mut edge: Edge,
        quant: Quant,
        bytes: u64,
        tiles: &mut impl FnMut(Tile),
    ) -> Chain {
        let terms = Terms::of_bang(rules, Size::new(edge.size()).next_index());
        edge.push(bang.hash(), tiles);
        let id = quant.hash();
        let accepted = bang.timestamp();
        let head = Head { newest: Arc::new(quant), edge: Arc::new(edge), bytes, accepted, has_leaped: false };
        Chain { id, terms, head }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        self.terms.rules()
    }

    /// Accepts a transaction of so many stored bytes, and gives its index. The rules were checked before, and it is not earlier
    /// than [the newest one](Head::accepted).
    pub fn inject(&mut self, transaction: &Transaction, bytes: u64, tiles: &mut impl FnMut(Tile)) -> Index {
        self.append(transaction.hash(), transaction.timestamp(), bytes, tiles)
    }

    /// The same of a transaction with this leaf hash, which was accepted at this time.
    pub fn append(&mut self, leaf: Hash, accepted: Timestamp, bytes: u64, tiles: &mut impl FnMut(Tile)) -> Index {
        let index = self.head.size().next_index();
        Arc::make_mut(&mut self.head.edge).push(leaf, tiles);
        self.head.bytes += bytes;
        self.head.accepted = accepted;
        self.head.has_leaped = false;
        index
    }

    /// Whether a mined quant may be put behind the newest. Its root is taken as it is: it was [cut](Head::cut) from a head of this
    /// chain, which may have grown since.
    ///
    /// # Errors
    /// It does not follow the newest quant, as when another leap was faster.
    pub fn check_seal(&self, quant: &Quant) -> Result<(), QuantError> {
        quant.check_follows(Some(&self.head.newest))?;
        if quant.size() > self.head.size() || quant.header().difficulty != self.rules().difficulty() {
            return Err(QuantError::Link("the quant seals what the chain does not have".into()));
        }
        if self.terms.has_ended(self.head.newest.size()) {
            return Err(QuantError::Link("the chain is frozen, and its last quant is there".into()));
        }
        Ok(())
    }

    /// Puts a quant that was [checked](Chain::check_seal) behind the newest.
    pub fn seal(&mut self, quant: Quant) {
        self.head.newest = Arc::new(quant);
        self.head.has_leaped = true;
    }
}

/// When a chain leaps by itself. It is no rule: it may change, and no stranger needs it to check the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeapPolicy {
    /// A leap this many milliseconds after the first transaction came into the empty pool, at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 86400000)]
    pub every_ms: Option<u64>,
    /// A leap as soon as so many transactions are pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub transactions: Option<u64>,
}

impl LeapPolicy {
    /// Checks its bounds.
    ///
    /// # Errors
    /// What is out of bounds, with pointers from the object in which `leap` stands.
    pub fn check(&self) -> Result<(), Vec<Fault>> {
        let (least, most) = (limits::LEAP_EVERY_MIN.as_millis() as u64, limits::LEAP_EVERY_MAX.as_millis() as u64);
        let mut faults = Vec::new();
        if self.every_ms.is_some_and(|every| !(least..=most).contains(&every)) {
            let detail = format!("must be {least} to {most} milliseconds");
            faults.push(Fault { pointer: "/leap/every_ms".into(), detail });
        }
        if self.transactions == Some(0) {
            faults.push(Fault { pointer: "/leap/transactions".into(), detail: "must be at least 1".into() });
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::rules::ForkOf;

    fn time(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    fn mined(header: Header) -> Quant {
        header.mine(0..u64::MAX).unwrap()
    }

    fn transaction(data: &str) -> Transaction {
        let data = json::canonical(&json!(data));
        Transaction::new(Submission { data, id: None, signed: None }, None, time(5), [3; 16])
    }

    fn rules(name: &str) -> Rules {
        Rules::from_value(&json!({"name": name, "difficulty": 2})).ok().unwrap()
    }

    fn new_chain() -> Chain {
        let rules = rules("a");
        let bang = bang_transaction(&rules, time(10), [0; 16]);
        let quant = mined(bang_header(&rules, &bang, None, time(10)));
        Chain::bang(Arc::new(rules), &bang, Edge::new(), quant, 100, &mut |_| ())
    }

    #[test]
    fn a_new_chain_has_its_bang_and_nothing_pooled() {
        let chain = new_chain();
        assert_eq!(chain.id, chain.head.newest.hash());
        assert_eq!((chain.head.size().get(), chain.head.pooled(), chain.head.bytes), (1, 0, 100));
        let header = chain.head.newest.header();
        assert_eq!((header.index.get(), header.size.get(), header.previous_hash), (0, 1, Hash::ZERO));
    }

    /// Mining takes a while: what comes in meanwhile stays pooled, and only the first of two leaps counts.
    #[test]
    fn a_quant_seals_what_was_pooled_when_it_was_cut() {
        let mut chain = new_chain();
        for number in 1..=3 {
            assert_eq!(chain.inject(&transaction("x"), 10, &mut |_| ()).get(), number);
        }
        let slower = mined(chain.head.cut(2, time(30)));
        let faster = mined(chain.head.cut(2, time(20)));
        chain.inject(&transaction("y"), 10, &mut |_| ());
        let root = chain.head.edge.root();
        chain.check_seal(&faster).unwrap();
        chain.seal(faster.clone());
        assert_eq!((chain.head.size().get(), chain.head.pooled(), chain.head.bytes), (5, 1, 140));
        assert!(faster.header().root != root && chain.head.edge.root() == root);
        assert!(matches!(chain.check_seal(&slower), Err(QuantError::Link(_))));
        assert_eq!(*chain.head.newest, faster);
    }

    /// Symptom: two guarded leaps with one tag both made a quant. Cause: the tag was the size, which a leap does not change. Cure:
    /// after a leap the tag has the quant's index too.
    #[test]
    fn each_transaction_and_each_leap_gives_the_chain_another_tag() {
        let mut chain = new_chain();
        let mut tags = vec![chain.head.tag()];
        let slow = chain.head.cut(2, time(11));
        chain.inject(&transaction("x"), 10, &mut |_| ());
        tags.push(chain.head.tag());
        // It leaves something pooled.
        chain.seal(mined(slow));
        tags.push(chain.head.tag());
        for _ in 0..2 {
            chain.seal(mined(chain.head.cut(2, time(12))));
            tags.push(chain.head.tag());
        }
        chain.inject(&transaction("y"), 10, &mut |_| ());
        tags.push(chain.head.tag());
        let texts: Vec<String> = tags.iter().map(Tag::to_string).collect();
        assert_eq!(texts, ["1", "2", "2.1", "2.2", "2.3", "3"]);
        for (tag, text) in tags.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*tag));
            let expected = Expected::any_of(vec![Tag::of_size(Size::new(9)), *tag]).unwrap();
            assert_eq!(tags.iter().filter(|tag| expected.allows(**tag)).count(), 1);
            assert_eq!(expected.to_string(), format!("\"9\" or \"{text}\""));
        }
        for text in ["", "01", "+1", "1.", ".1", "1.01", "1.1.1", "1 ", "-1", "one", "18446744073709551616"] {
            assert!(text.parse::<Tag>().is_err(), "{text}");
        }
        assert_eq!(Expected::any_of(Vec::new()), None);
    }

    #[test]
    fn time_in_quants_never_goes_back() {
        let mut chain = new_chain();
        let header = chain.head.cut(2, time(9));
        assert_eq!((header.timestamp, header.size.get()), (time(10), 1), "the clock was set back");
        chain.seal(mined(header));
        assert_eq!(chain.head.cut(2, time(11)).timestamp, time(11));
    }

    #[test]
    fn a_chain_seals_only_what_it_has() {
        let mut chain = new_chain();
        chain.inject(&transaction("x"), 10, &mut |_| ());
        let header = chain.head.cut(2, time(20));
        for wrong in [
            Header { size: Size::new(3), ..header.clone() },
            Header { difficulty: 1, ..header.clone() },
            Header { difficulty: 3, ..header.clone() },
            Header { index: Height::new(2), ..header.clone() },
            Header { previous_hash: Hash::ZERO, ..header.clone() },
        ] {
            assert!(chain.check_seal(&mined(wrong)).is_err());
        }
        chain.seal(mined(header));
    }

    #[test]
    fn the_first_quant_seals_exactly_the_bang() {
        let rules = rules("a");
        let bang = bang_transaction(&rules, time(10), [0; 16]);
        let header = bang_header(&rules, &bang, None, time(10));
        for wrong in [
            Header { size: Size::new(2), ..header.clone() },
            Header { root: Hash::ZERO, ..header.clone() },
            Header { difficulty: 1, ..header.clone() },
            Header { index: Height::new(1), ..header.clone() },
            Header { previous_hash: Hash::from_bytes([1; 32]), ..header },
        ] {
            let made = Chain::check_bang(&rules, &bang, None, &mined(wrong));
            assert!(matches!(made, Err(QuantError::Link(_))));
        }
    }

    /// The fork goes on from an older quant of a chain that has grown since.
    #[test]
    fn a_fork_goes_on_from_its_parents_tree() {
        let mut parent = new_chain();
        parent.inject(&transaction("x"), 10, &mut |_| ());
        parent.seal(mined(parent.head.cut(2, time(50))));
        let (at, edge) = (parent.head.newest.clone(), (*parent.head.edge).clone());
        parent.inject(&transaction("y"), 10, &mut |_| ());

        let of = ForkOf { chain: parent.id, index: at.index(), hash: at.hash() };
        let rules = parent.rules().fork("b".parse().unwrap(), of);
        let bang = bang_transaction(&rules, time(40), [1; 16]);
        let header = bang_header(&rules, &bang, Some((&at, edge.clone())), time(40));
        assert_eq!((header.index.get(), header.size.get(), header.timestamp), (2, 3, time(50)));
        let quant = mined(header);
        let orphan = Chain::check_bang(&rules, &bang, None, &quant);
        assert!(orphan.is_err(), "without its parent it follows nothing");
        Chain::check_bang(&rules, &bang, Some((&at, edge.clone())), &quant).unwrap();
        let fork = Chain::bang(Arc::new(rules), &bang, edge, quant, 120, &mut |_| ());
        assert_eq!((fork.head.size().get(), fork.head.pooled()), (3, 0));
        assert!(fork.id != parent.id && fork.head.edge.root() != parent.head.edge.root());
    }
}
