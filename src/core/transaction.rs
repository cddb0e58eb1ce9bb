//! A transaction: one JSON value with its identity and time, its commitment and its leaf.

use std::{fmt, ops::Range, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Map, Value};

use super::{
    hash::{self, Hash},
    json,
};

/// A moment in UTC, in whole microseconds, written as RFC 3339 with six digits: `2026-11-22T11:49:07.123456Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// From microseconds since 1970 in UTC. `None` outside of the years 0000 to 9999, which RFC 3339 cannot write.
    pub fn from_micros(micros: i64) -> Option<Self> {
        let moment = DateTime::from_timestamp_micros(micros)?;
        (0..=9999).contains(&chrono::Datelike::year(&moment)).then_some(Timestamp(moment))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .and_then(|moment| Timestamp::from_micros(moment.timestamp_micros()))
            .filter(|moment| moment.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no time like 2026-11-22T11:49:07.123456Z"))
    }
}

/// A client's own name for a transaction: 1 to 128 printable ASCII characters without space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.len() {
            1..=128 if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Id(text.into())),
            _ => Err("an id is 1 to 128 printable ASCII characters without space"),
        }
    }
}

/// What the node itself records. Clients cannot make such transactions, so they cannot fake one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The rules of a chain, its first own transaction.
    Bang,
    /// The record that another transaction was erased.
    Erasure,
}

impl Kind {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Bang => "bang",
            Kind::Erasure => "erasure",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Kind::Bang, Kind::Erasure]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no kind of transaction: \"bang\" and \"erasure\" are"))
    }
}

/// A writer's key and its signature (Ed25519, RFC 8032), not yet checked against a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The writer's public key.
    pub signer: [u8; 32],
    /// Over the canonical JSON of `{"chain", "data", "id"?}`.
    pub signature: [u8; 64],
}

impl Signed {
    /// Whether the signature is the signer's over this data for this chain. Keys of small order are refused, so that a
    /// signature speaks for one message only.
    pub fn verifies(&self, chain: Hash, data: &[u8], id: Option<&Id>) -> bool {
        let mut message = Vec::with_capacity(data.len() + 128);
        message.extend_from_slice(b"{\"chain\":\"");
        message.extend_from_slice(&chain.to_hex());
        message.extend_from_slice(b"\",\"data\":");
        message.extend_from_slice(data);
        if let Some(id) = id {
            message.extend_from_slice(b",\"id\":");
            json::write_string(id.as_str(), &mut message);
        }
        message.push(b'}');
        VerifyingKey::from_bytes(&self.signer)
            .is_ok_and(|key| key.verify_strict(&message, &Signature::from_bytes(&self.signature)).is_ok())
    }
}

/// What a client asks to record: valid I-JSON in canonical bytes, and how the client names and signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The value's RFC 8785 bytes.
    pub data: Vec<u8>,
    /// The client's name for it.
    pub id: Option<Id>,
    /// Who wrote it.
    pub signed: Option<Signed>,
}

/// A transaction as it is recorded: everything but its place.
///
/// Its fields cannot be changed, since its hash speaks for them.
#[derive(Clone, Debug)]
pub struct Transaction {
    id: Option<Id>,
    timestamp: Timestamp,
    hash: Hash,
    signer: Option<[u8; 32]>,
    /// The record as it is stored and served, from behind the number of the index on.
    tail: Vec<u8>,
    /// Where its data stands in `tail`.
    data: Range<usize>,
}

impl Transaction {
    /// Records a submission at a moment. The salt must be random: it hides erased data (FORMAT: commitment).
    pub fn new(submission: Submission, kind: Option<Kind>, timestamp: Timestamp, salt: [u8; 16]) -> Self {
        let Submission { data, id, signed } = submission;
        let time = timestamp.to_string();
        let leaf = Leaf {
            commitment: hash::commitment(&salt, &data),
            id: id.as_ref(),
            kind,
            signed: signed.as_ref(),
            timestamp: &time,
        };
        let hash = leaf.hash();

        let mut tail = Vec::with_capacity(data.len() + 384);
        leaf.write_names(&mut tail);
        tail.extend_from_slice(b",\"timestamp\":\"");
        tail.extend_from_slice(time.as_bytes());
        tail.push(b'"');
        leaf.write_signature(&mut tail);
        tail.extend_from_slice(b",\"data\":");
        let start = tail.len();
        tail.extend_from_slice(&data);
        let data = start..tail.len();
        tail.extend_from_slice(b",\"salt\":\"");
        let mut digits = [0; 32];
        hex::encode_to_slice(salt, &mut digits).expect("16 bytes are 32 digits");
        tail.extend_from_slice(&digits);
        tail.extend_from_slice(b"\",\"hash\":\"");
        tail.extend_from_slice(&hash.to_hex());
        tail.extend_from_slice(b"\"}");
        Transaction { timestamp, hash, signer: signed.as_ref().map(|signed| signed.signer), id, tail, data }
    }

    /// Its canonical data.
    pub fn data(&self) -> &[u8] {
        &self.tail[self.data.clone()]
    }

    /// Who signed it.
    pub fn signer(&self) -> Option<[u8; 32]> {
        self.signer
    }

    /// The client's name for it.
    pub fn id(&self) -> Option<&Id> {
        self.id.as_ref()
    }

    /// When a node accepted it.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Its Merkle leaf hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Bytes of its record, but for the digits of the index.
    pub fn record_bytes(&self) -> usize {
        RECORD_START.len() + self.tail.len()
    }

    /// Appends its record at this index: the JSON object that is stored and served.
    pub fn write_record(&self, index: u64, out: &mut Vec<u8>) {
        use std::io::Write;
        out.extend_from_slice(RECORD_START);
        write!(out, "{index}").expect("writing to memory does not fail");
        out.extend_from_slice(&self.tail);
    }
}

const RECORD_START: &[u8] = b"{\"index\":";

/// The leaf hash that stands in a stored record, without parsing it: each record ends with it.
pub fn record_hash(record: &[u8]) -> Option<Hash> {
    let digits = record.strip_suffix(b"\"}")?;
    std::str::from_utf8(&digits[digits.len().checked_sub(64)?..]).ok()?.parse().ok()
}

/// What the Merkle tree commits to of a transaction.
struct Leaf<'a> {
    commitment: Hash,
    id: Option<&'a Id>,
    kind: Option<Kind>,
    signed: Option<&'a Signed>,
    timestamp: &'a str,
}

impl Leaf<'_> {
    fn hash(&self) -> Hash {
        let mut leaf = Vec::with_capacity(512);
        leaf.extend_from_slice(b"{\"commitment\":\"");
        leaf.extend_from_slice(&self.commitment.to_hex());
        leaf.push(b'"');
        self.write_names(&mut leaf);
        self.write_signature(&mut leaf);
        leaf.extend_from_slice(b",\"timestamp\":\"");
        leaf.extend_from_slice(self.timestamp.as_bytes());
        leaf.extend_from_slice(b"\"}");
        hash::leaf(&leaf)
    }

    fn write_names(&self, out: &mut Vec<u8>) {
        if let Some(id) = self.id {
            out.extend_from_slice(b",\"id\":");
            json::write_string(id.as_str(), out);
        }
        if let Some(kind) = self.kind {
            out.extend_from_slice(b",\"kind\":\"");
            out.extend_from_slice(kind.as_str().as_bytes());
            out.push(b'"');
        }
    }

    fn write_signature(&self, out: &mut Vec<u8>) {
        if let Some(signed) = self.signed {
            out.extend_from_slice(b",\"signature\":\"");
            out.extend_from_slice(hex::encode(signed.signature).as_bytes());
            out.extend_from_slice(b"\",\"signer\":\"");
            out.extend_from_slice(hex::encode(signed.signer).as_bytes());
            out.push(b'"');
        }
    }
}

/// A transaction as somebody serves it: its form is checked and its hash recomputed, its place is not known yet.
#[derive(Clone, Debug)]
pub struct Record {
    /// The place that it claims.
    pub index: u64,
    /// The client's name for it.
    pub id: Option<Id>,
    /// What the node recorded, absent for what clients inject.
    pub kind: Option<Kind>,
    /// Who wrote it. Not checked yet: that needs the chain.
    pub signed: Option<Signed>,
    /// When a node accepted it.
    pub timestamp: Timestamp,
    /// Its data, or nothing if it was erased.
    pub data: Option<Value>,
    /// The leaf hash, recomputed from all of the above.
    pub hash: Hash,
}

impl Record {
    /// Parses and recomputes a served transaction.
    ///
    /// # Errors
    /// A sentence that says which field is missing, unknown, malformed or does not match its hash.
    pub fn parse(text: &[u8]) -> Result<Record, String> {
        Record::from_value(json::parse(text).map_err(|error| error.to_string())?)
    }

    /// The same for a value that came through [`json::parse`] as a part of something larger.
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub fn from_value(value: Value) -> Result<Record, String> {
        let Value::Object(mut fields) = value else {
            return Err("a transaction is an object".into());
        };
        let index = fields.remove("index").and_then(|index| index.as_u64()).ok_or("\"index\" is not a whole number")?;
        let id = take_text(&mut fields, "id")?.map(|id| id.parse::<Id>()).transpose()?;
        let kind = take_text(&mut fields, "kind")?.map(|kind| kind.parse::<Kind>()).transpose()?;
        let timestamp: Timestamp = take_text(&mut fields, "timestamp")?.ok_or("\"timestamp\" is missing")?.parse()?;
        let signed = take_signed(&mut fields).map_err(|(_, detail)| detail)?;
        let claimed: Hash = take_hash(&mut fields, "hash")?.ok_or("\"hash\" is missing")?;
        let data = fields.remove("data");
        let commitment = match (&data, take_text(&mut fields, "salt")?) {
            (Some(data), Some(salt)) => hash::commitment(&take_hex(&salt, "salt")?, &json::canonical(data)),
            (None, None) => {
                fields.remove("erased").ok_or("there is neither \"data\" nor \"erased\"")?;
                take_hash(&mut fields, "commitment")?.ok_or("\"commitment\" is missing")?
            }
            _ => return Err("of \"data\" and \"salt\" one is missing".into()),
        };
        // Where it stands is no part of it, and is served beside it by some routes.
        fields.retain(|name, _| name != "state" && name != "quant");
        if let Some(name) = fields.keys().next() {
            return Err(format!("{name:?} is no field of a transaction"));
        }
        let time = timestamp.to_string();
        let leaf = Leaf { commitment, id: id.as_ref(), kind, signed: signed.as_ref(), timestamp: &time };
        let hash = leaf.hash();
        if hash != claimed {
            return Err(format!("\"hash\" is {claimed}, but its content hashes to {hash}"));
        }
        Ok(Record { index, id, kind, signed, timestamp, data, hash })
    }
}

/// Takes `signer` and `signature` out of an object: both or neither.
///
/// # Errors
/// The field at fault, and a sentence: one stands without the other, or is no lower-case hexadecimal digits of the right
/// number.
pub fn take_signed(fields: &mut Map<String, Value>) -> Result<Option<Signed>, (&'static str, String)> {
    let mut take = |name| take_text(fields, name).map_err(|detail| (name, detail));
    match (take("signer")?, take("signature")?) {
        (Some(signer), Some(signature)) => Ok(Some(Signed {
            signer: take_hex(&signer, "signer").map_err(|detail| ("signer", detail))?,
            signature: take_hex(&signature, "signature").map_err(|detail| ("signature", detail))?,
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(("signer", "\"signer\" stands without \"signature\"".into())),
        (None, Some(_)) => Err(("signature", "\"signature\" stands without \"signer\"".into())),
    }
}

/// Takes a text out of an object.
///
/// # Errors
/// The value is no text.
pub fn take_text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name:?} is not a text")),
    }
}

fn take_hash(fields: &mut Map<String, Value>, name: &str) -> Result<Option<Hash>, String> {
    let text = take_text(fields, name)?;
    text.map(|text| text.parse().map_err(|error| format!("{name:?}: {error}"))).transpose()
}

/// Bytes from lower-case hexadecimal digits, exactly as many as are needed.
///
/// # Errors
/// Other characters, or another number of them.
pub fn take_hex<const N: usize>(text: &str, name: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if !text.bytes().any(|byte| byte.is_ascii_uppercase()) => Ok(bytes),
        _ => Err(format!("{name:?} is not {} lower-case hexadecimal digits", 2 * N)),
    }
}
