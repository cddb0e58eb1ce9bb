//! Transactions on their way to the node that leads their chain, and what became of them on the way back.
//!
//! A node that keeps a chain checks what clients send by the chain's rules, and gives it its time and salt, whether it leads or not. What is
//! sent on is the transactions as they would be served, and the states of the chain in which they may be accepted. Numbers are
//! big-endian.
//!
//! | call | bytes |
//! | --- | --- |
//! | id of the chain | 32 |
//! | whether each transaction is for itself | 1 |
//! | number of allowed states, and of each its tag with its length | 1, then 1 and so many |
//! | id of the chain that the states are of | 32 |
//! | of each transaction its length and text | 4 and so many |
//!
//! The answer is JSON where all are refused, with `{` in front; otherwise of each transaction a byte and `index` (8), `hash` (32) and
//! microseconds since 1970 (8) where the byte is 0, or 1 for what was accepted before; or 2, a length (4), and the reason as JSON.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    core::{
        chain::{Expected, Tag},
        count::Index,
        hash::Hash,
        transaction::{Record, Timestamp, Transaction},
    },
    node::{Carried, Node},
    store::StoreError,
    writer::{Placed, Refused},
};

/// Why a transaction was not accepted, as it is sent.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Moved { chain: String, expected: Vec<String>, tag: String },
    IdTaken(String, u64),
    IdErased(String, u64),
    IdTwice(String),
    PoolFull(u64),
    LargerThanPool(u64, u64),
    NotAWriter(u64),
    Frozen(String, u64),
    Mirror(String, String),
    Damaged(String),
    RolledBack(String),
    Busy,
    Stopping,
    NotLeading(Option<String>),
    NotAgreed,
    Full,
    Failed(String),
}

impl From<&Refused> for Reason {
    fn from(refused: &Refused) -> Reason {
        match refused {
            Refused::Moved { chain, expected, tag } => Reason::Moved {
                chain: chain.to_string(),
                expected: expected.tags().map(|tag| tag.to_string()).collect(),
                tag: tag.to_string(),
            },
            Refused::IdTaken { id, index } => Reason::IdTaken(id.clone(), index.get()),
            Refused::IdErased { id, index } => Reason::IdErased(id.clone(), index.get()),
            Refused::IdTwice(id) => Reason::IdTwice(id.clone()),
            Refused::PoolFull(limit) => Reason::PoolFull(*limit),
            Refused::LargerThanPool { count, limit } => Reason::LargerThanPool(*count, *limit),
            Refused::NotAWriter(since) => Reason::NotAWriter(since.get()),
            Refused::Frozen { chain, by } => Reason::Frozen(chain.to_string(), by.get()),
            Refused::Mirror { chain, from } => Reason::Mirror(chain.to_string(), from.clone()),
            Refused::Damaged(detail) => Reason::Damaged(detail.clone()),
            Refused::RolledBack(detail) => Reason::RolledBack(detail.clone()),
            Refused::Busy => Reason::Busy,
            Refused::Stopping => Reason::Stopping,
            Refused::NotLeading(host) => Reason::NotLeading(host.clone()),
            Refused::NotAgreed => Reason::NotAgreed,
            Refused::Store(StoreError::Full) => Reason::Full,
            other => Reason::Failed(other.to_string()),
        }
    }
}

impl Reason {
    fn refused(self) -> Option<Refused> {
        Some(match self {
            Reason::Moved { chain, expected, tag } => {
                let tags = expected.iter().map(|tag| tag.parse().ok()).collect::<Option<Vec<Tag>>>()?;
                Refused::Moved { chain: chain.parse().ok()?, expected: Expected::any_of(tags)?, tag: tag.parse().ok()? }
            }
            Reason::IdTaken(id, index) => Refused::IdTaken { id, index: Index::new(index) },
            Reason::IdErased(id, index) => Refused::IdErased { id, index: Index::new(index) },
            Reason::IdTwice(id) => Refused::IdTwice(id),
            Reason::PoolFull(limit) => Refused::PoolFull(limit),
            Reason::LargerThanPool(count, limit) => Refused::LargerThanPool { count, limit },
            Reason::NotAWriter(since) => Refused::NotAWriter(Index::new(since)),
            Reason::Frozen(chain, by) => Refused::Frozen { chain: chain.parse().ok()?, by: Index::new(by) },
            Reason::Mirror(chain, from) => Refused::Mirror { chain: chain.parse().ok()?, from },
            Reason::Damaged(detail) => Refused::Damaged(detail),
            Reason::RolledBack(detail) => Refused::RolledBack(detail),
            Reason::Busy => Refused::Busy,
            Reason::Stopping => Refused::Stopping,
            Reason::NotLeading(host) => Refused::NotLeading(host),
            Reason::NotAgreed => Refused::NotAgreed,
            Reason::Full => Refused::Store(StoreError::Full),
            Reason::Failed(detail) => Refused::Store(StoreError::Failed(detail)),
        })
    }
}

/// As a call.
pub fn encode(carried: &Carried, out: &mut Vec<u8>) {
    let Carried { chain, expected, transactions, each_for_itself } = carried;
    out.extend_from_slice(chain.as_bytes());
    out.push((*each_for_itself).into());
    let (of, tags) = match expected {
        None => (*chain, Vec::new()),
        Some((of, expected)) => (*of, expected.tags().map(|tag| tag.to_string()).collect()),
    };
    // A header has room for no more.
    out.push(tags.len().min(255) as u8);
    for tag in tags.iter().take(255) {
        out.push(tag.len() as u8);
        out.extend_from_slice(tag.as_bytes());
    }
    out.extend_from_slice(of.as_bytes());
    for transaction in transactions.iter() {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        transaction.write(Index::new(0), out);
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn hash(bytes: &mut &[u8]) -> Option<Hash> {
    take(bytes, 32)?.as_array().map(|hash| Hash::from_bytes(*hash))
}

/// From a call.
pub fn decode(mut bytes: &[u8]) -> Option<Carried> {
    let bytes = &mut bytes;
    let chain = hash(bytes)?;
    let each_for_itself = match take(bytes, 1)? {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    let count = take(bytes, 1)?[0];
    let mut tags = Vec::new();
    for _ in 0..count {
        let length = take(bytes, 1)?[0].into();
        tags.push(str::from_utf8(take(bytes, length)?).ok()?.parse::<Tag>().ok()?);
    }
    let of = hash(bytes)?;
    let expected = Expected::any_of(tags).map(|expected| (of, expected));
    let mut transactions: Vec<Transaction> = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(*take(bytes, 4)?.as_array()?) as usize;
        let transaction = Record::parse(take(bytes, length)?).ok()?.transaction;
        // What a node records itself is never sent on.
        transactions.push(Some(transaction).filter(|transaction| transaction.kind().is_none())?);
    }
    Some(Carried { chain, expected, transactions: Arc::new(transactions), each_for_itself })
}

/// Has the chains of this node decide what was sent on.
pub async fn answer(node: &Node, content: &[u8]) -> Result<Vec<u8>, String> {
    let carried = decode(content).ok_or("what is sent on is not understood")?;
    Ok(encode_outcome(&node.inject_carried(carried).await))
}

fn encode_outcome(outcome: &Result<Vec<Result<Placed, Refused>>, Refused>) -> Vec<u8> {
    let placed = match outcome {
        Err(refused) => {
            return serde_json::to_vec(&serde_json::json!({"refused": Reason::from(refused)})).expect("it is JSON");
        }
        Ok(placed) => placed,
    };
    let mut out = Vec::with_capacity(49 * placed.len());
    for placed in placed {
        match placed {
            Ok(Placed { index, hash, timestamp, replayed }) => {
                out.push((*replayed).into());
                out.extend_from_slice(&index.get().to_be_bytes());
                out.extend_from_slice(hash.as_bytes());
                out.extend_from_slice(&timestamp.micros().to_be_bytes());
            }
            Err(refused) => {
                let reason = serde_json::to_vec(&Reason::from(refused)).expect("it is JSON");
                out.push(2);
                out.extend_from_slice(&(reason.len() as u32).to_be_bytes());
                out.extend_from_slice(&reason);
            }
        }
    }
    out
}

/// What became of what was sent on.
pub fn decode_outcome(mut bytes: &[u8]) -> Option<Result<Vec<Result<Placed, Refused>>, Refused>> {
    #[derive(Deserialize)]
    struct All {
        refused: Reason,
    }
    if bytes.first() == Some(&b'{') {
        return serde_json::from_slice::<All>(bytes).ok()?.refused.refused().map(Err);
    }
    let bytes = &mut bytes;
    let mut all = Vec::new();
    while let [kind, rest @ ..] = *bytes {
        *bytes = rest;
        all.push(match kind {
            0 | 1 => {
                let index = Index::new(u64::from_be_bytes(*take(bytes, 8)?.as_array()?));
                let hash = hash(bytes)?;
                let timestamp = Timestamp::from_micros(i64::from_be_bytes(*take(bytes, 8)?.as_array()?))?;
                Ok(Placed { index, hash, timestamp, replayed: *kind == 1 })
            }
            2 => {
                let length = u32::from_be_bytes(*take(bytes, 4)?.as_array()?) as usize;
                Err(serde_json::from_slice::<Reason>(take(bytes, length)?).ok()?.refused()?)
            }
            _ => return None,
        });
    }
    Some(Ok(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{rules::ChainName, transaction::Submission};

    #[test]
    fn what_is_sent_on_comes_back_as_it_was() {
        let transaction = |number: u8| {
            let submission =
                Submission { data: vec![b'0' + number], id: format!("id{number}").parse().ok(), signed: None };
            Transaction::new(submission, None, Timestamp::from_micros(5).unwrap(), [number; 16])
        };
        let (chain, of) = (Hash::from_bytes([1; 32]), Hash::from_bytes([2; 32]));
        let tags = vec![Tag::of_size(crate::core::count::Size::new(7)), "5.2".parse().unwrap()];
        for expected in [None, Expected::any_of(tags).map(|expected| (of, expected))] {
            let transactions = Arc::new(vec![transaction(1), transaction(2)]);
            let carried = Carried { chain, expected, transactions: transactions.clone(), each_for_itself: true };
            let mut sent = Vec::new();
            encode(&carried, &mut sent);
            let came = decode(&sent).unwrap();
            assert_eq!((came.chain, &came.expected, came.each_for_itself), (chain, &carried.expected, true));
            let hashes = |of: &[Transaction]| of.iter().map(Transaction::hash).collect::<Vec<_>>();
            assert_eq!(hashes(&came.transactions), hashes(&transactions));
            assert!((0..70).all(|end| decode(&sent[..end]).is_none_or(|came| came.transactions.len() < 2)));
        }
        let placed =
            Placed { index: Index::new(3), hash: chain, timestamp: Timestamp::from_micros(9).unwrap(), replayed: true };
        let moved = Refused::Moved {
            chain: "a".parse::<ChainName>().unwrap(),
            expected: Expected::any_of(vec![Tag::of_size(crate::core::count::Size::new(7))]).unwrap(),
            tag: "8".parse().unwrap(),
        };
        let frozen = Refused::Frozen { chain: "a".parse().unwrap(), by: Index::new(4) };
        let mirror = Refused::Mirror { chain: "a".parse().unwrap(), from: "http://localhost:1/chains/a".into() };
        let outcomes = [
            Err(mirror),
            Err(Refused::LargerThanPool { count: 8, limit: 7 }),
            Ok(vec![Err(frozen), Err(Refused::NotAWriter(Index::new(2)))]),
            Ok(vec![Ok(placed), Err(Refused::IdTwice("x".into())), Err(Refused::PoolFull(5))]),
            Err(moved),
            Ok(Vec::new()),
        ];
        for outcome in outcomes {
            let came = decode_outcome(&encode_outcome(&outcome)).unwrap();
            let text = |outcome: &Result<Vec<Result<Placed, Refused>>, Refused>| match outcome {
                Err(refused) => refused.to_string(),
                Ok(all) => all
                    .iter()
                    .map(|one| one.as_ref().map_or_else(ToString::to_string, |placed| format!("{placed:?}")))
                    .collect(),
            };
            assert_eq!(text(&came), text(&outcome));
        }
    }
}
