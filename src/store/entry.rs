//! Entries: what groups of nodes agree on, one after the other, as it stands in the log.
//!
//! A **group** keeps some chains on some nodes, and gives the changes of all of them one order. An **entry** is one step in that
//! order. It begins with a record of its own, its head, and its effects follow in the same batch of the log. Its plain bytes
//! are, numbers big-endian:
//!
//! | head of an entry | bytes |
//! | --- | --- |
//! | `G` | 1 |
//! | the group | 8 |
//! | term in which the entry was proposed | 8 |
//! | key of the node that led then | 32 |
//! | index of the entry, from 0 | 8 |
//! | kind: `b` nothing, `e` effects, `m` [`Membership`] as JSON, `c` JSON: a change of the cluster or, where the group has chains, their digest | 1 |
//! | number of records that follow | 4 |
//! | the JSON | |
//!
//! Beside entries, a group has
//!
//! | record | bytes |
//! | --- | --- |
//! | `V`, the group, a term, the key of a node, whether a majority has agreed: this node's [`Vote`] | 1, 8, 8, 32, 1 |
//! | `C`, the group, term, key and index of an entry: all up to it is agreed | 1, 8, 8, 32, 8 |
//! | `T`, the group, the index from which its entries do not count any more | 1, 8, 8 |
//!
//! A node that was never joined by another writes the same: it has voted for itself in term 1, and each batch of its log is
//! an entry of the group in which it is alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    effects::ErasedBefore,
    runs::{Erasure, parse_run},
};
use crate::{
    core::count::Index,
    log::{Batch, Payload, Record, Slot},
};

const HEAD: u8 = b'G';
const VOTE: u8 = b'V';
const COMMITTED: u8 = b'C';
const TRUNCATED: u8 = b'T';

/// A set of nodes that keeps some chains together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u64);

impl Group {
    /// The one that knows the nodes, the groups, and which chain is kept where.
    pub const META: Group = Group(0);

    /// The group in which a node is alone at first.
    pub fn of(node: NodeId) -> Group {
        let first = u64::from_be_bytes(*node.0.first_chunk().expect("a key has 32 bytes"));
        Group(first.max(1))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Group {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Group, Self::Err> {
        let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
        number.map(Group).ok_or("a group has 16 hexadecimal digits")
    }
}

/// A node, by its public key.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

impl FromStr for NodeId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<NodeId, Self::Err> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).map_err(|_| "a node's id has 64 hexadecimal digits")?;
        Ok(NodeId(key))
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Group, NodeId);

/// The name of an entry in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    /// In which it was proposed.
    pub term: u64,
    /// Who led then.
    pub leader: NodeId,
    /// Its place, from 0.
    pub index: u64,
}

/// Whom a node has voted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// In which term.
    pub term: u64,
    /// Whom.
    pub node: NodeId,
    /// Whether a majority has, too.
    pub committed: bool,
}

/// Who keeps a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The nodes of which a majority must agree; while they change, a majority of each of these sets.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All nodes, also those that only get a copy, with the host and port at which each is reached.
    pub nodes: BTreeMap<NodeId, String>,
}

impl Membership {
    /// Of one node.
    pub fn alone(node: NodeId) -> Membership {
        let voters = vec![BTreeSet::from([node])];
        Membership { voters, nodes: BTreeMap::from([(node, String::new())]) }
    }

    /// Whether this node agrees for all.
    pub fn is_alone(&self, node: NodeId) -> bool {
        !self.voters.is_empty() && self.voters.iter().all(|voters| voters.len() == 1 && voters.contains(&node))
    }
}

/// A record of the log that is made before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// What is never erased.
    pub plain: Vec<u8>,
    /// The payloads, one after the other; zeros in the place of an erased one.
    pub payloads: Vec<u8>,
    /// Of each payload its length and, if it was erased, what is left.
    pub lengths: Vec<(u32, Option<Box<Erasure>>)>,
}

impl LogRecord {
    /// Without payloads.
    pub fn plain(plain: Vec<u8>) -> LogRecord {
        LogRecord { plain, payloads: Vec::new(), lengths: Vec::new() }
    }

    /// As it was read. `erasure` tells what is left of an erased payload by its place.
    ///
    /// # Errors
    /// A payload is damaged.
    pub(super) fn read(
        record: &Record,
        erasure: impl Fn(usize) -> Result<Erasure, StoreError>,
    ) -> Result<LogRecord, StoreError> {
        let mut payloads = Vec::with_capacity(record.payload_lengths().sum());
        let mut lengths = Vec::with_capacity(record.payload_lengths().count());
        for (at, (payload, length)) in record.payloads().zip(record.payload_lengths()).enumerate() {
            let erased = match payload {
                Payload::Whole(bytes) => {
                    payloads.extend_from_slice(bytes);
                    None
                }
                Payload::Erased => {
                    payloads.resize(payloads.len() + length, 0);
                    Some(Box::new(erasure(at)?))
                }
                Payload::Damaged => {
                    return Err(StoreError::Damaged("a transaction in the log is not as it was written".into()));
                }
            };
            lengths.push((length as u32, erased));
        }
        Ok(LogRecord { plain: record.plain().to_vec(), payloads, lengths })
    }

    /// Adds it to a batch, with what is left of erased payloads in records of their own.
    pub(super) fn log(&self, batch: &mut Batch) -> (Slot, Slot) {
        let payloads = self.lengths.iter().scan(self.payloads.as_slice(), |rest, (length, erased)| {
            let (payload, after) = rest.split_at(*length as usize);
            *rest = after;
            Some((payload, erased.is_some()))
        });
        let slot = batch.push_with_erased(&self.plain, payloads);
        let mut last = slot;
        for note in self.erased_before() {
            last = batch.push(&note.encode(), []);
        }
        (slot, last)
    }

    /// What is left of its erased payloads.
    pub(super) fn erased_before(&self) -> impl Iterator<Item = ErasedBefore> {
        let run =
            self.lengths.iter().any(|(_, erased)| erased.is_some()).then(|| parse_run(&self.plain).ok()).flatten();
        let notes = self.lengths.iter().enumerate().filter_map(move |(at, (_, erased))| {
            let run = run.as_ref()?;
            let index = Index::new(run.first.get() + at as u64);
            Some(ErasedBefore { chain: run.chain, index, erasure: **erased.as_ref()? })
        });
        notes.collect::<Vec<_>>().into_iter()
    }

    /// Bytes that it takes up in memory.
    pub fn bytes(&self) -> usize {
        self.plain.len() + self.payloads.len() + size_of::<(u32, Option<Box<Erasure>>)>() * self.lengths.len()
    }

    /// As it is sent to other nodes: erased payloads are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let number = |number: usize, out: &mut Vec<u8>| out.extend_from_slice(&(number as u32).to_be_bytes());
        number(self.plain.len(), out);
        number(self.lengths.len(), out);
        for (length, erased) in &self.lengths {
            number(*length as usize, out);
            out.push(erased.is_some().into());
            if let Some(erasure) = erased {
                out.extend_from_slice(&erasure.encode());
            }
        }
        out.extend_from_slice(&self.plain);
        let mut rest = self.payloads.as_slice();
        for (length, erased) in &self.lengths {
            let (payload, after) = rest.split_at(*length as usize);
            if erased.is_none() {
                out.extend_from_slice(payload);
            }
            rest = after;
        }
    }

    /// From the front of what was sent.
    pub fn decode(bytes: &mut &[u8]) -> Option<LogRecord> {
        fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
            let (taken, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(taken)
        }
        fn number(bytes: &mut &[u8]) -> Option<u32> {
            take(bytes, 4).and_then(|bytes| bytes.as_array()).map(|bytes| u32::from_be_bytes(*bytes))
        }
        let (plain, count) = (number(bytes)? as usize, number(bytes)? as usize);
        if count > bytes.len() / 5 {
            return None;
        }
        let mut lengths = Vec::with_capacity(count);
        let mut total = 0_usize;
        for _ in 0..count {
            let length = number(bytes)?;
            let erased = match take(bytes, 1)? {
                [0] => None,
                [1] => Some(Box::new(Erasure::decode(take(bytes, Erasure::BYTES)?)?)),
                _ => return None,
            };
            total += length as usize;
            lengths.push((length, erased));
        }
        // What is erased is not sent, but takes up its place; no batch is as long as this.
        if total > u32::MAX as usize / 4 {
            return None;
        }
        let plain = take(bytes, plain)?.to_vec();
        let mut payloads = Vec::with_capacity(total.min(bytes.len()));
        for (length, erased) in &lengths {
            let length = *length as usize;
            match erased {
                None => payloads.extend_from_slice(take(bytes, length)?),
                Some(_) => payloads.resize(payloads.len() + length, 0),
            }
        }
        Some(LogRecord { plain, payloads, lengths })
    }
}

/// What an entry says.
#[derive(Clone, Debug)]
pub enum Said {
    /// Nothing: it only shows that somebody leads.
    Blank,
    /// What became of some requests: records of [`Effect`](super::Effect)s.
    Effects(Arc<Vec<LogRecord>>),
    /// Who keeps the group from now on.
    Membership(Arc<Membership>),
    /// JSON: in the group of the cluster a change of what it knows, in others the digest of all chains as they stand before it.
    Cluster(Arc<Vec<u8>>),
}

impl Said {
    fn kind(&self) -> u8 {
        match self {
            Said::Blank => b'b',
            Said::Effects(_) => b'e',
            Said::Membership(_) => b'm',
            Said::Cluster(_) => b'c',
        }
    }

    /// Bytes that it takes up in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Said::Blank => 0,
            Said::Effects(records) => records.iter().map(LogRecord::bytes).sum(),
            Said::Membership(membership) => 96 * membership.nodes.len(),
            Said::Cluster(json) => json.len(),
        }
    }
}

/// One step in the order of a group.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// What it says.
    pub said: Said,
}

/// The head of an entry in the log.
#[derive(Clone, Debug)]
pub(super) struct EntryHead {
    pub(super) group: Group,
    pub(super) id: EntryId,
    kind: u8,
    /// Records that follow.
    pub(super) records: u32,
    json: Vec<u8>,
}

const HEAD_BYTES: usize = 1 + 8 + 8 + 32 + 8 + 1 + 4;

impl EntryHead {
    /// Of effects in so many records.
    pub(super) fn effects(group: Group, id: EntryId, records: u32) -> EntryHead {
        EntryHead { group, id, kind: b'e', records, json: Vec::new() }
    }

    pub(super) fn of(group: Group, entry: &Entry) -> EntryHead {
        let (records, json) = match &entry.said {
            Said::Blank => (0, Vec::new()),
            Said::Effects(records) => {
                let notes: usize = records.iter().map(|record| record.erased_before().count()).sum();
                ((records.len() + notes) as u32, Vec::new())
            }
            Said::Membership(membership) => (0, serde_json::to_vec(&**membership).expect("a membership is JSON")),
            Said::Cluster(json) => (0, json.to_vec()),
        };
        EntryHead { group, id: entry.id, kind: entry.said.kind(), records, json }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut plain = Vec::with_capacity(HEAD_BYTES + self.json.len());
        plain.push(HEAD);
        plain.extend_from_slice(&self.group.0.to_be_bytes());
        encode_id(self.id, &mut plain);
        plain.push(self.kind);
        plain.extend_from_slice(&self.records.to_be_bytes());
        plain.extend_from_slice(&self.json);
        plain
    }

    fn decode(plain: &[u8]) -> Option<EntryHead> {
        let (head, json) = plain.split_first_chunk::<HEAD_BYTES>()?;
        let group = Group(u64::from_be_bytes(*head[1..].first_chunk()?));
        let id = decode_id(&head[9..])?;
        let records = u32::from_be_bytes(*head[58..].first_chunk()?);
        let is_known = matches!((head[57], records), (b'e', _) | (b'b' | b'm' | b'c', 0));
        is_known.then(|| EntryHead { group, id, kind: head[57], records, json: json.to_vec() })
    }

    /// What the entry says, with the records that follow.
    ///
    /// # Errors
    /// It is none of this program's.
    pub(super) fn said(
        &self,
        records: impl FnOnce() -> Result<Vec<LogRecord>, StoreError>,
    ) -> Result<Said, StoreError> {
        Ok(match self.kind {
            b'e' => Said::Effects(Arc::new(records()?)),
            b'm' => {
                let membership = serde_json::from_slice(&self.json).map_err(|_| foreign())?;
                Said::Membership(Arc::new(membership))
            }
            b'c' => Said::Cluster(Arc::new(self.json.clone())),
            _ => Said::Blank,
        })
    }

    /// Who keeps the group from it on, if it says that.
    pub(super) fn membership(&self) -> Result<Option<Membership>, StoreError> {
        if self.kind != b'm' {
            return Ok(None);
        }
        serde_json::from_slice(&self.json).map(Some).map_err(|_| foreign())
    }

    /// Whether it changes the cluster.
    pub(super) fn cluster(&self) -> Option<&[u8]> {
        (self.kind == b'c').then_some(&self.json)
    }
}

fn foreign() -> StoreError {
    StoreError::Damaged("the log has a record that is none of this program's".into())
}

fn encode_id(id: EntryId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.term.to_be_bytes());
    out.extend_from_slice(&id.leader.0);
    out.extend_from_slice(&id.index.to_be_bytes());
}

fn decode_id(bytes: &[u8]) -> Option<EntryId> {
    let (term, rest) = bytes.split_first_chunk()?;
    let (leader, rest) = rest.split_first_chunk()?;
    let index = rest.first_chunk()?;
    let (term, index) = (u64::from_be_bytes(*term), u64::from_be_bytes(*index));
    Some(EntryId { term, leader: NodeId(*leader), index })
}

/// A record of a group in the log.
#[derive(Clone, Debug)]
pub(super) enum GroupRecord {
    /// An entry begins.
    Entry(EntryHead),
    Vote(Group, Vote),
    /// All up to it is agreed.
    Committed(Group, EntryId),
    /// Entries from this index on do not count any more.
    Truncated(Group, u64),
}

impl GroupRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let start = |mark: u8, group: &Group| [&[mark][..], &group.0.to_be_bytes()].concat();
        match self {
            GroupRecord::Entry(head) => head.encode(),
            GroupRecord::Vote(group, vote) => {
                let mut plain = start(VOTE, group);
                plain.extend_from_slice(&vote.term.to_be_bytes());
                plain.extend_from_slice(&vote.node.0);
                plain.push(vote.committed.into());
                plain
            }
            GroupRecord::Committed(group, id) => {
                let mut plain = start(COMMITTED, group);
                encode_id(*id, &mut plain);
                plain
            }
            GroupRecord::Truncated(group, from) => [start(TRUNCATED, group), from.to_be_bytes().to_vec()].concat(),
        }
    }

    /// The record of these plain bytes, if it is one of a group.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn decode(plain: &[u8]) -> Result<Option<GroupRecord>, StoreError> {
        let read = || {
            let (mark, rest) = plain.split_first()?;
            if *mark == HEAD {
                return EntryHead::decode(plain).map(GroupRecord::Entry);
            }
            let (group, rest) = rest.split_first_chunk()?;
            let group = Group(u64::from_be_bytes(*group));
            match *mark {
                VOTE => {
                    let (term, rest) = rest.split_first_chunk()?;
                    let (node, rest) = rest.split_first_chunk()?;
                    let committed = match rest {
                        [0] => false,
                        [1] => true,
                        _ => return None,
                    };
                    let term = u64::from_be_bytes(*term);
                    Some(GroupRecord::Vote(group, Vote { term, node: NodeId(*node), committed }))
                }
                COMMITTED if rest.len() == 48 => Some(GroupRecord::Committed(group, decode_id(rest)?)),
                TRUNCATED => Some(GroupRecord::Truncated(group, u64::from_be_bytes(*rest.as_array()?))),
                _ => None,
            }
        };
        match plain.first() {
            Some(&(HEAD | VOTE | COMMITTED | TRUNCATED)) => read().map(Some).ok_or_else(foreign),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
impl From<u64> for NodeId {
    fn from(number: u64) -> NodeId {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        NodeId(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        hash::Hash,
        transaction::{Erased, Timestamp},
    };

    const GROUP: Group = Group(0x1112_1314_1516_1718);
    const ID: EntryId = EntryId { term: 2, leader: NodeId([3; 32]), index: 4 };

    /// Frozen: every node that will ever read a log of this one relies on it.
    #[test]
    fn records_of_groups_have_one_encoding() {
        let (group, id) = ("1112131415161718", format!("0000000000000002{}0000000000000004", "03".repeat(32)));
        let membership = Membership::alone(NodeId([3; 32]));
        let json = format!(r#"{{"voters":[["{0}"]],"nodes":{{"{0}":""}}}}"#, "03".repeat(32));
        let entry = |said| GroupRecord::Entry(EntryHead::of(GROUP, &Entry { id: ID, said }));
        let run = LogRecord::plain(vec![1, 2]);
        let frozen = [
            (entry(Said::Blank), format!("47{group}{id}6200000000")),
            (entry(Said::Effects(vec![run.clone(), run].into())), format!("47{group}{id}6500000002")),
            (entry(Said::Membership(membership.into())), format!("47{group}{id}6d00000000{}", hex::encode(json))),
            (entry(Said::Cluster(b"{}".to_vec().into())), format!("47{group}{id}63000000007b7d")),
            (
                GroupRecord::Vote(GROUP, Vote { term: 2, node: NodeId([3; 32]), committed: true }),
                format!("56{group}0000000000000002{}01", "03".repeat(32)),
            ),
            (GroupRecord::Committed(GROUP, ID), format!("43{group}{id}")),
            (GroupRecord::Truncated(GROUP, 5), format!("54{group}0000000000000005")),
        ];
        for (record, bytes) in frozen {
            let plain = record.encode();
            assert_eq!(hex::encode(&plain), bytes);
            let read = GroupRecord::decode(&plain).unwrap().expect("it is of a group");
            assert_eq!(read.encode(), plain);
            for end in 1..plain.len() {
                // JSON may be cut where it is still a part of the record; it is read later.
                let is_cut = GroupRecord::decode(&plain[..end]).is_err();
                assert!(is_cut || end >= HEAD_BYTES && plain[0] == HEAD, "{end} of {bytes}");
            }
        }
        assert!(GroupRecord::decode(b"E").unwrap().is_none());
    }

    #[test]
    fn records_are_sent_without_what_was_erased() {
        let erased = Erased { timestamp: Timestamp::from_micros(5).unwrap(), by: Index::new(6) };
        let erasure = Erasure { erased, commitment: Hash::from_bytes([7; 32]) };
        let record = LogRecord {
            plain: b"plain".to_vec(),
            payloads: [&b"one"[..], &[0; 4], b"three"].concat(),
            lengths: vec![(3, None), (4, Some(erasure.into())), (5, None)],
        };
        let mut sent = Vec::new();
        record.encode(&mut sent);
        sent.extend_from_slice(b"next");
        let mut rest = sent.as_slice();
        assert_eq!(LogRecord::decode(&mut rest), Some(record.clone()));
        assert_eq!(rest, b"next");
        for end in 0..sent.len() - 4 {
            assert_eq!(LogRecord::decode(&mut &sent[..end]), None, "{end}");
        }
        // Lengths that nobody has are not believed.
        assert_eq!(LogRecord::decode(&mut &[0xff; 64][..]), None);
    }
}
