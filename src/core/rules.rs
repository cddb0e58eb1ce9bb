//! The rules of a chain: who may write what, and how much work a quant takes. They stand in its bang and never change, but that the
//! writers may name others in their place ([`Terms`](super::terms::Terms)).

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    count::Height,
    hash::Hash,
    json,
    schema::Schema,
    transaction::{Id, Kind, Signed, Submission, take_hex},
};
use crate::limits;

/// A chain's name: `[a-z0-9][a-z0-9._-]{0,62}`. Built only by parsing, so it is safe in a URL, a key and a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(Arc<str>);

impl ChainName {
    /// The chain of the routes that name none.
    pub const DEFAULT: &str = "qbc";

    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ChainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChainName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let valid = text.len() <= 63
            && text.bytes().next().is_some_and(lower)
            && text.bytes().all(|byte| lower(byte) || b"._-".contains(&byte));
        valid.then(|| ChainName(text.into())).ok_or(
            "a chain's name has 1 to 63 characters: lower-case letters and digits, and behind the first also . _ -",
        )
    }
}

/// Where a JSON value is at fault (RFC 9457 section 3.2 shows this shape).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// RFC 6901 pointer to the value.
    pub pointer: String,
    /// What is wrong, and the cure.
    pub detail: String,
}

impl Fault {
    /// A fault of the top-level field `name`.
    pub fn of(name: &str, detail: impl Into<String>) -> Fault {
        Fault { pointer: format!("/{}", name.replace('~', "~0").replace('/', "~1")), detail: detail.into() }
    }
}

/// A quant of another chain that this one goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkOf {
    /// The parent's id.
    pub chain: Hash,
    /// The parent's quant.
    pub index: Height,
    /// That quant's hash.
    pub hash: Hash,
}

/// The rules of a chain.
#[derive(Clone)]
pub struct Rules {
    name: ChainName,
    difficulty: u8,
    schema: Option<Schema>,
    max_bytes: u64,
    writers: Option<Vec<[u8; 32]>>,
    fork_of: Option<ForkOf>,
}

/// Why a chain's rules refuse a submission.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its data has more canonical bytes than the chain takes.
    TooLarge {
        /// Bytes of the canonical data.
        bytes: usize,
        /// The chain's `max_bytes`.
        max: u64,
    },
    /// The data does not meet the chain's schema; pointers are into the data.
    Schema(Vec<Fault>),
    /// The chain takes signed transactions only.
    Unsigned,
    /// The signer is not one of the chain's writers.
    NotAWriter,
    /// The signature is not the signer's over this data for this chain.
    BadSignature,
}

impl Refusal {
    /// In a sentence, of a transaction that is recorded already.
    pub fn recorded(&self) -> String {
        match self {
            Refusal::TooLarge { bytes, max } => format!("its data has {bytes} bytes, the rules allow {max}"),
            Refusal::Schema(faults) => {
                format!("its data breaks the schema at {:?}: {}", faults[0].pointer, faults[0].detail)
            }
            Refusal::Unsigned => "it is not signed, but the chain has writers".into(),
            Refusal::NotAWriter => "its signer is not one of the chain's writers".into(),
            Refusal::BadSignature => "its signature is not its signer's".into(),
        }
    }
}

impl Rules {
    /// The highest difficulty that a chain may ask for, in zero bits.
    pub const DIFFICULTY_LIMIT: u8 = 48;
    /// The difficulty of a chain whose bang does not say.
    pub const DIFFICULTY_DEFAULT: u8 = 12;

    /// The rules of a new chain that says nothing but its name.
    pub fn new(name: ChainName) -> Self {
        Rules {
            name,
            difficulty: Self::DIFFICULTY_DEFAULT,
            schema: None,
            max_bytes: limits::MAX_BYTES_DEFAULT,
            writers: None,
            fork_of: None,
        }
    }

    /// The rules of a fork of this chain at one of its quants, before it changes any.
    pub fn fork(&self, name: ChainName, of: ForkOf) -> Self {
        Rules { name, fork_of: Some(of), ..self.clone() }
    }

    /// These rules, with those that `fields` sets.
    ///
    /// # Errors
    /// Every field that is unknown or malformed.
    pub fn amend(mut self, fields: Map<String, Value>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        for (name, value) in fields {
            if let Err(fault) = self.set(&name, value) {
                faults.push(fault);
            }
        }
        let bytes = json::canonical(&self.to_value()).len();
        if faults.is_empty() && bytes > limits::RULES_BYTES {
            let detail = format!("the rules have {bytes} bytes, at most {} are allowed", limits::RULES_BYTES);
            faults.push(Fault { pointer: String::new(), detail });
        }
        if faults.is_empty() { Ok(self) } else { Err(faults) }
    }

    fn set(&mut self, name: &str, value: Value) -> Result<(), Fault> {
        let whole = |limit: u64, least: u64| {
            let number = value.as_u64().filter(|number| (least..=limit).contains(number));
            number.ok_or_else(|| Fault::of(name, format!("must be a whole number from {least} to {limit}")))
        };
        match name {
            "difficulty" => self.difficulty = whole(Self::DIFFICULTY_LIMIT.into(), 0)? as u8,
            "max_bytes" => self.max_bytes = whole(limits::MAX_BYTES_LIMIT, 1)?,
            "schema" => {
                self.schema = match value {
                    Value::Null => None,
                    Value::Object(_) | Value::Bool(_) => Some(Schema::compile(value)?),
                    _ => return Err(Fault::of(name, "must be a JSON Schema, that is an object or a boolean, or null")),
                }
            }
            "writers" => self.writers = parse_writers(&value)?,
            _ => {
                let known = "the rules are difficulty, schema, max_bytes and writers";
                return Err(Fault::of(name, format!("unknown field: {known}")));
            }
        }
        Ok(())
    }

    /// These rules with other writers, as they stand in rules, of whom there is one at least.
    ///
    /// # Errors
    /// What is malformed.
    pub fn with_writers(self, writers: &Value) -> Result<Self, Vec<Fault>> {
        if writers.is_null() {
            return Err(vec![Fault::of(
                "writers",
                "must name one key at least: a chain with writers keeps to having some",
            )]);
        }
        self.amend(Map::from_iter([("writers".to_owned(), writers.clone())]))
    }

    /// The rules that stand in a bang.
    ///
    /// # Errors
    /// Every field that is missing, unknown or malformed.
    pub fn from_value(value: &Value) -> Result<Self, Vec<Fault>> {
        let Value::Object(mut fields) = value.clone() else {
            return Err(vec![Fault { pointer: String::new(), detail: "rules are an object".into() }]);
        };
        let name = fields.remove("name").unwrap_or_default();
        let name = name.as_str().unwrap_or_default().parse().map_err(|error: &str| vec![Fault::of("name", error)])?;
        let fork_of = match fields.remove("fork_of") {
            None | Some(Value::Null) => None,
            Some(value) => Some(parse_fork_of(&value).ok_or_else(|| {
                vec![Fault::of("fork_of", "must be {\"chain\", \"index\", \"hash\"} of the parent's quant, or null")]
            })?),
        };
        Rules { fork_of, ..Rules::new(name) }.amend(fields)
    }

    /// As they stand in a bang: all six fields.
    pub fn to_value(&self) -> Value {
        let writers = self.writers.as_ref().map(|writers| writers.iter().map(hex::encode).collect::<Vec<_>>());
        let fork_of = self
            .fork_of
            .as_ref()
            .map(|of| json!({"chain": of.chain.to_string(), "index": of.index, "hash": of.hash.to_string()}));
        json!({
            "name": self.name.as_str(),
            "difficulty": self.difficulty,
            "schema": self.schema.as_ref().map(Schema::source),
            "max_bytes": self.max_bytes,
            "writers": writers,
            "fork_of": fork_of,
        })
    }

    /// The chain's name.
    pub fn name(&self) -> &ChainName {
        &self.name
    }

    /// The public keys of those who may write, where not everyone may.
    pub fn writers(&self) -> Option<&[[u8; 32]]> {
        self.writers.as_deref()
    }

    /// Zero bits of every quant's hash.
    pub fn difficulty(&self) -> u8 {
        self.difficulty
    }

    /// The quant that the chain goes on from, if it is a fork.
    pub fn fork_of(&self) -> Option<&ForkOf> {
        self.fork_of.as_ref()
    }

    /// Whether the chain with the id `chain` takes a submission. `value` is what its data denotes.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn check(&self, chain: Hash, submission: &Submission, value: &Value) -> Result<(), Refusal> {
        let Submission { data, id, signed } = submission;
        self.check_recorded(chain, data, id.as_ref(), signed.as_ref(), || value)
    }

    /// The same for data that is recorded already. Its value is made only where there is a schema.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn check_recorded<V: Borrow<Value>>(
        &self,
        chain: Hash,
        data: &[u8],
        id: Option<&Id>,
        signed: Option<&Signed>,
        value: impl FnOnce() -> V,
    ) -> Result<(), Refusal> {
        if data.len() as u64 > self.max_bytes {
            return Err(Refusal::TooLarge { bytes: data.len(), max: self.max_bytes });
        }
        if let Some(schema) = &self.schema {
            schema.check(value().borrow(), data.len()).map_err(Refusal::Schema)?;
        }
        self.check_signature(chain, None, data, id, signed)
    }

    /// Checks that one of the writers, where the chain has any, signed it as a transaction of this kind, and that a signature is
    /// its signer's.
    ///
    /// # Errors
    /// What is wrong with the signature.
    pub fn check_signature(
        &self,
        chain: Hash,
        kind: Option<Kind>,
        data: &[u8],
        id: Option<&Id>,
        signed: Option<&Signed>,
    ) -> Result<(), Refusal> {
        self.check_writer(signed)?;
        if signed.is_some_and(|signed| !signed.verifies(chain, kind, data, id)) {
            return Err(Refusal::BadSignature);
        }
        Ok(())
    }

    /// Whether the one who signed may write. It is all that can be checked of a transaction whose data is erased.
    ///
    /// # Errors
    /// Nobody signed, or a stranger did.
    pub fn check_writer(&self, signed: Option<&Signed>) -> Result<(), Refusal> {
        let Some(writers) = &self.writers else { return Ok(()) };
        let signer = signed.ok_or(Refusal::Unsigned)?.signer;
        if writers.contains(&signer) { Ok(()) } else { Err(Refusal::NotAWriter) }
    }
}

fn parse_writers(value: &Value) -> Result<Option<Vec<[u8; 32]>>, Fault> {
    let keys = match value {
        Value::Null => return Ok(None),
        Value::Array(keys) if !keys.is_empty() => keys,
        _ => return Err(Fault::of("writers", "must be an array of one or more hex Ed25519 public keys, or null")),
    };
    let mut writers = Vec::with_capacity(keys.len());
    for (at, key) in keys.iter().enumerate() {
        let key = take_hex(key.as_str().unwrap_or_default(), "key")
            .ok()
            .filter(|key| ed25519_dalek::VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak()))
            .ok_or_else(|| Fault {
                pointer: format!("/writers/{at}"),
                detail: "must be an Ed25519 public key in 64 lower-case hexadecimal digits".into(),
            })?;
        writers.push(key);
    }
    Ok(Some(writers))
}

fn parse_fork_of(value: &Value) -> Option<ForkOf> {
    let fields = value.as_object().filter(|fields| fields.len() == 3)?;
    Some(ForkOf {
        chain: fields.get("chain")?.as_str()?.parse().ok()?,
        index: fields.get("index")?.as_u64().map(Height::new)?,
        hash: fields.get("hash")?.as_str()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    fn rules(fields: Value) -> Rules {
        Rules::from_value(&fields).unwrap_or_else(|faults| panic!("{fields}: {faults:?}"))
    }

    fn pointers(fields: Value) -> Vec<String> {
        let faults = Rules::from_value(&fields).err().unwrap_or_else(|| panic!("{fields} were taken"));
        faults.into_iter().map(|fault| fault.pointer).collect()
    }

    fn submission(data: &Value, key: Option<&SigningKey>) -> Submission {
        let message = json!({"chain": Hash::ZERO.to_string(), "data": data});
        let signed = key.map(|key| Signed {
            signer: key.verifying_key().to_bytes(),
            signature: key.sign(&json::canonical(&message)).to_bytes(),
        });
        Submission { data: json::canonical(data), id: None, signed }
    }

    fn key_hex(key: &SigningKey) -> String {
        hex::encode(key.verifying_key().to_bytes())
    }

    #[test]
    fn names_are_safe_in_urls_keys_and_labels() {
        for name in ["a", "0", "a.b_c-d", "qbc", &"x".repeat(63)] {
            assert_eq!(name.parse::<ChainName>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", "-a", "_a", ".a", "A", "a/b", "a b", "ä", "a%2f", "a\0", &"x".repeat(64)] {
            assert!(name.parse::<ChainName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn rules_come_back_as_they_stand_in_a_bang() {
        let said_nothing = rules(json!({"name": "a"})).to_value();
        let defaults = json!({
            "name": "a", "difficulty": 12, "schema": null, "max_bytes": 1 << 20, "writers": null, "fork_of": null,
        });
        assert_eq!(said_nothing, defaults);
        assert_eq!(said_nothing, Rules::new("a".parse().unwrap()).to_value());
        let all = json!({
            "name": "a",
            "difficulty": 48,
            "schema": {"type": "object", "é": 1},
            "max_bytes": limits::MAX_BYTES_LIMIT,
            "writers": [key_hex(&SigningKey::from_bytes(&[1; 32]))],
            "fork_of": {"chain": Hash::ZERO, "index": 3, "hash": Hash::from_bytes([9; 32])},
        });
        assert_eq!(rules(all.clone()).to_value(), all);
        for schema in [json!(true), json!(false), json!({}), Value::Null] {
            assert_eq!(rules(json!({"name": "a", "schema": schema})).to_value()["schema"], schema);
        }
    }

    #[test]
    fn a_fork_keeps_what_it_does_not_change() {
        let parent = rules(json!({"name": "a", "difficulty": 3, "schema": {"type": "string"}, "max_bytes": 9}));
        let of = ForkOf { chain: Hash::ZERO, index: Height::new(2), hash: Hash::from_bytes([1; 32]) };
        let fields = json!({"max_bytes": 5, "schema": null}).as_object().unwrap().clone();
        let fork = parent.fork("b".parse().unwrap(), of.clone()).amend(fields).ok().unwrap();
        assert_eq!((fork.name().as_str(), fork.difficulty(), fork.fork_of()), ("b", 3, Some(&of)));
        assert_eq!((&fork.to_value()["max_bytes"], &fork.to_value()["schema"]), (&json!(5), &Value::Null));
        // Whose fork it is cannot be amended.
        for field in ["name", "fork_of"] {
            let fields = Map::from_iter([(field.to_owned(), json!("c"))]);
            assert_eq!(fork.clone().amend(fields).err().unwrap()[0].pointer, format!("/{field}"));
        }
    }

    #[test]
    fn each_malformed_field_is_named() {
        let [weak, off_the_curve] = ["01", "02"].map(|byte| byte.to_owned() + &"0".repeat(62));
        let key = key_hex(&SigningKey::from_bytes(&[1; 32]));
        for (field, value, pointer) in [
            ("difficulty", json!(49), "/difficulty"),
            ("difficulty", json!(-1), "/difficulty"),
            ("difficulty", json!(1.5), "/difficulty"),
            ("difficulty", json!("3"), "/difficulty"),
            ("difficulty", json!(256), "/difficulty"),
            ("difficulty", Value::Null, "/difficulty"),
            ("max_bytes", json!(0), "/max_bytes"),
            ("max_bytes", json!(limits::MAX_BYTES_LIMIT + 1), "/max_bytes"),
            ("schema", json!("{}"), "/schema"),
            ("schema", json!([]), "/schema"),
            ("schema", json!({"type": "objekt"}), "/schema/type"),
            ("writers", json!([]), "/writers"),
            ("writers", json!(key), "/writers"),
            ("writers", json!([key, key.to_uppercase()]), "/writers/1"),
            ("writers", json!([key, 1]), "/writers/1"),
            ("writers", json!([weak]), "/writers/0"),
            ("writers", json!([off_the_curve]), "/writers/0"),
            ("fork_of", json!({"chain": Hash::ZERO, "index": 3}), "/fork_of"),
            ("fork_of", json!({"chain": Hash::ZERO, "index": -3, "hash": Hash::ZERO}), "/fork_of"),
            ("fork_of", json!({"chain": Hash::ZERO, "index": 3, "hash": Hash::ZERO, "x": 1}), "/fork_of"),
            ("name", json!("A"), "/name"),
            ("name", json!(1), "/name"),
            ("a/b~c", json!(1), "/a~1b~0c"),
        ] {
            let mut fields = json!({"name": "a"});
            fields[field] = value;
            assert_eq!(pointers(fields), [pointer]);
        }
        assert_eq!(pointers(json!({"name": "a", "difficulty": 99, "x": 1, "writers": 1})).len(), 3);
        assert_eq!(pointers(json!([])), [""]);
        assert_eq!(pointers(json!({})), ["/name"]);
        let too_many = vec![key; limits::RULES_BYTES / 66];
        assert_eq!(pointers(json!({"name": "a", "writers": too_many})), [""]);
    }

    #[test]
    fn each_rule_refuses_what_breaks_it() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let stranger = SigningKey::from_bytes(&[2; 32]);
        let check = |rules: &Rules, data: Value, key: Option<&SigningKey>| {
            rules.check(Hash::ZERO, &submission(&data, key), &data)
        };
        let open = rules(json!({"name": "a", "max_bytes": 5, "schema": {"minimum": 3}}));
        assert_eq!(check(&open, json!("abc"), None), Ok(()));
        assert_eq!(check(&open, json!("abcd"), None), Err(Refusal::TooLarge { bytes: 6, max: 5 }));
        assert!(matches!(check(&open, json!(2), None), Err(Refusal::Schema(faults)) if faults[0].pointer.is_empty()));
        assert_eq!(check(&open, json!(3), Some(&stranger)), Ok(()));

        let closed = rules(json!({"name": "a", "writers": [key_hex(&key)]}));
        assert_eq!(check(&closed, json!(1), None), Err(Refusal::Unsigned));
        assert_eq!(check(&closed, json!(1), Some(&stranger)), Err(Refusal::NotAWriter));
        assert_eq!(check(&closed, json!(1), Some(&key)), Ok(()));
        // A signature that is given must hold, whether the chain asks for one or not.
        for rules in [&open, &closed] {
            let forged = Submission { data: b"3".to_vec(), ..submission(&json!(4), Some(&key)) };
            assert_eq!(rules.check(Hash::ZERO, &forged, &json!(3)), Err(Refusal::BadSignature));
            let elsewhere = rules.check(Hash::from_bytes([1; 32]), &submission(&json!(3), Some(&key)), &json!(3));
            assert_eq!(elsewhere, Err(Refusal::BadSignature));
        }
    }

    /// A refused value never appears in what is told of it: it may be secret, and it may be large.
    #[test]
    fn faults_of_a_value_do_not_repeat_it() {
        let rules = rules(json!({"name": "a", "schema": {"properties": {"a": {"type": "integer", "enum": [1]}}}}));
        let value = json!({"a": "secret"});
        let Err(Refusal::Schema(faults)) = rules.check(Hash::ZERO, &submission(&value, None), &value) else {
            panic!("the schema was not checked")
        };
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().all(|fault| fault.pointer == "/a" && !fault.detail.contains("secret")), "{faults:?}");
    }
}
