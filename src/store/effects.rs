//! Effects: what the log says of the chains.
//!
//! An [`Effect`] is what a command came to when it was decided on the newest state of the chains. Nothing of it can fail any more:
//! the same effects in the same order make the same chains, byte by byte, wherever they are applied, and however they were
//! batched. Chains are named by their ids. What follows from an effect (indexes, tiles, which transaction has which id, where
//! something stands) is not in it: that is the [index](super::index)'s.
//!
//! # In the log
//! A record of the log is one effect, or a part of one. Its plain bytes are
//!
//! | part | bytes |
//! | --- | --- |
//! | `E`, and the length of the text as a big-endian number | 1 + 4 |
//! | the effect without its transactions, as JSON | |
//! | the [run](super::runs) of its transactions, if it has any | |
//!
//! Transactions that clients inject are a run alone, which may be of several effects of one chain: where it begins and ends is this
//! node's own matter. What is the node's own is in records `O` with an [`OwnEntry`] as JSON: it is no effect.

use serde::{Deserialize, Serialize};

use super::{
    BangPlace, Decided, StoreError,
    entry::GroupRecord,
    runs::{Erasure, RUN, Run},
};
use crate::core::{
    chain::LeapPolicy,
    count::{Height, Index, Size},
    hash::Hash,
    quant::{Quant, QuantFields},
    transaction::{Timestamp, Transaction},
};

/// Marks, in the log, an effect with more than injected transactions.
const EFFECT: u8 = b'E';
/// Marks, in the log, what is the node's own.
const OWN: u8 = b'O';
/// Marks, in the log, what is left of a transaction that came without its data: chain (32 bytes), index (8), when and by which
/// transaction it was erased (8 and 8), commitment (32).
const ERASED_BEFORE: u8 = b'X';
/// Bytes of the length of an effect's JSON.
const LENGTH: usize = 4;

/// What a command came to.
pub enum Effect {
    /// A chain is made. Its id is the hash of the quant; its name and its rules are in the transaction.
    Bang {
        /// What it goes on from, if it is a fork.
        parent: Option<ForkPoint>,
        /// When it leaps by itself.
        leap: LeapPolicy,
        /// The transaction that records its rules.
        bang: Transaction,
        /// The quant that seals it.
        quant: Quant,
    },
    /// Transactions are accepted, in this order.
    Inject {
        /// Where.
        chain: Hash,
        /// None is earlier than the one before.
        transactions: Vec<Transaction>,
    },
    /// A quant seals what was pooled when it was cut.
    Seal {
        /// Where.
        chain: Hash,
        /// It follows the chain's newest.
        quant: Quant,
    },
    /// The payload of a transaction is erased.
    Erase {
        /// The chain that wrote it.
        chain: Hash,
        /// Which one.
        index: Index,
        /// What its leaf says of the payload.
        commitment: Hash,
        /// The transaction that records it.
        record: Transaction,
    },
    /// The writers of a chain name others.
    Key {
        /// Which one.
        chain: Hash,
        /// The transaction that records it.
        record: Transaction,
    },
    /// A chain is frozen.
    Freeze {
        /// Which one.
        chain: Hash,
        /// The transaction that records it.
        record: Transaction,
    },
    /// A chain leaps by another policy.
    SetLeap {
        /// Which one.
        chain: Hash,
        /// The new policy.
        leap: LeapPolicy,
    },
    /// A chain is a mirror of one that others keep, and changes only as that does. It stays one.
    SetMirror {
        /// Which one.
        chain: Hash,
        /// The URL of the other.
        from: String,
    },
    /// A verified part of a chain that was made elsewhere is stored.
    Import {
        /// The id that the chain will have.
        chain: Hash,
        /// Its name, once that is known.
        name: Option<String>,
        /// When it came.
        at: Timestamp,
        /// The transactions that follow those that are stored.
        runs: Vec<Run>,
        /// The quants that follow those that are stored.
        quants: Vec<Quant>,
    },
    /// An imported chain is complete, and becomes a chain like others. One with its name, which nobody has used, gives way.
    Adopt {
        /// Which one.
        chain: Hash,
        /// Where its own bang stands.
        bang: BangPlace,
        /// When it leaps by itself.
        leap: LeapPolicy,
        /// Its transactions that came without their data.
        erasures: u64,
        /// What was decided about its keys and its end.
        decided: Decided,
    },
    /// What is stored of an import is to be removed.
    AbandonImport {
        /// Which one.
        chain: Hash,
    },
    /// Nothing of an import is left.
    EndImport {
        /// Which one.
        chain: Hash,
    },
}

/// The quant of a chain that a fork goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkPoint {
    /// The chain that made it.
    pub chain: Hash,
    /// Which one.
    pub quant: Height,
    /// The transactions that the chain had with it.
    pub size: Size,
}

/// An effect without its transactions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Entry {
    /// Its run is the bang. The name is in that, too, but a chain whose bang is damaged has one still.
    Bang {
        name: String,
        parent: Option<ForkPoint>,
        leap: LeapPolicy,
        quant: QuantFields,
    },
    Seal {
        chain: Hash,
        quant: QuantFields,
    },
    /// Its run is the record of the erasure.
    Erase {
        chain: Hash,
        index: Index,
        commitment: Hash,
    },
    /// Its run is the record of the change.
    Key {
        chain: Hash,
    },
    /// Its run is the record of it.
    Freeze {
        chain: Hash,
    },
    SetLeap {
        chain: Hash,
        leap: LeapPolicy,
    },
    SetMirror {
        chain: Hash,
        from: String,
    },
    /// The transactions come before it, in runs of their own.
    Import {
        chain: Hash,
        name: Option<String>,
        at: Timestamp,
        quants: Vec<QuantFields>,
    },
    /// The name is in the bang, too.
    Adopt {
        chain: Hash,
        name: String,
        bang: BangPlace,
        leap: LeapPolicy,
        erasures: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<Index>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frozen: Option<Index>,
    },
    AbandonImport {
        chain: Hash,
    },
    EndImport {
        chain: Hash,
    },
}

/// Something of the node's own, or nothing any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnEntry {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// What a record of the log is.
pub(super) enum Content {
    /// An effect, whose run follows if it has one.
    Effect(Box<Entry>),
    /// Injected transactions.
    Run,
    /// Something of the node's own.
    Own(OwnEntry),
    /// Of a group of nodes.
    Group(Box<GroupRecord>),
    /// That the data of a transaction of the run before was erased before it came to this node.
    ErasedBefore(ErasedBefore),
}

/// What another node has told of a transaction that came without its data.
#[derive(Clone, Copy)]
pub(super) struct ErasedBefore {
    pub(super) chain: Hash,
    pub(super) index: Index,
    pub(super) erasure: Erasure,
}

impl ErasedBefore {
    /// The plain bytes of its record.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (index, erasure) = (self.index.get().to_be_bytes(), self.erasure.encode());
        [&[ERASED_BEFORE], &self.chain.as_bytes()[..], &index, &erasure].concat()
    }

    fn decode(bytes: &[u8]) -> Option<ErasedBefore> {
        let (chain, rest) = bytes.split_first_chunk()?;
        let (index, erasure) = rest.split_first_chunk()?;
        let (chain, index) = (Hash::from_bytes(*chain), Index::new(u64::from_be_bytes(*index)));
        let erasure = Erasure::decode(erasure).filter(|_| erasure.len() == Erasure::BYTES)?;
        Some(ErasedBefore { chain, index, erasure })
    }
}

impl Entry {
    /// The plain bytes before its run.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut plain = vec![EFFECT];
        plain.extend_from_slice(&[0; LENGTH]);
        serde_json::to_writer(&mut plain, self).expect("an effect is JSON");
        let length = u32::try_from(plain.len() - 1 - LENGTH).expect("an effect is bounded far below 4 GiB");
        plain[1..=LENGTH].copy_from_slice(&length.to_be_bytes());
        plain
    }
}

impl OwnEntry {
    /// The plain bytes of its record.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut plain = vec![OWN];
        serde_json::to_writer(&mut plain, self).expect("a name and a text are JSON");
        plain
    }
}

/// Where the run begins in the plain bytes of a record.
pub(super) fn run_start(plain: &[u8]) -> Option<usize> {
    match *plain.first()? {
        RUN => Some(0),
        EFFECT => {
            let length = u32::from_be_bytes(*plain[1..].first_chunk()?);
            (1 + LENGTH).checked_add(length as usize)
        }
        _ => None,
    }
}

/// Reads a record from its plain bytes.
pub(super) fn decode(plain: &[u8]) -> Result<Content, StoreError> {
    let read = || match plain.split_first()? {
        (&RUN, _) => Some(Content::Run),
        (&ERASED_BEFORE, rest) => ErasedBefore::decode(rest).map(Content::ErasedBefore),
        (&OWN, json) => serde_json::from_slice(json).ok().map(Content::Own),
        (&EFFECT, rest) => {
            let end = run_start(plain)?;
            let entry = serde_json::from_slice(rest.get(LENGTH..end - 1)?).ok()?;
            Some(Content::Effect(Box::new(entry)))
        }
        _ => None,
    };
    if let Some(record) = GroupRecord::decode(plain)? {
        return Ok(Content::Group(record.into()));
    }
    read().ok_or_else(|| StoreError::Damaged("the log has a record that is none of this program's".into()))
}

/// All effects of the log in a data folder at rest, in their order.
///
/// # Errors
/// The log is damaged.
#[cfg(test)]
pub(crate) fn read_all(folder: &std::path::Path) -> Result<Vec<Effect>, StoreError> {
    use std::collections::{HashMap, HashSet};

    use super::{
        LOG,
        runs::{StoredRun, time_of},
    };
    use crate::{
        core::transaction::{Erased, Record},
        log::{self, LogError, Mark},
    };

    let mut found = Vec::new();
    log::read(&folder.join(LOG), Mark::START, |next| {
        found.push(next.record);
        Ok::<_, LogError>(())
    })?;
    // What an erasure took away is told where it is recorded. Of an import that was given up, nothing is left.
    let (mut erasures, mut removed) = (HashMap::new(), HashSet::new());
    for record in &found {
        let Content::Effect(entry) = decode(record.plain())? else { continue };
        match *entry {
            Entry::Erase { chain, index, commitment } => {
                let run = StoredRun::decode(record.clone())?;
                let erased = Erased { timestamp: time_of(run.text(0))?, by: run.first };
                erasures.insert((chain, index), Erasure { erased, commitment });
            }
            Entry::EndImport { chain } => _ = removed.insert(chain),
            _ => {}
        }
    }
    let transactions = |run: &StoredRun| -> Result<Vec<Transaction>, StoreError> {
        let mut served = Vec::new();
        run.serve(0..run.count(), b'\n', false, |at| Ok(erasures.get(&(run.chain, at)).copied()), &mut served)?;
        let parse = |text| Record::parse(text).map(|record| record.transaction).map_err(StoreError::Damaged);
        served.split(|&byte| byte == b'\n').map(parse).collect()
    };
    let (mut effects, mut imports, mut parts) = (Vec::new(), HashSet::new(), HashMap::<Hash, Vec<Run>>::new());
    for record in found {
        let entry = match decode(record.plain())? {
            Content::Own(_) | Content::Group(_) | Content::ErasedBefore(_) => continue,
            Content::Run => {
                let run = StoredRun::decode(record)?;
                if removed.contains(&run.chain) {
                    continue;
                }
                let (chain, transactions) = (run.chain, transactions(&run)?);
                if imports.contains(&chain) {
                    let mut part = Run::new(chain, run.first, run.bytes_before(0));
                    transactions.iter().for_each(|transaction| _ = part.push(transaction));
                    parts.entry(chain).or_default().push(part);
                } else {
                    effects.push(Effect::Inject { chain, transactions });
                }
                continue;
            }
            Content::Effect(entry) => *entry,
        };
        let quant =
            |fields: QuantFields| Quant::try_from(fields).map_err(|error| StoreError::Damaged(error.to_string()));
        let one =
            || -> Result<Transaction, StoreError> { Ok(transactions(&StoredRun::decode(record.clone())?)?.remove(0)) };
        effects.push(match entry {
            Entry::Import { chain, .. } | Entry::AbandonImport { chain } | Entry::EndImport { chain }
                if removed.contains(&chain) =>
            {
                continue;
            }
            Entry::Bang { parent, leap, quant: first, .. } => {
                Effect::Bang { parent, leap, bang: one()?, quant: quant(first)? }
            }
            Entry::Seal { chain, quant: next } => Effect::Seal { chain, quant: quant(next)? },
            Entry::Erase { chain, index, commitment } => Effect::Erase { chain, index, commitment, record: one()? },
            Entry::Key { chain } => Effect::Key { chain, record: one()? },
            Entry::Freeze { chain } => Effect::Freeze { chain, record: one()? },
            Entry::SetLeap { chain, leap } => Effect::SetLeap { chain, leap },
            Entry::SetMirror { chain, from } => Effect::SetMirror { chain, from },
            Entry::Import { chain, name, at, quants } => {
                imports.insert(chain);
                let quants = quants.into_iter().map(quant).collect::<Result<_, _>>()?;
                Effect::Import { chain, name, at, runs: parts.remove(&chain).unwrap_or_default(), quants }
            }
            Entry::Adopt { chain, bang, leap, erasures, keys, frozen, .. } => {
                imports.remove(&chain);
                Effect::Adopt { chain, bang, leap, erasures, decided: Decided { keys, frozen } }
            }
            Entry::AbandonImport { chain } => Effect::AbandonImport { chain },
            Entry::EndImport { chain } => Effect::EndImport { chain },
        });
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Hash = Hash::from_bytes([0x1a; 32]);

    fn quant() -> QuantFields {
        QuantFields {
            index: 3,
            timestamp: "2026-11-26T20:00:00.000001Z".into(),
            difficulty: 0,
            previous_hash: Hash::from_bytes([2; 32]),
            root: Hash::from_bytes([3; 32]),
            size: 5,
            version: 1,
            proof: 7,
            hash: Hash::from_bytes([4; 32]),
        }
    }

    /// Frozen: every node that will ever read a log of this one relies on it.
    #[test]
    fn effects_have_one_encoding() {
        let [chain, two, three, four] = [0x1a, 2, 3, 4].map(|byte| hex::encode([byte; 32]));
        let quant_text = format!(
            r#"{{"index":3,"timestamp":"2026-11-26T20:00:00.000001Z","difficulty":0,"previous_hash":"{two}","root":"{three}","size":5,"version":1,"proof":7,"hash":"{four}"}}"#
        );
        let leap = LeapPolicy { every_ms: Some(1_000), transactions: None };
        let at: Timestamp = "2026-11-26T20:00:00.000000Z".parse().unwrap();
        let parent = Some(ForkPoint { chain: CHAIN, quant: Height::new(2), size: Size::new(4) });
        let bang = BangPlace { transaction: Index::new(4), quant: Height::new(3) };
        let name = || "a".to_owned();
        let frozen = [
            (
                Entry::Bang { name: name(), parent, leap, quant: quant() },
                format!(
                    r#"{{"bang":{{"name":"a","parent":{{"chain":"{chain}","quant":2,"size":4}},"leap":{{"every_ms":1000}},"quant":{quant_text}}}}}"#
                ),
            ),
            (
                Entry::Seal { chain: CHAIN, quant: quant() },
                format!(r#"{{"seal":{{"chain":"{chain}","quant":{quant_text}}}}}"#),
            ),
            (
                Entry::Erase { chain: CHAIN, index: Index::new(1), commitment: Hash::from_bytes([2; 32]) },
                format!(r#"{{"erase":{{"chain":"{chain}","index":1,"commitment":"{two}"}}}}"#),
            ),
            (
                Entry::SetLeap { chain: CHAIN, leap: LeapPolicy::default() },
                format!(r#"{{"set_leap":{{"chain":"{chain}","leap":{{}}}}}}"#),
            ),
            (
                Entry::SetMirror { chain: CHAIN, from: "http://a:5000/chains/a".into() },
                format!(r#"{{"set_mirror":{{"chain":"{chain}","from":"http://a:5000/chains/a"}}}}"#),
            ),
            (
                Entry::Import { chain: CHAIN, name: None, at, quants: vec![quant()] },
                format!(
                    r#"{{"import":{{"chain":"{chain}","name":null,"at":"2026-11-26T20:00:00.000000Z","quants":[{quant_text}]}}}}"#
                ),
            ),
            (
                Entry::Adopt { chain: CHAIN, name: name(), bang, leap, erasures: 2, keys: Vec::new(), frozen: None },
                format!(
                    r#"{{"adopt":{{"chain":"{chain}","name":"a","bang":{{"transaction":4,"quant":3}},"leap":{{"every_ms":1000}},"erasures":2}}}}"#
                ),
            ),
            (
                Entry::Adopt {
                    chain: CHAIN,
                    name: name(),
                    bang,
                    leap,
                    erasures: 2,
                    keys: vec![Index::new(5), Index::new(7)],
                    frozen: Some(Index::new(9)),
                },
                format!(
                    r#"{{"adopt":{{"chain":"{chain}","name":"a","bang":{{"transaction":4,"quant":3}},"leap":{{"every_ms":1000}},"erasures":2,"keys":[5,7],"frozen":9}}}}"#
                ),
            ),
            (Entry::Key { chain: CHAIN }, format!(r#"{{"key":{{"chain":"{chain}"}}}}"#)),
            (Entry::Freeze { chain: CHAIN }, format!(r#"{{"freeze":{{"chain":"{chain}"}}}}"#)),
            (Entry::AbandonImport { chain: CHAIN }, format!(r#"{{"abandon_import":{{"chain":"{chain}"}}}}"#)),
            (Entry::EndImport { chain: CHAIN }, format!(r#"{{"end_import":{{"chain":"{chain}"}}}}"#)),
        ];
        for (entry, json) in frozen {
            let plain = [b"E", &(json.len() as u32).to_be_bytes()[..], json.as_bytes()].concat();
            assert_eq!(String::from_utf8_lossy(&entry.encode()), String::from_utf8_lossy(&plain));
            assert_eq!(run_start(&plain), Some(plain.len()));
            let Content::Effect(read) = decode(&plain).unwrap() else { panic!("it is an effect") };
            assert_eq!(read.encode(), plain);
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let whole = Entry::EndImport { chain: CHAIN }.encode();
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).is_err(), "{end}");
        }
        for wrong in
            [&b"X{}"[..], b"E\xff\xff\xff\xff{}", b"E\0\0\0\x02{}", b"O{}", b"O{\"name\":\"a\",\"value\":null,\"x\":1}"]
        {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }
}
