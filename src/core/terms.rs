//! The terms of a chain: on which it takes transactions, as they stand after what was decided since its bang.
//!
//! Two kinds of transactions change them. Where the chain has writers, one of them must have signed what is not a succession:
//!
//! - `key` with `{"from", "signature", "time", "to"}` records that the key which signs checkpoints has another in its place
//!   ([`Succession`]). The terms stay; only where it stands is remembered.
//! - `key` with `{"replaces", "writers"}` names other writers. `replaces` is the index of the transaction that names those in force:
//!   so a signed change is good once, in one place, and of two that were signed at one time the second is refused.
//! - `freeze` with `{"reason"}` ends the chain: the next quant seals it, and nothing follows that.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    count::{Index, Size},
    hash::Hash,
    json,
    rules::{Fault, Refusal, Rules},
    succession::Succession,
    transaction::{Kind, Transaction},
};
use crate::limits;

/// On what terms a chain takes transactions.
#[derive(Clone)]
pub struct Terms {
    rules: Arc<Rules>,
    since: Index,
    frozen: Option<Index>,
    keys: Arc<Vec<Index>>,
}

/// Why a transaction does not change the terms.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChange {
    /// It has not the form, as the sentence says.
    #[error("{0}")]
    Malformed(String),
    /// None of the writers in force has signed it.
    #[error("{}", .0.recorded())]
    Refusal(Refusal),
    /// It replaces other writers than those in force.
    #[error(
        "it replaces the writers that transaction {replaces} names, but those in force are named by transaction {since}"
    )]
    Stale {
        /// What it names.
        replaces: Index,
        /// What names the writers in force.
        since: Index,
    },
    /// Everyone may write.
    #[error("it names writers of a chain on which everyone may write")]
    NoWriters,
    /// Nothing follows.
    #[error("the chain was frozen by transaction {0}: nothing follows that")]
    Frozen(Index),
}

impl Terms {
    /// Those of a new chain or fork: the rules in its bang, which stands at this index.
    pub fn of_bang(rules: Arc<Rules>, bang: Index) -> Terms {
        Terms { rules, since: bang, frozen: None, keys: Arc::default() }
    }

    /// Those of a fork's bang within a copy that holds its ancestors' part, too.
    pub fn bang(&self, rules: Arc<Rules>, bang: Index) -> Terms {
        Terms { keys: self.keys.clone(), ..Terms::of_bang(rules, bang) }
    }

    /// Those of a chain about which something was decided since its bang: the rules in force and the transaction that names their
    /// writers, the places of all changes of keys, and the transaction that froze it.
    pub fn decided(rules: Arc<Rules>, since: Index, keys: Vec<Index>, frozen: Option<Index>) -> Terms {
        Terms { rules, since, frozen, keys: Arc::new(keys) }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The transaction that names the writers in force.
    pub fn since(&self) -> Index {
        self.since
    }

    /// The transaction that froze the chain, if it is frozen.
    pub fn frozen(&self) -> Option<Index> {
        self.frozen
    }

    /// The chain's transactions of the kind `key`, in their order.
    pub fn keys(&self) -> &Arc<Vec<Index>> {
        &self.keys
    }

    /// Whether a chain that is sealed so far has ended.
    pub fn has_ended(&self, sealed: Size) -> bool {
        self.frozen.is_some_and(|frozen| sealed.has(frozen))
    }

    /// The terms behind a transaction at this index of the chain with the id `chain`, where its kind is `key` or `freeze`; nothing where
    /// they stay.
    ///
    /// # Errors
    /// Why it cannot stand there.
    pub fn after(&self, chain: Hash, index: Index, transaction: &Transaction) -> Result<Option<Terms>, NoChange> {
        if let Some(frozen) = self.frozen {
            return Err(NoChange::Frozen(frozen));
        }
        let Some(kind @ (Kind::Key | Kind::Freeze)) = transaction.kind() else { return Ok(None) };
        let data = transaction.data();
        let data =
            data.ok_or_else(|| NoChange::Malformed(format!("a transaction of the kind \"{kind}\" cannot be erased")))?;
        let signed = || {
            let signed = transaction.signed();
            self.rules.check_signature(chain, Some(kind), data, None, signed).map_err(NoChange::Refusal)
        };
        if transaction.id().is_some() {
            return Err(NoChange::Malformed(format!("a transaction of the kind \"{kind}\" has no id")));
        }
        let mut terms = self.clone();
        match kind {
            Kind::Key => {
                match KeyChange::parse(data)? {
                    KeyChange::Writers(change) => {
                        terms.rules = Arc::new(self.replaced(&change)?);
                        signed()?;
                        terms.since = index;
                    }
                    // The old key's signature is in it. Nobody else signs it.
                    KeyChange::Signer(_) if transaction.signed().is_some() => {
                        return Err(NoChange::Malformed("a succession has no signer but the old key".into()));
                    }
                    KeyChange::Signer(_) => {}
                }
                Arc::make_mut(&mut terms.keys).push(index);
            }
            _ => {
                check_freeze(data)?;
                signed()?;
                terms.frozen = Some(index);
            }
        }
        Ok(Some(terms))
    }

    /// The rules behind a change of the writers.
    ///
    /// # Errors
    /// It does not replace those in force, or names none.
    pub fn replaced(&self, change: &WritersChange) -> Result<Rules, NoChange> {
        if self.rules.writers().is_none() {
            return Err(NoChange::NoWriters);
        }
        let WritersChange { replaces, writers } = change;
        if *replaces != self.since {
            return Err(NoChange::Stale { replaces: *replaces, since: self.since });
        }
        let malformed =
            |faults: Vec<Fault>| NoChange::Malformed(format!("{}: {}", faults[0].pointer, faults[0].detail));
        Rules::clone(&self.rules).with_writers(writers).map_err(malformed)
    }
}

/// What a transaction of the kind `key` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Who writes from then on.
    Writers(WritersChange),
    /// What signs checkpoints from then on.
    Signer(Box<Succession>),
}

impl KeyChange {
    /// Reads the data.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(data: &[u8]) -> Result<KeyChange, NoChange> {
        let value = json::parse(data).map_err(|error| NoChange::Malformed(error.to_string()))?;
        match value.get("to") {
            Some(_) => Succession::parse(&value).map(Box::new).map(KeyChange::Signer).map_err(NoChange::Malformed),
            None => WritersChange::of(value).map(KeyChange::Writers),
        }
    }
}

/// What a transaction of the kind `key` says of writers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WritersChange {
    /// The transaction that names those who write until then.
    pub replaces: Index,
    /// Those who write from then on, as they stand in rules.
    pub writers: Value,
}

impl WritersChange {
    /// The canonical data, which a writer signs with the kind.
    pub fn data(&self) -> Vec<u8> {
        json::canonical(&json!({"replaces": self.replaces, "writers": self.writers}))
    }

    /// Of data that has exactly the two fields.
    fn of(data: Value) -> Result<WritersChange, NoChange> {
        let malformed = || NoChange::Malformed("its data is no {\"replaces\", \"writers\"}".into());
        let Value::Object(mut fields) = data else { return Err(malformed()) };
        let replaces = fields.remove("replaces").and_then(|index| index.as_u64()).map(Index::new);
        match (replaces, fields.remove("writers"), fields.is_empty()) {
            (Some(replaces), Some(writers), true) => Ok(WritersChange { replaces, writers }),
            _ => Err(malformed()),
        }
    }
}

/// The canonical data of a transaction that freezes a chain, which a writer signs with the kind.
pub fn freeze_data(reason: &str) -> Vec<u8> {
    json::canonical(&json!({ "reason": reason }))
}

fn check_freeze(data: &[u8]) -> Result<(), NoChange> {
    let fields: Option<Map<String, Value>> = json::parse(data).ok().and_then(|data| data.as_object().cloned());
    let is_reason =
        |reason: &Value| reason.as_str().is_some_and(|reason| (1..=limits::REASON_BYTES).contains(&reason.len()));
    let is_it = fields.is_some_and(|fields| fields.len() == 1 && fields.get("reason").is_some_and(is_reason));
    if is_it { Ok(()) } else { Err(NoChange::Malformed("its data is no {\"reason\"} of 1 to 1,024 bytes".into())) }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;
    use crate::core::transaction::{Signed, Submission, Timestamp};

    const CHAIN: Hash = Hash::from_bytes([0x1a; 32]);

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn public(number: u8) -> String {
        hex::encode(key(number).verifying_key().as_bytes())
    }

    fn terms(writers: Value) -> Terms {
        let rules = Rules::from_value(&json!({"name": "a", "writers": writers})).ok().unwrap();
        Terms::of_bang(Arc::new(rules), Index::new(0))
    }

    /// A transaction of this kind, signed by this key as one of the kind `said`.
    fn transaction(kind: Kind, said: &str, data: &Value, by: Option<u8>) -> Transaction {
        let message = json!({"chain": CHAIN.to_string(), "data": data, "kind": said});
        let signed = by.map(|by| Signed {
            signer: key(by).verifying_key().to_bytes(),
            signature: key(by).sign(&json::canonical(&message)).to_bytes(),
        });
        let submission = Submission { data: json::canonical(data), id: None, signed };
        Transaction::new(submission, Some(kind), Timestamp::from_micros(0).unwrap(), [0; 16])
    }

    fn change(replaces: u64, writers: &[u8], by: Option<u8>) -> Transaction {
        let writers: Vec<String> = writers.iter().map(|writer| public(*writer)).collect();
        transaction(Kind::Key, "key", &json!({"replaces": replaces, "writers": writers}), by)
    }

    fn after(terms: &Terms, index: u64, transaction: &Transaction) -> Result<Terms, NoChange> {
        Ok(terms.after(CHAIN, Index::new(index), transaction)?.expect("its kind changes them"))
    }

    fn error(terms: &Terms, transaction: &Transaction) -> NoChange {
        after(terms, 9, transaction).err().expect("it was taken")
    }

    #[test]
    fn writers_in_force_name_the_next() {
        let first = terms(json!([public(1), public(2)]));
        let second = after(&first, 5, &change(0, &[3], Some(2))).ok().unwrap();
        assert_eq!((second.since().get(), second.rules().to_value()["writers"].clone()), (5, json!([public(3)])));
        // Who is replaced cannot go on, nor undo it, and what was signed once is good once.
        for (replaces, by) in [(0, 1), (0, 2), (0, 3)] {
            let stale = NoChange::Stale { replaces: Index::new(0), since: Index::new(5) };
            assert_eq!(error(&second, &change(replaces, &[1], Some(by))), stale);
        }
        assert_eq!(error(&second, &change(5, &[1], Some(2))), NoChange::Refusal(Refusal::NotAWriter));
        let third = after(&second, 7, &change(5, &[1], Some(3))).ok().unwrap();
        assert_eq!((third.since().get(), third.keys()[..].iter().map(|key| key.get()).collect()), (7, vec![5, 7]));
    }

    #[test]
    fn nobody_else_changes_the_writers() {
        let closed = terms(json!([public(1)]));
        assert_eq!(error(&closed, &change(0, &[2], None)), NoChange::Refusal(Refusal::Unsigned));
        assert_eq!(error(&closed, &change(0, &[2], Some(2))), NoChange::Refusal(Refusal::NotAWriter));
        let data = json!({"replaces": 0, "writers": [public(2)]});
        for said in ["erasure", "freeze", ""] {
            let signed_as = transaction(Kind::Key, said, &data, Some(1));
            assert_eq!(error(&closed, &signed_as), NoChange::Refusal(Refusal::BadSignature), "{said}");
        }
        assert_eq!(error(&terms(Value::Null), &change(0, &[1], Some(1))), NoChange::NoWriters);
        for data in [
            json!({"replaces": 0, "writers": null}),
            json!({"replaces": 0, "writers": []}),
            json!({"replaces": 0, "writers": ["00"]}),
            json!({"replaces": 0, "writers": [public(1)], "more": 1}),
            json!({"replaces": "0", "writers": [public(1)]}),
            json!({"writers": [public(1)]}),
            json!([]),
        ] {
            let malformed = transaction(Kind::Key, "key", &data, Some(1));
            assert!(matches!(error(&closed, &malformed), NoChange::Malformed(_)), "{data}");
        }
    }

    #[test]
    fn nothing_follows_a_freeze() {
        let data = json!({"reason": "done"});
        let closed = terms(json!([public(1)]));
        let freeze = |by| transaction(Kind::Freeze, "freeze", &data, by);
        assert_eq!(error(&closed, &freeze(None)), NoChange::Refusal(Refusal::Unsigned));
        assert_eq!(error(&closed, &freeze(Some(2))), NoChange::Refusal(Refusal::NotAWriter));
        let open = after(&terms(Value::Null), 4, &freeze(None)).ok().unwrap();
        let frozen = after(&closed, 4, &freeze(Some(1))).ok().unwrap();
        assert_eq!((open.frozen(), frozen.frozen()), (Some(Index::new(4)), Some(Index::new(4))));
        assert!(!frozen.has_ended(Size::new(4)) && frozen.has_ended(Size::new(5)));
        for next in [freeze(Some(1)), change(0, &[1], Some(1)), transaction(Kind::Erasure, "erasure", &data, Some(1))] {
            assert_eq!(error(&frozen, &next), NoChange::Frozen(Index::new(4)));
        }
        for data in
            [json!({}), json!({"reason": ""}), json!({"reason": "x".repeat(1025)}), json!({"reason": "a", "b": 1})]
        {
            let malformed = transaction(Kind::Freeze, "freeze", &data, Some(1));
            assert!(matches!(error(&closed, &malformed), NoChange::Malformed(_)), "{data}");
        }
    }
}
